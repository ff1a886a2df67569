"""PR-RMSE as a policy: is the network reusable, which of its layers, from which source, and by what plan?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from torch import nn

from prr.distance import rmse
from prr.errors import NetworkError, OptionError
from prr.layers import ALL, parameter_table
from prr.reuse import Data, Score, device_of, joint, sweep

# Goes into every stored verdict's key: raise it when a change here changes what a verdict holds.
RECIPE = 1
REUSABLE, UNDECIDED, NOT_REUSABLE = "reusable", "undecided", "not reusable"


def layer_verdicts(swept: pd.DataFrame, tolerance: float = 0.05) -> pd.DataFrame:
    """Judge every layer of a sweep by the interval of its drop.

    Args:
        swept: DataFrame with columns `low` and `high`, from `prr.sweep`.
        tolerance: drop that counts as "almost unchanged", in units of the score (0.05 of foreground Dice).

    Returns:
        The sweep with a column `verdict`: reusable where high <= tolerance, not reusable where low > tolerance, else
        (also without an interval) undecided.

    Raises:
        OptionError: a column that is missing.

    Source: Wang et al. 2020, arXiv:2008.03411, asks for "almost unchanged" results; number and interval are ours.
    """
    if missing := {"low", "high"} - set(swept.columns):
        raise OptionError(f"column {', '.join(sorted(missing))}: expected a sweep's table, found {list(swept.columns)}")
    reusable, lost = swept["high"] <= tolerance, swept["low"] > tolerance
    return swept.assign(verdict=np.select([reusable, lost], [REUSABLE, NOT_REUSABLE], UNDECIDED))


def shares(swept: pd.DataFrame, tolerances: tuple[float, ...] = (0.01, 0.02, 0.05, 0.1, 0.2)) -> pd.DataFrame:
    """How many layers of each kind are reusable, over a range of tolerances.

    Returns:
        DataFrame[kind, tolerance, reusable, undecided, not reusable, layers], counts of layers.
    """
    rows = []
    for tolerance in tolerances:
        for kind, part in layer_verdicts(swept, tolerance).groupby("kind", sort=False):
            counts = part["verdict"].value_counts().reindex([REUSABLE, UNDECIDED, NOT_REUSABLE], fill_value=0)
            rows.append({"kind": kind, "tolerance": tolerance, **counts, "layers": len(part)})
    table = pd.DataFrame(rows, columns=["kind", "tolerance", REUSABLE, UNDECIDED, NOT_REUSABLE, "layers"])
    return table.sort_values(["kind", "tolerance"], kind="stable", ignore_index=True)


@dataclass(frozen=True, eq=False)
class Verdict:
    """What `judge` found.

    Args:
        reusable_network: True, False, or None where the intervals leave it open.
        drawn: name of the source whose transplants told so.
        layers: DataFrame[kind, layer, name, score, drop, low, high, verdict], the sweep.
        share: DataFrame[kind, tolerance, reusable, undecided, not reusable, layers], of the kernels W.
        sources: DataFrame[source, kernels, rmse, relative, rank, drawn], nearest first: means over the reusable
            kernels, or over all where none is; `kernels` tells over how many.
        joint: DataFrame[layers, recalibrated, score, drop, low, high, verdict]: so many pairs of kind and layer, in
            order of their single `high`, taken from the nearest source at once, without and with recalibration.
        pairs: DataFrame[kind, layer, name, live], all that can be swapped; the plan has a line for each.
        tolerance: drop that counts as unchanged.
    """

    reusable_network: bool | None
    drawn: str
    layers: pd.DataFrame
    share: pd.DataFrame
    sources: pd.DataFrame
    joint: pd.DataFrame
    pairs: pd.DataFrame
    tolerance: float

    def plan(self) -> pd.DataFrame:
        """What to do with each parameter, for `prr.apply_plan`.

        Returns:
            DataFrame[kind, layer, name, action]. reuse: the pairs that pass together, the largest set of them that was
            tried; recalibrate: the other RM and RV, or all, where the set passes with recalibration only; retrain: the
            rest, and layers that never run.
        """
        passed = self.joint[self.joint["verdict"] == REUSABLE].sort_values(["layers", "recalibrated"])
        largest = passed[passed["layers"] == passed["layers"].max()].head(1)
        kept = _in_order(self.layers).head(int(largest["layers"].sum()))
        statistics = self.pairs["kind"].isin(["RM", "RV"])
        taken = pd.MultiIndex.from_frame(self.pairs[["kind", "name"]]).isin(
            pd.MultiIndex.from_frame(kept[["kind", "name"]])
        )
        anew = statistics & self.pairs["live"] & (~taken | largest["recalibrated"].any())
        actions = np.select([anew, taken], ["recalibrate", "reuse"], "retrain")
        return self.pairs[["kind", "layer", "name"]].assign(action=actions)

    def __str__(self) -> str:
        """The answer in sentences, with the numbers that decided."""
        kernels = self.layers[self.layers["kind"] == "W"]["verdict"].value_counts()
        counts = ", ".join(f"{kernels.get(each, 0)} {each}" for each in (REUSABLE, UNDECIDED, NOT_REUSABLE))
        answer = {True: "is reusable", False: "is not reusable", None: "may or may not be reusable"}
        nearest, actions = self.sources.iloc[0], self.plan()["action"].value_counts()
        lines = [
            f"The network {answer[self.reusable_network]}, judged with {self.drawn}: of its {kernels.sum()} live "
            f"kernels {counts} within {self.tolerance:g}.",
            f"The nearest source, of {len(self.sources)}, is {nearest['source']}: mean relative RMSE "
            f"{nearest['relative']:.2f}, kernels counted {nearest['kernels']}.",
        ]
        for row in self.joint.head(2).itertuples():
            how = "after recalibration" if row.recalibrated else "as they are"
            lines.append(
                f"All {row.layers} reusable pairs taken from it together, {how}: drop {row.drop:.3f} "
                f"[{row.low:.3f}, {row.high:.3f}]."
            )
        told = ", ".join(f"{action} {count}" for action, count in actions.items())
        return " ".join([*lines, f"The plan: {told}."])

    def _repr_markdown_(self) -> str:
        return str(self)


def judge(
    target: nn.Module,
    source: nn.Module | dict[str, nn.Module],
    data: Data,
    *,
    tolerance: float = 0.05,
    share: float = 0.5,
    kinds: Sequence[str] = ALL,
    score: Score | None = None,
    batch_size: int = 32,
    seed: int = 0,
    progress: bool = False,
) -> Verdict:
    """Judge by PR-RMSE what of a source network can be used in a target network.

    One source, drawn at random, gives the transplants that tell whether the network is reusable, and which layers are.
    RMSE over the reusable kernels ranks the sources. What passes alone is then taken from the nearest source together;
    where that fails, the largest set that passes is sought by bisection, in order of the single intervals. Layers are
    chosen and scored on the same data, so the joint score of a reduced set is somewhat optimistic.

    Args:
        target: network that is judged, trained on a small labelled set perhaps; not changed.
        source: a network of the same layers and shapes, or several, {name: network}.
        data: exactly the data that is scored, a small set perhaps: intervals widen with fewer patients.
        tolerance: drop of the score that counts as unchanged.
        share: part of the live kernels that must be reusable for the network to be.
        kinds: of parameters to judge; W has to be among them.
        score: (output, data) -> one value per patient; mean foreground Dice if None.
        batch_size: slices per forward pass.
        seed: of the draw among the sources.
        progress: show a bar on stderr.

    Raises:
        OptionError: no source, W not among the kinds, or a share or tolerance that is out of range.
        NetworkError: no live convolution, or as `sweep`.
        DataError: as `sweep`.

    Source: Wang et al. 2020, arXiv:2008.03411, Introduction; intervals, joint scores and the plan are ours.
    """
    sources = source if isinstance(source, dict) else {"source": source}
    if not sources or "W" not in kinds or not 0 < share <= 1 or not tolerance >= 0 or seed < 0:
        raise OptionError(
            f"sources={list(sources)}, kinds={list(kinds)}, share={share}, tolerance={tolerance}, seed={seed}: "
            "expected at least one source, W among the kinds, a share above 0 up to 1, a tolerance and a seed from 0"
        )
    drawn = list(sources)[np.random.default_rng(seed).integers(len(sources))]
    options = {"score": score, "batch_size": batch_size}
    layers = layer_verdicts(sweep(target, sources[drawn], data, kinds=kinds, progress=progress, **options), tolerance)
    kernels = layers[layers["kind"] == "W"]
    if kernels.empty:
        raise NetworkError(f"{type(target).__name__}: expected live convolutions, whose kernels are judged; found none")
    ranked = rank(target, sources, layers).assign(drawn=lambda table: table["source"] == drawn)
    together = jointly(target, sources[ranked["source"].iloc[0]], data, _in_order(layers), tolerance, options)
    pairs = parameter_table(target, data.images[:1].to(device_of(target)))[["kind", "layer", "name", "live"]]
    answer = reusable_network(kernels, share)
    return Verdict(answer, drawn, layers, shares(kernels), ranked, together, pairs, tolerance)


def reusable_network(kernels: pd.DataFrame, share: float = 0.5) -> bool | None:
    """Whether enough of the kernels are reusable; None where the undecided ones would tip the balance.

    Args:
        kernels: DataFrame with a column verdict, a row for each live W.
        share: part of them that has to be reusable.
    """
    sure, possible = (kernels["verdict"] == REUSABLE).mean(), (kernels["verdict"] != NOT_REUSABLE).mean()
    return True if sure >= share else False if possible < share else None


def rank(target: nn.Module, sources: dict[str, nn.Module], layers: pd.DataFrame) -> pd.DataFrame:
    """Sources by mean relative RMSE over the reusable kernels, see `Verdict.sources`."""
    kernels = layers[layers["kind"] == "W"]
    reusable = kernels[kernels["verdict"] == REUSABLE]
    names = (kernels if reusable.empty else reusable)["name"]
    rows = []
    for name, source in sources.items():
        table = rmse(target, source)
        part = table[(table["kind"] == "W") & table["name"].isin(names)]
        rows.append((name, len(part), part["rmse"].mean(), part["relative"].mean()))
    table = pd.DataFrame(rows, columns=["source", "kernels", "rmse", "relative"])
    table = table.sort_values("relative", kind="stable", ignore_index=True)
    return table.assign(rank=table["relative"].rank(method="min").astype("Int64"))


def jointly(
    target: nn.Module, source: nn.Module, data: Data, reusable: pd.DataFrame, tolerance: float, options: dict
) -> pd.DataFrame:
    """Score all reusable pairs at once; while they fail, seek the largest number that passes. See `Verdict.joint`."""
    rows = []

    def passes(count: int) -> bool:
        for recalibrated in (False, True):
            result = joint(target, source, data, reusable.head(count), recalibrated=recalibrated, **options)
            rows.append({"layers": count, "recalibrated": recalibrated, **result})
        return any(row["high"] <= tolerance for row in rows[-2:])

    passing, failing = 0, len(reusable)
    if failing and not passes(failing):
        while failing - passing > 1:
            middle = (passing + failing) // 2
            passing, failing = (middle, failing) if passes(middle) else (passing, middle)
    columns = ["layers", "recalibrated", "score", "drop", "low", "high"]
    return layer_verdicts(pd.DataFrame(rows, columns=columns), tolerance)


def _in_order(layers: pd.DataFrame) -> pd.DataFrame:
    """The reusable pairs, the surest first."""
    return layers[layers["verdict"] == REUSABLE].sort_values("high", kind="stable")
