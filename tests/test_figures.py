"""Figures show the numbers of their tables: those of the method, and those of the study."""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from prr import figures
from prr.bn import shift_scale
from prr.data.slices import LABELS
from prr.distance import rmse
from prr.errors import OptionError
from prr.layers import parameter_table
from prr.study import figures as study
from prr.study import pspnet, unet
from prr.study.models import connections
from prr.verdict import TOLERANCE

KINDS = ["W", "B", "RM", "RV", "RW", "RB"]


def a_sweep(kinds=KINDS, layers=9, seed=0):
    random = np.random.default_rng(seed)
    sweep = pd.DataFrame([(kind, layer) for kind in kinds for layer in range(1, layers + 1)], columns=["kind", "layer"])
    drop, width = random.uniform(0, 0.3, len(sweep)), random.uniform(0, 0.1, len(sweep))
    return sweep.assign(score=0.9 - drop, drop=drop, low=drop - width, high=drop + width)


def some_slices(labels=LABELS, channels=1):
    generator = torch.Generator().manual_seed(0)
    return SimpleNamespace(
        labels=labels,
        images=torch.randn(12, channels, 8, 8, generator=generator),
        masks=torch.randint(4, (12, 8, 8), generator=generator, dtype=torch.uint8),
        patient=torch.tensor([4] * 9 + [2, 7, 2]),
    )


def distances():
    return rmse(unet(2), unet(2))


def shifts():
    return shift_scale(unet(2), unet(2))


def responses():
    random, low = np.random.default_rng(0), np.arange(6.0)
    bounds = {"low": np.tile(low, 4), "high": np.tile(low + 1, 4)}
    kinds = np.repeat(["target", "RM", "RB", "B"], 6)
    return pd.DataFrame({"kind": kinds, **bounds, "density": random.random(24)})


def history():
    return pd.DataFrame({"step": [1, 2, 3], "loss": [3.0, 2.0, 1.5], "validation": [0.1, 0.2, 0.4]})


def drawn():
    model = unet(2).eval()
    return parameter_table(model, torch.zeros(1, 1, 16, 16)), model, connections(model)


FIGURES = {
    "reuse": lambda note: figures.reuse(a_sweep(), note=note),
    "compare": lambda note: figures.compare({"a": a_sweep(layers=1), "b": a_sweep(layers=1, seed=1)}, note=note),
    "rmse": lambda note: figures.rmse(distances(), note=note),
    "shift_scale": lambda note: figures.shift_scale(shifts(), note=note),
    "common_scale": lambda note: figures.common_scale(shifts(), note=note),
    "histograms": lambda note: figures.histograms(responses(), note=note),
    "network": lambda note: figures.network(*drawn(), note=note),
    "slices": lambda note: study.slices(some_slices(), note=note),
    "histories": lambda note: figures.histories({"one": history(), "two": history()}, note=note),
}
PANELS = {
    "reuse": 6, "compare": 1, "rmse": 4, "shift_scale": 2, "common_scale": 2, "histograms": 3, "network": 1,
    "slices": 14, "histories": 2,
}  # fmt: skip


def panels(figure):
    return [axis for axis in figure.axes if axis.get_visible()]


def points(line):
    return np.column_stack(line.get_data()).astype(float)


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_has_its_panels_carries_its_note_and_is_closed_for_pyplot(name):
    figure = FIGURES[name]("profile smoke, phantom")
    assert isinstance(figure, Figure)
    assert len(panels(figure)) == PANELS[name]
    assert "profile smoke, phantom" in [text.get_text() for text in figure.texts]
    assert plt.get_fignums() == []
    figure.canvas.draw()  # and it can be drawn without a warning


def test_reuse_shows_every_layer_with_its_score_verdict_and_interval():
    sweep = a_sweep()
    for axis, kind in zip(panels(figures.reuse(sweep, tolerance=0.1)), KINDS, strict=True):
        part = sweep[sweep["kind"] == kind]
        lines = {line.get_label(): points(line) for line in axis.get_lines()}
        expected = {
            "reusable": part["high"] <= 0.1,
            "undecided": (part["high"] > 0.1) & (part["low"] <= 0.1),
            "not reusable": part["low"] > 0.1,
        }
        for verdict, rows in expected.items():
            np.testing.assert_allclose(lines[verdict], part.loc[rows, ["layer", "score"]])
        bars = [segment[:, 1] for collection in axis.collections for segment in collection.get_segments()]
        np.testing.assert_allclose(bars, np.column_stack([0.9 - part["high"], 0.9 - part["low"]]))
        np.testing.assert_allclose(lines["target, nothing replaced"][:, 1], 0.9)
        assert kind in axis.get_title()


def test_every_figure_takes_as_unchanged_what_a_verdict_does_unless_it_is_told():
    drawn = figures.reuse(a_sweep(["W"])), figures.compare({"one": a_sweep(layers=1)})
    for figure in drawn:
        _, labels = panels(figure)[0].get_legend_handles_labels()
        assert f"within {TOLERANCE:g} of the target" in labels
    told = panels(figures.compare({"one": a_sweep(layers=1)}, tolerance=0.2))[0].get_legend_handles_labels()[1]
    assert "within 0.2 of the target" in told


def test_what_is_not_judged_has_neither_band_nor_verdict_and_keeps_its_numbers():
    sweep = a_sweep(["W"])
    (axis,) = panels(figures.reuse(sweep, tolerance=None))
    lines = {line.get_label(): points(line) for line in axis.get_lines()}
    np.testing.assert_allclose(lines["not judged"], sweep[["layer", "score"]])
    (other,) = panels(figures.compare({"one": a_sweep(layers=1)}, tolerance=None))
    for each in (axis, other):
        told = each.get_legend_handles_labels()[1]
        assert not {*told} & {*figures.VERDICT_STYLE}
        assert not any("within" in label for label in told)
        assert not each.patches
    assert len(ends(axis, 1)) == len(sweep)


def test_intervals_say_what_they_resample():
    told = [text.get_text() for text in figures.reuse(a_sweep()).legends[0].get_texts()]
    assert "95 %, over patients" in told
    told = [text.get_text() for text in figures.reuse(a_sweep(), over="images").legends[0].get_texts()]
    assert "95 %, over images" in told
    (axis,) = panels(figures.compare({"one": a_sweep(layers=1)}, over="images"))
    assert axis.get_legend().get_title().get_text() == "bars: 95 %, over images"


def test_verdicts_differ_in_shape_and_in_colour():
    markers, colours = zip(*figures.VERDICT_STYLE.values(), strict=True)
    assert len(set(markers)) == len(set(map(to_hex, colours))) == 3
    assert len(set(map(to_hex, figures.KIND_COLOUR.values()))) == 6


def test_reuse_without_intervals_still_shows_every_layer():
    sweep = a_sweep(["W"]).assign(low=np.nan, high=np.nan)
    (axis,) = panels(figures.reuse(sweep))
    (undecided,) = [line for line in axis.get_lines() if line.get_label() == "undecided"]
    np.testing.assert_allclose(points(undecided), sweep[["layer", "score"]])


def test_compare_shows_every_drop_with_its_interval():
    sweeps = {name: a_sweep(layers=1, seed=seed) for seed, name in enumerate(["zscore", "unit", "third"])}
    (axis,) = panels(figures.compare(sweeps))
    assert [text.get_text() for text in axis.get_xticklabels()] == KINDS
    for bars, (name, sweep) in zip(axis.containers, sweeps.items(), strict=True):
        line, _, (segments,) = bars
        assert bars.get_label() == name
        np.testing.assert_allclose(points(line)[:, 1], sweep["drop"])
        assert points(line)[:, 0].round().tolist() == [0, 1, 2, 3, 4, 5]
        np.testing.assert_allclose([part[:, 1] for part in segments.get_segments()], sweep[["low", "high"]])


def test_rmse_shows_both_columns_of_each_kind():
    table = distances()
    axes = panels(figures.rmse(table, kinds=("W", "RV")))
    shown = [points(line) for axis in axes for line in axis.get_lines() if line.get_marker() == "o"]
    wanted = [(kind, column) for kind in ("W", "RV") for column in ("rmse", "relative")]
    for values, (kind, column) in zip(shown, wanted, strict=True):
        np.testing.assert_allclose(values, table.loc[table["kind"] == kind, ["layer", column]])


def test_shift_scale_shows_shifts_left_and_log_factors_right():
    table = shifts().assign(MRM=np.arange(18), MRB=1.0, MRV_log=2.0, MRW_log=3.0)
    for axis, columns in zip(panels(figures.shift_scale(table)), [["MRM", "MRB"], ["MRV_log", "MRW_log"]], strict=True):
        for line, column in zip(axis.get_lines(), columns, strict=True):
            np.testing.assert_allclose(points(line), table[["layer", column]])
            assert line.get_label() == column[:3]


@pytest.mark.parametrize(
    ("build", "kinds"), [(unet, ["RM", "RV", "RW", "RB", "B"]), (pspnet, ["RM", "RV", "RW", "RB"])]
)
def test_common_scale_shows_the_kinds_that_a_network_has(build, kinds):
    table = shift_scale(build(2), build(2))
    axis, _ = panels(figures.common_scale(table))
    assert [text.get_text() for text in axis.get_yticklabels()] == kinds
    expected = table[[f"rms_{kind}" for kind in kinds]].T
    np.testing.assert_allclose(np.asarray(axis.collections[0].get_array()).reshape(expected.shape), expected)


def test_histograms_show_the_target_beside_each_replacement():
    table = responses()
    density = dict(iter(table.groupby("kind")["density"]))
    for axis, kind in zip(panels(figures.histograms(table)), ["RM", "RB", "B"], strict=True):
        before, after = (patch.get_data() for patch in axis.patches)
        np.testing.assert_allclose(before.values, density["target"])
        np.testing.assert_allclose(after.values, density[kind])
        for drawn in (before, after):
            np.testing.assert_allclose(drawn.edges, range(7))
        assert kind in axis.get_title()


def test_network_shows_every_live_convolution_by_number_and_channels_and_every_connection():
    model = pspnet(4).eval()
    table, joined = parameter_table(model, torch.zeros(1, 1, 48, 48)), connections(model)
    (axis,) = panels(figures.network(table, model, joined))
    live = table[(table["kind"] == "W") & table["live"]]
    channels = [shape[0] for shape in live["shape"]]  # no transposed convolution among them
    assert [text.get_text() for text in axis.texts] == [str(layer) for layer in live["layer"]]
    np.testing.assert_allclose(points(axis.get_lines()[0]), list(enumerate(channels)))
    dots = np.concatenate([collection.get_offsets() for collection in axis.collections])
    np.testing.assert_allclose(dots[dots[:, 0].argsort()], list(enumerate(channels)))
    assert len(axis.patches) == len(joined)


@pytest.mark.parametrize(
    ("patient", "count", "expected"),
    [(None, 7, [0, 1, 3, 4, 5, 7, 8]), (4, 3, [0, 4, 8]), (4, 99, range(9)), (7, 5, [10]), (2, 7, [9, 11])],
)
def test_slices_shows_some_of_one_patient_evenly_spaced(patient, count, expected):
    data = some_slices()
    axes = panels(study.slices(data, patient=patient, count=count))
    shown = [np.asarray(axis.images[0].get_array()) for axis in axes]
    np.testing.assert_array_equal(shown, [data.images[index, 0] for index in expected] * 2)
    outlined = [bool(axis.collections) for axis in axes]
    assert outlined == [False] * len(expected) + [True] * len(expected)


def test_slices_are_counted_within_the_patient():
    axes = panels(study.slices(some_slices(), patient=2))
    assert [axis.get_title() for axis in axes[:2]] == ["image 1", "image 2"]


def test_slices_names_the_labels_of_its_data_and_outlines_no_other():
    named = {0: "background", 1: "disc", 2: "bar"}
    data = some_slices(named, channels=2)
    data.masks[data.masks == 3] = 255  # not counted
    figure = study.slices(data)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["disc", "bar"]
    below = panels(figure)[7]
    assert len(below.collections) == 2
    np.testing.assert_array_equal(below.images[0].get_array(), data.images[0, 0])
    colours = [line.get_color() for line in figure.legends[0].get_lines()]
    cardiac = [line.get_color() for line in study.slices(some_slices()).legends[0].get_lines()]
    assert colours == cardiac[:2]
    many = study.slices(some_slices({value: f"label {value}" for value in range(21)}))
    assert len(many.legends[0].get_texts()) == 20


def test_slices_of_patients_with_one_image_each_show_several_patients():
    data = some_slices()
    data.patient = torch.arange(12)
    shown = panels(study.slices(data))
    assert len(shown) == 14
    np.testing.assert_array_equal(shown[6].images[0].get_array(), data.images[11, 0])
    assert len(panels(study.slices(data, patient=3))) == 2


def test_slices_refuses_a_patient_who_is_not_there():
    with pytest.raises(OptionError, match="patient 3"):
        study.slices(some_slices(), patient=3)


def test_histories_show_loss_and_validation_of_each_network():
    first, second = history(), history() * 2
    for axis, (title, table) in zip(
        panels(figures.histories({"a": first, "b": second})), [("a", first), ("b", second)], strict=True
    ):
        loss, validation = axis.get_lines()
        assert axis.get_title() == title
        np.testing.assert_allclose(points(loss), table[["step", "loss"]])
        np.testing.assert_allclose(points(validation), table[["step", "validation"]])


# -------------------------------------------------------------------- of the study


def ends(axis, along):
    """Both ends of every interval in a panel; along: 0 for those drawn from left to right, 1 for upright ones."""
    return np.array([segment[:, along] for bars in axis.collections for segment in bars.get_segments()])


def numbers(table, seed=0):
    """A table with a drop and an interval in every row."""
    random = np.random.default_rng(seed)
    drop = random.uniform(0, 0.3, len(table))
    return table.assign(drop=drop, low=drop - random.uniform(0, 0.1, len(table)), high=drop + 0.05)


def rows_of(paper=0.7):
    """Two sizes, rows 1 and 4, class 1 and the mean; every cell of ours has a Dice of its own."""
    rows = [
        (size, {3: 10, 30: 50}[size], row, f"label {row}", each, 0.1 * row + 0.01 * size + 0.005 * number)
        for size in (3, 30)
        for row in (1, 4)
        for number, each in enumerate((1, "mean"))
    ]
    table = pd.DataFrame(rows, columns=["patients", "paper_patients", "row", "label", "class", "dice"])
    table = table.assign(low=table["dice"] - 0.1, high=table["dice"] + 0.2, over="seeds", paper=paper)
    return table.assign(size=table["patients"].astype(str) + " patients (others in the paper)")


def test_transfer_shows_every_cell_with_its_interval_and_the_papers_value():
    table = rows_of()
    first, second = panels(study.transfer(table))
    assert [first.get_title(), second.get_title()] == ["RV cavity", "mean, 0 to 3"]
    assert [label.get_text() for label in first.get_yticklabels()] == ["1  label 1", "4  label 4"]
    for axis, each in ((first, 1), (second, "mean")):
        part = table[table["class"] == each]
        ours = [line for line in axis.get_lines() if line.get_fillstyle() == "full"]
        hollow = [line for line in axis.get_lines() if line.get_fillstyle() == "none"]
        assert np.concatenate([line.get_xdata() for line in ours]).tolist() == part["dice"].tolist()
        assert np.concatenate([line.get_xdata() for line in hollow]).tolist() == [0.7] * 4
        assert {round(y) for line in ours + hollow for y in line.get_ydata()} == {1, 4}
        np.testing.assert_allclose(ends(axis, 0), part[["low", "high"]])


def test_transfer_names_the_classes_of_the_target():
    for labels, mean in (({0: "", 1: "disc", 2: "bar"}, "mean, 0 to 2"), ({0: "", 1: "disc"}, "mean, 0 to 1")):
        first, second = panels(study.transfer(rows_of(), labels=labels))
        assert [first.get_title(), second.get_title()] == ["disc", mean]


def test_transfer_names_sizes_and_leaves_the_paper_out_where_it_has_nothing():
    ours = {f"{size} patients (others in the paper)" for size in (3, 30)} | {"bars: 95 %, over seeds"}
    legend = {text.get_text() for text in study.transfer(rows_of()).legends[0].get_texts()}
    assert legend == ours | {"the paper: 10 patients", "the paper: 50 patients"}
    legend = {text.get_text() for text in study.transfer(rows_of(np.nan)).legends[0].get_texts()}
    assert legend == ours


def test_transfer_takes_one_run_which_has_no_interval():
    figure = study.transfer(rows_of().assign(low=np.nan, high=np.nan, over=""))
    figure.canvas.draw()
    assert not [text for text in figure.legends[0].get_texts() if "bars" in text.get_text()]


def six_pairs(relative=1.4):
    labels = ["ACDC seg", "T1 seg", "T1 auto"]
    pairs = pd.DataFrame([(a, b) for i, a in enumerate(labels) for b in labels[i + 1 :]], columns=["first", "second"])
    pairs = pairs.merge(pd.DataFrame({"kind": "W", "layer": [1, 2, 3], "rmse": [0.1, 0.2, 0.3]}), how="cross")
    return pairs.assign(relative=relative, null=2 * pairs["rmse"])


def test_distance_curves_put_the_targets_pairs_and_their_nulls_in_front():
    both = pd.concat([six_pairs(), six_pairs().assign(rmse=0.4, null=0.8)])  # two seeds: their mean is shown
    left, right = panels(study.distance_curves(both))
    named = {line.get_label(): line for line in left.get_lines() if len(line.get_xdata())}
    assert {"T1 seg", "T1 auto"} <= set(named)
    np.testing.assert_allclose(named["T1 seg"].get_ydata(), [0.25, 0.3, 0.35])
    for axis, null in ((left, [0.5, 0.6, 0.7]), (right, [2.8] * 3)):
        dashed = [line for line in axis.get_lines() if line.get_linestyle() == "--" and len(line.get_xdata())]
        assert len(dashed) == 2
        for line in dashed:
            np.testing.assert_allclose(line.get_ydata(), null)
    assert {line.get_color() for line in left.get_lines() if line.get_zorder() == 1} == {"0.8"}
    colours = {line.get_color() for line in left.get_lines() if line.get_zorder() == 3}
    assert len(colours) == 2


@pytest.mark.parametrize(("relative", "shown"), [(1.4, 1), (0.05, 0)])
def test_the_mark_of_independent_kernels_stands_only_where_it_is_in_sight(relative, shown):
    right = panels(study.distance_curves(six_pairs(relative)))[1]
    assert sum(line.get_linestyle() == ":" for line in right.get_lines()) == shown


def test_cluster_map_shows_every_number_and_puts_neighbours_side_by_side():
    labels = list("abcd")
    matrix = pd.DataFrame([[0, 9, 1, 8], [9, 0, 7, 2], [1, 7, 0, 6], [8, 2, 6, 0.0]], labels, labels)
    figure = study.cluster_map(matrix, note="a note")
    heat = next(axis for axis in figure.axes if axis.get_xticklabels() and len(axis.texts) == 12)
    order = [text.get_text() for text in heat.get_xticklabels()]
    assert {frozenset(order[:2]), frozenset(order[2:])} == {frozenset("ac"), frozenset("bd")}
    assert [float(text.get_text()) for text in heat.texts] == [
        matrix.loc[row, column] for row in order for column in order if row != column
    ]
    assert heat.collections[0].get_clim() == (0, 9)  # a tenth of a distance is not painted as all of it
    assert "a note" in [text.get_text() for text in figure.texts]
    assert figure.number not in plt.get_fignums()


def test_cells_show_every_drop_with_its_interval_at_its_network():
    names = {"plain": "none", "residual": "short"}
    rows = [(view, name, start) for view in ("one", "two") for start in ("independent", "shared") for name in names]
    table = numbers(pd.DataFrame(rows, columns=["at", "network", "start"]))
    table = table.assign(distance=table["at"].map({"one": np.nan, "two": 0.25}), dice=0.8, over="patients")
    for axis, view in zip(panels(study.cells(table, names)), ("one", "two"), strict=True):
        part = table[table["at"] == view]
        assert axis.get_title() == {"one": "one", "two": "two, 0.25"}[view]
        assert axis.get_xlabel() == "bars: 95 % over patients"
        assert [tick.get_text() for tick in axis.get_xticklabels()] == ["none\nDice 0.80", "short\nDice 0.80"]
        shown = np.concatenate([points(bars.lines[0]) for bars in axis.containers])
        np.testing.assert_allclose(shown[:, 1], part["drop"])
        assert shown[:, 0].round().tolist() == [0, 1, 0, 1]
        np.testing.assert_allclose(ends(axis, 1), part[["low", "high"]])


def test_contrasts_tell_what_is_clear_of_0_from_what_is_undecided():
    says = ["more", "undecided", "less", "not judged"]
    table = pd.DataFrame({"at": "one", "distance": 0.25, "contrast": list("abcd"), "says": says, "over": "patients"})
    table = numbers(table)
    (axis,) = panels(study.contrasts(table))
    shown = {bars.get_label(): points(bars.lines[0]) for bars in axis.containers}
    np.testing.assert_allclose(shown["decided"], np.column_stack([table["drop"], range(4)])[[0, 2]])
    np.testing.assert_allclose(shown["undecided"], [[table["drop"][1], 1]])
    np.testing.assert_allclose(shown["not judged"], [[table["drop"][3], 3]])
    np.testing.assert_allclose(ends(axis, 0), table.loc[[0, 2, 1, 3], ["low", "high"]])
    assert [tick.get_text() for tick in axis.get_yticklabels()] == list("abcd")


def test_controls_show_every_control_and_hollow_what_the_means_alone_say():
    layers = range(1, 4)
    means = numbers(pd.DataFrame([(c, x) for c in study.CONTROL_STYLE for x in layers], columns=["control", "layer"]))
    means["over"] = means["control"].map(lambda name: "targets and patients" if name == "random" else "patients")
    judged = pd.DataFrame({"layer": layers, "verdict": ["reused", "undecided", "lost"]})
    judged["verdict_by_mean"] = ["reused", "lost", "lost"]
    above, below = panels(study.controls(means, judged, tolerance=0.1))
    np.testing.assert_allclose(ends(below, 1), means[["low", "high"]])
    assert "within 0.1 of the target" in below.get_legend_handles_labels()[1]
    at = {name: [] for name in ("full", "none")}
    for line in above.get_lines():
        at[line.get_fillstyle()] += list(line.get_xdata())
    assert at == {"full": [1, 3], "none": [2]}
    (hollow,) = [line for line in above.get_lines() if list(line.get_xdata()) == [2]]
    assert hollow.get_marker() == study.REUSE_STYLE["lost"][0]


def test_controls_without_verdicts_keep_their_numbers_and_say_what_bars_are_over():
    means = numbers(pd.DataFrame([(c, 1) for c in study.CONTROL_STYLE], columns=["control", "layer"]))
    figure = study.controls(means.assign(over="patients"), None, tolerance=0.1, note="a note")
    (below,) = panels(figure)
    np.testing.assert_allclose(ends(below, 1), means[["low", "high"]])
    assert not [label for legend in figure.legends for label in legend.get_texts() if "within" in label.get_text()]
    (note,) = [text.get_text() for text in figure.texts if "a note" in text.get_text()]
    assert note == "Bars: 95 %, source, other seed, start, random over patients. a note"


def test_prefixes_show_gains_as_intervals_around_the_score_that_they_lead_to():
    joint = pd.DataFrame({"control": "source", "set": "first layers", "n": [1, 2], "recalibrated": False, "drop": 0.1})
    trained = pd.DataFrame({"prefix": ["nothing", "source"], "n": [0, 3], "dice": [0.5, 0.7], "gain": [0.0, 0.2]})
    trained["over"] = "patients"
    figure = study.prefixes(joint, trained.assign(gain_low=trained["gain"] - 0.1, gain_high=trained["gain"] + 0.05))
    _, right = panels(figure)
    np.testing.assert_allclose(ends(right, 1), [[0.6, 0.75]])
    assert right.get_legend().get_title().get_text() == "bars: 95 %, over patients"
    assert len(panels(study.prefixes(joint, trained[:0]))) == 1


def test_drops_stand_against_distances_and_correlated_starts_are_one_kind():
    table = pd.DataFrame({"network": "unet", "start": ["shared", "0.5", "0.9"], "source": ["", "", "slower"]})
    table = table.assign(drop=[0.1, 0.2, 0.3], relative=[0.2, 0.5, 1.4])
    (axis,) = panels(study.drop_against_distance(table, {"unet": "UNet"}))
    drawn = {tuple(point): line for line in axis.get_lines() for point in points(line) if len(line.get_xdata()) == 1}
    assert {point: line.get_fillstyle() for point, line in drawn.items()} == {
        (0.2, 0.1): "full", (0.5, 0.2): "full", (1.4, 0.3): "none",
    }  # fmt: skip
    assert drawn[0.5, 0.2].get_marker() == drawn[1.4, 0.3].get_marker() != drawn[0.2, 0.1].get_marker()
    assert "correlated start" in axis.get_legend_handles_labels()[1]


def test_predictors_stand_in_the_order_of_their_words_with_their_intervals_others_hollow():
    verdicts = (("b", "predicts"), ("a", "misleads"), ("b", "weak"), ("a", "undecided"))
    rows = [(truth, score, verdict) for truth in ("one", "two") for score, verdict in verdicts]
    table = pd.DataFrame(rows, columns=["truth", "score", "verdict"]).assign(rho=np.arange(8) / 10)
    table = table.assign(low=table["rho"] - 0.1, high=table["rho"] + 0.2, over="groups of sources")
    table["sources"] = 2 * (2 * ["all"] + 2 * ["without some"])
    figure = study.predictors(table, {"a": "score a", "b": "score b"})
    for axis, truth in zip(panels(figure), ("one", "two"), strict=True):
        part = table[table["truth"] == truth]
        shown = [line for line in axis.get_lines() if len(line.get_xdata()) == 1]
        assert [line.get_fillstyle() for line in shown] == ["full", "full", "none", "none"]
        (rho, heights) = np.concatenate([points(line) for line in shown]).T
        np.testing.assert_allclose(rho, part["rho"])
        assert heights.round().tolist() == [1, 0, 1, 0]
        np.testing.assert_allclose(ends(axis, 0), part[["low", "high"]])
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels[-2:] == ["hollow: without some", "bars: 95 %, over groups of sources"]
    (legend,) = study.predictors(table, {"a": "score a", "b": "score b"}, judged=False).legends
    assert [text.get_text() for text in legend.get_texts()] == ["not judged", *labels[-2:]]
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["score a", "score b"]
