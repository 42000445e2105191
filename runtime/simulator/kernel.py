"""The contract as one loop over cycles in which something happens, in restricted Python.

CPython runs it as it is, to be looked at; `compiled_engine` has it compiled. It reads names in
capitals that stand for one machine (`layout`): `specialised` gives the loop for another.

A core keeps its window in a ring of slots. An issue enters the window at a *position* that counts
up, in slot `position % RING`. The arrays are those of `layout.State`.
"""

from __future__ import annotations

from ..jit.bits import Mask, apart, bit, count, first, last, rotated, static
from .banked import pass_rows
from .fair import account_of, ask, divide, end_transfers
from .jump import consider
from .layout import (
    ACTIVE,
    ALIVE,
    ALONE,
    ARRIVAL,
    BANK,
    BANKS,
    BUS,
    BUSY,
    BYTES,
    CACHED,
    CHANNEL,
    CHANNEL_BUSY,
    CLASS,
    CLASS_BITS,
    CLASSES,
    COPIES,
    CORE,
    CORES,
    CROSSED,
    CROSSED_AT,
    CROSSES,
    CROSSING,
    DATA,
    DONE,
    DRAIN,
    DRAM,
    DRAM_BANKS,
    EVENT,
    FAIR,
    FETCH,
    FETCHED,
    FILL,
    FILLED,
    FINISHED,
    FREE,
    FULL,
    FULL_AT,
    FULL_SINCE,
    HAZARD,
    HAZARDS,
    HEAD,
    HEIGHT,
    HEIGHTS,
    HELD,
    HOLDER,
    HOLDS,
    IN_ORDER,
    INSTANCE_AT,
    ISSUE,
    ISSUING,
    JUMP,
    JUMPED,
    KIND_SIZE,
    KINDS,
    LANDED,
    LAST,
    LEADER,
    LIMIT,
    LINK,
    LINK_ARRIVAL,
    LINK_AT,
    LINKS,
    MISSED,
    MISSED_BUS,
    MISSED_CROSSING,
    MOVES,
    MOVING,
    NEVER,
    NEXT,
    OCCUPANCY,
    OLDEST,
    PAUSED,
    PORTED,
    QUEUE,
    READERS,
    READS,
    READY,
    RECORD,
    RECORD_AT,
    RESUMED,
    RING,
    ROOM,
    ROWS,
    RUNNING,
    SETS,
    SHAPELESS,
    SINGLE,
    SKIPPED,
    SOONEST,
    STEPS,
    STORERS,
    STORES,
    TAKEN,
    TIME,
    TOUCHED,
    TOUCHES,
    TRACE,
    TRANSFER,
    UNIT,
    UNITS,
    UNTIL,
    UNTIL_FULL,
    USES,
    WAITING,
    WAITS,
    WIDE,
    WIDTH,
    WINDOW,
    WRITERS,
    WRITES,
    Longs,
    Masks,
    State,
    Words,
)
from .ports import give_ports, ports_given, take_ports, with_ports
from .walk import ASKS, AT, KIND, ONLY, STEP, STOPS, advance, index_of

HOLDER_CLASS = (1 << CLASS_BITS) - 1


def issue_key(
    number: int, occupancy: int, transfer: int, work: int, latency: int, height: int, waited: int
) -> int:
    """The key of a ready issue; another policy has another."""
    return number


def unit_key(instance: int, busy: int, issues: int) -> int:
    """The key of a free unit; another policy has another."""
    return instance


# long: the phases of a cycle, and each reason to return
def run(
    now: Longs,
    cores: Longs,
    slots: Longs,
    units: Longs,
    masks: Masks,
    then: Masks,
    after: Masks,
    before: Masks,
    hazards: Masks,
    counts: Longs,
    records: Words,
    trace: Longs,
    plan: Words,
    sizes: Longs,
    table: Words,
    regs: Longs,
    snaps: Longs,
    sharing: Longs,
) -> int:
    """Simulate until all is done or something is needed: why it returns."""
    state = State(
        now, cores, slots, units, masks, then, after, before, hazards, counts, records, trace, plan,
        sizes, table, regs, snaps, sharing,
    )  # fmt: skip
    t = now[TIME]
    resumed = now[RESUMED]
    now[RESUMED] = 0
    while True:
        if resumed == 0:
            if FAIR and now[ACTIVE] > 0 and now[CHANNEL] <= t:
                end_transfers(t, state)
            for c in range(CORES):
                core = c * CORE
                if cores[core + SOONEST] == t:
                    complete(t, c, state)
                    retire(c, cores, masks)
            if BANKS > 0:
                give_ports(t, now, units, records)
        for c in range(CORES):
            core = c * CORE
            room = cores[core + HEAD] + cores[core + HOLDS]
            if c + 1 >= resumed and cores[core + NEXT] < room:
                if c + 1 != resumed:
                    cores[core + LIMIT] = min(cores[core + NEXT] + FETCH, room)
                reason = fetch(t, c, state)
                if reason != FINISHED:
                    now[TIME] = t
                    now[RESUMED] = c + 1
                    return reason
        resumed = 0
        soonest = NEVER
        for c in range(CORES):
            core = c * CORE
            if OLDEST and not IN_ORDER and BANKS == 0:
                soonest = issue(t, c, soonest, state)
            else:
                soonest = issue_chosen(t, c, soonest, state)
            soonest = min(soonest, cores[core + SOONEST])
            if cores[core + NEXT] < cores[core + HEAD] + cores[core + HOLDS]:
                soonest = t + 1
        if BANKS > 0:
            soonest = min(soonest, ports_given(units))
        if FAIR and now[ACTIVE] > 0:
            if now[CHANNEL] <= t:
                divide(t, now, units, sharing)
            soonest = min(soonest, now[CHANNEL])
        jumped = False
        if JUMP and now[CROSSED] != NEVER and now[LEADER] < CORES:
            jumped = consider(t, state)
            now[CROSSED] = NEVER
        if soonest == NEVER:
            return FINISHED
        t = soonest
        now[STEPS] -= 1
        if now[STEPS] < 0 or (TRACE and jumped):
            now[TIME] = t
            return JUMPED if TRACE and jumped else PAUSED


# ---- end


def complete(t: int, c: int, state: State) -> None:
    """End what is done now, and find out when the next is."""
    head = state.cores[c * CORE + HEAD]
    soonest = NEVER
    left = state.masks[c * SETS + RUNNING]
    while left != 0:
        s = first(left)
        left = left & (left - 1)
        done = state.slots[c * RING + s + DONE]
        if done == t:
            end(t, c, s, head + ((s - head) & (RING - 1)), state)
        else:
            soonest = min(soonest, done)
    state.cores[c * CORE + SOONEST] = soonest


def end(t: int, c: int, s: int, position: int, state: State) -> None:
    """The results of the issue in slot s are there."""
    slots, masks, hazards = state.slots, state.masks, state.hazards
    gone = ~bit(s)
    slot = c * RING + s
    unit = slots[slot + UNIT]
    record = slots[slot + RECORD_AT] + HAZARDS
    masks[c * SETS + ALIVE] = masks[c * SETS + ALIVE] & gone
    masks[c * SETS + RUNNING] = masks[c * SETS + RUNNING] & gone
    own = c * SETS + WAITING + CLASSES + unit
    masks[own] = masks[own] & gone
    for k in static(range(READS)):
        h = state.records[record + k] + c * HAZARD + READERS
        hazards[h] = hazards[h] & gone
    for k in static(range(READS, READS + WRITES + STORES)):
        h = state.records[record + k] + c * HAZARD + WRITERS
        hazards[h] = hazards[h] & gone
    waiting = state.then[c * RING + s]
    if waiting != 0:
        state.then[c * RING + s] = 0
        holder = ((position + 1) << CLASS_BITS) + unit
        while waiting != 0:
            free(t, c, first(waiting), holder, slots, masks)
            waiting = waiting & (waiting - 1)


def free(t: int, c: int, s: int, holder: int, slots: Longs, masks: Masks) -> None:
    """The issue in slot s has one less to wait for; of several that happen in a cycle, the youngest
    was the last."""
    slot = c * RING + s
    other = slots[slot + HOLDER]
    slots[slot + HOLDER] = max(holder, other if slots[slot + READY] == t else 0)
    slots[slot + READY] = t
    waits = slots[slot + WAITS] - 1
    slots[slot + WAITS] = waits
    if waits == 0:
        ready = c * SETS + WAITING + slots[slot + UNIT]
        masks[ready] = masks[ready] | bit(s)


# ---- fetch


def retire(c: int, cores: Longs, masks: Masks) -> None:
    """Done issues leave the window from its old end."""
    head = cores[c * CORE + HEAD]
    alive = masks[c * SETS + ALIVE]
    if alive == 0:
        head = cores[c * CORE + NEXT]
    else:
        head += first(rotated(alive, head, RING))
    cores[c * CORE + HEAD] = head


def note_free(t: int, c: int, cores: Longs, units: Longs) -> None:
    """Before issues enter: in how many cycles the window has been full, and had been when units
    became free. It was full all the time since issues entered last, or not at all."""
    core = c * CORE
    last = cores[core + LAST]
    was_full = cores[core + FULL_SINCE] >= 0
    filled = cores[core + FILLED]
    filled += t - last if was_full else 0
    if SINGLE:
        for u in static(range(CLASSES)):
            note_unit(t, c * UNITS + u, last, was_full, filled, units)
    else:
        for u in range(UNITS):
            note_unit(t, c * UNITS + u, last, was_full, filled, units)
    until = cores[core + UNTIL]
    if until >= last:
        cores[core + UNTIL_FULL] = filled - (t - until if was_full else 0)
    cores[core + FILLED] = filled
    cores[core + LAST] = t


def note_unit(t: int, unit: int, last: int, was_full: bool, filled: int, units: Longs) -> None:
    """A unit that is not free yet is noted again later."""
    free_at = units[unit + FREE]
    if free_at >= last:
        units[unit + FULL_AT] = filled - (t - free_at if was_full else 0)


def fetch(t: int, c: int, state: State) -> int:
    """Issues enter the window of core c: why not, if something is needed first."""
    now, cores, plan, regs = state.now, state.cores, state.plan, state.regs
    core = c * CORE
    walk = c * now[WIDTH]
    position = cores[core + NEXT]
    limit = cores[core + LIMIT]
    if TRACE and limit > now[ROOM]:
        return FULL + (c << CLASS_BITS)
    reason = FINISHED
    note_free(t, c, cores, state.units)
    at = regs[walk + AT]
    while position < limit:
        at = advance(c, at, state)
        if plan[at + KIND] == STOPS:
            cores[core + HOLDS] = 0
            pass_lead(now, cores)
            break
        shape = plan[at + ONLY]
        if shape < 0:
            shape = state.table[index_of(at, walk, plan, state.sizes, regs)]
            if shape < 0:
                reason = SHAPELESS + (c << CLASS_BITS)
                break
        if (CACHED or DRAM_BANKS > 0) and plan[at + ASKS] != 0 and now[TOUCHED] == 0:
            reason = TOUCHES + (c << CLASS_BITS)
            break
        at += STEP
        behind = enter(t, c, position, shape, state)
        state.slots[c * RING + (position & (RING - 1)) + FILL] = cores[core + FILLED]
        state.counts[USES + shape] += 1
        if HEIGHTS:
            state.before[c * RING + (position & (RING - 1))] = behind
            climb(c, position, state)
        position += 1
    regs[walk + AT] = at
    cores[core + NEXT] = position
    cores[core + FULL_SINCE] = t if position == cores[core + HEAD] + WINDOW else -1
    return reason


def pass_lead(now: Longs, cores: Longs) -> None:
    """The first core that has not fetched all leads: jumps are looked for at its loops."""
    leader = 0
    while leader < CORES and cores[leader * CORE + HOLDS] == 0:
        leader += 1
    now[LEADER] = leader


def enter(t: int, c: int, position: int, shape: int, state: State) -> Mask:
    """An issue of this shape enters the window: what it must wait for."""
    masks, hazards, records = state.masks, state.hazards, state.records
    s = position & (RING - 1)
    own = bit(s)
    record = shape * RECORD
    unit = records[record + CLASS]
    sets = c * SETS
    touched = record + HAZARDS
    follow: Mask = 0
    replace: Mask = 0
    for k in static(range(READS)):
        h = records[touched + k] + c * HAZARD
        follow = follow | hazards[h + WRITERS]
    for k in static(range(READS, READS + WRITES)):
        h = records[touched + k] + c * HAZARD
        replace = replace | hazards[h + WRITERS] | hazards[h + READERS]
    for k in static(range(READS + WRITES, READS + WRITES + STORES)):
        h = records[touched + k] + c * HAZARD
        replace = replace | (hazards[h + WRITERS] & ~hazards[h + STORERS]) | hazards[h + READERS]
    touch(c, touched, own, hazards, records)
    alike = sets + WAITING + CLASSES + unit
    same = replace & masks[alike]
    follow = follow | (replace & ~same)
    behind = same & ~masks[sets + RUNNING] & ~follow
    if SINGLE or records[record + ALONE] != 0:
        masks[alike] = masks[alike] | own
    masks[sets + ALIVE] = masks[sets + ALIVE] | own
    earlier = follow | behind
    waits = count(follow) + count(behind)
    if IN_ORDER:
        unstarted = sets + WAITING + 2 * CLASSES + unit
        masks[unstarted] = masks[unstarted] | own
    fill(t, c * RING + s, record, waits, state)
    if waits == 0:
        masks[sets + WAITING + unit] = masks[sets + WAITING + unit] | own
    while follow != 0:
        other = c * RING + first(follow)
        state.then[other] = state.then[other] | own
        follow = follow & (follow - 1)
    while behind != 0:
        other = c * RING + first(behind)
        state.after[other] = state.after[other] | own
        behind = behind & (behind - 1)
    return earlier


def fill(t: int, slot: int, record: int, waits: int, state: State) -> None:
    """What a slot says of its issue from now on, and what a cache or rows said of it already."""
    now, slots, records = state.now, state.slots, state.records
    slots[slot + RECORD_AT] = record
    slots[slot + UNIT] = records[record + CLASS]
    slots[slot + WAITS] = waits
    slots[slot + FETCHED] = t
    slots[slot + READY] = t if waits == 0 else -1
    slots[slot + HOLDER] = 0
    if BANKS > 0:
        slots[slot + HELD] = -1
    if CACHED:
        slots[slot + MOVES] = records[record + TRANSFER] + now[MISSED]
        slots[slot + BUS] = records[record + BYTES] + now[MISSED_BUS]
        if LINKS > 0:
            slots[slot + CROSSES] = records[record + CROSSING] + now[MISSED_CROSSING]
        now[MISSED] = 0
        now[MISSED_BUS] = 0
        now[MISSED_CROSSING] = 0
    if CACHED or DRAM_BANKS > 0:
        now[TOUCHED] = 0


@apart
def climb(c: int, position: int, state: State) -> None:
    """What a new issue adds to the heights of those that it waits for, and those they wait for."""
    slots = state.slots
    head = state.cores[c * CORE + HEAD]
    slots[c * RING + (position & (RING - 1)) + HEIGHT] = latency_of(
        c * RING + (position & (RING - 1)), slots, state.records
    )
    alive = rotated(state.masks[c * SETS + ALIVE], head, RING)
    higher = bit(position - head)
    while higher != 0:
        ahead = last(higher)
        higher = higher ^ bit(ahead)
        s = c * RING + ((head + ahead) & (RING - 1))
        height = slots[s + HEIGHT]
        # a slot may have been taken by a younger issue since
        older = rotated(state.before[s], head, RING) & alive & (bit(ahead) - 1)
        while older != 0:
            above = first(older)
            older = older & (older - 1)
            slot = c * RING + ((head + above) & (RING - 1))
            raised = latency_of(slot, slots, state.records) + height
            if raised > slots[slot + HEIGHT]:
                slots[slot + HEIGHT] = raised
                higher = higher | bit(above)


def latency_of(slot: int, slots: Longs, records: Words) -> int:
    """Cycles from the start of an issue until it is done, when nothing holds up its transfer."""
    record = slots[slot + RECORD_AT]
    occupancy = records[record + OCCUPANCY]
    drain = records[record + DRAIN]
    moves = moves_of(slot, slots, records)
    crossing = crossing_of(slot, slots, records)
    if moves == 0 and crossing == 0:
        return occupancy + drain
    work = max(occupancy, max(moves, crossing))
    return work + max(drain, 0) + arrival(moves, crossing)


def arrival(moves: int, crossing: int) -> int:
    """Cycles from the end of a transfer, a crossing or both until what came is there."""
    if LINKS == 0:
        return ARRIVAL
    return (ARRIVAL if moves > 0 else 0) + (LINK_ARRIVAL if crossing > 0 else 0)


def moves_of(slot: int, slots: Longs, records: Words) -> int:
    """Cycles of the transfer of an issue when it is alone."""
    return slots[slot + MOVES] if CACHED else records[slots[slot + RECORD_AT] + TRANSFER]


def crossing_of(slot: int, slots: Longs, records: Words) -> int:
    """Cycles that the bytes of an issue take on a link when they are alone there."""
    if LINKS == 0:
        return 0
    return slots[slot + CROSSES] if CACHED else records[slots[slot + RECORD_AT] + CROSSING]


def touch(c: int, touched: int, own: Mask, hazards: Masks, records: Words) -> None:
    """What comes later sees this issue at its hazards. Of those that stand for none, only one that
    is written would hold up what comes later."""
    for k in static(range(READS)):
        h = records[touched + k] + c * HAZARD + READERS
        hazards[h] = hazards[h] | own
    for k in static(range(READS, READS + WRITES)):
        h = records[touched + k] + c * HAZARD
        hazards[h + WRITERS] = own
        hazards[h + READERS] = 0
        hazards[h + STORERS] = 0
        hazards[(k * CORES + c) * HAZARD + WRITERS] = 0
    for k in static(range(READS + WRITES, READS + WRITES + STORES)):
        h = records[touched + k] + c * HAZARD
        hazards[h + WRITERS] = hazards[h + WRITERS] | own
        hazards[h + STORERS] = hazards[h + STORERS] | own


# ---- issue


def issue(t: int, c: int, soonest: int, state: State) -> int:
    """Start ready issues on free units: when another could start, if that is before `soonest`."""
    now, units, masks = state.now, state.units, state.masks
    width = ISSUE
    can = 0  # classes that have a ready issue and a free unit, as bits
    for k in static(range(CLASSES)):
        if masks[c * SETS + WAITING + k] != 0:
            if SINGLE:
                free_at = units[c * UNITS + k + FREE]
            else:
                free_at = next_free(t - 1, c, KINDS + KIND_SIZE * k, now, units)
            if free_at <= t:
                can = can | (1 << k)
            else:
                soonest = min(soonest, free_at)
    while can != 0 and (ISSUE >= UNITS or width > 0):
        k = first(can)
        can = can & (can - 1)
        ready = c * SETS + WAITING + k
        if SINGLE:
            width -= 1
            ahead = first(rotated(masks[ready], state.cores[c * CORE + HEAD], RING))
            start(t, c, k, k, ahead, state)
            if masks[ready] != 0:
                soonest = min(soonest, units[c * UNITS + k + FREE])
        else:
            kind = KINDS + KIND_SIZE * k
            for u in range(now[kind], now[kind + 1]):
                free_at = units[c * UNITS + u + FREE]
                if free_at <= t and masks[ready] != 0 and (ISSUE >= UNITS or width > 0):
                    width -= 1
                    ahead = first(rotated(masks[ready], state.cores[c * CORE + HEAD], RING))
                    start(t, c, k, u, ahead, state)
            if masks[ready] != 0:
                soonest = min(soonest, next_free(t, c, kind, now, units))
    return soonest if can == 0 else t + 1


def issue_chosen(t: int, c: int, soonest: int, state: State) -> int:
    """The same where the policy chooses issues and units, or banks may have no free ports."""
    now, units, masks = state.now, state.units, state.masks
    width = ISSUE
    for k in range(CLASSES):
        ready = c * SETS + WAITING + k
        kind = KINDS + KIND_SIZE * k
        ahead = 0
        while (
            ahead >= 0
            and masks[ready] != 0
            and width > 0
            and next_free(t - 1, c, kind, now, units) <= t
        ):
            left = in_turn(c, k, state.cores, masks)
            if BANKS > 0:
                left = with_ports(t, c, left, state)
            ahead = chosen(t, c, left, state.cores, state.slots, state.records)
            if ahead >= 0:
                width -= 1
                u = free_unit(t, c, now[kind], now[kind + 1], units, state.counts)
                start(t, c, k, u, ahead, state)
        if ahead >= 0 and masks[ready] != 0:
            soonest = min(soonest, next_free(t, c, kind, now, units))
    return soonest


def next_free(t: int, c: int, kind: int, now: Longs, units: Longs) -> int:
    """When a unit of a class can take an issue, after this cycle."""
    soonest = NEVER
    for u in range(now[kind], now[kind + 1]):
        soonest = min(soonest, max(units[c * UNITS + u + FREE], t + 1))
    return soonest


def in_turn(c: int, k: int, cores: Longs, masks: Masks) -> Mask:
    """The ready issues of class k that the order lets start: how far behind the oldest in the
    window they are."""
    head = cores[c * CORE + HEAD]
    left = rotated(masks[c * SETS + WAITING + k], head, RING)
    if IN_ORDER:
        unstarted = rotated(masks[c * SETS + WAITING + 2 * CLASSES + k], head, RING)
        left = left & unstarted & ~(unstarted - 1)
    return left


def chosen(t: int, c: int, left: Mask, cores: Longs, slots: Longs, records: Words) -> int:
    """Which of these issues starts next; -1: there is none."""
    if left == 0:
        return -1
    if OLDEST:
        return first(left)
    head = cores[c * CORE + HEAD]
    best = -1
    least = 0
    while left != 0:
        ahead = first(left)
        left = left & (left - 1)
        slot = c * RING + ((head + ahead) & (RING - 1))
        moves = moves_of(slot, slots, records)
        occupancy = records[slots[slot + RECORD_AT] + OCCUPANCY]
        key = issue_key(
            head + ahead + cores[c * CORE + SKIPPED],
            occupancy,
            moves,
            max(occupancy, max(moves, crossing_of(slot, slots, records))),
            latency_of(slot, slots, records),
            slots[slot + HEIGHT] if HEIGHTS else 0,
            t - slots[slot + READY],
        )
        if best < 0 or key < least:
            best = ahead
            least = key
    return best


def free_unit(t: int, c: int, first_unit: int, end_unit: int, units: Longs, counts: Longs) -> int:
    """The unit of a class that takes an issue next; one is free."""
    best = -1
    least = 0
    for u in range(first_unit, end_unit):
        unit = c * UNITS + u
        if units[unit + FREE] <= t:
            if OLDEST:
                return u
            busy = counts[account_of(c, u) + BUSY]
            key = unit_key(u - first_unit, busy, units[unit + TAKEN])
            if best < 0 or key < least:
                best = u
                least = key
    return best


# long: all that a start changes, and each way that a transfer may take
def start(t: int, c: int, k: int, u: int, ahead: int, state: State) -> None:
    """Unit u of class k takes an issue."""
    now, cores, slots, units, masks = state.now, state.cores, state.slots, state.units, state.masks
    counts, records, trace = state.counts, state.records, state.trace
    head = cores[c * CORE + HEAD]
    s = (head + ahead) & (RING - 1)
    slot = c * RING + s
    masks[c * SETS + WAITING + k] = masks[c * SETS + WAITING + k] ^ bit(s)
    masks[c * SETS + RUNNING] = masks[c * SETS + RUNNING] | bit(s)
    if IN_ORDER:
        unstarted = c * SETS + WAITING + 2 * CLASSES + k
        masks[unstarted] = masks[unstarted] ^ bit(s)
    kind = KINDS + KIND_SIZE * k
    unit = c * UNITS + u
    record = slots[slot + RECORD_AT]
    occupancy = records[record + OCCUPANCY]
    drain = records[record + DRAIN]
    moves = moves_of(slot, slots, records)
    crossing = crossing_of(slot, slots, records)
    work = max(occupancy, moves)
    if LINKS > 0:
        work = max(work, crossing)
    until = t + occupancy
    account = account_of(c, u)
    charge(t, units[unit + FREE], units[unit + FULL_AT], account, slot, slots, counts)
    counts[account + BUSY] += work
    done = until + drain
    crossed = 0
    if LINKS > 0 and crossing > 0:
        link = LINK_AT + (c if LINKS > 1 else 0)
        crossed = max(now[link], t) + crossing
        now[link] = crossed
    if FAIR and moves > 0:
        bus = slots[slot + BUS] if CACHED else records[record + BYTES]
        ask(t, c * UNITS + u, head + ahead, work, bus, state)
        if LINKS > 0:
            units[unit + CROSSED_AT] = crossed
        until = NEVER
        done = NEVER
    elif moves > 0 or crossing > 0:
        channel = t
        if moves > 0:
            if DRAM_BANKS > 0:
                channel = pass_rows(t, c * RING + s, kind, slots[slot + ROWS], now, state.sharing)
                counts[CHANNEL_BUSY] += channel - max(now[CHANNEL], t)
            else:
                channel = max(now[CHANNEL], t) + moves
                counts[CHANNEL_BUSY] += moves
            now[CHANNEL] = channel
        until = max(until, channel)
        if LINKS > 0:
            until = max(until, crossed)
        done = until + max(drain, 0) + arrival(moves, crossing)
        if LINKS > 0 and until == crossed:
            counts[account + LINK] += until - t - work
        else:
            counts[account + DRAM] += until - t - work
    if BANKS > 0:
        take_ports(c, record, now, records)
        units[unit + PORTED] = record + 1
    if now[kind + COPIES] == 0:
        join(t, c, until, slot, cores, slots, counts)
    units[unit + FREE] = until
    if not OLDEST:
        units[unit + TAKEN] += 1
    if not FAIR or until != NEVER:
        done = max(done, units[unit + LANDED])
        units[unit + LANDED] = done
        cores[c * CORE + SOONEST] = min(cores[c * CORE + SOONEST], done)
    slots[slot + DONE] = done
    if TRACE:
        event = ((head + ahead) * CORES + c) * EVENT
        fetched = slots[slot + FETCHED]
        held = slots[slot + HOLDER] >> CLASS_BITS
        trace[event] = t
        trace[event + 2] = (t - fetched) | (t - slots[slot + READY]) << 32
        trace[event + 3] = held if SINGLE else held | (u - now[kind]) << INSTANCE_AT
        if not FAIR or until != NEVER:  # else its end is written when it is known
            trace[event + 1] = (until - t) | (done - t) << 32
            if done - fetched >= 1 << 31:
                now[WIDE] = 1
    waiting = state.after[c * RING + s]
    if waiting != 0:
        state.after[c * RING + s] = 0
        holder = ((head + ahead + 1) << CLASS_BITS) + k
        while waiting != 0:
            free(t, c, first(waiting), holder, slots, masks)
            waiting = waiting & (waiting - 1)


def join(t: int, c: int, until: int, slot: int, cores: Longs, slots: Longs, counts: Longs) -> None:
    """The account of a core when a unit other than a copy unit works until then."""
    core = c * CORE
    account = account_of(c, UNITS)
    worked = cores[core + UNTIL]
    if FAIR and cores[core + MOVING] > 0:
        counts[account + BUSY] += max(0, t - worked)  # the unit that moves has worked since
        worked = max(worked, t)
        cores[core + UNTIL] = worked
    else:
        charge(t, worked, cores[core + UNTIL_FULL], account, slot, slots, counts)
    if FAIR and until == NEVER:
        cores[core + MOVING] += 1
        cores[core + UNTIL] = max(worked, t)
    else:
        counts[account + BUSY] += max(0, until - max(worked, t))
        cores[core + UNTIL] = max(until, worked)


def charge(
    t: int, since: int, full: int, account: int, slot: int, slots: Longs, counts: Longs
) -> None:
    """What the cycles were in which a unit waited for the issue that it takes now; `full` in which
    the window was full until it waited."""
    if since < t:
        fetched = max(slots[slot + FETCHED], since)
        ready = max(slots[slot + READY], fetched)
        queue = slots[slot + FILL] - full
        queue = queue if slots[slot + FETCHED] > since else 0
        held = t
        if BANKS > 0 and slots[slot + HELD] >= 0:
            held = max(slots[slot + HELD], ready)
            counts[account + BANK] += t - held
        counts[account + QUEUE] += queue
        counts[account + ISSUING] += fetched - since - queue + held - ready
        counts[account + DATA + (slots[slot + HOLDER] & HOLDER_CLASS)] += ready - fetched
