"""Which cheap number predicts what a transplant costs, and what a fine-tuned network reaches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn

from prr import bn, predictors
from prr.distance import rmse
from prr.figures import Words
from prr.metrics import nanmean
from prr.predictors import rank_agreement, rank_correlation
from prr.study import grid, inputs, prefixes, sources
from prr.study.jobs import Call
from prr.study.models import TITLES
from prr.study.store import digest
from prr.study.transfer import draw

if TYPE_CHECKING:
    from prr.study.experiment import Experiment

# Goes into every stored table's key: raise it when a change here or in predictors.py changes what a score is.
RECIPE = 1
BEFORE_CLASSIFIER = {"unet": "up.3.block", "pspnet": "fuse"}
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


# ---------------------------------------------------------------- sources


def candidates(run: Experiment, common: int) -> dict[str, dict[str, Any]]:
    """Twenty sources for the target of a seed: three data sets by two tasks, trained fully, shortly or on few patients.

    All begin where the target began. "few": a quarter of the data set's training patients; "short": a quarter of the
    steps; "again": another seed.
    """
    first = grid.AGAIN + run.seed
    found = {}
    for label, (dataset, task) in sources.SIX.items():
        some = max(1, inputs.training_patients(run, dataset) // 4)
        variants = {"": {}, ", short": {"steps": grid.short(run)}, ", few": {"patients": some}}
        for words, options in variants.items():
            found[label + words] = grid.source(first, common, dataset, task, **options)
        if dataset == "acdc":
            found[f"{label}, again"] = grid.source(first + 1, common, dataset, task)
    return found


def calls(run: Experiment, network: str) -> Iterator[Call]:
    """The drops, the scores and the fine-tuned networks of all sources."""
    for seed in grid.seeds(run, grid.RANKED)[0]:
        for label, giver in candidates(run, seed).items():
            yield run, "drops", {"network": network, "target": grid.target(seed), "source": giver}
            yield run, "scored", {"network": network, "seed": seed, "label": label}
            for drawn in draws(run):
                yield run, "fine_tuned", {"network": network, "seed": seed, "label": label, "drawn": drawn}


def draws(run: Experiment) -> list[int]:
    """Seeds of the draws of few patients, each with a fresh start of its own."""
    return grid.seeds(run, grid.RANKED)[1]


# ---------------------------------------------------------------- scores


def scored(run: Experiment, network: str, seed: int, label: str) -> pd.DataFrame:
    """Every cheap score of one source for one target, from the store or measured now.

    RMSE, batch norms and CKA compare the source with the target, which was trained on all patients. CKA, LogME and the
    H-score see the images, and the last two the masks, of the profile's few patients; the last two need no target.

    Args:
        run: at the scale of the chapter.
        network: unet or pspnet.
        seed: of the target.
        label: of the source, see `candidates`.

    Returns:
        DataFrame[network, target, label, layer, name, rmse, relative, aligned, ratio, travelled, norms, cka, logme,
        h_score], a row for each live kernel; norms: root of the summed squares of `prr.shift_scale`'s rms columns of
        the batch norm behind it, NaN where there is none; the last two are of the whole source.
    """
    judged, giver = grid.target(seed), candidates(run, seed)[label]
    keys = [run.key(network, **each) for each in (judged, giver)]
    few = run.profile.few_patients

    def make() -> tuple[pd.DataFrame, dict]:
        models = {"target": run.model(network, **judged), "source": run.model(network, **giver)}
        starts = dict.fromkeys(models, run.start(network, **judged))  # in common
        return numbers(models, starts, draw(run.slices("acdc"), few, run.seed).train, BEFORE_CLASSIFIER[network]), {}

    key = {"table": "scored", "recipe": run.recipes["prediction"], "few": few, "seed": run.seed}
    key |= {"pair": [digest(each) for each in keys]}
    found = run.kept(key, [keys[1], keys[0]], "scores of a source", make)[0]
    return pd.DataFrame({"network": network, "target": seed, "label": label}, found.index).join(found)


def numbers(
    models: dict[str, nn.Module], starts: dict[str, nn.Module], seen, features: str
) -> pd.DataFrame:  # fmt: skip
    """The scores of `scored`, of any two networks with their starts."""
    target, source = models["target"], models["source"]
    example = seen.images[:1].to(next(target.parameters()).device)
    table = sources.between(models, starts, example)
    table = table[table["kind"] == "W"].rename(columns={"travelled_second": "travelled"})
    table = table.assign(ratio=table["rmse"] / table["null"])[
        ["layer", "name", "rmse", "relative", "ratio", "travelled"]
    ]
    distances = rmse(target, source, align=True)
    table = table.merge(distances.loc[distances["kind"] == "W", ["name", "aligned"]], how="left")
    table["norms"] = table["name"].map(norms(target, source, example))
    table = table.merge(predictors.layer_similarity(target, source, seen)[["name", "cka"]], how="left")
    pixels = predictors.pixels(source, features, seen)
    return table.assign(logme=predictors.logme(*pixels), h_score=predictors.h_score(*pixels))


def norms(target: nn.Module, source: nn.Module, example: torch.Tensor) -> dict[str, float]:
    """{convolution: change of the output by the batch norm behind it, all four vectors together}."""
    table = prefixes.units(target, example)
    kernels = table[table["kind"] == "W"].set_index("unit")["name"]
    behind = table[table["kind"] == "RM"].drop_duplicates("unit").set_index("name")["unit"].map(kernels)
    change = bn.shift_scale(target, source).set_index("name")[["rms_RM", "rms_RV", "rms_RW", "rms_RB"]]
    size = np.sqrt((change**2).sum(axis=1))
    return {behind[name]: value for name, value in size.items() if name in behind.index}


# ---------------------------------------------------------------- truths


def fine_tuned(run: Experiment, network: str, seed: int, label: str, drawn: int) -> pd.DataFrame:
    """Load all but the classifier from a source, train all of it shortly on few patients; from the store or now.

    Args:
        run: at the scale of the chapter.
        network: unet or pspnet.
        seed: of the target whose start the sources share.
        label: of the source.
        drawn: seed of the few patients, of the fresh start, order and augmentation: the same for all sources.

    Returns:
        DataFrame[network, target, label, drawn, patient, dice].
    """
    giver, few = candidates(run, seed)[label], run.profile.few_patients
    key = run.key(network, "acdc", "segmentation", "independent", drawn, few, steps=grid.short(run))
    source = run.key(network, **giver)
    key |= {"table": "fine-tuned", "source": digest(source)}
    key |= {"fine-tuned recipe": [run.recipes["prefixes"], run.recipes["reuse"]]}

    def make() -> tuple[pd.DataFrame, dict]:
        data = draw(run.slices("acdc"), few, drawn)
        model, example = prefixes.fresh(run, network, "fine-tuned", drawn), data.images[:1].to(run.device)
        behind = prefixes.units(model.eval(), example)["unit"].max() - 1
        model = prefixes.loaded(model, run.model(network, **giver), example, behind, "source", False)
        return prefixes.trained(model, data, key, run.progress), {}

    found = run.kept(key, [key, source], "fine-tuned on few patients", make)[0]
    labels = {"network": network, "target": seed, "label": label, "drawn": drawn}
    return pd.DataFrame(labels, found.index).join(found)


def layers(run: Experiment, network: str) -> pd.DataFrame:
    """Scores and drops of every kernel of every source.

    Returns:
        DataFrame with the columns of `scored` and `drop`, the mean over validation patients.
    """
    parts = []
    for seed in grid.seeds(run, grid.RANKED)[0]:
        for label, giver in candidates(run, seed).items():
            drop = run.drops(network, grid.target(seed), giver).groupby("name")["drop"].mean()
            found = run.scored(network=network, seed=seed, label=label)
            parts.append(found.assign(drop=found["name"].map(drop)))
    return pd.concat(parts, ignore_index=True)


def by_source(run: Experiment, layers: pd.DataFrame) -> pd.DataFrame:
    """Scores and both truths of every source.

    Args:
        run: as that of `layers`.
        layers: from `layers`, of one network.

    Returns:
        DataFrame[network, target, label, scores (means over kernels), drop, dice]: drop, mean over kernels; dice: after
        fine-tuning, mean over draws and patients.
    """
    network = layers["network"].iloc[0]
    table = layers.groupby(["network", "target", "label"], sort=False)[[*SCORES, "drop"]].mean().reset_index()
    table["dice"] = [
        np.mean([
            nanmean(run.fine_tuned(network=network, seed=seed, label=label, drawn=drawn)["dice"].to_numpy())
            for drawn in draws(run)
        ])
        for seed, label in table[["target", "label"]].itertuples(index=False)
    ]  # fmt: skip
    return table


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


def apart_networks(run: Experiment) -> Iterator[dict[str, Any]]:
    """Arguments of `Experiment.model` for the pairs whose distance is taken, from a shared and an independent start."""
    for seed in grid.seeds(run, "distances and their nulls")[0]:
        for _, (judged, others) in _pairs(run, seed).items():
            yield from (judged, *others.values())


def _pairs(run: Experiment, seed: int) -> dict[str, tuple[dict, dict[str, dict]]]:
    """{start: (target, {label: other network})}."""
    other = grid.seeds(run, "distances and their nulls")[1][0]
    shared = {"source": grid.source(other, seed), "other seed": grid.again(other, seed)}
    alone = {
        label: {name: value for name, value in each.items() if name != "common"} | {"start": "independent"}
        for label, each in shared.items()
    }
    return {"shared": (grid.target(seed), shared), "independent": (grid.target(seed) | {"start": "independent"}, alone)}


def distances_calls(run: Experiment, network: str) -> Iterator[Call]:
    """One for each target."""
    for seed in grid.seeds(run, "distances and their nulls")[0]:
        yield run, "distances", {"network": network, "seed": seed}


def distances(run: Experiment, network: str, seed: int) -> pd.DataFrame:
    """RMSE of kernels beside what independent movement gives, and after aligning channels; from the store or now.

    Returns:
        DataFrame[network, target, start, other, layer, name, rmse, relative, apart, null, ratio, aligned].
    """
    pairs = _pairs(run, seed)
    keys = [run.key(network, **each) for judged, others in pairs.values() for each in (judged, *others.values())]

    def make() -> tuple[pd.DataFrame, dict]:
        example, parts = run.slices("acdc").images[:1].to(run.device), []
        for start, (judged, others) in pairs.items():
            model, begun = run.model(network, **judged), run.start(network, **judged)
            for label, each in others.items():
                models = {"target": model, "other": run.model(network, **each)}
                found = sources.between(models, {"target": begun, "other": run.start(network, **each)}, example)
                found = found[found["kind"] == "W"].assign(start=start, other=label)
                moved = rmse(*models.values(), align=True)
                parts.append(found.merge(moved.loc[moved["kind"] == "W", ["name", "aligned"]], how="left"))
        table = pd.concat(parts, ignore_index=True).assign(ratio=lambda table: table["rmse"] / table["null"])
        columns = ["start", "other", "layer", "name", "rmse", "relative", "apart", "null", "ratio", "aligned"]
        return table[columns], {}

    key = {"table": "distances", "recipe": run.recipes["prediction"], "networks": [digest(each) for each in keys]}
    found = run.kept(key, keys, "distances", make)[0]
    return pd.DataFrame({"network": network, "target": seed}, found.index).join(found)


def apart(run: Experiment, network: str) -> pd.DataFrame:
    """`distances` of all targets."""
    return pd.concat([run.distances(**arguments) for _, _, arguments in distances_calls(run, network)])


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
