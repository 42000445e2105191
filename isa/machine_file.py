"""Machine files: TOML to `Machine`, or one error that lists every mistake with its path.

pydantic checks the tables below; `_sentence` turns what it finds into our words. The rules
between tables are `machine.misarranged`, which needs no table to be right.
"""

import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    ValidationError,
    model_validator,
)

from .errors import MachineError
from .machine import (
    ENERGY_TABLES,
    LARGEST_REGISTERS,
    LARGEST_WINDOW,
    MOST_BANKS,
    ONLY_THE_OUTERMOST_HAS_A_CHANNEL,
    OUTERMOST_NEEDS_BANDWIDTH,
    Channel,
    Dataflow,
    Dispatch,
    Energy,
    Interconnect,
    Machine,
    Managed,
    Memory,
    Unit,
    function_fault,
    misarranged,
    misbanked,
    name_fault,
    whole_number_fault,
)
from .quantity import ENERGY, FREQUENCY, POWER, RATE, SIZE, Quantity


def _whole(least: int, most: int | None = None) -> BeforeValidator:
    def check(value: object) -> object:
        if fault := whole_number_fault(value, least, most):
            raise ValueError(fault)
        return value

    return BeforeValidator(check)


def _check_name(value: object) -> object:
    if fault := name_fault(value):
        raise ValueError(fault)
    return value


def _check_function(value: object) -> object:
    if fault := function_fault(value):
        raise ValueError(fault)
    return value


def _positive(quantity: Quantity) -> Callable[[object], int]:
    def read(value: object) -> int:
        number = quantity.read_whole(value)
        if number == 0:
            raise ValueError(f"must be positive, not {value!r}")
        return number

    return read


Positive = Annotated[int, _whole(1)]
Natural = Annotated[int, _whole(0)]
Banks = Annotated[int, _whole(0, MOST_BANKS)]
Percent = Annotated[int, _whole(1, 100)]
Window = Annotated[int, _whole(1, LARGEST_WINDOW)]
Registers = Annotated[int, _whole(1, LARGEST_REGISTERS)]
Name = Annotated[str, BeforeValidator(_check_name)]
Costs = dict[Annotated[str, BeforeValidator(_check_function)], Positive]
Clock = Annotated[int, BeforeValidator(_positive(FREQUENCY))]
Size = Annotated[int, BeforeValidator(_positive(SIZE))]
Bytes = Annotated[int, BeforeValidator(SIZE.read_whole)]
Rate = Annotated[int, BeforeValidator(RATE.read_whole)]
PositiveRate = Annotated[int, BeforeValidator(_positive(RATE))]
Picojoules = Annotated[float, BeforeValidator(ENERGY.read_float)]
Watts = Annotated[float, BeforeValidator(POWER.read_float)]


class Table(BaseModel):
    """A TOML table in which an unknown key is an error."""

    model_config = ConfigDict(extra="forbid")


class CoresTable(Table):
    count: Positive = 1
    barrier: Natural = 0


class DispatchTable(Table):
    window: Window
    fetch: Positive
    issue: Positive


class UnitTable(Table):
    count: Positive = 1
    overhead: Natural = 0
    latency: Natural = 0
    share: Positive = 1
    bandwidth: Rate = 0
    process: Name | Literal[""] = ""


class MatrixTable(UnitTable):
    kind: Literal["matrix"]
    dataflow: Dataflow
    rows: Positive
    columns: Positive
    depth: Positive
    issue_rows: Positive | None = None
    issue_columns: Positive | None = None
    registers: Registers | None = None
    shift: Natural | None = None
    skew: Natural | None = None
    efficiency: Percent | None = None
    operand_bytes: Positive | None = None
    functions: Costs = {}


class LanesTable(UnitTable):
    kind: Literal["vector", "special"]
    lanes: Positive
    operand_bytes: Positive | None = None
    functions: Costs = {}


class PlainTable(UnitTable):
    kind: Literal["scalar", "text", "copy"]


class ChannelTable(Table):
    sharing: Name = "fifo"
    efficiency: Percent = 100
    burst: Size = 1
    gap: Bytes = 0
    banks: Natural = 0
    row: Bytes = 0
    row_miss: Natural = 0

    @model_validator(mode="after")
    def _check_rows(self) -> "ChannelTable":
        if self.sharing == "banked" and not (self.banks and self.row):
            raise ValueError("must have banks and row, being banked")
        return self


class MemoryTable(Table):
    size: Size
    bandwidth: Rate = 0
    latency: Natural = 0
    managed: Managed
    shared: StrictBool = False
    channel: ChannelTable = ChannelTable()
    banks: Banks = 0
    ports: Positive = 1

    @model_validator(mode="after")
    def _check_bandwidth(self) -> "MemoryTable":
        if self.managed == "none" and self.bandwidth == 0:
            raise ValueError(OUTERMOST_NEEDS_BANDWIDTH)
        if self.managed != "none" and "channel" in self.model_fields_set:
            raise ValueError(ONLY_THE_OUTERMOST_HAS_A_CHANNEL)
        for fault in misbanked(self.managed, self.size, self.banks):
            raise ValueError(fault)
        return self


class InterconnectTable(Table):
    bandwidth: PositiveRate
    latency: Natural = 0
    shared: StrictBool = False


class EnergyTable(Table):
    operation: dict[str, Picojoules] = {}
    cycle: dict[str, Picojoules] = {}
    byte: dict[str, Picojoules] = {}
    leakage: Watts = 0.0


class MachineTable(Table):
    name: Name
    clock: Clock
    cores: CoresTable = CoresTable()
    dispatch: DispatchTable
    units: dict[Name, Annotated[MatrixTable | LanesTable | PlainTable, Field(discriminator="kind")]]
    memories: dict[Name, MemoryTable]
    interconnect: InterconnectTable | None = None
    energy: EnergyTable = EnergyTable()


UNIT_TABLES: Mapping[object, type[UnitTable]] = {
    "matrix": MatrixTable,
    "vector": LanesTable,
    "special": LanesTable,
    "scalar": PlainTable,
    "text": PlainTable,
    "copy": PlainTable,
}


def read(text: str, source: str) -> Machine:
    """The machine that `text` describes; errors name the `source` it came from."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise MachineError(f"machine file {source} is not TOML: {error}") from error
    faults: list[str] = []
    try:
        table = MachineTable.model_validate(document)
    except ValidationError as error:
        faults += map(_sentence, error.errors())
    faults += _misarranged(document)
    if faults:
        raise MachineError(f"machine file {source}: {'; '.join(faults)}")
    return _build(table)


def _build(table: MachineTable) -> Machine:
    way = table.interconnect
    return Machine(
        name=table.name,
        clock=table.clock,
        cores=table.cores.count,
        barrier=table.cores.barrier,
        dispatch=Dispatch(**table.dispatch.model_dump()),
        units=tuple(_unit(name, unit) for name, unit in table.units.items()),
        memories=tuple(_memory(name, memory) for name, memory in table.memories.items()),
        energy=Energy(**table.energy.model_dump()),
        interconnect=Interconnect(**way.model_dump()) if way else None,
    )


def _unit(name: str, table: MatrixTable | LanesTable | PlainTable) -> Unit:
    plain = {"kind", "count", "share", "bandwidth", "process"}
    attributes = table.model_dump(exclude={*plain, "dataflow", "functions"}, exclude_none=True)
    return Unit(
        name=name,
        attributes=attributes,
        dataflow=table.dataflow if isinstance(table, MatrixTable) else "",
        functions={} if isinstance(table, PlainTable) else table.functions,
        **table.model_dump(include=plain),
    )


def _memory(name: str, table: MemoryTable) -> Memory:
    channel = Channel(**table.channel.model_dump())
    return Memory(name=name, channel=channel, **table.model_dump(exclude={"channel"}))


def _misarranged(document: Mapping[str, object]) -> Iterator[str]:
    """The rules between tables, as far as a document with other mistakes shows its tables."""
    units, memories = (_tables(document.get(key)) for key in ("units", "memories"))
    if units is None or memories is None:
        return iter(())
    energy = _tables(document.get("energy", {})) or {}
    return misarranged(
        {name: _value(unit, "kind") for name, unit in units.items()},
        {name: _value(memory, "managed") for name, memory in memories.items()},
        {table: _tables(energy.get(table)) or {} for table in ENERGY_TABLES},
        connected="interconnect" in document,
    )


def _tables(value: object) -> Mapping[str, object] | None:
    return value if isinstance(value, dict) else None


def _value(table: object, key: str) -> object:
    return table.get(key) if isinstance(table, dict) else None


def _sentence(error: Mapping[str, Any]) -> str:
    """One of pydantic's findings in our words: its path, what must be there, what is."""
    path, value, context = _path(error["loc"]), error["input"], error.get("ctx", {})
    match error["type"]:
        case "value_error":
            return f"{path} {context['error']}"
        case "missing":
            return f"{path} is missing"
        case "extra_forbidden":
            return f"{path} is unknown (known here: {', '.join(_known(error['loc'][:-1]))})"
        case "literal_error":
            return f"{path} must be {context['expected']}, not {value!r}"
        case "union_tag_not_found":
            return f"{path}.kind is missing"
        case "union_tag_invalid":
            return f"{path}.kind must be {_choice(UNIT_TABLES)}, not {context['tag']!r}"
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"{path} must be a table, not {value!r}"
        case "bool_type":
            return f"{path} must be true or false, not {value!r}"
        case _:
            return f"{path}: {error['msg']}"


def _path(location: tuple[int | str, ...]) -> str:
    """The path as the file has it: pydantic adds a unit's kind, and marks keys."""
    match location:
        case ("units", name, kind, *rest) if kind in UNIT_TABLES:
            location = ("units", name, *rest)
    return ".".join(str(part) for part in location if part != "[key]")


def _known(location: tuple[int | str, ...]) -> Iterable[str]:
    """The keys of the table at a location."""
    tables: dict[object, type[Table]] = {
        "cores": CoresTable,
        "dispatch": DispatchTable,
        "memories": MemoryTable,
        "interconnect": InterconnectTable,
        "energy": EnergyTable,
    }
    match location:
        case ():
            return MachineTable.model_fields
        case ("memories", _, "channel"):
            return ChannelTable.model_fields
        case ("units", _, kind):
            return UNIT_TABLES[kind].model_fields
        case _:
            return tables[location[0]].model_fields


def _choice(names: Iterable[object]) -> str:
    *most, last = map(repr, names)
    return f"{', '.join(most)} or {last}"
