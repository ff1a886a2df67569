"""The same experiment, one thing changed: the start, in both networks, from a few steps of training to many.

Every stage is trained by itself, with the whole of its own schedule. At each, a target meets two auto-encoders: the one
that began where it began, and that of the next seed, which began elsewhere. So each network is in one pair of either
start, and the starts differ in nothing but the pairing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from prr.metrics import crossed_interval
from prr.study import grid, measures, rules, standing, transplants
from prr.study.backbones import ARCHITECTURES
from prr.study.display import Words, ranged
from prr.study.jobs import Job, derived, stack
from prr.study.run import Run
from prr.verdict import SHARE

RATIO = 4  # of the steps of one stage to those of the one before
STARTS = ("independent", "shared")
FROM = {"independent": "from independent starts", "shared": "from a shared start"}
PAIR = ["network", "start", "seed", "steps"]
TARGET = ["network", "seed", "steps"]
MOVED = 0.5  # of the distance at the last stage; two networks that are nearer to each other have hardly moved
START, TRAINING = "start", "training"  # what is changed
PASSES, FAILS, OPEN = "passes", "fails", "may pass or fail"


def stages(run: Run) -> list[int]:
    """Steps of every stage, in rising order; the last has the profile's `stage_steps`.

    >>> from prr.study import Experiment
    >>> stages(Experiment("smoke", device="cpu", stage_steps=560, stage_count=4))
    [9, 35, 140, 560]
    """
    last = run.profile.stage_steps
    return sorted({max(1, round(last / RATIO**each)) for each in range(run.profile.stage_count)})


def table(run: Run) -> Job:
    """Transplants of every kernel in both networks, from either start, at every stage.

    Returns:
        The job of DataFrame[network, start, seed, steps, kind, layer, name, patient, score, drop, rmse, relative,
        dice], see `transplants.drops`; start: of the source as the target sees it; seed: of the target; dice: of the
        target on all slices of the validation patients, as everywhere where targets are held to a floor.
    """
    targets = {tuple(labels[name] for name in TARGET): None for labels, _ in pairs(run)}
    small, dice = grid.scaled(run), []
    for network, seed, steps in targets:
        of = measures.dice(small, network, **grid.target(seed), steps=steps)
        dice.append((dict(zip(TARGET, (network, seed, steps), strict=True)), of))
    return run.job(weighed, drops=stack(pairs(run)), dice=stack(dice))


@derived
def weighed(drops: pd.DataFrame, dice: pd.DataFrame) -> pd.DataFrame:
    """See `table`."""
    reached = dice.groupby(TARGET).apply(standing.foreground).rename("dice")
    return drops.join(reached, on=TARGET)


def pairs(run: Run) -> Iterator[tuple[dict[str, Any], Job]]:
    """{network, start, seed, steps} and the job of the transplants, for each target with each of its two sources."""
    small, count = grid.scaled(run), run.profile.stage_seeds
    for network, steps, each in itertools.product(grid.NETWORKS, stages(run), range(count)):
        seed = run.seed + each
        for start, other in zip(STARTS, (run.seed + (each + 1) % count, seed), strict=True):
            target, source = grid.target(seed), grid.source(other, other)
            job = transplants.drops(small, network, target | {"steps": steps}, source | {"steps": steps})
            yield dict(zip(PAIR, (network, start, seed, steps), strict=True)), job


# ---------------------------------------------------------------- from drops to curves


def by_seed(table: pd.DataFrame, tolerance: float) -> pd.DataFrame:
    """One row per pair of networks.

    Args:
        table: from `table`.
        tolerance: drop that counts as none.

    Returns:
        DataFrame[network, start, seed, steps, dice, relative, kernels, passing, drop]: dice of the target; relative
        RMSE and drop: means over kernels; passing: share of the kernels whose mean drop over patients is at most the
        tolerance.
    """
    known = table.dropna(subset="drop")
    layers = known.groupby([*PAIR, "layer"], sort=False)[["dice", "relative", "drop"]].mean().reset_index()
    layers["passing"] = layers["drop"] <= tolerance
    columns = {name: (name, "mean") for name in ("dice", "relative", "passing", "drop")}
    found = layers.groupby(PAIR, sort=False).agg(kernels=("layer", "size"), **columns).reset_index()
    return found[[*PAIR, "dice", "relative", "kernels", "passing", "drop"]]


def summary(table: pd.DataFrame, tolerance: float) -> pd.DataFrame:
    """One row per point of the curves, each with 95 % intervals by itself.

    Args: as `by_seed`.

    Returns:
        DataFrame[network, start, steps, seeds, dice, relative, passing, passing_low, passing_high, passing_over, drop,
        low, high, over]: means over seeds of what `by_seed` has; the share with a t interval over seeds, cut to what a
        share can be, the drop with one over seeds and patients, `prr.metrics.crossed_interval`.
    """
    views = dict(list(table.groupby(["network", "start", "steps"])))
    rows = []
    for cell, part in by_seed(table, tolerance).groupby(["network", "start", "steps"], sort=False):
        share = rules.over_seeds(part["passing"])
        limits = dict(zip(("passing_low", "passing_high"), np.clip([share.low, share.high], 0, 1), strict=True))
        rows.append({
            **dict(zip(("network", "start", "steps"), cell, strict=True)), "seeds": len(part),
            "dice": part["dice"].mean(), "relative": part["relative"].mean(),
            "passing": share.here, **limits, "passing_over": share.over, **_drop(views[cell]),
        })  # fmt: skip
    return pd.DataFrame(rows)


def changes(table: pd.DataFrame, tolerance: float) -> pd.DataFrame:
    """What the start changes at the last stage, and what training changes from the first stage to the last.

    Args: as `by_seed`.

    Returns:
        DataFrame[network, changed, start, of, change, low, high, over]: of the mean drop, independent starts less
        shared; of the share of kernels that pass, the last stage less the first, for each start. Paired by seed, and
        by patient where there are several of the same.
    """
    first, last = table["steps"].min(), table["steps"].max()
    share = by_seed(table, tolerance).set_index(PAIR)["passing"].unstack("steps")
    gained, rows = share[last] - share[first], []
    for network, part in table[table["steps"] == last].groupby("network", sort=False):
        one, other = (part[part["start"] == start] for start in STARTS)
        both = one.merge(other, on=["seed", "patient", "layer"], suffixes=("", "_other"))
        found = _drop(both.assign(drop=both["drop"] - both["drop_other"]))
        rows.append((network, START, "", "mean drop", *found.values()))
        for start in STARTS:
            found = rules.over_seeds(gained[network, start])
            rows.append((network, TRAINING, start, "share", *found[:4]))
    return pd.DataFrame(rows, columns=["network", "changed", "start", "of", "change", "low", "high", "over"])


def reached(summary: pd.DataFrame) -> dict[str, float]:
    """{network: foreground Dice of its targets at the last stage}, from `summary`."""
    last = summary[summary["steps"] == summary["steps"].max()]
    return last.groupby("network", sort=False)["dice"].mean().to_dict()


def _drop(view: pd.DataFrame) -> dict[str, Any]:
    """Mean drop over kernels with its interval over seeds and patients; a source goes with its target."""
    values = grid.crossed(view.rename(columns={"seed": "target"}).assign(source=0), "drop", "layer").mean(-1)[..., None]
    limits = zip(("drop", "low", "high"), crossed_interval(values), strict=True)
    return {name: float(each[0]) for name, each in limits} | {"over": grid.over(values, "seeds")}


# ---------------------------------------------------------------- in words


def in_words(summary: pd.DataFrame, changes: pd.DataFrame, floors: Mapping[str, float]) -> Words:
    """What survives to the last stage: the paper's conclusion under its own conditions, then each network.

    Args:
        summary: from `summary`.
        changes: from `changes`.
        floors: {network: foreground Dice that its target has to reach}.
    """
    last = summary[summary["steps"] == summary["steps"].max()].set_index(["network", "start"])
    rule = {cell: _rule(row["passing_low"], row["passing_high"]) for cell, row in last.iterrows()}
    told = [_conclusion(rule, last["steps"].iloc[0]) + " " + _same_start(rule)]
    for network in grid.NETWORKS:
        curves, changed = (each[each["network"] == network] for each in (summary, changes))
        trained = _training(curves, changed, floors[network])
        told.append(" ".join([_verdict(network, rule, last), _start(changed), *trained]))
    return Words("\n\n".join(told))


def _rule(low: float, high: float) -> str:
    """Whether at least `SHARE` of the kernels pass, by the limits of the share that does."""
    return PASSES if low >= SHARE else FAILS if high < SHARE else OPEN


def _conclusion(rule: dict[tuple[str, str], str], steps: int) -> str:
    """UNet is not a reusable network, PSPNet is one: from the starts that their papers' networks had, as we infer."""
    here = rule["unet", "independent"], rule["pspnet", "shared"]
    if here == (FAILS, PASSES):
        finding = "**The paper's conclusion holds under its own conditions.**"
    elif here[0] == PASSES or here[1] == FAILS:
        finding = "**The paper's conclusion fails under its own conditions.**"
    else:
        finding = "**Whether the paper's conclusion holds under its own conditions, we can't tell.**"
    return f"{finding} After {steps} steps UNet {here[0]} from independent starts, PSPNet {here[1]} from a shared one."


def _same_start(rule: dict[tuple[str, str], str]) -> str:
    """Whether the two networks still differ where their starts do not."""
    unet, pspnet = ([rule[network, start] for start in STARTS] for network in grid.NETWORKS)
    apart = [start for start, *both in zip(STARTS, unet, pspnet, strict=True) if set(both) == {PASSES, FAILS}]
    if apart:
        return f"Equal starts do not make them alike: they differ {' and '.join(FROM[start] for start in apart)}."
    if OPEN in (*unet, *pspnet):
        return "Whether they differ where their starts are equal, we can't tell."
    return "Where their starts are equal, they do not differ."


def _verdict(network: str, rule: dict[tuple[str, str], str], last: pd.DataFrame) -> str:
    """Whether the network passes from either start, and the shares that say so."""
    first, second = (rule[network, start] for start in reversed(STARTS))
    name = ARCHITECTURES[network].title
    if first == second:
        finding = f"**{name} {first} from either start.**"
    else:
        finding = f"**{name} {first} from a shared start and {second} from independent ones.**"
    shares = [
        f"{ranged(row['passing'], row['passing_low'], row['passing_high'], row['passing_over'])} {FROM[start]}"
        for start, row in ((start, last.loc[(network, start)]) for start in reversed(STARTS))
    ]
    return f"{finding} Kernels that pass, of {SHARE:.2f} asked: {', '.join(shares)}."


def _start(changed: pd.DataFrame) -> str:
    """Whether the start makes a difference to the mean drop at the last stage."""
    _, _, _, _, change, low, high, over = changed[changed["changed"] == START].iloc[0]
    if low > 0:
        return f"The start counts: an independent one costs more, by {ranged(change, low, high, over)}."
    if high < 0:
        return f"The start counts: a shared one costs more, by {ranged(-change, -high, -low, over)}."
    return f"Whether an independent start costs more, we can't tell: by {ranged(change, low, high, over)}."


def _training(curves: pd.DataFrame, changed: pd.DataFrame, floor: float) -> Iterator[str]:
    """What early stages show, and how the share of kernels that pass goes on from there."""
    dice = curves.groupby("steps")["dice"].mean()
    if weak := [str(steps) for steps in dice.index[~(dice >= floor)]]:
        yield f"Its targets of {', '.join(weak)} steps are too weak to judge anything by: below a Dice of {floor:.2f}."
    for row in changed[changed["changed"] == TRAINING].itertuples():
        curve = curves[curves["start"] == row.start]
        (one, _), (first, last), (near, far) = (curve[name].iloc[[0, -1]] for name in ("steps", "passing", "relative"))
        says = "fewer pass" if row.high < 0 else "more pass" if row.low > 0 else "we can't tell if fewer pass"
        change = ranged(row.change, row.low, row.high, row.over)
        begin = FROM[row.start].capitalize()
        yield f"{begin} {says} later: {first:.2f} after {one} steps, {last:.2f} at the end, change {change}."
        if row.high < 0 and near < MOVED * far:
            yield f"What passed at first alone had hardly moved: relative RMSE {near:.2f}, at the end {far:.2f}."
