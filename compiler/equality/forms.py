"""Sums of products of atoms with exact coefficients: the data of `algebra.py`, and what is done to
them without knowing what an atom is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import Any, TypeAlias

from infinisa.isa.language import Affine, Axis

Number: TypeAlias = int | Fraction
Monomial: TypeAlias = tuple[tuple[int, Number], ...]
Form: TypeAlias = dict[Monomial, Number]
Frozen: TypeAlias = frozenset[tuple[Monomial, Number]]
Index: TypeAlias = tuple[tuple[Axis, Affine], ...]

ONE: Monomial = ()


class TooBig(Exception):
    """The expression is outside of what is tried: nothing is known about it."""


@dataclass(frozen=True, slots=True)
class Atom:
    """A value that the algebra does not look into.

    parts     what makes it, with the kind its identity
    axes      the free axes it depends on
    integer   whether it is a whole number
    infinite  whether it may be infinite for finite operands
    level     the highest of the bound axes inside it, which are called "%1:", "%2:" and so on
    """

    kind: str
    parts: tuple[Any, ...]
    axes: frozenset[Axis]
    integer: bool
    infinite: bool
    level: int


def number(value: Number | float) -> Number:
    """An exact number: an int where it is whole."""
    if isinstance(value, int):
        return int(value)
    exact = Fraction(value)
    return exact.numerator if exact.denominator == 1 else exact


def constant(value: Number | float) -> Form:
    exact = number(value)
    return {ONE: exact} if exact else {}


def plus(a: Form, b: Form, factor: Number = 1) -> Form:
    """a + factor * b"""
    total = dict(a)
    for monomial, coefficient in b.items():
        add(total, monomial, factor * coefficient)
    return total


def add(total: Form, monomial: Monomial, coefficient: Number) -> None:
    """total += coefficient * monomial, in place"""
    value = total.get(monomial, 0) + coefficient
    if value:
        total[monomial] = number(value)
    else:
        total.pop(monomial, None)


def scaled(form: Form, factor: Number) -> Form:
    if not factor:
        return {}
    return {monomial: number(factor * c) for monomial, c in form.items()}


def joined(a: Monomial, b: Monomial) -> Monomial:
    """The product of two monomials, not settled."""
    if not a or not b:
        return a or b
    exponents = dict(a)
    for atom, exponent in b:
        total = number(exponents.get(atom, 0) + exponent)
        if total:
            exponents[atom] = total
        else:
            del exponents[atom]
    return tuple(sorted(exponents.items()))


def raised(monomial: Monomial, exponent: Number) -> Monomial:
    return tuple((atom, number(e * exponent)) for atom, e in monomial)


def order(monomial: Monomial) -> tuple[tuple[int, Number], ...]:
    """The key that says which monomial of a form leads: the one with the youngest atom."""
    return tuple(reversed(monomial))


def whole(value: Number) -> bool:
    return isinstance(value, int)


def odd(value: Number) -> bool:
    return isinstance(value, int) and value % 2 == 1


@lru_cache(maxsize=4096)
def factors(value: int) -> tuple[tuple[int, int], ...]:
    """A positive integer as powers of small primes and of what is left."""
    found = []
    for prime in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47):
        count = 0
        while value % prime == 0:
            value, count = value // prime, count + 1
        if count:
            found.append((prime, count))
    root = math.isqrt(value)
    if value > 1:
        found.append((root, 2) if root * root == value else (value, 1))
    return tuple(found)


def bound_name(level: int, label: str) -> Axis:
    return f"%{level}:{label}"


def union_of(atoms: Iterable[Atom]) -> frozenset[Axis]:
    return frozenset(axis for atom in atoms for axis in atom.axes)


def sorted_terms(index: Affine) -> Affine:
    return replace(index, terms=tuple(sorted(index.terms)))


def renaming(names: Mapping[Axis, Axis]) -> dict[Axis, Affine]:
    return {old: Affine(((new, 1),)) for old, new in names.items() if old != new}


def common_factor(form: Form) -> Fraction:
    """The largest number above zero that all coefficients are whole multiples of."""
    top = math.gcd(*(Fraction(c).numerator for c in form.values()))
    return Fraction(top, math.lcm(*(Fraction(c).denominator for c in form.values())))
