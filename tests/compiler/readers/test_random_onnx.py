"""Random ONNX models: what is read of them, and what all backends compute, is what onnxruntime
says.

Each operator is read by itself elsewhere. Here they meet: parts of values, borders around them,
copies, digits of an axis, the same value twice, and values of several types. What jumps (a
comparison, a rounding) is of inputs and whole numbers only: of others engines may differ.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from numpy.typing import NDArray

onnx = pytest.importorskip("onnx")

from tests.compiler.everywhere import MACHINES, agree_everywhere  # noqa: E402  # after the skip
from tests.compiler.readers.test_onnx import (  # noqa: E402  # after the skip
    assert_as_onnxruntime,
    made,
    named,
    node,
    random,
)
from tests.machines import CACHE  # noqa: E402  # after the skip

Array = NDArray[Any]

EXAMPLES = int(os.environ.get("INFINISA_EXAMPLES", "2000")) // 20
"""Random models; `make models` runs more."""

LARGEST = 20_000
"""Elements of a value."""

KINDS = "FLOAT", "INT32", "INT64", "BOOL"

FLOAT, INT32, INT64, BOOL = (getattr(onnx.TensorProto, name) for name in KINDS)


class Value(NamedTuple):
    name: str
    shape: tuple[int, ...]
    kind: int = FLOAT

    @property
    def rank(self) -> int:
        return len(self.shape)


class Draft:
    """A model as it is drawn: by numbers of our own, since hypothesis prefers small ones."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.nodes: list[Any] = []
        self.weights: dict[str, Array] = {}
        most = self.one_of(((2, 8, 12, 12), (2, 12, 16), (1, 40, 7, 7), (2, 9, 300), (20, 300)))
        shape = tuple(self.number(1, size) for size in most)
        self.values = [Value("x", shape), Value("n", shape, INT64)]
        x, n = 0.5 * random(*shape), np.rint(3.0 * random(*shape, seed=1))
        self.arrays = {"x": x, "n": n.astype(np.int64)}

    def number(self, least: int, most: int) -> int:
        return self.random.randint(least, most)

    def numbers(self, count: int, least: int, most: int) -> list[int]:
        return [self.number(least, most) for _ in range(count)]

    def one_of(self, choices: Any) -> Any:
        return self.random.choice(list(choices))

    def weight(self, array: Any) -> str:
        """An array, or whole numbers, as a tensor of the model."""
        name = f"w{len(self.weights)}"
        self.weights[name] = np.asarray(array)
        return name

    def drawn(self, *shape: int) -> str:
        return self.weight(0.5 * random(*shape, seed=len(self.weights)))

    def add(self, kind: str, inputs: str, results: int = 1, **attributes: Any) -> bool:
        """More values, the results of a node, unless they have no elements or too many."""
        names = [f"v{len(self.values) + n}" for n in range(results)]
        nodes = [*self.nodes, node(kind, inputs, " ".join(names), **attributes)]
        inferred = onnx.shape_inference.infer_shapes(self.model(nodes), data_prop=True)
        known = {kept.name: kept.type.tensor_type for kept in inferred.graph.value_info}
        found = [
            Value(name, tuple(d.dim_value for d in known[name].shape.dim), known[name].elem_type)
            for name in names
        ]
        if not all(0 < prod(value.shape) <= LARGEST for value in found):
            return False
        self.nodes = nodes
        self.values += found
        return True

    def model(self, nodes: Sequence[Any], results: Sequence[Value] = ()) -> Any:
        types = {value.name: value.kind for value in (self.values[1], *results)}
        shapes = {name: array.shape for name, array in self.arrays.items()}
        return made(nodes, shapes, [v.name for v in results], self.weights, types=types)


Step = Callable[[Draft, Value], object]


def alone(kind: str, **attributes: Any) -> Step:
    return lambda d, x: d.add(kind, x.name, **attributes)


def along_axis(kind: str) -> Step:
    return lambda d, x: x.rank and d.add(kind, x.name, axis=d.number(0, x.rank - 1))


def folded(kind: str) -> Step:
    def step(d: Draft, x: Value) -> object:
        axes = [axis for axis in range(x.rank) if d.one_of((True, False))]
        keep = d.number(0, 1)
        return axes and d.add(kind, f"{x.name} {d.weight(axes)}", keepdims=keep)

    return step


def with_another(kind: str) -> Step:
    def step(d: Draft, x: Value) -> object:
        alike = [value.name for value in d.values if value[1:] == x[1:]]
        return d.add(kind, f"{x.name} {d.one_of(alike)}")

    return step


def with_a_tensor(d: Draft, x: Value) -> object:
    shape = [d.one_of((1, size)) for size in x.shape][d.number(0, max(0, x.rank - 1)) :]
    return d.add(d.one_of(("Add", "Mul", "Max", "Sub")), f"{x.name} {d.drawn(*shape)}")


def convolution(d: Draft, x: Value) -> object:
    if x.rank != 4:
        return False
    groups = d.one_of([n for n in (1, 2, x.shape[1]) if x.shape[1] % n == 0])
    out, sides = groups * d.number(1, 4), d.numbers(2, 1, 4)
    w = d.drawn(out, x.shape[1] // groups, *sides)
    bias = d.one_of(("", d.drawn(out)))
    dilations, pads = d.numbers(2, 1, 2), d.numbers(4, 0, 2)
    reach = [step * (side - 1) + 1 for step, side in zip(dilations, sides, strict=True)]
    return fits(x, reach, pads) and d.add(
        "Conv", f"{x.name} {w} {bias}", group=groups, strides=d.numbers(2, 1, 2),
        dilations=dilations, pads=pads,
    )  # fmt: skip


def fits(x: Value, reach: Sequence[int], pads: Sequence[int]) -> bool:
    """Whether there is a place for a window; onnxruntime finds one where there is none."""
    return all(n <= x.shape[2 + k] + pads[k] + pads[k + 2] for k, n in enumerate(reach))


def transposed_convolution(d: Draft, x: Value) -> object:
    if x.rank != 4:
        return False
    w = d.drawn(x.shape[1], d.number(1, 3), *d.numbers(2, 1, 4))
    strides, pads = d.numbers(2, 1, 3), d.numbers(4, 0, 1)
    return d.add("ConvTranspose", f"{x.name} {w}", strides=strides, pads=pads)


def pooling(d: Draft, x: Value) -> object:
    side = d.number(1, 3)
    pads = [d.number(0, side // 2)] * 4
    kind = d.one_of(("MaxPool", "AveragePool"))
    return (
        x.rank == 4
        and fits(x, [side] * 2, pads)
        and d.add(kind, x.name, kernel_shape=[side] * 2, strides=d.numbers(2, 1, 2), pads=pads)
    )


def shuffled(d: Draft, x: Value) -> object:
    kind, fits = "SpaceToDepth", x.rank == 4 and not (x.shape[2] % 2 or x.shape[3] % 2)
    if x.rank == 4 and not x.shape[1] % 4:
        kind, fits = "DepthToSpace", True
    return fits and d.add(kind, x.name, blocksize=2)


def resized(d: Draft, x: Value) -> object:
    if x.rank != 4:
        return False
    nothing, sizes = d.weight(np.zeros(0, np.float32)), d.numbers(2, 1, 12)
    if d.one_of((True, False)):
        sizes = [size * d.number(1, 3) for size in x.shape[2:]]
    return d.add(
        "Resize", f"{x.name} {nothing} {nothing} {d.weight([*x.shape[:2], *sizes])}",
        mode=d.one_of(("nearest", "linear", "cubic")),
        coordinate_transformation_mode=d.one_of(("asymmetric", "half_pixel", "align_corners")),
        nearest_mode=d.one_of(("floor", "round_prefer_floor")),
    )  # fmt: skip


def part(d: Draft, x: Value) -> object:
    if not x.rank:
        return False
    axis = d.number(0, x.rank - 1)
    size = x.shape[axis]
    first, last, step = d.number(0, size - 1), d.number(1, size), d.one_of((1, 1, 2, 3, -1))
    ends = (last - 1, first - size - 1) if step < 0 else (first, last)
    return d.add("Slice", " ".join([x.name, *(d.weight([n]) for n in (*ends, axis, step))]))


def number(d: Draft, x: Value, value: float) -> str:
    """A number of the type of x."""
    return d.weight(np.array(value, onnx.helper.tensor_dtype_to_np_dtype(x.kind)))


def border(d: Draft, x: Value) -> object:
    if not x.rank:
        return False
    pads = d.weight(d.numbers(2 * x.rank, 0, 2))
    return d.add("Pad", f"{x.name} {pads} {number(d, x, d.one_of((0, 1.5)))}")


def joined(d: Draft, x: Value) -> object:
    if not x.rank:
        return False
    axis = d.number(0, x.rank - 1)
    fit = [
        other.name
        for other in d.values
        if (other.rank, other.kind) == (x.rank, x.kind)
        and other.shape[:axis] + other.shape[axis + 1 :] == x.shape[:axis] + x.shape[axis + 1 :]
    ]
    return d.add("Concat", f"{x.name} {d.one_of(fit)}", axis=axis)


def turned(d: Draft, x: Value) -> object:
    return x.rank and d.add("Transpose", x.name, perm=d.random.sample(range(x.rank), x.rank))


def reshaped(d: Draft, x: Value) -> object:
    whole = prod(x.shape)
    first = d.one_of([n for n in range(1, min(whole, 24) + 1) if whole % n == 0])
    rest = whole // first
    second = d.one_of([n for n in range(1, min(rest, 24) + 1) if rest % n == 0])
    shape = d.one_of(([whole], [first, rest], [rest, first], [first, second, rest // second]))
    return d.add("Reshape", f"{x.name} {d.weight(shape)}")


def repeated(d: Draft, x: Value) -> object:
    return x.rank and d.add("Tile", f"{x.name} {d.weight(d.numbers(x.rank, 1, 3))}")


def looked_up(d: Draft, x: Value) -> object:
    if not x.rank:
        return False
    axis = d.number(0, x.rank - 1)
    size = x.shape[axis]
    rows = d.weight(d.numbers(d.number(1, 3), -size, size - 1))
    return d.add("Gather", f"{x.name} {rows}", axis=axis)


def product(d: Draft, x: Value) -> object:
    return x.rank and d.add("MatMul", f"{x.name} {d.drawn(x.shape[-1], d.number(1, 9))}")


def normed(d: Draft, x: Value) -> object:
    if not x.rank:
        return False
    scale, shift = d.drawn(x.shape[-1]), d.drawn(x.shape[-1])
    return d.add("LayerNormalization", f"{x.name} {scale} {shift}", epsilon=1e-3)


def expanded(d: Draft, x: Value) -> object:
    shape = [d.number(2, 3), *x.shape]
    return x.rank < 4 and d.add("Expand", f"{x.name} {d.weight(shape)}")


def halves(d: Draft, x: Value) -> object:
    if not x.rank:
        return False
    axis = d.number(0, x.rank - 1)
    first = d.number(0, x.shape[axis])
    sizes = d.weight([first, x.shape[axis] - first])
    return d.add("Split", f"{x.name} {sizes}", results=2, axis=axis)


def chosen(d: Draft, x: Value) -> object:
    mask = np.asarray(d.numbers(x.shape[-1], 0, 1) if x.rank else d.number(0, 1), bool)
    return d.add("Where", f"{d.weight(mask)} {x.name} {number(d, x, -1)}")


def picked(d: Draft, x: Value) -> object:
    if not x.rank:
        return False
    axis = d.number(0, x.rank - 1)
    shape = [*x.shape[:axis], d.number(1, 3), *x.shape[axis + 1 :]]
    rows = np.random.default_rng(len(d.weights)).integers(-x.shape[axis], x.shape[axis], shape)
    return d.add("GatherElements", f"{x.name} {d.weight(rows)}", axis=axis)


def summed_up(d: Draft, x: Value) -> object:
    if not x.rank:
        return False
    axis = d.weight(np.int64(d.number(0, x.rank - 1)))
    flags = {"reverse": d.number(0, 1), "exclusive": d.number(0, 1)}
    return d.add("CumSum", f"{x.name} {axis}", **flags)


def recurrent(d: Draft, x: Value) -> object:
    if x.rank != 3:
        return False
    kind, gates = d.one_of((("RNN", 1), ("GRU", 3), ("LSTM", 4)))
    direction = d.one_of(("forward", "reverse", "bidirectional"))
    count, hidden = 1 + (direction == "bidirectional"), d.number(1, 6)
    shapes = (x.shape[2], hidden)
    weights = " ".join(d.drawn(count, gates * hidden, size) for size in shapes)
    inputs = f"{x.name} {weights} {d.drawn(count, 2 * gates * hidden)}"
    return d.add(kind, inputs, hidden_size=hidden, direction=direction)


def attended(d: Draft, x: Value) -> object:
    """softmax(x @ transpose(x)) @ x"""
    last = [*range(x.rank - 2), x.rank - 1, x.rank - 2]
    return (
        x.rank >= 2
        and d.add("Transpose", x.name, perm=last)
        and d.add("MatMul", f"{x.name} {d.values[-1].name}")
        and d.add("Softmax", d.values[-1].name, axis=-1)
        and d.add("MatMul", f"{d.values[-1].name} {x.name}")
    )


def contracted(d: Draft, x: Value) -> object:
    if x.rank != 3:
        return False
    terms, kept = d.one_of((("abc", "abk"), ("bac", "bka"), ("abc", "kb"), ("acb", "abk")))
    other = d.one_of(("ck", "kc"))
    sizes = dict(zip(terms, x.shape, strict=True)) | {"k": d.number(1, 4)}
    w = d.drawn(*(sizes[axis] for axis in other))
    return d.add("Einsum", f"{x.name} {w}", equation=f"{terms},{other}->{kept}")


def unsqueezed(d: Draft, x: Value) -> object:
    return x.rank < 5 and d.add("Unsqueeze", f"{x.name} {d.weight([d.number(0, x.rank)])}")


def divided(kind: str, **attributes: Any) -> Step:
    def step(d: Draft, x: Value) -> object:
        by = number(d, x, d.number(1, 5) * d.one_of((1, -1)))
        return d.add(kind, f"{x.name} {by}", **attributes)

    return step


def clipped(d: Draft, x: Value) -> object:
    return d.add("Clip", f"{x.name} {number(d, x, -1)} {number(d, x, 2)}")


def where(d: Draft, x: Value) -> object:
    """Chosen by another value."""
    fit = [value.name for value in d.values if value[1:] == (x.shape, BOOL)]
    alike = [value.name for value in d.values if value[1:] == x[1:]]
    return fit and d.add("Where", f"{d.one_of(fit)} {x.name} {d.one_of(alike)}")


def looked_up_by(d: Draft, x: Value) -> object:
    """Rows that another value names."""
    rows = [value.name for value in d.values if value.kind == INT64 and value.rank < 3]
    if not x.rank or not rows:
        return False
    axis = d.number(0, x.rank - 1)
    ends = [d.weight(np.int64(n)) for n in (-x.shape[axis], x.shape[axis] - 1)]
    return d.add("Clip", f"{d.one_of(rows)} {ends[0]} {ends[1]}") and d.add(
        "Gather", f"{x.name} {d.values[-1].name}", axis=axis
    )


def cast(d: Draft, x: Value) -> object:
    to = d.one_of((INT32, INT64, BOOL, FLOAT))
    return to != x.kind and d.add("Cast", x.name, to=to)


def triangle(d: Draft, x: Value) -> object:
    k = d.weight(np.int64(d.number(-2, 2)))
    return x.rank >= 2 and d.add("Trilu", f"{x.name} {k}", upper=d.number(0, 1))


def largest_place(d: Draft, x: Value) -> object:
    axis, last = d.number(0, max(0, x.rank - 1)), d.number(0, 1)
    return x.rank and d.add("ArgMax", x.name, axis=axis, select_last_index=last)


# ---------------------------------------------------------------- several nodes


def in_turn(d: Draft, x: Value, *nodes: tuple[str, str, dict[str, Any]]) -> bool:
    """Nodes of which each reads the result of the one before it, and more."""
    name = x.name
    for kind, more, attributes in nodes:
        if not d.add(kind, f"{name} {more}", **attributes):
            return False
        name = d.values[-1].name
    return True


def activation(d: Draft, x: Value) -> object:
    kinds = "HardSwish", "HardSigmoid", "Elu", "LeakyRelu", "Softplus", "Softsign", "Mish", "Erf"
    return d.add(d.one_of(kinds), x.name)


def inverted(d: Draft, x: Value) -> object:
    """A convolution of 1 x 1, one channel by channel, one of 1 x 1; a function behind the first."""
    if x.rank != 4:
        return False
    inside, side, out = x.shape[1] * d.number(1, 6), d.one_of((1, 3, 5)), d.number(1, 9)
    pads = [side // 2] * 4
    if not fits(x, [side] * 2, pads):
        return False
    function = d.one_of(((), (("HardSwish", "", {}),), (("Relu", "", {}),), (("Tanh", "", {}),)))
    first, last = d.drawn(inside, x.shape[1], 1, 1), d.drawn(out, inside, 1, 1)
    middle = {"group": inside, "pads": pads, "strides": [d.number(1, 2)] * 2}
    return in_turn(
        d,
        x,
        ("Conv", f"{first} {d.drawn(inside)}", {}),
        *function,
        ("Conv", f"{d.drawn(inside, 1, side, side)} {d.drawn(inside)}", middle),
        *function,
        ("Conv", f"{last} {d.drawn(out)}", {}),
    )


def finished(d: Draft, x: Value) -> object:
    """A product, a bias, and functions of both, some with themselves."""
    if not x.rank:
        return False
    columns = d.number(1, 40)
    product, bias = d.drawn(x.shape[-1], columns), d.drawn(columns)
    if not in_turn(d, x, ("MatMul", product, {}), ("Add", bias, {})):
        return False
    ends = d.weight(np.array(-1, np.float32)), d.weight(np.array(1, np.float32))
    for _ in range(d.number(0, 3)):
        y, before = d.values[-1], d.values[-2]
        kind, more = d.one_of((("Relu", ""), ("Sigmoid", ""), ("HardSwish", ""),
                               ("Clip", " ".join(ends)), ("Mul", before.name)))  # fmt: skip
        d.add(kind, f"{y.name} {more}")
    return True


def heads(d: Draft, x: Value) -> object:
    """An attention of several heads, with a mask that hides later keys or none."""
    if x.rank != 3:
        return False
    batch, rows, columns = x.shape
    count, width = d.number(1, 3), d.number(1, 4)
    apart, projected = d.weight([batch, rows, count, width]), []
    for order in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]):
        weight = d.drawn(columns, count * width)
        turn = ("Transpose", "", {"perm": order})
        if not in_turn(d, x, ("MatMul", weight, {}), ("Reshape", apart, {}), turn):
            return False
        projected.append(d.values[-1])
    query, key, value = projected
    hidden = d.weight(np.triu(np.full((rows, rows), -1e9 * d.number(0, 1), np.float32), 1))
    return in_turn(
        d,
        query,
        ("MatMul", key.name, {}),
        ("Add", hidden, {}),
        ("Softmax", "", {"axis": -1}),
        ("MatMul", value.name, {}),
        ("Transpose", "", {"perm": [0, 2, 1, 3]}),
        ("Reshape", d.weight([batch, rows, count * width]), {}),
    )


def convolution_of_lines(d: Draft, x: Value) -> object:
    if x.rank != 3:
        return False
    groups, side, pad = d.one_of((1, x.shape[1])), d.number(1, 3), d.number(0, 2)
    w, step = d.drawn(groups * d.number(1, 3), x.shape[1] // groups, side), d.number(1, 2)
    reach = step * (side - 1) + 1
    return reach <= x.shape[2] + 2 * pad and d.add(
        "Conv", f"{x.name} {w}", group=groups, pads=[pad] * 2, dilations=[step],
        strides=[d.number(1, 2)],
    )  # fmt: skip


def rotated(d: Draft, x: Value) -> object:
    """Halves of rows turned by given angles."""
    if x.rank < 2 or x.shape[-1] % 2:
        return False
    half, last = x.shape[-1] // 2, x.rank - 1
    if not d.add("Split", f"{x.name} {d.weight([half, half])}", results=2, axis=last):
        return False
    one, other = d.values[-2:]
    cosine, sine = (d.drawn(x.shape[-2], half) for _ in range(2))
    parts = []
    for kind, first, second in (("Sub", cosine, sine), ("Add", sine, cosine)):
        d.add("Mul", f"{other.name} {second}")
        product = d.values[-1].name
        in_turn(d, one, ("Mul", first, {}), (kind, product, {}))
        parts.append(d.values[-1].name)
    return d.add("Concat", " ".join(parts), axis=last)


STEPS: dict[str, Step] = {
    "Relu": alone("Relu"),
    "Tanh": alone("Tanh"),
    "Gelu": alone("Gelu"),
    "Add": with_another("Add"),
    "Mul": with_another("Mul"),
    "Softmax": along_axis("Softmax"),
    "Sum": folded("ReduceSum"),
    "Mean": folded("ReduceMean"),
    "Max": folded("ReduceMax"),
    "broadcast": with_a_tensor,
    "Conv": convolution,
    "ConvTranspose": transposed_convolution,
    "pool": pooling,
    "shuffle": shuffled,
    "Resize": resized,
    "Slice": part,
    "Pad": border,
    "Concat": joined,
    "Transpose": turned,
    "Reshape": reshaped,
    "Tile": repeated,
    "Gather": looked_up,
    "MatMul": product,
    "LayerNormalization": normed,
    "Sigmoid": alone("Sigmoid"),
    "Neg": alone("Neg"),
    "Sub": with_another("Sub"),
    "MatMul of itself": attended,
    "Einsum": contracted,
    "ReduceL2": folded("ReduceL2"),
    "LogSoftmax": along_axis("LogSoftmax"),
    "Expand": expanded,
    "Unsqueeze": unsqueezed,
    "Split": halves,
    "Where": chosen,
    "GatherElements": picked,
    "CumSum": summed_up,
    "recurrent": recurrent,
    "Div": divided("Div"),
    "Abs": alone("Abs"),
    "Clip": clipped,
    "where": where,
    "rows": looked_up_by,
    "Trilu": triangle,
    "Not": alone("Not"),
    "And": with_another("And"),
    "Less": with_another("Less"),
    "Equal": with_another("Equal"),
    "Sign": alone("Sign"),
    "Mod": divided("Mod"),
    "fmod": divided("Mod", fmod=1),
    "ArgMax": largest_place,
    "Cast": cast,
    "activation": activation,
    "inverted": inverted,
    "finished": finished,
    "heads": heads,
    "Conv of lines": convolution_of_lines,
    "rotated": rotated,
}

JUMPS = {"Less", "Equal", "Sign", "ArgMax", "Cast"}
"""Of floats only if they are inputs."""

LOGIC = {"Not", "And"}

WHOLE = {
    "Add", "Mul", "Sub", "Sum", "Max", "Neg", "Abs", "Div", "Mod", "fmod", "Clip", "CumSum",
}  # fmt: skip
"""Of numbers."""

MOVES = {
    "Slice", "Pad", "Concat", "Transpose", "Reshape", "Tile", "Gather", "Expand", "Unsqueeze",
    "Split", "Where", "where", "GatherElements", "rows", "Trilu",
}  # fmt: skip
"""Of values of any type."""


def may(step: str, x: Value) -> bool:
    """Whether a step is for values like this one."""
    if x.kind == BOOL:  # onnxruntime chooses none by others
        return step in MOVES - {"Where", "where"} | LOGIC | {"Cast"}
    if x.kind == FLOAT:
        return step not in LOGIC | {"Mod", "fmod"} and (step not in JUMPS or x.name == "x")
    return step in MOVES | WHOLE | JUMPS


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(some.integers(0, 2**32 - 1), some.integers(1, 7))
def test_random_models(seed: int, steps: int) -> None:
    d = Draft(seed)
    while len(d.nodes) < steps:
        name, x = d.one_of(STEPS), d.one_of(d.values[-2:])
        if may(name, x):
            STEPS[name](d, x)
    results = list(dict.fromkeys([d.one_of(d.values[2:]), d.values[-1]]))
    model = d.model(d.nodes, results)
    with TemporaryDirectory() as folder:
        found = assert_as_onnxruntime(model, d.arrays, Path(folder))

    machine = d.one_of((CACHE, MACHINES["tiny"]))
    agree_everywhere(found, machine, inputs=named(found, d.arrays), tolerance=1e-3)
