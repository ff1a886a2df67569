"""The data sets, one line each: all that the rest of the project knows of them; and what works for each of them."""

import tempfile
from collections.abc import Callable, Mapping
from inspect import signature
from pathlib import Path
from typing import NamedTuple

from prr.data import acdc, nnunet, phantom, rvsc, t1
from prr.data.slices import Slices
from prr.data.volumes import Listing, Report
from prr.data.volumes import read as read_listing
from prr.errors import DataError, LayoutError, OptionError

SIZE, SPACING_MM = 128, 1.5  # the readers' own


class DataSet(NamedTuple):
    """A data set, or a layout of many: how it is read, found and imitated.

    Args:
        title: its name in tables and figures, and that of its Slices; a layout's own name.
        read: (root, *, size, spacing_mm, split, seed, normalise, progress) -> Slices; where masks lie in files also
            `labels`.
        find: (root) -> Listing, for `check`.
        write: (root, patients, seed): a phantom of n patients in its layout, below an existing, empty folder; None:
            nothing can stand in for it.
        sign: what tells the layout from others, in words.

    Example:
        >>> from prr.data import DATA_SETS
        >>> {name: each.title for name, each in DATA_SETS.items()}
        {'acdc': 'ACDC', 't1': 'T1', 'rvsc': 'RVSC'}
    """

    title: str
    read: Callable[..., Slices]
    find: Callable[[Path], Listing]
    write: Callable[[Path, int, int], None] | None = None
    sign: str = ""

    def mapped(self, labels: str | Mapping[str, int] | None) -> dict[str, str | Mapping[str, int]]:
        """A map of labels as `read` and `find` take it; nothing where there is none.

        Raises:
            OptionError: a map for a layout that takes none.
        """
        if labels is not None and "labels" not in signature(self.read).parameters:
            raise OptionError(f"labels={labels!r}: expected none for {self.title}, which holds outlines of one label")
        return {} if labels is None else {"labels": labels}


# The paper's.
DATA_SETS: dict[str, DataSet] = {
    "acdc": DataSet("ACDC", acdc.read_acdc, acdc.find, phantom.write_acdc, "patient001/Info.cfg"),
    "t1": DataSet("T1", t1.read_t1, t1.find, phantom.write_t1, t1.FILE),
    "rvsc": DataSet("RVSC", rvsc.read_rvsc, rvsc.find, phantom.write_rvsc, "TrainingSet/patient01/P01list.txt"),
}
# All that can be read, and so stand in any place of the study. A new one takes a file with its reader, and a line here.
LAYOUTS: dict[str, DataSet] = {
    **DATA_SETS,
    "nnunet": DataSet("nnU-Net", nnunet.read_nnunet, nnunet.find, sign=nnunet.FILE),
}


def recognise(root: str | Path) -> str:
    """The name of the layout that a folder has.

    Raises:
        LayoutError: it has none of them.

    Example:
        >>> import tempfile
        >>> from prr.data import recognise, write_phantom
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     recognise(write_phantom(f"{folder}/data", {"rvsc": 2}))
        'rvsc'
    """
    root = Path(root)
    for name, each in LAYOUTS.items():
        try:
            each.find(root)
        except LayoutError:
            continue
        except DataError:
            pass  # laid out so, if badly: its reader says what is wrong
        return name
    known = ", ".join(f"{each.sign} ({each.title})" for each in LAYOUTS.values())
    inside = ["a file" if root.is_file() else "no such folder"]
    if root.is_dir():
        inside = sorted(path.name for path in root.iterdir())
    found = ", ".join([*inside[:3], *(["..."] if inside[3:] else [])]) or "nothing"
    raise LayoutError(f"{root}: expected a folder that holds one of {known}, found {found}")


def check(root: str | Path, name: str | None = None, labels: str | Mapping[str, int] | None = None) -> Report:
    """Read a folder as its reader does, but collect what it would refuse, and go on.

    Args:
        root: as for its reader.
        name: of `LAYOUTS`; None: told by the folder's layout.
        labels: what the values in masks are, where they lie in files: "RV=1 MYO=2 LV=3".

    Returns:
        A `Report`: counts of what was read, what was refused, what is told. The reader reads the folder exactly if
        nothing was refused.

    Raises:
        DataError: it is not that data set.
        OptionError: an unknown name, or `labels` for a layout that holds outlines.

    Example:
        >>> import tempfile
        >>> from prr.data import check, write_phantom
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     root = write_phantom(f"{folder}/data", {"rvsc": 2})
        ...     found = check(root / "rvsc")
        >>> found.name, len(found.patients), sorted(found.areas), found.refused, found.phantom
        ('RVSC', 2, [0, 1], [], True)
    """
    name = recognise(root) if name is None else name
    if name not in LAYOUTS:
        raise OptionError(f"data set: expected one of {', '.join(LAYOUTS)}, found {name!r}")
    layout = LAYOUTS[name]
    listing = layout.find(Path(root), **layout.mapped(labels))
    report = Report(listing.name, listing.root, listing.labels)
    try:
        report.data = read_listing(
            listing, size=SIZE, spacing_mm=_spacing(name, listing), split="all", progress=False, report=report
        )
    except DataError as error:
        if report.volumes or not report.refused:  # else it adds nothing: all volumes were refused
            report.refused.append(str(error))
    return report


def _spacing(name: str, listing: Listing) -> float:
    """What the reader takes by itself."""
    try:
        return SPACING_MM if name in DATA_SETS else nnunet.fitted(listing, SIZE)
    except DataError:  # which reading meets again, and collects
        return SPACING_MM


def write_phantom(root: str | Path, patients: int | Mapping[str, int], seed: int = 0) -> Path:
    """Write phantoms below `root`: acdc/, t1/ and rvsc/, each in the layout of the real data set.

    Args:
        root: folder to make; it must not exist, or be empty. It appears at once and complete, or not at all.
        patients: n of each data set, or {"acdc": n, "t1": n, "rvsc": n} (absent or 0: not written).
            Every second RVSC patient is in Test1Set.
        seed: of everything drawn. Patient k of a data set is the same for any n.

    Returns:
        `root`.

    Raises:
        DataError: `root` holds something already.
        OptionError: an unknown data set, a negative number, or nothing to write.

    Example:
        >>> import tempfile
        >>> from prr.data import write_phantom
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     root = write_phantom(f"{folder}/data", {"acdc": 2})
        ...     print(*sorted(path.name for path in root.rglob("patient???")))
        patient001 patient002
    """
    root = Path(root)
    counts = dict(patients) if isinstance(patients, Mapping) else dict.fromkeys(DATA_SETS, patients)
    sound = set(counts) <= set(DATA_SETS) and all(isinstance(n, int) and n >= 0 for n in counts.values())
    if not sound or not any(counts.values()):
        raise OptionError(
            f"patients: expected a number above 0, or one for each of {', '.join(DATA_SETS)}, found {patients!r}"
        )
    if root.exists() and not (root.is_dir() and not any(root.iterdir())):
        raise DataError(f"{root}: expected an empty folder or none, found one in use; choose another")
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{root.name}-") as building:
        made = Path(building) / "made"
        for name, count in counts.items():
            if count:
                (made / name).mkdir(parents=True)
                DATA_SETS[name].write(made / name, count, seed)
        made.replace(root)  # an empty folder gives way
    return root
