"""The transfer experiment: whole at the smallest scale, and its tables by hand."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import prr
from prr.data import Slices
from prr.errors import DataError, MissingError, OptionError
from prr.layers import KINDS, tensor
from prr.study import Experiment, jobs, networks, paper, pspnet, training, transfer
from prr.study.networks import draw
from prr.study.starts import initial
from prr.study.transfer import ROWS, combinations, gains, in_words, loaded, shares, sizes, summary, with_paper_values

CELL = ["network", "parameters", "patients", "row", "seed"]


pytestmark = pytest.mark.usefixtures("phantoms_only")


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """Experiments of few steps, in one store."""
    folder = tmp_path_factory.mktemp("store")
    options = {"store": folder, "steps": 1, "transfer_steps": 2, "device": "cpu", "progress": False}
    return lambda **others: Experiment("smoke", **options | others)


def row(run, number=4, **others):
    """The job of a row by the paper's list."""
    given = {"network": "pspnet", "parameters": "paper", "patients": 1, "seed": run.seed}
    return transfer.row(run, row=number, **given | others)


@pytest.fixture(scope="module")
def runs(experiment):
    return experiment().transfer()


@pytest.fixture
def fits(monkeypatch):
    """Every network that is trained for a transfer: what it began with, and whether it may change."""
    calls, fit = [], training.fit

    def spy(model, data, task, **options):
        start = {name: value.clone() for name, value in model.state_dict().items()}
        calls.append({"start": start, "model": model, "data": data} | options)
        return fit(model, data, task, **options)

    monkeypatch.setattr(training, "fit", spy)
    return calls


def patients(count=6, held_out=(0, 3), classes=(1, 2, 3)):
    """One slice per patient; patient p holds the class classes[p % len(classes)] in one corner."""
    masks = torch.zeros(count, 4, 4, dtype=torch.uint8)
    masks[:, 0, 0] = torch.tensor([classes[p % len(classes)] for p in range(count)])
    return Slices(
        images=torch.randn(count, 1, 4, 4), masks=masks, patient=torch.arange(count), spacing_mm=1.0, name="blobs",
        held_out=held_out,
    )  # fmt: skip


def table(values, network="pspnet", parameters="paper"):
    """Runs from {(patients, row, seed): Dice of the classes 0 to 3}."""
    rows = [
        (network, parameters, count, row, f"row {row}", *ROWS[row], seed, each, dice)
        for (count, row, seed), four in values.items()
        for each, dice in enumerate(four)
    ]
    columns = ["network", "parameters", "patients", "row", "label", "source", "frozen", "seed", "class", "dice"]
    return pd.DataFrame(rows, columns=columns)


# ------------------------------------------------------------------------ whole


def test_every_row_size_seed_and_class_is_there_once(runs):
    columns = ["network", "parameters", "patients", "row", "label", "source", "frozen", "seed", "class", "dice"]
    assert list(runs.columns) == columns
    expected = itertools.product(["pspnet"], ["paper"], [1, 2], range(1, 12), [0, 1], range(4))
    assert sorted(runs[[*CELL, "class"]].itertuples(index=False, name=None)) == sorted(expected)
    assert runs["dice"].between(0, 1).all()


def test_the_result_is_the_dice_of_the_trained_network_on_the_validation_patients(experiment, fits):
    run = experiment(seed=5)
    found = run.result(row(run, 1))
    part = run.slices("acdc").validation
    prediction = fits[0]["model"](part.images).argmax(1)
    for each in range(4):
        ours, theirs, by_patient = prediction == each, part.masks == each, []
        for own in (part.patient == number for number in part.patient.unique()):
            pixels = ours[own].sum() + theirs[own].sum()
            by_patient.append(2 * (ours & theirs)[own].sum() / pixels)
        assert found.loc[found["class"] == each, "dice"].item() == pytest.approx(torch.stack(by_patient).mean().item())


def test_what_is_done_is_not_made_again(experiment, fits, monkeypatch):
    """Interrupted in the fourth row; afterwards that one and the rest are made, and read back the same."""
    run, fit = experiment(seed=2, seeds=1), training.fit

    def of_rows():
        return [call for call in fits if call["steps"] == 2]

    def interrupted(*given, **named):
        if len(of_rows()) == 3:
            raise KeyboardInterrupt
        return fit(*given, **named)

    monkeypatch.setattr(training, "fit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.transfer()
    monkeypatch.setattr(training, "fit", fit)
    fits.clear()
    runs = run.transfer()
    assert len(of_rows()) == 2 * 11 - 3
    fits.clear()
    pd.testing.assert_frame_equal(run.transfer(), runs)
    assert fits == []


def test_rows_wait_for_the_networks_that_they_load_and_for_nothing_else(experiment):
    run = experiment(seed=30)
    first, second = jobs.waves([transfer.table(run)], run.results)
    sources = {(job.arguments["dataset"], job.arguments["task"]) for job in first if job.function is networks.trained}
    assert sources == {tuple(each.source.split()) for each in ROWS.values() if " " in each.source}
    assert len(first) == 2 * (len(sources) + 2 * 3)  # seeds; networks, and rows 1, 8 and 9 of two sizes
    assert len(second) == 2 * 2 * 8


def test_a_reading_experiment_makes_nothing(experiment, runs, fits):
    pd.testing.assert_frame_equal(experiment(make=False).transfer(), runs)
    with pytest.raises(MissingError):
        experiment(seed=40, make=False).transfer()
    assert fits == []


def test_provenance_names_a_row_by_its_own_start_and_its_source_by_the_sources(experiment, runs):
    run = experiment()
    run.result(row(run, 4))
    made = run.provenance()[["made", "network", "normalisation", "start", "seed"]]
    assert made.to_numpy().tolist() == [
        ["t1 auto-encoding", "pspnet", "zscore", "shared", 0],
        ["transfer row 4, 1 patients", "pspnet", "zscore", "independent", 0],
    ]


@pytest.mark.parametrize(
    "other",
    [{"transfer_steps": 3}, {"learning_rate": 0.01}, {"batch_size": 4}, {"pspnet_width": 16}, {"acdc_patients": 5},
     {"steps": 3}, {"pspnet_start": "independent"}, {"normalisation": "unit"}],
)  # fmt: skip
def test_what_decides_a_run_is_in_its_key(experiment, runs, other):
    """Row 4 depends on each of these, its source's steps and start among them; nothing else may be found for it."""
    assert experiment().holds(row(experiment()))
    run = experiment(**other)
    assert not run.holds(row(run))


@pytest.mark.parametrize(
    ("number", "other"),
    [(1, {"steps": 3}), (1, {"pspnet_start": "independent"}), (8, {"steps": 3}), (4, {"tolerance": 0.1})],
)
def test_a_run_depends_on_nothing_else(experiment, runs, number, other):
    """Row 1 loads nothing: neither the list nor the sources' training; row 8 loads a start, not what comes of it."""
    run = experiment(make=False, **other)
    expected = runs[(runs["row"] == number) & (runs["patients"] == 1) & (runs["seed"] == 0)]
    assert run.result(row(run, number))["dice"].tolist() == expected["dice"].tolist()


# ------------------------------------------------------------------ one row


@pytest.mark.parametrize("number", ROWS)
def test_a_row_begins_with_what_it_loads_and_keeps_what_it_freezes(experiment, fits, number):
    run = experiment(seed=3, seeds=1)
    run.result(row(run, number, patients=2))
    call, (source, frozen) = fits[-1], ROWS[number]
    own = initial("pspnet", 8, "independent", "transfer", "segmentation", 3)
    if source == "start":
        giver = run.result(networks.start(run, "pspnet"))
    elif source:
        giver = run.model("pspnet", *source.split())
    listed = set(paper.not_reusable()[["kind", "name"]].itertuples(index=False, name=None))
    for kind, name in prr.parameter_table(own)[["kind", "name"]].itertuples(index=False):
        is_loaded = bool(source) and (kind, name) not in listed
        attribute = f"{name}.{KINDS[kind].attribute}"
        assert torch.equal(call["start"][attribute], tensor(giver if is_loaded else own, kind, name)), (kind, name)
        same = torch.equal(call["start"][attribute], tensor(call["model"], kind, name))
        assert same == (is_loaded and frozen), (kind, name)
    assert call["steps"] == 2
    assert len(call["data"].train.patient.unique()) == 2


def test_all_rows_and_sizes_of_a_seed_share_start_order_and_validation(experiment, fits):
    run = experiment(seed=4, seeds=1)
    for number, count in ((1, 1), (1, 2), (9, 1)):
        run.result(row(run, number, patients=count))
    assert len({call["seed"] for call in fits}) == 1
    assert len({call["start"]["encoder.conv1.weight"].sum().item() for call in fits}) == 1  # listed: never loaded
    held_out = {tuple(call["data"].validation.patient.unique().tolist()) for call in fits}
    assert held_out == {tuple(run.slices("acdc").validation.patient.unique().tolist())}


def test_the_start_alone_is_the_sources_start_and_not_the_targets(experiment):
    run = experiment()
    start, other = (
        run.result(networks.start(run, "pspnet", *each)) for each in (("t1", "auto-encoding"), ("rvsc", "segmentation"))
    )
    assert torch.equal(start.encoder.conv1.weight, other.encoder.conv1.weight)
    own = initial("pspnet", 8, "independent", "transfer", "segmentation", 0)
    assert not torch.equal(start.encoder.conv1.weight, own.encoder.conv1.weight)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"row": 12}, "row 12: expected one of 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11"),
        ({"network": "unet"}, "the paper lists PSPNet's alone; take 'inferred'"),
        ({"parameters": "mine"}, "'mine': expected paper or inferred"),
        ({"network": "resnet"}, "network 'resnet': expected one of unet, pspnet"),
        ({"patients": 0}, "patients=0: expected 1 to 2"),
        ({"patients": 3}, "patients=3: expected 1 to 2"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_a_run_that_can_not_be_is_refused_by_name_before_it_begins(experiment, arguments, message):
    call = {"network": "pspnet", "parameters": "paper", "row": 9, "patients": 1, "seed": 6} | arguments
    with pytest.raises(OptionError, match=message):
        transfer.row(experiment(), **call)


# ------------------------------------------------------------------------- lists


def test_the_papers_list_loads_123_of_134_pairs(experiment):
    run = experiment()
    chosen = run.result(loaded(run, "pspnet", "paper"))
    assert chosen["kind"].value_counts().to_dict() == {"W": 20, "B": 1, "RM": 24, "RV": 26, "RW": 26, "RB": 26}
    found = shares(run).set_index("counted")
    assert found.loc["pairs of kind and layer", ["loaded", "total"]].tolist() == [123, 134]
    model = pspnet(8)
    numbers = sum(p.numel() for p in model.parameters()) + sum(b.numel() for b in model.buffers() if b.ndim)
    kept = {f"{row.name}.{KINDS[row.kind].attribute}" for row in paper.not_reusable().itertuples()}
    left_out = sum(value.numel() for name, value in model.state_dict().items() if name in kept)
    assert found.loc["numbers", ["loaded", "total"]].tolist() == [numbers - left_out, numbers]


def test_the_inferred_list_is_what_a_sweep_finds_reusable_in_the_networks_order():
    sweep = pd.DataFrame(
        [("RV", 2, "down.0.bn2", 0.0, 0.0), ("W", 1, "down.0.conv1", -0.01, 0.05), ("RM", 2, "down.0.bn2", 0.2, 0.3),
         ("W", 2, "down.0.conv2", 0.0, 0.06)], columns=["kind", "layer", "name", "low", "high"],
    )  # fmt: skip
    found = transfer.inferred_list(sweep, 0.05, "unet", 2)
    assert found[["kind", "name"]].to_numpy().tolist() == [["W", "down.0.conv1"], ["RV", "down.0.bn2"]]
    assert found["size"].tolist() == [2 * 9, 2]
    wider = transfer.inferred_list(sweep, 0.06, "unet", 2)
    assert set(wider["name"]) - set(found["name"]) == {"down.0.conv2"}
    with pytest.raises(OptionError, match="transfer_list='inferred' for unet: its sweep finds nothing reusable"):
        transfer.inferred_list(sweep.assign(high=1.0), 0.05, "unet", 2)


def test_the_inferred_list_follows_the_runs_sweep_and_tolerance(experiment):
    sweep = experiment().sweep("unet")
    tolerance = float(sweep["high"].median())
    run = experiment(tolerance=tolerance, transfer_network="unet", transfer_list="inferred")
    passing = sweep[sweep["high"] <= tolerance]
    assert 0 < len(passing) < len(sweep)
    chosen = run.result(loaded(run, "unet", "inferred"))
    assert {*zip(chosen["kind"], chosen["name"], strict=True)} == {*zip(passing["kind"], passing["name"], strict=True)}
    assert shares(run)["loaded"].tolist() == [len(passing), chosen["size"].sum()]
    other, given = experiment(), {"network": "unet", "parameters": "inferred"}
    assert row(run, **given).digest != row(other, **given).digest


@pytest.mark.parametrize(
    ("network", "parameters", "expected"),
    [
        ("both", "both", [("pspnet", "paper"), ("pspnet", "inferred"), ("unet", "inferred")]),
        ("pspnet", "both", [("pspnet", "paper"), ("pspnet", "inferred")]),
        ("both", "inferred", [("pspnet", "inferred"), ("unet", "inferred")]),
        ("unet", "paper", [("unet", "paper")]),  # refused when it is loaded
    ],
)
def test_networks_and_lists_are_combined(experiment, network, parameters, expected):
    assert combinations(experiment(transfer_network=network, transfer_list=parameters)) == expected


def test_the_larger_size_is_all_training_patients(experiment):
    assert sizes(experiment(acdc_patients=10, few_patients=3)) == (3, 5)
    with pytest.raises(OptionError, match="few_patients=2: expected fewer than the 2"):
        sizes(experiment(few_patients=2))


# -------------------------------------------------------------------------- draw


def test_few_patients_are_among_more_of_the_same_seed_and_all_validation_patients_stay():
    data, drawn = patients(12, held_out=(1, 5, 8)), []
    for count in range(1, 10):
        part = draw(data, count, seed=3)
        drawn.append(set(part.train.patient.tolist()))
        assert len(drawn[-1]) == count
        assert part.validation.patient.unique().tolist() == [1, 5, 8]
        assert torch.equal(part.validation.images, data.validation.images)
    assert all(few < more for few, more in itertools.pairwise(drawn))
    assert drawn[-1] == set(data.train.patient.tolist())
    assert len({tuple(sorted(draw(data, 4, seed).train.patient.tolist())) for seed in range(9)}) > 1


def test_the_draw_keeps_a_split_that_was_drawn_itself():
    data = patients(12, held_out=None)
    assert draw(data, 2, 0).validation.patient.tolist() == data.validation.patient.tolist()


@pytest.mark.parametrize("count", [0, -1, 5])
def test_no_patients_or_too_many_are_refused(count):
    with pytest.raises(OptionError, match=f"patients={count}: expected 1 to 4, the training patients of blobs"):
        draw(patients(), count, 0)


def test_masks_without_a_class_of_the_target_are_refused_by_name():
    data = patients(classes=(1, 3))
    data.masks[0, 1, 1] = 2  # of a validation patient, which no draw can lend to the training part
    with pytest.raises(DataError, match="blobs: no pixel of class 2 in the masks of the 4 drawn patients"):
        draw(data, 4, 0, classes=(1, 2, 3))
    assert len(draw(data, 4, 0, classes=(1, 3)).train) == 4


# ------------------------------------------------------------------------ tables


def test_means_and_intervals_over_seeds_by_hand():
    values = {(10, 1, 0): (1.0, 0.6, 0.5, 0.7), (10, 1, 1): (0.9, 0.4, 0.3, 0.8), (10, 1, 2): (1.0, 0.0, 1.0, 0.3)}
    cells = summary(table(values))
    found = cells.set_index("class")
    assert found["dice"].tolist() == pytest.approx([2.9 / 3, 1 / 3, 0.6, 0.6, 7.5 / 12, 4.6 / 9])
    assert (found["seeds"] == 3).all()
    interval = stats.ttest_1samp([1.0, 0.9, 1.0], 0).confidence_interval()
    assert found.loc[0, ["low", "high"]].tolist() == pytest.approx([interval.low, interval.high])


def test_the_mean_has_the_background_and_the_foreground_has_not():
    found = summary(table({(10, 1, 0): (1.0, 0.6, 0.5, 0.7)})).set_index("class")
    assert found.loc["mean", "dice"] == pytest.approx(0.7)
    assert found.loc["foreground", "dice"] == pytest.approx(0.6)
    assert found[["low", "high"]].isna().all(axis=None)  # one seed tells no spread


def test_gains_are_paired_by_seed():
    """Seeds differ widely, rows by the same 0.1 in each: the interval of the gain is a point."""
    levels = {0: 0.1, 1: 0.4, 2: 0.8}
    flat = {(10, row, seed): (level + add,) * 4 for seed, level in levels.items() for row, add in ((1, 0), (4, 0.1))}
    found = gains(table(flat))
    assert found["row"].tolist() == [4, 4]
    assert set(found["class"]) == {"mean", "foreground"}
    assert found[["gain", "low", "high"]].to_numpy() == pytest.approx(np.full((2, 3), 0.1))


def test_gains_are_taken_within_network_list_and_size():
    runs = pd.concat([
        table({(10, 1, 0): (0.2,) * 4, (10, 4, 0): (0.3,) * 4, (50, 1, 0): (0.6,) * 4, (50, 4, 0): (0.5,) * 4}),
        table({(10, 1, 0): (0.9,) * 4, (10, 4, 0): (0.5,) * 4}, parameters="inferred"),
    ])  # fmt: skip
    found = gains(runs).query("`class` == 'mean'").set_index(["parameters", "patients"])["gain"]
    assert found.to_dict() == pytest.approx({("inferred", 10): -0.4, ("paper", 10): 0.1, ("paper", 50): -0.1})


def test_gains_over_the_start_alone_compare_frozen_with_frozen():
    flat = {(10, row, 0): (row / 100,) * 4 for row in ROWS}
    found = gains(table(flat), over="start").query("`class` == 'mean'").set_index("row")["gain"]
    assert (100 * found).to_dict() == pytest.approx({2: -6, 3: -6, 4: -4, 5: -4, 6: -2, 7: -2, 10: 2, 11: 2})
    with pytest.raises(OptionError, match="expected one of nothing, start"):
        gains(table(flat), over="row 1")


def test_the_papers_value_stands_beside_ours_cell_by_cell():
    """Our sizes are 3 and 30; ours is the paper's printed value, class by class, so that a shift would show."""
    values = {
        ({10: 3, 50: 30}[row.patients], row.row, 0): row[6:10] for row in paper.transfer().itertuples()
    }  # fmt: skip
    found = with_paper_values(summary(table(values)))
    classes = found[found["class"].isin(range(4))]
    assert len(classes) == 2 * 7 * 4
    assert (classes["dice"] == classes["paper"]).all()
    means = found[found["class"] == "mean"]
    assert sorted(zip(means["patients"], means["paper_patients"], strict=True))[::7] == [(3, 10), (30, 50)]
    off = means[(means["dice"] - means["paper"]).abs() > 0.0051]
    assert off[["paper_patients", "row"]].to_numpy().tolist() == [[50, 6]]  # the suspicious cell, and no other
    assert found.loc[found["class"] == "foreground", "paper"].isna().all()


def test_what_the_paper_has_not_is_left_empty():
    values = {(count, row, 0): (0.5,) * 4 for count in (10, 50) for row in ROWS}
    ours, unet = with_paper_values(summary(table(values))), with_paper_values(summary(table(values, network="unet")))
    assert set(ours.loc[ours["paper"].isna() & (ours["class"] == "mean"), "row"]) == {8, 9, 10, 11}
    assert unet["paper"].isna().all()


def test_words_name_the_rows_whose_interval_leaves_0_out():
    add = {1: 0.0, 4: 0.2, 6: -0.2, 8: 0.1, 9: 0.0}
    near = {(10, row, seed): (0.5 + add.get(row, 0) + 0.001 * seed * row,) * 4 for row in ROWS for seed in range(3)}
    text = in_words(table(near))
    assert "PSPNet, paper list, labelled patients: 10, seeds: 3" in text
    assert "against loading nothing, rows that gain: 4, 8, rows that lose: 6" in text
    assert "against loading the start alone, rows that gain: 4, rows that lose: 2, 6, 10" in text
    assert "+0.20" in text
    one = {cell: value for cell, value in near.items() if cell[2] == 0}
    assert in_words(table(one)).count("rows that gain: none, rows that lose: none") == 2  # no interval, no verdict


def test_a_row_whose_list_freezes_everything_is_scored_as_loaded(experiment, fits, monkeypatch):
    run = experiment()
    every = run.job(transfer.all_but, listed=[], network="unet", width=run.profile.unet_width)
    monkeypatch.setattr(transfer, "loaded", lambda *arguments: every)
    found = run.result(row(run, 10, network="unet", parameters="inferred"))
    assert not [call for call in fits if not any(each.requires_grad for each in call["model"].parameters())]
    source, part = run.model("unet", task="auto-encoding"), run.slices("acdc").validation
    expected = prr.dice(prr.reuse.predict(source, part.images).argmax(1), part.masks, part.patient)
    # memory layouts differ, and a pixel of two equal logits may fall either way
    assert found["dice"].to_numpy() == pytest.approx(expected.groupby("class")["dice"].mean(), abs=1e-3)


def test_classes_are_those_of_the_target():
    two = table({(3, 1, 0): [0.9, 0.6], (3, 1, 1): [0.9, 0.8]})
    cells = summary(two).set_index("class")["dice"]
    assert set(cells.index) == {0, 1, "mean", "foreground"}
    assert cells["foreground"] == pytest.approx(0.7)
    assert cells["mean"] == pytest.approx(0.8)
    assert with_paper_values(summary(two), {0: "background", 1: "disc"})["paper"].isna().all()
