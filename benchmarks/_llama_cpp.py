"""llama.cpp's Python build, where it is installed: a GPT-2 folder as a GGUF file, decoded."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._onnx import read_config, read_weights

Array = NDArray[Any]

NAMES = {
    "wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm", "ln_1": "attn_norm",
    "ln_2": "ffn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output",
    "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down",
}  # fmt: skip
"""What GGUF calls the parts of a GPT-2."""


def write_gguf(folder: Path, file: Path, form: str) -> None:
    """A Hugging Face folder of a GPT-2 without its words; matrices as F32, Q8_0 or Q4_0."""
    import gguf

    config, kind = read_config(folder), gguf.GGMLQuantizationType[form]
    writer = gguf.GGUFWriter(file, "gpt2")
    writer.add_block_count(config["n_layer"])
    writer.add_context_length(config["n_positions"])
    writer.add_embedding_length(config["n_embd"])
    writer.add_feed_forward_length(4 * config["n_embd"])
    writer.add_head_count(config["n_head"])
    writer.add_layer_norm_eps(config["layer_norm_epsilon"])
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(config["vocab_size"])
    for name, array in read_weights(folder).items():
        part, _, what = name.rpartition(".")
        layer = ""
        if part.startswith("h."):
            _, number, part = part.split(".", 2)
            layer = f"blk.{number}."
        inner_first = part.startswith(("attn.", "mlp.")) and what == "weight"
        array = np.ascontiguousarray(array.T) if inner_first else array
        title = f"{layer}{NAMES[part]}.{what}"
        if array.ndim == 2 and part != "wpe" and form != "F32":
            array = gguf.quants.quantize(array, kind)
            writer.add_tensor(title, array, raw_dtype=kind)
        else:
            writer.add_tensor(title, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Decoder:
    """A GGUF file on one thread, behind a prompt."""

    def __init__(self, file: Path, ids: Array) -> None:
        import llama_cpp as native

        self.native = native
        self.quiet = native.llama_log_callback(lambda *_: None)
        native.llama_log_set(self.quiet, None)
        native.llama_backend_init()
        given = native.llama_model_default_params()
        given.n_gpu_layers = 0
        self.model = native.llama_model_load_from_file(str(file).encode(), given)
        if not self.model:
            raise ValueError(f"llama.cpp cannot read {file}")
        options = native.llama_context_default_params()
        options.n_ctx, options.n_batch, options.n_ubatch = 512, 512, 512
        options.n_threads = options.n_threads_batch = 1
        self.context = native.llama_init_from_model(self.model, options)
        self.memory = native.llama_get_memory(self.context)
        self.words = native.llama_vocab_n_tokens(native.llama_model_get_vocab(self.model))
        self.prompt = len(ids)
        self._decode(ids)

    def _decode(self, ids: Array) -> None:
        tokens = (self.native.llama_token * len(ids))(*ids.tolist())
        batch = self.native.llama_batch_get_one(tokens, len(ids))
        if self.native.llama_decode(self.context, batch) != 0:
            raise ValueError("llama.cpp cannot decode")

    def tokens(self, ids: Array) -> Callable[[], object]:
        """A call that decodes these behind the prompt, one after the other."""
        each = [ids[place : place + 1] for place in range(len(ids))]

        def run() -> None:
            self.native.llama_memory_seq_rm(self.memory, 0, self.prompt, -1)
            for one in each:
                self._decode(one)

        return run

    def logits(self) -> Array:
        """Of the last token."""
        found = self.native.llama_get_logits_ith(self.context, -1)
        whole = ctypes.cast(found, ctypes.POINTER(ctypes.c_float * self.words)).contents
        return np.array(whole, np.float32)
