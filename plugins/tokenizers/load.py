"""From a path to a tokenizer: the file says which kind it is."""

from __future__ import annotations

from pathlib import Path

from infinisa.isa.errors import ModelError

from . import byte_bpe, character, word, wordpiece
from .tables import Section, read_json, read_lines
from .tokenizer import Tokenizer

READERS = {"BPE": byte_bpe.read, "WordPiece": wordpiece.read, "WordLevel": word.read}


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a `tokenizer.json`, a `vocab.txt`, or a folder that holds one (the JSON file first).

    Truncation and padding of a `tokenizer.json` are not applied: ids are those of the whole text.
    """
    path = Path(path)
    if path.is_dir():
        path = file_in(path)
    if path.suffix == ".txt":
        return from_lines(path)
    return from_json(read_json(path))


def file_in(folder: Path) -> Path:
    for name in ("tokenizer.json", "vocab.txt"):
        if (folder / name).is_file():
            return folder / name
    raise ModelError(f"{folder}: the folder must hold a tokenizer.json or a vocab.txt, not neither")


def from_json(top: Section) -> Tokenizer:
    model = top.section("model")
    kind = model.string("type", "BPE" if "merges" in model.values else None)
    if kind not in READERS:
        raise model.error("type", "BPE, WordPiece or WordLevel")
    if kind != "WordPiece" and character.is_split(top):
        return character.read(top)
    return READERS[kind](top)


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
