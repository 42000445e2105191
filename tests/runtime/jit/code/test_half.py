"""Conversions of f16 without an instruction: equal to NumPy's for every number that there is."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infinisa.runtime.jit.code.half import EXTEND, TRUNCATE
from infinisa.runtime.jit.code.ir import compile_text

LOOP = """
define void @{name}(ptr %from, ptr %to, i64 %count) {{
start:
  br label %turn
turn:
  %i = phi i64 [ 0, %start ], [ %next, %turn ]
  %source = getelementptr {given}, ptr %from, i64 %i
  %target = getelementptr {made}, ptr %to, i64 %i
  %x = load {given}, ptr %source
  %y = call {made} @{function}({given} %x)
  store {made} %y, ptr %target
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, %count
  br i1 %more, label %turn, label %end
end:
  ret void
}}
"""


def converted(
    values: NDArray[Any], made: type[np.floating[Any]], text: str, function: str
) -> NDArray[Any]:
    kinds: dict[type[Any], str] = {np.float16: "half", np.float32: "float"}
    given = kinds[values.dtype.type]
    loop = LOOP.format(name="run", given=given, made=kinds[made], function=function)
    code = compile_text(text + loop, ["run"], optimise=False)
    result: NDArray[Any] = np.empty(len(values), made)
    run = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
    run(code.addresses["run"])(values.ctypes.data, result.ctypes.data, len(values))
    return result


def test_every_f16_becomes_its_f32() -> None:
    every = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16).view(np.float16)

    found = converted(every, np.float32, EXTEND, "__extendhfsf2")

    np.testing.assert_array_equal(found, every.astype(np.float32))


def test_f32_is_rounded_to_the_nearest_even() -> None:
    every = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16).view(np.float16)
    exact = every[np.isfinite(every)].astype(np.float32)
    middle = (exact[:-1] + exact[1:]) / 2
    beside = [np.nextafter(middle, np.float32(side)) for side in (-np.inf, np.inf)]
    random = np.random.default_rng(0).integers(0, 1 << 32, 1 << 20).astype(np.uint32)
    values = np.concatenate([exact, middle, *beside, random.view(np.float32)])

    found = converted(values, np.float16, TRUNCATE, "__truncsfhf2")

    with np.errstate(over="ignore", invalid="ignore"):
        np.testing.assert_array_equal(found, values.astype(np.float16))
