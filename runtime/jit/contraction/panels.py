"""Contractions by panels: X in panels of a few vectors, packed or where it lies, loops for caches.

A panel is [k][columns of a register tile]. Rows of S pass by in blocks that stay in the second
cache, each panel in steps of k that do too: rows, steps, panels, tiles, from outside in. A weight
was packed when the session began. Any other X is packed when it is used: all of it at once, or
panel by panel where all rows are one block.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

from infinisa.isa.language import Axis, Input

from ..code.functions import STORED
from ..code.ir import BYTES, FLOATS, Argument, Function, Number, Value, number
from ..code.processor import LINE
from ..expressions.expression import Env, Index, Place
from .finish import Following
from .integers import (
    Digits,
    Shape,
    few_rows,
    fused,
    integer_rows,
    integer_tile,
    rounded_rows,
    row_digits,
)
from .microkernels import UNROLLED, Ahead, Tile, tile_kernel
from .packing import (
    CROWD,
    Packing,
    panels_beside,
    pieces,
    spaced,
    tile_rows,
    tile_vectors,
    vector_lanes,
    well_laid,
)
from .quantised import GROUPS, TURN, Form, unpack_kernel
from .roles import Sides, one_run
from .weights import Kept, pack_whole

if TYPE_CHECKING:
    from .contraction import Contractions

SELDOM = 32
"""Rows up to which a panel is not used often enough to pack it, if it can be read in place."""

PIECE = 128
"""Steps of k, about, after which a sum is added to the result and begins at 0 again. Errors grow
with the root of it: of 192 steps those of whole models were 1.15 to 1.3 times as large. Each costs
as much as 4 steps, beside other work: of 96 steps 1 % of the time, of 64 2 to 3."""

DEEP = 256
"""Steps of k for which a panel at least should stay in a cache: behind them sums are added up."""

AHEAD = 2048
"""Bytes ahead of what it reads for which a tile asks that no other reads."""

OFTEN = 8
"""Panels from which on it pays to copy what each of them meets."""

NOWHERE = Value("null", "ptr")

Part: TypeAlias = "tuple[Axis, Number, Number]"
"""An axis, the first of some of its positions, how many."""


@dataclass(frozen=True)
class Table:
    """Where rows of S lie: at `place` is how many elements of S come before each. Neighbours are
    `step` elements apart, but for some; the last row is `reach` behind the first one."""

    place: Value
    step: Number
    reach: int | None


@dataclass(frozen=True)
class Panels:
    """A contraction under way.

    sides       what is X and what is S
    over        axes of k, the innermost last
    place       of the result
    x           where X lies, if it is in memory
    s           S in memory, in the type of the result
    kind        of the result in registers
    packing     how panels are filled
    accumulate  1: add to the result
    after       what becomes of the sums
    table       rows of S, where they lie anywhere
    aim         steps of k, about, of a piece of a sum
    """

    emitter: Contractions
    sides: Sides
    over: tuple[Axis, ...]
    place: Place
    x: Place | None
    s: Place
    kind: str
    packing: Packing
    env: Env
    accumulate: Number
    after: Following | None
    table: Table | None = None
    aim: int = PIECE

    @property
    def f(self) -> Function:
        return self.emitter.f

    @property
    def others(self) -> tuple[Axis, ...]:
        """The axes of columns that are loops around the panels."""
        return tuple(axis for axis in self.sides.columns if axis != self.sides.vector)

    @property
    def row(self) -> Axis | None:
        """The axis whose rows a tile takes; other axes of S are loops."""
        rows, bounds = self.sides.rows, self.emitter.frame.bounds

        def near(axis: Axis) -> int:
            stride = self.s.strides.get(axis)
            return -stride if isinstance(stride, int) else 0

        return max(rows, key=lambda axis: (bounds[axis], near(axis))) if rows else None

    # -- the loops

    def run(self, kept: Kept | None) -> None:
        """The whole contraction; `kept`: X in panels, if it is there already."""
        emitter, packing, width = self.emitter, self.packing, self.packing.width
        if kept is not None and kept.form and self.in_integers(kept.form):
            rows = rounded_rows(self.flattened(), kept)
            rows.blocks(kept, rows.block_of_rows(self.digits(kept.form).bytes))
            return
        joined = self.joined()
        block = joined.block_of_rows()
        if kept is not None:
            joined.flattened().blocks(kept, block)
            return
        if self.x is not None and self.in_place:
            replace(joined, packing=replace(packing, dtype=self.x.dtype)).panels(None)
            return
        bounds, deep = emitter.frame.bounds, emitter.bound(self.over)
        if block is None:
            size = self.block_of_steps() or bounds[self.over[0]]
            deep = deep // bounds[self.over[0]] * size
            joined.panels(emitter.allot(deep * width, packing.dtype))
            return
        made = pack_whole(packing, self.others, self.env)  # before lengths of k are joined
        joined.flattened().blocks(made, block)

    def joined(self) -> Panels:
        """The same over one axis of rows, where tiles along a short one would leave registers
        empty: all but S must walk several as one, and a table tells where rows of S are."""
        emitter, f, axes = self.emitter, self.f, self.chain
        frame, strides = emitter.frame, dict(self.s.strides)
        if len(axes) < 2 or emitter.sight is not None:
            return self
        row, tall = axes[-1], self.tall
        rows = emitter.bound(axes)
        apart = rows // frame.bounds[row] * -(-frame.bounds[row] // tall)
        if apart <= -(-rows // tall) * 9 // 8:
            return self
        table = emitter.allot(rows + tall, "i64")

        def put(at: Env) -> None:
            found: Number = 0
            index: Number = 0
            for axis in axes:
                found = f.add(found, f.multiply(at[axis].base, strides[axis]))
                index = f.add(f.multiply(index, frame.length(axis)), at[axis].base)
            f.store(number(found), f.at(table, index, "i64"))

        emitter.loops(axes, {}, put)
        frame.lengths[row], frame.bounds[row] = self.steps(axes), rows
        return replace(
            self,
            sides=replace(self.sides, rows=(row,)),
            s=replace(self.s, strides={a: n for a, n in strides.items() if a not in axes}),
            table=Table(table, strides[row], self.reach(axes)),
        )

    @property
    def chain(self) -> tuple[Axis, ...]:
        """The axes of rows, outermost first, if all but S walks them as one."""
        emitter = self.emitter
        axes = (*emitter.order(self.sides.rows, self.place, None),)
        more = self.after.places.values() if self.after else ()
        given = [place.strides for place in (self.place, *more)]
        for outer, inner in pairwise(axes):
            length = emitter.frame.lengths[inner]
            if not isinstance(length, int):
                return ()
            if not all(one_run(strides, outer, inner, length) for strides in given):
                return ()
        return axes

    @property
    def tall(self) -> int:
        """The most rows of a tile."""
        target = self.emitter.target
        return tile_rows(target, tile_vectors(target, self.packing.width))

    def flattened(self) -> Panels:
        """The same over fewer axes of k, where S walks several as one: panels do so anyway."""
        over, strides, frame = list(self.over), dict(self.s.strides), self.emitter.frame
        for outer, inner in reversed(list(pairwise(self.over))):
            length, step = frame.lengths[inner], strides.get(inner, 0)
            known = isinstance(length, int) and isinstance(step, int)
            if known and strides.get(outer, 0) == self.f.multiply(step, length):
                frame.lengths[outer] = self.f.multiply(frame.lengths[outer], length)
                frame.bounds[outer] *= frame.bounds[inner]
                strides[outer] = step
                over.remove(inner)
                del strides[inner]
        return replace(self, over=(*over,), s=replace(self.s, strides=strides))

    def blocks(self, kept: Kept, block: tuple[Axis, int] | None) -> None:
        """All panels are there: one block of rows after the other."""
        if block is None:
            self.block(kept, None)
            return
        lead, size = block

        def part(start: Number, rows: Number) -> None:
            self.block(kept, (lead, start, rows))

        pieces(self.f, self.emitter.frame.length(lead), size, part)

    def block(self, kept: Kept, rows: Part | None) -> None:
        inner = self.steps(self.over[1:])

        def some(begin: Number, count: Number) -> None:
            with self.emitter.scratch():
                self.apart(rows, (begin, count)).against(kept, (begin, count), rows)

        if kept.form is None:
            whole = self.once
        else:
            each = kept.form.group or TURN
            short = not isinstance(inner, int) or (len(self.over) > 1 and inner % each > 0)
            whole = short or self.in_integers(kept.form)
        self.each_block(some, whole)

    def against(self, kept: Kept, part: tuple[Number, Number], rows: Part | None) -> None:
        """Rows of a block against all panels, some steps of k."""
        f, width = self.f, self.packing.width
        step = f.add(kept.step, f.multiply(part[0], self.steps(self.over[1:])))

        def other(env: Env) -> None:
            first, slabs = kept.column, kept.number
            for axis, (columns, more) in kept.moves.items():
                first = f.add(first, f.multiply(env[axis].base, columns))
                slabs = f.add(slabs, f.multiply(env[axis].base, more))

            def panel(column: Number, columns: Number) -> None:
                at = f.add(first, column)
                x = kept.panel(self.packing, at, step, slabs)
                if kept.form:
                    behind = kept.factors(self.packing, at, slabs)
                    given = env, (x, behind), (column, columns), part, rows
                    serve = self.integers if self.in_integers(kept.form) else self.unpacked
                    serve(kept.form, *given, kept.form.bytes(kept.integers[1], width))
                else:
                    apart = f.multiply(kept.steps, width)
                    after = f.at(x, apart, self.packing.stored)
                    self.tiles(env, x, (column, columns), part, rows, after, apart)

            served = kept.form is None or self.in_integers(kept.form)
            beside = self.beside if served else 1
            self.emitter.each_panel(self.sides.vector, width, panel, beside)

        self.emitter.loops(self.others, self.env, other)

    def apart(self, rows: Part | None, part: tuple[Number, Number]) -> Panels:
        """The same over a copy of S, if rows of a tile would share sets of the first cache or do
        not lie along k: of the rows of a block, and some steps of k."""
        if not self.crowded and not self.across:
            return self
        emitter, f, (over,), bounds = self.emitter, self.f, self.over, self.emitter.frame.bounds
        each = LINE // BYTES[self.kind]
        steps = self.most(part, bounds[over], self.block_of_steps())
        pitch = spaced(-(-steps // each) * each, self.kind)
        strides, size, first = dict[Axis, Number]({over: 1}), pitch, part[0]
        for axis in reversed(self.sides.rows):
            strides[axis] = size
            mine, block = bounds[axis], self.block_of_rows()
            if rows is not None and rows[0] == axis:
                mine = self.most(rows[1:], mine, block and block[1])
            size *= mine
        if rows is not None:
            first = f.add(first, f.multiply(rows[1], strides[rows[0]]))
        memory = f.at(emitter.allot(size, self.s.dtype), f.subtract(0, first), self.kind)
        made = Place(memory, self.s.dtype, strides)
        with emitter.part(over, *part), emitter.part(*rows) if rows else nullcontext():
            (self.turn if self.across else self.copy)(made)
        return replace(self, s=made, table=None)

    @property
    def across(self) -> bool:
        """Whether S is better turned, so that its rows lie along k."""
        return self.emitter.crosswise(self.s, self.sides)

    def turn(self, made: Place) -> None:
        """Rows of S that do not lie along k into others, in squares."""
        emitter, frame, (over,), row = self.emitter, self.emitter.frame, self.over, self.row
        assert row is not None
        at = {axis: Index(frame.firsts.get(axis, 0)) for axis in (row, over)}
        into = emitter.base(made, at), made.strides[row]
        lengths = frame.length(row), frame.length(over)
        emitter.turn(self.kind, self.s, over, {**self.env, **at}, into, lengths)

    def copy(self, made: Place) -> None:
        """Rows of S into others."""
        emitter, f, (over,), table = self.emitter, self.f, self.over, self.table
        base, strides = emitter.base(self.s, self.env), self.s.strides
        leaf = Input("#rows", (over,), self.s.dtype)

        def row(at: Env) -> None:
            place: Number = 0
            for axis in self.sides.rows:
                position = at[axis].base
                if table is None:
                    place = f.add(place, f.multiply(position, strides[axis]))
                else:
                    place = f.load(f.at(table.place, position, "i64"), "i64")
            source = f.at(base, place, self.kind)
            emitter.places[leaf] = Place(source, self.s.dtype, {over: strides[over]})
            emitter.fill(leaf, made, (over,), at)

        with emitter.scope():
            emitter.nest(self.sides.rows, None, [], self.env, row)
        del emitter.places[leaf]

    @staticmethod
    def most(part: tuple[Number, Number], bound: int, block: int | None) -> int:
        """The largest number of positions of a part of an axis, which is all of it or a block."""
        first, count = part
        if isinstance(count, int):
            return count
        return bound if block is None or isinstance(first, int) else block

    @property
    def crowded(self) -> bool:
        """Whether rows of S lie so many bytes apart that those of a tile meet in a few sets of the
        first cache, and enough panels meet them to make up for a copy."""
        if len(self.over) > 1 or self.row is None or STORED[self.s.dtype] != self.kind:
            return False
        stride, bounds = self.s.strides.get(self.row), self.emitter.frame.bounds
        if self.table is not None:
            stride = self.table.step
        if not isinstance(stride, int) or self.s.strides.get(self.over[0]) != 1:
            return False
        many = bounds[self.sides.vector] >= OFTEN * self.packing.width and bounds[self.row] > 1
        return many and stride * BYTES[self.kind] % CROWD == 0

    def in_integers(self, form: Form) -> bool:
        """Whether the other side is rounded: if that is asked for, or as fast. Without an
        instruction for sums of products of bytes only a few rows are."""
        target = self.emitter.target
        few = self.emitter.bound(self.sides.rows) <= few_rows(form, target)
        return form.digits == 1 or few or bool(fused(target, vector_lanes(target)))

    def digits(self, form: Form) -> Digits:
        """How the other side is rounded."""
        return row_digits(form, self.emitter.target, self.emitter.bound(self.over))

    def integers(
        self,
        form: Form,
        env: Env,
        panel: tuple[Value, Value],
        columns: tuple[Number, Number],
        steps: tuple[Number, Number],
        rows: Part | None,
        apart: int,
    ) -> None:
        """A panel of integers, `panel`: with what is behind them, or several, against integers."""
        emitter, f, width, last = self.emitter, self.f, self.packing.width, self.over[-1]
        wide, digits = columns[1], self.digits(form)
        panels = wide // width if isinstance(wide, int) and wide > width else 1

        def name(size: int) -> str:
            shape = Shape(size, width, panels, digits)
            return integer_tile(f.module, form, emitter.target, shape)

        def arguments(at: Env, _: Number) -> list[Argument]:
            at = {**at, self.sides.vector: Index(columns[0]), last: Index(0)}
            return [
                ("ptr", panel[0]), ("ptr", panel[1]), ("ptr", emitter.base(self.s, at)),
                ("i64", self.row_stride(self.s)), ("ptr", emitter.base(self.place, at)),
                ("i64", self.row_stride(self.place)), ("i64", steps[1]), ("i64", columns[1]),
                ("i64", self.accumulate), ("i64", apart),
            ]  # fmt: skip

        tall = integer_rows(form, emitter.target, (emitter.bound(self.over), width))
        self.rows(env, tall, name, arguments, rows, self.finishing(columns, steps))

    def unpacked(
        self,
        form: Form,
        env: Env,
        panel: tuple[Value, Value],
        columns: tuple[Number, Number],
        steps: tuple[Number, Number],
        rows: Part | None,
        _: int,
    ) -> None:
        """The same panel as f32, for all rows."""
        emitter, f, width = self.emitter, self.f, self.packing.width
        deep = f.multiply(steps[1], self.steps(self.over[1:]))
        with emitter.scratch():
            x = emitter.allot((emitter.bound(self.over) + TURN) * width, "f32")
            name = unpack_kernel(f.module, form, vector_lanes(emitter.target), width)
            f.run(name, [("ptr", panel[0]), ("ptr", panel[1]), ("ptr", x), ("i64", deep)])
            self.tiles(env, x, columns, steps, rows)

    def panels(self, memory: Value | None) -> None:
        """One panel after the other against all rows, packed in `memory` or where it lies."""

        def other(env: Env) -> None:
            def panel(column: Number, columns: Number) -> None:
                def some(begin: Number, count: Number) -> None:
                    if memory is not None:
                        self.packing.pack(env, memory, (column, columns), (begin, count))
                    self.tiles(env, memory, (column, columns), (begin, count), None)

                self.each_block(some)

            self.emitter.each_panel(self.sides.vector, self.packing.width, panel)

        self.emitter.loops(self.others, self.env, other)

    def each_block(self, body: Callable[[Number, Number], None], whole: bool = False) -> None:
        """Call with (first position, positions) of the first axis of k."""
        length = self.emitter.frame.length(self.over[0])
        if whole or (size := self.block_of_steps()) is None:
            body(0, length)
        else:
            pieces(self.f, length, size, body)

    def steps(self, over: tuple[Axis, ...]) -> Number:
        """Steps of k of these axes."""
        total: Number = 1
        for axis in over:
            total = self.f.multiply(total, self.emitter.frame.length(axis))
        return total

    # -- tiles

    def tiles(
        self,
        env: Env,
        x: Value | None,
        columns: tuple[Number, Number],
        steps: tuple[Number, Number],
        rows: Part | None,
        after: Value | None = None,
        apart: Number = 0,
    ) -> None:
        """A panel, or several side by side, against the rows of a block, or all; `after`: the
        panel that comes next, `apart`: elements from each to the next."""
        # long: all that tells tiles from each other
        target, wide, width = self.emitter.target, columns[1], self.packing.width
        lanes = vector_lanes(target)
        panels = wide // width if isinstance(wide, int) and wide > width else 1
        count = tile_vectors(target, width) * panels
        full = False
        if isinstance(wide, int) and target.lanes > 1:
            count = min(count, -(-wide // lanes))
            full = wide == count * lanes
        full |= x is not None and self.place.room == self.sides.vector
        more = self.emitter.either_number(steps[0], self.accumulate)
        ways = 2 if self.emitter.bound(self.sides.rows) == 1 and self.beside == 1 else 1
        unit = self.s.strides.get(self.over[-1]) == 1
        laid = x is not None or (
            full and self.x is not None and self.x.strides[self.over[-1]] == width
        )
        depth, dtype = len(self.over), self.packing.dtype
        ahead = self.ahead(laid, full, after) if panels == 1 else 0
        step = width if laid and not (full and ahead == "panel") else 0
        if ahead == "panel" and not (laid and self.emitter.bound(self.over) > PIECE):
            after = None
        table = self.table is not None
        outer, piece = self.piece(steps[1], self.aim * ways)

        def name(size: int) -> str:
            shape = size, count, step, depth, unit, full, ways, outer, panels, ahead, table
            return tile_kernel(self.f.module, Tile(self.kind, dtype, lanes, *shape))

        def arguments(at: Env, size: Number) -> list[Argument]:
            at = {**at, self.sides.vector: Index(columns[0]), self.over[0]: Index(steps[0])}
            at |= {axis: Index(0) for axis in self.over[1:]}
            count = self.visible(at, size, steps)
            given = self.arguments(at, x, wide, (count, piece), more)
            given += [("i64", apart)] * (panels > 1)
            if isinstance(ahead, int):
                return given
            return given + self.asked(after, at, size, steps[1], rows)

        behind = self.finishing(columns, steps)
        tall = tile_rows(target, count) if panels == 1 else self.emitter.bound(self.sides.rows)
        self.rows(env, tall, name, arguments, rows, behind)

    def visible(self, at: Env, size: Number, steps: tuple[Number, Number]) -> Number:
        """Of some steps, those that a tile's rows see: of what a mask hides nothing is added."""
        emitter, f, row = self.emitter, self.f, self.row
        begin, count = steps
        if emitter.sight is None or row in emitter.merged_axes:
            return count
        horizon, axis = emitter.sight
        if (row, self.over) != (axis, (horizon.axis,)) or horizon.axis in emitter.merged_axes:
            return count
        end = emitter.visible(horizon, axis, f.add(at[axis].base, size))
        end = f.multiply(f.ceil_divide(end, UNROLLED), UNROLLED)
        return f.maximum(f.subtract(f.minimum(end, f.add(begin, count)), begin), 0)

    def piece(self, steps: Number, aim: int) -> tuple[int, Number]:
        """(an axis of k, positions of it in a piece of a sum), for a piece of about `aim` steps.
        The axes outside have lengths that are known, so that there is one."""
        emitter, over = self.emitter, self.over
        lengths = [steps, *(emitter.frame.length(axis) for axis in over[1:])]
        outer, inside = 0, emitter.bound(over[1:])
        while inside > aim and isinstance(lengths[outer], int):
            outer += 1
            inside //= emitter.frame.bounds[over[outer]]
        most = emitter.frame.bounds[over[outer]]
        if outer == 0:  # the same for a block of steps and for all of them at once
            most = self.block_of_steps() or most
        if self.kind not in FLOATS:
            return outer, most
        pieces = max(1, round(most * inside / aim))
        each = -(-most // pieces)
        return outer, -(-each // UNROLLED) * UNROLLED if outer == len(over) - 1 else each

    def ahead(self, laid: bool, full: bool, after: Value | None) -> Ahead:
        """What a tile asks memory for: its part of the panel behind this one, if there is one; if
        it takes all rows, its own panel. A single row waits for nothing but memory, which the
        processor asks for in time; so it does for panels side by side, and for short ones, one
        behind the other. With few registers rows of S are not asked for: some processors bring
        whatever is into the first cache, where rows a multiple of 4 KB apart would push out those
        that are read. There one kind of full tiles serves all, of which some ask for no lines."""
        target = self.emitter.target
        if self.row is None or target.lanes == 1 or not (laid or full):
            return 0
        if self.once:
            return AHEAD if laid and after is not None else 0
        if target.registers >= 32:
            return "next" if laid else 0
        return "panel"

    def asked(
        self, after: Value | None, at: Env, size: Number, steps: Number, rows: Part | None
    ) -> list[Argument]:
        """A tile's part of the panel behind this one."""
        f, row = self.f, self.row
        assert row is not None
        if after is None:
            return [("ptr", NOWHERE), ("i64", 0)]
        first, many = at[row].base, self.emitter.frame.length(row)
        if rows is not None and rows[0] == row:
            first, many = f.subtract(first, rows[1]), rows[2]
        each = self.packing.width * BYTES[self.packing.stored]
        lines = f.ceil_divide(f.multiply(size, each * UNROLLED // LINE), many)
        whole = f.multiply(f.multiply(steps, self.steps(self.over[1:])), each // LINE)
        passed = f.ceil_divide(f.multiply(whole, first), many)
        return [("ptr", f.at(after, f.multiply(passed, LINE))), ("i64", lines)]

    def arguments(
        self, at: Env, x: Value | None, columns: Number, steps: tuple[Number, Number], more: Number
    ) -> list[Argument]:
        """Of one register tile; `steps`: positions of the first axis of k, and those of a piece."""
        emitter, last = self.emitter, self.over[-1]
        stride: Number = self.packing.width
        if x is None:
            assert self.x is not None
            x, stride = emitter.base(self.x, at), self.x.strides[last]
        given: list[Argument] = [("ptr", x), ("i64", stride)]
        given += [("ptr", emitter.base(self.s, at))]
        if self.table is None:
            given += [("i64", self.row_stride(self.s))]
        else:
            assert self.row is not None
            given += [("ptr", self.f.at(self.table.place, at[self.row].base, "i64"))]
        for axis in self.over:
            length = steps[0] if axis == self.over[0] else emitter.frame.length(axis)
            given += [("i64", length), ("i64", self.s.strides[axis])]
        given += [("i64", steps[1])]
        given += [("ptr", emitter.base(self.place, at)), ("i64", self.row_stride(self.place))]
        return [*given, ("i64", columns), ("i64", more)]

    def finishing(
        self, columns: tuple[Number, Number], steps: tuple[Number, Number]
    ) -> Callable[[Env, Number], None] | None:
        """What calls for rows of a tile, behind `steps` of k, what becomes of complete sums."""
        f, emitter, after = self.f, self.emitter, self.after
        if after is None:
            return None
        length, end = emitter.frame.length(self.over[0]), f.add(*steps)
        width, wide = self.packing.width, columns[1]
        each = min(width, wide) if isinstance(wide, int) else wide
        finish = after.finish(self.row, self.sides.vector, width, each)
        name = finish.kernel(f.module, emitter.target)

        def call(at: Env, size: Number) -> None:
            if isinstance(wide, int) and wide > width:  # panels side by side
                first = columns[0]
                f.loop(0, wide, width, lambda i, _: part(at, size, f.add(first, i)))
            else:
                part(at, size, columns[0])

        def part(at: Env, size: Number, first: Number) -> None:
            at = {**at, self.sides.vector: Index(first)}
            given: list[Argument] = [("ptr", emitter.base(self.place, at))]
            given += [("i64", self.row_stride(self.place)), ("i64", size), ("i64", each)]
            for place in after.places.values():
                given += [("ptr", emitter.base(place, at)), ("i64", self.row_stride(place))]
            f.run(name, given)

        def last(at: Env, size: Number) -> None:
            if end == length:
                call(at, size)
            elif not (isinstance(end, int) and isinstance(length, int)):
                complete = f.compare("eq", number(end), number(length))
                f.when(complete, lambda: call(at, size))

        return last

    def row_stride(self, place: Place) -> Number:
        return place.strides.get(self.row, 0) if self.row else 0

    def rows(
        self,
        env: Env,
        tall: int,
        name: Callable[[int], str],
        arguments: Callable[[Env, Number], list[Argument]],
        block: Part | None,
        behind: Callable[[Env, Number], None] | None,
    ) -> None:
        """Calls for all rows, or those of a block: the kernel for so many, its arguments; what is
        done behind each."""
        row, emitter = self.row, self.emitter

        def call(code: str | Value, at: Env, size: Number) -> None:
            self.f.run(code, arguments(at, size))
            if behind is not None:
                behind(at, size)

        if row is None:
            call(name(1), env, 1)
            return
        tall = min(tall, emitter.frame.bounds[row])
        mine: tuple[Number, Number] = 0, emitter.frame.length(row)
        if block is not None and block[0] == row:
            mine = block[1:]

        def tiles(env: Env) -> None:
            cover(
                self.f, mine, tall, name, lambda code, i, n: call(code, {**env, row: Index(i)}, n)
            )

        others = [axis for axis in self.sides.rows if axis != row]
        if block is None or block[0] == row:
            emitter.loops(others, env, tiles)
            return
        lead, first, length = block
        rest = [axis for axis in others if axis != lead]
        self.f.loop(first, self.f.add(first, length), 1,
                    lambda i, _: emitter.loops(rest, {**env, lead: Index(i)}, tiles))  # fmt: skip

    # -- what fits caches

    @property
    def in_place(self) -> bool:
        """Whether panels can be read where X lies, and are used too seldom to be packed.

        Not in portable code: several narrow tiles would each go through all of X's pages.
        """
        x, emitter = self.x, self.emitter
        if x is None or len(self.over) != 1 or emitter.target.lanes == 1:
            return False
        if well_laid(x, self.sides.vector, self.over[0], emitter.target):
            return True
        seldom = emitter.bound(self.sides.rows) <= SELDOM
        return seldom and x.strides.get(self.sides.vector) == 1

    @property
    def beside(self) -> int:
        """Panels that a tile goes through side by side."""
        target = self.emitter.target
        vectors = tile_vectors(target, self.packing.width)
        return panels_beside(target, vectors, self.emitter.bound(self.sides.rows))

    @property
    def once(self) -> bool:
        """Whether one tile takes all rows: a panel is read only once."""
        return self.emitter.bound(self.sides.rows) <= self.tall

    def block_of_steps(self) -> int | None:
        """Positions of the first axis of k so that a panel fills half of the first cache, or a
        quarter of the second, if sums would end too often otherwise; None: it has no more."""
        emitter, lead, target = self.emitter, self.over[0], self.emitter.target
        length, inner = emitter.frame.bounds[lead], emitter.bound(self.over[1:])
        each = inner * self.packing.width * BYTES[self.packing.stored]
        most = target.first // 2 // each
        if most * inner < DEEP:
            most = max(1, target.second // 4 // each)
        if length <= most + most // 4:
            return None
        size = -(-length // -(-length // most))
        return -(-size // GROUPS[-1]) * GROUPS[-1] if len(self.over) == 1 else size

    def reach(self, axes: tuple[Axis, ...]) -> int | None:
        """Elements of S from the first position of axes to behind the last, if that is known."""
        found, bounds = 1, self.emitter.frame.bounds
        for axis in axes:
            step = self.s.strides.get(axis)
            if self.table is not None and axis == self.row:
                more = self.table.reach
            else:
                more = abs(step) * (bounds[axis] - 1) if isinstance(step, int) else None
            if more is None:
                return None
            found += more
        return found

    def block_of_rows(self, planes: int = 1) -> tuple[Axis, int] | None:
        """(an axis of rows, how many of its positions fill three eighths of the second cache);
        None: all rows do not. `planes`: numbers of S for each step of k."""
        if self.row is None:
            return None
        emitter, bounds = self.emitter, self.emitter.frame.bounds
        lead = next((axis for axis in self.sides.rows if axis != self.row), self.row)
        steps = emitter.bound(self.over)
        if (size := self.block_of_steps()) is not None:
            steps = steps // bounds[self.over[0]] * size
        numbers = emitter.bound(self.sides.rows) * steps
        if planes == 1 and (reach := self.reach((*self.sides.rows, *self.over))) is not None:
            numbers = min(numbers, reach * steps // emitter.bound(self.over))
        each = -(-numbers // bounds[lead]) * planes * BYTES[STORED[self.s.dtype]]
        most, tall = emitter.target.second * 3 // 8 // each, self.tall
        if lead == self.row:
            most = most // tall * tall
        most = max(most, tall if lead == self.row else 1)
        return None if bounds[lead] <= most + most // 4 else (lead, most)


def cover(
    f: Function,
    rows: tuple[Number, Number],
    tall: int,
    name: Callable[[int], str],
    call: Callable[[str | Value, Number, Number], None],
) -> None:
    """`call` with (kernel for so many rows, first row, rows): tiles as even as can be, or where the
    number of rows is known late, of `tall` and then of powers of two."""
    first, length = rows

    def strip(begin: int, end: int, size: int) -> None:
        if size and end - begin == size:
            call(name(size), f.add(first, begin), size)
        elif end > begin:
            f.loop(begin, end, size,
                   lambda i, _: call(name(size), f.add(first, i), size))  # fmt: skip

    if isinstance(length, int):
        count = -(-length // tall) or 1
        small, more = divmod(length, count)
        end = more * (small + 1)
        strip(0, end, small + 1)
        strip(end, length, small)
        return
    sizes = [tall if rest == tall else 1 << rest.bit_length() - 1 for rest in range(1, tall + 1)]
    heights = f.module.table("i64", sizes)
    kernels = f.module.table("ptr", [f"@{name(size)}" for size in sizes])

    def turn(row: Value, _: list[Value]) -> list[Value]:
        rest = f.subtract(f.minimum(f.subtract(length, row), tall), 1)
        size = f.load(f.at(heights, rest, "i64"), "i64")
        code = f.load(f.at(kernels, rest, "ptr"), "ptr")
        call(code, f.add(first, row), size)
        return [size]

    f.loop(0, length, None, turn)
