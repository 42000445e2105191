"""Safetensors files: what is read, what is refused."""

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from infinisa.compiler.readers.huggingface.checkpoint import open_checkpoint
from infinisa.isa.errors import ModelError

X = np.arange(6, dtype=np.float32).reshape(2, 3)


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        open_checkpoint(folder)
    return str(caught.value)


def write(folder: Path, header: object, data: bytes = bytes(24)) -> Path:
    """A file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file = folder / "model.safetensors"
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return file


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.int64])
def test_a_tensor_is_read_in_its_own_type(dtype: Any, tmp_path: Path) -> None:
    save_file({"x": X.astype(dtype), "y": X[:1]}, tmp_path / "model.safetensors")

    tensor = open_checkpoint(tmp_path).tensor("x", (2, 3))

    loaded = tensor.load((3, 2))
    assert loaded.dtype == dtype
    assert loaded.astype(np.float32).tolist() == X.reshape(3, 2).tolist()


def test_shards_are_found_through_their_index(tmp_path: Path) -> None:
    save_file({"x": X}, tmp_path / "a.safetensors")
    save_file({"y": X + 1}, tmp_path / "b.safetensors")
    index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))

    checkpoint = open_checkpoint(tmp_path)

    assert checkpoint.tensor("y", (2, 3)).load((2, 3)).tolist() == (X + 1).tolist()


def test_an_index_must_name_files_of_its_folder_that_hold_the_tensors(tmp_path: Path) -> None:
    save_file({"x": X}, tmp_path / "a.safetensors")
    index = tmp_path / "model.safetensors.index.json"

    index.write_text('{"weight_map": {"x": "../a.safetensors"}}')
    assert refusal(tmp_path) == f"{index}: '../a.safetensors' must be a file in this folder"
    index.write_text('{"weight_map": {"z": "a.safetensors"}}')
    assert refusal(tmp_path) == f"{tmp_path / 'a.safetensors'}: tensor 'z' is missing"
    index.write_text('{"weight_map": {"z": "c.safetensors"}}')
    assert refusal(tmp_path) == (
        f"{tmp_path / 'c.safetensors'}: cannot be read: No such file or directory"
    )
    index.write_text("{}")
    assert refusal(tmp_path) == f"{index}: weight_map must name a file for each tensor"


def test_pickled_weights_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02")

    assert refusal(tmp_path) == (
        f"{tmp_path}: must hold model.safetensors or model.safetensors.index.json; "
        "pytorch_model.bin is not read, because unpickling a file can run anything"
    )


ENTRY = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"{", "the header must be JSON"),
        (b"\xff\xfe", "the header must be JSON"),
        ([], "the header must be a JSON object"),
        ({"x": 3}, "tensor 'x' must have dtype, shape and data_offsets"),
        ({"x": ENTRY | {"dtype": "F8"}}, "tensor 'x': dtype must be one of BOOL, I8, U8, I16, "
         "I32, I64, BF16, F16, F32, F64, not F8"),
        ({"x": ENTRY | {"shape": [2, -3]}}, "tensor 'x': shape must be whole numbers, not [2, -3]"),
        ({"x": ENTRY | {"shape": [2, 4]}}, "tensor 'x' must have 32 bytes, not 24"),
        ({"x": ENTRY | {"data_offsets": [-4, 20]}},
         "tensor 'x': data_offsets must not be negative"),
        ({"x": ENTRY | {"data_offsets": [4, 28]}}, "tensor 'x' is cut off: it ends at byte 101 "
         "of 97"),
    ],
)  # fmt: skip
def test_a_wrong_header_is_refused(header: object, message: str, tmp_path: Path) -> None:
    file = write(tmp_path, header)

    assert refusal(tmp_path) == f"{file}: {message}"


def test_a_file_that_ends_in_its_header_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"

    for data in (b"", b"\x05\x00", (2**60).to_bytes(8, "little") + b"{}"):
        file.write_bytes(data)
        assert refusal(tmp_path) == f"{file}: is cut off in its header"


def test_the_name_of_a_large_tensor_changes_with_its_values(tmp_path: Path) -> None:
    """Only samples are hashed; they are everywhere."""
    large = np.zeros(1 << 18, np.float32)
    names = set()
    for value in (0.0, 1.0):
        large += value
        save_file({"x": large}, tmp_path / "model.safetensors")
        names.add(open_checkpoint(tmp_path).tensors["x"].content)

    assert len(names) == 2
