"""Every example in a docstring runs and gives what it shows; every public function of the method has one."""

import doctest
import importlib
import inspect
from pathlib import Path

import pytest
import torch

PACKAGE = Path(__file__).parents[1] / "prr"
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
# The method: what readers call on networks of their own. Its examples stand by themselves, imports and all.
METHOD = [
    name
    for name, path in MODULES.items()
    if (
        path.parent in (PACKAGE, PACKAGE / "graph", PACKAGE / "checkpoints")
        and path.stem not in ("__init__", "__main__", "figures")
    )
]
PUBLIC = ("prr", "prr.data", "prr.study")  # what they list in __all__ has examples too


def failures_of(test):
    """What doctest says of examples that give something else than they show."""
    said = []
    doctest.DocTestRunner(verbose=False, optionflags=FLAGS).run(test, out=said.append)
    return "".join(said)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_give_what_they_show(name):
    module = importlib.import_module(name)
    with torch.random.fork_rng():
        for test in doctest.DocTestFinder().find(module, globs={} if name in METHOD else None):
            assert not failures_of(test)


def without_example(functions):
    return [name for name, function in functions if ">>> " not in (inspect.getdoc(function) or "")]


@pytest.mark.parametrize("name", METHOD)
def test_a_public_function_of_the_method_has_an_example(name):
    module = importlib.import_module(name)
    functions = [
        (each, function)
        for each, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == name and not each.startswith("_") and "Args:" in (function.__doc__ or "")
    ]
    assert not without_example(functions), "without an example that runs"


@pytest.mark.parametrize("name", PUBLIC)
def test_what_a_package_lists_has_an_example(name):
    module = importlib.import_module(name)
    listed = [(each, getattr(module, each)) for each in module.__all__]
    assert not without_example((each, value) for each, value in listed if inspect.isfunction(value))


@pytest.mark.parametrize(
    ("module", "names"),
    {
        "prr.donors": ["towards", "at", "noisy", "random", "shuffled", "zero", "donor"],
        "prr.bn": ["histograms"],
        "prr.reuse": ["drops", "predict"],
        "prr.verdict": ["shares", "rank", "Verdict"],
        "prr.checkpoints": ["load", "source", "skeleton"],
        "prr.graph.suffix": ["outputs_of"],
    }.items(),
)
def test_so_have_those_whose_arguments_are_said_elsewhere(module, names):
    assert not without_example((name, getattr(importlib.import_module(module), name)) for name in names)


SHOWN = {"[1,  2]": True, "[1,\n2]": True, "[1...2]": True, "[1, 2.0]": False, "[1, 3]": False}


@pytest.mark.parametrize(("shown", "right"), SHOWN.items())
def test_line_breaks_and_dots_are_forgiven_and_nothing_else(shown, right):
    test = doctest.DocTestParser().get_doctest(f">>> [1, 2]\n{shown}\n", {}, "trial", None, 0)
    assert (failures_of(test) == "") == right


def test_an_example_of_the_method_imports_what_it_uses():
    def borrowing():
        """
        >>> torch.zeros(1).item()
        0.0
        """

    (test,) = doctest.DocTestFinder().find(borrowing, "borrowing", module=False, globs={})
    assert "NameError" in failures_of(test)
