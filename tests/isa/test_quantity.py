"""Numbers with units: exact both ways, and clear about what they must be."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infinisa.isa.quantity import ENERGY, FREQUENCY, POWER, RATE, SIZE, Quantity


@pytest.mark.parametrize(
    ("quantity", "text", "value"),
    [
        (SIZE, "1 MiB", 1 << 20),
        (SIZE, "64KiB", 65_536),
        (SIZE, "1.5 KiB", 1536),
        (SIZE, "2 kB", 2000),
        (RATE, "34 GB/s", 34_000_000_000),
        (RATE, "25.6 GB/s", 25_600_000_000),
        (RATE, "0 B/s", 0),
        (FREQUENCY, "700 MHz", 700_000_000),
    ],
)
def test_a_text_reads_as_whole_base_units(quantity: Quantity, text: str, value: int) -> None:
    assert quantity.read_whole(text) == value


@pytest.mark.parametrize(
    ("quantity", "value", "text"),
    [
        (SIZE, 24 << 20, "24 MiB"),
        (SIZE, 1000, "1000 B"),
        (RATE, 25_600_000_000, "25600 MB/s"),
        (RATE, 0, "0 B/s"),
        (FREQUENCY, 1_000_000_000, "1 GHz"),
        (ENERGY, 0.115, "0.115 pJ"),
    ],
)
def test_a_value_is_written_in_the_largest_unit_that_divides_it(
    quantity: Quantity, value: int | float, text: str
) -> None:
    assert quantity.write(value) == text


@pytest.mark.parametrize("text", ["fast", "34", "34 GB", "-1 GB/s", "1e9999 B/s", "GB/s", 34, None])
def test_what_is_no_rate_is_told_what_a_rate_looks_like(text: object) -> None:
    with pytest.raises(ValueError) as error:
        RATE.read(text)

    assert str(error.value) == f"must be a rate such as '34 GB/s', not {text!r}"


def test_half_a_byte_is_refused() -> None:
    with pytest.raises(ValueError) as error:
        SIZE.read_whole("0.5 B")

    assert str(error.value) == "must be a whole number of B, not '0.5 B'"


def test_what_no_float_holds_is_refused() -> None:
    with pytest.raises(ValueError) as error:
        ENERGY.read_float("1e999 pJ")

    assert str(error.value) == "must be an energy such as '0.2 pJ', not '1e999 pJ'"


def test_small_energies_are_exact() -> None:
    assert ENERGY.read("30 fJ") == Fraction(3, 100)


@given(st.sampled_from([SIZE, RATE, FREQUENCY]), st.integers(0, 1 << 60))
def test_whole_numbers_survive_writing_and_reading(quantity: Quantity, value: int) -> None:
    assert quantity.read_whole(quantity.write(value)) == value


@given(st.sampled_from([ENERGY, POWER]), st.floats(0, 1e30))
def test_floats_survive_writing_and_reading(quantity: Quantity, value: float) -> None:
    assert quantity.read_float(quantity.write(value)) == value
