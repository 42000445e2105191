"""Issues as calls: of kernels, of bodies that are native code, of Python."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from infinisa.isa.instruction import Instruction
from infinisa.isa.language import Affine, Axis, Input, Scan, Size, walk
from infinisa.isa.program import Issue, Opcode, Operand

from ..code.ir import Function, Number, Value, constant, number
from ..contraction.weights import Layout
from ..kernels.kernel import Access, Shape, axes_of, bordered, moving, needs_starts
from ..restricted import RestrictedError
from ..rewriting.shares import fixed
from .addresses import Addresses, Span
from .kernels import Meaning, rowwise
from .plan import (
    CALL_HEAD,
    CORE,
    FAILED,
    FAULT,
    FAULTY,
    ISSUE,
    OUT_OF_BOUNDS,
    STATUS,
)

LARGE = 8 << 20
"""Bytes of a result that are not left to the caches: most would be gone before anybody reads."""


class Calls(Addresses):
    """Writes the calls of the issues of a section."""

    def compute(self, issue: Issue, opcode: Opcode, meaning: Meaning | None) -> None:
        if meaning is None:
            self.copy(issue)
        else:
            self.call(issue, opcode, meaning)

    def call(self, issue: Issue, opcode: Opcode, meaning: Meaning) -> None:
        """Call the kernel of an issue."""
        spans = self.axes(issue, meaning.given, opcode)
        names = meaning.names
        axes = {names[axis]: span for axis, span in spans.items() if axis in names}
        dims = [
            tuple(names.get(axis, axis) for axis in dimensions)
            for dimensions in (*opcode.operands, *opcode.results)
        ]
        axes |= {axis: span for axis, span in spans.items() if axis not in names}
        sizes = {
            names.get(axis, axis): self.ranges[axis].length
            for axis in sizes_of(meaning.given)
            if axis in self.ranges
        }
        reads, writes = self.accesses(issue, dims, axes)
        self.invoke(issue, meaning, reads, writes, axes, sizes, opcode.outputs)

    def axes(self, issue: Issue, meaning: Instruction, opcode: Opcode) -> dict[Axis, Span]:
        """Every axis of an instruction as it stands."""
        found = {
            axis: Span(run.start, run.length, run.bound)
            for axis, run in ((a, self.ranges[name]) for a, name in issue.axes)
        }
        for (_, axis), index in meaning.windows.items():
            if axis not in found:
                found[axis] = window(self.f, index, found)
        for operand, names in zip(issue.reads, opcode.operands, strict=True):
            for axis, (_, length, bound) in zip(names, self.region(operand), strict=True):
                if axis and axis not in found:
                    found[axis] = Span(0, length, bound)
        return found

    def accesses(
        self,
        issue: Issue,
        names: Sequence[tuple[Axis, ...]],
        axes: Mapping[Axis, Span],
    ) -> tuple[tuple[Access, ...], tuple[Access, ...]]:
        """The operands of an issue without names, so that like issues share a kernel."""
        buffers: dict[object, int] = {}
        regions: dict[object, int] = {}
        found: list[Access] = []
        every = *issue.reads, *issue.writes
        for operand, dims in zip(every, names, strict=True):
            alike = [other for other in every if other.buffer == operand.buffer]
            written = len(found) >= len(issue.reads)
            buffer = self.program.buffer[operand.buffer]
            filled = operand.fill is not None
            moving = {axis for axis in dims if axis in axes and axes[axis].length != 1}
            strides = [
                stride if filled or axis in moving else 0
                for axis, stride in zip(dims, self.strides(buffer), strict=True)
            ]
            where = operand.buffer, operand.dimensions
            found.append(
                Access(
                    buffer.dtype,
                    dims,
                    tuple(strides),
                    self.extents(operand) if filled else (),
                    operand.fill,
                    buffers.setdefault((operand.buffer, fixed(operand, alike)), len(buffers)),
                    regions.setdefault(where, len(regions)),
                    self.weight(operand),
                    written and self.past(operand),
                )
            )
        return tuple(found[: len(issue.reads)]), tuple(found[len(issue.reads) :])

    def extents(self, operand: Operand) -> tuple[int, ...]:
        """`Access.extents`: 0 where a region is known to be inside of its buffer."""
        shape = self.program.buffer[operand.buffer].shape
        return tuple(
            0 if isinstance(start, int) and 0 <= start <= extent - bound else extent
            for (start, _, bound), extent in zip(self.region(operand), shape, strict=True)
        )

    def past(self, operand: Operand) -> bool:
        """`Access.past`: a large result that nothing reads."""
        buffer, lanes = self.program.buffer[operand.buffer], self.kernels.target.lanes
        if buffer.kind != "output" or buffer.bytes < LARGE or buffer.name in self.kernels.read:
            return False
        start, _, _ = self.region(operand)[-1]
        even = isinstance(start, int) and start % lanes == 0 and buffer.shape[-1] % lanes == 0
        return even and buffer.dtype == "f32" and lanes > 1

    def weight(self, operand: Operand) -> tuple[tuple[int, int], ...]:
        """`Access.weight`, if a session may keep the operand in another layout."""
        if operand.buffer not in self.kernels.weights:
            return ()
        found = []
        starts, shape = self.region(operand), self.program.buffer[operand.buffer].shape
        pairs = zip(operand.dimensions, starts, shape, strict=True)
        for dimension, (start, _, _), extent in pairs:
            parts = [self.ranges[term.range].divisor * term.stride for term in dimension.terms]
            based = any(term.base or term.stride < 0 for term in dimension.terms)
            divisor = 1 if based else math.gcd(dimension.offset, *parts)
            found.append((extent, 0 if start == 0 else divisor or extent))
        return tuple(found)

    def invoke(
        self,
        issue: Issue,
        meaning: Meaning,
        reads: tuple[Access, ...],
        writes: tuple[Access, ...],
        axes: Mapping[Axis, Span],
        sizes: Mapping[Axis, Number],
        outputs: tuple[int, ...],
    ) -> None:
        used = [axis for axis in axes_of(meaning.plain) if axis in axes]
        used += [a for w in writes for a in w.axes if a and a in axes]
        written = meaning.written
        used += [axis for axis in (written.axes if written else ()) if axis in axes]
        used = list(dict.fromkeys(used))
        starts = needs_starts(meaning.plain) or (written is not None and written.wants_starts)
        fresh, again = self.fresh(issue)
        rows = rowwise(meaning.plain)
        shape = Shape(
            meaning.key,
            reads,
            writes,
            tuple(
                (a, _start(axes[a], rows) if starts else 0, _known(axes[a].length)) for a in used
            ),
            tuple((a, _known(size)) for a, size in sizes.items()),
            tuple((a, max(axes[a].bound, 1)) for a in used),
            outputs,
            fresh,
            written,
        )
        made = self.kernels.kernel(shape, meaning.plain)
        arguments: list[tuple[str, Number]] = [("ptr", self.given["work"])]
        for i, (operand, access) in enumerate(zip(issue.reads, reads, strict=True)):
            arguments += self.reading(operand, access, made.packings.get(i), i in made.plain)
        for operand, access in zip(issue.writes, writes, strict=True):
            arguments += self.operand(operand, access)
        for axis, first, length in made.shape.axes:
            arguments += [("i64", axes[axis].start)] if first is None else []
            arguments += [("i64", axes[axis].length)] if length is None else []
        arguments += [("i64", size) for size in sizes.values() if not isinstance(size, int)]
        if fresh is None:
            arguments.append(("i64", again))
        if not written:
            self.f.run(made.name, arguments)
            return
        with self.may_fail(issue) as fault:
            self.f.run(made.name, [*arguments, ("ptr", fault)])

    def operand(self, operand: Operand, access: Access) -> list[tuple[str, Number]]:
        """The arguments that say where an operand is."""
        starts = [start for start, _, _ in self.region(operand)]
        pointer = self.pointer(self.program.buffer[operand.buffer], starts)
        return [("ptr", pointer), *(("i64", starts[d]) for d in bordered(access))]

    def reading(
        self, operand: Operand, access: Access, layout: Layout | None, plain: bool
    ) -> list[tuple[str, Number]]:
        """The same for what is read: of a weight where it came in, and where it is packed."""
        if not access.weight:
            return self.operand(operand, access)
        f, nowhere = self.f, Value("null", "ptr")
        packed = nowhere
        firsts: list[tuple[str, Number]] = [("i64", 0)] * len(moving(access))
        if layout is not None:
            place = self.place(layout, operand.buffer)
            packed = f.load(self.slot(self.given["buffers"], place), "ptr")
            region = self.region(operand)
            firsts = [("i64", region[d][0]) for d in moving(access)]
        there = self.operand(operand, access) if plain else [("ptr", nowhere)]
        return [*there, ("ptr", packed), *firsts]

    def fresh(self, issue: Issue) -> tuple[bool | None, Number]:
        """(whether states start anew, if that is known; else a number that is 0 if they do)."""
        if issue.fresh is None:
            return True, 0
        total: Value | None = None
        for name in issue.fresh:
            first = self.ranges[name].first
            if first is None or first.text == "0":
                continue
            total = first if total is None else self.f.binary("or", total, first)
        if total is None:
            return True, 0
        if total.constant:
            return False, 1
        some = self.f.compare("ne", total, constant("i64", 0))
        return None, self.f.convert("zext", some, "i64")

    def copy(self, issue: Issue) -> None:
        """A region to another, as an instruction that is its operand."""
        (read,), (write,) = issue.reads, issue.writes
        source, target = self.region(read), self.region(write)
        shared = min(len(source), len(target))
        names = [f"d{i}" for i in range(shared)]
        front = [""] * (len(source) - shared), [""] * (len(target) - shared)
        dtype = self.program.buffer[read.buffer].dtype
        leaf = Input("source", tuple(names), dtype)
        meaning = Instruction(name="copy", unit="", operands=(leaf,), outputs=(leaf,))
        axes = {
            name: Span(0, length, bound)
            for name, (_, length, bound) in zip(names, target[len(front[1]) :], strict=True)
        }
        dims = [(*front[0], *names), (*front[1], *names)]
        reads, writes = self.accesses(issue, dims, axes)
        self.invoke(issue, Meaning(meaning, meaning, {}), reads, writes, axes, {}, (0,))

    # -- instructions that may fail

    @contextmanager
    def may_fail(self, issue: Issue) -> Iterator[Value]:
        """What is called inside may leave a fault there, which then ends the entry."""
        f, area, emission = self.f, self.given["call"], self.kernels.emission
        f.store(constant("i64", len(emission.plan.opaque)), self.slot(area, ISSUE))
        emission.plan.opaque.append(issue)
        fault = self.slot(area, FAULT)
        f.store(constant("i64", 0), fault)
        yield fault
        self.leave(f.compare("ne", f.load(fault, "i64"), constant("i64", 0)), FAULTY)

    def opaque(self, issue: Issue, meaning: Instruction) -> None:
        """Its body as native code if it can be, else in CPython."""
        operands = (*issue.reads, *issue.writes)
        names = [operand.buffer for operand in operands]
        self.kernels.emission.plan.plain.update(names)
        apart = all(names.count(operand.buffer) == 1 for operand in issue.writes)
        flat = [self.flat(operand) for operand in operands]
        if meaning.body and apart and all(run is not None for run in flat):
            kinds = [f"[{self.program.buffer[name].dtype}]" for name in names]
            try:
                name = self.kernels.emission.bodies.entry(meaning.body, kinds, len(issue.sets))
            except RestrictedError:
                pass
            else:
                self.native(issue, name, [run for run in flat if run is not None])
                return
        self.callback(issue)

    def flat(self, operand: Operand) -> tuple[Value, Number] | None:
        """The address and length of a region, if it lies in one run."""
        buffer = self.program.buffer[operand.buffer]
        region = self.region(operand)
        total: Number = 1
        whole = True
        for (_, length, _), extent in zip(reversed(region), reversed(buffer.shape), strict=True):
            if not whole and length != 1:
                return None
            whole = whole and length == extent
            total = self.f.multiply(total, length)
        if operand.fill is not None:
            return None
        return self.pointer(buffer, [start for start, _, _ in region]), total

    def native(self, issue: Issue, name: str, runs: Sequence[tuple[Value, Number]]) -> None:
        """Call a body; what it returns becomes parameters, a fault ends the entry."""
        f, area, emission = self.f, self.given["call"], self.kernels.emission
        emission.plan.area = max(emission.plan.area, CALL_HEAD + len(issue.sets))
        arguments: list[tuple[str, Number]] = []
        for pointer, length in runs:
            arguments += [("ptr", pointer), ("i64", length)]
        with self.may_fail(issue) as fault:
            arguments += [("ptr", self.slot(area, CALL_HEAD)), ("ptr", fault)]
            f.call_outside(name, arguments)
        for place, parameter in enumerate(issue.sets):
            index = self.places[parameter]
            value = f.load(self.slot(area, CALL_HEAD + place), "i64")
            f.store(constant("i64", index), fault)
            most = constant("i64", self.program.parameters[index].most)
            self.leave(f.compare("ugt", value, most), OUT_OF_BOUNDS)
            f.store(value, self.slot(self.given["parameters"], index))

    def callback(self, issue: Issue) -> None:
        """Hand the regions to Python, which does the rest."""
        f, emission = self.f, self.kernels.emission
        area = self.given["call"]
        f.store(constant("i64", len(emission.plan.opaque)), self.slot(area, ISSUE))
        f.store(number(self.core), self.slot(area, CORE))
        emission.plan.opaque.append(issue)
        values: list[Number] = []
        for operand in (*issue.reads, *issue.writes):
            buffer = self.program.buffer[operand.buffer]
            turns = self.ranges[buffer.rotor].turns if buffer.slots > 1 else None
            values.append(
                0 if turns is None else f.emit("i64", 1, f"urem i64 {turns.text}, {buffer.slots}")
            )
            for start, length, _ in self.region(operand):
                values += [start, length]
        emission.plan.area = max(emission.plan.area, CALL_HEAD + len(values))
        for place, value in enumerate(values):
            f.store(number(value), self.slot(area, CALL_HEAD + place))
        f.line(f"call void {self.given['callback'].text}()")
        status = f.load(self.slot(area, STATUS), "i64")
        self.leave(f.compare("ne", status, constant("i64", 0)), FAILED)


def _known(value: Number) -> int | None:
    return value if isinstance(value, int) else None


def _start(span: Span, rows: bool) -> int | None:
    """Where a range begins, if a kernel is to know: one of rows whose number it does not know
    serves them wherever they are."""
    return None if rows and not isinstance(span.length, int) else _known(span.start)


def sizes_of(meaning: Instruction) -> list[Axis]:
    """The axes whose whole extent an instruction wants."""
    found: dict[Axis, None] = {}
    for node in walk(meaning.outputs):
        if isinstance(node, Size):
            found[node.axis] = None
        if isinstance(node, Scan):
            for inner in walk((*node.body.next, *node.body.emits)):
                if isinstance(inner, Size):
                    found[inner.axis] = None
    return list(found)


def window(f: Function, index: Affine, known: Mapping[Axis, Span]) -> Span:
    """The positions that an affine index takes while its axes run over their ranges."""
    start: Number = index.offset
    length: Number = 1
    bound = 1
    for axis, stride in index.terms:
        given = known[axis]
        steps = f.subtract(given.length, 1)
        low = given.start if stride > 0 else f.add(given.start, steps)
        start = f.add(start, f.multiply(low, stride))
        length = f.add(length, f.multiply(steps, abs(stride)))
        bound += abs(stride) * (given.bound - 1)
    return Span(start, length, bound)
