"""A pass that runs again only what depends on a change, against whole runs of networks with one tensor replaced."""

import copy
import weakref
from collections import Counter, namedtuple

import pytest
import torch
from torch import nn
from torch.nn import functional

from prr.graph import suffix
from prr.graph.outputs import path_of, select
from prr.graph.suffix import Step, Suffixes, UntraceableError, Whole, changed, execute, outputs_of
from prr.layers import named_tensors, parameter_table, replaced, tensor
from prr.study import pspnet, unet

Pair = namedtuple("Pair", ["first", "second"])


class Net(nn.Module):
    """Layers by name, and a function of the network and the images as its forward pass."""

    def __init__(self, run, **layers):
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.run(self, x)


class Masked(nn.Module):
    """Takes more than the images."""

    def __init__(self):
        super().__init__()
        self.first, self.last = conv(1, 3), conv(3, 2)

    def forward(self, x, mask=None, *, scale=2.0):
        x = self.first(x) * scale
        return self.last(x if mask is None else x * mask)


def conv(inputs, outputs):
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def chain():
    return nn.Sequential(conv(1, 3), nn.BatchNorm2d(3), nn.ReLU(), conv(3, 2))


def residual():
    def run(self, x):
        x = self.relu(self.norm(self.first(x)))
        y = self.second(x)
        y += x
        return self.last(self.relu(y))

    layers = {"first": conv(1, 3), "norm": nn.BatchNorm2d(3), "second": conv(3, 3), "last": conv(3, 2)}
    return Net(run, **layers, relu=nn.ReLU(inplace=True))


def sum_into_what_was_there_before():
    def run(self, x):
        x = self.first(x)
        y = self.second(x)
        x += y  # x is kept for all changes of `second`
        return self.last(x)

    return Net(run, first=conv(1, 3), second=conv(3, 3), last=conv(3, 2))


def sum_by_the_way():
    def run(self, x):
        x = self.first(x)
        x.add_(self.second(x))  # what it returns is not used
        return self.last(x)

    return Net(run, first=conv(1, 3), second=conv(3, 3), last=conv(3, 2))


def sum_into_what_dropout_hands_on():
    def run(self, x):
        x = functional.dropout(self.first(x), training=self.training)
        x.add_(self.second(x))
        return self.last(x)

    return Net(run, first=conv(1, 3), second=conv(3, 3), last=conv(3, 2))


def read_before_it_is_written_into():
    def run(self, x):
        x = self.first(x)
        y = self.second(x)  # reads x as it is before the line below
        return self.last(x.relu_()) + y

    return Net(run, first=conv(1, 3), second=conv(3, 2), last=conv(3, 2))


def dropout_before_relu():
    layers = conv(1, 3), nn.Dropout2d(), nn.ReLU(inplace=True), conv(3, 3), nn.Dropout(inplace=True), conv(3, 2)
    return nn.Sequential(*layers)


def dropout_hands_on_what_is_read_again():
    def run(self, x):
        x = self.first(x)
        y = functional.relu_(functional.dropout(x, training=self.training))
        return self.last(y) + self.side(x)

    return Net(run, first=conv(1, 3), last=conv(3, 2), side=conv(3, 2))


def auxiliary():
    def run(self, x):
        x = self.stem(x)
        return {"aux": self.aux(x), "out": self.head(x)}

    return Net(run, stem=conv(1, 3), aux=chain_of(3), head=conv(3, 2))


def chain_of(inputs):
    return nn.Sequential(conv(inputs, 2), nn.BatchNorm2d(2))


def twice():
    layers = {"first": conv(1, 3), "norm": nn.BatchNorm2d(3), "twin": conv(3, 3), "last": conv(3, 2)}
    return Net(lambda self, x: self.last(self.twin(self.norm(self.twin(self.first(x))).relu())), **layers)


def tied():
    layers = {"stem": conv(1, 3), "first": conv(3, 3), "second": conv(3, 3), "last": conv(3, 2)}
    layers["second"].weight = layers["first"].weight
    return Net(lambda self, x: self.last(self.second(self.first(self.stem(x)).relu())), **layers)


def weight_without_its_module():
    def run(self, x):
        x = functional.conv2d(x, self.first.weight, padding=1)
        return functional.conv2d(x, self.last.weight, self.last.bias)

    return Net(run, first=conv(1, 3), last=conv(3, 2))


def weight_with_and_without_its_module():
    return Net(
        lambda self, x: self.twin(self.twin(x)) + self.twin.weight.sum() * self.last(x),
        twin=conv(1, 1),
        last=conv(1, 2),
    )


def raw_parameter():
    return Net(
        lambda self, x: self.last(functional.conv2d(x, self.first._parameters["weight"])),
        first=conv(1, 3),
        last=conv(3, 2),
    )


def buffers_by_hand():
    def run(self, x):
        mean, variance = (value[None, :, None, None] for value in (self.norm.running_mean, self.norm.running_var))
        return self.last((self.first(x) - mean) / (variance + 1e-5).sqrt())

    return Net(run, first=conv(1, 3), norm=nn.BatchNorm2d(3), last=conv(3, 2))


def keywords():
    return Net(
        lambda self, x: self.last(input=self.norm(input=self.first(input=x).masked_fill(mask=x > 0, value=0.5))),
        first=conv(1, 3),
        norm=nn.GroupNorm(3, 3),
        last=conv(3, 2),
    )


def tensors_of_a_larger_module():
    def run(self, x):
        return self.last(self.layer(self.first(x).flatten(2).transpose(1, 2)))

    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    return Net(run, first=conv(1, 4), layer=layer, last=nn.Linear(4, 2))


def writes_into_the_images():
    return Net(lambda self, x: self.last(self.first(x.mul_(2)) + x), first=conv(1, 1), last=conv(1, 2))


def writes_into_the_images_and_calls_twice():
    return Net(lambda self, x: self.last(self.twin(self.twin(x.mul_(2)))), twin=conv(1, 1), last=conv(1, 2))


def parts_of_a_value():
    def run(self, x):
        first, second = self.first(x).chunk(2, dim=1)
        return self.last(torch.cat([self.left(first), second], dim=1))

    return Net(run, first=conv(1, 4), left=conv(2, 2), last=conv(4, 2))


def slices_and_lists():
    def run(self, x):
        x = self.first(x)
        rest = x[:, :, : x.shape[2] - 1]
        return {"all": [x], "out": self.last(torch.cat([torch.stack([rest, rest * 2]).sum(0), x[:, :, -1:]], dim=2))}

    return Net(run, first=conv(1, 3), last=conv(3, 2))


def contiguous_as_the_batch_is():
    """A single image is contiguous in either order, and `contiguous` hands it on; several are not."""

    def run(self, x):
        x = self.first(x).flatten(2).transpose(1, 2).contiguous()
        return self.last(x.transpose(0, 1).contiguous().view(-1, 3)).view(-1, x.shape[0], 2).transpose(0, 1)

    return Net(run, first=conv(1, 3), last=nn.Linear(3, 2))


TRACEABLE = {
    "chain": chain,
    "residual": residual,
    "sum into what was there before": sum_into_what_was_there_before,
    "sum by the way": sum_by_the_way,
    "sum into what dropout hands on": sum_into_what_dropout_hands_on,
    "read before it is written into": read_before_it_is_written_into,
    "unet": lambda: unet(2),
    "pspnet": lambda: pspnet(4),
    "dropout before relu": dropout_before_relu,
    "dropout hands on what is read again": dropout_hands_on_what_is_read_again,
    "auxiliary": auxiliary,
    "twice": twice,
    "tied": tied,
    "weight without its module": weight_without_its_module,
    "weight with and without its module": weight_with_and_without_its_module,
    "raw parameter": raw_parameter,
    "buffers by hand": buffers_by_hand,
    "keywords": keywords,
    "default arguments": Masked,
    "tensors of a larger module": tensors_of_a_larger_module,
    "writes into the images": writes_into_the_images,
    "writes into the images and calls twice": writes_into_the_images_and_calls_twice,
    "parts of a value": parts_of_a_value,
    "slices and lists": slices_and_lists,
    "contiguous as the batch is": contiguous_as_the_batch_is,
}


def branches_on_a_value():
    return Net(lambda self, x: self.first(x) if x.sum() > 0 else self.last(x), first=conv(1, 2), last=conv(1, 2))


def writes_into_a_view():
    def run(self, x):
        x = self.first(x)
        x[:, 0].mul_(2)
        return self.last(x)

    return Net(run, first=conv(1, 3), last=conv(3, 2))


def writes_where_a_view_looks():
    def run(self, x):
        x = self.first(x)
        flat = x.flatten(2)
        x.mul_(2)
        return self.last(flat.unflatten(2, x.shape[2:]))

    return Net(run, first=conv(1, 3), last=conv(3, 2))


def writes_by_slices():
    def run(self, x):
        x = self.first(x)
        x[:, 1:] += 1
        return self.last(x)

    return Net(run, first=conv(1, 3), last=conv(3, 2))


def constant_from_a_parameter():
    def run(self, x):
        return self.last(self.first(x)) * self.first._parameters["weight"].abs().mean()

    return Net(run, first=conv(1, 3), last=conv(3, 2))


def constant_without_a_parameter():
    return Net(lambda self, x: self.last(self.first(x) * torch.tensor(3.0)), first=conv(1, 3), last=conv(3, 2))


UNTRACEABLE = {
    "branches on a value": branches_on_a_value,
    "writes into a view": writes_into_a_view,
    "writes where a view looks": writes_where_a_view_looks,
    "writes by slices": writes_by_slices,
    "constant from a parameter": constant_from_a_parameter,
    "constant without a parameter": constant_without_a_parameter,
}


def number_of_a_parameter():
    """A parameter's largest value, taken out of the sight of torch.fx."""
    step = "weight"
    return Net(
        lambda self, x: self.last(self.first(x)) * self.first._parameters[step].abs().max().item(),
        first=conv(1, 3),
        last=conv(3, 2),
    )


def number_of_its_data():
    """The same by way of `data`, another tensor on the same numbers."""
    step = "weight"
    return Net(
        lambda self, x: self.last(self.first(x)) * self.first._parameters[step].data.abs().max().item(),
        first=conv(1, 3),
        last=conv(3, 2),
    )


def number_of_a_list():
    step = "weight"
    return Net(
        lambda self, x: self.last(self.first(x)) * torch.stack(tensors=[self.first._parameters[step]]).amax().item(),
        first=conv(1, 3),
        last=conv(3, 2),
    )


def hooks_that_share():
    """What one layer gives reaches another beside the graph."""
    model, kept = Net(lambda self, x: self.last(self.first(x)), first=conv(1, 3), last=conv(3, 2)), {}
    model.first.register_forward_hook(lambda module, inputs, output: kept.update(value=output))
    model.last.register_forward_hook(lambda module, inputs, output: output * kept["value"].mean())
    return model


def lower_precision():
    """torch.fx does not see the context manager, and the outputs are small."""

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            x = self.first(x)
        return self.last(x.float()).softmax(1) * 1e-3

    return Net(forward, first=conv(1, 3), last=conv(3, 2))


UNTRACEABLE |= {
    "number of a parameter": number_of_a_parameter,
    "number of its data": number_of_its_data,
    "number of a list": number_of_a_list,
    "hooks that share": hooks_that_share,
    "lower precision": lower_precision,
}


def random(make, seed):
    """A network in eval mode with random parameters and running statistics."""
    model, generator = make(), torch.Generator().manual_seed(seed)
    for value in {id(value): value for value in named_tensors(model).values()}.values():
        if value.is_floating_point():
            value.data.copy_(torch.randn(value.shape, generator=generator) * 0.5)
    for name, value in named_tensors(model).items():
        if name.endswith("running_var"):
            value.data.abs_().add_(0.5)
    return model.eval()


def pictures(size=48, seed=2, count=3):
    return torch.randn(count, 1, size, size, generator=torch.Generator().manual_seed(seed))


def size_of(make):
    return 48 if make is TRACEABLE["pspnet"] else 16 if make is TRACEABLE["unet"] else 6


def case(make):
    """A network, its pairs, another network and images."""
    model, source = random(make, 0), random(make, 1)
    pairs = list(parameter_table(model)[["kind", "name"]].itertuples(index=False, name=None))
    return model, pairs, source, pictures(size_of(make))


def changes_of(model, pairs, source):
    return [(tensor(model, *pair), tensor(source, *pair).detach().clone()) for pair in pairs]


def results(outputs, images):
    with torch.inference_mode():
        return list(outputs(images))


def by_hand(model, pairs, source, images, path=None):
    """Each network in turn, from copies of the target with one tensor written over."""
    with torch.inference_mode():
        path = way(model, images) if path is None else path
        networks = [model, *(replaced(model, source, *pair) for pair in pairs)]
        return [select(net(images.clone()), path) for net in networks]


def way(model, images):
    """To the output that counts."""
    return path_of(model(images.clone()))


def all_equal(found, expected):
    return len(found) == len(expected) and all(map(torch.equal, found, expected))


def snapshot(model):
    """Everything that a pass could change in a network, numbers bit by bit."""
    values = [
        (name, id(value), value._version, value.detach().numpy().tobytes())
        for name, value in named_tensors(model).items()
    ]
    modules = [
        (
            name,
            id(module),
            module.training,
            dict(module._forward_hooks),
            dict(module._forward_pre_hooks),
            sorted(vars(module)),
        )
        for name, module in model.named_modules()
    ]
    return values, modules, [(value.requires_grad, value.grad) for value in model.parameters()]


@pytest.mark.parametrize("make", TRACEABLE.values(), ids=TRACEABLE)
def test_every_output_is_that_of_the_whole_network_bit_for_bit(make):
    model, pairs, source, images = case(make)
    changes = changes_of(model, pairs, source)
    outputs = outputs_of(model, changes, images[:1], way(model, images))
    assert isinstance(outputs, Suffixes)
    expected = by_hand(model, pairs, source, images)
    assert all_equal(results(Whole(model, changes, way(model, images)), images), expected)
    assert all_equal(results(outputs, images), expected)
    live = parameter_table(model, images).query("live")[["kind", "name"]].itertuples(index=False, name=None)
    moved = {pair for pair, output in zip(pairs, expected[1:], strict=True) if not torch.equal(output, expected[0])}
    assert moved == {pair for pair in live if not pair[1].startswith("aux.")}


@pytest.mark.parametrize("make", TRACEABLE.values(), ids=TRACEABLE)
def test_a_pass_leaves_network_changes_and_images_as_they_were_and_can_be_repeated(make):
    model, pairs, source, images = case(make)
    changes = changes_of(model, pairs, source)
    path = way(copy.deepcopy(model), images)
    before, tried, pixels = snapshot(model), [new.clone() for _, new in changes], images.clone()
    outputs = Suffixes(model, changes, images[:1], path)
    assert snapshot(model) == before
    first = results(outputs, images)
    assert all_equal(results(outputs, images), first)
    other = pictures(images.shape[-1], seed=7, count=2)
    assert all_equal(results(outputs, other), by_hand(model, pairs, source, other))
    assert all_equal(results(outputs, images), first)
    assert snapshot(model) == before
    assert torch.equal(images, pixels)
    assert all_equal([new for _, new in changes], tried)


@pytest.mark.parametrize("make", [residual, writes_into_the_images, branches_on_a_value])
def test_whole_runs_leave_network_and_images_as_they_were(make):
    model, pairs, source, images = case(make)
    before, pixels = snapshot(model), images.clone()
    outputs = Whole(model, changes_of(model, pairs, source))
    first = results(outputs, images)
    assert all_equal(results(outputs, images), first)
    assert snapshot(model) == before
    assert torch.equal(images, pixels)


@pytest.mark.parametrize("make", UNTRACEABLE.values(), ids=UNTRACEABLE)
def test_a_network_that_cannot_be_traced_is_run_whole(make):
    model, pairs, source, images = case(make)
    changes, before = changes_of(model, pairs, source), snapshot(model)
    with pytest.raises(UntraceableError):
        Suffixes(model, changes, images[:1])
    assert snapshot(model) == before
    outputs = outputs_of(model, changes, images[:1])
    assert isinstance(outputs, Whole)
    for each in (images.abs(), -images.abs()):
        assert all_equal(results(outputs, each), by_hand(model, pairs, source, each))


@pytest.mark.parametrize(
    "noisy",
    [
        lambda self, x: self.last(functional.dropout(self.first(x), training=True)),
        lambda self, x: self.last(self.first(x) + torch.randn_like(x)),
    ],
    ids=["dropout", "noise"],
)
def test_the_trial_finds_a_network_that_is_random(noisy):
    model, pairs, source, images = case(lambda: Net(noisy, first=conv(1, 3), last=conv(3, 2)))
    changes = changes_of(model, pairs, source)
    with pytest.raises(UntraceableError, match="another output"):
        Suffixes(model, changes, images[:1])
    assert isinstance(outputs_of(model, changes, images[:1]), Whole)


def test_a_change_beside_the_output_leaves_it_as_it_is():
    model, pairs, source, images = case(auxiliary)
    output, *after = results(Suffixes(model, changes_of(model, pairs, source), images[:1], ("out",)), images)
    assert torch.equal(output, model(images)["out"])
    for (_, name), each in zip(pairs, after, strict=True):
        assert torch.equal(each, output) == name.startswith("aux.")


def counted_calls(model, pairs, source, images):
    """{name: how often one pass calls the module}, copies of it included."""
    calls = Counter()

    def listen(module, name):
        def forward(self, *arguments, **options):
            calls.update([name])
            return kind.forward(self, *arguments, **options)

        kind = type(module)
        module.__class__ = type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})

    for name, module in model.named_modules():
        if not list(module.children()):
            listen(module, name)
    outputs = Suffixes(model, changes_of(model, pairs, source), images[:1], way(model, images))
    calls.clear()
    results(outputs, images)
    return calls


def test_a_change_runs_its_module_and_those_after_it_and_no_other():
    model, _, source, images = case(chain)
    norms = [(kind, "1") for kind in ("RM", "RV", "RW", "RB")]
    for pairs, expected in [
        ([], [1, 1, 1, 1]),
        ([("W", "3")], [1, 1, 1, 2]),  # the last layer: nothing before it runs again
        ([("W", "3"), ("B", "3")], [1, 1, 1, 3]),
        (norms, [1, 5, 5, 5]),
        ([("W", "0")], [2, 2, 2, 2]),
        ([("W", "0"), *norms, ("B", "3")], [2, 6, 6, 7]),
    ]:
        calls = counted_calls(copy.deepcopy(model), pairs, source, images)
        assert [calls[name] for name in "0123"] == expected, pairs


@pytest.mark.parametrize(
    ("make", "name", "again"),
    [
        (auxiliary, "aux.1", {"aux.1"}),
        (auxiliary, "head", {"head"}),
        (residual, "second", {"second", "relu", "last"}),
        (dropout_hands_on_what_is_read_again, "side", {"side"}),
        (parts_of_a_value, "left", {"left", "last"}),
        (twice, "norm", {"norm", "twin", "last"}),
        (twice, "twin", {"first", "twin", "norm", "last"}),
        (tied, "first", {"stem", "first", "second", "last"}),
        (weight_without_its_module, "first", set()),
    ],
)
def test_branches_beside_a_change_do_not_run_again(make, name, again):
    model, _, source, images = case(make)
    once = counted_calls(copy.deepcopy(model), [], source, images)
    calls = counted_calls(model, [("RW" if name in ("norm", "aux.1") else "W", name)], source, images)
    assert {each for each in calls if calls[each] > once[each]} == again
    if name != "twin":
        assert all(calls[each] <= once[each] + 1 for each in calls)


def test_the_last_layer_of_unet_is_all_that_runs_again_for_it():
    model, _, source, images = case(TRACEABLE["unet"])
    calls = counted_calls(model, [("W", "classifier"), ("B", "classifier")], source, images)
    assert calls.pop("classifier") == 3
    assert set(calls.values()) == {1}


@pytest.mark.parametrize("make", [chain, residual, TRACEABLE["unet"]], ids=["chain", "residual", "unet"])
def test_a_value_is_held_until_its_last_reader_has_run_and_no_longer(make):
    model, pairs, source, images = case(make)
    suffixes = Suffixes(model, changes_of(model, pairs, source), images[:1])
    alive, wanted = {}, []

    def watched(step, later):
        def function(*inputs, **options):
            read = {each for other in (step, *later) for each in other.node.all_input_nodes}
            held = {id(value()) for value in alive.values() if value() is not None}
            wanted.append(held <= {id(value()) for node, value in alive.items() if node in read})
            value = step.function(*inputs, **options)
            alive[step.node] = weakref.ref(value)
            return value

        return step._replace(function=function)

    with torch.inference_mode():
        for run in suffixes.runs:
            alive.clear()
            steps = [Step(run.node, run.value, None, []), *run.suffix]
            execute([watched(step, steps[place:]) for place, step in enumerate(steps)], suffixes._kept(images))
    assert len(wanted) > len(suffixes.runs)
    assert all(wanted)


def test_a_pass_is_left_with_what_suffixes_read():
    model, pairs, source, images = case(TRACEABLE["unet"])
    last = [pair for pair in pairs if pair[1] == "classifier"]
    suffixes = Suffixes(model, changes_of(model, last, source), images[:1])
    (read,) = suffixes.runs[0].node.all_input_nodes
    assert suffixes._kept(images).keys() == {read, suffixes.graph.result}


def test_nothing_is_copied_for_a_write_that_nobody_minds():
    model, pairs, source, images = case(TRACEABLE["unet"])
    suffixes = Suffixes(model, changes_of(model, pairs, source), images[:1])
    assert suffixes.graph.written  # ReLU in place
    assert not any(step.copied for run in suffixes.runs for step in run.suffix)


def test_threads_wait_where_whole_networks_run_that_may_keep_something():
    assert outputs_of(*chances(chain)).threads
    assert not outputs_of(*chances(tied)).threads


def chances(make):
    model, pairs, source, images = case(make)
    return model, changes_of(model, pairs, source), images[:1]


def test_a_network_runs_whole_where_what_suffixes_read_does_not_fit(monkeypatch):
    model, changes, images = chances(chain)

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(suffix, "execute", full)
    assert isinstance(outputs_of(model, changes, images), Whole)


@pytest.mark.parametrize("make", [chain, tied, TRACEABLE["unet"]], ids=["chain", "tied", "unet"])
def test_a_changed_network_shares_all_tensors_but_one(make):
    model, pairs, source, _ = case(make)
    before = snapshot(model)
    for own, new in changes_of(model, pairs, source):
        copied = changed(model, own, new)
        assert copied is not model
        assert named_tensors(copied).keys() == named_tensors(model).keys()
        for name, value in named_tensors(copied).items():
            mine = named_tensors(model)[name]
            assert value.data_ptr() == (new if mine is own else mine).data_ptr(), name
            assert (value is mine) == (mine is not own), name
    assert snapshot(model) == before


def test_a_tied_tensor_is_changed_wherever_it_stands():
    model = random(tied, 0)
    new = torch.ones_like(model.first.weight)
    copied = changed(model, model.first.weight, new)
    assert torch.equal(copied.first.weight, new)
    assert copied.second.weight is copied.first.weight
    assert not torch.equal(model.second.weight, new)


@pytest.mark.parametrize(
    ("run", "path"),
    [
        (lambda self, x: (self.last(x), self.aux(x)), (1,)),
        (lambda self, x: [self.last(x), self.aux(x)], (0,)),
        (lambda self, x: {"aux": self.aux(x), "logits": self.last(x)}, ("logits",)),
        (lambda self, x: {"out": (self.last(x), self.aux(x))}, ("out", 1)),
        (lambda self, x: Pair(self.last(x), self.aux(x)), ("second",)),
    ],
    ids=["tuple", "list", "logits", "nested", "named tuple"],
)
def test_suffixes_choose_the_same_output_as_whole_runs(run, path):
    model, pairs, source, images = case(lambda: Net(run, last=conv(1, 2), aux=conv(1, 3)))
    outputs = Suffixes(model, changes_of(model, pairs, source), images[:1], path)
    assert all_equal(results(outputs, images), by_hand(model, pairs, source, images, path))
