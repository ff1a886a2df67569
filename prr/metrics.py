"""Scores by patient, counted image by image and divided last; intervals over patients."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor

from prr.errors import DataError
from prr.samples import Data


class Counted(NamedTuple):
    """A score made of numbers that each image gives by itself, so that outputs need not be kept.

    Args:
        name: what it is called.
        check: (output of some images, data) refuses targets that the score can make nothing of.
        count: (output (b, ...), targets (b, ...)) -> (b, ...) numbers of each image; no value is looked at, so a GPU
            need not wait.
        combine: (numbers of all images (n, ...), data) -> (patients,) in order of patient id.
        constants: (data, classes) -> (answers, patients), what answers that look at no image score; None: not known.
    """

    name: str
    check: Callable[[Tensor, Data], None]
    count: Callable[[Tensor, Tensor], Tensor]
    combine: Callable[[Tensor, Data], np.ndarray]
    constants: Callable[[Data, int], np.ndarray] | None = None

    def __call__(self, output: Tensor, data: Data) -> np.ndarray:
        """(patients,) from the output (n, ...) of a network on all of `data.images`."""
        check_count(output, data.masks)
        self.check(output, data)
        return self.combine(self.count(output, data.masks.to(output.device)), data)


def check_count(output: Tensor, targets: Tensor) -> None:
    """Refuse an output that is not one for each image.

    Raises:
        DataError: names both numbers.
    """
    if output.ndim == 0 or len(output) != len(targets):
        raise DataError(
            f"output: expected one for each of {len(targets)} images, found {tuple(output.shape)}; the first axis has "
            "to count images, also of a single one: squeeze(-1), not squeeze()"
        )


Score = Counted | Callable[[Tensor, Data], np.ndarray]  # (output on data.images, data) -> one value per patient


def dice(
    prediction: Tensor, mask: Tensor, patient: Tensor, classes: int = 4, ignore_index: int | None = None
) -> pd.DataFrame:  # fmt: skip
    """Dice coefficient of every patient and class, pixels pooled over the patient's slices.

    Args:
        prediction: (n, h, w) labels, `output.argmax(1)`.
        mask: (n, h, w) labels.
        patient: (n,) patient of each slice.
        classes: number of labels, background counted.
        ignore_index: label in the mask of pixels that are not counted.

    Returns:
        DataFrame[patient, class, dice], rows for classes 0..classes-1. A class that is absent in both is NaN and stays
        out of means; in one only it is 0.

    Raises:
        DataError: no tensors of whole numbers, shapes that do not agree, labels out of range.

    Source: Dice 1945, doi:10.2307/1932409; counted as torchmetrics does.

    Example:
        >>> import prr, torch
        >>> prediction, mask = torch.tensor([[[1, 0, 0, 0]]]), torch.tensor([[[1, 1, 0, 0]]])
        >>> prr.dice(prediction, mask, patient=torch.tensor([7]), classes=3)
           patient  class      dice
        0        7      0  0.800000
        1        7      1  0.666667
        2        7      2       NaN
    """
    for owner, value in (("prediction", prediction), ("mask", mask), ("patient", patient)):
        if not isinstance(value, Tensor) or value.is_floating_point():
            found = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise DataError(f"{owner}: expected a tensor of whole numbers, found {found}")
    if prediction.shape != mask.shape or prediction.shape[:1] != patient.shape:
        raise DataError(
            f"expected prediction and mask (n, h, w) and patient (n,), found {tuple(prediction.shape)}, "
            f"{tuple(mask.shape)} and {tuple(patient.shape)}"
        )
    if not len(prediction):
        raise DataError("expected at least one slice, found none")
    mask, known = _known(mask, ignore_index)
    check_labels("prediction", prediction, classes)
    check_labels("mask", mask, classes)
    values = ratio(confusion(prediction, mask, classes, known), patient)
    rows = pd.MultiIndex.from_product([patient.unique().tolist(), range(classes)], names=["patient", "class"])
    return pd.DataFrame({"dice": values.ravel()}, index=rows).reset_index()


def check_labels(owner: str, labels: Tensor, classes: int) -> None:
    """Refuse labels that are no class.

    Raises:
        DataError: names the range that was found.
    """
    least, most = (each.item() for each in labels.long().aminmax())
    if least < 0 or most >= classes:
        hint = next((f"; ignore_index={each} leaves that out" for each in (255, -1) if each in (least, most)), "")
        raise DataError(f"{owner}: expected labels 0..{classes - 1}, found {least}..{most}{hint}")


def confusion(prediction: Tensor, mask: Tensor, classes: int, known: Tensor | None = None) -> Tensor:
    """Pixels (n, classes, classes) of each image by their label in the mask and in the prediction, (n, ...) each.

    known: (n, ...), which of them count; None: all.
    """
    image = torch.arange(len(mask), device=mask.device).reshape(-1, *[1] * (mask.ndim - 1))
    cells = ((image * classes + mask.long()) * classes + prediction.long()).flatten()
    counts = cells.new_zeros(len(mask) * classes * classes)
    weights = torch.ones_like(cells) if known is None else known.flatten().long()
    return counts.scatter_add_(0, cells, weights).reshape(-1, classes, classes)


def ratio(counts: Tensor, patient: Tensor) -> np.ndarray:
    """Dice (patients, classes) from the `confusion` of each image; NaN where the class is in neither."""
    ids, index = patient.to(counts.device).unique(return_inverse=True)
    pooled = counts.new_zeros(len(ids), *counts.shape[1:]).index_add(0, index, counts).cpu().double()
    both, true, predicted = pooled.diagonal(dim1=1, dim2=2), pooled.sum(2), pooled.sum(1)
    return (2 * both / (predicted + true)).numpy()  # 0 / 0 is NaN


# ---- foreground Dice, accuracy, R2: what each asks of targets, counts in each image, makes of a patient's counts


def _check_masks(output: Tensor, data: Data, threshold: float = 0.0, ignore: int | None = None) -> None:
    """What foreground Dice asks: label maps like the output, with some label."""
    shape = (len(data.masks), *chosen(output, threshold).shape[1:])
    if data.masks.is_floating_point() or data.masks.shape != shape:
        raise DataError(
            f"masks: expected a tensor of whole numbers {shape}, found {data.masks.dtype} {tuple(data.masks.shape)}"
        )
    masks, _ = _known(data.masks, ignore)
    check_labels("masks", masks, classes_of(output))
    if not masks.any():
        raise DataError("masks: expected some labelled pixel, found background alone; Dice says nothing then")


def _count_pixels(output: Tensor, masks: Tensor, threshold: float = 0.0, ignore: int | None = None) -> Tensor:
    """Pixels (n, classes, classes) by their label and by the class that is chosen."""
    masks, known = _known(masks, ignore)
    return confusion(chosen(output, threshold), masks, classes_of(output), known)


def _mean_foreground(counts: Tensor, data: Data) -> np.ndarray:
    """Mean over the classes 1.. of each patient's Dice, the background left out; NaN without foreground in both."""
    return nanmean(ratio(counts, data.patient)[:, 1:])


def _one_label_everywhere(data: Data, classes: int, ignore: int | None = None) -> np.ndarray:
    """Foreground Dice (classes, patients) of each label, chosen for all pixels."""
    true = _labels_of_each(data, classes, ignore)
    columns = torch.eye(classes, dtype=torch.long)
    return np.stack([_mean_foreground(true[:, :, None] * columns[label], data) for label in range(classes)])


def _check_labels(output: Tensor, data: Data, threshold: float = 0.0, ignore: int | None = None) -> None:
    """What accuracy asks: labels like the output, of two classes or more."""
    labels, shape = data.masks, (len(data.masks), *chosen(output, threshold).shape[1:])
    if labels.is_floating_point() or labels.shape != shape:
        raise DataError(f"accuracy: expected whole-number labels {shape}, found {labels.dtype} {tuple(labels.shape)}")
    labels, known = _known(labels, ignore)
    check_labels("accuracy", labels, classes_of(output))
    if len((labels if known is None else labels[known]).unique()) < 2:
        raise DataError("accuracy: expected two classes or more, found one; it says nothing then")


def _count_right(output: Tensor, labels: Tensor, threshold: float = 0.0, ignore: int | None = None) -> Tensor:
    """Share (n,) of each image's labels that are chosen; NaN where none is known."""
    labels, known = _known(labels, ignore)
    right = (chosen(output, threshold) == labels).double()
    return _mean_of_each(right) if known is None else _mean_of_each(right * known) / _mean_of_each(known.double())


def _share_of_right(right: Tensor, data: Data) -> np.ndarray:
    """Share of right labels over each patient's images; a single class counts as present above the threshold."""
    known = (~right.isnan()).double()
    with np.errstate(invalid="ignore"):  # a patient of whom no label is known
        return by_patient(right.nan_to_num(), data.patient) / by_patient(known, data.patient)


def _one_label_for_all(data: Data, classes: int, ignore: int | None = None) -> np.ndarray:
    """Accuracy (classes, patients) of each label, chosen for everything."""
    true = _labels_of_each(data, classes, ignore).double()
    return np.stack([_share_of_right(each, data) for each in (true / true.sum(1, keepdim=True)).T])


def _known(labels: Tensor, ignore: int | None) -> tuple[Tensor, Tensor | None]:
    """Labels with 0 where they are not known, and where they are known; None: everywhere."""
    if ignore is None:
        return labels, None
    labels = labels.long()  # whole bytes have no -1
    return labels.where(labels != ignore, 0), labels != ignore


def _labels_of_each(data: Data, classes: int, ignore: int | None) -> Tensor:
    """How often (n, classes) each label stands in each image."""
    labels, known = _known(data.masks, ignore)
    return confusion(labels, labels, classes, known).diagonal(dim1=1, dim2=2)


def _check_numbers(output: Tensor, data: Data) -> None:
    """What R2 asks: a number for each target, and targets that differ."""
    if [size for size in output.shape[1:] if size > 1] != [size for size in data.masks.shape[1:] if size > 1]:
        raise DataError(
            f"r2: expected an output {tuple(data.masks.shape)}, as the targets, found "
            f"{(len(data.masks), *output.shape[1:])}; labels have to be whole numbers"
        )
    if _variance(data.masks) == 0:
        raise DataError("r2: expected targets that differ, found one value; it says nothing then")


def _count_squares(output: Tensor, truth: Tensor) -> Tensor:
    """Mean square error (n,) of each image."""
    error = _mean_of_each((output.double().reshape(truth.shape) - truth.double()).square())
    return error.nan_to_num(nan=torch.inf)  # as wrong as can be


def _explained(error: Tensor, data: Data) -> np.ndarray:
    """1 - square error / variance about the mean target, over all outputs together.

    That is scikit-learn's variance_weighted. With one image to a patient it is the mean over patients that equals the
    usual R2; with more, patients weigh alike.
    """
    return by_patient(1 - error / _variance(data.masks), data.patient)


def _variance(targets: Tensor) -> float:
    return (targets.double() - targets.double().mean(0)).square().mean().item()


def _mean_target(data: Data, classes: int) -> np.ndarray:
    """R2 (1, patients) of the mean target."""
    error = _mean_of_each((data.masks.double() - data.masks.double().mean(0)).square())
    return _explained(error, data)[None]


def classes_of(output: Tensor) -> int:
    """Classes that logits (n, classes, ...) tell apart: two where there is one, or none."""
    return max(output.shape[1], 2) if output.ndim > 1 else 2


foreground_dice = Counted("foreground_dice", _check_masks, _count_pixels, _mean_foreground, _one_label_everywhere)
accuracy = Counted("accuracy", _check_labels, _count_right, _share_of_right, _one_label_for_all)
r2 = Counted("r2", _check_numbers, _count_squares, _explained, _mean_target)
SCORES = {"dice": foreground_dice, "accuracy": accuracy, "r2": r2}


def read_as(score: Counted, threshold: float, ignore: int | None) -> Counted:
    """Foreground Dice or accuracy that takes a single class as present above a threshold, and leaves out a label."""
    return score._replace(
        check=partial(score.check, threshold=threshold, ignore=ignore),
        count=partial(score.count, threshold=threshold, ignore=ignore),
        constants=partial(score.constants, ignore=ignore),
    )


def chosen(output: Tensor, threshold: float = 0.0) -> Tensor:
    """Labels (n, ...) from logits (n, classes, ...); a single class, (n, 1, ...) or (n,), counts as present above the
    threshold, NaN as no class: 0."""
    if output.ndim == 1 or output.shape[1] == 1:
        return ((output if output.ndim == 1 else output[:, 0]) > threshold).long()
    if (classes := output.shape[1]) > 256:
        return output.argmax(1).where(~output.isnan().any(1), 0)
    # The first of the largest, by bytes that are compared in parallel: argmax takes three times as long on a CPU.
    output = output.contiguous()
    backwards = torch.arange(classes, dtype=torch.uint8, device=output.device).flip(0)
    largest = (~(output < output.amax(1, keepdim=True))).view(torch.uint8)  # NaN is not smaller
    return classes - 1 - (largest * backwards.reshape(-1, *[1] * (output.ndim - 2))).amax(1).long()


def by_patient(values: Tensor, patient: Tensor) -> np.ndarray:
    """Mean (patients,) of one value (n,) per image over the images of each patient, in order of patient id."""
    ids, index = patient.to(values.device).unique(return_inverse=True)
    totals = values.new_zeros(len(ids)).index_add(0, index, values)
    return (totals / index.bincount()).cpu().numpy()


def _mean_of_each(values: Tensor) -> Tensor:
    """Mean (n,) of each image's values (n, ...)."""
    return values.reshape(len(values), -1).mean(1)


def nanmean(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis without the NaN; NaN, and no warning, where nothing is left."""
    kept = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(kept, values, 0).sum(-1) / kept.sum(-1)


def drop_interval(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95 % paired t interval over patients of mean(before) - mean(after).

    A patient counts by what it moves the difference (its influence), which is exact where every score is known and to
    first order where some are NaN. At 14 patients the interval covers 95 % of means of normal and about 85 % of means
    of lognormal drops; a percentile bootstrap covers 91 and 84 %.

    Args:
        before: (patients,) scores of the target.
        after: (rows, patients) scores after each transplant, same patients.

    Returns:
        low and high, (rows,) each; NaN where there are fewer than two patients.

    Source: Student 1908, doi:10.2307/2331554; influence: Davison and Hinkley 1997, ch. 2.7.

    Example:
        >>> import numpy as np
        >>> from prr.metrics import drop_interval
        >>> before, after = np.array([0.9, 0.8, 0.6]), np.array([[0.8, 0.7, 0.5], [0.9, 0.4, 0.6]])
        >>> low, high = drop_interval(before, after)
        >>> low.round(2), high.round(2)  # what all patients lose is certain
        (array([ 0.1 , -0.44]), array([0.1 , 0.71]))
    """
    count = (~(np.isnan(before) & np.isnan(after))).sum(-1)
    influence = _influence(np.broadcast_to(before, after.shape)) - _influence(after)
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.sqrt((influence**2).sum(-1) * count / (count - 1))
        half = np.where(count > 1, stats.t.ppf(0.975, count - 1) * error, np.nan)
    drop = nanmean(before) - nanmean(after)
    return drop - half, drop + half


def _influence(values: np.ndarray) -> np.ndarray:
    """What each value adds to the mean over the last axis, beyond the mean itself; 0 for NaN."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(known, (values - nanmean(values)[..., None]) / known.sum(-1, keepdims=True), 0)


def crossed_interval(values: np.ndarray, seed: int = 0, draws: int = 4000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means over targets, sources and patients with simultaneous 95 % intervals (max-t) for all columns.

    A multiplier bootstrap: targets, sources and patients are weighted at random, each as a whole, so that a draw weighs
    a target with all its sources. Deviations are scaled up by n / (n - 1) in variance along each axis, and the limit is
    moved to the same quantile of Student's t with Satterthwaite's degrees of freedom: few where seeds make most of the
    spread, more where patients do. An axis of length 1 is not resampled, so the interval says nothing of other targets,
    or other sources, then. With 3 targets, 3 sources and 14 patients it holds one column in 96 % of cases and six
    independent ones at once in 95 %, where all three vary alike; in 94 % and 92 %, where targets make nearly all.

    Args:
        values: (targets, sources, patients, k), without NaN; k columns such as layers or contrasts.
        seed: of the resampling.
        draws: of the bootstrap.

    Returns:
        mean, low and high, (k,) each; low and high NaN where no axis can be resampled.

    Source: Owen 2007, doi:10.1214/07-AOAS122 (crossed factors); multipliers: Chernozhukov, Chetverikov and Kato 2013,
    doi:10.1214/13-AOS1161; max-t: Romano and Wolf 2005, doi:10.1198/016214504000000539; Satterthwaite 1946,
    doi:10.2307/3002019.

    Example:
        >>> import numpy as np
        >>> from prr.metrics import crossed_interval
        >>> values = np.random.default_rng(0).normal(size=(3, 3, 20, 2)) + [0, 5]  # two layers
        >>> mean, low, high = crossed_interval(values)
        >>> (low > 0).tolist()
        [False, True]
    """
    rng, shape = np.random.default_rng(seed), values.shape[:3]
    mean = values.mean((0, 1, 2))
    if max(shape) < 2:
        return mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    weights, parts = [], []
    for axis, count in enumerate(shape):
        drawn = rng.standard_normal((draws, count))
        drawn -= drawn.mean(1, keepdims=True)
        weights.append((1 + drawn * (count / max(count - 1, 1)) ** 0.5) / count)
        if count > 1:
            rest = tuple(other for other in range(3) if other != axis)
            parts.append(values.mean(rest).var(0, ddof=1) / count)
    deviation = np.einsum("bt,bs,bp,tspk->bk", *weights, values, optimize=True) - mean
    spread = deviation.std(0, ddof=1)
    scaled = np.divide(abs(deviation), spread, out=np.zeros_like(deviation), where=spread > 0)
    limit = stats.norm.cdf(np.quantile(scaled.max(1), 0.95))
    half = stats.t.ppf(limit, _degrees(np.array(parts), [count - 1 for count in shape if count > 1])) * spread
    return mean, mean - half, mean + half


def _degrees(variances: np.ndarray, freedom: list[int]) -> np.ndarray:
    """Satterthwaite's degrees of freedom (k,) of sums of variances (axes, k), each with its own degrees (axes,).

    Three seeds are now and then alike in one column by chance, which looks as if patients made its spread; so a column
    has no more than all of them together.
    """
    total, freedom = variances.sum(0), np.array(freedom)[:, None]
    share = np.divide(variances, total, out=np.zeros_like(variances), where=total > 0)
    together = share.sum(1, keepdims=True) / max((total > 0).sum(), 1)
    with np.errstate(divide="ignore"):
        own, pooled = (1 / (each**2 / freedom).sum(0) for each in (share, together))
    return np.minimum(own, pooled)
