"""Reuse or redundancy: what a transplanted kernel is worth beside controls that hold nothing worth reusing."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from prr import donors
from prr.metrics import crossed_interval
from prr.study import grid, measures, paper, transplants
from prr.study.display import Words, ranged
from prr.study.jobs import Job, derived, stack
from prr.study.models import TITLES
from prr.study.run import Run

# control: (what `transplants.drops` calls it, the part of the chapter that it belongs to)
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
# pairs of controls of which one asks which costs more, in words
NULLS = {
    ("noise", "source"): ("noise of the source's distance", "the source"),
    ("zero", "random"): ("zero", "a random donor"),
}


# ---------------------------------------------------------------- from sweeps to tables


def dice(run: Run, network: str) -> Job:
    """The job of DataFrame[target, patient, class, dice]: what the chapter's targets reach, see `measures.dice`."""
    run, seeds = grid.scaled(run), grid.seeds(run, "kernels from the source")[0]
    return stack(({"target": seed}, measures.dice(run, network, **grid.target(seed))) for seed in seeds)


def sweeps(
    run: Run, network: str, control: str, kinds: Sequence[str] = ("W",)
) -> Iterator[tuple[dict[str, Any], Job]]:  # fmt: skip
    """Every sweep with one control, with the labels that tell it apart.

    A donor that is drawn has a seed of its own for each target and draw.
    """
    donor, part = CONTROLS[control]
    for seed, other in itertools.product(*grid.seeds(run, part)):
        giver = (grid.other_seed if control == "other seed" else grid.source)(other, seed)
        drawn = seed + grid.OTHER_SEED * (other - run.seed)
        by = run.variant(seed=drawn) if donor in donors.DRAWN else run
        labels = {"network": network, "control": control, "target": seed, "source": giver["seed"]}
        yield labels, transplants.drops(by, network, grid.target(seed), giver, donor, kinds=kinds)


def controls(run: Run, network: str) -> Job:
    """Drops of foreground Dice when each kernel in turn comes from the source, or from a control.

    Args:
        run: of the chapter; it is brought to the chapter's scale, see `grid.scaled`.
        network: unet or pspnet.

    Returns:
        The job of DataFrame[network, control, target, source, layer, name, patient, drop, rmse, relative]; target and
        source are seeds (source: of the draw, where the donor is drawn).
    """
    run = grid.scaled(run)
    every = stack(itertools.chain.from_iterable(sweeps(run, network, control) for control in CONTROLS))
    return run.job(of_kernels, "controls", drops=every)


@derived
def of_kernels(drops: pd.DataFrame) -> pd.DataFrame:
    """See `controls`."""
    return drops.drop(columns=["kind", "score"])


def means(controls: pd.DataFrame) -> pd.DataFrame:
    """Mean drop of each layer under each control, with 95 % simultaneous intervals (max-t) over a control's layers.

    Args:
        controls: from `controls`, of one network.

    Returns:
        DataFrame[network, control, layer, name, drop, low, high, targets, sources, over]; over: what the intervals
        resample.
    """
    parts = []
    for _, part in controls.groupby("control", sort=False):
        values = grid.crossed(part, "drop", "layer")
        mean, low, high = crossed_interval(values)
        layers = part.drop_duplicates("layer")[["network", "control", "layer", "name"]]
        numbers = {"targets": values.shape[0], "sources": values.shape[1], "over": grid.over(values)}
        parts.append(layers.assign(drop=mean, low=low, high=high, **numbers))
    return pd.concat(parts, ignore_index=True)


def judged(controls: pd.DataFrame, tolerance: float) -> pd.DataFrame:
    """Each layer's reuse index and verdict.

    Args:
        controls: from `controls`, of one network.
        tolerance: drop of Dice that counts as none.

    Returns:
        DataFrame[network, layer, name, source, start, random, index, index_low, index_high, adds, adds_low, adds_high,
        over, verdict, verdict_by_mean]. source, start, random: mean drops. index: 1 - source / random, 0 where the
        source is no better than a random donor, 1 where it is as good as the layer's own parameters; NaN unless the
        random donor's drop is above the tolerance, limits included. Its limits are those of source - index' * random
        with the ratio index' held, over random (Fieller's idea to first order). adds: start - source, what the source
        has beyond the untrained start. Intervals are simultaneous over layers (max-t); over: what they resample.
        verdict: see `verdict`; verdict_by_mean: the same by the means alone.
    """
    controls = _of_whole_patients(controls)
    kinds = dict(list(controls.groupby("control")))
    source, start, random = (grid.crossed(kinds[name], "drop", "layer") for name in ("source", "start", "random"))
    shown = means(controls).set_index(["control", "layer"])
    table = kinds["source"].drop_duplicates("layer")[["network", "layer", "name"]].set_index("layer")
    table = table.assign(**{name: shown.loc[name, "drop"] for name in ("source", "start", "random")})
    limits = {name: shown.loc[name, ["low", "high"]] for name in ("source", "random")}

    draws = random.mean(1, keepdims=True)  # a random donor's draws are no sources: averaged, not crossed
    ratio = np.divide(source.mean((0, 1, 2)), draws.mean((0, 1, 2)), where=draws.mean((0, 1, 2)) != 0,
                      out=np.full(source.shape[3], np.nan))  # fmt: skip
    _, low, high = crossed_interval(np.nan_to_num(source - ratio * draws))
    matters = (limits["random"]["low"] > tolerance).to_numpy()
    scale = np.where(matters, table["random"], np.nan)
    table = table.assign(index=np.where(matters, 1 - ratio, np.nan))
    table = table.assign(index_low=table["index"] - high / scale, index_high=table["index"] - low / scale)
    adds, low, high = crossed_interval(start - source)
    table = table.assign(adds=adds, adds_low=low, adds_high=high, over=grid.over(source))
    verdicts = [verdict(*limits["source"].loc[layer], *limits["random"].loc[layer], tolerance) for layer in table.index]
    by_mean = [verdict(row.source, row.source, row.random, row.random, tolerance) for row in table.itertuples()]
    columns = ["network", "layer", "name", "source", "start", "random", "index", "index_low", "index_high"]
    columns += ["adds", "adds_low", "adds_high", "over", "verdict", "verdict_by_mean"]
    return table.assign(verdict=verdicts, verdict_by_mean=by_mean).reset_index()[columns]


def _of_whole_patients(controls: pd.DataFrame) -> pd.DataFrame:
    """Patients who have a score under every control, so that all are over the same."""
    return controls[controls["drop"].notna().groupby(controls["patient"]).transform("all")]


def verdict(low: float, high: float, random_low: float, random_high: float, tolerance: float) -> str:
    """What a layer's limits say, of the source's drop and of the random donor's.

    redundant: a random donor does no harm, so the layer can't show reuse; reused: a random donor does harm, and the
    source does none; lost: both do harm; undecided: an interval holds the tolerance, or there is none.

    >>> verdict(-0.01, 0.02, 0.3, 0.5, tolerance=0.05)
    'reused'
    """
    if random_high <= tolerance:
        return REDUNDANT
    if random_low > tolerance and high <= tolerance:
        return REUSED
    if random_low > tolerance and low > tolerance:
        return LOST
    return UNDECIDED


def nulls(controls: pd.DataFrame) -> pd.DataFrame:
    """What one control costs beyond another, for the same targets and sources.

    Args:
        controls: from `controls`, of one network.

    Returns:
        DataFrame[network, control, beside, more, low, high, over], a row for each of `NULLS`. The mean over kernels is
        taken within each target, source and patient; the 95 % limits are over these.
    """
    rows, kinds = [], dict(list(_of_whole_patients(controls).groupby("control")))
    for pair in NULLS:
        first, second = (kinds[name].set_index(["target", "source", "patient", "layer"])["drop"] for name in pair)
        more = (first - second).dropna().groupby(["target", "source", "patient"]).mean().reset_index().assign(all=0)
        values = grid.crossed(more, "drop", "all")
        rows.append((*pair, *map(float, np.concatenate(crossed_interval(values))), grid.over(values)))
    found = pd.DataFrame(rows, columns=["control", "beside", "more", "low", "high", "over"])
    found.insert(0, "network", controls["network"].iloc[0])
    return found


def counts(judged: pd.DataFrame) -> pd.DataFrame:
    """DataFrame with networks as rows: layers of each verdict, and by the means alone."""
    parts = {}
    for column, words in (("verdict", "with limits"), ("verdict_by_mean", "by the means alone")):
        table = judged.groupby("network", sort=False)[column].value_counts().unstack(fill_value=0)
        parts[words] = table.reindex(columns=list(VERDICTS), fill_value=0)
    return pd.concat(parts, axis=1).rename_axis(columns=[None, None])


def all_kinds(run: Run, network: str) -> Job:
    """Every kind of parameter under four donors, one target and one source.

    Args:
        run: of the chapter, as for `controls`.
        network: unet or pspnet.

    Returns:
        The job of DataFrame[network, kind, layers, and for each control its mean drop over layers and the share of
        layers whose mean drop over patients is within the tolerance].
    """
    run = grid.scaled(run)
    first = {control: next(sweeps(run, network, control, paper.KINDS))[1] for control in OF_ALL_KINDS}
    return run.job(by_kind, "all kinds", drops=first, network=network, tolerance=run.profile.tolerance)


@derived
def by_kind(drops: dict[str, pd.DataFrame], network: str, tolerance: float) -> pd.DataFrame:
    """See `all_kinds`."""
    columns = {}
    for control, found in drops.items():
        each = found.groupby(["kind", "layer"], sort=False)["drop"].mean()
        of_kind = each.groupby("kind", sort=False)
        columns["layers"] = of_kind.size()
        columns[control] = of_kind.mean()
        columns[f"{control}: within"] = (each <= tolerance).groupby("kind", sort=False).mean()
    table = pd.DataFrame(columns).rename_axis("kind").reset_index()
    table.insert(0, "network", network)
    return table


# ---------------------------------------------------------------- words


def in_words(judged: pd.DataFrame, tolerance: float) -> Words:
    """What the verdicts say, a paragraph for each network.

    Args:
        judged: from `judged`, of one or more networks.
        tolerance: with which they were judged.
    """
    lines = []
    for network, part in judged.groupby("network", sort=False):
        found = part["verdict"].value_counts()
        numbers = ", ".join(f"{found.get(name, 0)} {name}" for name in VERDICTS)
        better, worse = (part["adds_low"] > 0).sum(), (part["adds_high"] < 0).sum()
        over = part["over"].iloc[0]
        lines.append(
            f"- **{TITLES[network]}: {_of_passing(part, tolerance)} "
            f"With{f' 95 % limits over {grid.in_full(over)}' if over else 'out limits'}: {numbers}. "
            f"The source beats the untrained start for certain at {better} of {len(part)} kernels, and is beaten at "
            f"{worse}."
        )
    return Words("\n".join(lines))


def _of_passing(judged: pd.DataFrame, tolerance: float) -> str:
    """How many of the kernels that pass with the source pass with a random donor too, by the means."""
    passing = judged[judged["source"] <= tolerance]
    if passing.empty:
        return f"no kernel passes with the source.** All {len(judged)} lose more than {tolerance:g} on average."
    spared, count = (passing["random"] <= tolerance).sum(), len(passing)
    whole = f"the one kernel that passes with the source {'passes' if spared else 'fails'} with a random donor"
    if count > 1:
        whole = f"{spared or 'none'} of the {count} kernels that pass with the source pass with a random donor too"
    return f"{whole}.** To pass is to lose at most {tolerance:g} on average."


def nulls_in_words(nulls: pd.DataFrame) -> Words:
    """Which null is the harsher one, and whether the source's direction is worth something.

    Args:
        nulls: from `nulls`, of one or more networks.
    """
    lines = []
    for row in nulls.itertuples():
        one, other = NULLS[row.control, row.beside]
        is_ = "harsher" if row.low > 0 else "gentler" if row.high < 0 else "neither harsher nor gentler, for certain,"
        limits = (row.more, row.low, row.high) if row.more >= 0 else (-row.more, -row.high, -row.low)
        by = ranged(*limits, grid.in_full(row.over))
        costs = "more" if row.more >= 0 else "less"
        lines.append(f"- **{TITLES[row.network]}: {one} is {is_} than {other}.** It costs {costs} by {by}.")
    return Words("\n".join(lines))
