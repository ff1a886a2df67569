"""NIfTI: an image and its mask as they lie in the patient, brought to slices, rows and columns.

What a header says is used in this order: the sform, the qform, pixdim. What it contradicts is told, not mended in
silence.
"""

import gzip
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes

from prr.data.volumes import PHANTOM_MARK, check_spacing, reading
from prr.errors import DataError

SAME = 0.5  # voxels: grids are one where no corner lies farther off
WIDER = 1.5  # as wide as the other two spacings: slices lie along it
FEW = 16  # pixels: no image has fewer on a side and many more slices
nib.imageglobals.logger.setLevel("CRITICAL")  # what it logs of headers is told here, with the file
GZIP = b"\x1f\x8b"
NIFTI_2 = (b"\x1c\x02\0\0", b"\0\0\x02\x1c")  # 540, the size of its header, in either order of bytes


class Pair(NamedTuple):
    """An image and its mask on one grid."""

    image: np.ndarray  # (s, h, w) float32, or (s, c, h, w) where there are several channels
    mask: np.ndarray  # (s, h, w), whole numbers
    spacing: tuple[float, float]  # mm between rows, mm between columns
    phantom: bool
    told: tuple[str, ...]  # a sentence each: what was done, or is odd


class Grid(NamedTuple):
    """Voxels of one file and where they lie."""

    path: Path
    voxels: np.ndarray  # (x, y, z), or (x, y, z, c)
    affine: np.ndarray  # (4, 4) voxel -> mm
    sizes: np.ndarray  # (3,) mm
    placed: bool  # whether the affine says more than the sizes
    phantom: bool
    told: tuple[str, ...]


def read_pair(image_paths: Sequence[Path], mask_path: Path) -> Pair:
    """An image, one file for each channel or one of four axes (x, y, z, c), and its mask, laid on it by their affines.

    Rows are the first of the two axes that are not the slices', columns the second. Slices lie along the axis of the
    widest spacing if it is much wider than the others, else along the last.

    Args:
        image_paths: .nii, .nii.gz or .hdr, of NIfTI-1 or NIfTI-2; packed or not, whatever the name says.
        mask_path: of such a file.

    Raises:
        DataError: a file can't be read, holds no such voxels, or lies on another grid.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from prr.data import write_phantom
        >>> from prr.data.nifti import read_pair
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     image, mask = sorted(write_phantom(f"{folder}/data", {"acdc": 1}).rglob("*frame01*.nii.gz"))
        ...     found = read_pair([image], mask)
        >>> found.image.shape == found.mask.shape, found.spacing, found.told
        (True, (1.37..., 1.37...), ())
    """
    first, *others = [_open(path, axes=3 if image_paths[1:] else 4) for path in image_paths]
    mask = _open(mask_path, labels=True)
    laid, told = [first.voxels], list(first.told)
    for grid in (*others, mask):
        voxels, done = _laid(grid, first)
        laid.append(voxels)
        told += [f"{grid.path.name}: {each}" for each in grid.told if each not in first.told] + done
    order, spacing, turned = _axes(first)
    *channels, labels = [np.moveaxis(each, order, (1, 2, 0)) for each in laid]
    image = np.moveaxis(channels[0], 3, 1) if first.voxels.ndim == 4 else channels[0]
    image = np.stack(channels, axis=1) if others else image
    return Pair(image, labels, spacing, first.phantom, (*told, *turned))


def _open(path: Path, axes: int = 3, labels: bool = False) -> Grid:
    """One file, of `axes` axes at most; those that a header leaves out have length 1."""
    with reading(path, "a NIfTI volume (x, y, slice)"):
        nifti, pixdim = _image(path)
        if nifti.get_data_dtype().kind not in "iufb":
            raise DataError(f"expected a real number in each voxel, found {nifti.get_data_dtype()}")
        voxels = _labels(nifti) if labels else nifti.get_fdata(dtype=np.float32)
        if not np.isfinite(voxels).all():
            raise DataError("expected finite voxels, found NaN or infinity")
        shape = (*nifti.shape, 1, 1)[: max(3, nifti.ndim)]
        shape = (*shape[:3], *(n for n in shape[3:] if n != 1))
        if len(shape) > axes or 0 in shape:
            raise DataError(f"expected 3 axes (x, y, slice), found {nifti.shape}")
        affine, sizes, placed, told = _affine(nifti.header, pixdim, shape[:3])
        phantom = nifti.header["descrip"].item().decode("latin-1") == PHANTOM_MARK
        return Grid(path, voxels.reshape(shape), affine, sizes, placed, phantom, told)


def _image(path: Path) -> tuple[nib.Nifti1Image, np.ndarray]:
    """The image, and its pixdim as stored, which nibabel would mend; an axis that is not there is 1 mm wide."""
    if path.suffix.lower() in (".hdr", ".img"):
        nifti = nib.load(path)
        pixdim = nifti.header["pixdim"]
    else:
        raw = path.read_bytes()
        raw = gzip.decompress(raw) if raw.startswith(GZIP) else raw
        kind = nib.Nifti2Image if raw[:4] in NIFTI_2 else nib.Nifti1Image
        nifti = kind.from_bytes(raw)
        pixdim = kind.header_class(raw[: kind.header_class.sizeof_hdr], check=False)["pixdim"]
    return nifti, np.where(np.arange(3) < nifti.ndim, np.abs(pixdim[1:4].astype(float)), 1.0)


def _labels(nifti: nib.Nifti1Image) -> np.ndarray:
    """A mask's voxels as whole numbers, as stored where they are."""
    voxels = np.asanyarray(nifti.dataobj)
    if voxels.dtype.kind != "f" or not np.isfinite(voxels).all():
        return voxels
    if not np.allclose(voxels, np.rint(voxels), rtol=0, atol=1e-3):
        raise DataError(f"expected whole numbers as labels, found {np.unique(voxels)[:10].tolist()}")
    return np.rint(voxels).astype(np.int64)


def _affine(
    header: nib.Nifti1Header, pixdim: np.ndarray, shape: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, bool, tuple[str, ...]]:
    """Voxel -> mm, the sizes of a voxel, whether the affine says more than these, and what is odd about it."""
    forms = {"sform": header.get_sform(coded=True)[0]}
    if pixdim.all():  # from which a qform takes its sizes
        forms["qform"] = header.get_qform(coded=True)[0]
    stated = {name: affine for name, affine in forms.items() if affine is not None and _usable(affine)}
    told = [
        f"its {name} is unusable, {_rows(affine)}, and left aside"
        for name, affine in forms.items()
        if affine is not None and name not in stated
    ]
    if not stated:
        if not (np.isfinite(pixdim).all() and pixdim.all()):
            raise DataError(
                f"expected the size of a voxel, found {_mm(pixdim)} in pixdim and no affine; write it there"
            )
        return np.diag([*pixdim, 1.0]), pixdim, False, tuple(told)
    name, affine = next(iter(stated.items()))
    sizes = voxel_sizes(affine)
    if not np.allclose(sizes, pixdim, rtol=1e-3):
        told.append(f"voxels of {_mm(sizes)} by the {name}, {_mm(pixdim)} by pixdim; the {name} is taken")
        pixdim = sizes
    if len(stated) == 2 and _apart(stated["qform"], affine, shape) > SAME:
        told.append("sform and qform place the volume differently; the sform is taken")
    if np.array_equal(np.abs(affine), np.eye(4)):
        told.append(
            "the affine is the identity, as where a converter lost the spacing; if a voxel is not of 1 x 1 x 1 mm, "
            "write its size into the file"
        )
    return affine, pixdim, True, tuple(told)  # where both agree, pixdim is not rounded by sums of squares


def _usable(affine: np.ndarray) -> bool:
    """Whether a volume has an extent along each axis."""
    extent = np.prod(voxel_sizes(affine))
    return bool(np.isfinite(affine).all() and abs(np.linalg.det(affine[:3, :3])) > 1e-3 * extent > 0)


def _apart(one: np.ndarray, other: np.ndarray, shape: Sequence[int]) -> float:
    """How far two affines place the corners of a grid from each other, at most, in voxels."""
    corners = np.array([[*corner, 1.0] for corner in product(*((0, n - 1) for n in shape))]).T
    return float(np.abs(np.linalg.inv(other) @ one @ corners - corners).max())


def _laid(grid: Grid, on: Grid) -> tuple[np.ndarray, list[str]]:
    """Voxels of `grid` on the grid of `on`, turned if their affines say so; and what was done."""
    affine, reference, shape = grid.affine, on.affine, on.voxels.shape[:3]
    if not (grid.placed and on.placed):  # nothing but sizes can be compared
        affine, reference = (np.diag([*each.sizes, 1.0]) for each in (grid, on))
    between = np.linalg.inv(reference) @ affine  # voxel -> voxel
    turn = np.rint(between[:3, :3] * np.divide.outer(voxel_sizes(reference), voxel_sizes(affine)))
    if all((np.abs(turn).sum(axis) == 1).all() for axis in (0, 1)):  # no axis lies askew
        voxels, signs, exact = grid.voxels.transpose(np.abs(turn).argmax(axis=1)), turn.sum(axis=1), np.eye(4)
        exact[:3, :3], exact[:3, 3] = turn, np.where(signs < 0, np.array(voxels.shape) - 1, 0)
        if voxels.shape == shape and _apart(between, exact, grid.voxels.shape) <= SAME:
            same = np.array_equal(turn, np.eye(3))
            told = [] if same else [f"{grid.path.name} runs in other directions, and was turned as the affines say"]
            return np.flip(voxels, np.flatnonzero(signs < 0).tolist()), told
    if grid.voxels.shape != shape:
        raise DataError(
            f"{grid.path}: expected the grid of {on.path.name}, {shape} voxels of {_mm(on.sizes)} mm, "
            f"found {grid.voxels.shape} of {_mm(grid.sizes)} mm"
        )
    lie = " and ".join(f"{each.path.name} {_rows(matrix)}" for each, matrix in ((on, reference), (grid, affine)))
    return grid.voxels, [f"affines contradict each other, {lie}; voxels are laid on each other as stored"]


def _axes(grid: Grid) -> tuple[tuple[int, int, int], tuple[float, float], list[str]]:
    """Axes of rows, columns and slices, the spacing of the first two, and what was done."""
    widest, order, told = int(grid.sizes.argmax()), (0, 1, 2), []
    if widest != 2 and grid.sizes[widest] >= WIDER * np.delete(grid.sizes, widest).max():
        order = (2, 1, 0) if widest == 0 else (0, 2, 1)
        told = [f"slices lie along axis {widest + 1} of 3, {grid.sizes[widest]:.4g} mm apart: the volume was turned"]
    rows, columns, slices = (grid.voxels.shape[axis] for axis in order)
    if min(rows, columns) < FEW and slices > 2 * min(rows, columns):
        raise DataError(
            f"{grid.path}: expected slices along the last axis, found {slices} images of {rows} x {columns} pixels; "
            "store the volume as (x, y, slice), with its spacing"
        )
    with reading(grid.path, "a spacing"):
        return order, check_spacing(grid.sizes[list(order[:2])]), told


def _mm(values: Sequence[float]) -> str:
    return " x ".join(f"{value:.4g}" for value in values)


def _rows(affine: np.ndarray) -> str:
    return "[" + "; ".join(" ".join(f"{value:.4g}" for value in row) for row in affine[:3]) + "]"
