"""What the paper states about reuse layer by layer, each statement tested on result tables, never on prose.

The rules:

- about each of some layers: reproduced if every layer turns out as stated, not reproduced if one certainly does not,
  else undecided; a layer is judged by the interval of its drop (`prr.verdict.layer_verdicts`), each at 95 % by itself;
- about a network: reusable if at least half of its live kernels are, not if reusable and undecided ones are fewer;
- about most layers: the share of layers with its 95 % Wilson interval must lie above (below) one half;
- about one mean being larger than another: the 95 % bootstrap interval over layers of the difference must keep clear
  of 0 (paired where both means are over the same layers);
- about two means of one order of magnitude: that interval, of their ratio, must lie within (outside) 1/10 to 10;
- about a trend over depth: Spearman's rank correlation with its 95 % bootstrap interval over layers must keep clear
  of 0. That there is *no* pattern can be refuted by a trend, never shown: it is refuted or stays undecided.

Layers of one network are no independent sample: intervals over layers describe these networks and promise no more.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pandas as pd
from scipy import stats

from prr.figures import Words
from prr.study import paper
from prr.verdict import NOT_REUSABLE, REUSABLE, layer_verdicts

YES, NO, UNSURE = "reproduced", "not reproduced", "undecided"
ORDER = (NO, UNSURE, YES)  # a statement that is made of several is as good as its worst


def unet(sweep: pd.DataFrame, shift: pd.DataFrame, tolerance: float = 0.05) -> pd.DataFrame:
    """Those statements of the paper's section 1.1 that one sweep and the shifts can decide.

    Args:
        sweep: all kinds, from `prr.sweep`.
        shift: from `prr.shift_scale`.
        tolerance: see `layer_verdicts`.

    Returns:
        DataFrame[claim, where, verdict, evidence].
    """
    judged = layer_verdicts(sweep, tolerance)
    return _ledger([
        ("RM is more reusable the deeper the layer", "Fig. 3", *trend(judged, "RM")),
        ("RV shows no regular pattern over depth", "Fig. 3", *no_trend(judged, "RV")),
        ("RW is reusable", "Fig. 3", *reusable_except(judged, "RW")),
        ("RB is reusable", "Fig. 3", *reusable_except(judged, "RB")),
        ("W is not reusable", "Fig. 4", *not_reusable(judged, "W")),
        ("B is reusable in all layers except the first", "Fig. 4", *reusable_except(judged, "B", (1,))),
        *assumptions(shift, "Fig. 5"),
        ("RM and RV matter more than RW and RB", "section 1.3", *matters_more(judged)),
    ])  # fmt: skip


def pspnet(sweep: pd.DataFrame, shift: pd.DataFrame, tolerance: float = 0.05) -> pd.DataFrame:
    """Those of the paper's section 1.2; arguments and columns as `unet`."""
    judged = layer_verdicts(sweep, tolerance)
    names = judged["name"].isin(paper.not_reusable()["name"])
    listed = {kind: tuple(part["layer"]) for kind, part in judged[names].groupby("kind")}
    encoder = judged[judged["name"].str.startswith("encoder.")]
    return _ledger([
        ("RM is reusable except in layers 1 and 17", "Fig. 7", *reusable_except(judged, "RM", listed["RM"])),
        ("RV is reusable", "Fig. 7", *reusable_except(judged, "RV")),
        ("RW is reusable", "Fig. 7", *reusable_except(judged, "RW")),
        ("RB is reusable", "Fig. 7", *reusable_except(judged, "RB")),
        ("W of the encoder is reusable except in 1, 6, 11, 12, 16, 17, 19, 20", "Fig. 8, section 3.1",
         *reusable_except(encoder, "W", listed["W"])),
        ("Of the encoder's other W that are not reusable, most change the number of channels or come right behind",
         "Fig. 8", *decomposition(encoder)),
        ("B is reusable", "Fig. 8", *reusable_except(judged, "B")),
        *assumptions(shift, "Fig. 9"),
        ("RM and RV matter more than RW and RB", "section 1.3", *matters_more(judged)),
    ])  # fmt: skip


def comparison(
    unet: pd.DataFrame, pspnet: pd.DataFrame, distances: tuple[pd.DataFrame, pd.DataFrame], tolerance: float = 0.05
) -> pd.DataFrame:
    """The statements of section 1.3 on both networks; columns as `unet`.

    Args:
        unet: its sweep.
        pspnet: its sweep.
        distances: `prr.rmse` of UNet's and of PSPNet's two networks.
        tolerance: see `layer_verdicts`.
    """
    first, second = layer_verdicts(unet, tolerance), layer_verdicts(pspnet, tolerance)
    drops = [part.loc[part["kind"] == "W", "drop"] for part in (first, second)]
    shares = [_share(part, "W") for part in (first, second)]
    return _ledger([
        ("Reuse hurts UNet more than PSPNet, all kinds", "section 1.3", *difference(first["drop"], second["drop"])),
        ("Reuse of kernels hurts UNet more than PSPNet", "section 1.3", *difference(*drops)),
        ("RMSE of W is of the same order of magnitude in both", "section 1.3", *same_order(*distances)),
        ("PSPNet is a reusable network and UNet is not (at least half of the live kernels)", "Conclusion 1",
         _both(shares[1][0], _negated(shares[0][0])), f"PSPNet: {shares[1][1]}; UNet: {shares[0][1]}"),
    ])  # fmt: skip


def first_layer(sweeps: dict[str, pd.DataFrame], tolerance: float = 0.05) -> pd.DataFrame:
    """The statement of section 1.2.2 about layer 1, under each normalisation of the input; columns as `unet`.

    Args:
        sweeps: {what the input is: sweep of layer 1 at least}.
        tolerance: see `layer_verdicts`.
    """
    rows = []
    for title, sweep in sweeps.items():
        judged = layer_verdicts(sweep[sweep["layer"] == 1], tolerance)
        claim = f"RM of the first layer is not reusable, {title}"
        rows.append((claim, "section 1.2.2", *not_reusable(judged, "RM")))
    return _ledger(rows)


def inequalities(unet: pd.DataFrame, pspnet: pd.DataFrame) -> pd.DataFrame:
    """What the paper assumes of batch norm, for both networks; columns as `unet`.

    Args:
        unet: from `prr.shift_scale`.
        pspnet: likewise.
    """
    rows = [
        (f"{network}: {claim}", *rest)
        for network, shift, where in (("UNet", unet, "Fig. 5"), ("PSPNet", pspnet, "Fig. 9"))
        for claim, *rest in assumptions(shift, where)
    ]
    return _ledger(rows)


def in_words(*ledgers: pd.DataFrame) -> Words:
    """What holds, what does not and what stays open, as sentences with the numbers that decided.

    Args:
        ledgers: DataFrame[claim, where, verdict, evidence].
    """
    rows = pd.concat(ledgers)
    paragraphs = []
    for verdict, opening in ((YES, "Holds in this run"), (NO, "Does not hold in this run"), (UNSURE, "Stays open")):
        part = rows[rows["verdict"] == verdict]
        items = "".join(f"\n- {row.claim} ({row.where}): {row.evidence}." for row in part.itertuples())
        paragraphs.append(f"**{opening}** ({len(part)} of {len(rows)} statements){':' if len(part) else '.'}\n{items}")
    return Words("\n\n".join(paragraphs))


def reusable_except(judged: pd.DataFrame, kind: str, exceptions: Collection[int] = ()) -> tuple[str, str]:
    """Verdict and evidence for: layers of this kind are reusable, and those excepted are not."""
    part = judged[judged["kind"] == kind]
    excepted = part["layer"].isin(exceptions)
    right = np.where(excepted, part["verdict"] == NOT_REUSABLE, part["verdict"] == REUSABLE)
    wrong = np.where(excepted, part["verdict"] == REUSABLE, part["verdict"] == NOT_REUSABLE)
    evidence = f"{(part['verdict'] == REUSABLE).sum()} of {len(part)} layers reusable"
    if wrong.any():
        evidence += f"; other than stated: {_numbers(part['layer'][wrong])}"
    if (open_ := ~right & ~wrong).any():
        evidence += f"; undecided: {_numbers(part['layer'][open_])}"
    return (NO if wrong.any() else YES if right.all() and len(part) else UNSURE), evidence


def not_reusable(judged: pd.DataFrame, kind: str) -> tuple[str, str]:
    """Verdict and evidence for: no layer of this kind is reusable."""
    return reusable_except(judged, kind, set(judged["layer"]))


def trend(judged: pd.DataFrame, kind: str) -> tuple[str, str]:
    """Verdict and evidence for: the drop falls with depth."""
    low, rho, high = correlation(judged[judged["kind"] == kind])
    verdict = YES if high < 0 else NO if low > 0 else UNSURE
    return verdict, f"rank correlation of drop and layer {_span(rho, low, high)}"


def no_trend(judged: pd.DataFrame, kind: str) -> tuple[str, str]:
    """Verdict and evidence for: no regular pattern; a trend refutes it, its absence alone can't prove it."""
    low, rho, high = correlation(judged[judged["kind"] == kind])
    return (UNSURE if low <= 0 <= high else NO), f"rank correlation of drop and layer {_span(rho, low, high)}"


def assumptions(shift: pd.DataFrame, where: str) -> list[tuple[str, str, str, str]]:
    """The two inequalities that the paper assumes of batch norm, in most layers."""
    scale = shift["MRV_log"] > shift["MRW_log"]
    return [
        ("|MRM| > |MRB| in most layers", where, *majority(shift["MRM"] > shift["MRB"])),
        ("MRV is farther from 1 than MRW in most layers (|log factor|)", where, *majority(scale)),
    ]


def majority(holds: pd.Series) -> tuple[str, str]:
    """Verdict and evidence for: it holds in most layers."""
    count, total = int(holds.sum()), len(holds)
    interval = stats.binomtest(count, total).proportion_ci(method="wilson")
    verdict = YES if interval.low > 0.5 else NO if interval.high < 0.5 else UNSURE
    return verdict, f"{count} of {total} layers, share {_span(count / total, interval.low, interval.high)}"


def decomposition(encoder: pd.DataFrame) -> tuple[str, str]:
    """Verdict and evidence for: layers that are not reusable are those of feature decomposition and those behind.

    The paper defines neither. Read here as the 3x3 convolution that changes the number of channels (conv1 of the first
    unit of a stage) and the one behind it; layer 1, which the paper excepts, is left out.
    """
    kernels = encoder[(encoder["kind"] == "W") & (encoder["layer"] > 1)]
    failed = kernels[kernels["verdict"] == NOT_REUSABLE]
    if failed.empty:
        return UNSURE, "every other layer is reusable or undecided"
    inside = failed["name"].str.fullmatch(r"encoder\.layer[234]\.0\.conv[12]")
    verdict, evidence = majority(inside)
    return verdict, f"{evidence}; not reusable: {_numbers(failed['layer'])}"


def matters_more(judged: pd.DataFrame) -> tuple[str, str]:
    """Verdict and evidence for: replacing RM or RV costs more than replacing RW or RB, mean over layers."""
    drop = {kind: judged.loc[judged["kind"] == kind, "drop"] for kind in ("RM", "RV", "RW", "RB")}
    pairs = [(strong, weak) for strong in ("RM", "RV") for weak in ("RW", "RB")]
    results = [difference(drop[strong], drop[weak], paired=True) for strong, weak in pairs]
    worst = min(range(len(pairs)), key=lambda index: ORDER.index(results[index][0]))
    verdict, evidence = results[worst]
    return verdict, f"{' and '.join(pairs[worst])}: {evidence}"


def difference(more: pd.Series, less: pd.Series, paired: bool = False) -> tuple[str, str]:
    """Verdict and evidence for: the first mean drop is larger than the second."""
    low, high = mean_gap(more, less, paired)
    verdict = YES if low > 0 else NO if high < 0 else UNSURE
    evidence = f"mean drop {more.mean():z.3f} against {less.mean():z.3f}"
    return verdict, f"{evidence}, difference {_span(more.mean() - less.mean(), low, high, 3)}"


def same_order(unet: pd.DataFrame, pspnet: pd.DataFrame) -> tuple[str, str]:
    """Verdict and evidence for: the kernels' RMSE (geometric mean over layers) differ by a factor of less than 10."""
    logs = [np.log10(table.loc[table["kind"] == "W", "rmse"]) for table in (unet, pspnet)]
    low, high = mean_gap(*logs)
    inside, outside = low > -1 and high < 1, high < -1 or low > 1
    factor, low, high = (10.0**power for power in (logs[0].mean() - logs[1].mean(), low, high))
    return (YES if inside else NO if outside else UNSURE), f"UNet's over PSPNet's: {_span(factor, low, high)}"


def mean_gap(first: pd.Series, second: pd.Series, paired: bool = False) -> tuple[float, float]:
    """95 % bootstrap interval over layers of the difference of two means."""
    interval = stats.bootstrap(
        (first.to_numpy(), second.to_numpy()), lambda a, b, axis: a.mean(axis) - b.mean(axis), n_resamples=5000,
        method="percentile", paired=paired, rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return interval.low, interval.high


def correlation(part: pd.DataFrame) -> tuple[float, float, float]:
    pair = part["layer"].to_numpy(float), part["drop"].to_numpy()
    rho = float(rank_correlation(*pair))
    interval = stats.bootstrap(
        pair, rank_correlation, paired=True, vectorized=True, n_resamples=2000,
        method="percentile", rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return interval.low, rho, interval.high


def rank_correlation(first: np.ndarray, second: np.ndarray, axis: int = -1) -> np.ndarray:
    """Spearman's, over an axis; 0 where one side is constant."""
    ranks = [stats.rankdata(values, axis=axis) for values in (first, second)]
    a, b = (rank - rank.mean(axis, keepdims=True) for rank in ranks)
    scale = np.sqrt((a**2).sum(axis) * (b**2).sum(axis))
    return (a * b).sum(axis) / np.where(scale > 0, scale, 1)


def _share(judged: pd.DataFrame, kind: str) -> tuple[str, str]:
    """At least half of the kernels reusable: yes; reusable and undecided together fewer than half: no."""
    counts = judged.loc[judged["kind"] == kind, "verdict"].value_counts()
    total, sure = int(counts.sum()), int(counts.get(REUSABLE, 0))
    possible = total - int(counts.get(NOT_REUSABLE, 0))
    verdict = YES if sure >= total / 2 else NO if possible < total / 2 else UNSURE
    return verdict, f"{sure} of {total} reusable, {possible - sure} undecided"


def _negated(verdict: str) -> str:
    return {YES: NO, NO: YES}.get(verdict, verdict)


def _both(first: str, second: str) -> str:
    return min(first, second, key=ORDER.index)


def _numbers(layers: pd.Series) -> str:
    return ", ".join(str(layer) for layer in layers)


def _span(value: float, low: float, high: float, digits: int = 2) -> str:
    return f"{value:z.{digits}f} [{low:z.{digits}f}, {high:z.{digits}f}]"


def _ledger(rows: list[tuple[str, str, str, str]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["claim", "where", "verdict", "evidence"])
