"""What a block computes, in as few loops as possible.

A block's tasks are values kept for others and results. Contractions, recurrences and updates are
done one after the other; what is between them goes row by row, and a row in passes: all folds and
stores whose operands are ready share one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from infinisa.isa.functions import FUNCTIONS as ROWS
from infinisa.isa.language import (
    Axis,
    Constant,
    Dot,
    Gather,
    Immediate,
    Input,
    Map,
    Node,
    Reduce,
    Scan,
    Stack,
    Update,
    View,
    union,
    walk,
)

from ..code.functions import STORED, register, saturate
from ..code.ir import BYTES, Number, Value
from ..contraction.contraction import Contractions, as_reduce
from ..contraction.packing import panel_columns, pieces, spaced, tile_rows, tile_vectors
from ..expressions.expression import Border, Env, Place, rooted
from ..expressions.masks import Horizon, horizon
from ..expressions.rows import CUT, Work

LEAST_ROWS, CUTS = 24, 64
"""Rows of a block that is cut to what its rows see: at least so many, at most so small a part."""

FULL = 0.75
"""Blocks are equal, which needs the code of one only, if more than this part of the rows of their
register tiles is there; else these are full, and the last block is another one."""


SPARE = 8
"""Operations of a pass at one position in whose time lines of results are brought, too."""


@dataclass(frozen=True, eq=False)
class Store:
    """A result: a node, where it goes, over which axes; the state there before, if any.

    safe   it reads nothing that storing a result changes, but what it replaces itself
    alone  nothing else, but its state, is read or written in the buffer where it goes
    """

    node: Node
    place: Place
    axes: tuple[Axis, ...]
    state: Input | None = None
    safe: bool = True
    alone: bool = True

    @property
    def late(self) -> bool:
        """Whether others may read what it overwrites."""
        return not self.alone or self.state is not None


@dataclass(frozen=True, eq=False)
class Task:
    """A value to keep for others, or a result to store."""

    node: Node
    store: Store | None = None


@dataclass(frozen=True, eq=False)
class Pass:
    """Tasks that share their loops, over `axes`; without any, one task that goes by itself."""

    axes: frozenset[Axis]
    tasks: list[Task]


class Passes(Contractions):
    """Emits tasks.

    reserved  memory for values that are kept for all rows
    in_place  results that a contraction stores: see `Schedule`
    """

    reserved: dict[Node, Place]
    in_place: Mapping[Store, Dot]

    def keep(self, node: Node, env: Env) -> None:
        """Compute a value that others read, in loops of its own."""
        raise NotImplementedError

    def put(self, store: Store, env: Env) -> None:
        """Store a result, in loops of its own."""
        raise NotImplementedError

    def one(self, task: Task, env: Env) -> None:
        if task.store is not None:
            self.put(task.store, env)
        elif not self.there(task.node):
            self.keep(task.node, env)

    def there(self, node: Node) -> bool:
        """Whether a value is in memory or in registers."""
        return node in self.places or node in self.known

    def open(self, axes: Sequence[Axis], env: Env) -> list[Axis]:
        return [axis for axis in axes if axis not in env]

    # -- contractions and what is between them

    def run(self, tasks: Sequence[Task], env: Env, last: bool = True) -> None:
        """Tasks, each behind those that it reads. Others come later, unless these are the last."""
        block = Blocking(self, tasks, env).found if last else None
        if block is None:
            self.sequence(tasks, env, last)
        else:
            self.in_blocks(block, env)

    def in_blocks(self, block: Block, env: Env) -> None:
        """Contractions and what follows them for some rows at a time."""
        self.sequence(block.before, env, last=False)
        outside, packed = (dict(self.places), set(self.known), self.in_place), dict(self.packed)
        for task in block.tasks:
            with self.part_of(replace(block, horizon=None), 0, block.size):
                self.pack_before(task, block.axis, env)

        def rows(first: Number, count: Number) -> None:
            with self.scope(), self.scratch(), self.part_of(block, first, count):
                self.sequence(self.moved(block, first), env)
            self.places, self.known = dict(outside[0]), set(outside[1])
            self.in_place = outside[2]

        pieces(self.f, self.frame.length(block.axis), block.size, rows)
        self.packed = packed

    @contextmanager
    def part_of(self, block: Block, first: Number, count: Number) -> Iterator[None]:
        """The axis of a block is these of its positions, as if there were no others."""
        frame, f, axis = self.frame, self.f, block.axis
        before = dict(frame.starts), dict(frame.lengths), dict(frame.bounds), self.places
        cut, sight = self.cut, self.sight
        frame.starts[axis] = f.add(frame.starts.get(axis, 0), first)
        frame.lengths[axis], frame.bounds[axis] = count, block.size
        if block.horizon is not None:
            other = block.horizon.axis
            most = frame.length(other)
            whole = isinstance(most, int) and most % (CUT * self.target.lanes) == 0
            frame.lengths[other] = self.seen(block.horizon, axis)
            self.cut |= {other} if whole else set()
            self.sight = block.horizon, axis
        self.places = {node: self.from_row(place, axis, first) for node, place in before[3].items()}
        yield
        frame.starts, frame.lengths, frame.bounds, self.places = before
        self.cut, self.sight = cut, sight

    def seen(self, horizon: Horizon, row: Axis) -> Number:
        """How many positions the rows see, in whole vectors; at least one."""
        f, frame = self.f, self.frame
        count = self.visible(horizon, row, frame.length(row))
        most, step = frame.length(horizon.axis), CUT * self.target.lanes
        return f.minimum(f.multiply(f.ceil_divide(count, step), step), most)

    def moved(self, block: Block, first: Number) -> list[Task]:
        """The tasks of a block, with results stored where its rows are."""
        found, added = [], dict(self.in_place)
        for task in block.tasks:
            store = task.store
            if store is None:
                found.append(task)
                continue
            place = self.from_row(store.place, block.axis, first)
            now = replace(store, place=place)
            found.append(Task(task.node, now))
            if store in added:
                added[now] = added.pop(store)
        self.in_place = added
        return found

    def from_row(self, place: Place, axis: Axis, first: Number) -> Place:
        """A tensor seen from a later position of an axis on."""
        if axis not in place.strides or first == 0:
            return place
        f = self.f
        borders = tuple(
            Border(a, f.subtract(low, first), f.subtract(high, first)) if a == axis
            else Border(a, low, high)
            for a, low, high in place.borders
        )  # fmt: skip
        stride = place.strides[axis]
        found = rooted(place, f, f.multiply(first, stride))
        lines = isinstance(stride, int) and stride % self.target.lanes == 0
        room = None if place.room == axis else place.room
        return replace(found, borders=borders, past=place.past and lines, room=room)

    def pack_before(self, task: Task, axis: Axis, env: Env) -> None:
        """Panels of a contraction that are the same in all blocks along an axis."""
        node = self.in_place.get(task.store, task.node) if task.store else task.node
        if not isinstance(node, Dot) or self.by_rows(task) or self.target.lanes == 1:
            return
        place = task.store.place if task.store else self.dot_place(node, env)
        sides = self.sides(node, place, env)
        if sides is not None and axis not in sides.x.axes:
            self.pack_once(node, place, env)

    def dot_place(self, node: Dot, env: Env) -> Place:
        """Memory for a contraction: rows of a length that is known late have room for panels; rows
        that no other axis of columns continues do not share sets."""
        axes, frame = self.result_order(node, env), self.frame
        last, most = axes[-1], frame.bounds[axes[-1]]
        if isinstance(frame.length(last), int) or self.target.lanes == 1:
            side, other = (node.a, node.b) if last in node.a.axes else (node.b, node.a)
            columns = [axis for axis in axes if axis in side.axes and axis not in other.axes]
            if columns == [last]:
                return self.rows_apart(axes, node.dtype, most)
            return self.scratch_place(axes, node.dtype)
        width = panel_columns(self.target, most)
        return replace(self.rows_apart(axes, node.dtype, -(-most // width) * width), room=last)

    def rows_apart(self, axes: Sequence[Axis], dtype: str, columns: int) -> Place:
        """Memory with so many columns a row, or a line more."""
        bounds, last = self.frame.bounds, axes[-1]
        most = bounds[last]
        bounds[last] = spaced(columns, STORED[dtype])
        place = self.scratch_place(axes, dtype)
        bounds[last] = most
        return place

    def result_order(self, node: Dot, env: Env) -> list[Axis]:
        """Axes of a contraction's scratch: last the one that a side has contiguous already, or
        along which vectors fold."""
        inner = self.open(node.axes, env)
        along = None
        if self.a_fold(node, self.private(node, env)):
            along = self.folded_along(as_reduce(node), None, env)
        best = max(
            inner,
            key=lambda axis: (
                axis == along,
                (axis in node.a.axes) != (axis in node.b.axes),
                self.contiguous_in(node, axis),
                inner.index(axis),
            ),
        )
        return [*(axis for axis in inner if axis != best), best]

    def contiguous_in(self, node: Dot, axis: Axis) -> bool:
        side = node.a if axis in node.a.axes else node.b
        place = self.places.get(side)
        return place is not None and place.strides.get(axis) == 1

    def sequence(self, tasks: Sequence[Task], env: Env, last: bool = True) -> None:
        """Tasks one after the other, rows between contractions together."""
        needs = needed(tasks)
        left, done = list(tasks), set[Task]()
        while left:
            rows: list[Task] = []
            for task in left:
                if needs[task] <= done and self.by_rows(task):
                    rows.append(task)
                    done.add(task)
            left = [task for task in left if task not in done]
            wanted = {other.node for task in left for other in needs[task]}
            wanted |= set() if last else {task.node for task in rows}
            spent = spent_sums(rows, needs) if last else {}
            self.rows(Rowwise(rows, wanted, needs, spent), env)
            if left:
                first = next(task for task in left if needs[task] <= done)
                self.one(first, env)
                done.add(first)
                left.remove(first)

    def by_rows(self, task: Task) -> bool:
        """Whether a task is done position by position."""
        if self.there(task.node):
            return True
        if task.store in self.in_place or isinstance(task.node, Dot | Scan | Update):
            return False
        return not isinstance(task.node, Reduce) or not self.bordered_windows(task.node)

    def bordered_windows(self, node: Reduce) -> list[View]:
        """What a fold reads of memory in windows, some of which lie over a border."""
        return [
            view
            for view in self.inlined([node.x])
            if isinstance(view, View)
            and (place := self.places.get(view.x)) is not None
            and (place.borders or view.fill is not None)
            and any(
                len(index.terms) > 1 and {*index.axes} & {*node.over} for _, index in view.index
            )
        ]

    # -- rows

    def rows(self, given: Rowwise, env: Env) -> None:
        """Tasks row by row."""
        outer: list[Axis] = []
        if any(isinstance(task.node, Reduce) for task in given.tasks):
            outer = self.outer_axes(given, env)
        along = self.row_axis(given) if outer else None
        for node in given.kept:
            axes = sorted(self.open(node.axes, env), key=lambda axis: axis == along)
            if outer and node in given.wanted and axes and not self.there(node):
                if node in given.spent:
                    self.reserved[node] = self.places[given.spent[node]]
                    continue
                most = self.frame.bounds[axes[-1]]
                self.reserved[node] = self.rows_apart(axes, node.dtype, most)

        def row(at: Env) -> None:
            groups = self.passes(given, at)
            work = {group: self.work_in(group, given) for group in groups[1:-1] or groups[1:]}
            dearest = max(work, key=lambda group: work[group], default=None)
            soon: list[Place] = []
            if dearest is not None:
                soon = self.next_row(given, dearest, at, work[dearest] >= SPARE)
            for group in groups:
                self.emit_pass(group, given, at, soon if group is dearest else ())

        places, known = dict(self.places), set(self.known)
        with self.scope():
            self.loops(outer, env, row)
            inner = self.memo
        if not outer:  # what was folded stays known, but not what was read on the way
            self.memo.update({k: v for k, v in inner.items() if k[0] in self.known})
            return
        places.update({node: self.reserved[node] for node in given.kept if node in self.reserved})
        self.places, self.known = places, known
        for node in given.kept:
            self.reserved.pop(node, None)

    def outer_axes(self, given: Rowwise, env: Env) -> list[Axis]:
        """The axes of loops around rows: those that are parallel in all tasks. One of a single
        position is too, or what goes along rows would seem to have two axes and share no pass."""
        inner = {*env, *sequential(n for n in self.nodes_of(given) if not self.there(n))}
        shared = [{*t.node.axes, *(t.store.axes if t.store else ())} for t in given.tasks]
        axes = [a for a in union(map(sorted, shared)) if all(a in own for own in shared)]
        favourite = self.row_axis(given)
        bounds = self.frame.bounds
        outer = [a for a in axes if a not in inner and a != favourite]
        return outer if any(bounds.get(a, 2) > 1 for a in outer) else []

    def nodes_of(self, given: Rowwise) -> set[Node]:
        """The nodes of all tasks."""
        kept = set(given.kept)
        return {node for task in given.tasks for node in self.cone(task.node, kept - {task.node})}

    def row_axis(self, given: Rowwise) -> Axis | None:
        """The axis along which rows go through memory."""
        places = [task.store.place for task in given.tasks if task.store]
        places += [self.places[node] for node in self.nodes_of(given) if node in self.places]
        return self.favourite(places)

    def cone(self, root: Node, stops: set[Node]) -> list[Node]:
        """The nodes computed on the way to one, and what is read there."""
        found: dict[Node, None] = {}
        stack = [root]
        while stack:
            node = stack.pop()
            if node not in found:
                found[node] = None
                if node not in stops and not self.there(node):
                    stack += node.children
        return list(found)

    def favourite(self, places: Iterable[Place]) -> Axis | None:
        """The axis along which most reads and writes are contiguous: it is left for vectors."""
        votes: dict[Axis, int] = {}
        for place in places:
            for axis, stride in place.strides.items():
                if stride == 1 and self.frame.bounds.get(axis, 2) > 1:
                    votes[axis] = votes.get(axis, 0) + 1
        return max(votes, key=lambda axis: votes[axis], default=None)

    # -- passes

    def passes(self, given: Rowwise, env: Env) -> list[Pass]:
        """Each task in the first pass over its axes that comes late enough."""
        groups: list[Pass] = []
        where: dict[Task, int] = {}
        early = 0  # the first pass behind all that may read what late results overwrite
        for task in given.tasks:
            axes = self.axes_of(task, given, env)
            late = task.store is not None and task.store.late
            least = early if late else 0
            for other in given.needs[task]:
                if other in where:
                    again = (
                        bool(axes)
                        and groups[where[other]].axes == axes
                        and not self.folds(other, given)
                    )
                    least = max(least, where[other] + (not again))
            found = next((i for i in range(least, len(groups)) if axes and groups[i].axes == axes),
                         len(groups))  # fmt: skip
            if found == len(groups):
                groups.append(Pass(axes, []))
            groups[found].tasks.append(task)
            where[task] = found
            early = early if late else len(groups)
        return groups

    def axes_of(self, task: Task, given: Rowwise, env: Env) -> frozenset[Axis]:
        """The axes of a task's loops; none if it has none or loops of another kind."""
        node = task.node
        if self.folds(task, given):
            kept = self.open([*node.axes, *(task.store.axes if task.store else ())], env)
            return frozenset() if kept else frozenset(over_of(node))
        if task.store is None:
            return frozenset(self.open(node.axes, env))
        axes = self.open(task.store.axes, env)
        return frozenset(a for a in axes if a in node.axes or a in task.store.place.strides)

    def work_in(self, group: Pass, given: Rowwise) -> int:
        """Operations of a pass at one position of its row."""
        if not group.axes:
            return 0
        nodes = set[Node]()
        for task in group.tasks:
            others = set(given.kept) - ({task.node} if task.store is None else set())
            nodes.update(node for node in self.cone(task.node, others) if node not in others)
        return sum(ROWS[node.function].cost for node in nodes if isinstance(node, Map))

    def next_row(self, given: Rowwise, group: Pass, env: Env, results: bool) -> list[Place]:
        """What operands hold for the next row of the innermost loop around, where this pass would
        read them, and where results of that row go, if asked. The first pass over it, which
        computes little, would wait for memory, and so would the last one, which stores; the
        dearest pass of the row before has the time to fetch it, if not the last one.
        """
        axis = next(reversed([*env]), "")
        nodes = {n: None for task in given.tasks for n in self.cone(task.node, set())}
        places = [self.places[n] for n in nodes if isinstance(n, Input) and n in self.places]
        if results:
            written = [task.store.place for task in given.tasks if task.store]
            places += [place for place in written if not place.past and place not in places]
        return [
            rooted(place, self.f, place.strides[axis])
            for place in places
            if axis in place.strides
            and not place.borders
            and all(other in env or other in group.axes for other in place.strides)
        ]

    def emit_pass(self, group: Pass, given: Rowwise, env: Env, soon: Sequence[Place] = ()) -> None:
        """One pass over a row, and what it leaves for the next.

        soon  what is to be fetched on the way
        """
        if not group.axes:
            self.one(group.tasks[0], env)
            return
        axes = sorted(group.axes)
        stored = [task for task in group.tasks if not self.folds(task, given)]
        folded = [task.node for task in group.tasks if self.folds(task, given)]
        places = {t: t.store.place if t.store else self.row_place(t.node, env) for t in stored}
        roots = [root_of(task.node) if task not in places else task.node for task in group.tasks]
        over = axes if folded else []
        vector = self.vector_axis(roots, axes, list(places.values()), over)
        small = len(axes) == 1 and vector is not None and self.in_registers(axes[0])
        works = []
        for task, root in zip(group.tasks, roots, strict=True):
            if task not in places and isinstance(task.node, Reduce):
                works.append(Work(root, fold=self.fold_of(task.node)))
            elif not (small and self.passing(task, group, given, env)):
                works.append(Work(root, places[task]))
        order = self.pass_order(axes, vector, roots, list(places.values()))
        results = self.sweep(works, order, vector, env, () if small else soon)
        for node, found in zip(folded, results, strict=True):
            self.keep_number(node, found[-1], env)
        for work in works:
            if work.place is not None and readable(work.root, work.place, env):
                self.places.setdefault(work.root, work.place)
        for task in group.tasks:
            if task not in places and task.store is not None:
                self.put(task.store, env)

    def folds(self, task: Task, given: Rowwise) -> bool:
        """Whether a task computes a fold, and not just stores one that another task keeps."""
        kept = task.store is not None and task.node in given.kept
        return isinstance(task.node, Reduce) and not kept and not self.there(task.node)

    def row_place(self, node: Node, env: Env) -> Place:
        """Memory for a value: for all rows if it is read behind them, else for one."""
        if node in self.reserved:
            return self.reserved[node]
        return self.scratch_place(self.open(node.axes, env), node.dtype)

    def keep_number(self, node: Node, value: Value, env: Env) -> None:
        """What a fold came to, for the rest of its row; in memory if it is read behind all rows."""
        self.memo[node, tuple(env.get(axis) for axis in node.axes), ""] = value
        if node in self.reserved:
            place = self.places[node] = self.reserved[node]
            self.store(saturate(self.f, value, node.dtype, place.dtype), place, env)
        else:
            self.known.add(node)

    def passing(self, task: Task, group: Pass, given: Rowwise, env: Env) -> bool:
        """Whether a value of a short row is read in passes over that row only: from registers."""
        if task.store is not None or task.node in given.wanted:
            return False
        readers = [other for other in given.tasks if task in given.needs[other]]
        return all(self.axes_of(other, given, env) == group.axes for other in readers)

    def pass_order(
        self,
        axes: Sequence[Axis],
        vector: Axis | None,
        roots: Sequence[Node],
        places: Sequence[Place],
    ) -> list[Axis]:
        if places:
            return self.order(axes, places[0], vector)
        return self.longest_first(axes, vector, roots)


@dataclass(frozen=True, eq=False)
class Block:
    """Tasks for `size` positions of an axis at a time.

    before   tasks that do not know the axis
    horizon  how far rows see along another axis
    """

    axis: Axis
    size: int
    before: Sequence[Task]
    tasks: Sequence[Task]
    horizon: Horizon | None


class Blocking:
    """Whether tasks are done in blocks, so that what lies between contractions stays in the second
    cache: `found` says how."""

    def __init__(self, emitter: Passes, tasks: Sequence[Task], env: Env) -> None:
        self.emitter, self.tasks, self.env = emitter, tasks, env
        self.needs = needed(tasks)
        dots = [
            t for t in tasks if isinstance(t.node, Dot) and not t.store and not emitter.by_rows(t)
        ]
        between = {node for t in tasks for node in self.needs[t] if emitter.by_rows(t)}
        options: list[Block] = []
        if dots and between & set(dots):
            axes = emitter.open(dots[0].node.axes, env)
            options = [block for axis in axes if (block := self.along(axis, dots)) is not None]
        self.found = max(options, key=self.gain, default=None)

    def gain(self, block: Block) -> tuple[bool, int]:
        """What speaks for a block: that it is cut short, many rows."""
        return block.horizon is not None, self.emitter.frame.bounds[block.axis]

    def along(self, axis: Axis, dots: Sequence[Task]) -> Block | None:
        emitter, inside = self.emitter, [t for t in self.tasks if axis in self.axes(t)]
        before = [task for task in self.tasks if task not in inside]
        makers = {task.node for task in self.tasks if task.store is None}
        nodes = {node for t in inside for node in [t.node, *t.node.children]}
        nodes = {n for node in nodes for n in emitter.cone(node, makers)} | nodes
        places = [task.store.place for task in inside if task.store]
        if (
            any(self.needs[task] & set(inside) for task in before)
            or any(task.store and task.store.late and not task.store.alone for task in inside)
            or any(task not in inside for task in dots)
            or any(isinstance(node, Scan | Update) for node in nodes)
            or axis in sequential(nodes, sides=False)
            or axis == emitter.favourite(places)
        ):
            return None
        shown = {a for task in inside if task.store for a in task.store.axes}
        seen = horizon(nodes, axis, shown) if emitter.target.lanes > 1 else None
        size = self.size(axis, inside, seen is not None)
        return None if size is None else Block(axis, size, before, inside, seen)

    def axes(self, task: Task) -> set[Axis]:
        return {*task.node.axes, *(task.store.axes if task.store else ())}

    def size(self, axis: Axis, inside: Sequence[Task], cut: bool) -> int | None:
        """Rows so that what is kept of them fills half of the second cache, but those of a register
        tile at least; fewer where each block is cut to what its rows see."""
        emitter, bound = self.emitter, self.emitter.frame.bounds[axis]
        each = 0
        apart = {task for task in inside if not emitter.by_rows(task)}
        apart |= {other for task in apart for other in self.needs[task]}
        spent = spent_sums([task for task in inside if emitter.by_rows(task)], self.needs)
        for task in apart:
            if task.store is None and not emitter.there(task.node) and task.node not in spent:
                open_axes = [a for a in emitter.open(task.node.axes, self.env) if a != axis]
                each += emitter.bound(open_axes) * BYTES[STORED[task.node.dtype]]
        tall = self.tall(axis, inside)
        most = max(tall, round(emitter.target.second / 2 / max(1, each)))
        if cut:
            most = min(most, max(LEAST_ROWS, bound // CUTS))
        if bound <= most + most // 4:
            return None
        length = emitter.frame.length(axis)
        if isinstance(length, int):
            sizes = [n for n in range(max(1, most // 2), most + 1) if length % n == 0]
            even = [n for n in sizes if n > FULL * tall * -(-n // tall)]
            return max(even, default=most // tall * tall)
        return most // tall * tall

    def tall(self, axis: Axis, inside: Sequence[Task]) -> int:
        """Rows of a register tile, if the axis is one of rows: few sums wait for each other."""
        target = self.emitter.target
        dots = [task.node for task in inside if isinstance(task.node, Dot)]
        rows = any((axis in dot.a.axes) != (axis in dot.b.axes) for dot in dots)
        return tile_rows(target, tile_vectors(target, 1 << 16)) if rows else 1


@dataclass(frozen=True, eq=False)
class Rowwise:
    """Tasks that are done row by row.

    wanted  values that others read later
    needs   whom each task reads
    spent   by value the contraction in whose memory it may be kept
    """

    tasks: Sequence[Task]
    wanted: set[Node]
    needs: dict[Task, set[Task]]
    spent: Mapping[Node, Dot]

    @property
    def kept(self) -> list[Node]:
        return [task.node for task in self.tasks if task.store is None]


def needed(tasks: Sequence[Task]) -> dict[Task, set[Task]]:
    """The tasks that each task reads. Results that share memory with others come last."""
    makers = {task.node: task for task in tasks if task.store is None}
    last = {task for task in tasks if task.store is not None and task.store.late}
    found: dict[Task, set[Task]] = {}
    for task in tasks:
        mine: set[Task] = set(tasks) - last if task in last else set()
        stack, seen = [task.node], set[Node]()
        while stack:
            node = stack.pop()
            maker = makers.get(node)
            if maker is not None and maker is not task:
                mine.add(maker)
            elif node not in seen:
                seen.add(node)
                stack += node.children
        found[task] = mine
    return found


def spent_sums(tasks: Iterable[Task], needs: Mapping[Task, set[Task]]) -> dict[Node, Dot]:
    """Values that may take the place of a contraction's sums, and which: as the exponentials of an
    attention that of its scores. Whoever else reads the sums is done by then, and nobody reads them
    at other positions.
    """
    found: dict[Node, Dot] = {}
    for task in tasks:
        node, before = task.node, _all_before(task, needs)
        for other in needs[task] if task.store is None else ():
            dot = other.node
            alike = (set(dot.axes), dot.dtype) == (set(node.axes), node.dtype)
            if not isinstance(dot, Dot) or other.store or not alike or dot in found.values():
                continue
            readers = {reader for reader in needs if other in needs[reader]}
            if readers <= before and not any(_elsewhere(one, dot, needs[one]) for one in readers):
                found[node] = dot
                break
    return found


def _all_before(task: Task, needs: Mapping[Task, set[Task]]) -> set[Task]:
    """A task and whatever it reads, directly or not."""
    found, stack = set[Task](), [task]
    while stack:
        if (one := stack.pop()) not in found:
            found.add(one)
            stack += needs[one]
    return found


def _elsewhere(task: Task, dot: Dot, needs: Iterable[Task]) -> bool:
    """Whether a task reads sums at positions that are not its own; a fold is done before others."""
    made = [other.node for other in needs]
    moving = Reduce | View | Gather | Stack | Scan | Update
    roots = task.node.children if isinstance(task.node, Reduce) else [task.node]
    moved = [node for node in walk(roots, made) if isinstance(node, moving)]
    return any(dot in walk([node]) for node in moved)


def over_of(node: Node) -> tuple[Axis, ...]:
    assert isinstance(node, Reduce)
    return node.over


def root_of(node: Node) -> Node:
    """What a fold folds."""
    assert isinstance(node, Reduce)
    return node.x


def readable(node: Node, place: Place, env: Env) -> bool:
    """Whether memory holds all of a value as a register does."""
    whole = all(axis in place.strides or axis in env for axis in node.axes) and not place.past
    return (
        whole
        and not isinstance(node, Input | Constant | Immediate)
        and (STORED[place.dtype] == register(node.dtype) and not place.borders)
    )


def sequential(nodes: Iterable[Node], sides: bool = True) -> set[Axis]:
    """The axes that some node needs more than one position of; those that one side of a contraction
    has alone are among them, if so asked: then a loop over one leaves a matrix by a vector."""
    found: set[Axis] = set()
    for node in nodes:
        match node:
            case Reduce(_, _, over):
                found.update(over)
            case Dot(a, b, over):
                found.update(over)
                found.update(set(a.axes) ^ set(b.axes) if sides else ())
            case View(_, index, _):
                found.update(axis for axis, _ in index)
            case Gather(_, _, axis) | Stack(_, axis):
                found.add(axis)
    return found
