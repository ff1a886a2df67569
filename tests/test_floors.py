"""The house's order: a file imports only from the floors below its own, so there is no circle; imports stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "prr"

# Lowest first; what stands in one line does not import each other. CONTRIBUTING.md shows the same list.
FLOORS = """
errors
copies
layers samples page
metrics bn checkpoints.files checkpoints.names checkpoints.skeletons graph.tracing graph.outputs graph.state
checkpoints.loading graph.suffix graph.channels
checkpoints graph.alignment graph.passes
distance question
predictors donors reuse
verdict
figures
data.labels data.anatomy
data.slices data.plausible
data.volumes
data.nifti data.dicom data.textures data.t1
data.acdc data.rvsc data.pictures data.shapes
data.nnunet data.phantom
data.sets
data
study.profiles study.store study.revisions study.paper study.display study.models study.figures
study.backbones study.jobs
study.datasets study.starts study.training
study.edition
study.run
study.networks
study.measures study.transplants study.sources study.grid
study.standing study.examples study.transfer study.architecture study.redundancy study.prefixes
study.prediction study.rules
study.stages
study.claims
study.ledger
study.chapters
study.experiment
study
book.render
book.execute
book.record
book
__main__
"""
FLOOR_OF = {name: number for number, line in enumerate(FLOORS.split("\n")) for name in line.split()}
FACES = {"", "graph", "study", "book"}  # an __init__ that hands names on when they are asked for, or a docstring


def name_of(path: Path) -> str:
    """A file's name in the list: `study.run`; a folder's own for its __init__."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def modules() -> dict[str, Path]:
    return {name_of(path): path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"}


def imported(source: str, known: set[str] = frozenset(FLOOR_OF)) -> set[str]:
    """The files of prr that some source imports, wherever in it and for whatever reason, types among them."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "expected absolute imports"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for parts in (name.split(".") for name in names):
            if parts[0] == "prr":
                inner = [".".join(parts[1:end]) for end in range(len(parts), 1, -1)]
                found.add(next((name for name in inner if name in known), "prr"))
    return found


def borrowed(source: str) -> list[str]:
    """Attributes of classes that are functions of imported modules: methods assigned from elsewhere."""
    tree = ast.parse(source)
    names = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "prr"
        for alias in node.names
    }
    return [
        ast.unparse(each)
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for each in node.body
        if isinstance(each, ast.Assign)
        and ast.unparse(each.value).split(".")[0] in names
        and isinstance(each.value, ast.Attribute | ast.Name)
    ]


def test_every_file_has_a_floor_and_every_floor_its_files():
    assert sorted(FLOOR_OF) == sorted(set(modules()) - (FACES - {"study", "book"}) | {"study", "book"})


@pytest.mark.parametrize("name", modules())
def test_a_file_imports_only_from_lower_floors(name):
    source = modules()[name].read_text(encoding="utf-8")
    own = FLOOR_OF.get(name, len(FLOORS)) if name not in FACES else len(FLOORS)
    wrong = {each for each in imported(source) if not FLOOR_OF.get(each, len(FLOORS)) < own}
    assert not wrong, f"prr.{name} imports {sorted(wrong)}, which are not below it (not from prr: from its modules)"


@pytest.mark.parametrize("name", modules())
def test_no_class_borrows_its_methods_from_a_module(name):
    assert borrowed(modules()[name].read_text(encoding="utf-8")) == []


def test_the_contributing_page_shows_the_same_floors():
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert FLOORS in text


def test_the_root_exports_the_method_alone():
    import prr

    assert {home for home in prr._HOMES.values() if FLOOR_OF[home] >= FLOOR_OF["data"]} == set()


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import prr.data", {"data"}),
        ("from prr import layers, dice", {"layers", "prr"}),
        ("def f():\n    from prr.study.store import Store", {"study.store"}),
        ("if TYPE_CHECKING:\n    from prr.study.run import Run", {"study.run"}),
        ("from prr.study import run, Experiment", {"study.run", "study"}),
        ("import prrx, torch\nfrom torch import nn", set()),
    ],
)
def test_imports_are_found(source, found):
    assert imported(source) == found


def test_borrowed_methods_are_found():
    source = "from prr.study import inputs\nclass C:\n    slices = inputs.slices\n    def own(self): ...\n    x = 1"
    assert borrowed(source) == ["slices = inputs.slices"]


def loaded(code: str, names: list[str]) -> str:
    """Which of some modules are there after some code, in a fresh process."""
    code = f"import sys\n{code}\nprint([name for name in {names} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


def test_import_prr_is_light():
    assert loaded("import prr", ["torch", "pandas", "matplotlib", "prr.data", "prr.study", "sklearn"]) == "[]"
    heavy = ["prr.data", "prr.study", "prr.book", "torchvision", "nibabel", "h5py", "pydicom", "papermill", "sklearn"]
    assert loaded("from prr import judge", heavy) == "[]"


def test_help_needs_no_torch():
    code = "import runpy\nsys.argv = ['prr', '--help']\ntry: runpy.run_module('prr', run_name='__main__')\n"
    assert loaded(f"{code}except SystemExit: pass", ["torch", "pandas", "matplotlib"]) == "[]"
