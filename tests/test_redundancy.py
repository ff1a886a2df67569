"""Controls, verdicts, prefixes and predictors: by hand, and whole at the smallest scale."""

import copy
import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from prr import bn, reuse
from prr.errors import OptionError
from prr.layers import tensor
from prr.metrics import dice as dice_by_class
from prr.metrics import foreground_dice
from prr.predictors import rank_agreement
from prr.study import (
    Experiment,
    figures,
    grid,
    networks,
    prediction,
    prefixes,
    profiles,
    redundancy,
    standing,
    training,
)
from prr.study.models import pspnet, unet
from prr.study.prediction import KERNELS, LAYER, SCORES, TUNED
from prr.study.redundancy import LOST, REDUNDANT, REUSED, UNDECIDED
from prr.study.starts import initial

TOLERANCE = 0.05
pytestmark = pytest.mark.usefixtures("phantoms_only")


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """An experiment whose networks at the scale of the chapter have two steps, and one source seed."""
    folder = tmp_path_factory.mktemp("store")
    options = {"store": folder, "device": "cpu", "progress": False, "grid_steps": 2, "grid_seeds": 1, "rest_seeds": 1}
    return Experiment("smoke", **options)


@pytest.fixture(scope="module")
def small(large):
    """The same at the scale of the chapter."""
    return grid.scaled(large)


@pytest.fixture(scope="module")
def crossed(small):
    """The same with three targets and sources."""
    return small.variant(grid_seeds=3, rest_seeds=3)


@pytest.fixture(scope="module")
def drops(large):
    """`controls` of PSPNet."""
    return large.result(redundancy.controls(large, "pspnet"))


def table(values, seeds=3, noise=0.0):
    """Controls from {control: drop of each layer}, with patients that differ by `noise`."""
    rng = np.random.default_rng(0)
    rows = [
        ("unet", control, t, s, layer + 1, f"conv{layer + 1}", p, drop + noise * rng.normal(), 0.1, 0.1)
        for control, layers in values.items()
        for t, s, p in itertools.product(range(seeds), range(seeds), range(4))
        for layer, drop in enumerate(layers)
    ]
    columns = ["network", "control", "target", "source", "layer", "name", "patient", "drop", "rmse", "relative"]
    return pd.DataFrame(rows, columns=columns)


# ------------------------------------------------------------------- by hand


def test_the_index_is_the_share_of_the_random_donors_harm_that_the_source_avoids():
    found = redundancy.judged(
        table({"source": [0.0, 0.1, 0.4, 0.01], "start": [0.3, 0.1, 0.2, 0.01], "random": [0.4, 0.4, 0.4, 0.01]}),
        TOLERANCE,
    )
    assert found["index"].tolist()[:3] == pytest.approx([1, 0.75, 0])
    assert np.isnan(found["index"][3])  # nothing to be avoided
    assert found["adds"].tolist() == pytest.approx([0.3, 0, -0.2, 0])
    assert found["verdict"].tolist() == [REUSED, LOST, LOST, REDUNDANT]


def test_the_limits_of_the_index_hold_the_ratio_of_means_and_widen_with_noise():
    values = {"source": [0.1, 0.2], "start": [0.3, 0.3], "random": [0.5, 0.6]}
    calm, loud = (redundancy.judged(table(values, 6, noise), TOLERANCE) for noise in (0.01, 0.1))
    for found in (calm, loud):
        assert (found["index_low"] < found["index"]).all()
        assert (found["index"] < found["index_high"]).all()
    width = loud["index_high"] - loud["index_low"]
    assert (width > 3 * (calm["index_high"] - calm["index_low"])).all()


def test_the_index_is_undefined_where_the_random_donors_limits_hold_the_tolerance():
    values = {"source": [0.0], "start": [0.0], "random": [0.08]}
    found = redundancy.judged(table(values, noise=0.1), TOLERANCE)
    assert np.isnan(found["index"][0])
    assert found["verdict"].tolist() == [UNDECIDED]
    assert found["verdict_by_mean"].tolist() == [REUSED]


def test_a_patient_without_a_score_under_one_control_is_left_out_under_all():
    drops = table({"source": [0.0, 0.1], "start": [0.0, 0.0], "random": [0.5, 0.5]})
    drops.loc[drops["patient"] == 3, "drop"] += 1
    drops.loc[(drops["patient"] == 3) & (drops["control"] == "random") & (drops["layer"] == 2), "drop"] = np.nan
    assert redundancy.judged(drops, TOLERANCE)["index"].tolist() == pytest.approx([1, 0.8])


@pytest.mark.parametrize(
    ("source", "random", "expected"),
    [
        ((-0.01, 0.04), (-0.02, 0.05), REDUNDANT),
        ((0.2, 0.3), (-0.02, 0.05), REDUNDANT),  # whatever the source does
        ((-0.01, 0.05), (0.06, 0.2), REUSED),
        ((0.06, 0.3), (0.06, 0.2), LOST),
        ((0.04, 0.06), (0.06, 0.2), UNDECIDED),
        ((-0.01, 0.04), (0.04, 0.2), UNDECIDED),
        ((np.nan, np.nan), (np.nan, np.nan), UNDECIDED),  # one seed, one patient: no limits
    ],
)
def test_the_verdict_follows_from_limits_and_tolerance(source, random, expected):
    assert redundancy.verdict(*source, *random, tolerance=0.05) == expected


def test_the_tolerance_moves_index_verdicts_and_words():
    drops = table({"source": [0.0, 0.1], "start": [0.0, 0.1], "random": [0.3, 0.08]})
    strict, lax = (redundancy.judged(drops, tolerance) for tolerance in (0.05, 0.15))
    assert strict["verdict"].tolist() == strict["verdict_by_mean"].tolist() == [REUSED, LOST]
    assert lax["verdict"].tolist() == lax["verdict_by_mean"].tolist() == [REUSED, REDUNDANT]
    assert strict["index"].isna().tolist() == [False, False]
    assert lax["index"].isna().tolist() == [False, True]
    assert "the one kernel that passes with the source fails with a random" in redundancy.in_words(strict, 0.05)
    assert "1 of the 2 kernels that pass with the source pass with a random" in redundancy.in_words(lax, 0.15)


WORLDS = {  # by drops of three kernels: what the first sentence finds, counts of verdicts, what the source adds
    "redundancy": (
        {"source": [0.0, 0.01, 0.3], "start": [0.0, 0.01, 0.3], "random": [0.0, 0.01, 0.3]},
        "2 of the 2 kernels that pass with the source pass with a random donor too.",
        "2 redundant, 0 reused, 1 lost, 0 undecided.",
        "at 0 of 3 kernels, and is beaten at 0.",
    ),
    "reuse": (
        {"source": [0.0, 0.01, 0.3], "start": [0.02, 0.2, 0.1], "random": [0.4, 0.4, 0.4]},
        "none of the 2 kernels that pass with the source pass with a random donor too.",
        "0 redundant, 2 reused, 1 lost, 0 undecided.",
        "at 2 of 3 kernels, and is beaten at 1.",
    ),
    "nothing passes": (
        {"source": [0.2, 0.3, 0.3], "start": [0.2, 0.3, 0.3], "random": [0.4, 0.4, 0.4]},
        "no kernel passes with the source.",
        "0 redundant, 0 reused, 3 lost, 0 undecided.",
        "at 0 of 3 kernels, and is beaten at 0.",
    ),
}


@pytest.mark.parametrize("world", WORLDS)
def test_the_words_on_controls_begin_with_what_passes_and_count_the_rest(world, sentences):
    values, finding, counted, added = WORLDS[world]
    first, _, with_limits, beats = sentences(
        redundancy.in_words(redundancy.judged(table(values), TOLERANCE), TOLERANCE)
    )
    assert first == f"UNet: {finding}"
    assert with_limits == f"With 95 % limits over targets, sources and patients: {counted}"
    assert beats.endswith(added)


def test_one_target_alone_is_said_to_be_one(sentences):
    judged = redundancy.judged(table(WORLDS["reuse"][0], seeds=1, noise=0.001), TOLERANCE)
    assert judged["over"].unique().tolist() == ["patients"]
    said = sentences(redundancy.in_words(judged, TOLERANCE))
    assert said[2].startswith("With 95 % limits over patients of one target, trained once: ")


def test_what_the_intervals_of_a_control_resample_stands_beside_them():
    values = {"source": [0.0, 0.1], "start": [0.0, 0.1], "random": [0.3, 0.1]}
    both = table(values)
    both = both[(both["control"] != "start") | (both["source"] == 0)]
    both = both[(both["control"] != "random") | ((both["source"] == 0) & (both["target"] == 0))]
    over = redundancy.means(both).groupby("control", sort=False)["over"].unique()
    assert [each.tolist() for each in over] == [
        ["targets, sources and patients"], ["targets and patients"], ["patients"]
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("zero", "noise", "says", "finding"),
    [
        (0.5, 0.0, "zero is harsher than a random donor.", "It costs more by 0.20 [0.20, 0.20] over patients of"),
        (0.1, 0.0, "zero is gentler than a random donor.", "It costs less by 0.20 [0.20, 0.20] over patients of"),
        (0.4, 0.3, "zero is neither harsher nor gentler, for certain, than a random donor.", "It costs more by"),
    ],
)
def test_which_null_is_the_harsher_one_is_read_off_this_run(zero, noise, says, finding, sentences):
    values = {"source": [0.1] * 4, "noise": [0.1] * 4, "zero": [zero] * 4, "random": [0.3] * 4}
    drops = table(values)
    rng = np.random.default_rng(1)
    drops["drop"] += noise * rng.normal(size=len(drops))
    thinned = (drops["control"] == "zero") & ((drops["target"] > 0) | (drops["source"] > 0))
    drops.loc[(drops["control"] == "random") & (drops["target"] > 0), "drop"] = 9  # targets that zero has not
    found = redundancy.nulls(drops[~thinned])
    assert found["over"].tolist() == ["targets, sources and patients", "patients"]
    said = sentences(redundancy.nulls_in_words(found))
    assert said[2] == f"UNet: {says}"
    assert said[3].startswith(finding)


def test_a_null_is_compared_kernel_by_kernel_within_patients():
    drops = table({"source": [0.0, 0.1], "noise": [0.3, 0.2], "zero": [0.1, 0.1], "random": [0.1, 0.1]}, noise=0.1)
    keys = ["target", "source", "patient", "layer"]
    wide = drops.pivot(index=keys, columns="control", values="drop")
    row = redundancy.nulls(drops).iloc[0]
    assert (row["control"], row["beside"]) == ("noise", "source")
    assert row["more"] == pytest.approx((wide["noise"] - wide["source"]).mean())
    assert row["low"] < row["more"] < row["high"]
    assert "the source's distance is harsher than the source" in redundancy.nulls_in_words(redundancy.nulls(drops))


def test_all_kinds_are_counted_by_hand():
    found = pd.DataFrame(
        [("W", 1, 0, 0.0), ("W", 1, 1, 0.2), ("W", 2, 0, 0.3), ("W", 2, 1, 0.3), ("RM", 1, 0, 0.0), ("RM", 1, 1, 0.0)],
        columns=["kind", "layer", "patient", "drop"],
    )
    table = redundancy.by_kind({"source": found, "start": found}, "unet", tolerance=0.1)
    assert table["kind"].tolist() == ["W", "RM"]
    assert table["layers"].tolist() == [2, 1]
    assert table["source"].tolist() == pytest.approx([0.2, 0])
    assert table["start: within"].tolist() == [0.5, 1]
    assert redundancy.by_kind({"source": found}, "unet", tolerance=0.05)["source: within"].tolist() == [0, 1]


def test_values_are_crossed_in_the_order_of_the_interval_and_patients_without_a_value_are_left_out():
    rows = [
        (t, s, p, layer, 1000 * t + 100 * s + 10 * p + layer) for t, s, p, layer in itertools.product(*[range(2)] * 4)
    ]
    long = pd.DataFrame(rows, columns=["target", "source", "patient", "layer", "drop"]).sample(frac=1, random_state=0)
    long = long.sort_values(["target", "source", "patient", "layer"])
    values = grid.crossed(long, "drop", "layer")
    assert values.shape == (2, 2, 2, 2)
    assert values[1, 0, 1, 1] == 1011
    long.loc[(long["patient"] == 1) & (long["target"] == 0), "drop"] = np.nan
    assert grid.crossed(long, "drop", "layer").shape == (2, 2, 1, 2)


def test_what_is_thinned_is_all_that_has_fewer_seeds_than_the_grid():
    whole, few = (Experiment("quick", grid_seeds=3, rest_seeds=rest, transfer_network="both") for rest in (3, 1))
    assert set(grid.thinned(few)["part"]) == {
        part for part, (targets, sources) in grid.PARTS.items() if "rest" in (targets, sources)
    }
    assert grid.thinned(whole).empty
    for part in grid.PARTS:  # and what is not listed has all
        targets, sources = grid.seeds(few, part)
        if part not in {*grid.thinned(few)["part"], "all six kinds"}:
            assert (targets, sources) in [([0, 1, 2], [0, 1, 2]), ([0, 1, 2], [0])]
    one = grid.thinned(few.variant(transfer_network="pspnet"))
    assert one["part"].iloc[-1].startswith("unet: ")
    assert grid.thinned(Experiment("paper")).empty


def test_the_paper_profile_gives_every_part_all_seeds():
    assert profiles.PROFILES["paper"].rest_seeds == profiles.PROFILES["paper"].grid_seeds


def test_a_target_is_never_its_own_source(crossed):
    for control in set(redundancy.CONTROLS) - {"own"}:
        for _, job in redundancy.sweeps(crossed, "unet", control):
            assert job.needs["target"].digest != job.needs["source"].digest


def test_sources_are_crossed_with_targets_and_begin_where_they_began(crossed):
    for control in ("source", "other seed"):
        pairs = [(labels["target"], labels["source"]) for labels, _ in redundancy.sweeps(crossed, "unet", control)]
        assert len(set(pairs)) == 9
        for labels, job in redundancy.sweeps(crossed, "unet", control):
            starts = [job.needs[who].needs["initial"] for who in ("target", "source")]
            theirs = [{k: v.clone() for k, v in crossed.result(each).state_dict().items()} for each in starts]
            assert labels["target"] == job.needs["target"].arguments["seed"]
            assert all(torch.equal(value, theirs[1][name]) for name, value in theirs[0].items())


@pytest.mark.parametrize("control", ["random", "shuffled", "noise"])
def test_drawn_donors_differ_between_targets_and_draws(crossed, control):
    drawn = [job.arguments["seed"] for _, job in redundancy.sweeps(crossed, "unet", control)]
    assert len(set(drawn)) == len(drawn) == (9 if control == "random" else 3)


@pytest.mark.parametrize(
    "describe",
    [
        redundancy.controls, redundancy.all_kinds, prefixes.joint, prefixes.prefixes, prediction.apart,
        prediction.layers, prediction.by_source,
        lambda run, network: prefixes.transplant_sets(run, network, 0),
        lambda run, network: prefixes.prefix(run, network, 0, prefixes.NOTHING, 0),
        lambda run, network: prediction.source_scores(run, network, 0, "T1 auto"),
        lambda run, network: prediction.fine_tuned(run, network, 0, "T1 auto, few", 1),
        lambda run, network: prediction.distances(run, network, 0),
    ],
)  # fmt: skip
def test_whichever_run_is_given_the_networks_are_those_of_the_small_scale(large, small, describe):
    assert large.profile.steps != small.profile.steps
    assert describe(large, "unet").digest == describe(small, "unet").digest


# ------------------------------------------------------------------- prefixes


@pytest.mark.parametrize("network", [unet, pspnet])
def test_a_unit_is_a_convolution_with_what_runs_before_the_next(network):
    model = network(2 if network is unet else 4).eval()
    found = prefixes.units(model, torch.zeros(1, 1, 48, 48))
    assert found[found["kind"] == "W"]["unit"].tolist() == list(range(1, found["unit"].max() + 1))
    for name, part in found[found["kind"].isin(["RM", "RV", "RW", "RB"])].groupby("unit"):
        assert sorted(part["kind"]) == ["RB", "RM", "RV", "RW"], name
        (norm,), (conv,) = (found.query(f"unit == {name} and kind == '{kind}'")["name"] for kind in ("RM", "W"))
        assert model.get_submodule(norm).num_features == model.get_submodule(conv).out_channels


def test_depths_leave_the_classifier_free():
    for count in (3, 23, 26):
        assert prefixes.depths(count)[-1] == count - 1
        assert 0 not in prefixes.depths(count)
    assert len(prefixes.depths(26)) == prefixes.DEPTHS


def fresh(name):
    """An untrained UNet of smoke's width."""
    return initial("unet", 2, "independent", name, "segmentation", 0)


def train(model, data):
    """Two steps."""
    options = {"steps": 2, "batch_size": 8, "learning_rate": 3e-3, "seed": 0, "progress": False, "checkpoints": 0}
    training.fit(model, data, "segmentation", **options)


@pytest.mark.parametrize("given", [True, False])
def test_a_frozen_prefix_is_frozen_and_the_rest_is_not(small, given):
    data, begun = small.slices("acdc"), fresh("prefix")
    other = fresh("other") if given else None
    model = prefixes.loaded(begun, other, data.images[:1], 3, frozen=True)
    train(model, data)
    for row in prefixes.units(begun, data.images[:1]).itertuples():
        same = torch.equal(tensor(model, row.kind, row.name), tensor(other or begun, row.kind, row.name))
        statistics = row.kind in ("RM", "RV") and not given  # of an untrained prefix: they belong to nobody
        assert same == (row.unit <= 3 and not statistics) or row.kind == "B", row


def test_a_prefix_that_is_trained_on_moves(small):
    data, other = small.slices("acdc"), fresh("other")
    model = prefixes.loaded(fresh("prefix"), other, data.images[:1], 3, frozen=False)
    assert torch.equal(tensor(model, "W", "down.0.conv1"), tensor(other, "W", "down.0.conv1"))
    train(model, data)
    assert not torch.equal(tensor(model, "W", "down.0.conv1"), tensor(other, "W", "down.0.conv1"))


def test_a_short_training_is_scored_on_validation_patients_and_sees_n_patients_alone(small, monkeypatch):
    seen, fit = [], training.fit

    def spy(model, data, *arguments, **options):
        seen.append((data.train.patient.unique().tolist(), options))
        return fit(model, data, *arguments, **options)

    monkeypatch.setattr(training, "fit", spy)
    slices = small.slices("acdc")
    given = {"slices": slices, "source": None, "what": "prefix", "n": 0, "frozen": False, "device": "cpu"}
    given |= {"steps": 1, "batch_size": 8, "learning_rate": 1e-3, "progress": False}
    every, one = (
        prefixes.shortly_trained(fresh("prefix"), seed=seed, patients=patients, **given)
        for seed, patients in ((0, None), (1, 1))
    )
    assert seen[0][0] == slices.train.patient.unique().tolist()
    assert len(seen[1][0]) == 1 < len(seen[0][0])
    assert seen[0][1]["seed"] != seen[1][1]["seed"]
    for found in (every, one):
        assert found["patient"].tolist() == slices.validation.patient.unique().tolist()
    assert prefixes.prefix(small, "unet", 0, prefixes.NOTHING, 0).arguments["steps"] == grid.short(small)


def dice(model, part):
    return np.nanmean(foreground_dice(reuse.predict(model, part.images), part))


@pytest.fixture
def one_depth(monkeypatch):
    """Only the deepest prefix."""
    monkeypatch.setattr(prefixes, "DEPTHS", 1)


def in_sets(small, source, monkeypatch):
    """`transplanted` into the target of seed 0 from one network, with kernel 2 as the only one that passes."""
    monkeypatch.setattr(prefixes, "JOINT", ("source",))
    target, slices = small.model("unet", **grid.target(0)), small.slices("acdc")
    drops = pd.DataFrame({"layer": range(1, 24), "drop": [0.5, 0.0] + 21 * [0.5]})
    return prefixes.transplanted(target, {"source": source}, drops, slices, seed=0, every=1, tolerance=TOLERANCE)


@pytest.mark.usefixtures("one_depth")
def test_everything_from_itself_at_once_costs_nothing(small, monkeypatch):
    found = in_sets(small, small.model("unet", **grid.target(0)), monkeypatch)
    itself = found[~found["recalibrated"]]
    assert itself["n"].max() == 22
    assert (itself["drop"] == 0).all()


@pytest.mark.usefixtures("one_depth")
def test_a_joint_transplant_is_scored_with_statistics_as_they_come_and_re_estimated(small, monkeypatch):
    model, source = (small.model("unet", **each) for each in (grid.target(0), grid.source(0, 0)))
    found, part = in_sets(small, source, monkeypatch), small.slices("acdc").validation
    table = prefixes.units(model, part.images[:1])
    taken = {
        (prefixes.KERNELS, 1): table.query("unit == 2 and kind == 'W'"),
        (prefixes.UNITS, 1): table.query("unit == 2"),
        (prefixes.PREFIX, 22): table.query("unit <= 22"),
    }
    for (name, n), pairs in taken.items():
        changed = copy.deepcopy(model)
        for kind, layer in pairs[["kind", "name"]].itertuples(index=False):
            tensor(changed, kind, layer).data.copy_(tensor(source, kind, layer))
        rows = found[(found["control"] == "source") & (found["set"] == name) & (found["n"] == n)]
        expected = [dice(model, part) - dice(each, part) for each in (changed, bn.recalibrate(changed, part.images))]
        assert rows["recalibrated"].tolist() == [False, True]
        assert rows["drop"].tolist() == pytest.approx(expected, abs=1e-6)


def test_kernels_pass_whose_mean_drop_is_within_the_tolerance():
    table = prefixes.units(unet(2).eval(), torch.zeros(1, 1, 48, 48))
    drops = pd.DataFrame({"layer": [1, 1, 2, 2, 3, 3], "drop": [0.0, 0.1, 0.0, 0.2, 0.04, 0.0]})
    for tolerance, passing in ((0.05, [1, 3]), (0.1, [1, 2, 3]), (0.01, [])):
        (_, n, kernels), (_, same, whole), *first = prefixes.sets(table, drops, tolerance)
        assert n == same == len(passing)
        assert kernels["layer"].tolist() == passing
        assert set(kernels["kind"]) <= {"W"}
        assert set(whole["unit"]) == set(passing)
        assert {"W", "B", "RM", "RV", "RW", "RB"} == set(whole["kind"]) or not passing
        assert [n for _, n, _ in first] == prefixes.depths(23)


def test_the_run_s_tolerance_decides_what_passes_and_is_within(small):
    lax = small.variant(tolerance=0.2)
    for job in (prefixes.transplant_sets(lax, "unet", 0), redundancy.all_kinds(lax, "unet")):
        assert job.arguments["tolerance"] == 0.2


def test_an_unknown_prefix_is_refused(small):
    with pytest.raises(OptionError, match="prefix 'all': expected one of source, frozen"):
        prefixes.prefix(small, "unet", 0, "all", 3)


def trainings(dice, targets=2, patients=5):
    """Prefixes from {(prefix, n): Dice}; patients differ by the same little in all."""
    rows = [
        ("unet", t, prefix, n, p, value + 0.01 * p)
        for (prefix, n), value in dice.items()
        for t, p in itertools.product(range(targets), range(patients))
    ]
    return pd.DataFrame(rows, columns=["network", "target", "prefix", "n", "patient", "dice"])


def test_a_prefix_is_judged_beyond_an_untrained_one_of_as_many_layers():
    dice = {(prefixes.NOTHING, 0): 0.6}
    for n, untrained in ((2, 0.5), (4, 0.3)):
        dice |= {(prefix, n): untrained + 0.2 for prefix in prefixes.PREFIXES} | {(prefixes.UNTRAINED, n): untrained}
    means = prefixes.prefix_means(trainings(dice)).set_index(["prefix", "n"])
    row = means.loc[("source, frozen (AnB)", 4)]
    assert (row["beyond"], row["gain"]) == pytest.approx((0.2, -0.1))
    assert np.isnan(means.loc[(prefixes.UNTRAINED, 4), "beyond"])
    assert means["over"].unique().tolist() == ["targets and patients"]


def words_on_prefixes(sentences, source, trained_on, targets=2, spread=0.0):
    """What is said where the source's prefixes of 2 and 4 layers reach this, an untrained one 0.5, nothing loaded 0.6.

    Patients differ by `spread` in the gain of the source.
    """
    dice = {(prefixes.NOTHING, 0): 0.6} | {(name, n): 0.5 for n in (2, 4) for name in prefixes.PREFIXES}
    dice |= {(name, n): value for name, values in ((prefixes.SOURCE, source), (prefixes.TRAINED_ON, trained_on))
             for n, value in zip((2, 4), values, strict=True)}  # fmt: skip
    table = trainings(dice, targets)
    table.loc[table["prefix"] == prefixes.SOURCE, "dice"] += spread * (table["patient"] - 2)
    return sentences(prefixes.in_words(prefixes.prefix_means(table)))


def test_not_all_is_adjustment_where_the_source_is_beyond_an_untrained_prefix(sentences):
    assert words_on_prefixes(sentences, (0.7, 0.55), (0.8, 0.9), targets=1) == [
        "UNet: not all is adjustment.",
        "A frozen source beats an untrained prefix of as many layers at n = 2, 4.",
        "Its largest surplus, at n = 2, is 0.20 [0.20, 0.20] over patients of one target, trained once.",
        "It is worse at no n for certain.",
        "Adjustment has limits: the frozen source ends below nothing loaded at n = 4.",
        "Trained on, the source beats nothing loaded at n = 2, 4.",
    ]


def test_the_objection_stands_where_an_untrained_prefix_does_as_well(sentences):
    first, beats, surplus, *others = words_on_prefixes(sentences, (0.5, 0.65), (0.6, 0.6), spread=0.3)
    assert surplus.startswith("Its largest surplus, at n = 4, is 0.15 [-")
    assert [first, beats, *others] == [
        "UNet: the objection stands.",
        "A frozen source beats an untrained prefix of as many layers at no n for certain.",
        "It is worse at no n for certain.",
        "Adjustment shows no limits: the frozen source ends below nothing loaded at no n for certain.",
        "Trained on, the source beats nothing loaded at no n for certain.",
    ]


def test_a_source_that_is_worse_than_an_untrained_prefix_is_said_to_be(sentences):
    said = words_on_prefixes(sentences, (0.4, 0.3), (0.5, 0.5))
    assert said[0] == "UNet: the objection stands."
    assert said[3] == "It is worse at n = 2, 4."


def at_once(count, drop, mended):
    """`joint` of one target whose passing kernels, `count` of them, cost this."""
    costs = zip(prefixes.JOINT, (drop, 0.2, 0.3, 0.4), strict=True)
    rows = [(name, prefixes.KERNELS, count, *each) for name, raw in costs for each in ((False, raw), (True, mended))]
    rows += [("own", prefixes.NONE, 0, anew, 0.01 * anew) for anew in (False, True)]
    return pd.DataFrame(rows, columns=["control", "set", "n", "recalibrated", "drop"]).assign(network="unet", target=0)


@pytest.mark.parametrize(
    ("count", "drop", "mended", "first"),
    [
        (14, 0.45, 0.12, "UNet: what passes one by one (14 kernels) fails at once."),
        (1, 0.04, 0.01, "UNet: what passes one by one (1 kernel) passes at once."),
    ],
)
def test_whether_what_passes_alone_passes_together(count, drop, mended, first, sentences):
    said = sentences(prefixes.joint_in_words(at_once(count, drop, mended), TOLERANCE))
    assert said == [
        first,
        f"It costs {drop:.2f} of Dice, {mended:.2f} after recalibration, which alone costs 0.01.",
        "The same kernels cost 0.30 from the untrained start, 0.40 from a random donor, 0.20 from another seed.",
    ]


def test_where_no_kernel_passes_nothing_is_said_of_them(sentences):
    said = sentences(prefixes.joint_in_words(at_once(0, 0.0, 0.0), TOLERANCE))
    assert said == ["UNet: no kernel passes one by one, so none are put in together."]


# ------------------------------------------------------------------- predictors


def ranked(harm, scores, layers=3, sources=8, own=()):
    """Layers of sources from a harm and scores, functions of (source, layer); each is a group of its own."""
    rows = [
        {"network": "pspnet", "target": 0, "label": f"source {s}", "group": f"group {s}", "own": s in own, "layer": n,
         "name": f"conv{n}", "drop": harm(s, n)} | {name: scores.get(name, lambda s, n: 0.0)(s, n) for name in SCORES}
        for s, n in itertools.product(range(sources), range(layers))
    ]  # fmt: skip
    return pd.DataFrame(rows)


def whole_agreement(layers, dice):
    by_source = layers.groupby(prediction.SOURCE, sort=False)[[*SCORES, "drop"]].mean().reset_index()
    return prediction.agreement(layers, by_source.assign(dice=dice))


def agreement(layers, dice, sources=prediction.ALL):
    found = whole_agreement(layers, dice)
    return found[found["sources"] == sources].set_index(["truth", "score"])


def said_of(agreement, truth, sentences):
    """The sentences on one truth, the heading cut off."""
    found = sentences(prediction.in_words(agreement[agreement["truth"] == truth]))
    head = f"PSPNet, {truth}: "
    assert found[0].startswith(head)
    return [found[0].removeprefix(head), *found[1:]]


def test_a_score_that_grows_with_the_harm_is_found_and_one_that_falls_misleads(sentences):
    rng = np.random.default_rng(0)
    walk = rng.permutation(16)
    layers = ranked(
        lambda s, n: s + 0.1 * n,
        {"relative": lambda s, n: np.exp(s) + n, "ratio": lambda s, n: -s - 0.1 * n, "travelled": lambda s, n: walk[s],
         "cka": lambda s, n: -s - 0.1 * n, "logme": lambda s, n: -(s**3)},
        sources=16,
    )  # fmt: skip
    whole = whole_agreement(layers, 1 - np.arange(16) / 20)
    found = whole[whole["sources"] == prediction.ALL].set_index(["truth", "score"])
    for truth in (LAYER, KERNELS, TUNED):
        assert found.loc[(truth, "relative"), "rho"] == pytest.approx(1)
        assert found.loc[(truth, "relative"), "verdict"] == prediction.PREDICTS
        assert found.loc[(truth, "ratio"), "verdict"] == prediction.MISLEADS
        assert found.loc[(truth, "cka"), "rho"] == pytest.approx(1)  # more alike, less harm
    assert found.loc[(TUNED, "logme"), "rho"] == pytest.approx(1)
    assert (LAYER, "logme") not in found.index
    assert found.loc[(KERNELS, "relative"), "beyond_low"] > 0
    assert np.isnan(found.loc[(KERNELS, "travelled"), "beyond"])
    assert said_of(whole, KERNELS, sentences)[:4] == [
        "Relative RMSE predicts: 1.00 [1.00, 1.00] over groups of sources.",
        "So do 2 of the other 8 scores.",
        "RMSE over its null misleads: -1.00 [-1.00, -1.00] over groups of sources.",
        "Without the sources that had the target's own labels this stays.",
    ]
    assert said_of(whole, KERNELS, sentences)[-1].startswith("Relative RMSE ranks better than how far the source has")


def test_a_score_that_only_follows_training_length_does_not_beat_it(sentences):
    layers = ranked(lambda s, n: s + n, {"relative": lambda s, n: 2 * s, "travelled": lambda s, n: 3 * s})
    whole = whole_agreement(layers, np.linspace(1, 0, 8))
    row = whole[whole["sources"] == prediction.ALL].set_index(["truth", "score"]).loc[(KERNELS, "relative")]
    assert row[["beyond", "beyond_low", "beyond_high"]].tolist() == [0, 0, 0]
    said = "Relative RMSE ranks neither better nor worse, for certain, than how far the source has trained: 0.00"
    assert said_of(whole, KERNELS, sentences)[-1].startswith(said)
    flipped = whole_agreement(layers.assign(relative=-layers["relative"]), np.linspace(1, 0, 8))
    assert said_of(flipped, KERNELS, sentences)[-1].startswith("Relative RMSE ranks worse than how far")


def test_a_small_correlation_is_weak_however_certain():
    assert prediction.verdict(0.08, 0.02, 0.14) == prediction.WEAK
    assert prediction.verdict(-0.29, -0.3, -0.1) == prediction.WEAK
    assert prediction.verdict(0.3, 0.1, 0.5) == prediction.PREDICTS
    assert prediction.verdict(-0.3, -0.5, -0.1) == prediction.MISLEADS
    assert prediction.verdict(0.9, -0.1, 1.0) == prediction.verdict(0.9, np.nan, np.nan) == prediction.OPEN


def test_where_no_score_predicts_the_highest_is_named(sentences):
    walk = [3, 0, 2, 1, 3, 1, 0, 2]
    whole = whole_agreement(ranked(lambda s, n: s + n, {"h_score": lambda s, n: -walk[s]}), np.linspace(1, 0, 8))
    assert said_of(whole, TUNED, sentences)[0].startswith("No score predicts, not even ")


def test_a_score_that_knows_the_target_s_own_labels_loses_without_their_sources(sentences):
    """Two of eight sources have the target's own labels, do no harm, and are all that the score can tell."""
    walk = [0, 0, 5, 2, 4, 3, 6, 1]
    score = {"h_score": lambda s, n: 10 - walk[s] if s < 2 else walk[s] % 3}
    layers = ranked(lambda s, n: s + n, score, own=(0, 1))
    whole = whole_agreement(layers, np.linspace(1, 0, 8))
    every, others = (whole[whole["sources"] == kept] for kept in (prediction.ALL, prediction.OTHERS_ALONE))
    assert every["groups"].unique().tolist() == [8]
    assert others["groups"].unique().tolist() == [6]
    alone = agreement(layers[~layers["own"]], np.linspace(1, 0, 8)[2:])
    assert others["rho"].tolist() == alone["rho"].tolist()  # ranked among themselves
    for kept, limits in ((prediction.ALL, (0.73, 0.37, 0.91)), (prediction.OTHERS_ALONE, (0.4, -0.15, 0.9))):
        chosen = (whole["score"] == "h_score") & (whole["sources"] == kept)
        whole.loc[chosen, ["rho", "low", "high", "verdict"]] = [*limits, prediction.verdict(*limits)]
    said = said_of(whole, TUNED, sentences)
    assert said[0] == "H-score predicts: 0.73 [0.37, 0.91] over groups of sources."
    assert said[1:3] == [
        "Without the sources that had the target's own labels the answer changes for 1 of 9 scores.",
        "H-score then is undecided: 0.40 [-0.15, 0.90] over groups of sources.",
    ]


def test_whole_groups_are_left_out_and_few_of_them_decide_nothing(sentences):
    layers = ranked(lambda s, n: s + n, {"relative": lambda s, n: s + n}, own=(0, 1))
    layers["group"] = layers["label"].map(lambda label: "ab"[int(label[-1]) % 2])
    whole = whole_agreement(layers, np.linspace(1, 0, 8))
    assert whole["low"].isna().all()
    assert set(whole["verdict"]) == {prediction.OPEN}
    assert said_of(whole, KERNELS, sentences)[:2] == [
        "With 2 groups of sources there are no limits, so nothing is decided.",
        "Without the sources that had the target's own labels too few groups are left for limits.",
    ]
    four = layers.assign(group=layers["label"].map(lambda label: int(label[-1]) // 2))
    rng = np.random.default_rng(0)
    four["rmse"] = four["drop"] + 3 * rng.normal(size=len(four))
    table = four.groupby("label")[["rmse", "drop", "group"]].mean()
    expected = rank_agreement(table["rmse"], table["drop"], table["group"])
    found = agreement(four, np.linspace(1, 0, 8)).loc[(KERNELS, "rmse")]
    assert found[["rho", "low", "high"]].tolist() == pytest.approx(expected)


def test_the_gap_of_two_scores_is_a_jackknife_over_groups_by_hand():
    rng, groups = np.random.default_rng(0), pd.Series(np.repeat(range(5), 4))
    truth = pd.Series(rng.normal(size=20))
    first, second = (truth + noise * rng.normal(size=20) for noise in (0.5, 2))

    def rho(score, kept):
        return stats.spearmanr(score[kept], truth[kept]).statistic

    whole = rho(first, slice(None)) - rho(second, slice(None))
    left = [rho(first, groups != g) - rho(second, groups != g) for g in range(5)]
    half = stats.t.ppf(0.975, 4) * stats.sem(5 * whole - 4 * np.array(left))
    assert prediction.gap(first, second, truth, groups) == pytest.approx((whole, whole - half, whole + half))


def test_which_layer_ranks_within_each_source_alone():
    layers = ranked(lambda s, n: 100 * s - n, {"relative": lambda s, n: 100 * s + n})
    found = agreement(layers, np.linspace(1, 0, 8))
    assert found.loc[(LAYER, "relative"), "rho"] == pytest.approx(-1)
    assert found.loc[(KERNELS, "relative"), "rho"] == pytest.approx(1)


def test_sources_are_six_groups_of_which_the_target_s_own_is_one(small):
    labels = pd.DataFrame([labels for labels, _ in prediction.labelled_sources(small, "pspnet")])
    assert list(labels) == prediction.SOURCE
    counted = labels.groupby("group", sort=False).size().to_dict()
    assert counted == {"ACDC seg": 4, "ACDC auto": 4, "T1 seg": 3, "T1 auto": 3, "RVSC seg": 3, "RVSC auto": 3}
    assert labels.loc[labels["own"], "group"].unique().tolist() == ["ACDC seg"]
    assert labels.loc[labels["group"] == "ACDC seg", "own"].all()
    assert all(label.startswith(group) for label, group in zip(labels["label"], labels["group"], strict=True))


def test_twenty_sources_begin_where_the_target_began_and_none_is_the_target(small):
    found = prediction.candidates(small, 0)
    assert len(found) == 20
    jobs = [networks.model(small, "pspnet", **each) for each in found.values()]
    assert len({job.digest for job in jobs}) == 20
    assert networks.model(small, "pspnet", **grid.target(0)).digest not in {job.digest for job in jobs}
    assert {each["common"] for each in found.values()} == {0}


def test_the_batch_norm_behind_a_kernel_is_the_one_that_runs_next():
    target, source = (unet(2).eval() for _ in range(2))
    with torch.no_grad():
        source.down[0].bn2.bias += 1
    found = prediction.norms(target, source, torch.zeros(1, 1, 48, 48))
    assert [name for name, value in found.items() if value > 0] == ["down.0.conv2"]
    assert "classifier" not in found


# ------------------------------------------------------------------- whole


def test_own_parameters_cost_nothing_and_every_control_is_there(drops):
    assert list(drops["control"].unique()) == list(redundancy.CONTROLS)
    assert (drops.loc[drops["control"] == "own", "drop"] == 0).all()
    assert (drops.loc[drops["control"] == "own", "rmse"] == 0).all()
    zero = drops[drops["control"] == "zero"]
    assert np.allclose(zero["relative"], 1)
    noise, source = (
        drops[drops["control"] == name].set_index(["layer", "patient"])["rmse"] for name in ("noise", "source")
    )
    assert np.allclose(noise, source, rtol=1e-4)


def test_tables_words_and_figures_follow_from_the_drops(drops):
    means, judged = redundancy.means(drops), redundancy.judged(drops, TOLERANCE)
    layers = drops["layer"].nunique()
    assert len(judged) == layers
    assert len(means) == layers * len(redundancy.CONTROLS)
    counted = redundancy.counts(judged)
    assert (counted.T.groupby(level=0).sum() == layers).all().all()
    assert "PSPNet" in redundancy.in_words(judged, TOLERANCE)
    assert len(figures.controls(means, judged, tolerance=TOLERANCE).axes) == 2


def test_the_chapter_s_targets_are_weighed_at_their_own_scale(large, crossed):
    found = large.result(redundancy.dice(large, "unet"))
    small = grid.scaled(large)
    part, model = small.slices("acdc").validation, small.model("unet", **grid.target(0))
    each = dice_by_class(reuse.predict(model, part.images).argmax(1), part.masks, part.patient, part.classes)
    expected = each[each["class"] > 0].groupby("patient")["dice"].mean().mean()
    assert standing.foreground(found) == pytest.approx(expected)
    assert standing.box(large, {"unet": expected})  # two steps of training
    assert len(redundancy.dice(crossed, "unet").needs["parts"]) == 3


@pytest.mark.usefixtures("one_depth")
def test_joint_transplants_and_what_they_cost(large):
    found = large.result(prefixes.joint(large, "unet"))
    own = found[found["control"] == "own"]
    assert own.loc[~own["recalibrated"], "drop"].tolist() == [0]
    assert set(found["control"]) == {*prefixes.JOINT, "own"}
    trained = prefixes.prefix_means(
        trainings({(prefixes.NOTHING, 0): 0.5} | {(name, 3): 0.4 for name in prefixes.PREFIXES})
    )
    assert len(figures.prefixes(prefixes.joint_means(found), trained).axes) == 2
    assert len(figures.prefixes(prefixes.joint_means(found), pd.DataFrame()).axes) == 1


def test_prefixes_are_all_of_every_target_and_depth(crossed):
    labels = prefixes.prefixes(crossed, "unet").arguments["labels"]
    expected = [(prefixes.NOTHING, 0), *itertools.product(prefixes.PREFIXES, prefixes.depths(23))]
    assert [(each["target"], each["prefix"], each["n"]) for each in labels] == [
        (seed, *each) for seed in range(3) for each in expected
    ]


def test_a_source_has_all_scores_and_is_fine_tuned_from_the_same_start(small, monkeypatch):
    begun, fit = [], training.fit

    def spy(model, *arguments, **options):
        begun.append({name: value.clone() for name, value in model.state_dict().items()})
        return fit(model, *arguments, **options)

    labels = ["T1 auto", "ACDC seg, short"]
    models = [small.model("pspnet", **prediction.candidates(small, 0)[label]) for label in labels]
    small.model("pspnet", **grid.target(0))  # before the spy counts
    monkeypatch.setattr(training, "fit", spy)
    for label in labels:
        scores = small.result(prediction.source_scores(small, "pspnet", 0, label))
        assert scores[[name for name in SCORES if name != "norms"]].notna().all().all()
        tuned = small.result(prediction.fine_tuned(small, "pspnet", 0, label, 0))
        assert set(tuned["patient"]) == set(small.slices("acdc").validation.patient.tolist())
    first, second = begun
    for name in ("classifier.weight", "auxiliary.0.conv.weight"):
        assert torch.equal(first[name], second[name])  # its own
    for start, model in zip(begun, models, strict=True):
        assert torch.equal(start["encoder.conv1.weight"], model.state_dict()["encoder.conv1.weight"])
        assert torch.equal(start["fuse.bn.running_mean"], model.state_dict()["fuse.bn.running_mean"])


def test_drops_stand_beside_the_scores_of_the_same_kernel_and_truths_are_means():
    names = {"network": "unet", "target": 0, "group": "g", "own": False}
    labels = ["a", "b"]
    scores = pd.DataFrame(
        [names | {"label": label, "layer": n, "name": f"conv{n}", **dict.fromkeys(SCORES, n)}
         for label in labels for n in (1, 2)]
    )  # fmt: skip
    drops = pd.DataFrame(
        [names | {"label": label, "name": f"conv{n}", "patient": p, "drop": value + 10 * n + p}
         for label, value in zip(labels, (100, 200), strict=True) for n in (2, 1) for p in (0, 1)]
    )  # fmt: skip
    layers = prediction.scores_and_drops(scores, drops)
    assert layers["drop"].tolist() == [110.5, 120.5, 210.5, 220.5]
    dice = {"a": ([0.2, 0.4], [0.6, np.nan]), "b": ([0.1, 0.1], [0.3, 0.3])}  # of two draws
    tuned = pd.DataFrame(
        [names | {"label": label, "drawn": drawn, "patient": p, "dice": value}
         for label in ("b", "a") for drawn, values in enumerate(dice[label]) for p, value in enumerate(values)]
    )  # fmt: skip
    found = prediction.scores_and_truths(layers, tuned)
    assert found["label"].tolist() == labels
    assert found["drop"].tolist() == [115.5, 215.5]
    assert found["rmse"].tolist() == [1.5, 1.5]
    assert found["dice"].tolist() == pytest.approx([0.45, 0.2])


def test_distances_stand_beside_their_null_for_both_starts(large):
    found = prediction.apart_means(large.result(prediction.apart(large, "unet")))
    assert set(found["start"]) == {"shared", "independent"}
    shared = found[found["start"] == "shared"]
    assert (shared["relative"] < found.loc[found["start"] == "independent", "relative"].min()).all()
    alone = found[found["start"] == "independent"]
    assert (alone["aligned"] < alone["relative"]).all()
    assert len(prediction.apart_in_words(found).splitlines()) == 2


def test_distances_are_said_beside_what_unrelated_movement_leads_to(sentences):
    rows = [("unet", "shared", "source", 0.52, 0.4, 0.398), ("unet", "shared", "other seed", 0.97, 0.4, 0.4)]
    rows += [("unet", "independent", "source", 1.3, 1.4, 1.1), ("unet", "independent", "other seed", 1.0, 1.4, 1.1)]
    columns = ["network", "start", "other", "ratio", "relative", "aligned"]
    assert sentences(prediction.apart_in_words(pd.DataFrame(rows, columns=columns))) == [
        "UNet, shared start: The source ends nearer than unrelated movement leads, at 0.52 of that distance.",
        "The other seed ends about as far as unrelated movement leads, at 0.97 of that distance.",
        "Aligning channels takes nothing off.",
        "UNet, independent start: The source ends farther than unrelated movement leads, at 1.30 of that distance.",
        "The other seed ends about as far as unrelated movement leads, at 1.00 of that distance.",
        "Aligning channels takes 21% off.",
    ]


def test_predictors_are_drawn_with_every_score():
    rows = [
        ("pspnet", kept, truth, name, 0.5, 0.2, 0.8, "groups of sources", "predicts")
        for kept in (prediction.ALL, prediction.OTHERS_ALONE)
        for truth in prediction.TRUTHS
        for name in SCORES
    ]
    columns = ["network", "sources", "truth", "score", "rho", "low", "high", "over", "verdict"]
    found = pd.DataFrame(rows, columns=columns)
    labels = {name: score.label for name, score in SCORES.items()}
    drawn = figures.predictors(found, labels)
    assert [axis.get_title() for axis in drawn.axes] == list(prediction.TRUTHS)
    assert [tick.get_text() for tick in drawn.axes[0].get_yticklabels()] == list(labels.values())
    table = prediction.trusted(found)
    assert list(table.columns) == [LAYER, KERNELS, TUNED]
    assert table.columns.name == "95 % over groups of sources"
    assert table.index.get_level_values("sources").tolist() == 9 * ["all"] + 9 * ["without own labels"]
    assert table.iloc[0, 0] == "+0.50 [+0.20, +0.80] predicts"
