"""The study's one door, at the smallest scale: what is trained, what is loaded, what is refused by name."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from torchvision.models import ResNet18_Weights

from prr import metrics, reuse
from prr.data import read_acdc
from prr.errors import DataError, MissingError, NetworkError, OptionError
from prr.layers import tensor
from prr.study import Experiment, datasets, experiment, measures, networks, training, transplants
from prr.study.datasets import content
from prr.study.models import seed_of
from prr.study.profiles import PROFILES, profile

TASKS = ["segmentation", "auto-encoding"]


pytestmark = pytest.mark.usefixtures("phantoms_only")


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """One store for the whole file: phantoms are written once; a test that trains takes a seed of its own."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def run(folder):
    """Experiments of two steps on one thread."""
    return lambda profile="smoke", **options: Experiment(
        profile, **{"store": folder, "threads": 1, "steps": 2, **options}
    )


@pytest.fixture
def fits(monkeypatch):
    """Calls of training.fit, which only counts: each with the state dict that it would have started from."""
    calls = []

    def fit(model, data, task, **options):
        start = {name: value.clone() for name, value in model.state_dict().items()}
        calls.append({"start": start, "data": data, "task": task, "threads": torch.get_num_threads(), **options})
        return pd.DataFrame({"step": [1], "loss": [1.0], "validation": [0.5]})

    monkeypatch.setattr(training, "fit", fit)
    return calls


def same(first, second):
    first, second = (state if isinstance(state, dict) else state.state_dict() for state in (first, second))
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# ------------------------------------------------------------------------ data


def test_slices_are_the_readers_at_the_profiles_scale(run, folder):
    found = run().slices("acdc")
    assert found.phantom
    assert found.images.shape[1:] == (1, 48, 48)
    assert found.spacing_mm == 3.0
    assert len(found.patient.unique()) == 4
    (root,) = (folder / "phantoms").glob("acdc-4-*/acdc")
    direct = read_acdc(root, size=48, spacing_mm=3.0, normalise="zscore")
    assert torch.equal(found.images, direct.images)
    assert torch.equal(found.masks, direct.masks)
    assert found.validation.patient.unique().tolist() == direct.validation.patient.unique().tolist()


def test_slices_are_decoded_once(run, monkeypatch):
    before = run().slices("acdc")
    monkeypatch.setitem(datasets.DATA_SETS, "acdc", None)
    after = run().slices("acdc")
    assert content(after) == content(before)
    assert (after.held_out, after.name, after.phantom) == (before.held_out, before.name, before.phantom)


def test_normalisation_is_an_override(run):
    images = run(normalisation="unit").slices("acdc").images
    assert (images.min(), images.max()) == (0, 1)


@pytest.fixture
def elsewhere(run, folder, tmp_path):
    """A folder with the same data, as a reader of their own might have it."""
    run().slices("acdc")
    (acdc,) = (folder / "phantoms").glob("acdc-4-*/acdc")
    return shutil.copytree(acdc.parent, tmp_path / "own data")


def test_named_folders_are_read_before_phantoms(run, elsewhere, monkeypatch):
    monkeypatch.setattr(datasets, "write_phantom", None)
    assert content(run(data_root=elsewhere, acdc_patients=5).slices("acdc")) == content(run().slices("acdc"))
    monkeypatch.setenv("PRR_ACDC", str(elsewhere / "acdc"))
    assert content(run(acdc_patients=5).slices("acdc")) == content(run().slices("acdc"))


def test_a_data_set_that_the_named_folder_lacks_is_a_phantom(run, elsewhere):
    assert run(data_root=elsewhere).slices("rvsc").phantom


def test_a_data_root_without_data_sets_is_refused_by_name(run, tmp_path):
    with pytest.raises(DataError, match=f"data_root={tmp_path}: expected a folder that holds acdc/, t1/ or rvsc/"):
        run(data_root=tmp_path).slices("acdc")


def test_a_variable_that_names_no_folder_is_refused_by_name(run, tmp_path, monkeypatch):
    monkeypatch.setenv("PRR_ACDC", str(tmp_path / "gone"))
    with pytest.raises(DataError, match=r"PRR_ACDC=.*gone: "):
        run().slices("acdc")


def test_the_content_of_slices_counts_voxels_labels_patients_and_split(run):
    part = run().slices("acdc")
    digests = {content(part), content(part.train), content(part.validation)}
    for name in ("images", "masks", "patient"):
        value = getattr(part, name).clone()
        value.view(-1)[0] = 1 - value.view(-1)[0]
        held_out = () if name == "patient" else part.held_out
        digests.add(content(type(part)(**{**vars(part), name: value, "held_out": held_out})))
    digests.add(content(type(part)(**{**vars(part), "held_out": part.held_out[:1]})))
    assert len(digests) == 7


# -------------------------------------------------------------------- networks


@pytest.mark.parametrize("network", ["unet", "pspnet"])
def test_a_second_experiment_loads_instead_of_training(run, network, monkeypatch):
    first, history = run(seed=11).model(network), networks.history(run(seed=11), network)
    monkeypatch.setattr(training, "fit", None)
    again = run(seed=11)
    second = again.model(network)
    assert same(first, second)
    assert networks.history(again, network).equals(history)
    assert list(history.columns) == ["step", "loss", "validation"]
    assert not any(module.training for module in [*first.modules(), *second.modules()])


def test_training_again_in_another_store_gives_the_same_network_bit_for_bit(run, tmp_path):
    trained = [run(seed=11, store=store).model("unet") for store in (tmp_path / "a", tmp_path / "b")]
    assert same(*trained)
    assert not same(trained[0], run(seed=12).model("unet"))


def test_a_network_is_trained_with_the_profiles_values_and_threads(run, fits):
    before = torch.get_num_threads()
    run(seed=13, threads=before + 1, steps=5, batch_size=4, learning_rate=0.5).model("unet", task="auto-encoding")
    (call,) = fits
    wanted = {"task": "auto-encoding", "threads": before + 1, "steps": 5, "batch_size": 4, "learning_rate": 0.5}
    assert {name: call[name] for name in wanted} == wanted
    assert torch.get_num_threads() == before
    assert call["data"].train.patient.unique().tolist() != call["data"].validation.patient.unique().tolist()


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 15}, {"threads": 2}, {"steps": 3}, {"batch_size": 4}, {"learning_rate": 0.5}, {"unet_width": 3},
        {"unet_start": "shared"}, {"normalisation": "unit"}, {"size": 64}, {"spacing_mm": 2.5}, {"acdc_patients": 5},
    ],
    ids=str,
)  # fmt: skip
def test_a_value_that_the_network_depends_on_trains_another(run, fits, change):
    run(seed=14).model("unet")
    fits.clear()
    run(**{"seed": 14, **change}).model("unet")
    assert len(fits) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"pspnet_width": 16}, {"pspnet_start": "independent"}, {"tolerance": 0.1}, {"t1_patients": 8},
        {"rvsc_patients": 3},
        {"device": "auto"}, {"device": "cpu"}, {"unet_width": None},
        {"profile": "quick", **{name: getattr(PROFILES["smoke"], name) for name in (
            "acdc_patients", "size", "spacing_mm", "unet_width", "batch_size")}},
    ],
    ids=str,
)  # fmt: skip
def test_a_value_that_the_network_does_not_depend_on_trains_none(run, fits, change):
    run(seed=16).model("unet")
    fits.clear()
    run(**{"seed": 16, **change}).model("unet")
    assert fits == []


def test_the_same_data_in_another_folder_train_none(run, fits, elsewhere):
    run(seed=16).model("unet")
    fits.clear()
    run(seed=16, data_root=elsewhere).model("unet")
    assert fits == []


@pytest.mark.parametrize(
    "change", [{"network": "pspnet"}, {"task": "auto-encoding"}, {"dataset": "rvsc"}, {"seed": 18}]
)
def test_another_network_task_data_set_or_seed_trains_another(run, fits, change):
    run(seed=17).model("unet")
    fits.clear()
    run(seed=17).model(**{"network": "unet", **change})
    assert len(fits) == 1


def test_from_a_shared_start_every_task_and_data_set_begins_bit_identical(run, fits):
    one = run(seed=19, unet_start="shared")
    for network in ("unet", "pspnet"):  # shared is PSPNet's default
        fits.clear()
        for dataset, task in (("acdc", TASKS[0]), ("acdc", TASKS[1]), ("rvsc", TASKS[0])):
            one.model(network, dataset, task)
        first, *others = (call["start"] for call in fits)
        assert len(others) == 2
        assert all(same(first, other) for other in others)


def test_from_independent_starts_every_task_and_data_set_begins_elsewhere(run, fits):
    one = run(seed=20)
    for dataset, task in (("acdc", TASKS[0]), ("acdc", TASKS[1]), ("rvsc", TASKS[0])):
        one.model("unet", dataset, task)
    one.model("unet", seed=21)
    one.model("unet", start="shared")
    kernels = [call["start"]["down.0.conv1.weight"] for call in fits]
    assert len(kernels) == 5
    assert len({kernel.numpy().tobytes() for kernel in kernels}) == 5
    assert len({call["seed"] for call in fits}) == 4  # order and augmentation: the same for both starts of one job


def test_seeds_of_different_words_differ():
    seeds = {seed_of(seed, *words) for seed in range(20) for words in ((), ("a",), ("b",), ("a", "b"), ("ab",))}
    assert len(seeds) == 100
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_imagenet_weights_that_cannot_be_had_are_refused(run, monkeypatch):
    def unreachable(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", unreachable)
    with pytest.raises(OptionError, match=r"imagenet.*could not be downloaded.*another start"):
        run(pspnet_width=64).model("pspnet", start="imagenet")


def test_an_interrupted_training_leaves_nothing_and_the_next_one_succeeds(run, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    one = run(seed=22)
    before = len(one.results.store.list())
    with monkeypatch.context() as patch:
        patch.setattr(training, "fit", stopped)
        with pytest.raises(KeyboardInterrupt):
            one.model("unet")
    assert len(one.results.store.list()) == before
    one.model("unet")
    assert len(one.results.store.list()) == before + 1


# ----------------------------------------------------------------------- reuse


def test_a_sweep_is_that_of_the_two_networks_on_the_targets_validation_patients(run):
    one = run(seed=23)
    found = one.sweep("unet", ["RM", "W"], layers=[1, 2])
    pair = [one.model("unet", task=task) for task in TASKS]
    expected = reuse.sweep(*pair, one.slices("acdc").validation, kinds=["RM", "W"], layers=[1, 2])
    pd.testing.assert_frame_equal(found, expected)


def test_a_sweep_is_made_once_for_its_kinds_and_layers(run, monkeypatch):
    first = run(seed=23).sweep("unet", ["RM"])
    with monkeypatch.context() as patch:
        patch.setattr(reuse, "sweep", None)
        assert run(seed=23).sweep("unet", ("RM",)).equals(first)
    assert set(run(seed=23).sweep("unet", ["RB"])["kind"]) == {"RB"}
    assert run(seed=23).sweep("unet", ["RM"], layers=[3])["layer"].tolist() == [3]


def test_a_networks_own_parameters_change_nothing(run):
    pair = ("acdc", "segmentation")
    table = run(seed=23).sweep("unet", ["W"], target=pair, source=pair)
    assert len(table) == 23
    assert (table[["drop", "low", "high"]] == 0).all(axis=None)


def test_a_sweep_between_data_sets_is_scored_on_the_target(run, monkeypatch):
    scored = []
    genuine = reuse.patient_scores
    monkeypatch.setattr(
        reuse, "patient_scores", lambda *pair, **options: scored.append(pair[2].name) or genuine(*pair, **options)
    )
    run(seed=23).sweep("unet", ["B"], [1], target=("rvsc", "segmentation"), source=("acdc", "segmentation"))
    assert scored == [run().slices("rvsc").name]


def test_a_sweep_refuses_unknown_kinds_before_it_trains(run, fits):
    with pytest.raises(OptionError, match="'RX'"):
        run(seed=24).sweep("unet", ["RX"])
    assert fits == []


def test_dice_is_that_of_the_network_on_the_validation_patients(run):
    one = run(seed=23)
    part = one.slices("acdc").validation
    with torch.no_grad():
        prediction = one.model("unet")(part.images).argmax(1)
    found, expected = one.result(measures.dice(one, "unet")), metrics.dice(prediction, part.masks, part.patient)
    np.testing.assert_allclose(found["dice"], expected["dice"], atol=0.01)
    assert found[["patient", "class"]].equals(expected[["patient", "class"]])


# --------------------------------------------------------- options and records


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"profile": "tiny"}, "profile 'tiny': expected one of smoke, quick, paper"),
        ({"stpes": 3}, "override 'stpes'.*did you mean steps"),
        ({"steps": 0}, "steps=0"),
        ({"device": "gpu"}, "device 'gpu': expected auto, cuda, mps, cpu"),
        ({"device": "cuda"}, "device 'cuda': not on this machine"),
        ({"device": "mps"}, "device 'mps': not on this machine"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": True}, "seed=True"),
        ({"seed": 1.0}, "seed=1.0"),
    ],
)
def test_unknown_options_are_refused_by_name(run, options, message):
    with pytest.raises(OptionError, match=message):
        run(**options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"network": "vgg"}, "network 'vgg': expected one of unet, pspnet"),
        ({"network": "unet", "task": "inpainting"}, "task 'inpainting': expected one of segmentation, auto-encoding"),
        ({"network": "unet", "dataset": "mnms"}, "data set 'mnms': expected one of acdc, t1, rvsc"),
        ({"network": "unet", "start": "warm"}, "start 'warm' for unet"),
        ({"network": "unet", "start": "imagenet"}, "start 'imagenet' for unet.*pspnet"),
    ],
)
def test_unknown_networks_tasks_data_sets_and_starts_are_refused_by_name(run, fits, arguments, message):
    with pytest.raises(OptionError, match=message):
        run().model(**arguments)
    assert fits == []


def test_auto_takes_the_best_device_there_is(monkeypatch):
    assert experiment.available("auto") == "cpu"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert experiment.available("auto") == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert experiment.available("auto") == "cuda"


def test_a_chapters_parameters_make_its_experiment(folder, monkeypatch):
    monkeypatch.setenv("PRR_STORE", str(folder))
    cell = {
        "__name__": "__main__", "_i1": "profile = ...", "In": [""], "Out": {}, "Experiment": Experiment, "np": np,
        "profile": "smoke", "data_root": None, "device": "cpu", "seed": 3, "steps": 5, "size": None,
    }  # fmt: skip
    found = Experiment.from_parameters(cell)
    assert found.profile == profile("smoke", steps=5)
    assert (found.seed, found.device, found.overrides, found.results.store.folder) == (3, "cpu", {"steps": 5}, folder)


@pytest.mark.parametrize("name", ["profil", "epochs", "store", "Steps"])
def test_a_parameter_that_is_none_is_refused_by_name(name):
    with pytest.raises(OptionError, match=f"parameter {name}: expected some of profile, data_root, device, seed"):
        Experiment.from_parameters({"profile": "smoke", name: 3})


def test_a_variant_differs_in_what_was_changed_only(run, elsewhere):
    one = run(seed=5, data_root=elsewhere, device="cpu", batch_size=4)
    other = one.variant(normalisation="unit", steps=3)
    assert vars(other.profile) == vars(one.profile) | {"normalisation": "unit", "steps": 3}
    for name in ("seed", "device", "data_root"):
        assert getattr(other, name) == getattr(one, name)
    assert other.results.store.folder == one.results.store.folder


def test_the_stamp_tells_profile_overrides_seed_device_and_data(run):
    one = run(seed=26, device="cpu", batch_size=4)
    one.slices("acdc")
    for part in ("profile smoke", "batch_size 4", "seed 26", "cpu", "ACDC phantom (4 patients)", "torch 2"):
        assert part in one.stamp


def test_the_provenance_has_a_row_for_each_network_used(run, fits):
    one = run(seed=27)
    for task in (*TASKS, TASKS[0]):
        one.model("unet", task=task)
    table = one.provenance()
    assert table["made"].tolist() == ["acdc segmentation", "acdc auto-encoding"]
    assert (table[["network", "seed", "start"]] == ["unet", 27, "independent"]).all(axis=None)
    assert table[["device", "torch", "commit", "date", "seconds"]].notna().all(axis=None)


def test_the_provenance_of_a_page_holds_its_variants_and_sweeps(run, fits):
    one = run(seed=28)
    one.variant(normalisation="unit").sweep("unet", kinds=["RB"], layers=[1])
    table = one.provenance()
    assert table["made"].tolist() == ["acdc segmentation", "acdc auto-encoding", "sweep of [1]"]
    assert set(table["normalisation"]) == {"unit"}


def test_an_override_of_the_wrong_type_is_refused_and_not_ignored():
    for wrong in ({"steps": [1, 2]}, {"profile": ["smoke"]}, {"device": {"cpu"}}, {"steps": np.int64(5)}):
        with pytest.raises(OptionError, match="expected"):
            Experiment.from_parameters({"profile": "smoke"} | wrong)
    with pytest.raises(OptionError, match="parameter bogus"):
        Experiment.from_parameters({"profile": "smoke", "bogus": [1]})


def test_a_network_that_diverged_is_not_kept(run, folder):
    one = run(seed=29, learning_rate=1e30)
    with pytest.raises(NetworkError, match=r"NaN or infinite weights after training with learning_rate=1e\+30"):
        one.model("unet")
    assert not one.holds(networks.model(one, "unet"))


def test_what_a_killed_process_left_of_a_phantom_goes_when_it_is_made(tmp_path):
    one = Experiment("smoke", store=tmp_path, rvsc_patients=2)
    one.slices("rvsc")
    (made,) = (tmp_path / "phantoms").glob("rvsc-*[!k]")
    shutil.rmtree(made)
    draft = made.with_name(f".{made.name}-abc123")
    draft.mkdir()
    Experiment("smoke", store=tmp_path, rvsc_patients=2, spacing_mm=4.0).slices("rvsc")
    assert made.exists()
    assert not draft.exists()


# --------------------------------------------------------- few patients, many jobs


def test_a_network_of_few_patients_is_another_network_trained_on_them_alone(run, fits):
    experiment = run(seed=71)
    experiment.model("unet", patients=1)
    experiment.model("unet")
    few, every = (call["data"] for call in fits)
    assert len(few.train.patient.unique()) == 1
    assert set(few.train.patient.tolist()) < set(every.train.patient.tolist())
    assert few.validation.patient.tolist() == every.validation.patient.tolist()
    assert same(fits[0]["start"], fits[1]["start"])


def test_more_patients_than_there_are_is_refused(run):
    with pytest.raises(OptionError, match="patients=9: expected 1 to 2"):
        run(seed=72).model("unet", patients=9)


def test_an_experiment_that_only_reads_makes_nothing(run, tmp_path):
    with pytest.raises(MissingError, match="not computed yet"):
        run(store=tmp_path / "empty", make=False).model("unet")
    assert not list(tmp_path.rglob("*.safetensors"))
    with pytest.raises(MissingError):
        run(seed=73, make=False).model("unet")
    assert same(run(seed=73).model("unet"), run(seed=73, make=False).model("unet"))


def test_the_start_of_a_network_is_what_its_training_began_from(run, fits):
    experiment = run(seed=74)
    experiment.model("pspnet", "acdc", "auto-encoding")
    assert same(experiment.result(networks.start(experiment, "pspnet", "acdc", "auto-encoding")), fits[0]["start"])


def test_a_network_has_the_width_that_its_line_in_the_table_says(run):
    one = run(unet_width=3, pspnet_width=8)
    assert networks.width_of(one, "both") == 3
    assert networks.width_of(one, "densenet") == 8
    assert networks.model(one, "densenet").needs["initial"].arguments["width"] == 8


def test_seeds_count_from_the_experiments_own(run):
    assert run(seed=5, seeds=3).seeds == [5, 6, 7]


@pytest.mark.parametrize("count", ["1", "2"])
def test_results_made_together_are_those_made_one_by_one(run, tmp_path, monkeypatch, count):
    monkeypatch.setenv("PRR_JOBS", count)
    alone, together = run(seed=75), run(seed=75, store=tmp_path)
    together.compute([networks.model(together, network) for network in ("unet", "pspnet")])
    for network in ("unet", "pspnet"):
        assert same(run(seed=75, store=tmp_path, make=False).model(network), alone.model(network))


@pytest.mark.parametrize("count", ["0", "many", "-1"])
def test_a_number_of_jobs_that_is_none_is_refused(run, monkeypatch, count):
    monkeypatch.setenv("PRR_JOBS", count)
    one = run(seed=76)
    with pytest.raises(OptionError, match=f"PRR_JOBS={count}"):
        one.compute([networks.model(one, "unet")])


def test_a_dose_of_one_is_the_transplant_and_of_zero_changes_nothing(run):
    experiment = run(seed=77)
    whole = experiment.sweep("unet", ["W"], [1, 2])
    reached = experiment.sweep("unet", ["W"], [1, 2], dose=1.0)
    assert reached["drop"].to_numpy() == pytest.approx(whole["drop"], abs=1e-4)
    assert (experiment.sweep("unet", ["W"], [1, 2], dose=0.0)["drop"] == 0).all()


def distances(target, other):
    """Root mean square distance of every kernel."""
    pairs = zip(target.parameters(), other.parameters(), strict=True)
    return np.array([(mine - theirs).square().mean().sqrt().item() for mine, theirs in pairs if mine.ndim == 4])


def test_a_dose_is_so_much_of_the_way_and_noise_is_as_far_as_the_source(run, monkeypatch):
    experiment, given = run(seed=77), []
    genuine = reuse.patient_scores
    monkeypatch.setattr(
        reuse, "patient_scores", lambda *pair, **options: given.append(pair[:2]) or genuine(*pair, **options)
    )
    for dose in (0.3, "noise", 0.6, 0.3, "noise"):
        experiment.sweep("unet", ["RB"], [1], dose=dose)
    target, source = (experiment.model("unet", task=task) for task in TASKS)
    whole = distances(target, source)
    assert len(given) == 3  # the others were in the store
    for (judged, donor), part in zip(given, (0.3, 1.0, 0.6), strict=True):
        assert same(judged, target)
        np.testing.assert_allclose(distances(target, donor), part * whole, rtol=1e-4)
        if part < 1:
            np.testing.assert_allclose(distances(donor, source), (1 - part) * whole, rtol=1e-4)
        else:
            assert (distances(donor, source) > whole / 2).all()  # elsewhere


def test_a_dose_that_is_none_is_refused(run):
    with pytest.raises(OptionError, match="dose='half': expected a number"):
        run(seed=77).sweep("unet", dose="half")


def test_what_passes_alone_is_put_in_together_once(run, monkeypatch):
    """Against a network with these tensors loaded by hand."""
    experiment = run(seed=77)
    found = experiment.result(transplants.joint(experiment, "unet")).iloc[0]
    swept = experiment.sweep("unet")
    alone = swept[swept["high"] <= 0.05]
    assert found["pairs"] == len(alone) > 1
    target, source = (experiment.model("unet", task=task) for task in TASKS)
    for kind, name in alone[["kind", "name"]].itertuples(index=False):
        tensor(target, kind, name).data.copy_(tensor(source, kind, name))
    part = experiment.slices("acdc").validation
    scores = metrics.foreground_dice(reuse.predict(target, part.images), part)
    assert found["score"] == pytest.approx(np.nanmean(scores), abs=1e-6)
    again = run(seed=77, make=False)
    assert again.result(transplants.joint(again, "unet")).iloc[0].equals(found)
    loose = run(seed=77, tolerance=0.5)
    assert loose.result(transplants.joint(loose, "unet"))["pairs"].item() == (swept["high"] <= 0.5).sum()
