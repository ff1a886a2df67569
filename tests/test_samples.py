"""Tensors, Datasets and DataLoaders brought into the form that a sweep takes; what no score could use is refused."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from prr.errors import DataError
from prr.samples import check_data, samples

few = settings(max_examples=30, deadline=None)
FIELDS = ("images", "masks", "patient")


class Items(Dataset):
    """A Dataset that gives these items."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


class Stream(IterableDataset):
    """The same, without a length."""

    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


def tensors(count, units=False, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 1, 2, 3, generator=generator)
    labels = torch.randint(4, (count, 2, 3), generator=generator)
    return images, labels, *[torch.randint(5, (count,), generator=generator)] * units


def assert_holds(data, expected):
    """The data hold these tensors; each image is its own unit where there are but two."""
    assert len(data.images) == len(data.masks) == len(data.patient)
    units = expected[2] if len(expected) == 3 else torch.arange(len(expected[0]))
    for name, value in zip(FIELDS, (*expected[:2], units), strict=True):
        assert torch.equal(getattr(data, name), value), name


@few
@given(st.integers(1, 200), st.booleans(), st.integers(1, 70))
def test_every_form_gives_the_same_data_in_the_same_order(count, units, batch_size):
    given = tensors(count, units)
    items = list(zip(*given, strict=True))
    loaders = (DataLoader(TensorDataset(*given), batch_size), DataLoader(Stream(items), batch_size))
    for form in (given, list(given), TensorDataset(*given), Items(items), Stream(items), *loaders):
        assert_holds(samples(form), given)


@pytest.mark.parametrize("count", [1, 64, 65, 128, 192])
def test_a_dataset_is_read_to_its_end_across_batches(count):
    given = tensors(count, units=True)
    assert_holds(samples(TensorDataset(*given)), given)


def test_an_object_that_holds_all_three_comes_back_as_it_is():
    data = SimpleNamespace(**dict(zip(FIELDS, tensors(3, units=True), strict=True)), spacing=1.25)
    assert samples(data) is data
    assert samples(samples(tensors(3))).patient.tolist() == [0, 1, 2]


def test_a_dataset_that_holds_all_three_is_not_read_item_by_item():
    data = Items([])
    data.images, data.masks, data.patient = tensors(3, units=True)
    assert samples(data) is data


def test_plain_numbers_become_labels_or_targets():
    images = tensors(3)[0]
    labels, targets = (samples(Items([(image, value) for image in images])).masks for value in (2, 0.5))
    assert labels.tolist() == [2, 2, 2]
    assert not labels.is_floating_point()
    assert targets.tolist() == [0.5, 0.5, 0.5]
    assert samples(Items([(image.numpy(), np.int64(1), 7) for image in images])).patient.tolist() == [7, 7, 7]


def test_the_global_generator_is_left_alone_by_a_dataset():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    for form in (TensorDataset(*tensors(70)), Stream(list(zip(*tensors(70), strict=True)))):
        samples(form)
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("images.pt", "found str"),
        (None, "found NoneType"),
        (tensors(3)[0], "found Tensor"),
        ({"images": tensors(3)[0]}, "found dict"),
        (tensors(3)[:1], "found 1 of Tensor"),
        ((*tensors(3, units=True), "cat"), "found 4 of Tensor, str"),
        (TensorDataset(*[tensors(3)[0]] * 4), "found 4 of Tensor"),
        (TensorDataset(tensors(3)[0]), "found 1 of Tensor"),
        ((np.zeros((3, 2)), np.zeros(3)), "data.images: expected a torch tensor, found ndarray"),
        ((tensors(3)[0], [0, 1, 2]), "data.masks: expected a torch tensor, found list"),
        ((*tensors(3), ["a", "b", "c"]), "data.patient: expected a torch tensor, found list"),
        (Items([(torch.zeros(2), "cat")] * 3), "expected tensors of one shape for each image"),
        ([(torch.zeros(2), 1)] * 3, "data.images: expected a torch tensor, found tuple"),
        (Items([]), "at least one"),
        (Stream([]), "at least one"),
        (DataLoader(TensorDataset(*tensors(0))), "at least one"),
        (tensors(0), "at least one"),
    ],
)
def test_what_is_no_data_is_refused(data, message):
    with pytest.raises(DataError, match=message):
        samples(data)


@pytest.mark.parametrize(
    "items",
    [
        [(Image.new("L", (2, 2)), 1)] * 3,
        [(torch.zeros(2), 1), (torch.zeros(3), 1)],  # sizes that differ, as slices not yet resampled
    ],
)
def test_items_that_make_no_batch_are_refused(items):
    with pytest.raises(DataError):
        samples(Items(items))


@pytest.mark.parametrize("count", [3, 128, 192])  # 128 and 192 are two and three batches of 64
def test_a_dataset_of_images_without_targets_is_refused(count):
    with pytest.raises(DataError):
        samples(Items(list(torch.zeros(count, 2))))


@pytest.mark.parametrize("place", [0, 1, 2])
def test_another_length_is_refused_with_its_owner(place):
    data = [*tensors(3, units=True)]
    data[place] = data[place][:2]
    with pytest.raises(DataError, match=rf"data\.{FIELDS[max(place, 1)]}: expected one for each of"):
        samples(data)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_single_number_is_refused(place):
    data = [*tensors(3, units=True)]
    data[place] = torch.tensor(1)
    with pytest.raises(DataError, match=rf"data\.{FIELDS[place]}"):
        samples(data)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("owner", ["images", "masks"])
def test_values_that_are_not_finite_are_refused_with_their_owner(value, owner):
    data = SimpleNamespace(images=torch.zeros(3, 2), masks=torch.zeros(3), patient=torch.arange(3))
    check_data(data)
    getattr(data, owner).view(-1)[-1] = value
    for check in (check_data, samples):
        with pytest.raises(DataError, match=rf"data\.{owner}: expected finite"):
            check(data)


def test_data_that_lack_a_part_are_refused():
    with pytest.raises(DataError, match=r"data\.patient: expected a torch tensor, found NoneType"):
        check_data(SimpleNamespace(images=torch.zeros(3, 2), masks=torch.zeros(3)))


def test_more_than_one_unit_to_an_image_is_refused():
    with pytest.raises(DataError, match=r"data\.patient"):
        samples((*tensors(3), torch.zeros(3, 2).long()))
