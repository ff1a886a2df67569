"""What the chapters would train, and at what cost, before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from prr.errors import OptionError
from prr.study import training
from prr.study.experiment import Experiment, initial

# what each chapter trains on ACDC for both tasks: (network, normalisation; None is the run's own)
CHAPTERS = {
    "01": (),
    "02": (("unet", None), ("pspnet", None), ("pspnet", "zscore"), ("pspnet", "unit")),
    "03": (("unet", None), ("unet", "zscore"), ("unet", "unit")),
    "04": (("unet", None), ("pspnet", None), ("pspnet", "zscore"), ("pspnet", "unit")),
}


def plan(profile: str, chapters: Sequence[str] = (), **parameters: Any) -> pd.DataFrame:
    """The networks that executing some chapters would train on this machine.

    Args:
        profile: see `Experiment`.
        chapters: numbers such as "03"; none means all.
        parameters: of `Experiment`.

    Returns:
        DataFrame[network, dataset, task, start, seed, normalisation, stored, seconds, megabytes]. stored: it is in the
        store, and takes no time; seconds: steps times the time of one step, measured now on two slices.

    Raises:
        OptionError: an unknown chapter, profile or parameter.
    """
    numbers = [number.zfill(2) for number in chapters] or list(CHAPTERS)
    if unknown := sorted(set(numbers) - set(CHAPTERS)):
        raise OptionError(f"chapter {', '.join(unknown)}: expected some of {', '.join(CHAPTERS)}")
    run = Experiment(profile, **parameters)
    jobs = dict.fromkeys(
        (network, normalisation or run.profile.normalisation)
        for number in numbers
        for network, normalisation in CHAPTERS[number]
    )
    rows = [
        cost(run.variant(normalisation=normalisation), network, task)
        for network, normalisation in jobs
        for task in training.LOSSES
    ]
    columns = ["network", "dataset", "task", "start", "seed", "normalisation", "stored", "seconds", "megabytes"]
    return pd.DataFrame(rows, columns=columns)


def cost(run: Experiment, network: str, task: str) -> dict[str, Any]:
    """One row of `plan`."""
    key = run.key(network, "acdc", task)
    # a random start stands in for ImageNet's, which would be downloaded
    model = initial(network, key["width"], "shared", "acdc", task, run.seed).to(run.device)
    stored = run.store.path("networks", key).exists()
    with run.threads():
        each = 0 if stored else training.seconds_per_slice(model, run.profile.size)
    size = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    return {
        **{"network": network, "dataset": "acdc", "task": task, "start": key["start"], "seed": key["seed"]},
        **{"normalisation": run.profile.normalisation, "stored": stored},
        **{"seconds": round(key["steps"] * key["batch_size"] * each), "megabytes": round(size / 1e6, 1)},
    }
