"""The page: self-contained, escaped, a row for each row, bars that say and show the number; written whole or not."""

from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from prr.page import VERDICTS, Section, bars, intervals, render, write

few = settings(max_examples=50, deadline=None)
WIDTH = 120
ALONE = {"meta", "rect", "circle"}  # never closed, or closed in themselves
numbers = st.floats(-1e6, 1e6) | st.sampled_from([np.nan, np.inf, -np.inf])


class Element(NamedTuple):
    """A tag as it opened, and the text below it."""

    tag: str
    attributes: dict
    texts: list

    @property
    def text(self) -> str:
        return "".join(self.texts).strip()


class Reader(HTMLParser):
    """Reads a page into a flat list of elements, in order; tags have to be closed in turn."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open = [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append(Element(tag, dict(attrs), []))
        if tag not in ALONE:
            self.open.append(self.elements[-1])

    def handle_startendtag(self, tag, attrs):
        self.elements.append(Element(tag, dict(attrs), []))

    def handle_endtag(self, tag):
        assert self.open.pop().tag == tag

    def handle_data(self, data):
        for element in self.open:
            element.texts.append(data)

    def __getitem__(self, tag):
        return [element for element in self.elements if element.tag == tag]


def swept(drops, margin=0.1):
    drops = np.array(drops, float)
    verdicts = np.resize(list(VERDICTS), len(drops))
    return pd.DataFrame({"drop": drops, "low": drops - margin, "high": drops + margin, "verdict": verdicts})


def page(table, **given):
    options = {"title": "Title", "answer": "Answer.", "sections": [Section("Heading", "Text.", table)], "made": {}}
    return render(**options | given)


def places(bar):
    """The ends of a bar's parts, and its dot, as numbers."""
    read = Reader(bar)
    rectangles = {
        each.attributes["class"]: (
            float(each.attributes["x"]),
            float(each.attributes["x"]) + float(each.attributes["width"]),
        )
        for each in read["rect"]
    }
    return rectangles, [float(each.attributes["cx"]) for each in read["circle"]]


def everything():
    table = swept([0.0, 0.3, -0.2]).assign(name=["conv1", "layer1.0", ""], shape=[(3, 3), (1,), None])
    table["bar"], table["length"] = intervals(table, 0.05), bars(table["drop"])
    return page(table, made={"device": "cpu"})


def test_the_page_needs_nothing_but_itself():
    text = everything()
    read = Reader(text)
    assert text.startswith("<!doctype html>")
    assert "http" not in text
    assert "url(" not in text
    assert "@import" not in text
    assert not {"script", "link", "img", "iframe", "object"} & {element.tag for element in read.elements}
    assert not {"src", "href", "style", "onload", "onclick"} & {
        name for element in read.elements for name in element.attributes
    }


def test_the_page_tells_readers_what_it_is():
    read = Reader(everything())
    assert read["html"][0].attributes["lang"] == "en"
    assert read["title"][0].text == read["h1"][0].text == "Title"
    assert [each.text for each in read["h2"]] == ["Heading", "Where this comes from"]
    assert {each.attributes.get("name") for each in read["meta"]} >= {"viewport", "color-scheme"}
    assert all(each.attributes["scope"] == "col" for each in read["th"])
    assert read["dt"][0].text == "device"
    assert read["dd"][0].text == "cpu"


def test_names_are_shown_as_they_are_and_never_become_tags():
    odd = "<script>alert(1)</script>&amp;\"'"
    table = pd.DataFrame({odd: [odd]})
    text = page(table, title=odd, answer=odd, sections=[Section(odd, odd, table)], made={odd: odd})
    read = Reader(text)
    assert not read["script"]
    for tag in ("title", "h1", "th", "td", "dt", "dd"):
        assert read[tag][0].text == odd
    assert [each.text for each in read["p"]] == [odd, odd]
    assert read["h2"][0].text == read["div"][0].attributes["aria-label"] == odd


@few
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zs", "Zl", "Zp"])), max_size=5))
def test_there_is_a_row_for_each_row_with_its_cells_in_order(names):
    table = pd.DataFrame({"name": pd.Series(names, dtype=object), "number": range(len(names))})
    read = Reader(page(table))
    assert len(read["tr"]) == (len(names) + 1 if names else 0)
    assert [each.text for each in read["td"]] == [
        text for place, name in enumerate(names) for text in (name, str(place))
    ]


def test_an_empty_table_keeps_its_heading_and_text():
    read = Reader(page(pd.DataFrame(columns=["name"])))
    assert read["h2"][0].text == "Heading"
    assert [each.text for each in read["p"]] == ["Answer.", "Text."]
    assert not read["table"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ((64, 3, 7, 7), "64 x 3 x 7 x 7"),
        ((), ""),
        (0.12345, "0.123"),
        (float("inf"), "inf"),
        (float("nan"), "–"),
        (None, "–"),
        (pd.NA, "–"),
        (pd.NaT, "–"),
        (np.True_, "yes"),
        (False, "no"),
        (7, "7"),
        ("reusable", "reusable"),
    ],
)
def test_a_cell_by_hand(value, text):
    (cell,) = Reader(page(pd.DataFrame({"value": pd.Series([value], dtype=object)})))["td"]
    assert cell.text == text


def test_numbers_are_set_right_and_verdicts_by_their_style():
    cells = Reader(page(pd.DataFrame({"n": [1, 2, 3], "v": list(VERDICTS), "yes": [True, False, True]})))["td"]
    styles = [each.attributes.get("class") for each in cells]
    assert styles == [style for verdict in VERDICTS.values() for style in ("number", verdict, None)]
    assert Reader(page(pd.DataFrame({"n": [1], "t": ["a"]})))["th"][0].attributes["class"] == "number"


@few
@given(st.lists(numbers, min_size=1, max_size=8), st.floats(0, 10), st.sampled_from([0.0, 0.5, np.nan, np.inf]))
def test_interval_bars_stay_in_their_box_and_in_order(drops, tolerance, margin):
    assume(np.isfinite(drops).any())
    with np.errstate(invalid="ignore"):  # inf - inf
        table = swept(drops, margin)
    drawn = intervals(table, tolerance)
    assert len(drawn) == len(drops)
    dots = []
    for drop, bar in zip(drops, drawn, strict=True):
        rectangles, circle = places(bar)
        assert len(circle) == np.isfinite(drop)
        for left, right in [*rectangles.values(), *zip(circle, circle, strict=True)]:
            assert 0 <= left <= right + 1e-9 <= WIDTH + 1e-9
        dots += [(drop, *circle)] if circle else []
        if circle and "range" in rectangles:
            assert rectangles["range"][0] <= circle[0] <= rectangles["range"][1] + 1e-9
    assert [place for _, place in sorted(dots)] == sorted(place for _, place in dots)


def test_intervals_share_one_scale_with_a_band_from_0_to_the_tolerance():
    drawn = [places(bar) for bar in intervals(swept([-0.4, 0.0, 0.2, 0.6], margin=0.0), 0.2)]
    (first, zero, tolerated, last) = [dot for _, (dot,) in drawn]
    for rectangles, _ in drawn:
        assert rectangles["band"] == pytest.approx((zero, tolerated))
    assert (first, last) == (4, 116)
    assert (zero, tolerated) == pytest.approx((4 + 112 * 0.4, 4 + 112 * 0.6), abs=0.1)


def test_interval_bars_say_what_they_show():
    table = swept([0.1, np.nan, 0.5])
    read = [Reader(bar)["svg"][0].attributes for bar in intervals(table, 0.05)]
    assert [each["role"] for each in read] == ["img"] * 3
    assert [each["aria-label"] for each in read] == [
        "drop 0.100, interval 0.000 to 0.200, reusable",
        "drop nan, interval nan to nan, undecided",
        "drop 0.500, interval 0.400 to 0.600, not reusable",
    ]
    assert [each["class"] for each in read] == [f"bar {style}" for style in VERDICTS.values()]


def test_an_interval_that_is_missing_leaves_the_dot_alone():
    ((rectangles, dots),) = [places(bar) for bar in intervals(swept([0.1], margin=np.nan), 0.05)]
    assert rectangles.keys() == {"band"}
    assert len(dots) == 1


def test_tables_without_any_number_still_have_bars():
    for drops in ([np.nan], [np.inf, np.nan], []):
        for rectangles, dots in map(places, intervals(swept(drops, margin=np.nan), 0.05)):
            assert rectangles.keys() == {"band"}
            assert np.isfinite(rectangles["band"]).all()
            assert not dots


@few
@given(st.lists(st.floats(0, 1e6) | st.sampled_from([np.nan, np.inf]), max_size=8))
def test_bars_grow_with_their_number_and_are_left_out_without_one(values):
    drawn = bars(pd.Series(values, dtype=float, index=range(3, 3 + len(values))))
    assert [bool(bar) for bar in drawn] == np.isfinite(np.array(values, float)).tolist()
    ends = []
    for value, bar in zip(values, drawn, strict=True):
        if bar:
            ((left, right),) = places(bar)[0].values()
            assert left == 4
            assert 4 <= right <= WIDTH
            assert Reader(bar)["svg"][0].attributes["aria-label"] == f"{value:.3g}"
            ends.append((value, right))
    assert [right for _, right in sorted(ends)] == sorted(right for _, right in ends)


def test_the_largest_number_has_the_longest_bar_and_0_none():
    half, whole, nothing = [places(bar)[0]["range"] for bar in bars(pd.Series([1.0, 2.0, 0.0]))]
    assert [right - left for left, right in (half, whole, nothing)] == pytest.approx([56, 112, 0])


def test_a_file_is_written_in_utf_8_and_replaced(tmp_path):
    path = tmp_path / "page.html"
    for text in ("old", "new – é"):
        write(str(path), text)
        assert path.read_bytes() == text.encode()
    assert list(tmp_path.iterdir()) == [path]


def test_a_text_that_cannot_be_written_leaves_the_old_file_and_no_draft(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write(path, "new \ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_replaced_stays_and_leaves_no_draft(tmp_path, monkeypatch):
    def fails(*_):
        raise OSError("disk full")

    path = tmp_path / "page.html"
    path.write_text("old")
    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(OSError, match="disk full"):
        write(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_half_written_is_never_seen(tmp_path, monkeypatch):
    def half(self, text, **_):
        self.write_bytes(text.encode()[:2])
        raise OSError("disk full")

    path = tmp_path / "page.html"
    path.write_text("old")
    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(OSError, match="disk full"):
        write(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
