"""What CONTRIBUTING promises a newcomer: a network and a layout take a line in a table, and chapters have them."""

import functools
import json
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from torch import nn

from prr.data import LAYOUTS, DataSet, Slices, recognise
from prr.data.volumes import Listing, Volume, read
from prr.errors import LayoutError
from prr.study.backbones import ARCHITECTURES, Architecture
from prr.study.models import he_initialised

pytestmark = pytest.mark.usefixtures("phantoms_only")

BOOK = Path(__file__).parents[1] / "book"
SMALLEST = {"profile": "smoke", "device": "cpu", "threads": 1, "steps": 2}


def toy(width: int, in_channels: int, out_channels: int) -> nn.Module:
    """Three convolutions: (n, in_channels, h, w) -> (n, out_channels, h, w)."""
    model = nn.Sequential(
        nn.Conv2d(in_channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, out_channels, 1),
    )  # fmt: skip
    return he_initialised(model)


def executed(chapter: str, **parameters) -> dict:
    """The names that a chapter's cells leave behind when it runs with some parameters."""
    namespace: dict = {"display": lambda *shown: None}
    for cell in json.loads((BOOK / f"{chapter}.ipynb").read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), namespace)
        if "parameters" in cell["metadata"].get("tags", []):
            namespace |= parameters
    return namespace


@pytest.fixture(autouse=True)
def own_store(monkeypatch, tmp_path):
    monkeypatch.setenv("PRR_STORE", str(tmp_path / "store"))
    matplotlib.use("agg")


def test_a_network_takes_a_line_in_the_table(monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "toy", Architecture(toy, "Toy", sized_as="unet", features="5"))
    left = executed("03_unet", network="toy", unet_width=3, **SMALLEST)
    swept = left["sweep"]
    assert swept.groupby("kind").size().to_dict() == {"W": 3, "B": 3, "RM": 2, "RV": 2, "RW": 2, "RB": 2}
    assert set(left["run"].provenance()["network"]) >= {"toy"}
    assert left["model"][0].out_channels == 3  # the width that its line asks for


def toy_volume(path: Path) -> Volume:
    """An image and its mask, in one file of two planes."""
    image, mask = np.load(path)
    return Volume(int(path.stem), image[None], mask[None], (3.0, 3.0), False, path)


def find_toy(root: Path) -> Listing:
    """What lies below a folder in the toy's layout."""
    if not (files := sorted(root.glob("*.npy"))):
        raise LayoutError(f"{root}: expected NUMBER.npy, found none")
    volumes = [(int(path.stem), functools.partial(toy_volume, path)) for path in files]
    return Listing("Toy", root, volumes, labels={0: "background", 1: "Myo"})


def read_toy(root: Path, *, size: int, spacing_mm: float, normalise: str, split: str = "paper") -> Slices:
    """A reader of the toy's layout."""
    return read(find_toy(root), size=size, spacing_mm=spacing_mm, normalise=normalise, split=split, progress=False)


def test_a_layout_takes_a_line_in_the_table_and_stands_in_any_place(monkeypatch, tmp_path):
    monkeypatch.setitem(LAYOUTS, "toy", DataSet("Toy", read_toy, find_toy))
    root, rng = tmp_path / "toy", np.random.default_rng(0)
    root.mkdir()
    for patient in range(1, 5):
        mask = np.pad(np.ones((12, 12)), 18)
        np.save(root / f"{patient}.npy", np.stack([rng.normal(size=(48, 48)) + mask, mask]))
    assert recognise(root) == "toy"
    monkeypatch.setenv("PRR_OTHER1", str(root))
    left = executed("01_data", **SMALLEST)
    assert left["described"].set_index("data set")["origin"].to_dict() == {
        "ACDC": "phantom", "Toy": "real stand-in", "RVSC": "phantom",
    }  # fmt: skip
    assert left["run"].slices("other1").masks.unique().tolist() == [0, 2]  # myocardium, as the target numbers it
    swept = left["run"].sweep("unet", ["RB"], [1], source=("t1", "segmentation"))
    assert len(swept) == 1
