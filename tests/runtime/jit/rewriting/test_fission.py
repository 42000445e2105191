"""Loops around several issues: apart, with whole tensors in the place of tiles, or as they were."""

from __future__ import annotations

import numpy as np

from infinisa.isa.assembly import parse_text
from infinisa.isa.instruction import instruction
from infinisa.isa.language import dot
from infinisa.isa.program import Issue, Loop, Program, statements
from infinisa.isa.verify import verify
from infinisa.runtime.interpreter import interpret
from infinisa.runtime.jit import compile_program
from infinisa.runtime.jit.rewriting.untiled import Meanings, untiled
from infinisa.runtime.values import Array, Result
from tests.runtime.jit import single

TEXT = """program chain for host
parameter rows <= 13 default 11
parameter first <= 4 default 3
opcode one = product "{product}" on matrix
    bind m = h m
    bind k = k
    bind n = n
    read (h m k)
    read (k n)
    write (h m n)
    outputs 0
opcode two = product "{product}" on matrix
    bind m = h m
    bind k = n
    bind n = o
    read (h m n)
    read (n o)
    write (h m o)
    outputs 0
buffer y: output f32 [6, 17, 12] in dram
buffer x: input f32 [6, 17, 12] in dram
buffer a: weight f32 [12, 10] in dram
buffer b: weight f32 [10, 12] in dram
buffer t: temporary f32 [2, 4, 10] in cache place 0 pitch 320 slots 2 rotor m1
section all
    axis k = 12
    axis h = 6
    axis m = rows from first most 13 end 17
    axis n = 10
    axis o = 12
    stage only
        alive t 0 to 2
        for h1 in h step 2:
            for m1 in m step 4:
                t[h1-h1, m1-m1, n] = one({source}, a[k, n]) on matrix over h=h1, m=m1, k, n
                y[h1, m1, o] = two(t[h1-h1, m1-m1, n], b[n, o]) on matrix over h=h1, m=m1, n, o
"""


@instruction(unit="matrix")
def product(a: "m k", b: "k n"):
    return dot(a, b, "k")


LIBRARY = {"product": product}


def program_of(text: str) -> Program:
    program = parse_text(text.replace("{product}", product.meaning), "chain")
    verify(program, None, LIBRARY, 1)
    return program


def statements_of(program: Program) -> list[Issue | Loop]:
    (section,) = untiled(program, Meanings(LIBRARY)).sections
    return [item for stage in section.stages for item in statements(stage.body)]


def values(result: Result) -> Array:
    """What it computed: at positions that it did not, anything may be."""
    return {**result.outputs, **result.kept}["y"]


def check(program: Program) -> None:
    random = np.random.default_rng(0)
    kinds = (buffer for buffer in program.buffers if buffer.kind in ("input", "weight"))
    arrays = {b.name: random.standard_normal(b.shape).astype(np.float32) for b in kinds}
    for backend, more in single.BACKENDS.items():
        made = compile_program(program, LIBRARY, backend, **more)
        for rows, first in ((11, 3), (1, 0), (13, 4)):
            given = {"rows": rows, "first": first}
            wanted = values(interpret(program, LIBRARY, arrays, given))
            found = values(made.run(arrays, given))
            single.near(found[:, first:], wanted[:, first:], 1e-5, f"{backend} {given}")


def test_issues_of_a_loop_are_computed_one_after_the_other_over_whole_tensors() -> None:
    program = program_of(TEXT.replace("{source}", "x[h1, m1, k]"))
    whole = untiled(program, Meanings(LIBRARY)).buffer["t"]

    assert [type(item) for item in statements_of(program)] == [Issue, Issue]
    assert (whole.shape, whole.outer, whole.slots) == ((6, 13, 10), True, 1)
    check(program)


def test_turns_that_read_what_others_wrote_stay_in_order() -> None:
    text = TEXT.replace("buffer y: output", "buffer y: state")
    program = program_of(text.replace("{source}", "y[h1, m1-1, k] fill 1.0"))

    assert any(isinstance(item, Loop) and item.range == "m1" for item in statements_of(program))
    check(program)
