"""A file that decides results can't change unnoticed: its code's digest stands beside its revision.

After a change run `python tests/test_revisions.py`. If it alters any result, raise the file's number in
prr/study/revisions.py first, so that stored results of before are not used again.
"""

import ast
import hashlib
import json
from pathlib import Path

import pytest

from prr.study import chapters, experiment
from prr.study.jobs import Job, closure
from prr.study.revisions import DECIDE_NONE, PACKAGE, REVISIONS, file_of, revisions

# no job is theirs
ABOVE = {"study.chapters", "study.experiment", "study.ledger", "study.claims", "study"}
NOTED = Path(__file__).with_name("revisions.json")  # {file: [revision, digest of its code]}


def code_digest(source: str) -> str:
    """Of the syntax tree without docstrings, so that words and layout are free."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        first = body[0] if isinstance(body := getattr(node, "body", None), list) and body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            node.body = body[1:] or [ast.Pass()]
    return hashlib.sha256(plain(tree).encode()).hexdigest()[:16]


def plain(node: object) -> str:
    """A syntax tree as text, the same under every version of Python: what is empty is left out."""
    if isinstance(node, list):
        return f"[{','.join(map(plain, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = [f"{name}={plain(value)}" for name, value in ast.iter_fields(node) if value not in (None, [])]
    return f"{type(node).__name__}({','.join(fields)})"


def deciding() -> list[str]:
    """Files whose code decides a result of the study."""
    below = {name for module in ("study.chapters", "study.experiment") for name in revisions(f"prr.{module}")}
    return sorted(below - ABOVE)


def now() -> dict[str, list]:
    read = {name: file_of(f"prr.{name}").read_text(encoding="utf-8") for name in deciding()}
    return {name: [REVISIONS.get(name, 1), code_digest(source)] for name, source in read.items()}


@pytest.mark.parametrize("name", deciding())
def test_a_changed_file_has_been_looked_at(name):
    noted = json.loads(NOTED.read_text(encoding="utf-8")).get(name)
    assert now()[name] == noted, (
        f"prr/{name.replace('.', '/')}.py has changed: if a result changes with it, raise its number in "
        "prr/study/revisions.py; then run `python tests/test_revisions.py`"
    )


def test_a_docstring_and_a_comment_are_free_and_a_number_is_not():
    assert code_digest('def f():\n    """One."""\n    return 1') == code_digest("def f():\n    return 1  # one")
    assert code_digest("x = 1") != code_digest("x = 2")


def test_every_job_is_of_a_file_that_is_looked_at(tmp_path):
    run = experiment.Experiment("smoke", store=tmp_path, device="cpu")
    functions = {job.function.__module__ for job in closure(chapters.jobs(run)) if isinstance(job, Job)}
    assert len(functions) > 5
    below = {name for module in functions for name in revisions(module)}
    assert below <= set(deciding())


def test_a_file_that_is_not_named_counts_too():
    """What decides nothing has to be named; all else is revised, a new file too."""
    assert {name.removeprefix("prr").removeprefix(".") for name in {"prr", *files()}} >= DECIDE_NONE
    assert revisions("prr.bn") == dict.fromkeys(["bn", "copies", "layers"], 1)


def files() -> list[str]:
    paths = (path.relative_to(PACKAGE).with_suffix("").parts for path in PACKAGE.rglob("*.py"))
    return [".".join(("prr", *parts)).removesuffix(".__init__") for parts in paths]


def test_revisions_reach_through_imports():
    assert {"graph.channels", "graph.alignment", "distance"} <= set(revisions("prr.study.prediction"))
    assert {"graph.suffix", "reuse", "metrics"} <= set(revisions("prr.study.transplants"))
    assert "study.prediction" not in revisions("prr.study.transplants")


def test_a_raised_revision_is_another_key(tmp_path, monkeypatch):
    from prr.study import transplants

    run = experiment.Experiment("smoke", store=tmp_path, device="cpu")
    before, asked = (job := transplants.sweep(run, "unet")).digest, job.question
    monkeypatch.setitem(REVISIONS, "graph.suffix", 99)
    revisions.cache_clear()
    after = transplants.sweep(run, "unet")
    assert after.digest != before
    assert after.question == asked
    monkeypatch.undo()
    revisions.cache_clear()


if __name__ == "__main__":
    NOTED.write_text(json.dumps(now(), indent=1) + "\n", encoding="utf-8")
