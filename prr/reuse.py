"""Put parameters of one network into another, layer by layer or by a plan, and see what it costs."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from prr.bn import recalibrate
from prr.copies import copied, effective
from prr.errors import DataError, NetworkError, OptionError, PrrError
from prr.graph.outputs import Path, path_of, select
from prr.graph.state import restored
from prr.graph.suffix import Change, Suffixes, Whole, outputs_of
from prr.layers import (
    ALL,
    KINDS,
    check_kinds,
    common,
    device_of,
    full_name,
    incomparable,
    parameter_table,
    replace,
    replaced,
    tensor,
    warn_of_rest,
)
from prr.metrics import Counted, Score, check_count, drop_interval, nanmean
from prr.question import Question, ask, fitting
from prr.samples import Data

ROUNDING = 1e-3  # by which half precision may move a score
KEPT = 2**28  # bytes of outputs that a sweep holds at a time, for a score that wants whole outputs
# What a plan does with a parameter: take it from the source and freeze it; take it and train on; keep the model's own
# and re-estimate it on the target's images (RM, RV); keep the model's own and train.
ACTIONS = ("reuse", "fine-tune", "recalibrate", "retrain")


def transplant(target: nn.Module, source: nn.Module, kind: str, layer: int) -> nn.Module:
    """Copy one kind of parameter of one layer from source to target, without training.

    Args:
        target: network that receives; not changed.
        source: network that gives; not changed.
        kind: as in `parameter_table`.
        layer: number within its family, as in `parameter_table`.

    Returns:
        A copy of the target with that one tensor replaced, at all its places if it has several.

    Raises:
        OptionError: an unknown kind.
        NetworkError: no such layer, none or another shape in the source, NaN or infinite values.

    Source: Wang et al. 2020, arXiv:2008.03411, "Parameter reuse for each layer of the network".

    Example:
        >>> import prr, torch
        >>> from torch import nn
        >>> target, source = (nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3)) for _ in range(2))
        >>> model = prr.transplant(target, source, "W", 2)
        >>> torch.equal(model[2].weight, source[2].weight), torch.equal(model[0].weight, target[0].weight)
        (True, True)
    """
    check_kinds([kind])
    target, source = effective(target), effective(source)
    table = parameter_table(target)
    row = table[(table["kind"] == kind) & (table["layer"] == layer)]
    if row.empty:
        layers = table.loc[table["kind"] == kind, "layer"].tolist()
        raise NetworkError(f"{kind} {layer}: no such layer; this network has {kind} {layers}")
    name = row["name"].item()
    check_shared(target, source, [(kind, name)])
    common(target, source)
    return replaced(target, source, kind, name)


def sweep(
    target: nn.Module,
    source: nn.Module,
    data: Data,
    *,
    kinds: Sequence[str] = ALL,
    layers: Collection[int] | None = None,
    score: Score | None = None,
    batch_size: int = 32,
    bfloat16: bool = False,
    progress: bool = False,
    output: str | int | Path | None = None,
    ignore_index: int | None = None,
    threshold: float | None = None,
) -> pd.DataFrame:
    """Score the target with each of its layers' parameters replaced in turn, one layer and one kind at a time.

    It is the mean over patients of what `drops` lists. Where torch.fx can trace the target, only what depends on a
    replaced tensor runs again; see `prr.graph.suffix`. Networks that share some layers only are swept over those, with
    a warning; `incomparable` lists the rest. What runs without effect on the scored output is left out too, with a
    warning. A network that does not give the same output twice is refused, as is one that is not itself when it is
    transplanted onto itself.

    Args:
        target: network that is judged; not changed. Runs on the device of its parameters.
        source: where the parameters come from; not changed, and never run.
        data: exactly the data that is scored: pass the validation part. See `prr.samples.samples`; or what
            `prr.question.ask` gives.
        kinds: kinds to replace.
        layers: only these layer numbers; None: all.
        score: dice, accuracy, r2 or (output, data) -> one value per patient (or other unit). None: the one that suits
            the targets, mean foreground Dice for label maps; see `prr.question.ask`.
        batch_size: images per forward pass. Memory grows with it, and on a CPU with torch's threads, each of which
            takes a batch of its own; it does not grow with the data.
        bfloat16: convolve in half precision, faster where the hardware multiplies so (AMX, CUDA). Refused if that alone
            moves the target's score by more than `ROUNDING`; a transplant's score is not checked and may move further.
        progress: show a bar on stderr.
        output: which of several outputs is scored, its key or place.
        ignore_index: label that is not counted.
        threshold: above which a single class counts as present; None: told from the outputs.

    Returns:
        DataFrame[kind, layer, name, score, drop, low, high], live layers in order of execution within each kind.
        score: mean over patients after the transplant; drop: score of the target minus that; low, high: 95 % paired t
        interval of the drop over patients. Each mean leaves out the patients whose score is NaN.

    Raises:
        OptionError: an unknown kind, one layer instead of a list, an empty batch.
        NetworkError: networks that share nothing, an unknown layer, NaN or infinite values, weights in half precision
            on a CPU, a score that bfloat16 moves, an output that is not clear, or that is another one the next time.
        DataError: empty or not finite data, targets that several scores could suit, or a score that gives no value.
        JobError: a batch does not fit into the memory of a CUDA device.

    Source: Wang et al. 2020, arXiv:2008.03411, Figs 3, 4, 7, 8.

    Example:
        A sweep is this loop, made fast.

        >>> import numpy as np, prr, torch
        >>> from torch import nn
        >>> _ = torch.manual_seed(0)
        >>> target, source = (nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 1)) for _ in range(2))
        >>> images, labels = torch.randn(6, 1, 8, 8), torch.randint(3, (6, 6, 6))
        >>> score = lambda model: (model(images).argmax(1) == labels).double().mean().item()
        >>> table, rows = prr.parameter_table(target).query("kind == 'W'"), []
        >>> for kind, layer in zip(table["kind"], table["layer"]):
        ...     rows.append(score(prr.transplant(target, source, kind, layer)))
        >>> swept = prr.sweep(target, source, (images, labels), kinds=["W"], score="accuracy")
        >>> np.allclose(swept["score"], rows)
        True
    """
    asked = {"score": score, "output": output, "ignore_index": ignore_index, "threshold": threshold}
    found = patient_scores(target, source, data, kinds, layers, batch_size, bfloat16, progress, **asked)
    warn_of_rest(target, source)
    return averaged(found)


def averaged(found: pd.DataFrame) -> pd.DataFrame:
    """The table of `sweep` from that of `patient_scores`: means over patients, with intervals over patients.

    Example:
        >>> import pandas as pd
        >>> from prr.reuse import averaged
        >>> rows = {"kind": "W", "layer": 1, "name": "0", "patient": [4, 9], "before": [0.9, 0.7], "score": [0.6, 0.4]}
        >>> averaged(pd.DataFrame(rows)).round(2).values.tolist()
        [['W', 1, '0', 0.5, 0.3, 0.3, 0.3]]
    """
    rows = found[["kind", "layer", "name"]].drop_duplicates(ignore_index=True)
    shape = len(rows), found["patient"].nunique()
    before, after = (found[column].to_numpy().reshape(shape) for column in ("before", "score"))
    low, high = drop_interval(before, after)
    return rows.assign(score=nanmean(after), drop=nanmean(before) - nanmean(after), low=low, high=high)


def drops(target: nn.Module, source: nn.Module, data: Data, **options: Any) -> pd.DataFrame:
    """What `sweep` averages: the drop of every patient (or other unit), for intervals over seeds and patients.

    Arguments, `options` among them, and errors are those of `sweep`.

    Returns:
        DataFrame[kind, layer, name, patient, score, drop], in the order of `sweep`; patient as in the data, NaN where
        the score says nothing of a patient.

    Example:
        >>> import copy, torch
        >>> from prr.reuse import drops
        >>> from torch import nn
        >>> target = nn.Sequential(nn.Linear(1, 1, bias=False))
        >>> source = copy.deepcopy(target)
        >>> target[0].weight.data.fill_(1), source[0].weight.data.fill_(-1)
        (tensor([[1.]]), tensor([[-1.]]))
        >>> points = torch.tensor([[-1.0], [1.0], [2.0]])
        >>> data = points, torch.tensor([0, 1, 1]), torch.tensor([4, 4, 9])  # images, labels, patients
        >>> drops(target, source, data, score="accuracy")
          kind  layer name  patient  score  drop
        0   LW      1    0        4    0.0   1.0
        1   LW      1    0        9    0.0   1.0
    """
    found = patient_scores(target, source, data, **options)
    warn_of_rest(target, source)
    return found.drop(columns="before")


def patient_scores(
    target: nn.Module,
    source: nn.Module,
    data: Data | Question,
    kinds: Sequence[str] = ALL,
    layers: Collection[int] | None = None,
    batch_size: int = 32,
    bfloat16: bool = False,
    progress: bool = False,
    **asked: Any,
) -> pd.DataFrame:
    """What `sweep` and `drops` show, with their arguments; `asked` are those of `prr.question.ask`.

    Returns:
        DataFrame[kind, layer, name, patient, before, score, drop]: score of the patient before and after the
        transplant, and before - score.
    """
    check_kinds(kinds)
    if isinstance(layers, int):
        raise OptionError(f"layers={layers}: expected a list of layers")
    target, source = effective(target), effective(source)
    question = ask(target, data, batch_size=batch_size, **asked)
    table = common(target, source, question.table)
    _warn_of_unreached(table)
    known = table.loc[table["kind"].isin(kinds), "layer"]
    if unknown := sorted(set(layers or ()) - set(known)):
        raise NetworkError(f"layers {unknown}: no such layer of kind {', '.join(kinds)} in {type(target).__name__}")
    wanted = table["reached"] & table["kind"].isin(kinds) & (True if layers is None else table["layer"].isin(layers))
    order = list(kinds).index
    rows = table[wanted].sort_values("kind", key=lambda kind: kind.map(order), kind="stable", ignore_index=True)
    model = copied(target).eval()
    if question.data.images.ndim == 4:
        model = model.to(memory_format=torch.channels_last)  # faster on a CPU
    pairs = list(rows[["kind", "name"]].itertuples(index=False, name=None))
    changes = [(own := tensor(model, *pair), own.detach().clone().copy_(tensor(source, *pair))) for pair in pairs]
    if bfloat16:
        check_rounding(model, question, batch_size)
    itself = [(own, own.detach().clone()) for own, _ in changes[:1]]
    before, *after = scores(model, [*itself, *changes], question, batch_size, bfloat16, progress)
    if itself:
        check_itself(model, before, after.pop(0))
    table = rows.loc[rows.index.repeat(len(before)), ["kind", "layer", "name"]].reset_index(drop=True)
    patients = question.data.patient.unique().tolist()
    table = table.assign(patient=patients * len(rows), before=np.tile(before, len(rows)))
    table["score"] = np.ravel(after)
    return table.assign(drop=table["before"] - table["score"])


def _warn_of_unreached(table: pd.DataFrame) -> None:
    """Warn the caller's caller's caller of layers that run for nothing."""
    names = table.loc[table["live"] & ~table["reached"], ["kind", "name"]].agg(" ".join, axis=1)
    if len(names):
        warnings.warn(
            f"{len(names)} parameters run without effect on the scored output and are left out, {names.iloc[0]} among "
            "them: they belong to another output, or to what the network keeps from an earlier pass",
            stacklevel=4,
        )


def check_itself(model: nn.Module, before: np.ndarray, after: np.ndarray) -> None:
    """Refuse a network that scores otherwise once a tensor of its own is put in its place.

    Raises:
        NetworkError: says by how much.
    """
    rounding = 1e-5 if device_of(model).type == "cpu" else ROUNDING  # a GPU may choose another algorithm
    if not np.allclose(before, after, rtol=rounding, atol=rounding, equal_nan=True):
        raise NetworkError(
            f"{type(model).__name__}: expected no drop from a transplant onto itself, found "
            f"{nanmean(before) - nanmean(after):.3g}: it remembers more than its buffers and attributes from one batch "
            "to the next; make it forget in eval mode"
        )


def check_rounding(model: nn.Module, question: Question, batch_size: int) -> None:
    """Refuse half precision where it moves the score of a network in eval mode.

    Raises:
        NetworkError: says by how much.
    """
    exact, rounded = (nanmean(scores(model, [], question, batch_size, half)[0]) for half in (False, True))
    if not abs(rounded - exact) <= ROUNDING:
        raise NetworkError(
            f"bfloat16: expected the target's score within {ROUNDING:g} of {exact:.4f}, found {rounded:.4f}; sweep "
            "without bfloat16"
        )


def joint_transplant(
    target: nn.Module,
    source: nn.Module,
    data: Data,
    pairs: pd.DataFrame,
    *,
    recalibrated: bool = False,
    before: np.ndarray | None = None,
    batch_size: int = 32,
    **asked: Any,
) -> dict[str, float]:
    """Score the target with many parameters taken from the source at once: those that pass alone may fail together.

    Args:
        target: network that is judged; not changed.
        source: where the parameters come from.
        data: exactly the data that is scored.
        pairs: DataFrame[kind, name], what is taken.
        recalibrated: re-estimate all running statistics on `data.images` before scoring. No label is used, but the
            images are those that are scored.
        before: (patients,) `values` of the target as it is, where they are known; None: they are found.
        batch_size: images per forward pass.
        asked: score and the other arguments of `prr.question.ask`.

    Returns:
        {score, drop, low, high}, as a row of `sweep`.

    Raises:
        OptionError, NetworkError, DataError, JobError: as `sweep` and `apply_plan`; `before` of other patients.

    Example:
        >>> import prr, torch
        >>> from prr.reuse import joint_transplant
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1))
        >>> data = torch.randn(6, 1, 8, 8), torch.randint(2, (6, 6, 6))
        >>> joint_transplant(model, model, data, prr.parameter_table(model))["drop"]
        0.0
    """
    question = ask(target, data, batch_size=batch_size, **asked)
    model = apply_plan(target, source, pairs.assign(action="fine-tune")).eval()
    if recalibrated:
        with fitting(batch_size):
            model = recalibrate(model, question.data.images, batch_size)
    if before is None:
        before = values(target, question, batch_size=batch_size)
    after = values(model, question, batch_size=batch_size)
    if np.shape(before) != after.shape:
        raise OptionError(f"before: expected {len(after)} values, one per patient, found shape {np.shape(before)}")
    low, high = drop_interval(before, after[None])
    drop = nanmean(before) - nanmean(after)
    return {"score": float(nanmean(after)), "drop": float(drop), "low": float(low[0]), "high": float(high[0])}


def apply_plan(model: nn.Module, source: nn.Module, plan: pd.DataFrame) -> nn.Module:
    """Load and freeze parameters as planned, tensor by tensor, ready for training in a loop of the reader's own.

    A frozen W, B, RW or RB takes no gradient: give an optimiser the others. A frozen RM or RV is never written,
    whatever the mode. In training a batch norm normalises by its batch's statistics unless *both* of its buffers are
    frozen: then it normalises by them, as in eval mode.

    Args:
        model: network that receives; not changed.
        source: network that gives; has what the plan takes from it.
        plan: DataFrame[kind, name, action] with actions reuse (taken from the source, frozen), fine-tune (taken,
            trained on), recalibrate (RM, RV: the model's own, re-estimated by training or by `prr.bn.recalibrate`)
            and retrain (the model's own). What the plan does not name is retrained.

    Returns:
        A copy of the model with parameters loaded and frozen.

    Raises:
        OptionError: a missing column, an unknown kind or action, a parameter named twice, or recalibrate for another
            kind than RM and RV.
        NetworkError: a parameter that the networks do not have, or not in one shape; NaN or infinite values.

    Example:
        >>> import prr, torch
        >>> from torch import nn
        >>> target, source = (nn.Sequential(nn.Linear(3, 2)) for _ in range(2))
        >>> plan = prr.parameter_table(target).assign(action=["reuse", "retrain"])
        >>> model = prr.apply_plan(target, source, plan)
        >>> torch.equal(model[0].weight, source[0].weight), torch.equal(model[0].bias, target[0].bias)
        (True, True)
        >>> model[0].weight.requires_grad, model[0].bias.requires_grad
        (False, True)
    """
    check_plan(plan)
    model, source = effective(model), effective(source)
    for kind, name in plan[["kind", "name"]].itertuples(index=False):
        tensor(model, kind, name)  # refuses what is not there, whatever the action
    taken = plan.loc[plan["action"].isin(["reuse", "fine-tune"]), ["kind", "name"]].itertuples(index=False, name=None)
    check_shared(model, source, taken := list(taken))
    common(model, source)
    model = copied(model)
    for kind, name in taken:
        replace(model, source, kind, name)
    frozen = plan[plan["action"] == "reuse"]
    for kind, name in frozen[["kind", "name"]].itertuples(index=False):
        if isinstance(value := tensor(model, kind, name), nn.Parameter):
            value.requires_grad_(False)
    buffers = frozen[frozen["kind"].isin(["RM", "RV"])]
    for name, kinds in buffers.groupby("name")["kind"]:
        hold(model.get_submodule(name), [KINDS[kind].attribute for kind in kinds])
    return model


def check_plan(plan: pd.DataFrame) -> None:
    """Refuse a plan that says nothing clear.

    Raises:
        OptionError: see `apply_plan`.
    """
    if not isinstance(plan, pd.DataFrame):
        raise OptionError(f"plan: expected a DataFrame[kind, name, action], found {type(plan).__name__}")
    if missing := [column for column in ("kind", "name", "action") if column not in plan.columns]:
        raise OptionError(f"plan: expected columns kind, name and action, found no {', '.join(missing)}")
    check_kinds(plan["kind"].unique())
    if unknown := sorted({str(action) for action in plan["action"]} - set(ACTIONS)):
        raise OptionError(f"plan: action {', '.join(map(repr, unknown))}: expected some of {', '.join(ACTIONS)}")
    for row in plan[plan.duplicated(["kind", "name"])].itertuples():
        raise OptionError(f"plan: {row.kind} of {row.name} is named twice; keep one of the lines")
    for row in plan[(plan["action"] == "recalibrate") & ~plan["kind"].isin(["RM", "RV"])].itertuples():
        raise OptionError(f"plan: {row.kind} of {row.name}: only RM and RV can be recalibrated; retrain it")


def hold(norm: nn.Module, attributes: Collection[str]) -> None:
    """Freeze one or both running statistics of a batch norm, in place; copies of the module keep them frozen too."""
    already = vars(norm).get("held", ())
    norm.held = sorted({*already, *attributes})
    if not already:
        norm.register_forward_pre_hook(_set_aside)
        norm.register_forward_hook(_put_back)


def _set_aside(norm: nn.Module, inputs: tuple) -> None:
    """Let a training pass write to a copy, so that the frozen buffer itself is never touched."""
    if len(norm.held) == 2:
        norm.eval()  # each time, for model.train() reaches this module too
    if norm.training:
        norm.aside = norm._buffers[norm.held[0]]
        norm._buffers[norm.held[0]] = norm.aside.clone()


def _put_back(norm: nn.Module, inputs: tuple, output: Tensor) -> None:
    if norm.training:
        norm._buffers[norm.held[0]] = norm.__dict__.pop("aside")


def check_shared(target: nn.Module, source: nn.Module, wanted: Collection[tuple[str, str]]) -> None:
    """Refuse to take a tensor, by (kind, name), that the source lacks or has in another shape.

    Raises:
        NetworkError: names it, with both shapes.
    """
    for row in incomparable(target, source).itertuples():
        if (row.kind, row.name) in wanted:
            raise NetworkError(
                f"{full_name(row.kind, row.name)}: target {row.target or 'has none'}, source "
                f"{row.source or 'has none'}; expected one shape in both"
            )


def predict(model: nn.Module, images: Tensor, batch_size: int = 32) -> Tensor:
    """Output (n, ...) of a network in eval mode on images (n, ...), batch by batch on the network's device.

    Of several outputs it is the one that `prr.graph.outputs.path_of` finds.

    Example:
        >>> import torch
        >>> from prr.reuse import predict
        >>> predict(torch.nn.Conv2d(1, 4, 3), torch.zeros(5, 1, 8, 8), batch_size=2).shape
        torch.Size([5, 4, 6, 6])
    """
    device = device_of(model)
    with torch.inference_mode(), fitting(batch_size):
        # a copy, for a network may write into its input
        outputs = (model(batch.to(device, copy=True)) for batch in images.split(batch_size))
        return torch.cat([select(output, path_of(output)) for output in outputs])


def scores(
    model: nn.Module, changes: Sequence[Change], question: Question, batch_size: int, bfloat16: bool = False,
    progress: bool = False,
) -> np.ndarray:  # fmt: skip
    """Score of a network by patient, first as it is, then under each change.

    Outputs are counted batch by batch; those of a score that wants all of them at once are kept, for n changes at a
    time, n being what `KEPT` bytes hold.

    Args:
        model: network in eval mode.
        changes: see `prr.graph.suffix.outputs_of`.
        question: of this network, or of one that has its outputs.

    Returns:
        (1 + changes, patients).

    Raises:
        DataError: data that the score can make nothing of, or a score that says nothing.

    Example:
        >>> import torch
        >>> from prr.question import ask
        >>> from prr.reuse import scores
        >>> model = torch.nn.Linear(1, 1, bias=False).eval()
        >>> one, other = (torch.full((1, 1), sign) for sign in (1.0, -1.0))
        >>> _ = model.weight.data.copy_(one)
        >>> question = ask(model, (torch.tensor([[-1.0], [1.0]]), torch.tensor([0, 1])))
        >>> scores(model, [(model.weight, other)], question, batch_size=2).tolist()
        [[1.0, 1.0], [0.0, 0.0]]
    """
    data, score = question.data, question.score
    if not isinstance(score, Counted):
        score = Counted("", check=lambda *_: None, count=lambda output, _: output, combine=_own(score))
    example = data.images[:2].to(device_of(model))  # two, for what looks at one alone may be another shape
    with torch.inference_mode(), restored(model):
        output = select(model(example.clone()), question.path)
        score.check(output, data)
        numbers = score.count(output, data.masks[:2].to(output.device))[:1]
    size = max(1, KEPT // (len(data.images) * numbers.numel() * numbers.element_size()))
    found = []
    for first in range(0, max(len(changes), 1), size):
        outputs = outputs_of(model, changes[first : first + size], example, question.path, question.keeps_state)
        with fitting(batch_size):
            counts = counted(outputs, data, score, batch_size, example.device, bfloat16, progress)
        found += [_values(score.combine(each, data), data) for each in counts[min(first, 1) :]]
    return np.stack(found)


def counted(
    outputs: Suffixes | Whole, data: Data, score: Counted, batch_size: int, device: torch.device, bfloat16: bool,
    progress: bool,
) -> Tensor:  # fmt: skip
    """Numbers (1 + changes, n, ...) that a score counts in each image's outputs.

    On a CPU n batches run at once, n being torch's number of threads, one thread each: they don't wait for one another
    as the threads of one operation do.
    """
    count, threads = len(data.images), torch.get_num_threads()
    batches = math.ceil(count / batch_size)
    workers = min(threads, batches) if outputs.threads and device.type == "cpu" else 1
    batches = min(math.ceil(batches / workers) * workers, count)  # as much for each worker

    def numbers(batch: Tensor) -> Tensor:
        images, targets = data.images[batch].to(device), data.masks[batch].to(device)
        # said here, for a thread knows nothing of the precision that its caller has set
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            found = []
            for output in outputs(images):
                check_count(output, targets)
                found.append(score.count(output.float() if bfloat16 else output, targets))
            return torch.stack(found)

    with contextlib.ExitStack() as stack:
        run = map
        if workers > 1:
            stack.callback(torch.set_num_threads, threads)
            each = (threads // workers,)
            run = stack.enter_context(ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=each)).map
        parts = run(numbers, torch.arange(count).tensor_split(batches))
        return torch.cat(list(tqdm(parts, "batches", batches, disable=not progress, mininterval=1)), dim=1)


def values(model: nn.Module, data: Data | Question, score: Score | None = None, batch_size: int = 32) -> np.ndarray:
    """Score (patients,) of a network as it is in eval mode; see `scores` and `prr.question.ask`."""
    question = ask(model, data, score, batch_size=batch_size)
    return scores(copied(effective(model)).eval(), [], question, batch_size)[0]


def _own(score: Score) -> Callable[[Tensor, Data], np.ndarray]:
    """A reader's own score; whatever it raises is said in a line."""

    def combined(output: Tensor, data: Data) -> np.ndarray:
        try:
            found = score(output, data)
            return np.asarray(found.double().cpu() if isinstance(found, Tensor) else found, dtype=float)
        except PrrError:
            raise
        except Exception as error:
            name = getattr(score, "__name__", type(score).__name__)
            raise DataError(
                f"score: {name} failed with {type(error).__name__}: {error}; it is given the output (n, ...) and data "
                "with images, masks (the targets) and patient, and returns one number for each patient"
            ) from error

    return combined


def _values(result: Any, data: Data) -> np.ndarray:
    """Refuses a score that says nothing."""
    result = np.asarray(result, dtype=float)
    if result.shape != (units := (len(data.patient.unique()),)) or np.isnan(result).all():
        raise DataError(
            f"score: expected one number per patient (or other unit), {units[0]} in all, found {result}; is "
            "there any labelled pixel?"
        )
    return result
