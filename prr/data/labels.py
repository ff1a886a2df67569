"""Names of labels: how a user maps them, and how those of two data sets are matched."""

from __future__ import annotations

import re
from collections.abc import Mapping

from prr.errors import DataError, OptionError

LABELS = {0: "background", 1: "RV cavity", 2: "myocardium", 3: "LV cavity"}  # of the paper's data sets
IGNORED = 255  # in a mask: pixels that are not counted, whatever a file calls them
# usual spellings, compared without case, spaces and signs
SPELLINGS = {
    "background": ("background", "bg"),
    "RV cavity": ("rv", "rvc", "rvcavity", "rvendo", "rightventricle", "rightventricularcavity", "rvbloodpool"),
    "myocardium": ("myo", "myocardium", "lvmyo", "lvm", "lvmyocardium", "leftventricularmyocardium", "mlv"),
    "LV cavity": ("lv", "lvc", "lvcavity", "lvendo", "leftventricle", "leftventricularcavity", "lvbloodpool"),
}
NAME_OF = {spelling: name for name, spellings in SPELLINGS.items() for spelling in spellings}
MOST = 65535  # value in a file
PAIR = r"\s*([^=,;]*[^=,;\s])\s*=\s*([0-9]+)\s*(?:[\s,;]|$)"  # a value ends it: a name may have spaces


def canonical(name: str) -> str:
    """A label's name in the spelling of LABELS where it is one of theirs, else in lower case with spaces.

    Example:
        >>> from prr.data.labels import canonical
        >>> canonical("LV_MYO"), canonical("Left_Kidney")
        ('myocardium', 'left kidney')
    """
    return NAME_OF.get(re.sub(r"[\W_]", "", name).casefold(), re.sub(r"[\s_-]+", " ", name).strip().casefold())


def parse(labels: str | Mapping[str, int]) -> dict[int, str]:
    """What a user says of the values in his masks.

    Args:
        labels: "RV=1 MYO=2 LV=3", or {"RV": 1, ...}; a name may stand for several values: "tumour=1 tumour=2". Values
            that are not named are background, as is what bears its name.

    Returns:
        {value: name}, names as they were given.

    Raises:
        OptionError: no such pairs, or a value with two names.

    Example:
        >>> from prr.data.labels import parse
        >>> parse("LV=1 left kidney=205")
        {1: 'LV', 205: 'left kidney'}
    """
    texts = isinstance(labels, str)
    if not texts and not isinstance(labels, Mapping):
        raise OptionError(f"labels={labels!r}: expected a text or a mapping of NAME to VALUE")
    pairs, rest = (re.findall(PAIR, labels), re.sub(PAIR, "", labels)) if texts else (labels.items(), "")
    found = {int(value): str(name).strip() for name, value in pairs if re.fullmatch("[0-9]{1,5}", str(value))}
    wanted = {value: name for value, name in found.items() if canonical(name) != "background"}
    sound = len(found) == len(pairs) and all(found.values()) and not rest.strip(" ,;")
    if not sound or not wanted or not 0 < min(wanted) <= max(wanted) <= MOST:
        raise OptionError(
            f"labels={labels!r}: expected NAME=VALUE for each label, values from 1 to {MOST}, each once, such as "
            '"RV=1 MYO=2 LV=3"'
        )
    return wanted


def matched(own: Mapping[int, str], wanted: Mapping[int, str], where: str) -> dict[int, int]:
    """How the labels of one data set are numbered in another, by their names.

    Args:
        own: {value: name} of the one.
        wanted: {value: name} of the other.
        where: of the first, for an error.

    Returns:
        {own value: wanted value}, background left out; labels that the other has not are left out too.

    Raises:
        DataError: they have no label in common.

    Example:
        >>> from prr.data.labels import matched
        >>> matched({0: "background", 1: "LV", 3: "RV"}, {0: "background", 1: "RV cavity", 3: "LV cavity"}, "mine")
        {1: 3, 3: 1}
    """
    numbers = {canonical(name): value for value, name in wanted.items() if value}
    found = {value: numbers[canonical(name)] for value, name in own.items() if value and canonical(name) in numbers}
    if not found:
        there, expected = (", ".join(each for value, each in some.items() if value) for some in (own, wanted))
        raise DataError(
            f"{where}: expected some of the labels {expected}, found {there}; map them, such as "
            f'labels="{next(iter(numbers), "NAME")}=1"'
        )
    return found
