"""Data sets of anyone's, in the layouts that the field shares: nnU-Net's, and lists of images and labels.

    DatasetNNN_NAME/dataset.json       channel_names, labels {name: value}, file_ending; or, as in the Decathlon and in
                                       MONAI, training: [{image, label}], labels {value: name}; nnU-Net's own list,
                                       dataset: {CASE: {images, label}}, is taken where it is there
    imagesTr/CASE_0000.nii.gz          a file for each channel (one for all of a colour picture, or of four axes)
    labelsTr/CASE.nii.gz
    splits_final.json                  optional: [{train: [CASE, ...], val: [...]}, ...]; the first is taken, as is the
                                       first `fold` of a list
    patients.csv                       optional: case,patient, where a patient has several cases

Source: Isensee et al., nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation, Nature
Methods 18, 2021, doi:10.1038/s41592-020-01008-z; Antonelli et al., The Medical Segmentation Decathlon, Nature
Communications 13, 2022, doi:10.1038/s41467-022-30695-9.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from prr.data import pictures
from prr.data.labels import IGNORED, canonical, parse
from prr.data.nifti import read_pair
from prr.data.slices import Slices
from prr.data.volumes import PHANTOM_MARK, Listing, Volume, read, read_text, reading
from prr.errors import DataError, LayoutError

FILE = "dataset.json"
NIFTI = (".nii", ".nii.gz", ".hdr", ".img")
ENDING = re.compile(r"\.(nii\.gz|[^.]+)$", re.IGNORECASE)
NAMING = 'name the values yourself, such as labels="NAME=1 OTHER=2"'
FITTED = 20  # volumes, at most, by which a field of view is chosen


class Case(NamedTuple):
    """The files of one case."""

    name: str
    images: Sequence[Path]
    label: Path
    held_out: bool = False


class Numbers(NamedTuple):
    """How labels are numbered here: from 1, without gaps."""

    names: dict[int, str]  # with 0, background
    of: dict[int, int]  # value in a file -> number
    ignore: int | None  # IGNORED, if some pixels are not counted
    mapped: bool  # by a user, so that all other values are background
    told: tuple[str, ...] = ()


def read_nnunet(
    root: str | Path,
    *,
    size: int = 128,
    spacing_mm: float | None = None,
    split: str | Iterable[int] = "paper",
    seed: int = 0,
    normalise: str = "zscore",
    labels: str | Mapping[str, int] | None = None,
    progress: bool = True,
) -> Slices:
    """Every slice of every labelled case, as `Slices` under the data set's own name.

    A volume is cut along its widest spacing, else along its last axis. A pixel without a spacing counts as 1 mm.

    Args:
        root: the folder of dataset.json, or the file.
        size: pixels, square; spacing_mm: in-plane, mm; None: such that images of the median extent are seen whole.
        split: "paper" (the data set's own: the first of splits_final.json, a list `validation`, or the first `fold`;
            without one, a random half of the patients, by `seed`), "all" (none is held out), or the held-out patients,
            numbered from 1 in the order of their names.
        normalise: "zscore" or "unit" ([0, 1]), per volume and channel.
        labels: what the values in label files are, where dataset.json does not say it or only some are wanted: "RV=1
            MYO=2 LV=3"; values that are not named are background.
        progress: show a bar on a terminal.

    Raises:
        DataError: a file is missing, can't be read, or is not as described above.
        OptionError: an unknown `normalise` or `split`, or `labels` that are no map.

    Example:
        >>> import json, tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from PIL import Image
        >>> from prr.data import read_nnunet
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for case in ("a", "b"):
        ...         for place, picture in (("imagesTr", f"{case}_0000"), ("labelsTr", case)):
        ...             path = Path(folder) / place / f"{picture}.png"
        ...             path.parent.mkdir(exist_ok=True)
        ...             Image.fromarray(np.eye(16, k=case == "b", dtype=np.uint8) + (case == "b")).save(path)
        ...     about = {"name": "Toy", "channel_names": {"0": "drawn"}, "file_ending": ".png"}
        ...     about |= {"labels": {"background": 0, "line": 1, "edge": 2}}
        ...     _ = (Path(folder) / "dataset.json").write_text(json.dumps(about))
        ...     read_nnunet(folder, size=16)
        Slices(Toy: 2 slices of 2 patients, 16 x 16 at 1 mm)
    """
    listing = find(Path(root), labels)
    spacing_mm = fitted(listing, size) if spacing_mm is None else spacing_mm
    return read(
        listing, size=size, spacing_mm=spacing_mm, split=split, seed=seed, normalise=normalise, progress=progress
    )


def fitted(listing: Listing, size: int) -> float:
    """The spacing, mm, at which the larger side of a median image spans `size` pixels, to three digits.

    Raises:
        DataError: no volume can be read.
    """
    step, extents = -(-len(listing.volumes) // FITTED), []
    for _, opened in listing.volumes[:: step or 1]:
        volume = opened()
        extents.append(max(np.multiply(volume.mask.shape[1:], volume.spacing)))
    return float(f"{np.median(extents) / size:.3g}")


def find(root: Path, labels: str | Mapping[str, int] | None = None) -> Listing:
    """The cases that a folder lists, see `read_nnunet`.

    Raises:
        DataError: no dataset.json, or one that lists no cases, names no labels, or contradicts the folder.
    """
    mapped = None if labels is None else parse(labels)
    path = root if root.name == FILE else root / FILE
    if not path.is_file():
        raise LayoutError(f"{root}: expected {FILE}, as nnU-Net lays out a data set, found none{_instead(root)}")
    root = path.parent
    with reading(path, "a JSON object of channel_names, labels and file_ending"):
        about = json.loads(read_text(path))
        if not isinstance(about, dict):
            raise DataError(f"expected an object, found {type(about).__name__}")
        numbers, channels = numbers_of(about, mapped), _channels(about)
        listed = "training" in about or isinstance(about.get("dataset"), dict)
        cases = _listed(about, root) if listed else _laid_out(about, root)
    told, stated = list(numbers.told), about.get("numTraining")
    if isinstance(stated, int) and stated not in (sum(not case.held_out for case in cases), len(cases)):
        told.append(f"expected {stated} cases, numTraining of {FILE}, found {len(cases)}")
    cases, left_out = _split(root, cases)
    patients = _patients(root, [case.name for case in cases])
    if len(set(patients.values())) == 1:
        told.append("expected two patients or more, one to train on and one to hold out, found one")
    phantom = PHANTOM_MARK in str(about.get("description", ""))
    name = about.get("name") or re.sub(r"^(Dataset|Task)\d+_", "", root.resolve().name)
    opened = [(patients[case.name], partial(_opened, case, patients, numbers, channels, phantom)) for case in cases]
    return Listing(
        str(name), root, opened, _held_out(root, cases, patients), numbers.names, ignore=numbers.ignore,
        told=told + left_out, expected=f"an image of {channels} channels",
    )  # fmt: skip


def numbers_of(about: Mapping[str, Any], mapped: dict[int, str] | None) -> Numbers:
    """How the labels of dataset.json, or those that a user names instead, {value: name}, are numbered.

    Raises:
        DataError: no labels, or labels that are no single values.
    """
    stated = _stated(about.get("labels") or {})
    told = _checked(stated) if mapped is None else ()
    pairs = stated if mapped is None else [(name, value) for value, name in mapped.items()]
    values = {value: name for name, value in pairs if value and name.casefold() != "ignore"}
    ignored = {value for name, value in (*pairs, *stated) if name.casefold() == "ignore" and type(value) is int}
    ignored -= set(values)
    if not values:
        raise DataError(f"expected labels, found none; {NAMING}")
    names = dict(enumerate(["background", *dict.fromkeys(values.values())]))
    if len(names) > IGNORED:
        raise DataError(f"expected {IGNORED - 1} labels at most, found {len(names) - 1}; {NAMING}")
    number = {name: place for place, name in names.items()}
    of = {0: 0} | {value: number[name] for value, name in values.items()} | dict.fromkeys(ignored, IGNORED)
    return Numbers(names, of, IGNORED if ignored else None, mapped is not None, told)


def _stated(labels: object) -> list[tuple[str, Any]]:
    """(name, value) of each label of dataset.json, by value where each has one; a region is left as it is."""
    if not isinstance(labels, dict):
        raise DataError(f'expected labels {{"NAME": value, ...}}, found {labels!r}')
    pairs = [(str(name).strip(), _value(value)) for name, value in labels.items()]
    if all(re.fullmatch("[0-9]+", key) for key in labels):  # the Decathlon's {"1": "liver"}
        pairs = [(str(name).strip(), int(value)) for value, name in labels.items()]
    return sorted(pairs, key=lambda pair: pair[1] if type(pair[1]) is int else 0)


def _value(value: Any) -> Any:
    """A label's value as a whole number, however it is written; what is none, as it is."""
    value = value[0] if isinstance(value, list) and len(value) == 1 else value
    written = isinstance(value, str) and re.fullmatch("[0-9]+", value)
    return int(value) if written or (isinstance(value, float) and value.is_integer()) else value


def _checked(stated: Sequence[tuple[str, Any]]) -> tuple[str, ...]:
    """What is told of labels that dataset.json states; DataError where they can't be classes."""
    wrong = {name: value for name, value in stated if type(value) is not int or not name}
    if wrong or len({value for _, value in stated}) < len(stated):
        raise DataError(
            f"expected labels of one value each, found {wrong or dict(stated)} (regions are not supported); {NAMING}"
        )
    zero = dict(map(reversed, stated)).get(0, "background")
    if moved := [value for name, value in stated if value and canonical(name) == "background"]:
        raise DataError(f"expected 0 as background, found {moved[0]}; {NAMING}")
    return () if canonical(zero) in ("background", "ignore") else (f"{zero}, 0 in label files, counts as background",)


def _channels(about: Mapping[str, Any]) -> int:
    """How many channels dataset.json names."""
    names = about.get("channel_names") or about.get("modality") or ["one"]
    if not isinstance(names, dict | list):
        raise DataError(f'expected channel_names {{"0": NAME, ...}}, found {names!r}')
    return len(names)


def _instead(root: Path) -> str:
    """What lies in a folder that is no data set."""
    if not root.is_dir():
        return ", nor such a folder"
    below = sorted(path.parent.name for path in root.glob(f"*/{FILE}"))
    return f"; name one of {', '.join(below)}" if below else ""


def _laid_out(about: Mapping[str, Any], root: Path) -> list[Case]:
    """Cases of imagesTr and labelsTr."""
    ending = about.get("file_ending")
    if not isinstance(ending, str) or not ending.strip("."):
        raise DataError(f'expected a file_ending such as ".nii.gz", found {ending!r}')
    ending = f".{ending.lstrip('.')}"
    images: dict[str, list[Path]] = {}
    for name, path in _files(root / "imagesTr", ending):
        if re.search("_[0-9]{4}$", name):
            images.setdefault(name[:-5], []).append(path)
    labels, form = dict(_files(root / "labelsTr", ending)), f"imagesTr/CASE_0000{ending} and labelsTr/CASE{ending}"
    if not images and not labels:
        raise DataError(f"expected {form}, found none; correct file_ending, or the files' names")
    if alone := sorted(set(images) ^ set(labels)):
        place, lacks = ("imagesTr", "labelsTr") if alone[0] in images else ("labelsTr", "imagesTr")
        raise DataError(
            f"expected an image and a label for each case, found {alone[0]} in {place} and not in {lacks}; files are "
            f"{form}"
        )
    for paths in images.values():
        numbers = [int(path.name[: -len(ending)][-4:]) for path in paths]
        if numbers != list(range(len(paths))):
            raise DataError(f"{paths[0]}: expected channels numbered from 0000 without gaps, found {numbers}")
    return [Case(name, images[name], label) for name, label in labels.items()]


def _files(folder: Path, ending: str) -> list[tuple[str, Path]]:
    """(name without ending, path) of each file, whose ending may be in another case; none of those that are hidden."""
    paths = (path for path in sorted(folder.glob("[!.]*")) if path.name.lower().endswith(ending.lower()))
    return [(path.name[: -len(ending)], path) for path in paths]


def _listed(about: Mapping[str, Any], root: Path) -> list[Case]:
    """Cases of the lists; of each the path of its label is the name where their files' names are the same."""
    cases = [_case(root, *entry) for entry in _entries(about)]
    if len({case.name for case in cases}) < len(cases):
        cases = [case._replace(name=ENDING.sub("", os.path.relpath(case.label, root))) for case in cases]
    names = [case.name for case in cases]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"expected each case once, found {twice[0]} twice")
    if not cases:
        raise DataError("expected cases with labels, found none in its lists")
    return cases


def _entries(about: Mapping[str, Any]) -> list[tuple[Any, bool, str | None]]:
    """What is listed, whether it is held out, and its name, if stated; `dataset`, else `training` and `validation`."""
    if isinstance(own := about.get("dataset"), dict):
        return [({"image": each.get("images"), "label": each.get("label")}, False, name) for name, each in own.items()]
    training, validation = (about.get(part) or [] for part in ("training", "validation"))
    folds = {each["fold"] for each in training if isinstance(each, dict) and "fold" in each}
    first = min(folds, key=str) if len(folds) > 1 else object()
    listed = [(each, isinstance(each, dict) and each.get("fold") == first, None) for each in training]
    # images without labels are nothing that can be used here
    return listed + [(each, True, None) for each in validation if not isinstance(each, dict) or each.get("label")]


def _case(root: Path, entry: Any, held_out: bool, name: str | None) -> Case:
    """One case of a list, whose paths may be written in another system's way."""
    files = entry.get("image") if isinstance(entry, dict) else None
    files = files if isinstance(files, list) else [files]
    if not files or not all(each and isinstance(each, str) for each in (*files, files[0] and entry.get("label"))):
        raise DataError(f'expected training: [{{"image": ..., "label": ...}}, ...], found {entry!r}')
    *images, label = (root / each.replace("\\", "/") for each in (*files, entry["label"]))
    images = [path for image in images for path in _there(image)]
    return Case(name or ENDING.sub("", label.name), images, label, held_out)


def _there(path: Path) -> list[Path]:
    """A listed image; nnU-Net's first version lists it without the numbers of its channels."""
    ending = path.name.removeprefix(ENDING.sub("", path.name))
    stem, found = path.name.removesuffix(ending), []
    while not path.is_file() and (channel := path.with_name(f"{stem}_{len(found):04d}{ending}")).is_file():
        found.append(channel)
    return found or [path]


def _split(root: Path, cases: Sequence[Case]) -> tuple[list[Case], list[str]]:
    """The cases with what splits_final.json says of each, and what is told of those that it leaves out."""
    path = root / "splits_final.json"
    if not path.is_file():
        old = path.with_suffix(".pkl")
        told = f"{old.name} is of nnU-Net's first version, and not read; write {path.name} to keep its split"
        return list(cases), [told] if old.is_file() else []
    with reading(path, "a list of {train: [CASE, ...], val: [...]}"):
        splits = json.loads(read_text(path))
        first = splits if isinstance(splits, dict) else splits[0]
        train, val = first["train"], first["val"]
        if not (isinstance(train, list) and isinstance(val, list) and train and val):
            raise DataError(f"expected cases in train and in val, found {train!r:.80} and {val!r:.80}")
        if both := sorted(set(train) & set(val)):
            raise DataError(f"expected each case in train or in val, found {both[0]} in both")
        if strange := sorted({*train, *val} - {case.name for case in cases}):
            raise DataError(f"expected cases of the data set, found {strange[0]}")
    kept = [case._replace(held_out=case.name in val) for case in cases if case.name in {*train, *val}]
    out = [case.name for case in cases if case.name not in {*train, *val}]
    return kept, [f"{len(out)} cases left out, which {path.name} names nowhere: {', '.join(out[:4])}"] if out else []


def _patients(root: Path, cases: Sequence[str]) -> dict[str, int]:
    """{case: number of its patient}, from 1 in the order of names; a case is a patient where nothing else is said."""
    path, of = root / "patients.csv", {case: case for case in cases}
    if path.is_file():
        with reading(path, "a table of case and patient"):
            of = _named(read_text(path))
            if missing := [case for case in cases if not of.get(case)]:
                raise DataError(f"expected the patient of each case, found none of {missing[0]}")
    numbers = {name: number for number, name in enumerate(sorted({of[case] for case in cases}), start=1)}
    return {case: numbers[of[case]] for case in cases}


def _named(text: str) -> dict[str, str]:
    """{case: patient} of a table, whichever sign parts its columns."""
    sign = next((each for each in ",;\t" if each in text.partition("\n")[0]), ",")
    header, *rows = csv.reader(StringIO(text), delimiter=sign)
    columns = [name.strip().lower() for name in header]
    if not {"case", "patient"} <= set(columns):
        raise DataError(f"expected columns case and patient, found {', '.join(columns)}")
    of: dict[str, str] = {}
    for row in rows:
        case, patient = ("".join(row[at : at + 1]).strip() for at in map(columns.index, ("case", "patient")))
        if of.setdefault(case, patient) != patient:
            raise DataError(f"expected one patient for each case, found {of[case]} and {patient} of {case}")
    return of


def _held_out(root: Path, cases: Sequence[Case], patients: Mapping[str, int]) -> tuple[int, ...] | None:
    """Patients of the data set's own validation part; None where it has none."""
    if not any(case.held_out for case in cases):
        return None
    held_out = {patients[case.name] for case in cases if case.held_out}
    if both := held_out & {patients[case.name] for case in cases if not case.held_out}:
        shared = sorted(case for case, patient in patients.items() if patient in both)
        path = root / "splits_final.json"
        raise DataError(
            f"{path if path.is_file() else root / FILE}: expected each patient trained on or held out, found one in "
            f"both, with the cases {', '.join(shared[:4])}; move them to one side"
        )
    return tuple(sorted(held_out))


def _opened(case: Case, patients: Mapping[str, int], numbers: Numbers, channels: int, phantom: bool) -> Volume:
    """The voxels of a case."""
    for path in (*case.images, case.label):
        if not path.is_file():
            raise DataError(f"{path}: expected an image and a label for the case {case.name}, found no such file")
    is_nifti = case.label.name.lower().endswith(NIFTI)
    pair = read_pair(case.images, case.label) if is_nifti else pictures.read_pair(case.images, case.label)
    image = pair.image if pair.image.ndim == 4 else pair.image[:, None]
    if channels == 1 and (image == image[:, :1]).all():
        image = image[:, :1]  # grey, saved as colour
    if image.shape[1] != channels:
        expected = f"{channels} channels, as {FILE} names them"
        raise DataError(f"{case.images[0]}: expected {expected}, found {image.shape[1]}; mend the names or the image")
    values = np.unique(pair.mask)
    strange = [value for value in values.tolist() if value not in numbers.of]
    if strange and not numbers.mapped:
        expected = f"labels {str(sorted(numbers.of))[:80]} as in {FILE}"
        raise DataError(f"{case.label}: expected {expected}, found {strange[:10]}; {NAMING}")
    mask = np.zeros(pair.mask.shape, np.uint8)
    for value in values:
        mask[pair.mask == value] = numbers.of.get(value, 0)
    told = list(pair.told)
    if not np.isin(mask, list(numbers.names)[1:]).any():
        told.append(f"expected some of the labels {', '.join(list(numbers.names.values())[1:])}, found none of them")
    return Volume(
        patients[case.name], image, mask, pair.spacing, phantom or pair.phantom, case.images[0], told=tuple(told)
    )
