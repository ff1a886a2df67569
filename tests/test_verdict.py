"""Verdicts by interval, against the definition and a table counted by hand."""

import copy
import dataclasses
import html
import inspect
import json
import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import r2_score
from torch import nn

import prr
from prr.bn import recalibrate
from prr.errors import NetworkError, OptionError
from prr.layers import tensor
from prr.verdict import (
    ANSWERS,
    NOT_REUSABLE,
    REUSABLE,
    SHARE,
    TOLERANCE,
    UNDECIDED,
    Verdict,
    judge,
    largest_joint_set,
    layer_verdicts,
    reusable_network,
    shares,
)

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


# ------------------------------------------------------------------------ judge


class Patients:
    """Four patients with two images each; a score compares the output's mean with a label."""

    images = torch.randn(8, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    masks = torch.ones(8, 6, 6, dtype=torch.uint8)
    patient = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])


def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 1)).eval()


def closeness(output, data):
    """Score 1 where the output is the target's own, less the farther it is."""
    far = (output - closeness.target).square().mean((1, 2, 3)).sqrt()
    return (1 - far).reshape(4, 2).mean(1).numpy()


@pytest.fixture
def target():
    model = network(1)
    closeness.target = model(Patients.images).detach()
    return model


def shifted(model, amount):
    """A source whose kernels are `amount` away in every number."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for module in other:
            if isinstance(module, nn.Conv2d):
                module.weight += amount
    return other


def test_a_network_is_wholly_reusable_in_itself(target):
    verdict = judge(target, target, Patients, score=closeness)
    assert verdict.reusable_network is True
    assert verdict.drawn == "source"
    assert (verdict.layers["drop"] == 0).all()
    assert set(verdict.plan()["action"]) == {"reuse"}
    assert verdict.sources[["kernels", "rmse", "rank"]].values.tolist() == [[2, 0, 1]]
    assert verdict.joint["drop"].iloc[0] == pytest.approx(0, abs=1e-6)
    assert "is reusable" in str(verdict)


def test_half_precision_is_for_the_sweep_and_what_is_taken_together_is_scored_in_32_bits(target):
    def score(output, data):
        return closeness(output, data) / 4  # so that rounding moves the target's own by less than is refused

    source = shifted(target, 0.01)
    exact, half = (judge(target, source, Patients, score=score, tolerance=1.0, bfloat16=on) for on in (False, True))
    swept = prr.sweep(target, source, Patients, score=score, bfloat16=True)
    pd.testing.assert_frame_equal(half.layers[list(swept.columns)], swept, check_exact=True)
    assert not half.layers["score"].equals(exact.layers["score"])
    assert len(half.layers) == half.joint["layers"].iloc[0] == exact.joint["layers"].iloc[0]  # the same pairs, all
    pd.testing.assert_frame_equal(half.joint, exact.joint, check_exact=True)
    assert half.made["judged by"] == f"{exact.made['judged by']}, swept in bfloat16"


def test_half_precision_that_moves_the_score_is_refused(target):
    with pytest.raises(NetworkError, match=r"bfloat16: expected the target's score within 0\.001 of"):
        judge(target, target, Patients, score=lambda *given: 100 * closeness(*given), bfloat16=True)


def test_the_tolerance_and_the_share_are_said_once():
    defaults = {
        (function.__name__, name): each.default
        for function in (judge, layer_verdicts, shares, reusable_network)
        for name, each in inspect.signature(function).parameters.items()
    }
    assert defaults["judge", "tolerance"] is defaults["layer_verdicts", "tolerance"] is TOLERANCE
    assert defaults["judge", "share"] is defaults["reusable_network", "share"] is SHARE
    assert TOLERANCE in defaults["shares", "tolerances"]


def test_a_far_source_makes_it_not_reusable_and_its_kernels_are_retrained(target):
    verdict = judge(target, shifted(target, 5.0), Patients, score=closeness)
    assert verdict.reusable_network is False
    plan = verdict.plan().set_index(["kind", "layer"])["action"]
    assert plan["W", 1] == plan["W", 2] == "retrain"


def test_sources_are_ranked_by_their_distance_over_the_reusable_kernels(target):
    sources = {"far": shifted(target, 0.02), "near": shifted(target, 0.001), "middle": shifted(target, 0.01)}
    verdict = judge(target, sources, Patients, score=closeness, tolerance=1.0)
    assert verdict.sources["source"].tolist() == ["near", "middle", "far"]
    assert verdict.sources["rmse"].to_numpy() == pytest.approx([0.001, 0.01, 0.02], rel=1e-3)
    assert verdict.sources["rank"].tolist() == [1, 2, 3]
    assert verdict.sources.loc[verdict.sources["drawn"], "source"].tolist() == [verdict.drawn]
    options = {"score": closeness, "tolerance": 1.0, "policy": "drawn"}
    assert len({judge(target, sources, Patients, **options, seed=seed).drawn for seed in range(6)}) > 1


def test_layers_that_pass_alone_but_fail_together_are_reduced(target):
    source = copy.deepcopy(target)
    with torch.no_grad():
        source[1].weight *= 1.2
        source[3].bias += 0.2  # 0.2 of the score, as about RW's
        source[1].bias += 0.1
    alone = prr.sweep(target, source, Patients, score=closeness).set_index(["kind", "layer"])
    tolerance = alone["high"].max() + 1e-6
    verdict = judge(target, source, Patients, score=closeness, tolerance=tolerance)
    assert (verdict.layers["verdict"] == REUSABLE).all()
    joint = verdict.joint
    assert joint["layers"].tolist()[:2] == [len(verdict.layers)] * 2
    assert (joint["verdict"].iloc[:2] != REUSABLE).all()
    kept = joint.loc[joint["verdict"] == REUSABLE, "layers"].max()
    assert 0 < kept < len(verdict.layers)
    plan = verdict.plan()
    reused = plan[plan["action"] == "reuse"].assign(action="fine-tune")
    score = closeness(prr.apply_plan(target, source, reused).eval()(Patients.images).detach(), Patients)
    assert 1 - score.mean() <= tolerance


def test_recalibration_alone_can_save_a_plan(target):
    target = recalibrate(target, Patients.images)
    closeness.target = target(Patients.images).detach()
    source = copy.deepcopy(target)
    with torch.no_grad():
        source[0].weight *= 3  # batch norm undoes it, once its statistics are those of the new feature maps
        source[1].running_mean *= 3
    verdict = judge(target, source, Patients, score=closeness, tolerance=0.5, kinds=["W", "RM"])
    first = largest_joint_set(target, source, Patients, verdict.layers, 0.05, {"score": closeness})
    assert first["recalibrated"].tolist()[:2] == [False, True]
    assert (first["verdict"] == REUSABLE).tolist()[:2] == [False, True]
    plan = dataclasses.replace(verdict, joint=first, layers=verdict.layers.assign(verdict=REUSABLE)).plan()
    actions = plan.set_index(["kind", "layer"])["action"]
    assert actions["W", 1] == "reuse"
    assert actions["RM", 1] == actions["RV", 1] == "recalibrate"


@pytest.mark.parametrize(
    ("reusable", "lost", "answer"), [(4, 4, True), (3, 5, False), (3, 4, None), (0, 4, None), (8, 0, True)]
)
def test_half_of_the_kernels_decide_unless_the_open_ones_could(reusable, lost, answer):
    verdicts = [REUSABLE] * reusable + [NOT_REUSABLE] * lost + [UNDECIDED] * (8 - reusable - lost)
    assert reusable_network(pd.DataFrame({"verdict": verdicts})) is answer


@pytest.mark.parametrize(
    ("source", "options"),
    [({}, {}), (None, {"kinds": ["B"]}), (None, {"share": 0}), (None, {"tolerance": -1}), (None, {"seed": -1})],
)
def test_a_judge_without_a_case_refuses(target, source, options):
    with pytest.raises(OptionError, match="expected at least one source"):
        judge(target, target if source is None else source, Patients, score=closeness, **options)


@pytest.mark.parametrize(("count", "share"), [(25, 0.28), (100, 0.55), (10, 0.7)])
def test_a_share_that_is_met_exactly_is_met(count, share):
    """share * count is above the whole number that it stands for: 0.28 * 25 > 7."""
    sure = round(share * count)
    verdicts = [REUSABLE] * sure + [NOT_REUSABLE] * (count - sure)
    assert reusable_network(pd.DataFrame({"verdict": verdicts}), share) is True
    assert reusable_network(pd.DataFrame({"verdict": [*verdicts[1:], NOT_REUSABLE]}), share) is False
    assert reusable_network(pd.DataFrame({"verdict": [*verdicts[1:], UNDECIDED]}), share) is None


def test_a_network_without_kernels_is_refused():
    target = nn.Sequential(nn.BatchNorm2d(1)).eval()
    closeness.target = target(Patients.images).detach()
    with pytest.raises(NetworkError, match="expected live kernels"):
        judge(target, target, Patients, score=closeness)


def test_recalibration_is_planned_where_kernels_alone_were_judged(target):
    target = recalibrate(target, Patients.images)
    closeness.target = target(Patients.images).detach()
    source = copy.deepcopy(target)
    with torch.no_grad():
        source[0].weight *= 3  # batch norm undoes it
    verdict = judge(target, source, Patients, score=closeness, tolerance=0.5, kinds=["W"])
    first = largest_joint_set(target, source, Patients, verdict.layers, 0.05, {"score": closeness})
    plan = dataclasses.replace(verdict, joint=first, layers=verdict.layers.assign(verdict=REUSABLE)).plan()
    actions = plan.set_index(["kind", "layer"])["action"]
    assert actions[["W"]].tolist() == ["reuse", "reuse"]
    assert actions["RM", 1] == actions["RV", 1] == "recalibrate"


def test_one_patient_leaves_everything_open_and_nothing_reused(target):
    one = SimpleNamespace(images=Patients.images, masks=Patients.masks, patient=torch.zeros(8, dtype=torch.long))
    verdict = judge(target, target, one, score=lambda output, data: closeness(output, data).mean(keepdims=True))
    assert verdict.reusable_network is None
    assert verdict.joint.empty
    plan = verdict.plan().groupby("kind")["action"].unique()
    assert {kind: list(actions) for kind, actions in plan.items()} == {
        "W": ["retrain"], "B": ["retrain"], "RW": ["retrain"], "RB": ["retrain"],
        "RM": ["retrain"], "RV": ["retrain"],
    }  # fmt: skip
    assert "may or may not be reusable" in str(verdict)


class WithSpare(nn.Module):
    """A batch norm and a convolution that never run."""

    def __init__(self):
        super().__init__()
        self.body, self.spare = network(1), network(2)

    def forward(self, x):
        return self.body(x)


def test_layers_that_never_run_are_retrained(target):
    model = WithSpare().eval()
    closeness.target = model(Patients.images).detach()
    verdict = judge(model, model, Patients, score=closeness)
    plan = verdict.plan()
    spare = plan["name"].str.startswith("spare")
    assert len(plan) == 16
    assert set(plan.loc[spare, "action"]) == {"retrain"}
    assert set(plan.loc[~spare, "action"]) == {"reuse"}
    assert verdict.sources["kernels"].tolist() == [2]


def test_the_words_carry_the_numbers_of_the_tables(target, sentences):
    verdict = judge(target, {"a": shifted(target, 5.0), "b": shifted(target, 0.001)}, Patients, score=closeness, seed=1)
    row, (near, far) = verdict.joint.iloc[0], verdict.sources["relative"]
    counts = verdict.layers.loc[verdict.layers["kind"] == "W", "verdict"].value_counts()
    found = sentences(str(verdict))
    for sentence in (
        "The network is reusable with b.",
        f"Of its 2 live kernels: {counts[REUSABLE]} reusable, 0 undecided, 0 not reusable, within a drop of 0.05.",
        f"The nearest of 2 sources is b: {near:.3f}.",
        f"The next is a: {far:.3f}.",
        f"All {row['layers']} pairs that pass alone, taken from b together, are reusable: drop {row['drop']:.3f} "
        f"[{row['low']:.3f}, {row['high']:.3f}] over 4 units.",
    ):
        assert sentence in found
    assert verdict._repr_markdown_() == str(verdict)


@pytest.mark.parametrize(
    ("most", "tried"), [(9, [9]), (5, [9, 4, 6, 5]), (3, [9, 4, 2, 3]), (8, [9, 4, 6, 7, 8]), (0, [9, 4, 2, 1])]
)
def test_the_largest_number_that_passes_together_is_found_by_halves_in_order_of_the_intervals(most, tried, monkeypatch):
    """A joint score that passes, only with recalibration, up to n pairs."""
    high = [0.04, 0.01, 0.03, 0.02, 0.05, 0.0, 0.045, 0.015, 0.025]
    swept = pd.DataFrame({"kind": "RM", "layer": range(1, 10), "name": list("abcdefghi"), "low": -0.1, "high": high})
    taken = []

    def joint(target, source, data, pairs, *, recalibrated):
        taken.append("".join(pairs["name"]))
        drop = 0.0 if recalibrated and len(pairs) <= most else 0.5
        return {"score": 1 - drop, "drop": drop, "low": drop, "high": drop}

    monkeypatch.setattr("prr.verdict.joint_transplant", joint)
    layers = layer_verdicts(swept)
    order = "".join(swept.sort_values("high")["name"])
    table = largest_joint_set(nn.BatchNorm2d(1), None, None, layers.sort_values("high"), 0.05, {})
    assert table["layers"].tolist() == [count for count in tried for _ in "ab"]
    assert taken == [order[:count] for count in table["layers"]]
    pairs = swept[["kind", "layer", "name"]].assign(live=True)
    source = pd.DataFrame({"source": ["a"], "kernels": 0, "relative": 0.0})
    score = {"name": "own", "own": 1.0, "chance": None}
    verdict = Verdict(None, "a", "a", layers, layers, layers, source, table, pairs, 0.05, score)
    assert (verdict.plan()["action"] == ("recalibrate" if most else "retrain")).all()  # RM, and only that way passes
    raw = dataclasses.replace(verdict, joint=table.assign(recalibrated=False)).plan()
    assert set(raw.loc[raw["action"] == "reuse", "name"]) == set(order[:most])


def test_a_plan_reuses_statistics_where_both_ways_pass(target):
    verdict = judge(target, target, Patients, score=closeness, tolerance=1.0)
    assert (verdict.joint["verdict"] == REUSABLE).tolist() == [True, True]
    assert set(verdict.plan()["action"]) == {"reuse"}


def test_the_nearest_source_over_the_reusable_kernels_gives_what_is_scored_together(target):
    """The drawn source breaks the second kernel; over the first alone, which counts, the other source is farther."""
    near, far = copy.deepcopy(target), copy.deepcopy(target)
    with torch.no_grad():
        near[0].weight += 0.001
        near[3].weight += 9
        far[0].weight += 0.01
    seed = next(each for each in range(9) if np.random.default_rng(each).integers(2) == 1)
    verdict = judge(target, {"far": far, "near": near}, Patients, score=closeness, policy="drawn", seed=seed)
    assert verdict.layers.query("kind == 'W'")["verdict"].tolist() == [REUSABLE, NOT_REUSABLE]
    assert verdict.sources[["source", "kernels", "drawn"]].values.tolist() == [["near", 1, True], ["far", 1, False]]
    pairs = verdict.layers.query(f"verdict == '{REUSABLE}'")
    expected = prr.reuse.joint_transplant(target, near, Patients, pairs, score=closeness)
    assert verdict.joint["drop"].iloc[0] == pytest.approx(expected["drop"])
    assert expected["drop"] != prr.reuse.joint_transplant(target, far, Patients, pairs, score=closeness)["drop"]


def test_the_nearest_source_is_nearest_by_relative_rmse(target):
    """The first kernel is made ten times as large: being 0.02 away there is less, by its own scale."""
    with torch.no_grad():
        target[0].weight *= 10
    closeness.target = target(Patients.images).detach()
    large, small = copy.deepcopy(target), copy.deepcopy(target)
    with torch.no_grad():
        large[0].weight += 0.02
        small[3].weight += 0.015
    sources = {"small": small, "large": large}
    seed = next(each for each in range(9) if np.random.default_rng(each).integers(2) == 0)
    verdict = judge(target, sources, Patients, score=closeness, tolerance=1.0, policy="drawn", seed=seed)
    assert verdict.drawn == "small"
    assert verdict.sources["source"].tolist() == ["large", "small"]
    assert verdict.sources["rmse"].is_monotonic_decreasing
    assert verdict.sources["relative"].is_monotonic_increasing
    # what is scored together comes from the nearest source, not from the one that was drawn
    drops = [
        prr.reuse.joint_transplant(target, each, Patients, verdict.layers, score=closeness)["drop"]
        for each in (large, small)
    ]
    assert verdict.joint["drop"].iloc[0] == pytest.approx(drops[0])
    assert drops[0] != pytest.approx(drops[1])


def test_statistics_of_a_layer_that_never_runs_are_retrained_whatever_is_judged(target):
    model = nn.ModuleDict({"body": target, "spare": nn.BatchNorm2d(2)})
    model.forward = model["body"].forward
    plan = judge(model, copy.deepcopy(model), Patients, score=closeness, kinds=["W"]).plan().set_index(["kind", "name"])
    assert plan.loc[("RM", "body.1"), "action"] == "retrain"  # the kernels passed as they are, with the model's own
    assert plan.loc[("RM", "spare"), "action"] == "retrain"


# ----------------------------------------------------------- anybody's networks


def classifier(seed, classes=3, channels=1):
    """A network of convolution, batch norm, group norm and linear layer on images of 6 x 6."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.GroupNorm(2, 4), nn.Flatten(),
        nn.Linear(64, classes),
    ).eval()  # fmt: skip


IMAGES = torch.randn(40, 1, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def labelled():
    """A classifier and data on which it is always right."""
    target = classifier(0)
    return target, (IMAGES, target(IMAGES).argmax(1))


def test_a_classifier_is_judged_by_its_accuracy(labelled):
    target, data = labelled
    verdict = judge(target, classifier(1), data)
    assert verdict.made["score"] == "accuracy"
    layers = verdict.layers.set_index(["kind", "layer"])
    assert (layers["score"] + layers["drop"]).to_numpy() == pytest.approx(1)
    swapped = prr.transplant(target, classifier(1), "LW", 1)
    assert layers.loc[("LW", 1), "score"] == (swapped(IMAGES).argmax(1) == data[1]).double().mean().item()
    assert set(verdict.share["kind"]) == {"W", "LW"}
    assert verdict.sources["kernels"].item() in (1, 2)


def test_a_regression_is_judged_by_r2_and_a_network_without_convolutions_by_its_linear_layers():
    torch.manual_seed(0)
    target, source = nn.Linear(5, 2), nn.Linear(5, 2)
    inputs = torch.randn(30, 5)
    outputs = target(inputs).detach()
    verdict = judge(target, source, (inputs, outputs))
    assert verdict.made["score"] == "r2"
    swapped = prr.transplant(target, source, "LW", 1)(inputs).detach().numpy()
    assert verdict.layers["score"].iloc[0] == pytest.approx(
        r2_score(outputs.numpy(), swapped, multioutput="variance_weighted"), rel=1e-5
    )
    assert verdict.joint["recalibrated"].tolist() == [False] * len(verdict.joint)  # there is nothing to recalibrate
    assert verdict.reusable_network is False


def test_networks_with_other_heads_are_judged_on_what_they_share(labelled):
    target, data = labelled
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        verdict = judge(target, classifier(1, classes=7), data)
    assert set(verdict.layers["name"]) == {"0", "1", "3"}
    rest = verdict.incomparable.set_index("kind")
    assert rest["network"].tolist() == ["source", "source"]
    assert (rest.loc["LW", "target"], rest.loc["LW", "source"]) == ((3, 64), (7, 64))
    assert verdict.plan().query("name == '5'")["action"].tolist() == ["retrain", "retrain"]
    assert "Not comparable, and left out: 2 parameters" in str(verdict)
    model = prr.apply_plan(target, classifier(1, classes=7), verdict.plan())
    assert torch.equal(model[5].weight, target[5].weight)


@pytest.mark.parametrize("seed", range(3))
def test_of_several_sources_what_all_share_is_judged(seed, labelled):
    target, data = labelled
    verdict = judge(target, {"other head": classifier(1, classes=7), "same head": classifier(2)}, data, seed=seed)
    assert set(verdict.layers["name"]) == {"0", "1", "3"}
    assert set(verdict.incomparable["network"]) == {"other head"}


def test_a_source_that_shares_nothing_is_refused(labelled):
    target, data = labelled
    with pytest.raises(NetworkError, match="no parameter in common"):
        judge(target, nn.Sequential(nn.Conv2d(5, 5, 5)), data)


def test_a_plan_names_parameters_for_an_optimiser(labelled):
    target, data = labelled
    plan = judge(target, target, data).plan()
    tensors = {**dict(target.named_parameters()), **dict(target.named_buffers())}
    for row in plan.itertuples():
        assert tensors[row.parameter] is tensor(target, row.kind, row.name)


def test_a_network_trained_by_its_plan_keeps_what_is_frozen(labelled):
    target, (images, labels) = labelled
    source = classifier(1)
    plan = prr.parameter_table(target)[["kind", "name"]].assign(action="retrain")
    plan.loc[plan["kind"].isin(["W", "LB", "NW", "RV"]), "action"] = "reuse"
    model = prr.apply_plan(target, source, plan).train()
    optimiser = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=0.5)
    for _ in range(3):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimiser.step()
    for row in plan.itertuples():
        trained, given = tensor(model, row.kind, row.name), tensor(source, row.kind, row.name)
        assert torch.equal(trained, given) == (row.action == "reuse"), row


def test_a_page_and_a_json_hold_the_verdict(labelled):
    target, data = labelled
    verdict = judge(target, {"other <b>head</b>": classifier(1, classes=7)}, data)
    page = verdict.to_html()
    assert "other &lt;b&gt;head&lt;/b&gt;" in page
    assert "<b>" not in page
    for words in (verdict._answer(), verdict._outcome(), verdict._ranking(), verdict.made["versions"], "7 x 64"):
        assert html.escape(words) in page
    assert "interval over 40 images." in page
    assert set(verdict.layers["over"]) == set(verdict.joint["over"]) == {"40 images"}
    assert page.count('class="bar') == len(verdict.layers) + len(verdict.joint) + len(verdict.sources)
    content = json.loads(verdict.to_json())
    assert content["answer"] == str(verdict)
    assert pd.DataFrame(content["layers"])["name"].tolist() == verdict.layers["name"].tolist()
    assert pd.DataFrame(content["plan"])["action"].tolist() == verdict.plan()["action"].tolist()


# ----------------------------------------------------------- what is worth judging, and who answers


def noisy_copy(model, size, seed=0):
    torch.manual_seed(seed)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for value in other.parameters():
            value += size * torch.randn_like(value)
    return other


def finds_nothing():
    """A network of one class that never finds it."""
    model = nn.Conv2d(1, 1, 1)
    nn.init.constant_(model.bias, -9)
    return model


@pytest.mark.parametrize(
    ("model", "data", "chance"),
    [
        (nn.Linear(6, 3), (torch.randn(90, 6), torch.arange(90) % 3), 1 / 3),
        (nn.Linear(6, 2), (torch.randn(80, 6), (torch.arange(80) < 60).long()), 0.75),
        (finds_nothing(), (torch.rand(6, 1, 4, 4), (torch.arange(4) < 1).long().expand(6, 4, 4)), 0.4),
        (nn.Linear(6, 1), (torch.randn(90, 6), torch.randn(90, 1) + 3), 0.0),
    ],
    ids=["labels at random", "majority", "empty mask", "mean"],
)
def test_a_target_that_is_no_better_than_chance_gets_no_verdict_and_a_plan_to_retrain_everything(model, data, chance):
    verdict = judge(model.eval(), noisy_copy(model, 0.01), data)
    assert verdict.score["chance"] == pytest.approx(chance, abs=0.05 if chance == 0.0 else 1e-6)
    assert verdict.too_weak
    assert verdict.reusable_network is None
    assert set(verdict.plan()["action"]) == {"retrain"}
    assert set(verdict.layers["verdict"]) == {UNDECIDED}
    for words in (str(verdict), verdict.to_html(), json.loads(verdict.to_json())["answer"]):
        assert "No verdict: the target is too weak." in words


def test_statistics_of_a_weak_target_are_retrained_too(labelled):
    target, (images, _) = labelled
    verdict = judge(target, target, (images, torch.arange(40) % 3))
    assert verdict.too_weak
    assert set(verdict.plan()["action"]) == {"retrain"}


def test_a_target_above_chance_says_by_how_much(labelled):
    target, data = labelled
    verdict = judge(target, target, data)
    share = data[1].bincount().max().item() / 40
    assert verdict.score["own"] == 1.0
    assert verdict.score["chance"] == pytest.approx(share)
    assert verdict.score["gain"] == pytest.approx(1 - share)
    assert verdict.score["low"] < verdict.score["gain"] < verdict.score["high"]
    headline = f"Its own score is 1.000 (accuracy; chance {share:.3f}, perfect 1)."
    for words in (verdict.headline(), html.unescape(verdict.to_html()), json.loads(verdict.to_json())["answer"]):
        assert headline in words


def test_chance_of_a_score_of_ones_own_is_said_or_asked_for(target):
    verdict = judge(target, target, Patients, score=closeness)
    assert any("Chance is not known" in note for note in verdict.notes)
    assert "chance not known, perfect not known" in verdict.headline()
    assert "Chance is not known" in html.unescape(verdict.to_html())
    weak = judge(target, target, Patients, score=closeness, chance=verdict.score["own"])
    assert weak.too_weak
    assert not judge(target, target, Patients, score=closeness, chance=verdict.score["own"] - 1).too_weak


@pytest.mark.parametrize("seed", range(3))
def test_every_source_is_answered_for_and_the_plan_names_the_one_it_takes_from(seed, labelled):
    target, data = labelled
    sources = {"far": classifier(5), "near": noisy_copy(target, 0.001), "nearer": noisy_copy(target, 0.0001)}
    verdict = judge(target, sources, data, seed=seed)
    assert verdict.reusable_network is True
    assert verdict.drawn == verdict.plan_from == "nearer"
    table = verdict.sources.set_index("source")
    assert table["answer"].to_dict() == {"nearer": "is reusable", "near": "is reusable", "far": "is not reusable"}
    assert verdict.sources["source"].tolist() == ["nearer", "near", "far"]
    for name, source in sources.items():
        swept = prr.sweep(target, source, data)
        part = verdict.swept[verdict.swept["source"] == name].reset_index(drop=True)
        pd.testing.assert_frame_equal(part[list(swept.columns)], swept, check_exact=True)
    assert "This answer comes out with 2 of 3 sources." in verdict.headline()
    assert "The plan takes from nearer: reuse" in verdict.headline()


def test_a_source_with_the_better_answer_gives_even_if_it_is_farther():
    """One source is near but for a sign that turns the answer round; the other far in what does not count."""
    torch.manual_seed(0)
    target = nn.Sequential(nn.Linear(2, 2, bias=False)).eval()
    with torch.no_grad():
        target[0].weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    far, near = copy.deepcopy(target), copy.deepcopy(target)
    with torch.no_grad():
        far[0].weight *= 9
        near[0].weight.copy_(torch.tensor([[-0.1, 0.0], [0.1, 0.0]]))
    points = torch.randn(50, 2)
    verdict = judge(target, {"near": near, "far": far}, (points, (points[:, 0] < 0).long()))
    assert verdict.sources[["source", "rank"]].values.tolist() == [["far", 2], ["near", 1]]
    assert verdict.plan_from == "far"
    assert verdict.plan()["action"].tolist() == ["reuse"]


def test_the_papers_policy_draws_one_source_that_answers_for_all(labelled, sentences):
    target, data = labelled
    sources = {"far": classifier(5), "near": noisy_copy(target, 0.001)}
    drawn = {seed: judge(target, sources, data, policy="drawn", seed=seed) for seed in range(6)}
    assert {verdict.drawn for verdict in drawn.values()} == {"far", "near"}
    for verdict in drawn.values():
        assert verdict.reusable_network is (verdict.drawn == "near")
        assert set(verdict.swept["source"]) == {verdict.drawn}
        assert verdict.sources["answer"].notna().sum() == 1
        drawn = f"{verdict.drawn} was drawn from 2 sources; no other was tried, and each may answer otherwise."
        assert drawn in sentences(verdict.headline())
    with pytest.raises(OptionError, match="policy='best': expected one of each, drawn"):
        judge(target, sources, data, policy="best")


def test_what_is_not_judged_is_counted_by_reason(labelled):
    target, data = labelled
    model = nn.ModuleDict({"body": target, "spare": nn.Linear(10, 10)})
    model.forward = model["body"].forward
    other = copy.deepcopy(model)
    other["body"] = classifier(1, classes=7)
    verdict = judge(model, other, data, kinds=["W", "B", "LW", "LB", "NW"])
    rest = verdict.not_judged().set_index(["kind", "name"])["why"].to_dict()
    assert rest == {
        **{(kind, "body.1"): "of a kind that was not asked for" for kind in ("RM", "RV", "RW", "RB")},
        ("NB", "body.3"): "of a kind that was not asked for",
        **{(kind, "body.5"): "not comparable" for kind in ("LW", "LB")},
        **{(kind, "spare"): "never run" for kind in ("LW", "LB")},
    }
    share = (40 + 4) / sum(value.numel() for value in model.state_dict().values() if value.is_floating_point())
    assert f"Judged are {share:.1%} of its numbers" in verdict.headline()
    assert ", 110 never run." in verdict.headline()
    assert "The networks share every" not in verdict.to_html()


@pytest.mark.parametrize("seed", range(4))
def test_the_plan_is_the_set_that_was_scored(seed):
    """Applied, and recalibrated where it says so, it scores what the verdict says of it."""
    torch.manual_seed(seed)
    target = classifier(0)
    data = IMAGES, target(IMAGES).argmax(1)
    source = noisy_copy(target, 0.05, seed)
    source[1].running_mean += 0.3
    verdict = judge(target, source, data, tolerance=0.3)
    plan = verdict.plan()
    model = prr.apply_plan(target, source, plan).eval()
    anew = "recalibrate" in set(plan["action"])
    model = recalibrate(model, IMAGES) if anew else model
    passed = verdict.joint[(verdict.joint["verdict"] == REUSABLE) & (verdict.joint["recalibrated"] == anew)]
    expected = passed.sort_values("layers")["score"].iloc[-1] if len(passed) else None
    if "reuse" in set(plan["action"]):
        assert (model(IMAGES).argmax(1) == data[1]).double().mean().item() == pytest.approx(expected)


# ----------------------------------------------------------- what it says, and that it says it shortly


def by_hand(drops, together=(), sources=("a", "b"), relative=(0.2, 0.4), answers=None, **given):
    """A verdict on kernels of these drops, of which (layers, recalibrated, drop) were taken together."""
    ends = {"low": lambda table: table["drop"] - 0.01, "high": lambda table: table["drop"] + 0.01}
    layers = pd.DataFrame({"kind": "W", "layer": range(1, len(drops) + 1), "name": "w", "drop": drops}).assign(**ends)
    layers["name"] += layers["layer"].astype(str)
    joint = pd.DataFrame([*together], columns=["layers", "recalibrated", "drop"]).assign(**ends)
    layers, joint = layer_verdicts(layers), layer_verdicts(joint)
    answer = reusable_network(layers)
    order = pd.DataFrame({"source": sources, "kernels": len(drops), "relative": relative, "answer": answers})
    order["rank"] = order["relative"].rank(method="min")
    order["answer"] = ANSWERS[answer] if answers is None else order["answer"]
    pairs = layers[["kind", "layer", "name"]].assign(size=9, live=True, reached=True)
    statistics = pairs.assign(kind="RM", name=pairs["name"] + ".norm")
    score = {"name": "dice", "own": 0.9, "over": "14 units", "chance": 0.1, "perfect": 1.0}
    score |= {"gain": 0.8, "low": 0.7, "high": 0.9} | given.pop("score", {})
    swept = (
        pd.concat([layers.assign(source=name) for name in sources]) if answers is None else layers.assign(source="a")
    )
    pairs = pd.concat([pairs, statistics], ignore_index=True)
    return Verdict(
        answer, "a", "a", layers, swept, layers, order, joint, pairs, 0.05, score,
        pd.DataFrame({"network": [], "kind": [], "name": []}), **given,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("drops", "finding"),
    [
        ([0.0, 0.0, 0.9], "The network is reusable with a."),
        ([0.0, 0.9, 0.9], "The network is not reusable with a."),
        ([0.0, 0.05, 0.9], "The network may or may not be reusable with a."),
    ],
)
def test_the_answer_stands_first_and_its_counts_after_it(drops, finding, sentences):
    found = sentences(str(by_hand(drops, [(1, False, 0.0)])))
    counts = [sum(abs(drop - each) < 0.01 for drop in drops) for each in (0.0, 0.05, 0.9)]
    assert found[0] == finding
    assert found[
        1
    ] == "Of its 3 live kernels: {} reusable, {} undecided, {} not reusable, within a drop of 0.05.".format(*counts)
    assert found[2] == "Its own score is 0.900 (dice; chance 0.100, perfect 1)."


@pytest.mark.parametrize(
    ("score", "better"),
    [
        ({"gain": 0.02, "low": -0.03, "high": 0.07}, "0.020 [-0.030, 0.070] over 14 units."),
        ({"gain": -0.0001, "low": np.nan, "high": np.nan}, "0.000."),  # one unit has no interval
    ],
)
def test_a_weak_target_is_told_first_and_nothing_of_reuse(score, better, sentences):
    found = sentences(str(by_hand([0.05, 0.05], score=score)))
    assert found[0] == "No verdict: the target is too weak."
    assert f"It is better than chance by {better}" in found
    assert "It has to be by more than the tolerance, 0.05." in found
    assert not any("comes out with" in each or "pass" in each for each in found)


@pytest.mark.parametrize(
    ("relative", "told"),
    [
        ((0.2, 0.4), ["The nearest of 2 sources is a: 0.200.", "The next is b: 0.400."]),
        ((0.4, 0.2), ["The nearest of 2 sources is b: 0.200.", "The next is a: 0.400."]),
        ((0.298, 0.297), ["Of 2 sources b is hardly nearer than a: 0.297 against 0.298."]),
        ((0.2, 0.2099), ["Of 2 sources a is hardly nearer than b: 0.200 against 0.210."]),
        ((0.2, 0.2101), ["The nearest of 2 sources is a: 0.200.", "The next is b: 0.210."]),
        ((0.0, 0.0), ["Of 2 sources a is hardly nearer than b: 0.000 against 0.000."]),
    ],
)
def test_the_nearest_source_stands_beside_the_next_and_a_tie_is_called_one(relative, told, sentences):
    found = sentences(by_hand([0.0, 0.9], [(1, False, 0.0)], relative=relative)._ranking())
    assert found[:-1] == told


@pytest.mark.parametrize(
    ("drops", "given", "counted"),
    [
        ([0.9, 0.9, 0.9], {}, "over all 3 kernels, for none is reusable."),
        ([0.0, 0.0], {}, "over the 2 kernels that are reusable with some source."),
        ([0.0, 0.0], {"answers": ("is reusable", None)}, "over the 2 kernels that are reusable."),
        ([0.0], {"sources": ["a"], "relative": [0.2]}, "over the 1 kernel that is reusable."),
    ],
)
def test_over_which_kernels_a_distance_is_taken_is_said(drops, given, counted, sentences):
    *told, last = sentences(by_hand(drops, **given)._ranking())
    assert last == f"Distance is the mean relative RMSE {counted}"
    assert (told == ["a is 0.200 away."]) == (given.get("sources") == ["a"])


@pytest.mark.parametrize(("kernels", "source"), [([0.0, 0.0], "near"), ([9.0, 9.0], "near")])
def test_the_kernels_that_are_counted_are_those_that_the_words_name(kernels, source, target, sentences):
    """By a real judge: all of them where none passes, else the reusable ones."""
    other = copy.deepcopy(target)
    with torch.no_grad():
        for module, amount in zip((other[0], other[3]), kernels, strict=True):
            module.weight += amount
    verdict = judge(target, {source: other}, Patients, score=closeness)
    words = "over the 2 kernels that are reusable." if kernels[0] == 0 else "over all 2 kernels, for none is reusable."
    assert sentences(verdict._ranking())[-1].endswith(words)
    far = prr.rmse(target, other).query("kind == 'W'")["relative"].mean()
    assert sentences(verdict._ranking())[0] == f"near is {far:.3f} away."


def test_how_many_sources_give_the_same_answer_is_counted(sentences):
    answers = ["is not reusable", "is reusable", "may or may not be reusable", "is not reusable"]
    verdict = by_hand([0.9, 0.9], sources=list("abcd"), relative=[0.1, 0.2, 0.3, 0.4], answers=answers)
    assert "This answer comes out with 2 of 4 sources." in sentences(verdict.headline())
    drawn = by_hand([0.9, 0.9], sources=list("abcd"), relative=[0.1, 0.2, 0.3, 0.4], answers=[answers[0], *[None] * 3])
    assert "a was drawn from 4 sources; no other was tried, and each may answer otherwise." in sentences(str(drawn))
    for told in (verdict, drawn):
        assert "[" not in told._others()
    assert by_hand([0.9], sources=["a"], relative=[0.1])._others() == ""


PASSES, OPEN, FAILS = 0.01, 0.05, 0.3
ALL_4 = "All 4 pairs that pass alone, taken from a together, are"


@pytest.mark.parametrize(
    ("together", "told", "actions"),
    [
        (
            [(4, False, PASSES), (4, True, FAILS)],
            [f"{ALL_4} reusable: drop 0.010 [0.000, 0.020] over 14 units."],
            {"reuse": 4, "retrain": 4},
        ),
        (
            [(4, False, OPEN), (4, True, PASSES)],
            [
                f"{ALL_4} undecided: drop 0.050 [0.040, 0.060] over 14 units.",
                "After recalibration they are reusable: drop 0.010 [0.000, 0.020] over 14 units.",
            ],
            {"reuse": 4, "recalibrate": 4},
        ),
        (
            [(4, False, FAILS), (4, True, FAILS), (2, False, PASSES), (2, True, PASSES), (3, False, OPEN)],
            [
                f"{ALL_4} not reusable: drop 0.300 [0.290, 0.310] over 14 units.",
                "After recalibration they are not reusable: drop 0.300 [0.290, 0.310] over 14 units.",
                "The most that pass together are 2 pairs, as they are: drop 0.010 [0.000, 0.020] over 14 units.",
            ],
            {"reuse": 2, "retrain": 6},
        ),
        (
            [(4, False, FAILS), (4, True, OPEN), (2, False, OPEN), (2, True, OPEN), (1, False, FAILS), (1, True, OPEN)],
            [
                f"{ALL_4} not reusable: drop 0.300 [0.290, 0.310] over 14 units.",
                "After recalibration they are undecided: drop 0.050 [0.040, 0.060] over 14 units.",
                "No smaller set that was tried passes either.",
            ],
            {"retrain": 8},  # and nothing is recalibrated: no row of the table says that it would help
        ),
        ([], ["No pair passes alone, so none is taken together."], {"retrain": 8}),
    ],
    ids=["as they are", "recalibrated", "some", "none together", "none alone"],
)
def test_the_plan_takes_what_its_table_calls_reusable_and_nothing_else(together, told, actions, sentences):
    verdict = by_hand([0.0, 0.001, 0.002, 0.003] if together else [0.9] * 4, together)
    assert sentences(verdict._together()) == told
    assert verdict.plan()["action"].value_counts().to_dict() == actions
    taken = verdict.plan().query("action == 'reuse'")
    passed = verdict.joint.query(f"verdict == '{REUSABLE}'")
    assert len(taken) == (passed["layers"].max() if len(passed) else 0)
    counts = ", ".join(f"{each} {actions[each]}" for each in ("reuse", "recalibrate", "retrain") if each in actions)
    source = "from a" if "reuse" in actions else "nothing"
    assert sentences(verdict._outcome()) == [f"The plan takes {source}: {counts}."]


def test_every_note_is_short(target, labelled, sentences):
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 2)))
    inputs = torch.randn(20, 4)
    by_norm = judge(model, model, (inputs, model(inputs).argmax(1)))
    noted = [*by_norm.notes, *judge(target, target, Patients, score=closeness).notes]
    assert len(noted) == 2
    for note in noted:
        sentences(note)
    assert sentences(str(by_norm))


def test_a_parameter_that_two_sources_lack_is_counted_once(labelled):
    target, data = labelled
    verdict = judge(target, {"seven": classifier(1, classes=7), "nine": classifier(2, classes=9)}, data)
    assert len(verdict.incomparable) == 4
    assert "Not comparable, and left out: 2 parameters." in str(verdict)
