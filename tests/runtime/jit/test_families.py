"""Every instruction that comes with InfinISA: native code equals the interpreter."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from infinisa.isa import language as L
from infinisa.isa.errors import LanguageError
from infinisa.isa.instruction import Instruction, step_of
from infinisa.plugins.manager import load
from infinisa.runtime.interpreter import interpret
from tests.runtime.jit import single


def pieces() -> Iterator[Instruction]:
    for made in load().library.values():
        if made.opaque:
            continue
        yield made
        if made.accumulation is not None:
            step, finish = step_of(made)
            yield from [step] if step.name != made.name else []
            yield from [finish] if finish is not None else []


@pytest.mark.parametrize("meaning", list(pieces()), ids=lambda meaning: meaning.name)
def test_an_instruction_of_the_library(meaning: Instruction) -> None:
    """Axes of 18 to 22 positions: a vector and a rest."""
    nodes = list(L.walk(meaning.outputs))
    axes = sorted({axis for node in [*nodes, *meaning.operands] for axis in node.axes})
    hidden = {axis for _, axis in meaning.windows}
    sizes = {a: 18 + 2 * (i % 3) for i, a in enumerate(axes) if a not in hidden}
    sizes |= {n.axis: len(n.xs) for n in nodes if isinstance(n, L.Stack)}
    program = single.program_of(meaning, sizes)
    arrays = single.arrays_for(program)
    try:
        interpret(program, {meaning.name: meaning}, arrays)
    except LanguageError as error:
        pytest.skip(f"not by itself: {error}")

    single.check(program, {meaning.name: meaning}, arrays, tolerance=3e-5)
