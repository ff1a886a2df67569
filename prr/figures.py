"""Tidy tables in, matplotlib figures out; colours, markers and the provenance note are decided here."""

from __future__ import annotations

import base64
import html
import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform
from torch import nn

from prr.errors import OptionError
from prr.samples import Data
from prr.verdict import NOT_REUSABLE, REUSABLE, UNDECIDED, layer_verdicts

_PALETTE = sns.color_palette("colorblind").as_hex()
KIND_COLOUR = dict(zip(["W", "B", "RM", "RV", "RW", "RB"], [_PALETTE[i] for i in (0, 1, 2, 4, 3, 5)], strict=True))
# a verdict is told by shape and colour both
VERDICT_STYLE = {REUSABLE: ("o", _PALETTE[2]), UNDECIDED: ("s", _PALETTE[7]), NOT_REUSABLE: ("X", _PALETTE[3])}
# the controls of chapter 9 that are drawn, its verdicts, and what it says of predictors
CONTROL_STYLE = {
    "source": ("o", _PALETTE[0]),
    "other seed": ("D", _PALETTE[2]),
    "start": ("s", _PALETTE[1]),
    "random": ("X", _PALETTE[3]),
}
REUSE_STYLE = {
    "redundant": ("d", _PALETTE[7]),
    "reused": ("o", _PALETTE[2]),
    "lost": ("X", _PALETTE[3]),
}
AGREEMENT_STYLE = {"predicts": ("o", _PALETTE[2]), "undecided": ("s", _PALETTE[7]), "misleads": ("X", _PALETTE[3])}
# how two networks begin: chapter 8's headline, and all of its starts
START_STYLE = {"independent": ("X", _PALETTE[3], -0.12), "shared": ("o", _PALETTE[0], 0.12), "noise": ("s", "0.4", 0)}
START_MARKER = {
    "encoder-shared": "s", "pretext": "D", "correlated": "^", "imagenet": "P",
    **{start: marker for start, (marker, _, _) in START_STYLE.items()},
}  # fmt: skip
LEGEND = {"independent": "source, independent start", "shared": "source, shared start", "noise": "noise"}
LABEL_COLOUR = {1: _PALETTE[9], 2: _PALETTE[1], 3: _PALETTE[3]}
LABEL_NAME = {1: "RV cavity", 2: "myocardium", 3: "LV cavity"}
CLASS_NAME = {0: "background", **LABEL_NAME, "mean": "mean, 0 to 3", "foreground": "mean, 1 to 3"}
LONG_NAME = {
    "W": "kernel W",
    "B": "bias B",
    "RM": "running mean RM",
    "RV": "running variance RV",
    "RW": "weight RW",
    "RB": "bias RB",
    "LW": "linear weight LW",
    "LB": "linear bias LB",
    "NW": "norm weight NW",
    "NB": "norm bias NB",
}


def reuse(sweep: pd.DataFrame, *, tolerance: float = 0.05, score: str = "foreground Dice", note: str = "") -> Figure:
    """Score after each transplant against the layer, one panel per kind (the paper's Figs 3, 4, 7, 8).

    Args:
        sweep: DataFrame[kind, layer, score, drop, low, high] from `prr.sweep`.
        tolerance: width of the band under the target's score that counts as unchanged.
        score: name of the score for the axis.
        note: where the numbers come from, printed below.
    """
    kinds = list(sweep["kind"].unique())
    figure, axes = _panels(len(kinds), sharey=True)
    judged = layer_verdicts(sweep, tolerance)
    for axis, kind in zip(axes, kinds, strict=True):
        part = judged[judged["kind"] == kind]
        target = (part["score"] + part["drop"]).iloc[0]
        axis.axhspan(target - tolerance, target, color="0.9", zorder=0, label=f"within {tolerance:g} of the target")
        axis.axhline(target, color="0.4", linestyle="--", linewidth=1, label="target, nothing replaced")
        axis.plot(part["layer"], part["score"], color="0.7", linewidth=1, zorder=1)
        axis.vlines(part["layer"], target - part["high"], target - part["low"], color="0.5", linewidth=1.5)
        for verdict, (marker, colour) in VERDICT_STYLE.items():
            some = part[part["verdict"] == verdict]
            axis.plot(some["layer"], some["score"], marker, color=colour, label=verdict, markersize=6, zorder=3)
        _layer_axis(axis, LONG_NAME.get(kind, kind), part["layer"])
        axis.set_ylim(min(0, part["score"].min()) - 0.03, max(1.0, target + 0.03))
        axis.set_ylabel(score)
    return _finish(figure, axes, note, legend=True)


def compare(sweeps: dict[str, pd.DataFrame], *, tolerance: float = 0.05, note: str = "") -> Figure:
    """Drop of the score by kind for the same layer in several runs, side by side.

    Args:
        sweeps: {title: DataFrame[kind, drop, low, high]}, one row per kind each.
        tolerance: drop up to which a layer counts as reusable.
        note: where the numbers come from.
    """
    figure, axis = plt.subplots(figsize=(8, 3.2))
    for index, (title, sweep) in enumerate(sweeps.items()):
        place = np.arange(len(sweep)) + (index - (len(sweeps) - 1) / 2) * 0.25
        bar = np.clip([sweep["drop"] - sweep["low"], sweep["high"] - sweep["drop"]], 0, None)
        axis.errorbar(
            place, sweep["drop"], bar, fmt="os^Dv"[index % 5], color=_PALETTE[index % 10], label=title, capsize=3
        )
        axis.set_xticks(range(len(sweep)), sweep["kind"])
    axis.axhspan(0, tolerance, color="0.9", zorder=0, label=f"within {tolerance:g} of the target")
    axis.set(xlabel="replaced", ylabel="drop of the score")
    axis.legend(frameon=False, fontsize=8)
    return _finish(figure, [axis], note)


def rmse(table: pd.DataFrame, *, kinds: tuple[str, ...] = ("W", "B"), note: str = "") -> Figure:
    """RMSE and relative RMSE against the layer (the paper's Figs 6, 10).

    Args:
        table: DataFrame[kind, layer, rmse, relative] from `prr.rmse`.
        kinds: rows of panels.
        note: where the numbers come from.
    """
    kinds = tuple(kind for kind in kinds if kind in set(table["kind"]))
    figure, axes = _panels(2 * len(kinds))
    for row, kind in enumerate(kinds):
        part = table[table["kind"] == kind]
        axes[2 * row + 1].axhline(np.sqrt(2), color="0.4", linestyle=":", label="independent, equal scale: √2")
        for axis, column in zip(axes[2 * row :], ("rmse", "relative"), strict=False):
            axis.plot(part["layer"], part[column], "o-", color=KIND_COLOUR.get(kind, "0.3"), markersize=5)
            _layer_axis(axis, LONG_NAME.get(kind, kind), part["layer"])
            axis.set_ylabel("RMSE" if column == "rmse" else "RMSE / rms of the target")
            axis.set_ylim(bottom=0)
        axes[2 * row + 1].legend(frameon=False, fontsize=8)
    return _finish(figure, axes, note)


def shift_scale(table: pd.DataFrame, *, note: str = "") -> Figure:
    """Shifts by RM and RB, and distance of the factors by RV and RW from 1 (the paper's Figs 5, 9).

    Args:
        table: DataFrame from `prr.shift_scale`.
        note: where the numbers come from.
    """
    figure, axes = _panels(2)
    panels = (("MRM", "MRB"), "mean |shift| of the output"), (("MRV_log", "MRW_log"), "mean |log factor|")
    for axis, (columns, label) in zip(axes, panels, strict=True):
        for column, marker in zip(columns, "os", strict=True):
            kind = column[1:3]
            axis.plot(
                table["layer"], table[column], marker + "-", color=KIND_COLOUR[kind], markersize=5, label=column[:3]
            )
        _layer_axis(axis, "", table["layer"])
        axis.set(ylabel=label, ylim=(0, None))
        axis.legend(frameon=False)
    axes[0].set_title("shift: 0 changes nothing")
    axes[1].set_title("scale: factor 1, |log factor| 0, changes nothing")
    return _finish(figure, axes, note)


def common_scale(table: pd.DataFrame, *, note: str = "") -> Figure:
    """All replacements on the one common scale: RMS change of the output over rms(RW).

    Args:
        table: DataFrame from `prr.shift_scale`.
        note: where the numbers come from.
    """
    columns = ["rms_RM", "rms_RV", "rms_RW", "rms_RB", "rms_B"]
    values = table.set_index("layer")[columns].T.rename(index=lambda name: name.removeprefix("rms_"))
    values = values.dropna(how="all")
    figure, axis = plt.subplots(figsize=(max(6, 0.42 * len(table) + 2), 0.5 * len(values) + 1.6))
    sns.heatmap(
        values, ax=axis, cmap="rocket_r", vmin=0,
        cbar_kws={"label": "RMS change / rms(RW)"},
    )  # fmt: skip
    axis.set(xlabel="batch norm layer", ylabel="replaced")
    axis.tick_params(axis="y", rotation=0)
    return _finish(figure, [axis], note)


def histograms(table: pd.DataFrame, *, note: str = "") -> Figure:
    """Distribution of one batch norm's output before ("target") and after each replacement.

    Args:
        table: DataFrame[kind, low, high, density] from `prr.bn.histograms`.
        note: where the numbers come from.
    """
    drawn = dict(iter(table.groupby("kind", sort=False)))
    before = drawn.pop("target")
    edges = [*before["low"], before["high"].iloc[-1]]
    figure, axes = _panels(len(drawn))
    for axis, (kind, after) in zip(axes, drawn.items(), strict=True):
        axis.stairs(before["density"], edges, fill=True, color="0.8", label="target")
        axis.stairs(after["density"], edges, linewidth=1.8, color=KIND_COLOUR[kind], label=f"{kind} replaced")
        axis.set(title=LONG_NAME[kind], xlabel="output of batch norm", ylabel="density")
        axis.legend(frameon=False, fontsize=8)
    return _finish(figure, axes, note)


def network(table: pd.DataFrame, model: nn.Module, connections: list[tuple[str, str]], *, note: str = "") -> Figure:
    """A network drawn from its layer table: convolutions in order of execution, lower where there are more channels.

    Args:
        table: DataFrame[kind, layer, name, shape, live] from `prr.parameter_table(model, example)`.
        model: the network, asked for the channels that its convolutions give.
        connections: (from, to) names of convolutions that a short or long connection joins.
        note: where the numbers come from.
    """
    kernels = table[(table["kind"] == "W") & table["live"]].reset_index(drop=True)
    channels = np.array([model.get_submodule(name).out_channels for name in kernels["name"]])
    place = {name: (x, channels[x]) for x, name in enumerate(kernels["name"])}
    figure, axis = plt.subplots(figsize=(0.42 * len(kernels) + 1.5, 3.8))
    axis.plot(range(len(kernels)), channels, color="0.8", linewidth=1.5, zorder=1)
    size = kernels["shape"].str[-1]
    for colour, (kernel, members) in zip(_PALETTE, kernels.groupby(size), strict=False):
        axis.scatter(
            members.index, channels[members.index], s=260, color=colour, label=f"{kernel} x {kernel}", zorder=2
        )
    for x, layer in enumerate(kernels["layer"]):
        axis.text(x, channels[x], str(layer), ha="center", va="center", color="white", fontsize=9, weight="bold")
    for start, end in connections:
        flat = place[start][1] == place[end][1] and place[end][0] - place[start][0] > 3
        curve = "arc3,rad=0" if flat else "arc3,rad=-0.5"
        axis.add_patch(
            FancyArrowPatch(
                place[start], place[end], connectionstyle=curve, arrowstyle="-|>", mutation_scale=10, color="0.45",
                shrinkA=9, shrinkB=9, linewidth=1,
            )
        )  # fmt: skip
    axis.set_yscale("log", base=2)
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.invert_yaxis()
    axis.margins(y=0.2)
    axis.set(xlabel="convolutions in order of execution, with their layer numbers", xticks=[])
    axis.set_ylabel("channels out")
    axis.legend(frameon=False, title="kernel", loc="upper center", ncols=3, fontsize=8, title_fontsize=8)
    return _finish(figure, [axis], note)


def transfer(table: pd.DataFrame, *, note: str = "") -> Figure:
    """Dice of every row of the transfer experiment, one panel per class (the paper's table).

    Args:
        table: DataFrame[patients, row, label, class, dice, low, high, paper_patients, paper] of one network and list,
            from `prr.study.transfer.beside`; the paper's value stands hollow under ours, where it has one.
        note: where the numbers come from.
    """
    classes, sizes = table["class"].unique(), sorted(table["patients"].unique())
    rows = table.drop_duplicates("row").sort_values("row")
    figure, axes = plt.subplots(
        1, len(classes), figsize=(1.7 * len(classes) + 2, 0.36 * len(rows) + 1.4), sharey=True, squeeze=False
    )
    for axis, each in zip(axes[0], classes, strict=True):
        for index, patients in enumerate(sizes):
            part = table[(table["class"] == each) & (table["patients"] == patients)]
            marker, colour = "os^Dv"[index % 5], _PALETTE[index % 10]
            place = part["row"] + (index - (len(sizes) - 1) / 2) * 0.36
            bar = np.clip([part["dice"] - part["low"], part["high"] - part["dice"]], 0, None)
            axis.errorbar(
                part["dice"], place, xerr=bar, fmt=marker, color=colour, markersize=4.5, linewidth=1,
                label=f"{patients} patients",
            )  # fmt: skip
            axis.plot(
                part["paper"], place + 0.13, marker, color=colour, fillstyle="none", markersize=5.5,
                label=f"the paper: {part['paper_patients'].iloc[0]} patients" if table["paper"].notna().any() else None,
            )  # fmt: skip
        axis.set(title=CLASS_NAME.get(each, each), xlabel="Dice", xlim=(-0.04, 1.04))
        axis.grid(axis="x", color="0.92")
    axes[0, 0].set_yticks(rows["row"], rows["row"].astype(str) + "  " + rows["label"])
    axes[0, 0].invert_yaxis()
    return _finish(figure, list(axes[0]), note, legend=True)


def distance_curves(pairs: pd.DataFrame, *, target: str = "ACDC seg", kind: str = "W", note: str = "") -> Figure:
    """RMSE between every two networks against the layer, those with the target in front (the paper's Figs 11, 12).

    Args:
        pairs: DataFrame[first, second, kind, layer, rmse, relative, null] of one architecture, from
            `prr.study.sources.pairs`; mean over seeds where it has several. Dashed: the null of each front curve.
        target: label of the network whose pairs stand in front.
        kind: W or B.
        note: where the numbers come from.
    """
    part = pairs[pairs["kind"] == kind]
    part = part.assign(relative_null=part["relative"] * part["null"] / part["rmse"])
    columns = {"rmse": "null", "relative": "relative_null"}
    means = part.groupby(["first", "second", "layer"], sort=False)[[*columns, *columns.values()]].mean().reset_index()
    figure, axes = _panels(2)
    for axis, (column, null) in zip(axes, columns.items(), strict=True):
        front = 0
        for (first, second), curve in means.groupby(["first", "second"], sort=False):
            if target not in (first, second):
                axis.plot(curve["layer"], curve[column], color="0.8", linewidth=0.8, zorder=1)
                continue
            colour, marker = _PALETTE[front % 10], "os^Dv"[front % 5]
            name = second if first == target else first
            axis.plot(curve["layer"], curve[column], marker + "-", color=colour, markersize=4.5, label=name, zorder=3)
            axis.plot(curve["layer"], curve[null], "--", color=colour, linewidth=1, zorder=2)
            front += 1
        _layer_axis(axis, f"{LONG_NAME.get(kind, kind)}: from {target} to", means["layer"])
        axis.set(ylabel="RMSE" if column == "rmse" else "RMSE / rms of the first", ylim=(0, None))
    axes[0].plot([], [], "--", color="0.4", linewidth=1, label="null: unrelated directions")
    axes[0].plot([], [], color="0.8", linewidth=0.8, label="pairs without it")
    if axes[1].get_ylim()[1] > 1:  # far above all curves it would only press them down
        line = axes[1].axhline(np.sqrt(2), color="0.4", linestyle=":", linewidth=1, label="independent: √2")
        axes[1].legend(handles=[line], frameon=False, fontsize=8)
    return _finish(figure, axes, note, legend=True)


def cells(table: pd.DataFrame, names: dict[str, str], *, note: str = "") -> Figure:
    """Mean drop over the kernels of each network by start, one panel per view, with simultaneous intervals.

    Args:
        table: DataFrame[at, network, start, drop, low, high] from `prr.study.architecture.cells`.
        names: {network: how it is written}, in the order of the axis.
        note: where the numbers come from.
    """
    views = list(table["at"].unique())
    figure, axes = _panels(len(views), sharey=True)
    for axis, view in zip(axes, views, strict=True):
        for start, (marker, colour, shift) in START_STYLE.items():
            part = table[(table["at"] == view) & (table["start"] == start)]
            if part.empty:
                continue
            part = part.set_index("network").loc[list(names)]
            bar = np.clip([part["drop"] - part["low"], part["high"] - part["drop"]], 0, None)
            place = np.arange(len(part)) + shift
            axis.errorbar(place, part["drop"], bar, fmt=marker, color=colour, capsize=3, label=LEGEND[start])
        axis.axhline(0, color="0.4", linewidth=1)
        axis.set_xticks(range(len(names)), list(names.values()))
        axis.set(title=view, xlabel="connections")
        axis.set_ylabel("drop of foreground Dice,\nmean over kernels")
        axis.legend(frameon=False, fontsize=8)
    return _finish(figure, axes, note)


def contrasts(table: pd.DataFrame, *, note: str = "") -> Figure:
    """What connections and start change of the mean drop, one panel per view; intervals hold together in a panel.

    Args:
        table: DataFrame[at, contrast, drop, low, high, says] from `prr.study.architecture.contrasts`.
        note: where the numbers come from.
    """
    views, rows = list(table["at"].unique()), list(table["contrast"].unique())
    figure, axes = _panels(len(views), sharey=True)
    for axis, view in zip(axes, views, strict=True):
        part = table[table["at"] == view]
        place = part["contrast"].map(rows.index)
        for clear, (marker, colour), label in (
            (True, ("o", _PALETTE[0]), "interval clear of 0"),
            (False, ("s", _PALETTE[7]), "undecided"),
        ):
            some = (part["says"] != "undecided") == clear
            bar = np.clip([part["drop"] - part["low"], part["high"] - part["drop"]], 0, None)[:, some]
            axis.errorbar(part["drop"][some], place[some], xerr=bar, fmt=marker, color=colour, capsize=3, label=label)
        axis.axvline(0, color="0.4", linewidth=1)
        axis.set(title=view, xlabel="change of the mean drop")
        axis.xaxis.set_major_locator(MaxNLocator(5))
        axis.set_yticks(range(len(rows)), rows)
    axes[0].invert_yaxis()
    return _finish(figure, axes, note, legend=True)


def way(table: pd.DataFrame, names: dict[str, str], *, note: str = "") -> Figure:
    """Mean drop against distance, a point for each pair of networks: as trained, whatever the start and the source.

    Args:
        table: DataFrame[network, start, source, drop, relative] from `prr.study.architecture.summary`.
        names: {network: how it is written}.
        note: where the numbers come from.
    """
    figure, axis = plt.subplots(figsize=(7.5, 4.2))
    table = table.assign(start=table["start"].where(~table["start"].str.fullmatch(r"[0-9.]+"), "correlated"))
    for (network, name), colour in zip(names.items(), _PALETTE, strict=False):
        for (start, source), part in table[table["network"] == network].groupby(["start", "source"], sort=False):
            style = {"color": colour, "markersize": 5.5, "alpha": 0.8, "fillstyle": "none" if source else "full"}
            axis.plot(part["relative"], part["drop"], START_MARKER[start], **style)
        axis.plot([], [], "o", color=colour, label=name)
    for start in table["start"].unique():
        axis.plot([], [], START_MARKER[start], color="0.4", label=f"{start} start")
    axis.plot([], [], "o", color="0.4", fillstyle="none", label="hollow: source trained otherwise")
    axis.axhline(0, color="0.4", linewidth=1)
    axis.set(xscale="log", xlabel="relative RMSE, mean over kernels")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_ylabel("drop of foreground Dice,\nmean over kernels")
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return _finish(figure, [axis], note)


def cluster_map(matrix: pd.DataFrame, *, label: str = "relative RMSE of W", note: str = "") -> Figure:
    """Distances between networks as a heat map with numbers, ordered by average linkage; the diagonal is blank.

    Colour begins at 0, so distances that hardly differ look alike.

    Args:
        matrix: symmetric, 0 on the diagonal, labels as index and columns.
        label: name of the distance.
        note: where the numbers come from.
    """
    tree = linkage(squareform(matrix.to_numpy(), checks=False), "average")
    grid = sns.clustermap(
        matrix, row_linkage=tree, col_linkage=tree, mask=np.eye(len(matrix), dtype=bool), annot=True, fmt=".3g",
        cmap="rocket_r", vmin=0, figsize=(6.4, 6), dendrogram_ratio=0.16, cbar_pos=(0.3, 0.93, 0.4, 0.02),
        cbar_kws={"label": label, "orientation": "horizontal"},
    )  # fmt: skip
    grid.ax_col_dendrogram.set_visible(False)
    grid.ax_heatmap.tick_params(axis="both", length=0)
    return _note(grid.figure, note)


def slices(data: Data, *, patient: int | None = None, count: int = 7, note: str = "") -> Figure:
    """Some slices of one patient, evenly spaced, above; with the outlines of their labels below.

    Args:
        data: has images (n, 1, h, w), masks (n, h, w) with labels 0..3, and patient (n,).
        patient: whose slices; None: the first patient's.
        count: how many at most.
        note: where the slices come from.
    """
    own = np.flatnonzero(data.patient.numpy() == (data.patient[0].item() if patient is None else patient))
    if not len(own):
        raise OptionError(f"patient {patient}: expected one of {data.patient.unique().tolist()}")
    chosen = own[np.unique(np.linspace(0, len(own) - 1, min(count, len(own))).round().astype(int))]
    figure, axes = plt.subplots(2, len(chosen), figsize=(1.7 * len(chosen), 3.9), squeeze=False)
    for column, index in enumerate(chosen):
        image, mask = data.images[index, 0].numpy(), data.masks[index].numpy()
        title = f"image {np.searchsorted(own, index) + 1}"
        for axis in axes[:, column]:
            axis.imshow(image, cmap="gray", interpolation="nearest")
            axis.axis("off")
        for label, colour in LABEL_COLOUR.items():
            if (mask == label).any():
                axes[1, column].contour(mask == label, [0.5], colors=[colour], linewidths=1.2)
        axes[0, column].set_title(title, fontsize=9)
    handles = [plt.Line2D([], [], color=colour, label=LABEL_NAME[label]) for label, colour in LABEL_COLOUR.items()]
    figure.legend(handles=handles, loc="upper center", ncols=3, frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0.03, 1, 0.94), w_pad=0.2, h_pad=0.2)
    return _note(figure, note)


def histories(tables: dict[str, pd.DataFrame], *, note: str = "") -> Figure:
    """Training loss and validation measure of several networks, a panel each.

    Args:
        tables: {title: DataFrame[step, loss, validation]}.
        note: where the numbers come from.
    """
    figure, axes = _panels(len(tables))
    for axis, (title, table) in zip(axes, tables.items(), strict=True):
        axis.plot(table["step"], table["loss"], "o-", color=_PALETTE[0], label="training loss", markersize=4)
        axis.plot(table["step"], table["validation"], "s--", color=_PALETTE[1], label="validation", markersize=4)
        axis.set(title=title, xlabel="step", ylim=(0, None))
        axis.legend(frameon=False, fontsize=8)
    return _finish(figure, axes, note)


def controls(means: pd.DataFrame, judged: pd.DataFrame, *, tolerance: float = 0.05, note: str = "") -> Figure:
    """Drop of the score by layer with the kernel from the source and from its controls; the verdict along the top.

    Args:
        means: DataFrame[control, layer, drop, low, high] of one network, from `prr.study.redundancy.means`.
        judged: DataFrame[layer, verdict, leaning] of the same, from `prr.study.redundancy.judged`.
        tolerance: drop that counts as none.
        note: where the numbers come from.
    """
    figure, (above, axis) = plt.subplots(
        2, 1, figsize=(10, 4.6), sharex=True, gridspec_kw={"height_ratios": [0.16, 1], "hspace": 0.05}
    )
    axis.axhspan(-tolerance, tolerance, color="0.9", zorder=0, label=f"within {tolerance:g} of the target")
    for index, (control, (marker, colour)) in enumerate(CONTROL_STYLE.items()):
        part = means[means["control"] == control]
        place = part["layer"] + (index - (len(CONTROL_STYLE) - 1) / 2) * 0.19
        bar = np.clip([part["drop"] - part["low"], part["high"] - part["drop"]], 0, None)
        axis.errorbar(place, part["drop"], bar, fmt=marker, color=colour, markersize=4.5, linewidth=0.9, label=control)
    top = means.loc[means["control"].isin(CONTROL_STYLE), "drop"].max()
    axis.set_ylim(-0.15, max(0.3, 1.25 * top))  # wide limits of a few seeds may run out of the panel
    axis.set_ylabel("drop of foreground Dice")
    _layer_axis(axis, "", judged["layer"])
    for verdict, (marker, colour) in REUSE_STYLE.items():
        for column, filled in (("verdict", "full"), ("leaning", "none")):
            some = judged[judged[column] == verdict]
            some = some if filled == "full" else some[some["verdict"] == "undecided"]
            above.plot(
                some["layer"], np.zeros(len(some)), marker, color=colour, fillstyle=filled, markersize=7,
                label=verdict if filled == "full" else None,
            )  # fmt: skip
    above.plot([], [], "o", color="0.4", fillstyle="none", label="hollow: undecided, so by the means alone")
    above.axis("off")
    handles, labels = axis.get_legend_handles_labels()
    told, words = above.get_legend_handles_labels()
    figure.legend(
        told, words, loc="upper center", bbox_to_anchor=(0.5, 1.0), ncols=len(words), frameon=False, fontsize=8
    )
    figure.legend(
        handles, labels, loc="upper center", bbox_to_anchor=(0.5, 0.96), ncols=len(labels), frameon=False, fontsize=8
    )
    axis.spines[["top", "right"]].set_visible(False)
    return _note(figure, note)


def prefixes(joint: pd.DataFrame, trained: pd.DataFrame, *, note: str = "") -> Figure:
    """The first n layers of another network: drop without training, and score after a short training of the rest.

    Args:
        joint: DataFrame[control, set, n, recalibrated, drop] from `prr.study.prefixes.joint_means`.
        trained: DataFrame[prefix, n, dice, gain, gain_low, gain_high] from `prr.study.prefixes.prefix_means`; empty
            where no prefix was trained.
        note: where the numbers come from.
    """
    figure, axes = _panels(2 if len(trained) else 1)
    first = joint[joint["set"] == "first layers"]
    for control, (marker, colour) in CONTROL_STYLE.items():
        for anew, line in ((False, "-"), (True, "--")):
            part = first[(first["control"] == control) & (first["recalibrated"] == anew)]
            label = None if anew else control
            axes[0].plot(part["n"], part["drop"], marker + line, color=colour, markersize=4.5, label=label)
    axes[0].plot([], [], "--", color="0.4", label="recalibrated")
    axes[0].set(title="put in, nothing trained", xlabel="layers from the input", ylabel="drop of foreground Dice")
    axes[0].legend(frameon=False, fontsize=8)
    if len(trained):
        free = trained.loc[trained["n"] == 0, "dice"].item()
        axes[1].axhline(free, color="0.4", linestyle=":", label="nothing loaded")
        for index, (prefix, part) in enumerate(trained[trained["n"] > 0].groupby("prefix", sort=False)):
            place = part["n"] + (index - 2) * 0.22
            bar = np.clip([part["gain"] - part["gain_low"], part["gain_high"] - part["gain"]], 0, None)
            line = "--" if "trained on" in prefix else "-"
            axes[1].errorbar(
                place, part["dice"], bar, fmt="osDv^"[index % 5] + line, color=_PALETTE[(0, 9, 2, 8, 3)[index % 5]],
                markersize=4.5, linewidth=1, label=prefix,
            )  # fmt: skip
        axes[1].set(title="loaded, then trained shortly", xlabel="layers from the input", ylabel="foreground Dice")
        axes[1].set_ylim(min(0, trained["dice"].min()) - 0.03, 1.03)
        axes[1].legend(frameon=False, fontsize=8)
    for axis in axes:
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _finish(figure, axes, note)


def predictors(agreement: pd.DataFrame, labels: dict[str, str], *, note: str = "") -> Figure:
    """Rank correlation of every cheap score with every truth, a panel for each truth; right of 0 the score warns.

    Args:
        agreement: DataFrame[truth, score, rho, low, high, verdict] of one network, from
            `prr.study.prediction.agreement`.
        labels: {score: words}, in order from above.
        note: where the numbers come from.
    """
    truths = list(agreement["truth"].unique())
    figure, axes = plt.subplots(1, len(truths), figsize=(10, 0.34 * len(labels) + 1.3), sharey=True, squeeze=False)
    place = {score: index for index, score in enumerate(labels)}
    for axis, truth in zip(axes[0], truths, strict=True):
        for row in agreement[agreement["truth"] == truth].itertuples():
            marker, colour = AGREEMENT_STYLE[row.verdict]
            axis.hlines(place[row.score], row.low, row.high, color=colour, linewidth=1.5)
            axis.plot(row.rho, place[row.score], marker, color=colour, markersize=6)
        axis.axvline(0, color="0.4", linewidth=0.8)
        axis.grid(axis="x", color="0.92")
        axis.set(title=truth, xlabel="Spearman's rho", xlim=(-1.05, 1.05))
    for verdict, (marker, colour) in AGREEMENT_STYLE.items():
        axes[0, 0].plot([], [], marker, color=colour, label=verdict)
    axes[0, 0].set_yticks(range(len(labels)), labels.values())
    axes[0, 0].invert_yaxis()
    return _finish(figure, list(axes[0]), note, legend=True)


class Download:
    """A link that saves a table as CSV, or a page as HTML, from a notebook or from the built page, offline.

    Args:
        content: the table, or the page's text.
        name: file name, "fig03.csv".
        note: provenance, written as a comment on a table's first line.
    """

    def __init__(self, content: pd.DataFrame | str, name: str, note: str = ""):
        self.name, self.page = name, isinstance(content, str)
        self.text = content if self.page else f"# {' '.join(note.split())}\n{content.to_csv(index=False)}"

    def _repr_html_(self) -> str:
        data = base64.b64encode(self.text.encode()).decode()
        name = html.escape(self.name, quote=True)
        kind, words = ("text/html", "a page to keep") if self.page else ("text/csv", "the data, as CSV")
        return f'<a download="{name}" href="data:{kind};base64,{data}">{name}: {words}</a>'


class Ledger:
    """The ledger of claims as HTML, a line for each, linked to the chapter that shows its figures.

    Args:
        table: DataFrame[where, claim, verdict, here, leaves, reason, equal, remark, page] from
            `prr.study.ledger.ledger`.
    """

    def __init__(self, table: pd.DataFrame):
        self.table = table

    def _repr_html_(self) -> str:
        rows = self.table.map(lambda value: html.escape(str(value)))
        shown = rows["verdict"] + np.where(rows["verdict"] == rows["here"], "", ": " + rows["here"])
        links = [f'<a href="{page}.html">chapter {int(page[:2])}</a>' if page else "" for page in rows["page"]]
        cells = {
            "claim": rows["claim"] + " <small>(" + rows["where"] + ")</small>",
            "verdict": shown,
            "what decided, of so many leaves": rows["reason"] + " <small>(" + rows["leaves"] + ")</small>",
            "still true when start and distance are equal?": rows["equal"],
            "remark": "<small>" + rows["remark"] + "</small> " + pd.Series(links, rows.index),
        }
        shown = pd.DataFrame(cells)
        if (rows["equal"] == "").all():
            shown = shown.drop(columns="still true when start and distance are equal?")
        return shown.to_html(index=False, escape=False, border=0)


class Words(str):
    """Text that a notebook shows as Markdown."""

    def _repr_markdown_(self) -> str:
        return str(self)


def _panels(count: int, **options) -> tuple[Figure, list[Axes]]:
    """Figure and axes, two to a row."""
    rows = (count + 1) // 2
    columns, size = min(count, 2), (10 if count > 1 else 6, 2.9 * rows + 0.4)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, **options)
    for axis in axes.ravel()[count:]:
        axis.set_visible(False)
    return figure, list(axes.ravel()[:count])


def _layer_axis(axis: Axes, title: str, layers: pd.Series) -> None:
    axis.set(title=title, xlabel="layer")
    axis.set_xlim(layers.min() - 0.7, layers.max() + 0.7)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=14, min_n_ticks=1))


def _finish(figure: Figure, axes: list[Axes], note: str, legend: bool = False) -> Figure:
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    if legend:
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="upper center", ncols=len(labels), frameon=False, fontsize=8)
    above = 0.3 / figure.get_figheight() if legend else 0
    figure.tight_layout(rect=(0, 0.02, 1, 1 - above))
    return _note(figure, note)


def _note(figure: Figure, note: str) -> Figure:
    """Print where the numbers come from; the figure is closed for pyplot, so a notebook shows it once."""
    lines = textwrap.fill(note, width=int(14 * figure.get_figwidth()), break_long_words=False)
    figure.text(0.005, -0.01, lines, ha="left", va="top", fontsize=7, color="0.35")
    plt.close(figure)
    return figure
