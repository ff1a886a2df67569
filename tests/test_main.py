"""The command line: what it prints where, and its exit codes."""

import subprocess
import sys

import click
import pandas as pd
import pytest
from click.testing import CliRunner

from prr import book as builder
from prr.__main__ import main
from prr.errors import BookError
from prr.study.store import Store


def prr(*arguments: str):
    return CliRunner().invoke(main, arguments)


@pytest.fixture
def built(monkeypatch) -> list:
    """The calls that would have built a book."""
    calls = []
    monkeypatch.setattr(builder, "build", lambda *args, **options: calls.append((*args, options)))
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

    monkeypatch.setattr(builder, "build", fails)
    result = prr("book")
    assert (result.exit_code, result.stderr) == (2, "Error: first second\n")


def test_an_extra_that_is_not_installed_is_named(monkeypatch):
    def fails(*_, **__):
        raise ModuleNotFoundError("No module named 'papermill'", name="papermill")

    monkeypatch.setattr(builder, "build", fails)
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
    for arguments in (["--set", "profile=smoke"], ["--set", "profile=smoke", "--dry-run"]):
        result = prr("book", *arguments)
        assert result.exit_code == 2
        assert "profile=smoke: give it as --profile" in result.stderr


def test_phantoms_are_written_found_and_checked(monkeypatch, tmp_path):
    assert prr("data", "phantom", str(tmp_path), "--patients", "2").exit_code == 0
    monkeypatch.setenv("PRR_ACDC", str(tmp_path / "acdc"))
    monkeypatch.delenv("PRR_T1", raising=False)
    monkeypatch.setenv("PRR_RVSC", str(tmp_path / "absent"))
    result = prr("data")
    acdc, t1, rvsc = result.stdout.splitlines()
    assert "2 patients, 4 volumes" in acdc
    assert "labels [0, 1, 2, 3]" in acdc
    assert ", phantom, 0 missing" in acdc
    assert "a phantom (set PRR_T1" in t1
    assert "not usable" in rvsc
    assert result.exit_code == 2
    assert "PRR_RVSC: expected a data set" in result.stderr


def test_a_missing_pair_is_listed(tmp_path):
    prr("data", "phantom", str(tmp_path), "--patients", "1")
    (gone,) = tmp_path.glob("acdc/database/training/patient001/*frame01_gt.nii.gz")
    gone.unlink()
    result = prr("data", "check", "acdc", str(tmp_path / "acdc"))
    assert "1 volumes" in result.stdout
    assert f"missing: {gone}" in result.stdout
    assert result.exit_code == 2
    assert "expected all that its files promise" in result.stderr


def test_a_place_that_cannot_be_written_is_told_in_one_line(tmp_path):
    (tmp_path / "file").write_text("mine")
    result = prr("data", "phantom", str(tmp_path / "file" / "below"))
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert "choose another folder" in result.stderr


def test_the_store_is_listed_and_cleaned(monkeypatch, tmp_path):
    monkeypatch.setenv("PRR_STORE", str(tmp_path))
    assert "empty" in prr("store").stdout
    Store().table({"table": "sweep"}, lambda: (pd.DataFrame({"layer": [1]}), {}))
    assert "sweep" in prr("store").stdout
    assert "1 results" in prr("store").stdout
    assert "1 files deleted" in prr("store", "--clean").stdout
    assert "empty" in prr("store").stdout
