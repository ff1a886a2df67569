"""Files of weights: what is read, what is told, what is refused, and that nothing in them ever runs."""

import copy
import pickle
import struct
from collections import OrderedDict
from pathlib import Path

import monai.networks.nets
import numpy as np
import pandas as pd
import pytest
import segmentation_models_pytorch as smp
import torch
import torchvision.models as tv
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

import prr
from prr.checkpoints import load, read, skeleton
from prr.errors import DataError, NetworkError
from prr.layers import parameter_table

ROW = ["kind", "layer", "name", "shape"]


class Touch:
    """Creates a file when it is unpickled by a careless reader."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


class Owner(nn.Conv2d):
    """A layer that has layers of its own."""

    def __init__(self):
        super().__init__(1, 2, 3)
        self.inner = nn.Conv2d(2, 2, 1)
        self.deep = nn.Sequential(nn.BatchNorm2d(2), nn.Linear(2, 2))


class Holder(nn.Module):
    """Layers beside tensors that belong to none."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))
        self.register_buffer("position", torch.zeros(1, 4, 4))
        self.owner = Owner()
        self.norm = nn.BatchNorm1d(3, affine=False)
        self.tail = nn.Linear(4, 2, bias=False)


def small(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(3, 2))


def prefixed(state, prefix):
    return {prefix + name: value for name, value in state.items()}


def saved(content, path, **options):
    torch.save(content, path, **options)
    return path


def assert_same(state, expected):
    assert list(state) == list(expected)
    for name, value in expected.items():
        assert torch.equal(state[name], value), name
        assert state[name].dtype == value.dtype


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}])
def test_what_torch_saved_is_read(tmp_path, options):
    state = small().state_dict()
    found, told = read(saved(state, tmp_path / "net.pt", **options))
    assert_same(found, state)
    assert told == []
    assert_same(read(str(tmp_path / "net.pt"))[0], state)


def test_safetensors_are_read_in_natural_order(tmp_path):
    names = ["conv.weight", "layer1.weight", "layer2.0.weight", "layer2.9.weight", "layer2.10.weight", "layer10.weight"]
    state = {name: torch.full((2,), float(place)) for place, name in enumerate(names)}
    save_file(dict(reversed(state.items())), tmp_path / "net.safetensors")
    found, (told,) = read(tmp_path / "net.safetensors")
    assert_same(found, state)
    assert "order" in told


@settings(max_examples=30, deadline=None)
@given(st.sets(st.text("a7.é²", min_size=1, max_size=5), min_size=1))
def test_safetensors_of_any_names_are_read_whole(tmp_path_factory, names):
    path = tmp_path_factory.mktemp("weights") / "net.safetensors"
    save_file({name: torch.ones(1) for name in names}, path)
    assert set(read(path)[0]) == names


@pytest.mark.parametrize(
    ("wrap", "words"),
    [
        (lambda state: {"state_dict": state, "epoch": 7}, ["unwrapped 'state_dict'"]),
        (lambda state: {"model": state, "step": torch.tensor(7)}, ["unwrapped 'model'"]),
        (lambda state: {"model_state_dict": state, "optimizer": {"state": {}}}, ["unwrapped 'model_state_dict'"]),
        (lambda state: {"net": {"state_dict": state}}, ["unwrapped 'net'", "unwrapped 'state_dict'"]),
        (lambda state: prefixed(state, "module."), ["dropped 'module.' before every name"]),
        (
            lambda state: {"state_dict": prefixed(state, "_orig_mod.module.")},
            ["unwrapped 'state_dict'", "dropped '_orig_mod.' before every name", "dropped 'module.' before every name"],
        ),
        (lambda state: {**state, "epoch": 7, "name": "unet"}, []),
    ],
)
def test_wrappers_and_prefixes_are_taken_off_and_told(tmp_path, wrap, words):
    state = small().state_dict()
    found, told = read(saved(wrap(state), tmp_path / "net.pt"))
    assert_same(found, state)
    assert told == words


def test_a_prefix_that_only_some_names_carry_stays(tmp_path):
    state = {"module.weight": torch.ones(2), "head.weight": torch.ones(2)}
    found, told = read(saved(state, tmp_path / "net.pt"))
    assert_same(found, state)
    assert told == []


def test_prefixes_of_safetensors_are_dropped_too(tmp_path):
    state = small().state_dict()
    save_file(prefixed(state, "module."), tmp_path / "net.safetensors")
    found, told = read(tmp_path / "net.safetensors")
    assert found.keys() == state.keys()
    assert told[-1] == "dropped 'module.' before every name"


@pytest.mark.parametrize("within", [lambda code: code, lambda code: {"state_dict": small().state_dict(), "x": code}])
@pytest.mark.parametrize("write", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path, within, write):
    made, path = tmp_path / "made", tmp_path / "net.pt"
    write(within(Touch(made)), path)
    with pytest.raises(DataError, match=r"net\.pt: expected"):
        read(path)
    assert not made.exists()
    pickle.loads(pickle.dumps(Touch(made)))
    assert made.exists()  # so it would have run


def test_a_whole_network_is_refused_by_the_name_of_its_class(tmp_path):
    with pytest.raises(DataError, match=r"pickled objects \(torch\.nn\.modules.*Sequential\).*save its state_dict\(\)"):
        read(saved(small(), tmp_path / "net.pt"))


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}])
def test_a_part_of_what_torch_saved_is_refused_wherever_it_ends(tmp_path, options):
    whole = saved(small().state_dict(), tmp_path / "net.pt", **options).read_bytes()
    for end in range(0, len(whole), 7):
        (tmp_path / "part.pt").write_bytes(whole[:end])
        with pytest.raises(DataError, match=r"part\.pt: expected"):
            read(tmp_path / "part.pt")


def test_a_part_of_a_safetensors_file_is_refused_wherever_it_ends(tmp_path):
    save_file(small().state_dict(), tmp_path / "net.safetensors")
    whole = (tmp_path / "net.safetensors").read_bytes()
    for end in range(0, len(whole), 7):
        (tmp_path / "part.safetensors").write_bytes(whole[:end])
        with pytest.raises(DataError, match=r"part\.safetensors: expected a whole safetensors file"):
            read(tmp_path / "part.safetensors")


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "whole"),
        (b"epoch,loss\n1,0.5\n", "whole"),
        (b"PK\x03\x04 and no more", "whole"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "whole"),
        (struct.pack("<Q", 2**40) + b"{}", "whole"),
        (b"<!DOCTYPE html><title>Sign in</title>", "web page"),
        (b"\n  <html lang='en'>", "web page"),
    ],
)
def test_what_holds_no_weights_is_refused_by_the_name_of_the_file(tmp_path, content, message, suffix):
    path = tmp_path / f"net{suffix}"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: expected")


def test_a_folder_and_a_missing_file_are_refused(tmp_path):
    with pytest.raises(DataError, match="found a folder"):
        read(tmp_path)
    with pytest.raises(DataError, match=r"absent\.pt: expected a file of weights, found nothing"):
        read(tmp_path / "absent.pt")


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_a_torchscript_archive_is_refused(tmp_path):
    torch.jit.trace(small()[:2].eval(), torch.zeros(1, 1, 5, 5)).save(tmp_path / "net.pt")
    with pytest.raises(DataError, match="TorchScript"):
        read(tmp_path / "net.pt")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (torch.ones(3), "Tensor"),
        (7, "int"),
        ([torch.ones(3)], "list"),
        ({}, "dict"),
        ({"model": {}, "lr": 0.1}, "dict"),
    ],
)
def test_tensors_without_names_are_refused(tmp_path, content, found):
    with pytest.raises(DataError, match=rf"net\.pt: expected named tensors, found {found}"):
        read(saved(content, tmp_path / "net.pt"))


def test_weights_are_loaded_in_place_and_told(tmp_path):
    network, weights = small(seed=1), small(seed=2)
    saved({"model": prefixed(weights.state_dict(), "module.")}, tmp_path / "net.pt")
    assert load(network, tmp_path / "net.pt") == ["unwrapped 'model'", "dropped 'module.' before every name"]
    assert_same(network.state_dict(), weights.state_dict())


@pytest.mark.parametrize("other", [nn.Conv2d(1, 2, 3), nn.Sequential(nn.Conv2d(1, 3, 3), *small()[1:])])
def test_weights_that_do_not_fit_are_refused_by_the_name_of_the_file(tmp_path, other):
    path = saved(small().state_dict(), tmp_path / "net.pt")
    with pytest.raises(NetworkError) as caught:
        load(other, path)
    assert str(caught.value).startswith(f"{path}: does not fit {type(other).__name__}")


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_network_that_calls_its_own_part_model_loads_what_it_saved(tmp_path, suffix):
    network = monai.networks.nets.UNet(2, 1, 2, channels=(4, 8), strides=(2,))  # all its names begin with model.
    path = tmp_path / f"net.{suffix}"
    (torch.save if suffix == "pt" else save_file)(network.state_dict(), path)
    other = copy.deepcopy(network)
    for value in other.parameters():
        nn.init.zeros_(value)
    load(other, path)
    assert_same(other.state_dict(), network.state_dict())


NETWORKS = {
    "resnet18": tv.resnet18,
    "mobilenet_v3_small": tv.mobilenet_v3_small,
    "convnext_tiny": tv.convnext_tiny,
    "smp Unet": lambda: smp.Unet("resnet18", encoder_weights=None, classes=3),
    "small": small,
    "convolution": lambda: nn.Conv2d(1, 2, 3),
    "transposed": lambda: nn.ConvTranspose3d(1, 2, 3, bias=False),
    "linear": lambda: nn.Linear(2, 3),
    "batch norm": lambda: nn.BatchNorm3d(2),
    "norms": lambda: nn.Sequential(nn.GroupNorm(1, 2), nn.LayerNorm(2, bias=False), nn.InstanceNorm2d(2, affine=True)),
    "owner": Owner,
    "holder": Holder,
    "reverse": lambda: nn.Sequential(OrderedDict(z=nn.Linear(1, 1), a=nn.Linear(1, 1))),
    "attention": lambda: nn.Sequential(nn.MultiheadAttention(4, 2), nn.Linear(4, 4)),
    "attention of other widths": lambda: nn.Sequential(nn.MultiheadAttention(4, 2, kdim=3), nn.Linear(4, 4)),
    "transformer": lambda: nn.TransformerEncoderLayer(8, 2, 8),
    "recurrent": lambda: nn.Sequential(nn.LSTM(2, 2), nn.Linear(2, 2)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_skeleton_has_the_layers_of_its_network(name):
    network = NETWORKS[name]()
    table = parameter_table(skeleton(network.state_dict()))
    pd.testing.assert_frame_equal(table[ROW], parameter_table(network)[ROW])


@pytest.mark.parametrize("name", ["owner", "holder"])
def test_a_skeleton_does_not_mind_a_layers_own_tensors_behind_those_of_its_parts(name):
    state = NETWORKS[name]().state_dict()
    tables = [parameter_table(skeleton(dict(each))) for each in (state.items(), reversed(state.items()))]
    rows = [table[["kind", "name", "shape"]].sort_values(["kind", "name"], ignore_index=True) for table in tables]
    pd.testing.assert_frame_equal(*rows)


def test_an_embedding_looks_like_a_linear_layer():
    network = nn.Sequential(nn.Embedding(3, 4), nn.Linear(4, 2))
    rows = parameter_table(skeleton(network.state_dict()))[["kind", "name"]]
    assert rows.to_numpy().tolist() == [["LW", "0"], ["LW", "1"], ["LB", "1"]]


def test_a_skeleton_of_tensors_of_no_layer_is_empty():
    state = {
        "scale": torch.ones(3),
        "quantised.weight": torch.ones(3, 3).byte(),
        "temperature.weight": torch.tensor(1.0),
    }
    assert not list(skeleton(state).children())


@pytest.mark.parametrize("name", ["resnet18", "smp Unet", "convolution", "owner", "holder"])
def test_skeletons_are_as_far_apart_as_their_networks(name):
    first, second = NETWORKS[name](), NETWORKS[name]()
    for network in (first, second):
        for value in network.buffers():
            if value.is_floating_point():
                nn.init.uniform_(value)
    expected = prr.rmse(first, second)
    table = prr.rmse(*(skeleton(network.state_dict()) for network in (first, second)))
    pd.testing.assert_frame_equal(table, expected)
    assert np.nanmax(table["rmse"]) > 0


def test_a_skeleton_leaves_the_state_dict_alone():
    state = small().state_dict()
    before = copy.deepcopy(state)
    skeleton(state)
    assert_same(state, before)
