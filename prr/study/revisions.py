"""What decides a result beside its arguments: revisions of the files whose code it runs.

A result's key holds the revisions of its function's file and of all that this file imports, so nobody lists them.
`tests/test_revisions.py` fails where a file has changed and its line here has not been looked at.
"""

from __future__ import annotations

import ast
import functools
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
# Raise a file's number, 1 unless it stands here, when a change in it changes what a result is.
REVISIONS = {
    "reuse": 2, "verdict": 4, "study.training": 4, "study.transplants": 2, "study.examples": 2, "study.transfer": 2,
}  # fmt: skip
# These keep, list, show or ask for results and decide none; data are known by their content (prr.data).
DECIDE_NONE = {
    "", "errors", "page", "figures", "checkpoints", "data", "study.profiles", "study.store", "study.revisions",
    "study.display", "study.figures", "study.jobs", "study.datasets", "study.edition", "study.run", "study.grid",
}  # fmt: skip


@functools.cache
def revisions(module: str) -> dict[str, int]:
    """{file: revision} of all files whose code a module's functions may run.

    Args:
        module: its full name, `prr.study.transplants`.

    >>> sorted(revisions("prr.bn"))
    ['bn', 'copies', 'layers']
    """
    found: set[str] = set()
    queue = [module]
    while queue:
        if (name := queue.pop()) not in found:
            found.add(name)
            queue += imported(name)
    names = sorted(name.removeprefix("prr").removeprefix(".") for name in found if file_of(name))
    decide = [name for name in names if name not in DECIDE_NONE and not name.startswith("data.")]
    return {name: REVISIONS.get(name, 1) for name in decide}


@functools.cache
def imported(module: str) -> tuple[str, ...]:
    """The modules of prr that a module of prr imports, wherever in its file."""
    if (path := file_of(module)) is None:
        return ()
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names += [name if file_of(name) else node.module for name in inner]
    return tuple(dict.fromkeys(name for name in names if file_of(name)))


def file_of(module: str) -> Path | None:
    """The file of a module of prr; None for another module, and for a name that is none."""
    first, *rest = module.split(".")
    path = PACKAGE.joinpath(*rest)
    places = (path.with_suffix(".py"), path / "__init__.py") if rest else (path / "__init__.py",)
    return next((place for place in places if first == "prr" and place.is_file()), None)
