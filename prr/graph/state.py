"""What passes leave in a network: streaming buffers, caches, counters."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


@contextlib.contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Give a network back as it was: its tensors, and its modules' attributes, though not what these hold inside.

    Example:
        >>> import torch
        >>> from prr.graph.state import restored
        >>> norm = torch.nn.BatchNorm1d(1)
        >>> with restored(norm):
        ...     _ = norm(torch.ones(2, 1))
        >>> norm.running_mean.item()
        0.0
    """
    modules = [(module, dict(vars(module)), dict(module._buffers)) for module in model.modules()]
    held = [*model.parameters(), *model.buffers()]
    held += [value for _, attributes, _ in modules for value in attributes.values() if isinstance(value, Tensor)]
    values = [(tensor, tensor.detach().clone()) for tensor in held]
    try:
        yield
    finally:
        for module, attributes, buffers in modules:
            vars(module).clear()
            vars(module).update(attributes)
            module._buffers.clear()
            module._buffers.update(buffers)
        with torch.no_grad():
            for tensor, value in values:
                if not torch.equal(tensor, value):
                    tensor.copy_(value)
