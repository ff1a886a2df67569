"""The book builder, on a toy book of two chapters through the real papermill and Jupyter Book."""

import json
import os
import re
import shutil
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from matplotlib import pyplot
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from prr.book import execute, render
from prr.book.execute import build, prepare
from prr.errors import BookError, DataError, OptionError
from prr.study.datasets import VARIABLES
from prr.study.edition import SCHEMA
from prr.study.revisions import REVISIONS

REPOSITORY = Path(__file__).parents[1]
FIGURE = "import matplotlib.pyplot as plt\n_ = plt.plot([1, 2])"
ALT = {"mystnb": {"image": {"alt": "a line that rises"}}}


def write_chapter(path: Path, *cells, metadata: dict | None = None) -> Path:
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    chapter = new_notebook(metadata={"kernelspec": kernel})
    chapter.cells = [
        new_markdown_cell(f"# {path.stem}\n\nInline $w_i$, displayed $$y = w x$$ and cited {{cite}}`wang2020`."),
        new_code_cell('profile = "quick"\nscale = 1', metadata={"tags": ["parameters"]}),
        *(new_code_cell(source, metadata=metadata or {}) for source in cells),
    ]
    nbformat.write(chapter, path)
    return path


@pytest.fixture
def toy(tmp_path, monkeypatch) -> Path:
    """A book of the repository's own _config.yml and two chapters, the second of which links to the first."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PRR_JOBS", "1")
    monkeypatch.setenv("MPLBACKEND", "agg")  # a user may have it set; figures show all the same
    sources = tmp_path / "toy" / "book"
    sources.mkdir(parents=True)
    shutil.copy(REPOSITORY / "_config.yml", sources.parent)
    shutil.copy(REPOSITORY / "book" / "references.bib", sources)
    (sources.parent / "_toc.yml").write_text("format: jb-book\nroot: index\nchapters: [file: 01_one, file: 02_two]\n")
    (sources / "index.md").write_text("# Toy\n\nFirst [](01_one.ipynb).\n\n```{bibliography}\n```\n")
    write_chapter(sources / "01_one.ipynb", FIGURE, metadata=ALT)
    write_chapter(sources / "02_two.ipynb", "print('scale is', scale)")
    return sources.parent


def executed(root: Path, name: str):
    return nbformat.read(root / "build" / "quick" / "chapters" / name, 4)


def ran(capsys) -> set[str]:
    """The chapters that the builds since the last call executed."""
    return set(re.findall(r"^(\w+): executed", capsys.readouterr().out, flags=re.M))


class Loaded(HTMLParser):
    """What a page loads by itself; links that a reader may click are not among it."""

    def __init__(self):
        super().__init__()
        self.urls = []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "link" and attributes.get("rel") not in ("canonical", "next", "prev", "search", "author", "index"):
            self.urls.append(attributes.get("href"))
        elif tag in ("script", "img", "iframe", "source", "video", "audio", "embed"):
            self.urls.append(attributes.get("src"))


def external(page: Path) -> list[str]:
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".css":
        urls = re.findall(r"(?:url\(|@import)\s*[\"']?([^\"')\s;]+)", text)
    else:
        parser = Loaded()
        parser.feed(text)
        urls = parser.urls
    return [f"{page.name}: {url}" for url in urls if url and re.match("(https?:)?//", url)]


def test_a_book_is_built_offline_and_only_once(toy, capsys, monkeypatch):
    (toy / "tests" / "bench").mkdir(parents=True)
    (toy / "tests" / "bench" / "about.md").write_text("## Benchmarks\n\nMedians of pairs.\n")
    (toy / "tests" / "bench" / "cpu.txt").write_text("x86_64 x 2, torch 2\nnetwork  plain s\n   unet     <11>\n")
    index = build(root=toy)
    assert index == toy / "build" / "quick" / "html" / "index.html"
    assert ran(capsys) == {"01_one", "02_two"}
    html = index.parent
    assert {page.name for page in html.glob("*.html")} >= {"01_one.html", "02_two.html", "run_times.html"}
    assert "<p>Medians of pairs.</p>" in (html / "run_times.html").read_text()
    assert "torch 2\nnetwork  plain s\n   unet     &lt;11&gt;\n</pre>" in (html / "run_times.html").read_text()
    assert 'alt="a line that rises"' in (html / "01_one.html").read_text()
    assert "# Parameters" not in (html / "02_two.html").read_text()
    assert (html / "_static" / "mathjax" / "tex-chtml.js").is_file()
    assert "_static/mathjax/tex-chtml.js" in (html / "01_one.html").read_text()
    assert [url for page in [*html.glob("*.html"), *html.rglob("*.css")] for url in external(page)] == []

    before = index.stat().st_mtime_ns
    monkeypatch.setattr(execute, "_run", None)
    monkeypatch.setattr(render, "_jupyter_book", None)
    start = time.perf_counter()
    assert build(root=toy) == index
    assert time.perf_counter() - start < 10
    assert index.stat().st_mtime_ns == before
    assert ran(capsys) == set()

    published = executed(toy, "02_two.ipynb")
    assert published.cells[-1].outputs[0].text == "scale is 1\n"
    assert published.metadata.prr.parameters == {"profile": "quick"}
    assert published.metadata.prr.seconds > 0
    metadata = str([published.metadata, *(cell.metadata for cell in published.cells)])
    assert str(toy) not in metadata
    assert not re.search(r"\d{4}-\d\d-\d\d", metadata)


def test_a_chapter_that_lacks_data_is_its_aim_and_every_page_says_what_stands_where(toy, capsys, monkeypatch):
    why, asked = "It wants another data set.", []
    with monkeypatch.context() as patch:
        patch.setattr(execute, "lacking", lambda run, number: why if number == "02" else None)
        patch.setattr(execute, "notice", lambda run: ":::{important}\n**Shapes** stands there.\n:::")
        html = build(root=toy, first=asked.append).parent
    told = capsys.readouterr().out
    assert f"02_two: not executed. {why}" in told
    assert "02_two: executed" not in told
    assert asked == [["01"]]
    page = (html / "02_two.html").read_text()
    assert f"Not in this build. {why}" in page
    assert "scale is" not in page
    assert "Inline" in page  # the aim
    for name in ("index", "01_one", "02_two"):
        assert "<strong>Shapes</strong> stands there." in (html / f"{name}.html").read_text()
    times = (html / "run_times.html").read_text()
    assert times.count("not run") == 1

    html = build(root=toy).parent
    assert ran(capsys) == {"02_two"}  # as soon as nothing is lacking
    assert "Shapes" not in (html / "01_one.html").read_text()


def test_some_chapters_make_a_book_without_a_warning(toy):
    html = build(root=toy, chapters=["2"]).parent
    assert (html / "02_two.html").is_file()
    assert not (html / "01_one.html").exists()
    assert "Benchmarks" not in (html / "run_times.html").read_text()


@pytest.fixture
def unrendered(toy, monkeypatch) -> Path:
    """The toy book, executed but not turned into HTML: what `render` does is tested above."""
    monkeypatch.setattr(execute, "render", lambda names, root, out, edition, notice: out / "html" / "index.html")
    return toy


def test_only_what_changed_is_executed_again(unrendered, capsys, monkeypatch, tmp_path):
    toy, asked = unrendered, []
    build(root=toy, first=asked.append)
    assert ran(capsys) == {"01_one", "02_two"}
    build(root=toy, first=asked.append)
    assert not ran(capsys)
    assert asked == [["01", "02"]]

    build(root=toy, parameters={"scale": 2})
    assert ran(capsys) == {"01_one", "02_two"}
    assert executed(toy, "02_two.ipynb").cells[-1].outputs[0].text == "scale is 2\n"

    write_chapter(toy / "book" / "02_two.ipynb", "print('changed')")
    build(root=toy, parameters={"scale": 2}, first=asked.append)
    assert ran(capsys) == {"02_two"}
    assert asked[1:] == [["02"]]

    package = tmp_path / "prr"
    package.mkdir()
    for text in ("1", "2"):
        (package / "layers.py").write_text(text)
        monkeypatch.setattr(execute, "PACKAGE", package)
        build(root=toy, parameters={"scale": 2}, chapters=["02"])
        assert ran(capsys) == {"02_two"}


def test_the_fingerprint_sees_data_folders_but_not_outputs(toy, monkeypatch, tmp_path):
    path = toy / "book" / "02_two.ipynb"
    first = execute.chapter_fingerprint(path, {})
    chapter = nbformat.read(path, 4)
    chapter.cells[-1].execution_count = 7
    nbformat.write(chapter, path)
    assert execute.chapter_fingerprint(path, {}) == first

    monkeypatch.setenv("PRR_ACDC", str(tmp_path / "acdc"))
    absent = execute.chapter_fingerprint(path, {})
    mask = tmp_path / "acdc" / "patient001" / "frame01_gt.nii.gz"
    mask.parent.mkdir(parents=True)
    mask.write_text("labels")
    present = execute.chapter_fingerprint(path, {})
    os.utime(mask, (0, 2**31))  # rewritten in place, two folders down
    assert len({first, absent, present, execute.chapter_fingerprint(path, {})}) == 4


def test_warnings_that_name_folders_of_this_machine_are_not_published(toy):
    write_chapter(toy / "book" / "01_one.ipynb", "import sys\nprint('told')\nprint(sys.prefix, file=sys.stderr)")
    build(root=toy)
    for made in (toy / "build" / "quick" / "chapters", toy / "build" / "quick" / "html" / "_sources"):
        published = (made / "01_one.ipynb").read_text(encoding="utf-8")
        assert "told" in published
        assert sys.prefix not in published


def test_a_failing_chapter_is_named_and_kept_for_a_look(toy):
    write_chapter(toy / "book" / "01_one.ipynb", "x = 1", "raise ValueError('no such thing')")
    with pytest.raises(BookError, match=r"01_one.ipynb: cell In \[4\] raised ValueError: no such thing .*failed"):
        build(root=toy)
    out = toy / "build" / "quick"
    assert (out / "failed" / "01_one.ipynb").is_file()
    assert (out / "chapters" / "02_two.ipynb").is_file()
    assert not (out / "chapters" / "01_one.ipynb").exists()
    assert not (out / "html").exists()
    assert not (out / "running").exists()


def test_chapters_run_side_by_side_and_one_that_fails_is_told(unrendered, monkeypatch):
    meet = """
import pathlib, time
pathlib.Path(profile_NAME).touch()
while len(list(pathlib.Path().glob("*.here"))) < 2: time.sleep(0.05)
"""
    for name in ("01_one", "02_two"):
        last = "1 / 0" if name == "02_two" else ""
        write_chapter(unrendered / "book" / f"{name}.ipynb", meet.replace("profile_NAME", f"'{name}.here'") + last)
    monkeypatch.setenv("PRR_JOBS", "2")
    with pytest.raises(BookError, match=r"02_two.ipynb: cell In \[3\] raised ZeroDivisionError"):
        build(root=unrendered)
    assert not (unrendered / "build" / "quick" / "running").exists()


def test_a_kernel_that_dies_is_told(toy):
    write_chapter(toy / "book" / "02_two.ipynb", "import os\nos._exit(1)")
    with pytest.raises(BookError, match=r"02_two.ipynb: the kernel died"):
        build(root=toy, chapters=["02"])


def test_an_interrupted_build_leaves_nothing_half_written(toy, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(execute, "_make_publishable", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(root=toy, chapters=["02"])
    left = {path.name for path in (toy / "build" / "quick").iterdir()}
    assert left <= {".lock", execute.MARK}


def test_what_a_killed_build_left_is_swept_away(unrendered):
    left = unrendered / "build" / "quick" / "running"
    left.mkdir(parents=True)
    (left / "02_two.ipynb").write_text('{"cells": [')
    build(root=unrendered, chapters=["02"])
    assert not left.exists()
    assert executed(unrendered, "02_two.ipynb").cells[-1].outputs[0].text == "scale is 1\n"


def test_two_builds_do_not_share_a_folder(toy):
    out = toy / "build" / "quick"
    with execute._alone(out), pytest.raises(BookError, match="another build is at work here"):
        build(root=toy)


def test_a_figure_without_alt_text_is_refused(toy):
    write_chapter(toy / "book" / "02_two.ipynb", FIGURE)
    with pytest.raises(BookError, match=r"02_two.ipynb: cell In \[3\] draws a figure without alt text"):
        build(root=toy, chapters=["02"])
    assert not (toy / "build" / "quick" / "chapters").exists()


def test_a_warning_of_jupyter_book_is_an_error(toy):
    (toy / "book" / "index.md").write_text("# Toy\n\n{doc}`nowhere`\n\n```{bibliography}\n```\n")
    with pytest.raises(BookError, match=r"index.md:3: WARNING: unknown document: .*nowhere.*in .*build.log"):
        build(root=toy, chapters=["02"])
    assert not (toy / "build" / "quick" / "html").exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"parameters": {"scael": 2}}, "01_one.ipynb: unknown parameter scael: expected some of .*did you mean scale"),
        ({"parameters": {"unet_wdith": 2}}, "unknown parameter unet_wdith: expected some of .*did you mean unet_width"),
        ({"parameters": {"store": "x"}}, "unknown parameter store: expected some of profile, scale, "),
        ({"chapters": ["03"]}, "unknown chapter 03: expected some of 01, 02"),
    ],
)
def test_an_unknown_option_is_refused_before_anything_runs(toy, wrong, message):
    with pytest.raises(OptionError, match=message):
        build(root=toy, **wrong)
    assert not (toy / "build").exists()


def test_a_chapter_takes_every_parameter_of_the_experiment_and_nobody_is_warned(unrendered, caplog):
    write_chapter(unrendered / "book" / "02_two.ipynb", "print('steps are', steps)")
    build(root=unrendered, chapters=["02"], parameters={"steps": 5})
    assert executed(unrendered, "02_two.ipynb").cells[-1].outputs[0].text == "steps are 5\n"
    prepare("quick", unrendered / "nbval", chapters=["02"], parameters={"steps": 5}, root=unrendered)
    assert not caplog.records  # papermill warns of what a chapter does not declare


def test_a_chapter_that_is_listed_but_absent_is_named(toy):
    (toy / "book" / "02_two.ipynb").unlink()
    with pytest.raises(BookError, match=r"lists chapters that are not in .*02_two.ipynb"):
        build(root=toy)


def test_a_folder_without_a_book_is_refused(tmp_path):
    with pytest.raises(BookError, match=r"expected _toc.yml and book/ in .*run from a clone"):
        build(root=tmp_path)


def test_preparing_sets_the_profile_and_keeps_committed_outputs(toy, tmp_path):
    path = toy / "book" / "02_two.ipynb"
    chapter = nbformat.read(path, 4)
    chapter.cells[-1].outputs = [nbformat.v4.new_output("stream", text="as committed\n")]
    nbformat.write(chapter, path)
    (prepared,) = prepare("smoke", tmp_path / "nbval", chapters=["02"], root=toy)
    chapter = nbformat.read(prepared, 4)
    assert 'profile = "smoke"' in [cell.source for cell in chapter.cells][2]
    assert chapter.cells[-1].outputs[0].text == "as committed\n"
    assert chapter.cells[-1].execution_count, "nbval compares no cell without one"


def test_chapters_find_relative_folders_of_the_caller(toy, monkeypatch, tmp_path):
    write_chapter(toy / "book" / "01_one.ipynb", "import os\nprint(os.environ['PRR_STORE'])")
    monkeypatch.setenv("PRR_STORE", "kept/here")
    monkeypatch.chdir(tmp_path)
    build(root=toy, chapters=["01"])
    (printed,) = executed(toy, "01_one.ipynb").cells[-1].outputs
    assert printed.text.strip() == str(tmp_path / "kept" / "here")
    assert execute.all_given("quick", {"data_root": "scans"})["data_root"] == str(tmp_path / "scans")
    assert execute.all_given("quick", {"profile": "smoke"}) == {"profile": "quick"}  # it names the build's folder


@pytest.mark.parametrize("place", ["mine", "book/out", ".", "notes.txt"])
def test_a_build_takes_no_folder_that_holds_other_files(toy, place):
    (toy / "mine" / "html").mkdir(parents=True)
    for kept in (toy / "mine" / "html" / "thesis.html", toy / "notes.txt"):
        kept.write_text("mine")
    with pytest.raises(BookError, match="expected"):
        build(root=toy, chapters=["01"], out=toy / place)
    assert (toy / "mine" / "html" / "thesis.html").read_text() == (toy / "notes.txt").read_text() == "mine"
    assert not (toy / "book" / "out").exists()


def test_preparing_into_the_chapters_folder_is_refused(toy):
    before = (toy / "book" / "01_one.ipynb").read_bytes()
    with pytest.raises(OptionError, match="would be overwritten"):
        prepare("smoke", toy / "book", root=toy)
    assert (toy / "book" / "01_one.ipynb").read_bytes() == before


def test_a_damaged_executed_chapter_is_executed_again(unrendered, capsys):
    build(root=unrendered, chapters=["02"])
    (unrendered / "build" / "quick" / "chapters" / "02_two.ipynb").write_text("<html>")
    ran(capsys)
    build(root=unrendered, chapters=["02"])
    assert ran(capsys) == {"02_two"}


def test_a_parameter_that_is_no_plain_value_is_refused(toy):
    with pytest.raises(OptionError, match=r"scale=\[1, 2\]: expected a number, a text or None"):
        build(root=toy, parameters={"scale": [1, 2]})


# ------------------------------------------------------------------- editions


@pytest.fixture
def shown(toy):
    """An edition without results, and a book of three chapters that can show it, the ledger in the middle."""
    for name in ("01_one", "07_verdict", "08_more"):
        path = write_chapter(toy / "book" / f"{name}.ipynb", "print('shown is', edition.rsplit('/', 1)[-1])")
        chapter = nbformat.read(path, 4)
        chapter.cells[1].source = 'profile = "quick"\nedition = None'
        nbformat.write(chapter, path)
    (toy / "book" / "02_two.ipynb").unlink()
    chapters = "[file: 01_one, file: 07_verdict, file: 08_more]"
    (toy / "_toc.yml").write_text(f"format: jb-book\nroot: index\nchapters: {chapters}\n")
    folder = toy / "editions" / "stand-in"
    folder.mkdir(parents=True)
    made = {"device": "cpu x", "date": "2026-01-02 03:04", "commit": "abc"}
    stamp = {"schema": SCHEMA, "profile": "smoke", "seed": 0, "overrides": {"steps": 3}, "made": made}
    stamp |= {"places": ["acdc", "t1", "rvsc"], "fits": False}
    stamp |= {"machine": {"device": "cpu"}, "revisions": REVISIONS | {"reuse": 0}, "columns": {}}
    (folder / "edition.json").write_text(json.dumps(stamp))
    (folder / "records.json").write_text("{}")
    pyplot.figure(figsize=(1, 1)).savefig(folder / "figure.png")
    pyplot.close("all")
    return folder


def test_an_edition_says_on_every_page_what_it_is_and_ends_with_the_ledger(toy, shown, capsys):
    index = build(root=toy, edition=str(shown))
    assert index == toy / "build" / "stand-in" / "html" / "index.html"
    assert ran(capsys) == {"01_one", "07_verdict", "08_more"}
    pages = {name: (index.parent / f"{name}.html").read_text() for name in ("index", "01_one", "07_verdict", "08_more")}
    for text in pages.values():
        assert "computed at profile" in text
        assert "to test how editions are rendered" in text
        assert "another revision than the text and the code (reuse)" in text
    assert "shown is stand-in" in pages["08_more"]
    assert "figure.png" in pages["index"]
    order = re.findall(r'toctree-l1.*?href="([\w.]+)"', pages["index"])
    assert order == ["01_one.html", "08_more.html", "run_times.html", "07_verdict.html"]
    assert str(toy) not in "".join(page.read_text() for page in (index.parent / "_sources").glob("*.ipynb"))
    assert "smoke, seed 0, steps 3" in (index.parent / "run_times.html").read_text()


def test_an_edition_that_changed_is_rendered_again(toy, shown, capsys, monkeypatch):
    monkeypatch.setattr(render, "_jupyter_book", lambda _, output, log: (output / "_build/html").mkdir(parents=True))
    for change, expected in [("{}", {"01_one"}), ("{}", set()), ("{ }", {"01_one"})]:
        (shown / "records.json").write_text(change)
        build(root=toy, edition=str(shown), chapters=["01"])
        assert ran(capsys) == expected


def test_an_edition_that_cannot_be_read_is_refused_before_anything_runs(toy, shown):
    (shown / "edition.json").write_text('{"schema": 0}')
    with pytest.raises(DataError, match="schema"):
        build(root=toy, edition=str(shown))
    assert not (toy / "build").exists()
