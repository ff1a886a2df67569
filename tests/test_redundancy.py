"""Controls, verdicts, prefixes and predictors: by hand, and whole at the smallest scale."""

import copy
import itertools

import numpy as np
import pandas as pd
import pytest
import torch

from prr import bn, figures, reuse
from prr.errors import MissingError, OptionError
from prr.layers import tensor
from prr.metrics import foreground_dice
from prr.study import Experiment, grid, prediction, prefixes, profiles, redundancy, training
from prr.study.models import pspnet, unet
from prr.study.prediction import KERNELS, LAYER, SCORES, TUNED
from prr.study.redundancy import LOST, REDUNDANT, REUSED, UNDECIDED

pytestmark = pytest.mark.usefixtures("phantoms_only")


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    """Few resamples are enough where nothing is left to chance."""
    monkeypatch.setattr(prediction, "RESAMPLES", 50)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """An experiment at the scale of the chapter, of two steps and one source seed."""
    folder = tmp_path_factory.mktemp("store")
    options = {"store": folder, "device": "cpu", "progress": False, "grid_steps": 2, "grid_seeds": 1, "rest_seeds": 1}
    return grid.scaled(Experiment("smoke", **options))


@pytest.fixture(scope="module")
def drops(small):
    """`controls` of PSPNet."""
    return redundancy.controls(small, "pspnet")


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
        table({"source": [0.0, 0.1, 0.4, 0.01], "start": [0.3, 0.1, 0.2, 0.01], "random": [0.4, 0.4, 0.4, 0.01]})
    )
    assert found["index"].tolist()[:3] == pytest.approx([1, 0.75, 0])
    assert np.isnan(found["index"][3])  # nothing to be avoided
    assert found["adds"].tolist() == pytest.approx([0.3, 0, -0.2, 0])
    assert found["verdict"].tolist() == [REUSED, LOST, LOST, REDUNDANT]


def test_the_limits_of_the_index_hold_the_ratio_of_means_and_widen_with_noise():
    values = {"source": [0.1, 0.2], "start": [0.3, 0.3], "random": [0.5, 0.6]}
    calm, loud = (redundancy.judged(table(values, 6, noise)) for noise in (0.01, 0.1))
    for found in (calm, loud):
        assert (found["index_low"] < found["index"]).all()
        assert (found["index"] < found["index_high"]).all()
    width = loud["index_high"] - loud["index_low"]
    assert (width > 3 * (calm["index_high"] - calm["index_low"])).all()


def test_the_index_is_undefined_where_the_random_donors_limits_hold_the_tolerance():
    values = {"source": [0.0], "start": [0.0], "random": [0.08]}
    found = redundancy.judged(table(values, noise=0.1))
    assert np.isnan(found["index"][0])
    assert found["verdict"].tolist() == [UNDECIDED]
    assert found["leaning"].tolist() == [REUSED]


def test_a_patient_without_a_score_under_one_control_is_left_out_under_all():
    drops = table({"source": [0.0, 0.1], "start": [0.0, 0.0], "random": [0.5, 0.5]})
    drops.loc[drops["patient"] == 3, "drop"] += 1
    drops.loc[(drops["patient"] == 3) & (drops["control"] == "random") & (drops["layer"] == 2), "drop"] = np.nan
    assert redundancy.judged(drops)["index"].tolist() == pytest.approx([1, 0.8])


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
        if part not in {*grid.thinned(few)["part"], *grid.WHOLE}:
            assert (targets, sources) in [([0, 1, 2], [0, 1, 2]), ([0, 1, 2], [0])]
    one = grid.thinned(few.variant(transfer_network="pspnet"))
    assert one["part"].iloc[-1].startswith("unet: ")
    assert grid.thinned(Experiment("paper")).empty


def test_the_paper_profile_gives_every_part_all_seeds():
    assert profiles.PROFILES["paper"].rest_seeds == profiles.PROFILES["paper"].grid_seeds


def test_a_target_is_never_its_own_source():
    run = grid.scaled(Experiment("smoke", grid_seeds=3, rest_seeds=3))
    for control in redundancy.CONTROLS:
        if control != "own":
            for by, arguments in redundancy.swept(run, control):
                assert by.key("unet", **arguments["target"]) != by.key("unet", **arguments["source"])


def test_random_donors_differ_between_targets_and_draws():
    run = grid.scaled(Experiment("smoke", grid_seeds=3, rest_seeds=3))
    drawn = [by.seed for by, _ in redundancy.swept(run, "random")]
    assert len(set(drawn)) == len(drawn) == 9


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


@pytest.mark.parametrize("giver", ["source", ""])
def test_a_frozen_prefix_is_frozen_and_the_rest_is_not(small, giver):
    data, fresh = small.slices("acdc"), prefixes.fresh(small, "unet", "prefix", 0)
    other = prefixes.fresh(small, "unet", "other", 0) if giver else fresh
    model = prefixes.loaded(fresh, other, data.images[:1], 3, giver, frozen=True)
    key = small.key("unet", "acdc", "segmentation", "independent", 0) | {"table": "prefix"}
    prefixes.trained(model, data, key, progress=False)
    for row in prefixes.units(fresh, data.images[:1]).itertuples():
        same = torch.equal(tensor(model, row.kind, row.name), tensor(other, row.kind, row.name))
        statistics = row.kind in ("RM", "RV") and not giver  # of an untrained prefix: they belong to nobody
        assert same == (row.unit <= 3 and not statistics) or row.kind == "B", row


def test_a_prefix_that_is_trained_on_moves(small):
    data, fresh = small.slices("acdc"), prefixes.fresh(small, "unet", "prefix", 0)
    other = prefixes.fresh(small, "unet", "other", 0)
    model = prefixes.loaded(fresh, other, data.images[:1], 3, "source", frozen=False)
    assert torch.equal(tensor(model, "W", "down.0.conv1"), tensor(other, "W", "down.0.conv1"))
    key = small.key("unet", "acdc", "segmentation", "independent", 0) | {"table": "prefix"}
    prefixes.trained(model, data, key, progress=False)
    assert not torch.equal(tensor(model, "W", "down.0.conv1"), tensor(other, "W", "down.0.conv1"))


def dice(model, part):
    return np.nanmean(foreground_dice(reuse.predict(model, part.images), part))


def test_everything_from_itself_at_once_costs_nothing(small):
    model, part = small.model("unet", **grid.target(0)), small.slices("acdc").validation
    every, own = prefixes.units(model, part.images[:1]), reuse.values(model, part, foreground_dice, 32)
    assert prefixes._both(model, model, part, every, own)[0] == 0


def test_a_joint_transplant_is_scored_with_statistics_as_they_come_and_anew(small):
    model, source = (small.model("unet", **each) for each in (grid.target(0), grid.source(0, 0)))
    part = small.slices("acdc").validation
    some = prefixes.units(model, part.images[:1]).query("unit <= 9")
    found = prefixes._both(model, source, part, some, reuse.values(model, part, foreground_dice, 32))
    changed = copy.deepcopy(model)
    for kind, name in some[["kind", "name"]].itertuples(index=False):
        tensor(changed, kind, name).data.copy_(tensor(source, kind, name))
    anew = bn.recalibrate(changed, part.images)
    assert found == pytest.approx([dice(model, part) - dice(each, part) for each in (changed, anew)], abs=1e-6)


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
    keys = [repr(small.key("pspnet", **each)) for each in found.values()]
    assert len(set(keys)) == 20
    assert repr(small.key("pspnet", **grid.target(0))) not in keys
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
    means, judged = redundancy.means(drops), redundancy.judged(drops)
    layers = drops["layer"].nunique()
    assert len(judged) == layers
    assert len(means) == layers * len(redundancy.CONTROLS)
    counted = redundancy.counts(judged)
    assert (counted.T.groupby(level=0).sum() == layers).all().all()
    assert "PSPNet" in redundancy.in_words(judged)
    assert len(figures.controls(means, judged).axes) == 2


def test_joint_transplants_and_what_they_cost(small, monkeypatch):
    monkeypatch.setattr(prefixes, "DEPTHS", 1)
    found = small.jointly(network="unet", seed=0)
    own = found[found["control"] == "own"]
    assert own.loc[~own["recalibrated"], "drop"].tolist() == [0]
    assert set(found["control"]) == {*prefixes.JOINT, "own"}
    with pytest.raises(MissingError):
        small.variant(steps=1).stored().jointly(network="unet", seed=0)
    assert "kernels that pass one by one" in prefixes.joint_in_words(found)
    trained = prefixes.prefix_means(
        trainings({(prefixes.NOTHING, 0): 0.5} | {(name, 3): 0.4 for name in prefixes.PREFIXES})
    )
    assert len(figures.prefixes(prefixes.joint_means(found), trained).axes) == 2
    assert len(figures.prefixes(prefixes.joint_means(found), pd.DataFrame()).axes) == 1


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
        scores = small.scored(network="pspnet", seed=0, label=label)
        assert scores[[name for name in SCORES if name != "norms"]].notna().all().all()
        tuned = small.fine_tuned(network="pspnet", seed=0, label=label, drawn=0)
        assert set(tuned["patient"]) == set(small.slices("acdc").validation.patient.tolist())
    first, second = begun
    for name in ("classifier.weight", "auxiliary.0.conv.weight"):
        assert torch.equal(first[name], second[name])  # its own
    for start, model in zip(begun, models, strict=True):
        assert torch.equal(start["encoder.conv1.weight"], model.state_dict()["encoder.conv1.weight"])
        assert torch.equal(start["fuse.bn.running_mean"], model.state_dict()["fuse.bn.running_mean"])


def test_distances_stand_beside_their_null_for_both_starts(small):
    found = prediction.apart_means(small.distances(network="unet", seed=0))
    assert set(found["start"]) == {"shared", "independent"}
    shared = found[found["start"] == "shared"]
    assert (shared["relative"] < found.loc[found["start"] == "independent", "relative"].min()).all()
    alone = found[found["start"] == "independent"]
    assert (alone["aligned"] < alone["relative"]).all()
    assert "times its null" in prediction.apart_in_words(found)


def test_calls_and_networks_are_all_that_the_tables_read(tmp_path):
    """Checked by name: what a table would ask for is in the plan."""
    run = Experiment("smoke", store=tmp_path, grid_seeds=2, rest_seeds=1)
    small = grid.scaled(run)
    first, second = redundancy.calls(run)
    planned = {(method, network) for _, method, arguments in first + second for network in [arguments["network"]]}
    assert planned == {
        *itertools.product(["drops", "distances", "jointly"], grid.NETWORKS),
        *itertools.product(["prefix", "scored", "fine_tuned"], grid.ranked_networks(run)),
    }
    trained = {repr(by.key(**arguments)) for by, arguments in redundancy.networks(run)}
    for _, method, arguments in first:
        if method == "drops":
            for who in ("target", "source"):
                assert repr(small.key(arguments["network"], **arguments[who])) in trained
    for label in prediction.candidates(small, 0):
        assert any(arguments.get("label") == label for _, method, arguments in first if method == "fine_tuned")


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
