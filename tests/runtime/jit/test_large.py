"""Tensors of more than 2 GB and more than 2**31 elements: places in them are counted in 64 bits."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from infinisa.isa import language as L
from infinisa.isa.instruction import Instruction, instruction
from infinisa.runtime.jit import compile_program
from tests.runtime.jit.single import program_of

ROWS, COLUMNS = 524_300, 4_100
"""2,149,630,000 elements. Of a tensor of zeros that is only read no memory is taken."""

FAR = (0, 1, 262_143, 262_144, 524_287, 524_288, ROWS - 1)
"""Rows to both sides of 2**30 and 2**31 elements, among others."""

assert ROWS * COLUMNS > 1 << 31


@instruction(unit="vector")
def pick(table: "v d: i8", ids: "s: i32"):
    return L.gather(table, ids, "v")


@instruction(unit="vector")
def row_sum(x: "v d: i8"):
    return L.sum(L.cast(x, "i32"), "d")


@instruction(unit="vector")
def outer(a: "v: i8", b: "d: i8"):
    return L.cast(a * b, "i8")


def run(meaning: Instruction, sizes: Mapping[str, int], given: Mapping[str, Any]) -> NDArray[Any]:
    program = program_of(meaning, sizes)
    native = compile_program(program, {meaning.name: meaning}, "vector")
    (result,) = native.session(given).run({}).outputs.values()
    return result


@pytest.fixture(scope="module")
def table() -> NDArray[np.int8]:
    made = np.zeros((ROWS, COLUMNS), np.int8)
    for number, row in enumerate(FAR):
        made[row] = 1 + number
        made[row, -1] = -1 - number
    return made


def test_rows_far_away_are_gathered(table: NDArray[np.int8]) -> None:
    sizes = {"v": ROWS, "d": COLUMNS, "s": len(FAR)}
    found = run(pick, sizes, {"table": table, "ids": np.array(FAR, np.int32)})

    np.testing.assert_array_equal(found, table[list(FAR)])


def test_all_rows_are_folded(table: NDArray[np.int8]) -> None:
    found = run(row_sum, {"v": ROWS, "d": COLUMNS}, {"x": table})

    wanted = np.zeros(ROWS, np.int32)
    wanted[list(FAR)] = [(1 + number) * (COLUMNS - 2) for number in range(len(FAR))]
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.large
def test_all_elements_are_written() -> None:
    a, b = (np.arange(size, dtype=np.int64) % 11 for size in (ROWS, COLUMNS))
    found = run(outer, {"v": ROWS, "d": COLUMNS}, {"a": a.astype("i1"), "b": b.astype("i1")})

    for row in (*FAR, 300_000):
        np.testing.assert_array_equal(found[row], a[row] * b)
    assert int(found.sum(dtype=np.int64)) == int(a.sum()) * int(b.sum())
