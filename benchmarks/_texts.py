"""Texts to tokenize, made without a network: what Python brings with it, and what is drawn.

What is drawn depends on nothing but its name.
"""

from __future__ import annotations

import base64
import importlib.util
import pydoc_data.topics
import random
import sysconfig
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

SCRIPTS = (
    (0x61, 0x7A), (0xE0, 0xFF), (0x3B1, 0x3C9), (0x430, 0x44F), (0x5D0, 0x5EA), (0x627, 0x64A),
    (0x905, 0x939), (0xE01, 0xE2E), (0x3041, 0x3096), (0xAC00, 0xD7A3), (0x1F300, 0x1F64F),
)  # fmt: skip
"""First and last letter of each."""

IDEOGRAPHS = (0x4E00, 0x9FA5)
SOURCE = 4_300_000
"""Characters of Python."""

BLOCK = 5000
"""Characters of one kind that stand together in a mixed text."""


@cache
def source() -> str:
    """Modules of Python's standard library."""
    root = Path(sysconfig.get_paths()["stdlib"])
    text = ""
    for path in sorted(path for path in root.rglob("*.py") if "site-packages" not in path.parts):
        text += path.read_text("utf-8", errors="replace")
        if len(text) > SOURCE:
            break
    return text[:SOURCE]


@cache
def prose() -> str:
    """Python's manual."""
    return "\n".join(pydoc_data.topics.topics.values())


def jieba_folder() -> Path | None:
    """Where jieba's dictionary is, if it is installed."""
    found = importlib.util.find_spec("jieba")
    return Path(found.origin).parent if found and found.origin else None


@cache
def chinese(characters: int = 300_000) -> str:
    """Words as often as in jieba's dictionary; without it, words of two ideographs each."""
    draw = random.Random("chinese")
    folder = jieba_folder()
    if folder is not None:
        rows = [line.split(" ") for line in (folder / "dict.txt").read_text("utf-8").splitlines()]
        words, weights = [row[0] for row in rows], [int(row[1]) for row in rows]
    else:
        words = [chr(draw.randint(*IDEOGRAPHS)) + chr(draw.randint(*IDEOGRAPHS))
                 for _ in range(20_000)]  # fmt: skip
        weights = [1_000_000 // rank for rank in range(1, 20_001)]
    text = ""
    for word in draw.choices(words, weights, k=characters):
        text += word
        if draw.random() < 0.12:
            text += draw.choice("，。，。、！？\n")
        if len(text) > characters:
            break
    return text


@cache
def scripts() -> str:
    """Words of random letters in eleven scripts."""
    draw = random.Random("scripts")
    words = []
    for _ in range(60_000):
        first, last = draw.choice(SCRIPTS)
        words.append("".join(chr(draw.randint(first, last)) for _ in range(draw.randint(1, 8))))
    return " ".join(words)


def emoji() -> str:
    draw = random.Random("emoji")
    joined = (0x200D, 0xFE0F, 0x1F3FB, 0x1F3FF, 0x20)
    some = (
        draw.choice([draw.randint(0x1F300, 0x1F64F), draw.choice(joined)]) for _ in range(10**5)
    )
    return "".join(map(chr, some))


def numbers() -> str:
    draw = random.Random("numbers")
    return " ".join(str(draw.randrange(10 ** draw.randint(1, 11))) for _ in range(60_000))


def characters() -> str:
    """Any code points, between letters, spaces and newlines."""
    draw = random.Random("characters")
    ranges = ((32, 126), (0, 0x24F), (0, 0x2FFF), (0xE000, 0x2FFFF), (9, 10), (32, 32))
    return "".join(chr(draw.randint(*draw.choice(ranges))) for _ in range(200_000))


def broken() -> str:
    """Random bytes, read as UTF-8 with what is ill-formed replaced."""
    return random.Random("broken").randbytes(300_000).decode("utf-8", "replace")


def letters() -> str:
    """One piece of 300,000 letters."""
    return "".join(random.Random("letters").choices("etaoinshrdlu", k=300_000))


def encoded() -> str:
    """Lines of base64."""
    return base64.encodebytes(random.Random("encoded").randbytes(230_000)).decode()


def one_character() -> str:
    return "a" * 10**6 + " " * 10**6


KINDS: Mapping[str, Callable[[], str]] = {
    "source": source,
    "prose": prose,
    "Chinese": chinese,
    "eleven scripts": scripts,
    "emoji": emoji,
    "numbers": numbers,
    "random characters": characters,
    "random bytes": broken,
    "base64": encoded,
    "one piece of letters": letters,
}


@cache
def mixed() -> str:
    """6 MB: 4.3 MB of source, 0.7 MB of English, 0.8 MB of Chinese, 0.7 MB in other scripts."""
    parts = [source(), prose(), chinese()[:270_000], scripts()]
    blocks = [part[at : at + BLOCK] for part in parts for at in range(0, len(part), BLOCK)]
    random.Random("mixed").shuffle(blocks)
    return "".join(blocks)
