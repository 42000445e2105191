"""What a block computes, in as few loops as possible.

A block's tasks are values kept for others and results. Contractions, recurrences and updates are
done one after the other; what is between them goes row by row, and a row in passes: all folds and
stores whose operands are ready share one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from infinisa.isa.language import (
    Axis,
    Constant,
    Dot,
    Gather,
    Immediate,
    Input,
    Node,
    Reduce,
    Scan,
    Stack,
    Update,
    View,
    union,
)

from .contraction import Contractions
from .expression import Env, Place
from .functions import STORED, register, saturate
from .ir import Value
from .rows import Work


@dataclass(frozen=True, eq=False)
class Store:
    """A result: a node, where it goes, over which axes; the state there before, if any.

    safe   it reads nothing that storing a result changes, but what it replaces itself
    alone  nothing else is read or written where it goes
    """

    node: Node
    place: Place
    axes: tuple[Axis, ...]
    state: Input | None = None
    safe: bool = True
    alone: bool = True


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

    reserved      memory for values that are kept for all rows
    accumulating  results that are their state plus a contraction, added in place
    """

    reserved: dict[Node, Place]
    accumulating: Mapping[Store, Dot]

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
            self.rows(Rowwise(rows, wanted, needs), env)
            if left:
                first = next(task for task in left if needs[task] <= done)
                self.one(first, env)
                done.add(first)
                left.remove(first)

    def by_rows(self, task: Task) -> bool:
        """Whether a task is done position by position."""
        if self.there(task.node):
            return True
        return task.store not in self.accumulating and not isinstance(
            task.node, Dot | Scan | Update
        )

    # -- rows

    def rows(self, given: Rowwise, env: Env) -> None:
        """Tasks row by row."""
        outer: list[Axis] = []
        if any(isinstance(task.node, Reduce) for task in given.tasks):
            outer = self.outer_axes(given, env)
        for node in given.kept:
            axes = self.open(node.axes, env)
            if outer and node in given.wanted and axes and not self.there(node):
                self.reserved[node] = self.scratch_place(axes, node.dtype)

        def row(at: Env) -> None:
            for group in self.passes(given, at):
                self.emit_pass(group, given, at)

        places, known = dict(self.places), set(self.known)
        with self.scope():
            self.loops(outer, env, row)
            inner = self.memo
        if not outer:  # what was folded stays known, but not what was read on the way
            self.memo.update({k: v for k, v in inner.items() if k[0] in self.known})
            return
        places.update({node: self.reserved[node] for node in given.kept if node in self.reserved})
        self.places, self.known = places, known

    def outer_axes(self, given: Rowwise, env: Env) -> list[Axis]:
        """The axes of loops around rows: those that are parallel in all tasks."""
        kept = set(given.kept)
        nodes = {
            node: None
            for task in given.tasks
            for root in ([task.node] if task.store is None else task.node.children)
            for node in self.cone(root, kept - {task.node})
        }
        inner = {*env, *sequential(nodes)}
        places = [task.store.place for task in given.tasks if task.store]
        places += [self.places[node] for node in nodes if node in self.places]
        shared = [{*t.node.axes, *(t.store.axes if t.store else ())} for t in given.tasks]
        axes = [a for a in union(map(sorted, shared)) if all(a in own for own in shared)]
        favourite = self.favourite(places)
        bounds = self.frame.bounds
        return [a for a in axes if a not in inner and a != favourite and bounds.get(a, 2) > 1]

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
            late = task.store is not None and not task.store.alone
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

    def emit_pass(self, group: Pass, given: Rowwise, env: Env) -> None:
        """One pass over a row, and what it leaves for the next."""
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
        for node, found in zip(folded, self.sweep(works, order, vector, env), strict=True):
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
class Rowwise:
    """Tasks that are done row by row; `wanted`: values that others read later; whom each needs."""

    tasks: Sequence[Task]
    wanted: set[Node]
    needs: dict[Task, set[Task]]

    @property
    def kept(self) -> list[Node]:
        return [task.node for task in self.tasks if task.store is None]


def needed(tasks: Sequence[Task]) -> dict[Task, set[Task]]:
    """The tasks that each task reads. Results that share memory with others come last."""
    makers = {task.node: task for task in tasks if task.store is None}
    last = {task for task in tasks if task.store is not None and not task.store.alone}
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


def over_of(node: Node) -> tuple[Axis, ...]:
    assert isinstance(node, Reduce)
    return node.over


def root_of(node: Node) -> Node:
    """What a fold folds."""
    assert isinstance(node, Reduce)
    return node.x


def readable(node: Node, place: Place, env: Env) -> bool:
    """Whether memory holds all of a value as a register does."""
    whole = all(axis in place.strides or axis in env for axis in node.axes)
    return (
        whole
        and not isinstance(node, Input | Constant | Immediate)
        and (STORED[place.dtype] == register(node.dtype) and not place.borders)
    )


def sequential(nodes: Iterable[Node]) -> set[Axis]:
    """The axes that some node needs more than one position of."""
    found: set[Axis] = set()
    for node in nodes:
        match node:
            case Reduce(_, _, over):
                found.update(over)
            case Dot(a, b, over):
                found.update(over)
                found.update(set(a.axes) ^ set(b.axes))
            case View(_, index, _):
                found.update(axis for axis, _ in index)
            case Gather(_, _, axis) | Stack(_, axis):
                found.add(axis)
    return found
