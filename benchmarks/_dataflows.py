"""Products alone on a systolic array: simulated cycles against the closed forms of SCALE-Sim.

A. Samajdar et al., "SCALE-Sim: Systolic CNN Accelerator Simulator", 2018: on an array of R x C
cells with one set of registers, M x N x K takes as many cycles as it has folds times those of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import ceil

import numpy as np

from infinisa.isa.assembly import parse_text
from infinisa.isa.instruction import Instruction, step_of
from infinisa.isa.machine import Dispatch, Machine, Memory, Unit
from infinisa.runtime.simulator import simulate

LONGEST = 1 << 16
"""More than any axis here."""


def folds(a: int, b: int, rows: int, columns: int) -> int:
    return ceil(a / rows) * ceil(b / columns)


FORMS: Mapping[str, Callable[[int, int, int, int, int], int]] = {
    "output": lambda r, c, m, n, k: folds(m, n, r, c) * (k + r + c - 2),
    "weight": lambda r, c, m, n, k: folds(k, n, r, c) * (m + 2 * r + c - 2),
    "input": lambda r, c, m, n, k: folds(k, m, r, c) * (n + 2 * r + c - 2),
}
"""Cycles by dataflow, rows, columns, M, N and K; the source counts the last cycle, from 0."""


TEXT = """
program product for array

opcode product = {instruction} "{meaning}" on matrix
    bind m = m
    bind k = k
    bind n = n
    read (m k)
    read (k n)
    write (m n)
    outputs 0

buffer a: input f32 [{m}, {k}] in dram
buffer b: input f32 [{k}, {n}] in dram
buffer c: output f32 [{m}, {n}] in dram

section all
    axis m = {m}
    axis k = {k}
    axis n = {n}
    stage only
        for m1 in m step {tile[m]}:
            for n1 in n step {tile[n]}:
                for k1 in k step {tile[k]}:
                    c[m1, n1] = product(a[m1, k1], b[k1, n1]) on matrix over m=m1, k=k1, n=n1 fresh k1
"""  # noqa: E501  # an issue is one line


@dataclass(frozen=True)
class Shape:
    """A product on an array of rows x columns; `whole`: as one issue, else an issue a fold."""

    dataflow: str
    rows: int
    columns: int
    m: int
    n: int
    k: int
    whole: bool

    @property
    def expected(self) -> int:
        return FORMS[self.dataflow](self.rows, self.columns, self.m, self.n, self.k)

    @property
    def tile(self) -> dict[str, int]:
        """What an issue takes of each axis."""
        fold = {
            "output": {"m": self.rows, "n": self.columns},
            "weight": {"k": self.rows, "n": self.columns},
            "input": {"k": self.rows, "m": self.columns},
        }[self.dataflow]
        return dict.fromkeys("mnk", LONGEST) | ({} if self.whole else fold)

    def machine(self) -> Machine:
        """The array alone: memory is never waited for."""
        array = {"rows": self.rows, "columns": self.columns, "depth": LONGEST, "registers": 1}
        return Machine(
            name="array",
            clock=10**9,
            dispatch=Dispatch(window=2, fetch=1, issue=1),
            units=(Unit(name="matrix", kind="matrix", dataflow=self.dataflow, attributes=array),),
            memories=(
                Memory(name="cache", size=1 << 40, managed="hardware"),
                Memory(name="dram", size=1 << 40, bandwidth=10**18, managed="none"),
            ),
        )

    def simulated(self, library: Mapping[str, Instruction]) -> int:
        """Cycles of the product as a program."""
        step, _ = step_of(library["matmul"])
        text = TEXT.format(
            instruction=step.name, meaning=step.meaning, m=self.m, n=self.n, k=self.k,
            tile=self.tile,
        )  # fmt: skip
        return simulate(parse_text(text, "product"), library, self.machine()).cycles


def shapes(dataflow: str, count: int, seed: int) -> Iterator[Shape]:
    """Arrays of 1 to 64 rows and columns, axes of 1 to 300: whole, partial and single tiles."""
    random = np.random.default_rng(seed)
    for number in range(count):
        rows, columns = (int(n) for n in 2 ** random.uniform(0, 6, 2))
        m, n, k = (int(n) for n in 300 ** random.uniform(0, 1, 3))
        yield Shape(dataflow, rows, columns, m, n, k, whole=number % 2 == 0)
