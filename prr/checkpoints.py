"""Files of weights: read without running any code in them, and compared without the network's code."""

from __future__ import annotations

import pickle
import re
import struct
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from prr.errors import DataError, NetworkError

WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "network", "net", "weights")
ATTENTION = {"in_proj_weight", "in_proj_bias", "q_proj_weight"}  # beside them a MultiheadAttention's own layer
PREFIXES = ("module.", "model.", "_orig_mod.", "network.", "net.")
UNREADABLE = (
    pickle.UnpicklingError, RuntimeError, EOFError, OSError, LookupError, ValueError, TypeError, struct.error
)  # fmt: skip


def read(path: Path | str, names: Collection[str] = ()) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a .safetensors file or of one that torch.save wrote.

    Args:
        path: the file. Pickled code in it is refused, never run.
        names: of the network that they are for. A prefix before every name, "module." for one, is dropped unless some
            of these names begin with it too.

    Returns:
        The state dict, and what was unwrapped or noticed, in words.

    Raises:
        DataError: no such file; truncated; an HTML page; pickled objects other than tensors; no tensors in it.

    Example:
        >>> import tempfile, torch
        >>> from pathlib import Path
        >>> from prr.checkpoints import read
        >>> from torch import nn
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "model.pt")
        ...     torch.save({"state_dict": nn.Linear(2, 1).state_dict(), "epoch": 3}, path)
        ...     state, notes = read(path)
        >>> {name: tuple(value.shape) for name, value in state.items()}, notes
        ({'weight': (1, 2), 'bias': (1,)}, ["unwrapped 'state_dict'"])
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: expected a file of weights, found {'a folder' if path.is_dir() else 'nothing'}")
    with path.open("rb") as file:
        head = file.read(256).lstrip().lower()
    if head.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise DataError(f"{path}: expected weights, found a web page; download the file itself, logged in if need be")
    if path.suffix == ".safetensors":
        return _tensors(path, names, *_safetensors(path))
    return _tensors(path, names, *_unwrapped(_pickled(path)))


def load(model: nn.Module, path: Path | str) -> list[str]:
    """Load a file's weights into a network, in place; returns the notes of `read`.

    Raises:
        DataError: as `read`.
        NetworkError: names or shapes that do not fit the network; it is left as it was.

    Example:
        >>> import tempfile, torch
        >>> from pathlib import Path
        >>> from prr.checkpoints import load
        >>> from torch import nn
        >>> model, other = nn.Linear(2, 1), nn.Linear(2, 1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "model.pt")
        ...     torch.save({f"module.{name}": value for name, value in other.state_dict().items()}, path)
        ...     load(model, path)
        ["dropped 'module.' before every name"]
        >>> torch.equal(model.weight, other.weight)
        True
    """
    own = model.state_dict()
    state, notes = read(path, own)
    found = {name: {each: tuple(side[name].shape) for each, side in (("own", own), ("file", state)) if name in side}
             for name in own | state if not name.endswith("num_batches_tracked")}  # fmt: skip
    wrong = [name for name, shapes in found.items() if shapes.get("own") != shapes.get("file")]
    for name in wrong:
        shapes = found[name]
        raise NetworkError(
            f"{path}: does not fit {type(model).__name__} in {len(wrong)} tensors, {name} among them: expected "
            f"{shapes.get('own', 'none')}, found {shapes.get('file', 'none')}"
        )
    model.load_state_dict(state, strict=False)  # old files lack num_batches_tracked
    return notes


def source(model: nn.Module, path: Path | str) -> tuple[nn.Module, list[str]]:
    """A network that gives a file's weights: `model`, loaded, or where they do not fit it the file's skeleton.

    Returns:
        The network, and what was noticed, in words.

    Raises:
        DataError: as `read`.

    Example:
        >>> import tempfile, torch
        >>> from pathlib import Path
        >>> from prr.checkpoints import source
        >>> from torch import nn
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "model.pt")
        ...     torch.save(nn.Linear(2, 3).state_dict(), path)
        ...     network, notes = source(nn.Linear(2, 1), path)  # another head
        >>> network.weight.shape, notes
        (torch.Size([3, 2]), ['layers guessed from names and shapes, for ... expected (1, 2), found (3, 2)'])
    """
    try:
        return model, load(model, path)
    except NetworkError as error:
        state, notes = read(path, model.state_dict())
        return skeleton(state), [*notes, f"layers guessed from names and shapes, for {error}"]


def skeleton(state: Mapping[str, Tensor]) -> nn.Module:
    """A network that holds a state dict's tensors in layers guessed from names and shapes; it can't run.

    A weight of three dimensions or more is a convolution's, one of two a linear layer's (an embedding looks the same),
    one of one dimension a batch norm's where running statistics stand beside it, else another norm's. What is none of
    these stays outside.

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
    root, owners = nn.Module(), {}
    for name, value in state.items():
        owner, _, attribute = name.rpartition(".")
        owners.setdefault(owner, {})[attribute] = value
    for owner, tensors in owners.items():
        *above, last = owner.split(".")
        attends = ATTENTION & owners.get(".".join(above), {}).keys()
        if (layer := _layer(tensors)) is None or attends:
            continue
        parent = root
        for part in above:
            parent = parent._modules.setdefault(part, nn.Module())
        if owner:
            layer._modules.update(parent._modules.get(last, layer)._modules)
            parent._modules[last] = layer
        else:
            layer._modules.update(root._modules)
            root = layer
    return root


def _layer(tensors: dict[str, Tensor]) -> nn.Module | None:
    """An empty layer of the family that some tensors belong to, filled with them; None where they are of none."""
    weight = tensors.get("weight")
    if "running_mean" in tensors:
        layer = nn.BatchNorm2d(1)
    elif weight is None or not weight.is_floating_point() or weight.ndim == 0:
        return None
    else:
        layer = nn.GroupNorm(1, 1) if weight.ndim == 1 else nn.Linear(1, 1) if weight.ndim == 2 else nn.Conv2d(1, 1, 1)
    for attribute in ("weight", "bias"):
        value = tensors.get(attribute)
        setattr(layer, attribute, None if value is None else nn.Parameter(value, requires_grad=False))
    for attribute in ("running_mean", "running_var"):
        if attribute in tensors:
            setattr(layer, attribute, tensors[attribute])
    return layer


def _safetensors(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    try:
        state = load_file(path)
    except (SafetensorError, ValueError, OSError) as error:
        raise DataError(f"{path}: expected a whole safetensors file, found {error}; save it again") from error
    parts = {name: re.split(r"(\d+)", name) for name in state}  # words and numbers in turn
    natural = sorted(state, key=lambda name: [int(part) if part.isdecimal() else part for part in parts[name]])
    return {name: state[name] for name in natural}, ["layers numbered by name, for safetensors keeps no order"]


def _pickled(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a pickle's protocol: what can't be read is refused anyway
            return torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        if found := re.search(r"GLOBAL ([\w.]+)|(?:class|function) ([\w.]+)", str(error)):
            raise DataError(
                f"{path}: expected tensors alone, found pickled objects ({found[1] or found[2]}), which can run code "
                "when they are loaded: refused; where you trust the file, save its state_dict() alone and use that"
            ) from error
        detail = str(error).split(". ")[0] if isinstance(error, RuntimeError) else "no pickle of tensors"
        raise DataError(
            f"{path}: expected a whole file that torch.save wrote, found something else or a part of one ({detail}); "
            "nothing in it was run; download or save it again"
        ) from error


def _unwrapped(content: Any) -> tuple[Any, list[str]]:
    """The innermost dict that holds tensors, and how it was wrapped."""
    notes = []
    while isinstance(content, Mapping) and not _state(content):
        inner = next((name for name in WRAPPERS if isinstance(content.get(name), Mapping)), None)
        if inner is None:
            break
        content = content[inner]
        notes.append(f"unwrapped {inner!r}")
    return content, notes


def _state(content: Mapping) -> bool:
    """Whether this is a state dict: names and tensors, and no further dicts."""
    return any(isinstance(value, Tensor) for value in content.values()) and not any(
        isinstance(content.get(name), Mapping) for name in WRAPPERS
    )


def _tensors(
    path: Path, names: Collection[str], content: Any, notes: list[str]
) -> tuple[dict[str, Tensor], list[str]]:
    """Named tensors alone, without a prefix that all of them carry."""
    named = content.items() if isinstance(content, Mapping) else ()
    state = {name: value for name, value in named if isinstance(name, str) and isinstance(value, Tensor)}
    if not state:
        raise DataError(f"{path}: expected named tensors, found {type(content).__name__} without any")
    strange = [each for each in PREFIXES if not any(name.startswith(each) for name in names)]
    while prefix := next((each for each in strange if all(name.startswith(each) for name in state)), None):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
        notes = [*notes, f"dropped {prefix!r} before every name"]
    return state, notes
