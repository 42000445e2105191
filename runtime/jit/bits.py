"""Words of restricted Python that Python does not have: sets of small numbers, integers of 64 bits
that wrap, and what is known while code is written.

A mask is a set of numbers below 64 or 128, as an integer without a sign. CPython runs these
functions as they are; compiled, each of a mask or of 64 bits is an instruction or two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeAlias, TypeVar

Mask: TypeAlias = Annotated[int, "mask"]


def bit(number: int) -> Mask:
    """The set of one number."""
    return 1 << number


def first(mask: Mask) -> int:
    """The least number of a set that is not empty."""
    return (mask & -mask).bit_length() - 1


def last(mask: Mask) -> int:
    """The greatest number of a set that is not empty."""
    return mask.bit_length() - 1


def count(mask: Mask) -> int:
    """How many numbers a set has."""
    return mask.bit_count()


def rotated(mask: Mask, start: int, size: int) -> Mask:
    """A set of numbers below `size` as distances from `start`, around a ring of that size."""
    start %= size
    return (mask >> start | mask << (size - start)) & ((1 << size) - 1)


def word(data: memoryview, at: int) -> int:
    """The eight bytes from `at` on, the lowest first, as a signed integer."""
    if not 0 <= at <= len(data) - 8:
        raise IndexError("a word must be inside of its array")
    return int.from_bytes(data[at : at + 8], "little", signed=True)


def product(a: int, b: int) -> int:
    """The low 64 bits of a product as a signed integer: never an overflow."""
    low = a * b & (1 << 64) - 1
    return low - (low >> 63 << 64)


def shifted(number: int, by: int) -> int:
    """The 64 bits of a number moved right by 0 to 63 places, behind zeros."""
    return (number & (1 << 64) - 1) >> by if by > 0 else number


Body = TypeVar("Body", bound=Callable[..., Any])


def apart(body: Body) -> Body:
    """Marks a function that is called where it is used, not written out there: rare things, so that
    what is often done is short."""
    return body


def rare(body: Body) -> Body:
    """Marks a function that is so rarely called that it had better be written soon than fast."""
    return body


def static(numbers: range) -> range:
    """`for k in static(range(3))` is written out: k is known in each turn."""
    return numbers
