"""Products of matrices, with what is often fused to them; look-ups; reductions."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from infinisa.compiler.positional.operator import Operator, operator
from infinisa.compiler.positional.recurrence import scan
from infinisa.compiler.positional.tensor import Tensor, contract
from infinisa.isa import formulas
from infinisa.isa.errors import ModelError
from infinisa.isa.instruction import Instruction, instruction
from infinisa.isa.language import Reduce, dot, gather, mean
from infinisa.isa.language import relu as rectify

from ..hookspec import hookimpl

ARRAY = {"m": "rows", "n": "columns", "k": "depth"}


@instruction(unit="matrix", tile=ARRAY)
def matmul(a: "m k", b: "k n"):
    """The product of two matrices."""
    return dot(a, b, over="k")


@instruction(unit="matrix", tile=ARRAY)
def matmul_bias(a: "m k", b: "k n", bias: "n"):
    """A linear layer: a product plus a number for each column."""
    return dot(a, b, over="k") + bias


@instruction(unit="matrix", tile=ARRAY)
def matmul_bias_relu(a: "m k", b: "k n", bias: "n"):
    """A linear layer and the larger of its result and 0."""
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


# ---------------------------------------------------------------- operators


@operator("MatMul")
def matmul_node(a: Tensor, b: Tensor) -> Tensor:
    return a.matmul(b)


@operator("Gemm", since=7)
def gemm_node(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Tensor:
    a, b = (x.transpose([1, 0]) if t else x for x, t in ((a, transA), (b, transB)))
    result = a.matmul(b)
    if alpha != 1.0:
        result = result * alpha
    if c is None or beta == 0.0:
        return result
    return result + (c if beta == 1.0 else c * beta)


@operator("MatMulInteger", since=10)
def matmul_integer_node(
    a: Tensor, b: Tensor, zero_a: Tensor | None = None, zero_b: Tensor | None = None
) -> Tensor:
    """Zero points are numbers, one for each row of a, or one for each column of b."""
    a, b = a.cast("i32"), b.cast("i32")
    if zero_a is not None:
        a = a - (zero_a.unsqueeze([-1]) if zero_a.rank == 1 and a.rank > 1 else zero_a).cast("i32")
    if zero_b is not None:
        b = b - zero_b.cast("i32")
    return a.matmul(b)


@operator("Einsum", since=12)
def einsum_node(*tensors: Tensor, equation: str) -> Tensor:
    """Letters and one `...`; the operands are contracted from left to right."""
    given, _, result = equation.replace(" ", "").partition("->")
    rows = [_labels(text, x) for text, x in zip(given.split(","), tensors, strict=True)]
    if any(len(set(row)) != len(row) for row in rows):
        raise ModelError(f"a diagonal, as in {equation!r}, is not supported")
    if "->" in equation:
        wanted = _expanded(result, rows)
    else:
        letters = [label for row in rows for label in row]
        dots = sorted({label for label in letters if not label.isalpha()})
        wanted = dots + sorted(x for x in letters if x.isalpha() and letters.count(x) == 1)
    total, row = tensors[0], rows[0]
    for k in range(1, len(tensors)):
        later = {label for other in rows[k + 1 :] for label in other}
        both = list(dict.fromkeys([*row, *rows[k]]))
        kept = [label for label in both if label in later or label in wanted]
        total = contract(total, row, tensors[k], rows[k], kept)
        row = kept
    total = total.reduce("sum", [k for k, label in enumerate(row) if label not in wanted])
    row = [label for label in row if label in wanted]
    return total.transpose([row.index(label) for label in wanted])


def _labels(text: str, x: Tensor) -> list[str]:
    """One label for each dimension; those of `...` are counted from the end."""
    before, dots, after = text.partition("...")
    hidden = x.rank - len(before) - len(after)
    if hidden < 0 or (hidden and not dots):
        raise ModelError(f"operand {text!r} of an einsum does not fit shape {x.shape}")
    return [*before, *(str(hidden - k) for k in range(hidden)), *after]


def _expanded(text: str, rows: Sequence[Sequence[str]]) -> list[str]:
    before, dots, after = text.partition("...")
    hidden = max((int(x) for row in rows for x in row if x.isdigit()), default=0)
    return [*before, *(str(hidden - k) for k in range(hidden) if dots), *after]


def over(x: Tensor, axes: Tensor | Sequence[int] | None, noop: int) -> list[int]:
    """The dimensions that a reduction names; none means all, unless it says none."""
    named = axes.integers("axes") if isinstance(axes, Tensor) else list(axes or ())
    return named if named or noop else list(range(x.rank))


def squared(x: Tensor) -> Tensor:
    return x * x


def log_sum_exp(x: Tensor, dims: Sequence[int], keep: bool) -> Tensor:
    top = x.reduce("max", dims, keep=True)
    total = (x - top).map("exp").reduce("sum", dims, keep=True).map("log") + top
    return total if keep else total.squeeze(sorted({x.dim(d) for d in dims}))


REDUCED: dict[str, Callable[[Tensor, Sequence[int], bool], Tensor]] = {
    "ReduceSum": lambda x, dims, keep: x.reduce("sum", dims, keep),
    "ReduceMean": lambda x, dims, keep: x.reduce("mean", dims, keep),
    "ReduceMax": lambda x, dims, keep: x.reduce("max", dims, keep),
    "ReduceMin": lambda x, dims, keep: x.reduce("min", dims, keep),
    "ReduceProd": lambda x, dims, keep: x.reduce("product", dims, keep),
    "ReduceSumSquare": lambda x, dims, keep: squared(x).reduce("sum", dims, keep),
    "ReduceL1": lambda x, dims, keep: x.map("absolute").reduce("sum", dims, keep),
    "ReduceL2": lambda x, dims, keep: squared(x).reduce("sum", dims, keep).map("sqrt"),
    "ReduceLogSum": lambda x, dims, keep: x.reduce("sum", dims, keep).map("log"),
    "ReduceLogSumExp": log_sum_exp,
}


def reduction_node(name: str) -> Operator:
    """The axes are an attribute in older versions and an input in newer ones."""

    def function(
        x: Tensor,
        given: Tensor | None = None,
        *,
        axes: Sequence[int] | None = None,
        keepdims: int = 1,
        noop_with_empty_axes: int = 0,
    ) -> Tensor:
        dims = over(x, axes if given is None else given, noop_with_empty_axes)
        return REDUCED[name](x, dims, bool(keepdims))

    return Operator(name, function)


def arg_node(name: str, sign: int) -> Operator:
    """The place of the largest, or of the smallest; the first or the last of equals."""

    def function(x: Tensor, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
        x = x if sign > 0 else x.map("negate")
        if not select_last_index:
            return x.argmax(axis, bool(keepdims))
        back = x.slice(axis, None, None, -1).argmax(axis, bool(keepdims))
        return back.map("negate") + (x.shape[x.dim(axis)] - 1)

    return Operator(name, function)


@operator("CumSum", since=11)
def cumsum_node(x: Tensor, axis: Tensor, exclusive: int = 0, reverse: int = 0) -> Tensor:
    dim = x.dim(axis.integers("axis")[0])
    order = [dim, *(d for d in range(x.rank) if d != dim)]
    rows = x.transpose(order)
    start = rows.slice(0, 0, 1).squeeze([0]) * 0

    def step(
        states: Sequence[Tensor], slices: Sequence[Tensor]
    ) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        total = states[0] + slices[0]
        return [total], [states[0] if exclusive else total]

    _, (sums,) = scan(step, [start], [rows], bool(reverse))
    return sums.transpose([order.index(d) for d in range(x.rank)])


@hookimpl
def infinisa_operators() -> Sequence[Operator]:
    return [
        matmul_node,
        gemm_node,
        matmul_integer_node,
        einsum_node,
        *(reduction_node(name) for name in REDUCED),
        arg_node("ArgMax", 1),
        arg_node("ArgMin", -1),
        cumsum_node,
    ]
