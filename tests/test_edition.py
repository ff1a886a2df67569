"""An edition gives back what the run had, and nothing else: no weights, no images, no other scale."""

import json
import shutil
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from matplotlib.figure import Figure
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

import prr
from prr import recording, reuse
from prr.__main__ import main
from prr.errors import BookError, DataError, MissingError, OptionError
from prr.study import Experiment, edition, examples, experiment, plan, training
from prr.study.paper import KINDS
from prr.study.store import reading
from prr.verdict import Verdict

pytestmark = pytest.mark.usefixtures("phantoms_only")

SCALE = {"threads": 1, "steps": 2, "transfer_steps": 1, "seeds": 1, "grid_seeds": 1}
AUTO = {"dataset": "acdc", "task": "auto-encoding"}
SEG = {"dataset": "acdc", "task": "segmentation"}
# one of each kind of result, with a column of every type that a table has: method of `Experiment`, arguments
READ = {
    "data": ("described", ["acdc"], {}),
    "history": ("history", ["unet"], {}),
    "dice": ("dice", ["unet"], {}),
    "sweep": ("sweep", ["unet", ["RB", "B"]], {"layers": [1, 2]}),
    "drops": ("drops", ["unet", SEG, AUTO], {}),
    "joint": ("joint", ["unet"], {}),
    "rmse": ("rmse", ["unet"], {}),
    "shift": ("shift_scale", ["unet"], {}),
    "responses": ("responses", ["unet"], {}),
    "residuals": ("algebra", ["unet"], {}),
    "verdict": ("judge", ["unet"], {}),
    "pairs": ("pairs", ["unet"], {}),
    "row": ("transfer_row", [], {"network": "pspnet", "parameters": "paper", "row": 2, "patients": 1, "seed": 0}),
}


@pytest.fixture(scope="module")
def live(tmp_path_factory, phantoms_only):
    return Experiment("smoke", store=tmp_path_factory.mktemp("store"), **SCALE)


def read(run, name):
    method, arguments, named = READ[name]
    return getattr(run, method)(*arguments, **named)


def stamp_of(run, **other):
    scale = {"name": "stand-in", "profile": run.profile.name, "seed": run.seed, "overrides": run.overrides}
    return scale | {"machine": run.machine, "recipes": run.recipes, "made": recording.made("cpu"), **other}


@pytest.fixture(scope="module")
def results(live):
    with reading() as found:
        for name in READ:
            read(live, name)
    return found


@pytest.fixture(scope="module")
def made(live, results, tmp_path_factory):
    return edition.write(tmp_path_factory.mktemp("editions") / "stand-in", results, stamp_of(live), Figure())


@pytest.fixture
def replay(made):
    return Experiment.from_parameters({"profile": "quick", "device": "auto", "seed": 0, "edition": str(made.folder)})


@pytest.mark.parametrize("name", READ)
def test_what_is_read_is_what_the_run_gave(live, replay, monkeypatch, name):
    monkeypatch.setattr(training, "fit", None)
    found, expected = read(replay, name), read(live, name)
    if isinstance(expected, Verdict):
        assert (str(found), found.made) == (str(expected), expected.made)
        pd.testing.assert_frame_equal(found.plan(), expected.plan(), check_dtype=False)
        found, expected = found.layers, expected.layers
    pd.testing.assert_frame_equal(found, expected, check_exact=True)


def test_where_it_was_made_and_what_it_cost_is_told_again(live, replay):
    again = live.variant()
    again._used = {}
    for run in (again, replay):
        read(run, "sweep")
    pd.testing.assert_frame_equal(replay.provenance(), again.provenance())
    assert "edition stand-in · profile smoke" in replay.stamp
    for part in ("ACDC phantom (4 patients)", f"torch {torch.__version__}", "threads: 1", "steps 2"):
        assert part in replay.stamp


def test_a_result_does_not_depend_on_the_machine_that_reads_it(made, results, live, tmp_path):
    """Computed on a GPU by another torch, read here."""
    machine = {"device": "cuda", "threads": None, "torch": "9.9"}
    pages = [live.key("unet"), live.key("unet", task="auto-encoding")]
    moved = [key | machine for key in pages]
    folder = shutil.copytree(made.folder, tmp_path / "moved")
    records = json.loads((folder / "records.json").read_text())
    names = {edition.Edition.named(a): edition.Edition.named(b) for a, b in zip(pages, moved, strict=True)}
    (folder / "records.json").write_text(json.dumps({names.get(name, name): each for name, each in records.items()}))
    stamp = json.loads((folder / "edition.json").read_text())
    (folder / "edition.json").write_text(json.dumps(stamp | {"machine": machine}))
    run = Experiment(edition=folder, **edition.Edition(folder).parameters)
    assert run.key("unet") == moved[0]
    assert run.store.holds("networks", moved[0])
    assert run.device == "cpu"  # where its untrained networks lie


def test_nothing_is_computed_for_an_edition(replay, monkeypatch):
    monkeypatch.setattr(training, "fit", None)
    with pytest.raises(MissingError, match="keeps results, no weights"):
        replay.model("unet")
    with pytest.raises(MissingError, match="'sweep' of these parameters, found none"):
        replay.sweep("unet", ["RM"])
    with pytest.raises(MissingError, match="compute without edition"):
        replay.slices("acdc")
    with pytest.raises(MissingError):
        replay.variant(steps=3).dice("unet")
    assert plan.prepare(replay, "03")  # makes nothing, and says nothing


def test_networks_of_an_edition_have_their_layers_and_no_weights(live, replay):
    table = replay.parameters("unet")
    assert table.equals(live.parameters("unet"))
    network = replay.example("few digits")
    assert prr.parameter_table(network).equals(prr.parameter_table(examples.start(live, "few digits")))
    assert all(value.isnan().all() for value in network.state_dict().values() if value.is_floating_point())


def test_what_is_called_once_is_kept_as_table_or_verdict(live, results, tmp_path):
    small = live.variant(example_images=20)
    networks = {name: small.example(name) for name in ("few digits", "other digits")}
    digits = examples.data(small, "validation")
    target, source = networks.values()
    calls = {
        "alone": lambda run: examples.once(run, "alone", examples.gains, networks, digits),
        "digits": lambda run: examples.once(run, "digits", prr.judge, target, source, digits),
    }
    with reading() as found:
        expected = {name: call(small) for name, call in calls.items()}
    kept = edition.write(tmp_path / "stand-in", results | found, stamp_of(small), Figure())
    replay = Experiment(edition=kept.folder, **kept.parameters)
    pd.testing.assert_frame_equal(calls["alone"](replay), expected["alone"], rtol=1e-6)
    assert str(calls["digits"](replay)) == str(expected["digits"])


def test_a_picture_beside_an_edition_is_of_a_phantom_whatever_data_are_named(replay, monkeypatch, tmp_path):
    monkeypatch.setenv("PRR_STORE", str(tmp_path))
    monkeypatch.setenv("PRR_ACDC", str(tmp_path / "real"))
    shown = replay.pictured("acdc")
    assert shown.phantom
    assert "a phantom" in shown.name
    assert shown.images.shape[-1] == replay.profile.size


def test_neither_weights_nor_images_are_kept(made):
    names = {path.name for path in made.folder.iterdir()}
    assert names >= {"edition.json", "records.json", "figure.png", "data.csv", "history.csv.gz", "sweep.csv.gz"}
    assert {Path(name).suffix for name in names} == {".json", ".csv", ".gz", ".png"}
    assert sum(path.stat().st_size for path in made.folder.iterdir()) < 1e6


def test_a_reader_finds_tidy_tables_and_what_they_depend_on(made, live):
    table = pd.read_csv(made.folder / "sweep.csv.gz")
    records = json.loads((made.folder / "records.json").read_text())
    assert set(table["result"]) <= set(records)
    keys = [records[name]["key"] for name in table["result"].unique()]
    assert {(key["network"], tuple(key["kinds"])) for key in keys} >= {("unet", ("RB", "B"))}
    assert all({"seconds", "made"} <= record.keys() for record in records.values() if "seconds" in record)


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
    folder = broken(made, tmp_path, "edition.json", lambda text: text.replace(b'"schema": 1', b'"schema": 0'))
    with pytest.raises(DataError, match="edition broken: expected schema 1, found 0; render it with the version"):
        edition.Edition(folder)
    assert made.older(experiment.recipes()) == []
    assert made.older(experiment.recipes() | {"reuse": 99, "new": 1}) == ["reuse", "new"]
    assert "revision" not in made.notice(experiment.recipes())
    assert "another revision than the text and the code (reuse)" in made.notice(experiment.recipes() | {"reuse": 99})


def test_an_edition_of_an_older_revision_still_gives_what_it_has(made, replay, monkeypatch):
    before = read(replay, "sweep")
    monkeypatch.setattr(reuse, "RECIPE", reuse.RECIPE + 1)
    assert made.older(experiment.recipes()) == ["reuse"]
    again = Experiment(edition=made.folder, **made.parameters)
    pd.testing.assert_frame_equal(read(again, "sweep"), before)


@pytest.mark.parametrize("file", ["edition.json", "records.json", "sweep.csv.gz"])
def test_a_damaged_edition_is_told_by_name(made, tmp_path, file):
    folder = broken(made, tmp_path, file, lambda content: content[: len(content) // 2])
    with pytest.raises(DataError, match="edition broken: expected whole files"):
        read(Experiment(edition=folder, **made.parameters), "sweep")


def test_an_edition_that_is_not_there_is_told():
    with pytest.raises(DataError, match="edition bogus: expected one of"):
        edition.Edition("bogus")


def test_a_write_that_fails_leaves_the_edition_that_was_there(live, results, tmp_path, monkeypatch):
    folder = tmp_path / "stand-in"
    edition.write(folder, results, stamp_of(live, note="first"), Figure())
    monkeypatch.setitem(edition.FROM_TEXT, "float", lambda text: 0.5)
    with pytest.raises(DataError, match="does not come back as it was"):
        edition.write(folder, results, stamp_of(live, note="second"), Figure())
    assert edition.Edition(folder).stamp["note"] == "first"
    monkeypatch.undo()
    edition.write(folder, results, stamp_of(live, note="third"), Figure())
    assert edition.Edition(folder).stamp["note"] == "third"
    assert [path.name for path in tmp_path.iterdir()] == ["stand-in"]


def test_the_cost_of_each_kind_of_job_is_summed(made):
    jobs = made.jobs().set_index("result")
    assert jobs.loc["verdict", "jobs"] == 1
    assert jobs.loc["sweep", "jobs"] == 2  # its own, and that of the joint transplant
    records = [record for record in made.records.values() if record["key"].get("table") == "sweep"]
    assert jobs.loc["sweep", "seconds"] == pytest.approx(sum(record["seconds"] for record in records))
    page = made.to_markdown()
    assert "| scale | profile smoke, seed 0, threads 1, steps 2" in page


# -------------------------------------- what holds at every scale, of the editions that are kept too


@pytest.fixture
def replays(made):
    kept = [edition.Edition(path.parent.name) for path in sorted(edition.FOLDER.glob("[!.]*/edition.json"))]
    return [Experiment(edition=each.folder, **each.parameters) for each in (made, *kept)]


def test_a_sweep_of_an_edition_has_every_live_layer_of_its_network(replays):
    for run in replays:
        keys = [record["key"] for record in run.store.records.values() if record["key"].get("table") == "sweep"]
        whole = [key for key in keys if key["layers"] is None and key["kinds"] == list(KINDS)]
        assert whole
        for key in whole:
            table = run.parameters(key["network"])
            pairs = ["kind", "layer", "name"]
            swept, live = (each[pairs].sort_values(pairs, ignore_index=True) for each in (
                run.store.table(key)[0], table[table["live"]]
            ))  # fmt: skip
            pd.testing.assert_frame_equal(swept, live, check_dtype=False)


def test_kernels_of_independent_starts_lie_as_far_apart_as_chance_puts_them(replays):
    for run in replays:
        assert run.profile.unet_start == "independent"
        kernels = run.rmse("unet").query("kind == 'W'")
        assert kernels["relative"].median() == pytest.approx(2**0.5, rel=0.15)


# ------------------------------------------------------------------- making one


@pytest.fixture
def toy(tmp_path):
    """A book of one chapter that reads one table."""
    (tmp_path / "book").mkdir()
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: index\nchapters: [file: 01_one]\n")
    names = ["profile", "device", *SCALE, "edition"]
    chapter = new_notebook()
    chapter.cells = [
        new_markdown_cell("# One"),
        new_code_cell("\n".join(f"{name} = None" for name in names), metadata={"tags": ["parameters"]}),
        new_code_cell("from prr.study import Experiment\nrun = Experiment.from_parameters(globals())"),
        new_code_cell("display(run.sweep('unet', ['RB'], layers=[1]))"),
    ]
    nbformat.write(chapter, tmp_path / "book" / "01_one.ipynb")
    return tmp_path


def test_without_cuda_it_says_so_in_one_line_and_exits_with_2():
    done = CliRunner().invoke(main, ["edition", "big"])
    assert done.exit_code == 2
    assert done.stderr.splitlines() == [
        "Error: edition big: expected a CUDA device, found none; make it where there is one"
    ]


@pytest.mark.parametrize("name", ["big", "", "stand-in/../x", "stand in", "quick"])
def test_what_is_not_of_cuda_may_not_look_like_results(name, tmp_path):
    with pytest.raises(OptionError, match=r"letters, digits and hyphens, none of smoke, .*beginning with stand-in"):
        recording.record(name, "smoke", device="cpu", folder=tmp_path)


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
    monkeypatch.setattr(plan, "prepare", None)
    with pytest.raises((OptionError, DataError)):
        recording.record("stand-in", "smoke", device="cpu", folder=tmp_path, parameters=given)


def test_a_place_that_cannot_be_written_is_told_before_anything_is_computed(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "prepare", None)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        recording.record("stand-in", "smoke", device="cpu", folder=tmp_path / "file")


def test_an_edition_is_found_by_a_relative_path_too(made, monkeypatch):
    monkeypatch.chdir(made.folder.parent)
    assert edition.Edition("./stand-in/").name == "stand-in"


def test_variants_of_an_edition_read_its_files_once(replay, monkeypatch):
    read(replay, "sweep")
    monkeypatch.setattr(pd, "read_csv", None)
    read(replay.variant(seed=0).stored(), "sweep")


def test_a_chapter_that_fails_is_named(toy, monkeypatch):
    path = toy / "book" / "01_one.ipynb"
    chapter = nbformat.read(path, 4)
    chapter.cells[3].source = "1 / 0"
    nbformat.write(chapter, path)
    monkeypatch.setenv("PRR_STORE", str(toy))
    with pytest.raises(BookError, match=r"01_one.ipynb: cell 3 raised ZeroDivisionError"):
        recording.read_by([path], {"profile": "smoke", "device": "cpu"})


def test_what_a_chapter_reads_is_found_by_running_it(toy, live, monkeypatch):
    monkeypatch.setenv("PRR_STORE", str(live.store.folder))
    found = recording.read_by([toy / "book" / "01_one.ipynb"], {"profile": "smoke", "device": "cpu", **SCALE})
    tables = [key["table"] for key in found.values() if "table" in key]
    assert sorted(tables) == ["data", "sweep"]
    assert sum("task" in key for key in found.values()) == 2  # the networks' records
