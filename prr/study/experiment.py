"""The paper's experiment: which data, which networks, which swap. Results come from the store or are made once."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from prr import donors, reuse, verdict
from prr.data import Slices
from prr.errors import OptionError
from prr.figures import Words
from prr.study import (
    examples,
    inputs,
    measures,
    networks,
    prediction,
    prefixes,
    profiles,
    sources,
    training,
    transfer,
    transplants,
)
from prr.study.edition import Edition
from prr.study.profiles import EXPECTED_DICE, OVERRIDES, Profile
from prr.study.starts import TEXTURES
from prr.study.store import Key, Store, digest, provenance

PARAMETERS = ("profile", "data_root", "device", "seed", "edition", *OVERRIDES)
MEANINGLESS = {"smoke": " (results mean nothing)"}
REVISED = (training, reuse, donors, verdict, measures, prefixes, prediction, transfer, examples)  # have a RECIPE


class Experiment:
    """One run of the study at one scale; the chapters' only door.

    Args:
        profile: smoke, quick or paper.
        data_root: folder that holds acdc/, t1/ or rvsc/; None: the folders that PRR_ACDC, PRR_T1 and PRR_RVSC name,
            else phantoms.
        device: auto (CUDA, else MPS, else CPU), cpu, cuda or mps.
        seed: of starts, order and augmentation.
        store: folder for results; None: see `prr.study.store.location`.
        make: False reads what is in the store and makes nothing.
        progress: show a bar on stderr while something is made.
        edition: name of a folder in data/editions, or a path: results are read from there alone, whatever the device
            that they were made on. Its scale and seed have to be given too, as `from_parameters` does.
        overrides: any field of `Profile`.

    Raises:
        OptionError: an unknown profile, override or device, or a device that is not there.
        DataError: an edition that is not there, or not readable by this version.
    """

    # what the study makes and reads, each method in the file of its subject
    slices = inputs.slices
    facts = inputs.facts
    described = inputs.described
    pictured = inputs.pictured
    model = networks.model
    history = networks.history
    start = networks.start
    untrained = networks.untrained
    key = networks.key
    parameters = measures.parameters
    dice = measures.dice
    rmse = measures.rmse
    shift_scale = measures.shift_scale
    responses = measures.responses
    algebra = measures.algebra
    branches = measures.branches
    sweep = transplants.sweep
    drops = transplants.drops
    joint = transplants.joint
    judge = transplants.judge
    pairs = sources.pairs
    transfer_row = transfer.run_row
    transfer = transfer.table
    jointly = prefixes.jointly
    prefix = prefixes.prefix
    scored = prediction.scored
    fine_tuned = prediction.fine_tuned
    distances = prediction.distances
    example = examples.trained

    def __init__(
        self,
        profile: str = "quick",
        *,
        data_root: str | Path | None = None,
        device: str = "auto",
        seed: int = 0,
        store: str | Path | None = None,
        make: bool = True,
        progress: bool = True,
        edition: str | Path | None = None,
        **overrides: Any,
    ):
        self.profile: Profile = profiles.profile(profile, **overrides)
        self.overrides = {key: value for key, value in overrides.items() if value is not None}
        self.data_root = data_root
        self.edition = edition
        self.store = Edition(edition) if edition else Store(store, make)
        self.device = "cpu" if edition else available(device)
        self.seed = networks.checked_seed(seed)
        self.progress = progress
        self._slices: dict[str, Slices] = {}
        self._facts: dict[str, dict[str, Any]] = {}
        self._used: dict[str, dict] = {}

    @classmethod
    def from_parameters(cls, namespace: dict[str, Any]) -> Experiment:
        """The experiment that a chapter's parameters cell describes: call it with `globals()` in the next cell.

        papermill only warns about a misspelt `-p name value` and sets it all the same, so a plain value that is no
        parameter is refused here; not when the cell is run again, for then the values of later cells are there too.

        Raises:
            OptionError: an unknown parameter, a value that is out of range, or a scale beside an edition, which has
                its own.
        """
        plain = {
            name: value
            for name, value in namespace.items()
            if not name.startswith("_")
            and (name in PARAMETERS or isinstance(value, str | int | float | list | tuple | dict | None))
            and name not in ("In", "Out")
        }
        unknown = [name for name in plain if name not in PARAMETERS]
        if unknown and not any(isinstance(value, cls) for value in namespace.values()):
            raise OptionError(
                f"parameter {', '.join(unknown)}: expected some of {', '.join(PARAMETERS)}; variables of your own go "
                "below this cell"
            )
        given = {name: value for name, value in plain.items() if name in PARAMETERS}
        if given.get("edition") is None:
            return cls(**given)
        default = {"profile": given.get("profile"), "edition": given["edition"], "device": "auto", "seed": 0}
        if extra := [name for name, value in given.items() if value != default.get(name)]:
            raise OptionError(
                f"{', '.join(extra)}: expected nothing beside edition={given['edition']!r}, whose results are made"
            )
        return cls(edition=given["edition"], **Edition(given["edition"]).parameters)

    def variant(self, **overrides: Any) -> Experiment:
        """The same experiment with some overrides changed."""
        other = Experiment(**self.settings | overrides)
        other._used = self._used  # one page, one table of provenance
        if self.edition:
            other.store = self.store  # whose files are read once
        return other

    def stored(self) -> Experiment:
        """The same experiment that only reads: what is not in the store raises MissingError."""
        other = self.variant(make=False)
        other._slices, other._facts = self._slices, self._facts  # the same data: read once
        return other

    @property
    def seeds(self) -> list[int]:
        """The seeds over which sources are compared and transfer is repeated."""
        return [self.seed + each for each in range(self.profile.seeds)]

    @property
    def settings(self) -> dict[str, Any]:
        """What makes the same experiment again, in another process too."""
        where = {"edition": self.edition} if self.edition else {"device": self.device, "store": self.store.folder}
        given = {"data_root": self.data_root, "seed": self.seed, "profile": self.profile.name, **where}
        return given | {"make": self.store.make, **self.overrides}

    @property
    def machine(self) -> Key:
        """What of the machine a result depends on; of the edition's, if one is read."""
        if self.edition:
            return self.store.machine
        threads = self.profile.threads if self.device == "cpu" else None
        return {"device": self.device, "threads": threads, "torch": torch.__version__}

    @property
    def recipes(self) -> dict[str, int]:
        """Revisions of what decides results, by the name of the file; of the edition's, if one is read."""
        return self.store.recipes if self.edition else recipes()

    def expected(self, network: str) -> float:
        """Foreground Dice that a network must reach for its chapter to mean something; 0 where nothing is promised.

        The profile's own promise, on phantoms, holds only where none of its values was overridden.
        """
        promised = not self.overrides and self.facts("acdc")["origin"] == "phantom"
        return EXPECTED_DICE.get((self.profile.name, network), 0) if promised else 0

    # ----------------------------------------------------- results and their provenance

    def kept(
        self, key: Key, of: Sequence[Key], made: str, make: Callable[[], tuple[pd.DataFrame, dict]]
    ) -> tuple[pd.DataFrame, dict]:
        """A table and its record from the store, or made now with the profile's threads and measured.

        Args:
            key: all that it depends on.
            of: keys of the networks that it is about, the judged one first, for `provenance`.
            made: what it is, for `provenance`.
            make: makes table and record.
        """

        def measured() -> tuple[pd.DataFrame, dict]:
            with self.measured() as cost:
                table, record = make()
            return table, record | cost

        table, record = self.store.table(key, measured)
        for each in of:
            networks.note(self, each)
        self.note(key, of[0] if of else {}, made, record)
        return table, record

    @contextlib.contextmanager
    def measured(self) -> Iterator[dict[str, Any]]:
        """Work with the profile's threads; gives a record that tells its cost, where and when."""
        cost: dict[str, Any] = {}
        began = time.perf_counter()
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        with self.threads():
            yield cost
        if self.device == "cuda":
            cost["peak"] = round(torch.cuda.max_memory_allocated() / 1e6)
        cost |= {"seconds": time.perf_counter() - began, "made": provenance(self.device)}

    def note(self, key: Key, of: Key, made: str, record: dict) -> None:
        """Keep for `provenance` what was made, of which network, from which start, where and when; each result once."""
        words = {"made": made} | {name: of.get(name) for name in ("network", "normalisation", "start", "seed")}
        where = {name: record["made"][name] for name in ("commit", "date", "device", "torch")}
        cost = {"seconds": round(record["seconds"], 1), "peak": record.get("peak")}
        self._used[digest(key)] = words | cost | where

    @property
    def stamp(self) -> Words:
        """One line: profile and overrides, seed, device, the data read so far, commit and versions."""
        made = self.store.made if self.edition else provenance(self.device)
        threads = f", threads: {self.machine['threads']}" if self.machine["threads"] else ""
        changed = MEANINGLESS.get(self.profile.name, "")
        changed += "".join(
            f", {name} {value:.4g}" if isinstance(value, float) else f", {name} {value}"
            for name, value in self.overrides.items()
        )
        data = [
            f"{each['data set']} {each['origin']} ({each['patients']} patients)"
            for each in (self.facts(name) for name in {**self._facts, **self._slices} if name != TEXTURES)
        ]
        parts = [f"edition {self.store.name}"] if self.edition else []
        parts += [f"profile {self.profile.name}{changed}", f"seed {self.seed}", f"{made['device']}{threads}", *data]
        versions = [
            f"{'made' if self.edition else 'built'} at commit {made['commit']}",
            f"torch {made['torch']}",
            f"Python {made['python']}",
            made["date"][:10],
        ]
        return Words(" · ".join(parts + versions))

    def provenance(self) -> pd.DataFrame:
        """What this page's results were made of: networks and tables, as they were made, which may be another day.

        Returns:
            DataFrame[made, network, normalisation, start, seed, seconds(, peak), commit, date, device, torch];
            peak: megabytes of tensors on a CUDA device, at most; no column where nothing was made on one.
        """
        table = pd.DataFrame(self._used.values())
        on_cuda = "peak" in table and table["peak"].notna().any()
        return table if on_cuda else table.drop(columns="peak", errors="ignore")

    @contextlib.contextmanager
    def threads(self) -> Iterator[None]:
        """A CPU job uses the profile's number of threads, whatever the machine has: results depend on it."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.profile.threads if self.device == "cpu" else before)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def recipes() -> dict[str, int]:
    """The revisions of this code, by the name of the file."""
    return {each.__name__.split(".")[-1]: each.RECIPE for each in REVISED}


def available(device: str) -> str:
    """The device that a name stands for.

    Raises:
        OptionError: an unknown device, or one that this machine or this torch has not.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return next(name for name, is_there in there.items() if is_there)
    if not isinstance(device, str) or device not in there:
        raise OptionError(f"device {device!r}: expected auto, {', '.join(there)}")
    if not there[device]:
        raise OptionError(
            f"device {device!r}: not on this machine, or this torch was built without it; take auto or cpu"
        )
    return device
