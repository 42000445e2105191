"""Programs and machines for the simulator's speed: one core, regular and random work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random

from infinisa.isa.instruction import Instruction
from infinisa.isa.language import Input, dot, relu
from infinisa.isa.machine import Channel, Dispatch, Machine, Memory, Unit
from infinisa.isa.program import (
    Buffer,
    Count,
    Dimension,
    Extent,
    Issue,
    Loop,
    Opcode,
    Operand,
    Program,
    Section,
    Stage,
    Statement,
    Term,
)
from infinisa.isa.timing import Timing

KINDS = 16
"""Different cycles that instructions of a unit take in the random program."""

SLOTS = 4


def core(sharing: str = "fifo") -> Machine:
    """One matrix, vector, load and store unit; DRAM moves 32 bytes a cycle and answers after 60."""
    return Machine(
        name="prototype",
        clock=10**9,
        dispatch=Dispatch(window=32, fetch=4, issue=4),
        units=(
            Unit(
                name="matrix",
                kind="matrix",
                dataflow="output",
                attributes={"rows": 32, "columns": 32, "depth": 128},
            ),
            Unit(name="vector", kind="vector", attributes={"lanes": 32}),
            Unit(name="load", kind="copy"),
            Unit(name="store", kind="copy"),
        ),
        memories=(
            Memory(name="scratchpad", size=1 << 22, managed="software"),
            Memory(
                name="dram",
                size=1 << 34,
                bandwidth=32 * 10**9,
                latency=60,
                managed="none",
                shared=True,
                channel=Channel(sharing=sharing),
            ),
        ),
    )


def timed(name: str, unit: str, occupancy: int, latency: int) -> Instruction:
    """An instruction that always takes so many cycles."""
    operands: tuple[Input, ...]
    if unit == "matrix":
        a, b = Input("a", ("m", "k"), "i8"), Input("b", ("k", "n"), "i8")
        operands, output = (a, b), dot(a, b, "k")
    else:
        x = Input("x", ("m",), "i8")
        operands, output = (x,), relu(x)
    cycles = Timing(str(occupancy)), Timing(str(latency))
    return Instruction(
        name=name,
        unit=unit,
        operands=operands,
        outputs=(output,),
        occupancy=cycles[0],
        latency=cycles[1],
    )


def _library() -> dict[str, Instruction]:
    found = {"product": ("matrix", 128, 160), "activation": ("vector", 64, 80)}
    random = Random(0)
    for kind in range(KINDS):
        long, short = random.randrange(16, 256), random.randrange(4, 64)
        found[f"product{kind}"] = "matrix", long, long + random.randrange(64)
        found[f"activation{kind}"] = "vector", short, short + random.randrange(1, 16)
    return {name: timed(name, *cycles) for name, cycles in found.items()}


LIBRARY: Mapping[str, Instruction] = _library()


@dataclass
class Writer:
    """A program of one stage in the making."""

    extents: dict[str, Extent] = field(default_factory=dict)
    buffers: dict[str, Buffer] = field(default_factory=dict)
    opcodes: dict[str, Opcode] = field(default_factory=dict)

    def axis(self, name: str, length: int) -> str:
        self.extents[name] = Extent(name, Count(length), length)
        return name

    def tile(self, name: str, *shape: int, rotor: str = "") -> None:
        place = len(self.buffers)
        size = 1 << 14
        slots = SLOTS if rotor else 1
        self.buffers[name] = Buffer(
            name, "scratchpad", shape, "i8", slots=slots, rotor=rotor, place=place,
            address=place * size, pitch=size // SLOTS,
        )  # fmt: skip

    def tensor(self, name: str, *shape: int, stored: bool = False) -> None:
        self.buffers[name] = Buffer(name, "dram", shape, "i8", "output" if stored else "input")

    def operand(self, buffer: str, *ranges: str) -> Operand:
        return Operand(buffer, tuple(Dimension((Term(name),)) for name in ranges))

    def copy(self, name: str, source: Operand, target: Operand) -> Issue:
        self.opcodes[name] = Opcode(name, name, "", name)
        return Issue(name, name, (source,), (target,))

    def issue(self, name: str, reads: tuple[Operand, ...], write: Operand, **axes: str) -> Issue:
        meaning = LIBRARY[name]
        self.opcodes[name] = Opcode(
            name,
            name,
            meaning.meaning,
            meaning.unit,
            binding=tuple((axis, (axis,)) for axis in meaning.axes),
            operands=tuple(operand.axes for operand in meaning.operands),
            results=tuple(output.axes for output in meaning.outputs),
            outputs=(0,),
        )
        return Issue(name, meaning.unit, reads, (write,), tuple(axes.items()))

    def program(self, *body: Statement) -> Program:
        section = Section("main", tuple(self.extents.values()), (Stage("stage", body),))
        return Program(
            "streams", "prototype", (), tuple(self.opcodes.values()),
            tuple(self.buffers.values()), (section,),
        )  # fmt: skip


def regular(issues: int) -> Program:
    """Matrix products of eight pieces, two loads and a product each, then an activation and a
    store; all tiles in four copies."""
    w = Writer()
    m, k, n = w.axis("m", 32), w.axis("k", 64), w.axis("n", 32)
    w.axis("o", issues // 26)
    w.axis("i", 8)
    w.tensor("a", 32, 64)
    w.tensor("b", 64, 32)
    w.tensor("d", 4096, stored=True)
    w.axis("x", 4096)
    w.tile("A", 32, 64, rotor="i1")
    w.tile("B", 64, 32, rotor="i1")
    w.tile("C", 32, 32, rotor="o1")
    w.tile("D", 4096, rotor="o1")
    piece = (
        w.copy("load", w.operand("a", m, k), w.operand("A", m, k)),
        w.copy("load", w.operand("b", k, n), w.operand("B", k, n)),
        w.issue(
            "product", (w.operand("A", m, k), w.operand("B", k, n)), w.operand("C", m, n),
            m=m, k=k, n=n,
        ),
    )  # fmt: skip
    return w.program(
        Loop(
            "o1",
            "o",
            1,
            (
                Loop("i1", "i", 1, piece),
                w.issue("activation", (w.operand("C", m, n),), w.operand("D", "x"), m="x"),
                w.copy("store", w.operand("D", "x"), w.operand("d", "x")),
            ),
        )
    )


def random(issues: int, seed: int = 1, body: int = 500) -> Program:
    """`body` random issues on 64 tiles, again and again: two fifths each products and copies."""
    source, w = Random(seed), Writer()
    w.axis("r", issues // body)
    w.axis("m", 8)
    w.axis("k", 8)
    w.axis("n", 8)
    sizes = [64 * source.randrange(1, 128) for _ in range(KINDS)]
    for kind, size in enumerate(sizes):
        w.tensor(f"a{kind}", size)
        w.axis(f"s{kind}", size)
    w.tensor("d", 1 << 13, stored=True)
    for tile in range(64):
        w.tile(f"t{tile}", 1 << 13)
    items: list[Statement] = []
    for _ in range(body):
        x, y, z = (f"t{source.randrange(64)}" for _ in range(3))
        kind, draw = source.randrange(KINDS), source.random()
        if draw < 0.24:
            over = f"s{kind}"
            items.append(w.copy("load", w.operand(f"a{kind}", over), w.operand(z, over)))
        elif draw < 0.4:
            over = f"s{kind}"
            items.append(w.copy("store", w.operand(x, over), w.operand("d", over)))
        elif draw < 0.6:
            reads = (w.operand(x, "m"),)
            items.append(w.issue(f"activation{kind}", reads, w.operand(z, "m"), m="m"))
        else:
            both = w.operand(x, "m"), w.operand(y, "k")
            items.append(w.issue(f"product{kind}", both, w.operand(z, "n"), m="m", k="k", n="n"))
    return w.program(Loop("r1", "r", 1, tuple(items)))
