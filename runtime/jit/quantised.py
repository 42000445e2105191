"""Weights in fewer bits: how a session makes them, and the kernels that read them.

A panel of int8 is [k][width] bytes, then one factor a column: its largest absolute value is 127
steps. A panel of int4 is groups of 32 steps of k: [16][width] bytes, the even step of two in the
low half, then the factors of the group as f16; 8 is zero, and the value that is furthest from zero
is 0. Everything is added up in f32: only weights are rounded. Memory is read in its order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .ir import BYTES, Function, Module, Number, Value, constant, number
from .microkernels import kernel, lane_range, multiply_add

Form: TypeAlias = Literal["", "int8", "int4"]
"""How the numbers of a panel are stored; "": as a type of the language."""

GROUP = 32
"""Steps of k that share a factor of int4."""

THIN_ROWS = 2
"""Up to so many rows numbers are widened in registers; for more a panel is unpacked before."""


def panel_bytes(form: Form, steps: int, width: int) -> int:
    if form == "int8":
        return width * (steps + BYTES["float"])
    return width * (steps // 2 + steps // GROUP * BYTES["half"])


def quantised(form: Form, values: NDArray[Any]) -> tuple[NDArray[np.uint8], float]:
    """(panels, error): `values` are [panel][k][width]; the error is relative, root mean square, and
    not a number where a value has no such form."""
    with np.errstate(all="ignore"):
        if form == "int8":
            factors = np.abs(values).max(1, keepdims=True) / np.float32(127)
            steps = np.where(factors == 0, 0, np.rint(values / factors))
            made, rounded = [steps.astype(np.int8), factors.astype(np.float32)], steps * factors
        else:
            groups = values.reshape(len(values), -1, GROUP, values.shape[2])
            places = np.abs(groups).argmax(2, keepdims=True)
            furthest = np.take_along_axis(groups, places, 2) / np.float32(-8)
            factors = furthest.astype(np.float16)
            steps = np.where(factors == 0, 0, np.rint(groups / factors.astype(np.float32)))
            steps = np.clip(steps + 8, 0, 15).astype(np.uint8)
            made = [steps[:, :, 0::2] | steps[:, :, 1::2] << 4, factors]
            rounded = ((steps - np.float32(8)) * factors).reshape(values.shape)
    parts = [part.reshape(*part.shape[:-2], -1).view(np.uint8) for part in made]
    whole = np.ascontiguousarray(np.concatenate(parts, -1)).reshape(-1)
    return whole, relative(values, rounded)


def relative(values: NDArray[Any], rounded: NDArray[Any]) -> float:
    """What was rounded off, relative to the values, as root mean squares."""
    with np.errstate(all="ignore"):
        lost, size = (
            float(np.sqrt(np.mean(np.square(array, dtype=np.float64))))
            for array in (np.subtract(values, rounded, dtype=np.float64), values)
        )
    return lost / size if size else 0.0


# ---------------------------------------------------------------- reading

LOOKUP = "llvm.x86.avx512.permvar.sf.512"
"""Picks numbers of a vector by the low bits of others: what four bits mean in one operation."""


class Reader:
    """Vectors of a panel as numbers, without their factors."""

    def __init__(self, f: Function, form: Form, lanes: int, lookup: bool) -> None:
        self.f, self.form, self.lanes = f, form, lanes
        self.lookup = lookup and lanes == 16

    def bytes(self, pointer: Value, v: int, word: str) -> Value:
        f = self.f
        raw = f.load(f.at(pointer, v * self.lanes), "i8", self.lanes)
        return f.convert(word, raw, "i32")

    def step(self, pointer: Value, v: int) -> list[Value]:
        """What a row of bytes holds: one step of k, or two."""
        f = self.f
        if self.form == "int8":
            return [f.convert("sitofp", self.bytes(pointer, v, "sext"), "float")]
        pairs = self.bytes(pointer, v, "zext")
        high = f.binary("lshr", pairs, constant("i32", 4, self.lanes))
        return [self.nibble(pairs, mask=True), self.nibble(high, mask=False)]

    def nibble(self, value: Value, mask: bool) -> Value:
        f = self.f
        if self.lookup:
            listed = ", ".join(f"float {float(n - 8)}" for n in range(16))
            table = f"<16 x float> <{listed}>"
            f.module.declarations.add(f"declare <16 x float> @{LOOKUP}(<16 x float>, <16 x i32>)")
            return f.emit(
                "float", 16, f"call <16 x float> @{LOOKUP}({table}, {value.type} {value.text})"
            )
        if mask:
            value = f.binary("and", value, constant("i32", 15, self.lanes))
        moved = f.binary("sub", value, constant("i32", 8, self.lanes))
        return f.convert("sitofp", moved, "float")

    def factors(self, pointer: Value, v: int) -> Value:
        f = self.f
        kind = "float" if self.form == "int8" else "half"
        raw = f.load(f.at(pointer, v * self.lanes, kind), kind, self.lanes)
        return raw if kind == "float" else f.convert("fpext", raw, "float")


UNPACK = [("x", "ptr noalias"), ("factors", "ptr noalias"), ("panel", "ptr noalias"),
          ("steps", "i64")]  # fmt: skip
"""A panel, the factors of its columns (int8), where it goes as f32, steps of k."""


def unpack_kernel(module: Module, form: Form, lanes: int, width: int, lookup: bool) -> str:
    """panel[k][width] of f32."""
    name = f"unpack_{form}_{lanes}_{width}"
    f = kernel(module, name, UNPACK)
    if f is None:
        return name
    p, reader, vectors = f.parameters, Reader(f, form, lanes, lookup), width // lanes

    def rows(x: Value, out: Value, factors: list[Value]) -> None:
        for v in range(vectors):
            for deep, value in enumerate(reader.step(x, v)):
                at = f.at(out, deep * width + v * lanes, "float")
                f.store(f.binary("fmul", value, factors[v]), at)

    if form == "int8":
        factors = [reader.factors(p["factors"], v) for v in range(vectors)]
        f.loop(0, p["steps"], 1, lambda i, _: rows(
            f.at(p["x"], f.multiply(i, width)), f.at(p["panel"], f.multiply(i, width), "float"),
            factors))  # fmt: skip
    else:

        def group(first: Value, _: list[Value]) -> None:
            x = f.at(p["x"], group_offset(f, first, width))
            factors = [reader.factors(f.at(x, GROUP // 2 * width), v) for v in range(vectors)]
            out = f.at(p["panel"], f.multiply(first, width), "float")

            def pair(i: Value, _: list[Value]) -> None:
                into = f.at(out, f.multiply(i, 2 * width), "float")
                rows(f.at(x, f.multiply(i, width)), into, factors)

            f.loop(0, GROUP // 2, 1, pair)

        f.loop(0, p["steps"], GROUP, group)
    f.done()
    return name


def group_offset(f: Function, step: Number, width: int) -> Number:
    """Bytes of a panel of int4 before a step that begins a group."""
    size = width * (GROUP // 2 + BYTES["half"])
    if isinstance(step, int):
        return step // GROUP * size
    return f.multiply(f.emit("i64", 1, f"udiv i64 {step.text}, {GROUP}"), size)


THIN = [("x", "ptr noalias"), ("factors", "ptr noalias"), ("s", "ptr noalias"), ("sm", "i64"),
        ("sk", "i64"), ("c", "ptr noalias"), ("cm", "i64"), ("steps", "i64"), ("columns", "i64"),
        ("more", "i64")]  # fmt: skip
"""A panel, the factors of its columns (int8); S, its elements from row to row and step to step; the
result, its elements from row to row; steps of k; columns; whether to add to the result."""


def thin_kernel(
    module: Module, form: Form, lanes: int, shape: tuple[int, int], lookup: bool
) -> str:
    """A panel of `shape[1]` columns against a few rows."""
    name = f"thin_{form}_{lanes}_{shape[0]}x{shape[1]}"
    f = kernel(module, name, THIN)
    if f is not None:
        writer = Thin(f, Reader(f, form, lanes, lookup), shape)
        _put(f, writer.int8() if form == "int8" else writer.int4(), writer.shape)
        f.done()
    return name


class Thin:
    """Writes the sums of a thin kernel."""

    def __init__(self, f: Function, reader: Reader, shape: tuple[int, int]) -> None:
        self.f, self.reader, (rows, self.width) = f, reader, shape
        p, self.vectors = f.parameters, self.width // reader.lanes
        self.lefts = [f.at(p["s"], f.multiply(p["sm"], r), "float") for r in range(rows)]
        self.zeros = [constant("float", 0, reader.lanes)] * (rows * self.vectors)
        self.shape = rows, self.vectors, reader.lanes

    def int8(self) -> list[Value]:
        f, p = self.f, self.f.parameters

        def steps(count: int) -> Callable[[Value, list[Value]], list[Value]]:
            def turn(i: Value, sums: list[Value]) -> list[Value]:
                for deep in range(count):
                    at = f.add(i, deep)
                    sums = self.step(f.at(p["x"], f.multiply(at, self.width)), at, sums)
                return sums

            return turn

        many = f.whole(p["steps"], 4)
        sums = f.loop(0, many, 4, steps(4), self.zeros)
        sums = f.loop(many, p["steps"], 1, steps(1), sums)
        return self.scaled(sums, p["factors"], self.zeros)

    def int4(self) -> list[Value]:
        f, p, width = self.f, self.f.parameters, self.width

        def group(first: Value, totals: list[Value]) -> list[Value]:
            x = f.at(p["x"], group_offset(f, first, width))

            def pairs(i: Value, sums: list[Value]) -> list[Value]:
                for deep in range(4):
                    at = f.add(i, deep)
                    place = f.add(first, f.multiply(at, 2))
                    sums = self.step(f.at(x, f.multiply(at, width)), place, sums)
                return sums

            sums = f.loop(0, GROUP // 2, 4, pairs, self.zeros)
            return self.scaled(sums, f.at(x, GROUP // 2 * width), totals)

        return f.loop(0, p["steps"], GROUP, group, self.zeros)

    def step(self, x: Value, first: Number, sums: list[Value]) -> list[Value]:
        """One row of bytes, with the step of k that it begins with."""
        f, p, found = self.f, self.f.parameters, list(sums)
        read = [self.reader.step(x, v) for v in range(self.vectors)]
        for deep in range(len(read[0])):
            at = f.multiply(p["sk"], f.add(first, deep))
            for r, left in enumerate(self.lefts):
                one = f.splat(f.load(f.at(left, at, "float"), "float"), self.reader.lanes)
                for v in range(self.vectors):
                    place = r * self.vectors + v
                    found[place] = multiply_add(f, one, read[v][deep], found[place])
        return found

    def scaled(self, sums: list[Value], factors: Value, totals: list[Value]) -> list[Value]:
        """Sums by the factors of their columns, added to totals."""
        by = [self.reader.factors(factors, v) for v in range(self.vectors)]
        return [
            multiply_add(self.f, value, by[place % self.vectors], total)
            for place, (value, total) in enumerate(zip(sums, totals, strict=True))
        ]


def _put(f: Function, totals: list[Value], shape: tuple[int, int, int]) -> None:
    """Sums into the result, or added to it."""
    p, (rows, vectors, lanes) = f.parameters, shape
    limits = f.splat(number(p["columns"]), lanes)
    masks = [f.compare("sgt", limits, lane_range(f, lanes, v * lanes)) for v in range(vectors)]
    places = [
        (f.at(p["c"], f.add(f.multiply(p["cm"], r), v * lanes), "float"), masks[v])
        for r in range(rows)
        for v in range(vectors)
    ]

    def before() -> list[Value]:
        return [f.load(at, "float", lanes, mask) for at, mask in places]

    again = f.compare("ne", p["more"], constant("i64", 0))
    start = f.either(again, before, lambda: [constant("float", 0, lanes)] * len(places))
    for total, first, (at, mask) in zip(totals, start, places, strict=True):
        f.store(f.binary("fadd", total, first), at, mask)
