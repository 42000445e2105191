"""Layers of a graph that are alike, and the graph with a few of them.

A *cut* is a value that everything after it is computed from, and nothing before it: between two
layers there is one. Between cuts lie segments; where the same segments follow each other again and
again, names of tensors apart, they are layers. The graph without most of them is compiled
(`unfold.py` writes the others).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise

from infinisa.isa.language import Constant, Input, Node, Opaque, Scan, walk

from .equality.canonical import label
from .graph import Graph, Layers, Model

FRONT = 3
"""Layers that are kept before those that are left out: the second is the one that they are like,
and the third shows that it is. One is kept behind them."""

LONGEST = 64
"""Segments of a layer."""


@dataclass(frozen=True)
class Alike:
    """Layers of a graph that do the same to what the one before them yields.

    members  the nodes of each layer, in one order
    yields   what the next one reads of each
    inputs   the tensors of each layer, in one order
    ends     the results in each layer: (whether it updates a kept tensor, its name)
    """

    members: Sequence[Sequence[Node]]
    yields: Sequence[Node]
    inputs: Sequence[Sequence[str]]
    ends: Sequence[Sequence[tuple[bool, str]]]

    def __len__(self) -> int:
        return len(self.members)


@dataclass(frozen=True)
class Fold:
    """A graph, and the one without most of its layers: those after the third but for the last.

    tensors  what a tensor of the third layer is called in each that is left out, by its number
    back     what it is called in the second
    labels   what the source calls the nodes of the third layer, and of those before, in one that
             is left out, and in those before
    """

    whole: Graph
    graph: Graph
    tensors: Mapping[int, Mapping[str, str]]
    back: Mapping[str, str]
    labels: Mapping[int, Mapping[str, str]]

    @property
    def left_out(self) -> range:
        return range(FRONT, FRONT + len(self.tensors))


def folded(model: Model, graph: Graph) -> Fold | None:
    """The graph with few layers; None if it has not so many that are alike."""
    alike = Finder(model, graph).alike()
    if alike is None or len(alike) <= FRONT + 1:
        return None
    own = exclusive(alike)
    if own is None:
        return None
    last = len(alike) - 1
    of = {name: n for n, layer in enumerate([*range(FRONT), last]) for name in own[layer]}
    gone = range(FRONT, last)
    called = [_called(graph, alike, number) for number in range(last)]
    labels = [_labels(graph, alike, number) for number in range(last)]
    third = called[FRONT - 1]
    return Fold(
        graph,
        replace(_without(graph, alike), layers=Layers(of, (1, 1 + len(gone), 1, 1))),
        {n: dict(zip(third, called[n], strict=True)) for n in gone},
        dict(zip(third, called[FRONT - 2], strict=True)),
        {
            n: {
                old: new
                for before in range(FRONT)
                for old, new in zip(labels[before], labels[n - FRONT + 1 + before], strict=True)
            }
            for n in gone
        },
    )


def _labels(graph: Graph, alike: Alike, number: int) -> list[str]:
    return [graph.names[node] for node in alike.members[number] if node in graph.names]


def _called(graph: Graph, alike: Alike, number: int) -> list[str]:
    """What a program calls the tensors of a layer."""
    results = [f"{graph.name}/{name}" for update, name in alike.ends[number] if not update]
    return [*alike.inputs[number], *results]


def exclusive(alike: Alike) -> list[set[str]] | None:
    """The tensors that only one layer has; None if layers do not know theirs from each other's."""
    first, second = alike.inputs[:2]
    shared = {a for a, b in zip(first, second, strict=True) if a == b}
    for one, other in pairwise(alike.inputs):
        there = dict(zip(one, other, strict=True))
        back = dict(zip(other, one, strict=True))
        pairs = [*zip(one, other, strict=True)]
        if any(there[a] != b or back[b] != a or (a == b) != (a in shared) for a, b in pairs):
            return None
    own = [set(names) - shared for names in alike.inputs]
    together = set[str]().union(*own)
    return own if own[0] and len(together) == sum(map(len, own)) else None


def _without(graph: Graph, alike: Alike) -> Graph:
    """The graph without the layers between the third and the last, which reads what the third
    yields."""
    left_out = alike.members[FRONT:-1]
    made: dict[Node, Node] = {alike.yields[-2]: alike.yields[FRONT - 1]}
    gone = {end for ends in alike.ends[FRONT:-1] for end in ends}
    outputs = {key: node for key, node in graph.outputs.items() if (False, key) not in gone}
    updates = {key: node for key, node in graph.updates.items() if (True, key) not in gone}
    for node in walk([*outputs.values(), *updates.values()], made):
        children = [made.get(child, child) for child in node.children]
        if any(a is not b for a, b in zip(children, node.children, strict=True)):
            made[node] = node.rebuild(children)
    without = {node for members in left_out for node in members}
    return replace(
        graph,
        outputs={key: made.get(node, node) for key, node in outputs.items()},
        updates={key: made.get(node, node) for key, node in updates.items()},
        names={
            made.get(node, node): name for node, name in graph.names.items() if node not in without
        },
    )


@dataclass
class Finder:
    """Finds the layers of one graph."""

    model: Model
    graph: Graph
    numbers: dict[Hashable, int] = field(default_factory=dict)
    known: dict[Node, tuple[int, tuple[str, ...]]] = field(default_factory=dict)

    def alike(self) -> Alike | None:
        nodes = [*walk(self.graph.roots)]
        if not nodes or any(isinstance(node, Scan | Opaque) for node in nodes):
            return None  # whether a recurrence goes in chunks depends on values of weights
        path = self.path(nodes)
        above = reached(nodes, path)
        cuts = cuts_of(nodes, path, above)
        segments = segments_of(nodes, path, above, cuts)
        texts = [self.text(members, path[cut]) for cut, members in zip(cuts, segments, strict=True)]
        found = repeated([self.number(text) for text, _, _ in texts[:-1]])
        if found is None:
            return None
        begin, period, count = found
        layers = [range(begin + period * n, begin + period * (n + 1)) for n in range(count)]
        return Alike(
            [[node for n in layer for node in segments[n]] for layer in layers],
            [path[cuts[layer.stop]] for layer in layers],
            [[name for n in layer for name in texts[n][1]] for layer in layers],
            [[end for n in layer for end in texts[n][2]] for layer in layers],
        )

    def path(self, nodes: Sequence[Node]) -> list[Node]:
        """The longest way from an input or a kept tensor to a result, without that tensor."""
        given = self.model.inputs.keys() | self.model.kept.keys()
        depth: dict[Node, int] = {}
        for node in nodes:
            if isinstance(node, Input):
                depth[node] = 0 if node.name in given else -1
            else:
                below = max([depth[child] for child in node.children], default=-1)
                depth[node] = below + 1 if below >= 0 else -1
        found = [max(nodes, key=depth.__getitem__)]
        while depth[found[-1]] > 1:
            found.append(max(found[-1].children, key=depth.__getitem__))
        return found[::-1]

    def number(self, key: Hashable) -> int:
        return self.numbers.setdefault(key, len(self.numbers))

    def text(
        self, members: Sequence[Node], entered: Node
    ) -> tuple[Hashable, list[str], list[tuple[bool, str]]]:
        """(what a segment is but for names of tensors, these tensors, the results in it)"""
        at = {entered: -1}
        words: list[Hashable] = [entered.axes, entered.dtype]
        inputs: list[str] = []
        ends: list[tuple[bool, str]] = []
        for n, node in enumerate(members):
            below: list[Hashable] = []
            for child in node.children:
                if child in at:
                    below.append(at[child])
                else:
                    number, names = self.besides(child)
                    below.append((number, len(names)))
                    inputs += names
            here = self.ends.get(node, ())
            ends += here
            results = tuple(update for update, _ in here)
            words.append((type(node), label(node), tuple(below), node in self.graph.names, results))
            at[node] = n
        return tuple(words), inputs, ends

    @property
    def ends(self) -> Mapping[Node, Sequence[tuple[bool, str]]]:
        if not self._ends:
            for update, roots in ((False, self.graph.outputs), (True, self.graph.updates)):
                for key, node in roots.items():
                    self._ends.setdefault(node, []).append((update, key))
        return self._ends

    _ends: dict[Node, list[tuple[bool, str]]] = field(default_factory=dict)

    def besides(self, node: Node) -> tuple[int, tuple[str, ...]]:
        """What a value is that no cut goes into, but for names of tensors, and these tensors."""
        if node not in self.known:
            match node:
                case Input(name, axes, dtype):
                    key: Hashable = axes, dtype, self.given(name)
                    self.known[node] = self.number(key), (name,)
                case Constant():
                    self.known[node] = self.number(node), ()
                case _:
                    below = [self.besides(child) for child in node.children]
                    key = type(node), label(node), tuple(number for number, _ in below)
                    names = tuple(name for _, each in below for name in each)
                    self.known[node] = self.number(key), names
        return self.known[node]

    def given(self, name: str) -> Hashable:
        """A tensor of the model but for its name and content."""
        if name in self.model.weights:
            return "weight", self.model.weights[name].shape
        if name in self.model.kept:
            kept = self.model.kept[name]
            return "kept", kept.shape, kept.initial
        return "input", name


def reached(nodes: Sequence[Node], path: Sequence[Node]) -> dict[Node, int]:
    """The last value of a path that goes into each value; -1 for none."""
    on = {node: n for n, node in enumerate(path)}
    found: dict[Node, int] = {}
    for node in nodes:
        below = max([found[child] for child in node.children], default=-1)
        found[node] = on.get(node, below)
    return found


def cuts_of(nodes: Sequence[Node], path: Sequence[Node], above: Mapping[Node, int]) -> list[int]:
    """The values of a path past which nothing leads, by number."""
    on = {node: n for n, node in enumerate(path)}
    past = [0] * (len(path) + 1)
    for node in nodes:
        until = on[node] - 1 if node in on else above[node]
        for child in node.children:
            if 0 <= above[child] < until:
                past[above[child] + 1] += 1
                past[until + 1] -= 1
    return [n for n, count in enumerate(accumulate(past[:-1])) if not count]


def segments_of(
    nodes: Sequence[Node], path: Sequence[Node], above: Mapping[Node, int], cuts: Sequence[int]
) -> list[list[Node]]:
    """What lies behind each cut, up to the next one and with it."""
    begun = {cut: n for n, cut in enumerate(cuts)}
    of, last = [], -1
    for n in range(len(path)):
        last = begun.get(n, last)
        of.append(last)
    on = {node: n for n, node in enumerate(path)}
    found: list[list[Node]] = [[] for _ in cuts]
    for node in nodes:
        n = on[node] - 1 if node in on else above[node]
        if n >= 0 and of[n] >= 0:
            found[of[n]].append(node)
    return found


def repeated(numbers: Sequence[int]) -> tuple[int, int, int] | None:
    """(begin, period, how often) of what is there most often in a row, one after the other."""
    best: tuple[int, int, int] | None = None
    longest = 0
    for period in range(1, min(LONGEST, len(numbers) // 2) + 1):
        for begin, length in runs(numbers, period):
            if length + period > longest and length >= period:
                longest, best = length + period, (begin, period, length // period + 1)
    return best


def runs(numbers: Sequence[int], period: int) -> Iterator[tuple[int, int]]:
    """(begin, length) of stretches in which each number is also the one a period later."""
    begin = 0
    for n in range(len(numbers) - period + 1):
        if n + period == len(numbers) or numbers[n] != numbers[n + period]:
            if n > begin:
                yield begin, n - begin
            begin = n + 1
