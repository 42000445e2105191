"""Which loops calls share."""

import pytest

from benchmarks import _layers as layers
from benchmarks._handmade import Handmade
from infinisa.compiler.calls import Call
from infinisa.compiler.schedule.nest import may_share, nest
from infinisa.isa.instruction import Instruction
from infinisa.isa.machine import builtin_machine_files, load_machine
from infinisa.plugins.families import attention, elementwise, linear, normalization

FAMILIES = (attention, elementwise, linear, normalization)
LIBRARY: dict[str, Instruction] = {
    made.name: made for family in FAMILIES for made in family.infinisa_instructions()
}
(TINY,) = (load_machine(file) for file in builtin_machine_files() if file.stem == "tiny")


def calls_of_llama() -> dict[str, Call]:
    covered = layers.llama(TINY, LIBRARY, 11, 20, 5, 26)
    return {access.tensor: call for call in covered.calls for access in call.writes}


@pytest.mark.parametrize(
    ("first", "second", "axis", "legal"),
    [
        ("xn", "q0", "s", True),  # a row of the norm is all that a row of q needs
        ("xn", "v0", "s", False),  # but v has the axis t: it needs every row of the norm
        ("g0", "g", "f", True),
        ("g", "z0", "f", True),  # accumulated over f, piece by piece
        ("q0", "v0", "h", True),  # they have nothing in common
        ("a", "y0", "h", True),
        ("z0", "z", "d", True),
        ("z0", "z", "f", False),  # z0 is finished only after all of f
    ],
)
def test_a_loop_is_shared_if_it_cuts_what_is_passed_on_alike(
    first: str, second: str, axis: str, legal: bool
) -> None:
    calls = calls_of_llama()

    assert may_share(calls[first], calls[second], axis) == legal


def test_the_halo_of_a_convolution_cannot_share_its_rows() -> None:
    relu, second = layers.resnet(TINY, LIBRARY, 7, 6).calls[1:3]

    assert not may_share(relu, second, "p")
    assert may_share(relu, second, "o")


def test_a_scan_shares_its_axis_whatever_it_passes_on() -> None:
    _, product, cell = layers.lstm(TINY, LIBRARY, 9, 2, 10).calls

    assert may_share(product, cell, "t")
    assert may_share(cell, product, "t")
    assert not may_share(product, cell, "k")


def test_scans_of_opposite_direction_share_nothing() -> None:
    calls = layers.bigru(TINY, LIBRARY, 9, 2, 10).calls

    assert may_share(calls[1], calls[2], "t")
    assert not may_share(calls[2], calls[4], "t")


def test_the_tree_merges_the_outermost_loops_of_neighbours() -> None:
    g = Handmade("main", TINY, LIBRARY, {"s": 40, "d": 50, "f": 60})
    for name, dims in (("x", "s d"), ("w", "d f"), ("h", "s f"), ("y", "s f")):
        g.tensor(name, dims)
    g.call("matmul.step", "m=s k=d n=f", ["x[s d]", "w[d f]"], ["h[s f]"])
    g.call("gelu_tanh", "m=s,f", ["h[s f]"], ["y[s f]"])

    tree = nest(g.covered().calls, ("s", "d", "f"))

    assert tree.paths == (("s", "d", "f"), ("s", "f"))
    assert tree.runs == (((0, 2), (0, 2), (0, 1), (0, 1)), ((0, 2), (0, 2), (1, 2)))
    assert tree.common([0, 1]) == 1
    assert tree.pinned(0) == 1  # the product lives outside the loop that accumulates it
    assert tree.pinned(1) == 2
