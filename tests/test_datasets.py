"""Places of the study: what stands in them, how labels of one set become those of another, what is refused."""

import json
import shutil

import pytest
import torch

from prr.data import LAYOUTS, read_nnunet, write_phantom, write_shapes
from prr.data.labels import LABELS
from prr.errors import DataError, OptionError
from prr.study import Experiment, networks
from prr.study.datasets import PLACES, given, places

pytestmark = pytest.mark.usefixtures("phantoms_only")


@pytest.fixture(autouse=True)
def own_store(monkeypatch, tmp_path):
    monkeypatch.setenv("PRR_STORE", str(tmp_path / "store"))


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return write_shapes(tmp_path_factory.mktemp("own") / "Dataset001_Shapes", cases=12)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    return write_phantom(tmp_path_factory.mktemp("phantoms") / "data", 4)


def run(**options) -> Experiment:
    return Experiment("smoke", device="cpu", progress=False, **options)


def test_a_target_of_ones_own_stands_alone_and_is_seen_whole(monkeypatch, shapes):
    monkeypatch.setenv("PRR_TARGET", str(shapes))
    own = run()
    assert own.places == ("acdc",)
    assert (own.title("acdc"), own.facts("acdc")["origin"]) == ("Shapes", "phantom")
    assert own.labels == {0: "background", 1: "disc", 2: "square"}
    expected = read_nnunet(shapes, size=48, progress=False)
    assert torch.equal(own.slices("target").images, expected.images)
    assert torch.equal(own.slices("acdc").masks, expected.masks)
    with pytest.raises(DataError, match=r"other1: expected a data set beside the target's.*PRR_OTHER1=.*OTHER1="):
        own.slices("t1")


def test_its_networks_have_its_classes_and_channels(monkeypatch, shapes):
    monkeypatch.setenv("PRR_TARGET", str(shapes))
    own = run(steps=1)
    for network in ("unet", "pspnet"):
        for task in ("segmentation", "auto-encoding"):
            assert own.model(network, task=task)(torch.zeros(1, 1, 48, 48)).shape == (1, 3, 48, 48)
    assert own.model("unet", start="pretext")(torch.zeros(1, 1, 48, 48)).shape == (1, 3, 48, 48)
    assert set(networks.six(own)) == {"Shapes seg", "Shapes auto"}


@pytest.mark.filterwarnings("ignore:.* labelled pixels are cut off")
def test_the_field_of_view_stays_at_another_size_and_a_given_spacing_is_kept(monkeypatch, shapes):
    monkeypatch.setenv("PRR_TARGET", str(shapes))
    own = run()
    assert own.facts("acdc")["spacing_mm"] == 2.0  # 96 pixels in 48
    assert own.variant(size=96).facts("acdc")["spacing_mm"] == 1.0
    assert run(spacing_mm=1.5).facts("acdc")["spacing_mm"] == 1.5


def boxes(root, labels: dict[str, int], channels: int = 1) -> str:
    """Two phantom-like pictures with named labels, in nnU-Net's layout."""
    from PIL import Image

    for case in ("a", "b", "c", "d"):
        image = torch.randint(0, 200, (48, 48), generator=torch.Generator().manual_seed(ord(case)), dtype=torch.uint8)
        mask = torch.zeros(48, 48, dtype=torch.uint8)
        for value in labels.values():
            mask[4 + 10 * value : 12 + 10 * value, 10:30] = value
        for place in ("imagesTr", "labelsTr"):
            (root / place).mkdir(parents=True, exist_ok=True)
        for channel in range(channels):
            Image.fromarray(image.numpy()).save(root / f"imagesTr/{case}_{channel:04d}.png")
        Image.fromarray(mask.numpy()).save(root / f"labelsTr/{case}.png")
    names = {str(channel): "x" for channel in range(channels)}
    about = {"channel_names": names, "labels": {"background": 0, **labels}, "file_ending": ".png"}
    (root / "dataset.json").write_text(json.dumps(about))
    return str(root)


@pytest.mark.filterwarnings("ignore::UserWarning")  # boxes are no heart, and that is told
def test_labels_of_another_set_are_numbered_as_the_targets_are(monkeypatch, tmp_path, phantoms):
    monkeypatch.setenv("PRR_OTHER1", boxes(tmp_path / "Dataset009_Boxes", {"LV": 1, "Myo": 2, "RV": 3}))
    both = run(data_root=phantoms.parent / "data")
    monkeypatch.setenv("PRR_ACDC", str(phantoms / "acdc"))
    both = run()
    assert both.places == ("acdc", "t1", "rvsc")
    assert (both.title("t1"), both.facts("t1")["origin"]) == ("Boxes", "real stand-in")
    assert both.facts("acdc")["origin"] == "phantom"
    found = both.slices("other1")
    assert found.labels == LABELS
    raw = read_nnunet(tmp_path / "Dataset009_Boxes", size=48, spacing_mm=3.0, progress=False)
    assert torch.equal(found.masks, torch.tensor([0, 3, 2, 1], dtype=torch.uint8)[raw.masks.long()])
    monkeypatch.setenv("PRR_OTHER1_LABELS", "MYO=2")
    assert run().slices("t1").masks.unique().tolist() == [0, 2]


def test_a_map_names_the_values_of_the_target(monkeypatch, tmp_path, phantoms):
    monkeypatch.setenv("PRR_TARGET", str(phantoms / "acdc"))
    plain = run().slices("acdc").masks
    monkeypatch.setenv("PRR_TARGET_LABELS", "LV=1 MYO=2 RV=3")
    with pytest.warns(UserWarning, match="RV cavity"):  # for it is not so
        turned = run().slices("acdc").masks
    assert torch.equal(turned, torch.tensor([0, 3, 2, 1], dtype=torch.uint8)[plain.long()])


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("labels", "channels", "message"), [
    ({"liver": 1}, 1, "expected some of the labels RV cavity, myocardium, LV cavity, found liver; map them"),
    ({"LV": 1}, 2, "expected 1 channels, as the target has, found 2; leave other1 empty"),
])  # fmt: skip
def test_another_set_that_does_not_fit_the_target_is_refused(monkeypatch, tmp_path, labels, channels, message):
    monkeypatch.setenv("PRR_OTHER1", boxes(tmp_path / "Dataset009_Boxes", labels, channels))
    with pytest.raises(DataError, match=message):
        run().slices("t1")


def test_a_map_of_outlines_is_refused(monkeypatch, phantoms):
    monkeypatch.setenv("PRR_T1", str(phantoms / "t1"))
    monkeypatch.setenv("PRR_T1_LABELS", "MYO=1")
    with pytest.raises(OptionError, match="labels='MYO=1': expected none for T1, which holds outlines of one label"):
        run().slices("t1")


def test_a_place_has_two_names_that_must_agree(monkeypatch, shapes, phantoms):
    monkeypatch.setenv("PRR_TARGET", str(shapes))
    monkeypatch.setenv("PRR_ACDC", str(shapes))
    assert run().title("target") == "Shapes"
    monkeypatch.setenv("PRR_ACDC", str(phantoms / "acdc"))
    with pytest.raises(DataError, match=r"PRR_ACDC=.*PRR_TARGET=.*both name the same place; unset the other"):
        _ = run().places


def test_a_place_is_the_same_however_its_path_is_written(monkeypatch, shapes):
    monkeypatch.chdir(shapes.parent)
    monkeypatch.setenv("HOME", str(shapes.parent))
    monkeypatch.setenv("PRR_TARGET", shapes.name)
    monkeypatch.setenv("PRR_ACDC", f"~/{shapes.name}/")
    assert given(None)["acdc"].folder == shapes


def test_one_data_set_in_two_places_is_refused_unless_its_labels_differ(monkeypatch, shapes, tmp_path):
    (tmp_path / "link").symlink_to(shapes)
    monkeypatch.setenv("PRR_TARGET", str(shapes))
    monkeypatch.setenv("PRR_OTHER2", str(tmp_path / "link"))
    with pytest.raises(DataError, match=r"target and other2: expected two data sets, found .*link in both"):
        given(None)
    monkeypatch.setenv("PRR_OTHER2_LABELS", "disc=1")
    assert set(given(None)) == {"acdc", "rvsc"}


@pytest.mark.parametrize("name", ["TARGET", "T1"])
def test_a_map_without_a_data_set_is_refused(monkeypatch, name):
    monkeypatch.setenv(f"PRR_{name}_LABELS", "disc=1")
    with pytest.raises(DataError, match=r"_LABELS=disc=1: expected a data set in its place, found none"):
        given(None)


def test_a_target_of_no_known_layout_is_asked_for_any_of_them(monkeypatch, shapes):
    monkeypatch.setenv("PRR_TARGET", str(shapes / "imagesTr"))
    with pytest.raises(DataError, match=r"imagesTr: expected a folder that holds one of .*dataset.json \(nnU-Net\)"):
        given(None)


def test_a_list_stands_for_its_folder_whose_changes_count(monkeypatch, shapes, tmp_path):
    own = shutil.copytree(shapes, tmp_path / "own")
    monkeypatch.setenv("PRR_TARGET", str(own / "dataset.json"))
    before = run().facts("target")["content"]
    one, two, *_ = sorted((own / "imagesTr").iterdir())
    one.write_bytes(two.read_bytes())
    with pytest.warns(UserWarning, match="shows the same image"):
        assert run().facts("target")["content"] != before


def test_labels_that_are_left_over_on_both_sides_are_told(monkeypatch, tmp_path):
    monkeypatch.setenv("PRR_TARGET", boxes(tmp_path / "one", {"left lobe": 1, "tumour": 2}))
    monkeypatch.setenv("PRR_OTHER1", boxes(tmp_path / "two", {"Left_Lobe": 1, "tumor": 2}))
    with pytest.warns(UserWarning, match=r'no tumour, as the target has; its tumor counts.*such as "tumour=1"'):
        assert run().slices("t1").masks.unique().tolist() == [0, 1]


def test_a_data_root_names_a_place_once(shapes, tmp_path):
    for name in ("target", "acdc"):
        shutil.copytree(shapes, tmp_path / name)
    with pytest.raises(DataError, match=r"acdc: expected one data set for this place, found .*target too; remove one"):
        given(tmp_path)


def test_a_data_root_may_use_either_name(shapes, tmp_path):
    shutil.copytree(shapes, tmp_path / "target")
    found = given(tmp_path)
    assert (places(found), found["acdc"].layout) == (("acdc",), "nnunet")
    assert run(data_root=tmp_path).title("acdc") == "Shapes"


@pytest.mark.parametrize("name", ["other3", "ACDC", ""])
def test_an_unknown_place_is_refused_by_name(name):
    with pytest.raises(OptionError, match=f"data set '{name}': expected one of acdc, t1, rvsc"):
        run().data(name)


def test_any_layout_can_stand_in_any_place(monkeypatch, phantoms):
    monkeypatch.setenv("PRR_OTHER2", str(phantoms / "acdc"))
    monkeypatch.setenv("PRR_TARGET", str(phantoms / "rvsc"))
    swapped = run()
    assert [swapped.title(place) for place in PLACES] == ["RVSC", "T1", "ACDC"]
    assert set(LAYOUTS) == {"acdc", "t1", "rvsc", "nnunet"}
