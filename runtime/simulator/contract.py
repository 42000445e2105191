"""The words that all engines share: an issue as they see it, and what a simulation reports.

docs/contract.md says what they mean, exact to the cycle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TypeAlias

from infinisa.isa.machine import Machine
from infinisa.isa.program import Issue, Ranges

Progress: TypeAlias = Callable[[str, int, int], None]
"""Told (section name, turn, of how many) before each turn of a section."""

Origins: TypeAlias = Mapping[tuple[str, str], str]
"""The plugin that brought something, by kind ("instructions", "units", "memories") and name."""


def brought(origins: Origins, kind: str, name: str) -> str:
    """ " of plugin ..." for messages; nothing for what no plugin brought."""
    plugin = origins.get((kind, name))
    return f" of plugin {plugin!r}" if plugin else ""


BUSY_SHARE = 0.5
"""No resource is what bounds a run when the busiest is busy for less of it."""


@dataclass(slots=True, eq=False)
class Shape:
    """All that engines need of an issue; issues that differ in position only have one shape.

    unit        the unit class, as a number in the order of the machine
    occupancy   cycles of work until the unit takes the next; at least 1
    drain       cycles from the end of the work until its results are visible; >= 1 - occupancy
    bus         bytes that its transfer keeps the DRAM channel busy with: whole bursts, and gaps
    transfer    cycles that these take alone; 0: it moves nothing there (or a cache decides)
    crossing    cycles that its bytes take alone on a link of the interconnect, likewise
    reads       hazards: slots and tensors, as small numbers
    writes      hazards of slots that it writes
    stores      hazards of tensors outside the chip that it writes
    ports       (bank, how many of its ports) for each bank of the scratchpad that it touches
    work        busy cycles without waiting: the largest of occupancy, transfer and crossing
    read        bytes read and `written` bytes written, by memory, and those that cross
    """

    opcode: str
    unit: int
    occupancy: int
    drain: int
    bus: int
    transfer: int
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    stores: tuple[int, ...]
    operations: int
    read: Mapping[str, int]
    written: Mapping[str, int]
    ports: tuple[tuple[int, int], ...] = ()
    crossing: int = 0
    work: int = 0
    uses: int = 0

    def __post_init__(self) -> None:
        self.work = max(self.occupancy, self.transfer, self.crossing)


@dataclass(eq=False, slots=True)
class Entry:
    """One issue in a window; `ready`, `start` and the like are cycles.

    waits       how many earlier issues it still waits for
    then        later issues that wait until this one is done
    after       later issues of its unit that wait until this one has started
    holder      the issue that it waited for last; then `waited_for` has its number
    latency     cycles from its start until it is done, when nothing holds up its transfer
    height      its latency and that of the longest chain of issues in the window that wait for it
    held        since when it has been kept from starting by a bank without free ports; -1: never
    full        cycles in which the window had been full when it was fetched
    bus         bytes of its transfer on the channel; `rows`: the DRAM rows that it touches, and
                the bytes of each, where the channel has rows; -1 is one that is not known
    crossing    cycles of its bytes on a link of the interconnect when alone there; `crossed`: when
                they have passed it
    before      the issues that it waited for when it was fetched; kept where heights are
    record      for a trace: the issue, its ranges, and what it (read, wrote) past a cache
    """

    number: int
    shape: Shape
    transfer: int
    fetched: int
    waits: int = 0
    ready: int = 0
    instance: int = -1
    start: int = -1
    free: int = -1
    done: int = -1
    finished: bool = False
    holder: Entry | None = None
    waited_for: int = -1
    latency: int = 0
    height: int = 0
    held: int = -1
    full: int = 0
    bus: int = 0
    rows: tuple[tuple[int, int], ...] = ()
    crossing: int = 0
    crossed: int = -1
    before: list[Entry] = field(default_factory=list)
    then: list[Entry] = field(default_factory=list)
    after: list[Entry] = field(default_factory=list)
    record: tuple[Issue, Ranges, tuple[int, int]] | None = None

    @property
    def work(self) -> int:
        """Busy cycles without waiting, with what a cache did not hold."""
        return max(self.shape.work, self.transfer, self.crossing)


@dataclass(frozen=True)
class Event:
    """One issue as it ran: when it started, made its unit free, and was done.

    number          its place among the issues of its core in its stage
    fetched         when it entered the window; `ready`: when all that it waited for had happened
    holder          the number of the issue that it waited for last; -1: none
    read, written   bytes that it moved from and to DRAM
    ranges          as they stood
    """

    start: int
    free: int
    done: int
    fetched: int
    ready: int
    holder: int
    core: int
    unit: str
    instance: int
    number: int
    section: str
    turn: int
    stage: str
    read: int
    written: int
    issue: Issue
    ranges: Ranges


@dataclass(frozen=True)
class Stalls:
    """What one unit of one core did in `cycles`: busy + data + queue + issue + idle.

    unit    "" stands for the core: busy while any unit other than a copy unit is
    data    cycles in which its next issue waited for data, by the unit that was to bring them,
            or by the memory whose channel it waited for
    queue   cycles in which its next issue could not enter the window because that was full
    issue   cycles in which its next issue was not in the window for another reason, or not yet its
            turn
    idle    cycles after its last issue of a stage, those of the barrier included
    """

    core: int
    unit: str
    instance: int
    cycles: int
    busy: int
    data: Mapping[str, int]
    queue: int
    issue: int
    idle: int

    def shares(self) -> dict[str, float]:
        """Each part of the cycles; they sum to 1."""
        parts = {"busy": self.busy, "queue": self.queue, "issue": self.issue, "idle": self.idle}
        parts |= {f"data from {name}": cycles for name, cycles in self.data.items()}
        return {name: cycles / self.cycles for name, cycles in parts.items() if self.cycles}


@dataclass(frozen=True)
class OpcodeReport:
    """What the issues of one opcode took; `cycles` are busy cycles of its unit."""

    opcode: str
    unit: str
    issues: int
    cycles: int
    operations: int
    read: int
    written: int

    @property
    def numbers(self) -> tuple[int, ...]:
        """What adds up."""
        return self.issues, self.cycles, self.operations, self.read, self.written


@dataclass(frozen=True)
class StageReport:
    """One run of one stage; its cycles last to the end of its barrier.

    steps   cycles of each issue of its text, in order, on the critical path, and of its `waits`;
            empty if nobody asked for the path
    """

    cycles: int
    stalls: tuple[Stalls, ...]
    opcodes: tuple[OpcodeReport, ...]
    read: Mapping[str, int]
    written: Mapping[str, int]
    channel: int
    steps: tuple[int, ...] = ()
    waits: Mapping[str, int] = field(default_factory=dict)
    path: Mapping[str, int] = field(default_factory=dict)
    layers: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Energy:
    """Joules: of the work of each opcode, of the bytes of each memory, and of leakage."""

    opcodes: Mapping[str, float]
    memories: Mapping[str, float]
    leakage: float

    @property
    def total(self) -> float:
        return sum(self.opcodes.values()) + sum(self.memories.values()) + self.leakage

    def plain(self) -> dict[str, object]:
        return asdict(self) | {"total": self.total}


PICO = 1e-12


@dataclass(frozen=True)
class Measured:
    """What a section and a whole run have in common.

    target     the machine
    cycles     all of them, over all turns
    read       bytes read, and `written` bytes written, by memory
    channel    cycles in which the DRAM channel was busy
    stalls     of each core (unit "") and each of its units
    path       cycles of the critical path by opcode and by wait, such as "(barrier)"; `layers`: by
               layer of the model, what belongs to none by stage; empty unless asked for
    """

    target: Machine
    cycles: int
    opcodes: tuple[OpcodeReport, ...]
    read: Mapping[str, int]
    written: Mapping[str, int]
    channel: int
    stalls: tuple[Stalls, ...]
    path: Mapping[str, int]
    layers: Mapping[str, int]

    @property
    def machine(self) -> str:
        return self.target.name

    @property
    def clock(self) -> int:
        return self.target.clock

    @property
    def seconds(self) -> float:
        return self.target.seconds(self.cycles)

    @property
    def instructions(self) -> int:
        """Issues that ran."""
        return sum(row.issues for row in self.opcodes)

    @property
    def operations(self) -> int:
        """Scalar operations of all issues."""
        return sum(row.operations for row in self.opcodes)

    @cached_property
    def busy(self) -> Mapping[str, int]:
        """Busy cycles by unit class, over all its instances and cores."""
        found = {unit.name: 0 for unit in self.target.units}
        for row in self.stalls:
            if row.unit:
                found[row.unit] += row.busy
        return found

    @cached_property
    def utilisation(self) -> Mapping[str, float]:
        """The busy share of each unit class and of the DRAM channel."""
        if not self.cycles:
            return {}
        found = {
            unit.name: self.busy[unit.name] / (self.cycles * unit.count * self.target.cores)
            for unit in self.target.units
            if unit.kind != "copy"
        }
        return found | {self.target.dram.name: self.channel / self.cycles}

    @property
    def share_of_peak_compute(self) -> float:
        """Operations of the units that make `Machine.peak`, over what they could have done."""
        kinds = {unit.name: unit.kind for unit in self.target.units}
        kind = "matrix" if "matrix" in kinds.values() else "vector"
        done = sum(row.operations for row in self.opcodes if kinds[row.unit] == kind)
        possible = self.target.peak() * self.seconds
        return done / possible if possible else 0.0

    @property
    def share_of_peak_bandwidth(self) -> float:
        """Bytes that passed the DRAM channel, over what could have passed."""
        dram = self.target.dram
        moved = self.read.get(dram.name, 0) + self.written.get(dram.name, 0)
        possible = dram.bandwidth * self.seconds
        return moved / possible if possible else 0.0

    @property
    def bound_by(self) -> str:
        """The busiest unit class or memory; "latency" if none is busy for half of the time."""
        name, share = max(
            self.utilisation.items(), key=lambda item: item[1], default=("latency", 0.0)
        )
        return name if share > BUSY_SHARE else "latency"

    @property
    def energy(self) -> Energy:
        """As the machine states it; what it does not state costs nothing."""
        stated = self.target.energy
        moved = {name: self.read.get(name, 0) + self.written.get(name, 0) for name in stated.byte}
        return Energy(
            opcodes={
                row.opcode: PICO
                * (
                    row.operations * stated.operation.get(row.unit, 0.0)
                    + row.cycles * stated.cycle.get(row.unit, 0.0)
                )
                for row in self.opcodes
            },
            memories={name: PICO * moved[name] * cost for name, cost in stated.byte.items()},
            leakage=stated.leakage * self.seconds,
        )

    def plain_numbers(self) -> dict[str, object]:
        return {
            "machine": self.machine,
            "clock": self.clock,
            "cycles": self.cycles,
            "seconds": self.seconds,
            "instructions": self.instructions,
            "operations": self.operations,
            "share_of_peak_compute": self.share_of_peak_compute,
            "share_of_peak_bandwidth": self.share_of_peak_bandwidth,
            "bound_by": self.bound_by,
            "read": dict(self.read),
            "written": dict(self.written),
            "opcodes": [asdict(row) for row in self.opcodes],
            "stalls": [asdict(row) for row in self.stalls],
            "energy": self.energy.plain(),
            "critical_path": dict(self.path),
            "critical_layers": dict(self.layers),
        }


@dataclass(frozen=True)
class SectionReport(Measured):
    """A section over all its turns.

    turn_cycles  the cycles of each turn, and `turn_tokens` the tokens that it worked on
    """

    name: str
    turn_cycles: tuple[int, ...]
    turn_tokens: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Tokens worked on in all turns; 0 where that means nothing."""
        return sum(self.turn_tokens)

    @property
    def token_rate(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds if self.cycles else 0.0

    def turn_rate(self, turn: int) -> float:
        """Tokens a second in one turn, such as a step of decoding with the context of then."""
        cycles = self.turn_cycles[turn]
        return self.turn_tokens[turn] / self.target.seconds(cycles) if cycles else 0.0

    @property
    def turns(self) -> int:
        return len(self.turn_cycles)


@dataclass(frozen=True)
class Report(Measured):
    """A simulated program; `events` are there if a trace was asked for. A `partial` one was
    interrupted: it has what was simulated until then."""

    program: str
    engine: str
    policy: str
    sections: tuple[SectionReport, ...]
    events: Sequence[Event] = ()
    partial: bool = False

    def __str__(self) -> str:
        from ..report import text

        return text.plain(text.simulation(self))

    def _repr_html_(self) -> str:
        """How a notebook shows it."""
        from ..report import html, text

        return html.fragment(text.simulation(self))

    @property
    def by_opcode(self) -> Mapping[str, OpcodeReport]:
        """What each opcode took, the longest first."""
        rows = sorted(self.opcodes, key=lambda row: (-row.cycles, row.opcode))
        return {row.opcode: row for row in rows}

    def section(self, name: str) -> SectionReport:
        """The section of this name."""
        return next(section for section in self.sections if section.name == name)

    def plain(self) -> dict[str, object]:
        """Numbers and text only, for JSON; without the events."""
        sections = [
            section.plain_numbers()
            | {
                "name": section.name,
                "turns": section.turns,
                "turn_cycles": section.turn_cycles,
                "tokens": section.tokens,
                "tokens_per_second": section.token_rate,
            }
            for section in self.sections
        ]
        settings: dict[str, object] = {
            "program": self.program,
            "engine": self.engine,
            "policy": self.policy,
            "partial": self.partial,
        }
        return settings | self.plain_numbers() | {"sections": sections}


class StageInterrupted(KeyboardInterrupt):
    """The user stopped a stage; `report` has what ran of it."""

    def __init__(self, report: StageReport) -> None:
        super().__init__()
        self.report = report


class Interrupted(KeyboardInterrupt):
    """The user stopped a simulation; `report` has what ran of it."""

    def __init__(self, report: Report) -> None:
        super().__init__()
        self.report = report
