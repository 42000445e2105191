"""Programs of one instruction, in loops or not, and both ways to run them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infinisa.isa import language as L
from infinisa.isa.dtypes import DTYPES
from infinisa.isa.instruction import Instruction
from infinisa.isa.language import Axis
from infinisa.isa.program import (
    Buffer,
    Count,
    Dimension,
    Extent,
    Issue,
    Loop,
    Opcode,
    Operand,
    Parameter,
    Program,
    Section,
    Stage,
    Statement,
    Term,
    parameter,
)
from infinisa.runtime.interpreter import interpret
from infinisa.runtime.jit.code.processor import PROCESSORS, Target
from infinisa.runtime.jit.session import compile_program

Array = NDArray[Any]
BACKENDS: Mapping[str, Mapping[str, Any]] = {
    "scalar": {},
    "vector": {},
    "parallel": {"threads": 3, "worth": 1},  # whatever can be divided is
}

HERE = tuple(name for name in PROCESSORS if not Target.named(name).missing())
"""The kinds of processors whose code this one runs."""


def dimension(meaning: Instruction, name: str, axis: Axis, ranges: Mapping[Axis, str]) -> Dimension:
    """A dimension of an operand: its axis, or the window through which it is read."""
    window = meaning.windows.get((name, axis))
    if window is None:
        return Dimension((Term(ranges[axis]),))
    return Dimension(tuple(Term(ranges[a], "", s) for a, s in window.terms), window.offset)


# long: one table of buffers, operands and loops
def program_of(
    meaning: Instruction,
    sizes: Mapping[Axis, int],
    steps: Mapping[Axis, int] | None = None,
    *,
    most: Mapping[Axis, int] | None = None,
    types: Mapping[str, str] | None = None,
    results: Sequence[str] = (),
    order: Mapping[str, Sequence[Axis]] | None = None,
    fill: Mapping[str, float] | None = None,
    reverse: bool = False,
    immediates: Mapping[str, float] | None = None,
) -> Program:
    """One instruction over whole tensors, its axes in loops of `steps`.

    sizes  of axes; an axis in `most` has a run-time length of at most that
    order  other orders of dimensions, by the name of an operand or of a result ("out0")
    """
    most, steps, order = most or {}, steps or {}, order or {}
    ranges = {axis: f"{axis}1" if axis in steps else axis for axis in sizes}
    reduced = {axis for axis in sizes if meaning.states and axis not in meaning.outputs[0].axes}
    buffers, reads, writes, operands, written = [], [], [], [], []
    for leaf in meaning.operands:
        axes = tuple(order.get(leaf.name, leaf.axes))
        shape = tuple(extent_of(meaning, leaf.name, a, {**sizes, **most}, fill) for a in axes)
        kind = (types or {}).get(leaf.name, leaf.dtype)
        buffers.append(Buffer(leaf.name, "dram", shape, kind, "input"))
        dims = tuple(dimension(meaning, leaf.name, a, ranges) for a in axes)
        reads.append(Operand(leaf.name, dims, (fill or {}).get(leaf.name)))
        operands.append(axes)
    for number, output in enumerate(meaning.outputs):
        name = f"out{number}"
        axes = tuple(order.get(name, output.axes))
        shape = tuple({**sizes, **most}[a] for a in axes)
        kind = results[number] if results else output.dtype
        buffers.append(Buffer(name, "dram", shape, kind, "output"))
        writes.append(Operand(name, tuple(Dimension((Term(ranges[a]),)) for a in axes)))
        written.append(axes)
    opcode = Opcode(
        "op",
        meaning.name,
        meaning.meaning,
        meaning.unit,
        binding=tuple((axis, (axis,)) for axis in sizes),
        operands=tuple(operands),
        results=tuple(written),
        outputs=tuple(range(len(meaning.outputs))),
        immediates=tuple((immediates or {}).items()),
    )
    fresh = tuple(ranges[a] for a in reduced if a in steps) if meaning.states else None
    hidden = {axis for _, axis in meaning.windows}  # the ranges of a window are those it reads by
    used = tuple(
        (axis, ranges[axis])
        for axis in sizes
        if axis not in hidden and (axis in meaning.axes or used_in(meaning, axis))
    )
    body: tuple[Statement, ...] = (
        Issue("op", meaning.unit, tuple(reads), tuple(writes), used, fresh),
    )
    for axis in sorted(steps, key=lambda a: a not in reduced):
        body = (Loop(f"{axis}1", axis, steps[axis], body, reverse=reverse),)
    extents = tuple(
        Extent(axis, parameter(axis) if axis in most else Count(size), most.get(axis, size))
        for axis, size in sizes.items()
    )
    given = tuple(Parameter(axis, most[axis], sizes[axis]) for axis in most)
    section = Section("all", extents, (Stage("only", body),))
    return Program("test", "host", given, (opcode,), tuple(buffers), (section,))


def used_in(meaning: Instruction, axis: Axis) -> bool:
    return any(axis in node.axes for node in L.walk(meaning.outputs))


def extent_of(
    meaning: Instruction,
    name: str,
    axis: Axis,
    sizes: Mapping[Axis, int],
    fill: Mapping[str, float] | None,
) -> int:
    window = meaning.windows.get((name, axis))
    if window is None:
        return sizes[axis]
    top = window.offset + sum(s * (sizes[a] - 1) for a, s in window.terms)
    return top + 1 - (1 if fill and name in fill else 0)


def arrays_for(program: Program, seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    found = {}
    for buffer in program.buffers:
        if buffer.kind not in ("input", "weight"):
            continue
        if DTYPES[buffer.dtype].wide in ("f32", "f64"):
            made: Array = rng.standard_normal(buffer.shape)
        else:
            made = rng.integers(0, 8, buffer.shape)
        found[buffer.name] = made.astype(DTYPES[buffer.dtype].numpy)
    return found


def check(
    program: Program,
    library: Mapping[str, Instruction],
    arrays: Mapping[str, Array] | None = None,
    parameters: Mapping[str, int] | None = None,
    tolerance: float = 1e-5,
) -> None:
    """All backends equal the interpreter."""
    arrays = arrays_for(program) if arrays is None else arrays
    wanted = interpret(program, library, arrays, parameters)
    for backend, more in BACKENDS.items():
        code = compile_program(program, library, backend, verified=True, **more)
        found = code.run(arrays, parameters)
        for name, array in {**wanted.outputs, **wanted.kept}.items():
            mine = {**found.outputs, **found.kept}[name]
            assert mine.shape == array.shape, (backend, name)
            near(mine, array, tolerance, f"{backend} {name}")


def near(found: Array, wanted: Array, tolerance: float, where: str) -> None:
    a, b = found.astype(np.float64), wanted.astype(np.float64)
    with np.errstate(invalid="ignore"):
        scale = np.abs(b[np.isfinite(b)]).max(initial=1e-30)
        if found.dtype.itemsize < 4 and found.dtype.kind not in "iub":
            tolerance = max(tolerance, 2.0**-7)
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        close = np.abs(a - b) <= tolerance * scale
    bad = ~(same | close)
    assert not bad.any(), (
        where,
        int(bad.sum()),
        np.argwhere(bad)[:4].tolist(),
        a[bad][:4],
        b[bad][:4],
    )


# ---------------------------------------------------------------- instructions


def of(meaning: Instruction) -> dict[str, Instruction]:
    """The library of one instruction."""
    return {meaning.name: meaning}
