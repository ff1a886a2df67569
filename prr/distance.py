"""How far apart two networks' parameters are."""

from __future__ import annotations

import numpy as np
import pandas as pd
from torch import nn

from prr.layers import comparable, tensor


def rmse(target: nn.Module, source: nn.Module) -> pd.DataFrame:
    """Root mean square error between the parameters of two networks, tensor by tensor.

    Args:
        target: the network that is judged.
        source: the network that parameters would come from; same layers and shapes.

    Returns:
        DataFrame[kind, layer, name, rmse, relative]: rmse = sqrt(mean((w_source - w_target)^2)), in the unit of the
        weights; relative = rmse / sqrt(mean(w_target^2)), inf where the target is all
        zero, NaN where both are. Two independent kernels of
        equal scale have a relative RMSE near sqrt(2).

    Raises:
        NetworkError: networks that do not match, NaN or infinite weights.

    Source: Wang et al. 2020, arXiv:2008.03411, "Parameter reuse and RMSE" (the formula is our reading of the text).
    """
    table = comparable(target, source)[["kind", "layer", "name"]]
    pairs = [
        [tensor(model, kind, name).detach().cpu().double() for model in (target, source)]
        for kind, name in table[["kind", "name"]].itertuples(index=False)
    ]
    error = np.array([(theirs - ours).square().mean().item() for ours, theirs in pairs]) ** 0.5
    scale = np.array([ours.square().mean().item() for ours, _ in pairs]) ** 0.5
    with np.errstate(divide="ignore", invalid="ignore"):
        return table.assign(rmse=error, relative=error / scale)
