"""From a sweep to an answer: which layers may be reused?"""

from __future__ import annotations

import numpy as np
import pandas as pd

from prr.errors import OptionError

REUSABLE, UNDECIDED, NOT_REUSABLE = "reusable", "undecided", "not reusable"


def layer_verdicts(sweep: pd.DataFrame, tolerance: float = 0.05) -> pd.DataFrame:
    """Judge every layer of a sweep by the interval of its drop.

    Args:
        sweep: DataFrame with columns `low` and `high`, from `prr.sweep`.
        tolerance: drop that counts as "almost unchanged", in units of the score (0.05 of foreground Dice).

    Returns:
        The sweep with a column `verdict`: reusable where high <= tolerance, not reusable where low > tolerance, else
        (also without an interval) undecided.

    Raises:
        OptionError: a column that is missing.

    Source: Wang et al. 2020, arXiv:2008.03411, asks for "almost unchanged" results; number and interval are ours.
    """
    if missing := {"low", "high"} - set(sweep.columns):
        raise OptionError(f"column {', '.join(sorted(missing))}: expected a sweep's table, found {list(sweep.columns)}")
    reusable, lost = sweep["high"] <= tolerance, sweep["low"] > tolerance
    return sweep.assign(verdict=np.select([reusable, lost], [REUSABLE, NOT_REUSABLE], UNDECIDED))


def shares(sweep: pd.DataFrame, tolerances: tuple[float, ...] = (0.01, 0.02, 0.05, 0.1, 0.2)) -> pd.DataFrame:
    """How many layers of each kind are reusable, over a range of tolerances.

    Returns:
        DataFrame[kind, tolerance, reusable, undecided, not reusable, layers], counts of layers.
    """
    rows = []
    for tolerance in tolerances:
        for kind, part in layer_verdicts(sweep, tolerance).groupby("kind", sort=False):
            counts = part["verdict"].value_counts().reindex([REUSABLE, UNDECIDED, NOT_REUSABLE], fill_value=0)
            rows.append({"kind": kind, "tolerance": tolerance, **counts, "layers": len(part)})
    return pd.DataFrame(rows).sort_values(["kind", "tolerance"], kind="stable", ignore_index=True)
