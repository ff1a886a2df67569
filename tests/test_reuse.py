"""Transplant, sweep, joint score and plan, on a network small enough to do the same by hand."""

import copy
import inspect
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from prr import bn, metrics, reuse
from prr.distance import rmse
from prr.errors import DataError, JobError, NetworkError, OptionError
from prr.graph.suffix import outputs_of
from prr.layers import ALL, parameter_table
from prr.metrics import drop_interval
from prr.question import ask
from prr.reuse import ACTIONS, apply_plan, drops, fitting, joint_transplant, predict, sweep, transplant

ATTRIBUTE = {"W": "weight", "B": "bias", "RM": "running_mean", "RV": "running_var", "RW": "weight", "RB": "bias"}


class Toy(nn.Module):
    """(n, 1, h, w) -> (n, 4, h, w); registered last to first, with a head that runs in train mode only."""

    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(3, 4, 1)
        self.spare = nn.Conv2d(3, 4, 1)
        self.block = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3), nn.ReLU())

    def forward(self, x):
        x = self.block(x)
        return (self.head(x), self.spare(x)) if self.training else self.head(x)


def toy(seed):
    model = Toy()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                value.copy_(torch.randn(value.shape, generator=generator))
            if name.endswith("running_var"):
                value.abs_()
            if name.endswith("num_batches_tracked"):
                value.fill_(seed)
    return model.eval()


@pytest.fixture
def target():
    return toy(1)


@pytest.fixture
def source():
    return toy(2)


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(3)
    return SimpleNamespace(
        images=torch.randn(7, 1, 6, 6, generator=generator),
        masks=torch.randint(4, (7, 6, 6), generator=generator, dtype=torch.uint8),
        patient=torch.tensor([4, 4, 9, 2, 9, 2, 2]),
    )


def everything(action):
    """A plan that does the same with all of the toy's parameters."""
    return parameter_table(Toy())[["kind", "layer", "name"]].assign(action=action)


def snapshot(model):
    """Everything that a function could change in a network, numbers bit by bit."""
    state = {name: value.detach().clone().numpy().tobytes() for name, value in model.state_dict().items()}
    identity = [id(value) for value in (*model.parameters(), *model.buffers())]
    gradients = [(value.requires_grad, value.grad is None) for value in model.parameters()]
    modules = [
        (module.training, len(module._forward_hooks), len(module._forward_pre_hooks)) for module in model.modules()
    ]
    return state, identity, gradients, modules


EVERY_FUNCTION = {
    "parameter_table": lambda target, source, data: parameter_table(target, data.images),
    "transplant": lambda target, source, data: transplant(target, source, "W", 1),
    "sweep": sweep,
    "rmse": lambda target, source, data: rmse(target, source),
    "shift_scale": lambda target, source, data: bn.shift_scale(target, source),
    "responses": lambda target, source, data: bn.responses(target, source, "block.1", data.images),
    "apply_plan": lambda target, source, data: apply_plan(target, source, everything("reuse")),
    "joint_transplant": lambda *given: joint_transplant(*given, everything("reuse"), recalibrated=True),
}


@pytest.mark.parametrize("function", EVERY_FUNCTION.values(), ids=EVERY_FUNCTION)
@pytest.mark.parametrize("training", [True, False])
def test_nothing_passed_in_changes(function, training, target, source, data):
    for model in (target, source):
        model.train(training)
        model.block[1].train(not training)  # a mode of its own
        model.head.weight.requires_grad_(False)
        model.head.register_forward_hook(lambda *_: None)
    before = [snapshot(model) for model in (target, source)]
    tensors = {name: value.clone() for name, value in vars(data).items()}
    function(target, source, data)
    assert [snapshot(model) for model in (target, source)] == before
    assert all(torch.equal(getattr(data, name), value) for name, value in tensors.items())


def test_a_snapshot_sees_one_bit(target):
    before = snapshot(target)
    target.head.bias.data[0] = target.head.bias[0].nextafter(torch.tensor(9.0)).item()
    assert snapshot(target) != before


# ------------------------------------------------------------------ transplant


@pytest.mark.parametrize("row", list(parameter_table(Toy()).itertuples()), ids=lambda row: f"{row.kind}{row.layer}")
def test_a_transplant_is_the_target_but_for_one_tensor(row, target, source):
    changed = transplant(target, source, row.kind, row.layer)
    swapped = f"{row.name}.{ATTRIBUTE[row.kind]}"
    assert changed is not target
    for name, value in changed.state_dict().items():
        giver = source if name == swapped else target
        assert torch.equal(value, giver.state_dict()[name]), name
        assert value.data_ptr() not in {model.state_dict()[name].data_ptr() for model in (target, source)}
    assert not torch.equal(target.state_dict()[swapped], source.state_dict()[swapped])


def test_a_transplant_keeps_modes_and_gradients_of_the_target(target, source):
    target.head.weight.requires_grad_(False)
    target.block[1].train()
    changed = transplant(target, source, "W", 1)
    assert [value.requires_grad for value in changed.parameters()] == [
        value.requires_grad for value in target.parameters()
    ]
    assert [module.training for module in changed.modules()] == [module.training for module in target.modules()]
    changed.block(torch.randn(2, 1, 6, 6)).sum().backward()
    assert target.block[0].weight.grad is None
    assert changed.block[0].weight.grad is not None


@pytest.mark.parametrize(
    ("kind", "layer", "error", "message"),
    [
        ("V", 1, OptionError, "'V': expected some of W, B, RM, RV, RW, RB"),
        ("W", 4, NetworkError, r"W 4: no such layer.*\[1, 2, 3\]"),
        ("W", 0, NetworkError, "W 0"),
        ("B", 3, NetworkError, r"B 3: no such layer.*\[1, 2\]"),
    ],
)
def test_a_layer_that_is_not_there_is_refused_by_number(kind, layer, error, message, target, source):
    with pytest.raises(error, match=message):
        transplant(target, source, kind, layer)


def test_a_computed_kernel_is_replaced_as_it_acts(data):
    networks = [nn.Sequential(parametrizations.weight_norm(nn.Conv2d(1, 4, 1))) for _ in range(2)]
    model = transplant(*networks, "W", 1)
    assert torch.equal(model[0].weight, networks[1][0].weight)
    assert torch.equal(model[0].bias, networks[0][0].bias)
    assert parametrize.is_parametrized(networks[0][0])  # as it was


PAIRWISE = {name: function for name, function in EVERY_FUNCTION.items() if name != "parameter_table"}


WHOLE = {name: function for name, function in PAIRWISE.items() if name not in ("transplant", "sweep", "rmse")}


@pytest.mark.parametrize("function", WHOLE.values(), ids=WHOLE)
def test_other_shapes_are_refused_with_name_and_both_shapes(function, target, source, data):
    source.head = nn.Conv2d(3, 5, 1)
    with pytest.raises(NetworkError, match=r"head\.weight: target \(4, 3, 1, 1\), source \(5, 3, 1, 1\)"):
        function(target, source, data)


@pytest.mark.parametrize("function", PAIRWISE.values(), ids=PAIRWISE)
def test_nan_weights_are_refused_with_name_and_owner(function, target, source, data):
    source.head.weight.data[0] = float("nan")
    with pytest.raises(NetworkError, match=r"head\.weight: the source has NaN"):
        function(target, source, data)


# ----------------------------------------------------------------------- sweep


def pixel_accuracy(output, data):
    right = (output.argmax(1) == data.masks).double().mean((1, 2))
    return np.array([right[data.patient == one].mean() for one in data.patient.unique()])


def dice_by_loops(output, data):
    prediction = output.argmax(1)
    scores = []
    for one in data.patient.unique():
        mine = data.patient == one
        pairs = [(prediction[mine] == label, data.masks[mine] == label) for label in (1, 2, 3)]
        scores.append(np.mean([2 * float((p & m).sum()) / float(p.sum() + m.sum()) for p, m in pairs]))
    return np.array(scores)


@pytest.mark.parametrize(("score", "oracle"), [(None, dice_by_loops), (pixel_accuracy, pixel_accuracy)])
def test_a_sweep_is_the_loop_over_transplants(score, oracle, target, source, data):
    table = sweep(target, source, data, score=score, batch_size=3)
    with torch.no_grad():
        before = oracle(target(data.images), data)
        after = [
            oracle(transplant(target, source, row.kind, row.layer)(data.images), data) for row in table.itertuples()
        ]
    assert list(table.columns) == ["kind", "layer", "name", "score", "drop", "low", "high"]
    np.testing.assert_allclose(table["score"], np.mean(after, axis=1), atol=1e-12)
    np.testing.assert_allclose(table["drop"], before.mean() - np.mean(after, axis=1), atol=1e-12)
    np.testing.assert_allclose(table[["low", "high"]].T, drop_interval(before, np.array(after)), atol=1e-12)
    assert table["drop"].abs().max() > 0.01


def test_a_sweep_covers_the_live_layers_in_order_of_execution_within_each_kind(target, source, data):
    found = sweep(target, source, data)[["kind", "layer", "name"]].values.tolist()
    batch_norm = [[kind, 1, "block.1"] for kind in ("RM", "RV", "RW", "RB")]
    assert found == [["W", 3, "block.0"], ["W", 1, "head"], ["B", 1, "head"], *batch_norm]


def test_the_own_parameters_change_the_score_by_exactly_0(target, data):
    table = sweep(target, target, data)
    assert len(table) == 7
    assert (table[["drop", "low", "high"]] == 0).all(axis=None)


@pytest.mark.parametrize(("conv", "size"), [(nn.Conv1d, (6,)), (nn.Conv2d, (6, 5)), (nn.Conv3d, (6, 5, 4))])
def test_networks_of_any_dimension_can_be_swept(conv, size):
    target, source = (nn.Sequential(conv(1, 4, 3, padding=1)) for _ in range(2))
    volumes = SimpleNamespace(
        images=torch.randn(4, 1, *size), masks=torch.randint(1, 4, (4, *size)), patient=torch.tensor([0, 0, 1, 1])
    )
    assert sweep(target, source, volumes)["kind"].tolist() == ["W", "B"]


def test_the_mode_of_the_target_does_not_matter(target, source, data):
    evaluated = sweep(target, source, data)
    assert sweep(target.train(), source.train(), data).equals(evaluated)


def test_the_batch_size_does_not_matter(target, source, data):
    assert sweep(target, source, data, batch_size=2).equals(sweep(target, source, data, batch_size=64))


@pytest.mark.parametrize("kinds", [["RB", "W"], ("W",), ["RV", "B", "RM"], ALL[:6]])
def test_kinds_come_as_asked_for(kinds, target, source, data):
    part = sweep(target, source, data, kinds=kinds)
    everything = sweep(target, source, data).set_index(["kind", "layer"])
    assert list(part["kind"].unique()) == list(kinds)
    for row in part.set_index(["kind", "layer"]).itertuples():
        assert row[1:] == tuple(everything.loc[row.Index])


@pytest.mark.parametrize(("layers", "expected"), [([1], [1, 1, 1]), ({3}, [3]), ([3, 1], [3, 1, 1, 1]), ([], [])])
def test_layers_come_as_asked_for_in_order_of_execution(layers, expected, target, source, data):
    part = sweep(target, source, data, kinds=["W", "RM", "RV"], layers=layers)
    assert part["layer"].tolist() == expected


NAMED = {"dice": metrics.foreground_dice, "accuracy": metrics.accuracy}


@pytest.mark.parametrize("score", NAMED.values(), ids=NAMED)
@pytest.mark.parametrize("kept", [1, 10**4, 2**28])
def test_a_score_of_whole_outputs_gives_what_counting_by_image_gives(score, kept, monkeypatch, target, source, data):
    counted = sweep(target, source, data, score=score, batch_size=3)
    seen, passes = [], []
    monkeypatch.setattr(reuse, "KEPT", kept)
    monkeypatch.setattr(reuse, "outputs_of", lambda *given: passes.append(given) or outputs_of(*given))

    def whole(output, data):
        seen.append(tuple(output.shape))
        return score(output, data)

    pd.testing.assert_frame_equal(sweep(target, source, data, score=whole, batch_size=3), counted, check_exact=True)
    assert seen == [(7, 4, 6, 6)] * (2 + len(counted))  # the target twice, whatever the chunks: once put into itself
    # a change has outputs of 7 * 4 * 6 * 6 numbers of 4 bytes
    assert [len(changes) for _, changes, *_ in passes] == {1: [1] * 8, 10**4: [2] * 4, 2**28: [8]}[kept]


@pytest.mark.parametrize("kept", [1, 2**28])
def test_counts_are_taken_in_chunks_too_where_they_are_large(kept, monkeypatch, target, source, data):
    expected = sweep(target, source, data)
    monkeypatch.setattr(reuse, "KEPT", kept)
    pd.testing.assert_frame_equal(sweep(target, source, data), expected, check_exact=True)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 64])
@pytest.mark.parametrize("score", [None, pixel_accuracy])
def test_the_number_of_threads_does_not_matter(batch_size, score, target, source, data):
    before = torch.get_num_threads()
    try:
        tables = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            tables.append(sweep(target, source, data, score=score, batch_size=batch_size))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    pd.testing.assert_frame_equal(*tables, check_exact=True)


def confidence(output, data):
    sure = output.softmax(1).amax(1).mean((1, 2)).double()
    return np.array([sure[data.patient == one].mean() for one in data.patient.unique()])


@pytest.mark.parametrize("threads", [1, 2])
def test_half_precision_rounds_in_every_thread_and_only_where_it_is_asked_for(threads, target, source, data):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        options = {"score": confidence, "batch_size": 3}
        exact, half = (sweep(target, source, data, bfloat16=each, **options) for each in (False, True))
        with torch.autocast("cpu", torch.bfloat16):
            around = sweep(target, source, data, **options)
    finally:
        torch.set_num_threads(before)
    pd.testing.assert_frame_equal(around, exact, check_exact=True)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        images = data.images.contiguous(memory_format=torch.channels_last)
        changed = [transplant(target, source, row.kind, row.layer)(images).float() for row in half.itertuples()]
    np.testing.assert_allclose(half["score"], [confidence(each, data).mean() for each in changed], atol=1e-4)
    assert 0 < (half["score"] - exact["score"]).abs().max() < 0.01


def test_drops_in_half_precision_average_to_the_sweep(target, source, data):
    found = drops(target, source, data, score=confidence, bfloat16=True)
    swept = sweep(target, source, data, score=confidence, bfloat16=True)
    means = found.groupby(["kind", "layer"], sort=False)["drop"].mean()
    np.testing.assert_allclose(means, swept["drop"], atol=1e-12)


def partly_nan(output, data):
    """Says nothing of some patients, of others after a transplant than before."""
    values = pixel_accuracy(output, data)
    return np.where(values == values.max(), np.nan, values)


@pytest.mark.parametrize("score", [None, pixel_accuracy, partly_nan])
def test_a_sweep_is_the_mean_of_its_drops(score, target, source, data):
    found = drops(target, source, data, score=score, batch_size=3)
    assert list(found.columns) == ["kind", "layer", "name", "patient", "score", "drop"]
    assert found["patient"].tolist() == [2, 4, 9] * (len(found) // 3)
    swept = sweep(target, source, data, score=score, batch_size=3)
    by_layer = found.groupby(["kind", "layer", "name"], sort=False)
    np.testing.assert_allclose(by_layer["score"].mean(), swept["score"], atol=1e-12)  # NaN left out by both
    if score is not partly_nan:
        np.testing.assert_allclose(by_layer["drop"].mean(), swept["drop"], atol=1e-12)
        before = (found["score"] + found["drop"]).to_numpy().reshape(-1, 3)
        np.testing.assert_allclose(before, before[[0]].repeat(len(swept), 0), atol=1e-12)
        expected = drop_interval(before[0], found["score"].to_numpy().reshape(-1, 3))
        np.testing.assert_allclose(swept[["low", "high"]].T, expected, atol=1e-12)
    assert found.iloc[::3]["name"].tolist() == swept["name"].tolist()


def test_a_score_that_says_nothing_of_a_patient_counts_where_it_says_something(target, source, data):
    """Before and after are means over those patients of which the score says something, each over its own."""
    with torch.no_grad():
        before = partly_nan(target(data.images), data)
        swept = sweep(target, source, data, score=partly_nan)
        for row in swept.itertuples():
            after = partly_nan(transplant(target, source, row.kind, row.layer)(data.images), data)
            assert row.drop == pytest.approx(np.nanmean(before) - np.nanmean(after), abs=1e-9)


def test_drops_take_the_options_of_a_sweep_and_no_others(target, source, data):
    ours, theirs = (inspect.signature(each).parameters for each in (sweep, reuse.patient_scores))
    asked = {name: each for name, each in inspect.signature(ask).parameters.items() if name != "target"}
    expected = {name: each.default for name, each in {**theirs, **asked}.items() if name != "asked"}
    assert {name: each.default for name, each in ours.items()} == expected
    part = drops(target, source, data, kinds=["B", "W"], layers=[1])
    assert part[["kind", "layer"]].drop_duplicates().values.tolist() == [["B", 1], ["W", 1]]
    with pytest.raises(TypeError, match="kind"):
        drops(target, source, data, kind="W")


def test_half_precision_that_moves_the_score_is_refused(source, data):
    close = nn.Conv2d(1, 4, 1)  # logits that differ by less than half precision can tell
    with torch.no_grad():
        close.weight.zero_()
        close.bias.copy_(torch.tensor([1, 1.0001, 0, 0]))
    assert sweep(close, copy.deepcopy(close), data)["drop"].eq(0).all()
    with pytest.raises(NetworkError, match=r"bfloat16: expected the target's score within 0.001 of 0\.\d+, found 0"):
        sweep(close, copy.deepcopy(close), data, bfloat16=True)


def test_every_image_is_scored_in_its_place_whatever_the_batches_and_threads(target, source, data):
    whole = target(data.images).detach()
    seen = []

    def score(output, data):
        seen.append(output.clone())
        return pixel_accuracy(output, data)

    before = torch.get_num_threads()
    try:
        for threads, batch_size in [(1, 1), (1, 3), (2, 2), (2, 3), (2, 64), (3, 2)]:
            torch.set_num_threads(threads)
            sweep(target, source, data, score=score, kinds=["B"], batch_size=batch_size)
            torch.testing.assert_close(seen[0], whole)
            seen.clear()
    finally:
        torch.set_num_threads(before)


def test_kinds_that_the_network_lacks_give_an_empty_table(data):
    networks = [nn.Sequential(nn.Conv2d(1, 4, 1, bias=False)) for _ in range(2)]
    table = sweep(*networks, data, kinds=["B"])
    assert table.empty
    assert list(table.columns) == ["kind", "layer", "name", "score", "drop", "low", "high"]


def test_one_patient_has_no_interval(target, source, data):
    data.patient = torch.zeros(7, dtype=torch.long)
    table = sweep(target, source, data)
    assert table[["low", "high"]].isna().all(axis=None)
    assert table["drop"].notna().all()


def test_a_sweep_refuses_unknown_kinds_by_name(target, source, data):
    with pytest.raises(OptionError, match="'RX'"):
        sweep(target, source, data, kinds=["W", "RX"])


def test_a_sweep_refuses_empty_data(target, source, data):
    empty = SimpleNamespace(**{name: value[:0] for name, value in vars(data).items()})
    with pytest.raises(DataError, match="at least one to score"):
        sweep(target, source, empty)


@pytest.mark.parametrize("predicted", [0, 1])
def test_a_sweep_refuses_masks_without_foreground(predicted, target, source, data):
    """Dice is 0 or NaN there whatever is replaced: every layer would look reusable."""
    data.masks.zero_()
    target.head.bias.data[predicted] = 1e6
    with pytest.raises(DataError, match="label"):
        sweep(target, source, data, kinds=["RM"])


def test_a_score_of_its_own_needs_no_foreground(target, source, data):
    data.masks.zero_()
    assert len(sweep(target, source, data, kinds=["W"], score=pixel_accuracy)) == 2


@pytest.mark.parametrize("score", [lambda *_: 0.5, lambda *_: np.full(3, np.nan)], ids=["one number", "NaN"])
def test_a_score_without_a_value_per_patient_is_refused(score, target, source, data):
    with pytest.raises(DataError, match="one number per patient"):
        sweep(target, source, data, score=score)


def test_a_mask_label_out_of_range_is_refused(target, source, data):
    data.masks[0, 0, 0] = 4
    with pytest.raises(DataError, match=r"masks: expected labels 0\.\.3, found 0\.\.4"):
        sweep(target, source, data)


def test_a_sweep_takes_some_layers_and_refuses_unknown_ones(target, source, data):
    whole = sweep(target, source, data, kinds=["W"])
    some = sweep(target, source, data, kinds=["W"], layers=[3])
    pd.testing.assert_frame_equal(some, whole[whole["layer"] == 3].reset_index(drop=True))
    with pytest.raises(NetworkError, match=r"layers \[9\]: no such layer of kind W"):
        sweep(target, source, data, kinds=["W"], layers=[3, 9])


class Hungry(nn.Conv2d):
    __module__ = nn.Conv2d.__module__  # torch.fx looks into modules that are not torch's own

    def forward(self, x):
        if len(x) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(x)


@pytest.mark.parametrize("traceable", [True, False])
@pytest.mark.parametrize(
    ("function", "options"),
    [
        (sweep, {}),
        (joint_transplant, {"pairs": everything("reuse")}),
        (joint_transplant, {"pairs": everything("reuse"), "recalibrated": True, "before": np.zeros(3)}),
        (lambda target, _, data, batch_size: predict(target, data.images, batch_size), {}),
    ],
    ids=["sweep", "joint", "recalibrated", "predict"],
)
def test_a_batch_that_does_not_fit_is_told_with_the_one_that_may(function, options, traceable, target, source, data):
    target.block[0].__class__ = Hungry
    if not traceable:
        target.block.register_forward_hook(lambda *_: None)
    with pytest.raises(JobError, match=r"out of memory with batch_size=4: expected .* set batch_size=2, or free"):
        function(target, source, data, batch_size=4, **options)


def test_scores_of_other_patients_are_refused(target, source, data):
    with pytest.raises(OptionError, match=r"before: expected 3 values, one per patient, found shape \(1,\)"):
        joint_transplant(target, source, data, everything("reuse"), before=np.zeros(1))


def test_known_scores_of_the_target_change_nothing(target, source, data):
    own = reuse.values(target, data, metrics.foreground_dice, 32)
    expected = joint_transplant(target, source, data, everything("reuse"))
    assert joint_transplant(target, source, data, everything("reuse"), before=own) == expected
    lower = joint_transplant(target, source, data, everything("reuse"), before=own - 0.25)
    assert lower["drop"] == expected["drop"] - 0.25


def test_a_single_image_that_does_not_fit_has_to_be_smaller():
    with pytest.raises(JobError, match=r"batch_size=1: .* take smaller images"), fitting(1):
        raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize(
    ("changes", "options", "error", "message"),
    [
        ({"images": np.zeros((7, 1, 6, 6))}, {}, DataError, "data.images: expected a torch tensor, found ndarray"),
        ({"masks": None}, {}, DataError, "data.masks: expected a torch tensor, found NoneType"),
        ({"images": torch.full((7, 1, 6, 6), np.nan)}, {}, DataError, "data.images: expected finite values"),
        (
            {"masks": torch.rand(7, 6, 6)},
            {},
            DataError,
            "r2: expected an output",
        ),
        ({}, {"kinds": "W"}, OptionError, r"kinds='W': expected a list, such as \['W'\]"),
        ({}, {"layers": 1}, OptionError, "layers=1"),
        ({}, {"batch_size": 0}, OptionError, "batch_size=0"),
    ],
)
def test_a_sweep_says_what_is_wrong_with_its_input(target, source, data, changes, options, error, message):
    vars(data).update({"masks": torch.ones(7, 6, 6, dtype=torch.uint8)} | changes)
    with pytest.raises(error, match=message):
        sweep(target, source, data, **options)


def test_a_state_dict_is_no_network(target):
    for pair in ((target.state_dict(), target), (target, target.state_dict())):
        with pytest.raises(NetworkError, match=r"expected a torch.nn.Module, found OrderedDict"):
            rmse(*pair)


LEFT_OUT = (
    r"2 parameters are not comparable and left out, 22\.5% of the target, head\.weight among them "
    r"\(target \(4, 3, 1, 1\), source"
)


@pytest.mark.parametrize("function", [sweep, PAIRWISE["rmse"]])
def test_a_part_in_common_is_compared_and_the_rest_told(function, target, source, data):
    whole = function(target, source, data)
    source.head = nn.Conv2d(3, 5, 1)
    with pytest.warns(UserWarning, match=LEFT_OUT):
        part = function(target, source, data)
    pd.testing.assert_frame_equal(part, whole[whole["name"] != "head"].reset_index(drop=True))


def test_a_transplant_of_what_is_not_shared_is_refused_with_both_shapes(target, source):
    source.head = nn.Conv2d(3, 5, 1)
    head = parameter_table(target).query("name == 'head' and kind == 'W'")["layer"].item()
    with pytest.raises(NetworkError, match=r"head\.weight: target \(4, 3, 1, 1\), source \(5, 3, 1, 1\)"):
        transplant(target, source, "W", head)


def test_negative_variances_are_refused(target, source):
    source.block[1].running_var[0] = -1
    with pytest.raises(NetworkError, match=r"block.1.running_var: the source has negative variances"):
        transplant(target, source, "B", 1)


# ----------------------------------------------------------------------- joint


def test_one_pair_taken_jointly_is_its_row_of_the_sweep(target, source, data):
    for row in sweep(target, source, data, score=pixel_accuracy).itertuples():
        pair = pd.DataFrame([row])[["kind", "name"]]
        found = joint_transplant(target, source, data, pair, score=pixel_accuracy, batch_size=3)
        assert list(found) == ["score", "drop", "low", "high"]
        np.testing.assert_allclose(list(found.values()), [row.score, row.drop, row.low, row.high], atol=1e-12)


def test_all_pairs_taken_jointly_score_as_the_source(target, source, data):
    found = joint_transplant(target, source, data, everything("reuse"))
    with torch.no_grad():
        before, after = (dice_by_loops(model(data.images), data) for model in (target, source))
    low, high = drop_interval(before, after[None])
    assert found == pytest.approx(
        {"score": after.mean(), "drop": before.mean() - after.mean(), "low": low[0], "high": high[0]}
    )
    assert found["drop"] != 0


def test_a_joint_score_after_recalibration_is_that_of_the_recalibrated_network(target, source, data):
    taken = transplant(target, source, "W", 3)
    recalibrated = bn.recalibrate(taken, data.images)
    pair = pd.DataFrame({"kind": ["W"], "name": ["block.0"]})
    with torch.no_grad():
        scores = [dice_by_loops(model(data.images), data).mean() for model in (taken, recalibrated)]
    found = [joint_transplant(target, source, data, pair, recalibrated=each)["score"] for each in (False, True)]
    assert found == pytest.approx(scores)
    assert scores[0] != scores[1]


def test_no_pair_costs_nothing_and_one_patient_has_no_interval(target, source, data):
    none = everything("reuse").head(0)
    assert joint_transplant(target, source, data, none)["drop"] == 0
    data.patient = torch.zeros(7, dtype=torch.long)
    assert np.isnan(joint_transplant(target, source, data, none)["high"])


def test_a_joint_score_refuses_empty_data(target, source, data):
    empty = SimpleNamespace(**{name: value[:0] for name, value in vars(data).items()})
    with pytest.raises(DataError, match="at least one to score"):
        joint_transplant(target, source, empty, everything("reuse"))


# ------------------------------------------------------------------ apply_plan


PARAMETERS = [(row.kind, row.name) for row in parameter_table(Toy()).itertuples()]
each_parameter = pytest.mark.parametrize(("kind", "name"), PARAMETERS, ids=[" ".join(pair) for pair in PARAMETERS])


def planned(*rows):
    return pd.DataFrame(rows, columns=["kind", "name", "action"])


def state_of(model, kind, name):
    return getattr(model.get_submodule(name), ATTRIBUTE[kind]).detach().clone()


def train(model, steps=3):
    """A loop of the reader's own: Adam with weight decay over all that takes a gradient."""
    generator = torch.Generator().manual_seed(5)
    optimiser = torch.optim.Adam(
        [value for value in model.parameters() if value.requires_grad], lr=0.1, weight_decay=0.1
    )
    model.train()
    for _ in range(steps):
        optimiser.zero_grad()
        sum(output.square().sum() for output in model(torch.randn(4, 1, 6, 6, generator=generator))).backward()
        optimiser.step()
    return model


@each_parameter
@pytest.mark.parametrize("action", ACTIONS)
def test_an_action_says_whose_a_parameter_is_and_whether_training_changes_it(action, kind, name, target, source):
    if action == "recalibrate" and kind not in ("RM", "RV"):
        action = "retrain"
    model = apply_plan(target, source, planned((kind, name, action)))
    others = [pair for pair in PARAMETERS if pair != (kind, name)]
    giver = source if action in ("reuse", "fine-tune") else target
    begin = {pair: state_of(model, *pair) for pair in PARAMETERS}
    assert torch.equal(begin[kind, name], state_of(giver, kind, name))
    assert all(torch.equal(begin[pair], state_of(target, *pair)) for pair in others)
    assert not torch.equal(state_of(source, kind, name), state_of(target, kind, name))
    train(model)
    assert torch.equal(state_of(model, kind, name), begin[kind, name]) == (action == "reuse")
    assert not any(torch.equal(state_of(model, *pair), begin[pair]) for pair in others)


def test_what_is_all_reused_is_the_source_before_and_after_training(target, source, data):
    model = apply_plan(target, source, everything("reuse"))
    assert not any(value.requires_grad for value in model.parameters())
    for _ in range(2):
        assert all(torch.equal(state_of(model, *pair), state_of(source, *pair)) for pair in PARAMETERS)
        model.train()(data.images)
    assert torch.equal(model.eval()(data.images), source(data.images))


def test_an_empty_plan_is_a_copy(target, source, data):
    model = apply_plan(target, source, planned())
    assert torch.equal(model(data.images), target(data.images))
    assert all(value.requires_grad for value in model.parameters())


def copied(model):
    return copy.deepcopy(model)


def there_and_back(model):
    return copy.deepcopy(model.eval()).train()


@pytest.mark.parametrize("handled", [lambda model: model, copied, there_and_back], ids=["as is", "copy", "to eval"])
@pytest.mark.parametrize("frozen", [["RM"], ["RV"], ["RM", "RV"]], ids="+".join)
def test_frozen_statistics_survive_and_the_others_are_those_of_an_unfrozen_layer(handled, frozen, target, source, data):
    plan = planned(*((kind, "block.1", "reuse") for kind in frozen))
    free = apply_plan(target, source, plan.assign(action="fine-tune")).train()
    model = handled(apply_plan(target, source, plan).train())
    begin = {kind: state_of(free, kind, "block.1") for kind in ("RM", "RV")}
    for part in data.images.split(3):
        output, expected = model(part)[0], free(part)[0]
        if len(frozen) == 1:
            assert torch.equal(output, expected)  # normalised by the batch
    for kind in ("RM", "RV"):
        wanted = begin[kind] if kind in frozen else state_of(free, kind, "block.1")
        if len(frozen) == 1 or kind in frozen:
            assert torch.equal(state_of(model, kind, "block.1"), wanted), kind
        assert not torch.equal(state_of(free, kind, "block.1"), begin[kind])


def test_a_batch_norm_with_both_statistics_frozen_computes_in_training_what_it_does_in_eval_mode(target, source, data):
    model = apply_plan(target, source, planned(("RM", "block.1", "reuse"), ("RV", "block.1", "reuse")))
    evaluated = model.eval()(data.images)
    assert torch.equal(model.train()(data.images)[0], evaluated)
    assert not torch.equal(target.train()(data.images)[0], evaluated)
    model.block(data.images).sum().backward()
    assert model.block[1].weight.grad is not None  # RW and RB learn all the same


@pytest.mark.parametrize("second", ["RM", "RV"])
def test_a_second_plan_freezes_on_top_of_the_first(second, target, source, data):
    model = apply_plan(target, source, planned(("RM", "block.1", "reuse"), ("W", "head", "reuse")))
    model = train(apply_plan(model, source, planned((second, "block.1", "reuse"))))
    for pair in (("RM", "block.1"), (second, "block.1"), ("W", "head")):
        assert torch.equal(state_of(model, *pair), state_of(source, *pair)), pair


def test_a_frozen_model_can_be_saved_and_loaded(target, source, tmp_path, data):
    model = apply_plan(target, source, planned(("RM", "block.1", "reuse"))).train()
    torch.save(model, tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)
    loaded(data.images)
    assert torch.equal(state_of(loaded, "RM", "block.1"), state_of(source, "RM", "block.1"))
    assert list(loaded.state_dict()) == list(target.state_dict())


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ([("W", "head", "freeze")], OptionError, "action 'freeze': expected some of reuse, fine-tune"),
        ([("W", "head", None)], OptionError, "action 'None'"),
        ([("V", "head", "reuse")], OptionError, "kind 'V': expected some of W, B, RM, RV, RW, RB"),
        ([("W", "neck", "reuse")], NetworkError, r"neck\.weight \(W\): not in Toy"),
        ([("W", "neck", "retrain")], NetworkError, r"neck\.weight \(W\): not in Toy"),
        ([("RM", "head", "recalibrate")], NetworkError, r"head\.running_mean \(RM\): not in Toy"),
        ([("B", "block.0", "fine-tune")], NetworkError, r"block\.0\.bias \(B\): not in Toy"),
        ([("W", "head", "recalibrate")], OptionError, "W of head: only RM and RV can be recalibrated"),
        ([("W", "head", "reuse"), ("W", "head", "retrain")], OptionError, "W of head is named twice"),
    ],
)
def test_a_plan_that_says_nothing_clear_is_refused_by_name(rows, error, message, target, source):
    with pytest.raises(error, match=message):
        apply_plan(target, source, planned(*rows))


@pytest.mark.parametrize("column", ["kind", "name", "action"])
def test_a_plan_without_a_column_is_refused_by_name(column, target, source):
    with pytest.raises(OptionError, match=f"found no {column}"):
        apply_plan(target, source, everything("reuse").drop(columns=column))


def test_the_plan_itself_does_not_change(target, source):
    plan = everything("reuse")
    apply_plan(target, source, plan)
    assert plan.equals(everything("reuse"))


def test_a_plan_that_is_no_table_and_an_empty_batch_are_refused():
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1))
    with pytest.raises(OptionError, match="expected a DataFrame"):
        apply_plan(model, model, {"kind": "W"})
    data = SimpleNamespace(images=torch.randn(2, 1, 4, 4), masks=torch.ones(2, 4, 4).long(), patient=torch.arange(2))
    with pytest.raises(OptionError, match="batch_size=0"):
        joint_transplant(model, model, data, parameter_table(model), batch_size=0)


class WritesIntoItsInput(nn.Module):
    def __init__(self):
        super().__init__()
        self.toy = Toy()

    def forward(self, x):
        return self.toy(x.mul_(2))


def test_a_network_that_writes_into_its_input_leaves_the_data_alone(data):
    before = data.images.clone()
    target, source = WritesIntoItsInput().eval(), WritesIntoItsInput().eval()
    swept = sweep(target, source, data)
    joint_transplant(target, source, data, swept, recalibrated=True)
    parameter_table(target, data.images)
    assert torch.equal(data.images, before)
    last = swept.iloc[-1]
    alone = sweep(target, source, data, kinds=[last["kind"]], layers=[last["layer"]])  # no other scored before it
    assert alone["score"].item() == last["score"]
