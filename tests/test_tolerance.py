"""One tolerance: said once, it moves figures, verdicts, lists, ledger and prose together."""

import ast
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from prr import figures, verdict
from prr.study import Experiment, ledger, transfer, transplants
from prr.study import figures as study_figures
from prr.study.architecture import summary
from prr.study.profiles import PROFILES
from prr.study.redundancy import in_words, judged

PACKAGE = Path(__file__).parents[1] / "prr"
LOOSE = 0.9  # nothing is lost beyond it

pytestmark = pytest.mark.usefixtures("phantoms_only")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, phantoms_only):
    """The same networks under two tolerances."""
    store = tmp_path_factory.mktemp("store")
    scale = {"store": store, "device": "cpu", "threads": 1, "steps": 6, "unet_width": 4, "transfer_network": "unet"}
    scale |= {"unet_floor": 1e-9, "pspnet_floor": 1e-9}  # these know nothing, and are judged all the same
    return [
        Experiment("smoke", **scale, transfer_list="inferred", tolerance=tolerance) for tolerance in (0.001, LOOSE)
    ]


def test_its_default_stands_in_one_place():
    assert {each.tolerance for each in PROFILES.values()} == {verdict.TOLERANCE}
    for path in PACKAGE.rglob("*.py"):
        if path.name != "__main__.py":  # where None stands for it
            assert typed(path.read_text(encoding="utf-8")) == [], path


def typed(source: str) -> list[str]:
    """Functions whose parameter `tolerance` has a number for its default."""
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    defaults = [(each.name, each.args.args[::-1], each.args.defaults[::-1]) for each in functions]
    defaults += [(each.name, each.args.kwonlyargs, each.args.kw_defaults) for each in functions]
    return [
        name
        for name, arguments, values in defaults
        for argument, value in zip(arguments, values, strict=False)
        if argument.arg == "tolerance" and isinstance(value, ast.Constant)
    ]


def test_a_number_typed_as_a_default_is_found():
    assert typed("def f(a, tolerance=0.05): ...\ndef g(*, tolerance=0.1): ...\ndef h(tolerance=T): ...") == ["f", "g"]


def test_it_moves_verdicts_joint_transplants_and_the_inferred_list(runs):
    tight, loose = (run.result(transplants.judge(run, "unet")) for run in runs)
    assert [each.tolerance for each in (tight, loose)] == [0.001, LOOSE]
    for each in (tight, loose):
        judged = verdict.layer_verdicts(each.layers, each.tolerance)["verdict"]
        assert each.layers["verdict"].tolist() == (["undecided"] * len(judged) if each.too_weak else judged.tolist())
    assert loose.too_weak  # nobody is so far above chance
    assert f"{LOOSE:g}" in str(loose)
    pairs = [run.result(transplants.joint(run, "unet"))["pairs"].item() for run in runs]
    assert pairs[0] < pairs[1]
    lists = [len(run.result(transfer.loaded(run, "unet", "inferred"))) for run in runs]
    assert lists[0] < lists[1]


def test_it_moves_the_ledger(runs):
    for run in runs:
        run.compute(ledger.evidence(run, [3]))
    found = [ledger.leaves(run, "03_unet").query("id == 'unet-w'") for run in runs]
    assert [set(each["tolerance"]) for each in found] == [{0.001}, {LOOSE}]
    assert (found[1]["verdict"] == "not as the paper says").all()
    assert not (found[0]["verdict"] == "not as the paper says").all()


def test_it_moves_figures_and_prose(runs):
    for run in runs:
        swept, tolerance = run.sweep("unet"), run.profile.tolerance
        figure = figures.reuse(swept, tolerance=tolerance)
        assert any(f"within {tolerance:g}" in text.get_text() for text in figure.legends[0].get_texts())
    table = controls()
    words = [in_words(judged(table, tolerance), tolerance) for tolerance in (0.01, 0.5)]
    assert "0.01 on average" in words[0]
    assert "0.5 on average" in words[1]
    assert words[0] != words[1]
    assert summary(pairs(), 0.01)["within"].item() < summary(pairs(), 0.5)["within"].item()
    assert study_figures.controls.__kwdefaults__.get("tolerance") != 0.05


def controls() -> pd.DataFrame:
    """Two kernels under three donors, two targets, two sources and three patients."""
    rows = [
        {"network": "unet", "control": control, "target": target, "source": source, "layer": layer, "name": f"c{layer}",
         "patient": patient, "drop": drop * layer + 0.01 * patient + 0.002 * target * source, "rmse": 1.0,
         "relative": 1.0}
        for control, drop in (("source", 0.05), ("start", 0.1), ("random", 0.2))
        for target in (0, 1) for source in (0, 1) for layer in (1, 2) for patient in (1, 2, 3)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def pairs() -> pd.DataFrame:
    """One pair of networks of two kernels."""
    row = {"network": "plain", "start": "shared", "source": "", "target_seed": 0, "source_seed": 0, "donor": "source",
           "distance": np.nan, "dice": 0.9, "kind": "W", "relative": 1.0, "patient": 1, "score": 0.5}  # fmt: skip
    layers = ({"layer": layer, "name": f"c{layer}", "drop": drop} for layer, drop in ((1, 0.005), (2, 0.1)))
    return pd.DataFrame([row | each for each in layers])
