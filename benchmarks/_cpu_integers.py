"""Products with weights in fewer bits, and with both sides in integers, on one thread.

onnxruntime's side is DynamicQuantizeLinear and MatMulInteger, which it fuses; torch's is its
dynamic quantised layer. Both round activations with one step for all rows, ours row by row.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from infinisa.runtime.accuracy import Difference

from ._contest import IR_VERSION, OPSET, OURS, Array, Call, Contest, onnx_model, ours, runtime
from ._cpu_kernels import NUMPY, RUNTIME, TORCH, draw, node

PART = "integers"
SQUARE = (256, 512, 1024)
LAYERS = ((128, 768, 3072), (128, 3072, 768), (16, 768, 3072), (1, 768, 3072))
FROM_MEMORY = (4096, 16384)
READ = {"int8": 0.95, "int8/32": 0.95, "int4/32": 0.90}
"""The share of the rate of reading, a matrix by a vector."""

BYTES = {"int8": 1.0, "int8/32": 1 + 2 / 32, "int4/32": 0.5 + 2 / 32}
"""Of a weight, with its part of a factor."""


def contests() -> Iterator[Callable[[], Contest]]:
    for shape in (*((n, n, n) for n in SQUARE), *LAYERS):
        yield partial(both, *shape)
    for weights in READ:
        yield partial(read, weights, *FROM_MEMORY)


def product(m: int, k: int, n: int) -> tuple[onnx.ModelProto, Array, Array]:
    """(the model, x, w)"""
    x, w = draw(m, k), draw(k, n)
    return onnx_model([node("MatMul", ["x", "w"], ["y"])], {"x": x}, {"y": (m, n)}, {"w": w}), x, w


def both(m: int, k: int, n: int) -> Contest:
    """Weights and activations in int8. The share is of the f32 peak."""
    model, x, w = product(m, k, n)
    own = ours(model, {"x": x}, weights="int8", activations="int8")
    expected = x.astype(np.float64) @ w
    peers = {RUNTIME: runtime(integer_model(w, m), {"x": x}), **torch_layer(x, w)}
    return Contest(
        PART,
        f"{m} x {k} x {n}, int8 by int8",
        {OURS: own.step, **peers},
        flops=2.0 * m * k * n,
        ratio=1.0,
        error=Difference.of(own.outputs["y"], expected).rms,
        compiling=own.seconds,
    )


def read(weights: str, k: int, n: int) -> Contest:
    """A matrix that no cache holds, by a vector of f32."""
    model, x, w = product(1, k, n)
    own = ours(model, {"x": x}, weights=weights)
    place = np.empty((1, n), np.float32)
    return Contest(
        PART,
        f"1 x {k} x {n}, weights in {weights}",
        {OURS: own.step, f"{NUMPY}, f32": lambda: np.matmul(x, w, out=place)},
        read=BYTES[weights] * k * n,
        share=READ[weights],
        error=Difference.of(own.outputs["y"], x.astype(np.float64) @ w).rms,
        compiling=own.seconds,
    )


def integer_model(w: Array, m: int) -> onnx.ModelProto:
    """x by w in integers, a factor a column."""
    factors = np.abs(w).max(0) / np.float32(127)
    constants: Mapping[str, Array] = {
        "w8": np.rint(w / factors).astype(np.int8),
        "factors": factors.astype(np.float32),
    }
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["x8", "step", "zero"]),
        node("MatMulInteger", ["x8", "w8", "zero"], ["sums"]),
        node("Cast", ["sums"], ["whole"], to=TensorProto.FLOAT),
        node("Mul", ["step", "factors"], ["by"]),
        node("Mul", ["whole", "by"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "integers",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (m, len(w)))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (m, w.shape[1]))],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opset = helper.make_opsetid("", OPSET)
    return helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)


def torch_layer(x: Array, w: Array) -> dict[str, Call]:
    """A layer of torch.ao.nn.quantized.dynamic, a factor a column."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is to move to another package
        dynamic: Any = importlib.import_module("torch.ao.nn.quantized.dynamic")

        rows = torch.from_numpy(np.ascontiguousarray(w.T))
        factors = rows.abs().amax(1).double() / 127
        zeros = torch.zeros(len(factors), dtype=torch.int64)
        stored = torch.quantize_per_channel(rows, factors, zeros, 0, torch.qint8)
        layer = dynamic.Linear(w.shape[0], w.shape[1], False)
        layer.set_weight_bias(stored, None)
    given = torch.from_numpy(x)
    return {TORCH: lambda: layer(given)}
