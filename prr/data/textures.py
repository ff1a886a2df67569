"""Images of textured shapes: a generic task to begin from, with nothing of the heart in it."""

from collections.abc import Mapping

import numpy as np
import torch

from prr.data.labels import LABELS
from prr.data.slices import Slices, split

COUNT, PER_PATIENT = 320, 8  # images in all, and images that count as one patient
WAVELENGTHS = (14.0, 3.0, 5.0, 8.0)  # pixels, of the grain of each label: ground, then what lies before it
SHAPES = (  # of radius 1 around 0: disc, square, triangle
    lambda x, y: np.hypot(x, y) < 1,
    lambda x, y: np.maximum(abs(x), abs(y)) < 0.85,
    lambda x, y: (y > -0.6) & (y < 1.2 - 1.73 * abs(x)),
)


def textures(size: int = 64, *, labels: Mapping[int, str] = LABELS, channels: int = 1) -> Slices:
    """Discs, squares and triangles of three grains before a ground of a fourth: the grain is the label.

    Shape, place, direction and brightness are drawn independently for every region of every image, and say
    nothing of the label. The images are the same at every call.

    Args:
        size: pixels, square.
        labels: those of the data set that is imitated, whose names the grains take; of fewer than three, the last one
            stands for all further grains.
        channels: so many copies of an image.

    Returns:
        Slices: 320 images of mean 0 and standard deviation 1, of which every 8 count as one patient; masks with
        labels 0 (ground) to 3.

    Example:
        >>> from prr.data import textures
        >>> textures(size=16)
        Slices(textures, phantom: 320 slices of 40 patients, 16 x 16 at 1 mm)
    """
    rng = np.random.default_rng(0)
    masks = np.stack([_mask(rng, size) for _ in range(COUNT)])
    regions = _grain(rng, COUNT, size) + rng.normal(size=(len(WAVELENGTHS), COUNT, 1, 1))
    images = np.take_along_axis(regions, masks[None], axis=0)[0]
    images -= images.mean((1, 2), keepdims=True)
    images /= images.std((1, 2), keepdims=True)
    unit = torch.arange(COUNT) // PER_PATIENT
    return Slices(
        images=torch.from_numpy(images[:, None].astype(np.float32)).repeat(1, channels, 1, 1),
        masks=torch.from_numpy(masks.clip(max=max(labels)).astype(np.uint8)),
        patient=unit,
        spacing_mm=1.0,
        name="textures",
        held_out=split(unit),
        phantom=True,
        labels=labels,
    )


def _mask(rng: np.random.Generator, size: int) -> np.ndarray:
    """(size, size) labels of three shapes at random places, the later over the earlier."""
    z = (np.arange(size) + 1j * np.arange(size)[:, None]) / size
    mask = np.zeros((size, size), int)
    for label in rng.permutation(len(WAVELENGTHS) - 1) + 1:
        shape = SHAPES[rng.integers(len(SHAPES))]
        centre, radius, turn = rng.uniform(0.2, 0.8, 2), rng.uniform(0.12, 0.25), rng.uniform(0, 2 * np.pi)
        at = (z - complex(*centre)) * np.exp(1j * turn) / radius
        mask[shape(at.real, at.imag)] = label
    return mask


def _grain(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
    """(labels, count, size, size) noise of each label's wavelength in one direction for each image, variance 1."""
    x, y = np.fft.fftfreq(size), np.fft.fftfreq(size)[:, None]
    frequency = 1 / np.array(WAVELENGTHS)[:, None, None, None]
    turn = rng.uniform(0, np.pi, (len(WAVELENGTHS), count, 1, 1))
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    band = np.exp(-(((abs(along) - frequency) / 0.03) ** 2) - (across / 0.06) ** 2)
    noise = np.fft.ifft2(np.fft.fft2(rng.normal(size=band.shape)) * band).real
    return noise / noise.std((2, 3), keepdims=True)
