"""Loops: an expression into memory, folds, recurrences. Each chooses the axis for its vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from infinisa.isa.functions import FOLDS
from infinisa.isa.functions import FUNCTIONS as ROWS
from infinisa.isa.language import (
    Affine,
    Axis,
    Gather,
    Map,
    Node,
    Reduce,
    Stack,
    Update,
    View,
)

from .expression import Emitter, Env, Index, Place
from .functions import COMBINE, convert, like, register, saturate
from .ir import FLOATS, Function, Number, Value, constant, number

Reach: TypeAlias = Mapping[Axis, int | None]
"""How many elements one step of each axis moves; None: no fixed number."""

STRIDED, HORIZONTAL, BY_BORDER = 8.0, 10.0, 4.0
"""Costs in vector operations: lanes that are not neighbours, folding lanes, a border's mask."""


@dataclass(frozen=True)
class Fold:
    """A fold as it is carried through loops: one value, or for argmax an integer that orders like
    the value, and its place."""

    function: str
    kind: str
    reassociate: bool

    def initial(self, width: int) -> list[Value]:
        neutral = constant(self.kind, _neutral(self.function, self.kind), width)
        return [neutral, constant("i32", 0, width)] if self.function == "argmax" else [neutral]

    def merge(self, rows: Rows, a: Sequence[Value], b: Sequence[Value]) -> list[Value]:
        """Two partial results as one; the first of equals is the one of the lesser place."""
        f = rows.f
        if self.function != "argmax":
            if self.function == "sum" and self.reassociate and self.kind in FLOATS:
                return [f.binary("fadd reassoc nsz contract", a[0], b[0])]
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

    def across(self, rows: Rows, values: Sequence[Value]) -> list[Value]:
        """All lanes folded into one."""
        while values[0].width > 1:
            halves = [rows.f.halves(value) for value in values]
            values = self.merge(rows, [h[0] for h in halves], [h[1] for h in halves])
        return list(values)


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
    ) -> None:
        """Run `body` at every position of `axes`, outermost first; `vector` must be the last."""
        for root in roots:
            self.prepare(root, env)
        if not axes:
            body(env)
            return
        axis, *rest = axes
        length, first = self.frame.length(axis), self.frame.firsts.get(axis, 0)
        if axis == vector:
            self.vector_loop(axis, length, env, body)
            return

        def turn(index: Value, _: list[Value]) -> None:
            with self.scope():
                self.nest(rest, vector, roots, {**env, axis: Index(index)}, body)

        if isinstance(length, int) and length == 1:
            self.nest(rest, vector, roots, {**env, axis: Index(first)}, body)
        elif isinstance(length, int) and length <= 4 and self.stacked(axis, roots):
            for position in range(length):
                self.nest(rest, vector, roots, {**env, axis: Index(position)}, body)
        else:
            self.f.loop(first, self.f.add(first, length), 1, turn)

    def stacked(self, axis: Axis, roots: Sequence[Node]) -> bool:
        """Whether a node picks its value by this axis: its loop is better unrolled."""
        return any(isinstance(root, Stack) and root.axis == axis for root in roots)

    def vector_loop(
        self, axis: Axis, length: Number, env: Env, body: Callable[[Env], None]
    ) -> None:
        """Full vectors, then the lanes behind the last of them, if there are any."""
        f, width = self.f, self.target.lanes
        full, first = f.whole(length, width), self.frame.firsts.get(axis, 0)
        end = f.add(first, full)

        def turn(index: Value, _: list[Value]) -> None:
            with self.scope(), self.vector(width, None):
                body({**env, axis: Index(index, 1)})

        if full != 0:
            f.loop(first, end, width, turn)
        rest = f.subtract(length, full)
        if rest == 0:
            return
        if rest == 1:  # LLVM 22 writes too much where one lane is left of what it truncates
            with self.scope():
                body({**env, axis: Index(end)})
            return

        def masked() -> None:
            with self.scope(), self.vector(width, self.lanes_below(rest)):
                body({**env, axis: Index(end, 1)})

        if isinstance(rest, int):
            masked()
        else:
            f.when(f.compare("sgt", rest, constant("i64", 0)), masked)

    def lanes_below(self, rest: Number) -> Value:
        """The mask of the first `rest` lanes."""
        f, width = self.f, self.target.lanes
        count = f.convert("trunc", number(rest), "i32")
        return f.compare("slt", f.lane_numbers("i32", width), count)

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
                case _:
                    for child in node.children:
                        visit(child, moves)

        visit(root, {axis: {axis: 1} for axis in root.axes})
        return found

    def vector_axis(
        self, root: Node, axes: Sequence[Axis], stores: Sequence[Place], folded: Sequence[Axis] = ()
    ) -> Axis | None:
        """The axis of `axes` along which vectors cost least; None where there are no vectors."""
        width = self.target.lanes
        if width == 1 or not axes:
            return None
        reads = self.reaches(root)
        reads += [_reach(place, {a: {a: 1} for a in place.strides}) for place in stores]
        work = self.work_of(root)
        best, least = None, float(work + len(reads)) * 0.9
        for axis in axes:
            bound = self.frame.bounds.get(axis, 1 << 20)
            used = bound / (-(-bound // width) * width)
            cost = float(work)
            for reach in reads:
                stride = reach.get(axis, 0)
                cost += 0.3 if stride == 0 else 1.0 if stride == 1 else STRIDED
            if axis in folded:
                cost += HORIZONTAL / max(1.0, bound / width)
            cost = cost / used / width
            if cost < least:
                best, least = axis, cost
        return best

    def work_of(self, root: Node) -> int:
        """Operations to compute a node at one position from what is in memory."""
        nodes = self.inlined(root)
        return sum(ROWS[node.function].cost for node in nodes if isinstance(node, Map))

    def inlined(self, root: Node) -> list[Node]:
        """The nodes computed on the way to a root: down to what is in memory or known."""
        found: dict[Node, None] = {}
        stack = [root]
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
        vector = self.vector_axis(root, inner, [place])

        def body(at: Env) -> None:
            value = convert(self.f, self.value(root, at), register(root.dtype))
            self.store(saturate(self.f, value, root.dtype, place.dtype), place, at)

        with self.scope():
            self.nest(self.order(inner, place, vector), vector, [root], env, body)

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
                    within.append(self.inside(target[axis], 0, self.frame.length(axis)))
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
        vector = self.vector_axis(root.value, plain, stores)
        with self.scope():
            self.nest(self.order(plain, stores[0], vector), vector, [root.value], env, body)

    # -- folds

    def reduce(self, node: Reduce, place: Place | None, env: Env) -> None:
        """Fold into memory or, without a place, into a value that is then known."""
        kept = [axis for axis in node.axes if axis not in env]
        stores = [place] if place else []
        vector = self.vector_axis(node.x, [*kept, *node.over], stores, node.over)
        outer = self.order(kept, place, vector if vector in kept else None)

        def body(at: Env) -> None:
            value = self.folded(node, vector, at)
            if place is None:
                self.memo[node, tuple(at.get(axis) for axis in node.axes), ""] = value
            else:
                self.store(saturate(self.f, value, node.dtype, place.dtype), place, at)

        if place is None:
            body(env)
            return
        with self.scope():
            self.nest(outer, vector if vector in kept else None, [node.x], env, body)

    def folded(self, node: Reduce, vector: Axis | None, env: Env) -> Value:
        """The fold at one position (or vector of positions) of the kept axes."""
        kind = register(node.x.dtype if node.function == "argmax" else node.dtype)
        if node.function == "argmax":
            kind = {"float": "i32", "double": "i64", "i1": "i32"}.get(kind, kind)
        fold = Fold(node.function, kind, reassociate=self.target.lanes == 1)
        along = vector in node.over
        reads = self.reaches(node.x)

        def longest(axis: Axis) -> int:
            return max((abs(r.get(axis, 0) or 0) for r in reads), default=0)

        over = sorted(node.over, key=lambda axis: (axis == vector, -longest(axis)))
        width = self.target.lanes if along else self.width
        found = self.fold_loops(node, fold, over, vector, env, fold.initial(width))
        if along:
            found = fold.across(self, found)
        return found[-1]

    def fold_loops(
        self,
        node: Reduce,
        fold: Fold,
        over: Sequence[Axis],
        vector: Axis | None,
        env: Env,
        carried: list[Value],
    ) -> list[Value]:
        self.prepare(node.x, env)
        if not over:
            return self.visit(node, fold, env, carried)
        axis, *rest = over
        if axis == vector:
            return self.fold_vectors(node, fold, axis, env, carried)

        def turn(index: Value, values: list[Value]) -> list[Value]:
            with self.scope():
                at = {**env, axis: Index(index)}
                return self.fold_loops(node, fold, rest, vector, at, values)

        return self.f.loop(0, self.frame.length(axis), 1, turn, carried)

    def visit(self, node: Reduce, fold: Fold, env: Env, carried: list[Value]) -> list[Value]:
        """One more position into a fold."""
        f, width = self.f, carried[0].width
        value = self.value(node.x, env)
        if fold.function == "argmax":
            value = ordinal(f, value)
        given = [f.splat(convert(f, value, fold.kind), width)]
        if fold.function == "argmax":
            index = env[node.over[0]]
            at = number(index.base) if index.uniform else self.lanes(index)
            given.append(f.splat(f.convert("trunc", at, "i32"), width))
        if self.mask is not None and self.mask.width == width:
            neutral = fold.initial(width)
            given = [f.select(self.mask, x, y) for x, y in zip(given, neutral, strict=True)]
        return fold.take(self, carried, given)

    def fold_vectors(
        self, node: Reduce, fold: Fold, axis: Axis, env: Env, carried: list[Value]
    ) -> list[Value]:
        """Four vectors a turn, each with a fold of its own; then single ones; then the rest."""
        f, width = self.f, self.target.lanes
        length = self.frame.length(axis)
        full = f.whole(length, width)
        many = 4 if self.frame.bounds.get(axis, 1 << 20) >= 4 * width else 1
        big = f.whole(length, many * width) if many > 1 else 0
        count = len(carried)

        def turn(copies: int) -> Callable[[Value, list[Value]], list[Value]]:
            def body(index: Value, values: list[Value]) -> list[Value]:
                found: list[Value] = []
                with self.scope(), self.vector(width, None):
                    for copy in range(copies):
                        base = f.add(index, copy * width)
                        at = {**env, axis: Index(base, 1)}
                        mine = values[copy * count : (copy + 1) * count]
                        found += self.visit(node, fold, at, mine)
                return found

            return body

        if big != 0:
            start = [*carried, *(fold.initial(width) * (many - 1))]
            ends = f.loop(0, big, many * width, turn(many), start)
            carried = ends[:count]
            for copy in range(1, many):
                carried = fold.merge(self, carried, ends[copy * count : (copy + 1) * count])
        if full != big:
            carried = f.loop(big, full, width, turn(1), carried)
        rest = f.subtract(length, full)
        if rest == 0:
            return carried

        def end() -> list[Value]:
            with self.scope(), self.vector(width, self.lanes_below(rest)):
                return self.visit(node, fold, {**env, axis: Index(full, 1)}, carried)

        if isinstance(rest, int):
            return end()
        return f.either(f.compare("sgt", rest, constant("i64", 0)), end, lambda: carried)


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
