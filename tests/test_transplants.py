"""What transplants cost, in words: the finding first, read in every world in which it can come out."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from prr import reuse
from prr.layers import parameter_table
from prr.study.models import pspnet, unet
from prr.study.transplants import in_words

PATIENTS = [2, 5, 7, 8]


def found(drops, model=None, spread=0.01, before=0.9):
    """`by_patient` of a network's kernels: {beginning of a name: drop}, 0.1 elsewhere; patients differ by `spread`."""
    kernels = parameter_table(model or unet(2)).query("kind == 'W'")
    rows = []
    for place, (layer, name) in enumerate(kernels[["layer", "name"]].itertuples(index=False)):
        drop = next((each for start, each in drops.items() if name.startswith(start)), 0.1)
        for number, patient in enumerate(PATIENTS):
            mine = drop + spread * (-1) ** (number + place)
            rows.append(("W", layer, name, patient, before, before - mine, mine))
    return pd.DataFrame(rows, columns=["kind", "layer", "name", "patient", "before", "score", "drop"])


def test_the_costliest_kernel_is_named_with_its_drop_its_interval_and_what_is_left(sentences):
    table = found({"fuse.conv": 0.9}, pspnet(8))
    first, next_, *rest = sentences(in_words(table))
    layer = parameter_table(pspnet(8)).query("kind == 'W' and name == 'fuse.conv'")["layer"].item()
    assert first.startswith(f"Kernel {layer}, `fuse.conv`, costs most: foreground Dice falls by 0.90 ")
    assert first.endswith("to 0.00.")
    drop = table.loc[table["name"] == "fuse.conv", "drop"]
    low, high = stats.t.interval(0.95, len(drop) - 1, drop.mean(), stats.sem(drop))
    assert f"[{low:.2f}, {high:.2f}] over patients" in first
    assert "costs 0.80 [0." in next_
    assert next_.endswith("over patients less.")
    assert not rest  # no level of PSPNet was predicted anything


def test_the_costliest_kernel_is_that_of_the_sweep_from_which_figures_are_drawn():
    table = found({"down.1.conv2": 0.4, "up.2.up": 0.3})
    swept = reuse.averaged(table)
    assert f"Kernel {swept.loc[swept['drop'].idxmax(), 'layer']}, `down.1.conv2`" in in_words(table)


def test_two_kernels_that_cost_alike_are_not_ranked(sentences):
    _, next_, _ = sentences(in_words(found({"down.0.conv1": 0.51, "down.0.conv2": 0.5}, spread=0.05)))
    assert "may cost as much" in next_


@pytest.mark.parametrize(
    ("bottom", "top", "spread", "words"),
    [
        (0.1, 0.6, 0.01, "As predicted, kernels at the bottom cost less than those at the top: by 0.50 [0.50, 0.50]"),
        (0.6, 0.1, 0.01, "Against the prediction, kernels at the bottom cost more than those at the top: by 0.50 [0.5"),
        (0.1, 0.1, 0.01, "is open: 0.00 [0.00, 0.00] over patients less."),
    ],
)
def test_the_prediction_for_unets_lowest_level_holds_fails_or_stays_open(bottom, top, spread, words, sentences):
    drops = {"down.4.": bottom, "down.0.": top, "up.3.block.": top, "up.3.up": 0.7}
    *_, said = sentences(in_words(found(drops, spread=spread)))
    assert words in said


def test_levels_are_compared_within_each_patient_over_whom_the_interval_is(sentences):
    table = found({"down.4.": 0.1, "down.0.": 0.3, "up.3.block.": 0.3})
    shifts = dict(zip(PATIENTS, [0.0, 0.1, 0.2, 0.4], strict=True))  # of all layers of a patient
    top = table["name"].str.startswith(("down.0.", "up.3.block."))
    table["score"] -= table["patient"].map(shifts) + np.where(top, table["patient"].map(shifts) / 2, 0)
    by_hand = 0.2 + np.array(list(shifts.values())) / 2
    low, high = stats.t.interval(0.95, len(by_hand) - 1, by_hand.mean(), stats.sem(by_hand))
    *_, said = sentences(in_words(table))
    assert f"{by_hand.mean():.2f} [{low:.2f}, {high:.2f}] over patients" in said


def test_one_patient_gives_numbers_without_intervals_and_settles_nothing(sentences):
    table = found({"down.0.": 0.6, "up.3.block.": 0.5})
    said = sentences(in_words(table[table["patient"] == 5]))
    assert "may cost as much" in said[1]
    assert "is open" in said[2]
    assert "[" not in " ".join(said)
