"""Which of a file's sets of tensors a network's weights are, and under which names they stand there."""

from __future__ import annotations

import re
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from prr.errors import DataError

# Keys and prefixes that say nothing but "the network"
WRAPPERS = {"state_dict", "model_state_dict", "model", "module", "network", "net", "weights", "params"}
PARTS = {*WRAPPERS, "backbone", "encoder", "decoder", "student", "generator", "discriminator"}
AVERAGED = re.compile(r"(^|_)(ema|swa|avg|averaged?|shadow|teacher)(_|$)")  # a second copy of the network
TRAINING = re.compile(r"(^|_)(optim|optimizers?|sched\w*|scaler|rng|hyper|callbacks|loops|criterion|loss(es)?)(_|$)")
INFIX = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\.")

State = OrderedDict[str, Tensor]  # with the versions of its modules in _metadata, where the file has them
Keys = tuple[str, ...]
Sets = dict[Keys | None, State]
Shapes = Mapping[str, torch.Size | None]


class Place(NamedTuple):
    """One way to take a network's weights from a file.

    Args:
        keys: of the dict that holds them; None where all dicts are joined, their keys before the names.
        drop: what is dropped before the names.
        add: what is put there.
    """

    keys: Keys | None
    drop: str = ""
    add: str = ""

    @property
    def rank(self) -> tuple[int, int]:
        """What comes first where several fit alike: names as they are, and the network before its average."""
        if self.keys is None:
            return 3, 0
        return _rank(self.keys), _rank(self.drop.split(".")[:-1]) if self.drop or self.add else -1

    @property
    def words(self) -> str:
        """How to ask for it."""
        key = [f"--key {'.'.join(self.keys or ()) or '.'}"] if self.keys or not self.drop else []
        return " ".join([*key, *([f"--strip {self.drop}"] if self.drop else [])])

    def __call__(self, name: str) -> str:
        return self.add + name[len(self.drop) :] if name.startswith(self.drop) else name


def _rank(parts: Collection[str]) -> int:
    return 2 if any(map(AVERAGED.search, parts)) else 0 if parts and WRAPPERS.issuperset(parts) else 1


def fitted(
    path: Path, content: Any, own: Mapping[str, Tensor], key: str | None, strip: str | None
) -> tuple[State, list[str]]:
    """The set that is meant in a file's content, under the names of a network's own tensors, and what was done."""
    found = _sets(content)
    if not found:
        kind = type(content).__name__
        raise DataError(f"{path}: expected named tensors, found {kind} without any; save the network's state_dict()")
    sets, missed = _under(path, found, key)
    sets, cleaned = _cleaned(sets)
    sets, stripped = _stripped(sets, strip)
    if own and len(sets) > 1:
        sets[None] = _joined(sets)
    full = {clean(name): name for name in own}
    place, others = _chosen(path, sets, {name: shape(own[full[name]]) for name in full})
    state = sets[place.keys]
    count = sum(name.startswith(place.drop) for name in state)
    before = "every name" if count == len(state) else f"{count} of {len(state)} names"
    moved = [f"{verb} {what!r} before {before}" for verb, what in (("dropped", place.drop), ("put", place.add)) if what]
    state = _renamed(_renamed(state, place), lambda name: full.get(name, name))
    return state, [*missed, *_unwrapped(content, found, place.keys), *others, *cleaned, *stripped, *moved]


def clean(name: str) -> str:
    """A name without the modules that torch wraps around others."""
    return INFIX.sub("", name)


def shape(value: Tensor) -> torch.Size | None:
    """A tensor's; None where it has none yet."""
    return None if is_lazy(value) else value.shape


def _sets(content: Any) -> dict[Keys, State]:
    """All dicts of named tensors in a file, by the keys that lead to them."""
    found, queue, seen = {}, deque([((), content)]), set()
    while queue:
        keys, content = queue.popleft()
        if not isinstance(content, Mapping) or id(content) in seen:  # one dict may stand under two keys
            continue
        seen.add(id(content))
        named = {name: value for name, value in content.items() if isinstance(name, str)}
        state = OrderedDict((name, value.detach()) for name, value in named.items() if isinstance(value, Tensor))
        state._metadata = getattr(content, "_metadata", {})
        if any(value.ndim for value in state.values()):  # else they count steps
            found[keys] = state
        queue.extend(((*keys, name), value) for name, value in named.items() if not TRAINING.search(name))
    return found


def _under(path: Path, sets: Sets, key: str | None) -> tuple[Sets, list[str]]:
    """The sets that a caller's key leads to, all of them without one, and what there is to say about it."""
    if key == ".":
        return {None: _joined(sets)}, []
    start = "" if key is None else f"{key}."
    chosen = {keys: state for keys, state in sets.items() if f"{'.'.join(keys)}.".startswith(start)}
    if not chosen and len(sets) > 1:
        known = _listed(Place(keys).words for keys in sets)
        raise DataError(f"{path}: expected the key {key!r}, found {known}; take one of these")
    return chosen or sets, [] if chosen else [f"no key {key!r}: the only set of tensors in it was taken"]


def _joined(sets: Sets) -> State:
    return OrderedDict((".".join((*keys, name)), state[name]) for keys, state in sets.items() for name in state)


def _cleaned(sets: Sets) -> tuple[Sets, list[str]]:
    """The sets without the names of what torch wraps around modules, wherever it stands."""
    wraps = dict.fromkeys(match[0] for state in sets.values() for name in state for match in INFIX.finditer(name))
    notes = [f"dropped {each!r} within names" for each in wraps]
    return {keys: _renamed(state, clean) for keys, state in sets.items()}, notes


def _stripped(sets: Sets, strip: str | None) -> tuple[Sets, list[str]]:
    """What stands behind a caller's prefix, without it; all where nothing does."""
    if not strip:
        return sets, []
    prefix = clean(f"{strip.removesuffix('.')}.")

    def behind(name: str) -> str | None:
        return name[len(prefix) :] if name.startswith(prefix) else None

    result = {keys: moved for keys, state in sets.items() if (moved := _renamed(state, behind))}
    if not result:
        return sets, [f"no name begins with {prefix!r}: read without dropping it"]
    count, total = (sum(map(len, each.values())) for each in (result, sets))
    return result, [f"took the {count} of {total} names that begin with {prefix!r}, without it"]


def _renamed(state: State, rename: Callable[[str], str | None]) -> State:
    """A state dict under other names: None leaves a tensor out, and what keeps its name gives way."""
    names = {name: rename(name) for name in state}
    moved = {new for name, new in names.items() if new != name}
    result = OrderedDict(
        (new, state[name]) for name, new in names.items() if new is not None and (new != name or name not in moved)
    )
    versions = getattr(state, "_metadata", {})
    owners = ((rename(f"{owner}." if owner else ""), version) for owner, version in versions.items())
    result._metadata = {owner.removesuffix("."): version for owner, version in owners if owner is not None}
    return result


def _chosen(path: Path, sets: Sets, shapes: Shapes) -> tuple[Place, list[str]]:
    """Where to take the weights for a network from, and what else is there."""
    fits = {place: fit for keys, state in sets.items() for place, fit in _fitting(keys, state, shapes).items()}
    best = max(fits.values())
    alike = sorted((place for place, fit in fits.items() if fit == best), key=lambda place: place.rank)
    undecided = [place for place in alike if place.rank == alike[0].rank]
    if len(undecided) > 1:
        choice = f"choose one: {_listed(place.words for place in undecided)} (key= and strip= in Python)"
        raise DataError(f"{path}: expected one set of weights, found {len(undecided)} that are as likely; {choice}")
    place = alike[0]
    others = [Place(keys) for keys in sets if None not in (keys, place.keys) and keys != place.keys]
    named = [each for each, fit in fits.items() if each.keys == place.keys and fit[0] == best[0] > 0]
    others += [each for each in named if each.drop != place.drop]
    told = f"not the only set of tensors: others are taken with {_listed(each.words for each in others)}"
    return place if shapes else _usual(place, sets[place.keys]), [told] if others else []


def _fitting(keys: Keys | None, state: State, shapes: Shapes) -> dict[Place, tuple[int, int]]:
    """How many names of a network, and shapes of these, a set has from each place that may be meant."""
    fits = {}
    for place in (Place(keys), *_guesses(keys, state, shapes)):
        found = {name: value for name, value in _renamed(state, place).items() if name in shapes}
        if 2 * len(found) >= min(len(state), len(shapes)) or place == Place(keys):  # else they agree by chance
            fits[place] = len(found), sum(shapes[name] in (None, value.shape) for name, value in found.items())
    return fits


def _guesses(keys: Keys | None, state: State, names: Collection[str]) -> list[Place]:
    """What may stand before the names of a file or of a network: where their ends agree as far as they can."""
    starts = {}
    for name in names:
        for start, end in _cut(name):
            starts[end] = None if end in starts else start  # `0.weight` of several blocks says nothing
    votes = Counter()
    for name in state:
        drop, end = next(((start, end) for start, end in _cut(name) if end in starts), ("", ""))
        votes[drop, starts.get(end)] += 1
    places = [Place(keys, drop, add) for (drop, add), _ in votes.most_common(100) if add is not None and drop + add]
    return [place for place in places if _likely(place.drop, state) and _likely(place.add, names)]


def _cut(name: str) -> Iterator[tuple[str, str]]:
    """A name in two, wherever it can be cut before a dot's next part; the longest end comes first."""
    parts = name.split(".")
    for place in range(len(parts)):
        yield "".join(f"{part}." for part in parts[:place]), ".".join(parts[place:])


def _likely(prefix: str, names: Collection[str]) -> bool:
    """Whether it wraps a network, not a part of it: it is known for that, or many names have it."""
    known = all(part in PARTS or AVERAGED.search(part) for part in prefix.split(".")[:-1])
    return known or 3 * sum(name.startswith(prefix) for name in names) >= len(names)


def _usual(place: Place, state: State) -> Place:
    """The place, without what usually stands before names where all of them have it."""
    for drop in (f"{place.drop}{part}." for part in PARTS):
        if all(name.startswith(drop) for name in state):
            return _usual(place._replace(drop=drop), state)
    return place


def _unwrapped(content: Any, sets: Collection[Keys], keys: Keys | None) -> list[str]:
    """How a set was wrapped, and what no weights stand beside it."""
    if keys is None:
        return [f"joined {_listed(repr('.'.join(each)) for each in sets)}"]
    rest = []
    for depth, key in enumerate(keys):
        leading = {each[: depth + 1] for each in sets}
        rest += [name for name in content if (*keys[:depth], name) not in leading]
        content = content[key]
    return [*(f"unwrapped {key!r}" for key in keys), *([f"left out: {_listed(map(repr, rest))}"] if rest else [])]


def _listed(words: Iterable[str]) -> str:
    words = list(words)
    return ", ".join(words[:6]) + (f" and {len(words) - 6} more" if len(words) > 6 else "")
