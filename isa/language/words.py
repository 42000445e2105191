"""The words that definitions are written in; `docs/language.md` explains them to authors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from ..errors import LanguageError
from .affine import Affine, Axis, affine
from .nodes import (
    Cast,
    Dot,
    Gather,
    Input,
    Node,
    Position,
    Recurrence,
    Reduce,
    Scan,
    Size,
    Stack,
    Update,
    Value,
    View,
    apply,
    lift,
)  # fmt: skip


def _axes(over: str | Iterable[Axis]) -> tuple[Axis, ...]:
    return tuple(over.split()) if isinstance(over, str) else tuple(over)


def negate(x: Value) -> Node:
    return apply("negate", x)


def absolute(x: Value) -> Node:
    return apply("absolute", x)


def sign(x: Value) -> Node:
    """-1, 0 or 1"""
    return apply("sign", x)


def reciprocal(x: Value) -> Node:
    """1 / x"""
    return apply("reciprocal", x)


def floor(x: Value) -> Node:
    return apply("floor", x)


def ceil(x: Value) -> Node:
    return apply("ceil", x)


def round(x: Value) -> Node:
    """To the nearest integer, halves to the even one; the type stays."""
    return apply("round", x)


def exp(x: Value) -> Node:
    return apply("exp", x)


def log(x: Value) -> Node:
    return apply("log", x)


def sqrt(x: Value) -> Node:
    return apply("sqrt", x)


def rsqrt(x: Value) -> Node:
    """1 / sqrt(x)"""
    return apply("rsqrt", x)


def tanh(x: Value) -> Node:
    return apply("tanh", x)


def erf(x: Value) -> Node:
    return apply("erf", x)


def sigmoid(x: Value) -> Node:
    return apply("sigmoid", x)


def sin(x: Value) -> Node:
    return apply("sin", x)


def cos(x: Value) -> Node:
    return apply("cos", x)


def maximum(a: Value, b: Value) -> Node:
    return apply("maximum", a, b)


def minimum(a: Value, b: Value) -> Node:
    return apply("minimum", a, b)


def relu(x: Value) -> Node:
    """max(x, 0)"""
    return maximum(x, 0.0)


def equal(a: Value, b: Value) -> Node:
    return apply("equal", a, b)


def not_equal(a: Value, b: Value) -> Node:
    return apply("not_equal", a, b)


def is_nan(x: Value) -> Node:
    return apply("is_nan", x)


def where(condition: Value, a: Value, b: Value) -> Node:
    """a where the condition holds, else b."""
    return apply("where", condition, a, b)


def sum(x: Value, over: str | Iterable[Axis]) -> Node:
    return Reduce("sum", lift(x), _axes(over))


def product(x: Value, over: str | Iterable[Axis]) -> Node:
    return Reduce("product", lift(x), _axes(over))


def max(x: Value, over: str | Iterable[Axis]) -> Node:
    return Reduce("max", lift(x), _axes(over))


def min(x: Value, over: str | Iterable[Axis]) -> Node:
    return Reduce("min", lift(x), _axes(over))


def argmax(x: Value, over: str) -> Node:
    """Where the first of the largest is, counted from 0; i32."""
    return Reduce("argmax", lift(x), _axes(over))


def mean(x: Value, over: str | Iterable[Axis]) -> Node:
    """The sum over the axes divided by their extents."""
    total = sum(x, over)
    for axis in _axes(over):
        total = total / size(axis)
    return total


def dot(a: Value, b: Value, over: str | Iterable[Axis]) -> Node:
    """The contraction of a and b: the sum of their products over axes that both have."""
    return Dot(lift(a), lift(b), _axes(over))


def size(axis: Axis) -> Node:
    """The whole extent of an axis, i32."""
    return Size(axis)


def position(axis: Axis) -> Node:
    """The index along an axis, i32."""
    return Position(axis)


def view(
    x: Value, index: Mapping[Axis, str | int | Affine], fill: float | int | bool | None = None
) -> Node:
    """x at other indices, such as `view(x, {"h": "2*p + r - 1"}, fill=0.0)`."""
    return View(lift(x), tuple((axis, affine(text)) for axis, text in index.items()), fill)


def rename(x: Node, names: Mapping[Axis, Axis]) -> Node:
    """x with other names for some of its axes."""
    changed = {old: new for old, new in names.items() if old in x.axes and old != new}
    return view(x, changed) if changed else x


def gather(table: Value, index: Value, axis: Axis) -> Node:
    """table at computed positions along an axis; those outside are the nearest ones inside."""
    return Gather(lift(table), lift(index), axis)


def update(x: Value, value: Value, at: Mapping[Axis, str | int | Affine]) -> Node:
    """x with `value` written at some positions, such as `update(cache, key, {"t": "s"})`."""
    return Update(lift(x), lift(value), tuple((a, affine(text)) for a, text in at.items()))


def stack(xs: Sequence[Value], axis: Axis) -> Node:
    """Tensors beside each other along a new axis."""
    return Stack(tuple(lift(x) for x in xs), axis)


def cast(x: Value, type: str) -> Node:
    """x in another element type: rounded to nearest even, and saturated if that is an integer."""
    x = lift(x)
    return x if x.dtype == type else Cast(x, type)


def scan(
    step: Callable[..., tuple[Sequence[Value], Sequence[Value]]],
    initial: Mapping[str, Value],
    xs: Mapping[str, Node],
    axis: Axis,
    reverse: bool = False,
    axes: Mapping[str, str] | None = None,
) -> tuple[tuple[Node, ...], tuple[Node, ...]]:
    """Run `step(**states, **slices) -> (next states), (emitted values)` along an axis.

    initial  the states at the start, by the names of the step's parameters
    xs       tensors of which each step gets the slice at its position, by such names
    axes     of states that lack some at the start: {"total": "m n"}, if it starts as 0.0

    Returns the final states and the emitted values collected along the axis, which comes first.
    """
    starts = {name: lift(value) for name, value in initial.items()}
    names = {name: _axes((axes or {}).get(name, start.axes)) for name, start in starts.items()}
    states = tuple(Input(name, names[name], start.dtype) for name, start in starts.items())
    slices = tuple(
        Input(name, tuple(a for a in x.axes if a != axis), x.dtype) for name, x in xs.items()
    )
    match step(**{leaf.name: leaf for leaf in (*states, *slices)}):
        case (tuple() | list() as after, tuple() | list() as emits) if len(after) == len(states):
            results = tuple(map(lift, after)), tuple(map(lift, emits))
        case _:
            raise LanguageError(
                f"scan: a step must return ({', '.join(starts)}), (emitted values): two tuples"
            )
    body = Recurrence(axis, states, slices, *results, reverse)
    given = tuple(starts.values()), tuple(xs.values())
    made = tuple(Scan(body, *given, output) for output in range(len(after) + len(emits)))
    return made[: len(after)], made[len(after) :]
