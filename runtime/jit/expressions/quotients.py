"""Divisions of what a contraction sums, done to the sums: there are fewer of those.

The weights of an attention are exponentials divided by their sum, and then summed up with the
values. Divided is the result instead, a row of a head's width, not a row of all keys.
"""

from __future__ import annotations

from collections.abc import Iterable

from infinisa.isa.language import Dot, Map, Node, Reduce, rebuilt, walk


def divided_later(roots: Iterable[Node]) -> tuple[Node, ...]:
    """The same values up to rounding, quotients that only contractions read taken apart.

    Only exponentials that their maximum was taken off: they are at most 1, so that undivided sums
    overflow no sooner than those of the other side.
    """
    roots = tuple(roots)
    nodes = list(walk(roots))
    kept = {*roots, *(x for n in nodes if not isinstance(n, Dot) for x in n.children)}
    made: dict[Node, Node] = {}
    for node in nodes:
        known = rebuilt(node, made)
        made[node] = _divided(node, known, kept) if isinstance(known, Dot) else known
    return tuple(made[root] for root in roots)


def _divided(given: Node, node: Dot, kept: set[Node]) -> Node:
    """A contraction whose sides are what those of the `given` one became."""
    for side, quotient in zip(given.children, node.children, strict=True):
        match quotient:
            case Map("divide", (top, bottom)) if side not in kept and at_most_one(top):
                if not set(node.over) & set(bottom.axes):
                    sides = [top if x is quotient else x for x in node.children]
                    return Map("divide", (node.rebuild(sides), bottom))
    return node


def at_most_one(node: Node) -> bool:
    """Whether it is an exponential that the maximum was taken off before."""
    match node:
        case Map("exp", (Map("subtract", (x, highest)),)):
            return any(
                isinstance(n, Reduce) and n.function == "max" and n.x is x
                for n in (highest, *highest.children)
            )
    return False
