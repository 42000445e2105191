"""Programs with mistakes are refused with a reason, or run inside their bounds: never a crash."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from random import Random

import numpy as np
import pytest

from infinisa.isa.encoding import HEADER, encode, read
from infinisa.isa.errors import InfinisaError, ProgramError
from infinisa.isa.program import Program
from infinisa.isa.scope import Facts
from infinisa.isa.verify import issue_bound, verify
from infinisa.runtime.interpreter import interpret
from infinisa.runtime.jit import compile_program
from infinisa.runtime.values import Result
from tests.isa.mutants import mutated_bytes, mutated_program
from tests.isa.programs import LIBRARY, TINY, arrays, random_programs

SMALL = replace(
    TINY,
    cores=2,
    memories=(TINY.memories[0], replace(TINY.memories[1], size=1 << 18)),
)
"""So little memory that any program that asks for no more than there is can be run."""

MOST_ISSUES = 400
SEEDS = 200


@cache
def original(seed: int) -> tuple[Program, bytes]:
    program, _ = random_programs(Random(seed), SMALL)
    return program, encode(program)


def outcome(program: Program) -> str:
    """What becomes of a program: refused, ran, or stopped for what only a run can know, such as a
    parameter that makes an axis too long. Any other error is one too many."""
    try:
        verify(program, SMALL, LIBRARY)
    except InfinisaError:
        return "refused"
    if issue_bound(Facts(program, SMALL, LIBRARY)) > MOST_ISSUES:
        return "long"
    try:
        with np.errstate(all="ignore"):
            interpret(program, LIBRARY, arrays(program), cores=SMALL.cores)
    except ProgramError as error:
        if not str(error).startswith(("section ", "parameter ", "instruction 'keep_odd'")):
            raise
        return "stopped"
    return "ran"


def outcome_of_bytes(random: Random) -> str:
    _, data = original(random.randrange(SEEDS))
    _, other = original(random.randrange(SEEDS))
    try:
        program = read(mutated_bytes(random, data, other)[HEADER:], "mutant")
    except ProgramError:
        return "not a program"
    return outcome(program)


def outcome_of_fields(random: Random) -> str:
    program, _ = original(random.randrange(SEEDS))
    return outcome(mutated_program(random, program))


def run(seeds: range) -> Counter[str]:
    found: Counter[str] = Counter()
    for seed in seeds:
        random = Random(seed)
        kind = outcome_of_bytes if seed % 2 else outcome_of_fields
        try:
            found[kind(random)] += 1
        except Exception as error:
            raise AssertionError(f"mutant {seed}: {type(error).__name__}: {error}") from error
    return found


def test_mutants_are_refused_or_run_inside_their_bounds() -> None:
    """A thousand of them; some are harmless, most are refused."""
    found = run(range(1000))

    assert found["refused"] > 300
    assert found["ran"] > 100


@pytest.mark.fuzz
def test_many_mutants_are_refused_or_run_inside_their_bounds() -> None:
    """Ten thousand others: `make fuzz`."""
    found = run(range(1000, 11000))

    assert found["refused"] > 3000
    assert found["ran"] > 1000


def assert_native_code_agrees(seed: int) -> None:
    """A mutant that is not refused computes the same in native code, which checks no bounds."""
    random = Random(seed)
    program = mutated_program(random, original(random.randrange(SEEDS))[0])
    if outcome(program) not in ("ran", "stopped"):
        return
    found, wanted = (
        told(lambda: compile_program(program, LIBRARY, cores=SMALL.cores).run(arrays(program))),
        told(lambda: interpret(program, LIBRARY, arrays(program), cores=SMALL.cores)),
    )
    if isinstance(found, str) or isinstance(wanted, str):
        assert found == wanted
        return
    for name, array in wanted.outputs.items():
        np.testing.assert_allclose(found.outputs[name], array, rtol=2e-3, atol=1e-4)


def told(run: Callable[[], Result]) -> Result | str:
    """What a run gives, or why it stopped."""
    try:
        with np.errstate(all="ignore"):
            return run()
    except ProgramError as error:
        return str(error)


def test_native_code_of_mutants_computes_the_same() -> None:
    for seed in range(40):
        assert_native_code_agrees(seed)


@pytest.mark.fuzz
def test_native_code_of_many_mutants_computes_the_same() -> None:
    """Also in `make fuzz`."""
    for seed in range(40, 2000):
        assert_native_code_agrees(seed)
