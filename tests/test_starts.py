"""What two networks have in common before training."""

import numpy as np
import pytest
import torch
from torchvision.models import ResNet18_Weights, resnet18

from prr.errors import OptionError
from prr.study.backbones import ARCHITECTURES, ENCODERS
from prr.study.starts import checked_start, initial


def begun(start, task="segmentation", seed=0, network="unet", width=16, common=None):
    return initial(network, width, start, "acdc", task, seed, common).state_dict()


def kernels(state):
    return torch.cat([value.flatten() for value in state.values() if value.ndim > 1]).numpy()


@pytest.mark.parametrize("start", [0.0, 0.5, 0.9, 0.99, 1.0])
def test_a_start_has_the_correlation_asked_for_with_the_shared_one_and_the_scale_of_any(start):
    first, second = kernels(begun(start)), kernels(begun("shared"))
    assert np.corrcoef(first, second)[0, 1] == pytest.approx(start, abs=0.01)
    assert first.std() == pytest.approx(kernels(begun("independent")).std(), rel=0.01)


def test_correlation_1_is_shared_and_0_independent_but_for_rounding():
    for start, name in ((1.0, "shared"), (0.0, "independent")):
        number, word = begun(start), begun(name)
        assert all(torch.allclose(value, word[key], atol=1e-7) for key, value in number.items())


def test_biases_and_batch_norms_begin_alike_whatever_the_start():
    for start in ("independent", "shared", 0.5, "encoder-shared"):
        state = begun(start)
        assert (state["down.0.bn1.weight"] == 1).all()
        assert (state["down.0.conv1.bias"] == 0).all()


@pytest.mark.parametrize("network", ARCHITECTURES)
def test_encoder_shared_shares_all_kernels_of_the_encoder_and_no_other(network):
    pair = [begun("encoder-shared", task, network=network, width=4) for task in ("segmentation", "auto-encoding")]
    same = {name: torch.equal(value, pair[1][name]) for name, value in pair[0].items() if value.ndim > 1}
    assert same == {name: name.startswith(ENCODERS) for name in same}
    assert set(same.values()) == {True, False}


def test_a_common_seed_shares_the_start_of_networks_with_seeds_of_their_own():
    first, second = begun("shared", seed=1, common=5), begun("shared", "auto-encoding", seed=2, common=5)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert not torch.equal(kernels_tensor(first), kernels_tensor(begun("shared", seed=1)))


def kernels_tensor(state):
    return torch.from_numpy(kernels(state))


def test_an_imagenet_start_has_torchvisions_encoder_and_a_decoder_of_its_own(monkeypatch):
    theirs = resnet18(weights=None).state_dict()
    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", lambda *_, **__: theirs)
    pair = [begun("imagenet", task, network="pspnet", width=64) for task in ("segmentation", "auto-encoding")]
    for name, value in pair[0].items():
        if name.startswith("encoder."):
            assert torch.equal(value, theirs[name.removeprefix("encoder.")]), name
    kernel = "fuse.conv.weight"
    assert not torch.equal(pair[0][kernel], pair[1][kernel])
    assert torch.equal(pair[0][kernel], begun("independent", network="pspnet", width=64)[kernel])


@pytest.mark.parametrize("start", ["independent", "shared", 0.5])
def test_a_start_leaves_the_global_generator_alone(start):
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    begun(start, width=2)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("start", "network"), [("warm", "unet"), (1.5, "unet"), (-0.1, "unet"), (True, "unet"), ("imagenet", "plain")]
)
def test_starts_that_are_none_are_refused(start, network):
    with pytest.raises(OptionError, match=f"start {start!r} for {network}: expected independent, shared"):
        checked_start(start, network)
