"""47 public networks with random weights, at tiny inputs. A sample is tried each time; to try all:
`pip install -c constraints.txt -e ".[architectures]"`, then `OMP_NUM_THREADS=1 pytest -n 2 -m architectures`.
"""

import contextlib
import copy
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import monai.networks.nets as monai
import numpy as np
import pandas as pd
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision.models as tv
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformerBlockV2
from torchvision.models.video import resnet as video

import prr
from prr.layers import full_name


class Network(NamedTuple):
    make: Callable[[], nn.Module]
    shape: tuple[int, ...] = (3, 32, 32)  # of one input
    tokens: int = 0  # so many there are, where the input is made of tokens
    output: str | int | None = None  # which of several counts: a name is found, a place has to be told
    beside: tuple[str, ...] = ()  # how the names of modules begin that run, but not for the output that counts
    read: tuple[str, ...] = ()  # how the names of modules end whose tensors are used while they are not called


def hf(network: str, shape: tuple[int, ...] = (3, 32, 32), tokens: int = 0, **options: Any) -> Network:
    """From a configuration of its own: nothing is downloaded."""

    def make() -> nn.Module:
        import transformers  # which the extra `tests` hasn't

        kind = getattr(transformers, network)
        return kind(kind.config_class(**options, **({"vocab_size": tokens} if tokens else {})))

    return Network(make, shape, tokens, "logits")


def segmentation(network: str, encoder: str = "resnet18", size: int = 64, **options: Any) -> Network:
    make = functools.partial(getattr(smp, network), encoder, encoder_weights=None, classes=3, **options)
    return Network(make, (3, size, size))


def image_model(network: str, size: int = 32, **options: Any) -> Network:
    make = functools.partial(timm.create_model, network, pretrained=False, num_classes=5, **options)
    return Network(make, (3, size, size))


class Flow(nn.Module):
    """RAFT takes two frames, which here are the channels of one image; its output is a list, the last flow the best."""

    def __init__(self):
        super().__init__()
        self.raft = tv.optical_flow.raft_small()

    def forward(self, frames):
        return self.raft(*frames.split(3, 1), num_flow_updates=2)


def swin_v2() -> nn.Module:
    """What `swin_v2_t` makes, but small, which it doesn't offer."""
    return tv.SwinTransformer(
        [4, 4], 12, [2, 2], [1, 2], [4, 4], num_classes=5, block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2
    )


MONAI = {
    "UNETR": Network(lambda: monai.UNETR(1, 2, 32, 8, 24, 48, 3), (1, 32, 32, 32)),
    "SegResNet": Network(lambda: monai.SegResNet(), (1, 16, 16, 16)),
    "DynUNet": Network(  # deep supervision runs in eval mode too, but counts in training alone
        lambda: monai.DynUNet(2, 1, 2, [3, 3, 3], [1, 2, 2], [2, 2], [8, 12, 16], deep_supervision=True),
        (1, 16, 16),
        beside=("deep_supervision_heads",),
    ),
    "BasicUNetPlusPlus": Network(  # a list of four, the last of the whole network
        lambda: monai.BasicUNetPlusPlus(2, 1, 2, (4, 4, 8, 8, 8, 4), deep_supervision=True),
        (1, 32, 32),
        output=3,
        beside=("final_conv_0_1", "final_conv_0_2", "final_conv_0_3"),
    ),
    "SwinUNETR": Network(lambda: monai.SwinUNETR(1, 2, feature_size=12, spatial_dims=2), (1, 64, 64)),
    "AttentionUnet": Network(lambda: monai.AttentionUnet(2, 1, 2, (4, 8, 16), (2, 2)), (1, 16, 16)),
    "VNet": Network(lambda: monai.VNet(2, 1, 2, dropout_dim=2), (1, 32, 32)),
    "HighResNet": Network(lambda: monai.HighResNet(2, 1, 2), (1, 16, 16)),
    "SegResNetDS": Network(  # the same
        lambda: monai.SegResNetDS(2, 8, 1, 2, dsdepth=2), (1, 16, 16), beside=("up_layers.1.head",)
    ),
}
TRANSFORMER = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
HF = {
    "ViT": hf("ViTForImageClassification", image_size=32, **TRANSFORMER),
    "Segformer": hf(
        "SegformerForSemanticSegmentation", num_attention_heads=[1, 2, 3, 4], decoder_hidden_size=16, **STAGES
    ),
    "BERT": hf("BertForSequenceClassification", (8,), tokens=50, **TRANSFORMER),
    "Llama": hf("LlamaForCausalLM", (8,), tokens=50, **TRANSFORMER),
    "ConvNextV2": hf("ConvNextV2ForImageClassification", **STAGES),
    "ResNet": hf("ResNetForImageClassification", embedding_size=8, **STAGES),
    "GPT2": hf(  # its linear layers are a Conv1D of its own, its head and its embedding one tensor
        "GPT2LMHeadModel", (8,), tokens=50, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    ),
}
TORCHVISION = {
    "googlenet": Network(lambda: tv.googlenet(num_classes=5, init_weights=False)),  # auxiliary heads, dead in eval mode
    "inception_v3": Network(lambda: tv.inception_v3(num_classes=5, init_weights=False), (3, 75, 75)),  # the same
    "r3d_18": Network(  # half as deep
        lambda: video.VideoResNet(video.BasicBlock, [video.Conv3DSimple] * 4, [1] * 4, video.BasicStem, num_classes=5),
        (3, 4, 16, 16),
    ),
    "swin_v2_t": Network(swin_v2, read=("attn.qkv", "attn.proj")),  # given to a function, as weights
    "maxvit_t": Network(
        lambda: tv.MaxVit((32, 32), 8, 4, [8, 16], [1, 1], 4, stochastic_depth_prob=0.1, num_classes=5)
    ),
    "shufflenet_v2": Network(lambda: tv.shufflenet_v2_x0_5(num_classes=5)),
    "squeezenet1_1": Network(lambda: tv.squeezenet1_1(num_classes=5)),
    "mnasnet": Network(lambda: tv.mnasnet0_5(num_classes=5)),
    "regnet_y_400mf": Network(lambda: tv.regnet_y_400mf(num_classes=5)),
    "resnext50_32x4d": Network(lambda: tv.resnext50_32x4d(num_classes=5)),
    "lraspp_mobilenet_v3": Network(
        lambda: tv.segmentation.lraspp_mobilenet_v3_large(weights_backbone=None, num_classes=5), output="out"
    ),
    "raft_small": Network(Flow, (6, 128, 128), output=1),
}
SMP = {
    "FPN": segmentation("FPN"),
    "DeepLabV3Plus": segmentation("DeepLabV3Plus"),
    "UnetPlusPlus": segmentation("UnetPlusPlus", size=32),
    "MAnet": segmentation("MAnet", size=32),
    "Segformer": segmentation("Segformer", "mit_b0"),
    "UPerNet": segmentation("UPerNet", decoder_channels=32),
    "DPT": segmentation(
        "DPT",
        "tu-test_vit",
        size=32,
        dynamic_img_size=True,
        decoder_intermediate_channels=(16, 16, 32, 32),
        decoder_fusion_channels=16,
    ),
}
TIMM = {
    "efficientnetv2_s": image_model("efficientnetv2_s"),
    "nfnet": image_model("test_nfnet"),  # a ScaledStdConv normalises its weight each time
    "convnextv2_atto": image_model("convnextv2_atto"),  # global response normalisation
    "mobilevit_xxs": image_model("mobilevit_xxs"),
    "res2net50": image_model("res2net50_14w_8s"),
    "hrnet_w18_small": image_model("hrnet_w18_small"),
    "regnetz": image_model("regnetz_005"),
    "ghostnet": image_model("ghostnet_050"),
    "repvgg": image_model("repvgg_a0"),
    "fastvit": image_model("fastvit_t8", size=64),
    "xcit_nano": image_model("xcit_nano_12_p16_224"),
    "coatnet_nano": image_model("coatnet_nano_rw_224", size=64, img_size=64),  # relative positions
}
NETWORKS = {
    f"{library} {name}": network
    for library, networks in {"monai": MONAI, "hf": HF, "tv": TORCHVISION, "smp": SMP, "timm": TIMM}.items()
    for name, network in networks.items()
}
SAMPLE = {  # quick ones that differ much: kinds of layer and of output, 2 and 3 axes, dead layers, bare weights
    "monai SegResNet",
    "monai BasicUNetPlusPlus",
    "tv googlenet",
    "tv r3d_18",
    "tv swin_v2_t",
    "smp DPT",
    "timm nfnet",
    "timm convnextv2_atto",
}
FAMILIES = {
    (_ConvNd,): {"weight": "W", "bias": "B"},
    (_BatchNorm,): {"running_mean": "RM", "running_var": "RV", "weight": "RW", "bias": "RB"},
    (nn.Linear,): {"weight": "LW", "bias": "LB"},
    (nn.LayerNorm, nn.GroupNorm, _InstanceNorm, nn.RMSNorm): {"weight": "NW", "bias": "NB"},
}
ROWS = 14  # of a sweep are compared with a loop


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.architectures(sample=name in SAMPLE)) for name in NETWORKS],
)
def case(request):
    """A line of the table, two such networks that differ in every tensor, and two inputs."""
    network = NETWORKS[request.param]
    pair = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        pair.append(network.make())
        for value in floating(pair[-1]).values():
            if value.min() == value.max():  # a norm's ones would be the same in both, and a head's zeros hide them all
                value.add_(torch.rand_like(value) - 0.5, alpha=0.2)
    inputs = torch.randint(network.tokens, (2, *network.shape)) if network.tokens else torch.randn(2, *network.shape)
    return network, *pair, (inputs, torch.zeros(2))


def floating(model):
    return {name: value for name, value in model.state_dict().items() if value.is_floating_point()}


def level(output, data):
    """Any number that moves with the output: its mean square per image."""
    return output.double().square().flatten(1).mean(1).numpy()


def state(model):
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    values = [(name, id(value), value.numpy(force=True).tobytes()) for name, value in tensors]
    modules = [
        (module.training, list(vars(module)), len(module._forward_hooks), len(module._forward_pre_hooks))
        for module in model.modules()
    ]
    return values, modules, [(value.requires_grad, value.grad) for value in model.parameters()]


@contextlib.contextmanager
def untouched(*models):
    """Of mixed modes, with a parameter that is frozen: they come out as they went in."""
    for model in models:
        model.train()
        next(model.children()).eval()
        next(model.parameters()).requires_grad_(False)
    before = [state(model) for model in models]
    yield
    assert [state(model) for model in models] == before


def first_names(model):
    """{name of a floating tensor in the state dict: the first of its names}."""
    first = {value.data_ptr(): name for name, value in reversed(floating(model).items())}
    return {name: first[value.data_ptr()] for name, value in floating(model).items()}


def by_hooks(model, inputs, read):
    """Independent of prr: {tensor of a known kind: its kind}, all that such modules have, what is live of these."""
    model, first = copy.deepcopy(model).eval(), first_names(model)
    kinds, known, live = {}, set(), set()
    for name, module in model.named_modules():
        for family, attributes in FAMILIES.items():
            if isinstance(module, family):
                own = {f"{name}.{it}": kind for it, kind in attributes.items() if getattr(module, it, None) is not None}
                kinds |= {each: kind for each, kind in own.items() if first[each] == each}
                known.update(map(first.get, own))
                module.register_forward_hook(lambda *_, own=own: live.update(map(first.get, own)))
                if name.endswith(read):
                    live.update(map(first.get, own))
    with torch.no_grad():
        model(inputs)
    return kinds, known, live


def sweep(network, target, source, data):
    """Few rows from all parts of a network: its first layers, its last, and the middle one of each kind."""
    live = prr.parameter_table(target, data[0]).query("live")
    middle = live.groupby("kind")["layer"].agg(lambda layers: layers.iloc[len(layers) // 2])
    layers = {live["layer"].min(), live["layer"].max(), *middle}
    rows = live[live["layer"].isin(layers) & ~live["name"].str.startswith(network.beside)]
    told = network.output if isinstance(network.output, int) else None
    warned = pytest.warns(UserWarning, match="without effect") if network.beside else contextlib.nullcontext()
    with untouched(target, source), warned:
        swept = prr.sweep(target, source, data, layers=layers, score=level, output=told)
    columns = ["kind", "layer", "name"]
    assert set(swept[columns].itertuples(index=False)) == set(rows[columns].itertuples(index=False))
    return swept


def test_the_table_says_what_forward_hooks_see(case):
    network, target, _, (inputs, _) = case
    kinds, known, live = by_hooks(target, inputs, network.read)
    with untouched(target):
        table = prr.parameter_table(target, inputs)
    first = first_names(target)
    names = [first[full_name(*row)] for row in table[["kind", "name"]].itertuples(index=False)]
    table = table.set_index(pd.Index(names))
    assert table.index.is_unique
    assert table["kind"].reindex(list(kinds)).to_dict() == kinds
    old = {kind for attributes in FAMILIES.values() for kind in attributes.values()}
    assert set(table.index[table["kind"].isin(old)]) <= known
    assert set(table.index[table["live"]]) & known == live
    assert set(table.index) == set(first.values())


def test_a_sweep_is_a_plain_loop(case):
    network, target, source, data = case
    swept = sweep(*case)
    assert swept["drop"].any()
    swept = swept.iloc[np.unique(np.linspace(0, len(swept) - 1, ROWS).round().astype(int))]
    scores = []
    for row in swept.itertuples():
        model, name = copy.deepcopy(target).eval(), full_name(row.kind, row.name)
        model.state_dict()[name].copy_(source.state_dict()[name])
        with torch.no_grad():
            output = model(data[0])
        scores.append(level(output if network.output is None else output[network.output], data).mean())
    np.testing.assert_allclose(swept["score"], scores, rtol=1e-5)


def test_a_network_loses_nothing_by_its_own_tensors(case):
    network, target, _, data = case
    swept = sweep(network, target, copy.deepcopy(target), data)
    assert (swept[["drop", "low", "high"]] == 0).all(axis=None)
