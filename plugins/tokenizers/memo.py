"""What pieces of text became, remembered: most of a text is pieces that came before.

A memo is 64-bit words. Its first half is for short pieces, in sets of 8, a line of the cache. A set
is two pieces, the newer first, of 4 words each: bytes 0 to 7; bytes 8 to 14, the size << 56 and how
many ids << 60; ids 0 to 2, of 20 bits each; ids 3 to 5. What falls out of a set is what was not
asked for. Its second half is for longer pieces, one in 16 words: the size and how many ids << 8; 64
bytes; ids, 3 a word. So a piece is found by its bytes themselves, never by a hash of them alone. No
memo is one that has not a set.
"""

from __future__ import annotations

import numpy as np

from infinisa.runtime.jit.bits import product, shifted, word

from .arrays import I32, I64, U8, Table, frozen

LONGEST_PIECE = 15
MOST_IDS = 6
SET = 8
LONGEST = 64
MOST = 21
LINE = 4
"""Of longer pieces: bytes, ids, and 1 << LINE words each."""

ID = 0xFFFFF
SPELLING = (1 << 60) - 1
"""The bits of the second word that say which piece it is."""

NO_MEMO = frozen([0], np.int64)

MIX, MIX_HIGH = -7046029254386353131, -4417276706812531889
"""Odd numbers whose bits look random."""


def low_word(text: U8, at: int, size: int) -> int:
    """The first 8 of `size` bytes as a word, with zeros behind."""
    if at + 8 <= len(text):
        whole = word(text, at)
        return whole if size >= 8 else whole & (1 << 8 * size) - 1
    return spelled(text, at, at + size)


def spelled(text: U8, start: int, stop: int) -> int:
    """At most 8 bytes as a word, one after the other."""
    found = 0
    for k in range(start, stop):
        found |= product(text[k], 1 << 8 * (k - start))
    return found


def high_word(text: U8, at: int, size: int) -> int:
    """The bytes from the ninth on, and the size."""
    if size <= 8:
        return size << 56
    return low_word(text, at + 8, size - 8) | size << 56


def home(low: int, high: int, memo: I64) -> int:
    """Where the set of a piece starts."""
    mixed = product(low ^ product(high, MIX_HIGH), MIX)
    return (shifted(mixed, 32) & ((len(memo) >> 4) - 1)) << 3


def recalled(low: int, high: int, home: int, memo: I64) -> int:
    """Where in its set a piece is, or -1."""
    if memo[home] == low and memo[home + 1] & SPELLING == high:
        return home
    if memo[home + 4] == low and memo[home + 5] & SPELLING == high:
        return home + 4
    return -1


def told(at: int, ids: I32, count: int, memo: I64) -> int:
    """Write the ids of a remembered piece, for which there are `MOST_IDS` places; how many."""
    known = shifted(memo[at + 1], 60)
    packed = memo[at + 2]
    ids[count] = packed & ID
    ids[count + 1] = packed >> 20 & ID
    ids[count + 2] = packed >> 40
    if known > 3:
        packed = memo[at + 3]
        ids[count + 3] = packed & ID
        ids[count + 4] = packed >> 20 & ID
        ids[count + 5] = packed >> 40
    return known


def remember(low: int, high: int, home: int, ids: I32, count: int, known: int, memo: I64) -> None:
    """Put a piece and its ids, if they are few enough, first in its set."""
    if known > MOST_IDS:
        return
    for k in range(4):
        memo[home + 4 + k] = memo[home + k]
    memo[home] = low
    memo[home + 1] = high | known << 60
    memo[home + 2] = packed_ids(ids, count, min(known, 3))
    memo[home + 3] = packed_ids(ids, count + 3, known - 3)


def packed_ids(ids: I32, first: int, few: int) -> int:
    """At most 3 ids as a word; none if `few` is below 0."""
    packed = 0
    for k in range(few):
        packed |= ids[first + k] << 20 * k
    return packed


def scattered(text: U8, start: int, stop: int) -> int:
    """63 bits that depend on all of `text[start:stop]`."""
    found = stop - start
    k = start
    while k + 8 <= stop:
        found = product(found ^ word(text, k), MIX)
        found ^= shifted(found, 29)
        k += 8
    found = product(found ^ low_word(text, k, stop - k), MIX_HIGH)
    return shifted(found ^ shifted(found, 32), 1)


def long_home(text: U8, start: int, stop: int, memo: I64) -> int:
    """Where a longer piece is, if it is remembered."""
    half = len(memo) >> 1
    return half + ((scattered(text, start, stop) & ((half >> LINE) - 1)) << LINE)


def is_there(text: U8, start: int, stop: int, home: int, memo: I64) -> bool:
    """Whether that is the piece text[start:stop]."""
    if memo[home] & 0xFF != stop - start:
        return False
    at = start
    place = home + 1
    while at < stop:
        if memo[place] != low_word(text, at, min(stop - at, 8)):
            return False
        at += 8
        place += 1
    return True


def told_long(home: int, ids: I32, count: int, memo: I64) -> int:
    """Write the ids of a longer piece, for which there are two places more than it has; how
    many."""
    known = memo[home] >> 8
    place = home + 9
    for k in range(0, known, 3):
        ids[count + k] = memo[place] & ID
        ids[count + k + 1] = memo[place] >> 20 & ID
        ids[count + k + 2] = memo[place] >> 40
        place += 1
    return known


def remember_long(
    text: U8, start: int, stop: int, home: int, ids: I32, count: int, known: int, memo: I64
) -> None:
    """Put a longer piece and its ids, if they are few enough, at its place."""
    if known > MOST:
        return
    memo[home] = stop - start | known << 8
    place = home + 1
    for at in range(start, stop, 8):
        memo[place] = low_word(text, at, min(stop - at, 8))
        place += 1
    place = home + 9
    for k in range(0, known, 3):
        memo[place] = packed_ids(ids, count + k, min(known - k, 3))
        place += 1


# ---------------------------------------------------------------- tables


def new_memo(sets: int) -> Table:
    """An empty memo of so many sets, a power of two, each in one line of the cache."""
    words = np.zeros(SET * (sets + 1), np.int64)
    first = -words.ctypes.data // words.itemsize % SET
    return words[first : first + SET * sets]
