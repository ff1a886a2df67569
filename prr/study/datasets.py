"""The data sets of a run: real where a folder is named, else phantoms; decoded once, and kept in the store."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from prr.data import DATA_SETS, Slices, describe, textures, write_phantom
from prr.errors import DataError, MissingError, OptionError
from prr.study.jobs import Executor, Need
from prr.study.profiles import Profile
from prr.study.store import Key, Store, digest, fingerprint

TEXTURES = "textures"  # a data set that is made, for the start "pretext"
PHANTOM_SEED = 0


@dataclass(frozen=True, eq=False)
class Data(Need):
    """A data set at one scale. What needs it knows it by its content, wherever its files lie.

    Args:
        name: one of `prr.data.DATA_SETS`, or textures.
        scale: what decides how slices look: size, spacing_mm, normalise.
        files: digests of the files and of the code that reads them; empty where only facts are known.
        folder: where they lie; None for what is made.
        facts: the columns of `prr.data.describe`, and `content`, a digest of all voxels, masks, patients and the split.
    """

    name: str
    scale: Key
    files: Key
    folder: Path | None
    facts: dict[str, Any]

    @property
    def needs(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    @property
    def question(self) -> str:
        """Names what was asked, whatever files lie there."""
        return digest({"data set": self.name, **self.scale})

    @property
    def digest(self) -> str:
        """The content's."""
        return self.facts["content"]

    def value(self, results: Executor) -> Slices:
        """The slices.

        Raises:
            MissingError: its content alone is known, as in an edition, which keeps no images.
        """
        if not self.files:
            raise MissingError(f"{self.name}: an edition keeps results and no images; compute without edition")
        return decoded(results.store, self.name, self.scale, self.files, self.folder)


def data(executor: Executor, name: str, scale: Key, folder: Path | None) -> Data:
    """A data set whose files lie in a folder, described from the store or now.

    Raises:
        DataError: the folder does not hold the data set.
        MissingError: the store only reads, and nothing is known of it yet.
    """
    store = executor.store
    files = {"files": None if folder is None else fingerprint(folder), "readers": readers()}

    def make() -> tuple[pd.DataFrame, dict]:
        with executor.measured() as cost:
            found = decoded(store, name, scale, files, folder)
        return describe(found).assign(content=content(found)), cost

    facts = store.get("tables", {"data set": name, **scale, **files, "what": "facts"}, make)[0].iloc[0].to_dict()
    return Data(name, scale, files, folder, facts)


def check_name(name: str) -> None:
    """Refuse an unknown data set.

    Raises:
        OptionError: names the known ones.
    """
    if name not in (*DATA_SETS, TEXTURES):
        raise OptionError(f"data set {name!r}: expected one of {', '.join((*DATA_SETS, TEXTURES))}")


def scale_of(profile: Profile, name: str) -> Key:
    """What of a profile decides what slices look like."""
    check_name(name)
    if name == TEXTURES:
        return {"size": profile.size}
    return {"size": profile.size, "spacing_mm": profile.spacing_mm, "normalise": profile.normalisation}


def folder_of(store: Store, profile: Profile, data_root: str | Path | None, name: str) -> Path | None:
    """Where a data set's files lie: below `data_root`, where its variable says, else a phantom's; None for textures.

    Raises:
        DataError: a root without any data set, or a variable that names nothing.
    """
    if name == TEXTURES:
        return None
    if data_root is not None:
        root = Path(data_root).expanduser()
        if (root / name).is_dir():
            return root / name
        if not any((root / other).is_dir() for other in DATA_SETS):
            raise DataError(f"data_root={root}: expected a folder that holds acdc/, t1/ or rvsc/, found none of them")
    if folder := os.environ.get(f"PRR_{name.upper()}"):
        if not Path(folder).expanduser().exists():
            raise DataError(f"PRR_{name.upper()}={folder}: nothing there; correct the variable or unset it")
        return Path(folder).expanduser().absolute()
    if (patients := getattr(profile, f"{name}_patients", None)) is None:
        raise DataError(f"{name}: expected its folder in PRR_{name.upper()} or data_root, for it has no phantom")
    return phantom(store, name, patients)


def phantom(store: Store, name: str, patients: int) -> Path:
    """The folder of a phantom of n patients, written now if it is not in the store."""
    folder = store.folder / "phantoms" / f"{name}-{patients}-{readers()}"
    if folder.exists():
        return folder / name
    store.check_make(folder)
    with store.lock(folder):
        for draft in folder.parent.glob(f".{folder.name}-*"):  # of a process that was killed
            shutil.rmtree(draft, ignore_errors=True)
        if not folder.exists():
            write_phantom(folder, patients={name: patients}, seed=PHANTOM_SEED)
    return folder / name


def decoded(store: Store, name: str, scale: Key, files: Key, folder: Path | None) -> Slices:
    """The slices of a data set, from the store or read now."""
    if folder is None:
        return textures(**scale)

    def make() -> tuple[dict, dict]:
        slices = DATA_SETS[name].read(folder, **scale)
        tensors = {"images": slices.images, "masks": slices.masks, "patient": slices.patient}
        return tensors, {"held_out": slices.held_out, "phantom": slices.phantom, "name": slices.name}

    tensors, record = store.get("slices", {"data set": name, **scale, **files}, make)
    kept = {"name": record["name"], "held_out": tuple(record["held_out"]), "phantom": record["phantom"]}
    return Slices(**tensors, spacing_mm=scale["spacing_mm"], **kept)


def content(slices: Slices) -> str:
    """Digest of what a network is trained on and validated with: voxels, masks, patients and split."""
    total = hashlib.sha256(repr(sorted(slices.held_out)).encode())
    for part in (slices.images, slices.masks, slices.patient):
        total.update(part.contiguous().numpy().tobytes())
    return total.hexdigest()[:16]


@functools.cache
def readers() -> str:
    """Digest of the code that reads and makes data: cheap to run again, so it needs no revision by hand."""
    files = sorted((Path(__file__).parents[1] / "data").glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
