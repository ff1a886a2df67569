"""Many jobs: in processes of this machine, on a dask cluster, and when one of them dies."""

import json
import os
import signal
import threading
import time

import distributed
import psutil
import pytest
import torch
from safetensors.torch import load_file

from prr.errors import JobError, OptionError
from prr.study import Experiment
from prr.study.jobs import together
from prr.study.plan import prepare, waves
from prr.study.store import Store

pytestmark = pytest.mark.filterwarnings("default")  # tornado and dask close their sockets late


def results(store):
    """{file: what it holds} of networks and tables; their names are digests of all that they depend on.

    Descriptions of the data are left out: they depend on when its files were written.
    """
    networks = {path.name: load_file(path) for path in (store / "networks").glob("*.safetensors")}
    tables = {path.name: json.loads(path.read_text()) for path in (store / "tables").glob("*.json")}
    return networks, {
        name: json.dumps(each["table"]) for name, each in tables.items() if each["record"]["key"]["table"] != "data"
    }


@pytest.fixture
def cluster(monkeypatch):
    """Two workers of one thread each."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as started:
        monkeypatch.setenv("PRR_SCHEDULER", started.scheduler_address)
        yield started


def test_a_cluster_gives_what_one_process_gives_bit_for_bit(tmp_path, cluster, monkeypatch):
    prepare(Experiment("smoke", store=tmp_path / "cluster", device="cpu"), "03")
    monkeypatch.delenv("PRR_SCHEDULER")
    prepare(Experiment("smoke", store=tmp_path / "alone", device="cpu"), "03")
    ours, alone = (results(tmp_path / name) for name in ("cluster", "alone"))
    assert ours[1] == alone[1]
    assert len(alone[1]) == 4 + 2  # sweeps, one of them the control; Dice and RMSE
    assert ours[0].keys() == alone[0].keys()
    assert len(alone[0]) == 4
    for name, tensors in alone[0].items():
        assert all(torch.equal(value, ours[0][name][key]) for key, value in tensors.items())


def test_a_worker_that_is_killed_costs_its_running_job_alone(tmp_path, cluster, monkeypatch):
    run = Experiment("smoke", store=tmp_path, device="cpu", steps=60)
    killed = []

    def kill():
        while len(list((tmp_path / "networks").glob("*.safetensors"))) < 1:
            time.sleep(0.01)
        worker = next(iter(cluster.workers.values()))
        killed.append(worker.process.process.pid if hasattr(worker.process, "process") else worker.pid)
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    trained = waves(run, "03")[0]
    together(trained)
    killer.join()
    assert killed
    assert all(other.store.path("networks", other.key(**each)).exists() for other, _, each in trained)
    assert not list(tmp_path.rglob("*.draft"))


def test_a_process_that_is_killed_is_told_and_what_was_finished_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("PRR_JOBS", "2")
    run = Experiment("smoke", store=tmp_path, device="cpu", steps=40)
    calls = waves(run, "03")[0]
    together(calls[:1])

    def kill():
        working = []
        while not working:
            time.sleep(0.01)
            working = [each for each in psutil.Process().children() if "popen_loky" in " ".join(each.cmdline())]
        working[0].kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(JobError, match="a job was killed, most often for want of memory"):
        together(calls)
    killer.join()
    assert len(results(tmp_path)[0]) >= 1
    together(calls)
    assert len(results(tmp_path)[0]) == len(calls)


def test_workers_with_several_threads_are_refused(tmp_path, monkeypatch):
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None
    ) as started:
        monkeypatch.setenv("PRR_SCHEDULER", started.scheduler_address)
        with pytest.raises(OptionError, match="expected one thread each; start them with --nthreads 1"):
            together([(Experiment("smoke", store=tmp_path, device="cpu"), "model", {"network": "unet"})])


def test_a_scheduler_that_is_not_there_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("PRR_SCHEDULER", "nonsense")
    with pytest.raises(OptionError, match="PRR_SCHEDULER=nonsense: expected a dask scheduler such as tcp"):
        together([(Experiment("smoke", store=tmp_path, device="cpu"), "model", {"network": "unet"})])


def test_the_study_is_networks_then_sweeps_then_what_rests_on_them(tmp_path):
    run = Experiment("smoke", store=tmp_path, device="cpu")
    begun_from, networks, sweeps, rest = [{method for _, method, _ in wave} for wave in waves(run)]
    assert begun_from == {"model"}
    assert networks == {"model", "example"}
    assert {"sweep", "drops"} <= sweeps
    assert {"judge", "joint", "transfer_row"} <= rest
    assert not sweeps & rest
    assert set(Store(tmp_path).list().query("folder in ('networks', 'tables')")["what"].str.split().str[0]) == {"data"}
