"""The two networks against torchvision's ResNet-18 and the counts of the paper."""

import pytest
import torch
from torch import nn
from torchvision.models import ResNet18_Weights, resnet18

from prr.errors import OptionError
from prr.layers import parameter_table
from prr.study import pspnet, unet
from prr.study.models import branches, connections

EXAMPLE = torch.zeros(1, 1, 48, 48)
# the paper's section 3.1, in its count
LISTED = {"RM": [1, 17], "W": [1, 6, 11, 12, 16, 17, 19, 20], "B": [1]}


@pytest.fixture(scope="module")
def torchvision_resnet():
    """Random numbers everywhere, running statistics too."""
    torch.manual_seed(0)
    model = resnet18(weights=None).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for vector in (module.running_mean, module.bias.data):
                vector.normal_(std=0.1)
            for vector in (module.running_var, module.weight.data):
                vector.uniform_(0.5, 1.5)
    return model


@pytest.fixture(scope="module")
def full_size():
    return pspnet(64).eval()


@pytest.mark.parametrize(
    ("network", "counts", "live"),
    [
        (unet(2), {"W": 23, "B": 23, "RM": 18, "RV": 18, "RW": 18, "RB": 18}, 118),
        (pspnet(4), {"W": 28, "B": 2, "RM": 26, "RV": 26, "RW": 26, "RB": 26}, 127),
    ],
)
def test_layers_are_as_many_as_design_and_paper_count(network, counts, live):
    table = parameter_table(network, EXAMPLE)
    assert table["kind"].value_counts().to_dict() == counts
    assert len(table) == sum(counts.values())
    assert table["live"].sum() == live


def test_only_pspnets_auxiliary_head_is_dead():
    table = parameter_table(pspnet(4), EXAMPLE)
    assert set(table.loc[~table["live"], "name"]) == {"auxiliary.0.conv", "auxiliary.0.bn", "auxiliary.1"}
    # kernel and batch norm, then kernel and bias
    assert (~table["live"]).sum() == 1 + 4 + 2


def test_the_papers_list_holds_most_of_the_encoders_convolution_weights(full_size, torchvision_resnet):
    kernels = parameter_table(full_size).query("kind == 'W' and layer <= 20")
    names = [f"encoder.{name}" for name, module in torchvision_resnet.named_modules() if isinstance(module, nn.Conv2d)]
    assert kernels["name"].tolist() == names  # the first 20 convolutions are the encoder
    share = kernels.loc[kernels["layer"].isin(LISTED["W"]), "size"].sum() / kernels["size"].sum()
    assert round(100 * share, 1) == 82.6


def test_the_papers_list_names_the_first_kernel_and_those_that_change_the_number_of_channels_or_follow():
    kernels = parameter_table(pspnet(4)).query("kind == 'W'").set_index("layer")["name"].str.removeprefix("encoder.")
    assert kernels[LISTED["W"]].tolist() == [
        "conv1", "layer2.0.conv1", "layer3.0.conv1", "layer3.0.conv2", "layer4.0.conv1", "layer4.0.conv2",
        "layer4.1.conv1", "layer4.1.conv2",
    ]  # fmt: skip


def test_the_encoder_takes_torchvisions_state_dict(full_size, torchvision_resnet):
    theirs = {name: value for name, value in torchvision_resnet.state_dict().items() if not name.startswith("fc.")}
    own = full_size.encoder.state_dict()
    assert [(name, value.shape) for name, value in own.items()] == [
        (name, value.shape) for name, value in theirs.items()
    ]


def dilated(model):
    """torchvision's ResNet-18 at output stride 8, by hand."""
    for layer, dilation in ((model.layer3, 2), (model.layer4, 4)):
        for block in layer:
            for conv in (block.conv1, block.conv2):
                conv.stride, conv.dilation, conv.padding = (1, 1), (dilation, dilation), (dilation, dilation)
        layer[0].downsample[0].stride = (1, 1)
    return model


def test_the_encoder_computes_what_torchvisions_dilated_resnet_does(full_size, torchvision_resnet):
    encoder = full_size.encoder
    theirs = torchvision_resnet.state_dict()
    encoder.load_state_dict({name: value for name, value in theirs.items() if not name.startswith("fc.")})
    reference = resnet18(weights=None).eval()
    reference.load_state_dict(theirs)
    dilated(reference)
    image = torch.randn(2, 3, 64, 48, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        x = reference.maxpool(reference.relu(reference.bn1(reference.conv1(image))))
        second = reference.layer2(reference.layer1(x))
        third = reference.layer3(second)
        found = encoder(image)
    torch.testing.assert_close(found, (third, reference.layer4(third)))
    assert found[0].shape == (2, 256, 8, 6)
    assert found[1].shape == (2, 512, 8, 6)
    plain = torchvision_resnet
    with torch.no_grad():  # as far as layer2 nothing is dilated
        x = plain.maxpool(plain.relu(plain.bn1(plain.conv1(image))))
        torch.testing.assert_close(plain.layer2(plain.layer1(x)), second)


def test_a_narrow_encoder_has_the_same_names_and_proportional_channels(torchvision_resnet):
    narrow = pspnet(4).encoder.state_dict()
    for name, value in torchvision_resnet.state_dict().items():
        if not name.startswith("fc."):
            expected = [size if size in (3, 7, 1) else size // 16 for size in value.shape]
            assert list(narrow[name].shape) == expected, name


@pytest.mark.parametrize("build", [unet, pspnet])
@pytest.mark.parametrize(("in_channels", "out_channels"), [(1, 4), (3, 2), (2, 5)])
def test_the_output_has_the_size_of_the_image(build, in_channels, out_channels):
    model = build(2, in_channels, out_channels).eval()
    assert model(torch.zeros(2, in_channels, 64, 48)).shape == (2, out_channels, 64, 48)


def test_a_grey_image_is_repeated_to_three_channels():
    grey, colour = pspnet(4).eval(), pspnet(4, in_channels=3).eval()
    colour.load_state_dict(grey.state_dict())
    image = torch.randn(1, 1, 48, 48)
    assert torch.equal(grey(image), colour(image.repeat(1, 3, 1, 1)))


def test_pspnets_auxiliary_head_speaks_in_train_mode_only():
    model = pspnet(4)
    images = torch.randn(2, 1, 48, 48)
    output, auxiliary = model(images)
    assert output.shape == auxiliary.shape == (2, 4, 48, 48)
    assert isinstance(model.eval()(images), torch.Tensor)


@pytest.mark.parametrize("build", [unet, pspnet])
def test_networks_start_from_he_kernels_biases_0_and_batch_norm_1_and_0(build):
    model = build(8)
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 4000:
            fan_in = module.weight[0].numel()
            assert module.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.1)
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.bias is not None:
            assert not module.bias.any()
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert not module.bias.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_channels": 2, "weights": "imagenet"}, "in_channels=2: expected 1 or 3"),
        ({"width": 4, "weights": "imagenet"}, "width=4.*width 64 only"),
        ({"width": 4, "weights": "coco"}, "weights='coco': expected None or 'imagenet'"),
    ],
)
def test_other_arguments_are_refused_by_name(arguments, message):
    with pytest.raises(OptionError, match=message):
        pspnet(**{"width": 4, **arguments})


def test_imagenet_weights_that_cannot_be_had_are_refused_with_the_way_out(monkeypatch):
    def unreachable(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", unreachable)
    with pytest.raises(OptionError, match=r"could not be downloaded \(OSError: no route\).*another start"):
        pspnet(64, weights="imagenet")


def test_imagenet_weights_go_into_the_encoder_alone(monkeypatch, torchvision_resnet):
    state = torchvision_resnet.state_dict()
    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", lambda *_, **__: state)
    torch.manual_seed(5)
    plain = pspnet(64).state_dict()
    torch.manual_seed(5)
    for name, value in pspnet(64, weights="imagenet").state_dict().items():
        expected = state[name.removeprefix("encoder.")] if name.startswith("encoder.") else plain[name]
        assert torch.equal(value, expected), name


def test_unets_connections_are_long_and_its_ends_have_the_same_resolution():
    model = unet(2).eval()
    found = connections(model)
    assert found == [
        ("down.0.conv2", "up.3.block.conv1"),
        ("down.1.conv2", "up.2.block.conv1"),
        ("down.2.conv2", "up.1.block.conv1"),
        ("down.3.conv2", "up.0.block.conv1"),
    ]
    sizes = {}
    for name in {name for pair in found for name in pair}:
        model.get_submodule(name).register_forward_hook(lambda _, __, out, name=name: sizes.update({name: out.shape}))
    model(EXAMPLE)
    assert all(sizes[start] == sizes[end] for start, end in found)


def test_pspnets_connections_are_short_and_join_neighbouring_blocks():
    blocks = [f"encoder.layer{layer}.{block}.conv2" for layer in (1, 2, 3, 4) for block in (0, 1)]
    assert connections(pspnet(4)) == list(zip(["encoder.conv1", *blocks[:-1]], blocks, strict=True))


def test_the_branch_and_the_identity_of_a_residual_unit_are_those_of_its_formula():
    torch.manual_seed(0)
    model, images = pspnet(4).eval(), torch.randn(2, 1, 48, 48)
    table = branches(model, images).set_index("name")
    assert table.index.tolist() == [f"encoder.layer{stage}.{unit}" for stage in (1, 2, 3, 4) for unit in (0, 1)]
    encoder = model.encoder
    with torch.no_grad():
        x = encoder.maxpool(encoder.bn1(encoder.conv1(images.expand(-1, 3, -1, -1))).relu())
        for name, unit in ((f"layer{stage}.{index}", encoder.get_submodule(f"layer{stage}.{index}"))
                           for stage in (1, 2, 3, 4) for index in (0, 1)):  # fmt: skip
            branch = unit.bn2(unit.conv2(unit.bn1(unit.conv1(x)).relu()))
            carried = unit.downsample(x) if unit.downsample else x
            rms = [value.square().mean().sqrt().item() for value in (branch, carried)]
            assert table.loc[f"encoder.{name}", ["branch", "identity"]].tolist() == pytest.approx(rms, rel=1e-5)
            x = (branch + carried).relu()
    assert table["ratio"].to_numpy() == pytest.approx(table["branch"] / table["identity"])
