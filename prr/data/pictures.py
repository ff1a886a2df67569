"""Images that are no NIfTI: pictures (PNG, BMP, JPEG), TIFF, and what SimpleITK reads, where it is installed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from prr.data.nifti import SAME, WIDER, Pair
from prr.data.volumes import check_spacing, reading
from prr.errors import DataError

PICTURES = (".png", ".bmp", ".jpg", ".jpeg", ".gif", ".webp")
TIFF = (".tif", ".tiff")


def read_pair(image_paths: Sequence[Path], mask_path: Path) -> Pair:
    """An image, of one file for each channel or one for all, and its mask; without a spacing a pixel counts as 1 mm.

    A mask whose colours are all alike is grey. An alpha channel that is the same everywhere says nothing, and is left
    aside.

    Raises:
        DataError: a file can't be read, images and mask of different shapes or spacings, colour where labels are
            expected, labels that were compressed with loss, or a format that needs SimpleITK where that is not
            installed.
    """
    images, spacings = zip(*(_read(path) for path in image_paths), strict=True)
    mask, spacing = _read(mask_path, is_mask=True)
    mask = mask[:, :1] if (mask == mask[:, :1]).all() else mask
    shape = (*mask.shape[:1], *mask.shape[2:])
    for path, image in zip(image_paths, images, strict=True):
        if (*image.shape[:1], *image.shape[2:]) != shape:
            found = f"{shape[0]} slices of {shape[1]} x {shape[2]}"
            expected = f"{image.shape[0]} slices of {image.shape[2]} x {image.shape[3]}"
            raise DataError(f"{mask_path}: expected {expected}, as {path.name} has, found {found}")
    stated = {each for each in (*spacings, spacing) if each}
    if stated and not np.allclose(min(stated), max(stated), rtol=1e-3):
        raise DataError(f"{mask_path}: expected the spacing of {image_paths[0].name}, found {sorted(stated)} mm")
    if mask.shape[1] != 1:
        raise DataError(f"{mask_path}: expected one label a pixel, found {mask.shape[1]} channels; save it as grey")
    for path in image_paths if not mask_path.name.lower().endswith(PICTURES + TIFF) else ():
        _check_lies(path, mask_path)
    image = np.concatenate(images, axis=1)
    return Pair(image if image.shape[1] > 1 else image[:, 0], mask[:, 0], spacings[0] or (1.0, 1.0), False, ())


def _read(path: Path, is_mask: bool = False) -> tuple[np.ndarray, tuple[float, float] | None]:
    """(s, c, h, w) values, and mm between rows and between columns, where the file says it."""
    with reading(path, "an image"):
        name = path.name.lower()
        if name.endswith(PICTURES):
            values, spacing = _picture(path, is_mask), None
        elif name.endswith(TIFF):
            values, spacing = _tiff(path)
        else:
            values, spacing = _by_simpleitk(path)
        if not np.isfinite(values).all():
            raise DataError("expected finite pixels, found NaN or infinity")
        if is_mask and (values != np.round(values)).any():
            raise DataError("expected labels, whole numbers, found others")
        return values, spacing


def _picture(path: Path, is_mask: bool) -> np.ndarray:
    """(1, c, h, w) of a picture: indices of a coloured palette where labels are expected, else what it shows."""
    with Image.open(path) as picture:
        if is_mask and picture.format == "JPEG":
            raise DataError("expected labels as they were drawn, found JPEG, which changes them; save them as PNG")
        if getattr(picture, "n_frames", 1) > 1:
            raise DataError(f"expected one picture, found {picture.n_frames} in one file")
        if picture.mode == "P":
            colours = np.reshape(picture.getpalette("RGB"), (-1, 3))
            grey = (colours == colours[:, :1]).all()
            picture = picture.convert("L") if grey else picture if is_mask else picture.convert("RGB")
        values = np.asarray(picture)
    if picture.mode in ("LA", "RGBA") and np.ptp(values[..., -1]) == 0:
        values = values[..., 0] if values.shape[2] == 2 else values[..., :-1]
    return values[None, None] if values.ndim == 2 else np.moveaxis(values, -1, 0)[None]


def _tiff(path: Path) -> tuple[np.ndarray, tuple[float, float] | None]:
    """(s, 1, h, w), or (1, 3, h, w) where it is coloured; spacing from CASE.json beside it, as nnU-Net writes it."""
    with tifffile.TiffFile(path) as file:
        if len(file.series) > 1:
            raise DataError(f"expected one image, found {len(file.series)} of different shapes in one file")
        values, axes = file.series[0].asarray(), file.series[0].axes  # S: samples, the colours of a pixel
    about = path.with_name(f"{path.stem.removesuffix('_0000')}.json")
    spacing = check_spacing(json.loads(about.read_text())["spacing"][-2:]) if about.is_file() else None
    if values.ndim not in (2, 3):
        raise DataError(f"expected a picture, or slices of one channel, found axes {axes} of {values.shape}")
    if "S" in axes:
        return np.moveaxis(values, axes.index("S"), 0)[None], spacing
    return (values if values.ndim == 3 else values[None])[:, None], spacing


def _by_simpleitk(path: Path) -> tuple[np.ndarray, tuple[float, float]]:
    """(s, c, h, w) of whatever SimpleITK reads: .mha, .nrrd, ...; cut along the widest spacing, else the last axis."""
    try:
        import SimpleITK
    except ModuleNotFoundError:
        raise DataError("expected SimpleITK for this format, found it missing; pip install SimpleITK") from None
    image = SimpleITK.ReadImage(str(path))
    if image.GetDimension() not in (2, 3):
        raise DataError(f"expected 2 or 3 axes, found {image.GetDimension()}: {image.GetSize()}")
    values, sizes = SimpleITK.GetArrayFromImage(image), [*image.GetSpacing(), 0.0][:3]  # z, y, x; x, y, z
    several = image.GetNumberOfComponentsPerPixel() > 1
    values = values if image.GetDimension() == 3 else values[None]
    values = np.moveaxis(values, -1, 1) if several else values[:, None]
    widest = int(np.argmax(sizes))
    if image.GetDimension() == 3 and sizes[widest] >= WIDER * np.delete(sizes, widest).max():
        values = np.swapaxes(values, 0, (3, 2, 0)[widest])
        sizes[widest], sizes[2] = sizes[2], sizes[widest]
    return values, check_spacing(sizes[1::-1])


def _check_lies(image: Path, mask: Path) -> None:
    """Refuse a mask that lies elsewhere than its image, or runs in other directions: voxels are laid on as stored."""
    import SimpleITK

    reader, lies = SimpleITK.ImageFileReader(), []
    for path in (image, mask):
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        lies.append((reader.GetSpacing(), reader.GetDirection(), reader.GetOrigin()))
    (spacing, direction, origin), other = lies
    near = np.allclose(spacing, other[0], rtol=1e-3) and np.allclose(direction, other[1], atol=1e-3)
    if not near or (np.abs(np.subtract(origin, other[2])) > SAME * max(spacing)).any():
        expected = f"the spacing, directions and origin of {image.name}, {lies[0]}"
        raise DataError(f"{mask}: expected {expected}, found {other}; resample it")
