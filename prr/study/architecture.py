"""Architecture, start or distance: the same transplants in networks that differ in one of the three.

The headline is a 2 x 2 of {short connections} x {long connections} in one backbone, crossed with the start
{independent, shared}, target seeds and source seeds. Around it stand other networks, starts between independent and
shared, sources that were trained for longer or shorter, and another task for the source.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from prr.donors import DRAWN
from prr.metrics import crossed_interval
from prr.study import grid, transplants
from prr.study.backbones import CONNECTIONS, NAMES
from prr.study.display import Words, ranged
from prr.study.jobs import Job, derived
from prr.study.profiles import PROFILES
from prr.study.run import Run

# relative RMSE at which sources are compared: about as far as those of a common start come, and as far as the kernel
# is large
DISTANCES = (0.25, 1.0)
BESIDE = ("unet", "pspnet", "densenet")
STARTS = ("independent", "shared")
BETWEEN = (0.5, 0.9, 0.99)  # correlations of the starts, between independent and shared
RATES = (0.25, 4.0)  # times the learning rate of the source
AS_TRAINED, AT_DISTANCE, BY_NOISE = "as trained", "at equal distance", "by equal noise"
MORE, LESS, UNDECIDED, NOT_JUDGED = "more", "less", "undecided", "not judged"  # what an interval says
PAIR = ["network", "start", "source", "target_seed", "source_seed", "donor", "distance"]  # labels of a pair of networks
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
        target_seed, source_seed, donor, distance, dice]: see `transplants.drops` and `pair`; dice: of the target, mean
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
    return pd.concat(found, ignore_index=True).astype({"distance": float})


# ---------------------------------------------------------------- what is compared


def pairs(run: Run) -> list[Labelled]:
    """Every comparison of the chapter, each once."""
    small = grid.scaled(run)
    parts = (headline, at_equal_distance, other_networks, other_starts, other_training)
    return [each for part in parts for each in part(small)]


def pair(
    run: Run, network: str, start: str | float, target_seed: int, source_seed: int, donor: str = "source",
    distance: float | None = None, source: str = "", **training: Any,
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
        donor: what stands in the source's place, see `transplants.drops`.
        distance: relative RMSE, for donors that take one.
        source: what differs in the source's training, in words.
        training: task, steps or learning_rate of the source, where they differ.

    Returns:
        {network, start, source, target_seed, source_seed, donor, distance}, and the job of `transplants.drops`.
    """
    small = grid.scaled(run)
    # one target for all starts that are random: its own is random either way
    target = grid.target(target_seed) | ({"start": start} if start in ("pretext", "imagenet") else {})
    giver = grid.source(source_seed, target_seed, start=start, **training)
    labels = (network, str(start), source, target_seed, source_seed, donor, distance)
    by = small.variant(seed=target_seed) if donor in DRAWN else small
    return dict(zip(PAIR, labels, strict=True)), transplants.drops(by, network, target, giver, donor, distance)


def headline(run: Run) -> Iterator[Labelled]:
    """Connections by start, every target seed with every source seed."""
    for network, start, *both in itertools.product(CONNECTIONS, STARTS, seeds(run), seeds(run)):
        yield pair(run, network, start, *both)


def at_equal_distance(run: Run) -> Iterator[Labelled]:
    """The same at equal distances."""
    for network, seed in itertools.product(CONNECTIONS, seeds(run)):
        yield from _at_distances(run, network, seed)


def other_networks(run: Run) -> Iterator[Labelled]:
    """The paper's two networks and a DenseNet, as the headline and at equal distances."""
    for network, seed in [*itertools.product(BESIDE[:2], seeds(run)), *itertools.product(BESIDE[2:], seeds(run, True))]:
        yield from (pair(run, network, start, seed, seed) for start in STARTS)
        yield from _at_distances(run, network, seed)


def _at_distances(run: Run, network: str, seed: int) -> Iterator[Labelled]:
    """One target at each of `DISTANCES`: towards a source of either start, and by noise."""
    for distance in DISTANCES:
        yield from (pair(run, network, start, seed, seed, "at", distance) for start in STARTS)
        yield pair(run, network, "shared", seed, seed, "noise at", distance)


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
        DataFrame[network, start, source, target_seed, source_seed, donor, distance, dice, kernels, within,
        drop, relative]: within: kernels whose mean drop over patients is at most the tolerance (a count without an
        interval); drop and relative RMSE: means over kernels.
    """
    layers = drops.groupby([*PAIR, "dice", "layer"], sort=False, dropna=False)
    layers = layers[["drop", "relative"]].mean().reset_index()
    layers["within"] = layers["drop"] <= tolerance
    columns = {"kernels": ("layer", "size"), "within": ("within", "sum"), "drop": ("drop", "mean")}
    grouped = layers.groupby([*PAIR, "dice"], sort=False, dropna=False)
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
    table = table[table["donor"] == "source"]
    grouped = table.groupby(["network", "start", "source"], sort=False)
    means = {name: (name, "mean") for name in ("dice", "within", "drop", "relative")}
    table = grouped.agg(pairs=("dice", "size"), kernels=("kernels", "first"), **means).reset_index()
    return table[["network", "start", "source", "pairs", "dice", "kernels", "within", "drop", "relative"]]


def reached(drops: pd.DataFrame, networks: Iterable[str] = CONNECTIONS) -> dict[str, float]:
    """{network: foreground Dice of its targets from random starts, mean over target seeds}."""
    own = drops[(drops["donor"] == "source") & drops["start"].isin(STARTS)]
    means = own.groupby(["network", "target_seed"])["dice"].first().groupby("network").mean()
    return {network: float(means[network]) for network in networks}


def views(drops: pd.DataFrame) -> dict[tuple[str, float], pd.DataFrame]:
    """{(view, distance): its part of the 2 x 2}: as trained (no distance), at equal distances and by noise at those."""
    every = drops[drops["network"].isin(CONNECTIONS) & drops["start"].isin(STARTS) & (drops["source"] == "")]
    found = {(AS_TRAINED, np.nan): every[every["donor"] == "source"]}
    for at, donor in ((AT_DISTANCE, "at"), (BY_NOISE, "noise at")):
        for distance, part in every[every["donor"] == donor].groupby("distance"):
            found[at, distance] = part.assign(start="noise") if at == BY_NOISE else part
    return found


def crossed(view: pd.DataFrame) -> tuple[np.ndarray, list[tuple[str, str]], str]:
    """Mean drop over kernels as (targets, sources, patients, cells), the cells (network, start), what is resampled.

    But for the first view a source is paired with one target alone: there is one source for each then.
    """
    mean = view.groupby(["target_seed", "source_seed", "patient", "network", "start"])["drop"].mean().reset_index()
    if paired := (mean["target_seed"] == mean["source_seed"]).all():
        mean["source_seed"] = 0
    mean["cell"] = list(mean[["network", "start"]].itertuples(index=False, name=None))
    mean = mean.rename(columns={"target_seed": "target", "source_seed": "source"})
    values = grid.crossed(mean, "drop", "cell")
    has_sources = paired and (view["donor"] != "noise at").any()
    over = grid.over(values, "pairs of networks" if has_sources else "targets")
    return values, list(mean["cell"].unique()), over


def cells(drops: pd.DataFrame) -> pd.DataFrame:
    """Mean drop over the kernels of each network of the 2 x 2 by start.

    Returns:
        DataFrame[at, distance, network, start, dice, drop, low, high, over]: dice: of the network's targets; 95 %
        intervals, simultaneous (max-t) for all points of one view, `prr.metrics.crossed_interval`; over: what they
        resample; start is noise where noise is swapped.
    """
    dice, parts = reached(drops), []
    for (at, distance), view in views(drops).items():
        values, names, over = crossed(view)
        found = pd.DataFrame(names, columns=["network", "start"])
        parts.append(found.assign(at=at, distance=distance, **_limits(values), over=over))
    table = pd.concat(parts, ignore_index=True).assign(dice=lambda found: found["network"].map(dice))
    return table[["at", "distance", "network", "start", "dice", "drop", "low", "high", "over"]]


def deciding(drops: pd.DataFrame, networks: Iterable[str], tolerance: float) -> float | None:
    """The distance at which noise can tell these networks apart; None where it can at none.

    It is the smallest at which noise costs each of them more than the tolerance, as mean over kernels. Nearer, noise is
    at its floor: it costs next to nothing whatever the network, so a difference by noise is judged at this distance.

    Args:
        drops: from `table`.
        networks: all of those that are compared.
        tolerance: drop of the score that counts as none.
    """
    noise = drops[(drops["donor"] == "noise at") & drops["network"].isin(list(networks))]
    least = noise.groupby(["distance", "network"])["drop"].mean().groupby("distance").min()
    return min(least.index[least > tolerance], default=None)


def contrasts(drops: pd.DataFrame, tolerance: float) -> pd.DataFrame:
    """What connections and start do to the mean drop over kernels.

    Args:
        drops: from `table`.
        tolerance: that noise has to exceed, see `deciding`.

    Returns:
        DataFrame[at, distance, contrast, drop, low, high, over, says]: the planned contrasts of each view, with
        intervals as in `cells`; says: more or less where the interval keeps clear of 0, else undecided; not judged:
        those by noise at another distance than the deciding one.
    """
    parts, decides = [], deciding(drops, CONNECTIONS, tolerance)
    for (at, distance), view in views(drops).items():
        values, names, over = crossed(view)
        weights = planned(names)
        part = pd.DataFrame(_limits(values @ np.stack(list(weights.values()), axis=1)), index=list(weights))
        parts.append(part.rename_axis("contrast").reset_index().assign(at=at, distance=distance, over=over))
    table = pd.concat(parts, ignore_index=True)
    table = _says(table, (table["at"] != BY_NOISE) | (table["distance"] == decides))
    return table[["at", "distance", "contrast", "drop", "low", "high", "over", "says"]]


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


def beside_noise(drops: pd.DataFrame, tolerance: float) -> pd.DataFrame:
    """A step towards the source less a step of noise, at each of the distances, network by network.

    Args:
        drops: from `table`.
        tolerance: that noise has to exceed, see `deciding`: here of each network by itself.

    Returns:
        DataFrame[network, distance, start, targets, source, noise, drop, low, high, over, says]: mean drops over
        kernels, and their difference with an interval, simultaneous for both starts; says: as in `contrasts`.
    """
    parts = []
    chosen = drops[drops["donor"].isin(["at", "noise at"])]
    chosen = chosen.assign(start=chosen["start"].where(chosen["donor"] == "at", "noise"))
    for (network, distance), part in chosen.groupby(["network", "distance"], sort=False):
        values, names, over = crossed(part)
        at = {start: place for place, (_, start) in enumerate(names)}
        starts = [start for start in at if start != "noise"]
        source, noise = values[..., [at[start] for start in starts]], values[..., [at["noise"]]]
        found = pd.DataFrame({"network": network, "distance": distance, "start": starts, "targets": len(values)})
        found = found.assign(source=source.mean((0, 1, 2)), noise=noise.mean(), **_limits(source - noise), over=over)
        parts.append(_says(found, found["distance"] == deciding(drops, [network], tolerance)))
    return pd.concat(parts, ignore_index=True)


def difference(
    drops: pd.DataFrame, first: str, second: str, donor: str, distance: float
) -> tuple[tuple[float, float, float], int, str]:
    """Mean drop of one network over that of another, at equal distance, from sources of a shared start or by noise.

    Args:
        drops: from `table`.
        first, second: networks.
        donor: at or noise at; the latter is judged at the distance that is `deciding` for both.
        distance: one of those in `drops`.

    Returns:
        (difference, low, high) over the targets that both have, how many targets those are, and what is resampled.
    """
    view = drops[(drops["donor"] == donor) & (drops["distance"] == distance) & (drops["start"] == "shared")]
    both = set.intersection(*(set(view.loc[view["network"] == each, "target_seed"]) for each in (first, second)))
    values, names, over = crossed(view[view["network"].isin([first, second]) & view["target_seed"].isin(both)])
    sign = np.array([[1.0 if network == first else -1.0] for network, _ in names])
    return tuple(float(each[0]) for each in crossed_interval(values @ sign)), len(both), over


def _limits(values: np.ndarray) -> dict[str, np.ndarray]:
    return dict(zip(("drop", "low", "high"), crossed_interval(values), strict=True))


def _says(table: pd.DataFrame, judged: pd.Series) -> pd.DataFrame:
    conditions = [~judged, table["low"] > 0, table["high"] < 0]
    return table.assign(says=np.select(conditions, [NOT_JUDGED, MORE, LESS], UNDECIDED))


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


def alike(drops: pd.DataFrame, tolerance: float) -> Words:
    """How far apart the four networks' own targets are, and what that means for what follows."""
    dice = reached(drops).values()
    span = f"The targets of the four networks reach {min(dice):.2f} to {max(dice):.2f} of foreground Dice"
    if max(dice) - min(dice) <= tolerance:
        return Words(f"{span}: alike within the tolerance.")
    return Words(f"{span}. A better network has more to lose, and contrasts between networks mix that in.")


def in_words(contrasts: pd.DataFrame) -> Words:
    """What connections and the start do in this run: the finding, then some numbers; the figure has them all.

    Something helps where more than half of its contrasts say less and none says more, it hurts where it is the other
    way round; contrasts that are not judged don't count.

    Args:
        contrasts: from `contrasts`.
    """
    judged = contrasts[contrasts["says"] != NOT_JUDGED]
    equal, trained = judged[judged["at"] != AS_TRAINED], judged[judged["at"] == AS_TRAINED]
    by_noise = (equal["at"] == BY_NOISE).any()
    titles = ("short connections", "long connections", "shared start")
    effects = [_effect(_named(equal, title)) for title in titles]
    told = [
        f"**{'At equal distance and by noise' if by_noise else 'At equal distance'}, short connections {effects[0]}, "
        f"long ones {effects[1]}, and a shared start {_third(effects[2])}.**"
    ]
    told += [] if by_noise else ["Noise is at its floor at every distance, and can't decide."]
    for title in titles[:2]:
        told += ["", f"{title.capitalize()} {_effect(_named(trained, title))} as trained."]
        told += [_tally(_named(equal, title)), *_numbers(_named(equal, title))]
    return Words("\n".join([*told, "", *_of_start(_named(trained, "shared start"), _named(equal, "shared start"))]))


def _named(table: pd.DataFrame, title: str) -> pd.DataFrame:
    """The contrasts of one title, under whichever start."""
    return table[table["contrast"].str.split(", ").str[0] == title]


def _effect(rows: pd.DataFrame) -> str:
    """See `in_words`."""
    less, more = (rows["says"] == LESS).sum(), (rows["says"] == MORE).sum()
    if less and more:
        return "go either way"
    return "help" if 2 * less > len(rows) else "hurt" if 2 * more > len(rows) else "stay undecided"


def _third(verb: str) -> str:
    """helps, goes either way, stays undecided."""
    first, *rest = verb.split()
    return " ".join([f"{first}es" if first == "go" else f"{first}s", *rest])


def _tally(rows: pd.DataFrame) -> str:
    less, more, unsure = ((rows["says"] == each).sum() or "none" for each in (LESS, MORE, UNDECIDED))
    return f"At equal distance the drop is less in {less} of {len(rows)} contrasts, more in {more}, open in {unsure}."


def _numbers(rows: pd.DataFrame) -> list[str]:
    """The contrast by noise, and that of a shared start at the smallest distance."""
    near = rows[(rows["at"] == AT_DISTANCE) & rows["contrast"].str.endswith("shared start")].nsmallest(1, "distance")
    return [
        f"{what} at distance {row.distance:g} it changes by {ranged(row.drop, row.low, row.high, row.over)}."
        for what, part in (("By noise", rows[rows["at"] == BY_NOISE]), ("Towards a source of shared start", near))
        for row in part.itertuples(index=False)
    ]


def _of_start(trained: pd.DataFrame, equal: pd.DataFrame) -> list[str]:
    """What a shared start does as trained, and what is left of it at equal distance."""
    here, there = _effect(trained), _effect(equal)
    same = "and" if here == there else "but"
    told = [f"A shared start {_third(here)} as trained, {same} {_third(there)} at equal distance."]
    if here == "help":
        reading = {
            "help": "Its direction is worth something.",
            "hurt": "What helps as trained is nearness, not direction.",
        }
        told.append(reading.get(there, "What helps as trained may be nearness alone."))
    for row in pd.concat([trained, equal]).itertuples(index=False):
        where = row.at if row.at == AS_TRAINED else f"at distance {row.distance:g}"
        told.append(f"{where.capitalize()} it changes the drop by {ranged(row.drop, row.low, row.high, row.over)}.")
    return told


def beside_in_words(noise: pd.DataFrame, weak: Collection[str] = ()) -> Words:
    """Whether a step towards a source costs more than one anywhere, over networks.

    Args:
        noise: from `beside_noise`.
        weak: networks whose targets are below their floor, which are left out.
    """
    left_out = [NAMES[each] for each in noise["network"].unique() if each in weak]
    noise = noise[~noise["network"].isin(list(weak))]
    judged = noise[noise["says"] != NOT_JUDGED]
    told = [each for start in reversed(STARTS) for each in _beside(judged[judged["start"] == start], start)]
    near = noise[noise["distance"] == noise["distance"].min()].groupby("start")[["source", "noise"]].mean()
    if len(near):
        told.append(
            f"At distance {noise['distance'].min():g} noise costs {near['noise'].mean():.2f} on average, a source of "
            f"shared start {near.loc['shared', 'source']:.2f}, one of independent start "
            f"{near.loc['independent', 'source']:.2f}."
        )
    if floor := noise["network"].nunique() - judged["network"].nunique():
        told.append(f"In {floor} of {noise['network'].nunique()} networks noise is at its floor, and can't decide.")
    if left_out:
        told.append(f"Left out, for their targets are below the floor: {', '.join(left_out)}.")
    return Words("\n".join(told))


def _beside(rows: pd.DataFrame, start: str) -> list[str]:
    """Of one start, where noise can decide: the finding, its reading, and what the rest is."""
    more, less = (rows["says"] == MORE).sum(), (rows["says"] == LESS).sum()
    step, of = f"a step towards a source of {start} start", f"of {len(rows)} networks"
    if not len(rows):
        return []
    if not more + less:
        return [f"**Whether {step} costs more or less than noise is open in all {len(rows)} networks.**"]
    costs = [f"{what} than noise in {count}" for what, count in (("more", more), ("less", less)) if count]
    told = [f"**{step.capitalize()} costs {' and '.join(costs)} {of}.**"]
    if start == "shared":
        told += ["Where it costs more, what the source has learned is in the target's way."] if more else []
        told += ["Where it costs less, its direction is worth something."] if less else []
    return told
