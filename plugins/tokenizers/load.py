"""From a path to a tokenizer: the file says which kind it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

from infinisa.isa.errors import ModelError

from . import byte_bpe, character, word, wordpiece
from .tables import Section, read_json, read_lines
from .tokenizer import Tokenizer

Read: TypeAlias = Callable[[Section], Tokenizer]
"""From what a tokenizer.json holds to a tokenizer."""

READERS: Mapping[str, Read] = {
    "BPE": byte_bpe.read,
    "WordPiece": wordpiece.read,
    "WordLevel": word.read,
}
"""What InfinISA reads itself, by the `model.type` of the file."""


def load_tokenizer(path: Path, readers: Mapping[str, Read] = READERS) -> Tokenizer:
    """Read a `tokenizer.json`, a `vocab.txt`, or a folder that holds one (the JSON file first).

    Truncation and padding of a `tokenizer.json` are not applied: ids are those of the whole text.
    """
    path = Path(path)
    if path.is_dir():
        path = file_in(path)
    if path.suffix == ".txt":
        return from_lines(path)
    return from_json(read_json(path), readers)


def file_in(folder: Path) -> Path:
    for name in ("tokenizer.json", "vocab.txt"):
        if (folder / name).is_file():
            return folder / name
    raise ModelError(f"{folder}: the folder must hold a tokenizer.json or a vocab.txt, not neither")


def from_json(top: Section, readers: Mapping[str, Read] = READERS) -> Tokenizer:
    model = top.section("model")
    kind = model.string("type", "BPE" if "merges" in model.values else None)
    if kind not in readers:
        raise model.error("type", f"one of {', '.join(readers)}")
    if kind in ("BPE", "WordLevel") and character.is_split(top):
        return character.read(top)
    return readers[kind](top)


def from_lines(path: Path) -> Tokenizer:
    lines = read_lines(path)
    if character.is_lines(lines):
        return character.from_lines(lines, str(path))
    if "[UNK]" not in lines:
        raise ModelError(
            f"{path}: the file must have one character a line, "
            "or WordPiece tokens with [UNK]; it has neither"
        )
    return wordpiece.from_lines(lines, str(path), lower_case(path.parent))


def lower_case(folder: Path) -> bool:
    """`do_lower_case` of the `tokenizer_config.json` in the folder; true without one."""
    config = folder / "tokenizer_config.json"
    return read_json(config).flag("do_lower_case", True) if config.is_file() else True
