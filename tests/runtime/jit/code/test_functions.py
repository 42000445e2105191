"""Every scalar function as code against NumPy: random numbers and the ends of the range."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from infinisa.isa.dtypes import DTYPES
from infinisa.isa.evaluate import saturate
from infinisa.isa.functions import FUNCTIONS
from infinisa.runtime.jit.code import functions
from infinisa.runtime.jit.code.ir import Function, Module, Value, compile_text
from infinisa.runtime.jit.code.processor import Target
from tests.runtime.jit.single import HERE

Array = NDArray[Any]
WIDTHS = (1, Target.host().lanes)

EXTREME = [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.0, np.inf, -np.inf, np.nan, -1e30, 1e30, 3e38, -3e38,
           1e-30, -1e-30, 88.0, -88.0, 89.5, 100.0, 16777216.0, 1e9, 7.5, -2.5, 3.0]  # fmt: skip


def run(
    emit: Any,
    types: Sequence[str],
    result: str,
    arrays: Sequence[Array],
    width: int,
    target: Target | None = None,
) -> Array:
    """`emit(f, *values)` for each position of arrays of `types`, giving `result`."""
    target = target or Target.host()
    module = Module(target)
    names = [f"a{i}" for i in range(len(arrays))] + ["out"]
    f = Function(module, "run", [(name, "ptr") for name in names], public=True)
    size = len(arrays[0])
    assert size % width == 0

    def body(index: Value, _: list[Value]) -> None:
        values = []
        for name, dtype in zip(names, types, strict=False):
            kind = functions.STORED[dtype]
            raw = f.load(f.at(f.parameters[name], index, kind), kind, width)
            values.append(functions.widen(f, raw, dtype))
        found = functions.narrow(f, f.splat(emit(f, *values), width), result)
        f.store(found, f.at(f.parameters["out"], index, found.kind))

    f.loop(0, size, width, body)
    f.done()
    code = compile_text(module.text, ["run"], optimise=width == 1, target=target)
    out = np.zeros(size, DTYPES[result].numpy)
    held = [
        np.ascontiguousarray(a.astype(DTYPES[t].numpy)) for a, t in zip(arrays, types, strict=True)
    ]
    call = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * len(names))(code.addresses["run"])
    call(*[a.ctypes.data for a in held], out.ctypes.data)
    return out


def samples(dtype: str, count: int) -> list[Array]:
    """`count` arrays that meet every extreme with every other, and random numbers."""
    rng = np.random.default_rng(1)
    if dtype in ("i32", "i64"):
        limits = np.iinfo(DTYPES[dtype].numpy)
        ends = np.array([0, 1, -1, 2, -2, 7, limits.min, limits.max, 1000, -1000])
        more: Array = rng.integers(-50, 50, 412)
    elif dtype == "bool":
        ends, more = np.array([True, False]), rng.integers(0, 2, 508).astype(bool)
    else:
        ends = np.array(EXTREME)
        more = rng.standard_normal(383) * np.exp(rng.standard_normal(383) * 3)
    grids = [grid.reshape(-1) for grid in np.meshgrid(*[ends] * min(count, 2), indexing="ij")]
    while len(grids) < count:
        grids.append(rng.permutation(grids[0]))
    found = []
    for grid in grids:
        joined = np.concatenate([grid, rng.permutation(more)])
        found.append(joined[: len(joined) // 16 * 16].astype(DTYPES[dtype].numpy))
    return found


def close(found: Array, wanted: Array, relative: float) -> None:
    with np.errstate(all="ignore"):
        floor = 1e-37 if found.dtype == np.float32 else 1e-300
        same = (found == wanted) | (np.isnan(found) & np.isnan(wanted))
        error = np.abs(found.astype(np.float64) - wanted) / np.maximum(np.abs(wanted), floor)
    bad = ~(same | (error <= relative))
    assert not bad.any(), list(
        zip(np.flatnonzero(bad)[:5], found[bad][:5], wanted[bad][:5], strict=True)
    )


FLOAT_ONLY = {"exp", "log", "sqrt", "rsqrt", "reciprocal", "tanh", "erf", "sigmoid", "sin", "cos",
              "divide", "power", "is_nan", "negate"}  # fmt: skip


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_of_floats_equals_numpy(name: str, dtype: str, width: int) -> None:
    row = FUNCTIONS[name]
    types = [dtype] * row.arity
    arrays = samples(dtype, row.arity)
    if row.result == "branches":
        types[0], arrays[0] = "bool", arrays[0] > 0
    if name in ("logical_not", "logical_and", "logical_or"):
        arrays = [np.where(np.abs(a) > 1, a, 0).astype(a.dtype) for a in arrays]
    result = "bool" if row.result == "bool" else dtype
    with np.errstate(all="ignore"):
        wide = [
            a.astype(np.float64) if dtype == "f32" and name in FLOAT_ONLY else a for a in arrays
        ]
        wanted = np.asarray(row.numpy(*wide)).astype(DTYPES[result].numpy)

    found = run(functions.FUNCTIONS[name], types, result, arrays, width)

    close(found, wanted, 2e-6 if dtype == "f32" else 1e-12)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["tanh", "erf"])
def test_what_rounds_to_one_is_one(name: str, width: int) -> None:
    """GELU multiplies a number of any size by 1 + tanh or 1 + erf of one as large."""
    x = np.array([9.1, -9.1, 30, -30, 1e30, -1e30, np.inf, -np.inf] * 2, np.float32)

    found = run(functions.FUNCTIONS[name], ["f32"], "f32", [x], width)

    assert found.tolist() == np.sign(x).tolist()


@pytest.mark.parametrize("width", WIDTHS)
def test_an_exponential_of_a_few_at_most_is_the_same(width: int) -> None:
    x = np.array([70, 69.9, 1, 0, -0.0, -1, -87.3, -87.5, -95, -103.2, -104, -1e9, -1e30, -np.inf,
                  np.nan, -np.nan], np.float32)  # fmt: skip

    found = run(functions.exp_up_to_70, ["f32"], "f32", [x], width)

    close(found, np.exp(x.astype(np.float64)).astype(np.float32), 2e-6)


@pytest.mark.parametrize("width", WIDTHS)
def test_an_exponential_is_right_to_two_units_in_the_last_place(width: int) -> None:
    """All eighths of all powers of two between 2**-125 and 2**101, and what lies between them."""
    x = np.linspace(-86.5, 70, 1 << 16, dtype=np.float32)

    found = run(functions.exp_up_to_70, ["f32"], "f32", [x], width)

    close(found, np.exp(x.astype(np.float64)), 2.4e-7)


@pytest.mark.skipif("avx2" not in HERE, reason="this processor runs no such code")
@pytest.mark.parametrize("name", ["exp_up_to_70", "exp", "sigmoid", "tanh", "erf"])
def test_a_single_number_is_computed_as_a_lane_is(name: str) -> None:
    """Or results of a few numbers would depend on how they are divided among threads."""
    target = Target.named("avx2")
    x = np.linspace(-120, 70, 1 << 12, dtype=np.float32)
    emit = functions.FUNCTIONS.get(name) or getattr(functions, name)

    alone, beside = (run(emit, ["f32"], "f32", [x], width, target) for width in (1, target.lanes))

    assert np.array_equal(alone, beside)


@pytest.mark.skipif("avx2" not in HERE, reason="this processor runs no such code")
@pytest.mark.parametrize("name", ["sin", "cos"])
def test_an_angle_is_reduced_alike_whatever_is_beside_it(name: str) -> None:
    """Near multiples of pi/2 most digits of an angle are lost; large ones go other ways."""
    turns = np.random.default_rng(2).integers(0, 1 << 17, 4096)
    x = (turns * np.pi / 2).astype(np.float32)
    x[::9] *= np.float32(2.0**13)
    target, emit = Target.named("avx2"), functions.FUNCTIONS[name]

    alone, beside = (run(emit, ["f32"], "f32", [x], width, target) for width in (1, target.lanes))

    assert np.array_equal(alone, beside)
    truth = getattr(np, name)(x.astype(np.float64))
    assert (np.abs(alone - truth) <= 2.5e-7 * np.abs(truth)).all()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["exp", "sigmoid", "tanh"])
def test_every_nan_stays_nan(name: str, width: int) -> None:
    bits = [0x7F800001, 0x7F800002, 0x7FC00000, 0x7FC00001, 0x7FC00003, 0x7FFFFFFF, 0xFFC000FF,
            0xFFFFFFFF]  # fmt: skip
    x = np.array(bits * 2, np.uint32).view(np.float32)

    assert np.isnan(run(functions.FUNCTIONS[name], ["f32"], "f32", [x], width)).all()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", ["i32", "i64", "bool"])
@pytest.mark.parametrize("name", sorted(set(FUNCTIONS) - FLOAT_ONLY))
def test_a_function_of_integers_equals_numpy(name: str, dtype: str, width: int) -> None:
    row = FUNCTIONS[name]
    unfit = {"subtract", "sign", "floor_divide", "modulo", "floor", "ceil", "round"}
    if dtype == "bool" and name in unfit:
        pytest.skip("NumPy has no such function of truth values")
    if dtype == "i64" and name == "round":
        pytest.skip("NumPy rounds through f64: the largest integers change")
    types, arrays = [dtype] * row.arity, samples(dtype, row.arity)
    if row.result == "branches":
        types[0], arrays[0] = "bool", arrays[0] > 0
    result = "bool" if row.result == "bool" else dtype
    with np.errstate(all="ignore"):
        wanted = np.asarray(row.numpy(*arrays)).astype(DTYPES[result].numpy)

    found = run(functions.FUNCTIONS[name], types, result, arrays, width)

    assert (found == wanted).all(), (found[found != wanted], wanted[found != wanted])


@pytest.mark.skipif("avx2" not in HERE, reason="this processor runs no such code")
@pytest.mark.parametrize("width", [1, 8])
@pytest.mark.parametrize("factor", [1.0, -2.0, 1.702, -1e-6, 3e9])
def test_a_sigmoid_of_a_product_is_as_good_as_one_of_what_the_product_is(
    factor: float, width: int
) -> None:
    """A factor that is no power of two is off by half a unit, as a product would be."""
    x = (np.linspace(-105, 105, 8192) / factor).astype(np.float32)
    x[:8] = [np.nan, np.inf, -np.inf, 0.0, -0.0, 3e38, -3e38, 1e-45]
    emit = partial(functions.sigmoid_of_product, factor=factor)

    found = run(emit, ["f32"], "f32", [x], width, Target.named("avx2"))

    with np.errstate(all="ignore"):
        power = factor * x.astype(np.float64)
        truth = np.where(power < 0, np.exp(power) / (1 + np.exp(power)), 1 / (1 + np.exp(-power)))
        close_enough = (3e-7 - 6e-8 * np.clip(power, -105, 0)) * truth + 2.0**-149
    assert np.isnan(found[0])
    right = np.abs(found - truth) <= close_enough
    assert right[1:].all(), (x[~right], found[~right])


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("target", DTYPES)
@pytest.mark.parametrize("source", ["f32", "f64", "i32", "i64", "bool", "bf16", "i8", "u8"])
def test_a_cast_rounds_and_saturates(source: str, target: str, width: int) -> None:
    if source in ("bf16", "i8", "u8"):
        with np.errstate(all="ignore"):
            (array,) = samples("f32" if source == "bf16" else "i32", 1)
            array = array.astype(DTYPES[source].numpy)
    else:
        (array,) = samples(source, 1)
    if source != "bool":
        array = np.concatenate([array, array * array.dtype.type(40)])
    with np.errstate(all="ignore"):
        wanted = saturate(array, target)

    found = run(
        lambda f, x: functions.saturate(f, x, source, target), [source], target, [array], width
    )

    if target == "bf16" and source in ("f64", "i32", "i64"):
        close(found.astype(np.float32), wanted.astype(np.float32), 2.0**-8)
    elif found.dtype == ml_dtypes.bfloat16 or found.dtype.kind == "f":
        assert np.array_equal(found.astype(np.float64), wanted.astype(np.float64), equal_nan=True)
    else:
        assert (found == wanted).all(), (array[found != wanted], found[found != wanted])
