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
from prr.study.transfer import (
    CONTRASTS,
    ROWS,
    combinations,
    contrasts,
    gains,
    in_words,
    loaded,
    reached,
    row_gains,
    shares,
    sizes,
    summary,
    with_paper_values,
    with_sizes,
)

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
    return experiment().result(transfer.by_patient(experiment()))


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


COLUMNS = ["network", "parameters", "patients", "row", "label", "source", "frozen", "seed", "patient", "class", "dice"]


def table(values, network="pspnet", parameters="paper"):
    """Runs from {(patients, row, seed): Dice of the classes 0 to 3}, of one patient or a line for each."""
    rows = [
        (network, parameters, count, row, f"row {row}", *ROWS[row], seed, patient, each, dice)
        for (count, row, seed), scores in values.items()
        for patient, classes in enumerate(np.atleast_2d(scores))
        for each, dice in enumerate(classes)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def world(add=lambda size, row: 0.0, sizes=(3, 30), seeds=(0, 1), count=6, spread=0.01):
    """All rows: what each adds, levels of seeds and patients that fall out of a gain, and a spread that does not."""
    random = np.random.default_rng(0)
    seed_level, patient_level = random.normal(0, 0.05, len(seeds)), random.normal(0, 0.1, count)
    values = {}
    for size, row, (place, seed) in itertools.product(sizes, ROWS, enumerate(seeds)):
        level = 0.6 + add(size, row) + seed_level[place] + patient_level
        values[size, row, seed] = (level + random.normal(0, spread, count))[:, None] + random.normal(0, spread, 4)
    return table(values)


# ------------------------------------------------------------------------ whole


def test_every_row_size_seed_and_class_is_there_once(runs):
    assert list(runs.columns) == COLUMNS
    scored = runs["patient"].unique()
    assert len(scored) == 2
    expected = itertools.product(["pspnet"], ["paper"], [1, 2], range(1, 12), [0, 1], scored, range(4))
    assert sorted(runs[[*CELL, "patient", "class"]].itertuples(index=False, name=None)) == sorted(expected)
    assert runs["dice"].between(0, 1).all()


def test_the_result_is_the_dice_of_the_trained_network_on_each_validation_patient(experiment, fits):
    run = experiment(seed=5)
    found = run.result(row(run, 1)).set_index(["patient", "class"])["dice"]
    part = run.slices("acdc").validation
    prediction = fits[0]["model"](part.images).argmax(1)
    for number, each in itertools.product(part.patient.unique().tolist(), range(4)):
        ours, theirs = ((value == each)[part.patient == number] for value in (prediction, part.masks))
        pixels = ours.sum() + theirs.sum()
        assert found[number, each] == pytest.approx((2 * (ours & theirs).sum() / pixels).item())


def test_the_table_is_the_mean_over_patients_and_is_not_kept(experiment, runs):
    run = experiment()
    job = transfer.table(run)
    assert job.form is None
    found = run.result(job)
    assert list(found.columns) == [name for name in COLUMNS if name != "patient"]
    assert len(found) == len(runs) / 2
    pd.testing.assert_frame_equal(run.transfer(), found)
    own = runs.query("patients == 2 and row == 5 and seed == 1 and `class` == 3")["dice"]
    assert found.query("patients == 2 and row == 5 and seed == 1 and `class` == 3")["dice"].item() == own.mean()


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
    run = experiment(make=False)
    pd.testing.assert_frame_equal(run.result(transfer.by_patient(run)), runs)
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


def test_means_by_hand():
    values = {(10, 1, 0): (1.0, 0.6, 0.5, 0.7), (10, 1, 1): (0.9, 0.4, 0.3, 0.8), (10, 1, 2): (1.0, 0.0, 1.0, 0.3)}
    found = summary(table(values)).set_index("class")
    assert found["dice"].tolist() == pytest.approx([2.9 / 3, 1 / 3, 0.6, 0.6, 7.5 / 12, 4.6 / 9])
    assert (found["seeds"] == 3).all()


def test_the_mean_has_the_background_and_the_foreground_has_not():
    found = summary(table({(10, 1, 0): (1.0, 0.6, 0.5, 0.7)})).set_index("class")
    assert found.loc["mean", "dice"] == pytest.approx(0.7)
    assert found.loc["foreground", "dice"] == pytest.approx(0.6)
    assert found[["low", "high"]].isna().all(axis=None)  # one seed and one patient tell no spread
    assert set(found["over"]) == {""}


@pytest.mark.parametrize(
    ("seeds", "count", "over"), [(2, 6, "seeds and patients"), (1, 6, "patients"), (3, 1, "seeds")]
)
def test_an_interval_says_what_it_resamples(seeds, count, over):
    runs = world(seeds=range(seeds), count=count)
    for found in (summary(runs), gains(runs), contrasts(runs), row_gains(runs, [(1, 2)])):
        assert set(found["over"]) == {over}
        assert found[["low", "high"]].notna().all(axis=None)
        assert (found["seeds"] == seeds).all()


def test_over_patients_alone_the_interval_is_about_students():
    """One seed: a bootstrap of many patients, moved to the quantile of t, is close to the t interval of their gains."""
    runs = world(seeds=[0], count=60, spread=0.1)
    mean = runs.groupby(["patients", "row", "patient"])["dice"].mean().unstack("patient")
    theirs = stats.ttest_1samp(mean.loc[3, 4] - mean.loc[3, 1], 0).confidence_interval()
    ours = row_gains(runs[runs["patients"] == 3], [(4, 1)]).iloc[0]
    assert ours["gain"] == pytest.approx((mean.loc[3, 4] - mean.loc[3, 1]).mean())
    assert (ours["low"], ours["high"]) == pytest.approx((theirs.low, theirs.high), abs=0.1 * (theirs.high - theirs.low))


def test_limits_for_many_are_wider_than_for_one_and_the_number_is_told():
    runs = world(spread=0.05)
    one, many = row_gains(runs[runs["patients"] == 3], [(4, 1)]), gains(runs)
    assert one["simultaneous"].tolist() == [1]
    assert set(many["simultaneous"]) == {10 * 2}
    assert set(gains(runs, "start")["simultaneous"]) == {8 * 2}
    assert set(contrasts(runs)["simultaneous"]) == {2}
    same = many.query("patients == 3 and row == 4 and `class` == 'mean'").iloc[0]
    assert same["gain"] == pytest.approx(one["gain"].item())
    assert same["high"] - same["low"] > 1.2 * (one["high"] - one["low"]).item()


def test_a_cell_has_an_interval_of_its_own():
    runs = world(spread=0.05)
    alone = summary(runs.query("patients == 3 and row == 4"))
    found = summary(runs).query("patients == 3 and row == 4")
    assert found[["dice", "low", "high"]].to_numpy() == pytest.approx(alone[["dice", "low", "high"]].to_numpy())


def test_limits_end_where_dice_does():
    """Two seeds that disagree, one patient: Student's quantile of one degree of freedom goes far beyond."""
    random = np.random.default_rng(0)
    runs = table({(3, row, seed): (random.uniform(0.2, 0.8),) * 4 for row in ROWS for seed in (0, 1)})
    cells, found = summary(runs), gains(runs)
    assert (cells["low"].min(), cells["high"].max()) == (0, 1)
    assert (found["low"].min(), found["high"].max()) == (-1, 1)
    assert ((found["low"] < found["gain"]) & (found["gain"] < found["high"])).all()


def test_gains_are_paired_by_seed_and_patient():
    """Seeds and patients differ widely, rows by the same 0.1 in each: the interval of the gain is a point."""
    found = gains(world(lambda size, row: 0.1 * (row == 4), spread=0)).query("row == 4")
    assert set(found["class"]) == {"mean", "foreground"}
    assert found[["gain", "low", "high"]].to_numpy() == pytest.approx(np.full((4, 3), 0.1))


def test_gains_are_taken_within_network_list_and_size():
    paper = world(lambda size, row: 0.1 * (row == 4) * (1 if size == 3 else -1))
    other = world(lambda size, row: -0.4 * (row == 4), sizes=(3,)).assign(parameters="inferred")
    found = gains(pd.concat([paper, other])).query("`class` == 'mean' and row == 4")
    found = found.set_index(["parameters", "patients"])["gain"]
    expected = {("inferred", 3): -0.4, ("paper", 3): 0.1, ("paper", 30): -0.1}
    assert found.to_dict() == pytest.approx(expected, abs=0.02)


def test_one_row_is_above_another_where_its_limits_say_so():
    found = row_gains(world(lambda size, row: -0.2 * (row == 2) * (size == 3)), [(1, 2), (2, 1)])
    found = found.set_index(["patients", "better", "worse"])
    assert found.loc[(3, 1, 2), "low"] > 0
    assert found.loc[(3, 2, 1), "high"] < 0
    assert found.loc[(30, 1, 2), "low"] < 0 < found.loc[(30, 1, 2), "high"]


def test_contrasts_are_those_that_were_declared():
    """Every row and size has a level of its own, so a row too many or too few would show."""
    assert CONTRASTS == {"frozen": (2, 4, 6), "trained on": (3, 5, 7)}
    assert all(ROWS[row].frozen == (name == "frozen") for name, rows in CONTRASTS.items() for row in rows)
    found = contrasts(world(lambda size, row: 2.0**row / 1000 * size, spread=0)).set_index("contrast")
    for name, rows in CONTRASTS.items():
        levels = [(2.0**row - 2) / 1000 * size for row in rows for size in (3, 30)]
        assert found.loc[name, ["gain", "low", "high"]].tolist() == pytest.approx([np.mean(levels)] * 3)


def test_a_contrast_decides_where_no_single_row_can():
    """All frozen rows lose a little, each by itself within its luck."""
    runs = world(lambda size, row: -0.1 * ROWS[row].frozen, spread=0.05, seeds=range(3))
    single, pooled = gains(runs).query("`class` == 'mean'"), contrasts(runs).set_index("contrast")
    assert (single["high"] > 0).all()
    assert pooled.loc["frozen", "high"] < 0
    assert pooled.loc["trained on", "low"] < 0 < pooled.loc["trained on", "high"]


def test_a_patient_without_a_class_spoils_nothing():
    """Its class counts as the mean of the others, who weigh more: the class's mean is theirs, and so is its error."""
    random = np.random.default_rng(0)
    scores = random.uniform(0.5, 0.9, (2, 40, 4))
    scores[:, :10, 3] = np.nan
    runs = table({(10, 1, 0): scores[0], (10, 4, 0): scores[1], (50, 1, 0): scores[0], (50, 4, 0): scores[1]})
    cells = summary(runs).query("patients == 10 and row == 1").set_index("class")
    assert cells.loc[3, "dice"] == pytest.approx(scores[0, 10:, 3].mean())
    classes = [scores[0, :, each].mean() for each in range(3)] + [scores[0, 10:, 3].mean()]
    assert cells.loc["mean", "dice"] == pytest.approx(np.mean(classes))
    theirs = stats.ttest_1samp(scores[0, 10:, 3], 0).confidence_interval()
    width = cells.loc[3, "high"] - cells.loc[3, "low"]
    assert width == pytest.approx(theirs.high - theirs.low, rel=0.1)
    gained = row_gains(runs, [(4, 1)]).query("patients == 10").iloc[0]
    assert gained["gain"] == pytest.approx(np.nanmean(scores[1], 0).mean() - np.nanmean(scores[0], 0).mean())
    assert gained["low"] < gained["gain"] < gained["high"]


def test_a_class_that_nobody_has_stays_out_of_the_means():
    runs = world().assign(dice=lambda runs: runs["dice"].where(runs["class"] != 3))
    cells = summary(runs)
    assert cells.loc[cells["class"] == 3, "dice"].isna().all()
    assert cells.loc[cells["class"] != 3, ["dice", "low", "high"]].notna().all(axis=None)
    assert gains(runs)[["gain", "low", "high"]].notna().all(axis=None)


def test_what_is_reached_is_the_best_row_with_all_patients():
    """Row 5 is best with all patients; row 3 would be with few; the background does not count."""
    values = {(size, row, seed): (0.99, 0.2, 0.3, 0.1) for size in (3, 30) for row in ROWS for seed in (0, 1)}
    values |= {(30, 5, 0): (0.99, 0.5, 0.6, 0.7), (30, 5, 1): (0.99, 0.7, 0.6, 0.8), (3, 3, 0): (1.0, 0.9, 0.9, 0.9)}
    unet = table({cell: (1.0, 0.4, 0.4, 0.4) for cell in values}, network="unet", parameters="inferred")
    found = reached(pd.concat([table(values), table(values, parameters="inferred"), unet]))
    assert found == pytest.approx({"pspnet": 0.65, "unet": 0.4})


def test_gains_over_the_start_alone_compare_frozen_with_frozen():
    flat = {(10, row, 0): (row / 100,) * 4 for row in ROWS}
    found = gains(table(flat), against="start").query("`class` == 'mean'").set_index("row")["gain"]
    assert (100 * found).to_dict() == pytest.approx({2: -6, 3: -6, 4: -4, 5: -4, 6: -2, 7: -2, 10: 2, 11: 2})
    with pytest.raises(OptionError, match="expected one of nothing, start"):
        gains(table(flat), against="row 1")


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


@pytest.mark.parametrize(
    ("add", "effect", "counted", "singly"),
    [
        (-0.3, "hurts: -0.3", "All 40 of 40 frozen cells lie below row 1", "no certain gains, 10 certain losses"),
        (0.3, "helps: 0.3", "None of 40 frozen cells lie below row 1", "10 certain gains, no certain losses"),
        (0.0, "may help or hurt: ", " of 40 frozen cells lie below row 1", "no certain gains, no certain losses"),
    ],
)
def test_words_say_whether_loading_helps_hurts_or_neither(sentences, add, effect, counted, singly):
    told = sentences(in_words(world(lambda size, row: add * ROWS[row].frozen, seeds=range(4))))
    assert told[0] == "PSPNet, paper list."
    assert told[1].startswith(f"Loading and freezing {effect}")
    assert told[1].endswith("over seeds and patients.")
    assert told[2].startswith("Loading and training on may help or hurt: ")
    assert "simultaneous for 2 contrasts" in told[3]
    assert counted in told[4]
    assert told[6] == f"Row by row over row 1, simultaneous for 20: {singly}."
    assert told[7] == "Over the start alone, simultaneous for 16: no certain gains, no certain losses."


def test_cells_below_row_1_are_counted_within_seed_and_size(sentences):
    """Below in one seed of two with few patients, in both with all: three of four cells of each frozen row."""
    low = {(30, 0), (30, 1), (3, 1)}
    values = {
        (size, row, seed): (0.5 - 0.1 * (ROWS[row].frozen and (size, seed) in low),) * 4
        for size, row, seed in itertools.product((3, 30), ROWS, (0, 1))
    }
    told = sentences(in_words(table(values)))
    assert "15 of 20 frozen cells lie below row 1 of the same seed and size." in told
    assert "Of the 20 trained on, none do." in told
    values |= {(size, row, seed): (0.3,) * 4 for size, row, seed in values if row > 1 and not ROWS[row].frozen}
    assert "Of the 20 trained on, all do." in sentences(in_words(table(values)))


def test_words_of_one_seed_say_that_they_rest_on_patients(sentences):
    runs = world(lambda size, row: -0.3 * ROWS[row].frozen, seeds=[0])
    told = sentences(in_words(pd.concat([runs, runs.assign(network="unet", parameters="inferred")])))
    assert told[1].startswith("Loading and freezing hurts")
    assert told[1].endswith("over patients.")
    assert told.count("All 10 of 10 frozen cells lie below row 1 of the same seed and size.") == 2
    assert "UNet, inferred list." in told


def test_words_of_one_run_of_one_patient_decide_nothing(sentences):
    told = sentences(in_words(world(lambda size, row: -0.3 * ROWS[row].frozen, seeds=[0], count=1)))
    assert told[1].startswith("Loading and freezing may help or hurt: -0.3")
    assert "[" not in told[1]


def test_sizes_stand_beside_the_papers():
    cells = pd.DataFrame({"patients": [5, 20, 5], "row": [1, 1, 2]})
    found = with_sizes(cells)
    few, every = "5 patients (10 in the paper)", "20 patients (50 in the paper)"
    assert found["size"].tolist() == [few, every, few]
    assert found["paper_patients"].tolist() == [10, 50, 10]
    papers = with_sizes(pd.DataFrame({"patients": [10, 50]}))
    assert papers["size"].tolist() == ["10 patients", "50 patients"]
    assert with_sizes(pd.DataFrame({"patients": [1, 2]}))["size"].iloc[0] == "1 patient (10 in the paper)"


def test_the_setting_is_told_in_sentences(experiment, sentences):
    told = sentences(transfer.setting(experiment(seeds=1)))
    assert told[0] == "The target learns from 1 labelled patient (10 in the paper) or from all 2 (50 in the paper)."
    assert told[-1] == "All of it is done with 1 seed."
    assert sentences(transfer.setting(experiment()))[-1] == "All of it is done with 2 seeds."


def test_a_row_whose_list_freezes_everything_is_scored_as_loaded(experiment, fits, monkeypatch):
    run = experiment()
    every = run.job(transfer.all_but, listed=[], network="unet", width=run.profile.unet_width)
    monkeypatch.setattr(transfer, "loaded", lambda *arguments: every)
    found = run.result(row(run, 10, network="unet", parameters="inferred"))
    assert not [call for call in fits if not any(each.requires_grad for each in call["model"].parameters())]
    source, part = run.model("unet", task="auto-encoding"), run.slices("acdc").validation
    expected = prr.dice(prr.reuse.predict(source, part.images).argmax(1), part.masks, part.patient)
    # memory layouts differ, and a pixel of two equal logits may fall either way
    assert found["dice"].to_numpy() == pytest.approx(expected["dice"], abs=1e-3)


def test_classes_are_those_of_the_target():
    two = table({(3, 1, 0): [0.9, 0.6], (3, 1, 1): [0.9, 0.8]})
    cells = summary(two).set_index("class")["dice"]
    assert set(cells.index) == {0, 1, "mean", "foreground"}
    assert cells["foreground"] == pytest.approx(0.7)
    assert cells["mean"] == pytest.approx(0.8)
    assert with_paper_values(summary(two), {0: "background", 1: "disc"})["paper"].isna().all()
