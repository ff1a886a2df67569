"""The ledger: every claim of the paper with its outcome in this run.

What is claimed stands in data/paper/claims.csv, what a test tolerates in data/paper/tolerances.csv, how each claim is
tested in `prr.study.claims`, and how a leaf is decided in `prr.study.rules`.

There are three outcomes. A claim comes out not as the paper says if one of its leaves does, can't be told if one leaf
can't, else it comes out as the paper says; leaves that were not attempted are left out, and where no other is, or a
target is too weak to be judged, nothing can be told. What stands behind an outcome is said beside it and is no outcome:
whose data they are, how many seeds.
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
from prr.study import architecture, claims, networks, paper, standing, transfer
from prr.study.claims import EVIDENCE, FACTS, TARGETS
from prr.study.display import Words
from prr.study.jobs import Job
from prr.study.rules import ABSENT, NO, UNSURE, YES, Leaf, stated
from prr.study.run import Run
from prr.study.store import Store

# what stands behind a claim, the weakest first: one that rests on several data sets is one of phantoms if one is
ORIGINS = {"phantom": "phantom", "real stand-in": "real stand-in", "real": "the paper's data"}
WEAK = "target too weak"
JOBS = EVIDENCE | TARGETS
OWN_TARGETS = {"transfer_rows": transfer.reached, "architecture_drops": architecture.reached}  # it has its own Dice
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
    targets = dict.fromkeys(each for name in names for each in TARGETS if name.endswith(f"_{each}"))
    return [JOBS[name](run) for name in (*names, *targets) if name in JOBS]


def leaves(run: Run, page: str | None = None) -> pd.DataFrame:
    """Every leaf of every claim, from what is there: nothing is computed for it.

    Args:
        run: whose results are judged.
        page: only claims whose evidence this chapter shows, "03_unet" for one.

    Returns:
        DataFrame[id, leaf, found, here, low, high, verdict, over, tolerance, paper, seeds]; over: what the interval
        resamples; a claim whose results, or data sets, are not there, or whose target is too weak, has one leaf that
        says so.
    """
    return _leaves(_claims(page), run, _reader(run))


def _leaves(chosen: pd.DataFrame, run: Run, read: Read) -> pd.DataFrame:
    rows = []
    for claim in chosen.itertuples():
        if lacking := _lacking(claim, run):
            found = [stated("its data sets", lacking, np.nan, ABSENT)]
        else:
            found = _attempt(_test(claim), _chapter(claim), run, read)
        rows += [{"id": claim.id, **leaf._asdict()} for leaf in found]
    return pd.DataFrame(rows, columns=["id", *Leaf._fields])


def ledger(run: Run, page: str | None = None) -> pd.DataFrame:
    """Every claim of the paper with its outcome.

    Args:
        run: see `leaves`.
        page: see `leaves`.

    Returns:
        DataFrame[id, where, claim, verdict, found, behind, leaves, as the paper says, not as the paper says, can't
        tell, not attempted, equal, remark, page]: verdict by the rule of claims; found: what decided, in words; behind:
        whose data, how many seeds, and why nothing was judged; counts of leaves; equal: what comes out where start and
        distance are equal (chapter 8), empty for claims of which that can't be asked.
    """
    chosen, read, rows = _claims(page), _reader(run), []
    found = _leaves(chosen, run, read)
    for claim in chosen.itertuples():
        part = found[found["id"] == claim.id]
        counts = {each: int((part["verdict"] == each).sum()) for each in (YES, NO, UNSURE, ABSENT)}
        rows.append({
            **{"id": claim.id, "where": claim.where, "claim": claim.claim, "verdict": _verdict(part)},
            **{"found": _finding(part), "behind": _behind(part, claim, run), "leaves": len(part), **counts},
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
            job = JOBS[name](reading)
            return job.value(reading.results) if reading.holds(job) else None

    return read


def _attempt(test: Callable[..., list[Leaf]], chapter: int, run: Run, read: Read) -> list[Leaf]:
    """The leaves of one claim, at least one."""
    given = {name: read(name) for name in signature(test).parameters}
    if any(value is None for value in given.values()):
        return [stated("its results", f"Not attempted: its results are made in chapter {chapter}.", np.nan, ABSENT)]
    try:
        if too_weak := standing.shortfalls(run, _reached(given, read)):
            return [stated(WEAK, f"Not judged, for the target is too weak: {' '.join(too_weak)}", np.nan, UNSURE)]
        return test(**given) or [stated("its layers", "Not attempted: nothing here to test it on.", np.nan, ABSENT)]
    except MissingError as error:
        return [stated("its results", str(error), np.nan, ABSENT)]


def _reached(names: Iterable[str], read: Read) -> dict[str, float]:
    """{network: foreground Dice} of the weakest targets behind some evidence, if they are there; algebra has none."""
    found: list[tuple[str, float]] = []
    for name in names:
        kind, _, network = name.rpartition("_")
        if network in TARGETS and kind != "algebra" and (dice := read(network)) is not None:
            found.append((network, standing.foreground(dice)))
        elif name in OWN_TARGETS and (rows := read(name)) is not None:
            found += OWN_TARGETS[name](rows).items()
    return {network: min(dice for each, dice in found if each == network) for network, _ in found}


def _outcome(part: pd.DataFrame) -> str:
    """The rule of claims, before leaves that were not attempted are counted as open."""
    return next((each for each in (NO, UNSURE, YES) if (part["verdict"] == each).any()), ABSENT)


def _verdict(part: pd.DataFrame) -> str:
    """One of three: what was not attempted can't be told."""
    outcome = _outcome(part)
    return UNSURE if outcome == ABSENT else outcome


def _behind(part: pd.DataFrame, claim: tuple, run: Run) -> str:
    """What stands behind an outcome, or why there is none."""
    if _outcome(part) == ABSENT:
        return ABSENT
    origins = {run.facts(place)["origin"] for place in claim.data.split()}
    told = next((words for origin, words in ORIGINS.items() if origin in origins), "no data")
    count = int(part["seeds"].max())
    seeds = [f"{count} seed{'s' * (count > 1)}"] if origins else []
    return ", ".join([*([WEAK] if (part["leaf"] == WEAK).any() else []), told, *seeds])


def _at_equal(claim: tuple, run: Run, read: Read) -> str:
    """Whether a claim is still true where start and distance are equal."""
    if not (test := _test(claim, "_at_equal")):
        return ""
    part = pd.DataFrame(_attempt(test, 8, run, read))
    words = {YES: "still true. ", NO: "no longer true. ", UNSURE: "can't tell. "}.get(_outcome(part), "")
    return words + _finding(part)


def _finding(part: pd.DataFrame) -> str:
    """The first leaf that decided, and how many tests say the same."""
    outcome = _outcome(part)
    decided = part[part["verdict"] == outcome]
    asked = part[part["verdict"] != ABSENT]
    count = {YES: f"All {len(asked)} tests agree", NO: f"{len(decided)} of {len(asked)} tests came out so"}
    more = count.get(outcome, f"{len(decided)} of {len(asked)} tests are open")
    return decided["found"].iloc[0] + (f" {more}." if len(asked) > 1 else "")


def in_words(table: pd.DataFrame) -> Words:
    """How many claims came out how, and what stands behind them."""
    counts = table["verdict"].value_counts().reindex([YES, NO, UNSURE], fill_value=0)
    lines = [
        f"Of {len(table)} claim{'s' * (len(table) != 1)} {counts[YES]} came out as the paper says, {counts[NO]} did "
        f"not, and {counts[UNSURE]} can't be told."
    ]
    for mark, words in {WEAK: "not judged, for their target is too weak", ABSENT: "not attempted"}.items():
        if count := table["behind"].str.startswith(mark).sum():
            lines.append(f"Of the last, {count} {'was' if count == 1 else 'were'} {words}.")
    decided = table.loc[table["verdict"] != UNSURE, "behind"]
    for mark, words in {"phantom": "phantoms", "real stand-in": "real stand-ins"}.items():
        if count := decided.str.contains(mark).sum():
            lines.append(f"Of the decided, {count} rest on {words} in place of the paper's data.")
    return Words(" ".join(lines))
