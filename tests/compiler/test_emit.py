"""Programs compute what their calls say, on shapes that no tile divides."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from numpy.typing import NDArray

from infinisa.compiler import layers
from infinisa.compiler.calls import Access, Covered
from infinisa.compiler.emit import emit
from infinisa.compiler.handmade import Handmade
from infinisa.compiler.nest import Run
from infinisa.compiler.tile import atoms, schedule
from infinisa.isa.dtypes import DTYPES
from infinisa.isa.instruction import Instruction, opaque
from infinisa.isa.machine import Machine, builtin_machine_files, load_machine
from infinisa.isa.program import (
    Buffer,
    Dimension,
    Issue,
    Loop,
    Operand,
    Parameter,
    Program,
    Section,
    Stage,
    Statement,
    Term,
    statements,
)
from infinisa.plugins.families import attention, elementwise, linear, normalization
from infinisa.runtime.interpreter import interpret

FAMILIES = (attention, elementwise, linear, normalization)
LIBRARY: dict[str, Instruction] = {
    made.name: made for family in FAMILIES for made in family.infinisa_instructions()
} | layers.OWN
MACHINES = {file.stem: load_machine(file) for file in builtin_machine_files()}
TINY = MACHINES["tiny"]

Arrays = dict[str, NDArray[np.generic]]


def machine(kilobytes: int = 64, cores: int = 1, cache: bool = False, array: int = 16) -> Machine:
    """The tiny machine with another chip memory, array or number of cores."""
    first, *rest = TINY.memories
    managed = "hardware" if cache else "software"
    first = replace(first, size=kilobytes << 10, managed=managed)  # type: ignore[arg-type]  # one of Managed
    units = tuple(
        replace(unit, attributes={**unit.attributes, "rows": array, "columns": array, "depth": 2 * array})
        if unit.kind == "matrix"
        else unit
        for unit in TINY.units
    )
    return replace(TINY, memories=(first, *rest), cores=cores, units=units)


def untiled(covered: Covered, machine: Machine, parameters: tuple[Parameter, ...]) -> Program:
    """Every call once over its whole tensors, all of them outside the chip; scans step by step."""
    buffers = [
        Buffer(
            tensor.name, machine.dram.name, tensor.shape, tensor.dtype,
            "state" if tensor.kind == "carry" else tensor.kind,  # type: ignore[arg-type]  # a Kind
            initial=tensor.initial,
        )
        for tensor in covered.tensors.values()
    ]  # fmt: skip

    def operand(access: Access, ranges: dict[str, str]) -> Operand:
        absolute = covered.tensors[access.tensor].absolute
        dimensions = [
            Dimension(
                tuple(Term(ranges.get(a, a), "" if absolute else a, n) for a, n in index.terms),
                index.offset,
            )
            for index in access.index
        ]
        return Operand(access.tensor, tuple(dimensions), access.fill)

    def issue(number: int, ranges: dict[str, str]) -> Issue:
        call = covered.calls[number]
        return Issue(
            call.opcode.name,
            call.unit.name,
            tuple(operand(access, ranges) for access in call.reads),
            tuple(operand(access, ranges) for access in call.writes),
            tuple((axis, ranges.get(axis, axis)) for axis in call.limits),
            () if call.reduce else None,
            call.sets,
        )

    def step(run: Run) -> tuple[Statement, ...]:
        scans = [i for i in range(*run) if covered.calls[i].scan]
        if not scans:
            return tuple(issue(i, {}) for i in range(*run))
        axis, reverse = covered.calls[scans[0]].scan or "", covered.calls[scans[0]].reverse
        body = tuple(issue(i, {axis: f"{axis}.step"}) for i in scans)
        loop = Loop(f"{axis}.step", axis, 1, body, reverse=reverse)
        ahead = [issue(i, {}) for i in range(run[0], scans[0])]
        return (*ahead, loop, *(issue(i, {}) for i in range(scans[-1] + 1, run[1])))

    stages = tuple(Stage(str(run), step(run)) for run in atoms(covered))
    section = Section(covered.name, covered.extents, stages)
    opcodes = {call.opcode.name: call.opcode for call in covered.calls}
    return Program(
        "untiled", machine.name, parameters, tuple(opcodes.values()), tuple(buffers), (section,)
    )


def tensors(covered: Covered, seed: int = 0) -> Arrays:
    random = np.random.default_rng(seed)
    found: Arrays = {}
    for tensor in covered.tensors.values():
        if tensor.kind in ("input", "weight", "state"):
            scale = tensor.shape[0] ** -0.5 if tensor.kind == "weight" and tensor.shape else 1.0
            values = random.normal(size=tensor.shape) * scale
            found[tensor.name] = values.astype(DTYPES[tensor.dtype].numpy)
    return found


def check(
    covered: Covered,
    on: Machine,
    lengths: tuple[dict[str, int], ...] = ({},),
    fuse: bool = True,
    tolerance: float = 2e-4,
) -> Program:
    """The program of a graph, after comparing its values with the untiled ones."""
    parameters = tuple(
        Parameter(name, extent.most, extent.most)
        for extent in covered.extents
        for name, factor in extent.length.terms
        if factor == 1
    )
    groups = schedule(covered, on, fuse=fuse, parameters=parameters)
    program = emit("test", on, [(covered, groups)], parameters)
    whole = untiled(covered, on, parameters)
    for values in lengths:
        given = tensors(covered)
        expected = interpret(whole, LIBRARY, given, values)
        got = interpret(program, LIBRARY, given, values, cores=on.cores)
        assert got.outputs.keys() == expected.outputs.keys()
        for name in expected.outputs:
            np.testing.assert_allclose(
                got.outputs[name].astype(np.float64),
                expected.outputs[name].astype(np.float64),
                rtol=tolerance,
                atol=tolerance,
            )
        kept = [buffer.name for buffer in program.of_kind("state") if buffer.outer]
        for name in kept:
            np.testing.assert_allclose(got.kept[name], expected.kept[name], tolerance, tolerance)
    return program
