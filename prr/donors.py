"""Donors that no training made: controls and nulls beside a sweep, each a network to hand to `prr.sweep` as source.

    towards    part of the way to the source        what a smaller step costs
    at         so far towards it, in every tensor   are two sources alike at equal distance?
    noisy      as far as the source, anywhere       is it the source's direction, or any step of that length?
    noise at   so far from the target, anywhere     what do networks do with one and the same error?
    random     the target's scale, nothing learned  would a random donor do as well?
    shuffled   the source's values, other channels  does it matter which channel gets which value?
    zero       nothing                              what does the layer contribute at all?

What a sweep doesn't swap stays as it was, as do mode, device and dtype. A seed drives a generator of its own, on the
CPU, so that all devices see the same numbers. NaN, infinite and (RV) negative values are refused, as in a sweep.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from prr.copies import copied, effective
from prr.distance import rmse
from prr.errors import OptionError
from prr.layers import CONVOLUTION, comparable, owner_of, tensor


def towards(target: nn.Module, source: nn.Module, amount: float) -> nn.Module:
    """A copy of the target with every parameter moved towards the source's: w + amount (w' - w).

    Args:
        target: where `amount` 0 stays.
        source: what `amount` 1 reaches; same layers and shapes.
        amount: part of the way.

    Raises:
        NetworkError: networks that do not match, NaN or infinite weights.

    Example:
        >>> import torch
        >>> from prr.donors import towards
        >>> _ = torch.manual_seed(0)
        >>> target, source = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)
        >>> halfway = towards(target, source, 0.5)
        >>> torch.allclose(halfway.weight, (target.weight + source.weight) / 2)
        True
    """
    target, source = effective(target), effective(source)
    model = copied(target)
    for kind, name in _pairs(target, source):
        mine = tensor(model, kind, name).data
        mine.lerp_(tensor(source, kind, name).data.to(mine), amount)
    return model


def at(target: nn.Module, source: nn.Module, relative: float) -> nn.Module:
    """A copy of the target with every tensor moved towards the source's until its relative RMSE is the one asked for.

    Where the source is nearer than that, it goes on beyond it. A tensor that both have in common stays; so does one
    that is all zero in the target, which has no relative RMSE. Running variances stop at 0.

    Args:
        target: where the way begins.
        source: where it points to; same layers and shapes.
        relative: RMSE over the rms of the target's tensor.

    Raises:
        NetworkError: networks that do not match, NaN or infinite weights.

    Example:
        >>> import prr, torch
        >>> from prr.donors import at
        >>> _ = torch.manual_seed(0)
        >>> target, source = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)
        >>> prr.rmse(target, at(target, source, 0.3))["relative"].round(3).tolist()
        [0.3, 0.3]
    """
    target, source = effective(target), effective(source)
    model = copied(target)
    for row in rmse(target, source).itertuples():
        if 0 < row.relative < math.inf:
            mine = tensor(model, row.kind, row.name).data
            mine.lerp_(tensor(source, row.kind, row.name).data.to(mine), relative / row.relative)
            if row.kind == "RV":
                mine.clamp_(min=0)
    return model


def noisy(target: nn.Module, source: nn.Module, seed: int = 0) -> nn.Module:
    """A copy of the target as far from it as the source is, tensor by tensor, but in a random direction.

    The RMSE is the source's up to rounding, for all kinds. A running variance can't go below 0: where the noise would
    take it there it goes up by as much instead, so small variances grow on average.

    Args:
        target: where the noise is added.
        source: gives the RMSE; same layers and shapes.
        seed: of the Gaussian noise.

    Raises:
        NetworkError: networks that do not match, NaN or infinite weights.

    Example:
        >>> import numpy as np, prr, torch
        >>> from prr.donors import noisy
        >>> _ = torch.manual_seed(0)
        >>> target, source = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)
        >>> elsewhere = noisy(target, source)
        >>> np.allclose(prr.rmse(target, elsewhere)["rmse"], prr.rmse(target, source)["rmse"])
        True
    """
    target, source = effective(target), effective(source)
    comparable(target, source)
    model, generator = copied(target), torch.Generator().manual_seed(seed)
    for row in rmse(target, source).itertuples():
        mine = tensor(model, row.kind, row.name).data
        own, noise = mine.cpu().double(), torch.randn(mine.shape, generator=generator).double()
        step = noise * (row.rmse / noise.square().mean().sqrt().clamp(min=1e-12))
        if row.kind == "RV":
            step = torch.where(own + step < 0, -step, step)  # a sign changes no distance, a clamp would
        mine.copy_(own + step)
    return model


def random(target: nn.Module, seed: int = 0) -> nn.Module:
    """A copy of the target with every tensor replaced by Gaussian noise of its mean and standard deviation.

    Mean and standard deviation are the tensor's up to rounding, so a tensor of one value, or of equal values, comes
    back as it was. Running variances are drawn from the log-normal distribution of that mean and standard deviation,
    which is positive; a sample of it has them on average only.

    Args:
        target: gives the scale.
        seed: of the noise.

    Raises:
        NetworkError: no layers to replace, NaN or infinite weights.

    Example:
        >>> import torch
        >>> from prr.donors import random
        >>> target = torch.nn.Linear(8, 8)
        >>> model = random(target)
        >>> torch.allclose(model.weight.std(), target.weight.std()), torch.equal(model.weight, target.weight)
        (True, False)
    """
    target = effective(target)
    model, generator = copied(target), torch.Generator().manual_seed(seed)
    for kind, name in _pairs(target, target):
        mine = tensor(model, kind, name).data
        noise = torch.randn(mine.shape, generator=generator, dtype=torch.float64)
        mine.copy_((_log_normal if kind == "RV" else _normal)(mine.cpu().double(), noise))
    return model


def _normal(like: Tensor, noise: Tensor) -> Tensor:
    centred = noise - noise.mean()
    scale = like.std(correction=0) / centred.square().mean().sqrt() if noise.numel() > 1 else 0
    return like.mean() + scale * centred


def _log_normal(like: Tensor, noise: Tensor) -> Tensor:
    mean = like.mean()
    if mean == 0:
        return like
    width = (like.var(correction=0) / mean**2).log1p().sqrt()
    return mean * (width * noise - width**2 / 2).exp()


def shuffled(source: nn.Module, seed: int = 0) -> nn.Module:
    """A copy of the source with the output channels of every layer in random order.

    One permutation for each layer: weight and bias of a convolution share it, as do RM, RV, RW and RB of a batch norm.
    Layers have permutations of their own, so this is a bag of donors for one layer at a time, and not the source's
    function. A layer of one channel stays as it was, one of few channels may.

    Args:
        source: gives the values.
        seed: of the permutations.

    Raises:
        NetworkError: no layers to shuffle, NaN or infinite weights.

    Example:
        >>> import torch
        >>> from prr.donors import shuffled
        >>> source = torch.nn.Linear(8, 8)
        >>> model = shuffled(source)
        >>> torch.equal(model.bias.sort()[0], source.bias.sort()[0]), torch.equal(model.bias, source.bias)
        (True, False)
    """
    source = effective(source)
    model, generator, orders = copied(source), torch.Generator().manual_seed(seed), {}
    for kind, name in _pairs(source, source):
        mine, module = tensor(model, kind, name).data, model.get_submodule(owner_of(kind, name)[0])
        if not mine.ndim:
            continue
        if name not in orders:
            channels = module.out_channels if isinstance(module, CONVOLUTION) else len(mine)
            orders[name] = torch.randperm(channels, generator=generator)
        mine.copy_(_reordered(mine, orders[name].to(mine.device), module))
    return model


def _reordered(value: Tensor, order: Tensor, module: nn.Module) -> Tensor:
    """A layer's tensor with its output channels in another order."""
    if value.ndim == 1 or not isinstance(module, _ConvTransposeNd):
        return value[order]
    groups = (module.groups, -1)  # a transposed weight is (in, out / groups, ...), the groups along its first axis
    by_channel = value.unflatten(0, groups).transpose(1, 2).flatten(0, 1)  # (out, in / groups, ...)
    return by_channel[order].unflatten(0, groups).transpose(1, 2).flatten(0, 1)


def zero(target: nn.Module) -> nn.Module:
    """A copy of the target with every tensor 0, but running variances 1.

    A variance of 0 would not silence a channel but amplify it, by 1 / sqrt(eps). With RM 0 and RV 1, a batch norm's
    first values, nothing is normalised.

    Args:
        target: gives the layers.

    Raises:
        NetworkError: no layers to replace, NaN or infinite weights.

    Example:
        >>> from prr.donors import zero
        >>> from torch import nn
        >>> model = zero(nn.BatchNorm1d(2))
        >>> model.weight.tolist(), model.running_var.tolist()
        ([0.0, 0.0], [1.0, 1.0])
    """
    target = effective(target)
    model = copied(target)
    for kind, name in _pairs(target, target):
        tensor(model, kind, name).data.fill_(1 if kind == "RV" else 0)
    return model


def _pairs(target: nn.Module, source: nn.Module) -> list[tuple[str, str]]:
    """(kind, name) of each tensor once, in order of registration."""
    return list(comparable(target, source)[["kind", "name"]].itertuples(index=False, name=None))


# by name, each from (target, source, amount, seed)
DONORS: dict[str, Callable[[nn.Module, nn.Module, float, int], nn.Module]] = {
    "own": lambda target, source, amount, seed: target,
    "source": lambda target, source, amount, seed: source,
    "towards": lambda target, source, amount, seed: towards(target, source, amount),
    "at": lambda target, source, amount, seed: at(target, source, amount),
    "noise": lambda target, source, amount, seed: noisy(target, source, seed),
    "noise at": lambda target, source, amount, seed: noisy(target, at(target, source, amount), seed),
    "random": lambda target, source, amount, seed: random(target, seed),
    "shuffled": lambda target, source, amount, seed: shuffled(source, seed),
    "zero": lambda target, source, amount, seed: zero(target),
}
AMOUNTS = ("towards", "at", "noise at")  # those that take an amount
DRAWN = ("noise", "noise at", "random", "shuffled")  # those that depend on the seed


def donor(name: str, target: nn.Module, source: nn.Module, amount: float | None = None, seed: int = 0) -> nn.Module:
    """The network that a name stands for, to hand to a sweep as its source.

    Raises:
        OptionError: an unknown name, or an amount where none is taken or none where one is.
        NetworkError: as the donors.

    Example:
        >>> import torch
        >>> from prr.donors import donor
        >>> target, source = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
        >>> donor("source", target, source) is source
        True
        >>> torch.equal(donor("towards", target, source, amount=0.0).weight, target.weight)
        True
    """
    if name not in DONORS or (name in AMOUNTS) != (amount is not None):
        raise OptionError(
            f"donor {name!r} with amount={amount}: expected one of {', '.join(DONORS)}, with an amount for "
            f"{', '.join(AMOUNTS)} alone"
        )
    return DONORS[name](target, source, amount, seed)
