"""An instruction is found wherever a graph computes what it does, however that is written; and
nowhere else."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import pytest

from infinisa.compiler.canonical import canonical
from infinisa.compiler.choice import Trust
from infinisa.compiler.match import PROVED
from infinisa.isa import formulas
from infinisa.isa.errors import CompileError
from infinisa.isa.instruction import Instruction, instruction
from infinisa.isa.language import (
    Constant,
    Input,
    Node,
    Scan,
    absolute,
    apply,
    argmax,
    cast,
    cos,
    dot,
    erf,
    exp,
    gather,
    lift,
    log,
    max,
    maximum,
    mean,
    minimum,
    position,
    rename,
    rsqrt,
    sigmoid,
    sin,
    size,
    sqrt,
    stack,
    sum,
    tanh,
    view,
    where,
)
from infinisa.isa.program import Extent, parameter

from .finding import LIBRARY, found, holds, leaves, meaning, of

INFINITY = math.inf
LEAST = -3.4028234663852886e38
EPSILON = 1e-5

Forms = Mapping[str, Callable[..., Node]]


def seen() -> Node:
    return position("t") <= position("s")


def scores(q: Node, k: Node) -> Node:
    return dot(q, k, "d") * 0.5


def causal(q: Node, k: Node) -> Node:
    return formulas.causal(scores(q, k), "s", "t")


def naive(x: Node, over: str) -> Node:
    return exp(x) / sum(exp(x), over)


def variance(x: Node) -> Node:
    return mean((x - mean(x, "n")) ** 2.0, "n")


def squares(x: Node) -> Node:
    """The mean of squares as an exporter writes it."""
    return sum(x * x, "n") * (1.0 / 6.0)


def halves(x: Node) -> tuple[Node, Node]:
    return view(x, {"p": 0}), view(x, {"p": 1})


def turned(x: Node) -> Node:
    """rotate_half: (x1, x2) becomes (-x2, x1)."""
    first, second = halves(x)
    return stack([-second, first], "p")


# ---------------------------------------------------------------- algebra

ROWS: Mapping[str, Forms] = {
    "silu": {
        "by its sigmoid": lambda x: sigmoid(x) * x,
        "as a quotient": lambda x: x / (1.0 + exp(-x)),
        "by tanh": lambda x: 0.5 * x * (1.0 + tanh(x / 2.0)),
        "as a difference": lambda x: x - x / (1.0 + exp(x)),
    },
    "gelu_tanh": {
        "factored": lambda x: 0.5 * x * (1.0 + tanh(0.7978845608028654 * x * (
            1.0 + 0.044715 * x * x))),
        "with a power": lambda x: x * (0.5 + 0.5 * tanh(0.7978845608028654 * (
            x + 0.044715 * x**3.0))),
        "by a sigmoid": lambda x: x * sigmoid(1.5957691216057308 * (x + 0.044715 * x**3.0)),
        "rounded to f32": lambda x: 0.5 * x * (1.0 + tanh(0.7978845834732056 * (
            x + 0.04471499845385551 * x * x * x))),
    },
    "gelu_erf": {
        "a quotient": lambda x: x * 0.5 * (1.0 + erf(x / math.sqrt(2.0))),
        "expanded": lambda x: 0.5 * x + 0.5 * x * erf(x * math.sqrt(0.5)),
        "rounded to f32": lambda x: 0.5 * x * (1.0 + erf(x * 0.7071067690849304)),
        "erf is odd": lambda x: 0.5 * x * (1.0 - erf(-x / math.sqrt(2.0))),
    },
    "swiglu": {
        "the gate's sigmoid first": lambda g, u: sigmoid(g) * (u * g),
        "as a quotient": lambda g, u: g * u / (1.0 + exp(-g)),
        "by tanh": lambda g, u: 0.5 * g * (u + u * tanh(0.5 * g)),
    },
    "softmax": {
        "naive": lambda x: naive(x, "n"),
        "a factor": lambda x: exp(x - max(x, "n")) * (1.0 / sum(exp(x - max(x, "n")), "n")),
        "the exponential of its logarithm": lambda x: exp(x - log(sum(exp(x), "n"))),
    },
    "layer_norm": {
        "a root": lambda x, w, b: (x - mean(x, "n")) / sqrt(variance(x) + EPSILON) * w + b,
        "a power": lambda x, w, b: b + w * (x - mean(x, "n")) * (variance(x) + EPSILON) ** -0.5,
        "by moments": lambda x, w, b: (
            (x - mean(x, "n")) * rsqrt(mean(x * x, "n") - mean(x, "n") ** 2.0 + EPSILON) * w + b
        ),
        "multiplied out": lambda x, w, b: (
            x * (w * rsqrt(variance(x) + EPSILON))
            + (b - mean(x, "n") * (w * rsqrt(variance(x) + EPSILON)))
        ),
        "a literal length": lambda x, w, b: (
            (x - sum(x, "n") / 6.0)
            * rsqrt(sum((x - sum(x, "n") / 6.0) ** 2.0, "n") * 0.1666666716337204 + EPSILON)
            * w + b
        ),
        "the reciprocal of a root": lambda x, w, b: (
            w * ((x - mean(x, "n")) * apply("reciprocal", sqrt(EPSILON + variance(x)))) + b
        ),
    },
    "rms_norm": {
        "a literal length": lambda x, w: w * (x * rsqrt(squares(x) + EPSILON)),
        "a power": lambda x, w: x * w * (squares(x) + EPSILON) ** -0.5,
        "the sum kept": lambda x, w: x * rsqrt(sum(x * x, "n") + 6.0 * EPSILON) * w * 6.0**0.5,
    },
    "l2_normalize": {
        "by the least square": lambda x: x * rsqrt(maximum(sum(x * x, "n"), 1e-24)),
        "a product": lambda x: x * (1.0 / maximum(1e-12, sum(x**2.0, "n") ** 0.5)),
    },
    "reduce_mean": {
        "a literal": lambda x: sum(x, "n") * (1.0 / 6.0),
        "each term": lambda x: sum(x / 6.0, "n"),
        "a length": lambda x: sum(x, "n") / size("n"),
    },
    "matmul_bias": {
        "a sum of products": lambda a, b, c: c + sum(a * b, "k"),
        "the operands exchanged": lambda a, b, c: dot(b, a, "k") + c,
        "the bias in the sum": lambda a, b, c: sum(a * b + c / 5.0, "k"),
    },
}  # fmt: skip

ATTENTION: Mapping[str, Forms] = {
    "attention": {
        "scaled queries": lambda q, k, v: formulas.attend(dot(q * 0.5, k, "d"), v, "t"),
        "scaled keys": lambda q, k, v: formulas.attend(dot(q, k / 2.0, "d"), v, "t"),
        "both scaled": lambda q, k, v: formulas.attend(
            dot(q * 0.5**0.5, k * 0.5**0.5, "d"), v, "t"
        ),
        "divided scores": lambda q, k, v: formulas.attend(dot(q, k, "d") / 2.0, v, "t"),
        "naive": lambda q, k, v: dot(naive(scores(q, k), "t"), v, "t"),
        "normalised behind the product": lambda q, k, v: (
            dot(exp(scores(q, k) - max(scores(q, k), "t")), v, "t")
            / sum(exp(scores(q, k) - max(scores(q, k), "t")), "t")
        ),
    },
    "causal_attention": {
        "a condition": lambda q, k, v: formulas.attend(
            where(position("s") >= position("t"), scores(q, k), -INFINITY), v, "t"
        ),
        "the condition turned": lambda q, k, v: formulas.attend(
            where(position("s") < position("t"), -1e30, scores(q, k)), v, "t"
        ),
        "a sum": lambda q, k, v: formulas.attend(scores(q, k) + where(seen(), 0.0, LEAST), v, "t"),
        "a negated condition": lambda q, k, v: formulas.attend(
            where(apply("logical_not", seen()), LEAST, scores(q, k)), v, "t"
        ),
        "a number for truth": lambda q, k, v: formulas.attend(
            scores(q, k) + (1.0 - cast(seen(), "f32")) * LEAST, v, "t"
        ),
        "a difference": lambda q, k, v: formulas.attend(
            where(position("t") - position("s") < 1, scores(q, k), -INFINITY), v, "t"
        ),
        "masked weights": lambda q, k, v: dot(
            where(seen(), exp(scores(q, k)), 0.0)
            / sum(where(seen(), exp(scores(q, k)), 0.0), "t"), v, "t"
        ),
    },
    "masked_attention": {
        "the mask first": lambda q, k, v, mask: formulas.attend_safe(
            mask + dot(q, k, "d") * 0.5, v, "t"
        ),
        "a row may be empty": lambda q, k, v, mask: formulas.attend(scores(q, k) + mask, v, "t"),
    },
    "rope_by_table": {
        "a stack": lambda x, c, s: stack(
            [halves(x)[0] * c - halves(x)[1] * s, halves(x)[1] * c + s * halves(x)[0]], "p"
        ),
        "rotate_half": lambda x, c, s: x * c + turned(x) * s,
        "the sines first": lambda x, c, s: s * turned(x) + c * x,
    },
    "rope": {
        "as powers": lambda x: formulas.rotate(
            x,
            cos(position("s") / lift(10000.0) ** (position("i") / 3.0)),
            sin(position("s") * lift(10000.0) ** (position("i") * (-1.0 / 3.0))),
            "p",
        ),
    },
}  # fmt: skip

CELLS: Mapping[str, Forms] = {
    "gru_cell": {
        "the difference": lambda z, c, h: tanh(c) + sigmoid(z) * (h - tanh(c)),
        "the gate turned": lambda z, c, h: h * sigmoid(z) + sigmoid(-z) * tanh(c),
    },
    "gru_cell_linear": {
        "the difference": lambda z, r, x, p, h: (
            (h - tanh(p * sigmoid(r) + x)) * sigmoid(z) + tanh(p * sigmoid(r) + x)
        ),
    },
    "lstm_cell": {
        "exponentials": lambda i, o, f, c, cell: (
            tanh(tanh(c) / (1.0 + exp(-i)) + cell * sigmoid(f)) * sigmoid(o)
        ),
    },
}  # fmt: skip

FORMS = [
    pytest.param(name, form, id=f"{name}: {title}")
    for table in (ROWS, ATTENTION, CELLS)
    for name, forms in table.items()
    for title, form in forms.items()
]


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_a_formula_is_found_in_every_form(name: str, form: Callable[..., Node]) -> None:
    """In a library of all instructions, with its operands in their places."""
    operands = LIBRARY[name].operands

    matches = [match for match in found(form(*operands)) if match.instruction.name == name]

    assert list(operands) in [list(match.leaves) for match in matches]
    assert all(holds(match) for match in matches)
