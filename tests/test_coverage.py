"""Nothing of a state dict is invisible: recurrent layers, attention, embeddings, frozen norms, and what is nobody's."""

import copy
import threading
import types

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from torchvision.ops import FrozenBatchNorm2d

import prr
from prr.bn import recalibrate, shift_scale
from prr.copies import effective
from prr.errors import NetworkError
from prr.layers import full_name

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections")

TOKENS = torch.randint(7, (10, 5), generator=torch.Generator().manual_seed(0))
SERIES = torch.randn(10, 5, 3, generator=torch.Generator().manual_seed(1))
WIDE = SERIES @ torch.ones(3, 4)
IMAGES = torch.randn(10, 4, 6, 6, generator=torch.Generator().manual_seed(2))


class First(nn.Module):
    """What a recurrent layer or an attention gives first."""

    def __init__(self, layer, self_attention=False):
        super().__init__()
        self.layer, self.self_attention = layer, self_attention

    def forward(self, x):
        return self.layer(x, x, x)[0] if self.self_attention else self.layer(x)[0]


class RMS(nn.Module):
    """A norm that somebody wrote."""

    def __init__(self):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(4, 1, 1))

    def forward(self, x):
        return x * self.gamma / x.square().mean(1, keepdim=True).sqrt()


class GRN(RMS):
    """As ConvNeXt V2 has it."""

    def __init__(self):
        super().__init__()
        self.beta = nn.Parameter(torch.zeros(4, 1, 1))

    def forward(self, x):
        norm = x.norm(dim=(2, 3), keepdim=True)
        return self.gamma * x * norm / norm.mean(1, keepdim=True) + self.beta + x


class Conv1D(nn.Module):
    """The linear layer of GPT-2, the other way round."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.zeros(4))

    def forward(self, x):
        return x @ self.weight + self.bias


class Cell(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(3, 4)

    def forward(self, x):
        return self.cell(x[:, 0])


class Positions(nn.Module):
    """A parameter, a buffer that is kept and one that is not, at the root."""

    def __init__(self):
        super().__init__()
        self.place = nn.Parameter(torch.randn(5, 3))
        self.register_buffer("mean", torch.randn(3))
        self.register_buffer("index", torch.arange(5))
        self.register_buffer("passing", torch.ones(3), persistent=False)

    def forward(self, x):
        return x + self.place[self.index] - self.mean + self.passing


RECURRENT, ATTENTION, BATCH_NORM = {"IW", "HW", "IB", "HB"}, {"AW", "AB", "LW", "LB"}, {"RM", "RV", "RW", "RB"}
NETWORKS = {
    "gru": (lambda: First(nn.GRU(3, 4, num_layers=2, batch_first=True, bidirectional=True)), SERIES, RECURRENT),
    "lstm": (lambda: First(nn.LSTM(3, 4, batch_first=True, proj_size=2)), SERIES, {*RECURRENT, "other"}),
    "cell": (Cell, SERIES, RECURRENT),
    "embedding": (lambda: nn.Sequential(nn.Embedding(7, 3), nn.Linear(3, 2)), TOKENS, {"EW", "LW", "LB"}),
    "bag": (lambda: nn.EmbeddingBag(7, 3), TOKENS, {"EW"}),
    "attention": (lambda: First(nn.MultiheadAttention(4, 2, batch_first=True), True), WIDE, ATTENTION),
    "other sizes": (
        lambda: First(nn.MultiheadAttention(4, 2, bias=False, add_bias_kv=True, batch_first=True), True),
        WIDE,
        {"AW", "LW", "other"},
    ),
    "transformer": (lambda: nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), WIDE, {*ATTENTION, "NW", "NB"}),
    "frozen": (lambda: nn.Sequential(nn.Conv2d(4, 4, 1), FrozenBatchNorm2d(4)), IMAGES, {"W", "B", *BATCH_NORM}),
    "rms": (lambda: nn.Sequential(nn.Conv2d(4, 4, 1), RMS()), IMAGES, {"W", "B", "other"}),
    "grn": (lambda: nn.Sequential(nn.Conv2d(4, 4, 1), GRN()), IMAGES, {"W", "B", "other"}),
    "conv1d": (Conv1D, SERIES, {"other"}),
    "instance": (lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True), IMAGES, {"NW", "NB", "other"}),
    "positions": (Positions, SERIES, {"other"}),
}  # fmt: skip


def pair(name):
    make, images, kinds = NETWORKS[name]
    torch.manual_seed(3)
    networks = make().eval(), make().eval()
    for network in networks:
        for value in network.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.rand_like(value) + 0.5)
    return *networks, images, kinds


def closeness(output, data):
    return -(output.double() - data.masks.double()).square().flatten(1).mean(1).numpy()


@pytest.mark.parametrize("name", NETWORKS)
def test_every_floating_point_tensor_of_a_state_dict_is_listed_once_and_by_its_name(name):
    target, _, images, kinds = pair(name)
    table = prr.parameter_table(target, images)
    assert set(table["kind"]) == kinds
    names = [full_name(*each) for each in table[["kind", "name"]].itertuples(index=False)]
    assert sorted(names) == sorted(key for key, value in target.state_dict().items() if value.is_floating_point())
    assert table["live"].all()
    assert not table.duplicated(["kind", "layer"]).any()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_sweep_is_the_loop_that_a_reader_would_write(name):
    target, source, images, _ = pair(name)
    with torch.no_grad():
        truth = target(images)
        rows = {}
        for key, value in source.state_dict().items():
            if value.is_floating_point():
                model = copy.deepcopy(target)
                model.load_state_dict({key: value}, strict=False)
                rows[key] = -(model(images).double() - truth.double()).square().mean().item()
    swept = prr.sweep(target, source, (images, truth), score=closeness)
    found = {full_name(row.kind, row.name): row.score for row in swept.itertuples()}
    assert found == pytest.approx(rows, rel=1e-5, abs=1e-9)
    itself = prr.sweep(target, copy.deepcopy(target), (images, truth), score=closeness)["drop"]
    assert (itself.abs() <= (1e-12 if name == "gru" else 0)).all()  # whose rounding depends on where a tensor lies


@pytest.mark.parametrize("name", NETWORKS)
def test_a_tensor_is_transplanted_frozen_and_measured(name):
    target, source, images, _ = pair(name)
    table = prr.parameter_table(target)
    distance = prr.rmse(target, source)
    assert len(distance) == len(table)
    for row in table.itertuples():
        key = full_name(row.kind, row.name)
        model = prr.transplant(target, source, row.kind, row.layer)
        differs = {
            each for each, value in model.state_dict().items() if not torch.equal(value, target.state_dict()[each])
        }
        assert differs == {key}
        error = (source.state_dict()[key].double() - target.state_dict()[key].double()).square().mean().sqrt().item()
        assert distance.query("kind == @row.kind and name == @row.name")["rmse"].item() == pytest.approx(error)
    model = prr.apply_plan(target, source, table.assign(action="reuse"))
    assert not any(value.requires_grad for value in model.parameters())
    torch.testing.assert_close(model(images), source(images))


def test_what_is_frozen_is_estimated_again_as_what_is_not():
    torch.manual_seed(0)
    free = nn.Sequential(nn.Conv2d(4, 3, 1), nn.BatchNorm2d(3)).eval()
    frozen = nn.Sequential(copy.deepcopy(free[0]), FrozenBatchNorm2d(3)).eval()
    frozen[1].load_state_dict(free[1].state_dict())
    found = [recalibrate(each, IMAGES, batch_size=5)[1] for each in (free, frozen)]
    torch.testing.assert_close(found[0].running_mean, found[1].running_mean)
    torch.testing.assert_close(found[0].running_var, found[1].running_var)
    assert frozen[1].running_mean.abs().sum() == 0
    held = prr.apply_plan(frozen, frozen, prr.parameter_table(frozen).query("kind == 'RM'").assign(action="reuse"))
    assert recalibrate(held, IMAGES)[1].running_mean.abs().sum() == 0
    other = copy.deepcopy(frozen)
    other[1].running_mean += 1
    assert shift_scale(frozen, other)["MRM"].item() == pytest.approx(1, rel=1e-4)


WEIGHT = {
    "old weight norm": lambda: nn.utils.weight_norm(nn.Linear(3, 2)),
    "old spectral norm": lambda: nn.utils.spectral_norm(nn.Linear(3, 2)),
    "weight norm": lambda: parametrizations.weight_norm(nn.Linear(3, 2)),
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Linear(3, 2)),
    "pruned": lambda: prune.l1_unstructured(nn.Linear(3, 2), "weight", 0.5),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(3, 3)),
    "recurrent": lambda: First(parametrizations.weight_norm(nn.GRU(3, 2, batch_first=True), "weight_ih_l0")),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
@pytest.mark.parametrize("make", WEIGHT.values(), ids=WEIGHT)
def test_computed_weights_are_judged_as_they_act(make):
    torch.manual_seed(0)
    target, source = nn.Sequential(make()).eval(), nn.Sequential(make()).eval()
    before = {name: value.clone() for name, value in target.state_dict().items()}
    truth = target(SERIES).detach()
    torch.testing.assert_close(effective(target)(SERIES), truth)
    swept = prr.sweep(target, source, (SERIES, truth), score=closeness)
    weight = swept.query("kind in ['LW', 'IW']").iloc[0]
    model = copy.deepcopy(effective(target))
    name = full_name(weight["kind"], weight["name"])
    model.load_state_dict({name: effective(source).state_dict()[name]}, strict=False)
    expected = closeness(model(SERIES).detach(), types.SimpleNamespace(masks=truth)).mean()
    assert weight["score"] == pytest.approx(expected, abs=1e-6)
    verdict = prr.judge(target, source, (SERIES, truth), score=closeness)
    assert any("computed from others" in note for note in verdict.notes)
    planned = prr.apply_plan(target, source, verdict.plan().assign(action="fine-tune"))
    torch.testing.assert_close(planned(SERIES), source(SERIES))
    assert prr.rmse(target, target)["rmse"].sum() == 0
    assert target.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())


@pytest.mark.parametrize(
    ("attribute", "value"),
    [("rows", (i for i in range(3))), ("lock", threading.Lock()), ("module", types.ModuleType("strange"))],
)
def test_what_refuses_to_be_copied_is_named(attribute, value):
    model = nn.Sequential(nn.Linear(3, 2))
    setattr(model[0], attribute, value)
    with pytest.raises(NetworkError, match=rf"^0\.{attribute} \(\w+\): expected what copy\.deepcopy can copy"):
        prr.sweep(model, model, (SERIES[:, 0], torch.zeros(10, 2)))


def test_features_that_a_pass_has_left_are_copied():
    class Keeps(nn.Linear):
        def forward(self, x):
            self.features = [super().forward(x)]
            self.latest = self.features[0]
            return self.latest * 2

    model = Keeps(3, 2)
    model(SERIES[:, 0])
    assert (prr.sweep(model, model, (SERIES[:, 0], torch.randn(10, 2)))["drop"] == 0).all()


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.empty(2, 3, device="meta"), "lies on the device meta"),
        (torch.zeros(2, 3).to_sparse(), "expected a dense tensor of floating-point numbers, found torch.sparse_coo"),
    ],
)
def test_tensors_without_plain_numbers_are_refused_by_what_they_are(weight, message):
    model = nn.Linear(3, 2)
    model.weight = nn.Parameter(weight, requires_grad=False)
    with pytest.raises(NetworkError, match=rf"weight \(LW\): .*{message}"):
        prr.rmse(model, nn.Linear(3, 2))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float16, torch.complex64, torch.float64])
def test_distances_know_every_kind_of_number(dtype):
    model, other = (nn.Linear(3, 2, bias=False).requires_grad_(False) for _ in range(2))
    for each in (model, other):
        each.weight = nn.Parameter(each.weight.to(dtype), requires_grad=False)
    wide = [np.asarray((each.weight if dtype.is_complex else each.weight.double()).numpy()) for each in (model, other)]
    expected = np.sqrt((np.abs(wide[0] - wide[1]) ** 2).mean())
    assert prr.rmse(model, other)["rmse"].item() == pytest.approx(expected)
    assert prr.rmse(model, model)["rmse"].item() == 0


@pytest.mark.parametrize(
    ("model", "images", "message"),
    [
        (nn.Bilinear(3, 3, 2), SERIES[:, 0], "its forward takes input1, input2: judge a network of one input"),
        (nn.Conv2d(3, 2, 1), torch.zeros(4, 3, 5, 5, dtype=torch.uint8), r"whole bytes: .*images\.float\(\) / 255"),
        (nn.Conv2d(3, 2, 1), torch.zeros(4, 5, 5, 3), r"the channels come last: pass images\.movedim\(-1, 1\)"),
        (nn.Linear(3, 2), torch.zeros(4, 5), "pass one batch as the network takes it"),
    ],
)
def test_a_batch_that_a_network_refuses_comes_with_the_remedy(model, images, message):
    with pytest.raises(NetworkError, match=message):
        prr.judge(model, model, (images, torch.arange(len(images)) % 2))


def test_a_network_made_in_inference_mode_is_judged_like_another():
    torch.manual_seed(0)
    with torch.inference_mode():
        made = nn.Sequential(nn.Conv2d(4, 3, 1), nn.BatchNorm2d(3)).eval()
    usual = nn.Sequential(nn.Conv2d(4, 3, 1), nn.BatchNorm2d(3)).eval()
    usual.load_state_dict({name: value.clone() for name, value in made.state_dict().items()})
    source = nn.Sequential(nn.Conv2d(4, 3, 1), nn.BatchNorm2d(3)).eval()
    data = IMAGES, usual(IMAGES).argmax(1)
    swept = [prr.sweep(each, source, data, score="accuracy") for each in (made, usual)]
    assert swept[0].equals(swept[1])
    assert prr.rmse(made, usual)["rmse"].sum() == 0
    assert prr.rmse(usual, made)["rmse"].sum() == 0
    assert made[0].weight.is_inference()
    assert not any("computed from others" in note for note in prr.judge(made, source, data, score="accuracy").notes)
