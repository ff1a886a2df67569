"""What chapters show, as jobs: the dry run reports what they train, and preparing makes just that."""

from collections import Counter

import pytest
import yaml

from prr.errors import OptionError
from prr.study import Experiment, chapters, networks, sources, stages, training, transfer
from prr.study.chapters import CHAPTERS, jobs, plan
from prr.study.jobs import closure
from prr.study.revisions import PACKAGE

pytestmark = pytest.mark.usefixtures("phantoms_only")


def trained(run, *numbers):
    """Questions of the networks that some chapters need."""
    return {job.question for job in closure(jobs(run, *numbers)) if getattr(job, "function", None) is networks.trained}


def test_chapters_are_those_of_the_toc():
    toc = yaml.safe_load((PACKAGE.parent / "_toc.yml").read_text(encoding="utf-8"))
    assert list(CHAPTERS) == [entry["file"].split("_")[0] for entry in toc["chapters"]]


def test_what_is_in_the_store_costs_nothing(tmp_path):
    run = Experiment("smoke", store=tmp_path)
    network = run.model("unet", "acdc", "auto-encoding")
    table = plan(run, "3").set_index(["task", "normalisation"])
    assert len(table) == 4
    assert table.index[table["stored"]].tolist() == [("auto-encoding", "zscore")]
    assert table.loc[("auto-encoding", "zscore"), ["seconds", "peak"]].tolist() == [0, 0]
    assert (table.loc[~table["stored"], "peak"] > 0).all()
    parameters = sum(value.numel() for value in network.parameters())
    assert table["megabytes"].tolist() == pytest.approx([parameters * 4 / 1e6] * 4, abs=0.06)


def test_what_training_takes_is_what_a_batch_keeps_and_four_times_the_network(tmp_path):
    one, two = (
        plan(Experiment("smoke", store=tmp_path, unet_width=16, batch_size=size), "03").iloc[0] for size in (4, 8)
    )
    assert two["peak"] - one["peak"] == pytest.approx(one["peak"] - 4 * one["megabytes"], abs=2)


def test_an_override_reaches_the_plan(tmp_path):
    Experiment("smoke", store=tmp_path).model("unet", "acdc", "auto-encoding")
    assert not plan(Experiment("smoke", store=tmp_path, steps=3), "03")["stored"].any()


def test_a_plan_has_each_network_once(tmp_path):
    table = plan(Experiment("smoke", store=tmp_path, normalisation="unit"), "03")
    assert not table.duplicated(["network", "dataset", "task", "normalisation"]).any()


@pytest.mark.parametrize("asked", [plan, jobs, lambda run, *numbers: run.prepare(*numbers)])
def test_an_unknown_chapter_is_refused(tmp_path, asked):
    with pytest.raises(OptionError, match="chapter 99: expected some of 01, 02, 03, 04, 05, 06, 07"):
        asked(Experiment("smoke", store=tmp_path), "5", "99")
    assert not list(tmp_path.rglob("*.safetensors"))


def test_what_is_prepared_is_all_that_the_chapters_read(tmp_path):
    scale = {"store": tmp_path, "threads": 1, "steps": 1, "transfer_steps": 1, "seeds": 1}
    run = Experiment("smoke", **scale)
    asked = trained(run, "05", "06")
    assert len(asked) == 2 * (6 + 1)  # architectures, the six networks and the target of few patients
    assert len(trained(run.variant(seeds=3), "05", "06")) == 3 * len(asked)
    run.prepare("05", "06")
    reader = Experiment("smoke", **scale, make=False)
    for network in ("unet", "pspnet"):
        for patients in (None, run.profile.few_patients):
            assert reader.result(sources.over_seeds(reader, network, patients))["seed"].unique().tolist() == run.seeds
    assert len(reader.result(transfer.table(reader))) == 11 * 2 * 4  # rows, sizes and classes
    assert len(list((tmp_path / "networks").glob("*.safetensors"))) == len(asked)  # and nothing else was trained
    assert plan(run, "05", "06")["stored"].all()


def test_chapters_share_networks(tmp_path):
    run = Experiment("smoke", store=tmp_path)
    each = {number: trained(run, number) for number in CHAPTERS}
    assert each["06"] < each["05"]
    assert len(each["06"]) == 6 * 2  # what is loaded, and the rest of the six whose distances a claim asks for
    assert each["01"] == set()
    longer = {job.needs[side].question for _, job in stages.pairs(run) for side in ("target", "source")}
    assert each["03"] | (each["04"] - longer) | each["05"] <= each["07"]
    assert trained(run) == set.union(*each.values())


def test_after_one_parameter_changed_only_what_depends_on_it_is_trained_again(tmp_path, monkeypatch):
    counts = Counter()
    training_fit = training.fit

    def fit(model, data, task, **options):
        counts[type(model).__name__] += 1
        return training_fit(model, data, task, **options)

    monkeypatch.setattr(training, "fit", fit)
    run = Experiment("smoke", store=tmp_path, device="cpu", steps=2)
    for changed, again in [
        ({}, {"UNet": 4}),
        ({}, {}),
        ({"pspnet_width": 16, "transfer_steps": 2, "few_patients": 2, "tolerance": 0.1}, {}),
        ({"unet_width": 3}, {"UNet": 4}),
        ({"normalisation": "unit"}, {}),  # chapter 3 has trained them beside its own
    ]:
        counts.clear()
        run.variant(**changed).prepare("03")
        assert dict(counts) == again, changed


def test_the_stamp_and_the_provenance_of_a_page_follow_from_its_jobs(tmp_path):
    run = Experiment("smoke", store=tmp_path, device="cpu", steps=2)
    run.prepare("03")
    assert "ACDC phantom (4 patients)" in run.stamp
    assert "RVSC" not in run.stamp
    made = run.provenance()
    kept = [job for job in closure(chapters.jobs(run, "03")) if getattr(job, "form", None)]
    assert len(made) == len(kept)
    assert (made["network"] == "unet").all()
