"""Whether arrays that should be equal are, given what rounding can do to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infinisa.isa.language import Cast, Gather, Input, Map, Node, Reduce, everything

Array = NDArray[Any]

CLOSE = 2e-5
"""How far apart values may be, as a share of the largest of their array."""
FACTOR = 16.0
"""How many times further from the exact value than the language's own value in f32."""
FEW = 0.02
"""Where a computed value is rounded or compared, the share of elements that may fall to the other
side."""

CUTS = ("floor", "ceil", "round", "sign", "equal", "not_equal", "less", "less_equal", "greater",
        "greater_equal", "floor_divide", "modulo")  # fmt: skip


def difference(
    found: Sequence[Array],
    wanted: Sequence[Array],
    exact: Sequence[Array] | None = None,
    few: float = 0.0,
    close: float = CLOSE,
    finite: bool = False,
) -> str | None:
    """The first place where `found` is not `wanted`, in words; None if there is none.

    exact   the same values in f64: where `wanted` is far from them, `found` may be as well
    few     the share of elements that may be anything
    close   how far apart they may be, as a share of the largest of their array
    finite  whether all operands are: then the order of operations decides which number that is
            not finite an overflow yields
    """
    for number, (mine, theirs) in enumerate(zip(found, wanted, strict=True)):
        if mine.shape != theirs.shape:
            return f"result {number} has shape {mine.shape}, not {theirs.shape}"
        bad = _apart(mine, theirs, None if exact is None else exact[number], close)
        if finite:
            bad &= np.isfinite(mine) | np.isfinite(theirs)
        if bad.sum() > few * bad.size:
            place = tuple(int(i) for i in np.argwhere(bad)[0])
            where = f"result {number}{list(place)}" if place else f"result {number}"
            return f"{where} is {mine[place]}, not {theirs[place]}"
    return None


def _apart(mine: Array, theirs: Array, exact: Array | None, close: float) -> NDArray[np.bool_]:
    a, b = mine.astype(np.float64), theirs.astype(np.float64)
    allowed = 0.0
    if theirs.dtype.kind not in "iub":
        allowed = close * _largest(b)
        if exact is not None:
            with np.errstate(invalid="ignore"):
                allowed += FACTOR * _largest(exact.astype(np.float64) - b)
    with np.errstate(invalid="ignore"):
        same = (a == b) | (np.isnan(a) & np.isnan(b)) | (np.abs(a - b) <= allowed)
    return np.asarray(~same, np.bool_)


def _largest(array: NDArray[np.float64]) -> float:
    """The largest magnitude among finite numbers."""
    return float(np.abs(array[np.isfinite(array)]).max(initial=0.0))


def finite(arrays: Mapping[str, Array]) -> bool:
    return all(np.isfinite(array.astype(np.float64)).all() for array in arrays.values())


def cuts(outputs: Sequence[Node]) -> bool:
    """Whether a computed value decides between values: then rounding may decide otherwise."""
    for node in everything(outputs):
        computed = any(not isinstance(child, Input) and child.axes for child in node.children)
        match node:
            case Map(function, _) if function in CUTS and computed:
                return True
            case Cast() | Gather() | Reduce("argmax", _, _) if computed:
                return True
    return False
