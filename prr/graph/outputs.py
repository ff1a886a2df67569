"""Which tensor of what a network gives is meant: networks give dicts, tuples and lists of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from prr.errors import NetworkError, OptionError

Path = tuple[str | int, ...]  # keys and places that lead to a tensor, () where the output is one itself
NAMES = ("out", "logits", "prediction", "predictions", "pred", "preds")  # of what a network is trained to give


def tensors_of(output: Any, above: Path = ()) -> dict[Path, Tensor]:
    """All tensors of an output, by the way to them."""
    if isinstance(output, Tensor):
        return {above: output}
    found: dict[Path, Tensor] = {}
    for key, value in _items(output):
        found |= tensors_of(value, (*above, key))
    return found


def _items(output: Any) -> list[tuple[str | int, Any]]:
    if isinstance(output, Mapping):
        return list(output.items())
    if isinstance(output, tuple | list):
        return list(zip(getattr(output, "_fields", range(len(output))), output, strict=True))  # of a namedtuple
    return []


def select(output: Any, path: Path) -> Any:
    """What stands at the end of a path."""
    for key in path:
        output = getattr(output, key) if isinstance(output, tuple) and isinstance(key, str) else output[key]
    return output


def path_of(
    output: Any, asked: str | int | Path | None = None, fits: Callable[[Tensor], bool] = lambda _: True
) -> Path:
    """The tensor that counts: the one that was asked for, or the only one, or one that is beyond doubt.

    Beyond doubt are a tensor under one of `NAMES`, the only one that fits the targets, and the first of a deep
    supervision: a list of tensors with the same channels whose sizes fall.

    Args:
        output: what the network gives.
        asked: a key or place, or a tuple of them where outputs are nested.
        fits: whether a tensor has the shape that the targets ask for.

    Raises:
        OptionError: there is no tensor where one was asked for.
        NetworkError: no tensor at all, or several that could be meant; they are listed.

    Example:
        >>> import torch
        >>> from prr.graph.outputs import path_of
        >>> path_of({"aux": torch.zeros(1, 3), "out": torch.zeros(1, 3)}), path_of(torch.zeros(1))
        (('out',), ())
    """
    tensors = tensors_of(output)
    shapes = ", ".join(f"{words(path)} {tuple(value.shape)}" for path, value in tensors.items())
    if asked is not None:
        path = tuple(asked) if isinstance(asked, tuple | list) else (asked,)
        if path not in tensors:
            raise OptionError(f"output={asked!r}: expected one of {shapes}")
        return path
    if not tensors:
        raise NetworkError(f"output: expected a tensor, or a dict or tuple of tensors, found {type(output).__name__}")
    named = {path: value for path, value in tensors.items() if path and path[0] in NAMES}
    for candidates in (tensors, named, {path: value for path, value in (named or tensors).items() if fits(value)}):
        if len(candidates) == 1:
            return next(iter(candidates))
        if _falling(candidates):
            return next(iter(candidates))
    raise NetworkError(
        f"output: expected one tensor, found {shapes}; say which one is scored: output={words(next(iter(tensors)))}"
    )


def _falling(tensors: dict[Path, Tensor]) -> bool:
    """Whether these are outputs of one list, of the same channels, whose sizes fall."""
    sizes = [value.shape[2:] for value in tensors.values()]
    one_list = len({path[:-1] for path in tensors}) == 1 and all(isinstance(path[-1], int) for path in tensors if path)
    alike = len({value.shape[:2] for value in tensors.values()}) == 1 and all(sizes)
    return one_list and alike and sizes[0] != sizes[-1] and all(a >= b for a, b in itertools.pairwise(sizes))


def words(path: Path) -> str:
    """A path as it is asked for."""
    return repr(path[0] if len(path) == 1 else path)
