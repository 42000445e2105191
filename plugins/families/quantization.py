"""Integers that stand for numbers: x = (q - zero point) * scale. Rounding is a visible cast."""

from collections.abc import Callable, Sequence
from math import prod

from infinisa.compiler.positional.operator import TYPES, Operator, operator
from infinisa.compiler.positional.tensor import Tensor, each
from infinisa.isa.errors import ModelError
from infinisa.isa.language import Node, cast, round

from ..hookspec import hookimpl
from .convolution import Windows, convolved


def dequantized(q: Node, scale: Node, zero: Node | None = None) -> Node:
    return (q if zero is None else q - zero) * scale


def quantized(dtype: str) -> Callable[..., Node]:
    """Rounded to nearest even, shifted, and saturated to the type."""

    def formula(x: Node, scale: Node, zero: Node | None = None) -> Node:
        number = round(x / scale)
        return cast(number if zero is None else number + zero, dtype)

    return formula


def along(parameter: Tensor, x: Tensor, axis: int, block: int) -> Tensor:
    """A number for all, for each element of a dimension, or for each block of it."""
    if parameter.rank == 0 or (parameter.rank == 1 and parameter.shape[0] == 1 and x.rank != 1):
        return parameter.reshape(())
    dim = x.dim(axis)
    if not block:
        return parameter.reshape([n if d == dim else 1 for d, n in enumerate(x.shape)])
    count, tail = parameter.shape[dim], parameter.shape[dim + 1 :]
    apart = parameter.reshape((*parameter.shape[:dim], count, 1, *tail))
    wide = apart.expand((*parameter.shape[:dim], count, block, *tail))
    return wide.reshape((*parameter.shape[:dim], count * block, *tail)).slice(dim, 0, x.shape[dim])


def parameters(
    x: Tensor, scale: Tensor, zero: Tensor | None, axis: int, block: int
) -> list[Tensor]:
    given = [scale] if zero is None else [scale, zero]
    return [along(parameter, x, axis, block) for parameter in given]


@operator("DequantizeLinear", since=10)
def dequantize_node(
    x: Tensor,
    scale: Tensor,
    zero: Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
) -> Tensor:
    kind = TYPES.get(output_dtype, scale.dtype)
    return each(dequantized, [x, *parameters(x, scale, zero, axis, block_size)], kind)


@operator("QuantizeLinear", since=10)
def quantize_node(
    x: Tensor,
    scale: Tensor,
    zero: Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
    precision: int = 0,
    saturate: int = 1,
) -> Tensor:
    if output_dtype and output_dtype not in TYPES:
        raise ModelError(f"data type {output_dtype} is not supported")
    kind = zero.dtype if zero is not None else TYPES.get(output_dtype, "u8")
    return each(quantized(kind), [x, *parameters(x, scale, zero, axis, block_size)], kind)


@operator("DynamicQuantizeLinear", since=11)
def dynamic_quantize_node(x: Tensor) -> list[Tensor]:
    """The scale and zero point that make room for all of x and for 0 in u8."""
    every = range(x.rank)
    least = x.reduce("min", every).map("minimum", 0.0)
    scale = (x.reduce("max", every).map("maximum", 0.0) - least) / 255.0
    zero = (least.map("negate") / scale).cast("u8")
    return [each(quantized("u8"), [x, scale, zero], "u8"), scale, zero]


@operator("QLinearMatMul", since=10)
def qlinear_matmul_node(
    a: Tensor, a_scale: Tensor, a_zero: Tensor,
    b: Tensor, b_scale: Tensor, b_zero: Tensor,
    y_scale: Tensor, y_zero: Tensor,
) -> Tensor:  # fmt: skip
    """A product of integers, brought to the scale of the result."""
    rows = a_zero.unsqueeze([-1]) if a_zero.rank == 1 and a.rank > 1 else a_zero
    row_scale = a_scale.unsqueeze([-1]) if a_scale.rank == 1 and a.rank > 1 else a_scale
    total = shifted(a, rows).matmul(shifted(b, b_zero)).cast("f32") * row_scale * b_scale
    return each(quantized(y_zero.dtype), [total, y_scale, y_zero], y_zero.dtype)


def shifted(x: Tensor, zero: Tensor | None) -> Tensor:
    """Integers less their zero point, in i32."""
    wide = x.cast("i32")
    return wide if zero is None else wide - zero.cast("i32")


@operator("ConvInteger", since=10)
def conv_integer_node(
    x: Tensor,
    weight: Tensor,
    x_zero: Tensor | None = None,
    weight_zero: Tensor | None = None,
    *,
    kernel_shape: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    auto_pad: str = "NOTSET",
    group: int = 1,
) -> Tensor:
    windows = Windows(weight.shape[2:], strides, dilations, pads, auto_pad).over(x.shape[2:])
    return convolved(
        shifted(x, x_zero), shifted(weight, by_kernel(weight_zero, weight)), None, windows, group
    )


def by_kernel(parameter: Tensor | None, weight: Tensor) -> Tensor | None:
    """A number for all, or for each output channel, against the weight."""
    if parameter is None or parameter.rank == 0:
        return parameter
    return parameter.reshape((parameter.shape[0], *[1] * (weight.rank - 1)))


@operator("QLinearConv", since=10)
def qlinear_conv_node(
    x: Tensor, x_scale: Tensor, x_zero: Tensor,
    weight: Tensor, weight_scale: Tensor, weight_zero: Tensor,
    y_scale: Tensor, y_zero: Tensor, bias: Tensor | None = None,
    *,
    kernel_shape: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    auto_pad: str = "NOTSET",
    group: int = 1,
) -> Tensor:  # fmt: skip
    windows = Windows(weight.shape[2:], strides, dilations, pads, auto_pad).over(x.shape[2:])
    kernel = shifted(weight, by_kernel(weight_zero, weight))
    total = convolved(shifted(x, x_zero), kernel, bias, windows, group).cast("f32")
    each_out = weight_scale.reshape((prod(weight_scale.shape), *[1] * (x.rank - 2)))
    total = total * x_scale.reshape(()) * each_out
    given = [total, y_scale.reshape(()), y_zero.reshape(())]
    return each(quantized(y_zero.dtype), given, y_zero.dtype)


@hookimpl
def infinisa_operators() -> Sequence[Operator]:
    return [
        dequantize_node,
        quantize_node,
        dynamic_quantize_node,
        qlinear_matmul_node,
        conv_integer_node,
        qlinear_conv_node,
    ]
