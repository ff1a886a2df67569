"""RVSC: cine MRI with contours of the right ventricle (RV), DICOM and text.

Source: Petitjean et al., Right ventricle segmentation from cardiac MRI: a collation study, Medical Image
Analysis 19(1), 2015, doi:10.1016/j.media.2014.10.004.
"""

import re
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from prr.data.dicom import read_image
from prr.data.slices import Slices
from prr.data.volumes import (
    PHANTOM_MARK,
    Listing,
    Volume,
    fill,
    patient_folders,
    read,
    read_text,
    reading,
    refusal,
)
from prr.errors import DataError, LayoutError

TRAIN, TEST = "TrainingSet", "Test1Set"
PHASES = 20  # images of a slice; its first one is at end-diastole
THICKNESS = "7"  # mm, of a phantom's slices


class Drawn(NamedTuple):
    """One annotated image."""

    image: Path
    contour: Path  # of the cavity


def read_rvsc(
    root: str | Path,
    *,
    size: int = 128,
    spacing_mm: float = 1.5,
    split: str | Iterable[int] = "paper",
    seed: int = 0,
    normalise: str = "zscore",
    progress: bool = True,
) -> Slices:
    """Every image with a contour of the RV cavity, as `Slices` named "RVSC"; label 1 only.

    An image without that contour is left out: it may show an RV that was not annotated. The annotated images of
    one phase (ED or ES) of a patient are a volume. Normalisation and padding: see `volumes.place`.

    Args:
        root: the folder of TrainingSet (and Test1Set), one above it, or TrainingSet; names in upper or lower case.
        size: pixels, square; spacing_mm: in-plane, mm.
        split: "paper" (Test1Set is held out; where it is absent, a random half by `seed`), "all" (none is),
            or the held-out patients.
        normalise: "zscore" or "unit" ([0, 1]), per volume.
        progress: show a bar on a terminal.

    Raises:
        DataError: a file is missing, can't be read, or is not as the format says.
        OptionError: an unknown `normalise` or `split`.

    Example:
        >>> import tempfile
        >>> from prr.data import read_rvsc, write_phantom
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     root = write_phantom(f"{folder}/data", {"rvsc": 2})
        ...     found = read_rvsc(root / "rvsc", size=64, spacing_mm=3)
        >>> found
        Slices(RVSC, phantom: ...)
        >>> found.masks.unique().tolist()
        [0, 1]
    """
    options = {"size": size, "spacing_mm": spacing_mm, "split": split, "seed": seed, "normalise": normalise}
    return read(find(Path(root)), **options, progress=progress)


def find(root: Path) -> Listing:
    """The volumes below an RVSC folder, a patient's ED and a patient's ES; a bad list is refused when it is read."""
    volumes, held_out, (subsets, told) = [], set(), _subsets(root)
    for subset, patients in subsets.items():
        for number, folder in patients.items():
            if subset == TEST:
                held_out.add(number)
            try:
                phases: dict[bool, list[Drawn]] = {}
                for image, drawn in _annotated(subset, folder, number).items():
                    phases.setdefault(image % PHASES > 0, []).append(drawn)
                volumes += [(number, partial(_read_volume, number, phases[systole])) for systole in sorted(phases)]
            except DataError as error:
                volumes.append((number, partial(refusal, error)))
    return Listing("RVSC", root, volumes, held_out=sorted(held_out) or None, holds=(0, 1), told=told)


def write(folder: Path, images: Mapping[int, tuple[np.ndarray, np.ndarray, np.ndarray | None]], pixel: float) -> None:
    """One phantom patient in RVSC's layout, with DICOM files for annotated images only.

    Args:
        folder: patientNN in TrainingSet or Test1Set, to be made.
        images: image number (slice x 20 + phase) -> pixels (h, w) uint16, i-contour, o-contour or None;
            contours are (points, 2), x and y.
        pixel: mm.
    """
    name, lines = folder.name.replace("patient", "P"), []
    dicoms, contours = folder / f"{name}dicom", folder / f"{name}contours-manual"
    dicoms.mkdir(parents=True)
    contours.mkdir()
    for image, (pixels, *curves) in images.items():
        stem = f"{name}-{image:04d}"
        _write_dicom(dicoms / f"{stem}.dcm", pixels, pixel, image)
        for letter, curve in zip("io", curves, strict=True):
            if curve is not None:
                np.savetxt(contours / f"{stem}-{letter}contour-manual.txt", curve, fmt="%.2f")
                lines.append(f".\\{folder.name}\\{contours.name}\\{stem}-{letter}contour-manual.txt\r\n")
    (folder / f"{name}list.txt").write_text("".join(lines), newline="")


def _write_dicom(path: Path, pixels: np.ndarray, pixel: float, image: int) -> None:
    meta = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = MRImageStorage, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[path.name])  # the same on every run
    data = pydicom.Dataset()
    data.file_meta = meta
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.Manufacturer, data.Modality = PHANTOM_MARK, "MR"
    data.PatientID, data.InstanceNumber = path.name[:3], image
    data.Rows, data.Columns = pixels.shape
    data.PixelSpacing, data.SliceThickness = [f"{pixel:.4f}"] * 2, THICKNESS
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
    data.PixelData = np.ascontiguousarray(pixels, dtype="<u2").tobytes()
    data.save_as(path, enforce_file_format=True)


def _subsets(root: Path) -> tuple[dict[str, dict[int, Path]], list[str]]:
    """Name of each set that is present -> folder of each patient; and what is left aside."""
    known = {name.lower(): name for name in (TRAIN, TEST)}
    places = {
        place: patients
        for place, patients in patient_folders(root).items()
        if place.resolve().name.lower() in known
        or any(_file(folder, f"P{number:02d}list.txt").is_file() for number, folder in patients.items())
    }
    found, aside = {}, []
    for place, patients in places.items():
        subset = known.get(place.resolve().name.lower(), TRAIN if len(places) == 1 else None)
        if subset and subset not in found:
            found[subset] = patients
        else:
            aside.append(place.relative_to(root).as_posix())
    if TRAIN not in found:
        raise LayoutError(
            f"{root}: expected RVSC's TrainingSet/patient01, ... (and Test1Set), found "
            f"{'neither' if root.is_dir() else 'no such folder'}; point PRR_RVSC at the folder of TrainingSet"
        )
    for number in set(found[TRAIN]) & set(found.get(TEST, ())):
        raise DataError(
            f"{found[TEST][number]}: expected one folder for each patient, found {found[TRAIN][number]} too; remove one"
        )
    found = {each: found[each] for each in known.values() if each in found}
    return found, [f"read {', '.join(found)}, and not {', '.join(aside)}"] if aside else []


def _annotated(subset: str, folder: Path, number: int) -> dict[int, Drawn]:
    """Image number -> annotated image, from the patient's list.

    The list holds Windows paths from elsewhere: only file names are taken from it, and looked for in the patient's
    folder and beside it.
    """
    patient = f"P{number:02d}"
    listing = _file(folder, f"{patient}list.txt")
    with reading(listing, "the list of contours"):
        lines = read_text(listing).splitlines()
    names = [re.split(r"[\\/]", line)[-1].strip() for line in lines if line.strip()]
    pattern = re.compile(rf"{patient}-(\d{{4}})-([io])contour-manual\.txt", re.IGNORECASE)
    matches = {name: pattern.fullmatch(name) for name in names}
    if wrong := [name for name, match in matches.items() if not match]:
        raise DataError(f"{listing}: expected names like {patient}-0080-icontour-manual.txt, found {wrong[0]!r}")
    images = [int(match[1]) for match in matches.values() if match[2] in "iI"]
    if not images:
        raise DataError(f"{listing}: expected i-contours, found none")
    dicoms, place = _file(folder, f"{patient}dicom"), folder.parent
    above = [folder, _file(place, f"{subset}Contours"), _file(place.parent, f"{subset}Contours")]
    contours = [_file(each, f"{patient}contours-manual") for each in above]
    present = {_stem(path): path for path in (sorted(dicoms.iterdir()) if dicoms.is_dir() else ())}
    return {
        image: Drawn(
            present.get(f"{patient}-{image:04d}", dicoms / f"{patient}-{image:04d}.dcm"),
            _first(contours, f"{patient}-{image:04d}-icontour-manual.txt"),
        )
        for image in images
    }


def _stem(path: Path) -> str:
    """The name of an image, in upper case, without an ending."""
    return re.sub(r"\.(dcm|ima)$", "", path.name, flags=re.IGNORECASE).upper()


def _file(folder: Path, name: str) -> Path:
    """What a folder calls so, in upper or lower case; where there is none, what an error names."""
    if (folder / name).exists() or not folder.is_dir():
        return folder / name
    return next((path for path in folder.iterdir() if path.name.lower() == name.lower()), folder / name)


def _first(folders: Iterable[Path], name: str) -> Path:
    """The file in the first folder that holds it; if none does, in the first folder, for an error to name."""
    paths = [_file(folder, name) for folder in folders]
    return next((path for path in paths if path.is_file()), paths[0])


def _read_volume(number: int, drawn: list[Drawn]) -> Volume:
    images, masks, told = [], [], []
    for path, contour in drawn:
        image = read_image(path)
        images.append(image)
        if (image.pixels.shape, *image[1:3]) != (images[0].pixels.shape, *images[0][1:3]):
            raise DataError(
                f"{path}: expected {images[0].pixels.shape} pixels of {images[0].spacing} mm as in "
                f"{drawn[0].image.name}, found {image.pixels.shape} of {image.spacing}"
            )
        masks.append(_read_mask(contour, image.pixels.shape))
        told += [each for each in image.told if each not in told]
    pixels, mask = np.stack([image.pixels for image in images]), np.stack(masks).astype(np.uint8)
    return Volume(number, pixels, mask, images[0].spacing, images[0].phantom, drawn[0].image, told=tuple(told))


def _read_mask(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """(h, w) bool: pixels inside the contour."""
    with reading(path, "a contour, `x y` a line"):
        lines = read_text(path).splitlines()
        points = np.array([[float(word) for word in line.split()] for line in lines if line.strip()])
        if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3:
            raise DataError(f"expected 3 points or more, `x y` each, found {points.shape}")
        return fill(points, shape)
