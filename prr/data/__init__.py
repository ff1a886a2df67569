"""Cardiac MRI: one reader for each data set, and phantoms in the same layouts."""

from pathlib import Path

from prr.data import acdc, rvsc, t1
from prr.data.acdc import read_acdc
from prr.data.phantom import write_phantom
from prr.data.rvsc import read_rvsc
from prr.data.slices import Slices, describe, split
from prr.data.t1 import read_t1
from prr.data.textures import textures
from prr.errors import OptionError

__all__ = ["Slices", "check", "describe", "read_acdc", "read_rvsc", "read_t1", "split", "textures", "write_phantom"]

_INSPECT = {"acdc": acdc.inspect, "t1": t1.inspect, "rvsc": rvsc.inspect}


def check(name: str, root: str | Path) -> dict:
    """What lies in a data set's folder, read file by file but not kept.

    Args:
        name: "acdc", "t1" or "rvsc", in either case.
        root: as for its reader.

    Returns:
        name, patients, volumes, slices (annotated ones), labels (ascending), spacing_mm (smallest and largest
        as stored, None where the format has none), missing (a line for each absent file or contour), phantom.

    Raises:
        DataError: it is not that data set, or a file of it is broken.
        OptionError: an unknown name.
    """
    if name.lower() not in _INSPECT:
        raise OptionError(f"data set: expected one of {', '.join(_INSPECT)}, found {name!r}")
    found = _INSPECT[name.lower()](Path(root))
    spacing = found["spacing_mm"]
    return found | {
        "labels": sorted(found["labels"]),
        "spacing_mm": (min(spacing), max(spacing)) if spacing else None,
    }
