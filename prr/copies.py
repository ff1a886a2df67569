"""Copies of networks, and networks with their weights as they act."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from prr.errors import NetworkError


def copied(model: nn.Module) -> nn.Module:
    """A copy that shares no tensor with the network.

    Raises:
        NetworkError: something in the network refuses to be copied: a generator, a lock, an open file; it is named.
    """
    # torch copies no tensor that a graph of gradients hangs on, such as features that a pass has left
    held = [value for module in model.modules() for value in _tensors_in(dict(vars(module)))]
    known = {id(value): value.detach().clone() for value in held if not value.is_leaf}
    # and one made in inference mode can't be written to, nor be part of a graph
    known |= {id(value): _usual(value) for value in held if value.is_inference()}
    try:
        return copy.deepcopy(model, known)
    except Exception as error:  # whatever an object of the network's own says
        culprit = next(_uncopyable(model), type(model).__name__)
        raise NetworkError(
            f"{culprit}: expected what copy.deepcopy can copy, found: {error}; the network is judged in copies, so "
            "delete that attribute before, or keep it outside the network"
        ) from error


def _usual(value: Tensor) -> Tensor:
    """A copy that was not made in inference mode."""
    copy_of = torch.empty_like(value, requires_grad=False).copy_(value)
    return nn.Parameter(copy_of, value.requires_grad) if isinstance(value, nn.Parameter) else copy_of


def _tensors_in(value: object) -> Iterator[Tensor]:
    """Tensors in nested lists, tuples and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _tensors_in(each)


def _uncopyable(model: nn.Module) -> Iterator[str]:
    """Attributes that can't be copied, by name and type."""
    for name, module in model.named_modules():
        parts = {each: value for each, value in vars(module).items() if not each.startswith("_")}
        for attribute, value in {**parts, **module._parameters, **module._buffers}.items():
            try:
                copy.deepcopy(value)
            except Exception:
                if not isinstance(value, Tensor) or value.is_leaf:
                    yield f"{name}.{attribute}".removeprefix(".") + f" ({type(value).__name__})"


def effective(model: nn.Module) -> nn.Module:
    """The network with weights as they act: where they are computed from other tensors, a copy that holds the result.

    Computed are weights under weight norm, spectral norm, pruning or any other parametrisation. They are what a pass
    uses, so they are what is compared and replaced; a copy that holds them as they are has lost the constraint.

    Returns:
        The network itself where nothing is computed.

    Raises:
        NetworkError: as `copied`, and for what is no network.

    Example:
        >>> from prr.copies import effective
        >>> from torch import nn
        >>> model = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
        >>> list(dict(effective(model).named_parameters()))
        ['bias', 'weight']
    """
    check_module(model)
    tensors = itertools.chain(model.parameters(), model.buffers())
    usual = not any(value.is_inference() for value in tensors if not is_lazy(value))
    if usual and not computes_weights(model):
        return model
    model = copied(model)
    for module in model.modules():
        if parametrize.is_parametrized(module):
            _leave(module)
        for remove, name in _computed(module):
            remove(module, name)
    return model


def computes_weights(model: nn.Module) -> bool:
    """Whether some weights of a network are computed from other tensors, see `effective`."""
    return any(parametrize.is_parametrized(module) or _computed(module) for module in model.modules())


def check_module(model: object) -> None:
    """Refuse what is no network.

    Raises:
        NetworkError: names the type that was found.
    """
    if not isinstance(model, nn.Module):
        raise NetworkError(
            f"expected a torch.nn.Module, found {type(model).__name__}; load a state dict into its network"
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise NetworkError(
            f"expected a torch.nn.Module, found TorchScript ({type(model).__name__}), whose layers can't be taken "
            "apart; build the network, and load state_dict() of this into it"
        )


def _leave(module: nn.Module) -> None:
    """As torch's `remove_parametrizations`, which changes a class that copies share."""
    values = {name: getattr(module, name).detach().clone() for name in module.parametrizations}
    del module.parametrizations
    module.__class__ = type(module).__bases__[0]
    for name, value in values.items():
        setattr(module, name, nn.Parameter(value))


def _computed(module: nn.Module) -> list[tuple[Callable, str]]:
    """What makes the weights plain that hooks compute: functions, and the names of the weights."""
    found: list[tuple[Callable, str]] = []
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm):
            found.append((remove_weight_norm, hook.name))
        elif isinstance(hook, SpectralNorm):
            found.append((remove_spectral_norm, hook.name))
        elif isinstance(hook, prune.BasePruningMethod):
            found.append((prune.remove, hook._tensor_name))
    return found
