"""Element by element: every scalar function, casts, moves, activations."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce as fold
from math import prod

import numpy as np

from infinisa.compiler.positional.operator import TYPES, Operator, operator
from infinisa.compiler.positional.tensor import Tensor, each, full
from infinisa.isa import formulas
from infinisa.isa.dtypes import DTYPES, is_float
from infinisa.isa.errors import ModelError
from infinisa.isa.functions import FUNCTIONS
from infinisa.isa.instruction import Instruction, instruction
from infinisa.isa.language import (
    Cast,
    Node,
    absolute,
    apply,
    cos,
    exp,
    log,
    maximum,
    minimum,
    position,
    sigmoid,
    sin,
    tanh,
    where,
)
from infinisa.isa.language import relu as rectify

from ..hookspec import hookimpl


def scalar(name: str) -> Instruction:
    """The vector instruction that applies one scalar function of the language."""
    arity = FUNCTIONS[name].arity
    kind = "m: bool" if name.startswith("logical") else "m"

    def unary(x: kind):
        return apply(name, x)

    def binary(x: kind, y: kind):
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
def positions():
    """The numbers along an axis, for masks and angles that no larger instruction makes itself."""
    return position("m")


@instruction(unit="vector")
def relu(x: "m"):
    """The operand, or 0 where it is negative."""
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
        positions,
        relu,
        gelu_erf,
        gelu_tanh,
        silu,
        swiglu,
        geglu,
    ]


# ---------------------------------------------------------------- operators

UNARY = {
    "Abs": "absolute",
    "Ceil": "ceil",
    "Cos": "cos",
    "Erf": "erf",
    "Exp": "exp",
    "Floor": "floor",
    "IsNaN": "is_nan",
    "Log": "log",
    "Neg": "negate",
    "Not": "logical_not",
    "Reciprocal": "reciprocal",
    "Round": "round",
    "Sigmoid": "sigmoid",
    "Sign": "sign",
    "Sin": "sin",
    "Sqrt": "sqrt",
    "Tanh": "tanh",
}

BINARY = {
    "Add": "add",
    "And": "logical_and",
    "Equal": "equal",
    "Greater": "greater",
    "GreaterOrEqual": "greater_equal",
    "Less": "less",
    "LessOrEqual": "less_equal",
    "Mul": "multiply",
    "Or": "logical_or",
    "Sub": "subtract",
    "Xor": "not_equal",
}

SEVERAL = {"Max": "maximum", "Min": "minimum", "Sum": "add"}


def unary(name: str, function: str) -> Operator:
    return Operator(name, lambda x: x.map(function))


def binary(name: str, function: str) -> Operator:
    return Operator(name, lambda a, b: a.map(function, b))


def several(name: str, function: str) -> Operator:
    return Operator(name, lambda x, *others: fold(lambda a, b: a.map(function, b), others, x))


def formula(name: str, of: Callable[..., Node], since: int = 1) -> Operator:
    """An operator that is a function of each element, with its attributes."""

    def function(x: Tensor, **attributes: float) -> Tensor:
        return each(lambda node: of(node, **attributes), [x])

    return Operator(name, function, since=since)


@operator("Mean")
def mean_node(x: Tensor, *others: Tensor) -> Tensor:
    return fold(lambda a, b: a + b, others, x) / (1.0 + len(others))


@operator("Div")
def div_node(a: Tensor, b: Tensor) -> Tensor:
    """Integers are divided towards 0."""
    if is_float(a.dtype):
        return a / b
    quotient = a.map("absolute").map("floor_divide", b.map("absolute"))
    return quotient if a.dtype == "u8" else quotient * a.map("sign") * b.map("sign")


@operator("Mod")
def mod_node(a: Tensor, b: Tensor, fmod: int = 0) -> Tensor:
    """fmod: the sign of the dividend; else that of the divisor."""
    if not fmod:
        return a.map("modulo", b)
    rest = a.map("absolute").map("modulo", b.map("absolute"))
    return a.map("less", 0).where(rest.map("negate"), rest)


@operator("Pow")
def pow_node(a: Tensor, b: Tensor) -> Tensor:
    """Squares, cubes and roots as what they are."""
    exponent = float(b.values("b").reshape(-1)[0]) if b.data and prod(b.shape) == 1 else None
    if exponent in (2.0, 3.0) and b.rank <= a.rank:
        square = a * a
        return square if exponent == 2.0 else square * a
    if exponent == 0.5 and is_float(a.dtype) and b.rank <= a.rank:
        return a.map("sqrt")
    return each(lambda x, y: x**y, [a, b])


@operator("Clip", since=11)
def clip_node(x: Tensor, least: Tensor | None = None, most: Tensor | None = None) -> Tensor:
    if least is not None:
        x = x.map("maximum", least)
    return x if most is None else x.map("minimum", most)


@operator("PRelu")
def prelu_node(x: Tensor, slope: Tensor) -> Tensor:
    return x.map("less", 0).where(x * slope, x)


@operator("IsInf")
def is_inf_node(x: Tensor, detect_negative: int = 1, detect_positive: int = 1) -> Tensor:
    above, below = x.map("equal", math.inf), x.map("equal", -math.inf)
    if detect_negative and detect_positive:
        return above.map("logical_or", below)
    if detect_negative or detect_positive:
        return below if detect_negative else above
    return x.map("not_equal", x).map("logical_and", False)


@operator("Where")
def where_node(condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return condition.where(a, b)


@operator("Cast")
def cast_node(x: Tensor, to: int, saturate: int = 1, round_mode: str = "up") -> Tensor:
    if to not in TYPES:
        raise ModelError(f"data type {to} is not supported")
    return converted(x, TYPES[to])


@operator("CastLike", since=15)
def cast_like_node(x: Tensor, like: Tensor, saturate: int = 1, round_mode: str = "up") -> Tensor:
    return converted(x, like.dtype)


def converted(x: Tensor, dtype: str) -> Tensor:
    """A cast. Numbers become integers by dropping what is behind the point."""
    given, to = DTYPES[x.dtype].numpy, DTYPES[dtype].numpy
    if {given.kind, to.kind} <= {"i", "u"} and to.itemsize < 4 and not np.can_cast(given, to):
        return wrapped(x, dtype)
    if not is_float(x.dtype) or is_float(dtype):
        return x.cast(dtype)
    if dtype == "bool":
        return x.map("not_equal", 0.0)
    return x.map("less", 0.0).where(x.map("ceil"), x.map("floor")).cast(dtype)


def wrapped(x: Tensor, dtype: str) -> Tensor:
    """The lower bits of a whole number, as the standard has it; one of 64 bits saturates in 32."""
    limits = np.iinfo(DTYPES[dtype].numpy)
    least, wide = int(limits.min), x.cast(DTYPES[x.dtype].wide)
    return ((wide - least).map("modulo", 1 << limits.bits) + least).cast(dtype)


@operator("Identity")
def identity_node(x: Tensor) -> Tensor:
    return x


@operator("Dropout", since=12)
def dropout_node(
    x: Tensor,
    ratio: Tensor | None = None,
    training: Tensor | None = None,
    *,
    seed: int = 0,
    outputs: int = 1,
) -> Sequence[Tensor]:
    """At inference nothing is dropped."""
    if training is not None and any(training.integers("training_mode")):
        raise ModelError("training mode is not supported")
    return [x, full(x.shape, True, "bool")][:outputs]


@operator("Gelu", since=20)
def gelu_node(x: Tensor, approximate: str = "none") -> Tensor:
    return each(formulas.gelu_tanh if approximate == "tanh" else formulas.gelu_erf, [x])


@operator("Swish", since=24)
def swish_node(x: Tensor, alpha: float = 1.0) -> Tensor:
    return each(lambda v: formulas.silu(v) if alpha == 1.0 else v * sigmoid(alpha * v), [x])


@operator("SwiGLU", since=28)
def swiglu_node(gate: Tensor, up: Tensor, alpha: float = 1.0) -> Tensor:
    def scaled(a: Node, b: Node) -> Node:
        return formulas.swiglu(a, b) if alpha == 1.0 else a * sigmoid(alpha * a) * b

    return each(scaled, [gate, up])


def softplus(x: Node) -> Node:
    """log(1 + exp(x)), without overflow."""
    return maximum(x, 0.0) + log(1.0 + exp(-absolute(x)))


def elu(x: Node, alpha: float = 1.0) -> Node:
    return where(x < 0.0, alpha * (exp(minimum(x, 0.0)) - 1.0), x)


def celu(x: Node, alpha: float = 1.0) -> Node:
    return maximum(x, 0.0) + minimum(alpha * (exp(minimum(x, 0.0) / alpha) - 1.0), 0.0)


def selu(x: Node, alpha: float = 1.6732632, gamma: float = 1.0507010) -> Node:
    return gamma * elu(x, alpha)


def hard_sigmoid(x: Node, alpha: float = 0.2, beta: float = 0.5) -> Node:
    return maximum(minimum(alpha * x + beta, 1.0), 0.0)


FORMULAS = (
    formula("Celu", celu),
    formula("Elu", elu),
    formula("HardSigmoid", hard_sigmoid),
    formula("HardSwish", lambda x: x * hard_sigmoid(x, 1.0 / 6.0)),
    formula("LeakyRelu", lambda x, alpha=0.01: where(x < 0.0, alpha * x, x)),
    formula("Mish", lambda x: x * tanh(softplus(x))),
    formula("Selu", selu),
    formula("Shrink", lambda x, bias=0.0, lambd=0.5: shrink(x, bias, lambd)),
    formula("Softplus", softplus),
    formula("Softsign", lambda x: x / (1.0 + absolute(x))),
    formula("Tan", lambda x: sin(x) / cos(x)),
    formula("ThresholdedRelu", lambda x, alpha=1.0: where(x > alpha, x, 0.0)),
)


def shrink(x: Node, bias: float, width: float) -> Node:
    return where(x < -width, x + bias, where(x > width, x - bias, 0.0))


@operator("Relu")
def relu_node(x: Tensor) -> Tensor:
    return x.map("maximum", 0)


@hookimpl
def infinisa_operators() -> Sequence[Operator]:
    return [
        *(unary(name, function) for name, function in UNARY.items()),
        *(binary(name, function) for name, function in BINARY.items()),
        *(several(name, function) for name, function in SEVERAL.items()),
        *FORMULAS,
        mean_node,
        div_node,
        mod_node,
        pow_node,
        clip_node,
        prelu_node,
        is_inf_node,
        where_node,
        cast_node,
        cast_like_node,
        identity_node,
        dropout_node,
        gelu_node,
        swish_node,
        swiglu_node,
        relu_node,
    ]
