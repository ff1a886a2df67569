"""RMSE against scikit-learn, relative RMSE against what chance gives."""

import copy

import numpy as np
import pytest
import torch
from sklearn.metrics import root_mean_squared_error
from torch import nn

from prr.distance import noisy, rmse, towards
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


def test_networks_that_do_not_match_are_refused(target):
    with pytest.raises(NetworkError, match=r"target \(2, 1, 3, 3\), source \(4, 1, 3, 3\)"):
        towards(target, unet(4), 0.5)
    with pytest.raises(NetworkError, match=r"no parameter in common.* target \(4, 1, 3\), source None"):
        rmse(nn.Conv1d(1, 4, 3), nn.BatchNorm1d(3))


def first(model):
    return model.down[0].conv1.weight


def test_part_of_the_way_has_that_part_of_the_rmse_and_the_ends_are_the_two_networks(target, source):
    full = rmse(target, source)["rmse"]
    assert rmse(target, towards(target, source, 0.25))["rmse"].to_numpy() == pytest.approx(0.25 * full, rel=1e-5)
    assert rmse(target, towards(target, source, 0))["rmse"].max() == 0
    assert rmse(source, towards(target, source, 1))["rmse"].max() < 1e-6


def test_noise_is_as_far_as_the_source_in_another_direction(target, source):
    noise = noisy(target, source, seed=3)
    apart = rmse(target, source)
    # clamping at 0 may only shorten the way of a running variance
    free = apart["kind"] != "RV"
    found = rmse(target, noise)["rmse"]
    assert found[free].to_numpy() == pytest.approx(apart.loc[free, "rmse"], rel=1e-5)
    assert (found[~free] <= apart.loc[~free, "rmse"] * (1 + 1e-5)).all()
    kernel = first(noise) - first(target), first(source) - first(target)
    assert abs(torch.cosine_similarity(kernel[0].flatten(), kernel[1].flatten(), dim=0)) < 0.9
    assert all((norm.running_var >= 0).all() for norm in noise.modules() if isinstance(norm, nn.BatchNorm2d))
    again = noisy(target, source, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(noise.state_dict().values(), again.state_dict().values(), strict=True))
    assert not torch.equal(first(noisy(target, source, seed=4)), first(noise))


def test_networks_at_a_distance_leave_both_ends_alone(target, source):
    pair = target, source
    before = [{name: value.clone() for name, value in model.state_dict().items()} for model in pair]
    towards(*pair, 0.5)
    noisy(*pair)
    for model, state in zip(pair, before, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
