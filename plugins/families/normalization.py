"""Rows brought to one scale: softmax, layer norm, RMS norm, and these behind a residual."""

from collections.abc import Sequence

from infinisa.compiler.positional.operator import Operator, operator
from infinisa.compiler.positional.tensor import Tensor, Window
from infinisa.isa import formulas
from infinisa.isa.errors import ModelError
from infinisa.isa.instruction import Instruction, instruction
from infinisa.isa.language import Axis, Node, exp, lift, log, max, mean, sum

from ..hookspec import hookimpl


@instruction(unit="vector")
def softmax(x: "m n"):
    """Rows of weights that sum to 1, safe for large numbers."""
    return formulas.softmax(x, "n")


@instruction(unit="vector")
def layer_norm(x: "m n", weight: "n", bias: "n", epsilon=1e-5):
    """Rows of mean 0 and variance 1, then weight and bias (arXiv 1607.06450)."""
    return formulas.layer_norm(x, weight, bias, "n", epsilon)


@instruction(unit="vector")
def rms_norm(x: "m n", weight: "n", epsilon=1e-5):
    """Rows divided by their root mean square, then the weight (arXiv 1910.07467)."""
    return formulas.rms_norm(x, weight, "n", epsilon)


@instruction(unit="vector")
def residual_layer_norm(x: "m n", residual: "m n", weight: "n", bias: "n", epsilon=1e-5):
    """The sum of a layer and what it was given, and the norm of the sum."""
    total = x + residual
    return total, formulas.layer_norm(total, weight, bias, "n", epsilon)


@instruction(unit="vector")
def residual_rms_norm(x: "m n", residual: "m n", weight: "n", epsilon=1e-5):
    """The sum of a layer and what it was given, and the norm of the sum."""
    total = x + residual
    return total, formulas.rms_norm(total, weight, "n", epsilon)


@instruction(unit="vector")
def l2_normalize(x: "m n", epsilon=1e-12):
    """Rows of length 1."""
    return formulas.l2_normalize(x, "n", epsilon)


@instruction(unit="vector")
def mean_l2_normalize(x: "m n", epsilon=1e-12):
    """The mean of all rows, of length 1: a sentence's vector from those of its tokens."""
    return formulas.l2_normalize(mean(x, "m"), "n", epsilon)


@hookimpl
def infinisa_instructions() -> Sequence[Instruction]:
    return [
        softmax,
        layer_norm,
        rms_norm,
        residual_layer_norm,
        residual_rms_norm,
        l2_normalize,
        mean_l2_normalize,
    ]


# ---------------------------------------------------------------- operators


def log_softmax(x: Node, over: Sequence[Axis]) -> Node:
    top = x - max(x, over)
    return top - log(sum(exp(top), over))


@operator("Softmax", since=13)
def softmax_node(x: Tensor, axis: int = -1) -> Tensor:
    return x.rows(formulas.softmax, [axis])


@operator("LogSoftmax", since=13)
def log_softmax_node(x: Tensor, axis: int = -1) -> Tensor:
    return x.rows(log_softmax, [axis])


def trailing(x: Tensor, axis: int) -> range:
    """This dimension and those behind it."""
    return range(x.dim(axis), x.rank)


@operator("LayerNormalization", since=17)
def layer_norm_node(
    x: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
    outputs: int = 1,
) -> Sequence[Tensor]:
    """The norm; its mean and the reciprocal of its deviation, if they are asked for."""
    dims = trailing(x, axis)

    def norm(v: Node, weight: Node, shift: Node | None, over: Sequence[Axis]) -> Node:
        return formulas.layer_norm(v, weight, lift(0.0) if shift is None else shift, over, epsilon)

    results = [x.rows(norm, dims, scale, bias)]
    if outputs > 1:
        mean = x.reduce("mean", dims, keep=True)
        centred = x - mean
        variance = (centred * centred).reduce("mean", dims, keep=True)
        results += [mean, (variance + epsilon).map("rsqrt")]
    return results[:outputs]


@operator("RMSNormalization", since=23)
def rms_norm_node(
    x: Tensor, scale: Tensor, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    def norm(v: Node, weight: Node, over: Sequence[Axis]) -> Node:
        return formulas.rms_norm(v, weight, over, epsilon)

    return x.rows(norm, trailing(x, axis), scale)


def by_channel(parameter: Tensor, x: Tensor) -> Tensor:
    """A number for each channel (dimension 1) against x."""
    return parameter.reshape((*parameter.shape, *[1] * (x.rank - 2)))


@operator("BatchNormalization", since=9)
def batch_norm_node(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
    spatial: int = 1,
) -> Tensor:
    """One factor and one shift for each channel: x * factor + shift."""
    if training_mode:
        raise ModelError("training mode is not supported")
    factor = scale * (variance + epsilon).map("rsqrt")
    shift = bias - mean * factor
    return x * by_channel(factor, x) + by_channel(shift, x)


@operator("InstanceNormalization")
def instance_norm_node(x: Tensor, scale: Tensor, bias: Tensor, epsilon: float = 1e-5) -> Tensor:
    def norm(v: Node, weight: Node, shift: Node, over: Sequence[Axis]) -> Node:
        return formulas.layer_norm(v, weight, shift, over, epsilon)

    return x.rows(norm, range(2, x.rank), by_channel(scale, x), by_channel(bias, x))


@operator("GroupNormalization", since=18)
def group_norm_node(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    *,
    num_groups: int,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> Tensor:
    """Channels in groups are one row. Scale and bias are per channel, before 21 per group."""
    if num_groups < 1 or x.shape[1] % num_groups:
        raise ModelError(f"{x.shape[1]} channels must be a multiple of {num_groups} groups")
    width = x.shape[1] // num_groups
    rows = x.reshape((x.shape[0], num_groups, width, *x.shape[2:]))

    def norm(v: Node, weight: Node, shift: Node, over: Sequence[Axis]) -> Node:
        return formulas.layer_norm(v, weight, shift, over, epsilon)

    def grouped(parameter: Tensor) -> Tensor:
        inner = 1 if parameter.shape[0] == num_groups else width
        return parameter.reshape((num_groups, inner, *[1] * (x.rank - 2)))

    result = rows.rows(norm, range(2, rows.rank), grouped(scale), grouped(bias))
    return result.reshape(x.shape)


@operator("LpNormalization")
def lp_norm_node(x: Tensor, axis: int = -1, p: int = 2) -> Tensor:
    """Rows of length 1; a row of zeros stays."""
    size = (x.map("absolute") if p == 1 else x * x).reduce("sum", [axis], keep=True)
    size = size if p == 1 else size.map("sqrt")
    return size.map("equal", 0.0).where(0.0, x / size)


@operator("MeanVarianceNormalization", since=9)
def mean_variance_norm_node(x: Tensor, axes: Sequence[int] = (0, 2, 3)) -> Tensor:
    mean = x.reduce("mean", axes, keep=True)
    variance = (x * x).reduce("mean", axes, keep=True) - mean * mean
    return (x - mean) / (variance.map("sqrt") + 1e-9)


@operator("LRN")
def lrn_node(
    x: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0
) -> Tensor:
    """Each channel against the squares of `size` channels around it."""
    before = (size - 1) // 2
    window = Window(1, size, 1, 1, before, x.shape[1])
    total = (x * x).windows([window], 0.0).reduce("sum", [-1])
    scale = total * (alpha / size) + bias
    return x * scale.map("power", -beta)


@hookimpl
def infinisa_operators() -> Sequence[Operator]:
    return [
        softmax_node,
        log_softmax_node,
        layer_norm_node,
        rms_norm_node,
        batch_norm_node,
        instance_norm_node,
        group_norm_node,
        lp_norm_node,
        mean_variance_norm_node,
        lrn_node,
    ]
