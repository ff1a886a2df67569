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
    return Experiment("smoke", store=tmp_path_factory.mktemp("store"), steps=2, grid_steps=3, threads=1)


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
    seeds = range(run.profile.grid_seeds)
    cells = list(itertools.product(CONNECTIONS, STARTS, seeds, seeds))
    labels = ("network", "start", "target_seed", "source_seed")
    found = [tuple(each[name] for name in labels) for each, _ in architecture.headline(run)]
    assert sorted(found) == sorted(cells)


def test_the_two_starts_meet_the_same_targets(run):
    targets = {start: [] for start in STARTS}
    for labels, job in architecture.headline(run):
        targets[labels["start"]].append((labels["network"], labels["target_seed"], job.needs["target"].digest))
    assert sorted(targets["shared"]) == sorted(targets["independent"])


def test_all_targets_meet_the_same_independent_sources_and_a_shared_source_for_each(run):
    for start, sources in (("independent", 1), ("shared", 2)):
        jobs = [pair(run, "plain", start, target, 0)[1] for target in (0, 1)]
        assert len({job.needs["source"].digest for job in jobs}) == sources


@pytest.mark.parametrize(("start", "same"), [("shared", True), ("independent", False)])
def test_a_shared_source_begins_where_its_target_began_and_an_independent_one_elsewhere(run, start, same):
    needs = pair(run, "plain", start, 1, 0)[1].needs
    first, second = (run.result(needs[name].needs["initial"]) for name in ("target", "source"))
    assert first.down[2].conv1.weight.equal(second.down[2].conv1.weight) == same


def test_of_a_pretext_start_target_and_source_begin_from_one_network_that_learned_from_textures(run):
    (_, first), (_, other) = (pair(run, "plain", "pretext", target, 0) for target in (1, 2))
    begun = [first.needs[name].needs["initial"] for name in ("target", "source")]
    assert begun[0].digest == begun[1].digest
    assert begun[0].arguments["dataset"] == "textures"
    assert other.needs["target"].needs["initial"].digest != begun[0].digest


def test_a_source_trained_otherwise_differs_in_what_its_label_says(run):
    run, found = run.variant(grid_steps=8), {}
    plain = pair(run, "pspnet", "shared", 0, 0)[1].needs["source"].arguments
    for labels, job in architecture.other_training(run):
        if (labels["network"], labels["target_seed"]) == ("pspnet", 0):
            other = job.needs["source"].arguments
            found[labels["source"]] = {name: other[name] for name in other if other[name] != plain[name]}
    rate = run.profile.learning_rate
    assert found == {
        "learning rate x 0.25": {"learning_rate": rate / 4},
        "learning rate x 4": {"learning_rate": rate * 4},
        "a quarter of the steps": {"steps": 2},
        "denoising": {"task": "denoising"},
    }


def test_a_target_of_half_the_steps_has_a_source_of_all(run):
    labels, job = pair(run, "plain", "shared", 0, 0, half=True)
    assert labels["steps"] == "half"
    assert [job.needs[name].arguments["steps"] for name in ("target", "source")] == [1, 3]


def test_no_pair_stands_twice(run):
    found = pairs(run)
    assert len({tuple(labels.values()) for labels, _ in found}) == len(found)
    assert len({job.digest for _, job in found}) == len(found)


def test_every_donor_of_a_network_is_compared_at_one_distance(run):
    assert {labels["donor"]: job.arguments["amount"] for labels, job in pairs(run)} == {
        "source": None, "at": DISTANCE, "noise at": DISTANCE,
    }  # fmt: skip


def test_noise_is_drawn_for_every_target_and_nothing_else_depends_on_the_seed_of_the_run(run):
    for labels, job in pairs(run):
        assert job.arguments["seed"] == (labels["target_seed"] if labels["donor"] == "noise at" else None)
    assert pair(run.variant(seed=5), "plain", "shared", 0, 0)[1].digest == pair(run, "plain", "shared", 0, 0)[1].digest


def test_imagenet_is_a_start_of_pspnet_where_it_was_asked_for(run):
    other = run.variant(pspnet_start="imagenet")
    here, there = ({(e["network"], e["start"]) for e, _ in architecture.other_starts(each)} for each in (run, other))
    assert there - here == {("pspnet", "imagenet")}


@pytest.mark.parametrize("profile", PROFILES)
def test_the_small_scale_has_the_field_of_view_and_is_reached_once(profile):
    run = Experiment(profile, device="cpu", spacing_mm=1.1)
    small, full = grid.scaled(run).profile, run.profile
    assert (small.size, small.steps, small.batch_size) == (full.grid_size, full.grid_steps, full.grid_batch)
    assert small.size * small.spacing_mm == pytest.approx(full.size * full.spacing_mm)
    assert grid.scaled(grid.scaled(run)).profile == small


def test_the_large_and_the_small_run_give_the_same_results(run):
    small = grid.scaled(run)
    assert small.profile != run.profile
    assert architecture.table(run).digest == architecture.table(small).digest
    assert pair(run, "plain", "shared", 0, 0)[1].digest == pair(small, "plain", "shared", 0, 0)[1].digest


def test_what_is_left_out_is_reported_and_nothing_is_left_out_at_paper(run):
    table = architecture.left_out(run).set_index("what")
    assert table.loc["seeds of everything else"].tolist() == [run.profile.rest_seeds, 5]
    words = ("seeds", "grid", "width")
    scale = {name: getattr(PROFILES["paper"], name) for name in OVERRIDES if any(word in name for word in words)}
    full = architecture.left_out(run.variant(**scale))
    assert (full["here"] == full["paper"]).all()


def test_one_transplant_of_each_donor_is_what_the_donor_says(run):
    job = pair(run, "plain", "shared", 0, 0, "at")[1]
    table = run.result(job)
    assert np.allclose(table["relative"], DISTANCE, atol=1e-5)
    assert set(table["kind"]) == {"W"}
    assert table.groupby("layer")["patient"].nunique().eq(2).all()
    small = grid.scaled(run)
    target = small.model("plain", start="shared", seed=0)
    source = small.model("plain", task="auto-encoding", start="shared", seed=0)
    part = small.slices("acdc").validation.every(small.profile.grid_every)
    whole = reuse.drops(target, donors.donor("at", target, source, DISTANCE), part, kinds=["W"])
    np.testing.assert_allclose(table[["score", "drop"]], whole[["score", "drop"]], rtol=0, atol=5.1e-6)
    assert (run.result(pair(run, "plain", "shared", 0, 0, "own")[1])["drop"] == 0).all()


def test_the_table_holds_every_pair_under_its_labels_with_the_dice_of_its_target():
    part = pd.DataFrame({"layer": [1, 1, 2], "score": [0.5, 0.75, np.nan], "drop": [0.25, 0.125, np.nan]})
    table = architecture.gathered([{"network": "plain"}, {"network": "both"}], [part, part.assign(score=0.125)])
    assert table["network"].tolist() == ["plain", "plain", "both", "both"]  # a patient without foreground has no drop
    assert table["dice"].tolist() == [(0.75 + 0.875) / 2] * 2 + [(0.375 + 0.25) / 2] * 2
    assert table["score"].tolist() == [0.5, 0.75, 0.125, 0.125]


def test_the_table_is_that_of_all_pairs_in_their_order(run):
    job, found = architecture.table(run), pairs(run)
    assert job.arguments["labels"] == [labels for labels, _ in found]
    assert [part.digest for part in job.needs["parts"]] == [part.digest for _, part in found]


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
    row = architecture.summary(table, 0.05).iloc[0]
    assert (row["kernels"], row["within"]) == (3, 1)
    assert row["drop"] == pytest.approx((0.01 + 0.1 + 0.1) / 3)
    assert row["relative"] == pytest.approx(0.6)
    assert architecture.summary(table, 0.2)["within"].eq(3).all()


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
    table = made(lambda *_: 0.1)
    for tolerance, within in ((0.01, 0), (0.5, 3)):
        row = architecture.overview(table, tolerance).iloc[0]
        assert (row["pairs"], row["kernels"], row["within"]) == (9, 3, within)


def test_words_give_every_contrast_with_its_interval():
    contrasts = architecture.contrasts(made(lambda network, start: 0.1 + 0.2 * (start == "shared")))
    told = str(architecture.in_words(contrasts))
    clear = contrasts[contrasts["says"] != "undecided"]
    assert told.count("[") == len(clear) > 0
    assert all(contrast in told for contrast in contrasts["contrast"])
    assert "clear of 0: shared start +0.2" in told


def test_figures_show_every_cell():
    from prr.study import figures

    table = made(lambda network, start: 0.1)
    names = {name: NAMES[name] for name in CONNECTIONS}
    figure = figures.cells(architecture.cells(table), names, note="x")
    assert [axis.get_title() for axis in figure.axes] == [AS_TRAINED, AT_DISTANCE, BY_NOISE, AT_DICE]
    assert [len(axis.containers) for axis in figure.axes] == [2, 2, 1, 2]
    assert len(figures.contrasts(architecture.contrasts(table)).axes) == 4
    figure = figures.drop_against_distance(architecture.summary(table, 0.05), names)
    assert figure.axes[0].get_xscale() == "log"
