"""The axes of a contraction by what they do, as few of them as its memory allows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations

from infinisa.isa.language import Axis, Node

from ..code.ir import Number


@dataclass(frozen=True)
class Sides:
    """A contraction's operands by their roles: x is read as vectors along axis `vector`."""

    x: Node
    s: Node
    vector: Axis
    columns: tuple[Axis, ...]
    rows: tuple[Axis, ...]
    over: tuple[Axis, ...]

    def without(self, gone: Axis) -> Sides:
        columns, rows, over = (
            tuple(axis for axis in group if axis != gone)
            for group in (self.columns, self.rows, self.over)
        )
        return replace(self, columns=columns, rows=rows, over=over)

    @property
    def groups(self) -> tuple[tuple[Axis, ...], ...]:
        return self.columns, self.rows, self.over


def mergeable(
    sides: Sides,
    strides: Sequence[Mapping[Axis, Number]],
    closed: frozenset[Axis],
    lengths: Mapping[Axis, Number],
) -> Iterator[tuple[Axis, Axis, int]]:
    """Each two axes of one role that every operand walks as one: outer, inner, its length.

    strides  of each operand that lies in memory
    closed   axes of operands that are still to be computed
    """
    for group in sides.groups:
        for outer, inner in permutations(group, 2):
            length = lengths[inner]
            if outer in closed or inner in closed or not isinstance(length, int) or length < 2:
                continue
            if all(one_run(given, outer, inner, length) for given in strides):
                yield outer, inner, length


def one_run(strides: Mapping[Axis, Number], outer: Axis, inner: Axis, length: int) -> bool:
    """Whether an operand walks both axes as one, of which the inner one has this length."""
    if outer not in strides or inner not in strides:
        return outer not in strides and inner not in strides
    step = strides[inner]
    return isinstance(step, int) and strides[outer] == step * length
