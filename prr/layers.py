"""The table of a network's layers: which tensors can be swapped, what they are called, which of them ever run."""

from __future__ import annotations

import inspect
import itertools
import math
import re
import warnings
from collections.abc import Collection, Iterable, Iterator
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from prr.copies import copied, effective
from prr.errors import NetworkError, OptionError


class _AllBuffers(type):
    def __instancecheck__(cls, module: object) -> bool:
        return {"weight", "bias", "running_mean", "running_var"} <= set(getattr(module, "_buffers", {}))


class FrozenBatchNorm(metaclass=_AllBuffers):
    """Any module with the four tensors of a batch norm as buffers, which each library writes for itself."""


class Kind(NamedTuple):
    """What tensors of a kind are.

    Args:
        words: what they are called.
        family: the modules that have them. Layers are numbered within their family.
        attribute: their name in the module; a pattern, where a module may have several.
        several: whether it may. Each of them is then a layer of its own, and is called by its own name.
    """

    words: str
    family: tuple[type, ...]
    attribute: str
    several: bool = False


CONVOLUTION, BATCH_NORM, LINEAR = (_ConvNd,), (_BatchNorm, FrozenBatchNorm), (nn.Linear,)
NORM = (nn.LayerNorm, nn.GroupNorm, _InstanceNorm, nn.RMSNorm)
EMBEDDING, ANY = (nn.Embedding, nn.EmbeddingBag), (nn.Module,)
# The first kind that fits has a tensor; `other` has all the rest that a state dict keeps, but for whole numbers:
# counters such as `num_batches_tracked` and indices are no parameters of the function, and never swapped.
KINDS = {
    "W": Kind("kernel", CONVOLUTION, "weight"),
    "B": Kind("bias", CONVOLUTION, "bias"),
    "RM": Kind("running mean", BATCH_NORM, "running_mean"),
    "RV": Kind("running variance", BATCH_NORM, "running_var"),
    "RW": Kind("batch norm weight", BATCH_NORM, "weight"),
    "RB": Kind("batch norm bias", BATCH_NORM, "bias"),
    "LW": Kind("linear weight", LINEAR, "weight"),
    "LB": Kind("linear bias", LINEAR, "bias"),
    "NW": Kind("norm weight", NORM, "weight"),
    "NB": Kind("norm bias", NORM, "bias"),
    "EW": Kind("embedding", EMBEDDING, "weight"),
    "IW": Kind("recurrent layer's weight of the input", ANY, r"weight_ih(_l\d+\w*)?", several=True),
    "HW": Kind("recurrent layer's weight of the state", ANY, r"weight_hh(_l\d+\w*)?", several=True),
    "IB": Kind("recurrent layer's bias of the input", ANY, r"bias_ih(_l\d+\w*)?", several=True),
    "HB": Kind("recurrent layer's bias of the state", ANY, r"bias_hh(_l\d+\w*)?", several=True),
    "AW": Kind("attention's weight of queries, keys and values", ANY, "in_proj_weight|[qkv]_proj_weight", several=True),
    "AB": Kind("attention's bias of queries, keys and values", ANY, "in_proj_bias", several=True),
    "other": Kind("any other tensor", ANY, ".*", several=True),
}
ALL = tuple(KINDS)
KERNELS = ("W", "LW", "EW", "IW", "HW", "AW")  # what a network is judged by


def parameter_table(model: nn.Module, example: Tensor | None = None) -> pd.DataFrame:
    """List the swappable tensors of a network, one row per kind and layer.

    A tensor that stands in several places is counted once. Weights that are computed from others, as under weight norm,
    are listed as they act; see `prr.copies.effective`.

    Args:
        model: any network; it is not changed, not even its mode.
        example: one input batch. With it the table says which tensors a forward pass in eval mode touches.

    Returns:
        DataFrame[kind, layer, name, shape, size(, live)(, shared)]. `kind` is one of `KINDS`: W, B (convolution), RM,
        RV, RW, RB (batch norm, frozen or not), LW, LB (linear), NW, NB (layer, group, instance and RMS norm), EW
        (embedding), IW, HW, IB, HB (recurrent), AW, AB (attention's projections) or other: every other floating-point
        tensor of a state dict. `layer` counts from 1 within its family, in order of registration, whatever the order of
        the rows. `name` is the module's, as in `named_modules()`; where a module may have several tensors of a kind
        (recurrent, attention, other), it is the tensor's own, as in `state_dict()`. `size` counts numbers. Rows stand
        in order of registration; with an example live ones come first, in order of execution, then those that never
        run. `shared` is there if a tensor has several names or is used several times in a pass, and says so in words.

    Raises:
        NetworkError: the network has no floating-point tensor, or refuses the example.

    Example:
        >>> import prr
        >>> from torch import nn
        >>> prr.parameter_table(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)))
          kind  layer name         shape  size
        0    W      1    0  (2, 1, 3, 3)    18
        1    B      1    0          (2,)     2
        2   RM      1    1          (2,)     2
        3   RV      1    1          (2,)     2
        4   RW      1    1          (2,)     2
        5   RB      1    1          (2,)     2
    """
    return live_table(model, None if example is None else [example])


def live_table(model: nn.Module, batches: Iterable[Tensor] | None) -> pd.DataFrame:
    """`parameter_table` of a network that sees several batches: live is what any of them touches."""
    model = effective(model)
    if batches is not None:
        model = copied(model).eval()
    once = {}
    for entry in entries(model):
        once.setdefault(id(entry[-1]), entry)
    if not once:
        raise NetworkError(f"{type(model).__name__}: expected floating-point parameters or buffers, found none")
    names = names_of(model)  # before a pass, which may set buffers anew
    uses = {} if batches is None else used(model, batches, once)
    rows = []
    for key, (kind, layer, name, value) in once.items():
        also = sorted(names[key] - {full_name(kind, name)})
        times = [f"used {uses[key]} times"] if uses.get(key, 1) > 1 else []
        shared = ", ".join([*(f"also {other}" for other in also), *times])
        rows.append((kind, layer, name, tuple(value.shape), value.numel(), key in uses, shared))
    table = pd.DataFrame(rows, columns=["kind", "layer", "name", "shape", "size", "live", "shared"])
    owner = {key: owner_of(kind, name)[0] for key, (kind, _, name, _) in once.items()}
    executed = list(dict.fromkeys(owner[key] for key in uses))
    order = {name: place for place, (name, _) in enumerate(model.named_modules(), start=len(executed))}
    order |= {name: place for place, name in enumerate(executed)}
    table = table.assign(place=[order[owner[key]] for key in once]).sort_values("place", kind="stable")
    table = table.sort_values("live", ascending=False, kind="stable", ignore_index=True).drop(columns="place")
    empty_columns = [] if table["shared"].any() else ["shared"]
    return table.drop(columns=empty_columns if batches is not None else ["live", *empty_columns])


def entries(model: nn.Module) -> Iterator[tuple[str, int, str, Tensor]]:
    """(kind, layer, name, tensor) for every place of a swappable tensor, family by family."""
    modules = list(model.named_modules())
    taken = set()
    for family in dict.fromkeys(kind.family for kind in KINDS.values() if not kind.several):
        members = [(name, module) for name, module in modules if isinstance(module, family)]
        for layer, (name, module) in enumerate(members, start=1):
            for kind, each in KINDS.items():
                if each.family is family and getattr(module, each.attribute, None) is not None:
                    taken.add(full_name(kind, name))
                    yield kind, layer, name, tensor(model, kind, name)
    patterns = {kind: each.attribute for kind, each in KINDS.items() if each.several}
    counts = dict.fromkeys(patterns, 0)
    for owner, module in modules:
        for attribute in own_tensors(module):
            name = f"{owner}.{attribute}".removeprefix(".")
            if name not in taken:
                kind = next(kind for kind, pattern in patterns.items() if re.fullmatch(pattern, attribute))
                counts[kind] += 1
                yield kind, counts[kind], name, tensor(model, kind, name)


def own_tensors(module: nn.Module) -> list[str]:
    """Names of the tensors that a module itself adds to a state dict, but for whole numbers."""
    kept = {name: value for name, value in module._buffers.items() if name not in module._non_persistent_buffers_set}
    return [
        name
        for name, value in (module._parameters | kept).items()
        if value is not None and (value.is_floating_point() or value.is_complex() or value.is_quantized)
    ]


def owner_of(kind: str, name: str) -> tuple[str, str]:
    """Name of the module that a tensor belongs to, and its name there."""
    owner, _, attribute = name.rpartition(".")
    return (owner, attribute) if KINDS[kind].several else (name, KINDS[kind].attribute)


def full_name(kind: str, name: str) -> str:
    """A tensor's name in the state dict, `conv1.weight`."""
    return ".".join(owner_of(kind, name)).removeprefix(".")


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers under all their names."""
    return dict([*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)])


def names_of(model: nn.Module) -> dict[int, set[str]]:
    """All names of each tensor, by its id."""
    names: dict[int, set[str]] = {}
    for name, value in named_tensors(model).items():
        names.setdefault(id(value), set()).add(name)
    return names


READING = {"item", "tolist", "numpy", "__array__", "__float__", "__int__", "__bool__", "__index__"}  # give no tensor


def used(model: nn.Module, batches: Iterable[Tensor], watched: Collection[int]) -> dict[int, int]:
    """How often each tensor, by its id, enters an operation of a forward pass at most; in order of first use.

    Passes end when all have been seen.
    """

    class Watch(TorchFunctionMode):
        """Sees operations, not modules: a weight may be used without its module being called."""

        def __torch_function__(self, function, types, arguments=(), options=None):
            result = function(*arguments, **(options or {}))
            read = getattr(function, "__name__", "") in READING
            if read or isinstance(result, (Tensor, tuple, list)):  # not a question such as weight.dtype
                for value in _flat((arguments, options)):
                    if id(value) in watched:
                        count[id(value)] = count.get(id(value), 0) + 1
            return result

    found: dict[int, int] = {}
    for batch in batches:
        count: dict[int, int] = {}
        with Watch():
            forward(model, batch)
        found |= {key: max(times, found.get(key, 0)) for key, times in count.items()}
        if len(found) == len(watched):
            break
    return found


def _flat(values: object) -> Iterator[object]:
    """What stands in nested lists, tuples and dicts: recurrent layers pass their weights as one list."""
    if isinstance(values, dict):
        values = list(values.values())
    if isinstance(values, tuple | list):
        for value in values:
            yield from _flat(value)
    else:
        yield values


def forward(model: nn.Module, example: Tensor) -> Any:
    """What a network gives for a batch, without gradients.

    Raises:
        NetworkError: whatever the network says of the batch; torch's OutOfMemoryError comes through.
    """
    half = [value.dtype for value in model.parameters() if value.dtype.itemsize < 4 and value.device.type == "cpu"]
    if half:
        raise NetworkError(f"{type(model).__name__}: expected float32 on a CPU, found {half[0]}; call model.float()")
    try:
        with torch.no_grad():
            return model(example.clone() if isinstance(example, Tensor) else example)  # it may write into its input
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        found = f"of shape {tuple(example.shape)}" if isinstance(example, Tensor) else type(example).__name__
        raise NetworkError(
            f"{type(model).__name__}: a forward pass on the example {found} failed with {type(error).__name__}: "
            f"{error}; {_remedy(model, example)}"
        ) from error


def _remedy(model: nn.Module, example: Any) -> str:
    """What to do about a batch that a network refuses."""
    asked = [
        each.name
        for each in inspect.signature(model.forward).parameters.values()
        if each.default is each.empty and each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
    ]
    if len(asked) > 1:
        return (
            f"its forward takes {', '.join(asked)}: judge a network of one input, class One(nn.Module) with "
            "self.network = network and def forward(self, x): return self.network(x[:, :3], x[:, 3:])"
        )
    if isinstance(example, Tensor) and example.dtype == torch.uint8:
        return "the images are whole bytes: pass them as in training, images.float() / 255 perhaps"
    convolution = next((each for each in model.modules() if isinstance(each, CONVOLUTION)), None)
    if isinstance(example, Tensor) and convolution and example.ndim == len(convolution.kernel_size) + 2:
        channels = convolution.in_channels
        if example.shape[1] != channels and example.shape[-1] == channels:
            return "the channels come last: pass images.movedim(-1, 1)"
    return "pass one batch as the network takes it, on its own device"


def device_of(model: nn.Module) -> torch.device:
    """Where the network's parameters lie."""
    return next(itertools.chain(model.parameters(), model.buffers()), torch.empty(0)).device


def tensor(model: nn.Module, kind: str, name: str) -> Tensor:
    """The live tensor (no copy) of one kind in the module called `name`.

    Raises:
        OptionError: an unknown kind.
        NetworkError: no such module, or the module has no such tensor.
    """
    check_kinds([kind])
    owner, attribute = owner_of(kind, name)
    try:
        module = model.get_submodule(owner)
    except AttributeError:
        module = None
    value = getattr(module, attribute, None) if isinstance(module, KINDS[kind].family) else None
    label = f"{full_name(kind, name)} ({kind})"
    if not isinstance(value, Tensor):
        raise NetworkError(f"{label}: not in {type(model).__name__}")
    if is_lazy(value):
        raise NetworkError(f"{label}: not initialised yet; let the network see one batch first")
    if value.is_meta:
        raise NetworkError(f"{label}: lies on the device meta, where tensors have no values; load the weights first")
    if value.is_quantized or value.layout != torch.strided:
        found = value.dtype if value.is_quantized else value.layout
        raise NetworkError(f"{label}: expected a dense tensor of floating-point numbers, found {found}; dequantize it")
    if value is not module._parameters.get(attribute) and value is not module._buffers.get(attribute):
        raise NetworkError(
            f"{label}: computed from other tensors when the network runs, so replacing it would change nothing; make "
            "it a parameter"
        )
    return value


def replace(model: nn.Module, source: nn.Module, kind: str, name: str) -> Tensor:
    """Overwrite one tensor of `model` in place with the source's; returns a copy of what was there."""
    mine = tensor(model, kind, name).data
    own = mine.clone()
    mine.copy_(tensor(source, kind, name))
    return own


def replaced(target: nn.Module, source: nn.Module, kind: str, name: str) -> nn.Module:
    """A copy of the target with one tensor taken from the source."""
    model = copied(target)
    replace(model, source, kind, name)
    return model


def check_kinds(kinds: Collection[str]) -> None:
    """Refuse unknown kinds by name.

    Raises:
        OptionError: names the unknown ones and the known.
    """
    if isinstance(kinds, str):
        raise OptionError(f"kinds={kinds!r}: expected a list, such as [{kinds!r}]")
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise OptionError(f"kind {', '.join(map(repr, unknown))}: expected some of {', '.join(ALL)}")


def common(target: nn.Module, source: nn.Module, table: pd.DataFrame | None = None) -> pd.DataFrame:
    """The rows of the target's parameter table whose tensors the source has too, by name and shape.

    Returns:
        `table`, or the target's parameter table, without what `incomparable` lists.

    Raises:
        NetworkError: nothing in common; NaN, infinite or negative (RV) values in either; a tensor that the target has
            under two names while the source has two tensors there.
    """
    target, source = effective(target), effective(source)
    table, pairs = parameter_table(target) if table is None else table, counterparts(target, source)
    table = table[[pair in pairs for pair in table[["kind", "name"]].itertuples(index=False, name=None)]]
    if table.empty:
        first = incomparable(target, source).iloc[0]
        raise NetworkError(
            f"{type(target).__name__} and {type(source).__name__} have no parameter in common, by name and shape: "
            f"{full_name(first['kind'], first['name'])}: target {first['target']}, source {first['source']}; unwrap "
            "DataParallel by .module, or choose networks that share layers"
        )
    names, theirs = names_of(target), named_tensors(source)
    for (kind, name), values in pairs.items():
        label = full_name(kind, name)
        for owner, value in zip(("target", "source"), values, strict=True):
            if not torch.isfinite(_widened(value)).all():
                raise NetworkError(
                    f"{label}: the {owner} has NaN or infinite values; its training has diverged, train it again with "
                    "a smaller learning rate"
                )
            if kind == "RV" and (value < 0).any():
                raise NetworkError(f"{label}: the {owner} has negative variances; load it again from its file")
        for other in names[id(values[0])] & theirs.keys():
            if not torch.equal(_widened(theirs[other]), _widened(values[1])):
                raise NetworkError(f"{label} and {other}: one tensor in the target, two that differ in the source")
    return table.reset_index(drop=True)


def _widened(value: Tensor) -> Tensor:
    """Eight bits hardly know an operation."""
    return value.float() if value.dtype.itemsize == 1 else value


def counterparts(target: nn.Module, source: nn.Module) -> dict[tuple[str, str], tuple[Tensor, Tensor]]:
    """{(kind, name): (target's tensor, source's)} where both have one, of one shape."""
    theirs = {(kind, name): value for kind, _, name, value in entries(source)}
    return {
        (kind, name): (value, other)
        for kind, _, name, value in entries(target)
        if (other := theirs.get((kind, name))) is not None and other.shape == value.shape
    }


def incomparable(target: nn.Module, source: nn.Module) -> pd.DataFrame:
    """What two networks do not share: a tensor that one of them lacks, or has in another shape.

    Returns:
        DataFrame[kind, name, target, source]: the two shapes, None where there is no such tensor.

    Example:
        >>> import prr
        >>> from torch import nn
        >>> prr.incomparable(nn.Sequential(nn.Linear(5, 2)), nn.Sequential(nn.Linear(5, 3, bias=False)))
          kind name  target  source
        0   LW    0  (2, 5)  (3, 5)
        1   LB    0    (2,)    None
    """
    target, source = effective(target), effective(source)
    ours, theirs = (
        {(kind, name): tuple(value.shape) for kind, _, name, value in entries(model)} for model in (target, source)
    )
    rows = [(*pair, ours.get(pair), theirs.get(pair)) for pair in ours | theirs if ours.get(pair) != theirs.get(pair)]
    return pd.DataFrame(rows, columns=["kind", "name", "target", "source"])


def warn_of_rest(target: nn.Module, source: nn.Module) -> None:
    """Warn the caller's caller that two networks share a part of their layers only."""
    if len(rest := incomparable(target, source)):
        row, numbers = rest.iloc[0], rest["target"].dropna().map(math.prod).sum()
        warnings.warn(
            f"{len(rest)} parameters are not comparable and left out, {numbers / _numbers(target):.1%} of the target, "
            f"{full_name(row['kind'], row['name'])} among them (target {row['target']}, source {row['source']}); "
            "prr.incomparable(target, source) lists them",
            stacklevel=3,
        )


def _numbers(model: nn.Module) -> int:
    return parameter_table(model)["size"].sum()


def comparable(target: nn.Module, source: nn.Module) -> pd.DataFrame:
    """The target's parameter table, once every row of it is known to have its like in the source.

    Returns:
        `parameter_table(target)`.

    Raises:
        NetworkError: as `common`, or a tensor that one of them lacks or has in another shape.
    """
    for row in incomparable(target, source).itertuples():
        raise NetworkError(
            f"{full_name(row.kind, row.name)}: target {row.target or 'has none'}, source {row.source or 'has none'}; "
            "both must be the same network (same width, same classes; unwrap DataParallel by .module)"
        )
    return common(target, source)
