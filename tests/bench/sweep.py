"""How fast is a sweep? `python tests/bench/sweep.py` prints tables; pairs are interleaved, figures are medians.

plain: every transplant runs the whole network; inference mode, channels_last, the same batches, Dice counted on labels.
bfloat16: what prr does in half precision.
usual: what people write: load_state_dict for every transplant, a DataLoader, Dice of each slice in NumPy.
"""

import copy
import functools
import platform
import resource
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
            own = getattr(model.get_submodule(name), KINDS[kind].attribute)
            before = own.clone()
            own.copy_(getattr(source.get_submodule(name), KINDS[kind].attribute))
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
        state, key = target.state_dict(), f"{name}.{KINDS[kind].attribute}"
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


def fast(target: nn.Module, source: nn.Module, data: Samples, batch_size: int, bfloat16: bool = False) -> np.ndarray:
    """What prr does."""
    table = reuse.sweep(target, source, data, batch_size=batch_size, bfloat16=bfloat16).set_index(["kind", "name"])
    return table.loc[live(target, data), "score"].to_numpy()


def timed(work: Callable, *arguments: object, **options: object) -> tuple[float, object]:
    """Wall seconds of one call, what the device still does included, and what it gives."""
    began = time.perf_counter()
    result = work(*arguments, **options)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began, result


def operations(model: nn.Module, data: Samples) -> float:
    """How much faster a sweep can be at most if it only leaves out convolutions that run before the changed layer.

    Counts multiplications of convolutions: the whole network for each row, over what comes after each row's layer, its
    own convolution included for W and B.
    """
    order, spent = [], []

    def note(module: nn.Module, inputs: tuple, output: torch.Tensor, name: str) -> None:
        order.append(name)
        size = output.numel() * module.weight[0].numel() if isinstance(module, nn.Conv2d) else 0
        if isinstance(module, nn.ConvTranspose2d):
            size = inputs[0].numel() * module.weight[0].numel()
        spent.append(size)

    probe = copy.deepcopy(model)
    for name, module in probe.named_modules():
        if not list(module.children()):
            module.register_forward_hook(lambda *each, name=name: note(*each, name))
    with torch.no_grad():
        probe(data.images[:1].to(next(model.parameters()).device))
    after = {name: sum(spent[place:]) for place, name in enumerate(order)}
    rows = live(model, data)
    return len(rows) * sum(spent) / sum(after[name] for _, name in rows)


def ratio(slow: list[float], quick: list[float]) -> float:
    """Median over rounds; the slower way may have taken part in the first ones only."""
    return statistics.median(one / other for one, other in zip(slow, quick, strict=False))


WAYS = {"plain": plain, "prr": fast, "bfloat16": functools.partial(fast, bfloat16=True), "usual": usual}


@click.command()
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", show_default=True)
@click.option("--width", default=16, show_default=True)
@click.option("--size", default=64, show_default=True, help="Pixels.")
@click.option("--images", default=120, show_default=True)
@click.option("--batch-size", default=32, show_default=True)
@click.option("--pairs", default=9, show_default=True, help="Rounds of plain and prr, one after the other.")
@click.option("--network", "names", multiple=True, default=NETWORKS, type=click.Choice(NETWORKS))
def main(device: str, width: int, size: int, images: int, batch_size: int, pairs: int, names: tuple[str, ...]) -> None:
    """Compare a sweep with two other ways to write it, and show how its cost grows."""
    where = torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()} x {torch.get_num_threads()}"
    print(f"{where}, torch {torch.__version__}: width {width}, {size} px, {images} images, batches of {batch_size}")
    rows, growth = [], []
    for name in names:
        pair, data = [network(name, width, seed, device) for seed in (1, 2)], slices(images, size)
        scores, times = {}, {way: [] for way in WAYS}
        for number in range(pairs):
            for way in WAYS if number < 3 else ("plain", "prr", "bfloat16"):  # the usual loop takes minutes
                spent, scores[way] = timed(WAYS[way], *pair, data, batch_size)
                times[way].append(spent)
        medians = {way: statistics.median(each) for way, each in times.items()}
        gains = [ratio(times[way], times["prr"]) for way in ("plain", "usual")]
        gains += [ratio(times["plain"], times["bfloat16"]), operations(pair[0], data)]
        apart = [np.abs(scores["plain"] - scores[way]).max() for way in ("prr", "bfloat16")]
        rows.append((name, *medians.values(), *gains, *apart))
        for factor in (1, 2, 4):
            part, layers = slices(images * factor // 4, size), list(range(1, 2 * factor + 1))
            by_images, _ = timed(fast, *pair, part, batch_size)
            by_layers, _ = timed(reuse.sweep, *pair, data, kinds=["W"], layers=layers, batch_size=batch_size)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            growth.append((name, len(part.images), by_images, len(layers), by_layers, peak))
    columns = ["network", *(f"{way} s" for way in WAYS), "plain/prr", "usual/prr", "plain/bfloat16", "by operations"]
    columns += ["scores differ by", "in bfloat16"]
    print(pd.DataFrame(rows, columns=columns).to_string(index=False, float_format="{:.3g}".format))
    columns = ["network", "images", "all layers, s", "layers of W", "all images, s", "peak GiB so far"]
    print(pd.DataFrame(growth, columns=columns).to_string(index=False, float_format="{:.3g}".format))


if __name__ == "__main__":
    main()
