"""The rules by which a leaf of a claim is decided, each a function of numbers with their intervals.

- A claim is judged at 95 % as a whole: where it has several leaves of one kind, their limits are simultaneous (max-t,
  or Bonferroni's for trainings of their own), so that a long list is not refuted by chance.
- An interval resamples patients, seeds, or both, crossed, and says which. Layers are no independent sample: a mean, a
  share or a trend over layers is taken within each patient and seed, and its interval is over those. Patients alone
  speak of these networks, seeds of others of their kind.
- A layer passes where its drop lies below the run's tolerance, limits included, and fails where it lies above. All
  other tolerances are those of data/paper/tolerances.csv.
- An ordering, a trend or a share holds where its interval keeps clear of the bound, fails where it lies beyond it,
  else nothing can be told.
- That there is *no* pattern can be refuted by a trend, never shown.
- A number that the paper prints is found again where our interval lies within its tolerance, not where it lies outside.
- Algebra and counts need no interval.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from prr.metrics import crossed_interval
from prr.predictors import rank_correlation
from prr.study import paper
from prr.study.display import ranged

YES, NO, UNSURE = "as the paper says", "not as the paper says", "can't tell"
ABSENT = "not attempted"  # of a leaf: it is not among the outcomes
TOLERANCES = paper.tolerances()
Says = tuple[str, str]  # the finding where the paper is right, and where it is wrong


class Estimate(NamedTuple):
    """A number with its 95 % limits, what they resample, and how many seeds there are."""

    here: float
    low: float
    high: float
    over: str
    seeds: int = 1


class Leaf(NamedTuple):
    """One test: what was asked, the finding in words, its numbers, and a tolerance and perhaps the paper's value."""

    leaf: str
    found: str
    here: float
    low: float
    high: float
    verdict: str
    over: str = ""
    tolerance: float = np.nan
    paper: float = np.nan
    seeds: int = 1


# ------------------------------------------------------------------- estimates


def estimates(values: pd.DataFrame) -> list[Estimate]:
    """Means of columns over patients, and seeds if there are several, with simultaneous limits (max-t).

    Args:
        values: index (seed, patient), every seed with the same patients; a patient without a value in some column, such
            as one without foreground, is left out.
    """
    wide = values.unstack("seed")
    wide = wide.dropna()
    seeds = values.index.get_level_values("seed").nunique()
    array = wide.to_numpy().reshape(len(wide), values.shape[1], seeds).transpose(2, 0, 1)[:, None]
    over = "patients" if seeds == 1 else "seeds and patients"
    return [Estimate(*each, over, seeds) for each in zip(*crossed_interval(array), strict=True)]


def over_seeds(values: Sequence[float], comparisons: int = 1) -> Estimate:
    """Mean over seeds with its 95 % t interval, Bonferroni's for several comparisons."""
    values = np.asarray(values, float)
    half = stats.t.ppf(1 - 0.025 / comparisons, len(values) - 1) * stats.sem(values) if len(values) > 1 else np.nan
    return Estimate(values.mean(), values.mean() - half, values.mean() + half, "seeds", len(values))


def by_layer(found: pd.DataFrame) -> pd.DataFrame:
    """Drops as index (seed, patient) by columns (kind, layer), from `transplants.by_patient` of one or more seeds."""
    found = found if "seed" in found else found.assign(seed=0)
    return found.pivot(index=["seed", "patient"], columns=["kind", "layer"], values="drop")


def trend(drops: pd.DataFrame, against: Sequence[float]) -> pd.Series:
    """Rank correlation of each patient's drops, a column for each layer, with a number of each layer."""
    known = ~np.isnan(np.asarray(against, float))
    rows = drops.to_numpy()[:, known]
    return pd.Series(rank_correlation(rows, np.broadcast_to(np.asarray(against)[known], rows.shape)), drops.index)


# ------------------------------------------------------------------- leaves


def layers(drops: pd.DataFrame, excepted: Mapping[str, Collection[int] | None], tolerance: float) -> list[Leaf]:
    """A leaf for each layer of some kinds, limits simultaneous for all: it passes, or fails where it is excepted.

    Args:
        drops: from `by_layer`.
        excepted: {kind: layers that the paper calls not reusable}; None: all of them.
        tolerance: drop of Dice up to which a layer passes.
    """
    drops = drops[[column for column in drops if column[0] in excepted]]
    found = []
    for (kind, layer), estimate in zip(drops, estimates(drops), strict=True):
        fails = excepted[kind] is None or layer in excepted[kind]
        found.append(_layer(f"{kind} {layer}", fails, estimate, tolerance))
    return found


def _layer(name: str, fails: bool, estimate: Estimate, tolerance: float) -> Leaf:
    passes, lost = estimate.high <= tolerance, estimate.low > tolerance
    does = "passes" if passes else "fails" if lost else ""
    verdict = UNSURE if not does else YES if fails is bool(lost) else NO
    says = f"{does}{' after all' if verdict == NO else ''}" if does else "may pass or fail"
    found = f"{name} {says}: drop {_spoken(estimate)}, limit {tolerance:g}."
    return _leaf(f"{name} {'fails' if fails else 'passes'}", found, estimate, verdict, tolerance)


def above(says: Says, estimate: Estimate, bound: float = 0.0) -> Leaf:
    """It lies above the bound."""
    return _ordered(says, estimate, bound, YES if estimate.low > bound else NO if estimate.high < bound else UNSURE)


def below(says: Says, estimate: Estimate, bound: float = 0.0) -> Leaf:
    """It lies below the bound."""
    return _ordered(says, estimate, bound, YES if estimate.high < bound else NO if estimate.low > bound else UNSURE)


def within(says: Says, estimate: Estimate, bound: float) -> Leaf:
    """Its size is below the bound."""
    near = -bound < estimate.low and estimate.high < bound
    far = estimate.high < -bound or estimate.low > bound
    return _ordered(says, estimate, bound, YES if near else NO if far else UNSURE)


def patternless(says: Says, estimate: Estimate) -> Leaf:
    """It has no trend: refuted by one, else nothing can be told."""
    return _ordered(says, estimate, 0.0, NO if estimate.low > 0 or estimate.high < 0 else UNSURE)


def number(leaf: str, printed: float, estimate: Estimate) -> Leaf:
    """The paper's number, within the tolerance of a cell."""
    near, far = printed - TOLERANCES["cell"], printed + TOLERANCES["cell"]
    low, high = estimate.low, estimate.high
    verdict = YES if near <= low and high <= far else NO if high < near or low > far else UNSURE
    says = {YES: "agrees", NO: "differs", UNSURE: "may or may not agree"}[verdict]
    found = f"{leaf} {says}: {_spoken(estimate)}, the paper {printed:.2f}."
    return _leaf(leaf, found, estimate, verdict, TOLERANCES["cell"])._replace(paper=printed)


def exact(says: Says, here: float, holds: bool, printed: float = np.nan) -> Leaf:
    """Algebra or a count: here it is, or it is not."""
    found = f"{_begun(says[not holds])}: {here:.3g}."
    return Leaf(says[0], found, here, np.nan, np.nan, YES if holds else NO, paper=printed)


def stated(says: str, found: str, here: float, verdict: str) -> Leaf:
    """A verdict that no interval of one number gives; the rule stands in the claim's test."""
    return Leaf(says, found, here, np.nan, np.nan, verdict)


def _ordered(says: Says, estimate: Estimate, bound: float, verdict: str) -> Leaf:
    finding = {YES: says[0], NO: says[1], UNSURE: f"can't tell whether {says[0]}"}[verdict]
    limit = f", bound {bound:g}" if bound else ""
    return _leaf(says[0], f"{_begun(finding)}: {_spoken(estimate)}{limit}.", estimate, verdict, bound)


def _leaf(leaf: str, found: str, estimate: Estimate, verdict: str, tolerance: float) -> Leaf:
    here, low, high, over, seeds = estimate
    return Leaf(leaf, found, here, low, high, verdict, over, tolerance, seeds=seeds)


def _spoken(estimate: Estimate) -> str:
    return ranged(*estimate[:4])


def _begun(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]
