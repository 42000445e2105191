"""A program's values in NumPy, issue by issue in program order: the truth for the other engines."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from infinisa.isa.evaluate import Range, align, evaluate, saturate
from infinisa.isa.instance import resolve
from infinisa.isa.instruction import Instruction
from infinisa.isa.language import Affine
from infinisa.isa.program import (
    COPIES,
    Issue,
    Opcode,
    Program,
    Ranges,
    defaults,
    extents,
    statements,
    stream,
    turns,
)

from .opaque import run_body
from .values import Array, Memory, Result, bind


def interpret(
    program: Program,
    library: Mapping[str, Instruction],
    arrays: Mapping[str, Array],
    parameters: Mapping[str, int] | None = None,
    *,
    cores: int = 1,
    progress: Callable[[str, int], None] | None = None,
) -> Result:
    """Run every section, stage after stage, core after core.

    arrays      inputs and weights by buffer name; states too, to continue from them
    parameters  those the caller sets; the others have their defaults until something sets them
    progress    told (section name, turn) before each turn of a section
    """
    values = defaults(program, parameters)
    memory = Memory(program, bind(program, arrays))
    executor = Executor(program, library, memory, values)
    seconds: dict[str, float] = {}
    for section in program.sections:
        began = time.perf_counter()
        for turn in turns(section, values):
            if progress:
                progress(section.name, turn)
            outermost = extents(section, values)
            for stage in section.stages:
                for core in range(cores):
                    memory.start(stage, core)
                    for issue, ranges in stream(stage, outermost, core, cores):
                        executor.run(issue, ranges, outermost, core)
        seconds[section.name] = time.perf_counter() - began
    return memory.result(values, seconds)


@dataclass
class Executor:
    """Runs single issues on a memory; sets parameters in `values`."""

    program: Program
    library: Mapping[str, Instruction]
    memory: Memory
    values: dict[str, int]

    @cached_property
    def meanings(self) -> dict[str, Instruction]:
        """What each opcode means, given the types of the buffers its issues read."""
        found: dict[str, Instruction] = {}
        for issue in issues_of(self.program):
            if issue.opcode not in found and issue.opcode not in COPIES:
                types = [self.program.buffer[operand.buffer].dtype for operand in issue.reads]
                found[issue.opcode] = resolve(
                    self.program.opcode[issue.opcode], types, self.library
                )
        return found

    def run(self, issue: Issue, ranges: Ranges, outermost: Ranges, core: int = 0) -> None:
        """Read, compute and write one issue."""
        values = self.compute(issue, ranges, outermost, core)
        self.write(issue, ranges, core, values)

    def compute(
        self, issue: Issue, ranges: Ranges, outermost: Ranges, core: int = 0
    ) -> list[Array]:
        """What the issue writes, one array for each write, in the order of its dimensions."""
        opcode = self.program.opcode[issue.opcode]
        given = [self.memory.read(operand, ranges, core) for operand in issue.reads]
        if opcode.instruction in COPIES:
            return [given[0].copy()]
        meaning = self.meanings[issue.opcode]
        if meaning.opaque:
            return self._opaque(meaning, issue, ranges, core, given)
        arrays = {
            leaf.name: _dropped(array, axes)
            for leaf, array, axes in zip(meaning.operands, given, opcode.operands, strict=True)
        }
        known = {axis: Range(*ranges[name][:2]) for axis, name in issue.axes}
        for (_, axis), index in meaning.windows.items():
            known.setdefault(axis, window(index, known))
        arrays.update(self._states(meaning, opcode, issue, ranges, core, known))
        sizes = {axis: piece.length for axis, piece in outermost.items()}
        outputs = evaluate(
            meaning.outputs,
            arrays,
            ranges=known,
            sizes=sizes,
            immediates=dict(opcode.immediates),
        )
        return [
            _placed(outputs[number], meaning.outputs[number].axes, axes, known)
            for number, axes in zip(opcode.outputs, opcode.results, strict=True)
        ]

    def _states(
        self,
        meaning: Instruction,
        opcode: Opcode,
        issue: Issue,
        ranges: Ranges,
        core: int,
        known: Mapping[str, Range],
    ) -> dict[str, Array]:
        again = issue.fresh is not None and any(ranges[name].number for name in issue.fresh)
        found = {}
        for number, state in enumerate(meaning.states):
            axes = state.input.axes
            if again:
                write = opcode.outputs.index(number)
                before = self.memory.read(issue.writes[write], ranges, core)
                kept = _dropped(before, opcode.results[write])
                order = tuple(axis for axis in opcode.results[write] if axis)
                found[state.input.name] = align(kept, order, axes)
            else:
                shape = [known[axis].length for axis in axes]
                found[state.input.name] = saturate(np.full(shape, state.initial), state.input.dtype)
        return found

    def _opaque(
        self, meaning: Instruction, issue: Issue, ranges: Ranges, core: int, given: list[Array]
    ) -> list[Array]:
        results = [self.memory.read(operand, ranges, core) for operand in issue.writes]
        found, parameters = run_body(meaning, issue, self.program, given, results)
        self.values.update(parameters)
        return found

    def write(self, issue: Issue, ranges: Ranges, core: int, values: list[Array]) -> None:
        types = (self.program.buffer[operand.buffer].dtype for operand in issue.writes)
        copies = [saturate(value, dtype) for value, dtype in zip(values, types, strict=True)]
        for operand, value in zip(issue.writes, copies, strict=True):
            self.memory.write(operand, ranges, core, value)


def issues_of(program: Program) -> list[Issue]:
    """Every issue of the program's text, once."""
    return [
        item
        for section in program.sections
        for stage in section.stages
        for item in statements(stage.body)
        if isinstance(item, Issue)
    ]


def window(index: Affine, known: Mapping[str, Range]) -> Range:
    """The positions that an affine index takes while its axes run over their ranges."""
    if any(not known[axis].length for axis in index.axes):
        return Range(0, 0)
    low = high = index.offset
    for axis, stride in index.terms:
        start, length = known[axis]
        ends = stride * start, stride * (start + length - 1)
        low, high = low + min(ends), high + max(ends)
    return Range(low, high - low + 1)


def _dropped(array: Array, axes: tuple[str, ...]) -> Array:
    """Without the dimensions that are single positions."""
    return array.reshape([n for n, axis in zip(array.shape, axes, strict=True) if axis])


def _placed(
    value: Array, axes: tuple[str, ...], target: tuple[str, ...], known: Mapping[str, Range]
) -> Array:
    """A result in the order of a write's dimensions."""
    named = [axis for axis in target if axis]
    shape = [known[axis].length if axis else 1 for axis in target]
    wide = np.broadcast_to(align(value, axes, named), [known[axis].length for axis in named])
    return np.asarray(wide).reshape(shape)
