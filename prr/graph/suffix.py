"""Run a network under many changes of one tensor each: what comes before a change is kept, the rest runs again.

`outputs_of` gives a pass over a batch of images. Where torch.fx can trace the network, the pass runs it once and then,
for each change, the changed module and its suffix: all that depends on it. Else it runs the whole network each time.
Both do the same operations on the same numbers, so on a CPU their outputs are equal bit for bit.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate, map_arg

from prr.graph.outputs import Path, select
from prr.graph.state import restored
from prr.graph.tracing import traced
from prr.layers import named_tensors

Change = tuple[Tensor, Tensor]  # a tensor of the network, and the values that are tried in its place
Values = dict[fx.Node, Any]  # what nodes of a network's graph have given


class UntraceableError(Exception):
    """torch.fx does not see all that this network does."""


def outputs_of(
    model: nn.Module, changes: Sequence[Change], example: Tensor, path: Path = (), keeps_state: bool = False
) -> Suffixes | Whole:
    """The fastest pass that is right for a network.

    Args:
        model: network in eval mode; not changed, and not to be changed while the pass is in use.
        changes: what is tried, one at a time; all other tensors stay as they are.
        example: (b, ...), an image or a few to try the pass on.
        path: to the tensor of the output that is wanted.
        keeps_state: whether a pass writes what the next one reads: then each begins with the network as it is.

    Returns:
        A function of images (b, ...) that yields the network's output, then the output under each change.

    Example:
        >>> import torch
        >>> from prr.graph.suffix import outputs_of
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(2, 1, bias=False)).eval()
        >>> _ = model[1].weight.data.fill_(1)
        >>> images, changes = torch.ones(1, 2), [(model[1].weight, torch.full((1, 2), 3.0))]
        >>> [output.item() for output in outputs_of(model, changes, images)(images)]
        [2.0, 6.0]
    """
    if keeps_state:
        return Whole(model, changes, path, keeps_state)
    try:
        with restored(model):  # a network may keep weights that it has computed in its first pass
            return Suffixes(model, changes, example, path)
    except (UntraceableError, torch.OutOfMemoryError):  # what all suffixes read may be more than one whole run needs
        return Whole(model, changes, path)


class Whole:
    """Runs the whole network for every change."""

    threads = False  # a network may keep something on itself between two of its lines

    def __init__(self, model: nn.Module, changes: Sequence[Change], path: Path = (), keeps_state: bool = False):
        self.variants = [shared_copy(model, {}), *(changed(model, *change) for change in changes)]
        self.path, self.keeps_state = path, keeps_state

    def __call__(self, images: Tensor) -> Iterator[Tensor]:
        for variant in self.variants:
            with restored(variant) if self.keeps_state else contextlib.nullcontext():
                output = select(variant(images.clone()), self.path)  # a network may write into its input
                yield output.clone() if self.keeps_state else output


class Step(NamedTuple):
    """How to run one node of a network's graph, and what may be freed after it."""

    node: fx.Node
    function: Callable
    copied: fx.Node | None  # what it writes into, where that has to stay as it is
    freed: list[fx.Node]  # what no later step needs


class Run(NamedTuple):
    """One change: what the changed node gives, and what depends on it. Without a node, the whole changed network."""

    value: nn.Module | Tensor
    node: fx.Node | None = None
    suffix: Sequence[Step] = ()


class Suffixes:
    """Runs the network once, then for each change the changed module and what depends on it.

    A tensor that is used in several places is changed in the whole network. What suffixes read is kept for one batch.

    Raises:
        UntraceableError: a network that torch.fx can't trace, that writes into views, or that differs when cut.
    """

    def __init__(self, model: nn.Module, changes: Sequence[Change], example: Tensor, path: Path = ()):
        self.path, self.graph = path, Graph(model, example, path)
        suffixes: dict[fx.Node, list[Step]] = {}
        self.runs = []
        for own, new in changes:
            node = self.graph.user(own)
            if node is None:
                self.runs.append(Run(changed(model, own, new)))
                continue
            if node not in suffixes:
                suffixes[node] = self.graph.suffix(node)
            value = self.graph.own(node)
            value = changed(value, own, new) if isinstance(value, nn.Module) else new
            self.runs.append(Run(value, node, suffixes[node]))
        kept = {self.graph.result}
        for node, steps in suffixes.items():
            inside = {node, *(step.node for step in steps)}
            kept.update(node.all_input_nodes, *(set(step.node.all_input_nodes) - inside for step in steps))
        self.prefix = self.graph.steps(self.graph.nodes, kept)
        self.threads = all(run.node for run in self.runs)  # a whole network may keep something, see Whole
        self._try(model, suffixes, example)

    def __call__(self, images: Tensor) -> Iterator[Tensor]:
        kept = self._kept(images)
        yield select(kept[self.graph.result], self.graph.rest)
        for run in self.runs:
            if run.node is None:
                yield select(run.value(images.clone()), self.path)
            else:
                yield self._finished(*run, kept)

    def _kept(self, images: Tensor) -> Values:
        return execute(self.prefix, {self.graph.images: images})

    def _finished(self, value: nn.Module | Tensor, node: fx.Node, suffix: Sequence[Step], kept: Values) -> Tensor:
        """The network's output when a node gives something else."""
        function = value if isinstance(value, nn.Module) else lambda: value
        values = execute([Step(node, function, None, []), *suffix], kept.copy())
        return select(values[self.graph.result], self.graph.rest)

    def _try(self, model: nn.Module, suffixes: dict[fx.Node, list[Step]], example: Tensor) -> None:
        """Each suffix has to give the network's own output from what the network itself has there."""
        with torch.inference_mode():
            expected, kept = select(model(example.clone()), self.path), self._kept(example)
            found = [self._finished(self.graph.own(node), node, steps, kept) for node, steps in suffixes.items()]
            if not all(alike(each, expected) for each in (select(kept[self.graph.result], self.graph.rest), *found)):
                raise UntraceableError("another output when cut")


class Graph:
    """What a network does to an image, step by step.

    Raises:
        UntraceableError: see `Suffixes`.
    """

    def __init__(self, model: nn.Module, example: Tensor, path: Path = ()):
        self.root = nn.Sequential(model)  # takes the images alone, whatever else the network could be given
        if any(module._forward_hooks or module._forward_pre_hooks for module in model.modules()):
            raise UntraceableError("hooks, which may carry something from one layer to another")
        try:
            graph, hidden = traced(model, training=False)
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")
                writes = Writes(fx.GraphModule(self.root, graph))
                writes.run(example.clone())
        except Exception as error:  # a network's own code may raise anything when it is given no tensor
            raise UntraceableError(str(error)) from error
        if hidden:
            raise UntraceableError(f"{', '.join(sorted(hidden))}: used out of sight, so a constant may hide it")
        self.written = writes.written
        self.nodes = [node for node in graph.nodes if node.op not in ("placeholder", "output")]
        self.images = next(node for node in graph.nodes if node.op == "placeholder")
        self.result, self.rest = _node_of(next(node for node in graph.nodes if node.op == "output").args[0], path)
        self.tensors = named_tensors(self.root)
        constants = [node for node in self.nodes if node.op == "get_attr" and node.target not in self.tensors]
        if not isinstance(self.result, fx.Node) or constants:
            raise UntraceableError(f"no single output, or constants that may hide a parameter: {constants}")
        self.functions = {node: self._function(node) for node in self.nodes}
        self.users: dict[int, list[fx.Node]] = {}
        for node in self.nodes:
            for value in self.held(node):
                self.users.setdefault(id(value), []).append(node)

    def _function(self, node: fx.Node) -> Callable:
        """What a node does with its arguments."""
        if node.op == "call_method":
            return lambda value, /, *others, **options: getattr(value, node.target)(*others, **options)
        if node.op == "call_function":
            return node.target
        own = self.own(node)
        return own if isinstance(own, nn.Module) else lambda: own

    def held(self, node: fx.Node) -> Collection[Tensor]:
        """The network's tensors that a node uses."""
        if node.op == "get_attr":
            return [self.tensors[node.target]]
        return named_tensors(self.root.get_submodule(node.target)).values() if node.op == "call_module" else []

    def own(self, node: fx.Node) -> nn.Module | Tensor:
        """The module or the tensor that a node stands for."""
        return self.root.get_submodule(node.target) if node.op == "call_module" else self.tensors[node.target]

    def user(self, value: Tensor) -> fx.Node | None:
        """The one node that uses a tensor; None if there are several, or if it is no simple one."""
        nodes = self.users.get(id(value), [])
        return nodes[0] if len(nodes) == 1 and nodes[0] not in self.written else None

    def suffix(self, node: fx.Node) -> list[Step]:
        """From what a node gives to the network's result."""
        after, before = {node}, {self.result}
        for each in self.nodes:
            if not after.isdisjoint(each.all_input_nodes):
                after.add(each)
        for each in reversed(self.nodes):
            if each in before:
                before.update(each.all_input_nodes)
        fresh = {node} if node.op == "call_module" else ()  # else a tensor of the network, or one that is tried
        return self.steps([each for each in self.nodes if each in after & before - {node}], {self.result}, fresh)

    def steps(
        self, nodes: Sequence[fx.Node], results: Collection[fx.Node], fresh: Collection[fx.Node] = ()
    ) -> list[Step]:
        """How to run some nodes, writing into no tensor that they are given, but for `fresh` ones."""
        made, needed, steps = {*nodes, *fresh}, set(results), []
        for node in reversed(nodes):
            written = self.written.get(node)
            copied = written if written in results or written not in made else None
            freed = [each for each in {node, *node.all_input_nodes} if each not in needed]
            needed.update(node.all_input_nodes)
            steps.append(Step(node, self.functions[node], copied, freed))
        return steps[::-1]


def execute(steps: Sequence[Step], values: Values) -> Values:
    """Run steps on what `values` holds; it is changed: given what they make, rid of what they were the last to need."""
    for node, function, copied, freed in steps:
        given = values | {copied: values[copied].clone()} if copied else values
        args, kwargs = map_arg((node.args, node.kwargs), given.__getitem__)
        values[node] = function(*args, **kwargs)
        for each in freed:
            del values[each]
    return values


class Writes(fx.Interpreter):
    """Runs a graph and finds the nodes that write into their input; what comes later reads what they return.

    Raises:
        UntraceableError: a node writes into a part of another value.
    """

    def __init__(self, module: fx.GraphModule):
        super().__init__(module, garbage_collect_values=False)
        self.written: dict[fx.Node, fx.Node] = {}  # node -> the node whose value it writes into
        self.same: dict[fx.Node, fx.Node] = {}  # node -> the node whose value it hands on, as dropout does

    def run_node(self, node: fx.Node) -> Any:
        inputs = {each: self.env[each] for each in node.all_input_nodes if isinstance(self.env[each], Tensor)}
        versions = [value._version for value in inputs.values()]
        result = super().run_node(node)
        for (each, value), version in zip(inputs.items(), versions, strict=True):
            first = self.same.get(each, each)
            if value._version != version:
                others = self.env.keys() - {first, *self.same, *self.written.values()}
                viewed = any(_place(value) in _places(self.env[other]) for other in others)
                if viewed or value is not result or each.op == "get_attr":
                    raise UntraceableError(f"{node}: writes into a view, or into the network")
                self.written[node] = first
            elif value is result and node.target != "contiguous":  # which may copy another batch
                self.same[node] = first
        return result

    def run(self, *inputs: Tensor) -> Any:
        output = super().run(*inputs)
        order = {node: place for place, node in enumerate(self.graph.nodes)}
        for node, first in self.same.items():
            node.replace_all_uses_with(first)
        for node, written in self.written.items():
            for user in [user for user in written.users if order[user] > order[node]]:
                user.replace_input_with(written, node)
        return output


def _place(value: Tensor) -> int:
    return value.untyped_storage().data_ptr()


def _places(value: Any) -> Collection[int]:
    """Where the tensors in a value lie."""
    found = set()
    map_aggregate(value, lambda each: found.add(_place(each)) if isinstance(each, Tensor) else None)
    return found


def changed(module: nn.Module, own: Tensor, new: Tensor) -> nn.Module:
    """A copy of a module with one tensor replaced, wherever it stands; all others are shared, not copied."""
    if isinstance(own, nn.Parameter) and not isinstance(new, nn.Parameter):  # a network may ask
        new = nn.Parameter(new, requires_grad=False)
    return shared_copy(module, {id(own): new})


def shared_copy(module: nn.Module, instead: dict[int, Tensor]) -> nn.Module:
    """A copy of a module that shares its tensors, but for those that others, by id, stand for."""
    shared = {id(value): value for value in named_tensors(module).values()}
    return copy.deepcopy(module, shared | instead)


def _node_of(output: Any, path: Path) -> tuple[Any, Path]:
    """The node that gives an output at the end of a path, or that gives what the rest of the path leads into."""
    while path and not isinstance(output, fx.Node):
        output, path = select(output, path[:1]), path[1:]
    return output, path


def alike(found: Tensor, expected: Tensor) -> bool:
    """Bit for bit on a CPU; a GPU may choose another algorithm."""
    if expected.device.type == "cpu":
        return torch.equal(found.nan_to_num(), expected.nan_to_num())
    scale = expected.nan_to_num().abs().max().item()
    return torch.allclose(found, expected, rtol=1e-4, atol=1e-5 * scale, equal_nan=True)
