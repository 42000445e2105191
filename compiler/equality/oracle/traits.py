"""What a computation is made of: its functions, numbers, lengths; two of them written alike."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache

from infinisa.isa.dtypes import DTYPES
from infinisa.isa.functions import FUNCTIONS
from infinisa.isa.language import (
    Axis,
    Cast,
    Constant,
    Dot,
    Immediate,
    Map,
    Node,
    Reduce,
    Size,
    everything,
    with_numbers,
)

from ..precision import limits_of

ROUNDING = 2.0**-23
"""Numbers this close are one number: a model's file may hold either rounded to f32."""

MOST_POSITIONS = 512
"""How far positions are counted because a number may be one."""

HIDDEN = 1e6
"""What is added to hide a value is below minus this, or the least that a narrow type holds."""

NARROW = {name: limits_of(name)[0] for name in ("f16", "bf16")}
"""The least number of each narrow type in which a model may compute."""

CORNERS = frozenset(
    [
        "maximum",
        "minimum",
        "where",
        "absolute",
        "sign",
        "less",
        "less_equal",
        "greater",
        "greater_equal",
        "floor",
        "ceil",
        "round",
        "equal",
        "not_equal",
        "is_nan",
        "floor_divide",
        "modulo",
        "logical_and",
        "logical_or",
        "logical_not",
    ]
)

COMPARISONS = frozenset(
    ["less", "less_equal", "greater", "greater_equal", "equal", "not_equal"]
)  # fmt: skip


CLIPS = frozenset(["maximum", "minimum"])


@lru_cache(maxsize=1 << 13)
def nodes_of(root: Node) -> tuple[Node, ...]:
    """The nodes of a computation, operands first, those inside of recurrences included."""
    return tuple(dict.fromkeys(everything([root])))


@lru_cache(maxsize=4096)
def functions_in(root: Node) -> frozenset[str]:
    """The scalar functions and folds of a computation."""
    return frozenset(n.function for n in nodes_of(root) if isinstance(n, Map | Reduce))


@lru_cache(maxsize=4096)
def cornered(root: Node) -> bool:
    """Whether a computation has corners or steps."""
    return any(
        isinstance(n, Cast) or (isinstance(n, Map) and n.function in CORNERS)
        for n in nodes_of(root)
    )


@lru_cache(maxsize=4096)
def bounds_in(root: Node) -> tuple[float, ...]:
    """The numbers that values are compared with, if a sum of ones may reach them."""
    functions = (n for n in nodes_of(root) if isinstance(n, Map) and n.function in CORNERS)
    numbers = (c.value for n in functions for c in n.arguments if isinstance(c, Constant))
    return tuple(float(c) for c in numbers if 1 < abs(c) < MOST_POSITIONS)


@lru_cache(maxsize=4096)
def special_in(root: Node) -> tuple[float, ...]:
    """What inputs are at no other point, but may be where somebody asks for it: infinities and
    large numbers that values are compared with, of either sign, and NaN beside an infinity or where
    it is asked for. What is folded before is NaN where it is hidden altogether (`MASKS`)."""
    found = []
    for node in nodes_of(root):
        if not isinstance(node, Map):
            continue
        if node.function == "is_nan" and not any(
            isinstance(below, Reduce | Dot) for below in nodes_of(node)
        ):
            found.append(math.nan)
        elif node.function in COMPARISONS | CLIPS:
            for number in (c for x in node.arguments for c in numbers_in(x) if is_literal(x)):
                if abs(number) >= HIDDEN:  # and what is past it
                    found += [sign * number for sign in (1, -1, 2, -2)]
                if math.isinf(number):
                    found.append(math.nan)
    return tuple(dict.fromkeys(found))


def is_literal(node: Node) -> bool:
    """Whether a node is a number, in whatever type."""
    return isinstance(node, Constant) or (isinstance(node, Cast) and is_literal(node.x))


@lru_cache(maxsize=4096)
def sizes_in(root: Node) -> tuple[Axis, ...]:
    """The axes whose lengths are numbers of a computation."""
    return tuple(node.axis for node in nodes_of(root) if isinstance(node, Size))


@lru_cache(maxsize=4096)
def immediates_in(root: Node) -> frozenset[Immediate]:
    return frozenset(node for node in nodes_of(root) if isinstance(node, Immediate))


@lru_cache(maxsize=4096)
def numbers_in(root: Node) -> tuple[float, ...]:
    """The numbers of a computation that are not just truth values, each once."""
    found = dict.fromkeys(
        float(n.value)
        for n in nodes_of(root)
        if isinstance(n, Constant) and not isinstance(n.value, bool)
    )
    return tuple(found)


def snapped(root: Node, literals: Iterable[float], narrow: Iterable[str] = ()) -> Node:
    """A computation whose numbers are the other side's where they differ by no more than one
    rounding, or are what that would be in a `narrow` type: its literals, their inverses and
    squares."""
    if not numbers_in(root):
        return root
    targets = forms_of(literals)
    known: dict[Node, Node] = {}
    for node in nodes_of(root):
        if isinstance(node, Constant) and isinstance(node.value, float) and node.value:
            for target in targets:
                if node.value != target and is_rounded(node.value, target, narrow):
                    known[node] = Constant(target)
                    break
    return with_numbers([root], known)[0] if known else root


def forms_of(literals: Iterable[float]) -> list[float]:
    """What an instruction's numbers may be written as."""
    return [
        t
        for q in literals
        if q and math.isfinite(q)
        for t in (q, 1 / q, q * q, 1 / (q * q), -q, math.sqrt(abs(q)), 1 / math.sqrt(abs(q)))
    ]


def is_rounded(number: float, exact: float, narrow: Iterable[str]) -> bool:
    """Whether a number is another but for the rounding to f32, or to one of some types; nobody
    rounds to whole numbers and halves."""
    if abs(number / exact - 1) <= ROUNDING:
        return True
    return 2 * number % 1 != 0 and any(
        abs(exact) <= -NARROW[to] and number == DTYPES[to].numpy.type(exact) for to in narrow
    )


@lru_cache(maxsize=1 << 13)
def ordered(root: Node) -> Node:
    """A computation with the operands of commutative operations in one order: where it is another's
    both do the same operations, to the last bit."""
    made: dict[Node, Node] = {}
    for node in nodes_of(root):
        children = tuple(made[child] for child in node.children)
        match node:
            case Map(function, _) if FUNCTIONS[function].commutative:
                children = tuple(sorted(children, key=id))
            case Dot(_, _, over):
                left, right = sorted(children, key=id)
                made[node] = Dot(left, right, tuple(sorted(over)))
                continue
        made[node] = node if children == node.children else node.rebuild(children)
    return made[root]
