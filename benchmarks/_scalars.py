"""How far scalar functions of native code are from the truth, over all floats.

An error is in units in the last place of the f32 that is nearest to the truth (f64 libraries).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from infinisa.runtime.jit.code.functions import FUNCTIONS
from infinisa.runtime.jit.code.ir import Function, Module, Value, compile_text
from infinisa.runtime.jit.code.processor import Target

from ._measure import Bar, Row, at_most

Floats = NDArray[np.float32]
Truth = Callable[[NDArray[np.float64]], NDArray[np.float64]]

CHUNK = 1 << 22
FLOATS = 1 << 32
LEAST = 2.0**-149
"""The smallest f32: the unit of denormal results."""


def _torch(function: Callable[[torch.Tensor], torch.Tensor]) -> Truth:
    def truth(x: NDArray[np.float64]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = function(torch.from_numpy(x)).numpy()
        return found

    return truth


@dataclass(frozen=True)
class Scalar:
    """The truth about a function, and the largest error that it may have."""

    truth: Truth
    most: float


SCALARS: Mapping[str, Scalar] = {
    "exp": Scalar(np.exp, 2.5),
    "log": Scalar(np.log, 1.5),
    "tanh": Scalar(np.tanh, 6.0),
    "erf": Scalar(_torch(torch.erf), 6.0),
    "sigmoid": Scalar(_torch(torch.sigmoid), 4.5),
    "sin": Scalar(np.sin, 2.5),
    "cos": Scalar(np.cos, 2.5),
    "rsqrt": Scalar(lambda x: 1 / np.sqrt(x), 1.5),
}


def accuracy(every: int = 1) -> tuple[list[Row], list[Bar]]:
    """The largest error of each function over every so manieth float."""
    rows: list[Row] = []
    bars: list[Bar] = []
    for name, scalar in SCALARS.items():
        error, where = worst(name, every)
        rows.append({"part": "accuracy", "function": name, "ulp": round(error, 3), "at": where})
        bars.append(at_most(f"accuracy, {name}", error, scalar.most, "units in the last place"))
    return rows, bars


def worst(name: str, every: int) -> tuple[float, float]:
    """(largest error, where it is)"""
    run, best, where = compiled(name), 0.0, 0.0
    for x in floats(every):
        with np.errstate(all="ignore"):
            errors = ulps(run(x), SCALARS[name].truth(x.astype(np.float64)))
        at = int(errors.argmax())
        if errors[at] > best:
            best, where = float(errors[at]), float(x[at])
    return best, where


def floats(every: int) -> Iterator[Floats]:
    """Every so manieth float, in pieces of whole vectors."""
    for first in range(0, FLOATS, CHUNK * every):
        bits = np.arange(first, min(first + CHUNK * every, FLOATS), every, dtype=np.uint64)
        spare = -len(bits) % Target.host().lanes
        padded = np.concatenate([bits, np.zeros(spare, np.uint64)])
        yield padded.astype(np.uint32).view(np.float32)


def ulps(found: Floats, truth: NDArray[np.float64]) -> NDArray[np.float64]:
    """The distance of each result to the truth; what is rightly infinite or NaN has none."""
    nearest = truth.astype(np.float32)
    same = (found == nearest) | (np.isnan(found) & np.isnan(nearest))
    unit = np.maximum(np.spacing(np.abs(nearest)).astype(np.float64), LEAST)
    errors = np.abs(found.astype(np.float64) - truth) / unit
    known = np.where(np.isnan(errors), np.inf, errors)
    infinite = same & ~np.isfinite(nearest)
    return np.where(infinite, 0.0, np.where(same, np.minimum(known, 0.5), known))


def compiled(name: str) -> Callable[[Floats], Floats]:
    """A function over arrays, as code for this processor has it."""
    module, lanes = Module(), Target.host().lanes
    names = [("x", "ptr"), ("y", "ptr"), ("n", "i64")]
    f = Function(module, "run", names, public=True)
    x, y = f.parameters["x"], f.parameters["y"]

    def turn(index: Value, _: list[Value]) -> None:
        value = f.load(f.at(x, index, "float"), "float", lanes)
        f.store(FUNCTIONS[name](f, value), f.at(y, index, "float"))

    f.loop(0, f.parameters["n"], lanes, turn)
    f.done()
    code = compile_text(module.text, ["run"], optimise=False)
    types = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64
    call = ctypes.CFUNCTYPE(None, *types)(code.addresses["run"])

    def run(given: Floats, code: object = code) -> Floats:  # the code lives as long as this
        found = np.empty_like(given)
        call(given.ctypes.data, found.ctypes.data, len(given))
        return found

    return run
