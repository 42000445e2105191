"""One form for expressions equal over the reals: cheap rules, each stated in its docstring.

Sums and products are chains of two-argument `add` and `multiply` with their numbers first and the
rest sorted. A value that is used twice is never taken apart: it is computed once.
"""

from __future__ import annotations

import hashlib
from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from infinisa.isa.dtypes import is_float
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
    Recurrence,
    Reduce,
    Scan,
    Size,
    Stack,
    Update,
    View,
    walk,
)

NEUTRAL: Mapping[str, int] = {"add": 0, "multiply": 1}
"""The two functions whose arguments are regrouped, and the number that does nothing to them."""


@dataclass
class Facts:
    """What rules know besides the node.

    sizes   extents that are numbers (not of axes whose length follows from a parameter)
    shared  values with several users: they stay whole
    """

    sizes: Mapping[Axis, int] = field(default_factory=dict)
    shared: set[Node] = field(default_factory=set)


Rule: TypeAlias = Callable[[Node, Facts], "Node | None"]


@dataclass(frozen=True)
class Canonical:
    """Canonical forms of some values and of every node under them."""

    roots: tuple[Node, ...]
    made: Mapping[Node, Node]


MOST_PASSES = 3


def canonical(roots: Iterable[Node], sizes: Mapping[Axis, int] | None = None) -> Canonical:
    """The canonical form of values; `sizes` are the axes whose extent is a known number.

    A pass may leave a value with one user that had several, so that more rules apply.
    """
    roots = tuple(roots)
    made = {node: node for node in walk(roots)}
    for _ in range(MOST_PASSES):
        found = one_pass(roots, sizes or {})
        made = {node: found.made.get(form, form) for node, form in made.items()} | {
            node: form for node, form in found.made.items() if node not in made
        }
        if found.roots == roots:
            break
        roots = found.roots
    return Canonical(roots, made)


def one_pass(
    roots: Iterable[Node],
    sizes: Mapping[Axis, int],
    settled: dict[Node, Node] | None = None,
    shared: Iterable[Node] = (),
) -> Canonical:
    """Apply the rules from the leaves up, once.

    settled  values that are canonical already, each with itself
    shared   those of them that have several users
    """
    roots = tuple(roots)
    made: MutableMapping[Node, Node] = {} if settled is None else ChainMap({}, settled)
    rewriter = _Rewriter(Facts(sizes, set(shared)), _users(roots, made), made)
    return Canonical(tuple(rewriter.rewrite(root) for root in roots), rewriter.made)


def _users(roots: Sequence[Node], settled: Mapping[Node, Node]) -> dict[Node, int]:
    """How often each value is used; a result counts as used from outside."""
    users = dict.fromkeys(roots, 1)
    waiting, seen = list(roots), set(roots)
    while waiting:
        node = waiting.pop()
        if node in settled:
            continue
        for child in node.children:
            users[child] = users.get(child, 0) + 1
            if child not in seen:
                seen.add(child)
                waiting.append(child)
    return users


class _Rewriter:
    """Applies the rules from the leaves up; what a rule makes is rewritten in turn."""

    def __init__(
        self, facts: Facts, users: Mapping[Node, int], made: MutableMapping[Node, Node]
    ) -> None:
        self.facts, self.users, self.made = facts, users, made

    def rewrite(self, root: Node) -> Node:
        stack = [root]
        while stack:
            node = stack[-1]
            waiting = [child for child in node.children if child not in self.made]
            stack.extend(waiting)
            if waiting:
                continue
            stack.pop()
            if node not in self.made:
                self.made[node] = result = self.settle(node)
                self.made.setdefault(result, result)
                if self.users.get(node, 0) > 1 and result.children and not is_number(result):
                    self.facts.shared.add(result)
        return self.made[root]

    def settle(self, node: Node) -> Node:
        children = [self.made[child] for child in node.children]
        if any(new is not old for new, old in zip(children, node.children, strict=True)):
            node = node.rebuild(children)
        if isinstance(node, Scan):
            node = self.scan(node)
        for rule in RULES:
            new = rule(node, self.facts)
            if new is not None and new is not node and set(new.axes) == set(node.axes):
                return self.rewrite(new if new.dtype == node.dtype else Cast(new, node.dtype))
        return node

    def scan(self, node: Scan) -> Scan:
        body = node.body
        inner = canonical((*body.next, *body.emits), self.facts.sizes).roots
        cut = len(body.next)
        body = Recurrence(
            body.axis, body.states, body.slices, inner[:cut], inner[cut:], body.reverse
        )
        return Scan(body, node.initial, node.xs, node.output)


# ---------------------------------------------------------------- sums and products


def is_number(node: Node) -> bool:
    """Whether a value has no axes and depends on no tensor."""
    if node.axes:
        return False
    match node:
        case Constant() | Immediate() | Size():
            return True
        case Map(_, arguments):
            return all(is_number(argument) for argument in arguments)
        case Cast(x, _):
            return is_number(x)
    return False


def parts(node: Node, function: str, shared: Iterable[Node] = ()) -> list[Node]:
    """The terms of a sum or the factors of a product, through values used only there."""
    match node:
        case Map(name, (a, b)) if name == function:
            return [
                part
                for x in (a, b)
                for part in (parts(x, function, shared) if x not in shared else [x])
            ]
    return [node]


def separated(node: Node, function: str, shared: Iterable[Node] = ()) -> tuple[Node, list[Node]]:
    """A sum or product as (its numbers as one, the rest)."""
    every = parts(node, function, shared)
    numbers = [part for part in every if is_number(part)]
    return _number(function, numbers), [part for part in every if not is_number(part)]


def combined(function: str, number: Node, rest: Iterable[Node]) -> Node:
    """The chain of a sum or product in canonical order, without a neutral number."""
    ordered = sorted(rest, key=rank)
    if not ordered:
        return number
    result = ordered[0]
    for part in ordered[1:]:
        result = Map(function, (result, part))
    return result if _is(number, NEUTRAL[function]) else Map(function, (number, result))


def _number(function: str, numbers: Sequence[Node]) -> Node:
    total: float | int = NEUTRAL[function]
    symbols = []
    for number in numbers:
        match number:
            case Constant(value):
                total = total + value if function == "add" else total * value
            case _:
                symbols.append(number)
    result: Node = Constant(total)
    for symbol in sorted(symbols, key=digest):
        result = symbol if _is(result, NEUTRAL[function]) else Map(function, (result, symbol))
    return result


def _is(node: Node, value: float) -> bool:
    return isinstance(node, Constant) and not isinstance(node.value, bool) and node.value == value


_NEAR: dict[tuple[Node, int], str] = {}


def rank(node: Node) -> tuple[str, bytes]:
    """The key that values are sorted by: first what is near, then what is far below, so that the
    layers of a model are sorted alike."""
    return _near(node, 3), digest(node)


def _near(node: Node, reach: int) -> str:
    if (node, reach) not in _NEAR:
        inside = ",".join(_near(child, reach - 1) for child in node.children) if reach else ""
        what = "" if isinstance(node, Input) else label(node)
        _NEAR[node, reach] = f"{what}{node.axes}({inside})"
    return _NEAR[node, reach]


_DIGESTS: dict[Node, bytes] = {}


def digest(node: Node) -> bytes:
    """A name for a value that does not change from run to run; equal values have one digest."""
    waiting = [node]
    while waiting:
        each = waiting[-1]
        missing = [child for child in each.children if child not in _DIGESTS]
        waiting.extend(missing)
        if missing:
            continue
        waiting.pop()
        if each not in _DIGESTS:
            made = hashlib.blake2b(label(each).encode(), digest_size=12)
            for child in each.children:
                made.update(_DIGESTS[child])
            _DIGESTS[each] = made.digest()
    return _DIGESTS[node]


def label(node: Node) -> str:
    """Everything that makes a node except its children."""
    match node:
        case Map(function, _):
            return function
        case Dot(_, _, over):
            return f"dot {over}"
        case Reduce(function, _, over):
            return f"reduce {function} {over}"
        case View(_, index, fill):
            return f"view {index} {fill!r}"
        case Gather(_, _, axis) | Stack(_, axis):
            return f"{type(node).__name__} {axis}"
        case Update(_, _, at):
            return f"update {at}"
        case Cast(_, to):
            return f"cast {to}"
        case Opaque(operator, _, over, to, output, _, orders):
            return f"opaque {operator} {over} {to} {output} {orders}"
        case Scan(body, _, _, output):
            results = " ".join(digest(result).hex() for result in (*body.next, *body.emits))
            leaves = " ".join(map(str, (*body.states, *body.slices)))
            return f"scan {body.axis} {body.reverse} {leaves} {results} {output}"
    return str(node)


# ---------------------------------------------------------------- rules: numbers, sums, products


def known_size(node: Node, facts: Facts) -> Node | None:
    """size(n)  →  768, where it is a number"""
    match node:
        case Size(axis) if axis in facts.sizes:
            return Constant(facts.sizes[axis])
    return None


def folded(node: Node, _: Facts) -> Node | None:
    """2 * 3  →  6"""
    match node:
        case Map(function, arguments) if all(isinstance(a, Constant) for a in arguments):
            given = [a.value for a in arguments if isinstance(a, Constant)]
            floats = is_float(node.dtype)
            with np.errstate(all="ignore"):
                value = FUNCTIONS[function].numpy(*(float(v) if floats else v for v in given))
            if node.dtype == "bool":
                return Constant(bool(value))
            return Constant(float(value) if floats else int(value))
    return None


def difference(node: Node, _: Facts) -> Node | None:
    """a - b  →  a + -1 * b"""
    match node:
        case Map("subtract", (a, b)):
            return a + Constant(-1) * b
    return None


def negation(node: Node, _: Facts) -> Node | None:
    """-a  →  -1 * a"""
    match node:
        case Map("negate", (a,)):
            return Constant(-1) * a
    return None


def quotient(node: Node, _: Facts) -> Node | None:
    """a / b  →  a * reciprocal(b)"""
    match node:
        case Map("divide", (a, b)):
            return a * Map("reciprocal", (b,))
    return None


def small_power(node: Node, _: Facts) -> Node | None:
    """x ** 2  →  x * x, and so up to 4;  x ** 0.5, -0.5, -1, 1  →  sqrt, rsqrt, reciprocal, x"""
    match node:
        case Map("power", (x, Constant(exponent))) if is_float(x.dtype):
            match float(exponent):
                case 1.0:
                    return x
                case 2.0 | 3.0 | 4.0:
                    return combined("multiply", Constant(1), [x] * int(exponent))
                case 0.5:
                    return Map("sqrt", (x,))
                case -0.5:
                    return Map("rsqrt", (x,))
                case -1.0:
                    return Map("reciprocal", (x,))
    return None


def inverse(node: Node, _: Facts) -> Node | None:
    """1 / sqrt(x)  →  rsqrt(x);  1 / rsqrt(x)  →  sqrt(x);  1 / (1 / x)  →  x;
    1 / exp(x)  →  exp(-x)"""
    match node:
        case Map("reciprocal", (Map("sqrt", (x,)),)):
            return Map("rsqrt", (x,))
        case Map("reciprocal", (Map("rsqrt", (x,)),)):
            return Map("sqrt", (x,))
        case Map("reciprocal", (Map("reciprocal", (x,)),)):
            return x
        case Map("reciprocal", (Map("exp", (x,)),)):
            return Map("exp", (Constant(-1) * x,))
    return None


def inverse_of_product(node: Node, facts: Facts) -> Node | None:
    """1 / (2 * x)  →  0.5 * (1 / x)"""
    match node:
        case Map("reciprocal", (Map("multiply") as product,)):
            number, rest = separated(product, "multiply", facts.shared)
            if rest and not _is(number, 1):
                inside = combined("multiply", Constant(1), rest)
                return Map("reciprocal", (number,)) * Map("reciprocal", (inside,))
    return None


def logistic(node: Node, facts: Facts) -> Node | None:
    """1 / (1 + exp(-x))  →  sigmoid(x)"""
    match node:
        case Map("reciprocal", (Map("add") as total,)):
            number, rest = separated(total, "add", facts.shared)
            match rest:
                case [Map("exp", (x,))] if _is(number, 1):
                    return Map("sigmoid", (_negative(x, facts),))
    return None


def _negative(x: Node, facts: Facts) -> Node:
    number, rest = separated(x, "multiply", facts.shared)
    return combined("multiply", _number("multiply", [Constant(-1), number]), rest)


def ordered_chain(node: Node, facts: Facts) -> Node | None:
    """(b + 1) + (2 + a)  →  3.0 + (a + b), and so for products;  x + 2 * x  →  3.0 * x"""
    match node:
        case Map("add" | "multiply" as function, _):
            number, rest = separated(node, function, facts.shared)
            if function == "add":
                rest = _like_terms(rest, facts)
            if isinstance(number, Constant) and any(is_float(part.dtype) for part in rest):
                number = Constant(float(number.value))
            return combined(function, number, rest)
    return None


def _like_terms(terms: Sequence[Node], facts: Facts) -> list[Node]:
    """Equal terms as one, where their factors are numbers that do not cancel."""
    found: dict[Node, list[Node]] = {}
    for term in terms:
        number, rest = separated(term, "multiply", facts.shared)
        whole = term in facts.shared or not isinstance(number, Constant)
        key = term if whole else combined("multiply", Constant(1), rest)
        found.setdefault(key, []).append(term)
    result = []
    for key, group in found.items():
        numbers = [separated(t, "multiply", facts.shared)[0] for t in group if t is not key]
        total = _number("add", [*numbers, *[Constant(1)] * group.count(key)])
        if len(group) == 1 or _is(total, 0):
            result += group
        else:
            result.append(combined("multiply", total, [key]))
    return result


# ---------------------------------------------------------------- rules: reductions


def merged_reduction(node: Node, facts: Facts) -> Node | None:
    """sum(sum(x, n), m)  →  sum(x, m n), axes sorted; max, min and product alike"""
    match node:
        case Reduce("argmax", _, _):
            return None
        case Reduce(function, Reduce(inner, x, more) as nested, over):
            if function == inner and nested not in facts.shared:
                return Reduce(function, x, tuple(sorted({*over, *more})))
        case Reduce(function, x, over) if list(over) != sorted(over):
            return Reduce(function, x, tuple(sorted(over)))
        case Dot(a, b, over) if list(over) != sorted(over):
            return Dot(a, b, tuple(sorted(over)))
    return None


def number_out(node: Node, facts: Facts) -> Node | None:
    """sum(2 * x)  →  2 * sum(x);  dot(2 * a, b)  →  2 * dot(a, b), unless a is a product itself:
    its number may belong to it, as that of a GELU; and that of a mean, 1 / size, stays with it"""
    match node:
        case Reduce("sum", Map("multiply") as product, over):
            number, rest = separated(product, "multiply", facts.shared)
            if rest and not _is(number, 1) and not _has_size(number):
                return number * Reduce("sum", combined("multiply", Constant(1), rest), over)
        case Dot(a, b, over):
            (left, x), (right, y) = _scaled(a, facts), _scaled(b, facts)
            if x is not a or y is not b:
                return _number("multiply", [left, right]) * Dot(x, y, over)
    return None


def _has_size(number: Node) -> bool:
    return any(isinstance(node, Size) for node in walk([number]))


def _scaled(x: Node, facts: Facts) -> tuple[Node, Node]:
    """A value as (number, rest)."""
    if not isinstance(x, Map) or x.function != "multiply" or x in facts.shared:
        return Constant(1), x
    number, rest = separated(x, "multiply", facts.shared)
    if len(rest) != 1 or _is(number, 1) or _has_size(number):
        return Constant(1), x
    return number, combined("multiply", Constant(1), rest)


def contraction(node: Node, facts: Facts) -> Node | None:
    """sum(a * b, k)  →  dot(a, b, k), where both have k"""
    match node:
        case Reduce("sum", Map("multiply") as x, over):
            number, rest = separated(x, "multiply", facts.shared)
            if len(rest) == 2 and _is(number, 1) and all({*over} <= {*r.axes} for r in rest):
                return Dot(rest[0], rest[1], over)
    return None


# ---------------------------------------------------------------- rules: conditions


def one_direction(node: Node, _: Facts) -> Node | None:
    """a > b  →  b < a;  a >= b  →  b <= a;  a < b + 1  →  a <= b (integers)"""
    match node:
        case Map("greater", (a, b)):
            return Map("less", (b, a))
        case Map("greater_equal", (a, b)):
            return Map("less_equal", (b, a))
        case Map("less", (a, Map("add", (Constant(1), b)))) if "i32" == a.dtype == b.dtype:
            return Map("less_equal", (a, b))
    return None


def positive_branch(node: Node, _: Facts) -> Node | None:
    """where(not c, a, b)  →  where(c, b, a)"""
    match node:
        case Map("where", (Map("logical_not", (condition,)), a, b)):
            return Map("where", (condition, b, a))
        case Map("logical_not", (Map("logical_not", (x,)),)):
            return x
    return None


def rectifier(node: Node, _: Facts) -> Node | None:
    """where(0 < x, x, 0)  →  maximum(x, 0), with <= alike, and where(x < 0, 0, x)"""
    match node:
        case Map("where", (Map("less" | "less_equal", (low, high)), a, b)):
            if _is(low, 0) and high is a and _is(b, 0):
                return Map("maximum", (a, Constant(0.0)))
            if _is(high, 0) and low is b and _is(a, 0):
                return Map("maximum", (b, Constant(0.0)))
    return None


def masked(node: Node, facts: Facts) -> Node | None:
    """x + where(c, 0, -inf)  →  where(c, x, -inf)"""
    match node:
        case Map("add", _):
            terms = parts(node, "add", facts.shared)
            for number, term in enumerate(terms):
                match term:
                    case Map("where", (condition, zero, low)) if _is(zero, 0) and _is(low, -np.inf):
                        rest = [*terms[:number], *terms[number + 1 :]]
                        if any(not is_number(other) for other in rest):
                            total = rest[0]
                            for other in rest[1:]:
                                total = total + other
                            return Map("where", (condition, total, low))
    return None


def sorted_arguments(node: Node, _: Facts) -> Node | None:
    """maximum(0, x)  →  maximum(x, 0): numbers last, the rest sorted"""
    match node:
        case Map(function, (a, b)) if FUNCTIONS[function].commutative and function not in NEUTRAL:
            if (is_number(b), rank(b)) < (is_number(a), rank(a)):
                return Map(function, (b, a))
    return None


# ---------------------------------------------------------------- rules: views and casts


def composed(outer: Affine, inner: Mapping[Axis, Affine]) -> Affine | None:
    """`outer` with its axes replaced by indices; None if that is not a sum of axes any more."""
    if all(axis not in inner for axis in outer.axes):
        return outer
    if outer.plain is not None:
        return inner[outer.plain]
    strides: dict[Axis, int] = {}
    offset = outer.offset
    for axis, stride in outer.terms:
        index = inner.get(axis, Affine(((axis, 1),)))
        if index.divide != 1 or index.modulo:
            return None
        offset += stride * index.offset
        for name, step in index.terms:
            strides[name] = strides.get(name, 0) + stride * step
    terms = tuple((axis, stride) for axis, stride in strides.items() if stride)
    return Affine(terms, offset, outer.divide, outer.modulo)


def view_of_view(node: Node, _: Facts) -> Node | None:
    """view(view(x, a=2*b), b=c+1)  →  view(x, a=2*c+2)"""
    match node:
        case View(View(x, inner, None), outer, fill):
            known = dict(outer)
            if fill is not None and any(a not in dict(inner) and a not in x.axes for a in known):
                return None
            index = {axis: composed(i, known) for axis, i in inner}
            hidden = {axis for i in dict(inner).values() for axis in i.axes}
            if fill is not None and any(dict(inner)[a].plain is None for a in dict(inner)):
                return None
            for axis, i in outer:
                if axis not in hidden:
                    index[axis] = i
            found = tuple((axis, i) for axis, i in index.items() if i is not None)
            return View(x, found, fill) if len(found) == len(index) else None
    return None


def view_without_effect(node: Node, _: Facts) -> Node | None:
    """view(x, a=a)  →  x;  view(position(a), a=b+1)  →  position(b) + 1"""
    match node:
        case View(x, index, None) if all(i.plain == axis for axis, i in index):
            return x
        case View(Position(), ((_, index),), None) if index.divide == 1 and not index.modulo:
            total: Node = Constant(index.offset)
            for name, stride in index.terms:
                total = total + stride * Position(name)
            return total if index.terms else None
    return None


def view_of_stack(node: Node, _: Facts) -> Node | None:
    """view(stack(x, y, over a), a=1)  →  y"""
    match node:
        case View(Stack(xs, axis), index, None):
            at = dict(index).pop(axis, None)
            if at is not None and not at.terms:
                part = xs[at.offset]
                rest = tuple((a, i) for a, i in index if a != axis and a in part.axes)
                return View(part, rest) if rest else part
    return None


def view_inwards(node: Node, facts: Facts) -> Node | None:
    """view(f(x, y), a=b)  →  f(view(x, a=b), view(y, a=b)), for a rename or a slice of a value used
    here; reductions and contractions alike, unless they reduce an axis of the new name"""
    match node:
        case View(Map() | Dot() | Reduce() as x, index, None) if x not in facts.shared:
            names = [axis for _, i in index for axis in i.axes]
            hidden = set(x.over) if isinstance(x, Dot | Reduce) else set()
            plain = all(i == Affine(i.terms[:1], i.offset) for _, i in index)
            steps = {stride for _, i in index for _, stride in i.terms}
            if not plain or steps - {1} or len(set(names)) < len(names) or hidden & set(names):
                return None
            return x.rebuild([_viewed(child, index) for child in x.children])
    return None


def _viewed(x: Node, index: Sequence[tuple[Axis, Affine]]) -> Node:
    mine = tuple((axis, i) for axis, i in index if axis in x.axes)
    return View(x, mine) if mine else x


def whole_stack(node: Node, facts: Facts) -> Node | None:
    """stack(x[a=0], x[a=1], over b)  →  x[a=b], where a has no other positions"""
    match node:
        case Stack((View(x, ((axis, Affine((), 0)),), None), *_) as xs, new):
            pieces = [View(x, ((axis, Affine((), i)),)) for i in range(len(xs))]
            if facts.sizes.get(axis) == len(xs) and pieces == list(xs):
                return x if axis == new else View(x, ((axis, Affine(((new, 1),))),))
    return None


def widened(node: Node, _: Facts) -> Node | None:
    """f(cast(x: bf16, f32))  →  f(x): arithmetic widens by itself"""
    match node:
        case Map() | Reduce() | Dot():
            children = [_narrow(child) for child in node.children]
            if any(new is not old for new, old in zip(children, node.children, strict=True)):
                new = node.rebuild(children)
                return new if new.dtype == node.dtype else None
    return None


def _narrow(x: Node) -> Node:
    match x:
        case Cast(inner, "f32") if inner.dtype in ("bf16", "f16"):
            return inner
    return x


def cast_twice(node: Node, _: Facts) -> Node | None:
    """cast(cast(x, f32), bf16)  →  cast(x, bf16), where nothing is lost in between;
    cast(x: f32, f32)  →  x"""
    match node:
        case Cast(x, type) if x.dtype == type:
            return x
        case Cast(Cast(x, "f32" | "f64"), type) if x.dtype in ("bf16", "f16", "f32"):
            return Cast(x, type)
    return None


RULES: tuple[Rule, ...] = (
    known_size,
    folded,
    widened,
    difference,
    negation,
    quotient,
    small_power,
    inverse,
    inverse_of_product,
    logistic,
    merged_reduction,
    number_out,
    contraction,
    one_direction,
    positive_branch,
    rectifier,
    masked,
    ordered_chain,
    sorted_arguments,
    view_without_effect,
    view_of_view,
    view_of_stack,
    view_inwards,
    whole_stack,
    cast_twice,
)


def leaves_of(node: Node) -> tuple[Input, ...]:
    """The inputs under a value."""
    return tuple(n for n in walk([node]) if isinstance(n, Input))
