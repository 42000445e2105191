"""Finding things in flat tables: numbers to numbers, byte strings to ids, and ids back to text.

A number table is open addressing over 64-bit words, `key << 22 | value`, with -1 for a free slot.
Keys have at most 41 bits and values 22, so that all fits 63 bits: Python and machine integers then
agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from infinisa.runtime.jit.bits import word

from .arrays import I32, I64, U8, Table, frozen
from .memo import scattered
from .native import call

VALUE_BITS = 22
LIMIT = 1 << 20  # tokens, ranks: two of them make a key
SCATTER = 0x5BD1E9  # an odd number of 23 bits

# ---------------------------------------------------------------- kernels


def home(key: int) -> int:
    """Where a key is looked for first, before that is masked: up to 40 bits of it."""
    scattered = (key & 0xFFFFFFFFFF) * SCATTER
    return (scattered ^ scattered >> 20) >> 9


def find(key: int, slots: I64) -> int:
    """The value of `key`, or -1."""
    at = home(key) & (len(slots) - 1)
    while slots[at] >= 0:
        if slots[at] >> 22 == key:
            return slots[at] & 0x3FFFFF
        at = (at + 1) & (len(slots) - 1)
    return -1


def may_have(key: int, some: U8) -> bool:
    """Whether `key` may be in a table, by the bits that `bits_of` makes of it: nearly never if not.

    Most pairs are in no table, and these bits are in a nearer cache than the table is.
    """
    bit = home(key) & (8 * len(some) - 1)
    return some[bit >> 3] >> (bit & 7) & 1 != 0


def find_bytes(text: U8, start: int, stop: int, slots: I64, starts: I32, pool: U8) -> int:
    """The id whose text is `text[start:stop]`, or -1."""
    tag = scattered(text, start, stop)
    at = tag & (len(slots) - 1)
    while slots[at] >= 0:
        if slots[at] >> 22 == tag >> 22:
            token = slots[at] & 0x3FFFFF
            if is_text(token, text, start, stop, starts, pool):
                return token
        at = (at + 1) & (len(slots) - 1)
    return -1


def is_text(token: int, text: U8, start: int, stop: int, starts: I32, pool: U8) -> bool:
    """Whether `text[start:stop]` is the first text of a token."""
    first = starts[2 * token]
    size = starts[2 * token + 1] - first
    if size != stop - start:
        return False
    k = 0
    while k + 8 <= size:
        if word(pool, first + k) != word(text, start + k):
            return False
        k += 8
    while k < size:
        if pool[first + k] != text[start + k]:
            return False
        k += 1
    return True


def enter(token: int, slots: I64, starts: I32, pool: U8) -> None:
    """Put the first text of a token where `find_bytes` finds it; the first of equal ones stays."""
    tag = scattered(pool, starts[2 * token], starts[2 * token + 1])
    at = tag & (len(slots) - 1)
    while slots[at] >= 0:
        at = (at + 1) & (len(slots) - 1)
    slots[at] = tag >> 22 << 22 | token


def enter_all(tokens: I32, slots: I64, starts: I32, pool: U8) -> int:
    """Put these tokens where `find_bytes` finds them; how many."""
    for k in range(len(tokens)):
        enter(tokens[k], slots, starts, pool)
    return len(tokens)


def decode(ids: I32, count: int, text: U8, starts: I32, pool: U8) -> int:
    """Write the text of `ids`; how many bytes, -1 if `text` is too small, -2 for an unknown id.

    Every id has two texts in `pool`: 2 * id when it comes first, 2 * id + 1 when it follows another
    (with a space before it, without its `##`, and so on).
    """
    written = 0
    for k in range(count):
        if ids[k] < 0 or 2 * ids[k] + 2 >= len(starts):
            return -2
        form = 2 * ids[k] + (1 if k > 0 else 0)
        if written + starts[form + 1] - starts[form] > len(text):
            return -1
        for j in range(starts[form], starts[form + 1]):
            text[written] = pool[j]
            written += 1
    return written


# ---------------------------------------------------------------- tables


def slot_count(items: int) -> int:
    """A power of two with at least as many free slots as items."""
    return 1 << max(2, (2 * items).bit_length())


def number_table(keys: Iterable[int], values: Iterable[int]) -> Table:
    """The table that `find` reads. Keys are distinct."""
    key = np.fromiter(keys, np.int64)
    value = np.fromiter(values, np.int64)
    slots = np.full(slot_count(len(key)), -1, np.int64)
    at: Table = home(key) & (len(slots) - 1)  # type: ignore[arg-type, assignment]  # of an array
    waiting = np.arange(len(key))
    while len(waiting):  # each round settles one key a free slot; the others move on by one
        places, first = np.unique(at[waiting], return_index=True)
        free = slots[places] < 0
        settled = waiting[first[free]]
        slots[at[settled]] = key[settled] << VALUE_BITS | value[settled]
        waiting = np.setdiff1d(waiting, settled, assume_unique=True)
        at[waiting] = (at[waiting] + 1) & (len(slots) - 1)
    return frozen(slots, np.int64)


def bits_of(slots: Table) -> Table:
    """A bit for each key of a number table, among four for each slot."""
    flags = np.zeros(4 * len(slots), np.bool_)
    flags[home(slots[slots >= 0] >> VALUE_BITS) & (len(flags) - 1)] = True  # type: ignore[arg-type]  # of an array
    return frozen(np.packbits(flags, bitorder="little"), np.uint8)


def bytes_table(tokens: Sequence[int], starts: Table, pool: Table) -> Table:
    """The slots in which `find_bytes` finds the first texts of these tokens."""
    slots = np.full(slot_count(len(tokens)), -1, np.int64)
    call(enter_all, np.array(tokens, np.int32), slots, starts, pool)
    return frozen(slots, np.int64)


def text_pool(forms: Sequence[tuple[bytes, bytes]]) -> tuple[Table, Table]:
    """The two texts of every id as (starts, pool)."""
    texts = [text for pair in forms for text in pair]
    starts = np.cumsum([0, *map(len, texts)])
    return frozen(starts, np.int32), frozen(np.frombuffer(b"".join(texts), np.uint8), np.uint8)
