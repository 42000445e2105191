"""What a session provides and native code expects: tables, places in them, memory."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from infinisa.isa.program import Buffer, Issue, Program, statements

from ..code.ir import Module
from ..contraction.weights import Layout
from ..restricted import Library
from ..threads import WORKER

OUT_OF_RANGE, FAILED, FAULTY, OUT_OF_BOUNDS = 1, 2, 3, 4
"""What an entry reports: a parameter makes an axis too long; an opaque instruction raised, or, as
native code, left a fault, or set a parameter to what it cannot be."""

STATUS, ISSUE, CORE, FAULT, CALL_HEAD = 0, 1, 2, 3, 4
"""Places in the call area: the status, the opaque issue's number and core, its fault (or the
number of the parameter); then its regions, or what it returns."""

PAGE = 4096

CONTEXT = ("parameters", "buffers", "ends", "work", "call", "callback", "team")
"""What an entry is given, as a table of addresses: parameters, addresses of buffers, how far
outputs were written, scratch memory, the call area, the function that runs opaque instructions, and
the words by which threads share work."""


@dataclass
class Plan:
    """What a session must provide to run a program's code.

    cores     whose parts run one after the other
    threads   among which large issues are divided
    entries   one function a section
    shared    names of sections that divide something
    opaque    the issues that run bodies, outside or as native code, by their numbers
    faults    what went wrong and where, by the number that native code leaves behind
    scratch   bytes of work memory of each thread
    area      numbers in the call area
    frame     numbers that a piece of an issue is given
    plain     weights that are read as they came in
    orders    of tensors that do not lie as they are declared, the dimensions from the outermost on
    packed    the place of a weight in a layout in the table of buffers
    fills     the function that fills a layout
    whole     tensors outside the chip in the place of tiles on it
    """

    cores: int
    threads: int
    entries: list[str] = field(default_factory=list)
    shared: set[str] = field(default_factory=set)
    opaque: list[Issue] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    scratch: int = 0
    area: int = CALL_HEAD
    frame: int = 0
    plain: set[str] = field(default_factory=set)
    orders: dict[str, tuple[int, ...]] = field(default_factory=dict)
    packed: dict[tuple[str, Layout], int] = field(default_factory=dict)
    fills: dict[Layout, str] = field(default_factory=dict)
    whole: dict[str, Buffer] = field(default_factory=dict)

    def over(self, program: Program) -> Program:
        """A program on the buffers that its code uses."""
        buffers = tuple(self.whole.get(buffer.name, buffer) for buffer in program.buffers)
        return replace(program, buffers=buffers) if self.whole else program

    @property
    def functions(self) -> list[str]:
        """Those that a session calls."""
        return [*self.entries, *self.fills.values(), *([WORKER] if self.shared else [])]


@dataclass
class Emission:
    """The code of a program.

    worth   operations that dividing an issue among threads must save
    bodies  the bodies of instructions that became native code
    """

    module: Module
    plan: Plan
    worth: int
    bodies: Library = field(default_factory=Library)


def output_dimensions(program: Program) -> dict[str, int]:
    """Where in the table of ends each output's dimensions begin."""
    found: dict[str, int] = {}
    total = 0
    for buffer in program.of_kind("output"):
        found[buffer.name] = total
        total += len(buffer.shape)
    return found


def chip_sizes(program: Program) -> dict[str, int]:
    """Bytes of each on-chip memory of one core."""
    sizes: dict[str, int] = {}
    for buffer in program.buffers:
        if not buffer.outer:
            end = buffer.address + max(buffer.slots * buffer.pitch, buffer.bytes)
            sizes[buffer.memory] = max(sizes.get(buffer.memory, 0), -(-end // PAGE) * PAGE)
    return sizes


def temporary_places(program: Program) -> tuple[int, dict[str, int]]:
    """(bytes, where in them each temporary outside the chip lies that one section alone uses).

    What no stage needs together shares memory, which so stays in caches: the smallest piece that is
    free and large enough, of equal ones the last that was used.
    """
    uses: dict[str, list[tuple[int, int]]] = {}
    for number, section in enumerate(program.sections):
        for place, stage in enumerate(section.stages):
            for item in statements(stage.body):
                if isinstance(item, Issue):
                    for operand in (*item.reads, *item.writes):
                        uses.setdefault(operand.buffer, []).append((number, place))
    alive = [
        (used[0], used[-1], buffer)
        for buffer in program.buffers
        if buffer.outer and buffer.kind == "temporary" and (used := uses.get(buffer.name))
        and used[0][0] == used[-1][0]
    ]  # fmt: skip
    places: dict[str, int] = {}
    total = 0
    taken: list[tuple[tuple[int, int], int, int]] = []
    free: list[tuple[int, int]] = []
    for first, last, buffer in sorted(alive, key=lambda one: one[0]):
        ended = [one for one in taken if one[0] < first]
        taken = [one for one in taken if one[0] >= first]
        free += [(size, at) for _, size, at in ended]
        size = -(-buffer.bytes // PAGE) * PAGE
        fitting = [piece for piece in reversed(free) if piece[0] >= size]
        if fitting:
            size, at = min(fitting, key=lambda piece: piece[0])
            free.remove((size, at))
        else:
            at, total = total, total + size
        places[buffer.name] = at
        taken.append((last, size, at))
    return total, places
