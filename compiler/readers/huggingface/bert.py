"""BERT, and sentence embeddings from it: learned positions, layer norms after each part.

Axes: tokens s, keys t, width d, vocabulary v, feed-forward f, known positions j, segments y; heads
h, their width w (of values and results e).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from infinisa.isa import formulas
from infinisa.isa.errors import ModelError
from infinisa.isa.language import Node, dot, gather, max, mean, rename, view

from .checkpoint import read_json
from .config import Config, read_config
from .folder import Folder, add_prompt, token_buffer


def read(folder: Folder) -> None:
    config, b = folder.config, folder.builder
    config.require("position_embedding_type", "absolute", "absolute")
    config.require("is_decoder", False, False)
    if folder.options.cache_type:
        raise ModelError(f"{config.file.parent}: an encoder keeps no keys and values")
    width = config.divided("hidden_size", "num_attention_heads")
    folder.sizes.update(
        d=config.count("hidden_size"),
        v=config.count("vocab_size"),
        f=config.count("intermediate_size"),
        j=config.count("max_position_embeddings"),
        y=config.count("type_vocab_size", 2),
        h=config.count("num_attention_heads"),
        w=width,
        e=width,
    )
    folder.with_prefix("bert.", "embeddings.word_embeddings.weight")
    context = folder.context(folder.sizes["j"])
    ids = token_buffer(folder, context)
    prompt = add_prompt(folder, ids, context, context)
    hidden = Network(folder, config.number("layer_norm_eps", 1e-12)).hidden(view(ids, {"n": "s"}))
    graph = b.graph("encoder")
    graph.axis("s", prompt)
    graph.axis("t", prompt)
    graph.works_on(prompt * folder.options.batch)
    graph.output("hidden", hidden)
    graph.output("embedding", b.name("embedding", pooled(config.file.parent, hidden)))


@dataclass(frozen=True)
class Network:
    folder: Folder
    epsilon: float

    def hidden(self, tokens: Node) -> Node:
        folder = self.folder
        with folder.builder.named("embeddings"):
            words = folder.weight("embeddings.word_embeddings.weight", "v d")
            positions = folder.weight("embeddings.position_embeddings.weight", "j d")
            segments = folder.weight("embeddings.token_type_embeddings.weight", "y d")
            x = gather(words, tokens, "v") + view(segments, {"y": 0}) + view(positions, {"j": "s"})
            x = self.norm(x, "embeddings.LayerNorm")
        for layer in range(folder.config.count("num_hidden_layers")):
            with folder.builder.named(f"layer.{layer}"):
                where = f"encoder.layer.{layer}"
                attended = self.attention(f"{where}.attention", x)
                x = self.norm(x + attended, f"{where}.attention.output.LayerNorm")
                x = self.norm(x + self.feed_forward(where, x), f"{where}.output.LayerNorm")
        return x

    def norm(self, x: Node, name: str) -> Node:
        weight, bias = (self.folder.weight(f"{name}.{part}", "d") for part in ("weight", "bias"))
        return self.folder.named("norm", formulas.layer_norm(x, weight, bias, "d", self.epsilon))

    def linear(self, x: Node, name: str, outer: str, inner: str) -> Node:
        """A layer whose weight is stored (outer, inner)."""
        over = inner.strip("()").split()
        product = dot(x, self.folder.weight(f"{name}.weight", f"{outer} {inner}"), over)
        return product + self.folder.weight(f"{name}.bias", outer)

    def attention(self, where: str, x: Node) -> Node:
        folder = self.folder
        q = self.linear(x, f"{where}.self.query", "(h w)", "d")
        k = rename(self.linear(x, f"{where}.self.key", "(h w)", "d"), {"s": "t"})
        v = rename(self.linear(x, f"{where}.self.value", "(h e)", "d"), {"s": "t"})
        scores = formulas.attention_scores(q, k, "w", folder.sizes["w"] ** -0.5)
        mixed = folder.named("attention", formulas.attend(scores, v, "t"))
        return self.linear(mixed, f"{where}.output.dense", "d", "(h e)")

    def feed_forward(self, where: str, x: Node) -> Node:
        activation = self.folder.activation("hidden_act", "gelu")
        hidden = activation(self.linear(x, f"{where}.intermediate.dense", "f", "d"))
        self.folder.named("hidden", hidden)
        return self.linear(hidden, f"{where}.output.dense", "d", "f")


# ---------------------------------------------------------------- sentence embeddings


def pooled(folder: Path, hidden: Node) -> Node:
    """A sentence's vector, as the folder's modules.json says; without one: mean, length 1."""
    modules = module_paths(folder / "modules.json")
    if "Pooling" not in modules:
        raise ModelError(f"{folder / 'modules.json'}: must have a Pooling module")
    vector = pooling(folder / modules["Pooling"] / "config.json", hidden)
    return formulas.l2_normalize(vector, "d") if "Normalize" in modules else vector


def module_paths(file: Path) -> dict[str, str]:
    """The folders of sentence-transformers' modules by the last word of their type."""
    if not file.is_file():
        return {"Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    found = {}
    modules = read_json(file)
    for module in modules if isinstance(modules, list) else [modules]:
        match module:
            case {"type": str(kind), "path": str(path)}:
                found[kind.rpartition(".")[2]] = path
            case _:
                raise ModelError(f"{file}: must be a list of modules with type and path")
    return found


def pooling(file: Path, hidden: Node) -> Node:
    config = read_config(file) if file.is_file() else Config(file, {})
    if config.flag("pooling_mode_cls_token", False):
        return view(hidden, {"s": 0})
    if config.flag("pooling_mode_max_tokens", False):
        return max(hidden, "s")
    if config.flag("pooling_mode_mean_tokens", True):
        return mean(hidden, "s")
    raise ModelError(f"{file}: pooling must be by cls token, max or mean")
