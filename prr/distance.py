"""How far apart two networks' parameters are."""

from __future__ import annotations

import numpy as np
import pandas as pd
from torch import nn

from prr.copies import effective
from prr.graph.alignment import arranged, wide
from prr.graph.channels import Channels
from prr.layers import common, tensor, warn_of_rest


def rmse(target: nn.Module, source: nn.Module, *, align: bool = False, progress: bool = False) -> pd.DataFrame:
    """Root mean square error between the parameters of two networks, tensor by tensor.

    Networks that share some layers only are compared in those, with a warning; `incomparable` lists the rest.

    Args:
        target: the network that is judged.
        source: the network that parameters would come from.
        align: measure a second time with the source's channels in the target's order and scale, see
            `prr.graph.alignment.aligned`. Then every layer has to match.
        progress: show on stderr how many groups of channels have been matched.

    Returns:
        DataFrame[kind, layer, name, rmse, relative(, aligned, fixed)]: rmse = sqrt(mean(|w_source - w_target|^2)), in
        the unit of the weights; relative = rmse / sqrt(mean(|w_target|^2)), inf where the target is all zero, NaN where
        both are; aligned is `relative` to the aligned source. Two independent kernels of equal scale have a relative
        RMSE near sqrt(2); alignment takes little off it (1.35 at 16 channels), so a kernel that it takes far
        lower was the same but for its order and scale. fixed says why the channels that come out of a layer could not
        be moved, all or some of them, so that `aligned` says less there: "in a grouped Conv2d", "goes into norm
        (GroupNorm)"; "" where they were free, or bound to the network's own inputs and outputs.

    Raises:
        NetworkError: networks that share nothing, NaN or infinite weights, none at all (device meta); with `align` any
            layer that differs, or a source that torch.fx can't trace.

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
    target, source = effective(target), effective(source)
    channels = Channels(target, source) if align else None
    table = common(target, source)[["kind", "layer", "name"]]
    warn_of_rest(target, source)
    table = table.assign(**distances(target, source, table))
    if channels is None:
        return table
    moved = distances(target, arranged(channels, target, progress), table)["relative"]
    tensors = (tensor(source, kind, name) for kind, name in table[["kind", "name"]].itertuples(index=False))
    return table.assign(aligned=moved, fixed=[channels.notes[channels.name_of[id(value)]] for value in tensors])


def distances(target: nn.Module, source: nn.Module, table: pd.DataFrame) -> dict[str, np.ndarray]:
    """The columns `rmse` and `relative` for the tensors in a table's rows."""
    error, scale = [], []
    for kind, name in table[["kind", "name"]].itertuples(index=False):
        ours, theirs = (wide(tensor(model, kind, name)) for model in (target, source))
        error.append((theirs - ours).abs().square().mean().item())
        scale.append(ours.abs().square().mean().item())
    error, scale = np.array(error) ** 0.5, np.array(scale) ** 0.5
    with np.errstate(divide="ignore", invalid="ignore"):
        return {"rmse": error, "relative": error / scale}
