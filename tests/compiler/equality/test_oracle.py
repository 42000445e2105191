"""Two computations are one function if their values are equal at points that would tell."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest

from infinisa.compiler.equality.local import leaves_first, localised
from infinisa.compiler.equality.oracle import (
    Probe,
    Question,
    apart_if_alike,
    distance,
    ordered,
    same,
)
from infinisa.compiler.equality.oracle.comparing import distances
from infinisa.compiler.equality.oracle.lengths import lengths
from infinisa.compiler.equality.oracle.points import SIDES
from infinisa.compiler.equality.oracle.question import MASKS
from infinisa.compiler.equality.oracle.traits import snapped
from infinisa.isa import formulas
from infinisa.isa.language import (
    Axis,
    Constant,
    Immediate,
    Input,
    Node,
    absolute,
    apply,
    cast,
    dot,
    exp,
    gather,
    inputs,
    log,
    max,
    maximum,
    mean,
    minimum,
    negate,
    position,
    rsqrt,
    size,
    sqrt,
    stack,
    substitute,
    sum,
    tanh,
    view,
    where,
)

SIZES = {"m": 4, "n": 6, "s": 8, "t": 8, "d": 5, "c": 16, "p": 2}
X = Input("x", ("m", "n"))
ROW = Input("row", ("m",))
THETA = Immediate("theta", 3.0)


def question(root: Node, run_time: str = "", sizes: Mapping[Axis, int] = SIZES) -> Question:
    leaves = inputs([root])
    local = localised(root, leaves, list(leaves_first(root, leaves)))
    assert local is not None
    here = {axis: sizes[outer] for axis, outer in local.axes.items()}
    late = frozenset(axis for axis, outer in local.axes.items() if outer in run_time.split())
    return Question(local, here, late)


def here(root: Node, asked: Question) -> Node:
    """Another computation over the inputs and axes of a question."""
    leaves = inputs([root])
    local = localised(root, leaves, list(leaves_first(root, leaves)))
    assert local is not None
    assert local.leaves == asked.local.leaves
    return local.root


def equal(cone: Node, other: Node, run_time: str = "") -> bool:
    asked = question(cone, run_time)
    return same(asked, here(other, asked), [])[0] is not None


def solved(cone: Node, other: Node, *immediates: Immediate) -> Mapping[str, float] | None:
    asked = question(cone)
    answer, _ = same(asked, here(other, asked), immediates)
    return None if answer is None else answer.immediates


def local_lengths(root: Node, run_time: str = "") -> dict[Axis, int]:
    asked = question(root, run_time)
    found = lengths(asked.local, asked.sizes, asked.constants, asked.run_time)
    return {asked.local.axes[axis]: length for axis, length in found.items()}


# ---------------------------------------------------------------- distances


@pytest.mark.parametrize(
    ("expected", "found", "apart"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1.0, 2.0], [1.0, 2.0 + 1e-9], 0.0),
        ([1.0, 2.0], [1.0, 2.1], 0.05),
        ([0.0, 1.0], [1e-10, 1.0], 0.0),
        ([math.nan, 1.0], [7.0, 1.0], 0.0),
        ([1.0, 2.0], [math.nan, 2.0], math.inf),
        ([-math.inf, 2.0], [-math.inf, 2.0], 0.0),
        ([-math.inf, 2.0], [-1e30, 2.0], math.inf),
        ([1.0, 2.0], [math.inf, 2.0], math.inf),
        ([0.0, 0.0], [0.0, 1e-300], math.inf),
    ],
)
def test_the_distance_is_relative_to_the_tensor(
    expected: list[float], found: list[float], apart: float
) -> None:
    """NaN asks for nothing; an infinity asks for itself."""
    assert distance(np.array(expected), np.array(found)) == pytest.approx(apart)


def test_an_overflow_asks_for_nothing() -> None:
    overflow, number = np.array([math.inf, 1.0]), np.array([9.0, 1.0])

    assert distance(overflow, number) == math.inf
    assert distance(overflow, number, finite=True) == 0.0


def test_of_integers_the_share_that_differs_counts() -> None:
    assert distance(np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5])) == 0.25


def test_results_of_other_shapes_have_nothing_in_common() -> None:
    assert distance(np.zeros(3), np.zeros(4)) == math.inf


# ---------------------------------------------------------------- the same, or not


@pytest.mark.parametrize(
    ("cone", "other", "expected"),
    [
        (X * 2.0, X + X, True),
        (X * 2.0, X * X, False),
        (minimum(X, 6.0), X * 1.0, False),
        (minimum(X, 1000.0), X * 1.0, False),
        (X * 1.0, minimum(X, 1000.0), False),
        (maximum(X, 0.0), where(X >= 0.0, X, 0.0), True),
        (cast(X > 0.0, "f32"), cast(X >= 0.0, "f32"), False),
        (apply("absolute", X), sqrt(X * X), True),
        (apply("round", X), apply("floor", X + 0.5), False),
        (log(X * X), 2.0 * log(X), False),
        (2.0 * log(X), log(X * X), True),
        (X / (X * X + 1e-6), X / (X * X), False),
        (exp(X) / sum(exp(X), "n"), formulas.softmax(X, "n"), True),
        (formulas.softmax(X, "n"), formulas.safe_softmax(X, "n"), True),
        (formulas.safe_softmax(X, "n"), formulas.softmax(X, "n"), False),
        (exp(log(X)), X * 1.0, True),
        (rsqrt(X), X**-0.5, True),
        (X**-0.5, rsqrt(X), False),
        (mean(X**2.0, "n") - mean(X, "n") ** 2.0, mean((X - mean(X, "n")) ** 2.0, "n"), True),
        (apply("equal", X, math.inf), apply("is_nan", X), False),
        (apply("equal", X, math.inf), apply("equal", apply("absolute", X), math.inf), False),
        (apply("is_nan", X), apply("equal", X, math.inf), False),
        (where(apply("is_nan", X), 0.0, X), X * 1.0, False),
        (where(X > 1e20, 0.0, X), X * 1.0, False),
    ],
)
def test_what_has_the_same_values_is_the_same(cone: Node, other: Node, expected: bool) -> None:
    """Where the cone has a value: a safe softmax may serve a plain one, not the other way."""
    assert equal(cone, other) is expected


def test_a_single_number_is_drawn_on_both_sides_of_a_corner() -> None:
    """Without axes there is one value a point: what a condition chooses from must matter."""
    chosen = Input("chosen", (), "bool")
    one, other = Input("one", ()), Input("other", ())

    assert question(where(chosen, one, other)).matters
    assert question(apply("is_nan", one)).matters
    assert not equal(where(one > 0.0, one, 0.5 * one), maximum(one, 0.0 * one))


def test_an_index_that_is_computed_may_count_from_the_end() -> None:
    """One that is looked up as it is does not: what a lookup does before 0 is nobody's business."""
    table, index = Input("table", ("n", "d")), Input("index", ("m",), "i32")
    plain = gather(table, index, "n")
    from_end = gather(table, where(index < 0, index + 6, index), "n")

    assert not equal(from_end, plain)
    assert equal(plain, from_end)


def test_masks_are_tried() -> None:
    """A row of nothing but -inf, one of -1e30: the mean of a row or nothing."""
    plain, safe = formulas.softmax(X, "n"), formulas.safe_softmax(X, "n")
    asked = question(safe)

    assert {probe.mask for probe in asked.probes(False) if probe.masked == 0} >= {*MASKS}
    assert any(probe.rows for probe in asked.probes(False))
    assert same(asked, here(plain, asked), [])[0] is None


def test_what_goes_into_a_contraction_is_not_masked() -> None:
    q, k = Input("q", ("s", "d")), Input("k", ("t", "d"))
    mask = Input("mask", ("s", "t"))

    asked = question(formulas.softmax(dot(q, k, "d") + mask, "t"))

    assert [asked.local.leaves[n].axes for n in asked.masks] == [asked.local.root.axes]
    assert question(tanh(X)).masks == []


def test_logarithms_and_roots_get_positive_values() -> None:
    assert question(log(X)).positive
    assert not question(log(X * X)).positive
    arrays, value = (asked := question(sqrt(X))).value(Probe(0.8, 1, asked.positive))
    assert (arrays["x0"] > 0).all()
    assert np.isfinite(value).all()


def test_an_input_without_influence_is_noticed() -> None:
    shift = Input("shift", ("m",))

    assert question(X + shift).matters
    assert not question(formulas.softmax(X + shift, "n")).matters
    assert not question(X + 0.0 * shift).matters


@pytest.mark.parametrize("dtype", ["f32", "i32"])
@pytest.mark.parametrize("over", ["m", "n"])
def test_the_largest_of_many_may_be_below_zero(over: str, dtype: str) -> None:
    largest = max(Input("x", ("m", "n"), dtype), over)

    for other in (absolute(largest), maximum(largest, -2), minimum(negate(largest), 3)):
        asked = question(other)
        assert same(asked, here(largest, asked), [])[0] is None
        assert same(asked, here(negate(largest), asked), [])[0] is None


def test_three_inputs_have_all_pairs_of_signs() -> None:
    for a, b in ((0, 1), (0, 2), (1, 2)):
        pairs = {(Probe(1.0, 0, side=s).sign(a), Probe(1.0, 0, side=s).sign(b)) for s in SIDES}
        assert len(pairs) == 4
    for n in range(20):
        assert {Probe(1.0, 0, side=s).sign(n) for s in SIDES} == {1, -1}


def test_an_answer_says_at_how_many_points() -> None:
    asked = question(X * 2.0)
    answer, apart = same(asked, here(X + X, asked), [])

    assert answer is not None
    assert answer.points == 3 * math.prod(asked.lengths.values())
    assert apart == 0.0


def test_how_near_it_came_is_told() -> None:
    asked = question(tanh(X))

    assert same(asked, here(tanh(X) * 1.0001, asked), [])[1] == pytest.approx(1e-4, rel=1e-2)
    assert same(asked, here(exp(X), asked), [])[1] > 0.5
    assert same(asked, here(sum(X, "n"), asked), []) == (None, math.inf)


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("cone", "theta"),
    [
        (X * 3.0, 3.0),
        (X * 7.0, 7.0),
        (X / 8.0, 0.125),
        (X * 0.5 * 0.25, 0.125),
        (X * 6.0 / 9.0, 2 / 3),
        (-(X * 5.0), -5.0),
        (X + 0.0, 1.0),
        (X * X, None),
    ],
)
def test_an_immediate_comes_from_the_numbers_of_the_cone(cone: Node, theta: float | None) -> None:
    """As they are, inverted, negated, and products of two."""
    found = solved(cone, X * THETA, THETA)

    assert found == (None if theta is None else {"theta": pytest.approx(theta)})


def test_two_immediates_are_solved_together() -> None:
    other = Immediate("other", 1)

    assert solved(X * 3.0 + 4, X * THETA + other, THETA, other) == {"theta": 3.0, "other": 4}


def test_an_integer_stays_one() -> None:
    whole = Immediate("whole", 1)

    assert solved(apply("modulo", ROW, 3.0), apply("modulo", ROW, whole), whole) == {"whole": 3}
    assert solved(apply("modulo", ROW, 2.5), apply("modulo", ROW, whole), whole) is None


def test_literals_within_one_rounding_are_snapped() -> None:
    root = X * 0.7071067690849304 + 0.3333333432674408

    assert str(snapped(root, [0.5**0.5, 3.0])) == (f"add(multiply(x[m n], {0.5**0.5}), {1 / 3})")
    assert snapped(X * 0.70711, [0.5**0.5]) is X * 0.70711


def test_literals_are_snapped_from_narrow_types() -> None:
    """0.70703125 is the root of a half in f16 and in bf16; 1.5 is what somebody wrote."""
    root = X * 0.70703125

    assert str(snapped(root, [0.5**0.5], ["f16"])) == f"multiply(x[m n], {0.5**0.5})"
    assert snapped(root, [0.5**0.5]) is root
    assert snapped(root, [0.708], ["f16"]) is root
    assert snapped(X * 1.5, [1.5001], ["f16", "bf16"]) is X * 1.5


# ---------------------------------------------------------------- lengths


def test_axes_are_short_and_each_different() -> None:
    """Three axes of one contraction; two that always occur together are as good as one."""
    assert local_lengths(dot(X, Input("w", ("n", "d")), "n")) == {"m": 7, "n": 5, "d": 6}
    assert sorted(local_lengths(X * 2.5).values()) == [1, 61]


def test_an_axis_is_as_long_as_a_number_says() -> None:
    """6 positions, whether as 6, as 1/6 or as its root."""
    for number in (6.0, 1 / 6, 6.0**0.5, 1 / 6.0**0.5):
        assert local_lengths(sum(X, "n") * number)["n"] == 6
    assert local_lengths(sum(X, "n") * 7.0)["n"] != 6
    assert local_lengths(sum(X, "m n") * (1 / 24)) == {"m": 4, "n": 6}


def test_no_length_is_a_number_by_chance() -> None:
    """11 is how long n is taken to be if nothing speaks against it."""
    assert local_lengths(sum(X, "n"))["n"] == 11
    assert local_lengths(sum(X, "n") / 11.0)["n"] == 12
    assert not equal(sum(X, "n") / 11.0, mean(X, "n"))
    assert equal(sum(X, "n") / 6.0, mean(X, "n"))


def test_a_length_known_at_run_time_is_no_number() -> None:
    assert not equal(sum(X, "n") / 6.0, mean(X, "n"), run_time="n")
    assert equal(sum(X, "n") / size("n"), mean(X, "n"), run_time="n")


def test_positions_are_counted_past_the_numbers() -> None:
    """As far as the model goes: the 5 is passed, 300 is not reached."""
    assert local_lengths(ROW * (position("m") < 2))["m"] >= 4
    far = Input("far", ("c",))
    assert local_lengths(where(position("c") < 5, far, 0.0))["c"] == 61
    seen = position("s") - position("t") < 5
    assert local_lengths(where(seen, Input("x", ("s", "t")), 0.0)) == {"s": 13, "t": 11}


def test_views_reach_their_indices() -> None:
    cache = Input("cache", ("c",))

    window = local_lengths(view(cache, {"c": "2*m + 3"}))
    assert window["c"] == 2 * (window["m"] - 1) + 3 + 1
    assert local_lengths(view(cache, {"c": "15 - s"}))["c"] == 16
    assert local_lengths(view(cache, {"c": "s // 4"}))["s"] == 8
    assert local_lengths(stack([ROW, ROW * 2.0], "p"))["p"] == 2


def test_indices_stay_inside_their_tables() -> None:
    table, index = Input("table", ("c", "d")), Input("index", ("s",), "i64")
    asked = question(gather(table, index, "c"))

    arrays, _ = asked.value(Probe(0.8, 1))

    (rows,) = (asked.lengths[a] for a, outer in asked.local.axes.items() if outer == "c")
    assert 0 <= arrays["x1"].min() <= arrays["x1"].max() < rows


def test_a_question_keeps_its_values() -> None:
    asked = question(tanh(X))
    probe = Probe(0.8, 1)

    assert asked.value(probe) is asked.value(probe)
    (squared,) = substitute([asked.local.root * 2.0], {Constant(2.0): THETA})
    twice, thrice = asked.asked(squared, asked.value(probe)[0], [{"theta": 2.0}, {"theta": 3.0}])
    assert np.allclose(twice * 1.5, thrice)


# ---------------------------------------------------------------- bounds


def test_a_bound_on_a_sum_is_reached() -> None:
    """A sum of seven weights that are nearly one passes six, though lengths of so many axes are
    short."""
    product = X * Input("u", ("s", "n")) * Input("v", ("d", "n")) * Input("w", ("c", "n"))
    root = sum(exp(product), "n")
    asked = question(minimum(root, 6.0), sizes={**SIZES, "n": 7})

    assert same(asked, here(root, asked), [])[0] is None
    assert asked.lengths["a1"] == 7


def test_a_bound_on_a_root_is_reached() -> None:
    """Of positive values too some are large."""
    asked = question(minimum(sqrt(X), 6.0))

    assert same(asked, here(sqrt(X), asked), [])[0] is None


# ---------------------------------------------------------------- orders of operands


Y, Z = Input("y", ("m", "n")), Input("z", ("m", "n"))


def test_the_operands_of_commutative_operations_are_in_one_order() -> None:
    assert ordered(X * Y + Z) is ordered(Z + Y * X)
    assert ordered(dot(X, Y, ("m", "n"))) is ordered(dot(Y, X, ("n", "m")))
    assert ordered(X - Y) is not ordered(Y - X)
    assert ordered((X + Y) + Z) is not ordered(X + (Y + Z))  # rounded otherwise


@pytest.mark.parametrize(
    ("other", "apart"),
    [
        (Y * X + Z, False),
        (X * Y - Z, True),
        (X * (Y + Z), True),
        (X * Y + Z + 0.25, True),
    ],
)
def test_inputs_over_the_same_axes_may_be_in_any_order(other: Node, apart: bool) -> None:
    """x y + z is z y + x in another order, and that it is not in this one is not asked here."""
    asked = question(X * Y + Z)
    renamed = substitute([X * Z + Y], {})[0]

    assert (apart_if_alike(asked, here(other, asked), []) > 0) == apart
    assert apart_if_alike(asked, here(renamed, asked), []) == 0


def test_numbers_are_tried_in_any_order_too() -> None:
    asked = question(tanh(X * 0.5) * Y)

    assert apart_if_alike(asked, here(Y * tanh(THETA * X), asked), [THETA]) == 0
    assert apart_if_alike(asked, here(X * tanh(THETA * Y), asked), [THETA]) == 0
    assert apart_if_alike(asked, here(Y * exp(THETA * X), asked), [THETA]) > 0


def test_many_numbers_are_tried_at_few_points_first() -> None:
    """Lengths that a number may be are kept, so a normalization has many points."""
    long = {**SIZES, "n": 768}
    root = X * rsqrt(sum(X * X, "n") * (1.0 / 768) + 1e-5)
    eps = Immediate("eps", 0.1)
    asked = question(root, sizes=long)
    other = X * rsqrt(mean(X * X, "n") + eps)

    assert [*asked.brief.lengths.values()] == [1, 768]
    answer, _ = same(asked, here(other, asked), [eps])
    assert answer is not None
    assert answer.immediates == {"eps": 1e-5}


LONG = {**SIZES, "n": 8192, "c": 8192}


def test_what_no_number_refutes_is_refuted_where_axes_are_short() -> None:
    """A number that is a length is that of the short axis; it has its own length where the two are
    equal, and values for immediates are those of the long axis."""
    asked = question(X * rsqrt(sum(X * X, "n") * (1.0 / 8192) + 1e-5) * 0.5, sizes=LONG)
    factor = Immediate("factor", 1.0)

    assert asked.short is not None
    _, short = asked.short.question.lengths.values()
    assert short < 64
    assert asked.short.numbers == (1 / 8192,)
    assert [*asked.short.question.constants] == pytest.approx([1 / short, 1e-5, 0.5])
    for other, numbers in [
        (X * rsqrt(mean(X * X, "n") + THETA) * factor, {"theta": 1e-5, "factor": 0.5}),
        (X * rsqrt(sum(X * X, "n") * factor + THETA) * 0.5, {"theta": 1e-5, "factor": 1 / 8192}),
    ]:
        answer, _ = same(asked, here(other, asked), [THETA, factor])
        assert answer is not None
        assert answer.immediates == numbers
    for other in (
        X * rsqrt(mean(X * X * X, "n") + THETA) * factor,
        X * rsqrt(sum(X * X, "n") * (1.0 / 8191) + THETA) * factor,
        X * rsqrt(sum(X * X, "n") * (1.0 / short) + THETA) * factor,
    ):
        assert same(asked, here(other, asked), [THETA, factor])[0] is None


def test_a_number_may_be_a_long_axis_s_length_by_chance() -> None:
    asked = question(sum(X, "n") * 8192.0, sizes=LONG)
    literal, length = sum(X, "n") * 8192.0, sum(X, "n") * cast(size("n"), "f64")

    assert asked.short is not None
    assert not asked.short.tells(here(literal, asked))
    assert asked.short.tells(here(length, asked))
    for other in (literal, length):
        assert same(asked, here(other, asked), [])[0] is not None
    assert same(asked, here(sum(X, "n") * 8191.0, asked), [])[0] is None


def test_errors_are_looked_for_in_rows_of_some_thousand() -> None:
    """A normalization over an image: what an instruction does to the numbers shows in a part."""
    x = Input("x", ("m", "s", "t"))
    sizes = {**SIZES, "m": 64, "s": 300, "t": 200}
    asked = question(x * rsqrt(sum(x * x, "s t") * (1.0 / 60_000) + 1e-5), sizes=sizes)
    short = question(x * rsqrt(sum(x * x, "s t") * (1.0 / 6_000) + 1e-5), sizes=sizes | {"s": 30})

    assert short.sample is None
    assert asked.sample is not None
    _, *found = asked.sample.question.few.values()
    assert 2_000 < math.prod(found) < 10_000
    assert asked.sample.numbers == (1 / 60_000,)
    assert not asked.sample.tells(here(x * (1.0 / 60_000), asked))


def test_axes_as_long_as_each_other_stay_so() -> None:
    """8192 may be the length of n, and of s and t together."""
    product = dot(Input("one", ("m", "s", "t")), Input("two", ("n", "s", "t")), "s t")
    asked = question(sum(product * product, "n") * (1.0 / 8192), sizes=LONG | {"s": 64, "t": 128})

    assert asked.short is not None
    found = asked.short.question.lengths
    s, t, n = (found[axis] for axis in sorted(found, key=asked.sizes.__getitem__)[1:])
    assert s * t == n < 64


def test_the_distances_of_several_results_are_those_of_each() -> None:
    expected = np.array([1.0, math.nan, math.inf, -2.0])
    found = [
        expected,
        np.array([1.0, 5.0, math.inf, -2.5]),
        np.array([1.0, 5.0, 1.0, -2.0]),
        np.array([math.nan, 5.0, math.inf, -2.0]),
    ]

    assert distances(expected, found) == [distance(expected, each) for each in found]
    assert distances(expected, found) == [0.0, 0.25, math.inf, math.inf]
    assert distances(expected, found, finite=True) == [0.0, 0.25, 0.0, math.inf]


def test_whole_numbers_that_are_scaled_down_and_rounded_are_told_apart() -> None:
    total = cast(Input("total", ("s",), "i32"), "f32")
    asked = question(apply("round", total * (1.0 / 256.0)))

    (leaf,) = asked.local.leaves
    for scale in (1.0 / 128.0, 1.0 / 300.0):
        assert same(asked, apply("round", cast(leaf, "f64") * scale), ())[0] is None
