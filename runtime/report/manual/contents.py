"""What the manual says of each instruction, as blocks: nothing in it is typed in.

Signature and meaning come from the trace, times from the functions that the simulator asks, bytes
from the encoder, uses from models that were compiled.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from infinisa.isa import encoding
from infinisa.isa.dtypes import DTYPES
from infinisa.isa.instance import issue_cycles
from infinisa.isa.instruction import Instruction, source_of, step_of, volume
from infinisa.isa.language import Input, Node
from infinisa.isa.laws import Associative, LinearIn, StepOf
from infinisa.isa.machine import Machine, Unit

from ..boxes import Box, Equation, Name, Number, Sign, Word, call, row
from ..text import percent
from ..typeset import formula, greek
from .amounts import amount_box, length, timing_box
from .blocks import (
    Block,
    Code,
    Equations,
    Fold,
    Heading,
    Inline,
    Link,
    Math,
    Mono,
    Paragraph,
    Table,
    Text,
    listed,
    sentence,
    text,
)
from .encoded import Example, Field, own_opcode

TYPICAL = 128
"""The length of an axis in examples of timing, where no tile limit is below it."""

LONGEST_LINE = 88
"""Characters of a signature on one line."""

SHOWN_BYTES = 24
"""Of a longer field only the first bytes are shown."""


@dataclass(frozen=True)
class Use:
    """What an instruction, or its `part` (.step, .finish), computes in a graph of a model.

    nodes   the source's names of what it computes, one for each call; without a name, the tensor
    """

    model: str
    graph: str
    part: str
    nodes: tuple[str, ...]
    operations: int
    bytes: int


@dataclass(frozen=True)
class Busy:
    """The issues of an instruction in a simulated model: their share of its unit's busy cycles."""

    model: str
    unit: str
    share: float
    issues: int


@dataclass(frozen=True)
class Entry:
    """An instruction, what brought it, an opcode of it, and where it is used."""

    instruction: Instruction
    plugin: str
    distribution: str
    version: str
    example: Example
    uses: tuple[Use, ...] = ()
    busy: tuple[Busy, ...] = ()

    @property
    def name(self) -> str:
        return self.instruction.name

    @property
    def family(self) -> str:
        return self.plugin.rpartition(".")[2]


@dataclass(frozen=True)
class Manual:
    """Everything in force: instructions by name, machines they are timed on, models they serve."""

    version: str
    entries: tuple[Entry, ...]
    machines: tuple[Machine, ...]
    models: tuple[str, ...]

    @property
    def groups(self) -> list[tuple[str, list[tuple[str, list[Entry]]]]]:
        """Entries by unit and then by family: [(unit, [(family, entries)])]."""
        ordered = sorted(self.entries, key=lambda e: (e.instruction.unit, e.family, e.name))
        return [
            (
                unit,
                [(family, list(own)) for family, own in groupby(entries, lambda e: e.family)],
            )
            for unit, entries in groupby(ordered, lambda e: e.instruction.unit)
        ]

    @property
    def steps(self) -> Mapping[str, list[str]]:
        """The instructions that by a law are steps of each instruction, or finish it."""
        found: dict[str, list[str]] = {}
        for entry in self.entries:
            for law in entry.instruction.laws:
                for other in law.names:
                    found.setdefault(other, []).append(entry.name)
        return found


def introduction(manual: Manual) -> list[Block]:
    """How to read what follows."""
    return [
        sentence(
            f"The instruction set of InfinISA {manual.version} with the plugins in force: "
            f"{len(manual.entries)} instructions, timed on "
            f"{_words(machine.name for machine in manual.machines)}, "
            f"looked for in {_words(manual.models)}."
        ),
        sentence(
            "An instruction is a function of named axes. In formulas an axis is its own index; a "
            "prime tells a second index of an axis from the first, ",
            Math(call("exp", Name("x"))),
            " and the like work on each element, and ",
            Math(Name("n")),
            " between bars is the length of an axis. An arrow replaces an operand that is also a "
            "result; right sides see the old values.",
        ),
        sentence(
            "Axes that an instruction does not name are loops around it. A program may bind other "
            "element types than those of the definition: arithmetic on narrow floats is f32, on "
            "i8 it is i32."
        ),
        Fold("How programs are written as bytes", tuple(paragraphs(encoding.__doc__ or ""))),
    ]


def _words(names: Iterable[str]) -> str:
    found = list(names)
    return found[0] if len(found) == 1 else ", ".join(found[:-1]) + " and " + found[-1]


def contents(entry: Entry, manual: Manual) -> list[Block]:
    """The whole section of an instruction."""
    instruction = entry.instruction
    found: list[Block] = []
    if instruction.documentation:
        found += paragraphs(instruction.documentation)
    found += [signature(instruction), origin(entry)]
    found += [*meaning(instruction), *laws(entry, manual), *pieces(instruction)]
    found += [Heading("Operands"), operands(instruction)]
    if instruction.immediates:
        found.append(immediates(instruction))
    found += [Heading("Axes"), axes(instruction)]
    found += [Heading("Time"), *timing(instruction, manual.machines)]
    found += [Heading("Encoding"), *written(entry.example)]
    return [*found, Heading("Use"), *uses(entry, manual)]


def paragraphs(docstring: str) -> list[Block]:
    """A docstring; what stands in backquotes is code."""
    return [
        Paragraph(tuple(Mono(part) if n % 2 else part for n, part in enumerate(each.split("`"))))
        for each in docstring.strip().split("\n\n")
    ]


# ---------------------------------------------------------------- what it is


def signature(instruction: Instruction) -> Block:
    """`name(x: f32[m n], scale=1.0) -> f32[m n] on vector`, a line each if that is too long."""
    given = [f"{leaf.name}: {_typed(leaf)}" for leaf in instruction.operands]
    given += [f"{state.input.name}: {_typed(state.input)}" for state in instruction.states]
    given += [f"{i.name}={i.default!r}" for i in instruction.immediates]
    made = ", ".join(map(_typed, instruction.results or instruction.outputs))
    sets = f" sets {', '.join(instruction.sets)}" if instruction.sets else ""
    result = f" -> {made} on {instruction.unit}{sets}"
    line = f"{instruction.name}({', '.join(given)}){result}"
    if len(line) > LONGEST_LINE:
        inside = "".join(f"    {each},\n" for each in given)
        line = f"{instruction.name}(\n{inside}){result}"
    return Code(line)


def _typed(node: Node) -> str:
    return f"{node.dtype}[{' '.join(node.axes)}]"


def origin(entry: Entry) -> Block:
    return sentence(
        "Plugin ",
        Mono(entry.plugin),
        " of ",
        Mono(entry.distribution),
        f" {entry.version}. Unit ",
        Mono(entry.instruction.unit),
        ". Meaning ",
        Mono(entry.instruction.meaning),
        ".",
    )


def meaning(instruction: Instruction) -> Iterator[Block]:
    """As a formula, then as it was written."""
    yield Heading("Meaning")
    if instruction.opaque:
        yield sentence("Opaque: a body in restricted Python, chosen by its name.")
        yield Code(instruction.source.rstrip(), "python")
        return
    yield from formulas(instruction)
    if instruction.source:
        yield Fold("Source", (Code(instruction.source.rstrip(), "python"),))
    yield from overrides(instruction)


def overrides(instruction: Instruction) -> Iterator[Block]:
    """What the author wrote in place of what is derived."""
    written = {
        "timing": instruction.occupancy,
        "kernel": instruction.native,
        "encoding": instruction.formats,
        "gradient": instruction.adjoint,
    }
    if names := [name for name, value in written.items() if value]:
        yield sentence(f"By its author, not derived: {_words(names)}.")
    if instruction.native and (source := source_of(instruction.native.body)):
        yield Fold("Kernel", (Code(source.rstrip(), "python"),))


def formulas(instruction: Instruction) -> Iterator[Block]:
    found = formula(instruction)
    yield Equations(found.equations)
    if found.where:
        yield sentence("where")
        yield Equations(found.where)
    for note in found.notes:
        yield sentence(note)


def laws(entry: Entry, manual: Manual) -> Iterator[Block]:
    """The laws of an instruction, and whose laws it is in."""
    for law in entry.instruction.laws:
        axis = Math(Name(greek(law.axis)))
        match law:
            case StepOf(whole, _, finish):
                yield sentence(
                    "Law: folded over tiles of ", axis, ", and then ", Link(finish),
                    ", it equals ", Link(whole), ".",
                )  # fmt: skip
            case Associative(combine, _):
                yield sentence(
                    "Law: the states of separate runs, along ", axis, ", combine by ",
                    Link(combine), ".",
                )  # fmt: skip
            case LinearIn(operand, _):
                yield sentence(
                    "Law: it is linear in ", Mono(operand), ", so results over pieces of ", axis,
                    " add up.",
                )  # fmt: skip
    if steps := manual.steps.get(entry.name):
        yield Paragraph(("In laws of ", *listed(map(Link, steps)), "."))


def pieces(instruction: Instruction) -> Iterator[Block]:
    """What it is cut into where its reduction goes in pieces."""
    if not instruction.reduced or not instruction.accumulates:
        return
    over = ", ".join(sorted(instruction.reduced))
    blocks: list[Block] = []
    for piece in step_of(instruction):
        if piece is not None:
            blocks += [Paragraph((Mono(piece.name),)), *formulas(piece)]
    yield Fold(f"In pieces of {over}", tuple(blocks))


# ---------------------------------------------------------------- operands and axes


def operands(instruction: Instruction) -> Table:
    """What it reads, replaces, writes and sets; results are called as in the formula."""
    rows = [_operand("reads", Mono(leaf.name), leaf) for leaf in instruction.operands]
    for state in instruction.states:
        name = Mono(state.input.name)
        rows.append(_operand("replaces", name, state.input, repr(state.initial)))
    for leaf in instruction.results:
        rows.append(_operand("writes", Mono(leaf.name), leaf))
    if not instruction.opaque:
        made = zip(formula(instruction).equations, instruction.outputs, strict=True)
        for equation, output in list(made)[len(instruction.states) :]:
            rows.append(_operand("writes", Math(equation.left), output))
    for parameter in instruction.sets:
        rows.append((text("sets"), text(Mono(parameter)), (), text("integer"), ()))
    headings = ("role", "name", "axes", "type", "starts as")
    shown = len(headings) if instruction.states else len(headings) - 1
    return Table(headings[:shown], tuple(row_[:shown] for row_ in rows))


def _operand(role: str, name: Inline, node: Node, start: str = "") -> tuple[Text, ...]:
    size = DTYPES[node.dtype].size
    about = f"{node.dtype}, {size} {'byte' if size == 1 else 'bytes'}"
    shown = text(Mono(" ".join(node.axes))) if node.axes else ()
    return text(role), text(name), shown, text(about), text(start)


def immediates(instruction: Instruction) -> Table:
    formats = dict(instruction.formats)
    rows = tuple(
        (text(Mono(i.name)), text(repr(i.default)), text(i.dtype), text(formats.get(i.name, "")))
        for i in instruction.immediates
    )
    headings = ("immediate", "default", "type", "written as")
    shown = len(headings) if formats else len(headings) - 1
    return Table(headings[:shown], tuple(row[:shown] for row in rows))


def axes(instruction: Instruction) -> Table:
    """How each axis may be cut, and how much of it one issue takes."""
    limits = dict(instruction.tile)
    windows = {axis for index in instruction.windows.values() for axis in index.axes}
    rows = []
    for axis in instruction.axes:
        how = "in parallel"
        if axis in instruction.reduced:
            how = "accumulated, in pieces"
        elif axis in instruction.whole:
            how = "whole in one issue"
        if axis in windows:
            how += ", in a window"
        if axis in instruction.indexed:
            how += ", one axis of the model"
        limit = limits.get(axis)
        room: Text = ()
        if limit is not None:
            room = text(Mono(limit)) if isinstance(limit, str) else text(str(limit))
        users = [leaf.name for leaf in _leaves(instruction) if axis in leaf.axes]
        rows.append((text(Mono(axis)), text(how), room, listed(map(Mono, users))))
    return Table(("axis", "goes", "at most", "of"), tuple(rows))


def _leaves(instruction: Instruction) -> list[Input]:
    states = [state.input for state in instruction.states]
    return [*instruction.operands, *states, *instruction.results]


# ---------------------------------------------------------------- time


def timing(instruction: Instruction, machines: Sequence[Machine]) -> Iterator[Block]:
    """The formula on each machine, and the cycles of a typical tile."""
    how = "Derived from the operations"
    if instruction.occupancy is not None:
        how = "Stated by the plugin"
    elif instruction.opaque:
        how = "A cycle for each element of the largest operand or result"
    yield sentence(
        f"{how}; cycles of one issue. In the example an axis is {TYPICAL} long, or as long as its "
        "tile limit."
    )
    if not instruction.opaque:
        count = instruction.operations({axis: length(axis) for axis in instruction.axes})
        yield sentence("Operations: ", Math(amount_box(count)), ".")
    if instruction.latency is not None:
        yield sentence("Latency: ", Math(timing_box(instruction.latency, {})), ".")
    units = {machine.name: unit_of(machine, instruction) for machine in machines}
    times = [
        Equation(Word(name), "=", occupancy_box(instruction, unit))
        for name, unit in units.items()
        if unit is not None
    ]
    if times:
        yield sentence("Occupancy:")
        yield Equations(tuple(times))
    headings = ("machine", "example", "cycles", "latency", "operations a cycle")
    rows = tuple(_time(instruction, name, unit) for name, unit in units.items())
    yield Table(headings, rows, frozenset(headings[2:]))


def unit_of(machine: Machine, instruction: Instruction) -> Unit | None:
    """The units that run the instruction, where the machine has such."""
    return next((unit for unit in machine.units if unit.name == instruction.unit), None)


def _time(instruction: Instruction, machine: str, unit: Unit | None) -> tuple[Text, ...]:
    if unit is None:
        return text(Mono(machine)), text(f"no unit {instruction.unit}"), (), (), ()
    sizes = instruction.limits(unit, dict.fromkeys(instruction.axes, TYPICAL))
    occupancy, latency = cycles(instruction, unit, sizes)
    rate = "" if instruction.opaque else f"{instruction.operations(sizes) / occupancy:.1f}"
    example = ", ".join(f"{axis}\u00a0{size}" for axis, size in sizes.items())
    numbers = text(f"{occupancy:,}"), text(f"{latency:,}"), text(rate)
    return text(Mono(machine)), text(example), *numbers


def cycles(instruction: Instruction, unit: Unit, sizes: Mapping[str, int]) -> tuple[int, int]:
    """(occupancy, latency) of one issue, as the simulator counts them."""
    if instruction.opaque and instruction.occupancy is None:
        elements = max((volume(leaf.axes, sizes) for leaf in _leaves(instruction)), default=1)
        occupancy = elements + unit.attributes["overhead"]
        return occupancy, occupancy + unit.attributes["latency"]
    occupancy, latency = issue_cycles(instruction, own_opcode(instruction), unit, sizes)
    return max(1, int(occupancy)), max(1, int(latency))


def occupancy_box(instruction: Instruction, unit: Unit) -> Box:
    """The occupancy on a unit as a formula over the lengths of axes."""
    if instruction.occupancy is not None:
        return timing_box(instruction.occupancy, unit.attributes)
    lengths = {axis: length(axis) for axis in instruction.axes}
    overhead = unit.attributes["overhead"]
    if not instruction.opaque:
        return amount_box(issue_cycles(instruction, own_opcode(instruction), unit, lengths)[0])
    volumes = [" ".join(leaf.axes) for leaf in _leaves(instruction)]
    amounts = [amount_box(volume(each.split(), lengths)) for each in dict.fromkeys(volumes)]
    largest = amounts[0] if len(amounts) == 1 else call("max", *amounts)
    return row(largest, Sign("+"), Number(str(overhead))) if overhead else largest


# ---------------------------------------------------------------- bytes


def written(example: Example) -> Iterator[Block]:
    """The opcode as text and as bytes, and an issue of it."""
    where = f"In program {example.program!r}:" if example.issue else "Over its own axes:"
    yield sentence(where)
    lines = [example.text, *([example.issue] if example.issue else [])]
    yield Code("\n\n".join(lines), "")
    size = sum(len(field.data) for field in example.fields)
    tables: list[Block] = [_fields(example.fields)]
    title = f"Bytes of the opcode ({size})"
    if example.issue_fields:
        size = sum(len(field.data) for field in example.issue_fields)
        title += f" and of the issue ({size})"
        tables.append(_fields(example.issue_fields))
    yield Fold(title, tuple(tables))


def _fields(fields: Sequence[Field]) -> Table:
    rows = [
        (text(field.name), text(str(len(field.data))), text(Mono(_hexadecimal(field.data))))
        for field in fields
    ]
    return Table(("field", "bytes", "as written"), tuple(rows), frozenset({"bytes"}))


def _hexadecimal(data: bytes) -> str:
    shown = data[:SHOWN_BYTES].hex(" ")
    return shown if len(data) <= SHOWN_BYTES else shown + " …"


# ---------------------------------------------------------------- use


def uses(entry: Entry, manual: Manual) -> Iterator[Block]:
    """The nodes that it computes in the models at hand, and how busy that keeps its unit."""
    if not entry.uses:
        yield sentence(f"Not used by {_words(manual.models)}.")
        return
    rows = []
    for use in entry.uses:
        nodes = listed(map(Mono, together(use.nodes)))
        name = text(Mono(entry.name + use.part)) if use.part else text("whole")
        number = text(str(len(use.nodes)))
        amounts = text(f"{use.operations:,}"), text(f"{use.bytes:,}")
        rows.append((text(use.model), text(use.graph), name, number, *amounts, nodes))
    headings = ("model", "graph", "as", "calls", "operations", "bytes", "nodes")
    yield Table(headings, tuple(rows), frozenset({"calls", "operations", "bytes"}))
    for busy in entry.busy:
        yield sentence(
            f"{percent(busy.share)} of the busy cycles of ",
            Mono(busy.unit),
            f" in {busy.model}, in {busy.issues:,} issues.",
        )


def together(nodes: Sequence[str]) -> list[str]:
    """Names that differ in one number as one: `layers.0–3.norm`."""
    found: dict[str, list[str]] = {}
    for node in dict.fromkeys(nodes):
        found.setdefault(re.sub(r"\d+", "#", node), []).append(node)
    return [name for same in found.values() for name in _joined(same)]


def _joined(names: Sequence[str]) -> list[str]:
    parts = [re.split(r"(\d+)", name) for name in names]
    columns = [n for n in range(len(parts[0])) if len({part[n] for part in parts}) > 1]
    if len(columns) != 1:
        return list(names)
    numbers = sorted(int(part[columns[0]]) for part in parts)
    if numbers[-1] - numbers[0] != len(numbers) - 1:
        return list(names)
    start, end = parts[0][: columns[0]], parts[0][columns[0] + 1 :]
    return ["".join([*start, f"{numbers[0]}–{numbers[-1]}", *end])]
