"""What expressions mean: the same element by element, in tiles, refined, and in the corners."""

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import TypeVar

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as some
from numpy.testing import assert_allclose, assert_array_equal

from infinisa.isa.dtypes import DTYPES
from infinisa.isa.errors import LanguageError
from infinisa.isa.evaluate import Range, align, evaluate, saturate
from infinisa.isa.instruction import Instruction, combining, step_of
from infinisa.isa.language import (
    Cast,
    Immediate,
    Input,
    Node,
    Opaque,
    Reduce,
    apply,
    argmax,
    cast,
    dot,
    equal,
    gather,
    inputs,
    max,
    mean,
    min,
    position,
    refine,
    rename,
    scan,
    size,
    stack,
    substitute,
    sum,
    update,
    view,
    where,
)
from tests.isa.expressions import LEAVES, RANGES, SIZES, arrays, expressions, pointwise

T = TypeVar("T")
MANY = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))

X = Input("x", ("m", "n"))
ROWS = np.arange(12, dtype=np.float32).reshape(3, 4)


def value(root: Node, /, **given: object) -> np.ndarray:
    (found,) = evaluate([root], {name: np.asarray(array) for name, array in given.items()})
    return found


def refusal(root: Node, **given: object) -> str:
    with pytest.raises(LanguageError) as caught:
        value(root, **given)
    return str(caught.value)


# ---------------------------------------------------------------- laws


@MANY
@given(expressions())
def test_an_expression_means_what_it_means_at_each_position(root: Node) -> None:
    given = arrays()

    (found,) = evaluate([root], given, ranges=RANGES)

    assert found.shape == tuple(SIZES[axis] for axis in root.axes)
    assert found.dtype == DTYPES[root.dtype].numpy
    assert_allclose(found, pointwise(root, given), rtol=1e-5, atol=1e-6)


@MANY
@given(expressions(), some.integers(0, 9), some.integers(1, 9))
def test_a_tile_is_a_piece_of_the_whole(root: Node, start: int, length: int) -> None:
    """An axis that an instruction neither takes whole nor reduces may be cut anywhere."""
    made = Instruction(name="i", unit="u", operands=inputs([root]), outputs=(root,))
    axes = [a for a in root.axes if a not in made.whole and a in made.axes]
    assume(axes and not made.windows)
    axis, given = axes[0], arrays()
    start %= SIZES[axis]
    length = 1 + (length - 1) % (SIZES[axis] - start)
    cut = {
        leaf.name: cut_along(given[leaf.name], leaf.axes, axis, start, length) for leaf in LEAVES
    }
    ranges = {**RANGES, axis: Range(start, length)}

    (whole,) = evaluate([root], given, ranges=RANGES)
    (tile,) = evaluate([root], cut, ranges=ranges, sizes=SIZES)

    assert_allclose(tile, cut_along(whole, root.axes, axis, start, length), rtol=1e-9, atol=1e-12)


def cut_along(
    array: np.ndarray, axes: tuple[str, ...], axis: str, start: int, length: int
) -> np.ndarray:
    if axis not in axes:
        return array
    return np.take(array, range(start, start + length), axes.index(axis))


@MANY
@given(expressions(), some.integers(1, 3))
def test_steps_over_pieces_and_a_finish_are_the_whole(root: Node, piece: int) -> None:
    made = Instruction(name="i", unit="u", operands=inputs([root]), outputs=(root,))
    fold = made.accumulation
    assume(fold is not None and made.reduced and not made.windows)
    assert fold is not None
    axis, given = min_(made.reduced), arrays()
    step, finish = step_of(made)
    state = np.full([SIZES[a] for a in fold.axes], step.states[0].initial)
    for start in range(0, SIZES[axis], piece):
        length = min_((piece, SIZES[axis] - start))
        cut = {
            leaf.name: cut_along(given[leaf.name], leaf.axes, axis, start, length)
            for leaf in step.operands
        }
        ranges = {**RANGES, axis: Range(start, length)}
        tile = {**cut, "accumulator": state}
        (state,) = evaluate(step.outputs, tile, ranges=ranges, sizes=SIZES)
    if finish is not None:
        (state,) = evaluate(finish.outputs, {**given, "accumulator": state}, ranges=RANGES)

    (whole,) = evaluate([root], given, ranges=RANGES)
    assert_allclose(state, whole, rtol=1e-9, atol=1e-12)


def min_(items: Iterable[T]) -> T:
    """The built-in `min`: here that name is a fold of the language."""
    return sorted(items)[0]  # type: ignore[type-var]  # strings and integers can be compared


@MANY
@given(expressions())
def test_renamed_axes_mean_the_same(root: Node) -> None:
    names = {axis: (f"{axis}_",) for axis in SIZES}
    ranges = {f"{axis}_": where_ for axis, where_ in RANGES.items()}

    (renamed,) = refine([root], names)

    assert renamed.axes == tuple(f"{axis}_" for axis in root.axes)
    assert_array_equal(
        evaluate([renamed], arrays(), ranges=ranges)[0],
        evaluate([root], arrays(), ranges=RANGES)[0],
    )


@MANY
@given(expressions())
def test_a_parted_axis_means_the_same(root: Node) -> None:
    """b of 4 as 2 by 2, wherever no index is computed with it."""
    try:
        (parted,) = refine([root], {"b": ("p", "q")})
    except LanguageError as error:
        if "'b' is indexed and cannot be parted" not in str(error):
            raise
        return
    given = {
        leaf.name: arrays()[leaf.name].reshape(
            [n for axis in leaf.axes for n in ((2, 2) if axis == "b" else (SIZES[axis],))]
        )
        for leaf in LEAVES
    }
    ranges = {**RANGES, "p": Range(0, 2), "q": Range(0, 2)}

    (found,) = evaluate([parted], given, ranges=ranges)

    (whole,) = evaluate([root], arrays(), ranges=RANGES)
    assert_allclose(found.reshape(whole.shape), whole, rtol=1e-12)


@MANY
@given(expressions())
def test_what_stands_for_an_operand_has_its_value(root: Node) -> None:
    x = LEAVES[0]
    instead = apply("tanh", x) * 2.0
    (inside,) = substitute([root], {x: instead})

    given = arrays()
    outside = {**given, "x": np.tanh(given["x"]) * 2.0}

    assert_allclose(
        evaluate([inside], given, ranges=RANGES)[0],
        evaluate([root], outside, ranges=RANGES)[0],
        rtol=1e-9,
        atol=1e-12,
    )


# ---------------------------------------------------------------- leaves and maps


def test_a_position_counts_from_where_its_range_starts() -> None:
    (found,) = evaluate([position("s")], {}, ranges={"s": Range(70, 3)})

    assert found.tolist() == [70, 71, 72]
    assert found.dtype == np.int32


def test_a_size_is_that_of_the_whole_axis() -> None:
    """A tile of 2 of the 8 positions of n: the mean divides by 8."""
    tile = {"x": np.array([4.0, 12.0], np.float32)}
    root = mean(Input("x", ("n",)), "n")

    (found,) = evaluate([root], tile, sizes={"n": 8})

    assert found == 2.0
    assert evaluate([size("n")], {}, ranges={"n": Range(3, 5)}) == [5]


def test_an_immediate_may_be_given() -> None:
    root = X * Immediate("scale", 2.0)

    assert_array_equal(value(root, x=ROWS), ROWS * 2)
    (found,) = evaluate([root], {"x": ROWS}, immediates={"scale": 3.0})
    assert_array_equal(found, ROWS * 3)


def test_narrow_types_are_computed_wide() -> None:
    """200 + 100 does not fit i8 or u8; 1 + 2**-8 does not fit bf16."""
    a, b = Input("a", ("n",), "u8"), Input("b", ("n",), "i8")
    half, one = Input("h", (), "bf16"), Input("o", (), "bf16")
    given = {"h": np.array(2.0**-8, ml_dtypes.bfloat16), "o": np.array(1, ml_dtypes.bfloat16)}

    total = value(a + b, a=np.array([200], np.uint8), b=np.array([100], np.int8))
    assert total.tolist() == [300]
    assert total.dtype == np.int32
    (found,) = evaluate([half + one], given)
    assert found == np.float32(1 + 2.0**-8)


def test_comparisons_are_made_in_the_type_of_both_sides() -> None:
    """2**24 + 1 and 2**24 differ as integers, and are one number in f32."""
    a, b = Input("a", (), "i32"), Input("b", (), "i32")

    assert not value(equal(a, b), a=np.int32(2**24 + 1), b=np.int32(2**24))
    as_floats = equal(cast(a, "f32"), cast(b, "f32"))
    assert value(as_floats, a=np.int32(2**24 + 1), b=np.int32(2**24))


def test_a_condition_chooses_without_looking_at_the_other_branch() -> None:
    root = where(X > 5.0, X, -math.inf)

    assert_array_equal(value(root, x=ROWS), np.where(ROWS > 5, ROWS, -np.inf))


def test_arrays_must_fit_their_inputs() -> None:
    y = Input("y", ("n",))

    assert refusal(X + y, x=ROWS) == "input 'y' has no array"
    assert refusal(X, x=np.zeros(3)) == "input 'x' must have dimensions (m n), not shape (3,)"
    assert refusal(X + y, x=ROWS, y=np.zeros(5)) == (
        "input 'y': axis 'n' must have 4 positions, not 5"
    )
    assert refusal(position("s")) == "axis 's' has no extent"
    assert refusal(size("s")) == "axis 's' has no extent"


def test_an_opaque_operator_has_no_value() -> None:
    root = Opaque("sort", (X,), ("m",), "f32")

    assert refusal(root, x=ROWS) == "operator 'sort' is opaque: it has no value in the language"


def test_axes_are_aligned_by_name() -> None:
    array = np.arange(6).reshape(2, 3)

    assert align(array, ("a", "b"), ("b", "c", "a")).shape == (3, 1, 2)
    assert align(array, ("a", "b"), ("a", "b")) is array


# ---------------------------------------------------------------- folds and contractions


def test_a_fold_over_nothing_is_neutral() -> None:
    empty = Input("x", ("m", "n"))
    given = {"x": np.zeros((2, 0), np.float32)}

    for function, neutral in (("sum", 0), ("product", 1), ("max", -np.inf), ("min", np.inf)):
        (found,) = evaluate([Reduce(function, empty, ("n",))], given)
        assert found.tolist() == [neutral, neutral]
    integers = Input("x", ("n",), "i32")
    (found,) = evaluate([max(integers, "n")], {"x": np.zeros(0, np.int32)})
    assert found == np.iinfo(np.int32).min
    assert refusal(argmax(empty, "n"), **given) == (
        "argmax: axis 'n' must have at least one position"
    )


def test_the_first_of_equals_is_the_largest() -> None:
    found = value(argmax(Input("x", ("n",)), "n"), x=np.array([1, 3, 3, 2], np.float32))

    assert found == 1
    assert found.dtype == np.int32


def test_a_fold_may_go_over_several_axes() -> None:
    assert value(sum(X, "m n"), x=ROWS) == 66
    assert value(min(X, "n m"), x=ROWS) == 0


def test_heads_share_keys_in_a_grouped_contraction() -> None:
    """Grouped-query attention: 2 groups of 3 heads, one set of keys a group."""
    random = np.random.default_rng(0)
    q = random.normal(size=(5, 2, 3, 4)).astype(np.float32)
    k = random.normal(size=(7, 2, 4)).astype(np.float32)
    queries, keys = Input("q", ("s", "g", "h", "d")), Input("k", ("t", "g", "d"))

    scores = dot(queries, keys, over="d")

    assert scores.axes == ("s", "g", "h", "t")
    assert_allclose(value(scores, q=q, k=k), np.einsum("sghd,tgd->sght", q, k), rtol=1e-4)


def test_a_contraction_of_integers_is_exact() -> None:
    a, b = Input("a", ("m", "k"), "i8"), Input("b", ("k", "n"), "i8")
    full = np.full((1, 2000), 127, np.int8)

    found = value(dot(a, b, over="k"), a=full, b=full.T)

    assert found.tolist() == [[2000 * 127 * 127]]
    assert found.dtype == np.int32


def test_a_contraction_over_nothing_is_nought() -> None:
    a, b = Input("a", ("m", "k")), Input("b", ("k", "n"))

    found = value(dot(a, b, over="k"), a=np.zeros((2, 0)), b=np.zeros((0, 3)))

    assert found.tolist() == [[0, 0, 0], [0, 0, 0]]


# ---------------------------------------------------------------- indices


def test_a_window_reads_a_fill_beyond_the_ends() -> None:
    """A 3-wide sum with stride 2 over 1 2 3 4 5: (0 1 2) (2 3 4) (4 5 0)."""
    x, weight = Input("x", ("h",)), Input("w", ("r",))
    window = view(x, {"h": "2*p + r - 1"}, fill=0.0)
    given = {"x": np.arange(1, 6, dtype=np.float32), "w": np.ones(3, np.float32)}

    (found,) = evaluate([dot(window, weight, over="r")], given, ranges={"p": Range(0, 3)})

    assert found.tolist() == [3, 9, 9]


def test_a_window_of_a_tile_reads_the_same() -> None:
    """The positions 1 to 2 of p need 1 to 5 of h: the tile begins there."""
    x = Input("x", ("h",))
    window = view(x, {"h": "2*p + r - 1"}, fill=0.0)
    ranges = {"p": Range(1, 2), "r": Range(0, 3), "h": Range(1, 5)}

    (found,) = evaluate([window], {"x": np.arange(1.0, 6.0)}, ranges=ranges)

    assert found.tolist() == [[1, 2, 3], [3, 4, 5]]


def test_an_index_outside_is_an_error_without_a_fill() -> None:
    x = Input("x", ("n",))

    assert refusal(view(x, {"n": "n + 1"}), x=np.zeros(3)) == (
        "view: n=n + 1 leaves the 3 positions of 'n'"
    )
    with pytest.raises(LanguageError) as caught:
        evaluate([view(x, {"n": "p % 8"})], {"x": np.zeros(3)}, ranges={"p": Range(0, 4)})
    assert str(caught.value) == "view: n=(p) % 8 leaves the 3 positions of 'n'"


def test_views_split_merge_reverse_and_take_diagonals() -> None:
    flat, square = Input("x", ("n",)), Input("x", ("i", "j"))
    ranges = {"h": Range(0, 3), "e": Range(0, 2), "n": Range(0, 6), "i": Range(0, 3)}
    six, nine = np.arange(6.0), np.arange(9.0).reshape(3, 3)

    def seen(root: Node, array: np.ndarray, **more: Range) -> object:
        return evaluate([root], {"x": array}, ranges={**ranges, **more})[0].tolist()

    assert seen(view(flat, {"n": "2*h + e"}), six) == [[0, 1], [2, 3], [4, 5]]
    merged = view(Input("x", ("h", "e")), {"h": "n // 2", "e": "n % 2"})
    assert seen(merged, six.reshape(3, 2)) == [0, 1, 2, 3, 4, 5]
    assert seen(view(flat, {"n": "5 - n"}), six) == [5, 4, 3, 2, 1, 0]
    assert seen(view(square, {"i": "k", "j": "k"}), nine, k=Range(0, 3)) == [0, 4, 8]
    assert seen(view(flat, {"n": 2}), six) == 2
    assert seen(rename(flat, {"n": "k"}), six, k=Range(0, 6)) == [0, 1, 2, 3, 4, 5]


def test_a_view_does_not_copy_what_it_renames() -> None:
    (renamed,) = evaluate([rename(X, {"m": "s"})], {"x": ROWS}, ranges={"s": Range(0, 3)})

    assert np.shares_memory(renamed, ROWS)


def test_an_index_of_a_look_up_is_clipped_to_the_ends() -> None:
    table, index = Input("t", ("v", "d")), Input("i", ("s",), "i32")
    rows = np.arange(6.0).reshape(3, 2)

    found = value(gather(table, index, "v"), t=rows, i=np.array([1, -5, 99], np.int32))

    assert found.tolist() == [[2, 3], [0, 1], [4, 5]]
    assert refusal(gather(table, index, "v"), t=np.zeros((0, 2)), i=np.array([0])) == (
        "gather: axis 'v' must have at least one position"
    )


def test_a_look_up_walks_shared_axes_together() -> None:
    table, index = Input("t", ("s", "v")), Input("i", ("s",), "i32")
    rows = np.arange(6.0).reshape(3, 2)

    found = value(gather(table, index, "v"), t=rows, i=np.array([1, 0, 9], np.int32))

    assert found.tolist() == [1, 2, 5]


def test_an_update_writes_where_its_range_stands() -> None:
    """One token at position 5 of a cache that holds positions 4 to 7."""
    cache, token = Input("cache", ("t",)), Input("token", ("s",))
    given = {"cache": np.zeros(4, np.float32), "token": np.array([9], np.float32)}
    ranges = {"t": Range(4, 4), "s": Range(5, 1)}

    (found,) = evaluate([update(cache, token, {"t": "s"})], given, ranges=ranges)

    assert found.tolist() == [0, 9, 0, 0]
    assert given["cache"].tolist() == [0, 0, 0, 0]
    with pytest.raises(LanguageError) as caught:
        evaluate([update(cache, token, {"t": "s"})], given, ranges={**ranges, "s": Range(8, 1)})
    assert str(caught.value) == "update: t=s leaves the 4 positions of 't'"


def test_values_are_stacked_along_a_new_axis_that_comes_first() -> None:
    x, y = Input("x", ("n",)), Input("y", ())

    found = value(stack([x, y], "g"), x=np.array([1, 2], np.float32), y=np.float32(7))

    assert found.tolist() == [[1, 2], [7, 7]]


# ---------------------------------------------------------------- casts


@pytest.mark.parametrize("target", [name for name in DTYPES if name[0] in "iu"])
def test_a_cast_to_integers_rounds_to_even_and_saturates(target: str) -> None:
    limits = np.iinfo(DTYPES[target].numpy)
    given = np.array([0.5, 1.5, 2.5, 1e30, -1e30, np.inf, -np.inf, np.nan])

    found = saturate(given, target)

    top, bottom = limits.max, limits.min
    assert found.tolist() == [0, 2, 2, top, bottom, top, bottom, 0]
    assert found.dtype == DTYPES[target].numpy


@given(some.lists(some.integers(-(2**63), 2**63 - 1), min_size=1), some.sampled_from(["i8", "u16"]))
def test_a_cast_of_integers_saturates(numbers: list[int], target: str) -> None:
    limits = np.iinfo(DTYPES[target].numpy)

    found = saturate(np.array(numbers, np.int64), target)

    assert found.tolist() == [sorted((limits.min, n, limits.max))[1] for n in numbers]


def test_casts_between_floats_round_and_overflow_to_infinity() -> None:
    """1 + 2**-8 is half-way between two bf16 numbers: to the even one. 70000 is no f16."""
    assert saturate(np.array(1 + 2.0**-8, np.float32), "bf16") == 1
    assert saturate(np.array(1 + 3 * 2.0**-8, np.float32), "bf16") == 1 + 2.0**-6
    assert saturate(np.array(70000.0), "f16") == np.inf
    assert saturate(np.array([0.0, -0.5]), "bool").tolist() == [False, True]
    assert saturate(np.array([True]), "i8").tolist() == [1]


def test_a_cast_is_seen_in_the_language() -> None:
    root = Cast(X * 100.0, "i8")

    assert_array_equal(value(root, x=ROWS), np.minimum(ROWS * 100, 127).astype(np.int8))


# ---------------------------------------------------------------- recurrences


def running(reverse: bool = False) -> tuple[Node, Node]:
    """A running sum of x: its end, and every partial sum."""

    def step(total: Node, x: Node) -> tuple[list[Node], list[Node]]:
        return [total + x], [total + x]

    start = Input("start", ())
    (end,), (sums,) = scan(step, {"total": start}, {"x": Input("x", ("t",))}, "t", reverse)
    return end, sums


@pytest.mark.parametrize(("reverse", "sums"), [(False, [11, 13, 16]), (True, [16, 15, 13])])
def test_a_recurrence_runs_from_either_end(reverse: bool, sums: list[int]) -> None:
    """Emitted values stay in the order of the axis."""
    given = {"x": np.array([1, 2, 3], np.float32), "start": np.array(10, np.float32)}

    end, partial = evaluate(running(reverse), given)

    assert end == 16
    assert partial.tolist() == sums


def test_a_recurrence_over_nothing_keeps_its_state() -> None:
    given = {"x": np.zeros(0, np.float32), "start": np.array(10, np.float32)}

    end, partial = evaluate(running(), given)

    assert end == 10
    assert partial.tolist() == []


def test_a_recurrence_sees_positions_states_and_values_from_outside() -> None:
    """h = h * w + position, over rows at once: the state has axis m, w comes from outside."""
    w = Input("w", ())

    def step(h: Node, x: Node) -> tuple[list[Node], list[Node]]:
        here = sum(cast(position("t"), "f32"), "t")  # of one position at a time
        return [h * w + x + here], [h]

    initial = Input("h", ("m",))
    (end,), (before,) = scan(step, {"h": initial}, {"x": Input("x", ("t", "m"))}, "t")
    given = {
        "h": np.array([1, 2], np.float32),
        "w": np.array(2, np.float32),
        "x": np.zeros((3, 2), np.float32),
    }

    found = evaluate([end, before], given, ranges={"t": Range(5, 3)})

    assert [array.tolist() for array in found] == [[47, 55], [[1, 2], [7, 9], [20, 24]]]


def test_a_recurrence_that_ignores_its_state_is_a_map() -> None:
    (_,), (doubled,) = scan(
        lambda h, x: ([h], [x * 2.0]),
        {"h": Input("h", ())},
        {"x": Input("x", ("t", "n"))},
        "t",
    )
    found = value(doubled, h=np.float32(0), x=ROWS)

    assert_array_equal(found, ROWS * 2)


def test_the_fold_of_a_contraction_is_a_sum() -> None:
    fold = combining(dot(Input("a", ("k",)), Input("b", ("k",)), "k"))  # type: ignore[arg-type]  # a Dot

    assert fold is not None
    assert (fold.name, fold.combine, fold.neutral) == ("sum", "add", 0.0)
    assert combining(argmax(X, "n")) is None  # type: ignore[arg-type]  # a Reduce


def test_a_seed_does_not_matter() -> None:
    """The leaves of random expressions have the shapes that their axes say."""
    assert {leaf.name: replace(leaf).axes for leaf in LEAVES} == {
        "x": ("a", "b"),
        "y": ("b", "c"),
        "z": ("a",),
        "k": ("a",),
    }
