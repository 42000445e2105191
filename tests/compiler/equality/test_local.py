"""Equal computations are one expression under names of their own."""

from __future__ import annotations

from collections.abc import Sequence

from infinisa.compiler.equality.local import Local, Role, carried, leaves_first, localised
from infinisa.isa import formulas
from infinisa.isa.language import (
    Input,
    Node,
    argmax,
    cast,
    dot,
    exp,
    gather,
    position,
    rename,
    size,
    stack,
    sum,
    view,
)

X, W = Input("x", ("m", "n")), Input("w", ("n", "k"))


def local(root: Node, *leaves: Node, split: bool = True) -> Local:
    found = localised(root, leaves, list(leaves_first(root, leaves)), split=split)
    assert found is not None
    return found


def form(root: Node, *leaves: Node) -> str:
    return str(local(root, *leaves).root)


def roles(root: Node, *leaves: Node) -> Sequence[Role]:
    return list(local(root, *leaves).roles.values())


def test_inputs_and_axes_are_numbered_as_they_are_met() -> None:
    found = local(dot(X, W, "n") + Input("b", ("k",)), X, W, Input("b", ("k",)))

    assert str(found.root) == ("add(dot(x0[a0 a1: f64], x1[a1 a2: f64], over=a1), x2[a2: f64])")
    assert found.axes == {"a0": "m", "a1": "n", "a2": "k"}
    assert found.nodes[W] == found.leaves[1]


def test_names_outside_change_nothing() -> None:
    other, weight = Input("rows", ("s", "d")), Input("weight", ("d", "v"))

    assert local(dot(X, W, "n"), X, W).root is local(dot(other, weight, "d"), other, weight).root


def test_a_renaming_is_no_computation() -> None:
    renamed = rename(exp(X), {"n": "j"})

    assert form(sum(renamed, "j"), X) == form(sum(exp(X), "n"), X)
    assert local(renamed, X).axes == {"a0": "m", "a1": "j"}  # as the result has it


def test_an_axis_ends_where_it_is_reduced() -> None:
    """The n that is summed is not the n of the result, unless the leaf joins them."""
    total = sum(X, "n") * Input("y", ("n",))

    assert form(total, X, Input("y", ("n",))) == (
        "multiply(sum(x0[a0 a1: f64], over=a1), x1[a2: f64])"
    )
    assert form(X - sum(X, "n"), X) == "subtract(x0[a0 a1: f64], sum(x0[a0 a1: f64], over=a1))"


def test_without_splitting_a_name_is_one_axis() -> None:
    leaves = X, Input("y", ("n",))
    total = sum(X, "n") * leaves[1]

    assert str(local(total, *leaves, split=False).root) == (
        "multiply(sum(x0[a0 a1: f64], over=a1), x1[a1: f64])"
    )


def test_parts_of_one_tensor_have_axes_of_their_own() -> None:
    """Keys and values are the same rows: their widths and positions have names for each role."""
    q, k, v = (view(Input("joint", ("z", "s", "d")), {"z": n}) for n in range(3))
    k, v = rename(k, {"s": "t"}), rename(v, {"s": "t"})
    other = Input("q", ("s", "d")), Input("k", ("t", "d")), Input("v", ("t", "e"))

    own = local(formulas.attend(dot(q, k, "d"), v, "t"), q, k, v)
    plain = local(formulas.attend(dot(other[0], other[1], "d"), other[2], "t"), *other)

    assert own.root is plain.root
    assert [leaf.axes for leaf in own.leaves] == [("a0", "a1"), ("a2", "a1"), ("a2", "a3")]


def test_a_value_with_one_axis_twice_has_no_form() -> None:
    """x[m] * x[n] is a square of positions: one leaf, read along two axes."""
    row = Input("row", ("m",))
    outer = row * rename(row, {"m": "n"})

    assert localised(outer, [row], list(leaves_first(outer, [row]))) is None
    assert localised(outer, list(outer.children), [outer]) is not None


def test_a_part_of_a_longer_axis_is_no_renaming() -> None:
    part = view(Input("cache", ("c", "d")), {"c": "t"})

    assert carried(part, lambda a, b: True) == {"c": "t"}
    assert carried(part, lambda a, b: False) == {"c": None}


def test_what_operations_do_to_axes() -> None:
    window = view(X, {"n": "2*i + j"})
    index = argmax(X, "n")

    assert carried(window, lambda a, b: True) == {"n": None}
    assert carried(index, lambda a, b: True) == {"n": None}
    assert carried(gather(W, index, "n"), lambda a, b: True) == {"n": None}
    assert carried(exp(X), lambda a, b: True) == {}


def test_casts_between_floats_are_gone_and_others_stay() -> None:
    narrow = Input("x", ("m",), "bf16")

    assert form(cast(exp(cast(narrow, "f32")), "bf16"), narrow) == "exp(x0[a0: f64])"
    assert form(cast(narrow, "i8"), narrow) == "cast(x0[a0: f64], i8)"


def test_roles() -> None:
    """m: in the first operand and the result; n: in both, ended; k: in the second, result."""
    assert roles(dot(X, W, "n"), X, W) == [
        Role(0b01, True, False, False),
        Role(0b11, False, True, False),
        Role(0b10, True, False, False),
    ]
    assert roles(sum(X, "m") + X, X)[0] == Role(1, True, True, False)


def test_axes_that_are_computed_with_are_indexed() -> None:
    row = Input("row", ("m",))

    assert [role.indexed for role in roles(row * position("m"), row)] == [True]
    assert [role.indexed for role in roles(row * size("m"), row)] == [False]
    assert [role.indexed for role in roles(stack([row, row], "p"), row)] == [False, True]
    assert [role.indexed for role in roles(argmax(X, "n"), X)] == [False, True]


def test_an_axis_that_is_only_in_the_result_may_be_a_loop() -> None:
    loop, ended, indexed = (
        Role(1, True, False, False),
        Role(1, False, True, False),
        Role(1, True, False, True),
    )

    assert loop.kind == Role.LOOP
    assert Role.LOOP not in (ended.kind, indexed.kind)
    assert len({role.kind for role in (loop, ended, indexed)}) == 3


def test_lengths_are_those_of_axes_inside() -> None:
    assert form(sum(X, "n") / size("n"), X) == ("divide(sum(x0[a0 a1: f64], over=a1), size(a1))")
