"""The dry run tells what the chapters train, no more and no less."""

import re

import nbformat
import pytest
import yaml

from prr.book import ROOT
from prr.errors import OptionError
from prr.study import Experiment
from prr.study.plan import CHAPTERS, plan

CALL = re.compile(r'\b(run|other)\.(?:model|history|dice|sweep)\("(\w+)"')
MEANT = {"run": [None], "other": ["zscore", "unit"]}


def test_chapters_are_those_of_the_toc():
    listed = [entry["file"].split("_")[0] for entry in yaml.safe_load((ROOT / "_toc.yml").read_text())["chapters"]]
    assert list(CHAPTERS) == listed


@pytest.mark.parametrize("number", CHAPTERS)
def test_a_chapter_trains_what_is_planned(number):
    (chapter,) = (ROOT / "book").glob(f"{number}_*.ipynb")
    source = "\n".join(cell.source for cell in nbformat.read(chapter, 4).cells if cell.cell_type == "code")
    called = {(network, normalisation) for who, network in CALL.findall(source) for normalisation in MEANT[who]}
    assert called == set(CHAPTERS[number])


def test_what_is_in_the_store_costs_nothing(tmp_path):
    Experiment("smoke", store=tmp_path).model("unet", "acdc", "auto-encoding")
    table = plan("smoke", ["3"], store=tmp_path).set_index(["task", "normalisation"])
    assert len(table) == 4
    assert table.index[table["stored"]].tolist() == [("auto-encoding", "zscore")]
    assert table.loc[("auto-encoding", "zscore"), "seconds"] == 0
    parameters = sum(value.numel() for value in Experiment("smoke", store=tmp_path).model("unet").parameters())
    assert table["megabytes"].tolist() == pytest.approx([parameters * 4 / 1e6] * 4, abs=0.06)


def test_an_override_reaches_the_plan(tmp_path):
    Experiment("smoke", store=tmp_path).model("unet", "acdc", "auto-encoding")
    assert not plan("smoke", ["03"], store=tmp_path, steps=3)["stored"].any()


def test_a_plan_has_each_network_once(tmp_path):
    table = plan("smoke", ["03"], store=tmp_path, normalisation="unit")
    assert not table.duplicated(["network", "dataset", "task", "normalisation"]).any()


def test_an_unknown_chapter_is_refused():
    with pytest.raises(OptionError, match="chapter 99: expected some of 01, 02, 03, 04, 05, 06, 07"):
        plan("smoke", ["99"])
