"""Formulas by fewer operations: which they are, and that their values are as near to the truth."""

from __future__ import annotations

import numpy as np
import pytest

from infinisa.isa import formulas
from infinisa.isa import language as L
from infinisa.isa.instruction import Instruction
from infinisa.isa.language import Input, Node
from infinisa.isa.language.nodes import show
from infinisa.runtime.jit.expressions.identities import simplified
from infinisa.runtime.jit.session import compile_program
from tests.runtime.jit import single

X, Y = Input("x", ("m",)), Input("y", ("m",))
WHOLE = Input("i", ("m",), "i32")
TANH = L.tanh(X)

REWRITTEN = [
    (1.0 + TANH, "multiply(2.0, sigmoid(multiply(2.0, x[m])))"),
    (TANH + 1, "multiply(2.0, sigmoid(multiply(2.0, x[m])))"),
    (1.0 - TANH, "multiply(2.0, sigmoid(multiply(-2.0, x[m])))"),
    (0.5 * Y * (1.0 + L.tanh(3.0 * X)), "multiply(y[m], sigmoid(multiply(6.0, x[m])))"),
    (0.5 * (Y * (1.0 + L.tanh(X * 0.5))), "multiply(y[m], sigmoid(x[m]))"),
    (3.0 * (X * 2.0) * Y, "multiply(multiply(6.0, x[m]), y[m])"),
    ((4.0 * X) * (Y * 0.25), "multiply(x[m], y[m])"),
    (2 * (0.5 * X), "x[m]"),
]
"""An expression, and what it becomes."""

AS_THEY_ARE = [
    3.0 * (5.0 * X),  # rounds once more or once less
    0.5 * L.cast(2 * WHOLE, "f32"),
    2 * (3 * WHOLE),
    (3.0 * X) * (Y * -0.25),  # x * y may overflow
    2.0 * (1e-30 * X * Y),
    1e-25 * (2.0**-60 * X),
    TANH - 1.0,
    1.5 + TANH,
    (1.0 - TANH) * TANH,  # tanh is there in any case
]


@pytest.mark.parametrize(("given", "wanted"), REWRITTEN, ids=lambda part: str(part)[:40])
def test_a_formula_becomes_one_of_fewer_operations(given: Node, wanted: str) -> None:
    (found,) = simplified([given])
    assert show(found) == wanted
    assert (found.axes, found.dtype) == (given.axes, given.dtype)


@pytest.mark.parametrize("given", AS_THEY_ARE, ids=show)
def test_other_formulas_stay_as_they_are(given: Node) -> None:
    assert simplified([given]) == (given,)


@pytest.mark.parametrize("backend", single.BACKENDS)
def test_gelu_by_tanh_is_as_good_far_below_zero_as_anywhere(backend: str) -> None:
    """1 + tanh(u) of a u of -12 has no digit left; sigmoid(2 * u) has all of them."""
    x = np.linspace(-6, 6, 1000, dtype=np.float32)
    meaning = Instruction(name="op", unit="vector", operands=(X,), outputs=(formulas.gelu_tanh(X),))
    program = single.program_of(meaning, {"m": x.size})
    code = compile_program(program, {"op": meaning}, backend, **single.BACKENDS[backend])
    (found,) = code.run({"x": x}).outputs.values()
    wide = x.astype(np.float64)
    power = 2 * np.sqrt(2 / np.pi) * (wide + 0.044715 * wide**3)
    assert np.abs(found * (1 + np.exp(-power)) / wide - 1).max() < 2e-5
