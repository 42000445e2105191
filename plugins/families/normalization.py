"""Rows brought to one scale: softmax, layer norm, RMS norm, and these behind a residual."""

from collections.abc import Sequence

from infinisa.isa import formulas
from infinisa.isa.instruction import Instruction, instruction

from ..hookspec import hookimpl


@instruction(unit="vector")
def softmax(x: "m n"):
    return formulas.softmax(x, "n")


@instruction(unit="vector")
def layer_norm(x: "m n", weight: "n", bias: "n", epsilon=1e-5):
    return formulas.layer_norm(x, weight, bias, "n", epsilon)


@instruction(unit="vector")
def rms_norm(x: "m n", weight: "n", epsilon=1e-5):
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


@hookimpl
def infinisa_instructions() -> Sequence[Instruction]:
    return [
        softmax,
        layer_norm,
        rms_norm,
        residual_layer_norm,
        residual_rms_norm,
        l2_normalize,
    ]
