"""How far apart two results are."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .points import Array

RELATIVE, ABSOLUTE = 1e-8, 1e-9
"""How far apart two equal values may be in f64: of the value, and of the tensor's largest."""


def distance(expected: Array, found: Array, finite: bool = False) -> float:
    """How far apart two results are, relative to the tensor; 0 if they are equal as far as f64
    tells, inf where one has a value and the other none. Where nothing is expected (NaN; of finite
    inputs also an infinity, which is an overflow), anything may be found."""
    return distances(expected, [found], finite)[0]


def distances(expected: Array, found: Sequence[Array], finite: bool = False) -> list[float]:
    """The distance of each of some results of one shape."""
    if expected.shape != found[0].shape:
        return [math.inf] * len(found)
    values = np.reshape(np.stack(found), (len(found), -1))
    expected = expected.reshape(-1)
    if expected.dtype.kind != "f" and values.dtype.kind != "f":
        unequal = (values != expected).sum(axis=1) / max(expected.size, 1)
        return [float(share) for share in unequal]
    wrong = np.zeros(len(found), bool)
    inside = np.isfinite(expected)
    if not inside.all():
        infinite = np.isinf(expected) & (not finite)
        wrong = (values[:, infinite] != expected[infinite]).any(axis=1)
        expected, values = expected[inside], values[:, inside]
    if not expected.size:
        return [math.inf if bad else 0.0 for bad in wrong]
    size = np.abs(expected)
    largest = float(size.max())
    with np.errstate(all="ignore"):
        apart = np.abs(values - expected)
        near = (apart <= RELATIVE * size + ABSOLUTE * largest).all(axis=1)
        gaps = np.where(near, 0.0, apart.max(axis=1) / largest if largest else math.inf)
    return [float(gap) for gap in np.where(wrong | np.isnan(gaps), math.inf, gaps)]
