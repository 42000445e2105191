"""Opaque instructions in native programs: regions out, values and parameters back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from infinisa.isa.errors import ProgramError
from infinisa.isa.instruction import Instruction, opaque
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
    parameter,
)
from infinisa.runtime.interpreter import interpret
from infinisa.runtime.jit import compile_program


@opaque(unit="scalar", results={"y": "n: i32", "total": "i32"}, sets=("count",))
def running(x: "n: i32", y, total):
    """Running sums in y, the sum of all sums so far in total; how many are even."""
    so_far = 0
    even = 0
    for i in range(len(x)):
        so_far += x[i]
        y[i] = so_far
        if so_far % 2 == 0:
            even += 1
    total[0] += so_far
    return even


@opaque(unit="scalar", results={"y": "n: i32"})
def broken(x: "n: i32", y):
    """Raises."""
    raise ValueError("no such thing")


def program(meaning: Instruction, steps: int = 4) -> Program:
    """`meaning` on pieces of x, as a section that runs `turns` times, then one that counts."""
    whole = Dimension((Term("n1"),))
    writes = [Operand("y", (whole,)), Operand("total", ())][: len(meaning.results)]
    opcode = Opcode(
        "op",
        meaning.name,
        meaning.meaning,
        "scalar",
        binding=(("n", ("n",)),),
        operands=(("n",),),
        results=(("n",), ())[: len(meaning.results)],
        outputs=(0, 1)[: len(meaning.results)],
    )
    sets = ("count",) if meaning.sets else ()
    reads = (Operand("x", (whole,)),)
    issue = Issue("op", "scalar", reads, tuple(writes), (("n", "n1"),), None, sets)
    given = [("length", 10, 10, True), ("count", 10, 0, False), ("turn", 9, 0, False)]
    extent = Extent("n", parameter("length"), 10)
    loop = Loop("n1", "n", steps, (issue,))
    section = Section("all", (extent,), (Stage("only", (loop,)),), Repeat("turn", Count(2)))
    return Program(
        "opaque",
        "host",
        tuple(Parameter(*row) for row in given),
        (opcode,),
        (
            Buffer("x", "dram", (10,), "i32", "input"),
            Buffer("y", "dram", (10,), "i32", "output"),
            Buffer("total", "dram", (), "i32", "state"),
        ),
        (section,),
    )  # fmt: skip


@pytest.mark.parametrize("length", [10, 7, 0])
def test_an_opaque_instruction_runs_as_in_the_interpreter(length: int) -> None:
    x = {"x": np.arange(3, 13, dtype=np.int32)}
    library = {"running": running}
    wanted = interpret(program(running), library, x, {"length": length})

    found = compile_program(program(running), library, verified=True).run(x, {"length": length})

    assert found.parameters == wanted.parameters
    assert found.outputs["y"].tolist() == wanted.outputs["y"].tolist()
    assert found.kept["total"] == wanted.kept["total"]


def test_an_error_in_an_opaque_instruction_comes_through() -> None:
    """And the session can be used again."""
    made = program(broken)
    session = compile_program(made, {"broken": broken}, verified=True).session(
        {"x": np.zeros(10, np.int32)}
    )
    for _ in range(2):
        with pytest.raises(ProgramError, match="no such thing"):
            session.run({})


def test_a_parameter_that_makes_an_axis_too_long_is_refused() -> None:
    """An instruction may set a parameter to anything."""
    made = program(running)
    second = replace(
        made.sections[0],
        name="next",
        extents=(Extent("n", parameter("count") + 9, 10),),
        repeat=None,
    )
    made = replace(made, sections=(*made.sections, second))
    code = compile_program(made, {"running": running}, verified=True)

    with pytest.raises(ProgramError, match="axis 'n' must have at most 10 positions"):
        code.run({"x": np.full(10, 2, np.int32)})


@opaque(unit="scalar", results={"y": "n: i32", "total": "i32"}, sets=("count",))
def unruly(x: "n: i32", y, total):
    """Reads x at its own first number, and returns it."""
    y[0] = x[x[0]]
    return x[0] * 3


@pytest.mark.parametrize(
    ("first", "message"),
    [
        (2, None),
        (4, "parameter 'count': must be 0 to 10, not 12"),
        (-1, "instruction 'unruly': failed in unruly, line"),
        (11, "instruction 'unruly': failed in unruly, line"),
    ],
)
def test_what_a_body_may_not_do_is_refused(first: int, message: str | None) -> None:
    made = program(unruly, steps=10)
    code = compile_program(made, {"unruly": unruly}, verified=True)
    x = {"x": np.full(10, first, np.int32)}
    if message is None:
        assert code.run(x).parameters["count"] == 6
        return

    with pytest.raises(ProgramError) as caught:
        code.run(x)

    assert str(caught.value).startswith(message)
