"""What is asked of a network: the score, the targets, the output, the layers that it depends on. Or a refusal."""

import copy
import functools
from collections import namedtuple

import numpy as np
import pytest
import torch
import torchmetrics.functional.classification as independent
from torch import nn
from torch.nn import functional

import prr
from prr.errors import DataError, NetworkError, OptionError
from prr.graph.outputs import path_of
from prr.question import ask
from prr.reuse import values

POINTS = torch.linspace(-2, 2, 24)[:, None]
PRESENT = (POINTS[:, 0] > 0.7).long()  # of 24
IMAGES = torch.randn(6, 2, 5, 5, generator=torch.Generator().manual_seed(0))
MAPS = (IMAGES[:, 0] > 0.4).long()
CLASSES = IMAGES.argmax(1)


def passes(x):
    return x


class Plain(nn.Module):
    """A scale of one tensor, and a function of what it gives."""

    def __init__(self, then=passes):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.then = then

    def forward(self, x):
        return self.then(x * self.scale)


def logit(x):
    return x - 0.7


def probability(x):
    return torch.sigmoid(4 * (x - 0.7))


def one_map(x):
    return (x[:, :1] - 0.4) * 3


# ------------------------------------------------------------------- the score


@pytest.mark.parametrize("then", [logit, probability, lambda x: logit(x)[:, 0], lambda x: probability(x).squeeze(1)])
@pytest.mark.parametrize(
    "disguise",
    [
        lambda labels: labels,
        torch.Tensor.float,
        torch.Tensor.double,
        torch.Tensor.bool,
        lambda labels: labels[:, None].float(),
        lambda labels: labels[:, None].bool(),
    ],
)
def test_labels_in_disguise_are_scored_by_accuracy_whether_logit_or_probability(then, disguise):
    question = ask(Plain(then), (POINTS, disguise(PRESENT)))
    assert question.score.name == "accuracy"
    assert values(Plain(then), question).tolist() == [1.0] * 24
    assert question.threshold == (0.5 if then(POINTS).min() >= 0 else 0.0)
    shifted = Plain(lambda x: then(x + 0.5))
    expected = independent.binary_accuracy((POINTS[:, 0] + 0.5 > 0.7).long(), PRESENT).item()
    assert values(shifted, question).mean() == pytest.approx(expected)


@pytest.mark.parametrize(
    "disguise",
    [
        lambda masks: masks,
        lambda masks: masks.byte(),
        lambda masks: masks.bool(),
        lambda masks: masks.float(),
        lambda masks: masks[:, None].float(),
        lambda masks: masks[:, None],
    ],
)
def test_masks_in_disguise_are_scored_by_dice(disguise):
    question = ask(Plain(one_map), (IMAGES, disguise(MAPS)))
    assert question.score.name == "foreground_dice"
    np.testing.assert_array_equal(values(Plain(one_map), question), np.ones(6))
    assert question.data.masks.shape == (6, 5, 5)


@pytest.mark.parametrize("numbers", [torch.long, torch.float32, torch.uint8])
def test_one_hot_targets_are_their_classes(numbers):
    hot = functional.one_hot(CLASSES, 2).movedim(-1, 1).to(numbers)
    question = ask(Plain(), (IMAGES, hot))
    assert question.score.name == "foreground_dice"
    assert torch.equal(question.data.masks, CLASSES)
    rows = functional.one_hot(PRESENT, 2).to(numbers)
    question = ask(Plain(lambda x: torch.cat([0.7 - x, x - 0.7], 1)), (POINTS, rows))
    assert question.score.name == "accuracy"
    assert torch.equal(question.data.masks, PRESENT)


SOFT = r'soft labels perhaps; say score="{}" where they are labels, score="r2" for numbers'


@pytest.mark.parametrize(
    ("then", "images", "targets", "message"),
    [
        (logit, POINTS, PRESENT * 0.8 + 0.1, SOFT.format("accuracy")),
        (one_map, IMAGES, (MAPS * 0.9)[:, None], SOFT.format("dice")),
        (passes, IMAGES, torch.stack([0.3 * torch.ones(6, 5, 5), 0.7 * torch.ones(6, 5, 5)], 1), SOFT.format("dice")),
        (logit, POINTS, torch.arange(24.0), r'0 to 23 for an output of one class; say score="accuracy"'),
        (logit, POINTS, torch.arange(24), "0 to 23 for an output of one class"),
        (logit, POINTS, PRESENT * 2 - 1, r"-1 and 1 for an output of one class: pass \(targets \+ 1\) // 2"),
        (one_map, IMAGES, MAPS * 255, "0 and 255 for an output of one class: divide them by 255"),
        (one_map, IMAGES, (MAPS * 255.0)[:, None], "0 and 255"),
        (passes, IMAGES, torch.ones(6, 2, 5, 5), "several labels for one place; an output of one class keeps its axis"),
        (passes, IMAGES, (IMAGES > 0).float(), "several labels for one place"),
    ],
)
def test_what_may_be_labels_or_numbers_is_refused_with_the_line_that_settles_it(then, images, targets, message):
    with pytest.raises(DataError, match=message):
        ask(Plain(then), (images, targets))


def test_the_line_settles_it():
    soft = PRESENT * 0.8 + 0.1
    assert values(Plain(logit), (POINTS, soft), "accuracy").tolist() == [1.0] * 24
    assert ask(Plain(logit), (POINTS, soft), "r2").score is prr.metrics.r2
    assert ask(Plain(logit), (POINTS, torch.arange(24.0)), "r2").score is prr.metrics.r2


@pytest.mark.parametrize(
    ("then", "images", "targets"),
    [
        (passes, POINTS, 3 * POINTS),
        (passes, POINTS, torch.randn(24)),
        (passes, IMAGES, IMAGES.clone()),
        (passes, IMAGES.abs() / 9, IMAGES.abs() / 9),
        (one_map, IMAGES, torch.randn(6, 1, 5, 5)),
    ],
)
def test_numbers_are_scored_by_r2(then, images, targets):
    assert ask(Plain(then), (images, targets)).score is prr.metrics.r2


def test_images_that_are_their_own_targets_are_numbers_even_between_0_and_1():
    images = torch.rand(5, 1, 4, 4)
    assert ask(Plain(), (images, images)).score is prr.metrics.r2


@pytest.mark.parametrize("then", [lambda x: x.abs() / 9, lambda x: torch.full_like(x, 0.3) * x.abs().clamp(0.5, 1)])
def test_an_output_that_may_be_logit_or_probability_is_asked_for(then):
    with pytest.raises(DataError, match=r"may be either; say threshold=0 for logits, threshold=0\.5"):
        ask(Plain(then), (POINTS, PRESENT))
    assert ask(Plain(then), (POINTS, PRESENT), threshold=0.5).threshold == 0.5


def test_a_threshold_for_several_classes_is_refused():
    with pytest.raises(OptionError, match=r"threshold=0\.5: expected an output of one class"):
        ask(Plain(), (IMAGES, CLASSES), threshold=0.5)


@pytest.mark.parametrize("label", [255, -1, 9])
def test_what_is_not_labelled_is_left_out(label):
    partly = CLASSES.clone()
    partly[:, 0] = label
    with pytest.raises(DataError, match=r"expected labels 0\.\.1"):
        values(Plain(), (IMAGES, partly))
    found = values(Plain(), ask(Plain(), (IMAGES, partly), ignore_index=label))
    np.testing.assert_allclose(found, np.ones(6))
    wrong = Plain(lambda x: x.flip(1))
    right = ask(wrong, (IMAGES[:, :, 1:], CLASSES[:, 1:]))
    whole = ask(wrong, (IMAGES, partly), ignore_index=label)
    np.testing.assert_array_equal(values(wrong, whole), values(wrong, right))
    labels = torch.where(torch.arange(24) < 5, label, PRESENT)
    question = ask(Plain(logit), (POINTS, labels, torch.arange(24) // 6), ignore_index=label)
    assert values(Plain(logit), question).tolist() == [1.0] * 4


def test_a_score_of_ones_own_sees_the_targets_as_they_are():
    targets = MAPS[:, None].float()
    question = ask(Plain(one_map), (IMAGES, targets), lambda output, data: np.ones(len(output)))
    assert question.data.masks is targets
    with pytest.raises(OptionError, match="ignore_index=255: expected score dice or accuracy"):
        ask(Plain(one_map), (IMAGES, targets), lambda output, data: np.ones(6), ignore_index=255)
    with pytest.raises(OptionError, match="score='mse': expected dice, accuracy, r2 or a callable"):
        ask(Plain(one_map), (IMAGES, targets), "mse")


# ------------------------------------------------------------------- chance


@pytest.mark.parametrize(
    ("then", "images", "targets", "expected"),
    [
        (logit, POINTS, PRESENT, 1 - PRESENT.double().mean().item()),
        (passes, IMAGES, torch.tensor([0, 1, 1, 1, 1, 0]), 4 / 6),
        (passes, POINTS, 3 * POINTS, 0.0),
    ],
)
def test_chance_is_the_best_answer_that_looks_at_no_image(then, images, targets, expected):
    question = ask(Plain(lambda x: then(x).mean((2, 3)) if x.ndim == 4 else then(x)), (images, targets))
    assert question.constants().mean(1).max() == pytest.approx(expected)


def test_chance_of_dice_is_the_best_label_for_all_pixels():
    question = ask(Plain(one_map), (IMAGES, MAPS))
    everywhere = [prr.dice(torch.full_like(MAPS, label), MAPS, torch.arange(6), 2) for label in (0, 1)]
    expected = [table.query("`class` == 1")["dice"].to_numpy() for table in everywhere]
    np.testing.assert_allclose(question.constants(), expected)


def test_chance_of_a_score_of_ones_own_is_not_known():
    assert ask(Plain(), (POINTS, PRESENT), lambda output, data: np.ones(24)).constants() is None


# ------------------------------------------------------------------- the output

Pair = namedtuple("Pair", ["aux", "logits"])
FIT, OTHER = torch.zeros(2, 3, 8, 8), torch.ones(2, 3, 8, 8)


@pytest.mark.parametrize(
    ("output", "path"),
    [
        (FIT, ()),
        ((FIT,), (0,)),
        ({"anything": FIT}, ("anything",)),
        ({"aux": OTHER, "out": FIT}, ("out",)),
        ({"aux": OTHER, "logits": FIT}, ("logits",)),
        ({"aux": OTHER, "prediction": FIT}, ("prediction",)),
        ({"aux": OTHER, "predictions": FIT}, ("predictions",)),
        (Pair(OTHER, FIT), ("logits",)),
        ([FIT, FIT[..., ::2, ::2], FIT[..., ::4, ::4]], (0,)),
        ({"out": [FIT, FIT[..., ::2, ::2]]}, ("out", 0)),
        ({"loss": None, "pred": FIT}, ("pred",)),
    ],
)
def test_an_output_beyond_doubt_is_found(output, path):
    assert path_of(output) == path


@pytest.mark.parametrize(
    "output",
    [
        (FIT, OTHER),
        {"first": FIT, "second": OTHER},
        {"out": FIT, "logits": OTHER},
        [FIT[..., ::2, ::2], FIT],
        [FIT, OTHER, FIT[..., ::2, ::2], OTHER],
        (FIT, torch.zeros(2, 5)),
    ],
)
def test_an_output_that_may_be_another_is_asked_for(output):
    with pytest.raises(NetworkError, match=r"output: expected one tensor, found .*say which one is scored: output="):
        path_of(output)
    key = next(iter(output)) if isinstance(output, dict) else 0
    assert path_of(output, key) == (key,)
    with pytest.raises(OptionError, match="output='none': expected one of"):
        path_of(output, "none")


@pytest.mark.parametrize("output", [None, "text", {}, [], {"out": None}, 3.0])
def test_an_output_without_a_tensor_is_refused(output):
    with pytest.raises(NetworkError, match="output: expected a tensor, or a dict or tuple of tensors, found"):
        path_of(output)


@pytest.mark.parametrize("shape", [(24, 5, 2, 2), (24, 1, 7), (24, 7, 7)])
def test_the_only_output_that_fits_the_targets_is_scored(shape):
    model = Plain(lambda x: (x.sum() + torch.zeros(len(x), *shape[1:]), torch.cat([-x, x], 1)))
    question = ask(model, (POINTS, PRESENT))
    assert question.path == (1,)
    assert question.named == "accuracy of output 1"


def test_the_chosen_output_is_what_a_sweep_scores_and_says():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.aux, self.head = nn.Linear(1, 4), nn.Linear(4, 2), nn.Linear(4, 2)

        def forward(self, x):
            inner = self.body(x).relu()
            return {"first": self.aux(inner), "second": self.head(inner)}

    torch.manual_seed(0)
    target, source = Two().eval(), Two().eval()
    labels = target(POINTS)["second"].diff(dim=1)[:, 0]
    labels = (labels > labels.median()).long()
    with pytest.raises(NetworkError, match="say which one is scored: output='first'"):
        prr.judge(target, source, (POINTS, labels))
    with pytest.warns(UserWarning, match="2 parameters run without effect on the scored output .* LW aux"):
        swept = prr.sweep(target, source, (POINTS, labels), output="second", score="accuracy")
    assert sorted(swept["name"].unique()) == ["body", "head"]
    verdict = prr.judge(target, source, (POINTS, labels), output="second")
    assert "accuracy of output 'second'" in verdict.headline()
    assert verdict.not_judged()["why"].tolist() == ["without effect on the scored output"] * 2
    assert any("aux.weight, aux.bias" in note for note in verdict.notes)


# ------------------------------------------------------------------- the same answer twice


class Counts(Plain):
    """Remembers in a place that a copy of attributes does not reach."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(len(x))
        return super().forward(x) * (1 + len(self.seen))


RESTLESS = {
    "dropout": (Plain(lambda x: functional.dropout(torch.cat([-x, x], 1))), "dropout in the network itself"),
    "noise": (nn.Sequential(Plain(), Plain(lambda x: x + torch.randn_like(x))), "randn_like in 1"),
    "drawn": (Plain(lambda x: x * np.random.default_rng().normal()), "mul in the network itself"),
    "bernoulli": (nn.Sequential(Plain(lambda x: x * torch.bernoulli(torch.full_like(x, 0.5)))), "bernoulli in 0"),
    "remembers": (Counts(), "mul in the network itself"),
}


@pytest.mark.parametrize(("model", "where"), RESTLESS.values(), ids=RESTLESS)
def test_a_network_that_answers_otherwise_the_second_time_is_refused_where_it_does(model, where):
    before = torch.get_rng_state()
    with pytest.raises(NetworkError, match=f"expected the same output twice, found another one: {where} draws"):
        ask(model, (POINTS, 3 * POINTS))
    assert torch.equal(torch.get_rng_state(), before)


class Streams(nn.Module):
    """Writes a buffer in each pass, in place or anew, or an attribute of its own."""

    def __init__(self, way):
        super().__init__()
        self.first, self.last, self.way = nn.Linear(1, 3), nn.Linear(3, 1), way
        self.register_buffer("state", torch.zeros(1, 3))
        self.count = 0

    def forward(self, x):
        inner = self.first(x)
        mean = inner.mean(0, keepdim=True).detach()
        if self.way == "in place":
            self.state.mul_(0.9).add_(mean)
        elif self.way == "anew":
            self.state = 0.9 * self.state + mean
        else:
            self.count += 1
        return self.last(inner + self.state + self.count)


@pytest.mark.parametrize("way", ["in place", "anew", "attribute"])
def test_what_a_pass_writes_is_taken_back_between_variants(way):
    torch.manual_seed(0)
    model = Streams(way).eval()
    before = copy.deepcopy(model.state_dict())
    data = POINTS, 3 * POINTS + 1
    assert ask(model, data).keeps_state
    swept = prr.sweep(model, copy.deepcopy(model), data, batch_size=7)
    assert (swept["drop"] == 0).all()
    assert len(swept) == 5
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    verdict = prr.judge(model, copy.deepcopy(model), data)
    assert any("A pass writes into the network" in note for note in verdict.notes)


KEPT = {}


class Cache(nn.Module):
    """Uses what an earlier batch has given once there is one of its size, out of reach of a snapshot."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Linear(1, 2), nn.Linear(2, 1)

    def forward(self, x):
        inner = KEPT.setdefault(len(x), self.layer(x))
        return self.head(inner.detach())


def test_stale_results_of_another_pass_do_not_pass_for_robust_layers():
    KEPT.clear()
    model = Cache().eval()
    with pytest.warns(UserWarning, match="2 parameters run without effect on the scored output"):
        swept = prr.sweep(model, Cache().eval(), (POINTS, 3 * POINTS))
    assert set(swept["name"]) == {"head"}


def test_a_hook_that_refers_to_another_network_is_refused_by_name():
    class Hooked(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(1, 2), nn.Linear(2, 1)
            self.features = torch.zeros(1)
            self.body.register_forward_hook(lambda module, inputs, output: setattr(self, "features", output))

        def forward(self, x):
            self.body(x)
            return self.head(self.features)

    model = Hooked().eval()
    model(POINTS)
    with pytest.raises(NetworkError, match="a copy gives another output than the network itself"):
        prr.sweep(model, Hooked().eval(), (POINTS, 3 * POINTS))


# ------------------------------------------------------------------- live


class Routes(nn.Module):
    """Another branch for another kind of image, or of batch."""

    def __init__(self):
        super().__init__()
        self.low, self.high = nn.Linear(1, 1), nn.Linear(1, 1)

    def forward(self, x):
        chosen = x[:, 0] > 1
        found = torch.zeros(len(x), 1)
        if (~chosen).any():
            found[~chosen] = self.low(x[~chosen])
        if chosen.any():
            found[chosen] = self.high(x[chosen])
        return found


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_a_branch_that_some_images_use_is_live(batch_size):
    torch.manual_seed(0)
    question = ask(Routes(), (POINTS, 3 * POINTS), batch_size=batch_size)
    assert question.table.query("live and reached")["name"].tolist() == ["low", "low", "high", "high"]


def test_a_branch_that_no_image_uses_is_not_live():
    question = ask(Routes(), (POINTS[:9], 3 * POINTS[:9]))
    assert question.table.query("live")["name"].tolist() == ["low", "low"]


@pytest.mark.parametrize("kind", [nn.Linear, nn.Conv1d])
def test_a_branch_that_counts_for_nothing_yet_is_judged(kind):
    """Its last scale is 0, as in a residual unit at the start: it is on the way to the output all the same."""
    body = nn.Sequential(kind(1, 1) if kind is nn.Linear else kind(1, 1, 1), Plain())
    nn.init.zeros_(body[1].scale)

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = body

        def forward(self, x):
            return x + self.body(x.T if kind is nn.Conv1d else x).reshape(x.shape)

    assert ask(Residual(), (POINTS, 3 * POINTS), batch_size=24).table["reached"].all()


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
def test_a_network_without_gradients_is_asked_by_noise(around):
    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head, self.spare = nn.Linear(1, 2), nn.Linear(2, 1), nn.Linear(1, 1)

        def forward(self, x):
            with around():
                self.spare(x)
                inner = self.body(x).tanh()
            return self.head(inner.clone())

    table = ask(Frozen(), (POINTS, 3 * POINTS)).table
    assert table.set_index("name")["reached"].groupby(level=0).all().to_dict() == {
        "body": True, "head": True, "spare": False,
    }  # fmt: skip


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(2), nn.InstanceNorm2d(2, affine=True, track_running_stats=True)])
def test_statistics_of_a_norm_are_on_the_way_to_the_output_without_asking_each_of_them(norm, monkeypatch):
    """torch has no gradient of them; a pass for each would cost as much as a sweep."""
    model = nn.Sequential(nn.Conv2d(2, 2, 1), norm, nn.Conv2d(2, 2, 1))
    monkeypatch.setattr("prr.graph.passes.changed", None)
    assert ask(model, (IMAGES, CLASSES)).table["reached"].all()


# ------------------------------------------------------------------- what copies may get wrong


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(1, 4), nn.Linear(4, 1)

    def forward(self, x):
        return self.b(self.a(x).relu())


class Cached(Small):
    """Keeps a weight that it has computed in its first pass."""

    weight = None

    def forward(self, x):
        if self.weight is None:
            self.weight = self.b.weight * 2
        return functional.linear(self.a(x).relu(), self.weight, self.b.bias)


class Buffered(Small):
    def __init__(self):
        super().__init__()
        self.register_buffer("weight", None, persistent=False)

    forward = Cached.forward


class Lazy(Small):
    def forward(self, x):
        return self.b(self.a(x).relu()) * self.scale

    @functools.cached_property
    def scale(self):
        return self.b.bias.abs() + 1


def by_hand(target, source, data, score):
    """A sweep as a reader would write it."""
    found = {}
    for name, value in source.state_dict().items():
        model = copy.deepcopy(target)
        model.load_state_dict({name: value}, strict=False)
        with torch.no_grad():
            found[name] = score(model(data[0]), data[1])
    return found


def closeness(output, data):
    truth = getattr(data, "masks", data)
    return -(output.double() - truth).square().flatten(1).mean(1).numpy()


@pytest.mark.parametrize("kind", [Cached, Buffered, Lazy])
@pytest.mark.parametrize("hidden", [False, True])
def test_weights_that_are_computed_once_and_kept_follow_the_transplant(kind, hidden):
    torch.manual_seed(0)
    target, source = kind().eval(), kind().eval()
    if hidden:  # from torch.fx
        target.a.register_forward_hook(lambda *_: None)
    expected = by_hand(target, source, (POINTS, 3 * POINTS), closeness)
    swept = prr.sweep(target, source, (POINTS, 3 * POINTS), score=closeness, batch_size=5)
    names = {"a.weight", "a.bias", "b.weight", "b.bias"}
    found = {prr.layers.full_name(row.kind, row.name): row.score for row in swept.itertuples()}
    assert found == pytest.approx({name: expected[name].mean() for name in names}, rel=1e-5)


def test_a_statistic_of_the_first_batch_is_no_part_of_the_network():
    class First(Small):
        mean = None

        def forward(self, x):
            if self.mean is None:
                self.mean = x.mean()
            return self.b(self.a(x - self.mean).relu())

    assert ask(First(), (POINTS, 3 * POINTS), batch_size=7).keeps_state


@pytest.mark.parametrize("way", ["a dict in a closure", "a default"])
def test_what_only_the_originals_hooks_write_is_not_scored(way):
    class Outside(Small):
        def __init__(self):
            super().__init__()
            kept = {"a": torch.zeros(24, 4)}
            self.kept = kept
            if way == "a default":
                self.a.register_forward_hook(lambda m, i, output, own=self: own.kept.update(a=output))
            else:
                self.a.register_forward_hook(lambda m, i, output: kept.update(a=output))

        def forward(self, x):
            self.a(x)
            return self.b(self.kept["a"].relu())

    target = Outside().eval()
    target(POINTS)
    with pytest.raises(NetworkError, match="a copy gives another output than the network itself"):
        prr.judge(target, Outside().eval(), (POINTS, 3 * POINTS))


def test_a_function_that_calls_the_original_is_refused_by_its_module():
    target = Small().eval()
    old = target.a.forward
    target.a.forward = lambda x: 2 * old(x)
    with pytest.raises(NetworkError, match="Small: a has a function that refers to a module of its own"):
        prr.sweep(target, Small(), (POINTS, 3 * POINTS))


@pytest.mark.parametrize(
    ("read", "live"),
    [(torch.Tensor.item, True), (float, True), (lambda k: float(k.detach().numpy()), True), (torch.numel, False)],
)
def test_a_number_that_is_read_out_of_a_tensor_counts_as_use(read, live):
    class Reads(Small):
        def __init__(self):
            super().__init__()
            self.k = nn.Parameter(torch.tensor(1.5))

        def forward(self, x):
            return super().forward(x) * read(self.k)

    torch.manual_seed(0)
    target, source = Reads().eval(), Reads().eval()
    source.k.data.fill_(0.5)
    swept = prr.sweep(target, source, (POINTS, 3 * POINTS), score=closeness).set_index("name")
    assert ("k" in swept.index) is live
    if live:
        expected = by_hand(target, source, (POINTS, 3 * POINTS), closeness)
        assert swept.loc["k", "score"] == pytest.approx(expected["k"].mean())


@pytest.mark.parametrize(
    ("then", "threshold"),
    [
        (functional.logsigmoid, None),
        (lambda x: 100 * torch.sigmoid(x), None),
        (lambda x: torch.sigmoid(x).squeeze(-1), 0.5),
        (lambda x: x * torch.sigmoid(x).abs(), None),
        (lambda x: x, 0.0),
    ],
)
def test_a_threshold_is_told_from_the_end_of_the_network_or_asked_for(then, threshold):
    model = Plain(lambda x: then(logit(x)))
    if threshold is None:
        with pytest.raises(DataError, match="say threshold=0 for logits"):
            ask(model, (POINTS, PRESENT))
    else:
        assert ask(model, (POINTS, PRESENT)).threshold == threshold


def test_an_output_that_is_no_number_is_as_wrong_as_can_be():
    model = Plain(lambda x: x + 0 * torch.log(x + 1))
    assert np.isneginf(values(model, (POINTS, 3 * POINTS), "r2")).any()


@pytest.mark.parametrize("shape", [(24, 3, 4, 5), (24, 4, 5, 3)])
def test_numbers_laid_out_otherwise_are_refused(shape):
    images = torch.randn(24, 3, 4, 5)
    targets = torch.randn(shape)
    if shape == images.shape:
        assert ask(Plain(), (images, targets)).score is prr.metrics.r2
    else:
        with pytest.raises(DataError, match="r2: expected an output"):
            values(Plain(), (images, targets))


@pytest.mark.parametrize("score", [lambda output: 1.0, lambda output, data: {}[0], lambda output, data: "good"])
def test_a_score_of_ones_own_that_fails_says_what_it_is_given(score):
    with pytest.raises(DataError, match=r"score: <lambda> failed with .* it is given the output"):
        values(Plain(), (POINTS, 3 * POINTS), score)


def test_an_output_without_a_first_axis_for_one_image_is_told():
    model = Plain(lambda x: logit(x).squeeze())
    assert values(model, (POINTS, PRESENT)).tolist() == [1.0] * 24
    with pytest.raises(DataError, match=r"squeeze\(-1\), not squeeze\(\)"):
        values(model, (POINTS, PRESENT), batch_size=1)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script. is deprecated")
@pytest.mark.parametrize(
    "make",
    [lambda: nn.ReLU(), lambda: torch.jit.script(nn.Linear(1, 1)), lambda: nn.Linear(1, 1, device="meta")],
    ids=["nothing", "torchscript", "meta"],
)
def test_what_is_no_network_of_numbers_is_refused_in_one_line(make):
    with pytest.raises(NetworkError) as refusal:
        prr.judge(make(), make(), (POINTS, 3 * POINTS))
    assert "\n" not in str(refusal.value)


def test_targets_with_gradients_are_numbers_like_others():
    model = Small()
    assert values(model, (POINTS, model(POINTS)), "r2").mean() > 0.9


def test_classes_that_are_as_many_as_places_may_lie_on_either_axis():
    outputs, targets = torch.randn(6, 4, 4), torch.randint(4, (6, 4))
    with pytest.raises(DataError, match='axes may be exchanged; say score="dice"'):
        ask(Plain(), (outputs, targets))
    assert ask(Plain(), (outputs, targets), "accuracy").score.name == "accuracy"


def test_an_output_at_random_beside_the_scored_one_does_no_harm():
    model = Plain(lambda x: {"out": torch.cat([-x, x], 1), "sample": torch.randn_like(x)})
    assert ask(model, (POINTS, PRESENT)).path == ("out",)
