"""LAC, Baidu's lexical analysis of Chinese: words and their tags (arXiv 1807.01882).

A folder holds `word.dic`, `tag.dic` (number, tab, name a line) and `model_baseline/`, a file for
each tensor: 16 bytes of zeros, the size of a description (i32), the description (its element type
and dimensions as varints), then little-endian f32. Two layers of gated recurrent units read the
characters both ways; a Viterbi search finds the best tags.

Axes: characters s, embedding d, gates q, hidden n and m, directions c, inputs of a second layer
(c p), tags k, rows of the transitions j.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infinisa.isa import formulas
from infinisa.isa.errors import ModelError
from infinisa.isa.language import Input, Node, Opaque, dot, gather, rename, view
from infinisa.isa.program import parameter

from ..builder import Builder
from ..graph import Model
from .text import SLACK, Codec, add_encode, tables

Array = NDArray[Any]

PARAMETERS = "model_baseline"
WORDS, TAGS, UNKNOWN = "word.dic", "tag.dic", "OOV"
FLOAT32 = 5  # an element type's number in a description
LONGEST_TAG = 4  # letters, such as TIME
SEARCH, PATH, WRITE = "viterbi", "viterbi_path", "write_tagged"
"""The opaque instructions that finish the work."""


def is_folder(path: Path) -> bool:
    """Whether the folder is one of LAC's."""
    return all((path / name).exists() for name in (WORDS, TAGS, PARAMETERS))


def dictionary(path: Path) -> dict[str, int]:
    """Names and their numbers, from a file of `number <tab> name` lines."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: must be UTF-8 text ({error})") from None
    found = {}
    for line in lines:
        number, tab, name = line.partition("\t")
        if tab and number.isdigit():
            found[name] = int(number)
    if not found:
        raise ModelError(f"{path}: must have lines of number, tab, name")
    return found


def tensor(path: Path) -> Array:
    """A tensor's file; ModelError if it is cut short or not f32."""
    data = path.read_bytes()
    if len(data) < 20 or any(data[:16]):
        raise ModelError(f"{path}: must start with 16 bytes of zeros and a size")
    size = int.from_bytes(data[16:20], "little")
    kind, shape = description(data[20 : 20 + size], path)
    values = data[20 + size :]
    if kind != FLOAT32 or len(values) != 4 * int(np.prod(shape)):
        raise ModelError(
            f"{path}: must hold {int(np.prod(shape))} f32 numbers of shape {shape}, "
            f"not {len(values)} bytes of type {kind}"
        )
    return np.frombuffer(values, "<f4").reshape(shape)


def description(data: bytes, path: Path) -> tuple[int, tuple[int, ...]]:
    """(element type, dimensions) of a protocol buffer with fields 1 and 2, all varints."""
    kind, shape, at = 0, [], 0
    while at < len(data):
        field = data[at]
        value, shift, more = 0, 0, 128
        while more:
            at += 1
            if at >= len(data) or shift > 28:
                raise ModelError(f"{path}: its description is cut short")
            value |= (data[at] & 127) << shift
            more = data[at] & 128
            shift += 7
        at += 1
        if field == 8:
            kind = value
        elif field == 16:
            shape.append(value)
    return kind, tuple(shape)


def gates(matrix: Array) -> Array:
    """Recurrent weights (m, 3 n) as (q n m), the gates as ONNX has them: z = 1 - u is negated u.

    The file has the update and reset gates as one block of rows, then the candidate's.
    """
    width = matrix.shape[0]
    flat = matrix.reshape(-1)
    first = flat[: 2 * width * width].reshape(width, 2, width)
    last = flat[2 * width * width :].reshape(width, width)
    return np.stack([-first[:, 0].T, first[:, 1].T, last.T])


def inputs(matrix: Array) -> Array:
    """Input weights (d, 3 n) as (q n d), the update gate negated."""
    split = matrix.reshape(matrix.shape[0], 3, -1) * np.array([-1, 1, 1], "f4")[:, None]
    return np.ascontiguousarray(split.transpose(1, 2, 0))


def bias(row: Array) -> Array:
    """A bias (3 n) as (q n), the update gate negated."""
    return np.asarray(row.reshape(3, -1) * np.array([-1, 1, 1], "f4")[:, None])


class Reader:
    """Builds the model of one folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.builder = Builder(path.name)

    def weight(self, name: str, axes: str, shape: tuple[int, ...], change: Any = None) -> Input:
        file = self.path / PARAMETERS / name
        if not file.is_file():
            raise ModelError(f"{file}: this tensor's file is missing")

        def load() -> Array:
            values = tensor(file)
            values = change(values) if change else values
            if values.size != int(np.prod(shape)):
                raise ModelError(f"{file}: must have shape {shape}, not {values.shape}")
            return np.ascontiguousarray(values.reshape(shape))

        content = hashlib.sha256(f"{shape}".encode() + file.read_bytes()).hexdigest()[:16]
        return self.builder.weight(name, axes, load, shape=shape, dtype="f32", content=content)

    def direction(self, x: Node, number: int, width: int, hidden: int, reverse: bool) -> Node:
        """The hidden of every step of one recurrence."""
        axes, sizes = ("d", (width,)) if number < 2 else ("c p", (2, hidden))
        weight = self.weight(f"fc_{number}.w_0", f"q n {axes}", (3, hidden, *sizes), inputs)
        recurrent = self.weight(f"gru_{number}.w_0", "q n m", (3, hidden, hidden), gates)
        offset = self.weight(f"fc_{number}.b_0", "q n", (3, hidden), bias)
        inner = self.weight(f"gru_{number}.b_0", "q n", (3, hidden), bias)
        start = self.zeros(hidden)
        every, _ = formulas.gru(
            x, weight, recurrent, offset, inner, start, "s", reverse, over=axes.split()
        )
        return self.builder.name(f"gru_{number}", every)

    def zeros(self, hidden: int) -> Input:
        known = self.builder.weights.get("zeros")
        return known.input if known else self.builder.weight("zeros", "n", np.zeros(hidden, "f4"))

    def emissions(self, characters: Node, words: int, tags: int) -> Node:
        """A score for every character and tag."""
        embedding = tensor(self.path / PARAMETERS / "word_emb").shape
        hidden = tensor(self.path / PARAMETERS / "gru_0.w_0").shape[0]
        if embedding[0] < words:
            raise ModelError(f"{self.path / WORDS}: must have at most {embedding[0]} words")
        x: Node = gather(self.weight("word_emb", "v d", embedding), characters, "v")
        for first in (0, 2):
            x = formulas.both_ways(
                self.direction(x, first, embedding[1], hidden, False),
                self.direction(x, first + 1, embedding[1], hidden, True),
            )
            x = rename(x, {"n": "p"})
        weight = self.weight("fc_4.w_0", "c p k", (2, hidden, tags))
        return dot(x, weight, "c p") + self.weight("fc_4.b_0", "k", (tags,))


def read_folder(path: Path, codec: Codec, tag_tables: Mapping[str, Array], most: int) -> Model:
    """The model of a folder: text in; tags and text with tags out.

    codec       characters to ids, with this folder's words
    tag_tables  what the writer of tagged text reads
    most        the longest text, in characters
    """
    reader = Reader(path)
    b = reader.builder
    words, tags = dictionary(path / WORDS), dictionary(path / TAGS)
    b.axis("i", most + SLACK)
    ids = b.kept("ids", "i: i32", shape=(most + SLACK,))
    prompt = b.parameter("prompt", most=most, default=min(32, most), given=False)
    add_encode(b, codec, ids, 4 * most, "prompt")
    graph = b.graph("tag")
    graph.axis("s", prompt)
    graph.works_on(prompt)
    scores = reader.emissions(view(ids, {"i": "s"}), max(words.values()) + 1, len(tags))
    best = reader.weight("crfw", "j k", (len(tags) + 2, len(tags)))
    search = (b.name("scores", scores), best)
    sums, came = (
        Opaque(SEARCH, search, ("s", "k"), "f32"),
        Opaque(SEARCH, search, ("s", "k"), "i32", 1),
    )
    found = b.name("tags", Opaque(PATH, (sums, came, best), ("s",), "i32"))
    graph.output("tags", found)
    text, _ = b.inputs["text"]
    longest = parameter("bytes") + prompt * (2 + LONGEST_TAG)  # a word, /TAG and a space
    graph.axis("b", parameter("bytes"))
    graph.axis("o", longest)
    b.parameter("written", most=b.bound(longest), default=0, given=False)
    arguments = (text, found, *tables(b, tag_tables))
    graph.output("text", Opaque(WRITE, arguments, ("o",), "u8", 0, ("written",)))
    return b.model()
