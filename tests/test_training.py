"""Training on blobs that a tiny network learns in seconds; losses against arithmetic."""

import copy
import itertools

import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional

import prr
from prr.data import Slices
from prr.errors import JobError, NetworkError
from prr.layers import KINDS, tensor
from prr.metrics import dice
from prr.study import paper, pspnet, unet
from prr.study.training import LOSSES, autoencoding_loss, cost_per_slice, fit, orders, segmentation_loss, validate


def blobs(size=16):
    """Bright squares of class 3 on dark ground, one per slice; patient 2 is held out."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(12, size, size, dtype=torch.uint8)
    for mask, (row, column) in zip(masks, torch.randint(2, size - 8, (12, 2), generator=generator), strict=True):
        mask[row : row + 6, column : column + 6] = 3
    images = masks[:, None] / 3 + 0.1 * torch.randn(12, 1, size, size, generator=generator)
    return Slices(
        images=images, masks=masks, patient=torch.arange(12) // 4, spacing_mm=2.0, name="blobs", held_out=(2,)
    )


def tiny(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1))


def trained(task="segmentation", seed=0, steps=8, start=0):
    model = tiny(start)
    history = fit(model, blobs(), task, steps=steps, batch_size=4, learning_rate=0.02, seed=seed, checkpoints=4)
    return model, history


def same(first, second):
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("task", LOSSES)
def test_the_loss_falls_to_less_than_half(task):
    _, history = trained(task, steps=48)
    assert history["loss"].iloc[-1] < history["loss"].iloc[0] / 2


def test_the_validation_measure_is_dice_for_segmentation_and_square_error_for_auto_encoding():
    part = blobs().validation
    model, history = trained("segmentation", steps=48)
    table = dice(model.eval()(part.images).argmax(1), part.masks, part.patient)
    expected = table.loc[table["class"] > 0, "dice"].mean()
    assert history["validation"].iloc[-1] == pytest.approx(expected, abs=1e-6)
    model, history = trained("auto-encoding", steps=48)
    error = (model.eval()(part.images) - part.images).square().mean().item()
    assert history["validation"].iloc[-1] == pytest.approx(error, rel=1e-5)


@pytest.mark.parametrize("task", LOSSES)
def test_the_same_seed_gives_the_same_network_bit_for_bit(task):
    first, second = (trained(task, seed=3) for _ in range(2))
    assert same(first[0], second[0])
    assert first[1].equals(second[1])


def scrambled(model):
    """The same network with every parameter and buffer at random, between 0.5 and 1.5."""
    other, generator = copy.deepcopy(model), torch.Generator().manual_seed(7)
    for value in (value for value in other.state_dict().values() if value.is_floating_point()):
        value.copy_(0.5 + torch.rand(value.shape, generator=generator))
    return other


@pytest.mark.parametrize("kind", paper.KINDS)
@pytest.mark.parametrize("task", LOSSES)
def test_what_is_frozen_is_bit_identical_after_training_and_all_else_has_moved(kind, task):
    source = scrambled(tiny())
    row = prr.parameter_table(source).query("kind == @kind and layer == 1")[["kind", "layer", "name"]]
    model = prr.apply_plan(tiny(), source, row.assign(action="reuse"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fit(model, blobs(), task, steps=6, batch_size=4, learning_rate=0.02, seed=0)
    name = f"{row['name'].item()}.{KINDS[kind].attribute}"
    assert [each for each, value in model.state_dict().items() if torch.equal(value, before[each])] == [name]
    assert torch.equal(model.state_dict()[name], source.state_dict()[name])


@pytest.mark.parametrize("kind", paper.KINDS)
def test_pspnet_keeps_one_kind_through_training_in_all_layers_the_auxiliary_heads_too(kind):
    torch.manual_seed(0)
    target, source = pspnet(8), scrambled(pspnet(8))
    plan = prr.parameter_table(source).query("kind == @kind")[["kind", "layer", "name"]]
    model = prr.apply_plan(target, source, plan.assign(action="reuse"))
    fit(model, blobs(48), "segmentation", steps=2, batch_size=4, learning_rate=0.02, seed=0)
    for name in plan["name"]:
        assert torch.equal(tensor(model, kind, name), tensor(source, kind, name)), name
    assert not torch.equal(model.auxiliary[0].bn.running_mean, source.auxiliary[0].bn.running_mean) or kind == "RM"


def test_a_network_that_is_frozen_throughout_is_refused():
    with pytest.raises(NetworkError, match="Sequential: every parameter is frozen"):
        fit(tiny().requires_grad_(False), blobs(), "segmentation", steps=1, batch_size=4, learning_rate=0.02, seed=0)


@pytest.mark.parametrize("training", [True, False])
def test_a_batch_that_does_not_fit_is_told_with_the_one_that_may(training):
    class Large(nn.Conv2d):
        def forward(self, x):
            if self.training == training:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(x)

    with pytest.raises(JobError, match=r"out of memory with batch_size=6.*set batch_size=3"):
        fit(Large(1, 4, 1), blobs(), "segmentation", steps=1, batch_size=6, learning_rate=0.02, seed=0)


@pytest.mark.parametrize("make", [unet, pspnet])
def test_what_a_slice_keeps_in_training_is_what_an_allocator_still_holds_after_the_forward_pass(make):
    model, size = make(8), 64
    images, masks = torch.randn(2, 1, size, size), torch.zeros(2, size, size, dtype=torch.long)
    with torch.profiler.profile(profile_memory=True) as profiled:
        output = model(images)
        losses = [segmentation_loss(each, images, masks) for each in (output if make is pspnet else (output,))]
    assert all(loss.requires_grad for loss in losses)  # what they need is still there
    held = sum(event.self_cpu_memory_usage for event in profiled.key_averages())
    _, kept = cost_per_slice(make(8), size)
    assert kept == pytest.approx(held / 2, rel=0.1)


CHECKPOINTS = [(None, [8]), (0, []), (1, [8]), (2, [4, 8]), (100, list(range(1, 9)))]


@pytest.mark.parametrize(("checkpoints", "steps"), CHECKPOINTS)
def test_the_history_has_as_many_lines_as_asked_and_they_change_nothing_else(checkpoints, steps):
    model = tiny()
    options = {"steps": 8, "batch_size": 4, "learning_rate": 0.02, "seed": 0}
    history = fit(model, blobs(), "segmentation", checkpoints=checkpoints, **options)
    assert history["step"].tolist() == steps
    assert same(model, trained()[0])


def test_the_random_state_outside_neither_matters_nor_changes():
    first, _ = trained(seed=3)
    model = tiny()
    torch.manual_seed(99)
    before = torch.get_rng_state()
    fit(model, blobs(), "segmentation", steps=8, batch_size=4, learning_rate=0.02, seed=3)
    assert same(first, model)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("other", [{"seed": 4}, {"start": 1}, {"steps": 9}, {"task": "auto-encoding"}])
def test_another_seed_start_number_of_steps_or_task_gives_another_network(other):
    assert not same(trained(seed=3)[0], trained(**{"seed": 3, **other})[0])


@pytest.mark.parametrize("steps", [1, 7, 8, 19])
def test_the_history_ends_with_the_last_step(steps):
    _, history = trained(steps=steps)
    assert list(history.columns) == ["step", "loss", "validation"]
    assert history["step"].is_monotonic_increasing
    assert history["step"].iloc[-1] == steps
    assert not history.isna().any(axis=None)


def test_only_the_training_part_is_trained_on():
    data = blobs()
    noise = torch.where((data.patient == 2)[:, None, None, None], torch.randn(12, 1, 16, 16), data.images)
    other = Slices(images=noise, masks=data.masks, patient=data.patient, spacing_mm=2.0, name="x", held_out=(2,))
    model = tiny()
    fit(model, other, "segmentation", steps=8, batch_size=4, learning_rate=0.02, seed=0)
    assert same(model, trained()[0])


def test_training_starts_from_the_learning_rate_and_decays_to_0(monkeypatch):
    rates = []
    step = torch.optim.Adam.step

    def spy(self, *arguments):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.Adam, "step", spy)
    trained(steps=10)
    half_way = [0.02 * (1 + torch.cos(torch.tensor(torch.pi * k / 10)).item()) / 2 for k in range(10)]
    assert rates == pytest.approx(half_way)


# ---------------------------------------------------------------------- losses


def test_auto_encoding_loss_is_the_mean_square_error_of_every_copy():
    image = torch.tensor([[[[1.0, 2.0]]]])
    output = torch.tensor([[[[1.0, 2.0]], [[2.0, 2.0]], [[1.0, 0.0]], [[0.0, 2.0]]]])
    assert autoencoding_loss(output, image, torch.zeros(1, 1, 2)).item() == pytest.approx((1 + 4 + 1) / 8)


def test_segmentation_loss_by_hand():
    # two pixels, two classes, foreground with probability 3/4 and 1/4; the first is foreground
    output = torch.log(torch.tensor([[[[0.25, 0.75]], [[0.75, 0.25]]]]))
    cross_entropy = -torch.log(torch.tensor(0.75)).item()
    soft_dice = (2 * 0.75 + 1) / (0.75 + 0.25 + 1 + 1)
    found = segmentation_loss(output, torch.zeros(1, 1, 1, 2), torch.tensor([[[1, 0]]]))
    assert found.item() == pytest.approx(cross_entropy + 1 - soft_dice)


@pytest.mark.parametrize("classes", [[0, 1, 2, 3], [0, 1], [0]])
def test_segmentation_loss_is_0_for_a_certain_and_right_output(classes):
    mask = torch.tensor(classes).repeat(8)[:4].reshape(1, 2, 2)
    output = 50.0 * functional.one_hot(mask, 4).movedim(-1, 1)
    assert segmentation_loss(output, torch.zeros(1, 1, 2, 2), mask).item() == pytest.approx(0, abs=1e-5)


def test_segmentation_loss_grows_as_the_right_label_grows_less_likely():
    mask = torch.tensor([[[0, 1], [2, 3]]])
    right = functional.one_hot(mask, 4).movedim(-1, 1).float()
    losses = [segmentation_loss(certainty * right, None, mask).item() for certainty in (8, 2, 0, -2)]
    assert losses == sorted(losses)


def test_the_auxiliary_head_adds_four_tenths_of_its_own_loss():
    class Constant(nn.Module):
        """Two outputs in train mode: the image off by 1, and off by 3."""

        def __init__(self):
            super().__init__()
            self.offset = nn.Parameter(torch.ones(()))

        def forward(self, x):
            x = x.detach().expand(-1, 4, -1, -1)
            return (x + self.offset, x + 3 * self.offset) if self.training else x + self.offset

    history = fit(Constant(), blobs(), "auto-encoding", steps=1, batch_size=4, learning_rate=0.02, seed=0)
    assert history["loss"].item() == pytest.approx(1 + 0.4 * 9, rel=1e-5)


def test_pspnets_auxiliary_head_is_trained():
    torch.manual_seed(0)
    model = pspnet(8)
    before = model.auxiliary[1].weight.detach().clone()
    fit(model, blobs(48), "segmentation", steps=1, batch_size=4, learning_rate=0.02, seed=0)
    assert not torch.equal(model.auxiliary[1].weight, before)


def test_validate_takes_batch_norm_in_eval_mode():
    model, part = tiny(), blobs().validation
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert validate(model.train(), part, "segmentation") == validate(model.eval(), part, "segmentation")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# ---------------------------------------------------------------------- orders


@pytest.mark.parametrize(("count", "batch_size"), [(10, 5), (10, 4), (7, 3), (3, 8), (1, 2), (5, 5)])
def test_every_pass_holds_every_index_once(count, batch_size):
    stream = itertools.chain.from_iterable(batch.tolist() for batch in orders(count, batch_size, seed=1))
    for _ in range(4):
        assert sorted(itertools.islice(stream, count)) == list(range(count))


def test_batches_are_full_and_passes_differ():
    batches = list(itertools.islice(orders(20, 20, seed=1), 3))
    assert {len(batch) for batch in batches} == {20}
    assert len({tuple(batch.tolist()) for batch in batches}) == 3


def test_the_order_depends_on_the_seed_alone():
    first, second, other = ([*itertools.islice(orders(20, 6, seed), 5)] for seed in (1, 1, 2))
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))
    assert not all(torch.equal(*pair) for pair in zip(first, other, strict=True))


def test_history_is_a_table_that_json_can_keep():
    _, history = trained(steps=2)
    assert pd.DataFrame(**history.to_dict("split", index=False)).equals(history)
