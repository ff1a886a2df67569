"""Networks that the paper lacks: one backbone with and without short and long connections, and a DenseNet encoder."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.densenet import DenseNet

from prr.study.models import RGB, TITLES, DoubleConv, PSPNet, he_initialised, pspnet, unet

LEVELS = 4


class Block(DoubleConv):
    """Two convolutions, and what enters them added to what leaves them if the connection is short."""

    def __init__(self, in_channels: int, out_channels: int, short: bool):
        super().__init__(in_channels, out_channels)
        self.short = short

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        if self.short:
            y = y + functional.pad(x, (0, 0, 0, 0, 0, y.shape[1] - x.shape[1]))  # channels that x lacks are 0
        return y.relu()


class Backbone(nn.Module):
    """See `backbone`."""

    def __init__(self, width: int, in_channels: int, out_channels: int, short: bool, long: bool):
        super().__init__()
        self.long = long
        widths = [width * 2**depth for depth in range(LEVELS)]
        self.down = nn.ModuleList(Block(*pair, short) for pair in zip([in_channels, *widths], widths, strict=False))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * c, c, 2, stride=2) for c in reversed(widths[:-1]))
        self.merge = nn.ModuleList(Block(c, c, short) for c in reversed(widths[:-1]))
        self.classifier = nn.Conv2d(width, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for block in self.down[:-1]:
            kept.append(x := block(x))
            x = functional.max_pool2d(x, 2)
        x = self.down[-1](x)
        for up, block in zip(self.up, self.merge, strict=True):
            x, same = up(x), kept.pop()
            x = block(x + same if self.long else x)
        return self.classifier(x)


def backbone(
    width: int = 64, in_channels: int = 1, out_channels: int = 4, *, short: bool = False, long: bool = False
) -> nn.Module:
    """Four levels down and up: (n, in_channels, h, w) -> (n, out_channels, h, w); h and w divisible by 8.

    Connections add and have no parameters, so all four networks have the same layers, names, shapes and start: 18
    convolutions and 14 batch norms at UNet's widths. They differ in what is added and in nothing else. UNet has a level
    more, with which a network without connections learns more slowly.

    Args:
        width: channels of the first level, doubled at each pooling.
        in_channels: of the image.
        out_channels: classes, or copies of the image for auto-encoding.
        short: add what enters a double convolution to what leaves it, as in a residual unit; channels that are missing
            count as 0.
        long: add each level's feature map of the encoder in the decoder, where UNet concatenates it.

    Source: He et al. 2016, doi:10.1109/CVPR.2016.90 (shortcuts without parameters: option A); Drozdzal et al. 2016,
    doi:10.1007/978-3-319-46976-8_19 (short and long, summed).
    """
    return he_initialised(Backbone(width, in_channels, out_channels, short, long))


class DenseEncoder(nn.Sequential):
    """torchvision's dense blocks, two layers in each of four, with output stride 8 by dilation; see `densenet`."""

    def __init__(self, width: int, in_channels: int = RGB):
        super().__init__()
        made = DenseNet(growth_rate=width // 2, block_config=(2, 2, 2, 2), num_init_features=width)
        for name, module in made.features.named_children():
            self.add_module(name, module)
        self.conv0 = nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False)
        for block, dilation in ((self.denseblock3, 2), (self.denseblock4, 4)):
            for conv in (module for module in block.modules() if isinstance(module, nn.Conv2d)):
                if conv.kernel_size == (3, 3):
                    conv.dilation = conv.padding = (dilation, dilation)
        self.transition2.pool = self.transition3.pool = nn.Identity()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for name, module in self.named_children():
            x = module(x)
            if name == "denseblock3":
                third = x
        return third, x.relu()


def densenet(width: int = 64, in_channels: int = 1, out_channels: int = 4) -> nn.Module:
    """PSPNet's pyramid on a DenseNet: (n, in_channels, h, w) -> (n, out_channels, h, w); h and w from 48.

    A stem, four dense blocks of two layers (1x1, then 3x3) and three transitions: 20 convolutions, as many as in the
    ResNet-18 of PSPNet.

    Args:
        width: channels of the stem; even. A dense layer adds half as many.
        in_channels: 1 (repeated to 3) or more.
        out_channels: classes, or copies of the image for auto-encoding.

    Source: Huang et al. 2017, doi:10.1109/CVPR.2017.243; the head as in `prr.study.models.pspnet`.
    """
    encoder = DenseEncoder(width, RGB if in_channels == 1 else in_channels)
    return he_initialised(PSPNet(encoder, 2 * width, 2 * width, width, in_channels, out_channels))


class Architecture(NamedTuple):
    """What the study knows of a network.

    Args:
        make: (width, in_channels, out_channels) -> network, (n, in_channels, h, w) -> (n, out_channels, h, w).
        title: how it is written in tables and figures.
        sized_as: unet or pspnet, whose width and start of a profile it has.
        features: name of the module whose output the classifier sees.
    """

    make: Callable[..., nn.Module]
    title: str
    sized_as: str
    features: str


CONNECTIONS = {  # short, long
    "plain": (False, False),
    "residual": (True, False),
    "long": (False, True),
    "both": (True, True),
}


def _connected(name: str, title: str) -> Architecture:
    short, long = CONNECTIONS[name]
    return Architecture(functools.partial(backbone, short=short, long=long), title, "unet", "merge.2")


# A new network takes a function that makes it, and a line here.
ARCHITECTURES = {
    "unet": Architecture(unet, TITLES["unet"], "unet", "up.3.block"),
    "pspnet": Architecture(pspnet, TITLES["pspnet"], "pspnet", "fuse"),
    "plain": _connected("plain", "no connections"),
    "residual": _connected("residual", "short"),
    "long": _connected("long", "long"),
    "both": _connected("both", "short and long"),
    "densenet": Architecture(densenet, "DenseNet", "pspnet", "fuse"),
}
NAMES = {name: each.title for name, each in ARCHITECTURES.items()}
ENCODERS = ("down.", "encoder.")  # how the names of an encoder's parameters begin


def random(network: str, width: int, seed: int, channels: int = 1, classes: int = 4) -> nn.Module:
    """An untrained network from a seed; the global generator stays as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ARCHITECTURES[network].make(width, channels, classes)
