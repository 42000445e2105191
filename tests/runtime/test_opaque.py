"""Opaque instructions that go wrong: every engine says the same."""

import numpy as np
import pytest

from infinisa.compiler.builder import Builder
from infinisa.compiler.pipeline import compile_model
from infinisa.isa.errors import ProgramError
from infinisa.isa.instruction import Instruction, opaque
from infinisa.isa.language import Opaque, Update, view
from infinisa.isa.machine import Machine
from infinisa.isa.program import Program
from infinisa.plugins.manager import load
from tests.machines import CACHE

REGISTRY = load(installed=False)
ENGINES = ["reference", "scalar", "vector", "parallel"]


@opaque(unit="scalar", results={"y": "n"}, sets=("count",))
def first_number(x: "n", y):  # type: ignore[no-untyped-def, name-defined]  # noqa: F821  # axes
    """What y starts with says how many there are."""
    for i in range(len(x)):
        y[i] = x[i]
    return 10 // int(x[0])


LIBRARY: dict[str, Instruction] = REGISTRY.library | {"first_number": first_number}


def program(machine: Machine = CACHE) -> Program:
    """An operator gives the length of axis s: at most 5, and the part before position -1."""
    b = Builder("counted")
    b.axis("n", 5)
    count = b.parameter("count", most=5, default=5, given=False)
    b.axis("s", count)
    b.axis("r", 1, start=count + -1, end=5)
    kept = b.kept("kept", "n", (5,))
    found = Opaque("first_number", (b.input("x", "n", (5,)),), ("n",), "f32", 0, ("count",))
    b.graph("first").update(Update(kept, found, ()))
    b.graph("second").output("y", view(kept, {"n": "r"}) + 1.0)
    return compile_model(b.model(), machine, LIBRARY).program


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("first", "message"),
    [
        (0, "instruction 'first_number': failed with ZeroDivisionError: integer division or "
            "modulo by zero"),
        (1, "parameter 'count': must be 0 to 5, not 10"),
        (-1, "parameter 'count': must be 0 to 5, not -10"),
        (11, "section 'second': axis 'r' must have at most 1 positions before 5, not 1 from -1; "
             "count is 0"),
    ],
)  # fmt: skip
def test_errors_name_what_is_wrong(engine: str, first: int, message: str) -> None:
    made = program()
    run = REGISTRY.backends[engine].item(made, LIBRARY, 1)

    with pytest.raises(ProgramError) as caught:
        run({"x": np.full(5, first, np.float32)}, {})

    assert str(caught.value) == message
