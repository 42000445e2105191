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
    rename,
    rsqrt,
    scan,
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


def flash_combine(top: Node, total: Node, weighted: Node, runs: Axis) -> tuple[Node, Node, Node]:
    """States of separate runs over tiles of keys, as if one run had seen them all."""
    highest = max(top, runs)
    decay = exp(top - _finite(highest))
    return highest, sum(total * decay, runs), dot(weighted, decay, runs)


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


# ---------------------------------------------------------------- recurrences
#
# Axes: steps `axis`, inputs d, hidden n and its twin m (the hidden of the step before), gates q.
# The products of the inputs are done for all steps at once; those of the hidden are in the scan.


def rnn_cell(inputs: Node, recurrent: Node) -> Node:
    """The next hidden from the products of the input and of the hidden before."""
    return tanh(inputs + recurrent)


def lstm_cell(
    entry: Node, exit: Node, forget: Node, candidate: Node, cell: Node
) -> tuple[Node, Node]:
    """The next hidden and cell from the gates' arguments and the cell before."""
    after = sigmoid(forget) * cell + sigmoid(entry) * tanh(candidate)
    return sigmoid(exit) * tanh(after), after


def gru_reset(reset: Node, hidden: Node) -> Node:
    """What the reset gate leaves of the hidden, before it is multiplied by the weights."""
    return sigmoid(reset) * hidden


def gru_cell(keep: Node, candidate: Node, hidden: Node) -> Node:
    """The next hidden; the candidate saw the hidden after its reset."""
    gate = sigmoid(keep)
    return (1.0 - gate) * tanh(candidate) + gate * hidden


def gru_cell_linear(keep: Node, reset: Node, inputs: Node, recurrent: Node, hidden: Node) -> Node:
    """The next hidden; the reset gate acts behind the weights (linear_before_reset, PyTorch)."""
    return gru_cell(keep, inputs + sigmoid(reset) * recurrent, hidden)


def rnn(
    x: Node,
    weight: Node,
    recurrent: Node,
    bias: Node,
    hidden: Node,
    axis: Axis,
    reverse: bool = False,
    over: Over = "d",
) -> tuple[Node, Node]:
    """(the hidden of every step, the last): weight (n d), recurrent (n m), bias (n).

    `over` names the axes of the input, if they are not just d.
    """

    def step(hidden_state: Node, projected: Node) -> tuple[list[Node], list[Node]]:
        product = dot(rename(hidden_state, {"n": "m"}), recurrent, "m")
        after = rnn_cell(projected, product)
        return [after], [after]

    inputs = {"projected": dot(x, weight, over) + bias}
    (last,), (every,) = scan(step, {"hidden_state": hidden}, inputs, axis, reverse)
    return every, last


def lstm(
    x: Node,
    weight: Node,
    recurrent: Node,
    bias: Node,
    hidden: Node,
    cell: Node,
    axis: Axis,
    reverse: bool = False,
    order: str = "iofc",
    over: Over = "d",
) -> tuple[Node, Node, Node]:
    """(the hidden of every step, the last, the last cell): weight (q n d), recurrent (q n m).

    `order` is that of the gates along q: input, output, forget, candidate in ONNX; ifco in PyTorch.
    """

    def step(
        hidden_state: Node, cell_state: Node, projected: Node
    ) -> tuple[list[Node], list[Node]]:
        gates = projected + dot(rename(hidden_state, {"n": "m"}), recurrent, "m")
        i, o, f, c = (view(gates, {"q": order.index(gate)}) for gate in "iofc")
        after, after_cell = lstm_cell(i, o, f, c, cell_state)
        return [after, after_cell], [after]

    states = {"hidden_state": hidden, "cell_state": cell}
    inputs = {"projected": dot(x, weight, over) + bias}
    (last, last_cell), (every,) = scan(step, states, inputs, axis, reverse)
    return every, last, last_cell


def gru(
    x: Node,
    weight: Node,
    recurrent: Node,
    bias: Node,
    recurrent_bias: Node,
    hidden: Node,
    axis: Axis,
    reverse: bool = False,
    linear_before_reset: bool = False,
    order: str = "zrh",
    over: Over = "d",
) -> tuple[Node, Node]:
    """(the hidden of every step, the last): weight (q n d), recurrent (q n m), biases (q n).

    `order` is that of the gates along q: update, reset, hidden in ONNX; PyTorch has rzh.
    """
    keep, reset, candidate = (order.index(gate) for gate in "zrh")

    def product(hidden_state: Node, gate: int) -> Node:
        weights, offset = view(recurrent, {"q": gate}), view(recurrent_bias, {"q": gate})
        return dot(rename(hidden_state, {"n": "m"}), weights, "m") + offset

    def step(hidden_state: Node, projected: Node) -> tuple[list[Node], list[Node]]:
        z, r = (view(projected, {"q": g}) + product(hidden_state, g) for g in (keep, reset))
        inputs = view(projected, {"q": candidate})
        if linear_before_reset:
            behind = product(hidden_state, candidate)
            after = gru_cell_linear(z, r, inputs, behind, hidden_state)
        else:
            left = gru_reset(r, hidden_state)
            after = gru_cell(z, inputs + product(left, candidate), hidden_state)
        return [after], [after]

    inputs = {"projected": dot(x, weight, over) + bias}
    (last,), (every,) = scan(step, {"hidden_state": hidden}, inputs, axis, reverse)
    return every, last


def both_ways(forward: Node, backward: Node, directions: Axis = "c") -> Node:
    """The results of a recurrence and of its reverse, side by side."""
    return stack([forward, backward], directions)
