"""Machines as data: units that work, memories that feed them, and how issues are dispatched.

Every number is an integer (energy apart), so that time is exact. A machine is checked when it is
built: one `MachineError` lists everything that is wrong with the part at hand, in the words that
the reader of machine files (`machine_file.py`) uses too.
"""

import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Literal

from .errors import MachineError
from .functions import FOLDS, FUNCTIONS
from .quantity import ENERGY, FREQUENCY, POWER, RATE, SIZE

Kind = Literal["matrix", "vector", "special", "scalar", "text", "copy"]
Dataflow = Literal["output", "weight", "input"]
Managed = Literal["software", "hardware", "none"]

MOST_BANKS = 64
"""An engine keeps the banks that an issue needs in one 64-bit word."""

LARGEST_WINDOW = 128
"""An engine keeps the dependences among a window's issues in one 128-bit word an issue."""

KIND_ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    "matrix": ("rows", "columns", "depth"),
    "vector": ("lanes",),
    "special": ("lanes",),
    "scalar": (),
    "text": (),
    "copy": (),
}
"""What a unit of each kind must state, as positive integers."""

COMMON_ATTRIBUTES = ("overhead", "latency")
"""What a unit of any kind may state, in cycles; zero unless stated."""

ISSUE_ATTRIBUTES = ("issue_rows", "issue_columns")
"""What a matrix unit may state: an issue is larger than the array, which takes it in pieces."""

OPERAND_BYTES = "operand_bytes"
"""What a matrix, vector or special unit may state: bytes of operands and results a cycle."""

LARGEST_REGISTERS = 2
"""Sets of registers in a cell of an array: more than one fold is not prepared ahead."""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A class of `count` like execution units of one core.

    attributes: for a matrix unit `rows`, `columns` and `depth` (the longest k of one issue),
    `issue_rows` and `issue_columns` where an issue is larger than the array (as on a processor),
    `registers`, `shift` and `skew` (`systolic.py` says what they are, `_array` what they are unless
    stated) and `efficiency` (per cent of its work that a product without stalls gets); for a vector
    or special unit `lanes`; for all three, where it is limited, `operand_bytes` (bytes of operands
    and results that pass a cycle); for all `overhead` (cycles added to an issue's occupancy) and
    `latency` (cycles from the end of its occupancy, and of what an array still holds then, until
    its result is visible).
    dataflow: which operand of a matrix unit stays in place; "" for every other kind.
    share: of the DRAM channel, where it is divided fairly, against the units that use it too.
    bandwidth: the most bytes a second that it moves from and to DRAM; 0: as many as there are.
    process: what simulates it, of those that plugins bring; "" is what docs/contract.md says.
    functions: operations that an application of a scalar function or a fold counts for here, where
    it is not what `functions.py` says.
    """

    name: str
    kind: Kind
    count: int = 1
    attributes: Mapping[str, int] = field(default_factory=dict, hash=False)
    dataflow: str = ""
    share: int = 1
    bandwidth: int = 0
    process: str = ""
    functions: Mapping[str, int] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if self.kind not in KIND_ATTRIBUTES:
            known = ", ".join(KIND_ATTRIBUTES)
            raise MachineError(f"units.{self.name}.kind must be one of {known}, not {self.kind!r}")
        needed = KIND_ATTRIBUTES[self.kind]
        extra = [key for key in self._optional() if key in self.attributes]
        array = self._array()
        given = dict.fromkeys(COMMON_ATTRIBUTES, 0) | array | dict(self.attributes)
        shares = {"registers": LARGEST_REGISTERS, "efficiency": 100}
        natural = [key for key in (*array, *COMMON_ATTRIBUTES) if key not in shares]
        path = f"units.{self.name}"
        _refuse(
            _misnamed(path, self.name),
            _not_whole(path, 1, count=self.count, share=self.share),
            _not_whole(path, 0, bandwidth=self.bandwidth),
            _misnamed(f"{path}.process", self.process or "none"),
            (f"{path}.{key} is missing" for key in needed if key not in given),
            _not_whole(path, 1, **{key: given[key] for key in needed if key in given}),
            _not_whole(path, 1, **{key: given[key] for key in extra}),
            *(
                _not_whole(path, 1, most, **{key: given[key]})
                for key, most in shares.items()
                if key in array
            ),
            _not_whole(path, 0, **{key: given[key] for key in natural}),
            (
                f"{path}.{key} is unknown"
                for key in given
                if key not in (*needed, *extra, *array, *COMMON_ATTRIBUTES)
            ),
            self._wrong_dataflow(),
            self._wrong_functions(),
        )
        ordered = {key: given[key] for key in (*needed, *extra, *array, *COMMON_ATTRIBUTES)}
        object.__setattr__(self, "attributes", ordered)

    def _optional(self) -> tuple[str, ...]:
        """What it may state that has no value otherwise."""
        match self.kind:
            case "matrix":
                return (*ISSUE_ATTRIBUTES, OPERAND_BYTES)
            case "vector" | "special":
                return (OPERAND_BYTES,)
        return ()

    def _wrong_functions(self) -> Iterator[str]:
        path = f"units.{self.name}.functions"
        if self.functions and self.kind not in ("matrix", "vector", "special"):
            yield f"{path} is for matrix, vector and special units only"
        for name in self.functions:
            if fault := function_fault(name):
                yield f"{path}.{name} {fault}"
        yield from _not_whole(path, 1, **self.functions)

    def _array(self) -> dict[str, int]:
        """What a matrix unit has unless it states otherwise: cells keep the next fold's operand
        beside the present one's; it moves in row by row, but sums that stay leave on wires of
        their own; and what streams passes from cell to cell."""
        if self.kind != "matrix":
            return {}
        sizes = (self.attributes.get(key) for key in ("rows", "columns"))
        rows, columns = (size if type(size) is int else 1 for size in sizes)
        shift = 0 if self.dataflow == "output" else rows
        skew = max(rows + columns - 2, 0)
        return {"registers": LARGEST_REGISTERS, "shift": shift, "skew": skew, "efficiency": 100}

    def room(self, limit: str) -> int | None:
        """How much one issue takes of an axis that is limited by this attribute."""
        return self.attributes.get(f"issue_{limit}", self.attributes.get(limit))

    def _wrong_dataflow(self) -> Iterator[str]:
        if self.kind != "matrix" and self.dataflow:
            yield f"units.{self.name}.dataflow is for matrix units only"
        if self.kind == "matrix" and self.dataflow not in ("output", "weight", "input"):
            must_be = "'output', 'weight' or 'input'"
            yield f"units.{self.name}.dataflow must be {must_be}, not {self.dataflow!r}"


@dataclass(frozen=True, kw_only=True)
class Channel:
    """How transfers share the way to the outermost store, and what it loses of its bandwidth.

    sharing: "fair" (active transfers divide the bandwidth), "fifo" (one after the other), "banked"
    (fifo, and rows must be opened in their banks), or what a plugin brings under this name.
    efficiency: percent of the bandwidth that is left for transfers, such as after refreshes.
    burst: bytes of the least that is moved; a contiguous run takes whole bursts.
    gap: bytes that could have been moved in the time that is lost with each contiguous run.
    banks, row, row_miss: of "banked", how many rows can be open at a time, the bytes of one (the
    row after it is in the next bank), and the cycles to open one.
    """

    sharing: str = "fifo"
    efficiency: int = 100
    burst: int = 1
    gap: int = 0
    banks: int = 0
    row: int = 0
    row_miss: int = 0

    def __post_init__(self) -> None:
        path = "channel"
        _refuse(
            _misnamed(f"{path}.sharing", self.sharing),
            _not_whole(path, 1, 100, efficiency=self.efficiency),
            _not_whole(path, 1, burst=self.burst),
            _not_whole(path, 0, gap=self.gap, row_miss=self.row_miss),
            _not_whole(path, int(self.sharing == "banked"), banks=self.banks, row=self.row),
        )

    def bus_bytes(self, size: int, run: int) -> int:
        """What the channel is busy with for `size` bytes in contiguous runs of `run` bytes."""
        if not size:
            return 0
        return -(-size // run) * (-(-run // self.burst) * self.burst + self.gap)


@dataclass(frozen=True, kw_only=True)
class Memory:
    """A store of `size` bytes that moves at most `bandwidth` bytes a second.

    bandwidth: 0 says that it is never the limit (a scratchpad as wide as its units need).
    latency: cycles from the request of a byte to its arrival.
    managed: "software" (the compiler moves tiles into it), "hardware" (a cache: it does not), or
    "none" (the outermost store, where all tensors live).
    shared: one for all cores, or one a core.
    channel: of the outermost store, how transfers share its bandwidth.
    banks: equal parts of the innermost store, one after the other, if software manages it; 0: it
    is never in the way. Each bank serves `ports` operands at a time.
    """

    name: str
    size: int
    bandwidth: int = 0
    latency: int = 0
    managed: Managed
    shared: bool = False
    channel: Channel = field(default_factory=Channel)
    banks: int = 0
    ports: int = 1

    def __post_init__(self) -> None:
        path = f"memories.{self.name}"
        _refuse(
            _misnamed(path, self.name),
            _not_whole(path, 1, size=self.size),
            _not_whole(path, 0, bandwidth=self.bandwidth, latency=self.latency),
            _not_whole(path, 0, MOST_BANKS, banks=self.banks),
            _not_whole(path, 1, ports=self.ports),
            self._wrong_management(path),
            (f"{path}.{fault}" for fault in misbanked(self.managed, self.size, self.banks)),
        )

    def _wrong_management(self, path: str) -> Iterator[str]:
        if self.managed not in ("software", "hardware", "none"):
            must_be = "'software', 'hardware' or 'none'"
            yield f"{path}.managed must be {must_be}, not {self.managed!r}"
        if self.managed == "none" and self.bandwidth == 0:
            yield f"{path} {OUTERMOST_NEEDS_BANDWIDTH}"
        if self.managed != "none" and self.channel != Channel():
            yield f"{path} {ONLY_THE_OUTERMOST_HAS_A_CHANNEL}"


@dataclass(frozen=True, kw_only=True)
class Interconnect:
    """The way between the cores and what they share: DRAM, and a cache of all cores before it.

    bandwidth: bytes a second that a link moves.
    latency: cycles from the end of a transfer on a link until its bytes have arrived.
    shared: one link for all cores, or one a core.
    """

    bandwidth: int
    latency: int = 0
    shared: bool = False

    def __post_init__(self) -> None:
        _refuse(
            _not_whole(INTERCONNECT, 1, bandwidth=self.bandwidth),
            _not_whole(INTERCONNECT, 0, latency=self.latency),
        )


INTERCONNECT = "interconnect"
"""What reports and energies call it, beside the names of memories."""


def misbanked(managed: object, size: int, banks: int) -> Iterator[str]:
    """What is wrong with the banks of a memory."""
    if banks and managed != "software":
        yield "banks must be left out, since no software manages the memory"
    elif type(banks) is int and banks > 0 and size % banks:
        yield f"banks must divide the size of {size} bytes, not be {banks}"


ONLY_THE_OUTERMOST_HAS_A_CHANNEL = "must have no channel, not being the outermost store"
OUTERMOST_NEEDS_BANDWIDTH = "must have a bandwidth, being the outermost store"


@dataclass(frozen=True, kw_only=True)
class Dispatch:
    """A core takes `fetch` issues a cycle into a window of `window`, and starts `issue` a cycle."""

    window: int
    fetch: int
    issue: int

    def __post_init__(self) -> None:
        _refuse(
            _not_whole("dispatch", 1, LARGEST_WINDOW, window=self.window),
            _not_whole("dispatch", 1, fetch=self.fetch, issue=self.issue),
        )


@dataclass(frozen=True, kw_only=True)
class Energy:
    """What work costs, where it is known; what is not stated costs nothing.

    operation: picojoules of one scalar operation, by unit (a multiply-add is two operations).
    cycle: picojoules of one busy cycle of one unit instance, by unit.
    byte: picojoules of one byte read or written, by memory.
    leakage: watts that the whole machine draws whether it works or not.
    """

    operation: Mapping[str, float] = field(default_factory=dict, hash=False)
    cycle: Mapping[str, float] = field(default_factory=dict, hash=False)
    byte: Mapping[str, float] = field(default_factory=dict, hash=False)
    leakage: float = 0.0

    def __post_init__(self) -> None:
        stated = {"leakage": self.leakage}
        for table in ENERGY_TABLES:
            costs = {name: float(cost) for name, cost in getattr(self, table).items()}
            object.__setattr__(self, table, costs)
            stated |= {f"{table}.{name}": cost for name, cost in costs.items()}
        object.__setattr__(self, "leakage", float(self.leakage))
        _refuse(
            f"energy.{path} must be zero or positive, not {cost}"
            for path, cost in stated.items()
            if not (cost >= 0 and math.isfinite(cost))
        )


ENERGY_TABLES: Mapping[str, str] = {"operation": "units", "cycle": "units", "byte": "memories"}
"""What the names in each table of `Energy` stand for."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """`cores` like cores at `clock` Hz; `units` and `dispatch` are those of one core.

    memories: from the innermost to the outermost store.
    barrier: cycles to join all cores.
    interconnect: between the cores and what they share; None: it is never in the way.
    """

    name: str
    clock: int
    cores: int = 1
    dispatch: Dispatch
    units: tuple[Unit, ...]
    memories: tuple[Memory, ...]
    barrier: int = 0
    energy: Energy = field(default_factory=Energy)
    interconnect: Interconnect | None = None

    def __post_init__(self) -> None:
        _refuse(
            _misnamed("name", self.name),
            _not_whole("", 1, clock=self.clock),
            _not_whole("cores", 1, count=self.cores),
            _not_whole("cores", 0, barrier=self.barrier),
            _repeated("units", (unit.name for unit in self.units)),
            _repeated("memories", (memory.name for memory in self.memories)),
            misarranged(
                {unit.name: unit.kind for unit in self.units},
                {memory.name: memory.managed for memory in self.memories},
                {table: getattr(self.energy, table) for table in ENERGY_TABLES},
                connected=self.interconnect is not None,
            ),
            (
                f"memories.{memory.name}.banks must be left out: only the innermost memory has them"
                for memory in self.memories[1:]
                if memory.banks
            ),
        )

    def unit(self, name: str) -> Unit:
        """The unit of this name."""
        for unit in self.units:
            if unit.name == name:
                return unit
        known = ", ".join(unit.name for unit in self.units)
        raise MachineError(f"machine {self.name!r} has no unit {name!r}; its units are {known}")

    def memory(self, name: str) -> Memory:
        """The memory of this name."""
        for memory in self.memories:
            if memory.name == name:
                return memory
        known = ", ".join(memory.name for memory in self.memories)
        raise MachineError(
            f"machine {self.name!r} has no memory {name!r}; its memories are {known}"
        )

    @property
    def dram(self) -> Memory:
        """The outermost store, where all tensors live."""
        return self.memories[-1]

    @property
    def cache(self) -> Memory | None:
        """The memory before DRAM, if hardware manages it."""
        before = self.memories[-2]
        return before if before.managed == "hardware" else None

    @property
    def scratchpad(self) -> Memory:
        """The innermost store, which the units work on."""
        return self.memories[0]

    @cached_property
    def dram_rate(self) -> Fraction:
        """The bytes a cycle that pass between DRAM and the cores: what its channel leaves."""
        dram = self.dram
        return Fraction(dram.bandwidth * dram.channel.efficiency, 100 * self.clock)

    def rate(self, unit: Unit) -> Fraction:
        """The bytes a cycle that a unit moves from or to DRAM when no other does."""
        own = Fraction(unit.bandwidth, self.clock)
        return min(own, self.dram_rate) if unit.bandwidth else self.dram_rate

    def transfer_cycles(self, size: int, unit: Unit | None = None) -> int:
        """The whole number of cycles in which `size` bytes pass between DRAM and the cores; moved
        by a unit, if one is given."""
        rate = self.rate(unit) if unit and unit.bandwidth else self.dram_rate
        return -(-size * rate.denominator // rate.numerator)

    def crossing_cycles(self, size: int) -> int:
        """The whole number of cycles in which `size` bytes pass a link of the interconnect."""
        if self.interconnect is None:
            return 0
        return -(-size * self.clock // self.interconnect.bandwidth)

    def seconds(self, cycles: int) -> float:
        """How long `cycles` take."""
        return cycles / self.clock

    def peak(self) -> float:
        """Operations a second of all matrix units, or of the vector units where there are none."""
        matrix = sum(
            unit.attributes["rows"] * unit.attributes["columns"] * unit.count
            for unit in self.units
            if unit.kind == "matrix"
        )
        vector = sum(
            unit.attributes["lanes"] * unit.count for unit in self.units if unit.kind == "vector"
        )
        return 2.0 * (matrix or vector) * self.cores * self.clock

    @property
    def identity(self) -> str:
        """A hash that two machines share only if they are equal."""
        return hashlib.sha256(self.text().encode()).hexdigest()

    def text(self) -> str:
        """The machine as a normalised file: `parse_machine` reads back an equal machine."""
        return "\n".join(_lines(self))


def load_machine(path: str | Path) -> Machine:
    """The machine that a TOML file describes; one MachineError lists all its mistakes."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise MachineError(f"machine file {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise MachineError(f"machine file {path} cannot be read: it is not UTF-8 text") from error
    return parse_machine(text, str(path))


def parse_machine(text: str, source: str) -> Machine:
    """The machine that `text` describes; errors name the `source` it came from."""
    from .machine_file import read  # here, since pydantic takes 0.1 s and only files need it

    return read(text, source)


def builtin_machine_files() -> list[Path]:
    """The machine files that come with InfinISA, by name."""
    folder = resources.files(__package__).joinpath("machines")
    return sorted(Path(str(file)) for file in folder.iterdir() if file.name.endswith(".toml"))


def misarranged(
    units: Mapping[str, object],
    memories: Mapping[str, object],
    energy: Mapping[str, Iterable[str]],
    connected: bool,
) -> Iterator[str]:
    """What is wrong between the parts of a machine, given only what they are.

    units: their kinds; memories: how they are managed, innermost first; energy: the names that
    each table mentions; connected: whether there is an interconnect. Plain data, so that a file
    with other mistakes can be checked as well.
    """
    if not units:
        yield "units must name at least one unit"
    if len(memories) < 2:
        yield "memories must name at least two: what the units work on, and the outermost store"
    *inner, outermost = memories or [""]
    if memories and memories[outermost] in ("software", "hardware"):
        yield f"memories.{outermost}.managed must be 'none', being the last and so outermost store"
    for name in inner:
        if memories[name] == "none":
            yield f"memories.{name}.managed can be 'none' only for the last and so outermost store"
    if "software" in memories.values():
        for name in ("load", "store"):
            if units.get(name) != "copy":
                yield f"units.{name} must be a copy unit, since a memory is managed by software"
    if INTERCONNECT in memories:
        yield f"memories.{INTERCONNECT} must have another name: it would be taken for the way there"
    passed = {**memories, INTERCONNECT: ""} if connected else memories
    known = {"units": units, "memories": passed}
    for table, names in energy.items():
        part = ENERGY_TABLES[table]
        for name in names:
            if name not in known[part]:
                yield f"energy.{table}.{name} is none of the {part}"


def whole_number_fault(value: object, least: int, most: int | None = None) -> str | None:
    """What to say of a value that is not an integer from `least` (0 or 1) to `most`."""
    if type(value) is int and value >= least and (most is None or value <= most):
        return None
    if most is not None:
        return f"must be an integer from {least} to {most}, not {value!r}"
    return (
        f"must be {'a positive integer' if least else 'zero or a positive integer'}, not {value!r}"
    )


def name_fault(name: object) -> str | None:
    """What to say of a name that is not one lower-case word."""
    if isinstance(name, str) and re.fullmatch("[a-z][a-z0-9_]*", name):
        return None
    return f"must be a name of lower-case letters, digits and _, not {name!r}"


def function_fault(name: object) -> str | None:
    """What to say of a name that is neither of a scalar function nor of a fold."""
    if name in FUNCTIONS or name in FOLDS:
        return None
    return "must be a scalar function or a fold"


def _not_whole(path: str, least: int, most: int | None = None, **values: object) -> Iterator[str]:
    for key, value in values.items():
        if fault := whole_number_fault(value, least, most):
            yield f"{path}.{key} {fault}".lstrip(".")


def _misnamed(path: str, name: object) -> Iterator[str]:
    if fault := name_fault(name):
        yield f"{path} {fault}"


def _repeated(path: str, names: Iterable[str]) -> Iterator[str]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            yield f"{path}.{name} is there twice"
        seen.add(name)


def _refuse(*checks: Iterable[str]) -> None:
    """Raise one MachineError with all that the checks found."""
    if faults := [fault for check in checks for fault in check]:
        raise MachineError("; ".join(faults))


def _lines(machine: Machine) -> Iterator[str]:
    yield f'name = "{machine.name}"'
    yield f'clock = "{FREQUENCY.write(machine.clock)}"'
    yield from _table("cores", count=machine.cores, barrier=machine.barrier)
    dispatch = machine.dispatch
    yield from _table(
        "dispatch", window=dispatch.window, fetch=dispatch.fetch, issue=dispatch.issue
    )
    for unit in machine.units:
        dataflow = {"dataflow": unit.dataflow} if unit.dataflow else {}
        yield from _table(
            f"units.{unit.name}",
            kind=unit.kind,
            count=unit.count,
            **unit.attributes,
            **dataflow,
            **_unless(1, share=unit.share),
            **_unless("0 B/s", bandwidth=RATE.write(unit.bandwidth)),
            **_unless("", process=unit.process),
        )
        if unit.functions:
            yield from _table(
                f"units.{unit.name}.functions", **dict(sorted(unit.functions.items()))
            )
    for memory in machine.memories:
        yield from _table(
            f"memories.{memory.name}",
            size=SIZE.write(memory.size),
            bandwidth=RATE.write(memory.bandwidth),
            latency=memory.latency,
            managed=memory.managed,
            shared=memory.shared,
            **_unless(0, banks=memory.banks),
            **_unless(1, ports=memory.ports),
        )
        if memory.managed == "none":
            yield from _channel_lines(f"memories.{memory.name}.channel", memory.channel)
    if way := machine.interconnect:
        yield from _table(
            INTERCONNECT,
            bandwidth=RATE.write(way.bandwidth),
            latency=way.latency,
            shared=way.shared,
        )
    yield from _energy_lines(machine.energy)
    yield ""


def _channel_lines(path: str, channel: Channel) -> Iterator[str]:
    yield from _table(
        path,
        sharing=channel.sharing,
        efficiency=channel.efficiency,
        burst=SIZE.write(channel.burst),
        gap=SIZE.write(channel.gap),
        **_unless(0, banks=channel.banks, row_miss=channel.row_miss),
        **_unless("0 B", row=SIZE.write(channel.row)),
    )


def _energy_lines(energy: Energy) -> Iterator[str]:
    if energy.leakage:
        yield from _table("energy", leakage=POWER.write(energy.leakage))
    for table in ENERGY_TABLES:
        if costs := getattr(energy, table):
            yield from _table(
                f"energy.{table}",
                **{name: ENERGY.write(costs[name]) for name in sorted(costs)},
            )


def _unless(usual: int | str, **values: int | str) -> dict[str, int | str]:
    """What differs from the usual: few machines state it."""
    return {key: value for key, value in values.items() if value != usual}


def _table(path: str, /, **values: int | str) -> Iterator[str]:
    yield ""
    yield f"[{path}]"
    for key, value in values.items():
        match value:
            case bool():
                yield f"{key} = {str(value).lower()}"
            case int():
                yield f"{key} = {value}"
            case _:
                yield f'{key} = "{value}"'
