"""ACDC: cine MRI at end-diastole and end-systole, NIfTI.

Source: Bernard et al., Deep learning techniques for automatic MRI cardiac multi-structures segmentation and
diagnosis: is the problem solved?, IEEE TMI 37(11), 2018, doi:10.1109/TMI.2018.2837502.
"""

import gzip
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
from tqdm import tqdm

from prr.data.slices import PHANTOM_MARK, Slices, check_distinct, check_options, choose, gather, on_grid, reading
from prr.errors import DataError

PLACES = (".", "training", "database/training", "acdc/database/training", "acdc/training")
PHASES = ("ED", "ES")


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
    affine. So the pictures are the transpose of the usual display. Normalisation and padding: see `on_grid`.

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
    """
    check_options(size, spacing_mm, normalise)
    pairs = _pairs(Path(root))
    held_out = choose(split, [number for number, _, _ in pairs], seed)
    volumes, phantom = [], False
    for number, image_path, mask_path in tqdm(pairs, "ACDC", unit="volume", disable=None if progress else True):
        image, mask, zooms, made = _read_pair(image_path, mask_path)
        phantom |= made
        with reading(image_path, "a cine volume"):
            volumes.append(
                (number, *on_grid(image, mask, zooms, size=size, spacing_mm=spacing_mm, normalise=normalise))
            )
    return gather(volumes, spacing_mm=float(spacing_mm), name="ACDC", held_out=held_out, phantom=phantom)


def inspect(root: Path) -> dict:
    """Counts of an ACDC folder, reading but not keeping it; `missing` names files that Info.cfg promises."""
    counts = {
        "name": "ACDC",
        "patients": 0,
        "volumes": 0,
        "slices": 0,
        "labels": set(),
        "spacing_mm": [],
        "missing": [],
        "phantom": False,
    }
    for folder in _folders(root):
        counts["patients"] += 1
        if not (folder / "Info.cfg").is_file():
            counts["missing"].append(str(folder / "Info.cfg"))
            continue
        for image_path, mask_path in _frames(folder):
            if missing := [str(p) for p in (image_path, mask_path) if not p.is_file()]:
                counts["missing"] += missing
                continue
            image, mask, zooms, made = _read_pair(image_path, mask_path)
            counts["phantom"] |= made
            counts["volumes"] += 1
            counts["slices"] += len(image)
            counts["labels"] |= set(np.unique(mask).tolist())
            counts["spacing_mm"] += zooms
    return counts


def write(
    root: Path,
    number: int,
    info: Mapping[str, object],
    volumes: Mapping[int, tuple[np.ndarray, np.ndarray]],
    zooms: tuple[float, float, float],
) -> None:
    """One phantom patient below `root` in ACDC's layout; no patientNNN_4d.nii.gz, which no reader here needs.

    Args:
        root: the folder that gets patientNNN; number: NNN.
        info: `Info.cfg`, ED and ES first.
        volumes: frame number -> image and mask, (slices, rows, columns) as a viewer shows them, which becomes
            (x, y, z) as ACDC stores them.
        zooms: mm along x, y, z.
    """
    folder = root / f"patient{number:03d}"
    folder.mkdir(parents=True)
    (folder / "Info.cfg").write_text("".join(f"{key}: {value}\n" for key, value in info.items()))
    for frame, volume in volumes.items():
        for suffix, array in zip(("", "_gt"), volume, strict=True):
            nifti = nib.Nifti1Image(np.ascontiguousarray(array.transpose(2, 1, 0)), np.diag([*zooms, 1.0]))
            nifti.header.set_zooms(zooms)
            nifti.header["descrip"] = PHANTOM_MARK.encode()
            nifti.header.set_xyzt_units("mm")
            # mtime 0: the same seed gives the same bytes.
            packed = gzip.compress(nifti.to_bytes(), compresslevel=1, mtime=0)
            (folder / f"patient{number:03d}_frame{frame:02d}{suffix}.nii.gz").write_bytes(packed)


def _folders(root: Path) -> list[Path]:
    for place in PLACES:
        found = sorted(p for p in (root / place).glob("patient*") if re.fullmatch(r"patient[0-9]{1,6}", p.name))
        if any((p / "Info.cfg").is_file() for p in found):
            check_distinct(found)
            return found
    raise DataError(
        f"{root}: expected ACDC's patient001, patient002, ... with an Info.cfg each, here or in "
        f"{', '.join(PLACES[1:])}, found {'none' if root.is_dir() else 'no such folder'}; "
        "point PRR_ACDC at the folder `training` of the download"
    )


def _pairs(root: Path) -> list[tuple[int, Path, Path]]:
    """(patient, image, mask) of every annotated volume, ED before ES."""
    return [(int(folder.name.removeprefix("patient")), *pair) for folder in _folders(root) for pair in _frames(folder)]


def _frames(folder: Path) -> list[tuple[Path, Path]]:
    """The image and mask paths that Info.cfg promises."""
    path = folder / "Info.cfg"
    with reading(path, "`Key: value` lines"):
        info = dict(re.findall(r"^\s*(\w+)\s*:\s*(\S+)", path.read_text(encoding="utf-8-sig"), re.MULTILINE))
    number = re.compile("[0-9]{1,4}")
    if wrong := [
        f"{phase}: {info.get(phase, 'missing')}" for phase in PHASES if not number.fullmatch(info.get(phase, ""))
    ]:
        raise DataError(f"{path}: expected the frame numbers `ED: n` and `ES: n`, found {', '.join(wrong)}")
    stems = [f"{folder.name}_frame{int(info[phase]):02d}" for phase in PHASES]
    return [(folder / f"{stem}.nii.gz", folder / f"{stem}_gt.nii.gz") for stem in stems]


def _read_pair(image_path: Path, mask_path: Path) -> tuple[np.ndarray, np.ndarray, tuple[float, float], bool]:
    """Image and mask as (s, h, w), the in-plane spacing in mm, and whether it is a phantom."""
    image, zooms, phantom = _read_volume(image_path)
    mask, mask_zooms, _ = _read_volume(mask_path)
    if mask.shape != image.shape or not np.allclose(mask_zooms, zooms, rtol=1e-3):
        raise DataError(
            f"{mask_path}: expected the grid of {image_path.name}, {image.shape} at {zooms} mm, "
            f"found {mask.shape} at {mask_zooms} mm"
        )
    if not np.isin(mask, (0, 1, 2, 3)).all():
        raise DataError(f"{mask_path}: expected labels 0, 1, 2, 3, found {np.unique(mask)[:10].tolist()}")
    return image, mask.astype(np.uint8), zooms, phantom


def _read_volume(path: Path) -> tuple[np.ndarray, tuple[float, float], bool]:
    with reading(path, "a NIfTI volume (x, y, slice)"):
        nifti = nib.Nifti1Image.from_filename(path)
        if len(nifti.shape) != 3:
            raise DataError(f"expected 3 axes (x, y, slice), found {nifti.shape}")
        zooms = tuple(float(z) for z in nifti.header.get_zooms()[:2])
        if not all(0.1 < z < 10 for z in zooms):
            raise DataError(f"expected pixels of 0.1 to 10 mm, found {zooms}")
        volume = np.moveaxis(nifti.get_fdata(dtype=np.float32), 2, 0)  # (s, h, w)
        if not np.isfinite(volume).all():
            raise DataError("expected finite voxels, found NaN or infinity")
        return volume, zooms, nifti.header["descrip"].item().decode("latin-1") == PHANTOM_MARK
