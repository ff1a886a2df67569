"""How each claim of the paper is tested: a function that bears the claim's name and gives its leaves.

What is claimed stands in data/paper/claims.csv: the test of `unet-w` is `unet_w`, and `NAME_at_equal` asks the same
where start and distance are equal. A test's parameters name what it needs: results, as in `EVIDENCE`, or a fact of the
run, as in `FACTS`; nothing else reaches it. A leaf is one layer that the paper lists, one ordering that it states, one
number that it prints; the rules that decide it are in `prr.study.rules`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from prr.data.slices import LABELS
from prr.errors import MissingError
from prr.layers import parameter_table
from prr.metrics import crossed_interval
from prr.reuse import averaged
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
    Estimate,
    Leaf,
    above,
    below,
    by_layer,
    estimates,
    exact,
    layers,
    number,
    over_seeds,
    patternless,
    stated,
    trend,
    within,
)  # fmt: skip
from prr.study.run import Run
from prr.verdict import REUSABLE, SHARE, layer_verdicts, reusable_network

DOSES = {f"{part:g} of the way to the source": part for part in (0.1, 0.3)} | {"noise of the source's RMSE": "noise"}
CHANGES = {"RM": "MRM", "RB": "MRB", "RV": "MRV_log", "RW": "MRW_log"}  # kind: what `prr.shift_scale` says of it
Names = dict[tuple[str, str], str]  # (place, task) -> how the network is called: "T1 seg"
SEG, AUTO = "segmentation", "auto-encoding"
NOISE_AT_ITS_FLOOR = stated("noise", "Noise is at its floor at every distance, and can't decide.", np.nan, UNSURE)


# --------------------------------------------------------------------- evidence


def _each_seed(run: Run, of: Callable[[Run], Job]) -> Job:
    """The same of all the run's seeds, with a column seed."""
    return stack(({"seed": seed}, of(run.variant(seed=seed))) for seed in run.seeds)


def _layer_1(run: Run, network: str) -> Job:
    """Transplants of layer 1 alone, under both normalisations of the input."""
    inputs = {each: run.variant(normalisation=each) for each in ("zscore", "unit")}
    return stack(
        ({"input": each}, transplants.by_patient(other, network, layers=[1])) for each, other in inputs.items()
    )


def _doses(run: Run, network: str) -> Job:
    """Kernels moved part of the way to the target's own auto-encoder, or by noise of the same RMSE."""
    return stack(
        ({"dose": what}, transplants.by_patient(run, network, ["W"], dose=dose)) for what, dose in DOSES.items()
    )


FACTS: dict[str, Callable[[Run], object]] = {
    "tolerance": lambda run: run.profile.tolerance,
    "names": lambda run: {each: label for label, each in six(run).items()},
    "labels": lambda run: run.labels,
    "is_paper": lambda run: all(run.facts(place)["origin"] == "real" for place in run.places),
}
EVIDENCE: dict[str, Callable[[Run], Job]] = {
    "sweeps_unet": lambda run: _each_seed(run, lambda each: transplants.by_patient(each, "unet")),
    "sweeps_pspnet": lambda run: _each_seed(run, lambda each: transplants.by_patient(each, "pspnet")),
    "sweep_unet": lambda run: transplants.by_patient(run, "unet"),
    "sweep_pspnet": lambda run: transplants.by_patient(run, "pspnet"),
    "layer_1_unet": lambda run: _layer_1(run, "unet"),
    "layer_1_pspnet": lambda run: _layer_1(run, "pspnet"),
    "doses_unet": lambda run: _doses(run, "unet"),
    "by_source_unet": lambda run: transplants.by_source(run, "unet"),
    "by_source_pspnet": lambda run: transplants.by_source(run, "pspnet"),
    "joint_unet": lambda run: transplants.joint(run, "unet"),
    "joint_pspnet": lambda run: transplants.joint(run, "pspnet"),
    "rmse_unet": lambda run: _each_seed(run, lambda each: measures.rmse(each, "unet")),
    "rmse_pspnet": lambda run: _each_seed(run, lambda each: measures.rmse(each, "pspnet")),
    "shift_unet": lambda run: _each_seed(run, lambda each: measures.shift_scale(each, "unet")),
    "shift_pspnet": lambda run: _each_seed(run, lambda each: measures.shift_scale(each, "pspnet")),
    "changes_unet": lambda run: measures.shift_scale(run, "unet"),
    "changes_pspnet": lambda run: measures.shift_scale(run, "pspnet"),
    "algebra_unet": lambda run: measures.algebra(run, "unet"),
    "branches_pspnet": lambda run: _each_seed(run, lambda each: measures.branches(each, "pspnet")),
    "pairs_unet": lambda run: sources.over_seeds(run, "unet"),
    "pairs_pspnet": lambda run: sources.over_seeds(run, "pspnet"),
    "few_unet": lambda run: sources.over_seeds(run, "unet", run.few_patients),
    "few_pspnet": lambda run: sources.over_seeds(run, "pspnet", run.few_patients),
    "transfer_rows": transfer.by_patient,
    "architecture_drops": architecture.table,
}
# Dice of the target that a claim rests on, by the end of its evidence's name
TARGETS: dict[str, Callable[[Run], Job]] = {
    network: lambda run, network=network: measures.dice(run, network) for network in TITLES
}


# ------------------------------------------------------- reuse layer by layer


def unet_w(sweep_unet: pd.DataFrame, tolerance: float) -> list[Leaf]:
    return layers(by_layer(sweep_unet), {"W": None}, tolerance)


def unet_b(sweep_unet: pd.DataFrame, tolerance: float) -> list[Leaf]:
    return layers(by_layer(sweep_unet), {"B": (1,)}, tolerance)


def unet_rw_rb(sweep_unet: pd.DataFrame, tolerance: float) -> list[Leaf]:
    return layers(by_layer(sweep_unet), {"RW": (), "RB": ()}, tolerance)


def unet_rm_depth(sweep_unet: pd.DataFrame) -> list[Leaf]:
    says = "the drop of UNet's RM falls with depth", "the drop of UNet's RM grows with depth"
    return [below(says, _over_depth(sweep_unet, "RM"))]


def unet_rv_pattern(sweep_unet: pd.DataFrame) -> list[Leaf]:
    says = "the drop of UNet's RV has no trend over depth", "the drop of UNet's RV has a trend over depth"
    return [patternless(says, _over_depth(sweep_unet, "RV"))]


def unet_w_b(sweep_unet: pd.DataFrame) -> list[Leaf]:
    says = "UNet's W costs more than its B", "UNet's W costs less than its B"
    return [above(says, *estimates(_less(sweep_unet, [("W", "B")])))]


def slight_change(doses_unet: pd.DataFrame, tolerance: float) -> list[Leaf]:
    drops = {dose: by_layer(part).mean(axis=1) for dose, part in doses_unet.groupby("dose", sort=False)}
    return [
        above((f"{dose}, kernels cost much", f"{dose}, kernels cost little"), each, tolerance)
        for dose, each in zip(drops, estimates(pd.DataFrame(drops)), strict=True)
    ]


def pspnet_rm(sweep_pspnet: pd.DataFrame, tolerance: float) -> list[Leaf]:
    return layers(by_layer(sweep_pspnet), {"RM": _listed("RM")}, tolerance)


def pspnet_rv_rw_rb(sweep_pspnet: pd.DataFrame, tolerance: float) -> list[Leaf]:
    return layers(by_layer(sweep_pspnet), {"RV": (), "RW": (), "RB": ()}, tolerance)


def pspnet_w(sweep_pspnet: pd.DataFrame, tolerance: float) -> list[Leaf]:
    return layers(by_layer(_encoder(sweep_pspnet)), {"W": _listed("W")}, tolerance)


def pspnet_w_pattern(sweep_pspnet: pd.DataFrame) -> list[Leaf]:
    kernels = _encoder(sweep_pspnet).query("kind == 'W' and layer > 1")
    fits = kernels["name"].str.fullmatch(r"encoder\.layer[234]\.0\.conv[12]")
    more = by_layer(kernels[fits]).mean(axis=1) - by_layer(kernels[~fits]).mean(axis=1)
    says = "kernels of the stated pattern cost more than others", "kernels of the stated pattern cost less than others"
    return [above(says, *estimates(more.to_frame()))]


def pspnet_b(sweep_pspnet: pd.DataFrame, tolerance: float) -> list[Leaf]:
    return layers(by_layer(sweep_pspnet), {"B": ()}, tolerance)


def first_layer_unet(layer_1_unet: pd.DataFrame, tolerance: float) -> list[Leaf]:
    return _first_layer(layer_1_unet, tolerance)


def first_layer_pspnet(layer_1_pspnet: pd.DataFrame, tolerance: float) -> list[Leaf]:
    return _first_layer(layer_1_pspnet, tolerance)


def _first_layer(by_input: pd.DataFrame, tolerance: float) -> list[Leaf]:
    """W and RM under each normalisation; two trainings meet the same patients, so the limits are simultaneous."""
    part = by_input[by_input["kind"].isin(["W", "RM"])]
    part = part.assign(kind="Input " + part["input"] + ": " + part["kind"])
    return layers(by_layer(part), dict.fromkeys(part["kind"].unique()), tolerance)


def hurts_unet_more(sweeps_unet: pd.DataFrame, sweeps_pspnet: pd.DataFrame) -> list[Leaf]:
    unet, pspnet = by_layer(sweeps_unet), by_layer(sweeps_pspnet)
    more = {"all kinds": unet.mean(axis=1) - pspnet.mean(axis=1)}
    more["kernels"] = unet["W"].mean(axis=1) - pspnet["W"].mean(axis=1)
    return [
        above((f"{what}: UNet loses more than PSPNet", f"{what}: UNet loses less than PSPNet"), each)
        for what, each in zip(more, estimates(pd.DataFrame(more)), strict=True)
    ]


def hurts_unet_more_at_equal(architecture_drops: pd.DataFrame, tolerance: float) -> list[Leaf]:
    asked = [("at", distance) for distance in architecture.DISTANCES]
    asked += [("noise at", architecture.deciding(architecture_drops, TITLES, tolerance))]
    found = []
    for donor, distance in asked:
        if distance is None:
            found.append(NOISE_AT_ITS_FLOOR)
            continue
        gap, seeds, over = architecture.difference(architecture_drops, "unet", "pspnet", donor, distance)
        where = f"{'by noise' if donor == 'noise at' else 'towards the source'} at distance {distance:g}"
        says = tuple(f"UNet loses {each} than PSPNet, {where}" for each in ("more", "less"))
        found.append(_of_seeds(above(says, Estimate(*gap, over, seeds))))
    return found


def _of_seeds(leaf: Leaf) -> Leaf:
    """One target says nothing of others, however many patients it has."""
    return leaf._replace(verdict=leaf.verdict if leaf.seeds > 1 else UNSURE)


def connections(architecture_drops: pd.DataFrame, tolerance: float) -> list[Leaf]:
    return _connections(architecture_drops, tolerance, [architecture.AS_TRAINED], ("independent start", "shared start"))


def connections_at_equal(architecture_drops: pd.DataFrame, tolerance: float) -> list[Leaf]:
    views = [architecture.AT_DISTANCE, architecture.BY_NOISE]
    return _connections(architecture_drops, tolerance, views, ("shared start", "noise"))


def _connections(drops: pd.DataFrame, tolerance: float, views: Sequence[str], givers: Sequence[str]) -> list[Leaf]:
    """Short connections lower the mean drop over kernels; long ones raise it, for else they do good or nothing."""
    table = architecture.contrasts(drops, tolerance)
    table = table[table["at"].isin(views) & (table["says"] != architecture.NOT_JUDGED)]
    seeds, found = drops.loc[drops["network"] == "plain", "target_seed"].nunique(), []
    for row, (kind, meant), giver in itertools.product(
        table.itertuples(), (("short", below), ("long", above)), givers
    ):
        if row.contrast == f"{kind} connections, {giver}":
            where = row.at if np.isnan(row.distance) else f"{row.at} {row.distance:g}"
            spares, costs = (f"{kind} connections {word} kernels, {giver}, {where}" for word in ("spare", "cost"))
            says = (spares, costs) if kind == "short" else (costs, spares)
            found.append(_of_seeds(meant(says, Estimate(row.drop, row.low, row.high, row.over, seeds))))
    noise = architecture.BY_NOISE in views and architecture.BY_NOISE not in set(table["at"])
    return [*found, *([NOISE_AT_ITS_FLOOR] * noise)]


def rm_rv_matter(sweep_unet: pd.DataFrame, sweep_pspnet: pd.DataFrame) -> list[Leaf]:
    compared = list(itertools.product(("RM", "RV"), ("RW", "RB")))
    tables = [_less(swept, compared) for swept in (sweep_unet, sweep_pspnet)]
    labels = [f"{title}: {{}} costs {{}} than {{}}" for title in TITLES.values()]
    found = estimates(pd.concat(dict(zip(labels, tables, strict=True)), axis=1))
    asked = [(label, *pair) for label in labels for pair in compared]
    return [
        above((label.format(strong, "more", weak), label.format(strong, "less", weak)), each)
        for (label, strong, weak), each in zip(asked, found, strict=True)
    ]


def changes_conform(
    sweep_unet: pd.DataFrame, sweep_pspnet: pd.DataFrame, changes_unet: pd.DataFrame, changes_pspnet: pd.DataFrame
) -> list[Leaf]:
    """Rank correlation over layers of the drop with the change, in each patient: strong enough to be seen."""
    found = {
        f"{title}: the drops of {kind}": trend(drops, _of_layers(changes, change, drops))
        for title, (swept, changes) in _titled((sweep_unet, changes_unet), (sweep_pspnet, changes_pspnet))
        for kind, change in CHANGES.items()
        for drops in [by_layer(swept)[kind]]
    }
    return [
        above((f"{what} follow the change", f"{what} do not follow the change"), each, TOLERANCES["conform"])
        for what, each in zip(found, estimates(pd.DataFrame(found)), strict=True)
    ]


def assumed_shift(shift_unet: pd.DataFrame, shift_pspnet: pd.DataFrame) -> list[Leaf]:
    return _larger(shift_unet, shift_pspnet, "MRM", "MRB", "MRM is larger than MRB", "MRB is larger than MRM")


def assumed_scale(shift_unet: pd.DataFrame, shift_pspnet: pd.DataFrame) -> list[Leaf]:
    far = "is farther from 1 than"
    return _larger(shift_unet, shift_pspnet, "MRV_log", "MRW_log", f"MRV {far} MRW", f"MRW {far} MRV")


def _larger(unet: pd.DataFrame, pspnet: pd.DataFrame, first: str, second: str, *says: str) -> list[Leaf]:
    """The first column is the larger one in most layers, a share for each seed."""
    return [
        above(
            tuple(f"{title}: {each} in most layers" for each in says),
            _share(table[first] > table[second], table),
            TOLERANCES["most"],
        )
        for title, table in _titled(unet, pspnet)
    ]


def sensitivity_depth(sweep_unet: pd.DataFrame, changes_unet: pd.DataFrame) -> list[Leaf]:
    found = {}
    for kind in ("RM", "RB"):
        drops = by_layer(sweep_unet)[kind]
        shift = _of_layers(changes_unet, f"M{kind}", drops)
        found[kind] = trend(drops / np.where(shift > 0, shift, np.nan), np.where(shift > 0, drops.columns, np.nan))
    return [
        below(tuple(f"the drop of {kind} per M{kind} {each} with depth" for each in ("falls", "grows")), estimate)
        for kind, estimate in zip(found, estimates(pd.DataFrame(found)), strict=True)
    ]


def same_order(rmse_unet: pd.DataFrame, rmse_pspnet: pd.DataFrame) -> list[Leaf]:
    first, second = (
        np.log10(table.query("kind == 'W'")["rmse"]).groupby(table["seed"]).mean() for table in (rmse_unet, rmse_pspnet)
    )
    says = "kernel RMSE is of one order of magnitude", "kernel RMSE is of different orders of magnitude"
    return [within(says, over_seeds(first - second), np.log10(TOLERANCES["order"]))]


def networks(by_source_unet: pd.DataFrame, by_source_pspnet: pd.DataFrame, tolerance: float) -> list[Leaf]:
    """The share of kernels that pass by their mean over patients, for each seed and source, with limits over both."""
    unet, pspnet = (_shares(table, tolerance) for table in (by_source_unet, by_source_pspnet))
    yes, no = "of {}'s kernels at least half pass", "of {}'s kernels fewer than half pass"
    return [
        above((yes.format("PSPNet"), no.format("PSPNet")), pspnet, SHARE),
        below((no.format("UNet"), yes.format("UNet")), unet, SHARE),
    ]


def _shares(by_source: pd.DataFrame, tolerance: float) -> Estimate:
    shares = transplants.shares(by_source, tolerance).T.to_numpy()
    over = "sources" if len(shares) == 1 else "seeds and sources"
    return Estimate(*(float(each[0]) for each in crossed_interval(shares[:, :, None, None])), over, len(shares))


def identity_dominates(branches_pspnet: pd.DataFrame) -> list[Leaf]:
    says = "what is carried outweighs the branch in most units", "the branch outweighs what is carried in most units"
    return [above(says, _share(branches_pspnet["ratio"] < 1, branches_pspnet), TOLERANCES["most"])]


def errors_accumulate(
    sweep_unet: pd.DataFrame, sweep_pspnet: pd.DataFrame, joint_unet: pd.DataFrame, joint_pspnet: pd.DataFrame,
    tolerance: float,
) -> list[Leaf]:  # fmt: skip
    """What passes alone, together and the worst alone: the limits of the difference are those of both, added."""
    found = []
    for title, (swept, joint) in _titled((sweep_unet, joint_unet), (sweep_pspnet, joint_pspnet)):
        judged = layer_verdicts(averaged(swept), tolerance)
        alone = judged[judged["verdict"] == REUSABLE]
        if len(alone) > 1:
            together, worst = joint.iloc[0], alone.loc[alone["drop"].idxmax()]
            all_of_them = f"{title}: {together['pairs']:.0f} parameters together cost"
            bounds = together["low"] - worst["high"], together["high"] - worst["low"]
            says = f"{all_of_them} more than the worst alone", f"{all_of_them} no more than the worst alone"
            found.append(above(says, Estimate(together["drop"] - worst["drop"], *bounds, "patients")))
    return found


def shift_scale(algebra_unet: pd.DataFrame) -> list[Leaf]:
    return [
        exact(
            (f"{row.kind} changes the {row.changes} alone", f"{row.kind} changes more than the {row.changes}"),
            row.residual,
            row.residual < TOLERANCES["algebra"],
        )
        for row in algebra_unet.itertuples()
    ]


# ------------------------------------------------------------- between sources


def similar_kernels(pairs_unet: pd.DataFrame, pairs_pspnet: pd.DataFrame, names: Names) -> list[Leaf]:
    """Where starts are independent: of each network and source the share of layers that are nearer, for each seed."""
    given = [names["acdc", AUTO], names["t1", SEG], names["t1", AUTO]]
    found = []
    for title, pairs in _titled(pairs_unet, pairs_pspnet):
        table = pairs[pairs["first"] == sources.target_of(pairs)].query("kind == 'W' and apart > 0")
        for source in given:
            part = table[table["second"] == source]
            if len(part):
                near = part["rmse"] < TOLERANCES["nearness"] * part["null"]
                says = f"{title}, {source}: most kernels are {{}}nearer than unrelated ones"
                share = _share(near, part, comparisons=len(TITLES) * len(given))
                found.append(above((says.format(""), says.format("not ")), share, TOLERANCES["most"]))
    return found


def groups_unet(pairs_unet: pd.DataFrame, names: Names) -> list[Leaf]:
    split, second = sources.members(pairs_unet, "unet", 2), names["t1", SEG]
    t1 = (split[["first", "second"]] == second).any(axis=1)
    apart = (split["group"] == 2).equals(t1)
    groups = _groups(pairs_unet, "unet", 2)
    verdict = UNSURE if groups.verdict == UNSURE else YES if apart else NO
    says = f"the second group is that of {second}"
    found = f"Of the second of two groups {'all' if apart else 'not all'}, and no others, are pairs with {second}."
    return [groups, stated(says, found, t1.sum(), verdict)]


def groups_pspnet(pairs_pspnet: pd.DataFrame) -> list[Leaf]:
    return [_groups(pairs_pspnet, "pspnet", 3)]


def _groups(pairs: pd.DataFrame, network: str, count: int) -> Leaf:
    """The number of groups with the largest silhouette, where one cloud would hardly give so large a one."""
    best = sources.groups(pairs, network).nlargest(1, "silhouette").iloc[0]
    chance = np.quantile(sources.null_silhouettes(pairs, network), 0.95)
    clear = best["silhouette"] > chance
    verdict = UNSURE if not clear else YES if best["groups"] == count else NO
    begins = f"The curves fall into {best['groups']:.0f} groups" if clear else "No groups can be told from one cloud"
    found = f"{begins}: silhouette {best['silhouette']:.2f}, one cloud gives up to {chance:.2f} (95 %)."
    return stated(f"{count} groups", found, best["groups"], verdict)._replace(paper=count)


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
        meets = row["overlaps"]
        verdict = (NO, UNSURE, YES)[len(meets)]
        others = " and ".join(meets) or "neither other"
        words = f"{title}: the range of {letter} over pairs and seeds meets that of {others}."
        found.append(stated(f"{title}: the range of {letter} meets those of both others", words, len(meets), verdict))
    return found


def rmse_likeness(pairs_unet: pd.DataFrame, pairs_pspnet: pd.DataFrame, names: Names) -> list[Leaf]:
    found = []
    for title, table in _titled(_relative(pairs_unet), _relative(pairs_pspnet)):
        alike = table[[names["acdc", AUTO], names["t1", SEG], names["rvsc", SEG]]].mean(axis=1)
        unlike = table[[names["t1", AUTO], names["rvsc", AUTO]]].mean(axis=1)
        says = f"{title}: sources that share data or task are {{}} than those that share neither"
        estimate = over_seeds(alike - unlike, comparisons=len(TITLES))
        found.append(above((says.format("farther"), says.format("nearer")), estimate))
    return found


def rmse_orders(pairs_unet: pd.DataFrame, pairs_pspnet: pd.DataFrame) -> list[Leaf]:
    found = []
    for title, pairs in _titled(pairs_unet, pairs_pspnet):
        ratio = sources.relations(pairs).groupby("seed")["rmse"].agg(lambda rmse: rmse.max() / rmse.min())
        says = f"{title}: RMSE of pairs spans {{}} than an order of magnitude (log10)"
        estimate = over_seeds(np.log10(ratio), comparisons=len(TITLES))
        found.append(above((says.format("more"), says.format("less")), estimate, np.log10(TOLERANCES["order"])))
    return found


def t1_auto_nearest(pairs_pspnet: pd.DataFrame, names: Names) -> list[Leaf]:
    return _extreme(pairs_pspnet, names["t1", AUTO], "nearer", "farther", sign=-1)


def t1_seg_farthest(pairs_unet: pd.DataFrame, names: Names) -> list[Leaf]:
    return _extreme(pairs_unet, names["t1", SEG], "farther", "nearer", sign=1)


def _extreme(pairs: pd.DataFrame, source: str, so: str, otherwise: str, sign: int) -> list[Leaf]:
    table = _relative(pairs)
    others = table.columns.drop(source)
    return [
        above(
            (f"{source} is {so} than {other}", f"{source} is {otherwise} than {other}"),
            over_seeds(sign * (table[source] - table[other]), comparisons=len(others)),
        )
        for other in others
    ]


def drawn_source(
    by_source_unet: pd.DataFrame, by_source_pspnet: pd.DataFrame, tolerance: float, names: Names
) -> list[Leaf]:  # fmt: skip
    """A source agrees where no seed gives it a sure answer that is not that of the target's own auto-encoder."""
    found, own = [], names["acdc", AUTO]
    for title, swept in _titled(by_source_unet, by_source_pspnet):
        answers = {
            source: [_answer(each, tolerance) for _, each in part.groupby("seed")]
            for source, part in swept.groupby("source", sort=False)
        }
        first = answers.pop(own)
        for source, others in answers.items():
            sure = [answer is one for answer, one in zip(others, first, strict=True) if None not in (answer, one)]
            verdict = NO if False in sure else YES if len(sure) == len(first) else UNSURE
            says = f"{title}: {source} gives the answer of {own}"
            words = f"{says} in {sum(sure)} of {len(sure)} seeds where both are sure."
            found.append(stated(says, words, sum(sure), verdict))
    return found


def _answer(swept: pd.DataFrame, tolerance: float) -> bool | None:
    """Whether a network is reusable by one source: `prr.verdict.reusable_network`, limits simultaneous over kernels."""
    limits = pd.DataFrame(estimates(by_layer(swept.drop(columns="seed"))))
    return reusable_network(layer_verdicts(limits, tolerance))


def part_of_data(
    pairs_unet: pd.DataFrame, pairs_pspnet: pd.DataFrame, few_unet: pd.DataFrame, few_pspnet: pd.DataFrame
) -> list[Leaf]:
    found = []
    for title, (pairs, few_pairs) in _titled((pairs_unet, few_unet), (pairs_pspnet, few_pspnet)):
        whole, few = _relative(pairs).mean(), _relative(few_pairs)
        nearest = whole.idxmin()
        margin = few.drop(columns=nearest).min(axis=1) - few[nearest]
        says = f"{title}: {nearest}, the nearest with all patients, is{{}} the nearest with few"
        found.append(above((says.format(""), says.format(" not")), over_seeds(margin, comparisons=len(TITLES))))
    return found


# --------------------------------------------------------------------- transfer


def reused_share() -> list[Leaf]:
    row = paper.reused_share(parameter_table(pspnet())).iloc[0]
    says = "92 % of the pairs of kind and layer are reused", "not 92 % of the pairs of kind and layer are reused"
    return [exact(says, row["share"], round(row["share"], 2) == 0.92, 0.92)]


def can_hurt(transfer_rows: pd.DataFrame) -> list[Leaf]:
    """One of the contrasts that `transfer.contrasts` declares certainly hurts; refuted where all certainly gain."""
    table = transfer.contrasts(_paper_runs(transfer_rows))
    found = [
        below((f"loading hurts: {row.contrast}", f"loading gains: {row.contrast}"),
              Estimate(row.gain, row.low, row.high, row.over, row.seeds))
        for row in table.itertuples()
    ]  # fmt: skip
    verdicts = [leaf.verdict for leaf in found]
    verdict = YES if YES in verdicts else NO if set(verdicts) == {NO} else UNSURE
    return [found[verdicts.index(verdict)]]


def small_rmse_better(transfer_rows: pd.DataFrame) -> list[Leaf]:
    wide = _by_row(transfer_rows)
    asked = list(itertools.product(sorted(wide.columns.unique(0)), (4, 5), (1, 2, 3, 6, 7)))
    gains = pd.DataFrame({each: wide[each[0], each[1]] - wide[each[0], each[2]] for each in asked})
    return [
        above((f"{size} patients: row {one} beats row {two}", f"{size} patients: row {two} beats row {one}"), each)
        for (size, one, two), each in zip(asked, estimates(gains), strict=True)
    ]


def gain_with_few(transfer_rows: pd.DataFrame) -> list[Leaf]:
    wide = _by_row(transfer_rows)
    few, every = sorted(wide.columns.unique(0))
    more = pd.DataFrame({
        row: (wide[few, row] - wide[few, 1]) - (wide[every, row] - wide[every, 1]) for row in (4, 5)
    })  # fmt: skip
    says = f"row {{}} gains {{}} with {few} patients than with {every}"
    return [
        above((says.format(row, "more"), says.format(row, "less")), each)
        for row, each in zip(more, estimates(more), strict=True)
    ]


def table(transfer_rows: pd.DataFrame, labels: Mapping[int, str], is_paper: bool) -> list[Leaf]:
    """The cells of the paper's table, beside networks that have learned from its own data sets alone."""
    if not is_paper or dict(labels) != LABELS:
        found = "Not attempted: the paper's numbers are of its own patients."
        return [stated("the table's numbers", found, np.nan, ABSENT)]
    rows = _paper_runs(transfer_rows)
    cells = rows.pivot(index=["seed", "patient"], columns=["patients", "row", "class"], values="dice")
    means = cells.T.groupby(level=["patients", "row"]).mean().T
    cells = pd.concat([cells, pd.concat({"mean": means}, axis=1).reorder_levels([1, 2, 0], axis=1)], axis=1)
    sizes = dict(zip((10, 50), sorted(rows["patients"].unique()), strict=True))
    printed = paper.transfer().rename(columns={f"class-{label}": label for label in range(4)})
    printed = printed[printed["row"].isin(rows["row"])]
    asked = [(row, each) for _, row in printed.iterrows() for each in (0, 1, 2, 3, "mean")]
    ours = cells[[(sizes[row["patients"]], row["row"], each) for row, each in asked]]
    return [
        _cell(row, each, sizes[row["patients"]], estimate)
        for (row, each), estimate in zip(asked, estimates(ours), strict=True)
    ]


def _cell(row: pd.Series, cell: int | str, patients: int, estimate: Estimate) -> Leaf:
    """One number of the paper's table; a mean that does not follow from its own classes is not asked for."""
    name = f"row {row['row']}, {cell}, {patients} patients ({row['patients']} in the paper)"
    if cell == "mean" and abs(row["mean"] - row["recomputed"]) > TOLERANCES["cell"]:
        found = f"Not attempted: {name} does not follow from its own classes."
        return stated(name, found, estimate.here, ABSENT)._replace(paper=row["mean"])
    return number(name, row[cell], estimate)


def results_vary(transfer_rows: pd.DataFrame) -> list[Leaf]:
    """No test: two trainings always differ, so it could not come out otherwise."""
    rows = _paper_runs(transfer_rows)
    mean = rows.groupby(["patients", "row", "seed"])["dice"].mean().groupby(["patients", "row"])
    spread = (mean.max() - mean.min()).max()
    found = f"Not a test, for seeds always differ: two seeds of one row by up to {spread:.2f}."
    return [stated("results vary over seeds", found, spread, ABSENT)]


def semi_supervised(transfer_rows: pd.DataFrame, pairs_pspnet: pd.DataFrame, names: Names) -> list[Leaf]:
    wide, relative = _by_row(transfer_rows), _relative(pairs_pspnet).mean()
    few = min(wide.columns.unique(0))
    loaded, more = (("t1", SEG), ("t1", AUTO), ("rvsc", SEG)), {}
    for own, rows in ((10, (2, 4, 6)), (11, (3, 5, 7))):
        for source, row in zip(loaded, rows, strict=True):
            sign = np.sign(relative[names[source]] - relative[names["acdc", AUTO]])
            more[own, row] = sign * (wide[few, own] - wide[few, row])
    says = "of rows {} and {}, with few patients, the nearer source gains {}"
    return [
        above((says.format(*rows, "more"), says.format(*rows, "less")), each)
        for rows, each in zip(more, estimates(pd.DataFrame(more)), strict=True)
    ]


def _paper_runs(transfer_rows: pd.DataFrame) -> pd.DataFrame:
    """The runs that repeat the paper's: PSPNet by the paper's list, else whichever list there is."""
    runs = transfer_rows.query("network == 'pspnet'")
    if runs.empty:
        raise MissingError("transfer: expected runs of pspnet, the paper's network; this run has none")
    return runs[runs["parameters"] == ("paper" if (runs["parameters"] == "paper").any() else "inferred")]


def _by_row(transfer_rows: pd.DataFrame) -> pd.DataFrame:
    """Mean Dice of all classes: index (seed, patient), columns (number of labelled patients, row)."""
    rows = _paper_runs(transfer_rows)
    return rows.groupby(["seed", "patient", "patients", "row"])["dice"].mean().unstack(["patients", "row"])


# ------------------------------------------------------------------ parts of tables


def _titled(unet: object, pspnet: object) -> Iterator[tuple[str, object]]:
    """What is known of both networks, with their titles."""
    return zip((TITLES["unet"], TITLES["pspnet"]), (unet, pspnet), strict=True)


def _less(swept: pd.DataFrame, pairs: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Of each patient the mean drop over layers of one kind less that of another, a column for each pair of kinds."""
    mean = by_layer(swept).T.groupby(level="kind").mean().T
    return pd.DataFrame({f"{more} {less}": mean[more] - mean[less] for more, less in pairs})


def _over_depth(swept: pd.DataFrame, kind: str) -> Estimate:
    """Rank correlation over layers of each patient's drops with depth, mean over patients."""
    drops = by_layer(swept)[kind]
    return estimates(trend(drops, drops.columns).to_frame())[0]


def _of_layers(changes: pd.DataFrame, column: str, drops: pd.DataFrame) -> np.ndarray:
    """What `prr.shift_scale` says of the layers that are columns of `drops`."""
    return changes.set_index("layer")[column].reindex(drops.columns).to_numpy(dtype=float)


def _share(holds: pd.Series, table: pd.DataFrame, comparisons: int = len(TITLES)) -> Estimate:
    """The share of layers for which something holds, one for each seed."""
    return over_seeds(holds.groupby(table["seed"]).mean(), comparisons)


def _relative(pairs: pd.DataFrame) -> pd.DataFrame:
    """Relative RMSE to the target: a line per seed, a column per source."""
    return sources.ranking(pairs).pivot(index="seed", columns="source", values="relative")


def _listed(kind: str) -> tuple[int, ...]:
    table = paper.not_reusable()
    return tuple(table.loc[table["kind"] == kind, "layer"])


def _encoder(swept: pd.DataFrame) -> pd.DataFrame:
    return swept[swept["name"].str.startswith("encoder.")]
