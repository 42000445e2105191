"""Models: folders of files, and those that are shipped."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from infinisa.compiler.graph import Model

from ..hookspec import hookimpl
from .folder import read_model_folder
from .held_out import HELD_OUT

PYTHON_LM = Path(__file__).parent / "python_lm"
"""A small Llama trained on the Python standard library; its folder has a model card."""

PROMPT = '''\
class Cache:
    """Remember the last few values of a given function."""

    def __init__(self, func, size=16):
        self.func = func
        self.size = size
        self.data = {}

    def __getitem__(self, key):
        try:
            return'''
"""Exactly 64 tokens. It ends before a line break, which the tokenizer joins to the next line."""


def python_lm(tokens: int = 64, batch: int = 1, cache_type: str = "") -> Model:
    """A language model of 3.5 million parameters that writes Python."""
    model = read_model_folder(PYTHON_LM, tokens=tokens, batch=batch, cache_type=cache_type)
    return replace(model, example=PROMPT if batch == 1 else "")


@hookimpl
def infinisa_models() -> Mapping[str, Callable[..., Model]]:
    return {"python_lm": python_lm}


__all__ = ["HELD_OUT", "read_model_folder"]
