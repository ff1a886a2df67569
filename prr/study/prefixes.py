"""Many layers at once: transplants without training, and prefixes with it, as in Yosinski et al. 2014."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn

from prr import donors, reuse
from prr.data import Slices
from prr.errors import NetworkError, OptionError
from prr.figures import Words
from prr.layers import parameter_table
from prr.metrics import crossed_interval, foreground_dice
from prr.study import grid, paper, training
from prr.study.jobs import Call
from prr.study.models import TITLES, derived
from prr.study.starts import initial
from prr.study.store import Key, digest

if TYPE_CHECKING:
    from prr.study.experiment import Experiment

# Goes into every stored table's key: raise it when a change here changes what a transplant or a training gives.
RECIPE = 1
DEPTHS = 5  # numbers of layers for which prefixes are tried
TOLERANCE = paper.tolerances()["drop"]
JOINT = ("source", "other seed", "start", "random")
KERNELS, UNITS, PREFIX, NONE = "passing kernels", "passing kernels with batch norm", "first layers", "nothing"


class Prefix(NamedTuple):
    """What the first layers of a fresh network get, and whether they are fixed."""

    giver: str  # source, own or "" for what the fresh network has
    frozen: bool


# Yosinski's names: A is the source's task, B the target's; + is trained on
PREFIXES = {
    "source, frozen (AnB)": Prefix("source", True),
    "source, trained on (AnB+)": Prefix("source", False),
    "own, frozen (BnB)": Prefix("own", True),
    "own, trained on (BnB+)": Prefix("own", False),
    "untrained, frozen": Prefix("", True),
}
NOTHING, UNTRAINED = "nothing loaded", "untrained, frozen"


def units(model: nn.Module, example: torch.Tensor) -> pd.DataFrame:
    """Live tensors in order of execution with their unit: a convolution and what runs before the next one.

    Returns:
        DataFrame[kind, layer, name, unit], units from 1.
    """
    table = parameter_table(model, example)
    table = table[table["live"]]
    return table.assign(unit=(table["kind"] == "W").cumsum())[["kind", "layer", "name", "unit"]].reset_index(drop=True)


def depths(count: int) -> list[int]:
    """Numbers of first layers to try, evenly from few to all but the classifier."""
    return sorted(set(np.linspace(0, count - 1, DEPTHS + 1).round().astype(int).tolist()) - {0})


# ---------------------------------------------------------------- without training


def joint_calls(run: Experiment, network: str) -> Iterator[Call]:
    """One for each target."""
    for seed in grid.seeds(run, "joint transplants")[0]:
        yield run, "jointly", {"network": network, "seed": seed}


def jointly(run: Experiment, network: str, seed: int) -> pd.DataFrame:
    """Sets of parameters put into a target at once, without training; from the store or made now.

    The sets: the kernels whose drop by the source, mean over patients, is within the tolerance one by one; the same
    with what stands between them and the next convolution (bias and batch norm); the first n layers with all that they
    have. Each is scored as it is, and with running statistics estimated anew on the validation images.

    Args:
        run: at the scale of the chapter.
        network: unet or pspnet.
        seed: of the target.

    Returns:
        DataFrame[network, target, control, set, n, recalibrated, drop]; n: layers that are replaced. The last row,
        control own, has nothing replaced and statistics estimated anew.
    """
    other = grid.seeds(run, "joint transplants")[1][0]
    judged, givers = grid.target(seed), {"source": grid.source(other, seed)}
    givers["other seed"] = grid.again(other, seed)
    keys = [run.key(network, **each) for each in (judged, *givers.values())]

    def make() -> tuple[pd.DataFrame, dict]:
        model, part = run.model(network, **judged), run.slices("acdc").validation.every(run.profile.grid_every)
        models = {name: run.model(network, **each) for name, each in givers.items()}
        models |= {"start": run.start(network, **judged), "random": donors.random(model, seed)}
        table = units(model, part.images[:1].to(run.device))
        own = reuse.values(model, part, foreground_dice, batch_size=32)
        drop = run.drops(network, judged, givers["source"]).groupby("layer")["drop"].mean()
        passing = table[table["kind"].eq("W") & table["layer"].isin(drop.index[drop <= TOLERANCE])]["unit"]
        sets = {
            (KERNELS, len(passing)): table[table["unit"].isin(passing) & (table["kind"] == "W")],
            (UNITS, len(passing)): table[table["unit"].isin(passing)],
            **{(PREFIX, n): table[table["unit"] <= n] for n in depths(table["unit"].max())},
        }
        rows = [
            (name, *each, *_both(model, models[name], part, pairs, own))
            for name in JOINT
            for each, pairs in sets.items()
        ]
        rows.append(("own", NONE, 0, *_both(model, model, part, table.head(0), own)))
        found = pd.DataFrame(rows, columns=["control", "set", "n", "False", "True"])
        found = found.melt(["control", "set", "n"], ["False", "True"], "recalibrated", "drop")
        return found.assign(recalibrated=found["recalibrated"] == "True"), {}

    key = {"table": "jointly", "tolerance": TOLERANCE}
    key |= {"recipe": [run.recipes[each] for each in ("prefixes", "reuse", "donors")]}
    key |= {"every": run.profile.grid_every, "networks": [digest(each) for each in keys]}
    found = run.kept(key, keys, "joint transplants", make)[0]
    return pd.DataFrame({"network": network, "target": seed}, found.index).join(found)


def _both(model: nn.Module, source: nn.Module, part: Slices, pairs: pd.DataFrame, before: np.ndarray) -> list[float]:
    """The drops of `prr.reuse.joint` with running statistics as they come, and anew."""
    found = [reuse.joint(model, source, part, pairs, recalibrated=anew, before=before) for anew in (False, True)]
    return [each["drop"] for each in found]


def joint(run: Experiment, network: str) -> pd.DataFrame:
    """`jointly` of all targets."""
    return pd.concat([run.jointly(**arguments) for _, _, arguments in joint_calls(run, network)], ignore_index=True)


def joint_means(joint: pd.DataFrame) -> pd.DataFrame:
    """DataFrame[network, control, set, n, recalibrated, drop, least, most]: over targets; n: mean."""
    keys = ["network", "control", "set", "recalibrated"]
    first = joint["n"].where(joint["set"] == PREFIX, 0)
    groups = joint.assign(depth=first).groupby([*keys, "depth"], sort=False)
    table = groups.agg(n=("n", "mean"), drop=("drop", "mean"), least=("drop", "min"), most=("drop", "max"))
    return table.reset_index().drop(columns="depth")


# ---------------------------------------------------------------- with training


def trained_calls(run: Experiment, network: str) -> Iterator[Call]:
    """One for each training of a prefix."""
    count = _layers(run, network)
    for seed in grid.seeds(run, "prefixes with training")[0]:
        yield run, "prefix", {"network": network, "seed": seed, "prefix": NOTHING, "n": 0}
        for prefix in PREFIXES:
            for n in depths(count):
                yield run, "prefix", {"network": network, "seed": seed, "prefix": prefix, "n": n}


def _layers(run: Experiment, network: str) -> int:
    """Live convolutions of a network."""
    model = initial(network, getattr(run.profile, f"{network}_width"), "independent", "prefix", "segmentation", 0)
    size = run.profile.size
    return int(units(model.eval(), torch.zeros(1, 1, size, size))["unit"].max())


def prefix(run: Experiment, network: str, seed: int, prefix: str, n: int) -> pd.DataFrame:
    """Load the first n layers into a fresh network, train the rest for a short time; from the store or made now.

    The fresh network has a start of its own. An untrained prefix is that network's own, fixed but for its running
    statistics, which belong to no other network.

    Args:
        run: at the scale of the chapter.
        network: unet or pspnet.
        seed: of the target that is "own", of the fresh start, order and augmentation.
        prefix: one of PREFIXES, or "nothing loaded".
        n: convolutions from the input, each with what stands before the next.

    Returns:
        DataFrame[network, target, prefix, n, patient, dice]: foreground Dice of the validation patients.

    Raises:
        OptionError: an unknown prefix.
        NetworkError: training has diverged.
    """
    if prefix not in (*PREFIXES, NOTHING):
        raise OptionError(f"prefix {prefix!r}: expected one of {', '.join((*PREFIXES, NOTHING))}")
    giver, frozen = PREFIXES.get(prefix, Prefix("", False))
    source = {"source": grid.source(grid.seeds(run, "prefixes with training")[1][0], seed), "own": grid.target(seed)}
    key = run.key(network, "acdc", "segmentation", "independent", seed, steps=grid.short(run))
    key |= {"table": "prefix", "prefix": prefix if n else NOTHING, "n": n}
    key |= {"prefix recipe": [run.recipes["prefixes"], run.recipes["reuse"]]}
    given = [run.key(network, **source[giver])] if giver and n else []
    key |= {"source": digest(given[0])} if given else {}

    def make() -> tuple[pd.DataFrame, dict]:
        model = fresh(run, network, "prefix", seed)
        other = run.model(network, **source[giver]) if giver else model
        model = loaded(model, other, run.slices("acdc").images[:1].to(run.device), n, giver, frozen)
        return trained(model, run.slices("acdc"), key, run.progress), {}

    found = run.kept(key, [key, *given], f"{prefix}, {n} layers", make)[0]
    return pd.DataFrame({"network": network, "target": seed, "prefix": prefix, "n": n}, found.index).join(found)


def fresh(run: Experiment, network: str, what: str, seed: int) -> nn.Module:
    """An untrained network with a start that no other network of the study has."""
    width = getattr(run.profile, f"{network}_width")
    return initial(network, width, "independent", what, "segmentation", seed).to(run.device)


def loaded(
    model: nn.Module, source: nn.Module, example: torch.Tensor, n: int, giver: str, frozen: bool
) -> nn.Module:  # fmt: skip
    """A copy with its first n layers from the source, fixed or not; statistics of an untrained prefix stay free."""
    table = units(model.eval(), example)
    plan = table[(table["unit"] <= n) & (bool(giver) | ~table["kind"].isin(["RM", "RV"]))]
    return reuse.apply_plan(model, source, plan[["kind", "name"]].assign(action="reuse" if frozen else "fine-tune"))


def trained(model: nn.Module, data: Slices, key: Key, progress: bool) -> pd.DataFrame:
    """DataFrame[patient, dice] on the validation patients after training in place."""
    options = {name: key[name] for name in ("steps", "batch_size", "learning_rate")}
    training.fit(
        model, data, key["task"], seed=derived(key["seed"], key["table"]), progress=progress, checkpoints=0, **options
    )
    if not all(value.isfinite().all() for value in model.state_dict().values()):
        raise NetworkError(
            f"{key['network']}, {key['table']}: NaN or infinite weights after training with learning_rate="
            f"{key['learning_rate']:g}; take a smaller one"
        )
    part = data.validation
    dice = foreground_dice(reuse.predict(model.eval(), part.images), part)
    return pd.DataFrame({"patient": part.patient.unique().tolist(), "dice": dice})


def prefixes(run: Experiment, network: str) -> pd.DataFrame:
    """`prefix` of all targets, prefixes and numbers of layers."""
    return pd.concat([run.prefix(**arguments) for _, _, arguments in trained_calls(run, network)], ignore_index=True)


def prefix_means(prefixes: pd.DataFrame) -> pd.DataFrame:
    """Dice of each prefix, what it is above nothing loaded, and above an untrained prefix of as many layers.

    Args:
        prefixes: from `prefixes`, of one network.

    Returns:
        DataFrame[network, prefix, n, dice, gain, gain_low, gain_high, beyond, beyond_low, beyond_high]: 95 % limits
        over targets and patients (patients alone with one target), which hold together for the n of a prefix. gain:
        over nothing loaded; beyond: over untrained, frozen.
    """
    table = prefixes.assign(source=0)
    values = {name: grid.crossed(part, "dice", "n") for name, part in table.groupby("prefix", sort=False)}
    nothing, untrained = values.pop(NOTHING), values[UNTRAINED]
    rows = [(NOTHING, 0, nothing.mean(), *[np.nan] * 6)]
    for name, each in values.items():
        ns = table.loc[table["prefix"] == name, "n"].unique()
        gain = crossed_interval(each - nothing)
        beyond = crossed_interval(each - untrained) if name != UNTRAINED else [np.full(len(ns), np.nan)] * 3
        rows += [(name, *row) for row in zip(ns, each.mean((0, 1, 2)), *gain, *beyond, strict=True)]
    columns = ["prefix", "n", "dice", "gain", "gain_low", "gain_high", "beyond", "beyond_low", "beyond_high"]
    found = pd.DataFrame(rows, columns=columns)
    found.insert(0, "network", prefixes["network"].iloc[0])
    return found


# ---------------------------------------------------------------- words


def joint_in_words(joint: pd.DataFrame) -> Words:
    """What the sets of passing kernels cost at once.

    Args:
        joint: from `joint`, of one or more networks.
    """
    lines = []
    for network, part in joint_means(joint).groupby("network", sort=False):
        at = part.set_index(["control", "set", "recalibrated"])["drop"]
        count = part.loc[part["set"] == KERNELS, "n"].mean()
        words = [
            f"the {count:.0f} kernels that pass one by one cost {at['source', KERNELS, False]:.2f} of Dice together, "
            f"{at['source', KERNELS, True]:.2f} after recalibration",
            f"with bias and batch norm {at['source', UNITS, False]:.2f} and {at['source', UNITS, True]:.2f}",
            f"the same kernels cost {at['start', KERNELS, False]:.2f} from the untrained start, "
            f"{at['random', KERNELS, False]:.2f} from a random donor and {at['other seed', KERNELS, False]:.2f} from "
            "another seed",
            f"recalibration alone, with nothing replaced, costs {at['own', NONE, True]:.2f}",
        ]
        lines.append(f"- **{TITLES[network]}**: {'; '.join(words)}.")
    return Words("\n".join(lines))


def in_words(means: pd.DataFrame) -> Words:
    """The paper's objection to prefixes, answered by frozen prefixes of as many layers that hold nothing learned.

    Args:
        means: from `prefix_means`, of one network.
    """
    at = means.set_index(["prefix", "n"])
    lines = [f"With nothing loaded the short training reaches {at.loc[(NOTHING, 0), 'dice']:.2f}."]
    empty = at.loc[UNTRAINED]
    lines.append(
        f"Behind a frozen prefix that nobody has trained it is {empty['dice'].iloc[0]:.2f} at {empty.index[0]} layers "
        f"and {empty['dice'].iloc[-1]:.2f} at {empty.index[-1]}."
    )
    for name in ("source, frozen (AnB)", "own, frozen (BnB)"):
        part = at.loc[name]
        lines.append(
            f"{name}: {part['dice'].iloc[0]:.2f} to {part['dice'].iloc[-1]:.2f}; beyond an untrained prefix of as many "
            f"layers at n = {_numbers(part['beyond_low'] > 0)}, below it at n = {_numbers(part['beyond_high'] < 0)}; "
            f"above nothing loaded at n = {_numbers(part['gain_low'] > 0)}, below at n = "
            f"{_numbers(part['gain_high'] < 0)}."
        )
    deepest = empty.index[-1]
    free = [f"{at.loc[(name, deepest), 'dice']:.2f} ({name})" for name, each in PREFIXES.items() if not each.frozen]
    lines.append(f"Trained on instead, {deepest} layers reach {' and '.join(free)}.")
    source = at.loc["source, frozen (AnB)"]
    fails = bool((source["gain_high"] < 0).any())
    learned = bool((source["beyond_low"] > 0).any())
    lines.append(
        "The paper objects that the layers behind a prefix may adjust to anything. Layers behind an untrained prefix "
        "have the same freedom, so what the source is beyond it is not adjustment: "
        + ("there is such a surplus here. " if learned else "no surplus is certain here, and the objection stands. ")
        + (
            "That some frozen prefixes end below nothing loaded shows that adjustment has limits."
            if fails
            else "No frozen prefix of the source ends certainly below nothing loaded."
        )
    )
    return Words(f"**{TITLES[means['network'].iloc[0]]}.** " + " ".join(lines))


def _numbers(chosen: pd.Series) -> str:
    return ", ".join(map(str, chosen.index[chosen])) or "none"
