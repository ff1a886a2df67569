import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prr.data import Slices, split
from prr.data.volumes import Counts, Request, Volume, centred, check_spacing, choose, fill, patient_folders, reading
from prr.errors import DataError, OptionError


def slices(patients: list[int], **fields) -> Slices:
    n = len(patients)
    made = {
        "images": torch.randn(n, 1, 6, 5),
        "masks": torch.zeros(n, 6, 5, dtype=torch.uint8),
        "patient": torch.tensor(patients, dtype=torch.int64),
        "spacing_mm": 1.5,
        "name": "toy",
    }
    return Slices(**made | fields)


def request(**options) -> Request:
    asked = {"name": "toy", "size": 16, "spacing_mm": 1.5, "split": "all", "seed": 0, "normalise": "zscore"}
    return Request(**asked | {"progress": False} | options)


def placed(image: np.ndarray, mask: np.ndarray, spacing: tuple[float, float], **options) -> tuple:
    return request(**options).place(Volume(1, image, mask, spacing, False, "a.nii"))


@given(st.lists(st.integers(1, 300), min_size=1, max_size=60), st.integers(0, 99))
def test_split_takes_half_of_the_distinct_patients_whatever_their_order(patients, seed):
    held_out = split(patients, seed)
    assert set(held_out) <= set(patients)
    assert len(set(held_out)) == len(held_out) == round(len(set(patients)) / 2)
    assert held_out == split(torch.tensor(sorted(patients)), seed)


def test_split_depends_on_the_seed():
    assert split(range(100)) == split(range(100), seed=0) != split(range(100), seed=1)


@given(st.lists(st.integers(1, 30), min_size=2, max_size=40).filter(lambda p: len(set(p)) > 1))
def test_train_and_validation_are_disjoint_by_patient_and_complete(patients):
    data = slices(patients)
    train, validation = data.train, data.validation
    assert len(train) + len(validation) == len(data)
    assert not set(train.patient.tolist()) & set(validation.patient.tolist())
    together = torch.cat([train.images, validation.images])
    assert torch.equal(together.sort(0).values, data.images.sort(0).values)


def test_halves_are_final():
    data = slices([1, 1, 2, 3], held_out=(3,))
    assert data.train.patient.tolist() == [1, 1, 2]
    assert torch.equal(data.train.train.images, data.train.images)
    assert torch.equal(data.validation.validation.images, data.validation.images)
    with pytest.raises(DataError, match="held out"):
        _ = data.train.validation
    with pytest.raises(DataError, match="not held out"):
        _ = data.validation.train


@pytest.mark.parametrize(("fields", "message"), [
    ({"images": torch.zeros(2, 6, 5)}, "images: expected a torch.float32 tensor with 4 axes"),
    ({"images": torch.zeros(2, 1, 6, 5, dtype=torch.float64)}, "float64"),
    ({"images": np.zeros((2, 1, 6, 5), np.float32)}, "ndarray"),
    ({"images": torch.zeros(2, 3, 6, 5)}, r"\(n >= 1, 1, h, w\)"),
    ({"images": torch.full((2, 1, 6, 5), torch.nan)}, "NaN"),
    ({"masks": torch.zeros(2, 5, 6, dtype=torch.uint8)}, r"\(2, 5, 6\)"),
    ({"masks": torch.full((2, 6, 5), 4, dtype=torch.uint8)}, "labels 0 to 3, found 4"),
    ({"patient": torch.tensor([1])}, r"\(1,\)"),
    ({"spacing_mm": 0.0}, "spacing_mm"),
    ({"held_out": (9,)}, r"\[9\]"),
])  # fmt: skip
def test_slices_refuse_what_is_not_as_described(fields, message):
    with pytest.raises(DataError, match=message):
        slices([1, 2], **fields)


def test_no_slices_at_all_are_refused():
    with pytest.raises(DataError, match="n >= 1"):
        slices([])


def test_slices_say_what_they_are():
    data = slices([1, 2, 2], phantom=True)
    assert repr(data) == "Slices(toy, phantom: 3 slices of 2 patients, 6 x 5 at 1.5 mm)"
    assert len(data) == 3


@pytest.mark.parametrize(("patients", "kept"), [
    ([7, 7, 7, 7, 2, 3, 3, 3], [0, 3, 4, 5]),
    ([1, 2, 1, 2, 1, 1], [0, 1, 5]),
])  # fmt: skip
def test_every_third_slice_is_counted_within_each_patient(patients, kept):
    data = slices(patients, held_out=(2,))
    few = data.every(3)
    assert torch.equal(few.images, data.images[kept])
    assert few.patient.tolist() == [patients[k] for k in kept]
    assert few.held_out == (2,)
    assert torch.equal(data.every(1).images, data.images)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
def test_cropping_and_padding_keep_the_centre(height, width, size):
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    row, column = centred(row, size, -1), centred(column, size, -1)
    assert row.shape == (size, size)
    inside = row >= 0
    at = torch.nonzero(inside).double().mean(0)  # where the kept pixels lie ...
    came_from = torch.stack([row[inside], column[inside]]).double().mean(1)  # ... and where they were
    for k, extent in enumerate((height, width)):
        assert abs(at[k] - (size - 1) / 2) <= 0.5
        assert abs(came_from[k] - (extent - 1) / 2) <= 0.5


def test_a_grid_of_the_same_spacing_and_size_changes_no_label():
    rng = np.random.default_rng(0)
    image, mask = rng.normal(size=(3, 16, 16)), rng.integers(0, 4, (3, 16, 16))
    images, masks = placed(image, mask, (1.5, 1.5))
    assert np.array_equal(masks, mask)
    assert np.allclose(images[:, 0], (image - image.mean()) / image.std(), atol=1e-5)


def test_anisotropic_pixels_become_square():
    y, x = np.mgrid[:60, :120]
    disc = ((y - 29.5) * 2.0) ** 2 + ((x - 59.5) * 1.0) ** 2 < 40**2  # mm: rows 2 apart, columns 1
    _, masks = placed(disc[None] * 1.0, disc[None], (2.0, 1.0), size=128, spacing_mm=1.0, normalise="unit")
    rows, columns = torch.nonzero(masks[0]).T
    assert abs((rows.max() - rows.min()) - 80) <= 2
    assert abs((columns.max() - columns.min()) - 80) <= 2
    assert abs(masks.sum() / (np.pi * 40**2) - 1) < 0.03


def test_normalisation_holds_for_what_comes_back_padding_included():
    image = np.random.default_rng(0).gamma(2, 100, (4, 20, 30))
    zscore, _ = placed(image, image > 1e9, (1.4, 1.4), size=64)
    unit, _ = placed(image, image > 1e9, (1.4, 1.4), size=64, normalise="unit")
    assert abs(zscore.mean()) < 1e-5
    assert abs(zscore.std(correction=0) - 1) < 1e-5
    assert (unit.min(), unit.max()) == (0, 1)
    assert torch.equal(unit[..., 0, 0], torch.zeros(4, 1))  # padding is the darkest


def test_an_image_without_contrast_is_refused():
    with pytest.raises(DataError, match="the value 7 everywhere"):
        placed(np.full((2, 8, 8), 7), np.zeros((2, 8, 8)), (1, 1))
    corner = np.zeros((1, 64, 64))
    corner[:, 0, 0] = 1  # contrast that cropping takes away
    with pytest.raises(DataError, match="the value 0 everywhere"):
        placed(corner, corner, (1.5, 1.5))


def volume(patient: int, drawn: int = 2, left_out: int = 0, phantom: bool = False) -> Volume:
    image = np.random.default_rng(patient).normal(size=(drawn, 16, 16))
    return Volume(patient, image, image > 1, (1.5, 1.5), phantom, f"{patient}.nii", left_out)


def test_the_loop_gathers_volumes_in_their_order():
    listed = [(3, 1, 0, True), (1, 2), (1, 3)]  # what `volume` takes
    data = request(split=(1,)).read("here", listed, volume)
    assert data.patient.tolist() == [3, 1, 1, 1, 1, 1]
    assert data.held_out == (1,)
    assert (data.name, data.spacing_mm, data.phantom) == ("toy", 1.5, True)
    first, last = (request().place(volume(*item))[0] for item in (listed[0], listed[-1]))
    assert torch.equal(data.images[:1], first)
    assert torch.equal(data.images[3:], last)


def test_images_that_nobody_annotated_are_left_out_and_counted():
    listed = [(1, 2, 3), (2, 0, 5), (3, 1)]
    with pytest.warns(UserWarning, match="^here: left out 8 of 11 images, which have no contour$"):
        data = request(split="paper").read("here", listed, volume, paper=(2, 3))
    assert data.patient.tolist() == [1, 1, 3]
    assert data.held_out == (3,)  # of the paper's, patient 2 has nothing to validate with
    with pytest.warns(UserWarning, match="left out 8"), pytest.raises(DataError, match=r"held_out.*\[2\]"):
        request(split=(2,)).read("here", listed, volume)
    with pytest.raises(DataError, match=r"^here: expected contours, found none in 5 images$"):
        request().read("here", listed[1:2], volume)


def test_a_volume_without_slices_is_refused_unless_it_says_what_it_left_out():
    with pytest.raises(DataError, match=r"^2\.nii: expected a cine volume, found one that can't be read \(ValueError"):
        request().read("here", [(1, 2), (2, 0)], volume)


def test_an_unknown_split_is_refused_before_a_volume_is_read():
    with pytest.raises(OptionError, match="split"):
        request(split="half").read("here", [(1,)], None)


def test_counts_add_up_and_name_absent_files(tmp_path):
    counts = Counts(patients=2)
    counts.add(volume(1, 2))
    counts.add(volume(2, 3, phantom=True)._replace(spacing=(2.0, 1.0)))
    assert (counts.volumes, counts.slices, counts.labels, counts.phantom) == (2, 5, {0, 1}, True)
    assert counts.spacing_mm == [1.5, 1.5, 2.0, 1.0]
    here, gone = tmp_path / "here", tmp_path / "gone"
    here.touch()
    assert not counts.misses(here)
    assert counts.misses(here, gone)
    assert counts.missing == [str(gone)]


@pytest.mark.parametrize("values", [(0.1, 1), (1, 10), (1,), (1, 1, 1), (float("nan"), 1)])
def test_a_spacing_that_no_scanner_has_is_refused(values):
    assert check_spacing(["1.5", 2]) == (1.5, 2.0)
    with pytest.raises(DataError, match=r"0\.1 to 10 mm, found \("):
        check_spacing(values)


def test_patients_are_numbered_folders_by_place_and_name(tmp_path):
    for name in ("b/patient010", "b/patient2", "b/patients", "b/patient_3", "a/patient11", "a/patient0000001"):
        (tmp_path / name).mkdir(parents=True)
    found = patient_folders(tmp_path / "b", tmp_path / "a", tmp_path / "absent")
    assert found == [(number, tmp_path / name) for number, name in
                     ((10, "b/patient010"), (2, "b/patient2"), (11, "a/patient11"))]  # fmt: skip
    (tmp_path / "a/patient02").mkdir()
    with pytest.raises(DataError, match=r"a/patient02: expected one folder for each patient, found .*b/patient2 too"):
        patient_folders(tmp_path / "b", tmp_path / "a")


def test_a_square_contour_fills_its_pixels_x_before_y():
    mask = fill(np.array([[1.5, 0.5], [4.5, 0.5], [4.5, 2.5], [1.5, 2.5]]), (6, 8))
    expected = np.zeros((6, 8), bool)
    expected[1:3, 2:5] = True
    assert np.array_equal(mask, expected)
    with pytest.raises(DataError, match="6 rows and 8 columns"):
        fill(np.array([[1, 1], [7, 7], [1, 7]]), (6, 8))


def test_choices_of_a_split():
    assert choose("all", [1, 2], 0) == ()
    assert choose("paper", [1, 2, 3, 4], 5) == split([1, 2, 3, 4], seed=5)
    assert choose("paper", [1, 2], 0, paper=[2]) == (2,)
    for patients in ((2,), [2], iter([2]), np.array([2])):
        assert choose(patients, [1, 2], 0) == (2,)
    for wrong in ("half", 3):
        with pytest.raises(OptionError, match="split"):
            choose(wrong, [1, 2], 0)


def test_reading_names_the_file_once():
    message = r"^a\.nii: expected a volume, found .* \(KeyError"
    with pytest.raises(DataError, match=message) as caught, reading("a.nii", "a volume"):
        {}["b"]
    with pytest.raises(DataError) as again, reading("a.nii", "a volume"):
        raise caught.value
    assert str(again.value).count("a.nii") == 1
