"""Every decision of scale in one place: what a profile means, and which of its values may be overridden."""

from __future__ import annotations

import dataclasses
import difflib
import math
from dataclasses import dataclass
from typing import Any

from prr.errors import OptionError
from prr.verdict import TOLERANCE

STARTS = ("independent", "shared", "encoder-shared", "pretext", "imagenet")
CHOICES = {
    "normalisation": ("zscore", "unit"),
    "unet_start": STARTS[:-1],
    "pspnet_start": STARTS,
    "transfer_network": ("pspnet", "unet", "both"),
    "transfer_list": ("paper", "inferred", "both"),
}


@dataclass(frozen=True)
class Profile:
    """One scale of the study, quick unless said otherwise. Every field but `name` can be overridden by its name."""

    name: str = "quick"
    acdc_patients: int = 28  # phantom patients; real data come as they are
    t1_patients: int = 14
    rvsc_patients: int = 8
    size: int = 64  # pixels, square
    spacing_mm: float = 2.2
    normalisation: str = "zscore"  # of each volume: zscore, or unit for [0, 1]
    unet_width: int = 8  # channels of the first level
    pspnet_width: int = 16  # from 8: without AVX-512, training a strided 1x1 of fewer channels writes out of bounds
    unet_start: str = "independent"  # any but imagenet; the paper says nothing of its UNet's start: we infer this
    pspnet_start: str = "shared"  # stands in for ImageNet weights in common, which we infer from the paper
    steps: int = 140  # of the optimiser, the same for every network
    batch_size: int = 8
    learning_rate: float = 3e-3
    threads: int = 1  # of a CPU job; other numbers give other last digits
    seeds: int = 2  # of the comparison of sources and of the transfer experiment: seed, seed + 1, ...
    few_patients: int = 5  # the smaller of the two labelled sets; the larger is all training patients
    transfer_steps: int = 70  # of the optimiser, the same for every row
    transfer_network: str = "pspnet"  # pspnet, as in the paper, unet or both
    transfer_list: str = "paper"  # of what is loaded: the paper's, the one inferred from the sweep, or both
    grid_size: int = 48  # pixels of chapters 8 and 9, over the same field of view
    grid_steps: int = 150  # of the optimiser, for each of their networks
    grid_batch: int = 8  # slices per step
    grid_every: int = 6  # of each validation patient's slices one in so many is scored
    grid_seeds: int = 3  # of targets, and of sources, that are crossed
    rest_seeds: int = 1  # of what does not belong to the headline contrast; as many as grid_seeds: nothing is thinned
    stage_steps: int = 600  # of the longest training of chapter 4's curves
    stage_count: int = 4  # of those curves, each of a quarter of the next one's steps
    stage_seeds: int = 3  # of their targets; two at least, for an independent source is that of another seed
    example_images: int = 400  # digits, of 500, on which the networks of chapter 10 are judged; so many shapes at most
    unet_floor: float = 0.78  # foreground Dice below which a target is too weak to be judged
    pspnet_floor: float = 0.70
    tolerance: float = TOLERANCE  # drop of Dice (chapter 10: of accuracy too) that counts as unchanged


PROFILES = {
    "smoke": Profile(
        name="smoke", acdc_patients=4, t1_patients=7, rvsc_patients=2, size=48, spacing_mm=3.0,
        unet_width=2, pspnet_width=8, steps=8, batch_size=8, few_patients=1, transfer_steps=4, grid_steps=4,
        grid_every=1, grid_seeds=2, stage_steps=8, stage_count=2, stage_seeds=2, example_images=40,
    ),
    "quick": Profile(),
    "paper": Profile(
        name="paper", acdc_patients=100, t1_patients=210, rvsc_patients=32, size=128, spacing_mm=1.5,
        unet_width=64, pspnet_width=64, steps=6000, batch_size=32, learning_rate=1e-3, few_patients=10,
        seeds=3, transfer_steps=3000, transfer_network="both", transfer_list="both", grid_size=128, grid_steps=6000,
        example_images=500, grid_batch=32, grid_every=1, grid_seeds=5, rest_seeds=5, stage_steps=24000, stage_count=7,
        stage_seeds=5,
    ),
}  # fmt: skip

OVERRIDES = tuple(field.name for field in dataclasses.fields(Profile) if field.name != "name")


def profile(name: str, **overrides: Any) -> Profile:
    """The profile of that name with some values replaced.

    Args:
        name: smoke (for tests; results mean nothing), quick (two CPU cores; shows the phenomena) or paper (CUDA).
        overrides: any of OVERRIDES; None keeps the profile's value.

    Raises:
        OptionError: an unknown profile or override, or a value of the wrong type or range.
    """
    if not isinstance(name, str) or name not in PROFILES:
        raise OptionError(f"profile {name!r}: expected one of {', '.join(PROFILES)}")
    for key in overrides:
        if key not in OVERRIDES:
            near = difflib.get_close_matches(key, OVERRIDES, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise OptionError(f"override {key!r}: expected one of {', '.join(OVERRIDES)}{hint}")
    chosen = {key: value for key, value in overrides.items() if value is not None}
    base = PROFILES[name]
    return dataclasses.replace(base, **{key: _checked(key, value, getattr(base, key)) for key, value in chosen.items()})


def _checked(key: str, value: Any, like: Any) -> Any:
    """The value, if it is of the same type as the profile's own and in range."""
    if key in CHOICES:
        if value not in CHOICES[key]:
            raise OptionError(f"{key}={value!r}: expected one of {', '.join(CHOICES[key])}")
        return value
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or value <= 0 or (isinstance(like, int) and value != int(value)):
        expected = "a whole number above 0" if isinstance(like, int) else "a number above 0"
        raise OptionError(f"{key}={value!r}: expected {expected}, such as {like}")
    if key in ("size", "grid_size") and (value % 16 or value < 48):
        raise OptionError(f"{key}={value}: expected at least 48 and divisible by 16, for UNet pools four times")
    if key == "pspnet_width" and value < 8:
        raise OptionError(f"pspnet_width={value}: expected 8 or more, for torch's convolutions corrupt memory below it")
    if key == "spacing_mm" and not 0.1 <= value <= 10:
        raise OptionError(f"spacing_mm={value}: expected 0.1 to 10 mm")
    if key == "batch_size" and value < 2:
        raise OptionError("batch_size=1: expected at least 2, for batch norm needs more than one value")
    if key == "stage_seeds" and value < 2:
        raise OptionError("stage_seeds=1: expected at least 2, for an independent source is that of another seed")
    return type(like)(value)
