"""Indices that run backwards: what reads them compiles for every machine, and keeps its values."""

from collections.abc import Callable, Mapping

import pytest

from infinisa.compiler.builder import Builder
from infinisa.compiler.graph import Model
from infinisa.isa.language import Node, dot, maximum, sum, tanh, view
from infinisa.isa.machine import Machine
from infinisa.runtime.simulator import simulate
from tests.compiler.everywhere import LIBRARY, MACHINES, agree_everywhere, instructions
from tests.isa.programs import LIBRARY as OWN

Build = Callable[[Builder], Node]


def model(build: Build, axes: Mapping[str, int] | None = None) -> Model:
    """A model of one graph, with one result."""
    b = Builder("backwards")
    for axis, length in (axes or {}).items():
        b.axis(axis, length)
    graph = b.graph("main")
    graph.output("y", build(b))
    return b.model()


def reverse(b: Builder) -> Node:
    return tanh(view(b.input("x", "m n", (7, 11)), {"n": "10 - n"}))


def transposed(b: Builder) -> Node:
    """Every other row from the end, of a value that is computed first."""
    x = tanh(b.input("x", "m n", (13, 9)))
    return sum(view(x, {"m": "12 - 2*p"}), "n")


def both(b: Builder) -> Node:
    x = b.input("x", "m n", (37, 29))
    return x + view(x, {"m": "36 - m", "n": "28 - n"})


def beyond(b: Builder) -> Node:
    """Half of it is outside."""
    return view(b.input("x", "m n", (5, 9)), {"n": "4 - n"}, fill=2.0) * 3.0


def causal(b: Builder) -> Node:
    x, w = b.input("x", "l c", (41, 9)), b.input("w", "r c o", (3, 9, 17))
    return maximum(dot(view(x, {"l": "l - 2*r"}, fill=0.0), w, "r c"), 0.0)


def product(b: Builder) -> Node:
    """The axis that is summed over runs backwards in one operand."""
    x, w = b.input("x", "m k", (19, 23)), b.input("w", "k n", (23, 15))
    return dot(view(x, {"k": "22 - k"}), w, "k")


def channelwise(b: Builder) -> Node:
    x, w = b.input("x", "l c", (41, 9)), b.input("w", "r c", (3, 9))
    return dot(view(x, {"l": "l - 2*r"}, fill=0.0), w, "r")


def large(b: Builder) -> Node:
    """More than the smallest chip holds: it is read in pieces, from both ends."""
    x = b.input("x", "m n", (143, 151))
    return x - view(x, {"m": "142 - m"})


def some(b: Builder) -> Node:
    """Only as many positions as there are when it runs."""
    b.axis("s", b.parameter("rows", most=9, default=7))
    return tanh(view(b.input("x", "t n", (9, 5)), {"t": "8 - s"}))


def written(b: Builder) -> Node:
    x, w = b.input("x", "m k", (19, 23)), b.input("w", "k n", (23, 15))
    return tanh(view(dot(x, w, "k"), {"m": "18 - m"}))


CASES: dict[str, tuple[Build, dict[str, int]]] = {
    "reverse": (reverse, {}),
    "transposed": (transposed, {"p": 7}),
    "both": (both, {}),
    "beyond": (beyond, {}),
    "causal": (causal, {}),
    "channelwise": (channelwise, {}),
    "large": (large, {}),
    "some": (some, {}),
    "product": (product, {}),
    "written": (written, {}),
}


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
@pytest.mark.parametrize("case", CASES)
def test_a_backward_read_compiles_and_keeps_its_values(case: str, machine: Machine) -> None:
    build, axes = CASES[case]
    done = agree_everywhere(model(build, axes), machine)

    engines = {
        engine: simulate(done.program, LIBRARY, machine, engine=engine).cycles
        for engine in ("simpy", "compiled")
    }
    assert engines["simpy"] == engines["compiled"]


def test_a_causal_convolution_is_one_contraction() -> None:
    """Its windows are read where they lie, whichever way they run."""
    done = agree_everywhere(model(causal), MACHINES["edge"])

    assert instructions(done) == ["matmul_bias_relu.step", "matmul_bias_relu.finish"]


def test_windows_of_what_runs_backwards_are_read_from_a_copy() -> None:
    """An instruction with windows takes its operand position by position."""

    def build(b: Builder) -> Node:
        x, w = b.input("x", "m h", (5, 9)), b.input("w", "r", (3,))
        turned = view(x, {"h": "8 - h"})
        return dot(view(turned, {"h": "2*p + r - 1"}, fill=0.0), w, "r")

    library = {"window": OWN["window"], "move": LIBRARY["move"]}
    done = agree_everywhere(model(build, {"p": 5, "r": 3}), MACHINES["tiny"], library)

    assert instructions(done)[-1] == "window"
