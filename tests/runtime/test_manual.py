"""The manual's parts: formulas of cycles, bytes of opcodes, a whole section as Markdown."""

import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from infinisa.isa.encoding import decode, encode
from infinisa.isa.instance import issue_cycles, resolve
from infinisa.isa.instruction import Instruction, volume
from infinisa.isa.machine import Machine
from infinisa.isa.program import Loop, Program
from infinisa.isa.timing import Timing
from infinisa.plugins.manager import Registry, import_file, load
from infinisa.runtime.report.latex import latex
from infinisa.runtime.report.manual import Busy, Entry, Manual, Use
from infinisa.runtime.report.manual.amounts import (
    Amount,
    Factor,
    Largest,
    Quotient,
    amount_box,
    length,
    timing_box,
)
from infinisa.runtime.report.manual.contents import cycles, together
from infinisa.runtime.report.manual.encoded import examples, only_opcodes, own_opcode
from infinisa.runtime.report.manual.markdown import section
from tests.runtime.builder import Builder, machine

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "manual_softcap.md"


@cache
def registry() -> Registry:
    return load(installed=False)


def value(amount: Amount | int, lengths: dict[str, int]) -> int:
    """The number that a formula stands for."""
    if isinstance(amount, int):
        return amount
    total = 0
    for factors, count in amount.terms:
        for factor in factors:
            count *= factor_value(factor, lengths)
        total += count
    return total


def factor_value(factor: Factor, lengths: dict[str, int]) -> int:
    match factor:
        case str():
            return lengths[factor]
        case Largest(amounts):
            return max(value(each, lengths) for each in amounts)
        case Quotient(amount, by, up):
            share = value(amount, lengths) / by
            return math.ceil(share) if up else math.floor(share)


@pytest.mark.parametrize("target", ["tiny", "edge", "tpu_v1"])
def test_the_formula_of_a_time_gives_the_cycles_of_the_simulator(target: str) -> None:
    """For every instruction without a timing of its own, at lengths drawn at random."""
    found = registry().machines[target].item
    generator = np.random.default_rng(0)
    for instruction in registry().library.values():
        if instruction.opaque or instruction.occupancy is not None:
            continue
        unit = found.unit(instruction.unit)
        for _ in range(4):
            sizes = {axis: int(generator.integers(1, 700)) for axis in instruction.axes}
            amounts = {axis: length(axis) for axis in instruction.axes}
            formula, _ = issue_cycles(instruction, own_opcode(instruction), unit, amounts)

            assert max(1, value(formula, sizes)) == cycles(instruction, unit, sizes)[0]
            assert value(instruction.operations(amounts), sizes) == instruction.operations(sizes)


@pytest.mark.parametrize(
    ("amount", "expected"),
    [
        (length("m") * 3 * length("n") + 2 * length("n") * length("m"), r"5 \cdot m \cdot n"),
        (length("m") - length("m"), "0"),
        (length("m") - 7, "m - 7"),
        (4 + length("m") * length("k") + length("k"), r"m \cdot k + k + 4"),
        (-(-length("m") // 16), r"\left\lceil m / 16 \right\rceil"),
        (-(-(length("m") + 1) // 16), r"\left\lceil \left( m + 1 \right) / 16 \right\rceil"),
        (length("m") // 16, r"\left\lfloor m / 16 \right\rfloor"),
        (length("m") * 32 // 16, r"2 \cdot m"),
    ],
)
def test_an_amount_is_written_as_short_as_it_is(amount: Amount, expected: str) -> None:
    assert latex(amount_box(amount)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("m * n / lanes + 12", r"\left\lceil m \cdot n / 64 \right\rceil + 12"),
        ("(m + n) * 2 // (k - 1)",
         r"\left\lfloor \left( m + n \right) \cdot 2 / \left( k - 1 \right) \right\rfloor"),
        ("m - (n - k)", r"m - \left( n - k \right)"),
        ("m - n - k", "m - n - k"),
        ("max(m, n % 8)", r"\operatorname{max} \left( m , n \operatorname{mod} 8 \right)"),
        ("-m + n", "- m + n"),
    ],
)  # fmt: skip
def test_a_stated_timing_is_written_with_the_attributes_of_the_unit(
    text: str, expected: str
) -> None:
    assert latex(timing_box(Timing(text), {"lanes": 64})) == expected


# ---------------------------------------------------------------- bytes


def softcap() -> Instruction:
    found = import_file(ROOT / "examples" / "softcap" / "infinisa_softcap.py").softcap_softmax
    assert isinstance(found, Instruction)
    return found


def program(instruction: Instruction) -> Program:
    """One issue of it, on tiles of four rows."""
    build = Builder(dtype="f32", library={instruction.name: instruction})
    build.axis("m", 8)
    build.axis("n", 16)
    build.tensor("x", 8, 16)
    build.tile("p", 4, 16)
    build.tile("q", 4, 16)
    reads, writes = ["p m1 n"], ["q m1 n"]
    issue = build.issue(instruction.name, reads, writes, "m=m1 n=n")
    return build.program([Loop("m1", "m", 4, (build.load("p m1 n", "x m1 n"), issue))])


def test_the_bytes_shown_are_those_of_the_program() -> None:
    """The fields of an opcode and of an issue, one after the other, stand in the encoding."""
    made = program(softcap())
    data = encode(made)
    example = examples(made)["softcap_softmax"]
    opcode = b"".join(field.data for field in example.fields)
    issue = b"".join(field.data for field in example.issue_fields)

    assert decode(data, "test") == made
    assert opcode in data
    assert issue in data
    assert [field.name for field in example.fields] == [
        "name",
        "instruction",
        "meaning",
        "unit",
        "binding",
        "immediates",
        "operands",
        "results",
        "outputs",
        "limits",
    ]
    assert [field.name for field in example.issue_fields] == [
        "opcode",
        "flags",
        "axes",
        "reads",
        "writes",
    ]
    assert example.issue == "q[m1-m1, n-n] = softcap_softmax(p[m1-m1, n-n]) on vector over m=m1, n"


def test_an_instruction_that_no_program_uses_has_an_opcode_that_could_be_used() -> None:
    """It is encoded like any other, and means what its definition says."""
    library = registry().library
    made = only_opcodes("unused", "tiny", map(own_opcode, library.values()))

    assert decode(encode(made), "test") == made
    assert set(examples(made)) == set(library)
    for opcode in made.opcodes:
        types = [leaf.dtype for leaf in library[opcode.instruction].operands]
        found = resolve(opcode, types, library)
        assert found.meaning == library[opcode.instruction].meaning


# ---------------------------------------------------------------- the text


def test_names_that_differ_in_one_number_stand_together() -> None:
    nodes = ["layers.0.norm", "layers.1.norm", "layers.2.norm", "head", "a.1.b.2", "a.2.b.1"]

    assert together([*nodes, "head", "x.1", "x.3"]) == [
        "layers.0–2.norm",
        "head",
        "a.1.b.2",
        "a.2.b.1",
        "x.1",
        "x.3",
    ]


def golden(target: Machine) -> str:
    """The section of the example plugin's instruction, as if a model had used it."""
    instruction = softcap()
    nodes = tuple(f"layers.{n}.weights" for n in range(3))
    entry = Entry(
        instruction,
        "softcap",
        "infinisa-softcap",
        "1.2.0",
        examples(program(instruction))[instruction.name],
        (Use("capped", "main", "", nodes, 6 * volume("mn", {"m": 8, "n": 16}), 3072),),
        (Busy("capped", "vector", 0.25, 6),),
    )
    return section(entry, Manual("1", (entry,), (target,), ("capped",)))


def test_a_section_of_the_manual_is_as_it_was_read_by_a_person() -> None:
    assert golden(machine()) + "\n" == GOLDEN.read_text("utf-8")
