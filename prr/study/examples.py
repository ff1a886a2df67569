"""Stand-ins for a reader's own networks and data: classifiers of digits, and segmentation networks for drawn shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import resnet18

from prr.errors import OptionError
from prr.metrics import drop_interval, nanmean, score_of
from prr.reuse import apply_plan, values
from prr.samples import Samples
from prr.study.jobs import together
from prr.study.models import derived
from prr.study.store import Key, digest
from prr.study.training import advance, orders
from prr.study.transplants import packed, unpacked
from prr.verdict import Verdict

if TYPE_CHECKING:
    from prr.study.experiment import Experiment

T = TypeVar("T", pd.DataFrame, Verdict)
# Goes into every stored example's key: raise it when a change here changes what training gives.
RECIPE = 1
FEW, VALIDATION = 100, 500  # labelled digits for the target, and those that everything may be scored on
ACCURACY = {"quick": 0.8}  # of the target, with room for other CPUs; smoke promises nothing
NETWORKS = {  # name: (architecture, classes, what it is trained on)
    "few digits": ("resnet18", 10, "few"),
    "other digits": ("resnet18", 10, "other"),
    "negatives": ("resnet18", 10, "negative"),
    "turned digits": ("resnet18", 10, "turned"),
    "three shapes": ("pspnet", 4, "three"),
    "two shapes": ("pspnet", 3, "two"),
}


def data(run: Experiment, name: str) -> Samples:
    """Images and labels by name.

    Args:
        run: its profile says how many are judged on, of `validation` and `scenes`.
        name: few, validation, other, negative or turned: scikit-learn's digits, images (n, 3, 32, 32) in -1..1 and
            labels (n,), disjoint but for the last three, which are one set as it is, with black and white exchanged,
            and turned by a quarter. three, two or scenes: see `shapes`.

    Raises:
        OptionError: an unknown name.
    """
    if name in ("three", "two", "scenes"):
        most = run.profile.example_images
        count, kinds = {"three": (96, 3), "two": (400, 2), "scenes": (min(60, most), 3)}[name]
        return shapes(count, kinds, derived(0, name))
    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.target))
    parts = dict(zip(("few", "validation", "other"), np.split(order, [FEW, FEW + VALIDATION]), strict=True))
    if name not in (*parts, "negative", "turned"):
        raise OptionError(f"data {name!r}: expected {', '.join(parts)}, negative, turned, three, two or scenes")
    index = parts.get(name, parts["other"])
    index = index[: run.profile.example_images] if name == "validation" else index
    images = torch.tensor(bunch.images[index], dtype=torch.float32)[:, None] / 8 - 1
    images = -images if name == "negative" else images.rot90(1, (2, 3)) if name == "turned" else images
    images = functional.interpolate(images, size=(32, 32), mode="bilinear").expand(-1, 3, -1, -1).contiguous()
    return Samples(images, torch.tensor(bunch.target[index]), torch.arange(len(index)))


def shapes(count: int, kinds: int, seed: int, size: int = 64) -> Samples:
    """Scenes with a disc, a square and, if there are three kinds, a ring, on a noisy ground; one label for each kind.

    Returns:
        images (count, 1, size, size), masks (count, size, size) with labels 0..kinds.
    """
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    masks = torch.zeros(count, size, size, dtype=torch.uint8)
    for mask in masks:
        for label in range(1, kinds + 1):
            y, x = (torch.rand(2, generator=generator) * 0.7 + 0.15) * size
            radius = (torch.rand(1, generator=generator) * 0.08 + 0.14) * size
            distance = ((rows - y) ** 2 + (columns - x) ** 2).sqrt()
            square = torch.maximum((rows - y).abs(), (columns - x).abs())
            ring = (distance < radius) & (distance > radius / 2)
            mask[(distance < radius, square < radius, ring)[label - 1]] = label
    brightness = torch.tensor([0.0, 1.0, 1.0, 1.0])[masks.long()] + 0.3 * torch.randn(masks.shape, generator=generator)
    return Samples(brightness[:, None], masks, torch.arange(count))


def start(run: Experiment, name: str) -> nn.Module:
    """The untrained network from which one of `NETWORKS` begins; the same random numbers for all of an architecture.

    Raises:
        OptionError: an unknown name.
    """
    if name not in NETWORKS:
        raise OptionError(f"network {name!r}: expected one of {', '.join(map(repr, NETWORKS))}")
    architecture, classes, _ = NETWORKS[name]
    with torch.random.fork_rng():
        torch.manual_seed(derived(run.seed, architecture))
        if architecture == "resnet18":
            return resnet18(num_classes=classes).eval().to(run.device)
        import segmentation_models_pytorch as smp

        return smp.PSPNet("resnet18", encoder_weights=None, in_channels=1, classes=classes).eval().to(run.device)


def trained(run: Experiment, name: str) -> nn.Module:
    """One of `NETWORKS`, in eval mode, from the store or trained now for the profile's `transfer_steps`.

    An edition keeps no weights: they are all NaN then, and only what `once` has kept can be told of such a network.
    """
    model, key = start(run, name), _key(run, name)
    if run.edition:
        return hollow(model)

    def make() -> tuple[dict[str, Tensor], dict]:
        with run.measured() as cost:
            train(run, model, data(run, NETWORKS[name][2]))
        return model.state_dict(), cost

    model.load_state_dict(run.store.tensors("networks", key, make)[0])
    return model.eval()


def _key(run: Experiment, name: str) -> Key:
    scale = ("transfer_steps", "batch_size", "learning_rate")
    return {
        "example": name,
        "seed": run.seed,
        **{each: getattr(run.profile, each) for each in scale},
        **run.machine,
        "recipe": run.recipes["examples"],
    }


def hollow(model: nn.Module) -> nn.Module:
    """The same layers without what they have learned: every floating-point tensor is NaN, in place."""
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.fill_(torch.nan)
    return model.eval()


def once(run: Experiment, what: str, function: Callable[..., T], *arguments: Any) -> T:
    """`function(*arguments)` with the run's threads, kept under the name `what`: from the store or called now.

    Args:
        run: gives scale, seed and store; all that is made of the example networks is made again if one of them changes.
        what: names the result; another call, or one with other numbers, needs another name.
        function: returns a table or a verdict.
        arguments: example networks and their data.
    """
    key = {"table": f"example {what}", "networks": [digest(_key(run, name)) for name in NETWORKS]}
    key |= {"images": run.profile.example_images, "function": function.__qualname__}
    key |= {"given": [list(each) if isinstance(each, dict) else type(each).__name__ for each in arguments]}
    key |= {"recipe": [run.recipes[each] for each in ("reuse", "verdict", "measures")]}

    def make() -> tuple[pd.DataFrame, dict]:
        found = function(*arguments)
        return packed(found) if isinstance(found, Verdict) else (found, {})

    table, record = run.kept(key, [], what, make)
    return unpacked(table, record) if "facts" in record else table


def prepare(run: Experiment) -> None:
    """Train those of `NETWORKS` that the store does not have, several at a time."""
    together([(run, "example", {"name": name}) for name in NETWORKS])


def train(run: Experiment, model: nn.Module, samples: Samples) -> nn.Module:
    """Train a classifier or a segmentation network in place by cross-entropy; what is frozen stays as it is.

    Args:
        run: gives steps (`transfer_steps`), batch size, learning rate, seed and threads.
        model: network on the run's device.
        samples: what it learns from.

    Returns:
        The same network, in eval mode.
    """
    images, labels = samples.images.to(run.device), samples.masks.long().to(run.device)
    optimiser = torch.optim.Adam([each for each in model.parameters() if each.requires_grad], run.profile.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, run.profile.transfer_steps)
    batches = orders(len(images), run.profile.batch_size, run.seed)
    with run.threads():
        for _ in range(run.profile.transfer_steps):
            index = next(batches).to(run.device)
            advance(model, optimiser, _cross_entropy, images[index], labels[index])
            schedule.step()
    return model.eval()


def expected(run: Experiment) -> float:
    """Accuracy that the target must reach for the chapter to mean something; 0 where nothing is promised."""
    return 0 if run.overrides else ACCURACY.get(run.profile.name, 0)


def gains(models: dict[str, nn.Module], samples: Samples) -> pd.DataFrame:
    """Scores of several networks, and what each gains over the first.

    Returns:
        DataFrame[network, score, gain, low, high]: accuracy or foreground Dice; 95 % paired bootstrap interval of the
        gain over units.
    """
    score = score_of(None, samples)
    each = np.stack([values(model, samples, score, 100) for model in models.values()])
    low, high = drop_interval(each[0], each)
    reached = nanmean(each)
    columns = {"score": reached, "gain": reached - reached[0], "low": -high, "high": -low}
    return pd.DataFrame({"network": list(models), **columns})


def outcome(
    run: Experiment, target: nn.Module, begin: nn.Module, source: nn.Module, plans: dict[str, pd.DataFrame]
) -> pd.DataFrame:
    """`gains` of networks that begin with a source's parameters as planned and train on few digits, over the target.

    Args:
        run: see `train`.
        target: trained on the same few digits from the same start, with nothing loaded.
        begin: the untrained network.
        source: the network that gives.
        plans: {name: what to do with each parameter}, see `prr.apply_plan`.
    """
    few = data(run, "few")
    models = {name: train(run, apply_plan(begin, source, plan), few) for name, plan in plans.items()}
    return gains({"nothing loaded": target, **models}, data(run, "validation"))


def _cross_entropy(output: Tensor, images: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(output, labels)
