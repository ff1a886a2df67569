"""The ledger: every claim of the paper with its verdict on this run's results.

What is claimed stands in data/paper/claims.csv, what a test tolerates in data/paper/tolerances.csv, how each claim is
tested in `prr.study.claims`, and how a leaf is decided in `prr.study.rules`.

A claim is not reproduced if one of its leaves is not, undecided if one leaf is, else reproduced; leaves that could not
be attempted are counted and left out; a claim without any other is not attempted. A claim that is decided where one of
its data sets is not the paper's own is an "analogue only": what it would be stands beside it. It is one of phantoms
where one of them is a phantom, else one of real stand-ins.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
from collections.abc import Callable, Iterable
from inspect import signature
from typing import Any

import numpy as np
import pandas as pd

from prr.errors import MissingError
from prr.study import claims, networks, paper
from prr.study.claims import EVIDENCE, FACTS
from prr.study.display import Words
from prr.study.jobs import Job
from prr.study.rules import ABSENT, NO, UNSURE, YES, Leaf, open_
from prr.study.run import Run
from prr.study.store import Store

# by the origin of what is not the paper's own data; a claim that rests on both is one of phantoms
ANALOGUES = {origin: f"analogue only ({origin})" for origin in ("phantom", "real stand-in")}
Read = Callable[[str], Any]  # name of a test's parameter -> its value, None where it has not been computed yet


def evidence(run: Run, chapters: Iterable[int]) -> list[Job]:
    """What the claims of some chapters rest on, each once.

    Args:
        run: whose results they are.
        chapters: numbers; a claim belongs to the one that shows its evidence.
    """
    numbers = set(chapters)
    asked = [claim for claim in paper.claims().itertuples() if _chapter(claim) in numbers]
    tests = [_test(claim) for claim in asked if not _lacking(claim, run)]
    names = dict.fromkeys(name for test in tests for name in signature(test).parameters)
    return [EVIDENCE[name](run) for name in names if name in EVIDENCE]


def leaves(run: Run, page: str | None = None) -> pd.DataFrame:
    """Every leaf of every claim, from what is there: nothing is computed for it.

    Args:
        run: whose results are judged.
        page: only claims whose evidence this chapter shows, "03_unet" for one.

    Returns:
        DataFrame[id, leaf, here, low, high, verdict, tolerance, paper, seeds]; a claim whose results, or data sets, are
        not there has one leaf, not attempted, that says so.
    """
    return _leaves(_claims(page), run, _reader(run))


def _leaves(chosen: pd.DataFrame, run: Run, read: Read) -> pd.DataFrame:
    rows = []
    for claim in chosen.itertuples():
        if lacking := _lacking(claim, run):
            found = [open_(lacking, np.nan, ABSENT)]
        else:
            found = _attempt(_test(claim), _chapter(claim), read)
        rows += [{"id": claim.id, **leaf._asdict()} for leaf in found]
    return pd.DataFrame(rows, columns=["id", *Leaf._fields])


def ledger(run: Run, page: str | None = None) -> pd.DataFrame:
    """Every claim of the paper with its verdict.

    Args:
        run: see `leaves`.
        page: see `leaves`.

    Returns:
        DataFrame[id, where, claim, verdict, here, leaves, reproduced, not reproduced, undecided, not attempted, reason,
        equal, remark, page]: verdict by the rule of claims; here: what it would be if stand-ins counted; counts of
        leaves; reason: the leaf that decided, with its numbers; equal: verdict and reason where start and distance are
        equal (chapter 8), empty for claims of which that can't be asked.
    """
    chosen, read, rows = _claims(page), _reader(run), []
    found = _leaves(chosen, run, read)
    for claim in chosen.itertuples():
        part = found[found["id"] == claim.id]
        counts = {each: int((part["verdict"] == each).sum()) for each in (YES, NO, UNSURE, ABSENT)}
        here = _verdict(part)
        rows.append({
            **{"id": claim.id, "where": claim.where, "claim": claim.claim},
            **{"verdict": _analogue(here, claim, run) or here, "here": here},
            **{"leaves": len(part), **counts, "reason": _reason(part, here)},
            **{"equal": _at_equal(claim, run, read), "remark": claim.remark, "page": claim.page},
        })  # fmt: skip
    return pd.DataFrame(rows)


def _claims(page: str | None) -> pd.DataFrame:
    """The paper's claims, or those of one chapter."""
    table = paper.claims()
    return table if page is None else table[table["page"] == page]


def _chapter(claim: tuple) -> int:
    """The number of the chapter that shows a claim's evidence."""
    return int(claim.page[:2])


def _lacking(claim: tuple, run: Run) -> str | None:
    """What a claim lacks of the run's data sets: all three of them, where it rests on another than the target's."""
    return None if set(claim.data.split()) <= {"acdc"} else networks.lacking(run)


def _test(claim: tuple, suffix: str = "") -> Callable[..., list[Leaf]] | None:
    """The function that bears a claim's name, with a suffix if there is such a one."""
    return getattr(claims, claim.id.replace("-", "_") + suffix, None)


def _reader(run: Run) -> Read:
    """Gives what a test asks for, read once: many claims rest on the same table. It makes nothing, not even data."""
    reading = copy.copy(run)
    if not run.edition:
        reading.results = dataclasses.replace(run.results, store=Store(run.results.store.folder, make=False))

    @functools.cache
    def read(name: str) -> Any:
        with contextlib.suppress(MissingError):  # data at a scale that has not been decoded yet
            if name in FACTS:
                return FACTS[name](reading)
            job = EVIDENCE[name](reading)
            return job.value(reading.results) if reading.holds(job) else None

    return read


def _attempt(test: Callable[..., list[Leaf]], chapter: int, read: Read) -> list[Leaf]:
    """The leaves of one claim, at least one."""
    given = {name: read(name) for name in signature(test).parameters}
    if any(value is None for value in given.values()):
        what = f"results not computed yet: chapter {chapter}, or all of them by python -m prr study"
        return [open_(what, np.nan, ABSENT)]
    try:
        return test(**given) or [open_("nothing in this run to test it on", np.nan, ABSENT)]
    except MissingError as error:
        return [open_(str(error), np.nan, ABSENT)]


def _verdict(part: pd.DataFrame) -> str:
    """The rule of claims."""
    return next((each for each in (NO, UNSURE, YES) if (part["verdict"] == each).any()), ABSENT)


def _analogue(verdict: str, claim: tuple, run: Run) -> str:
    """What a claim is that is decided on other data than the paper's; nothing where it is open, or its data are."""
    origins = {run.facts(place)["origin"] for place in claim.data.split()} if verdict in (YES, NO) else ()
    return next((words for origin, words in ANALOGUES.items() if origin in origins), "")


def _at_equal(claim: tuple, run: Run, read: Read) -> str:
    """Whether a claim is still true where start and distance are equal."""
    if not (test := _test(claim, "_at_equal")):
        return ""
    part = pd.DataFrame(_attempt(test, 8, read))
    verdict = _verdict(part)
    words = {YES: "still true", NO: "no longer true"}.get(verdict, verdict)
    return ": ".join(filter(None, [_analogue(verdict, claim, run), words, _reason(part, verdict)]))


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
    told = ", ".join(f"{each} {counts.get(each, 0)}" for each in (YES, NO, UNSURE, *ANALOGUES.values(), ABSENT))
    here = table.loc[table["verdict"].isin(ANALOGUES.values()), "here"].value_counts()
    split = f" Of the analogues {here.get(YES, 0)} came out as the paper says and {here.get(NO, 0)} did not."
    return Words(f"Of {len(table)} claims: {told}.{split if len(here) else ''}")
