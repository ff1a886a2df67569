"""torch.fx's record of what a network does to its input, and of what it does out of torch.fx's sight."""

from __future__ import annotations

import functools
import warnings

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate
from torch.overrides import TorchFunctionMode

from prr.copies import copied
from prr.layers import named_tensors


class Tracer(fx.Tracer):
    """Cuts a network at torch's own modules; a buffer is seen where it is used, as a parameter is."""

    proxy_buffer_attributes = True

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Also a subclass of one of torch's layers that runs as it does."""
        own = super().is_leaf_module(m, module_qualified_name)
        return own or (torch_class(m) is not None and not any(True for _ in m.children()))


def torch_class(module: nn.Module) -> type[nn.Module] | None:
    """The class of torch.nn whose forward pass a module runs, its own or its base; None if any of that is changed."""
    classes = type(module).__mro__
    own = next(each for each in classes if each.__module__.startswith("torch.nn.modules"))
    read, above = names_read(own), classes[: classes.index(own)]
    if any(read & vars(each).keys() for each in above):
        return None
    patched = any(hasattr(own, name) for name in read & vars(module).keys())  # a method replaced on the module itself
    return None if patched else own


@functools.cache
def names_read(own: type[nn.Module]) -> frozenset[str]:
    """What a call of a module reads by name: attributes and methods, and what these methods read."""
    found, left = {"__call__", "_call_impl", "__getattr__", "__getattribute__"}, ["forward"]
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            code = getattr(getattr(own, name, None), "__code__", None)
            left += code.co_names if code else ()
    return frozenset(found)


class OutOfSight(TorchFunctionMode):
    """Notes what enters operations that torch.fx does not see, by its id: their results become constants.

    A question about a shape or a dtype is none, for no other values change its answer.
    """

    def __init__(self):
        self.used: set[int] = set()

    def __torch_function__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        name = getattr(function, "__name__", "")
        asked = name in ("size", "dim", "numel") or (name == "__get__" and not isinstance(result, Tensor))  # not .data
        if not asked and not issubclass(fx.Proxy, types):
            map_aggregate((arguments, options), lambda each: self.used.add(id(each)))
        return result


def traced(model: nn.Module, *, training: bool) -> tuple[fx.Graph, set[str]]:
    """What a network does to its input, and the names of tensors that it uses out of torch.fx's sight.

    Modules and tensors have a `0.` before their names in the graph. A copy is traced, for a network may write what it
    is traced with on itself.

    Raises:
        Exception: whatever torch.fx or the network's own code raises when it is given no tensor.
    """
    root = nn.Sequential(copied(model))  # takes the images alone, whatever else the network could be given
    root.train(training)
    with warnings.catch_warnings(), torch.no_grad(), OutOfSight() as hidden:
        warnings.simplefilter("ignore")
        graph = Tracer().trace(root)
    return graph, {name for name, value in named_tensors(root[0]).items() if id(value) in hidden.used}
