"""Where training begins: at random, or in common with other networks, in whole, in part or to a degree."""

from __future__ import annotations

import torch
from torch import nn

from prr.errors import OptionError
from prr.study.backbones import ARCHITECTURES, ENCODERS, random
from prr.study.jobs import derived
from prr.study.models import seed_of
from prr.study.profiles import STARTS

Start = str | float


def checked_start(start: Start, network: str) -> Start:
    """The start, if this network can have it.

    Raises:
        OptionError: an unknown start, a correlation that is out of range, or ImageNet weights for another encoder.
    """
    number = isinstance(start, int | float) and not isinstance(start, bool)
    if (0 <= start <= 1) if number else (start in STARTS and (start != "imagenet" or network == "pspnet")):
        return start
    raise OptionError(
        f"start {start!r} for {network}: expected {', '.join(STARTS)} (imagenet: pspnet) or a correlation from 0 to 1"
    )


@derived
def initial(
    network: str, width: int, start: Start, dataset: str, task: str, seed: int, common: int | None = None,
    channels: int = 1, classes: int = 4,
) -> nn.Module:  # fmt: skip
    """An untrained network, on the CPU.

    Args:
        network: one of ARCHITECTURES.
        width: its channels, see there.
        start: independent (random by seed, data set and task), shared (random by `common` alone), encoder-shared (that
            in the encoder, independent behind it), imagenet (the encoder from torchvision), or the correlation of its
            kernels with those of the shared start: 0 is independent, 1 shared.
        dataset: that it will be trained on.
        task: that it will be trained for.
        seed: of what is its own.
        common: seed of what is shared; None: the same.
        channels: of its images.
        classes: of its output.
    """
    own = seed_of(seed, dataset, task)
    if start == "imagenet":
        with torch.random.fork_rng():
            torch.manual_seed(own)
            return ARCHITECTURES[network].make(width, channels, classes, weights="imagenet")
    model = random(network, width, own, channels, classes)
    if start == "independent":
        return model
    share = start if isinstance(start, int | float) else 1.0
    theirs = random(network, width, seed_of(seed if common is None else common), channels, classes).state_dict()
    for name, value in model.state_dict().items():
        # kernels alone are random: biases begin at 0 and batch norm at (1, 0) in every network
        if value.ndim > 1 and (start != "encoder-shared" or name.startswith(ENCODERS)):
            value.mul_((1 - share**2) ** 0.5).add_(theirs[name], alpha=share)
    return model
