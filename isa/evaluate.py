"""What every node of the language means, in NumPy: the truth for everything else.

A value is an array whose dimensions are `node.axes` in that order. An axis is a range of positions
(start, length), so the same definition serves a whole tensor and one tile of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .dtypes import DTYPES, is_float
from .errors import LanguageError
from .functions import FOLDS, FUNCTIONS
from .language import (
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
    walk,
)

Array = NDArray[Any]


class Range(NamedTuple):
    """Positions start, start + 1, ... of an axis."""

    start: int
    length: int


@dataclass(frozen=True)
class Context:
    """What an evaluation is given: arrays by input name, ranges and whole sizes of the axes."""

    arrays: Mapping[str, Array]
    ranges: Mapping[Axis, Range]
    sizes: Mapping[Axis, int]
    immediates: Mapping[str, float | int]

    def range(self, axis: Axis) -> Range:
        if axis not in self.ranges:
            raise LanguageError(f"axis {axis!r} has no extent")
        return self.ranges[axis]


def evaluate(
    roots: Sequence[Node],
    arrays: Mapping[str, Array],
    *,
    ranges: Mapping[Axis, Range] | None = None,
    sizes: Mapping[Axis, int] | None = None,
    immediates: Mapping[str, float | int] | None = None,
) -> list[Array]:
    """The values of `roots`.

    arrays      one for each input, dimensions in the order of the input's axes
    ranges      position and length of axes; those of inputs are read off their arrays (start 0)
    sizes       whole extents, for `Size`, where an axis is a piece of one (default: its length)
    immediates  numbers that replace the defaults
    """
    known = dict(ranges or {})
    nodes = _in_order(tuple(roots))
    for node, _ in nodes:
        if isinstance(node, Input):
            _bind(node, arrays, known)
    whole = {axis: r.length for axis, r in known.items()} | dict(sizes or {})
    context = Context(arrays, known, whole, immediates or {})
    values: dict[Node, Array] = {}
    with np.errstate(all="ignore"):
        for node, children in nodes:
            values[node] = _value(node, [values[child] for child in children], context)
    return [values[root] for root in roots]


@lru_cache(maxsize=1024)
def _in_order(roots: tuple[Node, ...]) -> list[tuple[Node, tuple[Node, ...]]]:
    """Every node with its arguments, arguments before their users."""
    return [(node, node.children) for node in walk(roots)]


def _bind(node: Input, arrays: Mapping[str, Array], known: dict[Axis, Range]) -> None:
    if node.name not in arrays:
        raise LanguageError(f"input {node.name!r} has no array")
    shape = np.shape(arrays[node.name])
    if len(shape) != len(node.axes):
        raise LanguageError(
            f"input {node.name!r} must have dimensions ({' '.join(node.axes)}), not shape {shape}"
        )
    for axis, length in zip(node.axes, shape, strict=True):
        found = known.setdefault(axis, Range(0, length))
        if found.length != length:
            raise LanguageError(
                f"input {node.name!r}: axis {axis!r} must have {found.length} positions, "
                f"not {length}"
            )


def align(array: Array, axes: Sequence[Axis], target: Sequence[Axis]) -> Array:
    """`array` over `axes` as a view that broadcasts over `target`; lacking axes get length 1."""
    if tuple(axes) == tuple(target):
        return array
    order = [axes.index(axis) for axis in target if axis in axes]
    shape = [array.shape[axes.index(axis)] if axis in axes else 1 for axis in target]
    moved: Array = array.transpose(order).reshape(shape)
    return moved


def widened(array: Array, dtype: str) -> Array:
    """The array in a type for arithmetic."""
    return array.astype(DTYPES[dtype].numpy, copy=False)


def _value(node: Node, given: list[Array], context: Context) -> Array:
    match node:
        case Input(name, _, type):
            return widened(np.asarray(context.arrays[name]), type)
        case Constant(value):
            return np.asarray(value, DTYPES[node.dtype].numpy)
        case Immediate(name, default):
            return np.asarray(context.immediates.get(name, default), DTYPES[node.dtype].numpy)
        case Size(axis):
            if axis not in context.sizes:
                raise LanguageError(f"axis {axis!r} has no extent")
            return np.asarray(context.sizes[axis], np.int32)
        case Position(axis):
            start, length = context.range(axis)
            return np.arange(start, start + length, dtype=np.int32)
        case Map():
            return _map(node, given)
        case Reduce(function, x, over):
            return _reduce(function, x, given[0], over, node.dtype)
        case Dot(a, b, over):
            left, right = (widened(array, node.dtype) for array in given)
            return contract(left, a.axes, right, b.axes, over, node.axes)
        case View():
            return _view(node, given[0], context)
        case Gather():
            return _gather(node, given[0], given[1])
        case Update():
            return _update(node, given[0], given[1], context)
        case Stack(xs, _):
            kind, target = DTYPES[node.dtype].numpy, node.axes[1:]
            shape = [context.range(axis).length for axis in target]
            return np.stack(
                [
                    np.broadcast_to(align(array.astype(kind), x.axes, target), shape)
                    for x, array in zip(xs, given, strict=True)
                ]
            )
        case Cast(_, type):
            return saturate(given[0], type)
        case Scan():
            return _scan(node, given, context)
        case Opaque(operator):
            raise LanguageError(f"operator {operator!r} is opaque: it has no value in the language")
    raise AssertionError(node)


def saturate(array: Array, type: str) -> Array:
    """Rounded to nearest even where the type is narrower, saturated where it is an integer."""
    target = DTYPES[type].numpy
    if type == "bool" or is_float(type) or array.dtype == np.bool_:
        with np.errstate(over="ignore"):
            return array.astype(target)
    limits = np.iinfo(target)
    if array.dtype.kind in "iu":
        return np.clip(array, limits.min, limits.max).astype(target)
    wide = np.rint(np.nan_to_num(array.astype(np.float64), nan=0.0, posinf=np.inf, neginf=-np.inf))
    inside = (wide > float(limits.min)) & (wide < float(limits.max))
    ends = np.where(wide > 0, limits.max, limits.min)
    return np.where(inside, np.where(inside, wide, 0).astype(np.int64), ends).astype(target)


def _map(node: Map, given: list[Array]) -> Array:
    function = FUNCTIONS[node.function]
    arguments = [
        align(array, argument.axes, node.axes)
        for array, argument in zip(given, node.arguments, strict=True)
    ]
    kind = node.dtype
    if function.result == "bool":
        kind = arithmetic(node.arguments[0], node.arguments[-1])
    first = 1 if function.result == "branches" else 0
    arguments[first:] = [widened(array, kind) for array in arguments[first:]]
    if first:
        arguments[0] = arguments[0].astype(np.bool_, copy=False)
    value = np.asarray(function.numpy(*arguments))
    return value.astype(DTYPES[node.dtype].numpy, copy=False)


@lru_cache(maxsize=1024)
def arithmetic(a: Node, b: Node) -> str:
    """The type in which a comparison compares."""
    return Map("maximum", (a, b)).dtype


def _reduce(function: str, x: Node, array: Array, over: Sequence[Axis], kind: str) -> Array:
    dims = tuple(x.axes.index(axis) for axis in over)
    fold = FOLDS[function]
    if function == "argmax":
        if len(dims) != 1:
            raise LanguageError(f"argmax: over one axis, not {' '.join(over)}")
        if not array.shape[dims[0]]:
            raise LanguageError(f"argmax: axis {over[0]!r} must have at least one position")
        return np.asarray(np.argmax(array, axis=dims[0]), np.int32)
    array = widened(array, kind)
    if any(array.shape[dim] == 0 for dim in dims):
        shape = [n for dim, n in enumerate(array.shape) if dim not in dims]
        return saturate(np.full(shape, fold.neutral), kind)
    return np.asarray(fold.numpy(array, axis=dims)).astype(array.dtype, copy=False)


def contract(
    a: Array,
    a_axes: Sequence[Axis],
    b: Array,
    b_axes: Sequence[Axis],
    over: Sequence[Axis],
    target: Sequence[Axis],
) -> Array:
    """The sum of a * b over `over`, as one batched matrix product."""
    batch = [x for x in target if x in a_axes and x in b_axes]
    rows = [x for x in target if x not in b_axes]
    columns = [x for x in target if x not in a_axes]
    left = a.transpose([a_axes.index(x) for x in (*batch, *rows, *over)])
    right = b.transpose([b_axes.index(x) for x in (*batch, *over, *columns)])
    lead, depth = left.shape[: len(batch)], int(np.prod([a.shape[a_axes.index(x)] for x in over]))
    m, n = left.shape[len(batch) : len(batch) + len(rows)], right.shape[len(batch) + len(over) :]
    product = np.matmul(
        left.reshape(*lead, int(np.prod(m)), depth), right.reshape(*lead, depth, int(np.prod(n)))
    )
    have = [*batch, *rows, *columns]
    result: Array = product.reshape([*lead, *m, *n]).transpose([have.index(x) for x in target])
    return result


def index_of(index: Affine, axes: Sequence[Axis], context: Context) -> Array:
    """The values of an index over `axes` (lacking axes get length 1)."""
    total = np.asarray(index.offset).reshape([1] * len(axes))
    for axis, stride in index.terms:
        start, length = context.range(axis)
        steps = np.arange(start, start + length)
        total = total + stride * align(steps, (axis,), axes)
    total = total // index.divide
    return np.asarray(total % index.modulo if index.modulo else total)


def _view(node: View, array: Array, context: Context) -> Array:
    given = dict(node.index)
    indices = [given.get(axis, Affine(((axis, 1),))) for axis in node.x.axes]
    starts = [context.ranges[a].start if a in context.ranges else 0 for a in node.x.axes]
    shape = [context.range(axis).length for axis in node.axes]
    if 0 in shape:
        return np.zeros(shape, array.dtype)
    if any(index.divide != 1 or index.modulo for index in indices):
        return _picked(node, array, indices, starts, context)
    corner = []
    for number, (index, start) in enumerate(zip(indices, starts, strict=True)):
        low, first, high = _reach(index, context)
        low, first, high = low - start, first - start, high - start
        if low < 0 or high >= array.shape[number]:
            if node.fill is None:
                raise _leaves(node.x.axes[number], index, array.shape[number])
            array = _padded(array, number, low, high, node.fill)
            first -= low
        corner.append(slice(first, None))
    steps = dict.fromkeys(node.axes, 0)
    for index, size in zip(indices, array.strides, strict=True):
        for axis, stride in index.terms:
            steps[axis] += stride * size
    return np.lib.stride_tricks.as_strided(
        array[tuple(corner)], shape, list(steps.values()), writeable=False
    )


def _leaves(axis: Axis, index: Affine, extent: int) -> LanguageError:
    return LanguageError(f"view: {axis}={index} leaves the {extent} positions of {axis!r}")


def _reach(index: Affine, context: Context) -> tuple[int, int, int]:
    """The least value of an index, its value where all axes start, its largest value."""
    low = first = high = index.offset
    for axis, stride in index.terms:
        start, length = context.range(axis)
        first += stride * start
        low += stride * start + min(0, stride * (length - 1))
        high += stride * start + max(0, stride * (length - 1))
    return low, first, high


def _padded(array: Array, number: int, low: int, high: int, fill: float) -> Array:
    """Positions `low` to `high` of a dimension, with a fill where the array has none."""
    extent = array.shape[number]
    shape = [*array.shape[:number], high - low + 1, *array.shape[number + 1 :]]
    out = np.full(shape, np.asarray(fill, array.dtype))
    begin, end = min(max(low, 0), extent), max(min(high + 1, extent), 0)
    if begin < end:
        before = (slice(None),) * number
        out[(*before, slice(begin - low, end - low))] = array[(*before, slice(begin, end))]
    return out


def _picked(
    node: View, array: Array, indices: Sequence[Affine], starts: Sequence[int], context: Context
) -> Array:
    """A view with quotients or remainders, element by element."""
    picks, outside = [], np.asarray(False)
    for number, (index, start) in enumerate(zip(indices, starts, strict=True)):
        pick, extent = index_of(index, node.axes, context) - start, array.shape[number]
        wrong = (pick < 0) | (pick >= extent)
        if node.fill is not None:
            outside, pick = outside | wrong, np.clip(pick, 0, max(extent - 1, 0))
        elif wrong.any():
            raise _leaves(node.x.axes[number], index, extent)
        picks.append(pick)
    shape = [context.range(axis).length for axis in node.axes]
    if array.size == 0:
        return np.full(shape, np.asarray(node.fill, array.dtype))
    value = np.broadcast_to(array[tuple(picks)], shape)
    return np.where(outside, np.asarray(node.fill, value.dtype), value) if outside.any() else value


def _gather(node: Gather, table: Array, index: Array) -> Array:
    names = node.table.axes
    if not table.shape[names.index(node.axis)]:
        raise LanguageError(f"gather: axis {node.axis!r} must have at least one position")
    if not set(names) & set(node.index.axes):
        rows = np.moveaxis(table, names.index(node.axis), 0)
        return np.take(rows, index, axis=0, mode="clip")
    picks: list[Array] = []
    for axis, extent in zip(names, table.shape, strict=True):
        if axis == node.axis:
            pick = align(np.clip(index, 0, extent - 1), node.index.axes, node.axes)
        else:
            pick = align(np.arange(extent), (axis,), node.axes)
        picks.append(pick)
    return np.asarray(table[tuple(picks)])


def _update(node: Update, x: Array, value: Array, context: Context) -> Array:
    given, result = dict(node.at), x.copy()
    picks = []
    for axis, extent in zip(node.x.axes, x.shape, strict=True):
        index = given.get(axis, Affine(((axis, 1),)))
        start = context.ranges[axis].start if axis in context.ranges else 0
        pick = index_of(index, node.value.axes, context) - start
        if pick.size and (pick.min() < 0 or pick.max() >= extent):
            raise LanguageError(f"update: {axis}={index} leaves the {extent} positions of {axis!r}")
        picks.append(pick)
    result[tuple(picks)] = saturate(value, node.x.dtype)
    return result


def _scan(node: Scan, given: list[Array], context: Context) -> Array:
    body = node.body
    states = [
        np.broadcast_to(
            align(array, first.axes, leaf.axes), [context.range(a).length for a in leaf.axes]
        ).astype(DTYPES[leaf.dtype].numpy)
        for leaf, first, array in zip(body.states, node.initial, given, strict=False)
    ]
    xs = [
        align(array, x.axes, (body.axis, *leaf.axes))
        for leaf, x, array in zip(body.slices, node.xs, given[len(states) :], strict=False)
    ]
    start, length = context.range(body.axis)
    emitted: list[Array | None] = [None] * length
    steps = reversed(range(length)) if body.reverse else range(length)
    for step in steps:
        arrays = dict(context.arrays)
        arrays.update((leaf.name, s) for leaf, s in zip(body.states, states, strict=True))
        arrays.update((leaf.name, x[step]) for leaf, x in zip(body.slices, xs, strict=True))
        results = evaluate(
            (*body.next, *body.emits),
            arrays,
            ranges={**context.ranges, body.axis: Range(start + step, 1)},
            sizes=context.sizes,
            immediates=context.immediates,
        )
        states = [
            np.broadcast_to(align(value, after.axes, leaf.axes), state.shape).astype(state.dtype)
            for leaf, after, value, state in zip(
                body.states, body.next, results, states, strict=False
            )
        ]
        if node.output >= len(states):
            emitted[step] = results[node.output]
    if node.output < len(states):
        return states[node.output]
    if not length:
        return np.zeros((0, *(context.range(a).length for a in node.axes[1:])))
    return np.stack([value for value in emitted if value is not None])
