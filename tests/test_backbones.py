"""Networks that differ in what is added and in nothing else."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import prr
from prr.study.backbones import ARCHITECTURES, CONNECTIONS, NAMES, backbone, random
from prr.study.profiles import OVERRIDES


def image(size=48):
    return torch.randn(2, 1, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("network", ARCHITECTURES)
def test_an_output_is_as_large_as_the_image(network):
    assert random(network, 4, 0).eval()(image()).shape == (2, 4, 48, 48)


@pytest.mark.parametrize("network", ARCHITECTURES)
def test_every_network_has_a_title_of_its_own_and_a_width_and_start_of_the_profile(network):
    assert list(NAMES.values()).count(ARCHITECTURES[network].title) == 1
    assert {f"{ARCHITECTURES[network].sized_as}_{what}" for what in ("width", "start")} <= set(OVERRIDES)


@pytest.mark.parametrize("network", ARCHITECTURES)
def test_features_are_what_the_classifier_sees(network):
    model, seen = random(network, 4, 0).eval(), {}
    model.classifier.register_forward_hook(lambda module, inputs, output: seen.update(input=inputs[0]))
    features = model.get_submodule(ARCHITECTURES[network].features)
    features.register_forward_hook(lambda module, inputs, output: seen.update(features=output))
    model(image())
    assert torch.equal(seen["features"], seen["input"])


def test_connections_have_no_parameters_and_change_no_start():
    states = [random(network, 4, 7).state_dict() for network in CONNECTIONS]
    for other in states[1:]:
        assert other.keys() == states[0].keys()
        assert all(torch.equal(value, states[0][name]) for name, value in other.items())


def test_the_four_have_18_convolutions_and_14_batch_norms_all_of_them_live():
    table = prr.parameter_table(random("plain", 4, 0), image())
    assert table.value_counts("kind").to_dict() == {"W": 18, "B": 18, **dict.fromkeys(("RM", "RV", "RW", "RB"), 14)}
    assert table["live"].all()


def test_the_four_compute_four_functions():
    with torch.no_grad():
        outputs = [random(network, 4, 7).eval()(image()) for network in CONNECTIONS]
    assert all(not torch.allclose(a, b, atol=1e-3) for i, a in enumerate(outputs) for b in outputs[:i])


def silence(model, *names):
    """Let double convolutions give 0: with batch norm's weight and bias 0 nothing is left of what they compute."""
    for name in names:
        norm = model.get_submodule(f"{name}.bn2")
        nn.init.zeros_(norm.weight)
        nn.init.zeros_(norm.bias)
    return model


def test_a_short_connection_carries_the_input_around_a_silent_block():
    model = silence(backbone(4, short=True), "down.1").eval()
    x = torch.rand(2, 4, 8, 8)
    expected = functional.pad(x, (0, 0, 0, 0, 0, 4))
    assert torch.equal(model.down[1](x), expected)
    bare = silence(backbone(4), "down.1").eval()
    assert torch.equal(bare.down[1](x), torch.zeros_like(expected))


def test_without_connections_a_silent_block_ends_everything():
    x = image()
    for short, long in CONNECTIONS.values():
        model = silence(backbone(4, short=short, long=long), "down.3").eval()  # the bottom
        same = torch.equal(model(x), model(x.roll(7, 2).flip(3)))
        assert same == (not short and not long)


def test_a_long_connection_carries_each_level_past_those_below_it():
    model = silence(backbone(4, long=True), "down.3").eval()
    seen = []
    model.merge[0].conv1.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    model.down[2].bn2.register_forward_hook(lambda module, inputs, output: seen.append(output.relu()))
    model(image())
    level, merged = seen
    assert torch.allclose(merged, level + model.up[0].bias[:, None, None], atol=1e-6)


def test_densenet_has_the_convolutions_of_resnet_and_an_output_stride_of_8():
    model = random("densenet", 8, 0).eval()
    table = prr.parameter_table(model.encoder)
    assert (table["kind"] == "W").sum() == 20
    third, deep = model.encoder(torch.randn(1, 3, 64, 64))
    assert third.shape == (1, 16, 8, 8)
    assert deep.shape == (1, 16, 8, 8)


def test_a_network_in_training_also_gives_its_auxiliary_output():
    output, auxiliary = random("densenet", 4, 0).train()(image())
    assert output.shape == auxiliary.shape == (2, 4, 48, 48)


def test_a_random_network_leaves_the_global_generator_alone():
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    random("plain", 4, 0)
    assert torch.equal(before, torch.random.get_rng_state())
