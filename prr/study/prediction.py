"""Which cheap number predicts what a transplant costs, and what a fine-tuned network reaches."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn

from prr import bn, predictors
from prr.data import Slices
from prr.distance import rmse
from prr.metrics import nanmean
from prr.predictors import rank_agreement, rank_correlation
from prr.reuse import device_of
from prr.study import grid, networks, prefixes, sources, transplants
from prr.study.backbones import ARCHITECTURES
from prr.study.display import Words
from prr.study.jobs import Job, derived, stack
from prr.study.models import TITLES
from prr.study.run import Run

RESAMPLES = 1000


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
LAYER, KERNELS, TUNED = "which layer", "which source: kernels", "which source: fine-tuned"
TRUTHS = {
    LAYER: "drop of each kernel, ranked within each source",
    KERNELS: "mean drop of a source's kernels",
    TUNED: "Dice that is lost after fine-tuning on few patients",
}
PREDICTS, MISLEADS, OPEN = "predicts", "misleads", "undecided"
OTHERS = ("source", "other seed")  # networks whose distance from the target is taken
SOURCE = ["network", "target", "label"]  # what names a source


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
    """(labels, arguments of `networks.model`) of every source of every target."""
    targets = grid.seeds(run, grid.RANKED)[0]
    each = ((seed, *pair) for seed in targets for pair in candidates(run, seed).items())
    return [({"network": network, "target": seed, "label": label}, giver) for seed, label, giver in each]


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
        The job of DataFrame[network, target, label, ..., drop]: the columns of `source_scores`, and the mean drop over
        validation patients.
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
        The job of DataFrame[network, target, label, scores (means over kernels), drop, dice]: drop, mean over kernels;
        dice: after fine-tuning, mean over draws and patients.
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
        DataFrame[network, truth, score, rho, low, high, over, over_low, over_high, verdict]. 95 % bootstrap limits over
        sources, each score by itself. Ranks are taken within each target, and for "which layer" within each source.
        over: rho minus that of the baseline, how far the source has trained. verdict: predicts where low is above 0,
        misleads where high is below.
    """
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
        harm = table.groupby(within)[column].rank(pct=True)
        for name, ranked in ranks.items():
            found = rank_agreement(ranked, harm, table["label"])
            over = [np.nan] * 3 if name == BASELINE else gap(ranked, ranks[BASELINE], harm, table["label"])
            rows.append((truth, name, *found, *over, _verdict(*found[1:])))
    columns = ["truth", "score", "rho", "low", "high", "over", "over_low", "over_high", "verdict"]
    found = pd.DataFrame(rows, columns=columns)
    found.insert(0, "network", layers["network"].iloc[0])
    return found


def _verdict(low: float, high: float) -> str:
    return PREDICTS if low > 0 else MISLEADS if high < 0 else OPEN


def gap(first: pd.Series, second: pd.Series, truth: pd.Series, groups: pd.Series) -> tuple[float, float, float]:
    """Difference of two scores' rank correlations with a truth, and its 95 % bootstrap limits over paired groups."""
    known = first.notna() & second.notna() & truth.notna()
    scores, harm = np.stack([first[known], second[known]]), truth[known].to_numpy()
    members = [np.flatnonzero(groups[known] == each) for each in groups[known].unique()]

    def difference(drawn: Iterable[int]) -> float:
        rows = np.concatenate([members[each] for each in drawn])
        one, other = rank_correlation(scores[:, rows], harm[rows])
        return float(one - other)

    if len(members) < 4:
        return difference(range(len(members))) if members else np.nan, np.nan, np.nan
    rng = np.random.default_rng(0)
    drawn = [difference(rng.integers(len(members), size=len(members))) for _ in range(RESAMPLES)]
    return difference(range(len(members))), *np.quantile(drawn, [0.025, 0.975]).tolist()


def trusted(agreement: pd.DataFrame) -> pd.DataFrame:
    """DataFrame with scores as rows and truths as columns: rho with its limits, and what they say."""
    table = agreement.assign(
        score=agreement["score"].map(lambda name: SCORES[name].label),
        words=[f"{row.rho:+.2f} [{row.low:+.2f}, {row.high:+.2f}] {row.verdict}" for row in agreement.itertuples()],
    )
    order = [each for each in TRUTHS if each in set(table["truth"])]
    wide = table.pivot(index=["network", "score"], columns="truth", values="words")[order]
    return wide.reindex(table.set_index(["network", "score"]).index.unique()).fillna("").rename_axis(columns=None)


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
    lines = [
        f"- **{TITLES[row.network]}, {row.start} start, {row.other}**: RMSE is {row.ratio:.2f} times its null; "
        f"relative {row.relative:.2f}, after aligning channels {row.aligned:.2f}."
        for row in means.itertuples()
    ]
    return Words("\n".join(lines))


def in_words(agreement: pd.DataFrame) -> Words:
    """Which score to trust for which question, and whether RMSE beats the source's training length.

    Args:
        agreement: from `agreement`, of one or more networks.
    """
    lines = []
    for (network, truth), part in agreement.groupby(["network", "truth"], sort=False):
        at = part.set_index("score")
        good = [SCORES[name].label for name in at.index[at["verdict"] == PREDICTS]]
        bad = [SCORES[name].label for name in at.index[at["verdict"] == MISLEADS]]
        best, row = at["rho"].idxmax(), at.loc["relative"]
        beats = (
            "is better than"
            if row["over_low"] > 0
            else "is worse than"
            if row["over_high"] < 0
            else "can't be told from"
        )
        lines.append(
            f"- **{TITLES[network]}, {truth}** ({TRUTHS[truth]}): predict: {', '.join(good) or 'none'}; mislead: "
            f"{', '.join(bad) or 'none'}. Highest is {SCORES[best].label}, {at.loc[best, 'rho']:+.2f}. The order by "
            f"relative RMSE {beats} the order by how far the source has trained: {row['over']:+.2f} "
            f"[{row['over_low']:+.2f}, {row['over_high']:+.2f}]."
        )
    return Words("\n".join(lines))
