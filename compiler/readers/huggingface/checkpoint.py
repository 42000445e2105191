"""A folder's safetensors files: tensors by name, read when something needs their values.

A file is eight bytes (the header's length, little-endian), a JSON header (type, shape and range of
every tensor) and the data. Files that pickle are never opened.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infinisa.isa.dtypes import DTYPES
from infinisa.isa.errors import ModelError

Array = NDArray[Any]

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED = (".bin", ".pt", ".pth", ".ckpt")

TYPES = {
    "BOOL": "bool", "I8": "i8", "U8": "u8", "I16": "i16", "I32": "i32", "I64": "i64",
    "BF16": "bf16", "F16": "f16", "F32": "f32", "F64": "f64",
}  # fmt: skip

SAMPLE, SAMPLES = 4096, 16


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: its bytes are `start` to `stop`."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    def load(self, shape: Sequence[int]) -> Array:
        """The values, in another shape of as many elements."""
        kind = DTYPES[self.dtype].numpy
        found = np.fromfile(self.file, np.uint8, self.stop - self.start, offset=self.start)
        if found.size != self.stop - self.start:
            raise ModelError(f"{self.file}: tensor {self.name!r} is cut off")
        return found.view(kind).reshape(shape)

    @cached_property
    def content(self) -> str:
        """A hash of type, shape and values; of a large tensor it takes samples all over it."""
        size = self.stop - self.start
        digest = hashlib.sha256(f"{self.dtype} {self.shape} {size}".encode())
        with self.file.open("rb", buffering=0) as file:
            if size <= SAMPLE * SAMPLES:
                file.seek(self.start)
                digest.update(file.read(size))
            else:
                for n in range(SAMPLES):
                    file.seek(self.start + (size - SAMPLE) * n // (SAMPLES - 1))
                    digest.update(file.read(SAMPLE))
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Checkpoint:
    """All tensors of a folder."""

    folder: Path
    tensors: Mapping[str, Stored]

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def tensor(self, name: str, shape: Sequence[int]) -> Stored:
        """The tensor of this name; ModelError if it is missing or has another shape."""
        if name not in self.tensors:
            raise ModelError(f"{self.folder}: tensor {name!r} is missing")
        found = self.tensors[name]
        if found.shape != tuple(shape):
            raise ModelError(
                f"{found.file}: tensor {name!r} must have shape {tuple(shape)}, not {found.shape}"
            )
        return found


def open_checkpoint(folder: Path) -> Checkpoint:
    """Read the headers of a folder's model.safetensors, or of the shards that its index names."""
    if (folder / SINGLE).is_file():
        return Checkpoint(folder, {t.name: t for t in read_header(folder / SINGLE)})
    if (folder / INDEX).is_file():
        return Checkpoint(folder, dict(shards(folder)))
    message = f"{folder}: must hold {SINGLE} or {INDEX}"
    if pickled := sorted(file.name for file in folder.iterdir() if file.suffix in PICKLED):
        message += f"; {pickled[0]} is not read, because unpickling a file can run anything"
    raise ModelError(message)


def shards(folder: Path) -> Iterator[tuple[str, Stored]]:
    files = read_object(folder / INDEX).get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(name, str) for name in files.values()):
        raise ModelError(f"{folder / INDEX}: weight_map must name a file for each tensor")
    found: dict[str, dict[str, Stored]] = {}
    for tensor, file in files.items():
        if Path(file).name != file:
            raise ModelError(f"{folder / INDEX}: {file!r} must be a file in this folder")
        if file not in found:
            found[file] = {t.name: t for t in read_header(folder / file)}
        if tensor not in found[file]:
            raise ModelError(f"{folder / file}: tensor {tensor!r} is missing")
        yield tensor, found[file][tensor]


def read_json(path: Path) -> Any:
    """What a JSON file holds; ModelError if it cannot be read."""
    try:
        return json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ModelError(f"{path}: must be JSON: {error}") from None


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object."""
    found = read_json(path)
    if not isinstance(found, dict):
        raise ModelError(f"{path}: must be a JSON object, not {type(found).__name__}")
    return found


def read_header(path: Path) -> Iterator[Stored]:
    """Every tensor of one file, checked against the file's size."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > size - 8:
                raise ModelError(f"{path}: is cut off in its header")
            header = json.loads(file.read(length))
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        raise ModelError(f"{path}: the header must be JSON") from None
    if not isinstance(header, dict):
        raise ModelError(f"{path}: the header must be a JSON object")
    for name, entry in header.items():
        if name != "__metadata__":
            yield stored(path, name, entry, 8 + length, size)


def stored(path: Path, name: str, entry: object, data: int, size: int) -> Stored:
    """A header's entry as a tensor; the data begin at byte `data` of `size`."""
    where = f"{path}: tensor {name!r}"
    match entry:
        case {"dtype": str(kind), "shape": list(shape), "data_offsets": [int(start), int(stop)]}:
            pass
        case _:
            raise ModelError(f"{where} must have dtype, shape and data_offsets")
    if kind not in TYPES:
        raise ModelError(f"{where}: dtype must be one of {', '.join(TYPES)}, not {kind}")
    if not all(type(n) is int and n >= 0 for n in shape):
        raise ModelError(f"{where}: shape must be whole numbers, not {shape}")
    expected = math.prod(shape) * DTYPES[TYPES[kind]].size
    if start < 0:
        raise ModelError(f"{where}: data_offsets must not be negative")
    if stop - start != expected:
        raise ModelError(f"{where} must have {expected} bytes, not {stop - start}")
    if data + stop > size:
        raise ModelError(f"{where} is cut off: it ends at byte {data + stop} of {size}")
    return Stored(path, name, TYPES[kind], tuple(shape), data + start, data + stop)
