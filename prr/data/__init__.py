"""Labelled images: a reader for each layout, and phantoms in those of the paper's data sets."""

from prr.data.acdc import read_acdc
from prr.data.nnunet import read_nnunet
from prr.data.rvsc import read_rvsc
from prr.data.sets import DATA_SETS, LAYOUTS, DataSet, check, recognise, write_phantom
from prr.data.shapes import write_shapes
from prr.data.slices import Slices, describe, split
from prr.data.t1 import read_t1
from prr.data.textures import textures

__all__ = [
    "DATA_SETS",
    "LAYOUTS",
    "DataSet",
    "Slices",
    "check",
    "describe",
    "read_acdc",
    "read_nnunet",
    "read_rvsc",
    "read_t1",
    "recognise",
    "split",
    "textures",
    "write_phantom",
    "write_shapes",
]
