"""Reuse or redundancy: what a transplanted kernel is worth beside controls that hold nothing worth reusing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from prr.figures import Words
from prr.metrics import crossed_interval
from prr.study import grid, paper, prediction, prefixes
from prr.study.jobs import Call
from prr.study.models import TITLES

if TYPE_CHECKING:
    from prr.study.experiment import Experiment

TOLERANCE = paper.tolerances()["drop"]
# control: (what `Experiment.drops` calls it, the part of the chapter that it belongs to)
CONTROLS = {
    "source": ("source", "kernels from the source"),
    "other seed": ("source", "kernels from another seed"),
    "start": ("start", "kernels from the untrained start"),
    "random": ("random", "kernels from random donors"),
    **{
        name: (name, "kernels from shuffled channels, from noise, from zero and from the target itself")
        for name in ("shuffled", "noise", "zero", "own")
    },
}
OF_ALL_KINDS = ("source", "start", "random", "shuffled")
REDUNDANT, REUSED, LOST, UNDECIDED = "redundant", "reused", "lost", "undecided"
VERDICTS = (REDUNDANT, REUSED, LOST, UNDECIDED)
RUN = ["control", "target", "source"]


# ---------------------------------------------------------------- what is run


def swept(run: Experiment, control: str) -> Iterator[tuple[Experiment, dict[str, Any]]]:
    """(run, arguments of `Experiment.drops` but for the network) of each sweep with one control.

    A donor that is drawn has a seed of its own for each target and draw.
    """
    donor, part = CONTROLS[control]
    for seed in grid.seeds(run, part)[0]:
        for other in grid.seeds(run, part)[1]:
            giver = (grid.again if control == "other seed" else grid.source)(other, seed)
            drawn = seed + grid.AGAIN * (other - run.seed)
            by = run if donor in ("source", "start", "own") else run.variant(seed=drawn)
            yield by, {"target": grid.target(seed), "source": giver, "donor": donor}


def sweeps(run: Experiment, network: str) -> Iterator[Call]:
    """Every sweep of kernels with every control, and those of all kinds."""
    for control in CONTROLS:
        yield from ((by, "drops", {"network": network, **arguments}) for by, arguments in swept(run, control))
    if network in grid.ranked_networks(run):
        for control in OF_ALL_KINDS:
            by, arguments = next(swept(run, control))
            yield by, "drops", {"network": network, "kinds": paper.KINDS, **arguments}


def networks(run: Experiment) -> Iterator[tuple[Experiment, dict[str, Any]]]:
    """(experiment, arguments of its `model`) of every network that chapter 9 needs, some perhaps twice."""
    run = grid.scaled(run)
    for network in grid.NETWORKS:
        for control in ("source", "other seed"):
            for by, arguments in swept(run, control):
                yield by, {"network": network, **arguments["target"]}
                yield by, {"network": network, **arguments["source"]}
        for arguments in prediction.apart_networks(run):
            yield run, {"network": network, **arguments}
    for network in grid.ranked_networks(run):
        for seed in grid.seeds(run, grid.RANKED)[0]:
            for arguments in prediction.candidates(run, seed).values():
                yield run, {"network": network, **arguments}


def calls(run: Experiment) -> list[list[Call]]:
    """What chapter 9 shows and is no network, in waves: those of the second rest on the sweeps of the first."""
    run = grid.scaled(run)
    first = [call for network in grid.NETWORKS for call in sweeps(run, network)]
    first += [call for network in grid.NETWORKS for call in prediction.distances_calls(run, network)]
    second = [call for network in grid.NETWORKS for call in prefixes.joint_calls(run, network)]
    for network in grid.ranked_networks(run):
        first += [*prefixes.trained_calls(run, network), *prediction.calls(run, network)]
    return [first, second]


# ---------------------------------------------------------------- from sweeps to tables


def controls(run: Experiment, network: str) -> pd.DataFrame:
    """Drops of foreground Dice when each kernel in turn comes from the source, or from a control.

    Args:
        run: at the scale of the chapter, see `grid.scaled`.
        network: unet or pspnet.

    Returns:
        DataFrame[network, control, target, source, layer, name, patient, drop, rmse, relative]; target and source are
        seeds (source: of the draw, where the donor is drawn).
    """
    parts = []
    for control in CONTROLS:
        for by, arguments in swept(run, control):
            found = by.drops(network, **arguments).drop(columns=["kind", "score"])
            labels = {"control": control, "target": arguments["target"]["seed"], "source": arguments["source"]["seed"]}
            parts.append(found.assign(network=network, **labels))
    table = pd.concat(parts, ignore_index=True)
    return table[["network", *RUN, "layer", "name", "patient", "drop", "rmse", "relative"]]


def means(controls: pd.DataFrame) -> pd.DataFrame:
    """Mean drop of each layer under each control, with 95 % limits that hold together for all layers of a control.

    Args:
        controls: from `controls`, of one network.

    Returns:
        DataFrame[network, control, layer, name, drop, low, high, targets, sources].
    """
    parts = []
    for _, part in controls.groupby("control", sort=False):
        values = grid.crossed(part, "drop", "layer")
        mean, low, high = crossed_interval(values)
        layers = part.drop_duplicates("layer")[["network", "control", "layer", "name"]]
        numbers = {"targets": values.shape[0], "sources": values.shape[1]}
        parts.append(layers.assign(drop=mean, low=low, high=high, **numbers))
    return pd.concat(parts, ignore_index=True)


def judged(controls: pd.DataFrame, tolerance: float = TOLERANCE) -> pd.DataFrame:
    """Each layer's reuse index and verdict.

    Args:
        controls: from `controls`, of one network.
        tolerance: drop of Dice that counts as none.

    Returns:
        DataFrame[network, layer, name, source, start, random, index, index_low, index_high, adds, adds_low, adds_high,
        verdict, leaning]. source, start, random: mean drops. index: 1 - source / random, 0 where the source is no
        better than a random donor, 1 where it is as good as the layer's own parameters; NaN unless the random donor's
        drop is above the tolerance, limits included. Its limits are those of source - index' * random with the ratio
        index' held, over random (Fieller's idea to first order). adds: start - source, what the source has beyond the
        untrained start. Limits hold together for all layers. verdict: see `verdict`; leaning: the same by the means
        alone.
    """
    controls = controls[controls["drop"].notna().groupby(controls["patient"]).transform("all")]  # the same for all
    kinds = dict(list(controls.groupby("control")))
    source, start, random = (grid.crossed(kinds[name], "drop", "layer") for name in ("source", "start", "random"))
    shown = means(controls).set_index(["control", "layer"])
    table = kinds["source"].drop_duplicates("layer")[["network", "layer", "name"]].set_index("layer")
    table = table.assign(**{name: shown.loc[name, "drop"] for name in ("source", "start", "random")})
    limits = {name: shown.loc[name, ["low", "high"]] for name in ("source", "start", "random")}

    draws = random.mean(1, keepdims=True)  # a random donor's draws are no sources: averaged, not crossed
    ratio = np.divide(source.mean((0, 1, 2)), draws.mean((0, 1, 2)), where=draws.mean((0, 1, 2)) != 0,
                      out=np.full(source.shape[3], np.nan))  # fmt: skip
    _, low, high = crossed_interval(np.nan_to_num(source - ratio * draws))
    matters = (limits["random"]["low"] > tolerance).to_numpy()
    scale = np.where(matters, table["random"], np.nan)
    table = table.assign(index=np.where(matters, 1 - ratio, np.nan))
    table = table.assign(index_low=table["index"] - high / scale, index_high=table["index"] - low / scale)
    adds, low, high = crossed_interval(start - source)
    table = table.assign(adds=adds, adds_low=low, adds_high=high)
    verdicts = [verdict(*limits["source"].loc[layer], *limits["random"].loc[layer], tolerance) for layer in table.index]
    leaning = [verdict(row.source, row.source, row.random, row.random, tolerance) for row in table.itertuples()]
    columns = ["network", "layer", "name", "source", "start", "random", "index", "index_low", "index_high"]
    columns += ["adds", "adds_low", "adds_high", "verdict", "leaning"]
    return table.assign(verdict=verdicts, leaning=leaning).reset_index()[columns]


def verdict(low: float, high: float, random_low: float, random_high: float, tolerance: float = TOLERANCE) -> str:
    """What a layer's limits say, of the source's drop and of the random donor's.

    redundant: a random donor does no harm, so the layer can't show reuse; reused: a random donor does harm, and the
    source does none; lost: both do harm; undecided: an interval holds the tolerance, or there is none.
    """
    if random_high <= tolerance:
        return REDUNDANT
    if random_low > tolerance and high <= tolerance:
        return REUSED
    if random_low > tolerance and low > tolerance:
        return LOST
    return UNDECIDED


def counts(judged: pd.DataFrame) -> pd.DataFrame:
    """DataFrame with networks as rows: layers of each verdict, and by the means alone."""
    parts = {}
    for column, words in (("verdict", "with limits"), ("leaning", "by the means alone")):
        table = judged.groupby("network", sort=False)[column].value_counts().unstack(fill_value=0)
        parts[words] = table.reindex(columns=list(VERDICTS), fill_value=0)
    return pd.concat(parts, axis=1).rename_axis(columns=[None, None])


def all_kinds(run: Experiment, network: str, tolerance: float = TOLERANCE) -> pd.DataFrame:
    """Every kind of parameter under four donors, one target and one source.

    Returns:
        DataFrame[network, kind, layers, and for each control its mean drop over layers and the share of layers whose
        mean drop over patients is within the tolerance].
    """
    columns = {}
    for control in OF_ALL_KINDS:
        by, arguments = next(swept(run, control))
        found = by.drops(network, kinds=paper.KINDS, **arguments)
        each = found.groupby(["kind", "layer"], sort=False)["drop"].mean()
        by_kind = each.groupby("kind", sort=False)
        columns["layers"] = by_kind.size()
        columns[control] = by_kind.mean()
        columns[f"{control}: within"] = (each <= tolerance).groupby("kind", sort=False).mean()
    table = pd.DataFrame(columns).rename_axis("kind").reset_index()
    table.insert(0, "network", network)
    return table


# ---------------------------------------------------------------- words


def in_words(judged: pd.DataFrame) -> Words:
    """What the verdicts say, a paragraph for each network."""
    lines = []
    for network, part in judged.groupby("network", sort=False):
        found, mean = part["verdict"].value_counts(), part["leaning"].value_counts()
        passing = part[part["source"] <= TOLERANCE]
        spared = passing["random"] <= TOLERANCE
        adds, harms = part["adds_low"] > 0, part["adds_high"] < 0
        lines.append(
            f"- **{TITLES[network]}**: of {len(part)} kernels {_listed(found)}; by the means alone {_listed(mean)}. "
            f"{len(passing)} kernels lose at most {TOLERANCE:g} to the source on average, and {spared.sum()} of these "
            f"lose no more to a random donor. The source does better than the untrained start at {_layers(part, adds)} "
            f"and worse at {_layers(part, harms)}."
        )
    return Words("\n".join(lines))


def _listed(found: pd.Series) -> str:
    return ", ".join(f"{found.get(name, 0)} {name}" for name in VERDICTS)


def _layers(table: pd.DataFrame, chosen: pd.Series) -> str:
    numbers = table.loc[chosen, "layer"].astype(str)
    return f"kernel{'s' * (len(numbers) > 1)} {', '.join(numbers)}" if len(numbers) else "none"
