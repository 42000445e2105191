"""Values that are parts of other values one after the other along an axis.

Such a value is written as a choice by position: where(n < 8, a[n], where(n < 11, b[n - 8], ...)).
It is where its parts are written to, and nothing computes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from infinisa.isa.language import Affine, Axis, Constant, Map, Node, Position, View
from infinisa.isa.program import Count, Extent


def whole_axes(extents: Iterable[Extent]) -> dict[Axis, int]:
    """The sizes of axes that have all of their positions at any time."""
    return {e.axis: e.most for e in extents if not e.length.terms and e.start == Count()}


class Part(NamedTuple):
    """A value that is part of another one; `axes`: those of the other in terms of its own."""

    value: Node
    axes: dict[Axis, Affine]


def joined(node: Node, sizes: Mapping[Axis, int]) -> tuple[Part, ...]:
    """The parts of a value, in order; none if it is not joined of whole values. `sizes`: of axes
    that have all of their positions at any time."""
    found = []
    for axis, start, end, value in _pieces(node, sizes):
        part = _part(value, axis, range(start, end), sizes)
        if part is None:
            return ()
        found.append(part)
    return tuple(found)


def _pieces(node: Node, sizes: Mapping[Axis, int]) -> Iterator[tuple[Axis, int, int, Node]]:
    """What is chosen by position: (axis, first position, end, value)."""
    axis, start = "", 0
    while True:
        match node:
            case Map("where", (Map("less", (Position(by), Constant(end))), value, rest)) if (
                by in sizes and by == (axis or by) and start < end < sizes[by]
            ):
                yield by, start, int(end), value
                axis, start, node = by, int(end), rest
            case _:
                if axis:
                    yield axis, start, sizes[axis], node
                return


def _part(node: Node, axis: Axis, at: range, sizes: Mapping[Axis, int]) -> Part | None:
    """The whole value of which a node shows all positions from the start of a range on, perhaps
    under other names."""
    names = {axis: axis}  # what axes of the joined value are called inside
    while isinstance(node, View):
        moved = Affine(((names[axis], 1),), -at.start)
        back, last = {}, False
        for old, i in node.index:
            if i == moved and sizes.get(old) == len(at):
                back[names[axis]], last = old, True
            elif i.plain and i.plain not in back and sizes.get(old) == sizes.get(i.plain):
                back[i.plain] = old
            else:
                return None
        names = {new: back.pop(old, old) for new, old in names.items()} | back
        node = node.x
        if last:
            axes = {new: Affine(((old, 1),)) for new, old in names.items()}
            return Part(node, {**axes, axis: Affine(((names[axis], 1),), at.start)})
    return None
