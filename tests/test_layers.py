"""The table of layers, on networks whose layers can be counted by hand."""

import functools
import operator

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

import prr
from prr.errors import NetworkError, OptionError
from prr.layers import check_kinds, common, comparable, incomparable, parameter_table, tensor
from prr.study import pspnet, unet

BATCH_NORM = ["RM", "RV", "RW", "RB"]


class Odd(nn.Module):
    """Registered: dead, late, early, twice, spare. Run: early, twice, both in part again, late; spare in train mode."""

    def __init__(self):
        super().__init__()
        self.dead = nn.Conv2d(1, 2, 3)
        self.late = nn.Conv2d(2, 4, 3, bias=False)
        self.early = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
        self.twice = nn.Conv2d(2, 2, 1)
        self.spare = nn.BatchNorm2d(4)

    def forward(self, x):
        x = self.twice(self.twice(self.early(x)))
        x = self.late(self.early[1](x))
        return self.spare(x) if self.training else x


EXAMPLE = torch.zeros(1, 1, 8, 8)
ROWS = {
    "dead": [("W", 1, "dead"), ("B", 1, "dead")],
    "late": [("W", 2, "late")],
    "early": [("W", 3, "early.0"), ("B", 3, "early.0"), *((kind, 1, "early.1") for kind in BATCH_NORM)],
    "twice": [("W", 4, "twice"), ("B", 4, "twice")],
    "spare": [(kind, 2, "spare") for kind in BATCH_NORM],
}


def rows(table):
    return list(table[["kind", "layer", "name"]].itertuples(index=False, name=None))


def test_without_an_example_rows_stand_in_order_of_registration():
    table = parameter_table(Odd())
    assert rows(table) == functools.reduce(
        operator.iadd, (ROWS[name] for name in ("dead", "late", "early", "twice", "spare")), []
    )
    assert list(table.columns) == ["kind", "layer", "name", "shape", "size"]


@pytest.mark.parametrize("training", [True, False])
def test_with_an_example_live_layers_come_first_in_order_of_execution(training):
    table = parameter_table(Odd().train(training), EXAMPLE)
    assert rows(table) == functools.reduce(
        operator.iadd, (ROWS[name] for name in ("early", "twice", "late", "dead", "spare")), []
    )
    assert table["live"].dtype == bool
    assert set(table.loc[table["live"], "name"]) == {"early.0", "early.1", "twice", "late"}


def test_a_layer_that_runs_more_than_once_is_one_row_and_says_so():
    told = parameter_table(Odd(), EXAMPLE).groupby("name")["shared"].unique().map(list).to_dict()
    assert told == {"early.0": [""], "early.1": ["used 2 times"], "twice": ["used 2 times"], "late": [""],
                    "dead": [""], "spare": [""]}  # fmt: skip


@pytest.mark.parametrize(
    ("batch_norm", "kinds"),
    [
        (nn.BatchNorm2d(2), BATCH_NORM),
        (nn.BatchNorm2d(2, affine=False), ["RM", "RV"]),
        (nn.BatchNorm2d(2, track_running_stats=False), ["RW", "RB"]),
        (nn.BatchNorm2d(2, affine=False, track_running_stats=False), []),
    ],
)
def test_a_batch_norm_has_rows_for_the_vectors_it_keeps(batch_norm, kinds):
    assert list(parameter_table(nn.Sequential(nn.Conv2d(1, 2, 1), batch_norm))["kind"]) == ["W", "B", *kinds]


@pytest.mark.parametrize(
    ("conv", "shape"),
    [
        (nn.Conv1d(4, 6, 5, groups=2), (6, 2, 5)),
        (nn.Conv2d(4, 6, (3, 1)), (6, 4, 3, 1)),
        (nn.Conv3d(4, 6, 2), (6, 4, 2, 2, 2)),
        (nn.ConvTranspose2d(4, 6, 2), (4, 6, 2, 2)),
    ],
)
def test_convolutions_of_any_dimension_are_listed_with_their_shapes(conv, shape):
    weight, bias = parameter_table(conv).itertuples(index=False)
    assert (weight.kind, weight.layer, weight.shape, weight.size) == ("W", 1, shape, torch.Size(shape).numel())
    assert (bias.kind, bias.layer, bias.shape, bias.size) == ("B", 1, (6,), 6)


def test_one_module_under_two_names_is_one_layer():
    conv = nn.Conv2d(1, 1, 1)
    assert rows(parameter_table(nn.ModuleList([conv, conv]))) == [("W", 1, "0"), ("B", 1, "0")]


@pytest.mark.parametrize("network", [unet(2), pspnet(4), resnet18()])
def test_the_sizes_add_up_to_the_state_dict(network):
    counted = [value.numel() for name, value in network.state_dict().items() if "num_batches_tracked" not in name]
    assert parameter_table(network)["size"].sum() == sum(counted)


def test_a_network_without_layers_is_refused_by_name():
    with pytest.raises(NetworkError, match="ReLU: expected floating-point parameters or buffers, found none"):
        parameter_table(nn.ReLU())


def test_an_example_that_does_not_fit_is_refused_with_its_shape():
    with pytest.raises(NetworkError, match=r"Odd: .*\(1, 3, 8, 8\)"):
        parameter_table(Odd(), torch.zeros(1, 3, 8, 8))


def test_unknown_kinds_are_refused_by_name():
    with pytest.raises(OptionError, match="'V', 'w': expected some of W, B, RM, RV, RW, RB"):
        check_kinds(["W", "V", "w"])


@pytest.mark.parametrize(("kind", "name"), [("B", "late"), ("RM", "dead"), ("W", "nowhere"), ("W", "early")])
def test_a_tensor_that_is_not_there_is_refused_by_name(kind, name):
    with pytest.raises(NetworkError, match=name):
        tensor(Odd(), kind, name)


def test_networks_of_different_widths_are_refused_with_name_and_both_shapes():
    with pytest.raises(NetworkError, match=r"down\.0\.conv1\.weight: target \(4, 1, 3, 3\), source \(2, 1, 3, 3\)"):
        comparable(unet(4), unet(2))


def test_a_source_that_lacks_a_layer_is_refused_by_the_layers_name():
    with pytest.raises(NetworkError, match=r"0\.bias"):
        comparable(nn.Sequential(nn.Conv2d(1, 1, 1)), nn.Sequential(nn.Conv2d(1, 1, 1, bias=False)))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("owner", ["target", "source"])
@pytest.mark.parametrize("name", ["early.0.weight", "early.1.running_var"])
def test_numbers_that_are_not_finite_are_refused_with_their_owner(number, owner, name):
    networks = {"target": Odd(), "source": Odd()}
    networks[owner].state_dict()[name].view(-1)[0] = number
    with pytest.raises(NetworkError, match=f"{name}: the {owner} has NaN or infinite"):
        comparable(**networks)


class Shared(nn.Module):
    """Two linear layers with one weight, one module under two names, and a weight that is used without its module."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)
        self.second.weight = self.first.weight
        self.norm = self.again = nn.LayerNorm(2)
        self.bare = nn.Linear(2, 2, bias=False)
        self.asked = nn.Linear(2, 2, bias=False)
        self.attention = nn.MultiheadAttention(2, 1, batch_first=True)

    def forward(self, x):
        x = self.second(self.norm(self.first(x)).to(self.asked.weight.dtype))
        x = self.again(x @ self.bare.weight.T)
        return self.attention(x, x, x)[0]


def test_what_is_shared_is_counted_once_and_said():
    table = parameter_table(Shared(), torch.zeros(1, 3, 2))
    assert [tuple(row)[:3] for row in table.itertuples(index=False)] == [
        ("LW", 1, "first"), ("LB", 1, "first"), ("NW", 1, "norm"), ("NB", 1, "norm"), ("LB", 2, "second"),
        ("LW", 3, "bare"), ("AW", 1, "attention.in_proj_weight"), ("AB", 1, "attention.in_proj_bias"),
        ("LW", 5, "attention.out_proj"), ("LB", 5, "attention.out_proj"), ("LW", 4, "asked"),
    ]  # fmt: skip
    assert table["live"].tolist() == [True] * 10 + [False]  # its type was asked for, and no more
    assert table["shared"].tolist() == [
        "also second.weight, used 2 times", "", "also again.weight, used 2 times", "also again.bias, used 2 times", "",
        *[""] * 6,
    ]  # fmt: skip


def test_what_is_shared_is_swapped_at_all_places():
    target, source = Shared(), Shared()
    model = prr.transplant(target, source, "LW", 1)
    assert model.second.weight is model.first.weight
    assert torch.equal(model.second.weight, source.first.weight)


def test_a_source_that_gives_one_tensor_two_values_is_refused():
    source = Shared()
    source.second.weight = nn.Parameter(torch.zeros(2, 2))
    with pytest.raises(NetworkError, match=r"first.weight and second.weight: one tensor in the target, two"):
        common(Shared(), source)


@pytest.mark.parametrize(
    ("module", "kinds"),
    [
        (nn.Linear(4, 2), ["LW", "LB"]),
        (nn.Linear(4, 2, bias=False), ["LW"]),
        (nn.LayerNorm(4), ["NW", "NB"]),
        (nn.GroupNorm(2, 4), ["NW", "NB"]),
        (nn.RMSNorm(4), ["NW"]),
        (nn.InstanceNorm1d(4, affine=True, track_running_stats=True), ["NW", "NB", "other", "other"]),
        (nn.BatchNorm1d(4), BATCH_NORM),
        (nn.BatchNorm3d(4), BATCH_NORM),
        (nn.ConvTranspose3d(4, 2, 1, bias=False), ["W"]),
    ],
)
def test_each_family_has_kinds_of_its_own(module, kinds):
    assert list(parameter_table(module)["kind"]) == kinds


def test_what_networks_do_not_share_is_listed_with_both_shapes():
    target = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 10))
    source = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 7, bias=False))
    source.extra = nn.LayerNorm(3)
    expected = {
        ("W", "0"): ((4, 1, 3, 3), (4, 3, 3, 3)),
        ("LW", "3"): ((10, 4), (7, 4)),
        ("LB", "3"): ((10,), None),
        ("NW", "extra"): (None, (3,)),
        ("NB", "extra"): (None, (3,)),
    }
    found = {(row.kind, row.name): (row.target, row.source) for row in incomparable(target, source).itertuples()}
    assert found == expected
    assert rows(common(target, source)) == [("B", 1, "0"), *((kind, 1, "1") for kind in BATCH_NORM)]
    assert incomparable(target, target).empty


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_on_a_cpu_is_refused(dtype):
    with pytest.raises(NetworkError, match=f"expected float32 on a CPU, found {dtype}; call model.float()"):
        parameter_table(Odd().to(dtype), EXAMPLE.to(dtype))


def test_a_layer_without_shape_yet_is_refused_by_name():
    with pytest.raises(NetworkError, match=r"0\.weight \(W\): not initialised yet"):
        parameter_table(nn.Sequential(nn.LazyConv2d(2, 1)))
