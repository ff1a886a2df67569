"""Whether a network gives the same answer twice, and which of its tensors the answer depends on."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from prr.copies import copied
from prr.errors import NetworkError
from prr.graph.outputs import Path, select
from prr.graph.state import restored
from prr.graph.suffix import alike, changed
from prr.layers import device_of, forward


def keeps_state(model: nn.Module, images: Tensor, path: Path = ()) -> bool:
    """Whether a pass writes into the network what the next pass reads.

    Args:
        model: network in eval mode; not changed.
        images: (b, ...), a batch.
        path: to the tensor of the output that is looked at.

    Raises:
        NetworkError: the output differs from pass to pass though the network is given back as it was: it draws at
            random, or remembers out of reach. The operation and its module are named.

    Example:
        >>> import torch
        >>> from prr.graph.passes import keeps_state
        >>> keeps_state(torch.nn.Linear(3, 2), torch.zeros(4, 3))
        False
    """
    with own_random_numbers(model):
        if _repeats(model, images, path, contextlib.nullcontext):
            return False
        if _repeats(model, images, path, restored):
            return True
        where = _first_difference(model, images)
    raise NetworkError(
        f"{type(model).__name__}: expected the same output twice, found another one: {where} draws at random or "
        "remembers other passes; switch that off in eval mode (dropout: training=self.training), or fix its seed"
    )


@contextlib.contextmanager
def own_random_numbers(model: nn.Module) -> Iterator[None]:
    """Leave the global random generators as they were."""
    with torch.random.fork_rng([device_of(model)] if device_of(model).type == "cuda" else []):
        yield


def _repeats(model: nn.Module, images: Tensor, path: Path, around: Callable) -> bool:
    """Whether a batch gives the same output in a fresh network, after itself, and after another batch."""
    outputs = []
    for batches in ((images, images), (images[: len(images) // 2], images)):
        probe = copied(model)
        for batch in batches:
            if len(batch):
                with around(probe) if around is restored else around():
                    outputs.append(select(forward(probe, batch), path).clone())
    first, second, last = outputs[0], outputs[1], outputs[-1]
    return first.shape == second.shape == last.shape and alike(first, second) and alike(first, last)


SHAPING = {
    "squeeze",
    "unsqueeze",
    "view",
    "reshape",
    "flatten",
    "getitem",
    "__getitem__",
    "clone",
    "contiguous",
    "permute",
}


class Event(NamedTuple):
    """One operation of a pass: the module that it is part of, and a number that tells its result from others."""

    module: str
    function: str
    value: float


def _first_difference(model: nn.Module, images: Tensor) -> str:
    """The first operation whose result differs between two passes."""
    probe = copied(model)
    trails = []
    for _ in range(2):
        with restored(probe):
            trails.append(_trail(probe, images))
    pairs = itertools.zip_longest(*trails)
    event = next((one or other for one, other in pairs if one != other), None)
    return "something" if event is None else f"{event.function} in {event.module or 'the network itself'}"


def _trail(model: nn.Module, images: Tensor) -> list[Event]:
    """Every operation of a pass."""
    names = {id(module): name for name, module in model.named_modules()}
    inside, trail = [""], []

    class Follow(TorchFunctionMode):
        def __torch_function__(self, function, types, arguments=(), options=None):
            result = function(*arguments, **(options or {}))
            if isinstance(result, Tensor) and result.is_floating_point():
                value = result.detach().double().nan_to_num().square().sum().item()
                trail.append(Event(inside[-1], getattr(function, "__name__", "").strip("_"), value))
            return result

    hooks = [
        register_module_forward_pre_hook(lambda module, _: inside.append(names.get(id(module), ""))),
        register_module_forward_hook(lambda *_: inside.pop() and None, always_call=True),
    ]
    try:
        with Follow():
            forward(model, images)
    finally:
        for hook in hooks:
            hook.remove()
    return trail


def last_operations(model: nn.Module, images: Tensor, count: int = 3) -> list[str]:
    """Names of the operations that a pass ends with.

    Example:
        >>> import torch
        >>> from prr.graph.passes import last_operations
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.Sigmoid())
        >>> last_operations(model, torch.zeros(1, 2), count=2)
        ['linear', 'sigmoid']
    """
    events = [event.function for event in _trail(copied(model), images)]
    return [function for function in events if function not in SHAPING][-count:]


def reached(
    model: nn.Module, tensors: list[Tensor], batches: Iterable[Tensor], path: Path = (), keeps_state: bool = False
) -> list[bool]:
    """Which tensors of a network its output depends on.

    A graph of gradients tells it of the first batch, in a pass. What hangs on no graph (a network may detach, or a
    branch may wait for other images) is asked by noise: another value has to change the output of some batch.

    Args:
        model: network in eval mode; not changed, but for `requires_grad` of its tensors.
        tensors: of this network.
        batches: of images (b, ...).
        path: to the tensor of the output that is looked at.
        keeps_state: see `prr.graph.suffix.outputs_of`.

    Returns:
        One answer for each tensor; True for all where the output is no floating-point number.

    Example:
        >>> import torch
        >>> from prr.graph.passes import reached
        >>> class Forgets(torch.nn.Linear):
        ...     def forward(self, x):
        ...         return super().forward(x).detach() * 0 + self.bias
        >>> model = Forgets(2, 2)
        >>> reached(model, [model.weight, model.bias], [torch.ones(1, 2)])
        [False, True]
    """
    found: list[bool] = []
    noise = [_noise(value) for value in tensors]
    run = functools.partial(_output, path=path, around=restored if keeps_state else None)
    with own_random_numbers(model):
        for batch in batches:
            found = found or _on_graph(model, tensors, batch[:2], path)
            if all(found):
                break
            with torch.no_grad():
                own = run(model, batch)
                if not own.is_floating_point():
                    return [True] * len(tensors)
                for place in [place for place, is_reached in enumerate(found) if not is_reached]:
                    found[place] = not alike(run(changed(model, tensors[place], noise[place]), batch), own)
    return found


def _output(model: nn.Module, images: Tensor, path: Path, around: Callable | None) -> Tensor:
    with around(model) if around else contextlib.nullcontext():
        return select(forward(model, images), path).clone()


def _on_graph(model: nn.Module, tensors: list[Tensor], images: Tensor, path: Path) -> list[bool]:
    """Which tensors the graph of gradients leads to; none where there is no graph."""
    probe = copied(model)
    copies = {id(own): other for own, other in zip(_held(model), _held(probe), strict=True)}
    mirrored = [copies[id(value)] for value in tensors]
    stand_ins = _stand_ins(probe)
    leaves = [stand_ins.get(id(value), value).requires_grad_() for value in mirrored]
    try:
        with torch.enable_grad():
            output: Any = select(probe(images.clone()), path).abs().sum()
            return [each is not None for each in torch.autograd.grad(output, leaves, allow_unused=True)]
    except Exception:  # no graph, or an operation that has no gradient
        return [False] * len(tensors)


def _stand_ins(model: nn.Module) -> dict[int, Tensor]:
    """For running statistics, of which torch has no gradient, a number that is added to what their norm gives."""
    found: dict[int, Tensor] = {}
    for module in model.modules():
        statistics = (getattr(module, name, None) for name in ("running_mean", "running_var"))
        held = [id(value) for value in statistics if isinstance(value, Tensor)]
        if held and isinstance(module, (_BatchNorm, _InstanceNorm)):
            added = torch.zeros((), device=device_of(model))
            found |= dict.fromkeys(held, added)
            module.register_forward_hook(
                lambda norm, inputs, output, added=added: output if norm.training else output + added
            )
    return found


def _held(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def _noise(value: Tensor) -> Tensor:
    """Another value of like size; statistics stay positive where they are."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(value.shape, generator=generator).to(value)
    other = value + (value.abs().square().mean().sqrt() + (not value.any())) * drawn
    return other.abs() if not value.is_complex() and (value >= 0).all() else other


def captured(model: nn.Module) -> list[str]:
    """Modules with a hook that refers to a network by itself, as a copy of the network does not change.

    Example:
        >>> from prr.graph.passes import captured
        >>> from torch import nn
        >>> def through(other):
        ...     return lambda module, inputs, output: other(output)
        >>> model = nn.Sequential(nn.Linear(1, 1))
        >>> _ = model[0].register_forward_hook(through(nn.Linear(1, 1)))
        >>> captured(model)
        ['0']
    """
    return [
        name or "the network itself"
        for name, module in model.named_modules()
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        if _refers_to_a_network(hook)
    ]


def patched(model: nn.Module) -> list[str]:
    """Modules with a function of their own, a forward perhaps, that refers to a network: copies go on calling that one.

    Example:
        >>> from prr.graph.passes import patched
        >>> from torch import nn
        >>> def doubled(module):
        ...     old = module.forward
        ...     module.forward = lambda x: 2 * old(x)
        >>> model = nn.Sequential(nn.Linear(1, 1))
        >>> doubled(model[0])
        >>> patched(model)
        ['0']
    """
    return [
        name or "the network itself"
        for name, module in model.named_modules()
        if any(isinstance(each, FunctionType) and _refers_to_a_network(each) for each in vars(module).values())
    ]


def _refers_to_a_network(function: Callable) -> bool:
    """Whether a function holds a module, or a method of one, in its closure or its defaults."""
    cells = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    held = [*cells, *(getattr(function, "__defaults__", None) or ())]
    return any(isinstance(getattr(each, "__self__", each), nn.Module) for each in held)
