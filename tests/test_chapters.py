"""The committed chapters as files: prose and calls, with the outputs that nbval compares and no others."""

import ast
import re
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).parents[1]
CHAPTERS = sorted((ROOT / "book").glob("*.ipynb"))
COMPARED = "# NBVAL_CHECK_OUTPUT"

each_chapter = pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)


def cells(chapter: Path, kind: str = "code") -> list:
    return [cell for cell in nbformat.read(chapter, 4).cells if cell.cell_type == kind]


def defined(source: str) -> list[str]:
    """The functions and classes that some source defines, a lambda given a name among them."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr) and isinstance(node.value, ast.Lambda):
            names.append("lambda")
    return names


def test_definitions_are_found():
    assert defined("def f(): ...\nclass C: ...\ng = lambda: 1\ng2: int = lambda: 1") == ["f", "C", "lambda", "lambda"]
    assert defined("table.sort_values('drop', key=lambda drop: -drop)\n(x := 1)") == []


def test_the_toc_lists_the_chapters_and_no_others():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    assert [entry["file"] for entry in toc["chapters"]] == [path.stem for path in CHAPTERS]


@each_chapter
def test_a_chapter_calls_and_does_not_define(chapter):
    # A line that starts with % or ! is IPython's, not Python's, and has no place in a chapter either.
    assert [name for cell in cells(chapter) for name in defined(cell.source)] == []


@each_chapter
def test_a_chapter_declares_its_parameters(chapter):
    tagged = [cell for cell in cells(chapter) if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1, "expected one cell with the tag `parameters`"
    statements = ast.parse(tagged[0].source).body
    assert all(isinstance(statement, ast.Assign | ast.AnnAssign) for statement in statements)
    for statement in statements:
        ast.literal_eval(statement.value)  # papermill replaces values; one derived from another would go stale
    names = {node.id for node in ast.walk(ast.parse(tagged[0].source)) if isinstance(node, ast.Name)}
    assert names >= {"profile", "data_root", "device", "seed", "edition", "tolerance"}


@each_chapter
def test_a_chapter_runs_on_the_kernel_of_its_environment(chapter):
    assert nbformat.read(chapter, 4).metadata.kernelspec.name == "python3"


@each_chapter
def test_only_compared_cells_keep_their_outputs(chapter):
    for cell in cells(chapter):
        assert cell.execution_count is None, f"run nbstripout over {chapter.name}"
        if COMPARED in cell.source:
            assert cell.outputs, f"expected committed outputs: {cell.source}"
            kept = cell.metadata.get("keep_output") or "keep_output" in cell.metadata.get("tags", [])
            assert kept, f"expected keep_output in the metadata, or nbstripout drops the outputs: {cell.source}"
            assert all("image/png" not in output.get("data", {}) for output in cell.outputs), "nbval compares no images"
        else:
            assert not cell.outputs, f"expected no outputs without {COMPARED}: {cell.source}"


@each_chapter
def test_a_chapter_names_no_folder_of_one_machine(chapter):
    text = chapter.read_text(encoding="utf-8")
    assert re.findall(r"(?<![\w.:/])/(?:home|root|tmp|usr|opt|mnt|work|Users)/\S*|\b[A-Z]:\\\\\w+", text) == []


@each_chapter
def test_a_chapter_has_one_title_with_its_number(chapter):
    titles = [line for cell in cells(chapter, "markdown") for line in cell.source.splitlines() if line.startswith("# ")]
    assert len(titles) == 1, titles
    assert re.match(rf"# {int(chapter.stem.split('_')[0])}\b", titles[0]), titles
