"""Where things are in the code of a section: its tables, ranges, regions, addresses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from infinisa.isa.dtypes import DTYPES
from infinisa.isa.program import Buffer, Count, Extent, Operand, Program, Section

from ..code.ir import SOON, Function, Number, Value, constant
from ..contraction.weights import Layout
from .kernels import Kernels
from .plan import CONTEXT, OUT_OF_RANGE, STATUS, chip_sizes, output_dimensions


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


class Addresses:
    """What the function of a section that is being written knows of its surroundings."""

    def __init__(self, program: Program, section: Section, kernels: Kernels, name: str) -> None:
        self.program, self.section, self.kernels = program, section, kernels
        self.f = Function(kernels.module, name, [("context", "ptr")], public=True, inline=SOON)
        self.context = self.f.parameters["context"]
        self.given = self.tables(self.context)
        self.wanted: Wanted | None = None
        self.places = {p.name: i for i, p in enumerate(program.parameters)}
        self.numbers = {buffer.name: i for i, buffer in enumerate(program.buffers)}
        self.ends = output_dimensions(program)
        self.ranges: dict[str, Run] = {}
        self.core: Number = 0
        self.chips = chip_sizes(program)

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
        f.begin(yes)
        with f.scope():
            f.store(constant("i64", status), self.slot(self.given["call"], STATUS))
        f.jump("quit")
        f.begin(no)

    def region(self, operand: Operand) -> list[tuple[Number, Number, int]]:
        """(start, length, most it can be) of each dimension."""
        f, found = self.f, []
        for dimension in operand.dimensions:
            start: Number = dimension.offset
            length: Number = 1
            bound = 1
            for term in dimension.terms:
                run = self.ranges[term.range]
                first = self.lowest(run, term.stride)
                base = self.lowest(self.ranges[term.base], term.stride) if term.base else 0
                start = f.add(start, f.multiply(f.subtract(first, base), term.stride))
                steps = f.subtract(run.length, 1)
                length = f.add(length, f.multiply(steps, abs(term.stride)))
                bound += abs(term.stride) * (run.bound - 1)
            found.append((start, length, bound))
        return found

    def lowest(self, run: Run, stride: int) -> Number:
        """The position of a range at which `stride * position` is least."""
        if stride > 0:
            return run.start
        return self.f.add(run.start, self.f.subtract(run.length, 1))

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
        offset: Number = 0
        for start, stride in zip(starts, self.strides(buffer), strict=True):
            offset = f.add(offset, f.multiply(start, stride))
        return f.at(base, f.multiply(offset, DTYPES[buffer.dtype].size))

    def strides(self, buffer: Buffer) -> tuple[int, ...]:
        """Elements from position to position of each dimension."""
        rank = range(len(buffer.shape))
        found, size = dict.fromkeys(rank, 1), 1
        for dimension in reversed(self.kernels.emission.plan.orders.get(buffer.name, rank)):
            found[dimension] = size
            size *= buffer.shape[dimension]
        return tuple(found.values())
