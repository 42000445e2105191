"""Element types and the type that arithmetic yields."""

import itertools

import ml_dtypes
import numpy as np
import pytest

from infinisa.isa.dtypes import DTYPES, dtype, held, is_float, name_of, promote
from infinisa.isa.errors import LanguageError


def test_a_type_has_the_size_that_its_name_says() -> None:
    bits = {name: int(name.lstrip("bfiu")) for name in DTYPES if name != "bool"}

    assert {name: 8 * DTYPES[name].size for name in bits} == bits
    assert DTYPES["bool"].size == 1


def test_a_type_is_found_by_its_numpy_equivalent() -> None:
    assert [name_of(row.numpy) for row in DTYPES.values()] == list(DTYPES)
    assert name_of(np.dtype(ml_dtypes.bfloat16)) == "bf16"


def test_arithmetic_is_done_wide() -> None:
    """Narrow types live in memory only; floats win over integers, 64 bits over 32."""
    assert [promote([name]) for name in ("i8", "u16", "bool", "bf16", "f16")] == [
        "i32", "i32", "bool", "f32", "f32",
    ]  # fmt: skip
    assert promote(["i8", "i64"]) == "i64"
    assert promote(["i64", "f16"]) == "f32"
    assert promote(["f32", "f64"]) == "f64"


def test_the_order_of_operands_does_not_matter() -> None:
    for a, b in itertools.combinations(DTYPES, 2):
        assert promote([a, b]) == promote([b, a])
        assert promote([promote([a]), b]) == promote([a, b])


def test_floats_are_told_from_integers() -> None:
    assert [name for name in DTYPES if is_float(name)] == ["bf16", "f16", "f32", "f64"]


def test_an_unknown_type_is_named() -> None:
    known = "element type must be one of bool, i8, u8, i16, u16, i32, i64, bf16, f16, f32, f64"

    with pytest.raises(LanguageError) as caught:
        dtype("i4")
    assert str(caught.value) == f"{known}, not 'i4'"
    with pytest.raises(LanguageError) as caught:
        name_of(np.dtype(np.complex64))
    assert str(caught.value) == f"{known}, not complex64"


@pytest.mark.parametrize(
    ("number", "kind", "kept"),
    [
        (30.0, "bf16", 30.0),
        (30.1, "bf16", None),
        (1e-5, "f32", float(np.float32(1e-5))),
        (1e-5, "f64", 1e-5),
        (1e39, "f32", float("inf")),
        (1e5, "f16", None),
        (-1.0, "u8", None),
        (255.0, "u8", 255.0),
        (2.5, "i32", None),
        (7, "i8", 7),
        (128, "i8", None),
        (7, "f32", None),
        (float("inf"), "f16", float("inf")),
        (float("inf"), "i64", None),
        (float("nan"), "f32", None),
    ],
)
def test_a_type_holds_what_arithmetic_cannot_tell_from_a_number(
    number: float | int, kind: str, kept: float | int | None
) -> None:
    found = held(number, kind)

    assert (found, type(found)) == (kept, type(kept))
