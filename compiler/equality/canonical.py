"""The form in which a graph is covered: bookkeeping done, the algebra as the source wrote it.

Views are composed and sit as near to the inputs as they can, numbers are folded, a sum of products
is a contraction. Each rule is stated in its docstring. A value that is used twice stays whole: it
is computed once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import is_not
from typing import TypeAlias

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
    arithmetic_type,
    walk,
)


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

    A pass may leave a value with one user that had several, so that more rules apply: only then
    another may change anything.
    """
    roots = tuple(roots)
    users = _users(roots)
    made: dict[Node, Node] = {node: node for node in users}
    for _ in range(MOST_PASSES):
        rewriter = _Rewriter(Facts(sizes or {}), users)
        roots = tuple(rewriter.rewrite(root) for root in roots)
        made = {node: rewriter.made.get(form, form) for node, form in made.items()} | {
            node: form for node, form in rewriter.made.items() if node not in made
        }
        users = _users(roots)
        if not any(users.get(node) == 1 for node in rewriter.facts.shared):
            break
    return Canonical(roots, made)


def _users(roots: Sequence[Node]) -> dict[Node, int]:
    """How often each value is used, operands first; a result counts as used from outside."""
    users = dict.fromkeys(walk(roots), 0)
    for node in users:
        for child in node.children:
            users[child] += 1
    for root in set(roots):
        users[root] += 1
    return users


class _Rewriter:
    """Applies the rules from the leaves up; what a rule makes is rewritten in turn."""

    def __init__(self, facts: Facts, users: Mapping[Node, int]) -> None:
        self.facts, self.users = facts, users
        self.made: dict[Node, Node] = {}

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
        children = node.children
        made = [self.made[child] for child in children]
        if any(map(is_not, made, children)):
            node = node.rebuild(made)
        if isinstance(node, Scan):
            node = self.scan(node)
        for rule in RULES.get(type(node), ()):
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


# ---------------------------------------------------------------- numbers and names


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


def number_of(node: Node) -> float | None:
    """A number, if everything in it is known."""
    match node:
        case Constant(value):
            return value
        case Cast(x, _):
            return number_of(x)
        case Map(function, arguments):
            given = [number_of(argument) for argument in arguments]
            known = [np.float64(value) for value in given if value is not None]
            if len(known) < len(given):
                return None
            with np.errstate(all="ignore"):
                return float(FUNCTIONS[function].numpy(*known))
    return None


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


# ---------------------------------------------------------------- rules: numbers, reductions


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


def float_number(node: Node, _: Facts) -> Node | None:
    """x > 0  →  x > 0.0, where x is of floats: a number is written in the type it is computed in"""
    match node:
        case Map(function, arguments) if any(isinstance(a, Constant) for a in arguments):
            first = 1 if FUNCTIONS[function].result == "branches" else 0
            typed = arguments[first:]
            new = [_as_float(argument) for argument in typed]
            if any(map(is_not, new, typed)) and is_float(arithmetic_type(typed)):
                return Map(function, (*arguments[:first], *new))
    return None


def _as_float(node: Node) -> Node:
    match node:
        case Constant(int(value)) if not isinstance(value, bool):
            return Constant(float(value))
    return node


def empty_reduction(node: Node, _: Facts) -> Node | None:
    """sum(x, over no axes)  →  x, as of a softmax over a single position; argmax is another"""
    match node:
        case Reduce(function, x, ()) if function != "argmax":
            return x if x.dtype == node.dtype else Cast(x, node.dtype)
    return None


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


def contraction(node: Node, facts: Facts) -> Node | None:
    """sum(a * b, k)  →  dot(a, b, k), where both have k and are not the same"""
    match node:
        case Reduce("sum", Map("multiply", (a, b)) as x, over) if x not in facts.shared:
            if a is not b and {*over} <= {*a.axes} & {*b.axes}:
                return Dot(a, b, over)
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


def view_of_view(node: Node, facts: Facts) -> Node | None:
    """view(view(x, a=2*b), b=c+1)  →  view(x, a=2*c+2), unless others read the inner one: the
    halves of a row, which are views of one view, stay parts of one value; so does the beginning of
    a row that is counted in other digits"""
    match node:
        case View(View(x, inner, None) as one, outer, fill) if one not in facts.shared:
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
            sizes = facts.sizes
            if any(i and 0 < i.modulo < sizes.get(axis, 0) for axis, i in index.items()):
                return None
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
    """f(cast(x: bf16, f32))  →  f(x): arithmetic widens by itself; f(x, cast(-inf, bf16))  →
    f(x, -inf): a number bends to what it meets, where its type holds it"""
    match node:
        case Map() | Reduce() | Dot():
            if any(isinstance(child, Cast) for child in node.children):
                children = [_narrow(child) for child in node.children]
                new = node.rebuild(children)
                return new if new.dtype == node.dtype else None
    return None


def _narrow(x: Node) -> Node:
    match x:
        case Cast(inner, "f32") if inner.dtype in ("bf16", "f16"):
            return inner
        case Cast(Constant(value) as number, to) if is_float(to) and not isinstance(value, bool):
            return number if float(DTYPES[to].numpy.type(value)) == value else x
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


RULES: Mapping[type[Node], tuple[Rule, ...]] = {
    Size: (known_size,),
    Map: (folded, widened, float_number),
    Reduce: (empty_reduction, widened, merged_reduction, contraction),
    Dot: (widened, merged_reduction),
    View: (view_without_effect, view_of_view, view_of_stack, view_inwards),
    Stack: (whole_stack,),
    Cast: (cast_twice,),
}
"""The rules for each kind of node, in the order in which they are tried."""
