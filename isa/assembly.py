"""Programs as text for people, and back: `parse_text(to_text(program))` is the same program.

    program relu for tiny

    parameter rows <= 100 default 20

    opcode relu = relu "5c1d9f2b7a604e38" on vector
        bind m = s
        limit s 16
        read (s)
        write (s)
        outputs 0

    buffer x: input f32 [100] in dram
    buffer y: output f32 [100] in dram

    section main
        axis s = rows most 100
        stage relu
            for s1 in s step 16:
                y[s1] = relu(x[s1]) on vector over s=s1

`x[s1-s, 2*(p1-p)+r-1]` is a region of x: its first dimension begins where range s1 begins, counted
from where range s begins, and is as long as s1. What stands inside something is indented; `#`
starts a comment. A name that is not one word of letters, digits and `_./` stands in double quotes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NoReturn, TypeVar, get_args

from .errors import ProgramError
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

INDENT = "    "
DEEPEST = 64
"""How many loops may be inside each other."""

KINDS: tuple[Kind, ...] = get_args(Kind)

KEYWORDS = frozenset(
    word
    for line in (
        "program for parameter default computed",
        "opcode on bind with as limit read write outputs",
        "buffer in place address pitch slots rotor initial content",
        "section repeat tokens axis from most end stage alive to",
        "step ahead over cores reverse fresh sets fill inf nan",
    )
    for word in line.split()
)
"""Words that have a meaning of their own: a name spelled like one stands in quotes."""

_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_./]*")

# ---------------------------------------------------------------- writing


def to_text(program: Program) -> str:
    """The program as text."""
    lines = [f"program {name(program.name)} for {name(program.machine)}"]
    lines += ["", *map(_parameter, program.parameters)] if program.parameters else []
    for opcode in program.opcodes:
        lines += ["", *_opcode(opcode)]
    lines += ["", *map(_buffer, program.buffers)] if program.buffers else []
    for section in program.sections:
        lines += ["", *_section(section)]
    return "\n".join(lines) + "\n"


def name(text: str) -> str:
    """A name as it is written: in quotes if it is not a plain word."""
    plain = _WORD.fullmatch(text) and text not in KEYWORDS
    return text if plain else json.dumps(text)


def names(texts: Iterable[str]) -> str:
    return ", ".join(map(name, texts))


def count_text(count: Count) -> str:
    """`2*rows + 1`"""
    parts = [name(key) if factor == 1 else f"{factor}*{name(key)}" for key, factor in count.terms]
    if count.constant or not parts:
        parts.append(str(count.constant))
    return _sum(parts, " ")


def dimension_text(dimension: Dimension) -> str:
    """`2*(p1-p)+r-1`"""
    parts = []
    for term in dimension.terms:
        text = f"{name(term.range)}-{name(term.base)}" if term.base else name(term.range)
        if term.stride != 1:
            text = f"{term.stride}*({text})" if term.base else f"{term.stride}*{text}"
        parts.append(text)
    if dimension.offset or not parts:
        parts.append(str(dimension.offset))
    return _sum(parts, "")


def _sum(parts: Sequence[str], space: str) -> str:
    text = parts[0]
    for part in parts[1:]:
        sign, rest = ("-", part[1:]) if part.startswith("-") else ("+", part)
        text += f"{space}{sign}{space}{rest}"
    return text


def operand_text(operand: Operand) -> str:
    fill = "" if operand.fill is None else f" fill {operand.fill!r}"
    return f"{name(operand.buffer)}[{', '.join(map(dimension_text, operand.dimensions))}]{fill}"


def issue_text(issue: Issue) -> str:
    """An issue on one line."""
    writes = ", ".join(map(operand_text, issue.writes))
    text = f"{writes} = " if writes else ""
    text += f"{name(issue.opcode)}({', '.join(map(operand_text, issue.reads))})"
    text += f" on {name(issue.unit)}"
    if issue.axes:
        pairs = (name(a) if a == r else f"{name(a)}={name(r)}" for a, r in issue.axes)
        text += f" over {', '.join(pairs)}"
    if issue.fresh is not None:
        text += f" fresh {names(issue.fresh)}".rstrip()
    return f"{text} sets {names(issue.sets)}" if issue.sets else text


def loop_text(loop: Loop) -> str:
    """The first line of a loop."""
    cores, reverse = " over cores" if loop.spread else "", " reverse" if loop.reverse else ""
    return f"for {name(loop.range)} in {name(loop.parent)} step {loop.step}{cores}{reverse}:"


def _parameter(parameter: Parameter) -> str:
    computed = "" if parameter.given else " computed"
    bounds = f"<= {parameter.most} default {parameter.default}"
    return f"parameter {name(parameter.name)} {bounds}{computed}"


def _opcode(opcode: Opcode) -> Iterator[str]:
    yield (
        f"opcode {name(opcode.name)} = {name(opcode.instruction)} {json.dumps(opcode.meaning)} "
        f"on {name(opcode.unit)}"
    )
    for axis, bound in opcode.binding:
        yield f"{INDENT}bind {name(axis)} = {' '.join(map(name, bound))}".rstrip()
    formats = dict(opcode.formats)
    for immediate, value in opcode.immediates:
        kind = f" as {name(formats[immediate])}" if immediate in formats else ""
        yield f"{INDENT}with {name(immediate)} = {value!r}{kind}"
    for axis, limit in opcode.limits:
        yield f"{INDENT}limit {name(axis)} {limit}"
    for axes in opcode.operands:
        yield f"{INDENT}read ({_axes(axes)})"
    for axes in opcode.results:
        yield f"{INDENT}write ({_axes(axes)})"
    if opcode.outputs:
        yield f"{INDENT}outputs {' '.join(map(str, opcode.outputs))}"


def _axes(axes: Iterable[str]) -> str:
    return " ".join(name(axis) if axis else "." for axis in axes)


def _buffer(buffer: Buffer) -> str:
    text = (
        f"buffer {name(buffer.name)}: {buffer.kind} {name(buffer.dtype)} "
        f"[{', '.join(map(str, buffer.shape))}] in {name(buffer.memory)}"
    )
    blank = Buffer("", "", (), "")
    for key in ("place", "address", "pitch", "slots"):
        if (value := getattr(buffer, key)) != getattr(blank, key):
            text += f" {key} {value}"
    text += f" rotor {name(buffer.rotor)}" if buffer.rotor else ""
    text += f" initial {float(buffer.initial)!r}" if _stated(buffer.initial) else ""
    return text + (f" content {json.dumps(buffer.content)}" if buffer.content else "")


def _stated(initial: float) -> bool:
    return repr(float(initial)) != "0.0"


def _section(section: Section) -> Iterator[str]:
    text = f"section {name(section.name)}"
    if section.repeat:
        text += f" repeat {name(section.repeat.counter)} < {count_text(section.repeat.count)}"
    if section.tokens != Count():
        text += f" tokens {count_text(section.tokens)}"
    yield text
    for extent in section.extents:
        yield INDENT + _extent(extent)
    for stage in section.stages:
        yield f"{INDENT}stage {name(stage.name)}"
        for buffer, first, last in stage.lifetimes:
            yield f"{INDENT * 2}alive {name(buffer)} {first} to {last}"
        yield from _statements(stage.body, 2)


def _extent(extent: Extent) -> str:
    text = f"axis {name(extent.axis)} = {count_text(extent.length)}"
    text += f" from {count_text(extent.start)}" if extent.start != Count() else ""
    text += f" most {extent.most}" if extent.length != Count(extent.most) else ""
    return text + (f" end {extent.end}" if extent.end != -1 else "")


def _statements(items: Iterable[Statement], depth: int) -> Iterator[str]:
    pad = INDENT * depth
    for item in items:
        if isinstance(item, Issue):
            yield pad + issue_text(item)
            continue
        yield pad + loop_text(item)
        if item.ahead:
            yield f"{pad}{INDENT}ahead:"
            yield from _statements(item.ahead, depth + 2)
        yield from _statements(item.body, depth + 1)


# ---------------------------------------------------------------- lines and words

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<number>\d+(?:\.\d+)?(?:e[+-]?\d+)?)
    | (?P<word>[A-Za-z_][A-Za-z0-9_./]*)
    | (?P<text>"(?:[^"\\]|\\.)*")
    | (?P<mark><=|[-+*=<:,.()\[\]])
    | (?P<comment>\#.*)
    | (?P<wrong>\S)
    )""",
    re.VERBOSE,
)
LONGEST_NUMBER = 40


@dataclass
class Line:
    """A line of the text: its words, a cursor, and the lines indented below it."""

    number: int
    indent: int
    source: str
    tokens: list[tuple[str, str]]
    inside: list[Line] = field(default_factory=list)
    at: int = 0

    def fail(self, expected: str) -> NoReturn:
        found = repr(self.tokens[self.at][1]) if self.at < len(self.tokens) else "the end"
        raise ProgramError(f"{self.source}, line {self.number}: expected {expected}, not {found}")

    def next_is(self, *words: str) -> bool:
        """Whether these words or marks come next."""
        there = self.tokens[self.at : self.at + len(words)]
        return there == [(_kind(word), word) for word in words]

    def skip(self, *words: str) -> bool:
        """Go past these words if they come next."""
        found = self.next_is(*words)
        self.at += len(words) if found else 0
        return found

    def take(self, *words: str) -> None:
        for word in words:
            if not self.skip(word):
                self.fail(repr(word))

    def one_of(self, kind: str, expected: str) -> str:
        if self.at >= len(self.tokens) or self.tokens[self.at][0] != kind:
            self.fail(expected)
        self.at += 1
        return self.tokens[self.at - 1][1]

    def text(self, expected: str) -> str:
        """A string in quotes."""
        found = self.one_of("text", expected)
        try:
            return str(json.loads(found, strict=False))
        except ValueError:
            self.at -= 1
            self.fail(expected)

    def name(self, expected: str = "a name") -> str:
        if self.at < len(self.tokens) and self.tokens[self.at][0] == "text":
            return self.text(expected)
        word = self.one_of("word", expected)
        if word in KEYWORDS:
            self.at -= 1
            self.fail(expected)
        return word

    def next_is_name(self) -> bool:
        if self.at >= len(self.tokens):
            return False
        kind, word = self.tokens[self.at]
        return kind == "text" or (kind == "word" and word not in KEYWORDS)

    def next_is_number(self) -> bool:
        return self.at < len(self.tokens) and self.tokens[self.at][0] == "number"

    def natural(self, expected: str = "a whole number") -> int:
        text = self.one_of("number", expected)
        if not text.isdigit() or len(text) > LONGEST_NUMBER:
            self.at -= 1
            self.fail(expected)
        return int(text)

    def integer(self, expected: str = "a whole number") -> int:
        sign = -1 if self.skip("-") else 1
        return sign * self.natural(expected)

    def number_(self, expected: str = "a number") -> float | int:
        """An integer or a decimal fraction, inf or nan."""
        sign = -1 if self.skip("-") else 1
        for word in ("inf", "nan"):
            if self.skip(word):
                return sign * float(word)
        text = self.one_of("number", expected)
        if len(text) > LONGEST_NUMBER:
            self.at -= 1
            self.fail(expected)
        return sign * (int(text) if text.isdigit() else float(text))

    def finished(self) -> None:
        if self.at < len(self.tokens):
            self.fail("the end of the line")

    def several(self, item: Callable[[], T]) -> tuple[T, ...]:
        """Items with commas between them."""
        found = [item()]
        while self.skip(","):
            found.append(item())
        return tuple(found)


def _kind(word: str) -> str:
    return "word" if _WORD.fullmatch(word) else "mark"


def _lines(text: str, source: str) -> list[Line]:
    """The lines that are not indented, each with those below it."""
    top = Line(0, -1, source, [])
    open_lines = [top]
    for number, raw in enumerate(text.split("\n"), 1):
        found = [(m.lastgroup or "", m.group(m.lastgroup or "")) for m in _TOKEN.finditer(raw)]
        tokens = [token for token in found if token[0] != "comment"]
        if not tokens:
            continue
        line = Line(number, len(raw) - len(raw.lstrip(" ")), source, tokens)
        if wrong := [at for at, (kind, _) in enumerate(tokens) if kind == "wrong"]:
            line.at = wrong[0]
            line.fail("a name, a number or a mark")
        while line.indent <= open_lines[-1].indent:
            open_lines.pop()
        before = open_lines[-1].inside
        if before and before[-1].indent != line.indent:
            line.fail(f"{before[-1].indent} spaces before the line")
        if len(open_lines) > DEEPEST + 3:
            line.fail(f"at most {DEEPEST} loops inside each other")
        before.append(line)
        open_lines.append(line)
    return top.inside


# ---------------------------------------------------------------- reading


def parse_text(text: str, source: str) -> Program:
    """The program that a text describes; ProgramError naming `source`, line and what was expected.

    Whether the program makes sense is for `verify` to say.
    """
    lines = _lines(text, source)
    if not lines:
        raise ProgramError(f"{source}, line 1: expected 'program', not the end")
    first, *rest = lines
    first.take("program")
    title = first.name("the program's name")
    first.take("for")
    machine = first.name("the machine's name")
    _end(first)
    parameters: list[Parameter] = []
    opcodes: list[Opcode] = []
    buffers: list[Buffer] = []
    sections: list[Section] = []
    for line in rest:
        if line.skip("parameter"):
            parameters.append(_read_parameter(line))
        elif line.skip("opcode"):
            opcodes.append(_read_opcode(line))
        elif line.skip("buffer"):
            buffers.append(_read_buffer(line))
        elif line.skip("section"):
            sections.append(_read_section(line))
        else:
            line.fail("'parameter', 'opcode', 'buffer' or 'section'")
    return Program(
        title, machine, tuple(parameters), tuple(opcodes), tuple(buffers), tuple(sections)
    )


def _end(line: Line) -> None:
    """Nothing comes after on this line or below it."""
    line.finished()
    if line.inside:
        line.inside[0].fail("nothing indented here")


def _read_parameter(line: Line) -> Parameter:
    title = line.name("the parameter's name")
    line.take("<=")
    most = line.integer()
    line.take("default")
    default = line.integer()
    given = not line.skip("computed")
    _end(line)
    return Parameter(title, most, default, given)


def _read_opcode(line: Line) -> Opcode:
    title = line.name("the opcode's name")
    line.take("=")
    instruction = line.name("an instruction")
    meaning = line.text("the meaning's hash in quotes")
    line.take("on")
    unit = line.name("a unit")
    line.finished()
    binding: list[tuple[str, tuple[str, ...]]] = []
    immediates: list[tuple[str, float | int]] = []
    formats: list[tuple[str, str]] = []
    limits: list[tuple[str, int]] = []
    operands: list[tuple[str, ...]] = []
    results: list[tuple[str, ...]] = []
    outputs: tuple[int, ...] = ()
    for inner in line.inside:
        if inner.skip("bind"):
            axis = inner.name("an axis")
            inner.take("=")
            binding.append((axis, _while(inner.next_is_name, inner.name)))
        elif inner.skip("with"):
            immediate = inner.name("an immediate")
            inner.take("=")
            immediates.append((immediate, inner.number_()))
            if inner.skip("as"):
                formats.append((immediate, inner.name("an element type")))
        elif inner.skip("limit"):
            limits.append((inner.name("an axis"), inner.integer()))
        elif inner.skip("read"):
            operands.append(_read_axes(inner))
        elif inner.skip("write"):
            results.append(_read_axes(inner))
        elif inner.skip("outputs"):
            outputs = _while(inner.next_is_number, inner.natural)
        else:
            inner.fail("'bind', 'with', 'limit', 'read', 'write' or 'outputs'")
        _end(inner)
    return Opcode(
        title,
        instruction,
        meaning,
        unit,
        tuple(binding),
        tuple(immediates),
        tuple(operands),
        tuple(results),
        outputs,
        tuple(limits),
        tuple(formats),
    )


def _while(more: Callable[[], bool], item: Callable[[], T]) -> tuple[T, ...]:
    found = []
    while more():
        found.append(item())
    return tuple(found)


def _read_axes(line: Line) -> tuple[str, ...]:
    line.take("(")
    axes = []
    while not line.skip(")"):
        axes.append("" if line.skip(".") else line.name("an axis, '.' or ')'"))
    return tuple(axes)


def _read_buffer(line: Line) -> Buffer:
    title = line.name("the buffer's name")
    line.take(":")
    kind = next((kind for kind in KINDS if line.skip(kind)), None)
    if kind is None:
        line.fail(f"one of {', '.join(KINDS)}")
    dtype = line.name("an element type")
    line.take("[")
    shape = () if line.next_is("]") else line.several(line.natural)
    line.take("]", "in")
    memory = line.name("a memory")
    numbers = {"place": -1, "address": 0, "pitch": 0, "slots": 1}
    for key in numbers:
        if line.skip(key):
            numbers[key] = line.integer()
    rotor = line.name("a loop's range") if line.skip("rotor") else ""
    initial = float(line.number_()) if line.skip("initial") else 0.0
    content = line.text("a hash in quotes") if line.skip("content") else ""
    _end(line)
    return Buffer(
        title,
        memory,
        shape,
        dtype,
        kind,
        rotor=rotor,
        initial=initial,
        content=content,
        **numbers,
    )


def _read_count(line: Line) -> Count:
    terms: list[tuple[str, int]] = []
    constant, first = 0, True
    while first or line.next_is("+") or line.next_is("-"):
        sign = -1 if line.skip("-") else 1
        if sign == 1 and not first:
            line.take("+")
        first = False
        if not line.next_is_number():
            terms.append((line.name("a number or a parameter"), sign))
            continue
        factor = sign * line.natural()
        if line.skip("*"):
            terms.append((line.name("a parameter"), factor))
        else:
            constant += factor
    return Count(constant, tuple(terms))


def _read_section(line: Line) -> Section:
    title = line.name("the section's name")
    repeat, tokens = None, Count()
    if line.skip("repeat"):
        counter = line.name("a parameter")
        line.take("<")
        repeat = Repeat(counter, _read_count(line))
    if line.skip("tokens"):
        tokens = _read_count(line)
    line.finished()
    extents: list[Extent] = []
    stages: list[Stage] = []
    for inner in line.inside:
        if not stages and inner.skip("axis"):
            extents.append(_read_extent(inner))
        elif inner.skip("stage"):
            stages.append(_read_stage(inner))
        else:
            inner.fail("'stage'" if stages else "'axis' or 'stage'")
    return Section(title, tuple(extents), tuple(stages), repeat, tokens)


def _read_extent(line: Line) -> Extent:
    axis = line.name("an axis")
    line.take("=")
    length = _read_count(line)
    start = _read_count(line) if line.skip("from") else Count()
    if line.skip("most"):
        most = line.integer()
    elif length.terms:
        line.fail("'most', since the length is not a number")
    else:
        most = length.constant
    end = line.integer() if line.skip("end") else -1
    _end(line)
    return Extent(axis, length, most, start, end)


def _read_stage(line: Line) -> Stage:
    title = line.name("the stage's name")
    line.finished()
    lifetimes: list[tuple[str, int, int]] = []
    rest = list(line.inside)
    while rest and rest[0].skip("alive"):
        inner = rest.pop(0)
        buffer, first = inner.name("a buffer"), inner.integer()
        inner.take("to")
        lifetimes.append((buffer, first, inner.integer()))
        _end(inner)
    return Stage(title, tuple(map(_read_statement, rest)), tuple(lifetimes))


def _read_statement(line: Line) -> Statement:
    return _read_loop(line) if line.next_is("for") else _read_issue(line)


def _read_loop(line: Line) -> Loop:
    line.take("for")
    inner = line.name("a name for the pieces")
    line.take("in")
    parent = line.name("a range")
    line.take("step")
    step = line.integer()
    spread, reverse = line.skip("over", "cores"), line.skip("reverse")
    line.take(":")
    line.finished()
    rest, ahead = list(line.inside), []
    if rest and rest[0].skip("ahead", ":"):
        block = rest.pop(0)
        block.finished()
        ahead = [_read_issue(below) for below in block.inside]
    body = tuple(map(_read_statement, rest))
    return Loop(inner, parent, step, body, tuple(ahead), spread, reverse)


def _read_issue(line: Line) -> Issue:
    writes: list[Operand] = []
    reads: list[Operand] = []
    opcode = line.name("'for', a buffer or an opcode")
    if line.next_is("["):
        writes.append(_read_operand(line, opcode))
        while line.skip(","):
            writes.append(_read_operand(line, line.name("a buffer")))
        line.take("=")
        opcode = line.name("an opcode")
    line.take("(")
    while not line.skip(")"):
        if reads:
            line.take(",")
        reads.append(_read_operand(line, line.name("a buffer")))
    line.take("on")
    unit = line.name("a unit")
    axes = line.several(lambda: _read_pair(line)) if line.skip("over") else ()
    fresh: tuple[str, ...] | None = None
    if line.skip("fresh"):
        fresh = line.several(line.name) if line.next_is_name() else ()
    sets = line.several(line.name) if line.skip("sets") else ()
    _end(line)
    return Issue(opcode, unit, tuple(reads), tuple(writes), axes, fresh, sets)


def _read_pair(line: Line) -> tuple[str, str]:
    axis = line.name("an axis")
    return axis, line.name("a range") if line.skip("=") else axis


def _read_operand(line: Line, buffer: str) -> Operand:
    line.take("[")
    dimensions = () if line.next_is("]") else line.several(lambda: _read_dimension(line))
    line.take("]")
    fill = float(line.number_()) if line.skip("fill") else None
    return Operand(buffer, dimensions, fill)


def _read_dimension(line: Line) -> Dimension:
    terms: list[Term] = []
    offset, first = 0, True
    while first or line.next_is("+") or line.next_is("-"):
        sign = -1 if line.skip("-") else 1
        if sign == 1 and not first:
            line.take("+")
        first = False
        if not line.next_is_number():
            if sign == -1:
                line.fail("a number")
            terms.append(_read_term(line, 1))
            continue
        factor = sign * line.natural()
        if line.skip("*"):
            terms.append(_read_term(line, factor))
        else:
            offset += factor
    return Dimension(tuple(terms), offset)


def _read_term(line: Line, stride: int) -> Term:
    bracket = line.skip("(")
    inner = line.name("a number or a range")
    based = line.next_is("-") and (bracket or stride == 1) and _name_follows(line)
    base = ""
    if based:
        line.take("-")
        base = line.name("a range")
    if bracket:
        line.take(")")
    return Term(inner, base, stride)


def _name_follows(line: Line) -> bool:
    line.at += 1
    found = line.next_is_name()
    line.at -= 1
    return found
