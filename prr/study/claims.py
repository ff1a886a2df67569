"""How each claim of the paper is tested: a function of the results that gives the claim's leaves.

What is claimed stands in data/paper/claims.csv, by the same names. A leaf is one layer that the paper lists, one
ordering that it states, one number that it prints; the rules that decide it are in `prr.study.rules`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import pandas as pd

from prr.errors import MissingError
from prr.study import architecture, paper, sources, transfer
from prr.study.models import TITLES
from prr.study.results import DOSES, Results
from prr.study.rules import (
    ABSENT,
    NO,
    TOLERANCE,
    UNSURE,
    YES,
    Leaf,
    above,
    below,
    exact,
    falling,
    layers,
    mean_gap,
    means,
    most,
    number,
    open_,
    over_seeds,
    patternless,
)  # fmt: skip
from prr.verdict import NOT_REUSABLE, REUSABLE, layer_verdicts, reusable_network

TESTS: dict[str, Callable[[Results], Iterable[Leaf]]] = {}
EQUAL: dict[str, Callable[[Results], Iterable[Leaf]]] = {}  # the same claims where start and distance are equal


def test_of(claim: str) -> Callable:
    """Register the test of a claim."""
    return lambda function: TESTS.setdefault(claim, function)


def at_equal(claim: str) -> Callable:
    """Register the test of a claim where start and distance are equal."""
    return lambda function: EQUAL.setdefault(claim, function)


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
    return [patternless("rank correlation of the drop with depth", part["layer"], part["drop"])]


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


def _first_layer(network: str) -> Callable:
    def leaves(results: Results) -> Iterator[Leaf]:
        yield from layers(results.sweep(network).query("layer == 1"), "W", None)
        for normalisation in ("zscore", "unit"):
            yield from layers(results.first_layer(network, normalisation), "RM", None, f"input {normalisation}: ")

    return leaves


for _network_name in TITLES:
    TESTS[f"first-layer-{_network_name}"] = _first_layer(_network_name)


@test_of("hurts-unet-more")
def _(results: Results) -> list[Leaf]:
    unet, pspnet = results.sweep("unet"), results.sweep("pspnet")
    found = [means("mean drop, all kinds", unet["drop"], pspnet["drop"])]
    first, second = _drops(unet), _drops(pspnet)
    return [*found, means("mean drop, kernels", first["W"], second["W"])]


@at_equal("hurts-unet-more")
def _(results: Results) -> list[Leaf]:
    drops = results.architecture()
    return [
        _of_seeds(above(f"mean drop of UNet's kernels over that of PSPNet's, {what}", *gap), seeds)
        for what, donor in (("towards the source", "at"), ("by noise", "noise at"))
        for gap, seeds in [architecture.difference(drops, "unet", "pspnet", donor)]
    ]


def _of_seeds(leaf: Leaf, seeds: int) -> Leaf:
    """One target says nothing of others, however many patients it has."""
    return leaf._replace(seeds=seeds, verdict=leaf.verdict if seeds > 1 else UNSURE)


@test_of("connections")
def _(results: Results) -> list[Leaf]:
    return _connections(results, {architecture.AS_TRAINED: ("independent start", "shared start")})


@at_equal("connections")
def _(results: Results) -> list[Leaf]:
    return _connections(results, {architecture.AT_DISTANCE: ("shared start",), architecture.BY_NOISE: ("noise",)})


def _connections(results: Results, views: dict[str, Sequence[str]]) -> list[Leaf]:
    """Short connections lower the mean drop over kernels; long ones raise it, for else they do good or nothing."""
    drops = results.architecture()
    table = architecture.contrasts(drops).set_index(["at", "contrast"])[["drop", "low", "high"]]
    seeds = drops.loc[drops["network"] == "plain", "target_seed"].nunique()
    return [
        _of_seeds(meant(f"{contrast}, {at}: mean drop", *table.loc[(at, contrast)]), seeds)
        for (kind, meant), (at, given) in itertools.product((("short", below), ("long", above)), views.items())
        for contrast in (f"{kind} connections, {donor}" for donor in given)
    ]


@test_of("rm-rv-matter")
def _(results: Results) -> list[Leaf]:
    return [
        means(f"{title}: mean drop of {strong} over that of {weak}", drop[strong], drop[weak], paired=True)
        for network, title in TITLES.items()
        for drop in [_drops(results.sweep(network))]
        for strong, weak in itertools.product(("RM", "RV"), ("RW", "RB"))
    ]


@test_of("assumed-shift")
def _(results: Results) -> list[Leaf]:
    shifts = ((title, results.shift(network)) for network, title in TITLES.items())
    return [most(f"{title}: MRM above MRB in most layers", table["MRM"] > table["MRB"]) for title, table in shifts]


@test_of("assumed-scale")
def _(results: Results) -> list[Leaf]:
    shifts = ((title, results.shift(network)) for network, title in TITLES.items())
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
    tables = [results.distance(network).query("kind == 'W'") for network in TITLES]
    logs = [np.log10(table["rmse"]) for table in tables]
    low, high = mean_gap(*logs)
    bound = np.log10(TOLERANCE["order"])
    verdict = YES if -bound < low and high < bound else NO if high < -bound or low > bound else UNSURE
    return [
        Leaf("log10 of UNet's over PSPNet's kernel RMSE", logs[0].mean() - logs[1].mean(), low, high, verdict, bound)
    ]


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
    for network, title in TITLES.items():
        swept = layer_verdicts(results.sweep(network))
        alone = swept[swept["verdict"] == REUSABLE]
        if len(alone) > 1:
            joint, worst = results.joint(network).iloc[0], alone.loc[alone["drop"].idxmax()]
            leaf = f"{title}: drop of all {joint['pairs']:.0f} together over the largest alone"
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
    for network, title in TITLES.items():
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
        for network, title in TITLES.items():
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
    for network, title in TITLES.items():
        table = _relative(results, network)
        alike = table[["ACDC auto", "T1 seg", "RVSC seg"]].mean(axis=1)
        unlike = table[["T1 auto", "RVSC auto"]].mean(axis=1)
        leaf = f"{title}: sources that share data or task are farther than those that share neither"
        found.append(over_seeds(leaf, alike - unlike))
    return found


@test_of("rmse-orders")
def _(results: Results) -> list[Leaf]:
    found = []
    for network, title in TITLES.items():
        logs = (
            sources.relations(results.pairs(network)).groupby("seed")["rmse"].agg(lambda rmse: rmse.max() / rmse.min())
        )
        leaf = f"{title}: log10 of the largest over the smallest RMSE of a pair"
        found.append(over_seeds(leaf, np.log10(logs), np.log10(TOLERANCE["order"])))
    return found


@test_of("t1-auto-nearest")
def _(results: Results) -> Iterator[Leaf]:
    table = _relative(results, "pspnet")
    for other in table.columns.drop("T1 auto"):
        yield over_seeds(f"T1 auto is nearer than {other}", table[other] - table["T1 auto"])


@test_of("t1-seg-farthest")
def _(results: Results) -> Iterator[Leaf]:
    table = _relative(results, "unet")
    for other in table.columns.drop("T1 seg"):
        yield over_seeds(f"T1 seg is farther than {other}", table["T1 seg"] - table[other])


def _relative(results: Results, network: str) -> pd.DataFrame:
    """Relative RMSE to ACDC segmentation: a line per seed, a column per source."""
    return sources.ranking(results.pairs(network)).pivot(index="seed", columns="source", values="relative")


@test_of("drawn-source")
def _(results: Results) -> list[Leaf]:
    found = []
    for network, title in TITLES.items():
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
    for network, title in TITLES.items():
        whole = _relative(results, network).mean()
        few = results.few(network).pivot(index="seed", columns="source", values="relative")
        nearest = whole.idxmin()
        margin = few.drop(columns=nearest).min(axis=1) - few[nearest]
        found.append(over_seeds(f"{title}: {nearest} is the nearest with few patients too; its lead", margin))
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
    return list(_orders(results, (4, 5), (1, 2, 3, 6, 7)))


@test_of("gain-with-few")
def _(results: Results) -> list[Leaf]:
    wide = _by_seed(results)
    few, every = sorted(wide.columns.unique("patients"))
    gains = {row: [wide[size, row] - wide[size, 1] for size in (few, every)] for row in (4, 5)}
    return [over_seeds(f"gain of row {row}: {few} over {every} patients", few_gain - gain)
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
            found.append(number(leaf, row.paper, row.dice, row.low, row.high, row.seeds))
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
    relative = _relative(results, "pspnet").mean()
    few = min(wide.columns.unique("patients"))
    found = []
    for own, rows in (
        (10, {"T1 seg": 2, "T1 auto": 4, "RVSC seg": 6}),
        (11, {"T1 seg": 3, "T1 auto": 5, "RVSC seg": 7}),
    ):
        for source, row in rows.items():
            sign = np.sign(relative[source] - relative["ACDC auto"])
            leaf = f"row {own} against row {row}, {few} patients: the nearer source gains more"
            found.append(over_seeds(leaf, sign * (wide[few, own] - wide[few, row])))
    return found


def _orders(results: Results, better: Sequence[int], worse: Sequence[int], comparisons: int = 1) -> Iterator[Leaf]:
    """Mean Dice (classes 0 to 3) of one row above another's, paired by seed, for both sizes."""
    wide = _by_seed(results)
    for patients in sorted(wide.columns.unique("patients")):
        for first, second in itertools.product(better, worse):
            leaf = f"{patients} patients: row {first} above row {second}"
            yield over_seeds(leaf, wide[patients, first] - wide[patients, second], comparisons=comparisons)


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
