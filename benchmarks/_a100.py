"""Four operators on an A100: simulated on `a100.toml`, against measured tables that are read from
a folder, and what a roofline makes of the same rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from infinisa.compiler.builder import Builder
from infinisa.compiler.graph import Model
from infinisa.compiler.pipeline import compile_model
from infinisa.isa import formulas
from infinisa.isa.errors import InfinisaError
from infinisa.isa.language import Node, cast, dot
from infinisa.isa.machine import Machine, load_machine
from infinisa.plugins.manager import load as load_plugins
from infinisa.runtime.simulator import simulate

from ._host import layer_norm, softmax

Array = NDArray[np.float64]

MACHINE = Path(__file__).parent / "a100.toml"
HALF = "f16"
"""All operands and results."""

EFFICIENCIES = np.linspace(0.2, 1.2, 51)
"""Of peak and bandwidth, tried for the roofline."""


@dataclass(frozen=True)
class Case:
    """A row of a table: an operator over a shape.

    seconds     as measured
    operations  and bytes: what the roofline knows of it
    """

    name: str
    model: Model
    seconds: float
    operations: float
    bytes: float


def matmul(m: int, n: int, k: int) -> Model:
    b = Builder("matmul")
    x, w = b.input("x", f"m k: {HALF}", (m, k)), b.input("w", f"k n: {HALF}", (k, n))
    b.graph("main").output("y", cast(dot(x, w, "k"), HALF))
    return b.model()


def rowwise(function: Callable[[Node], Node], m: int, n: int) -> Model:
    b = Builder("rowwise")
    b.graph("main").output("y", cast(function(b.input("x", f"m n: {HALF}", (m, n))), HALF))
    return b.model()


def products(cells: Sequence[str]) -> Case:
    m, n, k = map(int, cells[:3])
    seconds = float(cells[3].removesuffix("ms")) / 1e3
    size = 2.0 * (m * k + k * n + m * n)
    return Case(f"{m} x {k} x {n}", matmul(m, n, k), seconds, 2.0 * m * n * k, size)


def of_rows(function: Callable[[Node], Node]) -> Callable[[Sequence[str]], Case]:
    """M, N and G elements a second; the function is over N."""

    def case(cells: Sequence[str]) -> Case:
        m, n = map(int, cells[:2])
        return elements(f"{m} x {n}", rowwise(function, m, n), m * n, float(cells[2]))

    return case


def gelu(cells: Sequence[str]) -> Case:
    """Elements, and G of them a second; here in rows of 1024."""
    count = int(cells[0])
    model = rowwise(formulas.gelu_tanh, count // 1024, 1024)
    return elements(str(count), model, count, float(cells[1]))


def elements(name: str, model: Model, count: int, rate: float) -> Case:
    """An operator that reads and writes each element once."""
    return Case(name, model, count / (rate * 1e9), 0.0, 4.0 * count)


TABLES: Mapping[str, Callable[[Sequence[str]], Case]] = {
    "matmul": products,
    "softmax": of_rows(softmax),
    "layernorm": of_rows(layer_norm),
    "gelu": gelu,
}


def cases(folder: Path, table: str) -> list[Case]:
    path = folder / "a100" / f"{table}_A100.csv"
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError as error:
        raise InfinisaError(f"table {path} cannot be read: {error.strerror}") from error
    return [TABLES[table]([cell.strip() for cell in line.split(",")]) for line in lines if line]


Line = tuple[str, str, str, str, float, float, str, int, float]
"""The fields of a row of the report."""


def rows(folder: Path) -> Iterator[Line]:
    """All tables: nothing fitted, every row; then fitted on the first row and every other after it,
    scored on those between."""
    machine = load_machine(MACHINE)
    for table in TABLES:
        yield from rows_of(table, cases(folder, table), machine)


def rows_of(table: str, found: Sequence[Case], machine: Machine) -> Iterator[Line]:
    real = np.array([case.seconds for case in found])
    simulated = np.array([seconds(case.model, machine) for case in found])
    yield from lines(table, found, simulated, 0, "simulated")
    scored = found[1::2]
    straight = line_through(simulated[::2], real[::2])
    yield from lines(table, scored, straight(simulated[1::2]), 2, "simulated")
    roof = roofline(found[::2], machine)
    yield from lines(table, scored, roof(scored), 3, "roofline")


def lines(
    table: str, found: Sequence[Case], predicted: Array, fitted: int, how: str
) -> Iterator[Line]:
    for case, time in zip(found, predicted.tolist(), strict=True):
        cells = "A100", f"{table}, {how}", case.name, "time", 1e3 * time
        yield (*cells, 1e3 * case.seconds, "ms", fitted, time / case.seconds - 1)


def seconds(model: Model, machine: Machine) -> float:
    library = load_plugins().library
    program = compile_model(model, machine, library).program
    return simulate(program, library, machine).seconds


def line_through(x: Array, y: Array) -> Callable[[Array], Array]:
    """Two constants: what a launch takes, and a factor; the least squares of relative errors."""
    matrix = np.stack([1 / y, x / y], axis=1)
    (start, slope), *_ = np.linalg.lstsq(matrix, np.ones(len(y)), rcond=None)
    return lambda x: start + slope * x


def roofline(fitted: Sequence[Case], machine: Machine) -> Callable[[Sequence[Case]], Array]:
    """Three constants: what a launch takes, and the shares of peak and bandwidth that are reached;
    the least squares of relative errors."""
    real = np.array([case.seconds for case in fitted])

    def bound(found: Sequence[Case], compute: float, memory: float) -> Array:
        work = np.array([case.operations for case in found]) / (compute * machine.peak())
        return np.maximum(
            work, np.array([case.bytes for case in found]) / (memory * machine.dram.bandwidth)
        )

    best = (np.inf, 0.0, 1.0, 1.0)
    for compute in EFFICIENCIES:
        for memory in EFFICIENCIES:
            time = bound(fitted, compute, memory)
            start = max(0.0, float(((real - time) / real**2).sum() / (1 / real**2).sum()))
            miss = float((((start + time) / real - 1) ** 2).sum())
            best = min(best, (miss, start, float(compute), float(memory)))
    _, start, compute, memory = best
    return lambda found: start + bound(found, compute, memory)
