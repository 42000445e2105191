"""Steady states: when all that decides what comes next is as it was some turns of a loop ago, the
turns in between repeat until the loop ends, and the kernel leaves them out.

At the end of a cycle in which the leading core went back to the begin of a loop, the state is
compared with a snapshot of an earlier turn; the snapshot is taken anew after 1, 2, 4, ... turns, so
that it is of the steady state at last. Equal is equal for cycles and for accounts: nothing is
estimated. Times do not move: SKEW says how many cycles were left out.

What a state need not have: hazards, and what waits for what, follow from the window.
"""

from __future__ import annotations

from ..jit.bits import bit, rare
from .fair import account_of
from .layout import (
    ALIVE,
    BANKS,
    BEGAN,
    BUSY,
    CHANNEL,
    CLASS_BITS,
    CORE,
    CORES,
    COUNTED,
    CROSSED,
    CROSSED_AT,
    DONE,
    FAIR,
    FETCHED,
    FILL,
    FILLED,
    FILLED_SKIPPED,
    FREE,
    FULL_AT,
    FULL_SINCE,
    HEAD,
    HELD,
    HOLDER,
    LANDED,
    LAPSE,
    LAST,
    LEADER,
    LEAPS,
    LEFT,
    LEPT,
    LINK_AT,
    LINKS,
    MARK,
    NEVER,
    NEXT,
    PORTED,
    POSITION,
    READY,
    RECORD_AT,
    RING,
    ROW,
    RUNNING,
    SETS,
    SETTLED_AT,
    SKEW,
    SKIPPED,
    UNITS,
    UNTIL,
    UNTIL_FULL,
    WAITS,
    WATCHED,
    WIDTH,
    WINDOW,
    Longs,
    State,
)
from .walk import (
    AHEAD_OF,
    BLOCK,
    COUNTER,
    DOUBT,
    LOOKING,
    MOST,
    NUMBER,
    REVERSE,
    SETTLED,
    SHIFTS,
    SHIFTS_END,
    SINCE,
    SPAN,
    STATE,
    STRIDE,
    TAIL,
    TRIPS,
)

GONE = 1 << 40
"""In place of times of an issue that is done."""

PLACES = 1 + 6 * WINDOW
"""Numbers of a window in a snapshot."""

TIMES = 9 * UNITS + 4
"""Numbers of the units of a core in a snapshot."""

SNAPSHOT = 2 + LINKS
"""A snapshot begins with its time and those of the channel and of links; then come, for each core,
the number of its next issue and in how many cycles its window was full."""


@rare
def consider(t: int, state: State) -> bool:
    """Compare with the snapshot of the loop that went round, or take one; whether turns were left
    out."""
    now, plan, regs = state.now, state.plan, state.regs
    loop = now[CROSSED]
    base = now[LEADER] * now[WIDTH]
    block = base + plan[loop + BLOCK]
    row = plan[loop + NUMBER] * now[ROW]
    turn = regs[base + plan[loop + COUNTER]]
    phase = regs[block + STATE]
    if phase == SETTLED:
        return False
    if phase == LOOKING:
        if alike(False, t, loop, row, state):
            regs[block + STATE] = SETTLED
            regs[block + DOUBT] = 0
            turns = most_turns(loop, row, state)
            if turns > 0:
                leap(t, turns, loop, row, state)
            return turns > 0
        if turn - regs[block + SINCE] < regs[block + SPAN]:
            return False
        regs[block + SPAN] *= 2
    else:
        regs[block + SPAN] = 1
    alike(True, t, loop, row, state)
    keep(t, row, state)
    regs[block + STATE] = LOOKING
    regs[block + SINCE] = turn
    return False


def filled(t: int, c: int, cores: Longs) -> int:
    """In how many cycles the window was full until now."""
    since = cores[c * CORE + FULL_SINCE]
    return cores[c * CORE + FILLED] + (t - since if since >= 0 else 0)


def agrees(saving: bool, snaps: Longs, place: int, value: int) -> bool:
    """Keep a number of a snapshot, or compare with it."""
    if saving:
        snaps[place] = value
    return snaps[place] == value


@rare
def keep(t: int, row: int, state: State) -> None:
    """What a snapshot has besides the state."""
    now, cores, snaps = state.now, state.cores, state.snaps
    snaps[row] = t + now[SKEW]
    for c in range(CORES):
        core = c * CORE
        snaps[row + SNAPSHOT + 2 * c] = cores[core + NEXT] + cores[core + SKIPPED]
        snaps[row + SNAPSHOT + 2 * c + 1] = filled(t, c, cores) + cores[core + FILLED_SKIPPED]
    first = row + now[ROW] - now[COUNTED]
    for k in range(now[COUNTED]):
        snaps[first + k] = state.counts[k]


@rare
def alike(saving: bool, t: int, loop: int, row: int, state: State) -> bool:
    """Whether the state is that of the snapshot, but for the turn of the loop; or save it."""
    now = state.now
    same = agrees(saving, state.snaps, row + 1, 0 if FAIR else max(now[CHANNEL] - t, 0))
    for link in range(LINKS):
        free = max(now[LINK_AT + link] - t, 0)
        same = same and agrees(saving, state.snaps, row + 2 + link, free)
    size = PLACES + TIMES + now[WATCHED]
    c = 0
    while c < CORES and same:
        place = row + SNAPSHOT + 2 * CORES + c * size
        same = (
            alike_windows(saving, t, c, place, state)
            and alike_units(saving, t, c, place + PLACES, row, state)
            and alike_walks(saving, c, place + PLACES + TIMES, loop, state)
        )
        c += 1
    return same


def alike_windows(saving: bool, t: int, c: int, place: int, state: State) -> bool:
    """The issues in the window, from the oldest, and where they stand."""
    cores, slots, snaps = state.cores, state.slots, state.snaps
    head = cores[c * CORE + HEAD]
    size = cores[c * CORE + NEXT] - head
    same = agrees(saving, snaps, place, size)
    at = 0
    while at < size and same:
        s = (head + at) & (RING - 1)
        slot = c * RING + s
        when = GONE
        readied = 0
        holder = 0
        full = 0
        held = 0
        if (state.masks[c * SETS + RUNNING] & bit(s)) != 0:
            when = slots[slot + DONE] - t if slots[slot + DONE] != NEVER else -GONE
        elif (state.masks[c * SETS + ALIVE] & bit(s)) != 0:
            when = slots[slot + FETCHED] - t
            full = slots[slot + FILL] - filled(t, c, cores)
            if slots[slot + WAITS] == 0:
                readied = slots[slot + READY] - t
                if slots[slot + HOLDER] != 0:
                    holder = slots[slot + HOLDER] - ((head + at) << CLASS_BITS)
            if BANKS > 0:
                held = slots[slot + HELD] - t if slots[slot + HELD] >= 0 else 1
        same = (
            agrees(saving, snaps, place + 1 + 6 * at, slots[slot + RECORD_AT])
            and agrees(saving, snaps, place + 2 + 6 * at, when)
            and agrees(saving, snaps, place + 3 + 6 * at, readied)
            and agrees(saving, snaps, place + 4 + 6 * at, holder)
            and agrees(saving, snaps, place + 5 + 6 * at, full)
            and agrees(saving, snaps, place + 6 + 6 * at, held)
        )
        at += 1
    return same


def alike_units(saving: bool, t: int, c: int, place: int, row: int, state: State) -> bool:
    """When units are free. For how long they were matters only where they worked since."""
    now, cores, units, snaps = state.now, state.cores, state.units, state.snaps
    same = agrees(saving, snaps, place + 9 * UNITS + 3, now[SETTLED_AT] - t if FAIR else 0)
    u = 0
    while u < UNITS and same:
        unit = c * UNITS + u
        at = place + 9 * u
        landed = max(units[unit + LANDED] - t, 0)
        if BANKS > 0:
            same = agrees(saving, snaps, at + 8, units[unit + PORTED])
        if FAIR and units[unit + FREE] == NEVER:
            same = (
                same
                and agrees(saving, snaps, at, GONE)
                and agrees(saving, snaps, at + 1, landed)
                and alike_transfers(saving, t, unit, at + 4, cores[c * CORE + HEAD], units, snaps)
            )
        else:
            free = units[unit + FREE] - t
            same = (
                same
                and agrees(saving, snaps, at, max(free, 0))
                and agrees(saving, snaps, at + 1, landed)
            )
            if same and (saving or worked(c, u, row, now, state.counts, snaps)):
                full = full_at(t, units[unit + FREE], units[unit + FULL_AT], c, cores)
                same = agrees(saving, snaps, at + 2, free) and agrees(saving, snaps, at + 3, full)
        u += 1
    if same:
        at = place + 9 * UNITS
        free = cores[c * CORE + UNTIL] - t
        same = agrees(saving, snaps, at, max(free, 0))
        if same and (saving or worked(c, UNITS, row, now, state.counts, snaps)):
            until = cores[c * CORE + UNTIL]
            full = full_at(t, until, cores[c * CORE + UNTIL_FULL], c, cores)
            same = agrees(saving, snaps, at + 1, free) and agrees(saving, snaps, at + 2, full)
    return same


def alike_transfers(
    saving: bool, t: int, unit: int, at: int, head: int, units: Longs, snaps: Longs
) -> bool:
    """The transfer of a unit of which the end is not known."""
    crossed = max(units[unit + CROSSED_AT] - t, 0) if LINKS > 0 else 0
    return (
        agrees(saving, snaps, at, units[unit + LEFT])
        and agrees(saving, snaps, at + 1, units[unit + POSITION] - head)
        and agrees(saving, snaps, at + 2, units[unit + BEGAN] - t)
        and agrees(saving, snaps, at + 3, crossed)
    )


def full_at(t: int, free: int, full: int, c: int, cores: Longs) -> int:
    """In how many cycles less the window had been full when a unit became free; 1: that is not
    noted yet."""
    return full - filled(t, c, cores) if free < cores[c * CORE + LAST] else 1


def worked(c: int, u: int, row: int, now: Longs, counts: Longs, snaps: Longs) -> bool:
    """Whether a unit, or behind the last the core, has taken an issue since the snapshot."""
    busy = account_of(c, u) + BUSY
    return snaps[row + now[ROW] - now[COUNTED] + busy] != counts[busy]


def alike_walks(saving: bool, c: int, place: int, loop: int, state: State) -> bool:
    """Where the stream is, but for the turn of the loop."""
    base = c * state.now[WIDTH]
    same = True
    r = 0
    while r < state.now[WATCHED] and same:
        if saving or r != state.plan[loop + COUNTER]:
            same = agrees(saving, state.snaps, place + r, state.regs[base + r])
        r += 1
    return same


def turns_since(c: int, loop: int, row: int, state: State) -> int:
    """Turns of the loop on core c since the snapshot: a period."""
    size = PLACES + TIMES + state.now[WATCHED]
    place = row + SNAPSHOT + 2 * CORES + c * size + PLACES + TIMES
    counter = state.plan[loop + COUNTER]
    return state.regs[c * state.now[WIDTH] + counter] - state.snaps[place + counter]


@rare
def most_turns(loop: int, row: int, state: State) -> int:
    """How many periods can be left out: until some core comes to a piece of another length."""
    plan, regs = state.plan, state.regs
    most = NEVER
    for c in range(CORES):
        period = turns_since(c, loop, row, state)
        if period != 0:
            base = c * state.now[WIDTH]
            block = base + plan[loop + BLOCK]
            turn = regs[base + plan[loop + COUNTER]]
            last = regs[block + TRIPS] - 1 - plan[loop + AHEAD_OF]
            if regs[block + TAIL] != regs[block + MOST]:
                if plan[loop + REVERSE] == 0:
                    last -= 1
                elif turn - period <= plan[loop + AHEAD_OF]:  # the snapshot was of the odd piece
                    last = turn
            most = min(most, max(last - turn, 0) // period)
    return most


@rare
def leap(t: int, turns: int, loop: int, row: int, state: State) -> None:
    """Leave out so many periods: what adds up has been added, and loops have turned."""
    now, cores, units, counts, plan = state.now, state.cores, state.units, state.counts, state.plan
    snaps = state.snaps
    lapse = t + now[SKEW] - snaps[row]
    for c in range(CORES):
        core = c * CORE
        full = filled(t, c, cores) + cores[core + FILLED_SKIPPED]
        full = turns * (full - snaps[row + SNAPSHOT + 2 * c + 1])
        cores[core + FILLED_SKIPPED] += full
        for u in range(UNITS):
            if not worked(c, u, row, now, counts, snaps):
                units[c * UNITS + u + FREE] -= turns * lapse
                units[c * UNITS + u + LANDED] -= turns * lapse
                units[c * UNITS + u + FULL_AT] -= full
        if not worked(c, UNITS, row, now, counts, snaps):
            cores[core + UNTIL] -= turns * lapse
            cores[core + UNTIL_FULL] -= full
        number = cores[core + NEXT] + cores[core + SKIPPED]
        cores[core + SKIPPED] += turns * (number - snaps[row + SNAPSHOT + 2 * c])
        base = c * now[WIDTH]
        pieces = turns * turns_since(c, loop, row, state)
        state.regs[base + plan[loop + COUNTER]] += pieces
        sign = -1 if plan[loop + REVERSE] != 0 else 1
        for k in range(plan[loop + SHIFTS], plan[loop + SHIFTS_END]):
            state.regs[base + plan[k]] += sign * pieces * plan[loop + STRIDE]
    first = row + now[ROW] - now[COUNTED]
    for k in range(now[COUNTED]):
        counts[k] += turns * (counts[k] - snaps[first + k])
    now[SKEW] += turns * lapse
    now[LEAPS] = turns
    now[LAPSE] = lapse
    now[MARK] = row
    now[LEPT] = t
