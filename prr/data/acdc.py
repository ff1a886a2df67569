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

from prr.data.slices import Slices
from prr.data.volumes import PHANTOM_MARK, Listing, Volume, check_spacing, patient_folders, read, reading, refusal
from prr.errors import DataError

PLACES = (".", "training", "database/training", "acdc/database/training", "acdc/training")
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
    progress: bool = True,
) -> Slices:
    """Every slice of the ED and ES volumes of each patient, as `Slices` named "ACDC".

    Rows are the first axis of the NIfTI array and columns the second, as stored: no reorientation by the
    affine. So the pictures are the transpose of the usual display. Normalisation and padding: see `volumes.place`.

    Args:
        root: the folder of the patientNNN folders, or one above it (`training`, `database/training`).
        size: pixels, square; spacing_mm: in-plane, mm.
        split: "paper" (a random half of the patients held out, by `seed`), "all" (none), or the held-out
            ones.
        normalise: "zscore" or "unit" ([0, 1]), per volume.
        progress: show a bar on a terminal.

    Raises:
        DataError: a file is missing, can't be read, or is not as the format says.
        OptionError: an unknown `normalise` or `split`.

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
    return read(find(Path(root)), **options, progress=progress)


def find(root: Path) -> Listing:
    """The ED and ES volumes of each patient below an ACDC folder; a bad Info.cfg is refused when it is read."""
    volumes = []
    for number, folder in _folders(root):
        try:
            volumes += [(number, partial(_read_pair, number, *pair)) for pair in _frames(folder)]
        except DataError as error:
            volumes.append((number, partial(refusal, error)))
    return Listing("ACDC", root, volumes)


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


def _folders(root: Path) -> list[tuple[int, Path]]:
    """Number and folder of each patient."""
    for place in PLACES:
        found = patient_folders(root / place)
        if any((folder / "Info.cfg").is_file() for _, folder in found):
            return found
    raise DataError(
        f"{root}: expected ACDC's patient001, patient002, ... with an Info.cfg each, here or in "
        f"{', '.join(PLACES[1:])}, found {'none' if root.is_dir() else 'no such folder'}; "
        "point PRR_ACDC at the folder `training` of the download"
    )


def _frames(folder: Path) -> list[tuple[Path, Path]]:
    """Image and mask of each annotated volume, ED before ES: the paths that Info.cfg promises."""
    path = folder / "Info.cfg"
    with reading(path, "`Key: value` lines"):
        info = dict(re.findall(r"^\s*(\w+)\s*:\s*(\S+)", path.read_text(encoding="utf-8-sig"), re.MULTILINE))
    frames = {phase: info.get(phase, "missing") for phase in PHASES}
    if wrong := [f"{phase}: {frame}" for phase, frame in frames.items() if not re.fullmatch("[0-9]{1,4}", frame)]:
        raise DataError(f"{path}: expected the frame numbers `ED: n` and `ES: n`, found {', '.join(wrong)}")
    stems = [f"{folder.name}_frame{int(frame):02d}" for frame in frames.values()]
    return [(folder / f"{stem}.nii.gz", folder / f"{stem}_gt.nii.gz") for stem in stems]


def _read_pair(number: int, image_path: Path, mask_path: Path) -> Volume:
    image, zooms, phantom = _read_volume(image_path)
    mask, mask_zooms, _ = _read_volume(mask_path)
    if mask.shape != image.shape or not np.allclose(mask_zooms, zooms, rtol=1e-3):
        raise DataError(
            f"{mask_path}: expected the grid of {image_path.name}, {image.shape} at {zooms} mm, "
            f"found {mask.shape} at {mask_zooms} mm"
        )
    if not np.isin(mask, (0, 1, 2, 3)).all():
        raise DataError(f"{mask_path}: expected labels 0, 1, 2, 3, found {np.unique(mask)[:10].tolist()}")
    return Volume(number, image, mask.astype(np.uint8), zooms, phantom, image_path)


def _read_volume(path: Path) -> tuple[np.ndarray, tuple[float, float], bool]:
    """Voxels (s, h, w), in-plane spacing in mm, and whether it is a phantom."""
    with reading(path, "a NIfTI volume (x, y, slice)"):
        nifti = nib.Nifti1Image.from_filename(path)
        if len(nifti.shape) != 3:
            raise DataError(f"expected 3 axes (x, y, slice), found {nifti.shape}")
        zooms = check_spacing(nifti.header.get_zooms()[:2])
        volume = np.moveaxis(nifti.get_fdata(dtype=np.float32), 2, 0)
        if not np.isfinite(volume).all():
            raise DataError("expected finite voxels, found NaN or infinity")
        return volume, zooms, nifti.header["descrip"].item().decode("latin-1") == PHANTOM_MARK
