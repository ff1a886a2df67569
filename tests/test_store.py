"""The store: whole results or none, each made once, whatever is killed in the middle."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from prr.errors import DataError, PrrError
from prr.study import store as store_module
from prr.study.store import Store, digest, fingerprint, location

ROOT = Path(__file__).parents[1]
KEY = {"network": "unet", "seed": 1, "kinds": ["W", "B"], "nothing": None, "rate": 2e-3}
SUFFIX = {"networks": ".safetensors", "tables": ".json"}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def table():
    return pd.DataFrame({"layer": [1, 2], "drop": [0.5, np.nan]}), {"seconds": 1.5}


def tensors():
    return {"w": torch.tensor([1.0, float("nan")])}, {"seconds": 1.5}


def get(store, folder, make=None, key=KEY):
    return store.get(folder, key, make or (table if folder == "tables" else tensors))


def never():
    raise AssertionError("made again")


# ------------------------------------------------------------------ round trip


def test_numbers_of_a_table_come_back_bit_for_bit(store):
    patterns = np.random.default_rng(0).bytes(8 * 2000)
    floats = [*np.frombuffer(patterns, float), 0.0, -0.0, np.nan, np.inf, -np.inf, 5e-324, 0.1, 1.0]
    before = pd.DataFrame({"float": floats, "int": 2**62 - 1, "word": 'µ, "quoted"', "bool": True})
    for made in (lambda: (before, {}), never):
        found, _ = store.get("tables", KEY, made)
        assert found.dtypes.equals(before.dtypes)
        assert list(map(repr, found["float"].tolist())) == list(map(repr, before["float"].tolist()))
        assert found.drop(columns="float").equals(before.drop(columns="float"))


def test_tensors_come_back_bit_for_bit(store):
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**31), 2**31, (64, 8), generator=generator).int()
    before = {
        "floats": bits.view(torch.float32),  # NaN with payloads among them
        "transposed": torch.randn(3, 5, generator=generator).T,
        "doubles": torch.tensor([float("inf"), 1 / 3]).double(),
        "bytes": torch.arange(256).byte(),
        "scalar": torch.tensor(7),
        "none": torch.empty(0, 3),
        "flags": torch.tensor([True, False]),
    }
    for made in (lambda: (before, {}), never):
        found, _ = store.get("networks", KEY, made)
        assert found.keys() == before.keys()
        for name, value in before.items():
            assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape)
            assert found[name].numpy().tobytes() == value.contiguous().numpy().tobytes(), name


@pytest.mark.parametrize("folder", SUFFIX)
def test_the_record_comes_back_with_the_key(store, folder):
    for made in (None, never):
        _, record = get(store, folder, made)
        assert record == {"key": KEY, "seconds": 1.5}


@pytest.mark.parametrize("folder", SUFFIX)
def test_a_result_is_made_once_and_found_by_another_store_in_the_same_folder(store, folder):
    get(store, folder)
    get(store, folder, never)
    get(Store(str(store.folder)), folder, never)


@pytest.mark.parametrize("name", KEY)
def test_every_value_of_the_key_counts(store, name):
    get(store, "tables")
    with pytest.raises(AssertionError, match="made again"):
        get(store, "tables", never, KEY | {name: "other"})


def test_the_order_of_a_keys_values_does_not_count():
    assert digest(dict(reversed(KEY.items()))) == digest(KEY)
    assert digest(KEY) != digest(KEY | {"kinds": ["B", "W"]})


# ---------------------------------------------------------------- interruption


def results(store):
    return [path.name for path in store.folder.rglob("*") if path.suffix in SUFFIX.values()]


@pytest.mark.parametrize("folder", SUFFIX)
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_make_that_fails_leaves_no_result_and_the_next_one_succeeds(store, folder, error):
    def make():
        raise error("stopped")

    with pytest.raises(error, match="stopped"):
        get(store, folder, make)
    assert results(store) == []
    get(store, folder)
    get(store, folder, never)


CHILD = """
import os, sys, time
import pandas as pd
from prr.study.store import Store

folder, moment, mark = sys.argv[1:]

def wait(*_):
    open(mark, "w").close()
    time.sleep(600)

if moment == "while writing":
    os.replace = wait
make = wait if moment == "while making" else lambda: (pd.DataFrame({"layer": [0]}), {})
Store(folder).get("tables", {"key": 1}, make)
"""


def until(happened):
    for _ in range(6000):  # a child imports torch first, which takes long on a busy machine
        if happened():
            return
        time.sleep(0.05)
    raise AssertionError("waited for five minutes")


@pytest.mark.parametrize("moment", ["while making", "while writing"])
def test_a_process_killed_with_the_lock_in_hand_leaves_no_result_and_the_next_one_succeeds(store, tmp_path, moment):
    mark = tmp_path / "mark"
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(store.folder), moment, str(mark)], cwd=ROOT)
    try:
        until(lambda: mark.exists() or child.poll() is not None)
        assert child.poll() is None
    finally:
        child.kill()
        child.wait()
    assert results(store) == []
    assert store.get("tables", {"key": 1}, table)[0].equals(table()[0])
    assert store.get("tables", {"key": 1}, never)[0].equals(table()[0])
    assert not list(store.folder.rglob("*.draft"))


RACER = """
import os, sys, time
import pandas as pd
from prr.study.store import Store

folder, marks = sys.argv[1:]

def make():
    open(f"{marks}/made-{os.getpid()}", "w").close()
    time.sleep(0.3)
    return pd.DataFrame({"layer": [os.getpid()]}), {}

open(f"{marks}/ready-{os.getpid()}", "w").close()
while not os.path.exists(f"{marks}/go"):
    time.sleep(0.001)
print(Store(folder).get("tables", {"key": 1}, make)[0]["layer"][0])
"""


def test_two_processes_never_make_the_same_result(store, tmp_path):
    command = [sys.executable, "-c", RACER, str(store.folder), str(tmp_path)]
    racers = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        until(lambda: len(list(tmp_path.glob("ready-*"))) == 2)
        (tmp_path / "go").touch()
        said = [racer.communicate(timeout=300)[0].strip() for racer in racers]
    finally:
        for racer in racers:
            racer.kill()
            racer.wait()
    (made,) = tmp_path.glob("made-*")
    assert said == [made.name.removeprefix("made-")] * 2


# ------------------------------------------------------------------- bad files


@pytest.mark.parametrize("folder", SUFFIX)
@pytest.mark.parametrize("left", [0.0, 0.02, 0.5, 0.99])
def test_a_truncated_file_is_refused_by_name_and_remade_once_deleted(store, folder, left):
    get(store, folder)
    path = store.path(folder, KEY)
    content = path.read_bytes()
    path.write_bytes(content[: int(left * len(content))])
    with pytest.raises(DataError, match=f"{path}: expected a whole result.*delete the file"):
        get(store, folder, never)
    path.unlink()
    get(store, folder)


@pytest.mark.parametrize("content", ["null", "[]", "{}", "7", '{"table": 1, "record": {}}', "\x00"])
def test_a_table_that_is_another_json_is_refused_by_name(store, content):
    get(store, "tables")
    store.path("tables", KEY).write_text(content)
    with pytest.raises(DataError, match=digest(KEY)):
        get(store, "tables", never)


def test_a_store_where_nothing_can_be_written_is_refused_with_its_path(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(PrrError, match=str(tmp_path / "file")):
        get(Store(tmp_path / "file"), "tables")


# -------------------------------------------------------------- list and clean


def test_the_list_tells_every_result_and_its_size(store):
    get(store, "networks")
    get(store, "tables")
    store.path("tables", {"broken": 1}).write_text("{")
    listed = store.list().set_index("file")
    assert set(listed.index) == {
        store.path(*one).name for one in [*((f, KEY) for f in SUFFIX), ("tables", {"broken": 1})]
    }
    network = store.path("networks", KEY)
    assert listed.loc[network.name, "folder"] == "networks"
    assert listed.loc[network.name, "what"] == "unet"
    assert listed.loc[network.name, "megabytes"] == pytest.approx(network.stat().st_size / 1e6, abs=6e-4)
    assert listed.loc[store.path("tables", {"broken": 1}).name, "what"] == "unreadable"


def test_an_empty_store_lists_nothing(store):
    assert store.list().empty
    assert store.clean() == 0


def test_clean_deletes_the_stores_own_files_and_no_strangers(store):
    get(store, "networks")
    get(store, "tables")
    (store.folder / "tables" / f"{'0' * 16}.json.draft").touch()
    strangers = [
        store.folder / "tables" / "notes.json",
        store.folder / "networks" / "my-best.safetensors",
        store.folder / "networks" / "README.txt",
        store.folder / "tables.json",
    ]
    for path in strangers:
        path.write_text("mine")
    assert store.clean() == 3
    left = {path for path in store.folder.rglob("*") if path.is_file() and path.suffix != ".lock"}
    assert left == set(strangers)


def test_clean_leaves_what_another_process_is_making(store):
    get(store, "networks")
    get(store, "tables")
    with store.lock(store.path("networks", KEY)):
        assert store.clean() == 1
    get(store, "networks", never)


def test_clean_takes_phantoms_along(store):
    phantom = store.folder / "phantoms" / "acdc-4-0123456789abcdef"
    strange = store.folder / "phantoms" / "acdc-real"
    for folder in (phantom, strange):
        folder.mkdir(parents=True)
        (folder / "image.nii.gz").write_bytes(b"0" * 5000)
    assert store.list()[["what", "megabytes"]].values.tolist() == [["phantom", 0.005]]
    assert store.clean() == 1
    assert strange.exists()
    assert not phantom.exists()


# -------------------------------------------------------------------- location


def test_the_store_lies_where_prr_store_says_then_in_the_repository_then_in_the_users_cache(monkeypatch, tmp_path):
    repository = tmp_path / "clone"
    monkeypatch.setattr(store_module, "__file__", str(repository / "prr" / "study" / "store.py"))
    monkeypatch.setattr(store_module, "user_cache_path", lambda name: tmp_path / "cache" / name)
    monkeypatch.delenv("PRR_STORE", raising=False)
    assert location() == tmp_path / "cache" / "pr-rmse"
    repository.mkdir()
    (repository / "_toc.yml").touch()
    assert location() == repository / "build" / "store"
    monkeypatch.setenv("PRR_STORE", str(tmp_path / "mine"))
    assert location() == tmp_path / "mine"
    assert Store().folder == tmp_path / "mine"
    assert Store(tmp_path / "given").folder == tmp_path / "given"


def test_prr_store_may_name_the_home_folder_and_a_relative_one(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PRR_STORE", "here")
    assert location() == tmp_path / "here"
    monkeypatch.setenv("PRR_STORE", "~/there")
    assert location() == Path(os.path.expanduser("~")) / "there"


def test_an_empty_prr_store_counts_as_none(monkeypatch):
    monkeypatch.setenv("PRR_STORE", "")
    assert location() == ROOT / "build" / "store"


def test_a_fingerprint_sees_files_through_linked_folders(tmp_path):
    prints = []
    for patient in ("a", "b"):
        (tmp_path / patient).mkdir()
        (tmp_path / patient / "image.nii.gz").write_text(patient * (1 + len(prints)))
        (tmp_path / f"links_{patient}").mkdir()
        (tmp_path / f"links_{patient}" / "patient001").symlink_to(tmp_path / patient)
        (tmp_path / f"links_{patient}" / "loop").symlink_to(tmp_path / f"links_{patient}")
        prints.append(fingerprint(tmp_path / f"links_{patient}"))
    assert prints[0] != prints[1]


def test_a_file_with_the_result_of_another_key_is_refused_by_name(store):
    get(store, "networks")
    other = store.path("networks", KEY | {"seed": 99})
    shutil.copy(store.path("networks", KEY), other)
    with pytest.raises(DataError, match=rf"{other.name}: expected a whole result, found the result of another key"):
        store.get("networks", KEY | {"seed": 99}, never)
