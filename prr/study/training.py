"""Train one network on one task; everything that decides the result is an argument."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision import tv_tensors
from torchvision.transforms import v2
from tqdm import tqdm

from prr.data import Slices
from prr.data.labels import IGNORED
from prr.errors import NetworkError
from prr.metrics import foreground_dice, nanmean, read_as
from prr.reuse import fitting, predict

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]  # (output, images, masks) -> scalar
AUXILIARY_WEIGHT = 0.4  # of PSPNet's auxiliary head, Zhao et al. 2017
CHECKPOINTS, APART = 12, 100  # lines of a history at most, and steps between two of them at least


def segmentation_loss(output: Tensor, images: Tensor, masks: Tensor) -> Tensor:
    """Cross-entropy plus soft Dice loss over the foreground classes.

    Args:
        output: (b, classes, h, w) logits.
        images: (b, channels, h, w), not used.
        masks: (b, h, w) int64; pixels of IGNORED are not counted.

    Source: Milletari et al. 2016, doi:10.1109/3DV.2016.79, in the form without squares.
    """
    probability = output.softmax(1)[:, 1:].where(masks[:, None] != IGNORED, 0)
    classes = torch.arange(1, output.shape[1], device=masks.device)
    truth = masks[:, None] == classes.reshape(-1, 1, 1)
    both, total = (probability * truth).sum((0, 2, 3)), probability.sum((0, 2, 3)) + truth.sum((0, 2, 3))
    soft_dice = (2 * both + 1) / (total + 1)  # + 1 pixel: a class that a batch lacks counts as right if not predicted
    return functional.cross_entropy(output, masks, ignore_index=IGNORED) + 1 - soft_dice.mean()


def autoencoding_loss(output: Tensor, images: Tensor, masks: Tensor) -> Tensor:
    """Mean square error of every output channel against the input image, as in the paper; of several, each in turn."""
    return functional.mse_loss(output, images[:, [each % images.shape[1] for each in range(output.shape[1])]])


LOSSES = {"segmentation": segmentation_loss, "auto-encoding": autoencoding_loss, "denoising": autoencoding_loss}
TASKS = ("segmentation", "auto-encoding")  # the paper's


def hidden(images: Tensor, side: int = 8, share: float = 0.5) -> Tensor:
    """Images (n, 1, h, w) with a random share of their squares set to 0: what a denoising auto-encoder is given.

    A network whose connections carry the image to its end can copy it, and so learns little; it can't copy these.

    Source: Vincent et al. 2008, doi:10.1145/1390156.1390294; in squares: He et al. 2022,
    doi:10.1109/CVPR52688.2022.01553.
    """
    count, _, height, width = images.shape
    kept = torch.rand(count, 1, -(-height // side), -(-width // side)) >= share
    kept = kept.repeat_interleave(side, 2).repeat_interleave(side, 3)[..., :height, :width]
    return images * kept.to(images.device)


def given(images: Tensor, task: str) -> Tensor:
    """What a network sees of the images in training for a task."""
    return hidden(images) if task == "denoising" else images


def fit(
    model: nn.Module,
    data: Slices,
    task: str,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    progress: bool = True,
    checkpoints: int | None = None,
) -> pd.DataFrame:
    """Train a network in place on `data.train`; Adam, cosine decay to 0. Repeatable on the same CPU and threads.

    Parameters that are frozen (requires_grad False) stay as they are.

    Args:
        model: network, on the device where it is to be trained.
        data: slices with a train and a validation part.
        task: segmentation, auto-encoding or denoising.
        steps: optimiser steps.
        batch_size: slices per step.
        learning_rate: at the first step.
        seed: of the order of the slices and of the augmentation.
        progress: show a bar on stderr.
        checkpoints: about so many lines the history has, each of which costs a pass over the validation part; 0: none;
            None: one in APART steps, CHECKPOINTS at most.

    Returns:
        DataFrame[step, loss, validation]: mean training loss since the last line, and on the validation part the mean
        foreground Dice (segmentation) or the mean square error (the others).

    Raises:
        NetworkError: every parameter is frozen, or training has diverged.
        JobError: a step does not fit into the device's memory.
    """
    device = next(model.parameters()).device
    model.to(memory_format=torch.channels_last)
    part = data.train
    images, masks = part.images.to(device), part.masks.to(device)
    free = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not free:
        raise NetworkError(f"{type(model).__name__}: every parameter is frozen, nothing is left to train; free some")
    optimiser = torch.optim.Adam(free, lr=learning_rate, fused=True)  # all tensors in one pass
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    augment = v2.RandomAffine(15, (0.05, 0.05), (0.9, 1.1), fill={tv_tensors.Image: float(images.min()), "others": 0})
    history, total = [], torch.zeros((), device=device)
    lines = min(CHECKPOINTS, max(1, steps // APART)) if checkpoints is None else checkpoints
    every = max(steps // lines, 1) if lines else math.inf
    with torch.random.fork_rng(), fitting(batch_size):  # the transforms draw from the global generator
        torch.manual_seed(seed)
        batches = orders(len(images), batch_size, seed)
        for step in tqdm(range(1, steps + 1), task, mininterval=1, disable=not progress):
            index = next(batches).to(device)
            image, mask = augment(tv_tensors.Image(images[index]), tv_tensors.Mask(masks[index]))
            image, mask = image.as_subclass(Tensor), mask.as_subclass(Tensor).long()
            total += advance(model, optimiser, LOSSES[task], image, mask, given(image, task))
            schedule.step()
            if step % every == 0 or (lines and step == steps):
                since = step - (history[-1][0] if history else 0)
                history.append((step, total.item() / since, validate(model, data.validation, task, batch_size)))
                total.zero_()
    if not all(value.isfinite().all() for value in model.state_dict().values()):
        raise NetworkError(
            f"{type(model).__name__}, {task}: NaN or infinite weights after training with learning_rate="
            f"{learning_rate:g}; take a smaller one"
        )
    return pd.DataFrame(history, columns=["step", "loss", "validation"])


def cost_per_slice(model: nn.Module, size: int, channels: int = 1) -> tuple[float, float]:
    """Seconds that one slice of a training step takes, and bytes that its forward pass keeps for the backward pass.

    Measured on a batch of two; the network is changed by it.
    """
    device = next(model.parameters()).device
    images = torch.randn(2, channels, size, size, device=device)
    masks = torch.zeros(2, size, size, dtype=torch.long, device=device)
    model.to(memory_format=torch.channels_last)  # as `fit` does
    optimiser = torch.optim.Adam(model.parameters())
    kept: dict[int, int] = {}

    def note(value: Tensor) -> Tensor:
        kept[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
        advance(model, optimiser, segmentation_loss, images, masks).item()
    for value in model.state_dict().values():  # kept in any case
        kept.pop(value.untyped_storage().data_ptr(), None)
    began = time.perf_counter()  # not of the first step, which allocates
    advance(model, optimiser, segmentation_loss, images, masks).item()
    return (time.perf_counter() - began) / 2, sum(kept.values()) / 2


def advance(
    model: nn.Module, optimiser: torch.optim.Optimizer, loss_of: Loss, images: Tensor, masks: Tensor,
    seen: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """One step; returns the loss, the auxiliary head's included. `seen`: what the network is given, if not `images`."""
    model.train()
    output = model(images if seen is None else seen)
    losses = [loss_of(each, images, masks) for each in (output if isinstance(output, tuple) else (output,))]
    loss = losses[0] + AUXILIARY_WEIGHT * sum(losses[1:])
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()
    return loss.detach()


def orders(count: int, batch_size: int, seed: int) -> Iterator[Tensor]:
    """Batches of indices without end: each pass over the data in a fresh order, batches run on across passes."""
    generator = torch.Generator().manual_seed(seed)
    queue = torch.empty(0, dtype=torch.long)
    while True:
        while len(queue) < batch_size:
            queue = torch.cat([queue, torch.randperm(count, generator=generator)])
        yield queue[:batch_size]
        queue = queue[batch_size:]


def validate(model: nn.Module, part: Slices, task: str, batch_size: int = 32) -> float:
    """Mean foreground Dice over patients, or mean square error."""
    with torch.random.fork_rng():
        torch.manual_seed(0)  # every validation hides the same squares
        output = predict(model.eval(), given(part.images, task), batch_size)
    if task == "segmentation":
        return float(nanmean(read_as(foreground_dice, 0.0, part.ignore)(output, part)))
    return autoencoding_loss(output, part.images.to(output.device), part.masks).item()
