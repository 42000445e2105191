"""Compiles a model and holds its values on every backend against the language."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infinisa.compiler.graph import Model
from infinisa.compiler.pipeline import Compilation, compile_model
from infinisa.compiler.reference import evaluate_model
from infinisa.isa.dtypes import DTYPES
from infinisa.isa.instruction import Instruction
from infinisa.isa.machine import Machine, builtin_machine_files, load_machine
from infinisa.plugins.manager import load
from infinisa.runtime.simulator import simulate

Array = NDArray[Any]

REGISTRY = load(installed=False)
LIBRARY = REGISTRY.library
MACHINES: dict[str, Machine] = {file.stem: load_machine(file) for file in builtin_machine_files()}
RANDOM = np.random.default_rng(7)


def random(*shape: int) -> NDArray[np.float32]:
    return (RANDOM.normal(size=shape) * 0.5).astype(np.float32)


def inputs_of(model: Model) -> dict[str, Array]:
    """Random inputs of the model's types, whatever other tests have drawn."""
    found: dict[str, Array] = {}
    own = np.random.default_rng([7, *model.name.encode()])
    for name, (leaf, shape) in model.inputs.items():
        values = (own.normal(size=shape) * 0.5).astype(np.float32)
        whole = leaf.dtype.startswith(("i", "u"))
        found[name] = (np.rint(values * 20) if whole else values).astype(DTYPES[leaf.dtype].numpy)
    return found


def agree_everywhere(
    model: Model,
    machine: Machine = MACHINES["datacenter"],
    library: Mapping[str, Instruction] = LIBRARY,
    inputs: Mapping[str, Array] | None = None,
    tolerance: float = 2e-4,
) -> Compilation:
    """The compilation, once all backends gave what the language says: each value but for the
    tolerance, or a tenth of it of the tensor's largest."""
    done = compile_model(model, machine, library)
    given = {**inputs_of(model), **(inputs or {})}
    expected = evaluate_model(model, given, None, library)
    given |= {name: weight.load() for name, weight in model.weights.items()}
    names = {buffer.name for buffer in done.program.buffers}
    bound = {name: array for name, array in given.items() if name in names}
    for backend, entry in REGISTRY.backends.items():
        result = entry.item(done.program, library, machine.cores)(bound, {})
        for name, value in expected.outputs.items():
            found = result.outputs[name]
            assert found.dtype == value.dtype, backend
            size = np.abs(value[np.isfinite(value)]).max(initial=1.0)
            np.testing.assert_allclose(
                found, value, tolerance, tolerance / 10 * size, err_msg=f"{name} by {backend}"
            )
    return done


def instructions(done: Compilation) -> list[str]:
    """The instructions of all calls, in order."""
    return [call.opcode.instruction for each in done.covered for call in each.calls]


def cycles(done: Compilation) -> int:
    return simulate(done.program, done.library, done.machine).cycles
