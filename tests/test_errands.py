"""What CONTRIBUTING promises a newcomer: a network and a data set take a line in a table, and chapters have them."""

import json
import shutil
from pathlib import Path

import matplotlib
import pytest
from torch import nn

from prr.data import DATA_SETS, write_phantom
from prr.study.backbones import ARCHITECTURES, Architecture
from prr.study.models import he_initialised

pytestmark = pytest.mark.usefixtures("phantoms_only")

BOOK = Path(__file__).parents[1] / "book"
SMALLEST = {"profile": "smoke", "device": "cpu", "threads": 1, "steps": 2}


def toy(width: int) -> nn.Module:
    """Three convolutions: (n, 1, h, w) -> (n, 4, h, w)."""
    model = nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, 4, 1),
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


def test_a_data_set_takes_a_line_in_the_table(monkeypatch, tmp_path):
    monkeypatch.setitem(DATA_SETS, "toy", DATA_SETS["acdc"]._replace(title="Toy"))
    root = write_phantom(tmp_path / "data", {"toy": 4})
    left = executed("01_data", data_root=str(root), **SMALLEST)
    described = left["described"].set_index("data set")
    assert len(described) == 1 + 3
    swept = left["run"].sweep("unet", ["RB"], [1], source=("toy", "segmentation"))
    assert len(swept) == 1
    shutil.rmtree(root)
