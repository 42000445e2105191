"""Values of a graph that are computed alike: what was found for a layer holds for its repeats."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from functools import cached_property

from infinisa.isa.language import Input, Node

from .canonical import label
from .surroundings import Surroundings

DEPTH = 3
"""How far down two values must be alike to be tried as repeats: past how many values that have
several users, which most cones do not go through."""

MOST_NODES = 96
"""How many nodes of two values are compared at most."""


class Repeats:
    """The values of one graph in classes: alike as far down as `DEPTH`, names of tensors apart."""

    def __init__(self, around: Surroundings) -> None:
        self.around = around
        self.first: dict[int, Node] = {}

    @cached_property
    def labels(self) -> dict[Node, int]:
        """Nodes that are equal but for what they are computed from have one number."""
        numbers: dict[Hashable, int] = {}
        found = {}
        for node, users in self.around.users.items():
            what = "" if isinstance(node, Input) else label(node)
            key = what, node.axes, node.dtype, len(users), node in self.around.free
            found[node] = numbers.setdefault(key, len(numbers))
        return found

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

    def mapping(self, old: Node, new: Node, needed: Iterable[Node]) -> dict[Node, Node] | None:
        """For some nodes under a value those in the same places under another; None if the two are
        not alike so far."""
        left = {node for node in needed if node in self.labels}
        known, back = {old: new}, {new: old}
        waiting = [(old, new)]
        left.discard(old)
        for a, b in waiting:
            if not left:
                return known
            if len(known) > MOST_NODES:
                return None
            for x, y in zip(a.children, b.children, strict=True):
                if x in known or y in back:
                    if known.get(x) is not y:
                        return None
                    continue
                if self.labels[x] != self.labels[y]:
                    return None
                known[x], back[y] = y, x
                left.discard(x)
                waiting.append((x, y))
        return known if not left else None

    def moved(self, node: Node, known: dict[Node, Node]) -> Node:
        """A node, or a part of a sum grouped anew, in the other place."""
        if node in known:
            return known[node]
        return node.rebuild([self.moved(child, known) for child in node.children])


def graph_nodes(node: Node, around: Surroundings) -> Iterable[Node]:
    """A node of the graph, or those that part of a sum grouped anew consists of."""
    if node in around.users or not node.children:
        yield node
    else:
        for child in node.children:
            yield from graph_nodes(child, around)
