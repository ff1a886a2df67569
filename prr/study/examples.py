"""Stand-ins for a reader's own networks and data: classifiers of digits, and segmentation networks for drawn shapes."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import resnet18

from prr import donors
from prr.distance import rmse
from prr.errors import OptionError
from prr.layers import device_of
from prr.metrics import drop_interval, nanmean
from prr.reuse import ACTIONS, apply_plan, values
from prr.samples import Samples
from prr.study.display import Words, ranged
from prr.study.jobs import Job, derived, kept_as
from prr.study.models import seed_of
from prr.study.networks import NETWORK
from prr.study.run import Run
from prr.study.training import advance, orders
from prr.study.transplants import VERDICT
from prr.verdict import Verdict, judge, rank

FEW, VALIDATION = 100, 500  # labelled digits for the target, and those that everything may be scored on
DIGITS = ("few", "validation", "other", "negative", "turned")
SHAPES = {"three": (96, 3), "two": (400, 2), "scenes": (60, 3)}  # name: (scenes, kinds of shape)
JUDGED = ("validation", "scenes")  # of which the profile says how many are used
ACCURACY = {"quick": 0.8}  # of the target, with room for other CPUs; smoke promises nothing
NETWORKS = {  # name: (architecture, classes, what it is trained on)
    "few digits": ("resnet18", 10, "few"),
    "other digits": ("resnet18", 10, "other"),
    "negatives": ("resnet18", 10, "negative"),
    "turned digits": ("resnet18", 10, "turned"),
    "three shapes": ("pspnet", 4, "three"),
    "two shapes": ("pspnet", 3, "two"),
}
SOURCES = ("other digits", "negatives", "turned digits")  # of the target "few digits"
FROZEN, WHOLE, START = "planned, frozen", "all of it, trained on", "untrained start"
CONTROLS = ("random donor", START)  # that the same plan takes from in the source's place
PLANS = {  # name: what is done instead of what the verdict's plan says
    FROZEN: {},
    "planned, trained on": {"reuse": "fine-tune"},
    WHOLE: dict.fromkeys(ACTIONS, "fine-tune"),
}
kept_as(VERDICT)(judge)  # here too, for a process that makes an example imports little else


# ------------------------------------------------------------------- images


def data(run: Run, name: str, count: int | None = None) -> Job:
    """Images and labels by name.

    Args:
        run: its profile says how many of `validation` and `scenes` there are.
        name: few, validation, other, negative or turned: scikit-learn's digits, images (n, 3, 32, 32) in -1..1 and
            labels (n,), disjoint but for the last three, which are one set as it is, with black and white exchanged,
            and turned by a quarter. three, two or scenes: see `shapes`.
        count: n at most; None: the profile's `example_images` for those that are judged on, all for the others.

    Returns:
        The job of the `Samples`.

    Raises:
        OptionError: an unknown name.
    """
    if name not in (*DIGITS, *SHAPES):
        raise OptionError(f"data {name!r}: expected one of {', '.join((*DIGITS, *SHAPES))}")
    if count is None and name in JUDGED:
        count = run.profile.example_images
    return run.job(labelled, name=name, count=count)


@derived
def labelled(name: str, count: int | None) -> Samples:
    """See `data`."""
    if name in SHAPES:
        most, kinds = SHAPES[name]
        return shapes(most if count is None else min(most, count), kinds, seed_of(0, name))
    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.target))
    parts = dict(zip(("few", "validation", "other"), np.split(order, [FEW, FEW + VALIDATION]), strict=True))
    index = parts.get(name, parts["other"])[:count]
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


# ------------------------------------------------------------------- networks


def network(run: Run, name: str) -> Job:
    """One of `NETWORKS`, in eval mode, trained for the profile's `transfer_steps`.

    Raises:
        OptionError: an unknown name.
    """
    initial = start(run, name)
    architecture, _, what = NETWORKS[name]
    job = run.job(trained, name, initial=initial, samples=data(run, what), scale=scale(run))
    return dataclasses.replace(job, labels={"network": architecture, "start": "shared", "seed": run.seed})


def start(run: Run, name: str) -> Job:
    """The untrained network from which one of `NETWORKS` begins; the same random numbers for all of an architecture.

    Raises:
        OptionError: an unknown name.
    """
    if name not in NETWORKS:
        raise OptionError(f"network {name!r}: expected one of {', '.join(map(repr, NETWORKS))}")
    return run.job(blank, name=name, seed=run.seed)


def scale(run: Run) -> dict[str, Any]:
    """How a run trains these networks: arguments of `train`."""
    names = {"steps": "transfer_steps", "batch_size": "batch_size", "learning_rate": "learning_rate"}
    return {name: getattr(run.profile, field) for name, field in names.items()} | {"seed": run.seed}


@derived
def blank(name: str, seed: int = 0, device: str = "cpu") -> nn.Module:
    """One of `NETWORKS` from random numbers, in eval mode; the global generator stays as it was."""
    architecture, classes, _ = NETWORKS[name]
    with torch.random.fork_rng():
        torch.manual_seed(seed_of(seed, architecture))
        if architecture == "resnet18":
            return resnet18(num_classes=classes).eval().to(device)
        import segmentation_models_pytorch as smp

        return smp.PSPNet("resnet18", encoder_weights=None, in_channels=1, classes=classes).eval().to(device)


def _unpacked(job: Job, tensors: dict[str, Tensor], record: dict, device: str) -> nn.Module:
    """The network in eval mode."""
    model = blank(job.needs["initial"].arguments["name"], device=device)  # whatever is random is overwritten
    model.load_state_dict(tensors)
    return model


@kept_as(NETWORK._replace(unpack=_unpacked))
def trained(initial: nn.Module, samples: Samples, scale: dict[str, Any]) -> tuple[nn.Module, pd.DataFrame]:
    """See `network`."""
    return initial, train(initial, samples, **scale)


def train(
    model: nn.Module, samples: Samples, steps: int, batch_size: int, learning_rate: float, seed: int
) -> pd.DataFrame:
    """Train a classifier or a segmentation network in place by cross-entropy; what is frozen stays as it is.

    Args:
        model: network, on the device where it is to be trained; in eval mode afterwards.
        samples: what it learns from.
        steps: optimiser steps.
        batch_size: images per step.
        learning_rate: at the first step.
        seed: of the order of the images, and of dropout.

    Returns:
        DataFrame[step, loss, validation], one line: the mean training loss; nothing is validated.
    """
    images, labels = samples.images.to(device_of(model)), samples.masks.long().to(device_of(model))
    optimiser = torch.optim.Adam([each for each in model.parameters() if each.requires_grad], learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    batches, total = orders(len(images), batch_size, seed), torch.zeros((), device=images.device)
    with torch.random.fork_rng():  # dropout draws from the global generator
        torch.manual_seed(seed)
        for _ in range(steps):
            index = next(batches).to(images.device)
            total += advance(model, optimiser, _cross_entropy, images[index], labels[index])
            schedule.step()
    model.eval()
    return pd.DataFrame({"step": [steps], "loss": [total.item() / steps], "validation": [np.nan]})


def _cross_entropy(output: Tensor, images: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(output, labels)


# ------------------------------------------------------------------- what chapter 10 asks


def expected(run: Run) -> float:
    """Accuracy that the target must reach for the chapter to mean something; 0 where nothing is promised."""
    return 0 if run.overrides else ACCURACY.get(run.profile.name, 0)


def gains(models: dict[str, nn.Module], samples: Samples) -> pd.DataFrame:
    """Scores of several networks, and what each gains over the first.

    Returns:
        DataFrame[network, score, gain, low, high, over]: accuracy or foreground Dice; 95 % paired t interval of the
        gain; over: what it resamples, images each of which is a unit.
    """
    each = scores(models, samples)
    return pd.DataFrame({"network": list(models), "score": nanmean(each), **gained(each, each[0]), "over": "images"})


def scores(models: dict[str, nn.Module], samples: Samples) -> np.ndarray:
    """Score (networks, images) of each network on each image."""
    return np.stack([values(model, samples, batch_size=100) for model in models.values()])


def gained(each: np.ndarray, base: np.ndarray) -> dict[str, np.ndarray]:
    """What the mean of each row (rows, images) gains over that of `base` (images,), with 95 % paired t intervals."""
    low, high = drop_interval(base, each)
    return {"gain": nanmean(each) - nanmean(base), "low": -high, "high": -low}


def ranks(target: nn.Module, sources: dict[str, nn.Module], verdict: Verdict) -> pd.DataFrame:
    """`prr.verdict.rank` of some networks over the layers of a verdict, whose sources they need not be."""
    return rank(target, sources, verdict.layers)


def nearness_in_words(ranked: pd.DataFrame) -> Words:
    """Whether the untrained start is nearer than the sources, from `ranks`."""
    far = ranked.set_index("source")["relative"]
    start, name = far.pop(START), far.idxmin()
    where = "nearer than every source" if start < far.min() else "not the nearest"
    return Words(f"The untrained start is {where}: {start:.2f}. The nearest source, {name}, is {far.min():.2f} away.")


def plan(run: Run, judged: Job, changes: dict[str, str] | None = None) -> Job:
    """The plan of a verdict.

    Args:
        run: whose job it is.
        judged: the verdict's.
        changes: {action: what is done instead}, such as {"reuse": "fine-tune"}; None: nothing is changed.

    Returns:
        The job of the table that `prr.apply_plan` takes.
    """
    return run.job(planned, verdict=judged, changes=changes or {})


@derived
def planned(verdict: Verdict, changes: dict[str, str]) -> pd.DataFrame:
    """See `plan`."""
    return verdict.plan().replace({"action": changes})


def outcome(
    target: nn.Module, start: nn.Module, sources: dict[str, nn.Module], verdict: Verdict,
    plans: dict[str, pd.DataFrame], few: Samples, validation: Samples, scale: dict[str, Any],
) -> pd.DataFrame:  # fmt: skip
    """How networks do that begin with parameters of the plan's source and train on few digits, beside controls.

    Args:
        target: trained on the same few digits from the same start, with nothing loaded.
        start: the untrained network.
        sources: the networks that were judged.
        verdict: says which of them the plan takes from.
        plans: {name: what to do with each parameter}, see `prr.apply_plan`.
        few: what they learn from.
        validation: what they are scored on.
        scale: arguments of `train`.

    Returns:
        DataFrame[network, source, score, gain, low, high, beyond, beyond_low, beyond_high, over]: the target, each
        source as it is, each plan, and the verdict's own plan taken from random numbers of the source's scale and from
        the untrained start. gain: over the target; beyond: over the verdict's own plan; both with 95 % paired t
        intervals.
    """
    plans, taken = {FROZEN: verdict.plan()} | plans, verdict.plan_from
    givers = dict(zip(CONTROLS, (donors.random(sources[taken], scale["seed"]), start), strict=True))
    models = {("nothing loaded", "–"): target, **{("as it is", name): source for name, source in sources.items()}}
    models |= {(name, taken): apply_plan(start, sources[taken], each) for name, each in plans.items()}
    models |= {(FROZEN, name): apply_plan(start, giver, plans[FROZEN]) for name, giver in givers.items()}
    for model in list(models.values())[1 + len(sources) :]:
        train(model, few, **scale)
    each = scores(models, validation)
    planned = list(models).index((FROZEN, taken))
    beyond = zip(("beyond", "beyond_low", "beyond_high"), gained(each, each[planned]).values(), strict=True)
    return pd.DataFrame(models.keys(), columns=["network", "source"]).assign(
        score=nanmean(each), **gained(each, each[0]), **dict(beyond), over="images"
    )


SAID = {  # what: how much, and that it is more, less, neither for sure, exactly as much
    "plan": (
        "Against nothing loaded it changes the score by",
        "Following the plan pays.",
        "Following the plan costs.",
        "Whether following the plan pays is open.",
        "Following the plan changes nothing.",
    ),
    "control": (
        "The same plan from the {}, the better control, changes the score by",
        "The plan's source does worse than a control.",
        "The plan's source matters.",
        "The plan's source shows no merit.",
        "The plan's source changes nothing.",
    ),
    "whole": (
        "Against the plan it changes the score by",
        "Loading everything and training on does better than the plan.",
        "Loading everything and training on does worse than the plan.",
        "Loading everything and training on does neither better nor worse than the plan for sure.",
        "Loading everything and training on does as the plan.",
    ),
}


def in_words(found: pd.DataFrame) -> Words:
    """Whether the plan paid, whether its source is what counted, and whether loading everything is better.

    Args:
        found: from `outcome`.
    """
    at = found.set_index(["network", "source"]).sort_index()
    (taken,) = at.loc[FROZEN].index.difference(CONTROLS)
    alone, controls = at.loc["as it is", "score"], at.loc[FROZEN].loc[[*CONTROLS]]
    best, control = alone.idxmax(), controls["beyond"].idxmax()
    lines = [
        _compared("plan", at.loc[(FROZEN, taken)], "gain", "low", "high"),
        _compared("control", controls.loc[control], "beyond", "beyond_low", "beyond_high").format(control),
    ]
    if (WHOLE, taken) in at.index:
        lines.append(_compared("whole", at.loc[(WHOLE, taken)], "beyond", "beyond_low", "beyond_high"))
    scored = f"By itself {taken} scores {alone[taken]:.2f}"
    lines.append(
        f"**The plan takes from the source that is best by itself.** {scored}."
        if best == taken
        else f"**The plan does not take from the source that is best by itself.** {scored}, {best} {alone[best]:.2f}."
    )
    return Words("\n".join(f"- {line}" for line in lines))


def _compared(what: str, row: pd.Series, *columns: str) -> str:
    """One line of `in_words`, from a difference and the ends of its interval."""
    by, more, less, unsure, equal = SAID[what]
    gain, low, high = row[[*columns]]
    finding = equal if low == high == 0 else more if low > 0 else less if high < 0 else unsure
    return f"**{finding}** {by} {ranged(gain, low, high, row['over'])}."


def jobs(run: Run) -> list[Job]:
    """What chapter 10 shows."""
    target, digits = network(run, "few digits"), data(run, "validation")
    sources = {name: network(run, name) for name in SOURCES}
    untaught, tolerance = start(run, "few digits"), run.profile.tolerance
    judged = run.job_of(judge, target, sources, digits, tolerance=tolerance)
    plans = {name: plan(run, judged, changes) for name, changes in PLANS.items()}
    three, two = network(run, "three shapes"), network(run, "two shapes")
    return [
        run.job_of(gains, {"few digits": target, **sources}, digits),
        judged,
        run.job_of(ranks, target, {**sources, START: untaught}, judged),
        run.job_of(outcome, target, untaught, sources, judged, plans, data(run, "few"), digits, scale(run)),
        run.job_of(judge, three, two, data(run, "scenes"), tolerance=tolerance),
        run.job_of(judge, untaught, target, digits, tolerance=tolerance),
        run.job_of(rmse, three, two),
    ]
