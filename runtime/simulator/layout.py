"""Where the scoreboard kernel keeps what it knows: arrays of numbers, and the places in them.

The names of the first part stand for one machine and run; `specialised` replaces them. Here are
those of a machine with one unit.
"""

from __future__ import annotations

from collections.abc import MutableSequence
from typing import Annotated, NamedTuple, TypeAlias

Longs: TypeAlias = Annotated[MutableSequence[int], "i64"]
Words: TypeAlias = Annotated[MutableSequence[int], "i32"]
Masks: TypeAlias = Annotated[MutableSequence[int], "masks"]


class State(NamedTuple):
    """The arrays of a run. What waits, runs or is ready are masks: sets of slots.

    now      numbers of the whole run, cores of each core, slots of each slot of each core, units of
             each unit of each core
    masks    sets of slots of each core
    then     for each slot, who waits until it is done; after: who of its unit waits until it has
             started; before: what it waited for (only with HEIGHTS)
    hazards  for each slot of a place (or tensor) and core, who writes (or stores), reads, stores it
    counts   what adds up: accounts, then how often each shape was used
    records  what issues of a shape need
    trace    when each issue started, and so on
    plan     with sizes, table, regs: the stream of issues, see `walk`
    snaps    states to compare with, see `jump`
    sharing  of the channel: who has a transfer, see `fair`, or its banks and rows, see `banked`
    """

    now: Longs
    cores: Longs
    slots: Longs
    units: Longs
    masks: Masks
    then: Masks
    after: Masks
    before: Masks
    hazards: Masks
    counts: Longs
    records: Words
    trace: Longs
    plan: Words
    sizes: Longs
    table: Words
    regs: Longs
    snaps: Longs
    sharing: Longs


# ---- one machine and run

RING = 64
"""Slots of a core's window, of which WINDOW are used at most: 64 or 128."""

CORES = 1
WINDOW = 16
FETCH = 1
ISSUE = 1
ARRIVAL = 0
"""Cycles from the end of a transfer until what came is there."""

CLASSES = 1
UNITS = 1
SINGLE = True
"""Whether each class has one unit."""

READS = 3
WRITES = 1
STORES = 1
"""The most hazards that an issue of the stage has."""

OLDEST = True
"""Whether the policy takes the first issue in program order and the first unit; else it asks
`issue_key` and `unit_key`. IN_ORDER, HEIGHTS: whether it is in order, and looks at heights."""
IN_ORDER = False
HEIGHTS = False
CACHED = False
FAIR = False
"""Whether transfers share the channel fairly; else one has it after the other."""
DRAM_BANKS = 0
"""Banks of the channel, if each has a row open; 0: it has none."""
ROW_MISS = 0
"""Cycles in which a row is opened."""
LINKS = 0
"""Links of the interconnect: one, or one a core; 0: there is none."""
LINK_ARRIVAL = 0
"""Cycles from the end of a crossing until what came is there."""
BANKS = 0
SIDES = 1
"""Banks of a scratchpad with ports, and how many such scratchpads there are: one, or one a core."""
TRACE = False
JUMP = True

# ---- places; those of a whole run

NEVER = 1 << 62

NOW = 27
(TIME, CHANNEL, SKEW, RESUMED, CROSSED, LEADER, ROOM, STEPS, WIDTH, WATCHED, ROW,
 TOUCHED, MISSED, COUNTED, LEAPS, LAPSE, MARK, LEPT, MISSED_BUS, ACTIVE,
 SETTLED_AT, BYTE, CYCLE, WIDE, MISSED_CROSSING, PASSED, MOST_ROWS) = range(NOW)  # fmt: skip
"""TIME is of this cycle, without the SKEW that jumps have added. ROOM: positions that the trace
has, STEPS: cycles that the call may still look at. WIDTH: registers of a core, the first WATCHED of
them are compared; ROW: numbers of a snapshot, the last COUNTED of them are counts. MISSED: cycles
for what a cache does not hold of the issue at hand, if TOUCHED. LEAPS: how often the period of
LAPSE cycles was left out that began at the snapshot at MARK, in cycle LEPT.
CHANNEL is when the channel is free or, where it is shared fairly, when the first of the ACTIVE
transfers ends, and not after TIME if that is not worked out yet; they were settled in cycle
SETTLED_AT, a BYTE is so much work, and the channel does CYCLE of it in a cycle. MISSED_BUS: as
MISSED, in bytes of the channel; MISSED_CROSSING: as MISSED, on a link. WIDE: whether an issue takes
too long for a trace. RESUMED: 1 + the core that had asked for something.
Of a channel with banks: CYCLE is the parts of a cycle in which it counts, PASSED when the last
piece of a row has passed, and MOST_ROWS how many pieces each slot has room for."""

KINDS, KIND_SIZE = NOW, 5
"""Behind them for each unit class: its first unit, the first behind it, whether it copies, and what
it gets of the channel."""
COPIES, CAP, SHARE = 2, 3, 4
"""CAP: of a channel with banks, the parts of a cycle that a byte takes."""

LINK_AT = KINDS + KIND_SIZE * CLASSES
PORTS_AT = LINK_AT + LINKS
"""Behind them when each link is free, and the free ports of each bank."""

CORE = 16
(HEAD, NEXT, LIMIT, HOLDS, SOONEST, UNTIL, SKIPPED, FILLED, FULL_SINCE, FILLED_SKIPPED, LAST,
 UNTIL_FULL, MOVING) = range(13)  # fmt: skip
"""HEAD and NEXT: positions of the oldest issue and of the next. LIMIT: positions before it enter in
this cycle. HOLDS: WINDOW until all have entered, then 0. SOONEST: when the first of those that were
started is done. UNTIL: when units other than copy units are free. SKIPPED: issues that were left
out. FILLED: in how many cycles the window was full until LAST, when issues entered, without those
left out; FULL_SINCE: since when it is full again, -1 if it is not. UNTIL_FULL: FILLED as it was in
cycle UNTIL, if that is before LAST. MOVING: units other than copy units with a transfer of which
the end is not known."""

APART = 8
"""Numbers between the fields of slots: 4 KB apart, what is stored in one would hold up what is read
of another."""

SLOTS = CORES * RING + APART
SLOT_FIELDS = ("RECORD_AT", "UNIT", "WAITS", "FETCHED", "READY", "HOLDER", "DONE", "FILL", "MOVES",
               "BUS", "CROSSES", "HEIGHT", "HELD", "ROWS")  # fmt: skip
(RECORD_AT, UNIT, WAITS, FETCHED, READY, HOLDER, DONE, FILL, MOVES, BUS, CROSSES, HEIGHT,
 HELD, ROWS) = range(0, len(SLOT_FIELDS) * SLOTS, SLOTS)  # fmt: skip
"""A field of all slots, then the next, so that a slot is known by its number alone.
RECORD_AT: where the record of its shape is. HOLDER: (position + 1) * 256 + unit class of the
issue that was waited for last; 0: of none.
FILL: cycles in which the window had been full when the issue entered. MOVES: cycles of its transfer
alone, BUS: bytes of it, CROSSES: cycles of its crossing; only with CACHED. HELD: since when a bank
without free ports has kept it from starting; -1: none has. ROWS: how many pieces of rows it has in
`sharing`. Fields behind FILL are there only if something needs them."""

CLASS_BITS = 8

LANES = CORES * UNITS
LANE_FIELDS = ("FREE", "LANDED", "TAKEN", "FULL_AT", "KIND_AT", "LEFT", "RATE", "PARTS", "CAPPED",
               "POSITION", "BEGAN", "WORK", "CROSSED_AT", "PORTED")  # fmt: skip
(FREE, LANDED, TAKEN, FULL_AT, KIND_AT, LEFT, RATE, PARTS, CAPPED, POSITION, BEGAN,
 WORK, CROSSED_AT, PORTED) = range(0, len(LANE_FIELDS) * LANES, LANES)  # fmt: skip
"""A field of all units, then the next.
FREE: when it is free, LANDED: when its last result is there, TAKEN: how many issues it took.
FULL_AT: FILLED as it was when it became free, if that is before LAST. KIND_AT: where the numbers of
its class are (KINDS). The rest is there only for fair sharing and banks. PORTED: 1 + the record of
which it has taken the ports; 0: none. What is between is of the transfer of the issue at POSITION,
where the channel is shared fairly: LEFT of its work, it does RATE / PARTS of it in a cycle, the
unit BEGAN it and has so much WORK, and its crossing ends in cycle CROSSED_AT (0: it has none)."""

ALIVE, RUNNING, WAITING = range(3)
SETS = WAITING + 3 * CLASSES
"""Issues that are not done, those that were started; behind them for each class those that are
ready, then for each class of one instance all of its issues, then for each class those that were
not started (only with IN_ORDER)."""

HAZARD = 4
WRITERS, READERS, STORERS = range(3)
"""Of a hazard: issues that write or store it, those that read it, and of the first those that store
it; some of these may be done."""

BUSY, ISSUING, QUEUE, DRAM, LINK, BANK, DATA = range(7)
ACCOUNT = DATA + CLASSES
"""Cycles of a unit or, behind those of its units, of a core: waiting for the channel, a link, ports
of a bank; DATA by class."""
CHANNEL_BUSY = 0
USES = 1 + CORES * (UNITS + 1) * ACCOUNT
"""Of the counts: the channel's, then the accounts, then how often each shape was used."""

CLASS, OCCUPANCY, DRAIN, TRANSFER, BYTES, ALONE, HAZARDS = range(7)
"""Of a record; its hazards are reads, then writes, then stores. Where it has less, there are the
first hazards, which stand for none: one for each place in a record."""
NONE = READS + WRITES + STORES
CROSSING = HAZARDS + NONE
PORTS = CROSSING + 1 if LINKS else CROSSING
RECORD = PORTS + BANKS
"""Behind them the cycles of its crossing, if there are LINKS, and its ports of each bank."""

EVENT, INSTANCE_AT = 4, 40
"""Of a trace: the start; then in halves of 32 bits, the first the lower, cycles until the unit is
free and until the issue is done; since it was fetched and since it was ready; then 1 + the position
of its holder (0: it has none) and from bit INSTANCE_AT on the instance."""

# ---- why the kernel returns

FINISHED, SHAPELESS, TOUCHES, FULL, PAUSED, JUMPED = range(6)
"""All is done. The core in the result's place needs a shape; what it does not hold must be
asked of a cache, or in which rows it lies; the trace is full; STEPS are over; loops have jumped."""
