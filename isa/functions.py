"""The scalar functions a `Map` may apply and the folds a `Reduce` may do, each on one line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Result = Literal["same", "float", "bool", "branches"]


@dataclass(frozen=True)
class Function:
    """A scalar function: what it computes, what type it yields, how many operations it is worth.

    `result` is "same" (the type of its arguments), "float" (integers become f32), "bool", or
    "branches" (the first argument is a condition, the others give the type). One of `numbers` takes
    no truth values.
    """

    name: str
    arity: int
    numpy: Callable[..., Array]
    result: Result = "same"
    cost: int = 1
    commutative: bool = False
    numbers: bool = False


@dataclass(frozen=True)
class Fold:
    """A reduction: its neutral element and how two partial results combine (None: they do not)."""

    name: str
    numpy: Callable[..., Array]
    neutral: float
    combine: str | None


# Abramowitz and Stegun give erf to 1.5e-7 only; this is W. J. Cody's rational form, to 1e-15
# (Math. Comp. 23, 1969), evaluated by NumPy so that no other package is needed.
_ERF_SMALL_P = (3.16112374387056560e00, 1.13864154151050156e02, 3.77485237685302021e02,
                3.20937758913846947e03, 1.85777706184603153e-1)  # fmt: skip
_ERF_SMALL_Q = (2.36012909523441209e01, 2.44024637934444173e02, 1.28261652607737228e03,
                2.84423683343917062e03)  # fmt: skip
_ERF_LARGE_P = (5.64188496988670089e-1, 8.88314979438837594e00, 6.61191906371416295e01,
                2.98635138197400131e02, 8.81952221241769090e02, 1.71204761263407058e03,
                2.05107837782607147e03, 1.23033935479799725e03, 2.15311535474403846e-8)  # fmt: skip
_ERF_LARGE_Q = (1.57449261107098347e01, 1.17693950891312499e02, 5.37181101862009858e02,
                1.62138957456669019e03, 3.29079923573345963e03, 4.36261909014324716e03,
                3.43936767414372164e03, 1.23033935480374942e03)  # fmt: skip


# N. Juffa's polynomials for f32, within 1.1 units in the last place: a tenth of the work.
_ERF_NEAR_F32 = (-5.96761703e-4, 4.99119423e-3, -2.67681349e-2, 1.12819925e-1, -3.76125336e-1,
                 1.28379166e-1)  # fmt: skip
_ERF_FAR_F32 = (-1.72853470e-5, 3.83197126e-4, -3.88396438e-3, 2.42546219e-2, -1.06777877e-1,
                -6.34846687e-1, -1.28717512e-1)  # fmt: skip
_ERF_FAR_FROM_F32 = 0.927734375


def erf(x: Array) -> Array:
    """The error function, elementwise, in the precision of `x`."""
    x = np.asarray(x)
    return _erf_f32(x) if x.dtype == np.float32 else _erf_f64(x.astype(np.float64)).astype(x.dtype)


def _erf_f32(x: Array) -> Array:
    size = np.minimum(np.abs(x), np.float32(4.0))  # erf(4) rounds to 1
    square = size * size
    near = _polynomial(_ERF_NEAR_F32, square) * x + x
    far = np.copysign(1 - np.exp(_polynomial(_ERF_FAR_F32, size) * size - size), x)
    return np.where(size > np.float32(_ERF_FAR_FROM_F32), far, near)


def _polynomial(coefficients: Sequence[float], x: Array) -> Array:
    """By Horner's rule, the highest power first, in the precision of `x`."""
    total = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        total *= x
        total += x.dtype.type(coefficient)
    return total


def _erf_f64(x: Array) -> Array:
    size = np.minimum(np.abs(x), 6.0)  # erf(6) rounds to 1
    small = np.minimum(x * x, 0.25)
    top, bottom = np.full_like(x, _ERF_SMALL_P[4]), np.ones_like(x)
    for p, q in zip(_ERF_SMALL_P[:4], _ERF_SMALL_Q, strict=True):
        top, bottom = top * small + p, bottom * small + q
    near = x * top / bottom
    top, bottom = np.full_like(x, _ERF_LARGE_P[8]), np.ones_like(x)
    for p, q in zip(_ERF_LARGE_P[:8], _ERF_LARGE_Q, strict=True):
        top, bottom = top * size + p, bottom * size + q
    far = np.copysign(1.0 - np.exp(-size * size) * top / bottom, x)
    result = np.where(np.abs(x) <= 0.5, near, far)
    return np.where(np.isnan(x), np.nan, result)


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)) without overflow."""
    small = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1, small) / (1 + small))


def _all(*rows: Function) -> dict[str, Function]:
    return {row.name: row for row in rows}


FUNCTIONS: Mapping[str, Function] = _all(
    Function("negate", 1, np.negative, numbers=True),
    Function("absolute", 1, np.abs),
    Function("sign", 1, np.sign, numbers=True),
    Function("exp", 1, np.exp, "float", 8),
    Function("log", 1, np.log, "float", 8),
    Function("sqrt", 1, np.sqrt, "float", 4),
    Function("rsqrt", 1, lambda x: 1 / np.sqrt(x), "float", 4),
    Function("reciprocal", 1, lambda x: 1 / x, "float", 4),
    Function("tanh", 1, np.tanh, "float", 10),
    Function("erf", 1, erf, "float", 10),
    Function("sigmoid", 1, sigmoid, "float", 10),
    Function("sin", 1, np.sin, "float", 10),
    Function("cos", 1, np.cos, "float", 10),
    Function("floor", 1, np.floor),
    Function("ceil", 1, np.ceil),
    Function("round", 1, np.rint),
    Function("is_nan", 1, np.isnan, "bool"),
    Function("logical_not", 1, np.logical_not, "bool"),
    Function("add", 2, np.add, commutative=True),
    Function("subtract", 2, np.subtract, numbers=True),
    Function("multiply", 2, np.multiply, commutative=True),
    Function("divide", 2, np.true_divide, "float", 4),
    Function("floor_divide", 2, np.floor_divide, cost=4),
    Function("modulo", 2, np.mod, cost=4),
    Function("power", 2, np.power, "float", 16),
    Function("maximum", 2, np.maximum, commutative=True),
    Function("minimum", 2, np.minimum, commutative=True),
    Function("equal", 2, np.equal, "bool", commutative=True),
    Function("not_equal", 2, np.not_equal, "bool", commutative=True),
    Function("less", 2, np.less, "bool"),
    Function("less_equal", 2, np.less_equal, "bool"),
    Function("greater", 2, np.greater, "bool"),
    Function("greater_equal", 2, np.greater_equal, "bool"),
    Function("logical_and", 2, np.logical_and, "bool", commutative=True),
    Function("logical_or", 2, np.logical_or, "bool", commutative=True),
    Function("where", 3, np.where, "branches"),
)

PULLBACKS: Mapping[str, tuple[str, ...]] = {
    "negate": ("-g",),
    "absolute": ("g * sign(a)",),
    "exp": ("g * y",),
    "log": ("g / a",),
    "sqrt": ("0.5 * g / y",),
    "rsqrt": ("-0.5 * g * y / a",),
    "reciprocal": ("-g * y * y",),
    "tanh": ("g * (1.0 - y * y)",),
    "erf": ("g * 1.1283791670955126 * exp(-a * a)",),
    "sigmoid": ("g * y * (1.0 - y)",),
    "sin": ("g * cos(a)",),
    "cos": ("-g * sin(a)",),
    "add": ("g", "g"),
    "subtract": ("g", "-g"),
    "multiply": ("g * b", "g * a"),
    "divide": ("g / b", "-g * y / b"),
    "modulo": ("g", "-g * floor(a / b)"),
    "power": ("g * b * power(a, b - 1.0)", "where(equal(y, 0.0), 0.0, g * y * log(a))"),
    "maximum": (
        "where(greater(a, b), g, where(equal(a, b), 0.5 * g, 0.0))",
        "where(greater(b, a), g, where(equal(a, b), 0.5 * g, 0.0))",
    ),
    "minimum": (
        "where(less(a, b), g, where(equal(a, b), 0.5 * g, 0.0))",
        "where(less(b, a), g, where(equal(a, b), 0.5 * g, 0.0))",
    ),
    "where": ("", "where(a, g, 0.0)", "where(a, 0.0, g)"),
}
"""Derivatives: what each argument gets of a gradient `g` of the result `y`, in terms of the
arguments `a`, `b` and `c`. Functions that are not here are constant almost everywhere. Of two
equals, maximum and minimum give each a half."""

FOLDS: Mapping[str, Fold] = {
    "sum": Fold("sum", np.sum, 0.0, "add"),
    "max": Fold("max", np.max, -np.inf, "maximum"),
    "min": Fold("min", np.min, np.inf, "minimum"),
    "product": Fold("product", np.prod, 1.0, "multiply"),
    "argmax": Fold("argmax", np.argmax, -1.0, None),
}
