"""No search for cycles while the compiler works, and one afterwards as before."""

from __future__ import annotations

import gc

import pytest

from infinisa.compiler.garbage import uncollected


def test_the_search_for_cycles_is_put_off_and_taken_up_again() -> None:
    assert gc.isenabled()

    with uncollected():
        inside = gc.isenabled()

    assert (inside, gc.isenabled()) == (False, True)


def test_a_failure_takes_it_up_again_too() -> None:
    with pytest.raises(ValueError, match="no such"), uncollected():
        raise ValueError("no such")

    assert gc.isenabled()


def test_who_put_it_off_before_keeps_it_so() -> None:
    gc.disable()
    try:
        with uncollected():
            pass

        assert not gc.isenabled()
    finally:
        gc.enable()
