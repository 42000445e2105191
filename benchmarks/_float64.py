"""The networks of Hugging Face folders in NumPy's float64, all positions at once: what native code
and onnxruntime are held to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._onnx import read_config, read_weights

Array = NDArray[Any]


class Folder:
    """A folder's tensors, and layers of them."""

    def __init__(self, path: Path) -> None:
        self.config: Mapping[str, Any] = read_config(path)
        self.weights = {name: array.astype(float) for name, array in read_weights(path).items()}

    def __getitem__(self, name: str) -> Array:
        return self.weights[f"{name}.weight"]

    def linear(self, x: Array, name: str, inner_first: bool = False) -> Array:
        weight = self[name] if inner_first else self[name].T
        found: Array = x @ weight + self.weights.get(f"{name}.bias", 0.0)
        return found

    def layer_norm(self, x: Array, name: str, epsilon: float) -> Array:
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon)
        found: Array = x * self[name] + self.weights[f"{name}.bias"]
        return found

    def rms_norm(self, x: Array, name: str) -> Array:
        epsilon = self.config["rms_norm_eps"]
        found: Array = x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon) * self[name]
        return found


def logits(path: Path, ids: Array) -> Array:
    """Of the last position of a decoder."""
    folder = Folder(path)
    return (_llama if folder.config["model_type"] == "llama" else _gpt2)(folder, ids)


def embedding(path: Path, ids: Array) -> Array:
    """The normalised mean of a BERT's positions."""
    folder = Folder(path)
    config, start = folder.config, "embeddings"
    heads, epsilon = config["num_attention_heads"], config["layer_norm_eps"]
    x = folder[f"{start}.word_embeddings"][ids]
    x = x + folder[f"{start}.position_embeddings"][: len(ids)]
    x = x + folder[f"{start}.token_type_embeddings"][0]
    x = folder.layer_norm(x, f"{start}.LayerNorm", epsilon)
    for layer in range(config["num_hidden_layers"]):
        name = f"encoder.layer.{layer}"
        q, k, v = (
            _heads(folder.linear(x, f"{name}.attention.self.{part}"), heads)
            for part in ("query", "key", "value")
        )
        mixed = folder.linear(_attention(q, k, v), f"{name}.attention.output.dense")
        x = folder.layer_norm(x + mixed, f"{name}.attention.output.LayerNorm", epsilon)
        hidden = folder.linear(x, f"{name}.intermediate.dense")
        hidden = hidden / 2 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
        hidden = folder.linear(hidden, f"{name}.output.dense")
        x = folder.layer_norm(x + hidden, f"{name}.output.LayerNorm", epsilon)
    mean: Array = x.mean(0)
    found: Array = mean / np.linalg.norm(mean)
    return found


def _gpt2(folder: Folder, ids: Array) -> Array:
    config = folder.config
    heads, epsilon = config["n_head"], config["layer_norm_epsilon"]
    x = folder["wte"][ids] + folder["wpe"][: len(ids)]
    for layer in range(config["n_layer"]):
        name = f"h.{layer}"
        joint = folder.linear(
            folder.layer_norm(x, f"{name}.ln_1", epsilon), f"{name}.attn.c_attn", True
        )
        q, k, v = (_heads(part, heads) for part in np.split(joint, 3, -1))
        x = x + folder.linear(_attention(q, k, v, causal=True), f"{name}.attn.c_proj", True)
        hidden = folder.layer_norm(x, f"{name}.ln_2", epsilon)
        hidden = folder.linear(hidden, f"{name}.mlp.c_fc", True)
        inner = math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)
        hidden = hidden / 2 * (1 + np.tanh(inner))
        x = x + folder.linear(hidden, f"{name}.mlp.c_proj", True)
    last: Array = folder.layer_norm(x[-1], "ln_f", epsilon) @ folder["wte"].T
    return last


def _llama(folder: Folder, ids: Array) -> Array:
    """Keys and values as they are, whichever type the folder has."""
    config = folder.config
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    pairs = config["head_dim"] // 2
    turns = np.arange(len(ids))[:, None] * config["rope_theta"] ** (-np.arange(pairs) / pairs)
    x = folder["model.embed_tokens"][ids]
    for layer in range(config["num_hidden_layers"]):
        name = f"model.layers.{layer}"
        normed = folder.rms_norm(x, f"{name}.input_layernorm")
        q, k, v = (
            _heads(folder.linear(normed, f"{name}.self_attn.{part}_proj"), count)
            for part, count in (("q", heads), ("k", groups), ("v", groups))
        )
        k, v = (np.repeat(part, heads // groups, 0) for part in (_turned(k, turns), v))
        mixed = _attention(_turned(q, turns), k, v, causal=True)
        x = x + folder.linear(mixed, f"{name}.self_attn.o_proj")
        normed = folder.rms_norm(x, f"{name}.post_attention_layernorm")
        gate, up = (folder.linear(normed, f"{name}.mlp.{part}_proj") for part in ("gate", "up"))
        x = x + folder.linear(gate / (1 + np.exp(-gate)) * up, f"{name}.mlp.down_proj")
    tied = config["tie_word_embeddings"]
    last: Array = folder.rms_norm(x[-1], "model.norm")
    return last @ folder["model.embed_tokens" if tied else "lm_head"].T


def _heads(x: Array, count: int) -> Array:
    """Rows of heads as heads of rows."""
    return x.reshape(len(x), count, -1).swapaxes(0, 1)


def _turned(x: Array, turns: Array) -> Array:
    """Rotary positions on the two halves of a head."""
    a, b = np.split(x, 2, -1)
    return np.concatenate(
        [a * np.cos(turns) - b * np.sin(turns), b * np.cos(turns) + a * np.sin(turns)], -1
    )


def _attention(q: Array, k: Array, v: Array, causal: bool = False) -> Array:
    """Rows of all heads' results."""
    scores = q @ k.swapaxes(1, 2) / math.sqrt(q.shape[-1])
    if causal:
        scores = np.where(np.tri(scores.shape[1], dtype=bool), scores, -np.inf)
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = scores / scores.sum(-1, keepdims=True) @ v
    found: Array = mixed.swapaxes(0, 1).reshape(mixed.shape[1], -1)
    return found
