"""Between which numbers a value surely is, whatever its inputs are (NaN apart)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TypeAlias

from infinisa.isa.language import Cast, Constant, Map, Node, Reduce, View, walk

Bounds: TypeAlias = tuple[float, float]

ANYTHING: Bounds = (-math.inf, math.inf)


def bounds(root: Node, known: Callable[[Node], Bounds | None] = lambda node: None) -> Bounds:
    """(least, greatest) of a value.

    known  the bounds of a node, where they are known otherwise: of a weight
    """
    found: dict[Node, Bounds] = {}
    for node in walk([root]):
        given = known(node)
        found[node] = _bounds(node, found) if given is None else given
    return found[root]


def _bounds(node: Node, found: Mapping[Node, Bounds]) -> Bounds:
    match node:
        case Constant(value):
            return float(value), float(value)
        case Cast(x, _) | Reduce("max" | "min", x, _):
            return found[x]
        case View(x, _, fill):
            low, high = found[x]
            return (low, high) if fill is None else (min(low, fill), max(high, fill))
        case Map("where", (_, a, b)):
            return _hull(found[a], found[b])
        case Map(function, arguments) if function in RULES:
            return RULES[function](*(found[argument] for argument in arguments))
    return ANYTHING


def _hull(a: Bounds, b: Bounds) -> Bounds:
    return min(a[0], b[0]), max(a[1], b[1])


def _product(a: Bounds, b: Bounds) -> Bounds:
    """Of bounds: nothing is infinite, so 0 times the bound of what has none is 0."""
    ends = [0.0 if 0.0 in (x, y) else x * y for x in a for y in b]
    return min(ends), max(ends)


def _rising(function: Callable[[float], float]) -> Callable[[Bounds], Bounds]:
    """The rule of a function that never falls; overflow is infinity."""

    def at(x: float) -> float:
        try:
            return function(x)
        except OverflowError:
            return math.inf

    return lambda x: (at(x[0]), at(x[1]))


def _absolute(x: Bounds) -> Bounds:
    low, high = sorted((abs(x[0]), abs(x[1])))
    return (0.0 if x[0] <= 0.0 <= x[1] else low), high


def _logarithm(x: float) -> float:
    return math.log(x) if x > 0.0 else -math.inf


RULES: Mapping[str, Callable[..., Bounds]] = {
    "negate": lambda x: (-x[1], -x[0]),
    "absolute": _absolute,
    "exp": _rising(math.exp),
    "log": _rising(_logarithm),
    "sqrt": _rising(lambda x: math.sqrt(max(x, 0.0))),
    "sigmoid": lambda x: (0.0, 1.0),
    "tanh": lambda x: (-1.0, 1.0),
    "erf": lambda x: (-1.0, 1.0),
    "sin": lambda x: (-1.0, 1.0),
    "cos": lambda x: (-1.0, 1.0),
    "add": lambda a, b: (a[0] + b[0], a[1] + b[1]),
    "subtract": lambda a, b: (a[0] - b[1], a[1] - b[0]),
    "multiply": _product,
    "maximum": lambda a, b: (max(a[0], b[0]), max(a[1], b[1])),
    "minimum": lambda a, b: (min(a[0], b[0]), min(a[1], b[1])),
}
