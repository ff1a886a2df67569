"""The house's order: a file imports only from the floors below its own, and `import prr` stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "prr"

# Lowest first. Files of one floor don't import each other; the files of a folder do.
FLOORS = [
    ["errors"],
    ["layers", "samples", "page"],
    ["checkpoints", "metrics", "bn", "suffix", "channels"],
    ["alignment"],
    ["distance"],
    ["predictors", "donors", "reuse"],
    ["verdict"],
    ["figures"],
    ["data"],
    ["study"],
    ["rendering"],
    ["book"],
    ["recording"],
    ["__main__"],
]
FLOOR_OF = {name: number for number, floor in enumerate(FLOORS) for name in floor}


def part(path: Path) -> str:
    """What of the house a file belongs to: a root file's own name, or its folder's."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(source: str, below: set[str] = frozenset(FLOOR_OF)) -> set[str]:
    """The parts of prr that some source imports, wherever in the file; `from prr import dice` is an import of `prr`."""
    parts = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "expected absolute imports"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for first, *rest in (name.split(".") for name in names):
            if first == "prr":
                parts.add(rest[0] if rest and rest[0] in below else "prr")
    return parts


def modules() -> list[Path]:
    return [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_file_imports_only_from_lower_floors(path):
    own = part(path)
    assert own in FLOOR_OF, f"{path.name} has no floor yet: give it one in FLOORS, and in CONTRIBUTING.md"
    folder = path.parent != PACKAGE
    wrong = {
        name
        for name in imported(path.read_text(encoding="utf-8"))
        if not (folder and name == own) and not FLOOR_OF.get(name, len(FLOORS)) < FLOOR_OF[own]
    }
    assert not wrong, f"prr.{own} imports {sorted(wrong)}, which are not below it (not from prr: from its modules)"


def test_the_root_exports_the_method_alone():
    allowed = {name for name, floor in FLOOR_OF.items() if floor < FLOOR_OF["data"]}
    assert imported((PACKAGE / "__init__.py").read_text(encoding="utf-8")) <= allowed


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("import prr.data", {"data"}),
        ("from prr import layers, dice", {"layers", "prr"}),
        ("def f():\n    from prr.study.store import Store", {"study"}),
        ("import prrx, torch\nfrom torch import nn", set()),
    ],
)
def test_imports_are_found(source, parts):
    assert imported(source) == parts


def test_import_prr_is_light():
    heavy = ["prr.data", "prr.study", "prr.book", "torchvision", "nibabel", "h5py", "pydicom", "papermill", "sklearn"]
    code = f"import sys, prr; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
