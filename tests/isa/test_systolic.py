"""How long a systolic array takes for a product."""

from collections.abc import Mapping

import pytest

from benchmarks._dataflows import FORMS, shapes
from infinisa.isa.instance import issue_cycles
from infinisa.isa.machine import Unit
from infinisa.isa.program import Opcode
from infinisa.isa.systolic import product_cycles
from infinisa.plugins.families.linear import matmul

LIBRARY = {"matmul": matmul}


def array(dataflow: str, **attributes: int) -> Unit:
    given = {"rows": 4, "columns": 8, "depth": 64} | attributes
    return Unit(name="matrix", kind="matrix", dataflow=dataflow, attributes=given)


@pytest.mark.parametrize("dataflow", FORMS)
def test_a_product_alone_takes_what_the_closed_form_says(dataflow: str) -> None:
    """Whole products as one issue and as an issue a fold, on arrays of any size."""
    for shape in shapes(dataflow, 40, seed=1):
        assert shape.simulated(LIBRARY) == shape.expected, shape


@pytest.mark.parametrize(
    ("dataflow", "expected"),
    [("output", (20 * 9, 10)), ("weight", (12 * 20, 4 + 10)), ("input", (9 * 30, 4 + 10))],
)
def test_the_next_tile_comes_in_behind_the_present_one(
    dataflow: str, expected: tuple[int, int]
) -> None:
    """20 x 9 x 30 on 4 x 8: 5 x 4, 3 x 4 or 3 x 3 tiles, past which 9, 20 or 30 positions stream.
    What the first needs to come in (4) and the last to leave (10) is not on the array's time."""
    assert product_cycles(array(dataflow), 20, 9, 30) == expected


def test_a_short_stream_waits_for_the_next_tile_of_weights() -> None:
    """Two rows pass in 2 cycles, a tile of 4 rows takes 4: the array works for half of the time.
    The last tile, there after 4 cycles, streams for 2 and leaves in 10."""
    assert product_cycles(array("weight"), 2, 8, 8) == (2 * 4, 4 + 2 + 10 - 4)


def test_with_one_set_of_registers_tiles_do_not_overlap() -> None:
    assert product_cycles(array("weight", registers=1), 2, 8, 8) == (2 * (4 + 2 + 10), 0)


def test_an_array_to_which_operands_are_broadcast_has_no_skew() -> None:
    assert product_cycles(array("output", skew=0), 4, 9, 8) == (9, 0)


def test_stalls_inside_of_a_product_make_it_longer() -> None:
    """At 90 % of its speed, rounded up."""
    assert product_cycles(array("output", efficiency=90), 4, 9, 8) == (10, 10)


def test_operands_pass_at_a_limited_rate() -> None:
    """A row of 64 by 64 x 8: 64 multiply-adds deep, and (64 + 512 + 8) numbers of 4 bytes."""
    lengths = {"m": 1, "k": 64, "n": 8}

    assert cycles(array("output", operand_bytes=8), lengths) == (64 + 292, 64 + 292 + 10)


def cycles(unit: Unit, lengths: Mapping[str, int]) -> tuple[int, int]:
    opcode = Opcode("matmul", "matmul", "", unit.name, tuple((a, (a,)) for a in "mkn"))
    occupancy, latency = issue_cycles(matmul, opcode, unit, lengths)
    return int(occupancy), int(latency)
