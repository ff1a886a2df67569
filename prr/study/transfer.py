"""The transfer experiment: train on few patients, beginning with parameters of another network (the paper's table)."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd
from torch import nn

from prr import reuse
from prr.data import Slices
from prr.data.slices import LABELS
from prr.errors import OptionError
from prr.layers import parameter_table
from prr.metrics import crossed_interval
from prr.study import networks, paper, training, transplants
from prr.study.backbones import random
from prr.study.display import Words, ranged
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
LIST = RUN[:2]
MEANS = ("mean", "foreground")
CONTRASTS = {"frozen": (2, 4, 6), "trained on": (3, 5, 7)}  # rows of the paper's sources, each against row 1


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
    """All runs of the experiment: `by_patient`, averaged over the validation patients in whom a class is present.

    Returns:
        The job of DataFrame[network, parameters, patients, row, label, source, frozen, seed, class, dice].
    """
    return run.job(averaged, found=by_patient(run))


@derived
def averaged(found: pd.DataFrame) -> pd.DataFrame:
    """See `table`."""
    keys = [name for name in found if name not in ("patient", "dice")]
    return found.groupby(keys, as_index=False, sort=False)["dice"].mean()


def by_patient(run: Run) -> Job:
    """All runs of the experiment, validation patient by validation patient.

    Returns:
        The job of DataFrame[network, parameters, patients, row, label, source, frozen, seed, patient, class, dice],
        see `row`; patients: how many were labelled, patient: who is scored.
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
        The job of DataFrame[patient, class, dice], see `prr.dice`: NaN where a patient has not the class.

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
    return dice_by_class(model.eval(), part)


# ---------------------------------------------------------------- from runs to tables


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """Every cell of the table, each with an interval of its own.

    Args:
        runs: from `by_patient`.

    Returns:
        DataFrame[network, parameters, patients, row, label, class, dice, low, high, over, seeds]: each class, "mean"
        (of all classes, background included, as the paper prints it) and "foreground" (without it); low, high: 95 %
        interval of `prr.metrics.crossed_interval`; over: what it resamples, "seeds and patients" where there are two
        of each. Limits end where Dice does.
    """
    wide = _wide(runs)
    parts = {each: _of_lists(wide[each], lambda cells: cells, together=False) for each in wide}
    found = pd.concat(parts, names=["class"]).reset_index("class").rename(columns={"gain": "dice"})
    found["low"] = found["low"].clip(lower=0)
    return _labelled(found, runs)[[*RUN, "class", "dice", "low", "high", "over", "seeds"]]


def gains(runs: pd.DataFrame, against: str = "nothing") -> pd.DataFrame:
    """What loading gains: each row minus its reference of the same seed and size.

    Args:
        runs: as `summary`.
        against: "nothing": every row against row 1; "start": every row that loads a trained source against the start
            alone, frozen against frozen (row 8) and trained on against trained on (row 9).

    Returns:
        DataFrame[network, parameters, patients, row, label, class, gain, low, high, over, seeds, simultaneous]: class
        "mean" and "foreground", as in `summary`; low, high: 95 % limits that hold for all rows and sizes of a list at
        once; simultaneous: how many these are.

    Raises:
        OptionError: `against` is neither.
    """
    references = {
        "nothing": {row: 1 for row in ROWS if row != 1},
        "start": {row: 8 if each.frozen else 9 for row, each in ROWS.items() if each.source not in ("", "start")},
    }
    if against not in references:
        raise OptionError(f"against={against!r}: expected one of {', '.join(references)}")
    pairs = list(references[against].items())
    parts = {measure: row_gains(runs, pairs, measure) for measure in MEANS}
    found = pd.concat(parts, names=["class"]).reset_index("class").rename(columns={"better": "row"})
    return _labelled(found, runs)[[*RUN, "class", "gain", "low", "high", "over", "seeds", "simultaneous"]]


def row_gains(runs: pd.DataFrame, pairs: Sequence[tuple[int, int]], measure: str = "mean") -> pd.DataFrame:
    """By how much one row lies above another of the same seed and size.

    Args:
        runs: as `summary`.
        pairs: (better, worse), two rows each.
        measure: a class, "mean" or "foreground", as in `summary`.

    Returns:
        DataFrame[network, parameters, patients, better, worse, gain, low, high, over, seeds, simultaneous]: low, high:
        95 % limits that hold for all pairs and sizes of a list at once (max-t).
    """

    def differences(cells: pd.DataFrame) -> pd.DataFrame:
        asked = itertools.product(cells.columns.unique("patients"), pairs)
        found = {(size, *pair): cells[size, pair[0]] - cells[size, pair[1]] for size, pair in asked}
        return pd.DataFrame(found).rename_axis(columns=["patients", "better", "worse"])

    return _of_lists(_wide(runs)[measure], differences)


def contrasts(runs: pd.DataFrame) -> pd.DataFrame:
    """What loading a trained source does, by two contrasts that were fixed before any result that they judge.

    "frozen" is the mean of rows 2, 4 and 6 minus row 1, "trained on" that of rows 3, 5 and 7, each over both sizes, of
    the mean Dice of all classes as the paper takes it. Rows and sizes are averaged within a seed and patient.

    Args:
        runs: as `summary`.

    Returns:
        DataFrame[network, parameters, contrast, gain, low, high, over, seeds, simultaneous]: low, high: 95 % limits
        that hold for both contrasts of a list at once (max-t).
    """

    def pooled(cells: pd.DataFrame) -> pd.DataFrame:
        mean = cells.T.groupby("row").mean().T
        found = {name: mean[list(rows)].mean(axis=1) - mean[1] for name, rows in CONTRASTS.items()}
        return pd.DataFrame(found).rename_axis(columns="contrast")

    return _of_lists(_wide(runs)["mean"], pooled)


def reached(runs: pd.DataFrame) -> dict[str, float]:
    """{network: foreground Dice of its best row with all labelled patients}, for `prr.study.standing.box`.

    Args:
        runs: as `summary`; mean over seeds and validation patients.
    """
    dice = _wide(runs[runs["patients"] == runs["patients"].max()])["foreground"]
    return dice.groupby([*LIST, "row"]).mean().groupby("network").max().to_dict()


def with_sizes(cells: pd.DataFrame) -> pd.DataFrame:
    """How many patients are labelled, in words, beside the paper's number.

    Args:
        cells: with a column `patients`, as `summary` and `gains` give them.

    Returns:
        `cells` with columns `size` ("5 patients (10 in the paper)") and `paper_patients` (10 for the fewer, 50 for the
        more).
    """
    ours, theirs = cells["patients"], cells["patients"].map(_paper_sizes(cells["patients"]))
    words = [
        f"{count} patient{'s' * (count != 1)}" + (f" ({printed} in the paper)" if count != printed else "")
        for count, printed in zip(ours, theirs, strict=True)
    ]
    found = cells.assign(paper_patients=theirs)
    found.insert(found.columns.get_loc("patients") + 1, "size", words)
    return found


def _paper_sizes(patients: pd.Series) -> dict[int, int]:
    return dict(zip(sorted(patients.unique()), (10, 50), strict=False))


def with_paper_values(cells: pd.DataFrame, labels: Mapping[int, str] = LABELS) -> pd.DataFrame:
    """The paper's value beside ours, cell by cell.

    Args:
        cells: from `summary`.
        labels: of the target; what the paper prints is said of its own classes alone.

    Returns:
        `cells` with the columns of `with_sizes` and `paper` (PSPNet's rows 1-7, classes 0-3 and the mean as printed;
        else NaN).
    """
    printed = paper.transfer().rename(columns={f"class-{label}": label for label in range(4)})
    printed = printed if labels == LABELS else printed.head(0)
    printed = printed.melt(["patients", "row"], [0, 1, 2, 3, "mean"], "class", "paper")
    printed = printed.rename(columns={"patients": "paper_patients"}).assign(network="pspnet")
    keys = ["network", "paper_patients", "row", "class"]
    return with_sizes(cells).merge(printed, how="left", on=keys)


def setting(run: Run) -> Words:
    """Who is labelled, who validates, and what every row is given, in this run."""
    (few, every), others, scale = sizes(run), run.facts("acdc")["held out"], run.profile
    return Words(
        f"The target learns from {few} labelled patient{'s' * (few != 1)} (10 in the paper) or from all {every} (50 in "
        f"the paper). "
        f"The same {others} others (50 in the paper) validate every row. "
        f"Every row takes {scale.transfer_steps} steps of {scale.batch_size} slices at a learning rate of "
        f"{scale.learning_rate:g}. "
        f"Its source was trained for {scale.steps} steps. "
        f"All of it is done with {scale.seeds} seed{'s' * (scale.seeds != 1)}."
    )


def in_words(runs: pd.DataFrame) -> Words:
    """What loading does, a paragraph for each network and list: pooled, counted, and row by row.

    Args:
        runs: as `summary`; all of the mean Dice of all classes.
    """
    lists = runs.groupby(LIST, sort=False)
    return Words("\n".join(f"- **{TITLES[of[0]]}, {of[1]} list.** {_told(part)}" for of, part in lists))


def _told(runs: pd.DataFrame) -> str:
    """The paragraph of one network and list."""
    pooled, sizes = contrasts(runs), runs["patients"].nunique()
    how = {"frozen": "Loading and freezing", "trained on": "Loading and training on"}
    effects = [
        f"{how[row.contrast]} {_does(row.low, row.high)}: {ranged(row.gain, row.low, row.high, row.over)}."
        for row in pooled.itertuples()
    ]
    pooling = "Both are gains of mean Dice over row 1, pooled over three rows and {}, simultaneous for {} contrasts."
    sizes = "both sizes" if sizes == 2 else "one size"
    return " ".join([*effects, pooling.format(sizes, len(pooled)), *_counted(runs), *_singly(runs)])


def _does(low: float, high: float) -> str:
    return "helps" if low > 0 else "hurts" if high < 0 else "may help or hurt"


def _counted(runs: pd.DataFrame) -> list[str]:
    """How many runs lie below row 1 of their seed and size, frozen and trained on; no interval is needed to see it."""
    dice = _wide(runs)["mean"].groupby(["seed", "patients", "row"]).mean().unstack("row")
    below = dice.drop(columns=1).lt(dice[1], axis=0)
    counts = [below[[row for row in below if ROWS[row].frozen == frozen]].stack() for frozen in (True, False)]
    (frozen, of_frozen), (free, of_free) = ((int(each.sum()), len(each)) for each in counts)
    which = f"{'All ' * (frozen == of_frozen)}{frozen}" if frozen else "None"
    lie, do = ("lies" if frozen == 1 else "lie"), ("does" if free == 1 else "do")
    return [
        f"{which} of {of_frozen} frozen cells {lie} below row 1 of the same seed and size.",
        f"Of the {of_free} trained on, {'all' if free == of_free else free or 'none'} {do}.",
    ]


def _singly(runs: pd.DataFrame) -> list[str]:
    """How many single rows gain or lose for certain, against row 1 and against the start alone."""
    told = []
    for against, words in (("nothing", "Row by row over row 1"), ("start", "Over the start alone")):
        rows = gains(runs, against).query("`class` == 'mean'")
        won, lost = int((rows["low"] > 0).sum()), int((rows["high"] < 0).sum())
        told.append(
            f"{words}, simultaneous for {len(rows)}: {won or 'no'} certain gain{'s' * (won != 1)}, "
            f"{lost or 'no'} certain loss{'es' * (lost != 1)}."
        )
    return told


def _wide(runs: pd.DataFrame) -> pd.DataFrame:
    """Dice of every run and patient, a column for each class and for their two means.

    A patient who has not a class counts there as the mean of those who have it, who count for so much more: the mean
    over patients stays theirs, and so does, to first order, its error. No patient and no other class is lost by it. A
    class that nobody has is NaN and stays out of the means.
    """
    wide = runs.pivot(index=[*RUN, "seed", "patient"], columns="class", values="dice").astype(float)
    of_run = wide.groupby([*RUN, "seed"])
    mean, weight = of_run.transform("mean"), 1 / wide.notna().groupby([*RUN, "seed"]).transform("mean")
    wide = wide.where(weight == 1, mean + (wide - mean) * weight).fillna(mean)
    return wide.assign(mean=wide.mean(axis=1), foreground=wide.drop(columns=0).mean(axis=1))


def _of_lists(
    dice: pd.Series, made_of: Callable[[pd.DataFrame], pd.DataFrame], together: bool = True
) -> pd.DataFrame:  # fmt: skip
    """What is made of the cells of each network and list, with its interval.

    Args:
        dice: a column of `_wide`.
        made_of: DataFrame[cells named by patients and row] -> DataFrame[what is asked], a line for each seed and
            patient.
        together: one limit for all columns of a list, else each by itself.

    Returns:
        DataFrame[network, parameters, names of the columns, gain, low, high, over, seeds, simultaneous].
    """
    parts = {}
    for of, part in dice.groupby(LIST):
        asked = made_of(part.droplevel([*LIST, "label"]).unstack(["patients", "row"]).sort_index(axis=1))
        families = [asked] if together else [asked[[column]] for column in asked]
        parts[of] = pd.concat([_crossed(family) for family in families])
    return pd.concat(parts, names=LIST).reset_index()


def _crossed(values: pd.DataFrame) -> pd.DataFrame:
    """Mean of each column over seeds and patients with simultaneous 95 % limits for all of them, within -1 and 1.

    values: Dice or differences of Dice, a line for each seed and patient, by these names.
    """
    counts = {name: values.index.unique(each).size for name, each in (("seeds", "seed"), ("patients", "patient"))}
    block = values.to_numpy().reshape(counts["seeds"], 1, counts["patients"], -1)
    mean, low, high = crossed_interval(block)
    found = {"gain": mean, "low": low.clip(min=-1), "high": high.clip(max=1)}  # few seeds reach beyond what can be
    over = " and ".join(name for name, count in counts.items() if count > 1)
    return pd.DataFrame(found, values.columns).assign(over=over, seeds=counts["seeds"], simultaneous=values.shape[1])


def _labelled(found: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Cells with the label of their row, in order."""
    return found.merge(runs[RUN].drop_duplicates(), on=RUN[:4]).sort_values(RUN[:4], kind="stable", ignore_index=True)
