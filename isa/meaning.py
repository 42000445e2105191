"""What an instruction asks of the ranges it runs over: axes it needs, sizes of its values, and
whether an index inside it can leave what it works on. Part of the proof that `verify` makes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from .instruction import Instruction
from .language import (
    Affine,
    Axis,
    Gather,
    Input,
    Node,
    Reduce,
    Scan,
    Size,
    Stack,
    Update,
    View,
    everything,
    union,
    walk,
)
from .scope import Known


@dataclass(frozen=True)
class Needs:
    """What follows from the expressions alone.

    axes      all axes that values have
    sizes     axes whose whole extent is asked for
    values    the axes of each value
    indexing  whether anything is read or written by an index, or put side by side
    """

    axes: tuple[Axis, ...]
    sizes: tuple[Axis, ...]
    values: frozenset[tuple[Axis, ...]]
    indexing: bool


@lru_cache(maxsize=4096)
def needs(meaning: Instruction) -> Needs:
    if meaning.opaque:
        axes = union(leaf.axes for leaf in meaning.operands)
        return Needs(axes, (), frozenset(), False)
    nodes = list(everything(meaning.outputs))
    indexing = any(
        isinstance(node, View | Update | Gather | Stack | Scan)
        or (isinstance(node, Reduce) and node.function == "argmax")
        for node in nodes
    )
    scanned = [node.body.axis for node in nodes if isinstance(node, Scan)]
    return Needs(
        union([*(node.axes for node in nodes), scanned]),
        union((node.axis,) for node in nodes if isinstance(node, Size)),
        frozenset(node.axes for node in nodes),
        indexing,
    )


def unproved(meaning: Instruction, ranges: Mapping[Axis, Known]) -> Iterator[str]:
    """What could leave its bounds, given what is known of the range of each axis."""
    windows = set(meaning.windows)
    yield from _unproved(meaning.outputs, ranges, windows)


def _unproved(
    roots: Iterable[Node], ranges: Mapping[Axis, Known], windows: set[tuple[str, Axis]]
) -> Iterator[str]:
    for node in walk(roots):
        match node:
            case View(x, index, None):
                own = {
                    axis for axis, _ in index if isinstance(x, Input) and (x.name, axis) in windows
                }
                yield from _indices(index, ranges, own)
            case Update(_, _, at):
                yield from _indices(at, ranges, set())
            case Gather(_, _, axis) | Reduce("argmax", _, (axis,)):
                if axis not in ranges or ranges[axis].shortest < 1:
                    yield f"axis {axis!r} must have at least one position"
            case Stack(xs, axis):
                known = ranges.get(axis)
                if known is None or not known.shortest == known.longest == len(xs):
                    found = "none" if known is None else f"{known.shortest} to {known.longest}"
                    yield f"axis {axis!r} must have {len(xs)} positions, not {found}"
            case Scan():
                yield from _scan(node, ranges, windows)


def _scan(
    node: Scan, ranges: Mapping[Axis, Known], windows: set[tuple[str, Axis]]
) -> Iterator[str]:
    """Inside a recurrence its axis is one position at a time."""
    axis = node.body.axis
    outside = ranges[axis]
    one = Known(outside.name, outside, outside.low, outside.high, 1, 1)
    yield from _unproved((*node.body.next, *node.body.emits), {**ranges, axis: one}, windows)


def _indices(
    index: tuple[tuple[Axis, Affine], ...], ranges: Mapping[Axis, Known], windows: set[Axis]
) -> Iterator[str]:
    for axis, affine in index:
        if axis in windows:
            continue
        if missing := [name for name in (axis, *affine.axes) if name not in ranges]:
            yield f"index {axis}={affine} must be over axes with ranges, not {missing[0]!r}"
            continue
        known, plain = ranges[axis], affine.plain
        if plain is not None and ranges[plain].name == known.name:
            continue
        low, high = bounds(affine, ranges)
        if not (known.exact and known.low <= low and high < known.high):
            yield (
                f"index {axis}={affine} must be proved to stay within the positions of {axis!r}: "
                f"it is {low} to {high}, they are {_positions(known)}"
            )


def _positions(known: Known) -> str:
    text = f"{known.low} to {known.high - 1}"
    return text if known.exact else f"some of {text}"


def bounds(index: Affine, ranges: Mapping[Axis, Known]) -> tuple[int, int]:
    """The least and the largest value of an index."""
    low = high = index.offset
    for axis, stride in index.terms:
        ends = stride * ranges[axis].low, stride * (ranges[axis].high - 1)
        low, high = low + min(ends), high + max(ends)
    low, high = low // index.divide, high // index.divide
    if index.modulo and low // index.modulo != high // index.modulo:
        return 0, index.modulo - 1
    return (low % index.modulo, high % index.modulo) if index.modulo else (low, high)
