"""A network guessed from a state dict."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

ATTENTION = {"in_proj_weight", "in_proj_bias", "q_proj_weight"}


def skeleton(state: Mapping[str, Tensor], like: nn.Module | None = None) -> nn.Module:
    """A network that holds a state dict's tensors in layers guessed from names and shapes; it can't run.

    A weight of three dimensions or more is a convolution's, one of two a linear layer's (an embedding looks the same),
    one of one dimension a batch norm's where running statistics stand beside it, else another norm's. What is none of
    these becomes a parameter of a plain module. Integers stay outside, and so do names that no network can have.

    Args:
        state: names and tensors.
        like: a network; where it has a module, that module's type is taken, not guessed.

    Example:
        >>> import prr, torch
        >>> from prr.checkpoints import skeleton
        >>> state = {"stem.weight": torch.ones(4, 1, 3, 3), "norm.weight": torch.ones(4), "norm.bias": torch.ones(4)}
        >>> prr.parameter_table(skeleton(state))[["kind", "layer", "name"]]
          kind  layer  name
        0    W      1  stem
        1   NW      1  norm
        2   NB      1  norm
    """
    numbers = {name: value for name, value in state.items() if value.is_floating_point() or value.is_complex()}
    return _module(numbers, like)


def _module(state: Mapping[str, Tensor], like: nn.Module | None) -> nn.Module:
    """A module with these tensors in itself and in its parts."""
    tensors, parts = {}, defaultdict(dict)
    for name, value in state.items():
        part, dot, rest = name.partition(".")
        (parts[part] if dot else tensors)[rest or part] = value
    likes = {} if like is None else {name: part for name, part in like._modules.items() if part is not None}
    fits = like is not None and _can_hold(like, state)
    layer = _layer(tensors, like if fits else _guess(tensors))
    for name in {**(likes if fits else {}), **parts}:
        layer._modules[name] = _module(parts[name], likes.get(name))
    return layer


def _can_hold(like: nn.Module, state: Mapping[str, Tensor]) -> bool:
    """Whether a module of its type can have these tensors: none packed, computed or hidden by a property."""
    if isinstance(like, nn.RNNBase | torch.jit.ScriptModule) or any(hasattr(type(like), name) for name in state):
        return False
    computed = like._forward_pre_hooks or parametrize.is_parametrized(like)  # from all that it has
    return not computed or like.state_dict().keys() <= state.keys()


def _layer(tensors: Mapping[str, Tensor], like: nn.Module) -> nn.Module:
    """A module of the type of `like` with these tensors and no others."""
    layer = object.__new__(type(like))  # its __init__ asks for what only it knows
    vars(layer).update(
        {name: value for name, value in vars(like).items() if name not in tensors},
        _parameters=dict.fromkeys(like._parameters), _buffers=dict.fromkeys(like._buffers), _modules={},
    )  # fmt: skip
    for name, value in tensors.items():
        if name in layer._buffers:
            layer._buffers[name] = value
        else:
            layer._parameters[name] = nn.Parameter(value, requires_grad=False)
    return layer


def _guess(tensors: Mapping[str, Tensor]) -> nn.Module:
    """A module of the family that some tensors belong to; a plain one where they are of none."""
    dimensions = tensors["weight"].ndim if "weight" in tensors else 0
    with torch.device("meta"):  # where nothing is drawn
        if "running_mean" in tensors:
            return nn.BatchNorm2d(1)
        if ATTENTION & tensors.keys():
            return nn.MultiheadAttention(1, 1)
        families = [nn.Module, lambda: nn.GroupNorm(1, 1), lambda: nn.Linear(1, 1), lambda: nn.Conv2d(1, 1, 1)]
        return families[min(dimensions, 3)]()
