"""The transfer experiment: train on few patients, beginning with parameters of another network (the paper's table)."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import nn

from prr import reuse
from prr.data import Slices
from prr.errors import DataError, NetworkError, OptionError
from prr.figures import Words
from prr.layers import parameter_table
from prr.metrics import dice
from prr.study import inputs, paper, training
from prr.study.jobs import Call, together
from prr.study.models import TITLES, derived
from prr.study.starts import initial
from prr.study.store import Key, digest
from prr.verdict import REUSABLE, layer_verdicts

if TYPE_CHECKING:
    from prr.study.experiment import Experiment

# Goes into every stored run's key: raise it when a change here or in reuse.py changes what a run gives.
RECIPE = 1
CLASSES = (1, 2, 3)  # of the target; 0 is the background


class Row(NamedTuple):
    """One row of the table: what is loaded, and whether it is fixed."""

    label: str
    source: str  # "" nothing, "start" the sources' untrained start, else data set and task
    frozen: bool


# 1-7 as the paper numbers them; 8, 9: the control that it lacks; 10, 11: its reading of semi-supervised learning
ROWS = {
    1: Row("nothing loaded", "", False),
    2: Row("T1 seg, frozen", "t1 segmentation", True),
    3: Row("T1 seg, trained on", "t1 segmentation", False),
    4: Row("T1 auto, frozen", "t1 auto-encoding", True),
    5: Row("T1 auto, trained on", "t1 auto-encoding", False),
    6: Row("RVSC seg, frozen", "rvsc segmentation", True),
    7: Row("RVSC seg, trained on", "rvsc segmentation", False),
    8: Row("start only, frozen", "start", True),
    9: Row("start only, trained on", "start", False),
    10: Row("ACDC auto, frozen", "acdc auto-encoding", True),
    11: Row("ACDC auto, trained on", "acdc auto-encoding", False),
}
STARTED = ("t1", "auto-encoding")  # the source whose start is loaded as "start"; under a shared start all have this one
RUN = ["network", "parameters", "patients", "row", "label"]  # what names a run, but for its seed


def draw(slices: Slices, patients: int, seed: int, classes: Collection[int] = ()) -> Slices:
    """Some of the training patients, and all of the validation patients.

    Args:
        slices: of a whole data set.
        patients: how many of the training part; fewer are always among more of the same seed.
        seed: of the draw.
        classes: labels that the drawn masks must hold.

    Raises:
        OptionError: no patients, or more than there are.
        DataError: the drawn masks lack a class.
    """
    there, held_out = slices.train.patient.unique(), slices.validation.patient.unique()
    if not 1 <= patients <= len(there):
        raise OptionError(f"patients={patients}: expected 1 to {len(there)}, the training patients of {slices.name}")
    drawn = there[torch.randperm(len(there), generator=torch.Generator().manual_seed(seed))[:patients]]
    keep = torch.isin(slices.patient, torch.cat([drawn, held_out]))
    parts = {name: getattr(slices, name)[keep] for name in ("images", "masks", "patient")}
    part = dataclasses.replace(slices, **parts, held_out=tuple(held_out.tolist()))
    if missing := sorted(set(classes) - set(part.train.masks.unique().tolist())):
        raise DataError(
            f"{slices.name}: no pixel of class {', '.join(map(str, missing))} in the masks of the {patients} drawn "
            f"patients {sorted(drawn.tolist())}; draw more, or take another seed"
        )
    return part


def loaded(run: Experiment, network: str, parameters: str) -> pd.DataFrame:
    """The parameters that a transfer loads, layer by layer and kind by kind.

    Args:
        run: whose sweep decides, if the list is inferred: of its own seed, for all seeds of the transfer.
        network: pspnet or unet.
        parameters: "paper": all but those that the paper lists as not reusable (PSPNet only); "inferred": those that
            the sweep of ACDC segmentation by ACDC auto-encoding finds reusable.

    Returns:
        DataFrame[kind, layer, name, size].

    Raises:
        OptionError: an unknown list, the paper's for another network than PSPNet, or one that leaves nothing to load.
    """
    table = parameter_table(_own_start(run, network, run.seed))[["kind", "layer", "name", "size"]]
    pairs = pd.MultiIndex.from_frame(table[["kind", "name"]])
    if parameters == "paper" and network == "pspnet":
        return table[~pairs.isin(pd.MultiIndex.from_frame(paper.not_reusable()[["kind", "name"]]))]
    if parameters == "paper":
        raise OptionError(f"transfer_list='paper' for {network}: the paper lists PSPNet's alone; take 'inferred'")
    if parameters != "inferred":
        raise OptionError(f"transfer_list={parameters!r}: expected paper or inferred")
    judged = layer_verdicts(run.sweep(network)).query(f"verdict == {REUSABLE!r}")
    if judged.empty:
        raise OptionError(f"transfer_list='inferred' for {network}: its sweep finds nothing reusable; train it longer")
    return table[pairs.isin(pd.MultiIndex.from_frame(judged[["kind", "name"]]))]


def shares(run: Experiment) -> pd.DataFrame:
    """How much of the network each list loads, counted in two ways.

    Returns:
        DataFrame[network, parameters, counted, loaded, total, share]: pairs of kind and layer (the paper's 92 %), and
        single numbers.
    """
    rows = []
    for network, parameters in combinations(run):
        every, chosen = parameter_table(_own_start(run, network, run.seed)), loaded(run, network, parameters)
        numbers = chosen["size"].sum(), every["size"].sum()
        counts = {"pairs of kind and layer": (len(chosen), len(every)), "numbers": numbers}
        rows += [(network, parameters, name, part, total, part / total) for name, (part, total) in counts.items()]
    return pd.DataFrame(rows, columns=["network", "parameters", "counted", "loaded", "total", "share"])


def combinations(run: Experiment) -> list[tuple[str, str]]:
    """(network, list) as the profile asks; the paper has no list for UNet, so `both` and `both` make three."""
    networks, lists = (
        ordered if chosen == "both" else (chosen,)
        for ordered, chosen in (
            (("pspnet", "unet"), run.profile.transfer_network),
            (("paper", "inferred"), run.profile.transfer_list),
        )
    )
    pairs = list(itertools.product(networks, lists))
    return [pair for pair in pairs if pair != ("unet", "paper")] or pairs


def sources(run: Experiment) -> Iterator[dict[str, Any]]:
    """Arguments of `Experiment.model` for every trained network that the experiment loads from, or infers a list by."""
    trained = dict.fromkeys(row.source for row in ROWS.values() if " " in row.source)
    for network, parameters in combinations(run):
        for seed, source in itertools.product(run.seeds, trained):
            dataset, task = source.split()
            yield {"network": network, "dataset": dataset, "task": task, "seed": seed}
        if parameters == "inferred":
            yield {"network": network, "dataset": "acdc", "task": "segmentation"}


def sizes(run: Experiment) -> tuple[int, int]:
    """Numbers of labelled patients: the profile's few, and all that train; 10 and 50 in the paper.

    Raises:
        OptionError: the few are not fewer than all.
    """
    few, every = run.profile.few_patients, inputs.training_patients(run, "acdc")
    if few >= every:
        raise OptionError(f"few_patients={few}: expected fewer than the {every} training patients of acdc")
    return few, every


def table(run: Experiment) -> pd.DataFrame:
    """All runs of the experiment; those in the store are not made again.

    Returns:
        DataFrame[network, parameters, patients, row, label, source, frozen, seed, class, dice], see `run_row`.
    """
    together(calls(run))
    return pd.concat([run_row(run, **arguments) for _, _, arguments in calls(run)], ignore_index=True)


def calls(run: Experiment) -> list[Call]:
    """One for each run of the experiment."""
    every = itertools.product(combinations(run), sizes(run), run.seeds, ROWS)
    names = ("network", "parameters", "patients", "seed", "row")
    return [(run, "transfer_row", dict(zip(names, (*pair, *rest), strict=True))) for pair, *rest in every]


def run_row(
    run: Experiment, network: str, parameters: str, row: int, patients: int, seed: int
) -> pd.DataFrame:  # fmt: skip
    """One run: load, train on the drawn patients, score on the data set's validation patients; from the store or now.

    The target begins from a random start of its own, the same in all rows and sizes of a seed, which no source shares;
    what is loaded replaces part of it. "start" loads the untrained start of the T1 auto-encoder: where the profile's
    start is shared, that is the start of all sources. All rows train for equal steps.

    Args:
        run: profile, data and store.
        network: pspnet or unet, as target and source.
        parameters: which list is loaded, see `loaded`.
        row: 1 to 11, see ROWS.
        patients: labelled training patients.
        seed: of start, sources, draw, order and augmentation.

    Returns:
        DataFrame[network, parameters, patients, row, label, source, frozen, seed, class, dice]: class 0 to 3, dice the
        mean over validation patients.

    Raises:
        OptionError: an unknown row or list, or as `draw`.
        DataError: as `draw`.
        NetworkError: training has diverged.

    Source: Wang et al. 2020, arXiv:2008.03411, "Parameter reuse experiment".
    """
    if row not in ROWS:
        raise OptionError(f"row {row!r}: expected 1 to {len(ROWS)}")
    label, source, frozen = ROWS[row]
    key = run.key(network, "acdc", "segmentation", "independent", seed, patients)
    key |= {"table": "transfer", "transfer recipe": run.recipes["transfer"], "steps": run.profile.transfer_steps}
    if source:
        plan = loaded(run, network, parameters)[["kind", "layer", "name"]]
        plan = plan.assign(action="reuse" if frozen else "fine-tune")
        key |= {"source": _source_digest(run, network, source, seed), "plan": digest(plan.to_dict("list"))}

    def make() -> tuple[pd.DataFrame, dict]:
        data = draw(run.slices("acdc"), patients, seed, CLASSES)
        model = _own_start(run, network, seed)
        if source:
            model = reuse.apply_plan(model, _source(run, network, source, seed), plan)
        return _trained_dice(model, data, key, run.progress), {}

    given = [run.key(network, *source.split(), seed=seed)] if " " in source else []
    scores, _ = run.kept(key, [key, *given], f"transfer row {row}, {patients} patients", make)
    run_of = {"network": network, "parameters": parameters, "patients": patients, "row": row, "label": label}
    return pd.DataFrame(run_of | {"source": source, "frozen": frozen, "seed": seed}, scores.index).join(scores)


def _trained_dice(model: nn.Module, data: Slices, key: Key, progress: bool) -> pd.DataFrame:
    """DataFrame[class, dice] on the validation patients after training in place."""
    options = {name: key[name] for name in ("steps", "batch_size", "learning_rate")}
    if any(parameter.requires_grad for parameter in model.parameters()):  # a list may freeze all: scored as loaded
        training.fit(
            model, data, key["task"], seed=derived(key["seed"], "transfer"), progress=progress, checkpoints=0, **options
        )
    if not all(value.isfinite().all() for value in model.state_dict().values()):
        raise NetworkError(
            f"{key['network']}, transfer: NaN or infinite weights after training with learning_rate="
            f"{key['learning_rate']:g}; take a smaller one"
        )
    part = data.validation
    prediction = reuse.predict(model.eval(), part.images).argmax(1).cpu()
    return dice(prediction, part.masks, part.patient).groupby("class", as_index=False)["dice"].mean()


def _own_start(run: Experiment, network: str, seed: int) -> nn.Module:
    """The target's own random start, which no other network of the study has."""
    width = getattr(run.profile, f"{network}_width")
    return initial(network, width, "independent", "transfer", "segmentation", seed).to(run.device)


def _source(run: Experiment, network: str, source: str, seed: int) -> nn.Module:
    if source == "start":
        return run.start(network, *STARTED, seed=seed)
    return run.model(network, *source.split(), seed=seed)


def _source_digest(run: Experiment, network: str, source: str, seed: int) -> str:
    """Names all that the source depends on: a start that is not trained depends on little."""
    if source != "start":
        return digest(run.key(network, *source.split(), seed=seed))
    key = run.key(network, *STARTED, seed=seed)
    return digest({name: key[name] for name in ("network", "width", "start", "data set", "task", "seed")})


# ---------------------------------------------------------------- from runs to tables


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean over seeds of every cell of the table.

    Args:
        runs: from `table`.

    Returns:
        DataFrame[network, parameters, patients, row, label, class, dice, low, high, seeds]: class 0 to 3, "mean" (of
        classes 0-3, background included, as the paper prints it) and "foreground" (of classes 1-3, as in sweeps);
        low, high: 95 % t interval of the mean over seeds, NaN with one seed.
    """
    return _over_seeds(_measures(runs), "dice")


def gains(runs: pd.DataFrame, over: str = "nothing") -> pd.DataFrame:
    """What loading gains: each row minus its reference with the same seed, then the mean over seeds.

    Args:
        runs: from `table`.
        over: "nothing": every row against row 1; "start": every row that loads a trained source against the start
            alone, frozen against frozen (row 8) and trained on against trained on (row 9).

    Returns:
        DataFrame[network, parameters, patients, row, label, class, gain, low, high, seeds]: class "mean" (0-3) and
        "foreground" (1-3); low, high: 95 % t interval over the seeds' differences, NaN with one seed.

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


def beside(cells: pd.DataFrame) -> pd.DataFrame:
    """The paper's value beside ours, cell by cell.

    Args:
        cells: from `summary`.

    Returns:
        `cells` with columns `paper_patients` (10 for the fewer, 50 for the more) and `paper` (PSPNet's rows 1-7,
        classes 0-3 and the mean as printed; else NaN).
    """
    ranks = dict(zip(sorted(cells["patients"].unique()), (10, 50), strict=False))
    printed = paper.transfer().rename(columns={f"class-{label}": label for label in range(4)})
    printed = printed.melt(["patients", "row"], [0, 1, 2, 3, "mean"], "class", "paper")
    printed = printed.rename(columns={"patients": "paper_patients"}).assign(network="pspnet")
    keys = ["network", "paper_patients", "row", "class"]
    return cells.assign(paper_patients=cells["patients"].map(ranks)).merge(printed, how="left", on=keys)


def setting(run: Experiment) -> Words:
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
    """What the gains say, of the mean over classes 0-3: a row gains, or loses, where its interval leaves 0 out."""
    sentences = []
    for (network, parameters, patients), part in runs.groupby(["network", "parameters", "patients"], sort=False):
        mean = summary(part).query("`class` == 'mean' and row == 1").iloc[0]
        lines = [f"mean Dice (classes 0-3) with nothing loaded {mean['dice']:.2f}{_interval(mean)}"]
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
    means = {"mean": wide.mean(axis=1), "foreground": wide[list(CLASSES)].mean(axis=1)}
    return wide.assign(**means).reset_index().melt([*RUN, "seed"], var_name="class", value_name="dice")


def _over_seeds(measures: pd.DataFrame, value: str) -> pd.DataFrame:
    """Mean of a column over seeds with its 95 % t interval."""
    cells = measures.groupby([*RUN, "class"], sort=False)[value].agg(["mean", "std", "count"]).reset_index()
    half = stats.t.ppf(0.975, cells["count"] - 1) * cells["std"] / np.sqrt(cells["count"])
    cells = cells.assign(low=cells["mean"] - half, high=cells["mean"] + half)
    cells = cells.rename(columns={"mean": value, "count": "seeds"}).sort_values(RUN[:4], kind="stable")
    return cells[[*RUN, "class", value, "low", "high", "seeds"]].reset_index(drop=True)
