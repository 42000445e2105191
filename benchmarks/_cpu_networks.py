"""Whole networks as ONNX files that we and onnxruntime read, with random weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
import onnxruntime
from onnx import NodeProto, TensorProto, helper
from torch.nn import functional

from ._contest import OURS, Array, Contest, onnx_model, ours, runtime
from ._cpu_kernels import RUNTIME, contest

SEED = 0
BLOCKS = ((64, 3), (128, 4), (256, 6), (512, 3))
"""Of ResNet-50: (channels inside of a block, blocks); four times as many come out."""

CLASSES = 1000
Tensors = Mapping[str, torch.Tensor]


@dataclass
class Network:
    """An ONNX graph under construction, and the same in torch, step by step."""

    constants: dict[str, Array] = field(default_factory=dict)
    nodes: list[NodeProto] = field(default_factory=list)
    steps: list[Callable[[dict[str, torch.Tensor]], None]] = field(default_factory=list)
    source: np.random.Generator = field(default_factory=lambda: np.random.default_rng(SEED))
    flops: float = 0.0

    def weight(self, *shape: int, fan: int) -> str:
        name = f"w{len(self.constants)}"
        drawn = self.source.standard_normal(shape, np.float32)
        self.constants[name] = drawn * np.float32((2 / fan) ** 0.5)
        return name

    def add(
        self,
        operator: str,
        inputs: list[str],
        function: Callable[..., torch.Tensor],
        **attributes: object,
    ) -> str:
        """The value of a node."""
        name = f"{operator}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name, **attributes))

        def step(values: dict[str, torch.Tensor]) -> None:
            values[name] = function(*(values[given] for given in inputs))

        self.steps.append(step)
        return name

    def result(self, given: Tensors, last: str) -> torch.Tensor:
        """What torch makes of inputs and constants."""
        values = dict(given)
        for step in self.steps:
            step(values)
        return values[last]

    def convolution(self, x: str, size: tuple[int, int, int], window: int, stride: int) -> str:
        """`size`: (side of the result, channels, results). A batch norm is in weight and bias."""
        side, channels, results = size
        pad, fan = window // 2, channels * window * window
        w = self.weight(results, channels, window, window, fan=fan)
        b = self.weight(results, fan=200)
        self.flops += 2.0 * side * side * results * fan
        return self.add("Conv", [x, w, b], partial(functional.conv2d, stride=stride, padding=pad),
                        strides=[stride] * 2, pads=[pad] * 4)  # fmt: skip

    def relu(self, x: str) -> str:
        return self.add("Relu", [x], torch.relu)


def resnet50() -> Contest:
    """One image of 224 x 224."""
    net = Network()
    x = net.relu(net.convolution("x", (112, 3, 64), 7, 2))
    pool = partial(functional.max_pool2d, kernel_size=3, stride=2, padding=1)
    x = net.add("MaxPool", [x], pool, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    channels, side = 64, 56
    for number, (inside, blocks) in enumerate(BLOCKS):
        for block in range(blocks):
            stride = 2 if number and not block else 1
            before, side = side, side // stride
            short = x if block else net.convolution(x, (side, channels, 4 * inside), 1, stride)
            y = net.relu(net.convolution(x, (before, channels, inside), 1, 1))
            y = net.relu(net.convolution(y, (side, inside, inside), 3, stride))
            y = net.convolution(y, (side, inside, 4 * inside), 1, 1)
            x = net.relu(net.add("Add", [y, short], torch.add))
            channels = 4 * inside
    x = net.add("GlobalAveragePool", [x], partial(functional.adaptive_avg_pool2d, output_size=1))
    x = net.add("Flatten", [x], partial(torch.flatten, start_dim=1))
    net.flops += 2.0 * channels * CLASSES
    w, b = net.weight(CLASSES, channels, fan=channels), net.weight(CLASSES, fan=200)
    net.nodes.append(helper.make_node("Gemm", [x, w, b], ["y"], transB=1))
    image = net.source.standard_normal((1, 3, 224, 224), np.float32)

    def function(given: Tensors) -> torch.Tensor:
        return functional.linear(net.result(given, x), given[w], given[b])

    return contest(
        "networks",
        "ResNet-50, one image",
        net.nodes,
        {"x": image},
        (1, CLASSES),
        function,
        net.constants,
        flops=net.flops,
        ratio=1.1,
    )


# ---------------------------------------------------------------- LAC

WORDS, WIDTH, HIDDEN, TAGS = 20940, 128, 128, 57
"""Characters known, numbers of each, of a recurrence one way, tags (arXiv 1807.01882)."""


def lac(characters: int) -> Contest:
    """Chinese characters to tags: two layers of GRUs both ways, the best path through scores."""
    source = np.random.default_rng(SEED)
    constants: dict[str, Array] = {}

    def weight(name: str, *shape: int, scale: float) -> str:
        constants[name] = source.standard_normal(shape, np.float32) * np.float32(scale)
        return name

    def whole(name: str, *numbers: int) -> str:
        constants[name] = np.array(numbers, np.int64)
        return name

    node = helper.make_node
    nodes = [node("Gather", [weight("words", WORDS, WIDTH, scale=1.0), "ids"], ["x0"])]
    rows = whole("rows", characters, 1, -1)
    nodes.append(node("Reshape", ["x0", rows], ["h0"]))
    for layer, width in enumerate((WIDTH, 2 * HIDDEN)):
        parts = [
            weight(f"{part}{layer}", 2, *shape, scale=0.1)
            for part, shape in (("w", (3 * HIDDEN, width)), ("r", (3 * HIDDEN, HIDDEN)),
                                ("b", (6 * HIDDEN,)))
        ]  # fmt: skip
        nodes += [
            node("GRU", [f"h{layer}", *parts], [f"g{layer}"], hidden_size=HIDDEN,
                 direction="bidirectional", linear_before_reset=1),
            node("Transpose", [f"g{layer}"], [f"t{layer}"], perm=[0, 2, 1, 3]),
            node("Reshape", [f"t{layer}", rows], [f"h{layer + 1}"]),
        ]  # fmt: skip
    nodes += [
        node("Reshape", ["h2", whole("flat", characters, 2 * HIDDEN)], ["features"]),
        node("Gemm", ["features", weight("out", 2 * HIDDEN, TAGS, scale=0.3),
                      weight("outb", TAGS, scale=0.3)], ["scores"]),
    ]  # fmt: skip
    nodes += viterbi(weight, whole)
    ids = source.integers(0, WORDS, characters)
    inputs = {"ids": ids}
    file = onnx_model(nodes, inputs, {"y": (characters,)}, constants, np.int64)
    own = ours(file, inputs)
    peer = runtime(file, inputs)
    (found,) = own.outputs.values()
    reference = onnxruntime.InferenceSession(
        file.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (expected,) = reference.run(None, inputs)
    return Contest(
        "networks",
        f"LAC, {characters} characters",
        {OURS: own.step, RUNTIME: peer},
        error=float(np.mean(found != expected)),
        compiling=own.seconds,
        ratio=2.0,
    )


def viterbi(weight: Callable[..., str], whole: Callable[..., str]) -> list[NodeProto]:
    """Scans: the best sums of scores and transitions and where they came from; the way back."""
    node, value = helper.make_node, helper.make_tensor_value_info
    moves = weight("moves", TAGS, TAGS, scale=0.3)
    floats, numbers = TensorProto.FLOAT, TensorProto.INT64
    forward = helper.make_graph(
        [
            node("Unsqueeze", ["best", "one"], ["column"]),
            node("Add", ["column", moves], ["sums"]),
            node("ReduceMax", ["sums", "zero"], ["most"], keepdims=0),
            node("ArgMax", ["sums"], ["came"], axis=0, keepdims=0),
            node("Add", ["most", "score"], ["next"]),
        ],
        "forward",
        [value("best", floats, [TAGS]), value("score", floats, [TAGS])],
        [value("next", floats, [TAGS]), value("came", numbers, [TAGS])],
    )
    back = helper.make_graph(
        [
            node("Gather", ["from", "tag"], ["before"], axis=0),
            node("Identity", ["tag"], ["here"]),
        ],
        "back",
        [value("tag", numbers, [1]), value("from", numbers, [TAGS])],
        [value("before", numbers, [1]), value("here", numbers, [1])],
    )
    whole("zero", 0), whole("one", 1)
    return [
        node("Scan", [weight("start", TAGS, scale=0.3), "scores"], ["ends", "came_from"],
             body=forward, num_scan_inputs=1),
        node("ArgMax", ["ends"], ["end"], axis=0, keepdims=1),
        node("Scan", ["end", "came_from"], ["first", "path"], body=back, num_scan_inputs=1,
             scan_input_directions=[1], scan_output_directions=[1]),
        node("Reshape", ["path", whole("all", -1)], ["y"]),
    ]  # fmt: skip


def contests() -> Iterator[Callable[[], Contest]]:
    yield resnet50
    yield partial(lac, 32)
    yield partial(lac, 128)
