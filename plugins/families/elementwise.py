"""Element by element: every scalar function, casts, moves, activations."""

from collections.abc import Sequence
from dataclasses import replace

from infinisa.isa import formulas
from infinisa.isa.dtypes import DTYPES
from infinisa.isa.functions import FUNCTIONS
from infinisa.isa.instruction import Instruction, instruction
from infinisa.isa.language import Cast, apply
from infinisa.isa.language import relu as rectify

from ..hookspec import hookimpl


def scalar(name: str) -> Instruction:
    """The vector instruction that applies one scalar function of the language."""
    arity = FUNCTIONS[name].arity

    def unary(x: "m"):
        return apply(name, x)

    def binary(x: "m", y: "m"):
        return apply(name, x, y)

    def ternary(condition: "m: bool", x: "m", y: "m"):
        return apply(name, condition, x, y)

    made = instruction(unit="vector", name=name)((unary, binary, ternary)[arity - 1])
    return replace(made, documentation=f"The scalar function `{name}`, element by element.")


def cast_to(dtype: str) -> Instruction:
    """The vector instruction that rounds or saturates to one element type."""

    def body(x: "m"):
        return Cast(x, dtype)

    made = instruction(unit="vector", name=f"cast_{dtype}")(body)
    return replace(made, documentation=f"The operand rounded or saturated to {dtype}.")


def scalar_with_number(name: str, title: str, default: float) -> Instruction:
    """The vector instruction that applies a function of two numbers to its operand and `y`."""

    def body(x: "m", y=default):
        return apply(name, x, y)

    made = instruction(unit="vector", name=title)(body)
    return replace(made, documentation=f"`{name}` of each element and a number.")


SCALARS = tuple(scalar(name) for name in FUNCTIONS)

CASTS = tuple(cast_to(dtype) for dtype in DTYPES)

WITH_NUMBER = (
    scalar_with_number("multiply", "scale", 1.0),
    scalar_with_number("add", "add_scalar", 0.0),
    scalar_with_number("maximum", "maximum_scalar", 0.0),
    scalar_with_number("minimum", "minimum_scalar", 0.0),
    scalar_with_number("power", "power_scalar", 1.0),
)


@instruction(unit="vector")
def move(x: "m"):
    """The operand as it is: a copy, through which values change their place in memory."""
    return x


@instruction(unit="vector")
def relu(x: "m"):
    return rectify(x)


@instruction(unit="vector")
def gelu_erf(x: "m"):
    """x times the normal distribution at x."""
    return formulas.gelu_erf(x)


@instruction(unit="vector")
def gelu_tanh(x: "m"):
    """GELU in the form of GPT-2."""
    return formulas.gelu_tanh(x)


@instruction(unit="vector")
def silu(x: "m"):
    """x times its sigmoid."""
    return formulas.silu(x)


@instruction(unit="vector")
def swiglu(gate: "m", up: "m"):
    """The gated feed-forward layer of Llama: silu(gate) * up."""
    return formulas.swiglu(gate, up)


@instruction(unit="vector")
def geglu(gate: "m", up: "m"):
    """The gated feed-forward layer of Gemma: gelu_tanh(gate) * up."""
    return formulas.geglu(gate, up)


@hookimpl
def infinisa_instructions() -> Sequence[Instruction]:
    return [
        *SCALARS,
        *CASTS,
        *WITH_NUMBER,
        move,
        relu,
        gelu_erf,
        gelu_tanh,
        silu,
        swiglu,
        geglu,
    ]
