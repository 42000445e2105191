"""Programs as text: readable, the same program again, and errors that name line and expectation."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from infinisa.isa.assembly import parse_text, to_text
from infinisa.isa.errors import ProgramError
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
    Term,
)
from infinisa.isa.verify import verify
from tests.isa.anything import anything
from tests.isa.programs import LIBRARY, TINY, programs

TEXT = """\
program attention for edge

parameter rows <= 100 default 20
parameter turn <= 7 default 0 computed

opcode load = load "" on load

opcode flash = flash_step "5c1d9f2b7a604e38" on matrix
    bind s = s
    bind d = e
    bind t =
    with scale = 0.125
    with steps = -3
    with top = -inf
    limit s 16
    read (s e)
    read (. e)
    write (s)
    outputs 2 0

buffer x: input bf16 [100, 64] in dram
buffer one: weight f32 [] in dram content "00ff"
buffer "a b": state i32 [8] in dram initial -1.0
buffer main/0/x: temporary bf16 [16, 64] in scratchpad place 2 address 4096 pitch 2048 slots 2 \
rotor s1

section main
    axis s = rows + 1 from 2*turn - 1*rows + 3 most 100 end 120
    axis e = 64
    stage first
        alive main/0/x 0 to 3
        for s1 in s step 16:
            ahead:
                main/0/x[s1-s1, e] = load(x[s1-s, e]) on load
            for e1 in e step 8 over cores:
                main/0/x[2*(s1-s)+e1-1, e-e], "a b"[3] = flash(x[s1, 2*e1] fill -1.5, one[]) on \
matrix over s=s1, e fresh s1, e1
        for e2 in e step 1 reverse:
            "for"[] = load() on load fresh

section again repeat turn < rows tokens 2*rows
    stage "sets only"
        flash() on matrix sets turn, rows
"""


def test_a_text_is_written_as_it_was_read() -> None:
    """Every construct there is."""
    assert to_text(parse_text(TEXT, "test")) == TEXT


def test_a_text_is_read_into_the_parts_of_a_program() -> None:
    program = parse_text(TEXT, "test")

    assert program.parameters[1] == Parameter("turn", 7, 0, given=False)
    assert program.opcodes[1] == Opcode(
        "flash",
        "flash_step",
        "5c1d9f2b7a604e38",
        "matrix",
        binding=(("s", ("s",)), ("d", ("e",)), ("t", ())),
        immediates=(("scale", 0.125), ("steps", -3), ("top", float("-inf"))),
        operands=(("s", "e"), ("", "e")),
        results=(("s",),),
        outputs=(2, 0),
        limits=(("s", 16),),
    )
    assert program.buffers[3] == Buffer(
        "main/0/x", "scratchpad", (16, 64), "bf16", "temporary", 2, "s1", 2, 4096, 2048
    )


def test_a_text_is_read_into_the_sections_of_a_program() -> None:
    section, again = parse_text(TEXT, "test").sections

    assert section.extents[0] == Extent(
        "s", Count(1, (("rows", 1),)), 100, Count(3, (("turn", 2), ("rows", -1))), 120
    )
    loop, backwards = section.stages[0].body
    assert isinstance(loop, Loop)
    assert isinstance(backwards, Loop)
    assert (loop.range, loop.parent, loop.step, len(loop.ahead)) == ("s1", "s", 16, 1)
    assert backwards.reverse
    (inner,) = loop.body
    assert isinstance(inner, Loop)
    assert inner.spread
    assert inner.body[0] == Issue(
        "flash",
        "matrix",
        reads=(
            Operand("x", (Dimension((Term("s1"),)), Dimension((Term("e1", stride=2),))), -1.5),
            Operand("one", ()),
        ),
        writes=(
            Operand(
                "main/0/x",
                (
                    Dimension((Term("s1", "s", 2), Term("e1")), -1),
                    Dimension((Term("e", "e"),)),
                ),
            ),
            Operand("a b", (Dimension((), 3),)),
        ),
        axes=(("s", "s1"), ("e", "e")),
        fresh=("s1", "e1"),
    )
    assert again.repeat == Repeat("turn", Count(0, (("rows", 1),)))
    assert again.tokens == Count(0, (("rows", 2),))
    assert again.stages[0].body == (Issue("flash", "matrix", (), (), sets=("turn", "rows")),)


def test_comments_and_blank_lines_mean_nothing() -> None:
    text = TEXT.replace("section main\n", '\n   # a comment\nsection main  # the "only" one\n')

    assert parse_text(text, "test") == parse_text(TEXT, "test")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(programs())
def test_a_program_is_the_same_after_writing_and_reading(program: Program) -> None:
    assert parse_text(to_text(program), "test") == program


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(anything())
def test_any_program_is_the_same_after_writing_and_reading(program: Program) -> None:
    """Even one that means nothing, with names such as `for` and ` "` and an empty one."""
    assert parse_text(to_text(program), "test") == program


@pytest.mark.parametrize(
    ("line", "instead", "message"),
    [
        (TEXT, "", "line 1: expected 'program', not the end"),
        ("program attention for edge", "program attention", "line 1: expected 'for', not the end"),
        ("<= 100", "< 100", "line 3: expected '<=', not '<'"),
        ("default 20", "default x", "line 3: expected a whole number, not 'x'"),
        ("default 20", "default 2.5", "line 3: expected a whole number, not '2.5'"),
        ("default 20", "default 20 21", "line 3: expected the end of the line, not '21'"),
        ("<= 7", f"<= {'9' * 41}", f"line 4: expected a whole number, not '{'9' * 41}'"),
        ("buffer x", "bufer x", "line 21: expected 'parameter', 'opcode', 'buffer' or 'section', "
         "not 'bufer'"),
        ('"5c1d9f2b7a604e38"', "abc", "line 8: expected the meaning's hash in quotes, not 'abc'"),
        ("    bind s", "    bond s", "line 9: expected 'bind', 'with', 'limit', 'read', 'write' "
         "or 'outputs', not 'bond'"),
        ("read (s e)", "read (s e", "line 16: expected an axis, '.' or ')', not the end"),
        ("x: input", "x: inputs", "line 21: expected one of input, weight, state, output, "
         "temporary, not 'inputs'"),
        ("[100, 64]", "[100; 64]", "line 21: expected a name, a number or a mark, not ';'"),
        ("for s1", "for step", "line 31: expected a name for the pieces, not 'step'"),
        ("step 16:", "step 16", "line 31: expected ':', not the end"),
        ("[s1-s, e]", "[s1-s, -e]", "line 33: expected a number, not 'e'"),
        ("[s1-s, e]", "[s1-s, e", "line 33: expected ']', not ')'"),
        ("    axis e = 64", "     axis e = 64", "line 28: expected nothing indented here, "
         "not 'axis'"),
        ("    axis e = 64", "   axis e = 64", "line 28: expected 4 spaces before the line, "
         "not 'axis'"),
        ("most 100 end", "end", "line 27: expected 'most', since the length is not a number, "
         "not 'end'"),
        ('buffer "a b"', 'buffer "a\\qb"', "line 23: expected the buffer's name, "
         "not '\"a\\\\qb\"'"),
        ("default 20\n", "default 20\n    most\n", "line 4: expected nothing indented here, "
         "not 'most'"),
        ("    stage first", "    stag first", "line 29: expected 'axis' or 'stage', not 'stag'"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_line(line: str, instead: str, message: str) -> None:
    assert line in TEXT
    with pytest.raises(ProgramError) as caught:
        parse_text(TEXT.replace(line, instead, 1), "file")

    assert str(caught.value) == f"file, {message}"


def test_loops_may_not_be_endlessly_deep() -> None:
    """A thousand loops inside each other would be a thousand calls inside each other."""
    lines = ["program p for m", "section s", " stage t"]
    lines += [" " * depth + "for a in b step 1:" for depth in range(2, 1000)]

    with pytest.raises(ProgramError) as caught:
        parse_text("\n".join(lines), "file")

    assert str(caught.value) == (
        "file, line 69: expected at most 64 loops inside each other, not 'for'"
    )


def test_the_program_in_the_documentation_is_one() -> None:
    page = (Path(__file__).parents[2] / "docs" / "programs.md").read_text("utf-8")
    text = page.split("```\n")[1]

    program = parse_text(text, "programs.md")

    assert to_text(program) == text
    assert verify(program, TINY, LIBRARY) == 4
