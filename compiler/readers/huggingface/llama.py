"""Llama: RMS norms, rotary positions, grouped queries, gated feed-forward layers.

Axes: tokens s, keys t, width d, vocabulary v, feed-forward f; heads of keys h, queries of one such
head g, head width as halves p of pairs i, width of values e.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from infinisa.isa import formulas
from infinisa.isa.language import Input, Node, dot, gather, position, update, view

from .config import Config
from .folder import Folder, Step, add_decoder


def read(folder: Folder) -> None:
    config = folder.config
    for key in ("attention_bias", "mlp_bias"):
        config.require(key, False, False)
    config.require("hidden_act", "silu", "silu")
    heads = config.count("num_attention_heads")
    folder.sizes.update(
        d=config.count("hidden_size"),
        v=config.count("vocab_size"),
        f=config.count("intermediate_size"),
        h=config.count("num_key_value_heads", heads),
        p=2,
    )
    if heads % folder.sizes["h"]:
        raise config.error("num_key_value_heads", f"a divisor of {heads} heads")
    width = config.count("head_dim", folder.sizes["d"] // heads)
    if width % 2:
        raise config.error("head_dim", "even")
    folder.sizes.update(g=heads // folder.sizes["h"], i=width // 2, e=width)
    context = folder.context(config.count("max_position_embeddings", 2048))
    network = Network(folder, context, config.number("rms_norm_eps", 1e-6))
    add_decoder(folder, context, network.step)


@dataclass(frozen=True)
class Network:
    folder: Folder
    context: int
    epsilon: float

    def step(self, tokens: Node) -> Step:
        folder, updates = self.folder, []
        table = folder.weight("model.embed_tokens.weight", "v d")
        x = folder.named("embedding", gather(table, tokens, "v"))
        for layer in range(folder.config.count("num_hidden_layers")):
            with folder.builder.named(f"layers.{layer}"):
                where = f"model.layers.{layer}"
                attended, caches = self.attention(where, self.norm(x, f"{where}.input_layernorm"))
                x = folder.named("residual", x + attended)
                normed = self.norm(x, f"{where}.post_attention_layernorm")
                x = folder.named("output", x + self.feed_forward(f"{where}.mlp", normed))
                updates += caches
        last = self.norm(view(x, {"s": "r"}), "model.norm")
        tied = folder.config.flag("tie_word_embeddings", False)
        head = table if tied else folder.weight("lm_head.weight", "v d")
        return Step(folder.named("logits", dot(last, head, "d")), tuple(updates))

    def norm(self, x: Node, name: str) -> Node:
        weight = self.folder.weight(f"{name}.weight", "d")
        return self.folder.named("norm", formulas.rms_norm(x, weight, "d", self.epsilon))

    @cached_property
    def queries(self) -> str:
        """The axes of heads of queries."""
        return "h g" if self.folder.sizes["g"] > 1 else "h"

    def attention(self, where: str, x: Node) -> tuple[Node, list[Node]]:
        folder = self.folder
        parts = f"{where}.self_attn"
        q = dot(x, folder.weight(f"{parts}.q_proj.weight", f"({self.queries} p i) d"), "d")
        k = dot(x, folder.weight(f"{parts}.k_proj.weight", "(h p i) d"), "d")
        v = dot(x, folder.weight(f"{parts}.v_proj.weight", "(h e) d"), "d")
        q, k = (formulas.rope(part, self.angles, "p") for part in (q, k))
        keys = update(self.cache(f"{where}.keys", "t h p i"), k, {"t": "s"})
        values = update(self.cache(f"{where}.values", "t h e"), v, {"t": "s"})
        folder.named("queries", q)
        scores = formulas.attention_scores(q, keys, ("p", "i"), folder.sizes["e"] ** -0.5)
        mixed = formulas.attend(formulas.causal(scores, "s", "t"), values, "t")
        folder.named("attention", mixed)
        out = folder.weight(f"{parts}.o_proj.weight", f"d ({self.queries} e)")
        return dot(mixed, out, [*self.queries.split(), "e"]), [keys, values]

    @cached_property
    def angles(self) -> Node:
        config = self.folder.config
        theta = config.number("rope_theta", 10000.0)
        scaling = config.section("rope_scaling")
        if scaling is None:
            return formulas.rope_angles("s", "i", theta)
        scaled = scaled_frequencies(scaling, theta, self.folder.sizes["i"])
        return position("s") * self.folder.builder.weight("rope.frequencies", "i", scaled)

    def cache(self, name: str, axes: str) -> Input:
        """A kept tensor in the type of the weights."""
        dtype = self.folder.weight("model.embed_tokens.weight", "v d").dtype
        return self.folder.cache(name, axes, self.context, dtype)

    def feed_forward(self, where: str, x: Node) -> Node:
        folder = self.folder
        gate = dot(x, folder.weight(f"{where}.gate_proj.weight", "f d"), "d")
        up = dot(x, folder.weight(f"{where}.up_proj.weight", "f d"), "d")
        hidden = folder.named("gated", formulas.swiglu(gate, up))
        return dot(hidden, folder.weight(f"{where}.down_proj.weight", "d f"), "f")


def scaled_frequencies(scaling: Config, theta: float, pairs: int) -> NDArray[np.float32]:
    """The angle that each pair turns a position, stretched for long contexts."""
    kind = scaling.word("rope_type", scaling.word("type", "default"))
    plain = theta ** (-np.arange(pairs) / pairs)
    if kind == "default":
        return plain.astype(np.float32)
    stretched = plain / scaling.number("factor")
    if kind == "linear":
        return stretched.astype(np.float32)
    if kind != "llama3":
        raise scaling.error("rope_type", "default, linear or llama3")
    low, high = scaling.number("low_freq_factor"), scaling.number("high_freq_factor")
    turns = scaling.count("original_max_position_embeddings") * plain / (2 * np.pi)
    share = np.clip((turns - low) / (high - low), 0, 1)  # of the plain frequency
    return ((1 - share) * stretched + share * plain).astype(np.float32)
