"""Every check on instructions that break it, and all of them on what InfinISA ships."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infinisa.isa import language as L
from infinisa.isa.encoding import encode
from infinisa.isa.errors import PluginError
from infinisa.isa.instruction import Instruction, instruction, opaque
from infinisa.isa.language import Axis, Node
from infinisa.isa.laws import StepOf
from infinisa.plugins.check import CHECKS, check, checked
from infinisa.plugins.check.finding import Finding, Subject
from infinisa.plugins.check.sample import Sample, lengths_of
from infinisa.plugins.hookspec import hookimpl
from infinisa.plugins.manager import Registry, load
from infinisa.runtime.interpreter import interpret

SHIPPED = load(installed=False)


def made(function: Callable[..., Any], **more: Any) -> Instruction:
    """An instruction of the vector unit, of a function whose annotations are axes."""
    options: dict[str, Any] = {"unit": "vector", "name": "mine", **more}
    result = instruction(**options)(function)
    return replace(result, documentation="What it computes.")


def over(**axes: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Say the axes of a function's operands."""

    def annotate(function: Callable[..., Any]) -> Callable[..., Any]:
        function.__annotations__ = axes
        return function

    return annotate


def plugin(**hooks: object) -> types.SimpleNamespace:
    def hook(value: object) -> object:
        @hookimpl
        def function() -> object:
            return value

        return function

    return types.SimpleNamespace(**{name: hook(value) for name, value in hooks.items()})


def registry(*instructions: Instruction, **hooks: object) -> Registry:
    mine = plugin(infinisa_instructions=list(instructions), **hooks)
    return load(plugins={"mine": mine}, installed=False)


def findings(subject: Instruction, *others: Instruction, **hooks: object) -> dict[str, Finding]:
    loaded = registry(subject, *others, **hooks)
    return {found.check: found for found in checked(Subject(subject, loaded))}


def only(check: str, subject: Instruction, *others: Instruction, **hooks: object) -> Finding:
    """What one check finds."""
    (run,) = [run for name, run in CHECKS.items() if name == check]
    said = list(run(Subject(subject, registry(subject, *others, **hooks))))
    faults = tuple(text for text in said if type(text).__name__ == "Fault")
    return Finding(subject.name, check, faults, tuple(set(said) - set(faults)))


@over(x="m n")
def tempered(x: Node, heat: Any = 2.0) -> Node:
    """A softmax at a temperature."""
    weights = L.exp(x * heat - L.max(x * heat, "n"))
    return weights / L.sum(weights, "n")


def test_a_sound_instruction_passes_every_check() -> None:
    found = findings(made(tempered))

    assert [name for name, finding in found.items() if not finding.passed] == []
    assert set(found) == set(CHECKS)
    assert not any(finding.notes for finding in found.values())


PLUGINS = sorted({entry.origin.plugin for entry in SHIPPED.instructions.values()})


@pytest.mark.parametrize("name", PLUGINS)
def test_what_is_shipped_passes_every_check(name: str) -> None:
    found = check(SHIPPED, [name])

    assert found
    assert [finding for finding in found if not finding.passed] == []


# ---------------------------------------------------------------- tracing, documentation, encoding


def test_what_is_declared_must_be_used() -> None:
    @over(x="m", y="m")
    def first(x: Node, y: Node, slope: Any = 2.0) -> Node:
        return x

    assert only("tracing", made(first)).faults == (
        "operand 'y' must be used by a result",
        "immediate 'slope' must be used by a result",
    )


def test_there_must_be_a_value_at_any_length() -> None:
    @over(x="m")
    def early(x: Node) -> Node:
        return L.view(L.exp(x), {"m": "n - 1"})

    assert only("tracing", made(early)).faults == (
        "at m=7 n=5 of f32: must have a value, but view: m=n - 1 leaves the 7 positions of 'm'",
        "at m=1 n=1 of f32: must have a value, but view: m=n - 1 leaves the 1 positions of 'm'",
    )


def test_there_must_be_a_docstring() -> None:
    silent = replace(made(tempered), documentation=" ")

    assert only("documented", silent).faults == (
        "must have a docstring: what it computes, and where that comes from",
    )


def test_a_program_of_it_must_be_one_that_verify_takes() -> None:
    (fault,) = only("encoding", replace(made(tempered), name="a" * 501)).faults

    assert fault.startswith("a program of one issue: opcode 'aaaa")


# ---------------------------------------------------------------- backends


def broken(change: Callable[[Mapping[str, Any], Any], Any]) -> Mapping[str, Callable[..., Any]]:
    """A backend that changes what the interpreter gives."""

    def backend(program: Any, library: Any, cores: int) -> Any:
        def run(arrays: Any, parameters: Any) -> Any:
            result = interpret(program, library, arrays, parameters)
            outputs = {name: change(arrays, x) for name, x in result.outputs.items()}
            return replace(result, outputs=outputs)

        return run

    return {"broken": backend}


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda given, x: x * 1.001, "m=7 n=5 of f32, random values: "),
        (lambda given, x: np.nan_to_num(x), "m=7 n=5 of f32, not finite values: "),
        (
            lambda given, x: x + (given["x"].dtype == np.int8),
            "m=7 n=5 of i8, random values: ",
        ),
        (
            lambda given, x: x + (x.size == 1),
            "m=1 n=1 of f32, heat = 3.0, random values: result 0[0, 0] is 2.0, not 1.0",
        ),
        (
            lambda given, x: x + (np.abs(given["x"].astype(np.float64)).max() > 1e9),
            "m=7 n=5 of f32, large values: ",
        ),
    ],
)
def test_a_backend_that_differs_is_found(change: Any, where: str) -> None:
    """Somewhere only: for a type, a length, or a kind of values."""
    faults = only("backends", made(tempered), infinisa_backends=broken(change)).faults

    assert faults[0].startswith(f"backend 'broken' at {where}")
    assert all("backend 'broken'" in fault for fault in faults)


def test_a_backend_that_fails_is_found() -> None:
    def backend(program: Any, library: Any, cores: int) -> Any:
        raise PluginError("no such thing")

    faults = only("backends", made(tempered), infinisa_backends={"absent": backend}).faults

    assert faults[0] == "backend 'absent' at m=7 n=5 of f32: must run, but no such thing"


# ---------------------------------------------------------------- kernel and encoding


@over(x="m n")
def summed(x: Node, gain: Any = 2.0) -> Node:
    """Each row's sum, and where it is."""
    total: Node = (L.sum(x, "n") + L.cast(L.position("m"), "f32")) * gain
    return total


def rows(x: Any, gain: Any, m: Any, m_start: Any, n: Any, y: Any) -> None:
    for i in range(m):
        total = 0.0
        for j in range(n):
            total += x[i * n + j]
        y[i] = (total + float(i + m_start)) * gain


def test_a_kernel_that_gives_the_values_of_the_definition_passes() -> None:
    right = made(summed).kernel(rows)

    assert only("kernel", right).faults == ()
    assert only("backends", right).faults == ()


def without_start(x: Any, gain: Any, m: Any, n: Any, y: Any) -> None:
    for i in range(m):
        total = 0.0
        for j in range(n):
            total += x[i * n + j]
        y[i] = (total + float(i)) * gain


def never_written(x: Any, gain: Any, y: Any) -> None:
    return


def beyond(x: Any, m: Any, y: Any) -> None:
    y[0] = x[len(x)]


def fixed(x: Any, m: Any, m_start: Any, n: Any, y: Any) -> None:
    for i in range(m):
        total = 0.0
        for j in range(n):
            total += x[i * n + j]
        y[i] = (total + float(i + m_start)) * 2.0


@pytest.mark.parametrize(
    ("kernel", "fault"),
    [
        (without_start, "at m=7 from 3 n=5 of f32, random values: result 0[0] is "),
        (never_written, "at m=7 n=5 of f32, random values: result 0[0] is nan, not "),
        (
            beyond,
            "at m=7 n=5 of f32, random values: failed with IndexError: index out of bounds on "
            "dimension 1",
        ),
        (fixed, "at m=1 n=1 of f32, gain = 3.0, random values: result 0[0] is "),
    ],
)
def test_a_kernel_that_differs_is_found(kernel: Any, fault: str) -> None:
    """Somewhere only: where an axis begins elsewhere, or at another number."""
    assert only("kernel", made(summed).kernel(kernel)).faults[0].startswith(fault)


def test_a_kernel_that_is_not_restricted_python_is_found() -> None:
    def fancy(x: Any, gain: Any, y: Any) -> None:
        y[:] = x

    fault = only("backends", made(summed).kernel(fancy)).faults[0]

    assert fault.startswith(
        "backend 'scalar' at m=7 n=5 of f32: must run, but instruction 'mine': "
    )
    assert fault.endswith(" is not in restricted Python")


def test_pieces_that_a_kernel_does_not_compute_are_noted() -> None:
    @over(a="m k", b="k n")
    def relu_matmul(a: Node, b: Node) -> Node:
        return L.relu(L.dot(a, b, "k"))

    def kernel(a: Any, b: Any, m: Any, k: Any, n: Any, y: Any) -> None:
        for i in range(m):
            for j in range(n):
                total = 0.0
                for l in range(k):  # noqa: E741  # as it is in formulas
                    total += a[i * k + l] * b[l * n + j]
                y[i * n + j] = max(total, 0.0)

    found = only("kernel", made(relu_matmul).kernel(kernel))
    assert found.notes == ("in pieces of k it accumulates something else: that kernel is derived",)


def half(heat: Any) -> None: ...


half.__annotations__ = {"heat": "f16"}


def test_an_encoding_is_tried_at_its_extremes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an encoder loses of them is found."""
    narrow = made(tempered).encoding(half)
    assert only("encoding", narrow) == Finding("mine", "encoding")
    tried: list[float | int] = []

    def lossy(program: Any) -> bytes:
        (opcode,) = program.opcodes
        tried.extend(number for _, number in opcode.immediates)
        kept = tuple((name, min(number, 1000.0)) for name, number in opcode.immediates)
        return encode(replace(program, opcodes=(replace(opcode, immediates=kept),)))

    monkeypatch.setattr(sys.modules["infinisa.plugins.check.encoding"], "encode", lossy)
    assert only("encoding", narrow).faults == (
        "a program of one issue, heat = 65504.0 must be itself again after bytes",
    )
    assert tried == [2.0, -65504.0, 65504.0, 2.0**-24]


# ---------------------------------------------------------------- gradient


def test_a_wrong_gradient_is_found() -> None:
    right = made(tempered)
    wrong = right.gradient(lambda x, heat, g: g * x)

    def rows(x: Node, heat: Node, g: Node) -> Node:
        weights = L.exp(x * heat - L.max(x * heat, "n"))
        y = weights / L.sum(weights, "n")
        return heat * y * (g - L.sum(g * y, "n"))

    (fault,) = only("gradient", wrong).faults
    assert fault.startswith("of operand 'x': along a random direction results change by ")
    assert only("gradient", right.gradient(rows)).faults == ()


def test_a_gradient_through_windows_and_recurrences_is_checked() -> None:
    """The derived gradient is right, so only a wrong one of the author's fails."""

    @over(x="h n", w="r")
    def windowed(x: Node, w: Node) -> Node:
        return L.dot(L.view(x, {"h": "2*p + r - 1"}, fill=0.0), w, "r")

    @over(x="t n", decay="n")
    def running(x: Node, decay: Node) -> Node:
        def step(total: Node, now: Node) -> tuple[list[Node], list[Node]]:
            return [total * decay + now], [total * decay + now]

        return L.scan(step, {"total": decay * 0.0}, {"now": x}, "t")[1][0]

    for function in (windowed, running):
        right = made(function)
        assert only("gradient", right).faults == ()
        wrong = right.gradient(lambda g: (L.lift(0.0), L.lift(0.0)))
        assert len(only("gradient", wrong).faults) == 2


# ---------------------------------------------------------------- timing


def falling(m: int) -> int:
    return 100 - m


def late(m: int, lanes: int) -> tuple[float, int]:
    return m / lanes, 0


@over(x="m")
def doubled(x: Node) -> Node:
    return x + x


@pytest.mark.parametrize(
    ("subject", "fault"),
    [
        (
            made(doubled).timing(falling),
            "on tiny at m=2: occupancy must not fall as the axis grows: it is 98, after 99",
        ),
        (
            made(doubled).timing(late),
            "on tiny at m=1: latency must be a positive whole number of cycles, not 0",
        ),
        (
            made(doubled, cycles="m / ports"),
            "on tiny: timing 'm / ports': nothing is called 'ports'",
        ),
        (
            made(doubled, tile={"m": "ports"}),
            "on tiny: instruction 'mine': tile limit 'ports' of axis 'm' must be a number or an "
            "attribute of unit 'vector'",
        ),
        (
            made(doubled, unit="sorter"),
            "unit 'sorter' must be one of a loaded machine: datacenter, edge, tiny, tpu_v1 "
            "have none",
        ),
    ],
)
def test_a_timing_that_makes_no_sense_is_found(subject: Instruction, fault: str) -> None:
    assert fault in only("timing", subject).faults


# ---------------------------------------------------------------- new


@over(x="m")
def rectified(x: Node) -> Node:
    return L.where(x > 0.0, x, 0.0)


@over(b="n k", a="m k")
def product(b: Node, a: Node) -> Node:
    return L.dot(a, b, "k")


@over(x="m n")
def naive(x: Node) -> Node:
    return L.exp(x) / L.sum(L.exp(x), "n")


def test_a_duplicate_is_refused_whatever_its_form() -> None:
    """Axes are names: a product of transposed matrices is a product of matrices."""
    assert only("new", made(rectified)).faults == (
        "must be new: 'relu' computes the same on unit 'vector'",
    )
    assert only("new", made(product, unit="matrix")).faults == (
        "must be new: 'matmul' computes the same on unit 'matrix'",
    )
    assert only("new", made(rectified, unit="special")).faults == ()


def test_another_order_of_operands_is_noted() -> None:
    @over(x="m", y="m")
    def behind(x: Node, y: Node) -> Node:
        return y - x

    found = only("new", made(behind))

    assert found.faults == ()
    assert found.notes == ("over floats, 'subtract' computes the same with x = y, y = x",)


def test_what_another_can_do_with_a_number_is_noted() -> None:
    found = only("new", made(doubled))

    assert found.faults == ()
    assert "over floats, 'scale' computes the same with y = 2.0" in found.notes
    assert not any("'add'" in note for note in found.notes)


def test_what_differs_for_large_numbers_is_new() -> None:
    """A naive softmax overflows where the safe one does not."""
    found = only("new", made(naive))

    assert (found.faults, found.notes) == ((), ())


# ---------------------------------------------------------------- laws and tiles


@over(total="m")
def finish(total: Node) -> Node:
    return L.sqrt(total)


@over(x="m n")
def length(x: Node) -> Node:
    return L.sqrt(L.sum(x * x, "n"))


def steps(form: Callable[[Node, Node], Node]) -> tuple[Instruction, ...]:
    @over(x="m n", total="m")
    def step(x: Node, total: Node) -> Node:
        return form(x, total)

    law = StepOf("length", "n", "finish")
    return (
        made(step, name="step", state={"total": 0.0}, step_of=law),
        made(length, name="length"),
        made(finish, name="finish"),
    )


def test_a_law_that_holds_passes() -> None:
    right = steps(lambda x, total: total + L.sum(x * x, "n"))

    assert only("laws", *right).faults == ()


def test_a_law_that_does_not_hold_is_found() -> None:
    wrong = steps(lambda x, total: L.maximum(total, L.sum(x * x, "n")))

    (fault,) = only("laws", *wrong).faults

    assert fault.startswith(
        "law 'folded over tiles of n, then finish, it is length' does not hold (at m=0 'length' is "
    )


class Divisible(Instruction):
    """An instruction that says of no axis that it must be whole."""

    @cached_property
    def whole(self) -> frozenset[Axis]:
        return frozenset()


def test_an_axis_that_cannot_be_cut_is_found() -> None:
    right = made(tempered)
    fields = {name: getattr(right, name) for name in right.__dataclass_fields__}

    (fault,) = only("tiles", Divisible(**fields)).faults

    assert fault.startswith("positions 0 to ")
    assert "of 'n' of m=7 n=5 of f32: result 0[0, 0] is " in fault
    assert only("tiles", right).faults == ()


# ---------------------------------------------------------------- what may be checked


def test_an_opaque_instruction_is_checked_as_far_as_it_goes() -> None:
    @over(x="m")
    def body(x: Any, out: Any) -> None:
        """Nothing."""

    blind = opaque(unit="text", results={"out": "m"}, name="mine")(body)
    found = findings(blind)

    assert all(finding.passed for finding in found.values())
    assert found["backends"].notes == ("opaque: values that its body takes cannot be made up",)


def test_a_plugin_that_is_not_there_is_named(tmp_path: Path) -> None:
    file = tmp_path / "worse.py"
    file.write_text("import nothing_of_this_name")

    with pytest.raises(PluginError) as caught:
        check(SHIPPED, ["nobody"])
    assert str(caught.value).startswith(
        "plugin 'nobody': must be a .py file, a folder with a pyproject.toml, or one of families."
    )
    with pytest.raises(PluginError) as caught:
        check(load([file], installed=False), ["worse"])
    assert str(caught.value) == (
        "plugin 'worse': cannot be loaded: worse.py, line 1: ModuleNotFoundError: No module named "
        "'nothing_of_this_name'"
    )


def test_lengths_suit_what_is_stacked_and_indexed() -> None:
    rope = SHIPPED.library["rope"]

    assert lengths_of(rope) == {"s": 7, "p": 2, "i": 11}
    assert str(Sample(rope, lengths_of(rope), {"x": "f16"})) == "s=7 p=2 i=11 of f16"
