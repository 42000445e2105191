"""Element types: their names, sizes and NumPy equivalents, and the type that arithmetic yields."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from .errors import LanguageError


@dataclass(frozen=True)
class DType:
    """An element type. `wide` is the type in which arithmetic on it is done."""

    name: str
    size: int
    numpy: np.dtype[Any]
    wide: str


DTYPES: dict[str, DType] = {
    name: DType(name, np.dtype(numpy).itemsize, np.dtype(numpy), wide)
    for name, numpy, wide in (
        ("bool", np.bool_, "bool"),
        ("i8", np.int8, "i32"),
        ("u8", np.uint8, "i32"),
        ("i16", np.int16, "i32"),
        ("u16", np.uint16, "i32"),
        ("i32", np.int32, "i32"),
        ("i64", np.int64, "i64"),
        ("bf16", ml_dtypes.bfloat16, "f32"),
        ("f16", np.float16, "f32"),
        ("f32", np.float32, "f32"),
        ("f64", np.float64, "f64"),
    )
}
_RANK = {"bool": 0, "i32": 1, "i64": 2, "f32": 3, "f64": 4}


def dtype(name: str) -> DType:
    """The element type of this name; LanguageError if there is none."""
    if name not in DTYPES:
        raise LanguageError(f"element type must be one of {', '.join(DTYPES)}, not {name!r}")
    return DTYPES[name]


def name_of(numpy: np.dtype[Any]) -> str:
    """The name of a NumPy type; LanguageError if the language has no such type."""
    for row in DTYPES.values():
        if row.numpy == numpy:
            return row.name
    raise LanguageError(f"element type must be one of {', '.join(DTYPES)}, not {numpy}")


def held(number: float | int, name: str) -> float | int | None:
    """What an element of this type holds in a number's place, still a float or an integer; None if
    that is another number in f32, in which immediates are computed with (in f64 for f64)."""
    kind = dtype(name)
    if is_float(name):
        if isinstance(number, int):
            return None
        seen = np.float64 if kind.wide == "f64" else np.float32
        with np.errstate(over="ignore"):
            rounded = float(np.float64(number).astype(kind.numpy))
            return rounded if seen(rounded) == seen(number) else None
    limits = (0, 1) if name == "bool" else (np.iinfo(kind.numpy).min, np.iinfo(kind.numpy).max)
    if not limits[0] <= number <= limits[1] or number != int(number):
        return None
    return number + 0  # which is 0 where it was -0


def is_float(name: str) -> bool:
    return dtype(name).wide in ("f32", "f64")


def promote(names: Iterable[str]) -> str:
    """The type of arithmetic on these: narrow types live in memory only and are widened first."""
    return max((dtype(name).wide for name in names), key=_RANK.__getitem__)
