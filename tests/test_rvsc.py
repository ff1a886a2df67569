import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from matplotlib.path import Path as Polygon

from prr.data import check, read_rvsc, split
from prr.errors import DataError


@pytest.fixture
def rvsc(phantom_root: Path, tmp_path: Path) -> Path:
    """A copy of one patient of each set that a test may damage."""
    for patient in ("TrainingSet/patient01", "Test1Set/patient17"):
        shutil.copytree(phantom_root / "rvsc" / patient, tmp_path / patient)
    return tmp_path


def contours(root: Path, patient: int = 1) -> list[Path]:
    return sorted(root.rglob(f"P{patient:02d}-*-icontour-manual.txt"))


def ed_then_es(paths: list[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: int(path.name[4:8]) % 20 > 0)


def test_masks_are_those_that_pydicom_and_matplotlib_give(phantom_root):
    root = phantom_root / "rvsc"
    spacing = [float(pydicom.dcmread(next(root.rglob(f"P0{k}-*.dcm"))).PixelSpacing[0]) for k in (1, 2)]
    for patient in (1, 2):
        options = {"size": 256, "spacing_mm": spacing[patient - 1], "normalise": "unit"}
        data = read_rvsc(root, progress=False, **options)
        masks = data.masks[data.patient == patient].numpy()
        images = data.images[data.patient == patient, 0].numpy()
        paths = ed_then_es(contours(root, patient))
        assert len(masks) == len(paths) > 8
        for k, path in enumerate(paths):
            dicom = path.parent.parent / f"P{patient:02d}dicom" / f"{path.name[:8]}.dcm"
            pixels = pydicom.dcmread(dicom).pixel_array
            height, width = pixels.shape
            assert {height, width} == {256, 216}
            rows, columns = np.mgrid[:height, :width]
            centres = np.column_stack([columns.ravel(), rows.ravel()])
            inside = Polygon(np.loadtxt(path)).contains_points(centres)
            top, left = (256 - height) // 2, (256 - width) // 2
            kept = masks[k][top : top + height, left : left + width]
            assert ((kept == 1) != inside.reshape(height, width)).sum() <= 2
            assert set(np.unique(masks[k])) == {0, 1}
            image = images[k][top : top + height, left : left + width]
            assert np.corrcoef(image.ravel(), pixels.ravel())[0, 1] > 0.9999


def test_the_papers_split_is_by_set(phantom_root):
    data = read_rvsc(phantom_root / "rvsc", progress=False)
    assert data.train.patient.unique().tolist() == [1, 2]
    assert data.validation.patient.unique().tolist() == [17, 18]
    assert (data.name, data.phantom) == ("RVSC", True)


def test_without_a_test_set_half_of_the_patients_are_held_out(phantom_root, tmp_path):
    shutil.copytree(phantom_root / "rvsc/TrainingSet", tmp_path / "TrainingSet")
    for root in (tmp_path, tmp_path / "TrainingSet"):
        assert read_rvsc(root, progress=False).held_out == split([1, 2], seed=0)


def test_each_phase_of_a_patient_is_a_volume(phantom_root):
    data = read_rvsc(phantom_root, progress=False)
    paths = contours(phantom_root, 1)
    ed = sum(int(path.name[4:8]) % 20 == 0 for path in paths)
    volumes = data.images[data.patient == 1].split([ed, len(paths) - ed])
    for volume in volumes:
        assert abs(volume.mean()) < 1e-4
        assert abs(volume.std(correction=0) - 1) < 1e-4


def test_check_counts_what_is_there_and_names_what_is_not(rvsc):
    found = check(rvsc)
    assert (found.name, len(found.patients), found.volumes, sorted(found.areas)) == ("RVSC", 2, 4, [0, 1])
    assert found.refused == []
    assert found.slices == len(list(rvsc.rglob("*-icontour-manual.txt")))
    gone = contours(rvsc)[3]
    gone.unlink()
    found = check(rvsc)
    assert [str(gone) in line for line in found.refused] == [True]
    assert found.volumes == 3


def test_an_image_with_an_outer_contour_alone_is_left_out(rvsc):
    whole = read_rvsc(rvsc, progress=False)
    listing = rvsc / "TrainingSet/patient01/P01list.txt"
    first, *rest = listing.read_text().splitlines()
    assert "icontour" in first
    assert "ocontour" in rest[0]
    listing.write_text("\n".join(rest))
    assert len(read_rvsc(rvsc, progress=False)) == len(whole) - 1


def test_contours_may_lie_in_a_folder_of_their_set(rvsc):
    expected = read_rvsc(rvsc, progress=False)
    for place in ("Test1SetContours", "Test1Set/Test1SetContours"):
        (rvsc / place).mkdir()
        moved = next(rvsc.rglob("P17contours-manual")).rename(rvsc / place / "P17contours-manual")
        assert (read_rvsc(rvsc, progress=False).masks == expected.masks).all()
        assert moved.is_dir()


def test_dicom_files_may_lack_their_extension_or_shout(rvsc):
    expected = read_rvsc(rvsc, progress=False)
    for k, path in enumerate(sorted(rvsc.rglob("*.dcm"))):
        path.rename(path.with_suffix((".DCM", "")[k % 2]))
    assert (read_rvsc(rvsc, progress=False).images == expected.images).all()


def damage(path: Path, how: str) -> None:
    match how:
        case "gone":
            path.unlink()
        case "truncated":
            path.write_bytes(path.read_bytes()[:3000])
        case "a web page":
            path.write_text("<html>404</html>")
        case "empty":
            path.write_bytes(b"")


@pytest.mark.parametrize("how", ["gone", "truncated", "a web page", "empty"])
def test_a_broken_image_is_named(rvsc, how):
    path = sorted((rvsc / "TrainingSet").rglob("*.dcm"))[4]
    damage(path, how)
    with pytest.raises(DataError, match=path.name):
        read_rvsc(rvsc, progress=False)


def edit(path: Path, **tags) -> None:
    data = pydicom.dcmread(path)
    for name, value in tags.items():
        if value is None:
            delattr(data, name)
        else:
            setattr(data, name, value)
    data.save_as(path)


@pytest.mark.filterwarnings("ignore:The pixel data length")
@pytest.mark.parametrize(("tags", "message"), [
    ({"PixelSpacing": None}, "pixel spacing"),
    ({"PixelSpacing": [0, 0.7]}, "0.1 to 10 mm"),
    ({"PixelSpacing": [1.5, 1.5]}, "as in P01"),
    ({"PixelData": None}, "DICOM image"),
    ({"Rows": 100}, "DICOM image|as in P01"),
])  # fmt: skip
def test_wrong_headers_are_refused_by_name(rvsc, tags, message):
    path = sorted((rvsc / "TrainingSet").rglob("*.dcm"))[4]
    edit(path, **tags)
    with pytest.raises(DataError, match=message) as caught:
        read_rvsc(rvsc, progress=False)
    assert path.name in str(caught.value)


@pytest.mark.parametrize(("text", "message"), [
    ("", "3 points"),
    ("1 2\n3 4\n", "3 points"),
    ("1 2 3\n4 5 6\n7 8 9\n", "`x y` each"),
    ("1 2\n3\n4 5\n", "contour"),
    ("<html>\n", "contour"),
    ("10 10\n900 10\n10 30\n", "found x 10 to 900"),
    ("10 10\n20 -5\n10 30\n", "y -5 to 30"),
    ("10 10\nnan 20\n30 30\n", "within the image"),
])  # fmt: skip
def test_wrong_contours_are_refused_by_name(rvsc, text, message):
    path = contours(rvsc)[0]
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_rvsc(rvsc, progress=False)
    assert path.name in str(caught.value)


def test_a_missing_contour_or_list_is_named(rvsc):
    path = contours(rvsc, 17)[0]
    path.unlink()
    with pytest.raises(DataError, match=r"icontour-manual\.txt: expected a contour"):
        read_rvsc(rvsc, progress=False)
    listing = rvsc / "Test1Set/patient17/P17list.txt"
    listing.unlink()
    with pytest.raises(DataError, match="P17list"):
        read_rvsc(rvsc, progress=False)


def test_paths_in_a_list_lead_nowhere_but_to_the_patients_folder(rvsc, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "P01-0999-icontour-manual.txt"
    outside.write_text("10 10\n20 10\n20 20\n")
    listing = rvsc / "TrainingSet/patient01/P01list.txt"
    honest = read_rvsc(rvsc, progress=False)
    lines = listing.read_text().replace(".\\patient01", "..\\..\\..\\secret")
    listing.write_text(lines.replace("P01contours-manual", "C:"))
    assert (read_rvsc(rvsc, progress=False).masks == honest.masks).all()  # the names are right: found at home
    dicom = sorted(listing.parent.rglob("*.dcm"))[0]
    shutil.copy(dicom, dicom.with_name("P01-0999.dcm"))
    listing.write_text(f"{outside}\n")  # only the contour is missing at home
    with pytest.raises(DataError, match=outside.name) as caught:
        read_rvsc(rvsc, progress=False)
    assert str(outside.parent) not in str(caught.value)


@pytest.mark.parametrize(
    "line", ["..\\..\\etc\\passwd", "P02-0080-icontour-manual.txt", "P01-0080-xcontour-manual.txt", ".."]
)
def test_strange_names_in_a_list_are_refused(rvsc, line):
    (rvsc / "TrainingSet/patient01/P01list.txt").write_text(line + "\r\n")
    with pytest.raises(DataError, match="expected names like P01-0080"):
        read_rvsc(rvsc, progress=False)


def test_folders_that_are_not_rvsc_are_refused(tmp_path, phantom_root):
    patient = phantom_root / "rvsc/Test1Set/patient17"
    (tmp_path / "strange/TrainingSet/patients").mkdir(parents=True)
    for wrong in (tmp_path, tmp_path / "absent", tmp_path / "strange", phantom_root / "acdc", patient):
        with pytest.raises(DataError, match="PRR_RVSC"):
            read_rvsc(wrong, progress=False)


def test_a_patient_in_both_sets_is_refused(phantom_root, tmp_path):
    for subset in ("TrainingSet", "Test1Set"):
        shutil.copytree(phantom_root / "rvsc/TrainingSet", tmp_path / subset)
    with pytest.raises(DataError, match="expected one folder for each patient"):
        read_rvsc(tmp_path, progress=False)


def test_names_may_shout_and_texts_may_have_a_mark_of_order(rvsc, tmp_path_factory):
    expected = read_rvsc(rvsc, progress=False)
    root = tmp_path_factory.mktemp("other")
    for path in sorted(rvsc.rglob("*")):
        if path.is_file():
            copy = root / "data" / str(path.relative_to(rvsc)).upper()
            copy = copy.with_suffix(".IMA") if path.suffix == ".dcm" else copy
            copy.parent.mkdir(parents=True, exist_ok=True)
            text = path.suffix == ".txt"
            copy.write_bytes(path.read_text().encode("utf-8-sig") if text else path.read_bytes())
    found = read_rvsc(root, progress=False)
    assert torch.equal(found.images, expected.images)
    assert torch.equal(found.masks, expected.masks)
    assert found.held_out == expected.held_out == (17,)


def test_other_sets_are_left_aside_and_told(rvsc):
    shutil.copytree(rvsc / "Test1Set", rvsc / "Test2Set")
    with pytest.warns(UserWarning, match=r"read TrainingSet, Test1Set, and not Test2Set$"):
        assert read_rvsc(rvsc, progress=False).held_out == (17,)


def test_a_picture_is_the_same_whatever_way_it_was_stored(rvsc):
    expected = read_rvsc(rvsc, progress=False)
    for k, path in enumerate(sorted(rvsc.rglob("*.dcm"))):
        data = pydicom.dcmread(path)
        stored = data.pixel_array
        match k % 3:
            case 0:
                stored, data.RescaleSlope, data.RescaleIntercept = 2 * stored + 6, 0.5, -3
            case 1:
                stored, data.RescaleSlope, data.RescaleIntercept = 65535 - stored, -1, 65535
            case 2:
                stored, data.PhotometricInterpretation = 65535 - stored, "MONOCHROME1"
        data.PixelData = stored.astype("<u2").tobytes()
        data.save_as(path)
    assert torch.equal(read_rvsc(rvsc, progress=False).images, expected.images)


def test_what_a_header_lacks_is_told_once(rvsc):
    for path in rvsc.rglob("*.dcm"):
        data = pydicom.dcmread(path)
        data.ImagerPixelSpacing = data.PixelSpacing
        del data.PixelSpacing
        data.save_as(path)
    with pytest.warns(UserWarning, match="ImagerPixelSpacing is taken") as told:
        read_rvsc(rvsc, progress=False)
    assert len(told) == 1
    assert str(told[0].message).endswith("(and so in 3 more)")
