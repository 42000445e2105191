"""Masks, known numbers and trusted functions of restricted Python: compiled, they do what CPython
does."""

from __future__ import annotations

import ctypes
from typing import Annotated, Any, TypeAlias

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from infinisa.runtime.jit.bits import (
    Mask,
    apart,
    bit,
    count,
    first,
    last,
    product,
    rotated,
    shifted,
    static,
    word,
)
from infinisa.runtime.jit.code.ir import compile_text
from infinisa.runtime.jit.restricted import Library, RestrictedError

Longs: TypeAlias = Annotated[Any, "i64"]
Bytes: TypeAlias = Annotated[memoryview, "u8"]
SIZE = 64
ROUNDS = (1, 2, 3)
Masks: TypeAlias = Annotated[Any, "u64"]


def sets(masks: Masks, numbers: Longs) -> int:
    """Some of everything, into `numbers`; `masks` gets what is left of a walk."""
    mask: Mask = 0
    mask = masks[0] | bit(numbers[0])
    numbers[1] = count(mask)
    numbers[2] = first(mask)
    numbers[3] = last(mask)
    numbers[4] = first(rotated(mask, numbers[0], SIZE))
    total = 0
    left = mask & ~bit(numbers[0])
    while left != 0:
        total += first(left)
        left = left & (left - 1)
    masks[1] = mask ^ bit(0)
    for k in static(range(3)):
        if ROUNDS[k] > 1 and SIZE > 3:
            total += ROUNDS[k] * helper(numbers[0], k)
        elif SIZE < 0:
            total += missing(k)  # it is not written
    return total


@apart
def helper(a: int, b: int) -> int:
    return a * b


def wide(masks: Annotated[Any, "u128"], numbers: Longs) -> int:
    """The same sets, of numbers below 128."""
    mask: Mask = 0
    mask = masks[0] | bit(numbers[0])
    numbers[1] = first(rotated(mask, numbers[0], 128))
    masks[1] = mask & ~bit(numbers[0])
    return count(mask) + 1000 * last(mask)


def native(body: Any, mask: str, near: int = 0) -> Any:
    """A body on (masks, numbers) as native code; the first on the stack if `near` says how many."""
    library = Library(frozenset([__name__]), mask)
    kinds = [*library.signature(body).flat.values()]
    name = library.entry(body, kinds, 1, near={"masks": near} if near else {})
    code = compile_text(library.module.text, [name], optimise=True)
    types = [ctypes.c_void_p, ctypes.c_int64] * 2 + [ctypes.c_void_p] * 2
    call = ctypes.CFUNCTYPE(None, *types)(code.addresses[name])

    def run(masks: Any, numbers: Any) -> int:
        returned = np.zeros(2, np.int64)
        given = [word for array in (masks, numbers) for word in (array.ctypes.data, array.size)]
        call(*given, returned.ctypes.data, returned.ctypes.data + 8)
        return int(returned[0])

    run.code = code  # type: ignore[attr-defined]  # it lives as long as the function
    return run


NATIVE = [native(sets, "i64"), native(sets, "i64", near=2)]
WIDE = native(wide, "i128")


@given(some.integers(0, 2**64 - 1), some.integers(0, 63))
@settings(deadline=None)
def test_sets_of_64_numbers(mask: int, number: int) -> None:
    masks, numbers = [mask, 0], [number, 0, 0, 0, 0]
    returned = sets(masks, numbers)

    for run in NATIVE:
        ours, counted = np.array([mask, 0], np.uint64), np.array([number, 0, 0, 0, 0])
        assert run(ours, counted) == returned
        assert (ours.tolist(), counted.tolist()) == (masks, numbers)


@given(some.integers(0, 2**128 - 1), some.integers(0, 127))
@settings(deadline=None)
def test_sets_of_128_numbers(mask: int, number: int) -> None:
    masks, numbers = [mask, 0], [number, 0]
    returned = wide(masks, numbers)
    words = np.zeros(4, np.uint64)
    words[0], words[1] = mask % 2**64, mask // 2**64
    counted = np.array([number, 0])

    assert WIDE(words, counted) == returned
    assert [int(words[2]) + (int(words[3]) << 64), counted.tolist()] == [masks[1], numbers]


def test_masks_are_for_trusted_functions() -> None:
    with pytest.raises(RestrictedError) as caught:
        Library().entry(sets, ["[u64]", "[i64]"], 1)

    assert str(caught.value) == "opaque0: an array of masks cannot be checked"


def words(data: Bytes, numbers: Longs) -> int:
    """Integers of 64 bits that wrap, from `numbers` and into it."""
    numbers[2] = word(data, numbers[0])
    numbers[3] = product(numbers[2], numbers[1])
    numbers[4] = shifted(numbers[3], numbers[1] & 63)
    return 0


def words_native(trusted: bool) -> Any:
    """`words` as native code: (data, numbers) to the fault, if any."""
    library = Library(frozenset([__name__] if trusted else []))
    name = library.entry(words, [*library.signature(words).flat.values()], 1)
    code = compile_text(library.module.text, [name], optimise=True)
    types = [ctypes.c_void_p, ctypes.c_int64] * 2 + [ctypes.c_void_p] * 2
    call = ctypes.CFUNCTYPE(None, *types)(code.addresses[name])

    def run(data: Any, numbers: Any) -> str:
        returned = np.zeros(2, np.int64)
        given = [part for array in (data, numbers) for part in (array.ctypes.data, array.size)]
        call(*given, returned.ctypes.data, returned.ctypes.data + 8)
        return library.faults[int(returned[1])]

    run.code = code  # type: ignore[attr-defined]  # it lives as long as the function
    return run


WORDS = [words_native(trusted=True), words_native(trusted=False)]


@given(some.binary(min_size=8, max_size=20), some.data())
@settings(deadline=None)
def test_words_wrap_as_in_cpython(data: bytes, draw: some.DataObject) -> None:
    at = draw.draw(some.integers(0, len(data) - 8))
    factor = draw.draw(some.integers(-(2**63), 2**63 - 1))
    theirs = np.array([at, factor, 0, 0, 0])
    words(memoryview(data), theirs.data)

    for run in WORDS:
        ours = np.array([at, factor, 0, 0, 0])
        assert run(np.frombuffer(data, np.uint8), ours) == ""
        assert ours.tolist() == theirs.tolist()


@pytest.mark.parametrize("at", [-1, 3, 10, 2**62])
def test_a_word_that_is_not_inside_is_a_fault(at: int) -> None:
    data, numbers = np.zeros(10, np.uint8), np.array([at, 1, 0, 0, 0])

    fault = WORDS[1](data, numbers)

    assert fault.endswith("the index of `word(data, numbers[0])` is outside")
    with pytest.raises(IndexError):
        words(data.data, numbers.data)
