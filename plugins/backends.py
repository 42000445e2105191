"""Ways to compute a program's values on this computer: each gives a function from arrays by buffer
name and parameters to a result. One that can use several threads takes a keyword `threads`, one
that can keep weights in fewer bits `weights` and `activations`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeAlias

from infinisa.isa.instruction import Instruction
from infinisa.isa.program import Program
from infinisa.runtime.interpreter import interpret
from infinisa.runtime.jit import compile_program
from infinisa.runtime.values import Array, Result

from .hookspec import hookimpl

Run: TypeAlias = Callable[[Mapping[str, Array], Mapping[str, int]], Result]


def reference(program: Program, library: Mapping[str, Instruction], cores: int) -> Run:
    """NumPy, issue by issue: the truth for the others."""
    return partial(interpret, program, library, cores=cores)


def scalar(
    program: Program,
    library: Mapping[str, Instruction],
    cores: int,
    weights: str = "",
    activations: str = "",
) -> Run:
    """Native code for any processor, without vectors of our own."""
    how = partial(compile_program, weights=weights, activations=activations)
    return how(program, library, "scalar", cores=cores).run


def vector(
    program: Program,
    library: Mapping[str, Instruction],
    cores: int,
    weights: str = "",
    activations: str = "",
) -> Run:
    """Native code with this processor's widest vectors."""
    how = partial(compile_program, weights=weights, activations=activations)
    return how(program, library, "vector", cores=cores).run


def parallel(
    program: Program,
    library: Mapping[str, Instruction],
    cores: int,
    threads: int | None = None,
    weights: str = "",
    activations: str = "",
) -> Run:
    """Native code with the widest vectors, on several threads: as many as there are cores."""
    how = partial(compile_program, weights=weights, activations=activations)
    return how(program, library, "parallel", cores=cores, threads=threads).run


@hookimpl
def infinisa_backends() -> Mapping[str, Callable[..., Run]]:
    return {"reference": reference, "scalar": scalar, "vector": vector, "parallel": parallel}
