"""No search for cycles while the compiler works, and one afterwards as before."""

from __future__ import annotations

import gc

import pytest

from infinisa.isa.garbage import uncollected


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


def test_what_was_made_counts_as_old() -> None:
    gc.collect()
    with uncollected():
        made = [[number] for number in range(1000)]

    assert any(each is made for each in gc.get_objects(generation=2))
    assert not any(each is made[0] for each in gc.get_objects(generation=0))


def test_what_somebody_froze_stays_so() -> None:
    gc.freeze()
    try:
        frozen = gc.get_freeze_count()
        with uncollected():
            pass

        assert gc.get_freeze_count() >= frozen > 0
    finally:
        gc.unfreeze()
