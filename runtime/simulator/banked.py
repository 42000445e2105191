"""A channel with rows that are open in banks, in the kernel: the rule of `memory.BankedChannel`.

`sharing` has for each bank its open row (-1: none) and when its last piece has passed, in parts of
a cycle; then for each slot of each core the pieces of its issue: row (-1: not known) and bytes.
"""

from __future__ import annotations

from .layout import CAP, CYCLE, DRAM_BANKS, MOST_ROWS, PASSED, ROW_MISS, Longs

PIECE_ROW, PIECE_BYTES, PIECE_SIZE = range(3)
OPEN_ROW, PASSED_AT, BANK_SIZE = range(3)


def pass_rows(t: int, s: int, kind: int, count: int, now: Longs, sharing: Longs) -> int:
    """The pieces of slot s pass, one after the other: the cycle in which the last has."""
    cycle = now[CYCLE]
    passed = now[PASSED]
    pieces = DRAM_BANKS * BANK_SIZE + s * now[MOST_ROWS] * PIECE_SIZE
    for k in range(count):
        piece = pieces + k * PIECE_SIZE
        row = sharing[piece + PIECE_ROW]
        passed = max(passed, opened(row, t * cycle, cycle, sharing))
        passed += sharing[piece + PIECE_BYTES] * now[kind + CAP]
        if row >= 0:
            bank = row % DRAM_BANKS * BANK_SIZE
            sharing[bank + OPEN_ROW] = row
            sharing[bank + PASSED_AT] = passed
    now[PASSED] = passed
    return (passed + cycle - 1) // cycle


def opened(row: int, asked: int, cycle: int, sharing: Longs) -> int:
    """When a row that was asked for is open; one that is not known is in a bank of its own."""
    opening = ROW_MISS * cycle
    if row < 0:
        return asked + opening
    bank = row % DRAM_BANKS * BANK_SIZE
    if sharing[bank + OPEN_ROW] == row:
        return asked
    return max(asked, sharing[bank + PASSED_AT]) + opening
