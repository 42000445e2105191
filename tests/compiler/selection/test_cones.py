"""Which cones a value has: what is inside, what is outside, in which order."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from infinisa.compiler.equality.surroundings import Surroundings
from infinisa.compiler.selection.cones import MOST_CUTS, Cone, Cones, seen_through
from infinisa.isa.language import (
    Constant,
    Input,
    Node,
    argmax,
    cast,
    dot,
    exp,
    gather,
    max,
    position,
    rename,
    scan,
    sum,
    tanh,
    update,
    where,
)
from infinisa.isa.program import Count, Extent

X, Y, Z = (Input(name, ("m", "n")) for name in "xyz")
W = Input("w", ("n", "k"))
EXTENTS = [Extent(axis, Count(6), 6) for axis in "mnkij"]


def finder(
    *roots: Node,
    widest: int = 3,
    again: int = 1,
    feature: Callable[[Node], int] = lambda node: 0,
    room: Callable[[int], int] = lambda features: 10,
    truths: Callable[[int], bool] = lambda features: True,
) -> Cones:
    return Cones(Surroundings.of(roots, EXTENTS), widest, again, feature, room, truths)


def under(cones: Cones, root: Node) -> list[Cone]:
    return list(cones.under(root, lambda leaves, features: True))


def leaves(*roots: Node, widest: int = 3, again: int = 1) -> list[str]:
    """The leaves of each cone of the first root."""
    cones = under(finder(*roots, widest=widest, again=again), roots[0])
    return [", ".join(map(str, cone.leaves)) for cone in cones]


def test_cones_with_few_leaves_come_first_and_of_these_the_largest() -> None:
    """The cone down to x and y is met before the ones with three leaves, which are smaller."""
    root = exp(X) * (X + Y)

    sizes = [(len(cone.leaves), len(cone.inner)) for cone in under(finder(root), root)]

    assert sizes == [(2, 1), (2, 2), (2, 3), (3, 2)]


def test_the_nodes_of_a_cone_come_operands_first() -> None:
    """In the order of what they are computed from, not in that in which they are met."""
    low = exp(X)
    high = tanh(low)
    root = high + low

    (whole,) = (cone for cone in under(finder(root), root) if cone.leaves == (X,))

    assert whole.inner == (low, high, root)


def test_a_value_with_users_outside_is_a_leaf() -> None:
    shared = exp(X)

    assert leaves(tanh(shared)) == ["exp(x[m n])", "x[m n]"]
    assert leaves(tanh(shared), shared + Y, again=0) == ["exp(x[m n])"]


def test_as_many_values_may_be_needed_outside_as_are_allowed() -> None:
    """The cone says which."""
    inner = exp(X)
    outer = tanh(inner)
    root = outer + Y
    others = [inner * 2.0, outer * 2.0]

    exposed = {
        count: {frozenset(cone.exposed) for cone in under(finder(root, *others, again=count), root)}
        for count in range(3)
    }

    none, one, both = frozenset[Node](), frozenset([outer]), frozenset([inner, outer])
    assert exposed == {0: {none}, 1: {none, one}, 2: {none, one, both}}


def test_no_leaf_may_need_what_the_cone_yields_besides() -> None:
    """tanh(total) as a leaf would need the total that the same cone yields."""
    total = X + Y
    root = tanh(total) * total

    cones = under(finder(root), root)

    assert all(not (total in cone.exposed and tanh(total) in cone.leaves) for cone in cones)
    assert any(total in cone.inner for cone in cones)


def test_a_renaming_is_no_leaf_but_what_it_renames() -> None:
    """Others may rename that too; where it is computed inside, they need it from the cone."""
    shared = rename(exp(X), {"n": "j"})
    root, other = tanh(shared), shared * 2.0

    assert leaves(root, other, again=0) == ["exp(x[m n])"]
    assert leaves(root, other, again=1) == ["exp(x[m n])", "x[m n]"]
    exposed = [set(cone.exposed) for cone in under(finder(root, other), root)]
    assert exposed == [set(), {shared}]


def test_a_condition_on_positions_is_a_leaf_only_for_who_reads_one() -> None:
    mask = position("m") >= position("n")
    root = where(mask, X, 0.0)

    assert f"{mask}, x[m n]" in leaves(root)
    hidden = finder(root, truths=lambda features: False)
    assert [cone.leaves for cone in under(hidden, root)] == [(X,)]


def test_values_of_no_tensor_are_computed_again() -> None:
    mask = position("m") >= position("n")
    root = where(mask, X, 0.0)

    assert "x[m n]" in leaves(root, where(mask, Y, 0.0), again=0)
    compared = X >= Y
    others = leaves(where(compared, X, 0.0), where(compared, Y, 0.0), again=0)
    assert others == ["greater_equal(x[m n], y[m n]), x[m n]"]


def test_casts_between_floats_are_seen_through() -> None:
    narrow = cast(exp(cast(X, "f64")), "bf16")

    assert seen_through(narrow) == exp(cast(X, "f64"))
    assert seen_through(cast(X, "i8")) == cast(X, "i8")
    assert leaves(tanh(narrow)) == ["exp(cast(x[m n], f64))", "x[m n]"]


def test_a_sum_of_three_may_be_grouped_in_any_way() -> None:
    root = (X + Y) + Z
    cones = finder(root)

    pairs = {frozenset(cone.leaves) for cone in under(cones, root) if len(cone.leaves) == 2}

    assert pairs == {frozenset((a, b + c)) for a, b, c in ((Z, X, Y), (Y, X, Z), (X, Y, Z))}
    assert cones.sums[X + Z] is root


def test_a_sum_that_others_need_is_one_term() -> None:
    part = X + Y

    assert leaves(part + Z, part * 2.0, again=0) == ["add(x[m n], y[m n]), z[m n]"]


@pytest.mark.parametrize(
    "inside",
    [
        X,
        update(X, exp(Y), {}),
        scan(lambda h, x: ([h + x], [h]), {"h": sum(X, "m")}, {"x": Y}, "m")[1][0],
    ],
)
def test_nothing_goes_into_what_is_no_computation(inside: Node) -> None:
    """Tensors, writes into tensors, recurrences."""
    assert leaves(tanh(inside)) == [str(inside)]


def test_contractions_and_look_ups_read_all_of_their_leaves() -> None:
    index = argmax(Input("scores", ("i", "j")), "j")

    assert leaves(dot(X, W, "n")) == ["x[m n], w[n k]"]
    assert leaves(gather(W, index, "n")) == [
        "w[n k], argmax(scores[i j], over=j)",
        "w[n k], scores[i j]",
    ]


def test_a_leaf_counts_once() -> None:
    """The row that is renamed, and the row itself."""
    assert leaves(X - max(rename(X, {"n": "j"}), "j"))[-1] == "x[m n]"


def test_no_cone_has_more_leaves_than_any_instruction_has_operands() -> None:
    root = tanh(X) * exp(Y) + Z

    assert max_leaves(root, widest=2) == 2
    assert max_leaves(root, widest=3) == 3


def max_leaves(root: Node, widest: int) -> int:
    return sorted(len(cone.leaves) for cone in under(finder(root, widest=widest), root))[-1]


def test_a_cone_with_features_that_no_instruction_has_is_not_made() -> None:
    """Nothing under an exponential, where none is able to have one."""

    def exponential(node: Node) -> int:
        return int(str(node).startswith("exp("))

    root = tanh(exp(tanh(X)))
    cones = finder(root, feature=exponential, room=lambda features: 0 if features else 10)

    assert [cone.leaves for cone in under(cones, root)] == [(exp(tanh(X)),)]


def test_only_wanted_cones_are_made() -> None:
    root = tanh(X) * exp(Y) + Z
    asked: list[int] = []

    def wanted(width: int, features: int) -> bool:
        asked.append(width)
        return width == 3

    cones = list(finder(root).under(root, wanted))

    assert {len(cone.leaves) for cone in cones} == {3}
    assert set(asked) == {2, 3}


def test_a_search_that_is_cut_off_is_known() -> None:
    """A chain of sums and products has more cones than are looked at."""
    deep: Node = X
    for n in range(40):
        deep = tanh(deep) * Input(f"y{n}", ("m", "n")) + Constant(1.0 + n) * deep
    small = tanh(X) + Y
    cones = finder(deep, small, widest=8, again=3)

    assert len(under(cones, deep)) <= MOST_CUTS
    under(cones, small)
    assert cones.capped == {deep}
