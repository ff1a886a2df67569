"""RVSC: cine MRI with contours of the right ventricle (RV), DICOM and text.

Source: Petitjean et al., Right ventricle segmentation from cardiac MRI: a collation study, Medical Image
Analysis 19(1), 2015, doi:10.1016/j.media.2014.10.004.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid
from tqdm import tqdm

from prr.data.slices import PHANTOM_MARK, Slices, check_distinct, check_options, choose, fill, gather, on_grid, reading
from prr.errors import DataError

TRAIN, TEST = "TrainingSet", "Test1Set"
PHASES = 20  # images of a slice; its first one is at end-diastole


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

    An image without that contour is left out: nobody said that it shows no RV. The annotated images of one
    phase (ED or ES) of a patient are a volume. Normalisation and padding: see `on_grid`.

    Args:
        root: the folder of TrainingSet (and Test1Set), the folder above (`rvsc`), or TrainingSet.
        size: pixels, square; spacing_mm: in-plane, mm.
        split: "paper" (Test1Set is held out; where it is absent, a random half by `seed`), "all" (none is),
            or the held-out patients.
        normalise: "zscore" or "unit" ([0, 1]), per volume.
        progress: show a bar on a terminal.

    Raises:
        DataError: a file is missing, can't be read, or is not as the format says.
        OptionError: an unknown `normalise` or `split`.
    """
    check_options(size, spacing_mm, normalise)
    volumes = _volumes(Path(root))
    test = sorted({number for number, subset, _ in volumes if subset == TEST})
    held_out = choose(split, [number for number, _, _ in volumes], seed, paper=test or None)
    grids, phantom = [], False
    for number, _, drawn in tqdm(volumes, "RVSC", unit="volume", disable=None if progress else True):
        image, mask, pixel, made = _read_volume(drawn)
        phantom |= made
        with reading(drawn[0].image, "a cine volume"):
            grids.append((number, *on_grid(image, mask, pixel, size=size, spacing_mm=spacing_mm, normalise=normalise)))
    return gather(grids, spacing_mm=float(spacing_mm), name="RVSC", held_out=held_out, phantom=phantom)


def inspect(root: Path) -> dict:
    """Counts of an RVSC folder, reading but not keeping it; `missing` names files that the lists promise."""
    volumes = _volumes(root)
    counts = {
        "name": "RVSC",
        "patients": len({number for number, *_ in volumes}),
        "volumes": len(volumes),
        "slices": 0,
        "labels": set(),
        "spacing_mm": [],
        "missing": [],
        "phantom": False,
    }
    for *_, drawn in volumes:
        counts["missing"] += [str(path) for pair in drawn for path in pair if not path.is_file()]
        if not (present := [pair for pair in drawn if pair.image.is_file() and pair.contour.is_file()]):
            continue
        image, mask, pixel, made = _read_volume(present)
        counts["phantom"] |= made
        counts["slices"] += len(image)
        counts["labels"] |= set(np.unique(mask).tolist())
        counts["spacing_mm"] += pixel
    return counts


def write(
    root: Path,
    subset: str,
    number: int,
    images: Mapping[int, tuple[np.ndarray, np.ndarray, np.ndarray | None]],
    pixel: float,
    thickness: float,
) -> None:
    """One phantom patient below `root` in RVSC's layout, with DICOM files for annotated images only.

    Args:
        root: the folder that gets `subset`; subset: "TrainingSet" or "Test1Set"; number: of the patient.
        images: image number (slice x 20 + phase) -> pixels (h, w) uint16, i-contour, o-contour or None;
            contours are (points, 2), x and y.
        pixel, thickness: mm.
    """
    folder, lines = root / subset / f"patient{number:02d}", []
    dicoms, contours = folder / f"P{number:02d}dicom", folder / f"P{number:02d}contours-manual"
    dicoms.mkdir(parents=True)
    contours.mkdir()
    for image, (pixels, *curves) in images.items():
        stem = f"P{number:02d}-{image:04d}"
        _write_dicom(dicoms / f"{stem}.dcm", pixels, pixel, thickness, image)
        for letter, curve in zip("io", curves, strict=True):
            if curve is not None:
                np.savetxt(contours / f"{stem}-{letter}contour-manual.txt", curve, fmt="%.2f")
                lines.append(f".\\{folder.name}\\{contours.name}\\{stem}-{letter}contour-manual.txt\r\n")
    (folder / f"P{number:02d}list.txt").write_text("".join(lines), newline="")


def _write_dicom(path: Path, pixels: np.ndarray, pixel: float, thickness: float, image: int) -> None:
    meta = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = MRImageStorage, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[path.name])  # the same on every run
    data = pydicom.Dataset()
    data.file_meta = meta
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.Manufacturer, data.Modality, data.PatientID, data.InstanceNumber = (
        PHANTOM_MARK,
        "MR",
        path.name[:3],
        image,
    )
    data.Rows, data.Columns = pixels.shape
    data.PixelSpacing, data.SliceThickness = [f"{pixel:.4f}"] * 2, f"{thickness:g}"
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
    data.PixelData = np.ascontiguousarray(pixels, dtype="<u2").tobytes()
    data.save_as(path, enforce_file_format=True)


def _volumes(root: Path) -> list[tuple[int, str, list[Drawn]]]:
    """(patient, subset, annotated images) of each volume: a patient's ED, a patient's ES."""
    volumes, sets = [], _subsets(root)
    named = re.compile(r"patient[0-9]{1,6}")
    patients = {folder: sorted(p for p in folder.glob("patient*") if named.fullmatch(p.name)) for _, _, folder in sets}
    check_distinct([patient for folder in patients.values() for patient in folder])
    for place, subset, folder in sets:
        for patient in patients[folder]:
            number = int(patient.name.removeprefix("patient"))
            phases: dict[bool, list[Drawn]] = {}
            for image, drawn in _annotated(place, subset, patient, number).items():
                phases.setdefault(image % PHASES > 0, []).append(drawn)
            volumes += [(number, subset, phases[systole]) for systole in sorted(phases)]
    return volumes


def _subsets(root: Path) -> list[tuple[Path, str, Path]]:
    """(top folder, name, folder) of the sets that are present."""
    for place in (root, root / "rvsc"):
        found = [(place, name, place / name) for name in (TRAIN, TEST) if any((place / name).glob("patient*"))]
        if found and found[0][1] == TRAIN:
            return found
    if any((root / p.name / f"P{p.name[-2:]}list.txt").is_file() for p in root.glob("patient*")):
        return [(root, TRAIN, root)]
    raise DataError(
        f"{root}: expected RVSC's TrainingSet/patient01, ... (and Test1Set), found "
        f"{'neither' if root.is_dir() else 'no such folder'}; point PRR_RVSC at the folder of TrainingSet"
    )


def _annotated(place: Path, subset: str, folder: Path, number: int) -> dict[int, Drawn]:
    """Image number -> annotated image, from the patient's list.

    The list holds Windows paths from elsewhere: only file names are taken from it, and looked for below
    `place`.
    """
    listing = folder / f"P{number:02d}list.txt"
    with reading(listing, "the list of contours"):
        names = [
            re.split(r"[\\/]", line)[-1].strip()
            for line in listing.read_text(encoding="utf-8").splitlines()
            if line.strip()
        ]
    pattern = re.compile(rf"P{number:02d}-(\d{{4}})-([io])contour-manual\.txt", re.IGNORECASE)
    if wrong := [name for name in names if not pattern.fullmatch(name)]:
        raise DataError(f"{listing}: expected names like P{number:02d}-0080-icontour-manual.txt, found {wrong[0]!r}")
    stems = [
        f"P{number:02d}-{image}"
        for image, letter in map(lambda n: pattern.fullmatch(n).groups(), names)
        if letter in "iI"
    ]
    if not stems:
        raise DataError(f"{listing}: expected i-contours, found none")
    contours = [
        where / f"P{number:02d}contours-manual"
        for where in (folder, folder.parent / f"{subset}Contours", place / f"{subset}Contours")
    ]
    dicoms = folder / f"P{number:02d}dicom"
    present = {path.name.upper().removesuffix(".DCM"): path for path in sorted(dicoms.glob("*"))}
    return {
        int(stem[-4:]): Drawn(
            present.get(stem, dicoms / f"{stem}.dcm"), _first(contours, f"{stem}-icontour-manual.txt")
        )
        for stem in stems
    }


def _first(folders: Iterable[Path], name: str) -> Path:
    """The file in the first folder that holds it; if none does, in the first folder, for an error to name."""
    paths = [folder / name for folder in folders]
    return next((path for path in paths if path.is_file()), paths[0])


def _read_volume(drawn: list[Drawn]) -> tuple[np.ndarray, np.ndarray, tuple[float, float], bool]:
    """Images and masks (s, h, w), mm between rows and between columns, and whether it is a phantom."""
    images, masks, first = [], [], None
    for path, contour in drawn:
        pixels, *header = _read_dicom(path)
        first = first or (pixels.shape, *header)
        if (pixels.shape, *header) != first:
            raise DataError(
                f"{path}: expected {first[0]} pixels of {first[1]} mm as in {drawn[0].image.name}, "
                f"found {pixels.shape} of {header[0]}"
            )
        images.append(pixels)
        masks.append(_read_mask(contour, pixels.shape))
    return np.stack(images), np.stack(masks).astype(np.uint8), *first[1:]


def _read_dicom(path: Path) -> tuple[np.ndarray, tuple[float, float], bool]:
    with reading(path, "a DICOM image with its pixel spacing"):
        data = pydicom.dcmread(path)
        pixels = data.pixel_array
        if pixels.ndim != 2:
            raise DataError(f"expected one grey image, found {pixels.shape}")
        spacing = tuple(float(mm) for mm in data.PixelSpacing)  # between rows, between columns
        if len(spacing) != 2 or not all(0.1 < mm < 10 for mm in spacing):
            raise DataError(f"expected pixels of 0.1 to 10 mm, found {spacing}")
        return pixels, spacing, data.get("Manufacturer") == PHANTOM_MARK


def _read_mask(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """(h, w) bool: pixels inside the contour."""
    with reading(path, "a contour, `x y` a line"):
        lines = path.read_text(encoding="utf-8").split("\n")
        points = np.array([[float(word) for word in line.split()] for line in lines if line.strip()])
        if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3:
            raise DataError(f"expected 3 points or more, `x y` each, found {points.shape}")
        return fill(points, shape)
