"""What a manual's text is made of: the same blocks become Markdown and HTML."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from ..boxes import Box, Equation


@dataclass(frozen=True)
class Mono:
    """Text as a machine reads it."""

    text: str


@dataclass(frozen=True)
class Link:
    """The name of an instruction of this manual, leading to it."""

    target: str


@dataclass(frozen=True)
class Math:
    """A formula in running text."""

    box: Box


Inline: TypeAlias = str | Mono | Link | Math
Text: TypeAlias = tuple[Inline, ...]


@dataclass(frozen=True)
class Paragraph:
    text: Text


@dataclass(frozen=True)
class Heading:
    """The title of a part of an instruction's section."""

    text: str


@dataclass(frozen=True)
class Table:
    """Rows of cells; columns whose heading is in `numbers` stand to the right."""

    headings: tuple[str, ...]
    rows: tuple[tuple[Text, ...], ...]
    numbers: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Code:
    text: str
    language: str = ""


@dataclass(frozen=True)
class Equations:
    equations: tuple[Equation, ...]


@dataclass(frozen=True)
class Fold:
    """Blocks that a page shows when asked; elsewhere they follow their title."""

    title: str
    blocks: tuple[Block, ...]


Block: TypeAlias = Paragraph | Heading | Table | Code | Equations | Fold


def text(*parts: Inline) -> Text:
    return parts


def listed(parts: Iterable[Inline], by: str = ", ") -> Text:
    """Parts with a comma between them."""
    found: list[Inline] = []
    for part in parts:
        found += [by, part] if found else [part]
    return tuple(found)


def sentence(*parts: Inline) -> Paragraph:
    return Paragraph(parts)
