"""Functions in pieces, with tables that stand in registers.

A piece is around n * step: vectors look up the numbers of theirs by n. It takes fewer operations
than one polynomial, or one rational function, for all numbers, and is nearer to the truth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from .ir import Function, Value, constant, literal

LANES = 16
POINTS = 64
"""Positions of a piece that a polynomial is fitted to."""


@dataclass(frozen=True)
class Pieces:
    """An odd function that is 1 in the last piece and behind it, as far as a float can tell.

    step    the length of a piece: a power of two
    tables  of 16 pieces each
    degree  of the polynomials
    """

    function: Callable[[float], float]
    step: float
    tables: int
    degree: int

    @property
    def last(self) -> int:
        return LANES * self.tables - 1

    def fitted(self) -> list[list[float]]:
        """Coefficients of the highest power first: one number a piece."""
        pieces = [self.first(), *map(self.inner, range(1, self.last)), [1.0] + [0.0] * self.degree]
        return [[piece[power] for piece in pieces] for power in range(self.degree, -1, -1)]

    def first(self) -> list[float]:
        """Near 0, in numbers from 0 on: a multiple of x, so that the least are as good as any."""
        return [0.0, *fit(lambda x: self.function(x) / x, 0.0, self.step / 2, self.degree - 1)]

    def inner(self, n: int) -> list[float]:
        half = self.step / 2
        return fit(lambda x: self.function(n * self.step + x), -half, half, self.degree)


def fit(function: Callable[[float], float], low: float, high: float, degree: int) -> list[float]:
    """Coefficients of a polynomial that is near a function, the lowest power first."""
    angles = np.pi * (np.arange(POINTS) + 0.5) / POINTS
    points = (low + high) / 2 + np.cos(angles) * (high - low) / 2
    values = [function(x) for x in points]
    fitted = np.polynomial.chebyshev.Chebyshev.fit(points, values, degree, domain=[low, high])
    powers = fitted.convert(kind=np.polynomial.Polynomial).coef
    return [*powers, *[0.0] * (degree + 1 - len(powers))]


@cache
def coefficients(pieces: Pieces) -> list[list[float]]:
    return pieces.fitted()


ERF = Pieces(math.erf, 0.125, 2, 4)


def by_pieces(f: Function, x: Value, pieces: Pieces) -> Value:
    """The function of a vector of 16 floats."""
    index, rest = piece_of(f, x, pieces.step, pieces.last)
    rows = coefficients(pieces)
    total = looked_up(f, rows[0], index)
    for row in rows[1:]:
        total = f.intrinsic("fmuladd", [total, rest, looked_up(f, row, index)])
    return f.intrinsic("copysign", [total, x])


def piece_of(f: Function, x: Value, step: float, last: int) -> tuple[Value, Value]:
    """(n, |x| - n * step) for the nearest n, |x| being at most last * step."""
    end, magic = (constant("float", number, x.width) for number in (last * step, 12582912.0 * step))
    size = f.intrinsic("fabs", [x])
    size = f.select(f.compare("ogt", size, end), end, size)
    moved = f.binary("fadd", size, magic)
    rest = f.binary("fsub", size, f.binary("fsub", moved, magic))
    return f.convert("bitcast", moved, "i32"), rest


TANH = tuple(math.tanh(n / 2) if n < 18 else 1.0 for n in range(2 * LANES))
NEAR_0 = 15.03723335, 6.01239521
"""(a, b) so that tanh(d) is near d * (a + d**2) / (a + b * d**2) up to 1/4: off by 6e-9 of it."""


def tanh_of_sum(f: Function, x: Value) -> Value:
    """tanh(n / 2 + d) of a vector of 16 floats, with t = tanh(n / 2) looked up and u / v = tanh(d):
    (t + u / v) / (1 + t * u / v), one division, which is done beside other operations."""
    index, d = piece_of(f, x, 0.5, 2 * LANES - 1)
    a, b = (constant("float", number, x.width) for number in NEAR_0)
    t = looked_up(f, TANH, index)
    square = f.binary("fmul", d, d)
    u = f.binary("fmul", d, f.binary("fadd", square, a))
    v = f.intrinsic("fmuladd", [square, b, a])
    total = f.binary("fdiv", f.intrinsic("fmuladd", [t, v, u]), f.intrinsic("fmuladd", [t, u, v]))
    return f.intrinsic("copysign", [total, x])


POWERS = tuple(2.0 ** (n / (2 * LANES)) for n in range(2 * LANES))
"""Between 1 and 2, for `exp`: what is left of a number is so small that a square is enough."""


NARROW = math.log(2) / (4 * LANES)
AFTER_POWERS = (0.5 + NARROW**2 / 24, 1 + NARROW**2 / 8)
"""(c, b) so that exp(r) is near 1 + r * (b + c * r) up to `NARROW`: r**3 / 6 less its nearest
multiple of r, and r**4 / 24 less that of r**2."""


def eighths(below: int) -> list[int]:
    """The bits of 2**(n / 8 + below), for `exp`, less those of n in the eighths of an exponent."""
    powers = np.float32(2.0) ** (np.arange(8) / 8 + below)
    return [int(bits) - (n << 20) for n, bits in enumerate(powers.astype("f4").view("i4"))]


EIGHTH = math.log(2) / 16
AFTER_EIGHTHS = (
    math.log(2) ** 3 / 6,
    math.log(2) ** 2 * (0.5 + (math.sqrt(2) - 1) * EIGHTH**2 / 12),
    math.log(2),
    1.0,
)
"""Of a polynomial near 2**r for an r of at most 1/16, the highest power first: of
(r ln 2)**4 / 24 it has what is nearest to it of the square."""


def permuted(f: Function, row: Sequence[int], index: Value) -> Value:
    """One of 8 patterns of bits for each of 8 lanes, or for a single number, by the low bits of an
    index."""
    if index.width == 1:
        low = f.binary("and", index, constant("i32", len(row) - 1))
        return f.load(f.at(f.module.table("i32", row), f.convert("zext", low, "i64"), "i32"), "i32")
    table = Value(f"<{', '.join(f'i32 {bits}' for bits in row)}>", "i32", 8)
    held, name = f.convert("bitcast", table, "float"), "llvm.x86.avx2.permps"
    f.module.declarations.add(f"declare {held.type} @{name}({held.type}, {index.type})")
    given = f"{held.type} {held.text}, {index.type} {index.text}"
    return f.convert("bitcast", f.emit("float", 8, f"call {held.type} @{name}({given})"), "i32")


def looked_up(f: Function, row: Sequence[float], index: Value) -> Value:
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
