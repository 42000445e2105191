"""Contractions: sums of products over named axes, any strides, lengths known when they run.

One side, X, holds the axis that is contiguous in the result: it is read as vectors, the other
side, S, one number at a time. Three kernels do the work, shared by all contractions of a program:

tile    R x V registers of the result stay put while all of k streams past; X in packed panels
spread  rows of X, each times a number, are added to rows of the result: for few rows
dots    both sides contiguous along k: for few rows
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from infinisa.isa.language import Axis, Dot, Input, Map, Node, Reduce, View

from .expression import Env, Index, Place, rooted
from .functions import STORED, register
from .ir import BYTES, Function, Number, Value, constant, number
from .microkernels import dots_kernel, spread_kernel, tile_kernel, turn_kernel
from .roles import Sides, mergeable
from .rows import Rows

FEW_ROWS, SOME_ROWS = 4, 32
"""Up to so many rows memory is read as it lies, one step of k after the other; up to so many, a
panel would not be used often enough to pack it, if it can be read in place."""

DEEPEST = 1024
"""Steps of k after which a panel would leave the second cache."""

STRIP = 4096
"""Columns of a few rows of the result that stay in the first cache while k goes by."""

TOGETHER = 1 << 17
"""Numbers in panels that all rows pass by together: half of a second cache of 1 MB. Each row of S
is read once for all of them."""

PORTABLE_LANES, PORTABLE_ROWS, PORTABLE_PANEL = 16, 6, 64
"""The register tile of code that knows no processor: 6 rows of one vector, which LLVM splits where
registers are narrower (into 12 of the 16 of AVX2). A panel has several tiles side by side, which
find their rows of S in the first cache."""

ALIGNMENT = 64

_leaves = itertools.count()


class Contractions(Rows):
    """Emits contractions and allots scratch memory."""

    work: Value
    used = 0
    largest = 0

    # -- scratch

    @contextmanager
    def scratch(self) -> Iterator[None]:
        """Memory allotted inside is free again afterwards."""
        before = self.used
        yield
        self.used = before

    def allot(self, elements: int, dtype: str) -> Value:
        """Memory for so many elements."""
        found = self.f.at(self.work, self.used)
        size = (elements + 2 * self.target.lanes) * BYTES[STORED[dtype]]
        self.used += -(-size // ALIGNMENT) * ALIGNMENT
        self.largest = max(self.largest, self.used)
        return found

    def bound(self, axes: Sequence[Axis]) -> int:
        return math.prod(self.frame.bounds[axis] for axis in axes)

    def scratch_place(self, axes: Sequence[Axis], dtype: str) -> Place:
        """A tensor over these axes, the last contiguous, as large as they can be."""
        strides: dict[Axis, Number] = {}
        size = 1
        for axis in reversed(axes):
            strides[axis] = size
            size *= self.frame.bounds[axis]
        return Place(self.allot(size, dtype), dtype, strides)

    def packed_place(self, axes: Sequence[Axis], dtype: str) -> Place:
        """The same without gaps: strides follow from the lengths as they are."""
        strides: dict[Axis, Number] = {}
        size: Number = 1
        for axis in reversed(axes):
            strides[axis] = size
            size = self.f.multiply(self.frame.length(axis), size)
        return Place(self.allot(self.bound(axes), dtype), dtype, strides)

    # -- reading in place

    def direct(self, node: Node) -> Place | None:
        """Where a node already is in memory, perhaps under other strides."""
        if node in self.initials:
            return None
        if node in self.places:
            place = self.places[node]
            return None if place.borders else place
        if node in self.aliases:
            other, more = self.aliases[node]
            place_ = self.direct(other)
            if place_ is None:
                return None
            offset = sum_of(
                self.f, [(more[a].base, s) for a, s in place_.strides.items() if a in more]
            )
            kept = {a: s for a, s in place_.strides.items() if a not in more}
            return replace(rooted(place_, self.f, offset), strides=kept)
        if isinstance(node, View) and node.fill is None:
            inner = self.direct(node.x)
            return None if inner is None else self.seen_through(node, inner)
        return None

    def seen_through(self, node: View, inner: Place) -> Place | None:
        """The memory of a viewed tensor as the view shows it, if its indices are sums."""
        f, given = self.f, dict(node.index)
        if any(index.divide != 1 or index.modulo for index in given.values()):
            return None
        strides: dict[Axis, Number] = {}
        offset: Number = 0
        for axis, stride in inner.strides.items():
            if axis not in given:
                strides[axis] = f.add(strides.get(axis, 0), stride)
                continue
            index = given[axis]
            first: Number = index.offset
            for mover, step in index.terms:
                first = f.add(first, f.multiply(self.frame.starts.get(mover, 0), step))
                strides[mover] = f.add(strides.get(mover, 0), f.multiply(stride, step))
            first = f.subtract(first, self.frame.starts.get(axis, 0))
            offset = f.add(offset, f.multiply(first, stride))
        return replace(rooted(inner, f, offset), strides=strides)

    def base(self, place: Place, env: Env) -> Value:
        """The address at the axes that have a position."""
        pairs = [(env[a].base, s) for a, s in place.strides.items() if a in env]
        return rooted(place, self.f, sum_of(self.f, pairs)).pointer

    # -- one contraction

    def dot(self, node: Dot, place: Place, env: Env, accumulate: Number) -> None:
        """place = a . b, or place += a . b where `accumulate` is 1."""
        sides = self.sides(node, place, env)
        if sides is None:
            assert accumulate == 0, node
            self.reduce(as_reduce(node), place, env)
            return
        batch = [a for a in node.axes if a in node.a.axes and a in node.b.axes and a not in env]
        stored = [axis for axis in node.axes if axis not in env and axis not in batch]

        def each(at: Env) -> None:
            with self.scratch():
                self.contract(node, sides, place, at, accumulate)

        assert set(stored) == {*sides.rows, *sides.columns}
        with self.scope():
            self.loops(batch, env, each)

    def loops(self, axes: Sequence[Axis], env: Env, body: Callable[[Env], None]) -> None:
        """Plain loops, outermost first."""
        if not axes:
            body(env)
            return
        axis, *rest = axes

        def turn(index: Value, _: list[Value]) -> None:
            with self.scope():
                self.loops(rest, {**env, axis: Index(index)}, body)

        if self.frame.length(axis) == 1:
            self.loops(rest, {**env, axis: Index(0)}, body)
        else:
            self.f.loop(0, self.frame.length(axis), 1, turn)

    def sides(self, node: Dot, place: Place, env: Env) -> Sides | None:
        """The roles, or None where a fold of products serves better."""
        private = {
            side: tuple(a for a in side.axes if a in node.axes and a not in other.axes
                        and a not in env)
            for side, other in ((node.a, node.b), (node.b, node.a))
        }  # fmt: skip
        if node.a is node.b or register(node.dtype) == "i1":
            return None
        over = tuple(axis for axis in node.over if self.frame.lengths[axis] != 1)
        best: Sides | None = None
        for x, s in ((node.b, node.a), (node.a, node.b)):
            units = [axis for axis in private[x] if place.strides.get(axis) == 1]
            for vector in sorted(units, key=lambda a: -self.frame.bounds[a])[:1]:
                found = Sides(x, s, vector, private[x], private[s], over)
                if best is None or self.frame.bounds[vector] > self.frame.bounds[best.vector]:
                    best = found
        return best if over else None

    def contract(self, node: Dot, sides: Sides, place: Place, env: Env, accumulate: Number) -> None:
        frame = self.frame
        before = dict(frame.lengths), dict(frame.bounds)
        fixed = [axis for axis in node.over if axis not in sides.over]
        fixed += [a for a in (*sides.rows, *sides.columns) if frame.lengths[a] == 1]
        for axis in fixed:
            sides = sides if axis == sides.vector else sides.without(axis)
        env = {**env, **{axis: Index(0) for axis in fixed if axis != sides.vector}}
        sides, place = self.merged(sides, place)
        self.choose(node, sides, place, env, accumulate)
        frame.lengths, frame.bounds = before

    def merged(self, sides: Sides, place: Place) -> tuple[Sides, Place]:
        """The same contraction over fewer axes, where operands walk several as one.

        An operand that lies in memory becomes an input over the axes that are left.
        """
        frame = self.frame
        nodes = (sides.x, sides.s)
        places = [place, *(self.direct(node) for node in nodes)]
        closed = frozenset(
            axis
            for node, found in zip(nodes, places[1:], strict=True)
            if found is None
            for axis in node.axes
        )
        strides = [dict(found.strides) if found else {} for found in places]
        while pair := mergeable(sides, strides, closed, frame.lengths):
            outer, inner = pair
            frame.lengths[inner] = self.f.multiply(frame.lengths[inner], frame.lengths[outer])
            frame.bounds[inner] *= frame.bounds[outer]
            for given in strides:
                given.pop(outer, None)
            sides = sides.without(outer)
        made = []
        for node, found, given in zip(nodes, places[1:], strides[1:], strict=True):
            leaf = node
            if found is not None:
                leaf = Input(f"#{next(_leaves)}", tuple(given), found.dtype)
                self.places[leaf] = replace(found, strides=given)
            made.append(leaf)
        return replace(sides, x=made[0], s=made[1]), replace(place, strides=strides[0])

    def choose(self, node: Dot, sides: Sides, place: Place, env: Env, accumulate: Number) -> None:
        """The kernel that fits the strides and the number of rows."""
        x, s = self.direct(sides.x), self.direct(sides.s)
        kind = register(node.dtype)
        few = self.bound(sides.rows) <= FEW_ROWS
        last = self.contiguous(x, sides)
        along = few and last is not None and self.frame.bounds[last] >= 2 * self.target.lanes
        if along and last is not None and x is not None:
            if s is None or s.strides.get(last) != 1:
                over = [axis for axis in sides.over if axis != last]
                s = self.pack(sides.s, (*sides.rows, *over, last), node.dtype, env)
            self.dots(Job(self, kind, sides, place, x, s, env), last, accumulate)
            return
        ready = few and x is not None and x.strides.get(sides.vector) == 1
        flat = ready or len(sides.over) == 1
        if s is None or STORED[s.dtype] != kind or not flat:
            s = self.pack(sides.s, (*sides.rows, *sides.over), node.dtype, env)
        elif not few and self.crosswise(s, sides):
            s = self.turned(s, sides, node.dtype, env)
        job = Job(self, kind, sides, place, x, s, env)
        if ready:
            self.spread(job, accumulate)
        else:
            self.panels(job, node.dtype, accumulate, spread=few)

    def contiguous(self, x: Place | None, sides: Sides) -> Axis | None:
        """An axis of k along which X is contiguous."""
        if x is None:
            return None
        return next((axis for axis in sides.over if x.strides.get(axis) == 1), None)

    def pack(self, node: Node, axes: Sequence[Axis], dtype: str, env: Env) -> Place:
        """A side copied into scratch, widened, the last axis contiguous, without gaps."""
        place = self.packed_place(axes, dtype)
        self.fill(node, place, axes, env)
        return place

    # -- spread

    def spread(self, job: Job, accumulate: Number) -> None:
        """X where it is. Without vectors of our own the compiler makes some of the inner loop."""
        x, f, vector = job.x, self.f, job.sides.vector
        assert x is not None
        inner = max(job.sides.over, key=lambda axis: self.frame.bounds[axis])
        outer = [axis for axis in job.sides.over if axis != inner]
        others = [axis for axis in job.sides.columns if axis != vector]
        self.clear(job, accumulate)
        name = self.micro_spread(job.kind, x.dtype)
        length, depth = self.frame.length(vector), self.frame.length(inner)

        def part(first: Value, env: Env) -> None:
            columns = f.minimum(f.subtract(length, first), STRIP)

            def call(at: Env, rows: int) -> None:
                at = {**at, vector: Index(first), inner: Index(0)}
                job.call(name(rows), x, at, inner, depth, columns)

            self.row_tiles(job, env, 4, call)

        def each(env: Env) -> None:
            f.loop(0, length, STRIP, lambda first, _: part(first, env))

        self.loops([*others, *outer], job.env, each)

    def clear(self, job: Job, accumulate: Number) -> None:
        """Zeros in the result, unless it accumulates."""
        f = self.f
        axes = [*job.sides.rows, *job.sides.columns]

        def clean() -> None:
            vector = job.sides.vector if self.target.lanes > 1 else None
            order = self.order(axes, job.place, vector)
            nothing = constant(job.kind, 0)
            with self.scope():
                self.nest(order, vector, [], job.env, lambda at: self.store(nothing, job.place, at))

        if accumulate == 0:
            clean()
        elif accumulate != 1:
            f.when(f.compare("eq", number(accumulate), constant("i64", 0)), clean)

    # -- panels

    def panels(self, job: Job, dtype: str, accumulate: Number, spread: bool) -> None:
        """X packed into panels of a few vectors, as many as stay cached while all rows pass by."""
        f, frame, sides = self.f, self.frame, job.sides
        length: Number = 1
        for axis in sides.over:
            length = f.multiply(length, frame.length(axis))
        job = replace(job, depth=length)
        if spread:
            self.clear(job, accumulate)
            accumulate = 1
        made = self.laid_out(job, dtype, spread)

        def groups(env: Env) -> None:
            def group(first: Value, begin: Number, steps: Number) -> None:
                more = accumulate if begin == 0 else self.either_number(begin, accumulate)
                with self.scope():
                    made.pack(env, first, begin, steps)
                    made.multiply(env, first, begin, steps, more)

            def column(first: Value, _: list[Value]) -> None:
                if not made.blocked:
                    group(first, 0, job.depth)
                    return

                def block(begin: Value, _: list[Value]) -> None:
                    group(first, begin, f.minimum(f.subtract(job.depth, begin), made.deep))

                f.loop(0, job.depth, made.deep, block)

            f.loop(0, frame.length(sides.vector), made.width * made.together, column)

        self.loops([axis for axis in sides.columns if axis != sides.vector], job.env, groups)

    def laid_out(self, job: Job, dtype: str, spread: bool) -> Panels:
        """How wide and deep the panels of a contraction are, how many there are, who reads them."""
        sides, bounds = job.sides, self.frame.bounds
        columns = bounds[sides.vector]
        count, tall = self.tile_shape(columns)
        width = 256 if spread else self.panel_width(count, columns)
        blocked = len(sides.over) == 1 and bounds[sides.over[0]] > DEEPEST
        ready = not spread and not blocked and self.in_place(job)
        deep = DEEPEST // 2 if blocked else self.bound(sides.over)
        together = min(max(1, TOGETHER // (deep * width)), -(-columns // width))
        if spread:
            name, tall = self.micro_spread(job.kind, dtype), 4
        else:
            name = self.micro_tile(job.kind, count, masked=ready and not self.even(job, width))
        memory = self.allot(deep * width * together, dtype)
        turned = not spread and self.turnable(job)
        return Panels(job, dtype, memory, width, deep, together, name, tall, blocked, turned, ready)

    def fill_panel(
        self,
        job: Job,
        place: Place,
        env: Env,
        columns: tuple[Number, Number],
        steps: tuple[Number, Number] | None,
    ) -> None:
        """A panel of whatever X is: (first, number) of its columns, and of its steps of k."""
        sides = job.sides
        with self.part(sides.vector, *columns):
            if steps is None:
                self.fill(sides.x, place, (*sides.over, sides.vector), env)
                return
            with self.part(sides.over[0], *steps):
                self.fill(sides.x, place, (*sides.over, sides.vector), env)

    def in_place(self, job: Job) -> bool:
        """Whether panels can be read where X lies, and are used too seldom to be packed.

        Not in portable code: several narrow tiles would each go through all of X's pages.
        """
        x, over = job.x, job.sides.over
        if x is None or len(over) != 1 or self.target.lanes == 1:
            return False
        seldom = self.bound(job.sides.rows) <= SOME_ROWS
        return seldom and x.strides.get(job.sides.vector) == 1 and STORED[x.dtype] == job.kind

    def even(self, job: Job, width: int) -> bool:
        """Whether all panels are full."""
        length = self.frame.length(job.sides.vector)
        return isinstance(length, int) and length % width == 0

    def turnable(self, job: Job) -> bool:
        """Whether X lies in memory with k contiguous, not the panel's axis."""
        over, x = job.sides.over, job.x
        if x is None or len(over) != 1:
            return False
        stride = x.strides.get(job.sides.vector)
        wide = BYTES[job.kind] == 4 and self.frame.bounds[over[0]] >= self.tile_lanes
        return x.strides.get(over[0]) == 1 and isinstance(stride, int) and stride > 1 and wide

    def turn(
        self,
        kind: str,
        x: Place,
        across: Axis,
        env: Env,
        into: tuple[Value, Number],
        lengths: tuple[Number, Number],
    ) -> None:
        """panel[step][column] of an x that has its steps contiguous, its columns along `across`.

        Squares are transposed in registers. `into`: (panel, width); `lengths`: (steps, columns).
        """
        name = turn_kernel(self.f.module, kind, x.dtype, self.tile_lanes)
        self.f.run(name, [
            ("ptr", self.base(x, env)), ("i64", x.strides[across]), ("ptr", into[0]),
            ("i64", into[1]), ("i64", lengths[0]), ("i64", lengths[1]),
        ])  # fmt: skip

    def crosswise(self, s: Place, sides: Sides) -> bool:
        """Whether S has a row contiguous, not k, and each number of it is read again and again.

        Each tile of a panel then reads as many lines of memory as it takes steps.
        """
        if len(sides.over) != 1 or len(sides.rows) != 1 or self.target.lanes > 1:
            return False
        (row,), (over,), bounds = sides.rows, sides.over, self.frame.bounds
        stride = s.strides.get(over)
        long = min(bounds[sides.vector], bounds[row], bounds[over]) > PORTABLE_LANES
        wide = BYTES[STORED[s.dtype]] == 4
        return s.strides.get(row) == 1 and isinstance(stride, int) and stride > 1 and long and wide

    def turned(self, s: Place, sides: Sides, dtype: str, env: Env) -> Place:
        """Such an S in scratch, k contiguous; behind each row there is room for whole squares."""
        (row,), (over,), frame, lanes = sides.rows, sides.over, self.frame, self.tile_lanes
        steps, columns = frame.length(row), frame.length(over)
        width = self.f.multiply(self.f.ceil_divide(columns, lanes), lanes)
        room = -(-frame.bounds[over] // lanes) * lanes * frame.bounds[row]
        place = Place(self.allot(room, dtype), dtype, {row: width, over: 1})
        self.turn(register(dtype), s, over, env, (place.pointer, width), (steps, columns))
        return place

    def either_number(self, begin: Number, accumulate: Number) -> Number:
        """1 behind the first block of k, whatever the contraction itself does."""
        f = self.f
        later = f.compare("sgt", number(begin), constant("i64", 0))
        return f.select(later, constant("i64", 1), number(accumulate))

    def panel_place(
        self, job: Job, panel: Value, dtype: str, width: int, first: Number, begin: Number
    ) -> Place:
        """[k][width], addressed by positions on the whole axes."""
        strides: dict[Axis, Number] = {job.sides.vector: 1}
        size: Number = width
        for axis in reversed(job.sides.over):
            strides[axis] = size
            size = self.f.multiply(size, self.frame.length(axis))
        offset = self.f.add(first, self.f.multiply(begin, width))
        place = Place(panel, dtype, strides)
        return rooted(place, self.f, self.f.subtract(0, offset))

    @contextmanager
    def part(self, axis: Axis, first: Number, length: Number) -> Iterator[None]:
        """Loops over the axis take only these positions."""
        frame = self.frame
        before = frame.lengths[axis], frame.firsts.get(axis, 0)
        frame.lengths[axis], frame.firsts[axis] = length, first
        yield
        frame.lengths[axis], frame.firsts[axis] = before

    def tile_shape(self, columns: int) -> tuple[int, int]:
        """(vectors, rows) of the register tile: least waste at the end, then the widest."""
        lanes, registers = self.target.lanes, self.target.registers
        if lanes == 1:
            return 1, PORTABLE_ROWS
        vectors = -(-columns // lanes)
        widest = 4 if registers >= 32 else 2
        count = min(range(1, widest + 1), key=lambda n: (-(-vectors // n) * n, -n))
        if vectors > 8 * widest:
            count = widest
        return count, min((registers - count - 1) // count, 12)

    def panel_width(self, count: int, columns: int) -> int:
        """Columns of a panel: one tile's, or in portable code several."""
        if self.target.lanes > 1:
            return count * self.target.lanes
        return min(PORTABLE_PANEL, -(-columns // PORTABLE_LANES) * PORTABLE_LANES)

    @property
    def tile_lanes(self) -> int:
        """Lanes of the vectors of a register tile."""
        return self.target.lanes if self.target.lanes > 1 else PORTABLE_LANES

    def row_tiles(self, job: Job, env: Env, tall: int, call: Callable[[Env, int], None]) -> None:
        """Calls for all rows: tiles of `tall`, and the rest in powers of two."""
        f, rows = self.f, job.sides.rows
        if not rows:
            call(env, 1)
            return
        row = max(rows, key=lambda axis: self.frame.bounds[axis])
        bound, length = self.frame.bounds[row], self.frame.length(row)
        tall = min(tall, bound)

        def tiles(env: Env) -> None:
            full = f.whole(length, tall)
            if full == tall:
                call({**env, row: Index(0)}, tall)
            elif full != 0:
                f.loop(0, full, tall, lambda i, _: call({**env, row: Index(i)}, tall))
            rest, done = f.subtract(length, full), full
            size = 1 << ((tall - 1).bit_length() - 1) if tall > 1 else 0
            while size and rest != 0:
                rest, done = self.rest_tile(size, rest, done, env, row, call)
                size //= 2

        self.loops([axis for axis in rows if axis != row], env, tiles)

    def rest_tile(
        self,
        size: int,
        rest: Number,
        done: Number,
        env: Env,
        row: Axis,
        call: Callable[[Env, int], None],
    ) -> tuple[Number, Number]:
        """One tile of `size` rows if so many are left: (what is left, rows done)."""
        f = self.f
        if isinstance(rest, int):
            if rest < size:
                return rest, done
            call({**env, row: Index(done)}, size)
            return rest - size, f.add(done, size)
        some = f.compare("sge", rest, constant("i64", size))
        f.when(some, lambda: call({**env, row: Index(done)}, size))
        taken = f.select(some, constant("i64", size), constant("i64", 0))
        return f.subtract(rest, taken), f.add(done, taken)

    # -- dots

    def dots(self, job: Job, last: Axis, accumulate: Number) -> None:
        """A vector of products for each number of the result, folded at the end."""
        f, sides, place, x = self.f, job.sides, job.place, job.x
        assert x is not None
        outer = [axis for axis in sides.over if axis != last]
        others = [axis for axis in sides.columns if axis != sides.vector]
        if outer:
            self.clear(job, accumulate)
            accumulate = 1
        length = self.frame.length(sides.vector)
        most = min(self.bound(sides.rows), FEW_ROWS) if sides.rows else 1

        def tile(env: Env, tall: int) -> None:
            name = self.micro_dots(job.kind, x.dtype, job.s.dtype, tall)

            f.run(name, [
                ("ptr", self.base(x, env)), ("i64", x.strides[sides.vector]),
                ("ptr", self.base(job.s, env)), ("i64", job.row_stride(job.s)),
                ("ptr", self.base(place, env)), ("i64", job.row_stride(place)),
                ("i64", self.frame.length(last)), ("i64", length), ("i64", accumulate),
            ])  # fmt: skip

        def each(env: Env) -> None:
            self.row_tiles(job, env, most, tile)

        self.loops([*others, *outer], job.env, each)

    # -- kernels

    def micro_tile(self, kind: str, count: int, masked: bool = False) -> Callable[[int], str]:
        def name(rows: int) -> str:
            return tile_kernel(self.f.module, kind, self.tile_lanes, (rows, count), masked)

        return name

    def micro_spread(self, kind: str, dtype: str) -> Callable[[int], str]:
        def name(rows: int) -> str:
            return spread_kernel(self.f.module, kind, dtype, self.target.lanes, rows)

        return name

    def micro_dots(self, kind: str, x: str, s: str, rows: int) -> str:
        return dots_kernel(self.f.module, kind, (x, s), self.target.lanes, rows)


@dataclass(frozen=True)
class Job:
    """A contraction under way: where its sides and its result are, and the loops around it."""

    emitter: Contractions
    kind: str
    sides: Sides
    place: Place
    x: Place | None
    s: Place
    env: Env
    depth: Number = 0

    @property
    def row(self) -> Axis | None:
        """The axis whose rows a tile takes; other axes of S are loops."""
        rows, bounds = self.sides.rows, self.emitter.frame.bounds
        return max(rows, key=lambda axis: bounds[axis]) if rows else None

    def row_stride(self, place: Place) -> Number:
        return place.strides.get(self.row, 0) if self.row else 0

    def call(
        self,
        name: str,
        x: Place,
        env: Env,
        inner: Axis | None,
        steps: Number,
        columns: Number,
        accumulate: Number = 1,
        width: int = 0,
    ) -> None:
        """Call a kernel; `inner` is the axis it runs along, None: all of k, without gaps."""
        emitter, last = self.emitter, inner or self.sides.over[-1]
        emitter.f.run(name, [
            ("ptr", emitter.base(x, env)), ("i64", width or x.strides[last]),
            ("ptr", emitter.base(self.s, env)), ("i64", self.row_stride(self.s)),
            ("i64", self.s.strides[last]),
            ("ptr", emitter.base(self.place, env)), ("i64", self.row_stride(self.place)),
            ("i64", steps), ("i64", columns), ("i64", accumulate),
        ])  # fmt: skip


@dataclass(frozen=True)
class Panels:
    """Panels of X: `together` of them, one behind the other in `memory`, each [deep][width].

    name     the kernel for a number of rows; it takes at most `tall`
    blocked  panels hold a part of k at a time
    turned   X has k contiguous
    ready    nothing is packed: the kernel reads X where it is
    """

    job: Job
    dtype: str
    memory: Value
    width: int
    deep: int
    together: int
    name: Callable[[int], str]
    tall: int
    blocked: bool
    turned: bool
    ready: bool

    def each(self, group: Value, body: Callable[[Value, Number, Value], None]) -> None:
        """Call with (first column, number of columns, memory) of the panels of a group."""
        emitter, sides = self.job.emitter, self.job.sides
        f, end = emitter.f, emitter.frame.length(sides.vector)
        even = emitter.even(self.job, self.width)

        def panel(first: Value, _: list[Value]) -> None:
            columns = self.width if even else f.minimum(f.subtract(end, first), self.width)
            offset = f.multiply(f.subtract(first, group), self.deep) if self.together > 1 else 0
            with emitter.scope():
                body(first, columns, f.at(self.memory, offset, self.job.kind))

        if self.together == 1:
            panel(group, [])
        else:
            last = f.minimum(f.add(group, self.width * self.together), end)
            f.loop(group, last, self.width, panel)

    def pack(self, env: Env, group: Value, begin: Number, steps: Number) -> None:
        """A group of panels, `steps` of k from `begin`."""
        job, sides = self.job, self.job.sides
        emitter, x = job.emitter, job.x

        def one(first: Value, columns: Number, memory: Value) -> None:
            if self.turned and x is not None:
                at = {**env, sides.vector: Index(first), sides.over[0]: Index(begin)}
                into, lengths = (memory, self.width), (steps, columns)
                emitter.turn(job.kind, x, sides.vector, at, into, lengths)
            else:
                part = (begin, steps) if self.blocked else None
                place = emitter.panel_place(job, memory, self.dtype, self.width, first, begin)
                emitter.fill_panel(job, place, env, (first, columns), part)

        if not self.ready:
            self.each(group, one)

    def multiply(
        self, env: Env, group: Value, begin: Number, steps: Number, accumulate: Number
    ) -> None:
        """A group of panels against all rows: each tile of rows against one panel after another."""
        job, sides = self.job, self.job.sides

        def tile(env: Env, tall: int) -> None:
            def one(first: Value, columns: Number, memory: Value) -> None:
                at = {**env, sides.vector: Index(first)}
                if self.blocked:
                    at = {**at, sides.over[0]: Index(begin)}
                if self.ready and job.x is not None:
                    inner = sides.over[0]
                    job.call(self.name(tall), job.x, at, inner, steps, columns, accumulate)
                else:
                    x = Place(memory, self.dtype, {})
                    job.call(self.name(tall), x, at, None, steps, columns, accumulate, self.width)

            self.each(group, one)

        job.emitter.row_tiles(job, env, self.tall, tile)


def as_reduce(node: Dot) -> Reduce:
    """A contraction as a fold of products."""
    product = Map("multiply", (node.a, node.b))
    return Reduce("sum", product, node.over)


def sum_of(f: Function, pairs: Sequence[tuple[Number, Number]]) -> Number:
    total: Number = 0
    for a, b in pairs:
        total = f.add(total, f.multiply(a, b))
    return total
