"""What is asked of a network: which of its outputs is scored, how, against which targets. Or why that is not clear."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from prr.copies import copied, effective
from prr.errors import DataError, JobError, NetworkError, OptionError
from prr.graph.outputs import Path, path_of, select, words
from prr.graph.passes import captured, keeps_state, last_operations, own_random_numbers, patched, reached
from prr.graph.state import restored
from prr.graph.suffix import alike
from prr.layers import device_of, entries, forward, live_table, tensor
from prr.metrics import SCORES, Counted, Score, check_count, classes_of, read_as
from prr.samples import Data, Samples, samples

PROBABILITY = {"sigmoid", "hardsigmoid", "softmax"}  # operations that give probabilities
LOGARITHMS = {"logsigmoid", "log_sigmoid", "log_softmax", "log"}  # and their logarithms


class Question(NamedTuple):
    """What is asked of a network, found once and used for every transplant.

    Args:
        data: what is scored, targets as the score counts them: labels where they are labels in disguise.
        score: what scores it.
        path: to the tensor of the output that is scored.
        threshold: above which a single class counts as present; None: there are several, or the score has no classes.
        classes: that the output tells apart.
        keeps_state: whether a pass writes what the next one reads; each then begins with the network as it is.
        table: `parameter_table` over all images, live: run by some image; reached: the scored output depends on it.
    """

    data: Data
    score: Score
    path: Path
    threshold: float | None
    classes: int
    keeps_state: bool
    table: pd.DataFrame

    @property
    def named(self) -> str:
        """What is scored, and how, in words."""
        score = self.score
        name = score.name if isinstance(score, Counted) else getattr(score, "__name__", type(score).__name__)
        output = f" of output {words(self.path)}" if self.path else ""
        above = "" if self.threshold is None else f", a class present above {self.threshold:g}"
        return f"{name.replace('_', ' ')}{output}{above}"

    def constants(self) -> np.ndarray | None:
        """(answers, patients), what the score gives for answers that look at no image; None: not known."""
        known = isinstance(self.score, Counted) and self.score.constants
        return self.score.constants(self.data, self.classes) if known else None


def ask(
    target: nn.Module,
    data: Data | Question,
    score: str | Score | None = None,
    *,
    output: str | int | Path | None = None,
    ignore_index: int | None = None,
    threshold: float | None = None,
    batch_size: int = 32,
) -> Question:
    """Find what is asked, and refuse what can't be answered.

    Copies of the target run on a batch, some times: to see its outputs, whether it repeats itself, and what of it they
    depend on; on all images where some of its tensors don't show in that batch. The target itself runs once on half a
    batch, so that a copy that answers otherwise is noticed: it is given back as it was, though its hooks have fired.

    Args:
        target: network that is judged; not changed.
        data: see `prr.samples.samples`, or a question, which comes back as it is.
        score: dice, accuracy, r2 or (output, data) -> one value per patient (or other unit). None: what suits the
            targets: foreground Dice for label maps, accuracy for one label an image, R2 for numbers. Labels may be
            whole numbers of any dtype, booleans, one channel, or one-hot.
        output: which of several outputs is scored, a key or place, or a tuple of them.
        ignore_index: label that is not counted, 255 or -1 perhaps.
        threshold: above which a single class counts as present: 0 for logits, 0.5 for probabilities. None: told from
            the outputs.
        batch_size: images per forward pass.

    Raises:
        OptionError: an unknown score or output, an empty batch, options that the score has no use for.
        DataError: targets that no score suits, or several; the line that settles it is named.
        NetworkError: an output that is not clear, a network that does not repeat itself, or whose scored output
            depends on none of its tensors.

    Example:
        >>> import torch
        >>> from prr.question import ask
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.Sigmoid())
        >>> question = ask(model, (torch.randn(4, 2), torch.tensor([0.0, 1.0, 1.0, 0.0])))
        >>> question.named, question.data.masks
        ('accuracy, a class present above 0.5', tensor([0, 1, 1, 0]))
    """
    if isinstance(data, Question):
        return data
    if batch_size < 1:
        raise OptionError(f"batch_size={batch_size}: expected 1 or more")
    if not callable(score) and score not in (None, *SCORES):
        raise OptionError(f"score={score!r}: expected {', '.join(SCORES)} or a callable (output, data) -> values")
    with fitting(batch_size), own_random_numbers(target):
        return _found(effective(target), samples(data), score, output, ignore_index, threshold, batch_size)


def _found(
    target: nn.Module, data: Data, score: str | Score | None, output: str | int | Path | None, ignore_index: int | None,
    threshold: float | None, batch_size: int,
) -> Question:  # fmt: skip
    if functions := patched(target):
        raise NetworkError(
            f"{type(target).__name__}: {', '.join(functions)} has a function that refers to a module of its own, so a "
            "copy would go on calling the original; make it a method of the class"
        )
    model = copied(target).eval()
    list(entries(model))  # refuses tensors that are no plain numbers
    first = next(_batches(model, data, batch_size))
    raw = forward(copied(model), first)
    path = path_of(raw, output, lambda found: fits(found, data.masks))
    found = select(raw, path)
    check_count(found, first)
    score, data = recognised(found, data, score, ignore_index)
    threshold = _threshold(found, score, threshold, lambda: last_operations(model, first))
    if isinstance(score, Counted) and score.name != "r2" and (threshold or ignore_index is not None):
        score = read_as(score, threshold or 0.0, ignore_index)
    stateful = keeps_state(model, first, path)
    _check_copy(target, model, first, path)
    table = _reached_table(model, data, path, stateful, batch_size)
    hooked = captured(target)
    if not table["reached"].any() or (hooked and not table.loc[table["live"], "reached"].all()):
        raise NetworkError(
            f"{type(target).__name__}: expected an output that depends on the layers that run, found none: "
            f"{', '.join(hooked) or 'it'} keeps what an earlier pass or another network gave, a hook that refers to a "
            "network perhaps; set hooks anew in each copy, as methods of the module that reads them"
        )
    return Question(data, score, path, threshold, classes_of(found), stateful, table)


def _check_copy(target: nn.Module, model: nn.Module, images: Tensor, path: Path) -> None:
    """Refuse a network whose copies answer otherwise, for they read what only the original's hooks write."""
    part = images[: (len(images) + 1) // 2]
    found = select(forward(copied(model), part), path)
    with restored(target):
        own = select(forward(target.eval(), part), path).clone()
    if own.shape != found.shape or not alike(found, own):
        raise NetworkError(
            f"{type(target).__name__}: a copy gives another output than the network itself, for a hook or a function "
            "of it keeps results outside, in a dict perhaps; keep them on the module that reads them"
        )


def _reached_table(model: nn.Module, data: Data, path: Path, stateful: bool, batch_size: int) -> pd.DataFrame:
    table = live_table(model, _batches(model, data, batch_size))
    pairs = table.loc[table["live"], ["kind", "name"]].itertuples(index=False, name=None)
    own = [tensor(model, *pair) for pair in pairs]
    found = iter(reached(model, own, _batches(model, data, batch_size), path, stateful) if own else [])
    return table.assign(reached=[live and next(found) for live in table["live"]])


def _batches(model: nn.Module, data: Data, batch_size: int) -> Iterator[Tensor]:
    """The images as a sweep shows them to a network that it runs whole."""
    return (each.to(device_of(model)) for each in data.images.tensor_split(math.ceil(len(data.images) / batch_size)))


def _threshold(output: Tensor, score: Score, threshold: float | None, ends: Callable[[], list[str]]) -> float | None:
    """Above which a single class counts as present; `ends` tells the operations that the network ends with."""
    single = isinstance(score, Counted) and score.name != "r2" and (output.ndim == 1 or output.shape[1] == 1)
    if threshold is not None and not single:
        raise OptionError(f"threshold={threshold}: expected an output of one class, found {tuple(output.shape)}")
    if threshold is not None or not single:
        return threshold
    least, most = (each.item() for each in output.float().aminmax())
    *before, last = ["", "", *ends()]
    if last in PROBABILITY:
        return 0.5
    if (least < 0 or most > 1) and last not in LOGARITHMS and not PROBABILITY.intersection(before):
        return 0.0
    raise DataError(
        f"output: expected logits, or probabilities from a sigmoid at the end, found numbers from {least:.3g} to "
        f"{most:.3g}, which may be either; say threshold=0 for logits, threshold=0.5 for probabilities"
    )


@contextlib.contextmanager
def fitting(batch_size: int) -> Iterator[None]:
    """Say what to do where a batch does not fit into the memory of a CUDA device.

    Raises:
        JobError: instead of torch's OutOfMemoryError.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        smaller = f"set batch_size={batch_size // 2}" if batch_size > 1 else "take smaller images"
        raise JobError(
            f"out of memory with batch_size={batch_size}: expected room for a batch; {smaller}, or free the device"
        ) from error


# ------------------------------------------------------------------- targets


def fits(output: Tensor, targets: Tensor) -> bool:
    """Whether an output has the shape that targets ask for."""
    if output.ndim == 0 or len(output) > len(targets):
        return False
    inner, places = tuple(targets.shape[1:]), tuple(output.shape[2:])
    return inner in (tuple(output.shape[1:]), places, (1, *places), (*places, 1))


def recognised(output: Tensor, data: Data, score: str | Score | None, ignore: int | None) -> tuple[Score, Data]:
    """A score, and the data with targets as it counts them.

    Raises:
        DataError, OptionError: see `ask`.
    """
    name = score.name if isinstance(score, Counted) else score
    if callable(name) or name == "r2":
        if ignore is not None:
            raise OptionError(f"ignore_index={ignore}: expected score dice or accuracy, which count labels")
        return SCORES.get(name, score), data
    labels, doubt = labels_of(data, output, ignore)
    if score is None and doubt:
        raise DataError(f"targets: expected labels or numbers, found {doubt}")
    if score is None and labels is None and data.masks.is_floating_point():
        return SCORES["r2"], data
    if score is None:
        score = "accuracy" if (data.masks if labels is None else labels).ndim == 1 else "dice"
    score = SCORES[score] if isinstance(score, str) else score
    if labels is None or labels is data.masks:
        return score, data
    return score, Samples(data.images, labels, data.patient)


def labels_of(data: Data, output: Tensor, ignore: int | None) -> tuple[Tensor | None, str]:
    """Targets as labels, whole numbers for each place of the output, and what speaks against it.

    Returns:
        Labels (n, ...), None where the targets are numbers; and what they may be instead, "" where there is no doubt.
    """
    targets, single = data.masks, output.ndim == 1 or output.shape[1] == 1
    inner, places = tuple(targets.shape[1:]), tuple(output.shape[2:])
    if inner in (places, (1, *places), (*places, 1)):
        targets = targets if inner == places else targets[:, 0] if inner[0] == 1 else targets[..., 0]
        if output.ndim == 3 and output.shape[1] == output.shape[2] and inner == places:
            labels, _ = _classes(targets)
            return labels, f"as many classes as places, so the axes may be exchanged; {_settled_by(targets)}"
        return _single_class(targets, data, ignore) if single else _classes(targets)
    if inner == tuple(output.shape[1:]):
        return _by_channel(targets)
    return None, ""


def _settled_by(targets: Tensor) -> str:
    return f'say score="{"accuracy" if targets.ndim == 1 else "dice"}" where they are labels, score="r2" for numbers'


def _is_whole(values: Tensor) -> bool:
    return not values.is_floating_point() or bool((values == values.round()).all())


def _classes(targets: Tensor) -> tuple[Tensor | None, str]:
    """Labels of several classes, which may be stored as floating-point numbers."""
    if not _is_whole(targets):
        return None, ""
    return (targets.long() if targets.is_floating_point() or targets.dtype == torch.bool else targets), ""


def _single_class(targets: Tensor, data: Data, ignore: int | None) -> tuple[Tensor | None, str]:
    """Whether the one class is there."""
    values = targets.unique()
    values = values if ignore is None else values[values != ignore]
    if _is_whole(values):
        labels = targets.long() if targets.is_floating_point() or targets.dtype == torch.bool else targets
        if set(values.tolist()) <= {0, 1}:
            return labels, ""
        if values.tolist() == [0, 255]:
            return labels, "0 and 255 for an output of one class: divide them by 255"
        if values.tolist() == [-1, 1]:
            return labels, "-1 and 1 for an output of one class: pass (targets + 1) // 2"
        return labels, f"{values[0]:g} to {values[-1]:g} for an output of one class; {_settled_by(targets)}"
    if values[0] < 0 or values[-1] > 1 or _repeats_images(data):
        return None, ""
    labels = (targets >= 0.5).long()
    return labels, f"fractions {values[0]:.3g} to {values[-1]:.3g}, soft labels perhaps; {_settled_by(targets)}"


def _by_channel(targets: Tensor) -> tuple[Tensor | None, str]:
    """Labels where each class has a channel of its own: one-hot, or soft."""
    zero_or_one = bool(((targets == 0) | (targets == 1)).all())
    total = targets.sum(1)
    if zero_or_one and (total == 1).all():
        return targets.long().argmax(1), ""
    if zero_or_one or not targets.is_floating_point():
        return None, (
            "several labels for one place; an output of one class keeps its axis, (n, 1, ...); else pass a score of "
            'your own, or say score="r2" where they are numbers'
        )
    if (targets >= 0).all() and torch.allclose(total, torch.ones_like(total), atol=1e-3):
        return targets.argmax(1), f"shares of classes, soft labels perhaps; {_settled_by(total)}"
    return None, ""


def _repeats_images(data: Data) -> bool:
    """Whether the targets are the images: an auto-encoder's."""
    return data.images.shape == data.masks.shape and torch.equal(data.images, data.masks.to(data.images))
