"""Scores against torchmetrics and scikit-learn, intervals against cases that can be worked by hand."""

import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from sklearn.metrics import confusion_matrix, r2_score
from torch.nn import functional
from torchmetrics.functional.classification import binary_accuracy, multiclass_accuracy
from torchmetrics.functional.segmentation import dice_score

from prr.errors import DataError
from prr.metrics import (
    SCORES,
    accuracy,
    by_patient,
    check_labels,
    chosen,
    confusion,
    crossed_interval,
    dice,
    drop_interval,
    foreground_dice,
    nanmean,
    r2,
    ratio,
)
from prr.samples import Samples

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
def test_counts_of_each_image_are_scikit_learns_confusion_matrix(case):
    prediction, mask, _ = case
    counts = confusion(prediction, mask.byte(), 4)
    expected = [
        confusion_matrix(*(labels[image].flatten().numpy() for labels in (mask, prediction)), labels=range(4))
        for image in range(len(mask))
    ]
    assert counts.tolist() == np.stack(expected).tolist()


@few
@given(cases)
def test_counts_add_up_to_the_pixels_of_each_image(case):
    prediction, mask, _ = case
    counts = confusion(prediction, mask, 4)
    assert (counts.sum((1, 2)) == mask[0].numel()).all()
    for label in range(4):
        assert counts.sum(2)[:, label].tolist() == (mask == label).sum((1, 2)).tolist()
        assert counts.sum(1)[:, label].tolist() == (prediction == label).sum((1, 2)).tolist()
    assert counts.diagonal(dim1=1, dim2=2).sum() == (prediction == mask).sum()


@pytest.mark.parametrize("shape", [(5,), (5, 4), (5, 2, 3), (5, 2, 3, 2)])
def test_images_of_any_dimension_are_counted(shape):
    labels = torch.randint(3, (2, *shape), generator=torch.Generator().manual_seed(0))
    counts = confusion(*labels, 3)
    for image, found in enumerate(counts):
        prediction, mask = labels[:, image].reshape(2, -1)
        assert found.tolist() == confusion_matrix(mask, prediction, labels=range(3)).tolist()


def test_more_pixels_of_a_kind_than_a_byte_holds_are_counted():
    mask = torch.zeros(2, 20, 20, dtype=torch.uint8)
    assert confusion(mask.long(), mask, 2).tolist() == [[[400, 0], [0, 0]]] * 2


@few
@given(cases)
def test_the_ratio_of_counts_is_the_dice_of_each_patient_and_class(case):
    prediction, mask, patient = case
    values = ratio(confusion(prediction, mask, 4), patient)
    assert values.shape == (len(patient.unique()), 4)
    np.testing.assert_array_equal(values.ravel(), dice(prediction, mask, patient)["dice"])


@pytest.mark.parametrize("label", [-1, 3, 255])
def test_labels_that_are_no_class_are_refused_by_owner_and_range(label):
    check_labels("masks", torch.tensor([0, 2]), 3)
    low, high = min(label, 0), max(label, 2)
    hint = "" if label == 3 else f"; ignore_index={label} leaves that out"
    with pytest.raises(DataError, match=rf"^masks: expected labels 0\.\.2, found {low}\.\.{high}{hint}$"):
        check_labels("masks", torch.tensor([0, 2, label]), 3)


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
@given(arrays(float, (3, 9), elements=st.floats(-1, 1)), st.integers(2, 9))
def test_the_interval_is_students_of_the_differences(scores, patients):
    before, *after = scores[:, :patients]
    low, high = drop_interval(before, np.array(after))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # differences that are all alike are certain, as scipy warns
        for row, each in enumerate(after):
            expected = stats.ttest_1samp(before - each, 0).confidence_interval(0.95)
            np.testing.assert_allclose([low[row], high[row]], expected, atol=1e-9)


@few
@given(arrays(float, (2, 6), elements=st.integers(-9, 9) | st.just(np.nan)))
def test_a_patient_without_a_score_counts_by_what_the_other_score_moves(scores):
    """The influence of a patient by its derivative: how the difference of means moves with the patient's weight."""
    before, after = scores
    known = ~np.isnan(scores)
    assume(known.any(1).all())

    def difference(weights):
        first, second = (np.sum(weights[k] * x[k]) / weights[k].sum() for k, x in zip(known, scores, strict=True))
        return first - second

    counted, ones = known.any(0).sum(), np.ones(6)
    moved = np.array([difference(ones + 1e-6 * unit) - difference(ones - 1e-6 * unit) for unit in np.eye(6)]) / 2e-6
    (low,), (high,) = drop_interval(before, after[None])
    if counted < 2:
        assert np.isnan([low, high]).all()
        return
    half = stats.t.ppf(0.975, counted - 1) * np.sqrt((moved**2).sum() * counted / (counted - 1))
    np.testing.assert_allclose([low, high], difference(ones) + np.array([-half, half]), atol=1e-6)


@pytest.mark.parametrize(("draw", "mean", "least"), [("normal", 0.0, 0.945), ("lognormal", np.exp(0.5), 0.84)])
def test_at_14_patients_the_interval_covers_the_mean_as_often_as_it_says(draw, mean, least):
    """Drops of normal patients 95 times of 100; skewed ones more often than a percentile bootstrap does."""
    rng = np.random.default_rng(0)
    drops = getattr(rng, draw)(size=(4000, 14))
    low, high = drop_interval(np.zeros(14), -drops)
    resampled = drops[:, rng.integers(14, size=(600, 14))].mean(-1)
    covered, by_percentiles = (
        np.mean((below <= mean) & (mean <= above))
        for below, above in [(low, high), np.quantile(resampled, [0.025, 0.975], axis=1)]
    )
    assert least < covered < 0.96
    assert covered > by_percentiles + 0.01


def test_the_interval_of_many_patients_is_the_normal_one_of_their_differences():
    random = np.random.default_rng(0)
    before, difference = random.normal(0, 5, 100), random.normal(0.3, 0.1, 100)  # differences vary far less
    low, high = drop_interval(before, (before - difference)[None])
    error = 1.96 * difference.std() / np.sqrt(100)
    np.testing.assert_allclose([low[0], high[0]], difference.mean() + np.array([-error, error]), atol=0.15 * error)


def test_what_all_patients_gain_moves_the_interval_and_nothing_else():
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


def test_the_interval_of_a_row_is_the_same_alone_and_among_many():
    random = np.random.default_rng(2)
    before, after = random.random(20), random.random((300, 20))
    low, high = drop_interval(before, after)
    for row in (0, 299):
        np.testing.assert_allclose([low[row], high[row]], np.ravel(drop_interval(before, after[[row]])), atol=1e-12)


def drawn(seed, shape, classes=3, units=4):
    """Logits (n, classes, ...), labels (n, ...) and units (n,), n and the rest as in shape."""
    generator = torch.Generator().manual_seed(seed)
    output = torch.randn(shape[0], classes, *shape[1:], generator=generator)
    labels = torch.randint(max(classes, 2), shape, generator=generator)
    labels.view(-1)[:2] = torch.tensor([0, 1])
    return output, SimpleNamespace(masks=labels, patient=torch.randint(-2, units, shape[:1], generator=generator))


shapes = st.sampled_from([(2,), (9,), (5, 3), (4, 2, 3)])
seeds = st.integers(0, 2**32)


@few
@given(seeds, shapes, st.integers(1, 5))
def test_accuracy_is_torchmetrics_accuracy_of_each_unit(seed, shape, classes):
    output, data = drawn(seed, shape, classes)
    expected = []
    for unit in data.patient.unique():
        logits, labels = output[data.patient == unit], data.masks[data.patient == unit]
        if classes == 1:
            expected.append(binary_accuracy(logits[:, 0].sigmoid(), labels))
        else:
            expected.append(multiclass_accuracy(logits, labels, classes, average="micro"))
    np.testing.assert_allclose(accuracy(output, data), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0.0, 1.0]), "whole-number labels"),
        (torch.tensor([[0], [1]]), r"expected whole-number labels \(2,\), found torch\.int64 \(2, 1\)"),
        (torch.tensor([1, 1]), "two classes"),
    ],
)
def test_labels_that_accuracy_says_nothing_of_are_refused(labels, message):
    with pytest.raises(DataError, match=message):
        accuracy(torch.zeros(2, 3), SimpleNamespace(masks=labels, patient=torch.arange(2)))


def test_labels_may_be_bytes_or_true_and_false():
    output, data = drawn(0, (9,), classes=2)
    for masks in (data.masks.byte(), data.masks.bool()):
        np.testing.assert_array_equal(
            accuracy(output, SimpleNamespace(masks=masks, patient=data.patient)), accuracy(output, data)
        )


@few
@given(seeds, st.sampled_from([(2,), (9,), (5, 3), (4, 2, 3)]), st.floats(-100, 100))
def test_the_mean_r2_of_single_images_is_scikit_learns(seed, shape, shift):
    generator = torch.Generator().manual_seed(seed)
    output, truth = torch.randn(2, *shape, generator=generator).double() * 3 + shift
    data = SimpleNamespace(masks=truth, patient=torch.randperm(shape[0], generator=generator))
    flat = [values.reshape(shape[0], -1).numpy() for values in (truth, output)]
    expected = r2_score(*flat, multioutput="variance_weighted")
    assert r2(output, data).mean() == pytest.approx(expected, rel=1e-6)
    assert r2(truth, data).mean() == 1
    assert r2(truth.mean(0).expand(shape), data).mean() == pytest.approx(0, abs=1e-9)


def test_r2_weighs_patients_alike():
    data = SimpleNamespace(masks=torch.tensor([-1.0, 1.0, 1.0, -1.0]), patient=torch.tensor([7, 7, 7, 3]))
    output = torch.tensor([[-1.0], [1.0], [2.0], [-1.0]])  # a column, as a linear layer gives
    np.testing.assert_allclose(r2(output, data), [1, 1 - 1 / 3])  # patient 3, patient 7


@pytest.mark.parametrize("truth", [torch.full((3,), 0.1), torch.tensor([[1.0, 2.0]] * 3)])
def test_targets_that_do_not_differ_are_refused(truth):
    with pytest.raises(DataError, match="targets that differ"):
        r2(torch.randn(truth.shape), SimpleNamespace(masks=truth, patient=torch.arange(3)))


def test_another_number_of_outputs_than_targets_is_refused():
    data = SimpleNamespace(masks=torch.arange(3.0), patient=torch.arange(3))
    with pytest.raises(DataError, match=r"r2: expected an output \(3,\), as the targets, found \(3, 2\)"):
        r2(torch.zeros(3, 2), data)


@pytest.mark.parametrize("score", SCORES.values())
def test_a_score_has_a_value_for_each_patient_in_order_of_their_id(score):
    output, data = drawn(1, (8, 3, 3), classes=3)
    if score is r2:
        output = output[:, 0]
    ids = data.patient.unique()
    values = score(output, data)
    assert values.shape == ids.shape
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    shuffled = SimpleNamespace(masks=data.masks[order], patient=data.patient[order])
    np.testing.assert_allclose(score(output[order], shuffled), values)


@few
@given(seeds, shapes, st.integers(2, 5))
def test_the_largest_logit_is_chosen(seed, shape, classes):
    output, _ = drawn(seed, shape, classes)
    assert torch.equal(chosen(output), output.argmax(1))


@pytest.mark.parametrize("classes", [2, 255, 256, 257])  # a byte holds 256
def test_of_equal_logits_the_first_is_chosen(classes):
    largest = torch.ones(classes, classes).triu()  # row n: classes from n on share the largest
    assert chosen(largest).tolist() == list(range(classes))
    maps = largest[..., None, None].expand(-1, -1, 2, 3).contiguous(memory_format=torch.channels_last)
    assert (chosen(maps) == torch.arange(classes)[:, None, None]).all()


@pytest.mark.parametrize("classes", [3, 257])
def test_a_pixel_without_numbers_is_background(classes):
    output = torch.zeros(2, classes, 2, 2)
    output[:, 2] = 1
    output[0, -1, 0, 0] = torch.nan
    assert chosen(output)[0].tolist() == [[0, 2], [2, 2]]
    assert (chosen(output)[1] == 2).all()


def test_a_single_class_counts_as_present_above_0():
    assert chosen(torch.tensor([[-1.0], [0.0], [0.1]])).tolist() == [0, 0, 1]
    assert chosen(torch.tensor([[[[-1.0, 2.0]]]])).tolist() == [[[0, 1]]]
    assert chosen(torch.tensor([-1.0, 0.0, 0.1])).tolist() == [0, 0, 1]
    assert chosen(torch.tensor([[0.4], [0.5], [0.6]]), 0.5).tolist() == [0, 0, 1]


@few
@given(seeds)
def test_one_output_channel_scores_as_a_background_channel_of_0_beside_it(seed):
    output, data = drawn(seed, (5, 3, 2), classes=1)
    both = torch.cat([torch.zeros_like(output), output], 1)
    np.testing.assert_array_equal(foreground_dice(output, data), foreground_dice(both, data))
    np.testing.assert_array_equal(accuracy(output, data), accuracy(both, data))


def test_masks_of_background_alone_are_refused():
    data = SimpleNamespace(masks=torch.zeros(2, 3, 3).long(), patient=torch.arange(2))
    with pytest.raises(DataError, match="background alone"):
        foreground_dice(torch.zeros(2, 4, 3, 3), data)


@few
@given(seeds, st.integers(2, 9))
def test_values_are_averaged_by_patient_in_order_of_their_id(seed, images):
    output, data = drawn(seed, (images,))
    values = output[:, 0].double()
    expected = pd.Series(values.numpy()).groupby(data.patient.numpy()).mean()  # in order of patient id
    np.testing.assert_allclose(by_patient(values, data.patient), expected, atol=1e-12)


@few
@given(seeds, st.sampled_from([(9,), (5, 3), (4, 2, 3)]))
def test_accuracy_is_averaged_by_image_first_and_by_patient_then(seed, shape):
    output, data = drawn(seed, shape)
    right = (output.argmax(1) == data.masks).reshape(shape[0], -1).double().mean(1)
    expected = pd.Series(right).groupby(data.patient.numpy()).mean()
    np.testing.assert_allclose(accuracy(output, data), expected, atol=1e-12)


@few
@given(seeds, st.sampled_from([(7,), (7, 3), (7, 2, 3)]), st.integers(1, 4), st.sampled_from(sorted(SCORES)))
def test_counts_of_batches_put_together_give_the_score_of_the_whole(seed, shape, size, name):
    output, data = drawn(seed, shape)
    if name == "r2":
        output, data.masks = output[:, 0], data.masks * 1.5
    score = SCORES[name]
    assume(data.masks.any())
    score.check(output[:1], data)  # one image's output is enough
    parts = [score.count(*batch) for batch in zip(output.split(size), data.masks.split(size), strict=True)]
    assert [len(part) for part in parts] == [len(batch) for batch in output.split(size)]
    np.testing.assert_array_equal(score.combine(torch.cat(parts), data), score(output, data))


@pytest.mark.parametrize(("name", "score"), SCORES.items())
def test_a_score_has_a_name(name, score):
    assert score.name in (name, f"foreground_{name}")


@pytest.mark.parametrize("label", [-1, 3, 255])
def test_accuracy_refuses_labels_that_no_output_stands_for(label):
    data = SimpleNamespace(masks=torch.tensor([0, 1, label]), patient=torch.arange(3))
    with pytest.raises(DataError, match=r"expected labels 0\.\.2, found"):
        accuracy(torch.randn(3, 3), data)


@pytest.mark.parametrize("score", [foreground_dice, accuracy, r2], ids=lambda score: score.name)
@pytest.mark.parametrize("outputs", [1, 2, 4])
def test_an_output_that_is_not_one_for_each_image_is_refused(score, outputs):
    data = Samples(torch.zeros(3, 1, 4, 4), torch.arange(48).reshape(3, 4, 4) % 2, torch.arange(3))
    with pytest.raises(DataError, match=rf"output: expected one for each of 3 images, found \({outputs}, 2, 4, 4\)"):
        score(torch.randn(outputs, 2, 4, 4), data)


# ------------------------------------------------- targets, sources and patients


def simulated(rng, counts, spreads, columns):
    """Values of mean 0 in which targets, sources and patients have effects of these spreads, beside some noise."""
    shapes = [tuple(n if i == axis else 1 for i, n in enumerate(counts)) for axis in range(3)]
    effects = [spread * rng.normal(size=(*shape, columns)) for spread, shape in zip(spreads, shapes, strict=True)]
    return sum(effects) + 0.3 * rng.normal(size=(*counts, columns))


@pytest.mark.parametrize(
    ("counts", "spreads", "columns"),
    [
        ((3, 3, 14), (1, 1, 1), 6),
        ((3, 3, 14), (3, 0.3, 1), 6),  # targets make nearly all of the spread
        ((3, 3, 14), (0.1, 0.1, 1), 6),
        ((3, 1, 14), (2, 0, 1), 6),
        ((3, 1, 14), (2, 0, 1), 1),
        ((1, 1, 14), (0, 0, 1), 6),
    ],
)
def test_crossed_intervals_hold_all_columns_at_once_about_as_often_as_they_say(counts, spreads, columns):
    rng, shown = np.random.default_rng(0), []
    for seed in range(250):
        _, low, high = crossed_interval(simulated(rng, counts, spreads, columns), seed, draws=200)
        shown.append(((low <= 0) & (high >= 0)).all())
    assert 0.88 < np.mean(shown) < 0.99


def test_a_column_whose_seeds_are_alike_by_chance_is_no_surer_than_all_together():
    rng = np.random.default_rng(0)
    values = simulated(rng, (3, 1, 14), (2, 0, 1), 6)
    values[..., 0] -= values[..., 0].mean((1, 2), keepdims=True)  # three targets of one mean
    among, alone = (crossed_interval(each) for each in (values, values[..., [0]]))
    many = stats.norm.ppf(1 - 0.025 / 6) / stats.norm.ppf(0.975)  # what six columns cost where degrees are the same
    assert (among[2] - among[1])[0] > 1.15 * many * (alone[2] - alone[1])[0]


def test_the_crossed_interval_of_patients_alone_is_the_normal_one():
    values = np.random.default_rng(0).normal(size=(1, 1, 200, 1))
    mean, low, high = crossed_interval(values)
    half = 1.96 * values.std(ddof=1) / 200**0.5
    assert mean[0] == pytest.approx(values.mean())
    assert (high - mean)[0] == pytest.approx(half, rel=0.06)
    assert (mean - low)[0] == pytest.approx(half, rel=0.06)


def test_many_columns_need_wider_limits_than_one():
    values = np.random.default_rng(0).normal(size=(1, 1, 100, 20))
    _, low, high = crossed_interval(values)
    alone = [crossed_interval(values[..., [column]]) for column in range(20)]
    ratio = (high - low) / [(h - lo)[0] for _, lo, h in alone]
    assert 1.3 < ratio.mean() < 1.8  # the normal's 1 - .05 / 2 / 20 quantile over its .975 is 1.54


def test_seeds_that_differ_count_however_many_patients_there_are():
    values = np.random.default_rng(0).normal(size=(3, 1, 1, 1)) + np.zeros((3, 3, 1000, 1))
    mean, _low, high = crossed_interval(values)
    half = stats.t.ppf(0.975, 2) * values[:, 0, 0, 0].std(ddof=1) / 3**0.5
    assert (high - mean)[0] == pytest.approx(half, rel=0.15)


def test_nothing_to_resample_gives_no_interval():
    mean, low, high = crossed_interval(np.ones((1, 1, 1, 2)))
    assert mean.tolist() == [1, 1]
    assert np.isnan([low, high]).all()


def test_pixels_that_are_not_counted_change_no_dice():
    mask = torch.tensor([[[1, 1, 0, 255]], [[2, 0, 255, 255]]])
    prediction = torch.tensor([[[1, 0, 0, 2]], [[2, 2, 1, 0]]])
    found = dice(prediction, mask, torch.tensor([1, 2]), 3, ignore_index=255)
    by_hand = [dice(prediction[:1, :, :3], mask[:1, :, :3], torch.tensor([1]), 3)]
    by_hand.append(dice(prediction[1:, :, :2], mask[1:, :, :2], torch.tensor([2]), 3))
    pd.testing.assert_frame_equal(found, pd.concat(by_hand, ignore_index=True))
