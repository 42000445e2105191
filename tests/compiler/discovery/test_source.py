"""Printed instructions: their trace is the instruction they were printed from."""

from contextlib import suppress
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as some

from infinisa.compiler.discovery.source import plugin_source
from infinisa.isa import formulas
from infinisa.isa.errors import CompileError, LanguageError
from infinisa.isa.functions import FUNCTIONS
from infinisa.isa.instruction import Instruction
from infinisa.isa.language import (
    Cast,
    Constant,
    Immediate,
    Input,
    Node,
    apply,
    dot,
    inputs,
    scan,
    sum,
    walk,
)
from infinisa.plugins.manager import load
from tests.isa.expressions import expressions

LIBRARY = load(installed=False).library


def traced(*instructions: Instruction) -> list[Instruction]:
    """The instructions of the plugin that these are printed as."""
    namespace: dict[str, object] = {}
    exec(compile(plugin_source(instructions, "Printed."), "printed", "exec"), namespace)
    found = namespace["infinisa_instructions"]
    assert callable(found)
    return list(found())


def computing(*outputs: Node) -> Instruction:
    """An instruction of some values."""
    leaves = {node: None for node in walk(outputs) if isinstance(node, Immediate)}
    return Instruction(
        name="printed",
        unit="vector",
        operands=inputs(outputs),
        immediates=tuple(leaves),
        outputs=outputs,
    )


def same(instruction: Instruction) -> None:
    (again,) = traced(instruction)
    assert again.meaning == instruction.meaning, plugin_source([instruction], "Printed.")


@pytest.mark.parametrize("name", [i.name for i in LIBRARY.values() if not i.opaque])
def test_an_instruction_that_ships_is_printed_whole(name: str) -> None:
    made = LIBRARY[name]
    (again,) = traced(made)

    assert again.meaning == made.meaning
    for field in ("name", "unit", "tile", "occupancy", "latency", "laws", "documentation"):
        assert getattr(again, field) == getattr(made, field)
    assert again.immediates == made.immediates


@given(expressions())
def test_an_expression_is_printed_as_it_is(root: Node) -> None:
    same(computing(root))


SCALARS = (
    Input("x", ("m",)),
    Input("sum", ("m",)),
    Immediate("cap", 3.0),
    *map(Constant, (2.0, -1.5, 0.0, -0.0, 3, float("inf"), float("-inf"))),
)


def random_scalars(random: Random) -> Node:
    known: list[Node] = list(SCALARS)
    for _ in range(random.randint(1, 8)):
        name, function = random.choice(list(FUNCTIONS.items()))
        with suppress(LanguageError):  # truth values have no difference
            known.append(apply(name, *random.choices(known, k=function.arity)))
    return sum(known[-1] + SCALARS[0] + SCALARS[1], "m")


@given(some.randoms(use_true_random=False).map(random_scalars))
def test_signs_bind_as_in_python(root: Node) -> None:
    """Plain numbers on either side, minus before and within powers, operands that hide a word."""
    same(computing(root))


def test_a_recurrence_is_a_function_of_one_step() -> None:
    """All of its results, both ways; what a step computes that is computed outside too stays."""
    xs, w = Input("xs", ("t", "n")), Input("w", ("n", "k"))
    first = dot(Input("h0", ("k",)), w, "k")

    def step(h: Node, x: Node) -> tuple[list[Node], list[Node]]:
        after = formulas.silu(h + x) + formulas.silu(first)
        return [after], [after * 2.0]

    states, emits = scan(step, {"h": first}, {"x": xs}, "t", reverse=True)

    same(computing(states[0], emits[0] + formulas.silu(first)))


def test_a_recurrence_may_start_as_a_number() -> None:
    def step(h: Node, x: Node) -> tuple[list[Node], list[Node]]:
        return [h * Immediate("rate", 0.5) + x], [h]

    xs = Input("xs", ("t", "n"))
    states, emits = scan(step, {"h": 0.0}, {"x": xs}, "t", axes={"h": "n"})

    same(computing(states[0], emits[0]))


def test_a_cast_that_does_nothing_is_printed() -> None:
    x = Input("x", ("m",))

    same(computing(Cast(Cast(x, "f32"), "bf16")))


def test_operands_keep_their_types_and_docstrings_their_marks() -> None:
    root = Input("x", ("m",), "bf16") + Input("y", (), "i8")
    made = computing(root)
    text = 'He said """no""" \\ twice"'
    (again,) = traced(Instruction(**(vars(made) | {"documentation": text})))

    assert again.documentation.strip() == text
    assert [operand.dtype for operand in again.operands] == ["bf16", "i8"]


@pytest.mark.parametrize("name", ["a b", "lambda", "x.step"])
def test_what_python_cannot_name_is_refused(name: str) -> None:
    made = computing(Input(name, ("m",)) + 1.0)

    with pytest.raises(CompileError) as caught:
        plugin_source([made], "Printed.")
    assert str(caught.value) == f"instruction 'printed': {name!r} is no Python name"


def test_an_opaque_instruction_is_refused() -> None:
    (made, *_) = [each for each in LIBRARY.values() if each.opaque]

    with pytest.raises(CompileError) as caught:
        plugin_source([made], "Printed.")
    assert str(caught.value) == f"instruction {made.name!r}: an opaque body has no expression"
