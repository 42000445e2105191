"""A program: sections of stages of loops over issues on buffers. Nothing is unrolled.

A *range* is a run of positions (start, length). The axes of a section are its outermost ranges:
their start and length are numbers or follow from parameters, such as a prompt's length. A loop
*narrows* a range: `for s1 in s step 128` makes of it the pieces (start + 128 i, min(128, rest)).
So tails, run-time lengths and last cores need no case of their own, every address is affine, and a
piece never leaves the range it came from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from operator import attrgetter
from typing import Literal, NamedTuple, TypeAlias

from .dtypes import DTYPES
from .errors import ProgramError
from .language import Axis

Kind = Literal["input", "weight", "state", "output", "temporary"]


@dataclass(frozen=True)
class Count:
    """A number known when a section starts: a constant plus multiples of parameters."""

    constant: int = 0
    terms: tuple[tuple[str, int], ...] = ()

    def value(self, parameters: Mapping[str, int]) -> int:
        return self.constant + sum(factor * parameters[name] for name, factor in self.terms)

    def __add__(self, other: Count | int) -> Count:
        if isinstance(other, int):
            return Count(self.constant + other, self.terms)
        factors = dict(self.terms)
        for name, factor in other.terms:
            factors[name] = factors.get(name, 0) + factor
        return Count(self.constant + other.constant, tuple((n, f) for n, f in factors.items() if f))

    def __mul__(self, factor: int) -> Count:
        return Count(self.constant * factor, tuple((n, f * factor) for n, f in self.terms))

    def __str__(self) -> str:
        terms = [name if factor == 1 else f"{factor}*{name}" for name, factor in self.terms]
        if self.constant or not terms:
            terms.append(str(self.constant))
        return " + ".join(terms).replace("+ -", "- ")


def parameter(name: str) -> Count:
    return Count(0, ((name, 1),))


@dataclass(frozen=True)
class Extent:
    """An axis of a section: at most `most` positions, all before `end`."""

    axis: Axis
    length: Count
    most: int
    start: Count = Count()
    end: int = -1  # -1: start is 0, so the end is `most`

    @property
    def bound(self) -> int:
        return self.most if self.end < 0 else self.end


@dataclass(frozen=True)
class Term:
    """`stride * position in range`, from the least that this is in `base`; base "" counts from 0.

    With a negative stride the region of a range begins at the range's last position.
    """

    range: str
    base: str = ""
    stride: int = 1


@dataclass(frozen=True)
class Dimension:
    """The positions of one dimension: from the least sum of the terms, plus an offset, to the
    greatest."""

    terms: tuple[Term, ...] = ()
    offset: int = 0


@dataclass(frozen=True)
class Operand:
    """A region of a buffer. With a `fill`, positions outside read as that number."""

    buffer: str
    dimensions: tuple[Dimension, ...]
    fill: float | None = None


@dataclass(frozen=True)
class Opcode:
    """An instruction as this program uses it.

    instruction  its name; "load" and "store" copy between memories
    meaning      the hash of its definition: another definition of that name is refused
    binding      its axes as axes of this program
    operands     the axis of each dimension of each read; "" is a single position, not an axis
    results      the same for each write
    outputs      which output of the instruction each write takes
    limits       how much of an axis one issue takes at most
    formats      the element types that immediates are written in, if not as 64 bits
    """

    name: str
    instruction: str
    meaning: str
    unit: str
    binding: tuple[tuple[Axis, tuple[Axis, ...]], ...] = ()
    immediates: tuple[tuple[str, float | int], ...] = ()
    operands: tuple[tuple[Axis, ...], ...] = ()
    results: tuple[tuple[Axis, ...], ...] = ()
    outputs: tuple[int, ...] = ()
    limits: tuple[tuple[Axis, int], ...] = ()
    formats: tuple[tuple[str, str], ...] = ()


COPIES = ("load", "store")


@dataclass(frozen=True)
class Issue:
    """One issue of an opcode.

    axes    which range each axis of the opcode runs over
    fresh   accumulate: start anew when all these ranges are at their first piece (None: it does
            not accumulate)
    sets    parameters that the instruction returns
    """

    opcode: str
    unit: str
    reads: tuple[Operand, ...]
    writes: tuple[Operand, ...]
    axes: tuple[tuple[Axis, str], ...] = ()
    fresh: tuple[str, ...] | None = None
    sets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Loop:
    """Pieces of `step` positions of range `parent`, one after the other.

    ahead   issues that run one turn early: ahead(0); for i: ahead(i + 1), body(i)
    spread  piece i belongs to core i (pieces are then multiples of `step`)
    reverse the last piece first, as a recurrence from the end does
    """

    range: str
    parent: str
    step: int
    body: tuple[Statement, ...]
    ahead: tuple[Issue, ...] = ()
    spread: bool = False
    reverse: bool = False


Statement: TypeAlias = Loop | Issue


@dataclass(frozen=True)
class Buffer:
    """Memory for a tensor or a tile of one.

    kind     input, weight, output: bound by name from outside; state: kept between sections and
             turns, starts as `initial` (on chip: whenever a stage starts in which it is alive);
             temporary: starts as nothing
    slots    copies that turn with loop `rotor`: slot = turns of that loop so far, modulo slots
    place    buffers of one place are never alive together: hazards are tracked on (place, slot)
    address  in bytes, of slot 0; `pitch` bytes from slot to slot (both belong to the place)
    content  a hash that names a weight in the store
    """

    name: str
    memory: str
    shape: tuple[int, ...]
    dtype: str
    kind: Kind = "temporary"
    slots: int = 1
    rotor: str = ""
    place: int = -1
    address: int = 0
    pitch: int = 0
    initial: float = 0.0
    content: str = ""

    @property
    def bytes(self) -> int:
        size = DTYPES[self.dtype].size
        for extent in self.shape:
            size *= extent
        return size

    @property
    def outer(self) -> bool:
        """Whether it lives outside the chip: it has no place."""
        return self.place < 0


@dataclass(frozen=True)
class Stage:
    """Nothing of a stage starts before the one before it has ended, on all cores.

    lifetimes: for each buffer placed on chip, the first and one past the last of the positions
    (numbers of calls in this stage) at which it is alive.
    """

    name: str
    body: tuple[Statement, ...]
    lifetimes: tuple[tuple[str, int, int], ...] = ()


@dataclass(frozen=True)
class Repeat:
    """Run a section `count` times; parameter `counter` counts from 0."""

    counter: str
    count: Count


@dataclass(frozen=True)
class Section:
    """Stages under one set of axes, such as the prefill or one decoding step of a model.

    tokens  how many tokens a turn works on, for throughput; 0 where that means nothing
    """

    name: str
    extents: tuple[Extent, ...]
    stages: tuple[Stage, ...]
    repeat: Repeat | None = None
    tokens: Count = Count()

    @cached_property
    def axes(self) -> Mapping[Axis, Extent]:
        return {extent.axis: extent for extent in self.extents}


@dataclass(frozen=True)
class Parameter:
    """A number that is known when the program runs: 0 to `most`.

    `default` is what a timing-only simulation assumes; `given` says that the caller sets it (else
    an instruction or a repeated section does).
    """

    name: str
    most: int
    default: int
    given: bool = True


@dataclass(frozen=True)
class Program:
    """What a model became for a machine. Weights are named by hash, not held."""

    name: str
    machine: str
    parameters: tuple[Parameter, ...]
    opcodes: tuple[Opcode, ...]
    buffers: tuple[Buffer, ...]
    sections: tuple[Section, ...]

    @cached_property
    def opcode(self) -> Mapping[str, Opcode]:
        return {opcode.name: opcode for opcode in self.opcodes}

    @cached_property
    def buffer(self) -> Mapping[str, Buffer]:
        return {buffer.name: buffer for buffer in self.buffers}

    @cached_property
    def likes(self) -> tuple[tuple[Like, ...], ...]:
        """For each stage of each section, which stages of the section it is like."""
        texts = _Texts(self.buffers)
        return tuple(texts.likes(section) for section in self.sections)

    def of_kind(self, kind: Kind) -> tuple[Buffer, ...]:
        return tuple(buffer for buffer in self.buffers if buffer.kind == kind)


# ---------------------------------------------------------------- stages that are alike


class Like(NamedTuple):
    """Stages of a section are alike if they have one text but for the names of buffers, and these
    buffers differ in names and contents only, as those of repeated layers do.

    first    the number of the first stage that this one is like
    buffers  the names of its buffers in order of appearance
    """

    first: int
    buffers: tuple[str, ...]


_nameless = attrgetter(*(f.name for f in fields(Buffer) if f.name not in ("name", "content")))
"""All that a buffer is but for its name and content."""


class _Texts:
    """Writes texts of stages with numbers for names of buffers."""

    def __init__(self, buffers: Iterable[Buffer]) -> None:
        self.numbers: dict[object, int] = {}
        self.known: dict[int, int] = {}
        self.buffers = {buffer.name: self._number(_nameless(buffer)) for buffer in buffers}

    def likes(self, section: Section) -> tuple[Like, ...]:
        first: dict[tuple[object, ...], int] = {}
        found = []
        for number, stage in enumerate(section.stages):
            text, names = self.text(stage)
            found.append(Like(first.setdefault(text, number), names))
        return tuple(found)

    def text(self, stage: Stage) -> tuple[tuple[object, ...], tuple[str, ...]]:
        """The text of a stage, and the names of its buffers."""
        names: dict[str, int] = {}
        found: list[object] = []
        waiting: list[Statement | None] = [*reversed(stage.body)]
        while waiting:
            match waiting.pop():
                case Loop(name, parent, step, body, ahead, spread, reverse):
                    found.append((name, parent, step, len(ahead), spread, reverse))
                    waiting += (None, *reversed(body), *reversed(ahead))
                case Issue(opcode, unit, reads, writes, axes, fresh, sets):
                    found.append((opcode, unit, axes, fresh, sets, len(reads)))
                    for operand in (*reads, *writes):
                        found += (self._operand(operand, names), operand.fill)
                case None:
                    found.append(None)
        for name, begin, end in stage.lifetimes:
            found += (names.setdefault(name, len(names)), begin, end)
        found += [self.buffers.get(name, name) for name in names]
        return tuple(found), tuple(names)

    def _operand(self, operand: Operand, names: dict[str, int]) -> tuple[int, int]:
        """Its buffer and its dimensions; like stages share these, so they are compared once."""
        number = self.known.get(id(operand.dimensions))
        if number is None:
            number = self.known[id(operand.dimensions)] = self._number(operand.dimensions)
        return names.setdefault(operand.buffer, len(names)), number

    def _number(self, thing: object) -> int:
        return self.numbers.setdefault(thing, len(self.numbers))


def statements(items: Iterable[Statement]) -> Iterator[Statement]:
    """Every loop and issue, once, outer before inner."""
    for item in items:
        yield item
        if isinstance(item, Loop):
            yield from item.ahead
            yield from statements(item.body)


# ---------------------------------------------------------------- the dynamic stream


class Piece(NamedTuple):
    """A range as it stands: its positions, its number in its loop, turns of that loop so far."""

    start: int
    length: int
    number: int = 0
    turns: int = 0


Ranges: TypeAlias = dict[str, Piece]


def defaults(program: Program, given: Mapping[str, int] | None = None) -> dict[str, int]:
    """Values of all parameters; ProgramError for an unknown one or one out of range."""
    values = {p.name: p.default for p in program.parameters}
    for name, value in (given or {}).items():
        if name not in values:
            known = ", ".join(values) or "none"
            raise ProgramError(f"parameter {name!r}: must be one of {known}")
        values[name] = value
    for p in program.parameters:
        if not 0 <= values[p.name] <= p.most:
            raise ProgramError(f"parameter {p.name!r}: must be 0 to {p.most}, not {values[p.name]}")
    return values


def extents(section: Section, parameters: Mapping[str, int]) -> Ranges:
    """The outermost ranges of a section; ProgramError if a parameter makes one too long."""
    found: Ranges = {}
    for extent in section.extents:
        start, length = extent.start.value(parameters), extent.length.value(parameters)
        length = max(length, 0)
        if length > extent.most or start < 0 or start + length > extent.bound:
            names = dict.fromkeys(name for name, _ in (*extent.start.terms, *extent.length.terms))
            because = "".join(f"; {name} is {parameters[name]}" for name in names)
            raise ProgramError(
                f"section {section.name!r}: axis {extent.axis!r} must have at most {extent.most} "
                f"positions before {extent.bound}, not {length} from {start}{because}"
            )
        found[extent.axis] = Piece(start, length)
    return found


def turns(section: Section, parameters: dict[str, int]) -> Iterator[int]:
    """The turns of a section; sets its counter in `parameters` before each."""
    if section.repeat is None:
        yield 0
        return
    for turn in range(max(0, section.repeat.count.value(parameters))):
        parameters[section.repeat.counter] = turn
        yield turn


def stream(
    stage: Stage, outermost: Ranges, core: int = 0, cores: int = 1
) -> Iterator[tuple[Issue, Ranges]]:
    """The issues of one core in program order, with the ranges as they stand.

    The ranges are one dictionary that changes from issue to issue: copy what is kept.
    """
    ranges = dict(outermost)
    done: dict[str, int] = {}

    def spread(item: Loop) -> Iterator[tuple[Issue, Ranges]]:
        start, length = ranges[item.parent][:2]
        share = core_share(length, item.step, cores)
        if core * share < length:
            piece = Piece(start + core * share, min(share, length - core * share))
            ranges[item.range] = piece
            yield from each(item.body)

    def each(items: Iterable[Statement]) -> Iterator[tuple[Issue, Ranges]]:
        for item in items:
            if isinstance(item, Issue):
                yield item, ranges
            elif item.spread:
                yield from spread(item)
            else:
                yield from loop(item)

    def loop(item: Loop) -> Iterator[tuple[Issue, Ranges]]:
        start, length = ranges[item.parent][:2]
        trips, before = -(-length // item.step), done.get(item.range, 0)
        done[item.range] = before + trips

        def piece(n: int) -> Piece:
            i = trips - 1 - n if item.reverse else n
            most = length - i * item.step
            return Piece(start + i * item.step, min(item.step, most), n, before + n)

        for n in range(trips):
            if item.ahead and n == 0:
                ranges[item.range] = piece(0)
                yield from each(item.ahead)
            if item.ahead and n + 1 < trips:
                ranges[item.range] = piece(n + 1)
                yield from each(item.ahead)
            ranges[item.range] = piece(n)
            yield from each(item.body)

    spreads = any(isinstance(item, Loop) and item.spread for item in stage.body)
    if core == 0 or spreads:
        yield from each(stage.body)


def core_share(length: int, step: int, cores: int) -> int:
    """Positions that one core gets of a range dealt out in multiples of `step`."""
    share = -(-length // cores)
    return max(-(-share // step) * step, 1)


def region(operand: Operand, ranges: Mapping[str, Piece]) -> list[tuple[int, int]]:
    """(start, length) of each dimension of an operand's buffer; (0, 0) over an empty range."""
    found = []
    for dimension in operand.dimensions:
        start, length = dimension.offset, 1
        for term in dimension.terms:
            piece = ranges[term.range]
            base = least(term.stride, ranges[term.base]) if term.base else 0
            start += least(term.stride, piece) - base
            length += abs(term.stride) * (piece.length - 1)
        empty = any(not ranges[term.range].length for term in dimension.terms)
        found.append((0, 0) if empty else (start, length))
    return found


def least(stride: int, piece: Piece) -> int:
    """The least of `stride * position` in a range."""
    return stride * (piece.start if stride > 0 else piece.start + piece.length - 1)


def slot(buffer: Buffer, ranges: Mapping[str, Piece]) -> int:
    return ranges[buffer.rotor].turns % buffer.slots if buffer.slots > 1 else 0


def hazard(buffer: Buffer, ranges: Mapping[str, Piece]) -> tuple[str | int, int]:
    """What dependencies are tracked on: (place, slot) on chip, the tensor's name outside."""
    return (buffer.name, 0) if buffer.outer else (buffer.place, slot(buffer, ranges))


__all__ = ["COPIES", "Buffer", "Count", "Dimension", "Extent", "Issue", "Loop", "Opcode", "Operand",
           "Parameter", "Piece", "Program", "Ranges", "Repeat", "Section", "Stage", "Statement",
           "Term", "core_share", "defaults", "extents", "hazard", "parameter", "region", "replace",
           "slot", "statements", "stream", "turns"]  # fmt: skip
