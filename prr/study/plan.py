"""What the chapters train: told in advance with its cost, or done at once, on all cores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from prr.errors import OptionError
from prr.study import architecture, examples, measures, redundancy, sources, training, transfer
from prr.study.backbones import random
from prr.study.experiment import Experiment
from prr.study.inputs import READERS
from prr.study.jobs import Call, together
from prr.study.models import NETWORKS
from prr.study.results import measurements
from prr.study.starts import TEXTURES

Job = tuple[Experiment, dict[str, Any]]  # an experiment, and arguments of its `model`

# networks that a chapter trains on ACDC for both tasks: (network, normalisation; None is the run's own)
CHAPTERS = {
    "01": (),
    "02": (("unet", None), ("pspnet", None), ("pspnet", "zscore"), ("pspnet", "unit")),
    "03": (("unet", None), ("unet", "zscore"), ("unet", "unit")),
    "04": (("unet", None), ("pspnet", None), ("pspnet", "zscore"), ("pspnet", "unit")),
    "05": (),  # the six networks of `sources`, of both architectures
    "06": (),  # what the transfer experiment loads
    "07": (),  # reads what the others have made
    "08": (),  # networks of `architecture`
    "09": (),  # networks of `redundancy`
    "10": (),  # networks of `examples`
}
SWEPT = ("03", "04")  # chapters that sweep each of these: all of it, or layer 1 under a normalisation of its own


def networks(run: Experiment, number: str) -> Iterator[Job]:
    """The networks that a chapter needs, some of them perhaps twice."""
    for network, normalisation in CHAPTERS[number]:
        other = run if normalisation is None else run.variant(normalisation=normalisation)
        for task in training.TASKS:
            yield other, {"network": network, "dataset": "acdc", "task": task}
    if number == "05":
        for seed in run.seeds:
            for network in NETWORKS:
                for dataset in READERS:
                    for task in training.TASKS:
                        yield run, {"network": network, "dataset": dataset, "task": task, "seed": seed}
                few = run.profile.few_patients
                yield (
                    run,
                    {"network": network, "dataset": "acdc", "task": "segmentation", "seed": seed, "patients": few},
                )
    if number == "06":
        for arguments in transfer.sources(run):
            yield run, arguments
    if number == "08":
        yield from architecture.networks(run)
    if number == "09":
        yield from redundancy.networks(run)


def distinct(run: Experiment, numbers: Sequence[str]) -> list[Job]:
    """The networks of some chapters, each once.

    Raises:
        OptionError: an unknown chapter.
    """
    numbers = [number.zfill(2) for number in numbers] or list(CHAPTERS)
    if unknown := sorted(set(numbers) - set(CHAPTERS)):
        raise OptionError(f"chapter {', '.join(unknown)}: expected some of {', '.join(CHAPTERS)}")
    jobs = [job for number in numbers for job in networks(run, number)]
    return list(
        {repr(sorted(other.key(**arguments).items())): (other, arguments) for other, arguments in jobs}.values()
    )


def prepare(run: Experiment, *numbers: str, until: float | None = None) -> bool:
    """Make what some chapters show and the store does not have yet, several results at a time.

    Args:
        run: the chapter's experiment; one that only reads makes nothing.
        numbers: of chapters, such as "03"; none means all: the whole study.
        until: see `prr.study.jobs.together`.

    Returns:
        Whether all is there.

    Raises:
        OptionError: an unknown chapter.
    """
    return not run.store.make or all(together(wave, until) for wave in waves(run, *numbers))


def waves(run: Experiment, *numbers: str) -> list[list[Call]]:
    """The results that some chapters show: networks, those that others begin from first, then sweeps, then the rest."""
    trained = [(other, "model", arguments) for other, arguments in distinct(run, numbers)]
    begun_from = [call for call in trained if call[2].get("dataset") == TEXTURES]
    numbers = [number.zfill(2) for number in numbers] or list(CHAPTERS)
    swept = dict.fromkeys(pair for number in SWEPT if number in numbers for pair in CHAPTERS[number])
    sweeps = [
        (run, "sweep", {"network": network})
        if normalisation is None
        else (run.variant(normalisation=normalisation), "sweep", {"network": network, "layers": [1]})
        for network, normalisation in swept
    ]
    if "03" in numbers:  # its control: the target by itself
        sweeps.append((run, "sweep", {"network": "unet", "layers": [1], "source": ("acdc", "segmentation")}))
    by_source, verdicts = measurements(run) if "07" in numbers else (measures.calls(run, *numbers), [])
    apart = sources.calls(run) if "05" in numbers and "07" not in numbers else []
    rows = transfer.calls(run) if "06" in numbers else []
    own = [(run, "example", {"name": name}) for name in examples.NETWORKS] if "10" in numbers else []
    crossed = architecture.calls(run) if "08" in numbers else []
    controls, sets = redundancy.calls(run) if "09" in numbers else ([], [])
    each = [begun_from, trained + own, sweeps + by_source + apart + crossed + controls, verdicts + rows + sets]
    return [wave for wave in each if wave]


def lacking(run: Experiment, *numbers: str) -> pd.DataFrame:
    """The networks of some chapters that the store does not have.

    Returns:
        DataFrame[network, dataset, task, seed, patients]; empty where all are there. patients: of the training part, 0
        for all.

    Raises:
        OptionError: an unknown chapter.
    """
    rows = []
    for other, arguments in distinct(run, numbers):
        key = other.key(**arguments)
        if not other.store.holds("networks", key):
            rows.append((*(key[name] for name in ("network", "data set", "task", "seed")), key.get("patients", 0)))
    return pd.DataFrame(rows, columns=["network", "dataset", "task", "seed", "patients"])


def plan(profile: str, chapters: Sequence[str] = (), **parameters: Any) -> pd.DataFrame:
    """The networks that executing some chapters would train on this machine.

    Args:
        profile: see `Experiment`.
        chapters: numbers such as "03"; none means all.
        parameters: of `Experiment`.

    Returns:
        DataFrame[network, dataset, task, start, seed, patients, normalisation, stored, seconds, megabytes, peak].
        patients: of the training part, 0 for all; stored: it is in the store, and takes nothing; seconds: steps times
        the time of one step, measured now on two slices; megabytes: in the store; peak: megabytes of memory that
        training takes at least: what a step keeps, weights, gradients and Adam's moments; data and what an operation
        takes for a moment come on top. Both are those of one job at a time, and of networks alone: the rows of the
        transfer experiment come on top.

    Raises:
        OptionError: an unknown chapter, profile or parameter.
    """
    run = Experiment(profile, **parameters)
    columns = ["network", "dataset", "task", "start", "seed", "patients", "normalisation"]
    columns += ["stored", "seconds", "megabytes", "peak"]
    each: dict[tuple, tuple[float, float]] = {}
    rows = [cost(other, arguments, each) for other, arguments in distinct(run, chapters)]
    return pd.DataFrame(rows, columns=columns)


def cost(run: Experiment, arguments: dict[str, Any], each: dict[tuple, tuple[float, float]]) -> dict[str, Any]:
    """One row of `plan`; `each` keeps what a slice costs a network that has been measured, in seconds and bytes."""
    key = run.key(**arguments)
    network, scale = key["network"], run.profile
    model = random(network, key["width"], 0).to(run.device)  # whatever it starts from
    stored = run.store.holds("networks", key)
    size = sum(value.numel() * value.element_size() for value in model.state_dict().values()) / 1e6
    seconds = peak = 0
    if not stored:
        measured = network, key["width"], scale.size
        if measured not in each:
            with run.threads():
                each[measured] = training.cost_per_slice(model, scale.size)
        spent, kept = (key["batch_size"] * value for value in each[measured])
        seconds, peak = round(key["steps"] * spent), round(kept / 1e6 + 4 * size)
    return {
        **{"network": network, "dataset": key["data set"], "task": key["task"], "start": key["start"]},
        **{"seed": key["seed"], "patients": key.get("patients", 0), "normalisation": scale.normalisation},
        **{"stored": stored, "seconds": seconds, "megabytes": round(size, 1), "peak": peak},
    }
