"""What is read off a run's networks without changing them: Dice, distances, shifts, responses."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from prr import bn, distance, metrics, reuse
from prr.data import Slices
from prr.layers import parameter_table
from prr.reuse import device_of
from prr.study import models, networks, training
from prr.study.display import Words
from prr.study.jobs import Job
from prr.study.run import Run
from prr.study.training import TASKS

ROUNDING = 1e-3  # share of its kernel's below which a bias's gradient is taken for rounding error
EPSILON = 1e-8  # which Adam adds to the size of a gradient before it divides by it


def dice(run: Run, network: str, dataset: str = "acdc", task: str = "segmentation", **of: Any) -> Job:
    """DataFrame[patient, class, dice] of a network on the validation patients; of: as `networks.model`."""
    model = networks.model(run, network, dataset, task, **of)
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


def largest_in_words(tables: Mapping[str, pd.DataFrame]) -> Words:
    """Which replacement changes a batch norm's output most, in how many layers: {title: `shift_scale`}."""
    told = []
    for title, table in tables.items():
        changes = table.filter(regex="^rms_").rename(columns=lambda name: name.removeprefix("rms_"))
        counts = changes.idxmax(axis=1).value_counts()
        first = sorted(counts.index[counts == counts.max()])
        each = "" if len(first) == 1 else " each"
        told.append(
            f"**{title}: replacing {' or '.join(first)} changes the output most**, in {counts.max()} of {len(table)} "
            f"layers{each}."
        )
    return Words(" ".join(told))


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


def biases(run: Run, network: str) -> Job:
    """How far the biases of the target's convolutions have gone from 0, and what gradient is there to move them.

    Returns:
        The job of DataFrame[layer, name, batch_norm, bias, gradient, kernel]; batch_norm: one follows directly; bias:
        root mean square of what began as 0; gradient, kernel: those of the loss by bias and by kernel, on one batch of
        the training part.
    """
    given = {"slices": run.data("acdc"), "batch_size": run.profile.batch_size, "seed": run.seed}
    return run.job(biases_on_batch, "biases", target=networks.model(run, network), **given)


def biases_on_batch(target: nn.Module, slices: Slices, batch_size: int, seed: int) -> pd.DataFrame:
    """See `biases`."""
    probe, part, device = copy.deepcopy(target).to(memory_format=models.LAYOUT), slices.train, device_of(target)
    index = next(training.orders(len(part.images), batch_size, seed))
    images, masks = part.images[index].to(device), part.masks[index].long().to(device)
    nowhere = torch.optim.SGD(probe.parameters(), lr=0.0)  # a step as in training, for its gradients alone
    training.advance(probe, nowhere, training.segmentation_loss, images, masks)
    table = parameter_table(target).query("kind == 'B'")[["layer", "name"]].reset_index(drop=True)
    layers = [probe.get_submodule(name) for name in table["name"]]
    values = {
        "bias": [layer.bias for layer in layers],
        "gradient": [layer.bias.grad for layer in layers],
        "kernel": [layer.weight.grad for layer in layers],
    }
    table["batch_norm"] = table["name"].isin(bn.biased_convolutions(target).values())
    return table.assign(**{name: [_rms(value) for value in each] for name, each in values.items()})


def _rms(value: Tensor) -> float:
    """Root mean square."""
    return value.detach().double().square().mean().sqrt().item()


def biases_in_words(table: pd.DataFrame, learning_rate: float) -> Words:
    """What moves a bias before batch norm, from `biases` and the step size of their training."""
    held = table[table["batch_norm"]]
    if held.empty:
        return Words("No convolution of this network has a bias before batch norm.")
    share, moved = (held["gradient"] / held["kernel"]).max(), held["bias"] > learning_rate
    none = share < ROUNDING
    what = "has no gradient but rounding error" if none else "has a gradient here"
    count = f"{moved.sum()} of {len(held)}" if moved.any() else f"none of {len(held)}"
    return Words(
        f"**A bias before batch norm {what}**: {'at most' if none else 'up to'} {share:.1g} of its kernel's. "
        f"**It {'moves all the same' if moved.any() else 'hardly moves'}**: {count} went further from 0 than one full "
        f"step of Adam, {learning_rate:g}. {_damped(held)}"
    )


def _damped(held: pd.DataFrame) -> str:
    """Whether Adam's epsilon tells the biases that moved from those that did not."""
    above = held["gradient"] > EPSILON
    if above.all() or not above.any():
        return f"{'All' if above.all() else 'None'} of their gradients exceed Adam's epsilon, {EPSILON:g}."
    far, near = held.loc[above, "bias"].mean(), held.loc[~above, "bias"].mean()
    finding = "Adam's epsilon damps the others" if far > near else "Adam's epsilon does not tell them apart"
    return f"{finding}: where the gradient exceeds {EPSILON:g} the bias is {far:.1g} on average, elsewhere {near:.1g}."
