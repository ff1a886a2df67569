"""The command line: what it prints where, and its exit codes."""

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from torch import nn

from prr import judge, rmse, verdict
from prr.__main__ import main
from prr.book import execute
from prr.errors import BookError
from prr.study import Experiment, chapters
from prr.study.store import Store

TINY = """
import torch
from torch import nn

def network(width=2):
    layers = nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten(), nn.Linear(4 * width, 2)
    return nn.Sequential(*layers)

generator = torch.Generator().manual_seed(0)
images = torch.randn(12, 1, 4, 4, generator=generator)
labels = torch.arange(12) % 2
data = images, labels
dataset = torch.utils.data.TensorDataset(images, labels, torch.arange(12) // 3)

def loader():
    return torch.utils.data.DataLoader(dataset, batch_size=5)

def fails():
    raise KeyError("no weights\\nhere")

def ours(output, data):
    right = (output.argmax(1) == data.masks).double()
    return torch.stack([right[data.patient == unit].mean() for unit in data.patient.unique()]).numpy()

def none():
    return None
"""
JUDGE = ("judge", "--model", "tiny:network", "--target", "a.pt", "--data", "tiny:data")


def prr(*arguments: str):
    return CliRunner().invoke(main, arguments)


@pytest.fixture
def built(monkeypatch) -> list:
    """The calls that would have built a book."""
    calls = []
    monkeypatch.setattr(execute, "build", lambda *args, **options: calls.append((*args, options)))
    return calls


def test_help_says_what_each_command_does():
    assert prr("--help").exit_code == 0
    assert "Execute the chapters that changed and build the book." in prr("--help").output
    assert "--dry-run" in prr("book", "-h").output


def test_options_become_parameters(built):
    result = prr(
        *("book", "--profile", "smoke", "--chapters", "03 04", "--chapters", "1", "--device", "cpu"),
        *("--set", "seed=7", "--set", "rate=1e-3", "--set", "name=unit", "--set", "sizes=[1, 2]"),
    )
    assert result.exit_code == 0, result.output
    ((profile, options),) = built
    assert profile == "smoke"
    assert options["chapters"] == ["03", "04", "1"]
    assert options["parameters"] == {"seed": 7, "rate": 1e-3, "name": "unit", "sizes": [1, 2], "device": "cpu"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["book", "--profile", "../elsewhere"], "../elsewhere"),
        (["book", "--set", "seed"], "--set seed: expected name=value"),
        (["book", "--chapters", "77"], "unknown chapter 77"),
        (["book", "--bogus"], "--bogus"),
        (["book", "--dry-run", "--set", "unet_wdith=1"], "unknown parameter unet_wdith"),
        (["data", "check", "mnist", "."], "data set: expected one of acdc, t1, rvsc, nnunet, found 'mnist'"),
        (["book", "--edition", "none"], "edition none: expected one of"),
        (["book", "--edition", "none", "--profile", "quick"], "--edition none: expected no other scale"),
        (["book", "--edition", "none", "--set", "steps=3"], "--edition none: expected no other scale"),
        (["bogus"], "bogus"),
    ],
)
def test_a_mistake_is_told_in_one_line_with_exit_code_2(arguments, message):
    result = prr(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("Error: ")
    assert message in result.stderr


def test_an_error_of_many_lines_is_told_in_one(monkeypatch):
    def fails(*_, **__):
        raise BookError("first\n  second")

    monkeypatch.setattr(execute, "build", fails)
    result = prr("book")
    assert (result.exit_code, result.stderr) == (2, "Error: first second\n")


def test_an_extra_that_is_not_installed_is_named(monkeypatch):
    def fails(*_, **__):
        raise ModuleNotFoundError("No module named 'papermill'", name="papermill")

    monkeypatch.setattr(execute, "build", fails)
    result = prr("book")
    assert result.exit_code == 2
    assert "expected the module papermill" in result.stderr
    assert "pr-rmse[book]" in result.stderr


def test_python_m_prr_is_the_same_command():
    done = subprocess.run([sys.executable, "-m", "prr", "bogus"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "Error: No such command 'bogus'.\n"


def test_every_command_has_help():
    assert all(command.help for command in main.commands.values())
    assert isinstance(main, click.Group)


def test_the_profile_can_not_be_given_behind_the_builds_back():
    for command in (["book"], ["book", "--dry-run"], ["study"], ["claims"], ["edition", "stand-in"]):
        result = prr(*command, "--set", "profile=smoke")
        assert result.exit_code == 2
        assert "profile=smoke: give it as --profile" in result.stderr


def test_a_dry_run_shows_the_plan_of_the_chapters_and_parameters_that_are_given(monkeypatch, built):
    def plan(run, *numbers):
        return pd.DataFrame({"profile": [run.profile.name], "steps": run.profile.steps, "of": "+".join(numbers)})

    monkeypatch.setattr(chapters, "plan", plan)
    given = ("--chapters", "3 4", "--device", "cpu", "--set", "steps=5", "--set", "network=densenet")
    result = prr("book", "--profile", "smoke", *given, "--dry-run")
    assert result.exit_code == 0, result.output
    assert [line.split() for line in result.stdout.splitlines()] == [["profile", "steps", "of"], ["smoke", "5", "3+4"]]
    assert not built


def test_a_build_has_results_made_for_the_chapters_that_changed(monkeypatch, built):
    made = []
    monkeypatch.setattr(
        Experiment, "prepare", lambda run, *numbers: made.append((run.profile.steps, run.seed, numbers))
    )
    own = ("--set", "network=densenet")  # of chapters 3 and 4 themselves
    prr("book", "--profile", "smoke", "--set", "steps=5", "--set", "seed=7", "--device", "cpu", *own)
    prr("book", "--edition", "some")
    (_, fresh), (_, shown) = built
    fresh["first"](["03", "04"])
    assert made == [(5, 7, ("03", "04"))]
    assert shown["first"] is None


def test_claims_are_told_from_what_is_there_and_nothing_is_computed(monkeypatch, tmp_path):
    monkeypatch.setenv("PRR_STORE", str(tmp_path / "store"))
    result = prr(
        "claims", "--profile", "smoke", "--set", "device=cpu", "--leaves", "--csv", str(tmp_path / "claims.csv")
    )
    assert result.exit_code == 0, result.output
    table, leaves = (pd.read_csv(tmp_path / name) for name in ("claims.csv", "claims_leaves.csv"))
    assert all(f"{name}: " in result.stdout for name in table["id"])
    assert "its results are made in chapter 3" in result.stdout
    assert set(leaves["id"]) == set(table["id"])
    assert not list(tmp_path.glob("store/networks/*.safetensors"))


def test_phantoms_are_written_found_and_checked(monkeypatch, tmp_path):
    assert prr("data", "phantom", str(tmp_path), "--patients", "2").exit_code == 0
    monkeypatch.setenv("PRR_ACDC", str(tmp_path / "acdc"))
    monkeypatch.setenv("PRR_RVSC", str(tmp_path / "absent"))
    result = prr("data")
    acdc, rv, myocardium, lv, t1, rvsc = result.stdout.splitlines()
    assert "2 patients, 4 volumes" in acdc
    assert ", phantom, 0 refused" in acdc
    for line, start in zip((rv, myocardium, lv), ("1, RV cavity", "2, myocardium", "3, LV cavity"), strict=True):
        assert re.fullmatch(rf"  label {start}: \d+ slices, median \d+\.\d\d cm2", line)
    assert t1 == "other1 (t1): a phantom; name a folder in PRR_OTHER1 or PRR_T1"
    assert rvsc.startswith("other2 (rvsc): not usable: PRR_RVSC=")
    assert result.exit_code == 2
    assert "other2: expected a data set" in result.stderr


def test_a_target_of_ones_own_has_no_phantoms_beside_it(monkeypatch, tmp_path):
    root = tmp_path / "Dataset001_Shapes"
    assert prr("data", "shapes", str(root), "--cases", "6").exit_code == 0
    monkeypatch.setenv("PRR_TARGET", str(root))
    result = prr("data")
    target, disc, square, *others = result.stdout.splitlines()
    assert f"target (acdc): Shapes in {root}: 6 patients, 6 volumes, 6 slices" in target
    assert ("label 1, disc: 6 slices" in disc, "label 2, square: 6 slices" in square) == (True, True)
    assert [line.split(";")[0] for line in others] == ["other1 (t1): nothing", "other2 (rvsc): nothing"]
    assert result.exit_code == 0
    assert prr("data", "shapes", str(root)).exit_code == 2


def test_what_the_reader_refuses_is_listed(tmp_path):
    prr("data", "phantom", str(tmp_path), "--patients", "1")
    (gone,) = tmp_path.glob("acdc/database/training/patient001/*frame01_gt.nii.gz")
    gone.unlink()
    for named in (["acdc"], []):
        result = prr("data", "check", *named, str(tmp_path / "acdc"))
        assert "1 volumes" in result.stdout
        assert f"refused: {gone}" in result.stdout
        assert result.exit_code == 2
        assert "expected files that its reader can read" in result.stderr


def test_a_check_draws_and_maps_labels(tmp_path):
    prr("data", "phantom", str(tmp_path / "data"), "--patients", "2")
    root, picture, empty = str(tmp_path / "data/acdc"), tmp_path / "a.png", tmp_path / "empty"
    empty.mkdir()
    result = prr("data", "check", root, "--picture", str(picture), "--labels", "MYO=2")
    assert result.exit_code == 0
    assert "label 2, myocardium" in result.stdout
    assert "label 3" not in result.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    for wrong, message in (
        ((root, "--picture", str(tmp_path / "a.xyz")), "expected .png, .svg or .pdf, found .xyz"),
        ((root, "--labels", "MYO"), "expected NAME=VALUE"),
        (("acdc", root, "more"), "expected [NAME] FOLDER, found 3 words"),
        ((str(empty),), "expected a folder that holds one of patient001/Info.cfg (ACDC), T1Dataset210.mat (T1)"),
    ):
        result = prr("data", "check", *wrong)
        assert result.exit_code == 2
        assert message in result.stderr
        assert len(result.stderr.splitlines()) == 1


def test_a_place_that_cannot_be_written_is_told_in_one_line(tmp_path):
    (tmp_path / "file").write_text("mine")
    result = prr("data", "phantom", str(tmp_path / "file" / "below"))
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert "choose another folder" in result.stderr


def test_the_store_is_listed_and_cleaned(monkeypatch, tmp_path):
    monkeypatch.setenv("PRR_STORE", str(tmp_path))
    assert "empty" in prr("store").stdout
    Store().get("tables", {"name": 1}, lambda: (pd.DataFrame({"layer": [1]}), {"title": "sweep"}))
    assert "sweep" in prr("store").stdout
    assert "1 results" in prr("store").stdout
    assert "1 files deleted" in prr("store", "--clean").stdout
    assert "empty" in prr("store").stdout


@pytest.fixture
def files(tmp_path, monkeypatch) -> Path:
    """The current folder, with module tiny.py, weights a.pt, b.pt and c.safetensors of its network, and wide.pt."""
    (tmp_path / "tiny.py").write_text(TINY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "tiny", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    tiny = importlib.import_module("tiny")
    for seed, name in enumerate(["a.pt", "b.pt"]):
        torch.manual_seed(seed)
        torch.save(tiny.network().state_dict(), name)
    save_file(tiny.network().state_dict(), "c.safetensors")
    torch.save(tiny.network(width=3).state_dict(), "wide.pt")
    yield tmp_path
    sys.modules.pop("tiny", None)


def loaded(network, path):
    """The network, with the weights of a file."""
    network.load_state_dict(torch.load(path))
    return network


def assert_one_line(result, *messages):
    assert result.exit_code == 2, result.output
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("Error: ")
    for message in messages:
        assert message in result.stderr


def test_rmse_writes_the_table_that_the_networks_give(files):
    result = prr(
        *("rmse", "a.pt", "b.pt", "--csv", "out.csv", "--json", "out.json", "--html", "out.html"),
        *("--figure", "out.svg"),
    )
    assert result.exit_code == 0, result.output
    expected = rmse(*(loaded(sys.modules["tiny"].network(), name) for name in ("a.pt", "b.pt")))
    pd.testing.assert_frame_equal(pd.read_csv("out.csv", dtype={"name": str}), expected)
    records = pd.DataFrame(json.loads(Path("out.json").read_text()))
    finite = expected.replace(np.inf, np.nan)  # JSON knows neither
    pd.testing.assert_frame_equal(records, finite, check_exact=False, rtol=1e-6)
    assert len(result.stdout.splitlines()) == len(expected) + 1
    assert result.stderr == ""
    page = Path("out.html").read_text(encoding="utf-8")
    assert page.count("<tr>") == len(expected) + 1
    assert "a.pt and b.pt" in page
    assert "http" not in page
    median = expected.loc[expected["kind"].isin(["W", "LW"]), "relative"].median()
    assert f"{median:.3f}" in page
    assert "<svg" in Path("out.svg").read_text()
    assert not list(files.glob("*.draft"))


def test_a_checkpoint_is_as_far_from_itself_as_0_whatever_its_format(files):
    torch.save({"state_dict": load_file("c.safetensors"), "epoch": 1}, "c.pt")
    result = prr("rmse", "c.pt", "c.safetensors", "--csv", "out.csv")
    assert result.exit_code == 0, result.output
    assert (pd.read_csv("out.csv")["rmse"] == 0).all()
    assert "c.pt: unwrapped 'state_dict'" in result.stderr
    assert "c.safetensors: " in result.stderr


def test_what_two_checkpoints_do_not_share_is_listed_with_both_shapes(files):
    state = loaded(sys.modules["tiny"].network(), "a.pt").state_dict()
    state |= {"4.weight": torch.ones(5, 8), "6.weight": torch.ones(2, 2), "scale": torch.ones(3).int()}
    torch.save(state, "part.pt")
    result = prr("rmse", "a.pt", "part.pt", "--html", "out.html")
    assert result.exit_code == 0, result.output
    assert "not comparable: LW 4: (2, 8), (5, 8)" in result.stderr
    assert "not comparable: LW 6: none, (2, 2)" in result.stderr
    assert "part.pt: 1 tensors are no parameters, scale among them" in result.stderr
    assert "LW" not in result.stdout
    assert "5 x 8" in Path("out.html").read_text(encoding="utf-8")


def nested(files, **states):
    """A file that holds several sets of weights, each from another file."""
    torch.save({key: torch.load(files / name) for key, name in states.items()}, files / "two.pt")


def flat(files, **states):
    sets = {key: torch.load(files / name) for key, name in states.items()}
    torch.save({f"{key}.{name}": value for key, state in sets.items() for name, value in state.items()}, "two.pt")


CHOICES = [(nested, "--key", "second"), (flat, "--strip", "second."), (flat, "--strip", "second")]


@pytest.mark.parametrize(("write", "option", "value"), CHOICES)
def test_of_several_sets_of_weights_one_is_chosen(files, write, option, value):
    write(files, first="a.pt", second="b.pt")
    result = prr("rmse", "b.pt", "two.pt", option, value, "--csv", "out.csv")
    assert result.exit_code == 0, result.output
    assert (pd.read_csv("out.csv")["rmse"] == 0).all()
    assert_one_line(prr("rmse", "b.pt", "two.pt"), "two.pt: expected one set of weights", f"{option} {value}")
    assert_one_line(prr(*JUDGE, "--source", "two.pt"), f"{option} first", f"{option} {value}")
    judged, expected = prr(*JUDGE, "--source", "two.pt", option, value), prr(*JUDGE, "--source", "two=b.pt")
    assert (judged.exit_code, judged.stdout) == (0, expected.stdout)


def test_the_sources_names_are_fitted_to_the_targets(files):
    flat(files, **{"my.unet": "b.pt"})
    for pair in (("a.pt", "two.pt"), ("two.pt", "a.pt")):
        assert prr("rmse", *pair, "--csv", "out.csv").exit_code == 0
        assert len(pd.read_csv("out.csv")) == len(rmse(*[loaded(sys.modules["tiny"].network(), "a.pt")] * 2))


def test_checkpoints_that_share_nothing_are_told_in_one_line(files):
    torch.save({"other.weight": torch.ones(2, 2)}, "other.pt")
    assert_one_line(prr("rmse", "a.pt", "other.pt"), "no parameter in common")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "found nothing"),
        (lambda path: path.mkdir(), "found a folder"),
        (lambda path: path.write_bytes(b""), "bad.pt: expected a whole file"),
        (lambda path: path.write_text("<html>\n<body>"), "web page"),
        (lambda path: path.write_text("epoch\nloss"), "expected a whole file"),
        (lambda path: path.write_bytes(Path("a.pt").read_bytes()[:-100]), "a part of one"),
        (lambda path: torch.save(nn.Linear(1, 1), path), "refused"),
        (lambda path: torch.save(torch.ones(2), path), "expected named tensors"),
        (lambda path: torch.save({"scale": torch.ones(2)}, path), "Module"),
        (lambda path: torch.save({"0.weight": torch.full((2, 1, 3, 3), torch.nan)}, path), "NaN"),
    ],
)
@pytest.mark.parametrize("place", [0, 1])
def test_a_bad_file_of_weights_is_told_in_one_line(files, write, message, place):
    write(files / "bad.pt")
    paths = ["a.pt", "a.pt"]
    paths[place] = "bad.pt"
    result = prr("rmse", *paths)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith("Error: ")
    assert sum(line.startswith("Error: ") for line in result.stderr.splitlines()) == 1
    assert message in result.stderr.splitlines()[-1]
    assert result.stdout == ""


@pytest.mark.parametrize("option", ["--csv", "--json", "--html", "--figure"])
def test_results_that_cannot_be_written_are_told_in_one_line(files, option):
    assert_one_line(prr("rmse", "a.pt", "b.pt", option, "absent/out.svg"), "make it first")


def test_a_figure_of_unknown_format_is_told_in_one_line(files):
    assert_one_line(prr("rmse", "a.pt", "b.pt", "--figure", "out.xyz"), "out.xyz")


def test_judge_writes_what_the_function_finds(files):
    result = prr(
        *(*JUDGE, "--source", "near=b.pt", "--source", "c.safetensors", "--score", "accuracy"),
        *("--tolerance", "0.1", "--csv", "out.csv", "--json", "out.json", "--html", "out.html"),
    )
    assert result.exit_code == 0, result.output
    tiny = sys.modules["tiny"]
    torch.save(load_file("c.safetensors"), "c.pt")
    sources = {name: loaded(tiny.network(), path) for name, path in (("near", "b.pt"), ("c", "c.pt"))}
    expected = judge(loaded(tiny.network(), "a.pt"), sources, tiny.data, score="accuracy", tolerance=0.1)
    assert result.stdout.strip() == str(expected)
    pd.testing.assert_frame_equal(pd.read_csv("out.csv", dtype={"name": str}), expected.layers)
    written = json.loads(Path("out.json").read_text())
    assert written["answer"] == str(expected)
    assert {record["source"] for record in written["sources"]} == {"near", "c"}
    assert [record["action"] for record in written["plan"]] == expected.plan()["action"].tolist()
    page = Path("out.html").read_text(encoding="utf-8")
    assert "http" not in page
    assert page.count('role="img"') >= len(expected.layers)


def test_judge_takes_the_tolerance_of_verdicts_and_full_precision_unless_it_is_told(files, monkeypatch):
    given = []
    monkeypatch.setattr(verdict, "TOLERANCE", 0.3)
    monkeypatch.setattr(verdict, "judge", lambda *networks, **options: given.append(options) or "answer")
    prr(*JUDGE, "--source", "b.pt")
    prr(*JUDGE, "--source", "b.pt", "--tolerance", "0.1", "--bfloat16")
    assert [(each["tolerance"], each["bfloat16"]) for each in given] == [(0.3, False), (0.1, True)]


@pytest.mark.parametrize("data", ["tiny:data", "tiny:dataset", "tiny:loader"])
@pytest.mark.parametrize("score", [[], ["--score", "accuracy"], ["--score", "tiny:ours"]])
def test_judge_takes_data_and_scores_of_any_form(files, data, score):
    result = prr(*JUDGE[:-1], data, "--source", "b.pt", "--kinds", "W,LW", "--json", "out.json", *score)
    assert result.exit_code == 0, result.output
    assert {record["kind"] for record in json.loads(Path("out.json").read_text())["layers"]} == {"W", "LW"}


def test_judge_takes_weights_from_folders_whose_names_hold_a_sign(files):
    for name in ("a.pt", "b.pt"):
        (files / "lr=0.1").mkdir(exist_ok=True)
        (files / name).rename(files / "lr=0.1" / name)
    result = prr(
        *("judge", "--model", "tiny:network", "--target", "lr=0.1/a.pt", "--source", "near=lr=0.1/b.pt"),
        *("--data", "tiny:data", "--json", "out.json"),
    )
    assert result.exit_code == 0, result.output
    assert json.loads(Path("out.json").read_text())["drawn"] == "near"


@pytest.mark.parametrize(
    "sources", [["one/b.pt", "two/b.pt"], ["same=one/b.pt", "same=two/b.pt"], ["target=one/b.pt", "two/b.pt"]]
)
def test_two_networks_of_one_name_are_not_mistaken_for_each_other(files, sources):
    for folder, name in (("one", "b.pt"), ("two", "a.pt")):
        (files / folder).mkdir()
        (files / name).rename(files / folder / "b.pt")
        torch.save(torch.load(files / folder / "b.pt"), name)
    result = prr(*JUDGE, *(part for source in sources for part in ("--source", source)), "--json", "out.json")
    if result.exit_code:
        assert_one_line(result)
    else:
        assert len(json.loads(Path("out.json").read_text())["sources"]) == 2


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--model", "tiny", "tiny: expected MODULE:NAME"),
        ("--model", "tiny:", "expected MODULE:NAME"),
        ("--model", ":network", "expected MODULE:NAME"),
        ("--model", "absent_module:network", "absent_module:network: can't be imported"),
        ("--model", "tiny:absent", "tiny:absent: can't be imported"),
        ("--model", "tiny:fails", "tiny:fails: calling it failed with KeyError"),
        ("--model", "tiny:none", "NoneType"),
        ("--model", "tiny:images", "tiny:images"),
        ("--model", "broken:network", "broken:network"),
        ("--data", "tiny", "tiny: expected MODULE:NAME"),
        ("--data", "tiny:fails", "tiny:fails: calling it failed with KeyError"),
        ("--data", "tiny:none", "found NoneType"),
        ("--data", "tiny:labels", "data: expected"),
        ("--target", "wide.pt", "wide.pt: does not fit Sequential"),
        ("--source", "absent.pt", "absent.pt: expected a file of weights, found nothing"),
        ("--score", "mse", "score='mse': expected dice, accuracy, r2"),
        ("--score", "tiny:absent", "tiny:absent: can't be imported"),
        ("--kinds", "W,X", "'X'"),
        ("--kinds", "RM", "among the kinds"),
        ("--tolerance", "-1", "tolerance=-1"),
        ("--tolerance", "nan", "tolerance=nan"),
        ("--batch-size", "0", "--batch-size"),
        ("--device", "abacus", "abacus"),
    ],
)
def test_a_mistake_in_what_is_judged_is_told_in_one_line(files, option, value, message):
    (files / "broken.py").write_text("def network(:\n")
    arguments = dict(zip(JUDGE[1::2], JUDGE[2::2], strict=True)) | {"--source": "b.pt", option: value}
    assert_one_line(prr("judge", *(part for pair in arguments.items() for part in pair)), message)


def test_a_source_with_another_head_is_judged_on_what_it_shares(files):
    state = torch.load("b.pt")
    head = list(state)[-2:]
    torch.save(state | {name: torch.cat([state[name], state[name]]) for name in head}, "head.pt")
    result = prr(*JUDGE, "--source", "head.pt", "--json", "out.json")
    assert result.exit_code == 0, result.stderr
    assert "layers guessed from names and shapes" in result.stderr
    rest = json.loads((files / "out.json").read_text())["incomparable"]
    assert {f"{row['name']}" for row in rest} == {head[0].rpartition(".")[0]}


@pytest.mark.parametrize("option", ["--csv", "--json", "--html"])
def test_a_folder_that_is_not_there_is_told_before_the_work(files, option, monkeypatch):
    monkeypatch.setattr("prr.checkpoints.read", None)
    assert_one_line(prr(*JUDGE, "--source", "b.pt", option, "absent/out"), "absent/out: expected a folder absent")


def test_the_path_of_modules_is_left_as_it_was(files):
    before = list(sys.path)
    prr(*JUDGE, "--source", "b.pt")
    prr(*JUDGE, "--source", "b.pt", "--model", "absent_module:network")
    assert sys.path == before


def test_the_study_is_made_with_the_jobs_scheduler_and_parameters_that_are_given(monkeypatch):
    made = []
    monkeypatch.setattr(Experiment, "prepare", lambda run, *numbers: made.append((run, numbers, dict(os.environ))))
    monkeypatch.setenv("PRR_JOBS", "7")
    monkeypatch.setenv("PRR_SCHEDULER", "tcp://other:1")
    options = ("--chapters", "03 4", "--set", "seed=5", "--jobs", "3", "--scheduler", "tcp://host:8786")
    result = prr("study", "--profile", "smoke", *options)
    assert result.exit_code == 0, result.output
    ((run, numbers, environment),) = made
    assert (run.profile.name, run.seed, numbers) == ("smoke", 5, ("03", "4"))
    assert (environment["PRR_JOBS"], environment["PRR_SCHEDULER"]) == ("3", "tcp://host:8786")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--profile", "bogus"], "profile 'bogus': expected one of smoke, quick, paper"),
        (["--profile", "smoke", "--chapters", "99"], "chapter 99: expected some of 01, 02"),
        (["--jobs", "0"], "0 is not in the range x>=1"),
        (["--set", "bogus=1"], "parameter bogus: expected some of"),
    ],
)
def test_a_study_that_cannot_be_is_refused_in_one_line(options, message):
    result = prr("study", *options)
    assert result.exit_code == 2
    assert message in result.output
    assert len(result.output.splitlines()) == 1
