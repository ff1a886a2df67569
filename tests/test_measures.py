"""What moves a bias before batch norm: gradients against finite differences, and the sentences on them."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from prr.data import Slices
from prr.study import measures, unet
from prr.study.training import segmentation_loss


@pytest.fixture
def slices():
    """Three patients, one held out; noise and random labels."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(9, 1, 16, 16, generator=generator)
    masks = torch.randint(4, (9, 16, 16), generator=generator, dtype=torch.uint8)
    patient = torch.arange(9) // 3
    return Slices(images, masks, patient, spacing_mm=1.0, name="noise", held_out=(2,))


@pytest.fixture
def target():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = unet(2)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.constant_(module.bias, 0.25)
    return model.eval()


def test_biases_and_kernels_have_the_gradients_of_a_training_step(target, slices):
    before = copy.deepcopy(target.state_dict())
    table = measures.biases_on_batch(target, slices, batch_size=6, seed=0).set_index("name")
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())
    assert not target.training
    assert len(table) == 23
    assert (table["bias"] == 0.25).all()
    exact, part = copy.deepcopy(target).double().train(), slices.train  # all of whose six slices are the batch
    for name, column in (("classifier.bias", "gradient"), ("down.1.conv2.weight", "kernel")):
        value = exact.get_parameter(name).detach().reshape(-1)
        slopes = []
        for place in range(len(value)):
            loss = []
            for step in (1e-6, -1e-6):
                probe = copy.deepcopy(exact)
                probe.get_parameter(name).detach().reshape(-1)[place] += step
                loss.append(segmentation_loss(probe(part.images.double()), part.images, part.masks.long()).item())
            slopes.append((loss[0] - loss[1]) / 2e-6)
        expected = torch.tensor(slopes).square().mean().sqrt().item()
        assert table.loc[name.rpartition(".")[0], column] == pytest.approx(expected, rel=1e-2)


def test_a_bias_before_batch_norm_is_told_from_one_that_stands_free(target, slices):
    table = measures.biases_on_batch(target, slices, batch_size=4, seed=0)
    free = table.loc[~table["batch_norm"], "name"]
    assert free.tolist() == ["up.0.up", "up.1.up", "up.2.up", "up.3.up", "classifier"]
    share = table["gradient"] / table["kernel"]
    assert share[table["batch_norm"]].max() < measures.ROUNDING < share[~table["batch_norm"]].min()


def world(bias, gradient, kernel=0.01):
    """Three biases before batch norm and a classifier's."""
    rows = {"batch_norm": [True] * 3 + [False], "bias": [*bias, 0.2], "gradient": [*gradient, 0.3], "kernel": kernel}
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("table", "told"),
    [
        (
            world([0.02, 0.02, 0.001], [2e-8, 4e-8, 1e-9]),
            [
                "A bias before batch norm has no gradient but rounding error: at most 4e-06 of its kernel's.",
                "It moves all the same: 2 of 3 went further from 0 than one full step of Adam, 0.003.",
                "Adam's epsilon damps the others: where the gradient exceeds 1e-08 the bias is 0.02 on average, "
                "elsewhere 0.001.",
            ],
        ),
        (
            world([0.001, 0.001, 0.002], [2e-8, 4e-8, 1e-9]),
            ["has no gradient but", "It hardly moves: none of 3", "epsilon does not tell them apart"],
        ),
        (world([0.02] * 3, [1e-3] * 3), ["has a gradient here: up to 0.1", "all the same: 3 of 3", "All of their"]),
        (world([0.0] * 3, [1e-10] * 3), ["at most 1e-08 of its kernel's", "none of 3", "None of their gradients"]),
    ],
)
def test_the_sentences_follow_the_table(table, told, sentences):
    for said, words in zip(sentences(measures.biases_in_words(table, 0.003)), told, strict=True):
        assert words in said


def test_a_network_without_such_biases_is_told(sentences):
    (said,) = sentences(measures.biases_in_words(world([1, 1, 1], [1, 1, 1]).tail(1), 0.003))
    assert said.startswith("No convolution of this network has a bias before batch norm")


def test_the_replacement_that_changes_an_output_most_is_named_with_its_layers(sentences):
    table = pd.DataFrame({"layer": [1, 2, 3], "rms_RM": [3.0, 3, 1], "rms_RV": [1.0, 1, 2], "rms_B": [2.0, np.nan, 1]})
    other = table.rename(columns={"rms_RM": "rms_RV", "rms_RV": "rms_RM"}).head(1)
    tie = table.tail(2)
    assert sentences(measures.largest_in_words({"UNet": table, "PSPNet": other, "third": tie})) == [
        "UNet: replacing RM changes the output most, in 2 of 3 layers.",
        "PSPNet: replacing RV changes the output most, in 1 of 1 layers.",
        "third: replacing RM or RV changes the output most, in 1 of 2 layers each.",
    ]
