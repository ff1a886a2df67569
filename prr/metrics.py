"""Dice by patient and class, counted first and divided last; bootstrap intervals over patients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor

from prr.errors import DataError, OptionError

Score = Callable[..., np.ndarray]  # (network output on data.images, data) -> one value per patient


def overlap(prediction: Tensor, mask: Tensor, patient: Tensor, classes: int = 4) -> tuple[Tensor, Tensor]:
    """Count pixels per patient and class.

    Args:
        prediction: (n, h, w) labels.
        mask: (n, h, w) labels.
        patient: (n,) patient of each slice.
        classes: number of labels, background counted.

    Returns:
        (patients,) sorted patient ids and (patients, classes, 3) counts: in both, in the prediction, in the mask.

    Raises:
        DataError: no tensors of whole numbers, shapes that do not agree, labels outside 0..classes-1.
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
    ids, index = torch.unique(patient, return_inverse=True)
    base = (index * classes).reshape(-1, *[1] * (mask.ndim - 1))
    labels = {"prediction": prediction.long(), "mask": mask.long()}
    for owner, label in labels.items():
        if label.min() < 0 or label.max() >= classes:
            found = f"{label.min().item()}..{label.max().item()}"
            raise DataError(f"{owner}: expected labels 0..{classes - 1}, found {found}")
    prediction, mask = labels["prediction"], labels["mask"]
    cells = (base + mask)[prediction == mask], base + prediction, base + mask
    counts = [torch.bincount(cell.flatten(), minlength=len(ids) * classes) for cell in cells]
    return ids, torch.stack(counts, dim=-1).reshape(len(ids), classes, 3)


def ratio(counts: Tensor) -> np.ndarray:
    """Dice (patients, classes) from the counts of `overlap`; NaN where the class is in neither."""
    both, predicted, true = counts.cpu().double().unbind(-1)
    return (2 * both / (predicted + true)).numpy()  # 0 / 0 is NaN


def dice(prediction: Tensor, mask: Tensor, patient: Tensor, classes: int = 4) -> pd.DataFrame:
    """Dice coefficient of every patient and class, pixels pooled over the patient's slices.

    Args:
        prediction: (n, h, w) labels, `output.argmax(1)`.
        mask: (n, h, w) labels.
        patient: (n,) patient of each slice.
        classes: number of labels, background counted.

    Returns:
        DataFrame[patient, class, dice], rows for classes 0..classes-1. A class that is absent in both is NaN and stays
        out of means; in one only it is 0.

    Raises:
        DataError: shapes that do not agree, labels out of range.

    Source: Dice 1945, doi:10.2307/1932409; counted as torchmetrics does.
    """
    ids, counts = overlap(prediction, mask, patient, classes)
    rows = pd.MultiIndex.from_product([ids.tolist(), range(classes)], names=["patient", "class"])
    return pd.DataFrame({"dice": ratio(counts).ravel()}, index=rows).reset_index()


def foreground_dice(output: Tensor, data) -> np.ndarray:
    """The default score: for each patient the mean Dice over the classes 1.., background left out.

    Args:
        output: (n, classes, h, w) logits of a network on `data.images`.
        data: has `masks` (n, h, w) and `patient` (n,).

    Returns:
        (patients,) in order of patient id; NaN for a patient without foreground in prediction and mask.
    """
    prediction = chosen(output)
    masks, patient = data.masks.to(prediction.device), data.patient.to(prediction.device)
    if not masks.any():
        raise DataError("masks: expected some labelled pixel, found background alone; Dice says nothing then")
    _, counts = overlap(prediction, masks, patient, classes=max(output.shape[1], 2))
    return nanmean(ratio(counts)[:, 1:])


def accuracy(output: Tensor, data) -> np.ndarray:
    """Share of right labels, for each patient (or other unit) over its images.

    Args:
        output: (n, classes, ...) logits; a single class counts as present above 0.
        data: has `masks` (n, ...), whole numbers, and `patient` (n,).

    Returns:
        (patients,) in order of patient id.

    Raises:
        DataError: labels of other shape or type, or all of one class.
    """
    prediction, labels = chosen(output), data.masks.to(output.device)
    if labels.is_floating_point() or labels.shape != prediction.shape:
        raise DataError(
            f"accuracy: expected whole-number labels {tuple(prediction.shape)}, found {labels.dtype} "
            f"{tuple(labels.shape)}"
        )
    if labels.min() < 0 or labels.max() >= max(output.shape[1], 2):
        raise DataError(
            f"accuracy: expected labels 0..{max(output.shape[1], 2) - 1}, found {labels.min()}..{labels.max()}; leave "
            "out what is not labelled"
        )
    if len(labels.unique()) < 2:
        raise DataError("accuracy: expected two classes or more, found one; it says nothing then")
    return by_patient(prediction == labels, data.patient)


def r2(output: Tensor, data) -> np.ndarray:
    """R2 of a regression, split into one value per patient (or other unit) whose mean it is.

    With one image to a patient the mean over patients is 1 - sum of squared errors / sum of squares about the mean,
    over all outputs together (scikit-learn's variance_weighted); with more, patients weigh alike.

    Args:
        output: (n, ...) numbers.
        data: has `masks` (n, ...), as many numbers, and `patient` (n,).

    Returns:
        (patients,) in order of patient id.

    Raises:
        DataError: another number of outputs than of targets, or targets that are all alike.
    """
    truth = data.masks.to(output.device).double()
    if output.numel() != truth.numel():
        raise DataError(
            f"r2: expected an output {tuple(truth.shape)}, as the targets, found {tuple(output.shape)}; labels have to "
            "be whole numbers"
        )
    variance = (truth - truth.mean(0)).square().mean()
    if variance == 0:
        raise DataError("r2: expected targets that differ, found one value; it says nothing then")
    return by_patient(1 - (output.double().reshape(truth.shape) - truth).square() / variance, data.patient)


SCORES = {"dice": foreground_dice, "accuracy": accuracy, "r2": r2}


def score_of(score: str | Score | None, data) -> Score:
    """A score by its name; for None the one that suits the targets.

    Args:
        score: dice, accuracy, r2, a callable (output, data) -> (patients,), or None: r2 where targets are no whole
            numbers, accuracy where there is one label per image, else foreground Dice.
        data: has `masks`.

    Raises:
        OptionError: an unknown name.
    """
    if score is None:
        score = "r2" if data.masks.is_floating_point() else "accuracy" if data.masks.ndim == 1 else "dice"
    if not callable(score) and score not in SCORES:
        raise OptionError(f"score={score!r}: expected {', '.join(SCORES)} or a callable (output, data) -> values")
    return score if callable(score) else SCORES[score]


def chosen(output: Tensor) -> Tensor:
    """Labels (n, ...) from logits (n, classes, ...); a single class counts as present above 0."""
    if output.ndim < 2:
        raise DataError(f"output: expected logits (n, classes, ...), found {tuple(output.shape)}")
    if output.shape[1] == 1:
        return (output[:, 0] > 0).long()
    return output.max(1).indices  # argmax(1) takes ten times as long on a CPU


def by_patient(values: Tensor, patient: Tensor) -> np.ndarray:
    """Mean (patients,) of values (n, ...) over the images of each patient, in order of patient id."""
    each = values.double().flatten(1).mean(1) if values.ndim > 1 else values.double()
    ids, index = patient.to(each.device).unique(return_inverse=True)
    totals = each.new_zeros(len(ids)).index_add(0, index, each)
    return (totals / index.bincount()).cpu().numpy()


def nanmean(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis without the NaN; NaN, and no warning, where nothing is left."""
    kept = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(kept, values, 0).sum(-1) / kept.sum(-1)


def drop_interval(before: np.ndarray, after: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """95 % paired percentile bootstrap interval over patients of mean(before) - mean(after).

    Args:
        before: (patients,) scores of the target.
        after: (rows, patients) scores after each transplant, same patients.
        seed: of the resampling; all rows see the same resamples.

    Returns:
        low and high, (rows,) each; NaN where there are fewer than two patients.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, ch. 13.
    """
    if after.shape[-1] < 2:
        return np.full(len(after), np.nan), np.full(len(after), np.nan)
    interval = stats.bootstrap(
        (np.broadcast_to(before, after.shape), after),
        lambda first, second, axis: nanmean(first) - nanmean(second),
        paired=True, vectorized=True, axis=-1, n_resamples=2000, method="percentile",
        batch=max(1, min(200, 10**7 // max(after.size, 1))),  # bounds the memory
        rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return interval.low, interval.high
