"""Shift and scale of batch norm against what running the layer with and without the replaced vector does."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.optim import swa_utils

from prr.bn import recalibrate, responses, shift_scale
from prr.errors import NetworkError, OptionError
from prr.reuse import apply_plan
from prr.study import pspnet, unet

ATTRIBUTE = {"RM": "running_mean", "RV": "running_var", "RW": "weight", "RB": "bias"}


def randomised(model, seed):
    """Every number random, variances positive, weights of both signs and away from 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                value.copy_(torch.randn(value.shape, generator=generator))
            if name.endswith("running_var"):
                value.abs_().add_(0.1)
            elif value.ndim == 1 and name.endswith("weight"):
                value.add_(value.sign() / 4)
    return model.eval()


def small():
    """Two batch norms: one behind a biased convolution, one behind a convolution without bias."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6, eps=1e-2), nn.ReLU(), nn.Conv2d(6, 5, 3, bias=False), nn.BatchNorm2d(5)
    )


@pytest.fixture
def pair():
    return randomised(small(), 1).double(), randomised(small(), 2).double()


def run_both(pair, index, kind):
    """Output of one batch norm on standardised input, before and after one vector is the source's: (n, channels)."""
    before, other = (model[index] for model in pair)
    after = copy.deepcopy(before)
    setattr(after, ATTRIBUTE[kind], getattr(other, ATTRIBUTE[kind]))
    noise = torch.randn(500, before.num_features, 1, 1, generator=torch.Generator().manual_seed(0)).double()
    noise = (noise - noise.mean(0)) / noise.std(0, correction=0)
    inputs = before.running_mean[:, None, None] + (before.running_var + before.eps).sqrt()[:, None, None] * noise
    with torch.no_grad():
        return before(inputs)[..., 0, 0], after(inputs)[..., 0, 0]


def rms(values):
    return values.square().mean().sqrt().item()


@pytest.mark.parametrize("row", [0, 1])
@pytest.mark.parametrize("kind", ["RM", "RB"])
def test_shift_is_what_the_layers_output_moves_by(pair, row, kind):
    before, after = run_both(pair, (1, 4)[row], kind)
    shift = (after - before).mean(0)
    torch.testing.assert_close(after, before + shift)  # it is a shift, the same everywhere
    found = shift_scale(*pair).iloc[row]
    assert found[f"M{kind}"] == pytest.approx(shift.abs().mean().item())
    assert found[f"M{kind}_signed"] == pytest.approx(shift.mean().item())
    assert found[f"rms_{kind}"] == pytest.approx(rms(after - before) / rms(pair[0][(1, 4)[row]].weight))


@pytest.mark.parametrize("row", [0, 1])
@pytest.mark.parametrize("kind", ["RV", "RW"])
def test_scale_is_what_the_layers_output_is_multiplied_by(pair, row, kind):
    layer = pair[0][(1, 4)[row]]
    before, after = run_both(pair, (1, 4)[row], kind)
    bias = layer.bias.detach()
    factor = ((after - bias) * (before - bias)).sum(0) / (before - bias).square().sum(0)
    torch.testing.assert_close(after, bias + factor * (before - bias))  # it is a factor, the same everywhere
    found = shift_scale(*pair).iloc[row]
    assert found[f"M{kind}"] == pytest.approx(factor.mean().item())
    assert found[f"M{kind}_log"] == pytest.approx(factor.abs().log().abs().mean().item())
    assert found[f"rms_{kind}"] == pytest.approx(rms(after - before) / rms(layer.weight))


def test_the_bias_of_the_convolution_before_shifts_the_output(pair):
    target, source = pair
    changed = copy.deepcopy(target)
    changed[0].bias.data = source[0].bias.data.clone()
    image = torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        move = changed[:2](image) - target[:2](image)
    shift = move.mean((0, 2, 3))
    first, second = shift_scale(target, source).iloc
    assert first["MB"] == pytest.approx(shift.abs().mean().item())
    assert first["MB_signed"] == pytest.approx(shift.mean().item())
    assert first["rms_B"] == pytest.approx(rms(move) / rms(target[1].weight))
    assert np.isnan([second["MB"], second["MB_signed"], second["rms_B"]]).all()  # its convolution has no bias


def test_rows_are_the_batch_norms_by_number_and_name(pair):
    assert shift_scale(*pair)[["layer", "name"]].values.tolist() == [[1, "1"], [2, "4"]]
    assert len(shift_scale(pspnet(4), pspnet(4))) == 26


def test_the_own_vectors_change_nothing(pair):
    table = shift_scale(pair[0], copy.deepcopy(pair[0])).fillna(0)
    assert (table[["MRM", "MRB", "MB", "MRV_log", "MRW_log", "rms_RM", "rms_RV", "rms_RW", "rms_RB"]] == 0).all(
        axis=None
    )
    assert (table[["MRV", "MRW"]] == 1).all(axis=None)


def test_log_factors_are_the_same_from_either_side(pair):
    columns = ["MRV_log", "MRW_log"]
    np.testing.assert_allclose(shift_scale(*pair)[columns], shift_scale(*pair[::-1])[columns])


def test_a_channel_switched_off_is_left_out_of_the_factor_only(pair):
    target, _source = pair
    with torch.no_grad():
        target[1].weight[2] = 0
    kept = [0, 1, 3, 4, 5]
    before, after = (model[1].weight.detach() for model in pair)
    found = shift_scale(*pair).iloc[0]
    assert found["excluded"] == 1
    assert found["MRW"] == pytest.approx((after / before)[kept].mean().item())
    assert found["MRW_log"] == pytest.approx((after / before)[kept].abs().log().abs().mean().item())
    assert found["rms_RW"] == pytest.approx(rms(after - before) / rms(before))


def test_a_layer_switched_off_has_no_factor_and_no_warning(pair):
    with torch.no_grad():
        pair[0][1].weight.fill_(0)
    found = shift_scale(*pair).iloc[0]
    assert found["excluded"] == 6
    assert np.isnan([found["MRW"], found["MRW_log"]]).all()


def test_a_convolution_behind_another_function_does_not_stand_directly_before():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.BatchNorm2d(2))
    assert np.isnan(shift_scale(model, copy.deepcopy(model))["MB"].item())


def test_networks_that_do_not_match_are_refused():
    with pytest.raises(NetworkError, match=r"target \(2, 1, 3, 3\), source \(4, 1, 3, 3\)"):
        shift_scale(unet(2), unet(4))


def expected_response(pair, name, inputs, kind):
    """By the formula, from the batch norm's input; a convolution's bias simply adds to it."""
    layer = pair[0].get_submodule(name)
    vectors = {kind: getattr(layer, attribute) for kind, attribute in ATTRIBUTE.items()}
    if kind in ATTRIBUTE:
        vectors[kind] = getattr(pair[1].get_submodule(name), ATTRIBUTE[kind])
    if kind == "B":
        old, new = (model.get_submodule(name.replace("bn", "conv")).bias for model in pair)
        inputs = inputs + (new - old)[:, None, None]
    return functional.batch_norm(inputs, *(vectors[kind] for kind in ATTRIBUTE), eps=layer.eps).detach().numpy()


@pytest.mark.parametrize(
    ("build", "name", "kinds"),
    [
        (lambda: unet(2), "down.1.bn2", ["target", "RM", "RV", "RW", "RB", "B"]),
        (lambda: pspnet(4), "encoder.bn1", ["target", "RM", "RV", "RW", "RB"]),
        (lambda: pspnet(4), "encoder.layer1.0.bn1", ["target", "RM", "RV", "RW", "RB"]),  # a ReLU in place follows
        (lambda: pspnet(4), "encoder.layer1.0.bn2", ["target", "RM", "RV", "RW", "RB"]),  # a sum in place follows
    ],
)
def test_responses_are_the_outputs_of_the_batch_norm_itself(build, name, kinds):
    pair = [randomised(build(), seed) for seed in (1, 2)]
    images = torch.randn(2, 1, 48, 48, generator=torch.Generator().manual_seed(0))
    inputs = []
    hook = pair[0].get_submodule(name).register_forward_pre_hook(lambda _, x: inputs.append(x[0].detach().clone()))
    pair[0](images)
    hook.remove()
    found = responses(*pair, name, images)
    assert list(found) == kinds
    for kind, values in found.items():
        expected = expected_response(pair, name, inputs[0], kind)
        np.testing.assert_allclose(values, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max(), err_msg=kind)


def test_responses_come_for_the_kinds_asked_for():
    assert list(responses(unet(2), unet(2), "down.0.bn1", torch.zeros(1, 1, 16, 16), ["B", "RV"])) == [
        "target", "B", "RV",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "kinds", "error", "message"),
    [
        ("down.0.bn1", ["RQ"], OptionError, "'RQ'"),
        ("down.0.bn9", ["RM"], NetworkError, r"down\.0\.bn9"),
        ("down.0.conv1", ["RM"], NetworkError, r"down\.0\.conv1"),
    ],
)
def test_responses_refuse_what_is_not_there_by_name(name, kinds, error, message):
    with pytest.raises(error, match=message):
        responses(unet(2), unet(2), name, torch.zeros(1, 1, 16, 16), kinds)


def test_a_batch_norm_that_never_runs_has_no_response():
    model = pspnet(2)
    with pytest.raises(NetworkError, match=r"auxiliary.0.bn: a forward pass in eval mode never calls it"):
        responses(model, model, "auxiliary.0.bn", torch.zeros(1, 1, 48, 48))


# ----------------------------------------------------------------- recalibrate


class Net(nn.Module):
    """Two batch norms in a row, dropout between them, and one that never runs."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.5))
        self.second = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2))
        self.spare = nn.BatchNorm2d(2)

    def forward(self, x):
        return self.second(self.first(x))


@pytest.fixture
def images():
    return torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(4)) * 3 + 1


def statistics(model, name):
    return [getattr(model.get_submodule(name), attribute).clone() for attribute in ("running_mean", "running_var")]


def test_recalibration_by_hand_on_one_layer(images):
    model = randomised(nn.Sequential(nn.BatchNorm2d(1)), 1)
    found = recalibrate(model, images)[0]
    torch.testing.assert_close(found.running_mean, images.mean()[None])
    torch.testing.assert_close(found.running_var, images.var()[None])  # unbiased, as batch norm keeps it
    halves = recalibrate(model, images, batch_size=6)[0]
    torch.testing.assert_close(halves.running_var, torch.stack([part.var() for part in images.split(6)]).mean()[None])


@pytest.mark.parametrize("batch_size", [3, 4, 12, 100])
def test_recalibration_is_what_torchs_update_bn_does(images, batch_size):
    model = randomised(Net(), 1)
    for name in ("first.1", "second.1"):
        model.get_submodule(name).num_batches_tracked.fill_(9)  # of its training, which must not count
    found = recalibrate(model, images, batch_size)
    model.first[3] = nn.Identity()  # update_bn would run dropout too
    swa_utils.update_bn(list(images.split(batch_size)), model)
    for name in ("first.1", "second.1"):
        for ours, theirs in zip(statistics(found, name), statistics(model, name), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_recalibration_changes_no_more_than_the_statistics_of_live_batch_norms(images):
    model = randomised(Net(), 1).train()
    before = copy.deepcopy(model.state_dict())
    found = recalibrate(model, images)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert not any(module.training for module in found.modules())
    assert [module.momentum for module in found.modules() if isinstance(module, nn.BatchNorm2d)] == [0.1] * 3
    changed = {name for name, value in found.state_dict().items() if not torch.equal(value, before[name])}
    vectors = {f"{name}.{each}" for name in ("first.1", "second.1") for each in ("running_mean", "running_var")}
    assert changed - {"first.1.num_batches_tracked", "second.1.num_batches_tracked"} == vectors


def test_recalibration_does_not_depend_on_the_old_statistics_and_is_repeatable(images):
    model = randomised(Net(), 1)
    other = copy.deepcopy(model)
    other.first[1].running_mean += 5
    other.second[1].running_var *= 7
    once, twice, again = recalibrate(model, images), recalibrate(other, images), recalibrate(model, images)
    for found in (twice, again, recalibrate(once, images)):
        for name in ("first.1", "second.1"):
            assert all(map(torch.equal, statistics(found, name), statistics(once, name)))


@pytest.mark.parametrize("kinds", [["RM"], ["RV"], ["RM", "RV"]])
def test_recalibration_leaves_what_a_plan_has_frozen(images, kinds):
    model, source = randomised(Net(), 1), randomised(Net(), 2)
    plan = pd.DataFrame({"kind": kinds, "name": "first.1", "action": "reuse"})
    found = recalibrate(apply_plan(model, source, plan), images).first[1]
    estimated, own = recalibrate(model, images).first[1], source.first[1]
    for kind in ("RM", "RV"):
        wanted = own if kind in kinds else estimated
        assert torch.equal(getattr(found, ATTRIBUTE[kind]), getattr(wanted, ATTRIBUTE[kind])), kind


def test_recalibration_sees_images_through_a_frozen_batch_norm_as_it_is(images):
    model = randomised(Net(), 1)
    plan = pd.DataFrame({"kind": ["RM", "RV"], "name": "first.1", "action": "reuse"})
    found = recalibrate(apply_plan(model, model, plan), images).second[1]
    with torch.no_grad():
        seen = model.second[0](model.first(images))  # in eval mode
    torch.testing.assert_close(found.running_mean, seen.mean((0, 2, 3)))
    torch.testing.assert_close(found.running_var, seen.var((0, 2, 3)))


def test_no_pass_is_of_one_image_if_more_fit(images):
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(1)).eval()  # one value per image and channel
    assert recalibrate(model, images[:5], batch_size=4)[1].running_var > 0


@pytest.mark.parametrize("count", [1, 0])
def test_images_that_give_no_variance_are_refused(images, count):
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(1)).eval()
    with pytest.raises((NetworkError, OptionError), match=r"more than 1 value per channel|expected .*images"):
        recalibrate(model, images[:count])


def test_a_batch_of_none_is_refused(images):
    with pytest.raises(OptionError, match="batch_size=0"):
        recalibrate(Net(), images, batch_size=0)


def test_a_network_without_batch_norm_need_not_see_the_images():
    model = nn.Sequential(nn.Conv2d(1, 2, 3))
    found = recalibrate(model, torch.zeros(2, 9, 4, 4))  # which it could not take
    assert found is not model
    assert torch.equal(found[0].weight, model[0].weight)


def test_recalibration_keeps_the_count_of_a_batch_norm_that_never_runs(images):
    model = randomised(Net(), 1)
    model.spare.num_batches_tracked.fill_(7)
    assert recalibrate(model, images).spare.num_batches_tracked == 7


@pytest.mark.parametrize(("count", "passes"), [(5, 2), (12, 6), (3, 1), (1, 1)])
def test_no_pass_is_smaller_than_a_batch_if_there_are_as_many_images(images, count, passes):
    model = randomised(Net(), 1)
    assert recalibrate(model, images[:count], batch_size=2).first[1].num_batches_tracked == passes
