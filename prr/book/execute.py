"""Execute the chapters with papermill and build the book with Jupyter Book.

    book/*.ipynb -- papermill --> out/chapters -- with prose, toc, run times --> out/source -- jupyter-book --> out/html

The first arrow is here, the others are in `prr.book.render`. `out` is build/<profile>. Each arrow works in out/running
and ends in a rename, so an interrupted run leaves nothing half-written; a chapter whose fingerprint is unchanged is not
executed again.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import nbformat
import papermill
from filelock import FileLock, Timeout
from joblib import Parallel, cpu_count, delayed
from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode

from prr.book.render import move, read_yaml, render, tree_digest
from prr.errors import BookError, OptionError
from prr.study.chapters import lacking, notice
from prr.study.datasets import FOLDERS, VARIABLES
from prr.study.edition import FOLDER, Edition
from prr.study.experiment import PARAMETERS, Experiment
from prr.study.jobs import workers_given
from prr.study.store import fingerprint

PACKAGE = Path(__file__).parents[1]
ROOT = PACKAGE.parent
PASSED = (*VARIABLES, "PRR_STORE")  # variables that chapters are executed under
MARK = ".prr-build"  # says that a folder is a build's, whose contents a build may replace
# it warns of a parameter that a chapter does not declare, but every chapter takes those of the experiment
logging.getLogger("papermill").setLevel(logging.ERROR)


def build(
    profile: str = "quick",
    *,
    edition: str | None = None,
    chapters: Sequence[str] = (),
    parameters: dict | None = None,
    root: Path = ROOT,
    out: Path | None = None,
    first: Callable[[list[str]], None] | None = None,
) -> Path:
    """Execute the chapters that changed, then build the book.

    Args:
        profile: the scale, given to each chapter as its parameter `profile`.
        edition: its results are shown, at its own scale, and nothing is computed; see `prr.study.edition`.
        chapters: numbers such as "03"; none means all that _toc.yml lists.
        parameters: more parameters for the chapters, {name: value}: those of the experiment, and what all declare.
        root: the folder of _toc.yml, _config.yml and book/.
        out: where to build; build/<profile>, or build/<edition>, below root unless given.
        first: called with the numbers of the chapters that will be executed, before the first of them: what makes their
            results with all cores, while a chapter by itself has idle moments.

    Returns:
        The book's index.html.

    Raises:
        OptionError: an unknown chapter, or an unknown parameter.
        BookError: a chapter failed, a figure has no alt text, or Jupyter Book warned.
        DataError: the edition is not there, or not readable by this version.
    """
    shown = Edition(edition) if edition else None
    if shown:
        place = shown.name if shown.folder.parent == FOLDER else str(shown.folder)
        profile, parameters = shown.parameters["profile"], {"edition": place, **(parameters or {})}
    given = all_given(profile, parameters)
    notebooks = select(root, chapters)
    for notebook in notebooks:  # all of them, before the first one trains for an hour
        check_known(notebook, given)
    # chapters run in book/, so a relative path would mean another folder there
    os.environ |= {name: _absolute(os.environ[name]) for name in (*FOLDERS, "PRR_STORE") if os.environ.get(name)}
    run = Experiment.from_parameters({name: value for name, value in given.items() if name in PARAMETERS})
    lacked = {each: why for each in notebooks if (why := lacking(run, number_of(each)))}
    out = Path(out or root / "build" / (shown.name if shown else profile)).resolve()
    claim(out, root)
    with _alone(out):
        made = {each: _fingerprint_of(out / "chapters" / each.name) for each in notebooks}
        there = [each for each in notebooks if each not in lacked]
        changed = [each for each in there if made[each] != chapter_fingerprint(each, given)]
        if first and changed:
            first([number_of(each) for each in changed])
        for notebook, why in lacked.items():
            leave_out(notebook, why, out)
            print(f"{notebook.stem}: not executed. {why}", flush=True)
        for notebook in there:
            if notebook not in changed:
                print(f"{notebook.stem}: unchanged", flush=True)
        # side by side, in processes, for each works in the chapters' folder; most of what takes long has been made by
        # now, but not what the last chapter judges: it goes first
        jobs = (delayed(execute)(notebook, given, out, passed()) for notebook in reversed(changed))
        for line in Parallel(workers_given() or cpu_count(), return_as="generator_unordered", batch_size=1)(jobs):
            print(line, flush=True)
        return render([notebook.name for notebook in notebooks], root, out, shown, notice(run))


def claim(out: Path, root: Path) -> None:
    """Mark a folder as a build's; refuse one with other files in it, since a build replaces what it finds.

    Raises:
        BookError: `out` holds other files, is no folder, or lies among the book's own sources.
    """
    if out == root or any(out.is_relative_to(root / own) for own in ("book", "prr", "data", "tests", ".git")):
        raise BookError(f"{out}: expected a folder apart from the book's own files; choose another one (--out)")
    if out.exists() and not out.is_dir():
        raise BookError(f"{out}: expected a folder, found a file; choose another one (--out)")
    ours = (out.parent == root / "build" and out.name != "store") or (out / MARK).is_file()
    if out.is_dir() and any(out.iterdir()) and not ours:
        raise BookError(
            f"{out}: expected an empty folder or an earlier build, found other files; choose another (--out)"
        )
    out.mkdir(parents=True, exist_ok=True)
    (out / MARK).touch()


def all_given(profile: str, parameters: dict | None) -> dict:
    """The chapters' parameters, the profile among them; the data root as an absolute path."""
    given = {**(parameters or {}), "profile": profile}
    for name, value in given.items():
        if not isinstance(value, str | int | float | None):
            raise OptionError(f"{name}={value!r}: expected a number, a text or None")
    if given.get("data_root"):
        given["data_root"] = _absolute(given["data_root"])
    return given


def prepare(
    profile: str, folder: Path, *, chapters: Sequence[str] = (), parameters: dict | None = None, root: Path = ROOT
) -> list[Path]:
    """Write the chapters with their parameters set, not executed, for nbval: committed outputs are kept."""
    if folder.resolve().is_relative_to((root / "book").resolve()):
        raise OptionError(f"{folder}: expected a folder apart from the chapters, which would be overwritten")
    folder.mkdir(parents=True, exist_ok=True)
    given, prepared = all_given(profile, parameters), []
    for notebook in select(root, chapters):
        check_known(notebook, given)
        chapter = papermill.execute_notebook(notebook, None, given, prepare_only=True, progress_bar=False)
        for cell in chapter.cells:
            if cell.get("outputs"):
                cell.execution_count = 1  # nbstripout drops it, and nbval compares no cell without one
        prepared.append(folder / notebook.name)
        nbformat.write(chapter, prepared[-1])
    return prepared


def select(root: Path, wanted: Sequence[str] = ()) -> list[Path]:
    """The notebooks that _toc.yml lists, in its order; of these the `wanted` numbers, if any are."""
    toc = root / "_toc.yml"
    if not toc.is_file():
        raise BookError(f"expected _toc.yml and book/ in {root}, found none; run from a clone of the repository")
    paths = [root / "book" / f"{entry['file']}.ipynb" for entry in read_yaml(toc)["chapters"]]
    by_number = {number_of(path): path for path in paths}
    wanted = [number.zfill(2) for number in wanted]
    if unknown := sorted(set(wanted) - set(by_number)):
        raise OptionError(f"unknown chapter {', '.join(unknown)}: expected some of {', '.join(by_number)}")
    chosen = [path for number, path in by_number.items() if not wanted or number in wanted]
    if missing := [path.name for path in chosen if not path.is_file()]:
        raise BookError(f"_toc.yml lists chapters that are not in {root / 'book'}: {', '.join(missing)}")
    return chosen


def check_known(notebook: Path, given: dict) -> None:
    """Refuse a parameter that is neither the experiment's nor set in the chapter's `parameters` cell.

    Raises:
        OptionError: names it, and what it may have been meant to be.
    """
    known = list(dict.fromkeys([*papermill.inspect_notebook(notebook), *PARAMETERS]))
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise OptionError(f"{notebook.name}: unknown parameter {name}: expected some of {', '.join(known)}{hint}")


def number_of(notebook: Path) -> str:
    """A chapter's number: "03"."""
    return notebook.stem.split("_")[0]


def passed() -> dict[str, str]:
    """The variables that chapters are executed under, as they are set."""
    return {name: os.environ[name] for name in PASSED if os.environ.get(name)}


def leave_out(notebook: Path, why: str, out: Path) -> None:
    """Write the page of a chapter that lacks something: its title and aim, and what it lacks."""
    chapter = nbformat.read(notebook, 4)
    chapter.cells = chapter.cells[:1]
    title_and_aim = "\n\n".join(chapter.cells[0].source.split("\n\n")[:2])
    chapter.cells[0].source = f"{title_and_aim}\n\n```{{note}}\nNot in this build. {why}\n```"
    chapter.metadata["prr"] = {"fingerprint": None, "seconds": None, "parameters": {}}
    written = out / "running" / notebook.name
    nbformat.write(chapter, written)
    move(written, out / "chapters" / notebook.name)


def execute(notebook: Path, given: dict, out: Path, where: dict[str, str]) -> str:
    """Execute one chapter into out/chapters under these variables, see `passed`; returns what to tell about it."""
    for name in PASSED:  # a worker may have been started under others
        os.environ.pop(name, None)
    os.environ |= where
    running = out / "running" / notebook.name
    _run(notebook, running, given, out / "failed" / notebook.name)
    chapter = nbformat.read(running, 4)
    _make_publishable(chapter, chapter_fingerprint(notebook, given))
    _check_alt_text(chapter, notebook.name)
    nbformat.write(chapter, running)
    move(running, out / "chapters" / notebook.name)
    return f"{notebook.stem}: executed in {chapter.metadata.prr.seconds:.0f} s"


def _fingerprint_of(finished: Path) -> str | None:
    """What an executed chapter was made from; None if it is absent or damaged, and so is executed again."""
    try:
        return json.loads(finished.read_text(encoding="utf-8"))["metadata"]["prr"]["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def chapter_fingerprint(notebook: Path, given: dict) -> str:
    """A digest of all that a chapter's outputs depend on: its cells, `prr`, parameters, data folders, versions."""
    cells = [[cell.cell_type, cell.source, cell.metadata] for cell in nbformat.read(notebook, 4).cells]
    data = [os.environ.get(name) for name in VARIABLES] + [given.get("data_root")]
    files = [fingerprint(Path(folder)) for folder in data if folder and Path(folder).exists()]
    facts = [cells, given, data, files, sys.version, version("torch")]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    results = [Edition(given["edition"]).folder] if given.get("edition") else []
    for folder in (PACKAGE, notebook.parents[1] / "data" / "paper", *results):
        digest.update(tree_digest(folder).encode())
    return digest.hexdigest()


def _run(notebook: Path, running: Path, given: dict, failed: Path) -> None:
    """Execute a notebook with some parameters; what a failed one has shown so far is kept in `failed`."""
    os.environ.pop("MPLBACKEND", None)  # where it is set, a kernel shows no figures
    try:
        papermill.execute_notebook(
            notebook,
            running,
            given,
            kernel_name="python3",
            cwd=notebook.parent,  # as in JupyterLab and under nbval
            progress_bar=sys.stderr.isatty(),
            extra_arguments=["--log-level=CRITICAL"],  # the kernel's own log, not the chapter's
        )
    except (papermill.PapermillExecutionError, DeadKernelError) as error:
        move(running, failed)
        if isinstance(error, DeadKernelError):
            what = "the kernel died, most often for want of memory; try a smaller profile"
        else:
            what = f"cell In [{error.exec_count}] raised {error.ename}: {error.evalue}"
        raise BookError(f"{notebook.name}: {what} (executed so far: {failed})") from error


def _make_publishable(chapter: NotebookNode, made_from: str) -> None:
    """Keep the cost and the parameters of the run; strip papermill's timestamps, absolute paths and stderr."""
    run = chapter.metadata.pop("papermill")
    shown = {name: _without_path(value) for name, value in run["parameters"].items()}
    chapter.metadata["prr"] = {"fingerprint": made_from, "seconds": run["duration"], "parameters": shown}
    for cell in chapter.cells:
        cell.source = cell.source.removeprefix("# NBVAL_CHECK_OUTPUT\n")  # of no use to a reader
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if "outputs" in cell:  # progress bars, and warnings that name this machine's folders
            cell.outputs = [each for each in cell.outputs if each.get("name") != "stderr"]
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.source = "\n".join(f"{name} = {value!r}" for name, value in shown.items())
            cell.metadata.tags.append("remove-cell")


def _check_alt_text(chapter: NotebookNode, name: str) -> None:
    """Refuse a figure that a blind reader is not told of."""
    for cell in chapter.cells:
        drawn = any(kind.startswith("image/") for out in cell.get("outputs", []) for kind in out.get("data", {}))
        if drawn and not cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "").strip():
            raise BookError(
                f"{name}: cell In [{cell.execution_count}] draws a figure without alt text: "
                'expected {"mystnb": {"image": {"alt": "..."}}} in the metadata of the cell'
            )


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold `out` for this build, with an empty out/running."""
    lock, running = FileLock(out / ".lock"), out / "running"
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BookError(f"{out}: another build is at work here; wait for it, or build elsewhere (--out)") from None
    try:
        shutil.rmtree(running, ignore_errors=True)  # what a killed run left
        running.mkdir()
        yield
    finally:
        shutil.rmtree(running, ignore_errors=True)
        lock.release()


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))


def _without_path(value: object) -> object:
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
