"""What the readers of one architecture share: weights by name and shape, options, graphs."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from infinisa.isa import formulas
from infinisa.isa.errors import ModelError
from infinisa.isa.language import Axis, Input, Node, argmax, relu, tanh, update, view
from infinisa.isa.program import Count, Repeat

from ...builder import Builder, GraphBuilder
from ..text import SLACK, Codec, add_decode, add_encode
from .checkpoint import Checkpoint
from .config import Config

ACTIVATIONS: Mapping[str, Callable[[Node], Node]] = {
    "gelu": formulas.gelu_erf,
    "gelu_new": formulas.gelu_tanh,
    "gelu_pytorch_tanh": formulas.gelu_tanh,
    "relu": relu,
    "silu": formulas.silu,
    "swish": formulas.silu,
    "tanh": tanh,
}

DEFAULT_CONTEXT = 1024

CACHE_TYPES = ("f32", "f16", "bf16")


@dataclass(frozen=True)
class Options:
    """What the caller chooses.

    prompt      how many tokens a prompt has, where nothing else says so
    tokens      how many tokens are generated
    context     positions that the caches have (None: as many as the model allows, at most 1024 or
                what prompt and tokens need)
    batch       how many sequences, equally long, are worked on at a time
    cache_type  in which keys and values are kept: "f32", "f16" or "bf16" ("": as the model has it)
    codec       the tokenizer, if there is one and the batch is of one
    """

    prompt: int = 64
    tokens: int = 64
    context: int | None = None
    batch: int = 1
    cache_type: str = ""
    codec: Codec | None = None

    def __post_init__(self) -> None:
        if self.cache_type not in ("", *CACHE_TYPES):
            known = ", ".join(CACHE_TYPES)
            raise ModelError(f"cache type must be one of {known}, not {self.cache_type!r}")
        if self.batch < 1:
            raise ModelError(f"batch must be at least 1, not {self.batch}")
        if self.batch > 1 and self.codec:
            raise ModelError(f"batch must be 1 where text is read, not {self.batch}")


@dataclass
class Folder:
    """A model being read: its files, its builder and the lengths of its axes."""

    config: Config
    checkpoint: Checkpoint
    options: Options
    builder: Builder
    prefix: str = ""
    sizes: dict[Axis, int] = field(default_factory=dict)

    def weight(self, name: str, axes: str) -> Input:
        """A tensor by name and axes, such as "(h e) d": axes in parentheses share a dimension."""
        title = self.prefix + name
        if title in self.builder.weights:
            return self.builder.weights[title].input
        groups = [(a or b).split() for a, b in re.findall(r"\(([^)]*)\)|(\S+)", axes)]
        lengths = [[self.sizes[axis] for axis in group] for group in groups]
        stored = self.checkpoint.tensor(title, [math.prod(group) for group in lengths])
        shape = tuple(length for group in lengths for length in group)
        return self.builder.weight(
            title,
            " ".join(axis for group in groups for axis in group),
            lambda: stored.load(shape),
            shape=shape,
            dtype=stored.dtype,
            content=stored.content,
        )

    def with_prefix(self, prefix: str, name: str) -> None:
        """Names may start with `prefix`: they do if tensor `name` is found with it only."""
        found = name not in self.checkpoint and prefix + name in self.checkpoint
        self.prefix = prefix if found else ""

    def activation(self, key: str, default: str) -> Callable[[Node], Node]:
        name = self.config.word(key, default)
        if name not in ACTIVATIONS:
            raise self.config.error(key, f"one of {', '.join(ACTIVATIONS)}")
        return ACTIVATIONS[name]

    def context(self, most: int) -> int:
        """How many positions there are room for, given the most that the model knows."""
        options = self.options
        wanted = options.context or max(DEFAULT_CONTEXT, options.prompt + options.tokens)
        if not wanted >= 2:
            raise ModelError(f"context must be at least 2, not {wanted}")
        return min(most, wanted)

    def each(self, axes: str, **lengths: int) -> tuple[str, list[int]]:
        """Axes and shape of what every sequence has its own of: those of a batch are over z."""
        batch = self.options.batch
        axes = f"z {axes}" if batch > 1 else axes
        sizes = self.sizes | {"z": batch} | lengths
        return axes, [sizes[axis] for axis in axes.split()]

    def cache(self, name: str, axes: str, context: int, dtype: str = "f32") -> Input:
        """What every sequence keeps of its positions t, in this type if nobody chose one."""
        axes, shape = self.each(axes, t=context)
        return self.builder.kept(name, f"{axes}: {self.options.cache_type or dtype}", shape)

    def named(self, name: str, node: Node) -> Node:
        return self.builder.name(name, node)


# ---------------------------------------------------------------- decoders


@dataclass(frozen=True)
class Step:
    """One pass of a decoder: tokens at positions s give logits at position r and new caches."""

    logits: Node
    updates: tuple[Node, ...]


def token_buffer(folder: Folder, context: int) -> Input:
    """The kept ids of all positions; an encoder needs some room behind them."""
    length = context + (SLACK if folder.options.codec else 0)
    folder.builder.axis("n", length)
    axes, shape = folder.each("n", n=length)
    return folder.builder.kept("ids", f"{axes}: i32", shape)


def add_prompt(folder: Folder, ids: Input, context: int, most: int) -> Count:
    """Parameter `prompt` and the graph that fills the buffer: from text, or from input ids."""
    b, codec = folder.builder, folder.options.codec
    default = min(folder.options.prompt, most)
    prompt = b.parameter("prompt", most=most, default=default, given=codec is None)
    if codec:
        add_encode(b, codec, ids, 4 * context, "prompt")
    else:
        axes, shape = folder.each("s", s=context)
        given = b.input("prompt_ids", f"{axes}: i32", shape)
        graph = b.graph("begin")
        graph.axis("s", prompt)
        graph.update(update(ids, given, {"n": "s"}))
    return prompt


def add_decoder(folder: Folder, context: int, network: Callable[[Node], Step]) -> None:
    """The graphs of a language model that generates the likeliest token, one after the other.

    `network` is given the tokens at positions s; keys run over t, the last position is r.
    """
    b = folder.builder
    ids = token_buffer(folder, context)
    prompt = add_prompt(folder, ids, context, context - 1)
    most = context - 1
    tokens = b.parameter("tokens", most=most, default=min(folder.options.tokens, most))
    turn = b.parameter("turn", most=most, default=0, given=False)
    step = network(view(ids, {"n": "s"}))
    following = b.name("next", argmax(step.logits, "v"))

    def finish(graph: GraphBuilder, last: Count) -> None:
        """The token after position `last` must still have a place, so `last` is before `most`."""
        graph.axis("t", last + 1, most=most)
        graph.axis("r", 1, start=last, end=most)
        graph.output("logits", step.logits)
        for cache in step.updates:
            graph.update(cache)
        graph.update(update(ids, following, {"n": "r + 1"}))

    prefill = b.graph("prefill")
    prefill.axis("s", prompt)
    prefill.works_on(prompt * folder.options.batch)
    finish(prefill, prompt + -1)
    decode = b.graph("decode", Repeat("turn", tokens + -1))
    decode.axis("s", 1, start=prompt + turn, end=most)
    decode.works_on(folder.options.batch)
    finish(decode, prompt + turn)
    if folder.options.codec:
        add_decode(b, folder.options.codec, view(ids, {"n": "s"}), prompt, tokens)
