"""The dry run tells what the chapters train, no more and no less."""

import re
from collections import Counter

import nbformat
import pytest
import yaml

from prr.book import ROOT
from prr.errors import OptionError
from prr.study import Experiment, sources, training, transfer
from prr.study.plan import CHAPTERS, distinct, plan, prepare

MEASURES = "model|history|dice|sweep|rmse|shift_scale|responses"
CALL = re.compile(rf'(\brun|\bother|normalisation=name\))\.(?:{MEASURES})\("(\w+)"')
MEANT = {"run": [None], "other": ["zscore", "unit"], "normalisation=name)": ["zscore", "unit"]}


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
    assert table.loc[("auto-encoding", "zscore"), ["seconds", "peak"]].tolist() == [0, 0]
    assert (table.loc[~table["stored"], "peak"] > 0).all()
    parameters = sum(value.numel() for value in Experiment("smoke", store=tmp_path).model("unet").parameters())
    assert table["megabytes"].tolist() == pytest.approx([parameters * 4 / 1e6] * 4, abs=0.06)


def test_what_training_takes_is_what_a_batch_keeps_and_four_times_the_network(tmp_path):
    one, two = (
        plan("smoke", ["03"], store=tmp_path, unet_width=16, batch_size=size).iloc[0] for size in (4, 8)
    )
    assert two["peak"] - one["peak"] == pytest.approx(one["peak"] - 4 * one["megabytes"], abs=2)


def test_an_override_reaches_the_plan(tmp_path):
    Experiment("smoke", store=tmp_path).model("unet", "acdc", "auto-encoding")
    assert not plan("smoke", ["03"], store=tmp_path, steps=3)["stored"].any()


def test_a_plan_has_each_network_once(tmp_path):
    table = plan("smoke", ["03"], store=tmp_path, normalisation="unit")
    assert not table.duplicated(["network", "dataset", "task", "normalisation"]).any()


def test_an_unknown_chapter_is_refused():
    with pytest.raises(OptionError, match="chapter 99: expected some of 01, 02, 03, 04, 05, 06, 07"):
        plan("smoke", ["99"])


def test_what_is_prepared_is_all_that_the_chapters_read(tmp_path):
    run = Experiment("smoke", store=tmp_path, threads=1, steps=1, seeds=1)
    jobs = distinct(run, ["05", "06"])
    assert len(jobs) == 2 * (6 + 1)  # architectures, the six networks and the target of few patients
    assert len(distinct(run.variant(seeds=3), ["05", "06"])) == 3 * len(jobs)
    prepare(run, "05", "06")
    reader = run.stored()
    for network in ("unet", "pspnet"):
        assert sources.over_seeds(reader, network)["seed"].unique().tolist() == run.seeds
        assert sources.few(reader, network)["patients"].unique().tolist() == [run.profile.few_patients]
    for arguments in transfer.sources(reader):
        reader.model(**arguments)
    assert len(list((tmp_path / "networks").glob("*.safetensors"))) == len(jobs)  # and nothing else was trained
    assert plan("smoke", ["05", "06"], store=tmp_path, threads=1, steps=1, seeds=1)["stored"].all()


def test_chapters_share_networks_and_each_is_planned_once(tmp_path):
    run = Experiment("smoke", store=tmp_path)
    keys = {number: {repr(other.key(**given)) for other, given in distinct(run, [number])} for number in CHAPTERS}
    assert keys["06"] < keys["05"]
    assert len(keys["06"]) == 4 * 2  # T1 and RVSC segmentation, T1 and ACDC auto-encoding, for two seeds
    assert not keys["01"]
    assert not keys["07"]
    every = [repr(other.key(**given)) for other, given in distinct(run, [])]
    assert len(every) == len(set(every))
    assert set(every) == set.union(*keys.values())


def test_preparing_an_unknown_chapter_is_refused(tmp_path):
    with pytest.raises(OptionError, match="chapter 99"):
        prepare(Experiment("smoke", store=tmp_path), "5", "99")
    assert not list(tmp_path.rglob("*.safetensors"))


def test_after_one_parameter_changed_only_what_depends_on_it_is_trained_again(tmp_path, monkeypatch):
    counts = Counter()

    def fit(model, data, task, **options):
        counts[type(model).__name__] += 1
        return training_fit(model, data, task, **options)

    training_fit = training.fit
    monkeypatch.setenv("PRR_JOBS", "1")  # in this process, where they are counted
    monkeypatch.setattr(training, "fit", fit)
    run = Experiment("smoke", store=tmp_path, device="cpu", steps=2)
    for changed, trained in [
        ({}, {"UNet": 4}),
        ({}, {}),
        ({"pspnet_width": 8, "transfer_steps": 2, "few_patients": 2}, {}),
        ({"unet_width": 3}, {"UNet": 4}),
        ({"normalisation": "unit"}, {}),  # chapter 3 has trained them beside its own
    ]:
        counts.clear()
        prepare(run.variant(**changed), "03")
        assert dict(counts) == trained, changed
