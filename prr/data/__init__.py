"""Cardiac MRI: one reader for each data set, and phantoms in the same layouts."""

from prr.data.acdc import read_acdc
from prr.data.rvsc import read_rvsc
from prr.data.sets import DATA_SETS, DataSet, check, recognise, write_phantom
from prr.data.slices import Slices, describe, split
from prr.data.t1 import read_t1
from prr.data.textures import textures

__all__ = [
    "DATA_SETS",
    "DataSet",
    "Slices",
    "check",
    "describe",
    "read_acdc",
    "read_rvsc",
    "read_t1",
    "recognise",
    "split",
    "textures",
    "write_phantom",
]
