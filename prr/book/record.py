"""Make an edition: compute all that the chapters show, and keep the results without weights and images.

No Jupyter is needed for it: the machine that computes may be a bare one.
"""

from __future__ import annotations

import platform
import subprocess
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from prr.errors import OptionError
from prr.study import architecture, chapters, edition, figures
from prr.study.backbones import CONNECTIONS, NAMES
from prr.study.experiment import Experiment
from prr.study.jobs import closure
from prr.study.profiles import PROFILES
from prr.study.revisions import REVISIONS
from prr.study.store import provenance

VERSIONS = ("torch", "torchvision", "numpy", "pandas", "scipy", "scikit-learn")
TAKEN = (*PROFILES, "store", "test")  # folders in build/
STAND_IN = "stand-in"  # how the name of an edition begins that is not computed on CUDA


def record(
    name: str, profile: str = "paper", *, device: str = "cuda", parameters: dict[str, Any] | None = None,
    minutes: float | None = None, folder: Path = edition.FOLDER,
) -> edition.Edition | None:  # fmt: skip
    """Compute an edition and write it, whole or not at all.

    Args:
        name: of the folder.
        profile: its scale.
        device: cuda; another one makes a stand-in for tests, whose name has to say so.
        parameters: others of the experiment: seed, data_root and any field of `Profile`.
        minutes: begin no more jobs after so many; what is finished stays in the store, so the next call goes on.
        folder: where editions lie.

    Returns:
        The edition; None where time was up before all was computed.

    Raises:
        OptionError: the device is not there, a name that is not fit for it, or an unknown parameter.
        OSError: nothing can be written to the folder.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise OptionError(f"edition {name}: expected a CUDA device, found none; make it where there is one")
    if not name.replace("-", "").isalnum() or name in TAKEN or (device != "cuda") != name.startswith(STAND_IN):
        raise OptionError(
            f"edition {name!r} on {device}: expected letters, digits and hyphens, none of {', '.join(TAKEN)}, "
            f"beginning with {STAND_IN} unless the device is cuda, for readers would take it for results"
        )
    run = Experiment.from_parameters({"profile": profile, "device": device, **(parameters or {})})
    folder.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=folder).close()  # now, and not after hours
    jobs = closure(chapters.jobs(run))  # networks too, for their losses, even where the tables on them are there
    if not run.compute(jobs, None if minutes is None else time.perf_counter() + 60 * minutes):
        return None
    stamp = {
        "name": name, "profile": run.profile.name, "seed": run.seed, "overrides": run.overrides, "machine": run.machine,
        "places": run.places, "fits": run.fits, "revisions": REVISIONS, "made": made(device),
    }  # fmt: skip
    return edition.write(folder / name, jobs, run.results, stamp, main_figure(run))


def main_figure(run: Experiment) -> Figure:
    """The answer of chapter 8, for the first page."""
    table = architecture.cells(run.result(architecture.table(run)))
    names = {each: NAMES[each] for each in CONNECTIONS}
    return figures.cells(table, names, note=run.stamp)


def made(device: str) -> dict[str, str]:
    """Where, when and with what, for the stamp."""
    there = {"driver": _driver(), "cuda": torch.version.cuda} if device == "cuda" else {}
    versions = ", ".join(f"{name} {version(name)}" for name in VERSIONS)
    return provenance(device) | there | {"system": platform.platform(), "versions": versions}


def _driver() -> str:
    """The version of the GPU's driver, which torch does not tell."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"
