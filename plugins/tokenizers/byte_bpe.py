"""Byte-level byte-pair encoding: GPT-2, Llama 3, Qwen, GPT-4 (cl100k), GPT-4o (o200k).

    text ──piece_end──► piece ──memo──► ids                 most pieces came before
                          ├────► one token, if the whole piece is one
                          └────► cut where no token crosses ──► merge: lowest rank first

`pieces.py` cuts, `memo.py` remembers, `merging.py` merges.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from infinisa.isa.errors import ModelError
from infinisa.runtime.jit.bits import apart, product, shifted

from .arrays import I32, I64, U8, U16, Table, frozen
from .characters import Text, piece_classes
from .lookup import (
    LIMIT,
    VALUE_BITS,
    bits_of,
    decode,
    enter,
    find_bytes,
    number_table,
    slot_count,
    text_pool,
)
from .memo import LONGEST as LONGEST_REMEMBERED
from .memo import (
    LONGEST_PIECE,
    MIX,
    MIX_HIGH,
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
from .merging import NO_RANK, SCANNED, Merges, merge_few, merge_many, rank_of
from .native import call
from .pieces import (
    CUTS,
    GPT2,
    LONGEST,
    PATTERNS,
    RANK_PATTERNS,
    WHOLE,
    piece_end,
)
from .tables import (
    Section,
    check_size,
    frame,
    names_by_id,
    shown,
    unknown_id,
    vocabulary,
)
from .tokenizer import AddedToken, Frame, Tokenizer

WINDOW = 1 << 7
"""Bytes that are merged at once."""

UNSURE = 8
"""Last ids of a window that what follows may change."""

ALL_BYTES = 1 << 16
BY_CHARACTERS, BY_BYTES = 1, 2
"""Between two bytes: every token that has both has the whole characters that they end and begin,
which a filter of 8 * ALL_BYTES bits behind knows; or there are others. 0: no token has both."""


class Tables(NamedTuple):
    """What the encoder knows: of rules, whole tokens, their bytes, where tokens cross, merges, and
    pieces that came before."""

    settings: I32
    whole: I64
    starts: I32
    pool: U8
    crossed: U8
    merges: Merges
    memo: I64


# ---------------------------------------------------------------- kernels: parts of a piece


@apart
def merged_ids(text: U8, at: int, stop: int, ids: I32, count: int, merges: Merges) -> int:
    """The ids that merging makes of bytes, from `count` on; how many."""
    ranks = count + stop - at
    n = byte_ids(text, at, stop, ids, count, merges)
    if n <= SCANNED:
        return merge_few(ids, count, n, ranks, merges, 1)
    return merge_many(ids, count, n, ranks, merges)


def byte_ids(text: U8, at: int, stop: int, ids: I32, count: int, merges: Merges) -> int:
    """The ids of bytes, from `count` on, and behind as many places as bytes their ranks; how
    many."""
    ranks = count + stop - at
    before = 0
    n = 0
    for k in range(at, stop):
        token = merges.byte_tokens[text[k]]
        if token >= 0:
            ids[count + n] = token
            if n > 0:
                ids[ranks + n - 1] = merges.byte_ranks[before << 8 | text[k]]
            before = text[k]
            n += 1
    return n


@apart
def long_ids(text: U8, at: int, stop: int, ids: I32, count: int, tables: Tables) -> int:
    """The same of many bytes, which have tokens all, in windows that stay in the cache.

    Ids are those of a text if and only if every two neighbours are the ids of their own bytes: the
    first merge between two of them would be one in their bytes alone too. So what is known of a
    window but its last ids stands if the first id of the next one, which begins there, is such a
    neighbour; else all is done again with larger windows.
    """
    size = WINDOW
    known = 0
    last = 0
    start = at
    while start < stop:
        end = min(start + size, stop)
        n = merged_ids(text, start, end, ids, count + known, tables.merges)
        fine = True
        if known > 0:
            free = count + known + n
            first = ids[count + known]
            end_of_first = start + width_of(first, tables.starts)
            both = merged_ids(text, start - last, end_of_first, ids, free, tables.merges)
            fine = both == 2 and ids[free] == ids[count + known - 1] and ids[free + 1] == first
        if fine and end == stop:
            return known + n
        if fine and n >= 2 * UNSURE:
            for k in range(n - UNSURE):
                last = width_of(ids[count + known + k], tables.starts)
                start += last
            known += n - UNSURE
        else:
            size = 2 * size
            known = 0
            start = at
    return known


def width_of(token: int, starts: I32) -> int:
    """Bytes of a token."""
    return starts[2 * token + 1] - starts[2 * token]


def part_ids(text: U8, at: int, stop: int, ids: I32, count: int, tables: Tables) -> int:
    """The same of bytes between which and their neighbours nothing merges, remembered."""
    if stop - at == 1:
        ids[count] = tables.merges.byte_tokens[text[at]]  # all bytes have one where pieces are cut
        return 1
    if stop - at > WINDOW:
        return long_ids(text, at, stop, ids, count, tables)
    if stop - at > LONGEST_PIECE or len(tables.memo) < SET or count + MOST_IDS > len(ids):
        return merged_ids(text, at, stop, ids, count, tables.merges)
    low = low_word(text, at, stop - at)
    high = high_word(text, at, stop - at)
    place = home(low, high, tables.memo)
    found = recalled(low, high, place, tables.memo)
    if found >= 0:
        return told(found, ids, count, tables.memo)
    known = merged_ids(text, at, stop, ids, count, tables.merges)
    remember(low, high, place, ids, count, known, tables.memo)
    return known


@apart
def fresh_ids(text: U8, at: int, stop: int, ids: I32, count: int, tables: Tables) -> int:
    """The ids of a piece that is not remembered, from `count` on; how many.

    Merges do not cross where no token does, so such parts are encoded, and remembered, alone.
    """
    if stop - at <= tables.settings[LONGEST]:
        token = find_bytes(text, at, stop, tables.whole, tables.starts, tables.pool)
        if token >= 0:
            ids[count] = token
            return 1
    known = 0
    start = at
    if tables.settings[CUTS] != 0:
        left = at
        for k in range(at + 1, stop):
            if not is_crossed(text, left, k, stop, tables.crossed):
                known += part_ids(text, start, k, ids, count + known, tables)
                start = k
            if text[k] & 0xC0 != 0x80:
                left = k
    if tables.settings[CUTS] == 0 or (start == at and stop - at <= WINDOW):
        return merged_ids(text, at, stop, ids, count, tables.merges)
    return known + part_ids(text, start, stop, ids, count + known, tables)


@apart
def long_piece_ids(text: U8, at: int, stop: int, ids: I32, count: int, tables: Tables) -> int:
    """The same of more bytes than a short piece has, from the memo if it came before."""
    if stop - at > LONGEST_REMEMBERED or len(tables.memo) < SET:
        return fresh_ids(text, at, stop, ids, count, tables)
    place = long_home(text, at, stop, tables.memo)
    if is_there(text, at, stop, place, tables.memo):
        return told_long(place, ids, count, tables.memo)
    known = fresh_ids(text, at, stop, ids, count, tables)
    remember_long(text, at, stop, place, ids, count, known, tables.memo)
    return known


def piece_ids(text: U8, at: int, stop: int, ids: I32, count: int, tables: Tables) -> int:
    """The same, from the memo if the piece came before."""
    if stop - at > LONGEST_PIECE or len(tables.memo) < SET or count + MOST_IDS > len(ids):
        return long_piece_ids(text, at, stop, ids, count, tables)
    low = low_word(text, at, stop - at)
    high = high_word(text, at, stop - at)
    place = home(low, high, tables.memo)
    found = recalled(low, high, place, tables.memo)
    if found >= 0:
        return told(found, ids, count, tables.memo)
    known = fresh_ids(text, at, stop, ids, count, tables)
    remember(low, high, place, ids, count, known, tables.memo)
    return known


def whole_character(text: U8, at: int, stop: int) -> int:
    """The bytes of the character at `at` as a number; -1 if it has too few or too many."""
    first = text[at]
    width = 1 if first < 0x80 else 2 if first < 0xE0 else 3 if first < 0xF0 else 4
    found = first
    for k in range(at + 1, at + width):
        if k >= stop or text[k] & 0xC0 != 0x80:
            return -1
        found = found << 8 | text[k]
    if first & 0xC0 == 0x80 or (at + width < stop and text[at + width] & 0xC0 == 0x80):
        return -1
    return found


def is_crossed(text: U8, left: int, at: int, stop: int, crossed: U8) -> bool:
    """Whether a token may cross from the byte before `at`, of the character at `left`, to `at`."""
    how = crossed[text[at - 1] << 8 | text[at]]
    if how != BY_CHARACTERS:
        return how == BY_BYTES
    before = whole_character(text, left, stop)
    after = whole_character(text, at, stop)
    if before < 0 or after < 0:
        return True
    bit = crossing(before, after)
    return crossed[ALL_BYTES + (bit >> 3)] >> (bit & 7) & 1 != 0


def crossing(left: int, right: int) -> int:
    """The bit of the filter for two characters side by side."""
    return shifted(product(left ^ product(right, MIX_HIGH), MIX), 45)


def encode(
    text: U8,
    length: int,
    ids: I32,
    settings: I32,
    pages: U16,
    classes: U8,
    whole: I64,
    starts: I32,
    pool: U8,
    crossed: U8,
    byte_tokens: I32,
    byte_ranks: I32,
    pairs: I64,
    some_pairs: U8,
    products: I32,
    memo: I64,
) -> int:
    """The ids of a UTF-8 text; how many. Bytes that have no token are left out."""
    letters = Text(text, pages, classes)
    merges = Merges(byte_tokens, byte_ranks, pairs, some_pairs, products)
    tables = Tables(settings, whole, starts, pool, crossed, merges, memo)
    count = 0
    at = 0
    while at < length:
        stop = piece_end(letters, at, length, settings)
        if count + 3 * (stop - at) > len(ids):
            return -1
        count += piece_ids(text, at, stop, ids, count, tables)
        at = stop
    return count


# ---------------------------------------------------------------- kernels: tables


def enter_tokens(
    names: I32,
    every: I32,
    ids: I32,
    whole: I64,
    starts: I32,
    pool: U8,
    crossed: U8,
    byte_tokens: I32,
    byte_ranks: I32,
    pairs: I64,
    some_pairs: U8,
    products: I32,
) -> int:
    """Fill `whole` and `crossed` from the tokens that `names` lists; how many of them merging does
    not make of their bytes. With `every`, those too may be a whole piece."""
    merges = Merges(byte_tokens, byte_ranks, pairs, some_pairs, products)
    others = 0
    for k in range(len(names)):
        token = names[k]
        start = starts[2 * token]
        stop = starts[2 * token + 1]
        if start < stop:
            mark_crossings(start, stop, pool, crossed)
            known = merged_ids(pool, start, stop, ids, 0, merges)
            rebuilt = known == 1 and ids[0] == token
            if not rebuilt:
                others += 1
            if rebuilt or every[0] != 0:
                enter(token, whole, starts, pool)
    return others


def last_pairs(
    names: I32,
    keys: I64,
    ids: I32,
    starts: I32,
    pool: U8,
    byte_tokens: I32,
    byte_ranks: I32,
    pairs: I64,
    some_pairs: U8,
    products: I32,
) -> int:
    """Of each token of at most `SCANNED` bytes that `names` lists the pair that the last merge of
    its bytes joins, or -1; how many have one."""
    merges = Merges(byte_tokens, byte_ranks, pairs, some_pairs, products)
    found = 0
    for k in range(len(names)):
        start = starts[2 * names[k]]
        stop = starts[2 * names[k] + 1]
        keys[k] = -1
        n = byte_ids(pool, start, stop, ids, 0, merges)
        n = merge_few(ids, 0, n, stop - start, merges, 2)
        if n == 2 and rank_of(ids[0], ids[1], merges) != NO_RANK:
            keys[k] = ids[0] << 20 | ids[1]
            found += 1
    return found


def mark_crossings(start: int, stop: int, pool: U8, crossed: U8) -> None:
    """Mark every two neighbours in a token, whose bytes are pool[start:stop]."""
    left = start
    for at in range(start + 1, stop):
        place = pool[at - 1] << 8 | pool[at]
        before = whole_character(pool, left, stop)
        after = whole_character(pool, at, stop)
        if pool[at] >= 0xC0 and before >= 0 and after >= 0:
            bit = crossing(before, after) + 8 * ALL_BYTES
            crossed[bit >> 3] = crossed[bit >> 3] | 1 << (bit & 7)
            crossed[place] = max(crossed[place], BY_CHARACTERS)
        else:
            crossed[place] = BY_BYTES
        if pool[at] & 0xC0 != 0x80:
            left = at


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
    rules, leading_space = piece_rules(top)
    model = top.section("model")
    check_model(model)
    tokens = vocabulary(model)
    around = frame(top, tokens, compose=compose, leading_space=leading_space)
    texts = [token_bytes(name) for name in names_by_id(tokens, around.added)]
    letters = set(LETTERS)
    return build(
        texts,
        [token for name, token in tokens.items() if letters.issuperset(name)],
        byte_tokens(model, tokens),
        merge_tables(merges(model), model, tokens),
        rules,
        every=model.flag("ignore_merges", False),
        around=around,
    )


def from_ranks(ranks: Mapping[bytes, int], pattern: str, special: Mapping[str, int]) -> Tokenizer:
    """The tokenizer of a vocabulary as tiktoken has it: the rank of a token is its id, and any two
    tokens that make it merge.

    pattern  the regular expression of pieces, one of `RANK_PATTERNS`
    special  tokens that are looked for in the text first
    """
    if pattern not in RANK_PATTERNS:
        raise ModelError(f"pattern must be one of those of GPT-2, cl100k or o200k, not {pattern!r}")
    if missing := [byte for byte in range(256) if bytes([byte]) not in ranks]:
        raise ModelError(f"ranks must have all bytes; {missing[0]:#04x} is missing")
    most = max([*ranks.values(), *special.values()])
    check_size("ranks", "the last one", most)
    texts = [b""] * (most + 1)
    for text, token in (*ranks.items(), *((name.encode(), k) for name, k in special.items())):
        texts[token] = text
    halves = {
        ranks[text[:k]] << 20 | ranks[text[k:]]: token
        for text, token in ranks.items()
        for k in range(1, len(text))
        if text[:k] in ranks and text[k:] in ranks
    }
    return build(
        texts,
        sorted(ranks.values()),
        frozen([ranks[bytes([byte])] for byte in range(256)], np.int32),
        (number_table(halves.keys(), halves.values()), frozen(np.arange(most + 1), np.int32)),
        RANK_PATTERNS[pattern],
        every=True,
        around=Frame(tuple(AddedToken(name, token) for name, token in special.items())),
        ranked=True,
    )


def build(
    texts: Sequence[bytes],
    named: Sequence[int],
    single: Table,
    merging: tuple[Table, Table],
    rules: Sequence[int],
    *,
    every: bool,
    around: Frame,
    ranked: bool = False,
) -> Tokenizer:
    """Put the tables together.

    texts    of every id
    named    ids that stand for bytes
    single   the id of every byte, or -1
    merging  pairs of ids to ranks, and ranks to ids
    every    whether a whole piece may be any of these, else those that merging makes of their bytes
    ranked   the rank of a pair is the token that it makes
    """
    starts, pool = text_pool([(text, text) for text in texts])
    pages, classes = piece_classes()
    whole = np.full(slot_count(len(named)), -1, np.int64)
    crossed = np.zeros(2 * ALL_BYTES, np.uint8)
    longest = max((len(texts[token]) for token in named), default=0)
    merges = merges_of(single, *merging)
    if ranked:
        merges |= pair_tables(meeting(named, starts, pool, merges))
    others = call(
        enter_tokens,
        np.array(named, np.int32),
        np.array([every], np.int32),
        np.zeros(3 * longest + 1, np.int32),
        *(whole, starts, pool, crossed, *merges.values()),
    )
    cuts = bool((single >= 0).all()) and not (every and others)
    tables = {
        "settings": frozen([*rules, longest, cuts], np.int32),
        "pages": pages,
        "classes": classes,
        "whole": frozen(whole, np.int64),
        "starts": starts,
        "pool": pool,
        "crossed": frozen(crossed, np.uint8),
        **merges,
        "memo": NO_MEMO,
    }
    return Tokenizer("byte_bpe", len(texts), tables, encode, decode, around)


def merges_of(single: Table, pairs: Table, products: Table) -> dict[str, Table]:
    """The fields of `Merges`."""
    byte_ranks = ranks_of_bytes(single, pairs)
    ranks = {"byte_tokens": single, "byte_ranks": byte_ranks, **pair_tables(pairs)}
    return {**ranks, "products": products}


def pair_tables(pairs: Table) -> dict[str, Table]:
    """Pairs of tokens to ranks, as `Merges` has them, and which there may be."""
    return {"pairs": pairs, "some_pairs": bits_of(pairs)}


def meeting(named: Sequence[int], starts: Table, pool: Table, merges: Mapping[str, Table]) -> Table:
    """Of the pairs that make a token, ranked by it, the one that merging its bytes comes to.

    Whatever stands around these bytes, until the token is made its parts are merged in the same
    order, so the others never meet. Of tokens too long for `last_pairs` all stay.
    """
    sizes = (starts[1:] - starts[:-1])[::2]
    few = np.array([token for token in named if sizes[token] <= SCANNED], np.int32)
    found = np.empty(len(few), np.int64)
    call(last_pairs, few, found, np.zeros(3 * SCANNED, np.int32), starts, pool, *merges.values())
    taken = merges["pairs"][merges["pairs"] >= 0]
    keys, tokens = taken >> VALUE_BITS, taken & (1 << VALUE_BITS) - 1
    long, made = ~np.isin(tokens, few), found >= 0
    keys, tokens = np.append(keys[long], found[made]), np.append(tokens[long], few[made])
    return number_table(keys, tokens)


def ranks_of_bytes(single: Table, pairs: Table) -> Table:
    """The rank of every two bytes, or NO_RANK: [left << 8 | right]."""
    byte_of = {int(token): byte for byte, token in enumerate(single)}
    ranks = np.full(1 << 16, NO_RANK, np.int32)
    taken = pairs[pairs >= 0]
    key, rank = taken >> VALUE_BITS, taken & (1 << VALUE_BITS) - 1
    left, right = key >> 20, key & LIMIT - 1
    of_bytes = np.isin(left, single) & np.isin(right, single)
    for a, b, k in zip(left[of_bytes], right[of_bytes], rank[of_bytes], strict=True):
        ranks[byte_of[int(a)] << 8 | byte_of[int(b)]] = k
    return frozen(ranks, np.int32)


def check_model(model: Section) -> None:
    """Refuse the options of BPE that byte-level vocabularies do not use."""
    model.must_be("dropout", None, 0)
    model.must_be("continuing_subword_prefix", None, "")
    model.must_be("end_of_word_suffix", None, "")
    model.must_be("byte_fallback", None, False)


def piece_rules(top: Section) -> tuple[Sequence[int], bool]:
    """The first settings of `encode`, and whether a space goes before every part."""
    part = top.component("pre_tokenizer", "ByteLevel", "Sequence")
    assert part is not None
    if part.string("type") == "ByteLevel":
        rules = (GPT2, 0, 0) if part.flag("use_regex", True) else (WHOLE, 0, 0)
        return rules, part.flag("add_prefix_space", True)
    steps = part.sections("pretokenizers")
    if [step.values.get("type") for step in steps] != ["Split", "ByteLevel"]:
        raise part.error("pretokenizers", "a Split, then a ByteLevel")
    steps[1].must_be("add_prefix_space", False)
    steps[1].must_be("use_regex", False)
    return split_rules(steps[0]), False


def split_rules(split: Section) -> Sequence[int]:
    """The rules that equal a Split's regular expression. It matches all text: there are no gaps."""
    pattern = split.section("pattern")
    kept = split.values.get("behavior"), split.flag("invert", False)
    if kept not in (("Isolated", False), ("Removed", True)):
        raise split.error("behavior", "Isolated, or Removed and inverted")
    if pattern.values.get("Regex") not in PATTERNS:
        raise pattern.error("Regex", "the expression of GPT-2, Llama 3, cl100k, o200k or Qwen")
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
