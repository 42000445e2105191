"""Characters: UTF-8 in, code points and classes out.

A class table is two-stage: `classes[pages[point >> 7] << 7 | point & 127]`. Page 0 comes first, so
an ASCII byte is its own index. A class is one bit, so that a number may stand for several. The sets
behind the tables are in `unicode.json`, written by `tools/unicode_tables.py`.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from infinisa.runtime.jit.bits import product, shifted, word

from .arrays import U8, U16, Table, frozen

OTHER, LOWER, UPPER, CASELESS, MARK, NUMBER, SPACE, NEWLINE = (1 << k for k in range(8))
LETTER = LOWER | UPPER | CASELESS
BLANK = SPACE | NEWLINE
SYMBOL = OTHER | MARK
POINTS = 0x110000
PAGE = 128


class Text(NamedTuple):
    """A text in UTF-8 and the tables of its characters' classes."""

    bytes: U8
    pages: U16
    classes: U8


# ---------------------------------------------------------------- kernels


def code_point(text: U8, at: int, length: int) -> int:
    """The character at `at`, as 8 * point + width; an ill-formed sequence reads as U+FFFD."""
    first = text[at]
    if first < 0x80:
        return first << 3 | 1
    if first < 0xC2 or first > 0xF4:
        return 0xFFFD << 3 | 1
    more = 1 if first < 0xE0 else 2 if first < 0xF0 else 3
    low = 0xA0 if first == 0xE0 else 0x90 if first == 0xF0 else 0x80
    high = 0x9F if first == 0xED else 0x8F if first == 0xF4 else 0xBF
    point = first & (0x3F >> more)
    for k in range(1, more + 1):
        if at + k >= length or text[at + k] < low or text[at + k] > high:
            return 0xFFFD << 3 | k
        point = point << 6 | (text[at + k] & 0x3F)
        low = 0x80
        high = 0xBF
    return point << 3 | (more + 1)


def character(text: Text, at: int, length: int) -> int:
    """The character at `at`, as 8 * class + width."""
    first = text.bytes[at]
    if first < 0x80:
        return text.classes[first] << 3 | 1
    found = code_point(text.bytes, at, length)
    point = found >> 3
    return text.classes[text.pages[point >> 7] << 7 | (point & 127)] << 3 | (found & 7)


def letters(seven: int) -> int:
    """How many of the first seven bytes of a word are ASCII letters, up to one that is none."""
    lower = (seven | 0x20202020202020) & 0x7F7F7F7F7F7F7F
    from_a = lower + 0x1F1F1F1F1F1F1F  # the high bit of each byte: whether it is a or above
    above_z = lower + 0x05050505050505
    others = (from_a ^ 0x80808080808080 | above_z | seven) >> 7 & 0x01010101010101 | 1 << 56
    before = (others & -others) - 1 & 0x01010101010101  # a bit for each byte before the first other
    return shifted(product(before, 0x0101010101010101), 56)


def letters_end(text: U8, at: int) -> int:
    """Where ASCII letters end, or somewhere in them if the text ends soon."""
    while at + 8 <= len(text):
        many = letters(word(text, at))
        at += many
        if many < 7:
            return at
    return at


def run_end(wanted: int, text: Text, at: int, length: int) -> int:
    """Where the run of characters of any class in `wanted` from `at` on ends."""
    while at < length:
        first = text.bytes[at]
        if first < 0x80:
            if text.classes[first] & wanted == 0:
                return at
            at += 1
        else:
            found = character(text, at, length)
            if (found >> 3) & wanted == 0:
                return at
            at += found & 7
    return at


# ---------------------------------------------------------------- tables


@cache
def unicode_sets() -> dict[str, str]:
    """The raw text of every table in `unicode.json`."""
    data = Path(__file__).with_name("unicode.json").read_text("ascii")
    return {str(name): str(value) for name, value in json.loads(data).items()}


@cache
def members(name: str) -> Table:
    """Which code points are in the set of that name: a flag each."""
    flags = np.zeros(POINTS, np.bool_)
    for item in unicode_sets()[name].split():
        first, last = bounds(item)
        flags[first : last + 1] = True
    return frozen(flags, np.bool_)


def bounds(item: str) -> tuple[int, int]:
    """`41-5a` or `aa` as the first and the last code point."""
    first, _, last = item.partition("-")
    return int(first, 16), int(last or first, 16)


@cache
def changes(name: str) -> dict[int, str]:
    """What the mapping of that name makes of the code points that it changes."""
    images: dict[int, str] = {}
    for item in unicode_sets()[name].split():
        points, _, target = item.partition(":")
        first, last = bounds(points)
        image = "".join(chr(int(part, 16)) for part in target.split("+") if part)
        for point in range(first, last + 1):
            shifted = chr(ord(image) + point - first) if len(image) == 1 else image
            images[point] = shifted
    return images


def two_stage(flat: Table) -> tuple[Table, Table]:
    """One value a code point, as (pages, values): equal pages are kept once, page 0 first."""
    seen: dict[bytes, int] = {}
    pages = [seen.setdefault(page.tobytes(), len(seen)) for page in flat.reshape(-1, PAGE)]
    values = np.frombuffer(b"".join(seen), flat.dtype)
    return frozen(pages, np.uint16), frozen(values, flat.dtype.type)


@cache
def piece_classes() -> tuple[Table, Table]:
    """What the regular expressions of byte-level BPE tell apart."""
    flat = np.full(POINTS, OTHER, np.uint8)
    flat[members("letter")] = CASELESS
    flat[members("upper")] = UPPER
    flat[members("lower")] = LOWER
    flat[members("mark")] = MARK
    flat[members("number")] = NUMBER
    flat[members("space")] = SPACE
    flat[[10, 13]] = NEWLINE
    return two_stage(flat)


@cache
def word_classes(punctuation: bool) -> tuple[Table, Table]:
    """Space and other; with `punctuation`, what words are made of is CASELESS."""
    flat = np.full(POINTS, OTHER, np.uint8)
    if punctuation:
        flat[members("word")] = CASELESS
    flat[members("white_space")] = SPACE
    return two_stage(flat)
