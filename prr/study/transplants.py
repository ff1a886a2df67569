"""What transplants between a run's networks cost: sweeps, joint transplants, verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from prr import donors, reuse
from prr.distance import rmse
from prr.donors import noisy, towards
from prr.errors import OptionError
from prr.layers import check_kinds
from prr.study import networks
from prr.study.paper import KINDS
from prr.study.sources import SIX, TARGET
from prr.study.store import digest
from prr.study.training import TASKS
from prr.verdict import REUSABLE, Verdict, layer_verdicts
from prr.verdict import judge as judged_by

if TYPE_CHECKING:
    from prr.study.experiment import Experiment

TABLES = ("share", "sources", "joint", "pairs", "incomparable")  # of a verdict, beside its layers
DIGITS = {"score": 5, "drop": 5}  # decimals of `drops`: one study has a million of these rows, and Dice is no finer
FACTS = ("reusable_network", "drawn", "tolerance", "made")


def sweep(
    run: Experiment,
    network: str,
    kinds: Sequence[str] = KINDS,
    layers: Sequence[int] | None = None,
    target: tuple[str, str] = ("acdc", "segmentation"),
    source: tuple[str, str] = ("acdc", "auto-encoding"),
    start: str | None = None,
    dose: float | str | None = None,
) -> pd.DataFrame:
    """`prr.sweep` of two trained networks on the target's validation patients, from the store or made now.

    Args:
        run: profile, data and store.
        network: unet or pspnet.
        kinds: of parameters.
        layers: only these numbers; None: all.
        target: data set and task of the network that is judged; the paper's A1.
        source: data set and task of the network that gives; the paper's A2, B1 or B2.
        start: see `Experiment.model`.
        dose: None replaces the target's tensor w by the source's w'; a number a puts w + a (w' - w) there, "noise" w
            and Gaussian noise of the same RMSE.

    Raises:
        OptionError: an unknown kind or dose, or as `Experiment.model`.
    """
    check_kinds(kinds)
    if not (dose is None or dose == "noise" or isinstance(dose, int | float)):
        raise OptionError(f'dose={dose!r}: expected a number, "noise" or None')
    layers = None if layers is None else sorted({int(layer) for layer in layers})
    keys = [run.key(network, *each, start) for each in (target, source)]

    def make() -> tuple[pd.DataFrame, dict]:
        model, donor = (networks.trained(run, each) for each in keys)
        if dose is not None:
            donor = noisy(model, donor, run.seed) if dose == "noise" else towards(model, donor, dose)
        part = run.slices(target[0]).validation
        return reuse.sweep(model, donor, part, kinds=kinds, layers=layers, progress=run.progress), {}

    key = {"table": "sweep", "network": network, "kinds": list(kinds), "layers": layers}
    key |= {"recipe": run.recipes["reuse"], "pair": [digest(each) for each in keys]}
    key |= {} if dose is None else {"dose": dose, "seed": run.seed, "donors": run.recipes["donors"]}
    return run.kept(key, keys, f"sweep{'' if layers is None else f' of {layers}'}", make)[0]


def drops(
    run: Experiment,
    network: str,
    target: dict[str, Any],
    source: dict[str, Any],
    donor: str = "source",
    amount: float | None = None,
    kinds: Sequence[str] = ("W",),
) -> pd.DataFrame:
    """`prr.reuse.drops` on one in `grid_every` of the slices of the target's validation patients.

    Args:
        run: profile, data and store.
        network: see `Experiment.model`.
        target: arguments of `Experiment.model` for the network that is judged.
        source: the same for the network that gives.
        donor: what stands in the source's place: one of `prr.donors.DONORS`, or start: the network from which the
            target's training began.
        amount: for donors that take one.
        kinds: of parameters.

    Returns:
        DataFrame[kind, layer, name, patient, score, drop, rmse, relative]: the last two from target to donor; score and
        drop to five decimals.
    """
    judged, giver = run.key(network, **target), run.key(network, **source)
    every = run.profile.grid_every

    def make() -> tuple[pd.DataFrame, dict]:
        model, other = networks.trained(run, judged), networks.trained(run, giver)
        if donor == "start":
            other = networks.begin(run, judged).to(run.device)
        else:
            other = donors.donor(donor, model, other, amount, run.seed)
        part = run.slices(judged["data set"]).validation.every(every)
        table = reuse.drops(model, other, part, kinds=kinds, progress=run.progress)
        return table.round(DIGITS).merge(rmse(model, other), how="left"), {}

    key = {"table": "drops", "kinds": list(kinds), "donor": donor, "amount": amount, "every": every, "digits": DIGITS}
    key |= {"seed": run.seed} if donor in donors.DRAWN else {}
    key |= {"recipe": [run.recipes["reuse"], run.recipes["donors"]], "pair": [digest(judged), digest(giver)]}
    return run.kept(key, [judged, giver], f"drops by {donor}", make)[0]


def joint(run: Experiment, network: str) -> pd.DataFrame:
    """What passes alone in `sweep`, taken from ACDC auto-encoding all at once, from the store or made now.

    Returns:
        DataFrame[pairs, score, drop, low, high], one row; `pairs` counts them.
    """
    keys = [run.key(network, "acdc", task) for task in TASKS]
    swept = layer_verdicts(run.sweep(network))
    alone = swept[swept["verdict"] == REUSABLE]

    def make() -> tuple[pd.DataFrame, dict]:
        models = [networks.trained(run, each) for each in keys]
        found = reuse.joint(*models, run.slices("acdc").validation, alone)
        return pd.DataFrame([{"pairs": len(alone), **found}]), {}

    key = {"table": "joint", "network": network, "recipe": [run.recipes["reuse"], run.recipes["verdict"]]}
    key |= {"pair": [digest(each) for each in keys]}
    return run.kept(key, keys, "joint transplant", make)[0]


def judge(run: Experiment, network: str, patients: int | None = None) -> Verdict:
    """`prr.judge` of ACDC segmentation with the five other networks as sources, from the store or made now.

    Args:
        run: profile, data and store.
        network: unet or pspnet; its networks are trained if need be.
        patients: the target was trained on so many patients only, drawn by the seed; None: on all.
    """
    few = {label: {"patients": patients} if label == TARGET else {} for label in SIX}
    keys = {label: run.key(network, *each, **few[label]) for label, each in SIX.items()}

    def make() -> tuple[pd.DataFrame, dict]:
        models = {label: networks.trained(run, each) for label, each in keys.items()}
        target, part = models.pop(TARGET), run.slices("acdc").validation
        return packed(judged_by(target, models, part, seed=run.seed, progress=run.progress))

    key = {"table": "verdict", "network": network, "recipe": [run.recipes["reuse"], run.recipes["verdict"]]}
    key |= {"seed": run.seed, "networks": [digest(each) for each in keys.values()]}
    return unpacked(*run.kept(key, list(keys.values()), "verdict", make))


def packed(verdict: Verdict) -> tuple[pd.DataFrame, dict]:
    """A verdict as a table and a record for the store."""
    tables = {name: getattr(verdict, name).to_dict("split", index=False) for name in TABLES}
    return verdict.layers, tables | {"facts": {name: getattr(verdict, name) for name in FACTS}}


def unpacked(layers: pd.DataFrame, record: dict) -> Verdict:
    """The verdict that was `packed`."""
    return Verdict(layers=layers, **{name: pd.DataFrame(**record[name]) for name in TABLES}, **record["facts"])
