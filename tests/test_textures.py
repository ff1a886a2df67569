"""Images of textured shapes: what they promise, and that nothing but the grain gives a label away."""

import numpy as np
import pytest
import torch

from prr.data import textures
from prr.data.textures import WAVELENGTHS, _grain


def test_images_are_standardised_and_labelled_0_to_3():
    made = textures(size=48)
    assert made.images.shape == (320, 1, 48, 48)
    assert made.masks.unique().tolist() == [0, 1, 2, 3]
    assert torch.allclose(made.images.mean((1, 2, 3)), torch.zeros(320), atol=1e-5)
    assert torch.allclose(made.images.std((1, 2, 3), correction=0), torch.ones(320), atol=1e-5)
    assert made.phantom
    assert len(made.train) == len(made.validation) == 160


def test_every_call_gives_the_same_images_and_no_two_of_them_are_alike():
    first, again = textures(size=16), textures(size=16)
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.masks, again.masks)
    assert len(first.images.unique(dim=0)) == len(first)


def test_the_grain_of_a_region_has_the_wavelength_of_its_label():
    rng = np.random.default_rng(0)
    frequencies = np.hypot(np.fft.fftfreq(64), np.fft.fftfreq(64)[:, None])
    for noise, wavelength in zip(_grain(rng, 8, 64), WAVELENGTHS, strict=True):
        power = abs(np.fft.fft2(noise)) ** 2
        found = (power * frequencies).sum() / power.sum()  # the mean over all directions that the grain has
        assert found == pytest.approx(1 / wavelength, rel=0.25)


def test_brightness_says_nothing_of_the_label():
    made = textures()
    means = [made.images[:, 0][made.masks == label].mean().item() for label in range(4)]
    assert max(means) - min(means) < 0.25  # each region's own brightness has a standard deviation near 1
