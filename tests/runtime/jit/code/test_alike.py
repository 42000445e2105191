"""Kernels that serve several issues: for fewer rows, or told their numbers."""

from __future__ import annotations

import re

import numpy as np
import pytest

from infinisa.isa import language as L
from infinisa.isa.assembly import parse_text
from infinisa.isa.instruction import instruction
from infinisa.isa.program import Program
from infinisa.isa.verify import verify
from infinisa.runtime.interpreter import interpret
from infinisa.runtime.jit import compile_program
from infinisa.runtime.jit.code.processor import Target
from infinisa.runtime.jit.program.program import emit
from tests.runtime.jit import single

TEXT = """program several for host
parameter rows <= 40 default 29
opcode first = product "{product}" on matrix
    bind m = m
    bind k = k
    bind n = n
    read (m k)
    read (k n)
    write (m n)
    outputs 0
opcode second = product "{product}" on matrix
    bind m = m
    bind k = n
    bind n = k
    read (m n)
    read (n k)
    write (m k)
    outputs 0
opcode all = softmax "{softmax}" on vector
    bind m = m
    bind n = k
    read (m k)
    write (m k)
    outputs 0
opcode last = softmax "{softmax}" on vector
    bind m = r
    bind n = k
    read (r k)
    write (r k)
    outputs 0
buffer y: output f32 [40, 128] in dram
buffer z: output f32 [40, 128] in dram
buffer x: input f32 [40, 128] in dram
buffer a: weight f32 [128, 256] in dram
buffer b: weight f32 [256, 128] in dram
buffer t: temporary f32 [40, 256] in dram
buffer u: temporary f32 [40, 128] in dram
section all
    axis k = 128
    axis m = rows most 40
    axis n = 256
    axis r = 1 from rows - 1 end 40
    stage only
        t[m, n] = first(x[m, k], a[k, n]) on matrix over m, k, n
        u[m, k] = second(t[m, n], b[n, k]) on matrix over m, k, n
        y[m, k] = all(u[m, k]) on vector over m, k
        z[r, k] = last(x[r, k]) on vector over r, k
"""


@instruction(unit="matrix")
def product(a: "m k", b: "k n"):
    return L.dot(a, b, "k")


@instruction(unit="vector")
def softmax(x: "m n"):
    e = L.exp(x - L.max(x, "n"))
    return e / L.sum(e, "n")


LIBRARY = {each.name: each for each in (product, softmax)}


@pytest.fixture(scope="module")
def program() -> Program:
    text = TEXT
    for name, each in LIBRARY.items():
        text = text.replace(f"{{{name}}}", each.meaning)
    found = parse_text(text, "several")
    verify(found, None, LIBRARY, 1)
    return found


def test_one_row_is_served_by_a_kernel_of_rows_and_products_share_their_loops(
    program: Program,
) -> None:
    code = emit(program, LIBRARY, Target.host(), 1).module.text
    called = set(re.findall(r"call void @(\w*kernel\w*)\(", code))

    assert len(called) == (2 if Target.host().lanes > 1 else 3)


def test_their_values_are_those_of_the_interpreter(program: Program) -> None:
    random = np.random.default_rng(0)
    kinds = (buffer for buffer in program.buffers if buffer.kind in ("input", "weight"))
    arrays = {b.name: random.standard_normal(b.shape).astype(np.float32) for b in kinds}
    for backend, more in single.BACKENDS.items():
        made = compile_program(program, LIBRARY, backend, **more)
        for rows in (1, 29):
            wanted = interpret(program, LIBRARY, arrays, {"rows": rows}).outputs
            found = made.run(arrays, {"rows": rows}).outputs
            for name, first in (("y", 0), ("z", rows - 1)):
                mine, other = found[name][first:rows], wanted[name][first:rows]
                single.near(mine, other, 1e-5, f"{backend} {name} {rows}")
