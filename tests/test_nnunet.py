"""Data sets in nnU-Net's layout and as lists: what is read, how labels are numbered, what is refused."""

import json
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
import tifffile
import torch
from PIL import Image

from prr.data import read_nnunet, write_shapes
from prr.errors import DataError, OptionError

# several tests read one case alone, and that is told
pytestmark = pytest.mark.filterwarnings("ignore:.*expected two patients or more:UserWarning")
NAMES = {"background": 0, "one": 1, "two": 2, "three": 3}


def volume(number: int, shape=(20, 24, 3), labels=(1, 2, 3)) -> tuple[np.ndarray, np.ndarray]:
    """An image and a mask (x, y, z) with a box for each label."""
    rng = np.random.default_rng(number)
    mask = np.zeros(shape, np.uint8)
    for place, label in enumerate(labels):
        mask[3 + 5 * place : 7 + 5 * place, 4 + number : 12 + number] = label
    return rng.normal(100, 5, shape) + 40 * mask, mask


def save(path: Path, values: np.ndarray, zooms=(2.0, 2.0, 8.0)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, np.diag([*zooms, 1.0])), path)


def nnunet(root: Path, cases=("a", "b", "c"), channels=1, labels=NAMES, **about) -> Path:
    """Volumes in nnU-Net's layout, second version."""
    for number, case in enumerate(cases):
        image, mask = volume(number)
        for channel in range(channels):
            save(root / f"imagesTr/{case}_{channel:04d}.nii.gz", (image * (channel + 1)).astype(np.float32))
        save(root / f"labelsTr/{case}.nii.gz", mask)
    names = {str(channel): f"channel {channel}" for channel in range(channels)}
    stated = {"channel_names": names, "labels": labels, "numTraining": len(cases), "file_ending": ".nii.gz"} | about
    (root / "dataset.json").write_text(json.dumps(stated))
    return root


def read(root: Path, **options):
    return read_nnunet(root, **{"size": 24, "spacing_mm": 2.0, "progress": False} | options)


def test_volumes_come_as_slices_with_the_labels_of_the_json(tmp_path):
    found = read(nnunet(tmp_path / "Dataset004_Boxes"))
    assert (found.name, found.phantom, len(found)) == ("Boxes", False, 9)
    assert found.labels == {0: "background", 1: "one", 2: "two", 3: "three"}
    _, mask = volume(1)
    own = found.masks[found.patient == 2]
    assert [int((own == label).sum()) for label in (1, 2, 3)] == [int((mask == label).sum()) for label in (1, 2, 3)]
    assert torch.equal(own[0, 2:22], torch.from_numpy(mask[:, :, 0]))  # rows are the first axis


def test_several_channels_are_normalised_each_by_itself(tmp_path):
    found = read(nnunet(tmp_path, channels=2))
    assert found.images.shape == (9, 2, 24, 24)
    own = found.images[found.patient == 1]
    assert torch.allclose(own[:, 0], own[:, 1], atol=1e-4)  # the second is twice the first
    assert own.mean((0, 2, 3)).abs().max() < 1e-5


@pytest.mark.parametrize(("labels", "names", "counts"), [
    ("three=3", {0: "background", 1: "three"}, [3, 0, 0]),
    ("three=3 one=1", {0: "background", 1: "three", 2: "one"}, [3, 1, 0]),
    ("heart=1 heart=2 heart=3", {0: "background", 1: "heart"}, ["all", 0, 0]),
])  # fmt: skip
def test_a_map_chooses_joins_and_orders_labels(tmp_path, labels, names, counts):
    found = read(nnunet(tmp_path, cases=("a",)), labels=labels)
    _, mask = volume(0)
    size = {0: 0, "all": int((mask > 0).sum())} | {each: int((mask == each).sum()) for each in (1, 2, 3)}
    assert found.labels == names
    assert [int((found.masks == label).sum()) for label in (1, 2, 3)] == [size[each] for each in counts]


def test_an_ignored_label_is_no_class(tmp_path):
    found = read(nnunet(tmp_path, labels={"background": 0, "one": 1, "two": 2, "ignore": 3}))
    assert (found.labels, found.ignore) == ({0: "background", 1: "one", 2: "two"}, 255)
    assert found.masks.unique().tolist() == [0, 1, 2, 255]


def test_patients_and_splits_are_the_data_sets_own(tmp_path):
    root = nnunet(tmp_path, cases=("a1", "a2", "b1", "c1"))
    (root / "patients.csv").write_bytes(b"\xef\xbb\xbfcase,patient\r\na1,a\r\na2,a\r\nb1,b\r\nc1,c\r\n")
    (root / "splits_final.json").write_text(json.dumps([{"train": ["a1", "a2", "c1"], "val": ["b1"]}]))
    found = read(root)
    assert found.patient.unique().tolist() == [1, 2, 3]
    assert found.validation.patient.unique().tolist() == [2]
    assert len(found.train) == 9


def test_a_patient_on_both_sides_is_refused(tmp_path):
    root = nnunet(tmp_path, cases=("a1", "a2", "b1"))
    (root / "patients.csv").write_text("case,patient\na1,a\na2,a\nb1,b\n")
    (root / "splits_final.json").write_text(json.dumps([{"train": ["a1", "b1"], "val": ["a2"]}]))
    with pytest.raises(DataError, match=r"splits_final.json.*trained on or held out, found one in both.*a1, a2"):
        read(root)


def test_a_list_of_images_and_labels_is_the_second_form(tmp_path):
    (image, mask), lists, images = volume(0), {"training": [], "validation": []}, tmp_path / "imagesTr"
    images.mkdir()
    for case, part in (("x", "training"), ("y", "training"), ("z", "validation")):
        both = np.stack([image + ord(case), image**2], -1).astype(np.float32)
        nib.save(nib.Nifti1Image(both, np.diag([2.0, 2.0, 8.0, 1.0])), images / f"{case}.nii.gz")
        save(tmp_path / f"labelsTr/{case}.nii.gz", mask)
        lists[part].append({"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"})
    labels = {"0": "background", "1": "A", "2": "B", "3": "C"}
    about = {"name": "Lists", "modality": {"0": "T1", "1": "T2"}, "labels": labels}
    (tmp_path / "dataset.json").write_text(json.dumps(about | lists))
    found = read(tmp_path)
    assert (found.name, found.images.shape[1]) == ("Lists", 2)
    assert list(found.labels.values()) == ["background", "A", "B", "C"]
    assert found.validation.patient.unique().tolist() == [3]


def test_pictures_of_drawn_shapes_are_seen_whole(tmp_path):
    found = read_nnunet(write_shapes(tmp_path / "Dataset001_Shapes", cases=6, classes=4), size=48)
    assert (len(found), found.phantom, found.spacing_mm) == (6, True, 2.0)
    assert list(found.labels.values()) == ["background", "disc", "square", "triangle"]
    assert found.masks.flatten(1).amax(1).tolist() == [3] * 6
    assert (found.masks[:, :4] == 0).all()  # 80 rows of 96: padded


def test_colour_pictures_have_three_channels_and_palettes_are_labels(tmp_path):
    rng = np.random.default_rng(0)
    for case in ("a", "b"):
        for place in ("imagesTr", "labelsTr"):
            (tmp_path / place).mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(tmp_path / f"imagesTr/{case}_0000.png")
        mask = Image.fromarray((np.arange(256) % 3).reshape(16, 16).astype(np.uint8), mode="P")
        mask.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
        mask.save(tmp_path / f"labelsTr/{case}.png")
    about = {"channel_names": dict(enumerate("RGB")), "labels": {"bg": 0, "x": 1, "y": 2}, "file_ending": ".png"}
    (tmp_path / "dataset.json").write_text(json.dumps(about))
    found = read_nnunet(tmp_path, size=16, progress=False)
    assert found.images.shape == (2, 3, 16, 16)
    assert found.masks.unique().tolist() == [0, 1, 2]


def test_tiff_stacks_take_their_spacing_from_the_json_beside_them(tmp_path):
    image, mask = (values.transpose(2, 0, 1) for values in volume(0))
    for place in ("imagesTr", "labelsTr"):
        (tmp_path / place).mkdir()
    for case in ("pat.1", "pat.2"):
        tifffile.imwrite(tmp_path / f"imagesTr/{case}_0000.tif", image.astype(np.float32), photometric="minisblack")
        tifffile.imwrite(tmp_path / f"labelsTr/{case}.tif", mask, photometric="minisblack")
        image = image + 1.0 * mask
        for place in ("imagesTr", "labelsTr"):
            (tmp_path / place / f"{case}.json").write_text(json.dumps({"spacing": [8, 2, 2]}))
    about = {"channel_names": {"0": "x"}, "labels": NAMES, "file_ending": ".tif"}
    (tmp_path / "dataset.json").write_text(json.dumps(about))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read(tmp_path)
    assert torch.equal(found.masks[:3, 2:22], torch.from_numpy(mask))
    assert torch.equal(found.masks[3:], found.masks[:3])


@pytest.mark.parametrize("ending", [".mha", ".nrrd"])
def test_other_formats_are_read_by_simpleitk(tmp_path, ending):
    image, mask = (values.transpose(2, 0, 1) for values in volume(0))
    for place, name, values in (("imagesTr", "a_0000", image), ("labelsTr", "a", mask)):
        (tmp_path / place).mkdir()
        stored = SimpleITK.GetImageFromArray(values)
        stored.SetSpacing((2.0, 2.5, 8.0))  # x, y, z
        SimpleITK.WriteImage(stored, str(tmp_path / place / f"{name}{ending}"))
    about = {"channel_names": {"0": "x"}, "labels": NAMES, "file_ending": ending}
    (tmp_path / "dataset.json").write_text(json.dumps(about))
    found = read(tmp_path)
    assert found.images.shape == (3, 1, 24, 24)
    assert int((found.masks == 1).sum()) == pytest.approx((mask == 1).sum() * 2.5 / 2, rel=0.2)  # rows 2.5 mm apart


@pytest.mark.parametrize("along", [0, 1])
def test_a_volume_of_simpleitk_is_cut_along_its_widest_spacing(tmp_path, along):
    image, mask = (values.transpose(2, 0, 1) for values in volume(0))
    spacing, found = np.array([2.0, 2.0, 8.0]), []
    for axis in (2, along):  # x, y, z
        root = tmp_path / str(axis)
        for place, name, values in (("imagesTr", "a_0000", image), ("labelsTr", "a", mask)):
            (root / place).mkdir(parents=True)
            stored = SimpleITK.GetImageFromArray(np.swapaxes(values, 0, 2 - axis))
            turned = spacing.copy()
            turned[[axis, 2]] = spacing[[2, axis]]
            stored.SetSpacing(turned.tolist())
            SimpleITK.WriteImage(stored, str(root / place / f"{name}.nrrd"))
        (root / "dataset.json").write_text(json.dumps({"labels": NAMES, "file_ending": ".nrrd"}))
        found.append(read(root))
    assert torch.equal(found[0].images, found[1].images)
    assert torch.equal(found[0].masks, found[1].masks)


@pytest.mark.parametrize("change", [
    lambda mask: mask.SetDirection((1, 0, 0, 0, -1, 0, 0, 0, 1)),
    lambda mask: mask.SetOrigin((0, 40, 0)),
    lambda mask: mask.SetSpacing((2, 2, 4)),
])  # fmt: skip
def test_a_mask_of_simpleitk_that_lies_elsewhere_is_refused(tmp_path, change):
    image, mask = (SimpleITK.GetImageFromArray(values.transpose(2, 0, 1)) for values in volume(0))
    image.SetSpacing((2, 2, 8))
    mask.SetSpacing((2, 2, 8))
    change(mask)
    for path, stored in ((tmp_path / "imagesTr/a_0000.mha", image), (tmp_path / "labelsTr/a.mha", mask)):
        path.parent.mkdir()
        SimpleITK.WriteImage(stored, str(path))
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": NAMES, "file_ending": ".mha"}))
    with pytest.raises(DataError, match=r"a.mha: expected the spacing, directions and origin of a_0000.mha"):
        read(tmp_path)


def without(place: str):
    return lambda root: next((root / place).glob("b*")).unlink()


def rewritten(**about):
    def change(root):
        path = root / "dataset.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | about))

    return change


def with_label(values: np.ndarray):
    return lambda root: save(root / "labelsTr/b.nii.gz", values)


def with_text(name: str, text: str):
    return lambda root: (root / name).write_text(text)


@pytest.mark.parametrize(("change", "message"), [
    (lambda root: (root / "dataset.json").unlink(), r"expected dataset.json, as nnU-Net lays out.*found none"),
    (with_text("dataset.json", "{"), r"dataset.json: expected a JSON object"),
    (with_text("dataset.json", "[]"), r"dataset.json: expected an object, found list"),
    (without("labelsTr"), r"expected an image and a label for each case, found b in imagesTr and not in labelsTr"),
    (without("imagesTr"), r"expected an image and a label for each case, found b in labelsTr and not in imagesTr"),
    (rewritten(channel_names={"0": "a", "1": "b"}), r"a_0000.nii.gz: expected 2 channels, as.*found 1"),
    (rewritten(labels={"background": 0, "one": 1}), r"labelsTr/a.nii.gz: expected labels \[0, 1\].*found \[2, 3\]"),
    (rewritten(labels={"background": 0, "whole": [1, 2, 3], "one": [1]}), r"one value each.*regions are not supported"),
    (rewritten(labels={"background": 0, "a": 1, "b": 1}), r"one value each"),
    (rewritten(labels={}), r"expected labels, found none; name the values yourself"),
    (rewritten(file_ending=None), r"expected a file_ending such as"),
    (with_label(np.zeros((20, 24, 4), np.uint8)), r"labelsTr/b.nii.gz: .*\(20, 24, 3\).*\(20, 24, 4\)"),
    (with_text("patients.csv", "case,patient\na,1\n"), r"patients.csv: expected the patient of each case.* b"),
    (with_text("patients.csv", "a;1\n"), r"patients.csv: expected columns case and patient"),
    (with_text("splits_final.json", '[{"train": ["a"], "val": ["q"]}]'), r"splits_final.json: expected cases.*found q"),
    (with_text("splits_final.json", "[]"), r"splits_final.json: expected a list of"),
    (with_text("labelsTr/b.nii.gz", "nothing"), r"labelsTr/b.nii.gz: expected"),
])  # fmt: skip
def test_what_is_wrong_is_one_line_with_the_file(tmp_path, change, message):
    root = nnunet(tmp_path / "Dataset004_Boxes")
    change(root)
    with pytest.raises(DataError, match=message) as told:
        read(root)
    assert "\n" not in str(told.value)


def test_a_label_file_without_a_label_is_told(tmp_path):
    root = nnunet(tmp_path)
    save(root / "labelsTr/b.nii.gz", np.zeros((20, 24, 3), np.uint8))
    with pytest.warns(UserWarning, match="b_0000.nii.gz: expected some of the labels one, two, three, found none"):
        read(root)


def test_a_folder_of_several_sets_names_them(tmp_path):
    nnunet(tmp_path / "Dataset001_A")
    nnunet(tmp_path / "Dataset002_B")
    with pytest.raises(DataError, match="name one of Dataset001_A, Dataset002_B"):
        read(tmp_path)


def test_a_map_that_is_none_is_refused(tmp_path):
    with pytest.raises(OptionError, match="expected NAME=VALUE"):
        read(nnunet(tmp_path), labels="three")


def test_shapes_are_written_into_an_empty_folder_alone(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="expected an empty folder or none"):
        write_shapes(tmp_path)
    with pytest.raises(OptionError, match="2 to 4 classes"):
        write_shapes(tmp_path / "new", classes=5)


def decathlon(root: Path, **about) -> Path:
    """The volumes of `nnunet`, listed as the Decathlon lists them."""
    training = [{"image": f"./imagesTr/{case}_0000.nii.gz", "label": f"./labelsTr/{case}.nii.gz"} for case in "abc"]
    nnunet(root)
    labels = {"0": "background", "1": "one", "2": "two", "3": "three"}
    stated = {"modality": {"0": "CT"}, "labels": labels, "training": training, "test": ["./imagesTs/d.nii.gz"]}
    (root / "dataset.json").write_text(json.dumps(stated | {"numTraining": 3, "numTest": 1} | about))
    return root


def hide(root):
    for place in ("imagesTr/._a_0000.nii.gz", "labelsTr/._a.nii.gz", "labelsTr/.DS_Store"):
        (root / place).write_bytes(b"Mac OS X")


def shout(root):
    for path in [*root.glob("*Tr/*")]:
        path.rename(path.with_name(path.name.replace(".nii.gz", ".NII.GZ")))


@pytest.mark.parametrize("change", [
    hide,
    shout,
    rewritten(file_ending="nii.gz"),
    rewritten(channel_names=["CT"]),
    rewritten(dataset="Boxes"),
    rewritten(labels={"background": "0", "one": "1", "two": 2.0, "three": [3]}),
    lambda root: (root / "dataset.json").write_bytes((root / "dataset.json").read_text().encode("utf-16")),
    lambda root: decathlon(root),
    lambda root: decathlon(root, training=[
        {"image": f".\\imagesTr\\{case}.nii.gz", "label": f".\\labelsTr\\{case}.nii.gz"} for case in "abc"
    ]),
    rewritten(dataset={
        case: {"images": [f"imagesTr/{case}_0000.nii.gz"], "label": f"labelsTr/{case}.nii.gz"} for case in "abc"
    }),
])  # fmt: skip
def test_what_is_plainly_meant_is_read(tmp_path, change):
    expected, root = read(nnunet(tmp_path / "as_told")), nnunet(tmp_path / "as_found")
    change(root)
    found = read(root)
    assert found.labels == expected.labels
    assert torch.equal(found.images, expected.images)
    assert torch.equal(found.masks, expected.masks)


@pytest.mark.parametrize("form", ["scan_{}.1", "{}/seg"])
def test_cases_are_told_apart_by_all_of_their_names(tmp_path, form):
    root, training = decathlon(tmp_path), []
    for case in "abc":
        label = root / f"{form.format(case)}.nii.gz"
        label.parent.mkdir(exist_ok=True)
        (root / f"labelsTr/{case}.nii.gz").rename(label)
        training.append({"image": f"imagesTr/{case}_0000.nii.gz", "label": str(label)})
    rewritten(training=training)(root)
    (root / "patients.csv").write_text("case,patient\n" + "".join(f"{form.format(case)},{case}\n" for case in "abc"))
    assert read(root).patient.unique().tolist() == [1, 2, 3]


def test_the_first_fold_of_a_list_validates(tmp_path):
    root = decathlon(tmp_path)
    training = json.loads((root / "dataset.json").read_text())["training"]
    rewritten(
        training=[{**each, "fold": fold} for each, fold in zip(training, (1, 0, 2), strict=True)],
        validation=[{"image": "imagesTr/d.nii.gz", "label": None}],
    )(root)
    assert read(root).validation.patient.unique().tolist() == [2]


def test_channels_that_the_first_version_does_not_list_are_found(tmp_path):
    root, expected = nnunet(tmp_path / "a", channels=2), read(nnunet(tmp_path / "b", channels=2))
    training = [{"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"} for case in "abc"]
    rewritten(training=training)(root)
    assert torch.equal(read(root).images, expected.images)


@pytest.mark.parametrize(("table", "patients"), [
    ("case;patient\na;1\nb;1\nc;2\n", [1, 2]),
    ("Age,Patient,Case\n31,NA,a\n31,NA,b\n40,x,c\n", [1, 2]),
    ("case,patient\na,1\na,1\nb,2\nc,3\nz,4\n\n", [1, 2, 3]),
])  # fmt: skip
def test_tables_of_patients_as_they_come(tmp_path, table, patients):
    root = nnunet(tmp_path)
    (root / "patients.csv").write_text(table)
    assert read(root).patient.unique().tolist() == patients


def renamed(old: str, new: str):
    return lambda root: (root / old).rename(root / new)


@pytest.mark.parametrize(("change", "message"), [
    (rewritten(labels=["background", "one"]), r'expected labels {"NAME": value, ...}, found \[.background'),
    (rewritten(labels={"background": 3, "one": 1, "two": 2}), r"dataset.json: expected 0 as background, found 3"),
    (rewritten(labels={**NAMES, "ignore": 3}), r"one value each"),
    (rewritten(labels={str(value): f"n{value}" for value in range(300)}), r"expected 254 labels at most, found 299"),
    (rewritten(channel_names="CT"), r'expected channel_names {"0": NAME, ...}, found .CT'),
    (rewritten(file_ending=".nii"), r"imagesTr/CASE_0000.nii and labelsTr/CASE.nii, found none; correct file_ending"),
    (rewritten(training=[{"image": None, "label": "a"}]), r"expected training: .*found {'image': None"),
    (rewritten(training=[{"image": [], "label": "a"}]), r"expected training: .*found {'image': \[\]"),
    (rewritten(training=["a"]), r"expected training: .*found 'a'"),
    (rewritten(training=[]), r"dataset.json: expected cases with labels, found none"),
    (renamed("imagesTr/b_0000.nii.gz", "imagesTr/b_0001.nii.gz"), r"b_0001.nii.gz: expected channels.*found \[1\]"),
    (renamed("imagesTr/b_0000.nii.gz", "imagesTr/b.nii.gz"), r"found b in labelsTr.*files are imagesTr/CASE_0000"),
    (with_text("patients.csv", "case,patient\na,1\na,2\n"), r"patients.csv: .*one patient for each.*1 and 2 of a"),
    (with_text("patients.csv", "case,patient\na,1\nb,\nc\n"), r"patients.csv: expected the patient of each.* b"),
    (with_text("splits_final.json", '[{"train": ["a", "b"], "val": ["b"]}]'), r"in train or in val, found b in both"),
    (with_text("splits_final.json", '[{"train": ["a", "b"], "val": []}]'), r"expected cases in train and in val"),
    (with_text("splits_final.json", '[{"train": "ab", "val": "c"}]'), r"expected cases in train and in val"),
])  # fmt: skip
def test_what_would_give_wrong_numbers_is_refused(tmp_path, change, message):
    root = nnunet(tmp_path / "Dataset004_Boxes")
    change(root)
    with pytest.raises(DataError, match=message) as told:
        read(root)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(("change", "message", "patients"), [
    (with_text("splits_final.json", '[{"train": ["a"], "val": ["b"]}]'), "1 cases left out, which splits.*: c", 2),
    (with_text("splits_final.pkl", ""), "splits_final.pkl is of nnU-Net's first version, and not read", 3),
    (rewritten(numTraining=9), "expected 9 cases, numTraining of dataset.json, found 3", 3),
    (rewritten(labels={"none": 0, "one": 1, "two": 2, "three": 3}), "none, 0 in label files, counts as background", 3),
    (with_text("patients.csv", "case,patient\na,1\nb,1\nc,1\n"), "expected two patients or more", 1),
])  # fmt: skip
def test_what_a_reader_can_not_know_is_told(tmp_path, change, message, patients):
    root = nnunet(tmp_path)
    change(root)
    with pytest.warns(UserWarning, match=message):
        found = read(root)
    assert len(found.patient.unique()) == patients


@pytest.mark.parametrize(("labels", "names", "ignore"), [
    ("left lobe=1, right lobe = 2", ["left lobe", "right lobe"], None),
    ("background=0 one=1 background=2", ["one"], None),
    ("one=1 ignore=3", ["one"], 255),
    ({"one": 1, "two": 255}, ["one", "two"], None),
])  # fmt: skip
def test_a_map_is_read_as_people_write_it(tmp_path, labels, names, ignore):
    found = read(nnunet(tmp_path, labels={"background": 0, "whole": [1, 2, 3], "core": [2, 3]}), labels=labels)
    assert ([*found.labels.values()][1:], found.ignore) == (names, ignore)


def test_a_mapped_label_is_counted_even_if_the_json_ignores_it(tmp_path):
    found = read(nnunet(tmp_path, labels={"background": 0, "one": 1, "two": 2, "Ignore": 3}), labels="three=3")
    assert (found.labels, found.ignore) == ({0: "background", 1: "three"}, None)
    assert (found.masks == 1).any()


def pictures(root: Path, drawn=lambda grey: grey, labelled=lambda mask: mask, ending=".png", labels=NAMES) -> Path:
    """Slices of the volumes as pictures."""
    for number, case in enumerate("ab"):
        image, mask = (values[..., 0].astype(np.uint8) for values in volume(number))
        for name, values in ((f"imagesTr/{case}_0000", drawn(image)), (f"labelsTr/{case}", labelled(mask))):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(root / f"{name}{ending}")
    about = {"channel_names": {"0": "grey"}, "labels": labels, "file_ending": ending}
    (root / "dataset.json").write_text(json.dumps(about))
    return root


def opaque(grey):
    return np.stack([grey, np.full_like(grey, 255)], -1)


@pytest.mark.parametrize("options", [
    {"labelled": lambda mask: np.stack([mask] * 3, -1)},
    {"labelled": lambda mask: np.stack([mask] * 3 + [np.full_like(mask, 255)], -1)},
    {"labelled": lambda mask: mask.astype(np.uint16)},
    {"drawn": opaque},
    {"drawn": lambda grey: np.stack([grey] * 3, -1)},
    {"ending": ".gif"},
])  # fmt: skip
def test_pictures_as_programs_save_them(tmp_path, options):
    expected, found = read(pictures(tmp_path / "a")), read(pictures(tmp_path / "b", **options))
    assert torch.equal(found.masks, expected.masks)
    assert torch.equal(found.images, expected.images)


def test_a_grey_palette_is_no_list_of_labels(tmp_path):
    root = pictures(tmp_path, labelled=lambda mask: 2 * np.minimum(mask, 1), ending=".gif")  # stores 0 and 1
    assert read(root).masks.unique().tolist() == [0, 2]


def test_masks_of_0_and_255_are_named_by_a_map(tmp_path):
    root = pictures(tmp_path, labelled=lambda mask: 255 * (mask > 0).astype(np.uint8), labels={"background": 0, "x": 1})
    with pytest.raises(DataError, match=r"a.png: expected labels \[0, 1\].*found \[255\]; name the values yourself"):
        read(root)
    assert read(root, labels="x=255").masks.unique().tolist() == [0, 1]


@pytest.mark.parametrize(("options", "message"), [
    ({"ending": ".jpg"}, "a.jpg: expected labels as they were drawn, found JPEG"),
    ({"labelled": lambda mask: np.stack([mask, mask, 0 * mask], -1)}, "a.png: expected one label a pixel, found 3"),
])  # fmt: skip
def test_pictures_that_are_no_masks_are_refused(tmp_path, options, message):
    with pytest.raises(DataError, match=message):
        read(pictures(tmp_path, **options))


def test_of_several_pictures_in_one_file_none_is_taken(tmp_path):
    for ending in (".tif", ".gif"):
        root = pictures(tmp_path / ending, ending=ending)
        pages = [Image.fromarray(np.eye(20, size, k=size % 7, dtype=np.uint8)) for size in (24, 12)]
        pages[0].save(root / f"labelsTr/b{ending}", save_all=True, append_images=pages[1:])
        with pytest.raises(DataError, match=f"b{ending}: expected one .*found 2"):
            read(root)
