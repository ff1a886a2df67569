"""Which channels of a network's tensors move together: what may change places without changing the function.

torch.fx shows it. Every output channel of a layer gets a number; where the network adds two maps their numbers become
one (union-find), where it concatenates them the lists of numbers do. Numbers that stand in the same layers may change
places, all others stay; `Channels.notes` says why.
"""

from __future__ import annotations

import contextlib
import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.modules.instancenorm import _InstanceNorm

from prr.errors import NetworkError
from prr.graph.tracing import torch_class, traced
from prr.layers import BATCH_NORM, CONVOLUTION, LINEAR, comparable, named_tensors, names_of

# What treats all channels alike and each by itself, with other operands channel by channel. Names without the `_` of
# their versions in place, of torch's functions, of methods and of Python's operators.
POINTWISE = {
    *("relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish", "hardtanh", "hardswish", "sigmoid"),
    *("hardsigmoid", "logsigmoid", "tanh", "softplus", "softsign", "tanhshrink", "hardshrink", "softshrink", "exp"),
    *("log", "sqrt", "rsqrt", "square", "abs", "neg", "pow", "clamp", "clip", "clamp_min", "clamp_max", "add", "sub"),
    *("mul", "div", "truediv", "iadd", "isub", "imul", "itruediv", "maximum", "minimum", "dropout", "dropout1d"),
    *("dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout", "stochastic_depth", "contiguous", "clone"),
    *("detach", "to", "type_as", "float", "double", "half"),
}
POINTWISE_MODULES = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardtanh, nn.Hardswish),
    *(nn.Softplus, nn.Hardsigmoid, nn.Sigmoid, nn.Tanh, nn.Softsign, nn.LogSigmoid, nn.Tanhshrink, nn.Hardshrink),
    *(nn.Softshrink, nn.Threshold, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout),
    nn.FeatureAlphaDropout,
)
POOLING = re.compile(r"(?:adaptive_?)?(?:avg|max|lp)_?pool([123])d", re.IGNORECASE)
RESIZING = {"interpolate", "upsample"}
SHAPE = {"size", "dim", "ndim", "shape", "dtype", "device", "is_cuda", "numel", "nelement", "requires_grad"}
ARITHMETIC = ("_operator", "builtins", "math")
NUMBER = object()  # the value of a node that is no tensor: a size, a dtype
REASONS = 2  # so many are written out


class Slot(NamedTuple):
    """Where a group of channels stands in a tensor."""

    name: str
    dimension: int
    index: Tensor  # (channels of the group, times that each occurs)


def kernel_dimension(module: nn.Module) -> int:
    """Where a kernel has its output channels."""
    return int(isinstance(module, _ConvTransposeNd) and module.groups == 1)


class Value(NamedTuple):
    """What is known of the channels of a map."""

    channels: np.ndarray  # (c,) their numbers
    spatial: int  # dimensions behind the channels
    batched: bool  # whether there is one dimension before the channels; else there may be more
    flat: bool = False  # whether each channel is spread over several places, as many as it had pixels

    def has_channels_at(self, dimension: int) -> bool | None:
        """None where it can't be known."""
        if dimension < 0:
            return dimension == -1 - self.spatial
        return dimension == 1 if self.batched else None


class Channels:
    """Which channels of the source's tensors move together.

    Attributes:
        lists: (name of a tensor, dimension) -> (channels,) their numbers, 0 for one that must stay.
        notes: first name of a tensor -> why the channels that come out of its layer must stay, all or some of them; ""
            where they are free, where the tensor has none, and where they are bound to the network's own inputs or
            outputs.

    Raises:
        NetworkError: see `aligned`.
    """

    def __init__(self, target: nn.Module, source: nn.Module):
        comparable(target, source)
        self.source, self.root = source, nn.Sequential(source)
        self.name_of: dict[int, str] = {}  # the first name of each tensor
        for name, tensor in named_tensors(source).items():
            self.name_of.setdefault(id(tensor), name)
        self.shared = {self.name_of[key] for key, names in names_of(source).items() if len(names) > 1}
        self.parent = [0]  # channel 0 stands for all that must stay where they are
        self.space = [0]  # the layer that a channel comes out of
        self.outputs: dict[int, np.ndarray] = {}
        self.lists: dict[tuple[str, int], np.ndarray] = {}
        self.pins: list[tuple[np.ndarray, str]] = []  # channels that must stay, and why
        self.fixed: dict[str, str] = {}  # tensors all of whose channels must stay, and why
        self.seen: set[str] = set()  # tensors of modules that are called
        self.followers: dict[str, set[str | None]] = {}  # layer -> what its output goes to: a batch norm or None
        self.leaders: dict[str, set[str | None]] = {}  # batch norm -> the layer that its input comes from
        for graph, hidden in self._traces():
            self._read(graph)
            tensors = named_tensors(source)
            self._fix([tensors[name] for name in sorted(hidden)], "used out of torch.fx's sight")
        if not self.lists:
            raise NetworkError(
                f"{type(source).__name__}: torch.fx sees none of its layers called; unwrap DataParallel by .module, or "
                "call its layers by themselves"
            )
        for (name, _), numbers in self.lists.items():
            if name in self.fixed:
                self.pins.append((numbers, self.fixed[name] and f"{name} is {self.fixed[name]}"))
        self.notes = self._notes()
        for numbers, _ in self.pins:
            self._tie(numbers, np.zeros_like(numbers))
        self.lists = {key: self._roots(numbers) for key, numbers in self.lists.items()}
        self.scaled = [pair for layer in self.followers if (pair := self._pair(layer))]

    def _traces(self) -> list[tuple[fx.Graph, set[str]]]:
        try:
            found = [traced(self.source, training=False)]
        except Exception as error:  # a network's own code may raise anything when it is given no tensor
            words = textwrap.shorten(f"{type(error).__name__}: {error}", 160, placeholder=" ...")
            raise NetworkError(
                f"{type(self.source).__name__}: torch.fx can't trace its forward pass on one input ({words}); take "
                "branches on the data out of it, or compare without alignment"
            ) from error
        with contextlib.suppress(Exception):  # what a network does in training only may need more than an input
            found.append(traced(self.source, training=True))
        return found

    def groups(self) -> list[list[Slot]]:
        """Channels that may change places with each other: where each such group stands."""
        spaces: dict[int, Counter] = {}
        for root, space in zip(self._roots(np.arange(len(self.parent))), self.space, strict=True):
            spaces.setdefault(int(root), Counter())[space] += 1
        alike: dict[frozenset, list[int]] = {}
        for root, counts in spaces.items():
            if root:
                alike.setdefault(frozenset(counts.items()), []).append(root)
        groups = [np.array(members) for members in alike.values() if len(members) > 1]
        group_of = np.full(len(self.parent), -1)
        for group, members in enumerate(groups):
            group_of[members] = group
        slots: list[list[Slot]] = [[] for _ in groups]
        for key, numbers in self.lists.items():
            for group in np.unique(group_of[numbers]):
                if group >= 0:
                    slots[group].append(slot_of(key, numbers, groups[group]))
        return [found for found in slots if found]

    # why channels stay

    def _notes(self) -> dict[str, str]:
        """Before the channels that stay become one, and it can't be told any more what fixed which."""
        why: dict[int, list[str]] = {0: ["joined with channels that are not known"]}
        for numbers, words in self.pins:
            for root in np.unique(self._roots(numbers)).tolist():
                why.setdefault(root, []).append(words)
        return {name: self._note(name, why) for name in self.name_of.values()}

    def _note(self, name: str, why: dict[int, list[str]]) -> str:
        if name in self.fixed:
            return self.fixed[name]
        dimension = kernel_dimension(self.source.get_submodule(name.rpartition(".")[0]))
        if (name, dimension) not in self.lists:
            return "" if name in self.seen else "not called"
        numbers = self._roots(self.lists[name, dimension])
        # with the network's own inputs and outputs among what fixes a channel, nothing could set it free
        held = [words for root in numbers.tolist() if (words := why.get(root)) and "" not in words]
        words = list(dict.fromkeys(word for words in held for word in words))
        text = "; ".join(words[:REASONS]) + (f"; and {len(words) - REASONS} more" if len(words) > REASONS else "")
        return f"{len(held)} of {len(numbers)} channels: {text}" if 0 < len(held) < len(numbers) else text

    def _pair(self, layer: str) -> tuple[str, str] | None:
        """The layer and the batch norm that alone sees it, if so."""
        (norm, *others) = self.followers[layer]
        if others or norm is None or self.leaders[norm] != {layer}:
            return None
        kernel, batch_norm = (self.source.get_submodule(name) for name in (layer, norm))
        names = {self.name_of[id(value)] for each in (kernel, batch_norm) for value in named_tensors(each).values()}
        free = batch_norm.running_var is not None and not names & (self.fixed.keys() | self.shared)
        fits = kernel.weight.shape[kernel_dimension(kernel)] == batch_norm.num_features
        return (layer, norm) if free and fits else None

    # union-find

    def _root(self, channel: int) -> int:
        while self.parent[channel] != channel:
            self.parent[channel] = channel = self.parent[self.parent[channel]]
        return channel

    def _roots(self, channels: np.ndarray) -> np.ndarray:
        return np.array([self._root(channel) for channel in channels.tolist()])

    def _tie(self, first: np.ndarray, second: np.ndarray) -> None:
        if np.array_equal(first, second):
            return
        for one, other in zip(first.tolist(), second.tolist(), strict=True):
            one, other = sorted((self._root(one), self._root(other)))
            self.parent[other] = one

    def _pin(self, values: Sequence[Any], why: str) -> None:
        """Keep the order of the channels of some values."""
        self.pins += [(value.channels, why) for value in values if isinstance(value, Value)]

    def _fix(self, tensors: Iterable[Tensor], why: str) -> None:
        """Keep the order of all channels of some tensors."""
        for tensor in tensors:
            self.fixed.setdefault(self.name_of[id(tensor)], why)

    def _list(self, tensor: Tensor | None, dimension: int, channels: np.ndarray) -> None:
        """Channels stand along a dimension of a tensor; a tensor that is used several times ties them."""
        if tensor is not None:
            key = self.name_of[id(tensor)], dimension
            self._tie(self.lists.setdefault(key, channels), channels)

    def _fresh(self, module: nn.Module, size: int) -> np.ndarray:
        """The numbers of a module's output channels, the same each time that it is called."""
        if id(module) not in self.outputs:
            self.outputs[id(module)] = np.arange(len(self.parent), len(self.parent) + size)
            self.space += [len(self.outputs)] * size
            self.parent += range(len(self.parent), len(self.parent) + size)
        return self.outputs[id(module)]

    # the graph, node by node

    def _read(self, graph: fx.Graph) -> None:
        values: dict[fx.Node, Any] = {}
        for node in graph.nodes:
            inputs = [values[each] for each in node.all_input_nodes]
            known = self._value(node, inputs, values)
            if isinstance(known, str):
                self._pin(inputs, known and f"{'joined with' if known in inputs else 'goes into'} {known}")
            values[node] = known
        for node in (node for node in graph.nodes if node.op == "call_module"):
            name, module = self._name(node), self.root.get_submodule(node.target)
            users = list(node.users)
            if isinstance(module, (*CONVOLUTION, *LINEAR)):
                self.followers.setdefault(name, set()).add(self._named(users, BATCH_NORM))
            elif isinstance(module, BATCH_NORM):
                self.leaders.setdefault(name, set()).add(self._named(node.all_input_nodes, (*CONVOLUTION, *LINEAR)))

    def _name(self, node: fx.Node) -> str:
        return node.target.removeprefix("0").removeprefix(".")

    def _named(self, nodes: Sequence[fx.Node], family: tuple[type, ...]) -> str | None:
        """The module's name, if there is one node, and it calls a module of a family that is what it seems."""
        if len(nodes) == 1 and nodes[0].op == "call_module":
            module = self.root.get_submodule(nodes[0].target)
            return self._name(nodes[0]) if isinstance(module, family) and known_module(module) else None
        return None

    def _value(self, node: fx.Node, inputs: list, values: dict[fx.Node, Any]) -> Any:
        """A `Value`, NUMBER, or what the order of a map that is not known comes from: "" for inputs and outputs."""
        if node.op == "get_attr":
            return self._attribute(node)
        if node.op == "call_module":
            return self._called(node, [value for value in inputs if value is not NUMBER])
        return self._function(node, inputs, values) if node.op in ("call_function", "call_method") else ""

    def _attribute(self, node: fx.Node) -> str:
        """A tensor that something else than its module uses, or a module that is not torch's."""
        tensor = named_tensors(self.root).get(node.target)
        if tensor is None:
            return "a constant"
        if node.users:
            self._fix([tensor], why_by_itself(self.root.get_submodule(node.target.rpartition(".")[0])))
        return f"{self._name(node)}, which is used by itself"

    def _called(self, node: fx.Node, inputs: list) -> Value | str:
        module = self.root.get_submodule(node.target)
        tensors = named_tensors(module).values()
        self.seen |= {self.name_of[id(value)] for value in tensors}
        known = self._module(module, inputs[0]) if len(inputs) == 1 and known_module(module) else None
        if isinstance(known, str):
            self._fix(tensors, known and f"behind {known}")
        elif known is None:
            self._fix(tensors, f"in a {described(module)}")
            known = f"{self._name(node)} ({described(module)})"
        return known

    def _module(self, module: nn.Module, value: Value | str) -> Value | str | None:
        """A `Value`; what its input's order comes from, if it has that; None for a module that is not followed."""
        if isinstance(module, CONVOLUTION):
            return self._convolution(module, value)
        if isinstance(module, LINEAR):
            return self._linear(module, value)
        if isinstance(value, str):
            follows = isinstance(module, (*BATCH_NORM, _InstanceNorm, nn.PReLU)) or not named_tensors(module)
            return value if follows else None
        if isinstance(module, (*BATCH_NORM, _InstanceNorm)):
            # a map without pixels goes into one of these; else it is (n, tokens, ..., channels), and tokens are normed
            fits = value.spatial > 0 or isinstance(module, (nn.BatchNorm1d, nn.SyncBatchNorm))
            channels = widened(value, module.num_features) if fits else None
            if channels is None:
                return None
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                self._list(tensor, 0, channels)
            return value
        if isinstance(module, nn.Flatten):
            return flattened(value) if (module.start_dim, module.end_dim) == (1, -1) else None
        if isinstance(module, POINTWISE_MODULES) or getattr(module, "num_parameters", 0) == 1:  # PReLU with one slope
            return value
        return value if keeps_channels(torch_class(module).__name__, value, getattr(module, "padding", ())) else None

    def _convolution(self, module: nn.Module, value: Value | str) -> Value | str | None:
        transposed, spatial = isinstance(module, _ConvTransposeNd), len(module.kernel_size)
        known = isinstance(value, Value)
        fits = known and value.spatial == spatial and len(value.channels) == module.in_channels
        if not fits:
            self._pin([value], f"goes into a {type(module).__name__} otherwise than as its channels")
        given = value.channels if fits else np.zeros(module.in_channels, dtype=int)
        if module.groups == 1:
            channels = self._fresh(module, module.out_channels)
            self._list(module.weight, 0 if transposed else 1, given)
            self._list(module.weight, 1 if transposed else 0, channels)
        elif module.groups == module.in_channels and fits:
            channels = given.repeat(module.out_channels // module.in_channels)
            self._list(module.weight, 0, given if transposed else channels)
        else:
            return None if known or module.groups != module.in_channels else value
        self._list(module.bias, 0, channels)
        return Value(channels, spatial, batched=True)

    def _linear(self, module: nn.Linear, value: Value | str) -> Value:
        known = isinstance(value, Value)
        given = widened(value, module.in_features) if known and value.spatial == 0 else None
        if given is None:
            self._pin([value], f"goes into a {type(module).__name__} otherwise than as its channels")
            given = np.zeros(module.in_features, dtype=int)
        channels = self._fresh(module, module.out_features)
        self._list(module.weight, 0, channels)
        self._list(module.weight, 1, given)
        self._list(module.bias, 0, channels)
        return Value(channels, spatial=0, batched=known and value.batched and value.spatial == 0)

    def _function(self, node: fx.Node, inputs: list, values: dict[fx.Node, Any]) -> Any:
        name, home = name_of(node)
        if (node.args[1] if name == "getattr" else name) in SHAPE:
            return NUMBER
        tensors = [value for value in inputs if value is not NUMBER]
        if inputs and not tensors and (home in ARITHMETIC or node.op == "call_method"):
            return NUMBER
        unknown = [value for value in tensors if isinstance(value, str)]
        if any(unknown) or (unknown and name in POINTWISE):
            return max(unknown)  # the network's input, "", is the least telling
        known = self._followed(node, tensors, values) if tensors and not unknown and known_home(home) else None
        return f"{name}()" + " of the network's input" * bool(unknown) if known is None else known

    def _followed(self, node: fx.Node, tensors: list[Value], values: dict[fx.Node, Any]) -> Value | None:
        """What a function of known maps gives; None for one that is not followed."""
        name, _ = name_of(node)
        value, argument = tensors[0], argument_of(node)
        if name in POINTWISE:
            return self._tied(tensors)
        if name in ("cat", "concat", "concatenate"):
            given = [values[each] for each in argument(0, "tensors", ())]
            return self._concatenated(given, argument(1, "dim", 0))
        if len(tensors) > 1:
            return None
        if name == "flatten":
            return flattened(value) if (argument(1, "start_dim", 0), argument(2, "end_dim", -1)) == (1, -1) else None
        if name in ("view", "reshape"):
            return flattened(value) if is_batch_by_rest(node) else None
        if name in ("mean", "sum", "amax"):
            return pooled(value, argument(1, "dim", None), argument(2, "keepdim", False))
        return value if keeps_channels(name, value, argument(1, "pad", ())) else None

    def _tied(self, values: list[Value]) -> Value | None:
        """Channel by channel; one channel alone goes with each."""
        widest = max(values, key=lambda value: len(value.channels))
        for value in values:
            if (value.spatial, value.flat) != (widest.spatial, widest.flat):
                return None
            if len(value.channels) == len(widest.channels):
                self._tie(value.channels, widest.channels)
            elif len(value.channels) > 1 or value.flat:
                return None
        return widest._replace(batched=any(value.batched for value in values))

    def _concatenated(self, values: list[Value], dimension: int) -> Value | None:
        at = {value.has_channels_at(dimension) if isinstance(dimension, int) else None for value in values}
        if at == {False}:
            return self._tied(values)
        if at != {True} or any(value.flat for value in values) or len({value.spatial for value in values}) > 1:
            return None
        return values[0]._replace(channels=np.concatenate([value.channels for value in values]))


def slot_of(key: tuple[str, int], numbers: np.ndarray, members: np.ndarray) -> Slot | None:
    """Where the members of a group stand in a list of channels, each with its occurrences in their order."""
    places = np.flatnonzero(np.isin(numbers, members))
    places = places[np.argsort(numbers[places], kind="stable")]
    return Slot(*key, torch.from_numpy(places.reshape(len(members), -1))) if len(places) else None


def known_module(module: nn.Module) -> bool:
    """Whether a module runs as torch's own does and nothing hangs on it."""
    return torch_class(module) is not None and not (module._forward_hooks or module._forward_pre_hooks)


def described(module: nn.Module) -> str:
    """What a module is in torch's words, and what keeps it from being followed if it is one that could be."""
    base = next(each.__name__ for each in type(module).__mro__ if each.__module__.startswith("torch.nn.modules"))
    if torch_class(module) is None:
        return f"{base} with its own forward"
    if not known_module(module):
        return f"{base} with hooks"
    return f"grouped {base}" if isinstance(module, CONVOLUTION) and module.groups > 1 else base


def why_by_itself(owner: nn.Module) -> str:
    """Why the order of channels must stay in a tensor of `owner` that some function uses."""
    if torch_class(owner) is not None:
        return "used without its module being called"
    own = any(each.__module__.startswith("torch.nn.modules.") for each in type(owner).__mro__ if each is not nn.Module)
    return f"in a {described(owner)}" if own else "used by itself"


def known_home(home: str | None) -> bool:
    """Whether a function of a known name is the one that is meant: another package may give the name to its own."""
    return home in (None, *ARITHMETIC, "torchvision.ops.stochastic_depth") or home.split(".")[0] == "torch"


def name_of(node: fx.Node) -> tuple[str, str | None]:
    """A function's or method's name without the `_` of in-place versions, and the module that it comes from."""
    name = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
    return name.rstrip("_"), None if node.op == "call_method" else getattr(node.target, "__module__", None)


def argument_of(node: fx.Node):
    """Looks an argument up by place or name."""
    return lambda place, name, default: node.args[place] if len(node.args) > place else node.kwargs.get(name, default)


def widened(value: Value, size: int) -> np.ndarray | None:
    """A list of `size` channels: a flat value repeats each of its own; None where the numbers don't agree."""
    times, rest = divmod(size, len(value.channels))
    return None if rest or (times != 1 and not value.flat) else value.channels.repeat(times)


def flattened(value: Value) -> Value | None:
    """(n, c, ...) -> (n, c x pixels)."""
    return value._replace(spatial=0, flat=value.flat or value.spatial > 0) if value.batched else None


def is_batch_by_rest(node: fx.Node) -> bool:
    """Whether a `view` is to (batch size, -1)."""
    shape = node.args[1] if len(node.args) == 2 and isinstance(node.args[1], (list, tuple)) else node.args[1:]
    if len(shape) != 2 or not isinstance(shape[0], fx.Node) or shape[1] != -1:
        return False
    name, _ = name_of(shape[0])
    if name == "getitem":  # of x.shape or x.size()
        return name_of(shape[0].args[0])[0] in ("getattr", "size") and shape[0].args[1] == 0
    return name == "size" and argument_of(shape[0])(1, "dim", None) == 0


def pooled(value: Value, dimensions: Any, keep: bool) -> Value | None:
    """A mean over pixels."""
    dimensions = [dimensions] if isinstance(dimensions, int) else dimensions
    if not isinstance(dimensions, (list, tuple)) or not all(isinstance(each, int) for each in dimensions):
        return None
    pixels = {*range(2, 2 + value.spatial), *range(-value.spatial, 0)} if value.batched and value.spatial else set()
    if not pixels.issuperset(dimensions):
        return None
    return value if keep else value._replace(spatial=value.spatial - len(dimensions))


def keeps_channels(name: str, value: Value, padding: Any) -> bool:
    """Whether pooling, padding or resizing of that name moves no channel: one dimension too many would be theirs."""
    if pool := POOLING.fullmatch(name):
        return int(pool[1]) == value.spatial
    if re.fullmatch(r"pad|\w*Pad[123]d", name):
        return isinstance(padding, (list, tuple)) and len(padding) <= 2 * value.spatial
    return value.spatial > 0 and (name in RESIZING or re.fullmatch(r"Upsample|Upsampling\w+", name) is not None)
