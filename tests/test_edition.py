"""An edition gives back what the run had, and nothing else: no weights, no images, no other scale."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from matplotlib.figure import Figure

from prr import verdict
from prr.__main__ import main
from prr.book import record
from prr.errors import DataError, MissingError, OptionError
from prr.study import (
    Experiment,
    architecture,
    chapters,
    edition,
    measures,
    networks,
    sources,
    training,
    transfer,
    transplants,
)
from prr.study.edition import Edition
from prr.study.jobs import closure
from prr.study.models import TITLES
from prr.study.revisions import REVISIONS
from prr.verdict import Verdict

pytestmark = pytest.mark.usefixtures("phantoms_only")

SCALE = {"threads": 1, "steps": 2, "transfer_steps": 1, "seeds": 1, "grid_seeds": 1}
AUTO = {"dataset": "acdc", "task": "auto-encoding"}
SEG = {"dataset": "acdc", "task": "segmentation"}
# one of each kind of result, with a column of every type that a table has
JOBS = {
    "dice": lambda run: measures.dice(run, "unet"),
    "sweep": lambda run: transplants.sweep(run, "unet", ["RB", "B"], layers=[1, 2]),
    "drops": lambda run: transplants.drops(run, "unet", SEG, AUTO),
    "joint": lambda run: transplants.joint(run, "unet"),
    "rmse": lambda run: measures.rmse(run, "unet"),
    "shift": lambda run: measures.shift_scale(run, "unet"),
    "responses": lambda run: measures.responses(run, "unet"),
    "algebra": lambda run: measures.algebra(run, "unet"),
    "verdict": lambda run: transplants.judge(run, "unet"),
    "derived": lambda run: sources.over_seeds(run, "unet"),
    "row": lambda run: transfer.row(run, "pspnet", "paper", row=2, patients=1, seed=0),
    "call": lambda run: run.job_of(verdict.shares, transplants.joint(run, "unet").needs["sweep"]),
}
READ = {
    "data": lambda run: run.data_table("acdc"),
    "history": lambda run: networks.history(run, "unet"),
    **{name: lambda run, job=job: run.result(job(run)) for name, job in JOBS.items()},
}


def fresh(folder):
    return Experiment("smoke", store=folder, device="cpu", progress=False, **SCALE)


@pytest.fixture(scope="module")
def live(tmp_path_factory, phantoms_only):
    return fresh(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def jobs(live):
    """All that the edition of these tests holds, made."""
    found = closure([live.data("acdc"), *(job(live) for job in JOBS.values())])
    live.compute(found)
    return found


def stamp_of(run, **other):
    scale = {"name": "stand-in", "profile": run.profile.name, "seed": run.seed, "overrides": run.overrides}
    scale |= {"places": run.places, "fits": run.fits, "machine": run.machine}
    return scale | {"revisions": REVISIONS, "made": record.made("cpu"), **other}


@pytest.fixture(scope="module")
def made(live, jobs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("editions") / "stand-in"
    return edition.write(folder, jobs, live.results, stamp_of(live), Figure())


def reader(folder):
    return Experiment.from_parameters({"profile": "quick", "device": "auto", "seed": 0, "edition": str(folder)})


@pytest.fixture
def replay(made):
    return reader(made.folder)


def assert_same(found, expected):
    if isinstance(expected, Verdict):
        assert (str(found), found.made) == (str(expected), expected.made)
        pd.testing.assert_frame_equal(found.plan(), expected.plan(), check_dtype=False)
        found, expected = found.layers, expected.layers
    pd.testing.assert_frame_equal(found, expected, check_exact=True)


@pytest.mark.parametrize("name", READ)
def test_what_is_read_is_what_the_run_gave(live, replay, monkeypatch, name):
    monkeypatch.setattr(training, "fit", None)
    assert_same(READ[name](replay), READ[name](live))


def test_where_it_was_made_and_what_it_cost_is_told_again(live, replay):
    again = fresh(live.results.store.folder)
    for run in (again, replay):
        READ["sweep"](run)
    assert len(again.provenance()) == 3  # two networks and the sweep
    pd.testing.assert_frame_equal(replay.provenance(), again.provenance())
    assert "edition stand-in · profile smoke" in replay.stamp
    for part in ("ACDC phantom (4 patients)", f"torch {torch.__version__}", "threads: 1", "steps 2"):
        assert part in replay.stamp


@pytest.mark.parametrize("name", ["sweep", "verdict", "history", "data", "call"])
def test_a_result_does_not_depend_on_the_machine_and_revision_of_its_reader(made, live, tmp_path, monkeypatch, name):
    """Computed on a GPU by another torch, read here, by code of other revisions."""
    folder = shutil.copytree(made.folder, tmp_path / "moved")
    stamp = json.loads((folder / "edition.json").read_text())
    machine = {"device": "cuda", "threads": None, "torch": "9.9"}
    (folder / "edition.json").write_text(json.dumps(stamp | {"machine": machine, "revisions": {}}))
    monkeypatch.setattr(training, "fit", None)
    expected = READ[name](live)
    monkeypatch.setitem(REVISIONS, "reuse", 99)
    run = reader(folder)
    assert run.machine == machine
    assert run.device == "cpu"  # where its untrained networks lie
    assert_same(READ[name](run), expected)


def test_nothing_is_computed_for_an_edition(replay, monkeypatch):
    monkeypatch.setattr(training, "fit", None)
    with pytest.raises(MissingError, match="keeps results, no weights"):
        replay.model("unet")
    with pytest.raises(MissingError, match="'transplants_swept' of these parameters, found none"):
        replay.sweep("unet", ["RM"])
    with pytest.raises(MissingError, match="compute without edition"):
        replay.slices("acdc")
    with pytest.raises(MissingError, match="'measures_dice_by_class'"):
        READ["dice"](replay.variant(steps=3))
    with pytest.raises(MissingError, match=r"expected data set acdc at .*compute without edition"):
        replay.variant(size=64).data("acdc")
    assert replay.compute([transplants.sweep(replay, "unet", ["RM"])])  # makes nothing, and says nothing


def test_networks_of_an_edition_have_their_layers_without_their_weights(live, replay):
    assert networks.parameters(replay, "unet").equals(networks.parameters(live, "unet"))


def test_a_picture_beside_an_edition_is_of_a_phantom_whatever_data_are_named(replay, monkeypatch, tmp_path):
    monkeypatch.setenv("PRR_STORE", str(tmp_path))
    monkeypatch.setenv("PRR_ACDC", str(tmp_path / "real"))
    shown = replay.slices_to_show("acdc")
    assert shown.phantom
    assert "a phantom" in shown.name
    assert shown.images.shape[-1] == replay.profile.size


def test_neither_weights_nor_images_are_kept(made):
    names = {path.name for path in made.folder.iterdir()}
    tables = {"data.csv", "history.csv.gz", "transplants_swept.csv.gz"}
    assert names >= {"edition.json", "records.json", "figure.png", *tables}
    assert {Path(name).suffix for name in names} == {".json", ".csv", ".gz", ".png"}
    assert sum(path.stat().st_size for path in made.folder.iterdir()) < 1e6


def test_a_reader_finds_tidy_tables_and_can_follow_what_they_depend_on(made):
    """With pandas and json alone: from a row to the sweep, its target, and the start of that."""
    table = pd.read_csv(made.folder / "transplants_swept.csv.gz")
    records = json.loads((made.folder / "records.json").read_text())
    assert set(table["result"]) <= set(records)
    few = table.loc[table["kind"].eq("RB"), "result"].value_counts().idxmin()
    assert records[few]["key"]["function"] == "prr.study.transplants.swept"
    assert records[few]["key"]["arguments"]["kinds"] == ["RB", "B"]
    assert {"seconds", "made", "title"} <= records[few].keys()
    by_digest = {each["digest"]: each for each in records.values()}
    target = by_digest[records[few]["key"]["needs"]["target"]]
    assert target["key"]["arguments"]["task"] == "segmentation"
    begins = by_digest[target["key"]["needs"]["initial"]]["key"]["arguments"]
    assert (begins["network"], begins["start"]) == ("unet", "independent")
    history = pd.read_csv(made.folder / "history.csv.gz")
    assert set(history["result"]) == {name for name, each in records.items() if each["name"] == "networks_trained"}
    data = pd.read_csv(made.folder / "data.csv")
    assert target["key"]["needs"]["slices"] in set(data["content"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"steps": 3}, "steps: expected nothing beside edition"),
        ({"device": "cpu"}, "device: expected nothing"),
        ({"seed": 2, "data_root": "x"}, "seed, data_root|data_root, seed"),
    ],
)
def test_an_edition_has_its_own_scale(made, given, message):
    with pytest.raises(OptionError, match=message):
        Experiment.from_parameters({"edition": str(made.folder), **given})


def broken(made, to: Path, file: str, change) -> Path:
    folder = shutil.copytree(made.folder, to / "broken")
    (folder / file).write_bytes(change((folder / file).read_bytes()))
    return folder


def test_another_schema_is_refused_and_an_older_revision_is_told(made, tmp_path):
    now = f'"schema": {edition.SCHEMA}'.encode()
    folder = broken(made, tmp_path, "edition.json", lambda text: text.replace(now, b'"schema": 0'))
    with pytest.raises(DataError, match=r"edition broken: expected schema \d, found 0; render it with the version"):
        Edition(folder)
    assert made.older(REVISIONS) == []
    assert made.older(REVISIONS | {"reuse": 99, "new": 1}) == ["reuse", "new"]
    assert "revision" not in made.notice(REVISIONS)
    assert "another revision than the text and the code (reuse)" in made.notice(REVISIONS | {"reuse": 99})


@pytest.mark.parametrize("file", ["edition.json", "records.json", "transplants_swept.csv.gz"])
def test_a_damaged_edition_is_told_by_name(made, tmp_path, file):
    folder = broken(made, tmp_path, file, lambda content: content[: len(content) // 2])
    with pytest.raises(DataError, match="edition broken: expected whole files"):
        READ["sweep"](Experiment(edition=folder, **made.parameters))


def test_an_edition_that_is_not_there_is_told():
    with pytest.raises(DataError, match="edition bogus: expected one of"):
        Edition("bogus")


def test_a_write_that_fails_leaves_the_edition_that_was_there(live, jobs, tmp_path, monkeypatch):
    folder = tmp_path / "stand-in"

    def write(note):
        return edition.write(folder, jobs, live.results, stamp_of(live, note=note), Figure())

    write("first")
    monkeypatch.setitem(edition.FROM_TEXT, "float", lambda text: 0.5)
    with pytest.raises(DataError, match="does not come back as it was"):
        write("second")
    assert Edition(folder).stamp["note"] == "first"
    monkeypatch.undo()
    write("third")
    assert Edition(folder).stamp["note"] == "third"
    assert [path.name for path in tmp_path.iterdir()] == ["stand-in"]


def test_the_cost_of_each_kind_of_job_is_summed(made):
    costs = made.jobs().set_index("result")
    assert costs.loc["transplants_judged", "jobs"] == 1
    assert costs.loc["transplants_swept", "jobs"] == 2  # its own, and that of the joint transplant
    records = [each for each in made.records.values() if each["name"] == "transplants_swept"]
    assert costs.loc["transplants_swept", "seconds"] == pytest.approx(sum(each["seconds"] for each in records))
    assert "starts_initial" not in costs.index  # nothing is spent on what is derived
    assert "| scale | profile smoke, seed 0, threads 1, steps 2" in made.to_markdown()


def test_an_edition_is_found_by_a_relative_path_too(made, monkeypatch):
    monkeypatch.chdir(made.folder.parent)
    assert Edition("./stand-in/").name == "stand-in"


def test_variants_of_an_edition_read_its_files_once(replay, monkeypatch):
    READ["sweep"](replay)
    monkeypatch.setattr(pd, "read_csv", None)
    READ["sweep"](replay.variant(seed=0))


# -------------------------------------- what holds at every scale, of the editions that are kept too


@pytest.fixture
def replays(made):
    kept = [Edition(path.parent.name) for path in sorted(edition.FOLDER.glob("[!.]*/edition.json"))]
    return [Experiment(edition=each.folder, **each.parameters) for each in (made, *kept)]


def test_a_sweep_of_an_edition_has_every_live_layer_of_its_network(replays):
    for run in replays:
        there = [network for network in TITLES if run.holds(transplants.sweep(run, network))]
        assert "unet" in there
        for network in there:
            table = networks.parameters(run, network)
            pairs = ["kind", "layer", "name"]
            swept, live = (each[pairs].sort_values(pairs, ignore_index=True) for each in (
                run.sweep(network), table[table["live"]]
            ))  # fmt: skip
            pd.testing.assert_frame_equal(swept, live, check_dtype=False)


def test_kernels_of_independent_starts_lie_as_far_apart_as_chance_puts_them(replays):
    for run in replays:
        assert run.profile.unet_start == "independent"
        kernels = READ["rmse"](run).query("kind == 'W'")
        assert kernels["relative"].median() == pytest.approx(2**0.5, rel=0.15)


# ------------------------------------------------------------------- making one


def test_an_edition_holds_what_the_jobs_say_networks_too_where_their_tables_are_there(
    live, jobs, tmp_path, monkeypatch
):
    store = shutil.copytree(live.results.store.folder, tmp_path / "store")
    shutil.rmtree(store / "networks")
    monkeypatch.setenv("PRR_STORE", str(store))
    monkeypatch.setattr(chapters, "jobs", lambda run, *numbers: [JOBS["sweep"](run)])
    monkeypatch.setattr(record, "main_figure", lambda run: Figure())
    arguments = ["edition", "stand-in", "--profile", "smoke", "--device", "cpu", "--folder", str(tmp_path)]
    done = CliRunner().invoke(main, [*arguments, *(f"--set={name}={value}" for name, value in SCALE.items())])
    assert done.exit_code == 0, done.output
    assert "edition stand-in: 3 results" in done.output
    run = reader(tmp_path / "stand-in")
    assert run.edition.stamp["machine"] == live.machine
    assert run.edition.revisions == REVISIONS
    for name in ("sweep", "history"):
        assert_same(READ[name](run), READ[name](live))


def test_the_figure_of_an_edition_is_the_answer_of_chapter_8_with_its_stamp(monkeypatch):
    start = ("independent", "shared")
    rows = [(each, where) for each in ("plain", "residual", "long", "both") for where in start]
    table = pd.DataFrame(rows, columns=["network", "start"]).assign(at="as trained", drop=0.1, low=0.0, high=0.2)
    table = table.assign(distance=float("nan"), dice=0.8, over="patients")
    monkeypatch.setattr(architecture, "table", lambda run: "the table's job")
    monkeypatch.setattr(architecture, "cells", lambda drops: table if drops == "the drops" else None)
    run = SimpleNamespace(result={"the table's job": "the drops"}.get, stamp="profile smoke")
    figure = record.main_figure(run)
    assert [axis.get_title() for axis in figure.axes] == ["as trained"]
    (note,) = figure.texts
    assert note.get_text() == "profile smoke"


def test_without_cuda_it_says_so_in_one_line_and_exits_with_2():
    done = CliRunner().invoke(main, ["edition", "big"])
    assert done.exit_code == 2
    assert done.stderr.splitlines() == [
        "Error: edition big: expected a CUDA device, found none; make it where there is one"
    ]


@pytest.mark.parametrize("name", ["big", "", "stand-in/../x", "stand in", "quick"])
def test_what_is_not_of_cuda_may_not_look_like_results(name, tmp_path):
    with pytest.raises(OptionError, match=r"letters, digits and hyphens, none of smoke, .*beginning with stand-in"):
        record.record(name, "smoke", device="cpu", folder=tmp_path)


def test_when_time_is_up_nothing_is_written_and_the_command_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PRR_STORE", str(tmp_path / "store"))
    arguments = ["edition", "stand-in", "--profile", "smoke", "--device", "cpu", "--minutes", "0"]
    done = CliRunner().invoke(main, [*arguments, "--folder", str(tmp_path / "editions")])
    assert done.exit_code == 3
    assert "not finished yet" in done.output
    assert not list((tmp_path / "editions").iterdir())
    assert not list(tmp_path.rglob("networks/*"))


@pytest.mark.parametrize("given", [{"store": "x"}, {"make": True}, {"profile": "tiny"}, {"edition": "other"}])
def test_what_no_chapter_takes_is_refused_before_anything_is_computed(given, tmp_path, monkeypatch):
    monkeypatch.setattr(chapters, "jobs", None)
    with pytest.raises((OptionError, DataError)):
        record.record("stand-in", "smoke", device="cpu", folder=tmp_path, parameters=given)


def test_a_place_that_cannot_be_written_is_told_before_anything_is_computed(tmp_path, monkeypatch):
    monkeypatch.setattr(chapters, "jobs", None)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        record.record("stand-in", "smoke", device="cpu", folder=tmp_path / "file")
