"""The networks of a run: what each depends on, its training, its history."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import nn

from prr.errors import NetworkError, OptionError
from prr.study import profiles, training
from prr.study.backbones import ARCHITECTURES, SIZED_AS, random
from prr.study.models import derived
from prr.study.starts import Start, checked_start, initial, pretext
from prr.study.store import Key, digest
from prr.study.transfer import draw

if TYPE_CHECKING:
    from prr.study.experiment import Experiment


def model(
    run: Experiment, network: str, dataset: str = "acdc", task: str = "segmentation", start: Start | None = None,
    seed: int | None = None, patients: int | None = None, common: int | None = None, **scale: float,
) -> nn.Module:  # fmt: skip
    """A trained network in eval mode, from the store or trained now.

    Args:
        run: profile, data and store.
        network: unet or pspnet, or another of `prr.study.backbones.ARCHITECTURES`.
        dataset: acdc, t1, rvsc or textures.
        task: segmentation, auto-encoding or denoising.
        start: see `prr.study.starts.initial`, or pretext: a network trained to segment textures; None: the profile's.
        seed: None: the experiment's.
        patients: train on so many patients only, drawn by the seed from the training part; None: on all of it.
        common: seed of what the start has in common with other networks; None: `seed`.
        scale: steps or learning_rate, where they are not the profile's.

    Raises:
        OptionError: an unknown network, data set, task or start, or more patients than there are.
        NetworkError: training has diverged.
        MissingError: the run only reads, and it is not there; an edition keeps no networks.
    """
    return trained(run, run.key(network, dataset, task, start, seed, patients, common, **scale))


def history(
    run: Experiment, network: str, dataset: str = "acdc", task: str = "segmentation", start: Start | None = None,
    seed: int | None = None,
) -> pd.DataFrame:  # fmt: skip
    """DataFrame[step, loss, validation] of a network's training; arguments as `model`."""
    key = run.key(network, dataset, task, start, seed)
    if not run.store.holds("networks", key):
        trained(run, key)
    note(run, key)
    return pd.DataFrame(**run.store.record("networks", key)["history"])


def start(
    run: Experiment, network: str, dataset: str = "acdc", task: str = "segmentation", start: Start | None = None,
    seed: int | None = None, common: int | None = None,
) -> nn.Module:  # fmt: skip
    """The network from which the training of `model` with these arguments began, in eval mode."""
    begun = begin(run, run.key(network, dataset, task, start, seed, None, common))
    return begun.to(run.device, memory_format=torch.channels_last).eval()


def untrained(run: Experiment, network: str) -> nn.Module:
    """A network of the run's width as it was never used, for its layers alone; on the CPU, in eval mode."""
    return random(network, getattr(run.profile, f"{SIZED_AS[network]}_width"), 0).eval()


def key(
    run: Experiment, network: str, dataset: str = "acdc", task: str = "segmentation", start: Start | None = None,
    seed: int | None = None, patients: int | None = None, common: int | None = None, **scale: float,
) -> Key:  # fmt: skip
    """All that a trained network depends on, and nothing else; arguments as `model`."""
    for value, known, what in ((network, ARCHITECTURES, "network"), (task, training.LOSSES, "task")):
        if value not in known:
            raise OptionError(f"{what} {value!r}: expected one of {', '.join(known)}")
    if strange := sorted(set(scale) - {"steps", "learning_rate"}):
        raise OptionError(f"{', '.join(strange)}: expected steps or learning_rate; make a variant for the others")
    scale = profiles.profile(run.profile.name, **run.overrides | scale)
    start = checked_start(getattr(scale, f"{SIZED_AS[network]}_start") if start is None else start, network)
    seed = run.seed if seed is None else checked_seed(seed)
    key = {
        "network": network,
        "data set": dataset,
        "task": task,
        "start": start,
        "seed": seed,
        "width": getattr(scale, f"{SIZED_AS[network]}_width"),
        "normalisation": scale.normalisation,
        "data": run.facts(dataset)["content"],
        **{name: getattr(scale, name) for name in ("steps", "batch_size", "learning_rate")},
        **run.machine,
        "recipe": run.recipes["training"],
        **({} if patients is None else {"patients": patients}),
        **({} if common in (None, seed) or start in ("independent", "imagenet") else {"common": common}),
    }
    if start == "pretext":
        key["pretext"] = digest(run.key(network, **pretext(key.get("common", seed))))
    return key


def checked_seed(seed: int) -> int:
    """The seed, if it is one.

    Raises:
        OptionError: no whole number from 0.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise OptionError(f"seed={seed!r}: expected a whole number from 0")
    return seed


def trained(run: Experiment, key: Key) -> nn.Module:
    """The network of a key, from the store or trained now."""
    tensors, _ = run.store.tensors("networks", key, lambda: _train(run, key))
    model = random(key["network"], key["width"], 0)  # whatever is random is overwritten
    model.load_state_dict(tensors)
    note(run, key)
    return model.to(run.device, memory_format=torch.channels_last).eval()


def note(run: Experiment, key: Key) -> None:
    """Keep for `provenance` that a network of the store was used; one that has been cleaned away can't tell."""
    if record := run.store.record("networks", key):
        run.note(key, key, key["task"] + (f", {key['patients']} patients" if "patients" in key else ""), record)


def begin(run: Experiment, key: Key) -> nn.Module:
    """The untrained network of a key."""
    if key["start"] == "pretext":
        return run.model(key["network"], **pretext(key.get("common", key["seed"])))
    names = ("network", "width", "start", "data set", "task", "seed")
    return initial(*(key[name] for name in names), key.get("common"))


def _train(run: Experiment, key: Key) -> tuple[dict, dict]:
    model, slices = begin(run, key), run.slices(key["data set"])
    if "patients" in key:
        slices = draw(slices, key["patients"], key["seed"])
    with run.measured() as cost:
        history = training.fit(
            model.to(run.device),
            slices,
            key["task"],
            seed=derived(key["seed"], key["data set"], key["task"]),
            progress=run.progress,
            **{name: key[name] for name in ("steps", "batch_size", "learning_rate")},
        )
    if not all(value.isfinite().all() for value in model.state_dict().values()):
        raise NetworkError(
            f"{key['network']}, {key['task']}: NaN or infinite weights after training with learning_rate="
            f"{key['learning_rate']:g}; take a smaller one"
        )
    return model.state_dict(), {"history": history.to_dict("split", index=False), **cost}
