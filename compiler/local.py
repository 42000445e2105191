"""A cone under names of its own, so that equal computations are equal expressions.

Inside a cone a name means what it is carried to: an axis that is reduced ends there, a renaming is
no computation. So queries, keys and values that are cut from one tensor and share the names of its
axes get a name for each role.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, TypeAlias

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

Occurrence: TypeAlias = tuple[int, Axis, bool]
"""An axis of a node; True: one that an operation ends there."""


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
            names = Counter([*kept, *(i.plain for _, i in index)])
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
    groups: Mapping[Node, Node] | None = None,
    carry: Carry = carried_anywhere,
    split: bool = True,
) -> Local | None:
    """A computation under names of its own; None if a value would have one axis twice.

    leaves  what it is computed from
    inner   the nodes above the leaves, operands first; the last is the root
    groups  what stands for some of these
    carry   what becomes of an operand's axes
    split   whether one name may be several axes; if not, it is one wherever it occurs
    """
    outline = Outline(root, leaves, inner, groups or {}, carry, split)
    return outline.local() if outline.sound else None


class Outline:
    """The axes of a computation and their roles, before it is written under its own names.

    sound  whether no value would have one axis twice
    """

    def __init__(
        self,
        root: Node,
        leaves: Sequence[Node],
        inner: Sequence[Node],
        groups: Mapping[Node, Node],
        carry: Carry,
        split: bool = True,
    ) -> None:
        self.root, self.leaves, self.inner = root, leaves, inner
        self.groups, self.carry = groups, carry
        self.number = {node: n for n, node in enumerate((*leaves, *inner))}
        self.ids: dict[Occurrence, int] = {}
        self.parent: list[int] = []
        self.ended: list[Occurrence] = []
        self.indexed: list[Occurrence] = []
        self.names: dict[int, Axis] = {}
        self.axes: dict[Axis, Axis] = {}
        if not split:
            self._join_names()
        for node in inner:
            self._relate(node)
        self.sound = self._name()
        if self.sound:
            self.axes.update(zip(self._axes(root), root.axes, strict=True))

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
        for n, leaf in enumerate(self.leaves):
            for axis in self._axes(leaf):
                masks[axis] |= 1 << n
        out = set(self._axes(self.root))
        ended = {self.names[self._find(at)] for at in self.ended}
        indexed = {self.names[self._find(at)] for at in self.indexed}
        return {a: Role(masks[a], a in out, a in ended, a in indexed) for a in self.axes}

    # -- which occurrences are one axis

    def _find(self, at: Occurrence) -> int:
        parent = self.parent
        n = self.ids.get(at)
        if n is None:
            n = self.ids[at] = len(parent)
            parent.append(n)
        while parent[n] != n:
            parent[n] = n = parent[parent[n]]
        return n

    def _join(self, a: Occurrence, b: Occurrence) -> None:
        one, other = self._find(a), self._find(b)
        if one != other:
            self.parent[max(one, other)] = min(one, other)

    def _join_names(self) -> None:
        """Take all axes of one name for one."""
        first: dict[Axis, Occurrence] = {}
        for node, n in self.number.items():
            ended = [a for a, to in self.carry(node).items() if to is None]
            for at in [*((n, a, False) for a in node.axes), *((n, a, True) for a in ended)]:
                self._join(first.setdefault(at[1], at), at)

    def _below(self, node: Node) -> list[Node]:
        """The operands of a node that are values of the cone, casts seen through."""
        children = self.groups.get(node, node).children
        return [self._value(c) for c in children if c in self.number or not is_number(c)]

    def _value(self, node: Node) -> Node:
        """The value of the cone that is under casts."""
        while node not in self.number and isinstance(node, Cast):
            node = node.x
        return node

    def _relate(self, node: Node) -> None:
        """Join each axis of an operand with what the node carries it to."""
        mine = self.number[node]
        carried = self.carry(node)
        for child in self._below(node):
            theirs = self.number[child]
            for axis in child.axes:
                to = carried.get(axis, axis)
                if to is not None:
                    self._join((mine, to, False), (theirs, axis, False))
                else:
                    self._join((mine, axis, True), (theirs, axis, False))
                    self.ended.append((mine, axis, True))
        if isinstance(node, View):
            read = [(axis, i) for axis, i in node.index if carried[axis] is None]
            self.indexed += [(mine, a, False) for _, i in read for a in i.axes]
            self.indexed += [(mine, axis, True) for axis, _ in read]
        elif isinstance(node, Position | Stack):
            self.indexed.append((mine, node.axis, False))
        elif isinstance(node, Gather) or (isinstance(node, Reduce) and node.function == "argmax"):
            over = (node.axis,) if isinstance(node, Gather) else node.over
            self.indexed += [(mine, axis, True) for axis in over]

    def _name(self) -> bool:
        """Name the axes in the order in which they occur; False if a node has one twice."""
        for node, n in self.number.items():
            found = [(self._find((n, axis, False)), axis) for axis in node.axes]
            if len({at for at, _ in found}) < len(found):
                return False
            if n >= len(self.leaves):
                ended = (a for a, to in self.carry(node).items() if to is None)
                found += [(self._find((n, a, True)), a) for a in ended]
            for at, axis in found:
                if at not in self.names:
                    self.names[at] = name = f"a{len(self.names)}"
                    self.axes[name] = axis
        return True

    def _axis(self, n: int, axis: Axis, ended: bool = False) -> Axis:
        return self.names[self._find((n, axis, ended))]

    def _axes(self, node: Node) -> tuple[Axis, ...]:
        n = self.number[node]
        return tuple(self._axis(n, axis) for axis in node.axes)

    # -- the same computation under these names

    def _made(self, node: Node, made: Mapping[Node, Node]) -> Node:
        n = self.number[node]
        written = self.groups.get(node, node)
        below = iter(self._below(node))
        children = [
            self._number(c) if is_number(c) and c not in self.number else made[next(below)]
            for c in written.children
        ]
        match written:
            case Cast(x, to) if is_float(to) and is_float(x.dtype):
                return children[0]
            case Reduce(function, _, over):
                return Reduce(function, children[0], self._ended(n, over))
            case Dot(_, _, over):
                return Dot(children[0], children[1], self._ended(n, over))
            case View():
                return self._view(written, n, children[0])
            case Gather(_, _, axis):
                return Gather(children[0], children[1], self._axis(n, axis, True))
            case Stack(_, axis):
                return Stack(tuple(children), self._axis(n, axis))
            case Position(axis):
                return Position(self._axis(n, axis))
        return written.rebuild(children)

    def _ended(self, n: int, over: Sequence[Axis]) -> tuple[Axis, ...]:
        return tuple(sorted(self._axis(n, axis, True) for axis in over))

    def _view(self, node: View, n: int, child: Node) -> Node:
        """A view without its renamings."""
        carried = self.carry(node)
        index = tuple(
            (
                self._axis(n, axis, ended=True),
                replace(i, terms=tuple((self._axis(n, a), stride) for a, stride in i.terms)),
            )
            for axis, i in node.index
            if carried[axis] is None
        )
        return View(child, index, node.fill) if index else child

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
