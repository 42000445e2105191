"""What all benchmarks share: a pinned core, CPU time, rounds, this machine, its ceiling, a report.

A benchmark makes rows (flat mappings), judges them by bars and calls `report`.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import multiprocessing
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import ParamSpec, TypeVar

import llvmlite.binding as llvm
import numpy as np
from numpy.typing import NDArray

from infinisa.runtime.jit.code.ir import Function, Module, Value, compile_text, constant
from infinisa.runtime.jit.code.processor import Target

Row = Mapping[str, object]
P = ParamSpec("P")
R = TypeVar("R")

ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
PACKAGES = ("numpy", "llvmlite", "simpy", "onnx", "onnxruntime", "torch")
FEATURES = ("sse4.2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vnni",
            "avx512bf16", "amx-bf16", "neon", "sve", "bf16", "dotprod", "i8mm")  # fmt: skip
BYTES_READ = 256 << 20
"""More than any cache holds."""


# ---------------------------------------------------------------- time


def pin() -> int | None:
    """Keep this process and those it starts on one core, with one thread for NumPy.

    None where the system cannot pin.
    """
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))
    if not hasattr(os, "sched_setaffinity"):
        return None
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    return core


@dataclass(frozen=True)
class Timing:
    """CPU seconds of each round, all threads of the process together."""

    rounds: tuple[float, ...]

    @property
    def least(self) -> float:
        return min(self.rounds)

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)


def timed(task: Callable[[], R]) -> tuple[float, R]:
    """(CPU seconds, what the task returned)"""
    began = time.process_time()
    result = task()
    return time.process_time() - began, result


def interleaved(
    tasks: Mapping[str, Callable[[], object]], rounds: int, budget: float = 20.0
) -> dict[str, Timing]:
    """Each task once in every round, so that what disturbs one disturbs all.

    budget  CPU seconds after which a task is not run again; a task that takes less of it is run
            once before the rounds
    """
    warm = {name: timed(task)[0] for name, task in tasks.items()}
    taken: dict[str, list[float]] = {
        name: [seconds] if seconds > budget else [] for name, seconds in warm.items()
    }
    for _ in range(rounds):
        for name, task in tasks.items():
            if sum(taken[name]) < budget:
                taken[name].append(timed(task)[0])
    return {name: Timing(tuple(seconds)) for name, seconds in taken.items()}


# ---------------------------------------------------------------- processes


def fresh(task: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """What a function returns in a process of its own, which knows nothing yet.

    Its peak of memory starts from that of this process, which should be small.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(task, *args, **kwargs).result()


def peak_memory() -> int:
    """The most bytes that this process has held."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@dataclass(frozen=True)
class Finished:
    """A command that has run: CPU and wall-clock seconds, the most bytes it held."""

    status: int
    cpu: float
    wall: float
    memory: int


def command(*arguments: str) -> Finished:
    """Run Python with these arguments; what it prints is dropped.

    To be called while this process is small: a child's peak starts from its parent's.
    """
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    unit = 1 if sys.platform == "darwin" else 1024
    wall = time.perf_counter() - began
    cpu = usage.ru_utime + usage.ru_stime
    return Finished(process.returncode, cpu, wall, usage.ru_maxrss * unit)


# ---------------------------------------------------------------- this machine


def machine() -> dict[str, object]:
    """What the numbers were measured on, and what it can do at best."""
    has = llvm.get_host_cpu_features()
    return {
        "cpu": cpu_model(),
        "llvm_cpu": llvm.get_host_cpu_name(),
        "features": [name for name in FEATURES if has.get(name)],
        "cores": os.cpu_count(),
        "load": [round(load, 2) for load in os.getloadavg()],
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version(), **versions()},
        "ceiling": ceiling(),
    }


def cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())


def versions() -> dict[str, str]:
    """Of the packages that are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


class Ceiling:
    """What one core does at best; each call measures anew."""

    def __init__(self) -> None:
        self._flops, self._read = multiply_adds(), reading()
        self._copied: dict[int, tuple[NDArray[np.uint8], NDArray[np.uint8]]] = {}

    def flops(self) -> float:
        """f32 operations a second, of the widest vectors; a multiply-add is two."""
        return self._flops()

    def read(self) -> float:
        """Bytes a second from memory into registers."""
        return self._read()

    def copy(self, size: int, turns: int = 4) -> float:
        """Seconds in which so many bytes are copied that were copied just before."""
        if size not in self._copied:
            self._copied[size] = np.ones(size, np.uint8), np.ones(size, np.uint8)
        source, target = self._copied[size]
        np.copyto(target, source)
        began = time.process_time()
        for _ in range(turns):
            np.copyto(target, source)
        return (time.process_time() - began) / turns


def ceiling(rounds: int = 9) -> dict[str, float]:
    """The best of some rounds."""
    found = Ceiling()
    flops = max(found.flops() for _ in range(rounds))
    read = max(found.read() for _ in range(rounds))
    return {"gflops": round(flops / 1e9, 1), "read_gbps": round(read / 1e9, 2)}


def multiply_adds(chains: int = 12, turns: int = 500_000) -> Callable[[], float]:
    """f32 operations a second in registers, in independent chains of multiply-adds."""
    lanes = Target.host().lanes

    def body(f: Function) -> None:
        factor, more = constant("float", 0.999, lanes), constant("float", 1e-3, lanes)

        def turn(_: Value, values: list[Value]) -> list[Value]:
            return [f.intrinsic("fmuladd", [value, factor, more]) for value in values]

        start = [constant("float", 0.1 * chain, lanes) for chain in range(chains)]
        add_and_store(f, f.loop(0, f.parameters["n"], 1, turn, start))

    run = kernel_seconds(body, np.zeros(1, np.float32), turns)
    return lambda: 2 * chains * lanes * turns / run()


def reading(vectors: int = 8) -> Callable[[], float]:
    """Bytes a second from memory into registers: as one run, or as several side by side that
    together are the same memory, whichever is faster."""
    lanes = Target.host().lanes
    data = np.ones(BYTES_READ // 4, np.float32)

    def reader(streams: int) -> Callable[[], float]:
        apart, each = data.size // streams, vectors // streams * lanes

        def body(f: Function) -> None:
            def turn(at: Value, values: list[Value]) -> list[Value]:
                starts = [f.add(at, stream * apart) for stream in range(streams)]
                places = [f.add(start, n) for start in starts for n in range(0, each, lanes)]
                data = f.parameters["data"]
                loaded = [f.load(f.at(data, place, "float"), "float", lanes) for place in places]
                return [f.binary("fadd", a, b) for a, b in zip(values, loaded, strict=True)]

            start = [constant("float", 0.0, lanes)] * vectors
            add_and_store(f, f.loop(0, f.parameters["n"], each, turn, start))

        return kernel_seconds(body, data, apart)

    runs = [reader(streams) for streams in (1, vectors // 2)]
    return lambda: data.nbytes / min(run() for run in runs)


def add_and_store(f: Function, values: Sequence[Value]) -> None:
    """Use all values, so that none is left out."""
    total, *rest = values
    for value in rest:
        total = f.binary("fadd", total, value)
    f.store(total, f.parameters["out"])


def kernel_seconds(
    body: Callable[[Function], None], data: NDArray[np.float32], n: int
) -> Callable[[], float]:
    """CPU seconds of one run of a kernel (data, n, out)."""
    module = Module()
    f = Function(module, "run", [("data", "ptr"), ("n", "i64"), ("out", "ptr")], public=True)
    body(f)
    f.done()
    code = compile_text(module.text, ["run"], optimise=False)
    types = ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p
    run = ctypes.CFUNCTYPE(None, *types)(code.addresses["run"])
    out = np.zeros(64)

    def once(code: object = code) -> float:  # the code lives as long as this function
        return timed(lambda: run(data.ctypes.data, n, out.ctypes.data))[0]

    return once


# ---------------------------------------------------------------- the report


@dataclass(frozen=True)
class Bar:
    """What must hold; `goal` is such as "< 3"."""

    name: str
    value: float
    goal: str
    unit: str
    holds: bool


def below(name: str, value: float, goal: float, unit: str) -> Bar:
    return Bar(name, value, f"< {goal:g}", unit, value < goal)


def at_most(name: str, value: float, goal: float, unit: str) -> Bar:
    return Bar(name, value, f"<= {goal:g}", unit, value <= goal)


def at_least(name: str, value: float, goal: float, unit: str) -> Bar:
    return Bar(name, value, f">= {goal:g}", unit, value >= goal)


def arguments(about: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(description=(about or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all that was found here")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and smaller sizes")
    return parser


def report(
    file: Path | None, settings: Mapping[str, object], rows: Sequence[Row], bars: Sequence[Bar]
) -> int:
    """Print the rows and bars, write them; 1 if a bar does not hold."""
    host = machine()
    print("\n".join(table(rows)))
    print(f"\n{host['cpu']}, at best on one core: {host['ceiling']}")
    for bar in bars:
        word = "holds " if bar.holds else "MISSED"
        print(f"{word} {bar.name}: {bar.value:.4g} {bar.unit}, must be {bar.goal}")
    if file:
        judged = [asdict(bar) for bar in bars]
        found = {"machine": host, "settings": settings, "rows": list(rows), "bars": judged}
        file.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    return 0 if all(bar.holds for bar in bars) else 1


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Rows as text: a column for each key, numbers to the right."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[shown(row.get(key)) for key in keys] for row in rows]
    widths = [max(map(len, column)) for column in zip(keys, *cells, strict=True)]
    for line in [keys, *cells]:
        pairs = zip(line, widths, keys, strict=True)
        numeric = {key for key in keys if any(isinstance(row.get(key), float) for row in rows)}
        yield "  ".join(
            text.rjust(width) if key in numeric else text.ljust(width) for text, width, key in pairs
        ).rstrip()


def shown(value: object) -> str:
    """A cell: numbers to four places that count."""
    match value:
        case None:
            return ""
        case float() if value and not 1e-3 <= abs(value) < 1e5:
            return f"{value:.3e}" if abs(value) < 1e-3 else f"{value:,.0f}"
        case float():
            return f"{value:.4g}"
    return str(value)
