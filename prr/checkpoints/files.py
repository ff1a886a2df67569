"""A file of weights: opened without running anything in it, and what of its tensors is refused or widened."""

from __future__ import annotations

import json
import re
import warnings
from collections import Counter, OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from prr.errors import DataError

WEB = "a web page; download the file itself, logged in if need be"
IMPOSTORS = {  # the first bytes, in lower case, of what is taken for weights at times
    b"<!doctype": WEB,
    b"<html": WEB,
    b"<?xml": WEB,
    b"version https://git-lfs": "a Git LFS pointer; get the file itself with `git lfs pull`",
    b"\x89hdf": "an HDF5 file; read it with its own library and save the weights with torch.save",
}
# Read as `Foreign`; numpy 1 and 2 call the first two differently
HARMLESS = (
    "numpy.core.multiarray._reconstruct", "numpy.core.multiarray.scalar", "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar", "numpy.ndarray", "numpy.dtype", "argparse.Namespace",
)  # fmt: skip
SCALES = re.compile("scale|scb|absmax", re.IGNORECASE)  # what quantised weights are to be multiplied with


class Foreign:
    """What a file says of a number or an array of numpy, or of settings of argparse; nobody asks for it.

    numpy itself would trust the file: a wrong dtype makes it read and free memory that is not its own.
    """

    def __init__(self, *arguments: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def content(path: Path) -> tuple[Any, list[str]]:
    """What a file holds, or all the shards that an index names, and what there is to say about it."""
    return _sharded(path) if path.suffix == ".json" and path.is_file() else _single(path)


def _sharded(path: Path) -> tuple[OrderedDict[str, Tensor], list[str]]:
    """All shards of an index, as Hugging Face writes it: {"weight_map": {name: file}}."""
    try:
        places = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        shards = sorted({path.with_name(shard) for shard in places.values()})
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        found = "JSON without a weight_map of names and files; give the file of weights itself"
        raise DataError(f"{path}: expected an index of shards, found {found}") from error
    state, notes = OrderedDict(), []
    for shard in shards:
        part, notes = _single(shard)
        state.update(part)
    if missing := [name for name in places if name not in state]:
        raise DataError(
            f"{path}: expected {missing[0]} in {places[missing[0]]}, found a shard without it ({len(missing)} tensors "
            "are missing); download the shards and the index again"
        )
    return (_in_natural_order(state) if notes else state), notes


def _single(path: Path) -> tuple[Any, list[str]]:
    """What one file holds, whatever its name ends with."""
    if not path.is_file():
        found = "a folder; give the file in it" if path.is_dir() else "nothing; correct the path, or download it too"
        raise DataError(f"{path}: expected a file of weights, found {found}")
    with path.open("rb") as file:
        head = file.read(256)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= 100_000_000:  # a JSON dict behind its length
        return _safetensors(path)
    for beginning, found in IMPOSTORS.items():
        if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(beginning):
            raise DataError(f"{path}: expected weights, found {found}")
    return _pickled(path), []


def _safetensors(path: Path) -> tuple[OrderedDict[str, Tensor], list[str]]:
    try:
        state = load_file(path)
    except Exception as error:  # a part of such a file can be wrong in any way
        raise DataError(f"{path}: expected a whole safetensors file, found {error}; save it again") from error
    return _in_natural_order(state), ["layers numbered by name, for safetensors keeps no order"]


def _in_natural_order(state: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
    parts = {name: re.split(r"(\d+)", name) for name in state}  # words and numbers in turn
    natural = sorted(state, key=lambda name: [int(part) if part.isdecimal() else part for part in parts[name]])
    return OrderedDict((name, state[name]) for name in natural)


def _pickled(path: Path) -> Any:
    known = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()  # what the caller or another package allows might run code
    torch.serialization.add_safe_globals([(Foreign, name) for name in HARMLESS])
    try:
        with warnings.catch_warnings(), path.open("rb") as file:  # of a path, torch looks at the ending too
            warnings.simplefilter("ignore")  # of a pickle's protocol: what can't be read is refused anyway
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a part of a pickle makes torch raise whatever comes
        raise DataError(f"{path}: {_refusal(error)}") from error
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(known)


def _refusal(error: Exception) -> str:
    """Why torch did not read a file, and what to do."""
    text = str(error)
    code = re.search(r"GLOBAL ([\w.]+)|(?:class|function) ([\w.]+)", text)
    if not code and "TorchScript" not in text:
        return "expected a whole file of weights, found another or a part of one; none of it was run; save it again"
    found = f"pickled objects ({code[1] or code[2]})" if code else "a TorchScript archive"
    return (
        f"expected tensors alone, found {found}, which can run code when it is loaded: refused; where you trust it, "
        "save its state_dict() alone and use that"
    )


def checked(path: Path, state: dict[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """Refuse what can't take the place of a network's own tensors; dequantise and widen the rest in place; notes."""
    scaled = {name.rpartition(".")[0] for name in state if name not in own and SCALES.search(name.rpartition(".")[2])}
    changes = Counter()
    for name, found in state.items():
        value, target = found.dequantize() if found.is_quantized else found, own.get(name)
        if wrong := _wrong(name, value, target, scaled):
            raise DataError(f"{path}: {name}: {wrong}")
        if value.is_floating_point() and value.itemsize < 4 and (target is None or target.dtype != value.dtype):
            value = value.float()
        if value is not found:
            changes[found.dtype, value.dtype] += 1
            state[name] = value
    return [f"converted {count} tensors from {before} to {after}" for (before, after), count in changes.items()]


def _wrong(name: str, value: Tensor, target: Tensor | None, scaled: set[str]) -> str | None:
    """Why a tensor can't be taken, and what to do."""
    if value.layout != torch.strided:
        return f"expected a dense tensor, found {value.layout}; save what its to_dense() gives"
    if value.is_meta:
        return "expected numbers, found none (device meta); load the network's weights before you save it"
    owner, _, attribute = name.rpartition(".")
    expected = found = _numbers(value)
    if target is not None and attribute != "num_batches_tracked":  # which an average of networks has as a fraction
        expected = _numbers(target)
    elif attribute in ("weight", "bias") and found == "integers":  # others are indices
        expected = "floating-point numbers"
    if value.is_floating_point() and value.itemsize == 1 and ("float4" in str(value.dtype) or {owner, name} & scaled):
        expected, found = "numbers as they are", "quantised"
    if expected == found:
        return None
    remedy = "dequantise the network with what has quantised it, or save it with such numbers"
    return f"expected {expected}, found {value.dtype} ({found}); {remedy}"


def _numbers(value: Tensor) -> str:
    """Which numbers a tensor holds."""
    if value.is_complex():
        return "complex numbers"
    return "floating-point numbers" if value.is_floating_point() else "integers"
