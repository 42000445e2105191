"""From choices to calls: tensors for values, indices for views, opcodes for instances, an order.

A value has a home, an access to a tensor in terms of its axes. What computes it writes there; a
view of it is read there at other indices. A value that is wanted somewhere (a result, a part of a
stack, a kept tensor, a state of a scan) has its home there if nobody is disturbed; else a `move`
copies it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from math import prod

from infinisa.isa.dtypes import DTYPES, is_float
from infinisa.isa.errors import CompileError
from infinisa.isa.instance import state_types
from infinisa.isa.instruction import Instruction, step_of
from infinisa.isa.language import (
    Affine,
    Axis,
    Cast,
    Dot,
    Input,
    Map,
    Node,
    Opaque,
    Recurrence,
    Scan,
    Stack,
    Update,
    View,
    show,
    substitute,
    union,
    walk,
)
from infinisa.isa.laws import Associative, StepOf
from infinisa.isa.meaning import needs

from ..calls import Access, Covered, Index, Tensor
from ..equality.canonical import canonical, is_number, number_of
from ..equality.laws import must_hold
from ..schedule.cost import chip_capacity
from .choice import combiner, stored, unit_for
from .coverage import Coverage
from .draft import Binding, Drafting, Order, Place, Read, Work, indexed, plain_index
from .indices import Digits, at_position, digits, inverted, itself, reach, substituted
from .joins import Part, joined
from .layouts import FEW, layout
from .match import Match
from .recurrences import invariants
from .uncovered import shallow


def lower(drafting: Drafting, roots: Sequence[Node]) -> tuple[Covered, Coverage]:
    """A graph as calls: outputs, then updates of kept tensors."""
    outputs = dict(zip(drafting.graph.outputs, roots, strict=False))
    order = drafting.select(roots)
    Scope(drafting).lower(order, drafting.results(outputs), roots[len(outputs) :])
    return drafting.covered(), drafting.coverage


class Scope:
    """The values of a graph, or of one step of a scan in it."""

    def __init__(
        self,
        drafting: Drafting,
        outer: Scope | None = None,
        scan: tuple[Axis, bool, int] | None = None,
    ) -> None:
        self.all, self.outer, self.scan = drafting, outer, scan
        self.homes: dict[Node, Place] = {}
        self.targets: dict[Node, list[Access]] = {}
        self.moves: dict[Node, list[Access]] = {}
        self.written: dict[str, set[int]] = {}
        self.readers: Counter[Node] = Counter()
        self.users: dict[Node, list[Node]] = {}
        self.order: dict[Node, Match | None] = {}
        self.done: set[Match] = set()

    def lower(
        self,
        order: Order,
        results: Iterable[tuple[Node, Access]],
        updates: Iterable[Node] = (),
        states: Iterable[tuple[Node, Input, Access]] = (),
    ) -> None:
        """Make the calls for `order`.

        results  values to be written somewhere
        updates  `Update`s of kept tensors
        states   (next value, placeholder, carry) of a scan's states
        """
        self.order = dict(order)
        self._count_readers()
        for node in updates:
            self.update(node)
        for value, leaf, access in states:
            self.replace_state(value, leaf, access)
        for node, access in results:
            self.want(node, access)
        for node in reversed(self.order):
            self.store(node)
        for node, match in order:
            if match is not None:
                self.compute(match)
            elif isinstance(node, Opaque):
                self.opaque(node)
            elif isinstance(node, Scan):
                self.scanned(node)
            self.make_moves(node)
        self.order_writes()

    def _count_readers(self) -> None:
        """How many calls read each value, through views too, and what for."""
        counted: set[Match | None] = set()
        fixed = self.all.choosing.fixed
        for node, match in self.order.items():
            if match is not None:
                leaves = match.leaves
            elif isinstance(node, Opaque):
                leaves = node.arguments
            else:
                leaves = (stored(node, fixed) or ()) if isinstance(node, Scan) else ()
            read = [value for leaf in leaves for value in self.storage(leaf)]
            for value in dict.fromkeys(read):
                self.users.setdefault(value, []).append(node)
            if match is None or match not in counted:
                self.readers.update(read)
                counted.add(match)

    # -- where values go

    def want(self, node: Node, access: Access) -> None:
        """See that a value is (also) written to `access`; many times, for axes that it has not."""
        own = {*node.axes, self.scan[0]} if self.scan else set(node.axes)
        match node:
            case _ if not own.issuperset(access.axes):
                self.moves.setdefault(node, []).append(access)
            case _ if self.order.get(node) is not None or isinstance(node, Opaque | Scan):
                self.targets.setdefault(node, []).append(access)
            case Stack(xs, axis) if node not in self.homes:
                self.homes[node] = Place(access)
                for number, x in enumerate(xs):
                    self.want(x, at_position(access, axis, number))
            case Map() if node not in self.homes and (parts := self.parts(node)):
                self.homes[node] = Place(access)
                for part in parts:
                    self.want(part.value, substituted(access, part.axes))
            case Cast(x, _) if node not in self.homes and self.made(x):
                self.homes[node] = Place(access)
                self.want(x, access)
            case View(x, index, None) if node not in self.homes and self.all_of(node):
                self.homes[node] = Place(access)
                self.want(x, substituted(access, inverted(index, self.all.sizes) or {}))
            case _:
                self.moves.setdefault(node, []).append(access)

    def all_of(self, node: View) -> bool:
        """Whether a view is better written where its operand is: it has all its positions, and the
        operand is written by a call or the view could not be read."""
        plain = all(i.divide == 1 and not i.modulo for _, i in node.index)
        back = inverted(node.index, self.all.sizes)
        return back is not None and (self.made(node.x) or not plain)

    def made(self, node: Node) -> bool:
        """Whether a value is written by a call, so that it can be written elsewhere."""
        if self.order.get(node) is not None or isinstance(node, Opaque | Scan):
            return True
        return (isinstance(node, Stack) or bool(self.parts(node))) and node not in self.homes

    def parts(self, node: Node) -> tuple[Part, ...]:
        """What a value is joined of that nothing computes."""
        plain = isinstance(node, Map) and self.order.get(node, node) is None
        return joined(node, self.all.choosing.fixed) if plain else ()

    def storage(self, node: Node) -> set[Node]:
        """The values that reading a value reads: through views, casts, stacks and joins."""
        found, waiting = {node}, [node]
        while waiting:
            match value := waiting.pop():
                case View(x, _, _) | Cast(x, _):
                    more: tuple[Node, ...] = (x,)
                case Stack(xs, _):
                    more = xs
                case _:
                    more = tuple(part.value for part in self.parts(value))
            found.update(more)
            waiting += more
        return found

    def store(self, node: Node) -> None:
        """Give a value that is no computation, and that no index can describe, a tensor."""
        if node in self.moves and self.order[node] is None:
            self.readers.update(self.storage(node))
        wanted = self.readers[node]
        if self.order[node] is not None or node in self.homes or not wanted:
            return
        match node:
            case View(_, index, _) if any(i.divide != 1 or i.modulo for _, i in index):
                self.flatten(node)
                return
            case Stack() | Map() if self.made(node):
                pass
            case Cast(x, to) if self.made(x) or not (is_float(to) and is_float(x.dtype)):
                pass  # else it is read as it is, without the rounding
            case _:
                return
        access = self.all.temporary(self.label(node), self.layout(node), node.dtype)
        self.want(node, access)
        self.homes.setdefault(node, Place(access))

    def flatten(self, node: View) -> None:
        """Write the operand of a view with axes that one index goes through, such as
        h = n // 64 and e = n % 64, as one dimension, which the view reads at a sum of axes; one
        that goes through them several times, as of a tensor that is tiled, as often."""
        found = digits(node.index, self.all.sizes)
        if found is None:
            raise CompileError(
                f"graph {self.all.graph.name!r}: {show(shallow(node))} is read at an index that is "
                "no sum of axes"
            )
        inside = {axis for group in found for axis in group.axes}
        kept = [axis for axis in node.x.axes if axis not in inside]
        name = self.all.unique(f"{self.all.graph.name}/{self.label(node)}")
        shape = (*(group.extent for group in found), *(self.all.sizes[axis] for axis in kept))
        axes = (*("" for _ in found), *kept)
        self.all.add(Tensor(name, shape, node.dtype), axes)
        rest = tuple(Index(((axis, 1),)) for axis in kept)
        places = [self.places(number, group) for number, group in enumerate(found)]
        self.want(node.x, Access(name, (*places, *rest)))
        given = dict(node.index)
        reads = [Index(group.at.terms, group.at.offset) for group in found]
        reads += [Index(i.terms, i.offset) for i in (given.get(a, itself(a)) for a in kept)]
        fill = None if node.fill is None else float(node.fill)
        self.homes[node] = Place(Access(name, tuple(reads), fill))

    def places(self, number: int, group: Digits) -> Index:
        """Where the digits of a number are, those too that no axis stands for."""
        copies = [
            (self.all.part(f"copy{number}_{step}_{count}", count), step)
            for step, count in group.copies
        ]
        return Index((*group.index.terms, *copies))

    def layout(self, node: Node) -> tuple[Axis, ...]:
        """The order of a value's axes in memory: as the model has it, if it has this value."""
        found = layout(node, self.all.layouts, self.all.sizes)
        return found if set(found) == set(node.axes) else node.axes

    def label(self, node: Node, otherwise: str = "") -> str:
        named = self.all.names.get(node)
        return named or otherwise or type(node).__name__.lower()

    # -- kept tensors and states

    def update(self, node: Node) -> None:
        """Write the value of an update into the kept tensor."""
        if not isinstance(node, Update) or not isinstance(node.x, Input):
            raise CompileError(
                f"graph {self.all.graph.name!r}: an update must be of a kept tensor, "
                f"not {show(shallow(node))}"
            )
        whole = self.all.outside(node.x)
        given = dict(node.at)
        if any(i.divide != 1 or i.modulo for i in given.values()):
            raise CompileError(
                f"graph {self.all.graph.name!r}: kept tensor {node.x.name!r} must be updated at "
                f"sums of axes, not at {', '.join(f'{a}={i}' for a, i in node.at)}"
            )
        access = substituted(whole, given)
        self.replace_state(node.value, node.x, access)
        self.homes[node] = Place(whole)

    def replace_state(self, value: Node, leaf: Input, access: Access) -> None:
        """Write the next value of a state where the old one is, after all that read the old; one
        that stays as it is is there already."""
        if value == leaf:
            return
        self.written.setdefault(access.tensor, set())
        if self.safe(value, leaf, access):
            self.want(value, access)
        else:
            self.moves.setdefault(value, []).append(access)

    def safe(self, value: Node, leaf: Input, access: Access) -> bool:
        """Whether the value can be written in place: nobody reads the old one after it or with it,
        except element by element."""
        maker = self.order.get(value)
        if not self.made(value) and not isinstance(value, Cast | View):
            return False
        for node in self.users.get(leaf, ()):
            match = self.order[node]
            if isinstance(node, Opaque):
                continue
            if match is not None and match is maker:
                same = access == self.locate(leaf).access
                parallel = not (match.instruction.whole or match.instruction.reduced)
                if not (same and parallel and leaf in match.leaves):
                    return False
            elif any(value is below for below in walk([node])):
                return False
        return True

    def order_writes(self) -> None:
        """Whatever replaces a kept tensor or a state waits for all that read the old value."""
        for name, writers in self.written.items():
            old = self.all.old_readers.get(name, set())
            for number in writers:
                self.all.drafts[number].after.update(old - {number})

    # -- reading

    def locate(self, node: Node) -> Place:
        """Where a value is, in terms of its axes."""
        if node in self.homes:
            place = self.homes[node]
            if isinstance(node, Stack | Cast | View | Update) or self.parts(node):
                writers = self.all.writers.get(place.access.tensor, ())
                return Place(place.access, frozenset(writers))
            return place
        if self.order.get(node) is None:
            match node:
                case Input():
                    if self.outer is not None:
                        return self.outer.locate(node)
                    return Place(self.all.outside(node), old=True)
                case View(x, index, fill):
                    inside = self.locate(x)
                    if fill is not None and not self.ends(inside.access, x, index, fill):
                        inside = self.homes[x] = self.moved(x, inside)
                    access = self.viewed(node, inside.access, index, fill)
                    return replace(inside, access=access)
                case Cast(x, _):
                    return self.locate(x)
                case _ if is_number(node):
                    return Place(self.all.number(node))
        raise AssertionError(f"no home: {show(shallow(node))}")

    def viewed(
        self,
        node: Node,
        access: Access,
        index: Sequence[tuple[Axis, Affine]],
        fill: float | int | bool | None,
    ) -> Access:
        if any(i.divide != 1 or i.modulo for _, i in index):
            raise CompileError(
                f"graph {self.all.graph.name!r}: {show(shallow(node))} is read at an index that is "
                "no sum of axes; give the tensor the finer axes, or move it first"
            )
        found = substituted(access, dict(index))
        return found if fill is None else replace(found, fill=float(fill))

    def ends(
        self,
        access: Access,
        x: Node,
        index: Sequence[tuple[Axis, Affine]],
        fill: float | int | bool,
    ) -> bool:
        """Whether what surrounds a value where it is reads as `fill`, as far as indices reach: not
        around a part of a tensor, nor inside of another border."""
        if access.fill not in (None, float(fill)):
            return False
        sizes, shape = self.all.sizes, self.all.tensors[access.tensor].shape
        rows = list(zip(access.index, shape, strict=True))
        for axis, i in index:
            low, high = reach(i, sizes)
            outside = low < 0, high >= sizes[axis]
            plain = i.divide == 1 and not i.modulo
            if (
                plain
                and any(outside)
                and not any(
                    _ends(dimension, extent, axis, sizes[axis], outside)
                    for dimension, extent in rows
                )
            ):
                return False
        return True

    # -- computing

    def compute(self, match: Match) -> None:
        """The calls of a match."""
        if match in self.done:
            return
        self.done.add(match)
        coverage = self.all.coverage
        first = len(coverage.made)
        self.make_calls(match)
        coverage.assign(match, first)

    def make_calls(self, match: Match) -> None:
        definition = match.instruction
        root = next(r for r in match.roots if r is not None)
        label = self.label(root, definition.name)
        reads = tuple(self.read(match, number, leaf) for number, leaf in enumerate(match.leaves))
        work = Work(
            definition.name, self.source(match), definition, match.binding, match.loops,
            match.immediates, reads, (), direct=definition.tables,
        )  # fmt: skip
        law = self.all.choosing.step(match)
        first = len(self.all.drafts)
        if law is not None:
            self.by_law(match, work, law, label)
        elif match in self.all.runs or self.in_pieces(work):
            self.by_steps(match, self.without_windows(work), label)
        else:
            writes = []
            for number, node in enumerate(match.roots):
                if node is not None and self.needed(node):
                    goals = self.goals(node, label, definition, match.binding)
                    writes += [(number, access) for access in goals]
            made = self.call(replace(work, writes=tuple(writes)), match)
            for node in match.roots:
                if node is not None and node in self.homes:
                    self.homes[node] = Place(self.homes[node].access, frozenset([made]))
        self.all.made[match] = range(first, len(self.all.drafts))

    def needed(self, node: Node) -> bool:
        return node in self.order or node in self.targets

    def source(self, match: Match) -> str:
        mine = match.inner.union(root for root in match.roots if root is not None)
        named = sorted(mine & self.all.named.keys(), key=self.all.named.__getitem__)
        return ", ".join(self.all.names[node] for node in named)

    def read(self, match: Match, number: int, leaf: Node) -> Read:
        """An operand, through its windows; what is indexed too awkwardly is moved first."""
        definition, binding = match.instruction, match.binding
        name = definition.operands[number].name
        windows = {}
        for (operand, axis), index in definition.windows.items():
            if operand == name:
                ((ours,), terms) = binding[axis], index.terms
                windows[ours] = Affine(tuple((binding[a][0], s) for a, s in terms), index.offset)
        place, fill = self.locate(leaf), _fill(definition, name) if windows else None
        forced: set[Axis] = set()
        indexed(Read(place, windows), self.all.sizes, forced)
        awkward = forced & (self.whole(definition, binding) | self.alone(place.access, match))
        if awkward or not self.windowed(place.access, windows, fill):
            place = self.moved(leaf, place)
        if fill is not None:
            place = replace(place, access=replace(place.access, fill=fill))
        return Read(place, windows)

    def windowed(self, access: Access, windows: Mapping[Axis, Affine], fill: float | None) -> bool:
        """Whether windows may be read where a value is: it lies there position by position, and
        there is nothing else where they are filled."""
        shape = self.all.tensors[access.tensor].shape
        for extent, index in zip(shape, access.index, strict=True):
            moving = [axis for axis, _ in index.terms if axis in windows]
            for axis in moving:
                whole = not index.offset and extent == self.all.sizes[axis] and access.fill is None
                if index.terms != ((axis, 1),) or (fill is not None and not whole):
                    return False
        return True

    def alone(self, access: Access, match: Match) -> set[Axis]:
        """The axes that a match contracts, and that are all of an index: with another such axis a
        tensor is no larger, and the contraction is of many positions at a time."""
        if not isinstance(match.instruction.accumulation, Dot):
            return set()
        summed = {a for axis in match.instruction.reduced for a in match.binding[axis]}
        return {i.terms[0][0] for i in access.index if len(i.terms) == 1} & summed

    def moved(self, leaf: Node, place: Place) -> Place:
        """A copy of a value, position by position of its axes."""
        access = self.all.temporary(self.label(leaf), self.layout(leaf), leaf.dtype)
        return Place(access, frozenset([self.move(leaf, place, access)]))

    def goals(
        self,
        node: Node,
        label: str,
        definition: Instruction,
        binding: Binding,
        accumulates: bool = False,
    ) -> list[Access]:
        """Where a call writes a value; its home is the first that serves all its readers.

        A place that would take apart an axis that a call sees whole, or leave a contraction few
        positions an issue, is reached by a move, and so is a second place of a value that
        accumulates.
        """
        whole = set() if accumulates else self.whole(definition, binding)
        dtype = node.dtype if not is_float(node.dtype) or node.dtype == "f64" else "f32"
        same = (dtype,) if accumulates else (dtype, node.dtype)
        wanted = [
            access
            for access in self.targets.get(node, ())
            if not (apart := self.apart(access)) & whole
            and not self.thin(definition, binding, apart)
        ]
        exact = [a for a in wanted if self.all.tensors[a.tensor].dtype in same]
        only = wanted if not self.readers[node] and not accumulates else []
        home = next(iter(exact + only), None)
        if home is None:
            home = self.all.temporary(label, self.layout(node), dtype)
        self.homes[node] = Place(home)
        direct = [] if accumulates else [access for access in wanted if access is not home]
        moved = [a for a in self.targets.get(node, ()) if a is not home and a not in direct]
        self.moves.setdefault(node, []).extend(moved)
        return [home, *direct]

    def goal(
        self, node: Node, label: str, axes: tuple[Axis, ...], steps: Axis | None = None
    ) -> Access:
        """Where a result of an operator, or of the `steps` of a recurrence, is written: where it is
        wanted in its own type, or at the only place where it is at all. It is moved to all others,
        and where steps are between others' positions."""
        wanted = self.targets.get(node, [])
        anywhere = len(wanted) == 1 and not self.readers[node]
        fit = (
            access
            for access in wanted
            if (anywhere or self.all.tensors[access.tensor].dtype == node.dtype)
            and steps not in access.digits
        )
        home = next(fit, None) or self.all.temporary(label, axes, node.dtype)
        self.moves.setdefault(node, []).extend(access for access in wanted if access is not home)
        return home

    def apart(self, access: Access) -> set[Axis]:
        """The axes that an access takes position by position."""
        found: set[Axis] = set()
        indexed(Read(Place(access)), self.all.sizes, found)
        return found

    def thin(self, definition: Instruction, binding: Binding, apart: AbstractSet[Axis]) -> bool:
        """Whether a contraction has few positions of an axis where some go one by one."""
        if not apart or not any(isinstance(node, Dot) for node in walk(definition.outputs)):
            return False
        sides = (binding.get(a, ()) for a in definition.axes if a not in definition.reduced)
        for axes in sides:
            left = prod(self.all.sizes[axis] for axis in axes if axis not in apart)
            if left < FEW <= prod(self.all.sizes[axis] for axis in axes):
                return True
        return False

    def whole(self, definition: Instruction, binding: Binding) -> set[Axis]:
        """The axes that an issue cannot take position by position."""
        every = {*definition.whole, *definition.indexed}
        if not definition.accumulates:
            every |= definition.reduced
        return set(union(binding.get(axis, ()) for axis in every))

    def call(self, work: Work, match: Match | None = None) -> int:
        """Make a call, the one that counts as a match's; note what it does to tensors whose old
        value others read."""
        operations, nodes = 0, int(work.definition.opaque)
        if match is not None:
            like = match.like or match  # which has its instance: the choice asked for it
            operations = int(like.meaning.operations(self.all.sizes))
            nodes = len(match.inner)
        if self.scan:
            operations *= self.all.sizes[self.scan[0]]
        number = self.all.draft(work, self.scan, operations, nodes)
        for read in work.reads:
            if read.place.old:
                self.all.old_readers.setdefault(read.place.access.tensor, set()).add(number)
        for _, access in work.writes:
            self.all.writers.setdefault(access.tensor, set()).add(number)
            if access.tensor in self.written:
                self.written[access.tensor].add(number)
        return number

    # -- in pieces

    def in_pieces(self, work: Work) -> bool:
        """Whether one issue does not see the whole of what is reduced: it takes no more, or two of
        them, one that is worked on and the next one, do not fit on the chip."""
        definition = work.definition
        if not definition.accumulates:
            return False
        key = self.all.key(work)
        if key not in self.all.pieces:
            unit = unit_for(definition, self.all.choosing.machine)
            assert unit is not None
            limits = self.all.limits(work, unit, self.all.forced(work), ())
            reduced = [a for axis in definition.reduced for a in work.binding[axis]]
            accesses = [read.place.access for read in work.reads]
            held = sum(
                DTYPES[dtype].size * self.all.choosing.volume({*reduced}.intersection(access.axes))
                for access, dtype in zip(accesses, self.all.types(accesses), strict=True)
            )
            long = any(limits[axis] < self.all.sizes[axis] for axis in reduced)
            self.all.pieces[key] = long or 2 * held > chip_capacity(self.all.choosing.machine)
        return self.all.pieces[key]

    def without_windows(self, work: Work) -> Work:
        """The work without the reduced axes that go one position an issue, as those of a
        convolution's window do: an issue contracts the rest, and accumulates over them."""
        forced = self.all.forced(work)
        binding = {
            axis: tuple(a for a in axes if a not in forced or axis not in work.definition.reduced)
            for axis, axes in work.binding.items()
        }
        reduced = {a for axis in work.definition.reduced for a in work.binding[axis]}
        return replace(work, binding=binding, reduce=frozenset(reduced))

    def by_steps(self, match: Match, work: Work, label: str) -> None:
        """A step that accumulates over pieces, and what finishes it."""
        definition = work.definition
        (root,) = match.roots
        assert root is not None
        if definition.accumulation is None and definition.linear is not None:
            must_hold(definition, definition.linear, self.all.choosing.library)
        step, finish = step_of(definition)
        work, runs = self.in_runs(match, work)
        given = {o.name: r for o, r in zip(definition.operands, work.reads, strict=True)}
        reads = tuple(given[operand.name] for operand in step.operands)
        work = replace(work, definition=step, reads=reads)
        if finish is None and not runs:
            (home,) = self.goals(root, label, definition, match.binding, accumulates=True)
            made = self.call(replace(work, writes=((0, home),)), match)
            self.homes[root] = Place(home, frozenset([made]))
            return
        work = replace(work, writes=self.partial(work, runs, label))
        made = self.call(work, match)
        if finish is None:
            goals = self.goals(root, label, definition, {})
            made = self.combined(work, definition, made, runs, [goals])
            self.homes[root] = Place(goals[0], frozenset([made]))
            return
        states = self.whole_states(work, definition, made, runs, label)
        work = replace(work, loops=match.loops)
        self.finish(match, work, finish, {**given, **states}, label)

    def by_law(self, match: Match, work: Work, law: tuple[Instruction, Axis], label: str) -> None:
        """A step that an instruction says folds to the whole, and what finishes it."""
        step, axis = law
        definition = work.definition
        laws = [each for each in step.laws if isinstance(each, StepOf)]
        (name,) = {each.finish for each in laws if each.whole == definition.name}
        finish = self.all.choosing.library.get(name)
        if finish is None:
            raise CompileError(
                f"instruction {step.name!r}: {name!r}, which finishes it, is not in the library"
            )
        work, runs = self.in_runs(match, work)
        given = {o.name: r for o, r in zip(definition.operands, work.reads, strict=True)}
        names = {i.name for i in step.immediates}
        work = replace(
            work,
            name=step.name,
            definition=step,
            binding={a: work.binding[a] for a in step.axes},
            immediates={key: n for key, n in match.immediates.items() if key in names},
            reads=tuple(given[operand.name] for operand in step.operands),
            reduce=frozenset(work.binding[axis]),
        )
        work = replace(work, writes=self.partial(work, runs, label))
        made = self.call(work, match)
        states = self.whole_states(work, step, made, runs, label)
        work = replace(work, immediates=match.immediates, loops=match.loops)
        self.finish(match, work, finish, {**given, **states}, label)

    # -- partial results

    def in_runs(self, match: Match, work: Work) -> tuple[Work, tuple[Axis, ...]]:
        """The work, in runs along its reduced axis if it is to be divided; the axis of the runs."""
        runs = self.all.runs.get(match)
        if runs is None:
            return work, ()
        work, axis = self.all.divided(work, runs)
        return work, (axis,)

    def partial(
        self, work: Work, runs: tuple[Axis, ...], label: str
    ) -> tuple[tuple[int, Access], ...]:
        """Where the states of a work's step are, in the types that its operands add up to. Those of
        runs are combined later, perhaps by another core."""
        types = self.all.types([read.place.access for read in work.reads])
        found = []
        for number, dtype in enumerate(state_types(work.definition, types)):
            leaf = work.definition.states[number].input
            axes = (*work.loops, *union(work.binding[a] for a in leaf.axes))
            kind = "temporary" if runs else "partial"
            access = self.all.temporary(f"{label}.{leaf.name}", axes, dtype, kind)
            found.append((number, access))
        return tuple(found)

    def whole_states(
        self,
        work: Work,
        definition: Instruction,
        made: int,
        runs: tuple[Axis, ...],
        label: str,
    ) -> dict[str, Read]:
        """The states of a step that call `made` wrote, those of all runs in one."""
        names = [state.input.name for state in work.definition.states]
        writes = work.writes
        if runs:
            outer = replace(work, loops=tuple(a for a in work.loops if a not in runs))
            writes = self.partial(outer, (), label)
            made = self.combined(work, definition, made, runs, [[to] for _, to in writes])
        after = frozenset([made])
        return {
            name: Read(Place(access, after))
            for name, (_, access) in zip(names, writes, strict=True)
        }

    def combined(
        self,
        work: Work,
        definition: Instruction,
        made: int,
        runs: tuple[Axis, ...],
        goals: Sequence[Sequence[Access]],
    ) -> int:
        """A call that makes the states of one run of those of several, which call `made` wrote."""
        found = combiner(definition, self.all.choosing)
        assert found is not None
        combine, along = found
        partial = [access for _, access in work.writes]
        loops = tuple(a for a in work.loops if a not in runs)
        law = next((law for law in definition.laws if isinstance(law, Associative)), None)
        if law is not None:
            must_hold(definition, law, self.all.choosing.library)
            binding = {a: work.binding.get(a, ()) for a in combine.axes}
        else:  # a fold, whose other axis stands for all that the result has
            axes = tuple(a for a in self.all.dims[partial[0].tensor] if a not in runs)
            binding, loops = dict.fromkeys(combine.axes, axes), ()
        binding[along] = runs
        reads = tuple(Read(Place(access, frozenset([made]))) for access in partial)
        return self.call(
            replace(
                work, name=combine.name, definition=combine, binding=binding, loops=loops,
                immediates={}, reads=reads, reduce=frozenset(), direct=(),
                writes=tuple((n, to) for n, each in enumerate(goals) for to in each),
            )
        )  # fmt: skip

    def finish(
        self,
        match: Match,
        work: Work,
        finish: Instruction,
        given: Mapping[str, Read],
        label: str,
    ) -> None:
        """The call that makes the result of whole states; an axis whose length it asks for is as it
        is in the match, whatever pieces of it the steps took."""
        binding = {a: match.binding[a] for a in union((finish.axes, needs(finish).sizes))}
        root = next(r for r in match.roots if r is not None)
        names = {i.name for i in finish.immediates}
        numbers = {key: value for key, value in work.immediates.items() if key in names}
        goals = self.goals(root, label, finish, binding)
        made = self.call(
            replace(
                work, name=finish.name, definition=finish, binding=binding, immediates=numbers,
                reads=tuple(given[operand.name] for operand in finish.operands),
                writes=tuple((0, access) for access in goals), reduce=frozenset(), direct=(),
            )
        )  # fmt: skip
        self.homes[root] = Place(goals[0], frozenset([made]))

    # -- moves

    def move(self, node: Node, place: Place, access: Access) -> int:
        """Copy a value from its place to `access`."""
        mover = self.all.mover
        axes = node.axes
        (m,) = mover.axes
        source = self.all.names.get(node, "")
        work = Work(mover.name, source, mover, {m: axes}, (), {}, (Read(place),), ((0, access),))
        return self.call(work)

    def make_moves(self, node: Node) -> None:
        """Copy a value that is there now to where nothing could write it directly."""
        wanted = self.moves.pop(node, [])
        home = self.homes[node].access if node in self.homes else None
        for access in sorted(wanted, key=lambda access: access != home):
            own = access == home
            self.move(node, self._source(node) if own else self.locate(node), access)

    def _source(self, node: Node) -> Place:
        """Where a value that got a tensor of its own comes from."""
        assert isinstance(node, Cast)
        return self.locate(node.x)

    # -- opaque operators and scans

    def opaque(self, node: Opaque) -> None:
        """One call for all results of an opaque operator; its body wants flat, whole arrays."""
        if node in self.homes:
            return
        definition = self.all.choosing.library[node.operator]
        twins = [
            other
            for other in self.order
            if isinstance(other, Opaque)
            and (other.operator, other.arguments) == (node.operator, node.arguments)
            and other.orders == node.orders
        ]
        binding: dict[Axis, tuple[Axis, ...]] = {}
        operands = zip(definition.operands, node.orders, strict=False)
        pairs = [(leaf.axes, axes) for leaf, axes in operands]
        pairs += [(definition.results[twin.output].axes, twin.over) for twin in twins]
        if len(node.arguments) != len(definition.operands):
            raise CompileError(
                f"operator {node.operator!r}: takes {len(definition.operands)} operands, "
                f"not {len(node.arguments)}"
            )
        for ours, theirs in pairs:
            for a, b in zip(ours, theirs, strict=True):
                binding[a] = (b,)
        reads = []
        for argument, axes in zip(node.arguments, node.orders, strict=True):
            place = self.locate(argument)
            if place.access.index != plain_index(axes):
                access = self.all.temporary(self.label(argument), axes, argument.dtype)
                place = Place(access, frozenset([self.move(argument, place, access)]))
            reads.append(Read(place))
        writes, homes = [], {}
        for number, result in enumerate(definition.results):
            twin = next((t for t in twins if t.output == number), None)
            axes = union(binding[axis] for axis in result.axes)
            label = self.label(node if twin is None else twin, f"{node.operator}.{result.name}")
            if twin is None:
                home = self.all.temporary(label, axes, result.dtype)
            else:
                home = homes[twin] = self.goal(twin, label, axes)
            writes.append((number, home))
        source = self.all.names.get(node, "")
        work = Work(
            definition.name, source, definition, binding, (), {}, tuple(reads), tuple(writes),
            sets=node.sets,
        )  # fmt: skip
        made = self.call(work)
        self.homes.update((twin, Place(home, frozenset([made]))) for twin, home in homes.items())

    def scanned(self, node: Scan) -> None:
        """The calls of all results of a recurrence."""
        if node in self.homes:
            return
        if self.scan is not None:
            raise CompileError(
                f"graph {self.all.graph.name!r}: a recurrence over {node.body.axis!r} must not be "
                f"inside one over {self.scan[0]!r}"
            )
        twins = [
            other
            for other in self.order
            if isinstance(other, Scan)
            and (other.body, other.initial, other.xs) == (node.body, node.initial, node.xs)
        ]
        Steps(self, node, twins).lower()

    def final(self, node: Scan, carry: Access, after: frozenset[int]) -> None:
        """Copy the last value of a state out of the scan."""
        home = self.goal(node, self.label(node, "final"), node.axes)
        made = self.move(node, Place(carry, after), home)
        self.homes[node] = Place(home, frozenset([made]))


class Steps:
    """A recurrence as calls that run once a step."""

    def __init__(self, outer: Scope, node: Scan, twins: Sequence[Scan]) -> None:
        self.outer, self.node, self.twins = outer, node, twins
        self.body = node.body
        self.all = outer.all
        self.label = next((outer.all.names[t] for t in twins if t in outer.all.names), "scan")
        self.block = next(outer.all.blocks)
        self.inner = Scope(self.all, outer, (self.body.axis, self.body.reverse, self.block))

    def lower(self) -> None:
        body, outer = self.body, self.outer
        carries = [self.carry(n) for n in range(len(body.states))]
        renamed, leaves = self.renamed()
        for leaf, (access, after) in zip(leaves, carries, strict=False):
            self.inner.homes[leaf] = Place(access, after, old=True)
        count_ = len(body.states)
        fixed = {a: n for a, n in self.all.sizes.items() if not self.all.extents[a].length.terms}
        roots = canonical((*renamed.next, *renamed.emits), fixed).roots
        needed = {t.output - count_: t for t in self.twins if t.output >= count_}
        states = roots[:count_]
        results: list[tuple[Node, Access]] = []
        for number, twin in sorted(needed.items()):
            label = outer.label(twin, self.label)
            home = outer.goal(twin, label, twin.axes, self.body.axis)
            results.append((roots[count_ + number], home))
        asked = (*states, *(node for node, _ in results))
        order = self.all.select(asked)
        first = len(self.all.drafts)
        plain = [access for access, _ in carries]
        self.inner.lower(order, results, (), zip(states, leaves, plain, strict=False))
        made = frozenset(
            n for n in range(first, len(self.all.drafts)) if self.all.drafts[n].block == self.block
        )
        for (_, twin), (_, home) in zip(sorted(needed.items()), results, strict=True):
            outer.homes[twin] = Place(home, made)
        for twin in self.twins:
            if twin.output < count_:
                outer.final(twin, plain[twin.output], made)

    def carry(self, number: int) -> tuple[Access, frozenset[int]]:
        """The tensor of a state, and what puts its first value there."""
        leaf, initial = self.body.states[number], self.node.initial[number]
        label = f"{self.label}.{leaf.name}"
        access = self.all.temporary(label, leaf.axes, leaf.dtype, "carry")
        if is_number(initial):
            tensor = self.all.tensors[access.tensor]
            value = number_of(initial)
            if value is None:
                raise CompileError(
                    f"graph {self.all.graph.name!r}: state {leaf.name!r} cannot start as "
                    f"{show(initial)}, which follows from a parameter"
                )
            self.all.tensors[access.tensor] = replace(tensor, initial=float(value))
            return access, frozenset()
        place = self.outer.locate(initial)
        mover = self.all.mover
        (m,) = mover.axes
        work = Work(mover.name, "", mover, {m: leaf.axes}, (), {}, (Read(place),), ((0, access),))
        return access, frozenset([self.outer.call(work)])

    def row_by_row(self, x: Node) -> Place:
        """Where a scanned value is. One whose steps lie between each other's, as the places of
        chunks do, is moved first: a step could only read it position by position."""
        place, axis = self.outer.locate(x), self.body.axis
        among = [i for i in place.access.index if len(i.terms) > 1 and axis in dict(i.terms)]
        if not among:
            return place
        access = self.all.temporary(f"{self.label}.slice", x.axes, x.dtype)
        return Place(access, frozenset([self.outer.move(x, place, access)]))

    def renamed(self) -> tuple[Recurrence, list[Input]]:
        """The body with leaves of its own: states, slices, and values that all steps share."""
        body, known = self.body, dict[Node, Node]()
        leaves = []
        for leaf in body.states:
            leaves.append(Input(f"{self.label}#{self.block}.{leaf.name}", leaf.axes, leaf.dtype))
            known[leaf] = leaves[-1]
        given = list(zip(body.slices, self.node.xs, strict=True))
        for leaf, x in given:
            made = Input(f"{self.label}#{self.block}.{leaf.name}", leaf.axes, leaf.dtype)
            known[leaf] = made
            self.inner.homes[made] = self.row_by_row(x)
        for number, node in enumerate(invariants(body)):
            if not is_number(node) and not isinstance(node, Input):
                made = Input(f"{self.label}#{self.block}.{number}", node.axes, node.dtype)
                known[node] = made
                self.inner.homes[made] = self.outer.locate(node)
        results = substitute((*body.next, *body.emits), known)
        cut = len(body.next)
        renamed = Recurrence(body.axis, (), (), results[:cut], results[cut:], body.reverse)
        return renamed, leaves


def _ends(index: Index, extent: int, axis: Axis, size: int, outside: tuple[bool, bool]) -> bool:
    """Whether a dimension along which this axis alone moves ends where the axis does: with its
    first position, with its last one, as asked."""
    if [name for name, _ in index.terms] != [axis]:
        return False
    ((_, stride),) = index.terms
    before, behind = index.offset - stride, index.offset + stride * size
    if stride < 0:
        before, behind = extent - 1 - before, extent - 1 - behind
    return (not outside[0] or before < 0) and (not outside[1] or behind >= extent)


def _fill(definition: Instruction, operand: str) -> float | None:
    """What an operand reads as outside of its positions, if the definition says so."""
    for node in walk(definition.outputs):
        match node:
            case View(Input(name, _, _), _, fill) if name == operand and fill is not None:
                return float(fill)
    return None
