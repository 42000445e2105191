"""The six workloads of the TPU v1 paper as models, and what the paper measured.

N. Jouppi et al., "In-Datacenter Performance Analysis of a Tensor Processing Unit", ISCA 2017:
tables 1 (workloads), 3 (counters, throughput) and 7 (error of Google's own model).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from infinisa.compiler.builder import Builder
from infinisa.compiler.graph import Model
from infinisa.compiler.pipeline import compile_model
from infinisa.isa.instance import resolve
from infinisa.isa.instruction import Instruction, instruction
from infinisa.isa.language import Node, cast, dot, relu, round, sigmoid, tanh, view
from infinisa.isa.language import sum as total
from infinisa.isa.machine import Unit
from infinisa.isa.program import Program
from infinisa.isa.systolic import FLOWS
from infinisa.plugins.manager import load
from infinisa.runtime.simulator import Report, simulate
from infinisa.runtime.simulator.contract import Event

SCALE = 1 / 4
"""From sums back to 8 bits. Time does not depend on it."""

ROWS = (
    "array active", "useful MACs", "unused MACs", "weight stall", "weight shift", "non-matrix",
    "RAW stalls", "input stalls",
)  # fmt: skip
"""Of table 3, in per cent of cycles; array active, weight stall and shift, non-matrix are all."""


@dataclass(frozen=True)
class Workload:
    """One column of the paper's tables.

    model    the network
    shapes   what its layers are
    assumed  what the paper does not give, and why it is taken so
    table    in the order of `ROWS`
    tops     achieved, of a peak of 92
    google   per cent by which Google's own model missed
    batch    one batch alone, where the model is a run of several
    """

    name: str
    model: Callable[[], Model]
    shapes: str
    assumed: str
    table: tuple[float, ...]
    tops: float
    google: float
    batch: Callable[[], Model] | None = None


def weight(b: Builder, name: str, axes: str, *shape: int) -> Node:
    """8-bit weights that only time is asked of."""
    return b.weight(
        name, axes, lambda: np.zeros(shape, np.int8), shape=shape, dtype="i8", content=name
    )


def narrow(x: Node) -> Node:
    """A ReLU on sums, and back to 8 bits."""
    return cast(round(relu(x) * SCALE), "i8")


def activation() -> Instruction:
    """The paper's Activate: a ReLU on a row of partial sums a cycle, on its way to 8 bits."""

    def body(x: Node, scale: float = 1.0) -> Node:
        return round(relu(x) * scale)

    body.__annotations__ = {"x": "m n"}
    return instruction(unit="vector", cycles="m * n / lanes", name="activate")(body)


def mlp(name: str, batch: int, widths: tuple[int, ...]) -> Model:
    """Fully connected layers with a ReLU each."""
    b = Builder(name)
    x: Node = b.input("x", "b n0: i8", (batch, widths[0]))
    for layer in range(1, len(widths)):
        near, far = f"n{layer - 1}", f"n{layer}"
        w = weight(b, f"w{layer}", f"{near} {far}", widths[layer - 1], widths[layer])
        x = narrow(dot(x, w, near))
    b.graph("main").output("y", x)
    return b.model()


def lstm(name: str, batch: int, units: int, layers: int, words: int = 0) -> Model:
    """One step of a stack of LSTM layers, whose four gates are a matrix each; `words`: the width
    of a fully connected layer behind it."""
    b = Builder(name)
    graph = b.graph("main")
    x: Node = b.input("x", "b d: i8", (batch, units))
    for layer in range(layers):
        h = b.input(f"h{layer}", "b d: i8", (batch, units))
        before = b.input(f"c{layer}", "b u: f32", (batch, units))
        gate = {
            key: SCALE
            * (
                dot(x, weight(b, f"{key}x{layer}", "d u", units, units), "d")
                + dot(h, weight(b, f"{key}h{layer}", "d u", units, units), "d")
            )
            for key in "ifgo"
        }
        after = sigmoid(gate["f"]) * before + sigmoid(gate["i"]) * tanh(gate["g"])
        hidden = cast(round(sigmoid(gate["o"]) * tanh(after) * 127.0), "i8")
        graph.output(f"cell{layer}", after)
        graph.output(f"hidden{layer}", hidden)
        x = view(hidden, {"u": "d"})
    if words:
        graph.output("y", dot(x, weight(b, "words", "d w", units, words), "d"))
    return b.model()


@dataclass(frozen=True)
class Convolution:
    """A square kernel, moved by one position, over `inner` channels."""

    kernel: int
    inner: int
    outer: int


def cnn(
    name: str, batch: int, side: int, layers: tuple[Convolution, ...], full: tuple[int, ...] = ()
) -> Model:
    """Convolutions with a ReLU each over side x side positions; then the sum over positions and
    fully connected layers of these widths."""
    b = Builder(name)
    axes = b.axis("h", side), b.axis("w", side)
    x: Node = b.input("x", "b h w c0: i8", (batch, side, side, layers[0].inner))
    for number, layer in enumerate(layers, 1):
        near, far, size = f"c{number - 1}", f"c{number}", layer.kernel
        if size == 1:
            kernel = weight(b, f"k{number}", f"{near} {far}", layer.inner, layer.outer)
            x = narrow(dot(x, kernel, near))
            continue
        taps = f"r{number}", f"q{number}"
        shape = size, size, layer.inner, layer.outer
        kernel = weight(b, f"k{number}", f"{taps[0]} {taps[1]} {near} {far}", *shape)
        window = {a: f"{a} + {t} - {size // 2}" for a, t in zip(axes, taps, strict=True)}
        x = narrow(dot(view(x, window, fill=0), kernel, (*taps, near)))
    if full:
        x = narrow(total(cast(x, "i32"), axes))
        widths = (layers[-1].outer, *full)
        x = view(x, {f"c{len(layers)}": "n0"})
        for number, (inner, outer) in enumerate(pairwise(widths), 1):
            near, far = f"n{number - 1}", f"n{number}"
            x = narrow(dot(x, weight(b, f"w{number}", f"{near} {far}", inner, outer), near))
    b.graph("main").output("y", x)
    return b.model()


EQUAL = "layers are equally large and square; the paper gives their number and all weights"
STEP = "one step: as operations a weight are the batch, weights come again in every step"
BOARDS = (*(Convolution(3, 256, 256),) * 14, *(Convolution(1, 256, 256),) * 2)
BOTTLENECK = Convolution(1, 512, 128), Convolution(3, 128, 128), Convolution(1, 128, 512)

WORKLOADS = (
    Workload(
        "MLP0", lambda: mlp("mlp0", 200, (2000,) * 6), "5 x (2000 to 2000), batch 200", EQUAL,
        (12.7, 12.5, 0.3, 53.9, 15.9, 17.5, 3.3, 6.1), 12.3, 6.8,
    ),
    Workload(
        "MLP1", lambda: mlp("mlp1", 168, (1118,) * 5), "4 x (1118 to 1118), batch 168", EQUAL,
        (10.6, 9.4, 1.2, 44.2, 13.4, 31.9, 8.4, 8.8), 9.7, 10.9,
    ),
    Workload(
        "LSTM0", lambda: lstm("lstm0", 64, 1024, 6), "24 x (2048 to 1024), 6 cells, batch 64",
        f"{STEP}; 24 matrices of 52 M weights without unused ones are 1024 wide",
        (8.2, 8.2, 0.0, 58.1, 15.8, 17.9, 14.6, 5.1), 3.7, 7.7,
    ),
    Workload(
        "LSTM1", lambda: lstm("lstm1", 96, 600, 9, 13500),
        "36 x (1200 to 600), 9 cells, 600 to 13500, batch 96",
        f"{STEP}; the text names matrices of 600 x 600, the last layer has the other weights",
        (10.5, 6.3, 4.2, 62.1, 17.1, 10.3, 10.6, 2.4), 2.8, 5.4,
    ),
    Workload(
        "CNN0",
        lambda: cnn("cnn0", 8 * 8, 19, BOARDS),
        "14 x (3 x 3 of 256 to 256), 2 x (1 x 1 of 256 to 256) on 19 x 19, 8 batches of 8",
        "2888 operations a weight over a batch of 8 are 19 x 19 positions; 256 channels leave no "
        "weight unused, 16 such layers of 8 M weights are 14 large and 2 small ones; several "
        "batches, since as in production one is moved while another is worked on",
        (78.2, 78.2, 0.0, 0.0, 0.0, 21.8, 3.5, 3.4), 86.0, 8.2,
        lambda: cnn("cnn0", 8, 19, BOARDS),
    ),
    Workload(
        "CNN1", lambda: cnn("cnn1", 32, 28, BOTTLENECK * 24, (5490,) * 4),
        "24 x (512 to 128, 3 x 3 of 128, 128 to 512) on 28 x 28, 4 x (5490), batch 32",
        "72 convolutions, 1750 operations a weight, shallow layers (the text says so); the fully "
        "connected layers have the other weights; 12 of 13 pools are left out",
        (46.2, 22.5, 23.7, 28.1, 7.0, 18.7, 22.8, 0.6), 14.1, 11.2,
    ),
)  # fmt: skip


# ---------------------------------------------------------------- what the array did


@dataclass(frozen=True)
class Pass:
    """One issue of the array.

    shift    how long what stays moves in, from `start` on
    stream   how long it streams in all, for so many multiply-adds
    holder   what it waited for last
    """

    start: int
    shift: int
    stream: int
    macs: int
    holder: str


@dataclass(frozen=True)
class Simulated:
    """A program on TPU v1, and its traced simulation."""

    program: Program
    report: Report
    library: Mapping[str, Instruction]

    @property
    def unit(self) -> Unit:
        return self.report.target.unit("matrix")


def simulated(model: Model) -> Simulated:
    """A model, compiled with the paper's `Activate` besides the instructions that are built in."""
    registry = load()
    activate = activation()
    library = {**registry.library, activate.name: activate}
    machine = registry.machines["tpu_v1"].item
    program = compile_model(model, machine, library).program
    return Simulated(program, simulate(program, library, machine, trace=True), library)


def useful_rate(made: Simulated) -> float:
    """Operations a second, two for each multiply-add of weights that are there."""
    macs = sum(each.macs for each in passes(made))
    return 2 * macs / made.report.seconds


def measured(made: Simulated) -> list[float]:
    """The rows of table 3, in the order of `ROWS`.

    A cycle in which the array does not stream is one of shifting weights in, or else counts for
    what the next issue waited for last: a load of weights, a load of anything else ("input"), or
    a result ("RAW").
    """
    spent = dict.fromkeys(("active", "macs", "shift", "weight", "input", "raw"), 0)
    busy_until = 0
    for each in passes(made):
        gap = max(0, each.start - busy_until)
        if each.holder:
            spent[each.holder] += gap
        streams = each.start + each.shift
        spent["shift"] += streams - max(busy_until, each.start) if busy_until < streams else 0
        spent["active"] += each.stream
        spent["macs"] += each.macs
        busy_until = max(busy_until, streams) + each.stream
    useful = spent["macs"] / (made.unit.attributes["rows"] * made.unit.attributes["columns"])
    active, shift, weight = spent["active"], spent["shift"], spent["weight"]
    rest = made.report.cycles - active - shift - weight
    cycles = (
        active, useful, active - useful, weight, shift, rest, spent["raw"], spent["input"],
    )  # fmt: skip
    return [100 * number / made.report.cycles for number in cycles]


def passes(made: Simulated) -> Iterator[Pass]:
    """The issues of the array with a product, in program order, which is also that of their start:
    there is one unit, and the oldest goes first."""
    program, unit = made.program, made.unit
    flow, shift = FLOWS[unit.dataflow], unit.attributes["shift"]
    makers: dict[str, Event] = {}
    for event in made.report.events:
        reads = event.issue.reads
        if event.unit == unit.name:
            opcode = program.opcode[event.issue.opcode]
            types = [program.buffer[operand.buffer].dtype for operand in reads]
            lengths = {axis: event.ranges[name].length for axis, name in event.issue.axes}
            products, _ = resolve(opcode, types, made.library).work.count(lengths)
            holder = waited_for([makers.get(operand.buffer) for operand in reads], program)
            for batch, m, k, n in products:
                values = {**unit.attributes, "m": m, "k": k, "n": n}
                stream = int(batch * flow.folds(values) * flow.stream(values))
                yield Pass(event.start, shift, stream, int(batch * m * k * n), holder)
        makers.update((operand.buffer, event) for operand in event.issue.writes)


def waited_for(makers: Sequence[Event | None], program: Program) -> str:
    """What brought the operand that came last."""
    known = [event for event in makers if event is not None]
    if not known:
        return ""
    last = max(known, key=lambda event: event.done)
    if last.unit != "load":
        return "raw"
    kind = program.buffer[last.issue.reads[0].buffer].kind
    return "weight" if kind == "weight" else "input"
