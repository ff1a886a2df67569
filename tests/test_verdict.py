"""Verdicts by interval, against the definition and a table counted by hand."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prr.errors import OptionError
from prr.verdict import layer_verdicts, shares

few = settings(max_examples=50, deadline=None)
number = st.floats(-1, 1)
intervals = st.lists(st.tuples(number, number).map(sorted), min_size=1, max_size=8)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.00, 0.04, "reusable"),
        (-0.30, -0.20, "reusable"),  # better than before
        (0.00, 0.05, "reusable"),  # high <= tolerance
        (0.05, 0.05, "reusable"),
        (0.00, 0.06, "undecided"),
        (0.05, 0.06, "undecided"),  # low > tolerance fails
        (0.06, 0.50, "not reusable"),
        (np.nan, np.nan, "undecided"),  # one patient
    ],
)
def test_a_layer_is_judged_by_its_interval(low, high, verdict):
    assert layer_verdicts(pd.DataFrame({"low": [low], "high": [high]}))["verdict"].tolist() == [verdict]


def test_the_sweep_is_kept_and_not_changed():
    sweep = pd.DataFrame({"kind": ["W"], "low": [0.0], "high": [0.1], "drop": [0.05]})
    before = sweep.copy()
    assert layer_verdicts(sweep).drop(columns="verdict").equals(before)
    assert sweep.equals(before)


@few
@given(intervals, st.floats(0, 0.5), st.floats(0, 0.5))
def test_more_tolerance_never_makes_a_layer_less_reusable(pairs, first, second):
    sweep = pd.DataFrame(pairs, columns=["low", "high"])
    rank = {"not reusable": 0, "undecided": 1, "reusable": 2}
    strict, lenient = (layer_verdicts(sweep, value)["verdict"].map(rank) for value in sorted([first, second]))
    assert (lenient >= strict).all()


@pytest.mark.parametrize("column", ["low", "high"])
def test_a_missing_column_is_refused_by_name(column):
    sweep = pd.DataFrame({"low": [0.0], "high": [0.1]}).drop(columns=column)
    with pytest.raises(OptionError, match=f"column {column}: expected a sweep's table"):
        layer_verdicts(sweep)


def test_shares_by_hand():
    sweep = pd.DataFrame(
        [("W", 0.00, 0.03), ("W", 0.02, 0.15), ("W", 0.30, 0.40), ("RM", 0.00, 0.00)], columns=["kind", "low", "high"]
    )
    table = shares(sweep, tolerances=(0.01, 0.2))
    assert table.to_dict("split", index=False) == {
        "columns": ["kind", "tolerance", "reusable", "undecided", "not reusable", "layers"],
        "data": [["RM", 0.01, 1, 0, 0, 1], ["RM", 0.2, 1, 0, 0, 1], ["W", 0.01, 0, 1, 2, 3], ["W", 0.2, 2, 0, 1, 3]],
    }


@few
@given(intervals)
def test_shares_count_every_layer_once(pairs):
    sweep = pd.DataFrame(pairs, columns=["low", "high"]).assign(kind="W")
    table = shares(sweep)
    assert table["tolerance"].tolist() == [0.01, 0.02, 0.05, 0.1, 0.2]
    assert (table[["reusable", "undecided", "not reusable"]].sum(axis=1) == len(pairs)).all()
