"""Any program, whether it means something or not: odd names, negative sizes, unknown operands."""

from dataclasses import replace
from typing import Any

from hypothesis import strategies as some

from infinisa.isa.assembly import KEYWORDS
from infinisa.isa.dtypes import DTYPES, held
from infinisa.isa.program import (
    Buffer,
    Count,
    Dimension,
    Extent,
    Issue,
    Loop,
    Opcode,
    Operand,
    Parameter,
    Program,
    Repeat,
    Section,
    Stage,
    Term,
)

numbers = some.integers(-(2**40), 2**40)
naturals = some.integers(0, 2**31)
odd_names = some.text(some.characters(exclude_categories=["Cs"]), max_size=8)
names = some.one_of(some.sampled_from(["s", "x/0", "e1", *sorted(KEYWORDS)]), odd_names)
floats = some.floats(allow_nan=False)


def tuples(items: some.SearchStrategy[Any], most: int = 3) -> some.SearchStrategy[tuple[Any, ...]]:
    return some.lists(items, max_size=most).map(tuple)


def pairs(*items: some.SearchStrategy[Any]) -> some.SearchStrategy[tuple[Any, ...]]:
    return tuples(some.tuples(*items))


counts = some.builds(Count, numbers, pairs(names, numbers))
dimensions = some.builds(Dimension, tuples(some.builds(Term, names, names, numbers)), numbers)
operands = some.builds(Operand, names, tuples(dimensions), some.none() | floats)
issues = some.builds(
    Issue, names, names, tuples(operands), tuples(operands, 2), pairs(names, names),
    some.none() | tuples(names), tuples(names),
)  # fmt: skip


def loops(bodies: some.SearchStrategy[Any]) -> some.SearchStrategy[Loop]:
    return some.builds(
        Loop, names, names, numbers, tuples(bodies), tuples(issues, 2), some.booleans(),
        some.booleans(),
    )  # fmt: skip


statements = some.recursive(issues, loops, max_leaves=6)
stages = some.builds(Stage, names, tuples(statements), pairs(names, numbers, numbers))
sections = some.builds(
    Section, names,
    tuples(some.builds(Extent, names, counts, numbers, counts, numbers)),
    tuples(stages, 2), some.none() | some.builds(Repeat, names, counts), counts,
)  # fmt: skip
buffers = some.builds(
    Buffer, names, names, tuples(naturals), names,
    some.sampled_from(["input", "weight", "state", "output", "temporary"]),
    numbers, names, numbers, numbers, numbers, floats, some.text("0123456789abcdef"),
)  # fmt: skip
opcodes = some.builds(
    Opcode, names, names, names, names, pairs(names, tuples(names)),
    pairs(names, floats | numbers), tuples(tuples(names)), tuples(tuples(names)),
    tuples(naturals), pairs(names, numbers),
)  # fmt: skip


def typed(opcode: Opcode, kinds: list[str]) -> Opcode:
    """Some of its immediates in element types, where these hold them."""
    found = dict(zip(dict(opcode.immediates), kinds, strict=False))
    numbers = {
        name: kept
        for name, number in dict(opcode.immediates).items()
        if name in found and (kept := held(number, found[name])) is not None
    }
    immediates = tuple((dict(opcode.immediates) | numbers).items())
    return replace(
        opcode,
        immediates=immediates,
        formats=tuple((name, found[name]) for name, _ in immediates if name in numbers),
    )


opcodes = some.builds(typed, opcodes, some.lists(some.sampled_from(list(DTYPES)), max_size=3))


def anything() -> some.SearchStrategy[Program]:
    """Programs that only have the right types in them."""
    parameters = some.builds(Parameter, names, numbers, numbers, some.booleans())
    return some.builds(
        Program, names, names, tuples(parameters), tuples(opcodes, 2), tuples(buffers),
        tuples(sections, 2),
    )  # fmt: skip
