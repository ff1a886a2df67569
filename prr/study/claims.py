"""How each claim of the paper is tested: a function that bears the claim's name and gives its leaves.

What is claimed stands in data/paper/claims.csv: the test of `unet-w` is `unet_w`, and `NAME_at_equal` asks the same
where start and distance are equal. A test's parameters name what it needs: results, as in `EVIDENCE`, or a fact of the
run, as in `FACTS`; nothing else reaches it. A leaf is one layer that the paper lists, one ordering that it states, one
number that it prints; the rules that decide it are in `prr.study.rules`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd

from prr.errors import MissingError
from prr.layers import parameter_table
from prr.study import architecture, measures, paper, sources, transfer, transplants
from prr.study.jobs import Job, stack
from prr.study.models import TITLES, pspnet
from prr.study.networks import six
from prr.study.rules import (
    ABSENT,
    NO,
    TOLERANCES,
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
from prr.study.run import Run
from prr.verdict import NOT_REUSABLE, REUSABLE, layer_verdicts, reusable_network

DOSES = {f"{part:g} of the way to the source": part for part in (0.1, 0.3)} | {"noise of the source's RMSE": "noise"}
Names = dict[tuple[str, str], str]  # (place, task) -> how the network is called: "T1 seg"
SEG, AUTO = "segmentation", "auto-encoding"


# --------------------------------------------------------------------- evidence


def _layer_1(run: Run, network: str) -> Job:
    """Sweeps of layer 1 alone, under both normalisations of the input."""
    inputs = {each: run.variant(normalisation=each) for each in ("zscore", "unit")}
    return stack(({"input": each}, transplants.sweep(other, network, layers=[1])) for each, other in inputs.items())


def _doses(run: Run, network: str) -> Job:
    """Kernels moved part of the way to the target's own auto-encoder, or by noise of the same RMSE."""
    return stack(({"dose": what}, transplants.sweep(run, network, ["W"], dose=dose)) for what, dose in DOSES.items())


def _by_source(run: Run, network: str) -> Job:
    """Kernels of the target by those of each other network."""
    return stack(
        ({"source": label}, transplants.sweep(run, network, ["W"], source=each))
        for label, each in six(run).items()
        if each != transplants.A1
    )


FACTS: dict[str, Callable[[Run], object]] = {
    "tolerance": lambda run: run.profile.tolerance,
    "names": lambda run: {each: label for label, each in six(run).items()},
    "labels": lambda run: run.labels,
}
EVIDENCE: dict[str, Callable[[Run], Job]] = {
    "sweep_unet": lambda run: transplants.sweep(run, "unet"),
    "sweep_pspnet": lambda run: transplants.sweep(run, "pspnet"),
    "layer_1_unet": lambda run: _layer_1(run, "unet"),
    "layer_1_pspnet": lambda run: _layer_1(run, "pspnet"),
    "doses_unet": lambda run: _doses(run, "unet"),
    "by_source_unet": lambda run: _by_source(run, "unet"),
    "by_source_pspnet": lambda run: _by_source(run, "pspnet"),
    "joint_unet": lambda run: transplants.joint(run, "unet"),
    "joint_pspnet": lambda run: transplants.joint(run, "pspnet"),
    "rmse_unet": lambda run: measures.rmse(run, "unet"),
    "rmse_pspnet": lambda run: measures.rmse(run, "pspnet"),
    "shift_unet": lambda run: measures.shift_scale(run, "unet"),
    "shift_pspnet": lambda run: measures.shift_scale(run, "pspnet"),
    "algebra_unet": lambda run: measures.algebra(run, "unet"),
    "branches_pspnet": lambda run: measures.branches(run, "pspnet"),
    "pairs_unet": lambda run: sources.over_seeds(run, "unet"),
    "pairs_pspnet": lambda run: sources.over_seeds(run, "pspnet"),
    "few_unet": lambda run: sources.over_seeds(run, "unet", run.few_patients),
    "few_pspnet": lambda run: sources.over_seeds(run, "pspnet", run.few_patients),
    "transfer_runs": transfer.table,
    "architecture_drops": architecture.table,
}


# ------------------------------------------------------- reuse layer by layer


def unet_w(sweep_unet: pd.DataFrame, tolerance: float) -> list[Leaf]:
    return layers(sweep_unet, "W", tolerance, None)


def unet_b(sweep_unet: pd.DataFrame, tolerance: float) -> list[Leaf]:
    return layers(sweep_unet, "B", tolerance, (1,))


def unet_rw_rb(sweep_unet: pd.DataFrame, tolerance: float) -> list[Leaf]:
    return [leaf for kind in ("RW", "RB") for leaf in layers(sweep_unet, kind, tolerance)]


def unet_rm_depth(sweep_unet: pd.DataFrame) -> list[Leaf]:
    part = sweep_unet.query("kind == 'RM'")
    return [falling("rank correlation of the drop with depth", part["layer"], part["drop"])]


def unet_rv_pattern(sweep_unet: pd.DataFrame) -> list[Leaf]:
    part = sweep_unet.query("kind == 'RV'")
    return [patternless("rank correlation of the drop with depth", part["layer"], part["drop"])]


def unet_w_b(sweep_unet: pd.DataFrame) -> list[Leaf]:
    drop = _drops(sweep_unet)
    return [means("mean drop of W over that of B", drop["W"], drop["B"], paired=True)]


def slight_change(doses_unet: pd.DataFrame, tolerance: float) -> list[Leaf]:
    judged = layer_verdicts(doses_unet, tolerance)
    return [
        most(f"{what}: not reusable in most layers", part["verdict"] == NOT_REUSABLE)
        for what, part in judged.groupby("dose", sort=False)
    ]


def pspnet_rm(sweep_pspnet: pd.DataFrame, tolerance: float) -> list[Leaf]:
    return layers(sweep_pspnet, "RM", tolerance, _listed("RM"))


def pspnet_rv_rw_rb(sweep_pspnet: pd.DataFrame, tolerance: float) -> list[Leaf]:
    return [leaf for kind in ("RV", "RW", "RB") for leaf in layers(sweep_pspnet, kind, tolerance)]


def pspnet_w(sweep_pspnet: pd.DataFrame, tolerance: float) -> list[Leaf]:
    return layers(_encoder(sweep_pspnet), "W", tolerance, _listed("W"))


def pspnet_w_pattern(sweep_pspnet: pd.DataFrame, tolerance: float) -> list[Leaf]:
    kernels = layer_verdicts(_encoder(sweep_pspnet), tolerance).query("kind == 'W' and layer > 1")
    failed = kernels[kernels["verdict"] == NOT_REUSABLE]
    if failed.empty:
        return [open_("no other layer fails", 0, UNSURE)]
    return [most("of those that fail, most fit", failed["name"].str.fullmatch(r"encoder\.layer[234]\.0\.conv[12]"))]


def pspnet_b(sweep_pspnet: pd.DataFrame, tolerance: float) -> list[Leaf]:
    return layers(sweep_pspnet, "B", tolerance)


def first_layer_unet(sweep_unet: pd.DataFrame, layer_1_unet: pd.DataFrame, tolerance: float) -> list[Leaf]:
    return _first_layer(sweep_unet, layer_1_unet, tolerance)


def first_layer_pspnet(sweep_pspnet: pd.DataFrame, layer_1_pspnet: pd.DataFrame, tolerance: float) -> list[Leaf]:
    return _first_layer(sweep_pspnet, layer_1_pspnet, tolerance)


def _first_layer(swept: pd.DataFrame, by_input: pd.DataFrame, tolerance: float) -> list[Leaf]:
    found = layers(swept.query("layer == 1"), "W", tolerance, None)
    for normalisation, part in by_input.groupby("input", sort=False):
        judged = layers(part, "RM", tolerance, None)
        found += [each._replace(leaf=f"input {normalisation}: {each.leaf}") for each in judged]
    return found


def hurts_unet_more(sweep_unet: pd.DataFrame, sweep_pspnet: pd.DataFrame) -> list[Leaf]:
    found = [means("mean drop, all kinds", sweep_unet["drop"], sweep_pspnet["drop"])]
    return [*found, means("mean drop, kernels", _drops(sweep_unet)["W"], _drops(sweep_pspnet)["W"])]


def hurts_unet_more_at_equal(architecture_drops: pd.DataFrame) -> list[Leaf]:
    return [
        _of_seeds(above(f"mean drop of UNet's kernels over that of PSPNet's, {what}", *gap), seeds)
        for what, donor in (("towards the source", "at"), ("by noise", "noise at"))
        for gap, seeds in [architecture.difference(architecture_drops, "unet", "pspnet", donor)]
    ]


def _of_seeds(leaf: Leaf, seeds: int) -> Leaf:
    """One target says nothing of others, however many patients it has."""
    return leaf._replace(seeds=seeds, verdict=leaf.verdict if seeds > 1 else UNSURE)


def connections(architecture_drops: pd.DataFrame) -> list[Leaf]:
    return _connections(architecture_drops, {architecture.AS_TRAINED: ("independent start", "shared start")})


def connections_at_equal(architecture_drops: pd.DataFrame) -> list[Leaf]:
    views = {architecture.AT_DISTANCE: ("shared start",), architecture.BY_NOISE: ("noise",)}
    return _connections(architecture_drops, views)


def _connections(drops: pd.DataFrame, views: dict[str, Sequence[str]]) -> list[Leaf]:
    """Short connections lower the mean drop over kernels; long ones raise it, for else they do good or nothing."""
    table = architecture.contrasts(drops).set_index(["at", "contrast"])[["drop", "low", "high"]]
    seeds = drops.loc[drops["network"] == "plain", "target_seed"].nunique()
    return [
        _of_seeds(meant(f"{contrast}, {at}: mean drop", *table.loc[(at, contrast)]), seeds)
        for (kind, meant), (at, given) in itertools.product((("short", below), ("long", above)), views.items())
        for contrast in (f"{kind} connections, {donor}" for donor in given)
    ]


def rm_rv_matter(sweep_unet: pd.DataFrame, sweep_pspnet: pd.DataFrame) -> list[Leaf]:
    return [
        means(f"{title}: mean drop of {strong} over that of {weak}", drop[strong], drop[weak], paired=True)
        for title, drop in _titled(_drops(sweep_unet), _drops(sweep_pspnet))
        for strong, weak in itertools.product(("RM", "RV"), ("RW", "RB"))
    ]


def assumed_shift(shift_unet: pd.DataFrame, shift_pspnet: pd.DataFrame) -> list[Leaf]:
    return [
        most(f"{title}: MRM above MRB in most layers", table["MRM"] > table["MRB"])
        for title, table in _titled(shift_unet, shift_pspnet)
    ]


def assumed_scale(shift_unet: pd.DataFrame, shift_pspnet: pd.DataFrame) -> list[Leaf]:
    return [
        most(f"{title}: |log MRV| above |log MRW| in most layers", table["MRV_log"] > table["MRW_log"])
        for title, table in _titled(shift_unet, shift_pspnet)
    ]


def sensitivity_depth(sweep_unet: pd.DataFrame, shift_unet: pd.DataFrame) -> list[Leaf]:
    found = []
    for kind in ("RM", "RB"):
        table = sweep_unet[sweep_unet["kind"] == kind].merge(shift_unet, on=["layer", "name"])
        sensitivity = table["drop"] / table[f"M{kind}"].replace(0, np.nan)
        known = sensitivity.notna()
        found.append(falling(f"drop of {kind} per M{kind} over depth", table["layer"][known], sensitivity[known]))
    return found


def same_order(rmse_unet: pd.DataFrame, rmse_pspnet: pd.DataFrame) -> list[Leaf]:
    first, second = (np.log10(table.query("kind == 'W'")["rmse"]) for table in (rmse_unet, rmse_pspnet))
    low, high = mean_gap(first, second)
    bound = np.log10(TOLERANCES["order"])
    verdict = YES if -bound < low and high < bound else NO if high < -bound or low > bound else UNSURE
    return [Leaf("log10 of UNet's over PSPNet's kernel RMSE", first.mean() - second.mean(), low, high, verdict, bound)]


def networks(sweep_unet: pd.DataFrame, sweep_pspnet: pd.DataFrame, tolerance: float) -> list[Leaf]:
    return [
        _network(sweep_pspnet, "PSPNet is reusable", True, tolerance),
        _network(sweep_unet, "UNet is not reusable", False, tolerance),
    ]


def _network(swept: pd.DataFrame, words: str, meant: bool, tolerance: float) -> Leaf:
    """At least half of the live kernels are reusable, or fewer; bounds: without and with the undecided ones."""
    verdicts = layer_verdicts(swept[swept["kind"] == "W"], tolerance)
    answer = reusable_network(verdicts, TOLERANCES["most"])
    low = (verdicts["verdict"] == REUSABLE).mean()
    high = 1 - (verdicts["verdict"] == NOT_REUSABLE).mean()
    verdict = UNSURE if answer is None else YES if answer is meant else NO
    return Leaf(f"{words}: share of its kernels", low, low, high, verdict)


def identity_dominates(branches_pspnet: pd.DataFrame) -> list[Leaf]:
    return [most("norm of the branch below that of what is carried, in most units", branches_pspnet["ratio"] < 1)]


def errors_accumulate(
    sweep_unet: pd.DataFrame, sweep_pspnet: pd.DataFrame, joint_unet: pd.DataFrame, joint_pspnet: pd.DataFrame,
    tolerance: float,
) -> list[Leaf]:  # fmt: skip
    found = []
    for title, (swept, joint) in _titled((sweep_unet, joint_unet), (sweep_pspnet, joint_pspnet)):
        judged = layer_verdicts(swept, tolerance)
        alone = judged[judged["verdict"] == REUSABLE]
        if len(alone) > 1:
            together, worst = joint.iloc[0], alone.loc[alone["drop"].idxmax()]
            leaf = f"{title}: drop of all {together['pairs']:.0f} together over the largest alone"
            bounds = together["low"] - worst["high"], together["high"] - worst["low"]
            found.append(above(leaf, together["drop"] - worst["drop"], *bounds))
    return found


def shift_scale(algebra_unet: pd.DataFrame) -> list[Leaf]:
    return [
        exact(f"{row.kind} changes the {row.changes} alone", row.residual, row.residual < TOLERANCES["algebra"])
        for row in algebra_unet.itertuples()
    ]


# ------------------------------------------------------------- between sources


def similar_kernels(pairs_unet: pd.DataFrame, pairs_pspnet: pd.DataFrame, names: Names) -> list[Leaf]:
    found = []
    for title, pairs in _titled(pairs_unet, pairs_pspnet):
        table = pairs[pairs["first"] == sources.target_of(pairs)].query("kind == 'W' and apart > 0")
        for source in (names["acdc", AUTO], names["t1", SEG], names["t1", AUTO]):
            part = _by_layer(table[table["second"] == source])
            if len(part):
                near = part["rmse"] - part["null"] < np.log10(TOLERANCES["nearness"])
                found.append(most(f"{title}, {source}: nearer than unrelated kernels in most layers", near))
    return found


def groups_unet(pairs_unet: pd.DataFrame, names: Names) -> list[Leaf]:
    split, second = sources.members(pairs_unet, "unet", 2), names["t1", SEG]
    t1 = (split[["first", "second"]] == second).any(axis=1)
    apart = (split["group"] == 2).equals(t1)
    groups = _groups(pairs_unet, "unet", 2)
    verdict = UNSURE if groups.verdict == UNSURE else YES if apart else NO
    title = second.removesuffix(" seg")
    return [groups, open_(f"those of {title} segmentation are the second group", t1.sum(), verdict)]


def groups_pspnet(pairs_pspnet: pd.DataFrame) -> list[Leaf]:
    return [_groups(pairs_pspnet, "pspnet", 3)]


def _groups(pairs: pd.DataFrame, network: str, count: int) -> Leaf:
    """The number of groups with the largest silhouette, where one cloud would hardly give so large a one."""
    best = sources.groups(pairs, network).nlargest(1, "silhouette").iloc[0]
    clear = best["silhouette"] > np.quantile(sources.null_silhouettes(pairs, network), 0.95)
    verdict = UNSURE if not clear else YES if best["groups"] == count else NO
    return open_(f"{count} groups", best["groups"], verdict)._replace(paper=count)


def statement_a(pairs_unet: pd.DataFrame, pairs_pspnet: pd.DataFrame) -> list[Leaf]:
    return _statement("A", pairs_unet, pairs_pspnet)


def statement_b(pairs_unet: pd.DataFrame, pairs_pspnet: pd.DataFrame) -> list[Leaf]:
    return _statement("B", pairs_unet, pairs_pspnet)


def statement_c(pairs_unet: pd.DataFrame, pairs_pspnet: pd.DataFrame) -> list[Leaf]:
    return _statement("C", pairs_unet, pairs_pspnet)


def _statement(letter: str, pairs_unet: pd.DataFrame, pairs_pspnet: pd.DataFrame) -> list[Leaf]:
    found = []
    for title, pairs in _titled(pairs_unet, pairs_pspnet):
        table = sources.ranges(sources.relations(pairs))
        row = table[table["relation"].str.startswith(letter)].iloc[0]
        meets = len(row["overlaps"])
        verdict = {0: NO, 1: UNSURE, 2: YES}[meets]
        found.append(Leaf(f"{title}: RMSE meets those of the others", meets, row["low"], row["high"], verdict))
    return found


def rmse_likeness(pairs_unet: pd.DataFrame, pairs_pspnet: pd.DataFrame, names: Names) -> list[Leaf]:
    found = []
    for title, table in _titled(_relative(pairs_unet), _relative(pairs_pspnet)):
        alike = table[[names["acdc", AUTO], names["t1", SEG], names["rvsc", SEG]]].mean(axis=1)
        unlike = table[[names["t1", AUTO], names["rvsc", AUTO]]].mean(axis=1)
        leaf = f"{title}: sources that share data or task are farther than those that share neither"
        found.append(over_seeds(leaf, alike - unlike))
    return found


def rmse_orders(pairs_unet: pd.DataFrame, pairs_pspnet: pd.DataFrame) -> list[Leaf]:
    found = []
    for title, pairs in _titled(pairs_unet, pairs_pspnet):
        ratio = sources.relations(pairs).groupby("seed")["rmse"].agg(lambda rmse: rmse.max() / rmse.min())
        leaf = f"{title}: log10 of the largest over the smallest RMSE of a pair"
        found.append(over_seeds(leaf, np.log10(ratio), np.log10(TOLERANCES["order"])))
    return found


def t1_auto_nearest(pairs_pspnet: pd.DataFrame, names: Names) -> list[Leaf]:
    table, nearest = _relative(pairs_pspnet), names["t1", AUTO]
    return [
        over_seeds(f"{nearest} is nearer than {other}", table[other] - table[nearest])
        for other in table.columns.drop(nearest)
    ]


def t1_seg_farthest(pairs_unet: pd.DataFrame, names: Names) -> list[Leaf]:
    table, farthest = _relative(pairs_unet), names["t1", SEG]
    return [
        over_seeds(f"{farthest} is farther than {other}", table[farthest] - table[other])
        for other in table.columns.drop(farthest)
    ]


def drawn_source(
    by_source_unet: pd.DataFrame, by_source_pspnet: pd.DataFrame, tolerance: float, names: Names
) -> list[Leaf]:  # fmt: skip
    found, own = [], names["acdc", AUTO]
    for title, swept in _titled(by_source_unet, by_source_pspnet):
        kernels = dict(iter(layer_verdicts(swept, tolerance).groupby("source", sort=False)))
        answers = {source: reusable_network(part, TOLERANCES["most"]) for source, part in kernels.items()}
        first = answers.pop(own)
        for source, answer in answers.items():
            share = (kernels[source]["verdict"] == REUSABLE).mean()
            verdict = UNSURE if None in (answer, first) else YES if answer is first else NO
            found.append(open_(f"{title}: {source} gives the answer of {own}; its share", share, verdict))
    return found


def part_of_data(
    pairs_unet: pd.DataFrame, pairs_pspnet: pd.DataFrame, few_unet: pd.DataFrame, few_pspnet: pd.DataFrame
) -> list[Leaf]:
    found = []
    for title, (pairs, few_pairs) in _titled((pairs_unet, few_unet), (pairs_pspnet, few_pspnet)):
        whole, few = _relative(pairs).mean(), _relative(few_pairs)
        nearest = whole.idxmin()
        margin = few.drop(columns=nearest).min(axis=1) - few[nearest]
        found.append(over_seeds(f"{title}: {nearest} is the nearest with few patients too; its lead", margin))
    return found


# --------------------------------------------------------------------- transfer


def reused_share() -> list[Leaf]:
    row = paper.reused_share(parameter_table(pspnet())).iloc[0]
    return [exact("share of pairs of kind and layer", row["share"], round(row["share"], 2) == 0.92, 0.92)]


def can_hurt(transfer_runs: pd.DataFrame) -> list[Leaf]:
    """One row that certainly hurts is enough, none that could is needed to refute; intervals for all rows at once."""
    found = list(_orders(transfer_runs, (1,), (2, 3, 6, 7), comparisons=8))
    verdicts = [leaf.verdict for leaf in found]
    verdict = YES if YES in verdicts else NO if set(verdicts) == {NO} else UNSURE
    return [found[verdicts.index(verdict)]]


def small_rmse_better(transfer_runs: pd.DataFrame) -> list[Leaf]:
    return list(_orders(transfer_runs, (4, 5), (1, 2, 3, 6, 7)))


def gain_with_few(transfer_runs: pd.DataFrame) -> list[Leaf]:
    wide = _by_seed(transfer_runs)
    few, every = sorted(wide.columns.unique("patients"))
    gains = {row: [wide[size, row] - wide[size, 1] for size in (few, every)] for row in (4, 5)}
    return [
        over_seeds(f"gain of row {row}: {few} over {every} patients", few_gain - gain)
        for row, (few_gain, gain) in gains.items()
    ]


def table(transfer_runs: pd.DataFrame, labels: dict[int, str]) -> list[Leaf]:
    cells = transfer.with_paper_values(transfer.summary(_paper_runs(transfer_runs)), labels).dropna(subset="paper")
    printed = paper.transfer()
    odd = printed[(printed["mean"] - printed["recomputed"]).abs() > TOLERANCES["cell"]]
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


def results_vary(transfer_runs: pd.DataFrame) -> list[Leaf]:
    spread = _by_seed(transfer_runs).agg(lambda dice: dice.max() - dice.min())
    widest = spread.idxmax()
    leaf = f"row {widest[1]}, {widest[0]} patients: largest difference between seeds of one row"
    return [open_(leaf, spread.max(), YES if spread.max() > TOLERANCES["vary"] else UNSURE)]


def semi_supervised(transfer_runs: pd.DataFrame, pairs_pspnet: pd.DataFrame, names: Names) -> list[Leaf]:
    wide = _by_seed(transfer_runs)
    relative = _relative(pairs_pspnet).mean()
    few = min(wide.columns.unique("patients"))
    loaded, found = (("t1", SEG), ("t1", AUTO), ("rvsc", SEG)), []
    for own, rows in ((10, (2, 4, 6)), (11, (3, 5, 7))):
        for source, row in zip(loaded, rows, strict=True):
            sign = np.sign(relative[names[source]] - relative[names["acdc", AUTO]])
            leaf = f"row {own} against row {row}, {few} patients: the nearer source gains more"
            found.append(over_seeds(leaf, sign * (wide[few, own] - wide[few, row])))
    return found


def _orders(runs: pd.DataFrame, better: Sequence[int], worse: Sequence[int], comparisons: int = 1) -> Iterator[Leaf]:
    """Mean Dice (all classes) of one row above another's, paired by seed, for both sizes."""
    wide = _by_seed(runs)
    for patients in sorted(wide.columns.unique("patients")):
        for first, second in itertools.product(better, worse):
            leaf = f"{patients} patients: row {first} above row {second}"
            yield over_seeds(leaf, wide[patients, first] - wide[patients, second], comparisons=comparisons)


def _paper_runs(transfer_runs: pd.DataFrame) -> pd.DataFrame:
    """The runs that repeat the paper's: PSPNet by the paper's list, else whichever list there is."""
    runs = transfer_runs.query("network == 'pspnet'")
    if runs.empty:
        raise MissingError("transfer: expected runs of pspnet, the paper's network; this run has none")
    return runs[runs["parameters"] == ("paper" if (runs["parameters"] == "paper").any() else "inferred")]


def _by_seed(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean Dice of all classes: a line per seed, a column per number of patients and row."""
    return _paper_runs(runs).groupby(["seed", "patients", "row"])["dice"].mean().unstack(["patients", "row"])


# ------------------------------------------------------------------ parts of tables


def _titled(unet: object, pspnet: object) -> Iterator[tuple[str, object]]:
    """What is known of both networks, with their titles."""
    return zip((TITLES["unet"], TITLES["pspnet"]), (unet, pspnet), strict=True)


def _relative(pairs: pd.DataFrame) -> pd.DataFrame:
    """Relative RMSE to the target: a line per seed, a column per source."""
    return sources.ranking(pairs).pivot(index="seed", columns="source", values="relative")


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
