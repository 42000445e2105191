"""Blocks of networks as native code sees them: a few issues over whole tensors, without loops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infinisa.isa.machine import Machine
from infinisa.isa.program import Issue, Loop, statements
from infinisa.runtime.jit.rewriting.untiled import Meanings, untiled
from tests.compiler.everywhere import LIBRARY, MACHINES, agree_everywhere
from tests.compiler.readers.test_onnx import (
    assert_as_onnxruntime,
    made,
    named,
    node,
    random,
)
from tests.machines import CACHE

ACTIVATIONS: dict[str, Callable[[str, str], list[Any]]] = {
    "relu": lambda x, y: [node("Relu", x, y)],
    "relu6": lambda x, y: [node("Clip", f"{x} zero six", y)],
    "silu": lambda x, y: [node("Sigmoid", x, f"s{y}"), node("Mul", f"{x} s{y}", y)],
    "hard swish": lambda x, y: [node("HardSwish", x, y)],
}


def inverted(activation: str, channels: int, side: int, stride: int) -> Any:
    """A block of MobileNet: a convolution of 1 x 1, one channel by channel, one of 1 x 1."""
    follow = ACTIVATIONS[activation]
    nodes = [
        node("Conv", "x w1 b1", "v1"),
        *follow("v1", "a1"),
        node("Conv", "a1 w2 b2", "v2", group=channels, strides=[stride] * 2,
             pads=[side // 2] * 4),
        *follow("v2", "a2"),
        node("Conv", "a2 w3 b3", "y"),
    ]  # fmt: skip
    shapes = {
        "w1": (channels, 8, 1, 1), "b1": (channels,), "w2": (channels, 1, side, side),
        "b2": (channels,), "w3": (6, channels, 1, 1), "b3": (6,),
    }  # fmt: skip
    weights = {name: 0.5 * random(*shape) for name, shape in shapes.items()}
    numbers = {"zero": np.array(0, np.float32), "six": np.array(6, np.float32)}
    return made(nodes, {"x": (1, 8, 14, 14)}, ["y"], {**weights, **numbers})


def whole_issues(
    model: Any, shape: Sequence[int], folder: Path, machine: Machine = CACHE
) -> list[Issue | Loop]:
    """What native code runs of a model, once all backends compute what onnxruntime does."""
    inputs = {"x": random(*shape)}
    found = assert_as_onnxruntime(model, inputs, folder)
    done = agree_everywhere(found, machine, inputs=named(found, inputs))
    whole = untiled(done.program, Meanings(LIBRARY))
    stages = [stage for section in whole.sections for stage in section.stages]
    return [item for stage in stages for item in statements(stage.body)]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_blocks_channel_by_channel_have_no_loops(
    activation: str, stride: int, tmp_path: Path
) -> None:
    found = whole_issues(inverted(activation, 40, 3, stride), (1, 8, 14, 14), tmp_path)

    assert not any(isinstance(item, Loop) for item in found)
    assert len(found) <= 4


def test_work_number_by_number_is_one_issue(tmp_path: Path) -> None:
    """Sums and functions of one value, which is read once."""
    nodes = [
        node("Tanh", "x", "t"),
        node("Mul", "t x", "u"),
        node("Add", "u x", "v"),
        node("Abs", "v", "w"),
        node("Sub", "w x", "y"),
    ]
    (issue,) = whole_issues(made(nodes, {"x": (9, 40)}), (9, 40), tmp_path)

    assert isinstance(issue, Issue)
    assert [read.buffer for read in issue.reads] == ["x"]


def test_what_two_read_is_kept(tmp_path: Path) -> None:
    nodes = [node("Tanh", "x", "t"), node("Relu", "t", "y"), node("MatMul", "t w", "z")]
    model = made(nodes, {"x": (9, 40)}, ["y", "z"], {"w": random(40, 7)})

    assert len(whole_issues(model, (9, 40), tmp_path)) == 3


def test_work_at_one_place_of_a_window_stays_as_it_is(tmp_path: Path) -> None:
    """What is clipped is read by digits of an axis that a running sum goes along as a whole."""
    nodes = [
        node("Add", "x x", "u"),
        node("CumSum", "u one", "w"),
        node("Reshape", "u shape", "v"),
        node("Clip", "v low high", "y"),
        node("CumSum", "y none", "z"),
    ]
    weights = {
        "shape": np.array([3, 2]), "none": np.array(0), "one": np.array(1),
        "low": np.array(-1, np.float32), "high": np.array(2, np.float32),
    }  # fmt: skip
    model = made(nodes, {"x": (1, 6, 1, 1)}, ["y", "z"], weights)

    assert whole_issues(model, (1, 6, 1, 1), tmp_path, MACHINES["edge"])


@pytest.mark.parametrize("side", [2, 3])
def test_a_bias_of_each_channel_is_one_of_each_column(side: int, tmp_path: Path) -> None:
    """Columns of a transposed convolution are channels and places: the bias has channels only."""
    pads = {"pads": [1] * 4, "output_padding": [1] * 2} if side == 3 else {}
    nodes = [node("ConvTranspose", "x w b", "y", strides=[2, 2], **pads)]
    weights = {"w": random(16, 24, side, side), "b": random(24)}
    model = made(nodes, {"x": (1, 16, 8, 8)}, ["y"], weights)

    (issue,) = whole_issues(model, (1, 16, 8, 8), tmp_path)
    assert isinstance(issue, Issue)


def test_what_jumps_reads_what_is_rounded(tmp_path: Path) -> None:
    """0.7 * 10 - 7 is 0 in f32; without the product's rounding it is less, and its floor -1."""
    nodes = [node("Mul", "x ten", "p"), node("Sub", "p seven", "s"), node("Floor", "s", "y")]
    weights = {"ten": np.array(10, np.float32), "seven": np.array(7, np.float32)}
    model = made(nodes, {"x": (9, 40)}, ["y"], weights)
    inputs = {"x": np.full((9, 40), 0.7, np.float32)}
    found = assert_as_onnxruntime(model, inputs, tmp_path)

    agree_everywhere(found, CACHE, inputs=named(found, inputs))


def test_parts_of_a_tensor_are_computed_of_one_another_without_loops(tmp_path: Path) -> None:
    """Channels beside those that they follow from: windows go from one region to another."""
    nodes = [
        node("Conv", "x w", "a"),
        node("MaxPool", "a", "b", kernel_shape=[5, 5], pads=[2] * 4),
        node("Conv", "b v c", "d", group=40, pads=[1] * 4),
        node("Relu", "d", "e"),
        node("Concat", "a b e", "f", axis=1),
        node("Conv", "f u", "y"),
    ]
    weights = {
        "w": random(40, 8, 1, 1), "v": random(40, 1, 3, 3), "c": random(40),
        "u": random(6, 120, 1, 1),
    }  # fmt: skip
    model = made(nodes, {"x": (1, 8, 14, 14)}, ["y"], weights)

    found = whole_issues(model, (1, 8, 14, 14), tmp_path)
    assert not any(isinstance(item, Loop) for item in found)
    assert len(found) == 4
