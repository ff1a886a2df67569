"""Architecture, start or distance: the same transplants in networks that differ in one of the three.

The headline is a 2 x 2 of {short connections} x {long connections} in one backbone, crossed with the start
{independent, shared}, target seeds and source seeds. Around it stand other networks, starts between independent and
shared, sources that have gone shorter or longer ways, and another task for the source.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from prr.donors import DRAWN
from prr.figures import Words
from prr.metrics import crossed_interval
from prr.study import grid
from prr.study.backbones import CONNECTIONS
from prr.study.jobs import Call, together
from prr.study.profiles import PROFILES
from prr.study.starts import pretext

if TYPE_CHECKING:
    from prr.study.experiment import Experiment

AE = "auto-encoding"
DISTANCE = 0.25  # relative RMSE at which sources are compared; those of a common start come about so far
BESIDE = ("unet", "pspnet", "densenet")
BETWEEN = (0.5, 0.9, 0.99)  # correlations of the starts, between independent and shared
RATES = (0.25, 4.0)  # times the learning rate of the source
AS_TRAINED, AT_DISTANCE, BY_NOISE, AT_DICE = "as trained", "at equal distance", "by equal noise", "at nearest Dice"
PAIR = ["network", "start", "source", "target_seed", "source_seed", "donor"]
# of the mean drop over a network's kernels: what is on average more, less where it is negative
CONTRASTS = {
    "short connections": {"residual": 0.5, "both": 0.5, "plain": -0.5, "long": -0.5},
    "long connections": {"long": 0.5, "both": 0.5, "plain": -0.5, "residual": -0.5},
    "short beside long": {"both": 0.5, "plain": 0.5, "long": -0.5, "residual": -0.5},  # half the difference of both
}


class Pair(NamedTuple):
    """Labels of a comparison, then what makes it: arguments of `Experiment.drops`."""

    network: str
    start: str
    source: str  # what is unlike in the source's training, "" for nothing
    target_seed: int
    source_seed: int
    donor: str
    target: dict[str, Any]
    giver: dict[str, Any]
    amount: float | None = None
    steps: str = "full"  # of the target's training: full or half

    def by(self, small: Experiment) -> Experiment:
        """The experiment that makes it: what is drawn at random is drawn anew for every target."""
        return small.variant(seed=self.target_seed) if self.donor in DRAWN else small

    @property
    def arguments(self) -> dict[str, Any]:
        named = {"network": self.network, "target": self.target, "source": self.giver}
        return named | {"donor": self.donor, "amount": self.amount}


def seeds(run: Experiment, rest: bool = False) -> range:
    """Seeds of targets and of sources; of what is not the headline, with `rest`."""
    return range(run.seed, run.seed + (run.profile.rest_seeds if rest else run.profile.grid_seeds))


def is_thinned(run: Experiment) -> bool:
    """Whether this profile leaves something out that `paper` has."""
    return run.profile.rest_seeds < run.profile.grid_seeds


def varied(run: Experiment) -> tuple[str, ...]:
    """Networks for which the start and the source's training are varied."""
    return ("both", "pspnet") if is_thinned(run) else (*CONNECTIONS, *BESIDE)


def pairs(run: Experiment) -> list[Pair]:
    """Every comparison of the chapter, each once."""
    found = [*headline(run), *equalised(run), *other_networks(run), *other_starts(run), *other_training(run)]
    return list({repr(pair): pair for pair in found}.values())


def pair(network: str, start: str | float, target: int, source: int, donor: str = "source", amount: float | None = None,
         label: str = "", task: str = AE, own_steps: int | None = None, **training: float) -> Pair:  # fmt: skip
    """A target by a source that is independent of it or has a start in common with it.

    An independent source has its seed alone, so that all targets meet the same sources; another one begins with what it
    has in common with the target of this seed.
    """
    # one target for all starts that are random: its own is random either way
    judged = {"start": start if start in ("pretext", "imagenet") else "shared", "seed": target}
    judged |= {} if own_steps is None else {"steps": own_steps}
    giver = {"task": task, "start": start, "seed": source, **training}
    giver |= {} if start == "independent" else {"common": target}
    steps = "full" if own_steps is None else "half"
    return Pair(network, str(start), label, target, source, donor, judged, giver, amount, steps)


def headline(run: Experiment) -> Iterator[Pair]:
    """Connections by start, every target seed with every source seed."""
    for network, start, *both in itertools.product(CONNECTIONS, ("independent", "shared"), seeds(run), seeds(run)):
        yield pair(network, start, *both)


def equalised(run: Experiment) -> Iterator[Pair]:
    """The same at equal distance, by noise at that distance, and by targets trained for half the steps."""
    half = max(1, run.profile.grid_steps // 2)
    for network, seed in itertools.product(CONNECTIONS, seeds(run)):
        for start in ("independent", "shared"):
            yield pair(network, start, seed, seed, "at", DISTANCE)
            yield pair(network, start, seed, seed, own_steps=half)
        yield pair(network, "shared", seed, seed, "noise at", DISTANCE)


def other_networks(run: Experiment) -> Iterator[Pair]:
    """The paper's two networks and a DenseNet, as the headline, at equal distance and by noise."""
    for network, seed in [*itertools.product(BESIDE[:2], seeds(run)), *itertools.product(BESIDE[2:], seeds(run, True))]:
        for start in ("independent", "shared"):
            yield pair(network, start, seed, seed)
            yield pair(network, start, seed, seed, "at", DISTANCE)
        yield pair(network, "shared", seed, seed, "noise at", DISTANCE)


def other_starts(run: Experiment) -> Iterator[Pair]:
    """Starts that are common in the encoder alone, learned on textures, or common to a degree."""
    for network, seed in itertools.product(varied(run), seeds(run, rest=True)):
        for start in ("encoder-shared", "pretext", *BETWEEN):
            yield pair(network, start, seed, seed)
    if run.profile.pspnet_start == "imagenet":
        yield from (pair("pspnet", "imagenet", seed, seed) for seed in seeds(run, rest=True))


def other_training(run: Experiment) -> Iterator[Pair]:
    """Sources of the target's start that went another way: longer or shorter steps, fewer of them, another task."""
    rate, steps = run.profile.learning_rate, max(1, run.profile.grid_steps // 4)
    for network, seed in itertools.product(varied(run), seeds(run, rest=True)):
        for times in RATES:
            yield pair(network, "shared", seed, seed, label=f"learning rate x {times:g}", learning_rate=rate * times)
        yield pair(network, "shared", seed, seed, label="a quarter of the steps", steps=steps)
        yield pair(network, "shared", seed, seed, label="denoising", task="denoising")


# ------------------------------------------------------------------- jobs


def networks(run: Experiment) -> Iterator[tuple[Experiment, dict[str, Any]]]:
    """(experiment, arguments of `model`) of all networks; those that others begin from come first."""
    small, found = grid.scaled(run), pairs(run)
    for each in found:
        if each.start == "pretext":
            yield small, {"network": each.network, **pretext(each.target_seed)}
    for each in found:
        for arguments in (each.target, each.giver):
            yield small, {"network": each.network, **arguments}


def calls(run: Experiment) -> list[Call]:
    """The transplants, once the networks are there."""
    small = grid.scaled(run)
    return [(each.by(small), "drops", each.arguments) for each in pairs(run)]


def table(run: Experiment) -> pd.DataFrame:
    """All transplants of kernels; those in the store are not made again.

    Returns:
        DataFrame[network, start, source, target_seed, source_seed, donor, steps, dice, kind, layer, name, patient,
        score, drop, rmse, relative], see `Experiment.drops`; dice: of the target, mean over patients.
    """
    together(calls(run))
    small, parts = grid.scaled(run), []
    for each in pairs(run):
        part = each.by(small).drops(**each.arguments).dropna(subset="drop")
        labels = {name: getattr(each, name) for name in (*PAIR, "steps")}
        parts.append(part.assign(**labels, dice=(part["score"] + part["drop"]).mean()))
    return pd.concat(parts, ignore_index=True)


# ---------------------------------------------------------------- from drops to tables


def summary(drops: pd.DataFrame, tolerance: float = 0.05) -> pd.DataFrame:
    """One row per pair.

    Args:
        drops: from `table`.
        tolerance: of a kernel's drop.

    Returns:
        DataFrame[network, start, source, target_seed, source_seed, donor, steps, dice, kernels, within, drop,
        relative]: within: kernels whose mean drop over patients is at most the tolerance (a count without an interval);
        drop and relative RMSE: means over kernels.
    """
    layers = drops.groupby([*PAIR, "steps", "dice", "layer"], sort=False)[["drop", "relative"]].mean().reset_index()
    layers["within"] = layers["drop"] <= tolerance
    columns = {"kernels": ("layer", "size"), "within": ("within", "sum"), "drop": ("drop", "mean")}
    grouped = layers.groupby([*PAIR, "steps", "dice"], sort=False)
    return grouped.agg(**columns, relative=("relative", "mean")).reset_index()


def overview(drops: pd.DataFrame) -> pd.DataFrame:
    """Every way to be a source, as trained: means over pairs of networks, without intervals.

    Returns:
        DataFrame[network, start, source, pairs, dice, kernels, within, drop, relative], see `summary`; pairs counts the
        pairs of networks.
    """
    table = summary(drops)
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
        DataFrame[at, network, start, drop, low, high]: 95 % intervals over target seeds, source seeds and patients that
        hold together for all points of one view, `prr.metrics.crossed_interval`; start is noise where noise is swapped.
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
        difference with an interval over targets and patients that holds for both starts of a network.
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


def left_out(run: Experiment) -> pd.DataFrame:
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
