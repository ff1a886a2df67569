"""The ledger: every claim of the paper with its verdict on this run's results.

What is claimed stands in data/paper/claims.csv, what a test tolerates in data/paper/tolerances.csv, how each claim is
tested in `prr.study.claims`, and how a leaf is decided in `prr.study.rules`.

A claim is not reproduced if one of its leaves is not, undecided if one leaf is, else reproduced; leaves that could not
be attempted are counted and left out; a claim without any other is not attempted. A claim that is decided where one of
its data sets is a phantom is an "analogue only": what it would be stands beside it.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from prr.errors import MissingError
from prr.figures import Words
from prr.study import paper
from prr.study.claims import EQUAL, TESTS
from prr.study.results import Results
from prr.study.rules import ABSENT, NO, UNSURE, YES, Leaf, open_

ANALOGUE = "analogue only"


def leaves(results: Results, page: str | None = None) -> pd.DataFrame:
    """Every leaf of every claim.

    Args:
        results: what `prr.study.results.Results` offers; a table that is not there raises MissingError.
        page: only claims whose evidence this chapter shows, "03_unet" for one.

    Returns:
        DataFrame[id, leaf, here, low, high, verdict, tolerance, paper, seeds]; a claim whose results are not there has
        one leaf, not attempted, that says so.
    """
    rows = []
    for claim in claims(page).itertuples():
        rows += [{"id": claim.id, **leaf._asdict()} for leaf in attempt(claim, results)]
    return pd.DataFrame(rows, columns=["id", *Leaf._fields])


def claims(page: str | None = None) -> pd.DataFrame:
    """The paper's claims, or those of one chapter."""
    table = paper.claims()
    return table if page is None else table[table["page"] == page]


def attempt(claim: tuple, results: Results, tests: dict = TESTS) -> list[Leaf]:
    """The leaves of one claim, at least one."""
    if claim.id not in tests:
        return [open_(claim.remark, np.nan, ABSENT)]
    try:
        return list(tests[claim.id](results)) or [open_("nothing in this run to test it on", np.nan, ABSENT)]
    except MissingError:
        chapter = int(claim.page[:2]) if tests is TESTS else 8
        return [open_(f"results not computed yet: chapter {chapter}", np.nan, ABSENT)]


def ledger(results: Results, page: str | None = None) -> pd.DataFrame:
    """Every claim of the paper with its verdict.

    Args:
        results: see `leaves`.
        page: see `leaves`.

    Returns:
        DataFrame[id, where, claim, verdict, here, leaves, reproduced, not reproduced, undecided, not attempted, reason,
        equal, remark, page]: verdict by the rule of claims; here: what it would be if phantoms counted; counts of
        leaves; reason: the leaf that decided, with its numbers; equal: verdict and reason where start and distance are
        equal (chapter 8), empty for claims of which that can't be asked.
    """
    found, rows = leaves(results, page), []
    for claim in claims(page).itertuples():
        part = found[found["id"] == claim.id]
        counts = {each: int((part["verdict"] == each).sum()) for each in (YES, NO, UNSURE, ABSENT)}
        here = _verdict(part)
        analogue = here in (YES, NO) and any(results.phantom(name) for name in claim.data.split())
        rows.append({
            **{"id": claim.id, "where": claim.where, "claim": claim.claim, "verdict": ANALOGUE if analogue else here},
            **{"here": here, "leaves": len(part), **counts, "reason": _reason(part, here)},
            **{"equal": _at_equal(claim, results), "remark": claim.remark, "page": claim.page},
        })  # fmt: skip
    return pd.DataFrame(rows)


def _verdict(part: pd.DataFrame) -> str:
    return next((each for each in (NO, UNSURE, YES) if (part["verdict"] == each).any()), ABSENT)


def _at_equal(claim: tuple, results: Results) -> str:
    if claim.id not in EQUAL:
        return ""
    part = pd.DataFrame(attempt(claim, results, EQUAL))
    verdict = _verdict(part)
    words = {YES: "still true", NO: "no longer true"}.get(verdict, verdict)
    analogue = verdict in (YES, NO) and any(results.phantom(name) for name in claim.data.split())
    return f"{f'{ANALOGUE}: ' if analogue else ''}{words}: {_reason(part, verdict)}"


def _reason(part: pd.DataFrame, here: str) -> str:
    """How many leaves decided, and the first of them with its numbers."""
    decided = part[part["verdict"] == here]
    row, count = decided.iloc[0], f"{len(decided)} of {len(part)}: " if len(part) > 1 else ""
    if np.isnan(row["here"]):
        return f"{count}{row['leaf']}"
    bounds = "" if np.isnan(row["low"]) or row["low"] == row["high"] else f" [{row['low']:z.3g}, {row['high']:z.3g}]"
    printed = "" if np.isnan(row["paper"]) else f" (paper {row['paper']:g})"
    return f"{count}{row['leaf']}: {row['here']:z.3g}{bounds}{printed}"


def in_words(table: pd.DataFrame) -> Words:
    """How many claims came out how."""
    counts = table["verdict"].value_counts()
    told = ", ".join(f"{each} {counts.get(each, 0)}" for each in (YES, NO, UNSURE, ANALOGUE, ABSENT))
    here = table.loc[table["verdict"] == ANALOGUE, "here"].value_counts()
    split = f" Of the analogues {here.get(YES, 0)} came out as the paper says and {here.get(NO, 0)} did not."
    return Words(f"Of {len(table)} claims: {told}.{split if counts.get(ANALOGUE) else ''}")
