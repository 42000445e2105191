"""Whole models on one thread: ours and onnxruntime's, from the same Hugging Face folder.

A decoder's prompt and its tokens are contests of their own: decoding runs the same tokens again and
again behind the same prompt. Errors are root mean squares of the difference from float64, over
those of the values; of a folder in bf16 they are those of the same numbers in f32, since keys and
values that are rounded to bf16 differ by a whole step wherever two sums are near a tie.

llama.cpp, where it is installed, decodes the same weights: its formats beside ours.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from infinisa import api
from infinisa.plugins.models import PYTHON_LM, read_model_folder
from infinisa.runtime import host
from infinisa.runtime.jit import Session, compile_program

from . import _float64, _llama_cpp, _onnx
from ._contest import OURS, Array, Call, Contest
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


def contests(llama_cpp: bool = False) -> Iterator[Callable[[], Contest]]:
    """`llama_cpp`: it is installed."""
    with TemporaryDirectory() as scratch:
        gpt2, llama = Path(scratch) / "gpt2", Path(scratch) / "llama"
        write_gpt2(gpt2)
        write_llama(llama)
        yield partial(prefill, "GPT-2 small", gpt2, 128, 1.2, 0.86)
        yield partial(decode, "GPT-2 small", gpt2, 192, 1.22)
        if llama_cpp:
            for form in LLAMA_CPP:
                yield partial(decode_beside_llama_cpp, gpt2, 192, form)
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


@contextmanager
def in_f32(folder: Path) -> Iterator[Path]:
    """The folder, or a copy of it whose numbers are f32."""
    if _onnx.stored_in(folder) == "F32":
        yield folder
        return
    with TemporaryDirectory() as scratch:
        copy = Path(scratch) / folder.name
        copy.mkdir()
        shutil.copy(folder / "config.json", copy)
        save_file(_onnx.read_weights(folder), copy / "model.safetensors")
        yield copy


def distance(found: Array, expected: Array) -> float:
    """The root mean square of the difference, over that of the values."""
    gap = np.asarray(found, np.float64).reshape(-1) - expected.reshape(-1)
    return float(np.linalg.norm(gap) / np.linalg.norm(expected))


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
    def of(folder: Path, prompt: int, cache_type: str = "", **options: Any) -> Decoder:
        """`options` are those of `compile_program`; the peer has one thread."""
        model = read_model_folder(
            folder, prompt=prompt, tokens=TOKENS + 1, cache_type=cache_type, text=False
        )
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

    def following(self) -> Array:
        """The tokens that ours has behind the prompt."""
        ids = np.array(self.session.run({}, self.parameters).kept["ids"])
        return ids[len(self.ids) : len(self.ids) + TOKENS]

    def theirs(self, following: Array) -> Callable[[], Array]:
        """A call that gives the peer's logits behind the prompt and these tokens."""
        prompt = len(self.ids)
        _, behind = self.peer.step(self.peer.inputs(self.ids, 0), self.peer.empty())
        places = range(len(following))
        steps = [self.peer.inputs(following[n : n + 1], prompt + n) for n in places]

        def run() -> Array:
            past, logits = behind, np.empty(0, np.float32)
            for given in steps:
                logits, past = self.peer.step(given, past)
            return logits

        return run


def errors(folder: Path, prompt: int, section: str) -> tuple[float, float]:
    """Ours and the peer's, beside float64: of the prompt's logits, or of the last token's."""
    with in_f32(folder) as judged:
        made = Decoder.of(judged, prompt)
        mine = made.session.run({}, made.parameters).outputs[f"{section}/logits"].copy()
        ids = made.ids
        logits, _ = made.peer.step(made.peer.inputs(ids, 0), made.peer.empty())
        if section == "decode":
            following = made.following()
            ids, logits = np.concatenate([ids, following]), made.theirs(following)()
        expected = _float64.logits(judged, ids)
        return distance(mine, expected), distance(logits, expected)


def prefill(
    name: str, folder: Path, prompt: int, ratio: float, share: float | None = None
) -> Contest:
    """A prompt through a model, to the logits of its last position."""
    made = Decoder.of(folder, prompt)
    given, empty = made.peer.inputs(made.ids, 0), made.peer.empty()
    error, peer_error = errors(folder, prompt, "prefill")
    calls: dict[str, Call] = {
        OURS: made.session.step(made.parameters, ("prefill",)),
        RUNTIME: lambda: made.peer.step(given, empty),
    }
    title = f"{name}, prompt of {prompt}"

    def threaded(threads: int) -> Call:
        more = Decoder.of(folder, prompt, backend="parallel", threads=threads)
        return more.session.step(more.parameters, ("prefill",))

    return Contest("models", title, calls, made.products, ratio=ratio, share=share,
                   error=error, peer_error=peer_error, compiling=made.compiling,
                   threaded={OURS: threaded})  # fmt: skip


def decode(name: str, folder: Path, prompt: int, ratio: float) -> Contest:
    """Tokens behind a prompt, one after the other."""
    made = Decoder.of(folder, prompt)
    peer = made.theirs(made.following())
    calls: dict[str, Call] = {
        OURS: made.session.step(made.parameters, ("decode",)),
        RUNTIME: peer,
    }
    title = f"{name}, {TOKENS} tokens behind {prompt}"
    error, peer_error = errors(folder, prompt, "decode")
    return Contest("models", title, calls, ratio=ratio, error=error, peer_error=peer_error,
                   compiling=made.compiling)  # fmt: skip


LLAMA_CPP = {
    "f32": ("F32", "", 1.22), "int8": ("Q8_0", "int8", 1.5), "int8/32": ("Q8_0", "int8", 1.25),
    "int4/32": ("Q4_0", "int8", 1.85),
}  # fmt: skip
"""Formats of our weights: (llama.cpp's, that of our activations, of its speed). With Q8_0 and Q4_0
it rounds activations to int8 too, in groups of 32; both keep keys and values in f16."""


def decode_beside_llama_cpp(folder: Path, prompt: int, form: str) -> Contest:
    """The same tokens by llama.cpp, which does not see ours; errors are those of one of them."""
    theirs, activations, ratio = LLAMA_CPP[form]
    weights = "" if form == "f32" else form
    made = Decoder.of(folder, prompt, "f16", weights=weights, activations=activations)
    following = made.following()
    mine = made.session.run({}, made.parameters).outputs["decode/logits"].copy()
    file = folder / f"{theirs}.gguf"
    if not file.exists():
        _llama_cpp.write_gguf(folder, file, theirs)
    peer = _llama_cpp.Decoder(file, made.ids)
    run = peer.tokens(following)
    run()
    expected = _float64.logits(folder, np.concatenate([made.ids, following]))
    calls: dict[str, Call] = {
        OURS: made.session.step(made.parameters, ("decode",)),
        f"llama.cpp {theirs}": run,
    }
    title = f"GPT-2 small in {form}, {TOKENS} tokens behind {prompt}"
    judged = distance(peer.logits(), expected) if form == "f32" else None
    return Contest("models", title, calls, ratio=ratio, error=distance(mine, expected),
                   peer_error=judged, compiling=made.compiling)  # fmt: skip


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

    ours()
    expected, last = _float64.embedding(folder, given[-1]), theirs()
    (output,) = (name for name in session.tensors if name.endswith("/embedding"))
    error, peer_error = (distance(found, expected) for found in (session.tensors[output], last))
    calls: dict[str, Call] = {OURS: ours, RUNTIME: theirs}
    title = f"MiniLM-L6, {number} of {SENTENCE} tokens"
    return Contest("models", title, calls, ratio=1.25, error=error, peer_error=peer_error,
                   compiling=made.seconds)  # fmt: skip
