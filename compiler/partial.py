"""What is known of a match before it is whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from infinisa.isa.language import (
    Axis,
    Node,
)


@dataclass(frozen=True)
class Partial:
    """What is known so far of a match.

    leaves   values of operands
    one      axes that stand for each other, one to one
    many     (instruction's axes, graph's axes) reduced together
    numbers  (instruction's, graph's) numbers that must be equal
    inner    nodes of the graph that are computed
    """

    leaves: Mapping[str, Node] = field(default_factory=dict)
    one: Mapping[Axis, Axis] = field(default_factory=dict)
    many: tuple[tuple[tuple[Axis, ...], tuple[Axis, ...]], ...] = ()
    numbers: tuple[tuple[Node, Node], ...] = ()
    inner: frozenset[Node] = frozenset()

    def with_leaf(self, name: str, leaf: Node) -> Partial:
        return replace(self, leaves={**self.leaves, name: leaf})

    def with_one(self, pairs: Iterable[tuple[Axis, Axis]]) -> Partial | None:
        known = dict(self.one)
        for ours, theirs in pairs:
            if known.setdefault(ours, theirs) != theirs:
                return None
        return replace(self, one=known)

    def with_many(self, ours: tuple[Axis, ...], theirs: tuple[Axis, ...]) -> Partial | None:
        if len(ours) > len(theirs):
            return None
        return replace(self, many=(*self.many, (ours, theirs)))

    def with_numbers(self, ours: Node, theirs: Node) -> Partial:
        return replace(self, numbers=(*self.numbers, (ours, theirs)))

    def with_inner(self, *nodes: Node) -> Partial:
        return replace(self, inner=self.inner.union(nodes))
