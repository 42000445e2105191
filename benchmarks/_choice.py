"""Whether the cover that is predicted to be fastest is: beside two simpler ways to choose.

`biggest first` takes for each value the instruction that computes most of what is below it, and
`sum of cycles` the cover with the least work, traffic and calls, as if nothing worked beside
anything else. Everything else is the same: what is found, the schedule, the simulation.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from infinisa import api
from infinisa.compiler.builder import Builder
from infinisa.compiler.equality.surroundings import Surroundings
from infinisa.compiler.graph import Model
from infinisa.compiler.schedule.emit import emit
from infinisa.compiler.schedule.tile import schedule
from infinisa.compiler.selection.choice import ROUNDS, Choosing
from infinisa.compiler.selection.cover import MakeFinder, cover_and_report
from infinisa.compiler.selection.match import Finder, Match, Meaning
from infinisa.isa import formulas
from infinisa.isa.errors import InfinisaError
from infinisa.isa.instruction import Instruction
from infinisa.isa.language import Input, Node, dot, minimum, relu, rename, view
from infinisa.isa.machine import Machine
from infinisa.isa.program import Opcode, Program
from infinisa.plugins.manager import Registry, load
from infinisa.runtime.simulator import simulate

from ._measure import Bar, Row, at_least, at_most

LEAST_GAIN = 1.05
"""Biggest first takes so many times as long on at least one model that others made."""

BIGGEST, SUM, FASTEST = "biggest first", "sum of cycles", "least predicted time"


def biggest_first(machine: Machine, library: Mapping[str, Instruction]) -> MakeFinder:
    """A finder that leaves nothing to choose but among the instructions that compute most."""

    def make(known: Iterable[Instruction], around: Surroundings) -> Finder:
        find = Meaning(known, around)
        run_time = frozenset(axis for axis, e in around.extents.items() if e.length.terms)
        choosing = Choosing(machine, library, around.sizes, around.sizes, run_time)

        def biggest(root: Node) -> list[Match]:
            fit = [match for match in find(root) if choosing.fits(match) and match.stable]
            most = max((len(match.inner) for match in fit), default=0)
            return [match for match in fit if len(match.inner) == most]

        return biggest

    return make


# ---------------------------------------------------------------- the models


def weights(b: Builder) -> Callable[..., Input]:
    """Makes weights whose values nobody asks for: of a name, axes and their lengths."""

    def weight(name: str, axes: str, *shape: int) -> Input:
        def zeros() -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
            return np.zeros(shape, np.float32)

        return b.weight(name, axes, zeros, shape=shape, dtype="f32", content=name)

    return weight


def gpt2(tokens: int, layers: int = 2) -> Model:
    """The prefill of a network with the widths of GPT-2 small."""
    d, heads, words = 768, 12, 50257
    e = d // heads
    b = Builder("GPT-2 small")
    for axis, length in {"s": tokens, "t": tokens, "h": heads}.items():
        b.axis(axis, length)
    weight = weights(b)
    x: Node = b.input("x", "s d", (tokens, d))

    def norm(x: Node, name: str) -> Node:
        return formulas.layer_norm(x, weight(f"{name}.w", "d", d), weight(f"{name}.b", "d", d), "d")

    for n in range(layers):
        y = norm(x, f"{n}.before")
        q, k, v = (
            dot(y, weight(f"{n}.{c}", "d h e", d, heads, e), "d")
            + weight(f"{n}.{c}.b", "h e", heads, e)
            for c in "qkv"
        )
        k, v = (rename(each, {"s": "t"}) for each in (k, v))
        scores = formulas.causal(formulas.attention_scores(q, k, "e", e**-0.5), "s", "t")
        mixed = formulas.attend(scores, v, "t")
        mixed = dot(mixed, weight(f"{n}.mix", "h e d", heads, e, d), "h e")
        x = x + (mixed + weight(f"{n}.mix.b", "d", d))
        y = norm(x, f"{n}.behind")
        up = dot(y, weight(f"{n}.up", "d f", d, 4 * d), "d") + weight(f"{n}.up.b", "f", 4 * d)
        down = dot(formulas.gelu_tanh(up), weight(f"{n}.down", "f d", 4 * d, d), "f")
        x = x + (down + weight(f"{n}.down.b", "d", d))
    logits = dot(norm(x, "last"), weight("words", "v d", words, d), "d")
    b.graph("main").output("logits", logits)
    return b.model()


def lstm(steps: int = 32, width: int = 256) -> Model:
    b = Builder("LSTM")
    for axis, length in {"t": steps, "b": 1, "m": width}.items():
        b.axis(axis, length)
    x = b.input("x", "t b d", (steps, 1, width))
    hidden, cell = (b.input(name, "b n", (1, width)) for name in ("hidden", "cell"))
    weight = weights(b)
    every, _, _ = formulas.lstm(
        x, weight("w", "q n d", 4, width, width), weight("u", "q n m", 4, width, width),
        weight("b", "q n", 4, width), hidden, cell, "t",
    )  # fmt: skip
    b.graph("main").output("every", every)
    return b.model()


def mobilenet(size: int = 28, channels: int = 32, blocks: int = 2) -> Model:
    """Inverted residuals: wider by a product, a window for each channel, narrower by a product."""
    b = Builder("MobileNet blocks")
    for axis, length in {"y": size, "x": size, "r": 3, "k": 3}.items():
        b.axis(axis, length)
    weight, wide = weights(b), 6 * channels
    x: Node = b.input("image", "c0 y x", (channels, size, size))

    def relu6(x: Node) -> Node:
        return minimum(relu(x), 6.0)

    for n in range(blocks):
        c, f, out = f"c{n}", f"f{n}", f"c{n + 1}"
        up = relu6(
            dot(x, weight(f"{n}.up", f"{f} {c}", wide, channels), c) + weight(f"{n}.up.b", f, wide)
        )
        taps = view(up, {"y": "y + r - 1", "x": "x + k - 1"}, fill=0.0)
        mid = dot(taps, weight(f"{n}.window", f"{f} r k", wide, 3, 3), "r k")
        mid = relu6(mid + weight(f"{n}.window.b", f, wide))
        down = dot(mid, weight(f"{n}.down", f"{out} {f}", channels, wide), f)
        x = down + weight(f"{n}.down.b", out, channels) + rename(x, {c: out})
    b.graph("main").output("image", x)
    return b.model()


def feed_forward(tokens: int = 256, width: int = 256) -> Model:
    """A gated layer that two units can do: the gate's function behind a product, or beside it."""
    b = Builder("gated layer")
    b.axis("s", tokens)
    weight = weights(b)
    x = b.input("x", "s d", (tokens, width))
    gate, up = (dot(x, weight(name, "d f", width, 4 * width), "d") for name in ("gate", "up"))
    hidden = formulas.silu(gate) * up
    b.graph("main").output("y", dot(hidden, weight("down", "f e", 4 * width, width), "f"))
    return b.model()


@dataclass(frozen=True)
class Subject:
    """A model, the sections that count (none given: all), and parameters to simulate with.

    foreign  it was not written for this comparison
    """

    name: str
    make: Callable[[], Model]
    sections: tuple[str, ...] = ()
    parameters: Mapping[str, int] | None = None
    foreign: bool = False


def installed(package: str, inside: str) -> Path:
    """A folder of an installed package, which is not imported."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise InfinisaError(f"package {package!r} is not installed")
    return Path(found.origin).parent / inside


def subjects(quick: bool) -> Iterator[Subject]:
    words = {"prompt": 64, "tokens": 4}
    yield Subject("python_lm", lambda: api.load().model, ("prefill", "decode"), words, True)
    yield Subject("MobileNet blocks", mobilenet)
    yield Subject("gated layer", feed_forward)
    if quick:
        return
    yield Subject("GPT-2 small, 16 tokens", lambda: gpt2(16))
    yield Subject("GPT-2 small, 128 tokens", lambda: gpt2(128))
    yield Subject("LSTM", lstm)
    characters = {"bytes": 78, "prompt": 26}
    lac = installed("jieba", "lac_small")
    yield Subject("LAC", lambda: api.load(lac).model, ("tag",), characters, True)


# ---------------------------------------------------------------- machines


def with_lanes(machine: Machine, name: str, lanes: int) -> Machine:
    """The machine with another number of lanes in its vector unit."""
    units = tuple(
        replace(unit, attributes={**unit.attributes, "lanes": lanes})
        if unit.kind == "vector"
        else unit
        for unit in machine.units
    )
    return replace(machine, name=name, units=units)


def machines(registry: Registry) -> Iterator[Machine]:
    """Two that come with InfinISA, and one with a vector unit that is slow beside its array."""
    edge = api.find_machine("edge", registry)
    yield edge
    yield api.find_machine("datacenter", registry)
    yield with_lanes(edge, "edge_few_lanes", 4)


# ---------------------------------------------------------------- rows


def program_of(
    model: Model, machine: Machine, registry: Registry, finder: MakeFinder, rounds: int
) -> Program:
    """The model compiled with instructions that a finder offers, chosen in so many rounds."""
    opcodes: dict[object, Opcode] = {}
    parts = []
    for graph in model.graphs:
        covered, _ = cover_and_report(
            model, graph, machine, registry.library, opcodes=opcodes, finder=finder, rounds=rounds
        )
        parts.append((covered, schedule(covered, machine, parameters=model.parameters)))
    return emit(model.name, machine, parts, model.parameters)


def measured(subject: Subject, machine: Machine, registry: Registry) -> list[dict[str, object]]:
    """For each section that counts the simulated cycles of one turn, by way to choose."""
    model = subject.make()
    found: dict[str, dict[str, object]] = {}
    ways: dict[str, tuple[MakeFinder, int]] = {
        BIGGEST: (biggest_first(machine, registry.library), 0),
        SUM: (Meaning, 0),
        FASTEST: (Meaning, ROUNDS),
    }
    for name, (finder, rounds) in ways.items():
        program = program_of(model, machine, registry, finder, rounds)
        report = simulate(program, registry.library, machine, subject.parameters)
        for section in report.sections:
            if subject.sections and section.name not in subject.sections:
                continue
            row = found.setdefault(section.name, described(subject, machine, section.name))
            row[name] = section.cycles / len(section.turn_cycles)
    return [*found.values()]


def described(subject: Subject, machine: Machine, section: str) -> dict[str, object]:
    return {"model": subject.name, "machine": machine.name, "section": section}


def rows(quick: bool) -> tuple[list[Row], list[Bar]]:
    """A row for each model, machine and section, and what must hold of all."""
    registry, found = load(), []
    for subject in subjects(quick):
        for machine in machines(registry):
            print(f"choice: {subject.name}, {machine.name}", file=sys.stderr)
            found += measured(subject, machine, registry)
    foreign = {subject.name for subject in subjects(quick) if subject.foreign}
    return [*found], list(bars(found, foreign))


def bars(found: Sequence[Mapping[str, object]], foreign: set[str]) -> Iterator[Bar]:
    for other in (BIGGEST, SUM):
        worst = max(ratio(row, FASTEST, other) for row in found)
        yield at_most(f"{FASTEST} over {other}, the worst row", worst, 1.0, "")
    gain = max(ratio(row, BIGGEST, FASTEST) for row in found if row["model"] in foreign)
    yield at_least(f"{BIGGEST} over {FASTEST}, the best real model", gain, LEAST_GAIN, "")


def ratio(row: Mapping[str, object], one: str, other: str) -> float:
    return float(str(row[one])) / float(str(row[other]))
