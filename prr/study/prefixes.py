"""Many layers at once: transplants without training, and prefixes with it, as in Yosinski et al. 2014."""

from __future__ import annotations

import dataclasses
import itertools
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn

from prr import donors, reuse
from prr.data import Slices
from prr.errors import OptionError
from prr.layers import device_of, parameter_table
from prr.metrics import crossed_interval, foreground_dice, read_as
from prr.question import ask
from prr.study import grid, networks, training, transplants
from prr.study.display import Words, ranged
from prr.study.jobs import Job, stack
from prr.study.models import TITLES, seed_of
from prr.study.run import Run
from prr.study.starts import initial

DEPTHS = 5  # numbers of layers for which prefixes are tried
JOINT = ("source", "other seed", "start", "random")
KERNELS, UNITS, PREFIX, NONE = "passing kernels", "passing kernels with batch norm", "first layers", "nothing"


class Prefix(NamedTuple):
    """What the first layers of a fresh network get, and whether they are fixed."""

    giver: str  # source, own or "" for what the fresh network has
    frozen: bool


# Yosinski's names: A is the source's task, B the target's; + is trained on
SOURCE, TRAINED_ON, UNTRAINED = "source, frozen (AnB)", "source, trained on (AnB+)", "untrained, frozen"
PREFIXES = {
    SOURCE: Prefix("source", True),
    TRAINED_ON: Prefix("source", False),
    "own, frozen (BnB)": Prefix("own", True),
    "own, trained on (BnB+)": Prefix("own", False),
    UNTRAINED: Prefix("", True),
}
NOTHING = "nothing loaded"


def units(model: nn.Module, example: torch.Tensor) -> pd.DataFrame:
    """Live tensors in order of execution with their unit: a convolution and what runs before the next one.

    Returns:
        DataFrame[kind, layer, name, unit], units from 1.
    """
    table = parameter_table(model, example)
    table = table[table["live"]]
    return table.assign(unit=(table["kind"] == "W").cumsum())[["kind", "layer", "name", "unit"]].reset_index(drop=True)


def depths(count: int) -> list[int]:
    """Numbers of first layers to try, evenly from few to all but the classifier.

    >>> depths(26)
    [5, 10, 15, 20, 25]
    """
    return sorted(set(np.linspace(0, count - 1, DEPTHS + 1).round().astype(int).tolist()) - {0})


# ---------------------------------------------------------------- without training


def transplant_sets(run: Run, network: str, seed: int) -> Job:
    """Sets of parameters put into a target at once, without training.

    The sets: the kernels whose drop by the source, mean over patients, is within the tolerance one by one; the same
    with what stands between them and the next convolution (bias and batch norm); the first n layers with all that they
    have. Each is scored as it is, and with running statistics re-estimated on the validation images.

    Args:
        run: of the chapter; it is brought to the chapter's scale, see `grid.scaled`.
        network: unet or pspnet.
        seed: of the target.

    Returns:
        The job of DataFrame[control, set, n, recalibrated, drop]; n: layers that are replaced. The last row of each
        half, control own, has nothing replaced.
    """
    run = grid.scaled(run)
    other = grid.seeds(run, "joint transplants")[1][0]
    judged, source = grid.target(seed), grid.source(other, seed)
    sources = {
        "source": networks.model(run, network, **source),
        "other seed": networks.model(run, network, **grid.other_seed(other, seed)),
        "start": networks.start(run, network, **judged),
    }
    return run.job(
        transplanted, "joint transplants", target=networks.model(run, network, **judged), sources=sources,
        drops=transplants.drops(run, network, judged, source), slices=run.data("acdc"), seed=seed,
        every=run.profile.grid_every, tolerance=run.profile.tolerance,
    )  # fmt: skip


def transplanted(
    target: nn.Module, sources: dict[str, nn.Module], drops: pd.DataFrame, slices: Slices, seed: int, every: int,
    tolerance: float,
) -> pd.DataFrame:  # fmt: skip
    """See `transplant_sets`."""
    part = slices.validation.every(every)
    table = units(target, part.images[:1].to(device_of(target)))
    part = ask(target, part, foreground_dice, ignore_index=part.ignore)
    before = reuse.values(target, part)
    givers = sources | {"random": donors.random(target, seed), "own": target}
    chosen = [(name, *each) for name in JOINT for each in sets(table, drops, tolerance)]
    rows = []
    for anew in (False, True):
        for name, what, n, pairs in [*chosen, ("own", NONE, 0, table.head(0))]:
            found = reuse.joint_transplant(target, givers[name], part, pairs, recalibrated=anew, before=before)
            rows.append((name, what, n, anew, found["drop"]))
    return pd.DataFrame(rows, columns=["control", "set", "n", "recalibrated", "drop"])


def sets(table: pd.DataFrame, drops: pd.DataFrame, tolerance: float) -> list[tuple[str, int, pd.DataFrame]]:
    """(name, n, DataFrame[kind, layer, name, unit]) of every set that is put in at once; see `transplant_sets`.

    Args:
        table: from `units`.
        drops: DataFrame[layer, drop, ...] of single kernels, a row for each patient.
        tolerance: mean drop that counts as none.
    """
    drop = drops.groupby("layer")["drop"].mean()
    passing = table[(table["kind"] == "W") & table["layer"].isin(drop.index[drop <= tolerance])]
    whole = table[table["unit"].isin(passing["unit"])]
    first = [(PREFIX, n, table[table["unit"] <= n]) for n in depths(table["unit"].max())]
    return [(KERNELS, len(passing), passing), (UNITS, len(passing), whole), *first]


def joint(run: Run, network: str) -> Job:
    """The job of DataFrame[network, target, control, set, n, recalibrated, drop]: `transplant_sets` of all targets."""
    targets = grid.seeds(run, "joint transplants")[0]
    return stack(({"network": network, "target": seed}, transplant_sets(run, network, seed)) for seed in targets)


def joint_means(joint: pd.DataFrame) -> pd.DataFrame:
    """DataFrame[network, control, set, n, recalibrated, drop, least, most]: over targets; n: mean."""
    keys = ["network", "control", "set", "recalibrated"]
    first = joint["n"].where(joint["set"] == PREFIX, 0)
    groups = joint.assign(depth=first).groupby([*keys, "depth"], sort=False)
    table = groups.agg(n=("n", "mean"), drop=("drop", "mean"), least=("drop", "min"), most=("drop", "max"))
    return table.reset_index().drop(columns="depth")


# ---------------------------------------------------------------- with training


def prefix(run: Run, network: str, seed: int, prefix: str, n: int) -> Job:
    """Load the first n layers into a fresh network, train the rest for a short time.

    An untrained prefix is the fresh network's own, fixed but for its running statistics, which belong to no other
    network.

    Args:
        run: of the chapter; it is brought to the chapter's scale, see `grid.scaled`.
        network: unet or pspnet.
        seed: of the target that is "own", of the fresh start, order and augmentation.
        prefix: one of PREFIXES, or "nothing loaded".
        n: convolutions from the input, each with what stands before the next.

    Returns:
        The job of DataFrame[patient, dice]: foreground Dice of the validation patients.

    Raises:
        OptionError: an unknown prefix.
    """
    if prefix not in (*PREFIXES, NOTHING):
        raise OptionError(f"prefix {prefix!r}: expected one of {', '.join((*PREFIXES, NOTHING))}")
    run = grid.scaled(run)
    giver, frozen = PREFIXES.get(prefix, Prefix("", False))
    others = {"source": grid.source(grid.seeds(run, "prefixes with training")[1][0], seed), "own": grid.target(seed)}
    source = networks.model(run, network, **others[giver]) if giver else None
    return short_training(run, f"{prefix}, {n} layers", network, "prefix", seed, source, n=n, frozen=frozen)


def short_training(
    run: Run, title: str, network: str, what: str, seed: int, source: Job | None, *, n: int | None,
    frozen: bool = False, patients: int | None = None,
) -> Job:  # fmt: skip
    """Load layers into a fresh network, train it shortly on the target's data, score it on the validation part.

    Args:
        run: at the scale of the chapter.
        title: for provenance.
        network: unet or pspnet.
        what: names the fresh network, which has a start that no other network of the study has.
        seed: of the fresh start, of the draw of patients, of order and augmentation.
        source: network that gives; None: what would be loaded is the fresh network's own.
        n: convolutions that are loaded, from the input, each with what stands before the next; None: all but the
            classifier.
        frozen: they are fixed; but for running statistics that nobody has given.
        patients: train on n patients only; None: on all of the training part.

    Returns:
        The job of DataFrame[patient, dice]: foreground Dice of the validation patients.
    """
    start = {"network": network, "start": "independent", "seed": seed}
    begins = {**start, "width": networks.width_of(run, network), **run.shape, "dataset": what, "task": "segmentation"}
    fresh = run.job(initial, **begins)
    job = run.job(
        shortly_trained, title, fresh=fresh, source=source, slices=run.data("acdc"), what=what, seed=seed, n=n,
        frozen=frozen, patients=patients, steps=grid.short(run), batch_size=run.profile.batch_size,
        learning_rate=run.profile.learning_rate,
    )  # fmt: skip
    return dataclasses.replace(job, labels=start | {"normalisation": run.profile.normalisation})


def shortly_trained(
    fresh: nn.Module, source: nn.Module | None, slices: Slices, what: str, seed: int, n: int | None, frozen: bool,
    patients: int | None, steps: int, batch_size: int, learning_rate: float, device: str, progress: bool,
) -> pd.DataFrame:  # fmt: skip
    """See `short_training`."""
    data = slices if patients is None else networks.draw(slices, patients, seed)
    model = loaded(fresh.to(device), source, data.images[:1].to(device), n, frozen)
    training.fit(
        model, data, "segmentation", steps=steps, batch_size=batch_size, learning_rate=learning_rate,
        seed=seed_of(seed, what), progress=progress, checkpoints=0,
    )  # fmt: skip
    part = data.validation
    dice = read_as(foreground_dice, 0.0, part.ignore)(reuse.predict(model.eval(), part.images), part)
    return pd.DataFrame({"patient": part.patient.unique().tolist(), "dice": dice})


def loaded(
    model: nn.Module, source: nn.Module | None, example: torch.Tensor, n: int | None, frozen: bool
) -> nn.Module:  # fmt: skip
    """A copy with layers from the source, fixed or not; statistics that nobody has given stay free."""
    table = units(model.eval(), example)
    chosen = table["unit"] <= (table["unit"].max() - 1 if n is None else n)
    if source is None:
        source, chosen = model, chosen & ~table["kind"].isin(["RM", "RV"])
    plan = table.loc[chosen, ["kind", "name"]].assign(action="reuse" if frozen else "fine-tune")
    return reuse.apply_plan(model, source, plan)


def prefixes(run: Run, network: str) -> Job:
    """The job of DataFrame[network, target, prefix, n, patient, dice]: `prefix` of all targets, prefixes and n."""
    run = grid.scaled(run)
    count = networks.parameters(run, network).query("kind == 'W'")["live"].sum()
    tried = [(NOTHING, 0), *itertools.product(PREFIXES, depths(count))]
    return stack(
        ({"network": network, "target": seed, "prefix": name, "n": n}, prefix(run, network, seed, name, n))
        for seed, (name, n) in itertools.product(grid.seeds(run, "prefixes with training")[0], tried)
    )


def prefix_means(prefixes: pd.DataFrame) -> pd.DataFrame:
    """Dice of each prefix, what it is above nothing loaded, and above an untrained prefix of as many layers.

    Args:
        prefixes: from `prefixes`, of one network.

    Returns:
        DataFrame[network, prefix, n, dice, gain, gain_low, gain_high, beyond, beyond_low, beyond_high, over]. gain:
        over nothing loaded; beyond: over untrained, frozen. 95 % limits are simultaneous (max-t) for the n of a prefix;
        over: what they resample, patients alone where there is one target.
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
    return found.assign(over=grid.over(nothing))


# ---------------------------------------------------------------- words


def joint_in_words(joint: pd.DataFrame, tolerance: float) -> Words:
    """What the kernels that pass one by one cost at once.

    Args:
        joint: from `joint`, of one or more networks.
        tolerance: within which they passed.
    """
    lines = []
    for network, part in joint_means(joint).groupby("network", sort=False):
        at = part.set_index(["control", "set", "recalibrated"])["drop"]
        count = part.loc[part["set"] == KERNELS, "n"].mean()
        if not count:
            lines.append(f"- **{TITLES[network]}: no kernel passes one by one**, so none are put in together.")
            continue
        drop, mended = (at["source", KERNELS, anew] for anew in (False, True))
        finding = "passes" if drop <= tolerance else "fails"
        kernels = f"{count:.3g} kernel{'' if count == 1 else 's'}"
        told = [
            f"**{TITLES[network]}: what passes one by one ({kernels}) {finding} at once.**",
            f"It costs {drop:z.2f} of Dice, {mended:z.2f} after recalibration, which alone costs "
            f"{at['own', NONE, True]:z.2f}.",
            f"The same kernels cost {at['start', KERNELS, False]:z.2f} from the untrained start, "
            f"{at['random', KERNELS, False]:z.2f} from a random donor, {at['other seed', KERNELS, False]:z.2f} from "
            "another seed.",
        ]
        lines.append(f"- {' '.join(told)}")
    return Words("\n".join(lines))


def in_words(means: pd.DataFrame) -> Words:
    """The paper's objection to prefixes, answered by frozen prefixes of as many layers that hold nothing learned.

    Args:
        means: from `prefix_means`, of one network.
    """
    frozen, on = (means[means["prefix"] == name].set_index("n") for name in (SOURCE, TRAINED_ON))
    better, worse, below = frozen["beyond_low"] > 0, frozen["beyond_high"] < 0, frozen["gain_high"] < 0
    best = frozen.loc[frozen["beyond"].idxmax()]
    surplus = ranged(best["beyond"], best["beyond_low"], best["beyond_high"], grid.in_full(best["over"]))
    finding = "not all is adjustment" if better.any() else "the objection stands"
    told = [
        f"**{TITLES[means['network'].iloc[0]]}: {finding}.** "
        f"A frozen source beats an untrained prefix of as many layers {_at(better)}.",
        f"Its largest surplus, at n = {best.name}, is {surplus}.",
        f"It is worse {_at(worse)}.",
        f"Adjustment {'has limits' if below.any() else 'shows no limits'}: the frozen source ends below nothing loaded "
        f"{_at(below)}.",
        f"Trained on, the source beats nothing loaded {_at(on['gain_low'] > 0)}.",
    ]
    return Words(" ".join(told))


def _at(chosen: pd.Series) -> str:
    """Where something holds for certain, by numbers of layers."""
    return f"at n = {', '.join(map(str, chosen.index[chosen]))}" if chosen.any() else "at no n for certain"
