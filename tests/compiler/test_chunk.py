"""Recurrences in chunks: where it is faster, and with the same values."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from infinisa.compiler import chunk
from infinisa.compiler.builder import Builder
from infinisa.compiler.chunk import affine, divided, families, in_chunks, lengths, linear, stable
from infinisa.compiler.equality.bounds import bounds
from infinisa.compiler.graph import Model
from infinisa.compiler.pipeline import compile_model
from infinisa.isa.evaluate import Range, evaluate
from infinisa.isa.language import (
    Constant,
    Input,
    Node,
    Scan,
    absolute,
    dot,
    exp,
    log,
    maximum,
    minimum,
    relu,
    rename,
    scan,
    sigmoid,
    sum,
    tanh,
    where,
)
from infinisa.isa.program import Count, Extent
from tests.compiler.everywhere import (
    LIBRARY,
    MACHINES,
    agree_everywhere,
    cycles,
    instructions,
    random,
)

DATACENTER = MACHINES["datacenter"]
H, X, G = Input("h", ("n",)), Input("x", ("n",)), Input("g", ("n",))
STATE = random(3)

# ---------------------------------------------------------------- what is affine


@pytest.mark.parametrize(
    "node",
    [
        H,
        X,
        H + X,
        X - H,
        -H * 0.5,
        H * X + G,
        sigmoid(G) * H + (1.0 - sigmoid(G)) * X,
        (H + X) / G - H,
        where(G > 0.0, H * 2.0, X),
        H * 0.5 + H * 0.25,
    ],
    ids=str,
)
def test_an_affine_form_has_the_values_of_the_expression(node: Node) -> None:
    pair = affine(node, H)

    assert pair is not None
    a, b = pair
    arrays = {"h": STATE, "x": random(3), "g": random(3)}
    expected, factor, rest = evaluate([node, a, b], arrays)
    np.testing.assert_allclose(factor * STATE + rest, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "node", [tanh(H), H * H, X / H, where(H > 0.0, X, G), maximum(H, X), sum(H, "n")], ids=str
)
def test_what_is_not_affine_has_no_such_form(node: Node) -> None:
    assert affine(node, H) is None


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (Constant(0.9), (0.9, 0.9)),
        (sigmoid(X), (0.0, 1.0)),
        (1.0 - sigmoid(X), (0.0, 1.0)),
        (tanh(X) * 0.5, (-0.5, 0.5)),
        (exp(-absolute(X)), (0.0, 1.0)),
        (exp(-exp(X)), (0.0, 1.0)),
        (exp(relu(X) * -2.0), (0.0, 1.0)),
        (exp((maximum(X, 0.0) + log(1.0 + exp(-absolute(X)))) * G), (0.0, 1.0)),
        (minimum(X, 1.0), (-np.inf, 1.0)),
        (where(X > 0.0, 0.5, -2.0), (-2.0, 0.5)),
        (X, (-np.inf, np.inf)),
    ],
    ids=str,
)
def test_bounds_of_a_value(node: Node, expected: tuple[float, float]) -> None:
    """The fifth is a Mamba's decay, with weights known to be below 0."""
    assert bounds(node, lambda n: (-3.0, -0.1) if n is G else None) == expected


# ---------------------------------------------------------------- the same values

Step = Callable[..., tuple[Sequence[Node], Sequence[Node]]]


def total(h: Node, x: Node, g: Node) -> tuple[Sequence[Node], Sequence[Node]]:
    return (h + x,), (h, h + x)


def decay(h: Node, x: Node, g: Node) -> tuple[Sequence[Node], Sequence[Node]]:
    after = h * 0.9 + x * g
    return (after,), (after * x, tanh(h))


def gated(h: Node, x: Node, g: Node) -> tuple[Sequence[Node], Sequence[Node]]:
    after = sigmoid(g) * h + (1.0 - sigmoid(g)) * x
    return (after,), (after, tanh(x) + h)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [2, 3, 4, 6])
@pytest.mark.parametrize("step", [total, decay, gated])
def test_a_recurrence_in_chunks_has_the_same_results(
    step: Step, length: int, reverse: bool
) -> None:
    x, g = Input("x", ("t", "n")), Input("g", ("t", "n"))
    states, emits = scan(step, {"h": H}, {"x": x, "g": g}, "t", reverse)
    (family,) = families([*states, *emits])
    form = linear(family[0])
    assert form is not None
    chunks, extents = divided("t", length, {"t": Extent("t", Count(12), 12)})

    results = in_chunks(family, form, chunks)

    arrays = {"h": STATE, "x": random(12, 3), "g": random(12, 3)}
    ranges = {axis: Range(0, extent.most) for axis, extent in extents.items()}
    for twin, result in results.items():
        (expected,) = evaluate([twin], arrays)
        (found,) = evaluate([result], arrays, ranges={**ranges, "t": Range(0, 12)})
        order = [result.axes.index(axis) for axis in twin.axes]
        np.testing.assert_allclose(found.transpose(order), expected, rtol=1e-5, atol=1e-5)


def recurrence(step: Step, steps: int = 256, dtype: str = "f32", reverse: bool = False) -> Model:
    b = Builder("recurrence")
    b.axis("t", steps)
    x, g = b.input("x", f"t n: {dtype}", (steps, 48)), b.input("g", "t n", (steps, 48))
    kind = "i32" if dtype == "i32" else "f32"
    states, emits = scan(
        step, {"h": b.input("h", f"n: {kind}", (48,))}, {"x": x, "g": g}, "t", reverse
    )
    graph = b.graph("main")
    for n, node in enumerate((*states, *emits)):
        graph.output(f"y{n}", node)
    return b.model()


def mamba(steps: int = 128, sign: float = -1.0) -> Model:
    """A selective state space, as exporters write it: softplus, discretised decay, read-out."""
    b = Builder("mamba")
    b.axis("t", steps)
    width, states = 24, 8
    x, raw = b.input("x", "t d", (steps, width)), b.input("raw", "t d", (steps, width))
    into, out = b.input("b", "t n", (steps, states)), b.input("c", "t n", (steps, states))
    rates = b.weight("a", "d n", sign * np.exp(random(width, states)))
    delta = maximum(raw, 0.0) + log(1.0 + exp(-absolute(raw)))

    def step(
        h: Node, x: Node, delta: Node, into: Node, out: Node
    ) -> tuple[Sequence[Node], Sequence[Node]]:
        after = exp(delta * rates) * h + (delta * x) * into
        return (after,), (dot(after, out, "n"),)

    (last,), (ys,) = scan(
        step, {"h": b.input("h", "d n", (width, states))},
        {"x": x, "delta": delta, "into": into, "out": out}, "t",
    )  # fmt: skip
    graph = b.graph("main")
    graph.output("last", last)
    graph.output("ys", ys)
    return b.model()


def scanned(model: Model) -> set[str | None]:
    """The axes whose steps run in order, once all backends agree with the language."""
    done = agree_everywhere(model)
    return {call.scan for each in done.covered for call in each.calls if call.scan}


@pytest.mark.parametrize(
    "model",
    [
        recurrence(total),
        recurrence(decay),
        recurrence(gated, reverse=True),
        recurrence(total, dtype="i32"),
        mamba(),
    ],
    ids=["sum", "decay", "gated and from the end", "integers", "mamba"],
)
def test_steps_wait_for_fewer_steps_and_values_stay(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    axes = scanned(model)

    assert {str(axis)[:7] for axis in axes} == {"t_chunk", "t_place"}
    divided_cycles = cycles(compile_model(model, DATACENTER, LIBRARY))
    monkeypatch.setattr(chunk, "lengths", lambda steps: [])
    assert divided_cycles < 0.6 * cycles(compile_model(model, DATACENTER, LIBRARY))


def test_alike_recurrences_are_scheduled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two layers, the second over what the first yields."""
    b = Builder("layers")
    b.axis("t", 256)
    b.axis("n", 48)
    y: Node = b.input("x", "t n", (256, 48))
    for layer in range(2):
        g = b.input(f"g{layer}", "t n", (256, 48))
        start = b.input(f"h{layer}", "n", (48,))
        _, (_, y) = scan(total, {"h": start}, {"x": tanh(y), "g": g}, "t")
    b.graph("main").output("y", y)
    asked = []
    before = chunk.Chunking.time

    def time(self: chunk.Chunking, *arguments: object) -> float:
        asked.append(arguments)
        return before(self, *arguments)  # type: ignore[arg-type]  # handed on as they came

    monkeypatch.setattr(chunk.Chunking, "time", time)

    done = agree_everywhere(b.model(), tolerance=1e-3)  # sums of sums of 256 values

    assert len(asked) == 1 + len(lengths(256))
    assert "t" not in {call.scan for call in done.covered[0].calls}


# ---------------------------------------------------------------- where it is not done


def grows(h: Node, x: Node, g: Node) -> tuple[Sequence[Node], Sequence[Node]]:
    return (h * 1.01 + x,), (h,)


def bends(h: Node, x: Node, g: Node) -> tuple[Sequence[Node], Sequence[Node]]:
    return (tanh(h * 0.5 + x),), (h,)


@pytest.mark.parametrize(
    "model",
    [recurrence(grows, 64), recurrence(bends), recurrence(total, 127), mamba(64, 1.0)],
    ids=["a factor above 1", "not affine", "a prime number of steps", "a rate above 0"],
)
def test_other_recurrences_go_step_by_step(model: Model) -> None:
    done = compile_model(model, DATACENTER, LIBRARY)

    assert {call.scan for call in done.covered[0].calls if call.scan} == {"t"}


def test_a_recurrence_is_not_divided_where_that_is_slower() -> None:
    """Of 4 steps chunks of 2 save none and cost several calls more."""
    done = compile_model(recurrence(total, 4), DATACENTER, LIBRARY)

    assert {call.scan for call in done.covered[0].calls if call.scan} == {"t"}


def test_states_that_depend_on_each_other_are_not_divided() -> None:
    def step(h: Node, c: Node, x: Node) -> tuple[Sequence[Node], Sequence[Node]]:
        return (h * 0.5 + c, c * 0.5 + x), (h,)

    x = Input("x", ("t", "n"))
    (twin, *_), _ = scan(step, {"h": H, "c": G}, {"x": x}, "t")

    assert isinstance(twin, Scan)
    assert linear(twin) is None


def test_a_matrix_as_factor_is_not_divided() -> None:
    w = Input("w", ("n", "m"))

    def step(h: Node, x: Node) -> tuple[Sequence[Node], Sequence[Node]]:
        return (rename(dot(h, w, "n"), {"m": "n"}) + x,), (h,)

    (twin,), _ = scan(step, {"h": H}, {"x": Input("x", ("t", "n"))}, "t")

    assert isinstance(twin, Scan)
    assert linear(twin) is None


def test_what_no_step_changes_is_as_it_starts() -> None:
    """Exporters hand what is the same in every step from step to step."""

    def step(h: Node, k: Node, x: Node) -> tuple[Sequence[Node], Sequence[Node]]:
        return (h * k + x, k), (h,)

    x = Input("x", ("t", "n"))
    (twin, _), _ = scan(step, {"h": H, "k": sigmoid(G)}, {"x": x}, "t")

    assert isinstance(twin, Scan)
    form = linear(twin)
    assert form is not None
    assert list(form.fixed.values()) == [sigmoid(G)]
    assert stable(twin, form, lambda node: None)


def test_lengths_worth_trying_are_around_the_root() -> None:
    assert lengths(1024) == [16, 32, 64]
    assert lengths(12) == [2, 3, 6]
    assert lengths(127) == lengths(3) == []


def test_a_graph_without_recurrences_stays_as_it_is() -> None:
    b = Builder("plain")
    b.axis("s", 8)
    b.graph("main").output("y", tanh(b.input("x", "s", (8,))))

    assert instructions(compile_model(b.model(), DATACENTER, LIBRARY)) == ["tanh"]
