"""Values of a graph that are computed alike: what was found for a layer holds for its repeats."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeAlias

from infinisa.isa.language import (
    Affine,
    Axis,
    Cast,
    Constant,
    Dot,
    Gather,
    Input,
    Map,
    Node,
    Position,
    Reduce,
    Stack,
    View,
)

from ..equality.canonical import label
from ..equality.surroundings import Surroundings

Region: TypeAlias = tuple[set[Node], set[Node]]
"""The nodes that a search went through, and those where it ended."""


@dataclass(frozen=True, eq=False)
class Twins:
    """The nodes and the axes of one value, and those in the same places of another.

    back      the nodes of the first for those of the other
    named     the axes of the first for those of the other
    paired    axes of two nodes that are known to be those of each other
    compared  nodes whose operands are twins too
    """

    nodes: dict[Node, Node]
    back: dict[Node, Node]
    axes: dict[Axis, Axis] = field(default_factory=dict)
    named: dict[Axis, Axis] = field(default_factory=dict)
    paired: set[tuple[tuple[Axis, ...], tuple[Axis, ...]]] = field(default_factory=set)
    compared: set[Node] = field(default_factory=set)

    def covers(self, node: Node) -> bool:
        """Whether all that a node consists of has been compared, down to the nodes of the graph.
        A renaming reads past a view that was an end: what that reads has not."""
        if node in self.nodes or isinstance(node, Constant):
            return True
        return bool(node.children) and all(map(self.covers, node.children))

    def node(self, node: Node) -> Node:
        """The other value's node; a part of a sum grouped anew and a renaming are built anew."""
        if node in self.nodes:
            return self.nodes[node]
        children = [self.node(child) for child in node.children]
        if isinstance(node, View):
            index = tuple((self.axes[axis], self._index(i)) for axis, i in node.index)
            return View(children[0], index, node.fill)
        return node.rebuild(children)

    def pair(self, node: Node, other: Node) -> bool:
        """Take the axes of two nodes for each other; False if one is another's already."""
        both = node.axes, other.axes
        if both in self.paired:
            return True
        for x, y in zip(*both, strict=True):
            if self.axes.setdefault(x, y) != y or self.named.setdefault(y, x) != x:
                return False
        self.paired.add(both)
        return True

    def unpair(self, count: int) -> None:
        """Keep the first pairs of axes only."""
        self.paired.clear()
        for axis in [*self.axes][count:]:
            other = self.axes.pop(axis)
            if self.named.get(other) == axis:
                del self.named[other]

    def _index(self, index: Affine) -> Affine:
        return replace(index, terms=tuple((self.axes[axis], s) for axis, s in index.terms))


class Repeats:
    """The values of one graph in classes: alike down to values that have several users, names of
    tensors and axes apart."""

    def __init__(self, around: Surroundings, sums: Mapping[Node, Node]) -> None:
        """`sums`: what each part of a sum that was grouped anew is a part of."""
        self.around, self.sums = around, sums
        self.numbers: dict[Hashable, int] = {}
        self.lengths: dict[Axis, int] = {}
        self.searched: dict[int, list[tuple[Node, Region]]] = {}
        self.known: dict[Node, list[Twins]] = {}

    def keep(self, root: Node, met: tuple[Collection[Node], Collection[Node]]) -> None:
        """A value that was searched, and all that the search saw."""
        inner, ends = ({p for n in some for p in graph_nodes(n, self.around)} for some in met)
        self.searched.setdefault(self._class(root), []).insert(0, (root, (inner, ends - inner)))

    def earlier(self, root: Node) -> tuple[Node, Twins] | None:
        """A value that was searched, with what is in the same places under this one: all that
        the search saw is the same here."""
        candidates = self.searched.get(self._class(root), [])
        likely = {twins.back[root] for twins in self.known.get(root, ())}
        for first, region in sorted(candidates, key=lambda each: each[0] not in likely):
            twins = self.twins(first, root, *region)
            if twins is not None:
                return first, twins
        return None

    @cached_property
    def labels(self) -> dict[Node, int]:
        """Nodes that do the same to what they are computed from have one number."""
        return {node: self._label(node) for node in self.around.users}

    def _label(self, node: Node) -> int:
        users = self.around.users.get(node, ())
        key = self._alone(node), len(users), None in users, node in self.around.free
        return self.numbers.setdefault(key, len(self.numbers))

    def _alone(self, node: Node) -> Hashable:
        """What a node is but for its children and for the names of axes."""
        if isinstance(node, Constant):
            return node
        children = node.children
        met = itertools.chain(*[child.axes for child in children], node.axes)
        at = {axis: n for n, axis in enumerate(dict.fromkeys(met))}
        below = tuple([tuple([at[axis] for axis in child.axes]) for child in children])
        own = tuple([at[axis] for axis in node.axes])
        what: Hashable = ""
        match node:
            case Map(function, _):
                what = function
            case Reduce(function, _, over):
                what = function, tuple([at[axis] for axis in over])
            case Dot(_, _, over):
                what = tuple([at[axis] for axis in over])
            case Cast(_, to):
                what = to
            case Gather(_, _, axis) | Stack(_, axis) | Position(axis):
                what = at[axis]
            case View(_, index, fill):
                what = str(fill), tuple(
                    (
                        at[axis], tuple((at[a], s) for a, s in i.terms), i.offset, i.divide,
                        i.modulo,
                    )
                    for axis, i in index
                )  # fmt: skip
            case _ if not isinstance(node, Input):
                what = label(node), node.axes
        extents = tuple([self._length(axis) for axis in at])
        return type(node), what, below, own, node.dtype, extents

    def _length(self, axis: Axis) -> int:
        """Axes with the same positions have one number."""
        if axis not in self.lengths:
            found = self.around.positions(axis)
            self.lengths[axis] = self.numbers.setdefault(found, len(self.numbers))
        return self.lengths[axis]

    @cached_property
    def classes(self) -> dict[Node, int]:
        found: dict[Node, int] = {}
        for node, mine in self.labels.items():  # operands first
            below = (
                self.labels[c] if len(self.around.users[c]) > 1 else found[c] for c in node.children
            )
            found[node] = self.numbers.setdefault((mine, *below), len(self.numbers))
        return found

    def _class(self, node: Node) -> int:
        """The class of a node of the graph, or of a part of a sum that was grouped anew."""
        if node not in self.classes:
            below = (self._class(child) for child in node.children)
            whole = self.classes[self.sums[node]] if node in self.sums else -1
            key = self._label(node), whole, *below
            self.classes[node] = self.numbers.setdefault(key, len(self.numbers))
        return self.classes[node]

    def twins(self, old: Node, new: Node, inner: set[Node], ends: set[Node]) -> Twins | None:
        """For some nodes under a value and what they are computed from (`ends`) those in the same
        places under another value; None if the two are not alike so far. Values of one layer are
        asked about one after the other: what was compared for one is known for the next."""
        for twins in self.known.get(new, ()):
            if twins.nodes.get(old) is new and self._compare(twins, inner, ends):
                return twins
        twins = Twins({old: new}, {new: old})
        return twins if self._compare(twins, inner, ends) else None

    def _compare(self, twins: Twins, inner: set[Node], ends: set[Node]) -> bool:
        """Extend twins to some nodes; False, and they are as before, if these are not alike."""
        known, back = twins.nodes, twins.back
        left = inner - twins.compared
        left |= ends - known.keys()
        if not left:
            return True
        fresh: list[tuple[Node, Node]] = []
        paired = len(twins.axes)
        waiting = [*(known.keys() & left)]
        waiting += (a for a in ends if a in known and passed(a) and left & {*a.children})
        alike, compared = all(twins.pair(a, known[a]) for a in waiting), []
        for a in waiting:
            if not alike:
                break
            if a not in inner and not (passed(a) and (a not in ends or left & {*a.children})):
                continue
            compared.append(a)
            left.discard(a)
            for one, other in zip(a.children, known[a].children, strict=True):
                if one in known or other in back:
                    alike = alike and known.get(one) is other
                elif self._named(one) != self._named(other) or not twins.pair(one, other):
                    alike = False
                else:
                    known[one], back[other] = other, one
                    fresh.append((one, other))
                    if one not in inner:
                        left.discard(one)
                    waiting.append(one)
        if not alike or left:
            for one, other in fresh:
                del known[one], back[other]
            twins.unpair(paired)
            return False
        twins.compared.update(compared)
        for _, other in fresh:
            self.known.setdefault(other, []).append(twins)
        return True

    def _named(self, node: Node) -> int:
        return self.labels[node] if node in self.labels else self._label(node)


def passed(node: Node) -> bool:
    """Whether a node may lie inside of a match unnamed: a cast that is seen through, or part of a
    sum that is grouped anew."""
    return isinstance(node, Cast) or (isinstance(node, Map) and node.function == "add")


def graph_nodes(node: Node, around: Surroundings) -> Iterable[Node]:
    """A node of the graph, or those that something made for a match consists of."""
    if node in around.users or not node.children:
        yield node
    else:
        for child in node.children:
            yield from graph_nodes(child, around)
