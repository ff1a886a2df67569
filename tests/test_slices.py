import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prr.data import Slices, describe, split
from prr.data.labels import LABELS, parse
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
    ({"images": torch.zeros(2, 0, 6, 5)}, r"channels >= 1"),
    ({"labels": {1: "tumour"}}, r"\{0: 'background', 1: ...\}"),
    ({"labels": {0: "", 1: "a"}, "masks": torch.full((2, 6, 5), 2, dtype=torch.uint8)}, "0 to 1, found 2"),
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


def test_an_ignored_value_is_no_label():
    masks = torch.full((2, 6, 5), 255, dtype=torch.uint8)
    masks[:, 0] = 1
    data = slices([1, 2], masks=masks, labels={0: "background", 1: "tumour"}, ignore=255)
    assert data.classes == 2
    assert describe(data)["tumour"].item() == round(1 / 6, 3)


def test_labels_are_matched_by_name():
    masks = torch.arange(4, dtype=torch.uint8).repeat(2, 6, 1)
    data = slices([1, 2], images=torch.randn(2, 1, 6, 4), masks=masks, labels={0: "bg", 1: "LV", 2: "myo", 3: "RV"})
    assert data.relabelled(LABELS).masks[0, 0].tolist() == [0, 3, 2, 1]
    assert data.relabelled(LABELS).labels == LABELS
    only = data.relabelled({0: "background", 1: "Myocardium"})
    assert only.masks[0, 0].tolist() == [0, 0, 1, 0]
    with pytest.raises(DataError, match=r"toy: expected some of the labels Anterior, found LV, myo, RV; map them"):
        data.relabelled({0: "background", 1: "Anterior"})


def test_ignored_pixels_stay_ignored_under_other_labels():
    masks = torch.tensor([0, 1, 2, 255], dtype=torch.uint8).repeat(2, 6, 1)
    labels = {0: "background", 1: "a", 2: "b"}
    data = slices([1, 2], images=torch.randn(2, 1, 6, 4), masks=masks, labels=labels, ignore=255)
    assert data.relabelled({0: "background", 1: "B"}).masks[0, 0].tolist() == [0, 0, 1, 255]


@pytest.mark.parametrize("labels", ["RV", "RV=0", "RV=1 LV=1", "RV=x", "=1", "RV=65536", {"RV": 1.5}, ""])
def test_a_map_of_labels_that_is_none_is_refused(labels):
    with pytest.raises(OptionError, match="expected NAME=VALUE for each label"):
        parse(labels)


def test_a_map_of_labels_may_join_some_and_leave_some_out():
    assert parse("tumour=1, tumour=3;edema=2") == {1: "tumour", 3: "tumour", 2: "edema"}
    assert parse({"RV": 3}) == {3: "RV"}


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
