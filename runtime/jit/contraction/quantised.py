"""Weights in fewer bits: how a session makes them.

A panel has four steps of k of a column side by side: [k / 4][width][4]; or two, where processors
multiply pairs of i16. Bytes of int8 count from 128, but in pairs they are signed;
halves of bytes of int4 from 8, and the low halves are the first four steps of eight. A factor
belongs to a column, and those of all columns (f32) lie behind the numbers; or to a group of steps,
and they (f16) lie behind the numbers of each group: memory is read in its order. The largest
absolute value is 127 steps of int8, and the value that is furthest from zero is 0 of int4.

The other side is read in integers too (`integers.py`): as good as f32 in three bytes, or in one.
Then one more number a column is behind all: the sum of its weights, in steps (i32), or where there
are groups as it is (f32).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from infinisa.isa.errors import CompileError

from ..code.ir import BYTES, Function, Module, Number, Value, constant
from .microkernels import kernel

STORED_AS = ("bf16", "f16")
INTEGERS: dict[str, Literal[8, 4]] = {"int8": 8, "int4": 4}
WHOLE_COLUMNS: Literal[3] = 3
IN_GROUPS: Literal[2] = 2
"""Bytes of a number that meets weights whose factors are those of columns or of groups, unless it
is asked for one byte: three are as good as f32. Rounded to two, it changes a sum by 3e-5 of what it
is; rounding the weights changed it by 5e-3 with int8, 0.1 with int4."""

GROUPS = (32, 64, 128, 256)
"""Steps of k that may share a factor."""

TURN = 16
"""Steps of k of a panel are a multiple of it."""


@dataclass(frozen=True)
class Format:
    """What a user wants of the weights that contractions read.

    weights      "bf16", "f16", "int8", "int4"
    group        steps of k that share a factor of integers; 0: a whole column
    activations  whether the other side is quantised too, row by row when it is used
    """

    weights: str
    group: int = 0
    activations: bool = False

    @classmethod
    def of(cls, weights: str, activations: str = "") -> Format | None:
        """From `int8`, `int8/32`, `int4/32`, `bf16`, `f16`; "" is None: weights as they come."""
        if activations not in ("", "int8"):
            raise CompileError(f"activations must be 'int8', not {activations!r}")
        if not weights and not activations:
            return None
        name, slash, group = weights.partition("/")
        if activations and name not in INTEGERS:
            raise CompileError(f"activations {activations!r}: need integer weights, not {name!r}")
        grouped = group in map(str, GROUPS)
        if not (
            (name in STORED_AS and not slash)
            or (name == "int8" and (grouped or not slash))
            or (name == "int4" and grouped)
        ):
            groups = ", ".join(map(str, GROUPS))
            raise CompileError(
                f"weights must be 'bf16', 'f16', 'int8', 'int8/N' or 'int4/N' with N of {groups}, "
                f"not {weights!r}"
            )
        return cls(name, int(group or 0), bool(activations))


@dataclass(frozen=True)
class Form:
    """How the integers of a panel are stored.

    bits    of a number
    group   steps of k that share a factor; 0: a whole column
    digits  bytes of a number of the other side
    side    steps of k of a column side by side; of a byte in two halves, in each of them
    """

    bits: Literal[8, 4]
    group: int = 0
    digits: Literal[1, 2, 3] = 3
    side: Literal[2, 4] = 4

    @property
    def name(self) -> str:
        return f"int{self.bits}" + (f"_{self.group}" if self.group else "")

    @property
    def deep(self) -> int:
        """Steps of k in a byte."""
        return 8 // self.bits

    @property
    def middle(self) -> int:
        """The byte, or half of one, that is 0. Pairs are signed."""
        return 0 if self.side == 2 else 1 << (self.bits - 1)

    def numbers(self, steps: int, width: int) -> int:
        """Bytes before the factors of the columns, or of all groups with their factors."""
        found = width * (-(-steps // TURN) * TURN) // self.deep
        if self.group:
            found += steps // self.group * width * BYTES["half"]
        return found

    def bytes(self, steps: int, width: int) -> int:
        """Of a panel."""
        more = (not self.group) + (self.digits == 1)
        return self.numbers(steps, width) + more * width * BYTES["float"]


def quantised(form: Form, values: NDArray[Any]) -> tuple[NDArray[np.uint8], float]:
    """(panels, error): `values` are [panel][k][width]; the error is relative, root mean square, and
    not a number where a value has no such form."""
    panels, k, width = values.shape
    groups = values.reshape(panels, -1, form.group or k, width)
    with np.errstate(all="ignore"):
        if form.bits == 8:
            factors = np.abs(groups).max(2, keepdims=True) / np.float32(127)
        else:
            places = np.abs(groups).argmax(2, keepdims=True)
            factors = np.take_along_axis(groups, places, 2) / np.float32(-8)
        if form.group:
            factors = factors.astype(np.float16)
        wide = factors.astype(np.float32)
        least, most = (-127, 127) if form.bits == 8 else (-8, 7)
        steps = np.where(wide == 0, 0, np.clip(np.rint(groups / wide), least, most))
        rounded = (steps * wide).reshape(values.shape)
        integers = steps.astype(np.int8)
        each = panels, groups.shape[1]
        parts = [_flat(part, *each) for part in (_arranged(form, integers), factors)]
        found = np.concatenate(parts, -1).reshape(panels, -1)
        if form.digits == 1:
            sums = integers.sum(2, keepdims=True, dtype=np.int32)
            whole = (sums * factors.astype(np.float64)).sum(1).astype(np.float32)
            found = np.concatenate([found, _flat(whole if form.group else sums, panels)], -1)
    return found.reshape(-1), relative(values, rounded)


def _flat(part: NDArray[Any], *shape: int) -> NDArray[np.uint8]:
    """The bytes of an array, by its first axes."""
    return np.ascontiguousarray(part).view(np.uint8).reshape(*shape, -1)


def _arranged(form: Form, integers: NDArray[np.int8]) -> NDArray[np.uint8]:
    """[panel][group][k][width] as the bytes of numbers."""
    panels, count, deep, width = integers.shape
    integers = np.pad(integers, ((0, 0), (0, 0), (0, -deep % TURN), (0, 0)))
    beside = integers.reshape(panels, count, -1, form.side, width).swapaxes(3, 4)
    found = (beside.astype(np.int16) + form.middle).astype(np.uint8)
    if form.bits == 8:
        return found
    halves: NDArray[np.uint8] = found[:, :, 0::2] | found[:, :, 1::2] << np.uint8(4)
    return halves


def relative(values: NDArray[Any], rounded: NDArray[Any]) -> float:
    """What was rounded off, relative to the values, as root mean squares."""
    with np.errstate(all="ignore"):
        lost, size = (
            float(np.sqrt(np.mean(np.square(array, dtype=np.float64))))
            for array in (np.subtract(values, rounded, dtype=np.float64), values)
        )
    return lost / size if size else 0.0


# ---------------------------------------------------------------- reading


def load_factors(f: Function, form: Form, pointer: Value, column: int, lanes: int) -> Value:
    """Those of `lanes` columns."""
    kind = "half" if form.group else "float"
    raw = f.load(f.at(pointer, column, kind), kind, lanes)
    return f.convert("fpext", raw, "float") if form.group else raw


def group_offset(f: Function, form: Form, step: Number, width: int) -> Number:
    """Bytes of a panel before a step that begins a group."""
    size = form.numbers(form.group, width)
    if isinstance(step, int):
        return step // form.group * size
    return f.multiply(f.emit("i64", 1, f"udiv i64 {step.text}, {form.group}"), size)


def halves(f: Function, form: Form, raw: Value) -> list[Value]:
    """The bytes in each lane as so many steps of k, or as twice as many."""
    if form.bits == 8:
        return [raw]
    mask, half = constant("i32", 0x0F0F0F0F), constant("i32", 4)
    return [f.binary("and", value, mask) for value in (raw, f.binary("lshr", raw, half))]


UNPACK = [("x", "ptr noalias"), ("factors", "ptr noalias"), ("panel", "ptr noalias"),
          ("steps", "i64")]  # fmt: skip
"""A panel, the factors of its columns (without groups), where it goes as f32, steps of k."""


def unpack_kernel(module: Module, form: Form, lanes: int, width: int) -> str:
    """panel[k][width] of f32; there is room for a multiple of `TURN` steps."""
    name = f"unpack_{form.name}_{form.side}_{lanes}_{width}"
    f = kernel(module, name, UNPACK)
    if f is None:
        return name
    p, vectors, side = f.parameters, width // lanes, form.side

    def factors(pointer: Value) -> list[Value]:
        return [load_factors(f, form, pointer, v * lanes, lanes) for v in range(vectors)]

    def number(part: Value, t: int) -> Value:
        """Byte t of each lane, or of half of it."""
        if side == 4:
            value = f.binary("lshr", part, constant("i32", 8 * t)) if t else part
            value = f.binary("and", value, constant("i32", 255))
            value = f.binary("sub", value, constant("i32", form.middle))
        else:
            value = f.binary("shl", part, constant("i16", 8)) if t == 0 else part
            value = f.convert("sext", f.binary("ashr", value, constant("i16", 8)), "i32")
        return f.convert("sitofp", value, "float")

    def rows(steps: Number, x: Value, out: Value, factors: list[Value]) -> None:
        def row(first: Value, _: list[Value]) -> None:
            source = f.at(x, f.multiply(first, width // form.deep))
            into = f.at(out, f.multiply(first, width), "float")
            for v in range(vectors):
                raw = f.load(f.at(source, side * v * lanes), f"i{8 * side}", lanes)
                for half, part in enumerate(halves(f, form, raw)):
                    for t in range(side):
                        value = f.binary("fmul", number(part, t), factors[v])
                        f.store(value, f.at(into, (side * half + t) * width + v * lanes, "float"))

        f.loop(0, steps, side * form.deep, row)

    def group(first: Value, _: list[Value]) -> None:
        x = f.at(p["x"], group_offset(f, form, first, width))
        behind = f.at(x, form.group // form.deep * width)
        rows(form.group, x, f.at(p["panel"], f.multiply(first, width), "float"), factors(behind))

    if form.group:
        f.loop(0, p["steps"], form.group, group)
    else:
        rows(p["steps"], p["x"], p["panel"], factors(p["factors"]))
    f.done()
    return name
