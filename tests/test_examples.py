"""The networks and data of chapter 10: made by the seed, disjoint where they have to be, known by all they rest on."""

import json
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import pandas as pd
import pytest
import torch
from scipy import stats

import prr
from prr import donors
from prr.errors import MissingError, OptionError
from prr.metrics import accuracy
from prr.reuse import predict
from prr.study import Experiment, chapters, examples
from prr.study.examples import FROZEN, START, WHOLE
from prr.study.jobs import Job, closure
from prr.verdict import Verdict

pytestmark = pytest.mark.usefixtures("phantoms_only")

CHAPTER = Path(__file__).parents[1] / "book" / "10_your_network.ipynb"
SMALL = {"transfer_steps": 2, "example_images": 4}


@pytest.fixture(scope="module")
def run(tmp_path_factory, phantoms_only):
    return Experiment("smoke", store=tmp_path_factory.mktemp("store"), progress=False, **SMALL)


@pytest.fixture(scope="module")
def judged(run):
    """The job of a verdict on the digits of the smallest sort."""
    networks = [examples.network(run, name) for name in ("few digits", "other digits")]
    return run.job_of(prr.judge, *networks, examples.data(run, "validation"), tolerance=0.2, kinds=["W"])


def reader(run):
    """The same run, which makes nothing."""
    return Experiment("smoke", store=run.results.store.folder, make=False, **SMALL)


# ------------------------------------------------------------------- images


def test_the_target_learns_from_other_digits_than_it_is_judged_on(run):
    quick = Experiment("quick", store=run.results.store.folder)
    parts = [quick.result(examples.data(quick, name)).images.flatten(1) for name in ("few", "validation", "other")]
    assert [len(part) for part in parts] == [100, quick.profile.example_images, 1197]
    assert parts[0].abs().max() == parts[1].abs().max() == 1
    together = torch.cat(parts)
    assert len(together.unique(dim=0)) == len(together)


def test_negatives_and_turned_digits_show_what_the_others_show(run):
    other, negative, turned = (run.result(examples.data(run, name)) for name in ("other", "negative", "turned"))
    assert torch.equal(negative.images, -other.images)
    torch.testing.assert_close(turned.images, other.images.rot90(1, (2, 3)))
    assert torch.equal(other.masks, negative.masks)


def test_what_is_judged_on_is_as_much_as_the_profile_or_the_caller_says(run):
    counts = {name: len(run.result(examples.data(run, name)).images) for name in ("validation", "scenes", "few", "two")}
    assert counts == {"validation": 4, "scenes": 4, "few": 100, "two": 400}
    first = run.result(examples.data(run, "validation", 3))
    assert torch.equal(first.images, run.result(examples.data(run, "validation")).images[:3])
    assert len(run.result(examples.data(run, "scenes", 500)).images) == 60  # no more are drawn


@pytest.mark.parametrize(("name", "labels"), [("three", 4), ("two", 3), ("scenes", 4)])
def test_scenes_show_their_labels_brighter_than_the_ground(run, name, labels):
    scenes = run.result(examples.data(run, name, 60))
    assert scenes.masks.unique().tolist() == list(range(labels))
    images, masks = scenes.images[:, 0], scenes.masks
    for label in range(1, labels):
        assert images[masks == label].mean() - images[masks == 0].mean() == pytest.approx(1, abs=0.05)
    assert torch.equal(scenes.images, run.result(examples.data(run, name, 60)).images)


# ------------------------------------------------------------------- networks


def test_one_architecture_has_one_start_and_the_global_generator_is_left_alone(run):
    state = torch.get_rng_state()
    first, second = (run.result(examples.start(run, name)) for name in ("few digits", "negatives"))
    assert torch.equal(torch.get_rng_state(), state)
    assert (prr.rmse(first, second)["rmse"] == 0).all()
    other = run.result(examples.start(run.variant(seed=1), "few digits"))
    assert (prr.rmse(first, other).query("kind == 'W'")["rmse"] > 0).all()


def test_a_network_is_trained_once_and_found_again(run, monkeypatch):
    trained = run.result(examples.network(run, "few digits"))
    start = run.result(examples.start(run, "few digits"))
    assert (prr.rmse(start, trained).query("kind == 'W'")["rmse"] > 0).all()
    monkeypatch.setattr(examples, "train", None)
    assert (prr.rmse(run.result(examples.network(run, "few digits")), trained)["rmse"] == 0).all()
    assert not trained.training


def test_training_depends_on_its_arguments_alone_though_dropout_draws_from_the_global_generator(run):
    """PSPNet drops features at random in training."""
    few, made = run.result(examples.data(run, "two", 8)), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        model = examples.blank("two shapes")
        history = examples.train(model, few, 2, 4, 1e-3, seed=0)
        assert torch.equal(torch.get_rng_state(), state)
        made.append((model, history))
    (first, one), (second, other) = made
    assert any(isinstance(each, torch.nn.Dropout2d) for each in first.modules())
    assert (prr.rmse(first, second)["rmse"] == 0).all()
    assert one.equals(other)
    assert one["step"].item() == 2
    assert one["loss"].item() > 0


def test_training_leaves_what_is_frozen(run):
    model, start = examples.blank("few digits"), examples.blank("few digits")
    model.conv1.weight.requires_grad_(False)
    examples.train(model, run.result(examples.data(run, "few")), **examples.scale(run))
    assert torch.equal(model.conv1.weight, start.conv1.weight)
    assert not torch.equal(model.fc.weight, start.fc.weight)


@pytest.mark.parametrize("describe", [examples.data, examples.start, examples.network])
def test_an_unknown_name_is_refused_with_the_known_ones(run, describe):
    with pytest.raises(OptionError, match=r"'fewer'.*few"):
        describe(run, "fewer")


# ------------------------------------------------------------------- what the chapter asks


def test_gains_are_over_the_first_network(run):
    data = run.result(examples.data(run, "validation"))
    models = {"start": run.result(examples.start(run, "few digits"))}
    models["trained"] = run.result(examples.network(run, "few digits"))
    table = examples.gains(models, data).set_index("network")
    scores = {name: accuracy(predict(model, data.images), data).mean() for name, model in models.items()}
    assert table["score"].to_dict() == pytest.approx(scores)
    assert table.loc["start", ["gain", "low", "high"]].tolist() == [0, 0, 0]
    assert table.loc["trained", "gain"] == pytest.approx(scores["trained"] - scores["start"])
    assert table.loc["trained", "low"] <= table.loc["trained", "gain"] <= table.loc["trained", "high"]


def test_fewer_images_give_another_answer_and_the_same_question_is_not_asked_again(run, judged):
    target, source = judged.needs["target"], judged.needs["source"]
    given = {"tolerance": 0.2, "kinds": ["W"]}
    all_of_them = run.result(judged)
    fewer = run.call(prr.judge, target, source, examples.data(run, "validation", 3), **given)
    assert [each.made["data"] for each in (all_of_them, fewer)] == ["4 images, 4 units", "3 images, 3 units"]
    asked = reader(run)
    again = asked.call(prr.judge, target, source, examples.data(asked, "validation", 3), **given)
    pd.testing.assert_frame_equal(again.layers, fewer.layers)
    assert again.made == fewer.made
    with pytest.raises(MissingError):
        asked.call(prr.judge, target, source, examples.data(asked, "validation", 2), **given)


def test_a_plan_is_the_verdict_s_with_some_actions_replaced(run, judged):
    whole = run.result(judged).plan()
    pd.testing.assert_frame_equal(run.result(examples.plan(run, judged)), whole)
    changed = run.result(examples.plan(run, judged, {"retrain": "fine-tune"}))
    assert changed["action"].tolist() == ["fine-tune" if each == "retrain" else each for each in whole["action"]]
    assert changed["action"].tolist() != whole["action"].tolist()


def test_another_plan_gives_another_outcome_and_the_same_plan_is_not_asked_again(run, judged):
    asked = judged.needs["target"], examples.start(run, "few digits"), {"source": judged.needs["source"]}, judged
    data = examples.data(run, "few"), examples.data(run, "validation", 60)

    def outcome(run, changes, **scale):
        plans = {"a plan": examples.plan(run, judged, changes)}
        return run.call(examples.outcome, *asked, plans, *data, examples.scale(run) | scale)

    everything, nothing = dict.fromkeys(examples.ACTIONS, "fine-tune"), dict.fromkeys(examples.ACTIONS, "retrain")
    same = outcome(run, nothing).set_index("network")
    assert same.loc["a plan", "gain"] == 0  # trained as the target was
    loaded, alone = (outcome(run, changes, steps=8) for changes in (everything, nothing))
    assert loaded["network"].tolist() == ["nothing loaded", "as it is", FROZEN, "a plan", FROZEN, FROZEN]
    assert not loaded.equals(alone)
    pd.testing.assert_frame_equal(outcome(reader(run), nothing, steps=8), alone)
    with pytest.raises(MissingError):
        outcome(reader(run), {"reuse": "fine-tune"}, steps=8)


def test_the_outcome_has_the_sources_as_they_are_and_the_plan_taken_from_controls(run):
    """Each row by hand: loaded, trained and scored again."""
    target, start = (run.result(each(run, "few digits")) for each in (examples.network, examples.start))
    sources = {name: run.result(examples.network(run, name)) for name in ("other digits", "negatives")}
    few, digits = (run.result(examples.data(run, name, 60)) for name in ("few", "validation"))
    plan = prr.parameter_table(target)[["kind", "name"]].assign(action="retrain")
    plan.loc[plan["name"].str.startswith("layer1") | (plan["kind"] == "RV"), "action"] = "reuse"
    verdict = SimpleNamespace(plan=lambda: plan, plan_from="negatives")
    giver, scale = sources[verdict.plan_from], examples.scale(run)
    whole = verdict.plan().assign(action="fine-tune")
    table = examples.outcome(target, start, sources, verdict, {WHOLE: whole}, few, digits, scale)
    givers = {verdict.plan_from: giver, "random donor": donors.random(giver, scale["seed"]), START: start}
    models = {("nothing loaded", "–"): target, **{("as it is", name): each for name, each in sources.items()}}
    for name, each in givers.items():
        models[FROZEN, name] = prr.apply_plan(start, each, verdict.plan())
        examples.train(models[FROZEN, name], few, **scale)
    models[WHOLE, verdict.plan_from] = prr.apply_plan(start, giver, whole)
    examples.train(models[WHOLE, verdict.plan_from], few, **scale)
    right = {key: (predict(each, digits.images).argmax(1) == digits.masks).double() for key, each in models.items()}
    assert set(zip(table["network"], table["source"], strict=True)) == set(right)
    for row in table.itertuples():
        mine = right[row.network, row.source]
        assert row.score == pytest.approx(mine.mean().item())
        bases = {"": right["nothing loaded", "–"], "beyond_": right[FROZEN, verdict.plan_from]}
        for prefix, base in bases.items():
            more = (mine - base).numpy()
            ends = [getattr(row, f"{prefix}{end}") for end in ("low", "high")]
            assert getattr(row, "beyond" if prefix else "gain") == pytest.approx(more.mean())
            if more.std():
                assert ends == pytest.approx(stats.ttest_1samp(more, 0).confidence_interval(0.95))
            else:
                assert ends == pytest.approx([more.mean()] * 2)
    assert set(table["over"]) == {"images"}


SAME = (0.0, 0.0, 0.0)
MORE, LESS, ABOUT = (0.08, 0.04, 0.12), (-0.08, -0.12, -0.04), (0.01, -0.02, 0.04)


def outcome_of(plan=ABOUT, controls=(ABOUT, LESS), whole=ABOUT, alone=(0.85, 0.04)):
    """A table of `examples.outcome` in a world of these differences; the plan takes from the second source."""
    rows = [("nothing loaded", "–", 0.7, *SAME, *SAME)]
    rows += [("as it is", f"source {i}", score, *SAME, *SAME) for i, score in enumerate(alone, 1)]
    rows += [(FROZEN, "source 2", 0.7, *plan, *SAME), (WHOLE, "source 2", 0.7, *SAME, *whole)]
    rows += [(FROZEN, name, 0.7, *SAME, *each) for name, each in zip(examples.CONTROLS, controls, strict=True)]
    columns = ["network", "source", "score", "gain", "low", "high", "beyond", "beyond_low", "beyond_high"]
    return pd.DataFrame(rows, columns=columns).assign(over="images")


@pytest.mark.parametrize(
    ("world", "finding", "by"),
    [
        ({"plan": MORE}, "Following the plan pays.", "0.08 [0.04, 0.12] over images."),
        ({"plan": LESS}, "Following the plan costs.", "-0.08 [-0.12, -0.04] over images."),
        ({"plan": ABOUT}, "Whether following the plan pays is open.", "0.01 [-0.02, 0.04] over images."),
        ({"plan": SAME}, "Following the plan changes nothing.", "0.00 [0.00, 0.00] over images."),
        ({"controls": (LESS, LESS)}, "The plan's source matters.", "-0.08 [-0.12, -0.04] over images."),
        ({"controls": (LESS, MORE)}, "The plan's source does worse than a control.", "0.08 [0.04, 0.12] over images."),
        ({"controls": (ABOUT, LESS)}, "The plan's source shows no merit.", "0.01 [-0.02, 0.04] over images."),
        ({"whole": MORE}, "Loading everything and training on does better than the plan.", "0.08 [0.04, 0.12]"),
        ({"whole": LESS}, "Loading everything and training on does worse than the plan.", "-0.08 [-0.12, -0.04]"),
        ({"whole": ABOUT}, "Loading everything and training on does neither better nor worse", "0.01 [-0.02, 0.04]"),
        (
            {"alone": (0.85, 0.04)},
            "The plan does not take from the source that is best by itself.",
            "By itself source 2 scores 0.04, source 1 0.85.",
        ),
        (
            {"alone": (0.04, 0.85)},
            "The plan takes from the source that is best by itself.",
            "By itself source 2 scores 0.85.",
        ),
    ],
)
def test_what_came_of_a_plan_is_said_in_words(world, finding, by, sentences):
    words = examples.in_words(outcome_of(**world))
    found = sentences(words)
    assert len(found) == 8
    (place,) = (i for i, each in enumerate(found) if each.startswith(finding))
    assert place % 2 == 0  # the finding first, its numbers after it
    assert by in found[place + 1]


def test_the_better_control_is_the_one_that_is_named(sentences):
    for controls, name in (((ABOUT, LESS), "random donor"), ((LESS, ABOUT), START)):
        found = sentences(examples.in_words(outcome_of(controls=controls)))
        assert found[3].startswith(f"The same plan from the {name}, the better control,")


def test_the_words_follow_the_table_of_the_very_function(run, judged, sentences):
    asked = judged.needs["target"], examples.start(run, "few digits"), {"source": judged.needs["source"]}, judged
    data = examples.data(run, "few"), examples.data(run, "validation", 60)
    table = run.call(examples.outcome, *asked, {}, *data, examples.scale(run))
    assert len(sentences(examples.in_words(table))) == 6  # nobody loaded everything


@pytest.mark.parametrize(
    ("start", "said"), [(0.1, "nearer than every source: 0.10."), (0.25, "not the nearest: 0.25.")]
)
def test_whether_the_start_is_nearer_than_the_sources_is_read_off_the_table(start, said, sentences):
    ranked = pd.DataFrame({"source": ["a", START, "b"], "relative": [0.3, start, 0.2]})
    found = sentences(examples.nearness_in_words(ranked))
    assert found == [f"The untrained start is {said}", "The nearest source, b, is 0.20 away."]


def test_ranks_are_over_the_layers_of_the_verdict(run, judged):
    start = examples.start(run, "few digits")
    networks = {"source": judged.needs["source"], "untrained start": start}
    table = run.call(examples.ranks, judged.needs["target"], networks, judged).set_index("source")
    verdict = run.result(judged)
    assert table.loc["source", "relative"] == verdict.sources["relative"].item()
    assert table.loc["untrained start", "relative"] < table.loc["source", "relative"]


def test_a_process_that_knows_nothing_but_the_job_keeps_its_verdict_as_one(judged):
    code = "import pickle, sys; print(pickle.load(sys.stdin.buffer).form.unpack.__module__)"
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(judged), capture_output=True, check=True)
    assert done.stdout.decode().strip() == "prr.study.transplants"


@pytest.mark.filterwarnings("ignore:2 parameters are not comparable")
def test_the_chapter_shows_what_its_jobs_are(run, monkeypatch):
    """Once they are made nothing more is, and none of them is made for nothing."""
    monkeypatch.setenv("PRR_STORE", str(run.results.store.folder))
    matplotlib.use("agg")
    run.compute(chapters.jobs(run, "10"))
    monkeypatch.setattr(chapters, "jobs", lambda run, *numbers: [])  # so that `shown` is what the cells ask for
    left: dict = {"display": lambda *shown: None}
    for cell in json.loads(CHAPTER.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), left)
        if "parameters" in cell["metadata"].get("tags", []):
            left |= {"profile": "smoke", **SMALL}
    asked = [job for job in left["run"].shown if isinstance(job, Job) and job.form]
    assert {job.question for job in asked} == {job.question for job in examples.jobs(run)}
    made = [job.question for job in closure(examples.jobs(run)) if isinstance(job, Job) and job.form]
    assert len(left["made"]) == len(made)
    assert isinstance(left["verdict"], Verdict)
    shown = ["nothing loaded", *["as it is"] * 3, FROZEN, *list(examples.PLANS)[1:], FROZEN, FROZEN]
    assert left["outcome"]["network"].tolist() == shown
