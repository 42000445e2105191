"""Text to token ids and back: the kernels of `plugins/tokenizers` as opaque instructions.

A tokenizer's tables are operands, so they are weights of a model. `frame` says what its template
puts around a text: how many ids before, how many after, then these ids. Added tokens such as
<|endoftext|> are not looked for in the text.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from infinisa.compiler.readers.text import Codec
from infinisa.isa.errors import ModelError
from infinisa.isa.instruction import Instruction, opaque

from ..hookspec import hookimpl
from ..tokenizers import READERS, Read, Tokenizer, byte_bpe, character, lookup, word, wordpiece
from ..tokenizers.arrays import I32

IDS = {"ids": "n: i32"}


def put_frame(ids: I32, count: int, frame: I32) -> int:
    """Put the template's ids around the first `count`; how many there are then.

    A negative count is an error and stays; -1 if there is no room.
    """
    before = frame[0]
    after = frame[1]
    if count < 0:
        return count
    if before + count + after > len(ids):
        return -1
    k = count
    while k > 0:
        k -= 1
        ids[before + k] = ids[k]
    for j in range(before):
        ids[j] = frame[2 + j]
    for j in range(after):
        ids[before + count + j] = frame[2 + before + j]
    return before + count + after


@opaque(unit="text", results=IDS, sets=("count",))
def encode_byte_bpe(
    text: "b: u8",
    frame: "frame: i32",
    settings: "settings: i32",
    pages: "pages: u16",
    classes: "classes: u8",
    whole: "whole: i64",
    starts: "starts: i32",
    pool: "pool: u8",
    crossed: "crossed: u8",
    byte_tokens: "byte_tokens: i32",
    byte_ranks: "byte_ranks: i32",
    pairs: "pairs: i64",
    some_pairs: "some_pairs: u8",
    products: "products: i32",
    memo: "memo: i64",
    ids,
):
    """The ids of a UTF-8 text by byte-level byte-pair encoding."""
    count = byte_bpe.encode(
        text, len(text), ids, settings, pages, classes, whole, starts, pool, crossed,
        byte_tokens, byte_ranks, pairs, some_pairs, products, memo,
    )  # fmt: skip
    return put_frame(ids, count, frame)


@opaque(unit="text", results=IDS, sets=("count",))
def encode_wordpiece(
    text: "b: u8",
    frame: "frame: i32",
    pages: "pages: u16",
    cells: "cells: i32",
    replacements: "replacements: i32",
    edges: "edges: i64",
    ends: "ends: i32",
    settings: "settings: i32",
    memo: "memo: i64",
    ids,
):
    """The ids of a UTF-8 text by BERT's WordPiece."""
    count = wordpiece.encode(
        text, len(text), ids, pages, cells, replacements, edges, ends, settings, memo
    )
    return put_frame(ids, count, frame)


@opaque(unit="text", results=IDS, sets=("count",))
def encode_word(
    text: "b: u8",
    frame: "frame: i32",
    pages: "pages: u16",
    classes: "classes: u8",
    slots: "slots: i64",
    starts: "starts: i32",
    pool: "pool: u8",
    settings: "settings: i32",
    ids,
):
    """The ids of a UTF-8 text, one for each word."""
    count = word.encode(text, len(text), ids, pages, classes, slots, starts, pool, settings)
    return put_frame(ids, count, frame)


@opaque(unit="text", results=IDS, sets=("count",))
def encode_character(
    text: "b: u8", frame: "frame: i32", points: "points: i64", settings: "settings: i32", ids
):
    """The ids of a UTF-8 text, one for each character."""
    return put_frame(ids, character.encode(text, len(text), ids, points, settings), frame)


@opaque(unit="text", results={"text": "o: u8"}, sets=("written",))
def decode_tokens(ids: "s: i32", starts: "starts: i32", pool: "pool: u8", text):
    """The UTF-8 text of ids, for every kind of tokenizer."""
    return lookup.decode(ids, len(ids), text, starts, pool)


ENCODERS: Mapping[str, Instruction] = {
    made.name: made for made in (encode_byte_bpe, encode_wordpiece, encode_word, encode_character)
}


def codec(tokenizer: Tokenizer, library: Mapping[str, Instruction] = ENCODERS) -> Codec:
    """A tokenizer as the readers of models take it; the instruction `encode_<kind>` encodes."""
    around = tokenizer.frame
    if around.leading_space:
        raise ModelError("a tokenizer that puts a space before the text is not an instruction yet")
    name = f"encode_{tokenizer.kind}"
    if name not in library:
        raise ModelError(f"a {tokenizer.kind} tokenizer needs the instruction {name!r} of a plugin")
    encode = library[name]
    frame = [len(around.before), len(around.after), *around.before, *around.after]
    arrays = {**tokenizer.tables, "frame": np.array(frame, np.int32)}
    starts = tokenizer.tables["starts"]
    return Codec(
        encode=encode.name,
        decode=decode_tokens.name,
        encode_tables={leaf.name: arrays[leaf.name] for leaf in encode.operands[1:]},
        decode_tables={leaf.name: arrays[leaf.name] for leaf in decode_tokens.operands[1:]},
        widest=int(np.diff(starts).max(initial=1)),
    )


@hookimpl
def infinisa_instructions() -> Sequence[Instruction]:
    return [*ENCODERS.values(), decode_tokens]


@hookimpl
def infinisa_tokenizers() -> Mapping[str, Read]:
    return READERS
