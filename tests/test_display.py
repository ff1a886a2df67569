"""What a notebook shows beside figures: tables that can be saved, sentences, the ledger."""

import base64
import io
from html.parser import HTMLParser

import pandas as pd
import pytest

from prr.study import display
from prr.study.display import Download, Ledger, Words


def a_table():
    return pd.DataFrame({"kind": ["W", "W", "RM"], "layer": [1, 2, 1], "drop": [0.1, 1 / 3, -2e-17]})


class Link(HTMLParser):
    """Attributes and text of the one link in a piece of HTML, as a browser takes them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words = [], ""
        self.feed(text)
        ((_, self.attributes),) = self.tags

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.words += data

    @property
    def content(self):
        return base64.b64decode(self.attributes["href"].removeprefix("data:text/csv;base64,")).decode()


@pytest.mark.parametrize("note", ["profile smoke · seed 0", "", "first line\nkind,layer", "a\r\nb"])
def test_a_download_is_a_csv_that_pandas_reads_back(note):
    table = a_table().assign(name='a, "b" µ')
    link = Link(Download(table, "fig03.csv", note)._repr_html_())
    assert link.attributes["download"] == "fig03.csv"
    pd.testing.assert_frame_equal(
        pd.read_csv(io.StringIO(link.content), comment="#"), table, check_exact=False, rtol=1e-15
    )


def test_a_download_starts_with_its_note():
    link = Link(Download(a_table(), "fig03.csv", "seed 7")._repr_html_())
    assert link.content.splitlines()[0] == "# seed 7"


def test_a_downloads_name_is_escaped():
    name = '"><script>alert(1)</script>&.csv'
    link = Link(Download(a_table(), name)._repr_html_())
    assert [tag for tag, _ in link.tags] == ["a"]
    assert link.attributes["download"] == name
    assert name in link.words


def test_words_are_shown_as_markdown():
    words = Words("**bold**")
    assert words == words._repr_markdown_() == "**bold**"


def test_the_ledger_shows_what_an_analogue_would_be_links_its_chapter_and_escapes_its_text():
    row = {"where": "Fig. 3", "claim": "a < b", "leaves": 4, "reason": "because", "remark": "", "here": "reproduced"}
    row |= {"equal": ""}
    rows = [
        {**row, "verdict": "analogue only", "page": "03_unet"},
        {**row, "verdict": "reproduced", "page": ""},
    ]
    text = Ledger(pd.DataFrame(rows))._repr_html_()
    assert "analogue only: reproduced" in text
    assert text.count('<a href="03_unet.html">chapter 3</a>') == text.count("<a ") == 1
    assert "a &lt; b" in text
    assert "a < b" not in text
    assert "reproduced: reproduced" not in text


def test_what_is_shown_comes_with_the_link_that_saves_its_table(monkeypatch):
    shown = []
    monkeypatch.setattr(display, "display", lambda *objects: shown.extend(objects))
    display.show("a figure", "fig03.csv", a_table(), "seed 7")
    figure, link = shown
    assert figure == "a figure"
    assert Link(link._repr_html_()).content == Link(Download(a_table(), "fig03.csv", "seed 7")._repr_html_()).content


def test_a_page_is_saved_as_it_is():
    link = Link(Download("<p>1 < 2</p>", "verdict.html")._repr_html_())
    assert base64.b64decode(link.attributes["href"].partition("base64,")[2]).decode() == "<p>1 < 2</p>"
    assert link.attributes["href"].startswith("data:text/html;")
