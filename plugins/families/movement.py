"""Values in other places: reshape, slice, join, pad, gather, masks by position."""

from collections.abc import Sequence
from math import ceil, prod

import numpy as np
from numpy.typing import NDArray

from infinisa.compiler.positional.operator import TYPES, Operator, operator
from infinisa.compiler.positional.tensor import (
    Data,
    Number,
    Tensor,
    concat,
    constant,
    from_array,
    from_start,
    full,
    position,
)
from infinisa.isa.dtypes import is_float
from infinisa.isa.errors import ModelError

from ..hookspec import hookimpl

Places = NDArray[np.int64]

# ---------------------------------------------------------------- shapes


@operator("Shape")
def shape_node(x: Tensor, start: int = 0, end: int | None = None) -> Tensor:
    return from_array(np.asarray(x.shape[start:end], np.int64))


@operator("Size")
def size_node(x: Tensor) -> Tensor:
    return from_array(np.asarray(prod(x.shape), np.int64))


@operator("Reshape", since=5)
def reshape_node(x: Tensor, shape: Tensor, allowzero: int = 0) -> Tensor:
    """0 keeps a dimension (unless zero is allowed), -1 is what is left."""
    wanted = shape.integers("shape")
    for d, size in enumerate(wanted):
        if size == 0 and not allowzero:
            if d >= x.rank:
                raise ModelError(f"shape {wanted} keeps dimension {d}, which {x.shape} lacks")
            wanted[d] = x.shape[d]
    if wanted.count(-1) == 1:
        known = -prod(wanted)
        if not known or prod(x.shape) % known:
            raise ModelError(f"cannot reshape {x.shape} to {wanted}")
        wanted[wanted.index(-1)] = prod(x.shape) // known
    return x.reshape(wanted)


@operator("Flatten")
def flatten_node(x: Tensor, axis: int = 1) -> Tensor:
    cut = axis + x.rank if axis < 0 else axis
    return x.reshape((prod(x.shape[:cut]), prod(x.shape[cut:])))


@operator("Transpose")
def transpose_node(x: Tensor, perm: Sequence[int] | None = None) -> Tensor:
    return x.transpose(range(x.rank)[::-1] if perm is None else perm)


@operator("Squeeze", since=13)
def squeeze_node(x: Tensor, axes: Tensor | None = None) -> Tensor:
    ones = [d for d, size in enumerate(x.shape) if size == 1]
    return x.squeeze(ones if axes is None else axes.integers("axes"))


@operator("Unsqueeze", since=13)
def unsqueeze_node(x: Tensor, axes: Tensor) -> Tensor:
    return x.unsqueeze(axes.integers("axes"))


@operator("Expand", since=8)
def expand_node(x: Tensor, shape: Tensor) -> Tensor:
    return x.expand(shape.integers("shape"))


@operator("Tile", since=6)
def tile_node(x: Tensor, repeats: Tensor) -> Tensor:
    times = repeats.integers("repeats")
    if len(times) != x.rank:
        raise ModelError(f"{x.rank} dimensions need as many repeats, not {len(times)}")
    pairs = list(zip(times, x.shape, strict=True))
    apart = x.reshape([n for _, size in pairs for n in (1, size)])
    return apart.expand([n for pair in pairs for n in pair]).reshape([t * n for t, n in pairs])


@operator("ConstantOfShape", since=9)
def constant_of_shape_node(shape: Tensor, value: Data | None = None) -> Tensor:
    number = from_array(np.zeros((), np.float32)) if value is None else constant(value)
    return number.reshape(()).expand(shape.integers("shape"))


@operator("EyeLike", since=9)
def eye_like_node(x: Tensor, dtype: int | None = None, k: int = 0) -> Tensor:
    kind = x.dtype if dtype is None else TYPES[dtype]
    rows, columns = x.shape
    return diagonal(rows, columns, "equal", k).cast(kind)


# ---------------------------------------------------------------- pieces


@operator("Slice", since=10)
def slice_node(
    x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None
) -> Tensor:
    first, last = starts.integers("starts"), ends.integers("ends")
    dims = range(len(first)) if axes is None else axes.integers("axes")
    strides = [1] * len(first) if steps is None else steps.integers("steps")
    for dim, start, end, step in zip(dims, first, last, strides, strict=True):
        size = x.shape[x.dim(dim)]
        stop: int | None = end
        if step < 0 and end < -size:  # before the first, where Python would count from the end
            stop = None
        x = x.slice(dim, start, stop, step)
    return x


@operator("Split", since=2)
def split_node(
    x: Tensor,
    sizes: Tensor | None = None,
    *,
    axis: int = 0,
    split: Sequence[int] | None = None,
    num_outputs: int | None = None,
    outputs: int = 1,
) -> list[Tensor]:
    whole = x.shape[x.dim(axis)]
    parts = list(split or ()) if sizes is None else sizes.integers("split")
    if not parts:
        count = num_outputs or outputs
        step = ceil(whole / count)
        parts = [max(0, min(step, whole - step * k)) for k in range(count)]
    if sum(parts) != whole:
        raise ModelError(f"pieces {parts} must add up to {whole}")
    ends = [sum(parts[: k + 1]) for k in range(len(parts))]
    return [x.slice(axis, end - n, end) for end, n in zip(ends, parts, strict=True)]


@operator("Concat", since=4)
def concat_node(*xs: Tensor, axis: int) -> Tensor:
    return concat(xs, axis)


@operator("Pad", since=11)
def pad_node(
    x: Tensor,
    pads: Tensor,
    value: Tensor | None = None,
    axes: Tensor | None = None,
    *,
    mode: str = "constant",
) -> Tensor:
    amounts = pads.integers("pads")
    dims = list(range(x.rank)) if axes is None else axes.integers("axes")
    half = len(dims)
    if len(amounts) != 2 * half:
        raise ModelError(f"{half} dimensions need {2 * half} pads, not {len(amounts)}")
    sides = list(zip(dims, amounts[:half], amounts[half:], strict=True))
    if mode != "constant":
        for dim, before, after in sides:
            size = x.shape[x.dim(dim)]
            places = np.arange(-before, size + after)
            x = x.gather(from_array(_inside(places, size, mode)), dim)
        return x
    if value is None or value.data:
        number = 0 if value is None else value.values("value").reshape(-1)[0].item()
        return _padded(x, sides, float(number) if is_float(x.dtype) else number)
    kept = _padded(full(x.shape, True, "bool"), sides, False)
    return kept.where(_padded(x, sides, 0), value.reshape(()))


def _padded(x: Tensor, sides: Sequence[tuple[int, int, int]], number: Number) -> Tensor:
    for dim, before, after in sides:
        x = x.pad(dim, before, after, number)
    return x


def _inside(places: Places, size: int, mode: str) -> Places:
    """Where positions outside 0 to size - 1 are read."""
    if mode == "edge":
        return np.clip(places, 0, size - 1)
    if mode == "wrap":
        return places % size
    if mode == "reflect":
        period = max(2 * (size - 1), 1)
        folded = places % period
        return np.minimum(folded, period - folded)
    raise ModelError(f"mode must be constant, edge, reflect or wrap, not {mode!r}")


# ---------------------------------------------------------------- by index


@operator("Gather")
def gather_node(x: Tensor, indices: Tensor, axis: int = 0) -> Tensor:
    return x.gather(indices, axis)


@operator("GatherElements", since=11)
def gather_elements_node(x: Tensor, indices: Tensor, axis: int = 0) -> Tensor:
    return x.gather_elements(indices, axis)


@operator("GatherND", since=11)
def gather_nd_node(x: Tensor, indices: Tensor, batch_dims: int = 0) -> Tensor:
    """One gather: the dimensions that the index has components for are one, in which it counts."""
    count = indices.shape[-1]
    parts = [indices.slice(-1, k, k + 1).squeeze([-1]) for k in range(count)]
    sizes = x.shape[batch_dims : batch_dims + count]
    rest = x.shape[batch_dims + count :]
    table = x.reshape((*x.shape[:batch_dims], prod(sizes), *rest))
    parts = [from_start(part, x, batch_dims + k) for k, part in enumerate(parts)]
    at = parts[0]
    for part, size in zip(parts[1:], sizes[1:], strict=True):
        at = at * size + part
    return _walked(table, at, batch_dims) if batch_dims else table.gather(at, 0, counted=True)


def _walked(x: Tensor, index: Tensor, shared: int) -> Tensor:
    """x[b, i, ...] at i = index[b, ...], which count from the start: the first `shared` dimensions
    of both go together."""
    rest, own = x.shape[shared + 1 :], index.shape[shared:]
    table = x.reshape((*x.shape[: shared + 1], prod(rest)))
    picks = index.reshape((*index.shape[:shared], prod(own), 1))
    wide = picks.expand((*picks.shape[:-1], prod(rest)))
    return table.gather_elements(wide, shared, counted=True).reshape((*index.shape, *rest))


@operator("ScatterND", since=11)
def scatter_nd_node(x: Tensor, indices: Tensor, updates: Tensor, reduction: str = "none") -> Tensor:
    """x with rows written at constant places: a choice between x and the row for each place."""
    if reduction != "none":
        raise ModelError(f"reduction must be none, not {reduction!r}")
    places = indices.values("indices")
    depth = places.shape[-1]
    rows = places.reshape((-1, depth))
    writer = np.full(x.shape[:depth], -1, np.int64)
    try:
        writer[tuple(rows.T)] = np.arange(len(rows))
    except IndexError as error:
        raise ModelError(f"{error}") from None
    flat = updates.reshape((len(rows), *x.shape[depth:]))
    written = flat.gather(from_array(np.maximum(writer, 0)), 0)
    there = from_array((writer >= 0).reshape((*writer.shape, *[1] * (x.rank - depth))))
    return there.where(written, x)


@operator("OneHot", since=9)
def one_hot_node(indices: Tensor, depth: Tensor, values: Tensor, axis: int = -1) -> Tensor:
    size = depth.integers("depth")[0]
    off, on = (values.slice(0, k, k + 1).reshape(()) for k in (0, 1))
    place = axis + indices.rank + 1 if axis < 0 else axis
    places = position(size).reshape([size if d == place else 1 for d in range(indices.rank + 1)])
    index = indices.unsqueeze([place])
    index = index.map("less", 0).where(index + size, index)
    return places.map("equal", index).where(on, off)


@operator("Range", since=11)
def range_node(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    first, last, step = (x.values("a range").reshape(-1)[0].item() for x in (start, limit, delta))
    places = position(max(0, ceil((last - first) / step))).cast(start.dtype)
    result: Tensor = places * step + first
    return result


def diagonal(rows: int, columns: int, relation: str, k: int) -> Tensor:
    """Where `row + k` has this relation to the column."""
    row = position(rows).reshape((rows, 1))
    return (row + k if k else row).map(relation, position(columns))


@operator("Trilu", since=14)
def trilu_node(x: Tensor, k: Tensor | None = None, upper: int = 1) -> Tensor:
    shift = 0 if k is None else k.integers("k")[0]
    kept = diagonal(x.shape[-2], x.shape[-1], "less_equal" if upper else "greater_equal", shift)
    return kept.where(x, full((), False if x.dtype == "bool" else 0, x.dtype))


@operator("ReverseSequence", since=10)
def reverse_sequence_node(
    x: Tensor, lengths: Tensor, batch_axis: int = 1, time_axis: int = 0
) -> Tensor:
    """The first `length` elements of each row backwards, the rest as they are."""
    order = [batch_axis, time_axis, *range(2, x.rank)]
    rows = x.transpose(order)
    batch, steps = rows.shape[:2]
    at = position(steps).reshape((1, steps))
    count = lengths.reshape((batch, 1))
    places = at.map("less", count).where(count - 1 - at, at)
    return _walked(rows, places, 1).transpose([order.index(d) for d in range(x.rank)])


@operator("DepthToSpace", since=11)
def depth_to_space_node(x: Tensor, blocksize: int, mode: str = "DCR") -> Tensor:
    n, c, h, w = x.shape
    size, inner = blocksize, c // (blocksize * blocksize)
    if mode == "DCR":
        apart = x.reshape((n, size, size, inner, h, w)).transpose([0, 3, 4, 1, 5, 2])
    else:
        apart = x.reshape((n, inner, size, size, h, w)).transpose([0, 1, 4, 2, 5, 3])
    return apart.reshape((n, inner, h * size, w * size))


@operator("SpaceToDepth")
def space_to_depth_node(x: Tensor, blocksize: int, mode: str = "DCR") -> Tensor:
    n, c, h, w = x.shape
    size = blocksize
    apart = x.reshape((n, c, h // size, size, w // size, size))
    order = [0, 3, 5, 1, 2, 4] if mode == "DCR" else [0, 1, 3, 5, 2, 4]
    return apart.transpose(order).reshape((n, c * size * size, h // size, w // size))


@hookimpl
def infinisa_operators() -> Sequence[Operator]:
    return [
        shape_node,
        size_node,
        reshape_node,
        flatten_node,
        transpose_node,
        squeeze_node,
        unsqueeze_node,
        expand_node,
        tile_node,
        constant_of_shape_node,
        eye_like_node,
        slice_node,
        split_node,
        concat_node,
        pad_node,
        gather_node,
        gather_elements_node,
        gather_nd_node,
        scatter_nd_node,
        one_hot_node,
        range_node,
        trilu_node,
        reverse_sequence_node,
        depth_to_space_node,
        space_to_depth_node,
    ]
