"""DRAM: the channel that all cores share, and the caches before it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import simpy

from infinisa.isa.dtypes import DTYPES
from infinisa.isa.program import Buffer, Operand, Ranges, region

Steps = Generator[simpy.Event, object, None]


def touched(operand: Operand, buffer: Buffer, ranges: Ranges) -> tuple[tuple[int, int], ...]:
    """(start, length) of each dimension of an operand, cut to what the buffer has."""
    return tuple(
        (max(start, 0), max(0, min(start + length, extent) - max(start, 0)))
        for (start, length), extent in zip(region(operand, ranges), buffer.shape, strict=True)
    )


def clipped(operand: Operand, buffer: Buffer, ranges: Ranges) -> int:
    """Bytes of an operand; positions outside the buffer are not touched."""
    size = DTYPES[buffer.dtype].size
    for _, length in touched(operand, buffer, ranges):
        size *= length
    return size


class Channel(Protocol):
    """How active transfers share the bandwidth of DRAM; another rule is another class.

    A transfer is given by the cycles it takes alone. `busy` counts cycles in which any is active.
    """

    busy: int

    def transfer(self, cycles: int) -> simpy.Event:
        """An event for the end of a transfer that is asked for now."""
        ...


Sharing: TypeAlias = Callable[[simpy.Environment], Channel]
"""Makes the channel of one run."""


@dataclass
class FifoChannel:
    """One transfer at a time, at full bandwidth, in the order in which they were asked for."""

    environment: simpy.Environment
    busy: int = 0
    free: int = 0

    def transfer(self, cycles: int) -> simpy.Event:
        now = int(self.environment.now)
        self.free = max(self.free, now) + cycles
        self.busy += cycles
        return self.environment.timeout(self.free - now)


@dataclass
class Cache:
    """Which regions of tensors a cache of `capacity` bytes holds: those touched last.

    Regions are what issues touch: tiles. Two that overlap without being equal are two regions.
    """

    capacity: int
    held: OrderedDict[tuple[str, tuple[tuple[int, int], ...]], int] = field(
        default_factory=OrderedDict
    )
    size: int = 0

    def touch(self, operand: Operand, buffer: Buffer, ranges: Ranges) -> int:
        """The bytes of an operand that must come from DRAM or go there: none, or all of them."""
        where = touched(operand, buffer, ranges)
        key = buffer.name, where
        if key in self.held:
            self.held.move_to_end(key)
            return 0
        size = DTYPES[buffer.dtype].size
        for _, length in where:
            size *= length
        self.held[key] = size
        self.size += size
        while self.size > self.capacity:
            self.size -= self.held.popitem(last=False)[1]
        return size
