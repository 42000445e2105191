"""The networks of Hugging Face folders as ONNX models, written with onnx.helper, for onnxruntime.

A decoder takes `ids` at `positions` behind a past of any length, which may be none: it gives the
last position's `logits` and the keys and values of all positions. What depends on positions only
(`mask`, `cos`, `sin`) is an input, made outside the timed part.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors import safe_open

Array = NDArray[Any]
Config = Mapping[str, Any]

OPSET = 20
SETTINGS = {
    "threads": "1 within an operator, 1 between",
    "graph_optimization_level": "all",
    "execution_mode": "sequential",
    "spinning": "off",
    "opset": OPSET,
    "weights": "f32",
}


@dataclass
class Net:
    """An ONNX graph under construction; values are names."""

    weights: Mapping[str, Array]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    outputs: list[onnx.ValueInfoProto] = field(default_factory=list)

    def __call__(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """The value of a node."""
        name = f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name, **attributes))
        return name

    def input(self, name: str, *shape: str | int, dtype: int = TensorProto.FLOAT) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def output(self, name: str, value: str) -> None:
        self.nodes.append(helper.make_node("Identity", [value], [name]))
        self.outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))

    def constant(self, value: Any, dtype: type[np.generic] = np.float32) -> str:
        array = np.asarray(value, dtype)
        name = f"{array.dtype} {array.tolist()}"
        return self.stored(name, array)

    def weight(self, name: str) -> str:
        return self.stored(name, self.weights[name])

    def stored(self, name: str, array: Array) -> str:
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(array, name)
        return name

    def reshape(self, x: str, *shape: int) -> str:
        return self("Reshape", x, self.constant(shape, np.int64))

    def part(self, x: str, number: int, width: int, axis: int = -1) -> str:
        """Slice `number` of those of some width."""
        ends = [self.constant([n * width], np.int64) for n in (number, number + 1)]
        return self("Slice", x, *ends, self.constant([axis], np.int64))

    def linear(self, x: str, name: str, *, inner_first: bool = False, bias: bool = True) -> str:
        """A layer on rows."""
        more = [self.weight(f"{name}.bias")] if bias else []
        return self("Gemm", x, self.weight(f"{name}.weight"), *more, transB=int(not inner_first))

    def layer_norm(self, x: str, name: str, epsilon: float) -> str:
        scale, bias = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return self("LayerNormalization", x, scale, bias, epsilon=epsilon)

    def rms_norm(self, x: str, name: str, epsilon: float) -> str:
        """In the form that onnxruntime fuses."""
        square = self("Pow", x, self.constant(2.0))
        mean = self("ReduceMean", square, self.constant([-1], np.int64))
        root = self("Sqrt", self("Add", mean, self.constant(epsilon)))
        return self("Mul", self("Div", x, root), self.weight(f"{name}.weight"))

    def heads(self, x: str, *shape: int) -> str:
        """Rows of (heads..., width) with the heads before the rows."""
        order = [*range(1, len(shape) + 1)]
        order.insert(len(shape) - 1, 0)
        return self("Transpose", self.reshape(x, 0, *shape), perm=order)

    def attention(self, q: str, k: str, v: str, scale: float, mask: str = "") -> str:
        """Rows of all heads' results; heads in as many leading dimensions as `q` has."""
        scores = self("Mul", self("MatMul", q, k), self.constant(scale))
        weights = self("Softmax", self("Add", scores, mask) if mask else scores, axis=-1)
        return self("MatMul", weights, v)

    def session(self) -> onnxruntime.InferenceSession:
        """The model in onnxruntime, on one thread."""
        found = list(self.constants.values())
        graph = helper.make_graph(self.nodes, "network", self.inputs, self.outputs, found)
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        data = model.SerializeToString()
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def read_weights(folder: Path) -> dict[str, Array]:
    """The tensors of model.safetensors as f32."""
    with safe_open(folder / "model.safetensors", framework="numpy") as file:
        names = list(file.keys())
        return {name: np.asarray(file.get_tensor(name), np.float32) for name in names}


def read_config(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
    return found


# ---------------------------------------------------------------- decoders


@dataclass(frozen=True)
class Decoder:
    """A decoder in onnxruntime.

    past   the shape of a layer's keys or values behind no positions
    theta  of rotary positions, 0 without
    """

    session: onnxruntime.InferenceSession
    layers: int
    past: tuple[int, ...]
    theta: float = 0.0

    def empty(self) -> list[Array]:
        """The past of a first token."""
        return [np.zeros(self.past, np.float32)] * (2 * self.layers)

    def inputs(self, ids: Array, start: int) -> dict[str, Array]:
        """Everything but the past for tokens from a position on."""
        positions = np.arange(start, start + len(ids))
        later = np.arange(start + len(ids)) > positions[:, None]
        mask = np.where(later, -np.inf, 0).astype(np.float32)
        given: dict[str, Array] = {"ids": ids.astype(np.int64), "mask": mask}
        if not self.theta:
            return given | {"positions": positions}
        pairs = self.past[-1] // 2
        angles = positions[:, None] * self.theta ** (-np.arange(pairs) / pairs)
        cos, sin = (part(angles).astype(np.float32) for part in (np.cos, np.sin))
        return given | {"cos": cos, "sin": sin}

    def step(self, given: Mapping[str, Array], past: Sequence[Array]) -> tuple[Array, list[Array]]:
        """(the last position's logits, keys and values of all positions)"""
        caches = range(2 * self.layers)
        wanted = ["logits", *(f"present_{n}" for n in caches)]
        behind = {f"past_{n}": past[n] for n in caches}
        logits, *present = self.session.run(wanted, {**given, **behind})
        return logits, present


def stored_in(folder: Path) -> str:
    """The type of a folder's first matrix, as safetensors calls it."""
    with safe_open(folder / "model.safetensors", framework="numpy") as file:
        found: str = file.get_slice(min(file.keys())).get_dtype()
        return found


def decoder(folder: Path) -> Decoder:
    """A Llama or GPT-2 folder."""
    config, net = read_config(folder), Net(read_weights(folder))
    config["stored_in"] = stored_in(folder)
    net.input("ids", "s", dtype=TensorProto.INT64)
    net.input("mask", "s", "t")
    return (llama if config["model_type"] == "llama" else gpt2)(net, config)


def kept(net: Net, number: int, new: str, shape: Sequence[int]) -> str:
    """Keys or values behind those of the past, which becomes the past of the next step."""
    past = net.input(f"past_{number}", *shape[:-2], "p", shape[-1])
    whole = net("Concat", past, new, axis=-2)
    net.output(f"present_{number}", whole)
    return whole


def last_row(net: Net, x: str) -> str:
    return net("Gather", x, net.constant([-1], np.int64), axis=0)


def gpt2(net: Net, config: Config) -> Decoder:
    d, heads, layers = config["n_embd"], config["n_head"], config["n_layer"]
    epsilon, width = config["layer_norm_epsilon"], d // heads
    positions = net.input("positions", "s", dtype=TensorProto.INT64)
    words = net("Gather", net.weight("wte.weight"), "ids")
    x = net("Add", words, net("Gather", net.weight("wpe.weight"), positions))
    past = heads, 0, width
    for layer in range(layers):
        name = f"h.{layer}"
        normed = net.layer_norm(x, f"{name}.ln_1", epsilon)
        joint = net.linear(normed, f"{name}.attn.c_attn", inner_first=True)
        q, k, v = (net.heads(net.part(joint, n, d), heads, width) for n in range(3))
        k, v = (kept(net, 2 * layer + n, new, past) for n, new in enumerate((k, v)))
        turned = net("Transpose", k, perm=[0, 2, 1])
        mixed = net.attention(q, turned, v, width**-0.5, "mask")
        rows = net.reshape(net("Transpose", mixed, perm=[1, 0, 2]), -1, d)
        x = net("Add", x, net.linear(rows, f"{name}.attn.c_proj", inner_first=True))
        normed = net.layer_norm(x, f"{name}.ln_2", epsilon)
        hidden = net.linear(normed, f"{name}.mlp.c_fc", inner_first=True)
        hidden = net("Gelu", hidden, approximate="tanh")
        x = net("Add", x, net.linear(hidden, f"{name}.mlp.c_proj", inner_first=True))
    last = net.layer_norm(last_row(net, x), "ln_f", epsilon)
    net.output("logits", net("Gemm", last, net.weight("wte.weight"), transB=1))
    return Decoder(net.session(), layers, past)


def llama(net: Net, config: Config) -> Decoder:
    """Keys and values are rounded to bf16 as the folder's type says, as ours are."""
    heads, groups = config["num_key_value_heads"], config["num_attention_heads"]
    width, layers = config["head_dim"], config["num_hidden_layers"]
    epsilon, each = config["rms_norm_eps"], groups // heads
    net.input("cos", "s", width // 2)
    net.input("sin", "s", width // 2)
    x = net("Gather", net.weight("model.embed_tokens.weight"), "ids")
    past = heads, 1, 0, width
    for layer in range(layers):
        name = f"model.layers.{layer}"
        parts = f"{name}.self_attn"
        normed = net.rms_norm(x, f"{name}.input_layernorm", epsilon)
        q, k, v = (net.linear(normed, f"{parts}.{p}_proj", bias=False) for p in "qkv")
        q = rotated(net, net.heads(q, heads, each, width), width)
        k = rotated(net, net.heads(k, heads, 1, width), width)
        new = [k, net.heads(v, heads, 1, width)]
        new = [rounded(net, value) for value in new] if config["stored_in"] == "BF16" else new
        k, v = (kept(net, 2 * layer + n, value, past) for n, value in enumerate(new))
        turned = net("Transpose", k, perm=[0, 1, 3, 2])
        mixed = net.attention(q, turned, v, width**-0.5, "mask")
        rows = net.reshape(net("Transpose", mixed, perm=[2, 0, 1, 3]), -1, groups * width)
        x = net("Add", x, net.linear(rows, f"{parts}.o_proj", bias=False))
        normed = net.rms_norm(x, f"{name}.post_attention_layernorm", epsilon)
        gate, up = (net.linear(normed, f"{name}.mlp.{p}_proj", bias=False) for p in ("gate", "up"))
        gated = net("Mul", net("Mul", gate, net("Sigmoid", gate)), up)
        x = net("Add", x, net.linear(gated, f"{name}.mlp.down_proj", bias=False))
    last = net.rms_norm(last_row(net, x), "model.norm", epsilon)
    table = "model.embed_tokens.weight" if config["tie_word_embeddings"] else "lm_head.weight"
    net.output("logits", net("Gemm", last, net.weight(table), transB=1))
    return Decoder(net.session(), layers, past, config["rope_theta"])


def rotated(net: Net, x: str, width: int) -> str:
    """Rotary positions on the two halves of a head."""
    a, b = (net.part(x, n, width // 2) for n in range(2))
    first = net("Sub", net("Mul", a, "cos"), net("Mul", b, "sin"))
    second = net("Add", net("Mul", b, "cos"), net("Mul", a, "sin"))
    return net("Concat", first, second, axis=-1)


def rounded(net: Net, x: str) -> str:
    narrow = net("Cast", x, to=TensorProto.BFLOAT16)
    return net("Cast", narrow, to=TensorProto.FLOAT)


# ---------------------------------------------------------------- encoders


def bert(folder: Path) -> onnxruntime.InferenceSession:
    """A BERT folder: `ids` to `hidden` and the normalised mean `embedding`."""
    config, net = read_config(folder), Net(read_weights(folder))
    d, heads = config["hidden_size"], config["num_attention_heads"]
    epsilon, width = config["layer_norm_eps"], d // heads
    ids = net.input("ids", "s", dtype=TensorProto.INT64)
    positions = net.input("positions", "s", dtype=TensorProto.INT64)
    words, places, segments = (
        net.weight(f"embeddings.{kind}_embeddings.weight")
        for kind in ("word", "position", "token_type")
    )
    x = net("Add", net("Gather", words, ids), net("Gather", places, positions))
    x = net("Add", x, net("Gather", segments, net.constant(0, np.int64)))
    x = net.layer_norm(x, "embeddings.LayerNorm", epsilon)
    for layer in range(config["num_hidden_layers"]):
        name = f"encoder.layer.{layer}"
        q, k, v = (
            net.heads(net.linear(x, f"{name}.attention.self.{part}"), heads, width)
            for part in ("query", "key", "value")
        )
        mixed = net.attention(q, net("Transpose", k, perm=[0, 2, 1]), v, width**-0.5)
        rows = net.reshape(net("Transpose", mixed, perm=[1, 0, 2]), -1, d)
        attended = net.linear(rows, f"{name}.attention.output.dense")
        x = net.layer_norm(net("Add", x, attended), f"{name}.attention.output.LayerNorm", epsilon)
        hidden = net("Gelu", net.linear(x, f"{name}.intermediate.dense"))
        forward = net.linear(hidden, f"{name}.output.dense")
        x = net.layer_norm(net("Add", x, forward), f"{name}.output.LayerNorm", epsilon)
    net.output("hidden", x)
    mean = net("ReduceMean", x, net.constant([0], np.int64), keepdims=0)
    net.output("embedding", net("LpNormalization", mean, axis=-1, p=2))
    return net.session()
