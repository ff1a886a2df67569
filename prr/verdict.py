"""PR-RMSE as a policy: is the network reusable, which of its layers, from which source, and by what plan?"""

from __future__ import annotations

import json
import platform
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from prr import page
from prr.copies import check_module, computes_weights, effective
from prr.distance import rmse
from prr.errors import NetworkError, OptionError
from prr.graph.outputs import Path
from prr.layers import ALL, KERNELS, KINDS, common, counterparts, device_of, entries, full_name, incomparable
from prr.metrics import Score, drop_interval, nanmean
from prr.question import Question, ask
from prr.reuse import ACTIONS, joint_transplant, sweep, values
from prr.samples import Data

TOLERANCE = 0.05  # drop of the score that counts as unchanged; the default of every function that judges
SHARE = 0.5  # part of the live kernels that has to be reusable for the network to be
REUSABLE, UNDECIDED, NOT_REUSABLE = "reusable", "undecided", "not reusable"
ANSWERS = {True: "is reusable", None: "may or may not be reusable", False: "is not reusable"}  # the best first
POLICIES = ("each", "drawn")
HARDLY = 0.05  # of the nearer source's distance: by less than that it is hardly nearer than the next


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
        reusable_network: True, False, or None where the intervals leave it open, or where the target is too weak.
        drawn: name of the source whose transplants decided, and which `layers` shows.
        plan_from: name of the source that the plan takes from; another one where one source was drawn to answer.
        layers: DataFrame[kind, layer, name, score, drop, low, high, over, verdict, rmse, relative], the sweep, with the
            distance to the source; over: what the interval resamples, and how many of them.
        swept: DataFrame[source, ...], the same for every source that was swept.
        share: DataFrame[kind, tolerance, reusable, undecided, not reusable, layers], of the kernels.
        sources: DataFrame[source, kernels, rmse, relative, rank, reusable, undecided, not reusable, answer, drawn], the
            best answer first, then the nearest. rmse and relative: means over `kernels` kernels, those that are
            reusable with some source that was swept, or all where none is. Counts and answer of what was swept alone;
            drawn: it decided.
        joint: DataFrame[layers, recalibrated, score, drop, low, high, verdict, over]: the first n = `layers` pairs of
            kind and layer, in order of their single `high`, taken from `plan_from` at once, without and with
            recalibration.
        pairs: DataFrame[kind, layer, name, size, live, reached(, shared)], all that can be swapped; the plan has a
            line for each. live: some image runs it; reached: the scored output depends on it.
        tolerance: drop that counts as unchanged.
        score: {name, own, over, chance, perfect, gain, low, high}: how the target itself scores, over how many images
            or units, what the best answer scores that looks at no image, what a perfect one does; gain of the target
            over chance with its 95 % paired t interval over units. None where it is not known.
        incomparable: DataFrame[network, kind, name, target, source], what a source does not share, with both shapes.
        notes: what a reader should know before relying on this.
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
    plan_from: str
    layers: pd.DataFrame
    swept: pd.DataFrame
    share: pd.DataFrame
    sources: pd.DataFrame
    joint: pd.DataFrame
    pairs: pd.DataFrame
    tolerance: float
    score: dict[str, Any]
    incomparable: pd.DataFrame = field(default_factory=pd.DataFrame)
    notes: list[str] = field(default_factory=list)
    made: dict[str, str] = field(default_factory=dict)

    @property
    def too_weak(self) -> bool:
        """Whether the target is not clearly better than an answer that looks at no image."""
        return is_weak(self.score, self.tolerance)

    def plan(self) -> pd.DataFrame:
        """What to do with each parameter, for `prr.apply_plan`.

        Returns:
            DataFrame[kind, layer, name, parameter, action]: `parameter` as in `named_parameters()` or
            `named_buffers()`, for an optimiser's groups. reuse: the pairs that pass together, the largest set of them
            that was tried; recalibrate: all RM and RV, where that set passes with recalibration only; retrain: the
            rest, and what never runs or is not comparable; everything, where no set passes.
        """
        largest = self._largest()
        kept = _in_order(self.layers).head(int(largest["layers"].sum()))
        statistics = self.pairs["kind"].isin(["RM", "RV"])
        taken = pd.MultiIndex.from_frame(self.pairs[["kind", "name"]]).isin(
            pd.MultiIndex.from_frame(kept[["kind", "name"]])
        )
        estimated = statistics & self.pairs["live"] & largest["recalibrated"].any()
        names = [full_name(kind, name) for kind, name in self.pairs[["kind", "name"]].itertuples(index=False)]
        actions = np.select([estimated, taken], ["recalibrate", "reuse"], "retrain")
        return self.pairs[["kind", "layer", "name"]].assign(parameter=names, action=actions)

    def _largest(self) -> pd.DataFrame:
        """The row of `joint` with most pairs of those that pass, as they are rather than recalibrated; or none."""
        passed = self.joint[self.joint["verdict"] == REUSABLE].sort_values(["layers", "recalibrated"])
        return passed[passed["layers"] == passed["layers"].max()].head(1)

    def __str__(self) -> str:
        """The answer in sentences, with the numbers that decided."""
        sentences = self.headline(), self._ranking(), self._together(), self._rest(), *self.notes
        return " ".join(filter(None, sentences))

    __repr__ = __str__

    def _repr_markdown_(self) -> str:
        return str(self)

    def headline(self) -> str:
        """The answer, what it rests on, and what is to be done."""
        return " ".join(filter(None, [self._answer(), self._others(), self._coverage(), self._outcome()]))

    def not_judged(self) -> pd.DataFrame:
        """What the verdict says nothing of.

        Returns:
            DataFrame[kind, layer, name, size, why].
        """
        judged = self.pairs.merge(self.layers[["kind", "name"]], how="left", indicator=True)["_merge"] == "both"
        strange = self.pairs.merge(self.incomparable[["kind", "name"]].drop_duplicates(), how="left", indicator=True)
        why = np.select(
            [strange["_merge"] == "both", ~self.pairs["live"], ~self.pairs["reached"]],
            ["not comparable", "never run", "without effect on the scored output"],
            "of a kind that was not asked for",
        )
        return self.pairs[["kind", "layer", "name", "size"]].assign(why=why)[~judged].reset_index(drop=True)

    def to_html(self, title: str = "Which parameters can be reused?") -> str:
        """The verdict as one self-contained page: no script, no network, light or dark as the reader's system is."""
        plan = self.plan()
        layers = self.layers.merge(plan, how="left").merge(self.pairs, how="left")
        layers["interval"] = page.intervals(layers, self.tolerance)
        shown = ["kind", "layer", "name", "verdict", "interval", "drop", "low", "high", "over", "rmse", "relative"]
        shown = [*shown, "action"]
        layers = layers[shown + (["shared"] if "shared" in layers else [])]
        joint = self.joint.rename(columns={"layers": "pairs"})
        joint["interval"] = page.intervals(joint, self.tolerance)
        sources = self.sources.assign(bar=page.bars(self.sources["relative"]))
        counts = plan.groupby(["kind", "action"], sort=False).size().unstack(fill_value=0).reset_index()
        rest = self.not_judged()
        kinds = ", ".join(f"{kind}: {KINDS[kind].words}" for kind in layers["kind"].unique())
        legend = (
            f"{kinds}. A dot is the drop of the score, its line the 95 % interval over {self.score['over']}. "
            f"The band reaches from 0 to the tolerance, {self.tolerance:g}."
        )
        sections = [
            page.Section("Layer by layer", legend, layers),
            page.Section("How many, at which tolerance", "", self.share),
            page.Section("Sources", self._ranking(), sources),
            page.Section("Taken together", self._together(), joint),
            page.Section("The plan", self._outcome(), counts),
            page.Section("Not judged", "" if len(rest) else "Everything was judged.", rest),
            page.Section("Not comparable", self._rest() or "The networks share every tensor.", self.incomparable),
        ]
        return page.render(title, self.headline(), sections, self.made, self.notes)

    def to_json(self) -> str:
        """The answer, all tables as records, and the plan."""
        tables = {"plan": self.plan(), "not_judged": self.not_judged()}
        tables |= {name: value for name, value in vars(self).items() if isinstance(value, pd.DataFrame)}
        facts = {"answer": str(self)} | {name: value for name, value in vars(self).items() if name not in tables}
        records = {name: json.loads(table.to_json(orient="records")) for name, table in tables.items()}
        return json.dumps(_finite(facts | records), allow_nan=False)

    def _answer(self) -> str:
        score = self.score
        chance = "not known" if score["chance"] is None else f"{score['chance']:.3f}"
        perfect = "not known" if score["perfect"] is None else f"{score['perfect']:g}"
        own = f"Its own score is {score['own']:.3f} ({score['name']}; chance {chance}, perfect {perfect})."
        if self.too_weak:
            return (
                f"No verdict: the target is too weak. {own} It is better than chance by "
                f"{_ranged(score['gain'], score['low'], score['high'], score['over'])}. It has to be by more than the "
                f"tolerance, {self.tolerance:g}. Train it further, or judge it on more data."
            )
        kernels = self.layers[self.layers["kind"].isin(KERNELS)]["verdict"].value_counts()
        counts = ", ".join(f"{kernels.get(each, 0)} {each}" for each in (REUSABLE, UNDECIDED, NOT_REUSABLE))
        return (
            f"The network {ANSWERS[self.reusable_network]} with {self.drawn}. "
            f"Of its {kernels.sum()} live kernels: {counts}, within a drop of {self.tolerance:g}. {own}"
        )

    def _others(self) -> str:
        """What the other sources say: how many of them the same, or that nobody knows."""
        answers, count = self.sources["answer"].dropna(), len(self.sources)
        if self.too_weak or count == 1:
            return ""
        if len(answers) == 1:
            return f"{self.drawn} was drawn from {count} sources; no other was tried, and each may answer otherwise."
        return f"This answer comes out with {(answers == ANSWERS[self.reusable_network]).sum()} of {count} sources."

    def _coverage(self) -> str:
        rest = self.not_judged()
        share = 1 - rest["size"].sum() / self.pairs["size"].sum()
        parts = [f"{size} {why}" for why, size in rest.groupby("why", sort=False)["size"].sum().items()]
        return f"Judged are {share:.1%} of its numbers." + (f" Left out: {', '.join(parts)}." if parts else "")

    def _ranking(self) -> str:
        """Which source is the nearest, beside the next, and over which kernels that was measured."""
        order = self.sources.sort_values("rank", kind="stable")
        (first, near), *rest = order[["source", "relative"]].itertuples(index=False, name=None)
        told = f"{first} is {near:.3f} away."
        if rest:
            second, far = rest[0]
            told = f"The nearest of {len(order)} sources is {first}: {near:.3f}. The next is {second}: {far:.3f}."
            if far - near <= HARDLY * near:
                told = f"Of {len(order)} sources {first} is hardly nearer than {second}: {near:.3f} against {far:.3f}."
        count, kernels = order["kernels"].iloc[0], self.swept[self.swept["kind"].isin(KERNELS)]
        counted = f"over all {count} kernels, for none is reusable"
        if (kernels["verdict"] == REUSABLE).any():
            some = " with some source" if self.swept["source"].nunique() > 1 else ""
            counted = f"over the {count} {'kernel that is' if count == 1 else 'kernels that are'} reusable{some}"
        return f"{told} Distance is the mean relative RMSE {counted}."

    def _together(self) -> str:
        """Whether what passes alone passes together, and else what does."""
        if self.too_weak or self.joint.empty:
            return "" if self.too_weak else "No pair passes alone, so none is taken together."
        most, largest = self.joint[self.joint["layers"] == self.joint["layers"].max()], self._largest()
        these = f"All {most['layers'].iloc[0]} pairs that pass alone, taken from {self.plan_from} together,"
        told = []
        for row in most.itertuples():
            told.append(
                f"{'After recalibration they' if row.recalibrated else these} are {row.verdict}: {self._drop(row)}."
            )
            if row.verdict == REUSABLE:
                return " ".join(told)
        for row in largest.itertuples():
            how = "after recalibration" if row.recalibrated else "as they are"
            told.append(f"The most that pass together are {row.layers} pairs, {how}: {self._drop(row)}.")
        return " ".join(told) if len(largest) else " ".join([*told, "No smaller set that was tried passes either."])

    def _drop(self, row: Any) -> str:
        return f"drop {_ranged(row.drop, row.low, row.high, self.score['over'])}"

    def _outcome(self) -> str:
        actions = self.plan()["action"].value_counts()
        taken = f"from {self.plan_from}" if "reuse" in actions else "nothing"
        counts = ", ".join(f"{action} {actions[action]}" for action in ACTIONS if action in actions)
        return f"The plan takes {taken}: {counts}."

    def _rest(self) -> str:
        count = len(self.incomparable.drop_duplicates(["kind", "name"])) if len(self.incomparable) else 0
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
    policy: str = "each",
    output: str | int | Path | None = None,
    ignore_index: int | None = None,
    threshold: float | None = None,
    chance: float | None = None,
) -> Verdict:
    """Judge by PR-RMSE what of a source network can be used in a target network.

    Every source is swept, and its transplants decide whether the network and which of its layers are reusable with it.
    RMSE over the reusable kernels ranks the sources; the plan takes from the nearest of those with the best answer.
    What passes alone is taken from it together; where that fails, the largest set that passes is sought by bisection,
    in order of the single intervals. Layers are chosen and scored on the same data, so the joint score of a reduced
    set is somewhat optimistic. The paper's own policy is to draw one source, whose transplants decide for all.

    There is no verdict, and a plan to retrain everything, where the target's own score is not clear of what the best
    answer gets that looks at no image: nothing that is put into such a network can make it worse.

    Args:
        target: network that is judged, trained on a small labelled set perhaps; not changed.
        source: a network, or several, {name: network}. Judged is what all of them share with the target.
        data: exactly the data that is scored, a small set perhaps: intervals widen with fewer patients. Tensors, a
            Dataset or a DataLoader, see `prr.samples.samples`.
        tolerance: drop of the score that counts as unchanged.
        share: part of the live kernels (`prr.layers.KERNELS`) that must be reusable for the network to be.
        kinds: of parameters to judge; some kernels have to be among them.
        score: dice, accuracy, r2 or (output, data) -> one value per patient (or other unit). None: the one that suits
            the targets, mean foreground Dice for label maps; see `prr.question.ask`, for output, ignore_index and
            threshold too.
        batch_size: images per forward pass.
        bfloat16: sweep in half precision, see `prr.sweep`. What is taken together is scored in 32 bits all the same, as
            is the target that it is compared with: these scores decide the plan, and are few.
        seed: of the draw among the sources.
        progress: show a bar on stderr.
        policy: each, or drawn: the paper's.
        chance: what an answer scores that looks at no image, for a score of your own; None: not known there, and
            otherwise the best of the answers that are always the same.

    Raises:
        OptionError: no source, an unknown policy, no kernel among the kinds, or a share or tolerance out of range.
        NetworkError: no live kernel in common, a score that bfloat16 moves, or as `sweep`.
        DataError: as `sweep`.

    Source: Wang et al. 2020, arXiv:2008.03411, Introduction; intervals, joint scores and the plan are ours.

    Example:
        >>> import prr, torch
        >>> from torch import nn
        >>> _ = torch.manual_seed(0)
        >>> ours = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1))
        >>> images = torch.randn(6, 1, 8, 8)
        >>> labels = (ours(images).diff(dim=1)[:, 0] > ours(images).diff(dim=1).median()).long()
        >>> _ = ours[2].bias.data.sub_(torch.stack([torch.zeros(()), ours(images).diff(dim=1).median()]))
        >>> print(prr.judge(ours, {"ours": ours}, (images, labels), score="accuracy").headline())
        The network is reusable with ours. Of its 2 live kernels: 2 reusable, 0 undecided, 0 not reusable, within a drop
        of 0.05. Its own score is 1.000 (accuracy; chance 0.50..., perfect 1). Judged are 100.0% of its numbers. The
        plan takes from ours: reuse 4.
    """
    sources = source if isinstance(source, dict) else {"source": source}
    _check_case(target, sources, kinds, share, tolerance, seed, policy)
    computed = any(computes_weights(each) for each in (target, *sources.values()))
    target, sources = effective(target), {name: effective(each) for name, each in sources.items()}
    asked = {"output": output, "ignore_index": ignore_index, "threshold": threshold}
    question = ask(target, data, score, **asked, batch_size=batch_size)
    before = values(target, question, batch_size=batch_size)
    standing = stands(before, question, chance)
    named = list(sources) if policy == "each" else [list(sources)[np.random.default_rng(seed).integers(len(sources))]]
    options = {"kinds": kinds, "batch_size": batch_size, "bfloat16": bfloat16, "progress": progress}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "[0-9]+ parameters ")  # the verdict lists what is left out
        swept = _swept(target, sources, named, question, options)
        swept = {name: _judged(table, tolerance, standing) for name, table in swept.items()}
        every = pd.concat(swept, names=["source"]).reset_index("source").reset_index(drop=True)
        ranked = _answers(rank(target, sources, every), swept, share)
    plan_from = ranked["source"].iloc[0]
    drawn = plan_from if policy == "each" else named[0]
    ranked["drawn"] = ranked["source"] == drawn
    layers = swept[drawn]
    kernels = layers[layers["kind"].isin(KERNELS)]
    options = {"batch_size": batch_size, "before": before}
    together = largest_joint_set(target, sources[plan_from], question, _in_order(layers), tolerance, options)
    together["over"] = standing["over"]
    rest = pd.concat({name: incomparable(target, each) for name, each in sources.items()}, names=["network"])
    ways = [f"source drawn by seed {seed}"] * (policy == "drawn") + ["swept in bfloat16"] * bfloat16
    return Verdict(
        reusable_network=reusable_network(kernels, share),
        drawn=drawn,
        plan_from=plan_from,
        layers=layers,
        swept=every,
        share=shares(kernels),
        sources=ranked,
        joint=together,
        pairs=question.table.drop(columns="shape"),
        tolerance=tolerance,
        score=standing,
        incomparable=rest.reset_index("network").reset_index(drop=True),
        notes=_notes(question, standing, computed),
        made=_facts(target, question, [f"tolerance {tolerance:g}, at least {share:.0%} of the kernels", *ways]),
    )


def _swept(
    target: nn.Module, sources: dict[str, nn.Module], named: Sequence[str], question: Question, options: dict[str, Any]
) -> dict[str, pd.DataFrame]:  # fmt: skip
    """Sweeps of some of the sources, over what all of them share, with distances."""
    found = {}
    for name in named:
        table = sweep(target, sources[name], question, **options)
        table = table[_shared_by_all(target, sources, table)].reset_index(drop=True)
        if table.empty:
            continue
        found[name] = table.merge(rmse(target, sources[name]), how="left")
    if not any(table["kind"].isin(KERNELS).any() for table in found.values()):
        raise NetworkError(
            f"{type(target).__name__}: expected live kernels ({', '.join(KERNELS)}) that all sources share, by which "
            "networks are judged; found none"
        )
    return found


def _judged(swept: pd.DataFrame, tolerance: float, standing: dict[str, Any]) -> pd.DataFrame:
    """The sweep with verdicts, all open where the target is too weak."""
    table = layer_verdicts(swept, tolerance)
    table.insert(list(swept).index("high") + 1, "over", standing["over"])
    table.insert(list(swept).index("high") + 2, "verdict", table.pop("verdict"))
    return table.assign(verdict=UNDECIDED) if is_weak(standing, tolerance) else table


def _check_case(
    target: nn.Module, sources: dict, kinds: Sequence[str], share: float, tolerance: float, seed: int, policy: str
) -> None:
    """Refuse a case that can't be judged."""
    for each in (target, *sources.values()):
        check_module(each)
    if strange := [name for name in sources if not isinstance(name, str)]:
        raise OptionError(f"sources {strange}: expected names as text")
    if policy not in POLICIES:
        raise OptionError(f"policy={policy!r}: expected one of {', '.join(POLICIES)}")
    if not sources or not {*KERNELS} & {*kinds} or not 0 < share <= 1 or not tolerance >= 0 or seed < 0:
        raise OptionError(
            f"sources={list(sources)}, kinds={list(kinds)}, share={share}, tolerance={tolerance}, seed={seed}: "
            f"expected at least one source, some of {', '.join(KERNELS)} among the kinds, a share above 0 up to 1, a "
            "tolerance and a seed from 0"
        )


def stands(before: np.ndarray, question: Question, chance: float | None = None) -> dict[str, Any]:
    """How a target scores beside an answer that looks at no image, see `Verdict.score`.

    Args:
        before: (patients,) scores of the target.
        question: that it was asked.
        chance: what such an answer scores, where the score is a reader's own.

    Example:
        >>> import torch
        >>> from prr.question import ask
        >>> from prr.reuse import values
        >>> from prr.verdict import is_weak, stands
        >>> model = torch.nn.Linear(1, 1)
        >>> _ = model.weight.data.fill_(1), model.bias.data.fill_(0)
        >>> question = ask(model, (torch.tensor([[-1.0], [-2.0], [1.0], [2.0]]), torch.tensor([0, 1, 1, 0])))
        >>> score = stands(values(model, question), question)
        >>> score["own"], score["chance"], is_weak(score, 0.05)
        (0.5, 0.5, True)
    """
    constants = question.constants()
    best = None if constants is None else constants[nanmean(constants).argmax()]
    best = best if chance is None else np.full_like(before, chance)
    units = len(question.data.patient.unique())
    over = f"{units} {'images' if units == len(question.data.images) else 'units'}"
    found = {"name": question.named, "own": float(nanmean(before)), "over": over}
    found["perfect"] = None if constants is None else 1.0
    if best is None:
        return found | dict.fromkeys(("chance", "gain", "low", "high"))
    low, high = (float(each[0]) for each in drop_interval(before, best[None]))
    average = float(nanmean(best))
    return found | {"chance": average, "gain": found["own"] - average, "low": low, "high": high}


def is_weak(score: dict[str, Any], tolerance: float) -> bool:
    """Whether a target's gain over chance is not clear of the tolerance; one of unknown chance is taken as it is."""
    return score["chance"] is not None and not score["low"] > tolerance


def _answers(ranked: pd.DataFrame, swept: dict[str, pd.DataFrame], share: float) -> pd.DataFrame:
    """Sources with what each was judged, the best answer first, then the nearest."""
    rows = []
    for name, layers in swept.items():
        kernels = layers[layers["kind"].isin(KERNELS)]
        counts = kernels["verdict"].value_counts().reindex([REUSABLE, UNDECIDED, NOT_REUSABLE], fill_value=0)
        rows.append({"source": name, **counts, "answer": ANSWERS[reusable_network(kernels, share)]})
    table = ranked.merge(pd.DataFrame(rows), how="left")
    if len(rows) < len(ranked):  # one was drawn to answer for all: the nearest gives
        return table
    order = list(ANSWERS.values()).index
    return table.sort_values("answer", key=lambda answers: answers.map(order), kind="stable", ignore_index=True)


def _notes(question: Question, score: dict[str, Any], computed: bool) -> list[str]:
    """What a reader should know before relying on a verdict."""
    unreached = question.table[question.table["live"] & ~question.table["reached"]]
    names = [full_name(*pair) for pair in unreached[["kind", "name"]].head(3).itertuples(index=False)]
    notes = {
        "Chance is not known for a score of your own, so a target that has learnt nothing would pass: say chance=...": (
            score["chance"] is None
        ),
        f"{len(unreached)} parameters run without effect on the scored output and are not judged: "
        f"{', '.join(names)}{'' if len(unreached) < 4 else ', ...'}.": len(unreached) > 0,
        "A pass writes into the network; every pass began with it as it was given.": question.keeps_state,
        "Weights that are computed from others (weight norm and its like) were judged as they act. A network that the "
        "plan is applied to holds them so, without the constraint.": computed,
    }
    return [note for note, applies in notes.items() if applies]


def _facts(target: nn.Module, question: Question, judged: Sequence[str]) -> dict[str, str]:
    """{what: value}, where a verdict comes from."""
    device = device_of(target)
    return {
        "network": type(target).__name__,
        "score": question.named,
        "data": f"{len(question.data.images)} images, {len(question.data.patient.unique())} units",
        "judged by": ", ".join(judged),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else str(device),
        "versions": f"pr-rmse {version('pr-rmse')}, torch {torch.__version__}, Python {platform.python_version()}",
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _shared_by_all(target: nn.Module, sources: dict[str, nn.Module], swept: pd.DataFrame) -> list[bool]:
    """Which rows of a sweep every source could have given."""
    for name, source in sources.items():
        try:
            common(target, source)  # refuses NaN and strangers
        except NetworkError as error:
            raise NetworkError(f"source {name}: {error}") from error
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
    """Sources by mean relative RMSE over the reusable kernels, or over all where none is, see `Verdict.sources`.

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
    target: nn.Module, source: nn.Module, data: Question, reusable: pd.DataFrame, tolerance: float, options: dict
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


def _finite(value: Any) -> Any:
    """What JSON can hold: None for NaN and infinity, numbers of Python for numpy's."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _ranged(value: float, low: float, high: float, over: str) -> str:
    """A number with its interval and what that resamples; alone where there is none."""
    return f"{value:z.3f}" + ("" if np.isnan(low) else f" [{low:z.3f}, {high:z.3f}] over {over}")


def _in_order(layers: pd.DataFrame) -> pd.DataFrame:
    """The reusable pairs, the surest first."""
    return layers[layers["verdict"] == REUSABLE].sort_values("high", kind="stable")
