"""torch.fx's record of what a network does to its input, and of what it does out of torch.fx's sight."""

from __future__ import annotations

import copy
import warnings

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate
from torch.overrides import TorchFunctionMode

from prr.layers import named_tensors


class Tracer(fx.Tracer):
    """Cuts a network at torch's own modules; a buffer is seen where it is used, as a parameter is."""

    proxy_buffer_attributes = True


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
    root = nn.Sequential(copy.deepcopy(model))  # takes the images alone, whatever else the network could be given
    root.train(training)
    with warnings.catch_warnings(), torch.no_grad(), OutOfSight() as hidden:
        warnings.simplefilter("ignore")
        graph = Tracer().trace(root)
    return graph, {name for name, value in named_tensors(root[0]).items() if id(value) in hidden.used}
