"""The paper's two networks: UNet, whose connections are long, and PSPNet on ResNet-18, whose connections are short."""

from __future__ import annotations

import copy
import hashlib

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import ResNet18_Weights
from torchvision.models.resnet import BasicBlock, ResNet

from prr.errors import OptionError
from prr.layers import forward

PYRAMID = (1, 2, 3, 6)
RGB = 3  # channels that an encoder is made for; a grey image is repeated to them
LAYOUT = torch.channels_last  # in which networks are trained and swept


class DoubleConv(nn.Module):
    """Two 3x3 convolutions, each with batch norm and ReLU: (n, in, h, w) -> (n, out, h, w)."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv2(self.bn1(self.conv1(x)).relu_())).relu_()


class Up(nn.Module):
    """Up-convolution, the long connection, double convolution: (n, 2c, h, w), (n, c, 2h, 2w) -> (n, c, 2h, 2w)."""

    def __init__(self, channels: int):
        super().__init__()
        self.up = nn.ConvTranspose2d(2 * channels, channels, 2, stride=2)
        self.block = DoubleConv(2 * channels, channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.block(torch.cat([skip, self.up(x)], dim=1))


class UNet(nn.Module):
    """See `unet`."""

    def __init__(self, width: int, in_channels: int, out_channels: int):
        super().__init__()
        widths = [width * 2**depth for depth in range(5)]
        self.down = nn.ModuleList(DoubleConv(*pair) for pair in zip([in_channels, *widths], widths, strict=False))
        self.up = nn.ModuleList(Up(channels) for channels in reversed(widths[:-1]))
        self.classifier = nn.Conv2d(width, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for block in self.down[:-1]:
            x = block(x)
            skips.append(x)
            x = functional.max_pool2d(x, 2)
        x = self.down[-1](x)
        for up in self.up:
            x = up(x, skips.pop())
        return self.classifier(x)


class Encoder(ResNet):
    """torchvision's ResNet-18 without its classifier, at any width, with output stride 8 by dilation.

    State dict names are torchvision's. Its constructor refuses other widths and dilation for basic blocks, so width
    enters where layers are made, and strides and dilation are set afterwards.
    """

    def __init__(self, width: int, in_channels: int = RGB):
        self.width = width
        super().__init__(BasicBlock, [2, 2, 2, 2])
        self.conv1 = nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        del self.fc, self.avgpool
        for layer, dilation in ((self.layer3, 2), (self.layer4, 4)):
            for conv in (module for module in layer.modules() if isinstance(module, nn.Conv2d)):
                conv.stride = (1, 1)
                if conv.kernel_size == (3, 3):
                    conv.dilation = conv.padding = (dilation, dilation)

    def _make_layer(self, block, planes, blocks, stride=1, dilate=False):
        if planes == 64:  # the stem that stands before has this network's width
            self.inplanes = self.width
        return super()._make_layer(block, planes * self.width // 64, blocks, stride, dilate)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.maxpool(self.bn1(self.conv1(x)).relu_())
        third = self.layer3(self.layer2(self.layer1(x)))
        return third, self.layer4(third)


class ConvBN(nn.Sequential):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU()


class PSPNet(nn.Module):
    """See `pspnet`."""

    def __init__(
        self, encoder: nn.Module, third: int, deep: int, width: int, in_channels: int, out_channels: int
    ):  # fmt: skip
        """`encoder`: (n, c, h, w) -> its third stage (n, third, h / 8, w / 8) and its last (n, deep, h / 8, w / 8)."""
        super().__init__()
        narrow = 2 * width
        self.in_channels = in_channels
        self.encoder = encoder
        self.pyramid = nn.ModuleList(ConvBN(deep, narrow, 1) for _ in PYRAMID)
        self.fuse = ConvBN(deep + len(PYRAMID) * narrow, narrow, 3)
        self.classifier = nn.Conv2d(narrow, out_channels, 1)
        self.auxiliary = nn.Sequential(ConvBN(third, width, 3), nn.Conv2d(width, out_channels, 1))

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        size = x.shape[-2:]
        third, deep = self.encoder(x.expand(-1, RGB, -1, -1) if self.in_channels == 1 else x)
        levels = [
            resize(level(functional.adaptive_avg_pool2d(deep, bins)), deep.shape[-2:]).contiguous(memory_format=LAYOUT)
            for bins, level in zip(PYRAMID, self.pyramid, strict=True)
        ]  # from a single pixel, resizing can't tell the layout, and in another one what follows takes twice as long
        output = resize(self.classifier(self.fuse(torch.cat([deep, *levels], dim=1))), size)
        return (output, resize(self.auxiliary(third), size)) if self.training else output


def resize(x: Tensor, size: torch.Size) -> Tensor:
    """Bilinear to (h, w)."""
    return functional.interpolate(x, size, mode="bilinear", align_corners=False)


def unet(width: int = 64, in_channels: int = 1, out_channels: int = 4) -> nn.Module:
    """UNet: (n, in_channels, h, w) -> (n, out_channels, h, w); h and w divisible by 16.

    3x3 convolutions with bias and padding 1, each with batch norm and ReLU; 4 poolings; 2x2 up-convolutions; a 1x1
    classifier: 23 convolutions, 18 batch norms, 118 pairs of kind and layer. Kernels start from the Gaussian of the
    paper (He initialisation), biases from 0.

    Args:
        width: channels of the first level, doubled at each pooling.
        in_channels: of the image.
        out_channels: classes, or copies of the image for auto-encoding.

    Source: Ronneberger, Fischer, Brox 2015, arXiv:1505.04597.

    >>> import torch
    >>> unet(width=4)(torch.zeros(2, 1, 32, 32)).shape
    torch.Size([2, 4, 32, 32])
    """
    return he_initialised(UNet(width, in_channels, out_channels))


def pspnet(width: int = 64, in_channels: int = 1, out_channels: int = 4, weights: str | None = None) -> nn.Module:
    """PSPNet on ResNet-18, output stride 8: (n, in_channels, h, w) -> (n, out_channels, h, w); h and w from 48.

    Pyramid of 1, 2, 3, 6 bins, fusion, 1x1 classifier; in train mode also the output of an auxiliary head on layer3:
    28 convolutions, 26 batch norms, 134 pairs of kind and layer, 127 of them live.

    Args:
        width: channels of the stem; a multiple of 1, 64 in the paper.
        in_channels: 1 (repeated to 3) or more.
        out_channels: classes, or copies of the image for auto-encoding.
        weights: None (random) or "imagenet" (torchvision's ResNet-18; width 64 only).

    Raises:
        OptionError: other weights, or ImageNet weights at another width or where they can't be had.

    Source: Zhao et al. 2017, doi:10.1109/CVPR.2017.660; He et al. 2016, doi:10.1109/CVPR.2016.90.

    >>> import torch
    >>> pspnet(width=8).eval()(torch.zeros(2, 1, 48, 48)).shape
    torch.Size([2, 4, 48, 48])
    """
    encoder = Encoder(width, RGB if in_channels == 1 else in_channels)
    model = he_initialised(PSPNet(encoder, 4 * width, 8 * width, width, in_channels, out_channels))
    if weights is not None:
        if in_channels not in (1, RGB):
            raise OptionError(f"weights={weights!r} with in_channels={in_channels}: expected 1 or 3, as they take")
        load_imagenet(model, width, weights)
    return model


def connections(model: nn.Module) -> list[tuple[str, str]]:
    """(from, to) names of the convolutions that a long (UNet) or short (PSPNet) connection joins; [] for others."""
    if isinstance(model, UNet):
        last = len(model.up) - 1
        return [(f"down.{level}.conv2", f"up.{last - level}.block.conv1") for level in range(len(model.up))]
    blocks = [f"{name}.conv2" for name, module in model.named_modules() if isinstance(module, BasicBlock)]
    return list(zip(["encoder.conv1", *blocks], blocks, strict=False)) if isinstance(model, PSPNet) else []


def branches(model: nn.Module, images: Tensor) -> pd.DataFrame:
    """How much of a residual unit's sum comes through its branch, and how much through its short connection.

    Args:
        model: PSPNet, on the device of the images; not changed.
        images: (n, 1, h, w), one batch.

    Returns:
        DataFrame[name, branch, identity, ratio], one row per unit: root mean square of the branch's output F(x), of
        what the short connection carries (x, or its projection where the number of channels changes), and the first
        over the second.

    Source: Wang et al. 2020, arXiv:2008.03411, "Analysis of the parameter reuse of convolutional layer": "dominant".
    """
    probe, seen = copy.deepcopy(model).eval(), {}

    def listen(module: nn.Module, key: tuple[str, str], use_input: bool = False) -> None:
        def hook(_, inputs: tuple[Tensor], output: Tensor) -> None:  # now: the sum is written over the branch later
            seen[key] = (inputs[0] if use_input else output).square().mean().sqrt().item()

        module.register_forward_hook(hook)

    for name, unit in probe.named_modules():
        if isinstance(unit, BasicBlock):
            listen(unit.bn2, (name, "branch"))
            listen(unit.downsample or unit, (name, "identity"), use_input=unit.downsample is None)
    forward(probe, images)
    rms = pd.Series(seen).unstack(sort=False)
    return rms.assign(ratio=rms["branch"] / rms["identity"]).rename_axis("name").reset_index()


TITLES = {"unet": "UNet", "pspnet": "PSPNet"}  # the paper's networks


def seed_of(seed: int, *words: str) -> int:
    """A seed of its own for each combination of words."""
    return int.from_bytes(hashlib.sha256(repr((seed, *words)).encode()).digest()[:4])


def he_initialised(model: nn.Module) -> nn.Module:
    """One scheme for all networks: Gaussian kernels of variance 2 / fan-in, biases 0, batch norm (1, 0).

    Source: He et al. 2015, doi:10.1109/ICCV.2015.123.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model


def load_imagenet(model: PSPNet, width: int, weights: str) -> None:
    """Load torchvision's ResNet-18 into the encoder, in place; see `pspnet`."""
    if weights != "imagenet":
        raise OptionError(f"weights={weights!r}: expected None or 'imagenet'")
    if width != 64:
        raise OptionError(f"weights='imagenet' with width={width}: torchvision's ResNet-18 has width 64 only")
    try:
        state = ResNet18_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True)
    except Exception as error:  # no network, a proxy, a truncated download
        raise OptionError(
            f"weights='imagenet': could not be downloaded ({type(error).__name__}: {error}); connect once, or put "
            "torchvision's resnet18 file into torch's hub folder, or take another start"
        ) from error
    model.encoder.load_state_dict({name: value for name, value in state.items() if not name.startswith("fc.")})
