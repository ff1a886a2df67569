"""The chapters' door: the paper's experiment at one scale. Results come from the store or are made once."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from prr.data import DATA_SETS, Slices, textures
from prr.errors import OptionError
from prr.study import chapters, networks, profiles, transfer, transplants
from prr.study.datasets import MORE, phantom, place_of, scale_of
from prr.study.edition import Edition
from prr.study.jobs import Executor
from prr.study.profiles import OVERRIDES
from prr.study.run import Run, threads_of
from prr.study.store import Store

PARAMETERS = ("profile", "data_root", "device", "seed", "edition", *OVERRIDES)
FEW = 7  # patients of a phantom that is only looked at


class Experiment(Run):
    """One run of the study at one scale; the chapters' only door.

    Args:
        profile: smoke, quick or paper.
        data_root: folder that holds acdc/, t1/ or rvsc/; None: the folders that PRR_ACDC, PRR_T1 and PRR_RVSC name,
            else phantoms.
        device: auto (CUDA, else MPS, else CPU), cpu, cuda or mps.
        seed: of starts, order and augmentation.
        store: folder for results; None: see `prr.study.store.location`.
        make: False reads what is in the store and makes nothing.
        progress: show a bar on stderr while something is made.
        edition: name of a folder in data/editions, or a path: results are read from there alone, whatever the device
            that they were made on. Its scale and seed have to be given too, as `from_parameters` does.
        overrides: any field of `Profile`.

    Raises:
        OptionError: an unknown profile, override or device, or a device that is not there.
        DataError: an edition that is not there, or not readable by this version.

    >>> run = Experiment("smoke", device="cpu", tolerance=0.1)
    >>> run.profile.size, run.profile.tolerance, run.seeds
    (48, 0.1, [0, 1])
    """

    def __init__(
        self,
        profile: str = "quick",
        *,
        data_root: str | Path | None = None,
        device: str = "auto",
        seed: int = 0,
        store: str | Path | None = None,
        make: bool = True,
        progress: bool = True,
        edition: str | Path | None = None,
        **overrides: Any,
    ):
        scale = profiles.profile(profile, **overrides)
        given = {name: value for name, value in overrides.items() if value is not None}
        if edition:
            results = Edition(edition)
        else:
            device = available(device)
            results = Executor(Store(store, make), device, threads_of(scale, device), progress)
        super().__init__(scale, given, seed, results, data_root)

    @classmethod
    def from_parameters(cls, namespace: dict[str, Any], *own: str) -> Experiment:
        """The experiment that a chapter's parameters cell describes: call it with `globals()` in the next cell.

        papermill only warns about a misspelt `-p name value` and sets it all the same, so a plain value that is no
        parameter is refused here; not when the cell is run again, for then the values of later cells are there too.

        Args:
            namespace: names and values.
            own: parameters of the chapter itself, which the experiment has not.

        Raises:
            OptionError: an unknown parameter, a value that is out of range, or a scale beside an edition, which has
                its own.
        """
        plain = {
            name: value
            for name, value in namespace.items()
            if not name.startswith("_")
            and (name in PARAMETERS or isinstance(value, str | int | float | list | tuple | dict | None))
            and name not in ("In", "Out", *own)
        }
        unknown = [name for name in plain if name not in PARAMETERS]
        if unknown and not any(isinstance(value, cls) for value in namespace.values()):
            raise OptionError(
                f"parameter {', '.join(unknown)}: expected some of {', '.join((*PARAMETERS, *own))}; variables of your "
                "own go below this cell"
            )
        given = {name: value for name, value in plain.items() if name in PARAMETERS}
        if given.get("edition") is None:
            return cls(**given)
        default = {"profile": given.get("profile"), "edition": given["edition"], "device": "auto", "seed": 0}
        if extra := [name for name, value in given.items() if value != default.get(name)]:
            raise OptionError(
                f"{', '.join(extra)}: expected nothing beside edition={given['edition']!r}, whose results are made"
            )
        return cls(edition=given["edition"], **Edition(given["edition"]).parameters)

    def prepare(self, *numbers: str, until: float | None = None) -> bool:
        """Make what some chapters show and the store does not have yet, several results at a time.

        The stamp and the table of provenance then tell of it.

        Args:
            numbers: of chapters, such as "03"; none means all: the whole study.
            until: begin no more jobs at this time (`time.perf_counter`).

        Returns:
            Whether all is there.

        Raises:
            OptionError: an unknown chapter.
        """
        self.shown += (jobs := chapters.jobs(self, *numbers))
        return self.compute(jobs, until)

    def model(self, network: str, *given: Any, **named: Any) -> nn.Module:
        """A trained network in eval mode; arguments and errors as `prr.study.networks.model`."""
        return self.result(networks.model(self, network, *given, **named))

    def sweep(self, network: str, *given: Any, **named: Any) -> pd.DataFrame:
        """`prr.sweep` of two of the run's networks; arguments and errors as `prr.study.transplants.sweep`."""
        return self.result(transplants.sweep(self, network, *given, **named))

    def transfer(self) -> pd.DataFrame:
        """All runs of the transfer experiment, see `prr.study.transfer.table`."""
        return self.result(transfer.table(self))

    def data_table(self, *names: str) -> pd.DataFrame:
        """`prr.data.describe` of some data sets, a row each."""
        self.shown += (sets := [self.data(name) for name in names])
        return pd.DataFrame([each.facts for each in sets]).drop(columns=list(MORE))

    def slices_to_show(self, name: str) -> Slices:
        """Validation patients' slices; beside an edition, which keeps no images, those of a small phantom.

        Of a data set of a reader's own there is no phantom: textures with its labels are shown.
        """
        if not self.edition:
            return self.slices(name).validation
        title, place, scale = self.title(name), place_of(name), scale_of(self.profile, name)
        if title == DATA_SETS[place].title:
            shown = DATA_SETS[place].read(phantom(Store(), place, FEW), **scale, progress=False)
            title = f"{title}, a phantom"
        else:
            shown = textures(self.profile.size, labels=self.labels, channels=self.shape["channels"])
            title = f"textures in place of {title}"
        return dataclasses.replace(shown.validation, name=f"{title} (an edition keeps no images)")


def available(device: str) -> str:
    """The device that a name stands for.

    Raises:
        OptionError: an unknown device, or one that this machine or this torch has not.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return next(name for name, is_there in there.items() if is_there)
    if not isinstance(device, str) or device not in there:
        raise OptionError(f"device {device!r}: expected auto, {', '.join(there)}")
    if not there[device]:
        raise OptionError(
            f"device {device!r}: not on this machine, or this torch was built without it; take auto or cpu"
        )
    return device
