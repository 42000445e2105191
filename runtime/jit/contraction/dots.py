"""The kernel of few rows, k contiguous in both sides: vectors of sums, folded at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..code.functions import REORDERED, STORED, convert, multiply_add, widen
from ..code.ir import FLOATS, Function, Module, Number, Value, constant, number
from .microkernels import kernel, lane_count

SIGNATURE = [("x", "ptr noalias"), ("xn", "i64"), ("s", "ptr noalias"), ("sm", "i64"),
             ("c", "ptr noalias"), ("cm", "i64"), ("steps", "i64"), ("columns", "i64"),
             ("more", "i64")]  # fmt: skip
"""X and its elements from column to column; S and its elements from row to row; the result and its
elements from row to row; steps of k; columns; whether to add to the result."""

CHAINS = 8
"""Sums side by side, so that none waits for the one before it."""

COLUMNS = 4
"""That are taken at once: so many runs of memory are read side by side, and their sums folded
together take little more than those of one."""


@dataclass(frozen=True)
class Dots:
    """What tells these kernels from each other.

    kind   of the result
    types  of X and S in memory
    rows   of a tile
    """

    kind: str
    types: tuple[str, str]
    lanes: int
    rows: int

    @property
    def name(self) -> str:
        return f"dots_{self.kind}_{'_'.join(self.types)}_{self.lanes}_{self.rows}"


def dots_kernel(module: Module, dots: Dots) -> str:
    """Numbers of the result for a few rows."""
    f = kernel(module, dots.name, SIGNATURE)
    if f is None:
        return dots.name
    columns, writer = f.parameters["columns"], DotsWriter(f, dots)
    at_once = 1 if dots.lanes == 1 else max(1, min(CHAINS // dots.rows, COLUMNS))
    whole = f.whole(columns, at_once)
    f.loop(0, whole, at_once, lambda first, _: writer.write(first, at_once))
    f.loop(whole, columns, 1, lambda first, _: writer.write(first, 1))
    f.done()
    return dots.name


class DotsWriter:
    """Writes the code of one kernel."""

    def __init__(self, f: Function, dots: Dots) -> None:
        self.f, self.dots, p = f, dots, f.parameters
        self.kinds = STORED[dots.types[0]], STORED[dots.types[1]]
        rows = range(dots.rows)
        self.lefts = [f.at(p["s"], f.multiply(p["sm"], row), self.kinds[1]) for row in rows]
        self.heads = [f.at(p["c"], f.multiply(p["cm"], row), dots.kind) for row in rows]
        self.again = f.compare("ne", p["more"], constant("i64", 0))
        self.full = f.whole(p["steps"], dots.lanes)
        self.ragged = f.compare("slt", number(self.full), p["steps"])
        left = lane_count(f, f.subtract(p["steps"], self.full), dots.lanes)
        self.mask = f.compare("slt", f.lane_numbers("i32", dots.lanes), left)

    def write(self, first: Value, count: int) -> None:
        """All rows by some columns."""
        f, kind, sums = self.f, self.dots.kind, self.sums(first, count)
        for row, head in enumerate(self.heads):
            total, at = self.folded(sums[row :: self.dots.rows]), f.at(head, first, kind)
            before = f.select(self.again, f.load(at, kind, count), constant(kind, 0, count))
            f.store(self.add(total, before), at)

    def sums(self, first: Value, count: int) -> list[Value]:
        """A vector of sums of each row, column by column."""
        f, lanes, size = self.f, self.dots.lanes, self.dots.rows * count
        x, apart = f.parameters["x"], f.parameters["xn"]
        columns = [f.multiply(apart, f.add(first, column)) for column in range(count)]
        rights = [f.at(x, column, self.kinds[0]) for column in columns]
        ways = max(1, CHAINS // size) if lanes > 1 else 1
        many = f.whole(self.full, lanes * ways)

        def step(index: Number, sums: Sequence[Value], mask: Value | None = None) -> list[Value]:
            left = [self.read(row, index, 1, mask) for row in self.lefts]
            right = [self.read(column, index, 0, mask) for column in rights]
            pairs = [(s, x) for x in right for s in left]
            return [multiply_add(f, *pair, total) for pair, total in zip(pairs, sums, strict=True)]

        def turn(index: Value, sums: list[Value]) -> list[Value]:
            found: list[Value] = []
            for way in range(ways):
                part = sums[way * size : (way + 1) * size]
                found += step(f.add(index, way * lanes), part)
            return found

        zeros = [constant(self.dots.kind, 0, lanes)] * (size * ways)
        found = f.loop(0, many, lanes * ways, turn, zeros)
        sums = found[:size]
        for way in range(1, ways):
            pairs = zip(sums, found[way * size :], strict=False)
            sums = [self.add(*pair) for pair in pairs]
        sums = f.loop(many, self.full, lanes, step, sums) if ways > 1 else sums
        if lanes == 1:
            return sums
        return f.either(self.ragged, lambda: step(self.full, sums, self.mask), lambda: sums)

    def read(self, pointer: Value, index: Number, side: int, mask: Value | None) -> Value:
        f, kind = self.f, self.kinds[side]
        raw = f.load(f.at(pointer, index, kind), kind, self.dots.lanes, mask)
        return convert(f, widen(f, raw, self.dots.types[side]), self.dots.kind)

    def add(self, a: Value, b: Value) -> Value:
        return self.f.binary(REORDERED if self.dots.kind in FLOATS else "add", a, b)

    def folded(self, values: list[Value]) -> Value:
        """The sum of the lanes of each value, as one vector: two become one of as many lanes, as
        long as there are two."""
        block = self.dots.lanes
        while block > 1:
            block //= 2
            pairs = [values[i : i + 2] for i in range(0, len(values), 2)]
            values = [self.half(pair[0], pair[-1], len(pair), block) for pair in pairs]
        return values[0]

    def half(self, a: Value, b: Value, count: int, block: int) -> Value:
        """Of one value or two: the first half of each block of lanes and the second, added."""
        lower = [lane for lane in range(count * a.width) if not lane & block]
        if len(lower) == 1:
            return self.add(*self.f.halves(a))
        upper = [lane + block for lane in lower]
        return self.add(self.f.shuffle(a, b, lower), self.f.shuffle(a, b, upper))
