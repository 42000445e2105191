"""The scoreboard kernel as an engine: a stage as flat arrays, filled where the kernel asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from operator import add
from typing import ClassVar

import numpy as np

from infinisa.isa.errors import SimulationError
from infinisa.isa.machine import INTERCONNECT, Machine
from infinisa.isa.program import Ranges

from .banked import BANK_SIZE, PIECE_SIZE
from .contract import Event, Origins, Shape, StageInterrupted, StageReport, brought
from .flat import Flat, Unsuited, issues_of
from .layout import (
    BANK,
    BUSY,
    BYTE,
    CHANNEL_BUSY,
    CLASS_BITS,
    CORE,
    COUNTED,
    CROSSED,
    CYCLE,
    DATA,
    DRAM,
    EVENT,
    FULL,
    FULL_SINCE,
    HAZARD,
    HAZARDS,
    HOLDS,
    ISSUING,
    JUMPED,
    KIND_SIZE,
    KINDS,
    LANE_FIELDS,
    LAPSE,
    LAST,
    LEAPS,
    LEPT,
    LINK,
    MARK,
    MISSED,
    MISSED_BUS,
    MISSED_CROSSING,
    MOST_ROWS,
    NEVER,
    NEXT,
    PAUSED,
    QUEUE,
    ROOM,
    ROW,
    SHAPELESS,
    SKEW,
    SKIPPED,
    SOONEST,
    STEPS,
    TOUCHED,
    TOUCHES,
    UNTIL,
    WATCHED,
    WIDE,
    WIDTH,
)
from .memory import CHANNELS, Cache, FifoChannel, Rates, Sharing, caches_of, parts_of
from .policy import POLICIES, Policy
from .shapes import Missed, Text, View
from .simpy_engine import Process, SimpyEngine
from .specialised import (
    Array,
    Constants,
    Kernel,
    KeyFault,
    compiled,
    interpreted,
    unwritable,
)
from .stalls import Account
from .totals import Misses, stage_report
from .trace import Leap, Recorded
from .walk import AT, CLIPS_END, DIGITS, LOOKING, NOT_LOOKING, ONLY, STATE, STEP, UNKNOWN, index_of

PATIENCE = 1 << 22
"""Cycles that the kernel looks at before Python may interrupt it."""

HAZARDS_OF_MANY = ((3, 1), (8, 4))
"""Reads and writes that are room enough for most stages."""

MOST_ROOM = 1 << 20
"""Issues of a core that a trace has room for at first."""

LARGEST_WORD, LARGEST_LONG = (1 << 31) - 1, (1 << 62) - 1

MOST_CLASSES = 62
"""Unit classes that are bits of a number."""


@dataclass
class CompiledEngine:
    """Runs stages one by one in the compiled kernel, with the same results as the simpy engine.

    jump  leave out what repeats
    """

    name: ClassVar[str] = "compiled"
    native: ClassVar[bool] = True
    machine: Machine
    policy: Policy = POLICIES["oldest"]
    channel: Sharing = FifoChannel
    processes: Mapping[str, Process] = field(default_factory=dict)
    origins: Origins = field(default_factory=dict)
    trace: bool = False
    jump: bool = True

    def __post_init__(self) -> None:
        if reason := unsuited(self.machine, self.policy, self.origins):
            raise SimulationError(f"engine {self.name!r}: {reason}, which only simpy runs")

    @cached_property
    def caches(self) -> list[Cache]:
        return caches_of(self.machine)

    def run(
        self, view: View, outermost: Ranges, begin: int, turn: int
    ) -> tuple[StageReport, Sequence[Event]]:
        """One stage from cycle `begin`; with its events if they are traced."""
        constants = Constants.of(
            self.machine, hazards_of(view), self.policy, trace=self.trace, jump=self.jump
        )
        stage = Stage(self, view, Flat(view, outermost), constants, begin)
        try:
            stage.run(compiled(constants) if self.native else interpreted(constants))
        except (KeyFault, ArithmeticError, TypeError) as fault:  # of native code, of CPython
            self.let_simpy_tell(view, outermost, begin, turn)
            raise SimulationError(f"{self.policy}: a key has no number") from fault
        return stage.report(), stage.events(turn)

    def let_simpy_tell(self, view: View, outermost: Ranges, begin: int, turn: int) -> None:
        """The simpy engine fails too, and says for which issue, and when, a key had no number."""
        engine = SimpyEngine(
            self.machine, self.policy, self.channel, self.processes, self.origins, self.trace
        )
        engine.run(view, outermost, begin, turn)


def unsuited(machine: Machine, policy: Policy, origins: Origins) -> str:
    """What of a machine the kernel does not run; "" if it runs all."""
    for unit in machine.units:
        if unit.process:
            origin = brought(origins, "units", unit.process)
            return f"units.{unit.name} has the process {unit.process!r}{origin}"
    sharing = machine.dram.channel.sharing
    if sharing not in CHANNELS:
        origin = brought(origins, "memories", sharing)
        return f"memories.{machine.dram.name} has the channel {sharing!r}{origin}"
    if len(machine.units) > MOST_CLASSES:
        return f"machine {machine.name!r} has more than {MOST_CLASSES} classes of units"
    if policy.free is not None:
        return f"{policy} is a free function"
    if reason := unwritable(policy):
        return f"{policy} is no restricted Python: {reason}"
    return ""


class KernelEngine(CompiledEngine):
    """The same kernel in CPython: slow, but it can be looked at."""

    name: ClassVar[str] = "kernel"
    native: ClassVar[bool] = False


def hazards_of(view: View) -> tuple[int, int, int]:
    """The most reads, writes and stores that order issues of a stage: one of few triples, so that
    many stages have the same kernel."""
    reads, writes = view.most_ordered
    for most in HAZARDS_OF_MANY:
        if reads <= most[0] and writes <= most[1]:
            return *most, 1
    return reads, writes, 1


@dataclass
class Stage:
    """One run of a stage: its arrays, and what the kernel asked for so far."""

    engine: CompiledEngine
    view: View
    flat: Flat
    constants: Constants
    begin: int
    shapes: list[Shape] = field(default_factory=list)
    misses: dict[str, Misses] = field(default_factory=dict)
    leaps: list[Leap] = field(default_factory=list)
    grown: bool = True

    def __post_init__(self) -> None:
        constants, flat = self.constants, self.flat
        cores, ring = constants.CORES, constants.RING
        places = constants.places
        self.record, self.none, self.uses = places["RECORD"], places["NONE"], places["USES"]
        self.account, self.sets = places["ACCOUNT"], places["SETS"]
        self.lane = {name: places[name] for name in LANE_FIELDS}
        self.ports, self.rows = places["PORTS_AT"], places["ROWS"]
        self.snapshot = places["SNAPSHOT"]
        self.hazard = cores * HAZARD
        self.no_hazards = range(0, self.none * self.hazard, self.hazard)
        writes = HAZARDS + constants.READS
        self.sides = HAZARDS, writes, writes + constants.WRITES
        self.single = [int(unit.count == 1) for unit in self.engine.machine.units]
        self.state = places["PLACES"] + places["TIMES"] + flat.watched
        self.moved: list[list[tuple[int, int]]] = [[] for _ in range(cores)]
        self._know_machine()
        self.slots = self.array(constants.slots)
        self.masks = self.mask_array(cores * self.sets)
        self.then = self.mask_array(cores * ring)
        self.after = self.mask_array(cores * ring)
        self.before = self.mask_array(cores * ring)
        self.hazards = self.mask_array(64 * cores * HAZARD)
        self.counts = self.array(self.uses + 64)
        self.records = self.array(64 * self.record, "i4")
        room = issues_of(self.view.stage.body, flat.outermost) if constants.TRACE else 0
        self.now[ROOM] = room = min(room // cores + 1024, MOST_ROOM)
        self.trace = self.unset(room * cores * EVENT)
        self.plan = self.filled(flat.plan, "i4")
        self.sizes = self.filled(flat.sizes, "i8")
        self.table = self.filled([UNKNOWN] * max(1, flat.table), "i4")
        self.regs = self.filled([r for c in range(cores) for r in flat.registers(c)], "i8")
        self.snaps = self.array(1)
        self.sharing = self.array(cores * constants.UNITS)
        if constants.DRAM_BANKS:
            self.sharing = self.filled([-1, 0] * constants.DRAM_BANKS, "i8")
        self.measure()

    def _know_machine(self) -> None:
        """The whole run, cores and units, as a stage begins."""
        constants, machine = self.constants, self.engine.machine
        cores = constants.CORES
        counts = [unit.count for unit in machine.units]
        self.first = [sum(counts[:k]) for k in range(len(counts))]
        rates = Rates.of(machine)
        parts = cores * sum(unit.share * unit.count for unit in machine.units)
        self.most_bytes = LARGEST_LONG // (rates.byte * parts)
        banks = constants.SIDES * constants.BANKS
        self.now = self.array(self.ports + banks)
        self.now[self.ports :] = [machine.scratchpad.ports] * banks
        self.now[BYTE], self.now[CYCLE], caps = rates.byte, rates.cycle, rates.caps
        if constants.DRAM_BANKS:
            self.now[CYCLE], caps = parts_of(machine)
        for k, unit in enumerate(machine.units):
            units = self.first[k], self.first[k] + unit.count, int(unit.kind == "copy")
            place = KINDS + KIND_SIZE * k
            self.now[place : place + KIND_SIZE] = *units, caps[k], rates.shares[k]
        self.now[CROSSED] = NEVER
        self.now[WIDTH], self.now[WATCHED] = self.flat.width, self.flat.watched
        self.cores = self.array(cores * CORE)
        for core in range(cores):
            place = core * CORE
            self.cores[place + FULL_SINCE], self.cores[place + LAST] = -1, -1
            self.cores[place + HOLDS], self.cores[place + SOONEST] = constants.WINDOW, NEVER
        self.units = self.array(constants.lanes)
        kinds = [k for k, unit in enumerate(machine.units) for _ in range(unit.count)]
        for place, k in enumerate(kinds * cores, self.lane["KIND_AT"]):
            self.units[place] = KINDS + KIND_SIZE * k

    # -- arrays

    def array(self, size: int, dtype: str = "i8") -> Array:
        return np.zeros(size, dtype) if self.engine.native else [0] * size

    def unset(self, size: int) -> Array:
        """An array of which the kernel sets what is read."""
        return np.empty(size, "i8") if self.engine.native else [0] * size

    def mask_array(self, size: int) -> Array:
        return self.array(size * self.mask_words, "u8")

    @property
    def mask_words(self) -> int:
        """Elements of an array of masks that hold one."""
        return self.constants.RING // 64 if self.engine.native else 1

    def filled(self, numbers: list[int], dtype: str) -> Array:
        return np.array(numbers, dtype) if self.engine.native else list(numbers)

    def longer(self, array: Array, dtype: str = "i8") -> Array:
        """Twice as long, with zeros behind."""
        self.grown = True
        if not self.engine.native:
            return array + [0] * len(array)
        return np.concatenate([array, np.zeros(len(array), dtype)])

    def measure(self) -> None:
        """Room for snapshots of all counts; what was compared before is forgotten."""
        self.now[COUNTED] = self.uses + len(self.shapes)
        if not self.constants.JUMP:
            return
        cores = self.constants.CORES
        self.now[ROW] = self.snapshot + 2 * cores + cores * self.state + len(self.counts)
        size = max(1, len(self.flat.loops)) * int(self.now[ROW])
        if len(self.snaps) < size:
            self.snaps, self.grown = self.array(size), True
        for core in range(cores):
            for block in self.flat.block.values():
                place = core * self.flat.width + block + STATE
                if self.regs[place] == LOOKING:
                    self.regs[place] = NOT_LOOKING

    # -- the kernel and what it asks for

    def run(self, kernel: Kernel) -> None:
        """Simulate to the end."""
        answers: Mapping[int, Callable[[int], None]] = {
            SHAPELESS: self.give_shape,
            TOUCHES: self.touch,
            FULL: self.grow_trace,
            PAUSED: lambda core: None,
            JUMPED: self.leapt,
        }
        while True:
            if self.grown:
                go, self.grown = kernel(self.arrays), False
            self.now[STEPS] = PATIENCE
            try:
                reason = go()
            except KeyboardInterrupt:
                raise StageInterrupted(self.report()) from None
            code, core = reason & ((1 << CLASS_BITS) - 1), reason >> CLASS_BITS
            if code not in answers:
                break
            answers[code](core)
        cores = range(self.constants.CORES)
        ended = not any(self.cores[c * CORE + HOLDS] for c in cores)
        if not ended or any(self.masks[c * self.sets * self.mask_words] for c in cores):
            raise SimulationError(
                f"stage {self.view.stage.name!r} of section {self.view.section.name!r} is stuck"
            )
        if self.now[WIDE]:
            raise Unsuited(
                f"stage {self.view.stage.name!r}: an issue takes {1 << 31} cycles and more, which "
                "only the simpy engine traces"
            )

    @property
    def arrays(self) -> list[Array]:
        """In the order of the kernel's parameters."""
        return [
            self.now, self.cores, self.slots, self.units, self.masks, self.then, self.after,
            self.before, self.hazards, self.counts, self.records, self.trace, self.plan, self.sizes,
            self.table, self.regs, self.snaps, self.sharing,
        ]  # fmt: skip

    def issue(self, core: int) -> tuple[Text, Ranges, int]:
        """The issue that core is at, its ranges, and its place in the table."""
        base = core * self.flat.width
        at = int(self.regs[base + AT])
        text = self.flat.texts[at]
        ranges = self.flat.standing(text.ranges, self.regs[base : base + self.flat.width])
        return text, ranges, int(index_of(at, base, self.plan, self.sizes, self.regs))

    def give_shape(self, core: int) -> None:
        """The shape that a core asks for; if there is no other, those of the issues behind it too,
        up to the next loop: it comes to them as the loops stand."""
        base = core * self.flat.width
        registers = [int(number) for number in self.regs[base : base + self.flat.width]]
        records: list[int] = []
        first = len(self.shapes)
        ranges: Ranges = {}
        at = registers[AT]
        while at in self.flat.texts and (self.constants.CORES == 1 or at == registers[AT]):
            place = index_of(at, 0, self.flat.plan, self.flat.sizes, registers)
            if self.table[place] == UNKNOWN:
                text = self.flat.texts[at]
                more = [name for name in text.ranges if name not in ranges]
                ranges |= self.flat.standing(more, registers)
                shape = self.view.shape(text, ranges)
                records += self.words(shape)
                self.table[place] = len(self.shapes)
                if self.flat.plan[at + DIGITS] == self.flat.plan[at + CLIPS_END]:
                    self.plan[at + ONLY] = len(self.shapes)
                self.shapes.append(shape)
            at += STEP
        self.make_room()
        self.records[first * self.record : len(self.shapes) * self.record] = records
        self.measure()

    def make_room(self) -> None:
        """For the records and counts of all shapes, and for the hazards that they name."""
        hazards = (self.none + len(self.view.numbers)) * self.hazard * self.mask_words
        while len(self.shapes) * self.record > len(self.records):
            self.records = self.longer(self.records, "i4")
        while self.uses + len(self.shapes) > len(self.counts):
            self.counts = self.longer(self.counts)
        while hazards > len(self.hazards):
            self.hazards = self.longer(self.hazards, "u8")

    def words(self, shape: Shape) -> list[int]:
        """The record of a shape."""
        constants = self.constants
        words = [
            shape.unit, shape.occupancy, shape.drain, shape.transfer, shape.bus,
            self.single[shape.unit], *self.no_hazards,
        ]  # fmt: skip
        sides = zip((shape.reads, shape.writes, shape.stores), self.sides, strict=True)
        for numbers, first in sides:
            for place, number in enumerate(numbers, first):
                words[place] = (self.none + number) * self.hazard
        if constants.LINKS:
            words.append(shape.crossing)
        if constants.BANKS:
            taken = dict(shape.ports)
            words += [taken.get(bank, 0) for bank in range(constants.BANKS)]
        if constants.FAIR and shape.bus > self.most_bytes:
            raise Unsuited(
                f"opcode {shape.opcode!r}: moves {shape.bus} bytes, whose shares only the simpy "
                "engine counts"
            )
        if max(words) > LARGEST_WORD:
            raise Unsuited(
                f"opcode {shape.opcode!r}: takes {max(words)} cycles, which only the simpy engine "
                "counts"
            )
        return words

    def touch(self, core: int) -> None:
        """Ask a cache for the regions of an issue, and in which rows of the channel's banks what it
        moves lies."""
        text, ranges, place = self.issue(core)
        missed: Sequence[Missed] = ()
        if text.cached:
            caches = self.engine.caches
            missed = self.view.missed(text, ranges, caches[core % len(caches)])
            self.give_missed(core, self.shapes[self.table[place]], missed)
        if self.constants.DRAM_BANKS:
            self.give_rows(core, self.view.rows(text, ranges, missed))
        self.now[TOUCHED] = 1

    def give_missed(self, core: int, shape: Shape, missed: Sequence[Missed]) -> None:
        """What regions that a cache does not hold add to an issue of this shape."""
        machine = self.engine.machine
        read = sum(each.size for each in missed if each.reading)
        written = sum(each.size for each in missed if not each.reading)
        transfer, bus, crossing = shape.transfer, shape.bus, shape.crossing
        if missed:
            bus_bytes = machine.dram.channel.bus_bytes
            bus += sum(bus_bytes(each.size, each.run) for each in missed)
            transfer = machine.transfer_cycles(bus, machine.units[shape.unit])
            if self.view.cache_of_core:
                static = shape.read.get(INTERCONNECT, 0) + shape.written.get(INTERCONNECT, 0)
                crossing = machine.crossing_cycles(static + read + written)
            more = read, written, max(0, max(transfer, crossing) - shape.work)
            before = self.misses.get(shape.opcode, Misses())
            self.misses[shape.opcode] = Misses(*map(add, before, more))
        self.now[MISSED], self.now[MISSED_BUS] = transfer - shape.transfer, bus - shape.bus
        self.now[MISSED_CROSSING] = crossing - shape.crossing
        if self.constants.TRACE:
            position = int(self.cores[core * CORE + NEXT])
            log = self.moved[core]
            log += [(0, 0)] * (position - len(log))
            log.append((read, written))

    def give_rows(self, core: int, rows: Sequence[tuple[int, int]]) -> None:
        """The pieces of the next issue of a core; all slots have room for as many."""
        slot = (
            core * self.constants.RING + int(self.cores[core * CORE + NEXT]) % self.constants.RING
        )
        first, most = self.constants.DRAM_BANKS * BANK_SIZE, int(self.now[MOST_ROWS])
        if len(rows) > most:
            slots = self.constants.CORES * self.constants.RING
            pieces = np.zeros((slots, 2 * len(rows), PIECE_SIZE), np.int64)
            pieces[:, :most] = np.reshape(self.sharing[first:], (slots, most, PIECE_SIZE))
            banks = list(self.sharing[:first])
            self.sharing = self.filled([*banks, *pieces.ravel().tolist()], "i8")
            self.now[MOST_ROWS] = most = 2 * len(rows)
            self.grown = True
        at = first + slot * most * PIECE_SIZE
        self.sharing[at : at + len(rows) * PIECE_SIZE] = list(chain.from_iterable(rows))
        self.slots[self.rows + slot] = len(rows)

    def grow_trace(self, core: int) -> None:
        self.trace = self.longer(self.trace)
        self.now[ROOM] *= 2

    def leapt(self, core: int) -> None:
        """Remember what was left out."""
        times, lapse, row, when = (int(self.now[k]) for k in (LEAPS, LAPSE, MARK, LEPT))
        for c in range(self.constants.CORES):
            position = int(self.cores[c * CORE + NEXT])
            skipped = int(self.cores[c * CORE + SKIPPED])
            first = int(self.snaps[row + self.snapshot + 2 * c])
            # it was position + before - first issues that were skipped so many times
            before = (skipped - times * (position - first)) // (1 + times)
            self.leaps.append(Leap(c, position, position + before - first, times, lapse, when))

    # -- results

    def report(self) -> StageReport:
        times = self.units[: self.lane["TAKEN"]]  # when units are free, and have landed
        end = self.begin + max(int(time) for time in times if time < NEVER) + int(self.now[SKEW])
        used: dict[int, Shape] = {}
        uses = self.counts[self.uses : self.uses + len(self.shapes)]
        for shape, count in zip(self.shapes, map(int, uses), strict=True):
            if count:
                shape.uses += count
                used[id(shape)] = shape
        transfers = int(self.counts[CHANNEL_BUSY])
        return stage_report(
            self.view, self.begin, end, self.accounts(), used.values(), self.misses, transfers
        )

    def accounts(self) -> Iterator[Account]:
        """Of the cores, then of their units."""
        constants, machine = self.constants, self.engine.machine
        units = constants.UNITS
        for core in range(constants.CORES):
            until = int(self.cores[core * CORE + UNTIL])
            yield self.closed(core, units, "", 0, until)
        for core in range(constants.CORES):
            for k, unit in enumerate(machine.units):
                for instance in range(unit.count):
                    number = self.first[k] + instance
                    free = int(self.units[self.lane["FREE"] + core * units + number])
                    yield self.closed(core, number, unit.name, instance, free)

    def closed(self, core: int, number: int, unit: str, instance: int, free: int) -> Account:
        first = 1 + (core * (self.constants.UNITS + 1) + number) * self.account
        names = [unit.name for unit in self.engine.machine.units]
        data = {
            name: int(self.counts[first + DATA + k])
            for k, name in enumerate(names)
            if self.counts[first + DATA + k]
        }
        machine = self.engine.machine
        waits = ((DRAM, machine.dram.name), (LINK, INTERCONNECT), (BANK, machine.scratchpad.name))
        for place, name in waits:
            if self.counts[first + place]:
                data[name] = int(self.counts[first + place])
        return Account(
            core,
            unit,
            instance,
            since=self.begin + free + int(self.now[SKEW]),
            busy=int(self.counts[first + BUSY]),
            queue=int(self.counts[first + QUEUE]),
            issue=int(self.counts[first + ISSUING]),
            data=data,
        )

    def events(self, turn: int) -> Sequence[Event]:
        if not self.constants.TRACE:
            return ()
        cores = self.constants.CORES
        times = np.asarray(self.trace, np.int64).reshape(-1, cores, EVENT)
        sizes = [int(self.cores[c * CORE + NEXT]) for c in range(cores)]
        parts = [times[:size, c] for c, size in enumerate(sizes)]
        return Recorded(
            self.view, self.flat.outermost, turn, self.begin, parts, self.moved, self.leaps
        )
