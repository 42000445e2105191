"""Memories: what a transfer is, how DRAM is shared, and the scratchpad or cache before it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import lcm
from typing import Protocol, TypeAlias

import simpy

from infinisa.isa.dtypes import DTYPES
from infinisa.isa.machine import Machine
from infinisa.isa.program import Buffer, Operand, Ranges, region

from .contract import Entry, Shape

Steps = Generator[simpy.Event, object, None]
Where: TypeAlias = tuple[tuple[int, int], ...]
"""(start, length) of each dimension of a region."""

EXACT = 2520
"""The least number that 1 to 10 divide: so many equal shares of a cycle lose nothing."""


# ---------------------------------------------------------------- what is moved


def touched(operand: Operand, buffer: Buffer, ranges: Ranges) -> Where:
    """The region of an operand, cut to what the buffer has."""
    return tuple(
        (max(start, 0), max(0, min(start + length, extent) - max(start, 0)))
        for (start, length), extent in zip(region(operand, ranges), buffer.shape, strict=True)
    )


def size_of(where: Where, buffer: Buffer) -> int:
    """Bytes of a region."""
    size = DTYPES[buffer.dtype].size
    for _, length in where:
        size *= length
    return size


def run_of(where: Where, buffer: Buffer) -> int:
    """Bytes of each contiguous run of a region: up to the last dimension that it cuts."""
    run = DTYPES[buffer.dtype].size
    for (_, length), extent in zip(reversed(where), reversed(buffer.shape), strict=True):
        run *= length
        if length != extent:
            break
    return run


def rows_of(where: Where, buffer: Buffer, address: int, row: int) -> Iterator[tuple[int, int]]:
    """The DRAM rows that a region touches, a contiguous run after the other: their numbers, and the
    bytes in them."""
    size = step = DTYPES[buffer.dtype].size
    strides: list[int] = []
    for extent in reversed(buffer.shape):
        strides.insert(0, step)
        step *= extent
    run, inner = run_of(where, buffer), len(where)
    length = size
    while inner and length < run:
        inner -= 1
        length *= where[inner][1]
    start = address + sum(s * begin for s, (begin, _) in zip(strides, where, strict=True))
    if size_of(where, buffer):
        for index in product(*(range(length) for _, length in where[:inner])):
            at = start + sum(i * stride for i, stride in zip(index, strides, strict=False))
            for number in range(at // row, (at + run - 1) // row + 1):
                yield number, min(at + run, (number + 1) * row) - max(at, number * row)


# ---------------------------------------------------------------- channels


class ChannelModel(Protocol):
    """How active transfers share the bandwidth of DRAM; another rule is another class.

    `busy` counts cycles in which any transfer is active.
    """

    busy: int

    def transfer(self, entry: Entry) -> simpy.Event:
        """An event for the end of the transfer of an issue, which asks for it now: of `entry.bus`
        bytes, which take `entry.transfer` cycles alone."""
        ...


Sharing: TypeAlias = Callable[[simpy.Environment, Machine], ChannelModel]
"""Makes the channel of one run of a stage."""


class FifoChannel:
    """One transfer at a time, in the order in which they were asked for."""

    def __init__(self, environment: simpy.Environment, machine: Machine) -> None:
        self.environment = environment
        self.busy = self.free = 0

    def transfer(self, entry: Entry) -> simpy.Event:
        now = int(self.environment.now)
        self.free = max(self.free, now) + entry.transfer
        self.busy += entry.transfer
        return self.environment.timeout(self.free - now)


def parts_of(machine: Machine) -> tuple[int, tuple[int, ...]]:
    """The parts of a cycle in which a banked channel counts, so many that a byte of each unit class
    takes whole ones; and how many these are."""
    rates = [machine.rate(unit) for unit in machine.units]
    cycle = lcm(*(rate.numerator for rate in rates))
    return cycle, tuple(int(cycle / rate) for rate in rates)


class BankedChannel:
    """One transfer at a time; rows are opened in their banks while data of others pass.

    Times are in parts of a cycle (`parts_of`).
    """

    def __init__(self, environment: simpy.Environment, machine: Machine) -> None:
        self.environment, self.channel = environment, machine.dram.channel
        self.cycle, self.byte = parts_of(machine)
        self.open = [-1] * self.channel.banks
        self.free = [0] * self.channel.banks
        self.busy = self.until = self.passed = 0

    def transfer(self, entry: Entry) -> simpy.Event:
        now = int(self.environment.now)
        for row, size in entry.rows:
            self.passed = max(self.passed, self.ready(row, now * self.cycle))
            self.passed += size * self.byte[entry.shape.unit]
            if row >= 0:
                bank = row % len(self.open)
                self.open[bank], self.free[bank] = row, self.passed
        end = -(-self.passed // self.cycle)
        self.busy += end - max(now, self.until)
        self.until = end
        return self.environment.timeout(end - now)

    def ready(self, row: int, asked: int) -> int:
        """When a row that was asked for is open; one that is not known is in a bank of its own."""
        opening = self.channel.row_miss * self.cycle
        bank = row % len(self.open)
        if row < 0:
            return asked + opening
        if self.open[bank] == row:
            return asked
        return max(asked, self.free[bank]) + opening


@dataclass(frozen=True)
class Rates:
    """The integers of fair sharing. Work is counted in parts of a byte.

    byte     the work of one byte
    cycle    what the channel does in one cycle
    caps     the most that a unit does in one cycle, and its `shares`, by unit class
    """

    byte: int
    cycle: int
    caps: tuple[int, ...]
    shares: tuple[int, ...]

    @classmethod
    def of(cls, machine: Machine) -> Rates:
        rates = [machine.rate(unit) for unit in machine.units]
        byte = EXACT * lcm(machine.dram_rate.denominator, *(rate.denominator for rate in rates))
        return cls(
            byte=byte,
            cycle=int(machine.dram_rate * byte),
            caps=tuple(int(rate * byte) for rate in rates),
            shares=tuple(unit.share for unit in machine.units),
        )

    def divide(self, units: Sequence[int]) -> list[tuple[int, int]]:
        """What transfers of these unit classes do in a cycle when all are active: (a, b) is a / b.

        In proportion to their shares, none more than its cap: what a cap leaves the others divide.
        """
        caps, shares = self.caps, self.shares
        free, parts = self.cycle, sum(shares[unit] for unit in units)
        capped = [False] * len(units)
        more = True
        while more:
            more = False
            for i, unit in enumerate(units):
                if not capped[i] and caps[unit] * parts < free * shares[unit]:
                    capped[i] = more = True
                    free -= caps[unit]
                    parts -= shares[unit]
        return [
            (caps[unit], 1) if capped[i] else (free * shares[unit], parts)
            for i, unit in enumerate(units)
        ]


@dataclass(slots=True, eq=False)
class Active:
    """A transfer under way: what is `left` of its work, and what it does in a cycle: a / b."""

    unit: int
    left: int
    end: simpy.Event
    rate: tuple[int, int] = (0, 1)


class FairChannel:
    """All active transfers at once; what they do in a cycle changes when one begins or ends."""

    def __init__(self, environment: simpy.Environment, machine: Machine) -> None:
        self.environment = environment
        self.rates = Rates.of(machine)
        self.busy = self.since = self.plans = 0
        self.active: list[Active] = []

    def transfer(self, entry: Entry) -> simpy.Event:
        self.settle()
        end = self.environment.event()
        self.active.append(Active(entry.shape.unit, entry.bus * self.rates.byte, end))
        self.plan()
        return end

    def settle(self) -> None:
        """Count what was done since the last change."""
        now = int(self.environment.now)
        cycles, self.since = now - self.since, now
        if self.active:
            self.busy += cycles
        for each in self.active:
            a, b = each.rate
            each.left -= cycles * a // b

    def plan(self) -> None:
        """Divide the channel anew, and come back when the first transfer ends."""
        self.plans += 1
        if not self.active:
            return
        rates = self.rates.divide([each.unit for each in self.active])
        for each, rate in zip(self.active, rates, strict=True):
            each.rate = rate
        # nothing is left of what ends in this cycle, if one begins before it was told
        soon = min(-(-each.left * each.rate[1] // each.rate[0]) for each in self.active)
        timeout = self.environment.timeout(max(0, soon), self.plans)
        timeout.callbacks.append(self.ended)

    def ended(self, timeout: simpy.Event) -> None:
        if timeout.value != self.plans:
            return  # the division has changed since
        self.settle()
        for each in self.active:
            if each.left <= 0:
                each.end.succeed()
        self.active = [each for each in self.active if each.left > 0]
        self.plan()


CHANNELS: Mapping[str, Sharing] = {
    "fifo": FifoChannel,
    "fair": FairChannel,
    "banked": BankedChannel,
}
"""How transfers share the channel, by the name that a machine gives."""


# ---------------------------------------------------------------- before DRAM


class Interconnect:
    """The links between the cores and what they share: on each, one transfer at a time."""

    def __init__(self, machine: Machine) -> None:
        way = machine.interconnect
        self.free = [0] * (1 if way is None or way.shared else machine.cores)

    def cross(self, core: int, entry: Entry, now: int) -> int:
        """When the bytes of an issue, which ask for the link of its core now, have passed it."""
        link = core % len(self.free)
        self.free[link] = max(self.free[link], now) + entry.crossing
        return self.free[link]


class Ports:
    """The free ports of each bank of a scratchpad."""

    def __init__(self, banks: int, ports: int) -> None:
        self.free = [ports] * banks

    def fit(self, shape: Shape) -> bool:
        """Whether an issue finds all ports that it needs."""
        return all(self.free[bank] >= count for bank, count in shape.ports)

    def take(self, shape: Shape) -> None:
        for bank, count in shape.ports:
            self.free[bank] -= count

    def give(self, shape: Shape) -> None:
        for bank, count in shape.ports:
            self.free[bank] += count


@dataclass
class Cache:
    """Which regions of tensors a cache of `capacity` bytes holds: those touched last.

    Regions are what issues touch: tiles. Two that overlap without being equal are two regions, and
    programs that run at a time have no tensors in common.
    """

    capacity: int
    held: OrderedDict[tuple[int, str, Where], int] = field(default_factory=OrderedDict)
    size: int = 0

    def touch(self, where: Where, buffer: Buffer, owner: int = 0) -> bool:
        """Whether a region must come from DRAM or go there: it was not held. `owner` numbers the
        programs that run at a time."""
        key = owner, buffer.name, where
        if key in self.held:
            self.held.move_to_end(key)
            return False
        self.held[key] = size = size_of(where, buffer)
        self.size += size
        while self.size > self.capacity:
            self.size -= self.held.popitem(last=False)[1]
        return True


def caches_of(machine: Machine) -> list[Cache]:
    """One for all cores or one a core, if the machine has any."""
    memory = machine.cache
    if memory is None:
        return []
    return [Cache(memory.size) for _ in range(1 if memory.shared else machine.cores)]
