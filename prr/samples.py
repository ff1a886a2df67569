"""Data that a network is scored on: from tensors, a Dataset or a DataLoader to images, targets and units."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from prr.errors import DataError


class Data(Protocol):
    """What a sweep needs to know of its data."""

    images: Tensor  # (n, ...) as the network takes them
    masks: Tensor  # (n, ...) what the score compares the output with: label maps, labels or numbers
    patient: Tensor  # (n,) the unit of each image; intervals resample units


class Samples(NamedTuple):
    """The plain form of `Data`."""

    images: Tensor
    masks: Tensor
    patient: Tensor


def samples(data: Data | tuple | list | Dataset | DataLoader) -> Data:
    """Bring data into the form that a sweep takes.

    Args:
        data: an object with `images`, `masks` and `patient`, which comes back as it is; or tensors (images, targets)
            or (images, targets, units); or a Dataset or DataLoader that gives such pairs or triples, all of which is
            read into memory. Without units each image is its own.

    Raises:
        DataError: what is missing, of another type or length, empty, or not finite.

    Example:
        >>> import torch
        >>> from prr.samples import samples
        >>> samples((torch.zeros(3, 1, 8, 8), torch.tensor([0, 1, 1]))).patient
        tensor([0, 1, 2])
    """
    if not all(hasattr(data, name) for name in Samples._fields):
        if isinstance(data, Dataset) and not isinstance(data, DataLoader):
            data = DataLoader(data, batch_size=64, generator=torch.Generator())  # leaves the global generator alone
        data = _together(data) if isinstance(data, DataLoader) else data
        if not isinstance(data, tuple | list) or len(data) not in (2, 3):
            raise DataError(
                "data: expected (images, targets) or (images, targets, units) as tensors, a Dataset or DataLoader of "
                f"them, or images, masks and patient as attributes; found {_described(data)}"
            )
        units = [torch.arange(len(each)) for each in data[:1] if isinstance(each, Tensor) and each.ndim]
        data = [each.detach() if isinstance(each, Tensor) and each.requires_grad else each for each in data]
        data = Samples(*data) if len(data) == 3 else Samples(*data, *(units or [None]))
    check_data(data)
    return data


def check_data(data: Data) -> None:
    """Refuse data that no score could make sense of.

    Raises:
        DataError: what is missing, of another type or length, empty, or not finite.
    """
    for name in Samples._fields:
        value = getattr(data, name, None)
        if not isinstance(value, Tensor):
            raise DataError(f"data.{name}: expected a torch tensor, found {type(value).__name__}")
        if value.is_meta or (value.is_complex() and name != "images") or value.layout != torch.strided:
            raise DataError(f"data.{name}: expected plain numbers, found {value.dtype}, {value.layout}, {value.device}")
        if value.ndim == 0 or len(value) != len(data.images) or (name == "patient" and value.ndim > 1):
            raise DataError(
                f"data.{name}: expected one for each of {len(data.images)} images, found {tuple(value.shape)}"
                if data.images.ndim
                else "data.images: expected images one behind the other, found a single number"
            )
    if not len(data.images):
        raise DataError("data.images: expected at least one to score, found none")
    for name in ("images", "masks"):
        if not torch.isfinite(getattr(data, name)).all():
            raise DataError(f"data.{name}: expected finite values, found NaN or infinity; mend or leave out those")


def _together(loader: DataLoader) -> list:
    """Batches one behind the other, field by field."""
    try:
        batches = list(loader)
        if batches and all(isinstance(batch, tuple | list) for batch in batches):
            return [torch.cat(field) for field in zip(*batches, strict=True)]
    except (TypeError, RuntimeError, ValueError) as error:
        raise DataError(f"data: expected tensors of one shape for each image, found: {error}") from error
    found = f"{type(batches[0]).__name__} alone" if batches else "nothing"
    raise DataError(f"data: expected at least one image with its target, (image, target), found {found}")


def _described(data: object) -> str:
    if isinstance(data, tuple | list):
        return f"{len(data)} of {', '.join(sorted({type(each).__name__ for each in data}))}"
    return type(data).__name__
