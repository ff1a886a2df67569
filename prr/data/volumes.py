"""What every reader does with the volumes of its format: brings them to one grid, into Slices, or counts them."""

import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from skimage.draw import polygon2mask
from torch import Tensor
from tqdm import tqdm

from prr.data.slices import Slices, split
from prr.errors import DataError, OptionError

PHANTOM_MARK = "prr phantom"
PATIENT = r"patient[0-9]{1,6}"
NORMALISATIONS = ("zscore", "unit")


class Volume(NamedTuple):
    """One volume of a patient, as its files hold it."""

    patient: int
    image: np.ndarray  # (s, h, w), any real dtype
    mask: np.ndarray  # (s, h, w) labels
    spacing: tuple[float, float]  # mm between rows, mm between columns
    phantom: bool
    where: Path | str  # what an error names
    left_out: int = 0  # further images of it, not annotated


@dataclass(frozen=True)
class Request:
    """What is requested of a reader, and the loop that delivers it.

    Args:
        name: of the data set.
        size, spacing_mm, split, seed, normalise, progress: the reader's.

    Raises:
        OptionError: a size, spacing or normalisation that no reader can deliver, before a long read starts.

    Example:
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from prr.data.volumes import Request, Volume
        >>> def read_one(patient):
        ...     return Volume(patient, np.eye(8)[None], np.eye(8)[None], (1.5, 1.5), False, f"{patient}.toy")
        >>> request = Request("Toy", 8, 1.5, split=(2,), seed=0, normalise="zscore", progress=False)
        >>> request.read(Path("toy"), [(1,), (2,), (3,)], read_one)
        Slices(Toy: 3 slices of 3 patients, 8 x 8 at 1.5 mm)
    """

    name: str
    size: int
    spacing_mm: float
    split: str | Iterable[int]
    seed: int
    normalise: str
    progress: bool

    def __post_init__(self) -> None:
        size, spacing_mm = self.size, self.spacing_mm
        if self.normalise not in NORMALISATIONS:
            raise OptionError(f"normalise: expected one of {', '.join(NORMALISATIONS)}, found {self.normalise!r}")
        if not (isinstance(size, int) and size > 0 and spacing_mm > 0):
            raise OptionError(f"expected size (pixels) and spacing_mm (mm) above 0, found {size!r} and {spacing_mm!r}")

    def read(
        self,
        root: Path,
        listed: Sequence[tuple],
        read: Callable[..., Volume],
        paper: Iterable[int] | None = None,
        expected: str = "a cine volume",
    ) -> Slices:
        """Every annotated image of the volumes that a reader lists, read one volume at a time.

        Args:
            root: what is read, for messages.
            listed: what `read` takes for each volume, its patient first.
            read: gives the Volume.
            paper: patients that the paper holds out; None: half of them at random. Those without an annotated
                image don't count.
            expected: what an error says that a file should hold.

        Raises:
            DataError: a file can't be read, or nothing is annotated.
            OptionError: an unknown `split`.
        """
        held_out = choose(self.split, [patient for patient, *_ in listed], self.seed, paper)
        placed, left_out = [], 0
        for item in tqdm(listed, self.name, unit="volume", disable=None if self.progress else True):
            volume = read(*item)
            left_out += volume.left_out
            if volume.left_out and not len(volume.image):
                continue
            with reading(volume.where, expected):
                placed.append((volume.patient, *self.place(volume), volume.phantom))
        if not placed:
            raise DataError(f"{root}: expected contours, found none in {left_out} images")
        patients, images, masks, phantom = zip(*placed, strict=True)
        if isinstance(self.split, str):
            held_out = tuple(each for each in held_out if each in patients)
        patient = torch.repeat_interleave(torch.tensor(patients), torch.tensor([len(each) for each in images]))
        if left_out:
            warnings.warn(
                f"{root}: left out {left_out} of {left_out + len(patient)} images, which have no contour", stacklevel=3
            )
        return Slices(
            images=torch.cat(images),
            masks=torch.cat(masks),
            patient=patient,
            spacing_mm=float(self.spacing_mm),
            name=self.name,
            held_out=held_out,
            phantom=any(phantom),
        )

    def place(self, volume: Volume) -> tuple[Tensor, Tensor]:
        """One volume, resampled in-plane, cropped or padded around its centre, and normalised.

        Padding is the image's minimum (air), and background. Statistics are those of all pixels that come back,
        padding included: what the network sees has exactly zero mean and unit variance ("zscore"), or spans [0,
        1] ("unit"). The resampled matrix is rounded to whole pixels: the spacing is true to half a pixel over the
        image.

        Returns:
            (s, 1, size, size) float32 and (s, size, size) uint8.

        Raises:
            DataError: the image is the same everywhere.
        """
        image, mask, spacing = volume.image, volume.mask, volume.spacing
        if not image.max() > image.min():  # resampling would turn rounding into contrast
            raise DataError(f"expected an image with contrast, found the value {image.min():g} everywhere")
        shape = [max(1, round(n * mm / self.spacing_mm)) for n, mm in zip(image.shape[1:], spacing, strict=True)]
        pixels = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))[:, None]  # (s, 1, h, w)
        labels = torch.from_numpy(np.ascontiguousarray(mask, dtype=np.uint8))[:, None]
        if shape != list(image.shape[1:]):
            pixels = F.interpolate(pixels, shape, mode="bilinear", antialias=True)
            labels = F.interpolate(labels, shape, mode="nearest-exact")
        pixels = centred(pixels, self.size, float(pixels.min()))
        labels = centred(labels, self.size, 0)
        low, high = float(pixels.min()), float(pixels.max())
        if not high > low:
            raise DataError(f"expected an image with contrast, found the value {low:g} everywhere")
        if self.normalise == "zscore":
            std, mean = torch.std_mean(pixels.double(), correction=0)
            return ((pixels - mean) / std).float(), labels[:, 0]
        return (pixels - low) / (high - low), labels[:, 0]


def centred(pixels: Tensor, size: int, fill: float) -> Tensor:
    """(..., h, w) cropped or padded to (..., size, size) around its centre, to half a pixel."""
    height, width = pixels.shape[-2:]
    top, left = (size - height) // 2, (size - width) // 2
    # Negative padding crops.
    return F.pad(pixels, (left, size - width - left, top, size - height - top), value=fill)


@dataclass
class Counts:
    """What lies in a data set's folder, for `prr.data.check`; the inspector of a data set fills it in."""

    patients: int
    volumes: int = 0
    slices: int = 0  # annotated ones
    labels: set[int] = field(default_factory=set)
    spacing_mm: list[float] = field(default_factory=list)  # as stored
    missing: list[str] = field(default_factory=list)  # a line for each absent file or contour
    phantom: bool = False

    def add(self, volume: Volume) -> None:
        """Count a volume that was read."""
        self.volumes += 1
        self.slices += len(volume.image)
        self.labels |= set(np.unique(volume.mask).tolist())
        self.spacing_mm += volume.spacing
        self.phantom |= volume.phantom

    def misses(self, *paths: Path) -> bool:
        """Whether one of these files is absent; names each that is in `missing`."""
        absent = [str(path) for path in paths if not path.is_file()]
        self.missing += absent
        return bool(absent)


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


def check_spacing(values: Iterable[float]) -> tuple[float, float]:
    """The in-plane spacing that a header gives, mm; refused where no scanner has it."""
    spacing = tuple(float(mm) for mm in values)
    if len(spacing) != 2 or not all(0.1 < mm < 10 for mm in spacing):
        raise DataError(f"expected pixels of 0.1 to 10 mm, found {spacing}")
    return spacing


def patient_folders(*places: Path) -> list[tuple[int, Path]]:
    """n and folder of each patient<n> in these places, by place and name.

    Raises:
        DataError: two folders of one number: one might train what the other validates.
    """
    found: dict[int, Path] = {}
    for place in places:
        for folder in sorted(path for path in place.glob("patient*") if re.fullmatch(PATIENT, path.name)):
            other = found.setdefault(int(folder.name.removeprefix("patient")), folder)
            if other != folder:
                raise DataError(f"{folder}: expected one folder for each patient, found {other} too; remove one")
    return list(found.items())


@contextmanager
def reading(path: Path | str, expected: str) -> Iterator[None]:
    """Turn whatever a library raises over a bad file into a DataError that names the file."""
    try:
        yield
    except DataError as error:
        if str(path) in str(error):
            raise
        raise DataError(f"{path}: {error}") from error
    except Exception as error:  # nibabel, h5py, pydicom, zlib and struct have no base class in common
        found = f"one that can't be read ({type(error).__name__}: {error}); get the file again"
        if isinstance(error, FileNotFoundError):
            found = "no such file; get the data set again, whole"
        raise DataError(f"{path}: expected {expected}, found {found}") from error
