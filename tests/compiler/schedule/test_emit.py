"""Programs compute what their calls say, on shapes that no tile divides."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from numpy.typing import NDArray

from benchmarks import _layers as layers
from benchmarks._handmade import Handmade
from infinisa.compiler.calls import Access, Covered
from infinisa.compiler.schedule.emit import emit
from infinisa.compiler.schedule.nest import Run
from infinisa.compiler.schedule.tile import atoms, schedule
from infinisa.isa.dtypes import DTYPES
from infinisa.isa.errors import CompileError
from infinisa.isa.instruction import Instruction
from infinisa.isa.language import Input
from infinisa.isa.machine import Machine, builtin_machine_files, load_machine
from infinisa.isa.program import (
    Buffer,
    Count,
    Dimension,
    Extent,
    Issue,
    Loop,
    Operand,
    Parameter,
    Program,
    Section,
    Stage,
    Statement,
    Term,
    statements,
)
from infinisa.isa.verify import verify
from infinisa.plugins.families import attention, elementwise, linear, normalization
from infinisa.runtime.interpreter import interpret

FAMILIES = (attention, elementwise, linear, normalization)
LIBRARY: dict[str, Instruction] = {
    made.name: made for family in FAMILIES for made in family.infinisa_instructions()
} | layers.OWN
MACHINES = {file.stem: load_machine(file) for file in builtin_machine_files()}
TINY = MACHINES["tiny"]

Arrays = dict[str, NDArray[np.generic]]


def machine(kilobytes: int = 64, cores: int = 1, cache: bool = False, array: int = 16) -> Machine:
    """The tiny machine with another chip memory, array or number of cores; several have memory that
    never holds them up, so that it is worth while to use them."""
    first, dram = TINY.memories
    if cores > 1:
        dram = replace(dram, bandwidth=dram.bandwidth * 64)
    managed = "hardware" if cache else "software"
    first = replace(first, size=kilobytes << 10, managed=managed)  # type: ignore[arg-type]  # one of Managed
    units = tuple(
        replace(
            unit,
            attributes={**unit.attributes, "rows": array, "columns": array, "depth": 2 * array},
        )
        if unit.kind == "matrix"
        else unit
        for unit in TINY.units
    )
    return replace(TINY, memories=(first, dram), cores=cores, units=units)


def untiled(covered: Covered, machine: Machine, parameters: tuple[Parameter, ...]) -> Program:
    """Every call once over its whole tensors, all of them outside the chip; scans step by step."""
    buffers = [
        Buffer(
            tensor.name, machine.dram.name, tensor.shape, tensor.dtype,
            "state" if tensor.kind == "carry" else tensor.kind,  # type: ignore[arg-type]  # a Kind
            initial=tensor.initial,
        )
        for tensor in covered.tensors.values()
    ]  # fmt: skip

    def operand(access: Access, ranges: dict[str, str]) -> Operand:
        absolute = covered.tensors[access.tensor].absolute
        dimensions = [
            Dimension(
                tuple(Term(ranges.get(a, a), "" if absolute else a, n) for a, n in index.terms),
                index.offset,
            )
            for index in access.index
        ]
        return Operand(access.tensor, tuple(dimensions), access.fill)

    def issue(number: int, ranges: dict[str, str]) -> Issue:
        call = covered.calls[number]
        return Issue(
            call.opcode.name,
            call.unit.name,
            tuple(operand(access, ranges) for access in call.reads),
            tuple(operand(access, ranges) for access in call.writes),
            tuple((axis, ranges.get(axis, axis)) for axis in call.limits),
            () if call.reduce else None,
            call.sets,
        )

    def step(run: Run) -> tuple[Statement, ...]:
        scans = [i for i in range(*run) if covered.calls[i].scan]
        if not scans:
            return tuple(issue(i, {}) for i in range(*run))
        axis, reverse = covered.calls[scans[0]].scan or "", covered.calls[scans[0]].reverse
        body = tuple(issue(i, {axis: f"{axis}.step"}) for i in scans)
        loop = Loop(f"{axis}.step", axis, 1, body, reverse=reverse)
        ahead = [issue(i, {}) for i in range(run[0], scans[0])]
        return (*ahead, loop, *(issue(i, {}) for i in range(scans[-1] + 1, run[1])))

    stages = tuple(Stage(str(run), step(run)) for run in atoms(covered))
    section = Section(covered.name, covered.extents, stages)
    opcodes = {call.opcode.name: call.opcode for call in covered.calls}
    return Program(
        "untiled", machine.name, parameters, tuple(opcodes.values()), tuple(buffers), (section,)
    )


def tensors(covered: Covered, seed: int = 0) -> Arrays:
    random = np.random.default_rng(seed)
    found: Arrays = {}
    for tensor in covered.tensors.values():
        if tensor.kind in ("input", "weight", "state"):
            scale = tensor.shape[0] ** -0.5 if tensor.kind == "weight" and tensor.shape else 1.0
            values = random.normal(size=tensor.shape) * scale
            found[tensor.name] = values.astype(DTYPES[tensor.dtype].numpy)
    return found


def check(
    covered: Covered,
    on: Machine,
    lengths: tuple[dict[str, int], ...] = ({},),
    fuse: bool = True,
    tolerance: float = 2e-4,
) -> Program:
    """The program of a graph, after comparing its values with the untiled ones."""
    parameters = tuple(
        Parameter(name, extent.most, extent.most)
        for extent in covered.extents
        for name, factor in extent.length.terms
        if factor == 1
    )
    groups = schedule(covered, on, fuse=fuse, parameters=parameters)
    program = emit("test", on, [(covered, groups)], parameters)
    verify(program, on, LIBRARY)
    whole = untiled(covered, on, parameters)
    for values in lengths:
        given = tensors(covered)
        expected = interpret(whole, LIBRARY, given, values)
        got = interpret(program, LIBRARY, given, values, cores=on.cores)
        assert got.outputs.keys() == expected.outputs.keys()
        for name in expected.outputs:
            np.testing.assert_allclose(
                got.outputs[name].astype(np.float64),
                expected.outputs[name].astype(np.float64),
                rtol=tolerance,
                atol=tolerance,
            )
        kept = [buffer.name for buffer in program.of_kind("state") if buffer.outer]
        for name in kept:
            np.testing.assert_allclose(got.kept[name], expected.kept[name], tolerance, tolerance)
    return program


def cases(on: Machine) -> dict[str, tuple[Covered, tuple[dict[str, int], ...]]]:
    """Small models on which no tile comes out even, with the run-time lengths to try."""
    contexts = tuple({"context": n} for n in (37, 3, 22))
    steps = tuple({"steps": n} for n in (7, 1, 4))
    return {
        "gpt2": (layers.gpt2(on, LIBRARY, 13, 18, 3, 22, "f32"), ({},)),
        "two gpt2": (layers.stacked(layers.gpt2(on, LIBRARY, 5, 6, 1, 7, "f32"), 2), ({},)),
        "llama": (layers.llama(on, LIBRARY, 11, 20, 5, 26, dtype="f32"), ({},)),
        "decode": (
            layers.llama(on, LIBRARY, 1, 20, 5, 26, context=37, dtype="f32"),
            (*contexts, {"context": 1}),
        ),
        "chunk": (layers.llama(on, LIBRARY, 3, 20, 5, 26, context=37, dtype="f32"), contexts),
        "lstm": (layers.lstm(on, LIBRARY, 7, 2, 10, "f32"), steps),
        "bigru": (layers.bigru(on, LIBRARY, 7, 2, 10, dtype="f32"), steps),
        "resnet": (layers.resnet(on, LIBRARY, 7, 6, "f32"), ({},)),
    }


@pytest.mark.parametrize("fuse", [True, False], ids=["fused", "apart"])
@pytest.mark.parametrize("cache", [False, True], ids=["scratchpad", "cache"])
@pytest.mark.parametrize("cores", [1, 3])
@pytest.mark.parametrize("case", cases(TINY))
def test_a_program_gives_the_untiled_values(case: str, cores: int, cache: bool, fuse: bool) -> None:
    """Chip memory starts as NaN, so a piece that is not loaded or not finished shows."""
    on = machine(12, cores, cache, array=8)
    covered, lengths = cases(on)[case]

    check(covered, on, lengths, fuse)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(some.data())
def test_a_program_gives_the_untiled_values_whatever_the_shapes(data: some.DataObject) -> None:
    def number(low: int, high: int) -> int:
        return data.draw(some.integers(low, high))

    on = machine(
        data.draw(some.sampled_from([6, 12, 40])),
        number(1, 4),
        data.draw(some.booleans()),
        data.draw(some.sampled_from([2, 4, 8])),
    )
    heads, wide, context = number(1, 4), number(1, 3), number(4, 40)
    rows, columns = number(1, 15), number(2, 30)
    covered, lengths = data.draw(
        some.sampled_from(
            [
                (layers.gpt2(on, LIBRARY, rows, 2 * heads * wide, heads, columns, "f32"), {}),
                (
                    layers.llama(
                        on, LIBRARY, min(rows, 4), 2 * heads * wide, heads, columns,
                        context=context, dtype="f32",
                    ),
                    {"context": number(4, context)},
                ),
                (
                    layers.bigru(on, LIBRARY, rows, heads, columns, dtype="f32"),
                    {"steps": number(1, rows)},
                ),
                (layers.resnet(on, LIBRARY, min(rows, 9), heads * wide, "f32"), {}),
            ]
        )
    )  # fmt: skip

    check(covered, on, (lengths,), data.draw(some.booleans()))


def test_a_layer_is_few_issues() -> None:
    """Loops are not unrolled: 17 calls, their copies, and no more whatever the shapes."""
    on = MACHINES["edge"]
    covered = layers.llama(on, LIBRARY, 512, 4096, 32, 11008)

    program = emit("llama", on, [(covered, schedule(covered, on))])

    stages = program.sections[0].stages
    issues = [s for stage in stages for s in statements(stage.body) if isinstance(s, Issue)]
    assert len(issues) <= 60


def test_a_tensor_may_have_no_axes() -> None:
    g = Handmade("main", TINY, LIBRARY, {"n": 40})
    g.tensor("x", "n", "input")
    g.tensor("total", "")
    g.tensor("y", "", "output")
    g.call("reduce_sum.step", "m= n=n", ["x[n]"], ["total[]"], limits={"n": 16})
    g.call("gelu_tanh", "m=", ["total[]"], ["y[]"])

    check(g.covered(), TINY)


def test_rows_of_a_table_are_read_in_place() -> None:
    """The table does not fit on the chip, and only a few of its rows are wanted."""
    g = Handmade("main", TINY, LIBRARY, {"s": 5, "v": 3000, "d": 24})
    g.tensor("table", "v d", "weight")
    g.tensor("index", "s", "input", "i32")
    g.tensor("x", "s d")
    g.tensor("y", "s d", "output")
    g.call("embedding", "v=v d=d s=s", ["table[v d]", "index[s]"], ["x[s d]"], direct=["table"])
    g.call("gelu_tanh", "m=s,d", ["x[s d]"], ["y[s d]"])

    program = check(g.covered(), TINY)

    (embedding,) = reading(program, "table")
    assert embedding.opcode == "embedding.main.0"


def reading(program: Program, buffer: str) -> list[Issue]:
    return [
        s
        for section in program.sections
        for stage in section.stages
        for s in statements(stage.body)
        if isinstance(s, Issue) and any(operand.buffer == buffer for operand in s.reads)
    ]


def sort(values: memoryview, ordered: memoryview) -> int:
    """What a sort does to values in order; returns the least."""
    for i in range(len(values)):
        ordered[i] = values[i]
    return int(ordered[0])


SORT = Instruction(
    name="sort",
    unit="scalar",
    operands=(Input("values", ("n",), "i32"),),
    body=sort,
    results=(Input("ordered", ("n",), "i32"),),
    sets=("least",),
)


def test_an_opaque_call_on_a_scalar_unit_works_outside_the_chip() -> None:
    """Its operands may be larger than the chip; what it returns sets a parameter."""
    g = Handmade("main", TINY, LIBRARY | {"sort": SORT}, {"n": 20_000})
    for name, kind in (("x", "input"), ("doubled", "temporary"), ("y", "output")):
        g.tensor(name, "n", kind, "i32")
    g.call("add", "m=n", ["x[n]", "x[n]"], ["doubled[n]"])
    g.call("sort", "n=n", ["doubled[n]"], ["y[n]"], sets=["least"])
    covered, least = g.covered(), Parameter("least", 99, 0, given=False)
    program = emit("test", TINY, [(covered, schedule(covered, TINY))], [least])
    x = np.arange(20_000, dtype=np.int32) + 3

    result = interpret(program, LIBRARY | {"sort": SORT}, {"x": x})

    assert (result.outputs["y"] == 2 * x).all()
    assert result.parameters == {"least": 6}
    assert [issue.opcode for issue in reading(program, "main/doubled")] == ["sort.main.0"]


def test_graphs_share_weights_and_kept_tensors() -> None:
    """A row is kept in the first graph and read in the second; positions count from 0 in both."""
    rows = Extent("s", Count(2), 2, Count(3), 5)
    first = Handmade("keep", TINY, LIBRARY, {"s": rows, "n": 8})
    second = Handmade("use", TINY, LIBRARY, {"t": 5, "n": 8})
    for g in (first, second):
        g.tensor("kept", "5 n", "state", initial=7.0)
    first.tensor("x", "2 n", "input")
    first.tensors["x"] = replace(first.tensors["x"], absolute=False)
    first.call("relu", "m=s,n", ["x[s n]"], ["kept[s n]"])
    second.tensor("use/y", "t n", "output")
    second.call("relu", "m=t,n", ["kept[t n]"], ["use/y[t n]"])
    graphs = [(g.covered(), schedule(g.covered(), TINY)) for g in (first, second)]
    x = np.arange(16, dtype=np.float32).reshape(2, 8)

    result = interpret(emit("test", TINY, graphs), LIBRARY, {"x": x})

    assert (result.outputs["use/y"][:3] == 7).all()
    assert (result.outputs["use/y"][3:] == x).all()


def test_tensors_of_one_name_must_agree() -> None:
    graphs = []
    for name, length in (("a", 8), ("b", 9)):
        g = Handmade(name, TINY, LIBRARY, {"n": length})
        g.tensor("x", "n", "input")
        g.tensor(f"{name}/y", "n", "output")
        g.call("relu", "m=n", ["x[n]"], [f"{name}/y[n]"])
        graphs.append((g.covered(), schedule(g.covered(), TINY)))

    with pytest.raises(CompileError) as caught:
        emit("test", TINY, graphs)

    assert str(caught.value) == (
        "tensor 'x': must be the same in all graphs, not f32 (9,) and f32 (8,)"
    )


def test_results_may_lie_between_each_other() -> None:
    """Two calls write the even and the odd columns; a third one merges two axes into one."""
    g = Handmade("main", TINY, LIBRARY, {"s": 70, "i": 30, "h": 5, "e": 12, "n": 60})
    g.tensor("x", "s i", "input")
    g.tensor("z", "s h e", "input")
    g.tensor("between", "s n", "output")
    g.tensor("merged", "s n", "output")
    one = {"i": 1}
    g.call("relu", "m=s", ["x[s =i]"], ["between[s 2*i]"], limits=one)
    g.call("gelu_tanh", "m=s", ["x[s =i]"], ["between[s 2*i+1]"], limits=one)
    g.call("relu", "m=s,e", ["z[s =h e]"], ["merged[s 12*h+e]"], limits={"h": 1, "e": 5})

    covered, on = g.covered(), machine(6)
    x = np.linspace(-2, 2, 70 * 30, dtype=np.float32).reshape(70, 30)
    z = np.linspace(-2, 2, 70 * 60, dtype=np.float32).reshape(70, 5, 12)
    for fuse in (True, False):
        program = emit("test", on, [(covered, schedule(covered, on, fuse=fuse))])

        result = interpret(program, LIBRARY, {"x": x, "z": z})

        between = result.outputs["between"]
        assert (between[:, ::2] == np.maximum(x, 0)).all()
        np.testing.assert_allclose(between[:, 1::2], gelu_tanh(x), rtol=1e-3, atol=1e-6)
        assert (result.outputs["merged"] == np.maximum(z, 0).reshape(70, 60)).all()


def gelu_tanh(x: NDArray[np.float32]) -> NDArray[np.float32]:
    inner = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
    return np.asarray(0.5 * x * (1 + np.tanh(inner)), np.float32)
