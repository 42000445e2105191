"""Odd functions by polynomials of pieces, whose coefficients stand in registers.

A piece is around n * step: vectors look up the coefficients of theirs by n. It takes fewer
operations than one rational function for all numbers, and is nearer to the truth.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from .ir import Function, Value, constant, literal

LANES = 16
POINTS = 64
"""Positions of a piece that a polynomial is fitted to."""


@dataclass(frozen=True)
class Pieces:
    """An odd function that is 1 behind the last piece, as far as a float can tell.

    step    the length of a piece; a power of two times few bits, so that n * step is exact
    tables  of 16 pieces each
    degree  of the polynomial for function(x) / x
    """

    function: Callable[[float], float]
    step: float
    tables: int
    degree: int

    def fitted(self) -> list[list[float]]:
        """Coefficients of the highest power first: one number a piece."""
        columns = []
        for n in range(LANES * self.tables):
            angles = np.pi * (np.arange(POINTS) + 0.5) / POINTS
            offsets = np.cos(angles) * self.step / 2
            near = np.maximum(np.abs(n * self.step + offsets), 1e-6)
            values = [self.function(x) / x for x in near]
            fitted = np.polynomial.chebyshev.Chebyshev.fit(
                offsets, values, self.degree, domain=[-self.step / 2, self.step / 2]
            )
            powers = fitted.convert(kind=np.polynomial.Polynomial).coef
            columns.append([*powers, *[0.0] * (self.degree + 1 - len(powers))])
        return [[column[power] for column in columns] for power in range(self.degree, -1, -1)]


@cache
def coefficients(pieces: Pieces) -> list[list[float]]:
    return pieces.fitted()


ERF = Pieces(math.erf, 0.25, 1, 5)
TANH = Pieces(math.tanh, 0.28125, 2, 5)


def by_pieces(f: Function, x: Value, pieces: Pieces) -> Value:
    """The function of a vector of 16 floats."""
    size = f.intrinsic("fabs", [x])
    magic = constant("float", 12582912.0, x.width)
    moved = f.intrinsic("fmuladd", [size, constant("float", 1 / pieces.step, x.width), magic])
    index = f.convert("bitcast", moved, "i32")
    n = f.binary("fsub", moved, magic)
    t = f.intrinsic("fmuladd", [n, constant("float", -pieces.step, x.width), size])
    rows = coefficients(pieces)
    total = looked_up(f, rows[0], index)
    for row in rows[1:]:
        total = f.intrinsic("fmuladd", [total, t, looked_up(f, row, index)])
    near = f.binary("fmul", total, x)
    far = f.intrinsic("copysign", [constant("float", 1.0, x.width), x])
    end = constant("float", (LANES * pieces.tables - 0.5) * pieces.step, x.width)
    return f.select(f.compare("ogt", size, end), far, near)


def looked_up(f: Function, row: list[float], index: Value) -> Value:
    """A number of a row of 16 or 32 for each lane, by the low bits of an index."""
    tables = []
    for first in range(0, len(row), LANES):
        numbers = ", ".join(f"float {literal('float', c)}" for c in row[first : first + LANES])
        tables.append(Value(f"<{numbers}>", "float", LANES))
    kind = tables[0].type
    if len(tables) == 1:
        name, given = "permvar.sf.512", [tables[0], index]
    else:
        name, given = "vpermi2var.ps.512", [tables[0], index, tables[1]]
    types = ", ".join(value.type for value in given)
    f.module.declarations.add(f"declare {kind} @llvm.x86.avx512.{name}({types})")
    listed = ", ".join(f"{value.type} {value.text}" for value in given)
    return f.emit("float", LANES, f"call {kind} @llvm.x86.avx512.{name}({listed})")
