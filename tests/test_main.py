"""The command line: what it prints where, and its exit codes."""

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from prr import book as builder
from prr.__main__ import main
from prr.errors import BookError


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
