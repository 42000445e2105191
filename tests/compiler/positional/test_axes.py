"""Positional tensors and the named axes they become."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from infinisa.compiler.positional.axes import (
    Atom,
    align,
    cut,
    fits,
    indices,
    leaves,
    split_at,
    unify,
)
from infinisa.compiler.positional.naming import name_axes
from infinisa.compiler.positional.recurrence import scan
from infinisa.compiler.positional.tensor import Tensor, concat, from_array, outer, position
from infinisa.isa.errors import ModelError
from infinisa.isa.evaluate import Range, evaluate
from infinisa.isa.language import Affine

Array = NDArray[Any]


def values(inputs: Sequence[tuple[Tensor, Array]], output: Tensor) -> Array:
    """What an output is, through the named axes."""
    named = name_axes([tensor for tensor, _ in inputs], [output])
    arrays = {name: weight.load() for name, weight in named.weights.items()}
    for number, (tensor, array) in enumerate(inputs):
        arrays[f"x{number}"] = named.layout(tensor).named(array, named.nodes[tensor].axes)
    node = named.nodes[output]
    ranges = {axis: Range(0, size) for axis, size in named.names.sizes.items()}
    (value,) = evaluate([node], arrays, ranges=ranges)
    return named.layout(output).positional(value, node.axes)


def given_inputs(*shapes: tuple[int, ...]) -> list[tuple[Tensor, Array]]:
    random = np.random.default_rng(0)
    return [
        (outer(f"x{k}", "f32", shape), random.normal(size=shape).astype(np.float32))
        for k, shape in enumerate(shapes)
    ]


def text(inputs: Sequence[tuple[Tensor, Array]], output: Tensor) -> str:
    return str(name_axes([tensor for tensor, _ in inputs], [output]).nodes[output])


# ---------------------------------------------------------------- atoms


def test_dimensions_of_one_size_are_cut_into_common_atoms() -> None:
    """24 = 6 x 4 = 2 x 12 become 2, 3, 4."""
    left, right = (Atom(6), Atom(4)), (Atom(2), Atom(12))

    assert fits(left, right)
    assert [(a.size, b.size) for a, b in align(left, right)] == [(2, 2), (3, 3), (4, 4)]


def test_dimensions_without_common_atoms_do_not_fit() -> None:
    assert not fits((Atom(2), Atom(3)), (Atom(3), Atom(2)))


def test_an_atom_that_must_stay_whole_is_not_cut() -> None:
    whole = Atom(6)
    whole.whole = True

    assert not fits((whole,), (Atom(2), Atom(3)))
    assert split_at((whole,), 2) is None


def test_atoms_are_the_same_unless_a_tensor_has_both() -> None:
    a, b, c = Atom(4), Atom(4), Atom(4)
    a.carriers |= {1}
    b.carriers |= {1, 2}

    assert not unify(a, b)
    assert unify(c, b)
    assert leaves((a, c)) == (a, b)


def test_the_parts_of_an_atom_are_different_from_what_it_is_different_from() -> None:
    a, b = Atom(6), Atom(2)
    a.carriers |= {1}
    b.carriers |= {1}
    first, _ = cut(a, 2)

    assert not unify(first, b)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.data())
def test_indices_of_a_flat_position_count_as_numpy_does(sizes: list[int], data: Any) -> None:
    stride = data.draw(st.integers(1, 3))
    length = data.draw(st.integers(1, max(1, (prod(sizes) - 1) // stride + 1)))
    offset = data.draw(st.integers(0, prod(sizes) - 1 - (length - 1) * stride))
    old = [(f"o{k}", size) for k, size in enumerate(sizes)]

    found = dict(indices(Affine((("n", stride),), offset), old, {"n": length}))

    flat = np.arange(length) * stride + offset
    for (axis, _), wanted in zip(old, np.unravel_index(flat, sizes), strict=True):
        index = found[axis]
        value = sum((s * np.arange(length) for _, s in index.terms), np.zeros(length, int))
        value = (value + index.offset) // index.divide
        assert (value % index.modulo if index.modulo else value).tolist() == wanted.tolist()


# ---------------------------------------------------------------- what is nothing at all


def test_transpose_squeeze_and_expand_are_nothing() -> None:
    inputs = given_inputs((2, 3))
    x = inputs[0][0].transpose([1, 0]).unsqueeze([1]).expand([3, 5, 2])

    assert text(inputs, x) == "x0[a b]"
    assert values(inputs, x).shape == (3, 5, 2)


def test_heads_split_off_a_width_are_two_axes_of_the_weight() -> None:
    """(s, d) x (d, heads * width), then a reshape: the weight has axes d, heads and width."""
    inputs = given_inputs((3, 4), (4, 6))
    x = inputs[0][0].matmul(inputs[1][0]).reshape((3, 2, 3)).transpose([1, 0, 2])

    assert text(inputs, x) == "dot(x0[a b], x1[b c d], over=b)"


def test_queries_and_keys_of_one_tensor_get_two_names() -> None:
    inputs = given_inputs((3, 4))
    x = inputs[0][0]

    assert text(inputs, x.matmul(x.transpose([1, 0]))) == (
        "dot(x0[a b], view(x0[a b], a=c), over=b)"
    )


def test_an_even_slice_reads_a_part_at_a_number() -> None:
    inputs = given_inputs((2, 6))

    assert text(inputs, inputs[0][0].slice(1, 2, 4)) == "view(x0[a b c], b=1)"


def test_halves_that_are_joined_again_are_a_stack() -> None:
    """Rotary positions: (-second half, first half)."""
    inputs = given_inputs((2, 6))
    x = inputs[0][0]
    turned = concat([x.slice(1, 3, 6).map("negate"), x.slice(1, 0, 3)], 1)

    assert text(inputs, x + turned) == (
        "add(x0[a b c], stack(negate(view(x0[a b c], b=1)), view(x0[a b c], b=0), b))"
    )


def test_a_tensor_added_to_its_transpose_is_renamed_in_one_view() -> None:
    inputs = given_inputs((3, 3))
    x = inputs[0][0]

    assert text(inputs, x + x.transpose([1, 0])) == "add(x0[a b], view(x0[a b], b=a, a=b))"


def test_every_use_of_a_constant_has_axes_of_its_own() -> None:
    """One bias for two layers of equal width does not tie their axes."""
    inputs = given_inputs((2, 3), (4, 3))
    bias = from_array(np.arange(3, dtype=np.float32), "bias")
    a, b = (tensor + bias for tensor, _ in inputs)

    assert text(inputs, a.matmul(b.transpose([1, 0]))) == (
        "dot(add(x0[a b], bias[b]), add(x1[c b], bias[b]), over=b)"
    )


def test_a_constant_loses_the_axes_on_which_it_does_not_depend() -> None:
    inputs = given_inputs((2, 3))
    mask = from_array(np.tile(np.arange(3, dtype=np.float32), (2, 1)), "mask")

    assert text(inputs, inputs[0][0] + mask) == "add(x0[a b], mask[b])"


def test_a_causal_mask_is_a_comparison_of_positions() -> None:
    inputs = given_inputs((4, 4))
    mask = from_array(np.triu(np.full((4, 4), -np.inf, np.float32), 1), "mask")

    assert text(inputs, inputs[0][0] + mask) == (
        "add(x0[a b], where(greater_equal(position(a), position(b)), 0.0, -inf))"
    )


def test_a_tall_constant_is_not_compared_with_a_mask() -> None:
    """A square of so many positions would need a terabyte."""
    inputs = given_inputs((1 << 20, 1))
    table = from_array(np.arange(1 << 21, dtype=np.float32).reshape(-1, 2), "table")

    assert list(name_axes([inputs[0][0]], [inputs[0][0] + table]).weights) == ["table"]


def test_constants_fold_where_that_needs_no_more_memory() -> None:
    inputs = given_inputs((2, 3))
    small = from_array(np.arange(3, dtype=np.float32), "small")
    x = inputs[0][0] * (small * 2.0)
    named = name_axes([inputs[0][0]], [x])

    assert list(named.weights) == ["small.2"]
    assert named.weights["small.2"].load().tolist() == [0, 2, 4]
    np.testing.assert_allclose(values(inputs, x), inputs[0][1] * [0, 2, 4])


# ---------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("shape", "named", "positional"),
    [
        ((5,), lambda x: x.slice(0, None, None, -1), lambda x: x[::-1]),
        ((7,), lambda x: x.slice(0, 1, 6, 2), lambda x: x[1:6:2]),
        ((6,), lambda x: x.slice(0, 1, 6, 2), lambda x: x[1:6:2]),
        ((6,), lambda x: x.slice(0, 4, 1), lambda x: x[4:1]),
        ((2, 3), lambda x: x.pad(1, 1, 2, 9.0),
         lambda x: np.pad(x, ((0, 0), (1, 2)), constant_values=9)),
        ((1, 3), lambda x: x.pad(0, 1, 0, 9.0),
         lambda x: np.pad(x, ((1, 0), (0, 0)), constant_values=9)),
        ((2, 3), lambda x: x.expand((4, 2, 3)).reduce("sum", [0]), lambda x: 4 * x),
        ((2, 3), lambda x: x.expand((2, 2, 3)).reduce("product", [0]), lambda x: x * x),
        ((2, 6), lambda x: x.reshape((2, 2, 3)).reshape((2, 6)).argmax(1), lambda x: x.argmax(1)),
        ((2, 6), lambda x: x + x.reshape((2, 3, 2)).transpose([0, 2, 1]).reshape((2, 6)),
         lambda x: x + x.reshape(2, 3, 2).transpose(0, 2, 1).reshape(2, 6)),
        ((2, 3, 2), lambda x: x.reshape((3, 4)).reshape((2, 6)), lambda x: x.reshape(2, 6)),
        ((6, 4), lambda x: x.reshape((4, 6)).matmul(x), lambda x: x.reshape(4, 6) @ x),
        ((5,), lambda x: x + position(5).cast("f32"), lambda x: x + np.arange(5)),
        ((3, 2), lambda x: x.gather(from_array(np.array([2, 0, -1])), 0), lambda x: x[[2, 0, 2]]),
        ((4, 2), lambda x: concat([x.slice(0, 0, 1), x.slice(0, 1, 4), x], 0),
         lambda x: np.vstack([x, x])),
    ],
)  # fmt: skip
def test_an_operation_gives_what_numpy_gives(
    shape: tuple[int, ...],
    named: Callable[[Tensor], Tensor],
    positional: Callable[[Array], Array],
) -> None:
    inputs = given_inputs(shape)
    wanted = positional(inputs[0][1])
    found = values(inputs, named(inputs[0][0]))

    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_a_scan_carries_what_no_step_changes_as_a_state() -> None:
    """The factor is computed outside, once."""
    inputs = given_inputs((4, 2), (2,))
    (x, x_values), (y, y_values) = inputs
    factor = y.map("exp")

    def step(
        states: Sequence[Tensor], slices: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        total = states[0] * factor + slices[0]
        return [total], [total]

    _, (sums,) = scan(step, [y * 0.0], [x], reverse=True)

    wanted, total = np.zeros((4, 2)), np.zeros(2)
    for row in reversed(range(4)):
        total = total * np.exp(y_values) + x_values[row]
        wanted[row] = total
    assert "scan1.kept0" in text(inputs, sums)
    np.testing.assert_allclose(values(inputs, sums), wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: x.reshape((4, 2)), "cannot reshape (2, 3) to (4, 2)"),
        (lambda x: x + from_array(np.zeros(2)), "shapes (2, 3) and (2,) do not broadcast"),
        (lambda x: x.matmul(x), "shapes (2, 3) and (2, 3) do not fit: 2 meets 3"),
        (lambda x: x.transpose([0, 0]), "an order must name each of 2 dimensions, not [0, 0]"),
        (lambda x: x.slice(2, 0, 1), "dimension must be -2 to 1, not 2"),
        (lambda x: x.slice(0, 0, 1, 0), "the step of a slice must not be 0"),
        (lambda x: x.squeeze([0]), "dimension 0 of (2, 3) must be 1 to be squeezed"),
        (lambda x: x.gather(from_array(np.array([0, 2])), 0), "index must be -2 to 1, not 2"),
        (lambda x: x.gather(x, 0), "an index must be integers, not f32"),
        (lambda x: x.integers("shape"), "shape must be a constant"),
    ],
)
def test_what_does_not_fit_is_refused(make: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.raises(ModelError) as error:
        make(outer("x", "f32", (2, 3)))

    assert str(error.value) == message


# ---------------------------------------------------------------- random chains


@dataclass
class Both:
    """A tensor and the array that it stands for."""

    tensor: Tensor
    array: Array


def factorised(size: int, data: Any) -> list[int]:
    """Some sizes with this product."""
    sizes: list[int] = []
    while size > 1 and len(sizes) < 4:
        factor = data.draw(st.sampled_from([n for n in range(1, size + 1) if size % n == 0]))
        sizes.append(factor)
        size //= factor
    return [*sizes, size]


def changed(x: Both, data: Any) -> Both:
    """One random operation on both."""
    shape = x.array.shape
    kind = data.draw(st.sampled_from(["reshape", "transpose", "slice", "concat", "matmul", "add"]))
    if kind == "reshape":
        new = factorised(x.array.size, data)
        return Both(x.tensor.reshape(new), x.array.reshape(new))
    if kind == "transpose":
        order = data.draw(st.permutations(range(len(shape))))
        return Both(x.tensor.transpose(order), x.array.transpose(order))
    dim = data.draw(st.integers(0, len(shape) - 1)) if shape else 0
    if kind == "slice" and shape:
        start = data.draw(st.integers(0, shape[dim] - 1))
        stop = data.draw(st.integers(start + 1, shape[dim]))
        step = data.draw(st.integers(1, 3))
        cut = (slice(None),) * dim + (slice(start, stop, step),)
        return Both(x.tensor.slice(dim, start, stop, step), x.array[cut])
    if kind == "concat" and shape and x.array.size < 200:
        half = (slice(None),) * dim + (slice(0, data.draw(st.integers(1, shape[dim]))),)
        part = Both(x.tensor.slice(dim, 0, half[dim].stop), x.array[half])
        order = data.draw(st.permutations([x, part]))
        joined = np.concatenate([both.array for both in order], dim)
        return Both(concat([both.tensor for both in order], dim), joined)
    if kind == "matmul" and len(shape) >= 2:
        turned = np.swapaxes(x.array, -1, -2)
        order = [*range(len(shape) - 2), len(shape) - 1, len(shape) - 2]
        product = x.tensor.matmul(x.tensor.transpose(order))
        return Both(product * 0.25, x.array @ turned * 0.25)
    same = [d for d in range(len(shape)) if shape.count(shape[d]) > 1]
    if kind == "add" and len(same) >= 2:
        a, b = same[0], next(d for d in same[1:] if shape[d] == shape[same[0]])
        order = list(range(len(shape)))
        order[a], order[b] = b, a
        return Both(x.tensor + x.tensor.transpose(order), x.array + x.array.transpose(order))
    return Both(x.tensor + x.tensor, x.array + x.array)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=3), st.data())
def test_random_chains_mean_the_same_by_number_and_by_name(shape: list[int], data: Any) -> None:
    inputs = given_inputs(tuple(shape))
    x = Both(inputs[0][0], inputs[0][1].astype(np.float64))
    for _ in range(data.draw(st.integers(1, 7))):
        x = changed(x, data)
    found = values(inputs, x.tensor)

    assert found.shape == x.array.shape
    scale = max(1.0, float(np.abs(x.array).max()))
    np.testing.assert_allclose(found / scale, x.array / scale, atol=1e-4)
