"""The contract as one loop over cycles in which something happens, in restricted Python.

CPython runs it as it is, to be looked at; `compiled_engine` has it compiled. It reads names in
capitals that stand for one machine (`layout`): `specialised` gives the loop for another.

A core keeps its window in a ring of slots. What waits, runs or is ready are masks: sets of slots.
An issue enters the window at a *position* that counts up, in slot `position % RING`. The arrays:

now       numbers of the whole run        cores    of each core
slots     of each slot of each core       units    of each unit of each core
masks     sets of slots of each core      then     for each slot, who waits until it is done
after     for each slot, who of its unit waits until it has started
hazards   for each slot of a place (or tensor) and core, who writes, reads and stores it
counts    what adds up: accounts, then how often each shape was used
records   what issues of a shape need     trace    when each issue started, and so on
plan, sizes, table, regs                  the stream of issues, see `walk`
snaps     states to compare with, see `jump`
"""

from __future__ import annotations

from ..jit.bits import Mask, bit, count, first, rotated, static
from .jump import consider
from .layout import (
    ACCOUNT,
    ALIVE,
    ALONE,
    ARRIVAL,
    BUSY,
    CACHED,
    CHANNEL,
    CLASS_BITS,
    CLASSES,
    COPIES,
    CORE,
    CORES,
    COUNTS,
    CROSSED,
    DATA,
    DONE,
    DRAIN,
    DRAM,
    END,
    ENDED,
    EVENT,
    FETCH,
    FETCHED,
    FINISHED,
    FIRST,
    FREE,
    FULL,
    HAZARD,
    HAZARDS,
    HEAD,
    HOLDER,
    ISSUE,
    ISSUING,
    JUMP,
    JUMPED,
    LANDED,
    LEADER,
    LIMIT,
    MISSED,
    MOVES,
    NEVER,
    NEXT,
    OCCUPANCY,
    OLDEST,
    PAUSED,
    READERS,
    READS,
    READY,
    RECORD,
    RESUMED,
    RING,
    ROOM,
    RUNNING,
    SETS,
    SHAPE,
    SHAPELESS,
    SLOT,
    SOONEST,
    STEPS,
    STORERS,
    STORES,
    TIME,
    TOUCHED,
    TOUCHES,
    TRACE,
    TRANSFER,
    UNIT,
    UNITS,
    UNTIL,
    USES,
    WAITING,
    WAITS,
    WINDOW,
    WRITER,
    WRITES,
    Longs,
    Masks,
    Words,
)
from .walk import AT, CACHES, OVER, STEP, UNKNOWN, advance
