"""A tokenizer as a reader takes it: names of opaque instructions and the tables they read.

Readers do not know tokenizers; who calls them hands one down as plain data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infinisa.isa.language import Input, Node, Opaque, update
from infinisa.isa.program import Count

from ..builder import Builder

Array = NDArray[Any]

SLACK = 256
"""Places behind the token buffer's last: an encoder's working space for a text that fills it."""


@dataclass(frozen=True)
class Codec:
    """Text to ids and back.

    encode  the instruction: (text, tables...) to ids; it sets the number of ids
    decode  the instruction: (ids, tables...) to text; it sets the number of bytes
    widest  bytes of the longest token
    """

    encode: str
    decode: str
    encode_tables: Mapping[str, Array]
    decode_tables: Mapping[str, Array]
    widest: int


def add_encode(b: Builder, codec: Codec, ids: Input, most_bytes: int, prompt: str) -> None:
    """The graph that turns input `text` into kept `ids` and sets parameter `prompt`."""
    length = b.parameter("bytes", most=most_bytes, default=min(256, most_bytes))
    text = b.input("text", "b: u8", shape=(most_bytes,))
    graph = b.graph("encode")
    graph.axis("b", length)
    (axis,) = ids.axes
    arguments = (text, *tables(b, codec.encode_tables))
    found = Opaque(codec.encode, arguments, (axis,), "i32", 0, (prompt,))
    graph.update(update(ids, found, {}))


def add_decode(b: Builder, codec: Codec, ids: Node, start: Count, length: Count) -> None:
    """The graph that turns ids, over axis s from `start`, into output `text`."""
    width = min(codec.widest, 64)
    b.parameter("written", most=width * b.bound(length), default=0, given=False)
    graph = b.graph("detokenize")
    graph.axis("s", length, start=start)
    graph.axis("o", Count(length.constant * width, tuple((n, f * width) for n, f in length.terms)))
    arguments = (ids, *tables(b, codec.decode_tables))
    graph.output("text", Opaque(codec.decode, arguments, ("o",), "u8", 0, ("written",)))


def tables(b: Builder, arrays: Mapping[str, Array]) -> list[Input]:
    """The tables as weights, each over an axis of its own name."""
    found = []
    for name, array in arrays.items():
        title = f"text.{name}"
        if title in b.weights:
            found.append(b.weights[title].input)
        else:
            found.append(b.weight(title, name, np.ascontiguousarray(array)))
    return found
