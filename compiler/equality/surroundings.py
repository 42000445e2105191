"""The graph around a cone: who else reads what is inside it, how long its axes are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from infinisa.isa.language import (
    Axis,
    Constant,
    Immediate,
    Input,
    Node,
    Position,
    Scan,
    Size,
    View,
    walk,
)
from infinisa.isa.program import Count, Extent

from .local import Occurrences, carried


@dataclass(frozen=True, eq=False)
class Surroundings:
    """The graph around a cone, in canonical form.

    users    who reads each node; None stands for the outside
    extents  the positions of each axis
    """

    users: Mapping[Node, frozenset[Node | None]]
    extents: Mapping[Axis, Extent]

    @cached_property
    def sizes(self) -> dict[Axis, int]:
        """The most positions of each axis."""
        return {axis: extent.most for axis, extent in self.extents.items()}

    @cached_property
    def order(self) -> dict[Node, int]:
        """The nodes by number, operands first."""
        return {node: n for n, node in enumerate(self.users)}

    @cached_property
    def _below(self) -> dict[Node, int]:
        found: dict[Node, int] = {}
        for node, n in self.order.items():
            mask = 1 << n
            for child in node.children:
                mask |= found[child]
            found[node] = mask
        return found

    def alike(self, a: Axis, b: Axis) -> bool:
        """Whether two axes have the same positions."""
        return self.positions(a) == self.positions(b)

    def positions(self, axis: Axis) -> tuple[Count, Count, int]:
        """The start, the length and the most positions of an axis."""
        extent = self.extents[axis]
        return extent.start, extent.length, extent.most

    def carry(self, node: Node) -> Mapping[Axis, Axis | None]:
        """What becomes of the axes of a node's operands in it."""
        if node not in self._carried:
            self._carried[node] = carried(node, self.alike)
        return self._carried[node]

    @cached_property
    def occurrences(self) -> Occurrences:
        return Occurrences(self.carry)

    @cached_property
    def _carried(self) -> dict[Node, Mapping[Axis, Axis | None]]:
        return {}

    def renames(self, node: Node) -> bool:
        """Whether a value is another only under other names of its axes."""
        return isinstance(node, View) and None not in self.carry(node).values()

    def fixed(self, axis: Axis) -> bool:
        """Whether an axis counts from 0 to a known number."""
        extent = self.extents[axis]
        return not extent.length.terms and extent.start == Count()

    def below(self, node: Node) -> int:
        """What a value depends on, itself included: a bit for the number of each node."""
        if node in self._below:
            return self._below[node]
        mask = 0
        for child in node.children:
            mask |= self.below(child)
        return mask

    @cached_property
    def free(self) -> frozenset[Node]:
        """Values that no tensor goes into, such as masks: they may be computed again."""
        found: set[Node] = set()
        for node in walk(self.users):
            leaf = isinstance(node, Input | Scan) or not (node.children or _elementary(node))
            if not leaf and all(child in found for child in node.children):
                found.add(node)
        return frozenset(found)

    @staticmethod
    def of(roots: Sequence[Node], extents: Iterable[Extent]) -> Surroundings:
        users: dict[Node, set[Node | None]] = {node: set() for node in walk(roots)}
        for node in users:
            for child in node.children:
                users[child].add(node)
        for root in roots:
            users[root].add(None)
        return Surroundings(
            {n: frozenset(who) for n, who in users.items()}, {e.axis: e for e in extents}
        )


def _elementary(node: Node) -> bool:
    return isinstance(node, Constant | Immediate | Size | Position)
