"""Whole networks as ONNX files that we and onnxruntime read, with random weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import onnxruntime
import torch
from onnx import GraphProto, NodeProto, TensorProto, helper
from torch.nn import functional

from ._contest import OURS, Array, Contest, onnx_model, ours, runtime
from ._cpu_kernels import RUNTIME, contest

SEED = 0
BLOCKS = ((64, 3), (128, 4), (256, 6), (512, 3))
"""Of ResNet-50: (channels inside of a block, blocks); four times as many come out."""

CLASSES = 1000

Stage = tuple[int, int, int, bool, bool, int]
"""Of blocks that go channel by channel: side of the window, channels inside of the block, channels
that come out, whether channels are weighed (squeeze and excitation), whether it is of the deeper
half, which has another activation, stride."""

MOBILE_V2: list[Stage] = [
    (3, inside, out, False, True, stride)
    for inside, out, stride in (
        (32, 16, 1), (96, 24, 2), (144, 24, 1), (144, 32, 2), (192, 32, 1), (192, 32, 1),
        (192, 64, 2), (384, 64, 1), (384, 64, 1), (384, 64, 1), (384, 96, 1), (576, 96, 1),
        (576, 96, 1), (576, 160, 2), (960, 160, 1), (960, 160, 1), (960, 320, 1),
    )
]  # fmt: skip
"""Of MobileNet V2 (arXiv 1801.04381, table 2)."""

MOBILE_V3: list[Stage] = [
    (3, 16, 16, False, False, 1), (3, 64, 24, False, False, 2), (3, 72, 24, False, False, 1),
    (5, 72, 40, True, False, 2), (5, 120, 40, True, False, 1), (5, 120, 40, True, False, 1),
    (3, 240, 80, False, True, 2), (3, 200, 80, False, True, 1), (3, 184, 80, False, True, 1),
    (3, 184, 80, False, True, 1), (3, 480, 112, True, True, 1), (3, 672, 112, True, True, 1),
    (5, 672, 160, True, True, 2), (5, 960, 160, True, True, 1), (5, 960, 160, True, True, 1),
]  # fmt: skip
"""Of MobileNet V3 Large (arXiv 1905.02244, table 1)."""
PROVIDER = "CPUExecutionProvider"
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
        **attributes: Any,
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


# ---------------------------------------------------------------- channel by channel


@dataclass
class Mobile(Network):
    """A network of blocks that convolve channel by channel."""

    def relu6(self, x: str) -> str:
        for name, number in (("zero", 0.0), ("six", 6.0)):
            self.constants[name] = np.array(number, np.float32)
        return self.add("Clip", [x, "zero", "six"], torch.clamp)

    def hard_swish(self, x: str) -> str:
        return self.add("HardSwish", [x], functional.hardswish)

    def channelwise(self, x: str, side: int, channels: int, window: int, stride: int) -> str:
        w = self.weight(channels, 1, window, window, fan=window * window)
        b, pad = self.weight(channels, fan=200), window // 2
        self.flops += 2.0 * side * side * channels * window * window
        function = partial(functional.conv2d, stride=stride, padding=pad, groups=channels)
        return self.add("Conv", [x, w, b], function, strides=[stride] * 2, pads=[pad] * 4,
                        group=channels)  # fmt: skip

    def mean(self, x: str) -> str:
        pool = partial(functional.adaptive_avg_pool2d, output_size=1)
        return self.add("GlobalAveragePool", [x], pool)

    def weighed(self, x: str, channels: int) -> str:
        """Each channel times what follows from the means of all."""
        few = channels // 4
        y = self.relu(self.convolution(self.mean(x), (1, channels, few), 1, 1))
        y = self.convolution(y, (1, few, channels), 1, 1)
        y = self.add("HardSigmoid", [y], functional.hardsigmoid, alpha=1 / 6, beta=0.5)
        return self.add("Mul", [x, y], torch.mul)

    def linear(self, x: str, channels: int, results: int) -> str:
        w, b = self.weight(results, channels, fan=channels), self.weight(results, fan=200)
        self.flops += 2.0 * channels * results
        return self.add("Gemm", [x, w, b], functional.linear, transB=1)


def mobile(
    name: str,
    activation: Callable[[Mobile, str], str],
    first: int,
    stages: Sequence[Stage],
    heads: Sequence[int],
) -> Contest:
    """One image of 224 x 224.

    activation  of the first convolution and of the deeper half; else it is ReLU
    heads       widths behind the blocks: of a convolution, and before the classes
    """
    net = Mobile()
    deep = partial(activation, net)
    x = deep(net.convolution("x", (112, 3, first), 3, 2))
    channels, side = first, 112
    for window, inside, out, weighs, late, stride in stages:
        before, side, y, function = side, side // stride, x, deep if late else net.relu
        if inside != channels:
            y = function(net.convolution(y, (before, channels, inside), 1, 1))
        y = function(net.channelwise(y, side, inside, window, stride))
        y = net.weighed(y, inside) if weighs else y
        y = net.convolution(y, (side, inside, out), 1, 1)
        x = net.add("Add", [x, y], torch.add) if (stride, channels) == (1, out) else y
        channels = out
    wide, *more = heads
    x = net.mean(deep(net.convolution(x, (side, channels, wide), 1, 1)))
    x = net.add("Flatten", [x], partial(torch.flatten, start_dim=1))
    for width in more:
        x, wide = deep(net.linear(x, wide, width)), width
    x = net.linear(x, wide, CLASSES)
    net.nodes[-1].output[0] = "y"
    image = net.source.standard_normal((1, 3, 224, 224), np.float32)
    return contest(
        "networks", f"{name}, one image", net.nodes, {"x": image}, (1, CLASSES),
        lambda given: net.result(given, x), net.constants, flops=net.flops,
    )  # fmt: skip


# ---------------------------------------------------------------- LAC

WORDS, WIDTH, HIDDEN, TAGS = 20940, 128, 128, 57
"""Characters known, numbers of each, of a recurrence one way, tags (arXiv 1807.01882)."""


@dataclass
class Tagger:
    """LAC as ONNX nodes, over so many characters."""

    characters: int
    constants: dict[str, Array] = field(default_factory=dict)
    source: np.random.Generator = field(default_factory=lambda: np.random.default_rng(SEED))

    def weight(self, name: str, *shape: int, scale: float = 0.3) -> str:
        drawn = self.source.standard_normal(shape, np.float32)
        self.constants[name] = drawn * np.float32(scale)
        return name

    def whole(self, name: str, *numbers: int) -> str:
        self.constants[name] = np.array(numbers, np.int64)
        return name

    def scores(self) -> list[NodeProto]:
        """A score for every character and tag, from `ids`."""
        node, rows = helper.make_node, self.whole("rows", self.characters, 1, -1)
        nodes = [
            node("Gather", [self.weight("words", WORDS, WIDTH, scale=1.0), "ids"], ["x"]),
            node("Reshape", ["x", rows], ["h0"]),
        ]
        for layer, width in enumerate((WIDTH, 2 * HIDDEN)):
            w = self.weight(f"w{layer}", 2, 3 * HIDDEN, width, scale=0.1)
            r = self.weight(f"r{layer}", 2, 3 * HIDDEN, HIDDEN, scale=0.1)
            b = self.weight(f"b{layer}", 2, 6 * HIDDEN, scale=0.1)
            nodes += [
                node("GRU", [f"h{layer}", w, r, b], [f"g{layer}"], hidden_size=HIDDEN,
                     direction="bidirectional", linear_before_reset=1),
                node("Transpose", [f"g{layer}"], [f"t{layer}"], perm=[0, 2, 1, 3]),
                node("Reshape", [f"t{layer}", rows], [f"h{layer + 1}"]),
            ]  # fmt: skip
        last, bias = self.weight("out", 2 * HIDDEN, TAGS), self.weight("bias", TAGS)
        flat = self.whole("flat", self.characters, 2 * HIDDEN)
        nodes.append(node("Reshape", ["h2", flat], ["features"]))
        return [*nodes, node("Gemm", ["features", last, bias], ["scores"])]

    def path(self) -> list[NodeProto]:
        """The best path through the scores: sums and where they came from, and the way back."""
        node = helper.make_node
        start, every = self.weight("start", TAGS), self.whole("every", -1)
        return [
            node("Scan", [start, "scores"], ["ends", "came_from"],
                 body=self.forward(), num_scan_inputs=1),
            node("ArgMax", ["ends"], ["end"], axis=0, keepdims=1),
            node("Scan", ["end", "came_from"], ["first", "path"], body=self.back(),
                 num_scan_inputs=1, scan_input_directions=[1], scan_output_directions=[1]),
            node("Reshape", ["path", every], ["y"]),
        ]  # fmt: skip

    def forward(self) -> GraphProto:
        node, value = helper.make_node, helper.make_tensor_value_info
        moves = self.weight("moves", TAGS, TAGS)
        zero, one = self.whole("zero", 0), self.whole("one", 1)
        nodes = [
            node("Unsqueeze", ["best", one], ["column"]),
            node("Add", ["column", moves], ["sums"]),
            node("ReduceMax", ["sums", zero], ["most"], keepdims=0),
            node("ArgMax", ["sums"], ["came"], axis=0, keepdims=0),
            node("Add", ["most", "score"], ["next"]),
        ]
        given = [value(name, TensorProto.FLOAT, [TAGS]) for name in ("best", "score")]
        made = [value("next", TensorProto.FLOAT, [TAGS]), value("came", TensorProto.INT64, [TAGS])]
        return helper.make_graph(nodes, "forward", given, made)

    def back(self) -> GraphProto:
        node, value = helper.make_node, helper.make_tensor_value_info
        nodes = [
            node("Gather", ["from", "tag"], ["before"], axis=0),
            node("Identity", ["tag"], ["here"]),
        ]
        given = [value("tag", TensorProto.INT64, [1]), value("from", TensorProto.INT64, [TAGS])]
        made = [value(name, TensorProto.INT64, [1]) for name in ("before", "here")]
        return helper.make_graph(nodes, "back", given, made)


def lac(characters: int) -> Contest:
    """Chinese characters to tags: two layers of GRUs both ways, the best path through scores.

    The error is the share of tags that onnxruntime finds otherwise.
    """
    net = Tagger(characters)
    nodes = [*net.scores(), *net.path()]
    inputs = {"ids": net.source.integers(0, WORDS, characters)}
    file = onnx_model(nodes, inputs, {"y": (characters,)}, net.constants, np.int64)
    own, peer = ours(file, inputs), runtime(file, inputs)
    (found,) = own.outputs.values()
    other = onnxruntime.InferenceSession(file.SerializeToString(), providers=[PROVIDER])
    (expected,) = other.run(None, inputs)
    return Contest(
        "networks",
        f"LAC, {characters} characters",
        {OURS: own.step, RUNTIME: peer},
        error=float(np.mean(found != expected)),
        compiling=own.seconds,
        ratio=2.0,
    )


def contests() -> Iterator[Callable[[], Contest]]:
    yield resnet50
    yield partial(mobile, "MobileNet V2", Mobile.relu6, 32, MOBILE_V2, (1280,))
    yield partial(mobile, "MobileNet V3 Large", Mobile.hard_swish, 16, MOBILE_V3, (960, 1280))
    yield partial(lac, 32)
    yield partial(lac, 128)
