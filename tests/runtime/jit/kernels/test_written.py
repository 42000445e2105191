"""Kernels that authors wrote: native code runs them, whatever a program makes of the operands."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

import infinisa
from infinisa.compiler.builder import Builder
from infinisa.isa import language as L
from infinisa.isa.errors import CompileError, ProgramError
from infinisa.isa.evaluate import saturate
from infinisa.isa.instance import find
from infinisa.isa.instruction import Instruction, instruction
from infinisa.isa.language import Axis
from infinisa.isa.program import (
    Buffer,
    Count,
    Dimension,
    Extent,
    Issue,
    Kind,
    Loop,
    Opcode,
    Operand,
    Program,
    Section,
    Stage,
    Term,
)
from infinisa.isa.verify import verify
from infinisa.plugins.check.sample import Sample, lengths_of
from infinisa.runtime.interpreter import interpret
from infinisa.runtime.jit import compile_program


@instruction(unit="vector")
def spread(x: "m n", y: "n", gain=2.0):
    """Products, and their sums."""
    product = x * y * gain
    return product, L.sum(product, "n")


@spread.kernel
def own_spread(gain, m, n, x, y, product, total):
    for i in range(m):
        sum_ = 0.0
        for j in range(n):
            value = x[i * n + j] * y[j] * gain
            product[i * n + j] = value
            sum_ += value
        total[i] = sum_


@instruction(unit="vector", state={"most": -math.inf})
def peak(x: "m n", most: "m"):
    """The largest number so far."""
    return L.maximum(most, L.max(x, "n"))


@peak.kernel
def own_peak(x, most, n, after):
    for i in range(len(most)):
        best = most[i]
        for j in range(n):
            best = max(best, x[i * n + j])
        after[i] = best


@instruction(unit="vector", tile={"s": 8})
def load_of(choice: "s: i32", weight: "s"):
    """How much weight each expert gets."""
    return L.sum(L.where(L.equal(choice, L.position("e")), weight, 0.0), "s")


@load_of.kernel
def own_load_of(choice, weight, e, e_start, load):
    for i in range(e):
        load[i] = 0.0
    for s in range(len(choice)):
        i = choice[s] - e_start
        if i >= 0 and i < e:
            load[i] += weight[s]


def run_both(
    program: Program, made: Instruction, arrays: dict[str, Any], backend: str = "vector"
) -> None:
    library = {made.name: made}
    verify(program, None, library)
    wanted = interpret(program, library, arrays)
    found = compile_program(program, library, backend, verified=True, cache=False).run(arrays)
    for name, expected in {**wanted.outputs, **wanted.kept}.items():
        mine = {**found.outputs, **found.kept}[name]
        np.testing.assert_allclose(
            mine.astype(float), expected.astype(float), rtol=2e-2, atol=1e-4, err_msg=name
        )


# ---------------------------------------------------------------- any operands

AXES = ("a", "b", "c", "d")
"""m stands for a, n for b and c; d is a loop around the instruction."""


def operand(name: str, axes: list[Axis], ranges: dict[Axis, str]) -> Operand:
    return Operand(name, tuple(Dimension((Term(ranges.get(axis, axis)),)) for axis in axes))


@settings(max_examples=60, deadline=None)
@given(data=some.data())
def test_it_runs_on_any_layout(data: Any) -> None:
    """Transposed, broadcast and narrow operands, in pieces, in buffers that are larger."""

    def order(axes: tuple[Axis, ...]) -> list[Axis]:
        return list(data.draw(some.permutations(axes)))

    def fewer(axes: tuple[Axis, ...]) -> list[Axis]:
        return order(tuple(axis for axis in axes if data.draw(some.integers(0, 3))))

    lengths = {axis: data.draw(some.integers(1, 5)) for axis in AXES}
    reads = [fewer(AXES), order(("b", "c", *fewer(("d",))))]
    loops = tuple(axis for axis in ("a", "d") if axis in {*reads[0], *reads[1], "a"})
    writes = [order(("b", "c", *loops)), order(loops)]
    cut = data.draw(some.sampled_from([None, *loops]))
    ranges = {cut: f"{cut}1"} if cut else {}
    kinds = [data.draw(some.sampled_from(["f32", "bf16", "f16", "i8", "f64"])) for _ in reads]
    more = data.draw(some.integers(0, 2))
    opcode = Opcode(
        "op", "spread", spread.meaning, "vector",
        (("m", ("a",)), ("n", ("b", "c"))), (("gain", data.draw(some.sampled_from([0.5, -3.0]))),),
        tuple(map(tuple, reads)), tuple(map(tuple, writes)), (0, 1),
    )  # fmt: skip
    issue = Issue(
        "op", "vector",
        tuple(operand(f"x{n}", axes, ranges) for n, axes in enumerate(reads)),
        tuple(operand(f"y{n}", axes, ranges) for n, axes in enumerate(writes)),
        tuple((axis, ranges.get(axis, axis)) for axis in lengths),
    )  # fmt: skip
    body = (Loop(f"{cut}1", cut, data.draw(some.integers(1, 3)), (issue,)),) if cut else (issue,)

    def buffer(name: str, axes: list[Axis], dtype: str, kind: Kind) -> Buffer:
        return Buffer(name, "dram", tuple(lengths[axis] + more for axis in axes), dtype, kind)

    buffers = [buffer(f"x{n}", axes, kinds[n], "input") for n, axes in enumerate(reads)]
    buffers += [buffer(f"y{n}", axes, "f32", "output") for n, axes in enumerate(writes)]
    section = Section(
        "main", tuple(Extent(a, Count(n), n) for a, n in lengths.items()), (Stage("only", body),)
    )
    program = Program("layouts", "any", (), (opcode,), tuple(buffers), (section,))
    random = np.random.default_rng(data.draw(some.integers(0, 99)))
    arrays = {
        b.name: saturate(4 * random.standard_normal(b.shape), b.dtype)
        for b in buffers
        if b.kind == "input"
    }
    run_both(program, own_spread, arrays, data.draw(some.sampled_from(["vector", "scalar"])))


def in_pieces(made: Instruction, name: str, step: int, kind: str = "f32") -> Program:
    """A fold over pieces of s, on 13 rows of s: in place of m, e there are 3."""
    inner, outer = ("s", "e") if made is own_load_of else ("n", "m")
    operands: tuple[tuple[Axis, ...], ...] = ((inner,), (inner,))
    reads: tuple[Operand, ...] = (
        operand("x", ["s"], {"s": "s1"}),
        operand("y", ["s"], {"s": "s1"}),
    )
    if made is own_peak:
        operands, reads = ((outer, inner),), (operand("z", ["e", "s"], {"s": "s1"}),)
    bound = {inner: ("s",), outer: ("e",)}
    named = tuple(tuple(bound[axis][0] for axis in axes) for axes in operands)
    opcode = Opcode(
        "op", name, find(name, {made.name: made}).meaning, "vector",
        tuple(bound.items()), (), named, (("e",),), (0,),
    )  # fmt: skip
    write = (operand("total", ["e"], {}),)
    issue = Issue("op", "vector", reads, write, (("s", "s1"), ("e", "e")), ("s1",))
    return Program(
        "pieces", "any", (), (opcode,),
        (
            Buffer("x", "dram", (13,), "i32", "input"),
            Buffer("y", "dram", (13,), kind, "input"),
            Buffer("z", "dram", (3, 13), kind, "input"),
            Buffer("total", "dram", (3,), "f32", "output"),
        ),
        (Section("main", (Extent("s", Count(13), 13), Extent("e", Count(3), 3)),
                 (Stage("only", (Loop("s1", "s", step, (issue,)),)),)),),
    )  # fmt: skip


@pytest.mark.parametrize("backend", ["vector", "scalar", "parallel"])
@pytest.mark.parametrize("step", [13, 4, 1])
@pytest.mark.parametrize(("made", "name"), [(own_load_of, "load_of.step"), (own_peak, "peak")])
def test_what_accumulates_goes_in_pieces(
    made: Instruction, name: str, step: int, backend: str
) -> None:
    """A step is the kernel on a piece, joined to the state; a state starts anew at the first."""
    random = np.random.default_rng(1)
    arrays = {
        "x": random.integers(-1, 4, 13).astype(np.int32),
        "y": random.standard_normal(13).astype(np.float32),
        "z": -np.abs(random.standard_normal((3, 13))).astype(np.float32),
    }
    run_both(in_pieces(made, name, step), made, arrays, backend)


def test_an_operand_that_is_overwritten_is_read_first() -> None:
    """The second turn of the loop reads what the first one's result lies over."""

    @instruction(unit="vector")
    def turned(x: "m n", y: "m"):
        """Something else is added."""
        return x + L.sum(y, "m")

    @turned.kernel
    def own_turned(x, y, z):
        total = 0.0
        for i in range(len(y)):
            total += y[i]
        for i in range(len(x)):
            z[i] = x[i] + total

    axes = ("d", "a", "b")
    opcode = Opcode(
        "op", "turned", turned.meaning, "vector", (("m", ("a",)), ("n", ("b",))), (),
        (axes, ("", "a", "")), (axes,), (0,),
    )  # fmt: skip
    whole = operand("x", list(axes), {})
    corner = Operand("x", (Dimension(), Dimension((Term("a"),)), Dimension()))
    issue = Issue("op", "vector", (whole, corner), (whole,),
                  tuple((axis, axis) for axis in axes))  # fmt: skip
    buffers = (Buffer("x", "dram", (4, 3, 2), "f32", "state"),)
    extents = (Extent("d", Count(4), 4), Extent("a", Count(3), 3), Extent("b", Count(2), 2))
    section = Section("main", extents, (Stage("only", (issue,)),))
    program = Program("in place", "any", (), (opcode,), buffers, (section,))
    x = np.arange(24, dtype=np.float32).reshape(4, 3, 2)
    run_both(program, own_turned, {"x": x})


def test_a_window_is_an_array_from_the_first_position_that_it_reads() -> None:
    @instruction(unit="vector")
    def smooth(x: "h", w: "r"):
        """Every other position, weighted with its neighbours."""
        return L.dot(L.view(x, {"h": "2*p + r - 1"}, fill=0.0), w, "r")

    @smooth.kernel
    def own_smooth(x, w, p, r, y):
        for i in range(p):
            total = 0.0
            for k in range(r):
                total += x[2 * i + k] * w[k]
            y[i] = total

    sample = Sample(own_smooth, lengths_of(own_smooth))
    run_both(sample.program, own_smooth, sample.arrays("random"))


# ---------------------------------------------------------------- in a compiled model

PLUGIN = """
import math

from infinisa import exp, hookimpl, instruction, sum, tanh


@instruction(unit="vector")
def squash(x: "m n", cap=50.0):
    \"""Soft-capped probabilities.\"""
    weights = exp(cap * tanh(x / cap))
    return weights / sum(weights, "n")


@squash.kernel
def squash(x, m, n, cap, y):
    for i in range(m):
        total = 0.0
        for j in range(n):
            weight = FORM
            y[i * n + j] = weight
            total += weight
        for j in range(n):
            y[i * n + j] = y[i * n + j] / total


@hookimpl
def infinisa_instructions():
    return [squash]
"""


def test_a_model_runs_on_it(tmp_path: Path) -> None:
    """Tiles and heads as the compiler makes them. The kernel of another function shows which one
    runs: native code has it, the interpreter has the definition."""
    b = Builder("capped")
    x = b.input("x", "h s d", (3, 40, 24))
    weights = L.exp(30.0 * L.tanh(x / 30.0))
    b.graph("main").output("y", weights / L.sum(weights, "d"))
    values = np.random.default_rng(0).standard_normal((3, 40, 24)).astype(np.float32)
    found: dict[tuple[str, str], Any] = {}
    for name, form in (("own", "math.exp(cap * math.tanh(x[i * n + j] / cap))"), ("other", "0.5")):
        file = tmp_path / f"{name}.py"
        file.write_text(PLUGIN.replace("FORM", form))
        compiled = infinisa.load(b.model(), plugins=[file]).compile("tiny")
        assert "squash" in {opcode.instruction for opcode in compiled.program.opcodes}
        for backend in ("reference", "scalar", "vector", "parallel"):
            (found[name, backend],) = compiled.run(backend, inputs={"x": values}).outputs.values()
    for backend in ("scalar", "vector", "parallel"):
        np.testing.assert_allclose(found["own", backend], found["own", "reference"], rtol=1e-5)
        np.testing.assert_allclose(found["other", backend], 1 / 24, rtol=1e-6)
    np.testing.assert_array_equal(found["own", "reference"], found["other", "reference"])


# ---------------------------------------------------------------- refusals


def sampled(body: Any) -> tuple[Sample, dict[str, Instruction]]:
    """Twice a number, as this body computes it."""

    @instruction(unit="vector")
    def double(x: "m"):
        """Twice a number."""
        return x * 2.0

    made = double.kernel(body)
    return Sample(made, lengths_of(made)), {"double": made}


def test_what_it_may_not_do_ends_the_run() -> None:
    def beyond(x: Any, y: Any) -> None:
        for i in range(len(x)):
            y[i + 1] = x[i]

    sample, library = sampled(beyond)
    code = compile_program(sample.program, library)
    for _ in range(2):
        with pytest.raises(ProgramError) as caught:
            code.run(sample.arrays("random"))
        assert str(caught.value).startswith("instruction 'double': failed in beyond, line ")
        assert str(caught.value).endswith(": the index of `y[i + 1]` is outside")


def test_what_is_not_restricted_python_is_refused() -> None:
    def fancy(x: Any, y: Any) -> None:
        y[:] = [2 * value for value in x]

    sample, library = sampled(fancy)
    with pytest.raises(CompileError) as caught:
        compile_program(sample.program, library)
    assert str(caught.value).startswith("instruction 'double': kernel: fancy, line ")
    assert str(caught.value).endswith("is not in restricted Python")


def test_what_was_typed_at_a_prompt_is_refused() -> None:
    names: dict[str, Any] = {}
    exec("def unseen(x, y):\n    y[0] = x[0]", names)
    sample, library = sampled(names["unseen"])

    with pytest.raises(CompileError) as caught:
        compile_program(sample.program, library)
    assert str(caught.value) == "instruction 'double': kernel: could not get source code"
