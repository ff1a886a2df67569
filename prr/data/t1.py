"""T1: native T1-weighted images of the left ventricle, one MATLAB v7.3 (HDF5) file of 210 patients.

The file itself was not at hand. Certain, as public code that reads it relies on it: the struct `Dataset`; one
cell per patient, nested once more, in each of its fields; the order of axes, (H, W, T, S) for images, (60, 2,
T, S) for contours, (T, S) for times; x before y. Not certain, and so arguments: whether contours count pixels
from 1 or 0 (`first_pixel`), and the size of a pixel (`pixel_mm`), which the file does not hold. The rest is
checked on reading.

Source: Fahmy et al., Automated analysis of cardiovascular magnetic resonance myocardial native T1 mapping
images using fully convolutional neural networks, JCMR 21:7, 2019, doi:10.1186/s12968-018-0516-1; the data are
likely doi:10.7910/DVN/DHEUAV.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import h5py
import numpy as np

from prr.data.slices import Slices
from prr.data.volumes import PHANTOM_MARK, Listing, Volume, fill, read, reading
from prr.errors import DataError, LayoutError

FILE = "T1Dataset210.mat"
FIELDS = {"Img": 4, "EndoContours": 4, "EpiContours": 4, "TriggerTime": 2}  # and their axes
OLDER = (b"MATLAB 5.0", b"MATLAB 6.0", b"MATLAB 7.0")
POINTS = 60
PAPER_TRAIN, PAPER_VALIDATION = 60 / 210, 30 / 210


def read_t1(
    root: str | Path,
    *,
    size: int = 128,
    spacing_mm: float = 1.5,
    split: str | Iterable[int] = "paper",
    seed: int = 0,
    normalise: str = "zscore",
    pixel_mm: float = 2.1,
    first_pixel: int = 1,
    progress: bool = True,
) -> Slices:
    """Every annotated T1-weighted image, slice by slice, as `Slices` named "T1"; label 2 only.

    A patient's images are one volume, so that contrast still follows the inversion time after normalisation
    (see `volumes.place`). Images without a contour (none, NaN, or all zero) are left out, and a warning reports
    their number.

    Args:
        root: the folder of T1Dataset210.mat, the folder above (`t1`), or the file.
        size: pixels, square; spacing_mm: in-plane, mm.
        split: "paper" (the first 60 of 210 patients train, the last 30 are held out, in proportion where
            there are fewer, and those between are not read), "all" (none is held out), or the held-out ones,
            from 1.
        seed: unused, as no split is random here; all readers take the same arguments.
        normalise: "zscore" or "unit" ([0, 1]), per patient.
        pixel_mm: size of a pixel in the file, mm. 2.1 is an assumption, from protocols of this kind.
        first_pixel: what contours call the first row and column: 1, as MATLAB does, or 0.
        progress: show a bar on a terminal.

    Raises:
        DataError: the file is missing, can't be read, or is not as described above.
        OptionError: an unknown `normalise` or `split`.

    Example:
        >>> import tempfile
        >>> from prr.data import read_t1, write_phantom
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     root = write_phantom(f"{folder}/data", {"t1": 4})
        ...     found = read_t1(root / "t1", size=64, spacing_mm=3)
        >>> found
        Slices(T1, phantom: ...)
        >>> found.masks.unique().tolist()
        [0, 2]
    """
    listing = find(
        Path(root), paper=isinstance(split, str) and split == "paper", pixel_mm=pixel_mm, first_pixel=first_pixel
    )
    options = {"size": size, "spacing_mm": spacing_mm, "split": split, "seed": seed, "normalise": normalise}
    return read(listing, **options, progress=progress)


def find(root: Path, *, paper: bool = False, pixel_mm: float = 2.1, first_pixel: int = 1) -> Listing:
    """The patients of the T1 file, all of them or those of the paper; each has images and contours of its own."""
    path = _find(root)
    with _open(path) as data:
        count = len(data)
    train, validation = paper_split(count)
    numbers = train + validation if paper else range(1, count + 1)
    volumes = [(number, partial(_read_patient, path, number, pixel_mm, first_pixel)) for number in numbers]
    return Listing("T1", path, volumes, held_out=validation, holds=(0, 2), expected="images and contours")


def paper_split(count: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Training and validation patients, from 1: the paper's first 60 and last 30 of 210, in proportion."""
    train = max(1, round(count * PAPER_TRAIN))
    validation = max(min(1, count - train), round(count * PAPER_VALIDATION))
    return tuple(range(1, train + 1)), tuple(range(count - validation + 1, count + 1))


def write(root: Path, patients: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]) -> None:
    """A phantom T1Dataset210.mat below `root`, as MATLAB's `save -v7.3` would write it.

    Args:
        root: an existing folder.
        patients: for each, in MATLAB's axes and counting pixels from 1: images (H, W, T, S) uint16,
            endocardial and epicardial contours (60, 2, T, S) in pixels, inversion times (T, S) in ms.
    """
    with h5py.File(root / FILE, "w", userblock_size=512) as file:
        file.attrs["made_by"] = PHANTOM_MARK
        store, cells = file.create_group("#refs#"), {field: [] for field in FIELDS}

        def put(data: np.ndarray, kind: str, parent: h5py.Group = store, name: str | None = None) -> h5py.Dataset:
            refs = kind == "cell"
            options = {} if refs or data.size < 10_000 else {"chunks": (1, 1, *data.shape[2:]), "compression": 1}
            item = parent.create_dataset(
                name or f"r{len(store):06d}", data=data, dtype=h5py.ref_dtype if refs else None, **options
            )
            item.attrs["MATLAB_class"] = np.bytes_(kind)
            return item

        for patient in patients:
            for (field, column), array in zip(cells.items(), patient, strict=True):
                value = put(np.ascontiguousarray(array.T), "uint16" if field == "Img" else "double")
                column.append(put(np.array([[value.ref]], dtype=h5py.ref_dtype), "cell").ref)
        struct = file.create_group("Dataset")
        struct.attrs["MATLAB_class"] = np.bytes_("struct")
        for field, column in cells.items():
            put(np.array(column, dtype=h5py.ref_dtype)[:, None], "cell", struct, field)  # MATLAB's 1 x P
    header = b"MATLAB 7.3 MAT-file, made by prr, a phantom".ljust(116) + bytes(8) + b"\x00\x02IM"
    with (root / FILE).open("r+b") as raw:
        raw.write(header)


def _find(root: Path) -> Path:
    """The file, here or a few levels down; another name will do where only one file can be meant."""
    if root.is_file() and root.suffix.lower() == ".mat":
        return root
    below = sorted(
        path for level in ("*", "*/*", "*/*/*") for path in root.glob(level) if path.suffix.lower() == ".mat"
    )
    named = [path for path in below if path.name.lower() == FILE.lower()] or below
    if not named:
        raise LayoutError(
            f"{root / FILE}: expected the T1 data set in one file, found none; point PRR_T1 at its folder"
        )
    if named[1:]:
        raise DataError(f"{root}: expected one {FILE}, found {named[0]} and {named[1]}; name the file")
    return named[0]


@contextmanager
def _open(path: Path) -> Iterator["_Dataset"]:
    with reading(path, "a MATLAB v7.3 (HDF5) file"):
        with path.open("rb") as raw:
            if (kind := raw.read(10)) in OLDER:
                raise DataError(
                    f"expected a MATLAB v7.3 (HDF5) file, found {kind.decode()}; load it in MATLAB and save with -v7.3"
                )
        file = h5py.File(path, "r")
    with file:
        with reading(path, f"a struct `Dataset` of cell arrays {', '.join(FIELDS)}"):
            data = _Dataset(file, path)
        yield data


class _Dataset:
    """The open file: arrays by field and patient (from 1), in MATLAB's axes."""

    def __init__(self, file: h5py.File, path: Path) -> None:
        self.file, self.path, self.phantom = file, path, file.attrs.get("made_by", "") == PHANTOM_MARK
        struct = self._member(file, "Dataset", h5py.Group)
        self.cells = {field: self._references(self._member(struct, field, h5py.Dataset)) for field in FIELDS}
        if len({len(column) for column in self.cells.values()}) > 1 or not len(self):
            counts = ", ".join(f"{len(column)} of {field}" for field, column in self.cells.items())
            raise DataError(f"expected a cell for each patient in each field, found {counts}")

    def __len__(self) -> int:
        return len(self.cells["Img"])

    def where(self, number: int) -> str:
        """What an error names."""
        return f"{self.path}: patient {number}"

    @staticmethod
    def _member(group: h5py.Group, name: str, kind: type) -> h5py.Group | h5py.Dataset:
        # A soft or external link may lead to another file: only what lies in this one is read.
        names = list(group)
        if name not in names or not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise DataError(f"expected {name} in {group.name}, found {', '.join(group.keys()) or 'nothing'}")
        if not isinstance(group[name], kind):
            raise DataError(f"expected {name} to be a {kind.__name__}, found {group[name]}")
        return group[name]

    @staticmethod
    def _references(item: h5py.Dataset) -> list[h5py.Reference]:
        if item.dtype != h5py.ref_dtype:
            raise DataError(f"expected {item.name} to be a cell array, found {item.dtype}")
        return list(item[()].ravel())

    def _stored(self, field: str, number: int) -> h5py.Dataset:
        """The numbers in a patient's cell, which is nested once (or not at all)."""
        item = self.file[self.cells[field][number - 1]]
        if isinstance(item, h5py.Dataset) and item.dtype == h5py.ref_dtype:
            inner = self._references(item)
            if len(inner) != 1:
                raise DataError(f"{field}: expected one array in the cell, found {len(inner)}")
            item = self.file[inner[0]]
        numeric = isinstance(item, h5py.Dataset) and item.dtype.kind in "fiu"
        if not numeric or item.external or item.is_virtual:
            raise DataError(f"{field}: expected numbers, kept in this file, found {item}")
        return item

    def shape(self, field: str, number: int) -> tuple[int, ...]:
        """MATLAB drops trailing axes of length 1; here they are back."""
        shape = self._stored(field, number).shape[::-1]
        if len(shape) > FIELDS[field]:
            raise DataError(f"{field}: expected {FIELDS[field]} axes, found {shape}")
        return (*shape, *[1] * (FIELDS[field] - len(shape)))

    def _array(self, field: str, number: int) -> np.ndarray:
        """(S T, ...), slices outermost."""
        first, second, *weightings = self.shape(field, number)
        stored = self._stored(field, number)[()].T.reshape(first, second, *weightings)
        return stored.transpose(3, 2, 0, 1).reshape(-1, first, second)

    def image(self, number: int) -> np.ndarray:
        """(S T, H, W)."""
        weightings, times = self.shape("Img", number)[2:], self.shape("TriggerTime", number)
        if times != weightings:
            raise DataError(f"TriggerTime: expected (T, S) = {weightings} as Img has, found {times}")
        image = self._array("Img", number)
        if not np.isfinite(image).all():
            raise DataError("Img: expected finite voxels, found NaN or infinity")
        return image

    def contours(self, field: str, number: int) -> np.ndarray:
        """(S T, 60, 2) x and y as stored; NaN where nothing is drawn."""
        weightings = self.shape("Img", number)[2:]
        if self._stored(field, number).attrs.get("MATLAB_empty", 0):
            return np.full((np.prod(weightings), POINTS, 2), np.nan)
        expected = (POINTS, 2, *weightings)
        if (shape := self.shape(field, number)) != expected:
            raise DataError(f"{field}: expected (points, xy, T, S) = {expected}, found {shape}")
        points = self._array(field, number).astype(float)
        points[(points == 0).all(axis=(1, 2))] = np.nan
        return points

    def drawn(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Which images have both contours, (S T,) bool, and the endocardial and epicardial contours."""
        endo, epi = (self.contours(field, number) for field in ("EndoContours", "EpiContours"))
        return ~np.isnan(endo).any(axis=(1, 2)) & ~np.isnan(epi).any(axis=(1, 2)), endo, epi


def _read_patient(path: Path, number: int, pixel_mm: float, first_pixel: int) -> Volume:
    """The images with a contour, which may be none."""
    with _open(path) as data, reading(data.where(number), "images and contours"):
        image, (drawn, endo, epi) = data.image(number), data.drawn(number)
        pairs = zip(endo[drawn] - first_pixel, epi[drawn] - first_pixel, strict=True)
        mask = np.array([_myocardium(*pair, image.shape[1:]) for pair in pairs])
    left_out = int((~drawn).sum())
    return Volume(number, image[drawn], mask, (pixel_mm, pixel_mm), data.phantom, data.where(number), left_out)


def _myocardium(endo: np.ndarray, epi: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(h, w) label 2 inside the epicardial and not inside the endocardial contour."""
    cavity, heart = fill(endo, shape), fill(epi, shape)
    if cavity.sum() >= heart.sum():
        raise DataError(
            f"expected the endocardial contour within the epicardial one, found {cavity.sum()} "
            f"and {heart.sum()} pixels inside"
        )
    return np.where(heart & ~cavity, 2, 0).astype(np.uint8)
