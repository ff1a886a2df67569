"""ACDC: cine MRI at end-diastole and end-systole, NIfTI.

Source: Bernard et al., Deep learning techniques for automatic MRI cardiac multi-structures segmentation and
diagnosis: is the problem solved?, IEEE TMI 37(11), 2018, doi:10.1109/TMI.2018.2837502.
"""

import gzip
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np

from prr.data.labels import LABELS, matched, parse
from prr.data.nifti import read_pair
from prr.data.slices import Slices
from prr.data.volumes import (
    PHANTOM_MARK,
    SCANNERS,
    Listing,
    Volume,
    check_spacing,
    patient_folders,
    read,
    read_text,
    reading,
    refusal,
)  # fmt: skip
from prr.errors import DataError, LayoutError

PHASES = ("ED", "ES")
THICKNESS = 10.0  # mm, of a phantom's slices


def read_acdc(
    root: str | Path,
    *,
    size: int = 128,
    spacing_mm: float = 1.5,
    split: str | Iterable[int] = "paper",
    seed: int = 0,
    normalise: str = "zscore",
    labels: str | Mapping[str, int] | None = None,
    progress: bool = True,
) -> Slices:
    """Every slice of the ED and ES volumes of each patient, as `Slices` named "ACDC".

    Rows are the first axis of the NIfTI array and columns the second, as stored: no reorientation by the
    affine, by which only the mask is laid on the image. So the pictures are the transpose of the usual display.
    Normalisation and padding: see `volumes.place`.

    Args:
        root: the folder of the patientNNN folders, or one above it; `training` is read before `testing`.
        size: pixels, square; spacing_mm: in-plane, mm.
        split: "paper" (a random half of the patients held out, by `seed`), "all" (none), or the held-out
            ones.
        normalise: "zscore" or "unit" ([0, 1]), per volume.
        labels: what the values in the masks are, if not ACDC's "RV=1 MYO=2 LV=3"; those not named are background.
        progress: show a bar on a terminal.

    Raises:
        DataError: a file is missing, can't be read, or is not as the format says.
        OptionError: an unknown `normalise` or `split`, or `labels` that are no map.

    Example:
        >>> import tempfile
        >>> from prr.data import read_acdc, write_phantom
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     root = write_phantom(f"{folder}/data", {"acdc": 2})
        ...     found = read_acdc(root / "acdc", size=64, spacing_mm=3)
        >>> found
        Slices(ACDC, phantom: ...)
        >>> found.masks.unique().tolist()
        [0, 1, 2, 3]
    """
    options = {"size": size, "spacing_mm": spacing_mm, "split": split, "seed": seed, "normalise": normalise}
    return read(find(Path(root), labels), **options, progress=progress)


def find(root: Path, labels: str | Mapping[str, int] | None = None) -> Listing:
    """The ED and ES volumes of each patient below an ACDC folder; a bad Info.cfg is refused when it is read."""
    numbers = {value: value for value in LABELS}
    if labels is not None:
        numbers = matched(parse(labels), LABELS, str(root))
    place, patients, told = _patients(root)
    volumes = []
    for number, folder in patients.items():
        try:
            frames, done = _frames(folder)
            pairs = _pairs(number, folder, frames)
        except DataError as error:
            volumes.append((number, partial(refusal, error)))
        else:
            table = None if labels is None else numbers
            volumes += [(number, partial(_read_volume, number, *pair, table, done)) for pair in pairs]
    return Listing("ACDC", place, volumes, holds=set(numbers.values()), told=told)


def write(folder: Path, info: Mapping, volumes: Sequence[tuple[np.ndarray, np.ndarray]], pixel: float) -> None:
    """One phantom patient in ACDC's layout; no patientNNN_4d.nii.gz, which no reader here needs.

    Args:
        folder: patientNNN, to be made.
        info: `Info.cfg`, the frame numbers ED and ES first.
        volumes: image and mask at ED, image and mask at ES, (slices, rows, columns) as a viewer shows them, which
            becomes (x, y, z) as ACDC stores them.
        pixel: mm along x and y.
    """
    zooms = (pixel, pixel, THICKNESS)
    folder.mkdir(parents=True)
    (folder / "Info.cfg").write_text("".join(f"{key}: {value}\n" for key, value in info.items()))
    for phase, volume in zip(PHASES, volumes, strict=True):
        for suffix, array in zip(("", "_gt"), volume, strict=True):
            nifti = nib.Nifti1Image(np.ascontiguousarray(array.transpose(2, 1, 0)), np.diag([*zooms, 1.0]))
            nifti.header.set_zooms(zooms)
            nifti.header["descrip"] = PHANTOM_MARK.encode()
            nifti.header.set_xyzt_units("mm")
            # mtime 0: the same seed gives the same bytes.
            packed = gzip.compress(nifti.to_bytes(), compresslevel=1, mtime=0)
            (folder / f"{folder.name}_frame{info[phase]:02d}{suffix}.nii.gz").write_bytes(packed)


def _patients(root: Path) -> tuple[Path, dict[int, Path], list[str]]:
    """Where the patients lie, the folder of each, and what is left aside."""
    places = [
        (place, patients)
        for place, patients in patient_folders(root).items()
        if any(_info(folder).is_file() for folder in patients.values())
    ]
    if not places:
        raise LayoutError(
            f"{root}: expected ACDC's patient001, patient002, ... with an Info.cfg each, here or below, found "
            f"{'none' if root.is_dir() else 'no such folder'}; point PRR_ACDC at the folder `training` of the download"
        )
    named = {place: place.relative_to(root).as_posix() for place, _ in places}
    (place, patients), *others = sorted(places, key=lambda found: ("test" in named[found[0]].lower(), named[found[0]]))
    told = []
    if others:
        told.append(f"read {named[place]}, and not {', '.join(named[other] for other, _ in others)}")
    elif "test" in named[place].lower():
        told.append(f"read {named[place]}, as no training set lies beside it")
    return place, patients, told


def _info(folder: Path) -> Path:
    return next((path for path in folder.iterdir() if path.name.lower() == "info.cfg"), folder / "Info.cfg")


def _frames(folder: Path) -> tuple[list[int], tuple[str, ...]]:
    """Numbers of the annotated frames, ED before ES, and what is odd about them."""
    path = _info(folder)
    with reading(path, "`Key: value` lines"):
        lines = re.findall(r"^\s*(\w+)\s*:\s*(\S+)", read_text(path), re.MULTILINE)
    info = {key.upper(): value for key, value in lines}
    frames = {phase: info.get(phase, "missing") for phase in PHASES}
    if wrong := [f"{phase}: {frame}" for phase, frame in frames.items() if not re.fullmatch("[0-9]{1,4}", frame)]:
        raise DataError(f"{path}: expected the frame numbers `ED: n` and `ES: n`, found {', '.join(wrong)}")
    numbers = list(dict.fromkeys(int(frame) for frame in frames.values()))
    return numbers, () if numbers[1:] else (f"{path.name} says ED and ES are one frame, which was read once",)


def _pairs(number: int, folder: Path, frames: Sequence[int]) -> list[list[Path]]:
    """Image and mask of each frame, packed or not, or in a folder of its own name; else what an error names."""
    pattern = re.compile(rf"patient0*{number}_frame0*(\d+?)(_gt)?\.nii(\.gz)?", re.IGNORECASE)
    found = {}
    for path in sorted(folder.rglob("*")):  # .nii.gz after .nii
        if (match := pattern.fullmatch(path.name)) and path.is_file():
            found[int(match[1]), bool(match[2])] = path
    names = {kind: "_gt" * kind + ".nii.gz" for kind in (False, True)}
    return [
        [found.get((frame, kind), folder / f"{folder.name}_frame{frame:02d}{name}") for kind, name in names.items()]
        for frame in frames
    ]


def _read_volume(
    number: int, image_path: Path, mask_path: Path, numbers: Mapping[int, int] | None, told: tuple[str, ...]
) -> Volume:
    """One frame; `numbers` are the labels of values in the mask, None: as they are."""
    pair = read_pair([image_path], mask_path)
    with reading(image_path, "a spacing"):
        check_spacing(pair.spacing, *SCANNERS)
    if pair.image.ndim != 3:
        raise DataError(f"{image_path}: expected 3 axes (x, y, slice), found {pair.image.shape[1]} volumes in one")
    if numbers is None:
        if not 0 <= pair.mask.min() <= pair.mask.max() <= max(LABELS):
            raise DataError(
                f"{mask_path}: expected labels 0, 1, 2, 3, found {np.unique(pair.mask)[:10].tolist()}; "
                'say which they are, such as labels="RV=1 MYO=2 LV=3"'
            )
        mask = pair.mask.astype(np.uint8)
    else:
        mask = np.zeros(pair.mask.shape, np.uint8)
        for value, label in numbers.items():
            mask[pair.mask == value] = label
    return Volume(number, pair.image, mask, pair.spacing, pair.phantom, image_path, told=(*told, *pair.told))
