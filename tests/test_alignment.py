"""Channels permuted by hand are found again; whatever the network, the aligned copy is the source's function."""

import copy
import types
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from torch import nn
from torch.nn import functional
from torchvision.models import DenseNet
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from prr.distance import rmse
from prr.errors import NetworkError
from prr.graph.alignment import Match, aligned, products, standardised
from prr.graph.channels import Channels
from prr.graph.tracing import torch_class
from prr.study import pspnet, unet

KERNELS = (nn.modules.conv._ConvNd, nn.Linear)
BATCH_NORM = nn.modules.batchnorm._BatchNorm


def randomised(model, seed):
    """Every tensor random, in scales under which maps neither vanish nor explode."""
    generator = torch.Generator().manual_seed(seed)

    def gaussian(value, mean=0.0, std=1.0):
        value.data.copy_(mean + std * torch.randn(value.shape, generator=generator))

    for module in model.modules():
        if isinstance(module, KERNELS):
            gaussian(module.weight, std=(2 / module.weight[0].numel()) ** 0.5)
        elif isinstance(module, BATCH_NORM):
            gaussian(module.running_mean, std=0.3)
            gaussian(module.weight, mean=1, std=0.3)
            module.running_var.copy_(0.5 + torch.rand(module.num_features, generator=generator))
        if isinstance(module, (*KERNELS, BATCH_NORM)) and module.bias is not None:
            gaussian(module.bias, std=0.3)
    return model.eval()


def add_noise(model, seed=5):
    """To every parameter, 0.3 of its root mean square."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.parameters():
            value += 0.3 * value.square().mean().sqrt() * torch.randn(value.shape, generator=generator)


def difference(first, second, images):
    """Between two outputs, over the larger of them."""
    with torch.no_grad():
        one, other = first(images), second(images)
    if isinstance(one, tuple):
        return max(((a - b).abs().max() / a.abs().max()).item() for a, b in zip(one, other, strict=True))
    return ((one - other).abs().max() / one.abs().max()).item()


def state_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def signatures(module):
    """A row for each output channel that neither the order of its inputs nor a scale changes: its weights by size."""
    dimension = int(isinstance(module, nn.modules.conv._ConvTransposeNd) and module.groups == 1)
    rows = module.weight.detach().double().movedim(dimension, 0).flatten(1)
    return (rows / rows.norm(dim=1, keepdim=True)).sort(1)[0]


def matching(target, source):
    """{layer: (channels,)}: which channel of the source stands where the target's does in the aligned copy."""
    copied = dict(aligned(target, source).named_modules())
    return {
        name: torch.cdist(signatures(copied[name]), signatures(module)).argmin(1)
        for name, module in source.named_modules()
        if isinstance(module, KERNELS)
    }


def kernels(table, column):
    return table[table["kind"].isin(("W", "LW"))][column]


# ---- by hand: where each group of channels of the paper's networks stands: (tensor, dimension, first place) ---------


def out(conv, norm=None, dimension=0):
    vectors = [f"{norm}.{each}" for each in ("weight", "bias", "running_mean", "running_var")] if norm else []
    return [(f"{conv}.weight", dimension, 0), *((name, 0, 0) for name in (f"{conv}.bias", *vectors))]


def into(conv, start=0, dimension=1):
    return [(f"{conv}.weight", dimension, start)]


def unet_groups(width):
    """{layer that the channels come out of: (how many, where they stand)}"""
    groups = {}
    for level in range(5):
        size, block, last = width * 2**level, f"down.{level}", 3 - level
        groups[f"{block}.conv1"] = size, out(f"{block}.conv1", f"{block}.bn1") + into(f"{block}.conv2")
        below = into(f"down.{level + 1}.conv1") + into(f"up.{last}.block.conv1") if level < 4 else into("up.0.up", 0, 0)
        groups[f"{block}.conv2"] = size, out(f"{block}.conv2", f"{block}.bn2") + below
    for step in range(4):
        size, block = width * 2 ** (3 - step), f"up.{step}.block"
        groups[f"up.{step}.up"] = size, out(f"up.{step}.up", dimension=1) + into(f"{block}.conv1", size)
        groups[f"{block}.conv1"] = size, out(f"{block}.conv1", f"{block}.bn1") + into(f"{block}.conv2")
        above = into(f"up.{step + 1}.up", 0, 0) if step < 3 else into("classifier")
        groups[f"{block}.conv2"] = size, out(f"{block}.conv2", f"{block}.bn2") + above
    return groups


def pspnet_groups(width):
    groups = {}

    def residual(layer, first, after):
        """The channels that short connections hand on through a stage."""
        size, name = width * 2 ** (layer - 1), f"encoder.layer{layer}"
        ends = [each for block in (0, 1) for each in out(f"{name}.{block}.conv2", f"{name}.{block}.bn2")]
        groups[f"{name}.1.conv2"] = size, first + ends + into(f"{name}.1.conv1") + after
        for block in (f"{name}.0", f"{name}.1"):
            groups[f"{block}.conv1"] = size, out(f"{block}.conv1", f"{block}.bn1") + into(f"{block}.conv2")

    def enters(layer):
        return into(f"encoder.layer{layer}.0.conv1") + into(f"encoder.layer{layer}.0.downsample.0")

    def short(layer):
        return out(f"encoder.layer{layer}.0.downsample.0", f"encoder.layer{layer}.0.downsample.1")

    pyramid = [each for level in range(4) for each in into(f"pyramid.{level}.conv")]
    stem = out("encoder.conv1", "encoder.bn1") + into("encoder.layer1.0.conv1")
    residual(1, stem, enters(2))
    residual(2, short(2), enters(3))
    residual(3, short(3), enters(4) + into("auxiliary.0.conv"))
    residual(4, short(4), pyramid + into("fuse.conv"))
    for level in range(4):
        block, start = f"pyramid.{level}", 8 * width + level * 2 * width
        groups[f"{block}.conv"] = 2 * width, out(f"{block}.conv", f"{block}.bn") + into("fuse.conv", start)
    groups["fuse.conv"] = 2 * width, out("fuse.conv", "fuse.bn") + into("classifier")
    groups["auxiliary.0.conv"] = width, out("auxiliary.0.conv", "auxiliary.0.bn") + into("auxiliary.1")
    return groups


def norms_after(names):
    """(layer, batch norm) by the names that the two networks use."""
    pairs = {"conv": "bn", "conv1": "bn1", "conv2": "bn2", "0": "1"}
    for name in names:
        stem, _, last = name.rpartition(".")
        if last in pairs and not name.startswith("auxiliary.1"):
            yield name, f"{stem}.{pairs[last]}".removeprefix(".")


def disguised(model, groups, seed):
    """A copy with channels permuted and kernels before batch norms scaled; and the permutations."""
    generator = torch.Generator().manual_seed(seed)
    model = copy.deepcopy(model)
    state = model.state_dict()
    permutations = {}
    for layer, (size, places) in groups.items():
        permutations[layer] = permutation = torch.randperm(size, generator=generator)
        for name, dimension, start in places:
            if name in state:  # not all convolutions have a bias
                part = state[name].narrow(dimension, start, size)
                part.copy_(part.index_select(dimension, permutation))
    convolutions = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    for layer, norm in norms_after(convolutions):
        conv, batch_norm = model.get_submodule(layer), model.get_submodule(norm)
        factor = 0.5 + 1.5 * torch.rand(batch_norm.num_features, generator=generator)
        conv.weight.data *= factor[:, None, None, None]
        batch_norm.running_mean *= factor
        batch_norm.running_var.copy_(factor**2 * (batch_norm.running_var + batch_norm.eps) - batch_norm.eps)
        if conv.bias is not None:
            conv.bias.data *= factor
    return model, permutations


PAPER = [(unet, unet_groups), (pspnet, pspnet_groups)]


@pytest.fixture(params=PAPER, ids=["unet", "pspnet"])
def pair(request):
    """A network, itself in disguise, and the permutations."""
    make, groups = request.param
    target = randomised(make(4), seed=1)
    return target, *disguised(target, groups(4), seed=2)


@pytest.fixture
def images():
    return torch.randn(2, 1, 48, 48, generator=torch.Generator().manual_seed(0))


def test_the_disguise_is_the_same_function(pair, images):
    target, source, _ = pair
    assert difference(target, source, images) < 1e-5
    assert difference(target.train(), source.train(), images) < 1e-3  # in batches eps is not scaled
    assert kernels(rmse(target, source), "relative").mean() > 1


def test_a_disguise_is_seen_through(pair, images):
    target, source, _ = pair
    copied = aligned(target, source)
    assert difference(copied, source, images) < 1e-5
    table = rmse(target, source, align=True)
    assert (table["aligned"] < 0.01 * table["relative"].mean()).all()
    assert (table["aligned"] <= 0.01 * table["relative"]).mean() > 0.9  # others were the same in disguise too
    np.testing.assert_array_equal(table["aligned"], rmse(target, copied)["relative"])
    assert difference(copied.train(), source.train(), images) < 1e-3  # the auxiliary head follows


def test_the_permutations_are_found_exactly(pair):
    target, source, permutations = pair
    found = matching(target, source)
    for layer, permutation in permutations.items():
        assert torch.equal(found[layer], permutation.argsort()), layer
    free = {name for name, place in found.items() if not torch.equal(place, torch.arange(len(place)))}
    assert free.isdisjoint({"classifier", "auxiliary.1"})


def test_a_noisy_disguise_is_seen_through(pair):
    target, source, permutations = pair
    add_noise(source)
    found = matching(target, source)
    right = [torch.equal(found[layer], permutation.argsort()) for layer, permutation in permutations.items()]
    assert np.mean(right) > 0.9


@pytest.mark.parametrize("make", [unet, pspnet])
def test_networks_from_one_start_stay_as_they_are(make):
    target = randomised(make(4), seed=1)
    source = copy.deepcopy(target)
    add_noise(source)
    assert all(torch.equal(place, torch.arange(len(place))) for place in matching(target, source).values())


@pytest.mark.parametrize("make", [unet, pspnet])
def test_independent_networks_stay_apart(make):
    target, source = (randomised(make(8), seed) for seed in (1, 2))
    raw, near = (kernels(rmse(target, source, align=True), column) for column in ("relative", "aligned"))
    assert raw.mean() == pytest.approx(2**0.5, rel=0.05)
    assert 0.9 * 2**0.5 < near.mean() < 0.97 * raw.mean()
    assert (near < raw + 0.1).all()


def test_nothing_that_is_passed_in_is_changed():
    target, source = (randomised(pspnet(4), seed) for seed in (1, 2))
    source.train()
    source.encoder.layer1.eval()
    source.encoder.conv1.weight.requires_grad_(False)
    modes = [module.training for module in source.modules()]
    before = [state_of(model) for model in (target, source)]
    copied = aligned(target, source)
    for model, state in zip((target, source), before, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [module.training for module in source.modules()] == modes == [module.training for module in copied.modules()]
    assert not target.training
    own = {id(value) for value in (*source.parameters(), *source.buffers())}
    assert own.isdisjoint(id(value) for value in (*copied.parameters(), *copied.buffers()))
    assert [value.requires_grad for value in copied.parameters()] == [one.requires_grad for one in source.parameters()]


def test_every_time_the_same_copy_is_found():
    target, source = (randomised(unet(4), seed) for seed in (1, 2))
    first, second = (aligned(target, source).state_dict() for _ in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


# ---- scale ---------------------------------------------------------------------------------------------------------


def norms(conv):
    return conv.weight.detach().flatten(1).norm(dim=1)


def test_the_free_scale_is_the_targets():
    target, source = (randomised(pspnet(4), seed) for seed in (1, 2))
    with torch.no_grad():
        source.encoder.conv1.weight *= 5
    copied = aligned(target, source)
    for layer in ("encoder.conv1", "encoder.layer3.0.downsample.0", "fuse.conv", "auxiliary.0.conv"):
        own, wanted = (norms(model.get_submodule(layer)).numpy() for model in (copied, target))
        np.testing.assert_allclose(own, wanted, rtol=1e-5)
    for layer in ("classifier", "auxiliary.1"):
        own, given = (norms(model.get_submodule(layer)).numpy() for model in (copied, source))
        np.testing.assert_allclose(own, given, rtol=1e-5)


def test_the_match_does_not_depend_on_free_scales():
    target, source = (randomised(unet(4), seed) for seed in (1, 2))
    expected = matching(target, source)
    for model in (target, source):
        scaled, _ = disguised(model, {}, seed=3)
        pair = (scaled, source) if model is target else (target, scaled)
        assert all(torch.equal(place, expected[name]) for name, place in matching(*pair).items())


def test_a_scale_that_would_make_a_variance_negative_is_kept(images):
    target, source = (randomised(unet(2), seed) for seed in (1, 2))
    source.down[0].bn1.running_var.fill_(0)
    target.down[0].conv1.weight.data *= 0.1
    source.down[1].conv1.weight.data[1] = 0  # a dead channel has no scale
    target.down[1].conv2.weight.data[2] = 0
    copied = aligned(target, source)
    assert (copied.down[0].bn1.running_var == 0).all()
    np.testing.assert_allclose(norms(copied.down[0].conv1).sort()[0], norms(source.down[0].conv1).sort()[0])
    assert all(torch.isfinite(value).all() for value in copied.state_dict().values())
    assert difference(copied, source, images) < 1e-5


# ---- any network ---------------------------------------------------------------------------------------------------


class Net(nn.Module):
    """Layers by name, and a function of the network and the images as its forward pass."""

    def __init__(self, run, **layers):
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.run(self, x)


def conv(inputs, outputs, **options):
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)


def densenet():
    return DenseNet(growth_rate=4, block_config=(2, 2), num_init_features=8, num_classes=5)


def resnet(block):
    class Narrow(ResNet):
        def _make_layer(self, block, planes, blocks, stride=1, dilate=False):
            return super()._make_layer(block, planes // 16, blocks, stride, dilate)

    class Stem(Narrow):
        def __init__(self):
            super().__init__(block, [1, 2, 1, 1], num_classes=5)
            self.fc = nn.Linear(32 * block.expansion, 5)

    return Stem()


def mobile():
    units = [InvertedResidual(inputs, outputs, 1, 3) for inputs, outputs in pairwise((6, 6, 8, 8))]
    return nn.Sequential(conv(3, 6), nn.BatchNorm2d(6), nn.ReLU6(), *units, nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Dropout(), nn.Linear(8, 5))  # fmt: skip


def classifier():
    first = conv(3, 6), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(4), nn.ReflectionPad2d(1), conv(6, 4), nn.PReLU()
    return nn.Sequential(*first, nn.Flatten(), nn.Linear(4 * 100, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 5))


def perceptron():
    return nn.Sequential(nn.Linear(32, 9), nn.ReLU(), nn.Linear(9, 8, bias=False), nn.BatchNorm2d(3), nn.Linear(8, 4))


def transposed():
    def run(self, x):
        x = functional.interpolate(self.first(x).relu(), scale_factor=0.5)
        x = self.up(x, output_size=(32, 32)).relu_()
        return self.last(self.norm(self.deep(x)) * self.gate(x).sigmoid())

    return Net(run, first=conv(3, 6), up=nn.ConvTranspose2d(6, 4, 2, stride=2), norm=nn.BatchNorm2d(8),
               deep=nn.ConvTranspose2d(4, 8, 3, padding=1, groups=4), gate=conv(4, 1), last=conv(8, 2))  # fmt: skip


def one_dimension():
    first = nn.Conv1d(3, 6, 3), nn.BatchNorm1d(6), nn.GELU(), nn.AvgPool1d(2), nn.Conv1d(6, 8, 3, groups=2), nn.ReLU()
    last = nn.Conv1d(8, 4, 1), nn.InstanceNorm1d(4, affine=True), nn.Conv1d(4, 2, 1)
    return nn.Sequential(nn.Flatten(2), *first, *last)


def three_dimensions():
    first = nn.Conv3d(3, 6, 3, padding=1), nn.BatchNorm3d(6), nn.ReLU()
    last = nn.Conv3d(6, 4, (1, 3, 3)), nn.Upsample(scale_factor=2), nn.Conv3d(4, 2, 1)
    return nn.Sequential(nn.Unflatten(2, (2, 16)), *first, *last)


def twice():
    layers = {"first": conv(3, 4), "norm": nn.BatchNorm2d(4), "twin": conv(4, 4), "last": conv(4, 2)}
    return Net(lambda self, x: self.last(self.twin(self.norm(self.twin(self.first(x))).relu())), **layers)


def norm_twice():
    layers = {"first": conv(3, 4), "second": conv(4, 4), "norm": nn.BatchNorm2d(4), "last": conv(4, 2)}
    return Net(lambda self, x: self.last(self.norm(self.second(self.norm(self.first(x)).relu()))), **layers)


def tied():
    layers = {"stem": conv(3, 4), "first": conv(4, 4), "second": conv(4, 4), "last": conv(4, 2)}
    layers["second"].weight = layers["first"].weight
    return Net(lambda self, x: self.last(self.second(self.first(self.stem(x)).relu()).relu()), **layers)


def tied_before_norms():
    layers = {"stem": conv(3, 4), "first": conv(4, 4), "second": conv(4, 4), "last": conv(4, 2)}
    layers["second"].weight = layers["first"].weight
    norms = {"one": nn.BatchNorm2d(4), "other": nn.BatchNorm2d(4)}
    return Net(
        lambda self, x: self.last(self.other(self.second(self.one(self.first(self.stem(x)))))), **layers, **norms
    )


def twice_before_one_norm():
    layers = {"stem": conv(3, 4), "twin": conv(4, 4), "norm": nn.BatchNorm2d(4), "last": conv(4, 2)}
    return Net(lambda self, x: self.last(self.norm(self.twin(self.norm(self.twin(self.stem(x))).relu()))), **layers)


def seen_twice():
    """What the batch norm sees is also used by itself, so its scale is not free."""

    def run(self, x):
        x = self.first(x)
        return self.last(self.norm(x).relu() + x)

    return Net(run, first=conv(3, 4), norm=nn.BatchNorm2d(4), last=conv(4, 2))


def split_unequally():
    """(3 + 5) + 8: channels move within the 3 and within the 5."""

    def run(self, x):
        x = torch.cat((self.first(x), self.second(x)), 1) + self.third(x)
        return self.last(x.relu()) + self.side(torch.cat([self.fourth(x)] * 2, dim=-3) + x)

    layers = {"first": conv(3, 3), "second": conv(3, 5), "third": conv(3, 8), "fourth": conv(8, 4)}
    return Net(run, **layers, last=conv(8, 2), side=conv(8, 2))


def optional():
    class Optional(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = conv(3, 4), conv(4, 2)

        def forward(self, x, mask=None):
            x = self.first(x).relu()
            return self.last(x if mask is None else x * mask)

    return Optional()


def views():
    def run(self, x):
        x = functional.max_pool2d(self.first(x), 4).relu()
        flat = x.view(x.size(0), -1), torch.flatten(x, 1), x.reshape(x.shape[0], -1)
        return self.head(flat[0] + flat[1] + flat[2]) + self.mean(x.mean((2, 3)))

    return Net(run, first=conv(3, 4), head=nn.Linear(256, 3), mean=nn.Linear(4, 3))


FREE = [densenet, mobile, classifier, perceptron, transposed, one_dimension, three_dimensions, twice, norm_twice,
        twice_before_one_norm, tied, tied_before_norms, seen_twice, split_unequally, optional, views]  # fmt: skip
FREE = {make.__name__: make for make in FREE}
FREE |= {f"resnet of {block.__name__}": partial(resnet, block) for block in (BasicBlock, Bottleneck)}


@pytest.mark.parametrize("make", FREE.values(), ids=FREE)
def test_the_aligned_copy_is_the_same_function_and_nearer(make):
    target, source = (randomised(make(), seed) for seed in (1, 2))
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    copied = aligned(target, source)
    assert difference(source, copied, images) < 1e-5
    assert any((place != torch.arange(len(place))).any() for place in matching(target, source).values())
    assert (kernels(rmse(target, copied), "relative")).mean() < kernels(rmse(target, source), "relative").mean()


def order_fixed_by(read, last=8, first=None, **layers):
    """A network that fixes the order of its first convolution's channels by `read(network, map)` before its last."""

    def run(self, x):
        return self.last(read(self, self.first(x)))

    return lambda: Net(run, first=first() if first else conv(3, 8), last=conv(last, 2), **layers)


def order_fixed_by_module(module, last=8):
    return order_fixed_by(lambda self, x: self.module(x), last, module=module)


RAMP = torch.arange(8.0)[:, None, None]


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = conv(3, 8), conv(8, 2)
        self.scale, self.offset = nn.Parameter(torch.rand(8, 1, 1)), torch.rand(8, 1, 1)

    def forward(self, x):
        return self.last(self.first(x) * self.scale + self.offset)


class Hooked(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.relu, self.last = conv(3, 8), nn.ReLU(), conv(8, 2)
        self.relu.register_forward_hook(ramp)

    def forward(self, x):
        return self.last(self.relu(self.first(x)))


def ramp(module, inputs, output):
    return output * RAMP


class Standardised(nn.Conv2d):
    """Not torch's own: what it does to its weight is not known."""

    def forward(self, x):
        return functional.conv2d(x, self.weight * RAMP[..., None], self.bias, padding=1)


def out_of_sight(self, x):
    weight = next(iter(self.first._parameters.values()))
    return x * (weight.flatten() * torch.arange(weight.numel())).mean()


def data_out_of_sight(self, x):
    weight = next(iter(self.first._parameters.values())).data
    return x * (weight.flatten() * torch.arange(weight.numel())).mean().item()


def bias_by_itself():
    def run(self, x):
        return self.last(self.first(x)) + (self.first.bias * RAMP.flatten()).sum()

    return Net(run, first=conv(3, 8), last=conv(8, 2))


def over_channels():
    """Two dimensions of (n, channels, length): the channels are one of them."""

    def run(self, x):
        return self.last(functional.max_pool2d(self.first(x.flatten(2)), (3, 1), 1, (1, 0)))

    return Net(run, first=nn.Conv1d(3, 8, 3), last=nn.Conv1d(8, 2, 3))


def from_the_input():
    def run(self, x):
        return self.last(self.first(x) + x.sum(1, keepdim=True) * RAMP)

    return Net(run, first=conv(3, 8), last=conv(8, 2))


def to_the_output():
    def run(self, x):
        x = self.first(x)
        return self.last(x), x

    return Net(run, first=conv(3, 8), last=conv(8, 2))


def several_flat():
    """How many columns of the linear layer each channel has differs between the two, and can't be told."""

    def run(self, x):
        x = self.first(x)
        large, small = (functional.adaptive_avg_pool2d(x, bins).flatten(1) for bins in (4, 2))
        return self.last(torch.cat([large, small], 1))

    return Net(run, first=conv(3, 8), last=nn.Linear(160, 3))


def width_for_channels():
    def run(self, x):
        return self.last(self.module(functional.adaptive_avg_pool2d(self.first(x), 8)).relu())

    return Net(run, first=conv(3, 8), module=nn.Linear(8, 8), last=conv(8, 2))


def pixels_for_channels():
    return Net(lambda self, x: self.last(self.first(x).flatten(2)), first=conv(3, 8), last=nn.Linear(1024, 3))


def pixels_in_a_view():
    return Net(lambda self, x: self.last(self.first(x).view(2, -1, 128)), first=conv(3, 8), last=nn.Linear(128, 3))


def vector_on_pixels():
    """(2, 8) as if it were height and width."""

    def run(self, x):
        x = self.first(x)
        return self.last(functional.adaptive_avg_pool2d(x, (2, 8)) * self.side(x.mean((2, 3))))

    return Net(run, first=conv(3, 8), side=nn.Linear(8, 8), last=conv(8, 2))


FIXED = {
    "slices": order_fixed_by(lambda self, x: torch.cat([x[:, 4:], x[:, :4]], 1)),
    "roll": order_fixed_by(lambda self, x: x.roll(1, 1)),
    "cumsum": order_fixed_by(lambda self, x: x.cumsum(1)),
    "view": order_fixed_by(lambda self, x: x.view(2, 4, 2, 32, 32).sum(2), 4),
    "padding": order_fixed_by(lambda self, x: functional.pad(x, (0, 0, 0, 0, 1, -1))),
    "mul_": order_fixed_by(lambda self, x: x.mul_(RAMP)),
    "arange": order_fixed_by(lambda self, x: x * torch.arange(x.size(1)).view(-1, 1, 1)),
    "out of sight": order_fixed_by(out_of_sight),
    "data out of sight": order_fixed_by(data_out_of_sight),
    "bias by itself": bias_by_itself,
    "padding module": order_fixed_by_module(nn.ConstantPad3d((0, 0, 0, 0, 1, -1), 0.0)),
    "groups": order_fixed_by_module(conv(8, 8, groups=2)),
    "group norm": order_fixed_by_module(nn.GroupNorm(2, 8)),
    "shuffle": order_fixed_by_module(nn.ChannelShuffle(2)),
    "pixel shuffle": order_fixed_by_module(nn.PixelShuffle(2), 2),
    "gated linear unit": order_fixed_by_module(nn.GLU(1), 4),
    "own convolution": order_fixed_by(lambda self, x: x, first=partial(Standardised, 3, 8, 3)),
    "parameter": Scaled,
    "hook": Hooked,
    "pooled channels": over_channels,
    "input": from_the_input,
    "output": to_the_output,
    "several flat": several_flat,
    "width": width_for_channels,
    "vector": vector_on_pixels,
    "pixels": pixels_for_channels,
    "pixels in a view": pixels_in_a_view,
}


@pytest.mark.parametrize("make", FIXED.values(), ids=FIXED)
def test_what_reads_channels_in_an_unknown_way_fixes_their_order(make):
    target, source = (randomised(make(), seed) for seed in (1, 2))
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert difference(source, aligned(target, source), images) < 1e-5
    assert torch.equal(matching(target, source)["first"], torch.arange(8))


def test_a_batch_norm_over_tokens_is_left_alone():
    def make():
        return Net(lambda self, x: self.last(self.norm(self.first(x))), first=nn.Linear(6, 8), norm=nn.BatchNorm1d(5),
                   last=nn.Linear(8, 2))  # fmt: skip

    target, source = (randomised(make(), seed) for seed in (1, 2))
    assert difference(source, aligned(target, source), torch.randn(3, 5, 6)) < 1e-5


def test_a_head_that_runs_in_training_only_follows_in_any_network():
    def run(self, x):
        x = self.first(x).relu()
        return (self.last(x), self.side(x)) if self.training else self.last(x)

    def make():
        return Net(run, first=conv(3, 8), last=conv(8, 2), side=conv(8, 2))

    target, source = (randomised(make(), seed) for seed in (1, 2))
    copied, images = aligned(target, source), torch.randn(2, 3, 8, 8)
    assert (matching(target, source)["first"] != torch.arange(8)).any()
    assert difference(source.train(), copied.train(), images) < 1e-5


# ---- subclasses of torch's layers ----------------------------------------------------------------------------------


class Named(nn.Conv2d):
    """With another constructor, another start and another print, but torch's forward."""

    label = "convolution"

    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs, 3, padding=1)

    def reset_parameters(self):
        nn.init.ones_(self.weight)

    def extra_repr(self):
        return self.label


class Counted:
    """A mixin of methods that no forward pass calls."""

    def count(self):
        return sum(value.numel() for value in self.parameters())


def subclass(base, *mixins, **attributes):
    return type(f"My{base.__name__}", (*mixins, base), attributes)


def layered(convolution=nn.Conv2d, norm=nn.BatchNorm2d, act=nn.ReLU, up=nn.ConvTranspose2d, linear=nn.Linear):
    return nn.Sequential(convolution(3, 8, 3), norm(8), act(), up(8, 6, 2), subclass(nn.MaxPool2d)(2), act(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear(6, 5), nn.ReLU(), linear(5, 2))  # fmt: skip


UNCHANGED = {
    "convolution": partial(layered, convolution=subclass(nn.Conv2d)),
    "subclass of a subclass": partial(layered, convolution=subclass(subclass(nn.Conv2d))),
    "mixin": partial(layered, convolution=subclass(nn.Conv2d, Counted)),
    "constructor": partial(layered, convolution=lambda inputs, outputs, kernel: Named(inputs, outputs)),
    "transposed": partial(layered, up=subclass(nn.ConvTranspose2d)),
    "batch norm": partial(layered, norm=subclass(nn.BatchNorm2d)),
    "linear": partial(layered, linear=subclass(nn.Linear, train=lambda self, mode=True: nn.Module.train(self, mode))),
    "slopes": partial(layered, act=subclass(nn.PReLU)),
}


@pytest.mark.parametrize("make", UNCHANGED.values(), ids=UNCHANGED)
def test_a_subclass_that_changes_no_forward_is_the_layer_itself(make):
    target, source = (randomised(make(), seed) for seed in (1, 2))
    plain = [randomised(layered(act=nn.PReLU if "PReLU" in str(target) else nn.ReLU), seed) for seed in (1, 2)]
    for mine, its in zip((target, source), plain, strict=True):
        its.load_state_dict(mine.state_dict())
    if "convolution" in str(target):  # `Named` pads
        for its in plain:
            its[0].padding = (1, 1)
    found, expected = aligned(target, source).state_dict(), aligned(*plain).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())
    assert not torch.equal(found["0.weight"], source[0].weight)
    assert (rmse(target, source, align=True).query("kind != 'other'")["fixed"] == "").all()


def ramped(self, x, weight, bias):
    return functional.conv2d(x, weight * RAMP[..., None], bias)


class Ramped(nn.Conv2d):
    """Convolves as torch does, with another weight than is registered."""

    @property
    def weight(self):
        if "weight" not in self._parameters:
            raise AttributeError
        return self._parameters["weight"] * RAMP[..., None]


def patched():
    layer = nn.Conv2d(3, 8, 3)
    layer.forward = types.MethodType(lambda self, x: ramped(self, x, self.weight, self.bias), layer)
    return layer


def patched_inside():
    layer = nn.Conv2d(3, 8, 3)
    layer._conv_forward = types.MethodType(ramped, layer)
    return layer


CHANGED = {
    "forward": partial(Standardised, 3, 8, 3),
    "what forward calls": partial(subclass(nn.Conv2d, _conv_forward=ramped), 3, 8, 3),
    "in a mixin": partial(subclass(nn.Conv2d, subclass(object, _conv_forward=ramped)), 3, 8, 3),
    "call": partial(subclass(nn.Conv2d, __call__=lambda self, x: nn.Module.__call__(self, x) * RAMP), 3, 8, 3),
    "on the module": patched,
    "inside, on the module": patched_inside,
}


@pytest.mark.parametrize("make", CHANGED.values(), ids=CHANGED)
def test_a_subclass_with_its_own_forward_is_fixed(make):
    target, source = (randomised(order_fixed_by(lambda self, x: x.relu(), first=make)(), seed) for seed in (1, 2))
    copied = aligned(target, source)
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert difference(source, copied, images) < 1e-5
    assert torch.equal(copied.first.weight, source.first.weight)
    table = rmse(target, source, align=True).set_index(["kind", "name"])["fixed"]
    assert table["W", "first"] == "in a Conv2d with its own forward"
    assert table["W", "last"] == ""


def test_which_class_of_torch_a_module_runs_as():
    assert torch_class(Ramped(3, 8, 3)) is torch_class(Scaled()) is torch_class(patched()) is None
    assert torch_class(Named(3, 8)) is nn.Conv2d
    assert torch_class(nn.Linear(3, 8)) is torch_class(subclass(nn.Linear, Counted)(3, 8)) is nn.Linear
    assert torch_class(nn.utils.parametrizations.weight_norm(nn.Linear(3, 8))) is None
    assert all(torch_class(module) is type(module) for module in resnet(Bottleneck).modules() if not module._modules)


# ---- what is said of channels that stay ----------------------------------------------------------------------------


def functional_use():
    def run(self, x):
        return self.last(functional.conv2d(x, self.first.weight, self.first.bias))

    return Net(run, first=conv(3, 8), last=conv(8, 2))


def functional_norm():
    def run(self, x):
        norm = self.norm
        return self.last(functional.batch_norm(self.first(x), norm.running_mean, norm.running_var, norm.weight))

    return Net(run, first=conv(3, 8), norm=nn.BatchNorm2d(8), last=conv(8, 2))


def through(module):
    layers = {"first": conv(3, 8), "module": module, "last": conv(8, 2)}
    return Net(lambda self, x: self.last(self.module(self.first(x)).relu()), **layers)


def residual():
    """One of two maps that are added goes through a group norm."""
    layers = {"first": conv(3, 8), "norm": nn.GroupNorm(2, 8), "second": conv(3, 8), "last": conv(8, 2)}
    return Net(lambda self, x: self.last(self.norm(self.first(x)) + self.second(x)), **layers)


def in_part():
    """(3 + 5) + 8, and a group norm on the 3."""

    def run(self, x):
        first = self.first(x)
        return self.last(torch.cat((first, self.second(x)), 1) + self.third(x)) + self.side(self.norm(first))

    layers = {"first": conv(3, 3), "second": conv(3, 5), "third": conv(3, 8), "last": conv(8, 2), "side": conv(3, 2)}
    return Net(run, norm=nn.GroupNorm(1, 3), **layers)


def both_ways():
    def run(self, x):
        x = self.first(x)
        return self.last(self.norm(x)), x

    return Net(run, first=conv(3, 8), norm=nn.GroupNorm(2, 8), last=conv(8, 2))


NOTES = {
    "grouped": (lambda: through(conv(8, 8, groups=2)),
                {"first": "goes into module (grouped Conv2d)", "module": "in a grouped Conv2d", "last": ""}),
    "grouped at the input": (lambda: Net(lambda self, x: self.last(self.first(x)), first=conv(3, 6, groups=3),
                                         last=conv(6, 2)), {"first": "", "last": ""}),
    "grouped, transposed": (lambda: through(nn.ConvTranspose2d(8, 8, 1, groups=4)),
                            {"first": "goes into module (grouped ConvTranspose2d)",
                             "module": "in a grouped ConvTranspose2d"}),
    "depthwise": (lambda: through(conv(8, 8, groups=8)), {"first": "", "module": "", "last": ""}),
    "group norm": (lambda: through(nn.GroupNorm(2, 8)),
                   {"first": "goes into module (GroupNorm)", "module": "in a GroupNorm", "last": ""}),
    "group norm, then depthwise": (
        lambda: through(nn.Sequential(nn.GroupNorm(2, 8), conv(8, 8, groups=8), nn.BatchNorm2d(8))),
        {"first": "goes into module.0 (GroupNorm)", "module.1": "behind module.0 (GroupNorm)",
         "module.2": "behind module.0 (GroupNorm)"}),
    "group norm beside": (residual, {"first": "goes into norm (GroupNorm)", "second": "joined with norm (GroupNorm)"}),
    "group norm on a part": (in_part, {"first": "goes into norm (GroupNorm)", "second": "",
                                       "third": "3 of 8 channels: goes into norm (GroupNorm)"}),
    "functional": (functional_use, {"first": "used without its module being called", "last": ""}),
    "functional norm": (functional_norm, {"first": "joined with norm.weight, which is used by itself",
                                          "norm": "used without its module being called", "last": ""}),
    "unknown function": (FIXED["roll"], {"first": "goes into roll()", "last": ""}),
    "parameter": (Scaled, {"first": "joined with scale, which is used by itself", "last": ""}),
    "hooks": (Hooked, {"first": "goes into relu (ReLU with hooks)", "last": ""}),
    "never called": (lambda: Net(lambda self, x: self.first(x), first=conv(3, 8), second=conv(8, 2)),
                     {"first": "", "second": "not called"}),
    "output, and into a group norm": (both_ways, {"first": "", "last": ""}),
    "inputs and outputs": (to_the_output, {"first": "", "last": ""}),
}  # fmt: skip


@pytest.mark.parametrize(("make", "expected"), NOTES.values(), ids=NOTES)
def test_each_layer_whose_channels_stay_says_why(make, expected):
    table = rmse(*(randomised(make(), seed) for seed in (1, 2)), align=True)
    assert {name: table.loc[table["name"] == name, "fixed"].iloc[0] for name in expected} == expected


def test_many_reasons_are_cut_short():
    def run(self, x):
        x = self.first(x)
        return self.last(x.roll(1, 1) + x.cumsum(1) + x.flip(1) + x.sort(1)[0])

    table = rmse(*(Net(run, first=conv(3, 8), last=conv(8, 2)) for _ in range(2)), align=True)
    assert table["fixed"][0] == "goes into roll(); goes into cumsum(); and 2 more"


@pytest.mark.parametrize("make", FREE.values(), ids=FREE)
def test_what_moves_has_no_note(make):
    target, source = (randomised(make(), seed) for seed in (1, 2))
    notes = rmse(target, source, align=True).set_index("name")["fixed"]
    for name, place in matching(target, source).items():
        if name in notes and (place != torch.arange(len(place))).any():
            assert (notes.loc[[name]] == "").all()


# ---- the search ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [densenet, twice, split_unequally, partial(resnet, Bottleneck)])
def test_the_gains_that_are_kept_are_those_of_the_channels_as_they_stand(make):
    target, source = (randomised(make(), seed) for seed in (1, 2))
    channels = Channels(target, source)
    ours, theirs = (standardised(model, channels) for model in (target, source))
    groups, first = channels.groups(), {}
    for order in (range(len(groups)), range(len(groups) - 1, -1, -1)):
        match = Match(ours, theirs, groups, first)
        for group in [*order, *order]:
            match.improve(group)
            if (gain := match.gains.get(group)) is not None:
                assert gain.trace().item() == pytest.approx(gain.numpy()[linear_sum_assignment(gain, True)].sum())
            for each, gain in match.gains.items():
                fresh = sum(products(ours[slot.name], match.theirs[slot.name], slot) for slot in groups[each])
                torch.testing.assert_close(gain, fresh, rtol=1e-9, atol=1e-9)


def test_progress_is_shown_if_asked_for(capsys):
    target, source = (randomised(unet(2), seed) for seed in (1, 2))
    tables = [rmse(target, source, align=True), rmse(target, source, align=True, progress=True)]
    assert tables[0].equals(tables[1])
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("channels") > 0
    aligned(target, source)
    assert capsys.readouterr().err == ""


# ---- random networks -----------------------------------------------------------------------------------------------

OPERATIONS = ("conv", "again", "wide", "depthwise", "norm", "relu", "add", "in place", "cat", "gate", "roll", "pool")
STEP = st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 9), st.integers(0, 9))


class Program(nn.Module):
    """Applies operations to maps of its own choice; what can't be done is left out."""

    def __init__(self, steps):
        super().__init__()
        self.steps, sizes = [], [8]
        self.layers = nn.ModuleList([conv(3, 8)])
        for name, first, second in steps:
            one, other = first % len(sizes), second % len(sizes)
            layer, size = None, sizes[one]
            if name in ("conv", "wide"):
                layer, size = conv(size, 4 if name == "conv" else 8), 4 if name == "conv" else 8
            elif name == "again":
                layer = next((each for each in self.layers if getattr(each, "in_channels", 0) == size), None)
                name, size = ("conv", layer.out_channels) if layer else ("relu", size)
            elif name == "depthwise":
                layer, size = conv(size, size * (1 + second % 2), groups=size), size * (1 + second % 2)
            elif name == "norm":
                layer = nn.BatchNorm2d(size)
            elif name == "gate":
                layer = conv(sizes[other], 1)
            elif name == "cat":
                size += sizes[other]
            elif name in ("add", "in place") and size != sizes[other]:
                continue
            if size > 24:
                continue
            if layer is not None:
                self.layers.append(layer)
            self.steps.append((name, one, other, layer and [each is layer for each in self.layers].index(True)))
            sizes.append(size)
        self.heads = nn.ModuleList(conv(size, 2) for size in sizes)

    def forward(self, x):
        maps = [self.layers[0](x)]
        for name, first, second, place in self.steps:
            one, other = maps[first], maps[second]
            layer = None if place is None else self.layers[place]
            maps.append(self.step(name, one, other, layer))
        return sum(head(each) for head, each in zip(self.heads, maps, strict=True))

    def step(self, name, one, other, layer):
        if name == "add":
            return one + other
        if name == "in place":
            return one.clone().add_(other)
        if name == "cat":
            return torch.cat([one, other], dim=1)
        if name == "gate":
            return one * layer(other).sigmoid()
        if name == "roll":
            return one.roll(1, 1)
        if name == "pool":
            return functional.avg_pool2d(one, 3, stride=1, padding=1)
        return one.relu() if name == "relu" else layer(one)


@given(steps=st.lists(STEP, min_size=3, max_size=14))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_whatever_the_network_its_function_stays(steps):
    target, source = (randomised(Program(steps), seed) for seed in (1, 2))
    images = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    assert difference(source, aligned(target, source), images) < 1e-4


def test_random_networks_have_channels_to_move():
    program = [(name, place, place // 2) for place, name in enumerate(OPERATIONS) if name != "roll"]
    pair = [randomised(Program(program), seed) for seed in (1, 2)]
    order = torch.arange(8)
    assert len(pair[0].steps) > 8
    assert sum(not torch.equal(place, order[: len(place)]) for place in matching(*pair).values()) > 3


# ---- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [aligned, lambda *pair: rmse(*pair, align=True)])
def test_networks_that_do_not_match_are_refused(function):
    with pytest.raises(NetworkError, match=r"target \(2, 1, 3, 3\), source \(4, 1, 3, 3\)"):
        function(unet(2), unet(4))


def refused(self, x):
    raise RuntimeError("one line\nand another\n" * 100)


UNTRACEABLE = {
    "branch": lambda self, x: self.first(x) if x.sum() > 0 else self.first(-x),
    "loop": lambda self, x: sum(self.first(each) for each in x),
    "number": lambda self, x: self.first(x) * float(x.mean()),
    "several lines": refused,
}


@pytest.mark.parametrize("function", [aligned, partial(rmse, align=True)], ids=["aligned", "rmse"])
@pytest.mark.parametrize("run", UNTRACEABLE.values(), ids=UNTRACEABLE)
def test_a_network_that_cannot_be_traced_is_refused_in_one_line(run, function):
    with pytest.raises(NetworkError, match=r"Net: torch.fx can't trace its forward pass .* without alignment") as error:
        function(*(Net(run, first=conv(3, 2)) for _ in range(2)))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_a_network_without_a_layer_in_sight_is_refused():
    with pytest.raises(NetworkError, match=r"none of its layers called; unwrap DataParallel by .module"):
        aligned(*(nn.DataParallel(conv(3, 2)) for _ in range(2)))
