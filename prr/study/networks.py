"""The networks of a run: what each depends on, its training, its history."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from prr.data import Slices
from prr.errors import DataError, OptionError
from prr.layers import parameter_table
from prr.study import profiles, training
from prr.study.backbones import ARCHITECTURES, random
from prr.study.datasets import PLACES, TEXTURES
from prr.study.jobs import Form, Job, kept_as
from prr.study.models import seed_of
from prr.study.run import Run, checked_seed
from prr.study.starts import Start, checked_start, initial


def _packed(made: tuple[nn.Module, pd.DataFrame]) -> tuple[dict[str, Tensor], dict]:
    """A trained network and its history for the store."""
    model, history = made
    return model.state_dict(), {"history": history.to_dict("split", index=False)}


def _unpacked(job: Job, tensors: dict[str, Tensor], record: dict, device: str) -> nn.Module:
    """The network in eval mode."""
    of = origin(job).arguments
    model = random(of["network"], of["width"], 0, of["channels"], of["classes"])  # whatever is random is overwritten
    model.load_state_dict(tensors)
    return model.to(device, memory_format=torch.channels_last).eval()


NETWORK = Form("networks", _packed, _unpacked)
SHORT = {"segmentation": "seg", "auto-encoding": "auto"}  # tasks as labels name them


def label(run: Run, place: str = "acdc", task: str = "segmentation") -> str:
    """How a network is called, after what its place holds: "ACDC seg" is the paper's A1."""
    return f"{run.title(place)} {SHORT[task]}"


def six(run: Run) -> dict[str, tuple[str, str]]:
    """{label: (place, task)} of the run's networks, those of the target first: the paper's six where no place is empty.

    Raises:
        DataError: two places hold data sets of one name, whose networks no table could tell apart.
    """
    found: dict[str, tuple[str, str]] = {}
    for place, task in itertools.product(run.places, SHORT):
        title = label(run, place, task)
        if title in found:
            raise DataError(
                f"{found[title][0]} and {place}: expected data sets of different names, found {run.title(place)} in "
                "both; give each place its own, or rename one"
            )
        found[title] = place, task
    return found


def lacking(run: Run) -> str | None:
    """What the comparison of data sets lacks, and how to give it, in one sentence; None where no place is empty."""
    empty = [alias.upper() for place, alias in PLACES.items() if place not in run.places]
    if not empty:
        return None
    there = " and ".join(run.title(place) for place in run.places)
    return (
        f"This compares three data sets, the target and two others, as the paper does, and the run has {there} alone: "
        f"name what is missing in {' and '.join(f'PRR_{name}' for name in empty)} "
        f"(make book {' '.join(f'{name}=FOLDER' for name in empty)})."
    )


def model(
    run: Run, network: str, dataset: str = "acdc", task: str = "segmentation", start: Start | None = None,
    seed: int | None = None, patients: int | None = None, common: int | None = None, **scale: float,
) -> Job:  # fmt: skip
    """A trained network.

    Args:
        run: profile, data and seed.
        network: unet or pspnet, or another of `prr.study.backbones.ARCHITECTURES`.
        dataset: one of `prr.data.DATA_SETS`, or textures.
        task: segmentation, auto-encoding or denoising.
        start: see `prr.study.starts.initial`, or pretext: a network trained to segment textures; None: the profile's.
        seed: None: the run's.
        patients: train on n patients only, drawn by the seed from the training part; None: on all of it.
        common: seed of what the start has in common with other networks; None: `seed`.
        scale: steps or learning_rate, where they are not the profile's.

    Returns:
        The job of the network, in eval mode on the run's device.

    Raises:
        OptionError: an unknown network, data set, task or start.
    """
    for value, known, what in ((network, ARCHITECTURES, "network"), (task, training.LOSSES, "task")):
        if value not in known:
            raise OptionError(f"{what} {value!r}: expected one of {', '.join(known)}")
    if strange := sorted(set(scale) - {"steps", "learning_rate"}):
        raise OptionError(f"{', '.join(strange)}: expected steps or learning_rate; make a variant for the others")
    values = profiles.profile(run.profile.name, **run.overrides | scale)
    start = checked_start(start_of(run, network) if start is None else start, network)
    seed = run.seed if seed is None else checked_seed(seed)
    common = None if common == seed or start in ("independent", "imagenet") else common
    words = {"network": network, "normalisation": run.profile.normalisation, "start": start, "seed": seed}
    begins = {"network": network, "width": width_of(run, network), "start": start, "dataset": dataset, "task": task}
    begins |= run.shape
    job = run.job(
        trained,
        title=f"{run.title(dataset).lower()} {task}" + ("" if patients is None else f", {patients} patients"),
        initial=pretext(run, network, seed if common is None else common)
        if start == "pretext"
        else run.job(initial, **begins, seed=seed, common=common),
        slices=run.data(dataset),
        dataset=dataset,
        task=task,
        seed=seed,
        patients=patients,
        **{name: getattr(values, name) for name in ("steps", "batch_size", "learning_rate")},
    )
    return dataclasses.replace(job, labels=words)


def pretext(run: Run, network: str, seed: int) -> Job:
    """The network from which all begin that have the start "pretext" in common."""
    return model(run, network, TEXTURES, "segmentation", "shared", seed)


def origin(job: Job) -> Job:
    """The random start of a network, by way of a pretext network if it began from one."""
    return origin(job.needs["initial"]) if "initial" in job.needs else job


def start(run: Run, network: str, *given: Any, **named: Any) -> Job:
    """The network from which the training of `model` with these arguments begins."""
    return model(run, network, *given, **named).needs["initial"]


@kept_as(NETWORK)
def trained(
    initial: nn.Module, slices: Slices, dataset: str, task: str, seed: int, patients: int | None, steps: int,
    batch_size: int, learning_rate: float, device: str, progress: bool,
) -> tuple[nn.Module, pd.DataFrame]:  # fmt: skip
    """Train a network; returns it with its history, see `prr.study.training.fit`."""
    part = slices if patients is None else draw(slices, patients, seed)
    history = training.fit(
        initial.to(device), part, task, steps=steps, batch_size=batch_size, learning_rate=learning_rate,
        seed=seed_of(seed, dataset, task), progress=progress,
    )  # fmt: skip
    return initial, history


def history(run: Run, network: str, *given: Any, **named: Any) -> pd.DataFrame:
    """DataFrame[step, loss, validation] of a network's training; arguments as `model`."""
    job = model(run, network, *given, **named)
    run.shown.append(job)
    if not run.holds(job):
        run.result(job)
    return pd.DataFrame(**run.results.record(job)["history"])


def untrained(run: Run, network: str) -> nn.Module:
    """A network of the run's width as it was never used, for its layers alone; on the CPU, in eval mode."""
    return random(network, width_of(run, network), 0, **run.shape).eval()


def parameters(run: Run, network: str) -> pd.DataFrame:
    """`prr.parameter_table` of a network at the profile's size; it needs no training."""
    size = run.profile.size
    return parameter_table(untrained(run, network), torch.zeros(1, run.shape["channels"], size, size))


def width_of(run: Run, network: str) -> int:
    """The width that a network has in a run."""
    return getattr(run.profile, f"{ARCHITECTURES[network].sized_as}_width")


def start_of(run: Run, network: str) -> Start:
    """The start that a network has in a run."""
    return getattr(run.profile, f"{ARCHITECTURES[network].sized_as}_start")


def draw(slices: Slices, patients: int, seed: int, classes: Collection[int] = ()) -> Slices:
    """Some of the training patients, and all of the validation patients.

    Args:
        slices: of a whole data set.
        patients: n of the training part; fewer are always among more of the same seed.
        seed: of the draw.
        classes: labels that the drawn masks must hold.

    Raises:
        OptionError: no patients, or more than there are.
        DataError: the drawn masks lack a class.
    """
    there, held_out = slices.train.patient.unique(), slices.validation.patient.unique()
    if not 1 <= patients <= len(there):
        raise OptionError(f"patients={patients}: expected 1 to {len(there)}, the training patients of {slices.name}")
    drawn = there[torch.randperm(len(there), generator=torch.Generator().manual_seed(seed))[:patients]]
    keep = torch.isin(slices.patient, torch.cat([drawn, held_out]))
    parts = {name: getattr(slices, name)[keep] for name in ("images", "masks", "patient")}
    part = dataclasses.replace(slices, **parts, held_out=tuple(held_out.tolist()))
    if missing := sorted(set(classes) - set(part.train.masks.unique().tolist())):
        raise DataError(
            f"{slices.name}: no pixel of class {', '.join(map(str, missing))} in the masks of the {patients} drawn "
            f"patients {sorted(drawn.tolist())}; draw more, or take another seed"
        )
    return part
