"""Labelled slices and their split by patient."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from prr.data.labels import LABELS, matched
from prr.errors import DataError

TENSORS = {"images": (torch.float32, 4), "masks": (torch.uint8, 3), "patient": (torch.int64, 1)}  # type and axes


@dataclass(frozen=True, eq=False, repr=False)
class Slices:
    """Images with their labels and patients; split by patient, never by slice.

    Args:
        images: (n, channels, h, w) float32, finite.
        masks: (n, h, w) uint8, values of `labels` (or `ignore`).
        patient: (n,) int64, the number of the patient that each slice shows.
        spacing_mm: in-plane distance of pixel centres, mm.
        name: the data set, "ACDC" for one.
        held_out: patients of `validation`; None holds out half of them at random (seed 0).
        phantom: True if the images were made, not measured.
        labels: {value in a mask: name}; by default 0 background, 1 RV cavity, 2 myocardium, 3 LV cavity.
        ignore: value in masks of pixels that are not counted; None: all are.

    `train` and `validation` are Slices in turn, and final: `x.train.train` is all of `x.train`,
    `x.validation.validation` all of `x.validation`, while `x.train.validation` raises as an empty one does.

    Raises:
        DataError: a shape, a dtype, a label or a value is not as above, or a half has no patient.

    Example:
        >>> import torch
        >>> from prr.data import Slices
        >>> found = Slices(
        ...     images=torch.zeros(5, 1, 64, 64),
        ...     masks=torch.zeros(5, 64, 64, dtype=torch.uint8),
        ...     patient=torch.tensor([1, 1, 1, 2, 2]),
        ...     spacing_mm=1.5,
        ...     name="mine",
        ...     held_out=(2,),
        ... )
        >>> found.train
        Slices(mine: 3 slices of 1 patients, 64 x 64 at 1.5 mm)
        >>> found.validation.patient.tolist()
        [2, 2]
    """

    images: Tensor
    masks: Tensor
    patient: Tensor
    spacing_mm: float
    name: str
    held_out: tuple[int, ...] | None = None
    phantom: bool = False
    labels: Mapping[int, str] = field(default_factory=lambda: LABELS)
    ignore: int | None = None

    def __post_init__(self) -> None:
        for name, (dtype, axes) in TENSORS.items():
            value = getattr(self, name)
            if not isinstance(value, Tensor) or value.dtype != dtype or value.ndim != axes:
                found = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
                raise DataError(f"{self.name}: {name}: expected a {dtype} tensor with {axes} axes, found {found}")
        n, channels, height, width = self.images.shape
        if n == 0 or channels == 0:
            raise DataError(
                f"{self.name}: images: expected (n >= 1, channels >= 1, h, w), found {tuple(self.images.shape)}"
            )
        if self.masks.shape != (n, height, width) or self.patient.shape != (n,):
            raise DataError(
                f"{self.name}: expected masks {(n, height, width)} and patient {(n,)} for images "
                f"{tuple(self.images.shape)}, found {tuple(self.masks.shape)} and {tuple(self.patient.shape)}"
            )
        if not torch.isfinite(self.images).all():
            raise DataError(f"{self.name}: images: expected finite values, found NaN or infinity")
        if self.labels.get(0) is None or len(self.labels) < 2:
            raise DataError(f"{self.name}: labels: expected {{0: 'background', 1: ...}}, found {dict(self.labels)}")
        counted = self.masks if self.ignore is None else self.masks.where(self.masks != self.ignore, 0)
        if counted.max() > max(self.labels):
            raise DataError(f"{self.name}: masks: expected labels 0 to {max(self.labels)}, found {int(counted.max())}")
        if not self.spacing_mm > 0:
            raise DataError(f"{self.name}: spacing_mm: expected more than 0, found {self.spacing_mm}")
        if self.held_out is not None:
            held_out = tuple(sorted({int(p) for p in self.held_out}))
            if strangers := set(held_out) - set(self.patient.tolist()):
                raise DataError(f"{self.name}: held_out: expected patients of these slices, found {sorted(strangers)}")
            object.__setattr__(self, "held_out", held_out)

    @property
    def classes(self) -> int:
        """How many outputs a network needs for these labels, background among them."""
        return max(self.labels) + 1

    @property
    def train(self) -> "Slices":
        """The slices of patients that are not held out."""
        return self._half(held_out=False)

    @property
    def validation(self) -> "Slices":
        """The slices of held-out patients."""
        return self._half(held_out=True)

    def _half(self, held_out: bool) -> "Slices":
        patients = split(self.patient) if self.held_out is None else self.held_out
        keep = torch.isin(self.patient, torch.tensor(patients, dtype=torch.int64, device=self.patient.device))
        keep = keep if held_out else ~keep
        if not keep.any():
            raise DataError(
                f"{self.name}: expected patients {'' if held_out else 'not '}held out, found none among "
                f"{len(self.patient.unique())} patients; choose another split or held_out"
            )
        return self._kept(keep, held_out=tuple(self.patient[keep].unique().tolist()) if held_out else ())

    def relabelled(self, labels: Mapping[int, str]) -> "Slices":
        """The same slices with masks in another data set's numbering: matched by name, what it has not is background.

        Raises:
            DataError: no label in common.
        """
        numbers = matched(self.labels, labels, self.name)
        table = torch.zeros(256, dtype=torch.uint8)
        table[list(numbers)] = torch.tensor(list(numbers.values()), dtype=torch.uint8)
        if self.ignore is not None:
            table[self.ignore] = self.ignore
        return replace(self, masks=table[self.masks.long()], labels=dict(labels))

    def every(self, step: int) -> "Slices":
        """Each `step`-th slice of every patient, the first among them: the same patients by less work."""
        patient = pd.Series(self.patient.numpy(force=True))
        return self._kept(torch.tensor(patient.groupby(patient).cumcount().to_numpy()) % step == 0)

    def _kept(self, keep: Tensor, **fields) -> "Slices":
        """The slices where `keep` is true, with other `fields`."""
        return replace(self, images=self.images[keep], masks=self.masks[keep], patient=self.patient[keep], **fields)

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        n, _, height, width = self.images.shape
        return (
            f"Slices({self.name}{', phantom' if self.phantom else ''}: {n} slices of "
            f"{len(self.patient.unique())} patients, {height} x {width} at {self.spacing_mm:g} mm)"
        )


def describe(*data: Slices) -> pd.DataFrame:
    """What some data sets hold, a row each.

    Returns:
        DataFrame[data set, origin, patients, held out, slices, pixels, spacing_mm, ...] and a column for each label,
        with its share of all pixels.

    Example:
        >>> import tempfile
        >>> from prr.data import describe, read_acdc, read_rvsc, write_phantom
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     root = write_phantom(f"{folder}/data", {"acdc": 2, "rvsc": 2})
        ...     found = describe(read_acdc(root / "acdc"), read_rvsc(root / "rvsc"))
        >>> found[["data set", "origin", "patients", "held out", "pixels"]]
          data set   origin  patients  held out     pixels
        0     ACDC  phantom         2         1  128 x 128
        1     RVSC  phantom         2         1  128 x 128
    """
    rows = []
    for each in data:
        shares = torch.bincount(each.masks.flatten().long(), minlength=each.classes) / each.masks.numel()
        channels = "" if each.images.shape[1] == 1 else f", {each.images.shape[1]} channels"
        rows.append(
            {
                "data set": each.name,
                "origin": "phantom" if each.phantom else "real",
                "patients": len(each.patient.unique()),
                "held out": len(each.validation.patient.unique()),
                "slices": len(each),
                "pixels": "{} x {}".format(*each.images.shape[-2:]) + channels,
                "spacing_mm": each.spacing_mm,
                **{name: round(shares[label].item(), 3) for label, name in each.labels.items() if label},
            }
        )
    return pd.DataFrame(rows)


def split(patient: Sequence[int] | Tensor, seed: int = 0) -> tuple[int, ...]:
    """Half of the patients, drawn at random to be held out: the same for the same set of patients and seed.

    Args:
        patient: patient numbers, in any order, repeated or not.
        seed: of the draw.

    Returns:
        The held-out patients, ascending.

    Example:
        >>> from prr.data import split
        >>> len(split(range(100))), split([1, 2, 2, 3, 4]) == split([4, 3, 2, 1])
        (50, True)
    """
    patients = np.unique(np.asarray(patient.cpu() if isinstance(patient, Tensor) else patient, dtype=np.int64))
    drawn = np.random.default_rng(seed).permutation(patients)[: round(len(patients) / 2)]
    return tuple(sorted(drawn.tolist()))
