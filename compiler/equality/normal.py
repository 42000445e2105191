"""Whether two expressions are the same value over the reals, shown by algebra.

Both become forms over atoms (`algebra.py`), where equal values mostly have one form. It is a proof
for every point at which no value inside either expression is undefined: no 0 / 0, no root of a
number below zero, no inf - inf. Overflow and rounding are not its subject (`precision.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from typing import Any

import numpy as np

from infinisa.isa.dtypes import DTYPES, is_float
from infinisa.isa.functions import FUNCTIONS
from infinisa.isa.language import (
    Affine,
    Axis,
    Cast,
    Constant,
    Dot,
    Gather,
    Immediate,
    Input,
    Map,
    Node,
    Opaque,
    Position,
    Reduce,
    Scan,
    Size,
    Stack,
    Update,
    View,
    everything,
    inputs,
    walk,
    with_numbers,
)

from .algebra import STACK, Algebra
from .forms import ONE, Form, Frozen, TooBig, constant, plus, scaled


def proved(
    a: Node, b: Node, sizes: Mapping[Axis, int] | None = None, through_casts: bool = False
) -> bool:
    """Whether a and b, over the same inputs and axes, are shown to be equal over the reals.

    sizes          the extents of axes that are known numbers, counted from 0: not proxies
    through_casts  rounding to a narrower float counts as nothing

    An immediate stands for its default. False says that no proof was found, not that they differ.
    """
    if a is b:
        return True
    algebra = Algebra(sizes or {})
    translator = Translator(algebra, through_casts)
    try:
        return algebra.equal(translator.form(a), translator.form(b))
    except TooBig:
        return False


def with_numbers_of(a: Node, b: Node, rounding: float = 2.0**-23) -> Node:
    """a with each of its literals that is within one rounding of a number of b, of its inverse,
    square or root, or of a product of two of them, written exactly as that."""
    written = [
        n for n in everything([b]) if isinstance(n, Constant | Immediate | Map) and is_written(n)
    ]
    known: dict[Node, float] = {
        n: value for n in written if (value := value_of(n)) and math.isfinite(value)
    }
    targets: dict[Node, float] = {}
    for node, value in known.items():
        for factor in (Constant(1.0), *(n for n in known if isinstance(n, Constant))):
            product = node * factor if value_of(factor) != 1.0 else node
            targets[product] = value * value_of(factor)
            targets[Map("reciprocal", (product,))] = 1 / targets[product]
        if value > 0:
            targets[Map("sqrt", (node,))] = math.sqrt(value)
            targets[Map("rsqrt", (node,))] = 1 / math.sqrt(value)
    exact: dict[Node, Node] = {}
    for leaf in everything([a]):
        if not isinstance(leaf, Constant) or not isinstance(leaf.value, float) or leaf in known:
            continue
        near = {node: abs(leaf.value - v) for node, v in targets.items()}
        best = min(near, key=near.__getitem__, default=None)
        if (
            best is not None
            and leaf.value not in EXACT
            and near[best] <= rounding * abs(leaf.value)
        ):
            exact[leaf] = best
    return with_numbers([a], exact)[0] if exact else a


EXACT = (0.0, 1.0, -1.0, 0.5, 2.0, -0.5, -2.0, math.inf, -math.inf)
"""Literals that nobody rounds."""


def is_written(node: Node) -> bool:
    """Whether a node is made of numbers alone."""
    match node:
        case Constant(value):
            return not isinstance(value, bool)
        case Immediate():
            return True
        case Map(_, arguments):
            return node.dtype != "bool" and all(is_written(x) for x in arguments)
    return False


def value_of(node: Node) -> float:
    """The value of a node made of numbers alone, in f64."""
    match node:
        case Constant(value) | Immediate(_, value):
            return float(value)
        case Map(function, arguments):
            with np.errstate(all="ignore"):
                return float(FUNCTIONS[function].numpy(*(value_of(x) for x in arguments)))
    raise AssertionError(node)


class Translator:
    """Makes forms of expressions. `given` says what inputs mean inside of a recurrence."""

    def __init__(
        self,
        algebra: Algebra,
        through_casts: bool,
        given: Mapping[Node, tuple[Any, ...]] | None = None,
    ) -> None:
        self.algebra, self.through_casts = algebra, through_casts
        self.given = dict(given or {})
        self.made: dict[Node, Form] = {}

    def form(self, root: Node) -> Form:
        for node in walk([root]):
            if node not in self.made:
                self.made[node] = self.translated(node, [self.made[x] for x in node.children])
        return self.made[root]

    def translated(self, node: Node, given: list[Form]) -> Form:
        algebra = self.algebra
        match node:
            case Input(name, _, type):
                return self.tensor(self.given.get(node, ("input", name, type)), node)
            case Constant(value) | Immediate(_, value):
                return self.number(value)
            case Size(axis):
                return algebra.size(axis)
            case Position(axis):
                return algebra.position(axis)
            case Map():
                return self.mapped(node, given)
            case Reduce(function, _, over):
                return self.reduced(node, function, given[0], over)
            case Dot(_, _, over):
                self.refuse_truth(node)
                return algebra.sum(algebra.times(*given), over)
            case View(_, index, None):
                return algebra.moved(given[0], dict(index))
            case View(_, index, fill):
                return self.tensor(("view", *self.frozen(given), index, repr(fill)), node)
            case Gather(_, _, axis):
                return self.tensor(("gather", *self.frozen(given), axis), node)
            case Update(_, _, at):
                return self.tensor(("update", *self.frozen(given), at), node)
            case Stack():
                return self.tensor((STACK, self.frozen(given)), node)
            case Cast(x, type):
                return self.cast(given[0], x.dtype, type)
            case Scan():
                return self.scan(node, given)
            case Opaque():
                return self.exactly(node, node)
        raise AssertionError(node)

    def frozen(self, forms: Iterable[Form]) -> tuple[Frozen, ...]:
        return tuple(self.algebra.frozen(form) for form in forms)

    def tensor(self, base: tuple[Any, ...], node: Node) -> Form:
        index = tuple((axis, Affine(((axis, 1),))) for axis in node.axes)
        if base[0] != STACK:
            index = tuple(sorted(index, key=lambda pair: pair[0]))
        return self.algebra.read(base, index, node.dtype)

    def exactly(self, node: Node, result: Node) -> Form:
        """A value known by how it is written: what decides it may be undefined."""
        meant = tuple((leaf.name, self.given.get(leaf)) for leaf in inputs([node]))
        return self.tensor(("exact", node, meant), result)

    def number(self, value: float) -> Form:
        if math.isnan(value):
            raise TooBig
        if math.isinf(value):
            return self.algebra.infinity(1 if value > 0 else -1)
        return constant(value)

    def refuse_truth(self, node: Node) -> None:
        """Sums and products of truth values are no sums and products of numbers."""
        if node.dtype == "bool":
            raise TooBig

    # ------------------------------------------------------------ scalar functions

    def mapped(self, node: Map, given: list[Form]) -> Form:
        function = node.function
        if function == "is_nan":
            return self.exactly(node.arguments[0], node)
        if function in ("where", "logical_not", "logical_and", "logical_or"):
            count = 1 if function == "where" else len(given)
            pairs = zip(given, node.arguments, strict=True)
            truths = [self.truth(form, x) for form, x in list(pairs)[:count]]
            return CONDITIONS[function](self.algebra, *truths, *given[count:])
        if function in COMPARISONS:
            return COMPARISONS[function](self.algebra, *given)
        if function not in ("maximum", "minimum"):
            self.refuse_truth(node)
        return ARITHMETIC[function](self.algebra, *given)

    def truth(self, form: Form, node: Node) -> Form:
        return form if node.dtype == "bool" else different(self.algebra, form, {})

    # ------------------------------------------------------------ the other kinds

    def reduced(self, node: Node, function: str, x: Form, over: tuple[Axis, ...]) -> Form:
        algebra = self.algebra
        match function:
            case "max":
                return algebra.max(x, over)
            case "min":
                return scaled(algebra.max(scaled(x, -1), over), -1)
            case "argmax":
                return algebra.argmax(x, over[0])
        self.refuse_truth(node)
        return algebra.sum(x, over) if function == "sum" else algebra.product(x, over)

    def cast(self, x: Form, old: str, new: str) -> Form:
        """Nothing where no value is lost, or only digits and these do not count."""
        if new == "bool" and old != "bool":
            return different(self.algebra, x, {})
        lost = not exact(old, new)
        if lost and self.through_casts and is_float(old) and is_float(new):
            lost = False
        return self.algebra.function(f"cast {old} {new}", x) if lost else x

    def scan(self, node: Scan, given: list[Form]) -> Form:
        """Recurrences are equal if their starts, slices and bodies are."""
        body, depth = node.body, sum(1 for base in self.given.values() if base[0] == "state")
        known = dict(self.given)
        leaves = [("state", leaf) for leaf in body.states] + [("slice", s) for s in body.slices]
        for place, (role, leaf) in enumerate(leaves):
            known[leaf] = (role, depth, place, tuple(sorted(leaf.axes)), leaf.dtype)
        inside = Translator(self.algebra, self.through_casts, known)
        count = len(node.initial) + len(node.xs)
        states = len(body.states)
        wanted = node.output if node.output < states else body.emits[node.output - states]
        result = wanted if isinstance(wanted, int) else self.algebra.frozen(inside.form(wanted))
        steps = self.frozen(inside.form(after) for after in body.next)
        roles = tuple(known[leaf] for _, leaf in leaves)
        start = self.frozen(given[:count])
        base = ("scan", body.axis, body.reverse, roles, start, steps, result)
        return self.tensor(base, node)


def exact(old: str, new: str) -> bool:
    """Whether every value of a type is one of another, or a whole number becomes a float."""
    if old == "bool" or old == new:
        return True
    if is_float(new):
        return not is_float(old) or (old, new) in WIDER
    return not is_float(old) and DTYPES[new].size > DTYPES[old].size and not new.startswith("u")


WIDER = {(a, b) for a, b in zip(("bf16", "f16", "f32"), ("f32", "f32", "f64"), strict=True)} | {
    ("bf16", "f64"),
    ("f16", "f64"),
}


def quotient(algebra: Algebra, a: Form, b: Form) -> Form:
    return algebra.times(a, algebra.power(b, -1))


def sigmoid(algebra: Algebra, x: Form) -> Form:
    """1 / (1 + exp(-x))"""
    return algebra.power(plus({ONE: 1}, algebra.exp(scaled(x, -1))), -1)


def tanh(algebra: Algebra, x: Form) -> Form:
    """2 * sigmoid(2 * x) - 1"""
    return plus(scaled(sigmoid(algebra, scaled(x, 2)), 2), {ONE: 1}, -1)


def power(algebra: Algebra, x: Form, exponent: Form) -> Form:
    """x ** 2 by algebra;  2 ** x  →  exp(x * log(2))"""
    if not exponent or set(exponent) == {ONE}:
        return algebra.power(x, exponent.get(ONE, 0))
    if set(x) == {ONE} and x[ONE] > 0:
        return algebra.exp(algebra.times(exponent, algebra.log(x)))
    return algebra.function("power", x, exponent)


def different(algebra: Algebra, a: Form, b: Form) -> Form:
    """1 where a is not b."""
    return plus(algebra.less(a, b), algebra.less(b, a))


def negated(condition: Form) -> Form:
    return plus({ONE: 1}, condition, -1)


def either(algebra: Algebra, a: Form, b: Form) -> Form:
    return plus(plus(a, b), algebra.times(a, b), -1)


ARITHMETIC: Mapping[str, Callable[..., Form]] = {
    "negate": lambda _, x: scaled(x, -1),
    "absolute": Algebra.absolute,
    "sign": lambda algebra, x: plus(algebra.less({}, x), algebra.less(x, {}), -1),
    "exp": Algebra.exp,
    "log": Algebra.log,
    "sqrt": lambda algebra, x: algebra.power(x, Fraction(1, 2)),
    "rsqrt": lambda algebra, x: algebra.power(x, Fraction(-1, 2)),
    "reciprocal": lambda algebra, x: algebra.power(x, -1),
    "tanh": tanh,
    "erf": lambda algebra, x: algebra.function("erf", x),
    "sigmoid": sigmoid,
    "sin": lambda algebra, x: algebra.function("sin", x),
    "cos": lambda algebra, x: algebra.function("cos", x),
    "floor": Algebra.floor,
    "ceil": lambda algebra, x: scaled(algebra.floor(scaled(x, -1)), -1),
    "round": lambda algebra, x: algebra.function("round", x),
    "add": lambda _, a, b: plus(a, b),
    "subtract": lambda _, a, b: plus(a, b, -1),
    "multiply": Algebra.times,
    "divide": quotient,
    "floor_divide": lambda algebra, a, b: algebra.floor(quotient(algebra, a, b)),
    "modulo": Algebra.modulo,
    "power": power,
    "maximum": Algebra.maximum,
    "minimum": lambda algebra, a, b: scaled(algebra.maximum(scaled(a, -1), scaled(b, -1)), -1),
}

COMPARISONS: Mapping[str, Callable[..., Form]] = {
    "less": Algebra.less,
    "greater": lambda algebra, a, b: algebra.less(b, a),
    "less_equal": lambda algebra, a, b: negated(algebra.less(b, a)),
    "greater_equal": lambda algebra, a, b: negated(algebra.less(a, b)),
    "equal": lambda algebra, a, b: negated(different(algebra, a, b)),
    "not_equal": different,
}

CONDITIONS: Mapping[str, Callable[..., Form]] = {
    "where": Algebra.where,
    "logical_not": lambda _, a: negated(a),
    "logical_and": Algebra.times,
    "logical_or": either,
}
"""What each scalar function is in the algebra; its conditions and comparisons are 1 or 0."""
