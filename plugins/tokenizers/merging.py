"""Bytes to tokens by merging pairs, the lowest rank first.

Tokens are merged inside 3 places of ids a byte: the tokens from `base` on, the rank of each with
the next one from `ranks` on, and if they are many, behind those the least ranks of every 1 << FAN
of them, then of those, and so on up to one.
"""

from __future__ import annotations

from typing import NamedTuple

from infinisa.runtime.jit.bits import apart, static

from .arrays import I32, I64, U8
from .lookup import find, may_have

NO_RANK = 0x7FFFFFFF
SCANNED = 256
"""Tokens that are merged by looking through all ranks; the ranks of more have a tree above them."""

FAN = 4
"""A node of that tree has 1 << FAN below it, a line of the cache."""


class Merges(NamedTuple):
    """Tokens of single bytes, ranks of two bytes [left << 8 | right], ranks of two tokens as a hash
    table and which it may have, tokens by rank."""

    byte_tokens: I32
    byte_ranks: I32
    pairs: I64
    some_pairs: U8
    products: I32


def rank_of(left: int, right: int, merges: Merges) -> int:
    """The rank of two tokens side by side, or NO_RANK."""
    pair = left << 20 | right
    if not may_have(pair, merges.some_pairs):
        return NO_RANK
    rank = find(pair, merges.pairs)
    return rank if rank >= 0 else NO_RANK


def merge_few(ids: I32, base: int, n: int, ranks: int, merges: Merges, fewest: int) -> int:
    """Merge n tokens, the lowest rank first, then the left, as long as they are more than `fewest`;
    how many are left.

    Looks through all ranks each time, and closes the gap.
    """
    while n > fewest:
        best = NO_RANK << 8
        for k in range(n - 1):
            best = min(best, ids[ranks + k] << 8 | k)
        if best >> 8 == NO_RANK:
            break
        at = best & 255
        n -= 1
        joined = merges.products[best >> 8]
        ids[base + at] = joined
        for k in range(at + 1, n):
            ids[base + k] = ids[base + k + 1]
        for k in range(at + 1, n - 1):
            ids[ranks + k] = ids[ranks + k + 1]
        if at > 0:
            ids[ranks + at - 1] = rank_of(ids[base + at - 1], joined, merges)
        if at + 1 < n:
            ids[ranks + at] = rank_of(joined, ids[base + at + 1], merges)
    return n


@apart
def merge_many(ids: I32, base: int, n: int, ranks: int, merges: Merges) -> int:
    """The same with a tree above the ranks, in which a merge changes a few nodes.

    A token that grows stays at its first place; its second and its last one hold minus its width.
    """
    top = ranks
    count = n
    ids[ranks + n - 1] = NO_RANK
    while count > 1:
        for k in range(count, padded(count)):
            ids[top + k] = NO_RANK
        above = top + padded(count)
        for k in range(padded(count) >> FAN):
            ids[above + k] = least(ids, top + (k << FAN))
        top = above
        count = padded(count) >> FAN
    while ids[top] != NO_RANK:
        rank = ids[top]
        place = first_place(rank, ids, n, top)
        join(ids, base, n, ranks, place, merges.products[rank], merges)
    return close(ids, base, n)


def padded(count: int) -> int:
    """How many places a level of the tree has: whole nodes."""
    return count + (1 << FAN) - 1 >> FAN << FAN


def least(ids: I32, below: int) -> int:
    """The least of what is below a node."""
    found = NO_RANK
    for k in static(range(1 << FAN)):
        found = min(found, ids[below + k])
    return found


def first_place(rank: int, ids: I32, n: int, top: int) -> int:
    """The first of n places that has a rank, which is that of the node at `top` above them."""
    height = 0
    count = n
    while count > 1:
        count = padded(count) >> FAN
        height += FAN
    at = 0
    while height > 0:
        height -= FAN
        top -= padded(n + (1 << height) - 1 >> height)
        at = at << FAN
        step = 1 << FAN
        for k in static(range(1 << FAN)):
            step = min(step, k if ids[top + at + k] == rank else 1 << FAN)
        at += step
    return at


def put_rank(ids: I32, n: int, ranks: int, place: int, rank: int) -> None:
    """Write the rank of a place and bring the nodes above it up to date."""
    below = ranks
    count = n
    before = ids[below + place]
    ids[below + place] = rank
    while count > 1:
        below += padded(count)
        node = below + (place >> FAN)
        known = ids[node]
        if rank >= known:
            if before > known:
                return
            rank = least(ids, below - padded(count) + (place >> FAN << FAN))
            if rank == known:
                return
        ids[node] = rank
        before = known
        place = place >> FAN
        count = padded(count) >> FAN


def next_place(ids: I32, base: int, n: int, place: int) -> int:
    """Where the token after the one at `place` is; n after the last."""
    if place + 1 < n and ids[base + place + 1] < 0:
        return place - ids[base + place + 1]
    return place + 1


def join(ids: I32, base: int, n: int, ranks: int, place: int, joined: int, merges: Merges) -> None:
    """Replace the token at `place` and the next one by one that joins them."""
    gone = next_place(ids, base, n, place)
    after = next_place(ids, base, n, gone)
    ids[base + place] = joined
    ids[base + place + 1] = place - after
    ids[base + after - 1] = place - after
    put_rank(ids, n, ranks, gone, NO_RANK)
    rank = NO_RANK
    if after < n:
        rank = rank_of(joined, ids[base + after], merges)
    put_rank(ids, n, ranks, place, rank)
    if place > 0:
        before = place - 1
        if ids[base + before] < 0:
            before = place + ids[base + before]
        put_rank(ids, n, ranks, before, rank_of(ids[base + before], joined, merges))


def close(ids: I32, base: int, n: int) -> int:
    """Move the tokens together; returns how many they are."""
    kept = 0
    place = 0
    while place < n:
        after = next_place(ids, base, n, place)
        ids[base + kept] = ids[base + place]
        kept += 1
        place = after
    return kept
