"""Six networks of one architecture, three data sets by two tasks: how far apart they are, and which is nearest.

In every table of pairs the target is the first of the first pair.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import torch
from scipy import stats
from scipy.cluster.hierarchy import cut_tree, linkage
from scipy.spatial.distance import pdist, squareform
from sklearn import config_context
from sklearn.metrics import silhouette_score
from torch import nn

from prr.data import Slices
from prr.errors import OptionError
from prr.layers import comparable, entries, parameter_table
from prr.study import networks, paper
from prr.study.display import Words, ranged
from prr.study.jobs import Job, derived, stack
from prr.study.models import TITLES
from prr.study.run import Run

COUNTS = range(2, 7)  # of groups
RUN, PAIR, LAYER = ["network", "seed"], ["first", "second"], ["kind", "layer", "name"]
NUMBERS = ["rmse", "relative", "relative_second", "travelled_first", "travelled_second", "apart", "null"]


def pairs(run: Run, network: str, seed: int | None = None, patients: int | None = None) -> Job:
    """RMSE between every two of the six networks, and the null beside it.

    Args:
        run: profile, data and seed.
        network: unet or pspnet.
        seed: None: the run's.
        patients: n of the target's training, drawn by the seed; None: all. The other five networks are trained on all
            of theirs.

    Returns:
        The job of the table of `between`.

    Raises:
        OptionError: an unknown network.
    """
    six = networks.six(run)
    target = next(iter(six))
    models = {
        label: networks.model(run, network, *each, seed=seed, patients=patients if label == target else None)
        for label, each in six.items()
    }
    starts = {label: networks.start(run, network, *each, seed=seed) for label, each in six.items()}
    return run.job(measured, "distances of pairs", models=models, starts=starts, slices=run.data("acdc"))


def measured(models: dict[str, nn.Module], starts: dict[str, nn.Module], slices: Slices, device: str) -> pd.DataFrame:
    """See `pairs`."""
    return between(models, starts, slices.images[:1].to(device))


def over_seeds(run: Run, network: str, patients: int | None = None) -> Job:
    """`pairs` of all the run's seeds: the job of DataFrame[network, seed, ...] with the columns of `between`."""
    return stack(({"network": network, "seed": seed}, pairs(run, network, seed, patients)) for seed in run.seeds)


def few(run: Run, network: str) -> Job:
    """`ranking` against a target that was trained on the profile's few patients, from the same start."""
    return run.job(ranking, pairs=over_seeds(run, network, run.few_patients))


def between(models: dict[str, nn.Module], starts: dict[str, nn.Module], example: torch.Tensor) -> pd.DataFrame:
    """RMSE between every two networks, layer by layer, beside how far each has come from its own start.

    Args:
        models: {label: trained network}; same layers and shapes.
        starts: {label: the same network before training}.
        example: input, (1, channels, h, w): layers that do not run on it are left out.

    Returns:
        DataFrame[first, second, kind, layer, name, rmse, relative, relative_second, travelled_first, travelled_second,
        apart, null], kinds W and B. relative: rmse over the rms of the first's weights; relative_second: of the
        second's; travelled: RMSE of a network from its own start; apart: RMSE between the two starts; null =
        sqrt(apart^2 + travelled_first^2 + travelled_second^2): the RMSE of two that moved in unrelated directions.

    Raises:
        NetworkError: networks that do not match, NaN or infinite weights.
    """
    target = next(iter(models.values()))
    table = parameter_table(target, example)
    live = table.loc[table["live"] & table["kind"].isin(["W", "B"]), LAYER].reset_index(drop=True)
    ends, begins = ({label: _tensors(target, each) for label, each in some.items()} for some in (models, starts))
    layers = [
        _distances(*({label: some[label][kind, name].double() for label in models} for some in (ends, begins)))
        for kind, name in live[["kind", "name"]].itertuples(index=False)
    ]
    pairs = itertools.combinations(models, 2)
    parts = [
        pd.concat([live.assign(first=first, second=second), pd.DataFrame(numbers, columns=NUMBERS)], axis=1)
        for (first, second), *numbers in zip(pairs, *layers, strict=True)
    ]
    return pd.concat(parts, ignore_index=True)[[*PAIR, *LAYER, *NUMBERS]]


def _tensors(target: nn.Module, model: nn.Module) -> dict[tuple[str, str], torch.Tensor]:
    """All tensors of a network that matches the target: `prr.rmse` would check and read it again for each pair."""
    comparable(target, model)
    return {(kind, name): _laid_out(value) for kind, _, name, value in entries(model)}


def _laid_out(value: torch.Tensor) -> torch.Tensor:
    """On the CPU, a kernel in the order in which trained networks keep it: last digits of a sum follow the order."""
    value = value.detach().cpu()
    return value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value


def _distances(ends: dict[str, torch.Tensor], begins: dict[str, torch.Tensor]) -> list[tuple[float, ...]]:
    """NUMBERS of every two networks in one layer."""
    scale = {label: _rms(value) for label, value in ends.items()}
    travelled = {label: _rms(value - begins[label]) for label, value in ends.items()}
    found = []
    for first, second in itertools.combinations(ends, 2):
        error, apart = _rms(ends[second] - ends[first]), _rms(begins[second] - begins[first])
        null = np.sqrt(apart**2 + travelled[first] ** 2 + travelled[second] ** 2)
        with np.errstate(divide="ignore", invalid="ignore"):  # biases that are all zero
            relative = error / scale[first], error / scale[second]
        found.append((error, *relative, travelled[first], travelled[second], apart, null))
    return found


def _rms(values: torch.Tensor) -> np.float64:
    return np.sqrt(values.square().mean().numpy())


def target_of(pairs: pd.DataFrame) -> str:
    """The label of the target."""
    return pairs["first"].iloc[0]


@derived
def ranking(pairs: pd.DataFrame) -> pd.DataFrame:
    """The five sources against the target, nearest first.

    Args:
        pairs: from `over_seeds`.

    Returns:
        DataFrame[network, seed, source, rmse, relative, null, travelled, rank]: means over the kernels W; travelled:
        the source's own way from its start; rank 1 has the smallest relative RMSE.
    """
    ours = pairs[(pairs["first"] == target_of(pairs)) & (pairs["kind"] == "W")]
    ours = ours.rename(columns={"second": "source", "travelled_second": "travelled"})
    table = ours.groupby([*RUN, "source"])[["rmse", "relative", "null", "travelled"]].mean().reset_index()
    table["rank"] = table.groupby(RUN)["relative"].rank(method="min").astype(int)
    return table.sort_values([*RUN, "rank"], ignore_index=True)


def ratios(pairs: pd.DataFrame) -> pd.DataFrame:
    """DataFrame[network, seed, first, second, rmse, null, ratio], means over W: ratio 1 says unrelated directions.

    Below 1 the two have moved alike, above 1 apart. `ratio` is the mean over layers of rmse / null.
    """
    kernels = pairs[pairs["kind"] == "W"].assign(ratio=lambda table: table["rmse"] / table["null"])
    return kernels.groupby([*RUN, *PAIR], sort=False)[["rmse", "null", "ratio"]].mean().reset_index()


def travel(pairs: pd.DataFrame) -> pd.DataFrame:
    """How much of an order by RMSE is only the order by the way that each network has gone.

    Args:
        pairs: from `over_seeds`.

    Returns:
        DataFrame[network, seed, among, count, correlation, smallest, largest]: Spearman's correlation of rmse with null
        among the five sources of the target, and among all pairs; smallest and largest ratio of the two.
    """
    table, rows, target = ratios(pairs), [], target_of(pairs)
    for run, part in table.groupby(RUN):
        for among, some in (("sources", part[part["first"] == target]), ("pairs", part)):
            correlation = stats.spearmanr(some["rmse"], some["null"]).statistic
            rows.append((*run, among, len(some), correlation, some["ratio"].min(), some["ratio"].max()))
    return pd.DataFrame(rows, columns=[*RUN, "among", "count", "correlation", "smallest", "largest"])


def matrix(pairs: pd.DataFrame, network: str) -> pd.DataFrame:
    """Mean relative RMSE of every two networks, the same both ways: over the root of the product of both rms.

    Args:
        pairs: from `over_seeds`; means over W and over seeds.
        network: unet or pspnet.

    Returns:
        DataFrame with the six labels as index and columns, 0 on the diagonal.
    """
    kernels = pairs[(pairs["network"] == network) & (pairs["kind"] == "W")]
    value = np.sqrt(kernels["relative"] * kernels["relative_second"])  # the geometric mean of both relatives
    means = value.groupby([kernels["first"], kernels["second"]]).mean()
    labels = list(dict.fromkeys([*kernels["first"], *kernels["second"]]))
    upper = means.unstack().reindex(index=labels, columns=labels).fillna(0)
    return (upper + upper.T).rename_axis(index=None, columns=None)


def stability(ranking: pd.DataFrame) -> pd.DataFrame:
    """Each source over the seeds, ranked only as far as the seeds agree.

    Two sources are told apart where the 95 % t interval over seeds of their paired difference leaves 0 out, each
    difference by itself; one seed tells nothing apart.

    Args:
        ranking: from `ranking`.

    Returns:
        DataFrame[network, source, relative, low, high, over, best, worst, seeds]: mean relative RMSE with its 95 % t
        interval over seeds (NaN with one seed); best, worst: the ranks that are left open, 1 + the sources that are
        certainly nearer, and the number of sources - those that are certainly farther.
    """
    tables = []
    for network, part in ranking.groupby("network"):
        relative = part.pivot(index="seed", columns="source", values="relative")
        relative = relative[relative.mean().sort_values().index]
        half = _half(relative)
        nearer = pd.DataFrame({source: (relative.sub(relative[source], axis=0).pipe(_top) < 0) for source in relative})
        tables.append(pd.DataFrame({
            "network": network, "source": relative.columns, "relative": relative.mean(), "low": relative.mean() - half,
            "high": relative.mean() + half, "over": "seeds" if len(relative) > 1 else "", "best": 1 + nearer.sum(),
            "worst": len(half) - nearer.sum(axis=1), "seeds": len(relative),
        }))  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def _top(values: pd.DataFrame) -> pd.Series:
    """Upper 95 % t limit over seeds of each column; NaN with one seed."""
    return values.mean() + _half(values)


def _half(values: pd.DataFrame) -> pd.Series:
    """Half a 95 % t interval over seeds of each column; NaN with one seed."""
    return stats.t.ppf(0.975, len(values) - 1) * values.sem() if len(values) > 1 else values.mean() * np.nan


def agreement(ranking: pd.DataFrame) -> pd.DataFrame:
    """DataFrame[network, seed, other, tau]: Kendall's tau of the orders of every two seeds; empty with one seed."""
    rows = []
    for network, part in ranking.groupby("network"):
        wide = part.pivot(index="source", columns="seed", values="relative")
        for seed, other in itertools.combinations(wide, 2):
            rows.append((network, seed, other, stats.kendalltau(wide[seed], wide[other]).statistic))
    return pd.DataFrame(rows, columns=["network", "seed", "other", "tau"])


def with_few_patients(full: pd.DataFrame, few: pd.DataFrame) -> pd.DataFrame:
    """DataFrame[network, seed, source, relative_full, rank_full, relative_few, rank_few]: two of `ranking`, joined."""
    columns = [*RUN, "source", "relative", "rank"]
    return full[columns].merge(few[columns], on=[*RUN, "source"], suffixes=("_full", "_few"), validate="1:1")


# ---------------------------------------------------------------------- groups


def groups(pairs: pd.DataFrame, network: str) -> pd.DataFrame:
    """Into how many groups the curves of RMSE over layers fall.

    Args:
        pairs: from `over_seeds`; log RMSE of W, mean over seeds, clustered by average linkage.
        network: unet or pspnet.

    Returns:
        DataFrame[groups, silhouette] for 2 to 6 groups: silhouette near 1 is well apart, near 0 no groups at all. One
        group has no silhouette, so a best number of groups is found in any case: look at its silhouette.
    """
    curves = _curves(pairs, network)
    counts = [count for count in COUNTS if count < len(curves)]
    return pd.DataFrame({"groups": counts, "silhouette": _silhouettes(curves.to_numpy(), counts)})


def null_silhouettes(pairs: pd.DataFrame, network: str, draws: int = 200) -> np.ndarray:
    """Largest silhouettes of n curves drawn from one normal cloud of the mean and covariance of the n at hand.

    Clustering finds groups in any cloud: a silhouette means groups only where it exceeds what such a cloud gives.

    Source: parametric bootstrap; Liu, Hayes, Nobel and Marron 2008, Statistical significance of clustering (SigClust).
    """
    curves, rng = _curves(pairs, network).to_numpy(), np.random.default_rng(0)
    mean, spread = curves.mean(axis=0), (curves - curves.mean(axis=0)) / np.sqrt(len(curves) - 1)
    clouds = (mean + rng.normal(size=(len(curves), len(curves))) @ spread for _ in range(draws))
    return np.array([max(_silhouettes(each, COUNTS)) for each in clouds])


def members(pairs: pd.DataFrame, network: str, count: int | None = None) -> pd.DataFrame:
    """Which pair falls into which group.

    Args:
        pairs: see `groups`.
        network: unet or pspnet.
        count: of groups; None: the one with the largest silhouette.

    Returns:
        DataFrame[first, second, group, rmse]: group 1 has the smallest RMSE; rmse: geometric mean over W and seeds.

    Raises:
        OptionError: more groups than curves.
    """
    curves = _curves(pairs, network)
    if count is None:
        found = groups(pairs, network)
        count = int(found.loc[found["silhouette"].idxmax(), "groups"])
    if not 1 <= count <= len(curves):
        raise OptionError(f"count={count}: expected 1 to {len(curves)} groups, as many as there are curves at most")
    labels = cut_tree(linkage(curves, "average"), count)[:, 0]
    table = pd.DataFrame({"group": labels, "rmse": np.exp(curves.mean(axis=1))}).reset_index()
    table["group"] = table.groupby("group")["rmse"].transform("mean").rank(method="dense").astype(int)
    return table.sort_values(["group", "rmse"], ignore_index=True)


def _curves(pairs: pd.DataFrame, network: str) -> pd.DataFrame:
    """A row per pair: log RMSE of each kernel, mean over seeds."""
    kernels = pairs[(pairs["network"] == network) & (pairs["kind"] == "W")]
    log = np.log(kernels["rmse"].clip(lower=1e-12))  # two kernels that are the same
    return kernels.assign(log=log).pivot_table(index=PAIR, columns="layer", values="log", sort=False)


def _silhouettes(curves: np.ndarray, counts: Sequence[int]) -> list[float]:
    """Mean silhouette of average linkage cut into n groups, for each n; 0 where all curves are equal.

    Source: Rousseeuw 1987, doi:10.1016/0377-0427(87)90125-7.
    """
    distances = pdist(curves)
    cuts = cut_tree(linkage(distances, "average"), counts).T
    with config_context(assume_finite=True, skip_parameter_validation=True):  # checks take longer than the sum
        return [silhouette_score(squareform(distances), each, metric="precomputed") for each in cuts]


# ------------------------------------------------------------------- relations


def relation(first: str, second: str) -> str:
    """What two of the six networks have in common: the paper's A, B and C.

    >>> relation("ACDC seg", "T1 seg")
    'C: other data, same task'
    """
    (data, task), (other_data, other_task) = first.rsplit(" ", 1), second.rsplit(" ", 1)
    if data == other_data:
        return "A: same data, other task"
    return "C: other data, same task" if task == other_task else "B: other data, other task"


def relations(pairs: pd.DataFrame) -> pd.DataFrame:
    """DataFrame[network, relation, pair, seed, rmse]: mean RMSE over W of each pair, by what the two have in common."""
    table = ratios(pairs)
    names = table[PAIR].agg(" - ".join, axis=1)
    kinds = [relation(*each) for each in table[PAIR].itertuples(index=False)]
    table = table.assign(relation=kinds, pair=names)[["network", "relation", "pair", "seed", "rmse"]]
    return table.sort_values(["network", "relation", "pair", "seed"], ignore_index=True)


def ranges(relations: pd.DataFrame) -> pd.DataFrame:
    """The paper's "the magnitude of RMSE is uncertain": do the ranges of the relations overlap?

    Args:
        relations: from `relations`.

    Returns:
        DataFrame[network, relation, low, high, over, overlaps]: smallest and largest RMSE, a range and no interval;
        over: of how many pairs and seeds; overlaps: letters of the other relations whose range meets this one.
    """
    parts = relations.groupby(["network", "relation"])
    table = parts["rmse"].agg(low="min", high="max").reset_index()
    counts = parts[["pair", "seed"]].nunique().itertuples(index=False)
    table["over"] = [f"{_counted(pairs, 'pair')}, {_counted(seeds, 'seed')}" for pairs, seeds in counts]
    table["overlaps"] = [
        "".join(
            other.relation[0]
            for other in table[table["network"] == row.network].itertuples()
            if other.relation != row.relation and other.low <= row.high and row.low <= other.high
        )
        for row in table.itertuples()
    ]
    return table


# ----------------------------------------------------------------------- words


def in_words(pairs: pd.DataFrame, few: pd.DataFrame) -> Words:
    """What the tables of this chapter say, a paragraph per network.

    Args:
        pairs: from `over_seeds`, of one or more networks.
        few: from `few`, of the same networks.
    """
    told = []
    for network, part in pairs.groupby("network"):
        order = ranking(part)
        both = with_few_patients(order, few[few["network"] == network])
        sentences = [_nearest(part, order), *_agree(order), _follows(part), _alike(part), _grouped(part)]
        sentences += [_ranges_meet(part), _few_agree(both)]
        told.append(f"- **{TITLES[network]}.** {' '.join(sentences)}")
    return Words("\n".join(told))


def _nearest(pairs: pd.DataFrame, order: pd.DataFrame) -> str:
    """The nearest source, or those that can't be told apart: nobody is certainly nearer than one of them."""
    table, target = stability(order), target_of(pairs)
    near, first = table[table["best"] == 1], table.iloc[0]
    if first["seeds"] == 1:
        return f"{first['source']} has the smallest relative RMSE from {target}, {first['relative']:.3f}, in one seed."
    if len(near) == len(table):
        return f"No source can be told apart as the nearest to {target}, over {first['seeds']} seeds."
    if len(near) > 1:
        return f"{_listed(near['source'])} can't be told apart as the nearest to {target}, over {first['seeds']} seeds."
    value = ranged(*first[["relative", "low", "high", "over"]])
    return f"{first['source']} is nearest to {target}, at a relative RMSE of {value}."


def _agree(order: pd.DataFrame) -> list[str]:
    taus, seeds = agreement(order)["tau"], order["seed"].nunique()
    return [f"Orders of {seeds} seeds agree with a Kendall's tau of {_span(taus)}."] if len(taus) else []


def _follows(pairs: pd.DataFrame) -> str:
    """Whether an order by RMSE is the order by the null, told as a number: no bound was set for it."""
    values = travel(pairs).query("among == 'sources'")["correlation"]
    return f"RMSE and its null order the five sources with a rank correlation of {_span(values)}."


def _alike(pairs: pd.DataFrame) -> str:
    """How many pairs moved alike, by the bound that was set for kernels."""
    ratio, bound = ratios(pairs).groupby(PAIR)["ratio"].mean(), paper.tolerances()["nearness"]
    below, count = int((ratio < bound).sum()), len(ratio)
    which = f"{'All ' * (below == count)}{below}" if below else "None"
    span = f"{ratio.min():.2f} to {ratio.max():.2f}"
    rule = f"which takes an RMSE below {bound:g} of the null"
    return f"{which} of {count} pairs have moved alike, {rule}: the ratio is {span}."


def _grouped(pairs: pd.DataFrame) -> str:
    found = groups(pairs, pairs["network"].iloc[0])
    best = found.loc[found["silhouette"].idxmax()]
    return (
        f"Of {COUNTS[0]} to {COUNTS[-1]} groups, {best['groups']:.0f} part the {len(pairs[PAIR].drop_duplicates())} "
        f"curves best, with a mean silhouette of {best['silhouette']:.2f}."
    )


def _ranges_meet(pairs: pd.DataFrame) -> str:
    """Which of the relations A, B and C are apart in RMSE."""
    letters = {row.relation[0]: row.overlaps for row in ranges(relations(pairs)).itertuples()}
    apart = [" and ".join(two) for two in itertools.combinations(letters, 2) if two[1] not in letters[two[0]]]
    over = f"over {len(pairs[PAIR].drop_duplicates())} pairs and {_counted(pairs['seed'].nunique(), 'seed')}"
    if not apart:
        return f"Ranges of RMSE overlap for all of {_listed(letters)}, {over}."
    return f"Ranges of RMSE are apart for {' and for '.join(apart)}, {over}."


def _few_agree(both: pd.DataFrame) -> str:
    same = both.loc[(both["rank_full"] == 1) & (both["rank_few"] == 1), "seed"].nunique()
    seeds = _counted(both["seed"].nunique(), "seed")
    return f"A target of few patients has the same source nearest in {same} of {seeds}."


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}{'s' * (count != 1)}"


def _listed(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}"


def _span(values: pd.Series) -> str:
    low, high = f"{values.min():.2f}", f"{values.max():.2f}"
    return low if low == high else f"{low} to {high}"
