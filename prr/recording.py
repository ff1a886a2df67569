"""Make an edition: compute what the chapters show, then run their cells once and keep every result that they read.

No Jupyter is needed for it: the machine that computes may be a bare one.
"""

from __future__ import annotations

import json
import platform
import subprocess
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from prr import book, figures
from prr.errors import BookError, OptionError
from prr.study import Experiment, architecture, edition, grid, plan
from prr.study.backbones import CONNECTIONS, NAMES
from prr.study.profiles import PROFILES
from prr.study.store import Key, provenance, reading

VERSIONS = ("torch", "torchvision", "numpy", "pandas", "scipy", "scikit-learn")
TAKEN = (*PROFILES, "store", "test")  # folders in build/
STAND_IN = "stand-in"  # how the name of an edition begins that is not computed on CUDA


def record(
    name: str, profile: str = "paper", *, device: str = "cuda", parameters: dict[str, Any] | None = None,
    minutes: float | None = None, root: Path = book.ROOT, folder: Path = edition.FOLDER,
) -> edition.Edition | None:  # fmt: skip
    """Compute an edition and write it, whole or not at all.

    Args:
        name: of the folder.
        profile: its scale.
        device: cuda; another one makes a stand-in for tests, whose name has to say so.
        parameters: others of the chapters: seed, data_root and any field of `Profile`.
        minutes: begin no more jobs after so many; what is finished stays in the store, so the next call goes on.
        root: the folder of _toc.yml and book/.
        folder: where editions lie.

    Returns:
        The edition; None where time was up before all was computed.

    Raises:
        OptionError: the device is not there, a name that is not fit for it, or an unknown parameter.
        BookError: there are no chapters, or a cell of one failed.
        OSError: nothing can be written to the folder.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise OptionError(f"edition {name}: expected a CUDA device, found none; make it where there is one")
    if not name.replace("-", "").isalnum() or name in TAKEN or (device != "cuda") != name.startswith(STAND_IN):
        raise OptionError(
            f"edition {name!r} on {device}: expected letters, digits and hyphens, none of {', '.join(TAKEN)}, "
            f"beginning with {STAND_IN} unless the device is cuda, for readers would take it for results"
        )
    given = {"profile": profile, "device": device, **(parameters or {})}
    run, notebooks = Experiment.from_parameters(given), book.select(root)
    folder.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=folder).close()  # now, and not after hours
    if not plan.prepare(run, until=None if minutes is None else time.perf_counter() + 60 * minutes):
        return None
    results = read_by(notebooks, given)
    stamp = {
        "name": name, "profile": run.profile.name, "seed": run.seed, "overrides": run.overrides, "machine": run.machine,
        "recipes": run.recipes, "made": made(device),
    }  # fmt: skip
    return edition.write(folder / name, results, stamp, main_figure(run))


def main_figure(run: Experiment) -> Figure:
    """The answer of chapter 8, for the first page."""
    small, table = grid.scaled(run), architecture.cells(architecture.table(run))
    small.described("acdc")  # for the stamp
    names = {each: NAMES[each] for each in CONNECTIONS}
    note = f"distance {architecture.DISTANCE:g} where equal · {small.stamp}"
    return figures.cells(table, names, note=note)


def read_by(notebooks: Sequence[Path], parameters: dict[str, Any]) -> dict[Path, Key]:
    """{file in the store: key} of every result that these chapters read when their cells run with some parameters.

    Raises:
        BookError: a cell failed.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    with reading() as found:
        for notebook in notebooks:
            namespace: dict[str, Any] = {"display": lambda *shown: None}
            for number, cell in enumerate(json.loads(notebook.read_text(encoding="utf-8"))["cells"]):
                if cell["cell_type"] == "code":
                    _execute("".join(cell["source"]), f"{notebook.name}: cell {number}", namespace)
                if "parameters" in cell["metadata"].get("tags", []):
                    namespace |= parameters
            pyplot.close("all")
    return found


def _execute(source: str, where: str, namespace: dict[str, Any]) -> None:
    try:
        exec(compile(source, where, "exec"), namespace)
    except Exception as error:
        raise BookError(f"{where} raised {type(error).__name__}: {error}") from error


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
