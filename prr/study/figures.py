"""The figures of chapters 1 and 5 to 9: tidy tables of the study in, matplotlib figures out."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullFormatter
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform

from prr.data import Slices
from prr.data.slices import LABELS
from prr.errors import OptionError
from prr.figures import (
    LONG_NAME,
    NOT_JUDGED,
    PALETTE,
    finished,
    intervals,
    layer_axis,
    marker_and_colour,
    noted,
    panels,
)

# the controls of chapter 9 that are drawn, its verdicts, and what it says of predictors
CONTROL_STYLE = {
    "source": ("o", PALETTE[0]),
    "other seed": ("D", PALETTE[2]),
    "start": ("s", PALETTE[1]),
    "random": ("X", PALETTE[3]),
}
REUSE_STYLE = {
    "redundant": ("d", PALETTE[7]),
    "reused": ("o", PALETTE[2]),
    "lost": ("X", PALETTE[3]),
}
AGREEMENT_STYLE = {
    "predicts": ("o", PALETTE[2]),
    "weak": ("D", PALETTE[1]),
    "undecided": ("s", PALETTE[7]),
    "misleads": ("X", PALETTE[3]),
}
# how two networks begin: chapter 8's headline, and all of its starts
START_STYLE = {"independent": ("X", PALETTE[3], -0.12), "shared": ("o", PALETTE[0], 0.12), "noise": ("s", "0.4", 0)}
START_MARKER = {
    "encoder-shared": "s", "pretext": "D", "correlated": "^", "imagenet": "P",
    **{start: marker for start, (marker, _, _) in START_STYLE.items()},
}  # fmt: skip
LEGEND = {"independent": "source, independent start", "shared": "source, shared start", "noise": "noise"}
LABEL_COLOURS = [PALETTE[each] for each in (9, 1, 3, 2, 8, 4, 0, 6, 5)]  # of labels 1, 2, ..., and from the first again


def slices(data: Slices, *, patient: int | None = None, count: int = 7, note: str = "") -> Figure:
    """Some slices of one patient, evenly spaced, above; with the outlines of their labels below.

    Args:
        data: of one data set; of several channels the first is shown.
        patient: whose slices; None: the first patient's, or everybody's where that is a single one.
        count: how many at most.
        note: where the slices come from.

    Raises:
        OptionError: a patient who is not there.
    """
    own = np.flatnonzero(data.patient.numpy() == (data.patient[0].item() if patient is None else patient))
    if not len(own):
        raise OptionError(f"patient {patient}: expected one of {data.patient.unique().tolist()}")
    if patient is None and len(own) == 1:
        own = np.arange(len(data.images))
    chosen = own[np.unique(np.linspace(0, len(own) - 1, min(count, len(own))).round().astype(int))]
    figure, axes = plt.subplots(2, len(chosen), figsize=(1.7 * len(chosen), 3.9), squeeze=False)
    outlined = {value: LABEL_COLOURS[(value - 1) % len(LABEL_COLOURS)] for value in data.labels if value}
    for column, index in enumerate(chosen):
        image, mask = data.images[index, 0].numpy(), data.masks[index].numpy()
        title = f"image {np.searchsorted(own, index) + 1}"
        for axis in axes[:, column]:
            axis.imshow(image, cmap="gray", interpolation="nearest")
            axis.axis("off")
        for value, colour in outlined.items():
            if (mask == value).any():
                axes[1, column].contour(mask == value, [0.5], colors=[colour], linewidths=1.2)
        axes[0, column].set_title(title, fontsize=9)
    handles = [plt.Line2D([], [], color=colour, label=data.labels[value]) for value, colour in outlined.items()]
    wide = min(len(handles), len(chosen))
    figure.legend(handles=handles, loc="upper center", ncols=wide, frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0.03, 1, 1 - 0.06 * -(-len(handles) // wide)), w_pad=0.2, h_pad=0.2)
    return noted(figure, note)


def distance_curves(pairs: pd.DataFrame, *, note: str = "") -> Figure:
    """RMSE between the kernels of every two networks against the layer, those with the target in front.

    Args:
        pairs: DataFrame[first, second, kind, layer, rmse, relative, null] of one architecture, from
            `prr.study.sources.pairs`, the target being the first of the first pair; mean over seeds where it has
            several. Dashed: the null of each front curve.
        note: where the numbers come from.

    Source: Wang et al. 2020, arXiv:2008.03411, Figs 11 and 12.
    """
    target, part = pairs["first"].iloc[0], pairs[pairs["kind"] == "W"]
    part = part.assign(relative_null=part["relative"] * part["null"] / part["rmse"])
    columns = {"rmse": "null", "relative": "relative_null"}
    means = part.groupby(["first", "second", "layer"], sort=False)[[*columns, *columns.values()]].mean().reset_index()
    figure, axes = panels(2)
    for axis, (column, null) in zip(axes, columns.items(), strict=True):
        front = 0
        for (first, second), curve in means.groupby(["first", "second"], sort=False):
            if target not in (first, second):
                axis.plot(curve["layer"], curve[column], color="0.8", linewidth=0.8, zorder=1)
                continue
            marker, colour = marker_and_colour(front)
            name = second if first == target else first
            axis.plot(curve["layer"], curve[column], marker + "-", color=colour, markersize=4.5, label=name, zorder=3)
            axis.plot(curve["layer"], curve[null], "--", color=colour, linewidth=1, zorder=2)
            front += 1
        layer_axis(axis, f"{LONG_NAME['W']}: from {target} to", means["layer"])
        axis.set(ylabel="RMSE" if column == "rmse" else "RMSE / rms of the first", ylim=(0, None))
    axes[0].plot([], [], "--", color="0.4", linewidth=1, label="null: unrelated directions")
    axes[0].plot([], [], color="0.8", linewidth=0.8, label="pairs without it")
    if axes[1].get_ylim()[1] > 1:  # far above all curves it would only press them down
        line = axes[1].axhline(np.sqrt(2), color="0.4", linestyle=":", linewidth=1, label="independent: √2")
        axes[1].legend(handles=[line], frameon=False, fontsize=8)
    return finished(figure, axes, note, legend=True)


def cluster_map(matrix: pd.DataFrame, *, note: str = "") -> Figure:
    """Distances between networks as a heat map with numbers, ordered by average linkage; the diagonal is blank.

    Colour begins at 0, so distances that hardly differ look alike.

    Args:
        matrix: relative RMSE of kernels, symmetric, 0 on the diagonal, labels as index and columns.
        note: where the numbers come from.
    """
    tree = linkage(squareform(matrix.to_numpy(), checks=False), "average")
    grid = sns.clustermap(
        matrix, row_linkage=tree, col_linkage=tree, mask=np.eye(len(matrix), dtype=bool), annot=True, fmt=".3g",
        cmap="rocket_r", vmin=0, figsize=(6.4, 6), dendrogram_ratio=0.16, cbar_pos=(0.3, 0.93, 0.4, 0.02),
        cbar_kws={"label": "relative RMSE of W", "orientation": "horizontal"},
    )  # fmt: skip
    grid.ax_col_dendrogram.set_visible(False)
    grid.ax_heatmap.tick_params(axis="both", length=0)
    return noted(grid.figure, note)


def transfer(table: pd.DataFrame, *, labels: Mapping[int, str] = LABELS, note: str = "") -> Figure:
    """Dice of every row of the transfer experiment, one panel per class.

    Args:
        table: DataFrame[patients, size, row, label, class, dice, low, high, over, paper_patients, paper] of one
            network and list, from `prr.study.transfer.with_paper_values`; the paper's value stands hollow under ours,
            where it has one.
        labels: names of the classes.
        note: where the numbers come from.
    """
    classes, sizes, last = table["class"].unique(), sorted(table["patients"].unique()), max(labels)
    names = {**labels, "mean": f"mean, 0 to {last}", "foreground": f"mean, 1 to {last}" if last > 1 else "foreground"}
    rows = table.drop_duplicates("row").sort_values("row")
    figure, axes = plt.subplots(
        1, len(classes), figsize=(1.7 * len(classes) + 2, 0.36 * len(rows) + 1.4), sharey=True, squeeze=False
    )
    for axis, each in zip(axes[0], classes, strict=True):
        for index, patients in enumerate(sizes):
            part = table[(table["class"] == each) & (table["patients"] == patients)]
            marker, colour = marker_and_colour(index)
            place = part["row"] + (index - (len(sizes) - 1) / 2) * 0.36
            style = {"fmt": marker, "markersize": 4.5, "linewidth": 1, "label": part["size"].iloc[0]}
            intervals(axis, place, part, "dice", across=True, color=colour, **style)
            axis.plot(
                part["paper"], place + 0.13, marker, color=colour, fillstyle="none", markersize=5.5,
                label=f"the paper: {part['paper_patients'].iloc[0]} patients" if table["paper"].notna().any() else None,
            )  # fmt: skip
        axis.set(title=names.get(each, each), xlabel="Dice", xlim=(-0.04, 1.04))
        axis.grid(axis="x", color="0.92")
    if over := table["over"].iloc[0]:
        axes[0, 0].plot([], [], color="0.4", linewidth=1, label=f"bars: 95 %, over {over}")
    axes[0, 0].set_yticks(rows["row"], rows["row"].astype(str) + "  " + rows["label"])
    axes[0, 0].invert_yaxis()
    return finished(figure, list(axes[0]), note, legend=True)


def cells(table: pd.DataFrame, names: dict[str, str], *, note: str = "") -> Figure:
    """Mean drop over the kernels of each network by start, one panel per view, with simultaneous intervals.

    Args:
        table: DataFrame[at, distance, network, start, dice, drop, low, high, over] from
            `prr.study.architecture.cells`; the Dice of its targets stands beside each network.
        names: {network: how it is written}, in the order of the axis.
        note: where the numbers come from.
    """
    dice = table.groupby("network")["dice"].first()
    labels = [f"{name}\nDice {dice[network]:.2f}" for network, name in names.items()]
    figure, views = _views(table)
    for axis, view in views.items():
        for start, (marker, colour, shift) in START_STYLE.items():
            part = view[view["start"] == start]
            if part.empty:
                continue
            part, place = part.set_index("network").loc[list(names)], np.arange(len(names)) + shift
            intervals(axis, place, part, fmt=marker, color=colour, label=LEGEND[start], capsize=3)
        axis.axhline(0, color="0.4", linewidth=1)
        axis.set_xticks(range(len(names)), labels, fontsize=9)
        axis.set_ylabel("drop of foreground Dice,\nmean over kernels")
        axis.legend(frameon=False, fontsize=8)
    return finished(figure, list(views), note)


def contrasts(table: pd.DataFrame, *, note: str = "") -> Figure:
    """What connections and start change of the mean drop, one panel per view, each with simultaneous intervals.

    Args:
        table: DataFrame[at, distance, contrast, drop, low, high, over, says] from `prr.study.architecture.contrasts`.
        note: where the numbers come from.
    """
    rows = list(table["contrast"].unique())
    figure, views = _views(table)
    for axis, view in views.items():
        is_clear = ~view["says"].isin(["undecided", "not judged"])
        for some, label, style in (
            (view[is_clear], "decided", {"fmt": "o", "color": PALETTE[0]}),
            (view[view["says"] == "undecided"], "undecided", {"fmt": "s", "color": PALETTE[7]}),
            (view[view["says"] == "not judged"], "not judged", {"fmt": "s", "color": "0.75", "fillstyle": "none"}),
        ):
            intervals(axis, some["contrast"].map(rows.index), some, across=True, label=label, capsize=3, **style)
        axis.axvline(0, color="0.4", linewidth=1)
        axis.set_xlabel(f"change of the mean drop\n{axis.get_xlabel()}")
        axis.xaxis.set_major_locator(MaxNLocator(5))
        axis.set_yticks(range(len(rows)), rows)
    next(iter(views)).invert_yaxis()
    return finished(figure, list(views), note, legend=True)


def _views(table: pd.DataFrame) -> tuple[Figure, dict[Axes, pd.DataFrame]]:
    """A panel per view, titled with its distance where it has one, that says what its bars are."""
    views = table.groupby(["at", "distance"], sort=False, dropna=False)
    figure, axes = panels(len(views), sharey=True)
    for axis, ((at, distance), view) in zip(axes, views, strict=True):
        over = f"bars: 95 % over {view['over'].iloc[0]}" if view["low"].notna().any() else "no intervals"
        axis.set(title=at if np.isnan(distance) else f"{at}, {distance:g}", xlabel=over)
    return figure, dict(zip(axes, (view for _, view in views), strict=True))


def drop_against_distance(table: pd.DataFrame, names: dict[str, str], *, note: str = "") -> Figure:
    """Mean drop against distance, a point for each pair of networks: as trained, whatever the start and the source.

    Args:
        table: DataFrame[network, start, source, drop, relative] from `prr.study.architecture.summary`.
        names: {network: how it is written}.
        note: where the numbers come from.
    """
    figure, axis = plt.subplots(figsize=(7.5, 4.2))
    table = table.assign(start=table["start"].where(~table["start"].str.fullmatch(r"[0-9.]+"), "correlated"))
    for (network, name), colour in zip(names.items(), PALETTE, strict=False):
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
    return finished(figure, [axis], note)


def stages(
    summary: pd.DataFrame, seeds: pd.DataFrame, floors: Mapping[str, float], names: Mapping[str, str], *,
    tolerance: float, against: str = "steps", note: str = "",
) -> Figure:  # fmt: skip
    """Share of the kernels that pass, above, and their mean drop, below, over training; a column for each network.

    Args:
        summary: DataFrame[network, start, steps, dice, relative, passing, passing_low, passing_high, passing_over,
            drop, low, high, over] from `prr.study.stages.summary`.
        seeds: DataFrame[network, start, seed, steps, relative, passing, drop] from `prr.study.stages.by_seed`: thin.
        floors: {network: foreground Dice}; a point whose target is below it is hollow.
        names: {network: how it is written}, two, in the order of the columns.
        tolerance: drop that counts as none.
        against: steps, or relative for the relative RMSE.
        note: where the numbers come from.
    """
    figure, axes = panels(2 * len(names), sharey="row")
    share = {f"passing_{each}": each for each in ("low", "high", "over")}
    words = {"steps": "steps of training", "relative": "relative RMSE, mean over kernels"}
    views = {"passing": summary.drop(columns=list(share.values())).rename(columns=share), "drop": summary}
    for axis, (value, network) in zip(axes, itertools.product(views, names), strict=True):
        part, thin = (each[each["network"] == network] for each in (views[value], seeds))
        for start in part["start"].unique():
            points, lines = (each[each["start"] == start] for each in (part, thin))
            _curve(axis, points, lines, start, floors[network], value, against)
        axis.set(title=names[network], xscale="log", xlabel=words[against])
        steps = FixedLocator(sorted(part["steps"].unique()))
        axis.xaxis.set_major_locator(steps if against == "steps" else LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_ylabel({"passing": "share of kernels that pass", "drop": "mean drop over kernels"}[value])
        axis.plot([], [], "o", color="0.4", fillstyle="none", label="hollow: target too weak")
        if part["low"].notna().any():
            axis.plot([], [], color="0.4", linewidth=1, label=f"bars: 95 % over {part['over'].iloc[0]}")
    for axis in axes[:: len(names)]:
        axis.legend(frameon=False, fontsize=7)
    for above, below in zip(axes[: len(names)], axes[len(names) :], strict=True):
        above.axhline(0.5, color="0.4", linestyle=":", linewidth=1)
        above.set_ylim(-0.04, 1.04)
        below.axhspan(0, tolerance, color="0.9", zorder=0)
        below.set_ylim(-0.1, max(0.3, 1.25 * seeds["drop"].max()))  # a few seeds' limits may run out of the panel
    return finished(figure, axes, note)


def _curve(
    axis: Axes, points: pd.DataFrame, seeds: pd.DataFrame, start: str, floor: float, value: str, against: str
) -> None:  # fmt: skip
    """One start's curve with its intervals, hollow where the target is too weak; behind it those of single seeds."""
    marker, colour, _ = START_STYLE[start]
    for _, one in seeds.groupby("seed"):
        axis.plot(one[against], one[value], color=colour, linewidth=0.6, alpha=0.4, zorder=1)
    line = {"color": colour, "marker": marker, "markevery": []}  # markers in the legend alone
    axis.plot(points[against], points[value], label=f"{start} start", **line)
    is_weak = ~(points["dice"] >= floor)
    for some, fill in ((points[~is_weak], "full"), (points[is_weak], "none")):
        style = {"fmt": marker, "fillstyle": fill, "color": colour, "markersize": 6, "elinewidth": 1, "capsize": 3}
        intervals(axis, some[against], some, value, zorder=3, **style)


def controls(means: pd.DataFrame, judged: pd.DataFrame | None, *, tolerance: float, note: str = "") -> Figure:
    """Drop of the score by layer with the kernel from the source and from its controls; the verdict along the top.

    Args:
        means: DataFrame[control, layer, drop, low, high, over] of one network, from `prr.study.redundancy.means`.
        judged: DataFrame[layer, verdict, verdict_by_mean] of the same, from `prr.study.redundancy.judged`; None where
            nothing is judged: no verdicts, and no band.
        tolerance: drop that counts as none.
        note: where the numbers come from.
    """
    figure, (above, axis) = plt.subplots(
        2, 1, figsize=(10, 4.6), sharex=True, gridspec_kw={"height_ratios": [0.16, 1], "hspace": 0.05}
    )
    means = means[means["control"].isin(CONTROL_STYLE)]
    for index, (control, (marker, colour)) in enumerate(CONTROL_STYLE.items()):
        part = means[means["control"] == control]
        place = part["layer"] + (index - (len(CONTROL_STYLE) - 1) / 2) * 0.19
        intervals(axis, place, part, fmt=marker, color=colour, markersize=4.5, linewidth=0.9, label=control)
    axis.set_ylim(-0.15, max(0.3, 1.25 * means["drop"].max()))  # wide limits of a few seeds may run out of the panel
    axis.set_ylabel("drop of foreground Dice")
    layer_axis(axis, "", means["layer"])
    if judged is not None:
        axis.axhspan(-tolerance, tolerance, color="0.9", zorder=0, label=f"within {tolerance:g} of the target")
        _verdicts(above, judged)
    above.set_visible(judged is not None)
    above.axis("off")
    for panel, height in ((above, 1.0), (axis, 0.96)):
        handles, labels = panel.get_legend_handles_labels()
        place = {"loc": "upper center", "bbox_to_anchor": (0.5, height), "ncols": max(len(labels), 1)}
        figure.legend(handles, labels, frameon=False, fontsize=8, **place)
    axis.spines[["top", "right"]].set_visible(False)
    over = [f"{', '.join(part['control'].unique())} over {each}" for each, part in means.groupby("over", sort=False)]
    return noted(figure, f"Bars: 95 %, {'; '.join(over)}. {note}")


def _verdicts(axis: Axes, judged: pd.DataFrame) -> None:
    """The verdict of every layer in a row, hollow where the means alone speak."""
    for verdict, (marker, colour) in REUSE_STYLE.items():
        style = {"color": colour, "markersize": 7}
        clear = judged.loc[judged["verdict"] == verdict, "layer"]
        by_mean = judged.loc[(judged["verdict"] == "undecided") & (judged["verdict_by_mean"] == verdict), "layer"]
        axis.plot(clear, np.zeros(len(clear)), marker, label=verdict, **style)
        axis.plot(by_mean, np.zeros(len(by_mean)), marker, fillstyle="none", **style)
    axis.plot([], [], "o", color="0.4", fillstyle="none", label="hollow: undecided, so by the means alone")


def prefixes(joint: pd.DataFrame, trained: pd.DataFrame, *, note: str = "") -> Figure:
    """The first n layers of another network: drop without training, and score after a short training of the rest.

    Args:
        joint: DataFrame[control, set, n, recalibrated, drop] from `prr.study.prefixes.joint_means`.
        trained: DataFrame[prefix, n, dice, gain, gain_low, gain_high, over] from `prr.study.prefixes.prefix_means`;
            empty where no prefix was trained.
        note: where the numbers come from.
    """
    figure, axes = panels(2 if len(trained) else 1)
    first = joint[joint["set"] == "first layers"]
    for control, (marker, colour) in CONTROL_STYLE.items():
        for recalibrated, line in ((False, "-"), (True, "--")):
            part = first[(first["control"] == control) & (first["recalibrated"] == recalibrated)]
            label = None if recalibrated else control
            axes[0].plot(part["n"], part["drop"], marker + line, color=colour, markersize=4.5, label=label)
    axes[0].plot([], [], "--", color="0.4", label="recalibrated")
    axes[0].set(title="put in, nothing trained", xlabel="layers from the input", ylabel="drop of foreground Dice")
    axes[0].legend(frameon=False, fontsize=8)
    if len(trained):
        free = trained.loc[trained["n"] == 0, "dice"].item()
        axes[1].axhline(free, color="0.4", linestyle=":", label="nothing loaded")
        for index, (prefix, part) in enumerate(trained[trained["n"] > 0].groupby("prefix", sort=False)):
            gained_over = part["dice"] - part["gain"]
            part = part.assign(low=gained_over + part["gain_low"], high=gained_over + part["gain_high"])
            marker, colour = "osDv^"[index % 5], PALETTE[(0, 9, 2, 8, 3)[index % 5]]
            style = {"fmt": marker + ("--" if "trained on" in prefix else "-"), "markersize": 4.5, "linewidth": 1}
            intervals(axes[1], part["n"] + (index - 2) * 0.22, part, "dice", color=colour, label=prefix, **style)
        axes[1].set(title="loaded, then trained shortly", xlabel="layers from the input", ylabel="foreground Dice")
        axes[1].set_ylim(min(0, trained["dice"].min()) - 0.03, 1.03)
        over = f"bars: 95 %, over {trained['over'].iloc[0]}"
        axes[1].legend(frameon=False, fontsize=8, title=over, title_fontsize=8)
    for axis in axes:
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    return finished(figure, axes, note)


def predictors(agreement: pd.DataFrame, labels: dict[str, str], *, judged: bool = True, note: str = "") -> Figure:
    """Rank correlation of every cheap score with every truth, a panel for each truth; right of 0 the score warns.

    Args:
        agreement: DataFrame[sources, truth, score, rho, low, high, over, verdict] of one network, from
            `prr.study.prediction.agreement`; those of all sources stand above, others hollow below.
        labels: {score: words}, in order from above.
        judged: whether marks tell the verdict.
        note: where the numbers come from.
    """
    styles = AGREEMENT_STYLE if judged else NOT_JUDGED
    agreement = agreement if judged else agreement.assign(verdict=next(iter(NOT_JUDGED)))
    truths, kept = (list(agreement[column].unique()) for column in ("truth", "sources"))
    figure, axes = plt.subplots(1, len(truths), figsize=(10, 0.4 * len(labels) + 1.3), sharey=True, squeeze=False)
    place = {score: index for index, score in enumerate(labels)}
    for axis, truth in zip(axes[0], truths, strict=True):
        for row in agreement[agreement["truth"] == truth].itertuples():
            marker, colour = styles[row.verdict]
            some = kept.index(row.sources)
            height, fill = place[row.score] + 0.32 * some - 0.16, ("full", "none")[some > 0]
            axis.hlines(height, row.low, row.high, color=colour, linewidth=1.5 - 0.6 * (some > 0))
            axis.plot(row.rho, height, marker, color=colour, markersize=5.5, fillstyle=fill)
        axis.axvline(0, color="0.4", linewidth=0.8)
        axis.grid(axis="x", color="0.92")
        axis.set(title=truth, xlabel="Spearman's rho", xlim=(-1.05, 1.05))
    for verdict, (marker, colour) in styles.items():
        axes[0, 0].plot([], [], marker, color=colour, label=verdict)
    for each in kept[1:]:
        axes[0, 0].plot([], [], "o", color="0.4", fillstyle="none", label=f"hollow: {each}")
    axes[0, 0].plot([], [], color="0.4", linewidth=1.5, label=f"bars: 95 %, over {agreement['over'].iloc[0]}")
    axes[0, 0].set_yticks(range(len(labels)), labels.values())
    axes[0, 0].invert_yaxis()
    return finished(figure, list(axes[0]), note, legend=True)
