"""Rewriting changes how a value is written, never what it is."""

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as some
from hypothesis.strategies import DrawFn, composite

from infinisa.compiler.equality.canonical import canonical, digest, number_of
from infinisa.isa import formulas
from infinisa.isa.evaluate import Range, align, evaluate
from infinisa.isa.functions import FUNCTIONS
from infinisa.isa.language import (
    Cast,
    Constant,
    Dot,
    Input,
    Map,
    Node,
    Position,
    Reduce,
    Size,
    Stack,
    View,
    affine,
    apply,
    cast,
    dot,
    exp,
    inputs,
    lift,
    max,
    maximum,
    position,
    rename,
    rsqrt,
    size,
    sqrt,
    stack,
    sum,
    view,
    walk,
    where,
)

SIZES = {"m": 3, "n": 4, "k": 2, "j": 4}
X, W = Input("x", ("m", "n")), Input("w", ("n",))
SMOOTH = ("exp", "tanh", "sigmoid", "absolute", "negate", "sin")
BINARY = ("add", "subtract", "multiply", "maximum", "minimum")
RELATIONS = ("less", "less_equal", "greater", "greater_equal")


def form(node: Node) -> str:
    (root,) = canonical([node], SIZES).roots
    return str(root)


def one(*nodes: Node) -> None:
    """All of these have one canonical form."""
    assert len({canonical([node], SIZES).roots[0] for node in nodes}) == 1


# ---------------------------------------------------------------- rules


def test_numbers_are_folded() -> None:
    assert form(X * (lift(2.0) * 3.0)) == "multiply(x[m n], 6.0)"
    assert form(X / size("n")) == "divide(x[m n], 4.0)"
    assert form(X / size("unknown")) == "divide(x[m n], size(unknown))"
    assert number_of(lift(2.0) ** 3.0) == 8.0
    assert number_of(lift(2.0) * size("n")) is None


@pytest.mark.parametrize("name", [n for n, f in FUNCTIONS.items() if f.arity > 1])
def test_a_number_is_written_in_the_type_it_is_computed_in(name: str) -> None:
    """A whole number beside floats is a float; beside whole numbers it stays what it is."""
    function, whole = FUNCTIONS[name], Input("i", ("n",), "i32")
    first = [X > 1.0] if function.result == "branches" else []
    if function.result == "bool" and not function.numbers and name.startswith("logical"):
        return

    one(apply(name, *first, X, 3), apply(name, *first, X, 3.0))
    one(apply(name, *first, 3, X), apply(name, *first, 3.0, X))
    assert canonical([node := apply(name, *first, whole, 3)], SIZES).roots == (node,)


def test_reductions_of_reductions_are_one() -> None:
    one(sum(sum(X, "m"), "n"), sum(sum(X, "n"), "m"), sum(X, "n m"))
    one(*(Reduce(function, X, ()) for function in ("sum", "max", "min", "product")), X)
    one(max(max(X, "m"), "n"), max(X, "m n"))
    assert form(max(sum(X, "m"), "n")) == "max(sum(x[m n], over=m), over=n)"


def test_a_number_is_written_without_the_type_that_it_meets() -> None:
    """As long as that type holds it: -inf beside bf16, as masks of exporters have it."""
    x, least = cast(X, "bf16"), Constant(-np.inf)
    one(where(X > 0.0, x, cast(least, "bf16")), where(X > 0.0, x, least))
    assert "cast(0.1, bf16)" in form(where(X > 0.0, x, cast(Constant(0.1), "bf16")))


def test_a_sum_of_products_is_a_contraction() -> None:
    one(sum(X * W, "n"), dot(X, W, "n"))
    assert form(sum(X * W, "m")) == "sum(multiply(x[m n], w[n]), over=m)"
    assert form(sum(X * X, "n")) == "sum(multiply(x[m n], x[m n]), over=n)"


def test_a_value_with_two_users_is_not_taken_apart() -> None:
    product = X * W

    assert form(sum(product, "n") * exp(product)) == (
        "v0 = multiply(x[m n], w[n]); multiply(sum(v0, over=n), exp(v0))"
    )


def test_algebra_is_left_as_it_is_written() -> None:
    """Equal values are found by meaning; rules are for bookkeeping."""
    for node in (X - W, X + (-W), X / sqrt(W), X * rsqrt(W), maximum(X, 0.0), W + X, X * X, X**2.0):
        assert canonical([node], SIZES).roots == (node,)


def test_a_rename_goes_through_a_contraction_to_what_is_shared() -> None:
    other = Input("y", ("n", "k"))
    renamed = rename(dot(X, other, "n") + 1.0, {"m": "j"})

    assert form(renamed) == "add(dot(view(x[m n], m=j), y[n k], over=n), 1.0)"


def test_a_rename_stops_where_it_would_meet_a_reduced_axis() -> None:
    renamed = rename(sum(X, "n"), {"m": "n"})

    assert form(renamed) == "view(sum(x[m n], over=n), m=n)"


def test_a_slice_reaches_the_first_value_that_others_need_whole() -> None:
    row = view(formulas.softmax(X, "n"), {"m": 1})

    assert form(row) == form(formulas.softmax(view(X, {"m": 1}), "n"))


def test_views_cancel() -> None:
    part = stack([X, X * 2.0], "p")
    one(view(part, {"p": 1}), X * 2.0)
    one(rename(rename(X, {"m": "a"}), {"a": "m"}), X)
    one(view(view(X, {"n": "2*i"}), {"i": "j + 1"}), view(X, {"n": "2*j + 2"}))
    pieces = stack([view(Input("z", ("k",)), {"k": i}) for i in range(2)], "p")
    one(pieces, rename(Input("z", ("k",)), {"k": "p"}))
    one(view(position("m"), {"m": "k + 1"}), lift(1) + 1 * position("k"))


def test_widening_casts_vanish_in_arithmetic() -> None:
    narrow = Input("b", ("n",), "bf16")

    assert form(cast(narrow, "f32") * 2.0) == "multiply(b[n: bf16], 2.0)"
    assert form(Cast(Cast(narrow, "f32"), "bf16")) == "b[n: bf16]"
    assert form(Cast(Cast(W, "bf16"), "f32")) == "cast(cast(w[n], bf16), f32)"


def test_a_digest_does_not_depend_on_the_run() -> None:
    assert digest(X + W).hex() == "368fc2877f6aeb4ce8057b4a"


# ---------------------------------------------------------------- soundness


@composite
def values(draw: DrawFn, depth: int = 4) -> Node:
    """A random expression over x[m n], w[n], z[m k] and numbers."""
    leaves = [X, W, Input("z", ("m", "k")), Constant(0.5), Constant(2), Position("n"), Size("m")]
    if depth == 0 or draw(some.integers(0, 5)) == 0:
        return draw(some.sampled_from(leaves))
    inner = values(depth - 1)
    kind = draw(some.sampled_from(("map", "map", "map", "reduce", "view", "where", "divide")))
    a = draw(inner)
    match kind:
        case "map" if draw(some.booleans()):
            return Map(draw(some.sampled_from(SMOOTH)), (a,))
        case "map":
            return Map(draw(some.sampled_from(BINARY)), (a, draw(inner)))
        case "divide":
            return a / (1.5 + apply("absolute", draw(inner)))
        case "where":
            relation = Map(draw(some.sampled_from(RELATIONS)), (a, draw(inner)))
            return where(relation, draw(inner), draw(inner))
        case "reduce" if a.axes:
            return reduced(draw, a, draw(inner))
        case "view" if a.axes:
            return viewed(draw, a)
    return a


def reduced(draw: DrawFn, a: Node, b: Node) -> Node:
    axis = draw(some.sampled_from(a.axes))
    if axis in b.axes and draw(some.booleans()):
        return Dot(a, b, (axis,))
    return Reduce(draw(some.sampled_from(("sum", "max"))), a, (axis,))


def viewed(draw: DrawFn, a: Node) -> Node:
    """A rename, a reversal, a padded shift, one position, or a stack along a new axis."""
    axis = draw(some.sampled_from(a.axes))
    length = SIZES[axis]
    match draw(some.sampled_from(("reverse", "shift", "first", "stack", "rename"))):
        case "reverse":
            return View(a, ((axis, affine(f"{length - 1} - {axis}")),))
        case "shift":
            return View(a, ((axis, affine(f"{axis} - 1")),), 0.0)
        case "first":
            return View(a, ((axis, affine(0)),))
        case "stack" if "k" not in a.axes:
            return Stack((a, a * 2.0), "k")
        case "rename" if axis == "n" and "j" not in a.axes:
            return View(a, (("n", affine("j")),))
    return a


@settings(deadline=None, max_examples=300, suppress_health_check=list(HealthCheck))
@given(values(), some.integers(0, 2**32 - 1))
def test_the_canonical_form_has_the_same_value(node: Node, seed: int) -> None:
    random = np.random.default_rng(seed)
    arrays = {
        leaf.name: random.normal(size=[SIZES[axis] for axis in leaf.axes]).astype(np.float32)
        for leaf in inputs([node])
    }
    ranges = {axis: Range(0, length) for axis, length in SIZES.items()}
    for angle in (x.arguments[0] for x in walk([node]) if isinstance(x, Map)
                  if x.function in ("sin", "cos")):  # fmt: skip
        (large,) = evaluate([angle], arrays, ranges=ranges)
        assume((np.abs(large) < 1e3).all())  # of larger ones a rounding is another angle
    (after,) = canonical([node], SIZES).roots

    assert set(after.axes) == set(node.axes)
    assert after.dtype == node.dtype
    old, new = (evaluate([each], arrays, ranges=ranges)[0] for each in (node, after))
    aligned = align(new, after.axes, node.axes).astype(np.float64)
    wanted = np.asarray(old, np.float64)
    fine = np.isfinite(wanted) & (np.abs(wanted) < 1e6)
    np.testing.assert_allclose(aligned[fine], wanted[fine], rtol=1e-2, atol=1e-2)
