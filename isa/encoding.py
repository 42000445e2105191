"""Programs as bytes, and back: `decode(encode(program))` is the same program, and a program has one
encoding.

A file is: `IISA`, the version of the format, a checksum, and the body. In the body every whole
number is a variable-length one (7 bits a byte, lowest first; signed ones with the sign lowest). A
table of all strings comes first, sorted, each as how much of the one before it begins with and the
rest. Then follow, as lists, parameters, the opcode table (name, instruction, hash of its meaning,
binding, immediates), buffers and sections. An immediate is a whole number or an f64, or an element
of the type that its instruction's encoding says. Opcodes and buffers are numbered as they are
listed, so two plugins cannot claim one number. Words that come often (ranges, units, memories,
types) are numbered as they appear.

Nothing in a file is believed: a list may not be longer than the bytes that are left, nor a loop
deeper than `DEEPEST`.
"""

from __future__ import annotations

import hashlib
import operator
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NoReturn, TypeVar, get_args

import numpy as np

from .assembly import DEEPEST
from .dtypes import DTYPES, held, is_float
from .errors import ProgramError
from .machine import Machine
from .program import (
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
)

T = TypeVar("T")

MAGIC = b"IISA"
VERSION = 1
CHECKSUM = 8
HEADER = len(MAGIC) + 1 + CHECKSUM

LARGEST_FILE = 1 << 26
LONGEST_STRING = 1 << 10
ALL_STRINGS = 1 << 24
"""Bytes of all strings together: since they share beginnings, a file could ask for more."""

TYPES = tuple(DTYPES)
KINDS: tuple[Kind, ...] = get_args(Kind)
_HEX = re.compile(rb"(?:[0-9a-f]{2}){4,}")


def checksum(body: bytes) -> bytes:
    """What the header says of the body."""
    return hashlib.sha256(body).digest()[:CHECKSUM]


def identity(program: Program, machine: Machine) -> str:
    """A hash that a program on a machine shares only with an equal program on an equal machine."""
    return hashlib.sha256(encode(program) + machine.identity.encode()).hexdigest()


# ---------------------------------------------------------------- writing


def encode(program: Program) -> bytes:
    """The program as bytes; the same program gives the same bytes."""
    draft = Writer(program, None)
    draft.program(program)
    writer = Writer(program, sorted(draft.strings))
    writer.table()
    at = 0
    for start, stop, text in draft.places:  # all but the numbers of strings stays
        writer.out += draft.out[at:start]
        writer.natural(writer.strings[text])
        at = stop
    body = bytes(writer.out + draft.out[at:])
    return MAGIC + bytes([VERSION]) + checksum(body) + body


class Writer:
    """Appends the parts of a program to `out`.

    Without a table of strings it numbers them as they come; `places`: (start, stop) in `out` of
    every number of a string, and the string.
    """

    def __init__(self, program: Program, table: Sequence[str] | None) -> None:
        self.out = bytearray()
        self.strings: dict[str, int] = {text: n for n, text in enumerate(table or ())}
        self.places: list[tuple[int, int, str]] = []
        self.opcodes = {opcode.name: n for n, opcode in enumerate(program.opcodes)}
        self.buffers = {buffer.name: n for n, buffer in enumerate(program.buffers)}
        self.units = {opcode.name: opcode.unit for opcode in program.opcodes}
        self.words: dict[str, int] = {}
        self.axes: dict[int, bytes] = {}
        self.dimensions: dict[int, bytes] = {}

    def natural(self, value: int) -> None:
        if 0 <= value < 128:  # as nearly all are
            self.out.append(value)
            return
        if not 0 <= value < 1 << 64:
            raise ProgramError(f"encoding: a number must be 0 to 2**64 - 1, not {value}")
        while value > 127:
            self.out.append(value & 127 | 128)
            value >>= 7
        self.out.append(value)

    def integer(self, value: int) -> None:
        if 0 <= value < 64:
            self.out.append(2 * value)
            return
        self.natural(2 * value if value >= 0 else -2 * value - 1)

    def real(self, value: float) -> None:
        self.out += struct.pack("<d", value)

    def string(self, text: str) -> None:
        start = len(self.out)
        self.natural(self.strings.setdefault(text, len(self.strings)))
        self.places.append((start, len(self.out), text))

    def field(self, name: str) -> None:
        """What is appended from here on is this field: for those who show where each lies."""

    def each(self, items: Sequence[T], item: Callable[[T], None]) -> None:
        self.natural(len(items))
        for one in items:
            item(one)

    def shared(
        self, items: tuple[T, ...], item: Callable[[T], None], written: dict[int, bytes]
    ) -> None:
        """Items of a tuple that many issues share, as `written` without a new word before."""
        known = written.get(id(items))
        if known is not None:
            self.out += known
            return
        start, words = len(self.out), len(self.words)
        for one in items:
            item(one)
        if len(self.words) == words:
            written[id(items)] = bytes(self.out[start:])

    def table(self) -> None:
        """All strings; the rest of one that is hexadecimal is packed."""
        before = b""
        self.natural(len(self.strings))
        for text in self.strings:
            data = utf8(text)
            shared = common(before, data)
            rest = data[shared:]
            packed = len(rest) >= 8 and _HEX.fullmatch(rest) is not None
            if packed:
                rest = bytes.fromhex(rest.decode())
            self.natural(shared)
            self.natural(2 * len(rest) + packed)
            self.out += rest
            before = data

    def program(self, program: Program) -> None:
        self.string(program.name)
        self.string(program.machine)
        self.each(program.parameters, self.parameter)
        self.each(program.opcodes, self.opcode)
        self.each(program.buffers, self.buffer)
        self.each(program.sections, self.section)

    def parameter(self, parameter: Parameter) -> None:
        self.string(parameter.name)
        self.integer(parameter.most)
        self.integer(parameter.default)
        self.natural(parameter.given)

    def opcode(self, opcode: Opcode) -> None:
        for name in ("name", "instruction", "meaning"):
            self.field(name)
            self.string(getattr(opcode, name))
        self.field("unit")
        self.word(opcode.unit)
        self.field("binding")
        self.each(opcode.binding, self.binding)
        self.field("immediates")
        formats = dict(opcode.formats)
        if opcode.formats != tuple((n, formats[n]) for n, _ in opcode.immediates if n in formats):
            raise ProgramError(
                f"encoding: opcode {opcode.name!r} must have formats of its immediates, in their "
                f"order, not {', '.join(name for name, _ in opcode.formats)}"
            )
        self.each(opcode.immediates, lambda pair: self.immediate(*pair, formats.get(pair[0])))
        self.field("operands")
        self.each(opcode.operands, self.words_of)
        self.field("results")
        self.each(opcode.results, self.words_of)
        self.field("outputs")
        self.each(opcode.outputs, self.integer)
        self.field("limits")
        self.each(opcode.limits, self.limit)

    def words_of(self, texts: Sequence[str]) -> None:
        self.each(texts, self.word)

    def binding(self, pair: tuple[str, tuple[str, ...]]) -> None:
        self.word(pair[0])
        self.words_of(pair[1])

    def immediate(self, name: str, number: float | int, kind: str | None) -> None:
        """The name, a number that says how the value is written, the value."""
        self.word(name)
        if kind is not None:
            data = typed(name, number, kind)
            self.natural(2 + 2 * TYPES.index(kind) + isinstance(number, float))
            self.out += data
        else:
            self.natural(isinstance(number, float))
            if isinstance(number, float):
                self.real(number)
            else:
                self.integer(number)

    def limit(self, pair: tuple[str, int]) -> None:
        self.word(pair[0])
        self.integer(pair[1])

    def buffer(self, buffer: Buffer) -> None:
        self.string(buffer.name)
        self.word(buffer.memory)
        self.word(buffer.dtype)
        self.natural(KINDS.index(buffer.kind))
        self.each(buffer.shape, self.integer)
        has_initial = struct.pack("<d", buffer.initial) != bytes(8)
        place = placement(buffer)
        placed = place != UNPLACED
        self.natural(has_initial + 2 * placed + 4 * bool(buffer.content))
        if has_initial:
            self.real(buffer.initial)
        if placed:
            *numbers, rotor = place
            for number in numbers:
                self.integer(number)
            self.string(rotor)
        if buffer.content:
            self.string(buffer.content)

    def count(self, count: Count) -> None:
        self.integer(count.constant)
        self.each(count.terms, self.limit)

    def section(self, section: Section) -> None:
        self.string(section.name)
        self.natural(section.repeat is not None)
        if section.repeat is not None:
            self.string(section.repeat.counter)
            self.count(section.repeat.count)
        self.count(section.tokens)
        self.each(section.extents, self.extent)
        self.each(section.stages, self.stage)

    def extent(self, extent: Extent) -> None:
        self.word(extent.axis)
        self.count(extent.length)
        self.integer(extent.most)
        self.count(extent.start)
        self.integer(extent.end)

    def stage(self, stage: Stage) -> None:
        self.string(stage.name)
        self.each(stage.lifetimes, self.lifetime)
        self.each(stage.body, self.statement)

    def lifetime(self, alive: tuple[str, int, int]) -> None:
        self.buffer_number(alive[0])
        self.integer(alive[1])
        self.integer(alive[2])

    def word(self, text: str) -> None:
        """A string by its number in order of appearance; a new one is followed by the string."""
        known = self.words.get(text)
        if known is None:
            known = self.words[text] = len(self.words)
            self.natural(known)
            self.string(text)
        elif known < 128:  # what `natural` does, for what is written most often
            self.out.append(known)
        else:
            self.natural(known)

    def buffer_number(self, name: str) -> None:
        number = self.buffers.get(name)
        if number is None:
            raise ProgramError(f"encoding: the program has no buffer {name!r}")
        self.natural(number)

    def statement(self, item: Statement) -> None:
        """An issue begins with its opcode's number + 8, a loop with its flags, less than 8."""
        if isinstance(item, Issue):
            self.issue(item)
            return
        self.natural(bool(item.ahead) + 2 * item.spread + 4 * item.reverse)
        self.word(item.range)
        self.word(item.parent)
        self.integer(item.step)
        if item.ahead:
            self.each(item.ahead, self.issue)
        self.each(item.body, self.statement)

    def issue(self, issue: Issue) -> None:
        if issue.opcode not in self.opcodes:
            raise ProgramError(f"encoding: the program has no opcode {issue.opcode!r}")
        own_unit = issue.unit != self.units[issue.opcode]
        accumulates = issue.fresh is not None
        self.field("opcode")
        self.natural(self.opcodes[issue.opcode] + 8)
        self.field("flags")
        self.natural(accumulates + 2 * bool(issue.sets) + 4 * own_unit)
        if own_unit:
            self.field("unit")
            self.word(issue.unit)
        self.field("axes")
        self.natural(len(issue.axes))
        self.shared(issue.axes, self.pair, self.axes)
        if issue.fresh is not None:
            self.field("fresh")
            self.each(issue.fresh, self.word)
        if issue.sets:
            self.field("sets")
            self.words_of(issue.sets)
        self.field("reads")
        self.each(issue.reads, self.operand)
        self.field("writes")
        self.each(issue.writes, self.operand)

    def pair(self, pair: tuple[str, str]) -> None:
        self.word(pair[0])
        self.word(pair[1])

    def operand(self, operand: Operand) -> None:
        self.buffer_number(operand.buffer)
        self.natural(2 * len(operand.dimensions) + (operand.fill is not None))
        self.shared(operand.dimensions, self.dimension, self.dimensions)
        if operand.fill is not None:
            self.real(operand.fill)

    def dimension(self, dimension: Dimension) -> None:
        """Terms and whether there is an offset in one number; a term is its range, its base plus
        one where it has one, and its stride."""
        offset = dimension.offset != 0
        self.natural(2 * len(dimension.terms) + offset)
        for term in dimension.terms:
            self.out.append((term.base != "") + 2 * (term.stride != 1))
            self.word(term.range)
            if term.base:
                self.word(term.base)
            if term.stride != 1:
                self.integer(term.stride)
        if offset:
            self.integer(dimension.offset)


def typed(name: str, number: float | int, kind: str) -> bytes:
    """An immediate as an element of a type, lowest byte first."""
    if kind not in DTYPES or held(number, kind) != number:
        raise ProgramError(f"encoding: immediate {name!r} must be of type {kind}, not {number!r}")
    row = DTYPES[kind].numpy.newbyteorder("<")
    return np.array(number).astype(row).tobytes()


placement = operator.attrgetter("place", "address", "pitch", "slots", "rotor")
UNPLACED = placement(Buffer("", "", (), ""))


def utf8(text: str) -> bytes:
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise ProgramError(f"encoding: a name must be Unicode text, not {text!r}") from None
    if len(data) > LONGEST_STRING:
        raise ProgramError(
            f"encoding: a name must have at most {LONGEST_STRING} bytes, not {len(data)}"
        )
    return data


def common(a: bytes, b: bytes) -> int:
    """How many bytes two strings begin with in common."""
    size = min(len(a), len(b))
    differ = int.from_bytes(a[:size], "big") ^ int.from_bytes(b[:size], "big")
    return size - (differ.bit_length() + 7) // 8


# ---------------------------------------------------------------- reading


def decode(data: bytes, source: str) -> Program:
    """The program that bytes describe; ProgramError naming `source` and what is wrong.

    Whether the program makes sense is for `verify` to say.
    """
    if data[: len(MAGIC)] != MAGIC:
        raise ProgramError(f"program {source}: must begin with {MAGIC!r}, not {data[:4]!r}")
    if not HEADER <= len(data) <= LARGEST_FILE:
        raise ProgramError(
            f"program {source}: must have {HEADER} to {LARGEST_FILE} bytes, not {len(data)}"
        )
    if data[len(MAGIC)] != VERSION:
        raise ProgramError(f"program {source}: must be of format {VERSION}, not {data[len(MAGIC)]}")
    body = data[HEADER:]
    if checksum(body) != data[len(MAGIC) + 1 : HEADER]:
        raise ProgramError(f"program {source}: is damaged, its checksum does not fit")
    program = read(body, source)
    if encode(program) != data:
        raise ProgramError(f"program {source}: must be encoded in the one way that `encode` takes")
    return program


def read(body: bytes, source: str) -> Program:
    """The program of a body. Unlike `decode` it takes other encodings than the one."""
    reader = Reader(body, source)
    reader.table()
    program = reader.program()
    if reader.at != len(body):
        reader.fail("the end of the program")
    return program


@dataclass
class Reader:
    """Takes the parts of a program from `data`, in the order in which `Writer` puts them."""

    data: bytes
    source: str
    at: int = 0
    strings: list[str] = field(default_factory=list)
    opcodes: list[Opcode] = field(default_factory=list)
    buffers: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)

    def fail(self, expected: str) -> NoReturn:
        raise ProgramError(f"program {self.source}, byte {HEADER + self.at}: expected {expected}")

    def natural(self) -> int:
        value = shift = 0
        while self.at < len(self.data):
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                if (byte or shift == 7) and value < 1 << 64:
                    return value
                break
            if shift > 63:
                break
        self.fail("a number of at most 64 bits in as few bytes as it takes")

    def integer(self) -> int:
        value = self.natural()
        return -(value + 1 >> 1) if value & 1 else value >> 1

    def real(self) -> float:
        return float(struct.unpack("<d", self.take(8))[0])

    def take(self, length: int) -> bytes:
        if length > len(self.data) - self.at:
            self.fail(f"{length} more bytes, there are {len(self.data) - self.at}")
        self.at += length
        return self.data[self.at - length : self.at]

    def below(self, limit: int, what: str) -> int:
        """A number less than `limit`."""
        value = self.natural()
        if value >= limit:
            self.fail(f"{what} less than {limit}, not {value}")
        return value

    def several(self, count: int, item: Callable[[], T]) -> tuple[T, ...]:
        """So many items, of which each takes at least one byte."""
        if count > len(self.data) - self.at:
            self.fail(f"at most {len(self.data) - self.at} items, not {count}")
        return tuple(item() for _ in range(count))

    def each(self, item: Callable[[], T]) -> tuple[T, ...]:
        return self.several(self.natural(), item)

    def string(self) -> str:
        return self.strings[self.below(len(self.strings), "the number of a string")]

    def words_of(self) -> tuple[str, ...]:
        return self.each(self.word)

    def table(self) -> None:
        before, total = b"", 0
        for _ in range(self.below(len(self.data) - self.at + 1, "a number of strings")):
            shared = self.below(len(before) + 1, "a shared beginning")
            length = self.natural()
            rest = self.take(length >> 1)
            data = before[:shared] + (rest.hex().encode() if length & 1 else rest)
            total += len(data)
            if len(data) > LONGEST_STRING or total > ALL_STRINGS:
                self.fail(f"strings of at most {LONGEST_STRING} bytes, {ALL_STRINGS} in all")
            if self.strings and data <= before:
                self.fail("strings in order")
            try:
                self.strings.append(data.decode())
            except UnicodeDecodeError:
                self.fail("a string in UTF-8")
            before = data

    def program(self) -> Program:
        name, machine = self.string(), self.string()
        parameters = self.each(self.parameter)
        self.opcodes = list(self.each(self.opcode))
        buffers = self.each(self.buffer)
        self.buffers = [buffer.name for buffer in buffers]
        sections = self.each(self.section)
        return Program(name, machine, parameters, tuple(self.opcodes), buffers, sections)

    def parameter(self) -> Parameter:
        return Parameter(self.string(), self.integer(), self.integer(), bool(self.flags(2)))

    def flags(self, limit: int) -> int:
        return self.below(limit, "flags")

    def opcode(self) -> Opcode:
        head = self.string(), self.string(), self.string(), self.word()
        binding, immediates = self.each(self.binding), self.each(self.immediate)
        return Opcode(
            *head,
            binding,
            tuple((name, number) for name, number, _ in immediates),
            self.each(self.words_of),
            self.each(self.words_of),
            self.each(self.integer),
            self.each(self.limit),
            tuple((name, kind) for name, _, kind in immediates if kind),
        )

    def binding(self) -> tuple[str, tuple[str, ...]]:
        return self.word(), self.words_of()

    def immediate(self) -> tuple[str, float | int, str]:
        """(name, value, the type it is written in or "")."""
        name, how = self.word(), self.below(2 + 2 * len(TYPES), "how an immediate is written")
        if how < 2:
            return name, self.real() if how else self.integer(), ""
        kind = DTYPES[TYPES[how // 2 - 1]]
        if is_float(kind.name) and how % 2 == 0:
            self.fail(f"a float of type {kind.name}")
        number = np.frombuffer(self.take(kind.size), kind.numpy.newbyteorder("<"))[0]
        return name, float(number) if how % 2 else int(number), kind.name

    def limit(self) -> tuple[str, int]:
        return self.word(), self.integer()

    def buffer(self) -> Buffer:
        name, memory, dtype = self.string(), self.word(), self.word()
        kind = KINDS[self.below(len(KINDS), "the number of a kind")]
        shape, flags = self.each(self.integer), self.flags(8)
        initial = self.real() if flags & 1 else 0.0
        place, address, pitch, slots = -1, 0, 0, 1
        rotor = ""
        if flags & 2:
            place, address, pitch, slots = (self.integer() for _ in range(4))
            rotor = self.string()
        return Buffer(
            name,
            memory,
            shape,
            dtype,
            kind,
            slots,
            rotor,
            place,
            address,
            pitch,
            initial,
            self.string() if flags & 4 else "",
        )

    def count(self) -> Count:
        return Count(self.integer(), self.each(self.limit))

    def section(self) -> Section:
        name = self.string()
        repeat = Repeat(self.string(), self.count()) if self.flags(2) else None
        tokens = self.count()
        return Section(name, self.each(self.extent), self.each(self.stage), repeat, tokens)

    def extent(self) -> Extent:
        return Extent(self.word(), self.count(), self.integer(), self.count(), self.integer())

    def stage(self) -> Stage:
        name, lifetimes = self.string(), self.each(self.lifetime)
        return Stage(name, self.each(lambda: self.statement(1)), lifetimes)

    def lifetime(self) -> tuple[str, int, int]:
        return self.buffer_name(), self.integer(), self.integer()

    def buffer_name(self) -> str:
        return self.buffers[self.below(len(self.buffers), "the number of a buffer")]

    def word(self) -> str:
        number = self.below(len(self.words) + 1, "the number of a word")
        if number == len(self.words):
            self.words.append(self.string())
        return self.words[number]

    def statement(self, depth: int) -> Statement:
        flags = self.natural()
        if flags >= 8:
            return self.issue_of(flags)
        if depth > DEEPEST:
            self.fail(f"at most {DEEPEST} loops inside each other")
        name, parent, step = self.word(), self.word(), self.integer()
        ahead = self.each(self.issue) if flags & 1 else ()
        body = self.each(lambda: self.statement(depth + 1))
        return Loop(name, parent, step, body, ahead, bool(flags & 2), bool(flags & 4))

    def issue(self) -> Issue:
        return self.issue_of(self.natural())

    def issue_of(self, number: int) -> Issue:
        if not 8 <= number < 8 + len(self.opcodes):
            self.fail(f"the number of an opcode less than {len(self.opcodes)}, not {number - 8}")
        opcode, flags = self.opcodes[number - 8], self.flags(8)
        unit = self.word() if flags & 4 else opcode.unit
        axes = self.each(self.pair)
        fresh = self.each(self.word) if flags & 1 else None
        sets = self.words_of() if flags & 2 else ()
        reads, writes = self.each(self.operand), self.each(self.operand)
        return Issue(opcode.name, unit, reads, writes, axes, fresh, sets)

    def pair(self) -> tuple[str, str]:
        return self.word(), self.word()

    def operand(self) -> Operand:
        buffer, number = self.buffer_name(), self.natural()
        dimensions = self.several(number >> 1, self.dimension)
        return Operand(buffer, dimensions, self.real() if number & 1 else None)

    def dimension(self) -> Dimension:
        number = self.natural()
        terms = self.several(number >> 1, self.term)
        return Dimension(terms, self.integer() if number & 1 else 0)

    def term(self) -> Term:
        flags = self.flags(4)
        inner = self.word()
        base = self.word() if flags & 1 else ""
        return Term(inner, base, self.integer() if flags & 2 else 1)
