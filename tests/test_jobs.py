"""Many jobs: in processes of this machine, on a dask cluster, and when one of them dies."""

import json
import os
import pickle
import signal
import threading
import time

import distributed
import pandas as pd
import psutil
import pytest
import torch
from safetensors.torch import load_file

from prr.errors import JobError, MissingError, OptionError
from prr.study import Experiment, chapters, networks, transplants
from prr.study.jobs import Executor, Job, closure, derived, is_held, stack, waves
from prr.study.store import Store

pytestmark = pytest.mark.filterwarnings("default")  # tornado and dask close their sockets late


def results(store):
    """{file: what it holds} of networks and tables; their names are digests of all that they depend on.

    Descriptions of the data are left out: they depend on when its files were written.
    """
    networks = {path.name: load_file(path) for path in (store / "networks").glob("*.safetensors")}
    tables = {path.name: json.loads(path.read_text()) for path in (store / "tables").glob("*.json")}
    return networks, {
        name: json.dumps(each["table"]) for name, each in tables.items() if "function" in each["record"]["key"]
    }


@pytest.fixture
def cluster(monkeypatch):
    """Two workers of one thread each."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as started:
        monkeypatch.setenv("PRR_SCHEDULER", started.scheduler_address)
        yield started


def test_a_cluster_gives_what_one_process_gives_bit_for_bit(tmp_path, cluster, monkeypatch):
    Experiment("smoke", store=tmp_path / "cluster", device="cpu").prepare("03")
    monkeypatch.delenv("PRR_SCHEDULER")
    Experiment("smoke", store=tmp_path / "alone", device="cpu").prepare("03")
    ours, alone = (results(tmp_path / name) for name in ("cluster", "alone"))
    assert ours[1] == alone[1]
    assert len(alone[1]) == 4 + 4  # sweeps, one of them the control; Dice, RMSE, shifts and biases
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
    trained = waves(chapters.jobs(run, "03"), run.results)[0]
    run.compute(trained)
    killer.join()
    assert killed
    assert all(map(run.holds, trained))
    assert not list(tmp_path.rglob("*.draft"))


def test_a_process_that_is_killed_is_told_and_what_was_finished_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("PRR_JOBS", "2")
    run = Experiment("smoke", store=tmp_path, device="cpu", steps=40)
    trained = waves(chapters.jobs(run, "03"), run.results)[0]
    run.compute(trained[:1])

    def kill():
        working = []
        while not working:
            time.sleep(0.01)
            working = [each for each in psutil.Process().children() if "popen_loky" in " ".join(each.cmdline())]
        working[0].kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(JobError, match="a job was killed, most often for want of memory"):
        run.compute(trained)
    killer.join()
    assert len(results(tmp_path)[0]) >= 1
    run.compute(trained)
    assert len(results(tmp_path)[0]) == len(trained)


def test_workers_with_several_threads_are_refused(tmp_path, monkeypatch):
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None
    ) as started:
        monkeypatch.setenv("PRR_SCHEDULER", started.scheduler_address)
        run = Experiment("smoke", store=tmp_path, device="cpu")
        job = networks.model(run, "unet")
        with pytest.raises(OptionError, match="expected one thread each; start them with --nthreads 1"):
            run.compute([job])


def test_a_scheduler_that_is_not_there_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("PRR_SCHEDULER", "nonsense")
    run = Experiment("smoke", store=tmp_path, device="cpu")
    job = networks.model(run, "unet")
    with pytest.raises(OptionError, match="PRR_SCHEDULER=nonsense: expected a dask scheduler such as tcp"):
        run.compute([job])


def test_the_study_is_networks_then_sweeps_then_what_rests_on_them(tmp_path):
    run = Experiment("smoke", store=tmp_path, device="cpu")
    order = [{job.name for job in wave} for wave in waves(chapters.jobs(run), run.results)]
    assert {"networks_trained", "examples_trained"} <= order[0]
    assert {"transplants_swept", "transplants_dropped"} <= order[1] - order[0]
    assert "transplants_jointly_transplanted" in set().union(*order[2:]) - order[1]
    made = set(Store(tmp_path).list().query("folder in ('networks', 'tables')")["what"].str.split().str[0])
    assert made <= {"acdc", "t1", "rvsc", "textures"}  # nothing but what is known of the data


# ------------------------------------------------------------------- the graph, with toys in the place of networks


CALLED = []


def doubled(value: pd.DataFrame, times: int) -> pd.DataFrame:
    CALLED.append(times)
    return value * times


def begun(start: float) -> pd.DataFrame:
    CALLED.append(start)
    return pd.DataFrame({"x": [start]})


@derived
def summed(parts: list[pd.DataFrame]) -> pd.DataFrame:
    CALLED.append("sum")
    return sum(parts)


@pytest.fixture
def executor(tmp_path):
    CALLED.clear()
    return Executor(Store(tmp_path))


def toys():
    """A start, two that need it, and their sum, which is not kept."""
    start = Job(begun, {"start": 1.5})
    twice, thrice = (Job(doubled, {"times": times}, {"value": start}, f"{times} times") for times in (2, 3))
    return start, twice, thrice, Job(summed, {}, {"parts": [twice, thrice]})


def test_a_job_is_made_once_with_all_that_it_needs(executor):
    *_, total = toys()
    assert total.value(executor)["x"].item() == 7.5
    assert CALLED == [1.5, 2, 3, "sum"]
    assert toys()[-1].value(executor)["x"].item() == 7.5
    assert CALLED == [1.5, 2, 3, "sum", "sum"]


def test_needs_come_first_each_once_and_in_waves(executor):
    start, twice, thrice, total = toys()
    assert closure([total, twice]) == [start, twice, thrice, total]
    assert waves([total], executor) == [[start], [twice, thrice]]
    twice.value(executor)
    assert waves([total], executor) == [[thrice]]


def test_what_is_there_needs_nothing(executor):
    """A table stays when the network that it was made from has been cleaned away."""
    start, _, thrice, total = toys()
    total.value(executor)
    executor.store.path("tables", start.key).unlink()
    assert is_held(total, executor)
    assert waves([total], executor) == []
    executor.store.path("tables", thrice.key).unlink()
    assert waves([total], executor) == [[start], [thrice]]


def test_a_key_is_all_that_the_function_is_given():
    start, twice, thrice, _ = toys()
    other = Job(doubled, {"times": 2}, {"value": Job(begun, {"start": 2.5})})
    elsewhere = Job(doubled, {"times": 2}, {"value": start}, machine={"device": "cuda"})
    assert len({job.digest for job in (twice, thrice, other, elsewhere)}) == 4
    assert elsewhere.question == twice.question
    assert len({job.question for job in (twice, thrice, other)}) == 3
    assert Job(doubled, {"times": 2}, {"value": start}, "another title").digest == twice.digest


def test_the_order_of_a_dict_of_needs_counts():
    """The first of several sources may be the one that is compared with, or drawn."""
    start, twice, *_ = toys()
    orders = {"a": start, "b": twice}, {"b": twice, "a": start}
    first, second = (Job(summed, {}, {"parts": parts}) for parts in orders)
    assert first.digest != second.digest
    assert first.question != second.question


def test_a_job_goes_into_another_process_with_its_digest_and_its_form():
    start, *_, total = toys()
    for job in (start, total):
        other = pickle.loads(pickle.dumps(job))
        assert (other.digest, other.form) == (job.digest, job.form)


def test_a_record_tells_the_cost_of_a_job_without_that_of_its_needs(executor):
    _, twice, *_ = toys()
    twice.value(executor)
    record = executor.record(twice)
    assert record["title"] == "2 times"
    assert record["key"] == json.loads(json.dumps(twice.key))
    assert record["seconds"] >= 0
    assert record["made"]["torch"] == torch.__version__
    assert executor.record(Job(begun, {"start": 9.0})) is None


def test_a_store_that_only_reads_makes_nothing(tmp_path):
    CALLED.clear()
    reader = Executor(Store(tmp_path, make=False))
    with pytest.raises(MissingError, match="not computed yet"):
        toys()[-1].value(reader)
    assert CALLED == []


def test_stacked_tables_have_their_labels_in_front(executor):
    start, twice, *_ = toys()
    table = stack([({"seed": 1, "of": "a"}, start), ({"seed": 2, "of": "b"}, twice)]).value(executor)
    assert table.to_dict("list") == {"seed": [1, 2], "of": ["a", "b"], "x": [1.5, 3.0]}


def test_a_sweep_knows_its_data_by_content_and_its_networks_by_key(tmp_path):
    run = Experiment("smoke", store=tmp_path, device="cpu")
    job = transplants.by_patient(run, "unet")
    assert job.key["needs"]["slices"] == run.facts("acdc")["content"]
    assert job.key["needs"]["target"] == networks.model(run, "unet").digest
