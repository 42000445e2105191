"""The scalar functions and the folds."""

import inspect
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from infinisa.isa.functions import FOLDS, FUNCTIONS, erf, sigmoid

numbers = some.floats(-100, 100, width=32)


@given(numbers)
def test_erf_is_that_of_the_library(x: float) -> None:
    """Within a rounding in f64; in f32 within 1.1 units in the last place."""
    wanted = math.erf(x)

    assert erf(np.array(x)) == pytest.approx(wanted, rel=1e-15)
    found = float(erf(np.array(x, np.float32)))
    assert abs(found - wanted) <= 1.1 * np.spacing(np.float32(abs(wanted)))


def test_erf_has_its_limits() -> None:
    for dtype in (np.float32, np.float64):
        with np.errstate(invalid="ignore"):
            found = erf(np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 40, 1e-30], dtype))
        assert found.dtype == dtype
        assert found[2:4].tolist() == [1, -1]
        assert np.isnan(found[4])
        assert found[5] == 1
        assert found[6] == pytest.approx(2e-30 / math.sqrt(math.pi))
        assert np.signbit(found[:2]).tolist() == [False, True]
    assert erf(np.array([0.5], np.float16)).dtype == np.float16


def test_sigmoid_does_not_overflow() -> None:
    with np.errstate(over="raise", invalid="raise"):
        found = sigmoid(np.array([-1000.0, -1, 0, 1, 1000]))

    assert found[[0, 2, 4]].tolist() == [0, 0.5, 1]
    assert found[1] == pytest.approx(1 / (1 + math.e))
    assert found[3] == pytest.approx(1 - found[1])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_takes_as_many_arguments_as_it_says(name: str) -> None:
    function = FUNCTIONS[name]
    arguments = [np.array([0.5])] * function.arity

    value = function.numpy(*arguments)

    assert np.shape(value) == (1,)
    assert (np.asarray(value).dtype == np.bool_) == (function.result == "bool")
    assert function.name == name
    if not isinstance(function.numpy, np.ufunc) and function.numpy is not np.where:
        assert len(inspect.signature(function.numpy).parameters) == function.arity


@given(numbers, numbers)
def test_a_commutative_function_commutes(x: float, y: float) -> None:
    a, b = np.array(x), np.array(y)

    for function in FUNCTIONS.values():
        if function.commutative:
            assert function.numpy(a, b) == function.numpy(b, a)


@given(some.lists(numbers, min_size=1, max_size=6), some.integers(0, 6))
def test_a_fold_may_be_taken_in_two_parts(values: list[float], cut: int) -> None:
    """Folding two parts and combining is folding all; over nothing it is the neutral element."""
    whole = np.array(values)
    parts = whole[:cut], whole[cut:]

    for fold in FOLDS.values():
        if fold.combine is None:
            continue
        first, second = (fold.numpy(part) if part.size else fold.neutral for part in parts)
        together = FUNCTIONS[fold.combine].numpy(first, second)
        assert together == pytest.approx(fold.numpy(whole), rel=1e-9, abs=1e-9)


def test_only_the_place_of_the_largest_cannot_be_combined() -> None:
    assert [name for name, fold in FOLDS.items() if fold.combine is None] == ["argmax"]
