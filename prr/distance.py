"""How far apart two networks' parameters are."""

from __future__ import annotations

import numpy as np
import pandas as pd
from torch import nn

from prr.graph.alignment import aligned
from prr.layers import common, tensor, warn_of_rest


def rmse(target: nn.Module, source: nn.Module, *, align: bool = False) -> pd.DataFrame:
    """Root mean square error between the parameters of two networks, tensor by tensor.

    Networks that share some layers only are compared in those, with a warning; `incomparable` lists the rest.

    Args:
        target: the network that is judged.
        source: the network that parameters would come from.
        align: measure a second time with the source's channels in the target's order and scale, see
            `prr.graph.alignment.aligned`. Then every layer has to match.

    Returns:
        DataFrame[kind, layer, name, rmse, relative(, aligned)]: rmse = sqrt(mean((w_source - w_target)^2)), in the
        unit of the weights; relative = rmse / sqrt(mean(w_target^2)), inf where the target is all zero, NaN where
        both are; aligned is `relative` to the aligned source. Two independent kernels of equal scale have a relative
        RMSE near sqrt(2); alignment takes little off it (1.35 at 16 channels), so a kernel that it takes far
        lower was the same but for its order and scale.

    Raises:
        NetworkError: networks that share nothing, NaN or infinite weights; with `align` any layer that differs, or a
            source that torch.fx can't trace.

    Source: Wang et al. 2020, arXiv:2008.03411, "Parameter reuse and RMSE" (the formula is our reading of the text).

    Example:
        >>> import copy, prr
        >>> from torch import nn
        >>> target = nn.Sequential(nn.Linear(3, 2))
        >>> source = copy.deepcopy(target)
        >>> source[0].bias.data += 0.5
        >>> prr.rmse(target, source)[["kind", "layer", "name", "rmse"]].round(3)
          kind  layer name  rmse
        0   LW      1    0   0.0
        1   LB      1    0   0.5
    """
    moved = aligned(target, source) if align else None
    table = common(target, source)[["kind", "layer", "name"]]
    warn_of_rest(target, source)
    pairs = [
        [tensor(model, kind, name).detach().cpu().double() for model in (target, source)]
        for kind, name in table[["kind", "name"]].itertuples(index=False)
    ]
    error = np.array([(theirs - ours).square().mean().item() for ours, theirs in pairs]) ** 0.5
    scale = np.array([ours.square().mean().item() for ours, _ in pairs]) ** 0.5
    with np.errstate(divide="ignore", invalid="ignore"):
        table = table.assign(rmse=error, relative=error / scale)
    return table if moved is None else table.assign(aligned=rmse(target, moved)["relative"])
