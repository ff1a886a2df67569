"""The 2 x 2 of network and start over training: what is paired, the curves by hand, what is said in either case."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from prr import dice
from prr.errors import OptionError
from prr.reuse import predict
from prr.study import Experiment, architecture, figures, grid, stages
from prr.study.jobs import closure
from prr.study.models import TITLES
from prr.study.profiles import PROFILES, profile

pytestmark = pytest.mark.usefixtures("phantoms_only")
FLOORS = {"unet": 0.78, "pspnet": 0.70}
PAPER = {  # share of kernels that pass at the first and at the last stage: the paper's conclusion holds
    ("unet", "independent"): (0.9, 0.0), ("unet", "shared"): (1.0, 0.2),
    ("pspnet", "independent"): (0.8, 0.2), ("pspnet", "shared"): (0.9, 0.9),
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return Experiment("smoke", store=tmp_path_factory.mktemp("store"), stage_steps=4, grid_steps=4, threads=1)


def made(shares=PAPER, noise=0.005, seeds=3, dice=(0.3, 0.9), apart=(0.1, 0.6), cost=0.4, swing=0.0):
    """A table as `stages.table` gives it: what passes drops by 0, the rest by `cost`; seeds swing the share."""
    rng, rows = np.random.default_rng(0), []
    for (cell, share), seed, (at, steps) in itertools.product(shares.items(), range(seeds), enumerate((9, 600))):
        own = share[at] + swing * (seed - 1)
        for layer, patient in itertools.product(range(1, 21), range(6)):
            drop = (0 if layer <= round(20 * own) else cost) + rng.normal(0, noise)
            relative = 1.4 if cell[1] == "independent" else apart[at]
            rows.append((*cell, seed, steps, layer, patient, 0.9 - drop, drop, relative, dice[at]))
    columns = ["network", "start", "seed", "steps", "layer", "patient", "score", "drop", "relative", "dice"]
    return pd.DataFrame(rows, columns=columns)


def told(sentences, table=None, tolerance=0.05, **options):
    """The sentences of a drawn table."""
    table = made(**options) if table is None else table
    return sentences(stages.in_words(stages.summary(table, tolerance), stages.changes(table, tolerance), FLOORS))


# ---------------------------------------------------------------- what is compared


@pytest.mark.parametrize("name", PROFILES)
def test_stages_rise_by_one_ratio_to_the_longest(name):
    run = Experiment(name, device="cpu")
    found, scale = stages.stages(run), run.profile
    assert len(found) == scale.stage_count
    assert found[-1] == scale.stage_steps
    assert np.allclose([b / a for a, b in itertools.pairwise(found)], stages.RATIO, rtol=0.12)


def test_stages_that_round_to_the_same_steps_are_one():
    assert stages.stages(Experiment("smoke", device="cpu", stage_steps=3, stage_count=5)) == [1, 3]


@pytest.mark.parametrize("name", ["quick", "paper"])
def test_the_stage_of_chapter_8s_own_length_is_made_of_its_networks(name):
    run = Experiment(name, device="cpu")
    length = grid.scaled(run).profile.steps
    assert length in stages.stages(run)
    for labels, job in stages.pairs(run):
        if labels["steps"] == length and labels["start"] == "shared":
            seed = labels["seed"]
            assert job.digest == architecture.pair(run, labels["network"], "shared", seed, seed)[1].digest


def test_both_starts_meet_the_same_targets_and_the_same_sources(run):
    for side in ("target", "source"):
        met = {start: set() for start in stages.STARTS}
        for labels, job in stages.pairs(run):
            met[labels["start"]].add((labels["network"], labels["steps"], job.needs[side].digest))
        assert met["independent"] == met["shared"]
        assert len(met["shared"]) == len(grid.NETWORKS) * run.profile.stage_count * run.profile.stage_seeds


@pytest.mark.parametrize(("start", "same"), [("shared", True), ("independent", False)])
def test_a_shared_source_begins_where_its_target_began_and_an_independent_one_elsewhere(run, start, same):
    for labels, job in stages.pairs(run):
        if labels["start"] == start:
            target, source = (run.result(job.needs[side].needs["initial"]) for side in ("target", "source"))
            equal = [one.equal(other) for one, other in zip(target.parameters(), source.parameters(), strict=True)]
            kernels = [tensor.ndim == 4 for tensor in target.parameters()]
            assert all(equal) == same
            assert same or not any(np.array(equal)[kernels])


def test_target_and_source_are_trained_for_the_steps_of_their_stage_each_by_itself(run):
    for labels, job in stages.pairs(run):
        of = {side: job.needs[side].arguments for side in ("target", "source")}
        assert {each["steps"] for each in of.values()} == {labels["steps"]}
        assert [each["task"] for each in of.values()] == ["segmentation", "auto-encoding"]


def test_only_the_target_place_is_needed(run):
    needed = {
        job.arguments["dataset"] for job in closure([stages.table(run)]) if "dataset" in getattr(job, "arguments", {})
    }
    assert needed == {"acdc"}


def test_one_seed_is_refused_for_it_has_no_other_to_begin_from():
    with pytest.raises(OptionError, match="stage_seeds=1: expected at least 2"):
        profile("smoke", stage_seeds=1)


def test_the_dice_of_a_target_is_that_of_all_slices(run):
    run = run.variant(stage_count=1)
    table = run.result(stages.table(run))
    labels, job = next(stages.pairs(run))
    model, slices = (run.result(job.needs[name]) for name in ("target", "slices"))
    part = slices.validation
    found = dice(predict(model, part.images).argmax(1), part.masks, part.patient).query("`class` > 0")
    expected = found.groupby("patient")["dice"].mean().mean()
    own = (table["network"] == labels["network"]) & (table["seed"] == labels["seed"])
    assert table.loc[own, "dice"].unique() == pytest.approx([expected])
    assert len(table) == sum(len(run.result(each)) for _, each in stages.pairs(run))


def test_the_job_gives_every_kernel_of_every_pair(run):
    run = run.variant(stage_count=1)
    table = run.result(stages.table(run))
    assert table["kind"].eq("W").all()
    kernels = table.groupby(["network", "start", "seed", "steps"])["layer"].nunique()
    assert len(kernels) == len(list(stages.pairs(run)))
    assert kernels.groupby("network").unique().map(list).to_dict() == {"unet": [23], "pspnet": [26]}
    summary = stages.summary(table, 0.05)
    assert (summary["relative"] > 0.9).eq(summary["start"] == "independent").all()  # four steps do not bring them near
    assert stages.in_words(summary, stages.changes(table, 0.05), FLOORS)


# ---------------------------------------------------------------- curves


def test_a_point_is_what_one_computes_by_hand():
    table = made(swing=0.1, noise=0.03)
    row = stages.summary(table, 0.05).set_index(["network", "start", "steps"]).loc[("pspnet", "independent", 600)]
    part = table[(table["network"] == "pspnet") & (table["start"] == "independent") & (table["steps"] == 600)]
    shares, means = [], []
    for seed in range(3):
        layers = [part[(part["seed"] == seed) & (part["layer"] == layer)]["drop"].mean() for layer in range(1, 21)]
        shares.append(sum(drop <= 0.05 for drop in layers) / 20)
        means.append(sum(layers) / 20)
    assert row["passing"] == pytest.approx(np.mean(shares))
    interval = scipy_stats.t.interval(0.95, 2, np.mean(shares), scipy_stats.sem(shares))
    assert [row["passing_low"], row["passing_high"]] == pytest.approx(np.clip(interval, 0, 1))
    assert row["drop"] == pytest.approx(np.mean(means))
    assert row["low"] < row["drop"] < row["high"]
    assert (row["seeds"], row["passing_over"], row["over"]) == (3, "seeds", "seeds and patients")
    assert row["dice"] == pytest.approx(0.9)


def test_a_share_is_between_0_and_1_with_its_limits():
    summary = stages.summary(made(swing=0.15), 0.05)
    assert summary[["passing_low", "passing", "passing_high"]].stack().between(0, 1).all()


def test_a_patient_without_foreground_says_nothing_of_any_kernel():
    table = made()
    without = table.copy()
    without.loc[without["patient"] == 5, ["score", "drop"]] = np.nan
    pd.testing.assert_frame_equal(stages.summary(without, 0.05), stages.summary(table[table["patient"] < 5], 0.05))


def test_the_change_by_the_start_is_paired_by_seed_and_patient():
    """Seeds and patients that differ much, alike in both starts, leave the difference as it is."""
    table = made({cell: (0.5, 0.5) for cell in PAPER}, noise=0)
    table["drop"] += 0.3 * table["seed"] + 0.2 * table["patient"] + 0.1 * (table["start"] == "independent")
    row = stages.changes(table, 0.05).query("changed == 'start'").iloc[0]
    assert [row["change"], row["low"], row["high"]] == pytest.approx([0.1] * 3)
    assert row["over"] == "seeds and patients"


def test_the_change_by_training_is_paired_by_seed():
    table = made(swing=0.1)
    row = stages.changes(table, 0.05).query("changed == 'training' and network == 'unet' and start == 'shared'").iloc[0]
    single = stages.by_seed(table, 0.05).query("network == 'unet' and start == 'shared'")
    change = [part.set_index("steps")["passing"].loc[600] - part.set_index("steps")["passing"].loc[9]
              for _, part in single.groupby("seed")]  # fmt: skip
    assert row["change"] == pytest.approx(np.mean(change))
    assert row["high"] - row["change"] == pytest.approx(scipy_stats.t.ppf(0.975, 2) * scipy_stats.sem(change))


# ---------------------------------------------------------------- in words


def test_the_papers_world(sentences):
    said = told(sentences)
    assert said[:3] == [
        "The paper's conclusion holds under its own conditions.",
        "After 600 steps UNet fails from independent starts, PSPNet passes from a shared one.",
        "Equal starts do not make them alike: they differ from a shared start.",
    ]
    assert "UNet fails from either start." in said
    assert "PSPNet passes from a shared start and fails from independent ones." in said
    assert sum(each.startswith("The start counts: an independent one costs more, by") for each in said) == 2


@pytest.mark.parametrize("cell", [("unet", "independent"), ("pspnet", "shared")])
def test_a_world_in_which_its_conclusion_fails(sentences, cell):
    other = {("unet", "independent"): (0.9, 0.9), ("pspnet", "shared"): (0.9, 0.1)}[cell]
    said = told(sentences, shares=PAPER | {cell: other})
    assert said[0] == "The paper's conclusion fails under its own conditions."
    assert ("UNet passes from independent starts" in said[1]) == (cell[0] == "unet")
    assert ("PSPNet fails from a shared one" in said[1]) == (cell[0] == "pspnet")


def test_a_world_that_is_open(sentences):
    said = told(sentences, shares={cell: (0.5, 0.5) for cell in PAPER}, swing=0.2, noise=0.05)
    assert said[0] == "Whether the paper's conclusion holds under its own conditions, we can't tell."
    assert "UNet may pass or fail from independent starts, PSPNet may pass or fail from a shared one." in said[1]
    assert said[2] == "Whether they differ where their starts are equal, we can't tell."
    assert "UNet may pass or fail from either start." in said
    assert sum(each.startswith("Whether an independent start costs more, we can't tell: by ") for each in said) == 2
    assert sum("we can't tell if fewer pass later" in each for each in said) == 4
    assert not any("hardly moved" in each for each in said)


def test_a_start_that_decides_alone_and_one_that_does_not(sentences):
    by_start = {cell: (0.9, 0.9 if cell[1] == "shared" else 0.1) for cell in PAPER}
    by_network = {cell: (0.9, 0.9 if cell[0] == "pspnet" else 0.1) for cell in PAPER}
    assert told(sentences, shares=by_start)[2] == "Where their starts are equal, they do not differ."
    assert told(sentences, shares=by_network)[2].endswith(
        "they differ from independent starts and from a shared start."
    )


def test_a_shared_start_that_costs_more_is_said_with_its_sign(sentences):
    turned = {(network, "shared" if start == "independent" else "independent"): share
              for (network, start), share in PAPER.items()}  # fmt: skip
    found = [each for each in told(sentences, shares=turned) if each.startswith("The start counts")]
    assert len(found) == 2
    assert all("a shared one costs more, by 0." in each for each in found)


def test_what_passed_for_want_of_training_is_said(sentences):
    said = told(sentences)
    assert "From a shared start fewer pass later: 1.00 after 9 steps, 0.20 at the end, " in " ".join(said)
    moved = "What passed at first alone had hardly moved: relative RMSE 0.10, at the end 0.60."
    assert said.count(moved) == 1  # UNet's; as many of PSPNet's pass at the end
    assert not any("hardly moved" in each for each in told(sentences, apart=(0.4, 0.6)))
    rising = told(sentences, shares={cell: (0.1, 0.9) for cell in PAPER})
    assert sum("more pass later" in each for each in rising) == 4


def test_targets_that_are_too_weak_are_told_and_good_ones_are_not(sentences):
    weak = "Its targets of 9 steps are too weak to judge anything by: below a Dice of 0.78."
    assert weak in told(sentences)
    assert not any("too weak" in each for each in told(sentences, dice=(0.8, 0.9)))


def test_the_dice_of_the_last_stage_decides_whether_anything_is_said():
    assert stages.reached(stages.summary(made(), 0.05)) == pytest.approx({"unet": 0.9, "pspnet": 0.9})


# ---------------------------------------------------------------- figures


@pytest.mark.parametrize("against", ["steps", "relative"])
def test_a_figure_has_the_points_of_the_table_hollow_where_the_target_is_weak(against):
    table = made(swing=0.05)
    summary, single = (of(table, 0.05) for of in (stages.summary, stages.by_seed))
    figure = figures.stages(summary, single, FLOORS, TITLES, tolerance=0.05, against=against, note="x")
    assert [axis.get_title() for axis in figure.axes] == ["UNet", "PSPNet"] * 2
    assert all(axis.get_xscale() == "log" for axis in figure.axes)
    if against == "steps":
        assert all(axis.get_xticks().tolist() == [9, 600] for axis in figure.axes)
    for axis, (value, network) in zip(figure.axes, itertools.product(["passing", "drop"], TITLES), strict=True):
        drawn = {"full": [], "none": []}
        for bars in axis.containers:
            line = bars.lines[0]
            drawn[line.get_fillstyle()] += list(zip(*line.get_data(), strict=True))
        part = summary[summary["network"] == network]
        for fill, some in (("full", part[part["dice"] >= 0.78]), ("none", part[part["dice"] < 0.7])):
            wanted = sorted(some[[against, value]].itertuples(index=False, name=None))
            np.testing.assert_allclose(sorted(drawn[fill]), wanted)
    words = [text.get_text() for axis in figure.axes if axis.get_legend() for text in axis.get_legend().get_texts()]
    assert {"bars: 95 % over seeds", "bars: 95 % over seeds and patients", "hollow: target too weak"} <= set(words)
