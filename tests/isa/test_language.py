"""The nodes of the language: their axes and types, what is refused, how they print."""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from infinisa.isa.errors import LanguageError
from infinisa.isa.evaluate import evaluate
from infinisa.isa.functions import FUNCTIONS
from infinisa.isa.language import (
    Affine,
    Constant,
    Dot,
    Immediate,
    Input,
    Node,
    Opaque,
    Reduce,
    Scan,
    Size,
    Stack,
    Update,
    View,
    affine,
    apply,
    argmax,
    cast,
    cos,
    dot,
    equal,
    everything,
    exp,
    gather,
    inputs,
    is_nan,
    max,
    maximum,
    mean,
    position,
    refine,
    relu,
    rename,
    scan,
    show,
    size,
    sqrt,
    stack,
    substitute,
    sum,
    union,
    update,
    view,
    walk,
    where,
)

X, Y, Z = Input("x", ("m", "k")), Input("y", ("k", "n")), Input("z", ("k",), "i32")


def refusal(make: Callable[[], object]) -> str:
    with pytest.raises(LanguageError) as caught:
        make()
    return str(caught.value)


# ---------------------------------------------------------------- indices


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("s", Affine((("s", 1),))),
        ("2*p + r - 1", Affine((("p", 2), ("r", 1)), -1)),
        ("p * 2 - -3", Affine((("p", 2),), 3)),
        ("7", Affine(offset=7)),
        ("-(p - 4)", Affine((("p", -1),), 4)),
        ("p + p", Affine((("p", 2),))),
        ("p - p + 1", Affine(offset=1)),
        ("n // 64", Affine((("n", 1),), divide=64)),
        ("n % 64", Affine((("n", 1),), modulo=64)),
        ("(2*n + 1) // 3 % 5", Affine((("n", 2),), 1, 3, 5)),
    ],
)
def test_an_index_is_read(text: str, index: Affine) -> None:
    assert affine(text) == index
    assert affine(str(index)) == index


@pytest.mark.parametrize("text", ["p * r", "p +", "f(p)", "p / 2", "2 ** p", "p // 2 + 1", "a.b",
                                  "p // 0", "p % -2", "p % 4 % 2"])  # fmt: skip
def test_what_is_no_index_is_refused(text: str) -> None:
    assert refusal(lambda: affine(text)) == (
        f"index must be a sum of axes with integer strides, not {text!r}"
    )


terms = some.dictionaries(some.sampled_from("abc"), some.integers(-9, 9).filter(bool))


@given(terms, some.integers(-9, 9), some.integers(1, 9), some.integers(0, 9))
def test_an_index_is_printed_as_it_is_read(
    strides: dict[str, int], offset: int, divide: int, modulo: int
) -> None:
    index = Affine(tuple(strides.items()), offset, divide, modulo)

    assert affine(str(index)) == index


def test_an_index_may_be_just_an_axis() -> None:
    assert affine("s").plain == "s"
    assert affine(3) == Affine(offset=3)
    for text in ("2*s", "s + 1", "s // 2", "s % 2", "3", "s + t"):
        assert affine(text).plain is None


# ---------------------------------------------------------------- axes and types


def test_equal_nodes_are_one_object() -> None:
    assert X + 1.0 is X + 1.0
    assert Input("x", ("m", "k")) is X
    assert Constant(0.0) is not Constant(-0.0)
    assert Constant(0) is not Constant(0.0)
    assert Constant(False) is not Constant(0)
    assert Constant(math.nan) is Constant(math.nan)


def test_axes_are_joined_in_order_of_appearance() -> None:
    assert (X + Y).axes == ("m", "k", "n")
    assert dot(X, Y, over="k").axes == ("m", "n")
    assert sum(X, "m").axes == ("k",)
    assert stack([X, Z], "g").axes == ("g", "m", "k")
    assert view(X, {"m": "2*p + r", "k": "k + 1"}).axes == ("p", "r", "k")
    assert gather(Y, Input("i", ("s",), "i32"), "k").axes == ("s", "n")
    assert position("t").axes == ("t",)
    assert size("t").axes == ()
    assert union([("a", "b"), ("c", "a")]) == ("a", "b", "c")


def test_a_number_bends_to_the_tensor_it_meets() -> None:
    half, whole = Input("h", ("m",), "bf16"), Input("w", ("m",), "i8")

    assert (half * 2).dtype == "f32"
    assert (whole * 2).dtype == "i32"
    assert (whole * 0.5).dtype == "f32"
    assert (Input("d", (), "f64") * 0.5).dtype == "f64"
    assert (Constant(2) * Constant(3)).dtype == "i32"


def test_a_result_has_the_type_of_its_function() -> None:
    whole = Input("w", ("m",), "i8")

    assert exp(whole).dtype == "f32"
    assert (whole / whole).dtype == "f32"
    assert (whole // 2).dtype == "i32"
    assert (whole < 2).dtype == "bool"
    assert where(whole < 2, whole, 0.5).dtype == "f32"
    assert argmax(X, "k").dtype == "i32"
    assert sum(whole, "m").dtype == "i32"
    assert stack([whole, whole], "g").dtype == "i8"
    assert cast(whole, "bf16").dtype == "bf16"
    assert cast(whole, "i8") is whole
    assert dot(whole, Input("b", ("m",), "bf16"), "m").dtype == "f32"


def test_operators_are_functions() -> None:
    assert show(1.0 - X) == "subtract(1.0, x[m k])"
    assert show(X**2 % 3 // 4) == "floor_divide(modulo(power(x[m k], 2), 3), 4)"
    assert show(-X <= X) == "less_equal(negate(x[m k]), x[m k])"
    assert show(2.0 * X > 1.0 / X) == "greater(multiply(2.0, x[m k]), divide(1.0, x[m k]))"
    assert show(relu(X)) == "maximum(x[m k], 0.0)"
    assert show(1.0 + X >= 0) == "greater_equal(add(1.0, x[m k]), 0)"
    assert show(equal(sqrt(X), cos(X))) == "equal(sqrt(x[m k]), cos(x[m k]))"
    assert show(2 ** abs(X)) == "power(2, absolute(x[m k]))"
    assert show(7 // X % 2) == "modulo(floor_divide(7, x[m k]), 2)"
    assert show(5 % X) == "modulo(5, x[m k])"
    assert show(~(X < 1) & is_nan(X) | equal(X, 2)) == (
        "logical_or(logical_and(logical_not(less(x[m k], 1)), is_nan(x[m k])), equal(x[m k], 2))"
    )


def test_a_number_may_be_of_numpy_and_stand_for_a_tensor() -> None:
    number: Any = np.float32(0.5)
    assert show(number * X + np.int64(3)) == "add(multiply(0.5, x[m k]), 3)"
    assert show(gather(X, 0, "k")) == "gather(x[m k], 0, k)"
    assert show(stack([1.0, X], "g")) == "stack(1.0, x[m k], g)"


def test_a_mean_divides_by_extents() -> None:
    text = "divide(divide(sum(x[m k], over=m k), size(m)), size(k))"

    assert show(mean(X, "m k")) == text


# ---------------------------------------------------------------- what is refused


def anything(value: object) -> Any:
    """What its type would not let through."""
    return value


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Input("x", ("m", "m")), "input 'x': axes must differ, not m m"),
        (lambda: Input("x", (), "f8"), "element type must be one of bool, i8, u8, i16, u16, i32, "
         "i64, bf16, f16, f32, f64, not 'f8'"),
        (lambda: apply("softplus", X), f"scalar function must be one of {', '.join(FUNCTIONS)}, "
         "not 'softplus'"),
        (lambda: apply("exp", X, X), "exp: takes 1 arguments, not 2"),
        (lambda: equal(X, X) - equal(X, X), "subtract: takes numbers, not truth values: cast them"),
        (lambda: bool(X < 1), "a tensor has no truth value: use where(condition, a, b)"),
        (lambda: Reduce("mean", X, ("k",)), "reduction must be one of sum, max, min, product, "
         "argmax, not 'mean'"),
        (lambda: sum(X, "n"), "sum: no axis 'n' in (m k)"),
        (lambda: sum(1.0, "n"), "sum: no axis 'n' in ()"),
        (lambda: argmax(X, "m k"), "argmax: takes one axis, not (m k)"),
        (lambda: X * anything("2"), "must be a tensor or a number, not str: what is no single "
         "number is an operand"),
        (lambda: exp(anything(np.ones(3))), "must be a tensor or a number, not ndarray: what is no "
         "single number is an operand"),
        (lambda: X & (X < 1), "logical_and: takes truth values, not f32: compare them first"),
        (lambda: X @ Y, "axes have names here: a @ b is dot(a, b, over)"),
        (lambda: dot(X, Y, over="m"), "dot: no axis 'm' in (k n)"),
        (lambda: view(X, {"n": "m"}), "view: no axis 'n' in (m k)"),
        (lambda: view(X, {"m": "k"}), "view: axis 'k' is in (m k) already"),
        (lambda: gather(X, Z, "n"), "gather: no axis 'n' in (m k)"),
        (lambda: gather(X, Z, "k"), "gather: the index must be integers without axis 'k'"),
        (lambda: gather(X, Input("i", ("s",)), "k"), "gather: the index must be integers without "
         "axis 'k'"),
        (lambda: update(X, Y, {"m": "s"}), "update: the value must have axes (k s), not (k n)"),
        (lambda: stack([X], "m"), "stack: axis 'm' must be new, not one of ('m', 'k')"),
        (lambda: stack([], "g"), "stack: axis 'g' must be new, not one of ()"),
        (lambda: refine([position("m")], {"m": ("a", "b")}), "axis 'm' is indexed and cannot be "
         "parted into ('a', 'b')"),
        (lambda: refine([argmax(X, "k")], {"k": ("a", "b")}), "axis 'k' is indexed and cannot be "
         "parted into ('a', 'b')"),
    ],
)  # fmt: skip
def test_what_has_no_meaning_is_refused(make: Callable[[], object], message: str) -> None:
    assert refusal(make) == message


def test_a_recurrence_keeps_the_axes_of_its_states() -> None:
    h, x = Input("h", ("m",)), Input("x", ("t", "n"))

    assert refusal(lambda: scan(lambda h, x: ([h + x], []), {"h": h}, {"x": x}, "t")) == (
        "scan: state 'h' must keep axes (m), not become (m n)"
    )
    body = scan(lambda h, x: ([h], []), {"h": h}, {"x": x}, "t")[0][0]
    assert isinstance(body, Scan)
    assert refusal(lambda: Scan(body.body, (h,), (h,), 0)) == (
        "scan: 'x' must have axes (t n), not (m)"
    )
    assert (
        refusal(lambda: scan(lambda h, x: ([h], []), {"h": x}, {"x": x}, "t", axes={"h": "t"}))
        == "scan: state 'h' has axes (t), but starts with (t n)"
    )
    assert refusal(lambda: scan(lambda h, x: ([h + x], []), {"h": 0}, {"x": h}, "m")) == (
        "scan: state 'h' starts as i32, so it cannot become f32"
    )
    results: list[Any] = [h, (h, h), ([h, h], [])]
    for result in results:
        step: Any = functools.partial(returned, result)
        assert refusal(functools.partial(scan, step, {"h": h}, {"x": x}, "t")) == (
            "scan: a step must return (h), (emitted values): two tuples"
        )


def returned(result: object, h: Node, x: Node) -> object:
    return result


def test_a_state_may_start_as_a_number() -> None:
    """Its axes are said, and those of a product with it follow."""
    k, v = Input("k", ("t", "d")), Input("v", ("t", "e"))
    _, (found,) = scan(
        lambda s, k, v: ((s + k * v,), (dot(k, s, "d"),)),
        {"s": 0.0}, {"k": k, "v": v}, "t", axes={"s": "d e"},
    )  # fmt: skip

    assert found.axes == ("t", "e")
    arrays = {"k": np.array([[1.0, 2.0], [3.0, 5.0]]), "v": np.array([[7.0], [11.0]])}
    assert evaluate([found], arrays)[0].tolist() == [[0.0], [91.0]]


# ---------------------------------------------------------------- walking and rewriting


def test_every_node_is_walked_once_after_its_arguments() -> None:
    shared = exp(X)
    root = shared + shared * 2.0

    seen = list(walk([root]))

    assert len(seen) == len(set(seen)) == 5
    assert seen.index(X) < seen.index(shared) < seen.index(root)


def test_a_deep_expression_is_walked_without_recursion() -> None:
    node: Node = X
    for _ in range(5000):
        node = node + 1.0

    assert sum_of_nodes(node) == 5002
    (renamed,) = refine([node], {"m": ("p",)})
    assert renamed.axes == ("p", "k")


def sum_of_nodes(node: Node) -> int:
    return len(list(walk([node])))


W = Input("w", ())


def running(w: Node = W) -> Scan:
    """h = h * w + x over t, where w comes from outside."""
    (end,), _ = scan(
        lambda h, x: ([h * w + x], [h]), {"h": Input("h", ("m",))}, {"x": Input("x", ("t",))}, "t"
    )
    assert isinstance(end, Scan)
    return end


def test_the_inputs_of_a_recurrence_are_those_from_outside() -> None:
    end = running()

    assert [leaf.name for leaf in inputs([end])] == ["h", "x", "w"]
    inside = [node for node in everything([end]) if isinstance(node, Input)]
    assert {(leaf.name, leaf.axes) for leaf in inside} == {
        ("h", ("m",)), ("x", ("t",)), ("x", ()), ("w", ()),
    }  # fmt: skip


def test_what_comes_from_outside_is_replaced_inside_a_recurrence() -> None:
    (changed,) = substitute([running()], {Input("w", ()): Constant(2.0)})

    assert isinstance(changed, Scan)
    assert show(changed.body.next[0]) == "add(multiply(h[m], 2.0), x[])"
    assert [leaf.name for leaf in inputs([changed])] == ["h", "x"]
    (bound,) = substitute([running(Immediate("w", 1.0))], {Immediate("w", 1.0): Constant(2.0)})
    assert bound is changed


def test_a_recurrence_is_refined_inside_and_outside() -> None:
    (changed,) = refine([running()], {"m": ("p", "q"), "t": ("s",)})

    assert isinstance(changed, Scan)
    assert changed.axes == ("p", "q")
    assert changed.body.axis == "s"
    assert changed.body.states[0].axes == ("p", "q")
    message = "axis 't' is indexed and cannot be parted into ('a', 'b')"
    assert refusal(lambda: refine([running()], {"t": ("a", "b")})) == message


def test_substitution_keeps_what_does_not_change() -> None:
    kept = exp(Y)
    root = X + kept

    (changed,) = substitute([root], {X: Z})

    assert changed is Z + kept
    assert substitute([kept], {X: Z}) == (kept,)


def test_a_size_of_a_parted_axis_is_a_product() -> None:
    assert show(refine([size("m")], {"m": ("a", "b")})[0]) == "multiply(size(a), size(b))"
    assert refine([size("m")], {"m": ()}) == (Constant(1),)


def test_renaming_leaves_other_axes() -> None:
    renamed = rename(X, {"m": "p", "n": "q", "k": "k"})

    assert show(renamed) == "view(x[m k], m=p)"
    assert rename(X, {}) is X


def test_a_rebuilt_node_is_the_same_over_others() -> None:
    index = Input("i", ("s",), "i32")
    nodes = [
        apply("exp", X), sum(X, "k"), dot(X, Y, "k"), view(X, {"m": "p + 1"}, fill=0.0),
        gather(X, index, "m"), update(X, Input("v", ("s", "k")), {"m": "s"}), stack([X, X], "g"),
        cast(X, "i8"), Opaque("sort", (X,), ("m",), "f32"), running(),
    ]  # fmt: skip

    for node in nodes:
        assert node.rebuild(node.children) is node
    assert X.rebuild(()) is X


# ---------------------------------------------------------------- printing


def test_every_kind_of_node_is_printed() -> None:
    index = Input("i", ("s",), "i32")
    lines = {
        "x[m k]": X,
        "z[k: i32]": Z,
        "#scale=0.5": Immediate("scale", 0.5),
        "max(x[m k], over=k)": max(X, "k"),
        "dot(x[m k], y[k n], over=k)": dot(X, Y, "k"),
        "view(x[m k], m=2*p + r - 1, fill=0.0)": view(X, {"m": "2*p + r - 1"}, fill=0.0),
        "gather(x[m k], i[s: i32], m)": gather(X, index, "m"),
        "update(x[m k], v[s k], m=s)": update(X, Input("v", ("s", "k")), {"m": "s"}),
        "stack(x[m k], z[k: i32], g)": stack([X, Z], "g"),
        "cast(x[m k], bf16)": cast(X, "bf16"),
        "greater_equal(position(s), position(t))": position("s") >= position("t"),
        "sort.1(x[m k])[m: i32]": Opaque("sort", (X,), ("m",), "i32", 1),
        "scan(t, (h[m], x[t], w[]), (add(multiply(h[m], w[]), x[]), h[m]), 0)": running(),
    }

    for line, node in lines.items():
        assert str(node) == line


def test_what_is_used_twice_is_printed_once() -> None:
    shared = exp(X)

    assert show(maximum(shared, shared * shared)) == (
        "v0 = exp(x[m k]); maximum(v0, multiply(v0, v0))"
    )


def test_kinds_of_nodes_say_what_they_are() -> None:
    """So that `match` finds them by these names."""
    kinds = [dot(X, Y, "k"), view(X, {"m": 0}), size("m"), stack([X], "g")]

    assert [type(node) for node in kinds] == [Dot, View, Size, Stack]
    assert isinstance(update(X, X, {}), Update)


def test_a_recurrence_over_more_axes_is_one_for_each() -> None:
    """A state has an axis more where its start has one, or what it becomes."""
    h, x, w = Input("h", ("n",)), Input("x", ("t", "n")), Input("w", ("n",))
    (last,), (every,) = scan(lambda h, x: ([h * w + x], [h]), {"h": h}, {"x": x}, "t")
    random = np.random.default_rng(3)
    arrays = {"h": random.normal(size=3), "x": random.normal(size=(5, 3)),
              "w": random.normal(size=3)}  # fmt: skip
    for name, leaf in (("h", h), ("x", x), ("w", w)):
        more = Input(name, ("b", *leaf.axes))
        several = {**arrays, name: random.normal(size=(2, *arrays[name].shape))}

        grown = substitute([last, every], {leaf: more})

        for result, value in zip(grown, evaluate(grown, several), strict=True):
            for place, found in enumerate(np.moveaxis(value, result.axes.index("b"), 0)):
                one = {**several, name: several[name][place]}
                (expected,) = evaluate([last if result is grown[0] else every], one)
                np.testing.assert_allclose(found, expected, 1e-5)
