"""Build the book's HTML from executed chapters: prose, table of contents, run times and benchmarks beside them."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import nbformat
import yaml

from prr.errors import BookError
from prr.study.edition import FIGURE, Edition
from prr.study.revisions import REVISIONS

ABOUT = "about.md"  # what the benchmarks' tables say
LEDGER = "07_verdict"  # the last page of an edition
FIRST = (
    "What it costs to replace a kernel, by network and by start of training: the mean drop of Dice over kernels, as "
    "trained, at equal distance, by equal noise and at nearest Dice, with intervals. Chapter 8 tells more."
)
JUPYTER_BOOK = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()"]


def render(names: list[str], root: Path, out: Path, edition: Edition | None = None, notice: str = "") -> Path:
    """Build HTML from the chapters `names`, unless out/html was built from the same files.

    Args:
        names: files in out/chapters.
        root: the book's.
        out: the build's folder.
        edition: whose results they show; None: those of this build.
        notice: what a reader of any page has to know first, as MyST.
    """
    source, html = _assemble(names, root, out, edition, notice), out / "html"
    digest = f"{tree_digest(source)} {version('jupyter-book')} {version('sphinx')}"
    stamp = html / ".source"
    if stamp.is_file() and stamp.read_text() == digest:
        print("html: unchanged", flush=True)
        return html / "index.html"
    built = out / "running" / "_build" / "html"
    _jupyter_book(source, built.parents[1], out / "build.log")
    (built / stamp.name).write_text(digest)
    move(built, html)
    print(f"html: {html / 'index.html'}", flush=True)
    return html / "index.html"


def _assemble(names: list[str], root: Path, out: Path, edition: Edition | None, notice: str) -> Path:
    """Lay what Jupyter Book reads in out/source: the chapters of this build and no others, with their run times.

    An edition says on each page what it is, beside the notice, shows its main figure first, and ends with the ledger.
    """
    source = out / "source"
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(root / "book", source, ignore=shutil.ignore_patterns("*.ipynb", ".ipynb_checkpoints"))
    for name in names:
        shutil.copy(out / "chapters" / name, source)
    speed = _run_times([source / name for name in names]) + _benchmarks(root / "tests" / "bench")
    pages = [*(Path(name).stem for name in names), "run_times"]
    if edition:
        notice = "\n\n".join(filter(None, [edition.notice(REVISIONS), notice]))
        shutil.copy(edition.folder / FIGURE, source / FIGURE)
        speed += f"\n{edition.to_markdown()}"
        pages.sort(key=lambda page: page == LEDGER)
    if notice:
        _mark(source, names, notice, f"\n\n![{FIRST}]({FIGURE})" if edition else "")
    (source / "run_times.md").write_text(speed, encoding="utf-8")
    toc, config = read_yaml(root / "_toc.yml"), read_yaml(root / "_config.yml")
    if len(names) < len(toc["chapters"]):  # a link to a chapter that isn't in a partial build is no mistake
        config["sphinx"]["config"]["suppress_warnings"] = ["myst.xref_missing"]
    toc["chapters"] = [{"file": page} for page in pages]
    for file, content in (("_toc.yml", toc), ("_config.yml", config)):
        (source / file).write_text(yaml.safe_dump(content), encoding="utf-8")
    return source


def _mark(source: Path, names: list[str], notice: str, figure: str) -> None:
    """Say below the title of every page what a reader has to know; put a figure on the first one."""
    for name in names:
        chapter = nbformat.read(source / name, 4)
        chapter.cells[0].source = _below_title(chapter.cells[0].source, notice)
        nbformat.write(chapter, source / name)
    first = source / "index.md"
    text = _below_title(first.read_text(encoding="utf-8"), f"{notice}{figure}")
    first.write_text(text, encoding="utf-8")


def _below_title(page: str, text: str) -> str:
    """A page with some text between its title and the rest."""
    title, _, rest = page.partition("\n")
    return f"{title}\n\n{text}\n{rest}"


def _run_times(chapters: list[Path]) -> str:
    lines = [
        "# How fast\n",
        "## Run times\n",
        "What each chapter of this build took on the machine that executed it. A chapter that finds its networks",
        "in the store takes less than one that trains them.\n",
        "| chapter | seconds | parameters |",
        "| --- | ---: | --- |",
    ]
    for chapter in chapters:
        run = nbformat.read(chapter, 4).metadata.prr
        parameters = ", ".join(f"`{name}={value}`" for name, value in run.parameters.items())
        seconds = "not run" if run.seconds is None else f"{run.seconds:.1f}"
        lines.append(f"| [](./{chapter.name}) | {seconds} | {parameters} |")
    lines.append(f"\nPython {sys.version.split()[0]}, torch {version('torch')}.")
    return "\n".join(lines) + "\n"


def _benchmarks(folder: Path) -> str:
    """What `make bench` printed, as it is, on each device that has a file, below what it means; nothing without one."""
    if not (tables := sorted(folder.glob("*.txt"))):
        return ""
    lines = [f"\n{(folder / ABOUT).read_text(encoding='utf-8')}"]
    for table in tables:
        lines += [f"### {table.stem}\n", "```text", table.read_text(encoding="utf-8").strip("\n"), "```\n"]
    return "\n".join(lines)


def _jupyter_book(source: Path, output: Path, log: Path) -> None:
    options = ["--path-output", output, "--toc", source / "_toc.yml", "-W", "--keep-going", "-q"]
    with log.open("w", encoding="utf-8") as lines:
        done = subprocess.run([*JUPYTER_BOOK, "build", source, *options], stdout=lines, stderr=subprocess.STDOUT)
    if done.returncode:
        text = re.sub(r"\x1b\[[0-9;]*m", "", log.read_text(encoding="utf-8"))
        warnings = [line for line in text.splitlines() if re.search("WARNING|ERROR|Error:", line)]
        raise BookError(f"jupyter-book: {(warnings or ['it failed'])[0]} ({len(warnings)} such lines in {log})")


def move(made: Path, to: Path) -> None:
    """Put a file or a folder in place by a rename; a folder that is there already goes first."""
    to.parent.mkdir(exist_ok=True)
    if to.is_dir():
        os.replace(to, made.parent / "replaced")
    os.replace(made, to)


def tree_digest(folder: Path) -> str:
    """A digest of the names and the contents of all files below a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def read_yaml(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8"))
