"""Models written by hand, and what they compute untiled."""

import numpy as np
import pytest

from infinisa.compiler.builder import Builder
from infinisa.compiler.graph import Model
from infinisa.compiler.reference import evaluate_model
from infinisa.isa.errors import ModelError
from infinisa.isa.instruction import opaque
from infinisa.isa.language import Opaque, dot, relu, rename, sum, update, view
from infinisa.isa.program import Count, Extent, Parameter, Repeat

RANDOM = np.random.default_rng(1)


def perceptron() -> Model:
    b = Builder("mlp")
    b.axis("s", b.parameter("rows", most=8, default=3))
    x = b.input("x", "s d", shape=(8, 4))
    up = b.weight("up", "f d", RANDOM.normal(size=(6, 4)).astype(np.float32))
    down = b.weight("down", "d f", RANDOM.normal(size=(4, 6)).astype(np.float32))
    with b.named("layer"):
        hidden = b.name("hidden", relu(dot(x, up, over="d")))
    b.graph("main").output("y", dot(hidden, down, over="f"))
    return b.model()


def test_a_model_has_extents_for_every_axis() -> None:
    model = perceptron()

    (graph,) = model.graphs
    rows = Count(0, (("rows", 1),))
    assert graph.extents == (
        Extent("s", rows, 8),
        Extent("d", Count(4), 4),
        Extent("f", Count(6), 6),
    )
    assert model.parameters == (Parameter("rows", 8, 3),)
    assert list(graph.names.values()) == ["layer.hidden"]


def test_a_model_is_evaluated_over_the_positions_that_its_parameters_say() -> None:
    model = perceptron()
    up, down = (model.weights[name].load() for name in ("up", "down"))
    x = RANDOM.normal(size=(8, 4)).astype(np.float32)

    values = evaluate_model(model, {"x": x}, {"rows": 5})

    expected = np.maximum(x[:5] @ up.T, 0) @ down.T
    np.testing.assert_allclose(values.outputs["main/y"], expected, rtol=1e-5)
    with pytest.raises(ModelError) as caught:
        evaluate_model(model, {"x": x}, {"rows": 9})
    assert str(caught.value) == (
        "graph 'main': axis 's' must have at most 8 positions before 8, not 9 from 0"
    )


def test_a_repeated_graph_reads_what_the_last_turn_kept() -> None:
    """Fibonacci: position r + 2 becomes the sum of positions r and r + 1."""
    b = Builder("fibonacci")
    steps = b.parameter("steps", most=10, default=8)
    turn = b.parameter("turn", most=10, default=0, given=False)
    numbers = b.kept("numbers", "n: i32", shape=(12,), initial=1.0)
    b.axis("n", 12)
    graph = b.graph("step", Repeat("turn", steps))
    graph.axis("r", 1, start=turn)
    following = view(numbers, {"n": "r"}) + view(numbers, {"n": "r + 1"})
    graph.update(update(numbers, following, {"n": "r + 2"}))

    values = evaluate_model(b.model(), {})

    assert values.kept["numbers"].tolist() == [1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 1, 1]


def test_an_opaque_operator_sets_a_parameter() -> None:
    @opaque(unit="text", results={"kept": "n: i32"}, sets=("count",))
    def keep_odd(x: "n: i32", kept):  # type: ignore[no-untyped-def, valid-type]  # noqa: F722  # axes
        count = 0
        for number in x:
            if number % 2:
                kept[count] = number
                count += 1
        return count

    b = Builder("odd")
    count = b.parameter("count", most=5, default=0, given=False)
    x = b.input("x", "n: i32", shape=(5,))
    odd = b.kept("odd", "n: i32", shape=(5,))
    b.axis("n", 5)
    first = b.graph("filter")
    first.update(update(odd, Opaque("keep_odd", (x,), ("n",), "i32", 0, ("count",)), {}))
    second = b.graph("add")
    second.axis("s", count)
    second.output("total", sum(view(odd, {"n": "s"}), "s"))

    values = evaluate_model(
        b.model(), {"x": np.array([1, 2, 3, 4, 5], np.int32)}, library={"keep_odd": keep_odd}
    )

    assert values.parameters["count"] == 3
    assert values.outputs["add/total"] == 9


def test_an_axis_without_a_length_is_named() -> None:
    b = Builder("open")
    b.graph("main").output("y", rename(b.input("x", "s d", shape=(2, 2)), {"s": "p"}))

    with pytest.raises(ModelError) as caught:
        b.model()

    assert str(caught.value) == "graph 'main': axis 'p' has no length"


def test_weights_must_agree_on_their_axes() -> None:
    b = Builder("wrong")
    a = b.weight("a", "d f", np.zeros((2, 3), np.float32))
    c = b.weight("c", "f d", np.zeros((4, 2), np.float32))
    b.graph("main").output("y", a + c)

    with pytest.raises(ModelError) as caught:
        b.model()

    assert str(caught.value) == ("tensor 'c': axis 'f' must have 3 positions as in others, not 4")


def test_a_tensor_has_one_name_and_a_length_for_each_axis() -> None:
    b = Builder("wrong")
    b.input("x", "s", shape=(2,))

    with pytest.raises(ModelError) as caught:
        b.weight("x", "s", np.zeros(2, np.float32))
    assert str(caught.value) == "tensor 'x': there is one of this name already"
    with pytest.raises(ModelError) as caught:
        b.kept("y", "s d", shape=(2,))
    assert str(caught.value) == "tensor 'y': axes (s d) need as many lengths, not (2,)"
