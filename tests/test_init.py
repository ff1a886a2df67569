"""`import prr` is light: what it offers is imported when it is asked for, and looks no different for that."""

import importlib
import pickle
import pydoc
import subprocess
import sys

import pytest

import prr
from prr.errors import OptionError


def test_neither_the_package_nor_its_errors_nor_its_names_bring_torch():
    steps = ["import prr", "prr.OptionError", "dir(prr), prr.__all__, prr.__version__", "from prr import PrrError"]
    heavy = ["torch", "numpy", "pandas", "scipy", "matplotlib"]
    told = f"print([each for each in {heavy} if each in sys.modules])"
    code = ["import sys", *(line for step in steps for line in (step, told))]
    done = subprocess.run([sys.executable, "-c", "\n".join(code)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n" * len(steps)


@pytest.mark.parametrize("name", prr.__all__)
def test_a_name_is_that_of_its_own_module(name):
    value = getattr(prr, name)
    assert value is getattr(importlib.import_module(value.__module__), name)
    assert vars(prr)[name] is value  # so that it is looked up once
    assert pickle.loads(pickle.dumps(value)) is value


def test_names_are_listed_and_shown_by_help():
    assert {*prr.__all__, "__version__"} < set(dir(prr))
    shown = pydoc.render_doc(prr, renderer=pydoc.plaintext)
    assert all(f" {name}" in shown for name in (*prr.__all__, prr.__version__))


def test_modules_of_the_method_are_reached_without_an_import_of_their_own(monkeypatch):
    for name in ("metrics", "reuse", "verdict"):
        monkeypatch.delattr(prr, name, raising=False)
        assert getattr(prr, name) is importlib.import_module(f"prr.{name}")


def test_all_names_come_by_a_star():
    found = {}
    exec("from prr import *", found)
    assert set(prr.__all__) <= set(found)
    assert found["OptionError"] is OptionError


def test_a_name_that_is_not_there_is_refused_as_by_any_module():
    with pytest.raises(AttributeError, match="module 'prr' has no attribute 'juge'"):
        _ = prr.juge
    with pytest.raises(ImportError, match="cannot import name 'juge'"):
        exec("from prr import juge")
