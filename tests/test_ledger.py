"""Every claim's test, on a world in which the paper is right and on one in which it is wrong."""

import itertools
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from prr.errors import MissingError
from prr.layers import parameter_table
from prr.study import claims, ledger, paper, pspnet, rules, sources, transfer, unet
from prr.study.backbones import CONNECTIONS
from prr.study.results import DOSES
from prr.verdict import layer_verdicts

YES, NO, OPEN, ABSENT = "reproduced", "not reproduced", "undecided", "not attempted"
TABLES = {
    name: parameter_table(model(2), torch.zeros(1, 1, 48, 48)).query("live")[["kind", "layer", "name"]]
    for name, model in (("unet", unet), ("pspnet", pspnet))
}
LISTED = {"RM": [1, 17], "W": [1, 6, 11, 12, 16, 17, 19, 20]}


class World:
    """Results as the paper describes them (right) or as far from it as can be."""

    def __init__(self, right, phantom=()):
        self.right, self.phantoms = right, phantom

    def phantom(self, dataset):
        return dataset in self.phantoms

    def table(self):
        table = parameter_table(pspnet(2))
        return table if self.right else table[table["kind"] == "W"]

    def sweep(self, network):
        table = TABLES[network].assign(drop=0.0)
        kind, layer, last = table["kind"], table["layer"], table["layer"].max()
        if network == "unet":
            stated = {"W": 0.6, "RM": 0.6 - 0.5 * layer / last, "RV": 0.2 + 0.1 * (layer % 2), "B": 0.5 * (layer == 1)}
        else:
            small = {"RM": 0.03, "RV": 0.03}
            stated = {**small, **{each: np.where(layer.isin(LISTED[each]), 0.5, 0.01) for each in LISTED}}
        for each, drop in stated.items():
            table["drop"] = np.where(kind == each, drop, table["drop"])
        table["drop"] -= 0.002 * kind.isin(["RW", "RB"])
        if network == "unet":  # falls with depth
            table["drop"] += np.where(kind == "RB", 0.04 - 0.04 * layer / last, 0)
        if not self.right:
            table["drop"] = 0.6 - table["drop"]
            if network == "unet":
                table["drop"] = np.where(kind == "RM", layer / 100, np.where(kind == "RV", layer / 50, table["drop"]))
                table["drop"] = np.where(kind == "RB", 0.3 + layer / 50, np.where(kind == "W", 0, table["drop"]))
            table["drop"] = np.where(kind.eq("W") & layer.eq(1), 0, table["drop"])
        return table.assign(score=1 - table["drop"], low=table["drop"] - 1e-3, high=table["drop"] + 1e-3)

    def first_layer(self, network, normalisation):
        drop = 0.5 if self.right else 0.0
        return pd.DataFrame({"kind": ["RM"], "layer": [1], "drop": drop, "low": drop - 1e-3, "high": drop + 1e-3})

    def by_source(self, network, source):
        drop = 0.0 if self.right or source == "ACDC auto" else 0.6
        return TABLES[network].query("kind == 'W'").assign(drop=drop, low=drop - 1e-3, high=drop + 1e-3)

    def dose(self, network, dose):
        drop = 0.5 if self.right else 0.0
        return TABLES[network].query("kind == 'W'").assign(drop=drop, low=drop - 1e-3, high=drop + 1e-3)

    def distance(self, network):
        factor = 5 if self.right else 50
        return TABLES[network].query("kind == 'W'").assign(rmse=factor if network == "unet" else 1.0)

    def shift(self, network):
        names = TABLES[network].query("kind == 'RM'")
        more, less = (2.0, 1.0) if self.right else (1.0, 2.0)
        return names[["layer", "name"]].assign(MRM=more, MRB=less, MRV_log=more, MRW_log=less)

    def architecture(self):
        """Transplants at equal distance: short connections help and long ones harm where the paper is right."""
        sign = 1 if self.right else -1
        drops = {"unet": 0.3 if self.right else 0.0, "pspnet": 0.0 if self.right else 0.3}
        drops |= {name: 0.3 + sign * (0.1 * long - 0.2 * short) for name, (short, long) in CONNECTIONS.items()}
        rows = [
            (network, start, "", seed, seed, donor, steps, 0.9, 1, patient, drop + 1e-4 * (seed + patient), 0.25)
            for network, drop in drops.items()
            for start, seed, patient, (donor, steps) in itertools.product(
                ("independent", "shared"), range(3), range(4),
                (("source", "full"), ("source", "half"), ("at", "full"), ("noise at", "full")),
            )
            if (start, donor) != ("independent", "noise at")
        ]  # fmt: skip
        columns = ["network", "start", "source", "target_seed", "source_seed", "donor", "steps", "dice", "layer"]
        return pd.DataFrame(rows, columns=[*columns, "patient", "drop", "relative"])

    def pairs(self, network):
        """RMSE of a pair is that of its second network, so ranks, groups and ranges are ours to choose."""
        if self.right:
            size = {"T1 auto": 0.1, "ACDC auto": 0.5, "RVSC auto": 0.4, "RVSC seg": 0.6, "T1 seg": 3.0, "ACDC seg": 0.1}
        else:
            size = {"T1 auto": 9.0, "ACDC auto": 5.0, "RVSC auto": 8.0, "RVSC seg": 6.0, "T1 seg": 1.0, "ACDC seg": 1.0}
        apart, rows = 1.0, []
        for seed, (first, second) in itertools.product((0, 1, 2), itertools.combinations(sources.SIX, 2)):
            rmse = max(size[first], size[second]) * (1 + 0.001 * seed)
            if not self.right:
                rmse = {"A": 1, "B": 2, "C": 1.5}[sources.relation(first, second)[0]]
                rmse *= size[second] ** 0.001 if first != sources.TARGET else {**size}[second] ** 0.01
            if network == "pspnet":
                rmse *= 1 if self.right else 100
            for layer in range(1, 9):
                rows.append((network, seed, first, second, "W", layer, f"m{layer}", rmse * (1 + layer / 50)))
        columns = ["network", "seed", "first", "second", "kind", "layer", "name", "rmse"]
        table = pd.DataFrame(rows, columns=columns)
        null = table["rmse"] * (4 if self.right else 0.9)
        relative = table["rmse"]
        return table.assign(
            relative=relative,
            relative_second=relative,
            travelled_first=1.0,
            travelled_second=1.0,
            apart=apart,
            null=null,
        )

    def few(self, network):
        nearest = sources.ranking(self.pairs(network)).query("rank == 1")["source"].iloc[0]
        rows = [
            (network, seed, source, (0.5 if (source == nearest) == self.right else 1.0) + 0.001 * seed)
            for seed in (0, 1, 2)
            for source in list(sources.SIX)[1:]
        ]
        return pd.DataFrame(rows, columns=["network", "seed", "source", "relative"])

    def verdict(self, network):
        alone = TABLES[network].query("kind == 'W'").head(3).assign(drop=0.02, low=0.01, high=0.03)
        return SimpleNamespace(layers=layer_verdicts(alone))

    def joint(self, network):
        drop = 0.4 if self.right else -0.4
        return pd.DataFrame({"pairs": [3], "drop": drop, "low": drop - 0.001, "high": drop + 0.001})

    def branches(self):
        return pd.DataFrame({"name": list("abcdefgh"), "ratio": 0.5 if self.right else 2.0})

    def algebra(self):
        kinds = {"RM": "shift", "RB": "shift", "RV": "scale", "RW": "scale"}
        return pd.DataFrame(
            {"kind": list(kinds), "changes": list(kinds.values()), "residual": 1e-6 if self.right else 1e-2}
        )

    def transfer(self):
        printed = paper.transfer().set_index(["patients", "row"])
        rows = []
        for (size, patients), seed, row in itertools.product(((10, 10), (50, 30)), (0, 1, 2), transfer.ROWS):
            for label in range(4):
                dice = printed.loc[(size, min(row, 7)), f"class-{label}"] if row < 8 else (0.3 if row == 10 else 0.2)
                dice = float(dice) if self.right else 1 - float(dice) * (1 if size == 50 else 0.6)
                if self.right and row == 1 and seed == 2:
                    dice += 0.0001
                rows.append(
                    ("pspnet", "paper", patients, row, transfer.ROWS[row].label, seed, label, dice + 1e-5 * seed)
                )
        columns = ["network", "parameters", "patients", "row", "label", "seed", "class", "dice"]
        return pd.DataFrame(rows, columns=columns)


def here(world):
    return ledger.ledger(world).set_index("id")["here"].to_dict()


# what no world can give: a pattern's absence, little spread
NEVER = {"unet-rv-pattern": OPEN, "results-vary": OPEN}
OWN = {
    "pspnet-w-pattern",
    "semi-supervised",
    "groups-unet",
    "groups-pspnet",
    "statement-a",
    "statement-b",
    "statement-c",
}  # tested below


def test_the_claims_of_the_paper_and_their_tests_have_the_same_names():
    assert set(claims.TESTS) == set(paper.claims()["id"])
    assert not paper.claims()["id"].duplicated().any()


@pytest.fixture(scope="module")
def right():
    return here(World(True))


@pytest.fixture(scope="module")
def wrong():
    return here(World(False))


@pytest.mark.parametrize("claim", sorted(set(paper.claims()["id"]) - OWN))
def test_a_claim_is_reproduced_where_the_paper_is_right(claim, right):
    assert right[claim] == NEVER.get(claim, YES)


@pytest.mark.parametrize("claim", sorted(set(paper.claims()["id"]) - OWN - {"connections", "results-vary"}))
def test_a_claim_is_not_reproduced_where_the_paper_is_wrong(claim, wrong):
    assert wrong[claim] == NO


def verdicts(claim, results):
    return [leaf.verdict for leaf in claims.TESTS[claim](results)]


@pytest.mark.parametrize(
    ("lost", "verdict"), [((6, 7, 11, 12, 16, 17), YES), ((2, 3, 4, 5, 9, 10), NO), ((6, 7, 2, 3), OPEN), ((1,), OPEN)]
)
def test_the_pattern_of_kernels_that_are_not_reusable(lost, verdict):
    table = TABLES["pspnet"].assign(
        drop=0.5 * (TABLES["pspnet"]["kind"].eq("W") & TABLES["pspnet"]["layer"].isin(lost))
    )
    swept = table.assign(low=table["drop"], high=table["drop"])
    assert verdicts("pspnet-w-pattern", SimpleNamespace(sweep=lambda network: swept)) == [verdict]


def curves(level):
    """Pairs whose RMSE over eight layers `level` tells."""
    rows = [
        (network, seed, first, second, "W", layer, level(first, second) * (1 + 0.01 * layer))
        for network in ("unet", "pspnet")
        for seed in (0, 1)
        for first, second in itertools.combinations(sources.SIX, 2)
        for layer in range(1, 9)
    ]
    table = pd.DataFrame(rows, columns=["network", "seed", "first", "second", "kind", "layer", "rmse"])
    return SimpleNamespace(pairs=lambda network: table[table["network"] == network].assign(null=table["rmse"]))


def t1_seg(first, second):
    return "T1 seg" in (first, second)


def test_two_groups_with_t1_segmentation_apart():
    assert verdicts("groups-unet", curves(lambda *pair: 10.0 if t1_seg(*pair) else 1.0)) == [YES, YES]
    assert verdicts("groups-unet", curves(lambda *pair: 1.0 if t1_seg(*pair) else 10.0)) == [YES, NO]
    three = curves(
        lambda first, second: 100.0 if t1_seg(first, second) else 10.0 if "RVSC seg" in (first, second) else 1.0
    )
    assert verdicts("groups-unet", three)[0] == NO
    assert verdicts("groups-pspnet", three) == [YES]
    assert verdicts("groups-pspnet", curves(lambda *pair: 10.0 if t1_seg(*pair) else 1.0)) == [NO]


@pytest.mark.parametrize("letter", "ABC")
def test_the_magnitude_is_uncertain_where_ranges_meet(letter):
    claim = f"statement-{letter.lower()}"
    wide = curves(lambda first, second: 1.0 + list(sources.SIX).index(first) + 0.9 * list(sources.SIX).index(second))
    assert set(verdicts(claim, wide)) == {YES}
    apart = curves(lambda *pair: {"A": 1.0, "B": 10.0, "C": 100.0}[sources.relation(*pair)[0]])
    assert set(verdicts(claim, apart)) == {NO}


@pytest.mark.parametrize(("gain", "verdict"), [(0.2, YES), (-0.2, NO), (0.0, OPEN)])
def test_semi_supervised_transfer_follows_rmse_as_any_other(gain, verdict):
    near = curves(lambda first, second: 0.5 if second == "ACDC auto" else 1.0)
    pairs = near.pairs("pspnet").assign(relative=near.pairs("pspnet")["rmse"], travelled_second=1.0)
    runs = World(True).transfer().assign(dice=0.5)
    runs["dice"] += gain * runs["row"].isin([10, 11]) + 1e-4 * np.where(runs["row"] > 9, runs["seed"] - 1, 0)
    results = SimpleNamespace(pairs=lambda network: pairs, transfer=lambda: runs)
    assert set(verdicts("semi-supervised", results)) == {verdict}


def test_results_vary_where_two_seeds_of_a_row_differ():
    runs = World(True).transfer()
    runs["dice"] += 0.1 * ((runs["row"] == 3) & (runs["seed"] == 1))
    assert verdicts("results-vary", SimpleNamespace(transfer=lambda: runs)) == [YES]


def test_a_mean_that_contradicts_its_own_row_is_not_attempted():
    leaves = claims.TESTS["table"](World(True))
    assert len(leaves) == 70
    assert [leaf.leaf for leaf in leaves if leaf.verdict == ABSENT] == [
        "50 samples, row 6, mean: does not follow from its own classes"
    ]


def test_what_phantoms_decide_is_an_analogue_and_algebra_is_not():
    table = ledger.ledger(World(True, phantom=("t1",))).set_index("id")
    assert table.loc["t1-auto-nearest", ["verdict", "here"]].tolist() == ["analogue only", YES]
    assert table.loc["unet-w", "verdict"] == table.loc["shift-scale", "verdict"] == YES
    assert table.loc["results-vary", "verdict"] == OPEN  # undecided stays undecided


def test_the_rule_of_claims(monkeypatch):
    leaf = rules.open_
    for found, expected in (
        ([YES, YES], YES), ([YES, OPEN], OPEN), ([OPEN, NO, YES], NO), ([ABSENT, YES], YES), ([ABSENT], ABSENT),
        ([], ABSENT)
    ):  # fmt: skip
        monkeypatch.setitem(claims.TESTS, "unet-w", lambda results, found=found: [leaf("x", 1, each) for each in found])
        assert ledger.ledger(World(True)).set_index("id").loc["unet-w", "here"] == expected


class Nothing:
    def phantom(self, dataset):
        raise AssertionError("nothing was decided")

    def __getattr__(self, name):
        def missing(*arguments):
            raise MissingError("not there")

        return missing


def test_without_results_nothing_is_attempted_and_the_chapter_is_named():
    table = ledger.ledger(Nothing())
    assert set(table["verdict"]) == {ABSENT}
    assert table.set_index("id").loc["can-hurt", "reason"] == "results not computed yet: chapter 6"


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(0.71, 0.74, YES), (0.60, 0.66, NO), (0.60, 0.72, OPEN), (np.nan, np.nan, OPEN)]
)
def test_a_printed_number_is_reproduced_within_its_tolerance(low, high, verdict):
    assert rules.number("cell", 0.73, 0.7, low, high).verdict == verdict


def test_intervals_over_seeds_are_students():
    leaf = rules.over_seeds("x", [1.0, 3.0])
    assert leaf[1:4] == pytest.approx((2.0, 2 - 12.7062, 2 + 12.7062), abs=1e-3)
    assert (leaf.seeds, leaf.verdict) == (2, OPEN)
    assert np.isnan(rules.over_seeds("x", [1.0])[2:4]).all()


def test_doses_are_asked_as_they_are_measured():
    asked = []
    world = World(True)
    claims.TESTS["slight-change"](SimpleNamespace(dose=lambda *each: asked.append(each) or world.dose(*each)))
    assert asked == [("unet", dose) for dose in DOSES]


COUNTS = {  # layers that the paper's text speaks of, times kinds, networks, sizes or sources
    "unet-w": 23, "unet-b": 23, "unet-rw-rb": 2 * 18, "unet-w-b": 1, "slight-change": 3, "pspnet-w": 20,
    "first-layer-unet": 3, "first-layer-pspnet": 3, "hurts-unet-more": 2, "rm-rv-matter": 2 * 4, "sensitivity-depth": 2,
    "networks": 2, "similar-kernels": 2 * 3, "t1-auto-nearest": 4, "t1-seg-farthest": 4, "drawn-source": 2 * 4,
    "small-rmse-better": 2 * 2 * 5, "gain-with-few": 2, "table": 70, "semi-supervised": 2 * 3,
}  # fmt: skip


def test_no_leaf_is_left_out():
    counts = ledger.leaves(World(True)).groupby("id").size()
    assert {claim: counts[claim] for claim in COUNTS} == COUNTS
    assert counts["pspnet-rv-rw-rb"] == 3 * counts["pspnet-rm"] == 3 * (TABLES["pspnet"]["kind"] == "RM").sum()


@pytest.mark.parametrize(
    ("here", "low", "high", "verdict"), [(1, 0.5, 2, YES), (-1, -2, -0.5, NO), (1, -1, 3, OPEN), (-1, -3, 1, OPEN)]
)
def test_an_interval_that_holds_the_bound_leaves_it_open(here, low, high, verdict):
    assert rules.above("x", here, low, high).verdict == rules.below("x", -here, -high, -low).verdict == verdict


def one(claim, **tables):
    return verdicts(claim, SimpleNamespace(**{name: (lambda *_, table=table: table) for name, table in tables.items()}))


def test_scales_are_compared_by_their_own_columns():
    shift = World(True).shift("unet").assign(MRV_log=1.0, MRW_log=2.0)
    assert set(one("assumed-scale", shift=shift)) == {NO}
    assert set(one("assumed-shift", shift=shift)) == {YES}


def test_sensitivity_is_the_drop_per_shift():
    layer = np.arange(1, 19)
    shift = pd.DataFrame({"layer": layer, "name": layer, "MRM": layer, "MRB": 1.0 / layer})
    swept = pd.concat(
        [pd.DataFrame({"kind": kind, "layer": layer, "name": layer, "drop": 0.1}) for kind in ("RM", "RB")]
    )
    assert one("sensitivity-depth", sweep=swept, shift=shift) == [YES, NO]


@pytest.mark.parametrize(
    ("factor", "spread", "verdict"), [(9, 0, YES), (1 / 9, 0, YES), (11, 0, NO), (1 / 11, 0, NO), (1, 2, OPEN)]
)
def test_one_order_of_magnitude_is_less_than_a_factor_of_ten(factor, spread, verdict):
    layer = np.arange(8)
    table = pd.DataFrame({"kind": "W", "layer": layer, "rmse": factor * 10.0 ** (spread * (layer % 2))})
    biases = pd.DataFrame({"kind": "B", "layer": layer, "rmse": 1e9})
    tables = {"unet": pd.concat([table, biases]), "pspnet": table.assign(rmse=1.0)}
    assert verdicts("same-order", SimpleNamespace(distance=tables.get)) == [verdict]


def test_more_seeds_are_not_more_layers():
    def share(seeds):
        pairs = World(True).pairs("unet").query("seed < @seeds").assign(apart=1, null=1.0)
        pairs["rmse"] = np.where(pairs["layer"] < 7, 0.5, 2.0)
        return claims.TESTS["similar-kernels"](SimpleNamespace(pairs=lambda network: pairs))[0][1:4]

    assert share(3) == pytest.approx(share(1))


@pytest.mark.parametrize(("ratio", "apart", "expected"), [(0.8, 1, {YES}), (0.95, 1, {NO}), (0.8, 0, set())])
def test_similar_kernels_are_clearly_nearer_and_have_independent_starts(ratio, apart, expected):
    pairs = World(True).pairs("unet").assign(null=1.0, rmse=ratio, apart=apart)
    assert set(one("similar-kernels", pairs=pairs)) == expected


@pytest.mark.parametrize(
    ("joint", "low", "high", "verdict"), [(0.4, 0.3, 0.5, YES), (0.01, 0.0, 0.015, NO), (0.04, 0.03, 0.06, OPEN)]
)
def test_errors_accumulate_beyond_the_worst_single_layer(joint, low, high, verdict):
    alone = pd.DataFrame({"drop": [0.0, 0.03, 0.9], "low": [0.0, 0.02, 0.8], "high": [0.0, 0.04, 1.0]})
    together = pd.DataFrame({"pairs": [2], "drop": joint, "low": low, "high": high})
    assert set(one("errors-accumulate", sweep=alone, joint=together)) == {verdict}


def test_one_layer_alone_accumulates_nothing():
    alone = pd.DataFrame({"drop": [0.0, 0.9], "low": [0.0, 0.8], "high": [0.0, 1.0]})
    assert one("errors-accumulate", sweep=alone) == []


def test_a_source_whose_answer_is_open_leaves_the_draw_open():
    kernels = World(True).by_source("unet", "T1 seg").assign(drop=0.05, low=0.0, high=0.1)
    assert set(one("drawn-source", by_source=kernels)) == {OPEN}


def test_the_lead_with_few_patients_is_over_the_next_source():
    few = World(True).few("unet")
    few.loc[few["source"] == "RVSC auto", "relative"] = 0.4 + 0.001 * few["seed"]
    assert set(one("part-of-data", pairs=World(True).pairs("unet"), few=few)) == {NO}


def rows_of(gains, noise=1e-4):
    """Transfer runs whose rows lie this far above row 1, over three seeds."""
    runs = World(True).transfer().assign(dice=0.5)
    wobble = np.where(runs["row"] > 1, noise * (runs["seed"] - 1), 0)
    return runs.assign(dice=0.5 + runs["row"].map(gains).fillna(0) + wobble)


@pytest.mark.parametrize(
    ("gains", "noise", "verdict"),
    [
        ({2: -0.1, 3: 0.1, 6: 0.1, 7: 0.1}, 1e-4, YES), ({7: -0.1}, 1e-4, YES),
        (dict.fromkeys((2, 3, 6, 7), 0.1), 1e-4, NO),
        ({2: 0.1, 3: 0.1, 6: 0.1}, 1e-4, OPEN), ({2: -0.1}, 0.03, OPEN),
    ],
)  # fmt: skip
def test_one_row_that_certainly_hurts_is_enough(gains, noise, verdict):
    assert one("can-hurt", transfer=rows_of(gains, noise)) == [verdict]


def test_the_mean_of_a_row_includes_background():
    runs = rows_of({}, noise=0)
    runs["dice"] += np.where(runs["row"].isin([2, 3, 6, 7]), np.where(runs["class"] == 0, -0.4, 0.1), 0)
    assert one("can-hurt", transfer=runs) == [YES]


def test_spread_is_from_the_worst_seed_to_the_best():
    runs = rows_of({}, noise=0)
    runs["dice"] += 0.03 * (runs["row"] == 3) * (runs["seed"] - 1)
    assert one("results-vary", transfer=runs) == [YES]


def test_without_runs_of_the_papers_network_its_table_is_not_attempted():
    world = World(True)
    world.transfer = lambda: World(True).transfer().assign(network="unet")
    table = ledger.ledger(world).set_index("id")["here"]
    assert set(table[["can-hurt", "small-rmse-better", "gain-with-few", "table", "results-vary"]]) == {ABSENT}


def test_one_cloud_has_no_groups():
    level = {
        pair: draw
        for pair, draw in zip(
            itertools.combinations(sources.SIX, 2), np.random.default_rng(0).normal(size=15), strict=True
        )
    }
    cloud = curves(lambda *pair: np.exp(level[pair]))
    assert sources.groups(cloud.pairs("unet"), "unet")["silhouette"].max() > 0.5  # large, and yet no groups
    assert verdicts("groups-unet", cloud) == [OPEN, OPEN]


@pytest.mark.parametrize("rvsc", [5.0, 1.0])
def test_likeness_counts_every_source_that_shares_data_or_task(rvsc):
    near = {"ACDC auto": 1.0, "T1 seg": 1.0, "RVSC seg": rvsc, "T1 auto": 2.0, "RVSC auto": 2.0}
    pairs = World(True).pairs("unet").query("first == @sources.TARGET")
    pairs = pairs.assign(relative=pairs["second"].map(near) + 1e-4 * pairs["seed"] * (pairs["second"] == "T1 auto"))
    assert set(one("rmse-likeness", pairs=pairs)) == {YES if rvsc > 4 else NO}


def test_the_reason_and_the_words_give_the_numbers():
    table = ledger.ledger(World(True, phantom=("acdc",)))
    reasons = table.set_index("id")["reason"]
    assert reasons["reused-share"] == "share of pairs of kind and layer: 0.918 (paper 0.92)"
    assert reasons["unet-w"] == "23 of 23: W 1 not reusable: 0.6 [0.599, 0.601]"
    count = ((table["verdict"] == "analogue only") & (table["here"] == YES)).sum()
    assert f"Of the analogues {count} came out as the paper says" in str(ledger.in_words(table))


def test_a_farther_source_that_gains_more_speaks_against_rmse():
    far = curves(lambda first, second: 2.0 if second == "ACDC auto" else 1.0).pairs("pspnet")
    pairs = far.assign(relative=far["rmse"], travelled_second=1.0)
    assert set(one("semi-supervised", pairs=pairs, transfer=rows_of({10: 0.2, 11: 0.2}))) == {NO}


def test_kinds_are_compared_layer_by_layer():
    layer = np.arange(23)
    swept = pd.concat([pd.DataFrame({"kind": kind, "drop": layer + more}) for kind, more in (("W", 0.5), ("B", 0.0))])
    assert one("unet-w-b", sweep=swept) == [YES]  # by 0.5 in every layer, and layers differ by far more


@pytest.mark.parametrize("drops", [np.linspace(0.2, 0.8, 18), np.linspace(0.8, 0.2, 18)])
def test_a_trend_refutes_that_there_is_none(drops):
    swept = pd.DataFrame({"kind": "RV", "layer": range(1, 19), "drop": drops})
    assert one("unet-rv-pattern", sweep=swept) == [NO]


def test_values_that_are_all_the_same_have_no_trend_and_give_no_warning():
    layer, same = pd.Series(range(18)), pd.Series([0.0] * 18)
    assert rules.falling("x", layer, same).verdict == rules.patternless("x", layer, same).verdict == OPEN


@pytest.mark.parametrize(("holds", "verdict"), [(18, YES), (14, YES), (13, OPEN), (5, OPEN), (4, NO), (0, NO)])
def test_most_layers_means_that_the_wilson_interval_clears_one_half(holds, verdict):
    # Wilson's 95 % interval clears 1/2 where (2 k - n)^2 > z^2 n, here |2 k - 18| > 8.3: from 14 up, from 4 down
    assert (abs(2 * holds - 18) > 1.96 * 18**0.5) == (verdict != OPEN)
    assert rules.most("x", pd.Series([True] * holds + [False] * (18 - holds))).verdict == verdict


def test_layers_whose_intervals_straddle_the_tolerance_leave_a_claim_open():
    swept = World(True).sweep("unet").assign(low=-1.0, high=1.0)
    assert set(one("unet-w", sweep=swept) + one("unet-rw-rb", sweep=swept)) == {OPEN}


def test_a_chapter_shows_its_own_claims():
    table = ledger.ledger(World(True), "03_unet")
    assert set(table["page"]) == {"03_unet"}
    assert set(ledger.leaves(World(True), "03_unet")["id"]) == set(table["id"])
    assert {"unet-w", "first-layer-unet"} <= set(table["id"])


def test_a_leaf_carries_its_tolerance_and_its_seeds():
    table = ledger.leaves(World(True)).set_index("id")
    assert set(table.loc["unet-w", "tolerance"]) == {0.05}
    assert set(table.loc["can-hurt":"gain-with-few", "seeds"]) == {3}
    assert table.loc["reused-share", "paper"] == 0.92


@pytest.mark.parametrize(("right", "words"), [(True, "still true: "), (False, "no longer true: ")])
def test_claims_that_mix_causes_are_asked_again_at_equal_start_and_distance(right, words):
    table = ledger.ledger(World(right)).set_index("id")["equal"]
    asked = table[table != ""]
    assert set(asked.index) == set(claims.EQUAL) == {"hurts-unet-more", "connections"}
    assert asked.str.startswith(words).all()


def test_without_chapter_8_that_question_is_not_attempted():
    world = World(True)

    def missing():
        raise MissingError("not computed yet")

    world.architecture = missing
    table = ledger.ledger(world).set_index("id")
    assert table.loc["hurts-unet-more", "equal"] == "not attempted: results not computed yet: chapter 8"
    assert (table.loc["hurts-unet-more", "here"], table.loc["connections", "here"]) == (YES, ABSENT)


def test_the_ledger_shows_that_column_only_where_it_says_something():
    from prr import figures

    title = "still true when start and distance are equal?"
    table = ledger.ledger(World(True))
    assert title in figures.Ledger(table)._repr_html_()
    assert title not in figures.Ledger(table[table["equal"] == ""])._repr_html_()


def test_one_target_decides_nothing_of_others():
    world = World(True)
    drops = world.architecture()
    world.architecture = lambda: drops[drops["target_seed"] == 0]
    assert ledger.ledger(world).set_index("id").loc["hurts-unet-more", "equal"].startswith("undecided")


def test_at_equal_distance_too_a_phantom_makes_an_analogue():
    table = ledger.ledger(World(True, phantom=("acdc",))).set_index("id")
    assert table.loc["hurts-unet-more", "equal"].startswith("analogue only: still true")
