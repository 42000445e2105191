"""Cones with one random change, and what a change does: judged, not guessed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random

from infinisa.isa.errors import LanguageError
from infinisa.isa.language import (
    Constant,
    Dot,
    Input,
    Map,
    Node,
    Position,
    Reduce,
    Size,
    Stack,
    View,
    apply,
    inputs,
    maximum,
    minimum,
    round,
    substitute,
    walk,
)

from ._forms import SPECIMEN_SIZES, SPECIMENS, specimen
from ._judge import difference, tolerance

Change = Callable[[Random, Node, Sequence[Node]], "Node | None"]

SWAPS = {
    "add": ("subtract", "maximum", "multiply"),
    "subtract": ("add", "maximum"),
    "multiply": ("add", "divide", "minimum"),
    "divide": ("multiply", "subtract"),
    "exp": ("sigmoid", "sin"),
    "log": ("sqrt", "tanh"),
    "sqrt": ("rsqrt", "absolute", "log"),
    "rsqrt": ("reciprocal", "sqrt"),
    "reciprocal": ("rsqrt", "negate"),
    "tanh": ("erf", "sigmoid", "sin"),
    "erf": ("tanh",),
    "sigmoid": ("tanh", "exp"),
    "maximum": ("minimum", "add"),
    "minimum": ("maximum",),
    "absolute": ("negate",),
    "negate": ("absolute",),
    "power": ("multiply",),
    "greater": ("greater_equal", "less", "not_equal"),
    "greater_equal": ("greater", "less_equal", "equal"),
    "less": ("less_equal", "greater"),
    "less_equal": ("less", "greater_equal", "equal"),
}

FOLDS = {"sum": ("max", "min", "product"), "max": ("min", "sum"), "min": ("max",)}


# ---------------------------------------------------------------- changes


def constant(random: Random, node: Node, _: Sequence[Node]) -> Node | None:
    """Another number: near, twice, of the other sign; a finite one for infinity."""
    match node:
        case Constant(bool()):
            return None
        case Constant(float(value)) if abs(value) > 1e20:
            return Constant(random.choice((-4.0, -20.0, 0.0)))
        case Constant(value):
            near = (value * 1.0001, value * 1.001, value * 0.99, value + 0.01)
            return Constant(random.choice((*near, value * 2, -value, value + 1)))
    return None


def operator(random: Random, node: Node, _: Sequence[Node]) -> Node | None:
    match node:
        case Map(function, arguments) if function in SWAPS:
            return Map(random.choice(SWAPS[function]), arguments)
        case Reduce(function, x, over) if function in FOLDS:
            return Reduce(random.choice(FOLDS[function]), x, over)
        case Dot(a, b, over):
            return Reduce(random.choice(("max", "sum")), a + b, over)
    return None


def swapped(random: Random, node: Node, _: Sequence[Node]) -> Node | None:
    """f(b, a) for f(a, b)"""
    match node:
        case Map("where", (condition, a, b)):
            return Map("where", (condition, b, a))
        case Map(function, (a, b)):
            return Map(function, (b, a))
        case Stack(xs, axis):
            return Stack(xs[::-1], axis)
    return None


def axis(random: Random, node: Node, _: Sequence[Node]) -> Node | None:
    """Reduced over another axis, or counted along another."""
    match node:
        case Reduce(function, x, over):
            return Reduce(function, x, (random.choice([a for a in x.axes if a not in over]),))
        case Size(old):
            return Size(random.choice([a for a in SPECIMEN_SIZES if a != old]))
        case Position(old):
            return Position({"s": "t", "t": "s"}[old])
    return None


def moved(random: Random, node: Node, _: Sequence[Node]) -> Node | None:
    """A position later, or another part."""
    match node:
        case Position():
            return node + random.choice((-1, 1))
        case View(x, ((name, index),), fill) if not index.terms:
            other = (index.offset + 1) % SPECIMEN_SIZES[name]
            return View(x, ((name, replace(index, offset=other)),), fill)
    return None


def epsilon(random: Random, node: Node, _: Sequence[Node]) -> Node | None:
    """sqrt(v + e)  →  sqrt(v) + e, or sqrt(max(v, e))"""
    match node:
        case Map("sqrt" | "rsqrt" as function, (Map("add", (a, b)),)):
            v, e = (a, b) if isinstance(b, Constant) else (b, a)
            if random.random() < 0.5:
                return apply(function, maximum(v, e))
            return apply("sqrt", v) + e if function == "sqrt" else 1.0 / (apply("sqrt", v) + e)
    return None


def clipped(random: Random, node: Node, _: Sequence[Node]) -> Node | None:
    match random.randrange(4):
        case 0:
            return minimum(node, 6.0)
        case 1:
            return maximum(node, -6.0)
        case 2:
            return maximum(node, 0.0)
    return round(node)


def sign(random: Random, node: Node, _: Sequence[Node]) -> Node | None:
    return -node


def scaled(random: Random, node: Node, _: Sequence[Node]) -> Node | None:
    return node * random.choice((1.001, 0.5, 3.0))


def added(random: Random, node: Node, others: Sequence[Node]) -> Node | None:
    """A further term, small or of the size of others."""
    if random.random() < 0.5:
        return node + random.choice((1e-3, 1.0))
    return node + 0.1 * random.choice(others)


def dropped(random: Random, node: Node, _: Sequence[Node]) -> Node | None:
    """One argument for both."""
    match node:
        case Map(_, arguments):
            return random.choice(arguments)
    return None


def exchanged(random: Random, node: Node, others: Sequence[Node]) -> Node | None:
    """Another value of the cone with the same axes."""
    alike = [o for o in others if o is not node and set(o.axes) == set(node.axes)]
    return random.choice(alike) if alike else None


CHANGES: tuple[Change, ...] = (
    constant, operator, swapped, axis, moved, epsilon, clipped, sign, scaled, added, dropped,
    exchanged,
)  # fmt: skip


# ---------------------------------------------------------------- mutants


@dataclass(frozen=True)
class Mutant:
    """A cone with one change.

    resembles  the instruction that computes it without
    changed    by which change
    root       the cone
    apart      how far it is from what it was: 0 if the change changes nothing
    """

    resembles: str
    changed: str
    root: Node
    apart: float

    @property
    def equal(self) -> bool:
        return self.apart <= tolerance(["f32"])


def mutants(seed: int) -> Iterator[Mutant]:
    """Mutants without end, of all instructions in turn and of all of their forms."""
    random = Random(seed)
    seen: set[Node] = set()
    while True:
        for name in SPECIMENS:
            mutant = None
            while mutant is None or mutant.root in seen:
                mutant = mutated(random, name)
            seen.add(mutant.root)
            yield mutant


def mutated(random: Random, name: str) -> Mutant | None:
    """One random change in one random form; None if that is no cone, or never a number."""
    original = specimen(name, random)
    change = random.choice(CHANGES)
    root = changed(random, original, change)
    if root is None or math.isnan(difference(root, root, inputs([root]), SPECIMEN_SIZES)):
        return None
    apart = difference(root, original, inputs([original]), SPECIMEN_SIZES)
    return Mutant(name, change.__name__, root, apart)


def changed(random: Random, original: Node, change: Change) -> Node | None:
    """The cone with this change at some node where it can be made."""
    nodes = [node for node in walk([original]) if not isinstance(node, Input)]
    for node in random.sample(nodes, len(nodes)):
        others = [other for other in nodes if other.dtype == node.dtype]
        try:
            new = change(random, node, others)
            if new is None or new is node or new.dtype != node.dtype:
                continue
            (root,) = substitute([original], {node: new})
        except (LanguageError, IndexError):  # axes that do not fit, or none to choose from
            continue
        if root.children and set(root.axes) == set(original.axes):
            return root
    return None
