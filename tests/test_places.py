"""What follows from the data sets in the study's places: names, what a chapter lacks, what a page says first."""

import json
import warnings

import numpy as np
import pytest
from PIL import Image

from prr.data import write_phantom
from prr.errors import DataError
from prr.study import Experiment, chapters, grid, ledger, networks, prediction, sources, transfer, transplants
from prr.study.jobs import closure

pytestmark = pytest.mark.usefixtures("phantoms_only")

SMALLEST = {"device": "cpu", "progress": False, "steps": 1, "transfer_steps": 1, "seeds": 1}


def drawn(folder, name, labels=("square", "disc"), cases=6):
    """Pictures of a square and a disc, in nnU-Net's layout."""
    rng, (y, x) = np.random.default_rng(len(name)), np.mgrid[:32, :32]
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for case in range(cases):
        mask = np.zeros((32, 32), np.uint8)
        mask[3 + case : 12 + case, 4:12] = 1
        mask[(y - 20) ** 2 + (x - 22) ** 2 < 25 + case] = len(labels)
        picture = (mask * 60 + rng.integers(0, 50, mask.shape)).astype(np.uint8)
        Image.fromarray(picture).save(folder / "imagesTr" / f"{case}_0000.png")
        Image.fromarray(mask).save(folder / "labelsTr" / f"{case}.png")
    named = {"background": 0, **{label: value for value, label in enumerate(labels, 1)}}
    about = {"name": name, "channel_names": {"0": "drawn"}, "labels": named, "file_ending": ".png"}
    (folder / "dataset.json").write_text(json.dumps(about))
    return str(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    return {name: drawn(root / name, name) for name in ("Shapes", "Blobs", "Tiles")}


@pytest.fixture
def run(folders, tmp_path_factory, monkeypatch):
    """(places by their variables) -> a run on these data sets, all in one store."""
    store = tmp_path_factory.getbasetemp() / "places"

    def made(**places):
        for name in ("TARGET", "OTHER1", "OTHER2"):
            monkeypatch.delenv(f"PRR_{name}", raising=False)
        for name, title in places.items():
            monkeypatch.setenv(f"PRR_{name}", folders.get(title, title))
        found = Experiment("smoke", store=store, **SMALLEST)
        assert len(found.given) == len(places)  # the variables are read now, not when the next run has set others
        return found

    return made


# ----------------------------------------------------------------------- names


def test_with_the_papers_sets_the_six_are_the_papers(run):
    assert networks.six(run()) == {
        "ACDC seg": ("acdc", "segmentation"), "ACDC auto": ("acdc", "auto-encoding"),
        "T1 seg": ("t1", "segmentation"), "T1 auto": ("t1", "auto-encoding"),
        "RVSC seg": ("rvsc", "segmentation"), "RVSC auto": ("rvsc", "auto-encoding"),
    }  # fmt: skip
    assert [transfer.label(run(), row) for row in transfer.ROWS] == [
        "nothing loaded", "T1 seg, frozen", "T1 seg, trained on", "T1 auto, frozen", "T1 auto, trained on",
        "RVSC seg, frozen", "RVSC seg, trained on", "start only, frozen", "start only, trained on",
        "ACDC auto, frozen", "ACDC auto, trained on",
    ]  # fmt: skip


def test_names_follow_what_stands_in_the_places(run):
    three = run(TARGET="Shapes", OTHER1="Blobs", OTHER2="Tiles")
    labels = ["Shapes seg", "Shapes auto", "Blobs seg", "Blobs auto", "Tiles seg", "Tiles auto"]
    assert list(networks.six(three)) == labels
    assert networks.lacking(three) is None
    assert transfer.label(three, 7) == "Tiles seg, trained on"
    job = transplants.judge(three, "unet")
    assert list(job.needs["sources"]) == labels[1:]
    assert job.needs["target"].title == "shapes segmentation"
    assert list(sources.pairs(three, "unet").needs["models"]) == labels
    assert [each["label"] for each in transfer.by_patient(three).arguments["labels"]][1] == "Blobs seg, frozen"


def test_sources_are_those_of_the_places_there_are(run):
    alone, two = run(TARGET="Shapes"), run(TARGET="Shapes", OTHER2="Tiles")
    assert list(networks.six(alone)) == ["Shapes seg", "Shapes auto"]
    assert list(networks.six(two)) == ["Shapes seg", "Shapes auto", "Tiles seg", "Tiles auto"]
    assert [len(prediction.candidates(grid.scaled(each), 0)) for each in (alone, two, run())] == [8, 14, 20]


def test_two_data_sets_of_one_name_are_refused(run, tmp_path):
    with pytest.raises(DataError, match="acdc and rvsc: expected data sets of different names, found Shapes in both"):
        networks.six(run(TARGET="Shapes", OTHER1="Blobs", OTHER2=drawn(tmp_path, "Shapes")))


# --------------------------------------------------------------- what is lacking


def test_a_chapter_of_three_data_sets_says_which_it_lacks(run):
    alone, two = run(TARGET="Shapes"), run(TARGET="Shapes", OTHER1="Blobs")
    assert [number for number in chapters.CHAPTERS if chapters.lacking(alone, number)] == ["05", "06", "07"]
    assert "has Shapes alone: name what is missing in PRR_OTHER1 and PRR_OTHER2" in chapters.lacking(alone, "05")
    assert "has Shapes and Blobs alone: name what is missing in PRR_OTHER2 (" in chapters.lacking(two, "07")
    assert not any(chapters.lacking(run(), number) for number in chapters.CHAPTERS)


def test_all_chapters_are_those_that_lack_nothing_and_one_that_is_named_is_refused(run):
    alone = run(TARGET="Shapes")
    with pytest.warns(UserWarning, match="left out: chapter 05, 06, 07: This compares three data sets"):
        jobs = chapters.jobs(alone)
    assert {each.name for each in closure(jobs) if not each.needs and hasattr(each, "facts")} == {"acdc", "textures"}
    there = {job.question for job in jobs}
    assert ledger.evidence(alone, [7])  # what can be judged of the target alone
    assert {job.question for job in ledger.evidence(alone, range(2, 9))} <= there
    with pytest.raises(DataError, match="chapter 06: This compares three data sets"):
        alone.prepare("3", "6")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chapters.jobs(run())


# ------------------------------------------------------------ what a page says first


def test_a_page_says_what_stands_where_the_text_names_the_papers_sets(run, tmp_path):
    assert chapters.notice(run()) == ""
    root = write_phantom(tmp_path / "phantoms", {"acdc": 2, "t1": 4})
    assert chapters.notice(run(TARGET=str(root / "acdc"))) == ""  # of the paper's own layout and name
    alone = chapters.notice(run(TARGET="Shapes"))
    assert "**Shapes**, a real stand-in of 6 patients, stands where it says ACDC." in alone
    assert "Nothing stands where it says T1 or RVSC. Classes: square, disc." in alone
    beside = chapters.notice(run(TARGET="Shapes", OTHER1="Blobs", OTHER2="Tiles"))
    assert "**Tiles**, a real stand-in of 6 patients, stands where it says RVSC." in beside
    assert "Nothing stands" not in beside
    swapped = chapters.notice(run(TARGET=str(root / "t1"), OTHER1=str(root / "acdc")))
    assert "**T1**, a phantom of 2 patients, stands where it says ACDC." in swapped
