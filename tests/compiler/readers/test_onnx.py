"""ONNX files: what they compute, held to onnxruntime and the format's own tests, and refusals."""

import copy
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402  # after the skip

from infinisa.compiler.graph import Model  # noqa: E402  # after the skip
from infinisa.compiler.positional.operator import Operator, operator  # noqa: E402  # after the skip
from infinisa.compiler.positional.tensor import Tensor, each  # noqa: E402  # after the skip
from infinisa.compiler.readers.onnx import read  # noqa: E402  # after the skip
from infinisa.isa.errors import ModelError  # noqa: E402  # after the skip
from infinisa.isa.evaluate import Range, evaluate  # noqa: E402  # after the skip
from infinisa.isa.language import Dot, tanh, walk  # noqa: E402  # after the skip
from infinisa.plugins.manager import load  # noqa: E402  # after the skip
from tests.compiler.everywhere import (  # noqa: E402  # after the skip
    MACHINES,
    agree_everywhere,
    instructions,
)
from tests.machines import CACHE  # noqa: E402  # after the skip

Array = NDArray[Any]
Arrays = Mapping[str, Array]

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


@cache
def operators() -> list[Operator]:
    return [found.item for found in load(installed=False).operators.values()]


def outputs(model: Model, inputs: Arrays) -> list[Array]:
    """The outputs of a model as its file numbers them."""
    (graph,) = model.graphs
    arrays = {name: weight.load() for name, weight in model.weights.items()}
    for name, (leaf, shape) in model.inputs.items():
        arrays[name] = model.layouts[name].named(inputs[name], leaf.axes)
        assert arrays[name].shape == shape
    ranges = {extent.axis: Range(0, extent.most) for extent in graph.extents}
    found = evaluate(list(graph.outputs.values()), arrays, ranges=ranges)
    return [
        model.layouts[name].positional(value, node.axes)
        for (name, node), value in zip(graph.outputs.items(), found, strict=True)
    ]


def saved(model: Any, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def made(
    nodes: Sequence[Any],
    inputs: Mapping[str, Sequence[int | str]],
    results: Sequence[str] = ("y",),
    weights: Arrays | None = None,
    opset: int = 20,
    types: Mapping[str, int] | None = None,
) -> Any:
    """A model of nodes; inputs are f32 unless `types` says otherwise."""
    kinds = types or {}
    return helper.make_model(
        helper.make_graph(
            nodes,
            "test",
            [helper.make_tensor_value_info(n, kinds.get(n, FLOAT), s) for n, s in inputs.items()],
            [helper.make_tensor_value_info(n, kinds.get(n, FLOAT), None) for n in results],
            [numpy_helper.from_array(v, n) for n, v in (weights or {}).items()],
        ),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=10,
    )


def node(kind: str, inputs: str, results: str = "y", **attributes: Any) -> Any:
    name = f"{kind.lower()}.{results.split()[0]}"
    return helper.make_node(kind, inputs.split(), results.split(), name=name, **attributes)


def random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def assert_as_onnxruntime(model: Any, inputs: Arrays, folder: Path) -> Model:
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = runtime.InferenceSession(model.SerializeToString(), options)
    found = read(saved(model, folder), operators())
    for value, wanted in zip(outputs(found, inputs), session.run(None, inputs), strict=True):
        assert value.shape == wanted.shape
        assert value.dtype == wanted.dtype
        scale = max(1e-6, float(np.abs(wanted).max(initial=0)))
        np.testing.assert_allclose(value / scale, wanted / scale, atol=1e-4)
    return found


# ---------------------------------------------------------------- models


def attention_nodes(heads: int) -> list[Any]:
    """One layer of a causal transformer as exporters write it: one product for q, k and v."""
    return [
        node("LayerNormalization", "x g b", "n", epsilon=1e-5),
        node("MatMul", "n wqkv", "m"),
        node("Add", "m bqkv", "qkv"),
        node("Split", "qkv", "q0 k0 v0", axis=2, num_outputs=3),
        *(node("Reshape", f"{t}0 heads", f"{t}1") for t in "qkv"),
        node("Transpose", "q1", "q", perm=[0, 2, 1, 3]),
        node("Transpose", "k1", "k", perm=[0, 2, 3, 1]),
        node("Transpose", "v1", "v", perm=[0, 2, 1, 3]),
        node("MatMul", "q k", "s0"),
        node("Mul", "s0 scale", "s1"),
        node("Add", "s1 mask", "s2"),
        node("Softmax", "s2", "p", axis=-1),
        node("MatMul", "p v", "o0"),
        node("Transpose", "o0", "o1", perm=[0, 2, 1, 3]),
        node("Reshape", "o1 flat", "o2"),
        node("MatMul", "o2 wo", "o"),
        node("Add", "x o", "y"),
    ]


def attention_model() -> Any:
    width, heads, tokens = 12, 3, 5
    weights = {
        "g": random(width),
        "b": random(width, seed=1),
        "wqkv": random(width, 3 * width, seed=2),
        "bqkv": random(3 * width, seed=3),
        "wo": random(width, width, seed=4),
        "scale": np.asarray(0.5, np.float32),
        "mask": np.triu(np.full((1, 1, tokens, tokens), -3.4e38, np.float32), 1),
        "heads": np.array([0, 0, heads, -1]),
        "flat": np.array([0, 0, -1]),
    }
    return made(attention_nodes(heads), {"x": [2, tokens, width]}, weights=weights)


def test_a_layer_of_a_transformer(tmp_path: Path) -> None:
    model = assert_as_onnxruntime(attention_model(), {"x": random(2, 5, 12)}, tmp_path)
    (graph,) = model.graphs

    assert "mask" not in model.weights, "a causal mask is a comparison of positions"
    shape = {axis.axis: axis.most for axis in graph.extents}
    assert [shape[axis] for axis in model.weights["wqkv"].input.axes] == [12, 3, 3, 4]
    assert {"softmax.p", "layernormalization.n", "add.y"} <= set(graph.names.values())


@pytest.mark.parametrize("interleaved", [0, 1])
def test_rotary_positions_by_hand_and_by_operator(interleaved: int, tmp_path: Path) -> None:
    angles = np.arange(5)[:, None] * np.array([1.0, 0.1, 0.01])
    weights = {
        "c": np.cos(angles).astype(np.float32),
        "s": np.sin(angles).astype(np.float32),
        "ids": np.tile(np.arange(5), (2, 1)),
    }
    by_operator = made(
        [node("RotaryEmbedding", "x c s ids", interleaved=interleaved)],
        {"x": [2, 4, 5, 6]},
        weights=weights,
        opset=23,
    )
    model = read(saved(by_operator, tmp_path), operators())
    x = random(2, 4, 5, 6)
    first, second = (x[..., 0::2], x[..., 1::2]) if interleaved else (x[..., :3], x[..., 3:])
    turned = [first * weights["c"] - second * weights["s"]]
    turned += [first * weights["s"] + second * weights["c"]]
    wanted = np.stack(turned, -1).reshape(x.shape) if interleaved else np.concatenate(turned, -1)

    np.testing.assert_allclose(outputs(model, {"x": x})[0], wanted, atol=1e-5)


def test_a_convolution_with_norm_relu_and_pool(tmp_path: Path) -> None:
    weights = {
        "w": random(6, 2, 3, 3),
        "s": random(6),
        "b": random(6, seed=1),
        "m": random(6, seed=2),
        "v": np.abs(random(6, seed=3)) + 0.5,
    }
    model = made(
        [
            node("Conv", "x w", "c", strides=[2, 2], pads=[1, 1, 1, 1], group=2),
            node("BatchNormalization", "c s b m v", "n"),
            node("Relu", "n", "r"),
            node("MaxPool", "r", "p", kernel_shape=[2, 2]),
            node("GlobalAveragePool", "p", "g"),
            node("Flatten", "g", "y"),
        ],
        {"x": [2, 4, 9, 9]},
        weights=weights,
    )
    found = assert_as_onnxruntime(model, {"x": random(2, 4, 9, 9)}, tmp_path)

    # The norm is one factor and one shift.
    assert sorted(len(w.shape) for w in found.weights.values()) == [2, 2, 5]


TRANSPOSED: Mapping[str, tuple[int, dict[str, Any]]] = {
    "even": (4, {"strides": [2, 2]}),
    "even, over a border": (4, {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "odd": (3, {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}),
    "with a last line alone": (3, {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "less than its stride": (2, {"strides": [3, 2], "output_padding": [1, 0]}),
    "apart": (3, {"strides": [2, 1], "dilations": [3, 2], "output_padding": [1, 0]}),
    "in groups": (2, {"strides": [2, 3], "pads": [0, 1, 1, 0], "group": 2}),
}


@pytest.mark.parametrize("name", TRANSPOSED)
def test_a_transposed_convolution(name: str, tmp_path: Path) -> None:
    side, attributes = TRANSPOSED[name]
    model = made(
        [node("ConvTranspose", "x w b", **attributes)],
        {"x": [2, 4, 5, 6]},
        weights={"w": random(4, 3, side, side), "b": random(3 * attributes.get("group", 1))},
    )
    given = {"x": random(2, 4, 5, 6)}
    found = assert_as_onnxruntime(model, given, tmp_path)

    agree_everywhere(found, MACHINES["tiny"], inputs=named(found, given))


def test_a_transposed_convolution_multiplies_no_zeros(tmp_path: Path) -> None:
    """Each place between two elements has a kernel of its own."""
    nodes = [node("ConvTranspose", "x w", strides=[2, 2])]
    model = made(nodes, {"x": [1, 8, 6, 6]}, weights={"w": random(8, 3, 4, 4)})
    found = assert_as_onnxruntime(model, {"x": random(1, 8, 6, 6)}, tmp_path)

    ((_, output),) = found.graphs[0].outputs.items()
    (product,) = (node for node in walk([output]) if isinstance(node, Dot))
    sizes = {extent.axis: extent.most for extent in found.graphs[0].extents}
    assert prod(sizes[axis] for axis in product.over) == 8 * 2 * 2


def test_places_between_one_another_of_which_some_are_cut_off(tmp_path: Path) -> None:
    """A tile of the convolution takes one line of results, and its window names that line."""
    model = made(
        [
            node("Conv", "x w", "c", pads=[1, 1, 1, 1]),
            node("DepthToSpace", "c", "d", blocksize=2),
            node("Slice", "d first last axis", "y"),
        ],
        {"x": [1, 16, 24, 20]},
        weights={
            "w": random(12, 16, 3, 3),
            "first": np.array([1]),
            "last": np.array([47]),
            "axis": np.array([2]),
        },
    )
    given = {"x": random(1, 16, 24, 20)}
    found = assert_as_onnxruntime(model, given, tmp_path)

    agree_everywhere(found, CACHE, inputs=named(found, given))


NEAR_BORDERS: Mapping[str, tuple[Sequence[tuple[str, str, str, dict[str, Any]]], Arrays]] = {
    "a convolution of a part": (
        [
            ("Slice", "x one four width", "s", {}),
            ("Conv", "s w", "y", {"pads": [1, 1, 1, 1]}),
        ],
        {"one": np.array([1]), "four": np.array([4]), "width": np.array([3]),
         "w": random(3, 4, 3, 3)},
    ),
    "a border around a part": (
        [
            ("Slice", "x one four width", "s", {}),
            ("Pad", "s pads", "p", {}),
            ("ReduceMean", "p width", "y", {}),
        ],
        {"one": np.array([1]), "four": np.array([4]), "width": np.array([3]),
         "pads": np.array([0, 0, 0, 1, 0, 0, 0, 2])},
    ),
    "every other line, and what lies around": (
        [
            ("Slice", "x last first height back", "s", {}),
            ("Conv", "s w", "y", {"pads": [2, 0, 1, 0]}),
        ],
        {"last": np.array([-1]), "first": np.array([-9]), "height": np.array([2]),
         "back": np.array([-2]), "w": random(3, 4, 3, 1)},
    ),
    "a border around another one": (
        [
            ("Pad", "x pads", "p", {}),
            ("MaxPool", "p", "y", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
        ],
        {"pads": np.array([0, 0, 0, 1, 0, 0, 0, 2])},
    ),
    "the same border twice": (
        [("Pad", "x pads", "p", {}), ("Conv", "p w", "y", {"pads": [1, 1, 1, 1]})],
        {"pads": np.array([0, 0, 0, 1, 0, 0, 0, 2]), "w": random(3, 4, 3, 3)},
    ),
    "a convolution of channels side by side": (
        [
            ("DepthToSpace", "x", "d", {"blocksize": 2}),
            ("Conv", "d w", "y", {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
        ],
        {"w": random(3, 1, 3, 3)},
    ),
    "a convolution of places as channels": (
        [
            ("SpaceToDepth", "x", "d", {"blocksize": 2}),
            ("Conv", "d w", "y", {"pads": [1, 1, 0, 0]}),
        ],
        {"w": random(3, 16, 2, 2)},
    ),
    "a part of a value beside itself": (
        [
            ("Conv", "x w", "c", {}),
            ("Concat", "c c", "t", {"axis": 2}),
            ("Slice", "t one four height", "y", {}),
        ],
        {"one": np.array([2]), "four": np.array([7]), "height": np.array([2]),
         "w": random(3, 4, 3, 3)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NEAR_BORDERS)
def test_what_lies_around_a_value_is_not_around_a_part_of_it(name: str, tmp_path: Path) -> None:
    """Views are read where values are, which have neighbours there, or a border of their own."""
    steps, weights = NEAR_BORDERS[name]
    nodes = [node(kind, read, written, **more) for kind, read, written, more in steps]
    model = made(nodes, {"x": [1, 4, 8, 6]}, weights=weights)
    given = {"x": random(1, 4, 8, 6) - 2}
    found = assert_as_onnxruntime(model, given, tmp_path)

    for machine in (CACHE, MACHINES["tiny"]):
        agree_everywhere(found, machine, inputs=named(found, given))


REPEATED: Mapping[str, tuple[Sequence[tuple[str, str, dict[str, Any]]], Arrays]] = {
    "a product over what is repeated": (
        [("Tile", "x twice", {}), ("MatMul", "1 w", {}), ("Exp", "2", {})],
        {"twice": np.array([1, 1, 2]), "w": random(16, 1)},
    ),
    "of two that are": (
        [("Expand", "one many", {}), ("Add", "x 1", {}), ("Tile", "2 twice", {}),
         ("MatMul", "3 w", {})],
        {"one": random(1, 1, 1), "many": np.array([1, 5, 8]), "twice": np.array([1, 1, 2]),
         "w": np.ones((16, 3), np.float32)},
    ),
    "a sum": (
        [("Tile", "x twice", {}), ("Relu", "1", {}), ("ReduceSum", "2 last", {})],
        {"twice": np.array([1, 1, 3]), "last": np.array([2])},
    ),
    "a norm of all": (
        [("Tile", "x twice", {}), ("ReduceL2", "1 all", {"keepdims": 0})],
        {"twice": np.array([1, 4, 3]), "all": np.array([0, 1, 2])},
    ),
    "some of its copies": (
        [("Exp", "x", {}), ("Tile", "1 twice", {}), ("Slice", "2 first end last two", {})],
        {"twice": np.array([1, 1, 3]), "first": np.array([5]), "end": np.array([23]),
         "last": np.array([2]), "two": np.array([2])},
    ),
    "copies of what has digits": (
        [("Softmax", "x", {"axis": 1}), ("Reshape", "1 parts", {}), ("Tile", "2 twice", {}),
         ("Reshape", "3 row", {}), ("Slice", "4 first end last two", {})],
        {"parts": np.array([5, 2, 4]), "twice": np.array([1, 3, 1]), "row": np.array([5, 24]),
         "first": np.array([23]), "end": np.array([-25]), "last": np.array([1]),
         "two": np.array([-2])},
    ),
    "a digit that no value depends on": (
        [("Softmax", "x", {"axis": 1}), ("Reshape", "1 parts", {}), ("Tile", "2 twice", {}),
         ("Reshape", "3 row", {}), ("Slice", "4 first end last two", {})],
        {"parts": np.array([5, 1, 2, 4]), "twice": np.array([1, 3, 1, 1]), "row": np.array([120]),
         "first": np.array([7]), "end": np.array([120]), "last": np.array([0]),
         "two": np.array([3])},
    ),
    "a row, again and again": (
        [("Exp", "x", {}), ("Gather", "1 same", {"axis": 1})],
        {"same": np.array([3, 3, 3])},
    ),
    "sums beside what they are of": (
        [("Relu", "x", {}), ("Tile", "1 twice", {}), ("CumSum", "2 last", {"exclusive": 1}),
         ("Concat", "3 2", {"axis": 2})],
        {"twice": np.array([3, 3, 1]), "last": np.array(2)},
    ),
    "a thousand copies of what has digits": (
        [("Exp", "x", {}), ("Tile", "1 many", {}), ("Slice", "2 first end last two", {})],
        {"many": np.array([1, 1, 1000]), "first": np.array([5]), "end": np.array([7900]),
         "last": np.array([2]), "two": np.array([3])},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REPEATED)
def test_what_a_value_does_not_depend_on_is_counted_once(name: str, tmp_path: Path) -> None:
    """Copies of a value have no axis of their own; each step reads results by their numbers."""
    steps, weights = REPEATED[name]
    nodes = [
        node(kind, " ".join(f"s{word}" if word.isdigit() else word for word in read.split()),
             "y" if number == len(steps) else f"s{number}", **more)
        for number, (kind, read, more) in enumerate(steps, 1)
    ]  # fmt: skip
    model = made(nodes, {"x": [1, 5, 8]}, weights=weights)
    given = {"x": random(1, 5, 8)}
    found = assert_as_onnxruntime(model, given, tmp_path)

    done = agree_everywhere(found, CACHE, inputs=named(found, given))
    assert len(instructions(done)) < 20


def test_parts_may_be_cut_into_groups_again(tmp_path: Path) -> None:
    """Six joined, of which three at a time are a group."""
    nodes = [
        node("Split", "x", "a b", axis=1, num_outputs=2),
        node("Tanh", "a", "t"),
        node("Exp", "b", "e"),
        node("Concat", "t e x x", "c", axis=1),
        node("Concat", "t e a b t e", "d", axis=1),
        node("Add", "c d", "s"),
        node("Reshape", "s groups"),
    ]
    weights = {"groups": np.array([2, 2, 9])}
    model = made(nodes, {"x": (2, 6)}, weights=weights)
    given = {"x": random(2, 6)}
    found = assert_as_onnxruntime(model, given, tmp_path)

    agree_everywhere(found, CACHE, inputs=named(found, given))


@pytest.mark.parametrize("kind", ["Tanh", "IsInf"])
def test_beginnings_of_rows_are_counted_in_other_digits(kind: str, tmp_path: Path) -> None:
    """Of a value that is wanted whole too: five of seven, eight times, are five rows of eight."""
    nodes = [
        node(kind, "x", "v"),
        node("Split", "v parts", "a b", axis=1),
        node("Reshape", "a anew", "r"),
        node("Cast", "v", "y", to=onnx.TensorProto.FLOAT),
        node("Cast", "r", "z", to=onnx.TensorProto.FLOAT),
    ]
    weights = {"parts": np.array([5, 2]), "anew": np.array([5, 8])}
    model = made(nodes, {"x": (8, 7)}, ["y", "z"], weights)
    given = {"x": random(8, 7)}
    given["x"][::3, ::2] = np.inf
    found = assert_as_onnxruntime(model, given, tmp_path)

    agree_everywhere(found, MACHINES["tiny"], inputs=named(found, given))


def test_digits_of_several_sums_are_those_of_one_number(tmp_path: Path) -> None:
    """Some digits show only where a row ends, which others reach in steps of two."""
    weights = {"parts": np.array([20, 4, 2]), "channel": np.array(1)}
    nodes = [
        node("Reshape", "x parts", "r"),
        node("DepthToSpace", "x", "d", blocksize=2),
        node("CumSum", "d channel"),
    ]
    model = made(nodes, {"x": [2, 4, 4, 5]}, ["r", "y"], weights)
    given = {"x": random(2, 4, 4, 5)}
    found = assert_as_onnxruntime(model, given, tmp_path)

    done = agree_everywhere(found, MACHINES["tpu_v1"], inputs=named(found, given))
    assert len(instructions(done)) < 20


def test_digits_of_an_axis_that_is_also_an_index(tmp_path: Path) -> None:
    """A shuffle after a border around copies: one index is a renaming and a digit of another."""
    weights = {
        "all": np.array([0]), "twice": np.array([2, 2, 2, 2]), "w": random(40, 1, 4, 2),
        "b": random(40),
    }  # fmt: skip
    nodes = [
        node("ReduceL2", "x all", "n"),
        node("Tile", "n twice", "t"),
        node("LogSoftmax", "t", "s", axis=2),
        node("Conv", "s w b", "c", group=10, dilations=[2, 2], pads=[1, 1, 1, 1]),
        node("DepthToSpace", "c", "d", blocksize=2),
        node("MaxPool", "d", kernel_shape=[2, 2], pads=[1, 1, 1, 1], strides=[1, 2]),
    ]
    model = made(nodes, {"x": [2, 5, 7, 7]}, weights=weights)
    given = {"x": random(2, 5, 7, 7)}
    found = assert_as_onnxruntime(model, given, tmp_path)

    agree_everywhere(found, MACHINES["tiny"], inputs=named(found, given))


def test_a_table_of_values_between_one_another_is_whole_before_it_is_read(tmp_path: Path) -> None:
    """Both parts of it are stored at once, in a stage before the one that looks rows up."""
    weights = {"parts": np.array([4, 3, 1]), "row": np.array([24]), "rows": np.array([5, 22, 3])}
    nodes = [
        node("Reshape", "x parts", "p"),
        node("Concat", "p p", "t", axis=2),
        node("Reshape", "t row", "r"),
        node("Gather", "r rows", "y"),
        node("Abs", "r", "z"),
    ]
    model = made(nodes, {"x": [1, 12, 1]}, ["y", "z"], weights)
    given = {"x": random(1, 12, 1)}
    found = assert_as_onnxruntime(model, given, tmp_path)

    for machine in (CACHE, *MACHINES.values()):
        agree_everywhere(found, machine, inputs=named(found, given))


TYPED: Mapping[str, tuple[Sequence[Any], Sequence[str], Arrays]] = {
    "a sum that is also wanted as truth": (
        [
            node("CumSum", "n one", "s"),
            node("Reshape", "s shape", "r"),
            node("Cast", "s", "b", to=TensorProto.BOOL),
        ],
        ["r", "b"],
        {"one": np.array(1), "shape": np.array([8, 45])},
    ),
    "a sum of sums, in another type": (
        [
            node("CumSum", "n one", "s", exclusive=1),
            node("CumSum", "s two", "t", exclusive=1),
            node("Cast", "t", "f", to=FLOAT),
        ],
        ["f"],
        {"one": np.array(1), "two": np.array(2)},
    ),
    "the largest and its size": (
        [
            node("ReduceMax", "n one", "m"),
            node("Abs", "m", "a"),
            node("Clip", "m minus three", "c"),
        ],
        ["a", "c"],
        {"one": np.array([2]), "minus": np.array(-2), "three": np.array(3)},
    ),
    "the same row of what is joined of joined ones": (
        [
            node("Concat", "n n", "two", axis=0),
            node("Neg", "two", "minus"),
            node("Concat", "two minus", "four", axis=0),
            node("Gather", "four rows", "c", axis=0),
        ],
        ["c"],
        {"rows": np.array([-1, 3])},
    ),
    "the largest in pieces": (
        [node("Slice", "n zero ten two three", "p"), node("ReduceMax", "p two", "c")],
        ["c"],
        {"zero": np.array([0]), "ten": np.array([10]), "two": np.array([2]),
         "three": np.array([3])},
    ),
    "lower bits": (
        [
            node("Mul", "n many", "m"),
            node("Cast", "m", "w", to=TensorProto.INT8),
            node("Cast", "w", "u", to=TensorProto.UINT8),
            node("Cast", "u", "f", to=FLOAT),
        ],
        ["w", "u", "f"],
        {"many": np.array(77)},
    ),
    "a triangle of truth": (
        [node("Less", "n zero", "l"), node("Trilu", "l")],
        ["y"],
        {"zero": np.array(0)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TYPED)
def test_values_of_several_types(name: str, tmp_path: Path) -> None:
    """The same value in two types has two places, and one of each sign."""
    nodes, results, weights = TYPED[name]
    kinds = {"n": INT64, "r": INT64, "b": TensorProto.BOOL, "a": INT64, "c": INT64}
    kinds |= {"y": TensorProto.BOOL, "w": TensorProto.INT8, "u": TensorProto.UINT8}
    model = made(nodes, {"n": [2, 12, 15]}, results, weights, types=kinds)
    given = {"n": np.rint(3 * random(2, 12, 15)).astype(np.int64) - 4}
    found = assert_as_onnxruntime(model, given, tmp_path)

    for machine in ("datacenter", "tiny"):
        agree_everywhere(found, MACHINES[machine], inputs=named(found, given))


@pytest.mark.parametrize(
    ("made_of", "weights", "message"),
    [
        (node("ConvTranspose", "x w", pads=[3] * 4, strides=[2, 2]), {}, "leave nothing of size 4"),
        (node("ConvTranspose", "x w", strides=[0, 2]), {}, "must be positive"),
        (node("Resize", "x none s"), {"s": np.array([1, 1, 0.1, 2], np.float32)}, "cannot resize"),
        (node("Resize", "x none s"), {"s": np.array([2, 2], np.float32)}, "of 4 dimensions"),
        (node("Resize", "x none none"), {}, "needs scales or sizes"),
        (node("Resize", "x none s", mode="linear", antialias=1), {}, "without antialias"),
    ],
)
def test_images_of_no_size_are_refused(
    made_of: Any, weights: Arrays, message: str, tmp_path: Path
) -> None:
    given = {"w": random(1, 1, 2, 2), "none": np.zeros(0, np.float32), "s": random(4), **weights}
    model = made([made_of], {"x": [1, 1, 2, 2]}, weights=given)
    with pytest.raises(ModelError, match=message):
        read(saved(model, tmp_path), operators())


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
@pytest.mark.parametrize("reverse", [0, 1])
def test_running_sums_that_are_merged_into_one_axis(
    axis: int, reverse: int, tmp_path: Path
) -> None:
    """A step's values do not lie side by side then: they are moved when all are there."""
    nodes = [
        node("Neg", "x", "n"),
        node("CumSum", "n axis", "s", reverse=reverse),
        node("Reshape", "s shape"),
    ]
    weights = {"axis": np.array(axis), "shape": np.array([4, 6, 14])}
    model = made(nodes, {"x": [2, 8, 3, 7]}, weights=weights)
    given = {"x": random(2, 8, 3, 7)}
    found = assert_as_onnxruntime(model, given, tmp_path)

    for machine in (CACHE, MACHINES["datacenter"]):
        agree_everywhere(found, machine, inputs=named(found, given))


def test_a_slice_from_the_end(tmp_path: Path) -> None:
    """Every other place, backwards, of one dimension, and all of another."""
    bounds = {"s": [9, -1], "e": [-100, -100], "a": [1, 0], "t": [-2, -1]}
    weights = {name: np.array(values, np.int64) for name, values in bounds.items()}
    model = made([node("Slice", "x s e a t")], {"x": [7, 10]}, weights=weights)

    found = assert_as_onnxruntime(model, {"x": random(7, 10)}, tmp_path)

    agree_everywhere(found, MACHINES["edge"])


def test_means_in_pieces_divide_by_the_whole_length(tmp_path: Path) -> None:
    """A long row, whose sum goes in pieces, and a window, whose places do one by one."""
    model = made(
        [
            node("ReduceMean", "x axes", "m", keepdims=1),
            node("AveragePool", "x", "p", kernel_shape=[3], strides=[2]),
            node("Add", "p m", "y"),
        ],
        {"x": [1, 2, 70001]},
        weights={"axes": np.array([2])},
    )
    given = {"x": random(1, 2, 70001) + 1}
    found = assert_as_onnxruntime(model, given, tmp_path)

    done = agree_everywhere(found, MACHINES["tiny"], inputs=named(found, given))
    assert {"reduce_mean.step", "reduce_mean.finish"} <= {*instructions(done)}


@pytest.mark.parametrize("shape", [(), (7,)])
def test_infinities_and_nan_are_told_apart(shape: tuple[int, ...], tmp_path: Path) -> None:
    """IsInf is no IsNaN, and a guard against NaN is not nothing, of one number too."""
    model = made(
        [
            node("IsInf", "x", "i"),
            node("IsNaN", "x", "n"),
            node("Where", "i one x", "a"),
            node("Where", "n two a", "y"),
        ],
        {"x": shape},
        weights={"one": np.full((), 1, np.float32), "two": np.full((), 2, np.float32)},
    )
    for value in (np.nan, np.inf, -np.inf, 0.5):
        given = {"x": np.full(shape, value, np.float32)}
        found = assert_as_onnxruntime(model, given, tmp_path)
        agree_everywhere(found, MACHINES["edge"], inputs=named(found, given))


def named(model: Model, given: Arrays) -> dict[str, Array]:
    """Inputs as a file numbers them with the dimensions that the model has."""
    leaves = {name: leaf for name, (leaf, _) in model.inputs.items()}
    return {name: model.layouts[name].named(x, leaves[name].axes) for name, x in given.items()}


RECURRENT = {"RNN": 1, "GRU": 3, "LSTM": 4}


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(("kind", "before"), [("RNN", 0), ("GRU", 0), ("GRU", 1), ("LSTM", 0)])
def test_recurrent_layers(kind: str, direction: str, before: int, tmp_path: Path) -> None:
    count, hidden, gates = (2 if direction == "bidirectional" else 1), 4, RECURRENT[kind]
    weights = {
        "w": random(count, gates * hidden, 3, seed=1),
        "r": random(count, gates * hidden, hidden, seed=2),
        "b": random(count, 2 * gates * hidden, seed=3),
    }
    inputs = {"x": random(6, 2, 3), "h": random(count, 2, hidden, seed=5)}
    names, results = ["x", "w", "r", "b", "", "h"], ["y", "yh"]
    if kind == "LSTM":
        names, results = [*names, "c"], [*results, "yc"]
        inputs["c"] = random(count, 2, hidden, seed=6)
    extra: dict[str, Any] = {"linear_before_reset": before} if kind == "GRU" else {}
    layer = helper.make_node(kind, names, results, hidden_size=hidden, direction=direction, **extra)
    model = made([layer], {k: v.shape for k, v in inputs.items()}, results, weights)

    assert_as_onnxruntime(model, inputs, tmp_path)


def test_a_layer_without_initial_states_starts_at_nothing(tmp_path: Path) -> None:
    weights = {"w": random(1, 16, 3), "r": random(1, 16, 4, seed=1)}
    model = made([node("LSTM", "x w r", hidden_size=4)], {"x": [5, 2, 3]}, weights=weights)

    found = assert_as_onnxruntime(model, {"x": random(5, 2, 3)}, tmp_path)

    assert sorted(found.weights) == ["r", "w"]


@pytest.mark.parametrize("kind", ["GRU", "LSTM"])
def test_a_recurrence_of_one_step_runs(kind: str, tmp_path: Path) -> None:
    """What every step shares is a state that stays as it is."""
    gates = RECURRENT[kind]
    given = {"x": random(1, 3, 2), "w": random(1, gates * 5, 2), "r": random(1, gates * 5, 5)}
    layer = helper.make_node(kind, ["x", "w", "r"], ["", "y"], hidden_size=5)
    model = made([layer], {name: array.shape for name, array in given.items()})

    found = assert_as_onnxruntime(model, given, tmp_path)

    agree_everywhere(found, MACHINES["edge"])


def test_half_precision_is_rounded_at_every_node(tmp_path: Path) -> None:
    """Arithmetic is f32 inside a node; what a node stores is f16."""
    model = made(
        [node("MatMul", "x w", "m"), node("Softmax", "m", "y")],
        {"x": [3, 4]},
        weights={"w": random(4, 5).astype(np.float16)},
        types={"x": TensorProto.FLOAT16, "y": TensorProto.FLOAT16},
    )
    found = read(saved(model, tmp_path), operators())
    (value,) = outputs(found, {"x": random(3, 4).astype(np.float16)})

    assert value.dtype == np.float16
    assert str(found.graphs[0].outputs["y"]).count("cast(") == 2
    assert found.weights["w"].input.dtype == "f16"


def test_shape_arithmetic_is_done_when_the_file_is_read(tmp_path: Path) -> None:
    model = made(
        [
            node("Shape", "x", "s"),
            node("Gather", "s zero", "rows"),
            node("Unsqueeze", "rows zeros", "r1"),
            node("Concat", "r1 minus", "shape", axis=0),
            node("Reshape", "x shape", "y"),
        ],
        {"x": [2, 3, 4]},
        weights={"zero": np.asarray(0), "zeros": np.array([0]), "minus": np.array([-1])},
    )
    found = assert_as_onnxruntime(model, {"x": random(2, 3, 4)}, tmp_path)

    assert str(found.graphs[0].outputs["y"]) == "x[a b c]"
    assert found.layouts["y"].shape == (2, 12)


def test_the_names_of_dimensions_become_axes(tmp_path: Path) -> None:
    model = made([node("Relu", "x")], {"x": ["batch", "sequence", 8]})
    found = read(saved(model, tmp_path), operators(), {"batch": 2, "sequence": 5})

    assert str(found.graphs[0].outputs["y"]) == "maximum(x[batch sequence a], 0.0)"


def test_a_local_function_is_written_out(tmp_path: Path) -> None:
    model = made([helper.make_node("Twice", ["x"], ["y"], domain="mine")], {"x": [3]})
    model.opset_import.append(helper.make_opsetid("mine", 1))
    body, opset = [node("Add", "a a", "b")], [helper.make_opsetid("", 20)]
    model.functions.append(helper.make_function("mine", "Twice", ["a"], ["b"], body, opset))
    found = read(saved(model, tmp_path), operators())

    assert str(found.graphs[0].outputs["y"]) == "add(x[a], x[a])"


def test_an_operator_of_a_plugin(tmp_path: Path) -> None:
    @operator("SoftCap", domain="com.example")
    def softcap(x: Tensor, cap: float = 50.0) -> Tensor:
        return each(lambda v: cap * tanh(v / cap), [x])

    model = made(
        [helper.make_node("SoftCap", ["x"], ["y"], domain="com.example", cap=2.0)], {"x": [3]}
    )
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    found = read(saved(model, tmp_path), [*operators(), softcap])

    assert str(found.graphs[0].outputs["y"]) == "multiply(2.0, tanh(divide(x[a], 2.0)))"


# ---------------------------------------------------------------- the tests of the format

PASSED = 1207
"""How many tests of onnx 1.23 pass; an operator that is not registered is not counted."""

DIFFERENT = {
    # The largest of no truth values is false there and true here.
    "test_reduce_max_empty_set_bool",
    "test_reduce_max_empty_set_bool_expanded",
}


def test_the_tests_of_the_format() -> None:
    """Every node test whose operators are registered either passes or is refused."""
    found = Counter[str]()
    wrong: dict[str, str] = {}
    for case in backend_cases():
        result = outcome(case)
        found[result.partition(":")[0]] += 1
        if result.startswith("wrong"):
            wrong[case.name] = result
    print(dict(found))

    assert wrong.keys() <= DIFFERENT, wrong
    if onnx.__version__.startswith("1.23"):
        assert found["passed"] == PASSED


def backend_cases() -> list[Any]:
    from onnx.backend.test.case.node import collect_testcases

    known = {(o.domain, o.name) for o in operators()} | {("ai.onnx", "Constant")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = collect_testcases(None)
    return [
        case
        for case in cases
        if case.model
        and all((n.domain or "ai.onnx", n.op_type) in known for n in case.model.graph.node)
    ]


def outcome(case: Any) -> str:
    """passed, refused or wrong. Inputs that must be constants are made so."""
    fixed: set[str] = set()
    names = [value.name for value in case.model.graph.input]
    while True:
        try:
            return compared(case, names, fixed)
        except ModelError as error:
            if "must be a constant" not in str(error) or len(fixed) == len(names):
                return f"refused: {error}"
            integers = {
                v.name
                for v in case.model.graph.input
                if v.type.tensor_type.elem_type in (TensorProto.INT32, INT64)
            }
            fixed |= integers if integers - fixed else set(names)


def compared(case: Any, names: Sequence[str], fixed: set[str]) -> str:
    model = copy.deepcopy(case.model)
    given = dict(zip(names, case.data_sets[0][0], strict=False))
    for name in fixed:
        model.graph.initializer.append(numpy_helper.from_array(array(given[name]), name))
    with TemporaryDirectory() as place:
        read_model = read(saved(model, Path(place)), operators())
    found = outputs(read_model, {name: array(value) for name, value in given.items()})
    for value, wanted in zip(found, map(array, case.data_sets[0][1]), strict=True):
        wide = {"bfloat16": 2e-2, "float16": 4e-3}.get(wanted.dtype.name, 1e-4)
        if value.shape != wanted.shape or value.dtype != wanted.dtype:
            return f"wrong: {value.dtype}{value.shape}, not {wanted.dtype}{wanted.shape}"
        a, b = (v.astype(np.float64) for v in (value, wanted))
        if not np.allclose(a, b, max(case.rtol, wide), max(case.atol, 1e-6), equal_nan=True):
            return f"wrong: {value}, not {wanted}"
    return "passed"


def array(value: Any) -> Array:
    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else np.asarray(value)


# ---------------------------------------------------------------- refusals


def message(path: Path, sizes: Mapping[str, int] | None = None) -> str:
    with pytest.raises(ModelError) as error:
        read(path, operators(), sizes)
    return str(error.value).replace(str(path), "FILE")


def plain() -> Any:
    return made([node("Add", "x w")], {"x": [2, 3]}, weights={"w": random(3)})


@pytest.mark.parametrize(
    "spoil",
    [lambda content: content[:-9], lambda content: b"", lambda content: b"not a model" * 9],
    ids=["truncated", "empty", "text"],
)
def test_a_file_that_is_not_whole_is_refused(
    spoil: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    path = saved(plain(), tmp_path)
    path.write_bytes(spoil(path.read_bytes()))

    assert message(path) == "FILE: is not an ONNX file, or is not whole"


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert message(tmp_path / "none.onnx") == "FILE: cannot be read: No such file or directory"


@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        (
            made([node("Nonsense", "x")], {"x": [2]}),
            "FILE: node 'nonsense.y' (Nonsense, domain ai.onnx, opset 20): "
            "the operator is not known",
        ),
        (
            made([node("RMSNormalization", "x x")], {"x": [2]}),
            "FILE: node 'rmsnormalization.y' (RMSNormalization, domain ai.onnx, opset 20): "
            "the operator is known for versions 23 to now, not 20",
        ),
        (
            made([node("Add", "x x")], {"x": [2]}, opset=99),
            "FILE: opset must be 7 to 28, not 99",
        ),
        (
            made([node("Add", "x w")], {"x": [2, 3]}, weights={"w": random(4)}),
            "FILE: node 'add.y' (Add, domain ai.onnx, opset 20): "
            "shapes (2, 3) and (4,) do not broadcast",
        ),
        (
            made([node("Add", "x z")], {"x": [2]}),
            "FILE: node 'add.y' (Add, domain ai.onnx, opset 20): "
            "input 'z' is computed by nothing before it",
        ),
        (
            made([node("Relu", "x", "z")], {"x": [2]}),
            "FILE: output 'y' is computed by nothing",
        ),
        (
            made([node("Relu", "x x")], {"x": [2]}),
            "FILE: node 'relu.y' (Relu, domain ai.onnx, opset 20): too many positional arguments",
        ),
        (
            made([node("Relu", "x", slope=1.0)], {"x": [2]}),
            "FILE: node 'relu.y' (Relu, domain ai.onnx, opset 20): "
            "got an unexpected keyword argument 'slope'",
        ),
        (
            made([node("Reshape", "x s")], {"x": [2], "s": [1]}, types={"s": INT64}),
            "FILE: node 'reshape.y' (Reshape, domain ai.onnx, opset 20): shape must be a constant",
        ),
        (
            made([node("Relu", "x")], {"x": [2]}, types={"x": TensorProto.UINT16}),
            "FILE: input 'x': data type must be one of FLOAT, UINT8, INT8, INT16, INT32, INT64, "
            "BOOL, FLOAT16, DOUBLE, BFLOAT16, not UINT16",
        ),
        (
            made([node("Relu", "x")], {"x": ["batch", 2]}),
            "FILE: input 'x': dimension 0 (batch) has no size: give one, as in --size batch=1",
        ),
    ],
)  # fmt: skip
def test_a_model_that_cannot_be_read_is_refused(model: Any, wanted: str, tmp_path: Path) -> None:
    assert message(saved(model, tmp_path)) == wanted


def test_a_lookup_by_several_components_is_one(tmp_path: Path) -> None:
    """Nothing is made of all rows that the first component names: that took 200 times as long."""
    index = np.array([[1, -1], [-4, 0], [3, 6]])
    model = made([node("GatherND", "x i")], {"x": [4, 7, 3], "i": [3, 2]}, types={"i": INT64})
    given = {"x": random(4, 7, 3), "i": index}

    found = assert_as_onnxruntime(model, given, tmp_path)

    done = agree_everywhere(found, MACHINES["edge"], inputs=named(found, given))
    assert instructions(done).count("embedding") == 1


def test_a_softmax_over_one_position_is_one(tmp_path: Path) -> None:
    """A dimension of one position is no axis: nothing is left to be summed."""
    model = made([node("Softmax", "x", axis=1)], {"x": [2, 1, 4]})

    found = assert_as_onnxruntime(model, {"x": random(2, 1, 4)}, tmp_path)

    agree_everywhere(found, MACHINES["edge"])


def test_an_input_without_elements_may_be_there(tmp_path: Path) -> None:
    """As long as nothing computes with it; `CastLike` asks for its type only."""
    model = made(
        [node("CastLike", "x like")], {"x": [2, 3], "like": [0]}, types={"like": TensorProto.DOUBLE}
    )
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    given = {"x": random(2, 3), "like": np.zeros(0)}
    found = assert_as_onnxruntime(model, given, tmp_path)

    agree_everywhere(found, MACHINES["edge"])


def test_a_size_for_no_dimension_is_refused(tmp_path: Path) -> None:
    path = saved(made([node("Relu", "x")], {"x": ["batch", 2]}), tmp_path)

    assert message(path, {"batch": 1, "bach": 2}) == (
        "FILE: dimension 'bach': must be one of batch"
    )


def test_an_output_of_another_shape_than_stated_is_refused(tmp_path: Path) -> None:
    model = plain()
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("y", FLOAT, [2, 4]))

    assert message(saved(model, tmp_path)) == (
        "FILE: output 'y' must have shape (2, 4), not (2, 3)"
    )


def test_a_tensor_whose_bytes_do_not_fill_its_shape_is_refused(tmp_path: Path) -> None:
    model = plain()
    model.graph.initializer[0].dims[0] = 4

    assert message(saved(model, tmp_path)) == (
        "FILE: tensor 'w': shape (4,) needs 16 bytes, not 12"
    )


def test_sparse_tensors_are_refused(tmp_path: Path) -> None:
    model = plain()
    model.graph.sparse_initializer.add()

    assert message(saved(model, tmp_path)) == "FILE: sparse tensors are not supported"


def test_functions_that_call_themselves_are_refused(tmp_path: Path) -> None:
    model = made([helper.make_node("F", ["x"], ["y"], domain="mine")], {"x": [3]})
    model.opset_import.append(helper.make_opsetid("mine", 1))
    body = [helper.make_node("F", ["a"], ["b"], domain="mine")]
    opset = [helper.make_opsetid("mine", 1)]
    model.functions.append(helper.make_function("mine", "F", ["a"], ["b"], body, opset))

    assert message(saved(model, tmp_path)) == "FILE: function 'F' calls itself"


def test_a_huge_constant_is_not_made(tmp_path: Path) -> None:
    """A few bytes of file that ask for terabytes."""
    model = made(
        [
            node("ConstantOfShape", "s", "c"),
            node("Add", "c one", "d"),
            node("ReduceSum", "d", "e", keepdims=0),
            node("Add", "x e", "y"),
        ],
        {"x": [2]},
        weights={"s": np.array([1 << 20, 1 << 20]), "one": np.asarray(1.0, np.float32)},
    )
    found = read(saved(model, tmp_path), operators())

    assert sum(np.prod(w.shape, dtype=int) for w in found.weights.values()) == 0


# ---------------------------------------------------------------- data beside the file


def beside(folder: Path, location: str, **entries: str) -> Path:
    """A model whose weight is in another file."""
    model = plain()
    weight = model.graph.initializer[0]
    (folder / "data.bin").write_bytes(b"0123" + weight.raw_data)
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "4", "length": "12", **entries}.items():
        weight.external_data.add(key=key, value=value)
    return saved(model, folder)


def test_data_beside_the_file_is_read_when_it_is_needed(tmp_path: Path) -> None:
    model = read(beside(tmp_path, "data.bin"), operators())

    assert model.weights["w"].load().tolist() == random(3).tolist()


@pytest.mark.parametrize("location", ["../data.bin", "/etc/hostname", "", "a/../../data.bin"])
def test_data_outside_the_folder_is_refused(location: str, tmp_path: Path) -> None:
    assert message(beside(tmp_path, location)) == (
        f"FILE: tensor 'w': external data must lie in the model's folder, not at {location!r}"
    )


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.write_bytes(bytes(16))
    (inside / "link").symlink_to(outside)

    assert message(beside(inside, "link")) == (
        "FILE: tensor 'w': external data must lie in the model's folder, not at 'link'"
    )


@pytest.mark.parametrize(
    ("entries", "wanted"),
    [
        ({"length": "16"}, "must have 12 bytes of external data, not 16 from 4 of a file of 16"),
        ({"offset": "8"}, "must have 12 bytes of external data, not 12 from 8 of a file of 16"),
        ({"offset": "-4"}, "must have 12 bytes of external data, not 12 from -4 of a file of 16"),
        ({"offset": "x"}, "offset and length of external data must be integers"),
    ],
)
def test_data_that_does_not_fill_the_tensor_is_refused(
    entries: Mapping[str, str], wanted: str, tmp_path: Path
) -> None:
    assert message(beside(tmp_path, "data.bin", **entries)) == f"FILE: tensor 'w': {wanted}"


def test_data_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert message(beside(tmp_path, "none.bin")) == (
        "FILE: tensor 'w': external data 'none.bin' is not there"
    )
