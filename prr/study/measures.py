"""What is read off a run's networks without changing them: Dice, distances, shifts, responses."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Tensor, nn

from prr import bn, metrics, reuse
from prr.distance import rmse as rmse_of
from prr.layers import parameter_table
from prr.study import models, networks
from prr.study.jobs import Call
from prr.study.store import digest
from prr.study.training import TASKS

if TYPE_CHECKING:
    from prr.study.experiment import Experiment

# Goes into every stored measure's key: raise it when a change here, in bn.py, distance.py or sources.py alters one.
RECIPE = 1
# what chapters show of their networks: {number: (method of `Experiment`, network)}
SHOWN = {
    "02": (("shift_scale", "unet"), ("shift_scale", "pspnet"), ("responses", "unet"), ("algebra", "unet")),
    "03": (("dice", "unet"), ("rmse", "unet")),
    "04": (("dice", "pspnet"), ("rmse", "pspnet"), ("branches", "pspnet")),
}


def calls(run: Experiment, *numbers: str) -> list[Call]:
    """What some chapters show, or all."""
    shown = [each for number, some in SHOWN.items() if number in (numbers or SHOWN) for each in some]
    return [(run, method, {"network": network}) for method, network in shown]


def parameters(run: Experiment, network: str) -> pd.DataFrame:
    """`prr.parameter_table` of a network at the profile's size; it needs no training."""
    size = run.profile.size
    return parameter_table(run.untrained(network), torch.zeros(1, 1, size, size))


def dice(run: Experiment, network: str, dataset: str = "acdc", start: str | None = None) -> pd.DataFrame:
    """DataFrame[patient, class, dice] of a segmentation network on the validation patients."""
    key = run.key(network, dataset, "segmentation", start)

    def make() -> tuple[pd.DataFrame, dict]:
        part = run.slices(dataset).validation
        prediction = reuse.predict(networks.trained(run, key), part.images).argmax(1).cpu()
        return metrics.dice(prediction, part.masks, part.patient), {}

    named = {"table": "dice", "network": digest(key), "recipe": run.recipes["measures"]}
    return run.kept(named, [key], "Dice", make)[0]


def rmse(run: Experiment, network: str) -> pd.DataFrame:
    """`prr.rmse` of ACDC segmentation and ACDC auto-encoding."""
    return _of_pair(run, network, "rmse", rmse_of)


def shift_scale(run: Experiment, network: str) -> pd.DataFrame:
    """`prr.shift_scale` of ACDC segmentation by ACDC auto-encoding."""
    return _of_pair(run, network, "shift and scale", bn.shift_scale)


def responses(run: Experiment, network: str, layer: int = 3) -> pd.DataFrame:
    """`prr.bn.histograms` of one batch norm, named by its number, on 16 validation images."""
    return _of_pair(
        run, network, "responses", lambda *pair: bn.histograms(*pair, _norm(pair[0], layer), _images(run, 16)), layer
    )


def algebra(run: Experiment, network: str, layer: int = 3) -> pd.DataFrame:
    """How purely each replacement shifts or scales one batch norm's output on 8 images: `prr.bn.residuals`."""
    return _of_pair(
        run, network, "residuals", lambda *pair: bn.residuals(*pair, _norm(pair[0], layer), _images(run, 8)), layer
    )


def branches(run: Experiment, network: str) -> pd.DataFrame:
    """Branch and identity of a PSPNet's residual units on 32 validation images: `prr.study.models.branches`."""
    return _of_pair(run, network, "branches", lambda target, _: models.branches(target, _images(run, 32)))


def _norm(model: nn.Module, layer: int) -> str:
    return parameter_table(model).query("kind == 'RM' and layer == @layer")["name"].item()


def _images(run: Experiment, count: int) -> Tensor:
    return run.slices("acdc").validation.images[:count].to(run.device)


def _of_pair(
    run: Experiment, network: str, table: str, measure: Callable[..., pd.DataFrame], layer: int | None = None
) -> pd.DataFrame:
    """A measure of the paper's A1 and A2, from the store or taken now."""
    keys = [run.key(network, "acdc", task) for task in TASKS]
    key = {"table": table, "layer": layer, "recipe": run.recipes["measures"], "pair": [digest(each) for each in keys]}
    return run.kept(key, keys, table, lambda: (measure(*(networks.trained(run, each) for each in keys)), {}))[0]
