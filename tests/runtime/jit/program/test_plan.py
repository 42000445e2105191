"""Where a session keeps what lies between stages."""

from __future__ import annotations

import numpy as np

from infinisa.isa.assembly import parse_text
from infinisa.isa.instruction import instruction
from infinisa.runtime.jit import compile_program
from infinisa.runtime.jit.program.plan import temporary_places

CHAIN = """program chain for host
opcode more = more "{meaning}" on vector
    bind m = m
    read (m)
    write (m)
    outputs 0
buffer y: output f32 [2000] in dram
buffer x: input f32 [2000] in dram
buffer t: temporary f32 [2000] in dram
buffer u: temporary f32 [2000] in dram
buffer v: temporary f32 [2000] in dram
section all
    axis m = 2000
    stage first
        t[m] = more(x[m]) on vector over m
    stage second
        u[m] = more(t[m]) on vector over m
    stage third
        v[m] = more(u[m]) on vector over m
    stage fourth
        y[m] = more(v[m]) on vector over m
"""


@instruction(unit="vector")
def more(x: "m"):
    return x * 2.0 + 1.0


def test_what_no_stage_needs_together_shares_memory() -> None:
    program = parse_text(CHAIN.replace("{meaning}", more.meaning), "chain")
    size, places = temporary_places(program)

    assert places["t"] == places["v"] != places["u"]
    assert size == 2 * 8192

    x = np.arange(2000, dtype=np.float32)
    session = compile_program(program, {"more": more}).session({"x": x})
    for _ in range(2):
        np.testing.assert_array_equal(session.run({}).outputs["y"], 16 * x + 15)
