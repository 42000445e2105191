"""Single layers on one thread: matrix products, rows, attention, recurrences, convolutions.

Each is an ONNX model of a node or two, which both we and onnxruntime read; only images with their
channels last are written in our own language, since ONNX has no such convolution.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from onnx import NodeProto, helper
from torch.nn import functional

from infinisa.compiler.builder import Builder
from infinisa.compiler.graph import Model
from infinisa.isa.language import dot, view

from ._contest import OURS, Array, Arrays, Call, Contest, difference, onnx_model, ours, runtime

SEED = 0
RUNTIME, TORCH, COMPILED, NUMPY = "onnxruntime", "torch", "torch.compile", "numpy"
STEPS = 100
"""Of a recurrence."""

Node = Callable[..., NodeProto]
node: Node = helper.make_node


def draw(*shape: int, scale: float = 1.0) -> Array:
    """Numbers that depend on the shape only."""
    source = np.random.default_rng([SEED, *shape])
    return source.standard_normal(shape, np.float32) * np.float32(scale)


def tensors(arrays: Arrays) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def contest(
    part: str,
    name: str,
    nodes: Sequence[NodeProto],
    inputs: Arrays,
    shape: Sequence[int],
    expected: Callable[[Mapping[str, torch.Tensor]], torch.Tensor],
    constants: Arrays | None = None,
    peers: Mapping[str, Call] | None = None,
    model: Model | None = None,
    **goals: Any,
) -> Contest:
    """The result is `y`; `goals` are the contest's own.

    expected  in double precision, from the arrays by name; on floats it is torch's part too
    model     ours, where ONNX cannot say it: of images with their channels last
    """
    given = {**inputs, **(constants or {})}
    file = onnx_model(nodes, inputs, {"y": shape}, constants or {})
    own = ours(file, inputs) if model is None else ours(model, channels_last(inputs))
    precise = {key: value.double() for key, value in tensors(given).items()}
    wanted = expected(precise).numpy()
    if model is not None:
        (wanted,) = channels_last({"y": wanted}).values()
    error = difference(next(iter(own.outputs.values())), wanted)
    single = tensors(given)
    calls: dict[str, Call] = {
        OURS: own.step,
        RUNTIME: runtime(file, inputs),
        TORCH: lambda: expected(single),
        **(peers or {}),
    }
    threaded: dict[str, Callable[[int], Call]] = {
        OURS: lambda n: ours(file, inputs, backend="parallel", threads=n).step,
        RUNTIME: lambda n: runtime(file, inputs, n),
        TORCH: lambda n: on_threads(n, lambda: expected(single)),
    }
    return Contest(
        part, name, calls, error=error, compiling=own.seconds, threaded=threaded, **goals
    )


def on_threads(number: int, call: Call) -> Call:
    """Torch's threads are those of a process."""
    torch.set_num_threads(number)
    return call


# ---------------------------------------------------------------- matrix products

SQUARE = {64: (1.6, 0.83), 128: (1.1, 0.93), 256: (1.0, 0.96), 512: (1.0, 0.94),
          1024: (1.0, 0.90), 2048: (1.0, 0.87)}  # fmt: skip
"""Constant weights: (of the best peer, of the peak)."""

LAYOUTS = ("NN", "NT", "TN", "TT")
THIN = {1: 1.15, 4: 1.2, 16: 1.1}
WIDE = (768, 2048, 4096)


def squares(sizes: Sequence[int]) -> Iterator[Callable[[], Contest]]:
    for size in sizes:
        ratio, share = SQUARE[size]
        yield partial(product, "matmul", size, size, size, ratio=ratio, share=share)


def product(part: str, m: int, k: int, n: int, **goals: Any) -> Contest:
    """With constant weights."""
    x, w = draw(m, k), draw(k, n)
    place = np.empty((m, n), np.float32)
    return contest(
        part,
        f"{m} x {k} x {n}, constant weights",
        [node("MatMul", ["x", "w"], ["y"])],
        {"x": x},
        (m, n),
        lambda t: torch.mm(t["x"], t["w"]),
        {"w": w},
        {NUMPY: lambda: np.matmul(x, w, out=place)},
        flops=2.0 * m * k * n,
        **goals,
    )


def thin() -> Iterator[Callable[[], Contest]]:
    for m, ratio in THIN.items():
        for width in WIDE:
            yield partial(product, "thin", m, width, width, ratio=ratio)


def vector(k: int, n: int) -> Contest:
    """A matrix that no cache holds, by a vector."""
    return product("matrix by vector", 1, k, n, read=4.0 * k * n, share=0.95)


def layouts(sizes: Sequence[int]) -> Iterator[Callable[[], Contest]]:
    for size in sizes:
        for layout in LAYOUTS:
            yield partial(transposed, size, layout)


def transposed(size: int, layout: str) -> Contest:
    """Both sides given when it runs."""
    a, b = (int(letter == "T") for letter in layout)
    x, w = draw(size, size), draw(size, size, scale=0.5)
    left, right = x.T if a else x, w.T if b else w
    place = np.empty((size, size), np.float32)
    return contest(
        "layouts",
        f"{size} x {size} x {size} {layout}",
        [node("Gemm", ["x", "w"], ["y"], transA=a, transB=b)],
        {"x": x, "w": w},
        (size, size),
        lambda t: torch.mm(t["x"].T if a else t["x"], t["w"].T if b else t["w"]),
        None,
        {NUMPY: lambda: np.matmul(left, right, out=place)},
        flops=2.0 * size**3,
        ratio=1.0,
    )


# ---------------------------------------------------------------- rows


def rows() -> Iterator[Callable[[], Contest]]:
    yield partial(rowwise, "softmax", (1024, 1024), "Softmax", _softmax, 1.15, axis=-1)
    yield partial(rowwise, "GELU, erf", (1024, 3072), "Gelu", functional.gelu, 2.2)
    tanh = partial(functional.gelu, approximate="tanh")
    yield partial(rowwise, "GELU, tanh", (1024, 3072), "Gelu", tanh, 2.2, approximate="tanh")
    yield partial(layer_norm, False, 2.0)
    yield partial(layer_norm, True, 1.7)


def _softmax(x: torch.Tensor) -> torch.Tensor:
    return torch.softmax(x, -1)


def rowwise(
    name: str,
    shape: Sequence[int],
    operator: str,
    function: Callable[[torch.Tensor], torch.Tensor],
    ratio: float,
    **attributes: object,
) -> Contest:
    x = draw(*shape)
    given = torch.from_numpy(x)
    return contest(
        "rows",
        f"{name} {' x '.join(map(str, shape))}",
        [node(operator, ["x"], ["y"], **attributes)],
        {"x": x},
        shape,
        lambda t: function(t["x"]),
        None,
        fused(function, given),
        ratio=ratio,
        copied=x.nbytes,
    )


def fused(function: Callable[[Any], torch.Tensor], given: Any) -> dict[str, Call]:
    """torch.compile, where there is a compiler of C++ for it."""
    if not any(map(shutil.which, ("g++", "clang++"))):
        return {}
    made = torch.compile(function)
    return {COMPILED: lambda: made(given)}


def layer_norm(residual: bool, ratio: float, rows: int = 1024, width: int = 768) -> Contest:
    inputs = {name: draw(rows, width) for name in ("x", "r")[: 1 + residual]}
    constants = {"scale": 1 + draw(width, scale=0.1), "bias": draw(width, scale=0.1)}

    def function(t: Mapping[str, torch.Tensor]) -> torch.Tensor:
        x = t["x"] + t["r"] if residual else t["x"]
        return functional.layer_norm(x, (width,), t["scale"], t["bias"])

    nodes = [node("Add", ["x", "r"], ["a"])] if residual else []
    norm = node("LayerNormalization", ["a" if residual else "x", "scale", "bias"], ["y"])
    return contest(
        "rows",
        f"{'residual and ' * residual}layer norm {rows} x {width}",
        [*nodes, norm],
        inputs,
        (rows, width),
        function,
        constants,
        fused(function, tensors({**inputs, **constants})),
        ratio=ratio,
        copied=inputs["x"].nbytes * (2 + residual) // 2,
    )


# ---------------------------------------------------------------- attention

HEADS = ((12, 12, 64), (32, 8, 128))
LENGTHS = {128: (1.5, None), 512: (2.1, None), 2048: (2.5, 0.75)}


def attentions(lengths: Sequence[int]) -> Iterator[Callable[[], Contest]]:
    for heads in HEADS:
        for length in lengths:
            yield partial(attention, *heads, length)


def attention(queries: int, keys: int, width: int, length: int) -> Contest:
    """Causal; several query heads share one of keys."""
    ratio, share = LENGTHS[length]
    inputs = {
        name: draw(1, heads, length, width)
        for name, heads in (("q", queries), ("k", keys), ("v", keys))
    }
    grouped = queries != keys

    def function(t: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return functional.scaled_dot_product_attention(
            t["q"], t["k"], t["v"], is_causal=True, enable_gqa=grouped
        )

    return contest(
        "attention",
        f"{queries} on {keys} heads of {width}, length {length}",
        [node("Attention", ["q", "k", "v"], ["y"], is_causal=1)],
        inputs,
        (1, queries, length, width),
        function,
        flops=2.0 * queries * length * length * width,
        ratio=ratio,
        share=share,
    )


# ---------------------------------------------------------------- recurrences

GATES = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2)}
"""Where ONNX has each gate of torch."""

RECURRENT = {
    "LSTM": {(128, 1): 1.35, (512, 1): 1.2, (128, 32): 1.15, (512, 32): 1.03},
    "GRU": {(128, 1): 1.25, (512, 1): 1.25, (128, 32): 1.25, (512, 32): 1.25},
}


def recurrences() -> Iterator[Callable[[], Contest]]:
    for kind, sizes in RECURRENT.items():
        for (hidden, batch), ratio in sizes.items():
            yield partial(recurrent, kind, hidden, batch, ratio)


def recurrent(kind: str, hidden: int, batch: int, ratio: float) -> Contest:
    torch.manual_seed(SEED)
    layer = getattr(torch.nn, kind)(hidden, hidden).eval()
    double = getattr(torch.nn, kind)(hidden, hidden).double().eval()
    double.load_state_dict({name: value.double() for name, value in layer.state_dict().items()})
    order = GATES[kind]

    def ordered(name: str) -> Array:
        whole: Array = getattr(layer, name).detach().numpy()
        parts = np.split(whole, len(order))
        return np.ascontiguousarray(np.concatenate([parts[gate] for gate in order])[None])

    bias = np.concatenate([ordered("bias_ih_l0"), ordered("bias_hh_l0")], 1)
    weights = {"w": ordered("weight_ih_l0"), "r": ordered("weight_hh_l0"), "b": bias}
    more = {"linear_before_reset": 1} if kind == "GRU" else {}

    def function(t: Mapping[str, torch.Tensor]) -> torch.Tensor:
        x = t["x"]
        found: torch.Tensor = (double if x.dtype is torch.float64 else layer)(x)[0]
        return found

    return contest(
        "recurrent",
        f"{kind} hidden {hidden}, batch {batch}, {STEPS} steps",
        [node(kind, ["x", "w", "r", "b"], ["y"], hidden_size=hidden, **more)],
        {"x": draw(STEPS, batch, hidden, scale=0.5)},
        (STEPS, 1, batch, hidden),
        function,
        weights,
        flops=4.0 * len(order) * hidden * hidden * batch * STEPS,
        ratio=ratio,
    )


# ---------------------------------------------------------------- convolutions

CONVOLUTIONS = (
    (224, 3, 64, 7, 2), (56, 64, 64, 1, 1), (56, 64, 64, 3, 1), (56, 64, 256, 1, 1),
    (56, 256, 64, 1, 1), (56, 128, 128, 3, 2), (56, 256, 512, 1, 2), (28, 512, 128, 1, 1),
    (28, 128, 128, 3, 1), (28, 256, 256, 3, 2), (14, 1024, 256, 1, 1), (14, 256, 256, 3, 1),
    (14, 256, 1024, 1, 1), (14, 512, 512, 3, 2), (7, 2048, 512, 1, 1), (7, 512, 512, 3, 1),
)  # fmt: skip
"""Of ResNet-50: (side of the image, channels, results, side of the window, stride)."""


def convolutions(last: bool) -> Iterator[Callable[[], Contest]]:
    for shape in CONVOLUTIONS:
        yield partial(convolution, *shape, last)


def convolution(
    side: int, channels: int, results: int, window: int, stride: int, last: bool
) -> Contest:
    """One image, its channels first or last."""
    x = draw(1, channels, side, side)
    w = draw(results, channels, window, window, scale=0.1)
    padding = (window - 1) // 2
    out = (side + 2 * padding - window) // stride + 1
    return contest(
        "convolution",
        f"{side} x {side} x {channels} to {results}, {window} x {window} / {stride}, "
        f"channels {'last' if last else 'first'}",
        [node("Conv", ["x", "w"], ["y"], strides=[stride] * 2, pads=[padding] * 4)],
        {"x": x},
        (1, results, out, out),
        partial(_convolved, stride=stride, padding=padding),
        {"w": w},
        model=window_model(x, w, stride, padding, out) if last else None,
        flops=2.0 * out * out * results * channels * window * window,
        ratio=1.03 if last else 0.95,
    )


def _convolved(t: Mapping[str, torch.Tensor], stride: int, padding: int) -> torch.Tensor:
    return functional.conv2d(t["x"], t["w"], stride=stride, padding=padding)


def channels_last(images: Arrays) -> dict[str, Array]:
    moved = {name: np.moveaxis(image, 1, -1) for name, image in images.items()}
    return {name: np.ascontiguousarray(image) for name, image in moved.items()}


def window_model(x: Array, w: Array, stride: int, padding: int, out: int) -> Model:
    """The same convolution of an image with its channels last."""
    b = Builder("convolution")
    for axis in "pq":
        b.axis(axis, out)
    image = b.input("x", "b h w c", np.moveaxis(x, 1, -1).shape)
    weight = b.weight("weight", "r s c o", np.ascontiguousarray(w.transpose(2, 3, 1, 0)))
    index = {"h": f"{stride}*p + r - {padding}", "w": f"{stride}*q + s - {padding}"}
    windows = view(image, index, fill=0.0 if padding else None)
    b.graph("main").output("y", dot(windows, weight, "r s c"))
    return b.model()
