"""BERT's WordPiece: normalise, split, match greedily.

    text ──cells──► words as they stand ──memo──► ids            most words came before
                      └──► without accents and case ──match_word──► ids

Each code point has one cell: an action, and the normalised code points that stand for it. A word is
normalised in the free rest of `ids` and replaced there by its ids, which are never more than they.
"""

# ruff: noqa: SIM109 (restricted Python has no `in`)

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from infinisa.isa.errors import ModelError
from infinisa.runtime.jit.bits import apart

from .arrays import I32, I64, U8, U16, Table, frozen
from .characters import POINTS, changes, code_point, letters_end, members, two_stage
from .lookup import LIMIT, decode, find, number_table, text_pool
from .memo import (
    LONGEST,
    LONGEST_PIECE,
    MOST,
    MOST_IDS,
    NO_MEMO,
    SET,
    high_word,
    home,
    is_there,
    long_home,
    low_word,
    recalled,
    remember,
    remember_long,
    told,
    told_long,
)
from .tables import Section, frame, names_by_id, unknown_id, vocabulary
from .tokenizer import AddedToken, Frame, Tokenizer

KEEP, DROP, BREAK, ALONE = range(4)  # part of a word; nothing; a space; a word of its own
FIRST, CONTINUED = 0, 1  # the roots of the trie: a word's first token, its other tokens
POINT_BITS = 21


class Tables(NamedTuple):
    """What becomes of characters, the trie of tokens, and the settings of `encode`."""

    pages: U16
    cells: I32
    replacements: I32
    edges: I64
    ends: I32
    settings: I32


# ---------------------------------------------------------------- kernels


def match_word(ids: I32, base: int, size: int, edges: I64, ends: I32, unknown: int) -> int:
    """Replace the code points of a word at `base` by the ids of its longest tokens; how many.

    A word whose rest matches nothing is unknown as a whole: one id, or -2 where there is none.
    """
    count = 0
    at = 0
    while at < size:
        node = FIRST if at == 0 else CONTINUED
        stop = at
        last = -1
        k = at
        while k < size:
            node = find(node << POINT_BITS | ids[base + k], edges)
            if node < 0:
                break
            k += 1
            if node < len(ends):
                last = node
                stop = k
        if last < 0:
            ids[base] = unknown
            return 1 if unknown >= 0 else -2
        ids[base + count] = ends[last]
        count += 1
        at = stop
    return count


def append(point: int, cell: int, ids: I32, end: int, replacements: I32) -> int:
    """Write what a cell makes of a character, a code point a place; returns the new end."""
    size = cell >> 2 & 63
    if size <= 1:
        ids[end] = point if size == 0 else cell >> 8
        return end + 1
    for k in range(size):
        ids[end + k] = replacements[(cell >> 8) + k]
    return end + size


def cell_at(found: int, pages: U16, cells: I32) -> int:
    """The cell of a character as `code_point` gives it."""
    point = found >> 3
    return cells[pages[point >> 7] << 7 | (point & 127)]


def word_end(text: U8, at: int, length: int, pages: U16, cells: I32) -> int:
    """Where what is part of a word, or is dropped, ends."""
    at = letters_end(text, at)
    while at < length:
        first = text[at]
        if first < 0x80:
            if cells[first] & 3 >= BREAK:
                return at
            at += 1
        else:
            found = code_point(text, at, length)
            if cell_at(found, pages, cells) & 3 >= BREAK:
                return at
            at += found & 7
    return at


@apart
def fresh_ids(text: U8, at: int, stop: int, ids: I32, base: int, tables: Tables) -> int:
    """The ids of a word, from `base` on; how many, -1 if there is no room, -2 if it has none."""
    end = base
    while at < stop:
        found = code_point(text, at, stop)
        cell = cell_at(found, tables.pages, tables.cells)
        if cell & 3 != DROP:
            size = cell >> 2 & 63
            if end + max(size, 1) > len(ids):
                return -1
            end = append(found >> 3, cell, ids, end, tables.replacements)
        at += found & 7
    if end == base:
        return 0
    unknown = tables.settings[0]
    if end - base > tables.settings[1]:
        ids[base] = unknown
        return 1 if unknown >= 0 else -2
    return match_word(ids, base, end - base, tables.edges, tables.ends, unknown)


def encode(
    text: U8,
    length: int,
    ids: I32,
    pages: U16,
    cells: I32,
    replacements: I32,
    edges: I64,
    ends: I32,
    settings: I32,
    memo: I64,
) -> int:
    """The ids of a UTF-8 text; how many.

    `settings` are the unknown id and how many characters the longest word has.
    """
    tables = Tables(pages, cells, replacements, edges, ends, settings)
    count = 0
    at = 0
    while at < length:
        if text[at] < 0x80:
            action = cells[text[at]] & 3
            stop = at + 1
        else:
            found = code_point(text, at, length)
            action = cell_at(found, pages, cells) & 3
            stop = at + (found & 7)
        if action == KEEP:
            stop = word_end(text, stop, length, pages, cells)
        if action == KEEP or action == ALONE:
            known = word_ids(text, at, stop, ids, count, tables, memo)
            if known < 0:
                return known
            count += known
        at = stop
    return count


@apart
def long_word_ids(
    text: U8, at: int, stop: int, ids: I32, count: int, tables: Tables, memo: I64
) -> int:
    """The same of a word that is long, or where there is little room."""
    if stop - at > LONGEST or len(memo) < SET or count + MOST + 2 > len(ids):
        return fresh_ids(text, at, stop, ids, count, tables)
    place = long_home(text, at, stop, memo)
    if is_there(text, at, stop, place, memo):
        return told_long(place, ids, count, memo)
    known = fresh_ids(text, at, stop, ids, count, tables)
    if known >= 0:
        remember_long(text, at, stop, place, ids, count, known, memo)
    return known


def word_ids(text: U8, at: int, stop: int, ids: I32, count: int, tables: Tables, memo: I64) -> int:
    """The same as `fresh_ids`, from the memo if the word came before."""
    if stop - at > LONGEST_PIECE or len(memo) < SET or count + MOST_IDS > len(ids):
        return long_word_ids(text, at, stop, ids, count, tables, memo)
    low = low_word(text, at, stop - at)
    high = high_word(text, at, stop - at)
    place = home(low, high, memo)
    found = recalled(low, high, place, memo)
    if found >= 0:
        return told(found, ids, count, memo)
    known = fresh_ids(text, at, stop, ids, count, tables)
    if known >= 0:
        remember(low, high, place, ids, count, known, memo)
    return known


# ---------------------------------------------------------------- tables: characters


@dataclass(frozen=True)
class Normaliser:
    """The steps of BERT's normaliser, in their order."""

    clean_text: bool = True
    ideographs: bool = True
    strip_accents: bool = True
    lower_case: bool = True

    def image(self, point: int) -> str:
        """What the last two steps make of a character."""
        text = chr(point)
        if self.strip_accents:
            text = stripped(text)
        if self.lower_case:
            text = "".join(changes("lower_case").get(ord(c), c) for c in text)
        return text


def stripped(character: str) -> str:
    """A character taken apart, without its accents."""
    if 0xAC00 <= ord(character) <= 0xD7A3:  # Hangul: by arithmetic, the same in every Unicode
        return unicodedata.normalize("NFD", character)
    return changes("strip_accents").get(ord(character), character)


@lru_cache(maxsize=4)
def cell_tables(steps: Normaliser) -> tuple[Table, Table, Table]:
    """(pages, cells, replacements). A cell is action:2, size:6, offset:24; size 0: no change; 1:
    the offset is the code point."""
    flat = actions(steps)
    pool: list[int] = []
    for point in changing(steps):
        image = steps.image(point)
        if flat[point] in (DROP, BREAK) or image == chr(point):
            continue
        if image == "":
            flat[point] = DROP
            continue
        offset = ord(image) if len(image) == 1 else len(pool)
        flat[point] = action_of(image, int(flat[point])) | len(image) << 2 | offset << 8
        if len(image) > 1:
            pool += map(ord, image)
    pages, cells = two_stage(flat)
    return pages, cells, frozen(pool, np.int32)


def actions(steps: Normaliser) -> Table:
    """What happens to every code point, as it stands."""
    flat = np.full(POINTS, KEEP, np.int32)
    flat[members("punctuation")] = ALONE
    if steps.ideographs:
        flat[members("ideograph")] = ALONE
    flat[members("white_space")] = BREAK
    if steps.clean_text:
        flat[members("control")] = DROP
    return flat


def action_of(image: str, before: int) -> int:
    """The action for a changed character: ideographs are set apart before, punctuation after."""
    if before == ALONE and members("ideograph")[ord(image[0])]:
        return ALONE
    return ALONE if members("punctuation")[ord(image[0])] else KEEP


def changing(steps: Normaliser) -> Iterable[int]:
    """The code points that the last two steps may change."""
    points: set[int] = set()
    if steps.strip_accents:
        points.update(changes("strip_accents"))
        points.update(range(0xAC00, 0xD7A4))
    if steps.lower_case:
        points.update(changes("lower_case"))
    return sorted(points)


# ---------------------------------------------------------------- tables: tokens


def trie(tokens: Mapping[str, int], prefix: str, file: str) -> tuple[Table, Table]:
    """(edges, ends): `node << POINT_BITS | code point` to the next node; the token that ends at a
    node. The roots come first, then the nodes where tokens end, then others."""
    forms = [(FIRST, name, token) for name, token in tokens.items() if name]
    forms += [
        (CONTINUED, name[len(prefix) :], token)
        for name, token in tokens.items()
        if name.startswith(prefix) and len(name) > len(prefix)
    ]
    nodes = {(root, ""): root for root in (FIRST, CONTINUED)}
    for root, name, _ in forms:
        nodes.setdefault((root, name), len(nodes))
    ends = np.full(len(nodes), -1, np.int32)
    for root, name, token in forms:
        ends[nodes[root, name]] = token
        for k in range(1, len(name)):
            nodes.setdefault((root, name[:k]), len(nodes))
    if len(nodes) > LIMIT:
        raise ModelError(
            f"{file}: model.vocab must have at most {LIMIT} prefixes, not {len(nodes)}"
        )
    edges = {
        nodes[root, name[:-1]] << POINT_BITS | ord(name[-1]): node
        for (root, name), node in nodes.items()
        if name
    }
    return number_table(edges.keys(), edges.values()), frozen(ends, np.int32)


# ---------------------------------------------------------------- reading


def read(top: Section) -> Tokenizer:
    """The tokenizer of a `tokenizer.json` with a WordPiece model."""
    top.component("pre_tokenizer", "BertPreTokenizer")
    decoder = top.component("decoder", "WordPiece")
    assert decoder is not None
    model = top.section("model")
    tokens = vocabulary(model)
    around = frame(top, tokens)
    if any(added.normalized for added in around.added):
        where = next(k for k, added in enumerate(around.added) if added.normalized)
        raise top.sections("added_tokens")[where].error("normalized", "false")
    unknown = unknown_id(model, tokens, required=False)
    return build(
        tokens,
        around,
        steps=normaliser(top),
        prefix=model.string("continuing_subword_prefix", "##"),
        unknown=unknown,
        longest=model.integer("max_input_chars_per_word", 100),
        joint=decoder.string("prefix", "##"),
        clean=decoder.flag("cleanup", True),
        file=top.file,
    )


def normaliser(top: Section) -> Normaliser:
    part = top.component("normalizer", None, "BertNormalizer")
    if part is None:
        return Normaliser(False, False, False, False)
    lower = part.flag("lowercase", True)
    return Normaliser(
        clean_text=part.flag("clean_text", True),
        ideographs=part.flag("handle_chinese_chars", True),
        strip_accents=part.flag("strip_accents", lower),
        lower_case=lower,
    )


def from_lines(lines: list[str], file: str, lower_case: bool) -> Tokenizer:
    """The tokenizer of BERT's `vocab.txt`: [CLS] and [SEP] around a text, [UNK] in it."""
    tokens = {name: token for token, name in enumerate(lines)}
    special = [name for name in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]") if name in tokens]
    around = Frame(
        added=tuple(AddedToken(name, tokens[name]) for name in special),
        before=(tokens["[CLS]"],) if "[CLS]" in tokens else (),
        after=(tokens["[SEP]"],) if "[SEP]" in tokens else (),
    )
    steps = Normaliser(strip_accents=lower_case, lower_case=lower_case)
    return build(tokens, around, steps=steps, unknown=tokens["[UNK]"], file=file)


def build(
    tokens: Mapping[str, int],
    around: Frame,
    *,
    steps: Normaliser,
    unknown: int,
    file: str,
    prefix: str = "##",
    longest: int = 100,
    joint: str = "##",
    clean: bool = True,
) -> Tokenizer:
    """Put the tables together."""
    names = names_by_id(tokens, around.added)
    pages, cells, replacements = cell_tables(steps)
    edges, ends = trie(tokens, prefix, file)
    starts, pool = text_pool([decoded(name, joint, clean) for name in names])
    tables = {
        "pages": pages,
        "cells": cells,
        "replacements": replacements,
        "edges": edges,
        "ends": ends,
        "settings": frozen([unknown, longest], np.int32),
        "starts": starts,
        "pool": pool,
        "memo": NO_MEMO,
    }
    return Tokenizer("wordpiece", len(names), tables, encode, decode, around)


CLEAN = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" do not", " don't"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)


def decoded(name: str, joint: str, clean: bool) -> tuple[bytes, bytes]:
    """A token's text when it comes first, and when it follows another."""
    following = name.removeprefix(joint) if name.startswith(joint) else f" {name}"
    return tidy(name, clean).encode(), tidy(following, clean).encode()


def tidy(text: str, clean: bool) -> str:
    """Without the spaces before punctuation, as BERT's decoder has it."""
    for untidy, neat in CLEAN if clean else ():
        text = text.replace(untidy, neat)
    return text
