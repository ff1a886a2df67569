"""Tidy tables in, matplotlib figures out; colours, markers and the provenance note are decided here."""

from __future__ import annotations

import textwrap
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from matplotlib.ticker import MaxNLocator
from torch import nn

from prr.layers import KINDS
from prr.verdict import NOT_REUSABLE, REUSABLE, TOLERANCE, UNDECIDED, layer_verdicts

PALETTE = sns.color_palette("colorblind").as_hex()
KIND_COLOUR = dict(zip(["W", "B", "RM", "RV", "RW", "RB"], [PALETTE[i] for i in (0, 1, 2, 4, 3, 5)], strict=True))
# a verdict is told by shape and colour both
VERDICT_STYLE = {REUSABLE: ("o", PALETTE[2]), UNDECIDED: ("s", PALETTE[7]), NOT_REUSABLE: ("X", PALETTE[3])}
NOT_JUDGED = {"not judged": ("d", "0.3")}
LONG_NAME = {kind: f"{each.words} {kind}" for kind, each in KINDS.items()}


def reuse(
    sweep: pd.DataFrame, *, tolerance: float | None = TOLERANCE, score: str = "foreground Dice", over: str = "patients",
    note: str = "",
) -> Figure:  # fmt: skip
    """Score after each transplant against the layer, one panel per kind.

    Args:
        sweep: DataFrame[kind, layer, score, drop, low, high] from `prr.sweep`.
        tolerance: width of the band under the target's score that counts as unchanged; None: nothing is judged.
        score: name of the score for the axis.
        over: what the intervals resample.
        note: where the numbers come from, printed below.

    Source: Wang et al. 2020, arXiv:2008.03411, Figs 3, 4, 7 and 8.

    >>> swept = pd.DataFrame({"kind": "W", "layer": [1, 2], "score": [0.9, 0.6], "drop": [0.0, 0.3]})
    >>> figure = reuse(swept.assign(low=swept["drop"], high=swept["drop"]))
    >>> [axis.get_title() for axis in figure.axes]
    ['kernel W']
    """
    kinds = list(sweep["kind"].unique())
    figure, axes = panels(len(kinds), sharey=True)
    judged, styles = judged_and_styles(sweep, tolerance)
    for axis, kind in zip(axes, kinds, strict=True):
        part = judged[judged["kind"] == kind]
        target = (part["score"] + part["drop"]).iloc[0]
        unchanged(axis, target, tolerance)
        axis.axhline(target, color="0.4", linestyle="--", linewidth=1, label="target, nothing replaced")
        axis.plot(part["layer"], part["score"], color="0.7", linewidth=1, zorder=1)
        bars = {"color": "0.5", "linewidth": 1.5, "label": f"95 %, over {over}"}
        axis.vlines(part["layer"], target - part["high"], target - part["low"], **bars)
        for verdict, (marker, colour) in styles.items():
            some = part[part["verdict"] == verdict]
            axis.plot(some["layer"], some["score"], marker, color=colour, label=verdict, markersize=6, zorder=3)
        layer_axis(axis, LONG_NAME.get(kind, kind), part["layer"])
        axis.set_ylim(min(0, part["score"].min()) - 0.03, max(1.0, target + 0.03))
        axis.set_ylabel(score)
    return finished(figure, axes, note, legend=True)


def compare(
    sweeps: dict[str, pd.DataFrame], *, tolerance: float | None = TOLERANCE, over: str = "patients", note: str = ""
) -> Figure:
    """Drop of the score by kind for the same layer in several runs, side by side.

    Args:
        sweeps: {title: DataFrame[kind, drop, low, high]}, one row per kind each.
        tolerance: drop up to which a layer counts as reusable; None: nothing is judged.
        over: what the intervals resample.
        note: where the numbers come from.

    >>> swept = pd.DataFrame({"kind": ["W", "B"], "drop": [0.3, 0.0], "low": 0.0, "high": 0.4})
    >>> figure = compare({"one": swept, "another": swept.assign(drop=0.1)})
    >>> [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
    ['W', 'B']
    """
    figure, axis = plt.subplots(figsize=(8, 3.2))
    for index, (title, sweep) in enumerate(sweeps.items()):
        place = np.arange(len(sweep)) + (index - (len(sweeps) - 1) / 2) * 0.25
        marker, colour = marker_and_colour(index)
        intervals(axis, place, sweep, fmt=marker, color=colour, label=title, capsize=3)
        axis.set_xticks(range(len(sweep)), sweep["kind"])
    unchanged(axis, tolerance or 0, tolerance)
    axis.set(xlabel="replaced", ylabel="drop of the score")
    axis.legend(frameon=False, fontsize=8, title=f"bars: 95 %, over {over}", title_fontsize=8)
    return finished(figure, [axis], note)


def rmse(table: pd.DataFrame, *, kinds: tuple[str, ...] = ("W", "B"), note: str = "") -> Figure:
    """RMSE and relative RMSE against the layer.

    Args:
        table: DataFrame[kind, layer, rmse, relative] from `prr.rmse`.
        kinds: rows of panels.
        note: where the numbers come from.

    Source: Wang et al. 2020, arXiv:2008.03411, Figs 6 and 10.

    >>> import prr
    >>> len(rmse(prr.rmse(nn.Conv2d(1, 2, 3), nn.Conv2d(1, 2, 3))).axes)  # kernel and bias, plain and relative
    4
    """
    kinds = tuple(kind for kind in kinds if kind in set(table["kind"]))
    figure, axes = panels(2 * len(kinds))
    for row, kind in enumerate(kinds):
        part = table[table["kind"] == kind]
        axes[2 * row + 1].axhline(np.sqrt(2), color="0.4", linestyle=":", label="independent, equal scale: √2")
        for axis, column in zip(axes[2 * row :], ("rmse", "relative"), strict=False):
            axis.plot(part["layer"], part[column], "o-", color=KIND_COLOUR.get(kind, "0.3"), markersize=5)
            layer_axis(axis, LONG_NAME.get(kind, kind), part["layer"])
            axis.set_ylabel("RMSE" if column == "rmse" else "RMSE / rms of the target")
            axis.set_ylim(bottom=0)
        axes[2 * row + 1].legend(frameon=False, fontsize=8)
    return finished(figure, axes, note)


def shift_scale(table: pd.DataFrame, *, note: str = "") -> Figure:
    """Shifts by RM and RB, and distance of the factors by RV and RW from 1.

    Args:
        table: DataFrame from `prr.shift_scale`.
        note: where the numbers come from.

    Source: Wang et al. 2020, arXiv:2008.03411, Figs 5 and 9.

    >>> import prr
    >>> figure = shift_scale(prr.shift_scale(nn.BatchNorm2d(4), nn.BatchNorm2d(4)))
    >>> [axis.get_ylabel() for axis in figure.axes]
    ['mean |shift| of the output', 'mean |log factor|']
    """
    figure, axes = panels(2)
    shown = (("MRM", "MRB"), "mean |shift| of the output"), (("MRV_log", "MRW_log"), "mean |log factor|")
    for axis, (columns, label) in zip(axes, shown, strict=True):
        for column, marker in zip(columns, "os", strict=True):
            style = {"color": KIND_COLOUR[column[1:3]], "markersize": 5, "label": column[:3]}
            axis.plot(table["layer"], table[column], marker + "-", **style)
        layer_axis(axis, "", table["layer"])
        axis.set(ylabel=label, ylim=(0, None))
        axis.legend(frameon=False)
    axes[0].set_title("shift: 0 changes nothing")
    axes[1].set_title("scale: factor 1, |log factor| 0, changes nothing")
    return finished(figure, axes, note)


def common_scale(table: pd.DataFrame, *, note: str = "") -> Figure:
    """All replacements on the one common scale: RMS change of the output over rms(RW).

    Args:
        table: DataFrame from `prr.shift_scale`.
        note: where the numbers come from.

    >>> import prr
    >>> figure = common_scale(prr.shift_scale(nn.BatchNorm2d(4), nn.BatchNorm2d(4)))
    >>> [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    ['RM', 'RV', 'RW', 'RB']
    """
    columns = ["rms_RM", "rms_RV", "rms_RW", "rms_RB", "rms_B"]
    values = table.set_index("layer")[columns].T.rename(index=lambda name: name.removeprefix("rms_"))
    values = values.dropna(how="all")
    figure, axis = plt.subplots(figsize=(max(6, 0.42 * len(table) + 2), 0.5 * len(values) + 1.6))
    sns.heatmap(values, ax=axis, cmap="rocket_r", vmin=0, cbar_kws={"label": "RMS change / rms(RW)"})
    axis.set(xlabel="batch norm layer", ylabel="replaced")
    axis.tick_params(axis="y", rotation=0)
    return finished(figure, [axis], note)


def histograms(table: pd.DataFrame, *, note: str = "") -> Figure:
    """Distribution of one batch norm's output before ("target") and after each replacement.

    Args:
        table: DataFrame[kind, low, high, density] from `prr.bn.histograms`.
        note: where the numbers come from.

    >>> before = pd.DataFrame({"kind": "target", "low": [0, 1], "high": [1, 2], "density": [0.4, 0.6]})
    >>> figure = histograms(pd.concat([before, before.assign(kind="RM", density=[0.6, 0.4])]))
    >>> [axis.get_title() for axis in figure.axes]
    ['running mean RM']
    """
    drawn = dict(iter(table.groupby("kind", sort=False)))
    before = drawn.pop("target")
    edges = [*before["low"], before["high"].iloc[-1]]
    figure, axes = panels(len(drawn))
    for axis, (kind, after) in zip(axes, drawn.items(), strict=True):
        axis.stairs(before["density"], edges, fill=True, color="0.8", label="target")
        axis.stairs(after["density"], edges, linewidth=1.8, color=KIND_COLOUR[kind], label=f"{kind} replaced")
        axis.set(title=LONG_NAME[kind], xlabel="output of batch norm", ylabel="density")
        axis.legend(frameon=False, fontsize=8)
    return finished(figure, axes, note)


def network(table: pd.DataFrame, model: nn.Module, connections: list[tuple[str, str]], *, note: str = "") -> Figure:
    """A network drawn from its layer table: convolutions in order of execution, lower where there are more channels.

    Args:
        table: DataFrame[kind, layer, name, shape, live] from `prr.parameter_table(model, example)`.
        model: the network, asked for the channels that its convolutions give.
        connections: (from, to) names of convolutions that a short or long connection joins.
        note: where the numbers come from.

    >>> import prr, torch
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 8, 3)).eval()
    >>> figure = network(prr.parameter_table(model, torch.zeros(1, 1, 8, 8)), model, [("0", "1")])
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['1', '2']
    """
    kernels = table[(table["kind"] == "W") & table["live"]].reset_index(drop=True)
    channels = np.array([model.get_submodule(name).out_channels for name in kernels["name"]])
    place = {name: (x, channels[x]) for x, name in enumerate(kernels["name"])}
    figure, axis = plt.subplots(figsize=(0.42 * len(kernels) + 1.5, 3.8))
    axis.plot(range(len(kernels)), channels, color="0.8", linewidth=1.5, zorder=1)
    size = kernels["shape"].str[-1]
    for colour, (kernel, members) in zip(PALETTE, kernels.groupby(size), strict=False):
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
    return finished(figure, [axis], note)


def histories(tables: dict[str, pd.DataFrame], *, note: str = "") -> Figure:
    """Training loss and validation measure of several networks, a panel each.

    Args:
        tables: {title: DataFrame[step, loss, validation]}.
        note: where the numbers come from.

    >>> figure = histories({"one": pd.DataFrame({"step": [1, 2], "loss": [2.0, 1.0], "validation": [0.1, 0.5]})})
    >>> [line.get_label() for line in figure.axes[0].get_lines()]
    ['training loss', 'validation']
    """
    figure, axes = panels(len(tables))
    for axis, (title, table) in zip(axes, tables.items(), strict=True):
        axis.plot(table["step"], table["loss"], "o-", color=PALETTE[0], label="training loss", markersize=4)
        axis.plot(table["step"], table["validation"], "s--", color=PALETTE[1], label="validation", markersize=4)
        axis.set(title=title, xlabel="step", ylim=(0, None))
        axis.legend(frameon=False, fontsize=8)
    return finished(figure, axes, note)


# ------------------------------------------------------------------- parts of figures


def marker_and_colour(index: int) -> tuple[str, str]:
    """How one of several things that are compared is drawn, by its number from 0."""
    return "os^Dv"[index % 5], PALETTE[index % 10]


def panels(count: int, **options: Any) -> tuple[Figure, list[Axes]]:
    """Figure and axes, two to a row."""
    rows = (count + 1) // 2
    columns, size = min(count, 2), (10 if count > 1 else 6, 2.9 * rows + 0.4)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, **options)
    for axis in axes.ravel()[count:]:
        axis.set_visible(False)
    return figure, list(axes.ravel()[:count])


def judged_and_styles(
    sweep: pd.DataFrame, tolerance: float | None
) -> tuple[pd.DataFrame, dict[str, tuple[str, str]]]:  # fmt: skip
    """The sweep with verdicts, and how each is drawn; without a tolerance there is one mark for all."""
    if tolerance is None:
        return sweep.assign(verdict=next(iter(NOT_JUDGED))), NOT_JUDGED
    return layer_verdicts(sweep, tolerance), VERDICT_STYLE


def unchanged(axis: Axes, top: float, tolerance: float | None) -> None:
    """The band of what counts as unchanged, from its upper end down; none where nothing is judged."""
    if tolerance is not None:
        axis.axhspan(top - tolerance, top, color="0.9", zorder=0, label=f"within {tolerance:g} of the target")


def layer_axis(axis: Axes, title: str, layers: pd.Series) -> None:
    """The title of a panel, and layers in whole numbers along it."""
    axis.set(title=title, xlabel="layer")
    axis.set_xlim(layers.min() - 0.7, layers.max() + 0.7)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=14, min_n_ticks=1))


def intervals(
    axis: Axes, place: Any, table: pd.DataFrame, value: str = "drop", across: bool = False, **style: Any
) -> None:
    """A table's values with their intervals from `low` to `high`, upright or across.

    An interval that leaves its value out ends there.
    """
    bar = np.clip([table[value] - table["low"], table["high"] - table[value]], 0, None)
    if across:
        axis.errorbar(table[value], place, xerr=bar, **style)
    else:
        axis.errorbar(place, table[value], yerr=bar, **style)


def finished(figure: Figure, axes: list[Axes], note: str, legend: bool = False) -> Figure:
    """A figure without the frames that say nothing, with one legend above if all panels share it, and its note."""
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    if legend:
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="upper center", ncols=len(labels), frameon=False, fontsize=8)
    above = 0.3 / figure.get_figheight() if legend else 0
    figure.tight_layout(rect=(0, 0.02, 1, 1 - above))
    return noted(figure, note)


def noted(figure: Figure, note: str) -> Figure:
    """Print where the numbers come from; the figure is closed for pyplot, so a notebook shows it once."""
    lines = textwrap.fill(note, width=int(14 * figure.get_figwidth()), break_long_words=False)
    figure.text(0.005, -0.01, lines, ha="left", va="top", fontsize=7, color="0.35")
    plt.close(figure)
    return figure
