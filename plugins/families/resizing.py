"""Images of another size: positions that are near, or between two."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from math import floor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infinisa.compiler.positional.operator import Operator, operator
from infinisa.compiler.positional.tensor import Tensor, from_array
from infinisa.isa.dtypes import DTYPES, is_float
from infinisa.isa.errors import ModelError

from ..hookspec import hookimpl

Places = NDArray[np.floating[Any]]

TRANSFORMATIONS: dict[str, Callable[[Places, int, int, np.float32], Places]] = {
    "half_pixel": lambda at, old, new, scale: (at + 0.5) / scale - 0.5,
    "pytorch_half_pixel": lambda at, old, new, scale: (
        (at + 0.5) / scale - 0.5 if new > 1 else 0.0 * at
    ),
    "half_pixel_symmetric": lambda at, old, new, scale: (
        (at + 0.5) / scale - 0.5 + old / 2 * (1 - new / (scale * old))
    ),
    "asymmetric": lambda at, old, new, scale: at / scale,
    "align_corners": lambda at, old, new, scale: at * (old - 1) / max(new - 1, 1),
}
"""Where positions of the new size are in the old one, as the standard's Resize has it; in f32, in
which onnxruntime has them: where one is a whole number, floors differ."""

NEAREST: dict[str, Callable[[Places], Places]] = {
    "round_prefer_floor": lambda at: np.ceil(at - 0.5),
    "round_prefer_ceil": lambda at: np.floor(at + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


@operator("Resize", since=11)
def resize_node(
    x: Tensor,
    roi: Tensor | None = None,
    scales: Tensor | None = None,
    sizes: Tensor | None = None,
    *,
    axes: Sequence[int] | None = None,
    mode: str = "nearest",
    coordinate_transformation_mode: str = "half_pixel",
    nearest_mode: str = "round_prefer_floor",
    antialias: int = 0,
    keep_aspect_ratio_policy: str = "stretch",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
) -> Tensor:
    """Dimension by dimension, since what is linear or cubic in each is so in all; cubic as in Keys,
    "Cubic convolution interpolation for digital image processing" (1981)."""
    place = TRANSFORMATIONS.get(coordinate_transformation_mode)
    near = NEAREST.get(nearest_mode)
    if mode not in ("nearest", "linear", "cubic") or antialias or place is None or near is None:
        what = f"{mode}, {coordinate_transformation_mode}, {nearest_mode}, antialias {antialias}"
        raise ModelError(f"must be nearest, linear or cubic, without antialias, not {what}")
    if keep_aspect_ratio_policy != "stretch":
        raise ModelError(f"must stretch, not {keep_aspect_ratio_policy!r}")
    for dim, size, scale in _wanted(x, axes, scales, sizes):
        if scale == 1.0:
            continue
        at = place(np.arange(size, dtype=np.float32), x.shape[dim], size, np.float32(scale))
        if mode == "nearest":
            x = _picked(x, dim, near(at))
        else:
            weights = _linear if mode == "linear" else partial(_cubic, a=cubic_coeff_a)
            x = _between(x, dim, at, weights(at - np.floor(at)), bool(exclude_outside))
    return x


def _wanted(
    x: Tensor, axes: Sequence[int] | None, scales: Tensor | None, sizes: Tensor | None
) -> list[tuple[int, int, float]]:
    """(dimension, its new size, new positions for an old one) of those to be resized."""
    dims = [x.dim(d) for d in (range(x.rank) if axes is None else axes)]
    stated = next((t for t in (sizes, scales) if t is not None and t.shape != (0,)), None)
    if stated is None or stated.shape != (len(dims),):
        raise ModelError(f"needs scales or sizes of {len(dims)} dimensions")
    old = [x.shape[d] for d in dims]
    if stated is sizes:
        new = stated.integers("sizes")
        factors = [
            n / size if size and n != size else 1.0 for n, size in zip(new, old, strict=True)
        ]
    else:
        factors = [float(factor) for factor in stated.values("scales").reshape(-1)]
        new = [floor(size * factor) for size, factor in zip(old, factors, strict=True)]
    if any(n < 1 and n != size for n, size in zip(new, old, strict=True)):
        raise ModelError(f"cannot resize {old} to {new}")
    return list(zip(dims, new, factors, strict=True))


def _picked(x: Tensor, dim: int, at: Places) -> Tensor:
    """Rows of a dimension, the first or the last for those outside; each k times if that is all."""
    size = x.shape[dim]
    rows = np.clip(at, 0, size - 1).astype(np.int64)
    times = len(rows) // size
    if times and np.array_equal(rows, np.repeat(np.arange(size), times)):
        before, behind = x.shape[:dim], x.shape[dim + 1 :]
        apart = x.reshape((*before, size, 1, *behind))
        return apart.expand((*before, size, times, *behind)).reshape(
            (*before, size * times, *behind)
        )
    return x.gather(from_array(rows), dim, counted=True)


def _linear(share: Places) -> dict[int, Places]:
    """The weights of rows, by how far they are from the one before the position."""
    return {0: 1.0 - share, 1: share}


def _cubic(share: Places, a: float) -> dict[int, Places]:
    def near(t: Places) -> Places:
        return ((a + 2) * t - (a + 3)) * t * t + 1

    def far(t: Places) -> Places:
        return ((a * t - 5 * a) * t + 8 * a) * t - 4 * a

    return {-1: far(share + 1), 0: near(share), 1: near(1 - share), 2: far(2 - share)}


def _between(
    x: Tensor, dim: int, at: Places, weights: Mapping[int, Places], inside: bool
) -> Tensor:
    """Sums of rows around positions, of those `inside` only if asked for."""
    if not is_float(x.dtype):
        raise ModelError(f"what is between rows must be of floats, not {x.dtype}")
    low, last = np.floor(at), x.shape[dim] - 1
    if inside:
        kept = {n: w * ((low + n >= 0) & (low + n <= last)) for n, w in weights.items()}
        whole = sum(kept.values())
        weights = {n: w / whole for n, w in kept.items()}
    terms = []
    for n, weight in weights.items():
        row = weight.reshape((-1, *[1] * (x.rank - dim - 1))).astype(DTYPES[x.dtype].numpy)
        terms.append(_picked(x, dim, low + n) * from_array(row))
    return reduce(Tensor.__add__, terms)


@hookimpl
def infinisa_operators() -> Sequence[Operator]:
    return [resize_node]
