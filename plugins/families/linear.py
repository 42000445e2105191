"""Products of matrices, with what is often fused to them; look-ups; reductions."""

from collections.abc import Sequence
from dataclasses import replace

from infinisa.isa import formulas
from infinisa.isa.instruction import Instruction, instruction
from infinisa.isa.language import Reduce, dot, gather, mean
from infinisa.isa.language import relu as rectify

from ..hookspec import hookimpl

ARRAY = {"m": "rows", "n": "columns", "k": "depth"}


@instruction(unit="matrix", tile=ARRAY)
def matmul(a: "m k", b: "k n"):
    return dot(a, b, over="k")


@instruction(unit="matrix", tile=ARRAY)
def matmul_bias(a: "m k", b: "k n", bias: "n"):
    return dot(a, b, over="k") + bias


@instruction(unit="matrix", tile=ARRAY)
def matmul_bias_relu(a: "m k", b: "k n", bias: "n"):
    return rectify(dot(a, b, over="k") + bias)


@instruction(unit="matrix", tile=ARRAY)
def matmul_bias_gelu(a: "m k", b: "k n", bias: "n"):
    """The first half of BERT's feed-forward layer, with the exact GELU."""
    return formulas.gelu_erf(dot(a, b, over="k") + bias)


@instruction(unit="matrix", tile=ARRAY)
def matmul_bias_gelu_tanh(a: "m k", b: "k n", bias: "n"):
    """The first half of GPT-2's feed-forward layer."""
    return formulas.gelu_tanh(dot(a, b, over="k") + bias)


@instruction(unit="matrix", tile=ARRAY)
def matmul_silu(a: "m k", b: "k n"):
    """The gate of Llama's feed-forward layer."""
    return formulas.silu(dot(a, b, over="k"))


@instruction(unit="vector")
def embedding(table: "v d", index: "s: i32"):
    """Rows of a table."""
    return gather(table, index, "v")


def reduction(function: str) -> Instruction:
    """The vector instruction that folds one axis."""

    def body(x: "m n"):
        return Reduce(function, x, ("n",))

    made = instruction(unit="vector", name=f"reduce_{function}")(body)
    return replace(made, documentation=f"The {function} over an axis.")


REDUCTIONS = tuple(reduction(function) for function in ("sum", "max", "min", "product"))


@instruction(unit="vector")
def reduce_mean(x: "m n"):
    """The mean over an axis."""
    return mean(x, "n")


@instruction(unit="vector")
def argmax(x: "m n"):
    """Where an axis has its largest value: the first of equals."""
    return Reduce("argmax", x, ("n",))


@hookimpl
def infinisa_instructions() -> Sequence[Instruction]:
    return [
        matmul,
        matmul_bias,
        matmul_bias_relu,
        matmul_bias_gelu,
        matmul_bias_gelu_tanh,
        matmul_silu,
        embedding,
        *REDUCTIONS,
        reduce_mean,
        argmax,
    ]
