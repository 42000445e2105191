"""How fast native code runs on this processor."""

import pytest

from infinisa.runtime import host
from infinisa.runtime.rates import (
    ELEMENTS,
    FUNCTIONS,
    PIECES,
    SHORT,
    STREAMS,
    TALL,
    TINY_ISSUES,
    Rates,
    fastest,
    measure,
)

M, K, N = 4, 264, 8
ENTER = 1e-6
STEP, SUM, FUNCTION, ISSUE = 1e-9, 5e-9, 2e-9, 3e-9
CACHE, MEMORY, NEAR = 4e9, 1e9, 8e9


def product(k: int) -> float:
    """Seconds of a product: operands from the cache, multiply-adds, sums."""
    operands = 4 * ((M + N) * k + M * N) / CACHE
    return ENTER + PIECES * (operands + M * N * (k * STEP + SUM))


def made(slower: float = 1.0) -> Rates:
    """What a processor of these rates takes; its last cache holds the three smaller matrices."""
    moving = 8 * ELEMENTS / NEAR
    seconds = {"enter": ENTER, "add": ENTER + moving, "issues": ENTER + TINY_ISSUES * ISSUE}
    seconds |= dict.fromkeys(FUNCTIONS, ENTER + moving + ELEMENTS * FUNCTION)
    seconds |= {"long": product(K), "short": product(SHORT)}
    for number, columns in enumerate(STREAMS):
        rate = CACHE if number < 3 else MEMORY
        seconds[f"read{columns}"] = ENTER + 4 * TALL * columns / rate
    return Rates((M, K, N), {name: slower * time for name, time in seconds.items()})


def test_rates_are_found_again() -> None:
    rates = made()

    assert rates.memory == pytest.approx(MEMORY)
    assert 4 * TALL * STREAMS[2] < rates.cached < 4 * TALL * STREAMS[3]
    assert rates.cache == pytest.approx(CACHE)
    assert rates.copying == pytest.approx(NEAR)
    assert rates.step == pytest.approx(STEP)
    assert rates.sum == pytest.approx(SUM)
    assert rates.overhead == pytest.approx(ISSUE)
    assert rates.functions == pytest.approx(dict.fromkeys(FUNCTIONS, FUNCTION))


def test_the_fastest_of_each_section_counts() -> None:
    slow = made(slower=2.0)

    assert fastest([slow, made(), slow]) == made()


def test_a_machine_follows_from_rates() -> None:
    """Rates of bytes and functions in cycles of this processor's clock."""
    machine = host.measure(made())
    matrix, vector = machine.unit("matrix"), machine.unit("vector")
    cycle = 1 / machine.clock

    assert machine.memory("last").size == made().cached
    assert machine.dram.bandwidth == MEMORY
    assert matrix.attributes["operand_bytes"] == max(1, round(CACHE * cycle))
    assert vector.attributes["operand_bytes"] == max(1, round(NEAR * cycle))
    assert vector.functions["exp"] == pytest.approx(
        FUNCTION / cycle * vector.attributes["lanes"], 0.1
    )
    assert matrix.attributes["efficiency"] <= 100


def test_this_processor_has_rates() -> None:
    """Larger than nothing, and none that no processor has."""
    rates = measure(*host.issue_limits())

    assert 1e-12 < rates.step < 1e-8
    assert 1e8 < rates.memory <= max(rates.reading.values()) < 1e12
    assert all(0 <= time < 1e-6 for time in rates.functions.values())
    assert 0 < rates.overhead < 1e-5
