"""Whole layers, tiled for several machines: native code equals the interpreter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks import _layers as layers
from infinisa.compiler.calls import Covered
from infinisa.compiler.schedule.emit import emit
from infinisa.compiler.schedule.tile import schedule
from infinisa.isa.dtypes import DTYPES
from infinisa.isa.instruction import Instruction
from infinisa.isa.machine import Machine, builtin_machine_files, load_machine
from infinisa.isa.program import Parameter
from infinisa.plugins.families import attention, elementwise, linear, normalization
from infinisa.runtime.interpreter import interpret
from infinisa.runtime.jit import compile_program

FAMILIES = (attention, elementwise, linear, normalization)
LIBRARY: dict[str, Instruction] = {
    made.name: made for family in FAMILIES for made in family.infinisa_instructions()
} | layers.OWN
MACHINES = {file.stem: load_machine(file) for file in builtin_machine_files()}

Arrays = dict[str, NDArray[Any]]

BACKENDS: Mapping[str, Mapping[str, Any]] = {
    "scalar": {},
    "vector": {},
    "parallel": {"threads": 2, "worth": 1},  # whatever can be divided is
}


def machine(kilobytes: int, cores: int, cache: bool, array: int) -> Machine:
    """The tiny machine with another chip memory, array and number of cores; several have memory
    that never holds them up, so that it is worth while to use them."""
    tiny = MACHINES["tiny"]
    first, dram = tiny.memories
    if cores > 1:
        dram = replace(dram, bandwidth=dram.bandwidth * 64)
    managed: Literal["hardware", "software"] = "hardware" if cache else "software"
    sizes = {"rows": array, "columns": array, "depth": 2 * array}
    units = tuple(
        replace(unit, attributes={**unit.attributes, **sizes}) if unit.kind == "matrix" else unit
        for unit in tiny.units
    )
    memory = replace(first, size=kilobytes << 10, managed=managed)
    return replace(tiny, cores=cores, units=units, memories=(memory, dram))


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
    covered: Covered, on: Machine, lengths: tuple[dict[str, int], ...], tolerance: float
) -> None:
    parameters = tuple(
        Parameter(name, extent.most, extent.most)
        for extent in covered.extents
        for name, factor in extent.length.terms
        if factor == 1
    )
    groups = schedule(covered, on, parameters=parameters)
    program = emit("test", on, [(covered, groups)], parameters)
    compiled = {
        backend: compile_program(program, LIBRARY, backend, cores=on.cores, **more)
        for backend, more in BACKENDS.items()
    }
    for values in lengths:
        given = tensors(covered)
        wanted = interpret(program, LIBRARY, given, values, cores=on.cores)
        for backend, code in compiled.items():
            found = code.run(given, values)
            for name, array in {**wanted.outputs, **wanted.kept}.items():
                mine = {**found.outputs, **found.kept}[name].astype(np.float64)
                other = array.astype(np.float64)
                assert mine.shape == other.shape
                scale = np.abs(other).max(initial=1e-30)
                worst = float(np.abs(mine - other).max(initial=0.0) / scale)
                assert worst <= tolerance, (backend, name, values, worst)


def cases(on: Machine, dtype: str) -> dict[str, tuple[Covered, tuple[dict[str, int], ...]]]:
    contexts = tuple({"context": n} for n in (37, 3, 22, 1))
    steps = tuple({"steps": n} for n in (7, 1, 4))
    return {
        "gpt2": (layers.gpt2(on, LIBRARY, 13, 18, 3, 22, dtype), ({},)),
        "llama": (layers.llama(on, LIBRARY, 11, 20, 5, 26, dtype=dtype), ({},)),
        "decode": (layers.llama(on, LIBRARY, 1, 20, 5, 26, context=37, dtype=dtype), contexts),
        "lstm": (layers.lstm(on, LIBRARY, 7, 2, 10, dtype), steps),
        "bigru": (layers.bigru(on, LIBRARY, 7, 2, 10, dtype=dtype), steps),
        "resnet": (layers.resnet(on, LIBRARY, 7, 6, dtype), ({},)),
    }


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize(("cache", "cores"), [(False, 1), (True, 3), (False, 3)])
@pytest.mark.parametrize("case", cases(MACHINES["tiny"], "f32"))
def test_a_layer_in_odd_tiles(case: str, cache: bool, cores: int, dtype: str) -> None:
    on = machine(12, cores, cache, array=8)
    covered, lengths = cases(on, dtype)[case]

    check(covered, on, lengths, 2e-5 if dtype == "f32" else 2e-2)


def test_a_layer_for_an_accelerator() -> None:
    """Sizes as they are met: 64 tokens, 4 heads of 64."""
    on = MACHINES["edge"]

    check(layers.gpt2(on, LIBRARY, 64, 256, 4, 512, "f32"), on, ({},), 2e-5)
