"""Whole models on one thread: ours and onnxruntime's, from the same Hugging Face folder.

A decoder's prompt and its tokens are contests of their own: decoding runs the same tokens again and
again behind the same prompt.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from infinisa import api
from infinisa.plugins.models import PYTHON_LM, read_model_folder
from infinisa.runtime import host
from infinisa.runtime.jit import Session, compile_program

from . import _onnx
from ._contest import OURS, Array, Call, Contest, difference
from .overview import MINILM, write_gpt2

RUNTIME = "onnxruntime"
SEED = 0
TOKENS = 16
"""Decoded in one run."""

LLAMA = {
    "model_type": "llama", "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8,
    "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 8192,
    "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "hidden_act": "silu", "head_dim": 64, "tie_word_embeddings": True,
}  # fmt: skip
TABLES = ("wte", "wpe", "embed", "lm_head")
"""Matrices that are not multiplied by every position of a prompt."""

SENTENCES, SENTENCE = 32, 24
"""How many sentences, and how many tokens each has."""


def contests() -> Iterator[Callable[[], Contest]]:
    scratch = Path(mkdtemp())
    gpt2, llama = scratch / "gpt2", scratch / "llama"
    write_gpt2(gpt2)
    write_llama(llama)
    yield partial(prefill, "GPT-2 small", gpt2, 128, 1.2, 0.86)
    yield partial(decode, "GPT-2 small", gpt2, 192, 1.22)
    yield partial(prefill, "python_lm", PYTHON_LM, 64, 1.25)
    yield partial(decode, "python_lm", PYTHON_LM, 64, 1.25)
    yield partial(prefill, "small Llama", llama, 128, 1.25)
    yield partial(decode, "small Llama", llama, 128, 1.25)
    found = importlib.util.find_spec(MINILM)
    if found and found.origin:
        minilm = Path(found.origin).parent / "model"
        yield partial(sentences, minilm, 1)
        yield partial(sentences, minilm, SENTENCES)


def write_llama(folder: Path) -> None:
    """A folder of a Llama's shape with random weights."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA), "utf-8")
    source = np.random.default_rng(SEED)
    d, f, words = 512, 1408, 8192
    keys = d // 8 * 4
    shapes = {"model.embed_tokens.weight": (words, d)}
    for layer in range(8):
        name = f"model.layers.{layer}"
        shapes |= {f"{name}.self_attn.{part}_proj.weight": (rows, d)
                   for part, rows in (("q", d), ("k", keys), ("v", keys), ("o", d))}  # fmt: skip
        shapes |= {f"{name}.mlp.{part}_proj.weight": (f, d) for part in ("gate", "up")}
        shapes |= {f"{name}.mlp.down_proj.weight": (d, f)}
    weights = {
        name: source.standard_normal(shape, np.float32) * np.float32(0.03)
        for name, shape in shapes.items()
    }
    norms = ["model.norm", *(f"model.layers.{n}.{part}_layernorm" for n in range(8)
                             for part in ("input", "post_attention"))]  # fmt: skip
    weights |= {f"{name}.weight": np.ones(d, np.float32) for name in norms}
    save_file(weights, folder / "model.safetensors")


@dataclass(frozen=True)
class Decoder:
    """A folder as ours and as onnxruntime's, behind a prompt.

    products  operations of the layers' matrices on the prompt
    """

    ids: Array
    session: Session
    compiling: float
    products: float
    peer: _onnx.Decoder

    @staticmethod
    def of(folder: Path, prompt: int, **options: Any) -> Decoder:
        """`options` are those of `compile_program`; the peer has one thread."""
        model = read_model_folder(folder, prompt=prompt, tokens=TOKENS + 1, text=False)
        compiled = api.load(model).compile(host.probe())
        made = compile_program(compiled.program, compiled.library, **options)
        words = json.loads((folder / "config.json").read_text("utf-8"))["vocab_size"]
        ids = np.random.default_rng(SEED).integers(0, words, prompt).astype(np.int32)
        session = made.session({**compiled.weights, "prompt_ids": ids})
        matrices = (
            array.size
            for name, array in _onnx.read_weights(folder).items()
            if array.ndim == 2 and not any(part in name for part in TABLES)
        )
        products = 2.0 * prompt * sum(matrices)
        return Decoder(ids, session, made.seconds, products, _onnx.decoder(folder))

    @property
    def parameters(self) -> dict[str, int]:
        return {"prompt": len(self.ids), "tokens": TOKENS + 1}

    def error(self, section: str, logits: Array) -> float:
        """Against onnxruntime: the largest difference over the largest logit."""
        mine = self.session.run({}, self.parameters).outputs[f"{section}/logits"]
        return difference(np.asarray(mine).reshape(-1), np.asarray(logits, np.float64).reshape(-1))


def prefill(
    name: str, folder: Path, prompt: int, ratio: float, share: float | None = None
) -> Contest:
    """A prompt through a model, to the logits of its last position."""
    made = Decoder.of(folder, prompt)
    given, empty = made.peer.inputs(made.ids, 0), made.peer.empty()
    logits, _ = made.peer.step(given, empty)
    error = made.error("prefill", logits)
    calls: dict[str, Call] = {
        OURS: made.session.step(made.parameters, ("prefill",)),
        RUNTIME: lambda: made.peer.step(given, empty),
    }
    title = f"{name}, prompt of {prompt}"

    def threaded(threads: int) -> Call:
        more = Decoder.of(folder, prompt, backend="parallel", threads=threads)
        return more.session.step(more.parameters, ("prefill",))

    return Contest("models", title, calls, made.products, ratio=ratio, share=share, error=error,
                   compiling=made.compiling, threaded={OURS: threaded})  # fmt: skip


def decode(name: str, folder: Path, prompt: int, ratio: float) -> Contest:
    """Tokens behind a prompt, one after the other."""
    made = Decoder.of(folder, prompt)
    result = made.session.run({}, made.parameters)
    following = np.array(result.kept["ids"])[prompt : prompt + TOKENS]
    _, behind = made.peer.step(made.peer.inputs(made.ids, 0), made.peer.empty())
    steps = [made.peer.inputs(following[turn : turn + 1], prompt + turn) for turn in range(TOKENS)]

    def peer() -> Array:
        past, logits = behind, np.empty(0, np.float32)
        for given in steps:
            logits, past = made.peer.step(given, past)
        return logits

    error = made.error("decode", peer())
    calls: dict[str, Call] = {
        OURS: made.session.step(made.parameters, ("decode",)),
        RUNTIME: peer,
    }
    title = f"{name}, {TOKENS} tokens behind {prompt}"
    return Contest("models", title, calls, ratio=ratio, error=error, compiling=made.compiling)


def sentences(folder: Path, number: int) -> Contest:
    """Sentences to embeddings; onnxruntime takes one at a time too, which is faster for it."""
    model = read_model_folder(folder, prompt=SENTENCE, text=False)
    compiled = api.load(model).compile(host.probe())
    made = compile_program(compiled.program, compiled.library)
    given = np.random.default_rng(SEED).integers(1000, 30000, (number, SENTENCE)).astype(np.int32)
    session = made.session({**compiled.weights, "prompt_ids": given[0]})
    step, place = session.step({"prompt": SENTENCE}), session.tensors["prompt_ids"]
    peer = _onnx.bert(folder)
    inputs = [{"ids": ids.astype(np.int64), "positions": np.arange(SENTENCE)} for ids in given]

    def ours() -> None:
        for ids in given:
            place[:SENTENCE] = ids
            step()

    def theirs() -> Array:
        found: Array = [peer.run(["embedding"], each)[0] for each in inputs][-1]
        return found

    expected = theirs().astype(np.float64)
    ours()
    (output,) = (name for name in session.tensors if name.endswith("/embedding"))
    error = difference(session.tensors[output], expected)
    calls: dict[str, Call] = {OURS: ours, RUNTIME: theirs}
    title = f"MiniLM-L6, {number} of {SENTENCE} tokens"
    return Contest("models", title, calls, ratio=1.25, error=error, compiling=made.seconds)
