"""Bodies of opaque instructions, as every engine runs them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from infinisa.isa.errors import ProgramError
from infinisa.isa.instruction import Instruction
from infinisa.isa.program import Issue, Program

from .values import Array


def run_body(
    meaning: Instruction,
    issue: Issue,
    program: Program,
    given: Sequence[Array],
    results: Sequence[Array],
) -> tuple[list[Array], dict[str, int]]:
    """(the new results, the parameters that the body returns): flat copies in, flat copies out.

    ProgramError if the body fails or returns a number that is out of a parameter's bounds.
    """
    flat = [np.ascontiguousarray(array).reshape(-1) for array in given]
    out = [np.array(array).reshape(-1) for array in results]
    assert meaning.body is not None
    try:
        returned = meaning.body(*(array.data for array in (*flat, *out)))
        numbers = returned if isinstance(returned, tuple) else (returned,)
        values = [int(number) for number in numbers[: len(issue.sets)]]
    except Exception as error:
        raise ProgramError(
            f"instruction {meaning.name!r}: failed with {type(error).__name__}: {error}"
        ) from error
    most = {parameter.name: parameter.most for parameter in program.parameters}
    for name, value in zip(issue.sets, values, strict=True):
        if not 0 <= value <= most[name]:
            raise ProgramError(f"parameter {name!r}: must be 0 to {most[name]}, not {value}")
    shaped = [new.reshape(old.shape) for new, old in zip(out, results, strict=True)]
    return shaped, dict(zip(issue.sets, values, strict=True))
