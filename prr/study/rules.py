"""The rules by which a leaf of a claim is decided, each a function of numbers with their intervals.

- A layer is judged by the 95 % interval of its drop against the run's tolerance, `prr.verdict.layer_verdicts`, each at
  95 % by itself. All other tolerances are those of data/paper/tolerances.csv.
- An ordering, a trend or a share holds where its 95 % interval keeps clear of the bound, fails where it lies beyond it,
  else it is undecided. Intervals are over seeds (t) where results have seeds, over layers (bootstrap) where a mean or a
  correlation is over layers, Wilson's for a share of layers. Layers are no independent sample: such an interval
  describes these networks and promises no more.
- That there is *no* pattern can be refuted by a trend, never shown.
- A number that the paper prints is reproduced where our interval lies within its tolerance, not where it lies outside.
- Algebra and counts need no interval.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from prr.predictors import rank_agreement
from prr.study import paper
from prr.verdict import NOT_REUSABLE, REUSABLE, layer_verdicts

YES, NO, UNSURE, ABSENT = "reproduced", "not reproduced", "undecided", "not attempted"
TOLERANCES = paper.tolerances()


class Leaf(NamedTuple):
    """One test: what was found, with its interval and seeds, against a tolerance and perhaps the paper's value."""

    leaf: str
    here: float
    low: float
    high: float
    verdict: str
    tolerance: float = np.nan
    paper: float = np.nan
    seeds: int = 1


def layers(swept: pd.DataFrame, kind: str, tolerance: float, excepted: Collection[int] | None = ()) -> list[Leaf]:
    """A leaf per layer: reusable within the tolerance, or not where it is excepted (None: all are)."""
    judged = layer_verdicts(swept[swept["kind"] == kind], tolerance)
    return [_layer(row, excepted is None or row.layer in excepted, tolerance) for row in judged.itertuples()]


def _layer(row: tuple, excepted: bool, tolerance: float) -> Leaf:
    meant, opposite = (NOT_REUSABLE, REUSABLE) if excepted else (REUSABLE, NOT_REUSABLE)
    verdict = {meant: YES, opposite: NO}.get(row.verdict, UNSURE)
    return Leaf(f"{row.kind} {row.layer} {meant}", row.drop, row.low, row.high, verdict, tolerance)


def above(leaf: str, here: float, low: float, high: float, bound: float = 0.0) -> Leaf:
    """It lies above the bound."""
    return Leaf(leaf, here, low, high, YES if low > bound else NO if high < bound else UNSURE, bound)


def below(leaf: str, here: float, low: float, high: float, bound: float = 0.0) -> Leaf:
    """It lies below the bound."""
    return Leaf(leaf, here, low, high, YES if high < bound else NO if low > bound else UNSURE, bound)


def most(leaf: str, holds: pd.Series) -> Leaf:
    """It holds in most layers."""
    interval = stats.binomtest(int(holds.sum()), len(holds)).proportion_ci(method="wilson")
    return above(leaf, holds.mean(), interval.low, interval.high, TOLERANCES["most"])


def over_seeds(leaf: str, values: Sequence[float], bound: float = 0.0, comparisons: int = 1) -> Leaf:
    """The mean over seeds lies above the bound: 95 % t interval, Bonferroni's for several comparisons."""
    values = np.asarray(values, float)
    half = stats.t.ppf(1 - 0.025 / comparisons, len(values) - 1) * stats.sem(values) if len(values) > 1 else np.nan
    found = above(leaf, values.mean(), values.mean() - half, values.mean() + half, bound)
    return found._replace(seeds=len(values))


def means(leaf: str, more: pd.Series, less: pd.Series, paired: bool = False) -> Leaf:
    """The first mean over layers is larger than the second."""
    return above(leaf, more.mean() - less.mean(), *mean_gap(more, less, paired))


def falling(leaf: str, layer: pd.Series, value: pd.Series) -> Leaf:
    """The value falls with depth."""
    return below(leaf, *rank_agreement(layer, value))


def patternless(leaf: str, layer: pd.Series, value: pd.Series) -> Leaf:
    """The value has no trend over depth: refuted by one, else open."""
    rho, low, high = rank_agreement(layer, value)
    return Leaf(leaf, rho, low, high, NO if low > 0 or high < 0 else UNSURE, 0.0)


def number(leaf: str, printed: float, here: float, low: float, high: float, seeds: int = 1) -> Leaf:
    """The paper's number, within the tolerance of a cell."""
    near, far = printed - TOLERANCES["cell"], printed + TOLERANCES["cell"]
    verdict = YES if near <= low and high <= far else NO if high < near or low > far else UNSURE
    return Leaf(leaf, here, low, high, verdict, TOLERANCES["cell"], printed, seeds)


def exact(leaf: str, here: float, holds: bool, printed: float = np.nan) -> Leaf:
    """Algebra or a count: here it is, or it is not."""
    return Leaf(leaf, here, here, here, YES if holds else NO, paper=printed)


def open_(leaf: str, here: float, verdict: str) -> Leaf:
    """A verdict that no interval of one number gives; the rule stands in the claim's test."""
    return Leaf(leaf, here, np.nan, np.nan, verdict)


def mean_gap(first: pd.Series, second: pd.Series, paired: bool = False) -> tuple[float, float]:
    """95 % bootstrap interval over layers of the difference of two means."""
    interval = stats.bootstrap(
        (first.to_numpy(), second.to_numpy()), lambda a, b, axis: a.mean(axis) - b.mean(axis), n_resamples=5000,
        method="percentile", paired=paired, rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return interval.low, interval.high
