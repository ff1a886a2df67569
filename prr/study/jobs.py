"""Many results at once: each job in a process of its own, which leaves its result in the store."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from joblib import Parallel, cpu_count, delayed
from tqdm import tqdm

from prr.errors import MissingError, OptionError

if TYPE_CHECKING:
    from prr.study.experiment import Experiment

Call = tuple["Experiment", str, dict[str, Any]]  # an experiment, the name of a method, its arguments


def together(calls: Sequence[Call]) -> None:
    """Make several results in parallel processes; the same calls find them in the store afterwards.

    Args:
        calls: (experiment, name of a method, its arguments). What is in the store already is not made again.

    Raises:
        OptionError: `PRR_JOBS` is no whole number above 0.
    """
    todo = [call for call in calls if lacks(*call)]
    if not todo:
        return
    jobs = [delayed(make)(type(run), run.settings, method, arguments) for run, method, arguments in todo]
    done = Parallel(min(workers(todo[0][0]), len(jobs)), return_as="generator_unordered")(jobs)
    for _ in tqdm(done, "jobs", len(jobs)):
        pass


def lacks(run: Experiment, method: str, arguments: dict[str, Any]) -> bool:
    """Whether the store has not got the result of a call."""
    try:
        getattr(run.stored(), method)(**arguments)
    except MissingError:
        return True
    return False


def make(kind: type[Experiment], settings: dict[str, Any], method: str, arguments: dict[str, Any]) -> None:
    """One job: the result is left in the store."""
    getattr(kind(**settings, progress=False), method)(**arguments)


def workers(run: Experiment) -> int:
    """How many jobs run at once: what `PRR_JOBS` says, else as many as the CPU has cores for; one on a GPU.

    Raises:
        OptionError: `PRR_JOBS` is no whole number above 0.
    """
    given = os.environ.get("PRR_JOBS")
    if given and not (given.isdecimal() and int(given)):
        raise OptionError(f"PRR_JOBS={given}: expected a whole number above 0")
    cores = cpu_count() // run.profile.threads if run.device == "cpu" else 1
    return int(given) if given else max(1, cores)
