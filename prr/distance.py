"""How far apart two networks' parameters are; and networks at a chosen distance."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import torch
from torch import nn

from prr.layers import common, comparable, tensor, warn_of_rest


def rmse(target: nn.Module, source: nn.Module) -> pd.DataFrame:
    """Root mean square error between the parameters of two networks, tensor by tensor.

    Networks that share some layers only are compared in those, with a warning; `incomparable` lists the rest.

    Args:
        target: the network that is judged.
        source: the network that parameters would come from.

    Returns:
        DataFrame[kind, layer, name, rmse, relative]: rmse = sqrt(mean((w_source - w_target)^2)), in the unit of the
        weights; relative = rmse / sqrt(mean(w_target^2)), inf where the target is all
        zero, NaN where both are. Two independent kernels of
        equal scale have a relative RMSE near sqrt(2).

    Raises:
        NetworkError: networks that share nothing, NaN or infinite weights.

    Source: Wang et al. 2020, arXiv:2008.03411, "Parameter reuse and RMSE" (the formula is our reading of the text).
    """
    table = common(target, source)[["kind", "layer", "name"]]
    warn_of_rest(target, source)
    pairs = [
        [tensor(model, kind, name).detach().cpu().double() for model in (target, source)]
        for kind, name in table[["kind", "name"]].itertuples(index=False)
    ]
    error = np.array([(theirs - ours).square().mean().item() for ours, theirs in pairs]) ** 0.5
    scale = np.array([ours.square().mean().item() for ours, _ in pairs]) ** 0.5
    with np.errstate(divide="ignore", invalid="ignore"):
        return table.assign(rmse=error, relative=error / scale)


def towards(target: nn.Module, source: nn.Module, amount: float) -> nn.Module:
    """A copy of the target with every parameter moved towards the source's: w + amount (w' - w).

    Args:
        target: where `amount` 0 stays.
        source: what `amount` 1 reaches; same layers and shapes.
        amount: part of the way.

    Raises:
        NetworkError: networks that do not match, NaN or infinite weights.
    """
    model = copy.deepcopy(target)
    for kind, name in comparable(target, source)[["kind", "name"]].itertuples(index=False):
        mine = tensor(model, kind, name).data
        mine.lerp_(tensor(source, kind, name).data.to(mine), amount)
    return model


def noisy(target: nn.Module, source: nn.Module, seed: int = 0) -> nn.Module:
    """A copy of the target as far from it as the source is, tensor by tensor, but in a random direction.

    Args:
        target: where the noise is added; running variances stay at 0 or above.
        source: tells the RMSE; same layers and shapes.
        seed: of the Gaussian noise.

    Raises:
        NetworkError: networks that do not match, NaN or infinite weights.
    """
    model, generator = copy.deepcopy(target), torch.Generator().manual_seed(seed)
    for row in rmse(target, source).itertuples():
        mine = tensor(model, row.kind, row.name).data
        noise = torch.randn(mine.shape, generator=generator)
        mine += (noise * (row.rmse / noise.square().mean().sqrt().clamp(min=1e-12))).to(mine)
        if row.kind == "RV":
            mine.clamp_(min=0)
    return model
