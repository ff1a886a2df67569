import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prr.data import Slices, split
from prr.data.slices import centred, choose, fill, on_grid, reading
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


@given(st.lists(st.integers(1, 300), min_size=1, max_size=60), st.floats(0, 1), st.integers(0, 99))
def test_split_takes_the_asked_share_of_distinct_patients_whatever_their_order(patients, fraction, seed):
    held_out = split(patients, fraction, seed)
    assert set(held_out) <= set(patients)
    assert len(set(held_out)) == len(held_out) == round(len(set(patients)) * fraction)
    assert held_out == split(torch.tensor(sorted(patients)), fraction, seed)


def test_split_depends_on_the_seed_and_refuses_a_fraction_above_1():
    assert split(range(100)) != split(range(100), seed=1)
    with pytest.raises(OptionError, match="fraction"):
        split([1, 2], 1.5)


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


def test_slices_say_what_they_are_and_move():
    data = slices([1, 2, 2], phantom=True)
    assert repr(data) == "Slices(toy, phantom: 3 slices of 2 patients, 6 x 5 at 1.5 mm)"
    assert data.to("cpu").held_out is None
    assert len(data) == 3


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
    images, masks = on_grid(image, mask, (1.5, 1.5), size=16, spacing_mm=1.5, normalise="zscore")
    assert np.array_equal(masks, mask)
    assert np.allclose(images[:, 0], (image - image.mean()) / image.std(), atol=1e-5)


def test_anisotropic_pixels_become_square():
    y, x = np.mgrid[:60, :120]
    disc = ((y - 29.5) * 2.0) ** 2 + ((x - 59.5) * 1.0) ** 2 < 40**2  # mm: rows 2 apart, columns 1
    _, masks = on_grid(disc[None] * 1.0, disc[None], (2.0, 1.0), size=128, spacing_mm=1.0, normalise="unit")
    rows, columns = torch.nonzero(masks[0]).T
    assert abs((rows.max() - rows.min()) - 80) <= 2
    assert abs((columns.max() - columns.min()) - 80) <= 2
    assert abs(masks.sum() / (np.pi * 40**2) - 1) < 0.03


def test_normalisation_holds_for_what_comes_back_padding_included():
    image = np.random.default_rng(0).gamma(2, 100, (4, 20, 30))
    zscore, _ = on_grid(image, image > 1e9, (1.4, 1.4), size=64, spacing_mm=1.5, normalise="zscore")
    unit, _ = on_grid(image, image > 1e9, (1.4, 1.4), size=64, spacing_mm=1.5, normalise="unit")
    assert abs(zscore.mean()) < 1e-5
    assert abs(zscore.std(correction=0) - 1) < 1e-5
    assert (unit.min(), unit.max()) == (0, 1)
    assert torch.equal(unit[..., 0, 0], torch.zeros(4, 1))  # padding is the darkest


def test_an_image_without_contrast_is_refused():
    with pytest.raises(DataError, match="everywhere"):
        on_grid(np.full((2, 8, 8), 7), np.zeros((2, 8, 8)), (1, 1), size=8, spacing_mm=1, normalise="zscore")


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
    assert choose((2,), [1, 2], 0) == (2,)
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
