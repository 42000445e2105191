"""Cells of recurrent networks, and the layers that run them over the steps of a sequence.

A recurrence is a scan in the language (`isa.formulas`: rnn, lstm, gru): each step is a product of
the hidden state with the recurrent weights, which is a `matmul`, and one of these cells. So that a
step depends on the one before stays in the program and shows in its time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from infinisa.compiler.positional.operator import Operator, operator
from infinisa.compiler.positional.recurrence import scan
from infinisa.compiler.positional.tensor import Tensor, concat, each, full
from infinisa.isa import formulas
from infinisa.isa.errors import ModelError
from infinisa.isa.instruction import Instruction, instruction
from infinisa.isa.language import Node, apply, maximum, minimum

from ..hookspec import hookimpl
from .elementwise import elu, hard_sigmoid, softplus


@instruction(unit="vector")
def rnn_cell(inputs: "n", recurrent: "n"):
    """The next hidden of a simple recurrent network."""
    return formulas.rnn_cell(inputs, recurrent)


@instruction(unit="vector")
def lstm_cell(entry: "n", exit: "n", forget: "n", candidate: "n", cell: "n"):
    """The next hidden and the next cell, from the gates' arguments and the cell before."""
    return formulas.lstm_cell(entry, exit, forget, candidate, cell)


@instruction(unit="vector")
def gru_reset(reset: "n", hidden: "n"):
    """What the reset gate leaves of the hidden."""
    return formulas.gru_reset(reset, hidden)


@instruction(unit="vector")
def gru_cell(keep: "n", candidate: "n", hidden: "n"):
    """The next hidden; the candidate saw the hidden after `gru_reset`."""
    return formulas.gru_cell(keep, candidate, hidden)


@instruction(unit="vector")
def gru_cell_linear(keep: "n", reset: "n", inputs: "n", recurrent: "n", hidden: "n"):
    """The next hidden; the reset gate acts behind the recurrent weights."""
    return formulas.gru_cell_linear(keep, reset, inputs, recurrent, hidden)


@hookimpl
def infinisa_instructions() -> Sequence[Instruction]:
    return [rnn_cell, lstm_cell, gru_reset, gru_cell, gru_cell_linear]


# ---------------------------------------------------------------- operators

Activation = Callable[[Tensor], Tensor]
Pair = tuple[list[Tensor], list[Tensor]]

NAMED: dict[str, Callable[..., Node]] = {
    "relu": lambda x: maximum(x, 0.0),
    "tanh": lambda x: apply("tanh", x),
    "sigmoid": lambda x: apply("sigmoid", x),
    "affine": lambda x, alpha=1.0, beta=0.0: alpha * x + beta,
    "elu": elu,
    "hardsigmoid": hard_sigmoid,
    "softplus": softplus,
    "softsign": lambda x: x / (1.0 + abs(x)),
}


@dataclass(frozen=True, kw_only=True)
class Layer:
    """The attributes that RNN, GRU and LSTM share."""

    hidden: int
    direction: str
    activations: Sequence[str]
    alphas: Sequence[float]
    betas: Sequence[float]
    clip: float | None
    layout: int
    default: bool

    @property
    def usual(self) -> bool:
        """Whether it is a cell of `isa.formulas`: the activations are those of the operator."""
        return self.default and self.clip is None

    def functions(self, number: int, count: int) -> list[Activation]:
        """The activations of one direction. Their numbers stand in a row with no gaps."""
        names = [name.lower() for name in self.activations]
        if unknown := [name for name in names if name not in NAMED]:
            raise ModelError(f"activation must be one of {', '.join(NAMED)}, not {unknown[0]!r}")
        takes = {"affine": (1, 1), "elu": (1, 0), "hardsigmoid": (1, 1)}
        alphas, betas, found = list(self.alphas), list(self.betas), []
        for name in names:
            given: dict[str, float] = {}
            for key, row, wanted in zip(
                ("alpha", "beta"), (alphas, betas), takes.get(name, (0, 0)), strict=True
            ):
                if wanted and row:
                    given[key] = row.pop(0)
            found.append(self._activation(NAMED[name], given))
        return found[number * count : (number + 1) * count]

    def _activation(self, formula: Callable[..., Node], given: dict[str, float]) -> Activation:
        def apply_to(x: Tensor) -> Tensor:
            return each(lambda node: formula(self._clipped(node), **given), [x])

        return apply_to

    def _clipped(self, x: Node) -> Node:
        return x if self.clip is None else maximum(minimum(x, self.clip), -self.clip)

    @property
    def reversed(self) -> list[bool]:
        kinds = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}
        if self.direction not in kinds:
            raise ModelError(f"direction must be one of {', '.join(kinds)}, not {self.direction!r}")
        return kinds[self.direction]


def layer_of(
    hidden_size: int | None,
    weights: Tensor,
    direction: str,
    activations: Sequence[str] | None,
    defaults: Sequence[str],
    activation_alpha: Sequence[float] | None,
    activation_beta: Sequence[float] | None,
    clip: float | None,
    layout: int,
) -> Layer:
    hidden = hidden_size or weights.shape[2]
    if weights.shape[2] != hidden:
        raise ModelError(f"hidden_size must be {weights.shape[2]}, not {hidden}")
    count = 2 if direction == "bidirectional" else 1
    return Layer(
        hidden=hidden,
        direction=direction,
        activations=activations or [*defaults] * count,
        default=not activations or [a.lower() for a in activations] == [*defaults] * count,
        alphas=activation_alpha or (),
        betas=activation_beta or (),
        clip=clip,
        layout=layout,
    )


def gates(x: Tensor, hidden: int) -> list[Tensor]:
    """The pieces of width `hidden` of the last dimension."""
    return [x.slice(-1, k, k + hidden) for k in range(0, x.shape[-1], hidden)]


def one(tensor: Tensor, number: int) -> Tensor:
    """One direction of a parameter."""
    return tensor.slice(0, number, number + 1).squeeze([0])


def directions(
    layer: Layer,
    x: Tensor,
    initial: Sequence[Tensor | None],
    run: Callable[[int, bool, Tensor, list[Tensor]], Pair],
) -> list[Tensor]:
    """All outputs (Y, then the last states) from the runs of each direction.

    `run(direction, reverse, x, states)` gives last states and the emitted hidden state.
    """
    steps = x.transpose([1, 0, 2]) if layer.layout else x
    kinds = [s if s is None or not layer.layout else s.transpose([1, 0, 2]) for s in initial]
    shape = (steps.shape[1], layer.hidden)
    emitted, last = [], []
    for number, backwards in enumerate(layer.reversed):
        states = [full(shape, 0.0, x.dtype) if s is None else one(s, number) for s in kinds]
        after, (hidden,) = run(number, backwards, steps, states)
        emitted.append(hidden.unsqueeze([1]))
        last.append([state.unsqueeze([0]) for state in after])
    results = [concat(emitted, 1), *(concat(rows, 0) for rows in zip(*last, strict=True))]
    if not layer.layout:
        return results
    return [results[0].transpose([2, 0, 1, 3]), *(r.transpose([1, 0, 2]) for r in results[1:])]


def projected(x: Tensor, weights: Tensor, bias: Tensor | None) -> Tensor:
    """What the inputs of all steps add to the gates, in one product."""
    total = x.matmul(weights.transpose([1, 0]))
    return total if bias is None else total + bias


def biases(bias: Tensor | None, number: int) -> tuple[Tensor | None, Tensor | None]:
    """The biases of the input and of the recurrence."""
    if bias is None:
        return None, None
    row = one(bias, number)
    half = row.shape[0] // 2
    return row.slice(0, 0, half), row.slice(0, half, None)


def refuse_lengths(lengths: Tensor | None, x: Tensor, layout: int) -> None:
    """Lengths of the sequences are accepted if they are all the whole length."""
    steps = x.shape[1 if layout else 0]
    if lengths is not None and any(n != steps for n in lengths.integers("sequence_lens")):
        raise ModelError(f"sequence_lens must all be {steps}")


# long: the parameters are those of the operator
@operator("RNN", since=7)
def rnn_node(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    lengths: Tensor | None = None,
    hidden: Tensor | None = None,
    *,
    hidden_size: int | None = None,
    direction: str = "forward",
    activations: Sequence[str] | None = None,
    activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None,
    clip: float | None = None,
    layout: int = 0,
) -> list[Tensor]:
    """h' = f(W x + R h + b)"""
    layer = layer_of(
        hidden_size, r, direction, activations, ["tanh"], activation_alpha, activation_beta,
        clip, layout,
    )  # fmt: skip
    refuse_lengths(lengths, x, layout)

    def run(number: int, backwards: bool, steps: Tensor, states: list[Tensor]) -> Pair:
        (f,) = layer.functions(number, 1)
        inner, again = biases(b, number)
        both = inner + again if inner is not None and again is not None else None
        given, back = projected(steps, one(w, number), both), one(r, number).transpose([1, 0])

        def step(now: Sequence[Tensor], row: Sequence[Tensor]) -> Pair:
            product = now[0].matmul(back)
            new = each(formulas.rnn_cell, [row[0], product]) if layer.usual else f(row[0] + product)
            return [new], [new]

        return scan(step, states, [given], backwards)

    return directions(layer, x, [hidden], run)


# long: the parameters are those of the operator
@operator("GRU", since=7)
def gru_node(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    lengths: Tensor | None = None,
    hidden: Tensor | None = None,
    *,
    hidden_size: int | None = None,
    direction: str = "forward",
    activations: Sequence[str] | None = None,
    activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None,
    clip: float | None = None,
    layout: int = 0,
    linear_before_reset: int = 0,
) -> list[Tensor]:
    """Gates z, r and candidate n: h' = (1 - z) n + z h"""
    layer = layer_of(
        hidden_size, r, direction, activations, ["sigmoid", "tanh"], activation_alpha,
        activation_beta, clip, layout,
    )  # fmt: skip
    refuse_lengths(lengths, x, layout)

    def run(number: int, backwards: bool, steps: Tensor, states: list[Tensor]) -> Pair:
        f, g = layer.functions(number, 2)
        inner, again = biases(b, number)
        back, wide = one(r, number).transpose([1, 0]), 2 * layer.hidden
        both_w, new_w = back.slice(-1, 0, wide), back.slice(-1, wide, None)
        extra = None
        if inner is not None and again is not None:  # only that of n waits for its step
            (z_bias, r_bias, n_bias), (z_more, r_more, extra) = (
                gates(b, layer.hidden) for b in (inner, again)
            )
            inner = concat([z_bias + z_more, r_bias + r_more, n_bias], 0)
        given = projected(steps, one(w, number), inner)

        def step(now: Sequence[Tensor], row: Sequence[Tensor]) -> Pair:
            h = now[0]
            n = row[0].slice(-1, wide, None)
            z, reset = gates(row[0].slice(-1, 0, wide) + h.matmul(both_w), layer.hidden)
            left = each(formulas.gru_reset, [reset, h]) if layer.usual else f(reset) * h
            if linear_before_reset:
                behind = plus(h.matmul(new_w), extra)
                if layer.usual:
                    new = each(formulas.gru_cell_linear, [z, reset, n, behind, h])
                    return [new], [new]
                n = n + f(reset) * behind
            else:
                n = n + plus(left.matmul(new_w), extra)
            if layer.usual:
                new = each(formulas.gru_cell, [z, n, h])
            else:
                z, n = f(z), g(n)
                new = (z * -1.0 + 1.0) * n + z * h
            return [new], [new]

        return scan(step, states, [given], backwards)

    return directions(layer, x, [hidden], run)


def plus(x: Tensor, bias: Tensor | None) -> Tensor:
    return x if bias is None else x + bias


# long: the parameters are those of the operator
@operator("LSTM", since=7)
def lstm_node(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    lengths: Tensor | None = None,
    hidden: Tensor | None = None,
    cell: Tensor | None = None,
    peepholes: Tensor | None = None,
    *,
    hidden_size: int | None = None,
    direction: str = "forward",
    activations: Sequence[str] | None = None,
    activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None,
    clip: float | None = None,
    layout: int = 0,
    input_forget: int = 0,
) -> list[Tensor]:
    """Gates i, o, f and candidate c: c' = f c + i g(n), h' = o h(c')"""
    layer = layer_of(
        hidden_size, r, direction, activations, ["sigmoid", "tanh", "tanh"], activation_alpha,
        activation_beta, clip, layout,
    )  # fmt: skip
    refuse_lengths(lengths, x, layout)
    if input_forget:
        raise ModelError("input_forget is not supported")

    def run(number: int, backwards: bool, steps: Tensor, states: list[Tensor]) -> Pair:
        f, g, h = layer.functions(number, 3)
        inner, again = biases(b, number)
        both = inner + again if inner is not None and again is not None else None
        given, back = projected(steps, one(w, number), both), one(r, number).transpose([1, 0])
        peeps = [None] * 3 if peepholes is None else gates(one(peepholes, number), layer.hidden)

        def step(now: Sequence[Tensor], row: Sequence[Tensor]) -> Pair:
            before, old = now
            parts = gates(row[0] + before.matmul(back), layer.hidden)
            if layer.usual and peepholes is None:
                result = each(lambda *nodes: formulas.lstm_cell(*nodes)[0], [*parts, old])
                return [
                    result,
                    each(lambda *nodes: formulas.lstm_cell(*nodes)[1], [*parts, old]),
                ], [result]
            i, o, forget, new = parts
            p, q, s = peeps
            i = f(i if p is None else i + p * old)
            forget = f(forget if s is None else forget + s * old)
            cell_ = forget * old + i * g(new)
            o = f(o if q is None else o + q * cell_)
            result = o * h(cell_)
            return [result, cell_], [result]

        return scan(step, states, [given], backwards)

    return directions(layer, x, [hidden, cell], run)


@hookimpl
def infinisa_operators() -> Sequence[Operator]:
    return [rnn_node, gru_node, lstm_node]
