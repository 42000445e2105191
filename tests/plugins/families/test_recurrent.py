"""Cells and the recurrences they stand in, against PyTorch and plain NumPy."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from infinisa.isa import formulas
from infinisa.isa.evaluate import Range, evaluate
from infinisa.isa.instruction import Instruction
from infinisa.isa.language import Input, Node, view
from infinisa.plugins.families import recurrent

Array = NDArray[Any]
STEPS, INPUTS, HIDDEN = 5, 3, 4
CELLS: Mapping[str, Instruction] = {i.name: i for i in recurrent.infinisa_instructions()}


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def random(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def values(*roots: Node, **arrays: Array) -> list[Array]:
    return evaluate(roots, arrays, ranges={"s": Range(0, STEPS)})


def issue(name: str, *operands: Array) -> list[Array]:
    cell = CELLS[name]
    given = {leaf.name: array for leaf, array in zip(cell.operands, operands, strict=True)}
    return evaluate(cell.outputs, given)


def test_cells_compute_their_textbook_formulas() -> None:
    a, b, c, d, e = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    gate = sigmoid(a)

    np.testing.assert_allclose(issue("rnn_cell", a, b)[0], np.tanh(a + b), rtol=1e-5)
    np.testing.assert_allclose(issue("gru_reset", a, b)[0], gate * b, rtol=1e-5)
    kept = (1 - gate) * np.tanh(b) + gate * c
    np.testing.assert_allclose(issue("gru_cell", a, b, c)[0], kept, rtol=1e-5, atol=1e-6)
    linear = (1 - gate) * np.tanh(c + sigmoid(b) * d) + gate * e
    np.testing.assert_allclose(
        issue("gru_cell_linear", a, b, c, d, e)[0], linear, rtol=1e-5, atol=1e-6
    )
    hidden, cell = issue("lstm_cell", a, b, c, d, e)
    np.testing.assert_allclose(cell, sigmoid(c) * e + gate * np.tanh(d), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(hidden, sigmoid(b) * np.tanh(cell), rtol=1e-5, atol=1e-6)


LEAVES = {
    "x": ("s", "d"),
    "w": ("q", "n", "d"),
    "r": ("q", "n", "m"),
    "b": ("q", "n"),
    "rb": ("q", "n"),
    "h": ("n",),
    "c": ("n",),
}


def leaves(gates: int) -> tuple[dict[str, Input], dict[str, Array]]:
    """Inputs for a recurrence, and arrays for them."""
    sizes = {"s": STEPS, "d": INPUTS, "n": HIDDEN, "m": HIDDEN, "q": gates}
    nodes = {name: Input(name, axes) for name, axes in LEAVES.items()}
    generator = np.random.default_rng(gates)
    arrays = {
        name: generator.normal(size=[sizes[axis] for axis in axes]).astype(np.float32)
        for name, axes in LEAVES.items()
    }
    return nodes, arrays


@pytest.mark.parametrize("reverse", [False, True])
def test_a_gru_that_resets_before_its_weights(reverse: bool) -> None:
    """ONNX's default, linear_before_reset = 0, which PyTorch does not have."""
    n, a = leaves(3)
    every, last = formulas.gru(
        n["x"], n["w"], n["r"], n["b"], n["rb"], n["h"], "s", reverse=reverse
    )

    h, expected = a["h"], np.zeros((STEPS, HIDDEN), np.float32)
    for step in reversed(range(STEPS)) if reverse else range(STEPS):
        z, r, c = (a["w"] @ a["x"][step]) + a["b"] + a["rb"]
        z, r = (sigmoid(g + a["r"][k] @ h) for k, g in enumerate((z, r)))
        h = (1 - z) * np.tanh(c + a["r"][2] @ (r * h)) + z * h
        expected[step] = h

    found = values(every, last, **a)
    np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[1], h, rtol=1e-4, atol=1e-5)


@pytest.mark.torch
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_recurrences_both_ways_against_pytorch(kind: str) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    layer = getattr(torch.nn, kind)(INPUTS, HIDDEN, bidirectional=True)
    given = {name: p.detach().numpy() for name, p in layer.named_parameters()}
    x = random(STEPS, INPUTS)
    expected = layer(torch.tensor(x))[0].detach().numpy()

    results = []
    gates = {"RNN": 1, "LSTM": 4, "GRU": 3}[kind]
    nodes, arrays = leaves(gates)
    for suffix in ("", "_reverse"):
        w, r, b, rb = (
            given[f"{part}_l0{suffix}"] for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        arrays.update(
            x=x,
            w=w.reshape(gates, HIDDEN, INPUTS),
            r=r.reshape(gates, HIDDEN, HIDDEN),
            b=b.reshape(gates, HIDDEN),
            rb=rb.reshape(gates, HIDDEN),
            h=np.zeros(HIDDEN, np.float32),
            c=np.zeros(HIDDEN, np.float32),
        )
        results.append(values(_recurrence(kind, nodes, bool(suffix)), **arrays)[0])

    found = np.concatenate(results, axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def _recurrence(kind: str, n: Mapping[str, Input], reverse: bool) -> Node:
    """A recurrence in PyTorch's conventions."""
    if kind == "LSTM":
        bias = n["b"] + n["rb"]
        arguments = n["x"], n["w"], n["r"], bias, n["h"], n["c"], "s"
        return formulas.lstm(*arguments, reverse=reverse, order="ifco")[0]
    if kind == "GRU":
        arguments_ = n["x"], n["w"], n["r"], n["b"], n["rb"], n["h"], "s"
        return formulas.gru(*arguments_, reverse=reverse, linear_before_reset=True, order="rzh")[0]
    w, r, b, rb = (view(n[key], {"q": 0}) for key in ("w", "r", "b", "rb"))
    return formulas.rnn(n["x"], w, r, b + rb, n["h"], "s", reverse=reverse)[0]


def test_both_ways_puts_the_directions_side_by_side() -> None:
    x, y = Input("x", ("s", "n")), Input("y", ("s", "n"))

    joined = formulas.both_ways(x, y)

    assert joined.axes == ("c", "s", "n")
