"""Formulas as they stand on paper: small trees of boxes, which mathml.py and latex.py print."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Name:
    """A variable: one letter slanted, a word upright; `primes` tell apart indices of one axis."""

    text: str
    primes: int = 0


@dataclass(frozen=True)
class Number:
    """Digits as they are printed, without a sign."""

    text: str


@dataclass(frozen=True)
class Word:
    """The name of a function, or text inside a formula."""

    text: str


@dataclass(frozen=True)
class Sign:
    """An operator between or before operands, such as + or ≥."""

    text: str


@dataclass(frozen=True)
class Row:
    """Boxes side by side."""

    items: tuple[Box, ...]


@dataclass(frozen=True)
class Fraction:
    top: Box
    bottom: Box


@dataclass(frozen=True)
class Root:
    inside: Box


@dataclass(frozen=True)
class Scripts:
    """A base with what stands at its foot and at its head."""

    base: Box
    below: Box | None = None
    above: Box | None = None


@dataclass(frozen=True)
class Big:
    """A sum sign or the like with its indices under it, before what it ranges over."""

    sign: Sign | Word
    under: Box
    inside: Box


@dataclass(frozen=True)
class Fence:
    """Brackets that grow with what they hold."""

    left: str
    inside: Box
    right: str


@dataclass(frozen=True)
class Cases:
    """Values with the condition of each; without one, it is for all that is left."""

    rows: tuple[tuple[Box, Box | None], ...]


Box: TypeAlias = Name | Number | Word | Sign | Row | Fraction | Root | Scripts | Big | Fence | Cases


@dataclass(frozen=True)
class Equation:
    """`left = right`, or `left ← right` where the old value is replaced."""

    left: Box
    relation: str
    right: Box


@dataclass(frozen=True)
class Formula:
    """What is computed, the values that it shares, and what a formula cannot show."""

    equations: tuple[Equation, ...]
    where: tuple[Equation, ...] = ()
    notes: tuple[str, ...] = ()


def row(*items: Box) -> Box:
    """The boxes side by side; a single one as it is."""
    return items[0] if len(items) == 1 else Row(items)


def separated(items: list[Box], by: str = ",") -> Box:
    """The boxes with a sign between them."""
    found: list[Box] = []
    for item in items:
        found += [Sign(by), item] if found else [item]
    return row(*found) if found else Row(())


def parentheses(inside: Box) -> Box:
    return Fence("(", inside, ")")


def call(name: str, *arguments: Box) -> Box:
    """`name(arguments)`"""
    return row(Word(name), parentheses(separated(list(arguments))))
