"""What every reader does with the volumes of its format: one loop brings them to one grid, into Slices."""

import codecs
import gzip
import os
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from skimage.draw import polygon2mask
from torch import Tensor
from tqdm import tqdm

from prr.data.labels import LABELS
from prr.data.plausible import Sample, odd
from prr.data.slices import Slices, split
from prr.errors import DataError, OptionError

PHANTOM_MARK = "prr phantom"
SCANNERS = (0.1, 10)  # mm, between pixels of a heart
PATIENT = r"patient([0-9]{1,6})"
DAMAGED = (EOFError, gzip.BadGzipFile, struct.error, zlib.error)
SAMPLED = 40  # volumes, at most, whose masks are looked at
CUT = 0.1  # of what is labelled: resampling alone moves a small label's area by less
NORMALISATIONS = ("zscore", "unit")


class Volume(NamedTuple):
    """One volume of a patient, as its files hold it."""

    patient: int
    image: np.ndarray  # (s, h, w), or (s, c, h, w) where there are several channels; any real dtype
    mask: np.ndarray  # (s, h, w) labels
    spacing: tuple[float, float]  # mm between rows, mm between columns
    phantom: bool
    where: Path | str  # what an error names
    left_out: int = 0  # further images of it, not annotated
    told: tuple[str, ...] = ()  # a sentence each: what was done about this volume, or is odd about it


@dataclass
class Listing:
    """What a reader found below a folder; no volume is read yet.

    Args:
        name: of the data set.
        root: what is read, for messages.
        volumes: of each volume its patient, and what reads it.
        held_out: patients that the data set itself holds out; None: half of them at random.
        labels: names of the labels in masks.
        holds: labels that masks may hold; None: all of them.
        ignore: the label in masks that is not counted, if there is one.
        told: a sentence each: what was done about the folder as a whole.
        expected: what an error says that a file should hold.

    Example:
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from prr.data.volumes import Listing, Volume, read
        >>> def eye(patient):
        ...     line = np.eye(8, k=patient)[None]
        ...     return Volume(patient, line, line, (1.5, 1.5), False, f"{patient}.toy")
        >>> volumes = [(n, lambda n=n: eye(n)) for n in (1, 2)]
        >>> listing = Listing("Toy", Path("toy"), volumes, labels={0: "background", 1: "line"})
        >>> read(listing, size=8, spacing_mm=1.5, split=(2,), normalise="unit", progress=False)
        Slices(Toy: 2 slices of 2 patients, 8 x 8 at 1.5 mm)
    """

    name: str
    root: Path
    volumes: list[tuple[int, Callable[[], Volume]]]
    held_out: Iterable[int] | None = None
    labels: Mapping[int, str] = field(default_factory=lambda: dict(LABELS))
    holds: Collection[int] | None = None
    ignore: int | None = None
    told: list[str] = field(default_factory=list)
    expected: str = "a cine volume"

    @property
    def names(self) -> dict[int, str]:
        """Of the labels that masks may hold."""
        return {label: name for label, name in self.labels.items() if self.holds is None or label in self.holds}


@dataclass
class Report:
    """What a reading met: volumes as stored, and a line for each that was refused or is told of.

    Args:
        name: of the data set.
        root: where it was found.
        names: of its labels.
        patients: those of whom a volume was read.
        volumes, slices: how many were read; slices are the annotated ones.
        spacing_mm: in-plane, as stored.
        areas: cm2 of each label that occurs, one for each slice that has it.
        phantom: whether any of it is.
        refused: what the reader stops at.
        told: what it warns of.
        data: the slices, where any could be read.
    """

    name: str = ""
    root: Path = Path()
    names: Mapping[int, str] = field(default_factory=dict)
    patients: set[int] = field(default_factory=set)
    volumes: int = 0
    slices: int = 0
    spacing_mm: list[float] = field(default_factory=list)
    areas: dict[int, list[float]] = field(default_factory=dict)
    phantom: bool = False
    refused: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    data: Slices | None = None

    def add(self, volume: Volume) -> None:
        """Count a volume that was read."""
        self.patients.add(volume.patient)
        self.volumes += 1
        self.slices += len(volume.mask)
        self.spacing_mm += volume.spacing
        self.phantom |= volume.phantom
        for label in np.unique(volume.mask).tolist():
            pixels = (volume.mask == label).sum(axis=(1, 2))
            self.areas.setdefault(label, []).extend(pixels[pixels > 0] * np.prod(volume.spacing) / 100)

    def shown(self, count: int = 7) -> Slices:
        """The slice with the most foreground of each of some patients, evenly chosen, as if of one: for a picture."""
        patients = self.data.patient.unique()
        some = patients[torch.linspace(0, len(patients) - 1, min(count, len(patients))).round().long()]
        full = ((self.data.masks > 0) & (self.data.masks != (self.data.ignore or 0))).sum(dim=(1, 2))
        keep = torch.stack([full.where(self.data.patient == each, -1).argmax() for each in some])
        images, masks = self.data.images[keep], self.data.masks[keep]
        return replace(self.data, images=images, masks=masks, patient=torch.zeros_like(keep), held_out=())


class Notes:
    """Sentences about volumes; those that differ in their numbers alone are one kind, told once."""

    def __init__(self) -> None:
        self.kinds: dict[str, list[str]] = {}

    def add(self, where: Path | str, sentence: str) -> None:
        """A sentence about one volume."""
        self.kinds.setdefault(re.sub(r"-?\d[\d.e+-]*", "0", sentence), []).append(f"{where}: {sentence}")

    def __iter__(self) -> Iterator[str]:
        for first, *more in self.kinds.values():
            yield f"{first} (and so in {len(more)} more)" if more else first

    def tell(self, report: Report | None) -> None:
        """A warning for each kind; with a report they stand there instead."""
        for line in self:
            if report is None:
                warnings.warn(line, stacklevel=4)  # of the reader's caller
            else:
                report.told.append(line)


def read(
    listing: Listing,
    *,
    size: int = 128,
    spacing_mm: float = 1.5,
    split: str | Iterable[int] = "paper",
    seed: int = 0,
    normalise: str = "zscore",
    progress: bool = True,
    report: Report | None = None,
) -> Slices:
    """Every annotated image of the volumes that a reader lists, read one volume at a time.

    Args:
        listing: what there is.
        size, spacing_mm, split, seed, normalise, progress: the reader's.
        report: filled in, if given; what is refused or told then stands there, and reading goes on.

    Raises:
        DataError: a file can't be read, or nothing is annotated.
        OptionError: a size, spacing, normalisation or split that no reader can deliver, before anything is read.
    """
    check_options(size, spacing_mm, normalise)
    held_out = choose(split, [patient for patient, _ in listing.volumes], seed, listing.held_out)
    placed, samples, notes, left_out, seen = [], [], Notes(), 0, {}
    every = max(1, -(-len(listing.volumes) // SAMPLED))
    for sentence in listing.told:
        notes.add(listing.root, sentence)
    for volume in _opened(listing, progress, report):
        left_out += volume.left_out
        for sentence in volume.told:
            notes.add(volume.where, sentence)
        if volume.left_out and not len(volume.image):
            continue
        with _refusing(report), reading(volume.where, listing.expected):
            images, masks = place(volume, size, spacing_mm, normalise)
            placed.append((volume.patient, images, masks, volume.phantom))
            if report is not None:
                report.add(volume)
            if (len(placed) - 1) % every == 0:
                samples.append(_sample(volume, listing.ignore))
            if (cut := _cut_off(volume, masks, spacing_mm, listing.ignore)) > CUT:
                notes.add(volume.where, f"{cut:.0%} of its labelled pixels are cut off; raise spacing_mm or size")
            if (twin := seen.setdefault(_checksum(images), volume.where)) is not volume.where:
                notes.add(volume.where, f"shows the same image as {twin}")
    if not placed:
        found = f"expected contours, found none in {left_out} images" if left_out else "expected volumes, found none"
        raise DataError(f"{listing.root}: {found}")
    patients, images, masks, phantom = zip(*placed, strict=True)
    patient = torch.repeat_interleave(torch.tensor(patients), torch.tensor([len(each) for each in images]))
    if left_out:
        notes.add(listing.root, f"left out {left_out} of {left_out + len(patient)} images, which have no contour")
    for sentence in odd(samples, listing.names):
        notes.add(listing.root, sentence)
    notes.tell(report)
    return Slices(
        images=torch.cat(images),
        masks=torch.cat(masks),
        patient=patient,
        spacing_mm=float(spacing_mm),
        name=listing.name,
        held_out=tuple(each for each in held_out if each in patients) if isinstance(split, str) else held_out,
        phantom=any(phantom),
        labels=listing.labels,
        ignore=listing.ignore,
    )


def check_options(size: int, spacing_mm: float, normalise: str) -> None:
    """Refuse a size, a spacing or a normalisation that no reader can deliver."""
    if normalise not in NORMALISATIONS:
        raise OptionError(f"normalise: expected one of {', '.join(NORMALISATIONS)}, found {normalise!r}")
    if not (isinstance(size, int) and size > 0 and spacing_mm > 0):
        raise OptionError(f"expected size (pixels) and spacing_mm (mm) above 0, found {size!r} and {spacing_mm!r}")


def _sample(volume: Volume, ignore: int | None) -> Sample:
    """The slice with the most foreground, apart from its volume, which need not be kept."""
    counted = volume.mask if ignore is None else np.where(volume.mask == ignore, 0, volume.mask)
    k = np.argmax([np.count_nonzero(each) for each in counted])
    image = volume.image[k] if volume.image.ndim == 3 else volume.image[k, 0]
    return Sample(image.astype(np.float32), volume.mask[k].copy(), volume.spacing, volume.where)


def _cut_off(volume: Volume, masks: Tensor, spacing_mm: float, ignore: int | None) -> float:
    """The share of what is labelled in a volume that cropping takes away."""
    labelled = np.count_nonzero(volume.mask) - (0 if ignore is None else np.count_nonzero(volume.mask == ignore))
    kept = torch.count_nonzero(masks) - (0 if ignore is None else torch.count_nonzero(masks == ignore))
    return 1 - float(kept) * spacing_mm**2 / (labelled * np.prod(volume.spacing)) if labelled else 0.0


def _checksum(images: Tensor) -> tuple[int, bytes]:
    """Cheap beside the reading; 32 bits alone would meet by chance among some thousand volumes."""
    return zlib.crc32(images.numpy()), images.flatten()[::4099].numpy().tobytes()


def _opened(listing: Listing, progress: bool, report: Report | None) -> Iterator[Volume]:
    """Each volume that can be read."""
    for _, opened in tqdm(listing.volumes, listing.name, unit="volume", disable=None if progress else True):
        volume = None
        with _refusing(report):
            volume = opened()
        if volume is not None:
            yield volume


@contextmanager
def _refusing(report: Report | None) -> Iterator[None]:
    """Collect what is refused in a report; without one, reading ends there."""
    try:
        yield
    except DataError as error:
        if report is None:
            raise
        report.refused.append(str(error))


def place(volume: Volume, size: int, spacing_mm: float, normalise: str) -> tuple[Tensor, Tensor]:
    """One volume, resampled in-plane, cropped or padded around its centre, and normalised, each channel by itself.

    Padding is the image's minimum (air), and background. Statistics are those of all pixels that come back,
    padding included: what the network sees has exactly zero mean and unit variance ("zscore"), or spans [0,
    1] ("unit"). The resampled matrix is rounded to whole pixels: the spacing is true to half a pixel over the
    image.

    Returns:
        (s, c, size, size) float32 and (s, size, size) uint8.

    Raises:
        DataError: a channel is the same everywhere.
    """
    image = volume.image if volume.image.ndim == 4 else volume.image[:, None]
    height, width = image.shape[2:]
    shape = [max(1, round(n * mm / spacing_mm)) for n, mm in zip((height, width), volume.spacing, strict=True)]
    labels = torch.from_numpy(np.ascontiguousarray(volume.mask, dtype=np.uint8))[:, None]
    if shape != [height, width]:
        labels = F.interpolate(labels, shape, mode="nearest-exact")
    channels = [_channel(image[:, c], shape, size, normalise) for c in range(image.shape[1])]
    return torch.cat(channels, dim=1), centred(labels, size, 0)[:, 0]


def _channel(image: np.ndarray, shape: list[int], size: int, normalise: str) -> Tensor:
    """(s, 1, size, size) of one channel (s, h, w) that is resampled to `shape` first."""
    if not image.max() > image.min():  # resampling would turn rounding into contrast
        raise DataError(f"expected an image with contrast, found the value {image.min():g} everywhere")
    pixels = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))[:, None]
    if shape != list(image.shape[1:]):
        pixels = F.interpolate(pixels, shape, mode="bilinear", antialias=True)
    pixels = centred(pixels, size, float(pixels.min()))
    low, high = float(pixels.min()), float(pixels.max())
    if not high > low:
        raise DataError(f"expected an image with contrast, found the value {low:g} everywhere")
    if normalise == "zscore":
        std, mean = torch.std_mean(pixels.double(), correction=0)
        return ((pixels - mean) / std).float()
    return (pixels - low) / (high - low)


def centred(pixels: Tensor, size: int, fill: float) -> Tensor:
    """(..., h, w) cropped or padded to (..., size, size) around its centre, to half a pixel."""
    height, width = pixels.shape[-2:]
    top, left = (size - height) // 2, (size - width) // 2
    # Negative padding crops.
    return F.pad(pixels, (left, size - width - left, top, size - height - top), value=fill)


def choose(
    choice: str | Iterable[int], patients: Sequence[int], seed: int, paper: Iterable[int] | None = None
) -> tuple[int, ...]:
    """Held-out patients of a reader's `split` argument: "paper", "all" or the patients themselves."""
    if isinstance(choice, Iterable) and not isinstance(choice, str):
        return tuple(choice)
    if choice not in ("paper", "all"):
        raise OptionError(f'split: expected "paper", "all" or patients to hold out, found {choice!r}')
    if choice == "all":
        return ()
    return split(patients, seed=seed) if paper is None else tuple(paper)


def fill(contour: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(h, w) bool: pixels whose centre lies inside a closed contour (points, 2) of x (column) and y (row)."""
    if not np.all((contour >= -0.5) & (contour <= np.array(shape[::-1]) - 0.5)):
        (left, top), (right, bottom) = contour.min(axis=0), contour.max(axis=0)
        raise DataError(
            f"expected a contour within the image, {shape[0]} rows and {shape[1]} columns, "
            f"found x {left:g} to {right:g}, y {top:g} to {bottom:g}; does it count pixels from 0 or from 1?"
        )
    return polygon2mask(shape, contour[:, ::-1])


def check_spacing(values: Iterable[float], least: float = 1e-4, most: float = 100) -> tuple[float, float]:
    """The in-plane spacing that a header gives, mm, from microscopes to maps; refused beyond."""
    spacing = tuple(float(mm) for mm in values)
    if len(spacing) != 2 or not all(least < mm < most for mm in spacing):
        raise DataError(f"expected pixels of {least:g} to {most:g} mm, found {spacing}")
    return spacing


def patient_folders(root: Path, depth: int = 4) -> dict[Path, dict[int, Path]]:
    """The folders that hold patients', down to some levels; and in each the folder of patient n, by name.

    Raises:
        DataError: two folders of one number: one might train what the other validates.
    """
    if not root.is_dir():
        return {}
    with os.scandir(root) as entries:
        below = sorted(Path(each) for each in entries if each.is_dir() and not each.name.startswith((".", "__MACOSX")))
    patients: dict[int, Path] = {}
    found = {root: patients}
    for folder in below:
        if match := re.fullmatch(PATIENT, folder.name, re.IGNORECASE):
            if (other := patients.setdefault(int(match[1]), folder)) != folder:
                raise DataError(f"{folder}: expected one folder for each patient, found {other} too; remove one")
        elif depth:
            found |= patient_folders(folder, depth - 1)
    return {place: patients for place, patients in found.items() if patients}


def read_text(path: Path) -> str:
    """A text file, whichever editor saved it."""
    raw = path.read_bytes()
    return raw.decode("utf-16" if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig")


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
        damaged = isinstance(error, DAMAGED) or re.search("truncated|damaged|EOF|end of file", str(error))
        raise DataError(
            f"{path}: expected {expected}, found one that can't be read ({type(error).__name__}: {error})"
            + ("; it is damaged: get the file again" if damaged else "")
        ) from error


def refusal(error: DataError) -> Volume:
    """In a listing, what stands for a volume that can't be listed: a reader refuses it in its turn."""
    raise error
