"""Formulas of transformers, each in many algebraic forms and layouts, and models made of them.

A `Writer` with a seed writes the same values another way each time; one without a seed writes
the formulas as they are in a textbook. What must be found in a model follows from what it is made
of: how it is written changes nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, reduce
from random import Random
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from infinisa.compiler.builder import Builder
from infinisa.compiler.graph import Model
from infinisa.isa import formulas
from infinisa.isa.dtypes import DTYPES
from infinisa.isa.instruction import Instruction
from infinisa.isa.language import (
    Axis,
    Constant,
    Input,
    Node,
    Value,
    apply,
    cast,
    dot,
    erf,
    exp,
    log,
    max,
    maximum,
    mean,
    position,
    rename,
    rsqrt,
    sigmoid,
    sqrt,
    stack,
    sum,
    tanh,
    view,
    walk,
    where,
)
from infinisa.plugins.families import attention, elementwise, linear, normalization

Array = NDArray[Any]
INFINITY = math.inf

Norm = Literal["layer", "rms"]
Mask = Literal["none", "causal", "given", "capped"]
Gate = Literal["gelu_tanh", "gelu_erf", "swiglu", "geglu", "relu_squared"]

# ---------------------------------------------------------------- the library


def _rows(name: str, formula: Callable[[Node], Node]) -> Instruction:
    """A vector instruction over the last of the axes m and n."""
    x = Input("x", ("m", "n"))
    return Instruction(name=name, unit="vector", operands=(x,), outputs=(formula(x),))


def log_softmax(x: Node, over: str) -> Node:
    top = x - max(x, over)
    return top - log(sum(exp(top), over))


def relu_squared(x: Node) -> Node:
    return maximum(x, 0.0) * maximum(x, 0.0)


def capped(scores: Node, cap: Value) -> Node:
    return cap * tanh(scores / cap)


def _capped_attention() -> Instruction:
    """Attention as in Gemma 2: scores squashed to a cap before the mask."""
    like = attention.causal_attention
    q, k, v = like.operands
    (scale,) = like.immediates
    cap = type(scale)("cap", 50.0)
    scores = capped(formulas.attention_scores(q, k, "d", scale), cap)
    return Instruction(
        name="capped_attention",
        unit="matrix",
        operands=(q, k, v),
        immediates=(scale, cap),
        outputs=(formulas.attend(formulas.causal(scores, "s", "t"), v, "t"),),
        tile=like.tile,
    )


OWN = (
    _rows("relu_squared", relu_squared),
    _rows("log_softmax", lambda x: log_softmax(x, "n")),
    _capped_attention(),
)

SIMPLE = """
    add subtract multiply divide negate exp log sqrt rsqrt reciprocal tanh erf sigmoid maximum
    where less less_equal power scale add_scalar reduce_sum reduce_max positions move matmul
"""
FUSED = """
    matmul_bias layer_norm rms_norm softmax attention causal_attention masked_attention
    rope_by_table swiglu geglu gelu_tanh gelu_erf
"""


@cache
def library() -> Mapping[str, Instruction]:
    """Forty instructions: what every model needs, and what is to be found."""
    families = (attention, elementwise, linear, normalization)
    known = {made.name: made for each in families for made in each.infinisa_instructions()}
    return {name: known[name] for name in (SIMPLE + FUSED).split()} | {
        made.name: made for made in OWN
    }


# ---------------------------------------------------------------- forms


@dataclass
class Writer:
    """Writes formulas in one of their forms: the first without a source of choices.

    sizes  extents, which some forms write as numbers
    """

    sizes: Mapping[Axis, int]
    random: Random | None = None

    def one_of(self, *forms: Callable[[], Node]) -> Node:
        return (self.random.choice(forms) if self.random else forms[0])()

    def chance(self) -> bool:
        return self.random is not None and self.random.random() < 0.5

    def number(self, value: float) -> Node:
        """A number, perhaps as an exporter of f32 models writes it."""
        return Constant(float(np.float32(value)) if self.chance() else value)

    def length(self, over: str) -> int:
        return math.prod(self.sizes[axis] for axis in over.split())

    # -- arithmetic

    def chain(self, function: str, *terms: Value) -> Node:
        """A sum or a product in any order and grouping."""
        left = [term if isinstance(term, Node) else Constant(term) for term in terms]
        if self.random is None:
            return reduce(lambda a, b: apply(function, a, b), left)
        self.random.shuffle(left)
        while len(left) > 1:
            at = self.random.randrange(len(left) - 1)
            left[at : at + 2] = [apply(function, left[at], left[at + 1])]
        return left[0]

    def add(self, *terms: Value) -> Node:
        return self.chain("add", *terms)

    def times(self, *factors: Value) -> Node:
        return self.chain("multiply", *factors)

    def minus(self, a: Value, b: Node) -> Node:
        return self.one_of(
            lambda: apply("subtract", a, b),
            lambda: a + -b,
            lambda: apply("add", -1.0 * b, a),
            lambda: -apply("subtract", b, a),
        )

    def over(self, a: Value, b: Value) -> Node:
        """a / b"""
        inverse = [lambda: apply("reciprocal", b), lambda: apply("power", b, -1.0)]
        return self.one_of(
            lambda: apply("divide", a, b),
            lambda: self.times(a, apply("divide", 1.0, b)),
            *(lambda one=one: self.times(a, one()) for one in inverse),
        )

    def scaled(self, x: Node, factor: float) -> Node:
        """x * factor, the factor a number."""
        return self.one_of(
            lambda: x * self.number(factor),
            lambda: self.number(factor) * x,
            lambda: x / self.number(1.0 / factor),
        )

    def square(self, x: Node) -> Node:
        return self.one_of(lambda: x * x, lambda: x**2.0)

    def over_root(self, x: Node, variance: Node) -> Node:
        """x / sqrt(variance)"""
        return self.one_of(
            lambda: x * rsqrt(variance),
            lambda: x / sqrt(variance),
            lambda: (1.0 / sqrt(variance)) * x,
            lambda: x * variance**-0.5,
            lambda: x / variance**0.5,
            lambda: apply("reciprocal", sqrt(variance)) * x,
        )

    def sum(self, x: Node, over: str) -> Node:
        """Over all axes at once, or one after the other."""
        axes = over.split()
        if len(axes) == 1:
            return sum(x, over)
        return self.one_of(
            lambda: sum(x, over),
            lambda: sum(sum(x, axes[:1]), axes[1:]),
            lambda: sum(sum(x, axes[1:]), axes[:1]),
        )

    def mean(self, x: Node, over: str) -> Node:
        return self.one_of(
            lambda: mean(x, over),
            lambda: self.sum(x, over) * (1.0 / self.length(over)),
            lambda: self.sum(x, over) / float(self.length(over)),
            lambda: self.sum(x * (1.0 / self.length(over)), over),
        )

    def dot(self, a: Node, b: Node, over: str) -> Node:
        axes = over.split()
        forms = [
            lambda: dot(a, b, over),
            lambda: dot(b, a, over),
            lambda: self.sum(a * b, over),
        ]
        if len(axes) > 1:
            forms.append(lambda: sum(dot(a, b, axes[1:]), axes[:1]))
        return self.one_of(*forms)

    # -- activations

    def sigmoid(self, x: Node) -> Node:
        return self.one_of(
            lambda: sigmoid(x),
            lambda: self.over(1.0, self.add(1.0, exp(-x))),
            lambda: 0.5 * self.add(1.0, tanh(x * 0.5)),
            lambda: self.add(0.5, 0.5 * tanh(x / 2.0)),
            lambda: self.minus(1.0, sigmoid(-x)),
        )

    def silu(self, x: Node) -> Node:
        return self.one_of(
            lambda: x * sigmoid(x),
            lambda: x / (1.0 + exp(-x)),
            lambda: self.times(x, self.sigmoid(x)),
            lambda: self.times(x, 0.5, 1.0 + tanh(x / 2.0)),
            lambda: x - x / (1.0 + exp(x)),
            lambda: self.over_one_more(x, exp(x)),
        )

    def over_one_more(self, x: Node, e: Node) -> Node:
        """x * e / (1 + e), e being an exponential."""
        return self.one_of(lambda: x * (e / (1.0 + e)), lambda: (x * e) / (e + 1.0))

    def tanh(self, x: Node) -> Node:
        return self.one_of(
            lambda: tanh(x),
            lambda: 2.0 * sigmoid(2.0 * x) - 1.0,
            lambda: 1.0 - 2.0 / (exp(2.0 * x) + 1.0),
        )

    def gelu_tanh(self, x: Node) -> Node:
        root, cubic = self.number(math.sqrt(2.0 / math.pi)), self.number(0.044715)
        inner = self.one_of(
            lambda: root * (x + cubic * (x * x * x)),
            lambda: self.times(root, self.add(x, self.times(cubic, x, x, x))),
            lambda: self.times(root, x, self.add(1.0, self.times(cubic, self.square(x)))),
            lambda: self.times(root, x) + self.times(root, cubic, x**3.0),
        )
        return self.one_of(
            lambda: 0.5 * x * (1.0 + tanh(inner)),
            lambda: self.times(x, self.add(0.5, 0.5 * self.tanh(inner))),
            lambda: self.times(x, self.sigmoid(2.0 * inner)),
            lambda: x / (1.0 + exp(-2.0 * inner)),
            lambda: 0.5 * x + self.times(0.5, x, tanh(inner)),
            lambda: self.over_one_more(x, exp(2.0 * inner)),
        )

    def gelu_erf(self, x: Node) -> Node:
        inner = self.one_of(
            lambda: x * math.sqrt(0.5),
            lambda: x / self.number(math.sqrt(2.0)),
            lambda: self.times(self.number(math.sqrt(0.5)), x),
        )
        return self.one_of(
            lambda: 0.5 * x * (1.0 + erf(inner)),
            lambda: self.times(x, 0.5, self.add(1.0, erf(inner))),
            lambda: self.times(x, self.add(0.5, 0.5 * erf(inner))),
            lambda: 0.5 * x + self.times(0.5, x, erf(inner)),
            lambda: self.times(x, 0.5, self.minus(1.0, erf(-inner))),
        )

    def swiglu(self, gate: Node, up: Node) -> Node:
        return self.one_of(
            lambda: self.silu(gate) * up,
            lambda: self.times(gate, up, self.sigmoid(gate)),
            lambda: (gate * up) / (1.0 + exp(-gate)),
            lambda: self.times(up, gate, 0.5, 1.0 + tanh(0.5 * gate)),
        )

    def geglu(self, gate: Node, up: Node) -> Node:
        return self.times(self.gelu_tanh(gate), up)

    def relu(self, x: Node) -> Node:
        return self.one_of(
            lambda: maximum(x, 0.0),
            lambda: maximum(0.0, x),
            lambda: where(x > 0.0, x, 0.0),
            lambda: where(x < 0.0, 0.0, x),
        )

    def relu_squared(self, x: Node) -> Node:
        return self.one_of(
            lambda: relu_squared(x),
            lambda: self.square(self.relu(x)),
            lambda: x * self.relu(x),
            lambda: where(x > 0.0, self.square(x), 0.0),
        )

    # -- rows

    def layer_norm(self, x: Node, weight: Node, bias: Node, over: str, epsilon: float) -> Node:
        average = self.mean(x, over)
        centred = self.minus(x, average)
        variance = self.one_of(
            lambda: self.mean(self.square(centred), over),
            lambda: self.minus(self.mean(self.square(x), over), self.square(average)),
        )
        inside = self.add(variance, epsilon)
        return self.one_of(
            lambda: self.over_root(centred, inside) * weight + bias,
            lambda: self.add(bias, self.times(weight, self.over_root(centred, inside))),
            lambda: self.shifted(x, average, self.over_root(weight, inside), bias),
        )

    def shifted(self, x: Node, average: Node, factor: Node, bias: Node) -> Node:
        """(x - average) * factor + bias, multiplied out."""
        return self.add(x * factor, self.minus(bias, self.times(average, factor)))

    def rms_norm(self, x: Node, weight: Node, over: str, epsilon: float) -> Node:
        inside = self.add(self.mean(self.square(x), over), epsilon)
        return self.one_of(
            lambda: self.over_root(x, inside) * weight,
            lambda: weight * self.over_root(x, inside),
            lambda: x * self.over_root(weight, inside),
        )

    def softmax(self, x: Node, over: str) -> Node:
        safe, naive = exp(self.minus(x, max(x, over))), exp(x)
        return self.one_of(
            lambda: safe / self.sum(safe, over),
            lambda: self.over(safe, self.sum(safe, over)),
            lambda: self.over(naive, self.sum(naive, over)),
            lambda: exp(self.log_softmax(x, over)),
        )

    def log_softmax(self, x: Node, over: str) -> Node:
        top = max(x, over)
        return self.one_of(
            lambda: log_softmax(x, over),
            lambda: x - (top + log(self.sum(exp(x - top), over))),
            lambda: self.minus(x, log(self.sum(exp(x), over))),
            lambda: log(self.over(exp(x), self.sum(exp(x), over))),
        )

    # -- attention

    def scores(self, q: Node, k: Node, over: str, scale: float) -> Node:
        return self.one_of(
            lambda: dot(q, k, over) * scale,
            lambda: self.scaled(self.dot(q, k, over), scale),
            lambda: self.dot(self.scaled(q, scale), k, over),
            lambda: self.dot(q, self.scaled(k, scale), over),
            lambda: self.dot(self.scaled(q, scale**0.5), self.scaled(k, scale**0.5), over),
        )

    def causal(self, scores: Node, queries: Axis, keys: Axis) -> Node:
        row, column = position(queries), position(keys)
        low = self.one_of(
            lambda: Constant(-INFINITY),
            lambda: Constant(-1e30),
            lambda: Constant(float(np.finfo(np.float32).min)),
        )
        return self.one_of(
            lambda: where(row >= column, scores, -INFINITY),
            lambda: where(column <= row, scores, low),
            lambda: where(column > row, low, scores),
            lambda: where(row < column, low, scores),
            lambda: scores + where(column <= row, 0.0, low),
            lambda: where(column - row > 0, low, 0.0) + scores,
        )

    def attend(self, scores: Node, v: Node, keys: Axis) -> Node:
        safe = exp(scores - max(scores, keys))
        return self.one_of(
            lambda: self.dot(self.softmax(scores, keys), v, keys),
            lambda: self.over(self.dot(safe, v, keys), self.sum(safe, keys)),
        )

    def capped(self, scores: Node, cap: float) -> Node:
        return self.one_of(
            lambda: capped(scores, cap),
            lambda: tanh(scores * (1.0 / cap)) * cap,
            lambda: self.times(cap, self.tanh(scores / cap)),
        )

    def rotate(self, x: Node, cosines: Node, sines: Node, halves: Axis) -> Node:
        first, second = view(x, {halves: 0}), view(x, {halves: 1})
        return self.one_of(
            lambda: formulas.rotate(x, cosines, sines, halves),
            lambda: x * cosines + stack([-second, first], halves) * sines,
            lambda: self.add(
                self.times(x, cosines), self.times(stack([-1.0 * second, first], halves), sines)
            ),
            lambda: stack(
                [
                    self.minus(self.times(first, cosines), self.times(sines, second)),
                    self.add(self.times(first, sines), self.times(cosines, second)),
                ],
                halves,
            ),
        )


# ---------------------------------------------------------------- specimens

CAP, EPSILON = 30.0, 1e-5

SPECIMEN_SIZES = {"m": 3, "n": 6, "k": 5, "s": 4, "t": 7, "d": 5, "e": 3, "p": 2, "i": 3}


def _norm(w: Writer, rows: Callable[..., Node], *operands: Node) -> Node:
    return rows(*operands, "n", 1e-3 if w.chance() else EPSILON)


def _attention(w: Writer, mask: Mask, q: Node, k: Node, v: Node, *given: Node) -> Node:
    scores = w.scores(q, k, "d", 0.25 if w.chance() else 5.0**-0.5)
    if mask == "given":
        scores = w.add(scores, *given)
    if mask == "capped":
        scores = w.capped(scores, CAP)
    if mask in ("causal", "capped"):
        scores = w.causal(scores, "s", "t")
    return w.attend(scores, v, "t")


SPECIMENS: Mapping[str, Callable[..., Node]] = {
    "matmul_bias": lambda w, a, b, bias: w.add(w.dot(a, b, "k"), bias),
    "layer_norm": lambda w, *operands: _norm(w, w.layer_norm, *operands),
    "rms_norm": lambda w, *operands: _norm(w, w.rms_norm, *operands),
    "softmax": lambda w, x: w.softmax(x, "n"),
    "log_softmax": lambda w, x: w.log_softmax(x, "n"),
    "attention": lambda w, *operands: _attention(w, "none", *operands),
    "causal_attention": lambda w, *operands: _attention(w, "causal", *operands),
    "masked_attention": lambda w, *operands: _attention(w, "given", *operands),
    "capped_attention": lambda w, *operands: _attention(w, "capped", *operands),
    "rope_by_table": lambda w, x, cosines, sines: w.rotate(x, cosines, sines, "p"),
    "swiglu": lambda w, gate, up: w.swiglu(gate, up),
    "geglu": lambda w, gate, up: w.geglu(gate, up),
    "gelu_tanh": lambda w, x: w.gelu_tanh(x),
    "gelu_erf": lambda w, x: w.gelu_erf(x),
    "relu_squared": lambda w, x: w.relu_squared(x),
}
"""What is to be found, each written over the operands of the instruction that does it."""


def specimen(name: str, random: Random | None) -> Node:
    """One of the forms of what an instruction computes, with numbers for its immediates."""
    return SPECIMENS[name](Writer(SPECIMEN_SIZES, random), *library()[name].operands)


# ---------------------------------------------------------------- models

SIZES = {"b": 2, "s": 12, "t": 12, "c": 2, "d": 24, "g": 2, "r": 2, "h": 4, "p": 2, "i": 3,
         "e": 6, "u": 6, "z": 3, "f": 40, "v": 20}  # fmt: skip


@dataclass(frozen=True)
class Architecture:
    """What a transformer consists of.

    grouped  two heads of queries share one of keys and values
    batch    the axis b is there
    parted   the residual's axis is two, c and d
    joint    queries, keys and values come from one product
    """

    norm: Norm
    mask: Mask
    gate: Gate
    bias: bool
    rotary: bool = False
    grouped: bool = False
    head_norm: bool = False
    batch: bool = False
    parted: bool = False
    joint: bool = False
    dtype: str = "f32"
    head: Literal["softmax", "log_softmax"] = "softmax"


ARCHITECTURES = (
    Architecture("layer", "causal", "gelu_tanh", True, batch=True),
    Architecture("rms", "causal", "swiglu", False, rotary=True, grouped=True),
    Architecture("layer", "none", "gelu_erf", True, joint=True, batch=True, head="log_softmax"),
    Architecture("rms", "capped", "geglu", False, rotary=True, head_norm=True, batch=True),
    Architecture("layer", "given", "relu_squared", True, parted=True),
    Architecture("rms", "causal", "swiglu", True, rotary=True, joint=True, dtype="bf16"),
    Architecture("layer", "given", "gelu_tanh", True, batch=True, head="log_softmax"),
    Architecture("rms", "none", "geglu", True, parted=True, batch=True),
    Architecture("layer", "causal", "swiglu", False, rotary=True, grouped=True, batch=True),
    Architecture("rms", "capped", "gelu_erf", True, head_norm=True, grouped=True, dtype="bf16"),
)
"""The ten of the benchmark."""

ATTENTION = {
    "none": "attention",
    "causal": "causal_attention",
    "given": "masked_attention",
    "capped": "capped_attention",
}


def expected(architecture: Architecture, layers: int) -> Counter[str]:
    """How often each instruction is to be found."""
    a, found = architecture, Counter[str]()
    norm = "layer_norm" if a.norm == "layer" else "rms_norm"
    found[norm] += 2 * layers + 1
    if a.head_norm:
        found["rms_norm"] += 2 * layers
    found[ATTENTION[a.mask]] += layers
    if a.rotary:
        found["rope_by_table"] += 2 * layers
    found[a.gate] += layers
    projections = 2 if a.joint else 4
    gated = a.gate in ("swiglu", "geglu")
    products = layers * (projections + (3 if gated else 2))
    found["matmul_bias" if a.bias else "matmul"] += products
    found["matmul"] += 1
    found[a.head] += 1
    return found


@dataclass
class Transformer:
    """A transformer being written, layer by layer.

    algebra  writes formulas
    layout   decides on names, orders and merged axes; None: the plain way
    parts    what axes with names of their own stand for
    """

    architecture: Architecture
    algebra: Writer
    layout: Random | None
    builder: Builder
    sizes: dict[Axis, int]
    parts: dict[Axis, tuple[Axis, ...]] = field(default_factory=dict)

    def odds(self, share: float = 0.5) -> bool:
        return self.layout is not None and self.layout.random() < share

    @property
    def width(self) -> str:
        return "c d" if self.architecture.parted else "d"

    # -- axes and tensors

    def axis(self, *axes: Axis) -> Axis:
        """A new name for an axis, or for several as one, the last varying fastest."""
        name = f"n{len(self.parts)}"
        self.parts[name] = axes
        self.sizes[name] = math.prod(self.sizes[axis] for axis in axes)
        return self.builder.axis(name, self.sizes[name])

    def weight(self, name: str, axes: str, near: float = 0.0) -> Node:
        """A weight: its values follow from its name, their order in memory is anyone's."""
        names = axes.split()
        source = np.random.default_rng([*name.encode()])
        array = near + 0.3 * source.standard_normal([self.sizes[axis] for axis in names])
        order = list(range(len(names)))
        if self.layout is not None:
            self.layout.shuffle(order)
        array = array.transpose(order).astype(DTYPES[self.architecture.dtype].numpy)
        return self.builder.weight(name, " ".join(names[k] for k in order), array)

    def rounded(self, x: Node) -> Node:
        return cast(x, "bf16") if self.architecture.dtype == "bf16" else x

    def wide(self, x: Node) -> Node:
        return cast(x, "f32") if self.odds() else x

    def split(self, x: Node, axis: Axis, axes: Sequence[Axis]) -> Node:
        strides = [math.prod(self.sizes[a] for a in axes[k + 1 :]) for k in range(len(axes))]
        terms = zip(axes, strides, strict=True)
        return view(x, {axis: " + ".join(f"{stride}*{a}" for a, stride in terms)})

    def merged(self, x: Node, outer: Axis, inner: Axis, to: Axis) -> Node:
        size = self.sizes[inner]
        return view(x, {outer: f"{to} // {size}", inner: f"{to} % {size}"})

    def renamed(self, x: Node) -> tuple[Node, str]:
        """The residual with another name for its last axis, and the names of its axes."""
        if not self.odds():
            return x, self.width
        new = self.axis("d")
        return rename(x, {"d": new}), self.width.replace("d", new)

    # -- layers

    def norm(self, x: Node, name: str, over: str, kind: Norm) -> Node:
        weight = self.weight(f"{name}.weight", over, near=1.0)
        if kind == "rms":
            normed = self.algebra.rms_norm(self.wide(x), weight, over, EPSILON)
        else:
            bias = self.weight(f"{name}.bias", over)
            normed = self.algebra.layer_norm(self.wide(x), weight, bias, over, EPSILON)
        return self.rounded(normed)

    def product(self, x: Node, name: str, over: str, out: str) -> list[Node]:
        """The terms of a projection: a product, and a bias if there is one."""
        terms = [self.algebra.dot(x, self.weight(f"{name}.weight", f"{over} {out}"), over)]
        if self.architecture.bias:
            terms.append(self.weight(f"{name}.bias", out))
        return terms

    def project(self, x: Node, name: str, over: str, out: str) -> Node:
        """A projection to some axes, or to one that is split behind it."""
        axes = out.split()
        if len(axes) > 1 and self.odds():
            joined = self.axis(*axes)
            return self.split(self.project(x, name, over, joined), joined, axes)
        return self.rounded(self.algebra.add(*self.product(x, name, over, out)))

    def queries(self, x: Node, name: str, heads: str, keys: str) -> tuple[Node, Node, Node]:
        """Queries, keys and values, over axes e and u."""
        x, over = self.renamed(x)
        if self.architecture.joint:
            joint = self.project(x, f"{name}.qkv", over, f"z {heads} e")
            q, k, v = (view(joint, {"z": number}) for number in range(3))
            return q, k, rename(v, {"e": "u"})
        q = self.project(x, f"{name}.q", over, f"{heads} e")
        k = self.project(x, f"{name}.k", over, f"{keys} e")
        return q, k, self.project(x, f"{name}.v", over, f"{keys} u")

    def turned(self, x: Node, name: str, side: str) -> tuple[Node, str]:
        """Queries or keys after their norm and rotation, and the axes of their width."""
        if self.architecture.head_norm:
            x = self.norm(x, f"{name}.{side}_norm", "e", "rms")
        if not self.architecture.rotary:
            return x, "e"
        cosines, sines = (self.builder.tensors[table] for table in ("cosines", "sines"))
        halves = self.split(x, "e", ("p", "i"))
        return self.rounded(self.algebra.rotate(halves, cosines, sines, "p")), "p i"

    def attention(self, x: Node, name: str) -> list[Node]:
        """The terms that attention adds to the residual."""
        a, t = self.architecture, self.axis("s") if self.layout else "t"
        heads, keys = ("g r", "g") if a.grouped else ("h", "h")
        q, k, v = self.queries(x, name, heads, keys)
        (q, inner), (k, _) = self.turned(q, name, "q"), self.turned(k, name, "k")
        k, v = rename(k, {"s": t}), rename(v, {"s": t})
        if a.rotary and self.odds():
            inner = self.axis("p", "i")
            q, k = (self.merged(n, "p", "i", inner) for n in (q, k))
        scores = self.algebra.scores(q, k, inner, self.sizes["e"] ** -0.5)
        mixed = self.rounded(self.algebra.attend(self.masked(scores, t), v, t))
        over = f"{heads} u"
        if len(heads.split()) == 1 and self.odds():
            over = self.axis(heads, "u")
            mixed = self.merged(mixed, heads, "u", over)
        return self.product(mixed, f"{name}.o", over, self.width)

    def masked(self, scores: Node, keys: Axis) -> Node:
        match self.architecture.mask:
            case "given":
                mask = rename(self.builder.tensors["mask"], {"t": keys})
                return self.algebra.add(scores, mask)
            case "capped":
                return self.algebra.causal(self.algebra.capped(scores, CAP), "s", keys)
            case "causal":
                return self.algebra.causal(scores, "s", keys)
        return scores

    def feed_forward(self, x: Node, name: str) -> list[Node]:
        f = self.axis("f") if self.layout else "f"
        x, over = self.renamed(x)
        gate = self.project(x, f"{name}.gate", over, f)
        match self.architecture.gate:
            case "swiglu" | "geglu" as kind:
                up = self.project(x, f"{name}.up", over, f)
                hidden: Node = getattr(self.algebra, kind)(gate, up)
            case kind:
                hidden = getattr(self.algebra, kind)(gate)
        return self.product(self.rounded(hidden), f"{name}.down", f, self.width)

    def layer(self, x: Node, name: str) -> Node:
        kind = self.architecture.norm
        normed = self.norm(x, f"{name}.norm1", self.width, kind)
        x = self.rounded(self.algebra.add(x, *self.attention(normed, f"{name}.attention")))
        normed = self.norm(x, f"{name}.norm2", self.width, kind)
        return self.rounded(self.algebra.add(x, *self.feed_forward(normed, f"{name}.mlp")))

    def head(self, x: Node) -> Node:
        normed = self.norm(x, "norm", self.width, self.architecture.norm)
        logits = self.algebra.dot(normed, self.weight("head", f"{self.width} v"), self.width)
        kind = self.architecture.head
        result: Node = getattr(self.algebra, kind)(logits, "v")
        return result


def transformer(
    architecture: Architecture,
    layers: int,
    seed: int | None = None,
    distinct: int = 0,
) -> Model:
    """A transformer in forms that a seed chooses, or in plain ones: the same function of the same
    inputs and weights.

    distinct  how many layers differ in their forms, the others repeating them; 0: all do
    """
    b = Builder(f"transformer of {layers} layers, seed {seed}")
    sizes = dict(SIZES)
    for axis, size in sizes.items():
        b.axis(axis, size)
    made = Transformer(architecture, Writer(sizes), None, b, sizes)
    x = inputs(b, architecture)
    for number in range(layers):
        if seed is not None:
            turn = number % distinct if distinct else number
            made.algebra.random = Random(f"{seed} algebra {turn}")
            made.layout = Random(f"{seed} layout {turn}")
        x = made.layer(x, f"layers.{number}")
    b.graph("main").output("y", made.head(x))
    return b.model()


def inputs(b: Builder, architecture: Architecture) -> Node:
    """What a transformer reads; its first layer works on the first of them."""
    dtype = architecture.dtype
    axes = " ".join([*(["b"] if architecture.batch else []), "s"])
    axes = f"{axes} {'c d' if architecture.parted else 'd'}"
    x = b.input("x", f"{axes}: {dtype}", [SIZES[axis] for axis in axes.split()])
    if architecture.rotary:
        for name in ("cosines", "sines"):
            b.input(name, "s i", (SIZES["s"], SIZES["i"]))
    if architecture.mask == "given":
        b.input("mask", "s t", (SIZES["s"], SIZES["t"]))
    return x


def primitives(model: Model) -> int:
    """How many operations a model is written in, weights, inputs and numbers apart."""
    roots = [root for graph in model.graphs for root in graph.roots]
    return len([node for node in walk(roots) if node.children and node.axes])
