"""A program as one native entry: its loop tree walked once, each issue a call of a kernel."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from infinisa.isa.dtypes import DTYPES
from infinisa.isa.instruction import Instruction
from infinisa.isa.program import (
    COPIES,
    Buffer,
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

from ..code.alike import merge
from ..code.functions import STORED, narrow, register, saturate
from ..code.ir import SOON, Function, Module, Number, Value, constant, number, text
from ..code.processor import Target
from ..contraction.quantised import Format
from ..rewriting.shares import WORTH, Share, narrowed
from ..rewriting.untiled import Meanings, untiled
from ..threads import PIECE, code_at, hand_out, worker
from .addresses import Run, Wanted
from .calls import Calls
from .kernels import Kernels, Meaning
from .plan import Emission, Plan


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
    meanings, given = Meanings(library), program.buffer
    program = untiled(program, meanings)
    emission = Emission(Module(target), Plan(cores, threads), worth)
    emission.plan.whole = {b.name: b for b in program.buffers if b is not given[b.name]}
    kernels = Kernels(program, meanings, target, emission, weights)
    for number_, section in enumerate(program.sections):
        walker = Walker(program, section, kernels, f"section{number_}")
        walker.run()
        emission.plan.entries.append(f"section{number_}")
    if emission.plan.shared:
        worker(emission.module, target, threads)
    emission.plan.faults = emission.bodies.faults
    if target.lanes > 1:
        merge(emission.module)
    return emission


class Walker(Calls):
    """Writes the function of one section."""

    def __init__(self, program: Program, section: Section, kernels: Kernels, name: str) -> None:
        super().__init__(program, section, kernels, name)
        self.stages: dict[str, Wanted] = {}
        self.rotors = {buffer.rotor for buffer in program.buffers if buffer.slots > 1}
        self.done: dict[str, Value] = {}

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
        table = self.f.module.table("i64", places)
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

    # -- threads

    def share(self, issue: Issue, opcode: Opcode, meaning: Meaning | None) -> Share | None:
        """How threads divide an issue, if they do."""
        if self.kernels.emission.plan.threads == 1:
            return None
        if meaning is not None and meaning.written:
            return None  # what ends an entry with a fault is the first thread's alone
        operands = (*issue.reads, *issue.writes)
        names = {t.range for o in operands for d in o.dimensions for t in d.terms}
        names.update(name for _, name in issue.axes)
        bounds = {name: self.ranges[name].bound for name in names}
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
        team, work = self.given["team"], self.given["work"]
        hand_out(f, team, (name, count), work, self.kernels.target, emission.plan.threads)
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
        threads = self.kernels.emission.plan.threads
        self.f = Function(outer.module, name, PIECE, inline=SOON)
        mine = self.f.parameters
        places: dict[Value, int] = {}

        def slot(f: Function, team: Value, place: int) -> Value:
            return f.at(team, code_at(threads) + 1 + place, "i64")

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


def pieces(f: Function, length: Number, size: Number) -> Number:
    """How many pieces of a size there are."""
    if isinstance(length, int) and isinstance(size, int):
        return -(-length // size)
    more = f.subtract(f.add(length, size), 1)
    return f.emit("i64", 1, f"udiv i64 {text(more)}, {text(size)}")


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
