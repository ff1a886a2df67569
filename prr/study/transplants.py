"""What transplants between a run's networks cost: sweeps, joint transplants, verdicts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from prr import donors, reuse, verdict
from prr.data import Slices
from prr.distance import rmse
from prr.errors import OptionError
from prr.layers import check_kinds
from prr.metrics import drop_interval
from prr.study import networks
from prr.study.display import Words, ranged
from prr.study.jobs import Form, Job, derived, kept_as, stack
from prr.study.paper import KINDS
from prr.study.run import Run
from prr.verdict import REUSABLE, Verdict, layer_verdicts

TABLES = ("swept", "share", "sources", "joint", "pairs", "incomparable")  # of a verdict, beside its layers
FACTS = ("reusable_network", "drawn", "plan_from", "tolerance", "score", "notes", "made")
DIGITS = {"score": 5, "drop": 5}  # decimals of `drops`: one study has a million of these rows, and Dice is no finer
A1, A2 = ("acdc", "segmentation"), ("acdc", "auto-encoding")  # as the paper calls them
# UNet's levels: no long connection leads around the highest, four of them lead around the lowest
TOP, BOTTOM = ("down.0.", "up.3.block."), ("down.4.",)
START = "start"  # the donor that is the network from which the target's training began


def sweep(
    run: Run, network: str, kinds: Sequence[str] = KINDS, layers: Sequence[int] | None = None,
    target: tuple[str, str] = A1, source: tuple[str, str] = A2, dose: float | str | None = None,
) -> Job:  # fmt: skip
    """`prr.sweep` of two trained networks on the target's validation patients: `by_patient`, averaged.

    Arguments and errors are those of `by_patient`.
    """
    return run.job(averaged, found=by_patient(run, network, kinds, layers, target, source, dose))


@derived
def averaged(found: pd.DataFrame) -> pd.DataFrame:
    """See `sweep`."""
    return reuse.averaged(found)


def by_patient(
    run: Run, network: str, kinds: Sequence[str] = KINDS, layers: Sequence[int] | None = None,
    target: tuple[str, str] = A1, source: tuple[str, str] = A2, dose: float | str | None = None,
) -> Job:  # fmt: skip
    """Score of each validation patient after each transplant between two trained networks.

    Args:
        run: profile, data and seed.
        network: unet or pspnet.
        kinds: of parameters.
        layers: only these numbers; None: all.
        target: data set and task of the network that is judged; the paper's A1.
        source: data set and task of the network that gives; the paper's A2, B1 or B2.
        dose: None replaces the target's tensor w by the source's w'; a number a puts w + a (w' - w) there, "noise" w
            and Gaussian noise of the same RMSE.

    Returns:
        The job of DataFrame[kind, layer, name, patient, before, score, drop], see `prr.reuse.patient_scores`.

    Raises:
        OptionError: an unknown kind or dose, or as `networks.model`.
    """
    check_kinds(kinds)
    if not (dose is None or dose == "noise" or isinstance(dose, int | float)):
        raise OptionError(f'dose={dose!r}: expected a number, "noise" or None')
    layers = None if layers is None else sorted({int(layer) for layer in layers})
    pair = {"target": networks.model(run, network, *target), "source": networks.model(run, network, *source)}
    title = "sweep" if layers is None else f"sweep of {layers}"
    drawn = {"dose": dose, "seed": run.seed if dose == "noise" else None}
    return run.job(swept, title, **pair, slices=run.data(target[0]), kinds=list(kinds), layers=layers, **drawn)


def swept(
    target: nn.Module, source: nn.Module, slices: Slices, kinds: list[str], layers: list[int] | None,
    dose: float | str | None, seed: int | None, progress: bool,
) -> pd.DataFrame:  # fmt: skip
    """See `by_patient`."""
    if dose is not None:
        source = donors.noisy(target, source, seed) if dose == "noise" else donors.towards(target, source, dose)
    options = {"kinds": kinds, "layers": layers, "ignore_index": slices.ignore, "progress": progress}
    return reuse.patient_scores(target, source, slices.validation, **options)


def by_source(run: Run, network: str) -> Job:
    """Kernels of the target by those of each other network, with all the run's seeds.

    Returns:
        The job of DataFrame[source, seed, kind, layer, name, patient, before, score, drop].
    """
    givers = [(label, each) for label, each in networks.six(run).items() if each != A1]
    return stack(
        ({"source": label, "seed": seed}, by_patient(run.variant(seed=seed), network, ["W"], source=each))
        for seed, (label, each) in itertools.product(run.seeds, givers)
    )


def shares(by_source: pd.DataFrame, tolerance: float) -> pd.DataFrame:
    """DataFrame with sources as rows, seeds as columns: the share of kernels that pass by their mean over patients.

    >>> table = pd.DataFrame({"source": "a", "seed": 0, "layer": [1, 2], "drop": [0.01, 0.3]})
    >>> float(shares(table, 0.05).loc["a", 0])
    0.5
    """
    passes = by_source.groupby(["source", "seed", "layer"], sort=False)["drop"].mean() <= tolerance
    return passes.groupby(["source", "seed"], sort=False).mean().unstack("seed")


def drops(
    run: Run, network: str, target: dict[str, Any], source: dict[str, Any], donor: str = "source",
    amount: float | None = None, kinds: Sequence[str] = ("W",),
) -> Job:  # fmt: skip
    """`prr.reuse.drops` on one in `grid_every` of the slices of the target's validation patients.

    Args:
        run: profile, data and seed.
        network: see `networks.model`.
        target: arguments of `networks.model` for the network that is judged.
        source: the same for the network that gives.
        donor: what stands in the source's place: one of `prr.donors.DONORS`, or start: the network from which the
            target's training began.
        amount: for donors that take one.
        kinds: of parameters.

    Returns:
        The job of DataFrame[kind, layer, name, patient, score, drop, rmse, relative]: the last two from target to
        donor; score and drop to five decimals.
    """
    judged = networks.model(run, network, **target)
    giver = judged.needs["initial"] if donor == START else networks.model(run, network, **source)
    seed = run.seed if donor in donors.DRAWN else None
    return run.job(
        dropped, f"drops by {donor}", target=judged, source=giver, slices=run.data(target.get("dataset", "acdc")),
        donor="source" if donor == START else donor, amount=amount, seed=seed, kinds=list(kinds),
        every=run.profile.grid_every,
    )  # fmt: skip


def dropped(
    target: nn.Module, source: nn.Module, slices: Slices, donor: str, amount: float | None, seed: int | None,
    kinds: list[str], every: int, progress: bool,
) -> pd.DataFrame:  # fmt: skip
    """See `drops`."""
    giver = donors.donor(donor, target, source, amount, seed or 0)
    options = {"kinds": kinds, "ignore_index": slices.ignore, "progress": progress}
    table = reuse.drops(target, giver, slices.validation.every(every), **options)
    return table.round(DIGITS).merge(rmse(target, giver), how="left")


def joint(run: Run, network: str) -> Job:
    """What passes alone in `sweep`, taken from the target's own auto-encoder all at once.

    Returns:
        The job of DataFrame[pairs, score, drop, low, high], one row; `pairs` counts them.
    """
    pair = {"target": networks.model(run, network, *A1), "source": networks.model(run, network, *A2)}
    given = {"sweep": sweep(run, network), "slices": run.data("acdc"), "tolerance": run.profile.tolerance}
    return run.job(jointly_transplanted, "joint transplant", **pair, **given)


def jointly_transplanted(
    target: nn.Module, source: nn.Module, sweep: pd.DataFrame, slices: Slices, tolerance: float
) -> pd.DataFrame:
    """See `joint`."""
    judged = layer_verdicts(sweep, tolerance)
    alone = judged[judged["verdict"] == REUSABLE]
    found = reuse.joint_transplant(target, source, slices.validation, alone, ignore_index=slices.ignore)
    return pd.DataFrame([{"pairs": len(alone), **found}])


def judge(run: Run, network: str, patients: int | None = None) -> Job:
    """`prr.judge` of the target's segmentation with the five other networks as sources.

    Args:
        run: profile, data and seed.
        network: unet or pspnet.
        patients: the target was trained on n patients only, drawn by the seed; None: on all.

    Returns:
        The job of the `prr.Verdict`.
    """
    sources = {label: networks.model(run, network, *each) for label, each in networks.six(run).items() if each != A1}
    target = networks.model(run, network, *A1, patients=patients)
    given = {"target": target, "sources": sources, "slices": run.data("acdc"), "seed": run.seed}
    return run.job(judged, "verdict", **given, tolerance=run.profile.tolerance)


def _packed(verdict: Verdict) -> tuple[pd.DataFrame, dict]:
    """A verdict as a table and a record for the store."""
    tables = {name: getattr(verdict, name).to_dict("split", index=False) for name in TABLES}
    return verdict.layers, tables | {"facts": {name: getattr(verdict, name) for name in FACTS}}


def _unpacked(job: Job, layers: pd.DataFrame, record: dict, device: str) -> Verdict:
    """The verdict that was packed."""
    return Verdict(layers=layers, **{name: pd.DataFrame(**record[name]) for name in TABLES}, **record["facts"])


VERDICT = Form("tables", _packed, _unpacked)
kept_as(VERDICT)(verdict.judge)  # so that `Run.call` keeps what it gives


@kept_as(VERDICT)
def judged(
    target: nn.Module, sources: dict[str, nn.Module], slices: Slices, seed: int, tolerance: float, progress: bool
) -> Verdict:
    """See `judge`."""
    policy = {"policy": "drawn", "seed": seed}  # the paper's own
    asked = {"tolerance": tolerance, "ignore_index": slices.ignore}
    return verdict.judge(target, sources, slices.validation, **policy, **asked, progress=progress)


def in_words(found: pd.DataFrame) -> Words:
    """Which kernel costs most, and whether UNet's lowest level costs less than its highest, from `by_patient`."""
    kernels = found[found["kind"] == "W"]
    return Words(" ".join(filter(None, [_costliest(kernels), _levels(kernels)])))


def _costliest(kernels: pd.DataFrame) -> str:
    """The kernel whose transplant costs most, and how much less the next one costs."""
    first, second = reuse.averaged(kernels).nlargest(2, "drop").itertuples()
    score = kernels.pivot(index="patient", columns="layer", values="score")
    (low,), (high,) = drop_interval(score[second.layer].to_numpy(), score[first.layer].to_numpy()[None])
    costs = "costs" if low > 0 else "may cost as much, though here it costs"
    return (
        f"**Kernel {first.layer}, `{first.name}`, costs most**: foreground Dice falls by "
        f"{ranged(first.drop, first.low, first.high, 'patients')}, to {first.score:z.2f}. The next, kernel "
        f"{second.layer}, {costs} {ranged(first.drop - second.drop, low, high, 'patients')} less."
    )


def _levels(kernels: pd.DataFrame) -> str:
    """Whether kernels that long connections lead around cost less, by patient; nothing of other networks than UNet."""
    scores = kernels.set_index("patient")["score"]
    top, bottom = (scores[kernels["name"].str.startswith(level).to_numpy()] for level in (TOP, BOTTOM))
    if bottom.empty:
        return ""
    top, bottom = (each.groupby("patient").mean().to_numpy() for each in (top, bottom))
    (low,), (high,) = drop_interval(bottom, top[None])
    less, compared = np.nanmean(bottom) - np.nanmean(top), "than those at the top"
    if low > 0:
        finding = f"As predicted, kernels at the bottom cost less {compared}"
        return f"**{finding}**: by {ranged(less, low, high, 'patients')}."
    if high < 0:
        finding = f"Against the prediction, kernels at the bottom cost more {compared}"
        return f"**{finding}**: by {ranged(-less, -high, -low, 'patients')}."
    finding = f"Whether kernels at the bottom cost less {compared}, as predicted, is open"
    return f"**{finding}**: {ranged(less, low, high, 'patients')} less."
