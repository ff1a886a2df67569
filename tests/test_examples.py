"""The networks and data of chapter 10: made by the seed, disjoint where they have to be, trained and kept once."""

import copy

import pytest
import torch

import prr
from prr.errors import OptionError
from prr.metrics import accuracy
from prr.reuse import predict
from prr.study import Experiment, examples

pytestmark = pytest.mark.usefixtures("phantoms_only")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return Experiment("smoke", store=tmp_path_factory.mktemp("store"), progress=False)


def test_the_target_learns_from_other_digits_than_it_is_judged_on(run):
    run = Experiment("quick", store=run.store.folder)
    few, validation, other = (examples.data(run, name).images.flatten(1) for name in ("few", "validation", "other"))
    assert [len(part) for part in (few, validation, other)] == [100, run.profile.example_images, 1197]
    assert few.abs().max() == validation.abs().max() == 1
    together = torch.cat([few, validation, other])
    assert len(together.unique(dim=0)) == len(together)


def test_negatives_and_turned_digits_show_what_the_others_show(run):
    other, negative, turned = (examples.data(run, name) for name in ("other", "negative", "turned"))
    assert torch.equal(negative.images, -other.images)
    torch.testing.assert_close(turned.images, other.images.rot90(1, (2, 3)))
    assert torch.equal(other.masks, negative.masks)


@pytest.mark.parametrize(("name", "labels"), [("three", 4), ("two", 3), ("scenes", 4)])
def test_scenes_show_their_labels_brighter_than_the_ground(run, name, labels):
    scenes = examples.data(run, name)
    assert scenes.masks.unique().tolist() == list(range(labels))
    images, masks = scenes.images[:, 0], scenes.masks
    for label in range(1, labels):
        assert images[masks == label].mean() - images[masks == 0].mean() == pytest.approx(1, abs=0.05)
    assert torch.equal(scenes.images, examples.data(run, name).images)


def test_one_architecture_has_one_start_and_the_global_generator_is_left_alone(run):
    state = torch.get_rng_state()
    first, second = (examples.start(run, name) for name in ("few digits", "negatives"))
    assert torch.equal(torch.get_rng_state(), state)
    assert (prr.rmse(first, second)["rmse"] == 0).all()


def test_a_network_is_trained_once_and_found_again(run, monkeypatch):
    trained = run.example("few digits")
    assert (prr.rmse(examples.start(run, "few digits"), trained).query("kind == 'W'")["rmse"] > 0).all()
    monkeypatch.setattr(examples, "train", None)
    assert (prr.rmse(run.example("few digits"), trained)["rmse"] == 0).all()


def test_training_leaves_what_is_frozen(run):
    model = copy.deepcopy(examples.start(run, "few digits"))
    model.conv1.weight.requires_grad_(False)
    before = model.conv1.weight.clone()
    examples.train(run, model, examples.data(run, "few"))
    assert torch.equal(model.conv1.weight, before)
    assert not torch.equal(model.fc.weight, examples.start(run, "few digits").fc.weight)


def test_gains_are_over_the_first_network(run):
    models = {"start": examples.start(run, "few digits"), "trained": run.example("few digits")}
    data = examples.data(run, "validation")
    table = examples.gains(models, data).set_index("network")
    scores = {name: accuracy(predict(model, data.images), data).mean() for name, model in models.items()}
    assert table["score"].to_dict() == pytest.approx(scores)
    assert table.loc["start", ["gain", "low", "high"]].tolist() == [0, 0, 0]
    assert table.loc["trained", "gain"] == pytest.approx(scores["trained"] - scores["start"])
    assert table.loc["trained", "low"] <= table.loc["trained", "gain"] <= table.loc["trained", "high"]


@pytest.mark.parametrize("function", [examples.data, examples.start])
def test_an_unknown_name_is_refused_with_the_known_ones(run, function):
    with pytest.raises(OptionError, match=r"'fewer'.*few"):
        function(run, "fewer")
