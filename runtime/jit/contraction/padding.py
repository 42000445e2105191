"""Windows over memory with a border: copied once with the border filled, then read where they lie.

A window is only a sum of strides, such as that of 2*p + r, once no position needs to be checked.
The copy has channels contiguous, whatever the order that they came in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING

from infinisa.isa.language import Affine, Axis, Input, Node, View

from ..code.functions import STORED, register
from ..code.ir import BYTES, Number, Value, constant, number
from ..expressions.expression import Env, Index, Place, fitting, rooted
from .packing import vector_lanes
from .roles import one_run

if TYPE_CHECKING:
    from .contraction import Contractions

_leaves = count()


@dataclass(frozen=True)
class Span:
    """Positions that windows reach along an axis of memory.

    length, bound  how many, and the most that can be
    low, high      those from `low`, below `high`, are in memory
    shift          the axis's own position at the first
    """

    length: Number
    bound: int
    low: Number = 0
    high: Number | None = None
    shift: Number = 0


def padded(
    emitter: Contractions, node: Node, dtype: str, env: Env, last: tuple[Axis, ...] | None
) -> Node:
    """The node, or where it reads windows over a border, the same windows over a copy in scratch.

    last  axes that are better contiguous, above all the longest, if windows do not move along them:
          there is a copy wherever they are not; None: no axis is better
    """
    if not isinstance(node, View) or not plain(emitter, node):
        return node
    place, given = emitter.places[node.x], dict(node.index)
    if any(border.axis in env for border in place.borders):
        return node
    inner = [axis for axis in last or () if axis in place.strides and axis not in given]
    inner = sorted((a for a in inner if a not in env), key=lambda a: emitter.frame.bounds[a])
    crossed = inner and all(place.strides[axis] != 1 for axis in inner)
    crossed = crossed and any(place.strides.get(axis) == 1 for axis in given)
    if not place.borders and node.fill is None:
        if not crossed:
            return node
        node, place = without_gaps(emitter, node, place)
    spans = reached(emitter, node, place, env)
    copy = filled(emitter, node, place, inner, spans, dtype, env)
    leaf = Input(f"#window{next(_leaves)}", node.x.axes, dtype)
    emitter.places[leaf] = where_they_were(emitter, copy, spans)
    return View(leaf, node.index, None)


def plain(emitter: Contractions, node: View) -> bool:
    """Whether windows go by sums of strides over memory that has one kind of border."""
    place = emitter.places.get(node.x)
    if place is None or node.x in emitter.initials:
        return False
    sums = all(index.divide == 1 and not index.modulo for _, index in node.index)
    return sums and not (place.borders and node.fill is not None)


def all_there(emitter: Contractions, node: View, env: Env) -> Iterator[Value]:
    """What holds if all that a plain window reaches is in memory."""
    f = emitter.f
    for span in reached(emitter, node, emitter.places[node.x], env).values():
        if span.high is not None:
            yield f.compare("sle", number(span.low), number(0))
            yield f.compare("sge", number(span.high), number(span.length))


def filled(
    emitter: Contractions,
    node: View,
    place: Place,
    inner: list[Axis],
    spans: Mapping[Axis, Span],
    dtype: str,
    env: Env,
) -> Place:
    """What windows reach in scratch, from the first position on; these axes innermost."""
    fill = place.fill if node.fill is None else node.fill
    axes = [axis for axis in place.strides if axis not in env]
    order = [axis for axis in axes if axis not in inner] + inner
    with_one = [axis for axis in order if axis.startswith("#")]
    emitter.frame.lengths.update(dict.fromkeys(with_one, 1))
    emitter.frame.bounds.update(dict.fromkeys(with_one, 1))
    copy = copied(emitter, place, order, spans, (dtype, fill), env)
    strides = {axis: step for axis, step in copy.strides.items() if axis not in with_one}
    return replace(copy, strides=strides)


def where_they_were(emitter: Contractions, copy: Place, spans: Mapping[Axis, Span]) -> Place:
    """The same memory at the positions that it was copied from."""
    f = emitter.f
    back: Number = 0
    for axis, span in spans.items():
        back = f.subtract(back, f.multiply(span.shift, copy.strides.get(axis, 0)))
    return rooted(copy, f, back)


def without_gaps(emitter: Contractions, node: View, place: Place) -> tuple[View, Place]:
    """The same windows over those lines of an image alone that they read, such as every other one;
    not of positions along a line, which are turned together."""
    used = [axis for _, index in node.index for axis in index.axes]
    lines = tuple(
        (axis, index)
        for axis, index in node.index
        if [abs(stride) > 1 for _, stride in index.terms] == [True]
        and used.count(index.axes[0]) == 1
        and place.strides[axis] != 1
    )
    shown = View(node.x, lines, None)
    seen = emitter.seen_through(shown, place)
    if not lines or seen is None:
        return node, place
    leaf = Input(f"#lines{next(_leaves)}", shown.axes, node.x.dtype)
    emitter.places[leaf] = seen
    return View(leaf, tuple(pair for pair in node.index if pair not in lines), None), seen


def reached(emitter: Contractions, node: View, place: Place, env: Env) -> dict[Axis, Span]:
    """What windows reach along each axis of the memory that they move over."""
    f, frame, given = emitter.f, emitter.frame, dict(node.index)
    borders = {border.axis: border for border in place.borders}
    found: dict[Axis, Span] = {}
    for axis in place.strides:
        own = frame.lengths.get(axis, 1), frame.bounds.get(axis, 1)
        low: Number = borders[axis].low if axis in borders else 0
        high = borders[axis].high if axis in borders else own[0]
        if axis in given and (axis in borders or node.fill is not None):
            start, length, bound = window(emitter, given[axis], env)
            shift = f.subtract(start, frame.starts.get(axis, 0))
            low, high = f.subtract(low, shift), f.subtract(high, shift)
            found[axis] = Span(length, bound, low, high, shift)
        elif axis in borders:
            found[axis] = Span(*own, low, high)
        else:
            found[axis] = Span(*own)
    return found


def window(emitter: Contractions, index: Affine, env: Env) -> tuple[Number, Number, int]:
    """(first, number, most) of the positions of an index where its axes are, or may be."""
    f, frame = emitter.f, emitter.frame
    start: Number = index.offset
    length: Number = 1
    bound = 1
    for axis, stride in index.terms:
        first = frame.starts.get(axis, 0)
        if axis in env:
            start = f.add(start, f.multiply(f.add(first, env[axis].base), stride))
            continue
        steps = f.subtract(frame.length(axis), 1)
        low = first if stride > 0 else f.add(first, steps)
        start = f.add(start, f.multiply(low, stride))
        length = f.add(length, f.multiply(steps, abs(stride)))
        bound += abs(stride) * (frame.bounds[axis] - 1)
    return start, length, bound


def copied(
    emitter: Contractions,
    place: Place,
    order: list[Axis],
    spans: Mapping[Axis, Span],
    filled: tuple[str, float],
    env: Env,
) -> Place:
    """The copy, its axes in this order, the last contiguous; `filled`: its type and its border."""
    f, frame, (dtype, fill) = emitter.f, emitter.frame, filled
    before = {axis: (frame.lengths[axis], frame.bounds[axis]) for axis in order}
    for axis in order:
        frame.lengths[axis], frame.bounds[axis] = spans[axis].length, spans[axis].bound
    copy = emitter.scratch_place(order, dtype)
    nothing = constant(register(dtype), fitting(fill, dtype))
    shift: Number = 0
    for axis in order:
        shift = f.add(shift, f.multiply(spans[axis].shift, place.strides[axis]))
    source = replace(rooted(place, f, shift), borders=(), weight=None)
    ragged = spans[order[-1]].high is not None  # a part of a vector at each end of every line
    with ExitStack() as parts:
        if ragged:
            cleared(emitter, nothing, copy, order, env)
        for axis in order:
            span = spans[axis]
            if span.high is None:
                continue
            low = f.maximum(span.low, 0)
            high = f.maximum(f.minimum(span.high, span.length), low)
            for first, end in () if ragged else ((0, low), (high, span.length)):
                with emitter.part(axis, first, f.subtract(end, first)):
                    cleared(emitter, nothing, copy, order, env)
            parts.enter_context(emitter.part(axis, low, f.subtract(high, low)))
        inside(emitter, source, copy, order, env)
    for axis, (length, bound) in before.items():
        frame.lengths[axis], frame.bounds[axis] = length, bound
    return copy


def cleared(
    emitter: Contractions, nothing: Value, copy: Place, order: list[Axis], env: Env
) -> None:
    """All of it, or a border."""
    with runs(emitter, order, (copy,)) as (axes, (place,)), emitter.scope():
        vector = axes[-1] if emitter.target.lanes > 1 else None
        emitter.nest(axes, vector, [], env, lambda at: emitter.store(nothing, place, at))


@contextmanager
def runs(
    emitter: Contractions, order: list[Axis], places: Sequence[Place]
) -> Iterator[tuple[list[Axis], list[Place]]]:
    """(axes of loops, the places over them): the last axis stands for all that are one run of
    memory, as a few channels are too short for vectors."""
    frame, f = emitter.frame, emitter.f
    before = dict(frame.lengths), dict(frame.bounds), dict(frame.firsts)
    *axes, last = order
    while axes and last not in frame.firsts:
        length = frame.lengths[last]
        if not isinstance(length, int):
            break
        if not all(one_run(place.strides, axes[-1], last, length) for place in places):
            break
        outer = axes.pop()
        if outer in frame.firsts:
            frame.firsts[last] = f.multiply(frame.firsts[outer], length)
        frame.lengths[last] = f.multiply(frame.lengths[outer], length)
        frame.bounds[last] *= frame.bounds[outer]
    gone = order[len(axes) : -1]
    kept = [{a: n for a, n in place.strides.items() if a not in gone} for place in places]
    over = [replace(place, strides=given) for place, given in zip(places, kept, strict=True)]
    yield [*axes, last], over
    frame.lengths, frame.bounds, frame.firsts = before


def inside(emitter: Contractions, source: Place, copy: Place, order: list[Axis], env: Env) -> None:
    """What is in memory; in squares that are transposed in registers, where that serves."""
    frame, last = emitter.frame, order[-1]
    lanes, kind = vector_lanes(emitter.target), STORED[copy.dtype]
    unit = next((axis for axis in order if source.strides[axis] == 1), None)
    channels = frame.lengths[last]
    whole = isinstance(channels, int) and channels % lanes == 0 and last not in frame.firsts
    if unit is None or unit == last or not whole or BYTES[kind] != 4 or source.dtype != copy.dtype:
        with runs(emitter, order, (source, copy)) as (axes, (x, into)):
            leaf = Input(f"#source{next(_leaves)}", tuple(axes), source.dtype)
            emitter.places[leaf] = x
            emitter.fill(leaf, into, axes, env)
        return
    others = [axis for axis in order if axis not in (unit, last)]

    def square(at: Env) -> None:
        at = {**at, unit: Index(frame.firsts.get(unit, 0)), last: Index(0)}
        into = emitter.base(copy, at), copy.strides[unit]
        emitter.turn(kind, source, last, at, into, (frame.length(unit), channels))

    with emitter.scope():
        emitter.nest(others, None, [], env, square)
