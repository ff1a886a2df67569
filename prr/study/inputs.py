"""The data sets of a run: real where a folder is named, else phantoms; decoded once, and kept in the store."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from prr.data import Slices, describe, read_acdc, read_rvsc, read_t1, textures, write_phantom
from prr.errors import DataError, OptionError
from prr.study.starts import TEXTURES
from prr.study.store import Key, Store, content, fingerprint

if TYPE_CHECKING:
    from prr.study.experiment import Experiment

READERS = {"acdc": read_acdc, "t1": read_t1, "rvsc": read_rvsc}
PHANTOM_SEED = 0
FEW = 7  # patients of a phantom that is only looked at


def slices(run: Experiment, name: str) -> Slices:
    """Slices of acdc, t1 or rvsc at the profile's size and spacing: real if a folder is named, else phantom.

    "textures" is neither: see `prr.data.textures`.

    Raises:
        OptionError: an unknown data set.
        DataError: a named folder that is not the data set.
        MissingError: the run reads an edition, which keeps no images.
    """
    _check(name)
    if run.edition:
        run.store.check_make(f"the slices of {name}")
    if name not in run._slices:
        made = name == TEXTURES
        run._slices[name] = textures(size=run.profile.size) if made else _decoded(run, name)
    return run._slices[name]


def facts(run: Experiment, name: str) -> dict[str, Any]:
    """What is known of a data set without its images: the columns of `prr.data.describe`, and a digest of the content.

    Raises:
        OptionError, DataError: as `slices`.
        MissingError: the run only reads, and it is not there.
    """
    _check(name)
    if name not in run._facts:
        key = {"table": "data", **_scale(run, name)}
        if not run.edition:
            key |= {"files": None if name == TEXTURES else fingerprint(_folder(run, name)), "readers": _sources()}

        def make() -> tuple[pd.DataFrame, dict]:
            found = run.slices(name)
            return describe(found).assign(content=content(found)), {}

        run._facts[name] = run.store.table(key, make)[0].iloc[0].to_dict()
    return run._facts[name]


def pictured(run: Experiment, name: str) -> Slices:
    """Slices to show: of the validation patients; beside an edition, which keeps no images, of a small phantom."""
    if not run.edition:
        return run.slices(name).validation
    root = phantom(Store(), name, FEW).parent  # named, so that no real data set takes its place
    shown = type(run)(run.profile.name, data_root=root, **run.overrides).slices(name).validation
    return dataclasses.replace(shown, name=f"{shown.name}, a phantom (an edition keeps no images)")


def described(run: Experiment, *names: str) -> pd.DataFrame:
    """`prr.data.describe` of some of acdc, t1 and rvsc, a row each."""
    return pd.DataFrame([run.facts(name) for name in names]).drop(columns="content")


def training_patients(run: Experiment, name: str) -> int:
    """How many patients of a data set networks learn from."""
    found = run.facts(name)
    return int(found["patients"] - found["held out"])


def _check(name: str) -> None:
    if name not in (*READERS, TEXTURES):
        raise OptionError(f"data set {name!r}: expected one of {', '.join((*READERS, TEXTURES))}")


def _scale(run: Experiment, name: str) -> Key:
    """What of the profile decides what slices look like."""
    scale = run.profile
    if name == TEXTURES:
        return {"data set": name, "size": scale.size}
    return {
        "data set": name, "size": scale.size, "spacing_mm": scale.spacing_mm, "normalise": scale.normalisation
    }  # fmt: skip


def _folder(run: Experiment, name: str) -> Path:
    if run.data_root is not None:
        root = Path(run.data_root).expanduser()
        if (root / name).is_dir():
            return root / name
        if not any((root / other).is_dir() for other in READERS):
            raise DataError(f"data_root={root}: expected a folder that holds acdc/, t1/ or rvsc/, found none of them")
    if folder := os.environ.get(f"PRR_{name.upper()}"):
        if not Path(folder).expanduser().exists():
            raise DataError(f"PRR_{name.upper()}={folder}: nothing there; correct the variable or unset it")
        return Path(folder).expanduser()
    return phantom(run.store, name, getattr(run.profile, f"{name}_patients"))


def phantom(store: Store, name: str, patients: int) -> Path:
    """The folder of a phantom of so many patients, written now if it is not in the store."""
    folder = store.folder / "phantoms" / f"{name}-{patients}-{_sources()}"
    if folder.exists():
        return folder / name
    store.check_make(folder)
    with store.lock(folder):
        for draft in folder.parent.glob(f".{folder.name}-*"):  # of a process that was killed
            shutil.rmtree(draft, ignore_errors=True)
        if not folder.exists():
            write_phantom(folder, patients={name: patients}, seed=PHANTOM_SEED)
    return folder / name


def _decoded(run: Experiment, name: str) -> Slices:
    folder, scale = _folder(run, name), _scale(run, name)
    key = {**scale, "files": fingerprint(folder), "readers": _sources()}

    def make() -> tuple[dict, dict]:
        arguments = {each: scale[each] for each in ("size", "spacing_mm", "normalise")}
        slices = READERS[name](folder, **arguments)
        tensors = {"images": slices.images, "masks": slices.masks, "patient": slices.patient}
        return tensors, {"held_out": slices.held_out, "phantom": slices.phantom, "name": slices.name}

    tensors, record = run.store.tensors("slices", key, make)
    kept = {"name": record["name"], "held_out": tuple(record["held_out"]), "phantom": record["phantom"]}
    return Slices(**tensors, spacing_mm=scale["spacing_mm"], **kept)


def _sources() -> str:
    """Digest of the code that reads and makes data: cheap to run again, so it needs no revision by hand."""
    files = sorted((Path(__file__).parents[1] / "data").glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
