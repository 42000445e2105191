"""Every shipped family end to end: compiled for three machines, run by all engines, against others.

No tile size divides the shapes, which are primes. Small models are ONNX files, whose values
onnxruntime knows; what it has no operator for is built by hand and compared with PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from infinisa.api import Loaded
from infinisa.compiler.builder import Builder
from infinisa.compiler.graph import Model
from infinisa.compiler.readers.onnx import read
from infinisa.isa import formulas
from infinisa.isa.language import dot, update, view
from infinisa.isa.machine import builtin_machine_files, load_machine
from infinisa.isa.program import Count, Repeat
from infinisa.plugins.manager import load
from tests.machines import CACHE

Array = NDArray[Any]
Arrays = Mapping[str, Array]

REGISTRY = load(installed=False)
MACHINES = {file.stem: load_machine(file) for file in builtin_machine_files()} | {"cache": CACHE}
BACKENDS = ("reference", "scalar", "vector")


@dataclass(frozen=True)
class Case:
    """A model, what goes in, what must come out, and instructions that must be used."""

    model: Model
    inputs: Arrays
    expected: Arrays
    uses: frozenset[str]
    parameters: Mapping[str, int] = field(default_factory=dict)


CASES: dict[str, Callable[[], Case]] = {}


def case(function: Callable[[], Case]) -> Callable[[], Case]:
    CASES[function.__name__] = cache(function)
    return function


def random(*shape: int) -> Array:
    seed = int("".join(map(str, shape)) or 0)
    return (np.random.default_rng(seed).normal(size=shape) * 0.7).astype(np.float32)


def from_onnx(
    nodes: Sequence[onnx.NodeProto],
    inputs: Arrays,
    weights: Arrays,
    uses: str,
    outputs: Sequence[str] = ("y",),
    opset: int = 23,
) -> Case:
    """An ONNX graph, with the values that onnxruntime gives it."""

    def value(name: str, array: Array | None) -> onnx.ValueInfoProto:
        kind = onnx.TensorProto.FLOAT
        if array is not None:
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        return helper.make_tensor_value_info(name, kind, None if array is None else array.shape)

    graph = helper.make_graph(
        nodes,
        "main",
        [value(name, array) for name, array in inputs.items()],
        [value(name, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    expected = dict(zip(outputs, session.run(None, dict(inputs)), strict=True))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        made = read(path, [found.item for found in REGISTRY.operators.values()])
    return Case(made, inputs, expected, frozenset(uses.split()))


node = helper.make_node

# ---------------------------------------------------------------- linear and element by element


@case
def matmul() -> Case:
    inputs = {"a": random(37, 53), "b": random(53, 41)}
    return from_onnx([node("MatMul", ["a", "b"], ["y"])], inputs, {}, "matmul")


@case
def batched_matmul() -> Case:
    inputs = {"a": random(3, 5, 19, 23), "b": random(3, 5, 23, 17)}
    return from_onnx([node("MatMul", ["a", "b"], ["y"])], inputs, {}, "matmul")


@case
def bias() -> Case:
    nodes = [node("Gemm", ["x", "w", "b"], ["y"], transB=1)]
    weights = {"w": random(29, 67), "b": random(29)}
    return from_onnx(nodes, {"x": random(37, 67)}, weights, "matmul_bias")


def layer(uses: str, *after: onnx.NodeProto, opset: int = 23) -> Case:
    """A product, a bias, and nodes from h to y."""
    nodes = [node("MatMul", ["x", "w"], ["p"]), node("Add", ["p", "b"], ["h"]), *after]
    weights = {"w": random(43, 31), "b": random(31)}
    return from_onnx(nodes, {"x": random(17, 43)}, weights, uses, opset=opset)


@case
def matmul_relu() -> Case:
    return layer("matmul_bias_relu", node("Relu", ["h"], ["y"]))


@case
def matmul_gelu_erf() -> Case:
    return layer("matmul_bias_gelu", node("Gelu", ["h"], ["y"]))


@case
def matmul_gelu_tanh() -> Case:
    return layer("matmul_bias_gelu_tanh", node("Gelu", ["h"], ["y"], approximate="tanh"))


@case
def gated() -> Case:
    """silu(x @ gate) * (x @ up)"""
    nodes = [
        node("MatMul", ["x", "gate"], ["g"]),
        node("Sigmoid", ["g"], ["s"]),
        node("Mul", ["g", "s"], ["silu"]),
        node("MatMul", ["x", "up"], ["u"]),
        node("Mul", ["silu", "u"], ["y"]),
    ]
    weights = {"gate": random(43, 31), "up": random(43, 37)[:, :31].copy()}
    return from_onnx(nodes, {"x": random(17, 43)}, weights, "matmul swiglu")


@case
def activations() -> Case:
    """Each of an input of its own: 0.5 * x of two forms of GELU would be one value."""
    nodes = [
        node("Relu", ["a"], ["relu"]),
        node("Gelu", ["b"], ["gelu_erf"]),
        node("Gelu", ["c"], ["gelu_tanh"], approximate="tanh"),
        node("Sigmoid", ["d"], ["sigmoid"]),
        node("Sigmoid", ["e"], ["s"]),
        node("Mul", ["e", "s"], ["silu"]),
        node("Tanh", ["f"], ["tanh"]),
        node("Softmax", ["g"], ["softmax"], axis=-1),
    ]
    outputs = "relu gelu_erf gelu_tanh sigmoid silu tanh softmax"
    inputs = {name: random(19, 71 + n) * 3 for n, name in enumerate("abcdefg")}
    uses = outputs.replace("relu", "maximum_scalar")
    return from_onnx(nodes, inputs, {}, uses, outputs.split())


@case
def embedding() -> Case:
    inputs = {"ids": np.array([[3, 0, 96], [5, 5, 41]], np.int64)}
    return from_onnx(
        [node("Gather", ["table", "ids"], ["y"])], inputs, {"table": random(97, 23)}, "embedding"
    )


# ---------------------------------------------------------------- attention


def attention(uses: str, names: str, inputs: Arrays, outputs: str = "y", **how: Any) -> Case:
    nodes = [node("Attention", names.split(","), outputs.split(), **how)]
    return from_onnx(nodes, inputs, {}, uses, outputs.split())


def heads(queries: int, keys: int, heads: int = 3, groups: int = 1) -> dict[str, Array]:
    """Queries, keys and values of heads of width 7, values of width 11."""
    return {
        "q": random(1, heads * groups, queries, 7),
        "k": random(1, heads, keys, 7),
        "v": random(1, heads, keys, 11),
    }


@case
def attention_in_heads() -> Case:
    return attention("attention", "q,k,v", heads(19, 37))


@case
def attention_in_groups() -> Case:
    return attention("attention", "q,k,v", heads(19, 37, groups=5))


@case
def causal_attention() -> Case:
    return attention("causal_attention", "q,k,v", heads(37, 37), is_causal=1)


@case
def masked_attention() -> Case:
    inputs = heads(19, 37) | {"mask": np.where(random(19, 37) < 0.3, -np.inf, 0).astype("f4")}
    return attention("masked_attention", "q,k,v,mask", inputs)


@case
def attention_with_a_cache() -> Case:
    """One query against 23 keys of before and its own."""
    inputs = heads(1, 1) | {"past_k": random(1, 3, 23, 7), "past_v": random(1, 3, 23, 11)}
    names = "q,k,v,,past_k,past_v"
    return attention("attention", names, inputs, "y keys values", is_causal=0)


@case
def rotary() -> Case:
    angles = np.arange(29)[:, None] * 10000.0 ** (-np.arange(5) / 5)
    weights = {"cos": np.cos(angles)[None].astype("f4"), "sin": np.sin(angles)[None].astype("f4")}
    nodes = [
        node("RotaryEmbedding", ["q", "cos", "sin"], ["rotated_q"]),
        node("RotaryEmbedding", ["k", "cos", "sin"], ["rotated_k"]),
        node("Attention", ["rotated_q", "rotated_k", "v"], ["y"], is_causal=1),
    ]
    inputs = {name: random(1, 3, 29, 10) * (1 + n) for n, name in enumerate("qkv")}
    return from_onnx(nodes, inputs, weights, "rope_by_table causal_attention")


# ---------------------------------------------------------------- norms


@case
def norms() -> Case:
    nodes = [
        node("LayerNormalization", ["x", "w", "b"], ["layer"]),
        node("RMSNormalization", ["x", "w"], ["rms"]),
    ]
    weights = {"w": random(67), "b": random(71)[:67].copy()}
    outputs = ["layer", "rms"]
    return from_onnx(nodes, {"x": random(19, 67)}, weights, "layer_norm rms_norm", outputs)


def residual(kind: str, uses: str) -> Case:
    """The sum goes on as well as its norm."""
    norm = ["t", "w", "b"] if kind == "LayerNormalization" else ["t", "w"]
    nodes = [
        node("Add", ["x", "r"], ["t"]),
        node(kind, norm, ["n"]),
        node("MatMul", ["n", "m"], ["p"]),
        node("Add", ["p", "t"], ["y"]),
    ]
    inputs = {"x": random(19, 67), "r": random(67, 19).T.copy()}
    weights = {"w": random(67), "b": random(71)[:67].copy(), "m": random(67, 67)}
    if kind != "LayerNormalization":
        del weights["b"]
    return from_onnx(nodes, inputs, weights, uses)


@case
def residual_layer_norm() -> Case:
    return residual("LayerNormalization", "residual_layer_norm matmul_bias")


@case
def residual_rms_norm() -> Case:
    return residual("RMSNormalization", "residual_rms_norm matmul_bias")


# ---------------------------------------------------------------- recurrences


def recurrence(kind: str, direction: str, uses: str, **how: Any) -> Case:
    """13 steps of a batch of 2, inputs of 11, hidden of 37."""
    ways = 2 if direction == "bidirectional" else 1
    gates = {"RNN": 1, "LSTM": 4, "GRU": 3}[kind] * 37
    outputs = ["y", "h", "c"] if kind == "LSTM" else ["y", "h"]
    nodes = [node(kind, ["x", "w", "r", "b"], outputs, hidden_size=37, direction=direction, **how)]
    weights = {
        "w": random(ways, gates, 11) * 0.5,
        "r": random(ways, gates, 37) * 0.3,
        "b": random(ways, 2 * gates) * 0.3,
    }
    return from_onnx(nodes, {"x": random(13, 2, 11)}, weights, uses, outputs, opset=22)


CELLS = {
    "RNN": "matmul rnn_cell",
    "LSTM": "matmul_bias lstm_cell",
    "GRU": "matmul_bias gru_cell gru_reset",
}
for kind_, cell in CELLS.items():
    for way in ("forward", "reverse", "bidirectional"):
        CASES[f"{kind_}_{way}"] = cache(partial(recurrence, kind_, way, cell))
CASES["GRU_linear"] = cache(
    lambda: recurrence("GRU", "forward", "gru_cell_linear", linear_before_reset=1)
)


# ---------------------------------------------------------------- by hand, against PyTorch


SHAPES = {"wq": (5, 3, 2, 7, 37), "wk": (5, 2, 7, 37), "wv": (5, 11, 37), "wo": (37, 5, 3, 11)}
"""Weights of 5 x 3 heads in groups: heads h, queries of one g, halves p, pairs i, values e."""


def decoder() -> Case:
    """Rotary attention: 11 tokens at once, then 12 one by one, with a cache of keys and values.
    What comes out is kept."""
    b = Builder("decoder")
    prompt = b.parameter("prompt", most=23, default=11)
    turn = b.parameter("turn", most=23, default=0, given=False)
    arrays = {name: random(*shape) * 0.3 for name, shape in SHAPES.items()}
    axes = {"wq": "h g p i d", "wk": "h p i d", "wv": "h e d", "wo": "d h g e"}
    w = {name: b.weight(name, axes[name], array) for name, array in arrays.items()}
    x = view(b.input("x", "n d", (23, 37)), {"n": "s"})
    angles = formulas.rope_angles("s", "i")
    q, k = (formulas.rope(dot(x, w[name], "d"), angles, "p") for name in ("wq", "wk"))
    keys = update(b.kept("keys", "t h p i", (23, 5, 2, 7)), k, {"t": "s"})
    values = update(b.kept("values", "t h e", (23, 5, 11)), dot(x, w["wv"], "d"), {"t": "s"})
    scores = formulas.causal(formulas.attention_scores(q, keys, "p i", 14**-0.5), "s", "t")
    mixed = dot(formulas.attend(scores, values, "t"), w["wo"], "h g e")
    out = update(b.kept("out", "n d", (23, 37)), mixed, {"n": "s"})
    parts = (
        (b.graph("prefill"), Count(), prompt),
        (b.graph("decode", Repeat("turn", Count(12))), prompt + turn, Count(1)),
    )
    for graph, start, length in parts:
        graph.axis("s", length, start=start, end=23)
        graph.axis("t", length + start, most=23)
        for kept in (keys, values, out):
            graph.update(kept)
    given = random(23, 37)
    expected = {"out": decoded(given, arrays)}
    return Case(b.model(), {"x": given}, expected, frozenset(["causal_flash_step"]))


def decoded(given: Array, arrays: Arrays) -> Array:
    """What `decoder` computes, by PyTorch: all tokens at once."""
    import torch

    angle = torch.arange(23)[:, None] * 10000.0 ** (-torch.arange(7) / 7)
    x, *rest = (torch.tensor(array) for array in (given, *arrays.values()))
    wq, wk, wv, wo = rest

    def turned(y: torch.Tensor) -> torch.Tensor:
        first, second = y[..., 0, :], y[..., 1, :]
        cos, sin = angle.cos(), angle.sin()
        return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)

    mixed = torch.nn.functional.scaled_dot_product_attention(
        turned(torch.einsum("sd,hgpid->hgspi", x, wq)).flatten(0, 1),
        turned(torch.einsum("sd,hpid->hspi", x, wk)),
        torch.einsum("sd,hed->hse", x, wv),
        is_causal=True,
        enable_gqa=True,
    )
    return np.asarray(torch.einsum("hgse,dhge->sd", mixed.reshape(5, 3, 23, 11), wo))


# ---------------------------------------------------------------- the tests


@pytest.mark.parametrize("machine", ["tiny", "edge", "cache"])
@pytest.mark.parametrize("name", CASES)
def test_all_engines_agree_with_onnxruntime(name: str, machine: str) -> None:
    agree(CASES[name](), machine)


@pytest.mark.torch
@pytest.mark.parametrize("machine", ["tiny", "edge", "cache"])
def test_all_engines_agree_with_pytorch(machine: str) -> None:
    pytest.importorskip("torch")
    agree(decoder(), machine)


def agree(given: Case, machine: str) -> None:
    """All engines compute what is expected; the compiler finds the instructions."""
    compiled = Loaded(given.model, REGISTRY).compile(MACHINES[machine])
    for backend in BACKENDS:
        found = compiled.run(backend, inputs=given.inputs, parameters=given.parameters)
        outputs = {key.rpartition("/")[2]: value for key, value in found.outputs.items()}
        outputs |= found.kept
        for key, values in given.expected.items():
            np.testing.assert_allclose(
                outputs[key], values, rtol=1e-4, atol=1e-5, err_msg=f"{key} by {backend}"
            )
    if machine == "cache":
        assert given.uses <= {opcode.instruction for opcode in compiled.program.opcodes}
