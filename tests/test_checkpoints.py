"""Files of weights: what is read, what is told, what is refused, and that nothing in them ever runs."""

import argparse
import copy
import json
import pickle
import re
import shutil
import struct
from collections import OrderedDict
from contextlib import suppress
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
from torchvision.ops import FrozenBatchNorm2d

import prr
from prr.checkpoints import files, load, read, skeleton, source
from prr.errors import DataError, NetworkError, PrrError
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


WITHIN = "_fsdp_wrapped_module._checkpoint_wrapped_module."
WRAPPED = {
    "state_dict": (lambda state: {"state_dict": state, "epoch": 7}, ["unwrapped 'state_dict'", "left out: 'epoch'"]),
    "step": (lambda state: {"model": state, "step": torch.tensor(7)}, ["unwrapped 'model'", "left out: 'step'"]),
    "optimizer": (
        lambda state: {"model_state_dict": state, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}},
        ["unwrapped 'model_state_dict'", "left out: 'optimizer'"],
    ),
    "twice": (lambda state: {"net": {"state_dict": state}}, ["unwrapped 'net'", "unwrapped 'state_dict'"]),
    "any name": (
        lambda state: {"unet": {"deep": {"params": state}}},
        ["unwrapped 'unet'", "unwrapped 'deep'", "unwrapped 'params'"],
    ),
    "params_ema": (lambda state: {"params_ema": state}, ["unwrapped 'params_ema'"]),
    "optimizer's scheduler": (
        lambda state: {"weights": state, "scheduler": {"x": torch.ones(3)}, "loss": {"weight": torch.ones(3)}, 3: 4},
        ["unwrapped 'weights'", "left out: 'scheduler', 'loss', 3"],
    ),
    "module.": (lambda state: prefixed(state, "module."), ["dropped 'module.' before every name"]),
    "both": (
        lambda state: {"state_dict": prefixed(state, "_orig_mod.module.model.")},
        ["unwrapped 'state_dict'", "dropped '_orig_mod.' within names", "dropped 'module.model.' before every name"],
    ),
    "infix": (
        lambda state: {name.replace(".", f".{WITHIN}"): value for name, value in state.items()},
        ["dropped '_fsdp_wrapped_module.' within names", "dropped '_checkpoint_wrapped_module.' within names"],
    ),
    "beside": (lambda state: {**state, "epoch": 7, "name": "unet"}, []),
    "parameters": (lambda state: {name: nn.Parameter(state[name], False) for name in state}, []),
}  # fmt: skip


@pytest.mark.parametrize("case", WRAPPED)
def test_wrappers_and_prefixes_are_taken_off_and_told(tmp_path, case):
    wrap, words = WRAPPED[case]
    state = small().state_dict()
    found, told = read(saved(wrap(state), tmp_path / "net.pt"))
    assert_same(found, state)
    assert told == words


TWO = {  # files that hold two sets, where the first is to be taken, and how to ask for the other
    "ema": (lambda one, two: {"ema": two, "model": one}, "key", "ema"),
    "ema of the same name": (lambda one, two: {"state_dict_ema": two, "state_dict": one}, "key", "state_dict_ema"),
    "deep": (lambda one, two: {"x": {"params_ema": two, "params": one}}, "key", "x.params_ema"),
    "teacher": (lambda one, two: {"teacher": {"net": two}, "student": {"net": one}}, "key", "teacher"),
    "loose": (lambda one, two: {**one, "ema": two}, "key", "ema"),
    "other shapes": (lambda one, two: {"a": wide(two), "b": one}, "key", "a"),
    "other names": (lambda one, two: {"discriminator": prefixed(two, "9."), "generator": one}, "key", "discriminator"),
    "flat": (lambda one, two: prefixed(two, "ema_model.") | prefixed(one, "online_model."), "strip", "ema_model."),
    "flat beside": (lambda one, two: prefixed(two, "teacher.") | one, "strip", "teacher"),
    "flat and deep": (lambda one, two: {"net": prefixed(two, "ema.") | prefixed(one, "model.")}, "strip", "ema."),
    "flat of other shapes": (lambda one, two: prefixed(wide(two), "a.") | prefixed(one, "b."), "strip", "a."),
}


def wide(state):
    """The weights of a network with twice the channels, or so."""
    return {name: torch.cat([value, value]) if value.ndim else value for name, value in state.items()}


@pytest.mark.parametrize("case", TWO)
def test_of_two_sets_the_one_that_fits_is_taken_and_the_other_told(tmp_path, case):
    make, option, value = TWO[case]
    one, two, network = small(1).state_dict(), small(2).state_dict(), small(3)
    path = saved(make(one, two), tmp_path / "net.pt")
    told = load(network, path)
    assert_same(network.state_dict(), one)
    assert f"--{option} {value}" in " ".join(told)
    asked, _ = read(path, two, **{option: value})
    assert torch.equal(asked.get("0.bias", asked.get("9.0.bias")), (wide(two) if "shapes" in case else two)["0.bias"])


@pytest.mark.parametrize(
    "make",
    [
        lambda one, two: {"generator": one, "discriminator": two},
        lambda one, two: {"a": {"state_dict": one}, "b": {"state_dict": two}, "optimizer": {}},
        lambda one, two: {"fold": {"first": one, "second": two}},
        lambda one, two: prefixed(one, "first.") | prefixed(two, "second."),
    ],
)
def test_sets_that_are_as_likely_are_refused_with_what_to_do(tmp_path, make):
    path = saved(make(small(1).state_dict(), small(2).state_dict()), tmp_path / "net.pt")
    with pytest.raises(
        DataError, match=r"found 2 that are as likely; choose one: --(key|strip) .*, --(key|strip)"
    ) as caught:
        load(small(), path)
    option, value = str(caught.value).partition("--")[2].partition(",")[0].split(" ")
    load(network := small(), path, **{option: value})
    assert_same(network.state_dict(), small(1).state_dict())


def test_parts_of_one_network_in_a_file_are_joined(tmp_path):
    parts = {"encoder": small(1).state_dict(), "decoder": small(2).state_dict()}
    path = saved(parts, tmp_path / "net.pt")
    network = nn.ModuleDict({"encoder": small(3), "decoder": small(4)})
    assert load(network, path) == ["joined 'encoder', 'decoder'"]
    assert_same(network["decoder"].state_dict(), parts["decoder"])
    assert_same(read(path, key=".")[0], network.state_dict())
    with pytest.raises(DataError, match=r"--key encoder, --key decoder"):
        read(path)


def test_a_key_that_is_not_there_is_told_or_refused(tmp_path):
    one = saved({"model": small().state_dict()}, tmp_path / "one.pt")
    assert read(one, key="ema")[1] == ["no key 'ema': the only set of tensors in it was taken", "unwrapped 'model'"]
    assert read(one, strip="ema")[1][1:] == ["no name begins with 'ema.': read without dropping it"]
    two = saved({"model": small().state_dict(), "ema": small().state_dict()}, tmp_path / "two.pt")
    with pytest.raises(DataError, match=r"expected the key 'emma', found --key model, --key ema; take one"):
        read(two, key="emma")


PLACES = {  # what stands before the names of the network, of the file, and what is told
    "any": ("", "my_unet.", ["dropped 'my_unet.' before every name"]),
    "deep": ("", "module.net.backbone.", ["dropped 'module.net.backbone.' before every name"]),
    "number": ("", "0.", ["dropped '0.' before every name"]),
    "wrapped network": ("module.", "", ["put 'module.' before every name"]),
    "wrapped network of any name": ("my.unet.", "", ["put 'my.unet.' before every name"]),
    "both": ("module.", "model.net.", ["dropped 'model.net.' before every name", "put 'module.' before every name"]),
    "compiled": ("_orig_mod.", "", []),
    "compiled in parallel": ("_orig_mod.module.", "module._orig_mod.", ["dropped '_orig_mod.' within names"]),
    "as it is": ("model.module.", "model.module.", []),
}


@pytest.mark.parametrize("case", PLACES)
@pytest.mark.parametrize("extra", [{}, {"criterion.weight": torch.ones(3), "n_averaged": torch.tensor(1)}])
def test_what_stands_before_the_names_is_fitted_to_the_network(tmp_path, case, extra):
    before, within, words = PLACES[case]
    network = wrapped(small(1), before)
    path = saved(prefixed(small(2).state_dict(), within) | extra, tmp_path / "net.pt")
    told = load(network, path)
    assert_same(network.state_dict(), prefixed(small(2).state_dict(), before))
    if extra:
        words = [
            word.replace("every name", f"{11 if 'put' in word and not within else 9} of 11 names") for word in words
        ]
        words = [word for word in words if "put" not in word or within] + [told[-1]]
        assert "2 tensors that the network lacks are left out" in told[-1]
        told = [word for word in told if not word.startswith("put") or within]
    assert told == words


def wrapped(network, prefix):
    """A network within modules of these names."""
    for name in reversed(prefix.split(".")[:-1]):
        network, inner = nn.Module(), network
        network.add_module(name, inner)
    return network


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["a.0.weight", "b.0.weight"], ["0.weight"]),  # which of the two?
        (["features.0.weight", "features.2.weight", "head.weight"], ["layer.0.weight", "layer.7.weight", "x.weight"]),
        (["0.weight", "1.weight"], ["head.0.weight", "2.weight", "3.weight", "4.weight"]),  # a small part
    ],
)
def test_names_that_agree_by_chance_are_left_alone(tmp_path, names, found):
    path = saved({name: torch.ones(2, 2) for name in found}, tmp_path / "net.pt")
    state, told = read(path, {name: torch.ones(2, 2) for name in names})
    assert (list(state), told) == (found, [])


def test_an_encoder_is_found_in_a_network_and_put_into_one(tmp_path):
    network = nn.ModuleDict({"encoder": small(1), "decoder": nn.Linear(3, 2), "head": nn.Linear(2, 2)})
    path = saved(network.state_dict(), tmp_path / "whole.pt")
    encoder = small(4)
    assert load(encoder, path)[0] == "dropped 'encoder.' before 9 of 13 names"
    assert_same(encoder.state_dict(), network["encoder"].state_dict())
    giver, told = source(network, saved(small(5).state_dict(), tmp_path / "part.pt"))
    assert told[0] == "put 'encoder.' before every name"
    assert torch.equal(giver.get_submodule("encoder.2").weight, small(5)[2].weight)


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
    for end in range(9, len(whole), 7):
        (tmp_path / "part.safetensors").write_bytes(whole[:end])
        with pytest.raises(DataError, match=r"part\.safetensors: expected a whole safetensors file"):
            read(tmp_path / "part.safetensors")


HARMLESS = {
    "numpy numbers": [np.float64(0.5), np.float32(2), np.int64(3), np.bool_(True)],
    "numpy arrays": {"curve": np.linspace(0, 1, 3), "names": np.array(["a", "b"]), "any": np.array([None, {}])},
    "types": [np.dtype("float32"), np.dtype(">i4"), np.dtype("U3")],
    "arguments": argparse.Namespace(lr=0.1, deep=argparse.Namespace(steps=[np.int64(3)])),
}


@pytest.mark.parametrize("case", HARMLESS)
def test_numbers_of_numpy_and_arguments_beside_the_weights_are_no_hindrance(tmp_path, case):
    path = saved({"model": small().state_dict(), "rest": HARMLESS[case]}, tmp_path / "net.pt")
    assert read(path)[1] == ["unwrapped 'model'", "left out: 'rest'"]


def test_what_a_caller_allows_stays_allowed_and_is_not_made(tmp_path):
    path = saved({"model": small().state_dict(), "rest": Touch(tmp_path / "made")}, tmp_path / "net.pt")
    with torch.serialization.safe_globals([Path.touch, (getattr, "builtins.getattr"), type(tmp_path)]):
        before = set(torch.serialization.get_safe_globals())
        with pytest.raises(DataError, match="pickled objects"):
            read(path)
        assert set(torch.serialization.get_safe_globals()) == before
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("content", [[Path("x")], {"lock": re.compile("x")}, {"rng": np.random.default_rng(0)}, print])
def test_other_objects_are_refused_by_name(tmp_path, content):
    with pytest.raises(DataError, match=r"found pickled objects \([\w.]+\), which can run code"):
        read(saved({"model": small().state_dict(), "rest": content}, tmp_path / "net.pt"))


def shards(folder, state, ending):
    """The state dict in two shards and their index; the index's path."""
    names = list(state)
    places = {name: f"model-0000{1 + (name in names[4:])}-of-00002.{ending}" for name in names}
    for place in set(places.values()):
        part = {name: state[name] for name in names if places[name] == place}
        (save_file if ending == "safetensors" else torch.save)(part, folder / place)
    path = folder / f"model.{ending}.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return path


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_shards_are_read_by_their_index(tmp_path, ending):
    state = small().state_dict()
    path = shards(tmp_path, state, ending)
    found, told = read(path)
    assert (found.keys(), len(told)) == (state.keys(), ending == "safetensors")
    load(network := small(1), path)
    assert_same(network.state_dict(), state)
    (tmp_path / f"model-00002-of-00002.{ending}").unlink()
    with pytest.raises(DataError, match=rf"model-00002-of-00002\.{ending}: .* found nothing; .*download it too"):
        read(path)
    shutil.copy(tmp_path / f"model-00001-of-00002.{ending}", tmp_path / f"model-00002-of-00002.{ending}")
    with pytest.raises(DataError, match=r"found a shard without it \(5 tensors are missing\)"):
        read(path)


@pytest.mark.parametrize(
    "text",
    ["{}", '{"weight_map": []}', '{"weight_map": {"a": 3}}', '{"weight_map": {"a": "../b.bin"}}', '{"weight_map'],
)
def test_other_json_is_refused(tmp_path, text):
    (tmp_path / "net.safetensors.index.json").write_text(text)
    with pytest.raises(DataError, match=r"found JSON without a weight_map"):
        read(tmp_path / "net.safetensors.index.json")


@pytest.mark.parametrize("name", ["net.pt", "net.bin", "net", "net.ckpt"])
def test_a_format_is_known_by_its_content(tmp_path, name):
    save_file(small().state_dict(), tmp_path / name)
    assert "safetensors" in read(tmp_path / name)[1][0]
    assert_same(read(saved(small().state_dict(), tmp_path / "net.safetensors"))[0], small().state_dict())


PLAIN = torch.ones(2, 3)
UNFIT = {  # entries that take the place of the network's, and what is said
    "int8": (lambda: {"2.weight": PLAIN.char()}, "2.weight: expected floating-point numbers, found torch.int8 .*; deq"),
    "int16": (lambda: {"1.weight": torch.ones(2).short()}, "1.weight: expected floating-point.*torch.int16"),
    "bool": (lambda: {"0.bias": torch.ones(2).bool()}, "0.bias: expected floating-point.*torch.bool"),
    "packed": (
        lambda: {"2.weight": PLAIN.byte().view(torch.float4_e2m1fn_x2)},
        "found torch.float4_e2m1fn_x2 .quantised.; dequantise",
    ),
    "scaled": (
        lambda: {"2.weight": PLAIN.to(torch.float8_e4m3fn), "2.weight_scale": torch.ones(1)},
        "found torch.float8_e4m3fn .quantised.; dequantise",
    ),
    "scaled below": (
        lambda: {"2.weight": PLAIN.to(torch.float8_e5m2), "2.weight.absmax": torch.ones(1)},
        "found torch.float8_e5m2 .quantised.; dequantise",
    ),
    "sparse": (lambda: {"2.weight": PLAIN.to_sparse()}, "expected a dense tensor, found torch.sparse_coo; save"),
    "sparse rows": (lambda: {"2.weight": PLAIN.to_sparse_csr()}, "expected a dense tensor, found torch.sparse_csr"),
    "meta": (lambda: {"2.weight": PLAIN.to("meta")}, r"expected numbers, found none \(device meta\); load"),
}


@pytest.mark.filterwarnings("ignore:.*Sparse CSR")
@pytest.mark.parametrize("case", UNFIT)
@pytest.mark.parametrize("reader", [read, lambda path: load(small(), path), lambda path: source(small()[:2], path)])
def test_numbers_that_are_no_weights_are_refused(tmp_path, case, reader):
    entries, message = UNFIT[case]
    path = saved(small().state_dict() | entries(), tmp_path / "net.pt")
    with pytest.raises(DataError, match=rf"net\.pt: .*{message}"):
        reader(path)


WIDER = [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]


@pytest.mark.parametrize("dtype", WIDER)
def test_numbers_of_few_bits_are_widened_and_told(tmp_path, dtype):
    state = {name: value.to(dtype) if value.ndim else value for name, value in small().state_dict().items()}
    path = saved(state, tmp_path / "net.pt")
    told = [f"converted 8 tensors from {dtype} to torch.float32"]
    network = small(1)
    assert load(network, path) == told
    assert_same(network.state_dict(), {name: value.float() if value.ndim else value for name, value in state.items()})
    assert (read(path)[1], read(path, state)[1]) == (told, [])
    assert {value.dtype for value in read(path)[0].values()} == {torch.float32, torch.int64}


@pytest.mark.filterwarnings("ignore:.*quantized tensor creation")
@pytest.mark.parametrize("dtype", [torch.qint8, torch.quint8, torch.qint32])
def test_quantised_tensors_are_dequantised(tmp_path, dtype):
    value = torch.quantize_per_tensor(torch.tensor([[0.5, -0.26, 0.0], [1.0, 0.1, 0.2]]), 0.1, 5, dtype)
    path = saved(small().state_dict() | {"2.weight": value}, tmp_path / "net.pt")
    network = small()
    assert load(network, path) == [f"converted 1 tensors from {dtype} to torch.float32"]
    torch.testing.assert_close(network[2].weight.data, value.dequantize())


def test_integers_and_complex_numbers_are_taken_where_the_network_has_them(tmp_path):
    network = nn.Sequential(nn.Linear(2, 2, dtype=torch.complex64), nn.BatchNorm1d(2))
    network.register_buffer("index", torch.tensor([3, 1]))
    network.register_buffer("mask", torch.tensor([True, False]))
    path = saved(network.state_dict() | {"mask": torch.tensor([1, 0]).byte()}, tmp_path / "net.pt")
    other = copy.deepcopy(network)
    other.index.zero_()
    assert load(other, path) == []
    assert_same(other.state_dict(), network.state_dict())
    for name, value in {"1.bias": torch.ones(2) * 1j, "index": torch.ones(2), "0.bias": torch.ones(2).int()}.items():
        with pytest.raises(DataError, match=f"{name}: expected .*, found torch.*; "):
            load(other, saved(network.state_dict() | {name: value}, tmp_path / "bad.pt"))


VERSIONED = {
    "mnasnet0_5": tv.mnasnet0_5,
    "mnasnet of another width": lambda: tv.mnasnet1_3(num_classes=2),
    "vit": lambda: tv.VisionTransformer(8, 4, 1, 2, 4, 4, num_classes=2),
}


@pytest.mark.parametrize("case", VERSIONED)
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
@pytest.mark.parametrize("versions", [True, False])
def test_networks_of_several_versions_are_loaded(tmp_path, case, prefix, versions):
    torch.manual_seed(0)
    network, other = VERSIONED[case](), VERSIONED[case]()
    state = wrapped(network, prefix).state_dict()
    load(other, saved(state if versions else dict(state), tmp_path / "net.pt"))
    assert_same(other.state_dict(), network.state_dict())


def test_versions_go_with_their_names(tmp_path):
    state = wrapped(small(), "module.net.").state_dict()
    state._metadata["module.net.1"]["version"] = 7
    path = saved({"state_dict": state}, tmp_path / "net.pt")
    assert [read(path, names)[0]._metadata["1"] for names in ((), small().state_dict())] == [{"version": 7}] * 2
    assert read(path, prefixed(small().state_dict(), "a."))[0]._metadata["a.1"] == {"version": 7}


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "whole"),
        (b"epoch,loss\n1,0.5\n", "whole"),
        (b"PK\x03\x04 and no more", "whole"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "a Git LFS pointer; .*git lfs pull"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (b"\xef\xbb\xbf<html>", "web page"),
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


NAMES = ["weight", "bias", "running_mean", "0", "module", "ema", "in_proj_weight", "weight_ih_l0"]
TENSORS = st.builds(
    lambda shape, dtype: torch.ones(shape).to(dtype),
    st.lists(st.integers(0, 3), max_size=4),
    st.sampled_from([torch.float32, torch.float16, torch.int8, torch.complex64]),
)
LEAVES = st.none() | st.integers() | st.text() | TENSORS | st.just(np.ones(2))
KEYS = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map(".".join) | st.integers(0, 2)
CONTENTS = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner), max_leaves=8)


@settings(max_examples=100, deadline=None)
@given(CONTENTS)
def test_whatever_was_saved_is_read_or_refused_in_words(tmp_path_factory, content):
    path = saved(content, tmp_path_factory.mktemp("weights") / "net.pt")
    with suppress(PrrError):
        source(small(), path)
        parameter_table(skeleton(read(path)[0]))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_file_with_wrong_bytes_is_opened_or_refused_in_words(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("weights") / "net.pt"
    zipped = data.draw(st.booleans())
    content = {"model": small().state_dict(), "args": argparse.Namespace(lr=np.float32(1), curve=np.ones(2))}
    whole = bytearray(saved(content, path, _use_new_zipfile_serialization=zipped).read_bytes())
    for place, byte in data.draw(st.dictionaries(st.integers(0, 1500), st.integers(0, 255), min_size=1)).items():
        whole[place % len(whole)] = byte
    path.write_bytes(whole)
    with suppress(DataError):
        files.content(path)


def test_a_set_under_two_keys_is_read_once(tmp_path):
    state = small().state_dict()
    path = saved({"last": state, "best": state}, tmp_path / "net.pt")
    assert_same(read(path)[0], state)


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


def test_a_network_whose_shapes_are_open_takes_those_of_the_file(tmp_path):
    network = nn.Sequential(nn.LazyConv2d(2, 3), nn.LazyBatchNorm2d(), nn.LazyLinear(2))
    load(network, saved(small().state_dict(), tmp_path / "net.pt"))
    assert_same(network.state_dict(), small().state_dict())


@pytest.mark.parametrize("other", [nn.Conv2d(1, 2, 3), nn.Sequential(nn.Conv2d(1, 3, 3), *small()[1:])])
def test_weights_that_do_not_fit_are_refused_by_the_name_of_the_file(tmp_path, other):
    path = saved(small().state_dict(), tmp_path / "net.pt")
    with pytest.raises(NetworkError) as caught:
        load(other, path)
    assert str(caught.value).startswith(f"{path}: does not fit {type(other).__name__}")


@pytest.mark.parametrize("model", [None, small, dict(small().state_dict())])
@pytest.mark.parametrize("use", [load, source])
def test_what_is_no_network_is_refused(tmp_path, model, use):
    with pytest.raises(NetworkError, match=r"expected a torch\.nn\.Module, found .*; build the network first"):
        use(model, saved(small().state_dict(), tmp_path / "net.pt"))


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


def test_a_skeleton_holds_every_tensor_at_its_place():
    state = {"scale": torch.ones(3), "temperature.weight": torch.tensor(1.0), "block.gamma": torch.ones(2, 2, 2)}
    network = skeleton(state | {"quantised.weight": torch.ones(3, 3).byte()})
    found = dict(network.named_parameters())
    assert found.keys() == state.keys()
    assert all(type(network.get_submodule(name)) is nn.Module for name in ("", "temperature", "block"))
    assert prr.parameter_table(network)["name"].tolist() == list(found)


LIKE = {
    "embedding": lambda out: nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, out)),
    "transposed": lambda out: nn.Sequential(nn.ConvTranspose2d(4, 4, 3), nn.Conv2d(4, out, 1)),
    "frozen": lambda out: nn.Sequential(nn.Conv2d(1, 4, 3), FrozenBatchNorm2d(4), nn.Conv2d(4, out, 1)),
    "recurrent": lambda out: nn.Sequential(nn.LSTM(2, 4), nn.GRUCell(4, 4), nn.Linear(4, out)),
    "attention": lambda out: nn.Sequential(nn.MultiheadAttention(4, 2, kdim=3), nn.Linear(4, out)),
    "attention in one": lambda out: nn.Sequential(nn.MultiheadAttention(4, 2), nn.Linear(4, out)),
    "layer norm": lambda out: nn.Sequential(nn.LayerNorm([2, 3]), nn.Linear(3, out)),
    "parameters": lambda out: nn.ModuleDict({"tokens": nn.ParameterList([torch.randn(3)]), "head": nn.Linear(4, out)}),
}  # fmt: skip


@pytest.mark.parametrize("case", LIKE)
def test_a_source_with_another_head_has_the_types_of_the_network(tmp_path, case):
    target, other = LIKE[case](2), LIKE[case](3)
    giver, told = source(target, saved(other.state_dict(), tmp_path / "net.pt"))
    assert told[-1].startswith("layers guessed from names and shapes, for ")
    pd.testing.assert_frame_equal(parameter_table(giver)[ROW], parameter_table(other)[ROW])
    with pytest.warns(UserWarning, match="not comparable"):
        table = prr.rmse(target, giver)
    with pytest.warns(UserWarning, match="not comparable"):
        pd.testing.assert_frame_equal(table, prr.rmse(target, other))
    assert giver.to("cpu") is giver
    assert not any(isinstance(module, nn.RNNBase) for module in giver.modules())  # on CUDA .to() would pack its weights
    copy.deepcopy(giver)


def test_a_skeleton_after_a_network_leaves_it_alone(tmp_path):
    target, state = small(1), small(2).state_dict()
    before = copy.deepcopy(target.state_dict())
    state["3.weight"] = torch.ones(2, 2)
    network = skeleton(state | {"0.gain": torch.ones(2)}, like=target)
    nn.init.zeros_(network.get_submodule("0").weight)
    assert_same(target.state_dict(), before)
    assert type(network.get_submodule("0")) is nn.Conv2d
    assert {"0.gain", "3.weight"} <= dict(network.named_parameters()).keys()


COMPUTED = {
    "weight norm": nn.utils.parametrizations.weight_norm,
    "spectral norm": nn.utils.parametrizations.spectral_norm,
    "orthogonal": nn.utils.parametrizations.orthogonal,
    "pruned": lambda layer: nn.utils.prune.l1_unstructured(layer, "weight", 0.5),
}


@pytest.mark.parametrize("case", COMPUTED)
def test_computed_weights_are_computed_from_the_file_where_it_has_all_they_need(tmp_path, case):
    target, other = (nn.Sequential(COMPUTED[case](nn.Linear(4, 4)), nn.Linear(4, out)).eval() for out in (2, 3))
    giver, _ = source(target, saved(other.state_dict(), tmp_path / "net.pt"))
    assert type(giver.get_submodule("0")) is type(target[0])
    assert dict(giver.named_parameters()).keys() == dict(other.named_parameters()).keys()
    if case != "pruned":  # its hook computes when it runs
        torch.testing.assert_close(giver.get_submodule("0").weight, other[0].weight)
    giver, _ = source(target, saved(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3)).state_dict(), tmp_path / "net.pt"))
    assert parameter_table(giver)[["kind", "name"]].to_numpy().tolist() == [[k, n] for n in "01" for k in ("LW", "LB")]


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
