"""A token a word: runs between spaces, or runs of word characters and of punctuation."""

from __future__ import annotations

import numpy as np

from .arrays import I32, I64, U8, U16, Table, frozen
from .characters import SPACE, Text, character, run_end, word_classes
from .lookup import bytes_table, decode, find_bytes, text_pool
from .tables import Section, frame, names_by_id, unknown_id, vocabulary
from .tokenizer import Tokenizer


def encode(
    text: U8,
    length: int,
    ids: I32,
    pages: U16,
    classes: U8,
    slots: I64,
    starts: I32,
    pool: U8,
    settings: I32,
) -> int:
    """The ids of a UTF-8 text; how many.

    A word is a run of one class; `settings` is the unknown id.
    """
    letters = Text(text, pages, classes)
    count = 0
    at = 0
    while at < length:
        found = character(letters, at, length)
        stop = run_end(found >> 3, letters, at, length)
        if found >> 3 != SPACE:
            if count >= len(ids):
                return -1
            token = find_bytes(text, at, stop, slots, starts, pool)
            ids[count] = token if token >= 0 else settings[0]
            count += 1
        at = stop
    return count


def read(top: Section) -> Tokenizer:
    """The tokenizer of a `tokenizer.json` with a WordLevel model."""
    top.component("normalizer", None)
    part = top.component("pre_tokenizer", "Whitespace", "WhitespaceSplit")
    model = top.section("model")
    tokens = vocabulary(model)
    around = frame(top, tokens)
    names = names_by_id(tokens, around.added)
    pages, classes = word_classes(part is not None and part.string("type") == "Whitespace")
    starts, pool = joined(top, names)
    tables = {
        "pages": pages,
        "classes": classes,
        "slots": bytes_table(sorted(tokens.values()), starts, pool),
        "starts": starts,
        "pool": pool,
        "settings": frozen([unknown_id(model, tokens, required=True)], np.int32),
    }
    return Tokenizer("word", len(names), tables, encode, decode, around)


def joined(top: Section, names: list[str]) -> tuple[Table, Table]:
    """The texts for decoding: with a space between tokens unless the decoder is Fuse."""
    space = "" if top.component("decoder", None, "Fuse") is not None else " "
    return text_pool([(name.encode(), (space + name).encode()) for name in names])
