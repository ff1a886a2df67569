"""A small data set of drawn shapes in nnU-Net's layout: to try a target of one's own before there is one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from prr.data.textures import SHAPES
from prr.data.volumes import PHANTOM_MARK
from prr.errors import DataError, OptionError

NAMES = ("disc", "square", "triangle")
SIZE = (80, 96)  # rows, columns


def write_shapes(root: str | Path, cases: int = 40, classes: int = 3, seed: int = 0) -> Path:
    """Write pictures of shapes, and which is which, as nnU-Net lays out a data set of PNG files.

    Every picture shows each shape once, at a random place, size and turn, on an uneven ground with noise.

    Args:
        root: folder to make, `Dataset001_Shapes` for one; it must not exist, or be empty.
        cases: pictures.
        classes: labels, background among them: 2 (disc), 3 (disc, square) or 4 (disc, square, triangle).
        seed: of everything drawn.

    Returns:
        `root`.

    Raises:
        DataError: `root` holds something already.
        OptionError: no cases, or other classes.

    Example:
        >>> import tempfile
        >>> from prr.data import read_nnunet, write_shapes
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = read_nnunet(write_shapes(f"{folder}/Dataset001_Shapes", cases=6), size=48)
        >>> found, found.labels
        (Slices(Shapes, phantom: 6 slices of 6 patients, 48 x 48 at 2 mm), {0: 'background', 1: 'disc', 2: 'square'})
    """
    root = Path(root)
    if cases < 1 or not 2 <= classes <= len(NAMES) + 1:
        raise OptionError(f"expected 1 case or more, of 2 to {len(NAMES) + 1} classes, found {cases} and {classes}")
    if root.exists() and not (root.is_dir() and not any(root.iterdir())):
        raise DataError(f"{root}: expected an empty folder or none, found one in use; choose another")
    rng, names = np.random.default_rng(seed), NAMES[: classes - 1]
    for place in ("imagesTr", "labelsTr"):
        (root / place).mkdir(parents=True)
    for number in range(1, cases + 1):
        image, mask = _drawn(rng, len(names))
        Image.fromarray(image).save(root / "imagesTr" / f"shapes_{number:03d}_0000.png")
        Image.fromarray(mask).save(root / "labelsTr" / f"shapes_{number:03d}.png")
    about = {
        "name": "Shapes",
        "description": f"drawn shapes, {PHANTOM_MARK}",
        "channel_names": {"0": "grey"},
        "labels": {"background": 0, **{name: value for value, name in enumerate(names, start=1)}},
        "numTraining": cases,
        "file_ending": ".png",
    }
    (root / "dataset.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return root


def _drawn(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture and its labels, (rows, columns) uint8: each shape in a column of its own, in random order."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    slope = rng.normal(scale=0.2, size=2)
    image = 80 + slope[0] * (y - SIZE[0] / 2) + slope[1] * (x - SIZE[1] / 2) + rng.normal(scale=12, size=SIZE)
    mask, band = np.zeros(SIZE, np.uint8), SIZE[1] / count
    for column, shape in enumerate(rng.permutation(count)):
        radius = rng.uniform(0.22, 0.4) * min(band, SIZE[0] / 2)
        centre = (column + rng.uniform(0.42, 0.58)) * band + 1j * rng.uniform(radius, SIZE[0] - radius)
        at = (x + 1j * y - centre) * np.exp(1j * rng.uniform(0, 2 * np.pi)) / radius
        mask[SHAPES[shape](at.real, at.imag)] = shape + 1
    image += 60 * (mask > 0)
    return image.clip(0, 255).astype(np.uint8), mask
