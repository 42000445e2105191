"""The memory of a running program and its results: one definition for every way to run one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infinisa.isa.dtypes import DTYPES, is_float
from infinisa.isa.errors import ProgramError
from infinisa.isa.program import Buffer, Operand, Piece, Program, Stage, region, slot

Array = NDArray[Any]


@dataclass(frozen=True)
class Result:
    """What a run leaves behind.

    outputs     by buffer name, cut to the positions that were written; where there are none, they
                have none in any dimension
    kept        states by buffer name, whole
    parameters  all parameters, those set by instructions included
    seconds     wall-clock time by section name
    """

    outputs: dict[str, Array]
    kept: dict[str, Array]
    parameters: dict[str, int]
    seconds: dict[str, float]


def nothing(dtype: str) -> float:
    """What unwritten memory holds, so that a read of it shows: NaN, or -1 for integers."""
    return np.nan if is_float(dtype) else -1


def bind(program: Program, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """An array for every buffer outside the chip. ProgramError for one that is missing or has
    another shape; inputs may be shorter than their buffer."""
    found: dict[str, Array] = {}
    for buffer in program.buffers:
        if not buffer.outer:
            continue
        dtype = DTYPES[buffer.dtype].numpy
        given = arrays.get(buffer.name)
        if given is None and buffer.kind in ("input", "weight"):
            raise ProgramError(f"{buffer.kind} {buffer.name!r}: no array was given")
        if given is None:
            blank = buffer.initial if buffer.kind == "state" else nothing(buffer.dtype)
            with np.errstate(invalid="ignore"):
                found[buffer.name] = np.full(buffer.shape, np.asarray(blank).astype(dtype))
        else:
            found[buffer.name] = _fitted(buffer, np.asarray(given), dtype)
    return found


def _fitted(buffer: Buffer, given: Array, dtype: np.dtype[Any]) -> Array:
    if given.dtype != dtype:
        raise ProgramError(
            f"{buffer.kind} {buffer.name!r}: must have type {buffer.dtype}, not {given.dtype}"
        )
    if given.shape == buffer.shape:
        return given if buffer.kind in ("input", "weight") else given.copy()
    shorter = len(given.shape) == len(buffer.shape) and all(
        have <= most for have, most in zip(given.shape, buffer.shape, strict=True)
    )
    if buffer.kind != "input" or not shorter:
        must = "at most" if buffer.kind == "input" else "exactly"
        raise ProgramError(
            f"{buffer.kind} {buffer.name!r}: must have {must} the shape {buffer.shape}, "
            f"not {given.shape}"
        )
    padded = np.zeros(buffer.shape, dtype)
    padded[tuple(slice(0, n) for n in given.shape)] = given
    return padded


@dataclass
class Memory:
    """Tensors outside the chip by name, and flat bytes for each on-chip memory of each core."""

    program: Program
    tensors: dict[str, Array]
    chips: dict[tuple[str, int], NDArray[np.uint8]] = field(default_factory=dict)
    written: dict[str, list[int]] = field(default_factory=dict)

    def chip(self, name: str, core: int) -> NDArray[np.uint8]:
        """The bytes of an on-chip memory; all ones, which is NaN in every float type."""
        if (name, core) not in self.chips:
            size = max(
                buffer.address + buffer.slots * buffer.pitch
                for buffer in self.program.buffers
                if buffer.memory == name and not buffer.outer
            )
            self.chips[name, core] = np.full(size, 255, np.uint8)
        return self.chips[name, core]

    def start(self, stage: Stage, core: int) -> None:
        """Set the states that live on chip while a stage runs, such as a scan's."""
        for name, _, _ in stage.lifetimes:
            buffer = self.program.buffer[name]
            if buffer.kind == "state":
                self.array(buffer, {}, core)[...] = buffer.initial

    def array(self, buffer: Buffer, ranges: Mapping[str, Piece], core: int) -> Array:
        """The buffer's memory (on chip: of the slot that these ranges turn to)."""
        if buffer.outer:
            return self.tensors[buffer.name]
        offset = buffer.address + slot(buffer, ranges) * buffer.pitch
        dtype = DTYPES[buffer.dtype].numpy
        chip = self.chip(buffer.memory, core)
        return chip[offset : offset + buffer.bytes].view(dtype).reshape(buffer.shape)

    def read(self, operand: Operand, ranges: Mapping[str, Piece], core: int) -> Array:
        """The region of an operand; positions outside read as its fill."""
        buffer = self.program.buffer[operand.buffer]
        array = self.array(buffer, ranges, core)
        where = region(operand, ranges)
        if operand.fill is None:
            return array[self._slices(operand, where, array.shape)]
        out = np.full([n for _, n in where], operand.fill).astype(array.dtype)
        inner, outer = [], []
        for (start, length), extent in zip(where, array.shape, strict=True):
            low, high = min(max(start, 0), extent), min(max(start + length, 0), extent)
            inner.append(slice(low, high))
            outer.append(slice(low - start, high - start))
        if all(s.stop > s.start for s in inner):
            out[tuple(outer)] = array[tuple(inner)]
        return out

    def write(self, operand: Operand, ranges: Mapping[str, Piece], core: int, value: Array) -> None:
        buffer = self.program.buffer[operand.buffer]
        array = self.array(buffer, ranges, core)
        where = region(operand, ranges)
        array[self._slices(operand, where, array.shape)] = value
        if buffer.outer and all(length for _, length in where):
            ends = self.written.setdefault(buffer.name, [0] * len(where))
            for i, (start, length) in enumerate(where):
                ends[i] = max(ends[i], start + length)

    def _slices(
        self, operand: Operand, where: list[tuple[int, int]], shape: tuple[int, ...]
    ) -> tuple[slice, ...]:
        for (start, length), extent in zip(where, shape, strict=True):
            if start < 0 or start + length > extent:
                raise ProgramError(
                    f"buffer {operand.buffer!r}: [{start}, {start + length}) is outside "
                    f"the {extent} positions of a dimension"
                )
        return tuple(slice(start, start + length) for start, length in where)

    def result(self, parameters: dict[str, int], seconds: dict[str, float]) -> Result:
        outputs = {}
        for buffer in self.program.of_kind("output"):
            ends = self.written.get(buffer.name, [0] * len(buffer.shape))
            outputs[buffer.name] = self.tensors[buffer.name][tuple(slice(0, n) for n in ends)]
        states = (buffer for buffer in self.program.of_kind("state") if buffer.outer)
        kept = {buffer.name: self.tensors[buffer.name] for buffer in states}
        return Result(outputs, kept, dict(parameters), seconds)
