"""Numbers of cycles and operations as formulas over the lengths of axes.

The functions that time an instruction take lengths as integers or arrays; given an `Amount` for
each axis they return the formula that they follow.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from infinisa.isa.timing import Timing

from ..boxes import Box, Fence, Name, Number, Sign, Word, call, parentheses, row
from ..typeset import greek


@dataclass(frozen=True)
class Quotient:
    """An amount divided by an integer, rounded up or down."""

    amount: Amount
    by: int
    up: bool


@dataclass(frozen=True)
class Largest:
    """The largest of some amounts."""

    amounts: tuple[Amount, ...]


Factor: TypeAlias = str | Quotient | Largest


@dataclass(frozen=True)
class Amount:
    """A sum of products of lengths and quotients: {the factors of a product: how often it counts}.

    The factors are in the order in which they were first multiplied.
    """

    terms: tuple[tuple[tuple[Factor, ...], int], ...] = ()

    def __add__(self, other: Amount | int) -> Amount:
        total = dict(self.terms)
        for factors, count in amount(other).terms:
            key = next((known for known in total if alike(known, factors)), factors)
            total[key] = total.get(key, 0) + count
        return Amount(tuple((key, count) for key, count in total.items() if count))

    def __mul__(self, other: Amount | int) -> Amount:
        total = Amount()
        for left, a in self.terms:
            for right, b in amount(other).terms:
                total += Amount((((*left, *right), a * b),))
        return total

    def __neg__(self) -> Amount:
        return self * -1

    def __sub__(self, other: Amount | int) -> Amount:
        return self + -amount(other)

    def __floordiv__(self, by: int) -> Amount:
        if all(count % by == 0 for _, count in self.terms):
            return Amount(tuple((factors, count // by) for factors, count in self.terms))
        if all(count < 0 for _, count in self.terms):  # how `ceil_divide` rounds up
            return Amount((((Quotient(-self, by, True),), -1),))
        return Amount((((Quotient(self, by, False),), 1),))

    def __array_ufunc__(
        self, function: object, method: str, a: Amount | int, b: Amount | int
    ) -> Amount:
        """How NumPy asks for the larger of two."""
        assert (function, method) == (np.maximum, "__call__")
        return largest(amount(a), amount(b))

    __radd__ = __add__
    __rmul__ = __mul__


def largest(a: Amount, b: Amount) -> Amount:
    """The larger of two amounts. Lengths are positive, so one that has all that the other has is
    the larger."""
    for more, less in ((a, b), (b, a)):
        if all(count >= 0 for _, count in (more + -less).terms):
            return more
    known = [part for each in (a, b) for part in _alternatives(each)]
    return Amount((((Largest(tuple(dict.fromkeys(known))),), 1),))


def _alternatives(value: Amount) -> tuple[Amount, ...]:
    match value.terms:
        case (((Largest(amounts),), 1),):
            return amounts
    return (value,)


def alike(a: tuple[Factor, ...], b: tuple[Factor, ...]) -> bool:
    """Whether two products have the same factors."""
    return sorted(map(str, a)) == sorted(map(str, b))


def amount(value: Amount | int) -> Amount:
    if isinstance(value, Amount):
        return value
    return Amount((((), value),)) if value else Amount()


def length(axis: str) -> Amount:
    return Amount((((axis,), 1),))


# ---------------------------------------------------------------- as boxes


def amount_box(value: Amount | int) -> Box:
    """`2 k m n + ⌈m n / 64⌉ + 4`: products first, the largest of them first."""
    terms = sorted(amount(value).terms, key=lambda term: -len(term[0]))
    boxes: list[Box] = []
    for factors, count in terms:
        if boxes or count < 0:
            boxes.append(Sign("−" if count < 0 else "+"))
        boxes.append(_product(factors, abs(count)))
    return row(*boxes) if boxes else Number("0")


def _product(factors: tuple[Factor, ...], count: int) -> Box:
    parts: list[Box] = [] if count == 1 and factors else [Number(str(count))]
    parts += [_factor(factor) for factor in factors]
    found = parts[:1]
    for part in parts[1:]:
        found += [Sign("·"), part]
    return row(*found)


def _factor(factor: Factor) -> Box:
    match factor:
        case str():
            return Name(greek(factor))
        case Largest(amounts):
            return call("max", *map(amount_box, amounts))
    top = amount_box(factor.amount)
    top = parentheses(top) if len(factor.amount.terms) > 1 else top
    return rounded(top, Number(str(factor.by)), factor.up)


def rounded(top: Box, bottom: Box, up: bool) -> Box:
    """A quotient of integers, on one line; operands that are sums have brackets already."""
    left, right = "⌈⌉" if up else "⌊⌋"
    return Fence(left, row(top, Sign("/"), bottom), right)


def timing_box(timing: Timing, known: Mapping[str, int]) -> Box:
    """A timing that a plugin states, with the attributes of a unit in it."""
    return _timed(timing.tree, known)


def _timed(node: ast.expr, known: Mapping[str, int]) -> Box:
    match node:
        case ast.Constant(value=value):
            return Number(str(value))
        case ast.Name(id=name):
            return Number(str(known[name])) if name in known else Name(greek(name))
        case ast.UnaryOp(operand=operand):
            return row(Sign("−"), _timed(operand, known))
        case ast.BinOp(left=left, op=ast.Div() | ast.FloorDiv() as op, right=right):
            top, bottom = _factor_timed(left, known), _factor_timed(right, known)
            return rounded(top, bottom, isinstance(op, ast.Div))
        case ast.BinOp(left=left, op=ast.Mult() | ast.Mod() as op, right=right):
            return row(_factor_timed(left, known), _SIGNS[type(op)], _factor_timed(right, known))
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            return row(_timed(left, known), Sign("−"), _factor_timed(right, known))
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return row(_timed(left, known), Sign("+"), _timed(right, known))
        case ast.Call(func=ast.Name(id=name), args=arguments):
            return call(name, *(_timed(argument, known) for argument in arguments))
    raise AssertionError(node)


def _factor_timed(node: ast.expr, known: Mapping[str, int]) -> Box:
    """An operand where a sum needs brackets."""
    box = _timed(node, known)
    is_sum = isinstance(node, ast.UnaryOp) or (
        isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub)
    )
    return parentheses(box) if is_sum else box


_SIGNS: Mapping[type[ast.operator], Box] = {ast.Mult: Sign("·"), ast.Mod: Word("mod")}
