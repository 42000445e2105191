"""Formulas by fewer operations: the same values up to rounding.

A rule looks at one node whose children were rewritten before it. What it returns has the type of
the node, and is nowhere further from the truth.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from math import frexp

from infinisa.isa.dtypes import is_float
from infinisa.isa.language import Constant, Map, Node, rebuilt, walk

LEAST = 1e-30
"""No constant is made that is nearer to 0 or to infinity: an f32 would hold few digits of it."""


def simplified(roots: Iterable[Node]) -> tuple[Node, ...]:
    """The same values by fewer operations."""
    roots = tuple(roots)
    nodes = list(walk(roots))
    reads = Counter([*roots, *(child for node in nodes for child in node.children)])
    shared = {node for node in nodes if reads[node] > 1}
    made: dict[Node, Node] = {}
    for node in nodes:
        known = {made[child] for child in node.children if child in shared}
        made[node] = simpler(rebuilt(node, made), known)
    return tuple(made[root] for root in roots)


def simpler(node: Node, shared: Collection[Node]) -> Node:
    """What the first rule makes of a node, whose `shared` children others read too."""
    if not isinstance(node, Map) or not is_float(node.dtype):
        return node
    rules: tuple[Callable[[], Node | None], ...] = (
        lambda: one_and_tanh(node, shared),
        lambda: one_factor(node),
    )
    return next((found for rule in rules if (found := rule()) is not None), node)


def one_and_tanh(node: Map, shared: Collection[Node]) -> Node | None:
    """1 + tanh(u)  →  2 * sigmoid(2 * u);  1 - tanh(u)  →  2 * sigmoid(-2 * u)

    In GELU both factors of two meet other constants. Nothing is lost where tanh(u) is near -1.
    """
    match node:
        case Map("add", (Constant(1), Map("tanh", (u,)) as tanh)):
            by = 2.0
        case Map("add", (Map("tanh", (u,)) as tanh, Constant(1))):
            by = 2.0
        case Map("subtract", (Constant(1), Map("tanh", (u,)) as tanh)):
            by = -2.0
        case _:
            return None
    if tanh in shared or not is_float(u.dtype):
        return None
    return Map("multiply", (Constant(2.0), Map("sigmoid", (product(by, u),))))


def one_factor(node: Map) -> Node | None:
    """(c * x) * (y / c)  →  x * y;  c * (d * x)  →  (c * d) * x

    c or d is a power of two, which rounds nothing. What is multiplied then is what was before, or
    was further from overflow on its way.
    """
    if node.function != "multiply":
        return None
    (c, x), (d, y) = map(parted, node.arguments)
    if c is None or d is None or not (power_of_two(c) or power_of_two(d)):
        return None
    if c * d == 1:
        return x if y is None else y if x is None else Map("multiply", (x, y))
    if not LEAST < abs(c * d) < 1 / LEAST:
        return None
    for one, other in (node.arguments, node.arguments[::-1]):
        match one, other:
            case Constant(), Map("multiply", (Constant(), z)) | Map("multiply", (z, Constant())):
                return product(c * d, z)
    return None


def parted(node: Node) -> tuple[float | None, Node | None]:
    """A product of floats as a number and what it is multiplied by; None: there is none."""
    match node:
        case Constant(value):
            return float(value), None
        case Map("multiply", (a, b)) if in_floats(a) and in_floats(b):
            (c, x), (d, y) = parted(a), parted(b)
            if c is not None:
                return c, b if x is None else Map("multiply", (x, b))
            if d is not None:
                return d, a if y is None else Map("multiply", (a, y))
    return None, node


def in_floats(node: Node) -> bool:
    return isinstance(node, Constant) or is_float(node.dtype)


def product(factor: float, node: Node) -> Node:
    if factor == 1:
        return node
    found = Map("multiply", (Constant(factor), node))
    other = one_factor(found)
    return found if other is None else other


def power_of_two(number: float) -> bool:
    return abs(frexp(number)[0]) == 0.5
