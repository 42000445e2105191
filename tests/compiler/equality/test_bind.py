"""What the axes of an instruction may stand for in a cone."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from infinisa.compiler.equality.bind import bindings, kinds, may_bind
from infinisa.compiler.equality.local import Local, leaves_first, localised
from infinisa.isa import formulas
from infinisa.isa.language import Input, Node, dot, exp, position, sum, view

A, B = Input("a", ("m", "k")), Input("b", ("k", "n"))
MATMUL = dot(A, B, "k"), [A, B]
ROW = Input("row", ("m", "n"))
TOTAL = sum(ROW, "n"), [ROW]

Computation = tuple[Node, Sequence[Node]]


def local(computation: Computation) -> Local:
    root, leaves = computation
    found = localised(root, leaves, list(leaves_first(root, leaves)))
    assert found is not None
    return found


def bound(cone: Computation, instruction: Computation, accepts: str = "") -> list[str]:
    """The ways to read a cone, as text: leaves, the instruction's axes, loops. A row of `accepts`
    for each operand: y where it takes the type of the leaf."""
    one, other = local(cone), local(instruction)
    count = len(other.leaves)
    takes = [[letter == "y" for letter in row] for row in accepts.split()]
    takes = takes or [[True] * count for _ in range(count)]
    found = []
    for way in bindings(one.roles, one.root.axes, other.roles, takes):
        axes = [
            f"{other.axes[ours]}={'+'.join(one.axes[axis] for axis in theirs)}"
            for ours, theirs in way.axes.items()
        ]
        loops = ["loops", *(one.axes[axis] for axis in way.loops)] if way.loops else []
        leaves = "".join(one.leaves[n].name[1:] for n in way.leaves)
        found.append(" ".join([leaves, *axes, *loops]))
    return found


def test_a_product_is_read_in_both_orders() -> None:
    q, k = Input("q", ("s", "d")), Input("k", ("t", "d"))

    assert bound((dot(q, k, "d"), [q, k]), MATMUL) == ["01 m=s k=d n=t", "10 m=t k=d n=s"]


def test_an_operand_takes_what_its_type_accepts() -> None:
    q, k = Input("q", ("s", "d")), Input("k", ("t", "d"))

    assert bound((dot(q, k, "d"), [q, k]), MATMUL, "ny yn") == ["10 m=t k=d n=s"]
    assert bound((dot(q, k, "d"), [q, k]), MATMUL, "yn yn") == []


def test_an_axis_of_all_leaves_and_the_result_is_a_loop() -> None:
    q, k = Input("q", ("h", "s", "d")), Input("k", ("h", "t", "d"))

    assert bound((dot(q, k, "d"), [q, k]), MATMUL) == [
        "01 m=s k=d n=t loops h",
        "10 m=t k=d n=s loops h",
    ]


def test_several_axes_stand_for_one() -> None:
    """In the order of the result."""
    q, k = Input("q", ("r", "s", "d", "e")), Input("k", ("t", "d", "e"))

    assert bound((dot(q, k, "d e"), [q, k]), MATMUL)[0] == "01 m=r+s k=d+e n=t"


def test_an_axis_of_the_instruction_may_stand_for_nothing() -> None:
    q, vector = Input("q", ("s", "d")), Input("vector", ("d",))

    assert bound((dot(q, vector, "d"), [q, vector]), MATMUL)[0] == "01 m=s k=d n="


def test_an_operand_may_lack_an_axis() -> None:
    """A mask for all queries: its role is that with the fewest more operands."""
    q, k, v = Input("q", ("s", "d")), Input("k", ("t", "d")), Input("v", ("t", "e"))
    mask, row = Input("mask", ("s", "t")), Input("mask", ("t",))

    def masked(mask: Node) -> Computation:
        return formulas.attend(dot(q, k, "d") + mask, v, "t"), [q, k, v, mask]

    assert bound(masked(row), masked(mask))[0] == "0123 s=s d=d t=t e=e"
    assert "0123 s=s d=d t=t e=e" not in bound(masked(mask), masked(row))


def test_what_is_reduced_must_be_reduced() -> None:
    column = Input("column", ("n",))

    assert bound((ROW * column, [ROW, column]), MATMUL) == []
    assert bound((exp(ROW), [ROW]), TOTAL) == []
    assert bound(TOTAL, TOTAL) == ["0 m=m n=n"]


def test_an_axis_that_is_computed_with_stands_for_one() -> None:
    """Positions count along one axis, whatever else is in the leaf."""
    x, wide = Input("x", ("m",)), Input("x", ("s", "m"))
    counted: Computation = x * position("m"), [x]

    assert bound((x * position("m"), [x]), counted) == ["0 m=m"]
    assert bound((wide * position("m"), [wide]), counted) == ["0 m=m loops s"]
    assert bound((wide * position("m") * position("s"), [wide]), counted) == []


def test_axes_of_one_role_are_tried_in_each_order() -> None:
    """Rows and columns of a window differ by nothing but what is done with them."""
    image = Input("image", ("y", "x"))
    first: Computation = view(image, {"y": "2*i", "x": "3*j"}), [image]
    second: Computation = view(image, {"x": "2*k", "y": "3*l"}), [image]

    ways = {way.split(maxsplit=1)[1] for way in bound(second, first)}

    assert {"i=k", "j=l"} < {part for way in ways for part in way.split()}
    assert len(ways) == 4


@pytest.mark.parametrize(
    ("cone", "instruction"),
    [
        (MATMUL, MATMUL),
        (TOTAL, TOTAL),
        (TOTAL, MATMUL),
        (MATMUL, TOTAL),
        ((exp(ROW), [ROW]), TOTAL),
        ((dot(A, Input("c", ("k",)), "k"), [A, Input("c", ("k",))]), MATMUL),
    ],
)
def test_the_cheap_answer_is_no_only_where_nothing_binds(
    cone: Computation, instruction: Computation
) -> None:
    one, other = local(cone), local(instruction)
    fits = len(one.leaves) == len(other.leaves) and bool(bound(cone, instruction))

    assert may_bind(kinds(one.roles), kinds(other.roles)) or not fits


def test_the_cheap_answer_is_no_for_most() -> None:
    assert may_bind(kinds(local(MATMUL).roles), kinds(local(MATMUL).roles))
    assert not may_bind(kinds(local(TOTAL).roles), kinds(local((exp(ROW), [ROW])).roles))
    assert not may_bind(kinds(local((exp(ROW), [ROW])).roles), kinds(local(TOTAL).roles))
