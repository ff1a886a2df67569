"""The data sets of a run: real where a folder is named, else phantoms; decoded once, and kept in the store."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from prr.data import DATA_SETS, LAYOUTS, Slices, describe, recognise, textures, write_phantom
from prr.data.labels import canonical
from prr.data.volumes import reading
from prr.errors import DataError, LayoutError, MissingError, OptionError
from prr.study.jobs import Executor, Need
from prr.study.profiles import Profile
from prr.study.store import Key, Store, digest, fingerprint

TEXTURES = "textures"  # a data set that is made, for the start "pretext"
PHANTOM_SEED = 0
# Places of the study by their names in the paper, and how they are called where other data sets stand there.
PLACES = {"acdc": "target", "t1": "other1", "rvsc": "other2"}
FOLDERS = tuple(f"PRR_{name.upper()}" for pair in PLACES.items() for name in pair)
VARIABLES = (*FOLDERS, *(f"{name}_LABELS" for name in FOLDERS))  # all that say what stands in a place


@dataclass(frozen=True, eq=False)
class Data(Need):
    """A data set at one scale. What needs it knows it by its content, wherever its files lie.

    Args:
        name: one of `prr.data.DATA_SETS`, or textures.
        scale: what decides how slices look: size, spacing_mm, normalise.
        files: digests of the files and of the code that reads them; empty where only facts are known.
        folder: where they lie; None for what is made.
        facts: the columns of `prr.data.describe`, and those of MORE.
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


# content: a digest of all voxels, masks, patients and the split; labels: {value: name} as JSON; fitted: whether the
# spacing follows from the images
MORE = ("content", "labels", "channels", "ignore", "fitted")


def data(
    executor: Executor, name: str, scale: Key, source: Source, target: dict[str, Any] | None = None, fit: bool = False
) -> Data:
    """A data set whose files lie in a folder, described from the store or now.

    Args:
        executor: of its store.
        name: of a place, or textures.
        scale: see `scale_of`.
        source: where its files lie.
        target: facts of the target, whose labels and channels all others share; None for the target itself.
        fit: the spacing follows from the images, or from the target's.

    Raises:
        DataError: the folder does not hold the data set, or what the target needs of it.
        MissingError: the store only reads, and nothing is known of it yet.
    """
    store = executor.store
    files = {"files": None if source.folder is None else fingerprint(source.folder), "readers": readers()}
    files |= {"layout": source.layout, "map": source.labels}
    if fit:
        files["spacing_mm"] = target and target["spacing_mm"]
    if target:
        files |= {name: target[name] for name in ("labels", "channels")}

    def make() -> tuple[pd.DataFrame, dict]:
        with executor.measured() as cost:
            found = decoded(store, name, scale, files, source.folder)
        table = describe(found).assign(
            content=content(found), labels=json.dumps(dict(found.labels)), channels=found.images.shape[1],
            ignore=-1 if found.ignore is None else found.ignore, fitted=fit,
        )  # fmt: skip
        own = source.layout == name or found.phantom
        return table if own else table.assign(origin="real stand-in"), cost

    facts = store.get("tables", {"data set": name, **scale, **files, "what": "facts"}, make)[0].iloc[0].to_dict()
    return Data(name, scale, files, source.folder, facts)


def place_of(name: str) -> str:
    """The place that a name stands for: "t1" for other1.

    Raises:
        OptionError: names the known ones.
    """
    known = {**{each: each for each in (*PLACES, TEXTURES)}, **{alias: each for each, alias in PLACES.items()}}
    if name not in known:
        raise OptionError(f"data set {name!r}: expected one of {', '.join(known)}")
    return known[name]


def scale_of(profile: Profile, name: str) -> Key:
    """What of a profile decides what slices look like."""
    if name == TEXTURES:
        return {"size": profile.size}
    return {"size": profile.size, "spacing_mm": profile.spacing_mm, "normalise": profile.normalisation}


class Source(NamedTuple):
    """Where a data set's files lie: a folder, the name of its layout, and how its labels are mapped, if they are."""

    folder: Path | None
    layout: str
    labels: str | None = None


Given = dict[str, Source]  # what a user has put into places; the others are left to the phantoms


def given(data_root: str | Path | None) -> Given:
    """What a user has put into the places of the study: below `data_root`, or named by variables.

    Raises:
        DataError: a root without any data set, a variable that names nothing, two names for one place, or one data set
            in two places.
    """
    root = None if data_root is None else Path(data_root).expanduser().absolute()
    found = {place: source for place in PLACES if (source := in_place(place, root))}
    if root and not any(source.folder.is_relative_to(root) for source in found.values()):
        raise DataError(f"data_root={data_root}: expected a folder that holds acdc/, t1/ or rvsc/, found none of them")
    for place, source in found.items():
        twin = next(other for other in found if _same(found[other], source))
        if twin != place:
            both = f"{PLACES[twin]} and {PLACES[place]}"
            raise DataError(f"{both}: expected two data sets, found {source.folder} in both; name another")
    return found


def _same(one: Source, other: Source) -> bool:
    """Whether two places would hold the same slices."""
    return one.folder.resolve() == other.folder.resolve() and one.labels == other.labels


def in_place(place: str, root: Path | None = None) -> Source | None:
    """What a user has put into one place, see `given`."""
    names = (place, PLACES[place])
    below = [root / name for name in names if (root / name).is_dir()] if root else []
    if below[1:]:
        raise DataError(f"{below[0]}: expected one data set for this place, found {below[1]} too; remove one")
    named, labels = next(iter(below), None) or _variable(*names), _variable(*names, "_LABELS")
    if named is None:
        if labels:
            raise DataError(f"PRR_{names[1].upper()}_LABELS={labels}: expected a data set in its place, found none")
        return None
    folder = Path(named).expanduser().absolute()
    layout = layout_of(place, folder)
    # changes are noticed in a folder's files alone, so dataset.json stands for its own
    return Source(folder.parent if layout == "nnunet" and folder.is_file() else folder, layout, labels)


def _variable(place: str, alias: str, suffix: str = "") -> str | None:
    """What the variable of a place says, whichever of its names is used."""
    names = [f"PRR_{name.upper()}{suffix}" for name in (place, alias)]
    found = {name: value for name in names if (value := os.environ.get(name))}
    if len({value if suffix else Path(value).expanduser().absolute() for value in found.values()}) > 1:
        told = ", ".join(f"{name}={value}" for name, value in found.items())
        raise DataError(f"{told}: expected one, for both name the same place; unset the other")
    for name, value in found.items():
        if not suffix and not Path(value).expanduser().exists():
            raise DataError(f"{name}={value}: nothing there; correct the variable or unset it")
    return next(iter(found.values()), None)


def layout_of(place: str, folder: Path) -> str:
    """The layout of a folder: told by itself, else that of the paper's set, whose reader then says what it lacks.

    Raises:
        LayoutError: none is known, of what bears no name of the paper's.
    """
    try:
        return recognise(folder)
    except LayoutError:
        if os.environ.get(f"PRR_{PLACES[place].upper()}") or folder.name == PLACES[place]:
            raise
        return place


def is_own(given: Given) -> bool:
    """Whether the target is a data set of the reader's, which no phantom resembles."""
    return "acdc" in given and given["acdc"].layout not in DATA_SETS


def places(given: Given) -> tuple[str, ...]:
    """The places that hold a data set, the target's first: phantoms stand beside the paper's sets alone."""
    return tuple(name for name in PLACES if name == "acdc" or name in given or not is_own(given))


def source_of(store: Store, profile: Profile, given: Given, name: str) -> Source:
    """Where a data set's files lie; a phantom's are written now if they are not in the store.

    Raises:
        DataError: nothing stands in this place.
    """
    if name == TEXTURES:
        return Source(None, TEXTURES)
    if name in given:
        return given[name]
    if name not in places(given):
        alias = PLACES[name].upper()
        raise DataError(
            f"{PLACES[name]}: expected a data set beside the target's, found none; name its folder: PRR_{alias}=..., "
            f"or make book {alias}=..."
        )
    return Source(phantom(store, name, getattr(profile, f"{name}_patients")), name)


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
    labels = {int(value): label for value, label in json.loads(files.get("labels", "{}")).items()}  # the target's
    channels = files.get("channels", 1)
    if folder is None:
        return textures(**scale, **({"labels": labels} if labels else {}), channels=channels)

    def make() -> tuple[dict, dict]:
        asked = scale | {each: files[each] for each in ("spacing_mm",) if each in files}
        layout = LAYOUTS[files["layout"]]
        slices = layout.read(folder, **asked, **layout.mapped(files["map"]))
        if labels and labels != slices.labels:
            _tell_unmatched(slices.labels, labels, folder)
            with reading(folder, "the target's labels"):
                slices = slices.relabelled(labels)
        if labels and slices.images.shape[1] != channels:
            raise DataError(
                f"{folder}: expected {channels} channels, as the target has, found {slices.images.shape[1]}; leave "
                f"{PLACES[name]} empty, or name a set of as many"
            )
        tensors = {"images": slices.images, "masks": slices.masks, "patient": slices.patient}
        return tensors, {each: getattr(slices, each) for each in KEPT} | {"labels": dict(slices.labels)}

    tensors, record = store.get("slices", {"data set": name, **scale, **files}, make)
    kept = {each: record[each] for each in KEPT} | {"held_out": tuple(record["held_out"])}
    return Slices(**tensors, **kept, labels={int(value): label for value, label in record["labels"].items()})


def _tell_unmatched(own: Mapping[int, str], wanted: Mapping[int, str], folder: Path) -> None:
    """Warn where labels on both sides are left over, as when one is spelt in two ways."""
    here, there = ({canonical(name): name for value, name in each.items() if value} for each in (own, wanted))
    left, lacking = ([one[name] for name in one if name not in other] for one, other in ((here, there), (there, here)))
    if left and lacking and len(left) < len(here):
        warnings.warn(
            f"{folder}: no {', '.join(lacking)}, as the target has; its {', '.join(left)} counts as background; if "
            f'these are the same, map labels, such as "{lacking[0]}=1"',
            stacklevel=2,
        )


KEPT = ("held_out", "phantom", "name", "spacing_mm", "ignore")  # of slices, beside their tensors and labels


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
