"""What is written once: operations that were done on every way to where they are wanted."""

from __future__ import annotations

import ctypes

import numpy as np

from infinisa.runtime.jit.code.ir import (
    Function,
    Module,
    Value,
    compile_text,
    constant,
    generator,
    lowered,
)
from infinisa.runtime.jit.code.processor import Target


def function(module: Module | None = None) -> Function:
    return Function(module or Module(), "run", [("x", "i64"), ("out", "ptr")], public=True)


def count(f: Function, text: str) -> int:
    return sum(text in line for line in f.lines)


def test_an_operation_is_written_once() -> None:
    f = function()
    x = f.parameters["x"]

    assert f.multiply(x, 3) == f.multiply(x, 3)
    assert f.multiply(x, 5) != f.multiply(x, 3)
    assert count(f, "mul") == 2


def test_known_numbers_are_added_last() -> None:
    """So that they are part of an address."""
    f = function()
    x, y = f.parameters["x"], f.multiply(f.parameters["x"], 3)

    found = f.add(f.add(x, 8), f.add(y, 16))

    assert found == f.add(f.add(x, y), 24)
    assert f.known_part(found) == 24
    assert f.known_part(f.add(x, y)) == 0


def test_what_may_not_have_run_is_written_again() -> None:
    f = function()
    x = f.parameters["x"]
    inside: list[object] = []

    f.when(constant("i1", True), lambda: inside.append(f.multiply(x, 3)))
    f.loop(0, x, 1, lambda _index, _: inside.append(f.multiply(x, 3)))

    assert f.multiply(x, 3) not in inside
    assert count(f, "mul") == 3


def test_what_is_known_before_a_loop_is_known_in_it() -> None:
    f = function()
    x = f.parameters["x"]
    before, inside = f.multiply(x, 3), list[object]()

    f.loop(0, x, 1, lambda _index, _: inside.append(f.multiply(x, 3)))

    assert inside == [before]


def test_nothing_is_known_where_code_may_come_from_anywhere() -> None:
    f = function()
    x = f.parameters["x"]
    before = f.multiply(x, 3)

    f.place("anywhere")

    assert f.multiply(x, 3) != before


def test_scopes_beside_each_other_share_what_needs_nothing_of_them() -> None:
    f = function()
    x, out = f.parameters["x"], f.parameters["out"]
    start, sums = len(f.lines), []

    with f.beside() as shared:
        for _ in range(2):
            with f.scope():
                own = f.load(out, "i64")
                sums.append(f.add(f.multiply(x, 7), f.multiply(own, 7)))

    assert [line.split(" = ")[1] for line in shared] == ["mul nsw i64 %x, 7"]
    assert sums[0] != sums[1]
    assert not any("%x, 7" in line for line in f.lines[start:])
    assert count(f, "mul") == 2


def test_a_loop_may_step_as_its_body_says() -> None:
    """1 + 2 + 4 + ...: a table of numbers, and functions called from another."""
    module = Module()
    for power in range(3):
        add = Function(module, f"add{power}", [("out", "ptr")])
        place = add.parameters["out"]
        add.store(add.binary("add", add.load(place, "i64"), constant("i64", 10**power)), place)
        add.done()
    f = function(module)
    steps = module.table("i64", [1, 2, 4])
    functions = module.table("ptr", [f"@add{power}" for power in range(3)])

    def body(index: Value, _: list[Value]) -> list[Value]:
        turn = f.intrinsic("ctpop", [index])
        f.run(f.load(f.at(functions, turn, "ptr"), "ptr"), [("ptr", f.parameters["out"])])
        return [f.load(f.at(steps, turn, "i64"), "i64")]

    f.loop(0, f.parameters["x"], None, body)
    f.done()
    code = compile_text(module.text, ["run"], optimise=False)
    out = np.zeros(1, np.int64)
    ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_void_p)(code.addresses["run"])(
        7, out.ctypes.data
    )

    assert module.table("i64", [1, 2, 4]) == steps
    assert out[0] == 111  # at 0, 1 and 3


def test_what_code_generation_leaves_out_it_does_again_for_code_that_is_improved() -> None:
    """Options are those of the process."""
    f = function()
    out = f.parameters["out"]

    def body(index: Value, _: list[Value]) -> None:
        value = f.load(f.at(out, f.multiply(index, 24), "i64"), "i64")
        f.store(value, f.at(out, f.add(f.multiply(index, 56), 7), "i64"))

    f.loop(0, f.parameters["x"], 1, body)
    f.done()

    def code(improve: bool) -> str:
        with generator(Target.host(), improve) as machine:
            return str(machine.emit_assembly(lowered(f.module.text, False, (), machine)))

    before, spared = code(True), code(False)
    assert spared != before
    assert code(True) == before
