"""The transfer experiment: train on few patients, beginning with parameters of another network (the paper's table)."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from torch import nn

from prr import reuse
from prr.data import Slices
from prr.data.slices import LABELS
from prr.errors import OptionError
from prr.layers import parameter_table
from prr.study import networks, paper, training, transplants
from prr.study.backbones import random
from prr.study.display import Words
from prr.study.jobs import Job, derived, stack
from prr.study.measures import dice_by_class
from prr.study.models import TITLES, seed_of
from prr.study.run import Run, checked_seed
from prr.study.starts import initial
from prr.verdict import REUSABLE, layer_verdicts


class Row(NamedTuple):
    """One row of the table: what is loaded, and whether it is fixed."""

    source: str  # "" nothing, "start" the sources' untrained start, else place and task
    frozen: bool


# 1-7 as the paper numbers them; 8, 9: the control that it lacks; 10, 11: its reading of semi-supervised learning
ROWS = {
    1: Row("", False),
    2: Row("t1 segmentation", True),
    3: Row("t1 segmentation", False),
    4: Row("t1 auto-encoding", True),
    5: Row("t1 auto-encoding", False),
    6: Row("rvsc segmentation", True),
    7: Row("rvsc segmentation", False),
    8: Row("start", True),
    9: Row("start", False),
    10: Row("acdc auto-encoding", True),
    11: Row("acdc auto-encoding", False),
}
STARTED = ("t1", "auto-encoding")  # the source whose start is loaded as "start"; under a shared start all have this one
RUN = ["network", "parameters", "patients", "row", "label"]  # what names a run, but for its seed


def label(run: Run, row: int) -> str:
    """A row in words: "T1 seg, frozen", after what the places hold."""
    source, frozen = ROWS[row]
    if not source:
        return "nothing loaded"
    what = "start only" if source == "start" else networks.label(run, *source.split())
    return f"{what}, {'frozen' if frozen else 'trained on'}"


def loaded(run: Run, network: str, parameters: str) -> Job:
    """The parameters that a transfer loads, layer by layer and kind by kind.

    Args:
        run: whose sweep decides, if the list is inferred: of its own seed, for all seeds of the transfer.
        network: pspnet or unet.
        parameters: "paper": all but those that the paper lists as not reusable (PSPNet only); "inferred": those that
            the sweep of the target by its own auto-encoder finds reusable.

    Returns:
        The job of DataFrame[kind, layer, name, size].

    Raises:
        OptionError: an unknown list, or the paper's for another network than PSPNet.
    """
    of = {"network": network, "width": networks.width_of(run, network), **run.shape}
    if parameters == "inferred":
        return run.job(inferred_list, sweep=transplants.sweep(run, network), tolerance=run.profile.tolerance, **of)
    if parameters != "paper":
        raise OptionError(f"transfer_list={parameters!r}: expected paper or inferred")
    if network != "pspnet":
        raise OptionError(f"transfer_list='paper' for {network}: the paper lists PSPNet's alone; take 'inferred'")
    return run.job(all_but, listed=paper.not_reusable()[["kind", "name"]].to_numpy().tolist(), **of)


@derived
def inferred_list(
    sweep: pd.DataFrame, tolerance: float, network: str, width: int, channels: int = 1, classes: int = 4
) -> pd.DataFrame:  # fmt: skip
    """See `loaded`.

    Raises:
        OptionError: it leaves nothing to load.
    """
    judged = layer_verdicts(sweep, tolerance)
    passing = judged.loc[judged["verdict"] == REUSABLE, ["kind", "name"]]
    if passing.empty:
        raise OptionError(f"transfer_list='inferred' for {network}: its sweep finds nothing reusable; train it longer")
    return _parameters(network, width, channels, classes).merge(passing)


@derived
def all_but(
    listed: list[list[str]], network: str, width: int, channels: int = 1, classes: int = 4
) -> pd.DataFrame:  # fmt: skip
    """See `loaded`; `listed` are the pairs of kind and name that are not loaded."""
    table = _parameters(network, width, channels, classes)
    return table[[pair not in listed for pair in table[["kind", "name"]].to_numpy().tolist()]]


def _parameters(network: str, width: int, channels: int, classes: int) -> pd.DataFrame:
    return parameter_table(random(network, width, 0, channels, classes))[["kind", "layer", "name", "size"]]


def shares(run: Run) -> pd.DataFrame:
    """How much of the network each list loads, counted in two ways.

    Returns:
        DataFrame[network, parameters, counted, loaded, total, share]: pairs of kind and layer (the paper's 92 %), and
        single numbers.
    """
    rows = []
    for network, parameters in combinations(run):
        every = _parameters(network, networks.width_of(run, network), **run.shape)
        chosen = run.result(loaded(run, network, parameters))
        numbers = chosen["size"].sum(), every["size"].sum()
        counts = {"pairs of kind and layer": (len(chosen), len(every)), "numbers": numbers}
        rows += [(network, parameters, name, part, total, part / total) for name, (part, total) in counts.items()]
    return pd.DataFrame(rows, columns=["network", "parameters", "counted", "loaded", "total", "share"])


def combinations(run: Run) -> list[tuple[str, str]]:
    """(network, list) as the profile asks; the paper has no list for UNet, so `both` and `both` make three."""
    names, lists = (
        ordered if chosen == "both" else (chosen,)
        for ordered, chosen in (
            (("pspnet", "unet"), run.profile.transfer_network),
            (("paper", "inferred"), run.profile.transfer_list),
        )
    )
    pairs = list(itertools.product(names, lists))
    return [pair for pair in pairs if pair != ("unet", "paper")] or pairs


def sizes(run: Run) -> tuple[int, int]:
    """Numbers of labelled patients: the profile's few, and all that train; 10 and 50 in the paper.

    Raises:
        OptionError: the few are not fewer than all.
    """
    few, every = run.few_patients, run.training_patients("acdc")
    if few >= every:
        title = run.title("acdc")
        raise OptionError(f"few_patients={few}: expected fewer than the {every} training patients of {title}")
    return few, every


def table(run: Run) -> Job:
    """All runs of the experiment.

    Returns:
        The job of DataFrame[network, parameters, patients, row, label, source, frozen, seed, class, dice], see `row`.
    """
    every = itertools.product(combinations(run), sizes(run), run.seeds, ROWS)
    return stack(
        (
            {"network": network, "parameters": parameters, "patients": patients, "row": number}
            | {"label": label(run, number), **ROWS[number]._asdict(), "seed": seed},
            row(run, network, parameters, number, patients, seed),
        )
        for (network, parameters), patients, seed, number in every
    )


def row(run: Run, network: str, parameters: str, row: int, patients: int, seed: int) -> Job:
    """One run: load, train on the drawn patients, score on the data set's validation patients.

    The target begins from a random start of its own, the same in all rows and sizes of a seed, which no source shares;
    what is loaded replaces part of it. "start" loads the untrained start of the first other set's auto-encoder: where
    the profile's start is shared, that is the start of all sources. All rows train for equal steps.

    Args:
        run: profile and data.
        network: pspnet or unet, as target and source.
        parameters: which list is loaded, see `loaded`.
        row: 1 to 11, see ROWS.
        patients: labelled training patients.
        seed: of start, sources, draw, order and augmentation.

    Returns:
        The job of DataFrame[class, dice]: class from 0, dice the mean over validation patients.

    Raises:
        OptionError: an unknown network, row or list, or no such number of patients.

    Source: Wang et al. 2020, arXiv:2008.03411, "Parameter reuse experiment".
    """
    for value, known, what in ((network, TITLES, "network"), (row, ROWS, "row")):
        if value not in known:
            raise OptionError(f"{what} {value!r}: expected one of {', '.join(map(str, known))}")
    every = run.training_patients("acdc")
    if not 1 <= patients <= every:
        raise OptionError(f"patients={patients}: expected 1 to {every}, the training patients of {run.title('acdc')}")
    words = {"network": network, "start": "independent", "seed": checked_seed(seed)}
    begins = {**words, "width": networks.width_of(run, network), **run.shape}
    begins |= {"dataset": "transfer", "task": "segmentation"}
    source, frozen = ROWS[row]
    given: dict[str, Any] = {}
    if source:
        giver, of = (networks.start, STARTED) if source == "start" else (networks.model, source.split())
        given = {"source": giver(run, network, *of, seed=seed), "plan": loaded(run, network, parameters)}
        given["frozen"] = frozen
    job = run.job(
        dice_after_training,
        f"transfer row {row}, {patients} patients",
        target=run.job(initial, **begins),
        slices=run.data("acdc"),
        patients=patients,
        seed=seed,
        steps=run.profile.transfer_steps,
        batch_size=run.profile.batch_size,
        learning_rate=run.profile.learning_rate,
        **given,
    )
    return dataclasses.replace(job, labels=words | {"normalisation": run.profile.normalisation})


def dice_after_training(
    target: nn.Module, slices: Slices, patients: int, seed: int, steps: int, batch_size: int, learning_rate: float,
    device: str, progress: bool, source: nn.Module | None = None, plan: pd.DataFrame | None = None,
    frozen: bool = False,
) -> pd.DataFrame:  # fmt: skip
    """See `row`.

    Raises:
        DataError: the drawn masks lack a class.
        NetworkError: training has diverged.
    """
    part = networks.draw(slices, patients, seed, [label for label in slices.labels if label])
    model = target.to(device)
    if source is not None:
        plan = plan.assign(action="reuse" if frozen else "fine-tune")
        model = reuse.apply_plan(model, source.to(device), plan)
    if any(parameter.requires_grad for parameter in model.parameters()):  # a list may freeze all: scored as loaded
        training.fit(
            model, part, "segmentation", steps=steps, batch_size=batch_size, learning_rate=learning_rate,
            seed=seed_of(seed, "transfer"), progress=progress, checkpoints=0,
        )  # fmt: skip
    return dice_by_class(model.eval(), part).groupby("class", as_index=False)["dice"].mean()


# ---------------------------------------------------------------- from runs to tables


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean over seeds of every cell of the table.

    Args:
        runs: from `table`.

    Returns:
        DataFrame[network, parameters, patients, row, label, class, dice, low, high, seeds]: each class, "mean" (of all
        classes, background included, as the paper prints it) and "foreground" (without it, as in sweeps); low, high:
        95 % t interval of the mean over seeds, NaN with one seed.
    """
    return _over_seeds(_measures(runs), "dice")


def gains(runs: pd.DataFrame, over: str = "nothing") -> pd.DataFrame:
    """What loading gains: each row minus its reference with the same seed, then the mean over seeds.

    Args:
        runs: from `table`.
        over: "nothing": every row against row 1; "start": every row that loads a trained source against the start
            alone, frozen against frozen (row 8) and trained on against trained on (row 9).

    Returns:
        DataFrame[network, parameters, patients, row, label, class, gain, low, high, seeds]: class "mean" and
        "foreground", as in `summary`; low, high: 95 % t interval over the seeds' differences, NaN with one seed.

    Raises:
        OptionError: `over` is neither.
    """
    references = {
        "nothing": {row: 1 for row in ROWS if row != 1},
        "start": {row: 8 if each.frozen else 9 for row, each in ROWS.items() if each.source not in ("", "start")},
    }
    if over not in references:
        raise OptionError(f"over={over!r}: expected one of {', '.join(references)}")
    measures = _measures(runs)
    measures = measures[measures["class"].isin(["mean", "foreground"])]
    cell = ["network", "parameters", "patients", "seed", "class"]
    wanted = measures.assign(reference=measures["row"].map(references[over])).dropna(subset="reference")
    other = measures.rename(columns={"row": "reference", "dice": "other"})[[*cell, "reference", "other"]]
    paired = wanted.merge(other, on=[*cell, "reference"])
    return _over_seeds(paired.assign(gain=paired["dice"] - paired["other"]), "gain")


def with_paper_values(cells: pd.DataFrame, labels: Mapping[int, str] = LABELS) -> pd.DataFrame:
    """The paper's value beside ours, cell by cell.

    Args:
        cells: from `summary`.
        labels: of the target; what the paper prints is said of its own classes alone.

    Returns:
        `cells` with columns `paper_patients` (10 for the fewer, 50 for the more) and `paper` (PSPNet's rows 1-7,
        classes 0-3 and the mean as printed; else NaN).
    """
    ranks = dict(zip(sorted(cells["patients"].unique()), (10, 50), strict=False))
    printed = paper.transfer().rename(columns={f"class-{label}": label for label in range(4)})
    printed = printed if labels == LABELS else printed.head(0)
    printed = printed.melt(["patients", "row"], [0, 1, 2, 3, "mean"], "class", "paper")
    printed = printed.rename(columns={"patients": "paper_patients"}).assign(network="pspnet")
    keys = ["network", "paper_patients", "row", "class"]
    return cells.assign(paper_patients=cells["patients"].map(ranks)).merge(printed, how="left", on=keys)


def setting(run: Run) -> Words:
    """Who is labelled, who validates, and what every row is given, in this run."""
    (few, every), others, scale = sizes(run), run.facts("acdc")["held out"], run.profile
    return Words(
        f"In this run the target learns from {few} of the labelled patients and from all {every}; the same "
        f"{others} others validate every row. The paper has 10, 50 and 50. Every row "
        f"takes {scale.transfer_steps} steps of {scale.batch_size} slices at a learning rate of "
        f"{scale.learning_rate:g}, over {scale.seeds} seed{'s' * (scale.seeds > 1)}; its source was trained for "
        f"{scale.steps}."
    )


def in_words(runs: pd.DataFrame) -> Words:
    """What the gains say, of the mean over all classes: a row gains, or loses, where its interval leaves 0 out."""
    sentences, last = [], runs["class"].max()
    for (network, parameters, patients), part in runs.groupby(["network", "parameters", "patients"], sort=False):
        mean = summary(part).query("`class` == 'mean' and row == 1").iloc[0]
        lines = [f"mean Dice (classes 0-{last}) with nothing loaded {mean['dice']:.2f}{_interval(mean)}"]
        for over, words in (("nothing", "loading nothing"), ("start", "loading the start alone")):
            gain = gains(part, over).query("`class` == 'mean'")
            best = gain.loc[gain["gain"].idxmax()]
            lines.append(
                f"against {words}, rows that gain: {_listed(gain['low'] > 0, gain)}, rows that lose: "
                f"{_listed(gain['high'] < 0, gain)}; the largest gain is {best['gain']:+.2f}{_interval(best)}, row "
                f"{best['row']} ({best['label']})"
            )
        title = f"{TITLES[network]}, {parameters} list, labelled patients: {patients}, seeds: {part['seed'].nunique()}"
        sentences.append(f"- **{title}**: {'; '.join(lines)}.")
    return Words("\n".join(sentences))


def _listed(chosen: pd.Series, rows: pd.DataFrame) -> str:
    return ", ".join(map(str, rows.loc[chosen, "row"])) or "none"


def _interval(cell: pd.Series) -> str:
    return "" if np.isnan(cell["low"]) else f" [{cell['low']:.2f}, {cell['high']:.2f}]"


def _measures(runs: pd.DataFrame) -> pd.DataFrame:
    """DataFrame[network, parameters, patients, row, label, seed, class, dice] with the two means of every run."""
    wide = runs.pivot(index=[*RUN, "seed"], columns="class", values="dice").astype(float)
    means = {"mean": wide.mean(axis=1), "foreground": wide.drop(columns=0).mean(axis=1)}
    return wide.assign(**means).reset_index().melt([*RUN, "seed"], var_name="class", value_name="dice")


def _over_seeds(measures: pd.DataFrame, value: str) -> pd.DataFrame:
    """Mean of a column over seeds with its 95 % t interval."""
    cells = measures.groupby([*RUN, "class"], sort=False)[value].agg(["mean", "std", "count"]).reset_index()
    half = stats.t.ppf(0.975, cells["count"] - 1) * cells["std"] / np.sqrt(cells["count"])
    cells = cells.assign(low=cells["mean"] - half, high=cells["mean"] + half)
    cells = cells.rename(columns={"mean": value, "count": "seeds"}).sort_values(RUN[:4], kind="stable")
    return cells[[*RUN, "class", value, "low", "high", "seeds"]].reset_index(drop=True)
