"""Convolutions and pools: products and folds over windows."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, inf

import numpy as np
from numpy.typing import NDArray

from infinisa.compiler.positional.operator import Operator, operator
from infinisa.compiler.positional.tensor import Tensor, Window, concat, contract, from_array
from infinisa.isa.dtypes import DTYPES, is_float
from infinisa.isa.errors import ModelError

from ..hookspec import hookimpl


@dataclass(frozen=True)
class Windows:
    """How kernels move over the dimensions behind batch and channel."""

    kernel: Sequence[int]
    strides: Sequence[int] | None = None
    dilations: Sequence[int] | None = None
    pads: Sequence[int] | None = None
    auto_pad: str = "NOTSET"
    ceil_mode: int = 0

    def over(self, shape: Sequence[int]) -> list[Window]:
        """The windows over these sizes, which are dimensions 2, 3, ..."""
        count = len(shape)
        steps, spaces = self.strides or [1] * count, self.dilations or [1] * count
        pads = list(self.pads or [0] * (2 * count))
        if not len(steps) == len(spaces) == len(self.kernel) == count or len(pads) != 2 * count:
            raise ModelError(f"kernel, strides, dilations and pads must fit {count} dimensions")
        if min(*steps, *spaces, *self.kernel) < 1:
            raise ModelError("kernel, strides and dilations must be positive")
        return [
            self._window(d, shape[d], steps[d], spaces[d], pads[d], pads[d + count])
            for d in range(count)
        ]

    def _window(self, d: int, size: int, step: int, space: int, before: int, after: int) -> Window:
        reach = (self.kernel[d] - 1) * space + 1
        if self.auto_pad.startswith("SAME"):
            outputs = ceil(size / step)
            total = max(0, (outputs - 1) * step + reach - size)
            before = total // 2 if self.auto_pad == "SAME_UPPER" else total - total // 2
            after = total - before
        elif self.auto_pad == "VALID":
            before = after = 0
        room = size + before + after - reach
        if room < 0:
            raise ModelError(f"a kernel that reaches {reach} does not fit size {size}")
        outputs = room // step + 1
        if self.ceil_mode:
            outputs = -(-room // step) + 1
            if (outputs - 1) * step >= size + before:  # a window may not start behind the data
                outputs -= 1
        return Window(d + 2, self.kernel[d], step, space, before, outputs)


@operator("Conv")
def conv_node(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    kernel_shape: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    auto_pad: str = "NOTSET",
    group: int = 1,
) -> Tensor:
    windows = Windows(weight.shape[2:], strides, dilations, pads, auto_pad).over(x.shape[2:])
    return convolved(x, weight, bias, windows, group)


def convolved(
    x: Tensor, weight: Tensor, bias: Tensor | None, windows: Sequence[Window], group: int
) -> Tensor:
    """The product over channels of a group and taps; the channels of a group are split off."""
    out, width = weight.shape[:2]
    if x.shape[1] != width * group or out % group:
        raise ModelError(f"{x.shape[1]} and {out} channels do not fit {group} groups of {width}")
    count = len(windows)
    apart = x.reshape((x.shape[0], group, width, *x.shape[2:]))
    shifted = [Window(w.dim + 1, w.size, w.stride, w.dilation, w.before, w.count) for w in windows]
    taps = apart.windows(shifted, 0.0 if is_float(x.dtype) else 0)
    kernel = weight.reshape((group, out // group, width, *weight.shape[2:]))
    places = [f"place{d}" for d in range(count)]
    kernels = [f"tap{d}" for d in range(count)]
    result = contract(
        taps,
        ["batch", "group", "in", *places, *kernels],
        kernel,
        ["group", "out", "in", *kernels],
        ["batch", "group", "out", *places],
    ).reshape((x.shape[0], out, *(w.count for w in windows)))
    return result if bias is None else result + bias.reshape((out, *[1] * count))


@operator("ConvTranspose")
def conv_transpose_node(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    kernel_shape: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    output_padding: Sequence[int] | None = None,
    output_shape: Sequence[int] | None = None,
    auto_pad: str = "NOTSET",
    group: int = 1,
) -> Tensor:
    """A convolution with a kernel for each place between two elements of x, whose results lie side
    by side, after Shi et al., "Is the deconvolution layer the same as a convolutional layer?"
    (2016). Those before the first that is asked for, and behind the last, are computed too."""
    rank = x.rank - 2
    steps, spaces = strides or [1] * rank, dilations or [1] * rank
    extra, around = output_padding or [0] * rank, list(pads or [0] * (2 * rank))
    if min(*steps, *spaces) < 1:
        raise ModelError("strides and dilations must be positive")
    kernel, windows, asked = weight, [], []
    for d in range(rank):
        size, taps, step, space = x.shape[d + 2], weight.shape[d + 2], steps[d], spaces[d]
        full_size = (size - 1) * step + (taps - 1) * space + 1 + extra[d]
        before, after = around[d], around[d + rank]
        if output_shape or auto_pad.startswith("SAME"):
            wanted = list(output_shape)[-rank:][d] if output_shape else size * step
            total = max(0, full_size - wanted)
            before = total // 2 if auto_pad != "SAME_LOWER" else total - total // 2
            after = total - before
            full_size += max(0, wanted - full_size)
        outputs, skipped = full_size - before - after, 0
        if outputs < 1:
            raise ModelError(f"pads {before} and {after} leave nothing of size {full_size}")
        kernel = kernel.slice(d + 2, None, None, -1)
        if step > 1:
            kernel, space = spaced(kernel, d + 2, space), 1
            skipped = before % step if wider(kernel.shape[d + 2], step, before) else 0
            kernel, first = places_apart(kernel, d + 2, step, before - skipped)
        else:
            first = before - (taps - 1) * space
        count = -(-outputs // step) + -(-skipped // step)
        windows.append(Window(d + 3, kernel.shape[d + 2] // step, 1, space, -first, count))
        asked.append(range(skipped, skipped + outputs))
    y = between(side_by_side(x, kernel, windows, steps, group), steps, asked)
    return y if bias is None else y + bias.reshape((weight.shape[1] * group, *[1] * rank))


def reaches(taps: int, step: int, before: int) -> tuple[int, int]:
    """The first and the last element that the taps of any place meet in its window: tap
    `place + before - step * n` of a kernel meets element n, for each `place` below `step`."""
    return -((taps - 1 - before) // step), (step - 1 + before) // step


def wider(taps: int, step: int, before: int) -> bool:
    """Whether windows reach further than they would if the first place began a step."""
    (first, last), aligned = reaches(taps, step, before), reaches(taps, step, 0)
    return last - first > aligned[1] - aligned[0]


def places_apart(kernel: Tensor, dim: int, step: int, before: int) -> tuple[Tensor, int]:
    """A kernel that goes backwards, with zeros around it so that its taps fall into windows, and
    the first element of the first window."""
    taps = kernel.shape[dim]
    first, last = reaches(taps, step, before)
    missing = step - taps + before - step * first
    whole = (last - first + 1) * step
    return kernel.pad(dim, missing, whole - taps - missing, 0), first


def side_by_side(
    x: Tensor, kernel: Tensor, windows: Sequence[Window], steps: Sequence[int], group: int
) -> Tensor:
    """Products of windows with the taps of each place of a kernel that goes backwards: batch,
    channels, and for each dimension the windows and the places."""
    rows, out, every = kernel.shape[0] // group, kernel.shape[1], range(len(windows))
    taps = x.reshape((x.shape[0], group, rows, *x.shape[2:])).windows(windows, 0)
    pairs = [size for w, step in zip(windows, steps, strict=True) for size in (w.size, step)]
    kernel = kernel.reshape((group, rows, out, *pairs))
    for d in every:  # the last place comes first
        kernel = kernel.slice(4 + 2 * d, None, None, -1)
    inner, apart = ([first + 2 * d for d in every] for first in (3, 4))
    kernel = kernel.transpose([0, 1, *inner, 2, *apart])
    result = contract(
        taps,
        ["batch", "group", "in", *(f"window{d}" for d in every), *(f"tap{d}" for d in every)],
        kernel,
        ["group", "in", *(f"tap{d}" for d in every), "out", *(f"place{d}" for d in every)],
        ["batch", "group", "out", *(f"{part}{d}" for d in every for part in ("window", "place"))],
    )
    return result.reshape((x.shape[0], group * out, *result.shape[3:]))


def between(y: Tensor, steps: Sequence[int], asked: Sequence[range]) -> Tensor:
    """Places between one another, those that are asked for: each is a part of one place."""
    counts = [-(-len(wanted) // step) for step, wanted in zip(steps, asked, strict=True)]

    def parts(y: Tensor, d: int) -> Tensor:
        if d == len(steps):
            return y
        dim, start, step = 2 + 2 * d, asked[d].start, steps[d]
        if not start:
            return parts(y.slice(dim, 0, counts[d]), d + 1)
        firsts = [divmod(start + n, step) for n in range(step)]
        each = [
            y.slice(dim, first, first + counts[d]).slice(dim + 1, place, place + 1)
            for first, place in firsts
        ]
        return concat([parts(part, d + 1) for part in each], dim + 1)

    sizes = [count * step for count, step in zip(counts, steps, strict=True)]
    y = parts(y, 0).reshape((*y.shape[:2], *sizes))
    for d, wanted in enumerate(asked):
        y = y.slice(2 + d, 0, len(wanted))
    return y


def spaced(x: Tensor, dim: int, step: int) -> Tensor:
    """With `step - 1` zeros between the elements of a dimension."""
    if step == 1:
        return x
    size = x.shape[dim]
    apart = x.reshape((*x.shape[: dim + 1], 1, *x.shape[dim + 1 :]))
    padded = apart.pad(dim + 1, 0, step - 1, 0)
    joined = padded.reshape((*x.shape[:dim], size * step, *x.shape[dim + 1 :]))
    return joined.slice(dim, 0, (size - 1) * step + 1)


# ---------------------------------------------------------------- pools


@operator("MaxPool")
def max_pool_node(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    storage_order: int = 0,
) -> Tensor:
    shape = Windows(kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    windows = shape.over(x.shape[2:])
    least = -inf if is_float(x.dtype) else int(np.iinfo(DTYPES[x.dtype].numpy).min)
    taps = x.windows(windows, least)
    return taps.reduce("max", range(x.rank, taps.rank))


@operator("AveragePool")
def average_pool_node(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
) -> Tensor:
    """The sum of each window, divided by how many of its taps count."""
    shape = Windows(kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    windows = shape.over(x.shape[2:])
    taps = x.windows(windows, 0.0)
    total = taps.reduce("sum", range(x.rank, taps.rank))
    around = list(pads or [0] * (2 * len(windows)))
    counts = [
        _counted(w, x.shape[w.dim], around[len(windows) + d] if count_include_pad else -1)
        for d, w in enumerate(windows)
    ]
    count = functools.reduce(np.multiply.outer, counts)
    if (count == count.flat[0]).all():
        return total / float(count.flat[0])
    return total / from_array(count, "taps")


def _counted(w: Window, size: int, after: int) -> NDArray[np.float32]:
    """How many taps of each window lie on data, or (after >= 0) on data and padding."""
    at = np.arange(w.count)[:, None] * w.stride + np.arange(w.size) * w.dilation - w.before
    inside = (at >= 0) & (at < size) if after < 0 else at < size + after
    counts: NDArray[np.float32] = np.maximum(inside.sum(1), 1).astype(np.float32)
    return counts


def global_pool(name: str, function: str) -> Operator:
    return Operator(name, lambda x: x.reduce(function, range(2, x.rank), keep=True))


@hookimpl
def infinisa_operators() -> Sequence[Operator]:
    return [
        conv_node,
        conv_transpose_node,
        max_pool_node,
        average_pool_node,
        global_pool("GlobalAveragePool", "mean"),
        global_pool("GlobalMaxPool", "max"),
    ]
