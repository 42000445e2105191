"""Rewriting changes how a value is written, never what it is."""

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from hypothesis.strategies import DrawFn, composite

from infinisa.compiler.canonical import canonical, digest
from infinisa.isa import formulas
from infinisa.isa.evaluate import Range, align, evaluate
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
    maximum,
    mean,
    position,
    rename,
    rsqrt,
    sigmoid,
    sqrt,
    stack,
    sum,
    view,
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


def test_one_form_for_each_way_to_write_it() -> None:
    one(X - W, X + (-W), X + W * -1.0)
    one(X / W, X * apply("reciprocal", W))
    one(X / sqrt(W), X * rsqrt(W), X * W**-0.5)
    one(X * X, X**2, X**2.0)
    one(mean(X, "n"), sum(X, "n") / 4, sum(X, "n") * 0.25, sum(X * 0.25, "n"))
    one(X / (1 + exp(-X)), X * sigmoid(X), sigmoid(X) * X)
    one(maximum(X, 0.0), maximum(0.0, X), where(X > 0, X, 0.0), where(X < 0, 0.0, X))
    one(X + (1.0 + W) + 2.0, 3.0 + (W + X))
    one(X + X, 2 * X)
    one(sum(X * W, "n"), dot(X, W, "n"))
    one(dot(X * 2.0, W, "n"), 2.0 * dot(X, W, "n"))


def test_masks_have_one_form() -> None:
    seen = position("m") >= position("n")
    low = -np.inf
    one(
        where(seen, X, low),
        X + where(seen, 0.0, low),
        where(apply("logical_not", seen), low, X),
        where(position("n") <= position("m"), X, low),
    )
    one(
        where(position("n") < position("m") + 1, X, 0.5),
        where(position("n") <= position("m"), X, 0.5),
    )


def test_a_value_with_two_users_is_not_taken_apart() -> None:
    total = X + W

    assert form(total * exp(total + 1.0)) == (
        "v0 = add(x[m n], w[n]); multiply(v0, exp(add(1.0, v0)))"
    )


def test_the_number_of_a_product_stays_with_it_under_a_contraction() -> None:
    assert "multiply(0.5" in form(dot(formulas.gelu_tanh(X), W, "n"))
    assert form(dot(formulas.gelu_tanh(X), W, "n")).rpartition("; ")[2].startswith("dot(")


def test_a_rename_goes_through_a_contraction_to_what_is_shared() -> None:
    other = Input("y", ("n", "k"))
    renamed = rename(dot(X, other, "n") + 1.0, {"m": "j"})

    assert form(renamed) == "add(1.0, dot(view(x[m n], m=j), y[n k], over=n))"


def test_a_slice_reaches_the_first_value_that_others_need_whole() -> None:
    row = view(formulas.softmax(X, "n"), {"m": 1})

    assert form(row) == form(formulas.softmax(view(X, {"m": 1}), "n"))


def test_views_cancel() -> None:
    part = stack([X, X * 2.0], "p")
    one(view(part, {"p": 1}), 2.0 * X)
    one(rename(rename(X, {"m": "a"}), {"a": "m"}), X)
    one(view(view(X, {"n": "2*i"}), {"i": "j + 1"}), view(X, {"n": "2*j + 2"}))
    pieces = stack([view(Input("z", ("k",)), {"k": i}) for i in range(2)], "p")
    one(pieces, rename(Input("z", ("k",)), {"k": "p"}))


def test_widening_casts_vanish_in_arithmetic() -> None:
    narrow = Input("b", ("n",), "bf16")

    assert form(cast(narrow, "f32") * 2.0) == "multiply(2.0, b[n: bf16])"
    assert form(Cast(Cast(narrow, "f32"), "bf16")) == "b[n: bf16]"


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
    (after,) = canonical([node], SIZES).roots

    assert set(after.axes) == set(node.axes)
    assert after.dtype == node.dtype
    old, new = (evaluate([each], arrays, ranges=ranges)[0] for each in (node, after))
    aligned = align(new, after.axes, node.axes).astype(np.float64)
    wanted = np.asarray(old, np.float64)
    fine = np.isfinite(wanted) & (np.abs(wanted) < 1e6)
    np.testing.assert_allclose(aligned[fine], wanted[fine], rtol=1e-2, atol=1e-2)
