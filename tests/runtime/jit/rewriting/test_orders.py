"""Kept tensors lie with the axes outermost that all products share; values are as declared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from infinisa.isa import language as L
from infinisa.isa.instruction import Instruction, instruction, opaque
from infinisa.isa.program import Buffer, Dimension, Issue, Opcode, Operand, Program, Stage, Term
from infinisa.runtime.interpreter import interpret
from infinisa.runtime.jit import compile_program
from tests.runtime.jit.single import BACKENDS, check, of, program_of

SIZES = {"s": 3, "h": 5, "d": 64, "t": 37, "e": 48}


@instruction(unit="matrix")
def attend(q: "s h d", k: "t h d", v: "t h e"):
    e = L.exp(L.dot(q, k, "d") * 0.125)
    return L.dot(e, v, "t") / L.sum(e, "t")


@instruction(unit="matrix")
def attend_and_sum(q: "s h d", k: "t h d", w: "h d n"):
    return L.dot(q, k, "d"), L.dot(k, w, "h d")


@opaque(unit="scalar", results={"y": "t h e: f32"})
def twice(x: "t h e", y):
    """Reads and writes in the order in which tensors are declared."""
    for i in range(len(x)):
        y[i] = x[i] * 2.0


def kept(program: Program, *names: str) -> Program:
    """The program with inputs that are kept from run to run."""
    buffers = tuple(replace(b, kind="state") if b.name in names else b for b in program.buffers)
    return replace(program, buffers=buffers)


def arrays(program: Program) -> dict[str, np.ndarray]:
    source = np.random.default_rng(0)
    given = (b for b in program.buffers if b.kind in ("input", "state"))
    return {b.name: source.standard_normal(b.shape, np.float32) for b in given}


def orders(program: Program, library: Mapping[str, Instruction]) -> dict[str, tuple[int, ...]]:
    return dict(compile_program(program, library, cache=False).plan.orders)


def issues(stage: Stage) -> list[Issue]:
    return [item for item in stage.body if isinstance(item, Issue)]


def moved(program: Program, names: Mapping[str, str]) -> tuple[Stage, list[Buffer]]:
    """The stage of a program on other buffers, and these."""

    def part(operand: Operand) -> Operand:
        return replace(operand, buffer=names.get(operand.buffer, operand.buffer))

    (stage,) = program.sections[0].stages
    body = (
        replace(i, reads=tuple(map(part, i.reads)), writes=tuple(map(part, i.writes)))
        for i in issues(stage)
    )
    buffers = [replace(program.buffer[old], name=new) for old, new in names.items()]
    return Stage("moved", tuple(body)), buffers


def joined(
    program: Program, stage: Stage, buffers: Sequence[Buffer], opcodes: Sequence[Opcode] = ()
) -> Program:
    """The program with another stage behind its own; buffers that it has already are shared."""
    section = program.sections[0]
    buffers = [buffer for buffer in buffers if buffer.name not in program.buffer]
    return replace(
        program,
        opcodes=(*program.opcodes, *opcodes),
        buffers=(*program.buffers, *buffers),
        sections=(replace(section, stages=(*section.stages, stage)),),
    )


@pytest.mark.parametrize("rows", [1, 3, 20])
def test_heads_of_caches_lie_outermost(rows: int) -> None:
    program = kept(program_of(attend, SIZES | {"s": rows}), "k", "v")

    assert orders(program, of(attend)) == {"k": (1, 0, 2), "v": (1, 0, 2)}
    check(program, of(attend), arrays(program))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_session_shows_them_as_declared(backend: str) -> None:
    program = kept(program_of(attend, SIZES), "k", "v")
    given = arrays(program)
    session = compile_program(program, of(attend), backend, **BACKENDS[backend]).session(given)
    step = session.step()
    step()

    for name in ("k", "v"):
        np.testing.assert_array_equal(session.tensors[name], given[name])
    session.tensors["v"][...] = given["v"] = given["v"][::-1].copy()
    step()
    expected = interpret(program, of(attend), given).outputs["out0"]
    np.testing.assert_allclose(session.tensors["out0"], expected, atol=1e-5)


def test_a_tensor_that_a_product_sums_over_lies_as_declared() -> None:
    program = kept(program_of(attend_and_sum, {"s": 3, "h": 5, "d": 16, "t": 9, "n": 7}), "k")

    assert orders(program, of(attend_and_sum)) == {}
    check(program, of(attend_and_sum), arrays(program))


def test_what_an_opaque_instruction_touches_lies_as_declared() -> None:
    program = kept(program_of(attend, SIZES), "k", "v")
    axes = ("t", "h", "e")
    place = tuple(Dimension((Term(axis),)) for axis in axes)
    opcode = Opcode("two", "twice", twice.meaning, "scalar", binding=tuple((a, (a,)) for a in axes),
                    operands=(axes,), results=(axes,), outputs=(0,))  # fmt: skip
    issue = Issue("two", "scalar", (Operand("v", place),), (Operand("double", place),),
                  tuple((a, a) for a in axes))  # fmt: skip
    double = Buffer("double", "dram", program.buffer["v"].shape, "f32", "output")
    program = joined(program, Stage("two", (issue,)), [double], [opcode])
    library = {**of(attend), "twice": twice}

    assert orders(program, library) == {"k": (1, 0, 2)}
    check(program, library, arrays(program))


def test_tensors_of_stages_that_are_alike_have_one_order() -> None:
    """The second stage's cache is also read by a product that sums over its heads."""
    program = kept(program_of(attend, {**SIZES, "n": 7}), "k", "v")
    summing = program_of(attend_and_sum, {**SIZES, "n": 7})
    names = {"out0": "out2", "k": "l", "v": "w"}
    program = joined(program, *moved(program, names))
    names = {"k": "l", "w": "weight", "out0": "out3", "out1": "out4"}
    opcode = replace(summing.opcodes[0], name="sums")
    stage, buffers = moved(summing, names)
    sums = replace(stage, body=tuple(replace(i, opcode="sums") for i in issues(stage)))
    program = joined(program, sums, buffers, [opcode])
    library = {**of(attend), **of(attend_and_sum)}

    assert orders(program, library) == {"v": (1, 0, 2), "w": (1, 0, 2)}
    check(program, library, arrays(program))
