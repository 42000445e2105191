"""Indices of tensors: sums of axes with integer strides, divided and taken modulo."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import TypeAlias

from ..errors import LanguageError

Axis: TypeAlias = str


def union(groups: Iterable[Iterable[Axis]]) -> tuple[Axis, ...]:
    """Every axis once, in order of first appearance."""
    return tuple(dict.fromkeys(chain.from_iterable(groups)))


@dataclass(frozen=True)
class Affine:
    """An index: (sum of stride * axis, plus offset) // divide, then % modulo unless that is 0;
    without axes it is just the offset."""

    terms: tuple[tuple[Axis, int], ...] = ()
    offset: int = 0
    divide: int = 1
    modulo: int = 0

    def __post_init__(self) -> None:
        if not self.terms and (self.divide != 1 or self.modulo):
            number = self.offset // self.divide
            object.__setattr__(self, "offset", number % self.modulo if self.modulo else number)
            object.__setattr__(self, "divide", 1)
            object.__setattr__(self, "modulo", 0)

    @property
    def axes(self) -> tuple[Axis, ...]:
        return tuple(axis for axis, _ in self.terms)

    @property
    def plain(self) -> Axis | None:
        """The axis, if this index is just that axis."""
        if len(self.terms) == 1 and self == Affine(((self.terms[0][0], 1),)):
            return self.terms[0][0]
        return None

    def __str__(self) -> str:
        terms = [axis if stride == 1 else f"{stride}*{axis}" for axis, stride in self.terms]
        if self.offset or not terms:
            terms.append(str(self.offset))
        text = " + ".join(terms).replace("+ -", "- ")
        if self.divide != 1:
            text = f"({text}) // {self.divide}"
        return f"({text}) % {self.modulo}" if self.modulo else text


def affine(text: str | int | Affine) -> Affine:
    """Read an index such as `2*p + r - 1`, `s`, `7`, `n // 64` or `n % 64`."""
    if isinstance(text, Affine):
        return text
    if isinstance(text, int):
        return Affine(offset=text)
    try:
        return _affine(ast.parse(text, mode="eval").body)
    except (SyntaxError, LanguageError):
        raise LanguageError(
            f"index must be a sum of axes with integer strides, not {text!r}"
        ) from None


def _affine(node: ast.expr) -> Affine:
    match node:
        case ast.Name(id=name):
            return Affine(((name, 1),))
        case ast.Constant(value=int(value)):
            return Affine(offset=value)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _scaled(_affine(operand), -1)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _added(_affine(left), _affine(right))
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            return _added(_affine(left), _scaled(_affine(right), -1))
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return _product(_affine(left), _affine(right))
        case ast.BinOp(left=left, op=ast.FloorDiv(), right=ast.Constant(value=int(divide))):
            inner = _linear(_affine(left))
            if divide > 0:
                return Affine(inner.terms, inner.offset, divide)
        case ast.BinOp(left=left, op=ast.Mod(), right=ast.Constant(value=int(modulo))):
            inner = _affine(left)
            if modulo > 0 and not inner.modulo:
                return Affine(inner.terms, inner.offset, inner.divide, modulo)
    raise LanguageError("not an index")


def _linear(index: Affine) -> Affine:
    if index.divide != 1 or index.modulo:
        raise LanguageError("not an index")
    return index


def _product(left: Affine, right: Affine) -> Affine:
    """Of two indices of which one is a number."""
    if left.terms and right.terms:
        raise LanguageError("not an index")
    index, number = (left, right) if left.terms else (right, left)
    return _scaled(index, _linear(number).offset)


def _scaled(index: Affine, by: int) -> Affine:
    index = _linear(index)
    return Affine(tuple((axis, stride * by) for axis, stride in index.terms), index.offset * by)


def _added(left: Affine, right: Affine) -> Affine:
    left, right = _linear(left), _linear(right)
    strides = dict(left.terms)
    for axis, stride in right.terms:
        strides[axis] = strides.get(axis, 0) + stride
    terms = tuple((axis, stride) for axis, stride in strides.items() if stride)
    return Affine(terms, left.offset + right.offset)
