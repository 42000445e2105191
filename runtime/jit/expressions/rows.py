"""Loops: an expression into memory, folds, recurrences. Each chooses the axis for its vectors."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from infinisa.isa.functions import FOLDS
from infinisa.isa.functions import FUNCTIONS as ROWS
from infinisa.isa.language import (
    Affine,
    Axis,
    Cast,
    Dot,
    Gather,
    Map,
    Node,
    Reduce,
    Stack,
    Update,
    View,
)

from ..code.functions import COMBINE, STORED, convert, like, multiply_add, register, saturate
from ..code.ir import BYTES, FLOATS, Function, Number, Value, constant, number
from ..code.processor import LINE
from .expression import Emitter, Env, Index, Place
from .masks import border

Visit: TypeAlias = Callable[[Env, list[Value]], list[Value]]
"""What is done at a position with the values carried so far: those that are carried on."""

Finishing: TypeAlias = Callable[[Value, Env], Value]
"""What is made of a fold at a position."""

Reach: TypeAlias = Mapping[Axis, int | None]
"""How many elements one step of each axis moves; None: no fixed number."""

COSTS: Mapping[int | None, float] = {0: 0.3, 1: 1.0, 2: 3.0}
"""Costs in vector operations of a vector in memory, by the elements from lane to lane."""

STRIDED, HORIZONTAL = 8.0, 10.0
"""Costs in vector operations: lanes that are not neighbours, folding lanes."""

SIDE_BY_SIDE = 4
"""Vectors a turn of a loop computes side by side, so that one does not wait for another. As many
where there are few registers: constants of one turn are read once for all of them."""

LITTLE = 2
"""Operations at one position of what is summed, up to which a sum goes by twice as many vectors."""

CUT = 2
"""Vectors to which a length is rounded up that a mask cuts."""

UNROLLED, AT_A_TIME = 49, 100
"""Folds of up to so many positions, such as those of a window, are computed without loops; so many
positions of vectors side by side."""

OVERLAPPING = 8
"""Windows that are folded together, since they read the same."""

IN_REGISTERS = 8
"""Rows of up to so many vectors are computed without loops, and what several passes over them want
stays in registers: half as many where there are few."""


def as_it_is(value: Value, _: Env) -> Value:
    """A fold of which nothing is made."""
    return value


@dataclass(frozen=True)
class Fold:
    """A fold as it is carried through loops: one value, or for argmax an integer that orders like
    the value, and its place.

    plain  a maximum of floats that need not be NaN where one of them is
    """

    function: str
    kind: str
    reassociate: bool
    axis: Axis
    plain: bool = False

    @property
    def size(self) -> int:
        """How many values it carries."""
        return 2 if self.function == "argmax" else 1

    def initial(self, width: int) -> list[Value]:
        neutral = constant(self.kind, _neutral(self.function, self.kind), width)
        return [neutral, constant("i32", 0, width)] if self.function == "argmax" else [neutral]

    def merge(self, rows: Rows, a: Sequence[Value], b: Sequence[Value]) -> list[Value]:
        """Two partial results as one; the first of equals is the one of the lesser place."""
        f = rows.f
        if self.function != "argmax":
            if self.function == "sum" and self.reassociate and self.kind in FLOATS:
                return [f.binary("fadd reassoc nsz contract", a[0], b[0])]
            if self.plain:
                return [f.select(f.compare("ogt", b[0], a[0]), b[0], a[0])]
            return [COMBINE[self.function](f, a[0], b[0])]
        lesser = f.compare("slt", b[1], a[1])
        equal = f.binary("and", f.compare("eq", b[0], a[0]), lesser)
        better = f.binary("or", f.compare("sgt", b[0], a[0]), equal)
        return [f.select(better, y, x) for x, y in zip(a, b, strict=True)]

    def take(self, rows: Rows, a: Sequence[Value], b: Sequence[Value]) -> list[Value]:
        """The next position into a partial result of those before it."""
        if self.function != "argmax":
            return self.merge(rows, a, b)
        better = rows.f.compare("sgt", b[0], a[0])
        return [rows.f.select(better, y, x) for x, y in zip(a, b, strict=True)]

    def join(self, rows: Rows, parts: Sequence[list[Value]]) -> list[Value]:
        """Partial results as one, in pairs."""
        parts = list(parts)
        while len(parts) > 1:
            pairs = [self.merge(rows, *parts[i : i + 2]) for i in range(0, len(parts) - 1, 2)]
            parts = pairs + parts[2 * len(pairs) :]
        return parts[0]

    def across(self, rows: Rows, values: Sequence[Value]) -> list[Value]:
        """All lanes folded into one."""
        while values[0].width > 1:
            halves = [rows.f.halves(value) for value in values]
            values = self.merge(rows, [h[0] for h in halves], [h[1] for h in halves])
        return list(values)


@dataclass(frozen=True, eq=False)
class Work:
    """What loops do with a value at each position: fold it, or store it."""

    root: Node
    place: Place | None = None
    fold: Fold | None = None


def ordinal(f: Function, value: Value) -> Value:
    """An integer that orders like the value: NaN above all, both zeros equal."""
    if value.kind not in FLOATS:
        return value
    bits = 31 if value.kind == "float" else 63
    value = f.binary("fadd", value, like(value, 0.0))
    whole = f.convert("bitcast", value, f"i{bits + 1}")
    sign = f.binary("ashr", whole, like(whole, bits))
    most = like(whole, (1 << bits) - 1)
    found = f.binary("xor", whole, f.binary("and", sign, most))
    return f.select(f.compare("uno", value, value), most, found)


def _neutral(function: str, kind: str) -> float | int | bool:
    if function == "argmax":
        function = "max"
    value = FOLDS[function].neutral
    if kind == "i1":
        return function in ("product", "min")
    if kind in FLOATS or abs(value) <= 1:
        return value if kind in FLOATS else int(value)
    bits = 31 if kind == "i32" else 63
    return (1 << bits) - 1 if value > 0 else -(1 << bits)


class Rows(Emitter):
    """Emits loops over named axes."""

    # -- loops

    def order(self, axes: Sequence[Axis], place: Place | None, vector: Axis | None) -> list[Axis]:
        """Largest stride outermost, the vector's axis innermost."""
        given = {} if place is None else place.strides

        def stride(axis: Axis) -> int:
            found = given.get(axis, 0)
            return found if isinstance(found, int) else 1 << 40

        return sorted(axes, key=lambda axis: (axis == vector, -stride(axis), axes.index(axis)))

    def nest(
        self,
        axes: Sequence[Axis],
        vector: Axis | None,
        roots: Sequence[Node],
        env: Env,
        body: Callable[[Env], None],
        copies: int = 1,
    ) -> None:
        """Run `body` at every position of `axes`, outermost first; `vector` must be the last, of
        which so many vectors go side by side."""

        def visit(at: Env, _: list[Value]) -> list[Value]:
            body(at)
            return []

        self.carry(axes, vector, roots, env, visit, [], copies)

    def carry(
        self,
        axes: Sequence[Axis],
        vector: Axis | None,
        roots: Sequence[Node],
        env: Env,
        visit: Visit,
        carried: list[Value],
        copies: int = 1,
    ) -> list[Value]:
        """`nest` with values carried from position to position; so many `copies` of them, each for
        every so manieth vector."""
        for root in roots:
            self.prepare(root, env)
        if not axes:
            return visit(env, carried)
        axis, *rest = axes
        if axis == vector:
            return self.along(axis, roots, env, visit, carried, copies)
        length, first = self.frame.length(axis), self.frame.firsts.get(axis, 0)

        def inner(index: Number, values: list[Value]) -> list[Value]:
            at = {**env, axis: Index(index)}
            return self.carry(rest, vector, roots, at, visit, values, copies)

        def turn(index: Value, values: list[Value]) -> list[Value]:
            with self.scope():
                return inner(index, values)

        if isinstance(length, int) and length == 1:
            return inner(first, carried)
        if isinstance(length, int) and length <= 4 and self.stacked(axis, roots):
            for position in range(length):
                carried = inner(position, carried)
            return carried
        return self.f.loop(first, self.f.add(first, length), 1, turn, carried)

    def stacked(self, axis: Axis, roots: Sequence[Node]) -> bool:
        """Whether a node picks its value by this axis: its loop is better unrolled."""
        return any(isinstance(root, Stack) and root.axis == axis for root in roots)

    # long: the full turns, the single vectors and the tail share what they carry
    def along(
        self,
        axis: Axis,
        roots: Sequence[Node],
        env: Env,
        visit: Visit,
        carried: list[Value],
        copies: int,
    ) -> list[Value]:
        """Several full vectors a turn, then single ones, then the lanes behind the last of them.
        Where a mask hides the end of a row, several a turn are those that it shows: they need no
        mask."""
        f, width, length = self.f, self.target.lanes, self.frame.length(axis)
        first, full = self.frame.firsts.get(axis, 0), f.whole(length, width)
        big = f.whole(length, copies * width)
        true = self.unhidden(axis, roots, env) if copies > 1 else {}
        if true:
            clear = functools.reduce(f.minimum, true.values(), length)
            big = f.whole(f.maximum(clear, 0), copies * width)
        known, narrow = frozenset(self.memo), self.broadcast(roots, env)
        row = _Row(
            self, axis, env, visit, len(carried) // copies, self.in_registers(axis), known, narrow
        )

        def many(index: Value, values: list[Value]) -> list[Value]:
            return row.group(copies, index, values)

        def single(index: Value, values: list[Value]) -> list[Value]:
            return row.group(1, index, values)

        if row.kept and isinstance(full, int):
            for index in range(0, full, copies * width):
                count = min(copies, (full - index) // width)
                carried = row.group(count, f.add(first, index), carried)
        else:
            begin, outside = f.add(first, big), self.true
            self.true |= true.keys()
            carried = f.loop(first, begin, copies * width, many, carried) if big != 0 else carried
            self.true = outside
            if isinstance(full, int) and isinstance(big, int) and not true:
                carried = row.group((full - big) // width, begin, carried)
            elif copies > 1:
                carried = f.loop(begin, f.add(first, full), width, single, carried)
        end, left = f.add(first, full), f.subtract(length, full) if axis not in self.cut else 0
        if left != 0 and isinstance(left, int):
            carried = row.rest(end, left, carried)
        elif left != 0:
            before, some = carried, f.compare("sgt", number(left), constant("i64", 0))
            carried = f.either(some, lambda: row.rest(end, left, before), lambda: before)
        row.narrow_again()
        return carried

    def unhidden(self, axis: Axis, roots: Sequence[Node], env: Env) -> dict[Node, Number]:
        """Conditions that hide what is behind a position in this row, as a causal mask does, and
        how many positions of an axis each of them shows."""
        f, starts, found = self.f, self.frame.starts, dict[Node, Number]()
        for node in self.inlined(roots):
            if not isinstance(node, Map) or node.function != "where":
                continue
            condition = node.arguments[0]
            for row in (a for a in condition.axes if a in env and env[a].uniform):
                limit = border(condition, row)
                if limit is not None and limit.axis == axis:
                    end = f.add(f.add(starts.get(row, 0), env[row].base), limit.ahead + 1)
                    found[condition] = f.subtract(end, starts.get(axis, 0))
        return found

    def in_registers(self, axis: Axis) -> bool:
        """Whether a row along this axis is so short that it is computed without loops."""
        length, most = self.frame.length(axis), IN_REGISTERS
        most //= 1 if self.target.registers >= 32 else 2
        return isinstance(length, int) and 0 < length <= most * self.target.lanes

    def broadcast(self, roots: Sequence[Node], env: Env) -> dict[tuple[object, ...], Value]:
        """Numbers that a whole row is computed with, in all lanes before its loop; as they were."""
        before: dict[tuple[object, ...], Value] = {}
        for node in self.settled(roots, env):
            key = (node, tuple(env.get(axis) for axis in node.axes), "")
            value = self.memo.get(key)
            if value is not None and value.kind in FLOATS and not value.constant:
                before[key] = value
                self.memo[key] = self.f.splat(value, self.target.lanes)
        return before

    def settled(self, roots: Sequence[Node], env: Env) -> list[Node]:
        """What is the same at all positions that are still open, as far up as possible."""
        found: list[Node] = []
        stack, seen = list(roots), set[Node]()
        while stack:
            node = stack.pop()
            if node in seen:
                continue
            seen.add(node)
            if all(axis in env for axis in node.axes):
                found.append(node)
            elif isinstance(node, Map | Cast) and node not in self.places:
                stack += node.children
        return found

    def lanes_below(self, rest: Number) -> Value:
        """The mask of the first `rest` lanes."""
        f, width = self.f, self.target.lanes
        key = ("lanes below", rest)
        if key not in self.memo:
            count = f.convert("trunc", number(rest), "i32")
            self.memo[key] = f.compare("slt", f.lane_numbers("i32", width), count)
        return self.memo[key]

    # -- the vector's axis

    def reaches(self, root: Node) -> list[Reach]:
        """How every read below a node moves with the axes of the node."""
        found: list[Reach] = []
        seen: set[object] = set()

        def visit(node: Node, moves: Mapping[Axis, Reach]) -> None:
            key = (node, tuple((a, tuple(moves[a].items())) for a in node.axes))
            if key in seen:
                return
            seen.add(key)
            if node in self.known:
                return
            if node in self.places:
                found.append(_reach(self.places[node], moves))
                return
            if node in self.aliases:
                other, more = self.aliases[node]
                visit(other, {**{a: {} for a in more}, **moves})
                return
            match node:
                case View(x, pairs, _):
                    given = dict(pairs)
                    visit(x, {a: _moved(given[a], moves) if a in given else moves[a]
                              for a in x.axes})  # fmt: skip
                case Gather(table, index, axis):
                    visit(index, moves)
                    visit(table, {**moves, axis: dict.fromkeys(index.axes)})
                case Dot(_, _, over) | Reduce(_, _, over):  # a fold that has no place yet
                    moves = {**{a: {} for a in over}, **moves}
                    for child in node.children:
                        visit(child, moves)
                case _:
                    for child in node.children:
                        visit(child, moves)

        visit(root, {axis: {axis: 1} for axis in root.axes})
        return found

    def vector_axis(
        self,
        roots: Sequence[Node],
        axes: Sequence[Axis],
        stores: Sequence[Place],
        folded: Sequence[Axis] = (),
    ) -> Axis | None:
        """The axis of `axes` along which vectors cost least; None where there are no vectors."""
        width = self.target.lanes
        if width == 1 or not axes:
            return None
        reads = [reach for root in roots for reach in self.reaches(root)]
        reads += [_reach(place, {a: {a: 1} for a in place.strides}) for place in stores]
        work = self.work_of(roots)
        best, least = None, float(work + len(reads)) * 0.9
        for axis in axes:
            bound = self.frame.bounds.get(axis, 1 << 20)
            used = bound / (-(-bound // width) * width)
            cost = float(work)
            for reach in reads:
                stride = reach.get(axis, 0)
                cost += COSTS.get(stride, STRIDED)
            if axis in folded:
                cost += HORIZONTAL / max(1.0, bound / width)
            cost = cost / used / width
            if cost < least:
                best, least = axis, cost
        return best

    def work_of(self, roots: Sequence[Node]) -> int:
        """Operations to compute nodes at one position from what is in memory."""
        nodes = self.inlined(roots)
        return sum(ROWS[node.function].cost for node in nodes if isinstance(node, Map))

    def inlined(self, roots: Sequence[Node]) -> list[Node]:
        """The nodes computed on the way to some: down to what is in memory or known."""
        found: dict[Node, None] = {}
        stack = list(roots)
        while stack:
            node = stack.pop()
            if node not in found and node not in self.places and node not in self.known:
                found[node] = None
                stack += node.children
        return list(found)

    # -- an expression into memory

    def fill(self, root: Node, place: Place, axes: Sequence[Axis], env: Env) -> None:
        """Store a node at every position of `axes`; it may lack some of them."""
        open_axes = [axis for axis in axes if axis not in env]
        inner = [axis for axis in open_axes if axis in root.axes or axis in place.strides]
        vector = self.vector_axis([root], inner, [place])
        with self.scope():
            self.sweep([Work(root, place)], self.order(inner, place, vector), vector, env)

    def sweep(
        self,
        works: Sequence[Work],
        axes: Sequence[Axis],
        vector: Axis | None,
        env: Env,
        soon: Sequence[Place] = (),
    ) -> list[list[Value]]:
        """Loops that do several things at every position of `axes`: what each fold comes to.

        soon  memory that will be read at these positions, behind these loops
        """
        folds = [work.fold for work in works if work.fold]
        lanes = self.target.lanes if vector else self.width
        copies = self.side_by_side(vector) if vector else 1
        copies *= 2 if vector and self.waits(works, vector) else 1
        starts = [fold.initial(lanes) for fold in folds]
        sizes = [len(start) for start in starts]
        one = [value for start in starts for value in start]

        def visit(at: Env, carried: list[Value]) -> list[Value]:
            found, rest = [], carried
            self.fetch(soon, at)
            for work in works:
                if work.fold is None:
                    self.put_value(work, at)
                    continue
                mine, rest = rest[: work.fold.size], rest[work.fold.size :]
                found += self.fold_in(work.root, work.fold, at, mine)
            return found

        roots = [work.root for work in works]
        carried = self.carry(axes, vector, roots, env, visit, one * copies, copies)
        parts = [carried[i : i + len(one)] for i in range(0, len(carried), max(1, len(one)))]
        found = []
        for fold, size in zip(folds, sizes, strict=True):
            values = fold.join(self, [part[:size] for part in parts])
            parts = [part[size:] for part in parts]
            found.append(fold.across(self, values) if vector else values)
        return found

    def fetch(self, places: Sequence[Place], at: Env) -> None:
        """Bring what a vector will be read from into the first cache."""
        if self.width == 1 or self.mask is not None:
            return
        for place in places:
            base, step, lanes = self.offset(place, at)
            if step == 1 and lanes is None and self.begins_line(place, at):
                self.f.prefetch(self.f.at(place.pointer, base, STORED[place.dtype]))

    def begins_line(self, place: Place, at: Env) -> bool:
        """Whether a vector is the first one of a line of memory, among those side by side."""
        size = BYTES[STORED[place.dtype]]
        first = sum(self.f.known_part(at[axis].base) for axis in place.strides if at[axis].step)
        return first * size % LINE < self.width * size

    def side_by_side(self, axis: Axis) -> int:
        """How many vectors along an axis a turn of a loop computes."""
        most = self.frame.bounds.get(axis, 1 << 20) // self.target.lanes
        return max(1, min(most, SIDE_BY_SIDE))

    def waits(self, works: Sequence[Work], axis: Axis) -> bool:
        """Whether loops only sum, and so little at a position that each addition waits for the one
        before it. Not where the end is known late: many vectors before it would go singly."""
        fold, length = works[0].fold if len(works) == 1 else None, self.frame.length(axis)
        if fold is None or (fold.function, fold.kind) != ("sum", "float"):
            return False
        long = isinstance(length, int) and length >= 4 * SIDE_BY_SIDE * self.target.lanes
        return long and self.work_of([works[0].root]) <= LITTLE

    def put_value(self, work: Work, at: Env) -> None:
        """Store a value at a position."""
        root, place = work.root, work.place
        assert place is not None
        value = convert(self.f, self.value(root, at), register(root.dtype))
        self.store(saturate(self.f, value, root.dtype, place.dtype), place, at)

    def update(self, root: Update, place: Place, env: Env, copied: bool) -> None:
        """x into memory, unless it is there, then the value over it."""
        f, given = self.f, dict(root.at)
        if not copied:
            self.fill(root.x, place, root.x.axes, env)
        plain = [axis for axis in root.value.axes if axis not in env]

        def body(at: Env) -> None:
            target: dict[Axis, Index] = {}
            within: list[Value] = []
            for axis in root.x.axes:
                start = self.frame.starts.get(axis, 0)
                index = at[axis] if axis not in given else self.index(given[axis], at)
                target[axis] = self.shifted(index, start) if axis in given else index
                if axis in given:
                    within.append(self.inside(target[axis], 0, self.frame.limit(axis)))
            value = convert(f, self.value(root.value, at), register(root.value.dtype))
            value = saturate(f, value, root.value.dtype, root.x.dtype)
            value = saturate(f, value, root.x.dtype, place.dtype)
            inside = self.every(within) if within else constant("i1", True)
            if inside.width == 1:
                f.when(inside, lambda: self.store(value, place, target))
            else:
                with self.guarded(inside):
                    self.store(value, place, target)

        moved = {a: _moved(given[a], {x: {x: 1} for x in root.value.axes}) if a in given else {a: 1}
                 for a in root.x.axes}  # fmt: skip
        reach = _reach(place, moved)
        stores = [
            Place(place.pointer, place.dtype, {a: 9 if s is None else s for a, s in reach.items()})
        ]
        vector = self.vector_axis([root.value], plain, stores)
        with self.scope():
            self.nest(self.order(plain, stores[0], vector), vector, [root.value], env, body)

    # -- folds

    def reduce(
        self, node: Reduce, place: Place | None, env: Env, finish: Finishing = as_it_is
    ) -> None:
        """Fold into memory, what is made of it, or, without a place, into a value that is then
        known."""
        kept = [axis for axis in node.axes if axis not in env]
        vector = self.folded_along(node, place, env)
        outer = self.order(kept, place, vector if vector in kept else None)

        if place is None:
            value = self.folded(node, vector, env)
            self.memo[node, tuple(env.get(axis) for axis in node.axes), ""] = value
            return

        def put(value: Value, at: Env) -> None:
            made = finish(value, at)
            self.store(saturate(self.f, made, node.dtype, place.dtype), place, at)

        def body(at: Env) -> None:
            put(self.folded(node, vector, at), at)

        across = vector if vector in kept else None
        few = self.positions(node) if across else 0
        copies = max(1, min(self.side_by_side(across), AT_A_TIME // few)) if across and few else 1
        with self.scope():
            if across and few and (sliding := self.sliding(node, outer[:-1])):
                self.fold_overlapping(node, outer, sliding, env, put)
            else:
                self.nest(outer, across, [node.x], env, body, copies)

    def sliding(self, node: Reduce, axes: Sequence[Axis]) -> Axis | None:
        """The last of these axes, if windows that a fold reads move along it and overlap."""
        if not axes or not isinstance(self.frame.length(axes[-1]), int):
            return None
        views = (view for view in self.inlined([node.x]) if isinstance(view, View))
        for index in (index for view in views for _, index in view.index):
            strides, bounds = dict(index.terms), self.frame.bounds
            reach = sum(abs(strides.get(a, 0)) * (bounds.get(a, 1) - 1) for a in node.over)
            if 0 < abs(strides.get(axes[-1], 0)) <= reach:
                return axes[-1]
        return None

    def fold_overlapping(
        self,
        node: Reduce,
        axes: Sequence[Axis],
        sliding: Axis,
        env: Env,
        put: Callable[[Value, Env], None],
    ) -> None:
        """Folds of windows by vectors along the last of these axes, those of some positions
        together: what several read is read once."""
        f, frame = self.f, self.frame
        *others, across = (axis for axis in axes if axis != sliding)
        first, length = frame.firsts.get(sliding, 0), frame.length(sliding)
        assert isinstance(length, int)
        size = -(-length // -(-length // OVERLAPPING))

        def several(at: Env, start: Number, count: int) -> None:
            places = [Index(f.add(start, number)) for number in range(count)]
            each = [{**at, sliding: place} for place in places]
            for value, here in zip(self.folded_together(node, sliding, each), each, strict=True):
                put(value, here)

        def part(at: Env, start: Number, count: int) -> None:
            with self.scope():
                self.nest([across], across, [node.x], at, lambda at: several(at, start, count))

        def line(at: Env) -> None:
            full = length // size * size
            f.loop(first, f.add(first, full), size, lambda start, _: part(at, start, size))
            if full < length:
                part(at, f.add(first, full), length - full)

        self.nest(others, None, [], env, line)

    def folded_together(self, node: Reduce, sliding: Axis, envs: Sequence[Env]) -> list[Value]:
        """The folds at neighbours along an axis, step by step in the order of what they read."""
        fold = self.fold_of(node)
        views = (view for view in self.inlined([node.x]) if isinstance(view, View))
        indices = [index for view in views for _, index in view.index if sliding in index.axes]
        lengths = [self.frame.length(axis) for axis in node.over]
        steps = itertools.product(*(range(n) for n in lengths if isinstance(n, int)))

        def reads(turn: tuple[int, tuple[int, ...]]) -> list[object]:
            at = {sliding: turn[0], **dict(zip(node.over, turn[1], strict=True))}
            place = [sum(stride * at.get(axis, 0) for axis, stride in i.terms) for i in indices]
            apart = {axis for index in indices for axis in index.axes}
            return [[at[axis] for axis in node.over if axis not in apart], place, turn[0]]

        found = [fold.initial(self.width) for _ in envs]
        for each, step in sorted(itertools.product(range(len(envs)), steps), key=reads):
            at = dict(zip(node.over, step, strict=True))
            found[each] = self.folded_in(node, fold, at, envs[each], found[each])
        return [carried[-1] for carried in found]

    def folded_along(self, node: Reduce, place: Place | None, env: Env) -> Axis | None:
        """The axis along which vectors fold."""
        axes = [axis for axis in (*node.axes, *node.over) if axis not in env]
        return self.vector_axis([node.x], axes, [place] if place else [], node.over)

    def positions(self, node: Reduce) -> int:
        """How many positions are folded, if without loops."""
        lengths = [self.frame.length(axis) for axis in node.over]
        count = 1
        for length in lengths:
            count *= length if isinstance(length, int) else UNROLLED + 1
        return count if count <= UNROLLED and node.function != "argmax" else 0

    def folded(self, node: Reduce, vector: Axis | None, env: Env) -> Value:
        """The fold at one position (or vector of positions) of the kept axes."""
        if vector not in node.over and self.positions(node):
            return self.folded_at_once(node, node.over, env, self.fold_of(node).initial(self.width))
        along = vector if vector in node.over else None
        work = Work(node.x, fold=self.fold_of(node))
        order = self.longest_first(node.over, along, [node.x])
        (found,) = self.sweep([work], order, along, env)
        return found[-1]

    def folded_at_once(
        self, node: Reduce, over: Sequence[Axis], env: Env, carried: list[Value]
    ) -> Value:
        """A fold over axes of few positions without loops, behind what was folded before."""
        fold = self.fold_of(node)
        lengths = [self.frame.length(axis) for axis in over]
        for step in itertools.product(*(range(n) for n in lengths if isinstance(n, int))):
            carried = self.folded_in(node, fold, dict(zip(over, step, strict=True)), env, carried)
        return carried[-1]

    def folded_in(
        self, node: Reduce, fold: Fold, step: Mapping[Axis, int], env: Env, carried: list[Value]
    ) -> list[Value]:
        """A fold of one more position, counted from where its axes begin."""
        f, firsts = self.f, self.frame.firsts
        places = {axis: Index(f.add(firsts.get(axis, 0), n)) for axis, n in step.items()}
        at = {**env, **places}
        products = isinstance(node.x, Map) and node.x.function == "multiply"
        if not (products and fold.function == "sum" and fold.kind in FLOATS):
            return self.fold_in(node.x, fold, at, carried)
        given = [convert(f, self.value(x, at), fold.kind) for x in node.x.children]
        a, b = (f.splat(value, self.width) for value in given)
        return [multiply_add(f, a, b, carried[0])]

    def fold_of(self, node: Reduce) -> Fold:
        kind = register(node.x.dtype if node.function == "argmax" else node.dtype)
        if node.function == "argmax":
            kind = {"float": "i32", "double": "i64", "i1": "i32"}.get(kind, kind)
        plain = node in self.plain and self.target.compares
        return Fold(node.function, kind, self.target.lanes == 1, node.over[0], plain)

    def longest_first(
        self, axes: Sequence[Axis], vector: Axis | None, roots: Sequence[Node]
    ) -> list[Axis]:
        """The longest steps through memory outermost, the vector's axis innermost."""
        reads = [reach for root in roots for reach in self.reaches(root)]

        def longest(axis: Axis) -> int:
            return max((abs(r.get(axis, 0) or 0) for r in reads), default=0)

        return sorted(axes, key=lambda axis: (axis == vector, -longest(axis)))

    def fold_in(self, x: Node, fold: Fold, env: Env, carried: list[Value]) -> list[Value]:
        """One more position, or vector of positions, into a fold."""
        f, width = self.f, carried[0].width
        value = self.value(x, env)
        if fold.function == "argmax":
            value = ordinal(f, value)
        given = [f.splat(convert(f, value, fold.kind), width)]
        if fold.function == "argmax":
            given.append(f.splat(self.numbers(env[fold.axis]), width))
        mask = self.mask if self.width == width else self.lanes_below(self.width)
        if mask is not None and mask.width == width:
            neutral = fold.initial(width)
            given = [f.select(mask, x, y) for x, y in zip(given, neutral, strict=True)]
        return fold.take(self, carried, given)


@dataclass(frozen=True)
class _Row:
    """Vectors along an axis, visited.

    size    values carried from vector to vector
    kept    what is computed stays known: the whole row is in registers
    known   what was known before
    narrow  values that are in all lanes, as they were
    """

    rows: Rows
    axis: Axis
    env: Env
    visit: Visit
    size: int
    kept: bool
    known: frozenset[tuple[object, ...]]
    narrow: Mapping[tuple[object, ...], Value]

    def narrow_again(self) -> None:
        """Of values that are the same in all lanes, only those known as one number stay known."""
        memo = self.rows.memo
        for key in [key for key, value in memo.items() if single_in_all(key, value)]:
            if key not in self.known:
                del memo[key]
        memo.update(self.narrow)

    def group(self, count: int, index: Number, values: list[Value]) -> list[Value]:
        """Full vectors side by side, each with carried values of its own."""
        rows, f, width = self.rows, self.rows.f, self.rows.target.lanes
        found, parts, start = list(values), [], len(f.lines)
        known: dict[tuple[object, ...], Value] = {}
        with f.beside() as shared:
            for copy in range(count):
                mark, mine = len(f.lines), slice(copy * self.size, (copy + 1) * self.size)
                with f.scope(), rows.scope(), rows.vector(width, None):
                    at = {**self.env, self.axis: Index(f.add(index, copy * width), 1)}
                    found[mine] = self.visit(at, found[mine])
                    known |= rows.memo
                parts.append(f.lines[mark:])
        some = [parts[i : i + SIDE_BY_SIDE] for i in range(0, count, SIDE_BY_SIDE)]
        f.lines[start:] = [*shared, *(line for part in some for line in interleaved(part))]
        if self.kept:
            rows.memo.update(known)
        return found

    def rest(self, index: Number, left: Number, values: list[Value]) -> list[Value]:
        """The lanes behind the last full vector."""
        rows, one = self.rows, list(values[: self.size])
        # LLVM 22 writes too much where one lane is left of what it truncates.
        single = left == 1
        with rows.scope(keep=self.kept):
            lanes, mask = (1, None) if single else (rows.target.lanes, rows.lanes_below(left))
            with rows.vector(lanes, mask):
                if single:
                    self.narrow_again()
                one = self.visit({**self.env, self.axis: Index(index, 0 if single else 1)}, one)
        return [*one, *values[self.size :]]


def single_in_all(key: tuple[object, ...], value: Value) -> bool:
    """Whether a value is the same in all lanes, but was computed in each."""
    at = key[1] if isinstance(key[0], Node) else None
    uniform = isinstance(at, tuple) and all(index is None or index.uniform for index in at)
    return uniform and value.width > 1


def interleaved(parts: Sequence[Sequence[str]]) -> list[str]:
    """Straight pieces of code that need nothing of each other, line by line in turn."""
    straight = all(line.startswith("  ") and not line.startswith("  br ")
                   for part in parts for line in part)  # fmt: skip
    if not straight:
        return [line for part in parts for line in part]
    turns = itertools.zip_longest(*parts)
    return [line for turn in turns for line in turn if line is not None]


def _moved(affine: Affine, moves: Mapping[Axis, Reach]) -> Reach:
    """How an index moves with the axes that its axes move with."""
    found: dict[Axis, int | None] = {}
    linear = affine.divide == 1 and not affine.modulo
    for axis, stride in affine.terms:
        for mover, step in moves[axis].items():
            before = found.get(mover, 0)
            if linear and step is not None and before is not None:
                found[mover] = before + stride * step
            else:
                found[mover] = None
    return found


def _reach(place: Place, moves: Mapping[Axis, Reach]) -> Reach:
    found: dict[Axis, int | None] = {}
    for axis, stride in place.strides.items():
        for mover, step in moves.get(axis, {}).items():
            before = found.get(mover, 0)
            if isinstance(stride, int) and step is not None and before is not None:
                found[mover] = before + stride * step
            else:
                found[mover] = None
    return found
