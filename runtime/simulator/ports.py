"""Ports of a scratchpad's banks in the kernel: a unit has those of its issue until it is free."""

from __future__ import annotations

from ..jit.bits import Mask, bit, first
from .layout import (
    BANKS,
    CORE,
    CORES,
    FREE,
    HEAD,
    HELD,
    NEVER,
    PORTED,
    PORTS,
    PORTS_AT,
    RECORD_AT,
    RING,
    SIDES,
    UNITS,
    Longs,
    State,
    Words,
)


def ports_of(c: int) -> int:
    """Where the free ports of the scratchpad of core c are."""
    return PORTS_AT + (c * BANKS if SIDES > 1 else 0)


def fits(c: int, record: int, now: Longs, records: Words) -> bool:
    """Whether an issue of this record finds all ports that it needs."""
    side = ports_of(c)
    bank = 0
    while bank < BANKS and records[record + PORTS + bank] <= now[side + bank]:
        bank += 1
    return bank == BANKS


def with_ports(t: int, c: int, left: Mask, state: State) -> Mask:
    """Those of these issues that find the ports they need; the others are held from now on."""
    slots = state.slots
    head = state.cores[c * CORE + HEAD]
    found: Mask = 0
    while left != 0:
        ahead = first(left)
        left = left & (left - 1)
        slot = c * RING + ((head + ahead) & (RING - 1))
        if fits(c, slots[slot + RECORD_AT], state.now, state.records):
            found = found | bit(ahead)
        elif slots[slot + HELD] < 0:
            slots[slot + HELD] = t
    return found


def take_ports(c: int, record: int, now: Longs, records: Words) -> None:
    side = ports_of(c)
    for bank in range(BANKS):
        now[side + bank] -= records[record + PORTS + bank]


def give_ports(t: int, now: Longs, units: Longs, records: Words) -> None:
    """Units that are free now have none any more."""
    for unit in range(CORES * UNITS):
        if units[unit + PORTED] != 0 and units[unit + FREE] <= t:
            side = ports_of(unit // UNITS)
            record = units[unit + PORTED] - 1
            units[unit + PORTED] = 0
            for bank in range(BANKS):
                now[side + bank] += records[record + PORTS + bank]


def ports_given(units: Longs) -> int:
    """When the next unit gives ports back; NEVER: not before a transfer ends."""
    soonest = NEVER
    for unit in range(CORES * UNITS):
        if units[unit + PORTED] != 0:
            soonest = min(soonest, units[unit + FREE])
    return soonest
