"""This processor as a machine: measured once, then kept in the user's cache folder."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from infinisa.isa.machine import Dispatch, Machine, Memory, Unit, parse_machine

from .jit.cache import SOURCES, remembered
from .jit.code.ir import Code, Function, Module, Value, compile_text, constant
from .jit.code.processor import Target
from .rates import Rates
from .rates import measure as measure_rates

VERSION = 3
"""Of what is measured and how: what another one found is not read."""

DEPTH = 1024
"""The longest k of one issue: the panels of a contraction then fit the second cache."""

COLUMNS = 512
"""The most columns of one issue."""


def probe() -> Machine:
    """The machine `host`: one core of this processor, in about a second the first time and whenever
    the code of kernels is another."""
    how = f"{VERSION} {_model()} {SOURCES}"
    found = remembered("machine host", how, lambda: measure().text().encode())
    return parse_machine(found.decode(), "machine host")


def several_cores(machine: Machine, threads: int) -> Machine:
    """The host with the peak of so many cores: its units are so many times as wide, and take as
    many times the operands. Memory and its bandwidth, which cores share, stay."""
    widths = ("columns", "lanes", "operand_bytes")
    units = tuple(
        replace(
            unit,
            attributes={
                name: threads * value if name in widths else value
                for name, value in unit.attributes.items()
            },
        )
        for unit in machine.units
    )
    return replace(machine, units=units)


def measure(rates: Rates | None = None) -> Machine:
    """What the kernels of native code reach: as it is now, or as it was measured."""
    rates = rates or measure_rates(*issue_limits())
    lanes = Target.host().lanes
    clock = _clock()
    macs = max(1, round(_multiply_adds(lanes) / clock))
    macs = 1 << max(0, round(float(np.log2(macs))))
    second = Target.host().second
    last = Memory(name="last", size=max(rates.cached, 2 * second), managed="hardware", shared=True)
    dram = Memory(
        name="dram",
        size=_main_memory(),
        bandwidth=round(rates.memory / 1e8) * 10**8,
        latency=round(100e-9 * clock),
        managed="none",
        shared=True,
    )
    return Machine(
        name="host",
        clock=round(clock / 1e6) * 10**6,
        dispatch=Dispatch(window=1, fetch=1, issue=1),
        units=(*_units(rates, clock, macs, min(macs, lanes)),),
        memories=(Memory(name="cache", size=second, managed="hardware"), last, dram),
    )


def issue_limits() -> tuple[int, int, int]:
    """m, k and n of a product of which a large part is alike: the second cache holds some rows of
    one operand, and half of the longest k is what models have."""
    return max(64, min(256, Target.host().second // 2 // (4 * DEPTH))), DEPTH // 2, COLUMNS


def _units(rates: Rates, clock: float, macs: int, lanes: int) -> Iterator[Unit]:
    """A product is taken vector by vector of its result, each over all of k. Its operands come from
    the last cache, those of other instructions from the second, where the one before left them."""

    def cycles(seconds: float) -> int:
        return round(seconds * clock)

    costs = {name: max(1, cycles(each * lanes)) for name, each in rates.functions.items()}
    efficiency = min(100, max(1, round(100 / (rates.step * clock * macs))))
    matrix = {
        "rows": 1,
        "columns": macs,
        "depth": DEPTH,
        "issue_rows": rates.issue[0],
        "issue_columns": COLUMNS,
        "registers": 1,
        "skew": round(rates.sum * clock * macs * efficiency / 100),
        "efficiency": efficiency,
        "operand_bytes": max(1, round(rates.cache / clock)),
        "overhead": cycles(rates.overhead),
    }
    vector = {
        "lanes": lanes,
        "operand_bytes": max(1, round(rates.copying / clock)),
        "overhead": cycles(rates.overhead),
    }
    yield Unit(name="matrix", kind="matrix", dataflow="output", attributes=matrix, functions=costs)
    yield Unit(name="vector", kind="vector", attributes=vector, functions=costs)
    yield Unit(name="scalar", kind="scalar", attributes={"latency": 1})
    yield Unit(name="text", kind="text", attributes={"latency": 1})


# ---------------------------------------------------------------- what the system tells


def _model() -> str:
    """The name that the system has for this processor."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _main_memory() -> int:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return 8 << 30


# ---------------------------------------------------------------- what is measured


def _clock() -> float:
    """Cycles a second: each link of a chain of additions and exclusive ors takes one."""
    links = 64

    def body(f: Function) -> None:
        step, flip = f.parameters["a"], f.parameters["b"]

        def turn(_: Value, values: list[Value]) -> list[Value]:
            (x,) = values
            for _link in range(links // 2):
                x = f.binary("xor", f.binary("add", x, step), flip)
            return [x]

        (x,) = f.loop(0, f.parameters["n"], 1, turn, [step])
        f.store(x, f.parameters["out"])

    turns = 50_000
    return links * turns / _fastest(_compiled(body), turns)


def _multiply_adds(lanes: int) -> float:
    """f32 multiply-adds a second."""
    chains = 12

    def body(f: Function) -> None:
        factor = constant("float", 0.999, lanes)
        more = constant("float", 1e-3, lanes)

        def turn(_: Value, values: list[Value]) -> list[Value]:
            return [f.intrinsic("fmuladd", [value, factor, more]) for value in values]

        start = [constant("float", 0.1 * chain, lanes) for chain in range(chains)]
        total, *rest = f.loop(0, f.parameters["n"], 1, turn, start)
        for value in rest:
            total = f.binary("fadd", total, value)
        f.store(total, f.parameters["out"])

    turns = 300_000
    return chains * lanes * turns / _fastest(_compiled(body), turns)


def _compiled(body: Callable[[Function], None]) -> Code:
    module = Module()
    given = [("out", "ptr"), ("n", "i64"), ("a", "i64"), ("b", "i64")]
    f = Function(module, "run", given, public=True)
    body(f)
    f.done()
    return compile_text(module.text, ["run"], optimise=False)


def _fastest(code: Code, turns: int) -> float:
    """Seconds of the best of a few runs: others only disturb."""
    number = ctypes.c_int64
    run = ctypes.CFUNCTYPE(None, ctypes.c_void_p, number, number, number)(code.addresses["run"])
    out = np.zeros(64)
    best = float("inf")
    for _ in range(9):
        began = time.perf_counter()
        run(out.ctypes.data, turns, 12345, 54321)
        best = min(best, time.perf_counter() - began)
    return best
