"""Maxima that need not tell of a NaN."""

from __future__ import annotations

import numpy as np
import pytest

from infinisa.isa import formulas
from infinisa.isa import language as L
from infinisa.isa.instruction import Instruction
from infinisa.isa.language import Input, Node
from infinisa.runtime.interpreter import interpret
from infinisa.runtime.jit import compile_program
from infinisa.runtime.jit.expressions.maxima import plain_maxima
from tests.runtime.jit import single

X, V = Input("x", ("m", "n")), Input("v", ("n", "e"))
TOP = L.max(X, "n")
WEIGHTS = L.exp(X - TOP)


def made(*outputs: Node) -> Instruction:
    return Instruction(name="op", unit="vector", operands=tuple(L.inputs(outputs)), outputs=outputs)


def test_the_maximum_of_a_softmax_is_plain() -> None:
    """So is that of an attention, the quotient in front of the values or behind them."""
    total = L.sum(WEIGHTS, "n")
    for root in (
        formulas.softmax(X, "n"),
        formulas.softmax(X, "n") * 2.0 + 1.0,
        L.dot(WEIGHTS / total, V, "n"),
        L.dot(WEIGHTS, V, "n") / total,
        TOP + L.log(total),
    ):
        assert plain_maxima([root]) == {TOP}


@pytest.mark.parametrize(
    "roots",
    [
        (TOP,),
        (WEIGHTS,),
        (formulas.softmax(X, "n"), TOP),
        (formulas.softmax(X, "n"), WEIGHTS),
        (formulas.safe_softmax(X, "n"),),
        (L.where(formulas.softmax(X, "n") > 0.0, TOP, 0.0),),
        (L.dot(WEIGHTS, V, "n"),),
        (WEIGHTS / L.sum(WEIGHTS, "m"),),
        (WEIGHTS / L.sum(L.where(X > 0.0, X, 0.0), "n"),),
    ],
)
def test_a_maximum_that_somebody_else_reads_is_not(roots: tuple[Node, ...]) -> None:
    assert plain_maxima(roots) == frozenset()


@pytest.mark.parametrize("place", [0, 7, 8, 40, 76])
@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_a_row_with_such_a_number_is_what_the_interpreter_finds(odd: float, place: int) -> None:
    """Whatever stands before or behind it in its lane."""
    outputs = (formulas.softmax(X, "n"), L.dot(formulas.softmax(X, "n"), V, "n"))
    for output in outputs:
        meaning = made(output)
        program = single.program_of(meaning, {"m": 3, "n": 77, "e": 20}, {})
        arrays = single.arrays_for(program)
        arrays["x"][1, place] = odd
        with np.errstate(all="ignore"):
            (wanted,) = interpret(program, {"op": meaning}, arrays).outputs.values()

        (found,) = compile_program(program, {"op": meaning}).run(arrays).outputs.values()

        np.testing.assert_allclose(found, wanted, rtol=3e-5, atol=1e-6)
