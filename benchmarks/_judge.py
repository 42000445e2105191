"""An independent judge of matches: what two expressions differ by, at points of its own.

It shares nothing with the evaluator of the language nor with the compiler's oracle: arithmetic is
extended precision, contractions are einsums, views and look-ups are index arrays, and all points
are one leading dimension of every array. Leaves are free values: normal ones at several scales,
far from zero, positive ones, and rows with -inf, -1e30 or the least number of f32 in them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infinisa.compiler.selection.match import Match
from infinisa.isa.errors import ModelError
from infinisa.isa.instruction import Instruction
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
    Position,
    Recurrence,
    Reduce,
    Scan,
    Size,
    Stack,
    Update,
    View,
    everything,
    substitute,
    walk,
)

Array = NDArray[Any]
Real = type[np.floating[Any]]

EXACT, NARROW = np.longdouble, np.float32
SHORT = 3
"""Positions of an axis that nothing folds, indexes or counts."""

ROUNDING = {"f64": 2.0**-52, "f32": 2.0**-23, "f16": 2.0**-10, "bf16": 2.0**-7}


def tolerance(dtypes: Iterable[str]) -> float:
    """What a number of the source rounded once, in the narrowest of these types, may do to a
    result; a match that differs by more is wrong."""
    return 16.0 * max((ROUNDING[d] for d in dtypes if d in ROUNDING), default=ROUNDING["f32"])


# ---------------------------------------------------------------- verdicts


@dataclass
class Audit:
    """Judges matches of a graph; matches alike, as those of equal layers, are judged once.

    sizes  extents of the graph's axes
    worst  the worst difference of the results of each kind of match
    """

    sizes: Mapping[Axis, int]
    worst: dict[object, float] = field(default_factory=dict)

    def __call__(self, match: Match) -> float:
        key = fingerprint(match, self.sizes)
        if key not in self.worst:
            found = [
                judge(root, match.leaves, match.meaning, self.sizes, output)
                for output, root in enumerate(match.roots)
                if root is not None
            ]
            self.worst[key] = math.nan if any(map(math.isnan, found)) else max(found)
        return self.worst[key]

    def wrong(self, match: Match) -> bool:
        """Whether a match computes something else. (It does not where its root is a number at no
        point: NaN is more than nothing.)"""
        dtypes = [node.dtype for node in (*match.leaves, *match.inner)]
        return self(match) > tolerance(dtypes)


def fingerprint(found: Match, sizes: Mapping[Axis, int]) -> object:
    """A key that two matches share if they differ only in names and in what lies below them."""
    roots = [root for root in found.roots if root is not None]
    cut = {leaf for root in roots for leaf in free_values(root, found.leaves)}
    numbers: dict[Node, int] = {}
    axes: dict[Axis, int] = {}

    def plain(value: object) -> object:
        match value:
            case Node():
                return numbers[value]
            case str() if value in sizes:
                return axes.setdefault(value, len(axes)), sizes[value]
            case tuple():
                return tuple(map(plain, value))
            case Affine():
                return plain((value.terms, value.offset, value.divide, value.modulo))
            case Recurrence():
                return value  # by name: equal ones are the same one
        return repr(value)

    def described(node: Node, leaf: bool) -> object:
        numbers[node] = len(numbers)
        shape = plain((*node.axes, node.dtype))
        if leaf or isinstance(node, Input):
            return shape
        return type(node), shape, *(plain(getattr(node, f.name)) for f in fields(node))

    cone = [described(node, node in cut) for node in walk_between(roots, cut)]
    leaves = [described(leaf, True) for leaf in found.leaves if leaf not in numbers]
    read = plain(found.leaves)
    operands = [described(operand, True) for operand in found.meaning.operands]
    outputs = found.meaning.outputs
    made = [described(node, False) for node in walk(outputs) if node not in numbers]
    ends = plain(tuple(roots)), plain(outputs), tuple(root is None for root in found.roots)
    return tuple(cone), tuple(leaves), read, tuple(operands), tuple(made), ends


def walk_between(roots: Iterable[Node], cut: Iterable[Node]) -> Iterator[Node]:
    """Every node once, arguments before their users, nothing below the cut."""
    seen: set[Node] = set()
    below = set(cut)
    waiting = [(root, False) for root in roots]
    while waiting:
        node, ready = waiting.pop()
        if ready:
            yield node
        elif node not in seen:
            seen.add(node)
            waiting.append((node, True))
            if node not in below:
                waiting += [(child, False) for child in node.children]


def judge(
    root: Node,
    leaves: Sequence[Node],
    meaning: Instruction,
    sizes: Mapping[Axis, int],
    output: int = 0,
) -> float:
    """The worst difference between a node and what an instruction computes from the leaves.

    meaning  the instance: over the graph's axes, with its immediates
    sizes    extents of the graph's axes
    """
    known: dict[Node, Node] = dict(zip(meaning.operands, leaves, strict=True))
    known |= {i: Constant(i.default) for i in meaning.immediates}
    (claimed,) = substitute([meaning.outputs[output]], known)
    return difference(root, claimed, leaves, sizes)


def difference(
    truth: Node, claimed: Node, leaves: Iterable[Node], sizes: Mapping[Axis, int]
) -> float:
    """The worst relative difference of `claimed` where `truth` is a number; inf if it is none
    there or if their axes differ; NaN if `truth` is a number at no point.

    It is over the reals; in f32, `claimed` must be a number wherever `truth` is one, and lose no
    digits that `truth` keeps.
    """
    if set(truth.axes) != set(claimed.axes):
        return math.inf
    extents = shortened([truth, claimed], sizes)
    free = free_values(truth, leaves)
    free += [
        node
        for node in walk_between([truth, claimed], free)
        if isinstance(node, Input) and node not in free
    ]
    over_reals = real_difference(truth, claimed, free, extents)
    if math.isnan(over_reals):
        return math.nan
    return max(over_reals, narrow_difference(truth, claimed, free, extents))


def real_difference(
    truth: Node, claimed: Node, free: Sequence[Node], sizes: Mapping[Axis, int]
) -> float:
    points = [*PLAIN, *masked_points(truth, free, MASKED)]
    given = sampled(free, points, sizes, EXACT)
    right, sure = trusted(truth, given, sizes, len(points))
    other = value(claimed, truth.axes, given, sizes, EXACT, len(points))
    shorter = {node: a if a.dtype != EXACT else a.astype(np.float64) for node, a in given.items()}
    again = value(truth, truth.axes, shorter, sizes, np.float64, len(points))
    size = size_of(right, sure, np.array([1e-15 * point.scale for point in points], EXACT))
    with np.errstate(all="ignore"):
        sure &= np.abs(again - right) < SURE * size[:, None]
    if not sure.any():
        return math.nan
    if not np.isfinite(other[sure]).all():
        return math.inf
    return float((distance(other, right, sure) / size).max())


def narrow_difference(
    truth: Node, claimed: Node, free: Sequence[Node], sizes: Mapping[Axis, int]
) -> float:
    """What f32 makes of `claimed` that it does not make of `truth`; 0 if nothing."""
    points = [*IN_F32, *masked_points(truth, free, MASKED_IN_F32)]
    given = sampled(free, points, sizes, NARROW)
    right, sure = trusted(truth, given, sizes, len(points))
    mine, other = (
        value(x, truth.axes, given, sizes, NARROW, len(points)) for x in (truth, claimed)
    )
    sure &= np.isfinite(mine)
    if not np.isfinite(other[sure]).all():
        return math.inf
    size = size_of(right, sure, np.full(len(points), 1e-30, EXACT))
    kept = distance(mine, right, sure) / size
    lost = distance(other, right, sure) / size
    plain = np.arange(len(points)) < len(IN_F32)  # with a special number only NaN counts
    worse = lost[plain & (lost > LOST) & (lost > MORE * kept)]
    return float(worse.max(initial=0.0))


SURE = 1e-6
"""Where the source itself differs by more in f64 it has lost its digits: it says nothing."""

LOST, MORE = 1e-3, 30.0
"""Digits are lost if f32 is this far off, and this many times as far as the source itself."""


def trusted(
    node: Node, given: Mapping[Node, Array], sizes: Mapping[Axis, int], count: int
) -> tuple[Array, Array]:
    """A value at each point, and where it is a number that nothing overflowed on the way to."""
    exact = {n: a.astype(EXACT) if n.dtype in ROUNDING else a for n, a in given.items()}
    values = Values(sizes, EXACT, exact)
    (array,) = values.of([node])
    rows = by_point(array, node.axes, node.axes, sizes, count)
    return rows, np.isfinite(rows) & ~values.overflow[:, None]


def value(
    node: Node,
    axes: Sequence[Axis],
    given: Mapping[Node, Array],
    sizes: Mapping[Axis, int],
    real: Real,
    count: int,
) -> Array:
    """A value at each point, over these axes in this order."""
    (array,) = Values(sizes, real, dict(given)).of([node])
    return by_point(array, node.axes, axes, sizes, count)


def by_point(
    array: Array,
    axes: Sequence[Axis],
    target: Sequence[Axis],
    sizes: Mapping[Axis, int],
    count: int,
) -> Array:
    shape = (count, *(sizes[axis] for axis in target))
    whole = np.broadcast_to(spread(array, axes, target), shape)
    return whole.astype(EXACT).reshape(count, -1)


def distance(a: Array, b: Array, number: Array) -> Array:
    with np.errstate(all="ignore"):
        return np.asarray(np.where(number, np.abs(a - b), 0).max(axis=1))


def size_of(array: Array, number: Array, least: Array) -> Array:
    """The largest of each point's numbers, or a number below which nothing counts."""
    return np.asarray(np.maximum(np.where(number, np.abs(array), 0).max(axis=1), least))


def free_values(root: Node, leaves: Iterable[Node]) -> list[Node]:
    """The values of which a difference must not depend: the leaves that depend on a tensor; of one
    that is regrouped from nodes of the graph, those nodes, though it may lie under another leaf."""
    waiting = list(leaves)
    inside = set(walk_between([root], waiting))
    found: dict[Node, None] = {}
    seen: set[Node] = set()
    while waiting:
        leaf = waiting.pop()
        if leaf in seen or not of_tensors(leaf):
            continue  # a number, or positions: it is what it is
        seen.add(leaf)
        if isinstance(leaf, View) and all(index.plain for _, index in leaf.index):
            waiting.append(leaf.x)  # the same value by another name
            continue
        if leaf in inside or isinstance(leaf, Input):
            found[leaf] = None
        else:
            waiting += leaf.children
    return list(found)


def of_tensors(node: Node) -> bool:
    """Whether a value depends on a tensor."""
    return any(isinstance(each, Input) for each in walk([node]))


def shortened(roots: Sequence[Node], sizes: Mapping[Axis, int]) -> dict[Axis, int]:
    """Extents to judge with: axes that only pass through are short."""
    counted: set[Axis] = set()
    axes: set[Axis] = set()
    for node in everything(roots):
        axes.update(node.axes)
        match node:
            case Reduce(_, _, over) | Dot(_, _, over):
                counted.update(over)
            case Size(axis) | Position(axis) | Gather(_, _, axis) | Stack(_, axis):
                counted.add(axis)
            case View(_, pairs, _) | Update(_, _, pairs):
                counted.update(a for axis, index in pairs for a in (axis, *index.axes))
            case Scan(body):
                counted.add(body.axis)
    return {a: sizes[a] if a in counted else min(SHORT, sizes[a]) for a in axes | counted}


# ---------------------------------------------------------------- points


@dataclass(frozen=True)
class Point:
    """How free values are drawn: scale * (normal + shift), or its exponential; one of them may
    have a special number in a part of it, or in a whole row."""

    seed: int
    scale: float = 1.0
    shift: float = 0.0
    positive: bool = False
    special: float | None = None
    row: bool = False
    leaf: int = -1


PLAIN = (
    Point(7001, 1.1),
    Point(7002, 0.3, shift=1.0),
    Point(7003, 2e-3),
    Point(7004, 7.0),
    Point(7005, 45.0),
    Point(7006, 1.0, shift=40.0),
    Point(7007, 0.7, positive=True),
    Point(7008, 2.0, positive=True),
)

MASKED = tuple(
    Point(7100 + n, special=number, row=row)
    for n, (number, row) in enumerate(product((-math.inf, -1e9), (False, True)))
)
"""-1e9 leaves what it is added to its digits, over the reals; all below is for f32."""

IN_F32 = (
    Point(7201),
    Point(7202, 30.0),
    Point(7203, 1e3),
    Point(7204, shift=300.0),
    Point(7205, 1e-3),
)
LEAST = float(np.finfo(np.float32).min)
MASKED_IN_F32 = tuple(
    Point(7300 + n, special=number, row=row)
    for n, (number, row) in enumerate(product((-math.inf, -1e30, LEAST), (False, True)))
)


def masked_points(root: Node, free: Sequence[Node], points: Sequence[Point]) -> list[Point]:
    """These points for each value that may be a mask, or masked: that nothing multiplies. (The
    least number of f32 times 1.5 is none, and products may be regrouped.)"""
    multiplied = factors(root)
    return [
        replace(point, seed=point.seed + 10 * number, leaf=number)
        for number, node in enumerate(free)
        if node.dtype in ROUNDING and node.axes and node not in multiplied
        for point in points
    ]


LINEAR = ("add", "subtract", "multiply", "divide", "negate", "where")


def factors(root: Node) -> set[Node]:
    """What is multiplied, through whatever is linear in it."""
    waiting: list[Node] = []
    for node in walk([root]):
        match node:
            case Dot(a, b, _):
                waiting += [a, b]
            case Map("multiply" | "divide", arguments):
                waiting += arguments
    found: set[Node] = set()
    while waiting:
        node = waiting.pop()
        if node in found:
            continue
        found.add(node)
        if isinstance(node, View | Cast | Stack) or getattr(node, "function", "") in LINEAR:
            waiting += node.children
    return found


def sampled(
    free: Sequence[Node], points: Sequence[Point], sizes: Mapping[Axis, int], real: Real
) -> dict[Node, Array]:
    """The free values, a row for each point."""
    rows: dict[Node, list[Array]] = {node: [] for node in free}
    for point in points:
        rng = np.random.default_rng(point.seed)
        for number, node in enumerate(free):
            shape = [sizes[axis] for axis in node.axes]
            array = drawn(rng, node.dtype, shape, point)
            if number == point.leaf and point.special is not None:
                place_special(rng, array, point.special, point.row)
            rows[node].append(array)
    return {
        node: np.stack(arrays).astype(real if node.dtype in ROUNDING else arrays[0].dtype)
        for node, arrays in rows.items()
    }


def drawn(rng: np.random.Generator, dtype: str, shape: Sequence[int], point: Point) -> Array:
    if dtype == "bool":
        return rng.random(shape) < 0.5
    if dtype in ("i8", "u8"):
        info = np.iinfo(np.int8 if dtype == "i8" else np.uint8)
        return np.asarray(rng.integers(info.min, info.max, shape, endpoint=True), np.int64)
    if dtype not in ROUNDING:
        return np.asarray(rng.integers(-3, 12, shape), np.int64)
    values = point.scale * (rng.standard_normal(shape) + point.shift)
    if point.positive:
        values = np.exp(values)
    return np.asarray(values, np.float32).astype(np.float64)


def place_special(rng: np.random.Generator, array: Array, number: float, row: bool) -> None:
    """Into about a third of an array; or into all of one position of one of its axes."""
    if not row:
        array[rng.random(array.shape) < 0.35] = number
        return
    axis = int(rng.integers(array.ndim))
    array[(slice(None),) * axis + (int(rng.integers(array.shape[axis])),)] = number


# ---------------------------------------------------------------- values


def spread(array: Array, axes: Sequence[Axis], target: Sequence[Axis]) -> Array:
    """An array over (points, *axes) as one over (points, *target), of length 1 where it lacks
    an axis."""
    order = [0, *(1 + list(axes).index(axis) for axis in target if axis in axes)]
    shape = [array.shape[0]]
    shape += [array.shape[1 + list(axes).index(a)] if a in axes else 1 for a in target]
    return array.transpose(order).reshape(shape)


def _sigmoid(x: Array) -> Array:
    return np.asarray(np.exp(-np.logaddexp(np.zeros_like(x), -x)))


_erf = np.frompyfunc(math.erf, 1, 1)

FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "negate": lambda x: -x,
    "absolute": np.fabs,
    "sign": np.sign,
    "exp": np.exp,
    "log": np.log,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "reciprocal": lambda x: 1 / x,
    "tanh": np.tanh,
    "erf": lambda x: _erf(x.astype(np.float64)).astype(x.dtype),
    "sigmoid": _sigmoid,
    "sin": np.sin,
    "cos": np.cos,
    "floor": np.floor,
    "ceil": np.ceil,
    "round": np.rint,
    "is_nan": lambda x: x != x,
    "logical_not": lambda x: x == 0,
    "add": lambda x, y: x + y,
    "subtract": lambda x, y: x - y,
    "multiply": lambda x, y: x * y,
    "divide": lambda x, y: x / y,
    "floor_divide": lambda x, y: x // y,
    "modulo": lambda x, y: x % y,
    "power": lambda x, y: x**y,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "equal": lambda x, y: x == y,
    "not_equal": lambda x, y: x != y,
    "less": lambda x, y: x < y,
    "less_equal": lambda x, y: x <= y,
    "greater": lambda x, y: x > y,
    "greater_equal": lambda x, y: x >= y,
    "logical_and": lambda x, y: (x != 0) & (y != 0),
    "logical_or": lambda x, y: (x != 0) | (y != 0),
    "where": lambda condition, x, y: np.where(condition != 0, x, y),
}

FOLDS: Mapping[str, Callable[..., Any]] = {
    "sum": np.sum,
    "max": np.max,
    "min": np.min,
    "product": np.prod,
}


@dataclass
class Values:
    """What nodes are worth: arrays over (points, *axes).

    real   the type of all arithmetic on floats; a cast between floats does nothing
    known  values that are given
    at     where the axis of a recurrence is
    overflow  the points at which an exponential of a number is infinite
    """

    sizes: Mapping[Axis, int]
    real: Real
    known: dict[Node, Array]
    at: Mapping[Axis, int] | None = None
    overflow: Array = field(default_factory=lambda: np.zeros(1, np.bool_))

    def of(self, roots: Iterable[Node]) -> list[Array]:
        roots = list(roots)
        waiting = list(roots)
        with np.errstate(all="ignore"):
            while waiting:
                node = waiting[-1]
                missing = [c for c in node.children if c not in self.known]
                if node in self.known or not missing:
                    waiting.pop()
                if node in self.known:
                    continue
                if missing:
                    waiting += missing
                else:
                    self.known[node] = self.value(node)
        return [self.known[root] for root in roots]

    def value(self, node: Node) -> Array:
        match node:
            case Constant(value) | Immediate(_, value):
                return self.number(value)
            case Size(axis):
                return np.array([self.sizes[axis]])
            case Position(axis):
                return self.steps(axis)[None]
            case Map():
                return self.map(node)
            case Reduce("argmax", x, over):
                return np.asarray(np.argmax(self.known[x], 1 + x.axes.index(over[0])))
            case Reduce(function, x, over):
                dims = tuple(1 + x.axes.index(axis) for axis in over)
                return np.asarray(FOLDS[function](self.typed(x, node.dtype), axis=dims))
            case Dot(a, b, _):
                letter = {axis: 1 + n for n, axis in enumerate(dict.fromkeys(a.axes + b.axes))}
                labels = [[0, *(letter[axis] for axis in side.axes)] for side in (a, b)]
                left, right = self.typed(a, node.dtype), self.typed(b, node.dtype)
                result = [0, *(letter[axis] for axis in node.axes)]
                return np.asarray(np.einsum(left, labels[0], right, labels[1], result))
            case View(x, pairs, fill):
                index = {axis: self.index(i, node.axes) for axis, i in pairs}
                return self.picked(node.axes, x, index, fill)
            case Gather(table, index, axis):
                clipped = np.clip(self.known[index], 0, self.sizes[axis] - 1)
                return self.picked(node.axes, table, {axis: spread(clipped, index.axes, node.axes)})
            case Update(x, value, at):
                return self.updated(x, value, at)
            case Stack(xs, _):
                axes = node.axes[1:]
                shape = [self.length(axis) for axis in axes]
                parts = [spread(self.typed(x, node.dtype), x.axes, axes) for x in xs]
                points = max(part.shape[0] for part in parts)
                return np.stack([np.broadcast_to(p, (points, *shape)) for p in parts], 1)
            case Cast(x, type):
                return self.cast(self.known[x], x.dtype, type)
            case Scan():
                return self.scan(node)
        raise ModelError(f"nobody can judge {node}")

    def number(self, value: float) -> Array:
        kind = np.bool_ if isinstance(value, bool) else np.int64
        return np.array([value], self.real if isinstance(value, float) else kind)

    def length(self, axis: Axis) -> int:
        return 1 if self.at and axis in self.at else self.sizes[axis]

    def steps(self, axis: Axis) -> Array:
        start = self.at.get(axis, 0) if self.at else 0
        return np.arange(start, start + self.length(axis))

    def typed(self, node: Node, dtype: str) -> Array:
        """A value in the type that arithmetic with this result is done in."""
        return self.known[node].astype(self.real if dtype in ROUNDING else np.int64)

    def map(self, node: Map) -> Array:
        given = node.arguments[1:] if node.function == "where" else node.arguments
        floats = node.dtype in ROUNDING or any(x.dtype in ROUNDING for x in given)
        arrays = [self.typed(x, "f32" if floats else "i64") for x in given]
        if node.function == "where":
            arrays.insert(0, self.known[node.arguments[0]])
        spreads = [
            spread(array, x.axes, node.axes)
            for array, x in zip(arrays, node.arguments, strict=True)
        ]
        result = np.asarray(FUNCTIONS[node.function](*spreads))
        if node.function == "exp":
            lost = np.isinf(result) & np.isfinite(spreads[0])
            self.overflow = self.overflow | lost.reshape(lost.shape[0], -1).any(axis=1)
        if node.dtype == "bool":
            return result.astype(np.bool_)
        return result.astype(self.real if node.dtype in ROUNDING else np.int64)

    def index(self, index: Affine, axes: Sequence[Axis]) -> Array:
        total = np.full([1] * (1 + len(axes)), index.offset)
        for axis, stride in index.terms:
            total = total + stride * spread(self.steps(axis)[None], (axis,), axes)
        total = total // index.divide
        return np.asarray(total % index.modulo if index.modulo else total)

    def picked(
        self,
        axes: Sequence[Axis],
        x: Node,
        index: Mapping[Axis, Array],
        fill: float | None = None,
    ) -> Array:
        """`x` at these positions of its axes, else at its own."""
        array = self.known[x]
        picks = [self.points(array, axes)]
        outside = np.array(False)
        for axis, extent in zip(x.axes, array.shape[1:], strict=True):
            place = index.get(axis)
            if place is None:
                place = spread(np.arange(extent)[None], (axis,), axes)
            outside = outside | (place < 0) | (place >= extent)
            picks.append(np.clip(place, 0, extent - 1))
        found = array[tuple(picks)]
        shape = (found.shape[0], *(self.length(axis) for axis in axes))
        found = np.broadcast_to(found, shape)
        if not outside.any():
            return found
        if fill is None:
            raise ModelError(f"a view leaves what it is of: {x}")
        return np.where(outside, np.asarray(fill, found.dtype), found)

    def points(self, array: Array, axes: Sequence[Axis]) -> Array:
        return np.arange(array.shape[0]).reshape([-1, *[1] * len(axes)])

    def updated(self, x: Node, value: Node, at: Sequence[tuple[Axis, Affine]]) -> Array:
        old, new = self.known[x], self.known[value]
        points = max(old.shape[0], new.shape[0])
        result = np.broadcast_to(old, (points, *old.shape[1:])).copy()
        places = {axis: Affine(((axis, 1),)) for axis in x.axes} | dict(at)
        picks = [self.points(result, value.axes)]
        picks += [self.index(places[axis], value.axes) for axis in x.axes]
        result[tuple(picks)] = new
        return result

    def cast(self, array: Array, old: str, new: str) -> Array:
        if new in ROUNDING:
            return array.astype(self.real)
        if new == "bool":
            return np.asarray(array != 0)
        info = np.iinfo({"u8": "uint8", "u16": "uint16"}.get(new, new.replace("i", "int")))
        if old in ROUNDING:
            array = np.nan_to_num(np.rint(array), nan=0.0)
        return np.clip(array, info.min, info.max).astype(np.int64)

    def scan(self, node: Scan) -> Array:
        """Step by step; states are spread over all their axes."""
        body = node.body
        states = [self.state(leaf, x) for leaf, x in zip(body.states, node.initial, strict=True)]
        emitted: list[Array] = []
        length = self.sizes[body.axis]
        for turn in reversed(range(length)) if body.reverse else range(length):
            known: dict[Node, Array] = dict(zip(body.states, states, strict=True))
            for leaf, x in zip(body.slices, node.xs, strict=True):
                rows = spread(self.known[x], x.axes, (body.axis, *leaf.axes))
                known[leaf] = rows[:, turn]
            outer = {leaf: a for leaf, a in self.known.items() if isinstance(leaf, Input)}
            inside = Values(
                self.sizes, self.real, outer | known, {**(self.at or {}), body.axis: turn}
            )
            results = inside.of((*body.next, *body.emits))
            steps = zip(body.states, body.next, results, strict=False)
            states = [inside.widened(leaf, x.axes, array) for leaf, x, array in steps]
            if node.output >= len(states):
                emitted.append(results[node.output])
        if node.output < len(states):
            return states[node.output]
        return np.stack(emitted[::-1] if body.reverse else emitted, 1)

    def state(self, leaf: Input, initial: Node) -> Array:
        return self.widened(leaf, initial.axes, self.known[initial])

    def widened(self, leaf: Input, axes: Sequence[Axis], array: Array) -> Array:
        array = spread(array, axes, leaf.axes)
        shape = (array.shape[0], *(self.length(axis) for axis in leaf.axes))
        kind = self.real if leaf.dtype in ROUNDING else np.int64
        return np.broadcast_to(array, shape).astype(kind)
