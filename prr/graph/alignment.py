"""Channels have no order of their own: a copy of the source whose channels stand as the target's do.

`prr.graph.channels` finds which channels may change places; here they are matched, group by group.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from tqdm import tqdm

from prr.copies import copied, effective
from prr.graph.channels import Channels, Slot, kernel_dimension
from prr.layers import named_tensors

STARTS = 3  # orders in which the groups are tried; the first is the network's own
ENOUGH = 1e-9  # a step has to gain this part of what a perfect match would give: less is rounding


def aligned(target: nn.Module, source: nn.Module, *, progress: bool = False) -> nn.Module:
    """A copy of the source that is the same function, with its channels permuted and scaled to lie near the target's.

    Channels are permuted wherever torch.fx shows that the function stays: through convolutions (transposed and
    depthwise ones too), batch and instance norm, linear layers, what acts on each channel by itself, additions,
    concatenations and the flattening before a linear layer. What reads or writes channels in any other way fixes
    their order: inputs and outputs, other grouped convolutions, reshapes, unknown functions and modules, subclasses
    with their own forward, modules with hooks, parameters that are used outside their module. `prr.rmse` says which,
    layer by layer. The first dimension is taken to be the batch, and the output of a linear layer before a batch norm
    to be (n, channels). Layers that run in train mode only follow, if torch.fx can trace the network in train mode too.

    Where nothing but a batch norm sees a layer, the scale of its channels is free: it is set to the target's. Two
    other freedoms are left as they are: the sign of such a channel, and scales across a ReLU.

    Args:
        target: the network whose order of channels is taken; not changed.
        source: the network that is copied; not changed. Same layers and shapes.
        progress: show on stderr how many groups of channels have been matched.

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
    target, source = effective(target), effective(source)
    return arranged(Channels(target, source), target, progress)


def arranged(channels: Channels, target: nn.Module, progress: bool) -> nn.Module:
    """A copy of the network whose channels were found, in the target's order and scale."""
    places = matched(channels, target, progress)
    model = copied(channels.source)
    new, originals = named_tensors(model), named_tensors(channels.source)
    for name in dict.fromkeys(name for name, _ in channels.lists):
        new[name].data.copy_(moved(originals[name].data, name, places))
    for pair in channels.scaled:
        rescale(model, target, *pair)
    return model


def wide(value: Tensor) -> Tensor:
    """In double precision, on the CPU."""
    return value.detach().cpu().to(torch.complex128 if value.is_complex() else torch.float64)


def norms(weight: Tensor, module: nn.Module) -> Tensor:
    """(channels,) Euclidean norms of a kernel's output channels, in float64."""
    kernel = wide(weight).movedim(kernel_dimension(module), 0)
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
    before = wide(batch_norm.running_var)
    variance = before + batch_norm.eps
    factor = torch.where(factor.square() * variance < batch_norm.eps, 1.0, factor)  # RV would be negative
    weights = spread(factor, kernel.weight, kernel)
    for value, by in ((kernel.weight, weights), (kernel.bias, factor), (batch_norm.running_mean, factor)):
        if value is not None:
            value.data.copy_(wide(value) * by)
    batch_norm.running_var.data.copy_(torch.where(factor == 1, before, factor.square() * variance - batch_norm.eps))


# ---- the match -----------------------------------------------------------------------------------------------------

Places = dict[tuple[str, int], Tensor]  # (name of a tensor, dimension) -> which index stands at each place


def matched(channels: Channels, target: nn.Module, progress: bool) -> Places:
    """The permutation of every dimension of the source's tensors that has channels to move."""
    ours, theirs = (standardised(model, channels) for model in (target, channels.source))
    groups = channels.groups()
    generator = np.random.default_rng(0)
    orders = [list(range(len(groups))), *(generator.permutation(len(groups)) for _ in range(STARTS - 1))]
    first: dict[int, Tensor] = {}
    with tqdm(desc="channels", unit="group", mininterval=1, disable=not progress) as bar:
        found = [descend(Match(ours, theirs, groups, first), order, bar) for order in orders]
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
    values = {name: wide(tensors[name]) for name, _ in channels.lists}
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
    values = {name: torch.view_as_real(value) if value.is_complex() else value for name, value in values.items()}
    return {name: value / (value.square().mean().sqrt() or 1) for name, value in values.items()}


def descend(match: Match, order: Sequence[int], bar: tqdm) -> tuple[float, list[Tensor]]:
    """Match one group after the other, the others held, until nothing gains.

    Returns:
        The sum of products of all tensors, and the permutation of each group.
    """
    names = [{slot.name for slot in slots} for slots in match.groups]
    open_groups = list(order)
    while open_groups:
        changed = set()
        for group in open_groups:
            if group in match.stale and match.improve(group):
                changed |= names[group]
            bar.update()
        open_groups = [group for group in order if changed & names[group]]
    return sum((match.ours[name] * match.theirs[name]).sum().item() for name in match.ours), match.permutations


class Match:
    """Two networks' tensors, the second's permuted as far as the match has come.

    What each exchange of channels would gain is kept and brought up to date: where few channels of a tensor moved, few
    of the sums that it is made of have changed.

    Args:
        ours, theirs: name -> a tensor in which channels are compared.
        groups: where each group of channels stands.
        first: group -> its best permutation as long as no other has moved, which is the same in every order.
    """

    def __init__(
        self, ours: dict[str, Tensor], theirs: dict[str, Tensor], groups: Sequence[list[Slot]], first: dict[int, Tensor]
    ):
        self.first, self.untouched = first, set(range(len(groups)))
        self.ours, self.theirs, self.groups = ours, {name: value.clone() for name, value in theirs.items()}, groups
        self.permutations = [torch.arange(len(slots[0].index)) for slots in groups]
        self.gains: dict[int, Tensor] = {}  # group -> (channels, channels), see `products`
        self.stale = set(range(len(groups)))  # groups whose gains have changed since they were matched
        self.standing: dict[str, list[tuple[int, Slot]]] = {}
        for group, slots in enumerate(groups):
            for slot in slots:
                self.standing.setdefault(slot.name, []).append((group, slot))

    def improve(self, group: int) -> bool:
        """Permute a group as is best, all others held; whether anything is gained."""
        self.stale.discard(group)
        slots = self.groups[group]
        if group not in self.gains:
            self.gains[group] = sum(products(self.ours[slot.name], self.theirs[slot.name], slot) for slot in slots)
        gain, names = self.gains[group], {slot.name for slot in slots}
        step = self._best(group, gain)
        least = ENOUGH * sum(self.ours[name].numel() for name in names)
        if (gain.gather(1, step[:, None]).sum() - gain.trace()).item() <= least:
            return False
        # with the group in two dimensions of one tensor, what the assignment promises is not what is gained
        if len(names) < len(slots) and self._gained(slots, step) <= least:
            return False
        self.permutations[group] = self.permutations[group][step]
        self.gains[group] = gain.index_select(1, step)
        for slot in slots:
            self._move(group, slot, step)
        return True

    def _best(self, group: int, gain: Tensor) -> Tensor:
        if group in self.untouched and group in self.first:
            return self.first[group]
        step = torch.from_numpy(linear_sum_assignment(gain, maximize=True)[1])
        return self.first.setdefault(group, step) if group in self.untouched else step

    def _gained(self, slots: list[Slot], step: Tensor) -> float:
        new = {slot.name: self.theirs[slot.name].clone() for slot in slots}
        for slot in slots:
            exchange(new[slot.name], slot, step)
        return sum(((value - self.theirs[name]) * self.ours[name]).sum().item() for name, value in new.items())

    def _move(self, group: int, slot: Slot, step: Tensor) -> None:
        """Permute a group in one of its places, and bring up to date what others gain there."""
        places, change = exchange(self.theirs[slot.name], slot, step)
        others = [other for other in self.standing[slot.name] if other[1].dimension != slot.dimension]
        self.stale |= {other for other, _ in others}
        self.untouched -= {group, *(other for other, _ in others)}
        ours = self.ours[slot.name].index_select(slot.dimension, places) if others else None
        for other, its in others:
            if other == group:
                self.gains.pop(group, None)
            elif other in self.gains:
                self.gains[other] += products(ours, change, its)


def exchange(value: Tensor, slot: Slot, step: Tensor) -> tuple[Tensor, Tensor]:
    """Permute a group's channels in a tensor, in place.

    Returns:
        The places of those that move, and how much the numbers there have changed.
    """
    moving = step != torch.arange(len(step))
    places, origins = slot.index[moving].flatten(), slot.index[step[moving]].flatten()
    before, after = (value.index_select(slot.dimension, each) for each in (places, origins))
    value.index_copy_(slot.dimension, places, after)
    return places, after - before


def products(ours: Tensor, theirs: Tensor, slot: Slot) -> Tensor:
    """(channels, channels): product of each channel of the one tensor with each of the other."""
    first, second = (placed(value, slot) for value in (ours, theirs))
    return first @ second.T


def placed(value: Tensor, slot: Slot) -> Tensor:
    """(channels, occurrences x rest): a tensor's numbers, channel by channel of a group."""
    value = value.movedim(slot.dimension, 0)
    every = slot.index.shape == (len(value), 1) and torch.equal(slot.index[:, 0], torch.arange(len(value)))
    return (value if every else value[slot.index]).reshape(len(slot.index), -1)


def moved(value: Tensor, name: str, places: Places) -> Tensor:
    """A tensor with all its channels at their new places."""
    for dimension in range(value.ndim):
        if (name, dimension) in places:
            value = value.index_select(dimension, places[name, dimension].to(value.device))
    return value
