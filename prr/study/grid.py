"""Targets crossed with sources at the small scale of chapters 8 and 9, and how many of them each part has."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from prr.study.run import Run

NETWORKS = ("unet", "pspnet")
SOURCE = ("acdc", "auto-encoding")  # the paper's A2
OTHER_SEED = 100  # added to the seed of a source that has the target's data and task, and would else be the target


class Part(NamedTuple):
    """How many targets, and how many sources or draws for each: see `_count`."""

    targets: str | int
    sources: str | int


RANKED = "sources to be ranked, by fine-tuning on so many draws"
# What chapter 9 measures; what has rest is thinned where the profile's rest_seeds is below its grid_seeds.
PARTS = {
    "kernels from the source": Part("grid", "grid"),
    "kernels from the untrained start": Part("grid", 1),
    "kernels from random donors": Part("grid", "rest"),
    "kernels from another seed": Part("grid", "rest"),
    "kernels from shuffled channels, from noise, from zero and from the target itself": Part("rest", 1),
    "all six kinds": Part(1, 1),
    "joint transplants": Part("rest", 1),
    "prefixes with training": Part("rest", 1),
    "distances and their nulls": Part("rest", 1),
    RANKED: Part("rest", "two or rest"),
}
THINNED = ("rest", "two or rest")


def scaled(run: Run) -> Run:
    """The run at the size and steps of chapters 8 and 9, over the same field of view; one that has them, as it is."""
    scale = run.profile
    if (scale.size, scale.steps, scale.batch_size) == (scale.grid_size, scale.grid_steps, scale.grid_batch):
        return run
    spacing = scale.spacing_mm * scale.size / scale.grid_size
    return run.variant(size=scale.grid_size, spacing_mm=spacing, steps=scale.grid_steps, batch_size=scale.grid_batch)


def seeds(run: Run, part: str) -> tuple[list[int], list[int]]:
    """Seeds of the targets and of the sources (or draws) that a part has."""
    targets, sources = ([run.seed + each for each in range(_count(run, many))] for many in PARTS[part])
    return targets, sources


def _count(run: Run, many: str | int) -> int:
    """A number as it is; grid or rest: of the profile's seeds; two or rest: the larger."""
    if many == "two or rest":
        return max(2, run.profile.rest_seeds)
    return many if isinstance(many, int) else getattr(run.profile, f"{many}_seeds")


def target(seed: int) -> dict[str, Any]:
    """Arguments of `networks.model` for a target: segmentation of the run's target data from a start of this seed."""
    return {"dataset": "acdc", "task": "segmentation", "start": "shared", "seed": seed}


def source(
    seed: int, common: int, dataset: str = SOURCE[0], task: str = SOURCE[1], **others: Any
) -> dict[str, Any]:  # fmt: skip
    """The same for a source that begins where the target of seed `common` began."""
    return {"dataset": dataset, "task": task, "start": "shared", "seed": seed, "common": common, **others}


def other_seed(seed: int, common: int) -> dict[str, Any]:
    """The same for a network with the target's data, task and start, trained in another order."""
    return source(seed + OTHER_SEED, common, task="segmentation")


def short(run: Run) -> int:
    """Steps of a short training: a quarter of a network's own."""
    return max(1, run.profile.steps // 4)


def ranked_networks(run: Run) -> tuple[str, ...]:
    """The networks for which sources are ranked and prefixes are trained: those of the transfer experiment."""
    chosen = run.profile.transfer_network
    return NETWORKS if chosen == "both" else (chosen,)


def thinned(run: Run) -> pd.DataFrame:
    """What has fewer seeds in this run than it would have with rest_seeds as many as grid_seeds.

    Returns:
        DataFrame[part, targets, sources, whole]: seeds here, and of targets with nothing thinned; empty at profile
        paper.
    """
    whole, rows = run.profile.grid_seeds, []
    for part, numbers in PARTS.items():
        here = [_count(run, many) for many in numbers]
        if any(many in THINNED and count < whole for many, count in zip(numbers, here, strict=True)):
            rows.append((part, *here, whole))
    missing = [name for name in NETWORKS if name not in ranked_networks(run)]
    if missing:
        rows.append((f"{', '.join(missing)}: all six kinds, prefixes with training, sources to be ranked", 0, 0, whole))
    return pd.DataFrame(rows, columns=["part", "targets", "sources", "whole"])


def crossed(table: pd.DataFrame, column: str, over: str) -> np.ndarray:
    """Values (targets, sources, patients, k) for `prr.metrics.crossed_interval`.

    Args:
        table: DataFrame[target, source, patient, ...] in which every combination stands once.
        column: what is averaged.
        over: column of the k things, in order of appearance.

    Returns:
        The array; a patient without a value somewhere (no foreground) is left out everywhere.
    """
    axes = ["target", "source", "patient", over]
    wide = table.set_index(axes)[column]
    shape = [wide.index.get_level_values(axis).unique() for axis in axes]
    full = wide.reindex(pd.MultiIndex.from_product(shape, names=axes)).to_numpy(dtype=float)
    values = full.reshape([len(each) for each in shape])
    return values[:, :, ~np.isnan(values).any(axis=(0, 1, 3))]


def over(values: np.ndarray, targets: str = "targets") -> str:
    """What an interval over crossed values resamples, in words: the axes that have more than one place.

    Args:
        values: (targets, sources, patients, k), from `crossed`.
        targets: what the first axis counts.

    >>> over(np.zeros((3, 3, 14, 2))), over(np.zeros((3, 1, 14, 2)), "pairs"), over(np.zeros((1, 1, 14, 2)))
    ('targets, sources and patients', 'pairs and patients', 'patients')
    """
    several = [name for name, count in zip((targets, "sources", "patients"), values.shape, strict=False) if count > 1]
    return " and ".join(filter(None, [", ".join(several[:-1]), *several[-1:]]))


def in_full(over: str) -> str:
    """What an interval resamples, for a sentence: that there is one target alone, where that is so.

    >>> in_full("patients"), in_full("targets and patients")
    ('patients of one target, trained once', 'targets and patients')
    """
    return f"{over} of one target, trained once" if over == "patients" else over
