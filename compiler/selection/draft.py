"""Calls before their order is known: their tensors, limits, opcodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from functools import cached_property
from heapq import heappop, heappush
from itertools import count

from infinisa.isa.dtypes import DTYPES
from infinisa.isa.errors import CompileError
from infinisa.isa.instruction import Instruction
from infinisa.isa.language import (
    Affine,
    Axis,
    Input,
    Node,
    show,
    union,
)
from infinisa.isa.machine import Unit
from infinisa.isa.program import Count, Extent, Opcode

from ..calls import Access, Call, Covered, Index, Tensor
from ..equality.canonical import number_of
from ..graph import Graph, Model
from .choice import Choosing, tile_limit, unit_for
from .coverage import Coverage, Made
from .indices import substituted
from .match import Match

Order = list[tuple[Node, "Match | None"]]
Select = Callable[[Sequence[Node]], Order]
Binding = Mapping[Axis, tuple[Axis, ...]]


ISSUE = 4096
"""Elements a lane of a vector unit takes in one issue: enough to hide its fixed cost."""


@dataclass(frozen=True)
class Place:
    """Where a value is: an access in terms of its axes, and the drafts that put it there.

    old: it is a state from before this turn or step, which something may replace.
    """

    access: Access
    after: frozenset[int] = frozenset()
    old: bool = False


@dataclass
class Draft:
    """A call before the order of calls is known: it runs after others; `block` is its scan."""

    call: Call
    after: set[int]
    block: int | None = None


@dataclass(frozen=True)
class Read:
    """An operand: what is read, over which axes, and which of these are windows on others."""

    place: Place
    windows: Mapping[Axis, Affine] = field(default_factory=dict)

    @cached_property
    def plain(self) -> bool:
        """Whether an axis of its own walks each dimension, position by position."""
        access = self.place.access
        return not self.windows and len(access.plain) == len(access.index)


@dataclass(frozen=True)
class Runs:
    """How a reduction is divided: so many runs of equal length along an axis of the graph."""

    axis: Axis
    count: int


@dataclass(frozen=True)
class Work:
    """What a call is made of.

    writes    (output, access) pairs
    pieces    whether reduced axes are taken in pieces
    whole     axes that one issue must see complete
    direct    operands that are worked on in place, outside the chip
    """

    name: str
    source: str
    definition: Instruction
    binding: Binding
    loops: tuple[Axis, ...]
    immediates: Mapping[str, float | int]
    reads: tuple[Read, ...]
    writes: tuple[tuple[int, Access], ...]
    reduce: frozenset[Axis] = frozenset()
    direct: tuple[int, ...] = ()
    sets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Form:
    """A call but for the names of its tensors.

    reads, writes  the index of each access
    touched        bytes of all regions that it reads and writes
    """

    unit: Unit
    opcode: Opcode
    reads: tuple[tuple[Index, ...], ...]
    writes: tuple[tuple[Index, ...], ...]
    limits: Mapping[Axis, int]
    whole: frozenset[Axis]
    touched: int


def plain_index(axes: Iterable[Axis]) -> tuple[Index, ...]:
    return tuple(Index(((axis, 1),)) for axis in axes)


class Drafting:
    """Collects the tensors and calls of one graph."""

    def __init__(
        self,
        model: Model,
        graph: Graph,
        choosing: Choosing,
        select: Select,
        names: Mapping[Node, str],
        layouts: dict[Node, tuple[Axis, ...]],
        opcodes: dict[object, Opcode] | None = None,
        runs: Mapping[Match, Runs] | None = None,
    ) -> None:
        self.model, self.graph, self.choosing, self.select = model, graph, choosing, select
        self.runs = runs or {}
        self.made: dict[Match, range] = {}
        self.names, self.layouts = names, layouts
        self.named = {node: number for number, node in enumerate(names)}
        self.opcodes = {} if opcodes is None else opcodes
        self.opcode_names = {opcode.name for opcode in self.opcodes.values()}
        self.extents = {extent.axis: extent for extent in graph.extents}
        self.graph_axes = frozenset(self.extents)
        self.moving = frozenset(e.axis for e in graph.extents if e.start != Count())
        self.tensors: dict[str, Tensor] = {}
        self.dims: dict[str, tuple[Axis, ...]] = {}
        self.drafts: list[Draft] = []
        self.writers: dict[str, set[int]] = {}
        self.old_readers: dict[str, set[int]] = {}
        self.taken: Counter[str] = Counter()
        self.bases: dict[str, str] = {}
        self.coverage = Coverage()
        self.blocks = count()
        self.forms: dict[object, Form] = {}
        self.pieces: dict[object, bool] = {}

    @property
    def sizes(self) -> Mapping[Axis, int]:
        return self.choosing.sizes

    def covered(self) -> Covered:
        """The graph as calls, in an order that respects all of their dependences."""
        return Covered(
            self.graph.name,
            tuple(self.extents.values()),
            self.tensors,
            tuple(self.drafts[n].call for n in ordered(self.drafts)),
            self.graph.repeat,
            self.graph.tokens,
            dict(self.sizes),
            self.bases,
        )

    def divided(self, work: Work, runs: Runs) -> tuple[Work, Axis]:
        """A work whose reduced axis goes in runs, and the axis of the runs: a loop outside."""
        length = self.sizes[runs.axis] // runs.count
        run = self.part(f"{runs.axis}_run{runs.count}", runs.count)
        rest = self.part(f"{runs.axis}_in{runs.count}", length)
        index = {runs.axis: Affine(((run, length), (rest, 1)))}
        binding = {
            ours: tuple(rest if axis == runs.axis else axis for axis in axes)
            for ours, axes in work.binding.items()
        }
        reads = tuple(
            replace(
                read,
                place=replace(read.place, access=substituted(read.place.access, index)),
            )
            for read in work.reads
        )
        reduce = frozenset(rest if axis == runs.axis else axis for axis in work.reduce)
        loops = (run, *work.loops)
        return replace(work, binding=binding, reads=reads, reduce=reduce, loops=loops), run

    def part(self, name: Axis, length: int) -> Axis:
        """An axis that no value has, such as the one that counts the runs of another: for one name
        always the same."""
        while name in self.graph_axes:
            name += "_"
        if name not in self.extents:
            self.extents[name] = Extent(name, Count(length), length)
            self.choosing = replace(self.choosing, sizes={**self.sizes, name: length})
        return name

    def results(self, outputs: Mapping[str, Node]) -> list[tuple[Node, Access]]:
        """Tensors for the graph's results, and what is to be written there."""
        found = []
        for key, node in outputs.items():
            axes = self.graph.outputs[key].axes
            name = f"{self.graph.name}/{key}"
            self.taken[name] += 1
            self.add(Tensor(name, self.shape(axes), node.dtype, "output"), axes)
            found.append((node, Access(name, plain_index(axes))))
        return found

    # -- tensors

    def shape(self, axes: Iterable[Axis]) -> tuple[int, ...]:
        return tuple(self.sizes[axis] for axis in axes)

    def add(self, tensor: Tensor, axes: tuple[Axis, ...]) -> Tensor:
        self.tensors[tensor.name], self.dims[tensor.name] = tensor, axes
        return tensor

    def unique(self, name: str) -> str:
        self.taken[name] += 1
        made = name if self.taken[name] == 1 else f"{name}.{self.taken[name]}"
        self.bases[made] = name
        return made

    def temporary(
        self, label: str, axes: tuple[Axis, ...], dtype: str, kind: str = "temporary"
    ) -> Access:
        name = self.unique(f"{self.graph.name}/{label}")
        self.add(Tensor(name, self.shape(axes), dtype, kind), axes)
        return Access(name, plain_index(axes))

    def outside(self, leaf: Input) -> Access:
        """The access to a whole input, weight or kept tensor."""
        if leaf.name not in self.tensors:
            self.add(self._given(leaf), leaf.axes)
        return Access(leaf.name, plain_index(leaf.axes))

    def _given(self, leaf: Input) -> Tensor:
        model, name = self.model, leaf.name
        if name in model.weights:
            weight = model.weights[name]
            return Tensor(
                name, weight.shape, leaf.dtype, "weight", absolute=True, content=weight.content
            )
        if name in model.kept:
            kept = model.kept[name]
            return Tensor(name, kept.shape, leaf.dtype, "state", True, kept.initial)
        if name in model.inputs:
            return Tensor(name, model.inputs[name][1], leaf.dtype, "input", absolute=True)
        raise CompileError(
            f"graph {self.graph.name!r}: input {name!r} must be an input, weight or kept tensor "
            f"of model {model.name!r}"
        )

    def number(self, node: Node) -> Access:
        """A tensor that always holds a number: kept, never written."""
        value = number_of(node)
        if value is None:
            raise CompileError(
                f"graph {self.graph.name!r}: {show(node)} follows from a parameter and cannot be "
                "an operand of an instruction"
            )
        name = f"number {value!r}: {node.dtype}"
        self.add(Tensor(name, (), node.dtype, "state", True, float(value)), ())
        return Access(name, ())

    def count_from_zero(self, access: Access) -> None:
        """See that a temporary that is read along an axis with another start counts from 0."""
        tensor, axes = self.tensors[access.tensor], self.dims[access.tensor]
        if tensor.absolute or self.moving.isdisjoint((*axes, *access.axes)):
            return
        starts = [self.start(axis) for axis in axes]
        for start, index in zip(starts, access.index, strict=True):
            others = [self.start(axis) for axis, _ in index.terms]
            turned = any(s < 0 and self.start(axis) != Count() for axis, s in index.terms)
            if not turned and all(o == start for o in others) and (others or start == Count()):
                continue
            if any(each != Count() for each in starts):
                raise CompileError(
                    f"graph {self.graph.name!r}: tensor {tensor.name!r} starts at position "
                    f"{start} and cannot be read at positions that do not"
                )
            self.tensors[tensor.name] = replace(tensor, absolute=True)

    def start(self, axis: Axis) -> Count:
        return self.extents[axis].start if axis in self.extents else Count()

    # -- calls

    def draft(
        self, work: Work, scan: tuple[Axis, bool, int] | None, operations: int, nodes: int
    ) -> int:
        """Make a call; the number of its draft."""
        axis, reverse, block = scan or (None, False, None)
        form = self.form(work, axis)
        reads = tuple(
            Access(read.place.access.tensor, index, read.place.access.fill)
            for read, index in zip(work.reads, form.reads, strict=True)
        )
        writes = tuple(
            Access(to.tensor, index, to.fill)
            for (_, to), index in zip(work.writes, form.writes, strict=True)
        )
        for access in (*reads, *writes):
            self.count_from_zero(access)
        call = Call(
            self.unique(work.name),
            work.source,
            form.opcode,
            work.definition,
            self.types(reads),
            form.unit,
            reads,
            writes,
            form.limits,
            work.reduce,
            form.whole,
            axis,
            reverse,
            operations,
            work.sets,
            frozenset(reads[number].tensor for number in work.direct),
        )
        assert axis is None or axis in call.tiled, f"{call.name}: its steps are no loop"
        after = {number for each in work.reads for number in each.place.after}
        self.drafts.append(Draft(call, after, block))
        self.coverage.made.append(Made(call, None, nodes, form.touched))
        return len(self.drafts) - 1

    def form(self, work: Work, scan: Axis | None) -> Form:
        """The form of the call that a work becomes, found once for all that differ in the names of
        tensors only."""
        key = self.key(work), scan
        if key not in self.forms:
            self.forms[key] = self._form(work, scan)
        return self.forms[key]

    def key(self, work: Work) -> object:
        """What a work is but for the names of tensors, its own and its source's."""
        reads = [read.place.access for read in work.reads]
        writes = [access for _, access in work.writes]
        return (
            (work.definition, tuple(work.binding.items()), work.loops, work.reduce),
            (tuple(work.immediates.items()), tuple(number for number, _ in work.writes)),
            (tuple(access.index for access in reads), self.types(reads)),
            tuple(tuple(read.windows.items()) for read in work.reads),
            (tuple(access.index for access in writes), self.types(writes)),
        )

    def _form(self, work: Work, scan: Axis | None) -> Form:
        unit = unit_for(work.definition, self.choosing.machine)
        assert unit is not None
        forced = self.forced(work, {scan} if scan else set())
        work = self.without_forced(work, forced)
        read = [indexed(each, self.sizes, forced) for each in work.reads]
        written = [indexed(Read(Place(to)), self.sizes, forced) for _, to in work.writes]
        accesses = [access for access, _ in (*read, *written)]
        operands, results = tuple(axes for _, axes in read), tuple(axes for _, axes in written)
        limits = self.limits(work, unit, forced, results)
        types = self.types([access for access, _ in read])
        definition = work.definition
        every = (*definition.whole, *definition.reduced)
        whole = {a for ours in every for a in work.binding.get(ours, ())} - work.reduce - forced
        return Form(
            unit,
            self.opcode(work, unit, operands, results, limits, types),
            tuple(access.index for access, _ in read),
            tuple(access.index for access, _ in written),
            limits,
            frozenset(whole),
            sum(
                DTYPES[self.tensors[access.tensor].dtype].size * self.choosing.volume(access.axes)
                for access in accesses
            ),
        )

    def without_forced(self, work: Work, forced: AbstractSet[Axis]) -> Work:
        """Without axes that go one position an issue: operands do not have them. One that states
        are stepped over stays."""
        gone = forced - work.reduce
        binding = {
            ours: tuple(axis for axis in axes if axis not in gone)
            for ours, axes in work.binding.items()
        }
        return replace(work, binding=binding)

    def forced(self, work: Work, given: Iterable[Axis] = ()) -> set[Axis]:
        """Axes that go one position an issue, because of how a tensor is indexed somewhere."""
        every = (*work.reads, *(Read(Place(to)) for _, to in work.writes))
        awkward = [each for each in every if not each.plain]
        found, before = set(given), -1
        while awkward and len(found) > before:
            before = len(found)
            for read in awkward:
                indexed(read, self.sizes, found)
        return found

    def types(self, reads: Sequence[Access]) -> tuple[str, ...]:
        return tuple(self.tensors[access.tensor].dtype for access in reads)

    def opcode(
        self,
        work: Work,
        unit: Unit,
        operands: tuple[tuple[Axis, ...], ...],
        results: tuple[tuple[Axis, ...], ...],
        limits: Mapping[Axis, int],
        types: tuple[str, ...],
    ) -> Opcode:
        """The opcode under a name of its own; equal ones over equal types are one."""
        formats = dict(work.definition.formats)
        opcode = Opcode(
            work.definition.name,
            work.definition.name,
            work.definition.meaning,
            unit.name,
            tuple(work.binding.items()),
            tuple(work.immediates.items()),
            operands,
            results,
            tuple(number for number, _ in work.writes),
            tuple(limits.items()),
            tuple((n, formats[n]) for n in work.immediates if n in formats),
        )
        key = (opcode, types)
        if (known := self.opcodes.get(key)) is None:
            name, number = opcode.name, 1
            while name in self.opcode_names:
                number += 1
                name = f"{opcode.name}.{number}"
            self.opcode_names.add(name)
            known = self.opcodes[key] = replace(opcode, name=name)
        return known

    def limits(
        self, work: Work, unit: Unit, forced: set[Axis], results: Sequence[tuple[Axis, ...]]
    ) -> dict[Axis, int]:
        """How much of each axis one issue takes: whole axes all, those with a tile limit that, one
        whose pieces would fold the same again as much as the widest limit, the rest as much as
        keeps the unit busy, and on an array at least what it is wide; innermost axes first."""
        definition, binding = work.definition, work.binding
        bound = union(binding.get(axis, ()) for axis in definition.axes)
        order = union([sorted(forced), work.loops, *results, bound])
        order = tuple(axis for axis in order if axis)
        found = dict.fromkeys((*forced, *work.loops), 1)
        limits = [n for a in definition.axes if (n := tile_limit(definition, unit, a)) is not None]
        for axis in definition.axes:
            mine = sorted((a for a in binding.get(axis, ()) if a not in found), key=order.index)
            limit = tile_limit(definition, unit, axis)
            if axis in definition.whole and not work.reduce & set(mine):
                found.update((a, self.sizes[a]) for a in mine)
            elif limit is not None:
                self._fill(found, mine, limit)
            elif axis in definition.repeating and limits:
                self._fill(found, mine, max(limits))
        room = self.block(unit)
        for limit in found.values():
            room = max(1, room // limit)
        reduced = {a for axis in definition.reduced for a in binding.get(axis, ())}
        left = [axis for axis in order if axis not in found]
        array = min(unit.attributes.get("rows", 1), unit.attributes.get("columns", 1))
        self._fill(found, sorted(left, key=lambda axis: axis in reduced), room, array)
        return {axis: found[axis] for axis in order}

    def _fill(
        self, found: dict[Axis, int], axes: Sequence[Axis], room: int, least: int = 1
    ) -> None:
        """Innermost axes first, each at least as long as an array is wide."""
        for axis in reversed(axes):
            found[axis] = max(1, min(max(room, least), self.sizes[axis]))
            room = max(1, room // found[axis])

    def block(self, unit: Unit) -> int:
        """Elements of one issue."""
        lanes = unit.attributes.get("lanes")
        array = unit.attributes.get("rows", 1) * unit.attributes.get("columns", 1)
        elements = max(lanes * ISSUE if lanes else array, ISSUE)
        memory = self.choosing.machine.scratchpad
        return elements if memory.managed == "software" else max(elements, memory.size // 32)

    @cached_property
    def mover(self) -> Instruction:
        """The instruction that yields its operand."""
        for instruction in self.choosing.usable():
            if len(instruction.operands) == 1 and instruction.outputs == instruction.operands:
                return instruction
        raise CompileError(
            f"graph {self.graph.name!r}: a value must change its place, but no instruction of "
            f"machine {self.choosing.machine.name!r} yields its operand, as 'move' does"
        )


def indexed(
    read: Read, sizes: Mapping[Axis, int], forced: set[Axis]
) -> tuple[Access, tuple[Axis, ...]]:
    """An operand's access and the axis of each of its dimensions.

    A dimension that several axes index, or one with a stride, is walked by its innermost axis; the
    others go one position an issue and are added to `forced`.
    """
    access, found = read.place.access, list[Axis]()
    if read.plain:
        return access, tuple("" if axis in forced else axis for axis in access.plain)
    index_ = []
    for index in access.index:
        window = read.windows.get(index.terms[0][0]) if len(index.terms) == 1 else None
        if window is not None:
            ((axis, stride),) = index.terms
            terms = tuple((a, s * stride) for a, s in window.terms)
            index_.append(Index(terms, index.offset + stride * window.offset))
            found.append(axis)
            continue
        index_.append(index)
        able = [a for a, s in index.terms if s == 1 and a not in forced and a not in access.several]
        best = max(able, key=lambda axis: sizes[axis], default="")
        found.append(best)
        forced.update(axis for axis, _ in index.terms if axis != best)
    return Access(access.tensor, tuple(index_), access.fill), tuple(found)


def ordered(drafts: Sequence[Draft]) -> list[int]:
    """Numbers of drafts, each after those it waits for, else as given; a scan's stay together."""
    members: dict[int, list[int]] = {}
    item = {}
    for number, draft in enumerate(drafts):
        first = number
        if draft.block is not None:
            first = next((n for n in members if drafts[n].block == draft.block), number)
        item[number] = first
        members.setdefault(first, []).append(number)
    waits = {
        first: {item[a] for n in group for a in drafts[n].after} - {first}
        for first, group in members.items()
    }
    found = []
    for first in _sorted(waits):
        inside = set(members[first])
        found += _sorted({n: drafts[n].after & inside for n in members[first]})
    return found


def _sorted(waits: Mapping[int, Iterable[int]]) -> list[int]:
    left = {number: set(others) for number, others in waits.items()}
    users: dict[int, list[int]] = {}
    for number, others in left.items():
        for other in others:
            users.setdefault(other, []).append(number)
    ready = [number for number, others in left.items() if not others]
    ready.sort()
    found = []
    while ready:
        number = heappop(ready)
        found.append(number)
        for user in users.get(number, ()):
            left[user].discard(number)
            if not left[user]:
                heappush(ready, user)
    assert len(found) == len(left), "calls wait for each other"
    return found
