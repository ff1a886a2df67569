"""Architecture, start or distance: the same transplants in networks that differ in one of the three.

The headline is a 2 x 2 of {short connections} x {long connections} in one backbone, crossed with the start
{independent, shared}, target seeds and source seeds. Around it stand other networks, starts between independent and
shared, sources that were trained for longer or shorter, and another task for the source.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from prr.donors import AMOUNTS, DRAWN
from prr.metrics import crossed_interval
from prr.study import grid, transplants
from prr.study.backbones import CONNECTIONS
from prr.study.display import Words
from prr.study.jobs import Job, derived
from prr.study.profiles import PROFILES
from prr.study.run import Run

DISTANCE = 0.25  # relative RMSE at which sources are compared; those of a common start come about so far
BESIDE = ("unet", "pspnet", "densenet")
BETWEEN = (0.5, 0.9, 0.99)  # correlations of the starts, between independent and shared
RATES = (0.25, 4.0)  # times the learning rate of the source
AS_TRAINED, AT_DISTANCE, BY_NOISE, AT_DICE = "as trained", "at equal distance", "by equal noise", "at nearest Dice"
PAIR = ["network", "start", "source", "target_seed", "source_seed", "donor", "steps"]  # labels of a pair of networks
# of the mean drop over a network's kernels: what is on average more, less where it is negative
CONTRASTS = {
    "short connections": {"residual": 0.5, "both": 0.5, "plain": -0.5, "long": -0.5},
    "long connections": {"long": 0.5, "both": 0.5, "plain": -0.5, "residual": -0.5},
    "short beside long": {"both": 0.5, "plain": 0.5, "long": -0.5, "residual": -0.5},  # half the difference of both
}
Labelled = tuple[dict[str, Any], Job]  # labels of a pair of networks, and the transplants between them


def seeds(run: Run, rest: bool = False) -> range:
    """Seeds of targets and of sources; of what is not the headline, with `rest`."""
    return range(run.seed, run.seed + (run.profile.rest_seeds if rest else run.profile.grid_seeds))


def varied(run: Run) -> tuple[str, ...]:
    """Networks for which the start and the source's training are varied: all but in a thinned profile."""
    is_thinned = run.profile.rest_seeds < run.profile.grid_seeds
    return ("both", "pspnet") if is_thinned else (*CONNECTIONS, *BESIDE)


def table(run: Run) -> Job:
    """All transplants of kernels.

    Returns:
        The job of DataFrame[kind, layer, name, patient, score, drop, rmse, relative, network, start, source,
        target_seed, source_seed, donor, steps, dice]: see `transplants.drops` and `pair`; dice: of the target, mean
        over patients.
    """
    labels, parts = zip(*pairs(run), strict=True)
    return run.job(gathered, labels=list(labels), parts=list(parts))


@derived
def gathered(labels: list[dict[str, Any]], parts: list[pd.DataFrame]) -> pd.DataFrame:
    """See `table`."""
    found = []
    for label, part in zip(labels, parts, strict=True):
        part = part.dropna(subset="drop")
        found.append(part.assign(**label, dice=(part["score"] + part["drop"]).mean()))
    return pd.concat(found, ignore_index=True)


# ---------------------------------------------------------------- what is compared


def pairs(run: Run) -> list[Labelled]:
    """Every comparison of the chapter, each once."""
    small = grid.scaled(run)
    parts = (headline, at_equal_distance, other_networks, other_starts, other_training)
    return [each for part in parts for each in part(small)]


def pair(
    run: Run, network: str, start: str | float, target_seed: int, source_seed: int, donor: str = "source",
    half: bool = False, source: str = "", **training: Any,
) -> Labelled:  # fmt: skip
    """A target by a source that is independent of it or has a start in common with it.

    An independent source has its seed alone, so that all targets meet the same sources; another one begins with what it
    has in common with the target. A donor that is drawn is drawn again for every target.

    Args:
        run: profile and data; scaled by `grid.scaled`.
        network: see `networks.model`.
        start: of the source, and of the target where it is a trained network.
        target_seed: of the network that is judged.
        source_seed: of the network that gives.
        donor: what stands in the source's place, see `transplants.drops`; those that take an amount take `DISTANCE`.
        half: whether the target was trained for half of the steps.
        source: what differs in the source's training, in words.
        training: task, steps or learning_rate of the source, where they differ.

    Returns:
        {network, start, source, target_seed, source_seed, donor, steps}, and the job of `transplants.drops`; steps: of
        the target's training, full or half.
    """
    small = grid.scaled(run)
    # one target for all starts that are random: its own is random either way
    target = grid.target(target_seed) | ({"start": start} if start in ("pretext", "imagenet") else {})
    if half:
        target["steps"] = max(1, small.profile.steps // 2)
    giver = grid.source(source_seed, target_seed, start=start, **training)
    labels = (network, str(start), source, target_seed, source_seed, donor, "half" if half else "full")
    by = small.variant(seed=target_seed) if donor in DRAWN else small
    amount = DISTANCE if donor in AMOUNTS else None
    return dict(zip(PAIR, labels, strict=True)), transplants.drops(by, network, target, giver, donor, amount)


def headline(run: Run) -> Iterator[Labelled]:
    """Connections by start, every target seed with every source seed."""
    for network, start, *both in itertools.product(CONNECTIONS, ("independent", "shared"), seeds(run), seeds(run)):
        yield pair(run, network, start, *both)


def at_equal_distance(run: Run) -> Iterator[Labelled]:
    """The same at equal distance, by noise at that distance, and by targets trained for half the steps."""
    for network, seed in itertools.product(CONNECTIONS, seeds(run)):
        for start in ("independent", "shared"):
            yield pair(run, network, start, seed, seed, "at")
            yield pair(run, network, start, seed, seed, half=True)
        yield pair(run, network, "shared", seed, seed, "noise at")


def other_networks(run: Run) -> Iterator[Labelled]:
    """The paper's two networks and a DenseNet, as the headline, at equal distance and by noise."""
    for network, seed in [*itertools.product(BESIDE[:2], seeds(run)), *itertools.product(BESIDE[2:], seeds(run, True))]:
        for start in ("independent", "shared"):
            yield pair(run, network, start, seed, seed)
            yield pair(run, network, start, seed, seed, "at")
        yield pair(run, network, "shared", seed, seed, "noise at")


def other_starts(run: Run) -> Iterator[Labelled]:
    """Starts that are common in the encoder alone, learned on textures, or common to a degree."""
    for network, seed in itertools.product(varied(run), seeds(run, rest=True)):
        for start in ("encoder-shared", "pretext", *BETWEEN):
            yield pair(run, network, start, seed, seed)
    if run.profile.pspnet_start == "imagenet":
        yield from (pair(run, "pspnet", "imagenet", seed, seed) for seed in seeds(run, rest=True))


def other_training(run: Run) -> Iterator[Labelled]:
    """Sources of the target's start, trained otherwise: longer or shorter steps, fewer of them, another task."""
    rate = run.profile.learning_rate
    others = {f"learning rate x {times:g}": {"learning_rate": rate * times} for times in RATES}
    others |= {"a quarter of the steps": {"steps": grid.short(grid.scaled(run))}, "denoising": {"task": "denoising"}}
    for network, seed in itertools.product(varied(run), seeds(run, rest=True)):
        for words, training in others.items():
            yield pair(run, network, "shared", seed, seed, source=words, **training)


# ---------------------------------------------------------------- from drops to tables


def summary(drops: pd.DataFrame, tolerance: float) -> pd.DataFrame:
    """One row per pair.

    Args:
        drops: from `table`.
        tolerance: of a kernel's drop.

    Returns:
        DataFrame[network, start, source, target_seed, source_seed, donor, steps, dice, kernels, within, drop,
        relative]: within: kernels whose mean drop over patients is at most the tolerance (a count without an interval);
        drop and relative RMSE: means over kernels.
    """
    layers = drops.groupby([*PAIR, "dice", "layer"], sort=False)[["drop", "relative"]].mean().reset_index()
    layers["within"] = layers["drop"] <= tolerance
    columns = {"kernels": ("layer", "size"), "within": ("within", "sum"), "drop": ("drop", "mean")}
    grouped = layers.groupby([*PAIR, "dice"], sort=False)
    return grouped.agg(**columns, relative=("relative", "mean")).reset_index()


def overview(drops: pd.DataFrame, tolerance: float) -> pd.DataFrame:
    """Every kind of source, as trained: means over pairs of networks, without intervals.

    Args:
        drops: from `table`.
        tolerance: of a kernel's drop.

    Returns:
        DataFrame[network, start, source, pairs, dice, kernels, within, drop, relative], see `summary`; pairs counts the
        pairs of networks.
    """
    table = summary(drops, tolerance)
    table = table[(table["donor"] == "source") & (table["steps"] == "full")]
    grouped = table.groupby(["network", "start", "source"], sort=False)
    means = {name: (name, "mean") for name in ("dice", "within", "drop", "relative")}
    table = grouped.agg(pairs=("dice", "size"), kernels=("kernels", "first"), **means).reset_index()
    return table[["network", "start", "source", "pairs", "dice", "kernels", "within", "drop", "relative"]]


def nearest_dice(drops: pd.DataFrame) -> pd.DataFrame:
    """Of each network's two targets, trained for all steps and for half, the one nearest to the weakest network.

    Returns:
        DataFrame[network, target_seed, steps, dice]: nearest in Dice to the mean of the weakest full network.
    """
    own = drops[drops["network"].isin(CONNECTIONS) & (drops["donor"] == "source")]
    reached = own.groupby(["network", "target_seed", "steps"], sort=False)["dice"].first().reset_index()
    reached = reached[reached["target_seed"].isin(reached.loc[reached["steps"] == "half", "target_seed"])]
    goal = reached[reached["steps"] == "full"].groupby("network")["dice"].mean().min()
    gap = (reached["dice"] - goal).abs()
    chosen = gap.groupby([reached["network"], reached["target_seed"]], sort=False).idxmin()
    return reached.loc[chosen].reset_index(drop=True)


def views(drops: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The 2 x 2 as trained, at equal distance, by noise at that distance, and at nearest Dice."""
    every = drops[drops["network"].isin(CONNECTIONS) & (drops["source"] == "")]
    every = every[every["start"].isin(["independent", "shared"])]
    own, matched = every[every["steps"] == "full"], every[every["target_seed"] == every["source_seed"]]
    chosen = nearest_dice(drops)[["network", "target_seed", "steps"]]
    return {
        AS_TRAINED: own[own["donor"] == "source"],
        AT_DISTANCE: own[own["donor"] == "at"],
        BY_NOISE: own[own["donor"] == "noise at"].assign(start="noise"),
        AT_DICE: matched[matched["donor"] == "source"].merge(chosen),
    }


def crossed(view: pd.DataFrame) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """Mean drop over kernels as (targets, sources, patients, cells), and the cells (network, start).

    But for the first view a source is paired with one target alone: there is one source for each then.
    """
    mean = view.groupby(["target_seed", "source_seed", "patient", "network", "start"])["drop"].mean().reset_index()
    if (mean["target_seed"] == mean["source_seed"]).all():
        mean["source_seed"] = 0
    mean["cell"] = list(mean[["network", "start"]].itertuples(index=False, name=None))
    mean = mean.rename(columns={"target_seed": "target", "source_seed": "source"})
    return grid.crossed(mean, "drop", "cell"), list(mean["cell"].unique())


def cells(drops: pd.DataFrame) -> pd.DataFrame:
    """Mean drop over the kernels of each network of the 2 x 2 by start.

    Returns:
        DataFrame[at, network, start, drop, low, high]: 95 % intervals over target seeds, source seeds and patients,
        simultaneous (max-t) for all points of one view, `prr.metrics.crossed_interval`; start is noise where noise is
        swapped.
    """
    parts = []
    for at, view in views(drops).items():
        values, names = crossed(view)
        found = pd.DataFrame(names, columns=["network", "start"])
        parts.append(found.assign(**_limits(values), at=at))
    return pd.concat(parts, ignore_index=True)[["at", "network", "start", "drop", "low", "high"]]


def contrasts(drops: pd.DataFrame) -> pd.DataFrame:
    """What connections and start do to the mean drop over kernels.

    Returns:
        DataFrame[at, contrast, drop, low, high, says]: the planned contrasts of each view, with intervals as in
        `cells`; says: more or less where the interval keeps clear of 0, else undecided.
    """
    parts = []
    for at, view in views(drops).items():
        values, names = crossed(view)
        weights = planned(names)
        part = pd.DataFrame(_limits(values @ np.stack(list(weights.values()), axis=1)), index=list(weights))
        parts.append(part.rename_axis("contrast").reset_index().assign(at=at))
    return _says(pd.concat(parts, ignore_index=True))[["at", "contrast", "drop", "low", "high", "says"]]


def planned(names: Sequence[tuple[str, str]]) -> dict[str, np.ndarray]:
    """{contrast: weight of each cell (network, start)}: connections within each start, and the start over networks."""
    titles = {"independent": "independent start", "shared": "shared start", "noise": "noise"}
    present, weights = {start for _, start in names}, {}
    for start in (each for each in titles if each in present):
        for contrast, each in CONTRASTS.items():
            weights[f"{contrast}, {titles[start]}"] = np.array([each[n] if s == start else 0.0 for n, s in names])
    if {"independent", "shared"} <= present:
        share = 1 / len(CONNECTIONS)
        weights["shared start"] = np.array([share if start == "shared" else -share for _, start in names])
    return weights


def beside_noise(drops: pd.DataFrame) -> pd.DataFrame:
    """A step towards the source less a step of noise, each at the relative RMSE `DISTANCE`, network by network.

    Returns:
        DataFrame[network, start, targets, source, noise, drop, low, high, says]: mean drops over kernels, and their
        difference with an interval over targets and patients, simultaneous for both starts of a network.
    """
    parts = []
    chosen = drops[drops["donor"].isin(["at", "noise at"])]
    chosen = chosen.assign(start=chosen["start"].where(chosen["donor"] == "at", "noise"))
    for network, part in chosen.groupby("network", sort=False):
        values, names = crossed(part)
        at = {start: place for place, (_, start) in enumerate(names)}
        starts = [start for start in at if start != "noise"]
        source, noise = values[..., [at[start] for start in starts]], values[..., [at["noise"]]]
        means = {"source": source.mean((0, 1, 2)), "noise": noise.mean(), **_limits(source - noise)}
        parts.append(pd.DataFrame({"network": network, "start": starts, "targets": len(values), **means}))
    return _says(pd.concat(parts, ignore_index=True))


def difference(
    drops: pd.DataFrame, first: str, second: str, donor: str = "at"
) -> tuple[tuple[float, float, float], int]:
    """Mean drop of one network over that of another, at equal distance, from sources of a shared start or by noise.

    Args:
        drops: from `table`.
        first, second: networks.
        donor: at or noise at.

    Returns:
        (difference, low, high) over the targets that both have and patients, and how many targets those are.
    """
    view = drops[(drops["donor"] == donor) & (drops["start"] == "shared")]
    both = set.intersection(*(set(view.loc[view["network"] == each, "target_seed"]) for each in (first, second)))
    values, names = crossed(view[view["network"].isin([first, second]) & view["target_seed"].isin(both)])
    sign = np.array([[1.0 if network == first else -1.0] for network, _ in names])
    return tuple(float(each[0]) for each in crossed_interval(values @ sign)), len(both)


def _limits(values: np.ndarray) -> dict[str, np.ndarray]:
    return dict(zip(("drop", "low", "high"), crossed_interval(values), strict=True))


def _says(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(says=np.select([table["low"] > 0, table["high"] < 0], ["more", "less"], "undecided"))


def left_out(run: Run) -> pd.DataFrame:
    """DataFrame[what, here, paper]: how this run differs in extent from profile `paper`, for the page."""
    full = PROFILES["paper"]
    names = {
        "grid_seeds": "target seeds, and source seeds, of the 2 x 2",
        "rest_seeds": "seeds of everything else",
        "grid_size": "pixels",
        "grid_steps": "steps of training",
        "grid_batch": "slices per step",
        "grid_every": "slices that are scored: one in",
        "unet_width": "width of UNet and of the four",
        "pspnet_width": "width of PSPNet and DenseNet",
    }
    rows = [(what, getattr(run.profile, name), getattr(full, name)) for name, what in names.items()]
    rows.append(("networks with other starts and other ways", len(varied(run)), len((*CONNECTIONS, *BESIDE))))
    return pd.DataFrame(rows, columns=["what", "here", "paper"])


# ---------------------------------------------------------------- in words


def in_words(contrasts: pd.DataFrame) -> Words:
    """The answer of this run: which contrasts keep clear of 0, view by view."""
    sentences = []
    for at, part in contrasts.groupby("at", sort=False):
        clear = [
            f"{row.contrast} {row.drop:+.3f} [{row.low:+.3f}, {row.high:+.3f}]"
            for row in part[part["says"] != "undecided"].itertuples()
        ]
        rest = part.loc[part["says"] == "undecided", "contrast"]
        sentence = f"**{at[0].upper()}{at[1:]}**, clear of 0: {'; '.join(clear) or 'nothing'}."
        sentences.append(sentence + (f" Undecided: {'; '.join(rest)}." if len(rest) else ""))
    return Words("\n\n".join(sentences))
