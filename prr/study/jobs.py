"""A result is a job: a function, plain arguments and the results that it needs. Nothing else can reach the function.

Its key is all of that, with the revisions of the code that it runs. Three exceptions stand in this file alone: a data
set is known to what needs it by its content and not by its folder (`datasets.Data`); `progress` decides nothing and is
in no key; device, threads and torch, of which the last digits depend, are in the key of each job (`machine`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import pandas as pd
import torch
from joblib import Parallel, cpu_count, delayed, parallel_config
from joblib.externals.loky.process_executor import TerminatedWorkerError
from tqdm import tqdm

from prr.errors import JobError, OptionError
from prr.study.revisions import revisions
from prr.study.store import Content, Key, Store, digest, provenance

ROUND = 4  # jobs for each worker between two looks at the clock
ASKED = ("device", "progress")  # what a job's function may ask of who executes it


class Form(NamedTuple):
    """How a kind of result lies in the store."""

    folder: str
    pack: Callable[[Any], tuple[Content, dict]]  # result -> content and record
    unpack: Callable[[Job, Content, dict, str], Any]  # job, content, record, device -> result


def _packed(table: pd.DataFrame) -> tuple[pd.DataFrame, dict]:
    return table, {}


def _unpacked(job: Job, table: pd.DataFrame, record: dict, device: str) -> pd.DataFrame:
    return table


TABLE = Form("tables", _packed, _unpacked)


def kept_as(form: Form | None) -> Callable[[Callable], Callable]:
    """Mark a job's function: how its results are kept; a DataFrame unless marked otherwise."""

    def marked(function: Callable) -> Callable:
        function.form = form
        return function

    return marked


derived = kept_as(None)  # marks a function whose results are made from their needs each time, being cheap


class Need:
    """What a job can need: another job, or an input. Has `needs` of its own, a `digest` and a `value(results)`.

    question: names what was asked, whatever machine and revision has answered; digest: names the answer.
    """

    needs: dict[str, Any]
    question: str


@dataclass(frozen=True, eq=False)
class Job(Need):
    """One result. It can depend on nothing but its key, for its function is given nothing else.

    Args:
        function: of a module of prr; see `kept_as`.
        arguments: plain values.
        needs: other results, given to the function under these names; each a job, a list or a dict of jobs.
        title: for provenance.
        machine: what of the machine it depends on.
        labels: for provenance: network, normalisation, start and seed; a job without has those of its first need.
    """

    function: Callable
    arguments: dict[str, Any] = field(default_factory=dict)
    needs: dict[str, Any] = field(default_factory=dict)
    title: str = ""
    machine: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, Any] = field(default_factory=dict)
    form: Form | None = field(init=False)  # how it is kept, None: not at all; another process may lack the mark

    def __post_init__(self) -> None:
        object.__setattr__(self, "form", getattr(self.function, "form", TABLE))

    @property
    def name(self) -> str:
        """Of the kind of result, for files and listings."""
        return "_".join(_full_name(self.function).split(".")[-2:])

    @cached_property
    def question(self) -> str:
        """Digest of what was asked."""
        asked = {"function": _full_name(self.function), "arguments": self.arguments}
        return digest(asked | {"needs": self._names("question")})

    @cached_property
    def key(self) -> Key:
        """All that the result depends on."""
        asked = {"function": _full_name(self.function), "arguments": self.arguments}
        decides = {"machine": self.machine, "revisions": revisions(self.function.__module__)}
        return asked | {"needs": self._names("digest")} | decides

    @cached_property
    def digest(self) -> str:
        """Digest of the key."""
        return digest(self.key)

    def _names(self, name: str) -> dict[str, Any]:
        """The needs by their question or digest; of a dict of needs the order counts, as it may for the function."""
        names = _each(self.needs, lambda need: getattr(need, name))
        return {each: list(some.items()) if isinstance(some, dict) else some for each, some in names.items()}

    def value(self, results: Any) -> Any:
        """The result: read, or made now if it has to be; `results`: an `Executor`, or an edition."""
        if self.form is None:
            return self.function(**self.given(results))
        return self.form.unpack(self, *results.get(self), results.device)

    def given(self, results: Any) -> dict[str, Any]:
        """The function's arguments, its needs among them."""
        asked = {name: getattr(results, name) for name in ASKED if name in inspect.signature(self.function).parameters}
        return self.arguments | asked | _each(self.needs, lambda need: need.value(results))


def _full_name(function: Callable) -> str:
    return f"{function.__module__}.{function.__qualname__}"


def _each(needs: Any, what: Callable[[Need], Any]) -> Any:
    """The same dict or list of something of each need."""
    if isinstance(needs, dict):
        return {name: _each(need, what) for name, need in needs.items()}
    return [_each(need, what) for need in needs] if isinstance(needs, list) else what(needs)


def is_need(value: Any) -> bool:
    """Whether a value is a need, or a list or dict of needs."""
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return isinstance(value, Need) or any(map(is_need, values))


def needed(job: Need) -> list[Need]:
    """What a job needs itself."""
    found: list[Need] = []
    _each(job.needs, found.append)
    return found


def closure(jobs: Iterable[Need], results: Any = None) -> list[Need]:
    """Jobs and all that they need, each once, needs first; with `results`, nothing below what is there already."""
    found: dict[str, Need] = {}

    def visit(job: Need) -> None:
        if job.question not in found:
            for each in () if results and is_held(job, results) else needed(job):
                visit(each)
            found[job.question] = job

    for job in jobs:
        visit(job)
    return list(found.values())


def is_held(job: Need, results: Any) -> bool:
    """Whether a result is there, or all that it is derived from."""
    if isinstance(job, Job) and job.form:
        return results.holds(job)
    return all(is_held(each, results) for each in needed(job))


def waves(jobs: Iterable[Need], results: Any) -> list[list[Job]]:
    """What has to be made for some jobs: first what needs nothing of the rest, then what needs the first, and so on."""
    level: dict[str, int] = {}
    found: list[list[Job]] = []
    for job in closure(jobs, results):
        below = max((level[each.question] for each in needed(job) if each.question in level), default=0)
        absent = isinstance(job, Job) and job.form and not results.holds(job)
        level[job.question] = below + bool(absent)
        if absent:
            found += [[]] * (below == len(found))
            found[below].append(job)
    return found


# ------------------------------------------------------------------- making


@dataclass(frozen=True)
class Executor:
    """Makes results, or finds them in the store.

    Args:
        store: where they are kept.
        device: where networks lie and run.
        threads: of a CPU job, whatever the machine has: results depend on it.
        progress: show a bar on stderr.
    """

    store: Store
    device: str = "cpu"
    threads: int | None = 1
    progress: bool = False

    def holds(self, job: Job) -> bool:
        """Whether a result is in the store."""
        return self.store.holds(job.form.folder, job.key)

    def record(self, job: Job) -> dict | None:
        """What the store knows of a result without reading it; None where it is not there."""
        return self.store.record(job.form.folder, job.key)

    def get(self, job: Job) -> tuple[Content, dict]:
        """Content and record, from the store or made now.

        Raises:
            MissingError: the store only reads, and it is not there.
        """
        return self.store.get(job.form.folder, job.key, lambda: self.made(job))

    def make(self, job: Job) -> None:
        """Leave a result in the store."""
        self.get(job)

    def made(self, job: Job) -> tuple[Content, dict]:
        """Content and record of a result, with what it cost, where and when."""
        given = job.given(self)  # what it needs has costs of its own
        with self.measured() as cost:
            content, record = job.form.pack(job.function(**given))
        return content, record | {"title": job.title} | cost

    @contextlib.contextmanager
    def measured(self) -> Iterator[dict[str, Any]]:
        """Work with this many threads; gives a record of its cost."""
        cost: dict[str, Any] = {}
        before, began = torch.get_num_threads(), time.perf_counter()
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        torch.set_num_threads(self.threads or before)
        try:
            yield cost
        finally:
            torch.set_num_threads(before)
        if self.device == "cuda":
            cost["peak"] = round(torch.cuda.max_memory_allocated() / 1e6)
        cost |= {"seconds": time.perf_counter() - began, "made": provenance(self.device)}


def compute_all(jobs: Sequence[Need], executor: Executor, until: float | None = None) -> bool:
    """Make some results and what they need, several at a time; what is in the store already is not made again.

    Processes of this machine, or workers of the dask cluster whose scheduler `PRR_SCHEDULER` names. The number of
    workers changes no result: a CPU job always takes the executor's number of threads.

    Args:
        jobs: what is wanted.
        executor: makes it; one that only reads makes nothing.
        until: begin no more of them at this time (`time.perf_counter`).

    Returns:
        Whether all are there.

    Raises:
        OptionError: `PRR_JOBS` is no whole number above 0, or the cluster is not there or not usable.
        JobError: a process was killed; what the others had finished is in the store.
    """
    if not executor.store.make or not (todo := waves(jobs, executor)):
        return True
    scheduler = os.environ.get("PRR_SCHEDULER")
    with cluster(scheduler) if scheduler else contextlib.nullcontext():
        return all(_computed(wave, executor, -1 if scheduler else workers(executor), until) for wave in todo)


def _computed(wave: list[Job], executor: Executor, count: int, until: float | None) -> bool:
    """Make jobs that do not need each other."""
    some = len(wave) if until is None else ROUND * max(count, 1)  # joblib can't be stopped within a call
    for first in range(0, len(wave), some):
        if until is not None and time.perf_counter() >= until:
            return False
        quiet = dataclasses.replace(executor, progress=False)  # one bar for all of them
        part = [delayed(quiet.make)(job) for job in wave[first : first + some]]
        done = Parallel(min(count, len(part)), return_as="generator_unordered", batch_size=1)(part)
        try:
            for _ in tqdm(done, "jobs", len(part)):
                pass
        except TerminatedWorkerError as error:
            raise JobError(
                "a job was killed, most often for want of memory; what is finished is kept: run it again, with fewer "
                "jobs at once (PRR_JOBS=1)"
            ) from error
    return True


@contextlib.contextmanager
def cluster(scheduler: str) -> Iterator[None]:
    """Send what joblib runs to a dask cluster.

    Raises:
        OptionError: dask is not installed, nobody answers, or a worker would run two jobs in one process, which draw
            from one random generator.
    """
    try:
        from distributed import Client
    except ModuleNotFoundError as error:
        raise OptionError(f"PRR_SCHEDULER={scheduler}: expected dask; install pr-rmse[cluster]") from error
    try:
        client = Client(scheduler, timeout=30, set_as_default=True)
    except (OSError, ValueError) as error:
        raise OptionError(
            f"PRR_SCHEDULER={scheduler}: expected a dask scheduler such as tcp://host:8786, found: {error}"
        ) from error
    with client, parallel_config("dask"):
        client.wait_for_workers(1, timeout=300)
        told = client.scheduler_info(n_workers=-1)["workers"]
        if many := [address for address, worker in told.items() if worker["nthreads"] > 1]:
            raise OptionError(f"workers {', '.join(many)}: expected one thread each; start them with --nthreads 1")
        yield


def workers(executor: Executor) -> int:
    """How many jobs run at once: what `PRR_JOBS` says, else as many as the CPU has cores for; one on a GPU."""
    cores = cpu_count() // executor.threads if executor.device == "cpu" else 1
    return workers_given() or max(1, cores)


def workers_given() -> int | None:
    """What `PRR_JOBS` says.

    Raises:
        OptionError: it is no whole number above 0.
    """
    given = os.environ.get("PRR_JOBS")
    if given and not (given.isdecimal() and int(given)):
        raise OptionError(f"PRR_JOBS={given}: expected a whole number above 0")
    return int(given) if given else None


# ------------------------------------------------------------------- tables of many results


@derived
def stacked(parts: list[pd.DataFrame], labels: list[dict[str, Any]]) -> pd.DataFrame:
    """Tables one below the other, each with its labels as columns in front."""
    each = zip(parts, labels, strict=True)
    return pd.concat([pd.DataFrame(label, part.index).join(part) for part, label in each], ignore_index=True)


def stack(labelled: Iterable[tuple[dict[str, Any], Job]]) -> Job:
    """The job of one table out of many."""
    labels, parts = zip(*labelled, strict=True)
    return Job(stacked, {"labels": list(labels)}, {"parts": list(parts)})
