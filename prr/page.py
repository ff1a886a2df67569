"""One self-contained HTML page out of tables: no script, no network, readable on a phone, in print and in the dark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader
from markupsafe import Markup

_TEMPLATES = Environment(loader=PackageLoader("prr", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True)
_BAR = Environment(autoescape=True).from_string(
    '<svg class="bar {{ style }}" viewBox="0 0 120 14" role="img" aria-label="{{ label }}">'
    '{% for kind, left, right in parts %}<rect class="{{ kind }}" x="{{ left }}" width="{{ right - left }}" '
    '{% if kind == \'band\' %}y="0" height="14"{% else %}y="5" height="4"{% endif %}/>{% endfor %}'
    '{% if dot is not none %}<circle cx="{{ dot }}" cy="7" r="3.5"/>{% endif %}</svg>'
)


VERDICTS = {"reusable": "reusable", "undecided": "undecided", "not reusable": "not-reusable"}  # and their styles


class Section(NamedTuple):
    """A heading, a paragraph and a table, each of whose cells is text, a number or a bar."""

    heading: str
    text: str
    table: pd.DataFrame


def render(
    title: str, answer: str, sections: list[Section], made: dict[str, object], notes: Sequence[str] = ()
) -> str:
    """The page as text.

    Args:
        title: of the page.
        answer: the result in a sentence or two, above everything else.
        sections: in order; one whose table is empty keeps its heading and paragraph.
        made: {what: value}, where the numbers come from; the last section.
        notes: what a reader should know first, each in a box below the answer.

    Example:
        >>> import pandas as pd
        >>> from prr.page import Section, render
        >>> table = pd.DataFrame({"kind": ["W"], "drop": [0.0123]})
        >>> html = render("Reuse", "One layer is reusable.", [Section("Layer by layer", "", table)], {"device": "cpu"})
        >>> html[:15], "0.012" in html
        ('<!doctype html>', True)
    """
    return _TEMPLATES.get_template("page.html").render(
        title=title, answer=answer, sections=sections, made=made, notes=notes, heads=_heads, rows=_rows
    )


def intervals(table: pd.DataFrame, tolerance: float) -> list[Markup | str]:
    """A bar for each row's drop and interval on one common scale; the band shows what counts as unchanged.

    Args:
        table: DataFrame[drop, low, high, verdict].
        tolerance: right end of the band.

    Example:
        >>> import pandas as pd
        >>> from prr.page import intervals
        >>> table = pd.DataFrame({"drop": [0.02], "low": [0.01], "high": [0.03], "verdict": ["reusable"]})
        >>> intervals(table, tolerance=0.1)
        [Markup('<svg class="bar reusable" ... aria-label="drop 0.020, interval 0.010 to 0.030, reusable">...</svg>')]
    """
    ends = table[["drop", "low", "high"]].replace([np.inf, -np.inf], np.nan)
    least, most = np.nanmin([*ends.to_numpy().ravel(), 0.0]), np.nanmax([*ends.to_numpy().ravel(), 1.5 * tolerance])
    places = (4 + 112 * (ends.assign(zero=0, end=tolerance) - least) / max(most - least, 1e-9)).round(1)
    drawn = []
    for row, place, verdict in zip(ends.itertuples(), places.itertuples(), table["verdict"], strict=True):
        parts = [("band", place.zero, place.end)]
        if pd.notna(place.low) and pd.notna(place.high):
            parts.append(("range", place.low, place.high))
        dot = place.drop if pd.notna(place.drop) else None
        label = f"drop {row.drop:.3f}, interval {row.low:.3f} to {row.high:.3f}, {verdict}"
        drawn.append(Markup(_BAR.render(style=VERDICTS[verdict], label=label, parts=parts, dot=dot)))
    return drawn


def bars(values: pd.Series) -> list[Markup | str]:
    """A bar from 0 for each number, on one common scale; nothing for a number that is not finite."""
    finite = values[np.isfinite(values)]
    ends = (4 + 112 * finite / max(finite.max(), 1e-12)).round(1)
    drawn = {
        index: Markup(_BAR.render(style="plain", label=f"{finite[index]:.3g}", parts=[("range", 4, end)], dot=None))
        for index, end in ends.items()
    }
    return [drawn.get(index, "") for index in values.index]


def write(path: Path | str, text: str) -> None:
    """Write a file whole or not at all."""
    draft = (path := Path(path)).with_name(f"{path.name}.draft")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _heads(table: pd.DataFrame) -> list[tuple[str, str]]:
    """(style, text) of each column's head."""
    return [(_style(table[column]), column) for column in table.columns]


def _rows(table: pd.DataFrame) -> list[list[tuple[str, object]]]:
    """(style, text) of each cell; a cell that is a verdict has a style of its own."""
    styles = [_style(table[column]) for column in table.columns]
    return [
        [(VERDICTS.get(value, style), _shown(value)) for style, value in zip(styles, row, strict=True)]
        for row in table.itertuples(index=False, name=None)
    ]


def _style(column: pd.Series) -> str:
    number = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    return "number" if number else ""


def _shown(value: object) -> object:
    """A cell's value as text: shapes as 3 x 3, numbers to three decimals, what is missing as a dash."""
    if isinstance(value, tuple):
        return " x ".join(map(str, value))
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if value is None or value is pd.NA or value != value:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else value
