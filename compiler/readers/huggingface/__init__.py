"""Hugging Face folders: config.json and safetensors to a model.

| file | what it is |
|---|---|
| `checkpoint.py`, `config.py` | the files, checked entry by entry |
| `folder.py` | what all architectures share: weights, options, the graphs of a decoder |
| `llama.py`, `gpt2.py`, `bert.py` | an architecture each |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from infinisa.isa.garbage import uncollected

from ...builder import Builder
from ...graph import Model
from ..text import Codec
from . import bert, gpt2, llama
from .checkpoint import open_checkpoint
from .config import read_config
from .folder import Folder, Options

ARCHITECTURES: Mapping[str, Callable[[Folder], None]] = {
    "bert": bert.read,
    "gpt2": gpt2.read,
    "llama": llama.read,
}
"""Readers by the `model_type` of config.json."""


@uncollected()
def read_folder(
    path: str | Path,
    *,
    prompt: int = 64,
    tokens: int = 64,
    context: int | None = None,
    batch: int = 1,
    cache_type: str = "",
    codec: Codec | None = None,
) -> Model:
    """The model of a folder; the options are those of `Options`.

    A decoder (llama, gpt2) becomes graphs `prefill` and `decode`, an encoder (bert) graph
    `encoder`. With a codec they stand between `encode` and `detokenize`; without one, the ids of
    the prompt are an input and graph `begin` puts them into the token buffer.
    """
    folder = Path(path)
    config = read_config(folder / "config.json")
    kind = config.word("model_type")
    if kind not in ARCHITECTURES:
        raise config.error("model_type", f"one of {', '.join(ARCHITECTURES)}")
    options = Options(prompt, tokens, context, batch, cache_type, codec)
    reading = Folder(config, open_checkpoint(folder), options, Builder(folder.resolve().name))
    ARCHITECTURES[kind](reading)
    return reading.builder.model()


__all__ = ["Options", "read_folder"]
