"""The kernels that contractions are made of, for any strides; a program has one of each kind.

They work on X, read as vectors, and S, read one number at a time; see `contraction.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias

from ..code.functions import STORED, convert, multiply_add, widen
from ..code.ir import BYTES, FLOATS, Function, Module, Number, Value, constant, number
from ..code.processor import LINE

SPREAD = [("x", "ptr noalias"), ("xk", "i64"), ("s", "ptr noalias"), ("sm", "i64"),
          ("sk", "i64"), ("c", "ptr noalias"), ("cm", "i64"), ("steps", "i64"),
          ("columns", "i64")]  # fmt: skip
"""X and its elements from step to step; S and its elements from row to row and step to step; the
result and its elements from row to row; steps of k; columns."""


def kernel(module: Module, name: str, signature: list[tuple[str, str]]) -> Function | None:
    """A function to fill, or None where it is there already."""
    if name in module.names:
        return None
    module.names.add(name)
    return Function(module, name, signature)


UNROLLED = 4
"""Steps of k that a tile takes in a turn of its innermost loop."""


AT_ONCE = 2
"""Lines of the result that a tile asks for in a turn: many at once would hold up what it reads."""

Ahead: TypeAlias = int | Literal["panel", "next"]


@dataclass(frozen=True)
class Tile:
    """A register tile: `rows` x `count` vectors of the result stay in registers for all steps.

    kind    of the result and of S; `dtype` is that of X in memory
    step    elements of X from step to step, where it is packed: [step][columns]; 0: a call says,
            and nothing behind the last column is read
    depth   axes of k: the last is the innermost loop
    unit    S is contiguous along the innermost
    full    a call takes `count` full vectors of columns
    ways    sums of each number of the result: every other step adds to the second
    outer   axes of k around those that a piece of a sum goes along: each piece begins at 0 and is
            added to the result, as a long chain of sums would lose more digits
    panels  of X side by side that its vectors are in: each is read as a stream of its own
    table   rows of S lie anywhere: a table says where
    ahead   what it asks memory for: so many bytes behind those that it reads (0: nothing), or
            "panel": lines of the next panel, as many as a call says, or "next": these and what the
            tile of the rows behind these will need
    """

    kind: str
    dtype: str
    lanes: int
    rows: int
    count: int
    step: int
    depth: int = 1
    unit: bool = True
    full: bool = False
    ways: int = 1
    outer: int = 0
    panels: int = 1
    ahead: Ahead = 0
    table: bool = False

    @property
    def name(self) -> str:
        how = f"{'u' if self.unit else 's'}{'f' if self.full else 'p'}{'t' if self.table else ''}"
        shape = f"{self.rows}x{self.count}_{self.panels}_{self.step}_{self.depth}"
        more = f"{how}{self.ways}_{self.outer}_{self.ahead}"
        return f"tile_{self.kind}_{self.dtype}_{self.lanes}_{shape}_{more}"

    @property
    def signature(self) -> list[tuple[str, str]]:
        """X, its elements from step to step; S, its elements from row to row or where the table of
        rows tells those from S to each; of each axis of k
        the steps and the elements of S from one to the next; positions of axis `outer` in a piece
        of a sum; the result, its elements from row to row; columns; whether to add to the result;
        elements of X from panel to panel, where there are several; lines of the next panel: the
        first, how many in a turn of the innermost loop."""
        found = [("x", "ptr noalias"), ("xk", "i64"), ("s", "ptr noalias")]
        found += [("table", "ptr noalias") if self.table else ("sm", "i64")]
        for level in range(self.depth):
            found += [(f"n{level}", "i64"), (f"sk{level}", "i64")]
        found += [("piece", "i64"), ("c", "ptr noalias"), ("cm", "i64")]
        found += [("columns", "i64"), ("more", "i64")]
        found += [("apart", "i64")] * (self.panels > 1)
        return [*found, ("next", "ptr"), ("lines", "i64")] if self.asks else found

    @property
    def asks(self) -> bool:
        """Whether it asks for the next panel."""
        return not isinstance(self.ahead, int)


def tile_kernel(module: Module, tile: Tile) -> str:
    """The function of a tile; it takes one tile of columns after the other."""
    f = kernel(module, tile.name, tile.signature)
    if f is None:
        return tile.name
    p = f.parameters
    writer = TileWriter(f, tile)

    def column(first: Value, _: list[Value]) -> None:
        writer.write(first)

    if tile.full:
        writer.write(0)
    else:
        f.loop(0, p["columns"], tile.count * tile.lanes, column)
    f.done()
    return tile.name


class TileWriter:
    """Writes the code of one tile."""

    def __init__(self, f: Function, tile: Tile) -> None:
        self.f, self.tile = f, tile
        p = f.parameters
        self.lefts = [f.at(p["s"], self.row(r), tile.kind) for r in range(tile.rows)]
        self.places = [(r, v) for r in range(tile.rows) for v in range(tile.count)]
        self.aparts = [f.multiply(p["apart"], panel) for panel in range(1, tile.panels)]

    def row(self, number: Number) -> Number:
        """Elements from S to a row."""
        f, p = self.f, self.f.parameters
        if self.tile.table:
            return f.load(f.at(p["table"], number, "i64"), "i64")
        return f.multiply(p["sm"], number)

    def write(self, column: Number) -> None:
        f, t, p = self.f, self.tile, self.f.parameters
        self.masks: list[Value | None] = [None] * t.count
        if not t.full:
            wanted = number(f.subtract(p["columns"], column))
            limit = lane_count(f, wanted, t.count * t.lanes)
            numbers = [f.lane_numbers("i32", t.lanes, first=v * t.lanes) for v in range(t.count)]
            self.masks = [f.compare("sgt", limit, lane) for lane in numbers]
            self.whole = f.compare("sge", wanted, constant("i64", t.count * t.lanes))
        heads = [f.at(p["c"], f.add(f.multiply(p["cm"], r), column), t.kind) for r in range(t.rows)]
        self.results = [f.at(heads[r], v * t.lanes, t.kind) for r, v in self.places]
        if t.ahead != "next":
            for place in self.results:
                f.prefetch(place)
        x = f.at(p["x"], column, STORED[t.dtype])
        self.outside(0, 0, 0, [p["more"], x])

    def outside(
        self, depth: int, offset: Number, passed: Number, carried: list[Value]
    ) -> list[Value]:
        """The loops over axes of k around pieces, each of which ends in the result; `carried`:
        whether to add to it, X."""
        f, p = self.f, self.f.parameters

        def turn(index: Value, carried: list[Value]) -> list[Value]:
            if depth < self.tile.outer:
                return self.outside(depth + 1, *self.further(depth, offset, passed, index), carried)
            more, x = carried
            end = f.minimum(f.add(index, p["piece"]), p[f"n{depth}"])
            *sums, x = self.level(depth, offset, passed, [*self.zeros(), x], (index, end))
            self.put(self.together(sums), more)
            return [constant("i64", 1), x]

        if depth < self.tile.outer:
            return f.loop(0, p[f"n{depth}"], 1, turn, carried)
        some = f.maximum(p[f"n{depth}"], 1)  # of no steps the sum is 0
        return f.loop(0, some, p["piece"], turn, carried)

    def zeros(self) -> list[Value]:
        t = self.tile
        return [constant(t.kind, 0, t.lanes)] * (len(self.places) * t.ways)

    def together(self, sums: list[Value]) -> list[Value]:
        """Of each number of the result one sum."""
        f, t, size = self.f, self.tile, len(self.places)
        if t.ways == 1:
            return sums
        return [f.binary(self.add, *pair) for pair in zip(sums[:size], sums[size:], strict=True)]

    @property
    def add(self) -> str:
        return "fadd" if self.tile.kind in FLOATS else "add"

    def put(self, sums: list[Value], more: Value) -> None:
        """Into the result, or added to it."""
        f, t = self.f, self.tile
        places = list(zip(self.results, [self.masks[v] for _, v in self.places], strict=True))

        def added() -> list[Value]:
            return [
                f.binary(self.add, f.load(at, t.kind, t.lanes, mask), value)
                for (at, mask), value in zip(places, sums, strict=True)
            ]

        again = f.compare("ne", more, constant("i64", 0))
        totals = f.either(again, added, lambda: sums)

        def store(masked: bool) -> list[Value]:
            for (at, mask), value in zip(places, totals, strict=True):
                f.store(value, at, mask if masked else None)
            return []

        if t.full:
            store(False)
        else:
            f.either(self.whole, lambda: store(False), lambda: store(True))

    def further(
        self, depth: int, offset: Number, passed: Number, index: Value
    ) -> tuple[Number, Number]:
        """(offset in S, steps passed) at a position of an axis of k, for the axes inside."""
        f, p = self.f, self.f.parameters
        here = f.add(offset, f.multiply(index, p[f"sk{depth}"]))
        return here, f.multiply(f.add(passed, index), p[f"n{depth + 1}"])

    def level(
        self,
        depth: int,
        offset: Number,
        passed: Number,
        carried: list[Value],
        part: tuple[Number, Number],
    ) -> list[Value]:
        """The loops over axes of k from `depth` on, of the first of them a part: from one position
        to another; `passed`: steps so far; `carried`: sums, X."""
        f, t, p = self.f, self.tile, self.f.parameters
        begin, end = part
        if depth < t.depth - 1:

            def turn(index: Value, carried: list[Value]) -> list[Value]:
                inside = 0, p[f"n{depth + 1}"]
                here = self.further(depth, offset, passed, index)
                return self.level(depth + 1, *here, carried, inside)

            return f.loop(begin, end, 1, turn, carried)
        step = 1 if t.unit else p[f"sk{depth}"]
        many = f.add(begin, f.whole(f.subtract(end, begin), UNROLLED))

        def turns(count: int) -> Callable[[Value, list[Value]], list[Value]]:
            def turn(index: Value, carried: list[Value]) -> list[Value]:
                here = f.add(offset, f.multiply(index, step))
                if t.asks and count > 1:
                    self.ask(f.add(passed, index))
                if t.ahead == "next" and count > 1:
                    self.ask_results(f.add(passed, index))
                    if t.unit:
                        self.ask_rows(here, index)
                return self.steps(here, step, carried, count)

            return turn

        carried = f.loop(begin, many, UNROLLED, turns(UNROLLED), carried)
        return f.loop(many, end, 1, turns(1), carried)

    def ask(self, passed: Number) -> None:
        """For lines of the next panel, evenly as this one goes by."""
        f, lines = self.f, self.f.parameters["lines"]

        def some() -> None:
            first = f.multiply(f.multiply(passed, LINE // UNROLLED), lines)
            start = f.at(f.parameters["next"], first)
            f.loop(0, lines, 1, lambda i, _: f.prefetch(f.at(start, f.multiply(i, LINE)), cache=2))

        f.when(f.compare("sgt", lines, constant("i64", 0)), some)

    def ask_rows(self, offset: Number, index: Value) -> None:
        """For the rows of S behind these, as far along k as this turn goes: some of the rows in
        each of the turns that read one line."""
        f, t = self.f, self.tile
        turns = LINE // (UNROLLED * BYTES[t.kind])
        turn, some = f.divide(index, UNROLLED), -(-t.rows // turns)
        first = f.multiply(f.subtract(turn, f.whole(turn, turns)), some)
        start = f.at(f.parameters["s"], offset, t.kind)
        for more in range(some):
            row = f.add(first, t.rows + more)
            f.prefetch(f.at(start, self.row(row), t.kind), cache=2)

    def ask_results(self, passed: Number) -> None:
        """For the lines where the sums of the rows behind these will end, some in each of the first
        turns."""
        f, t = self.f, self.tile
        each = LINE // BYTES[t.kind]
        across = -(-t.count * t.lanes // each)

        def lines() -> None:
            first = f.multiply(f.divide(passed, UNROLLED), AT_ONCE)
            for more in range(AT_ONCE):
                line = f.add(first, more)
                row = f.divide(line, across)
                column = f.multiply(f.subtract(line, f.multiply(row, across)), each)
                at = f.add(f.multiply(f.add(row, t.rows), f.parameters["cm"]), column)
                f.prefetch(f.at(self.results[0], at, t.kind), cache=2)

        steps = -(-across * t.rows // AT_ONCE) * UNROLLED
        f.when(f.compare("slt", number(passed), constant("i64", steps)), lines)

    def steps(self, offset: Number, step: Number, carried: list[Value], count: int) -> list[Value]:
        """Steps of k side by side."""
        f, t, size = self.f, self.tile, len(self.places)
        *sums, x = carried
        stored, stride = STORED[t.dtype], t.step or f.parameters["xk"]
        lefts = [f.at(left, offset, t.kind) for left in self.lefts]
        further = t.ahead if isinstance(t.ahead, int) else 0
        each = t.count // t.panels
        wide = t.count * t.lanes * BYTES[stored] if further else 0
        together = t.count if t.panels == 1 else 1  # vectors of X that are in registers at a time
        for turn in range(count):
            right = f.at(x, f.multiply(stride, turn), stored)
            for line in range(0, wide, LINE):
                f.prefetch(f.at(right, further + line), cache=2)
            rights = [right, *(f.at(right, apart, stored) for apart in self.aparts)]
            way, ones = size * (turn % self.tile.ways), []
            for first in range(0, t.count, together):
                places = [divmod(first + v, each) for v in range(together)]
                vectors = [self.vector(rights[panel], v) for panel, v in places]
                for r, left in enumerate(lefts):
                    if first == 0:
                        one = f.load(f.at(left, f.multiply(step, turn), t.kind), t.kind)
                        ones.append(f.splat(one, t.lanes))
                    for v, vector in enumerate(vectors):
                        at = way + r * t.count + first + v
                        sums[at] = multiply_add(f, ones[r], vector, sums[at])
        return [*sums, f.at(x, f.multiply(stride, count), stored)]

    def vector(self, right: Value, v: int) -> Value:
        """A vector of X, widened."""
        f, t = self.f, self.tile
        stored = STORED[t.dtype]
        mask = None if t.step or t.full else self.masks[v]
        raw = f.load(f.at(right, v * t.lanes, stored), stored, t.lanes, mask)
        return convert(f, widen(f, raw, t.dtype), t.kind)


def lane_count(f: Function, count: Number, most: int) -> Value:
    """How many of `most` lanes there are."""
    return f.convert("trunc", number(f.minimum(count, most)), "i32")


def spread_kernel(module: Module, kind: str, dtype: str, lanes: int, rows: int) -> str:
    """Rows of X added to rows of the result, four steps of k (more for one row) at a time."""
    # long: a kernel is one piece
    name = f"spread_{kind}_{dtype}_{lanes}_{rows}"
    f = kernel(module, name, SPREAD)
    if f is None:
        return name
    p = f.parameters
    stored = STORED[dtype]
    heads = [f.at(p["c"], f.multiply(p["cm"], r), kind) for r in range(rows)]
    lefts = [f.at(p["s"], f.multiply(p["sm"], r), kind) for r in range(rows)]

    def along(body: Callable[[Value, Value | None], None]) -> None:
        """For every vector of columns."""
        full = f.whole(p["columns"], lanes)

        def turn(index: Value, _: list[Value]) -> None:
            body(index, None)

        f.loop(0, full, lanes, turn)
        if lanes > 1:
            rest = lane_count(f, f.subtract(p["columns"], full), lanes)
            mask = f.compare("slt", f.lane_numbers("i32", lanes), rest)
            some = f.compare("slt", number(full), p["columns"])
            f.when(some, lambda: body(number(full), mask))

    def steps(index: Value, deep: int) -> None:
        ones = [
            [f.load(f.at(left, f.multiply(p["sk"], f.add(index, d)), kind), kind) for left in lefts]
            for d in range(deep)
        ]
        rights = [f.at(p["x"], f.multiply(p["xk"], f.add(index, d)), stored) for d in range(deep)]

        def add(column: Value, mask: Value | None) -> None:
            vectors = []
            for right in rights:
                raw = f.load(f.at(right, column, stored), stored, lanes, mask)
                vectors.append(convert(f, widen(f, raw, dtype), kind))
            for r, head in enumerate(heads):
                at = f.at(head, column, kind)
                total = constant(kind, 0, lanes)
                for d in range(deep):
                    total = multiply_add(f, ones[d][r], vectors[d], total)
                add = "fadd" if kind in FLOATS else "add"
                f.store(f.binary(add, f.load(at, kind, lanes, mask), total), at, mask)

        along(add)

    deep = 4 if rows > 1 else 12 if lanes == 16 else 8
    many = f.whole(p["steps"], deep)
    f.loop(0, many, deep, lambda i, _: steps(i, deep))
    f.loop(many, p["steps"], 1, lambda i, _: steps(i, 1))
    f.done()
    return name


TURN = [("x", "ptr noalias"), ("xn", "i64"), ("panel", "ptr noalias"), ("width", "i64"),
        ("steps", "i64"), ("columns", "i64")]  # fmt: skip


SIDE = 4
"""Positions of a side of the squares that are transposed: 16 bytes, within which shuffles are
fast."""


TURNED = 64
"""Steps that are turned for all columns before the next ones: what is written stays in a cache."""


def turn_kernel(module: Module, kind: str, dtype: str, lanes: int) -> str:
    """panel[step][column] = x[column][step], in as many columns as a vector has lanes; those behind
    the last one are that one again.

    The next columns are asked for meanwhile: each of them is another run of memory.
    """
    name = f"turn_{kind}_{dtype}_{lanes}"
    f = kernel(module, name, TURN)
    if f is None:
        return name
    p = f.parameters
    stored = STORED[dtype]
    last = f.subtract(p["columns"], 1)

    def columns(begin: Value, column: Value, _: list[Value]) -> None:
        end = f.minimum(f.add(begin, TURNED), p["steps"])
        whole = f.add(begin, f.whole(f.subtract(end, begin), SIDE))
        numbers = [f.minimum(f.add(column, lane), last) for lane in range(lanes)]
        rows = [f.at(p["x"], f.multiply(p["xn"], row), stored) for row in numbers]
        into = f.at(p["panel"], column, kind)

        def read(row: Value, step: Value, width: int) -> Value:
            raw = f.load(f.at(row, step, stored), stored, width)
            return convert(f, widen(f, raw, dtype), kind)

        def put(value: Value, step: Number, lane: int = 0) -> None:
            f.store(value, f.at(f.at(into, f.multiply(p["width"], step), kind), lane, kind))

        def squares(step: Value, _: list[Value]) -> None:
            fetch_columns(f, f.add(column, lanes), step, lanes, stored)
            pieces = [read(row, step, SIDE) for row in rows]
            sides = [beside(f, pieces[side::SIDE]) for side in range(SIDE)]
            for more, value in enumerate(transposed(f, sides)):
                put(value, f.add(step, more))

        def single(step: Value, _: list[Value]) -> None:
            for lane, row in enumerate(rows):
                put(read(row, step, 1), step, lane)

        f.loop(begin, whole, SIDE, squares)
        f.loop(whole, end, 1, single)

    def block(begin: Value, _: list[Value]) -> None:
        f.loop(0, p["columns"], lanes, partial(columns, begin))

    f.loop(0, p["steps"], TURNED, block)
    f.done()
    return name


def fetch_columns(f: Function, first: Number, step: Value, lanes: int, stored: str) -> None:
    """A line of each of so many columns from the first on, in as many turns as are squares in a
    line."""
    p, turns = f.parameters, LINE // (SIDE * BYTES[stored])
    turn = f.binary("lshr", step, constant("i64", SIDE.bit_length() - 1))
    turn = f.binary("and", turn, constant("i64", turns - 1))
    first = f.add(first, f.multiply(turn, lanes // turns))
    for more in range(lanes // turns):
        column = f.at(p["x"], f.multiply(p["xn"], f.add(first, more)), stored)
        f.prefetch(f.at(column, step, stored))


def beside(f: Function, parts: list[Value]) -> Value:
    """The lanes of all parts, one behind the other."""
    while len(parts) > 1:
        pairs = zip(parts[::2], parts[1::2], strict=True)
        parts = [f.shuffle(a, b, range(2 * a.width)) for a, b in pairs]
    return parts[0]


def transposed(f: Function, rows: list[Value]) -> list[Value]:
    """Lane j of row i to lane i of row j in each square, by exchanging ever larger blocks."""
    side, lanes = len(rows), range(rows[0].width)
    step = 1
    while step < side:
        after = list(rows)
        for i in (i for i in range(side) if not i & step):
            pair = rows[i], rows[i + step]
            low = [x if not x & step else len(lanes) + x - step for x in lanes]
            after[i] = f.shuffle(*pair, low)
            after[i + step] = f.shuffle(*pair, [x + step for x in low])
        rows = after
        step *= 2
    return rows
