"""Weights from a file: as a state dict, in a network, or as a network that only holds them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from prr.checkpoints.files import checked, content
from prr.checkpoints.names import clean, fitted, shape
from prr.checkpoints.skeletons import skeleton
from prr.errors import NetworkError


def read(
    path: Path | str, names: Mapping[str, Tensor] | None = None, key: str | None = None, strip: str | None = None
) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a .safetensors file, of one that torch.save wrote, or of the shards that an index names.

    Args:
        path: the file. Pickled code in it is refused, never run.
        names: and tensors of the network that they are for. Of several sets of tensors the one is taken that fits
            best, and what stands before its names or theirs is dropped or added. Without a network, what usually stands
            there is dropped if it stands before all of them.
        key: of the set to take, where a file holds several: `ema`, or `model.ema`; `.` joins all of them.
        strip: what stands before the names to take, and is dropped.

    Returns:
        The state dict, and what was unwrapped or noticed, in words. Numbers of fewer than 32 bits are widened unless
        those in `names` are of that type, and quantised ones dequantised.

    Raises:
        DataError: no such file; truncated; no file of weights, or pickled objects other than tensors; several sets that
            fit alike; integers, sparse tensors or none at all where floating-point numbers are expected.

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
        ({'weight': (1, 2), 'bias': (1,)}, ["unwrapped 'state_dict'", "left out: 'epoch'"])
    """
    path, own = Path(path), names or {}
    held, notes = content(path)
    state, told = fitted(path, held, own, key, strip)
    return state, [*notes, *told, *checked(path, state, own)]


def load(model: nn.Module, path: Path | str, key: str | None = None, strip: str | None = None) -> list[str]:
    """Load a file's weights into a network, in place; returns the notes of `read`, and what the network lacks.

    Args:
        model: the network.
        path, key, strip: as in `read`.

    Raises:
        DataError: as `read`.
        NetworkError: no network; the file lacks tensors of it, or has them in other shapes: it is left as it was.

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
    own = _own(model)
    state, notes = read(path, own, key, strip)
    common = [name for name in own if name in state]
    fitting = OrderedDict((name, state[name]) for name in common if shape(own[name]) in (None, state[name].shape))
    if wrong := [name for name in own if name not in fitting and not name.endswith("num_batches_tracked")]:
        expected, found = (tuple(shape(side[wrong[0]]) or ()) if wrong[0] in side else "none" for side in (own, state))
        raise NetworkError(
            f"{path}: does not fit {type(model).__name__} in {len(wrong)} tensors, {wrong[0]} among them: expected "
            f"{expected}, found {found}; build the network as it was when they were saved"
        )
    versions = model.state_dict()._metadata  # where a file says none, its modules are as new as the network's
    fitting._metadata = {owner: state._metadata.get(clean(owner), version) for owner, version in versions.items()}
    model.load_state_dict(fitting, strict=False)  # old files lack num_batches_tracked
    if extra := [name for name in state if name not in own]:
        notes.append(f"{len(extra)} tensors that the network lacks are left out, {extra[0]} among them")
    return notes


def source(
    model: nn.Module, path: Path | str, key: str | None = None, strip: str | None = None
) -> tuple[nn.Module, list[str]]:
    """A network that gives a file's weights: `model`, loaded, or where they do not fit it the file's skeleton.

    Args:
        model: the network; it says of which type the layers of the skeleton are.
        path, key, strip: as in `read`.

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
        (torch.Size([3, 2]), ['layers guessed from names and shapes, for ... expected (1, 2), found (3, 2); ...'])
    """
    own = _own(model)
    try:
        return model, load(model, path, key, strip)
    except NetworkError as error:
        state, notes = read(path, own, key, strip)
        return skeleton(state, like=model), [*notes, f"layers guessed from names and shapes, for {error}"]


def _own(model: nn.Module) -> dict[str, Tensor]:
    """A network's tensors, as its state dict has them."""
    if not isinstance(model, nn.Module):
        raise NetworkError(f"expected a torch.nn.Module, found {type(model).__name__}; build the network first")
    return {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
