"""Words of restricted Python that Python does not have: sets of small numbers, and what is known
while code is written.

A mask is a set of numbers below 64 or 128, as an integer without a sign. CPython runs these
functions as they are; compiled, each of a mask is an instruction or two.
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
