"""Restricted Python: compiled, it does what CPython does, or says that it cannot."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, TypeAlias

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as some
from numpy.typing import NDArray

from infinisa.isa.dtypes import name_of
from infinisa.runtime.jit.code.ir import compile_text
from infinisa.runtime.jit.restricted import Library, RestrictedError

Array = NDArray[Any]
I32: TypeAlias = Annotated[memoryview, "i32"]
U8: TypeAlias = Annotated[memoryview, "u8"]
F32: TypeAlias = Annotated[Any, "f32"]
F64: TypeAlias = Annotated[Any, "f64"]


class Compiled:
    """A body on arrays of given types; calling it gives (numbers it returned, fault)."""

    def __init__(self, body: Callable[..., Any], types: list[str], results: int = 1) -> None:
        self.library, self.results = Library(), results
        name = self.library.entry(body, [f"[{dtype}]" for dtype in types], results)
        source = self.library.module.text
        self.code = compile_text(source, [name], optimise=True)
        kinds = [ctypes.c_void_p, ctypes.c_int64] * len(types) + [ctypes.c_void_p] * 2
        self.call = ctypes.CFUNCTYPE(None, *kinds)(self.code.addresses[name])

    def __call__(self, *arrays: Array) -> tuple[list[int], str]:
        numbers, fault = np.zeros(max(1, self.results), np.int64), np.zeros(1, np.int64)
        given = [part for a in arrays for part in (a.ctypes.data, a.size)]
        self.call(*given, numbers.ctypes.data, fault.ctypes.data)
        return numbers.tolist()[: self.results], self.library.faults[int(fault[0])]


def both(body: Callable[..., Any], *arrays: Array, results: int = 1) -> Any:
    """What CPython returns, after checking that native code does the same to numbers and arrays."""
    ours, theirs = [a.copy() for a in arrays], [a.copy() for a in arrays]
    returned = body(*(a.data for a in theirs))
    numbers = list(returned) if isinstance(returned, tuple) else [returned]

    found, fault = Compiled(body, [name_of(a.dtype) for a in arrays], results)(*ours)

    assert fault == ""
    assert found == [int(n) for n in numbers if n is not None][:results] or returned is None
    for mine, other in zip(ours, theirs, strict=True):
        assert np.array_equal(mine, other, equal_nan=True)
    return returned


def arithmetic(x: I32, y: I32) -> int:
    total = 0
    for i in range(len(x)):
        a = x[i]
        b = y[i]
        total += a * b - (a + b) // 3 + (a - b) % 7
        if b != 0:
            total += a // b + a % b
        total ^= a & 255 | b << 3
        total += (a >> 2) + (~b) + abs(a) + min(a, b) - max(a, b)
        total += 1 if a < b else -1
        y[i] = total % 1000
    return total


def control(x: I32) -> tuple[int, int]:
    found = -1
    count = 0
    at = len(x) - 1
    while at >= 0:
        at -= 1
        if x[at + 1] % 3 == 0:
            continue
        if x[at + 1] > 90 or (x[at + 1] < -90 and at > 2):
            found = at + 1
            break
        count += 1
    for k in range(10, -5, -3):
        for j in range(k):
            if j == 4:
                break
            count += 1
    low, high = 0, len(x)
    low, high = high, low
    if 0 <= low < 5 < high:
        return -7, low
    return found, count + k


def helper(x: U8, start: int, upper: bool) -> int:
    for k in range(start, len(x)):
        if (upper and x[k] < 91) or (not upper and x[k] > 96):
            return k
    return -1


def calls(x: U8, y: F32) -> int:
    at = helper(x, 0, True)
    value = 0.5
    for k in range(len(y)):
        other = y[k] * 2.0 + value / (k + 1)
        if other > value:
            value = other
        y[k] = value - k
    if at >= 0:
        x[at] = x[at] | 32
    fill(x, at + 1)
    return int(at >= 0) + helper(x, at + 1, False)


def fill(x: U8, at: int) -> None:
    if at >= len(x):
        return
    x[at] = 7


class Found(NamedTuple):
    found: I32
    others: I32


class Tables(NamedTuple):
    text: U8
    known: Found


def bundles(x: U8, y: I32) -> int:
    known = Found(y, y)
    tables = Tables(x, known)
    count = 0
    for k in range(len(tables.known.found)):
        count += counted(k, tables)
    return count


def counted(k: int, tables: Tables) -> int:
    tables.known.found[k] += len(tables.text)
    only = Found(tables.known.others, tables.known.found)
    other = Tables(tables.text, only)
    text = other.text
    return first_of(other.known) if k < len(text) and text[k] > 90 else k


def first_of(known: Found) -> int:
    return known.found[0]


@given(some.lists(some.tuples(*[some.integers(-1000, 1000)] * 2), max_size=40))
@settings(max_examples=20, deadline=None)
def test_arithmetic_is_python_s(rows: list[tuple[int, int]]) -> None:
    x, y = (np.array([row[i] for row in rows], np.int32) for i in range(2))

    both(arithmetic, x, y)


@given(some.lists(some.integers(-100, 100), max_size=20))
@settings(max_examples=20, deadline=None)
def test_control_is_python_s(numbers: list[int]) -> None:
    both(control, np.array(numbers, np.int32), results=2)


@given(some.binary(max_size=20), some.lists(some.floats(-1e3, 1e3, width=32), max_size=5))
@settings(max_examples=20, deadline=None)
def test_functions_call_others(text: bytes, numbers: list[float]) -> None:
    both(calls, np.frombuffer(text, np.uint8).copy(), np.array(numbers, np.float32))


@given(some.binary(max_size=9), some.lists(some.integers(-100, 100), max_size=9))
@settings(max_examples=20, deadline=None)
def test_arrays_may_go_together(text: bytes, numbers: list[int]) -> None:
    both(bundles, np.frombuffer(text, np.uint8).copy(), np.array(numbers, np.int32))


def after_the_end(x: I32) -> int:
    return x[len(x)]


def before_the_start(x: I32) -> int:
    return x[0 - 1]


def too_large(x: I32) -> int:
    x[0] = x[0] + 1
    return 0


def too_deep(x: I32) -> int:
    return helper_of(x[0])


def helper_of(n: int) -> int:
    return 10 // n


def overflow(x: I32) -> int:
    return x[0] * 4611686018427387904


def wide_shift(x: I32) -> int:
    return 1 << (x[0] + 70)


def asserted(x: I32) -> int:
    assert x[0] == 5
    return 0


FAULTS = [
    (after_the_end, [1], "after_the_end, line 2: the index of `x[len(x)]` is outside"),
    (before_the_start, [1], "before_the_start, line 2: the index of `x[0 - 1]` is outside"),
    (too_large, [2**31 - 1], "too_large, line 2: a number does not fit into i32"),
    (too_deep, [0], "helper_of, line 2: a division by zero"),
    (overflow, [2], "overflow, line 2: `x[0] * 4611686018427387904` has more than 64 bits"),
    (wide_shift, [0], "wide_shift, line 2: `1 << x[0] + 70` shifts by less than 0 or more than 63"),
    (asserted, [1], "asserted, line 2: the assertion does not hold"),
]


@pytest.mark.parametrize(
    ("body", "numbers", "message"), FAULTS, ids=[f[0].__name__ for f in FAULTS]
)
def test_a_fault_ends_the_call(body: Callable[..., Any], numbers: list[int], message: str) -> None:
    """Where CPython raises, or would take a negative index from the end."""
    _, fault = Compiled(body, ["i32"])(np.array(numbers, np.int32))

    first = body.__code__.co_firstlineno if "helper_of" not in message else helper_line()
    assert fault == message.replace("line 2", f"line {first + 1}")


def helper_line() -> int:
    return helper_of.__code__.co_firstlineno


def listing(x: I32) -> int:
    return len([2 * k for k in range(3)])


def truth(x: I32) -> int:
    return 1 if x[0] else 0


def changing(x: I32) -> int:
    a: float = 1
    a = 0.5
    return int(a)


def half_of_them(x: I32) -> int:
    known = Found(x)  # type: ignore[call-arg]  # the mistake that is refused
    return len(known.found)


def without_a_name(x: I32) -> int:
    return first_of(Found(x, x))


def either(x: I32) -> int:
    one = x
    one = x
    return len(one)


def itself(x: I32) -> int:
    return itself(x)


REFUSED = [
    (listing, "`[2 * k for k in range(3)]` as an array is not in restricted Python"),
    (truth, "`x[0]`, a number, as a condition is not in restricted Python"),
    (changing, "another type for 'a' is not in restricted Python"),
    (half_of_them, "1 arrays instead of 2 is not in restricted Python"),
    (without_a_name, "`Found(x, x)` without a name is not in restricted Python"),
    (either, "another array as 'one' is not in restricted Python"),
    (itself, "itself calls itself"),
]


@pytest.mark.parametrize(("body", "message"), REFUSED, ids=[r[0].__name__ for r in REFUSED])
def test_what_there_is_not_is_named(body: Callable[..., Any], message: str) -> None:
    with pytest.raises(RestrictedError) as caught:
        Compiled(body, ["i32"])

    assert str(caught.value).endswith(message)


# ---------------------------------------------------------------- functions of math


def exponential(x: F64, y: F64) -> None:
    y[0] = math.exp(x[0])


def logarithm(x: F64, y: F64) -> None:
    y[0] = math.log(x[0])


def root(x: F64, y: F64) -> None:
    y[0] = math.sqrt(x[0])


def tangent(x: F64, y: F64) -> None:
    y[0] = math.tanh(x[0])


def error(x: F64, y: F64) -> None:
    y[0] = math.erf(x[0])


def sine(x: F64, y: F64) -> None:
    y[0] = math.sin(x[0])


def cosine(x: F64, y: F64) -> None:
    y[0] = math.cos(x[0])


MATHEMATICAL = [exponential, logarithm, root, tangent, error, sine, cosine]


@pytest.fixture(scope="module")
def mathematical() -> list[Compiled]:
    return [Compiled(body, ["f64", "f64"], 0) for body in MATHEMATICAL]


@settings(max_examples=200, deadline=None)
@given(x=some.floats())
@example(x=710.0)
@example(x=0.0)
@example(x=-0.0)
@example(x=math.inf)
@example(x=-math.inf)
@example(x=math.nan)
def test_math_gives_what_cpython_gives_or_a_fault(mathematical: list[Compiled], x: float) -> None:
    """What raises in CPython is a fault, and nothing else is."""
    for body, code in zip(MATHEMATICAL, mathematical, strict=True):
        wanted, found = np.full(1, 7.0), np.full(1, 7.0)
        try:
            body(np.array([x]).data, wanted.data)
            raised = False
        except (ValueError, OverflowError):
            raised = True
        _, fault = code(np.array([x]), found)

        assert raised == ("has no finite value" in fault), (body, fault)
        assert raised or found == pytest.approx(wanted, rel=1e-14, nan_ok=True)
