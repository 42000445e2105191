"""Every built-in instruction against a plain formula, and every law against its whole."""

from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from infinisa.isa.evaluate import Range, align, evaluate
from infinisa.isa.functions import FUNCTIONS, erf
from infinisa.isa.instruction import Instruction
from infinisa.isa.laws import StepOf
from infinisa.plugins.families import attention, linear
from infinisa.plugins.manager import load

Array = NDArray[Any]
LIBRARY: Mapping[str, Instruction] = load(installed=False).library
RANDOM = np.random.default_rng(7)
S, T, D, E = 5, 11, 4, 3


def random(*shape: int) -> Array:
    return RANDOM.normal(size=shape).astype(np.float32)


def issue(
    name: str, *operands: Array, ranges: Mapping[str, Range] | None = None, **numbers: float
) -> list[Array]:
    """All results of an instruction, dimensions in the order of their axes' names."""
    instruction = LIBRARY[name]
    given = {leaf.name: array for leaf, array in zip(instruction.operands, operands, strict=True)}
    results = evaluate(instruction.outputs, given, ranges=ranges, immediates=numbers)
    return [
        align(result, output.axes, order(output.axes))
        for result, output in zip(results, instruction.outputs, strict=True)
    ]


def order(axes: tuple[str, ...]) -> tuple[str, ...]:
    """The order in which formulas here write axes."""
    return tuple(axis for axis in "msptikndev" if axis in axes)


# ---------------------------------------------------------------- element by element

X, Y = random(6), random(6)
POSITIVE = ("log", "sqrt", "rsqrt", "power")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_scalar_function(name: str) -> None:
    function = FUNCTIONS[name]
    x, y = (abs(X) if name in POSITIVE else X), Y
    condition = x > 0
    given = {1: (x,), 2: (x, y), 3: (condition, x, y)}[function.arity]
    if name.startswith("logical"):
        given = (condition, y > 0)[: function.arity]

    (found,) = issue(name, *given)

    expected = np.asarray(function.numpy(*given))
    np.testing.assert_allclose(
        found.astype(np.float64), expected.astype(np.float64), rtol=1e-6, atol=1e-7
    )


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def gelu(x: Array) -> Array:
    return np.asarray(x * 0.5 * (1 + erf(x / np.sqrt(2))))


def gelu_tanh(x: Array) -> Array:
    return np.asarray(x * 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("move", X),
        ("relu", np.maximum(X, 0)),
        ("gelu_erf", gelu(X)),
        ("gelu_tanh", gelu_tanh(X)),
        ("silu", X * sigmoid(X)),
    ],
)
def test_an_activation(name: str, expected: Array) -> None:
    np.testing.assert_allclose(issue(name, X)[0], expected, rtol=1e-5, atol=1e-6)


def test_gated_activations() -> None:
    np.testing.assert_allclose(issue("swiglu", X, Y)[0], X * sigmoid(X) * Y, rtol=1e-5)
    np.testing.assert_allclose(issue("geglu", X, Y)[0], gelu_tanh(X) * Y, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("scale", X * 2.5),
        ("add_scalar", X + 2.5),
        ("maximum_scalar", np.maximum(X, 2.5)),
        ("minimum_scalar", np.minimum(X, 2.5)),
        ("power_scalar", np.abs(X) ** 2.5),
    ],
)
def test_a_function_with_a_number(name: str, expected: Array) -> None:
    x = np.abs(X) if name == "power_scalar" else X

    np.testing.assert_allclose(issue(name, x, y=2.5)[0], expected, rtol=1e-6)


def test_a_cast_rounds_to_even_and_saturates() -> None:
    x = np.array([-300.0, -0.5, 0.5, 1.5, 2.5, 300.0], np.float32)

    assert issue("cast_i8", x)[0].tolist() == [-128, 0, 0, 2, 2, 127]
    assert issue("cast_u8", x)[0].tolist() == [0, 0, 0, 2, 2, 255]
    assert issue("cast_bf16", x)[0].dtype == ml_dtypes.bfloat16
    assert issue("cast_f32", x)[0].tolist() == x.tolist()


# ---------------------------------------------------------------- products and reductions

A, B, BIAS = random(4, 6), random(6, 5), random(5)
PRODUCT = A @ B


@pytest.mark.parametrize(
    ("name", "operands", "expected"),
    [
        ("matmul", (A, B), PRODUCT),
        ("matmul_bias", (A, B, BIAS), PRODUCT + BIAS),
        ("matmul_bias_relu", (A, B, BIAS), np.maximum(PRODUCT + BIAS, 0)),
        ("matmul_bias_gelu", (A, B, BIAS), gelu(PRODUCT + BIAS)),
        ("matmul_bias_gelu_tanh", (A, B, BIAS), gelu_tanh(PRODUCT + BIAS)),
        ("matmul_silu", (A, B), PRODUCT * sigmoid(PRODUCT)),
        ("embedding", (A, np.array([3, 0, 3], np.int32)), A[[3, 0, 3]]),
        ("reduce_sum", (A,), A.sum(1)),
        ("reduce_max", (A,), A.max(1)),
        ("reduce_min", (A,), A.min(1)),
        ("reduce_product", (A,), A.prod(1)),
        ("reduce_mean", (A,), A.mean(1)),
        ("argmax", (A,), A.argmax(1)),
    ],
)
def test_a_product_or_a_reduction(name: str, operands: tuple[Array, ...], expected: Array) -> None:
    np.testing.assert_allclose(issue(name, *operands)[0], expected, rtol=1e-4, atol=1e-6)


def test_products_and_sums_go_in_pieces() -> None:
    accumulating = [*linear.infinisa_instructions()[:6], LIBRARY["reduce_sum"]]

    assert [sorted(i.reduced) for i in accumulating] == [["k"]] * 6 + [["n"]]


# ---------------------------------------------------------------- rows

W, V = random(6), random(6)


def norm(x: Array, epsilon: float) -> Array:
    return np.asarray((x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + epsilon))


def root_mean_square(x: Array, epsilon: float) -> Array:
    return np.asarray(x / np.sqrt((x * x).mean(1, keepdims=True) + epsilon))


def rows_softmax(x: Array) -> Array:
    weights = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(weights / weights.sum(-1, keepdims=True))


def test_norms() -> None:
    x, residual, e = random(4, 6), random(4, 6), 1e-3
    total = x + residual

    assert_near(issue("softmax", x), rows_softmax(x))
    assert_near(issue("layer_norm", x, W, V, epsilon=e), norm(x, e) * W + V)
    assert_near(issue("rms_norm", x, W, epsilon=e), root_mean_square(x, e) * W)
    assert_near(
        issue("residual_layer_norm", x, residual, W, V, epsilon=e), total, norm(total, e) * W + V
    )
    assert_near(
        issue("residual_rms_norm", x, residual, W, epsilon=e),
        total,
        root_mean_square(total, e) * W,
    )
    assert_near(issue("l2_normalize", x), x / np.linalg.norm(x, axis=1, keepdims=True))


def assert_near(found: list[Array], *expected: Array) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_a_softmax_of_large_numbers_does_not_overflow() -> None:
    x = np.array([[1000.0, 1000.0, -1000.0]], np.float32)

    assert issue("softmax", x)[0].tolist() == [[0.5, 0.5, 0.0]]


# ---------------------------------------------------------------- attention

Q, K, VALUES = random(S, D), random(T, D), random(T, E)
MASK = np.where(RANDOM.random((S, T)) < 0.4, -np.inf, random(S, T)).astype(np.float32)
SCALE = 0.4
SCORES = Q @ K.T * SCALE
FIRST = 6  # the position of the first query


def visible() -> Array:
    return np.asarray(FIRST + np.arange(S)[:, None] >= np.arange(T)[None])


WHOLES: Mapping[str, tuple[tuple[Array, ...], Callable[[], Array]]] = {
    "attention": ((), lambda: rows_softmax(SCORES)),
    "causal_attention": ((), lambda: rows_softmax(np.where(visible(), SCORES, -np.inf))),
    "masked_attention": ((MASK,), lambda: rows_softmax(SCORES + MASK)),
}


@pytest.mark.parametrize("name", WHOLES)
def test_attention(name: str) -> None:
    more, weights = WHOLES[name]

    found = issue(name, Q, K, VALUES, *more, ranges={"s": Range(FIRST, S)}, scale=SCALE)

    assert_near(found, weights() @ VALUES)


def test_a_query_that_may_see_nothing_gets_0() -> None:
    mask = np.full((S, T), -np.inf, np.float32)

    (found,) = issue("masked_attention", Q, K, VALUES, mask)

    assert found.tolist() == np.zeros((S, E)).tolist()


STEPS = [i for i in attention.infinisa_instructions() if i.laws]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
@pytest.mark.parametrize("tile", [1, 4, T])
def test_folding_the_steps_of_a_law_gives_the_whole(step: Instruction, tile: int) -> None:
    """Also when a tile shows a query nothing, as the last tiles do to the first queries."""
    (law,) = [each for each in step.laws if isinstance(each, StepOf)]
    shapes = {"top": (S,), "total": (S,), "weighted": (S, E)}
    states = {
        state.input.name: np.full(shapes[state.input.name], state.initial, np.float32)
        for state in step.states
    }
    queries = Range(FIRST, S)
    for start in range(0, T, tile):
        piece = slice(start, min(start + tile, T))
        keys = Range(start, piece.stop - start)
        given = {"q": Q, "k": K[piece], "v": VALUES[piece], "mask": MASK[:, piece], **states}
        after = evaluate(
            step.outputs, given, ranges={"s": queries, "t": keys}, immediates={"scale": SCALE}
        )
        states = dict(zip(states, after, strict=True))

    finish = LIBRARY[law.finish]
    (found,) = issue(law.finish, *(states[leaf.name] for leaf in finish.operands))
    more = WHOLES[law.whole][0]
    whole = issue(law.whole, Q, K, VALUES, *more, ranges={"s": queries}, scale=SCALE)
    assert_near([found], whole[0])


def test_rotary_positions_turn_the_halves() -> None:
    """As a product of complex numbers; the token axis is the absolute position."""
    x, theta = random(S, 2, 3), 100.0
    angles = (FIRST + np.arange(S))[:, None] * theta ** (-np.arange(3) / 3)
    turned = (x[:, 0] + 1j * x[:, 1]) * np.exp(1j * angles)
    expected = np.stack([turned.real, turned.imag], axis=1)
    ranges = {"s": Range(FIRST, S)}

    assert_near(issue("rope", x, theta=theta, ranges=ranges), expected)
    frequency = (theta ** (-np.arange(3) / 3)).astype(np.float32)
    assert_near(issue("rope_by_frequency", x, frequency, ranges=ranges), expected)
    tables = (np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32))
    assert_near(issue("rope_by_table", x, *tables), expected)
