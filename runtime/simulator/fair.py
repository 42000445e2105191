"""Fair sharing of the DRAM channel in the kernel: the integers of `memory.Rates`.

A transfer belongs to the unit that asked for it. `sharing` lists the units that have one (a number
for each unit of each core), ACTIVE of them. They are settled in the cycles in which one begins or
ends, and at the end of these their rates divided anew.
"""

from __future__ import annotations

from .layout import (
    ACCOUNT,
    ACTIVE,
    ARRIVAL,
    BEGAN,
    BUSY,
    BYTE,
    CAP,
    CAPPED,
    CHANNEL,
    CHANNEL_BUSY,
    COPIES,
    CORE,
    CORES,
    CROSSED_AT,
    CYCLE,
    DONE,
    DRAIN,
    DRAM,
    EVENT,
    FETCHED,
    FREE,
    KIND_AT,
    LANDED,
    LEFT,
    LINK,
    LINK_ARRIVAL,
    LINKS,
    MOVING,
    NEVER,
    OCCUPANCY,
    PARTS,
    POSITION,
    RATE,
    RECORD_AT,
    RING,
    SETTLED_AT,
    SHARE,
    SOONEST,
    TRACE,
    UNITS,
    UNTIL,
    WIDE,
    WORK,
    Longs,
    State,
)


def account_of(c: int, u: int) -> int:
    """Where the counts of a unit begin, or of the core behind its last unit."""
    return 1 + (c * (UNITS + 1) + u) * ACCOUNT


def ask(t: int, unit: int, position: int, work: int, bus: int, state: State) -> None:
    """A unit begins a transfer of so many bytes of the channel."""
    now, units = state.now, state.units
    if now[ACTIVE] > 0 and now[SETTLED_AT] < t:
        cycles = t - now[SETTLED_AT]
        state.counts[CHANNEL_BUSY] += cycles
        for k in range(now[ACTIVE]):
            other = state.sharing[k]
            units[other + LEFT] = left_after(cycles, other, units)
    now[SETTLED_AT] = t
    units[unit + LEFT] = bus * now[BYTE]
    units[unit + POSITION] = position
    units[unit + BEGAN] = t
    units[unit + WORK] = work
    state.sharing[now[ACTIVE]] = unit
    now[ACTIVE] += 1
    now[CHANNEL] = t


def left_after(cycles: int, unit: int, units: Longs) -> int:
    """What is left of a transfer that many cycles after it was settled."""
    done = cycles * units[unit + RATE]
    if units[unit + PARTS] != 1:
        done = done // units[unit + PARTS]
    return units[unit + LEFT] - done


def divide(t: int, now: Longs, units: Longs, sharing: Longs) -> None:
    """Divide the channel anew among the active, when all that begins and ends in a cycle has, and
    find out when the first of them ends."""
    size = now[ACTIVE]
    rate = now[CYCLE]
    if size == 1:
        unit = sharing[0]
        rate = min(rate, now[units[unit + KIND_AT] + CAP])
        units[unit + RATE] = rate
        units[unit + PARTS] = 1
        now[CHANNEL] = t + (units[unit + LEFT] + rate - 1) // rate
        return
    parts = 0
    for k in range(size):
        unit = sharing[k]
        units[unit + CAPPED] = 0
        parts += now[units[unit + KIND_AT] + SHARE]
    more = True
    while more:
        more = False
        for k in range(size):
            unit = sharing[k]
            kind = units[unit + KIND_AT]
            if units[unit + CAPPED] == 0 and now[kind + CAP] * parts < rate * now[kind + SHARE]:
                units[unit + CAPPED] = 1
                rate -= now[kind + CAP]
                parts -= now[kind + SHARE]
                more = True
    soonest = NEVER
    for k in range(size):
        unit = sharing[k]
        kind = units[unit + KIND_AT]
        capped = units[unit + CAPPED] != 0
        a = now[kind + CAP] if capped else rate * now[kind + SHARE]
        b = 1 if capped else parts
        units[unit + RATE] = a
        units[unit + PARTS] = b
        soonest = min(soonest, t + (units[unit + LEFT] * b + a - 1) // a)
    now[CHANNEL] = soonest


def end_transfers(t: int, state: State) -> None:
    """End the transfers of which nothing is left."""
    now = state.now
    cycles = t - now[SETTLED_AT]
    state.counts[CHANNEL_BUSY] += cycles
    now[SETTLED_AT] = t
    kept = 0
    for k in range(now[ACTIVE]):
        unit = state.sharing[k]
        left = left_after(cycles, unit, state.units)
        state.units[unit + LEFT] = left
        if left > 0:
            state.sharing[kept] = unit
            kept += 1
        else:
            release(t, unit, state)
    now[ACTIVE] = kept


def release(t: int, unit: int, state: State) -> None:
    """The transfer of a unit has ended: when it is free, and when its issue is done."""
    cores, slots, units = state.cores, state.slots, state.units
    c = 0
    if CORES > 1:
        c = unit // UNITS
    u = unit - c * UNITS
    core = c * CORE
    position = units[unit + POSITION]
    slot = c * RING + (position & (RING - 1))
    record = slots[slot + RECORD_AT]
    crossed = units[unit + CROSSED_AT] if LINKS > 0 else 0
    until = max(units[unit + BEGAN] + state.records[record + OCCUPANCY], max(t, crossed))
    done = until + max(state.records[record + DRAIN], 0) + ARRIVAL
    done += LINK_ARRIVAL if crossed > 0 else 0
    done = max(done, units[unit + LANDED])
    units[unit + FREE] = until
    units[unit + LANDED] = done
    slots[slot + DONE] = done
    waited = until - units[unit + BEGAN] - units[unit + WORK]
    state.counts[account_of(c, u) + (LINK if until == crossed else DRAM)] += waited
    cores[core + SOONEST] = min(cores[core + SOONEST], done)
    if state.now[units[unit + KIND_AT] + COPIES] == 0:
        state.counts[account_of(c, UNITS) + BUSY] += max(0, until - cores[core + UNTIL])
        cores[core + UNTIL] = max(cores[core + UNTIL], until)
        cores[core + MOVING] -= 1
    if TRACE:
        began = units[unit + BEGAN]
        state.trace[(position * CORES + c) * EVENT + 1] = (until - began) | (done - began) << 32
        if done - slots[slot + FETCHED] >= 1 << 31:
            state.now[WIDE] = 1
