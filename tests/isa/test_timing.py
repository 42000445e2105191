"""Timing expressions: integers, in which a part of a cycle is a cycle."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from infinisa.isa.errors import LanguageError
from infinisa.isa.timing import Timing, ceil_divide, timings


@given(some.integers(0, 10**12), some.integers(1, 10**6))
def test_a_quotient_rounds_up(a: int, b: int) -> None:
    found = Timing("a / b")({"a": a, "b": b})

    assert found * b >= a > (found - 1) * b
    assert found == ceil_divide(a, b)


@pytest.mark.parametrize(
    ("text", "cycles"),
    [
        ("m * n / lanes + 12", 7 * 5 // 4 + 1 + 12),
        ("m * n // lanes", 8),
        ("m % lanes", 3),
        ("(m + 1) * -n", -40),
        ("max(m, n, lanes) - min(m, 3)", 4),
        ("16", 16),
    ],
)
def test_an_expression_has_a_value(text: str, cycles: int) -> None:
    """m = 7, n = 5, four lanes."""
    assert Timing(text)({"m": 7, "n": 5, "lanes": 4, "more": 1}) == cycles


def test_an_expression_works_on_many_lengths_at_once() -> None:
    lengths = np.arange(1, 6)

    found = Timing("max(m / 2, 2) + min(m, 3)")({"m": lengths})

    assert found.tolist() == [2 + 1, 2 + 2, 2 + 3, 2 + 3, 3 + 3]


def test_an_expression_knows_its_names() -> None:
    assert Timing("m * n / min(lanes, m)").names == {"m", "n", "lanes"}
    assert Timing("3").names == frozenset()


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("m ** 2", "m ** 2"),
        ("m + 0.5", "0.5"),
        ("len(m)", "len(m)"),
        ("max(m)", "max(m)"),
        ("max(m, key=n)", "max(m, key=n)"),
        ("m.bit_length()", "m.bit_length()"),
        ("[m]", "[m]"),
        ("m if n else 2", "m if n else 2"),
        ("__import__('os')", "__import__('os')"),
    ],
)
def test_anything_but_integer_arithmetic_is_refused(text: str, part: str) -> None:
    with pytest.raises(LanguageError) as caught:
        Timing(text)

    assert str(caught.value) == (
        f"timing {text!r}: {part!r} must be integer arithmetic (+ - * / // % min max) over axes "
        "and attributes of the unit"
    )


def test_what_is_no_expression_is_refused() -> None:
    for text in ("m +", "", "m = 2"):
        with pytest.raises(LanguageError) as caught:
            Timing(text)
        assert str(caught.value) == f"timing {text!r} is not an expression"


def test_a_name_without_a_value_is_named() -> None:
    with pytest.raises(LanguageError) as caught:
        Timing("m * lanes")({"m": 2})

    assert str(caught.value) == "timing 'm * lanes': nothing is called 'lanes'"


def test_a_function_becomes_an_expression() -> None:
    """Local names are written out; two results are the occupancy and the latency."""

    def cycles(m: int, n: int, lanes: int) -> tuple[float, float]:
        """A row at a time."""
        row = n / lanes
        longer = max(row, 3)
        return m * longer, m * longer + 2 * (row - 1)

    assert timings(cycles, "here") == (
        Timing("m * max(n / lanes, 3)"),
        Timing("m * max(n / lanes, 3) + 2 * (n / lanes - 1)"),
    )


LANES = (1, 2)


def test_a_function_of_more_than_expressions_is_refused() -> None:
    def loop(m: int) -> int:
        for _ in range(m):
            pass
        return m

    def global_name(m: int) -> int:
        return m + len(LANES)

    def nothing(m: int) -> None:
        """Only text."""

    def power(m: int) -> int:
        half = m // 2
        return half**2

    for function, message in (
        (loop, "here: 'for _ in range(m):' must be an assignment to a name or the return"),
        (global_name, "here: 'LANES' must be a parameter or assigned before"),
        (nothing, "here: must return cycles"),
        (len, "here: its source must be in a file"),
        (
            power,
            "timing '(m // 2) ** 2': '(m // 2) ** 2' must be integer arithmetic (+ - * / // % min "
            "max) over axes and attributes of the unit",
        ),
    ):
        with pytest.raises(LanguageError) as caught:
            timings(function, "here")
        assert str(caught.value) == message
