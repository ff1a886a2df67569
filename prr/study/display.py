"""What a notebook shows beside figures: sentences, tables that can be saved, the ledger."""

from __future__ import annotations

import base64
import html

import numpy as np
import pandas as pd
from IPython.display import display


class Words(str):
    """Text that a notebook shows as Markdown."""

    def _repr_markdown_(self) -> str:
        return str(self)


class Box(str):
    """A sentence that no reader may miss, shown as a box; an empty one is False, and shows nothing."""

    def _repr_html_(self) -> str:
        if not self:
            return ""
        text = f"<p class='admonition-title'>Not judged</p><p>{html.escape(self)}</p>"
        return f"<div class='admonition warning'>{text}</div>"


def ranged(value: float, low: float, high: float, over: str) -> str:
    """A number with its 95 % interval and what that resamples; the number alone where there is none.

    >>> ranged(0.234, 0.1, 0.36, "patients"), ranged(0.234, float("nan"), float("nan"), "patients")
    ('0.23 [0.10, 0.36] over patients', '0.23')
    """
    return f"{value:z.2f}" + ("" if np.isnan(low) else f" [{low:z.2f}, {high:z.2f}] over {over}")


class Download:
    """A link that saves a table as CSV, or a page as HTML, from a notebook or from the built page, offline.

    Args:
        content: the table, or the page's text.
        name: file name, "fig03.csv".
        note: provenance, written as a comment on a table's first line.
    """

    def __init__(self, content: pd.DataFrame | str, name: str, note: str = ""):
        self.name, self.page = name, isinstance(content, str)
        self.text = content if self.page else f"# {' '.join(note.split())}\n{content.to_csv(index=False)}"

    def _repr_html_(self) -> str:
        data = base64.b64encode(self.text.encode()).decode()
        name = html.escape(self.name, quote=True)
        kind, words = ("text/html", "a page to keep") if self.page else ("text/csv", "the data, as CSV")
        return f'<a download="{name}" href="data:{kind};base64,{data}">{name}: {words}</a>'


def show(shown: object, name: str, table: pd.DataFrame, note: str = "") -> None:
    """Show a figure, a table or a sentence, and a link that saves the table behind it as CSV.

    Args:
        shown: what is displayed.
        name: file name, "fig03.csv".
        table: what is saved.
        note: provenance, written as a comment on the file's first line.
    """
    display(shown, Download(table, name, note))


class Ledger:
    """The ledger of claims as HTML, a line for each, linked to the chapter that shows its figures.

    Args:
        table: DataFrame[where, claim, verdict, found, behind, equal, remark, page] from `prr.study.ledger.ledger`.
    """

    def __init__(self, table: pd.DataFrame):
        self.table = table

    def _repr_html_(self) -> str:
        rows = self.table.map(lambda value: html.escape(str(value)))
        links = [f'<a href="{page}.html">chapter {int(page[:2])}</a>' if page else "" for page in rows["page"]]
        cells = {
            "claim": rows["claim"] + " <small>(" + rows["where"] + ")</small>",
            "outcome": rows["verdict"],
            "what was found": rows["found"],
            "what stands behind it": "<small>" + rows["behind"] + "</small>",
            "still true when start and distance are equal?": rows["equal"],
            "remark": "<small>" + rows["remark"] + "</small> " + pd.Series(links, rows.index),
        }
        shown = pd.DataFrame(cells)
        if (rows["equal"] == "").all():
            shown = shown.drop(columns="still true when start and distance are equal?")
        return shown.to_html(index=False, escape=False, border=0)
