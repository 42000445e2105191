"""One matrix product as one instruction, for any shape and layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infinisa.isa.assembly import parse_text
from infinisa.isa.instruction import Instruction
from infinisa.isa.program import Program

Array = NDArray[Any]

TEXT = """
program product for host

opcode product = matmul "{meaning}" on matrix
    bind m = m
    bind k = k
    bind n = n
    read ({a})
    read ({b})
    write (m n)
    outputs 0

buffer a: input f32 {a_shape} in dram
buffer b: input f32 {b_shape} in dram
buffer c: output f32 [{m}, {n}] in dram

section all
    axis m = {m}
    axis k = {k}
    axis n = {n}
    stage only
        c[m, n] = product(a[{a_axes}], b[{b_axes}]) on matrix over m, k, n
"""


@dataclass(frozen=True)
class Product:
    """c[m, n] = a[m, k] b[k, n]; `layout` has a T for an operand that is transposed, else an N."""

    m: int
    k: int
    n: int
    layout: str = "NN"

    @property
    def name(self) -> str:
        return f"{self.m}x{self.k}x{self.n} {self.layout}"

    @property
    def flops(self) -> int:
        return 2 * self.m * self.k * self.n

    @property
    def axes(self) -> tuple[str, str]:
        """Of both operands, outermost first."""
        return (
            "km" if self.layout[0] == "T" else "mk",
            "nk" if self.layout[1] == "T" else "kn",
        )

    @property
    def shapes(self) -> tuple[list[int], list[int]]:
        sizes = {"m": self.m, "k": self.k, "n": self.n}
        a, b = self.axes
        return [sizes[axis] for axis in a], [sizes[axis] for axis in b]

    def program(self, library: Mapping[str, Instruction]) -> Program:
        axes, shapes = self.axes, self.shapes
        text = TEXT.format(
            meaning=library["matmul"].meaning,
            a=" ".join(axes[0]),
            b=" ".join(axes[1]),
            a_shape=shapes[0],
            b_shape=shapes[1],
            a_axes=", ".join(axes[0]),
            b_axes=", ".join(axes[1]),
            m=self.m,
            k=self.k,
            n=self.n,
        )
        return parse_text(text, self.name)

    def operands(self, source: np.random.Generator) -> dict[str, Array]:
        a, b = (source.standard_normal(shape, np.float32) for shape in self.shapes)
        return {"a": a, "b": b}
