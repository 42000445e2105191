"""The independent judge: what it tells apart, and what it must not."""

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks._judge import Audit, Values, difference, judge, tolerance
from infinisa.compiler.equality.verdict import Verdict
from infinisa.compiler.selection.match import Match
from infinisa.isa import formulas
from infinisa.isa.evaluate import Range, evaluate
from infinisa.isa.instance import instance
from infinisa.isa.language import (
    Input,
    Node,
    cast,
    dot,
    exp,
    gather,
    max,
    mean,
    position,
    rsqrt,
    scan,
    stack,
    sum,
    update,
    view,
    where,
)
from infinisa.plugins.families import attention, elementwise, normalization

SIZES = {"s": 5, "t": 7, "d": 16, "e": 4, "h": 2, "a": 8, "b": 3}
X, W, B = Input("x", ("s", "d")), Input("w", ("d",)), Input("b", ("d",))
IDS = Input("ids", ("s",), "i32")


def naive_softmax(x: Node) -> Node:
    return exp(x) / sum(exp(x), "d")


def step(total: Node, row: Node) -> tuple[list[Node], list[Node]]:
    return [total * 0.5 + row], [total - row]


RECURRENCE = scan(step, {"total": W}, {"row": X}, "s")
EVERY_KIND = {
    "map": where(X > 0.0, X * W, -X),
    "mean": mean(X, "s d"),
    "dot": dot(X, Input("y", ("t", "d")), "d"),
    "split": view(X, {"d": "4*h + e"}),
    "digits": view(X, {"d": "(2*e + h) % 5"}),
    "window": view(X, {"s": "2*t - 3"}, fill=0.5),
    "gather": gather(X, Input("ids", ("t",), "i32"), "s"),
    "update": update(X, B, {"s": 3}),
    "stack": stack([X, W * X], "h"),
    "positions": position("s") * 2 + position("t"),
    "rounded": cast(X * 100.0, "i8"),
    "final state": RECURRENCE[0][0],
    "emitted": RECURRENCE[1][0],
}


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_every_kind_of_node_has_the_value_that_the_evaluator_gives_it(kind: str) -> None:
    root, source = EVERY_KIND[kind], np.random.default_rng(3)
    arrays: dict[str, NDArray[Any]] = {
        "x": source.standard_normal((5, 16)),
        "y": source.standard_normal((7, 16)),
        "w": source.standard_normal(16),
        "b": source.standard_normal(16),
        "ids": np.array([0, 4, -2, 9, 1, 2, 3], np.int32),
    }
    leaves = {"x": X, "w": W, "b": B, "y": Input("y", ("t", "d"))}
    known: dict[Node, NDArray[Any]] = {leaf: arrays[name][None] for name, leaf in leaves.items()}
    known[Input("ids", ("t",), "i32")] = arrays["ids"][None].astype(np.int64)

    (mine,) = Values(SIZES, np.longdouble, known).of([root])
    (theirs,) = evaluate([root], arrays, ranges={a: Range(0, n) for a, n in SIZES.items()})

    np.testing.assert_allclose(mine[0].astype(np.float64), theirs, rtol=2e-5, atol=1e-6)


def test_forms_of_one_formula_do_not_differ() -> None:
    centred = X - sum(X, "d") / 16.0
    written = B + W * (centred / (mean(centred**2.0, "d") + 1e-5) ** 0.5)

    assert difference(written, formulas.layer_norm(X, W, B, "d"), [X, W, B], SIZES) < 1e-12


def test_a_safe_formula_may_stand_for_an_overflowing_one_and_not_the_reverse() -> None:
    safe, naive = formulas.softmax(X, "d"), naive_softmax(X)

    assert difference(naive, safe, [X], SIZES) < 1e-12
    assert difference(safe, naive, [X], SIZES) == math.inf


def test_a_formula_that_loses_digits_in_f32_is_apart_from_one_that_keeps_them() -> None:
    """The mean of squares less the square of the mean, 300 deviations away from zero."""
    average = mean(X, "d")
    naive = (X - average) * rsqrt(mean(X * X, "d") - average**2.0 + 1e-5) * W + B
    safe = formulas.layer_norm(X, W, B, "d")

    assert difference(safe, naive, [X, W, B], SIZES) > 1e-3
    assert difference(naive, safe, [X, W, B], SIZES) < 1e-9


def test_a_small_constant_is_seen() -> None:
    """At points of 2e-3: far from it, 1e-5 under a root of about 1 is within one rounding."""
    one, other = (formulas.rms_norm(X, W, "d", epsilon) for epsilon in (1e-5, 1.001e-5))

    assert difference(one, other, [X, W], SIZES) > tolerance(["f32"])


def test_a_row_that_may_see_nothing_says_nothing() -> None:
    """The source has NaN there, the instruction 0."""
    q, k, v = Input("q", ("s", "e")), Input("k", ("t", "e")), Input("v", ("t", "d"))
    scores = dot(q, k, "e") + Input("mask", ("s", "t"))
    leaves = [q, k, v, Input("mask", ("s", "t"))]
    plain, safe = formulas.attend(scores, v, "t"), formulas.attend_safe(scores, v, "t")

    assert difference(plain, safe, leaves, SIZES) < 1e-12
    assert difference(safe, plain, leaves, SIZES) == math.inf


def test_what_is_never_a_number_cannot_be_judged() -> None:
    never = rsqrt(-1.0 - X * X)

    assert math.isnan(difference(never, never, [X], SIZES))


def test_other_axes_are_another_value() -> None:
    assert difference(X, W, [X, W], SIZES) == math.inf


def test_a_leaf_that_was_regrouped_is_made_of_the_graphs_values() -> None:
    y, z = Input("y", ("s", "d")), Input("z", ("s", "d"))
    total = Input("total", ("s", "d"))
    norm = normalization.rms_norm
    operands = [total, Input("weight", ("d",))]
    meaning = instance(norm, {"m": ("s",), "n": ("d",)}, operands)
    root = formulas.rms_norm((X + y) + z, W, "d")

    assert judge(formulas.rms_norm(X + (y + z), W, "d"), [X + (y + z), W], meaning, SIZES) == 0.0
    assert judge(root, [z + (y + X), W], meaning, SIZES) < 1e-12
    assert judge(root, [z - (y + X), W], meaning, SIZES) > 0.1


def test_a_regrouped_leaf_may_lie_under_another() -> None:
    """exp(x + y) + (x + y), written as x + (y + exp(x + y))."""
    y = Input("y", ("s", "d"))
    both = X + y
    operands = [Input("a", ("s", "d")), Input("b", ("s", "d"))]
    (scalar,) = (each for each in elementwise.SCALARS if each.name == "add")
    add = instance(scalar, {"m": ("s", "d")}, operands)
    root = X + (y + exp(both))

    assert judge(root, [exp(both), both], add, SIZES) < 1e-12
    assert judge(root, [exp(both), X - y], add, SIZES) > 0.1


def matched(number: int, scale: float) -> Match:
    """An attention of layer `number`, said to be of this scale; it is of 0.5."""
    axes = {"q": ("s", "e"), "k": ("t", "e"), "v": ("t", "d")}
    leaves = [Input(f"{name}{number}", over) for name, over in axes.items()]
    binding = {"s": ("s",), "t": ("t",), "d": ("e",), "e": ("d",)}
    made = attention.attention
    q, k, v = leaves
    root = formulas.attend(formulas.attention_scores(q, k, "e", 0.5), v, "t")
    numbers = {"scale": scale}
    verdict = Verdict(root, root, root, {}, {}, {}, 0)
    return Match(made, (root,), tuple(leaves), binding, (), numbers, frozenset([root]), verdict)


def test_a_wrong_number_is_a_wrong_match_and_equal_layers_are_judged_once() -> None:
    audit = Audit(SIZES)

    assert [audit.wrong(matched(number, 0.5)) for number in range(4)] == [False] * 4
    assert len(audit.worst) == 1
    assert audit.wrong(matched(0, 0.5001))
    assert len(audit.worst) == 2


def test_softmax_over_another_axis_is_seen() -> None:
    def weights(over: str) -> Node:
        return exp(X - max(X, over)) / sum(exp(X - max(X, over)), over)

    assert difference(weights("d"), weights("s"), [X], SIZES) > 0.1
