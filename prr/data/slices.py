"""Labelled slices of cardiac MRI, their split by patient, and the grid that every reader brings them to."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from skimage.draw import polygon2mask
from torch import Tensor

from prr.errors import DataError, OptionError

LABELS = {0: "background", 1: "RV cavity", 2: "myocardium", 3: "LV cavity"}
PHANTOM_MARK = "prr phantom"
NORMALISATIONS = ("zscore", "unit")


@dataclass(frozen=True, eq=False, repr=False)
class Slices:
    """Images with their labels and patients; split by patient, never by slice.

    Args:
        images: (n, 1, h, w) float32, finite.
        masks: (n, h, w) uint8, labels 0 background, 1 RV cavity, 2 myocardium, 3 LV cavity.
        patient: (n,) int64, the number of the patient that each slice shows.
        spacing_mm: in-plane distance of pixel centres, mm.
        name: the data set, "ACDC" for one.
        held_out: patients of `validation`; None holds out half of them at random (seed 0).
        phantom: True if the images were made, not measured.

    `train` and `validation` are Slices in turn, and final: `x.train.train` is all of `x.train`,
    `x.validation.validation` all of `x.validation`, while `x.train.validation` raises as an empty one does.

    Raises:
        DataError: a shape, a dtype, a label or a value is not as above, or a half has no patient.
    """

    images: Tensor
    masks: Tensor
    patient: Tensor
    spacing_mm: float
    name: str
    held_out: tuple[int, ...] | None = None
    phantom: bool = False

    def __post_init__(self) -> None:
        for field, dtype, axes in (
            ("images", torch.float32, 4),
            ("masks", torch.uint8, 3),
            ("patient", torch.int64, 1),
        ):
            value = getattr(self, field)
            if not isinstance(value, Tensor) or value.dtype != dtype or value.ndim != axes:
                found = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
                raise DataError(f"{self.name}: {field}: expected a {dtype} tensor with {axes} axes, found {found}")
        n, channels, height, width = self.images.shape
        if n == 0 or channels != 1:
            raise DataError(f"{self.name}: images: expected (n >= 1, 1, h, w), found {tuple(self.images.shape)}")
        if self.masks.shape != (n, height, width) or self.patient.shape != (n,):
            raise DataError(
                f"{self.name}: expected masks {(n, height, width)} and patient {(n,)} for images "
                f"{tuple(self.images.shape)}, found {tuple(self.masks.shape)} and {tuple(self.patient.shape)}"
            )
        if not torch.isfinite(self.images).all():
            raise DataError(f"{self.name}: images: expected finite values, found NaN or infinity")
        if self.masks.max() > max(LABELS):
            raise DataError(f"{self.name}: masks: expected labels 0 to 3, found {int(self.masks.max())}")
        if not self.spacing_mm > 0:
            raise DataError(f"{self.name}: spacing_mm: expected more than 0, found {self.spacing_mm}")
        if self.held_out is not None:
            held_out = tuple(sorted({int(p) for p in self.held_out}))
            if strangers := set(held_out) - set(self.patient.tolist()):
                raise DataError(f"{self.name}: held_out: expected patients of these slices, found {sorted(strangers)}")
            object.__setattr__(self, "held_out", held_out)

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
        patient = self.patient[keep]
        return replace(
            self,
            images=self.images[keep],
            masks=self.masks[keep],
            patient=patient,
            held_out=tuple(patient.unique().tolist()) if held_out else (),
        )

    def every(self, step: int) -> "Slices":
        """Each `step`-th slice of every patient, the first among them: the same patients by less work."""
        later = torch.arange(len(self.patient))
        first = torch.stack([later[self.patient == patient].min() for patient in self.patient.unique()])
        start = first[torch.searchsorted(self.patient.unique(), self.patient)]
        keep = (later - start) % step == 0
        return replace(self, images=self.images[keep], masks=self.masks[keep], patient=self.patient[keep])

    def to(self, device: torch.device | str) -> "Slices":
        """The same slices on another device."""
        return replace(
            self, images=self.images.to(device), masks=self.masks.to(device), patient=self.patient.to(device)
        )

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
        DataFrame[data set, origin, patients, held out, slices, pixels, spacing_mm, RV cavity, myocardium, LV cavity];
        the last three are shares of all pixels.
    """
    rows = []
    for each in data:
        shares = torch.bincount(each.masks.flatten().long(), minlength=len(LABELS)) / each.masks.numel()
        rows.append(
            {
                "data set": each.name,
                "origin": "phantom" if each.phantom else "real",
                "patients": len(each.patient.unique()),
                "held out": len(each.validation.patient.unique()),
                "slices": len(each),
                "pixels": "{} x {}".format(*each.images.shape[-2:]),
                "spacing_mm": each.spacing_mm,
                **{LABELS[label]: round(shares[label].item(), 3) for label in (1, 2, 3)},
            }
        )
    return pd.DataFrame(rows)


def split(patient: Sequence[int] | Tensor, fraction: float = 0.5, seed: int = 0) -> tuple[int, ...]:
    """Patients to hold out, drawn at random: the same for the same set of patients, fraction and seed.

    Args:
        patient: patient numbers, in any order, repeated or not.
        fraction: share of the patients to hold out, 0 to 1.
        seed: of the draw.

    Returns:
        The held-out patients, ascending.

    Raises:
        OptionError: `fraction` is not within 0 to 1.
    """
    if not 0 <= fraction <= 1:
        raise OptionError(f"fraction: expected 0 to 1, found {fraction}")
    patients = np.unique(np.asarray(patient.cpu() if isinstance(patient, Tensor) else patient, dtype=np.int64))
    drawn = np.random.default_rng(seed).permutation(patients)[: round(len(patients) * fraction)]
    return tuple(sorted(drawn.tolist()))


def choose(
    choice: str | Iterable[int], patients: Sequence[int], seed: int, paper: Iterable[int] | None = None
) -> tuple[int, ...]:
    """Held-out patients of a reader's `split` argument: "paper", "all" or the patients themselves."""
    if isinstance(choice, str):
        if choice not in ("paper", "all"):
            raise OptionError(f'split: expected "paper", "all" or patients to hold out, found {choice!r}')
        if choice == "all":
            return ()
        return split(patients, seed=seed) if paper is None else tuple(paper)
    if not isinstance(choice, Iterable):
        raise OptionError(f'split: expected "paper", "all" or patients to hold out, found {choice!r}')
    return tuple(choice)


def on_grid(
    image: np.ndarray,
    mask: np.ndarray,
    spacing: tuple[float, float],
    *,
    size: int,
    spacing_mm: float,
    normalise: str,
) -> tuple[Tensor, Tensor]:
    """One volume, resampled in-plane, cropped or padded around its centre, and normalised.

    Padding is the image's minimum (air), and background. Statistics are those of all pixels that come back,
    padding included: what the network sees has exactly zero mean and unit variance ("zscore"), or spans [0,
    1] ("unit"). The resampled matrix is rounded to whole pixels: the spacing is true to half a pixel over the
    image.

    Args:
        image: (s, h, w), any real dtype; mask: (s, h, w) labels.
        spacing: mm between rows, mm between columns.
        size: pixels, square; spacing_mm: mm, asked for.
        normalise: "zscore" or "unit".

    Returns:
        (s, 1, size, size) float32 and (s, size, size) uint8.
    """
    if not image.max() > image.min():  # resampling would turn rounding into contrast
        raise DataError(f"expected an image with contrast, found the value {image.min():g} everywhere")
    shape = [max(1, round(n * mm / spacing_mm)) for n, mm in zip(image.shape[1:], spacing, strict=True)]
    pixels = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))[:, None]  # (s, 1, h, w)
    labels = torch.from_numpy(np.ascontiguousarray(mask, dtype=np.uint8))[:, None]
    if shape != list(image.shape[1:]):
        pixels = F.interpolate(pixels, shape, mode="bilinear", antialias=True)
        labels = F.interpolate(labels, shape, mode="nearest-exact")
    pixels = centred(pixels, size, float(pixels.min()))
    labels = centred(labels, size, 0)
    low, high = float(pixels.min()), float(pixels.max())
    if not high > low:
        raise DataError(f"expected an image with contrast, found the value {low:g} everywhere")
    if normalise == "zscore":
        std, mean = torch.std_mean(pixels.double(), correction=0)
        return ((pixels - mean) / std).float(), labels[:, 0]
    return (pixels - low) / (high - low), labels[:, 0]


def centred(pixels: Tensor, size: int, fill: float) -> Tensor:
    """(..., h, w) cropped or padded to (..., size, size) around its centre, to half a pixel."""
    height, width = pixels.shape[-2:]
    top, left = (size - height) // 2, (size - width) // 2
    # Negative padding crops.
    return F.pad(pixels, (left, size - width - left, top, size - height - top), value=fill)


def fill(contour: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(h, w) bool: pixels whose centre lies inside a closed contour (points, 2) of x (column) and y (row)."""
    if not np.all((contour >= -0.5) & (contour <= np.array(shape[::-1]) - 0.5)):
        (left, top), (right, bottom) = contour.min(axis=0), contour.max(axis=0)
        raise DataError(
            f"expected a contour within the image, {shape[0]} rows and {shape[1]} columns, "
            f"found x {left:g} to {right:g}, y {top:g} to {bottom:g}; does it count pixels from 0 or from 1?"
        )
    return polygon2mask(shape, contour[:, ::-1])


def check_distinct(folders: Sequence[Path]) -> None:
    """Refuse two folders of one patient number: one might train what the other validates."""
    seen: dict[int, Path] = {}
    for folder in folders:
        number = int(folder.name.removeprefix("patient"))
        if number in seen:
            raise DataError(f"{folder}: expected one folder for each patient, found {seen[number]} too; remove one")
        seen[number] = folder


def gather(volumes: Iterable[tuple[int, Tensor, Tensor]], **fields) -> Slices:
    """Slices of (patient, images, masks) volumes; `fields` are the other fields of Slices."""
    numbers, images, masks = zip(*volumes, strict=True)
    patient = torch.repeat_interleave(torch.tensor(numbers), torch.tensor([len(i) for i in images]))
    return Slices(images=torch.cat(images), masks=torch.cat(masks), patient=patient, **fields)


def check_options(size: int, spacing_mm: float, normalise: str) -> None:
    """Raise OptionError for what no reader can deliver, before a long read starts."""
    if normalise not in NORMALISATIONS:
        raise OptionError(f"normalise: expected one of {', '.join(NORMALISATIONS)}, found {normalise!r}")
    if not (isinstance(size, int) and size > 0 and spacing_mm > 0):
        raise OptionError(f"expected size (pixels) and spacing_mm (mm) above 0, found {size!r} and {spacing_mm!r}")


@contextmanager
def reading(path: Path | str, expected: str) -> Iterator[None]:
    """Turn whatever a library raises over a bad file into a DataError that names the file."""
    try:
        yield
    except DataError as error:
        if str(path) in str(error):
            raise
        raise DataError(f"{path}: {error}") from error
    except FileNotFoundError as error:
        raise DataError(f"{path}: expected {expected}, found no such file; get the data set again, whole") from error
    except Exception as error:  # nibabel, h5py, pydicom, zlib and struct have no base class in common
        raise DataError(
            f"{path}: expected {expected}, found one that can't be read ({type(error).__name__}: {error}); "
            "get the file again"
        ) from error
