"""Which cheap number predicts what a transplant costs, and what a fine-tuned network reaches."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn

from prr import bn, predictors
from prr.data import Slices
from prr.distance import rmse
from prr.metrics import nanmean
from prr.predictors import jackknife, rank_agreement, rank_correlation
from prr.reuse import device_of
from prr.study import grid, networks, paper, prefixes, sources, transplants
from prr.study.backbones import ARCHITECTURES
from prr.study.display import Words, ranged
from prr.study.jobs import Job, derived, stack
from prr.study.models import TITLES
from prr.study.run import Run


class Score(NamedTuple):
    """A cheap number, and the sign that makes it grow with the harm that it predicts."""

    label: str
    sign: int
    of_layers: bool


SCORES = {
    "rmse": Score("RMSE", 1, True),
    "relative": Score("relative RMSE", 1, True),
    "aligned": Score("aligned relative RMSE", 1, True),
    "ratio": Score("RMSE over its null", 1, True),
    "travelled": Score("how far the source has trained", 1, True),
    "norms": Score("distance of batch norms", 1, True),
    "cka": Score("CKA (less is worse)", -1, True),
    "logme": Score("LogME (less is worse)", -1, False),
    "h_score": Score("H-score (less is worse)", -1, False),
}
BASELINE = "travelled"
LAYER, KERNELS, TUNED = TRUTHS = "which layer", "which source: kernels", "which source: fine-tuned"
ALL, OTHERS_ALONE = "all", "without own labels"  # own: of the target's data, by the target's task
PREDICTS, MISLEADS, WEAK, OPEN = "predicts", "misleads", "weak", "undecided"
TOLERANCES = paper.tolerances()
OVER = "groups of sources"  # what intervals resample: a group is a data set by a task
OTHERS = ("source", "other seed")  # networks whose distance from the target is taken
SOURCE = ["network", "target", "label", "group", "own"]  # what names a source, and what it was trained on


# ---------------------------------------------------------------- sources


def candidates(run: Run, common: int) -> dict[str, dict[str, Any]]:
    """Sources for the target of a seed: each data set by two tasks, trained fully, shortly or on few patients.

    Twenty where there are three data sets, eight of a target alone.

    All begin where the target began. "few": a quarter of the data set's training patients; "short": a quarter of the
    steps; "again": another seed.
    """
    first = grid.OTHER_SEED + run.seed
    found = {}
    for label, (dataset, task) in networks.six(run).items():
        some = max(1, run.training_patients(dataset) // 4)
        variants = {"": {}, ", short": {"steps": grid.short(run)}, ", few": {"patients": some}}
        for words, options in variants.items():
            found[label + words] = grid.source(first, common, dataset, task, **options)
        if dataset == "acdc":
            found[f"{label}, again"] = grid.source(first + 1, common, dataset, task)
    return found


def labelled_sources(run: Run, network: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """(labels, arguments of `networks.model`) of every source of every target; the labels are `SOURCE`."""
    found = []
    for seed in grid.seeds(run, grid.RANKED)[0]:
        for label, giver in candidates(run, seed).items():
            group = giver["dataset"], giver["task"]
            words = networks.label(run, *group), group == ("acdc", "segmentation")
            found.append((dict(zip(SOURCE, (network, seed, label, *words), strict=True)), giver))
    return found


# ---------------------------------------------------------------- scores


def source_scores(run: Run, network: str, seed: int, label: str) -> Job:
    """Every cheap score of one source for one target.

    RMSE, batch norms and CKA compare the source with the target, which was trained on all patients. CKA, LogME and the
    H-score see the images, and the last two the masks, of the profile's few patients; the last two need no target.

    Args:
        run: of the chapter; it is brought to the chapter's scale, see `grid.scaled`.
        network: unet or pspnet.
        seed: of the target.
        label: of the source, see `candidates`.

    Returns:
        The job of DataFrame[layer, name, rmse, relative, aligned, ratio, travelled, norms, cka, logme, h_score], a row
        for each live kernel; norms: root of the summed squares of `prr.shift_scale`'s rms columns of the batch norm
        behind it, NaN where there is none; the last two are of the whole source, NaN where few patients show one class.
    """
    run = grid.scaled(run)
    judged, giver = grid.target(seed), candidates(run, seed)[label]
    return run.job(
        cheap_scores, "scores of a source", source=networks.model(run, network, **giver),
        target=networks.model(run, network, **judged), start=networks.start(run, network, **judged),
        slices=run.data("acdc"), features=ARCHITECTURES[network].features, patients=run.few_patients,
        seed=run.seed,
    )  # fmt: skip


def cheap_scores(
    target: nn.Module, source: nn.Module, start: nn.Module, slices: Slices, features: str, patients: int, seed: int
) -> pd.DataFrame:
    """See `source_scores`.

    Args:
        target, source: any two networks that match.
        start: from which both began.
        slices: of the target's data set.
        features: name of the module whose output the classifier sees.
        patients: n of the training part are seen.
        seed: of their draw.
    """
    seen = networks.draw(slices, patients, seed).train
    example, models = seen.images[:1].to(device_of(target)), {"target": target, "source": source}
    table = sources.between(models, dict.fromkeys(models, start), example)
    table = table[table["kind"] == "W"].rename(columns={"travelled_second": "travelled"})
    table = table.assign(ratio=table["rmse"] / table["null"])
    table = table[["layer", "name", "rmse", "relative", "ratio", "travelled"]]
    table = table.merge(aligned(target, source), how="left")
    table["norms"] = table["name"].map(norms(target, source, example))
    table = table.merge(predictors.layer_similarity(target, source, seen)[["name", "cka"]], how="left")
    pixels = predictors.pixels(source, features, seen, ignore_index=seen.ignore)
    several = len(np.unique(pixels[1])) > 1
    logme, h_score = (each(*pixels) if several else np.nan for each in (predictors.logme, predictors.h_score))
    return table.assign(logme=logme, h_score=h_score)


def aligned(target: nn.Module, source: nn.Module) -> pd.DataFrame:
    """DataFrame[name, aligned]: relative RMSE of every kernel after aligning channels."""
    table = rmse(target, source, align=True)
    return table.loc[table["kind"] == "W", ["name", "aligned"]]


def norms(target: nn.Module, source: nn.Module, example: torch.Tensor) -> dict[str, float]:
    """{convolution: change of the output by the batch norm behind it, all four vectors together}."""
    table = prefixes.units(target, example)
    kernels = table[table["kind"] == "W"].set_index("unit")["name"]
    behind = table[table["kind"] == "RM"].drop_duplicates("unit").set_index("name")["unit"].map(kernels)
    change = bn.shift_scale(target, source).set_index("name")[["rms_RM", "rms_RV", "rms_RW", "rms_RB"]]
    size = np.sqrt((change**2).sum(axis=1))
    return {behind[name]: value for name, value in size.items() if name in behind.index}


# ---------------------------------------------------------------- truths


def fine_tuned(run: Run, network: str, seed: int, label: str, drawn: int) -> Job:
    """Load all but the classifier from a source, train all of it shortly on few patients.

    Args:
        run: of the chapter; it is brought to the chapter's scale, see `grid.scaled`.
        network: unet or pspnet.
        seed: of the target whose start the sources share.
        label: of the source.
        drawn: seed of the few patients, of the fresh start, order and augmentation: the same for all sources.

    Returns:
        The job of DataFrame[patient, dice]: foreground Dice of the validation patients.
    """
    run = grid.scaled(run)
    source = networks.model(run, network, **candidates(run, seed)[label])
    few = run.few_patients
    title = "fine-tuned on few patients"
    return prefixes.short_training(run, title, network, "fine-tuned", drawn, source, n=None, patients=few)


def layers(run: Run, network: str) -> Job:
    """Scores and drops of every kernel of every source.

    Args:
        run: of the chapter; it is brought to the chapter's scale, see `grid.scaled`.
        network: unet or pspnet.

    Returns:
        The job of DataFrame[network, target, label, group, own, ..., drop]: the columns of `source_scores`, and the
        mean drop over validation patients. group: data set and task; own: trained on the target's own labels.
    """
    run, scores, drops = grid.scaled(run), [], []
    for labels, giver in labelled_sources(run, network):
        scores.append((labels, source_scores(run, network, labels["target"], labels["label"])))
        drops.append((labels, transplants.drops(run, network, grid.target(labels["target"]), giver)))
    return run.job(scores_and_drops, "scores and drops", scores=stack(scores), drops=stack(drops))


@derived
def scores_and_drops(scores: pd.DataFrame, drops: pd.DataFrame) -> pd.DataFrame:
    """See `layers`."""
    kernel = [*SOURCE, "name"]
    return scores.join(drops.groupby(kernel)["drop"].mean(), on=kernel)


def by_source(run: Run, network: str) -> Job:
    """Scores and both truths of every source.

    Args:
        run: of the chapter; it is brought to the chapter's scale, see `grid.scaled`.
        network: unet or pspnet.

    Returns:
        The job of DataFrame[network, target, label, group, own, scores (means over kernels), drop, dice]: drop, mean
        over kernels; dice: after fine-tuning, mean over draws and patients.
    """
    run = grid.scaled(run)
    draws = grid.seeds(run, grid.RANKED)[1]  # of few patients, each with a fresh start of its own
    tuned = stack(
        (labels | {"drawn": drawn}, fine_tuned(run, network, labels["target"], labels["label"], drawn))
        for (labels, _), drawn in itertools.product(labelled_sources(run, network), draws)
    )
    return run.job(scores_and_truths, "scores and truths", layers=layers(run, network), tuned=tuned)


@derived
def scores_and_truths(layers: pd.DataFrame, tuned: pd.DataFrame) -> pd.DataFrame:
    """See `by_source`."""
    table = layers.groupby(SOURCE, sort=False)[[*SCORES, "drop"]].mean().reset_index()
    dice = tuned.groupby([*SOURCE, "drawn"])["dice"].agg(lambda each: nanmean(each.to_numpy()))
    return table.join(dice.unstack("drawn").mean(axis=1).rename("dice"), on=SOURCE)


# ---------------------------------------------------------------- does the score predict?


def agreement(layers: pd.DataFrame, by_source: pd.DataFrame) -> pd.DataFrame:
    """Spearman's correlation of every score with every truth; above 0 the score warns of what does harm.

    Args:
        layers: from `layers`, of one network.
        by_source: from `by_source`, of the same.

    Returns:
        DataFrame[network, sources, truth, score, rho, low, high, beyond, beyond_low, beyond_high, groups, over,
        verdict]. sources: all, or without those that were trained on the target's own labels. Ranks are taken within
        each target, and for "which layer" within each source. beyond: rho minus that of the baseline, how far the
        source has trained. 95 % limits are a jackknife's over the groups of sources, each score by itself. verdict: see
        `verdict`.
    """
    parts = []
    for kept in (ALL, OTHERS_ALONE):
        some = [table if kept == ALL else table[~table["own"]] for table in (layers, by_source)]
        parts.append(_agreement(*some).assign(sources=kept))
    found = pd.concat(parts, ignore_index=True).assign(network=layers["network"].iloc[0], over=OVER)
    columns = ["network", "sources", "truth", "score", "rho", "low", "high", "beyond", "beyond_low", "beyond_high"]
    return found[[*columns, "groups", "over", "verdict"]]


def _agreement(layers: pd.DataFrame, by_source: pd.DataFrame) -> pd.DataFrame:
    """See `agreement`, of some sources."""
    harms = by_source.assign(lost=1 - by_source["dice"])
    tables = {LAYER: (layers, "drop", ["target", "label"]), KERNELS: (harms, "drop", ["target"])}
    tables[TUNED] = (harms, "lost", ["target"])
    rows = []
    for truth, (table, column, within) in tables.items():
        ranks = {
            name: (score.sign * table[name]).groupby([table[each] for each in within]).rank(pct=True)
            for name, score in SCORES.items()
            if score.of_layers or truth != LAYER
        }
        harm, groups = table.groupby(within)[column].rank(pct=True), table["group"]
        for name, ranked in ranks.items():
            found = rank_agreement(ranked, harm, groups)
            beyond = [np.nan] * 3 if name == BASELINE else gap(ranked, ranks[BASELINE], harm, groups)
            rows.append((truth, name, *found, *beyond, groups.nunique(), verdict(*found)))
    columns = ["truth", "score", "rho", "low", "high", "beyond", "beyond_low", "beyond_high", "groups", "verdict"]
    return pd.DataFrame(rows, columns=columns)


def verdict(rho: float, low: float, high: float) -> str:
    """What a rank correlation says: its interval must lie on one side of 0, and it must be large enough to be of use.

    >>> verdict(0.5, 0.2, 0.7), verdict(0.08, 0.02, 0.14), verdict(0.5, -0.1, 0.8), verdict(-0.5, -0.7, -0.2)
    ('predicts', 'weak', 'undecided', 'misleads')
    """
    if not (low > 0 or high < 0):
        return OPEN
    if abs(rho) < TOLERANCES["predicts"]:
        return WEAK
    return PREDICTS if rho > 0 else MISLEADS


def gap(first: pd.Series, second: pd.Series, truth: pd.Series, groups: pd.Series) -> tuple[float, float, float]:
    """Difference of two scores' rank correlations with a truth, and its 95 % jackknife limits over paired groups."""
    known = first.notna() & second.notna() & truth.notna()
    scores, harm = np.stack([first[known], second[known]]), truth[known].to_numpy()
    if len(harm) < 2:
        return (np.nan,) * 3

    def difference(rows: np.ndarray | slice) -> float:
        one, other = rank_correlation(scores[:, rows], harm[rows])
        return float(one - other)

    found, half = difference(slice(None)), jackknife(difference, groups[known])
    return found, found - half, found + half


def trusted(agreement: pd.DataFrame) -> pd.DataFrame:
    """DataFrame with scores as rows, for all sources and without own labels, and truths as columns: rho, its limits.

    The corner names what the limits are over.
    """
    table = agreement.assign(
        score=agreement["score"].map(lambda name: SCORES[name].label),
        words=[f"{row.rho:+.2f} [{row.low:+.2f}, {row.high:+.2f}] {row.verdict}" for row in agreement.itertuples()],
    )
    rows, order = ["network", "sources", "score"], [each for each in TRUTHS if each in set(table["truth"])]
    wide = table.pivot(index=rows, columns="truth", values="words")[order]
    corner = f"95 % over {table['over'].iloc[0]}"
    return wide.reindex(table.set_index(rows).index.unique()).fillna("").rename_axis(columns=corner)


# ---------------------------------------------------------------- distances and their nulls


def _trios(run: Run, seed: int) -> dict[str, dict[str, dict[str, Any]]]:
    """{start: {target, source or other seed: arguments of `networks.model`}}."""
    other = grid.seeds(run, "distances and their nulls")[1][0]
    given = (grid.target(seed), grid.source(other, seed), grid.other_seed(other, seed))
    shared = dict(zip(("target", *OTHERS), given, strict=True))
    alone = {label: each | {"start": "independent", "common": None} for label, each in shared.items()}
    return {"shared": shared, "independent": alone}


def distances(run: Run, network: str, seed: int) -> Job:
    """RMSE of kernels beside what independent movement gives, and after aligning channels.

    Args:
        run: of the chapter; it is brought to the chapter's scale, see `grid.scaled`.
        network: unet or pspnet.
        seed: of the target.

    Returns:
        The job of DataFrame[start, other, layer, name, rmse, relative, apart, null, ratio, aligned].
    """
    run = grid.scaled(run)
    trios = _trios(run, seed)
    models, starts = (
        {start: {label: of(run, network, **each) for label, each in three.items()} for start, three in trios.items()}
        for of in (networks.model, networks.start)
    )
    return run.job(distances_and_nulls, "distances", models=models, starts=starts, slices=run.data("acdc"))


def distances_and_nulls(
    models: dict[str, dict[str, nn.Module]], starts: dict[str, dict[str, nn.Module]], slices: Slices, device: str
) -> pd.DataFrame:
    """See `distances`."""
    example, parts = slices.images[:1].to(device), []
    for start, label in itertools.product(models, OTHERS):
        pair, begun = ({name: each[start][name] for name in ("target", label)} for each in (models, starts))
        found = sources.between(pair, begun, example)
        found = found[found["kind"] == "W"].assign(start=start, other=label)
        parts.append(found.merge(aligned(*pair.values()), how="left"))
    table = pd.concat(parts, ignore_index=True).assign(ratio=lambda table: table["rmse"] / table["null"])
    return table[["start", "other", "layer", "name", "rmse", "relative", "apart", "null", "ratio", "aligned"]]


def apart(run: Run, network: str) -> Job:
    """The job of DataFrame[network, target, start, other, ..., aligned]: `distances` of all targets."""
    targets = grid.seeds(run, "distances and their nulls")[0]
    return stack(({"network": network, "target": seed}, distances(run, network, seed)) for seed in targets)


def apart_means(apart: pd.DataFrame) -> pd.DataFrame:
    """DataFrame[network, start, other, rmse, null, ratio, relative, aligned], means over kernels and targets."""
    columns = ["rmse", "null", "ratio", "relative", "aligned"]
    return apart.groupby(["network", "start", "other"], sort=False)[columns].mean().reset_index()


# ---------------------------------------------------------------- words


def apart_in_words(means: pd.DataFrame) -> Words:
    """What is left of a distance once its null and the order of channels are taken off.

    Args:
        means: from `apart_means`.
    """
    lines = []
    for (network, start), part in means.groupby(["network", "start"], sort=False):
        told = [_beside_null(row) for row in part.itertuples()]
        saved = 1 - part["aligned"].mean() / part["relative"].mean()
        told.append(f"Aligning channels takes {f'{saved:.0%}' if saved >= 0.005 else 'nothing'} off.")
        lines.append(f"- **{TITLES[network]}, {start} start**: {' '.join(told)}")
    return Words("\n".join(lines))


def _beside_null(row: tuple) -> str:
    """A distance against what unrelated movement gives."""
    near, far = row.ratio < TOLERANCES["nearness"], row.ratio > 1 / TOLERANCES["nearness"]
    place = "nearer than" if near else "farther than" if far else "about as far as"
    return f"The {row.other} ends {place} unrelated movement leads, at {row.ratio:.2f} of that distance."


def in_words(agreement: pd.DataFrame) -> Words:
    """Which score to trust for which question, and whether RMSE beats the source's training length.

    Args:
        agreement: from `agreement`, of one or more networks.
    """
    lines = []
    for (network, truth), part in agreement.groupby(["network", "truth"], sort=False):
        every, others = (part[part["sources"] == kept].set_index("score") for kept in (ALL, OTHERS_ALONE))
        told = [*_found(every), *_without_own(every, others), _beyond_training(every.loc["relative"])]
        lines.append(f"- **{TITLES[network]}, {truth}**: {' '.join(told)}")
    return Words("\n".join(lines))


def _found(at: pd.DataFrame) -> list[str]:
    """What predicts and what misleads, the strongest of each with its interval."""
    if at["low"].isna().all():
        return [f"With {at['groups'].iloc[0]} groups of sources there are no limits, so nothing is decided."]
    told = []
    for says in (PREDICTS, MISLEADS):
        some = at.loc[at["verdict"] == says, "rho"].abs().sort_values(ascending=False).index
        if len(some):
            told.append(f"{_name(some[0])} {says}: {_limits(at.loc[some[0]])}.")
        if len(some) > 1:
            told.append(f"So {'does' if len(some) == 2 else 'do'} {len(some) - 1} of the other {len(at) - 1} scores.")
    if not (at["verdict"] == PREDICTS).any():
        highest = at["rho"].idxmax()
        told.insert(0, f"No score predicts, not even {_name(highest)}: {_limits(at.loc[highest])}.")
    return told


def _without_own(every: pd.DataFrame, others: pd.DataFrame) -> list[str]:
    """Where leaving out the sources with the target's own labels changes the answer."""
    left_out = "Without the sources that had the target's own labels"
    if others["low"].isna().all():
        return [f"{left_out} too few groups are left for limits."]
    before, after = (at["verdict"].where(at["verdict"].isin([PREDICTS, MISLEADS]), OPEN) for at in (every, others))
    changed = (every["rho"] - others["rho"]).abs()[before != after]
    if changed.empty:
        return [f"{left_out} this stays."]
    most = changed.idxmax()
    says = {WEAK: "is weak", OPEN: "is undecided"}.get(others.loc[most, "verdict"], others.loc[most, "verdict"])
    return [
        f"{left_out} the answer changes for {len(changed)} of {len(every)} scores.",
        f"{_name(most)} then {says}: {_limits(others.loc[most])}.",
    ]


def _beyond_training(row: pd.Series) -> str:
    """Whether an order by relative RMSE says more than how far the sources have trained."""
    better, worse = row["beyond_low"] > 0, row["beyond_high"] < 0
    ranks = "better" if better else "worse" if worse else "neither better nor worse, for certain,"
    by = ranged(row["beyond"], row["beyond_low"], row["beyond_high"], row["over"])
    return f"Relative RMSE ranks {ranks} than {SCORES[BASELINE].label}: {by}."


def _name(score: str) -> str:
    """A score at the head of a sentence, without what its sign means."""
    label = SCORES[score].label.partition(" (")[0]
    return label[0].upper() + label[1:]


def _limits(row: pd.Series) -> str:
    return ranged(row["rho"], row["low"], row["high"], row["over"])
