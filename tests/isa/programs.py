"""Random valid programs: chains of calls on tensors, each call in a nest of loops of its own.

`random_programs` makes two from the same choices: a tiled one (loops, chip buffers that rotate,
loads ahead, cores) and one without loops or copies, which computes the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import numpy as np
from hypothesis import strategies as some
from numpy.typing import NDArray

from infinisa.isa.dtypes import DTYPES, is_float
from infinisa.isa.instance import find
from infinisa.isa.instruction import Instruction, opaque
from infinisa.isa.language import Axis, Input, dot, view
from infinisa.isa.machine import Machine, builtin_machine_files, load_machine
from infinisa.isa.program import (
    Buffer,
    Count,
    Dimension,
    Extent,
    Issue,
    Kind,
    Loop,
    Opcode,
    Operand,
    Parameter,
    Program,
    Repeat,
    Section,
    Stage,
    Statement,
    Term,
    core_share,
    parameter,
)
from infinisa.isa.verify import ALIGNMENT
from infinisa.plugins.families import elementwise, linear, normalization

MACHINES = {file.stem: load_machine(file) for file in builtin_machine_files()}
TINY = MACHINES["tiny"]


def _window(name: str, index: str) -> Instruction:
    """Every second place of a row, as a weighted sum of three neighbours; 0 beyond the ends."""
    x, weight = Input("x", ("m", "h")), Input("weight", ("r",))
    return Instruction(
        name=name,
        unit="matrix",
        operands=(x, weight),
        outputs=(dot(view(x, {"h": index}, fill=0.0), weight, over="r"),),
    )


def _keep_odd() -> Instruction:
    def keep_odd(x: Any, kept: Any) -> int:
        count = 0
        for number in x:
            if number % 2:
                kept[count] = number
                count += 1
        return count

    keep_odd.__annotations__ = {"x": "n: i32", "kept": "n: i32"}
    return opaque(unit="text", results={"kept": "n: i32"}, sets=("count",))(keep_odd)


LIBRARY: Mapping[str, Instruction] = {
    made.name: made
    for made in (
        *elementwise.infinisa_instructions(),
        *linear.infinisa_instructions(),
        *normalization.infinisa_instructions(),
        _window("window", "2*p + r - 1"),
        _window("window_from_end", "r - 2*p"),
        _window("window_backwards", "2*p - r + 1"),
        _keep_odd(),
    )
}


@dataclass(frozen=True)
class Index:
    """A dimension of an access: axes with strides, an offset, and what the opcode calls it."""

    terms: tuple[tuple[Axis, int], ...]
    offset: int = 0
    name: Axis = ""


Access = tuple[str, tuple[Index, ...]]
Loops = list[tuple[Axis, str, str, int]]
"""Outermost first: axis, name of the piece, name of what it is a piece of, step."""


@dataclass(frozen=True)
class Call:
    """An instruction over whole tensors. Axes in `whole` are not cut into pieces."""

    instruction: str
    binding: tuple[tuple[Axis, tuple[Axis, ...]], ...]
    reads: tuple[Access, ...]
    writes: tuple[Access, ...]
    whole: frozenset[Axis] = frozenset()
    reduced: frozenset[Axis] = frozenset()
    immediates: tuple[tuple[str, float], ...] = ()
    sets: tuple[str, ...] = ()

    @property
    def axes(self) -> tuple[Axis, ...]:
        indices = (i for _, access in (*self.reads, *self.writes) for i in access)
        return tuple(dict.fromkeys(axis for index in indices for axis, _ in index.terms))

    @property
    def accumulates(self) -> bool:
        return bool(find(self.instruction, LIBRARY).states)


def plain(*axes: Axis) -> tuple[Index, ...]:
    return tuple(Index(((axis, 1),), 0, axis) for axis in axes)


@dataclass
class Draft:
    """Two programs in the making: the same calls, tiled and not."""

    random: Random
    machine: Machine
    parameters: list[Parameter] = field(default_factory=list)
    buffers: dict[str, Buffer] = field(default_factory=dict)
    chips: dict[str, Buffer] = field(default_factory=dict)
    opcodes: dict[tuple[Opcode, tuple[str, ...]], Opcode] = field(default_factory=dict)
    absolute: set[str] = field(default_factory=set)
    extents: dict[Axis, Extent] = field(default_factory=dict)
    sections: list[tuple[Section, Section]] = field(default_factory=list)

    # -- choices

    def up_to(self, most: int, least: int = 0) -> int:
        return self.random.randint(least, most)

    def perhaps(self, percent: int = 50) -> bool:
        return self.random.randint(0, 99) >= 100 - percent

    def one_of(self, items: Sequence[str]) -> str:
        return items[self.random.randint(0, len(items) - 1)]

    # -- tensors

    def axis(self, length: int = 0) -> Axis:
        name = f"{'abcdefghij'[len(self.extents) % 10]}{len(self.extents) // 10 or ''}x"
        size = length or self.up_to(9, 1)
        self.extents[name] = Extent(name, Count(size), size)
        return name

    def tensor(self, name: str, axes: Sequence[Axis], kind: Kind, dtype: str = "f32") -> str:
        """A tensor outside the chip; only temporaries count from where an axis starts."""
        name = f"{name}{len(self.buffers)}"
        absolute = kind != "temporary"
        extents = [self.extents[axis] for axis in axes]
        shape = tuple(e.bound if absolute else e.most for e in extents)
        if absolute:
            self.absolute.add(name)
        content = f"{len(self.buffers):016x}" if kind == "weight" else ""
        memory = self.machine.dram.name
        self.buffers[name] = Buffer(name, memory, shape, dtype, kind, content=content)
        return name

    def weight(self, *axes: Axis) -> Access:
        dtype = self.one_of(("f32", "bf16", "f16"))
        return self.tensor("w", axes, "weight", dtype), plain(*axes)

    def result(self, axes: Sequence[Axis]) -> Access:
        return self.tensor("t", axes, "temporary"), plain(*axes)

    # -- calls

    def unary(self, x: Access) -> list[Call]:
        name = self.one_of(("relu", "silu", "negate", "scale"))
        axes = axes_of(x)
        numbers = (("y", 0.5),) if name == "scale" else ()
        out = self.result(axes)
        return [Call(name, (("m", axes),), (x,), (out,), immediates=numbers)]

    def binary(self, x: Access) -> list[Call]:
        axes = axes_of(x)
        other = self.weight(*(axis for axis in axes if self.perhaps(70)))
        name = self.one_of(("add", "multiply", "maximum"))
        return [Call(name, (("m", axes),), (x, other), (self.result(axes),))]

    def matmul(self, x: Access) -> list[Call]:
        *rows, k = axes_of(x)
        n = self.axis()
        binding = (("m", tuple(rows)), ("k", (k,)), ("n", (n,)))
        reads = (x, self.weight(k, n))
        out = self.result([*rows, n])
        if self.in_pieces(k):
            return [Call("matmul.step", binding, reads, (out,), reduced=frozenset({k}))]
        return [Call("matmul", binding, reads, (out,), whole=frozenset({k}))]

    def matmul_bias_relu(self, x: Access) -> list[Call]:
        """In two: a step that accumulates, and what finishes it."""
        *rows, k = axes_of(x)
        if not self.in_pieces(k):
            return self.matmul(x)
        n = self.axis()
        binding = (("m", tuple(rows)), ("k", (k,)), ("n", (n,)))
        total, out = self.result([*rows, n]), self.result([*rows, n])
        name = "matmul_bias_relu"
        reads = (x, self.weight(k, n))
        return [
            Call(f"{name}.step", binding, reads, (total,), reduced=frozenset({k})),
            Call(f"{name}.finish", binding, (total, self.weight(n)), (out,)),
        ]

    def in_pieces(self, axis: Axis) -> bool:
        """Whether to reduce an axis in pieces: one that may be empty would yield nothing so."""
        extent = self.extents[axis]
        return not extent.length.terms and self.perhaps(70)

    def softmax(self, x: Access) -> list[Call]:
        *rows, n = axes_of(x)
        binding = (("m", tuple(rows)), ("n", (n,)))
        return [Call("softmax", binding, (x,), (self.result([*rows, n]),), whole=frozenset({n}))]

    def reduce(self, x: Access) -> list[Call]:
        *rows, n = axes_of(x)
        if not rows or not self.in_pieces(n):
            return self.unary(x)
        binding = (("m", tuple(rows)), ("n", (n,)))
        name = self.one_of(("reduce_sum.step", "reduce_max.step"))
        return [Call(name, binding, (x,), (self.result(rows),), reduced=frozenset({n}))]

    def window(self, x: Access) -> list[Call]:
        name, indices = x
        *rows, last = indices
        (h,) = axes_of((name, (last,)))
        if h == "s":  # its length is not known
            return self.unary(x)
        p, r = self.axis((self.extents[h].most + 1) // 2), self.axis(3)
        axes = tuple(index.name for index in rows)
        kind = self.one_of(("window", "window_from_end", "window_backwards"))
        steps = {"window": (2, 1), "window_from_end": (-2, 1), "window_backwards": (2, -1)}[kind]
        offset = self.up_to(self.extents[h].most, -1)
        read = (name, (*rows, Index(((p, steps[0]), (r, steps[1])), offset, h)))
        binding = (("m", axes), ("h", (h,)), ("p", (p,)), ("r", (r,)))
        out = self.result([*axes, p])
        return [Call(kind, binding, (read, self.weight(r)), (out,), whole=frozenset({r}))]

    def embedding(self) -> list[Call]:
        v, d = self.axis(), self.axis()
        index = self.tensor("ids", ["s"], "input", "i32"), plain("s")
        binding = (("v", (v,)), ("d", (d,)), ("s", ("s",)))
        return [
            Call(
                "embedding",
                binding,
                (self.weight(v, d), index),
                (self.result(["s", d]),),
                whole=frozenset({v}),
            )
        ]

    def chain(self) -> list[Call]:
        """Calls of which each works on the result of the one before."""
        if self.perhaps(25):
            calls = self.embedding()
        else:
            axes = ["s", *(self.axis() for _ in range(self.up_to(2)))]
            calls = self.unary((self.tensor("x", axes, "input"), plain(*axes)))
        kinds = (
            self.unary, self.binary, self.matmul, self.matmul_bias_relu, self.softmax,
            self.reduce, self.window,
        )  # fmt: skip
        for _ in range(self.up_to(3)):
            calls += kinds[self.up_to(len(kinds) - 1)](calls[-1].writes[0])
        indices = calls[-1].writes[0][1]
        out = self.tensor("y", [index.name for index in indices], "output")
        return [*calls[:-1], replace(calls[-1], writes=((out, indices),))]

    # -- programs

    def section(self, number: int) -> None:
        """A chain over tokens s: a fixed or given number of them, or one in each of some turns."""
        self.extents = {}
        repeat, most = None, self.up_to(9, 1)
        kind = self.up_to(2)
        if kind == 1:
            self.parameters.append(Parameter(f"rows{number}", most, self.up_to(most)))
            self.extents["s"] = Extent("s", parameter(f"rows{number}"), most)
        elif kind == 2:
            self.parameters.append(Parameter(f"turn{number}", most - 1, 0, given=False))
            repeat = Repeat(f"turn{number}", Count(min(most, 3)))
            self.extents["s"] = Extent("s", Count(1), 1, parameter(f"turn{number}"), most)
        else:
            self.extents["s"] = Extent("s", Count(most), most)
        self.close(f"part{number}", self.chain(), repeat)

    def text(self) -> None:
        """An opaque instruction, and a chain over as many tokens as it found."""
        self.extents = {}
        n = self.axis()
        most = self.extents[n].most
        self.parameters.append(Parameter("count", most, 0, given=False))
        read = self.tensor("bytes", [n], "input", "i32"), plain(n)
        write = self.tensor("odd", [n], "output", "i32"), plain(n)
        binding = (("n", (n,)),)
        whole = frozenset({n})
        call = Call("keep_odd", binding, (read,), (write,), whole, sets=("count",))
        self.close("text", [call], None)
        self.extents = {"s": Extent("s", parameter("count"), most)}
        self.close("words", self.chain(), None)

    def close(self, name: str, calls: list[Call], repeat: Repeat | None) -> None:
        """Make the calls a section: some share a stage."""
        extents = tuple(self.extents.values())
        tiled: list[Stage] = []
        rest = list(calls)
        while rest:
            many = self.up_to(2, 1)
            group, rest = rest[:many], rest[many:]
            stage = StageDraft(self, f"{name}/{len(tiled)}", group)
            tiled.append(Stage(group[0].instruction, *stage.made()))
        whole = tuple(Stage(call.instruction, (self.issue(call, {}, {}, ()),)) for call in calls)
        tokens = (
            Count(1) if repeat else self.extents["s"].length if "s" in self.extents else Count()
        )
        self.sections.append(
            (
                Section(name, extents, tuple(tiled), repeat, tokens),
                Section(name, extents, whole, repeat, tokens),
            )
        )

    def issue(
        self,
        call: Call,
        ranges: Mapping[Axis, str],
        staged: Mapping[tuple[bool, int], tuple[str, Mapping[Axis, str]]],
        fresh: tuple[str, ...],
    ) -> Issue:
        """The call over these ranges; `staged` says which operands are on chip, over which."""

        def operand(writes: bool, number: int, access: Access) -> Operand:
            if (writes, number) in staged:
                return on_chip(access, ranges, *staged[writes, number])
            return self.outside(access, ranges)

        opcode = self.opcode(call)
        return Issue(
            opcode.name,
            opcode.unit,
            tuple(operand(False, n, access) for n, access in enumerate(call.reads)),
            tuple(operand(True, n, access) for n, access in enumerate(call.writes)),
            tuple((axis, ranges.get(axis, axis)) for axis in call.axes),
            fresh if call.accumulates else None,
            call.sets,
        )

    def outside(self, access: Access, ranges: Mapping[Axis, str]) -> Operand:
        name, indices = access
        dimensions = tuple(
            Dimension(
                tuple(
                    Term(ranges.get(axis, axis), self.base(name, axis), stride)
                    for axis, stride in index.terms
                ),
                index.offset,
            )
            for index in indices
        )
        window = any(len(index.terms) > 1 for index in indices)
        return Operand(name, dimensions, 0.0 if window else None)

    def base(self, tensor: str, axis: Axis) -> str:
        return "" if tensor in self.absolute else axis

    def opcode(self, call: Call) -> Opcode:
        definition = find(call.instruction, LIBRARY)
        types = tuple(self.buffers[name].dtype for name, _ in call.reads)
        made = Opcode(
            "",
            call.instruction,
            definition.meaning,
            definition.unit,
            call.binding,
            call.immediates,
            tuple(map(axes_of, call.reads)),
            tuple(map(axes_of, call.writes)),
            tuple(range(len(call.writes))),
            tuple((axis, self.extents[axis].most) for axis in call.axes),
        )
        name = f"{call.instruction}.{len(self.opcodes)}"
        return self.opcodes.setdefault((made, types), replace(made, name=name))

    def programs(self) -> tuple[Program, Program]:
        if self.perhaps(15):
            self.text()
        for number in range(self.up_to(2, 0 if self.sections else 1)):
            self.section(number)
        tiled, whole = zip(*self.sections, strict=True)
        copies = tuple(Opcode(name, name, "", name) for name in ("load", "store"))
        opcodes = (*(copies if self.chips else ()), *self.opcodes.values())
        outer = tuple(self.buffers.values())
        settings = ("random", self.machine.name, tuple(self.parameters))
        return (
            Program(*settings, opcodes, (*outer, *self.chips.values()), tiled),
            Program(*settings, tuple(self.opcodes.values()), outer, whole),
        )


def axes_of(access: Access) -> tuple[Axis, ...]:
    return tuple(index.name for index in access[1])


def on_chip(
    access: Access, ranges: Mapping[Axis, str], buffer: str, base: Mapping[Axis, str]
) -> Operand:
    """The access within a chip buffer that begins where the ranges `base` begin."""
    return Operand(
        buffer,
        tuple(
            Dimension(
                tuple(
                    Term(ranges.get(axis, axis), base.get(axis, axis), stride)
                    for axis, stride in index.terms
                )
            )
            for index in access[1]
        ),
    )


@dataclass
class Tile:
    """An operand of a call on chip: opened inside so many loops."""

    access: Access
    depth: int
    buffer: str
    base: Mapping[Axis, str]
    ahead: bool = False


class StageDraft:
    """Calls as nests of loops, one after the other."""

    def __init__(self, draft: Draft, name: str, calls: list[Call]) -> None:
        self.draft, self.name, self.calls = draft, name, calls
        self.names = set(draft.extents)
        self.lifetimes: list[tuple[str, int, int]] = []
        self.places: list[Buffer] = []

    def made(self) -> tuple[tuple[Statement, ...], tuple[tuple[str, int, int], ...]]:
        body: list[Statement] = []
        for number, call in enumerate(self.calls):
            body += self.nest(number, call)
        return tuple(body), tuple(self.lifetimes)

    def loops(self, call: Call) -> Loops:
        """Up to two loops over each axis that may be cut, in random order."""
        draft = self.draft
        cut = [axis for axis in call.axes if axis not in call.whole]
        order = [axis for axis in cut for _ in range(draft.up_to(2))]
        draft.random.shuffle(order)
        found: Loops = []
        inner: dict[Axis, tuple[str, int]] = {}
        for axis in order:
            parent, size = inner.get(axis, (axis, draft.extents[axis].most))
            name = axis
            while name in self.names:
                name += "'" if draft.perhaps(5) else "1"
            self.names.add(name)
            step = draft.up_to(max(size, 1), 1)
            found.append((axis, name, parent, step))
            inner[axis] = name, step
        return found

    def spreads(self, call: Call, loops: Loops) -> bool:
        """Whether the outermost loop may be dealt out over cores."""
        if len(self.calls) > 1 or not loops or self.draft.machine.cores == 1 or call.sets:
            return False
        axis = loops[0][0]
        written = all(axis in axes_of(access) for access in call.writes)
        return written and axis not in call.reduced and self.draft.perhaps(60)

    def nest(self, number: int, call: Call) -> list[Statement]:
        loops = self.loops(call)
        spread = self.spreads(call, loops)
        tiles = self.tiles(number, call, loops, spread)
        fresh = tuple(name for axis, name, _, _ in loops if axis in call.reduced)
        staged = {key: (tile.buffer, tile.base) for key, tile in tiles.items()}
        body: list[Statement] = [self.draft.issue(call, ranges_in(loops), staged, fresh)]
        for depth in range(len(loops), -1, -1):
            here = [(key, tile) for key, tile in tiles.items() if tile.depth == depth]
            loads = [self.copy("load", t) for (writes, _), t in here if not writes and not t.ahead]
            early = [self.copy("load", t) for (writes, _), t in here if not writes and t.ahead]
            stores = [self.copy("store", t) for (writes, _), t in here if writes]
            body = [*loads, *body, *stores]
            if depth:
                _, name, parent, step = loops[depth - 1]
                dealt = spread and depth == 1
                body = [Loop(name, parent, step, tuple(body), tuple(early), dealt)]
        return body

    def tiles(
        self, number: int, call: Call, loops: Loops, spread: bool
    ) -> dict[tuple[bool, int], Tile]:
        """Which operands are copied to the chip, and inside how many loops."""
        draft = self.draft
        if draft.machine.scratchpad.managed != "software" or call.sets:
            return {}
        reduced = [n for n, (axis, *_) in enumerate(loops) if axis in call.reduced]
        found = {}
        for writes, accesses in ((False, call.reads), (True, call.writes)):
            for operand, access in enumerate(accesses):
                if draft.perhaps(30):
                    continue
                most = min([len(loops), *reduced]) if writes else len(loops)
                depth = draft.up_to(most, 1 if spread else 0) if most >= spread else None
                if depth is None:
                    continue
                rotor = loops[depth - 1][1] if depth > spread and draft.perhaps() else ""
                base = ranges_in(loops[:depth])
                name = self.chip(number, access, loops[:depth], rotor, spread)
                ahead = bool(rotor) and not writes and draft.perhaps()
                found[writes, operand] = Tile(access, depth, name, base, ahead)
        return found

    def chip(self, number: int, access: Access, loops: Loops, rotor: str, spread: bool) -> str:
        """A chip buffer for a region; it may take the place of one of an earlier call."""
        draft = self.draft
        longest = {axis: extent.most for axis, extent in draft.extents.items()}
        for n, (axis, _, _, step) in enumerate(loops):
            piece = step
            if n == 0 and spread:
                piece = core_share(longest[axis], step, draft.machine.cores)
            longest[axis] = min(piece, longest[axis])
        shape = tuple(
            1 + sum(abs(stride) * (longest[axis] - 1) for axis, stride in index.terms)
            for index in access[1]
        )
        slots = 2 if rotor else 1
        dtype = draft.buffers[access[0]].dtype
        name = f"{self.name}/{access[0]}.{len(self.lifetimes)}"
        made = Buffer(name, draft.machine.scratchpad.name, shape, dtype, slots=slots, rotor=rotor)
        busy = {draft.chips[name].place for name, _, end in self.lifetimes if end > number}
        free = [
            b for b in self.places
            if b.place not in busy and b.slots == slots and b.pitch >= made.bytes
        ]  # fmt: skip
        if free and draft.perhaps():
            spot = free[0]
        else:
            pitch = -(-made.bytes // ALIGNMENT) * ALIGNMENT
            end = max((b.address + b.slots * b.pitch for b in self.places), default=0)
            spot = replace(made, place=len(self.places), address=end, pitch=pitch)
            self.places.append(spot)
        draft.chips[name] = replace(made, place=spot.place, address=spot.address, pitch=spot.pitch)
        self.lifetimes.append((name, number, number + 1))
        return name

    def copy(self, verb: str, tile: Tile) -> Issue:
        outer = self.draft.outside(tile.access, tile.base)
        inner = on_chip(tile.access, tile.base, tile.buffer, tile.base)
        ends = (outer, inner) if verb == "load" else (inner, outer)
        return Issue(verb, verb, (ends[0],), (ends[1],))


def ranges_in(loops: Loops) -> dict[Axis, str]:
    """The innermost range of each axis."""
    return {axis: name for axis, name, _, _ in loops}


def random_programs(random: Random, machine: Machine = TINY) -> tuple[Program, Program]:
    """A tiled program for a machine, and one without loops or copies that computes the same."""
    return Draft(random, machine).programs()


def program_pairs(machine: Machine = TINY) -> some.SearchStrategy[tuple[Program, Program]]:
    """Pairs as of `random_programs`."""
    randoms = some.randoms(use_true_random=False)
    return randoms.map(lambda random: random_programs(random, machine))


def programs(machine: Machine = TINY) -> some.SearchStrategy[Program]:
    """Tiled programs, valid for a machine."""
    return program_pairs(machine).map(lambda pair: pair[0])


def arrays(program: Program, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Values for the inputs and weights of a program."""
    random = np.random.default_rng(seed)
    return {
        buffer.name: random.normal(size=buffer.shape).astype(DTYPES[buffer.dtype].numpy)
        if is_float(buffer.dtype)
        else random.integers(0, 4, buffer.shape).astype(DTYPES[buffer.dtype].numpy)
        for buffer in program.buffers
        if buffer.kind in ("input", "weight")
    }
