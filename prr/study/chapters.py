"""What each chapter shows, as jobs: the one place where a chapter is told what it needs.

Order, parallel work, the dry run, what an edition holds and the table of provenance all follow from it.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from prr.data import DATA_SETS
from prr.errors import DataError, MissingError, OptionError
from prr.study import (
    architecture,
    examples,
    grid,
    ledger,
    measures,
    networks,
    prediction,
    prefixes,
    redundancy,
    sources,
    stages,
    training,
    transfer,
    transplants,
)
from prr.study.backbones import random
from prr.study.datasets import PLACES
from prr.study.jobs import Job, Need, closure
from prr.study.models import TITLES
from prr.study.run import Run


def _data(run: Run) -> list[Need]:
    return [run.data(place) for place in run.places]


def _batch_norm(run: Run) -> list[Need]:
    inputs = [run.variant(normalisation=each) for each in ("zscore", "unit")]
    return [
        *(measures.shift_scale(run, network) for network in TITLES),
        *(measures.shift_scale(each, "pspnet") for each in inputs),
        measures.responses(run, "unet"),
    ]


def layer_by_layer(run: Run, network: str) -> list[Need]:
    """What chapters 3 and 4 show of a network."""
    inputs = [run.variant(normalisation=each) for each in ("zscore", "unit")]
    return [
        *(networks.model(run, network, task=task) for task in training.TASKS),
        measures.dice(run, network),
        transplants.sweep(run, network),
        *(transplants.sweep(each, network, layers=[1]) for each in inputs),
        measures.rmse(run, network),
    ]


def _unet(run: Run) -> list[Need]:
    itself = transplants.sweep(run, "unet", layers=[1], source=("acdc", "segmentation"))
    return [*layer_by_layer(run, "unet"), itself, measures.biases(run, "unet")]


def _pspnet(run: Run) -> list[Need]:
    return [*layer_by_layer(run, "pspnet"), transplants.sweep(run, "unet"), stages.table(run)]


def _distances(run: Run) -> list[Need]:
    sizes = (None, run.few_patients)
    apart = [sources.over_seeds(run, network, patients) for network in TITLES for patients in sizes]
    return [*apart, *(measures.dice(run, network) for network in TITLES)]


def _transfer(run: Run) -> list[Need]:
    return [transfer.by_patient(run)]


def _verdict(run: Run) -> list[Need]:
    sizes = (None, run.few_patients)
    verdicts = [transplants.judge(run, network, patients) for network in TITLES for patients in sizes]
    return [*verdicts, *(transplants.by_source(run, network) for network in TITLES), *ledger.evidence(run, range(2, 8))]


def _architecture(run: Run) -> list[Need]:
    return [architecture.table(run)]


def _redundancy(run: Run) -> list[Need]:
    both = (redundancy.dice, redundancy.controls, prefixes.joint, prediction.apart)
    ranked = (redundancy.all_kinds, prefixes.prefixes, prediction.layers, prediction.by_source)
    return [
        *(of(run, network) for of in both for network in grid.NETWORKS),
        *(of(run, network) for of in ranked for network in grid.ranked_networks(run)),
    ]


CHAPTERS: dict[str, Callable[[Run], Sequence[Need]]] = {
    "01": _data,
    "02": _batch_norm,
    "03": _unet,
    "04": _pspnet,
    "05": _distances,
    "06": _transfer,
    "07": _verdict,
    "08": _architecture,
    "09": _redundancy,
    "10": examples.jobs,
}
STAND_IN = "real stand-in"  # the origin of a data set that is not the paper's own
COMPARING = ("05", "06", "07")  # chapters of the six networks


def lacking(run: Run, number: str) -> str | None:
    """What a chapter lacks in a run, and how to give it, in one sentence; None where it can be executed."""
    return networks.lacking(run) if number in COMPARING else None


def notice(run: Run) -> str:
    """What a reader of any page has to know first, as MyST: what stands where the text names the paper's data sets.

    A sentence for each place that holds neither the paper's set nor the phantom of it; empty where all do.
    """
    papers, told = {place: DATA_SETS[place].title for place in PLACES}, []
    for place in run.places:
        if not run.edition and place not in run.given:
            continue  # the phantom, whose files need not be read for this
        with contextlib.suppress(MissingError):  # an edition of some chapters tells of their data alone
            title, origin, patients = (run.facts(place)[name] for name in ("data set", "origin", "patients"))
            if title != papers[place] or origin == STAND_IN:
                told.append(f"**{title}**, a {origin} of {patients} patients, stands where it says {papers[place]}.")
    if empty := [paper for place, paper in papers.items() if place not in run.places]:
        told.append(f"Nothing stands where it says {' or '.join(empty)}.")
    if not told:
        return ""
    told.append(f"Classes: {', '.join(name for value, name in run.labels.items() if value)}.")
    return f":::{{important}}\nThe text names the paper's data sets; this build has others. {' '.join(told)}\n:::"


def jobs(run: Run, *numbers: str) -> list[Need]:
    """What some chapters show, and what the claims that they test rest on.

    Args:
        run: whose results they are.
        numbers: of chapters, such as "03"; none means all that lack nothing, with a warning of those that do.

    Raises:
        OptionError: an unknown chapter.
        DataError: a named chapter lacks something.
    """
    named = [number.zfill(2) for number in numbers] or list(CHAPTERS)
    if unknown := sorted(set(named) - set(CHAPTERS)):
        raise OptionError(f"chapter {', '.join(unknown)}: expected some of {', '.join(CHAPTERS)}")
    left_out = {number: why for number in named if (why := lacking(run, number))}
    if left_out:
        told = f"chapter {', '.join(left_out)}: {next(iter(left_out.values()))}"
        if numbers:
            raise DataError(told)
        warnings.warn(f"left out: {told}", stacklevel=2)
    shown = [job for number in named if number not in left_out for job in CHAPTERS[number](run)]
    return closure([*shown, *ledger.evidence(run, map(int, named))])


def plan(run: Run, *numbers: str) -> pd.DataFrame:
    """The networks that executing some chapters would train on this machine.

    Args:
        run: whose chapters they are.
        numbers: of chapters; none means all.

    Returns:
        DataFrame[network, dataset, task, start, seed, patients, normalisation, stored, seconds, megabytes, peak].
        patients: of the training part, 0 for all; stored: it is in the store, and takes nothing; seconds: steps times
        the time of one step, measured now on two slices; megabytes: in the store; peak: megabytes of memory that
        training takes at least: what a step keeps, weights, gradients and Adam's moments; data and what an operation
        takes for a moment come on top. Both are those of one job at a time, and of networks alone: the rows of the
        transfer experiment come on top.

    Raises:
        OptionError, DataError: as `jobs`.
    """
    columns = ["network", "dataset", "task", "start", "seed", "patients", "normalisation"]
    columns += ["stored", "seconds", "megabytes", "peak"]
    trained = [job for job in jobs(run, *numbers) if isinstance(job, Job) and job.function is networks.trained]
    each: dict[tuple, tuple[float, float]] = {}
    return pd.DataFrame([_cost(run, job, each) for job in trained], columns=columns)


def _cost(run: Run, job: Job, each: dict[tuple, tuple[float, float]]) -> dict[str, Any]:
    """One row of `plan`; `each` keeps what a slice costs a network that has been measured, in seconds and bytes."""
    given, of = job.arguments, networks.origin(job).arguments
    size = job.needs["slices"].scale["size"]
    model = random(of["network"], of["width"], 0, of["channels"], of["classes"]).to(run.device)  # by any start
    stored = run.holds(job)
    megabytes = sum(value.numel() * value.element_size() for value in model.state_dict().values()) / 1e6
    seconds = peak = 0
    if not stored:
        measured = of["network"], of["width"], size
        if measured not in each:
            with run.results.measured():
                each[measured] = training.cost_per_slice(model, size, of["channels"])
        spent, kept = (given["batch_size"] * value for value in each[measured])
        seconds, peak = round(given["steps"] * spent), round(kept / 1e6 + 4 * megabytes)
    return {
        **job.labels, "dataset": given["dataset"], "task": given["task"], "patients": given["patients"] or 0,
        "stored": stored, "seconds": seconds, "megabytes": round(megabytes, 1), "peak": peak,
    }  # fmt: skip
