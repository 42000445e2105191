"""Code restricted to what some processors have."""

from __future__ import annotations

import re

import numpy as np
import pytest

from infinisa.isa import formulas
from infinisa.isa import language as L
from infinisa.isa.errors import CompileError
from infinisa.isa.instruction import Instruction, instruction
from infinisa.runtime.interpreter import interpret
from infinisa.runtime.jit.code.processor import PROCESSORS
from infinisa.runtime.jit.session import assembler, compile_program
from tests.runtime.jit.single import HERE, of, program_of

X86 = tuple(name for name in PROCESSORS if name != "neon")
REGISTERS = {"sse": "xmm", "avx2": "ymm", "avx512": "zmm"}


@instruction(unit="vector")
def feed_forward(x: "m k", w: "k n", b: "n"):
    return formulas.gelu_tanh(L.dot(x, w, "k") + b)


@instruction(unit="vector")
def normed(x: "m n", w: "n"):
    centred = x - L.mean(x, "n")
    return formulas.softmax(centred * L.rsqrt(L.mean(centred * centred, "n") + 1e-5), "n") * w


@instruction(unit="vector")
def centred(x: "m n"):
    rest = x - L.mean(x, "n")
    return rest * L.rsqrt(L.mean(rest * rest, "n") + 1e-5)


@instruction(unit="vector")
def attended(q: "s d", k: "t d", v: "t e"):
    scores = formulas.causal(formulas.attention_scores(q, k, "d", 0.3), "s", "t")
    return formulas.attend(scores, v, "t")


WORK = {
    "feed_forward": (feed_forward, {"m": 37, "k": 53, "n": 71}),
    "one row": (feed_forward, {"m": 1, "k": 300, "n": 130}),
    "normed": (normed, {"m": 9, "n": 83}),
    "attended": (attended, {"s": 21, "d": 16, "t": 21, "e": 20}),
}


@pytest.mark.parametrize("target", HERE)
@pytest.mark.parametrize("name", WORK)
def test_values_do_not_depend_on_the_processor(target: str, name: str) -> None:
    meaning, sizes = WORK[name]
    program = program_of(meaning, sizes)
    source = np.random.default_rng(0)
    given = {
        buffer.name: source.standard_normal(buffer.shape, np.float32)
        for buffer in program.buffers
        if buffer.kind in ("input", "weight")
    }

    found = compile_program(program, of(meaning), target=target).run(given).outputs

    expected = interpret(program, of(meaning), given).outputs
    for output, array in expected.items():
        np.testing.assert_allclose(found[output], array, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("target", X86)
@pytest.mark.parametrize("name", WORK)
def test_no_register_is_wider_than_the_processor_has(target: str, name: str) -> None:
    text = assembler_of(*WORK[name], target)

    wider = [register for kind, register in REGISTERS.items() if lanes(kind) > lanes(target)]
    assert REGISTERS[target] in text
    assert not any(register in text for register in wider)


@pytest.mark.parametrize("name", WORK)
def test_code_for_another_kind_of_processor_is_made_and_verified(name: str) -> None:
    assert re.search(r"fmla\s+v\d+\.4s", assembler_of(*WORK[name], "neon"))


@pytest.mark.parametrize("target", X86)
def test_a_row_fetches_the_next_one_once(target: str) -> None:
    """In one of its passes, line by line, unless it is so short that it is in registers; lines of
    the result too, if that pass computes much. One that only sums goes by twice as many vectors."""
    long, short = (assembler_of(normed, {"m": 9, "n": n}, target) for n in (512, 16))
    cheap = assembler_of(centred, {"m": 9, "n": 512}, target)

    lines = 4 * PROCESSORS[target][0] * 4 // 64
    assert long.count("prefetcht0") == 2 * lines
    assert cheap.count("prefetcht0") == 2 * lines
    assert "prefetch" not in short


def test_a_processor_is_named() -> None:
    program = program_of(normed, {"m": 3, "n": 5})

    with pytest.raises(CompileError, match="target must be avx512, avx2, sse, neon, not 'mmx'"):
        compile_program(program, of(normed), target="mmx")


def test_what_a_processor_lacks_is_refused() -> None:
    program = program_of(normed, {"m": 3, "n": 5})
    other = "neon" if HERE else "avx2"

    with pytest.raises(CompileError, match=f"target '{other}': this processor lacks"):
        compile_program(program, of(normed), target=other)


def lanes(target: str) -> int:
    return PROCESSORS[target][0]


def assembler_of(meaning: Instruction, sizes: dict[str, int], target: str) -> str:
    return assembler(program_of(meaning, sizes), of(meaning), target)
