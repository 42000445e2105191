"""Maxima that need not tell of a NaN: whoever reads one finds the NaN elsewhere.

In a softmax the sum of the exponentials is NaN where a number of the row is, whatever was taken off
before, and every result is divided by it. Such a maximum is one operation a vector, not three.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from infinisa.isa.dtypes import is_float
from infinisa.isa.language import Map, Node, Reduce, walk

CARRYING = frozenset(("negate", "exp", "log", "add", "subtract", "multiply", "divide"))
"""Functions of floats that are NaN where an argument is."""


def plain_maxima(roots: Iterable[Node]) -> frozenset[Node]:
    """Maxima whose values in a row with a NaN no root shows: it is NaN there in any case."""
    roots = tuple(roots)
    folds = [node for node in walk(roots) if isinstance(node, Reduce) and is_float(node.dtype)]
    found = set[Node]()
    for node in folds:
        sums = [
            other
            for other in folds
            if other.function == "sum"
            and set(other.over) == set(node.over)
            and carries(other.x, [node.x])
        ]
        if node.function == "max" and sums and not any(shown(root, node, sums) for root in roots):
            found.add(node)
    return frozenset(found)


def carries(root: Node, others: Collection[Node]) -> bool:
    """Whether a value is NaN at every position where one of the others is."""
    stack, seen = [root], set[Node]()
    while stack:
        node = stack.pop()
        if node in others:
            return True
        match node:
            case Map(function, arguments) if function in CARRYING and node not in seen:
                seen.add(node)
                stack += arguments if is_float(node.dtype) else ()
    return False


def shown(root: Node, hidden: Node, sums: Collection[Node]) -> bool:
    """Whether a root reads a value other than on the way to what carries one of the sums."""
    stack, seen = [root], set[Node]()
    while stack:
        node = stack.pop()
        if node == hidden:
            return True
        if node not in seen and not carries(node, sums):
            seen.add(node)
            stack += node.children
    return False
