"""A Hugging Face folder with its tokenizer: text in, text or an embedding out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from infinisa.compiler.graph import Model
from infinisa.compiler.readers import lac
from infinisa.compiler.readers.huggingface import read_folder
from infinisa.isa.errors import ModelError
from infinisa.isa.instruction import Instruction

from ..families.tagging import read_lac
from ..families.tokenization import ENCODERS, codec
from ..tokenizers import READERS, Read, load_tokenizer

TOKENIZER_FILES = ("tokenizer.json", "vocab.txt")


def read_model_folder(
    path: str | Path,
    *,
    prompt: int = 64,
    tokens: int = 64,
    context: int | None = None,
    batch: int = 1,
    cache_type: str = "",
    text: bool = True,
    tokenizers: Mapping[str, Read] = READERS,
    library: Mapping[str, Instruction] = ENCODERS,
) -> Model:
    """The model of a folder; its tokenizer, if it has one and `text` is wanted, is part of it.
    A batch of several sequences is of ids, without text.

    tokenizers  readers by the algorithm that a tokenizer.json names
    library     the instructions, by name, among which the encoder of the tokenizer is

    The other options are those of `infinisa.compiler.readers.huggingface.Options`.
    """
    folder = Path(path)
    if lac.is_folder(folder):
        if batch != 1:
            raise ModelError(f"model {path}: works on one text at a time, not {batch}")
        if cache_type:
            raise ModelError(f"model {path}: keeps no keys and values")
        return read_lac(folder)
    with_text = text and batch == 1 and any((folder / name).is_file() for name in TOKENIZER_FILES)
    tokenizer = codec(load_tokenizer(folder, tokenizers), library) if with_text else None
    return read_folder(
        folder,
        prompt=prompt,
        tokens=tokens,
        context=context,
        batch=batch,
        cache_type=cache_type,
        codec=tokenizer,
    )
