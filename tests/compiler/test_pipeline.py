"""Whole compilations: a program leaves the values that its model describes."""

import numpy as np
import pytest
from numpy.typing import NDArray

from infinisa.compiler.builder import Builder
from infinisa.compiler.graph import Model
from infinisa.compiler.pipeline import Compilation, compile_model
from infinisa.compiler.reference import evaluate_model
from infinisa.isa import formulas
from infinisa.isa.errors import CompileError
from infinisa.isa.instruction import Instruction, opaque
from infinisa.isa.language import Opaque, dot, maximum, mean, rename
from infinisa.isa.machine import builtin_machine_files, load_machine
from infinisa.plugins.manager import load
from infinisa.runtime.interpreter import interpret

MACHINES = {file.stem: load_machine(file) for file in builtin_machine_files()}
LIBRARY = load(installed=False).library


def random(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(7).normal(size=shape).astype(np.float32)


def agree(model: Model, machine: str = "tiny", **more: Instruction) -> Compilation:
    """Compile, interpret with random inputs and compare with the model."""
    library = LIBRARY | more
    done = compile_model(model, MACHINES[machine], library)
    arrays = {name: random(*shape) for name, (_, shape) in model.inputs.items()}
    weights = {name: weight.load() for name, weight in model.weights.items()}

    found = interpret(done.program, library, arrays | weights)

    expected = evaluate_model(model, arrays, library=library)
    for name, values in expected.outputs.items():
        np.testing.assert_allclose(found.outputs[name], values, rtol=1e-4, atol=1e-5, err_msg=name)
    return done


def test_an_opaque_operator_sees_its_arguments_as_the_model_wrote_them() -> None:
    """Sorting the operands of the sum makes its axes (k s), which the flat body must not see."""

    @opaque(unit="scalar", results={"y": "s"})
    def first_of_row(x: "s k", y):  # type: ignore[no-untyped-def, valid-type]  # noqa: F722  # axes
        for s in range(len(y)):
            y[s] = x[s * (len(x) // len(y))]

    b = Builder("opaque")
    x, bias = b.input("x", "s k", (3, 5)), b.input("bias", "k", (5,))
    b.axis("s", 3)
    b.axis("k", 5)
    total = x + bias
    b.graph("main").output("y", Opaque("first_of_row", (total,), ("s",), "f32"))

    agree(b.model(), first_of_row=first_of_row)


def test_values_without_elements_are_refused() -> None:
    b = Builder("empty")
    x = b.input("x", "m n", (3, 0))
    b.graph("main").output("y", maximum(x, 0.0))

    with pytest.raises(CompileError) as error:
        compile_model(b.model(), MACHINES["tiny"], LIBRARY)
    assert str(error.value) == (
        "model 'empty': input 'x' must have elements, its axis 'n' has no positions"
    )


def test_a_normed_mean_over_a_length_of_run_time_is_covered() -> None:
    """1 / size(s) is no number yet: it must stay with the mean, which is used twice."""
    b = Builder("pooled")
    b.axis("s", b.parameter("rows", most=9, default=7))
    b.axis("d", 5)
    x = b.input("x", "s d", (9, 5))
    b.graph("main").output("y", formulas.l2_normalize(mean(x, "s"), "d"))

    done = agree(b.model())

    assert list(done.coverage["main"].instructions) == ["mean_l2_normalize"]


@pytest.mark.parametrize("machine", ["tiny", "edge"])
def test_a_stack_that_several_stages_write_is_read_whole(machine: str) -> None:
    """The last part may be on the chip while the first is in DRAM: the reader needs both."""
    b = Builder("stack")
    b.axis("s", 7)
    x = b.input("x", "s d", (7, 11))
    axes = ("q n d", (3, 11, 11)), ("q n m", (3, 11, 11)), ("q n", (3, 11)), ("q n", (3, 11))
    start = b.weight("zeros", "n", np.zeros(11, np.float32))
    ways = []
    for way in (False, True):
        names = [f"{name}{int(way)}" for name in ("w", "r", "b", "rb")]
        w, r, bias, again = (
            b.weight(n, a, random(*s)) for n, (a, s) in zip(names, axes, strict=True)
        )
        ways.append(formulas.gru(x, w, r, bias, again, start, "s", way)[0])
    both = rename(formulas.both_ways(ways[0], ways[1]), {"n": "p"})
    last = b.weight("last", "c p k", random(2, 11, 13))
    b.graph("main").output("y", maximum(dot(both, last, "c p"), 0.0))

    agree(b.model(), machine)
