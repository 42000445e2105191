"""Values that are others one after the other are where these are written to."""

from __future__ import annotations

from pathlib import Path

import pytest

from infinisa.compiler.selection.joins import joined
from infinisa.isa import language as L
from infinisa.isa.language import Node, show
from infinisa.isa.machine import Machine
from tests.compiler.everywhere import MACHINES, agree_everywhere
from tests.compiler.readers.test_onnx import (
    assert_as_onnxruntime,
    made,
    named,
    node,
    random,
)
from tests.machines import CACHE

SIZES = {"n": 17, "a": 8, "b": 3, "c": 6, "m": 5, "i": 5}
A, B, C = (L.Input(name, ("m", name), "f32") for name in "abc")
place = L.position("n")


def part(value: Node, start: int) -> Node:
    return L.view(value, {value.axes[1]: f"n - {start}"}, fill=0.0)


def join(first: Node, second: Node, third: Node, one: int = 8, other: int = 11) -> Node:
    return L.where(place < one, first, L.where(place < other, second, third))


PARTS = part(A, 0), part(B, 8), part(C, 11)


def test_parts_are_whole_values_one_after_the_other() -> None:
    found = joined(join(*PARTS), SIZES)

    assert [show(each.value) for each in found] == ["a[m a]", "b[m b]", "c[m c]"]
    assert [str(each.axes["n"]) for each in found] == ["a", "b + 8", "c + 11"]


def test_parts_may_have_other_names() -> None:
    """A view may stand around one that has a border."""
    first, second, third = (L.view(each, {"m": "i"}) for each in PARTS)
    found = joined(join(first, second, third), SIZES)

    assert [sorted(each.axes) for each in found] == [["i", "n"]] * 3


@pytest.mark.parametrize(
    "other",
    [
        join(*PARTS, one=7),
        join(*PARTS, other=10),
        join(part(A, 0), part(B, 7), part(C, 11)),
        join(part(A, 0), L.view(B, {"b": "10 - n"}, fill=0.0), part(C, 11)),
        join(*PARTS) + 0.0,
        L.where(place < 8.0, part(A, 0), part(C, 11)),
        L.where(L.position("m") < 2.0, part(A, 0), part(B, 8)),
    ],
)
def test_other_choices_are_computed(other: Node) -> None:
    assert joined(other, SIZES) == ()


def test_an_axis_whose_length_changes_joins_nothing() -> None:
    assert joined(join(*PARTS), {axis: size for axis, size in SIZES.items() if axis != "n"}) == ()


@pytest.mark.parametrize("machine", [CACHE, MACHINES["edge"], MACHINES["tiny"]], ids=str)
def test_what_is_joined_is_computed_by_nothing(machine: Machine, tmp_path: Path) -> None:
    """Parts that others read, an input, a part twice, and what is joined already."""
    nodes = [
        node("MatMul", "x w", "a"),
        node("Relu", "a", "b"),
        node("MatMul", "b v", "c"),
        node("Concat", "b c x", "d", axis=1),
        node("MatMul", "d u", "y"),
        node("Concat", "c d c", "e", axis=1),
        node("Tanh", "e", "z"),
    ]
    weights = {"w": random(6, 8), "v": random(8, 3), "u": random(17, 4)}
    model = made(nodes, {"x": (5, 6)}, ["y", "z"], weights)
    inputs = {"x": random(5, 6)}
    found = assert_as_onnxruntime(model, inputs, tmp_path)

    done = agree_everywhere(found, machine, inputs=named(found, inputs))
    assert not any("where" in opcode.instruction for opcode in done.program.opcodes)
