"""An instruction is found wherever a graph computes what it does, however that is written; and
nowhere else."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence

import pytest

from infinisa.compiler.equality.verdict import PROVED
from infinisa.compiler.selection.choice import Trust
from infinisa.isa import formulas
from infinisa.isa.errors import CompileError
from infinisa.isa.instruction import Instruction
from infinisa.isa.language import (
    Constant,
    Immediate,
    Input,
    Node,
    Scan,
    absolute,
    apply,
    argmax,
    cast,
    cos,
    dot,
    erf,
    exp,
    gather,
    lift,
    log,
    max,
    maximum,
    mean,
    minimum,
    position,
    rename,
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
from infinisa.isa.program import Count, Extent, parameter
from tests.compiler.finding import LIBRARY, found, holds, leaves, meaning, of

INFINITY = math.inf
LEAST = -3.4028234663852886e38
EPSILON = 1e-5

Forms = Mapping[str, Callable[..., Node]]


def seen() -> Node:
    return position("t") <= position("s")


def scores(q: Node, k: Node) -> Node:
    return dot(q, k, "d") * 0.5


def causal(q: Node, k: Node) -> Node:
    return formulas.causal(scores(q, k), "s", "t")


def naive(x: Node, over: str) -> Node:
    return exp(x) / sum(exp(x), over)


def variance(x: Node) -> Node:
    return mean((x - mean(x, "n")) ** 2.0, "n")


def squares(x: Node) -> Node:
    """The mean of squares as an exporter writes it."""
    return sum(x * x, "n") * (1.0 / 6.0)


def halves(x: Node) -> tuple[Node, Node]:
    return view(x, {"p": 0}), view(x, {"p": 1})


def turned(x: Node) -> Node:
    """rotate_half: (x1, x2) becomes (-x2, x1)."""
    first, second = halves(x)
    return stack([-second, first], "p")


def made(output: Node, *operands: Input, immediates: Sequence[Immediate] = ()) -> Instruction:
    """An instruction that no plugin has."""
    return Instruction(
        name="made",
        unit="vector",
        operands=operands,
        immediates=tuple(immediates),
        outputs=(output,),
    )


# ---------------------------------------------------------------- algebra

ROWS: Mapping[str, Forms] = {
    "silu": {
        "by its sigmoid": lambda x: sigmoid(x) * x,
        "as a quotient": lambda x: x / (1.0 + exp(-x)),
        "by tanh": lambda x: 0.5 * x * (1.0 + tanh(x / 2.0)),
        "as a difference": lambda x: x - x / (1.0 + exp(x)),
    },
    "gelu_tanh": {
        "factored": lambda x: 0.5 * x * (1.0 + tanh(0.7978845608028654 * x * (
            1.0 + 0.044715 * x * x))),
        "with a power": lambda x: x * (0.5 + 0.5 * tanh(0.7978845608028654 * (
            x + 0.044715 * x**3.0))),
        "by a sigmoid": lambda x: x * sigmoid(1.5957691216057308 * (x + 0.044715 * x**3.0)),
        "rounded to f32": lambda x: 0.5 * x * (1.0 + tanh(0.7978845834732056 * (
            x + 0.04471499845385551 * x * x * x))),
    },
    "gelu_erf": {
        "a quotient": lambda x: x * 0.5 * (1.0 + erf(x / math.sqrt(2.0))),
        "expanded": lambda x: 0.5 * x + 0.5 * x * erf(x * math.sqrt(0.5)),
        "rounded to f32": lambda x: 0.5 * x * (1.0 + erf(x * 0.7071067690849304)),
        "erf is odd": lambda x: 0.5 * x * (1.0 - erf(-x / math.sqrt(2.0))),
    },
    "swiglu": {
        "the gate's sigmoid first": lambda g, u: sigmoid(g) * (u * g),
        "as a quotient": lambda g, u: g * u / (1.0 + exp(-g)),
        "by tanh": lambda g, u: 0.5 * g * (u + u * tanh(0.5 * g)),
    },
    "softmax": {
        "naive": lambda x: naive(x, "n"),
        "a factor": lambda x: exp(x - max(x, "n")) * (1.0 / sum(exp(x - max(x, "n")), "n")),
        "the exponential of its logarithm": lambda x: exp(x - log(sum(exp(x), "n"))),
        "through its log-sum-exp": lambda x: exp(
            x - (max(x, "n") + log(sum(exp(x - max(x, "n")), "n")))
        ),
    },
    "layer_norm": {
        "a root": lambda x, w, b: (x - mean(x, "n")) / sqrt(variance(x) + EPSILON) * w + b,
        "a power": lambda x, w, b: b + w * (x - mean(x, "n")) * (variance(x) + EPSILON) ** -0.5,
        "by moments": lambda x, w, b: (
            (x - mean(x, "n")) * rsqrt(mean(x * x, "n") - mean(x, "n") ** 2.0 + EPSILON) * w + b
        ),
        "by moments and a power": lambda x, w, b: (
            (x - mean(x, "n")) * (mean(x**2.0, "n") - mean(x, "n") ** 2.0 + EPSILON) ** -0.5 * w + b
        ),
        "multiplied out": lambda x, w, b: (
            x * (w * rsqrt(variance(x) + EPSILON))
            + (b - mean(x, "n") * (w * rsqrt(variance(x) + EPSILON)))
        ),
        "a literal length": lambda x, w, b: (
            (x - sum(x, "n") / 6.0)
            * rsqrt(sum((x - sum(x, "n") / 6.0) ** 2.0, "n") * 0.1666666716337204 + EPSILON)
            * w + b
        ),
        "the reciprocal of a root": lambda x, w, b: (
            w * ((x - mean(x, "n")) * apply("reciprocal", sqrt(EPSILON + variance(x)))) + b
        ),
    },
    "rms_norm": {
        "a literal length": lambda x, w: w * (x * rsqrt(squares(x) + EPSILON)),
        "a power": lambda x, w: x * w * (squares(x) + EPSILON) ** -0.5,
        "the sum kept": lambda x, w: x * rsqrt(sum(x * x, "n") + 6.0 * EPSILON) * w * 6.0**0.5,
    },
    "l2_normalize": {
        "by the least square": lambda x: x * rsqrt(maximum(sum(x * x, "n"), 1e-24)),
        "a product": lambda x: x * (1.0 / maximum(1e-12, sum(x**2.0, "n") ** 0.5)),
    },
    "reduce_mean": {
        "a literal": lambda x: sum(x, "n") * (1.0 / 6.0),
        "each term": lambda x: sum(x / 6.0, "n"),
        "a length": lambda x: sum(x, "n") / size("n"),
    },
    "matmul_bias": {
        "a sum of products": lambda a, b, c: c + sum(a * b, "k"),
        "the operands exchanged": lambda a, b, c: dot(b, a, "k") + c,
        "the bias in the sum": lambda a, b, c: sum(a * b + c / 5.0, "k"),
    },
}  # fmt: skip

ATTENTION: Mapping[str, Forms] = {
    "attention": {
        "scaled queries": lambda q, k, v: formulas.attend(dot(q * 0.5, k, "d"), v, "t"),
        "scaled keys": lambda q, k, v: formulas.attend(dot(q, k / 2.0, "d"), v, "t"),
        "both scaled": lambda q, k, v: formulas.attend(
            dot(q * 0.5**0.5, k * 0.5**0.5, "d"), v, "t"
        ),
        "divided scores": lambda q, k, v: formulas.attend(dot(q, k, "d") / 2.0, v, "t"),
        "naive": lambda q, k, v: dot(naive(scores(q, k), "t"), v, "t"),
        "normalised behind the product": lambda q, k, v: (
            dot(exp(scores(q, k) - max(scores(q, k), "t")), v, "t")
            / sum(exp(scores(q, k) - max(scores(q, k), "t")), "t")
        ),
    },
    "causal_attention": {
        "a condition": lambda q, k, v: formulas.attend(
            where(position("s") >= position("t"), scores(q, k), -INFINITY), v, "t"
        ),
        "the condition turned": lambda q, k, v: formulas.attend(
            where(position("s") < position("t"), -1e30, scores(q, k)), v, "t"
        ),
        "a sum": lambda q, k, v: formulas.attend(scores(q, k) + where(seen(), 0.0, LEAST), v, "t"),
        "a negated condition": lambda q, k, v: formulas.attend(
            where(apply("logical_not", seen()), LEAST, scores(q, k)), v, "t"
        ),
        "a number for truth": lambda q, k, v: formulas.attend(
            scores(q, k) + (1.0 - cast(seen(), "f32")) * LEAST, v, "t"
        ),
        "a difference": lambda q, k, v: formulas.attend(
            where(position("t") - position("s") < 1, scores(q, k), -INFINITY), v, "t"
        ),
        "masked weights": lambda q, k, v: dot(
            where(seen(), exp(scores(q, k)), 0.0)
            / sum(where(seen(), exp(scores(q, k)), 0.0), "t"), v, "t"
        ),
    },
    "masked_attention": {
        "the mask first": lambda q, k, v, mask: formulas.attend_safe(
            mask + dot(q, k, "d") * 0.5, v, "t"
        ),
        "a row may be empty": lambda q, k, v, mask: formulas.attend(scores(q, k) + mask, v, "t"),
    },
    "rope_by_table": {
        "a stack": lambda x, c, s: stack(
            [halves(x)[0] * c - halves(x)[1] * s, halves(x)[1] * c + s * halves(x)[0]], "p"
        ),
        "rotate_half": lambda x, c, s: x * c + turned(x) * s,
        "the sines first": lambda x, c, s: s * turned(x) + c * x,
    },
    "rope": {
        "as powers": lambda x: formulas.rotate(
            x,
            cos(position("s") / lift(10000.0) ** (position("i") / 3.0)),
            sin(position("s") * lift(10000.0) ** (position("i") * (-1.0 / 3.0))),
            "p",
        ),
    },
}  # fmt: skip

CELLS: Mapping[str, Forms] = {
    "gru_cell": {
        "the difference": lambda z, c, h: tanh(c) + sigmoid(z) * (h - tanh(c)),
        "the gate turned": lambda z, c, h: h * sigmoid(z) + sigmoid(-z) * tanh(c),
    },
    "gru_cell_linear": {
        "the difference": lambda z, r, x, p, h: (
            (h - tanh(p * sigmoid(r) + x)) * sigmoid(z) + tanh(p * sigmoid(r) + x)
        ),
    },
    "lstm_cell": {
        "exponentials": lambda i, o, f, c, cell: (
            tanh(tanh(c) / (1.0 + exp(-i)) + cell * sigmoid(f)) * sigmoid(o)
        ),
    },
}  # fmt: skip

FORMS = [
    pytest.param(name, form, id=f"{name}: {title}")
    for table in (ROWS, ATTENTION, CELLS)
    for name, forms in table.items()
    for title, form in forms.items()
]


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_a_formula_is_found_in_every_form(name: str, form: Callable[..., Node]) -> None:
    """In a library of all instructions, with its operands in their places."""
    operands = LIBRARY[name].operands

    matches = [match for match in found(form(*operands)) if match.instruction.name == name]

    assert list(operands) in [list(match.leaves) for match in matches]
    assert all(holds(match) for match in matches)


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (4, 3, 2, 1, 0), (2, 0, 4, 1, 3)])
def test_operands_may_come_in_any_order(order: tuple[int, ...]) -> None:
    """Nothing but what they are used for tells the gates of a cell apart."""
    operands = [Input(f"x{n}", ("m", "n")) for n in order]

    (match,) = found(formulas.lstm_cell(*operands)[0], names="lstm_cell")

    assert leaves(match) == [f"x{n}[m n]" for n in order]


# ---------------------------------------------------------------- numbers

X, Y, Z = (Input(name, ("m", "n")) for name in "xyz")
W, B = Input("w", ("n",)), Input("b", ("n",))
Q, K, V = Input("q", ("s", "d")), Input("k", ("t", "d")), Input("u", ("t", "e"))
MATRIX = Input("matrix", ("n", "k"))


@pytest.mark.parametrize(
    ("weights", "scale"),
    [
        (dot(Q, K, "d"), 1.0),
        (dot(Q, K, "d") / 8.0, 0.125),
        (dot(Q * 0.25, K * 0.25, "d"), 0.0625),
        (dot(Q * 0.5, K, "d") * 0.125, 0.0625),
        (-dot(Q, K, "d") * 0.3, -0.3),
    ],
)
def test_immediates_are_solved(weights: Node, scale: float) -> None:
    matches = found(formulas.attend(weights, V, "t"), names="attention")

    (match,) = (match for match in matches if match.leaves == (Q, K, V))
    assert match.immediates == {"scale": scale}


def test_an_immediate_that_occurs_twice_has_one_value() -> None:
    cap, x = Immediate("cap", 30.0), Input("x", ("m",))
    softcap = made(cap * tanh(x / cap), x, immediates=(cap,))

    (match,) = of(softcap, 50.0 * tanh(X * 0.02))

    assert match.immediates == {"cap": 50.0}
    assert of(softcap, 50.0 * tanh(X * 0.03)) == []


def test_numbers_are_equal_within_one_rounding() -> None:
    """sqrt(0.5) as f32 has it, and what is 4e-5 away."""
    assert found(0.5 * X * (1.0 + erf(X * 0.7071067690849304)), names="gelu_erf") != []
    assert found(0.5 * X * (1.0 + erf(X * 0.70714)), names="gelu_erf") == []


def test_a_number_may_be_an_operand() -> None:
    groups = {match.instruction.name: leaves(match) for match in found(2.5 * X)}

    assert groups["scale"] == ["x[m n]"]
    assert sorted(groups["multiply"]) == ["2.5", "x[m n]"]


def test_a_mean_is_one_by_the_length_of_its_axes() -> None:
    both = Input("both", ("s", "h", "e"))

    (match,) = found(sum(both, "h e") / 12.0, names="reduce_mean")

    assert match.binding == {"m": ("s",), "n": ("h", "e")}
    assert found(sum(both, "h e") / 11.0, names="reduce_mean") == []


def test_a_length_known_at_run_time_is_no_number() -> None:
    length = parameter("tokens")
    extents = [Extent("n", length, 6)]

    assert len(found(mean(X, "n"), names="reduce_mean", extents=extents)) == 1
    assert found(sum(X, "n") / 6.0, names="reduce_mean", extents=extents) == []


# ---------------------------------------------------------------- axes


def test_axes_outside_an_instruction_are_loops() -> None:
    q, k, v = Input("q", ("g", "h", "s", "d")), Input("k", ("h", "t", "d")), Input("u", ("t", "e"))

    matches = found(formulas.attend(dot(q, k, "d"), v, "t"), names="attention")

    match = next(match for match in matches if leaves(match)[0].startswith("q"))
    assert match.binding == {"s": ("g", "s"), "d": ("d",), "t": ("t",), "e": ("e",)}
    assert match.loops == ("h",)
    assert holds(match)


def test_one_axis_stands_for_several() -> None:
    heads, out = Input("heads", ("n", "h", "e")), Input("out", ("h", "e", "n"))
    rows = Input("rows", ("m", "h", "e"))

    project = found(dot(X, heads, "n"), names="matmul")
    join = found(dot(rows, out, "h e"), names="matmul")

    assert {(m.binding["m"], m.binding["n"]) for m in project} == {
        (("m",), ("h", "e")),
        (("h", "e"), ("m",)),
    }
    assert {m.binding["k"] for m in join} == {("h", "e")}


def test_an_axis_by_position_stands_for_one() -> None:
    """Rows of a group join the queries, unless a mask counts these."""
    q, k, v = Input("q", ("s", "r", "d")), Input("k", ("t", "d")), Input("u", ("t", "e"))

    plain = found(formulas.attend(scores(q, k), v, "t"), names="attention")
    masked = found(formulas.attend(causal(q, k), v, "t"), names="causal_attention")

    assert {(m.binding["s"], m.loops) for m in plain if m.leaves[0] is q} == {(("s", "r"), ())}
    assert {(m.binding["s"], m.loops) for m in masked} == {(("s",), ("r",))}


def test_operands_may_lack_axes() -> None:
    mask = Input("mask", ("t",))

    matches = found(formulas.attend_safe(scores(Q, K) + mask, V, "t"), names="masked_attention")

    assert ["q[s d]", "k[t d]", "u[t e]", "mask[t]"] in [leaves(match) for match in matches]
    assert all(holds(match) for match in matches)


def test_one_tensor_in_three_roles() -> None:
    """Queries, keys and values are parts of one product and share the names of its axes."""
    joint = Input("joint", ("v", "s", "d"))
    q, k, v = (view(joint, {"v": n}) for n in range(3))
    k, v = (rename(part, {"s": "t"}) for part in (k, v))

    matches = found(formulas.attend(causal(q, k), v, "t"), names="causal_attention")

    (match,) = (match for match in matches if match.binding["s"] == ("s",))
    assert leaves(match) == [
        "view(joint[v s d], v=0)",
        "view(joint[v s d], v=1, s=t)",
        "view(joint[v s d], v=2, s=t)",
    ]
    assert holds(match)


def test_a_leaf_is_renamed_where_its_names_have_other_roles() -> None:
    """The width of the values is called as that of the queries: in the match it is e."""
    v = Input("u", ("t", "d"))

    match, *_ = found(rename(formulas.attend(scores(Q, K), v, "t"), {"d": "e"}), names="attention")

    assert leaves(match) == ["q[s d]", "k[t d]", "view(u[t d], d=e)"]
    assert match.binding["e"] == ("e",)


def test_a_view_of_a_cache_is_no_renaming() -> None:
    """A cache of 16 positions, read up to a length that is known at run time: an instruction reads
    the part, whose positions count from 0."""
    cache = Input("cache", ("c", "d"))
    keys, values = view(cache, {"c": "t"}), view(Input("old", ("c", "e")), {"c": "t"})
    step = [Extent("s", parameter("now"), 7), Extent("t", parameter("done"), 7)]

    matches = found(
        formulas.attend(causal(Q, keys), values, "t"), names="causal_attention", extents=step
    )

    assert [leaves(match) for match in matches] == [
        ["q[s d]", "view(cache[c d], c=t)", "view(old[c e], c=t)"]
    ]


# ---------------------------------------------------------------- operands and results


def test_operands_that_do_nothing_may_be_missing() -> None:
    centred = X - mean(X, "n")
    normed = centred * rsqrt(mean(centred * centred, "n") + EPSILON)

    given = {tuple(leaves(match)) for match in found(normed, names="layer_norm")}
    weighted = {tuple(leaves(match)) for match in found(normed * W, names="layer_norm")}
    shifted = {tuple(leaves(match)) for match in found(normed + B, names="layer_norm")}

    assert ("x[m n]", "1.0", "0.0") in given
    assert ("x[m n]", "w[n]", "0.0") in weighted
    assert ("x[m n]", "1.0", "b[n]") in shifted


def test_one_value_may_be_two_operands() -> None:
    (square,) = found(X * X, names="multiply")

    assert leaves(square) == ["x[m n]", "x[m n]"]


def test_a_sum_is_grouped_for_the_larger_instruction() -> None:
    """(rest + product) + bias has a linear layer in it: the sum of the last two."""
    product, rest = dot(X, MATRIX, "n"), Input("rest", ("m", "k"))
    finder, (root,) = meaning((rest + product) + Input("bias", ("k",)))

    sums = [match for match in finder(root) if match.instruction.name == "add"]
    parts = [leaf for match in sums for leaf in match.leaves if leaf not in finder.around.users]

    assert any(
        leaves(match) == ["x[m n]", "matrix[n k]", "bias[k]"]
        for part in parts
        for match in finder(part)
        if match.instruction.name == "matmul_bias"
    )


def test_a_second_result_is_a_value_that_others_need() -> None:
    total = X + Y

    (match,) = found(formulas.rms_norm(total, W, "n"), total, names="residual_rms_norm")
    alone = found(formulas.rms_norm(total, W, "n"), names="residual_rms_norm")

    assert str(match.roots[0]) == "add(x[m n], y[m n])"
    assert [match.roots[0] for match in alone] == [None]
    assert holds(match)


def test_a_value_that_others_need_is_not_hidden() -> None:
    product = dot(X, MATRIX, "n")
    bias = Input("bias", ("k",))

    assert found(maximum(product + bias, 0.0), names="matmul_bias_relu") != []
    assert found(maximum(product + bias, 0.0), product, names="matmul_bias_relu") == []


def test_a_cheap_value_is_computed_again_for_others() -> None:
    """Two norms of one input share its mean of squares."""
    inverse = rsqrt(mean(X * X, "n") + EPSILON)

    (match,) = found(X * inverse * W, X * inverse * B, names="rms_norm")

    assert leaves(match) == ["x[m n]", "w[n]"]


def test_masks_are_computed_again_where_they_are_needed() -> None:
    other = where(seen(), Input("z", ("s", "t")), 0.0)

    assert found(formulas.attend(causal(Q, K), V, "t"), other, names="causal_attention") != []


def test_casts_between_floats_are_seen_through() -> None:
    narrow = cast(dot(X, MATRIX, "n"), "bf16")
    bias = Input("bias", ("k",), "bf16")

    matches = found(maximum(narrow + bias, 0.0), names="matmul_bias_relu")

    assert ["x[m n]", "matrix[n k]", "bias[k: bf16]"] in [leaves(match) for match in matches]


def test_an_instruction_rounds_only_to_types_that_the_model_rounds_to() -> None:
    """`cast_bf16` does nothing over the reals, but bf16 is less than the model asks for."""
    rounding = made(cast(maximum(X + X, 0.0), "f16"), X)
    finder, (stored,) = meaning(cast(maximum(X + X, 0.0), "f16"), library=[rounding])

    assert {m.instruction.name for m in found(X + 0.0)}.isdisjoint({"cast_bf16", "cast_f16"})
    assert of(rounding, maximum(X + X, 0.0)) == []
    assert of(rounding, maximum(cast(X + X, "f16"), 0.0)) != []
    assert finder(stored.children[0]) != []


def test_numbers_may_be_rounded_to_the_type_of_the_model() -> None:
    """0.7979 and 0.04471 are sqrt(2/pi) and 0.044715 in f16, but not in f32."""

    def rounded(x: Node) -> Node:
        inner = x + 0.044708251953125 * x**3.0
        return 0.5 * x * (1.0 + tanh(0.7978515625 * inner))

    assert found(rounded(Input("x", ("m", "n"), "f16")), names="gelu_tanh") != []
    assert found(rounded(cast(X, "f16")), names="gelu_tanh") != []
    assert found(rounded(X), names="gelu_tanh") == []


def test_the_least_number_of_the_type_of_the_model_hides() -> None:
    q, k, v = (Input(x.name, x.axes, "f16") for x in (Q, K, V))
    hidden = where(seen(), 0.0, -65504.0)

    assert found(formulas.attend(scores(q, k) + hidden, v, "t"), names="causal_attention") != []
    assert found(formulas.attend(scores(Q, K) + hidden, V, "t"), names="causal_attention") == []


def test_keys_below_a_renaming_have_the_name_of_the_queries() -> None:
    """A cast between keeps the renaming of keys and values where it is."""
    k, v = (view(cast(Input(name, ("s", "d")) * 2.0, "f64"), {"s": "t"}) for name in "kv")

    matches = found(formulas.attend(causal(Q, k), v, "t"), names="causal_attention")

    assert any(match.leaves[1] == view(Input("k", ("s", "d")), {"s": "t"}) for match in matches)
    assert {match.binding["t"] for match in matches} == {("t",)}
    assert all(holds(match) for match in matches)


# ---------------------------------------------------------------- other kinds of nodes


def test_truth_values_are_operands_of_single_operations() -> None:
    some, other = (Input(name, ("m",), "bool") for name in ("some", "other"))
    rows = Input("rows", ("v", "d"), "bool")
    both = apply("logical_and", some, other)

    assert [m.instruction.name for m in found(both)] == ["logical_and"]
    (match,) = found(gather(rows, Input("index", ("s",), "i32"), "v"), names="embedding")
    assert match.binding["v"] == ("v",)


def test_equal_to_a_number() -> None:
    """It is true at one integer only: points that miss it would take anything for it."""
    tokens = Input("tokens", ("m",), "i32")

    assert {m.instruction.name for m in found(apply("equal", tokens, 98))} == {"equal"}
    assert {m.instruction.name for m in found(apply("equal", X, 0.3))} == {"equal"}


def test_windows_of_a_convolution() -> None:
    image, taps = Input("x", ("c",)), Input("taps", ("r", "o"))
    convolution = made(dot(view(image, {"c": "2*m + r - 1"}, 0.0), taps, "r"), image, taps)
    x, kernel = Input("x", ("c", "k")), Input("kernel", ("r", "n"))
    windows = view(x, {"c": "2*i + r - 1"}, 0.0)

    matches = of(convolution, dot(kernel, windows, "r"))

    assert [(leaves(m), m.loops) for m in matches] == [(["x[c k]", "kernel[r n]"], ("k",))]
    assert of(convolution, dot(kernel, view(x, {"c": "2*i + r"}, 0.0), "r")) == []
    assert of(convolution, dot(kernel, view(x, {"c": "i + r - 1"}, 0.0), "r")) == []


def test_a_look_up_takes_any_integers() -> None:
    table, index = Input("table", ("v", "d")), Input("index", ("s",), "i64")

    (match,) = found(gather(table, index, "v"), names="embedding matmul")

    assert match.binding == {"v": ("v",), "s": ("s",), "d": ("d",)}


def test_where_the_largest_is() -> None:
    (match,) = found(argmax(X, "n"), names="argmax reduce_max")

    assert (match.instruction.name, match.binding["n"]) == ("argmax", ("n",))
    assert found(argmax(-X, "n"), names="argmax") != []  # of -x as its operand


@pytest.mark.parametrize("name", ["lstm_cell", "gru_cell_linear", "rnn_cell"])
def test_the_body_of_a_recurrence(name: str) -> None:
    x, hidden, cell = Input("x", ("s", "d")), Input("hidden", ("n",)), Input("cell", ("n",))
    gates = {"rnn_cell": (), "lstm_cell": ("q",), "gru_cell_linear": ("q",)}[name]
    weight, recurrent = Input("weight", (*gates, "n", "d")), Input("recurrent", (*gates, "n", "m"))
    bias = Input("bias", (*gates, "n"))
    match name:
        case "rnn_cell":
            every = formulas.rnn(x, weight, recurrent, bias, hidden, "s")[0]
        case "lstm_cell":
            every = formulas.lstm(x, weight, recurrent, bias, hidden, cell, "s")[0]
        case _:
            every = formulas.gru(
                x, weight, recurrent, bias, bias, hidden, "s", linear_before_reset=True
            )[0]
    assert isinstance(every, Scan)
    extents = [Extent(axis, Count(6), 6) for axis in "nm"] + [Extent("q", Count(4), 4)]

    matches = found(*every.body.emits, *every.body.next, names=name, extents=extents)

    assert matches != []
    assert all(match.instruction.name == name for match in matches)


def test_what_is_dequantised_multiplied_and_quantised() -> None:
    rows, columns = Input("a", ("m", "k"), "i8"), Input("b", ("k", "n"), "i8")
    scale, divisor = Immediate("scale", 1.0), Immediate("divisor", 1.0)
    total = cast(dot(cast(rows, "i32"), cast(columns, "i32"), "k"), "f32") * scale / divisor
    rounded = cast(apply("round", total), "i8")
    matmul_i8 = made(rounded, rows, columns, immediates=(scale, divisor))
    a, b = Input("a", ("s", "d"), "i8"), Input("b", ("d", "n"), "i8")
    product = dot(cast(a, "f32") * 0.0217, cast(b, "f32") * 0.0313, "d")

    (match, _) = of(matmul_i8, cast(apply("round", product / 0.0519), "i8"))

    assert leaves(match) == ["a[s d: i8]", "b[d n: i8]"]
    assert holds(match)
    assert match.immediates["scale"] / match.immediates["divisor"] == pytest.approx(
        0.0217 * 0.0313 / 0.0519
    )
    assert of(matmul_i8, cast(product / 0.0519, "i8")) == []  # cut off instead of rounded


# ---------------------------------------------------------------- what is not found

LESS = Input("mask", ("s", "t"))

NEAR: Mapping[str, Mapping[str, Node]] = {
    "silu": {
        "steeper": X * sigmoid(1.0001 * X),
        "clipped": minimum(X, 6.0) * sigmoid(X),
    },
    "gelu_tanh": {"the exact one": formulas.gelu_erf(X)},
    "gelu_erf": {"clipped": minimum(formulas.gelu_erf(X), 6.0)},
    "softmax": {
        "one more in the sum": exp(X) / (1.0 + sum(exp(X), "n")),
        "nothing of a hidden row": exp(X - log(sum(exp(X - max(X, "n")), "n")) - max(X, "n"))
        * where(max(X, "n") < -1e20, 0.0, 1.0),
        "of magnitudes": exp(absolute(X)) / sum(exp(absolute(X)), "n") + X * 0.0,
    },
    "layer_norm": {
        "epsilon outside the root": (X - mean(X, "n")) / (sqrt(variance(X)) + EPSILON) * W + B,
        "unbiased": (X - mean(X, "n")) * rsqrt(variance(X) * (6.0 / 5.0) + EPSILON) * W + B,
        "not centred": X * rsqrt(variance(X) + EPSILON) * W + B,
    },
    "rms_norm": {
        "the sum for the mean": X * rsqrt(sum(X * X, "n") + EPSILON) * W,
        "the weight inside": X * W * rsqrt(mean((X * W) ** 2.0, "n") + EPSILON),
    },
    "attention": {
        "scaled behind the softmax": formulas.attend(dot(Q, K, "d"), V, "t") * 0.5,
        "a sharper softmax": dot(exp(2.0 * scores(Q, K)) / sum(exp(scores(Q, K)), "t"), V, "t"),
    },
    "causal_attention": {
        "one later": formulas.attend(
            where(position("s") + 1 >= position("t"), scores(Q, K), -INFINITY), V, "t"
        ),
        "a low mask": formulas.attend(where(seen(), scores(Q, K), -5.0), V, "t"),
        "masked behind the softmax": dot(
            where(seen(), formulas.softmax(scores(Q, K), "t"), 0.0), V, "t"
        ),
    },
    "masked_attention": {
        "the mask taken away": formulas.attend_safe(scores(Q, K) - LESS, V, "t"),
        "the mask scaled": formulas.attend_safe((dot(Q, K, "d") + LESS) * 0.5, V, "t"),
    },
    "matmul_bias": {
        "the largest product": max(dot(X, MATRIX, "n") + Input("bias", ("k",)), "k"),
        "the bias in each term": sum(
            view(X, {"m": "i"}) * MATRIX + Input("bias", ("k",)), "n"
        ),
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "cone"),
    [
        pytest.param(name, cone, id=f"{name}: {title}")
        for name, cones in NEAR.items()
        for title, cone in cones.items()
    ],
)
def test_what_is_near_is_not_taken(name: str, cone: Node) -> None:
    """With all operands of the formula as leaves; parts of it may well be found."""
    for match in found(cone, names=name):
        assert not all(isinstance(leaf, Input | Constant) for leaf in match.leaves)
        assert holds(match)


def test_near_misses_are_kept_with_their_distance() -> None:
    """5e-6 of the largest value between them."""
    nearly = 0.5 * X * (1.0 + tanh(0.79788 * (X + 0.044715 * X**3.0)))
    finder, (root,) = meaning(nearly, library=[LIBRARY["gelu_tanh"]])

    assert finder(root) == []
    ((_, name), distance), *_ = finder.knowledge.near.items()
    assert name == "gelu_tanh"
    assert 1e-7 < distance < 1e-4


def rows(formula: Callable[[Node], Node]) -> Instruction:
    """An instruction over the rows of x."""
    x = Input("x", ("m", "n"))
    return made(formula(x), x)


UNSTABLE: Mapping[str, tuple[Callable[[Node], Node], Callable[[Node], Node]]] = {
    "softmax": (lambda x: formulas.softmax(x, "n"), lambda x: naive(x, "n")),
    "log_softmax": (
        lambda x: x - max(x, "n") - log(sum(exp(x - max(x, "n")), "n")),
        lambda x: x - log(sum(exp(x), "n")),
    ),
    "variance": (variance, lambda x: mean(x * x, "n") - mean(x, "n") ** 2.0),
    "sigmoid": (sigmoid, lambda x: exp(x) / (1.0 + exp(x))),
}


@pytest.mark.parametrize("name", UNSTABLE)
def test_an_unstable_instruction_does_not_replace_a_stable_cone(name: str) -> None:
    """Over the reals both are equal: the stable instruction replaces the naive cone."""
    stable, unstable = UNSTABLE[name]

    assert (X,) in [match.leaves for match in of(rows(stable), unstable(X))]
    assert (X,) not in [match.leaves for match in of(rows(unstable), stable(X))]


def test_every_operand_must_matter() -> None:
    """Something is added to all scores: a softmax does not see it."""
    shift = Input("shift", ("s",))

    assert found(formulas.attend(scores(Q, K) + shift, V, "t"), names="masked_attention") == []


def test_a_row_that_may_see_nothing() -> None:
    """An instruction whose empty rows are 0 serves where they would be NaN, and only that way."""
    mask = Input("mask", ("s", "t"))
    unsafe = rows(lambda x: formulas.softmax(x, "n"))
    safe = rows(lambda x: formulas.safe_softmax(x, "n"))

    assert found(formulas.attend(scores(Q, K) + mask, V, "t"), names="masked_attention") != []
    assert of(safe, formulas.softmax(X, "n")) != []
    assert of(unsafe, formulas.safe_softmax(X, "n")) == []


def test_a_guard_against_nan_is_part_of_the_meaning() -> None:
    """As PyTorch exports it: where(is_nan(p), 0, p) behind the softmax."""
    weights = formulas.softmax(X, "n")
    guarded = where(apply("is_nan", weights), 0.0, weights)

    assert of(rows(lambda x: formulas.safe_softmax(x, "n")), guarded) != []
    assert of(rows(lambda x: formulas.softmax(x, "n")), guarded) == []
    assert of(rows(lambda x: formulas.softmax(x, "n")), where(weights > 0.1, weights, 0.0)) == []


# ---------------------------------------------------------------- stamps


@pytest.mark.parametrize(
    ("name", "root"),
    [
        ("softmax", formulas.softmax(X, "n")),
        ("softmax", naive(X, "n")),
        ("silu", X - X / (1.0 + exp(X))),
        ("layer_norm", ROWS["layer_norm"]["by moments"](X, W, B)),
        ("attention", ATTENTION["attention"]["normalised behind the product"](Q, K, V)),
    ],
)
def test_equal_forms_are_proved(name: str, root: Node) -> None:
    matches = found(root, names=name)

    assert matches != []
    assert {match.stamp for match in matches} == {PROVED}
    assert all(Trust("proved")(match) for match in matches)


def test_what_is_only_tested_is_not_trusted_where_proofs_are_required() -> None:
    """-1e30 is not -inf, but no value of the result tells."""
    masked = where(seen(), scores(Q, K), -1e30)

    matches = found(formulas.attend(masked, V, "t"), names="causal_attention")

    assert matches != []
    for match in matches:
        assert re.fullmatch(r"tested\([1-9]\d*\)", match.stamp)
        assert Trust()(match)
        assert not Trust("proved")(match)


def test_an_error_budget_keeps_matches_out() -> None:
    """The same operations add nothing to the model's errors, others add a rounding."""
    (same,) = (m for m in found(formulas.softmax(X, "n"), names="softmax") if m.leaves == (X,))
    (other,) = found(naive(X, "n"), names="softmax")

    assert same.error == 0.0
    assert Trust(budget=0.0)(same)
    assert 0.0 < other.error < 1e-6
    assert Trust(budget=1e-6)(other)
    assert not Trust(budget=other.error / 2)(other)


@pytest.mark.parametrize(
    ("require", "budget", "message"),
    [
        ("sure", 1.0, "require must be 'tested' or 'proved', not 'sure'"),
        ("tested", -1.0, "error budget must not be negative, not -1.0"),
    ],
)
def test_what_trust_may_not_be(require: str, budget: float, message: str) -> None:
    with pytest.raises(CompileError) as caught:
        Trust(require, budget)

    assert str(caught.value) == message
