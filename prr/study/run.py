"""One run of the study: its scale, its seed, its data, and the results that its jobs describe."""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from prr.data import DATA_SETS, Slices
from prr.errors import OptionError
from prr.study import profiles
from prr.study.datasets import (
    TEXTURES,
    Data,
    Given,
    data,
    given,
    is_own,
    place_of,
    places,
    scale_of,
    source_of,
)  # fmt: skip
from prr.study.display import Words
from prr.study.edition import Edition
from prr.study.jobs import Executor, Job, Need, closure, compute_all, is_held, is_need, needed
from prr.study.profiles import Profile
from prr.study.store import provenance

MEANINGLESS = {"smoke": " (results mean nothing)"}


class Run:
    """A scale, a seed and a source of results; what the study's functions describe their jobs for.

    Args:
        profile: the scale.
        overrides: which of its values are not the profile's own.
        seed: of starts, order and augmentation.
        results: what makes results and finds them, or an edition.
        data_root: folder that holds acdc/, t1/ or rvsc/; None: see `datasets.given`.
    """

    def __init__(
        self, profile: Profile, overrides: dict[str, Any], seed: int, results: Executor | Edition,
        data_root: str | Path | None = None,
    ):  # fmt: skip
        self.profile, self.overrides, self.seed = profile, overrides, checked_seed(seed)
        self.results, self.data_root = results, data_root
        self.shown: list[Need] = []  # what the stamp and the table of provenance tell of
        self._data: dict[str, Data] = {}

    @property
    def edition(self) -> Edition | None:
        """The edition that is read; None where results are made."""
        return self.results if isinstance(self.results, Edition) else None

    @property
    def device(self) -> str:
        """Where networks lie and run."""
        return self.results.device

    @property
    def seeds(self) -> list[int]:
        """The seeds over which sources are compared and transfer is repeated."""
        return [self.seed + each for each in range(self.profile.seeds)]

    def variant(self, seed: int | None = None, **overrides: Any) -> Run:
        """The same run with another seed, or with some of the profile's values changed.

        Raises:
            OptionError: an unknown override, or a value of the wrong type or range.
        """
        other = copy.copy(self)
        other.seed = self.seed if seed is None else checked_seed(seed)
        other.overrides = self.overrides | {name: value for name, value in overrides.items() if value is not None}
        other.profile = profiles.profile(self.profile.name, **other.overrides)
        other._data = {}
        if not self.edition:
            other.results = dataclasses.replace(self.results, threads=threads_of(other.profile, self.device))
        return other

    # ------------------------------------------------------------------ data

    def data(self, name: str) -> Data:
        """A data set at the run's scale, as jobs need it.

        Raises:
            OptionError: an unknown data set.
            DataError: a named folder that is not the data set.
            MissingError: the run only reads, and it is not there.
        """
        name = place_of(name)
        if name not in self._data:
            scale = scale_of(self.profile, name)
            if self.edition:
                self._data[name] = self.edition.data(name, scale)
            else:
                source = source_of(self.results.store, self.profile, self.given, name)
                alike = not is_own(self.given) and source.layout in (*DATA_SETS, TEXTURES)  # in labels and channels
                target = None if name == "acdc" or alike else self.facts("acdc")
                self._data[name] = data(self.results, name, scale, source, target, fit=self.fits and name != TEXTURES)
        return self._data[name]

    @functools.cached_property
    def given(self) -> Given:
        """What the user has put into the places of the study."""
        return given(self.data_root)

    @property
    def fits(self) -> bool:
        """Whether the spacing follows from the target's images: it is a reader's own, and no spacing was set."""
        if self.edition:
            return self.edition.fits
        return is_own(self.given) and "spacing_mm" not in self.overrides

    @property
    def places(self) -> tuple[str, ...]:
        """The places of the study that hold a data set, the target's first."""
        return self.edition.places if self.edition else places(self.given)

    def facts(self, name: str) -> dict[str, Any]:
        """What is known of a data set without its images: the columns of `prr.data.describe`, and more, see `Data`."""
        return self.data(name).facts

    def title(self, place: str) -> str:
        """The name of the data set in a place, as tables and figures write it."""
        return self.facts(place)["data set"]

    @property
    def shape(self) -> dict[str, int]:
        """What the target's images and labels ask of a network: channels of its input, classes of its output."""
        return {"channels": int(self.facts("acdc")["channels"]), "classes": max(self.labels) + 1}

    @property
    def labels(self) -> dict[int, str]:
        """{value in a mask: name} of the target, which all data sets of the run share; 0 is background."""
        return {int(value): name for value, name in json.loads(self.facts("acdc")["labels"]).items()}

    def training_patients(self, name: str) -> int:
        """How many patients of a data set networks learn from."""
        return int(self.facts(name)["patients"] - self.facts(name)["held out"])

    @property
    def few_patients(self) -> int:
        """Patients of the smaller labelled set: the profile's, if it is set or at most half of the target's."""
        few = self.profile.few_patients
        return few if "few_patients" in self.overrides else min(few, max(1, self.training_patients("acdc") // 2))

    def slices(self, name: str) -> Slices:
        """Slices of a data set at the profile's size and spacing: real if a folder is named, else phantom.

        Args:
            name: one of `prr.data.DATA_SETS`; "textures" is made, see `prr.data.textures`.

        Raises:
            OptionError, DataError: as `data`.
            MissingError: the run reads an edition, which keeps no images.
        """
        return self.result(self.data(name))

    # ------------------------------------------------------------------ results

    def job(self, function: Callable, title: str = "", **given: Any) -> Job:
        """The job that calls a function with these arguments; those that are jobs are its needs."""
        needs = {name: value for name, value in given.items() if is_need(value)}
        arguments = {name: value for name, value in given.items() if name not in needs}
        return Job(function, arguments, needs, title, self.machine)

    def job_of(self, function: Callable, *given: Any, **named: Any) -> Job:
        """The job that calls one of prr's functions: kept, and called again if one of its arguments changes.

        Args:
            function: of a module of prr; it returns a table, or a result whose form it declares.
            given, named: its arguments: jobs, which it gets the results of, and plain values.

        Raises:
            OptionError: a function of the caller's own, whose code no key can hold.
        """
        if not function.__module__.startswith("prr."):
            raise OptionError(f"{function.__qualname__}: expected a function of prr; call your own on run.result(...)")
        bound = inspect.signature(function).bind(*given, **named).arguments
        return self.job(function, function.__qualname__, **bound)

    def call(self, function: Callable, *given: Any, **named: Any) -> Any:
        """The result of `job_of` these arguments."""
        return self.result(self.job_of(function, *given, **named))

    def result(self, job: Need) -> Any:
        """The result of a job: from the store, or made now with all that it needs.

        Raises:
            MissingError: the run only reads, and it is not there.
        """
        self.shown.append(job)
        return job.value(self.results)

    def holds(self, job: Need) -> bool:
        """Whether a result is there."""
        return is_held(job, self.results)

    def compute(self, jobs: Sequence[Need], until: float | None = None) -> bool:
        """Make what is missing of some results, several at a time; see `prr.study.jobs.compute_all`."""
        return bool(self.edition) or compute_all(jobs, self.results, until)

    @property
    def machine(self) -> dict[str, Any]:
        """What of the machine a result depends on."""
        if self.edition:
            return self.edition.machine
        return {"device": self.device, "threads": self.results.threads, "torch": torch.__version__}

    # ------------------------------------------------------------------ where results come from

    @property
    def stamp(self) -> Words:
        """One line: profile and overrides, seed, device, the data of what is shown, commit and versions."""
        made = self.edition.made if self.edition else provenance(self.device)
        threads = f", threads: {self.machine['threads']}" if self.machine["threads"] else ""
        changed = [f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
                   for name, value in self.overrides.items()]  # fmt: skip
        sets = [each for each in closure(self.shown) if isinstance(each, Data) and each.name != TEXTURES]
        told = {each.name: "{data set} {origin} ({patients} patients)".format(**each.facts) for each in sets}
        parts = [
            *([f"edition {self.edition.name}"] if self.edition else []),
            ", ".join([f"profile {self.profile.name}{MEANINGLESS.get(self.profile.name, '')}", *changed]),
            f"seed {self.seed}",
            f"{made['device']}{threads}",
            *(told[name] for name in sorted(told)),
            f"{'made' if self.edition else 'built'} at commit {made['commit']}",
            f"torch {made['torch']}",
            f"Python {made['python']}",
            made["date"][:10],
        ]
        return Words(" · ".join(parts))

    def provenance(self) -> pd.DataFrame:
        """What the results that are shown were made of, as they were made, which may be another day.

        Returns:
            DataFrame[made, network, normalisation, start, seed, seconds(, peak), commit, date, device, torch], needs
            first; peak: megabytes of tensors on a CUDA device, at most; no column where nothing was made on one.
        """
        jobs = [job for job in closure(self.shown) if isinstance(job, Job) and job.form]
        records = [(job, record) for job in jobs if (record := self.results.record(job))]
        table = pd.DataFrame([_provenance_of(job, record) for job, record in records])
        on_cuda = "peak" in table and table["peak"].notna().any()
        return table if on_cuda else table.drop(columns="peak", errors="ignore")


def _provenance_of(job: Job, record: dict) -> dict[str, Any]:
    """A result in the words of `Run.provenance`: of which network, from which start, at what cost, where and when."""
    of = labels_of(job)
    words = {"made": job.title} | {name: of.get(name) for name in ("network", "normalisation", "start", "seed")}
    cost = {"seconds": round(record["seconds"], 1), "peak": record.get("peak")}
    return words | cost | {name: record["made"][name] for name in ("commit", "date", "device", "torch")}


def labels_of(job: Need) -> dict[str, Any]:
    """A job's labels, or those of the first network that it needs."""
    return next(filter(None, [getattr(job, "labels", {}), *map(labels_of, needed(job))]), {})


def threads_of(profile: Profile, device: str) -> int | None:
    """Threads of a job: the profile's on a CPU."""
    return profile.threads if device == "cpu" else None


def checked_seed(seed: int) -> int:
    """The seed, if it is one.

    Raises:
        OptionError: no whole number from 0.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise OptionError(f"seed={seed!r}: expected a whole number from 0")
    return seed

