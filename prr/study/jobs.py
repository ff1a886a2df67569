"""Many results at once: each job in a process of its own, here or on a cluster, leaves its result in the store."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from joblib import Parallel, cpu_count, delayed, parallel_config
from joblib.externals.loky.process_executor import TerminatedWorkerError
from tqdm import tqdm

from prr.errors import JobError, MissingError, OptionError

if TYPE_CHECKING:
    from prr.study.experiment import Experiment

Call = tuple["Experiment", str, dict[str, Any]]  # an experiment, the name of a method, its arguments
ROUND = 4  # jobs for each worker between two looks at the clock
FOLDERS = ("PRR_ACDC", "PRR_T1", "PRR_RVSC")  # a job reads the data that its caller reads, wherever it runs


def together(calls: Sequence[Call], until: float | None = None) -> bool:
    """Make several results in parallel processes; the same calls find them in the store afterwards.

    Processes of this machine, or workers of the dask cluster whose scheduler `PRR_SCHEDULER` names. The number of
    workers changes no result: a CPU job always takes the profile's number of threads.

    Args:
        calls: (experiment, name of a method, its arguments). What is in the store already is not made again; an
            experiment that only reads makes nothing.
        until: begin no more of them at this time (`time.perf_counter`).

    Returns:
        Whether all are there.

    Raises:
        OptionError: `PRR_JOBS` is no whole number above 0, or the cluster is not there or not usable.
        JobError: a process was killed; what the others had finished is in the store.
    """
    todo = [call for call in calls if call[0].store.make and lacks(*call)]
    if not todo:
        return True
    folders = {name: os.path.abspath(os.path.expanduser(os.environ[name])) for name in FOLDERS if os.environ.get(name)}
    jobs = [delayed(make)(run.settings, method, arguments, folders) for run, method, arguments in todo]
    scheduler = os.environ.get("PRR_SCHEDULER")
    with cluster(scheduler) if scheduler else contextlib.nullcontext():
        count = -1 if scheduler else min(workers(todo[0][0]), len(jobs))
        some = len(jobs) if until is None else ROUND * max(count, 1)  # joblib can't be stopped within a call
        try:
            for first in range(0, len(jobs), some):
                if until is not None and time.perf_counter() >= until:
                    return False
                part = jobs[first : first + some]
                done = Parallel(count, return_as="generator_unordered", batch_size=1)(part)
                for _ in tqdm(done, "jobs", len(part)):
                    pass
        except TerminatedWorkerError as error:
            raise JobError(
                "a job was killed, most often for want of memory; what is finished is kept: run it again, with fewer "
                "jobs at once (PRR_JOBS=1)"
            ) from error
    return True


def lacks(run: Experiment, method: str, arguments: dict[str, Any]) -> bool:
    """Whether the store has not got the result of a call."""
    reader = run.stored()
    try:
        if method == "model":
            return not reader.store.holds("networks", reader.key(**arguments))
        getattr(reader, method)(**arguments)
    except MissingError:
        return True
    return False


def make(
    settings: dict[str, Any], method: str, arguments: dict[str, Any], folders: dict[str, str]
) -> None:
    """One job: the result is left in the store."""
    from prr.study.experiment import Experiment

    for name in FOLDERS:
        os.environ.pop(name, None)
    os.environ |= folders
    getattr(Experiment(**settings, progress=False), method)(**arguments)


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


def workers(run: Experiment) -> int:
    """How many jobs run at once: what `PRR_JOBS` says, else as many as the CPU has cores for; one on a GPU.

    Raises:
        OptionError: `PRR_JOBS` is no whole number above 0.
    """
    cores = cpu_count() // run.profile.threads if run.device == "cpu" else 1
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
