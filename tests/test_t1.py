import shutil
import warnings
from pathlib import Path

import h5py
import mat73
import numpy as np
import pytest
import torch
from matplotlib.path import Path as Polygon

from prr.data import check, read_t1, t1
from prr.errors import DataError, OptionError


@pytest.fixture(scope="session")
def stored(phantom_root: Path) -> dict[str, np.ndarray]:
    """The file as public code reads it: mat73, then stacked over patients."""
    struct = mat73.loadmat(phantom_root / "t1" / t1.FILE)["Dataset"]
    return {field: np.stack(cells, axis=0)[:, 0] for field, cells in struct.items()}


@pytest.fixture
def copy(phantom_root: Path, tmp_path: Path) -> Path:
    """A copy of the file that a test may damage."""
    return Path(shutil.copy(phantom_root / "t1" / t1.FILE, tmp_path))


def dataset(file: h5py.File, field: str, patient: int = 1) -> h5py.Dataset:
    return file[file[file["Dataset"][field][()].ravel()[patient - 1]][()].ravel()[0]]


def replace(path: Path, field: str, change, patient: int = 1) -> None:
    """Put another array in a patient's cell."""
    with h5py.File(path, "r+") as file:
        changed = change(dataset(file, field, patient)[()])
        new = file.create_dataset(f"#refs#/new{len(file['#refs#'])}", data=changed)
        cell = file[file["Dataset"][field][()].ravel()[patient - 1]]
        cell[...] = np.array([[new.ref]], dtype=h5py.ref_dtype)


def test_mat73_reads_the_phantom_with_the_shapes_that_public_code_expects(stored):
    assert stored["Img"].shape == (7, 160, 160, 11, 5)
    assert stored["EndoContours"].shape == stored["EpiContours"].shape == (7, 60, 2, 11, 5)
    assert stored["TriggerTime"].shape == (7, 11, 5)
    assert (np.diff(stored["TriggerTime"], axis=1) > 0).all()


def test_images_and_masks_are_those_that_mat73_and_matplotlib_give(phantom_root, stored):
    options = {"size": 160, "spacing_mm": 2.1, "split": "all", "normalise": "unit"}
    data = read_t1(phantom_root / "t1", progress=False, **options)
    assert len(data) == 7 * 55
    rows, columns = np.mgrid[:160, :160]
    centres = np.column_stack([columns.ravel(), rows.ravel()])
    for patient, k, s in [(0, 0, 0), (2, 5, 3), (6, 10, 4)]:
        image = data.images[patient * 55 + s * 11 + k, 0].numpy()
        mask = data.masks[patient * 55 + s * 11 + k].numpy()
        series = stored["Img"][patient].astype(float)
        expected = (series[..., k, s] - series.min()) / (series.max() - series.min())
        assert np.allclose(image, expected, atol=1e-5)
        inside = [Polygon(stored[field][patient, :, :, k, s] - 1).contains_points(centres).reshape(160, 160)
                  for field in ("EpiContours", "EndoContours")]  # fmt: skip
        myocardium = inside[0] & ~inside[1]
        assert set(np.unique(mask)) == {0, 2}
        assert ((mask == 2) != myocardium).sum() <= 2  # a centre on the very line may go either way
        assert myocardium.sum() > 50


def test_pixels_counted_from_0_move_the_mask_by_one(phantom_root):
    options = {"size": 160, "spacing_mm": 2.1, "progress": False}
    one, zero = (read_t1(phantom_root / "t1", first_pixel=first, **options).masks for first in (1, 0))
    assert torch.equal(zero[:, 1:, 1:], one[:, :-1, :-1])


def test_myocardium_follows_the_inversion_recovery(stored):
    """T1 of 1550 ms (blood) and 950 ms (myocardium) turn the contrast around as the inversion time grows."""
    rows, columns = np.mgrid[:160, :160]
    centres = np.column_stack([columns.ravel(), rows.ravel()])
    for patient in range(7):
        inside = [Polygon(stored[field][patient, :, :, 0, 1] - 1).contains_points(centres).reshape(160, 160)
                  for field in ("EpiContours", "EndoContours")]  # fmt: skip
        myocardium = stored["Img"][patient][inside[0] & ~inside[1]][..., 1].mean(0)  # (T,)
        blood = stored["Img"][patient][inside[1]][..., 1].mean(0)
        times = stored["TriggerTime"][patient, :, 1]
        assert 500 < times[myocardium.argmin()] < 1300  # the null of 950 ms: 660 ms, as near as a beat comes
        assert blood[0] > myocardium[0] * 0.9
        late = (times > 1500) & (times < 2200)
        assert myocardium[late].mean() > blood[late].mean() * 0.9
        assert abs(times[-1] - (350 + 4 * 850)) < 1200


def test_the_papers_split_is_first_and_last_in_proportion_and_reads_none_between(phantom_root):
    data = read_t1(phantom_root / "t1", progress=False)
    assert data.train.patient.unique().tolist() == [1, 2]
    assert data.validation.patient.unique().tolist() == [7]
    assert len(data) == 3 * 55
    train, validation = t1.paper_split(210)
    assert (train, validation) == (tuple(range(1, 61)), tuple(range(181, 211)))
    for count in range(2, 211):
        train, validation = t1.paper_split(count)
        assert train
        assert validation
        assert train[-1] < validation[0]
    assert t1.paper_split(1) == ((1,), ())


@pytest.mark.parametrize("below", [".", "t1", f"t1/{t1.FILE}"])
def test_the_folder_or_one_above_it_or_the_file_will_do(phantom_root, below):
    found = check(phantom_root / below, "t1")
    assert (len(found.patients), found.slices, sorted(found.areas), found.refused) == (7, 385, [0, 2], [])
    assert found.phantom


@pytest.mark.parametrize("blank", [np.nan, 0.0])
def test_images_without_a_contour_are_left_out_and_counted(copy, blank):
    def erase(contours):  # (S, T, 2, 60) in the file
        contours[4, 3:] = blank
        return contours

    replace(copy, "EpiContours", erase)
    with pytest.warns(UserWarning, match="left out 8 of 165 images"):
        data = read_t1(copy, progress=False)
    assert len(data) == 165 - 8
    assert (data.masks == 2).any(dim=(1, 2)).all()
    assert check(copy).refused == []
    assert check(copy).told == [f"{copy}: left out 8 of 385 images, which have no contour"]


def test_a_patient_without_a_contour_validates_nothing(copy):
    replace(copy, "EpiContours", lambda contours: contours * np.nan, patient=7)
    with pytest.warns(UserWarning, match="left out 55 of 165 images") as caught:
        assert read_t1(copy, progress=False).held_out == ()
    assert caught[0].filename == __file__  # the caller's line, not one of ours
    for patient in (1, 2):
        replace(copy, "EndoContours", lambda contours: contours * np.nan, patient=patient)
    with pytest.raises(DataError, match=rf"{t1.FILE}: expected contours, found none in 165 images"):
        read_t1(copy, progress=False)


def test_an_empty_cell_leaves_a_patient_out(copy):
    with h5py.File(copy, "r+") as file:
        dataset(file, "EndoContours").attrs["MATLAB_empty"] = 1
    with pytest.warns(UserWarning, match="left out 55 of 165"):
        assert read_t1(copy, progress=False).train.patient.unique().tolist() == [2]


def test_trailing_axes_of_length_1_may_be_missing_as_in_matlab(copy):
    for patient in (1, 2, 7):
        for field in t1.FIELDS:
            replace(copy, field, lambda stored: stored[0], patient)  # one slice: (T, W, H) in the file
    assert len(read_t1(copy, progress=False)) == 3 * 11


def one_nan(image):
    image = image.astype(np.float32)
    image[0, 0, 0, 0] = np.nan
    return image


@pytest.mark.parametrize(("field", "change", "message"), [
    ("Img", one_nan, "NaN"),
    ("Img", lambda a: a[:, :10], "TriggerTime: expected"),
    ("Img", lambda a: a[None], "4 axes"),
    ("Img", lambda a: a * 0, "everywhere"),
    ("TriggerTime", lambda a: a[:, :3], "TriggerTime"),
    ("EndoContours", lambda a: a[..., :59], r"\(60, 2, 11, 5\), found \(59, 2, 11, 5\)"),
    ("EpiContours", lambda a: a[:3], "EpiContours"),
    ("EpiContours", lambda a: a + 200, "160 rows and 160 columns"),
    ("EndoContours", lambda a: a - 200, "within the image"),
    ("EndoContours", lambda a: np.where(a > 80, np.inf, a), "within the image"),
    ("EndoContours", lambda a: 3 * a - 2 * a.mean(-1, keepdims=True), "epicardial one|within"),
])  # fmt: skip
def test_wrong_arrays_are_refused_by_file_patient_and_field(copy, field, change, message):
    replace(copy, field, change)
    with pytest.raises(DataError, match=message) as caught:
        read_t1(copy, progress=False)
    assert f"{t1.FILE}: patient 1: " in str(caught.value)


def make(path: Path, build) -> None:
    with h5py.File(path, "w") as file:
        build(file)


def linked(file: h5py.File) -> None:
    file["Dataset"] = h5py.ExternalLink("/etc/other.mat", "/Dataset")


def no_epi(file: h5py.File) -> None:
    for field in ("Img", "EndoContours", "TriggerTime"):
        file.create_dataset(f"Dataset/{field}", shape=(2, 1), dtype=h5py.ref_dtype)


def numbers(file: h5py.File) -> None:
    for field in t1.FIELDS:
        file.create_dataset(f"Dataset/{field}", data=np.zeros((2, 1)))


def no_patients(file: h5py.File) -> None:
    for field in t1.FIELDS:
        file.create_dataset(f"Dataset/{field}", shape=(0, 1), dtype=h5py.ref_dtype)


@pytest.mark.parametrize(("build", "message"), [
    (lambda file: file.create_dataset("x", data=1), "expected Dataset in /, found x"),
    (lambda file: file.create_dataset("Dataset", data=1), "Dataset to be a Group"),
    (linked, "expected Dataset"),
    (no_epi, "EpiContours"),
    (numbers, "cell array, found float64"),
    (no_patients, "found 0 of Img"),
])  # fmt: skip
def test_another_structure_is_refused(tmp_path, build, message):
    make(tmp_path / t1.FILE, build)
    with pytest.raises(DataError, match=message) as caught:
        read_t1(tmp_path, progress=False)
    assert t1.FILE in str(caught.value)


def test_data_kept_in_another_file_are_not_followed(copy, tmp_path):
    (tmp_path / "secret").write_bytes(bytes(160 * 160 * 55 * 2))
    with h5py.File(copy, "r+") as file:
        new = file.create_dataset("#refs#/out", shape=(5, 11, 160, 160), dtype="u2",
                                  external=[(str(tmp_path / "secret"), 0, h5py.h5f.UNLIMITED)])  # fmt: skip
        file[file["Dataset/Img"][()].ravel()[0]][...] = np.array([[new.ref]], dtype=h5py.ref_dtype)
    with pytest.raises(DataError, match="kept in this file"):
        read_t1(copy, progress=False)


@pytest.mark.parametrize(("content", "advice"), [
    (b"", "not found\\)\\)"),
    (b"<html>sign in</html>", "not found\\)\\)"),
    (b"MATLAB 5.0 MAT-file".ljust(600), "save with -v7.3"),
])  # fmt: skip
def test_what_is_not_hdf5_is_named(tmp_path, content, advice):
    (tmp_path / t1.FILE).write_bytes(content)
    for read in (read_t1, lambda root: check(root, "t1"), check):
        with pytest.raises(DataError, match=rf"{t1.FILE}: expected a MATLAB v7.3 \(HDF5\) file, found .*{advice}$"):
            read(tmp_path)


def test_a_truncated_file_is_named(copy):
    content = copy.read_bytes()
    copy.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(DataError, match=rf"{t1.FILE}.*; it is damaged: get the file again"):
        read_t1(copy, progress=False)


def test_the_file_may_have_another_name_and_lie_deeper(copy, tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    moved = copy.rename(tmp_path / "a/b/t1dataset210.MAT")
    assert check(tmp_path).patients == check(moved).patients == set(range(1, 8))
    other = moved.rename(tmp_path / "a/mine.mat")
    assert check(tmp_path).name == "T1"
    shutil.copy(other, tmp_path / "a/yours.mat")
    with pytest.raises(DataError, match=r"expected one T1Dataset210\.mat, found .*mine\.mat and .*yours\.mat"):
        read_t1(tmp_path)


def test_labels_can_not_be_mapped_where_there_are_outlines(copy):
    with pytest.raises(OptionError, match="expected none for T1, which holds outlines of one label"):
        check(copy, labels="MYO=1")


def test_a_folder_without_the_file_is_refused(tmp_path):
    with pytest.raises(DataError, match="PRR_T1"):
        read_t1(tmp_path)


def test_the_phantom_reads_without_a_warning(phantom_root):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_t1(phantom_root, progress=False).phantom
