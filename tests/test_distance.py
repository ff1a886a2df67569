"""RMSE against scikit-learn, relative RMSE against what chance gives."""

import copy

import numpy as np
import pytest
import torch
from sklearn.metrics import root_mean_squared_error
from torch import nn

from prr.distance import rmse
from prr.errors import NetworkError
from prr.layers import parameter_table
from prr.study import unet

ATTRIBUTE = {"W": "weight", "B": "bias", "RM": "running_mean", "RV": "running_var", "RW": "weight", "RB": "bias"}


def randomised(model, seed, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                value.copy_(scale * torch.randn(value.shape, generator=generator))
            if name.endswith("running_var"):
                value.abs_()
    return model


@pytest.fixture
def target():
    return randomised(unet(2), seed=1)


@pytest.fixture
def source():
    return randomised(unet(2), seed=2)


def test_every_row_is_scikit_learns_rmse(target, source):
    table = rmse(target, source)
    own, other = target.state_dict(), source.state_dict()
    assert table[["kind", "layer", "name"]].equals(parameter_table(target)[["kind", "layer", "name"]])
    for row in table.itertuples():
        pair = [state[f"{row.name}.{ATTRIBUTE[row.kind]}"].double().flatten().numpy() for state in (own, other)]
        assert row.rmse == pytest.approx(root_mean_squared_error(*pair), rel=1e-12)
        assert row.relative == pytest.approx(row.rmse / np.linalg.norm(pair[0]) * len(pair[0]) ** 0.5, rel=1e-12)


def test_rmse_by_hand():
    target, source = nn.Conv2d(1, 2, 1), nn.Conv2d(1, 2, 1)
    for conv, values in ((target, [3.0, 4.0]), (source, [6.0, 0.0])):
        conv.weight.data = torch.tensor(values).reshape(2, 1, 1, 1)
    kernel = rmse(target, source).iloc[0]
    assert kernel["rmse"] == pytest.approx(np.sqrt((9 + 16) / 2))
    assert kernel["relative"] == pytest.approx(1)


def test_a_network_is_at_distance_0_from_itself(target):
    table = rmse(target, copy.deepcopy(target))
    assert (table["rmse"] == 0).all()
    assert (table["relative"] == 0).all()


def test_rmse_is_symmetric_and_relative_rmse_has_the_targets_scale(target, source):
    there, back = rmse(target, source), rmse(source, target)
    np.testing.assert_allclose(there["rmse"], back["rmse"])
    ratio = there["relative"] / back["relative"]
    for kind, layer, expected in zip(there["kind"], there["layer"], ratio, strict=True):
        name = there[(there["kind"] == kind) & (there["layer"] == layer)]["name"].item()
        norms = [m.state_dict()[f"{name}.{ATTRIBUTE[kind]}"].norm().item() for m in (source, target)]
        assert expected == pytest.approx(norms[0] / norms[1], rel=1e-5)


def test_the_unit_of_the_weights_cancels_in_relative_rmse():
    plain = rmse(randomised(unet(2), 1), randomised(unet(2), 2))
    scaled = rmse(randomised(unet(2), 1, scale=8), randomised(unet(2), 2, scale=8))  # a power of 2 rounds nothing
    np.testing.assert_allclose(scaled["rmse"], 8 * plain["rmse"])
    np.testing.assert_allclose(scaled["relative"], plain["relative"])


def test_independent_kernels_are_sqrt_2_apart():
    first, second = (nn.Sequential(nn.Conv2d(64, 64, 3, bias=False)) for _ in range(2))
    table = rmse(randomised(first, 3), randomised(second, 4))
    assert table["relative"].item() == pytest.approx(np.sqrt(2), rel=0.02)


def test_a_common_start_adds_the_squares_of_both_ways():
    start = randomised(nn.Conv2d(64, 64, 3, bias=False), 5)
    ends = [copy.deepcopy(start) for _ in range(2)]
    for seed, (end, way) in enumerate(zip(ends, (0.3, 0.4), strict=True)):
        end.weight.data += way * torch.randn(end.weight.shape, generator=torch.Generator().manual_seed(seed))
    assert rmse(*ends)["rmse"].item() == pytest.approx(0.5, rel=0.02)


@pytest.mark.parametrize(("other", "expected"), [(1.0, np.inf), (0.0, np.nan)])
def test_a_target_of_zeros_has_no_relative_rmse_and_no_warning(other, expected):
    target, source = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)
    target.bias.data.fill_(0)
    source.bias.data.fill_(other)
    bias = rmse(target, source).iloc[1]
    assert bias["rmse"] == other
    np.testing.assert_equal(bias["relative"], expected)


# ---- numbers of other kinds ----------------------------------------------------------------------------------------


class Spectral(nn.Module):
    """Two linear layers of complex numbers."""

    def __init__(self, seed):
        super().__init__()
        self.first, self.last = nn.Linear(3, 6, dtype=torch.complex64), nn.Linear(6, 2, dtype=torch.complex64)
        generator = torch.Generator().manual_seed(seed)
        for value in self.parameters():
            value.data = torch.complex(torch.ones(value.shape), torch.randn(value.shape, generator=generator))

    def forward(self, x):
        return self.last(self.first(x).tanh())


def test_complex_weights_are_apart_by_absolute_value():
    target, source = (nn.Linear(1, 2, dtype=torch.complex64) for _ in range(2))
    for layer, weight, bias in ((target, [3, 4j], [1j, 0]), (source, [0, 0], [1, 0])):
        layer.weight.data = torch.tensor(weight, dtype=torch.complex64).reshape(2, 1)
        layer.bias.data = torch.tensor(bias, dtype=torch.complex64)
    table = rmse(target, source)
    np.testing.assert_allclose(table["rmse"], np.sqrt([(9 + 16) / 2, 2 / 2]))
    np.testing.assert_allclose(table["relative"], [1, np.sqrt(2)])


def test_complex_channels_are_aligned():
    target, order = Spectral(1), torch.tensor([3, 0, 5, 1, 4, 2])
    source = copy.deepcopy(target)
    source.first.weight.data, source.first.bias.data = target.first.weight.data[order], target.first.bias.data[order]
    source.last.weight.data = target.last.weight.data[:, order]
    table = rmse(target, source, align=True)
    assert (table["relative"].iloc[:3] > 1e-2).all()
    assert (table["aligned"] == 0).all()


def test_a_complex_weight_is_as_far_from_its_conjugate_as_twice_its_imaginary_part():
    target, source = Spectral(1), Spectral(1)
    source.first.weight.data = source.first.weight.data.conj().resolve_conj()
    imaginary = target.first.weight.detach().imag.double().numpy()
    assert rmse(target, source)["rmse"][0] == pytest.approx(2 * np.sqrt((imaginary**2).mean()))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("align", [False, True])
def test_short_floats_are_widened(dtype, align):
    target, source = (nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).to(dtype) for _ in range(2))
    wide = [copy.deepcopy(model).double() for model in (target, source)]
    for column in ("rmse", "relative"):
        np.testing.assert_array_equal(rmse(target, source, align=align)[column], rmse(*wide)[column])
    if align:
        near = [rmse(*pair, align=True)["aligned"] for pair in ((target, source), wide)]
        np.testing.assert_array_equal(*near)


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("where", [(0,), (1,), (0, 1)])
def test_tensors_without_values_are_refused_in_one_line(align, where):
    models = [nn.Linear(4, 3, device="meta" if place in where else None) for place in (0, 1)]
    with pytest.raises(NetworkError, match=r"^weight \(LW\): .*no values; load the weights first$"):
        rmse(*models, align=align)


def test_networks_that_do_not_match_are_refused():
    with pytest.raises(NetworkError, match=r"no parameter in common.* target \(4, 1, 3\), source None"):
        rmse(nn.Conv1d(1, 4, 3), nn.BatchNorm1d(3))


def test_aligned_rmse_is_relative_and_leaves_the_other_columns_alone(target, source):
    table = rmse(target, source, align=True)
    assert list(table.columns) == ["kind", "layer", "name", "rmse", "relative", "aligned", "fixed"]
    assert table.drop(columns=["aligned", "fixed"]).equals(rmse(target, source))
    assert (table["fixed"] == "").all()
    kernels = table[table["kind"] == "W"]
    assert kernels["aligned"].mean() < kernels["relative"].mean()
    assert (rmse(target, copy.deepcopy(target), align=True)["aligned"] == 0).all()


def test_aligned_rmse_by_hand():
    def two_channels(first, last):
        model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.ReLU(), nn.Conv2d(2, 1, 1, bias=False))
        model[0].weight.data = torch.tensor(first).reshape(2, 1, 1, 1)
        model[2].weight.data = torch.tensor(last).reshape(1, 2, 1, 1)
        return model

    # the source's channels are the target's in the other order, the second of them moved by 5 where it comes out
    table = rmse(two_channels([3.0, 4.0], [6.0, 8.0]), two_channels([4.0, 3.0], [13.0, 6.0]), align=True)
    np.testing.assert_allclose(table["relative"], np.sqrt([1 + 1, 49 + 4]) / [5, 10])
    np.testing.assert_allclose(table["aligned"], [0, 5 / 10])


def test_aligned_rmse_needs_all_layers(target):
    with pytest.raises(NetworkError, match=r"target \(2, 1, 3, 3\), source \(4, 1, 3, 3\); both must be the same"):
        rmse(target, unet(4), align=True)
