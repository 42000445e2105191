"""Labels of sequences: the best path through scores, and text with its labels written in."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from infinisa.compiler.graph import Model
from infinisa.compiler.readers import lac
from infinisa.compiler.readers.text import Codec
from infinisa.isa.instruction import Instruction, opaque

from ..hookspec import hookimpl
from ..tokenizers.arrays import I32, U8, Table
from ..tokenizers.lookup import number_table
from .tokenization import decode_tokens, encode_character

BEGINS, INSIDE, OUTSIDE = 0, 1, 2
"""What a tag says of its character: it begins a word, goes on with one, or is in none."""

SLASH, SPACE, CONTINUES = 47, 32, 128


@opaque(unit="scalar", results={"best": "s k", "came": "s k: i32"}, cycles="s * k * k")
def viterbi(scores: "s k", transitions: "j k", best, came):
    """The best sum of scores and transitions up to each place and tag, and the tag it came from.

    Row 0 of the transitions is for the first tag, row 1 for the last, row 2 + a for after tag a. Of
    equal paths the one from the smaller tag wins (Viterbi, IEEE Trans. Inf. Theory 13, 1967).
    """
    width = 1
    while width * (width + 2) < len(transitions):
        width += 1
    for k in range(width):
        if len(best) > 0:
            best[k] = transitions[k] + scores[k]
            came[k] = 0
    for s in range(1, len(best) // width):
        before = (s - 1) * width
        for k in range(width):
            top = 0
            value = best[before] + transitions[2 * width + k]
            for a in range(1, width):
                other = best[before + a] + transitions[(2 + a) * width + k]
                if other > value:
                    top = a
                    value = other
            best[s * width + k] = value + scores[s * width + k]
            came[s * width + k] = top


@opaque(unit="scalar", results={"tags": "s: i32"}, cycles="s + k")
def viterbi_path(best: "s k", came: "s k: i32", transitions: "j k", tags):
    """The tags of the best path, from its end to its start."""
    count = len(tags)
    if count > 0:
        width = len(best) // count
        end = (count - 1) * width
        last = 0
        for k in range(1, width):
            if (
                best[end + k] + transitions[width + k]
                > best[end + last] + transitions[width + last]
            ):
                last = k
        for i in range(count):
            s = count - 1 - i
            tags[s] = last
            last = came[s * width + last]


@opaque(unit="text", results={"tagged": "o: u8"}, sets=("written",))
def write_tagged(
    text: "b: u8",
    tags: "s: i32",
    kinds: "kinds: i32",
    starts: "starts: i32",
    pool: "pool: u8",
    tagged,
):
    """The words of a UTF-8 text, each with a slash and its tag, with spaces between them.

    kinds   whether a tag begins a word, goes on with one, or is in none
    starts  where the name of each tag starts in `pool`
    """
    at = 0
    written = 0
    tag = 0
    for s in range(len(tags)):
        begins = kinds[tags[s]] == BEGINS
        if s > 0 and kinds[tags[s]] == OUTSIDE:
            begins = kinds[tags[s - 1]] != OUTSIDE
        if s > 0 and begins:
            written = put_tag(tag, starts, pool, tagged, written)
            tagged[written] = SPACE
            written += 1
        if s == 0 or begins:
            tag = tags[s]
        tagged[written] = text[at]
        written += 1
        at += 1
        while at < len(text) and text[at] & 192 == CONTINUES:
            tagged[written] = text[at]
            written += 1
            at += 1
    if len(tags) > 0:
        written = put_tag(tag, starts, pool, tagged, written)
    return written


def put_tag(tag: int, starts: I32, pool: U8, tagged: U8, written: int) -> int:
    """Write a slash and the name of a tag; where the text ends then."""
    tagged[written] = SLASH
    written += 1
    for i in range(starts[tag], starts[tag + 1]):
        tagged[written] = pool[i]
        written += 1
    return written


def read_lac(path: Path, most: int = 512) -> Model:
    """LAC's folder as a model: text in; tags and text with tags out."""
    words = lac.dictionary(path / lac.WORDS)
    tags = sorted(lac.dictionary(path / lac.TAGS).items(), key=lambda item: item[1])
    single = {ord(name): number for name, number in words.items() if len(name) == 1}
    encode_tables = {
        "frame": np.zeros(2, np.int32),
        "points": number_table(single.keys(), single.values()),
        "settings": np.array([words[lac.UNKNOWN]], np.int32),
    }
    codec = Codec(encode_character.name, decode_tokens.name, encode_tables, {}, 4)
    return lac.read_folder(path, codec, tag_tables([name for name, _ in tags]), most)


def tag_tables(names: Sequence[str]) -> Mapping[str, Table]:
    """What `write_tagged` reads, from names such as PER-B, PER-I and O."""
    kinds = [OUTSIDE if n == "O" else BEGINS if n.endswith("-B") else INSIDE for n in names]
    texts = [name.partition("-")[0].encode() for name in names]
    starts = np.cumsum([0, *map(len, texts)])
    return {
        "kinds": np.array(kinds, np.int32),
        "starts": starts.astype(np.int32),
        "pool": np.frombuffer(b"".join(texts), np.uint8),
    }


@hookimpl
def infinisa_instructions() -> Sequence[Instruction]:
    return [viterbi, viterbi_path, write_tagged]
