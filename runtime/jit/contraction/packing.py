"""X in panels: how wide they are, how they are filled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from infinisa.isa.language import Axis, Node

from ..code.functions import STORED, register
from ..code.ir import BYTES, Function, Number, Value
from ..code.processor import LINE, Target
from ..expressions.expression import Env, Index, Place

if TYPE_CHECKING:
    from .contraction import Contractions

PORTABLE_LANES, PORTABLE_ROWS, PORTABLE_PANEL = 16, 6, 64
"""The register tile of code that knows no processor: 6 rows of one vector, which LLVM splits where
registers are narrower (into 12 of the 16 of AVX2). A panel has several tiles side by side, which
find their rows of S in the first cache."""

AT_ONCE = 16
"""Steps of k that go into all panels before the next ones: so many rows of X are read side by
side, each from its beginning to its end."""

CROWD = 1024
"""Rows so many bytes apart, or a multiple of it, share sets of a first cache: its ways are 4 KB."""


def spaced(numbers: int, kind: str) -> int:
    """A distance of rows of so many numbers that do not share sets."""
    return numbers + (0 if numbers * BYTES[kind] % CROWD else LINE // BYTES[kind])


def vector_lanes(target: Target) -> int:
    """Lanes of the vectors of a register tile."""
    return target.lanes if target.lanes > 1 else PORTABLE_LANES


def tile_vectors(target: Target, columns: int) -> int:
    """Vectors of a register tile of a panel, where there are so many columns."""
    if target.lanes == 1:
        return 1
    return min(4 if target.registers >= 32 else 2, max(1, -(-columns // target.lanes)))


def tile_rows(target: Target, count: int) -> int:
    """Rows of a register tile of so many vectors."""
    if target.lanes == 1:
        return PORTABLE_ROWS
    return min((target.registers - count - 1) // count, 12)


STREAMS = 4
"""So many runs of memory, read side by side, keep memory busy."""


def panels_beside(target: Target, vectors: int, rows: int) -> int:
    """Panels of a weight that a tile of all rows goes through side by side, if these are few.

    Where a step of a panel is one line, a stream of such lines does not keep memory busy. Registers
    hold the sums, a number of each row and a vector of X.
    """
    if target.lanes == 1 or target.registers >= 32:
        return 1
    return max(1, min((target.registers - rows - 1) // (rows * vectors), STREAMS))


def panel_columns(target: Target, columns: int) -> int:
    """Columns of a panel: one tile's, or in portable code several."""
    if target.lanes > 1:
        return tile_vectors(target, columns) * target.lanes
    return min(PORTABLE_PANEL, max(1, -(-columns // PORTABLE_LANES)) * PORTABLE_LANES)


# ---------------------------------------------------------------- filling panels


@dataclass(frozen=True)
class Packing:
    """Panels [k][width] of one side of a contraction.

    x       where it lies, if it is in memory
    vector  its axis along a panel's columns
    over    axes of k, the innermost last
    dtype   of what is in the panels
    """

    emitter: Contractions
    node: Node
    x: Place | None
    vector: Axis
    over: tuple[Axis, ...]
    dtype: str
    width: int

    @property
    def stored(self) -> str:
        return STORED[self.dtype]

    def steps(self, after: int = 0) -> Number:
        """Steps of k of the axes behind the first `after`."""
        total: Number = 1
        for axis in self.over[after:]:
            total = self.emitter.f.multiply(total, self.emitter.frame.length(axis))
        return total

    def pack(
        self, env: Env, panel: Value, columns: tuple[Number, Number], part: tuple[Number, Number]
    ) -> None:
        """A panel: (first, number) of its columns, and of positions of the first axis of k."""
        if self.turned is not None:
            self.turn(self.turned, env, panel, columns, part)
            return
        emitter, f, strides = self.emitter, self.emitter.f, self.strides()
        first = f.add(columns[0], f.multiply(part[0], strides[self.over[0]]))
        pointer = f.at(panel, f.subtract(0, first), self.stored)
        with emitter.part(self.vector, *columns), emitter.part(self.over[0], *part):
            place = Place(pointer, self.dtype, strides)
            emitter.fill(self.node, place, (*self.over, self.vector), env)

    def strides(self) -> dict[Axis, Number]:
        """Of a panel."""
        f = self.emitter.f
        given = {
            axis: f.multiply(self.steps(i + 1), self.width) for i, axis in enumerate(self.over)
        }
        return {self.vector: 1, **given}

    @property
    def turned(self) -> Axis | None:
        """An axis of k along which X is contiguous, as it is not along a panel."""
        x, kind = self.x, register(self.dtype)
        if x is None or BYTES[self.stored] != 4 or kind != self.stored:
            return None
        stride, lanes = x.strides.get(self.vector), vector_lanes(self.emitter.target)
        if not isinstance(stride, int) or stride <= 1:
            return None
        bounds = self.emitter.frame.bounds
        units = (a for a in self.over if x.strides.get(a) == 1 and bounds[a] >= lanes)
        return next(units, None)

    def turn(
        self,
        unit: Axis,
        env: Env,
        panel: Value,
        columns: tuple[Number, Number],
        part: tuple[Number, Number],
    ) -> None:
        """The same in squares that are transposed in registers."""
        emitter, f, strides, lead = self.emitter, self.emitter.f, self.strides(), self.over[0]
        others = [axis for axis in self.over if axis != unit]
        length = part[1] if unit == lead else emitter.frame.length(unit)
        begin = part[0] if unit == lead else 0

        def squares(at: Env) -> None:
            place: Number = 0
            for axis in others:
                moved = f.subtract(at[axis].base, part[0]) if axis == lead else at[axis].base
                place = f.add(place, f.multiply(moved, strides[axis]))
            at = {**at, unit: Index(begin), self.vector: Index(columns[0])}
            into = f.at(panel, place, self.stored), strides[unit]
            assert self.x is not None
            emitter.turn(self.stored, self.x, self.vector, at, into, (length, columns[1]))

        if unit == lead:
            emitter.loops(others, env, squares)
            return
        rest = [axis for axis in others if axis != lead]
        f.loop(part[0], f.add(*part), 1,
               lambda i, _: emitter.loops(rest, {**env, lead: Index(i)}, squares))  # fmt: skip


def pack_all(
    packing: Packing, memory: Value, others: tuple[Axis, ...], slab: int, env: Env
) -> None:
    """All panels, each with all of its steps."""
    emitter, f, lead = packing.emitter, packing.emitter.f, packing.over[0]

    def other(at: Env) -> None:
        slabs: Number = 0
        for axis in others:
            slabs = f.add(f.multiply(slabs, emitter.frame.length(axis)), at[axis].base)

        def some(begin: Number, count: Number) -> None:
            def panel(column: Number, columns: Number) -> None:
                offset = f.add(f.multiply(column, packing.steps()), f.multiply(slabs, slab))
                offset = f.add(offset, f.multiply(begin, packing.strides()[lead]))
                into = f.at(memory, offset, packing.stored)
                packing.pack(at, into, (column, columns), (begin, count))

            emitter.each_panel(packing.vector, packing.width, panel)

        length = emitter.frame.length(lead)
        if packing.turned is None and len(packing.over) == 1:
            pieces(f, length, AT_ONCE, some)
        else:
            some(0, length)

    emitter.loops(others, env, other)


def pieces(f: Function, length: Number, size: int, body: Callable[[Number, Number], None]) -> None:
    """Call with (first, number) for pieces of a length, the last one perhaps shorter."""
    if not isinstance(length, int):
        f.loop(0, length, size, lambda i, _: body(i, f.minimum(f.subtract(length, i), size)))
        return
    full = length // size * size
    if full == size:
        body(0, size)
    elif full:
        f.loop(0, full, size, lambda i, _: body(i, size))
    if length > full:
        body(full, length - full)


def well_laid(x: Place, vector: Axis, over: Axis, target: Target) -> bool:
    """Whether X lies as its only panel would."""
    width = x.strides.get(over)
    if not isinstance(width, int) or x.strides.get(vector) != 1:
        return False
    return width == panel_columns(target, width)
