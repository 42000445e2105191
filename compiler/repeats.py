"""Values of a graph that are computed alike: what was found for a layer holds for its repeats."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property

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

from .canonical import is_number, label
from .surroundings import Surroundings

DEPTH = 3
"""How far down two values must be alike to be tried as repeats: past how many values that have
several users, which most cones do not go through."""


@dataclass(frozen=True)
class Twins:
    """The nodes and the axes of one value, and those in the same places of another."""

    nodes: dict[Node, Node]
    axes: dict[Axis, Axis]

    def node(self, node: Node) -> Node:
        """The other value's node; a part of a sum grouped anew and a renaming are built anew."""
        if node in self.nodes:
            return self.nodes[node]
        made = node.rebuild([self.node(child) for child in node.children])
        if isinstance(made, View):
            index = tuple((self.axes[axis], self._index(i)) for axis, i in made.index)
            return View(made.x, index, made.fill)
        return made

    def _index(self, index: Affine) -> Affine:
        return replace(index, terms=tuple((self.axes[axis], s) for axis, s in index.terms))


class Repeats:
    """The values of one graph in classes: alike past `DEPTH`, names of tensors and axes apart."""

    def __init__(self, around: Surroundings) -> None:
        self.around = around
        self.first: dict[int, Node] = {}

    @cached_property
    def labels(self) -> dict[Node, int]:
        """Nodes that do the same to what they are computed from have one number."""
        numbers: dict[Hashable, int] = {}
        return {
            node: numbers.setdefault(
                (self._alone(node), len(users), node in self.around.free), len(numbers)
            )
            for node, users in self.around.users.items()
        }

    def _alone(self, node: Node) -> Hashable:
        """What a node is but for its children and for the names of axes."""
        number: dict[Axis, int] = {}

        def at(axis: Axis) -> int:
            return number.setdefault(axis, len(number))

        below = tuple(tuple(map(at, child.axes)) for child in node.children)
        own = tuple(map(at, node.axes))
        what: Hashable = ""
        match node:
            case Constant():
                what = str(node)
            case Map(function, _):
                what = function
            case Reduce(function, _, over):
                what = function, tuple(map(at, over))
            case Dot(_, _, over):
                what = tuple(map(at, over))
            case Cast(_, to):
                what = to
            case Gather(_, _, axis) | Stack(_, axis) | Position(axis):
                what = at(axis)
            case View(_, index, fill):
                what = str(fill), tuple(
                    (
                        at(axis), tuple((at(a), s) for a, s in i.terms), i.offset, i.divide,
                        i.modulo,
                    )
                    for axis, i in index
                )  # fmt: skip
            case _ if not isinstance(node, Input):
                what = label(node), node.axes
        extents = tuple(self.around.positions(axis) for axis in number)
        return type(node), what, below, own, node.dtype, extents

    @cached_property
    def classes(self) -> dict[Node, int]:
        several = {node for node, users in self.around.users.items() if len(users) > 1}
        before = self.labels
        for _ in range(DEPTH):
            numbers: dict[Hashable, int] = {}
            found: dict[Node, int] = {}
            for node, mine in self.labels.items():  # operands first
                below = [(before if c in several else found)[c] for c in node.children]
                found[node] = numbers.setdefault((mine, *below), len(numbers))
            before = found
        return before

    def earlier(self, root: Node) -> Node | None:
        """The first value of a root's class that was asked for; None if it is this."""
        if root not in self.classes:
            return None  # part of a sum that was grouped anew
        first = self.first.setdefault(self.classes[root], root)
        return None if first is root else first

    def twins(
        self, old: Node, new: Node, inner: Iterable[Node], leaves: Iterable[Node]
    ) -> Twins | None:
        """For some nodes under a value and what they are computed from those in the same places
        under another value; None if the two are not alike so far."""
        inside = {node for node in inner if node in self.labels}
        ends = {n for n in leaves if n in self.labels and not is_number(n)} - inside
        left = (inside | ends) - {old}
        known, back = {old: new}, {new: old}
        axes: dict[Axis, Axis] = {}
        waiting = [(old, new)]
        for a, b in waiting:
            for x, y in zip(a.axes, b.axes, strict=True):
                if axes.setdefault(x, y) != y:
                    return None
            if a not in inside and (a in ends or not passed(a)):
                continue
            for one, other in zip(a.children, b.children, strict=True):
                if one in known or other in back:
                    if known.get(one) is not other:
                        return None
                elif not self._alike(one, other, one in ends):
                    return None
                else:
                    known[one], back[other] = other, one
                    left.discard(one)
                    waiting.append((one, other))
        if left or len(set(axes.values())) < len(axes):
            return None
        return Twins(known, axes)

    def _alike(self, one: Node, other: Node, end: bool) -> bool:
        """Whether a node is the same operation as another, or a leaf of the same axes and type."""
        if self.labels[one] == self.labels[other]:
            return True
        places = (tuple(map(self.around.positions, node.axes)) for node in (one, other))
        return end and one.dtype == other.dtype and next(places) == next(places)


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
