"""GPT-2: learned positions, layer norms before each part, one product for queries, keys, values.

Axes: tokens s, keys t, width d, vocabulary v, feed-forward f, known positions j; queries, keys and
values c, heads h, their width w (of values and results e). Weights are stored input first.
"""

from __future__ import annotations

from dataclasses import dataclass

from infinisa.isa import formulas
from infinisa.isa.language import Node, dot, gather, update, view

from .folder import Folder, Step, add_decoder


def read(folder: Folder) -> None:
    config = folder.config
    config.require("scale_attn_by_inverse_layer_idx", False, False)
    config.require("scale_attn_weights", True, True)
    config.require("add_cross_attention", False, False)
    width = config.divided("n_embd", "n_head")
    folder.sizes.update(
        d=config.count("n_embd"),
        v=config.count("vocab_size"),
        f=config.count("n_inner", 4 * config.count("n_embd")),
        j=config.count("n_positions"),
        h=config.count("n_head"),
        c=3,
        w=width,
        e=width,
    )
    folder.with_prefix("transformer.", "wte.weight")
    context = folder.context(folder.sizes["j"])
    network = Network(folder, context, config.number("layer_norm_epsilon", 1e-5))
    add_decoder(folder, context, network.step)


@dataclass(frozen=True)
class Network:
    folder: Folder
    context: int
    epsilon: float

    def step(self, tokens: Node) -> Step:
        folder, updates = self.folder, []
        table = folder.weight("wte.weight", "v d")
        positions = view(folder.weight("wpe.weight", "j d"), {"j": "s"})
        x = folder.named("embedding", gather(table, tokens, "v") + positions)
        for layer in range(folder.config.count("n_layer")):
            with folder.builder.named(f"h.{layer}"):
                where = f"h.{layer}"
                attended, caches = self.attention(where, self.norm(x, f"{where}.ln_1"))
                x = folder.named("residual", x + attended)
                x = x + self.feed_forward(f"{where}.mlp", self.norm(x, f"{where}.ln_2"))
                folder.named("output", x)
                updates += caches
        last = self.norm(view(x, {"s": "r"}), "ln_f")
        return Step(folder.named("logits", dot(last, table, "d")), tuple(updates))

    def norm(self, x: Node, name: str) -> Node:
        weight, bias = (self.folder.weight(f"{name}.{part}", "d") for part in ("weight", "bias"))
        return self.folder.named("norm", formulas.layer_norm(x, weight, bias, "d", self.epsilon))

    def linear(self, x: Node, name: str, inner: str, outer: str) -> Node:
        """A layer whose weight is stored (inner, outer)."""
        over = inner.strip("()").split()
        product = dot(x, self.folder.weight(f"{name}.weight", f"{inner} {outer}"), over)
        return product + self.folder.weight(f"{name}.bias", outer)

    def attention(self, where: str, x: Node) -> tuple[Node, list[Node]]:
        folder = self.folder
        joint = folder.named("joint", self.linear(x, f"{where}.attn.c_attn", "d", "(c h w)"))
        q, k = view(joint, {"c": 0}), view(joint, {"c": 1})
        v = view(joint, {"c": 2, "w": "e"})
        keys = update(folder.cache(f"{where}.keys", "t h w", self.context), k, {"t": "s"})
        values = update(folder.cache(f"{where}.values", "t h e", self.context), v, {"t": "s"})
        scores = formulas.attention_scores(q, keys, "w", folder.sizes["w"] ** -0.5)
        mixed = formulas.attend(formulas.causal(scores, "s", "t"), values, "t")
        folder.named("attention", mixed)
        return self.linear(mixed, f"{where}.attn.c_proj", "(h e)", "d"), [keys, values]

    def feed_forward(self, where: str, x: Node) -> Node:
        activation = self.folder.activation("activation_function", "gelu_new")
        hidden = activation(self.linear(x, f"{where}.c_fc", "d", "f"))
        self.folder.named("hidden", hidden)
        return self.linear(hidden, f"{where}.c_proj", "f", "d")
