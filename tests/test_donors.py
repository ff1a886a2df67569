"""Donors: what each keeps of the network it is made from, what it destroys, and that nothing else is touched."""

import copy
import functools
import itertools

import numpy as np
import pytest
import torch
import torchvision.models as tv
from torch import nn

import prr
from prr import donors
from prr.donors import noisy, shuffled, towards, zero
from prr.errors import NetworkError, OptionError
from prr.layers import full_name, named_tensors, parameter_table, tensor


class Mixed(nn.Module):
    """One layer of each kind: grouped and transposed convolutions, batch and group norm, linear."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, padding=1, groups=2)
        self.norm = nn.BatchNorm2d(8)
        self.up = nn.ConvTranspose2d(8, 12, 2, stride=2, groups=2)
        self.group = nn.GroupNorm(3, 12)
        self.plain = nn.BatchNorm2d(12, affine=False)
        self.head = nn.Linear(12, 1)

    def forward(self, images):
        inner = self.plain(self.group(self.up(self.norm(self.conv(images)).relu())))
        return self.head(inner.relu().mean((2, 3)))


def mlp():
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))


NETWORKS = {"mixed": Mixed, "mlp": mlp, "shufflenet": functools.partial(tv.shufflenet_v2_x0_5, num_classes=10)}


def randomised(model, seed):
    """All tensors drawn at random, batch norms too; variances positive and of very different size."""
    generator = torch.Generator().manual_seed(seed)
    for kind, name in pairs(model):
        value = tensor(model, kind, name).data
        value.copy_(0.3 + torch.randn(value.shape, generator=generator))
        if kind == "RV":
            value.exp_()
    return model


def pairs(model):
    return list(parameter_table(model)[["kind", "name"]].itertuples(index=False, name=None))


@pytest.fixture(params=NETWORKS)
def two(request):
    return [randomised(NETWORKS[request.param](), seed) for seed in (1, 2)]


DONORS = {
    "towards": lambda target, source, seed: towards(target, source, 0.3),
    "noisy": noisy,
    "random": lambda target, source, seed: donors.random(target, seed),
    "shuffled": lambda target, source, seed: shuffled(source, seed),
    "zero": lambda target, source, seed: zero(target),
}
SEEDED = ["noisy", "random", "shuffled"]


def state(model):
    return {name: value.detach().clone() for name, value in named_tensors(model).items()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one | other)


@pytest.fixture(params=DONORS)
def make(request):
    return DONORS[request.param]


# ---------------------------------------------------------------- all of them


def test_whoever_hands_networks_in_gets_them_back_untouched(two, make):
    two[0].train()
    before, random_state = [state(each) for each in two], torch.get_rng_state()
    donor = make(*two, 3)
    assert all(same(old, state(each)) for old, each in zip(before, two, strict=True))
    assert torch.equal(random_state, torch.get_rng_state())
    ours = {value.data_ptr() for each in two for value in named_tensors(each).values()}
    assert not ours & {value.data_ptr() for value in named_tensors(donor).values()}


def test_a_donor_has_the_shapes_types_and_mode_of_what_it_is_made_from(make):
    two = [randomised(Mixed(), seed).double().train() for seed in (1, 2)]
    two[0].conv.weight.requires_grad_(False)
    two[1].conv.weight.requires_grad_(False)
    donor = make(*two, 3)
    for name, value in named_tensors(donor).items():
        mine = named_tensors(two[0])[name]
        assert (value.shape, value.dtype, value.device) == (mine.shape, mine.dtype, mine.device)
        assert value.requires_grad == mine.requires_grad
    assert donor.training


def test_a_donor_can_be_swept(make):
    two = [randomised(Mixed(), seed).eval() for seed in (1, 2)]
    data = torch.randn(6, 4, 5, 5), torch.tensor([0, 1] * 3)
    swept = prr.sweep(two[0], make(*two, 3), data, score="accuracy")
    assert len(swept) == len(parameter_table(two[0]))
    assert swept["drop"].notna().all()


def test_donors_are_finite_and_their_variances_no_less_than_zero(two, make):
    donor = make(*two, 3)
    for kind, name in pairs(donor):
        value = tensor(donor, kind, name)
        assert torch.isfinite(value).all()
        assert kind != "RV" or (value >= 0).all()


@pytest.mark.parametrize("name", SEEDED)
def test_a_seed_gives_the_same_donor_again_and_another_one_another(two, name):
    first, again, other = (state(DONORS[name](*two, seed)) for seed in (3, 3, 4))
    assert same(first, again)
    assert not same(first, other)


def test_diverged_networks_are_refused(make):
    two = [Mixed(), Mixed()]
    for each in two:
        each.norm.bias.data[0] = np.nan
    with pytest.raises(NetworkError, match=r"norm.bias: the target has NaN"):
        make(*two, 0)


def test_a_network_without_layers_is_refused(make):
    with pytest.raises(NetworkError, match="found none"):
        make(nn.Sequential(nn.ReLU()), nn.Sequential(nn.ReLU()), 0)


def test_a_weight_with_two_names_stays_one(make):
    def tied():
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        model[1].weight = model[0].weight
        return model

    donor = make(randomised(tied(), 1), randomised(tied(), 2), 0)
    assert donor[0].weight is donor[1].weight


# ---------------------------------------------------------------- at a distance


@pytest.mark.parametrize("name", ["towards", "noisy"])
@pytest.mark.parametrize("other", [lambda: nn.Conv2d(1, 4, 5), lambda: nn.Conv2d(1, 4, 3, bias=False)])
def test_networks_that_do_not_match_are_refused(name, other):
    with pytest.raises(NetworkError, match=r"target \(.*source (\(|has none)"):
        DONORS[name](nn.Conv2d(1, 4, 3), other(), 0)


def test_part_of_the_way_has_that_part_of_the_rmse_and_the_ends_are_the_two_networks(two):
    target, source = two
    full = prr.rmse(target, source)["rmse"]
    assert prr.rmse(target, towards(target, source, 0.25))["rmse"].to_numpy() == pytest.approx(0.25 * full, rel=1e-5)
    assert prr.rmse(target, towards(target, source, 0))["rmse"].max() == 0
    assert prr.rmse(source, towards(target, source, 1))["rmse"].max() < 1e-6


def test_noise_is_as_far_as_the_source_in_another_direction(two):
    target, source = two
    donor, apart = noisy(target, source, seed=3), prr.rmse(target, source)
    np.testing.assert_allclose(prr.rmse(target, donor)["rmse"], apart["rmse"], rtol=1e-5)
    for kind, name in pairs(target):
        own, theirs, noise = (tensor(each, kind, name).detach().flatten() for each in (target, source, donor))
        if len(own) > 100:
            assert abs(torch.cosine_similarity(noise - own, theirs - own, dim=0)) < 0.4


def test_variances_that_noise_would_take_below_zero_go_up_by_as_much():
    target, source = nn.BatchNorm1d(1000), nn.BatchNorm1d(1000)
    target.running_var[:500] = 0.1
    source.running_var[:] = target.running_var + 2.0
    found = noisy(target, source).running_var - target.running_var
    assert found.square().mean().sqrt().item() == pytest.approx(2.0, rel=1e-6)
    assert (found[:500] > -0.1).all()
    assert (found < 0).any()  # where there is room
    assert found.abs().std().item() == pytest.approx(2 * (1 - 2 / np.pi) ** 0.5, rel=0.1)  # Gaussian in size


def test_no_distance_is_no_noise(two):
    donor = noisy(two[0], copy.deepcopy(two[0]))
    assert same(state(two[0]), state(donor))


# ---------------------------------------------------------------- of equal scale


def test_a_random_donor_has_the_targets_means_and_deviations_and_nothing_else(two):
    target, donor = two[0], donors.random(two[0], seed=3)
    for kind, name in pairs(target):
        own, drawn = (tensor(each, kind, name).detach().double().flatten() for each in (target, donor))
        if kind == "RV":
            assert (drawn > 0).all()
            continue
        assert drawn.mean().item() == pytest.approx(own.mean().item(), rel=1e-5, abs=1e-7)
        assert drawn.std(correction=0).item() == pytest.approx(own.std(correction=0).item(), rel=1e-5, abs=1e-7)
        if len(own) > 100:
            assert abs(torch.corrcoef(torch.stack([own, drawn]))[0, 1]) < 0.4


def test_random_variances_have_the_targets_mean_and_deviation_on_average():
    target = nn.BatchNorm1d(40000)
    target.running_var.uniform_(0, 2, generator=torch.Generator().manual_seed(0))
    drawn = donors.random(target).running_var
    assert drawn.mean().item() == pytest.approx(1, rel=0.02)
    assert drawn.std().item() == pytest.approx(3**-0.5, rel=0.03)
    target.running_var[:] = 0
    assert (donors.random(target).running_var == 0).all()


def test_a_random_donor_of_equal_or_single_values_is_the_target():
    target = nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 1))  # RM 0, RV 1, RW 1, RB 0
    drawn = donors.random(target, seed=1)
    assert same(state(target[0]), state(drawn[0]))
    assert torch.equal(target[1].bias, drawn[1].bias)
    assert not torch.equal(target[1].weight, drawn[1].weight)


# ---------------------------------------------------------------- shuffled


def orders(model, donor, name, transposed=False, groups=1):
    """{permutation} that each tensor of a layer went through, found by comparing every channel with every other."""
    found = set()
    for own, moved in zip(state(model.get_submodule(name)).values(), state(donor.get_submodule(name)).values(),
                          strict=True):  # fmt: skip
        if own.ndim == 0:
            continue  # a counter
        if transposed and own.ndim > 1:
            own, moved = (torch.cat(each.chunk(groups), dim=1).transpose(0, 1) for each in (own, moved))
        found.add(tuple(next(j for j, each in enumerate(own) if torch.equal(each, channel)) for channel in moved))
    return found


@pytest.mark.parametrize(
    ("name", "options"),
    [("conv", {}), ("norm", {}), ("up", {"transposed": True, "groups": 2}), ("group", {}), ("plain", {})],
)
def test_all_tensors_of_a_layer_go_through_one_permutation_of_its_output_channels(name, options):
    model = randomised(Mixed(), 1)
    found = orders(model, shuffled(model, seed=3), name, **options)
    assert len(found) == 1
    order = found.pop()
    assert sorted(order) == list(range(len(order))) != list(order)


def test_layers_have_permutations_of_their_own():
    model = nn.Sequential(*(randomised(nn.BatchNorm2d(64), seed) for seed in range(3)))
    donor = shuffled(model)
    found = [orders(model, donor, str(place)).pop() for place in range(3)]
    assert all(one != other for one, other in itertools.combinations(found, 2))


def test_a_shuffled_linear_layer_gives_its_outputs_in_another_order():
    layer = randomised(nn.Linear(6, 16), 1)
    inputs = torch.randn(5, 6)
    with torch.no_grad():
        own, moved = layer(inputs), shuffled(layer)(inputs)
    assert not torch.allclose(own, moved)
    torch.testing.assert_close(own.sort(1).values, moved.sort(1).values)


def test_a_shuffled_up_convolution_gives_its_outputs_in_another_order():
    layer = randomised(nn.ConvTranspose2d(3, 8, 2, stride=2), 1)  # without groups the order of channels is free
    images = torch.randn(2, 3, 4, 4)
    with torch.no_grad():
        own, moved = layer(images), shuffled(layer)(images)
    order = orders(layer, shuffled(layer), "", transposed=True).pop()
    torch.testing.assert_close(moved, own[:, list(order)])


def test_shuffling_keeps_every_value(two):
    donor = shuffled(two[1], seed=5)
    for kind, name in pairs(donor):
        own, moved = (tensor(each, kind, name).flatten().sort().values for each in (two[1], donor))
        assert torch.equal(own, moved), full_name(kind, name)


# ---------------------------------------------------------------- zero


def test_zero_is_zero_but_for_variances():
    donor = zero(randomised(Mixed(), 1))
    assert set(dict(pairs(donor))) == {"W", "B", "RM", "RV", "RW", "RB", "LW", "LB", "NW", "NB"}
    for kind, name in pairs(donor):
        assert (tensor(donor, kind, name) == (1 if kind == "RV" else 0)).all()


def test_a_batch_norm_without_statistics_of_its_own_passes_its_input_on():
    layer = randomised(nn.BatchNorm2d(3), 1).eval()
    inputs = torch.randn(2, 3, 4, 4)
    donor = zero(layer).eval()
    nn.init.ones_(donor.weight)
    torch.testing.assert_close(donor(inputs), inputs, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- by name


def test_at_is_so_far_from_the_target_in_every_tensor_and_towards_the_source():
    torch.manual_seed(0)
    target, source = mlp(), mlp()
    made = donors.at(target, source, 0.25)
    table = prr.rmse(target, made).merge(prr.rmse(target, source), on=["kind", "layer", "name"])
    moved = table[(table["relative_y"] > 0) & np.isfinite(table["relative_y"])]
    assert np.allclose(moved["relative_x"], 0.25, atol=1e-6)
    assert len(moved) >= 4
    step, whole = (model[0].weight - target[0].weight for model in (made, source))
    cosine = torch.nn.functional.cosine_similarity(step.flatten(), whole.flatten(), 0)
    assert cosine.item() == pytest.approx(1, abs=1e-5)


def test_at_goes_beyond_a_source_that_is_nearer_and_leaves_what_both_share():
    torch.manual_seed(0)
    target = mlp()
    near = donors.towards(target, mlp(), 0.01)
    made = donors.at(target, near, 0.5)
    assert prr.rmse(target, made).query("kind == 'LW'")["relative"].to_numpy() == pytest.approx(0.5, abs=1e-5)
    assert torch.equal(made[1].running_mean, target[1].running_mean)


@pytest.mark.parametrize("name", donors.DONORS)
def test_every_donor_has_a_name_and_changes_nothing_that_is_passed_in(name):
    torch.manual_seed(0)
    target, source = mlp(), mlp()
    before = [copy.deepcopy(model.state_dict()) for model in (target, source)]
    made = donors.donor(name, target, source, 0.3 if name in donors.AMOUNTS else None, seed=1)
    assert made.state_dict().keys() == before[0].keys()
    for model, state in zip((target, source), before, strict=True):
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_noise_at_a_distance_has_it_and_not_the_source_s_direction():
    torch.manual_seed(0)
    target, source = mlp(), mlp()
    made = donors.donor("noise at", target, source, 0.3)
    assert prr.rmse(target, made).query("kind == 'LW'")["relative"].to_numpy() == pytest.approx(0.3, abs=1e-5)
    step, whole = (model[0].weight - target[0].weight for model in (made, source))
    assert abs(torch.nn.functional.cosine_similarity(step.flatten(), whole.flatten(), 0)) < 0.4


@pytest.mark.parametrize(("name", "amount"), [("best", None), ("towards", None), ("zero", 0.5)])
def test_unknown_donors_and_amounts_without_use_are_refused(name, amount):
    with pytest.raises(OptionError, match=f"donor '{name}' with amount={amount}: expected one of own, source"):
        donors.donor(name, mlp(), mlp(), amount)
