"""Dice against torchmetrics, intervals against cases that can be worked by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch.nn import functional
from torchmetrics.functional.segmentation import dice_score

from prr.errors import DataError
from prr.metrics import dice, drop_interval, foreground_dice, nanmean, overlap

few = settings(max_examples=50, deadline=None)


def random_case(seed, slices, classes, patients=3):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (2, slices, 3, 2), generator=generator)
    labels[labels == torch.randint(classes, (), generator=generator)] = 0  # often one class is absent in both
    return *labels, torch.randint(-1, patients, (slices,), generator=generator)


cases = st.builds(random_case, st.integers(0, 2**32), st.integers(1, 6), st.just(4))


def column(table, patient):
    return torch.tensor(table.loc[table["patient"] == patient, "dice"].to_numpy())


@few
@given(cases)
def test_dice_is_torchmetrics_dice_of_the_pixels_pooled_by_patient(case):
    prediction, mask, patient = case
    table = dice(prediction, mask, patient)
    assert list(table.columns) == ["patient", "class", "dice"]
    assert table["patient"].tolist() == patient.unique().repeat_interleave(4).tolist()
    assert table["class"].tolist() == [0, 1, 2, 3] * len(patient.unique())
    for one in patient.unique():
        pooled = [labels[patient == one].reshape(1, -1) for labels in (prediction, mask)]
        expected = dice_score(*pooled, num_classes=4, average="none", input_format="index")[0].double()
        torch.testing.assert_close(column(table, int(one)), expected, atol=1e-6, rtol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("prediction", "mask", "expected"),
    [
        ([0, 0, 1, 1], [0, 0, 1, 1], [1, 1, np.nan]),  # class 2 absent in both
        ([0, 0, 1, 2], [0, 0, 1, 1], [1, 2 / 3, 0]),  # in the prediction only
        ([0, 0, 1, 1], [0, 0, 1, 2], [1, 2 / 3, 0]),  # in the mask only
        ([0, 0, 0, 0], [0, 0, 0, 0], [1, np.nan, np.nan]),
        ([1, 2, 1, 2], [2, 1, 2, 1], [np.nan, 0, 0]),
        ([0, 1, 1, 1], [0, 0, 0, 1], [1 / 2, 1 / 2, np.nan]),
    ],
)
def test_dice_by_hand(prediction, mask, expected):
    labels = [torch.tensor(values).reshape(1, 2, 2) for values in (prediction, mask)]
    np.testing.assert_allclose(dice(*labels, torch.tensor([7]), classes=3)["dice"], expected, atol=1e-12)


def test_pixels_are_pooled_over_the_slices_of_a_patient():
    prediction = torch.tensor([[[1, 1, 0]], [[0, 0, 1]]])
    mask = torch.tensor([[[1, 1, 1]], [[0, 0, 0]]])
    table = dice(prediction, mask, torch.tensor([5, 5]), classes=2)
    assert table["dice"][1] == pytest.approx(2 * 2 / (3 + 3))  # and not the mean of 4/5 and 0


@few
@given(cases)
def test_dice_does_not_know_which_labels_are_the_prediction(case):
    prediction, mask, patient = case
    np.testing.assert_array_equal(dice(prediction, mask, patient)["dice"], dice(mask, prediction, patient)["dice"])


@few
@given(cases, st.randoms(use_true_random=False))
def test_the_order_of_slices_does_not_matter(case, random):
    order = random.sample(range(len(case[0])), len(case[0]))
    assert dice(*case).equals(dice(*(labels[order] for labels in case)))


def test_masks_may_be_bytes():
    prediction, mask, patient = random_case(0, 4, 4)
    assert dice(prediction, mask.byte(), patient).equals(dice(prediction, mask, patient))


@few
@given(cases)
def test_counts_add_up_to_the_pixels_of_each_patient(case):
    prediction, mask, patient = case
    ids, counts = overlap(prediction, mask, patient)
    pixels = torch.stack([(patient == one).sum() for one in ids]) * mask[0].numel()
    assert torch.equal(counts[..., 1].sum(1), pixels)
    assert torch.equal(counts[..., 2].sum(1), pixels)
    assert counts[..., 0].sum() == (prediction == mask).sum()


@pytest.mark.parametrize(
    ("prediction", "mask", "patient", "message"),
    [
        ((2, 4, 4), (2, 4, 5), (2,), r"\(2, 4, 4\), \(2, 4, 5\) and \(2,\)"),
        ((2, 4, 4), (2, 4, 4), (3,), r"\(3,\)"),
        ((0, 4, 4), (0, 4, 4), (0,), "at least one slice"),
    ],
)
def test_shapes_that_do_not_agree_are_refused(prediction, mask, patient, message):
    with pytest.raises(DataError, match=message):
        dice(*(torch.zeros(shape, dtype=torch.long) for shape in (prediction, mask, patient)))


@pytest.mark.parametrize("label", [-1, 4, 255])
@pytest.mark.parametrize("owner", ["prediction", "mask"])
def test_labels_out_of_range_are_refused_with_their_owner(label, owner):
    labels = {"prediction": torch.zeros(1, 2, 2).long(), "mask": torch.zeros(1, 2, 2).long()}
    labels[owner][0, 0, 0] = label
    with pytest.raises(DataError, match=rf"{owner}: expected labels 0\.\.3, found .*{label}"):
        dice(**labels, patient=torch.tensor([1]))


@few
@given(cases)
def test_the_default_score_is_the_mean_over_foreground_classes(case):
    prediction, mask, patient = case
    assume(mask.any())
    output = functional.one_hot(prediction, 4).movedim(-1, 1).float()
    score = foreground_dice(output, SimpleNamespace(masks=mask.byte(), patient=patient))
    table = dice(prediction, mask, patient)
    expected = table[table["class"] > 0].groupby("patient")["dice"].mean()  # pandas leaves NaN out
    np.testing.assert_allclose(score, expected, atol=1e-12)


@few
@given(arrays(float, (3, 4), elements=st.floats(-9, 9) | st.just(np.nan)))
def test_nanmean_leaves_nan_out_and_does_not_warn(values):
    expected = [row[~np.isnan(row)].mean() if not np.isnan(row).all() else np.nan for row in values]
    np.testing.assert_allclose(nanmean(values), expected, atol=1e-12)


@few
@given(arrays(float, 5, elements=st.floats(0, 1)), st.floats(-0.5, 0.5))
def test_a_drop_that_all_patients_share_is_certain(before, drop):
    low, high = drop_interval(before, (before - drop)[None])
    np.testing.assert_allclose([low[0], high[0]], drop, atol=1e-12)


@few
@given(arrays(float, 6, elements=st.floats(0, 1)))
def test_no_change_gives_an_interval_of_exactly_0(before):
    low, high = drop_interval(before, np.stack([before, before]))
    assert low.tolist() == high.tolist() == [0, 0]


@few
@given(st.floats(-1, 1), st.floats(-1, 1))
def test_the_interval_of_two_patients_runs_from_one_to_the_other(first, second):
    # a resample holds one, both or the other, with chances 1/4, 1/2, 1/4: the 2.5 % ends are the extremes
    low, high = drop_interval(np.array([first, second]), np.zeros((1, 2)))
    np.testing.assert_allclose([low[0], high[0]], sorted([first, second]), atol=1e-12)


def test_the_interval_of_many_patients_is_the_normal_one_of_their_differences():
    random = np.random.default_rng(0)
    before, difference = random.normal(0, 5, 100), random.normal(0.3, 0.1, 100)  # differences vary far less
    low, high = drop_interval(before, (before - difference)[None])
    error = 1.96 * difference.std() / np.sqrt(100)
    np.testing.assert_allclose([low[0], high[0]], difference.mean() + np.array([-error, error]), atol=0.15 * error)


def test_every_row_sees_the_same_resamples():
    before, after = np.random.default_rng(1).random((2, 9))
    low, high = drop_interval(before, np.stack([after, after + 1, after]))
    np.testing.assert_allclose(low, low[0] - np.array([0, 1, 0]))
    np.testing.assert_allclose(high, high[0] - np.array([0, 1, 0]))


def test_one_patient_has_no_interval():
    low, high = drop_interval(np.array([0.8]), np.array([[0.7], [0.6]]))
    assert np.isnan([low, high]).all()
    assert low.shape == high.shape == (2,)


def test_no_transplant_has_no_interval():
    low, high = drop_interval(np.array([0.8, 0.7]), np.empty((0, 2)))
    assert len(low) == len(high) == 0
