"""Reverse mode: against differences of values, and against PyTorch."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from numpy.typing import NDArray

from infinisa.compiler.gradient import gradient, gradient_of
from infinisa.isa import formulas
from infinisa.isa import language as L
from infinisa.isa.errors import LanguageError
from infinisa.isa.evaluate import Range, evaluate
from infinisa.isa.functions import FUNCTIONS, PULLBACKS
from infinisa.isa.instruction import Instruction
from infinisa.isa.language import Input, Node
from tests.isa.expressions import LEAVES, RANGES, arrays, expressions

Array = NDArray[Any]


def derived(
    root: Node, leaf: Input, values: Mapping[str, Array], weights: Array, ranges: Any = RANGES
) -> Array:
    """The gradient of sum(weights * root) by the language."""
    cotangent = Input("weights", root.axes, "f64")
    (found,) = gradient([root], [cotangent], [leaf])
    (array,) = evaluate([found], {**values, "weights": weights}, ranges=ranges)
    assert set(found.axes) <= set(leaf.axes)
    if found.axes:
        array = array.transpose([found.axes.index(axis) for axis in leaf.axes])
    return np.broadcast_to(array, values[leaf.name].shape)


def check(
    root: Node, leaf: Input, values: Mapping[str, Array], ranges: Any = RANGES, step: float = 1e-6
) -> None:
    """Along a random direction, values change as the gradient says."""
    random = np.random.default_rng(1)

    def at(distance: float) -> Array:
        moved = {**values, leaf.name: values[leaf.name] + distance * way}
        return evaluate([root], moved, ranges=ranges)[0]

    way = random.normal(size=values[leaf.name].shape)
    weights = random.normal(size=at(0).shape)
    found = float(np.sum(derived(root, leaf, values, weights, ranges) * way))
    changes = weights * (at(step) - at(-step))
    size = float(np.abs(changes).sum()) / step + float(np.abs(weights * at(0)).sum())

    assert found == pytest.approx(float(changes.sum()) / (2 * step), rel=1e-5, abs=1e-6 * size)


@given(expressions(), some.sampled_from([leaf for leaf in LEAVES if leaf.dtype == "f64"]))
def test_a_random_expression_changes_as_its_gradient_says(root: Node, leaf: Input) -> None:
    if root.dtype == "f64":
        check(root, leaf, arrays())


A, B, C = (Input(name, ("m",), "f64") for name in "abc")


@pytest.mark.parametrize("name", sorted(PULLBACKS))
def test_every_row_of_the_table_of_derivatives(name: str) -> None:
    """At positive numbers, where all functions are defined."""
    random = np.random.default_rng(0)
    values = {leaf.name: random.uniform(0.5, 2.5, 9) for leaf in (A, B, C)}
    leaves: list[Node] = [A, B, C]
    arguments = leaves[: FUNCTIONS[name].arity]
    if name == "where":
        arguments[0] = A > 1.5
    root = L.apply(name, *arguments)
    for leaf in (A, B, C):
        check(root, leaf, values, {})


X = Input("x", ("h", "n"), "f64")
Y = Input("y", ("p", "n"), "f64")
K = Input("k", ("r",), "f64")


def step(state: Node, x: Node) -> tuple[list[Node], list[Node]]:
    after = L.tanh(state * 0.5 + x * K0)
    return [after], [after * x, state]


K0 = Input("k0", ("n",), "f64")


def running(output: int, reverse: bool) -> Node:
    states, emits = L.scan(step, {"state": K0 * 0.1}, {"x": X}, "h", reverse)
    return (*states, *emits)[output]


CASES: Mapping[str, tuple[Node, Input]] = {
    "product": (L.Reduce("product", X, ("n",)), X),
    "min": (L.min(X, ("h", "n")), X),
    "window": (L.view(X, {"h": "2*p + r - 1"}, fill=0.0) * K, X),
    "window, of what it is multiplied by": (L.view(X, {"h": "2*p + r - 1"}, fill=0.0) * K, K),
    "backwards": (L.view(X, {"h": "4 - p"}), X),
    "shifted in place": (L.view(X, {"h": "h - 2"}, fill=1.0), X),
    "one position": (L.view(X, {"h": 2, "n": "r"}), X),
    "diagonal": (L.view(X, {"h": "r", "n": "r"}), X),
    "digits": (L.view(X, {"h": "p // 2", "n": "p % 2"}), X),
    "update": (L.update(X, Y * Y, {"h": "p + 1"}), X),
    "update, of the value": (L.update(X, Y * Y, {"h": "p + 1"}), Y),
    "unused": (L.exp(Y), X),
    "cast": (L.cast(X, "f32") * 1.0, X),
    "attention": (formulas.attend(formulas.causal(L.dot(X, Y, "n"), "h", "p"), Y, "p"), Y),
    **{
        f"recurrence {output} {reverse} {leaf.name}": (running(output, reverse), leaf)
        for output in range(3)
        for reverse in (False, True)
        for leaf in (X, K0)
    },
}


@pytest.mark.parametrize("name", CASES)
def test_a_kind_of_node(name: str) -> None:
    root, leaf = CASES[name]
    sizes = {"h": 5, "n": 3, "p": 3, "r": 3}
    random = np.random.default_rng(2)
    values = {x.name: random.normal(size=[sizes[axis] for axis in x.axes]) for x in (X, Y, K, K0)}
    ranges = {axis: Range(0, size) for axis, size in sizes.items()}
    check(root, leaf, values, ranges, step=1e-2 if name == "cast" else 1e-6)


def test_a_product_with_zeros_has_a_gradient() -> None:
    """One zero: only that element counts. Two zeros: none does."""
    x = Input("x", ("m", "n"), "f64")
    values = {"x": np.array([[2.0, 0.0, 3.0], [0.0, 0.0, 3.0]])}

    found = derived(L.Reduce("product", x, ("n",)), x, values, np.ones(2), {})

    assert found.tolist() == [[0, 6, 0], [0, 0, 0]]


def test_equal_maxima_share() -> None:
    x = Input("x", ("n",), "f64")

    found = derived(L.max(x, "n"), x, {"x": np.array([1.0, 3.0, 3.0])}, np.ones(()), {})

    assert found.tolist() == [0, 0.5, 0.5]


def test_a_gradient_of_a_gradient_is_one() -> None:
    """The second derivative of the sum of x ** 3 is 6 x."""
    x = Input("x", ("n",), "f64")
    (first,) = gradient([L.sum(x * x * x, "n")], [L.lift(1.0)], [x])
    values = np.array([1.0, -2.0])

    assert derived(first, x, {"x": values}, np.ones(2), {}) == pytest.approx(6 * values)


def test_what_is_whole_or_true_has_none() -> None:
    ids = Input("ids", ("n",), "i32")
    x = Input("x", ("n",), "f64")

    assert gradient([x * ids], [L.lift(1.0)], [ids]) == (L.Constant(0.0),)
    assert gradient([L.argmax(x, "n")], [L.lift(1.0)], [x]) == (L.Constant(0.0),)


def test_an_opaque_operator_is_named() -> None:
    x = Input("x", ("n",), "f32")
    node = L.Opaque("sort", (x,), ("n",), "f32")

    with pytest.raises(LanguageError) as caught:
        gradient([node], [L.lift(1.0)], [x])

    assert str(caught.value) == "gradient: Opaque has none: sort.0(x[n])[n: f32]"


def test_an_index_over_the_axis_it_replaces_is_named() -> None:
    x = Input("x", ("n",), "f32")

    with pytest.raises(LanguageError) as caught:
        gradient([L.view(x, {"n": "2*n"}, fill=0.0)], [L.lift(1.0)], [x])

    assert str(caught.value) == (
        "gradient: View has none where axis 'n' is read by an axis of that name: "
        "view(x[n], n=2*n, fill=0.0)"
    )


def test_an_author_may_write_the_gradient() -> None:
    """What the instruction's author wrote is taken, in terms of the cotangents given."""
    x = Input("x", ("n",))
    plain = Instruction(name="square", unit="vector", operands=(x,), outputs=(x * x,))
    g = Input("given", ("n",))

    assert gradient_of(plain.gradient(lambda x, g: 2.0 * x * g), [g]) == (2.0 * x * g,)
    assert gradient_of(plain, [g]) == (g * x + g * x,)


TORCH: Mapping[str, tuple[Callable[[Node], Node], Callable[[torch.Tensor], torch.Tensor]]] = {
    "softmax": (lambda x: formulas.softmax(x, "n"), lambda x: torch.softmax(x, 1)),
    "gelu": (formulas.gelu_erf, torch.nn.functional.gelu),
    "gelu_tanh": (
        formulas.gelu_tanh,
        lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    ),
    "silu": (formulas.silu, torch.nn.functional.silu),
    "layer_norm": (
        lambda x: formulas.layer_norm(x, L.lift(1.0), L.lift(0.0), "n"),
        lambda x: torch.nn.functional.layer_norm(x, x.shape[1:]),
    ),
    "amax": (lambda x: L.max(x, "n"), lambda x: x.amax(1)),
    "cumulative sum": (
        lambda x: L.scan(lambda s, x: ([s + x], [s + x]), {"s": L.view(x, {"n": 0}) * 0.0},
                         {"x": x}, "n")[1][0],
        lambda x: torch.cumsum(x, 1).T,
    ),
}  # fmt: skip


@pytest.mark.torch
@pytest.mark.parametrize("name", TORCH)
def test_a_formula_has_the_gradient_that_pytorch_gives(name: str) -> None:
    formula, function = TORCH[name]
    x = Input("x", ("m", "n"), "f64")
    values = np.random.default_rng(0).normal(size=(4, 7))
    theirs = torch.tensor(values, requires_grad=True)
    result = function(theirs)
    weights = np.random.default_rng(1).normal(size=tuple(result.shape))
    (wanted,) = torch.autograd.grad(result, theirs, torch.tensor(weights))

    mine = derived(formula(x), x, {"x": values}, weights, {})

    # constants of the language are f32
    assert mine == pytest.approx(wanted.numpy(), rel=1e-5, abs=1e-7)
