"""Minimal filtering F(2, 3): the matrices, and what applies them along several axes.

Two neighbouring sums of three products, y0 = d0 g0 + d1 g1 + d2 g2 and y1 = d1 g0 + d2 g1 + d3 g2,
take four products instead of six: y = A ((B d) * (G g)) (S. Winograd, Arithmetic Complexity of
Computations, 1980). B and A add and subtract; in G there are halves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from itertools import product
from typing import TypeAlias

from ..code.ir import Function, Number, Value, constant
from ..expressions.expression import Place, rooted

TAPS, SIDE, RESULTS = 3, 4, 2
"""Positions of a window along an axis, of the patch that it moves over, of the results of that."""

Matrix: TypeAlias = "tuple[tuple[float, ...], ...]"
Corner: TypeAlias = "tuple[int, ...]"
"""A position along each of the axes that are transformed."""

PATCH: Matrix = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
WINDOW: Matrix = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
RESULT: Matrix = ((1, 1, 1, 0), (0, 1, -1, -1))
"""B, G, A."""


def corners(
    f: Function, place: Place, side: int, steps: Sequence[Number]
) -> Mapping[Corner, Place]:
    """A tensor from each of so many positions on along axes of these steps."""
    found = {}
    for corner in product(range(side), repeat=len(steps)):
        offset: Number = 0
        for position, step in zip(corner, steps, strict=True):
            offset = f.add(offset, f.multiply(step, position))
        found[corner] = rooted(place, f, offset)
    return found


def transformed(
    f: Function, matrix: Matrix, axes: int, read: Callable[[Corner], Value]
) -> Iterator[tuple[Corner, Value]]:
    """(corner, value) of a matrix along each of so many axes of what `read` finds at corners; in
    such an order that few values are needed at a time."""
    if axes == 0:
        yield (), read(())
        return
    for row, factors in enumerate(matrix):
        mixed = cache(partial(combined, f, factors, read))
        for corner, value in transformed(f, matrix, axes - 1, mixed):
            yield (row, *corner), value


def combined(
    f: Function, factors: Sequence[float], read: Callable[[Corner], Value], corner: Corner
) -> Value:
    """The sum of what is found along the first axis, each times its factor, which differ in their
    signs only; one that is added comes first."""
    given = [(factor, read((i, *corner))) for i, factor in enumerate(factors) if factor]
    (scale, total), *rest = sorted(given, key=lambda pair: pair[0] < 0)
    for factor, value in rest:
        total = f.binary("fadd" if factor > 0 else "fsub", total, value)
    return total if scale == 1 else f.binary("fmul", total, constant(total.kind, scale))
