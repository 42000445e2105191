"""A cone under names of its own, so that equal computations are equal expressions.

Inside a cone a name means what it is carried to: an axis that is reduced ends there, a renaming is
no computation. So queries, keys and values that are cut from one tensor and share the names of its
axes get a name for each role.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, NamedTuple, TypeAlias

from infinisa.isa.dtypes import is_float
from infinisa.isa.language import (
    Axis,
    Cast,
    Dot,
    Gather,
    Input,
    Node,
    Position,
    Reduce,
    Size,
    Stack,
    View,
    refine,
    walk,
)

from .canonical import is_number


@dataclass(frozen=True)
class Role:
    """What an axis does in a computation: in which leaves it is (a bit each), whether it is in the
    result, whether an operation ends it, and whether it is computed with (positions, indices)."""

    leaves: int
    out: bool
    ended: bool
    indexed: bool

    LOOP: ClassVar[int] = 1
    """The kind of axes that are in the result and nothing more: they may be loops outside."""

    @property
    def kind(self) -> int:
        """The role but for the leaves."""
        return self.out + 2 * self.ended + 4 * self.indexed


@dataclass(frozen=True)
class Local:
    """A computation over inputs x0, x1, ... and axes a0, a1, ... of its own.

    root    what it computes; floats are f64, casts between them are gone
    leaves  its inputs
    axes    what each axis is called outside: as the result has it, else as the first leaf
    roles   what each axis does
    nodes   for each node inside what it is called here
    """

    root: Node
    leaves: tuple[Input, ...]
    axes: Mapping[Axis, Axis]
    roles: Mapping[Axis, Role]
    nodes: Mapping[Node, Node]


Carry: TypeAlias = Callable[[Node], Mapping[Axis, "Axis | None"]]
"""What axes of a node's operands are in the node, where that is another name; None: ended there."""


class Marks(NamedTuple):
    """The occurrences of axes at a node by number: its own, those that end there, and of both
    those that are computed with."""

    own: tuple[int, ...]
    ended: Mapping[Axis, int]
    indexed: tuple[int, ...]


class Occurrences:
    """Numbers for the axes of nodes, and which of an operand's are which of a node's."""

    def __init__(self, carry: Carry) -> None:
        self.carry = carry
        self.marks: dict[Node, Marks] = {}
        self.links: dict[tuple[Node, Node], list[tuple[int, int]]] = {}
        self.count = 0

    def of(self, node: Node) -> Marks:
        found = self.marks.get(node)
        if found is None:
            found = self.marks[node] = self._marks(node)
        return found

    def _marks(self, node: Node) -> Marks:
        ended = [axis for axis, to in self.carry(node).items() if to is None]
        first, last = self.count, self.count + len(node.axes)
        self.count = last + len(ended)
        own = dict(zip(node.axes, range(first, last), strict=True))
        ends = dict(zip(ended, range(last, self.count), strict=True))
        indexed: list[int] = []
        match node:
            case View(_, index, _):
                read = [(axis, i) for axis, i in index if axis in ends]
                indexed = [own[a] for _, i in read for a in i.axes]
                indexed += [ends[axis] for axis, _ in read]
            case Position(axis) | Stack(_, axis):
                indexed = [own[axis]]
            case Gather() | Reduce("argmax"):
                indexed = [*ends.values()]
        return Marks((*own.values(),), ends, (*indexed,))

    def between(self, node: Node, child: Node) -> list[tuple[int, int]]:
        """For each axis of an operand (which casts may lie above) its number in the node, and its
        own."""
        found = self.links.get((node, child))
        if found is None:
            carried, mine = self.carry(node), self.of(node)
            own = dict(zip(node.axes, mine.own, strict=True))
            found = self.links[node, child] = [
                (mine.ended[axis] if (to := carried.get(axis, axis)) is None else own[to], theirs)
                for axis, theirs in zip(child.axes, self.of(child).own, strict=True)
            ]
        return found


def carried(node: Node, alike: Callable[[Axis, Axis], bool]) -> dict[Axis, Axis | None]:
    """See `Carry`; `alike` tells whether two axes have the same positions, so that a view which
    names one as the other does nothing."""
    match node:
        case Reduce(_, _, over) | Dot(_, _, over):
            return dict.fromkeys(over)
        case Gather(_, _, axis):
            return {axis: None}
        case View(x, index, _):
            kept = [axis for axis in x.axes if axis not in dict(index)]
            names = Counter([*kept, *(name for _, i in index for name in i.axes)])
            return {
                axis: i.plain if i.plain and names[i.plain] == 1 and alike(axis, i.plain) else None
                for axis, i in index
            }
    return {}


def carried_anywhere(node: Node) -> dict[Axis, Axis | None]:
    """As in an instruction, whose axes may be any: a renaming does nothing."""
    return carried(node, lambda a, b: True)


def localised(
    root: Node,
    leaves: Sequence[Node],
    inner: Sequence[Node],
    carry: Carry = carried_anywhere,
    split: bool = True,
) -> Local | None:
    """A computation under names of its own; None if a value would have one axis twice.

    leaves  what it is computed from
    inner   the nodes above the leaves, operands first; the last is the root
    carry   what becomes of an operand's axes
    split   whether one name may be several axes; if not, it is one wherever it occurs
    """
    outline = Outline(root, leaves, inner, {}, Occurrences(carry), split)
    return outline.local() if outline.sound else None


class Outline:
    """The axes of a computation and their roles, before it is written under its own names.

    groups  what stands for some of its nodes
    sound   whether no value would have one axis twice
    """

    def __init__(
        self,
        root: Node,
        leaves: Sequence[Node],
        inner: Sequence[Node],
        groups: Mapping[Node, Node],
        occurrences: Occurrences,
        split: bool = True,
    ) -> None:
        self.root, self.leaves, self.inner = root, leaves, inner
        self.groups, self.occurrences = groups, occurrences
        self.inside = {*leaves, *inner}
        self.marks = [occurrences.of(node) for node in (*leaves, *inner)]
        self.parent: dict[int, int] = {}
        self.names: dict[int, Axis] = {}
        self.axes: dict[Axis, Axis] = {}
        if not split:
            self._join_names()
        for node in reversed(inner):  # users first: what is joined is one step from its name
            for child in self._below(node):
                for mine, theirs in occurrences.between(node, child):
                    if theirs in self.parent:
                        self._join(mine, theirs)
                    elif theirs != (first := self._find(mine)):
                        self.parent[theirs] = first
        self.sound = self._name()
        if self.sound:
            self.axes.update(zip(self._axes(root), root.axes, strict=True))
            if len({*self.axes.values()}) < len(self.axes):
                self._tell_apart()

    def local(self) -> Local:
        made: dict[Node, Node] = {}
        inputs = []
        for n, leaf in enumerate(self.leaves):
            kind = "f64" if is_float(leaf.dtype) else leaf.dtype
            inputs.append(Input(f"x{n}", self._axes(leaf), kind))
            made[leaf] = inputs[-1]
        for node in self.inner:
            made[node] = self._made(node, made)
        return Local(made[self.root], tuple(inputs), self.axes, self.roles, made)

    @cached_property
    def roles(self) -> dict[Axis, Role]:
        """What each axis does."""
        masks = dict.fromkeys(self.axes, 0)
        for n, marks in enumerate(self.marks[: len(self.leaves)]):
            for at in marks.own:
                masks[self.names[at]] |= 1 << n
        out = {*self._axes(self.root)}
        inner = self.marks[len(self.leaves) :]
        ended = {self.names[at] for marks in inner for at in marks.ended.values()}
        indexed = {self.names[at] for marks in inner for at in marks.indexed}
        return {a: Role(masks[a], a in out, a in ended, a in indexed) for a in self.axes}

    # -- which occurrences are one axis

    def _find(self, at: int) -> int:
        parent = self.parent
        while (above := parent.get(at)) is not None:
            at = above
        return at

    def _join(self, first: int, other: int) -> None:
        first, other = self._find(first), self._find(other)
        if first != other:
            self.parent[other] = first

    def _join_names(self) -> None:
        """Take all axes of one name for one."""
        first: dict[Axis, int] = {}
        for node, marks in zip((*self.leaves, *self.inner), self.marks, strict=True):
            for axis, at in [*zip(node.axes, marks.own, strict=True), *marks.ended.items()]:
                self._join(first.setdefault(axis, at), at)

    def _below(self, node: Node) -> list[Node]:
        """The operands of a node that are values of the cone, casts seen through."""
        children = self.groups.get(node, node).children
        return [self._value(c) for c in children if c in self.inside or not is_number(c)]

    def _value(self, node: Node) -> Node:
        """The value of the cone that is under casts."""
        while node not in self.inside and isinstance(node, Cast):
            node = node.x
        return node

    def _name(self) -> bool:
        """Name the axes in the order in which they occur; False if a node has one twice."""
        names: dict[int, Axis] = {}
        nodes = zip((*self.leaves, *self.inner), self.marks, strict=True)
        for n, (node, marks) in enumerate(nodes):
            found = [*map(self._find, marks.own)]
            if len(set(found)) < len(found):
                return False
            called: Iterable[tuple[int, int, Axis]] = zip(marks.own, found, node.axes, strict=True)
            if n >= len(self.leaves) and marks.ended:
                ended = [(at, self._find(at), axis) for axis, at in marks.ended.items()]
                called = itertools.chain(called, ended)
            for at, first, axis in called:
                if first not in names:
                    names[first] = f"a{len(names)}"
                    self.axes[names[first]] = axis
                self.names[at] = names[first]
        return True

    def _tell_apart(self) -> None:
        """Where two axes have one name, give one that is not in the result another name that it
        has inside: below a renaming keys may have the name of the queries."""
        counts = Counter(self.axes.values())
        kept = {*self._axes(self.root)}
        for node, marks in zip(self.inner, self.marks[len(self.leaves) :], strict=True):
            for name, at in (*zip(node.axes, marks.own, strict=True), *marks.ended.items()):
                axis = self.names[at]
                if not counts[name] and counts[self.axes[axis]] > 1 and axis not in kept:
                    counts[self.axes[axis]] -= 1
                    counts[name] += 1
                    self.axes[axis] = name

    def _axis(self, node: Node, axis: Axis, ended: bool = False) -> Axis:
        marks = self.occurrences.of(node)
        return self.names[marks.ended[axis] if ended else marks.own[node.axes.index(axis)]]

    def _axes(self, node: Node) -> tuple[Axis, ...]:
        return tuple(self.names[at] for at in self.occurrences.of(node).own)

    # -- the same computation under these names

    def _made(self, node: Node, made: Mapping[Node, Node]) -> Node:
        written = self.groups.get(node, node)
        below = iter(self._below(node))
        children = [
            self._number(c) if is_number(c) and c not in self.inside else made[next(below)]
            for c in written.children
        ]
        match written:
            case Cast(x, to) if is_float(to) and is_float(x.dtype):
                return children[0]
            case Reduce(function, _, over):
                return Reduce(function, children[0], self._ended(node, over))
            case Dot(_, _, over):
                return Dot(children[0], children[1], self._ended(node, over))
            case View():
                return self._view(node, written, children[0])
            case Gather(_, _, axis):
                return Gather(children[0], children[1], self._axis(node, axis, True))
            case Stack(_, axis):
                return Stack(tuple(children), self._axis(node, axis))
            case Position(axis):
                return Position(self._axis(node, axis))
        return written.rebuild(children)

    def _ended(self, node: Node, over: Sequence[Axis]) -> tuple[Axis, ...]:
        return tuple(sorted(self._axis(node, axis, True) for axis in over))

    def _view(self, node: Node, view: View, child: Node) -> Node:
        """A view without its renamings."""
        ended = self.occurrences.of(node).ended
        index = tuple(
            (
                self._axis(node, axis, ended=True),
                replace(i, terms=tuple((self._axis(node, a), stride) for a, stride in i.terms)),
            )
            for axis, i in view.index
            if axis in ended
        )
        return View(child, index, view.fill) if index else child

    def _number(self, node: Node) -> Node:
        """A number, whose lengths are of axes here."""
        sizes = {n.axis for n in walk([node]) if isinstance(n, Size)}
        if not sizes:
            return node
        inside = {outer: (axis,) for axis, outer in reversed([*self.axes.items()])}
        return refine([node], {axis: inside[axis] for axis in sizes if axis in inside})[0]


def leaves_first(root: Node, leaves: Sequence[Node]) -> Iterator[Node]:
    """The nodes between leaves and a root, operands first."""
    known = set(leaves)
    stack: list[tuple[Node, bool]] = [(root, False)]
    while stack:
        node, ready = stack.pop()
        if ready:
            yield node
        elif node not in known and not is_number(node):
            known.add(node)
            stack.append((node, True))
            stack += [(child, False) for child in reversed(node.children)]
