"""The graph around a cone: who else reads what is inside it, how long its axes are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    walk,
)


@dataclass(frozen=True, eq=False)
class Surroundings:
    """The graph around a cone, in canonical form.

    users   who reads each node; None stands for the outside
    sizes   the most positions of each axis
    fixed   the sizes that are not bounds of run-time lengths
    """

    users: Mapping[Node, frozenset[Node | None]]
    sizes: Mapping[Axis, int]
    fixed: Mapping[Axis, int]

    @cached_property
    def shared(self) -> frozenset[Node]:
        """Values with several users: a chain of sums does not run through them."""
        return frozenset(node for node, users in self.users.items() if len(users) > 1)

    @cached_property
    def itself(self) -> dict[Node, Node]:
        """Every node of the graph, with itself."""
        return {node: node for node in self.users}

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
    def of(
        roots: Sequence[Node], sizes: Mapping[Axis, int], fixed: Mapping[Axis, int]
    ) -> Surroundings:
        users: dict[Node, set[Node | None]] = {node: set() for node in walk(roots)}
        for node in users:
            for child in node.children:
                users[child].add(node)
        for root in roots:
            users[root].add(None)
        return Surroundings({n: frozenset(who) for n, who in users.items()}, sizes, fixed)


def _elementary(node: Node) -> bool:
    return isinstance(node, Constant | Immediate | Size | Position)
