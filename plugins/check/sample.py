"""An instruction at work: lengths of its axes, arrays for its operands, a program of one issue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import cycle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infinisa.isa.dtypes import DTYPES, is_float
from infinisa.isa.evaluate import Range, align, evaluate, saturate
from infinisa.isa.instance import resolve
from infinisa.isa.instruction import Instruction
from infinisa.isa.language import Affine, Axis, Input, Scan, Stack, View, everything, union
from infinisa.isa.program import (
    Buffer,
    Count,
    Dimension,
    Extent,
    Issue,
    Opcode,
    Operand,
    Parameter,
    Program,
    Section,
    Stage,
    Term,
)
from infinisa.runtime.interpreter import window

Array = NDArray[Any]

PRIMES = (7, 5, 11, 3, 13)
"""Lengths that no vector or tile divides."""
MOST = 1 << 20
"""The bound of a parameter that an opaque instruction sets."""


# ---------------------------------------------------------------- lengths


def lengths_of(instruction: Instruction, sizes: Sequence[int] = PRIMES) -> dict[Axis, int]:
    """Lengths of all axes, in turn from `sizes` where the definition leaves them open.

    An axis that values are stacked along has their number; one that is read by an index has the
    positions that the index reaches. Axes read through a window follow from it and are not here.
    """
    nodes = list(everything(instruction.outputs))
    scanned = [node.body.axis for node in nodes if isinstance(node, Scan)]
    leaves = (*instruction.operands, *instruction.results, *nodes)
    hidden = {axis for _, axis in instruction.windows}
    axes = [axis for axis in union([*(x.axes for x in leaves), scanned]) if axis not in hidden]
    lengths = dict(zip(axes, cycle(sizes), strict=False))
    lengths |= {node.axis: len(node.xs) for node in nodes if isinstance(node, Stack)}
    for node in nodes:
        if isinstance(node, View) and node.fill is None:
            for axis, index in node.index:
                if not (isinstance(node.x, Input) and (node.x.name, axis) in instruction.windows):
                    lengths[axis] = max(lengths[axis], _last(index, lengths) + 1)
    return lengths


def _last(index: Affine, lengths: Mapping[Axis, int]) -> int:
    """The last position that an index reads, its axes starting at 0."""
    if index.modulo:
        return index.modulo - 1
    steps = (max(0, stride * (lengths[axis] - 1)) for axis, stride in index.terms)
    return (index.offset + sum(steps)) // index.divide


# ---------------------------------------------------------------- values

KINDS = ("random", "zero", "large", "tiny", "negative", "not finite")
"""Kinds of values that operands are given, one kind for all at a time."""


def values(kind: str, shape: Sequence[int], dtype: str, random: np.random.Generator) -> Array:
    """An array of one kind; of integers and truth values within what they can hold."""
    made = random.standard_normal(shape)
    if dtype == "bool":
        return made > 0.0
    if not is_float(dtype):
        return saturate(_whole(kind, made), dtype)
    narrow = dtype == "f16"
    match kind:
        case "zero":
            made = np.zeros(shape)
        case "large":
            made = made * (1e4 if narrow else 1e18)
        case "tiny":
            made = made * (1e-5 if narrow else 1e-30)
        case "negative":
            made = -10.0 * np.abs(made)
        case "small whole":
            made = np.rint(made)
        case "positive":
            made = 0.5 + np.abs(made)
        case "not finite":
            odd = random.choice([1.0, np.inf, -np.inf, np.nan], shape, p=[0.7, 0.1, 0.1, 0.1])
            made = np.where(odd == 1.0, made, odd)
    return made.astype(DTYPES[dtype].numpy)


def _whole(kind: str, made: Array) -> Array:
    match kind:
        case "zero":
            return np.zeros_like(made)
        case "large":
            return made * 1e9
        case "negative":
            return -np.abs(made) * 50
    return np.abs(made) * 4


# ---------------------------------------------------------------- one issue


@dataclass(frozen=True)
class Sample:
    """An instruction over whole tensors: its axes have these lengths, its operands these types,
    its immediates these values instead of their defaults. Where an axis begins counts for its
    values only: programs of it begin at 0."""

    instruction: Instruction
    lengths: Mapping[Axis, int]
    types: Mapping[str, str] = field(default_factory=dict)
    immediates: Mapping[str, float | int] = field(default_factory=dict)
    starts: Mapping[Axis, int] = field(default_factory=dict)

    def __str__(self) -> str:
        lengths = " ".join(
            f"{axis}={length}" + (f" from {self.starts[axis]}" if axis in self.starts else "")
            for axis, length in self.lengths.items()
        )
        types = ", ".join(dict.fromkeys(map(self.type, self.instruction.operands)))
        numbers = "".join(f", {name} = {value}" for name, value in self.immediates.items())
        return " of ".join(text for text in (lengths, types) if text) + numbers

    def type(self, operand: Input) -> str:
        return self.types.get(operand.name, operand.dtype)

    @cached_property
    def ranges(self) -> dict[Axis, Range]:
        return {
            axis: Range(self.starts.get(axis, 0), length) for axis, length in self.lengths.items()
        }

    def range(self, operand: Input, axis: Axis) -> Range:
        """The positions of an operand's axis: its own, or those that its window reads."""
        index = self.instruction.windows.get((operand.name, axis))
        return self.ranges[axis] if index is None else window(index, self.ranges)

    def shape(self, operand: Input) -> tuple[int, ...]:
        return tuple(self.range(operand, axis).length for axis in operand.axes)

    def arrays(self, kind: str, seed: int = 0) -> dict[str, Array]:
        """An array for each operand."""
        random = np.random.default_rng(seed)
        return {
            operand.name: values(kind, self.shape(operand), self.type(operand), random)
            for operand in self.instruction.operands
        }

    def meaning(self, kind: str | None = None) -> Instruction:
        """The instruction in these types of operands; what it declares as floats in `kind`."""
        types = [
            kind if kind and is_float(operand.dtype) else self.type(operand)
            for operand in self.instruction.operands
        ]
        library = {self.instruction.name: self.instruction}
        return resolve(self.opcode, types, library)

    def initial(self, meaning: Instruction) -> dict[str, Array]:
        """The states of an instruction at the start."""
        found = {}
        for state in meaning.states:
            shape = [self.lengths[axis] for axis in state.input.axes]
            found[state.input.name] = saturate(np.full(shape, state.initial), state.input.dtype)
        return found

    def exact(self, arrays: Mapping[str, Array]) -> list[Array]:
        """What the language says in f64 of the same numbers."""
        wide = {
            operand.name: arrays[operand.name].astype(np.float64)
            if is_float(operand.dtype)
            else arrays[operand.name]
            for operand in self.instruction.operands
        }
        return self.evaluate(wide, "f64")

    def evaluate(self, arrays: Mapping[str, Array], kind: str | None = None) -> list[Array]:
        """What the language says, each state at its start; LanguageError if it has no meaning."""
        meaning = self.meaning(kind)
        given = {**arrays, **self.initial(meaning)}
        found = evaluate(meaning.outputs, given, ranges=self.windowed_ranges, sizes=self.lengths)
        return [
            np.broadcast_to(align(array, output.axes, axes), [self.lengths[a] for a in axes])
            for array, output, axes in zip(found, meaning.outputs, self.results, strict=True)
        ]

    @cached_property
    def windowed_ranges(self) -> dict[Axis, Range]:
        """The ranges of all axes, those that are read through windows included."""
        windows = {
            axis: self.range(operand, axis)
            for operand in self.instruction.operands
            for axis in operand.axes
            if (operand.name, axis) in self.instruction.windows
        }
        return self.ranges | windows

    @cached_property
    def results(self) -> tuple[tuple[Axis, ...], ...]:
        """The axes of what is written: of a state those of the state, however little changes."""
        made = self.instruction
        states = [state.input.axes for state in made.states]
        rest = made.results if made.opaque else made.outputs[len(states) :]
        return (*states, *(x.axes for x in rest))

    @cached_property
    def opcode(self) -> Opcode:
        made, formats = self.instruction, dict(self.instruction.formats)
        return Opcode(
            made.name,
            made.name,
            made.meaning,
            made.unit,
            binding=tuple((axis, (axis,)) for axis in self.lengths),
            immediates=tuple(self.immediates.items()),
            operands=tuple(operand.axes for operand in made.operands),
            results=self.results,
            outputs=tuple(range(len(self.results))),
            formats=tuple((name, formats[name]) for name in self.immediates if name in formats),
        )

    @cached_property
    def program(self) -> Program:
        """One issue: inputs by the names of the operands, outputs "result 0" and so on."""
        made = self.instruction
        inputs = [
            Buffer(operand.name, "dram", self.shape(operand), self.type(operand), "input")
            for operand in made.operands
        ]
        written = made.results if made.opaque else self.meaning().outputs
        outputs = [
            Buffer(result(k), "dram", tuple(self.lengths[a] for a in axes), x.dtype, "output")
            for k, (x, axes) in enumerate(zip(written, self.results, strict=True))
        ]
        reads = [
            Operand(operand.name, tuple(self._dimension(operand, axis) for axis in operand.axes))
            for operand in made.operands
        ]
        writes = [
            Operand(result(k), tuple(Dimension((Term(axis),)) for axis in axes))
            for k, axes in enumerate(self.results)
        ]
        issue = Issue(
            made.name,
            made.unit,
            tuple(reads),
            tuple(writes),
            tuple((axis, axis) for axis in self.lengths),
            () if made.states else None,
            made.sets,
        )
        extents = tuple(Extent(axis, Count(n), n) for axis, n in self.lengths.items())
        section = Section("main", extents, (Stage("only", (issue,)),))
        parameters = tuple(Parameter(name, MOST, 0, given=False) for name in made.sets)
        buffers = (*inputs, *outputs)
        name = f"check of {made.name}"
        return Program(name, "any", parameters, (self.opcode,), buffers, (section,))

    def _dimension(self, operand: Input, axis: Axis) -> Dimension:
        index = self.instruction.windows.get((operand.name, axis))
        if index is None:
            return Dimension((Term(axis),))
        start = self.range(operand, axis).start
        return Dimension(tuple(Term(a, "", s) for a, s in index.terms), index.offset - start)


def result(number: int) -> str:
    """The name of an output's buffer."""
    return f"result {number}"
