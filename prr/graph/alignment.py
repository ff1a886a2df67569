"""Channels have no order of their own: a copy of the source whose channels stand as the target's do.

`prr.graph.channels` finds which channels may change places; here they are matched, group by group.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from prr.graph.channels import Channels, Slot, kernel_dimension
from prr.layers import named_tensors

STARTS = 3  # orders in which the groups are tried; the first is the network's own
ENOUGH = 1e-9  # a step has to gain this part of what a perfect match would give: less is rounding


def aligned(target: nn.Module, source: nn.Module) -> nn.Module:
    """A copy of the source that is the same function, with its channels permuted and scaled to lie near the target's.

    Channels are permuted wherever torch.fx shows that the function stays: through convolutions (transposed and
    depthwise ones too), batch and instance norm, linear layers, what acts on each channel by itself, additions,
    concatenations and the flattening before a linear layer. What reads or writes channels in any other way fixes
    their order: inputs and outputs, other grouped convolutions, reshapes, unknown functions and modules, modules with
    hooks, parameters that are used outside their module. The first dimension is taken to be the batch, and the output
    of a linear layer before a batch norm to be (n, channels). Layers that run in train mode only follow, if torch.fx
    can trace the network in train mode too.

    Where nothing but a batch norm sees a layer, the scale of its channels is free: it is set to the target's. Two
    other freedoms are left as they are: the sign of such a channel, and scales across a ReLU.

    Args:
        target: the network whose order of channels is taken; not changed.
        source: the network that is copied; not changed. Same layers and shapes.

    Returns:
        The copy, in the source's mode and on its device: the function in eval mode up to rounding.

    Raises:
        NetworkError: networks that do not match, NaN or infinite values, a source that torch.fx can't trace.

    Source: Ainsworth et al. 2023, arXiv:2209.04836, algorithm 1 (weight matching); Jordan et al. 2023,
    arXiv:2211.08403 (batch norm after permutation).

    Example:
        >>> import copy, torch
        >>> from prr.graph.alignment import aligned
        >>> from torch import nn
        >>> _ = torch.manual_seed(0)
        >>> target = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> source, order = copy.deepcopy(target), [2, 0, 3, 1]  # the same function, its channels in another order
        >>> for value, own in ((source[0].weight, target[0].weight), (source[0].bias, target[0].bias)):
        ...     _ = value.data.copy_(own[order])
        >>> _ = source[2].weight.data.copy_(target[2].weight[:, order])
        >>> all(map(torch.equal, aligned(target, source).parameters(), target.parameters()))
        True
    """
    channels = Channels(target, source)
    places = matched(channels, target)
    model = copy.deepcopy(source)
    copied, originals = named_tensors(model), named_tensors(source)
    for name in dict.fromkeys(name for name, _ in channels.lists):
        copied[name].data.copy_(moved(originals[name].data, name, places))
    for pair in channels.scaled:
        rescale(model, target, *pair)
    return model


def norms(weight: Tensor, module: nn.Module) -> Tensor:
    """(channels,) Euclidean norms of a kernel's output channels, in float64."""
    kernel = weight.detach().cpu().double().movedim(kernel_dimension(module), 0)
    return kernel.flatten(1).norm(dim=1)


def spread(factor: Tensor, weight: Tensor, module: nn.Module) -> Tensor:
    """A factor for each output channel, in a shape that multiplies the kernel."""
    shape = [1] * weight.ndim
    shape[kernel_dimension(module)] = -1
    return factor.reshape(shape)


def rescale(model: nn.Module, target: nn.Module, layer: str, norm: str) -> None:
    """Give the kernel of `layer` the target's norms, in place; the batch norm behind it undoes the scale exactly.

    Norms are matched, not least squares: the best factor for an unrelated kernel is near 0, and would take two
    independent networks from a relative RMSE of sqrt(2) to 1.
    """
    kernel, batch_norm = model.get_submodule(layer), model.get_submodule(norm)
    own, wanted = norms(kernel.weight, kernel), norms(target.get_submodule(layer).weight, kernel)
    factor = torch.where((own > 0) & (wanted > 0), wanted / own, 1.0)
    before = batch_norm.running_var.detach().cpu().double()
    variance = before + batch_norm.eps
    factor = torch.where(factor.square() * variance < batch_norm.eps, 1.0, factor)  # RV would be negative
    weights = spread(factor, kernel.weight, kernel)
    for value, by in ((kernel.weight, weights), (kernel.bias, factor), (batch_norm.running_mean, factor)):
        if value is not None:
            value.data.copy_(value.detach().cpu().double() * by)
    batch_norm.running_var.data.copy_(torch.where(factor == 1, before, factor.square() * variance - batch_norm.eps))


# ---- the match -----------------------------------------------------------------------------------------------------

Places = dict[tuple[str, int], Tensor]  # (name of a tensor, dimension) -> which index stands at each place


def matched(channels: Channels, target: nn.Module) -> Places:
    """The permutation of every dimension of the source's tensors that has channels to move."""
    ours, theirs = (standardised(model, channels) for model in (target, channels.source))
    groups = channels.groups()
    generator = np.random.default_rng(0)
    orders = [list(range(len(groups))), *(generator.permutation(len(groups)) for _ in range(STARTS - 1))]
    found = [descend(ours, theirs, groups, order) for order in orders]
    _, best = max(found, key=lambda each: each[0])
    places = {key: torch.arange(len(numbers)) for key, numbers in channels.lists.items()}
    for slots, permutation in zip(groups, best, strict=True):
        for slot in slots:
            place = places[slot.name, slot.dimension]
            place[slot.index] = slot.index[permutation]
    return places


def standardised(model: nn.Module, channels: Channels) -> dict[str, Tensor]:
    """The tensors in which channels are compared, float64, each of mean square 1, free scales divided out.

    So every number of every tensor counts alike, whatever its unit: a kernel more than a bias.
    """
    tensors = named_tensors(model)
    values = {name: tensors[name].detach().cpu().double() for name, _ in channels.lists}
    for name in values:
        if name.endswith("running_var"):
            values[name] = values[name].sqrt()  # in the unit of RM
    for layer, norm in channels.scaled:
        module = channels.source.get_submodule(layer)
        size = norms(tensors[f"{layer}.weight"], module)
        unit = 1 / torch.where(size > 0, size, 1.0)
        values[f"{layer}.weight"] = values[f"{layer}.weight"] * spread(unit, values[f"{layer}.weight"], module)
        for name in (f"{layer}.bias", f"{norm}.running_mean", f"{norm}.running_var"):
            if name in values:
                values[name] = values[name] * unit
    return {name: value / (value.square().mean().sqrt() or 1) for name, value in values.items()}


def descend(
    ours: dict[str, Tensor], theirs: dict[str, Tensor], groups: Sequence[list[Slot]], order: Sequence[int]
) -> tuple[float, list[Tensor]]:
    """Match one group after the other, the others held, until nothing gains.

    Returns:
        The sum of products of all tensors, and the permutation of each group.
    """
    theirs = dict(theirs)
    permutations = [torch.arange(len(slots[0].index)) for slots in groups]
    open_groups = list(order)
    while open_groups:
        changed = set()
        for group in open_groups:
            slots = groups[group]
            gain = sum(products(ours[slot.name], theirs[slot.name], slot) for slot in slots)
            step = torch.from_numpy(linear_sum_assignment(gain, maximize=True)[1])
            names = {slot.name for slot in slots}
            least = ENOUGH * sum(ours[name].numel() for name in names)
            if (gain.gather(1, step[:, None]).sum() - gain.trace()).item() <= least:
                continue
            new = {name: theirs[name] for name in names}
            for slot in slots:
                new[slot.name] = stepped(new[slot.name], slot, step)
            # with the group in two dimensions of one tensor, what the assignment promises is not what is gained
            if sum(((new[name] - theirs[name]) * ours[name]).sum().item() for name in names) > least:
                theirs |= new
                permutations[group] = permutations[group][step]
                changed |= names
        open_groups = [group for group in order if changed & {slot.name for slot in groups[group]}]
    return sum((ours[name] * theirs[name]).sum().item() for name in ours), permutations


def products(ours: Tensor, theirs: Tensor, slot: Slot) -> Tensor:
    """(channels, channels): product of each channel of the one tensor with each of the other."""
    # (channels, occurrences x rest)
    first, second = (value.movedim(slot.dimension, 0)[slot.index].flatten(1) for value in (ours, theirs))
    return first @ second.T


def stepped(value: Tensor, slot: Slot, step: Tensor) -> Tensor:
    """A tensor with a group's channels permuted."""
    place = torch.arange(value.shape[slot.dimension])
    place[slot.index] = slot.index[step]
    return value.index_select(slot.dimension, place)


def moved(value: Tensor, name: str, places: Places) -> Tensor:
    """A tensor with all its channels at their new places."""
    for dimension in range(value.ndim):
        if (name, dimension) in places:
            value = value.index_select(dimension, places[name, dimension].to(value.device))
    return value
