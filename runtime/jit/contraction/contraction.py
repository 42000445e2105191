"""Contractions: sums of products over named axes, any strides, lengths known when they run.

One side, X, holds the axis that is contiguous in the result: it is read as vectors, the other
side, S, one number at a time. Three kernels do the work, shared by all contractions of a program:

tile    R x V registers of the result stay put while k streams past; X in panels (`panels.py`)
spread  rows of X, each times a number, are added to rows of the result: for few rows
dots    both sides contiguous along k: for few rows
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from infinisa.isa.language import (
    Axis,
    Cast,
    Constant,
    Dot,
    Immediate,
    Input,
    Map,
    Node,
    Reduce,
    View,
    walk,
)

from ..code.functions import STORED, register
from ..code.ir import BYTES, Argument, Function, Number, Value, constant, number
from ..code.processor import Target
from ..expressions.expression import Env, Frame, Index, Place, rooted
from ..expressions.masks import Horizon
from ..expressions.rows import CUT, Rows
from .dots import Dots, dots_kernel
from .finish import Following
from .microkernels import spread_kernel, turn_kernel
from .packing import Packing, panel_columns, pieces, spaced, vector_lanes, well_laid
from .padding import padded
from .panels import PIECE, Panels, cover
from .quantised import Format
from .roles import Sides, mergeable, one_run
from .weights import Kept, Layout, kept, pack_whole
from .winograd import Patches, planned

FEW_ROWS = 4
"""Up to so many rows memory is read as it lies, one step of k after the other."""

DOT_ROWS, LONG, AT_ONCE = 16, 16, 8
"""Up to so many rows if k is at least so many vectors, since folding those takes little then; so
many in one pass over the other side."""

STRIP = 4096
"""Columns of a few rows of the result that stay in the first cache while k goes by."""

ALIGNMENT = 64

SHORTER = 2.45
"""Pieces of sums are so much shorter for each axis of patches, of which results are differences."""

_leaves = itertools.count()


class Contractions(Rows):
    """Emits contractions and allots scratch memory.

    sight  how far rows see, if a mask hides what is beyond, and the axis of the rows
    """

    work: Value
    used = 0
    largest = 0

    def __init__(self, f: Function, target: Target, frame: Frame) -> None:
        super().__init__(f, target, frame)
        self.weights: Format | None = None
        self.packings: dict[int, Layout] = {}
        self.to_pack: set[Dot] = set()
        self.packed: dict[tuple[Dot, Axis], Kept] = {}
        self.merged_axes: dict[Axis, frozenset[Axis]] = {}
        self.sight: tuple[Horizon, Axis] | None = None

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
            return replace(rooted(place_, self.f, offset), strides=kept, weight=None)
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
        return replace(rooted(inner, f, offset), strides=strides, weight=None)

    def base(self, place: Place, env: Env) -> Value:
        """The address at the axes that have a position."""
        pairs = [(env[a].base, s) for a, s in place.strides.items() if a in env]
        return rooted(place, self.f, sum_of(self.f, pairs)).pointer

    # -- one contraction

    def dot(
        self, node: Dot, place: Place, env: Env, accumulate: Number, root: Node | None = None
    ) -> None:
        """place = a . b, or place += a . b where `accumulate` is 1; or what `root` makes of it,
        number by number."""
        sides = self.sides(node, place, env)
        if sides is None:
            assert accumulate == 0, node
            self.reduce(as_reduce(node), place, env)
            return
        batch = self.batch(node, env)
        stored = [axis for axis in node.axes if axis not in env and axis not in batch]

        def each(at: Env) -> None:
            with self.scratch():
                after = None if root is None else self.following(root, node, sides.vector)
                assert root is None or after is not None, root
                self.contract(node, sides, place, at, accumulate, after)

        assert set(stored) == {*sides.rows, *sides.columns}
        with self.scope():
            self.loops(batch, env, each)

    def batch(self, node: Dot, env: Env) -> list[Axis]:
        """The axes that both sides have, and the result."""
        return [a for a in node.axes if a in node.a.axes and a in node.b.axes and a not in env]

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

    def visible(self, horizon: Horizon, row: Axis, rows: Number) -> Number:
        """How many positions the first rows see; at least one."""
        f, starts = self.f, self.frame.starts
        end = f.add(starts.get(row, 0), f.add(rows, horizon.ahead))
        return f.maximum(f.subtract(end, starts.get(horizon.axis, 0)), 1)

    def each_panel(
        self, vector: Axis, width: int, body: Callable[[Number, Number], None], beside: int = 1
    ) -> None:
        """Call with (first column, number of columns) of panels along an axis; of so many
        `beside` each other as long as there are."""

        def panel(first: Number, columns: Number) -> None:
            with self.scope():
                body(first, columns)

        f, length, lanes = self.f, self.frame.length(vector), self.target.lanes
        if beside > 1 and self.frame.bounds[vector] >= width * beside:
            done = f.whole(length, width * beside)
            f.loop(0, done, width * beside, lambda first, _: panel(first, width * beside))
            rest = f.subtract(length, done)
            pieces(f, rest, width, lambda first, columns: panel(f.add(done, first), columns))
            return
        if vector not in self.cut or isinstance(length, int):
            pieces(f, length, width, panel)
            return
        full = f.whole(length, width)
        f.loop(0, full, width, lambda first, _: panel(first, width))
        rest = number(f.subtract(length, full))
        for columns in range(CUT * lanes, width, CUT * lanes):
            here = f.compare("eq", rest, constant("i64", columns))
            f.when(here, partial(panel, full, columns))

    def sides(self, node: Dot, place: Place, env: Env) -> Sides | None:
        """The roles, or None where a fold of products serves better."""
        private = self.private(node, env)
        if node.a is node.b or register(node.dtype) == "i1" or self.a_fold(node, private):
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

    def private(self, node: Dot, env: Env) -> dict[Node, tuple[Axis, ...]]:
        """The axes of the result that only one side has."""
        return {
            side: tuple(a for a in side.axes if a in node.axes and a not in other.axes
                        and a not in env)
            for side, other in ((node.a, node.b), (node.b, node.a))
        }  # fmt: skip

    def a_fold(self, node: Dot, private: Mapping[Node, Sequence[Axis]]) -> bool:
        """Whether a few products are added up, the numbers of one side only for vectors of the
        other: as of windows that go channel by channel. Tiles would have a single row."""
        alone = any(self.bound(axes) == 1 for axes in private.values())
        return alone and self.target.lanes > 1 and self.positions(as_reduce(node)) > 0

    def following(self, root: Node, node: Dot, vector: Axis | None) -> Following | None:
        """An expression that each tile can make of its sums: all else that it needs is in memory,
        vectors of it along `vector`, if there is one."""
        if root.dtype != node.dtype:
            return None
        places: dict[Node, Place] = {}
        for inner in walk([root], [node]):
            place = self.direct(inner) if isinstance(inner, Input) else None
            if place is not None:
                step = place.strides.get(vector, 1) if vector else 1
                if place.dtype != inner.dtype or step != 1:
                    return None
                places[inner] = place
            elif not isinstance(inner, Map | Cast | Constant | Immediate):
                return None
        return Following(root, node, places)

    def contract(
        self,
        node: Dot,
        sides: Sides,
        place: Place,
        env: Env,
        accumulate: Number,
        after: Following | None = None,
    ) -> None:
        """place = a . b, or place += a . b, and what follows: the way that takes least."""
        chosen = planned(self, node, sides, place, env, accumulate)
        if not chosen:
            self.summed(node, sides, place, env, accumulate, after)
            return

        def plainly() -> None:
            x = self.direct(sides.x)
            assert x is not None
            leaf = Input(f"#{next(_leaves)}", sides.x.axes, x.dtype)
            self.places[leaf] = replace(x, weight=None)
            with self.scope():
                self.summed(node, replace(sides, x=leaf), place, env, accumulate, after)

        Patches(self, node, sides, place, chosen, env, after).run(plainly)

    def summed(
        self,
        node: Dot,
        sides: Sides,
        place: Place,
        env: Env,
        accumulate: Number,
        after: Following | None,
    ) -> None:
        """The same as it is written."""
        frame = self.frame
        before = dict(frame.lengths), dict(frame.bounds)
        sides = replace(
            sides,
            x=padded(self, sides.x, sides.x.dtype, env, None),
            s=padded(self, sides.s, node.dtype, env, sides.over),
        )
        fixed = [axis for axis in node.over if axis not in sides.over]
        fixed += [a for a in (*sides.rows, *sides.columns) if frame.lengths[a] == 1]
        for axis in fixed:
            sides = sides if axis == sides.vector else sides.without(axis)
        at = {**env, **{axis: Index(0) for axis in fixed if axis != sides.vector}}
        after = self.spread_out(after, sides, place, at) if after else None
        sides, merged, after = self.merged(sides, place, after)
        finished = self.choose(node, sides, merged, at, accumulate, after)
        frame.lengths, frame.bounds = before
        if after and not finished:
            self.places[node] = place
            self.fill(after.root, place, node.axes, env)
            del self.places[node]

    def spread_out(self, after: Following, sides: Sides, place: Place, env: Env) -> Following:
        """With operands over columns, such as a bias of each channel, copied to every column where
        they alone keep columns from being walked as one."""
        found = [place, *filter(None, map(self.direct, (sides.x, sides.s)))]
        strides, closed = [each.strides for each in found], self.closed(sides)
        known = mergeable(sides, strides, closed, self.frame.lengths)
        runs = [run for run in known if run[0] in sides.columns]
        steps = {a: n for a, n in place.strides.items() if isinstance(n, int)}
        axes = sorted({axis for *pair, _ in runs for axis in pair}, key=lambda a: -steps[a])
        places = dict(after.places)
        for node, given in after.places.items():
            columns = {*given.strides} <= {*axes}
            if columns and not all(one_run(given.strides, *run) for run in runs):
                places[node] = self.pack(node, axes, given.dtype, env)
        return replace(after, places=places)

    def closed(self, sides: Sides) -> frozenset[Axis]:
        """The axes of operands that are still to be computed."""
        left = (node for node in (sides.x, sides.s) if self.direct(node) is None)
        return frozenset(axis for node in left for axis in node.axes)

    def merged(
        self, sides: Sides, place: Place, after: Following | None
    ) -> tuple[Sides, Place, Following | None]:
        """The same contraction over fewer axes, where operands walk several as one.

        An operand that lies in memory becomes an input over the axes that are left.
        """
        frame = self.frame
        nodes = (sides.x, sides.s)
        more = after.places if after else {}
        places = [place, *(self.direct(node) for node in nodes)]
        closed = self.closed(sides)
        strides = [dict(found.strides) if found else {} for found in (*places, *more.values())]
        self.merged_axes = {}
        while run := next(mergeable(sides, strides, closed, frame.lengths), None):
            outer, inner, _ = run
            groups = [self.merged_axes.get(axis, frozenset([axis])) for axis in (outer, inner)]
            self.merged_axes[inner] = groups[0] | groups[1]
            frame.lengths[inner] = self.f.multiply(frame.lengths[inner], frame.lengths[outer])
            frame.bounds[inner] *= frame.bounds[outer]
            for given in strides:
                given.pop(outer, None)
            sides = sides.without(outer)
        made = []
        for node, found, given in zip(nodes, places[1:], strides[1:3], strict=True):
            leaf = node
            if found is not None:
                leaf = Input(f"#{next(_leaves)}", tuple(given), found.dtype)
                self.places[leaf] = replace(found, strides=given)
            made.append(leaf)
        if after:
            pairs = zip(more.items(), strides[3:], strict=True)
            others = {node: replace(found, strides=given) for (node, found), given in pairs}
            after = replace(after, places=others)
        return replace(sides, x=made[0], s=made[1]), replace(place, strides=strides[0]), after

    def choose(
        self,
        node: Dot,
        sides: Sides,
        place: Place,
        env: Env,
        accumulate: Number,
        after: Following | None,
    ) -> bool:
        """The kernel that fits the strides and the number of rows; whether that does what follows
        too."""
        x, s = self.direct(sides.x), self.direct(sides.s)
        kind = register(node.dtype)
        if node in self.to_pack:
            width = panel_columns(self.target, self.frame.bounds[sides.vector])
            packing = Packing(self, sides.x, x, sides.vector, sides.over, node.dtype, width)
            self.packed[node, sides.vector] = pack_whole(packing, (), env)
            return False
        once = self.packed.get((node, sides.vector))
        loose = (x is None or x.weight is None) and not once
        few = loose and self.bound(sides.rows) <= FEW_ROWS
        last = self.contiguous(x, sides)
        if loose and last is not None and x is not None and self.worth_dots(sides, last):
            if s is None or s.strides.get(last) != 1:
                outer = [axis for axis in sides.over if axis != last]
                s = self.pack(sides.s, (*sides.rows, *outer, last), node.dtype, env)
            self.dots(Job(self, kind, sides, place, x, s, env), last, accumulate)
            return False
        if s is None or STORED[s.dtype] != kind:
            s = self.pack(sides.s, (*sides.rows, *sides.over), node.dtype, env)
        if few and x is not None and x.strides.get(sides.vector) == 1 and not self.narrow(sides):
            self.spread(Job(self, kind, sides, place, x, s, env), accumulate)
            return False
        over = innermost_last(s, sides.over)
        found = kept(self, x, sides, over, env)
        if found is not None and found[0].form and kind != "float":
            found = None
        panels, windows = once, len(x.weight.windows) if x and x.weight else 0
        assert found or not windows, node
        dtype, width = node.dtype, panel_columns(self.target, self.frame.bounds[sides.vector])
        if found is not None and x is not None and x.weight is not None:
            panels, layout = found
            dtype, width = layout.dtype, layout.width
            self.packings[x.weight.operand] = layout
        if not few and self.crosswise(s, sides) and (found is None or found[0].form):
            s = self.turned(s, sides, node.dtype, env)
        packing = Packing(self, sides.x, x, sides.vector, over, dtype, width)
        given = sides, over, place, x, s, kind, packing, env, accumulate, after
        Panels(self, *given, aim=int(PIECE / SHORTER**windows)).run(panels)
        return True

    def narrow(self, sides: Sides) -> bool:
        """Whether a register tile is as wide as X: it reads X in place, as it lies in memory."""
        most = self.frame.bounds[sides.vector]
        single = len(sides.over) == len(sides.columns) == 1
        return single and most <= panel_columns(self.target, most) and self.target.lanes > 1

    def pack_once(self, node: Dot, place: Place, env: Env) -> None:
        """Panels of X for all loops to come in which it is the same, unless it lies well."""
        sides = self.sides(node, place, env)
        if sides is None or self.batch(node, env):
            return
        x, single = self.direct(sides.x), len(sides.over) == len(sides.columns) == 1
        kept_already = x is not None and (
            x.weight is not None or well_laid(x, sides.vector, sides.over[0], self.target)
        )
        if single and not kept_already:
            self.to_pack.add(node)
            self.contract(node, sides, place, env, 0)
            self.to_pack.remove(node)

    def worth_dots(self, sides: Sides, last: Axis) -> bool:
        """Whether few enough rows meet enough steps of k."""
        rows, vectors = self.bound(sides.rows), self.frame.bounds[last] / self.target.lanes
        return vectors >= 2 and rows <= (DOT_ROWS if vectors >= LONG else FEW_ROWS)

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

            def arguments(at: Env, _: Number) -> list[Argument]:
                at = {**at, vector: Index(first), inner: Index(0)}
                return job.arguments(x, at, inner, depth, columns)

            job.tiles(env, 4, name, arguments)

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

    # -- packing

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
        name = turn_kernel(self.f.module, kind, x.dtype, vector_lanes(self.target))
        self.f.run(name, [
            ("ptr", self.base(x, env)), ("i64", x.strides[across]), ("ptr", into[0]),
            ("i64", into[1]), ("i64", lengths[0]), ("i64", lengths[1]),
        ])  # fmt: skip

    def crosswise(self, s: Place, sides: Sides) -> bool:
        """Whether S has a row contiguous, not k, and each number of it is read again and again.

        Each tile of a panel then reads as many lines of memory as it takes steps.
        """
        if len(sides.over) != 1 or len(sides.rows) != 1:
            return False
        (row,), (over,), bounds = sides.rows, sides.over, self.frame.bounds
        stride, lanes = s.strides.get(over), vector_lanes(self.target)
        long = min(bounds[sides.vector], bounds[row], bounds[over]) > lanes
        wide = BYTES[STORED[s.dtype]] == 4
        return s.strides.get(row) == 1 and isinstance(stride, int) and stride > 1 and long and wide

    def turned(self, s: Place, sides: Sides, dtype: str, env: Env) -> Place:
        """Such an S in scratch, k contiguous; behind each row there is room for whole squares."""
        (row,), (over,), frame, lanes = (
            sides.rows,
            sides.over,
            self.frame,
            vector_lanes(self.target),
        )
        steps, columns = frame.length(row), frame.length(over)
        width = self.f.multiply(self.f.ceil_divide(columns, lanes), lanes)
        most = -(-frame.bounds[over] // lanes) * lanes
        if isinstance(width, int):
            width = most = spaced(width, register(dtype))
        room = most * frame.bounds[row]
        place = Place(self.allot(room, dtype), dtype, {row: width, over: 1})
        self.turn(register(dtype), s, over, env, (place.pointer, width), (steps, columns))
        return place

    def either_number(self, begin: Number, accumulate: Number) -> Number:
        """1 behind the first block of k, whatever the contraction itself does."""
        f = self.f
        if isinstance(begin, int):
            return 1 if begin else accumulate
        later = f.compare("sgt", begin, constant("i64", 0))
        return f.select(later, constant("i64", 1), number(accumulate))

    @contextmanager
    def part(self, axis: Axis, first: Number, length: Number) -> Iterator[None]:
        """Loops over the axis take only these positions."""
        frame = self.frame
        before = frame.lengths[axis], frame.firsts.get(axis, 0)
        frame.lengths[axis], frame.firsts[axis] = length, first
        yield
        frame.lengths[axis], frame.firsts[axis] = before

    # -- dots

    def dots(self, job: Job, last: Axis, accumulate: Number) -> None:
        """A vector of products for each number of the result, folded at the end."""
        sides, place, x = job.sides, job.place, job.x
        assert x is not None
        outer = [axis for axis in sides.over if axis != last]
        others = [axis for axis in sides.columns if axis != sides.vector]
        if outer:
            self.clear(job, accumulate)
            accumulate = 1
        length = self.frame.length(sides.vector)
        most = min(self.bound(sides.rows), AT_ONCE) if sides.rows else 1

        name = partial(self.micro_dots, job.kind, x.dtype, job.s.dtype)

        def arguments(env: Env, _: Number) -> list[Argument]:
            return [
                ("ptr", self.base(x, env)), ("i64", x.strides[sides.vector]),
                ("ptr", self.base(job.s, env)), ("i64", job.row_stride(job.s)),
                ("ptr", self.base(place, env)), ("i64", job.row_stride(place)),
                ("i64", self.frame.length(last)), ("i64", length), ("i64", accumulate),
            ]  # fmt: skip

        def each(env: Env) -> None:
            job.tiles(env, most, name, arguments)

        self.loops([*others, *outer], job.env, each)

    # -- kernels

    def micro_spread(self, kind: str, dtype: str) -> Callable[[int], str]:
        def name(rows: int) -> str:
            return spread_kernel(self.f.module, kind, dtype, self.target.lanes, rows)

        return name

    def micro_dots(self, kind: str, x: str, s: str, rows: int) -> str:
        return dots_kernel(self.f.module, Dots(kind, (x, s), self.target.lanes, rows))


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

    @property
    def row(self) -> Axis | None:
        """The axis whose rows a tile takes; other axes of S are loops."""
        rows, bounds = self.sides.rows, self.emitter.frame.bounds
        return max(rows, key=lambda axis: bounds[axis]) if rows else None

    def row_stride(self, place: Place) -> Number:
        return place.strides.get(self.row, 0) if self.row else 0

    def arguments(
        self, x: Place, env: Env, inner: Axis, steps: Number, columns: Number
    ) -> list[Argument]:
        """For a kernel that runs along axis `inner`."""
        emitter = self.emitter
        return [
            ("ptr", emitter.base(x, env)), ("i64", x.strides[inner]),
            ("ptr", emitter.base(self.s, env)), ("i64", self.row_stride(self.s)),
            ("i64", self.s.strides[inner]),
            ("ptr", emitter.base(self.place, env)), ("i64", self.row_stride(self.place)),
            ("i64", steps), ("i64", columns),
        ]  # fmt: skip

    def tiles(
        self,
        env: Env,
        tall: int,
        name: Callable[[int], str],
        arguments: Callable[[Env, Number], list[Argument]],
    ) -> None:
        """Calls for all rows: the kernel for so many, its arguments."""
        row, emitter = self.row, self.emitter
        if row is None:
            emitter.f.run(name(1), arguments(env, 1))
            return

        def tiles(env: Env) -> None:
            rows = 0, emitter.frame.length(row)
            run = emitter.f.run
            cover(emitter.f, rows, tall, name,
                  lambda code, i, n: run(code, arguments({**env, row: Index(i)}, n)))  # fmt: skip

        emitter.loops([axis for axis in self.sides.rows if axis != row], env, tiles)


def as_reduce(node: Dot) -> Reduce:
    """A contraction as a fold of products."""
    product = Map("multiply", (node.a, node.b))
    return Reduce("sum", product, node.over)


def innermost_last(s: Place, over: Sequence[Axis]) -> tuple[Axis, ...]:
    """Axes of k, those along which S moves least last."""

    def stride(axis: Axis) -> int:
        found = s.strides[axis]
        return found if isinstance(found, int) else 1 << 40

    return tuple(sorted(over, key=lambda axis: -stride(axis)))


def sum_of(f: Function, pairs: Sequence[tuple[Number, Number]]) -> Number:
    total: Number = 0
    for a, b in pairs:
        total = f.add(total, f.multiply(a, b))
    return total
