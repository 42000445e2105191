"""A program as one native entry: its loop tree walked once, each issue a call of a kernel."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from infinisa.isa.dtypes import DTYPES
from infinisa.isa.instruction import Instruction
from infinisa.isa.language import Affine, Axis, Input, Scan, Size, walk
from infinisa.isa.program import (
    COPIES,
    Buffer,
    Count,
    Extent,
    Issue,
    Like,
    Loop,
    Opcode,
    Operand,
    Program,
    Section,
    Stage,
    Statement,
    core_share,
    statements,
)

from .functions import STORED, narrow, register, saturate
from .ir import SOON, Function, Module, Number, Value, constant, number, text
from .kernel import Access, Shape, axes_of, moving, needs_starts
from .kernels import Kernels, Meaning
from .plan import (
    CALL_HEAD,
    CONTEXT,
    CORE,
    FAILED,
    FAULT,
    FAULTY,
    ISSUE,
    OUT_OF_BOUNDS,
    OUT_OF_RANGE,
    STATUS,
    Emission,
    Plan,
    chip_sizes,
    output_dimensions,
)
from .processor import Target
from .quantised import Format
from .restricted import RestrictedError
from .shares import WORTH, Share, narrowed
from .threads import FRAME, PIECE, hand_out, worker
from .untiled import Meanings, untiled
from .weights import Layout

LARGE = 8 << 20
"""Bytes of a result that are not left to the caches: most would be gone before anybody reads."""


@dataclass(frozen=True)
class Run:
    """A range while the code is written: its numbers, the most its length can be, and what divides
    its start (0: it is 0)."""

    start: Number
    length: Number
    bound: int
    first: Value | None = None
    turns: Value | None = None
    divisor: int = 1


@dataclass(frozen=True)
class Span:
    """An axis of an issue: where it starts, its length, and the most that can be."""

    start: Number
    length: Number
    bound: int


def emit(
    program: Program,
    library: Mapping[str, Instruction],
    target: Target,
    cores: int,
    threads: int = 1,
    worth: int = WORTH,
    weights: Format | None = None,
) -> Emission:
    """The whole program as code; `weights`: how a session keeps them, if not as they come."""
    meanings = Meanings(library)
    program = untiled(program, meanings)
    emission = Emission(Module(target), Plan(cores, threads), worth)
    kernels = Kernels(program, meanings, target, emission, weights)
    for number_, section in enumerate(program.sections):
        walker = Walker(program, section, kernels, f"section{number_}")
        walker.run()
        emission.plan.entries.append(f"section{number_}")
    if emission.plan.shared:
        worker(emission.module, target)
    emission.plan.faults = emission.bodies.faults
    return emission


Want: TypeAlias = Literal["buffer", "end"] | Layout
"""What a stage must know of a buffer: its place in the table of buffers, in that of ends, or the
place of its packed form."""


@dataclass
class Wanted:
    """The numbers that the function of a stage is given, by number and kind of its buffer."""

    buffers: tuple[str, ...]
    numbers: dict[tuple[int, Want], int] = field(default_factory=dict)

    def at(self, want: Want, buffer: str) -> int:
        """Where one of them is."""
        return self.numbers.setdefault((self.buffers.index(buffer), want), len(self.numbers))


class Walker:
    """Writes the function of one section."""

    def __init__(self, program: Program, section: Section, kernels: Kernels, name: str) -> None:
        self.program, self.section, self.kernels = program, section, kernels
        self.f = Function(kernels.module, name, [("context", "ptr")], public=True, inline=SOON)
        self.context = self.f.parameters["context"]
        self.given = self.tables(self.context)
        self.stages: dict[str, Wanted] = {}
        self.wanted: Wanted | None = None
        self.places = {p.name: i for i, p in enumerate(program.parameters)}
        self.numbers = {buffer.name: i for i, buffer in enumerate(program.buffers)}
        self.ends = output_dimensions(program)
        self.ranges: dict[str, Run] = {}
        self.rotors = {buffer.rotor for buffer in program.buffers if buffer.slots > 1}
        self.done: dict[str, Value] = {}
        self.core: Number = 0
        self.chips = chip_sizes(program)

    def run(self) -> None:
        f, repeat = self.f, self.section.repeat
        if repeat is None:
            self.turn()
        else:
            count = f.maximum(self.count(repeat.count), 0)
            counter = self.slot(self.given["parameters"], self.places[repeat.counter])

            def turn(index: Value, _: list[Value]) -> None:
                f.store(index, counter)
                self.turn()

            f.loop(0, count, 1, turn)
        f.jump("quit")
        f.place("quit")
        f.done()

    def turn(self) -> None:
        """One turn of the section, under the parameters as they stand."""
        self.ranges = {}
        for extent in self.section.extents:
            self.ranges[extent.axis] = self.extent(extent)
        likes = self.program.likes[self.program.sections.index(self.section)]
        often = Counter(like.first for like in likes)
        for stage, like in zip(self.section.stages, likes, strict=True):
            if often[like.first] > 1 and self.plain(stage):
                self.call_stage(stage, like)
            else:
                self.stage(stage)

    # -- stages that are alike

    def plain(self, stage: Stage) -> bool:
        """Whether nothing in a stage can end the section."""
        for item in statements(stage.body):
            if isinstance(item, Issue):
                opcode = self.program.opcode[item.opcode]
                if opcode.instruction not in COPIES:
                    meaning = self.kernels.meaning(opcode, item.reads)
                    if meaning.given.opaque or meaning.written:
                        return False
        return True

    def call_stage(self, stage: Stage, like: Like) -> None:
        """A stage that others are like: one function for all of them, which finds its buffers by
        numbers that it is given."""
        name = f"{self.f.name}_stage{like.first}"
        moving = [
            number_
            for run in (self.ranges[extent.axis] for extent in self.section.extents)
            for number_ in (run.start, run.length)
            if not isinstance(number_, int)
        ]
        if name not in self.stages:
            wanted = Wanted(like.buffers)
            self.stages[name] = wanted
            with self.inside(name, moving, wanted):
                self.stage(stage)
        wanted = self.stages[name]
        places = [self.resolve(want, like.buffers[n]) for n, want in wanted.numbers]
        table = self.f.module.table(places)
        arguments: list[tuple[str, Number]] = [("ptr", self.context), ("ptr", table)]
        self.f.run(name, [*arguments, *(("i64", value) for value in moving)])

    @contextmanager
    def inside(self, name: str, moving: Sequence[Value], wanted: Wanted) -> Iterator[None]:
        """What is written meanwhile goes into the function of a stage."""
        before = self.f, self.given, self.ranges, self.wanted
        given = [(f"n{i}", "i64") for i in range(len(moving))]
        head = [("context", "ptr"), ("numbers", "ptr")]
        self.f = Function(self.f.module, name, [*head, *given], inline=SOON)
        mine = self.f.parameters
        known = {value: mine[label] for value, (label, _) in zip(moving, given, strict=True)}

        def here(number_: Number) -> Number:
            return number_ if isinstance(number_, int) else known[number_]

        self.given = {**self.tables(mine["context"]), "numbers": mine["numbers"]}
        self.ranges = {
            axis: replace(run, start=here(run.start), length=here(run.length))
            for axis, run in before[2].items()
            if axis in self.section.axes
        }
        self.wanted = wanted
        yield
        self.f.done()
        self.f, self.given, self.ranges, self.wanted = before

    def tables(self, context: Value) -> dict[str, Value]:
        """The tables that an entry is given."""
        f = self.f
        return {name: f.load(f.at(context, i, "ptr"), "ptr") for i, name in enumerate(CONTEXT)}

    def place(self, want: Want, buffer: str) -> Number:
        """Where something of a buffer is in its table: known, or read from the numbers that a stage
        is given."""
        if self.wanted is None:
            return self.resolve(want, buffer)
        return self.f.load(self.slot(self.given["numbers"], self.wanted.at(want, buffer)), "i64")

    def resolve(self, want: Want, buffer: str) -> int:
        if isinstance(want, Layout):
            return self.kernels.packed(buffer, want)
        if want == "end":
            return self.ends[buffer]
        self.kernels.emission.plan.plain.add(buffer)
        return self.numbers[buffer]

    # -- numbers

    def slot(self, table: Value, place: Number) -> Value:
        return self.f.at(table, place, "i64")

    def count(self, count: Count) -> Number:
        total: Number = count.constant
        for name, factor in count.terms:
            value = self.f.load(self.slot(self.given["parameters"], self.places[name]), "i64")
            total = self.f.add(total, self.f.multiply(value, factor))
        return total

    def extent(self, extent: Extent) -> Run:
        f = self.f
        start, length = self.count(extent.start), f.maximum(self.count(extent.length), 0)
        wrong = [
            (f.subtract(length, extent.most), "sgt"),
            (start, "slt"),
            (f.subtract(f.add(start, length), extent.bound), "sgt"),
        ]
        for value, how in wrong:
            if isinstance(value, int):
                if (value > 0) if how == "sgt" else (value < 0):
                    self.leave(constant("i1", True), OUT_OF_RANGE)
            else:
                self.leave(f.compare(how, value, constant("i64", 0)), OUT_OF_RANGE)
        return Run(start, length, extent.most, divisor=start if isinstance(start, int) else 1)

    def leave(self, condition: Value, status: int) -> None:
        """End the entry with a status if a condition holds."""
        f = self.f
        yes, no = f.label(), f.label()
        f.branch(condition, yes, no)
        f.place(yes)
        f.store(constant("i64", status), self.slot(self.given["call"], STATUS))
        f.jump("quit")
        f.place(no)

    # -- the tree

    def stage(self, stage: Stage) -> None:
        """The stage on every core, or on the first if nothing of it is dealt out."""
        cores = self.kernels.emission.plan.cores
        if cores == 1 or not any(isinstance(i, Loop) and i.spread for i in stage.body):
            self.core = 0
            self.on_core(stage)
            return

        def turn(index: Value, _: list[Value]) -> None:
            self.core = index
            self.on_core(stage)

        self.f.loop(0, cores, 1, turn)

    def on_core(self, stage: Stage) -> None:
        self.done = {}
        for loop in _loops(stage.body):
            if loop.range in self.rotors and not loop.spread:
                cell = self.f.emit("ptr", 1, "alloca i64")
                self.done[loop.range] = cell
                self.f.store(constant("i64", 0), cell)
        for name, _, _ in stage.lifetimes:
            if self.program.buffer[name].kind == "state":
                self.begin(self.program.buffer[name])
        self.each(stage.body)

    def begin(self, buffer: Buffer) -> None:
        """A state that lives on chip while a stage runs, such as a scan's, at its start."""
        f, kind = self.f, STORED[buffer.dtype]
        first = constant(register(buffer.dtype), buffer.initial)
        raw = narrow(f, saturate(f, first, DTYPES[buffer.dtype].wide, buffer.dtype), buffer.dtype)
        base = self.pointer(buffer, [0] * len(buffer.shape))
        count = math.prod(buffer.shape)
        f.loop(0, count, 1, lambda i, _: f.store(raw, f.at(base, i, kind)))

    def each(self, items: Iterable[Statement]) -> None:
        for item in items:
            if isinstance(item, Issue):
                self.issue(item)
            elif item.spread:
                self.spread(item)
            else:
                self.loop(item)

    def spread(self, item: Loop) -> None:
        """The share of a core."""
        f, parent, cores = self.f, self.ranges[item.parent], self.kernels.emission.plan.cores
        share = f.multiply(f.ceil_divide(f.ceil_divide(parent.length, cores), item.step), item.step)
        share = f.maximum(share, 1)
        offset = f.multiply(share, self.core)
        rest = f.subtract(parent.length, offset)
        bound = min(parent.bound, core_share(parent.bound, item.step, cores))
        divisor = math.gcd(parent.divisor, item.step)
        run = Run(f.add(parent.start, offset), f.minimum(share, rest), bound, divisor=divisor)
        if isinstance(rest, int):
            if rest > 0:
                self.with_range(item, run, item.body)
            return
        some = f.compare("sgt", rest, constant("i64", 0))
        f.when(some, lambda: self.with_range(item, run, item.body))

    def loop(self, item: Loop) -> None:
        f, parent = self.f, self.ranges[item.parent]
        trips = f.ceil_divide(parent.length, item.step)
        cell = self.done.get(item.range)
        before = f.load(cell, "i64") if cell else None
        if cell and before:
            f.store(number(f.add(before, trips)), cell)

        def piece(turn: Number) -> Run:
            place = f.subtract(f.subtract(trips, 1), turn) if item.reverse else turn
            offset = f.multiply(place, item.step)
            length = _rest(f, parent.length, offset, item.step)
            turns = number(f.add(before, turn)) if before else None
            start, bound = f.add(parent.start, offset), min(item.step, parent.bound)
            divisor = math.gcd(parent.divisor, 0 if offset == 0 else item.step)
            return Run(start, length, bound, number(turn), turns, divisor)

        def body(turn: Number) -> None:
            if item.ahead:
                following = f.add(turn, 1)
                last = f.compare("slt", number(following), number(trips))
                f.when(last, lambda: self.with_range(item, piece(following), item.ahead))
            self.with_range(item, piece(turn), item.body)

        def all_turns() -> None:
            if item.ahead:
                self.with_range(item, piece(0), item.ahead)
            if trips == 1:
                body(0)
            else:
                f.loop(0, trips, 1, lambda turn, _: body(turn))

        if isinstance(trips, int):
            if trips:
                all_turns()
        elif item.ahead:
            f.when(f.compare("sgt", trips, constant("i64", 0)), all_turns)
        else:
            all_turns()

    def with_range(self, item: Loop, run: Run, body: Iterable[Statement]) -> None:
        self.ranges[item.range] = run
        self.each(body)

    # -- issues

    def region(self, operand: Operand) -> list[tuple[Number, Number, int]]:
        """(start, length, most it can be) of each dimension."""
        f, found = self.f, []
        for dimension in operand.dimensions:
            start: Number = dimension.offset
            length: Number = 1
            bound = 1
            for term in dimension.terms:
                run = self.ranges[term.range]
                base = self.ranges[term.base].start if term.base else 0
                start = f.add(start, f.multiply(f.subtract(run.start, base), term.stride))
                length = f.add(length, f.multiply(f.subtract(run.length, 1), term.stride))
                bound += term.stride * (run.bound - 1)
            found.append((start, length, bound))
        return found

    def pointer(self, buffer: Buffer, starts: Sequence[Number]) -> Value:
        """The address of a position in the slot of a buffer that these ranges turn to."""
        f = self.f
        table = self.slot(self.given["buffers"], self.place("buffer", buffer.name))
        base = f.load(table, "ptr")
        if buffer.slots > 1:
            turns = self.ranges[buffer.rotor].turns
            if turns is not None:
                place = f.emit("i64", 1, f"urem i64 {turns.text}, {buffer.slots}")
                base = f.at(base, f.multiply(place, buffer.pitch))
        if not buffer.outer:
            base = f.at(base, f.multiply(self.core, self.chips[buffer.memory]))
        offset = elements(f, starts, buffer.shape)
        return f.at(base, f.multiply(offset, DTYPES[buffer.dtype].size))

    def issue(self, issue: Issue) -> None:
        opcode = self.program.opcode[issue.opcode]
        copies = opcode.instruction in COPIES
        meaning = None if copies else self.kernels.meaning(opcode, issue.reads)
        if meaning is not None and meaning.given.opaque:
            self.opaque(issue, meaning.given)
        elif share := self.share(issue, opcode, meaning):
            self.divide(issue, share, opcode, meaning)
        else:
            self.compute(issue, opcode, meaning)
        for operand in issue.writes:
            self.record(operand)

    def compute(self, issue: Issue, opcode: Opcode, meaning: Meaning | None) -> None:
        if meaning is None:
            self.copy(issue)
        else:
            self.call(issue, opcode, meaning)

    # -- threads

    def share(self, issue: Issue, opcode: Opcode, meaning: Meaning | None) -> Share | None:
        """How threads divide an issue, if they do."""
        if self.kernels.emission.plan.threads == 1:
            return None
        if meaning is not None and meaning.written:
            return None  # what ends an entry with a fault is the first thread's alone
        bounds = {name: run.bound for name, run in self.ranges.items()}
        given = None if meaning is None else meaning.given
        share = self.kernels.shares.share(issue, opcode, given, bounds)
        length = self.ranges[share.range].length if share else 0
        return None if share and isinstance(length, int) and length < share.least else share

    def divide(self, issue: Issue, share: Share, opcode: Opcode, meaning: Meaning | None) -> None:
        """The pieces of an issue, each computed by whichever thread takes it first."""
        f, emission = self.f, self.kernels.emission
        length = self.ranges[share.range].length
        size = f.multiply(f.ceil_divide(length, share.pieces * share.grain), share.grain)
        bound = share.piece(self.ranges[share.range].bound)
        if not isinstance(length, int):
            few = f.compare("slt", length, constant("i64", share.least))
            size = f.maximum(f.select(few, length, number(size)), 1)
            bound = max(bound, min(share.least - 1, self.ranges[share.range].bound))
        count = pieces(f, length, size)
        name = f"piece{next(self.kernels.pieces)}"
        with self.outlined(name, issue) as (piece, carry):
            run, size = self.ranges[share.range], carry(size)
            offset = self.f.multiply(size, piece)
            even = isinstance(length, int) and isinstance(size, int) and length % size == 0
            mine = size if even else self.f.minimum(self.f.subtract(run.length, offset), size)
            part = f"{share.range} of a thread"
            divisor = math.gcd(run.divisor, share.grain)
            self.ranges[part] = Run(self.f.add(run.start, offset), mine, bound, divisor=divisor)
            self.compute(narrowed(issue, share.range, part), opcode, meaning)
        hand_out(f, self.given["team"], (name, count), self.given["work"], self.kernels.target)
        emission.plan.shared.add(self.section.name)

    @contextmanager
    def outlined(
        self, name: str, issue: Issue
    ) -> Iterator[tuple[Value, Callable[[Number], Number]]]:
        """What is written meanwhile goes into a function of its own, for any thread to call.

        Yields the number of the piece, and what makes a number of this function known in there:
        those that are not constants go through the frame.
        """
        outer, given, ranges, core = self.f, self.given, self.ranges, self.core
        self.f = Function(outer.module, name, PIECE, inline=SOON)
        mine = self.f.parameters
        places: dict[Value, int] = {}

        def slot(f: Function, team: Value, place: int) -> Value:
            return f.at(team, FRAME + place, "i64")

        def carried(value: Value) -> Value:
            if value.constant:
                return value
            if value not in places:
                places[value] = len(places)
                outer.store(value, slot(outer, given["team"], places[value]))
            return self.f.load(slot(self.f, mine["team"], places[value]), value.kind)

        def carry(value: Number) -> Number:
            return value if isinstance(value, int) else carried(value)

        tables = ("buffers", "numbers")
        shared = {str(name): carried(given[name]) for name in tables if name in given}
        self.given = {**shared, "work": mine["work"]}
        self.core = carry(core)
        self.ranges = {
            range_: Run(
                carry(run.start),
                carry(run.length),
                run.bound,
                carried(run.first) if run.first else None,
                carried(run.turns) if run.turns else None,
                run.divisor,
            )
            for range_, run in ranges.items()
            if range_ in self.section.axes or range_ in self.used(issue)
        }
        yield mine["piece"], carry
        self.f.done()
        self.f, self.given, self.ranges, self.core = outer, given, ranges, core
        emission = self.kernels.emission
        emission.plan.frame = max(emission.plan.frame, len(places))

    def used(self, issue: Issue) -> set[str]:
        """The ranges that an issue's code depends on, besides those of the section."""
        operands = (*issue.reads, *issue.writes)
        terms = [term for o in operands for d in o.dimensions for term in d.terms]
        found = {term.range for term in terms} | {term.base for term in terms}
        found |= {self.program.buffer[operand.buffer].rotor for operand in operands}
        return found | {name for _, name in issue.axes} | {*(issue.fresh or ())}

    def record(self, operand: Operand) -> None:
        """How far an output was written."""
        f = self.f
        if operand.buffer not in self.ends:
            return
        for dimension, (start, length, _) in enumerate(self.region(operand)):
            place = f.add(self.place("end", operand.buffer), dimension)
            cell = self.slot(self.given["ends"], place)
            end = f.maximum(f.load(cell, "i64"), f.add(start, length))
            f.store(number(end), cell)

    def accesses(
        self,
        issue: Issue,
        names: Sequence[tuple[Axis, ...]],
        axes: Mapping[Axis, Span],
    ) -> tuple[tuple[Access, ...], tuple[Access, ...]]:
        """The operands of an issue without names, so that like issues share a kernel."""
        buffers: dict[object, int] = {}
        regions: dict[object, int] = {}
        found: list[Access] = []
        for operand, dims in zip((*issue.reads, *issue.writes), names, strict=True):
            written = len(found) >= len(issue.reads)
            buffer = self.program.buffer[operand.buffer]
            filled = operand.fill is not None
            strides, size = [], 1
            for axis, extent in zip(reversed(dims), reversed(buffer.shape), strict=True):
                single = axis not in axes or axes[axis].length == 1
                strides.append(0 if single and not filled else size)
                size *= extent
            where = operand.buffer, operand.dimensions
            found.append(
                Access(
                    buffer.dtype,
                    dims,
                    tuple(reversed(strides)),
                    buffer.shape if filled else (),
                    operand.fill,
                    buffers.setdefault(operand.buffer, len(buffers)),
                    regions.setdefault(where, len(regions)),
                    self.weight(operand),
                    written and self.past(operand),
                )
            )
        return tuple(found[: len(issue.reads)]), tuple(found[len(issue.reads) :])

    def past(self, operand: Operand) -> bool:
        """`Access.past`: a large result that nothing reads."""
        buffer, lanes = self.program.buffer[operand.buffer], self.kernels.target.lanes
        if buffer.kind != "output" or buffer.bytes < LARGE or buffer.name in self.kernels.read:
            return False
        start, _, _ = self.region(operand)[-1]
        even = isinstance(start, int) and start % lanes == 0 and buffer.shape[-1] % lanes == 0
        return even and buffer.dtype == "f32" and lanes > 1

    def weight(self, operand: Operand) -> tuple[tuple[int, int], ...]:
        """`Access.weight`, if a session may keep the operand in another layout."""
        if operand.buffer not in self.kernels.weights:
            return ()
        found = []
        starts, shape = self.region(operand), self.program.buffer[operand.buffer].shape
        pairs = zip(operand.dimensions, starts, shape, strict=True)
        for dimension, (start, _, _), extent in pairs:
            parts = [self.ranges[term.range].divisor * term.stride for term in dimension.terms]
            based = any(term.base for term in dimension.terms)
            divisor = 1 if based else math.gcd(dimension.offset, *parts)
            found.append((extent, 0 if start == 0 else divisor or extent))
        return tuple(found)

    def call(self, issue: Issue, opcode: Opcode, meaning: Meaning) -> None:
        """Call the kernel of an issue."""
        spans = self.axes(issue, meaning.given, opcode)
        names = meaning.names
        axes = {names[axis]: span for axis, span in spans.items() if axis in names}
        dims = [
            tuple(names.get(axis, axis) for axis in dimensions)
            for dimensions in (*opcode.operands, *opcode.results)
        ]
        axes |= {axis: span for axis, span in spans.items() if axis not in names}
        sizes = {
            names.get(axis, axis): self.ranges[axis].length
            for axis in sizes_of(meaning.given)
            if axis in self.ranges
        }
        reads, writes = self.accesses(issue, dims, axes)
        self.invoke(issue, meaning, reads, writes, axes, sizes, opcode.outputs)

    def axes(self, issue: Issue, meaning: Instruction, opcode: Opcode) -> dict[Axis, Span]:
        """Every axis of an instruction as it stands."""
        found = {
            axis: Span(run.start, run.length, run.bound)
            for axis, run in ((a, self.ranges[name]) for a, name in issue.axes)
        }
        for (_, axis), index in meaning.windows.items():
            if axis not in found:
                found[axis] = window(self.f, index, found)
        for operand, names in zip(issue.reads, opcode.operands, strict=True):
            for axis, (_, length, bound) in zip(names, self.region(operand), strict=True):
                if axis and axis not in found:
                    found[axis] = Span(0, length, bound)
        return found

    def invoke(
        self,
        issue: Issue,
        meaning: Meaning,
        reads: tuple[Access, ...],
        writes: tuple[Access, ...],
        axes: Mapping[Axis, Span],
        sizes: Mapping[Axis, Number],
        outputs: tuple[int, ...],
    ) -> None:
        used = [axis for axis in axes_of(meaning.plain) if axis in axes]
        used += [a for w in writes for a in w.axes if a and a in axes]
        written = meaning.written
        used += [axis for axis in (written.axes if written else ()) if axis in axes]
        used = list(dict.fromkeys(used))
        starts = needs_starts(meaning.plain) or (written is not None and written.wants_starts)
        fresh, again = self.fresh(issue)
        shape = Shape(
            meaning.key,
            reads,
            writes,
            tuple(
                (a, _known(axes[a].start) if starts else 0, _known(axes[a].length)) for a in used
            ),
            tuple((a, _known(size)) for a, size in sizes.items()),
            tuple((a, max(axes[a].bound, 1)) for a in used),
            outputs,
            fresh,
            written,
        )
        made = self.kernels.kernel(shape, meaning.plain)
        arguments: list[tuple[str, Number]] = [("ptr", self.given["work"])]
        for i, (operand, access) in enumerate(zip(issue.reads, reads, strict=True)):
            arguments += self.reading(operand, access, made.packings.get(i), i in made.plain)
        for operand in issue.writes:
            arguments += self.operand(operand)
        for axis in used:
            start, length = axes[axis].start, axes[axis].length
            arguments += [("i64", start)] if starts and not isinstance(start, int) else []
            arguments += [] if isinstance(length, int) else [("i64", length)]
        arguments += [("i64", size) for size in sizes.values() if not isinstance(size, int)]
        if fresh is None:
            arguments.append(("i64", again))
        if not written:
            self.f.run(made.name, arguments)
            return
        with self.may_fail(issue) as fault:
            self.f.run(made.name, [*arguments, ("ptr", fault)])

    @contextmanager
    def may_fail(self, issue: Issue) -> Iterator[Value]:
        """What is called inside may leave a fault there, which then ends the entry."""
        f, area, emission = self.f, self.given["call"], self.kernels.emission
        f.store(constant("i64", len(emission.plan.opaque)), self.slot(area, ISSUE))
        emission.plan.opaque.append(issue)
        fault = self.slot(area, FAULT)
        f.store(constant("i64", 0), fault)
        yield fault
        self.leave(f.compare("ne", f.load(fault, "i64"), constant("i64", 0)), FAULTY)

    def operand(self, operand: Operand) -> list[tuple[str, Number]]:
        """The arguments that say where an operand is."""
        starts = [start for start, _, _ in self.region(operand)]
        pointer = self.pointer(self.program.buffer[operand.buffer], starts)
        found: list[tuple[str, Number]] = [("ptr", pointer)]
        if operand.fill is not None:
            found += [("i64", start) for start in starts]
        return found

    def reading(
        self, operand: Operand, access: Access, layout: Layout | None, plain: bool
    ) -> list[tuple[str, Number]]:
        """The same for what is read: of a weight where it came in, and where it is packed."""
        if not access.weight:
            return self.operand(operand)
        f, nowhere = self.f, Value("null", "ptr")
        packed = nowhere
        firsts: list[tuple[str, Number]] = [("i64", 0)] * len(moving(access))
        if layout is not None:
            place = self.place(layout, operand.buffer)
            packed = f.load(self.slot(self.given["buffers"], place), "ptr")
            region = self.region(operand)
            firsts = [("i64", region[d][0]) for d in moving(access)]
        there = self.operand(operand) if plain else [("ptr", nowhere)]
        return [*there, ("ptr", packed), *firsts]

    def fresh(self, issue: Issue) -> tuple[bool | None, Number]:
        """(whether states start anew, if that is known; else a number that is 0 if they do)."""
        if issue.fresh is None:
            return True, 0
        total: Value | None = None
        for name in issue.fresh:
            first = self.ranges[name].first
            if first is None or first.text == "0":
                continue
            total = first if total is None else self.f.binary("or", total, first)
        if total is None:
            return True, 0
        if total.constant:
            return False, 1
        some = self.f.compare("ne", total, constant("i64", 0))
        return None, self.f.convert("zext", some, "i64")

    def copy(self, issue: Issue) -> None:
        """A region to another, as an instruction that is its operand."""
        (read,), (write,) = issue.reads, issue.writes
        source, target = self.region(read), self.region(write)
        shared = min(len(source), len(target))
        names = [f"d{i}" for i in range(shared)]
        front = [""] * (len(source) - shared), [""] * (len(target) - shared)
        dtype = self.program.buffer[read.buffer].dtype
        leaf = Input("source", tuple(names), dtype)
        meaning = Instruction(name="copy", unit="", operands=(leaf,), outputs=(leaf,))
        axes = {
            name: Span(0, length, bound)
            for name, (_, length, bound) in zip(names, target[len(front[1]) :], strict=True)
        }
        dims = [(*front[0], *names), (*front[1], *names)]
        reads, writes = self.accesses(issue, dims, axes)
        self.invoke(issue, Meaning(meaning, meaning, {}), reads, writes, axes, {}, (0,))

    # -- opaque instructions

    def opaque(self, issue: Issue, meaning: Instruction) -> None:
        """Its body as native code if it can be, else in CPython."""
        operands = (*issue.reads, *issue.writes)
        names = [operand.buffer for operand in operands]
        self.kernels.emission.plan.plain.update(names)
        apart = all(names.count(operand.buffer) == 1 for operand in issue.writes)
        flat = [self.flat(operand) for operand in operands]
        if meaning.body and apart and all(run is not None for run in flat):
            kinds = [f"[{self.program.buffer[name].dtype}]" for name in names]
            try:
                name = self.kernels.emission.bodies.entry(meaning.body, kinds, len(issue.sets))
            except RestrictedError:
                pass
            else:
                self.native(issue, name, [run for run in flat if run is not None])
                return
        self.callback(issue)

    def flat(self, operand: Operand) -> tuple[Value, Number] | None:
        """The address and length of a region, if it lies in one run."""
        buffer = self.program.buffer[operand.buffer]
        region = self.region(operand)
        total: Number = 1
        whole = True
        for (_, length, _), extent in zip(reversed(region), reversed(buffer.shape), strict=True):
            if not whole and length != 1:
                return None
            whole = whole and length == extent
            total = self.f.multiply(total, length)
        if operand.fill is not None:
            return None
        return self.pointer(buffer, [start for start, _, _ in region]), total

    def native(self, issue: Issue, name: str, runs: Sequence[tuple[Value, Number]]) -> None:
        """Call a body; what it returns becomes parameters, a fault ends the entry."""
        f, area, emission = self.f, self.given["call"], self.kernels.emission
        emission.plan.area = max(emission.plan.area, CALL_HEAD + len(issue.sets))
        arguments: list[tuple[str, Number]] = []
        for pointer, length in runs:
            arguments += [("ptr", pointer), ("i64", length)]
        with self.may_fail(issue) as fault:
            arguments += [("ptr", self.slot(area, CALL_HEAD)), ("ptr", fault)]
            f.call_outside(name, arguments)
        for place, parameter in enumerate(issue.sets):
            index = self.places[parameter]
            value = f.load(self.slot(area, CALL_HEAD + place), "i64")
            f.store(constant("i64", index), fault)
            most = constant("i64", self.program.parameters[index].most)
            self.leave(f.compare("ugt", value, most), OUT_OF_BOUNDS)
            f.store(value, self.slot(self.given["parameters"], index))

    def callback(self, issue: Issue) -> None:
        """Hand the regions to Python, which does the rest."""
        f, emission = self.f, self.kernels.emission
        area = self.given["call"]
        f.store(constant("i64", len(emission.plan.opaque)), self.slot(area, ISSUE))
        f.store(number(self.core), self.slot(area, CORE))
        emission.plan.opaque.append(issue)
        values: list[Number] = []
        for operand in (*issue.reads, *issue.writes):
            buffer = self.program.buffer[operand.buffer]
            turns = self.ranges[buffer.rotor].turns if buffer.slots > 1 else None
            values.append(
                0 if turns is None else f.emit("i64", 1, f"urem i64 {turns.text}, {buffer.slots}")
            )
            for start, length, _ in self.region(operand):
                values += [start, length]
        emission.plan.area = max(emission.plan.area, CALL_HEAD + len(values))
        for place, value in enumerate(values):
            f.store(number(value), self.slot(area, CALL_HEAD + place))
        f.line(f"call void {self.given['callback'].text}()")
        status = f.load(self.slot(area, STATUS), "i64")
        self.leave(f.compare("ne", status, constant("i64", 0)), FAILED)


def elements(f: Function, starts: Sequence[Number], shape: Sequence[int]) -> Number:
    """The elements of a tensor before a position."""
    offset: Number = 0
    size = 1
    for start, extent in zip(reversed(starts), reversed(shape), strict=True):
        offset = f.add(offset, f.multiply(start, size))
        size *= extent
    return offset


def pieces(f: Function, length: Number, size: Number) -> Number:
    """How many pieces of a size there are."""
    if isinstance(length, int) and isinstance(size, int):
        return -(-length // size)
    more = f.subtract(f.add(length, size), 1)
    return f.emit("i64", 1, f"udiv i64 {text(more)}, {text(size)}")


def _known(value: Number) -> int | None:
    return value if isinstance(value, int) else None


def _rest(f: Function, length: Number, offset: Number, step: int) -> Number:
    """min(step, length - offset): known if no piece is shorter."""
    if isinstance(length, int) and length % step == 0:
        return step
    return f.minimum(f.subtract(length, offset), step)


def _loops(items: Iterable[Statement]) -> Iterable[Loop]:
    for item in items:
        if isinstance(item, Loop):
            yield item
            yield from _loops(item.body)


def sizes_of(meaning: Instruction) -> list[Axis]:
    """The axes whose whole extent an instruction wants."""
    found: dict[Axis, None] = {}
    for node in walk(meaning.outputs):
        if isinstance(node, Size):
            found[node.axis] = None
        if isinstance(node, Scan):
            for inner in walk((*node.body.next, *node.body.emits)):
                if isinstance(inner, Size):
                    found[inner.axis] = None
    return list(found)


def window(f: Function, index: Affine, known: Mapping[Axis, Span]) -> Span:
    """The positions that an affine index takes while its axes run over their ranges."""
    start: Number = index.offset
    length: Number = 1
    bound = 1
    for axis, stride in index.terms:
        given = known[axis]
        steps = f.subtract(given.length, 1)
        low = given.start if stride > 0 else f.add(given.start, steps)
        start = f.add(start, f.multiply(low, stride))
        length = f.add(length, f.multiply(steps, abs(stride)))
        bound += abs(stride) * (given.bound - 1)
    return Span(start, length, bound)
