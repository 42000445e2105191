"""What can be seen of a compilation: its stages, their output, their errors."""

from dataclasses import replace

import numpy as np
import pytest

from infinisa.compiler.builder import Builder
from infinisa.compiler.graph import Model
from infinisa.compiler.pipeline import STAGES, compile_model
from infinisa.isa.errors import CompileError
from infinisa.isa.language import dot, relu, tanh
from infinisa.isa.machine import builtin_machine_files, load_machine
from infinisa.plugins.families import elementwise, linear

TINY = load_machine(next(file for file in builtin_machine_files() if file.stem == "tiny"))
LIBRARY = {
    made.name: made for family in (elementwise, linear) for made in family.infinisa_instructions()
}


def perceptron() -> Model:
    b = Builder("mlp")
    b.axis("s", 4)
    up = b.weight("up", "d f", np.ones((8, 16), np.float32))
    bias = b.weight("bias", "f", np.ones(16, np.float32))
    hidden = relu(dot(b.input("x", "s d", (4, 8)), up, "d") + bias)
    b.graph("main").output("y", b.name("out", tanh(b.name("hidden", hidden))))
    return b.model()


def test_each_stage_can_be_printed(capsys: pytest.CaptureFixture[str]) -> None:
    told: list[tuple[str, int, int]] = []

    done = compile_model(
        perceptron(), TINY, LIBRARY, ["canonicalise", "cover"], lambda *step: told.append(step)
    )

    assert capsys.readouterr().err.splitlines() == [
        "--- after canonicalise",
        "main.y = tanh(maximum(add(dot(x[s d], up[d f], over=d), bias[f]), 0.0))",
        "--- after cover",
        "main:",
        "  main/hidden[s, f] = matmul_bias_relu(x[s, d], up[d, f], bias[f])  # hidden",
        "  main/y[s, f] = tanh(main/hidden[s, f])  # out",
    ]
    assert told == [(name, n, len(STAGES)) for n, name in enumerate(STAGES)]
    assert done.program.name == "mlp"
    assert {name: row.calls for name, row in done.coverage["main"].instructions.items()} == {
        "matmul_bias_relu": 1,
        "tanh": 1,
    }


def test_an_error_names_its_stage() -> None:
    few = {"matmul": LIBRARY["matmul"]}

    with pytest.raises(CompileError) as caught:
        compile_model(perceptron(), TINY, few)

    assert caught.value.__notes__ == ["in stage 'cover' of compiling model 'mlp'"]


def test_an_unknown_stage_is_refused() -> None:
    with pytest.raises(CompileError) as caught:
        compile_model(perceptron(), TINY, LIBRARY, ["tile"])

    assert str(caught.value) == (
        "stage must be one of fold, canonicalise, chunk, cover, schedule, unfold, emit, verify, "
        "not 'tile'"
    )


def test_an_instruction_without_its_unit_is_named() -> None:
    units = tuple(unit for unit in TINY.units if unit.kind != "matrix")
    machine = replace(TINY, units=units)
    few = {name: LIBRARY[name] for name in ("matmul", "add", "relu", "tanh", "move")}

    with pytest.raises(CompileError) as caught:
        compile_model(perceptron(), machine, few)

    assert str(caught.value) == (
        "graph 'main': no instruction of machine 'tiny' computes a node: "
        "dot(x[s d], up[d f], over=d); instruction 'matmul' may, but runs on unit 'matrix', "
        "which the machine lacks"
    )
