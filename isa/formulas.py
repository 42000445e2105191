"""Formulas of neural networks in the tensor language, each written once.

Readers build models from them and instructions are defined by them, so a model read here and an
instruction that serves it are the same expression. Axes are arguments: a formula works over one
axis or several.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from .language import (
    Axis,
    Node,
    Value,
    cos,
    dot,
    erf,
    exp,
    lift,
    max,
    maximum,
    mean,
    position,
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

Over = str | Iterable[Axis]

INFINITY = math.inf

# ---------------------------------------------------------------- activations


def silu(x: Node) -> Node:
    return x * sigmoid(x)


def gelu_erf(x: Node) -> Node:
    """The exact form: x times the normal distribution at x."""
    return 0.5 * x * (1.0 + erf(x * math.sqrt(0.5)))


def gelu_tanh(x: Node) -> Node:
    """The form of GPT-2 ("gelu_new")."""
    return 0.5 * x * (1.0 + tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * (x * x * x))))


def swiglu(gate: Node, up: Node) -> Node:
    return silu(gate) * up


def geglu(gate: Node, up: Node) -> Node:
    return gelu_tanh(gate) * up


# ---------------------------------------------------------------- rows


def softmax(x: Node, over: Over) -> Node:
    weights = exp(x - max(x, over))
    return weights / sum(weights, over)


def safe_softmax(x: Node, over: Over) -> Node:
    """A softmax in which a row of nothing but -inf is 0, not NaN."""
    weights = exp(x - _finite(max(x, over)))
    return weights / _nonzero(sum(weights, over))


def _finite(top: Node) -> Node:
    """A row's maximum; 0 where there is none, because -inf - -inf is NaN."""
    return where(top > -INFINITY, top, 0.0)


def _nonzero(total: Node) -> Node:
    return where(total > 0.0, total, 1.0)


def layer_norm(x: Node, weight: Node, bias: Node, over: Over, epsilon: Value = 1e-5) -> Node:
    centred = x - mean(x, over)
    return centred * rsqrt(mean(centred * centred, over) + epsilon) * weight + bias


def rms_norm(x: Node, weight: Node, over: Over, epsilon: Value = 1e-5) -> Node:
    return x * rsqrt(mean(x * x, over) + epsilon) * weight


def l2_normalize(x: Node, over: Over, epsilon: Value = 1e-12) -> Node:
    """x divided by its length, or by epsilon if it is shorter."""
    return x / maximum(sqrt(sum(x * x, over)), epsilon)


# ---------------------------------------------------------------- attention


def causal(scores: Node, queries: Axis, keys: Axis) -> Node:
    """Scores of keys after the query become -inf; positions are absolute."""
    return where(position(queries) >= position(keys), scores, -INFINITY)


def attention_scores(q: Node, k: Node, over: Over, scale: Value) -> Node:
    return dot(q, k, over) * scale


def attend(scores: Node, v: Node, keys: Axis) -> Node:
    """Values averaged over the keys by the softmax of the scores."""
    return dot(softmax(scores, keys), v, keys)


def attend_safe(scores: Node, v: Node, keys: Axis) -> Node:
    """As `attend`; a query that may see nothing gets 0."""
    return dot(safe_softmax(scores, keys), v, keys)


def flash_step(
    scores: Node, v: Node, keys: Axis, top: Node, total: Node, weighted: Node
) -> tuple[Node, Node, Node]:
    """One tile of keys of an attention: the next maximum, sum of weights and weighted values.

    They start as -inf, 0 and 0; `flash_finish` gives the result.
    """
    highest = maximum(top, max(scores, keys))
    base = _finite(highest)
    weights, decay = exp(scores - base), exp(top - base)
    return (
        highest,
        total * decay + sum(weights, keys),
        weighted * decay + dot(weights, v, keys),
    )


def flash_finish(total: Node, weighted: Node) -> Node:
    return weighted / _nonzero(total)


# ---------------------------------------------------------------- positions


def rope_angles(tokens: Axis, pairs: Axis, theta: Value = 10000.0) -> Node:
    """The angle of pair i at position s: s * theta ** (-i / pairs)."""
    return position(tokens) * lift(theta) ** (-position(pairs) / size(pairs))


def rotate(x: Node, cosines: Node, sines: Node, halves: Axis) -> Node:
    """x with its pairs turned: axis `halves` (of 2) holds the first and the second of each pair.

    The half-rotated form (Llama, GPT-NeoX) splits the head width as (halves, pairs), the
    interleaved form as (pairs, halves).
    """
    first, second = view(x, {halves: 0}), view(x, {halves: 1})
    return stack([first * cosines - second * sines, second * cosines + first * sines], halves)


def rope(x: Node, angles: Node, halves: Axis) -> Node:
    """x with its pairs turned by angles."""
    return rotate(x, cos(angles), sin(angles), halves)
