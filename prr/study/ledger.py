"""The ledger: every claim of the paper, broken into leaves that are tested alone on this run's results.

What is claimed stands in data/paper/claims.csv, what a test tolerates in data/paper/tolerances.csv; here stands how
each claim is tested. A leaf is one layer that the paper lists, one ordering that it states, one number that it prints.

The rules of leaves:

- a layer is judged by the 95 % interval of its drop, `prr.verdict.layer_verdicts`;
- an ordering, a trend or a share holds where its 95 % interval keeps clear of the bound, fails where it lies beyond it,
  else it is undecided. Intervals are over seeds (t) where results have seeds, over layers (bootstrap) where a mean or a
  correlation is over layers, Wilson's for a share of layers. Layers are no independent sample: such an interval
  describes these networks and promises no more;
- a number that the paper prints is reproduced where our interval lies within its tolerance, not where it lies outside;
- algebra and counts need no interval.

The rule of claims: not reproduced if one leaf is not, undecided if one leaf is, else reproduced; leaves that could not
be attempted are counted and left out; a claim without any other is not attempted. A claim that is decided where one of
its data sets is a phantom is an "analogue only": what it would be stands beside it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from prr.errors import MissingError
from prr.figures import Words
from prr.study import claims, paper, sources, transfer
from prr.study.claims import NO, UNSURE, YES
from prr.study.results import DOSES, Results
from prr.verdict import NOT_REUSABLE, REUSABLE, layer_verdicts, reusable_network

ANALOGUE, ABSENT = "analogue only", "not attempted"
NETWORKS = {"unet": "UNet", "pspnet": "PSPNet"}
TOLERANCE = paper.tolerances()


class Leaf(NamedTuple):
    """One test: what was found, with its interval, against a bound or the paper's value."""

    leaf: str
    here: float
    low: float
    high: float
    verdict: str
    paper: float = np.nan


TESTS: dict[str, Callable] = {}


def test_of(claim: str) -> Callable:
    """Register the test of a claim: a function of the results that gives its leaves."""
    return lambda function: TESTS.setdefault(claim, function)


# ------------------------------------------------------------------------ rules


def layers(swept: pd.DataFrame, kind: str, excepted: Collection[int] | None = (), who: str = "") -> list[Leaf]:
    """A leaf per layer: reusable, or not where it is excepted (None: all are)."""
    judged = layer_verdicts(swept[swept["kind"] == kind], TOLERANCE["drop"])
    return [_layer(row, excepted is None or row.layer in excepted, who) for row in judged.itertuples()]


def _layer(row, excepted: bool, who: str = "") -> Leaf:
    meant, opposite = (NOT_REUSABLE, REUSABLE) if excepted else (REUSABLE, NOT_REUSABLE)
    verdict = {meant: YES, opposite: NO}.get(row.verdict, UNSURE)
    return Leaf(f"{who}{row.kind} {row.layer} {meant}", row.drop, row.low, row.high, verdict)


def above(leaf: str, here: float, low: float, high: float, bound: float = 0.0) -> Leaf:
    """It lies above the bound."""
    return Leaf(leaf, here, low, high, YES if low > bound else NO if high < bound else UNSURE)


def below(leaf: str, here: float, low: float, high: float, bound: float = 0.0) -> Leaf:
    """It lies below the bound."""
    return Leaf(leaf, here, low, high, YES if high < bound else NO if low > bound else UNSURE)


def most(leaf: str, holds: pd.Series) -> Leaf:
    """It holds in most layers."""
    interval = stats.binomtest(int(holds.sum()), len(holds)).proportion_ci(method="wilson")
    return above(leaf, holds.mean(), interval.low, interval.high, TOLERANCE["most"])


def over_seeds(values: Sequence[float], comparisons: int = 1) -> tuple[float, float, float]:
    """Mean and 95 % t interval, Bonferroni's for several comparisons; NaN bounds with one seed."""
    values = np.asarray(values, float)
    half = stats.t.ppf(1 - 0.025 / comparisons, len(values) - 1) * stats.sem(values) if len(values) > 1 else np.nan
    return values.mean(), values.mean() - half, values.mean() + half


def means(leaf: str, more: pd.Series, less: pd.Series, paired: bool = False) -> Leaf:
    """The first mean over layers is larger than the second."""
    return above(leaf, more.mean() - less.mean(), *claims.mean_gap(more, less, paired))


def falling(leaf: str, layer: pd.Series, value: pd.Series) -> Leaf:
    """The value falls with depth."""
    low, rho, high = claims.correlation(pd.DataFrame({"layer": layer, "drop": value}))
    return below(leaf, rho, low, high)


def number(leaf: str, printed: float, here: float, low: float, high: float) -> Leaf:
    """The paper's number, within the tolerance of a cell."""
    near, far = printed - TOLERANCE["cell"], printed + TOLERANCE["cell"]
    verdict = YES if near <= low and high <= far else NO if high < near or low > far else UNSURE
    return Leaf(leaf, here, low, high, verdict, printed)


def exact(leaf: str, here: float, holds: bool, printed: float = np.nan) -> Leaf:
    """Algebra or a count: here it is, or it is not."""
    return Leaf(leaf, here, here, here, YES if holds else NO, printed)


def open_(leaf: str, here: float, verdict: str) -> Leaf:
    """A verdict that no interval of one number gives; the rule stands in the claim's test."""
    return Leaf(leaf, here, np.nan, np.nan, verdict)


# ------------------------------------------------------- reuse layer by layer


@test_of("unet-w")
def _(results: Results) -> list[Leaf]:
    return layers(results.sweep("unet"), "W", None)


@test_of("unet-b")
def _(results: Results) -> list[Leaf]:
    return layers(results.sweep("unet"), "B", (1,))


@test_of("unet-rw-rb")
def _(results: Results) -> list[Leaf]:
    return [leaf for kind in ("RW", "RB") for leaf in layers(results.sweep("unet"), kind)]


@test_of("unet-rm-depth")
def _(results: Results) -> list[Leaf]:
    part = results.sweep("unet").query("kind == 'RM'")
    return [falling("rank correlation of the drop with depth", part["layer"], part["drop"])]


@test_of("unet-rv-pattern")
def _(results: Results) -> list[Leaf]:
    part = results.sweep("unet").query("kind == 'RV'")
    low, rho, high = claims.correlation(part)
    verdict = UNSURE if low <= 0 <= high else NO
    return [Leaf("rank correlation of the drop with depth", rho, low, high, verdict)]


@test_of("unet-w-b")
def _(results: Results) -> list[Leaf]:
    drop = _drops(results.sweep("unet"))
    return [means("mean drop of W over that of B", drop["W"], drop["B"], paired=True)]


@test_of("slight-change")
def _(results: Results) -> list[Leaf]:
    found = []
    for dose in DOSES:
        judged = layer_verdicts(results.dose("unet", dose), TOLERANCE["drop"])
        what = "noise of the source's RMSE" if dose == "noise" else f"{dose:g} of the way to the source"
        found.append(most(f"{what}: not reusable in most layers", judged["verdict"] == NOT_REUSABLE))
    return found


@test_of("pspnet-rm")
def _(results: Results) -> list[Leaf]:
    return layers(results.sweep("pspnet"), "RM", _listed("RM"))


@test_of("pspnet-rv-rw-rb")
def _(results: Results) -> list[Leaf]:
    return [leaf for kind in ("RV", "RW", "RB") for leaf in layers(results.sweep("pspnet"), kind)]


@test_of("pspnet-w")
def _(results: Results) -> list[Leaf]:
    return layers(_encoder(results.sweep("pspnet")), "W", _listed("W"))


@test_of("pspnet-w-pattern")
def _(results: Results) -> list[Leaf]:
    kernels = layer_verdicts(_encoder(results.sweep("pspnet")), TOLERANCE["drop"]).query("kind == 'W' and layer > 1")
    failed = kernels[kernels["verdict"] == NOT_REUSABLE]
    if failed.empty:
        return [open_("no other layer fails", 0, UNSURE)]
    return [most("of those that fail, most fit", failed["name"].str.fullmatch(r"encoder\.layer[234]\.0\.conv[12]"))]


@test_of("pspnet-b")
def _(results: Results) -> list[Leaf]:
    return layers(results.sweep("pspnet"), "B")


@test_of("first-layer")
def _(results: Results) -> list[Leaf]:
    found = []
    for network, title in NETWORKS.items():
        found += layers(results.sweep(network).query("layer == 1"), "W", None, f"{title}: ")
        for normalisation in ("zscore", "unit"):
            part = results.first_layer(network, normalisation)
            found += layers(part, "RM", None, f"{title}, input {normalisation}: ")
    return found


@test_of("hurts-unet-more")
def _(results: Results) -> list[Leaf]:
    unet, pspnet = results.sweep("unet"), results.sweep("pspnet")
    found = [means("mean drop, all kinds", unet["drop"], pspnet["drop"])]
    first, second = _drops(unet), _drops(pspnet)
    return [*found, means("mean drop, kernels", first["W"], second["W"])]


@test_of("rm-rv-matter")
def _(results: Results) -> list[Leaf]:
    return [
        means(f"{title}: mean drop of {strong} over that of {weak}", drop[strong], drop[weak], paired=True)
        for network, title in NETWORKS.items()
        for drop in [_drops(results.sweep(network))]
        for strong, weak in itertools.product(("RM", "RV"), ("RW", "RB"))
    ]


@test_of("assumed-shift")
def _(results: Results) -> list[Leaf]:
    shifts = ((title, results.shift(network)) for network, title in NETWORKS.items())
    return [most(f"{title}: MRM above MRB in most layers", table["MRM"] > table["MRB"]) for title, table in shifts]


@test_of("assumed-scale")
def _(results: Results) -> list[Leaf]:
    shifts = ((title, results.shift(network)) for network, title in NETWORKS.items())
    return [
        most(f"{title}: |log MRV| above |log MRW| in most layers", table["MRV_log"] > table["MRW_log"])
        for title, table in shifts
    ]


@test_of("sensitivity-depth")
def _(results: Results) -> list[Leaf]:
    sweep, shift = results.sweep("unet"), results.shift("unet")
    found = []
    for kind in ("RM", "RB"):
        table = sweep[sweep["kind"] == kind].merge(shift, on=["layer", "name"])
        sensitivity = table["drop"] / table[f"M{kind}"].replace(0, np.nan)
        known = sensitivity.notna()
        found.append(falling(f"drop of {kind} per M{kind} over depth", table["layer"][known], sensitivity[known]))
    return found


@test_of("same-order")
def _(results: Results) -> list[Leaf]:
    logs = [
        _by_layer(table.query("kind == 'W' and first == @sources.TARGET and second == 'ACDC auto'"))["rmse"]
        for table in (results.pairs("unet"), results.pairs("pspnet"))
    ]
    low, high = claims.mean_gap(*logs)
    bound = np.log10(TOLERANCE["order"])
    verdict = YES if -bound < low and high < bound else NO if high < -bound or low > bound else UNSURE
    return [Leaf("log10 of UNet's over PSPNet's kernel RMSE", logs[0].mean() - logs[1].mean(), low, high, verdict)]


@test_of("networks")
def _(results: Results) -> list[Leaf]:
    return [_network(results.sweep(network), title, meant) for network, title, meant in
            (("pspnet", "PSPNet", True), ("unet", "UNet", False))]  # fmt: skip


def _network(swept: pd.DataFrame, title: str, meant: bool) -> Leaf:
    """At least half of the live kernels are reusable, or fewer; bounds: without and with the undecided ones."""
    verdicts = layer_verdicts(swept[swept["kind"] == "W"], TOLERANCE["drop"])
    answer = reusable_network(verdicts, TOLERANCE["most"])
    low = (verdicts["verdict"] == REUSABLE).mean()
    high = 1 - (verdicts["verdict"] == NOT_REUSABLE).mean()
    leaf = f"{title} is {'' if meant else 'not '}reusable: share of its kernels"
    return Leaf(leaf, low, low, high, UNSURE if answer is None else YES if answer is meant else NO)


@test_of("identity-dominates")
def _(results: Results) -> list[Leaf]:
    return [most("norm of the branch below that of what is carried, in most units", results.branches()["ratio"] < 1)]


@test_of("errors-accumulate")
def _(results: Results) -> list[Leaf]:
    found = []
    for network, title in NETWORKS.items():
        verdict = results.verdict(network)
        alone = verdict.layers[verdict.layers["verdict"] == REUSABLE]
        if len(alone) > 1:
            joint, worst = verdict.joint.iloc[0], alone.loc[alone["drop"].idxmax()]
            leaf = f"{title}: drop of all {joint['layers']} together over the largest alone"
            bounds = joint["low"] - worst["high"], joint["high"] - worst["low"]
            found.append(above(leaf, joint["drop"] - worst["drop"], *bounds))
    return found


@test_of("shift-scale")
def _(results: Results) -> list[Leaf]:
    return [
        exact(f"{row.kind} changes the {row.changes} alone", row.residual, row.residual < TOLERANCE["algebra"])
        for row in results.algebra().itertuples()
    ]


# ------------------------------------------------------------- between sources


@test_of("similar-kernels")
def _(results: Results) -> list[Leaf]:
    found = []
    for network, title in NETWORKS.items():
        table = results.pairs(network).query("kind == 'W' and first == @sources.TARGET and apart > 0")
        for source in ("ACDC auto", "T1 seg", "T1 auto"):
            part = _by_layer(table[table["second"] == source])
            if len(part):
                near = part["rmse"] - part["null"] < np.log10(TOLERANCE["nearness"])
                found.append(most(f"{title}, {source}: nearer than unrelated kernels in most layers", near))
    return found


@test_of("groups-unet")
def _(results: Results) -> list[Leaf]:
    pairs = results.pairs("unet")
    split = sources.members(pairs, "unet", 2)
    t1 = (split["first"] == "T1 seg") | (split["second"] == "T1 seg")
    apart = (split["group"] == 2).equals(t1)
    groups = _groups(pairs, "unet", 2)
    verdict = UNSURE if groups.verdict == UNSURE else YES if apart else NO
    return [groups, open_("those of T1 segmentation are the second group", t1.sum(), verdict)]


@test_of("groups-pspnet")
def _(results: Results) -> list[Leaf]:
    return [_groups(results.pairs("pspnet"), "pspnet", 3)]


def _groups(pairs: pd.DataFrame, network: str, count: int) -> Leaf:
    """The number of groups with the largest silhouette, where one cloud would hardly give so large a one."""
    best = sources.groups(pairs, network).nlargest(1, "silhouette").iloc[0]
    clear = best["silhouette"] > np.quantile(sources.groupless(pairs, network), 0.95)
    verdict = UNSURE if not clear else YES if best["groups"] == count else NO
    return open_(f"{count} groups", best["groups"], verdict)._replace(paper=count)


def _statement(letter: str) -> Callable:
    def leaves(results: Results) -> Iterator[Leaf]:
        for network, title in NETWORKS.items():
            table = sources.ranges(sources.relations(results.pairs(network)))
            row = table[table["relation"].str.startswith(letter)].iloc[0]
            verdict = {0: NO, 1: UNSURE, 2: YES}[len(row["overlaps"])]
            yield Leaf(f"{title}: RMSE meets those of the others", len(row["overlaps"]), row["low"], row["high"],
                       verdict)  # fmt: skip

    return leaves


for _letter in "abc":
    TESTS[f"statement-{_letter}"] = _statement(_letter.upper())


@test_of("rmse-likeness")
def _(results: Results) -> list[Leaf]:
    found = []
    for network, title in NETWORKS.items():
        table = sources.ranking(results.pairs(network)).pivot(index="seed", columns="source", values="relative")
        alike = table[["ACDC auto", "T1 seg", "RVSC seg"]].mean(axis=1)
        unlike = table[["T1 auto", "RVSC auto"]].mean(axis=1)
        leaf = f"{title}: sources that share data or task are not nearer"
        found.append(below(leaf, *over_seeds(unlike - alike)))
    return found


@test_of("rmse-orders")
def _(results: Results) -> list[Leaf]:
    found = []
    for network, title in NETWORKS.items():
        logs = (
            sources.relations(results.pairs(network)).groupby("seed")["rmse"].agg(lambda rmse: rmse.max() / rmse.min())
        )
        leaf = f"{title}: log10 of the largest over the smallest RMSE of a pair"
        found.append(above(leaf, *over_seeds(np.log10(logs)), np.log10(TOLERANCE["order"])))
    return found


@test_of("t1-auto-nearest")
def _(results: Results) -> list[Leaf]:
    return list(_extreme(results, "T1 auto", 1))


@test_of("t1-seg-farthest")
def _(results: Results) -> list[Leaf]:
    return list(_extreme(results, "T1 seg", -1))


def _extreme(results: Results, source: str, sign: int) -> Iterator[Leaf]:
    """Relative RMSE of every other source minus this one's, by seed; sign 1: this one is the smallest."""
    for network, title in NETWORKS.items():
        table = sources.ranking(results.pairs(network)).pivot(index="seed", columns="source", values="relative")
        for other in table.columns.drop(source):
            words = f"{title}: {source} is {'nearer' if sign > 0 else 'farther'} than {other}"
            yield above(words, *over_seeds(sign * (table[other] - table[source])))


@test_of("drawn-source")
def _(results: Results) -> list[Leaf]:
    found = []
    for network, title in NETWORKS.items():
        answers = {}
        for source in list(sources.SIX)[1:]:
            kernels = layer_verdicts(results.by_source(network, source), TOLERANCE["drop"])
            answers[source] = reusable_network(kernels, TOLERANCE["most"]), (kernels["verdict"] == REUSABLE).mean()
        first = answers["ACDC auto"][0]
        for source, (answer, share) in list(answers.items())[1:]:
            verdict = UNSURE if None in (answer, first) else YES if answer is first else NO
            found.append(open_(f"{title}: {source} gives the answer of ACDC auto; its share", share, verdict))
    return found


@test_of("part-of-data")
def _(results: Results) -> list[Leaf]:
    found = []
    for network, title in NETWORKS.items():
        whole = sources.ranking(results.pairs(network)).groupby("source")["relative"].mean()
        few = results.few(network).pivot(index="seed", columns="source", values="relative")
        nearest = whole.idxmin()
        margin = few.drop(columns=nearest).min(axis=1) - few[nearest]
        found.append(above(f"{title}: {nearest} is the nearest with few patients too; its lead", *over_seeds(margin)))
    return found


# --------------------------------------------------------------------- transfer


@test_of("reused-share")
def _(results: Results) -> list[Leaf]:
    row = paper.reused_share(results.table()).iloc[0]
    return [exact("share of pairs of kind and layer", row["share"], round(row["share"], 2) == 0.92, 0.92)]


@test_of("can-hurt")
def _(results: Results) -> list[Leaf]:
    """One row that certainly hurts is enough, none that could is needed to refute; intervals for all rows at once."""
    found = list(_orders(results, (1,), (2, 3, 6, 7), comparisons=8))
    verdicts = [leaf.verdict for leaf in found]
    verdict = YES if YES in verdicts else NO if set(verdicts) == {NO} else UNSURE
    return [found[verdicts.index(verdict)]]


@test_of("small-rmse-better")
def _(results: Results) -> list[Leaf]:
    return [leaf for leaf in _orders(results, (4, 5), (1, 2, 3, 6, 7))]


@test_of("gain-with-few")
def _(results: Results) -> list[Leaf]:
    wide = _by_seed(results)
    few, every = sorted(wide.columns.unique("patients"))
    gains = {row: [wide[size, row] - wide[size, 1] for size in (few, every)] for row in (4, 5)}
    return [above(f"gain of row {row}: {few} over {every} patients", *over_seeds(few_gain - gain))
            for row, (few_gain, gain) in gains.items()]  # fmt: skip


@test_of("table")
def _(results: Results) -> list[Leaf]:
    cells = transfer.beside(transfer.summary(_paper_runs(results))).dropna(subset="paper")
    printed = paper.transfer()
    odd = printed[(printed["mean"] - printed["recomputed"]).abs() > TOLERANCE["cell"]]
    doubtful = {(row.patients, row.row, "mean") for row in odd.itertuples()}
    found = []
    for row in cells.rename(columns={"class": "cell"}).itertuples():
        leaf = f"{row.paper_patients} samples, row {row.row}, {row.cell}"
        if (row.paper_patients, row.row, row.cell) in doubtful:
            odd_one = open_(f"{leaf}: does not follow from its own classes", row.dice, ABSENT)
            found.append(odd_one._replace(paper=row.paper))
        else:
            found.append(number(leaf, row.paper, row.dice, row.low, row.high))
    return found


@test_of("results-vary")
def _(results: Results) -> list[Leaf]:
    spread = _by_seed(results).agg(lambda dice: dice.max() - dice.min())
    widest = spread.idxmax()
    leaf = f"row {widest[1]}, {widest[0]} patients: largest difference between seeds of one row"
    return [open_(leaf, spread.max(), YES if spread.max() > TOLERANCE["vary"] else UNSURE)]


@test_of("semi-supervised")
def _(results: Results) -> list[Leaf]:
    wide = _by_seed(results)
    relative = sources.ranking(results.pairs("pspnet")).groupby("source")["relative"].mean()
    few = min(wide.columns.unique("patients"))
    found = []
    for own, rows in (
        (10, {"T1 seg": 2, "T1 auto": 4, "RVSC seg": 6}),
        (11, {"T1 seg": 3, "T1 auto": 5, "RVSC seg": 7}),
    ):
        for source, row in rows.items():
            sign = np.sign(relative[source] - relative["ACDC auto"])
            leaf = f"row {own} against row {row}, {few} patients: the nearer source gains more"
            found.append(above(leaf, *over_seeds(sign * (wide[few, own] - wide[few, row]))))
    return found


def _orders(results: Results, better: Sequence[int], worse: Sequence[int], comparisons: int = 1) -> Iterator[Leaf]:
    """Mean Dice (classes 0 to 3) of one row above another's, paired by seed, for both sizes."""
    wide = _by_seed(results)
    for patients in sorted(wide.columns.unique("patients")):
        for first, second in itertools.product(better, worse):
            gap = over_seeds(wide[patients, first] - wide[patients, second], comparisons)
            yield above(f"{patients} patients: row {first} above row {second}", *gap)


def _paper_runs(results: Results) -> pd.DataFrame:
    """The runs that repeat the paper's: PSPNet by the paper's list, else whichever list there is."""
    runs = results.transfer().query("network == 'pspnet'")
    if runs.empty:
        raise MissingError("transfer: expected runs of pspnet, the paper's network; this run has none")
    return runs[runs["parameters"] == ("paper" if (runs["parameters"] == "paper").any() else "inferred")]


def _by_seed(results: Results) -> pd.DataFrame:
    """Mean Dice of classes 0 to 3: a line per seed, a column per number of patients and row."""
    return _paper_runs(results).groupby(["seed", "patients", "row"])["dice"].mean().unstack(["patients", "row"])


def _by_layer(pairs: pd.DataFrame) -> pd.DataFrame:
    """log10 of rmse and null, a line per layer: seeds are averaged first, for they are not more layers."""
    return np.log10(pairs.set_index("layer")[["rmse", "null"]]).groupby(level=0).mean()


def _drops(swept: pd.DataFrame) -> dict[str, pd.Series]:
    return dict(iter(swept.groupby("kind", sort=False)["drop"]))


def _listed(kind: str) -> tuple[int, ...]:
    table = paper.not_reusable()
    return tuple(table.loc[table["kind"] == kind, "layer"])


def _encoder(swept: pd.DataFrame) -> pd.DataFrame:
    return swept[swept["name"].str.startswith("encoder.")]


# --------------------------------------------------------------------- the ledger


def leaves(results: Results) -> pd.DataFrame:
    """Every leaf of every claim.

    Args:
        results: what `prr.study.results.Results` offers; a table that is not there raises MissingError.

    Returns:
        DataFrame[id, leaf, paper, here, low, high, verdict]; a claim whose results are not there has one leaf, not
        attempted, that says so.
    """
    rows = []
    for claim in paper.claims().itertuples():
        if claim.id not in TESTS:
            found = [open_(claim.remark, np.nan, ABSENT)]
        else:
            try:
                found = list(TESTS[claim.id](results)) or [open_("nothing in this run to test it on", np.nan, ABSENT)]
            except MissingError:
                found = [open_(f"results not computed yet: chapter {int(claim.page[:2])}", np.nan, ABSENT)]
        rows += [{"id": claim.id, **leaf._asdict()} for leaf in found]
    return pd.DataFrame(rows)[["id", "leaf", "paper", "here", "low", "high", "verdict"]]


def ledger(results: Results) -> pd.DataFrame:
    """Every claim of the paper with its verdict.

    Args:
        results: see `leaves`.

    Returns:
        DataFrame[id, where, claim, verdict, here, leaves, reproduced, not reproduced, undecided, not attempted, reason,
        remark, page]: verdict by the rule of claims; here: what it would be if phantoms counted; counts of leaves;
        reason: the leaf that decided, with its numbers.
    """
    found, rows = leaves(results), []
    for claim in paper.claims().itertuples():
        part = found[found["id"] == claim.id]
        counts = {each: int((part["verdict"] == each).sum()) for each in (YES, NO, UNSURE, ABSENT)}
        here = next((each for each in (NO, UNSURE, YES) if counts[each]), ABSENT)
        analogue = here in (YES, NO) and any(results.phantom(name) for name in claim.data.split())
        rows.append({
            **{"id": claim.id, "where": claim.where, "claim": claim.claim, "verdict": ANALOGUE if analogue else here},
            **{"here": here, "leaves": len(part), **counts, "reason": _reason(part, here)},
            **{"remark": claim.remark, "page": claim.page},
        })  # fmt: skip
    return pd.DataFrame(rows)


def _reason(part: pd.DataFrame, here: str) -> str:
    """The first leaf that decided, with its numbers."""
    row = part[part["verdict"] == here].iloc[0]
    if np.isnan(row["here"]):
        return row["leaf"]
    bounds = "" if np.isnan(row["low"]) or row["low"] == row["high"] else f" [{row['low']:z.3g}, {row['high']:z.3g}]"
    printed = "" if np.isnan(row["paper"]) else f" (paper {row['paper']:g})"
    return f"{row['leaf']}: {row['here']:z.3g}{bounds}{printed}"


def in_words(table: pd.DataFrame) -> Words:
    """How many claims came out how."""
    counts = table["verdict"].value_counts()
    told = ", ".join(f"{each} {counts.get(each, 0)}" for each in (YES, NO, UNSURE, ANALOGUE, ABSENT))
    here = table.loc[table["verdict"] == ANALOGUE, "here"].value_counts()
    split = f" Of the analogues {here.get(YES, 0)} came out as the paper says and {here.get(NO, 0)} did not."
    return Words(f"Of {len(table)} claims: {told}.{split if counts.get(ANALOGUE) else ''}")
