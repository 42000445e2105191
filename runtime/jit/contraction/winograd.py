"""Contractions over windows of three by fewer multiplications.

Windows along two axes take sixteen products of a patch of 4 x 4 for its 2 x 2 results, instead of
thirty-six (`transforms.py`). As sums over channels are taken of the products, these are
contractions over channels alone, one for each place in a patch, and the weight is transformed when
a session begins (A. Lavin, S. Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016).

What is infinite or no number spreads to all results of its patch here; what is large may overflow,
or take all digits of a result that does not read it. So the squares of all products are added up:
if that is not finite, all is computed as it is written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import combinations, count
from typing import TYPE_CHECKING

from infinisa.isa.language import Axis, Dot, Input, View

from ..code.functions import multiply_add, saturate
from ..code.ir import BYTES, Function, Number, Value, constant, number
from ..expressions.expression import Env, Index, Place, rooted
from .finish import Following
from .packing import pieces, spaced
from .padding import filled, reached, where_they_were
from .roles import Sides
from .transforms import PATCH, RESULT, RESULTS, SIDE, TAPS, Corner, corners, transformed
from .weights import kept

if TYPE_CHECKING:
    from .contraction import Contractions

WORTH = 0.9
"""Of the time of the plain way, the most that this one may be predicted to take."""

AROUND = 5
"""Cycles in which a vector is transformed to or from each product of a patch."""

STREAM = 8
"""Bytes of a weight that come from memory in a cycle."""

FEW = 5
"""Rows of a product that take as long as fewer do."""

WAY, LINES = 4096, 256
"""Bytes of a way of a first cache; by how much more than some of them products of a patch lie
apart, so that they do not share sets."""

PRODUCT = "#product"
"""The axis of the places in a patch."""

_leaves = count()


@dataclass(frozen=True)
class Window:
    """An axis of memory along which each position of `row` reads three neighbours, along `tap`."""

    axis: Axis
    row: Axis
    tap: Axis


def planned(
    emitter: Contractions, node: Dot, sides: Sides, place: Place, env: Env, accumulate: Number
) -> tuple[Window, ...]:
    """The windows whose transformation saves the most time; none, if that is too little."""
    frame = emitter.frame
    if emitter.target.lanes == 1 or emitter.weights is not None or emitter.sight is not None:
        return ()
    x, s = emitter.direct(sides.x), sides.s
    if x is None or x.weight is None or not isinstance(s, View) or s.x in emitter.initials:
        return ()
    memory = emitter.places.get(s.x)
    if memory is None or (memory.borders and s.fill is not None) or accumulate != 0:
        return ()
    if {node.dtype, place.dtype, x.dtype, memory.dtype} != {"f32"}:
        return ()
    if not any(axis in memory.strides and frame.bounds[axis] > 1 for axis in sides.over):
        return ()  # sums over nothing else
    whole = {axis.name for axis in x.weight.axes if axis.extent == TAPS and not axis.divisor}
    found = [window for window in windows(emitter, sides) if window.tap in whole]
    rows = emitter.order([window.row for window in found], place, None)
    found.sort(key=lambda window: rows.index(window.row))
    chosen: tuple[Window, ...] = ()
    least = WORTH * cycles(emitter, sides, ())
    for size in (1, 2):
        for some in combinations(found, size):
            taken = cycles(emitter, sides, some)
            if taken < least and kept_so(emitter, sides, x, some, env):
                chosen, least = some, taken
    return chosen


def kept_so(
    emitter: Contractions, sides: Sides, x: Place, chosen: Sequence[Window], env: Env
) -> bool:
    """Whether a session can keep the weight in panels for that."""
    over = tuple(axis for axis in sides.over if axis not in {window.tap for window in chosen})
    emitter.merged_axes = {}
    return kept(emitter, without_taps(x, chosen), replace(sides, over=over), over, env) is not None


def without_taps(x: Place, chosen: Sequence[Window]) -> Place:
    """A weight whose windows are transformed: one of the products of a patch."""
    assert x.weight is not None
    taps = [window.tap for window in chosen]
    strides = {axis: step for axis, step in x.strides.items() if axis not in taps}
    steps = {axis.name: axis.stride for axis in x.weight.axes}
    axes = tuple(axis for axis in x.weight.axes if axis.name not in taps)
    weight = replace(x.weight, axes=axes, windows=tuple(steps[tap] for tap in taps))
    return replace(x, strides=strides, weight=weight)


def windows(emitter: Contractions, sides: Sides) -> list[Window]:
    """Those of a contraction that can be transformed."""
    assert isinstance(sides.s, View)
    frame, found = emitter.frame, []
    used = [axis for _, index in sides.s.index for axis in index.axes]
    for axis, index in sides.s.index:
        taps = [a for a in index.axes if a in sides.over and frame.length(a) == TAPS]
        rows = [a for a in index.axes if a in sides.rows and frame.bounds[a] > 1]
        ones = dict.fromkeys((*rows, *taps), 1) == dict(index.terms)
        alone = all(used.count(a) == 1 for a in index.axes)
        plain = index.divide == 1 and not index.modulo
        if len(taps) == len(rows) == 1 and ones and alone and plain:
            found.append(Window(axis, rows[0], taps[0]))
    return found


def cycles(emitter: Contractions, sides: Sides, chosen: Sequence[Window]) -> float:
    """What a contraction takes, about, if some of its windows are transformed."""
    bounds, lanes = emitter.frame.bounds, emitter.target.lanes
    rows, taps = [w.row for w in chosen], [w.tap for w in chosen]
    patches = math.prod(-(-bounds[row] // RESULTS) for row in rows)
    patches *= emitter.bound([axis for axis in sides.rows if axis not in rows])
    steps = emitter.bound([axis for axis in sides.over if axis not in taps])
    columns, products = emitter.bound(sides.columns), int(SIDE ** len(chosen))
    multiplied = max(patches, FEW) * products * steps * columns / lanes / 2
    if not chosen:
        return multiplied
    around = AROUND * products * patches * (-(-steps // lanes) + -(-columns // lanes))
    more = (products - int(TAPS ** len(chosen))) * steps * columns * BYTES["float"] / STREAM
    return multiplied + around + more


@dataclass(frozen=True)
class Patches:
    """A contraction under way, over blocks of patches.

    chosen  the windows that are transformed, that of the outermost rows first
    """

    emitter: Contractions
    node: Dot
    sides: Sides
    place: Place
    chosen: tuple[Window, ...]
    env: Env
    after: Following | None

    @property
    def f(self) -> Function:
        return self.emitter.f

    @property
    def lead(self) -> Axis:
        """The axis of rows that blocks divide."""
        return self.chosen[0].row

    @property
    def products(self) -> int:
        """Of a patch."""
        return int(SIDE ** len(self.chosen))

    @property
    def rows(self) -> dict[Axis, int]:
        """Patches along each axis of rows, or rows, at most."""
        bounds, moved = self.emitter.frame.bounds, {window.row for window in self.chosen}
        return {a: -(-bounds[a] // RESULTS) if a in moved else bounds[a] for a in self.sides.rows}

    @property
    def over(self) -> tuple[Axis, ...]:
        """The axes that the products are summed over."""
        gone = {window.tap for window in self.chosen}
        return tuple(axis for axis in self.sides.over if axis not in gone)

    # -- the blocks

    def run(self, plainly: Callable[[], None]) -> None:
        """All blocks, and `plainly` if a product was too large."""
        emitter, f, lanes = self.emitter, self.f, self.emitter.target.lanes
        with emitter.scratch():
            squares = emitter.allot(0, self.node.dtype)
            f.store(constant("float", 0, lanes), squares)
            length = f.ceil_divide(emitter.frame.length(self.lead), RESULTS)

            def block(first: Number, many: Number) -> None:
                with emitter.scope(), emitter.scratch():
                    self.block(first, many, squares)

            pieces(f, length, self.size, block)
            total = f.load(squares, "float", lanes)
            while total.width > 1:
                total = f.binary("fadd", *f.halves(total))
        f.when(f.compare("uge", total, constant("float", math.inf)), plainly)

    @property
    def size(self) -> int:
        """Patches along the first axis in a block: as many as leave what is transformed in the
        second cache; or all, if weights would be read so often that this costs more."""
        emitter, rows = self.emitter, self.rows
        many = rows.pop(self.lead)
        steps, columns = emitter.bound(self.over), emitter.bound(self.sides.columns)
        each = self.products * BYTES["float"] * math.prod(rows.values()) * (steps + columns)
        most = max(1, emitter.target.second * 3 // 4 // each)
        weight = self.products * BYTES["float"] * steps * columns
        blocks = -(-many // most)
        if blocks * weight > weight + 2 * each * many:
            return many
        even = [size for size in range(most, most // 2, -1) if many % size == 0]
        return even[0] if even else -(-many // blocks)

    def block(self, first: Number, many: Number, squares: Value) -> None:
        """Some patches along the first axis: all of their results."""
        f, frame = self.f, self.emitter.frame
        before = dict(frame.lengths), dict(frame.bounds), dict(frame.starts)
        most = self.rows | {self.lead: min(self.size, self.rows[self.lead])}
        lengths = {w.row: f.ceil_divide(frame.length(w.row), RESULTS) for w in self.chosen}
        lengths[self.lead] = many
        start = f.add(frame.starts.get(self.lead, 0), f.multiply(first, RESULTS))
        frame.starts[self.lead] = start
        for row, length in lengths.items():
            frame.lengths[row], frame.bounds[row] = f.multiply(length, RESULTS), most[row] * RESULTS
        leaf = self.patches(lengths, most)
        frame.starts[self.lead] = before[2].get(self.lead, 0)
        sums = self.room((*self.sides.rows, *self.sides.columns))
        self.multiply(leaf, sums)
        self.results(sums, first, before[0], squares)
        frame.lengths, frame.bounds, frame.starts = before

    def room(self, axes: Sequence[Axis]) -> Place:
        """A tensor in scratch for each product of a patch, the last axis contiguous."""
        strides: dict[Axis, Number] = {}
        size = 1
        for axis in reversed(axes):
            strides[axis] = size
            size *= self.emitter.frame.bounds[axis]
            size = spaced(size, "float") if len(strides) == 1 else size
        each = (-(-size * BYTES["float"] // WAY) * WAY + LINES) // BYTES["float"]
        memory = self.emitter.allot(self.products * each, "f32")
        return Place(memory, "f32", {**strides, PRODUCT: each})

    def product(self, place: Place, number: Number) -> Place:
        """One of those tensors."""
        strides = dict(place.strides)
        step = strides.pop(PRODUCT)
        return replace(rooted(place, self.f, self.f.multiply(step, number)), strides=strides)

    # -- what a block is made of

    def patches(self, lengths: Mapping[Axis, Number], most: Mapping[Axis, int]) -> Input:
        """What the windows of a block reach, transformed patch by patch. Whole patches may reach
        further than windows do; results do not depend on what is there."""
        emitter, frame, given = self.emitter, self.emitter.frame, self.sides.s
        assert isinstance(given, View)
        memory, moved = emitter.places[given.x], {window.axis: window for window in self.chosen}
        spans = reached(emitter, replace(given, fill=given.fill or 0.0), memory, self.env)
        inner = [a for a in self.over if a in memory.strides and a not in self.env]
        inner = sorted(inner, key=lambda axis: frame.bounds[axis])
        axes = [a for a in memory.strides if a not in self.env and not a.startswith("#")]
        axes = [a for a in axes if a not in inner] + inner
        own = {a: (spans[a].length, spans[a].bound) for a in axes if a not in moved}
        own |= {row: (length, most[row]) for row, length in lengths.items()}
        rows = [moved[a].row if a in moved else a for a in axes]
        bounds = dict(frame.bounds)
        frame.bounds.update({a: bound for a, (_, bound) in own.items()})
        room = self.room(rows)
        frame.bounds.update(bounds)
        with emitter.scratch():
            copy = filled(emitter, given, memory, inner, spans, "f32", self.env)
            frame.lengths.update({a: length for a, (length, _) in own.items()})
            frame.bounds.update({a: bound for a, (_, bound) in own.items()})
            self.transform(copy, room, rows)
        leaf = Input(f"#patches{next(_leaves)}", tuple(rows), "f32")
        left = {a: spans[a] for a in axes if a not in moved}
        emitter.places[leaf] = where_they_were(emitter, room, left)
        return leaf

    def transform(self, copy: Place, room: Place, axes: list[Axis]) -> None:
        """All patches of a block."""
        emitter, f = self.emitter, self.f
        steps = [copy.strides[window.axis] for window in self.chosen]
        strides = {a: n for a, n in copy.strides.items() if a in axes}
        pairs = zip(self.chosen, steps, strict=True)
        strides |= {w.row: f.multiply(step, RESULTS) for w, step in pairs}
        places = corners(f, replace(copy, strides=strides), SIDE, steps)
        into = [self.product(room, number) for number in range(self.products)]

        def put(at: Env) -> None:
            read = cache(lambda corner: emitter.load(places[corner], at))
            found = transformed(f, PATCH, len(steps), read)
            for (_, value), place in zip(found, into, strict=True):
                emitter.store(value, place, at)

        with emitter.scope():
            emitter.nest(axes, axes[-1], [], self.env, put)

    def multiply(self, leaf: Input, sums: Place) -> None:
        """The contractions of a block, one for each product of a patch."""
        emitter, given = self.emitter, self.sides.s
        found, patches = emitter.direct(self.sides.x), emitter.places[leaf]
        assert isinstance(given, View)
        assert found is not None
        x, gone = without_taps(found, self.chosen), [window.axis for window in self.chosen]
        assert x.weight is not None
        weight = x.weight
        right = Input(f"#weight{next(_leaves)}", tuple(x.strides), "f32")
        left = tuple(pair for pair in given.index if pair[0] not in gone)
        s = View(leaf, left, None) if left else leaf

        def one(index: Value, _: list[Value]) -> None:
            emitter.places[right] = replace(x, weight=replace(weight, number=index))
            emitter.places[leaf] = self.product(patches, index)
            sides = replace(self.sides, x=right, s=s, over=self.over)
            with emitter.scope(), emitter.scratch():
                emitter.summed(self.node, sides, self.product(sums, index), self.env, 0, None)

        self.f.loop(0, self.products, 1, one)

    # -- results

    def results(
        self, sums: Place, first: Number, lengths: Mapping[Axis, Number], squares: Value
    ) -> None:
        """The results of a block, and what follows."""
        emitter, f, sides = self.emitter, self.f, self.sides
        places = [self.product(sums, number) for number in range(self.products)]
        numbers = corners(f, sums, SIDE, [0] * len(self.chosen))
        known = dict(zip(numbers, places, strict=True))
        axes = [*emitter.order((*sides.rows, *sides.columns), self.place, sides.vector)]

        def put(at: Env, carried: list[Value]) -> list[Value]:
            total = list(carried)

            @cache
            def read(corner: Corner) -> Value:
                value = emitter.load(known[corner], at)
                total[0] = multiply_add(f, value, value, total[0])
                return value

            with emitter.scope():
                for corner, value in transformed(f, RESULT, len(self.chosen), read):
                    here, there = self.position(at, corner, first, lengths)
                    store = partial(self.store, value, here)
                    f.when(there, store) if there else store()
            return total

        nothing = constant("float", 0, emitter.target.lanes)
        with emitter.scope():
            (total,) = emitter.carry(axes, sides.vector, [], self.env, put, [nothing])
        before = f.load(squares, "float", emitter.target.lanes)
        f.store(f.binary("fadd", before, total), squares)

    def position(
        self, at: Env, corner: Corner, first: Number, lengths: Mapping[Axis, Number]
    ) -> tuple[Env, Value | None]:
        """Where a result of a patch is, and whether it is one, if that is not sure."""
        f, here, there = self.f, dict(at), None
        for window, more in zip(self.chosen, corner, strict=True):
            row, length = window.row, lengths[window.row]
            begin = f.add(at[row].base, first if row == self.lead else 0)
            index = f.add(f.multiply(begin, RESULTS), more)
            here[row] = Index(index)
            if more and not (isinstance(length, int) and length % RESULTS == 0):
                inside = f.compare("slt", number(index), number(length))
                there = inside if there is None else f.binary("and", there, inside)
        return here, there

    def store(self, value: Value, at: Env) -> None:
        """A sum, or what follows from it."""
        emitter, dtype = self.emitter, self.place.dtype
        with emitter.scope():
            if self.after is not None:
                root = self.after.root
                emitter.memo[emitter.key(self.node, at)] = value
                value = saturate(self.f, emitter.value(root, at), root.dtype, dtype)
            emitter.store(value, self.place, at)
