"""One instruction on tiles of given shapes as one native function with run-time lengths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from infinisa.isa.functions import FUNCTIONS
from infinisa.isa.instruction import Instruction
from infinisa.isa.language import (
    Axis,
    Dot,
    Gather,
    Input,
    Map,
    Node,
    Position,
    Reduce,
    Scan,
    Stack,
    Update,
    View,
    union,
    walk,
)

from ..code.functions import STORED, convert, register
from ..code.ir import BYTES, Function, Number, Value, constant, number
from ..code.processor import Target
from ..contraction.contraction import as_reduce
from ..contraction.packing import pieces
from ..contraction.padding import all_there, padded, plain
from ..expressions.expression import Border, Env, Frame, Index, Place, Weight, WeightAxis
from ..expressions.maxima import plain_maxima
from ..expressions.rows import AT_A_TIME, SIDE_BY_SIDE, Finishing, as_it_is
from ..restricted import Library
from .passes import Passes, Store, Task, sequential
from .written import Written, run_written

RECOMPUTE = 3
"""A value wanted by several loops is stored if it costs more operations than this."""

READ = 2
"""Operations in whose time a processor reads a number."""

LINES = 4
"""Lines of memory that are folded at a time."""

MANY_TAPS = 25
"""Windows of so many positions are copied with what is around them: the border is tested once."""

FEW_TAPS = 16
"""The side of a fold that is copied has no more than this part of the other's numbers."""

DEAR = 8
"""A value that lacks axes of its loop is stored if it costs at least this."""


@dataclass(frozen=True)
class Access:
    """An operand as a kernel sees it: a region of a buffer.

    axes     the axis of each dimension; "" is a single position
    strides  elements from position to position of each dimension; 0 where there is only one
    extents  of the buffer, where positions outside of it are read (0: not in this dimension); else
             empty
    fill     what those positions read as; None: there are none
    buffer   a number for its buffer, or a part of that which the others have nothing in common
             with: the kernel must know which operands share memory
    region   a number for how the region follows from ranges: equal ones are the same memory
    weight   of a weight, each dimension's whole extent, and what divides the first position there
             (0: it is 0); else empty
    past     it is too large to stay in a cache, and rows begin lines of memory
    """

    dtype: str
    axes: tuple[Axis, ...]
    strides: tuple[int, ...]
    extents: tuple[int, ...]
    fill: float | None
    buffer: int
    region: int
    weight: tuple[tuple[int, int], ...] = ()
    past: bool = False

    def place(self, pointer: Value, starts: Sequence[Number], f: Function) -> Place:
        """The region in memory: `pointer` is where it starts, `starts` its first positions."""
        strides: dict[Axis, Number] = {}
        borders: list[Border] = []
        for number_, (axis, stride) in enumerate(zip(self.axes, self.strides, strict=True)):
            name = axis or f"#{number_}"
            extent = self.extents[number_] if self.extents else 0
            if axis or extent:
                strides[name] = stride
            if extent:
                low = f.subtract(0, starts[number_])
                borders.append(Border(name, low, f.subtract(extent, starts[number_])))
        fill = self.fill or 0.0
        return Place(pointer, self.dtype, strides, tuple(borders), fill, past=self.past)


class Kernel(Passes):
    """Emits blocks: several results together, with what they share computed once."""

    accumulate: Number = 0

    def __init__(self, f: Function, target: Target, frame: Frame) -> None:
        super().__init__(f, target, frame)
        self.reserved: dict[Node, Place] = {}
        self.in_place: Mapping[Store, Dot] = {}

    @staticmethod
    def new_frame() -> Frame:
        return Frame()

    def block(self, stores: Sequence[Store], env: Env) -> None:
        """Compute and store results at an environment.

        Folds, contractions and shared values are computed first, each in loops of its own, inside
        loops over the axes that are outer for all of them.
        """
        before = self.in_place, self.plain
        schedule = Schedule(self, stores, env)
        self.in_place = schedule.in_place
        self.plain = plain_maxima(store.node for store in stores)
        self.level(schedule, 0, env)
        self.in_place, self.plain = before

    def level(self, schedule: Schedule, depth: int, env: Env) -> None:
        tasks = [Task(node) for node in schedule.stored if schedule.depth(node) == depth]
        behind = [Task(s.node, s) for s in schedule.stores if schedule.store_depth(s) == depth]
        if depth == len(schedule.outer):
            self.run([*tasks, *behind], env)
            return
        self.run(tasks, env, last=False)
        axis = schedule.outer[depth]

        def turn(index: Value, _: list[Value]) -> None:
            with self.scope():
                self.level(schedule, depth + 1, {**env, axis: Index(index)})

        self.f.loop(0, self.frame.length(axis), 1, turn)
        self.run(behind, env)

    # -- values kept for others

    def keep(self, node: Node, env: Env) -> None:
        inner = [axis for axis in node.axes if axis not in env]
        if isinstance(node, Scan):
            self.scan(node, env)
            return
        if not inner:
            if isinstance(node, Dot):
                fold = as_reduce(node)
                self.reduce(fold, None, env)
                at = tuple(env.get(axis) for axis in node.axes)
                self.memo[node, at, ""] = self.value(fold, env)
            elif isinstance(node, Reduce):
                self.reduce(node, None, env)
            self.keep_number(node, self.value(node, env), env)
            return
        if isinstance(node, Dot):
            with self.turned_side(node, env):
                place = self.dot_place(node, env)
                self.dot_into(node, place, env)
            self.places[node] = place
            return
        place = self.reserved.get(node) or self.scratch_place(inner, node.dtype)
        match node:
            case Reduce():
                self.fold(node, place, env)
            case Update():
                self.update(node, place, env, copied=False)
            case _:
                self.fill(node, place, inner, env)
        self.places[node] = place

    @contextmanager
    def turned_side(self, node: Dot, env: Env) -> Iterator[None]:
        """Where a few products are added up, the side of fewer numbers copied so that an axis along
        which the other side is contiguous is last: taps of windows that go channel by channel,
        beside whose channels vectors then lie."""
        before = dict(self.places)
        if self.a_fold(node, self.private(node, env)):
            for side, other in ((node.a, node.b), (node.b, node.a)):
                place, near = before.get(side), self.reaches(other)
                last = next((a for a in side.axes if any(r.get(a) == 1 for r in near)), None)
                few = FEW_TAPS * self.bound(side.axes) <= self.bound(other.axes)
                if place is None or last is None or last in env or place.borders or not few:
                    continue
                if place.strides.get(last, 1) != 1:
                    order = [axis for axis in self.open(side.axes, env) if axis != last]
                    self.places[side] = self.pack(side, [*order, last], side.dtype, env)
        yield
        self.places = before

    def dot_into(self, node: Dot, place: Place, env: Env, root: Node | None = None) -> None:
        """A contraction into memory, or what `root` makes of it, number by number."""
        if self.sides(node, place, env) is not None:
            self.dot(node, place, env, 0, root)
            return

        def finish(value: Value, at: Env) -> Value:
            if root is None:
                return value
            self.memo[self.key(node, at)] = value
            return convert(self.f, self.value(root, at), register(root.dtype))

        with self.turned_side(node, env):
            self.fold(as_reduce(node), place, env, finish)

    def fold(self, node: Reduce, place: Place, env: Env, finish: Finishing = as_it_is) -> None:
        """A fold, and what is made of it, into memory. Some columns of vectors go through all
        positions together where what each position reads again, such as taps, would not stay in
        the first cache."""
        along = self.folded_along(node, place, env)
        windows = self.bordered_windows(node)
        moved = {axis for view in windows for _, index in view.index for axis in index.axes}
        beside = None if along in moved else along

        def whole() -> None:
            if windows and beside and self.positions(node) >= MANY_TAPS:
                self.fold_beside_copies(windows, node, place, env, finish)
            elif windows and beside:
                self.fold_along(beside, windows, node, place, env, finish)
            elif not windows and along is not None and self.by_lines(node, along):
                self.fold_lines(along, node, place, env)
            else:
                self.fold_copies(windows, moved, node, place, env, finish)

        columns = self.columns(node, beside, env) if beside else None
        if beside is None or columns is None:
            whole()
            return

        def some(first: Number, count: Number) -> None:
            with self.part(beside, first, count), self.scope():
                whole()

        pieces(self.f, self.frame.length(beside), columns, some)

    def columns(self, node: Reduce, along: Axis, env: Env) -> int | None:
        """How many numbers beside each other have what they read again in a quarter of the first
        cache; None: all of them, or nothing is read again."""
        others = [a for a in self.open(node.axes, env) if a != along and self.bound([a]) > 1]
        if along not in node.axes or not self.positions(node):
            return None
        again = [reach for reach in self.reaches(node.x) if not {*others} & {*reach}]
        if not any(along in reach for reach in again):
            return None
        length, least = self.bound([along]), SIDE_BY_SIDE * self.target.lanes
        size = self.positions(node) * BYTES[register(node.dtype)]
        count = -(-length * size // (self.target.first // 4))
        each = -(-length // max(1, count * least)) * least
        return each if others and each < length else None

    def fold_copies(
        self,
        windows: Sequence[View],
        moved: set[Axis],
        node: Reduce,
        place: Place,
        env: Env,
        finish: Finishing,
    ) -> None:
        """A fold of windows over a border, which are copied first, the border filled, those that do
        not meet one after the other."""
        moved = moved | {b.axis for view in windows for b in self.places[view.x].borders}
        apart = [axis for axis in self.open(node.axes, env) if windows and axis not in moved]

        def each(at: Env) -> None:
            before = dict(self.aliases)
            with self.scratch():
                copies = {view: padded(self, view, view.dtype, at, None) for view in windows}
                self.aliases |= {view: (copy, {}) for view, copy in copies.items() if copy != view}
                self.reduce(node, place, at, finish)
            self.aliases = before

        with self.scope():
            self.loops(apart, env, each)

    def fold_beside_copies(
        self,
        windows: Sequence[View],
        node: Reduce,
        place: Place,
        env: Env,
        finish: Finishing,
    ) -> None:
        """A fold of windows by vectors that lie beside them, over copies of all that they reach."""
        before = dict(self.aliases)
        with self.scratch(), self.scope():
            copies = {view: padded(self, view, view.dtype, env, None) for view in windows}
            self.aliases |= {view: (copy, {}) for view, copy in copies.items() if copy != view}
            self.reduce(node, place, env, finish)
        self.aliases = before

    def fold_along(
        self,
        along: Axis,
        windows: Sequence[View],
        node: Reduce,
        place: Place,
        env: Env,
        finish: Finishing,
    ) -> None:
        """A fold of windows by vectors that lie beside them. Positions of a window are tested, once
        for a vector, only if not all of them are in memory."""

        def each(at: Env) -> None:
            if not all(plain(self, view) for view in windows):
                self.reduce(node, place, at, finish)
                return
            inside = self.every([test for view in windows for test in all_there(self, view, at)])
            self.f.either(inside, lambda: reduced(at, whole=True), lambda: reduced(at))

        def reduced(at: Env, whole: bool = False) -> list[Value]:
            before = self.places, dict(self.aliases)
            if whole:
                seen = {view.x: replace(self.places[view.x], borders=()) for view in windows}
                self.places = {**before[0], **seen}
                filled = [view for view in windows if view.fill is not None]
                self.aliases |= {view: (replace(view, fill=None), {}) for view in filled}
            with self.scope():
                self.reduce(node, place, at, finish)
            self.places, self.aliases = before
            return []

        outer = self.order([a for a in self.open(node.axes, env) if a != along], place, None)
        with self.scope():
            self.nest(outer, None, [], env, each)

    def by_lines(self, node: Reduce, along: Axis) -> bool:
        """Whether a fold goes across lines of memory, and over more than registers can wait for."""
        whole = STORED[node.dtype] == register(node.dtype) and node.function != "argmax"
        return whole and along not in node.over and not self.positions(node)

    def fold_lines(self, along: Axis, node: Reduce, place: Place, env: Env) -> None:
        """A fold of lines of memory, some at a time, into a line that stays in cache. Vector by
        vector, every step would be in another page."""
        f, order = self.f, self.longest_first([*node.axes, *node.over], along, [node.x])
        *others, line = (axis for axis in order if axis in node.over)
        kept = [axis for axis in self.open(order, env) if axis in node.axes]
        inner = [a for a in kept if order.index(a) > order.index([*others, line][0])]
        outer = [axis for axis in kept if axis not in inner]
        copies = max(1, min(self.side_by_side(along), AT_A_TIME // LINES))
        length, fold = self.frame.length(line), self.fold_of(node)
        full = f.whole(length, LINES)

        def each(at: Env) -> None:
            sums = self.scratch_place(inner, node.dtype)

            def start(now: Env) -> None:
                self.store(fold.initial(self.width)[0], sums, now)

            def added(now: Env) -> None:
                value = self.folded_at_once(node, [line], now, [self.load(sums, now)])
                self.store(value, sums, now)

            def lines(now: Env, first: Number, count: int) -> None:
                with self.part(line, first, count), self.scope():
                    self.nest(inner, along, [node.x], now, added, copies)

            def all_lines(now: Env) -> None:
                f.loop(0, full, LINES, lambda first, _: lines(now, first, LINES))
                if full != length:
                    f.loop(full, length, 1, lambda first, _: lines(now, first, 1))

            self.nest(inner, along, [], at, start)
            self.loops(others, at, all_lines)
            places = dict(self.places)
            self.places[node] = sums
            self.fill(node, place, inner, at)
            self.places = places

        with self.scope(), self.scratch():
            self.loops(outer, env, each)

    # -- results

    def put(self, store: Store, env: Env) -> None:
        node, place = store.node, store.place
        free = not self.there(node)
        if free and store in self.in_place:
            dot = self.in_place[store]
            if store.state is None:
                self.dot_into(dot, place, env, node)
            else:
                self.dot(dot, place, env, self.accumulate)
        elif free and isinstance(node, Dot):
            self.put_dot(node, store, env)
        elif free and isinstance(node, Reduce) and set(store.axes) <= {*node.axes, *env}:
            self.put_reduce(node, place, env)
        elif free and isinstance(node, Update):
            copied = self.same(node.x, place)
            self.update(node, place, env, copied)
        else:
            self.fill(node, place, store.axes, env)

    def put_dot(self, node: Dot, store: Store, env: Env) -> None:
        kind = STORED[store.place.dtype] == register(node.dtype)
        lacking = [axis for axis in store.axes if axis not in node.axes]
        alone = self.a_fold(node, self.private(node, env))
        if not lacking and kind and (alone or self.sides(node, store.place, env)):
            self.dot_into(node, store.place, env)
            return
        with self.scratch():
            self.keep(node, env)
            self.fill(node, store.place, store.axes, env)

    def put_reduce(self, node: Reduce, place: Place, env: Env) -> None:
        if all(axis in env for axis in node.axes):
            self.reduce(node, None, env)
            self.fill(node, place, node.axes, env)
        else:
            self.fold(node, place, env)

    def same(self, node: Node, place: Place) -> bool:
        """Whether a node already lies exactly there."""
        found = self.places.get(node)
        return (
            found is not None
            and node not in self.initials
            and (found.pointer, found.dtype) == (place.pointer, place.dtype)
            and dict(found.strides) == dict(place.strides)
        )

    # -- recurrences

    def scan(self, node: Scan, env: Env) -> None:
        """All results of a recurrence, step by step; what a body emits is collected.

        States have two places in turn: one is read while the other is written.
        """
        body, f, siblings = node.body, self.f, self.siblings
        states, after = (
            [self.scratch_place(leaf.axes, leaf.dtype) for leaf in body.states] for _ in range(2)
        )
        emitted = [
            self.scratch_place((body.axis, *given.axes), given.dtype) for given in body.emits
        ]
        for first, place, leaf in zip(node.initial, states, body.states, strict=True):
            self.fill(first, place, leaf.axes, env)
        before = dict(self.places), dict(self.aliases), set(self.known), dict(self.packed)
        self.pack_for_steps(node, env)
        length, count = self.frame.length(body.axis), len(states)

        def turn(index: Value, pointers: list[Value]) -> list[Value]:
            last = f.subtract(f.subtract(length, 1), index)
            at = Index(last if body.reverse else index)
            old, new = at_pointers(states, pointers[:count]), at_pointers(states, pointers[count:])
            self.places.update(zip(body.states, old, strict=True))
            for leaf, given in zip(body.slices, node.xs, strict=True):
                self.aliases[leaf] = (given, {body.axis: at})
            stores = [
                Store(value, place, leaf.axes)
                for value, place, leaf in zip(body.next, new, body.states, strict=True)
            ]
            stores += [
                Store(value, place, value.axes)
                for value, place in zip(body.emits, emitted, strict=True)
            ]
            with self.scope(), self.scratch():
                self.block(stores, {**env, body.axis: at})
            return [*pointers[count:], *pointers[:count]]

        ends = f.loop(0, length, 1, turn, [place.pointer for place in (*states, *after)])
        self.places, self.aliases, self.known, self.packed = before
        results = [*at_pointers(states, ends[:count]), *emitted]
        for other in (node, *siblings):
            if (other.body, other.initial, other.xs) == (body, node.initial, node.xs):
                self.places[other] = results[other.output]

    def pack_for_steps(self, node: Scan, env: Env) -> None:
        """Panels of the contractions of a body that are the same in all steps."""
        body = node.body
        moving = {*body.states, *body.slices, Position(body.axis)}
        for inner in walk([*body.next, *body.emits]):
            if isinstance(inner, Dot) and self.target.lanes > 1 and self.open(inner.axes, env):
                place = self.dot_place(inner, env)
                sides = self.sides(inner, place, env)
                if sides is not None and not moving & set(walk([sides.x])):
                    self.pack_once(inner, place, env)

    siblings: tuple[Scan, ...] = ()


def at_pointers(places: Sequence[Place], pointers: Sequence[Value]) -> list[Place]:
    """Tensors laid out the same elsewhere."""
    pairs = zip(places, pointers, strict=True)
    return [replace(place, pointer=pointer) for place, pointer in pairs]


class Schedule:
    """What a block computes before its results, and the loops around it.

    stored     nodes kept for others, each before those that use it
    favourite  the axis that vectors had best go along
    outer      axes of the loops around everything
    in_place   results that a contraction stores: their state plus it, added where that is, or what
               its tiles make of it
    """

    def __init__(self, kernel: Kernel, stores: Sequence[Store], env: Env) -> None:
        self.kernel, self.stores, self.env = kernel, list(stores), env
        self.roots = [store.node for store in stores]
        self.in_place = {
            store: dot
            for store in stores
            for found in (self.accumulation, self.finished)
            if (dot := found(store)) is not None
        }
        places = [store.place for store in self.stores]
        places += [kernel.places[n] for n in walk(self.roots) if n in kernel.places]
        self.favourite = kernel.favourite(places)
        self.stored = self.choose()
        kernel.siblings = tuple(n for n in self.stored if isinstance(n, Scan))
        self.outer = self.outer_axes()

    # -- results that accumulate

    def accumulation(self, store: Store) -> Dot | None:
        kernel, node = self.kernel, store.node
        if store.state is None or not store.safe or not isinstance(node, Map):
            return None
        if node.function != "add" or store.state not in node.arguments:
            return None
        dot = next((a for a in node.arguments if a is not store.state), None)
        if not isinstance(dot, Dot) or set(dot.axes) != set(store.axes):
            return None
        initial = kernel.initials[store.state][1] if store.state in kernel.initials else 0.0
        if initial != 0.0 or STORED[store.place.dtype] != register(dot.dtype):
            return None
        return dot if kernel.sides(dot, store.place, self.env) else None

    def finished(self, store: Store) -> Dot | None:
        """The contraction of which tiles make a result, number by number."""
        kernel, node, place = self.kernel, store.node, store.place
        if not isinstance(node, Map) or store.late or not store.safe or self.there(node):
            return None
        dot = next((n for n in reversed([*walk([node])]) if isinstance(n, Dot)), None)
        others = walk([root for root in self.roots if root is not node])
        if dot is None or dot in others or self.roots.count(node) > 1:
            return None
        if set(dot.axes) != set(store.axes) or STORED[place.dtype] != register(dot.dtype):
            return None
        sides = kernel.sides(dot, place, self.env)
        few = not sides and kernel.a_fold(dot, kernel.private(dot, self.env))
        vector = sides.vector if sides else None
        return dot if (sides or few) and kernel.following(node, dot, vector) else None

    # -- what is stored

    def choose(self) -> list[Node]:
        """Folds and contractions, and other values that several loops want."""
        order = [node for node in walk(self.roots) if not self.there(node)]
        self.folded = {axis for node in order if isinstance(node, Reduce) for axis in node.over}
        absorbed = set(self.in_place.values())
        chosen: set[Node] = {
            node
            for node in order
            if isinstance(node, Reduce | Dot | Scan | Update) and node not in absorbed
        }
        chosen |= {
            store.node for store in self.stores if not store.safe and not self.there(store.node)
        }
        direct = {
            store.node
            for store in self.stores
            if store.safe and isinstance(store.node, Reduce | Dot | Update)
            and self.roots.count(store.node) == 1
        }  # fmt: skip
        used = {child for node in order for child in node.children}
        chosen -= {node for node in direct if node not in used}
        while (more := self.shared(order, chosen)) is not None:
            chosen.add(more)
        return [node for node in order if node in chosen]

    def there(self, node: Node) -> bool:
        return self.kernel.there(node)

    def nests(self, chosen: set[Node]) -> list[tuple[Node, frozenset[Axis], Node | None]]:
        """(root, axes of its loops, who alone runs these) for everything that will have loops of
        its own: rows share theirs, a contraction computes its sides in no others."""
        found: list[tuple[Node, frozenset[Axis], Node | None]] = []
        for node in [*chosen, *self.roots, *self.in_place.values()]:
            match node:
                case Reduce(_, x, _):
                    found.append((x, frozenset(x.axes), None))
                case Dot() | Update() | Scan():
                    children = [x for x in node.children if x not in chosen]
                    found += [(child, frozenset(child.axes), node) for child in children]
                case _:
                    found.append((node, frozenset(node.axes), None))
        return found

    def shared(self, order: Sequence[Node], chosen: set[Node]) -> Node | None:
        """A value, as large as possible, that is dear and wanted more than once."""
        uses: dict[Node, int] = {}
        broadcast: set[Node] = set()
        for root, axes, _ in dict.fromkeys(self.nests(chosen)):
            for node in self.reached(root, chosen):
                uses[node] = uses.get(node, 0) + 1
                if self.lacks(node, axes):
                    broadcast.add(node)
        for node in reversed(order):
            if node in chosen or not isinstance(node, Map) or node not in uses:
                continue
            if all(axis in self.env for axis in node.axes):
                continue
            wanted = uses[node] > 1 and self.again(node, chosen) > RECOMPUTE
            if wanted or (node in broadcast and self.cost(node, chosen) >= DEAR):
                return node
        return None

    def lacks(self, node: Node, axes: frozenset[Axis]) -> bool:
        missing = axes - {*node.axes, *self.env}
        return bool(missing) and self.kernel.bound(sorted(missing)) > 1 and bool(node.axes)

    def reached(self, root: Node, chosen: set[Node]) -> list[Node]:
        """What the loops of a root compute themselves; not what they only look up."""
        absorbed = set(self.in_place.values())
        found: dict[Node, None] = {}
        stack = [root]
        while stack:
            node = stack.pop()
            stop = node is not root and (node in chosen or node in absorbed)
            if node in found or stop or self.there(node):
                continue
            found[node] = None
            stack += [node.index] if isinstance(node, Gather) else node.children
        return list(found)

    def cost(self, node: Node, chosen: set[Node]) -> int:
        maps = [n for n in self.reached(node, chosen - {node}) if isinstance(n, Map)]
        return sum(FUNCTIONS[n.function].cost for n in maps)

    def again(self, node: Node, chosen: set[Node]) -> int:
        """Operations to compute a value in another loop too, and for all but one of the numbers
        that it reads; what is the same for a whole row is known by then."""
        found = self.reached(node, chosen - {node})
        maps = [n for n in found if isinstance(n, Map) and not self.once_a_row(n, node)]
        read = {child for n in maps for child in n.children if self.there(child)}
        reads = sum(not self.once_a_row(child, node) for child in read)
        return sum(FUNCTIONS[n.function].cost for n in maps) + READ * max(0, reads - 1)

    def once_a_row(self, node: Node, other: Node) -> bool:
        """Whether a value is known before a loop over another one: it lacks the axis of rows, which
        folds go along."""
        axis = self.favourite
        return axis in self.folded and axis in other.axes and axis not in node.axes

    # -- the loops around

    def outer_axes(self) -> list[Axis]:
        nodes = list(walk([*self.roots, *self.stored]))
        if not self.stored or any(isinstance(node, Scan | Update) for node in nodes):
            return []
        inner = {*self.env, *sequential(nodes)}
        axes = union([*(store.axes for store in self.stores), *(n.axes for n in self.stored)])
        bounds = self.kernel.frame.bounds
        return [a for a in axes if a not in inner and a != self.favourite and bounds.get(a, 2) > 1]

    def depth(self, node: Node) -> int:
        """How many of the outer loops a node is in."""
        return max((self.outer.index(a) + 1 for a in node.axes if a in self.outer), default=0)

    def store_depth(self, store: Store) -> int:
        return max((self.outer.index(a) + 1 for a in store.axes if a in self.outer), default=0)


# ---------------------------------------------------------------- the function of an instruction


@dataclass(frozen=True)
class Shape:
    """All that decides a kernel's code.

    meaning  operands, results and states of the instruction
    axes     start and length of each axis: a number, or None if it is known only when it runs
    bounds   how long each axis can be
    fresh    None: states always start anew
    written  what the author wrote to run instead
    """

    meaning: tuple[object, ...]
    reads: tuple[Access, ...]
    writes: tuple[Access, ...]
    axes: tuple[tuple[Axis, int | None, int | None], ...]
    sizes: tuple[tuple[Axis, int | None], ...]
    bounds: tuple[tuple[Axis, int], ...]
    outputs: tuple[int, ...]
    fresh: bool | None
    written: Written | None = None


def parameters(shape: Shape) -> list[tuple[str, str]]:
    """The parameters of a kernel, in order; `program.py` gives the arguments in the same order."""
    shared = {w.buffer for w in shape.writes}
    shared = {name for name in shared if sum(w.buffer == name for w in shape.writes) > 1
              or any(r.buffer == name for r in shape.reads)}  # fmt: skip
    found = [("work", "ptr noalias")]
    for side, accesses in (("r", shape.reads), ("w", shape.writes)):
        for i, access in enumerate(accesses):
            found.append((f"{side}{i}", "ptr" if access.buffer in shared else "ptr noalias"))
            found += [(f"{side}{i}s{d}", "i64") for d in bordered(access)]
            if access.weight:
                found.append((f"{side}{i}packed", "ptr noalias"))
                found += [(f"{side}{i}first{d}", "i64") for d in moving(access)]
    for i, (_, start, length) in enumerate(shape.axes):
        found += [(f"start{i}", "i64")] if start is None else []
        found += [(f"length{i}", "i64")] if length is None else []
    found += [(f"size{i}", "i64") for i, (_, size) in enumerate(shape.sizes) if size is None]
    if shape.fresh is None:
        found.append(("again", "i64"))
    if shape.written:
        found.append(("fault", "ptr noalias"))
    return found


def build(kernel: Kernel, meaning: Instruction, shape: Shape, bodies: Library) -> None:
    """The body of an instruction's function; what authors wrote is compiled into `bodies`."""
    f, frame = kernel.f, kernel.frame
    given = f.parameters
    kernel.work = given["work"]
    frame.bounds.update(shape.bounds)
    for i, (axis, start, length) in enumerate(shape.axes):
        frame.starts[axis] = given[f"start{i}"] if start is None else start
        frame.lengths[axis] = given[f"length{i}"] if length is None else length
    frame.limits.update(frame.lengths)
    for i, (axis, size) in enumerate(shape.sizes):
        frame.sizes[axis] = given[f"size{i}"] if size is None else size
    reads, writes = (
        [_place(kernel, side, i, access) for i, access in enumerate(accesses)]
        for side, accesses in (("r", shape.reads), ("w", shape.writes))
    )
    kernel.places.update(zip(meaning.operands, reads, strict=True))
    again: Number = given["again"] if shape.fresh is None else int(not shape.fresh)
    kernel.accumulate = again
    states = _states(kernel, meaning, shape, writes, again)
    stores = []
    for number_, (output, place) in enumerate(zip(shape.outputs, writes, strict=True)):
        axes = tuple(axis for axis in shape.writes[number_].axes if axis)
        safe = not _overtaken(meaning, shape, number_)
        state = states.get(output)
        alone = _alone(shape, number_)
        stores.append(Store(meaning.outputs[output], place, axes, state, safe, alone))
    if shape.written:
        keep_overwritten(kernel, meaning, shape)
        run_written(kernel, meaning, shape.written, shape.outputs, stores, bodies)
    else:
        single = {a: Index(0) for store in stores for a in store.node.axes if a not in store.axes}
        kernel.block(stores, single)  # an axis that no result names has one position
    if any(place.past for place in writes):
        f.line("fence seq_cst")  # other threads see such stores in no order of their own
    f.done()


def keep_overwritten(kernel: Kernel, meaning: Instruction, shape: Shape) -> None:
    """Copy operands that share memory with a result: loops around what an author wrote store
    results while operands are still read."""
    written = {access.buffer for access in shape.writes}
    for leaf, access in zip(meaning.operands, shape.reads, strict=True):
        if access.buffer in written:
            kernel.places[leaf] = kernel.pack(leaf, leaf.axes, leaf.dtype, {})


def _place(kernel: Kernel, side: str, i: int, access: Access) -> Place:
    given = kernel.f.parameters
    starts: list[Number] = [0] * len(access.extents)
    for d in bordered(access):
        starts[d] = given[f"{side}{i}s{d}"]
    place = access.place(given[f"{side}{i}"], starts, kernel.f)
    return replace(place, weight=_weight(kernel, i, access)) if access.weight else place


def bordered(access: Access) -> list[int]:
    """The dimensions in which positions outside of the buffer are read."""
    return [d for d, extent in enumerate(access.extents) if extent]


def moving(access: Access) -> list[int]:
    """The dimensions of a weight along which a region may begin elsewhere than at 0."""
    return [d for d, (_, divisor) in enumerate(access.weight) if divisor]


def _weight(kernel: Kernel, i: int, access: Access) -> Weight:
    given = kernel.f.parameters
    axes: list[WeightAxis] = []
    stride = 1
    for d, (extent, divisor) in reversed(list(enumerate(access.weight))):
        start: Number = given[f"r{i}first{d}"] if divisor else 0
        axes.append(WeightAxis(access.axes[d] or f"#{d}", extent, stride, start, divisor))
        stride *= extent
    return Weight(i, given[f"r{i}packed"], tuple(reversed(axes)))


def _states(
    kernel: Kernel, meaning: Instruction, shape: Shape, writes: Sequence[Place], again: Number
) -> dict[int, Input]:
    """Where states are read: where their outputs are written, or at the start their initial."""
    found: dict[int, Input] = {}
    anew: Value | None = None
    if not isinstance(again, int):
        anew = kernel.f.compare("eq", number(again), constant("i64", 0))
    for output, state in enumerate(meaning.states):
        if output not in shape.outputs:
            continue
        place = writes[shape.outputs.index(output)]
        kernel.places[state.input] = place
        found[output] = state.input
        if again != 1:
            kernel.initials[state.input] = (anew or constant("i1", True), state.initial)
    return found


def _alone(shape: Shape, number_: int) -> bool:
    """Whether a result is written to a buffer that nothing else is read from or written to."""
    buffers = [access.buffer for access in (*shape.reads, *shape.writes)]
    return buffers.count(shape.writes[number_].buffer) == 1


def _overtaken(meaning: Instruction, shape: Shape, number_: int) -> bool:
    """Whether a result reads what storing a result may have changed before.

    It may read what it overwrites itself at the same position: its own state, or an operand that
    is the same region of the same buffer.
    """
    output, write = shape.outputs[number_], shape.writes[number_]
    root = meaning.outputs[output]
    plain = _plainly_read(root)
    states = {s.input: o for o, s in enumerate(meaning.states) if o in shape.outputs}
    for node in walk([root]):
        if not isinstance(node, Input):
            continue
        if node in states:
            if states[node] != output or node not in plain:
                return True
        elif node in meaning.operands:
            read = shape.reads[meaning.operands.index(node)]
            for other in shape.writes:
                if read.buffer != other.buffer:
                    continue
                equal = (read.region, read.axes, read.fill) == (other.region, other.axes, None)
                if other is not write or not equal or node not in plain:
                    return True
    return False


def _plainly_read(root: Node) -> set[Node]:
    """Inputs that a value reads at its own position only; none below folds and views."""
    found: set[Node] = set()
    stack, seen = [root], set[Node]()
    beneath: set[Node] = set()
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if isinstance(node, Map) or node is root:
            if isinstance(node, Reduce | Dot | Scan | Update | View | Gather | Stack):
                beneath.update(walk(node.children))
            else:
                stack += node.children
        elif isinstance(node, Input):
            found.add(node)
        else:
            beneath.update(walk([node]))
    same = {node for node in found if set(node.axes) == set(root.axes)}
    return same - beneath


def axes_of(meaning: Instruction) -> tuple[Axis, ...]:
    """Every axis that an instruction's code mentions."""
    groups: list[Sequence[Axis]] = []
    for node in walk(meaning.outputs):
        groups.append(node.axes)
        match node:
            case Scan(body, _, _, _):
                groups.append((body.axis,))
                groups += [n.axes for n in walk((*body.next, *body.emits))]
            case View(_, index, _) | Update(_, _, index):
                groups += [(axis, *affine.axes) for axis, affine in index]
    groups += [operand.axes for operand in meaning.operands]
    return union(groups)


def needs_starts(meaning: Instruction) -> bool:
    """Whether the code depends on where ranges begin."""
    return any(isinstance(n, Position | View | Update | Scan) for n in walk(meaning.outputs))
