"""Random expressions of the tensor language, and their values position by position."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

import numpy as np
from hypothesis import strategies as some
from numpy.typing import NDArray

from infinisa.isa.evaluate import Range
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
    Reduce,
    Size,
    Stack,
    View,
    apply,
    argmax,
    dot,
    gather,
    max,
    maximum,
    position,
    size,
    stack,
    sum,
    view,
    where,
)

Array = NDArray[Any]

SIZES = {"a": 3, "b": 4, "c": 2, "d": 2, "r": 3, "g": 2}
LEAVES = (
    Input("x", ("a", "b"), "f64"),
    Input("y", ("b", "c"), "f64"),
    Input("z", ("a",), "f64"),
    Input("k", ("a",), "i32"),
)


def growths(random: Random, known: list[Node]) -> list[Callable[[], Node]]:
    """Ways to make another node of those there are."""
    x, y = random.choice(known), random.choice(known)
    axis = random.choice(x.axes) if x.axes else "a"
    shared = [name for name in x.axes if name in y.axes]
    free = [name for name in SIZES if name not in x.axes]
    integers = [node for node in known if node.dtype == "i32"]
    ways: list[Callable[[], Node]] = [
        lambda: x + y,
        lambda: x * 0.5 - y,
        lambda: maximum(x, y),
        lambda: apply("tanh", x),
        lambda: where(position("a") >= position("b"), x, 0.0),
        lambda: x / size("b"),
    ]
    if x.axes:
        ways += [
            lambda: sum(x, axis),
            lambda: max(x, axis),
            lambda: argmax(x, axis),
            lambda: view(x, {axis: f"{axis} - 1"}, fill=3),
            lambda: view(x, {axis: f"{SIZES[axis] - 1} - {axis}"}),
            lambda: view(x, {axis: 1}),
        ]
    if "b" in x.axes and {"d", "r"} <= set(free):
        ways.append(lambda: view(x, {"b": "2*d + r - 1"}, fill=-1))
        ways.append(lambda: view(x, {"b": "(3*d + 1) // 2 % 3"}))
    if shared:
        ways.append(lambda: dot(x, y, shared[0]))
    if "g" in free and "g" not in y.axes:
        ways.append(lambda: stack([x, y], "g"))
    chosen = [i for i in integers if axis not in i.axes and axis in x.axes]
    if chosen:
        ways.append(lambda: gather(x, random.choice(chosen), axis))
    return ways


def random_expression(random: Random) -> Node:
    known: list[Node] = list(LEAVES)
    for _ in range(random.randint(1, 6)):
        made = random.choice(growths(random, known))()
        if len(made.axes) <= 5:
            known.append(made)
    return known[-1]


def expressions() -> some.SearchStrategy[Node]:
    return some.randoms(use_true_random=False).map(random_expression)


def arrays(seed: int = 0) -> dict[str, Array]:
    """A value for every leaf."""
    random = np.random.default_rng(seed)
    return {
        leaf.name: random.integers(-1, 5, shape).astype(np.int32)
        if leaf.dtype == "i32"
        else random.normal(size=shape)
        for leaf in LEAVES
        if (shape := tuple(SIZES[axis] for axis in leaf.axes)) is not None
    }


RANGES = {axis: Range(0, length) for axis, length in SIZES.items()}

# ---------------------------------------------------------------- position by position

SCALARS: Mapping[str, Callable[..., Any]] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a / b if b else math.nan,
    "maximum": lambda a, b: a if a >= b else b,
    "tanh": math.tanh,
    "greater_equal": lambda a, b: a >= b,
    "where": lambda condition, a, b: a if condition else b,
}


def pointwise(node: Node, given: Mapping[str, Array]) -> Array:
    """The value of an expression, each element worked out on its own."""
    shape = [SIZES[axis] for axis in node.axes]
    out = np.empty(shape)
    for point in itertools.product(*map(range, shape)):
        out[point] = at(node, dict(zip(node.axes, point, strict=True)), given)
    return out


def at(node: Node, here: Mapping[Axis, int], given: Mapping[str, Array]) -> Any:
    """One element: `here` says at which position of each axis."""
    match node:
        case Input(name, over, _):
            return given[name][tuple(here[axis] for axis in over)].item()
        case Constant(value) | Immediate(_, value):
            return value
        case Size(axis):
            return SIZES[axis]
        case Position(axis):
            return here[axis]
        case Map(function, arguments):
            return SCALARS[function](*(at(x, here, given) for x in arguments))
        case Reduce() | Dot():
            return folded(node, here, given)
        case View(x, index, fill):
            there = {**here, **{axis: index_at(i, here) for axis, i in index}}
            outside = any(not 0 <= there[axis] < SIZES[axis] for axis, _ in index)
            return fill if outside else at(x, there, given)
        case Gather(table, index, axis):
            row = int(at(index, here, given))
            return at(table, {**here, axis: sorted((0, row, SIZES[axis] - 1))[1]}, given)
        case Stack(xs, axis):
            return at(xs[here[axis]], here, given)
        case Cast(x, _):
            return at(x, here, given)
    raise AssertionError(node)


def folded(node: Reduce | Dot, here: Mapping[Axis, int], given: Mapping[str, Array]) -> Any:
    points = itertools.product(*(range(SIZES[axis]) for axis in node.over))
    theres = [{**here, **dict(zip(node.over, point, strict=True))} for point in points]
    if isinstance(node, Dot):
        return math.fsum(at(node.a, t, given) * at(node.b, t, given) for t in theres)
    values = [at(node.x, there, given) for there in theres]
    match node.function:
        case "sum":
            return math.fsum(values)
        case "max":
            return np.max(values)
        case _:
            return int(np.argmax(values))


def index_at(index: Affine, here: Mapping[Axis, int]) -> int:
    total = index.offset
    for axis, stride in index.terms:
        total += stride * here[axis]
    total //= index.divide
    return total % index.modulo if index.modulo else total
