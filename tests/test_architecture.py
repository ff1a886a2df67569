"""The cross of connections, start and seeds: every cell is there, and contrasts find what was put in."""

import itertools

import numpy as np
import pandas as pd
import pytest

from prr import donors, reuse
from prr.study import Experiment, architecture, grid
from prr.study.architecture import AS_TRAINED, AT_DICE, AT_DISTANCE, BY_NOISE, DISTANCE, pair, pairs, planned
from prr.study.backbones import CONNECTIONS, NAMES
from prr.study.profiles import OVERRIDES, PROFILES

pytestmark = pytest.mark.usefixtures("phantoms_only")
STARTS = ("independent", "shared")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return Experiment("smoke", store=tmp_path_factory.mktemp("store"), steps=2, grid_steps=2, threads=1)


def made(effect, dice=None, targets=3, sources=3, patients=6, noise=0.01):
    """Drops as `table` gives them, all four views: `effect` of (network, start), plus seeds, patients and noise."""
    rng, rows = np.random.default_rng(0), []
    by_target, by_source = rng.normal(0, noise, targets), rng.normal(0, noise, sources)
    for network, start, t, s, layer, patient in itertools.product(
        CONNECTIONS, STARTS, range(targets), range(sources), range(1, 4), range(patients)
    ):
        for donor, steps in (("source", "full"), ("at", "full"), ("source", "half"), ("noise at", "full")):
            if (t == s and (donor, start) != ("noise at", "independent")) or (donor, steps) == ("source", "full"):
                part = {"at": 0.5, "noise at": 0.25}.get(donor, 1)
                drop = effect(network, start) * part + by_target[t] + by_source[s]
                reached = (dice or {}).get((network, steps), 0.9 if steps == "full" else 0.8)
                rows.append((network, start, "", t, s, donor, steps, reached, layer, patient, drop, 0.3 * layer))
    columns = ["network", "start", "source", "target_seed", "source_seed", "donor", "steps", "dice", "layer"]
    table = pd.DataFrame(rows, columns=[*columns, "patient", "drop", "relative"])
    table["drop"] += rng.normal(0, noise / 10, len(table))
    return table


# ---------------------------------------------------------------- what is compared


def test_every_target_seed_meets_every_source_seed_in_every_cell(run):
    found = [each for each in architecture.headline(run)]
    seeds = architecture.seeds(run)
    cells = list(itertools.product(CONNECTIONS, STARTS, seeds, seeds))
    assert sorted((e.network, e.start, e.target_seed, e.source_seed) for e in found) == sorted(cells)


def test_the_two_starts_meet_the_same_targets(run):
    for network in CONNECTIONS:
        by_start = [
            [each.target for each in architecture.headline(run) if (each.network, each.start) == (network, start)]
            for start in STARTS
        ]
        assert by_start[0] == by_start[1]


def test_a_shared_source_begins_where_its_target_began_and_an_independent_one_elsewhere(run):
    small = grid.scaled(run)
    for start, same in (("shared", True), ("independent", False)):
        each = pair("plain", start, 1, 0)
        begun = [small.start("plain", **arguments) for arguments in (each.target, each.giver)]
        equal = begun[0].down[2].conv1.weight.equal(begun[1].down[2].conv1.weight)
        assert equal == same


def test_networks_that_others_begin_from_come_first(run):
    kinds = [arguments.get("dataset") for _, arguments in architecture.networks(run)]
    first = kinds.index(None)
    assert set(kinds[:first]) == {"textures"}
    assert "textures" not in kinds[first:]


def test_no_pair_stands_twice_under_one_label(run):
    labels = [(*each[:6], each.amount, each.steps) for each in pairs(run)]
    assert len(set(labels)) == len(labels)


def test_all_is_at_the_small_scale(run):
    scale = grid.scaled(run).profile
    assert scale.size == run.profile.grid_size
    assert scale.steps == run.profile.grid_steps
    assert scale.size * scale.spacing_mm == pytest.approx(run.profile.size * run.profile.spacing_mm)


def test_noise_is_drawn_anew_for_every_target_and_nothing_else_depends_on_the_seed(run):
    calls = [(by.seed, given) for by, _, given in architecture.calls(run) if given["network"] == "plain"]
    assert [seed for seed, given in calls if given["donor"] == "noise at"] == list(architecture.seeds(run))
    assert {seed for seed, given in calls if given["donor"] != "noise at"} == {run.seed}
    small, arguments = grid.scaled(run), pair("plain", "shared", 0, 0).arguments
    tables = [small.variant(seed=seed).drops(**arguments) for seed in (0, 5)]
    assert tables[0].equals(tables[1])
    assert (small.store.list()["what"].str.startswith("drops")).sum() == 1


def test_what_is_left_out_is_told_and_nothing_is_left_out_at_paper(run):
    told = architecture.left_out(run).set_index("what")
    assert told.loc["seeds of everything else"].tolist() == [run.profile.rest_seeds, 5]
    words = ("seeds", "grid", "width")
    scale = {name: getattr(PROFILES["paper"], name) for name in OVERRIDES if any(word in name for word in words)}
    full = architecture.left_out(run.variant(**scale))
    assert (full["here"] == full["paper"]).all()


def test_one_transplant_of_each_donor_is_what_the_donor_says(run):
    small = grid.scaled(run)
    each = pair("plain", "shared", 0, 0, "at", DISTANCE)
    table = small.drops(**each.arguments)
    assert np.allclose(table["relative"], DISTANCE, atol=1e-5)
    assert set(table["kind"]) == {"W"}
    assert table.groupby("layer")["patient"].nunique().eq(2).all()
    model, source = (small.model(each.network, **one) for one in (each.target, each.giver))
    part = small.slices("acdc").validation.every(small.profile.grid_every)
    whole = reuse.drops(model, donors.donor("at", model, source, DISTANCE), part, kinds=["W"])
    np.testing.assert_allclose(table[["score", "drop"]], whole[["score", "drop"]], rtol=0, atol=5.1e-6)
    own = small.drops(**pair("plain", "shared", 0, 0, "own").arguments)
    assert (own["drop"] == 0).all()


# ---------------------------------------------------------------- what is concluded


def test_contrasts_find_the_effects_that_were_put_in():
    def effect(network, start):
        short, long = CONNECTIONS[network]
        return 0.4 - 0.1 * short + 0.05 * long - (0.2 if start == "shared" else 0)

    table = architecture.contrasts(made(effect)).set_index(["at", "contrast"])
    for at, scale in ((AS_TRAINED, 1), (AT_DISTANCE, 0.5), (AT_DICE, 1)):
        for start in STARTS:
            assert table.loc[(at, f"short connections, {start} start"), "drop"] == pytest.approx(-0.1 * scale, abs=0.01)
            assert table.loc[(at, f"long connections, {start} start"), "drop"] == pytest.approx(0.05 * scale, abs=0.01)
            assert table.loc[(at, f"short beside long, {start} start"), "says"] == "undecided"
        assert table.loc[(at, "shared start"), "drop"] == pytest.approx(-0.2 * scale, abs=0.01)
        assert table.loc[(at, "shared start"), "says"] == "less"
    assert table.loc[(BY_NOISE, "short connections, noise"), "drop"] == pytest.approx(-0.025, abs=0.01)
    assert set(table.loc[BY_NOISE].index) == {f"{contrast}, noise" for contrast in architecture.CONTRASTS}


def test_an_effect_that_only_one_network_has_is_an_interaction():
    table = architecture.contrasts(made(lambda network, start: 0.3 if network == "both" else 0.1))
    says = table[table["at"] == AS_TRAINED].set_index("contrast")["says"]
    assert says["short beside long, shared start"] == "more"
    assert says["shared start"] == "undecided"


def test_seeds_that_disagree_leave_a_contrast_undecided():
    table = made(lambda network, start: 0.1)
    shift = table["target_seed"].map({0: -0.1, 1: 0.0, 2: 0.1}) * (table["start"] == "shared")
    table["drop"] += shift + 0.02 * (table["start"] == "shared")
    says = architecture.contrasts(table).set_index(["at", "contrast"])["says"]
    assert says[(AS_TRAINED, "shared start")] == "undecided"


def test_contrasts_weigh_what_they_compare_against_each_other():
    names = list(itertools.product(CONNECTIONS, STARTS))
    for contrast, weights in planned(names).items():
        assert weights.sum() == pytest.approx(0), contrast
        assert weights[weights > 0].sum() == pytest.approx(1), contrast


def test_at_equal_dice_each_network_gives_the_target_nearest_to_the_weakest():
    dice = {(network, "full"): 0.9 for network in CONNECTIONS} | {("plain", "full"): 0.7, ("both", "half"): 0.72}
    table = made(lambda *_: 0.1, dice | {("long", "half"): 0.4})
    chosen = architecture.nearest_dice(table)
    steps = chosen.groupby("network")["steps"].unique().map(list).to_dict()
    used = architecture.views(table)[AT_DICE].groupby("network")["steps"].unique().map(list).to_dict()
    assert steps == used
    assert steps == {"plain": ["full"], "residual": ["half"], "long": ["full"], "both": ["half"]}


def test_the_summary_averages_patients_then_layers_and_counts_kernels_within_the_tolerance():
    table = made(lambda *_: 0.1, noise=0)
    table.loc[table["layer"] == 1, "drop"] = 0.01
    row = architecture.summary(table).iloc[0]
    assert (row["kernels"], row["within"]) == (3, 1)
    assert row["drop"] == pytest.approx((0.01 + 0.1 + 0.1) / 3)
    assert row["relative"] == pytest.approx(0.6)


def test_a_source_is_compared_with_noise_within_each_network():
    found = architecture.beside_noise(made(lambda network, start: 0.4 if start == "shared" else 0.2))
    found = found.set_index(["network", "start"])
    for network in CONNECTIONS:  # at half the effect, against noise at a quarter of the shared one
        assert found.loc[(network, "shared"), "drop"] == pytest.approx(0.1, abs=0.01)
        assert found.loc[(network, "shared"), "says"] == "more"
        assert found.loc[(network, "independent"), "drop"] == pytest.approx(0, abs=0.01)
        assert (found.loc[network, "targets"] == 3).all()


def test_a_difference_is_over_the_targets_that_both_networks_have():
    table = made(lambda network, start: {"plain": 0.5, "both": 0.1}.get(network, 0.3))
    table = table[(table["network"] != "both") | (table["target_seed"] < 2)]
    (value, low, high), targets = architecture.difference(table, "plain", "both")
    assert targets == 2
    assert value == pytest.approx(0.2, abs=0.01)
    assert low < value < high


def test_the_overview_counts_pairs_and_kernels():
    row = architecture.overview(made(lambda *_: 0.1)).iloc[0]
    assert (row["pairs"], row["kernels"]) == (9, 3)


def test_words_give_every_contrast_with_its_interval():
    contrasts = architecture.contrasts(made(lambda network, start: 0.1 + 0.2 * (start == "shared")))
    told = str(architecture.in_words(contrasts))
    clear = contrasts[contrasts["says"] != "undecided"]
    assert told.count("[") == len(clear) > 0
    assert all(contrast in told for contrast in contrasts["contrast"])
    assert "clear of 0: shared start +0.2" in told


def test_figures_show_every_cell():
    from prr import figures

    table = made(lambda network, start: 0.1)
    names = {name: NAMES[name] for name in CONNECTIONS}
    figure = figures.cells(architecture.cells(table), names, note="x")
    assert [axis.get_title() for axis in figure.axes] == [AS_TRAINED, AT_DISTANCE, BY_NOISE, AT_DICE]
    assert [len(axis.containers) for axis in figure.axes] == [2, 2, 1, 2]
    assert len(figures.contrasts(architecture.contrasts(table)).axes) == 4
    way = figures.way(architecture.summary(table), names)
    assert way.axes[0].get_xscale() == "log"
