"""What a notebook shows beside figures: tables that can be saved, sentences, the ledger."""

import base64
import io
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from prr.study import display
from prr.study.display import Box, Download, Ledger, Words, ranged


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


def test_the_ledger_links_its_chapter_and_escapes_its_text():
    row = {"where": "Fig. 3", "claim": "a < b", "found": "a is 1 & b is 2.", "behind": "phantom, 1 seed", "remark": ""}
    row |= {"equal": ""}
    rows = [
        {**row, "verdict": "can't tell", "page": "03_unet"},
        {**row, "verdict": "as the paper says", "page": ""},
    ]
    text = Ledger(pd.DataFrame(rows))._repr_html_()
    assert text.count('<a href="03_unet.html">chapter 3</a>') == text.count("<a ") == 1
    assert "a &lt; b" in text
    assert "a < b" not in text
    for shown in ("as the paper says", "a is 1 &amp; b is 2.", "phantom, 1 seed"):
        assert f"{shown}</" in text
    assert "still true" not in text
    rows[0]["equal"] = "still true. All 2 tests agree."
    assert "still true. All 2 tests agree." in Ledger(pd.DataFrame(rows))._repr_html_()


def test_a_box_is_false_and_shows_nothing_where_it_is_empty():
    assert not Box()
    assert Box()._repr_html_() == ""
    shown = Box("UNet < 0.78")._repr_html_()
    assert "admonition" in shown
    assert "UNet &lt; 0.78" in shown


@pytest.mark.parametrize(
    ("limits", "told"), [((-0.1, 0.36), "0.00 [-0.10, 0.36] over seeds"), ((np.nan, np.nan), "0.00")]
)
def test_a_number_is_told_with_its_limits_and_what_they_resample(limits, told):
    assert ranged(-0.001, *limits, "seeds") == told


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
