"""Data sets of anyone's, in the layouts that the field shares: nnU-Net's, and lists of images and labels.

    DatasetNNN_NAME/dataset.json       channel_names, labels {name: value}, file_ending; or, as in the Decathlon and in
                                       MONAI, training: [{image, label}], labels {value: name}
    imagesTr/CASE_0000.nii.gz          a file for each channel (one for all of a colour picture, or of four axes)
    labelsTr/CASE.nii.gz
    splits_final.json                  optional: [{train: [CASE, ...], val: [...]}, ...]; the first is taken
    patients.csv                       optional: case,patient, where a patient has several cases

Source: Isensee et al., nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation, Nature
Methods 18, 2021, doi:10.1038/s41592-020-01008-z; Antonelli et al., The Medical Segmentation Decathlon, Nature
Communications 13, 2022, doi:10.1038/s41467-022-30695-9.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from prr.data import pictures
from prr.data.labels import IGNORED, parse
from prr.data.nifti import read_pair
from prr.data.slices import Slices
from prr.data.volumes import PHANTOM_MARK, Listing, Volume, read, reading
from prr.errors import DataError, LayoutError

FILE = "dataset.json"
NIFTI = (".nii", ".nii.gz", ".hdr", ".img")
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
        split: "paper" (the data set's own: the first of splits_final.json, or a list `validation`; without one, a
            random half of the patients, by `seed`), "all" (none is held out), or the held-out patients, numbered from 1
            in the order of their names.
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
    with reading(path, "a JSON object of channel_names, labels and file_ending"):
        about = json.loads(path.read_text(encoding="utf-8-sig"))
        if not isinstance(about, dict):
            raise DataError(f"expected an object, found {type(about).__name__}")
        numbers = numbers_of(about, mapped)
        channels = len(about.get("channel_names") or about.get("modality") or ["one"])
        cases = _listed(about, path.parent) if "training" in about else _laid_out(about, path.parent)
        if not cases:
            raise DataError("expected cases with labels, found none")
    patients = _patients(path.parent, [case.name for case in cases])
    held_out = _held_out(path.parent, cases, patients)
    phantom = PHANTOM_MARK in str(about.get("description", ""))
    name = about.get("name") or re.sub(r"^(Dataset|Task)\d+_", "", path.parent.resolve().name)
    opened = [(patients[case.name], partial(_opened, case, patients, numbers, channels, phantom)) for case in cases]
    return Listing(
        str(name), root, opened, held_out, numbers.names, ignore=numbers.ignore,
        expected=f"an image of {channels} channels",
    )  # fmt: skip


def numbers_of(about: Mapping[str, Any], mapped: dict[int, str] | None) -> Numbers:
    """How the labels of dataset.json, or those that a user names instead, {value: name}, are numbered.

    Raises:
        DataError: no labels, or labels that are no single values.
    """
    stated = about.get("labels")
    stated = stated if isinstance(stated, dict) else {}
    if stated and all(re.fullmatch("[0-9]+", key) for key in stated):  # the Decathlon's {"1": "liver"}
        stated = {name: int(value) for value, name in stated.items()}
    ignore = stated.pop("ignore", None)
    values = mapped
    if mapped is None:
        wrong = {name: value for name, value in stated.items() if type(value) is not int or not str(name).strip()}
        if wrong or len(set(stated.values())) < len(stated):
            raise DataError(
                f"expected labels of one value each, found {wrong or stated} (regions are not supported); name the "
                'values yourself, such as labels="NAME=1 OTHER=2"'
            )
        values = {value: str(name) for name, value in sorted(stated.items(), key=lambda pair: pair[1]) if value}
    if not values:
        raise DataError('expected labels, found none; name the values yourself, such as labels="NAME=1 OTHER=2"')
    names = dict(enumerate(["background", *dict.fromkeys(values.values())]))
    number = {name: place for place, name in names.items()}
    of = {value: number[name] for value, name in values.items()}
    known = {0, *of, *(each for each in stated.values() if type(each) is int)} if mapped else {0, *of}
    of |= {value: 0 for value in known - set(of)} | ({ignore: IGNORED} if type(ignore) is int else {})
    return Numbers(names, of, IGNORED if type(ignore) is int else None)


def _instead(root: Path) -> str:
    """What lies in a folder that is no data set."""
    if not root.is_dir():
        return ", nor such a folder"
    below = sorted(path.parent.name for path in root.glob(f"*/{FILE}"))
    return f"; name one of {', '.join(below)}" if below else ""


def _laid_out(about: Mapping[str, Any], root: Path) -> list[Case]:
    """Cases of imagesTr and labelsTr."""
    ending = about.get("file_ending")
    if not isinstance(ending, str) or not ending.startswith("."):
        raise DataError(f'expected a file_ending such as ".nii.gz", found {ending!r}')
    images: dict[str, list[Path]] = {}
    for path in sorted((root / "imagesTr").glob(f"*_[0-9][0-9][0-9][0-9]{ending}")):
        images.setdefault(path.name.removesuffix(ending)[:-5], []).append(path)
    labels = {path.name.removesuffix(ending): path for path in sorted((root / "labelsTr").glob(f"*{ending}"))}
    if alone := sorted(set(images) ^ set(labels)):
        place, lacks = ("imagesTr", "labelsTr") if alone[0] in images else ("labelsTr", "imagesTr")
        raise DataError(f"expected an image and a label for each case, found {alone[0]} in {place} and not in {lacks}")
    return [Case(name, images[name], label) for name, label in labels.items()]


def _listed(about: Mapping[str, Any], root: Path) -> list[Case]:
    """Cases of the lists `training` and `validation`."""
    cases = []
    for part in ("training", "validation"):
        for entry in about.get(part) or []:
            if not isinstance(entry, dict) or not isinstance(entry.get("label"), str) or "image" not in entry:
                if part == "validation" and "training" in about:
                    continue  # images without labels, which nothing here can use
                raise DataError(f'expected {part}: [{{"image": ..., "label": ...}}, ...], found {entry!r}')
            files = entry["image"] if isinstance(entry["image"], list) else [entry["image"]]
            label = root / entry["label"]
            images = [_there(root / each) for each in files]
            cases.append(Case(label.name.split(".")[0], images, label, part == "validation"))
    names = [case.name for case in cases]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"expected each case once, found {twice[0]} twice")
    return cases


def _there(path: Path) -> Path:
    """A listed image; nnU-Net's first version lists it without the number of its channel."""
    stem, dot, ending = path.name.partition(".")
    numbered = path.with_name(f"{stem}_0000{dot}{ending}")
    return numbered if numbered.is_file() and not path.is_file() else path


def _patients(root: Path, cases: Sequence[str]) -> dict[str, int]:
    """{case: number of its patient}, from 1 in the order of names; a case is a patient where nothing else is said."""
    path, of = root / "patients.csv", {case: case for case in cases}
    if path.is_file():
        with reading(path, "a table of case and patient"):
            table = pd.read_csv(path, dtype=str, encoding="utf-8-sig").rename(columns=str.strip)
            if not {"case", "patient"} <= set(table):
                raise DataError(f"expected columns case and patient, found {', '.join(table)}")
            of = dict(zip(table["case"].str.strip(), table["patient"].str.strip(), strict=True))
            if missing := [case for case in cases if case not in of]:
                raise DataError(f"expected the patient of each case, found none of {missing[0]}")
    numbers = {name: number for number, name in enumerate(sorted({of[case] for case in cases}), start=1)}
    return {case: numbers[of[case]] for case in cases}


def _held_out(root: Path, cases: Sequence[Case], patients: Mapping[str, int]) -> tuple[int, ...] | None:
    """Patients of the data set's own validation part; None where it has none."""
    path, parts = root / "splits_final.json", {case.name: case.held_out for case in cases}
    if path.is_file():
        with reading(path, "a list of {train: [CASE, ...], val: [...]}"):
            first = json.loads(path.read_text(encoding="utf-8-sig"))[0]
            parts = dict.fromkeys(first["train"], False) | dict.fromkeys(first["val"], True)
            if strange := sorted(set(parts) - set(patients)):
                raise DataError(f"expected cases of the data set, found {strange[0]}")
    elif not any(parts.values()):
        return None
    held_out = {patients[case] for case, validates in parts.items() if validates}
    both = held_out & {patients[case] for case in patients if not parts.get(case, False)}
    if both:
        shared = sorted(case for case, patient in patients.items() if patient in both)
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
    there = 1 if pair.image.ndim == 3 else pair.image.shape[1]
    if there != channels:
        raise DataError(f"{case.images[0]}: expected {channels} channels, as {FILE} names them, found {there}")
    values = np.unique(pair.mask)
    if strange := [value for value in values.tolist() if value not in numbers.of]:
        raise DataError(f"{case.label}: expected labels {sorted(numbers.of)} as in {FILE}, found {strange[:10]}")
    mask = np.zeros(pair.mask.shape, np.uint8)
    for value in values:
        mask[pair.mask == value] = numbers.of[value]
    told = list(pair.told)
    if not np.isin(mask, list(numbers.names)[1:]).any():
        told.append(f"expected some of the labels {', '.join(list(numbers.names.values())[1:])}, found none of them")
    return Volume(
        patients[case.name], pair.image, mask, pair.spacing, phantom or pair.phantom, case.images[0], told=tuple(told)
    )
