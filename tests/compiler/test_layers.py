"""Layers that are alike are compiled once: the program is the one that compiling all gives."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest

from benchmarks._forms import ARCHITECTURES, transformer
from infinisa.compiler import pipeline
from infinisa.compiler.builder import Builder
from infinisa.compiler.calls import Call
from infinisa.compiler.graph import Model
from infinisa.compiler.layers import Fold, folded, repeated
from infinisa.compiler.pipeline import Compilation, compile_model
from infinisa.compiler.schedule.cost import Group
from infinisa.compiler.unfold import Unfolded, Unlike
from infinisa.isa.encoding import encode
from infinisa.isa.language import Node, dot, relu, rsqrt, scan, tanh, update
from infinisa.isa.language import sum as total
from tests.compiler.everywhere import LIBRARY, MACHINES, agree_everywhere, random


def norm(x: Node, scale: Node, epsilon: float = 1e-5) -> Node:
    return x * rsqrt(total(x * x, "d") / 16.0 + epsilon) * scale


def layers(
    count: int,
    widths: tuple[int, ...] = (),
    epsilons: tuple[float, ...] = (),
    results: bool = False,
) -> Model:
    """Residual layers of a norm and two products, each with a tensor that it keeps.

    widths, epsilons  of each layer, if not those of all others
    results           each layer has a result of its own
    """
    b = Builder("layers")
    b.axis("s", 8)
    x: Node = dot(b.input("x", "s c", (8, 12)), b.weight("in", "c d", random(12, 16)), "c")
    kept, outputs = [], {}
    for n in range(count):
        width = widths[n] if widths else 32
        f = f"f{width}"
        with b.named(f"layers.{n}"):
            scale = b.weight(f"layers.{n}.scale", "d", random(16))
            up = b.weight(f"layers.{n}.up", f"d {f}", random(16, width))
            down = b.weight(f"layers.{n}.down", f"{f} d", random(width, 16))
            before = b.kept(f"layers.{n}.before", "s d", (8, 16))
            normed = b.name("norm", norm(x, scale, epsilons[n] if epsilons else 1e-5))
            hidden = b.name("hidden", relu(dot(normed, up, "d")))
            kept.append(update(before, normed + before, {"s": "s"}))
            if results:
                outputs[f"hidden {n}"] = hidden
            x = b.name("output", x + dot(hidden, down, f))
    graph = b.graph("main")
    graph.output("y", tanh(x))
    for name, node in outputs.items():
        graph.output(name, node)
    for node in kept:
        graph.update(node)
    return b.model()


def fold_of(model: Model) -> Fold | None:
    (graph,) = model.graphs
    return folded(model, graph)


def both(model: Model, machine: str) -> tuple[Compilation, Compilation]:
    """The compilation with few layers and with all, which must be the same."""
    few = compile_model(model, MACHINES[machine], LIBRARY)
    whole = compile_model(model, MACHINES[machine], LIBRARY, fold=False)
    assert encode(few.program) == encode(whole.program)
    assert few.program.buffers == whole.program.buffers
    for name, coverage in whole.coverage.items():
        assert str(few.coverage[name]) == str(coverage)
        assert len(few.coverage[name].matches) == len(coverage.matches)
        calls = [call for each in few.covered if each.name == name for call in each.calls]
        assert {made.call for made in few.coverage[name].made} == set(calls)
    return few, whole


@pytest.mark.parametrize("machine", ["tiny", "edge", "datacenter"])
@pytest.mark.parametrize("results", [False, True])
def test_few_layers_give_the_program_of_all(machine: str, results: bool) -> None:
    few, _ = both(layers(9, results=results), machine)

    assert len(few.folds["main"].left_out) >= 4


@pytest.mark.parametrize("number", [0, 1, 5, 7, 9])
def test_transformers_are_the_same(number: int) -> None:
    few, _ = both(transformer(ARCHITECTURES[number], 6), "datacenter")

    assert few.folds


def test_the_values_are_those_of_the_model() -> None:
    done = agree_everywhere(layers(8))

    assert done.folds


def test_a_layer_of_another_shape_is_compiled_by_itself() -> None:
    model = layers(12, widths=(32,) * 9 + (48,) + (32,) * 2)

    few, _ = both(model, "tiny")

    assert all("layers.9.up" not in names for names in few.folds["main"].tensors.values())
    assert len(few.folds["main"].left_out) <= 9 - 4


def test_a_layer_with_another_number_is_compiled_by_itself() -> None:
    few, _ = both(layers(12, epsilons=(1e-5,) * 6 + (1e-3,) + (1e-5,) * 5), "tiny")

    assert not few.folds or len(few.folds["main"].left_out) <= 2


@pytest.mark.parametrize(
    "model",
    [
        layers(3),
        layers(8, widths=(32, 48) * 2 + (40, 56, 64, 72)),
        layers(8, epsilons=tuple(10.0**-n for n in range(8))),
    ],
    ids=["few", "shapes", "numbers"],
)
def test_what_is_not_alike_is_not_folded(model: Model) -> None:
    assert fold_of(model) is None


def test_layers_that_share_a_weight_with_the_next_are_not_folded() -> None:
    b = Builder("shared")
    b.axis("s", 8)
    x: Node = b.input("x", "s d", (8, 16))
    weights = [b.weight(f"w{n}", "d e", random(16, 16)) for n in range(9)]
    for one, other in pairwise(weights):
        hidden = dot(x, one, "d")
        x = x + dot(hidden, other, "e")
    b.graph("main").output("y", x)

    assert fold_of(b.model()) is None


def test_recurrences_are_not_folded() -> None:
    b = Builder("recurrent")
    b.axis("t", 8)
    x: Node = b.input("x", "t d", (8, 16))
    for n in range(8):
        decay = b.weight(f"decay{n}", "d", np.full(16, 0.5, np.float32))
        start = b.weight(f"start{n}", "d", random(16))

        def step(state: Node, x: Node, decay: Node = decay) -> tuple[list[Node], list[Node]]:
            new = decay * state + x
            return [new], [new]

        _, (emitted,) = scan(step, {"state": start}, {"x": x}, "t")
        x = x + emitted
    b.graph("main").output("y", x)

    assert fold_of(b.model()) is None


def test_what_did_not_come_out_alike_is_compiled_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    model = layers(8)
    whole = compile_model(model, MACHINES["tiny"], LIBRARY, fold=False)

    class Never(Unfolded):
        def groups(self, few: Sequence[Group], calls: Sequence[Call]) -> list[Group]:
            raise Unlike

    monkeypatch.setattr(pipeline, "Unfolded", Never)
    done = compile_model(model, MACHINES["tiny"], LIBRARY)

    assert encode(done.program) == encode(whole.program)
    assert done.model == model


def test_the_longest_stretch_of_repeats_is_found() -> None:
    assert repeated([7, 1, 2, 3, 1, 2, 3, 1, 2, 3, 9]) == (1, 3, 3)
    assert repeated([1, 1, 1, 1, 2, 3, 2, 3, 2]) == (4, 2, 2)
    assert repeated([1, 2, 3, 4]) is None
