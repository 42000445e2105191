"""From issues of a program to shapes: hazards, cycles and bytes, worked out once for each shape.

A program has few issues and runs them very often. What one needs follows from the lengths of its
ranges and the slots its buffers have turned to; it is looked up by these and rarely computed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import NamedTuple

from infinisa.isa.dtypes import DTYPES
from infinisa.isa.errors import SimulationError
from infinisa.isa.instance import find, issue_cycles, resolve
from infinisa.isa.instruction import Instruction, volume
from infinisa.isa.language import Gather, Input, walk
from infinisa.isa.machine import INTERCONNECT, Machine, Unit
from infinisa.isa.program import (
    COPIES,
    Buffer,
    Issue,
    Loop,
    Opcode,
    Operand,
    Program,
    Ranges,
    Section,
    Stage,
    hazard,
    region,
    slot,
    statements,
)

from .contract import Origins, Shape, brought
from .memory import Cache, Where, rows_of, run_of, size_of, touched

Lengths = tuple[tuple[str, int], ...]


@dataclass
class Costs:
    """Cycles and operations of issues, by opcode, types and lengths."""

    program: Program
    library: Mapping[str, Instruction]
    machine: Machine
    origins: Origins = field(default_factory=dict)
    meanings: dict[tuple[str, tuple[str, ...]], Instruction] = field(default_factory=dict)
    known: dict[tuple[str, tuple[str, ...], Lengths], tuple[int, int, int]] = field(
        default_factory=dict
    )

    def types(self, issue: Issue) -> tuple[str, ...]:
        return tuple(self.program.buffer[operand.buffer].dtype for operand in issue.reads)

    def meaning(self, issue: Issue) -> Instruction:
        """The instruction over the program's axes."""
        key = issue.opcode, self.types(issue)
        if key not in self.meanings:
            opcode = self.program.opcode[issue.opcode]
            self.meanings[key] = resolve(opcode, key[1], self.library)
        return self.meanings[key]

    def cost(self, issue: Issue, ranges: Ranges) -> tuple[int, int, int]:
        """(occupancy, latency, operations) of an issue that is not a copy.

        SimulationError for an instruction whose timing makes it take no time, or less.
        """
        meaning = self.meaning(issue)
        if meaning.opaque:
            found = self._opaque(meaning, issue, ranges)
            self._check(meaning, issue, found[:2], ranges)
            return found
        lengths = tuple((axis, ranges[name].length) for axis, name in issue.axes)
        key = issue.opcode, self.types(issue), lengths
        if key not in self.known:
            opcode, unit = self.program.opcode[issue.opcode], self.machine.unit(issue.unit)
            cycles = issue_cycles(meaning, opcode, unit, dict(lengths))
            self._check(meaning, issue, cycles, ranges)
            occupancy, latency = (int(number) for number in cycles)
            self.known[key] = occupancy, latency, int(meaning.operations(dict(lengths)))
        return self.known[key]

    def _check(
        self, meaning: Instruction, issue: Issue, cycles: tuple[int, int], ranges: Ranges
    ) -> None:
        """Only what somebody wrote can be wrong, and over nothing there may be nothing to do."""
        lengths = {axis: ranges[name].length for axis, name in issue.axes}
        if meaning.occupancy is None or not all(lengths.values()):
            return
        name = self.program.opcode[issue.opcode].instruction
        for what, value in zip(("its unit", "its results"), cycles, strict=True):
            if int(value) != value or value < 1:
                over = ", ".join(f"{axis}={length}" for axis, length in lengths.items())
                by = brought(self.origins, "instructions", name)
                raise SimulationError(
                    f"instruction {name!r}{by}: {what} must take a whole number of cycles, at "
                    f"least 1, not {value}" + f", over {over}" * bool(over)
                )

    def _opaque(self, meaning: Instruction, issue: Issue, ranges: Ranges) -> tuple[int, int, int]:
        """By its timing over its own axes, which are those of its operands; else a cycle for each
        element of the largest operand or result."""
        unit, opcode = self.machine.unit(issue.unit), self.program.opcode[issue.opcode]
        regions = [region(operand, ranges) for operand in (*issue.reads, *issue.writes)]
        drain = unit.attributes.get("latency", 0)
        if meaning.occupancy is None:
            elements = max((prod(n for _, n in where) for where in regions), default=1)
            occupancy = elements + unit.attributes.get("overhead", 0)
            return occupancy, occupancy + drain, 0
        values = _named(self.library, opcode, unit, regions)
        occupancy = int(meaning.occupancy(values))
        latency = occupancy + drain if meaning.latency is None else int(meaning.latency(values))
        return occupancy, latency, 0


def _named(
    library: Mapping[str, Instruction],
    opcode: Opcode,
    unit: Unit,
    regions: Iterable[list[tuple[int, int]]],
) -> dict[str, int]:
    """What the timing of an opaque instruction may name: attributes, immediates and its axes."""
    definition = find(opcode.instruction, library)
    values = {**unit.attributes, **{k: int(v) for k, v in opcode.immediates}}
    leaves = (*definition.operands, *definition.results)
    for leaf, where in zip(leaves, regions, strict=False):
        values.update(zip(leaf.axes, (n for _, n in where), strict=False))
    return values


@dataclass(eq=False)
class Text:
    """One issue of the program's text, with the shapes that it has had.

    lengths    the ranges whose lengths matter
    starts     the ranges whose starts matter too: those of operands with a fill are clipped
    rotors     the loops that turn its buffers, and their slots
    tables     the reads of which an issue touches only the rows that it gathers, by number
    cached     operands that pass a cache: whether they are read, and their buffers
    """

    issue: Issue
    lengths: tuple[str, ...]
    starts: tuple[str, ...]
    rotors: tuple[tuple[str, int], ...]
    tables: Mapping[int, Gather]
    cached: tuple[tuple[bool, Operand, Buffer], ...]
    shapes: dict[tuple[int, ...], Shape] = field(default_factory=dict)

    @cached_property
    def ranges(self) -> tuple[str, ...]:
        """All ranges that the issue names, once."""
        names = dict.fromkeys((*self.lengths, *self.starts, *(rotor for rotor, _ in self.rotors)))
        for operand in (*self.issue.reads, *self.issue.writes):
            for term in (term for dimension in operand.dimensions for term in dimension.terms):
                names[term.range] = None
                if term.base:
                    names[term.base] = None
        return tuple(names)


class Missed(NamedTuple):
    """A region that a cache did not hold."""

    reading: bool
    where: Where
    buffer: Buffer

    @property
    def size(self) -> int:
        return size_of(self.where, self.buffer)

    @property
    def run(self) -> int:
        return run_of(self.where, self.buffer)


@dataclass
class View:
    """A stage as the engines see it: a shape for each of its issues.

    Hazards are numbered as they come up; `hazards` has their names. A tensor outside the chip that
    nothing in the stage writes has none.

    owner    the number of the program among those that run at a time
    address  where its first tensor lies in DRAM
    """

    program: Program
    machine: Machine
    costs: Costs
    section: Section
    stage: Stage
    owner: int = 0
    address: int = 0
    numbers: dict[tuple[str | int, int], int] = field(default_factory=dict)

    @cached_property
    def issues(self) -> list[Issue]:
        return [item for item in statements(self.stage.body) if isinstance(item, Issue)]

    @cached_property
    def units(self) -> Mapping[str, int]:
        return {unit.name: number for number, unit in enumerate(self.machine.units)}

    @cached_property
    def texts(self) -> Mapping[int, Text]:
        """By the identity of the issue: comparing issues would cost more than all else."""
        return {id(issue): self._text(issue) for issue in self.issues}

    @cached_property
    def stored(self) -> frozenset[str]:
        """Tensors outside the chip that the stage writes."""
        written = {operand.buffer for issue in self.issues for operand in issue.writes}
        return frozenset(name for name in written if self.program.buffer[name].outer)

    def copies(self, issue: Issue) -> bool:
        """Whether an issue is a load or store."""
        return self.program.opcode[issue.opcode].instruction in COPIES

    @cached_property
    def has_cache(self) -> bool:
        return self.machine.cache is not None

    def asks(self, text: Text) -> bool:
        """Whether what an issue costs follows from where its operands lie, too."""
        rows = self.machine.dram.channel.row > 0
        return bool(text.cached) or (
            rows and any(b.outer for _, _, b in self._operands(text.issue))
        )

    @property
    def cache_of_core(self) -> bool:
        """Whether a core has a cache of its own, before the interconnect."""
        return self.machine.cache is not None and not self.machine.cache.shared

    @property
    def repeats(self) -> bool:
        """Whether stages of one text and lengths take the same cycles: nothing that outlives an
        issue, such as a cache or an open row, depends on what tensors it touched."""
        return not self.has_cache and self.machine.dram.channel.sharing in ("fifo", "fair")

    def _text(self, issue: Issue) -> Text:
        self.machine.unit(issue.unit)
        operands = (*issue.reads, *issue.writes)
        buffers = [self.program.buffer[operand.buffer] for operand in operands]
        names = [name for _, name in issue.axes]
        starts = []
        for operand in operands:
            for term in (term for d in operand.dimensions for term in d.terms):
                names.append(term.range)
                if operand.fill is not None:
                    names += [term.base] if term.base else []
                    starts += [term.range, term.base] if term.base else [term.range]
        rotors = [(buffer.rotor, buffer.slots) for buffer in buffers if buffer.slots > 1]
        tables = self._tables(issue)
        cached = [
            (number < len(issue.reads), operand, buffer)
            for number, (operand, buffer) in enumerate(zip(operands, buffers, strict=True))
            if self.has_cache and buffer.outer and number not in tables
        ]
        return Text(
            issue,
            lengths=tuple(dict.fromkeys(names)),
            starts=tuple(dict.fromkeys(starts)),
            rotors=tuple(dict.fromkeys(rotors)),
            tables=tables,
            cached=tuple(cached),
        )

    @cached_property
    def most_ordered(self) -> tuple[int, int]:
        """The most reads, and the most writes, that order an issue; stores by copies apart."""
        reads, writes = 0, 0
        buffers = self.program.buffer
        for issue in self.issues:
            inner = {operand.buffer for operand in issue.writes}
            if self.copies(issue):
                inner = {name for name in inner if not buffers[name].outer}
            outer = {operand.buffer for operand in issue.reads}
            ordered = [n for n in outer if not buffers[n].outer or n in self.stored]
            reads, writes = max(reads, len(ordered)), max(writes, len(inner))
        return reads, writes

    def shape(self, text: Text, ranges: Ranges) -> Shape:
        """The shape of an issue, ranges being as they stand."""
        key = tuple([ranges[name][1] for name in text.lengths])
        if text.rotors:
            key += tuple([ranges[name][3] % slots for name, slots in text.rotors])
        if text.starts:
            key += tuple([ranges[name][0] for name in text.starts])
        found = text.shapes.get(key)
        if found is None:
            found = text.shapes[key] = self._shape(text, ranges)
        return found

    def _shape(self, text: Text, ranges: Ranges) -> Shape:
        issue = text.issue
        copy = self.copies(issue)
        unit = self.machine.unit(issue.unit)
        if copy:
            occupancy = unit.attributes.get("overhead", 0)
            latency, operations = occupancy + unit.attributes.get("latency", 0), 0
        else:
            occupancy, latency, operations = self.costs.cost(issue, ranges)
        read, written, bus = self._bytes(text, ranges)
        ports, rounds = self._ports(issue, ranges)
        latency += (rounds - 1) * max(occupancy, 1)
        occupancy = rounds * max(occupancy, 1)
        stores = self._hazards(issue.writes, ranges, outer=True) if copy else ()
        writes = self._hazards(issue.writes, ranges, outer=False if copy else None)
        return Shape(
            opcode=issue.opcode,
            unit=self.units[issue.unit],
            occupancy=occupancy,
            drain=max(latency, 1) - occupancy,
            bus=bus,
            transfer=self.machine.transfer_cycles(bus, unit),
            reads=self._hazards(issue.reads, ranges),
            writes=writes,
            stores=stores,
            operations=operations,
            read=read,
            written=written,
            ports=ports,
            crossing=self.machine.crossing_cycles(
                read.get(INTERCONNECT, 0) + written.get(INTERCONNECT, 0)
            ),
        )

    def _ports(self, issue: Issue, ranges: Ranges) -> tuple[tuple[tuple[int, int], ...], int]:
        """The ports that an issue takes of banks of the scratchpad, and in how many rounds it is
        served: operands of one bank beyond its ports come one after the other."""
        memory = self.machine.scratchpad
        if not memory.banks:
            return (), 1
        touching: Counter[int] = Counter()
        bank = memory.size // memory.banks
        for _, _, buffer in self._operands(issue):
            if buffer.memory == memory.name:
                begin = buffer.address + slot(buffer, ranges) * buffer.pitch
                touching.update(range(begin // bank, (begin + buffer.bytes - 1) // bank + 1))
        rounds = max((-(-n // memory.ports) for n in touching.values()), default=1)
        return tuple((b, min(n, memory.ports)) for b, n in sorted(touching.items())), rounds

    def _hazards(
        self, operands: Iterable[Operand], ranges: Ranges, outer: bool | None = None
    ) -> tuple[int, ...]:
        """Numbers of the hazards of operands; only of those outside the chip, or inside."""
        found = []
        for buffer in (self.program.buffer[operand.buffer] for operand in operands):
            if outer is not None and outer != buffer.outer:
                continue
            if not buffer.outer or buffer.name in self.stored:
                key = hazard(buffer, ranges)
                found.append(self.numbers.setdefault(key, len(self.numbers)))
        return tuple(dict.fromkeys(found))

    def _bytes(self, text: Text, ranges: Ranges) -> tuple[dict[str, int], dict[str, int], int]:
        """Bytes read and written by memory, and what the channel is busy with, without what passes
        a cache. What cores ask for crosses the interconnect, whether a cache behind it holds it or
        not."""
        passing = {id(operand) for _, operand, _ in text.cached}
        sides: tuple[dict[str, int], dict[str, int]] = {}, {}
        bus = 0
        for number, (reading, operand, buffer) in enumerate(self._operands(text.issue)):
            size, run = self._moved(text, number, touched(operand, buffer, ranges), ranges)
            side = sides[not reading]
            cached = id(operand) in passing
            if buffer.outer and self.machine.interconnect and not (cached and self.cache_of_core):
                side[INTERCONNECT] = side.get(INTERCONNECT, 0) + size
            if cached:
                continue
            memory = self.machine.dram.name if buffer.outer else buffer.memory
            side[memory] = side.get(memory, 0) + size
            if buffer.outer:
                bus += self.machine.dram.channel.bus_bytes(size, run)
        return *sides, bus

    def _operands(self, issue: Issue) -> Iterator[tuple[bool, Operand, Buffer]]:
        """Each operand: whether it is read, and its buffer."""
        for operand in issue.reads:
            yield True, operand, self.program.buffer[operand.buffer]
        for operand in issue.writes:
            yield False, operand, self.program.buffer[operand.buffer]

    def _moved(self, text: Text, number: int, where: Where, ranges: Ranges) -> tuple[int, int]:
        """Bytes of the region of an operand, and of each contiguous run: of a table, of its rows
        that are gathered."""
        issue = text.issue
        buffer = self.program.buffer[(*issue.reads, *issue.writes)[number].buffer]
        size, run = size_of(where, buffer), run_of(where, buffer)
        if number not in text.tables:
            return size, run
        node = text.tables[number]
        lengths = {axis: ranges[name].length for axis, name in issue.axes}
        gathered = int(volume(node.axes, lengths)) * DTYPES[buffer.dtype].size
        if gathered >= size:
            return size, run
        axis = node.table.axes.index(node.axis) if len(where) == len(node.table.axes) else 0
        one = (*where[:axis], (0, 1), *where[axis + 1 :])
        return gathered, run_of(one, buffer)

    def _tables(self, issue: Issue) -> dict[int, Gather]:
        """See `Text.tables`."""
        if self.copies(issue):
            return {}
        meaning = self.costs.meaning(issue)
        names = [operand.name for operand in meaning.operands]
        return {
            names.index(node.table.name): node
            for node in walk(meaning.outputs)
            if isinstance(node, Gather)
            and isinstance(node.table, Input)
            and node.table.name in names
        }

    def missed(self, text: Text, ranges: Ranges, cache: Cache) -> list[Missed]:
        """The regions of an issue that its cache does not hold; it then does."""
        found = []
        for reading, operand, buffer in text.cached:
            where = touched(operand, buffer, ranges)
            if cache.touch(where, buffer, self.owner):
                found.append(Missed(reading, where, buffer))
        return found

    def rows(
        self, text: Text, ranges: Ranges, missed: Sequence[Missed]
    ) -> tuple[tuple[int, int], ...]:
        """The DRAM rows that an issue touches, one after the other, and what each keeps the channel
        busy with; -1 for each run that it gathers, whose row is not known."""
        found: list[tuple[int, int]] = []
        channel = self.machine.dram.channel
        passing = {id(operand) for _, operand, _ in text.cached}
        for number, (_, operand, buffer) in enumerate(self._operands(text.issue)):
            if not buffer.outer or id(operand) in passing:
                continue
            where = touched(operand, buffer, ranges)
            if number in text.tables:
                size, run = self._moved(text, number, where, ranges)
                found += [(-1, run)] * (-(-size // run) if size else 0)
            else:
                found += rows_of(where, buffer, self.addresses[buffer.name], channel.row)
        for each in missed:
            found += rows_of(each.where, each.buffer, self.addresses[each.buffer.name], channel.row)
        return tuple((row, channel.bus_bytes(size, size)) for row, size in found)

    @cached_property
    def addresses(self) -> Mapping[str, int]:
        """Where tensors lie in DRAM: one after the other, each from a new row on."""
        row = self.machine.dram.channel.row
        found, at = {}, self.address
        for buffer in self.program.buffers:
            if buffer.outer:
                found[buffer.name] = at
                at += -(-buffer.bytes // row) * row
        return found

    # -- names for messages

    def name(self, number: int) -> str:
        """A hazard in words."""
        key = next(key for key, value in self.numbers.items() if value == number)
        if isinstance(key[0], str):
            return f"tensor {key[0]!r}"
        names = [buffer.name for buffer in self.program.buffers if buffer.place == key[0]]
        here = {
            operand.buffer for issue in self.issues for operand in (*issue.reads, *issue.writes)
        }
        shown = ", ".join(repr(name) for name in names if name in here)
        return f"slot {key[1]} of place {key[0]} ({shown})"

    # -- when two stages take the same time

    @cached_property
    def form(self) -> Form:
        return Form(self.program, self.stage)

    def key(self, outermost: Ranges) -> tuple[object, ...]:
        """Equal keys, equal cycles (on a machine without a cache)."""
        pieces = [outermost[name] for name in self.form.roots]
        starts = any(text.starts for text in self.texts.values())
        return (
            self.form.text,
            tuple(piece.length for piece in pieces),
            tuple(piece.start for piece in pieces) if starts else (),
            self.form.addresses if self.machine.scratchpad.banks else (),
        )


class Form:
    """What the cycles of a stage follow from, besides the lengths of its outermost ranges: its
    text, with numbers for names in the order in which they come up. Two stages of one text, such as
    a layer and the next with other weights, take the same cycles.

    roots      the outermost ranges in that order
    opcodes    the names of the opcodes in that order
    addresses  where the buffers are, in that order: they matter where memories have banks
    """

    def __init__(self, program: Program, stage: Stage) -> None:
        self.program = program
        self.seen: dict[tuple[str, object], int] = {}
        self.loops: set[str] = set()
        self.text = self._statements(stage.body)
        self.roots = tuple(
            name
            for kind, name in self.seen
            if kind == "range" and isinstance(name, str) and name not in self.loops
        )
        buffers = [program.buffer[str(name)] for kind, name in self.seen if kind == "buffer"]
        self.addresses = tuple((buffer.address, buffer.pitch) for buffer in buffers)
        self.opcodes = tuple(str(name) for kind, name in self.seen if kind == "opcode")

    def _number(self, kind: str, name: object) -> int:
        return self.seen.setdefault((kind, name), len(self.seen))

    def _range(self, name: str) -> int:
        return self._number("range", name) if name else -1

    def _axis(self, name: str) -> int:
        return self._number("axis", name) if name else -1

    def _statements(self, items: Iterable[Loop | Issue]) -> tuple[object, ...]:
        return tuple(
            self._loop(item) if isinstance(item, Loop) else self._issue(item) for item in items
        )

    def _loop(self, item: Loop) -> tuple[object, ...]:
        parent = self._range(item.parent)
        self.loops.add(item.range)
        return (
            self._range(item.range),
            parent,
            item.step,
            item.spread,
            item.reverse,
            self._statements(item.ahead),
            self._statements(item.body),
        )

    def _issue(self, issue: Issue) -> tuple[object, ...]:
        return (
            self._opcode(self.program.opcode[issue.opcode]),
            issue.unit,
            tuple((self._axis(axis), self._range(name)) for axis, name in issue.axes),
            tuple(self._operand(operand) for operand in issue.reads),
            tuple(self._operand(operand) for operand in issue.writes),
        )

    def _opcode(self, opcode: Opcode) -> tuple[object, ...]:
        known = ("opcode", opcode.name) in self.seen
        number = self._number("opcode", opcode.name)
        if known:
            return (number,)
        return (
            number,
            opcode.instruction,
            opcode.meaning,
            opcode.immediates,
            opcode.outputs,
            tuple((own, tuple(map(self._axis, axes))) for own, axes in opcode.binding),
            tuple(tuple(map(self._axis, axes)) for axes in opcode.operands),
            tuple(tuple(map(self._axis, axes)) for axes in opcode.results),
        )

    def _operand(self, operand: Operand) -> tuple[object, ...]:
        """Offsets matter only where an operand is cut to its buffer."""
        dimensions = tuple(
            (
                dimension.offset if operand.fill is not None else 0,
                *((self._range(t.range), self._range(t.base), t.stride) for t in dimension.terms),
            )
            for dimension in operand.dimensions
        )
        buffer = self.program.buffer[operand.buffer]
        return (self._buffer(buffer), dimensions, operand.fill is None)

    def _buffer(self, buffer: Buffer) -> tuple[object, ...]:
        return (
            self._number("buffer", buffer.name),
            None if buffer.outer else self._number("place", buffer.place),
            buffer.memory,
            buffer.shape,
            buffer.dtype,
            buffer.slots,
            self._range(buffer.rotor) if buffer.slots > 1 else -1,
        )
