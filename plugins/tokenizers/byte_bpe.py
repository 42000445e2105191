"""Byte-level byte-pair encoding: GPT-2, Llama 3, Qwen.

    text ──piece_end──► piece ──► one token, if the whole piece is one
                          └────► merge: bytes to tokens, lowest rank first

The regular expressions of the pre-tokenizers are not run: their alternatives begin with disjoint
classes of characters, so that a look at the class (letter, number, space, newline, other) chooses.
"""

# ruff: noqa: SIM109 (restricted Python has no `in`)
from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np

from infinisa.isa.errors import ModelError

from .arrays import I32, I64, U8, U16, Table, frozen
from .characters import LETTER, NEWLINE, NUMBER, OTHER, SPACE, character, piece_classes, run_end
from .lookup import bytes_table, decode, find, find_bytes, number_table, text_pool
from .tables import (
    Section,
    added_tokens,
    check_size,
    frame,
    names_by_id,
    shown,
    unknown_id,
    vocabulary,
)
from .tokenizer import Tokenizer

WHOLE, GPT2, LLAMA3 = range(3)  # the rules for pieces: none, and two families of regular expression
NO_RANK = 0x7FFFFFFF
LONGEST_WHOLE = 64  # bytes of a piece that is looked up before it is merged

GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CL100K_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
PATTERNS = {  # pattern → (rules, digits in a piece; 0: any)
    GPT2_PATTERN: (GPT2, 0),
    LLAMA3_PATTERN: (LLAMA3, 3),
    CL100K_PATTERN: (LLAMA3, 3),
    LLAMA3_PATTERN.replace("{1,3}", ""): (LLAMA3, 1),  # Qwen
}

# ---------------------------------------------------------------- kernels: pieces


def contraction(text: U8, at: int, length: int, fold: int) -> int:
    """Bytes of 's 't 'm 'd 'll 've 're, whose apostrophe is at `at`; 0 for none.

    `fold` is 32 where case is ignored, else 0.
    """
    if at + 1 >= length:
        return 0
    one = text[at + 1] | fold if text[at + 1] < 0x80 else text[at + 1]
    if one == 0x73 or one == 0x74 or one == 0x6D or one == 0x64:
        return 2
    if at + 2 >= length:
        return 0
    two = text[at + 2] | fold if text[at + 2] < 0x80 else text[at + 2]
    if fold != 0 and one == 0xC5 and two == 0xBF:  # the long s, which folds to s
        return 3
    if one == 0x6C and two == 0x6C:
        return 3
    if (one == 0x76 or one == 0x72) and two == 0x65:
        return 3
    return 0


def spaces_end(text: U8, at: int, length: int, newlines: bool, pages: U16, classes: U8) -> int:
    """Where spaces end: all but the one before a word, by `\\s+(?!\\S)|\\s+`.

    With `newlines`, after the last newline where there is one, by `\\s*[\\r\\n]+`.
    """
    stop = at
    last = at
    after_newline = at
    while stop < length:
        found = character(text, stop, length, pages, classes)
        if found >> 3 != SPACE and found >> 3 != NEWLINE:
            break
        last = stop
        stop += found & 7
        if found >> 3 == NEWLINE:
            after_newline = stop
    if newlines and after_newline > at:
        return after_newline
    if stop == length or last == at:
        return stop
    return last


def gpt2_end(text: U8, at: int, length: int, pages: U16, classes: U8) -> int:
    """Where the piece at `at` ends by GPT-2's expression."""
    if text[at] == 0x27:
        size = contraction(text, at, length, 0)
        if size > 0:
            return at + size
    start = at
    if text[at] == 0x20 and at + 1 < length:
        start = at + 1
    kind = character(text, start, length, pages, classes) >> 3
    if kind == SPACE or kind == NEWLINE:
        return spaces_end(text, at, length, False, pages, classes)
    return run_end(kind, text, start, length, pages, classes)


def llama3_end(text: U8, at: int, length: int, digits: int, pages: U16, classes: U8) -> int:
    """Where the piece at `at` ends by the expression of Llama 3 and its relatives."""
    found = character(text, at, length, pages, classes)
    kind = found >> 3
    after = at + (found & 7)
    if kind == LETTER:
        return run_end(LETTER, text, after, length, pages, classes)
    if kind == NUMBER:
        return digits_end(text, at, length, digits, pages, classes)
    if text[at] == 0x27:
        size = contraction(text, at, length, 32)
        if size > 0:
            return at + size
    following = SPACE
    if after < length:
        following = character(text, after, length, pages, classes) >> 3
    if following == LETTER and kind != NEWLINE:
        return run_end(LETTER, text, after, length, pages, classes)
    if kind == OTHER or (text[at] == 0x20 and following == OTHER):
        stop = run_end(OTHER, text, after, length, pages, classes)
        return run_end(NEWLINE, text, stop, length, pages, classes)
    return spaces_end(text, at, length, True, pages, classes)


def digits_end(text: U8, at: int, length: int, digits: int, pages: U16, classes: U8) -> int:
    """The end of at most `digits` numbers."""
    for _ in range(digits):
        if at < length:
            found = character(text, at, length, pages, classes)
            if found >> 3 != NUMBER:
                break
            at += found & 7
    return at


def piece_end(text: U8, at: int, length: int, settings: I32, pages: U16, classes: U8) -> int:
    """Where the piece at `at` ends. `settings` are the rules and the digits of a piece."""
    if settings[0] == GPT2:
        return gpt2_end(text, at, length, pages, classes)
    if settings[0] == LLAMA3:
        return llama3_end(text, at, length, settings[1], pages, classes)
    return length


# ---------------------------------------------------------------- kernels: merging
#
# A piece of n tokens is merged inside ids[base:base + 3 * n]:
#   ids[base + k]          the token at k; its other places are free,
#                          but the second and the last one hold minus its width
#   ids[base + n + k]      the rank of the pair of the token at k and the next one, or NO_RANK
#   ids[base + 2 * n + j]  for 0 < j < n a tree: the place of the lowest rank below node j


def settle(ids: I32, base: int, n: int, place: int) -> None:
    """Bring the tree up to date after the rank at `place` has changed."""
    node = (place + n) // 2
    while node > 0:
        elect(ids, base, n, node)
        node = node // 2


def elect(ids: I32, base: int, n: int, node: int) -> None:
    """Write the better of the two places below a node: the lower rank, then the left one."""
    left = 2 * node - n if 2 * node >= n else ids[base + 2 * n + 2 * node]
    right = 2 * node + 1 - n if 2 * node + 1 >= n else ids[base + 2 * n + 2 * node + 1]
    left_rank = ids[base + n + left]
    right_rank = ids[base + n + right]
    if right_rank < left_rank or (right_rank == left_rank and right < left):
        left = right
    ids[base + 2 * n + node] = left


def next_place(ids: I32, base: int, n: int, place: int) -> int:
    """Where the token after the one at `place` is; n after the last."""
    if place + 1 < n and ids[base + place + 1] < 0:
        return place - ids[base + place + 1]
    return place + 1


def rank_at(ids: I32, base: int, n: int, place: int, pairs: I64) -> int:
    """The rank of the pair that begins at `place`."""
    after = next_place(ids, base, n, place)
    if after >= n:
        return NO_RANK
    rank = find(ids[base + place] << 20 | ids[base + after], pairs)
    return rank if rank >= 0 else NO_RANK


def merge(ids: I32, base: int, n: int, pairs: I64, products: I32) -> int:
    """Merge the n tokens at `base`, the lowest rank first, then the left; how many are left."""
    for k in range(n):
        ids[base + n + k] = rank_at(ids, base, n, k, pairs)
    for k in range(1, n):
        elect(ids, base, n, n - k)
    while n > 1:
        place = ids[base + 2 * n + 1]
        rank = ids[base + n + place]
        if rank == NO_RANK:
            break
        join(ids, base, n, place, products[rank], pairs)
    return close(ids, base, n)


def join(ids: I32, base: int, n: int, place: int, product: int, pairs: I64) -> None:
    """Replace the token at `place` and the next one by `product`."""
    gone = next_place(ids, base, n, place)
    after = next_place(ids, base, n, gone)
    ids[base + place] = product
    ids[base + place + 1] = place - after
    ids[base + after - 1] = place - after
    ids[base + n + gone] = NO_RANK
    settle(ids, base, n, gone)
    ids[base + n + place] = rank_at(ids, base, n, place, pairs)
    settle(ids, base, n, place)
    if place > 0:
        before = place - 1
        if ids[base + before] < 0:
            before = place + ids[base + before]
        ids[base + n + before] = rank_at(ids, base, n, before, pairs)
        settle(ids, base, n, before)


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


def encode(
    text: U8,
    length: int,
    ids: I32,
    settings: I32,
    pages: U16,
    classes: U8,
    whole: I32,
    starts: I32,
    pool: U8,
    byte_tokens: I32,
    pairs: I64,
    products: I32,
) -> int:
    """The ids of a UTF-8 text; how many. Bytes that have no token are left out."""
    count = 0
    at = 0
    while at < length:
        stop = piece_end(text, at, length, settings, pages, classes)
        if count + 3 * (stop - at) > len(ids):
            return -1
        token = find_bytes(text, at, stop, whole, starts, pool)
        if token >= 0:
            ids[count] = token
            count += 1
        else:
            n = 0
            for k in range(at, stop):
                if byte_tokens[text[k]] >= 0:
                    ids[count + n] = byte_tokens[text[k]]
                    n += 1
            count += merge(ids, count, n, pairs, products)
        at = stop
    return count


# ---------------------------------------------------------------- tables


def byte_letters() -> dict[str, int]:
    """GPT-2's stand-ins for bytes: the byte where printable, else a letter from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(0x100 + k): byte for k, byte in enumerate(hidden)
    }


LETTERS = byte_letters()


def token_bytes(name: str) -> bytes:
    """The bytes that a token stands for; a name that is not all stand-ins is itself."""
    if all(letter in LETTERS for letter in name):
        return bytes(LETTERS[letter] for letter in name)
    return name.encode()


def read(top: Section) -> Tokenizer:
    """The tokenizer of a `tokenizer.json` with a byte-level BPE model."""
    compose = top.component("normalizer", None, "NFC") is not None
    top.component("decoder", "ByteLevel")
    settings, leading_space = piece_rules(top)
    model = top.section("model")
    check_model(model)
    tokens = vocabulary(model)
    texts = [token_bytes(name) for name in names_by_id(tokens, added_tokens(top, tokens))]
    starts, pool = text_pool([(text, text) for text in texts])
    pages, classes = piece_classes()
    rows = merges(model)
    pairs, products = merge_tables(rows, model, tokens)
    tables = {
        "settings": settings,
        "pages": pages,
        "classes": classes,
        "whole": whole_tokens(rows, model, tokens),
        "starts": starts,
        "pool": pool,
        "byte_tokens": byte_tokens(model, tokens),
        "pairs": pairs,
        "products": products,
    }
    around = frame(top, tokens, compose=compose, leading_space=leading_space)
    return Tokenizer("byte_bpe", len(texts), tables, encode, decode, around)


def check_model(model: Section) -> None:
    """Refuse the options of BPE that byte-level vocabularies do not use."""
    model.must_be("dropout", None, 0)
    model.must_be("continuing_subword_prefix", None, "")
    model.must_be("end_of_word_suffix", None, "")
    model.must_be("byte_fallback", None, False)


def piece_rules(top: Section) -> tuple[Table, bool]:
    """The settings of `piece_end`, and whether a space goes before every part."""
    part = top.component("pre_tokenizer", "ByteLevel", "Sequence")
    assert part is not None
    if part.string("type") == "ByteLevel":
        rules = (GPT2, 0) if part.flag("use_regex", True) else (WHOLE, 0)
        return frozen(rules, np.int32), part.flag("add_prefix_space", True)
    steps = part.sections("pretokenizers")
    if [step.values.get("type") for step in steps] != ["Split", "ByteLevel"]:
        raise part.error("pretokenizers", "a Split, then a ByteLevel")
    steps[1].must_be("add_prefix_space", False)
    steps[1].must_be("use_regex", False)
    return frozen(split_rules(steps[0]), np.int32), False


def split_rules(split: Section) -> tuple[int, int]:
    """The rules that equal a Split's regular expression. It matches all text: there are no gaps."""
    pattern = split.section("pattern")
    kept = split.values.get("behavior"), split.flag("invert", False)
    if kept not in (("Isolated", False), ("Removed", True)):
        raise split.error("behavior", "Isolated, or Removed and inverted")
    if pattern.values.get("Regex") not in PATTERNS:
        raise pattern.error("Regex", "the expression of GPT-2, Llama 3, cl100k or Qwen")
    return PATTERNS[pattern.string("Regex")]


def byte_tokens(model: Section, tokens: Mapping[str, int]) -> Table:
    """The token of every single byte. Without an unknown token, bytes may lack one: they vanish."""
    by_byte = {byte: tokens.get(letter, -1) for letter, byte in LETTERS.items()}
    missing = [byte for byte in range(256) if by_byte[byte] < 0]
    if missing and unknown_id(model, tokens, required=False) >= 0:
        raise model.error(
            "vocab", f"a vocabulary of all bytes, or unk_token null; {missing[0]:#04x} is missing"
        )
    return frozen([by_byte[byte] for byte in range(256)], np.int32)


def merge_tables(
    rows: list[tuple[str, str]], model: Section, tokens: Mapping[str, int]
) -> tuple[Table, Table]:
    """Pairs of tokens to ranks, and ranks to products. Of equal pairs the last counts."""
    ranks: dict[int, int] = {}
    products: list[int] = []
    for rank, (left, right) in enumerate(rows):
        for name in (left, right, left + right):
            if name not in tokens:
                where = f"{model.file}: {model.name('merges')}[{rank}]"
                raise ModelError(f"{where} must be of tokens in model.vocab; {shown(name)} is not")
        ranks[tokens[left] << 20 | tokens[right]] = rank
        products.append(tokens[left + right])
    check_size(model.file, "the last merge", len(products))
    return number_table(ranks.keys(), ranks.values()), frozen(products, np.int32)


def merges(model: Section) -> list[tuple[str, str]]:
    """`model.merges`: pairs, or strings with a space between the two."""
    rows: list[tuple[str, str]] = []
    for rank, row in enumerate(model.items("merges")):
        pair = row.split(" ") if isinstance(row, str) else row
        match pair:
            case [str(left), str(right)]:
                rows.append((left, right))
            case _:
                where = f"{model.file}: {model.name('merges')}[{rank}]"
                raise ModelError(f"{where} must be a pair of tokens, not {shown(row)}")
    return rows


def whole_tokens(rows: list[tuple[str, str]], model: Section, tokens: Mapping[str, int]) -> Table:
    """The slots of the tokens that a whole piece may be without merging.

    With `ignore_merges` that is every token, else those that merging makes of their bytes.
    """
    every = model.flag("ignore_merges", False)
    ranks = {pair: rank for rank, pair in enumerate(rows)}
    letters = set(LETTERS) if every else set(LETTERS) & tokens.keys()
    return bytes_table(
        [
            (token, token_bytes(name))
            for name, token in tokens.items()
            if letters.issuperset(name) and (every or is_rebuilt(name, ranks))
        ]
    )


def is_rebuilt(name: str, ranks: Mapping[tuple[str, str], int]) -> bool:
    """Whether merging makes this token of its bytes; not asked of long ones, which are few."""
    if len(name) > LONGEST_WHOLE:
        return False
    parts = list(name)
    while len(parts) > 1:
        found = [ranks.get(pair, NO_RANK) for pair in pairwise(parts)]
        rank = min(found)
        if rank == NO_RANK:
            return False
        at = found.index(rank)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return True
