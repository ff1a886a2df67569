"""The table of a network's layers: which tensors can be swapped, what they are called, which of them ever run."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Collection, Iterator

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from prr.errors import NetworkError, OptionError

CONVOLUTION, BATCH_NORM, LINEAR = (_ConvNd,), (_BatchNorm,), (nn.Linear,)
NORM = (nn.LayerNorm, nn.GroupNorm, _InstanceNorm, nn.RMSNorm)
# kind -> (family, attribute of the module). Layers are numbered within their family. `num_batches_tracked` is a
# counter, not a parameter of the function, and is never swapped.
KINDS = {
    "W": (CONVOLUTION, "weight"),
    "B": (CONVOLUTION, "bias"),
    "RM": (BATCH_NORM, "running_mean"),
    "RV": (BATCH_NORM, "running_var"),
    "RW": (BATCH_NORM, "weight"),
    "RB": (BATCH_NORM, "bias"),
    "LW": (LINEAR, "weight"),
    "LB": (LINEAR, "bias"),
    "NW": (NORM, "weight"),
    "NB": (NORM, "bias"),
}
ALL = tuple(KINDS)
KERNELS = ("W", "LW")  # what a network is judged by


def parameter_table(model: nn.Module, example: Tensor | None = None) -> pd.DataFrame:
    """List the swappable tensors of a network, one row per kind and layer.

    A tensor that stands in several places is counted once. The parts of a `MultiheadAttention` act only together and
    are left alone, as are parameters that belong to no layer (embeddings, scales).

    Args:
        model: any network; it is not changed, not even its mode.
        example: one input batch. With it the table says which tensors a forward pass in eval mode touches.

    Returns:
        DataFrame[kind, layer, name, shape, size(, live)(, shared)]. `kind` is W, B (convolution), RM, RV, RW, RB
        (batch norm), LW, LB (linear) or NW, NB (layer, group, instance and RMS norm); `layer` counts from 1 within
        each of these four families, in order of registration, whatever the order of the rows; `name` is the module's,
        as in `named_modules()`; `size` counts numbers. Rows stand in order of registration; with an example live ones
        come first, in order of execution, then those that never run. `shared` is there if a tensor has several names
        or is used several times in a pass, and says so in words.

    Raises:
        NetworkError: the network has none of these layers, or refuses the example.

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
    check_module(model)
    if example is not None:
        model = copy.deepcopy(model).eval()
    once = {}
    for entry in entries(model):
        once.setdefault(id(entry[-1]), entry)
    if not once:
        raise NetworkError(f"{type(model).__name__}: expected convolutions, linear layers or norms, found none")
    uses = {} if example is None else used(model, example, once)
    names = names_of(model)
    rows = []
    for key, (kind, layer, name, value) in once.items():
        also = sorted(names[key] - {full_name(kind, name)})
        times = [f"used {uses[key]} times"] if uses.get(key, 1) > 1 else []
        shared = ", ".join([*(f"also {other}" for other in also), *times])
        rows.append((kind, layer, name, tuple(value.shape), value.numel(), key in uses, shared))
    table = pd.DataFrame(rows, columns=["kind", "layer", "name", "shape", "size", "live", "shared"])
    executed = list(dict.fromkeys(once[key][2] for key in uses))
    order = {name: place for place, (name, _) in enumerate(model.named_modules(), start=len(executed))}
    order |= {name: place for place, name in enumerate(executed)}
    table = table.sort_values("name", key=lambda names: names.map(order), kind="stable")
    table = table.sort_values("live", ascending=False, kind="stable", ignore_index=True)
    empty_columns = [] if table["shared"].any() else ["shared"]
    return table.drop(columns=empty_columns if example is not None else ["live", *empty_columns])


def entries(model: nn.Module) -> Iterator[tuple[str, int, str, Tensor]]:
    """(kind, layer, name, tensor) for every place of a swappable tensor, family by family."""
    modules = list(model.named_modules())
    attention = tuple(name and f"{name}." for name, module in modules if isinstance(module, nn.MultiheadAttention))
    for family in dict.fromkeys(family for family, _ in KINDS.values()):
        members = [name for name, module in modules if isinstance(module, family) and not name.startswith(attention)]
        for layer, name in enumerate(members, start=1):
            for kind, (owner, attribute) in KINDS.items():
                if owner is family and getattr(model.get_submodule(name), attribute, None) is not None:
                    yield kind, layer, name, tensor(model, kind, name)


def full_name(kind: str, name: str) -> str:
    """A tensor's name in the state dict, `conv1.weight`."""
    return f"{name}.{KINDS[kind][1]}".removeprefix(".")


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers under all their names."""
    return dict([*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)])


def names_of(model: nn.Module) -> dict[int, set[str]]:
    """All names of each tensor, by its id."""
    names: dict[int, set[str]] = {}
    for name, value in named_tensors(model).items():
        names.setdefault(id(value), set()).add(name)
    return names


def used(model: nn.Module, example: Tensor, watched: Collection[int]) -> dict[int, int]:
    """How often each tensor, by its id, enters an operation of a forward pass; in order of first use."""

    class Watch(TorchFunctionMode):
        """Sees operations, not modules: a weight may be used without its module being called."""

        def __torch_function__(self, function, types, arguments=(), options=None):
            result = function(*arguments, **(options or {}))
            if isinstance(result, (Tensor, tuple, list)):  # not a question such as weight.dtype
                for value in (*arguments, *(options or {}).values()):
                    if id(value) in watched:
                        count[id(value)] = count.get(id(value), 0) + 1
            return result

    count: dict[int, int] = {}
    with Watch():
        forward(model, example)
    return count


def forward(model: nn.Module, example: Tensor) -> None:
    """Let a network see a batch, without gradients.

    Raises:
        NetworkError: whatever the network says of the batch; torch's OutOfMemoryError comes through.
    """
    half = [value.dtype for value in model.parameters() if value.dtype.itemsize < 4 and value.device.type == "cpu"]
    if half:
        raise NetworkError(f"{type(model).__name__}: expected float32 on a CPU, found {half[0]}; call model.float()")
    try:
        with torch.no_grad():
            model(example.clone() if isinstance(example, Tensor) else example)  # it may write into its input
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        found = f"of shape {tuple(example.shape)}" if isinstance(example, Tensor) else type(example).__name__
        raise NetworkError(
            f"{type(model).__name__}: a forward pass on the example {found} failed with {type(error).__name__}: "
            f"{error}; pass one batch as the network takes it, on its own device"
        ) from error


def device_of(model: nn.Module) -> torch.device:
    """Where the network's parameters lie."""
    return next(model.parameters()).device


def tensor(model: nn.Module, kind: str, name: str) -> Tensor:
    """The live tensor (no copy) of one kind in the module called `name`.

    Raises:
        OptionError: an unknown kind.
        NetworkError: no such module, or the module has no such tensor.
    """
    check_kinds([kind])
    family, attribute = KINDS[kind]
    try:
        module = model.get_submodule(name)
    except AttributeError:
        module = None
    value = getattr(module, attribute, None) if isinstance(module, family) else None
    if value is None:
        raise NetworkError(f"{name}.{attribute} ({kind}): not in {type(model).__name__}")
    if is_lazy(value):
        raise NetworkError(f"{name}.{attribute} ({kind}): not initialised yet; let the network see one batch first")
    if attribute not in module._parameters and attribute not in module._buffers:
        raise NetworkError(
            f"{name}.{attribute} ({kind}): computed from other tensors (weight or spectral norm), so replacing it "
            "would change nothing; remove the parametrization first"
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
    model = copy.deepcopy(target)
    replace(model, source, kind, name)
    return model


def check_module(model: nn.Module) -> None:
    """Refuse what is no network.

    Raises:
        NetworkError: names the type that was found.
    """
    if not isinstance(model, nn.Module):
        raise NetworkError(
            f"expected a torch.nn.Module, found {type(model).__name__}; load a state dict into its network"
        )


def check_kinds(kinds: Collection[str]) -> None:
    """Refuse unknown kinds by name.

    Raises:
        OptionError: names the unknown ones and the known.
    """
    if isinstance(kinds, str):
        raise OptionError(f"kinds={kinds!r}: expected a list, such as [{kinds!r}]")
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise OptionError(f"kind {', '.join(map(repr, unknown))}: expected some of {', '.join(ALL)}")


def common(target: nn.Module, source: nn.Module, example: Tensor | None = None) -> pd.DataFrame:
    """The rows of the target's parameter table whose tensors the source has too, by name and shape.

    Returns:
        `parameter_table(target, example)` without what `incomparable` lists.

    Raises:
        NetworkError: nothing in common; NaN, infinite or negative (RV) values in either; a tensor that the target has
            under two names while the source has two tensors there.
    """
    table, pairs = parameter_table(target, example), counterparts(target, source)
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
            if not torch.isfinite(value).all():
                raise NetworkError(
                    f"{label}: the {owner} has NaN or infinite values; its training has diverged, train it again with "
                    "a smaller learning rate"
                )
            if kind == "RV" and (value < 0).any():
                raise NetworkError(f"{label}: the {owner} has negative variances; load it again from its file")
        for other in names[id(values[0])] & theirs.keys():
            if not torch.equal(theirs[other], values[1]):
                raise NetworkError(f"{label} and {other}: one tensor in the target, two that differ in the source")
    return table.reset_index(drop=True)


def counterparts(target: nn.Module, source: nn.Module) -> dict[tuple[str, str], tuple[Tensor, Tensor]]:
    """{(kind, name): (target's tensor, source's)} where both have one, of one shape."""
    check_module(source)
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
    check_module(target)
    check_module(source)
    ours, theirs = (
        {(kind, name): tuple(value.shape) for kind, _, name, value in entries(model)} for model in (target, source)
    )
    rows = [(*pair, ours.get(pair), theirs.get(pair)) for pair in ours | theirs if ours.get(pair) != theirs.get(pair)]
    return pd.DataFrame(rows, columns=["kind", "name", "target", "source"])


def warn_of_rest(target: nn.Module, source: nn.Module) -> None:
    """Warn the caller's caller that two networks share a part of their layers only."""
    if len(rest := incomparable(target, source)):
        row = rest.iloc[0]
        warnings.warn(
            f"{len(rest)} parameters are not comparable and left out, {full_name(row['kind'], row['name'])} among them "
            f"(target {row['target']}, source {row['source']}); prr.incomparable(target, source) lists them",
            stacklevel=3,
        )


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
