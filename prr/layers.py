"""The table of a network's layers: which tensors can be swapped, what they are called, which of them ever run."""

from __future__ import annotations

import copy
from collections.abc import Collection

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from prr.errors import NetworkError, OptionError

# kind -> (family, attribute of the module). Layers are numbered within their family. `num_batches_tracked` is a
# counter, not a parameter of the function, and is never swapped.
KINDS = {
    "W": (_ConvNd, "weight"),
    "B": (_ConvNd, "bias"),
    "RM": (_BatchNorm, "running_mean"),
    "RV": (_BatchNorm, "running_var"),
    "RW": (_BatchNorm, "weight"),
    "RB": (_BatchNorm, "bias"),
}
ALL = tuple(KINDS)
FAMILIES = (_ConvNd, _BatchNorm)


def parameter_table(model: nn.Module, example: Tensor | None = None) -> pd.DataFrame:
    """List the swappable tensors of a network, one row per kind and layer.

    Args:
        model: any network; it is not changed, not even its mode.
        example: one input batch. With it the table says which layers a forward pass in eval mode touches.

    Returns:
        DataFrame[kind, layer, name, shape, size(, live)]. `kind` is W, B (convolution), RM, RV, RW or RB (batch norm);
        `layer` counts from 1 within all convolutions or all batch norms, in order of registration, whatever the order
        of the rows; `name` is the module's, as in `named_modules()`; `size` counts numbers. Rows stand in order of
        registration; with an example live layers come first, in order of execution, then those that never run.

    Raises:
        NetworkError: the network has no convolution and no batch norm, or refuses the example.
    """
    check_module(model)
    rows = []
    for family in FAMILIES:
        members = [(name, module) for name, module in model.named_modules() if isinstance(module, family)]
        for layer, (name, module) in enumerate(members, start=1):
            for kind, (owner, attribute) in KINDS.items():
                if owner is family and (value := getattr(module, attribute)) is not None:
                    tensor(model, kind, name)  # refuses one that can't be replaced
                    rows.append((kind, layer, name, tuple(value.shape), value.numel()))
    if not rows:
        raise NetworkError(f"{type(model).__name__}: expected convolutions or batch norms, found neither")
    table = pd.DataFrame(rows, columns=["kind", "layer", "name", "shape", "size"])
    order = {name: position for position, (name, _) in enumerate(model.named_modules())}
    if example is not None:
        executed = execution_order(model, example)
        table["live"] = table["name"].isin(executed)
        order |= {name: position - len(executed) for position, name in enumerate(executed)}
    return table.sort_values("name", key=lambda names: names.map(order), kind="stable", ignore_index=True)


def execution_order(model: nn.Module, example: Tensor) -> list[str]:
    """Names of the modules that a forward pass in eval mode calls, in order of their first call."""
    probe = copy.deepcopy(model).eval()
    executed: dict[str, None] = {}
    for name, module in probe.named_modules():
        module.register_forward_pre_hook(lambda *_, name=name: executed.setdefault(name))
    forward(probe, example)
    return list(executed)


def forward(model: nn.Module, example: Tensor) -> None:
    """Let a network see a batch, without gradients.

    Raises:
        NetworkError: whatever the network says of the batch.
    """
    try:
        with torch.no_grad():
            model(example)
    except Exception as error:
        found = f"of shape {tuple(example.shape)}" if isinstance(example, Tensor) else type(example).__name__
        raise NetworkError(
            f"{type(model).__name__}: a forward pass on the example {found} failed with {type(error).__name__}: "
            f"{error}; pass one batch as the network takes it, on its own device"
        ) from error


def tensor(model: nn.Module, kind: str, name: str) -> Tensor:
    """The live tensor (no copy) of one kind in the module called `name`.

    Raises:
        OptionError: an unknown kind.
        NetworkError: no such module, or the module has no such tensor.
    """
    check_kinds([kind])
    family, attribute = KINDS[kind]
    module = dict(model.named_modules()).get(name)
    value = getattr(module, attribute, None) if isinstance(module, family) else None
    if value is None:
        raise NetworkError(f"{name}.{attribute} ({kind}): not in {type(model).__name__}")
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
        NetworkError: tells the type that was found.
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


def comparable(target: nn.Module, source: nn.Module, example: Tensor | None = None) -> pd.DataFrame:
    """The target's parameter table, once every row of it is known to have its like in the source.

    Returns:
        `parameter_table(target, example)`.

    Raises:
        NetworkError: a tensor that the source lacks or has in another shape, or NaN or infinite numbers in either.
    """
    table = parameter_table(target, example)
    both = parameter_table(source).merge(table[["kind", "name"]], how="left", indicator=True)
    for row in both[both["_merge"] == "left_only"].itertuples():
        raise NetworkError(
            f"{row.name}.{KINDS[row.kind][1]}: target has none, source {row.shape}; both must be the same network "
            "(unwrap DataParallel by .module)"
        )
    for kind, name, shape in table[["kind", "name", "shape"]].itertuples(index=False):
        label = f"{name}.{KINDS[kind][1]}"
        theirs = tensor(source, kind, name)
        if tuple(theirs.shape) != shape:
            raise NetworkError(
                f"{label}: target {shape}, source {tuple(theirs.shape)}; both must be the same network (same width, "
                "same classes)"
            )
        for owner, value in (("target", tensor(target, kind, name)), ("source", theirs)):
            if not torch.isfinite(value).all():
                raise NetworkError(
                    f"{label}: the {owner} has NaN or infinite values; its training has diverged, train it again with "
                    "a smaller learning rate"
                )
            if kind == "RV" and (value < 0).any():
                raise NetworkError(f"{label}: the {owner} has negative variances; load it again from its file")
    return table
