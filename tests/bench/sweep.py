"""How fast is a sweep? `python tests/bench/sweep.py` prints tables; pairs are interleaved, figures are medians.

plain: every transplant runs the whole network; inference mode, channels_last, the same batches, Dice counted on labels.
usual: what people write: load_state_dict for every transplant, a DataLoader, Dice of each slice in NumPy.
"""

import copy
import statistics
import time
from collections.abc import Callable

import click
import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from prr import reuse
from prr.layers import KINDS, parameter_table
from prr.metrics import foreground_dice
from prr.samples import Samples
from prr.study import pspnet, unet

NETWORKS = {"unet": unet, "pspnet": pspnet}


def network(name: str, width: int, seed: int, device: str) -> nn.Module:
    """Random weights and statistics: time does not depend on them."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = NETWORKS[name](width)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean, 0, 0.3)
                nn.init.uniform_(module.running_var, 0.5, 2)
    return model.to(device).eval()


def slices(count: int, size: int) -> Samples:
    """So many noise images, ten to a patient."""
    draw = torch.Generator().manual_seed(0)
    masks = torch.randint(4, (count, size, size), generator=draw, dtype=torch.uint8)
    return Samples(torch.randn(count, 1, size, size, generator=draw), masks, torch.arange(count) // 10)


def live(model: nn.Module, data: Samples) -> list[tuple[str, str]]:
    """(kind, name) of all that a sweep replaces."""
    table = parameter_table(model, data.images[:1].to(next(model.parameters()).device))
    return list(table.loc[table["live"], ["kind", "name"]].itertuples(index=False, name=None))


def plain(target: nn.Module, source: nn.Module, data: Samples, batch_size: int) -> np.ndarray:
    """Mean foreground Dice after each transplant."""
    device = next(target.parameters()).device
    model = copy.deepcopy(target).to(memory_format=torch.channels_last)
    images, found = data.images.to(device), []
    with torch.inference_mode():
        for kind, name in live(target, data):
            own = getattr(model.get_submodule(name), KINDS[kind][1])
            before = own.clone()
            own.copy_(getattr(source.get_submodule(name), KINDS[kind][1]))
            output = torch.cat([model(batch) for batch in images.split(batch_size)])
            found.append(np.nanmean(foreground_dice(output, data)))
            own.copy_(before)
    return np.array(found)


def usual(target: nn.Module, source: nn.Module, data: Samples, batch_size: int) -> np.ndarray:
    """Mean foreground Dice of the slices after each transplant."""
    device = next(target.parameters()).device
    model, found = copy.deepcopy(target), []
    loader = DataLoader(TensorDataset(data.images, data.masks), batch_size)
    for kind, name in live(target, data):
        state, key = target.state_dict(), f"{name}.{KINDS[kind][1]}"
        model.load_state_dict(state | {key: source.state_dict()[key]})
        scores = []
        with torch.no_grad():
            for images, masks in loader:
                prediction = model(images.to(device)).argmax(1).cpu().numpy()
                for mine, true in zip(prediction, masks.numpy(), strict=True):
                    for label in (1, 2, 3):
                        both = np.logical_and(mine == label, true == label).sum()
                        total = (mine == label).sum() + (true == label).sum()
                        scores.append(2 * both / total if total else np.nan)
        found.append(np.nanmean(scores))
    return np.array(found)


def fast(target: nn.Module, source: nn.Module, data: Samples, batch_size: int) -> np.ndarray:
    """What prr does."""
    return reuse.sweep(target, source, data, batch_size=batch_size)["score"].to_numpy()


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call, what the device still does included."""
    began = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began
