"""Whole networks as ONNX files that we and onnxruntime read, with random weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from onnx import NodeProto, helper
from torch.nn import functional

from ._contest import Array, Contest
from ._cpu_kernels import contest

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


def contests() -> Iterator[Callable[[], Contest]]:
    yield resnet50
