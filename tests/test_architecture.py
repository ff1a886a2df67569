"""The cross of connections, start and seeds: every cell is there, and contrasts find what was put in."""

import itertools
import re

import numpy as np
import pandas as pd
import pytest

from prr import donors, reuse
from prr.study import Experiment, architecture, grid
from prr.study.architecture import AS_TRAINED, AT_DISTANCE, BY_NOISE, DISTANCES, STARTS, pair, pairs, planned
from prr.study.backbones import CONNECTIONS, NAMES
from prr.study.profiles import OVERRIDES, PROFILES

pytestmark = pytest.mark.usefixtures("phantoms_only")
NEAR, FAR = DISTANCES


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return Experiment("smoke", store=tmp_path_factory.mktemp("store"), steps=2, grid_steps=3, threads=1)


def made(effect, dice=None, targets=3, sources=3, patients=6, noise=0.01):
    """Drops as `table` gives them, all views: `effect` of (network, start), plus seeds, patients and noise.

    At equal distance it is half of that, far and near; by noise a quarter of that of a shared start where it is far,
    and hardly anything where it is near.
    """
    rng, rows = np.random.default_rng(0), []
    by_target, by_source = rng.normal(0, noise, targets), rng.normal(0, noise, sources)
    donors = [("source", np.nan, 1), *itertools.product(["at"], DISTANCES, [0.5])]
    donors += [("noise at", NEAR, 0.01), ("noise at", FAR, 0.25)]
    for network, start, t, s, layer, patient in itertools.product(
        CONNECTIONS, STARTS, range(targets), range(sources), range(1, 4), range(patients)
    ):
        for donor, distance, part in donors:
            if donor == "source" or (t == s and (donor, start) != ("noise at", "independent")):
                drop = effect(network, start) * part + by_target[t] + by_source[s]
                reached = (dice or {}).get(network, 0.9)
                rows.append((network, start, "", t, s, donor, distance, reached, layer, patient, drop, 0.3 * layer))
    columns = ["network", "start", "source", "target_seed", "source_seed", "donor", "distance", "dice", "layer"]
    table = pd.DataFrame(rows, columns=[*columns, "patient", "drop", "relative"])
    table["drop"] += rng.normal(0, noise / 10, len(table))
    return table


def of_noise(*means):
    """Noise at one distance after another, {network: mean drop over kernels} each."""
    rows = [("noise at", distance, name, drop) for distance, each in zip(DISTANCES, means, strict=True)
            for name, mean in each.items() for drop in (mean - 0.03, mean + 0.03)]  # fmt: skip
    return pd.DataFrame(rows, columns=["donor", "distance", "network", "drop"])


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


def test_no_pair_stands_twice(run):
    found = pairs(run)
    assert len({tuple(labels.values()) for labels, _ in found}) == len(found)
    assert len({job.digest for _, job in found}) == len(found)


def test_every_network_meets_sources_of_both_starts_and_noise_at_the_same_distances(run):
    found = {}
    for labels, job in pairs(run):
        assert job.arguments["amount"] == labels["distance"]
        if labels["distance"] is not None:
            donor = labels["donor"] if labels["donor"] == "noise at" else labels["start"]
            found.setdefault((labels["network"], labels["target_seed"], donor), []).append(labels["distance"])
    assert {network for network, *_ in found} == {*CONNECTIONS, *architecture.BESIDE}
    assert {donor for *_, donor in found} == {*STARTS, "noise at"}
    assert all(distances == list(DISTANCES) for distances in found.values())


def test_other_distances_can_be_asked_for(run, monkeypatch):
    monkeypatch.setattr(architecture, "DISTANCES", (0.5,))
    assert {labels["distance"] for labels, _ in pairs(run)} == {None, 0.5}


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
    job = pair(run, "plain", "shared", 0, 0, "at", NEAR)[1]
    table = run.result(job)
    assert np.allclose(table["relative"], NEAR, atol=1e-5)
    assert set(table["kind"]) == {"W"}
    assert table.groupby("layer")["patient"].nunique().eq(2).all()
    small = grid.scaled(run)
    target = small.model("plain", start="shared", seed=0)
    source = small.model("plain", task="auto-encoding", start="shared", seed=0)
    part = small.slices("acdc").validation.every(small.profile.grid_every)
    whole = reuse.drops(target, donors.donor("at", target, source, NEAR), part, kinds=["W"])
    np.testing.assert_allclose(table[["score", "drop"]], whole[["score", "drop"]], rtol=0, atol=5.1e-6)
    assert (run.result(pair(run, "plain", "shared", 0, 0, "own")[1])["drop"] == 0).all()


def test_the_table_holds_every_pair_under_its_labels_with_the_dice_of_its_target():
    part = pd.DataFrame({"layer": [1, 1, 2], "score": [0.5, 0.75, np.nan], "drop": [0.25, 0.125, np.nan]})
    labels = [{"network": "plain", "distance": None}, {"network": "both", "distance": 0.25}]
    table = architecture.gathered(labels, [part, part.assign(score=0.125)])
    assert table["network"].tolist() == ["plain", "plain", "both", "both"]  # a patient without foreground has no drop
    assert table["dice"].tolist() == [(0.75 + 0.875) / 2] * 2 + [(0.375 + 0.25) / 2] * 2
    assert table["score"].tolist() == [0.5, 0.75, 0.125, 0.125]
    assert table["distance"].tolist()[2:] == [0.25, 0.25]
    assert table["distance"].isna().tolist() == [True, True, False, False]


def test_the_table_is_that_of_all_pairs_in_their_order(run):
    job, found = architecture.table(run), pairs(run)
    assert job.arguments["labels"] == [labels for labels, _ in found]
    assert [part.digest for part in job.needs["parts"]] == [part.digest for _, part in found]


# ---------------------------------------------------------------- what is concluded


def of(table, at, distance):
    """One view of a table, by contrast."""
    same = table["distance"].isna() if np.isnan(distance) else table["distance"] == distance
    return table[(table["at"] == at) & same].set_index("contrast")


def test_contrasts_find_the_effects_that_were_put_in():
    def effect(network, start):
        short, long = CONNECTIONS[network]
        return 0.4 - 0.1 * short + 0.05 * long - (0.2 if start == "shared" else 0)

    table = architecture.contrasts(made(effect), 0.01)
    for at, distance, scale in ((AS_TRAINED, np.nan, 1), (AT_DISTANCE, NEAR, 0.5), (AT_DISTANCE, FAR, 0.5)):
        part = of(table, at, distance)
        for start in STARTS:
            assert part.loc[f"short connections, {start} start", "drop"] == pytest.approx(-0.1 * scale, abs=0.01)
            assert part.loc[f"long connections, {start} start", "drop"] == pytest.approx(0.05 * scale, abs=0.01)
            assert part.loc[f"short beside long, {start} start", "says"] == "undecided"
        assert part.loc["shared start", "drop"] == pytest.approx(-0.2 * scale, abs=0.01)
        assert part.loc["shared start", "says"] == "less"
    part = of(table, BY_NOISE, FAR)
    assert part.loc["short connections, noise", "drop"] == pytest.approx(-0.025, abs=0.01)
    assert set(part.index) == {f"{contrast}, noise" for contrast in architecture.CONTRASTS}


def test_noise_decides_at_the_smallest_distance_at_which_it_costs_every_network_more_than_the_tolerance():
    low, high = {"unet": 0.01, "pspnet": 0.06}, {"unet": 0.3, "pspnet": 0.2}
    noise = of_noise(low, high)
    assert architecture.deciding(noise, ["unet", "pspnet"], 0.05) == FAR
    assert architecture.deciding(noise, ["pspnet"], 0.05) == NEAR  # the other one is not concerned
    assert architecture.deciding(noise, ["unet", "pspnet"], 0.25) is None
    assert architecture.deciding(of_noise(high, low), ["unet", "pspnet"], 0.05) == NEAR
    assert architecture.deciding(noise.assign(donor="at"), ["unet"], 0.05) is None


@pytest.mark.parametrize(("tolerance", "decides"), [(0.05, FAR), (0.5, None), (-1, NEAR)])
def test_contrasts_by_noise_are_judged_at_the_deciding_distance_alone(tolerance, decides):
    table = architecture.contrasts(made(lambda network, start: 0.4), tolerance)
    judged = table[(table["at"] == BY_NOISE) & (table["says"] != "not judged")]
    assert set(judged["distance"]) == ({decides} if decides else set())
    assert (table.loc[table["at"] != BY_NOISE, "says"] != "not judged").all()


def test_each_interval_says_what_it_resamples():
    drops = made(lambda network, start: 0.4)
    over = {AS_TRAINED: "targets, sources and patients", AT_DISTANCE: "pairs of networks and patients",
            BY_NOISE: "targets and patients"}  # fmt: skip
    one = drops[(drops["target_seed"] == 0) & (drops["source_seed"] == 0)]
    for table in (architecture.cells, lambda each: architecture.contrasts(each, 0.05)):
        assert table(drops).groupby("at")["over"].unique().map(list).to_dict() == {at: [o] for at, o in over.items()}
        assert set(table(one)["over"]) == {"patients"}
    assert set(architecture.beside_noise(drops, 0.05)["over"]) == {"pairs of networks and patients"}
    assert set(architecture.beside_noise(one, 0.05)["over"]) == {"patients"}


def test_an_effect_that_only_one_network_has_is_an_interaction():
    table = architecture.contrasts(made(lambda network, start: 0.3 if network == "both" else 0.1), 0.05)
    says = table[table["at"] == AS_TRAINED].set_index("contrast")["says"]
    assert says["short beside long, shared start"] == "more"
    assert says["shared start"] == "undecided"


def test_seeds_that_disagree_leave_a_contrast_undecided():
    table = made(lambda network, start: 0.1)
    shift = table["target_seed"].map({0: -0.1, 1: 0.0, 2: 0.1}) * (table["start"] == "shared")
    table["drop"] += shift + 0.02 * (table["start"] == "shared")
    assert of(architecture.contrasts(table, 0.05), AS_TRAINED, np.nan).loc["shared start", "says"] == "undecided"


def test_contrasts_weigh_what_they_compare_against_each_other():
    names = list(itertools.product(CONNECTIONS, STARTS))
    for contrast, weights in planned(names).items():
        assert weights.sum() == pytest.approx(0), contrast
        assert weights[weights > 0].sum() == pytest.approx(1), contrast


def test_the_dice_of_each_network_stands_beside_it():
    dice = {"plain": 0.5, "residual": 0.6, "long": 0.7, "both": 0.8}
    drops = made(lambda *_: 0.1, dice)
    later = drops["target_seed"] == 2  # seeds count alike, however often each stands there
    drops.loc[later, "dice"] += 0.06
    other = drops.assign(start="pretext", dice=0.1)  # another target
    expected = {network: pytest.approx(value + 0.02) for network, value in dice.items()}
    found = architecture.cells(pd.concat([other, drops]))
    assert found.groupby("network")["dice"].unique().map(lambda each: each.item()).to_dict() == expected
    assert architecture.reached(pd.concat([other, drops])) == expected


def test_the_summary_averages_patients_then_layers_and_counts_kernels_within_the_tolerance():
    table = made(lambda *_: 0.1, noise=0)
    table.loc[table["layer"] == 1, "drop"] = 0.01
    row = architecture.summary(table, 0.05).iloc[0]
    assert (row["kernels"], row["within"]) == (3, 1)
    assert row["drop"] == pytest.approx((0.01 + 0.1 + 0.1) / 3)
    assert row["relative"] == pytest.approx(0.6)
    assert architecture.summary(table, 0.2)["within"].eq(3).all()


def test_a_source_is_compared_with_noise_within_each_network():
    drops = made(lambda network, start: 0.4 if start == "shared" else 0.2)
    found = architecture.beside_noise(drops, 0.05).set_index(["network", "distance", "start"]).sort_index()
    for network in CONNECTIONS:  # at half the effect, against noise at a quarter of the shared one
        far = found.loc[(network, FAR)]
        assert far.loc["shared", ["source", "noise", "drop"]].tolist() == pytest.approx([0.2, 0.1, 0.1], abs=0.02)
        assert far.loc["shared", "drop"] == pytest.approx(far.loc["shared", "source"] - far.loc["shared", "noise"])
        assert far["says"].to_dict() == {"independent": "undecided", "shared": "more"}
        assert found.loc[(network, NEAR), "says"].eq("not judged").all()
        assert (found.loc[network, "targets"] == 3).all()


def test_a_difference_is_over_the_targets_that_both_networks_have():
    table = made(lambda network, start: {"plain": 0.5, "both": 0.1}.get(network, 0.3))
    table = table[(table["network"] != "both") | (table["target_seed"] < 2)]
    for donor, distance, expected in (("at", NEAR, 0.2), ("noise at", FAR, 0.1), ("noise at", NEAR, 0.004)):
        (value, low, high), targets, over = architecture.difference(table, "plain", "both", donor, distance)
        assert targets == 2
        assert over == ("pairs of networks and patients" if donor == "at" else "targets and patients")
        assert value == pytest.approx(expected, abs=0.01)
        assert low < value < high


def test_the_overview_counts_pairs_and_kernels():
    table = made(lambda *_: 0.1)
    for tolerance, within in ((0.01, 0), (0.5, 3)):
        row = architecture.overview(table, tolerance).iloc[0]
        assert (row["pairs"], row["kernels"], row["within"]) == (9, 3, within)


# ---------------------------------------------------------------- in words


def world(short, long, start, noise=0.1, tolerance=0.01):
    """Contrasts of a world in which things change the drop by so much; at equal distance by half, by noise `noise`."""

    def effect(network, begun):
        own = CONNECTIONS[network]
        return 0.4 + short * own[0] + long * own[1] + start * (begun == "shared")

    return architecture.contrasts(made(effect, noise=0.002), tolerance)


def test_words_tell_a_world_in_which_the_paper_is_right(sentences):
    told = sentences(architecture.in_words(world(-0.2, 0.1, 0)))
    assert told[0] == (
        "At equal distance and by noise, short connections help, long ones hurt, and a shared start stays undecided."
    )
    assert told[1:3] == [
        "Short connections help as trained.", "At equal distance the drop is less in 5 of 5 contrasts, more in none, "
        "open in none.",
    ]  # fmt: skip
    assert "Long connections hurt as trained." in told
    by_noise = r"By noise at distance 1 it changes by -0.05 \[.*\] over targets and patients\."
    assert any(re.fullmatch(by_noise, each) for each in told)
    assert "A shared start stays undecided as trained, and stays undecided at equal distance." in told


def test_words_tell_a_world_in_which_the_paper_is_wrong(sentences):
    told = sentences(architecture.in_words(world(0.2, -0.1, 0.1)))
    assert told[0].endswith("by noise, short connections hurt, long ones help, and a shared start hurts.")
    assert "At equal distance the drop is less in none of 5 contrasts, more in 5, open in none." in told
    assert "A shared start hurts as trained, and hurts at equal distance." in told


def test_words_say_that_noise_at_its_floor_decides_nothing(sentences):
    told = sentences(architecture.in_words(world(-0.2, 0, 0, tolerance=0.5)))
    assert told[0] == (
        "At equal distance, short connections help, long ones stay undecided, and a shared start stays undecided."
    )
    assert told[1] == "Noise is at its floor at every distance, and can't decide."
    assert not any("By noise at" in each for each in told)
    assert "At equal distance the drop is less in 4 of 4 contrasts, more in none, open in none." in told


@pytest.mark.parametrize(
    ("trained", "equal", "first", "then"),
    [
        (-0.2, 0.1, "helps as trained, but hurts", "What helps as trained is nearness, not direction."),
        (-0.2, -0.1, "helps as trained, and helps", "Its direction is worth something."),
        (-0.2, 0, "helps as trained, but stays undecided", "What helps as trained may be nearness alone."),
        (0, 0.1, "stays undecided as trained, but hurts", "As trained it changes the drop by 0.00"),
    ],
)
def test_words_tell_what_a_shared_start_gives(sentences, trained, equal, first, then):
    drops = made(lambda *_: 0.4, noise=0.002)
    drops["drop"] += (drops["start"] == "shared") * drops["donor"].map({"source": trained, "at": equal}).fillna(0)
    told = sentences(architecture.in_words(architecture.contrasts(drops, 0.05)))
    place = told.index(f"A shared start {first} at equal distance.")
    assert told[place + 1].startswith(then)
    assert f"At distance 1 it changes the drop by {equal:z.2f}" in " ".join(told)


def test_effects_of_both_signs_go_either_way(sentences):
    contrasts = world(-0.2, 0, 0)
    short = contrasts["contrast"].str.startswith("short connections") & (contrasts["at"] == AT_DISTANCE)
    contrasts.loc[contrasts[short].index[0], "says"] = "more"
    contrasts.loc[contrasts["contrast"] == "shared start", "says"] = ["less", "less", "more"]
    told = sentences(architecture.in_words(contrasts))
    assert "short connections go either way" in told[0]
    assert told[0].endswith("a shared start goes either way.")


def test_a_few_clear_contrasts_among_many_open_ones_are_no_effect(sentences):
    contrasts = world(0, 0, 0)
    short = contrasts["contrast"].str.startswith("short connections") & (contrasts["at"] == AT_DISTANCE)
    contrasts.loc[contrasts[short].index[:2], "says"] = "less"
    told = sentences(architecture.in_words(contrasts))
    assert "short connections stay undecided" in told[0]
    assert "At equal distance the drop is less in 2 of 5 contrasts, more in none, open in 3." in told


def test_words_tell_how_far_apart_the_targets_are(sentences):
    apart = made(lambda *_: 0.1, {"plain": 0.49, "both": 0.79, "long": 0.6, "residual": 0.7})
    assert sentences(architecture.alike(apart, 0.05)) == [
        "The targets of the four networks reach 0.49 to 0.79 of foreground Dice.",
        "A better network has more to lose, and contrasts between networks mix that in.",
    ]
    (told,) = sentences(architecture.alike(apart.assign(dice=0.8), 0.05))
    assert told == "The targets of the four networks reach 0.80 to 0.80 of foreground Dice: alike within the tolerance."


def beside(shared, apart=("undecided",) * 4, source=0.2):
    """Rows as `beside_noise` gives them, judged at the larger distance; noise costs .01 near and .1 far."""
    rows = []
    for network, *says in zip(CONNECTIONS, shared, apart, strict=True):
        for distance, noise in ((NEAR, 0.01), (FAR, 0.1)):
            for start, word in zip(("shared", "independent"), says, strict=True):
                cost = source if start == "shared" else 0.05
                rows.append((network, distance, start, cost, noise, word if distance == FAR else "not judged"))
    return pd.DataFrame(rows, columns=["network", "distance", "start", "source", "noise", "says"])


STEP = "A step towards a source of shared start"
IN_THE_WAY = "Where it costs more, what the source has learned is in the target's way."
WORTH = "Where it costs less, its direction is worth something."


@pytest.mark.parametrize(
    ("shared", "told"),
    [
        (["more"] * 4, [f"{STEP} costs more than noise in 4 of 4 networks.", IN_THE_WAY]),
        (["less"] * 3 + ["undecided"], [f"{STEP} costs less than noise in 3 of 4 networks.", WORTH]),
        (
            ["more", "less", "less", "undecided"],
            [f"{STEP} costs more than noise in 1 and less than noise in 2 of 4 networks.", IN_THE_WAY, WORTH],
        ),
        (
            ["undecided"] * 4,
            [f"Whether {STEP.lower()} costs more or less than noise is open in all 4 networks."],
        ),
    ],
)
def test_words_tell_whether_a_source_costs_more_than_noise(sentences, shared, told):
    found = sentences(architecture.beside_in_words(beside(shared)))
    assert found[: len(told)] == told
    assert found[-1] == (
        "At distance 0.25 noise costs 0.01 on average, a source of shared start 0.20, one of independent start 0.05."
    )
    assert len(found) == len(told) + 2  # and a sentence on independent starts


def test_of_an_independent_source_the_words_read_no_direction(sentences):
    found = sentences(architecture.beside_in_words(beside(["undecided"] * 4, ["less"] * 4)))
    assert found[1] == "A step towards a source of independent start costs less than noise in 4 of 4 networks."
    assert WORTH not in found


def test_networks_with_noise_at_its_floor_or_weak_targets_are_named_and_not_counted(sentences):
    found = sentences(architecture.beside_in_words(beside(["more", "more", "not judged", "less"],
                      ["less", "less", "not judged", "less"]), weak=["both"]))  # fmt: skip
    assert found[0] == "A step towards a source of shared start costs more than noise in 2 of 2 networks."
    assert found[-2:] == [
        "In 1 of 3 networks noise is at its floor, and can't decide.",
        "Left out, for their targets are below the floor: short and long.",
    ]
    floor = sentences(architecture.beside_in_words(beside(["not judged"] * 4, ["not judged"] * 4)))
    assert floor[-1] == "In 4 of 4 networks noise is at its floor, and can't decide."
    assert len(floor) == 2


def test_figures_show_every_cell():
    from prr.study import figures

    dice = dict(zip(CONNECTIONS, (0.5, 0.6, 0.7, 0.8), strict=True))
    table = made(lambda network, start: 0.1, dice)
    names = {name: NAMES[name] for name in CONNECTIONS}
    figure = figures.cells(architecture.cells(table), names, note="x")
    panels = [axis for axis in figure.axes if axis.get_visible()]
    titles = [AS_TRAINED, *(f"{at}, {each:g}" for at in (AT_DISTANCE, BY_NOISE) for each in DISTANCES)]
    assert [axis.get_title() for axis in panels] == titles
    assert [len(axis.containers) for axis in panels] == [2, 2, 2, 1, 1]
    assert panels[0].get_xlabel() == "bars: 95 % over targets, sources and patients"
    assert panels[3].get_xlabel() == "bars: 95 % over targets and patients"
    ticks = [tick.get_text() for tick in panels[0].get_xticklabels()]
    assert ticks == [f"{name}\nDice {dice[network]:.2f}" for network, name in names.items()]
    figure = figures.contrasts(architecture.contrasts(table, 0.05))
    panels = [axis for axis in figure.axes if axis.get_visible()]
    assert [axis.get_title() for axis in panels] == titles
    assert panels[1].get_xlabel() == "change of the mean drop\nbars: 95 % over pairs of networks and patients"
    drawn = [{each.get_label(): len(each[0].get_xdata()) for each in axis.containers} for axis in panels]
    assert [each["not judged"] for each in drawn] == [0, 0, 0, 3, 3]  # noise costs .1 / 4 at most
    figure = figures.drop_against_distance(architecture.summary(table, 0.05), names)
    assert figure.axes[0].get_xscale() == "log"
