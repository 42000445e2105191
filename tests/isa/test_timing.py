"""Timing expressions: integers, in which a part of a cycle is a cycle."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from infinisa.isa.errors import LanguageError
from infinisa.isa.timing import Timing, ceil_divide


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
