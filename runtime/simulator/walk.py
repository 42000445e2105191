"""How the kernel walks the loops of a stage: a small table of steps, and registers of each core.

`plan` has steps of STEP numbers. A loop begins, and if it has no piece goes to `target`; at its end
it goes back to `target` until all pieces were there. Issues that run ahead see the next piece: the
loop goes ahead, or if there is none to `target`, and then back. A range has a start and a *length
class*: the number of its length among those that it can have. A rotor counts turns modulo slots.
"""

from __future__ import annotations

from ..jit.bits import rare
from .layout import CROSSED, JUMP, LEADER, WIDTH, Longs, State, Words

UNKNOWN = -1
"""The table has no shape for an issue yet."""

ISSUES, STOPS, BEGINS, AHEAD, BACK, ENDS, SHARES = range(7)
"""Kinds of steps."""

STEP = 8
KIND, LOOP, TARGET = range(3)
BASE, DIGITS, DIGITS_END, CLIPS, CLIPS_END, ASKS, ONLY = range(1, 8)
"""Of an issue: its part of `table`, where its digits and clipped dimensions are in `plan`, whether
Python must be asked what it touches, and its shape if it is known and has no other."""

LOOPS = 16
(COUNTER, LENGTH, START, PARENT, ORIGIN, STRIDE, REVERSE, PIECES, ROTORS, ROTORS_END, BLOCK, NUMBER,
 JUMPS, AHEAD_OF, SHIFTS, SHIFTS_END) = range(LOOPS)  # fmt: skip
"""Of a loop: registers of its counter, of the length class and start of its range and its parent's;
then its step, its part of `sizes`, its rotors (register, slots), its block of registers, whether it
may jump, whether it has issues that run ahead, and registers that shift with it."""

BLOCK_SIZE = 8
TRIPS, MOST, TAIL, STATE, SPAN, SINCE, PAUSE, DOUBT = range(BLOCK_SIZE)
"""Registers of a loop: its pieces, the length class of them and of the last; then how it looks for
a period, see `jump`."""

NOT_LOOKING, LOOKING, SETTLED = range(3)
"""STATE: whether a snapshot of this run of a loop is there, and whether looking is over."""

AT = 0
"""The register of the next step."""


def advance(c: int, at: int, state: State) -> int:
    """The step of the next issue of core c, or of the end."""
    plan = state.plan
    base = c * state.now[WIDTH]
    while plan[at + KIND] > STOPS:
        if plan[at + KIND] == SHARES:
            at = share(c, at, base, plan, state.sizes, state.regs)
        else:
            at = turn(c, plan[at + KIND], at, base, state)
    return at


def index_of(at: int, base: int, plan: Words, sizes: Longs, regs: Longs) -> int:
    """The place in `table` of an issue as the registers stand."""
    found = plan[at + BASE]
    for d in range(plan[at + DIGITS], plan[at + DIGITS_END], 2):
        found += regs[base + plan[d]] * plan[d + 1]
    for d in range(plan[at + CLIPS], plan[at + CLIPS_END], CLIP):
        found += clipped_length(d, base, plan, sizes, regs) * plan[d + FACTOR]
    return found


CLIP = 5
EXTENT, OFFSET, TERMS, TERMS_END, FACTOR = range(CLIP)
"""Of a dimension that is cut to its buffer."""

TERM = 7
TERM_START, TERM_LENGTH, TERM_SIZES, BASE_START, BASE_LENGTH, BASE_SIZES, TERM_STRIDE = range(TERM)
"""Of a term: registers of its range, its part of `sizes`, and the same of its base."""


def clipped_length(d: int, base: int, plan: Words, sizes: Longs, regs: Longs) -> int:
    """How much of a dimension is inside."""
    start = plan[d + OFFSET]
    length = 1
    empty = False
    for k in range(plan[d + TERMS], plan[d + TERMS_END], TERM):
        size = sizes[plan[k + TERM_SIZES] + regs[base + plan[k + TERM_LENGTH]]]
        stride = plan[k + TERM_STRIDE]
        begin = regs[base + plan[k + TERM_START]] - regs[base + plan[k + BASE_START]]
        if stride < 0:
            begin += size - sizes[plan[k + BASE_SIZES] + regs[base + plan[k + BASE_LENGTH]]]
        start += stride * begin
        length += max(stride, -stride) * (size - 1)
        empty = empty or size == 0
    inside = min(start + length, plan[d + EXTENT]) - max(start, 0)
    return 0 if empty else max(inside, 0)


@rare
def share(c: int, at: int, base: int, plan: Words, sizes: Longs, regs: Longs) -> int:
    """The piece of core c of a loop over cores: the step after."""
    loop = plan[at + LOOP]
    row = plan[loop + PIECES] + 3 * (regs[base + plan[loop + PARENT]] * plan[loop + STRIDE] + c)
    if sizes[row] == 0:
        return plan[at + TARGET]
    regs[base + plan[loop + LENGTH]] = sizes[row + 1]
    regs[base + plan[loop + START]] = regs[base + plan[loop + ORIGIN]] + sizes[row + 2]
    return at + STEP


def turn(c: int, kind: int, at: int, base: int, state: State) -> int:
    """Begin a loop or take another piece of it: the step after."""
    now, plan, regs = state.now, state.plan, state.regs
    loop = plan[at + LOOP]
    block = base + plan[loop + BLOCK]
    number = 0
    turns = 1
    more = True
    if kind == BEGINS:
        more = begin(loop, base, plan, state.sizes, regs) != 0
    elif kind == BACK:
        turns = -1
        number = regs[base + plan[loop + COUNTER]] - 1
    else:
        number = regs[base + plan[loop + COUNTER]] + 1
        more = number < regs[block + TRIPS]
    if more:
        place(loop, base, number, turns, plan, regs)
    if kind == ENDS:
        if JUMP and more and plan[loop + JUMPS] != 0 and c == now[LEADER]:
            now[CROSSED] = min(now[CROSSED], loop)
        more = not more
    return at + STEP if more else plan[at + TARGET]


def begin(loop: int, base: int, plan: Words, sizes: Longs, regs: Longs) -> int:
    """Begin a loop: how many pieces it has."""
    block = base + plan[loop + BLOCK]
    row = plan[loop + PIECES] + 3 * regs[base + plan[loop + PARENT]]
    regs[block + TRIPS] = sizes[row]
    regs[block + MOST] = sizes[row + 1]
    regs[block + TAIL] = sizes[row + 2]
    if JUMP:
        if regs[block + STATE] == LOOKING:  # in vain: look again after more runs of the loop
            regs[block + DOUBT] = min(2 * regs[block + DOUBT] + 1, 63)
            regs[block + PAUSE] = regs[block + DOUBT]
        regs[block + STATE] = NOT_LOOKING
        if regs[block + PAUSE] > 0:
            regs[block + PAUSE] -= 1
            regs[block + STATE] = SETTLED
    return sizes[row]


def place(loop: int, base: int, number: int, turns: int, plan: Words, regs: Longs) -> None:
    """Make a piece of a loop the one at hand, `turns` (1 or -1) from the last."""
    block = base + plan[loop + BLOCK]
    last = regs[block + TRIPS] - 1
    piece = last - number if plan[loop + REVERSE] != 0 else number
    regs[base + plan[loop + COUNTER]] = number
    regs[base + plan[loop + LENGTH]] = regs[block + TAIL] if piece == last else regs[block + MOST]
    regs[base + plan[loop + START]] = regs[base + plan[loop + ORIGIN]] + piece * plan[loop + STRIDE]
    for r in range(plan[loop + ROTORS], plan[loop + ROTORS_END], 2):
        slots = plan[r + 1]
        turned = regs[base + plan[r]] + turns
        turned = 0 if turned == slots else turned
        regs[base + plan[r]] = slots - 1 if turned < 0 else turned
