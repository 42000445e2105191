"""Small programs by hand, on a machine whose numbers are easy to add up."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from infinisa.isa.instance import find
from infinisa.isa.instruction import Instruction
from infinisa.isa.language import Axis, Gather, Input, Node, dot, relu
from infinisa.isa.machine import Channel, Dispatch, Machine, Memory, Unit
from infinisa.isa.program import (
    Buffer,
    Count,
    Dimension,
    Extent,
    Issue,
    Kind,
    Opcode,
    Operand,
    Parameter,
    Program,
    Repeat,
    Section,
    Stage,
    Statement,
    Term,
)
from infinisa.isa.timing import Timing

A, B, X = Input("a", ("m", "k")), Input("b", ("k", "n")), Input("x", ("m",))


def made(
    name: str, unit: str, cycles: tuple[int, int], *operands: Input, output: Node
) -> Instruction:
    """An instruction of so many (cycles until its unit is free, cycles until its result)."""
    occupancy, latency = (Timing(str(number)) for number in cycles)
    return Instruction(
        name=name,
        unit=unit,
        operands=operands,
        outputs=(output,),
        occupancy=occupancy,
        latency=latency,
    )


LIBRARY: Mapping[str, Instruction] = {
    instruction.name: instruction
    for instruction in (
        made("multiply", "matrix", (10, 14), A, B, output=dot(A, B, "k")),
        made("matrix_positive", "matrix", (10, 14), X, output=relu(X)),
        made("positive", "vector", (6, 8), X, output=relu(X)),
        made("slow", "vector", (2, 20), X, output=relu(X)),
        made("quick", "vector", (2, 4), X, output=relu(X)),
    )
}


FIFO = Channel(sharing="fifo")
MATRIX = Unit(
    name="matrix",
    kind="matrix",
    dataflow="output",
    attributes={"rows": 4, "columns": 4, "depth": 8},
)
VECTOR = Unit(name="vector", kind="vector", attributes={"lanes": 4})


def machine(
    *,
    window: int = 16,
    fetch: int = 4,
    issue: int = 8,
    latency: int = 5,
    cores: int = 1,
    barrier: int = 0,
    vectors: int = 1,
    cache: int = 0,
    channel: Channel = FIFO,
    bandwidth: int = 1000,
    load: Mapping[str, Any] | None = None,
    process: str = "",
    banks: int = 0,
    ports: int = 1,
) -> Machine:
    """DRAM moves one byte a cycle. With a cache of that many bytes there is no scratchpad.

    load     what else is stated of the unit that loads
    process  of the vector units
    banks    of the scratchpad: of 16, each of the first tiles of a `Builder` has one for itself
    """
    dram = Memory(
        name="dram",
        size=1 << 30,
        bandwidth=bandwidth,
        latency=latency,
        managed="none",
        shared=True,
        channel=channel,
    )
    inner = Memory(name="scratchpad", size=1 << 16, managed="software", banks=banks, ports=ports)
    if cache:
        inner = Memory(name="cache", size=cache, managed="hardware", shared=True)
    return Machine(
        name="plain",
        clock=1000,
        cores=cores,
        barrier=barrier,
        dispatch=Dispatch(window=window, fetch=fetch, issue=issue),
        units=(
            MATRIX,
            replace(VECTOR, count=vectors, process=process),
            Unit(name="text", kind="text", attributes={"latency": 3}),
            Unit(name="load", kind="copy", **(load or {})),
            Unit(name="store", kind="copy"),
        ),
        memories=(inner, dram),
    )


@dataclass
class Builder:
    """A program in the making. Buffers are made by name; an issue names what it touches.

    An operand is "buffer" (all of it) or "buffer range range ...", a range for each dimension, in
    a buffer on chip counted from the start of the range's parent.
    """

    extents: dict[Axis, Extent] = field(default_factory=dict)
    buffers: dict[str, Buffer] = field(default_factory=dict)
    opcodes: dict[str, Opcode] = field(default_factory=dict)
    parameters: list[Parameter] = field(default_factory=list)
    dtype: str = "i8"
    library: Mapping[str, Instruction] = field(default_factory=lambda: LIBRARY)

    def axis(self, name: Axis, length: int | Count, most: int = 0) -> None:
        count = Count(length) if isinstance(length, int) else length
        self.extents[name] = Extent(name, count, most or count.constant)

    def tensor(self, name: str, *shape: int, kind: Kind = "input") -> None:
        """A tensor outside the chip; a byte an element, if the type is left as it is."""
        self.buffers[name] = Buffer(name, "dram", shape, self.dtype, kind)

    def tile(
        self, name: str, *shape: int, slots: int = 1, rotor: str = "", place: int | None = None
    ) -> None:
        """A buffer on the chip, in a place of its own unless one is given."""
        number = len(self.buffers) if place is None else place
        self.buffers[name] = Buffer(
            name, "scratchpad", shape, self.dtype, slots=slots, rotor=rotor, place=number,
            address=4096 * number, pitch=1024,
        )  # fmt: skip

    def operand(self, text: str) -> Operand:
        name, *ranges = text.split()
        buffer = self.buffers[name]
        if not ranges:
            whole = [f"#{extent}" for extent in buffer.shape]
            for axis, extent in zip(whole, buffer.shape, strict=True):
                self.axis(axis, extent)
            return Operand(name, tuple(Dimension((Term(axis),)) for axis in whole))
        terms = (Term(r, "" if buffer.outer else r) for r in ranges)
        return Operand(name, tuple(Dimension((term,)) for term in terms))

    def load(self, tile: str, tensor: str) -> Issue:
        return self._copy("load", tensor, tile)

    def store(self, tensor: str, tile: str) -> Issue:
        return self._copy("store", tile, tensor)

    def _copy(self, name: str, source: str, target: str) -> Issue:
        self.opcodes[name] = Opcode(name, name, "", name)
        return Issue(name, name, (self.operand(source),), (self.operand(target),))

    def issue(
        self, name: str, reads: Sequence[str], writes: Sequence[str], axes: str = "",
        fresh: tuple[str, ...] | None = None,
    ) -> Issue:  # fmt: skip
        """An issue of an instruction of the library; `axes` such as "m=s1 k=k"."""
        meaning = find(name, self.library)
        given = dict(pair.split("=") for pair in axes.split())
        known = [axis for axis in meaning.axes if axis in given]
        self.opcodes[name] = Opcode(
            name,
            name,
            meaning.meaning,
            meaning.unit,
            binding=tuple((axis, (axis,)) for axis in meaning.axes),
            operands=tuple(operand.axes for operand in meaning.operands),
            results=tuple(output.axes for output in meaning.outputs),
            outputs=tuple(range(len(meaning.outputs))),
        )
        return Issue(
            name,
            meaning.unit,
            tuple(self.operand(text) for text in reads),
            tuple(self.operand(text) for text in writes),
            tuple((axis, given[axis]) for axis in known),
            fresh,
        )

    def program(self, *stages: Sequence[Statement], repeat: Repeat | None = None) -> Program:
        made = tuple(Stage(f"stage{i}", tuple(body)) for i, body in enumerate(stages))
        section = Section("main", tuple(self.extents.values()), made, repeat)
        return Program(
            "test",
            "plain",
            tuple(self.parameters),
            tuple(self.opcodes.values()),
            tuple(self.buffers.values()),
            (section,),
        )


def gathering() -> tuple[Program, dict[str, Instruction]]:
    """A program of one issue that takes 3 rows of 4 bytes from a table of 100, and its library."""
    table, ids = Input("table", ("v", "d")), Input("ids", ("s",), "i32")
    lookup = Instruction(
        name="lookup",
        unit="vector",
        operands=(table, ids),
        outputs=(Gather(table, ids, "v"),),
        occupancy=Timing("1"),
    )
    build = Builder(library={"lookup": lookup})
    build.tensor("table", 100, 4)
    build.tile("ids", 3)
    build.tile("y", 3, 4)
    build.axis("s", 3)
    build.axis("d", 4)
    issue = build.issue("lookup", ["table", "ids s"], ["y s d"], "s=s d=d")
    return build.program([issue]), {"lookup": lookup}
