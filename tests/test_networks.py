"""Public architectures, at random weights and small input: what is listed, what is swapped, what stays untouched."""

import copy
import functools

import monai.networks.nets
import numpy as np
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision.models as tv
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

import prr
from prr.graph.outputs import path_of
from prr.graph.suffix import Suffixes, Whole, outputs_of
from prr.layers import KINDS, full_name, named_tensors, tensor
from prr.reuse import predict

NETWORKS = {
    "resnet18": (tv.resnet18, 32),
    "resnet50": (tv.resnet50, 32),
    "densenet121": (tv.densenet121, 32),
    "mobilenet_v3_small": (tv.mobilenet_v3_small, 32),
    "efficientnet_b0": (tv.efficientnet_b0, 32),
    "vgg11_bn": (tv.vgg11_bn, 32),
    "convnext_tiny": (tv.convnext_tiny, 32),
    "vit_b_16": (functools.partial(tv.vit_b_16, image_size=32), 32),
    "deeplabv3_resnet50": (functools.partial(tv.segmentation.deeplabv3_resnet50, weights_backbone=None), 32),
    "fcn_resnet50": (functools.partial(tv.segmentation.fcn_resnet50, weights_backbone=None), 32),
    "timm resnetv2": (functools.partial(timm.create_model, "resnetv2_50"), 32),
    "timm vit": (functools.partial(timm.create_model, "vit_tiny_patch16_224", img_size=32), 32),
    "smp Unet": (functools.partial(smp.Unet, "resnet18", encoder_weights=None, classes=3), 32),
    "smp PSPNet": (functools.partial(smp.PSPNet, "resnet18", encoder_weights=None, classes=3), 64),
    "monai UNet": (
        functools.partial(
            monai.networks.nets.UNet, 2, 3, 2, channels=(4, 8, 16), strides=(2, 2), num_res_units=1, norm="instance"
        ),
        32,
    ),
    "monai 3D UNet": (
        functools.partial(
            monai.networks.nets.UNet, 3, 1, 2, channels=(4, 8), strides=(2,), norm=("group", {"num_groups": 2})
        ),
        (1, 8, 8, 8),
    ),
}
UNTRACEABLE = {"smp PSPNet"}
FAMILIES = {
    _ConvNd: {"weight": "W", "bias": "B"},
    _BatchNorm: {"running_mean": "RM", "running_var": "RV", "weight": "RW", "bias": "RB"},
    nn.Linear: {"weight": "LW", "bias": "LB"},
    (nn.LayerNorm, nn.GroupNorm, _InstanceNorm): {"weight": "NW", "bias": "NB"},
}


@pytest.fixture(scope="module", params=NETWORKS)
def case(request):
    """A network, another of its kind, and two images."""
    factory, size = NETWORKS[request.param]
    pair = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        pair.append(factory().eval())
        for value in pair[-1].parameters():
            if not value.any():  # vit's head begins at 0, and would hide everything
                nn.init.normal_(value, std=0.02)
    images = torch.randn(2, *(size if isinstance(size, tuple) else (3, size, size)))
    return *pair, (images, torch.zeros(2))


def level(output, data):
    """Any number that moves with the output: its mean square per image."""
    return output.double().square().flatten(1).mean(1).numpy()


def run_and_listed(model, images):
    """Independent of prr: {(kind, name)} of the layers whose modules a forward pass calls."""
    found = set()
    attention = [name for name, module in model.named_modules() if isinstance(module, nn.MultiheadAttention)]

    def note(module, inputs, output, name):
        for family, kinds in FAMILIES.items():
            if isinstance(module, family) and not any(name.startswith(f"{each}.") for each in attention):
                found.update((kind, name) for it, kind in kinds.items() if getattr(module, it, None) is not None)

    model = copy.deepcopy(model)
    for name, module in model.named_modules():
        module.register_forward_hook(functools.partial(note, name=name))
    with torch.no_grad():
        model(images)
    return found


def state(model):
    values = [(name, id(value), value.detach().numpy().tobytes()) for name, value in named_tensors(model).items()]
    modules = [(module.training, len(module._forward_hooks)) for module in model.modules()]
    return values, modules, [(value.requires_grad, value.grad, value.device) for value in model.parameters()]


def test_the_table_lists_every_layer_that_runs_and_no_other_is_live(case):
    target, _, (images, _) = case
    table = prr.parameter_table(target, images)
    live = set(table[table["live"]][["kind", "name"]].itertuples(index=False, name=None))
    parts = tuple(f"{name}." for name, each in target.named_modules() if isinstance(each, nn.MultiheadAttention))
    called = {(kind, name) for kind, name in live if not KINDS[kind].several and not name.startswith(parts)}
    assert called == run_and_listed(target, images)
    assert not table.duplicated(["kind", "layer"]).any()


def test_a_sweep_by_its_own_weights_changes_nothing_and_leaves_the_network_as_it_was(case):
    target, _, data = case
    target = copy.deepcopy(target).train()
    before = state(target)
    swept = prr.sweep(target, copy.deepcopy(target), data, score=level)
    assert state(target) == before
    assert (swept[["drop", "low", "high"]] == 0).all(axis=None)
    table = prr.parameter_table(target, data[0])
    assert len(swept) == table["live"].sum()


def test_a_row_of_a_sweep_is_the_score_after_that_transplant(case):
    target, source, data = case
    table = prr.parameter_table(target, data[0]).query("live")
    kind, layer = table[table["kind"].isin(["W", "LW"])].iloc[-1][["kind", "layer"]]
    row = prr.sweep(target, source, data, kinds=[kind], layers=[layer], score=level).iloc[0]
    model = prr.transplant(target, source, kind, layer)
    before, after = target.state_dict(), model.state_dict()
    changed = [name for name, value in before.items() if not torch.equal(value, after[name])]
    assert changed == [full_name(kind, row["name"])]
    scored = level(predict(model, data[0]), None).mean()
    np.testing.assert_allclose(row["score"], scored, rtol=1e-5)
    assert row["drop"] != 0


def test_what_depends_on_a_change_gives_what_the_whole_network_gives(case, request):
    target, source, (images, _) = case
    live = prr.parameter_table(target, images).query("live")
    pairs = list(live[["kind", "name"]].iloc[::10].itertuples(index=False, name=None))
    changes = [(tensor(target, *pair), tensor(source, *pair).detach().clone()) for pair in pairs]
    before = state(target)
    path = path_of(target(images))
    outputs = outputs_of(target, changes, images[:1], path)
    traceable = request.node.callspec.params["case"] not in UNTRACEABLE
    assert isinstance(outputs, Suffixes if traceable else Whole)
    with torch.inference_mode():
        found, expected = list(outputs(images)), list(Whole(target, changes, path)(images))
    assert len(found) == len(expected) == 1 + len(pairs)
    assert all(map(torch.equal, found, expected))
    assert any(not torch.equal(each, expected[0]) for each in expected[1:])
    assert state(target) == before


def test_all_of_a_network_taken_together_is_the_source(case):
    target, source, _ = case
    plan = prr.parameter_table(target)[["kind", "name"]].assign(action="reuse")
    model = prr.apply_plan(target, source, plan)
    for kind, name in plan[["kind", "name"]].itertuples(index=False):
        assert torch.equal(tensor(model, kind, name), tensor(source, kind, name))
    frozen = {full_name(kind, name) for kind, name in plan[["kind", "name"]].itertuples(index=False)}
    assert all(value.requires_grad == (name not in frozen) for name, value in model.named_parameters())


def test_the_layers_that_never_run_in_the_default_pspnet_are_told_and_not_judged():
    pair = [smp.PSPNet("resnet18", encoder_weights=None, classes=3).eval() for _ in range(2)]
    data = torch.randn(4, 3, 64, 64), torch.randint(3, (4, 64, 64))
    verdict = prr.judge(*pair, data, kinds=["W", "RM"], tolerance=1.0)
    dead = verdict.pairs[~verdict.pairs["live"]]
    assert dead["name"].nunique() == 20
    assert dead["name"].str.startswith(("encoder.layer3", "encoder.layer4")).all()
    assert not set(dead["name"]) & set(verdict.layers["name"])
    plan = verdict.plan().merge(dead, how="inner")
    assert set(plan["action"]) == {"retrain"}
    page = verdict.to_html()
    assert all(name in page.split("Not judged", 1)[1] for name in dead["name"])
