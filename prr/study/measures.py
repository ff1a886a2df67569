"""What is read off a run's networks without changing them: Dice, distances, shifts, responses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
from torch import Tensor, nn

from prr import bn, distance, metrics, reuse
from prr.data import Slices
from prr.layers import parameter_table
from prr.reuse import device_of
from prr.study import models, networks
from prr.study.jobs import Job
from prr.study.run import Run
from prr.study.training import TASKS


def dice(run: Run, network: str, dataset: str = "acdc") -> Job:
    """DataFrame[patient, class, dice] of a segmentation network on the validation patients."""
    model = networks.model(run, network, dataset, "segmentation")
    return run.job(dice_by_class, "Dice", model=model, slices=run.data(dataset))


def dice_by_class(model: nn.Module, slices: Slices) -> pd.DataFrame:
    """See `dice`."""
    part = slices.validation
    predicted = reuse.predict(model, part.images).argmax(1).cpu()
    return metrics.dice(predicted, part.masks, part.patient, part.classes, part.ignore)


def rmse(run: Run, network: str) -> Job:
    """`prr.rmse` of the target and its own auto-encoder."""
    return _of_pair(run, distance.rmse, network)


def shift_scale(run: Run, network: str) -> Job:
    """`prr.shift_scale` of the target by its own auto-encoder."""
    return _of_pair(run, bn.shift_scale, network)


def responses(run: Run, network: str, layer: int = 3) -> Job:
    """`prr.bn.histograms` of one batch norm, named by its number, on 16 validation images."""
    return _of_pair(run, responses_of_layer, network, slices=run.data("acdc"), layer=layer)


def responses_of_layer(target: nn.Module, source: nn.Module, slices: Slices, layer: int) -> pd.DataFrame:
    """See `responses`."""
    return bn.histograms(target, source, _norm(target, layer), _images(target, slices, 16))


def algebra(run: Run, network: str, layer: int = 3) -> Job:
    """How purely each replacement shifts or scales one batch norm's output on 8 images: `prr.bn.residuals`."""
    return _of_pair(run, residuals_of_layer, network, slices=run.data("acdc"), layer=layer)


def residuals_of_layer(target: nn.Module, source: nn.Module, slices: Slices, layer: int) -> pd.DataFrame:
    """See `algebra`."""
    return bn.residuals(target, source, _norm(target, layer), _images(target, slices, 8))


def branches(run: Run, network: str) -> Job:
    """Branch and identity of a PSPNet's residual units on 32 validation images: `prr.study.models.branches`."""
    return run.job(branches_on_images, "branches", target=networks.model(run, network), slices=run.data("acdc"))


def branches_on_images(target: nn.Module, slices: Slices) -> pd.DataFrame:
    """See `branches`."""
    return models.branches(target, _images(target, slices, 32))


def _of_pair(run: Run, measure: Callable[..., pd.DataFrame], network: str, **given: Any) -> Job:
    """A measure of the paper's A1 and A2."""
    target, source = (networks.model(run, network, "acdc", task) for task in TASKS)
    return run.job(measure, measure.__name__.split("_of_")[0], target=target, source=source, **given)


def _norm(model: nn.Module, layer: int) -> str:
    return parameter_table(model).query("kind == 'RM' and layer == @layer")["name"].item()


def _images(model: nn.Module, slices: Slices, count: int) -> Tensor:
    return slices.validation.images[:count].to(device_of(model))
