"""A token a character.

Two forms of file are read: a `vocab.txt` with one character a line (an empty line is the newline;
names in brackets such as [UNK] or <pad> are special), and a `tokenizer.json` whose pre-tokenizer is
a Split on "", isolated, with a WordLevel model or a BPE model without merges.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from infinisa.isa.errors import ModelError

from .arrays import I32, I64, U8, Table, frozen
from .characters import code_point
from .lookup import decode, find, number_table, text_pool
from .tables import Section, frame, names_by_id, unknown_id, vocabulary
from .tokenizer import AddedToken, Frame, Tokenizer
from .word import joined

DROP, REFUSE = -1, -2  # what may stand for an unknown id
UNKNOWN_NAMES = ("[UNK]", "<unk>")


def encode(text: U8, length: int, ids: I32, points: I64, settings: I32) -> int:
    """The ids of a UTF-8 text; how many. `settings` is the unknown id, or DROP, or REFUSE."""
    count = 0
    at = 0
    while at < length:
        found = code_point(text, at, length)
        token = find(found >> 3, points)
        if token < 0:
            token = settings[0]
        if token == REFUSE:
            return -2
        if token >= 0:
            if count >= len(ids):
                return -1
            ids[count] = token
            count += 1
        at += found & 7
    return count


def is_split(top: Section) -> bool:
    """Whether the pre-tokenizer of a `tokenizer.json` cuts between all characters."""
    part = top.maybe("pre_tokenizer")
    if part is None or part.values.get("type") != "Split":
        return False
    return part.values.get("pattern") in ({"String": ""}, {"Regex": ""})


def read(top: Section) -> Tokenizer:
    """The tokenizer of a `tokenizer.json` that splits between characters."""
    compose = top.component("normalizer", None, "NFC") is not None
    model = top.section("model")
    if model.values.get("merges"):
        raise model.error("merges", "empty where the pre-tokenizer splits between characters")
    model.must_be("dropout", None, 0)
    model.must_be("continuing_subword_prefix", None, "")
    model.must_be("end_of_word_suffix", None, "")
    model.must_be("byte_fallback", None, False)
    tokens = vocabulary(model)
    drops = model.values.get("type") != "WordLevel"
    around = frame(top, tokens, compose=compose)
    names = names_by_id(tokens, around.added)
    unknown = unknown_id(model, tokens, required=not drops)
    return build(tokens, names, around, unknown, joined(top, names))


def is_lines(lines: list[str]) -> bool:
    """Whether a `vocab.txt` has one character a line."""
    return all(len(line) <= 1 or is_bracketed(line) for line in lines)


def is_bracketed(line: str) -> bool:
    return len(line) > 2 and line[0] + line[-1] in ("[]", "<>")


def from_lines(lines: list[str], file: str) -> Tokenizer:
    """The tokenizer of a `vocab.txt` with one character a line."""
    names = [line or "\n" for line in lines]
    tokens = {name: token for token, name in enumerate(names)}
    if len(tokens) < len(names):
        raise ModelError(f"{file}: every line must be a new character, not a newline twice")
    special = [name for name in names if is_bracketed(name)]
    around = Frame(added=tuple(AddedToken(name, tokens[name]) for name in special))
    unknown = next((tokens[name] for name in UNKNOWN_NAMES if name in tokens), REFUSE)
    texts = text_pool([(name.encode(), name.encode()) for name in names])
    return build(tokens, names, around, unknown, texts)


def build(
    tokens: Mapping[str, int],
    names: list[str],
    around: Frame,
    unknown: int,
    texts: tuple[Table, Table],
) -> Tokenizer:
    """Put the tables together; tokens of several characters are never found in a text."""
    single = {ord(name): token for name, token in tokens.items() if len(name) == 1}
    tables = {
        "points": number_table(single.keys(), single.values()),
        "settings": frozen([unknown], np.int32),
        "starts": texts[0],
        "pool": texts[1],
    }
    return Tokenizer("character", len(names), tables, encode, decode, around)
