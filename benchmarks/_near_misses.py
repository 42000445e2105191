"""Cones that nearly compute what an instruction does, made by hand: none may be taken for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from infinisa.isa import formulas
from infinisa.isa.instruction import Instruction
from infinisa.isa.language import (
    Constant,
    Node,
    absolute,
    dot,
    erf,
    exp,
    log,
    max,
    maximum,
    mean,
    minimum,
    position,
    round,
    rsqrt,
    sigmoid,
    size,
    sqrt,
    stack,
    substitute,
    sum,
    tanh,
    view,
    where,
)

from ._forms import CAP, EPSILON, capped, library, log_softmax, relu_squared

INFINITY = math.inf
SCALE = 5.0**-0.5


@dataclass(frozen=True)
class NearMiss:
    """A cone over an instruction's operands that computes something else."""

    title: str
    instruction: Instruction
    root: Node


MADE: list[NearMiss] = []


def near(instruction: Instruction, cones: Mapping[str, Callable[..., Node]]) -> None:
    """Keep what these make of the operands of an instruction."""
    MADE.extend(
        NearMiss(f"{instruction.name}: {title}", instruction, cone(*instruction.operands))
        for title, cone in cones.items()
    )


def each(name: str, cones: Mapping[str, Callable[..., Node]]) -> None:
    near(library()[name], cones)


# ---------------------------------------------------------------- norms


def _centred(x: Node) -> Node:
    return x - mean(x, "n")


def _variance(x: Node) -> Node:
    return mean(_centred(x) * _centred(x), "n")


each("layer_norm", {
    "epsilon outside the root": lambda x, w, b: (
        _centred(x) / (sqrt(_variance(x)) + EPSILON) * w + b
    ),
    "unbiased variance": lambda x, w, b: (
        _centred(x) * rsqrt(sum(_centred(x) ** 2.0, "n") / (size("n") - 1) + EPSILON) * w + b
    ),
    "epsilon as the least variance": lambda x, w, b: (
        _centred(x) * rsqrt(maximum(_variance(x), EPSILON)) * w + b
    ),
    "not centred": lambda x, w, b: x * rsqrt(_variance(x) + EPSILON) * w + b,
    "mean of squares for the variance": lambda x, w, b: (
        _centred(x) * rsqrt(mean(x * x, "n") + EPSILON) * w + b
    ),
    "bias before the weight": lambda x, w, b: (
        (_centred(x) * rsqrt(_variance(x) + EPSILON) + b) * w
    ),
    "over the other axis": lambda x, w, b: (
        formulas.layer_norm(x, w, b, "m", EPSILON)
    ),
    "divided by the variance": lambda x, w, b: _centred(x) / (_variance(x) + EPSILON) * w + b,
    "mean deviation": lambda x, w, b: (
        _centred(x) / (mean(absolute(_centred(x)), "n") + EPSILON) * w + b
    ),
    "centred by the largest": lambda x, w, b: (
        (x - max(x, "n")) * rsqrt(_variance(x) + EPSILON) * w + b
    ),
    "the mean added": lambda x, w, b: (
        (x + mean(x, "n")) * rsqrt(_variance(x) + EPSILON) * w + b
    ),
    "epsilon as a share": lambda x, w, b: _centred(x) * rsqrt(_variance(x) * 1.001) * w + b,
})  # fmt: skip

each("rms_norm", {
    "epsilon outside the root": lambda x, w: x / (sqrt(mean(x * x, "n")) + EPSILON) * w,
    "sum for the mean": lambda x, w: x * rsqrt(sum(x * x, "n") + EPSILON) * w,
    "the variance": lambda x, w: x * rsqrt(_variance(x) + EPSILON) * w,
    "the weight added": lambda x, w: x * rsqrt(mean(x * x, "n") + EPSILON) + w,
    "square of the mean": lambda x, w: x * rsqrt(mean(x, "n") ** 2.0 + EPSILON) * w,
    "the weight inside": lambda x, w: (x * w) * rsqrt(mean((x * w) ** 2.0, "n") + EPSILON),
    "clipped at 6": lambda x, w: minimum(x * rsqrt(mean(x * x, "n") + EPSILON) * w, 6.0),
})  # fmt: skip

# ---------------------------------------------------------------- softmax


def _weights(x: Node) -> Node:
    return exp(x - max(x, "n"))


def _naive_softmax(x: Node, over: str = "n") -> Node:
    return exp(x) / sum(exp(x), over)


def _rows(name: str, formula: Callable[[Node], Node]) -> Instruction:
    like = library()["softmax"]
    return replace(like, name=name, outputs=(formula(like.operands[0]),))


NAIVE_SOFTMAX = _rows("naive_softmax", _naive_softmax)
NAIVE_LOG_SOFTMAX = _rows("naive_log_softmax", lambda x: x - log(sum(exp(x), "n")))
NAIVE_NORM = replace(
    library()["layer_norm"],
    name="naive_layer_norm",
    outputs=tuple(
        (x - mean(x, "n")) * rsqrt(mean(x * x, "n") - mean(x, "n") ** 2.0 + EPSILON) * w + b
        for x, w, b in [library()["layer_norm"].operands]
    ),
)
NAIVE_GATE = replace(
    library()["swiglu"],
    name="naive_swiglu",
    outputs=tuple(g * exp(g) / (1.0 + exp(g)) * u for g, u in [library()["swiglu"].operands]),
)

near(NAIVE_SOFTMAX, {"for a safe one": lambda x: formulas.softmax(x, "n")})
near(NAIVE_LOG_SOFTMAX, {"for a safe one": lambda x: log_softmax(x, "n")})
near(NAIVE_NORM, {
    "for a safe one": lambda x, w, b: formulas.layer_norm(x, w, b, "n", EPSILON),
})  # fmt: skip
near(NAIVE_GATE, {"for a safe one": formulas.swiglu})

each("softmax", {
    "over the other axis": lambda x: formulas.softmax(x, "m"),
    "one more in the sum": lambda x: _weights(x) / (1.0 + sum(_weights(x), "n")),
    "naive, one more in the sum": lambda x: exp(x) / (1.0 + sum(exp(x), "n")),
    "sum of squares": lambda x: _weights(x) / sum(_weights(x) ** 2.0, "n"),
    "summed over the other axis": lambda x: _weights(x) / sum(_weights(x), "m"),
    "sharper below": lambda x: exp(x) / sum(exp(2.0 * x), "n"),
    "of sigmoids": lambda x: sigmoid(x) / sum(sigmoid(x), "n"),
    "divided by the largest": lambda x: _weights(x) / max(_weights(x), "n"),
    "rounded": lambda x: round(formulas.softmax(x, "n") * 255.0) / 255.0,
})  # fmt: skip

each("log_softmax", {
    "mean for the sum": lambda x: x - max(x, "n") - log(mean(_weights(x), "n")),
    "the largest not added back": lambda x: x - log(sum(_weights(x), "n")),
    "of base two": lambda x: (x - max(x, "n") - log(sum(_weights(x), "n"))) / math.log(2.0),
})  # fmt: skip

# ---------------------------------------------------------------- attention


def _scores(q: Node, k: Node) -> Node:
    return dot(q, k, "d") * SCALE


def _seen(shift: int = 0) -> Node:
    return position("s") + shift >= position("t")


def _causal(scores: Node, low: float = -INFINITY) -> Node:
    return where(_seen(), scores, low)


each("attention", {
    "over the queries": lambda q, k, v: dot(formulas.softmax(_scores(q, k), "s"), v, "t"),
    "not normalised": lambda q, k, v: dot(exp(_scores(q, k)), v, "t"),
    "less the mean": lambda q, k, v: dot(
        formulas.softmax(_scores(q, k), "t") - 1.0 / size("t"), v, "t"
    ),
    "one more in the sum": lambda q, k, v: dot(
        exp(_scores(q, k)) / (1.0 + sum(exp(_scores(q, k)), "t")), v, "t"
    ),
    "scaled behind the softmax": lambda q, k, v: dot(
        formulas.softmax(dot(q, k, "d"), "t") * SCALE, v, "t"
    ),
    "squared scores": lambda q, k, v: dot(formulas.softmax(_scores(q, k) ** 2.0, "t"), v, "t"),
    "distances for products": lambda q, k, v: dot(
        formulas.softmax(-sum((q - k) ** 2.0, "d"), "t"), v, "t"
    ),
    "clipped weights": lambda q, k, v: dot(
        minimum(formulas.softmax(_scores(q, k), "t"), 0.25), v, "t"
    ),
})  # fmt: skip

each("causal_attention", {
    "off by one, later": lambda q, k, v: formulas.attend(
        where(_seen(1), _scores(q, k), -INFINITY), v, "t"
    ),
    "off by one, earlier": lambda q, k, v: formulas.attend(
        where(_seen(-1), _scores(q, k), -1e30), v, "t"
    ),
    "the other half": lambda q, k, v: formulas.attend(
        where(position("s") <= position("t"), _scores(q, k), -INFINITY), v, "t"
    ),
    "a low mask": lambda q, k, v: formulas.attend(_causal(_scores(q, k), -5.0), v, "t"),
    "a mask of zeros": lambda q, k, v: formulas.attend(_causal(_scores(q, k), 0.0), v, "t"),
    "masked behind the softmax": lambda q, k, v: dot(
        where(_seen(), formulas.softmax(_scores(q, k), "t"), 0.0), v, "t"
    ),
    "a window": lambda q, k, v: formulas.attend(
        where(position("s") - position("t") < 3, _causal(_scores(q, k)), -INFINITY), v, "t"
    ),
    "the maximum of what is masked": lambda q, k, v: dot(
        _causal(exp(_scores(q, k)), 0.0) / sum(exp(_scores(q, k)), "t"), v, "t"
    ),
})  # fmt: skip

each("masked_attention", {
    "the mask behind the softmax": lambda q, k, v, mask: dot(
        formulas.softmax(_scores(q, k), "t") + mask, v, "t"
    ),
    "the mask subtracted": lambda q, k, v, mask: formulas.attend(_scores(q, k) - mask, v, "t"),
    "the mask as a factor": lambda q, k, v, mask: formulas.attend(_scores(q, k) * mask, v, "t"),
    "the mask scaled too": lambda q, k, v, mask: formulas.attend(
        (dot(q, k, "d") + mask) * SCALE, v, "t"
    ),
    "the mask as a floor": lambda q, k, v, mask: formulas.attend(
        minimum(_scores(q, k), mask), v, "t"
    ),
})  # fmt: skip

each("capped_attention", {
    "the cap outside only": lambda q, k, v: formulas.attend(
        _causal(CAP * tanh(_scores(q, k))), v, "t"
    ),
    "capped behind the mask": lambda q, k, v: formulas.attend(
        capped(_causal(_scores(q, k)), CAP), v, "t"
    ),
    "clipped for capped": lambda q, k, v: formulas.attend(
        _causal(maximum(minimum(_scores(q, k), CAP), -CAP)), v, "t"
    ),
    "two caps": lambda q, k, v: formulas.attend(
        _causal(CAP * tanh(_scores(q, k) / 31.0) * 1.1), v, "t"
    ),
    "erf for tanh": lambda q, k, v: formulas.attend(
        _causal(CAP * erf(_scores(q, k) / CAP)), v, "t"
    ),
})  # fmt: skip

# ---------------------------------------------------------------- rotations


def _interleaved(x: Node) -> Node:
    """Pairs of neighbours, in the places of pairs of halves."""
    return view(x, {"p": "(2*i + p) // 3", "i": "(2*i + p) % 3"})


def _turned(x: Node, cosines: Node, sines: Node) -> tuple[Node, Node]:
    first, second = view(x, {"p": 0}), view(x, {"p": 1})
    return first * cosines - second * sines, second * cosines + first * sines


each("rope_by_table", {
    "neighbours for halves": lambda x, c, s: formulas.rotate(_interleaved(x), c, s, "p"),
    "one sign": lambda x, c, s: stack(
        [_turned(x, c, s)[0], view(x, {"p": 1}) * c - view(x, {"p": 0}) * s], "p"
    ),
    "tables swapped in one half": lambda x, c, s: stack(
        [_turned(x, c, s)[0], _turned(x, s, c)[1]], "p"
    ),
    "one half only": lambda x, c, s: stack([_turned(x, c, s)[0], view(x, {"p": 1})], "p"),
    "halves exchanged": lambda x, c, s: stack(_turned(x, c, s)[::-1], "p"),
})  # fmt: skip

# ---------------------------------------------------------------- activations


def _quick_gelu(x: Node) -> Node:
    return x * sigmoid(1.702 * x)


def _clip(x: Node, low: float, high: float) -> Node:
    return maximum(minimum(x, high), low)


each("gelu_erf", {
    "by tanh": formulas.gelu_tanh,
    "by a sigmoid": _quick_gelu,
    "clipped at 6": lambda x: minimum(formulas.gelu_erf(x), 6.0),
    "a root of two too many": lambda x: 0.5 * x * (1.0 + erf(x)),
    "erfc": lambda x: 0.5 * x * (1.0 - erf(x * math.sqrt(0.5))),
})  # fmt: skip

each("gelu_tanh", {
    "exact": formulas.gelu_erf,
    "by a sigmoid": _quick_gelu,
    "another cubic": lambda x: 0.5 * x * (1.0 + tanh(0.7978845608 * (x + 0.0449 * x**3.0))),
    "rounded roughly": lambda x: 0.5 * x * (1.0 + tanh(0.797 * (x + 0.044715 * x**3.0))),
    "without the cubic": lambda x: 0.5 * x * (1.0 + tanh(0.7978845608028654 * x)),
    "clipped inside": lambda x: 0.5 * x * (
        1.0 + tanh(_clip(0.7978845608028654 * (x + 0.044715 * x**3.0), -2.0, 2.0))
    ),
})  # fmt: skip

each("swiglu", {
    "the other sign": lambda g, u: g * sigmoid(-g) * u,
    "of a clipped gate": lambda g, u: _clip(g, -6.0, 6.0) * sigmoid(g) * u,
    "hard": lambda g, u: g * _clip(g / 6.0 + 0.5, 0.0, 1.0) * u,
    "steeper": lambda g, u: g * sigmoid(1.702 * g) * u,
    "both gated": lambda g, u: formulas.silu(g) * formulas.silu(u),
    "mish": lambda g, u: g * tanh(log(1.0 + exp(g))) * u,
    "relu": lambda g, u: maximum(g, 0.0) * u,
    "sigmoid only": lambda g, u: sigmoid(g) * u,
    "the gate of the other": lambda g, u: g * sigmoid(u) * g,
})  # fmt: skip

each("geglu", {
    "exact": lambda g, u: formulas.gelu_erf(g) * u,
    "by a sigmoid": lambda g, u: _quick_gelu(g) * u,
    "both gated": lambda g, u: formulas.gelu_tanh(g * u),
})  # fmt: skip

each("relu_squared", {
    "leaky": lambda x: where(x > 0.0, x, 0.01 * x) ** 2.0,
    "clipped at 6": lambda x: _clip(x, 0.0, 6.0) ** 2.0,
    "with its sign": lambda x: x * absolute(x),
    "half of it": lambda x: 0.5 * relu_squared(x),
    "cubed": lambda x: maximum(x, 0.0) * x * x,
    "from one on": lambda x: where(x > 1.0, x * x, 0.0),
    "softplus": lambda x: log(1.0 + exp(x)) ** 2.0,
})  # fmt: skip

# ---------------------------------------------------------------- products

each("matmul_bias", {
    "the bias taken away": lambda a, b, bias: dot(a, b, "k") - bias,
    "the bias for each term": lambda a, b, bias: sum(a * b + bias, "k"),
    "the largest term": lambda a, b, bias: max(a * b, "k") + bias,
    "the mean": lambda a, b, bias: mean(a * b, "k") + bias,
    "sums for products": lambda a, b, bias: sum(a + b, "k") + bias,
    "the bias scaled": lambda a, b, bias: dot(a, b, "k") + 1.001 * bias,
    "absolute": lambda a, b, bias: dot(absolute(a), b, "k") + bias,
})  # fmt: skip


def wanted(miss: NearMiss) -> Node:
    """What the instruction computes, with numbers that the cone might stand for."""
    numbers = {"epsilon": EPSILON, "scale": SCALE, "cap": CAP}
    known: dict[Node, Node] = {i: Constant(numbers[i.name]) for i in miss.instruction.immediates}
    return substitute(miss.instruction.outputs, known)[0]
