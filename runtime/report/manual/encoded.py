"""Which bytes of an encoded program say what: the fields of opcodes and issues, as written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from infinisa.isa.assembly import issue_text, to_text
from infinisa.isa.encoding import Writer
from infinisa.isa.instruction import Instruction
from infinisa.isa.program import Issue, Opcode, Program

T = TypeVar("T")


@dataclass(frozen=True)
class Field:
    """A field and its bytes."""

    name: str
    data: bytes


@dataclass(frozen=True)
class Example:
    """An opcode of a program and its first issue, as text and as bytes."""

    program: str
    opcode: Opcode
    text: str
    fields: tuple[Field, ...]
    issue: str = ""
    issue_fields: tuple[Field, ...] = ()


class Marking(Writer):
    """Writes a program and notes where the fields of opcodes and first issues begin."""

    def __init__(self, program: Program, table: Sequence[str]) -> None:
        super().__init__(program, table)
        self.marks: list[tuple[str, int]] = []
        self.opcode_fields: dict[str, tuple[Field, ...]] = {}
        self.issues: dict[str, tuple[Issue, tuple[Field, ...]]] = {}

    def field(self, name: str) -> None:
        self.marks.append((name, len(self.out)))

    def fields(self, write: Callable[[T], None], item: T) -> tuple[Field, ...]:
        """Write an item; the fields that it has."""
        self.marks = []
        write(item)
        ends = [start for _, start in self.marks[1:]] + [len(self.out)]
        return tuple(
            Field(name, bytes(self.out[start:end]))
            for (name, start), end in zip(self.marks, ends, strict=True)
        )

    def opcode(self, opcode: Opcode) -> None:
        self.opcode_fields[opcode.name] = self.fields(super().opcode, opcode)

    def issue(self, issue: Issue) -> None:
        found = self.fields(super().issue, issue)
        self.issues.setdefault(issue.opcode, (issue, found))


def examples(program: Program) -> dict[str, Example]:
    """An example of each instruction of a program, from its first opcode."""
    draft = Writer(program, None)
    draft.program(program)
    writer = Marking(program, sorted(draft.strings))
    writer.program(program)
    found: dict[str, Example] = {}
    for opcode in program.opcodes:
        if opcode.instruction in found:
            continue
        issue, fields = writer.issues.get(opcode.name, (None, ()))
        found[opcode.instruction] = Example(
            program.name,
            opcode,
            opcode_text(opcode),
            writer.opcode_fields[opcode.name],
            issue_text(issue) if issue else "",
            fields,
        )
    return found


def opcode_text(opcode: Opcode) -> str:
    """An opcode as it stands in the text of a program."""
    alone = to_text(Program("", "", (), (opcode,), (), ()))
    return alone.split("\n\n", 1)[1].rstrip("\n")


def only_opcodes(name: str, machine: str, opcodes: Iterable[Opcode]) -> Program:
    """A program that computes nothing, to show how its opcodes are written."""
    return Program(name, machine, (), tuple(opcodes), (), ())


def own_opcode(instruction: Instruction) -> Opcode:
    """An opcode of the instruction over its own axes, for one that no program uses."""
    results = instruction.results or instruction.outputs
    numbers = instruction.held({i.name: i.default for i in instruction.immediates})
    assert numbers is not None  # an encoding holds the defaults
    return Opcode(
        instruction.name,
        instruction.name,
        instruction.meaning,
        instruction.unit,
        tuple((axis, (axis,)) for axis in instruction.axes),
        tuple(numbers.items()),
        tuple(leaf.axes for leaf in instruction.operands),
        tuple(value.axes for value in results),
        tuple(range(len(results))),
        formats=instruction.formats,
    )
