"""PR-RMSE as a policy: is the network reusable, which of its layers, from which source, and by what plan?"""

from __future__ import annotations

import json
import platform
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version

import numpy as np
import pandas as pd
import torch
from torch import nn

from prr import page
from prr.distance import rmse
from prr.errors import NetworkError, OptionError
from prr.layers import ALL, KERNELS, common, counterparts, entries, full_name, incomparable, parameter_table
from prr.metrics import Counted, Score, score_of
from prr.reuse import device_of, joint_transplant, sweep, values
from prr.samples import Data, samples

TOLERANCE = 0.05  # drop of the score that counts as unchanged; the default of every function that judges
SHARE = 0.5  # part of the live kernels that has to be reusable for the network to be
REUSABLE, UNDECIDED, NOT_REUSABLE = "reusable", "undecided", "not reusable"
LEGEND = (
    "W and B are weight and bias of a convolution, LW and LB of a linear layer, NW and NB of a layer, group, instance "
    "or RMS norm; RM, RV, RW and RB are running mean, running variance, weight and bias of a batch norm."
)
INTERVAL = "A dot is the drop of the score, its line the 95 % interval, and the band reaches from 0 to the tolerance,"


def layer_verdicts(swept: pd.DataFrame, tolerance: float = TOLERANCE) -> pd.DataFrame:
    """Judge every layer of a sweep by the interval of its drop.

    Args:
        swept: DataFrame with columns `low` and `high`, from `prr.sweep`.
        tolerance: drop that counts as "almost unchanged", in units of the score.

    Returns:
        The sweep with a column `verdict`: reusable where high <= tolerance, not reusable where low > tolerance, else
        (also without an interval) undecided.

    Raises:
        OptionError: a column that is missing.

    Source: Wang et al. 2020, arXiv:2008.03411, asks for "almost unchanged" results; number and interval are ours.

    Example:
        >>> import pandas as pd
        >>> from prr.verdict import layer_verdicts
        >>> swept = pd.DataFrame({"layer": [1, 2, 3], "low": [0.00, 0.00, 0.20], "high": [0.01, 0.20, 0.30]})
        >>> layer_verdicts(swept)["verdict"].tolist()
        ['reusable', 'undecided', 'not reusable']
    """
    if missing := {"low", "high"} - set(swept.columns):
        raise OptionError(f"column {', '.join(sorted(missing))}: expected a sweep's table, found {list(swept.columns)}")
    reusable, lost = swept["high"] <= tolerance, swept["low"] > tolerance
    return swept.assign(verdict=np.select([reusable, lost], [REUSABLE, NOT_REUSABLE], UNDECIDED))


def shares(swept: pd.DataFrame, tolerances: Sequence[float] = (0.01, 0.02, TOLERANCE, 0.1, 0.2)) -> pd.DataFrame:
    """How many layers of each kind are reusable, over a range of tolerances.

    Returns:
        DataFrame[kind, tolerance, reusable, undecided, not reusable, layers], counts of layers.

    Example:
        >>> import pandas as pd
        >>> from prr.verdict import shares
        >>> swept = pd.DataFrame({"kind": "W", "low": [0.00, 0.00, 0.20], "high": [0.01, 0.15, 0.30]})
        >>> shares(swept, [0.1, 0.2])
          kind  tolerance  reusable  undecided  not reusable  layers
        0    W        0.1         1          1             1       3
        1    W        0.2         2          1             0       3
    """
    rows = []
    for tolerance in tolerances:
        for kind, part in layer_verdicts(swept, tolerance).groupby("kind", sort=False):
            counts = part["verdict"].value_counts().reindex([REUSABLE, UNDECIDED, NOT_REUSABLE], fill_value=0)
            rows.append({"kind": kind, "tolerance": tolerance, **counts, "layers": len(part)})
    table = pd.DataFrame(rows, columns=["kind", "tolerance", REUSABLE, UNDECIDED, NOT_REUSABLE, "layers"])
    return table.sort_values(["kind", "tolerance"], kind="stable", ignore_index=True)


@dataclass(frozen=True, eq=False, repr=False)
class Verdict:
    """What `judge` found.

    Args:
        reusable_network: True, False, or None where the intervals leave it open.
        drawn: name of the source whose transplants decided.
        layers: DataFrame[kind, layer, name, score, drop, low, high, verdict, rmse, relative], the sweep, with the
            distance to the drawn source.
        share: DataFrame[kind, tolerance, reusable, undecided, not reusable, layers], of the kernels W and LW.
        sources: DataFrame[source, kernels, rmse, relative, rank, drawn], nearest first: means over the reusable
            kernels, or over all where none is; `kernels` is their number.
        joint: DataFrame[layers, recalibrated, score, drop, low, high, verdict]: the first n = `layers` pairs of kind
            and layer, in order of their single `high`, taken from the nearest source at once, without and with
            recalibration.
        pairs: DataFrame[kind, layer, name, live(, shared)], all that can be swapped; the plan has a line for each.
        tolerance: drop that counts as unchanged.
        incomparable: DataFrame[network, kind, name, target, source], what a source does not share, with both shapes.
        made: {what: value}, where the numbers come from.

    Example:
        >>> import prr, torch
        >>> from torch import nn
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(nn.Conv2d(1, 2, 1))
        >>> images = torch.randn(6, 1, 4, 4)
        >>> verdict = prr.judge(model, model, (images, model(images).argmax(1)), score="accuracy")
        >>> verdict.reusable_network, verdict.plan()["action"].tolist(), verdict.to_html()[:15]
        (True, ['reuse', 'reuse'], '<!doctype html>')
    """

    reusable_network: bool | None
    drawn: str
    layers: pd.DataFrame
    share: pd.DataFrame
    sources: pd.DataFrame
    joint: pd.DataFrame
    pairs: pd.DataFrame
    tolerance: float
    incomparable: pd.DataFrame = field(default_factory=pd.DataFrame)
    made: dict[str, str] = field(default_factory=dict)

    def plan(self) -> pd.DataFrame:
        """What to do with each parameter, for `prr.apply_plan`.

        Returns:
            DataFrame[kind, layer, name, parameter, action]: `parameter` as in `named_parameters()` or
            `named_buffers()`, for an optimiser's groups. reuse: the pairs that pass together, the largest set of them
            that was tried; recalibrate: the other RM and RV, or all, where the set passes with recalibration only;
            retrain: the rest, and what never runs or is not comparable.
        """
        passed = self.joint[self.joint["verdict"] == REUSABLE].sort_values(["layers", "recalibrated"])
        largest = passed[passed["layers"] == passed["layers"].max()].head(1)
        kept = _in_order(self.layers).head(int(largest["layers"].sum()))
        statistics = self.pairs["kind"].isin(["RM", "RV"])
        taken = pd.MultiIndex.from_frame(self.pairs[["kind", "name"]]).isin(
            pd.MultiIndex.from_frame(kept[["kind", "name"]])
        )
        estimated = statistics & self.pairs["live"] & (~taken | largest["recalibrated"].any())
        names = [full_name(kind, name) for kind, name in self.pairs[["kind", "name"]].itertuples(index=False)]
        actions = np.select([estimated, taken], ["recalibrate", "reuse"], "retrain")
        return self.pairs[["kind", "layer", "name"]].assign(parameter=names, action=actions)

    def __str__(self) -> str:
        """The answer in sentences, with the numbers that decided."""
        sentences = self._answer(), self._ranking(), self._together(), self._outcome(), self._rest()
        return " ".join(filter(None, sentences))

    __repr__ = __str__

    def _repr_markdown_(self) -> str:
        return str(self)

    def to_html(self, title: str = "Which parameters can be reused?") -> str:
        """The verdict as one self-contained page: no script, no network, light or dark as the reader's system is."""
        plan = self.plan()
        layers = self.layers.merge(plan, how="left").merge(self.pairs, how="left")
        layers["interval"] = page.intervals(layers, self.tolerance)
        shown = ["kind", "layer", "name", "verdict", "interval", "drop", "low", "high", "rmse", "relative", "action"]
        layers = layers[shown + (["shared"] if "shared" in layers else [])]
        joint = self.joint.rename(columns={"layers": "pairs"})
        joint["interval"] = page.intervals(joint, self.tolerance)
        sources = self.sources.assign(bar=page.bars(self.sources["relative"]))
        counts = plan.groupby(["kind", "action"], sort=False).size().unstack(fill_value=0).reset_index()
        dead = self.pairs.loc[~self.pairs["live"], ["kind", "layer", "name"]]
        sections = [
            page.Section("Layer by layer", f"{LEGEND} {INTERVAL} {self.tolerance:g}.", layers),
            page.Section("How many, at which tolerance", "", self.share),
            page.Section("Sources, nearest first", self._ranking(), sources),
            page.Section("Taken together", self._together(), joint),
            page.Section("The plan", self._outcome(), counts),
            page.Section("Never run", "" if len(dead) else "Every layer runs.", dead),
            page.Section("Not comparable", self._rest() or "The networks share every layer.", self.incomparable),
        ]
        return page.render(title, f"{self._answer()} {self._outcome()}", sections, self.made)

    def to_json(self) -> str:
        """The answer, all tables as records, and the plan."""
        tables = {"plan": self.plan()}
        tables |= {name: value for name, value in vars(self).items() if isinstance(value, pd.DataFrame)}
        facts = {"answer": str(self)} | {name: value for name, value in vars(self).items() if name not in tables}
        return json.dumps(facts | {name: json.loads(table.to_json(orient="records")) for name, table in tables.items()})

    def _answer(self) -> str:
        kernels = self.layers[self.layers["kind"].isin(KERNELS)]["verdict"].value_counts()
        counts = ", ".join(f"{kernels.get(each, 0)} {each}" for each in (REUSABLE, UNDECIDED, NOT_REUSABLE))
        answer = {True: "is reusable", False: "is not reusable", None: "may or may not be reusable"}
        own = self.layers["score"].iloc[0] + self.layers["drop"].iloc[0]
        return (
            f"The network {answer[self.reusable_network]}, judged with {self.drawn}: of its {kernels.sum()} live "
            f"kernels {counts} within {self.tolerance:g} of its own score, {own:.3f}."
        )

    def _ranking(self) -> str:
        nearest = self.sources.iloc[0]
        return (
            f"The nearest source, of {len(self.sources)}, is {nearest['source']}: mean relative RMSE "
            f"{nearest['relative']:.2f}, kernels counted {nearest['kernels']}."
        )

    def _together(self) -> str:
        most = self.joint[self.joint["layers"] == self.joint["layers"].max()]
        return " ".join(
            f"All {row.layers} reusable pairs taken from it together, "
            f"{'after recalibration' if row.recalibrated else 'as they are'}: drop {row.drop:.3f} "
            f"[{row.low:.3f}, {row.high:.3f}]."
            for row in most.itertuples()
        )

    def _outcome(self) -> str:
        actions = self.plan()["action"].value_counts()
        return f"The plan: {', '.join(f'{action} {count}' for action, count in actions.items())}."

    def _rest(self) -> str:
        count = len(self.incomparable)
        return f"Not comparable, and left out: {count} parameters." if count else ""


def judge(
    target: nn.Module,
    source: nn.Module | dict[str, nn.Module],
    data: Data,
    *,
    tolerance: float = TOLERANCE,
    share: float = SHARE,
    kinds: Sequence[str] = ALL,
    score: Score | None = None,
    batch_size: int = 32,
    bfloat16: bool = False,
    seed: int = 0,
    progress: bool = False,
) -> Verdict:
    """Judge by PR-RMSE what of a source network can be used in a target network.

    One source, drawn at random, gives the transplants that decide whether the network and which of its layers are
    reusable. RMSE over the reusable kernels ranks the sources. What passes alone is then taken from the nearest source
    together; where that fails, the largest set that passes is sought by bisection, in order of the single intervals.
    Layers are chosen and scored on the same data, so the joint score of a reduced set is somewhat optimistic.

    Args:
        target: network that is judged, trained on a small labelled set perhaps; not changed.
        source: a network, or several, {name: network}. Judged is what all of them share with the target.
        data: exactly the data that is scored, a small set perhaps: intervals widen with fewer patients. Tensors, a
            Dataset or a DataLoader, see `prr.samples.samples`.
        tolerance: drop of the score that counts as unchanged.
        share: part of the live kernels (W, LW) that must be reusable for the network to be.
        kinds: of parameters to judge; W or LW has to be among them.
        score: dice, accuracy, r2 or (output, data) -> one value per patient (or other unit). None: the one that suits
            the targets, mean foreground Dice for label maps.
        batch_size: images per forward pass.
        bfloat16: sweep in half precision, see `prr.sweep`. What is taken together is scored in 32 bits all the same, as
            is the target that it is compared with: these scores decide the plan, and are few.
        seed: of the draw among the sources.
        progress: show a bar on stderr.

    Raises:
        OptionError: no source, neither W nor LW among the kinds, or a share or tolerance that is out of range.
        NetworkError: no live convolution or linear layer in common, a score that bfloat16 moves, or as `sweep`.
        DataError: as `sweep`.

    Source: Wang et al. 2020, arXiv:2008.03411, Introduction; intervals, joint scores and the plan are ours.

    Example:
        >>> import prr, torch
        >>> from torch import nn
        >>> _ = torch.manual_seed(0)
        >>> ours = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1))
        >>> images = torch.randn(6, 1, 8, 8)
        >>> verdict = prr.judge(ours, {"ours": ours}, (images, ours(images).argmax(1)), score="accuracy")
        >>> print(verdict)
        The network is reusable, judged with ours: of its 2 live kernels 2 reusable, 0 undecided, 0 not reusable within
        ... of its own score, 1.000. The nearest source, of 1, is ours: mean relative RMSE 0.00, ... The plan: reuse 4.
    """
    sources = source if isinstance(source, dict) else {"source": source}
    _check_case(sources, kinds, share, tolerance, seed)
    data = samples(data)
    score = score_of(score, data)
    drawn = list(sources)[np.random.default_rng(seed).integers(len(sources))]
    options = {"score": score, "batch_size": batch_size}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "[0-9]+ parameters are not comparable")  # the verdict lists them
        swept = sweep(target, sources[drawn], data, kinds=kinds, bfloat16=bfloat16, progress=progress, **options)
        layers = layer_verdicts(swept[_shared_by_all(target, sources, swept)].reset_index(drop=True), tolerance)
        layers = layers.merge(rmse(target, sources[drawn]), how="left")
        kernels = layers[layers["kind"].isin(KERNELS)]
        if kernels.empty:
            raise NetworkError(
                f"{type(target).__name__}: expected live convolutions or linear layers that all sources share, whose "
                "kernels are judged; found none"
            )
        ranked = rank(target, sources, layers).assign(drawn=lambda table: table["source"] == drawn)
    passing = _in_order(layers)
    if len(passing):
        options["before"] = values(target, data, **options)
    together = largest_joint_set(target, sources[ranked["source"].iloc[0]], data, passing, tolerance, options)
    pairs = parameter_table(target, data.images[:1].to(device_of(target))).drop(columns=["shape", "size"])
    rest = pd.concat({name: incomparable(target, each) for name, each in sources.items()}, names=["network"])
    judged = f"tolerance {tolerance:g}, at least {share:.0%} of the kernels, seed {seed}"
    judged += ", swept in bfloat16" if bfloat16 else ""
    return Verdict(
        reusable_network=reusable_network(kernels, share),
        drawn=drawn,
        layers=layers,
        share=shares(kernels),
        sources=ranked,
        joint=together,
        pairs=pairs,
        tolerance=tolerance,
        incomparable=rest.reset_index("network").reset_index(drop=True),
        made=_facts(target, data, score, judged),
    )


def _check_case(sources: dict, kinds: Sequence[str], share: float, tolerance: float, seed: int) -> None:
    """Refuse a case that can't be judged."""
    if not sources or not {*KERNELS} & {*kinds} or not 0 < share <= 1 or not tolerance >= 0 or seed < 0:
        raise OptionError(
            f"sources={list(sources)}, kinds={list(kinds)}, share={share}, tolerance={tolerance}, seed={seed}: "
            "expected at least one source, W or LW among the kinds, a share above 0 up to 1, a tolerance and a seed "
            "from 0"
        )


def _facts(target: nn.Module, data: Data, score: Score, judged: str) -> dict[str, str]:
    """{what: value}, where a verdict comes from."""
    device = device_of(target)
    return {
        "network": type(target).__name__,
        "score": score.name if isinstance(score, Counted) else getattr(score, "__name__", type(score).__name__),
        "data": f"{len(data.images)} images, {len(data.patient.unique())} units",
        "judged by": judged,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else str(device),
        "versions": f"pr-rmse {version('pr-rmse')}, torch {torch.__version__}, Python {platform.python_version()}",
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _shared_by_all(target: nn.Module, sources: dict[str, nn.Module], swept: pd.DataFrame) -> list[bool]:
    """Which rows of a sweep every source could have given."""
    for source in sources.values():
        common(target, source)  # refuses NaN and strangers
    shared = set.intersection(*(set(counterparts(target, source)) for source in sources.values()))
    return [pair in shared for pair in swept[["kind", "name"]].itertuples(index=False, name=None)]


def reusable_network(kernels: pd.DataFrame, share: float = SHARE) -> bool | None:
    """Whether enough of the kernels are reusable; None where the undecided ones would tip the balance.

    Args:
        kernels: DataFrame with a column verdict, a row for each live W.
        share: part of them that has to be reusable.

    Example:
        >>> import pandas as pd
        >>> from prr.verdict import reusable_network
        >>> reusable_network(pd.DataFrame({"verdict": ["reusable", "reusable", "not reusable"]}))
        True
        >>> reusable_network(pd.DataFrame({"verdict": ["reusable", "undecided", "not reusable"]})) is None
        True
    """
    sure, possible = (kernels["verdict"] == REUSABLE).mean(), (kernels["verdict"] != NOT_REUSABLE).mean()
    return True if sure >= share else False if possible < share else None


def rank(target: nn.Module, sources: dict[str, nn.Module], layers: pd.DataFrame) -> pd.DataFrame:
    """Sources by mean relative RMSE over the reusable kernels, see `Verdict.sources`.

    Example:
        >>> import pandas as pd
        >>> from prr.donors import towards, zero
        >>> from prr.verdict import rank
        >>> from torch import nn
        >>> target = nn.Sequential(nn.Linear(3, 2))
        >>> sources = {"far": zero(target), "near": towards(target, zero(target), 0.25)}
        >>> layers = pd.DataFrame({"kind": ["LW"], "name": ["0"], "verdict": ["reusable"]})
        >>> rank(target, sources, layers)[["source", "kernels", "relative", "rank"]].round(3)
          source  kernels  relative  rank
        0   near        1      0.25     1
        1    far        1      1.00     2
    """
    kernels = layers[layers["kind"].isin(KERNELS)]
    reusable = kernels[kernels["verdict"] == REUSABLE]
    names = (kernels if reusable.empty else reusable)["name"]
    rows = []
    for name, source in sources.items():
        table = rmse(target, source)
        part = table[table["kind"].isin(KERNELS) & table["name"].isin(names)]
        rows.append((name, len(part), part["rmse"].mean(), part["relative"].mean()))
    table = pd.DataFrame(rows, columns=["source", "kernels", "rmse", "relative"])
    table = table.sort_values("relative", kind="stable", ignore_index=True)
    return table.assign(rank=table["relative"].rank(method="min").astype("Int64"))


def largest_joint_set(
    target: nn.Module, source: nn.Module, data: Data, reusable: pd.DataFrame, tolerance: float, options: dict
) -> pd.DataFrame:
    """Score all reusable pairs at once; while they fail, seek the largest number that passes. See `Verdict.joint`."""
    rows = []
    ways = (False, True) if any(kind == "RM" for kind, *_ in entries(target)) else (False,)

    def passes(count: int) -> bool:
        for recalibrated in ways:
            result = joint_transplant(target, source, data, reusable.head(count), recalibrated=recalibrated, **options)
            rows.append({"layers": count, "recalibrated": recalibrated, **result})
        return any(row["high"] <= tolerance for row in rows[-len(ways) :])

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
