import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prr.data import Slices, split
from prr.data.volumes import (
    SCANNERS,
    Listing,
    Report,
    Volume,
    centred,
    check_spacing,
    choose,
    fill,
    patient_folders,
    place,
    read,
    reading,
    refusal,
)
from prr.errors import DataError, OptionError


def placed(image: np.ndarray, mask: np.ndarray, spacing: tuple[float, float], **options) -> tuple:
    asked = {"size": 16, "spacing_mm": 1.5, "normalise": "zscore"}
    return place(Volume(1, image, mask, spacing, False, "a.nii"), **asked | options)


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


def volume(patient: int, drawn: int = 2, left_out: int = 0, phantom: bool = False, **fields) -> Volume:
    image = np.random.default_rng(patient).normal(size=(drawn, 16, 16))
    return Volume(patient, image, image > 1, (1.5, 1.5), phantom, f"{patient}.nii", left_out)._replace(**fields)


def listing(*volumes: Volume | DataError, **fields) -> Listing:
    listed = [
        (0, partial(refusal, each)) if isinstance(each, DataError) else (each.patient, lambda each=each: each)
        for each in volumes
    ]
    return Listing("toy", Path("here"), listed, **{"labels": {0: "background", 1: "bright"}} | fields)


def gathered(found: Listing, **options) -> Slices:
    return read(found, **{"size": 16, "split": "all", "progress": False} | options)


def test_the_loop_gathers_volumes_in_their_order():
    volumes = [volume(3, 1, phantom=True), volume(1, 2), volume(1, 3)]
    data = gathered(listing(*volumes), split=(1,))
    assert data.patient.tolist() == [3, 1, 1, 1, 1, 1]
    assert data.held_out == (1,)
    assert (data.name, data.spacing_mm, data.phantom) == ("toy", 1.5, True)
    first, last = (place(each, 16, 1.5, "zscore")[0] for each in (volumes[0], volumes[-1]))
    assert torch.equal(data.images[:1], first)
    assert torch.equal(data.images[3:], last)


def test_labels_and_the_value_that_is_not_counted_come_with_the_slices():
    mask = np.zeros((2, 12, 12), np.uint8)
    mask[:, 3:6], mask[:, 6:9] = 1, 255
    found = listing(volume(1)._replace(image=np.random.default_rng(0).normal(size=(2, 12, 12)), mask=mask),
                    labels={0: "background", 1: "hippocampus"}, ignore=255)  # fmt: skip
    data = gathered(found)
    assert (data.labels, data.ignore) == ({0: "background", 1: "hippocampus"}, 255)
    assert [(data.masks == value).sum().item() for value in (1, 255)] == [2 * 3 * 12] * 2


def test_each_channel_is_normalised_by_itself():
    one, two = np.random.default_rng(0).gamma(2, 100, (2, 3, 20, 30))
    both = np.stack([one, 1000 + two * 7], axis=1)
    images, _ = placed(both, one > 1e9, (1.4, 1.4), size=64)
    assert images.shape == (3, 2, 64, 64)
    for channel, alone in enumerate((one, two)):
        assert torch.allclose(images[:, channel], placed(alone, one > 1e9, (1.4, 1.4), size=64)[0][:, 0], atol=1e-4)
    with pytest.raises(DataError, match="the value 5 everywhere"):
        placed(np.stack([one, one * 0 + 5], axis=1), one > 1e9, (1.4, 1.4))


def test_images_that_nobody_annotated_are_left_out_and_counted():
    one, none, other = volume(1, 2, 3), volume(2, 0, 5), volume(3, 1)
    with pytest.warns(UserWarning, match="^here: left out 8 of 11 images, which have no contour$"):
        data = gathered(listing(one, none, other, held_out=(2, 3)), split="paper")
    assert data.patient.tolist() == [1, 1, 3]
    assert data.held_out == (3,)  # of those named, patient 2 has nothing to validate with
    with pytest.warns(UserWarning, match="left out 8"), pytest.raises(DataError, match=r"held_out.*\[2\]"):
        gathered(listing(one, none, other), split=(2,))
    with pytest.raises(DataError, match=r"^here: expected contours, found none in 5 images$"):
        gathered(listing(none))


def test_a_volume_without_slices_is_refused_unless_it_says_what_it_left_out():
    with pytest.raises(DataError, match=r"^2\.nii: expected a cine volume, found one that can't be read \(ValueError"):
        gathered(listing(volume(1), volume(2, 0)))


@pytest.mark.parametrize("option", [{"split": "half"}, {"normalise": "minmax"}, {"size": 0}, {"spacing_mm": -1.0}])
def test_unknown_options_are_refused_before_a_volume_is_read(option):
    with pytest.raises(OptionError, match=next(iter(option))):
        gathered(listing(DataError("read")), **option)


def test_without_a_report_the_loop_ends_at_the_first_bad_volume():
    with pytest.raises(DataError, match=r"^patient 2$"):
        gathered(listing(volume(1), DataError("patient 2"), DataError("patient 3")))


def test_a_report_collects_what_is_refused_and_told_and_counts_the_rest():
    flat = volume(4)._replace(image=np.ones((2, 16, 16)))
    wide = volume(2, 3, phantom=True, spacing=(2.0, 1.0), told=("turned",))
    report = Report()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = gathered(listing(volume(1), DataError("patient 3"), flat, wide, told=["odd"]), report=report)
    assert len(data) == 5
    assert report.refused == ["patient 3", "4.nii: expected an image with contrast, found the value 1 everywhere"]
    assert report.told == ["here: odd", "2.nii: turned"]
    assert (report.patients, report.volumes, report.slices, report.phantom) == ({1, 2}, 2, 5, True)
    assert report.spacing_mm == [1.5, 1.5, 2.0, 1.0]
    areas = [
        (each > 1).sum() * mm2 / 100 for image, mm2 in ((volume(1).image, 2.25), (wide.image, 2)) for each in image
    ]
    assert report.areas[1] == pytest.approx(areas)


def test_a_kind_of_note_is_told_once_with_the_first_file_and_a_count():
    volumes = [volume(n, told=(f"turned by {n * 0.25} degrees", "read twice")[: 1 + (n == 2)]) for n in (1, 2, 3)]
    with pytest.warns(UserWarning, match="turned|twice") as told:
        gathered(listing(*volumes))
    assert [str(each.message) for each in told] == [
        "1.nii: turned by 0.25 degrees (and so in 2 more)",
        "2.nii: read twice",
    ]


def test_the_same_image_twice_is_told():
    again = volume(1)._replace(where="copy.nii")
    with pytest.warns(UserWarning, match=r"^copy\.nii: shows the same image as 1\.nii$"):
        assert len(gathered(listing(volume(1), volume(2), again))) == 6


@pytest.mark.parametrize("values", [(0.1, 1), (1, 10), (1,), (1, 1, 1), (float("nan"), 1)])
def test_a_spacing_that_no_scanner_has_is_refused(values):
    assert check_spacing(["1.5", 2]) == (1.5, 2.0)
    with pytest.raises(DataError, match=r"0\.1 to 10 mm, found \("):
        check_spacing(values, *SCANNERS)


def test_a_spacing_of_a_microscope_is_one():
    assert check_spacing((0.00025, 0.00025)) == (0.00025, 0.00025)
    with pytest.raises(DataError, match=r"0\.0001 to 100 mm, found \(0\.0, 1\.0\)"):
        check_spacing((0, 1))


def test_labels_that_cropping_takes_away_are_told():
    image, mask = np.random.default_rng(0).normal(size=(1, 40, 40)), np.zeros((1, 40, 40), int)
    mask[:, 18:22, 10:30] = 1  # 80 pixels, of which the middle 16 columns are kept: 64
    wide = Volume(1, image, mask, (1.5, 1.5), False, "wide.nii")
    with pytest.warns(UserWarning, match=r"^wide\.nii: 20% of its labelled pixels are cut off; raise spacing_mm"):
        gathered(listing(wide))


def test_patients_are_numbered_folders_some_levels_down(tmp_path):
    for name in ("b/patient010", "b/Patient2", "b/patients", "b/patient_3", "a/1/2/3/patient11", "patient0000001",
                 "__MACOSX/patient4", ".git/patient5", "a/1/2/3/4/patient6", "b/Patient2/patient7"):  # fmt: skip
        (tmp_path / name).mkdir(parents=True)
    deep = tmp_path / "a/1/2/3"
    assert patient_folders(tmp_path) == {
        deep: {11: deep / "patient11"},
        tmp_path / "b": {2: tmp_path / "b/Patient2", 10: tmp_path / "b/patient010"},
    }
    assert patient_folders(tmp_path / "absent") == {}
    (tmp_path / "b/patient02").mkdir()
    with pytest.raises(DataError, match=r"b/patient02: expected one folder for each patient, found .*b/Patient2 too"):
        patient_folders(tmp_path)


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
