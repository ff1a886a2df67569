"""Controls, verdicts, prefixes and predictors: by hand, and whole at the smallest scale."""

import copy
import itertools

import numpy as np
import pandas as pd
import pytest
import torch

from prr import bn, reuse
from prr.errors import OptionError
from prr.layers import tensor
from prr.metrics import foreground_dice
from prr.study import Experiment, figures, grid, networks, prediction, prefixes, profiles, redundancy, training
from prr.study.models import pspnet, unet
from prr.study.prediction import KERNELS, LAYER, SCORES, TUNED
from prr.study.redundancy import LOST, REDUNDANT, REUSED, UNDECIDED
from prr.study.starts import initial

TOLERANCE = 0.05
pytestmark = pytest.mark.usefixtures("phantoms_only")


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    """Few resamples are enough where nothing is left to chance."""
    monkeypatch.setattr(prediction, "RESAMPLES", 50)


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
    assert "1 kernels lose at most 0.05 to the source on average, and 0 of" in redundancy.in_words(strict, 0.05)
    assert "2 kernels lose at most 0.15 to the source on average, and 1 of" in redundancy.in_words(lax, 0.15)


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
    words = prefixes.in_words(means.reset_index())
    assert "there is such a surplus here" in words
    assert "below at n = 4." in words


def test_the_objection_stands_where_an_untrained_prefix_does_as_well():
    dice = {(prefixes.NOTHING, 0): 0.6} | {(prefix, n): 0.5 for n in (2, 4) for prefix in prefixes.PREFIXES}
    words = prefixes.in_words(prefixes.prefix_means(trainings(dice)))
    assert "the objection stands" in words


# ------------------------------------------------------------------- predictors


def ranked(harm, scores, layers=3, sources=8):
    """Layers of sources from a harm and scores, functions of (source, layer)."""
    rows = [
        {"network": "pspnet", "target": 0, "label": f"source {s}", "layer": n, "name": f"conv{n}", "drop": harm(s, n)}
        | {name: scores.get(name, lambda s, n: 0.0)(s, n) for name in SCORES}
        for s, n in itertools.product(range(sources), range(layers))
    ]
    return pd.DataFrame(rows)


def agreement(layers, dice):
    by_source = layers.groupby(["network", "target", "label"], sort=False)[[*SCORES, "drop"]].mean().reset_index()
    return prediction.agreement(layers, by_source.assign(dice=dice)).set_index(["truth", "score"])


def test_a_score_that_grows_with_the_harm_is_found_and_one_that_falls_misleads():
    rng = np.random.default_rng(0)
    walk = rng.permutation(8)
    layers = ranked(
        lambda s, n: s + 0.1 * n,
        {"relative": lambda s, n: np.exp(s) + n, "ratio": lambda s, n: -s - 0.1 * n, "travelled": lambda s, n: walk[s],
         "cka": lambda s, n: -s - 0.1 * n, "logme": lambda s, n: -(s**3)},
    )  # fmt: skip
    found = agreement(layers, 1 - np.arange(8) / 20)
    for truth in (LAYER, KERNELS, TUNED):
        assert found.loc[(truth, "relative"), "rho"] == pytest.approx(1)
        assert found.loc[(truth, "relative"), "verdict"] == prediction.PREDICTS
        assert found.loc[(truth, "ratio"), "verdict"] == prediction.MISLEADS
        assert found.loc[(truth, "cka"), "rho"] == pytest.approx(1)  # more alike, less harm
    assert found.loc[(TUNED, "logme"), "rho"] == pytest.approx(1)
    assert (LAYER, "logme") not in found.index
    assert found.loc[(KERNELS, "relative"), "over_low"] > 0
    assert np.isnan(found.loc[(KERNELS, "travelled"), "over"])
    assert "is better than the order by how far" in prediction.in_words(found.reset_index())


def test_a_score_that_only_follows_training_length_does_not_beat_it():
    layers = ranked(lambda s, n: s + n, {"relative": lambda s, n: 2 * s, "travelled": lambda s, n: 3 * s})
    found = agreement(layers, np.linspace(1, 0, 8))
    assert found.loc[(KERNELS, "relative"), ["over", "over_low", "over_high"]].tolist() == [0, 0, 0]
    assert "can't be told from" in prediction.in_words(found.reset_index())


def test_which_layer_ranks_within_each_source_alone():
    layers = ranked(lambda s, n: 100 * s - n, {"relative": lambda s, n: 100 * s + n})
    found = agreement(layers, np.linspace(1, 0, 8))
    assert found.loc[(LAYER, "relative"), "rho"] == pytest.approx(-1)
    assert found.loc[(KERNELS, "relative"), "rho"] == pytest.approx(1)


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


@pytest.mark.usefixtures("one_depth")
def test_joint_transplants_and_what_they_cost(large):
    found = large.result(prefixes.joint(large, "unet"))
    own = found[found["control"] == "own"]
    assert own.loc[~own["recalibrated"], "drop"].tolist() == [0]
    assert set(found["control"]) == {*prefixes.JOINT, "own"}
    assert "kernels that pass one by one" in prefixes.joint_in_words(found)
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
    names = {"network": "unet", "target": 0}
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
    assert "times its null" in prediction.apart_in_words(found)


def test_predictors_are_drawn_with_every_score():
    rows = [
        ("pspnet", truth, name, 0.5, 0.2, 0.8, 0.1, -0.1, 0.3, "predicts")
        for truth in prediction.TRUTHS
        for name in SCORES
    ]
    columns = ["network", "truth", "score", "rho", "low", "high", "over", "over_low", "over_high", "verdict"]
    found = pd.DataFrame(rows, columns=columns)
    labels = {name: score.label for name, score in SCORES.items()}
    drawn = figures.predictors(found, labels)
    assert [axis.get_title() for axis in drawn.axes] == list(prediction.TRUTHS)
    assert [tick.get_text() for tick in drawn.axes[0].get_yticklabels()] == list(labels.values())
    table = prediction.trusted(found)
    assert list(table.columns) == [LAYER, KERNELS, TUNED]
    assert table.iloc[0, 0] == "+0.50 [+0.20, +0.80] predicts"
