"""Whether a target is good enough to be damaged: nothing is judged that rests on one that is not.

A network that finds nothing has nothing to lose, and all of its layers would pass. The floors are the profile's, the
same for real data and phantoms, and were set before any result that they let through.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from prr.study import measures
from prr.study.backbones import ARCHITECTURES, CONNECTIONS
from prr.study.display import Box, Words
from prr.study.run import Run


def reached(run: Run, *networks: str) -> dict[str, float]:
    """{network: foreground Dice of the run's target on its validation patients}."""
    return {network: foreground(run.result(measures.dice(run, network))) for network in networks}


def foreground(dice: pd.DataFrame) -> float:
    """Mean over patients of each one's foreground Dice, from `measures.dice`; what sweeps start from."""
    return float(dice[dice["class"] > 0].groupby("patient")["dice"].mean().mean())


def before(sweep: pd.DataFrame) -> float:
    """Foreground Dice of the target of a `transplants.sweep`."""
    return float(sweep["score"].iloc[0] + sweep["drop"].iloc[0])


def floor(run: Run, network: str) -> float:
    """Foreground Dice that a target of this architecture has to reach in this run."""
    return getattr(run.profile, f"{ARCHITECTURES[network].sized_as}_floor")


def weak(run: Run, reached: Mapping[str, float]) -> list[str]:
    """The networks whose targets are below their floor.

    Args:
        run: whose profile has the floors.
        reached: {network: foreground Dice of its targets}.
    """
    return [network for network, dice in reached.items() if not dice >= floor(run, network)]


def shortfalls(run: Run, reached: Mapping[str, float]) -> list[str]:
    """A sentence for each network whose target is below its floor; arguments as `weak`."""
    return [
        f"{_subject(network)} reaches {reached[network]:.2f} of foreground Dice and needs {floor(run, network):.2f}."
        for network in weak(run, reached)
    ]


def _subject(network: str) -> str:
    title = ARCHITECTURES[network].title
    return f"The network with {title.removesuffix(' connections')} connections" if network in CONNECTIONS else title


def box(run: Run, reached: Mapping[str, float], by: str = "steps") -> Box:
    """What a page says instead of a verdict; an empty one, which is False, where all targets are good enough.

    Args:
        run, reached: as `shortfalls`.
        by: the parameter that makes these targets' training longer.
    """
    if not (told := shortfalls(run, reached)):
        return Box()
    cure = f"Train longer ({by}), or, for data on which no network reaches that, set unet_floor or pspnet_floor."
    return Box(" ".join(["The target is too weak: what has little to lose survives anything.", *told, cure]))


def in_words(run: Run, reached: Mapping[str, float]) -> Words:
    """What a page says where all targets are good enough.

    Args: as `shortfalls`.
    """
    told = [
        f"**{ARCHITECTURES[network].title} is good enough to be damaged**: it reaches {dice:.2f} of foreground Dice "
        f"and needs {floor(run, network):.2f}."
        for network, dice in reached.items()
    ]
    return Words(" ".join(told))
