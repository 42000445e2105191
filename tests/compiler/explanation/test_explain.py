"""Why an instruction is taken or not: what covers what, and near misses in words."""

import numpy as np
import pytest

from infinisa.compiler.builder import Builder
from infinisa.compiler.explanation.explain import Explanation, NodeReport, explain
from infinisa.compiler.explanation.misses import Miss
from infinisa.compiler.graph import Graph, Model
from infinisa.compiler.selection.choice import Trust
from infinisa.isa.errors import CompileError
from infinisa.isa.instruction import Instruction, instruction
from infinisa.isa.language import (
    Input,
    Node,
    cos,
    dot,
    erf,
    exp,
    inputs,
    max,
    maximum,
    mean,
    minimum,
    position,
    relu,
    sigmoid,
    sqrt,
    sum,
    tanh,
    where,
)
from infinisa.isa.machine import builtin_machine_files, load_machine
from infinisa.isa.program import Count, Extent
from infinisa.plugins.manager import load

MACHINES = {file.stem: load_machine(file) for file in builtin_machine_files()}
LIBRARY = load(installed=False).library
SIZES = {"s": 8, "t": 8, "d": 16, "n": 12}
X, Y = Input("x", ("s", "d")), Input("y", ("s", "d"))
SCALE, BIAS = Input("scale", ("d",)), Input("bias", ("d",))
SQUARE, OTHER = Input("square", ("s", "t")), Input("other", ("s", "t"))


def model(root: Node, names: dict[Node, str] | None = None) -> Model:
    """A model of one output."""
    extents = tuple(Extent(axis, Count(size), size) for axis, size in SIZES.items())
    leaves = {
        leaf.name: (leaf, tuple(SIZES[axis] for axis in leaf.axes)) for leaf in inputs([root])
    }
    graph = Graph("main", extents, {"out": root}, names={root: "result"} | (names or {}))
    return Model("small", (graph,), leaves)


def explained(
    root: Node, *more: Instruction, node: str | None = "result", only: str = "", **options: Trust
) -> Explanation:
    """The explanation with the instructions of one operation, those named and more."""
    chosen = {
        name: made for name, made in LIBRARY.items()
        if made.opaque or len(made.outputs[0].children) == 0 or name in only.split()
        or all(not child.children for child in made.outputs[0].children)
    }  # fmt: skip
    library = chosen | {made.name: made for made in more}
    return explain(model(root), MACHINES["edge"], library, node=node, **options)


def miss(root: Node, name: str, *more: Instruction) -> Miss:
    """The near miss of an instruction at the result."""
    (report,) = explained(root, *more, only=name).nodes
    return next(found for found in report.misses if found.instruction == name)


def gelu(x: Node, half: float = 0.5, root: float = 0.7071067811865475) -> Node:
    return half * x * (1.0 + erf(x * root))


def norm(x: Node, deviation: Node) -> Node:
    return BIAS + SCALE * (x - mean(x, "d")) / deviation


VARIANCE = mean((X - mean(X, "d")) ** 2, "d")


# ---------------------------------------------------------------- likely reasons


@pytest.mark.parametrize(
    ("root", "name", "reason"),
    [
        (gelu(X, half=0.25), "gelu_erf", "same up to a constant factor 0.5"),
        (-X * sigmoid(X), "silu", "same but for a sign"),
        (gelu(X) + 2.0, "gelu_erf", "same but for 2, which the model adds"),
        (
            norm(X, sqrt(VARIANCE) + 1e-3),
            "layer_norm",
            "0.001 outside the root: the instruction has it inside",
        ),
        (X * sigmoid(1.702 * X), "silu", "differs in the number 1.702: 1 fits"),
        (
            0.5 * X * (1.0 + tanh(0.8 * (X + 0.044715 * X * X * X))),
            "gelu_tanh",
            "differs in the number 0.8: 0.7979 fits",
        ),
        (minimum(relu(X), 6.0), "relu", "differs only where x > 6: clipped there"),
    ],
)
def test_a_small_change_is_the_likely_reason(root: Node, name: str, reason: str) -> None:
    found = miss(root, name)

    assert found.reason == reason
    assert found.distance


def test_a_miss_names_what_its_operands_would_read() -> None:
    found = miss(norm(X, sqrt(VARIANCE) + 1e-3), "layer_norm")

    assert found.operands == (("x", "x"), ("weight", "scale"), ("bias", "bias"))
    assert found.nodes == 11


def test_a_miss_without_a_reason_has_its_distance() -> None:
    """The two forms of GELU are 4e-4 apart, and no number makes them equal."""
    found = miss(
        0.5 * X * (1.0 + tanh(0.7978845608028654 * (X + 0.044715 * X * X * X))), "gelu_erf"
    )

    assert found.reason == ""
    assert found.distance
    assert 1e-4 < found.distance < 4e-4


def test_a_number_of_the_instruction_may_be_the_reason() -> None:
    @instruction(unit="vector")
    def root_plus(x: "m"):  # type: ignore[no-untyped-def, name-defined]  # noqa: F821  # axes
        return sqrt(x * x + 1e-6) + exp(x)

    found = miss(sqrt(X * X) + exp(X), "root_plus", root_plus)

    assert found.reason == "its number 1e-06 would have to be 0"


@instruction(unit="vector")
def naive_softmax(x: "m n"):  # type: ignore[no-untyped-def, valid-type]  # noqa: F722  # axes
    weights = exp(x)
    return weights / sum(weights, "n")


def test_rows_that_are_fully_masked_are_the_reason() -> None:
    """Of -1e30 everywhere a safe softmax makes equal shares, a naive one 0 / 0."""
    weights = exp(X - max(X, "d"))
    found = miss(weights / sum(weights, "d"), "naive_softmax", naive_softmax)

    assert found.reason == "differs only in rows of x that are fully masked"


def triangle(seen: Node) -> Node:
    return cos(Input("row", ("s",))) * where(seen, SQUARE, 0.0)


@instruction(unit="vector")
def lower(x: "m n", row: "m"):  # type: ignore[no-untyped-def, name-defined, valid-type]  # noqa: F722, F821  # axes
    return cos(row) * where(position("m") >= position("n"), x, 0.0)


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (position("t") >= position("s"), "same but transposed: t and s trade places"),
        (
            position("s") > position("t"),
            "the model compares by greater, the instruction by greater_equal",
        ),
    ],
)
def test_other_positions_are_the_reason(seen: Node, reason: str) -> None:
    assert miss(triangle(seen), "lower", lower).reason == reason


def test_an_operand_that_would_have_to_be_a_number_is_the_reason() -> None:
    found = miss(norm(X, sqrt(VARIANCE + 1e-5)) * Y, "layer_norm")

    assert found.reason == "y would have to be 1"
    assert found.distance is None


def test_two_operands_that_would_have_to_be_one_are_the_reason() -> None:
    @instruction(unit="vector")
    def twisted(x: "m"):  # type: ignore[no-untyped-def, name-defined]  # noqa: F821  # axes
        return cos(x) * exp(x) + x

    found = miss(cos(X) * exp(Y) + X, "twisted", twisted)

    assert found.reason == "x and y would have to be one value"


def test_more_operands_are_the_reason() -> None:
    @instruction(unit="vector")
    def floored(x: "m n", low: "n"):  # type: ignore[no-untyped-def, name-defined, valid-type]  # noqa: F722, F821  # axes
        return cos(maximum(exp(x) + 2.0 * x, low))

    found = miss(cos(exp(X) + 2.0 * X), "floored", floored)

    assert found.reason == "needs 1 more operand: low (-inf would do)"


def test_axes_that_do_not_fit_are_the_reason() -> None:
    found = miss(triangle(position("t") >= 3), "lower", lower)

    assert found.reason == "axes do not fit: it computes with positions of 2, the model of 1"


def test_an_unstable_instruction_is_reported_as_such() -> None:
    """The difference of two means is all rounding where a row is far from zero."""

    @instruction(unit="vector")
    def spread(x: "m n"):  # type: ignore[no-untyped-def, valid-type]  # noqa: F722  # axes
        return mean(x * x, "n") - mean(x, "n") * mean(x, "n")

    found = miss(VARIANCE, "spread", spread)

    assert found.distance == 0.0
    assert found.reason.startswith("unstable: x near ")


def test_a_unit_that_the_machine_lacks_is_the_reason() -> None:
    @instruction(unit="photonic")
    def waves(x: "m"):  # type: ignore[no-untyped-def, name-defined]  # noqa: F821  # axes
        return cos(x) * exp(x)

    found = miss(cos(X) * exp(X), "waves", waves)

    assert found.reason == "it runs on unit 'photonic', which machine 'edge' lacks"


# ---------------------------------------------------------------- what covers what


def test_a_model_is_explained_by_instruction() -> None:
    found = explained(gelu(dot(X, Input("w", ("d", "n")), "d")), only="matmul gelu_erf", node=None)
    (graph,) = found.graphs
    rows = {row.instruction: row for row in graph.rows}

    assert (rows["matmul"].calls, rows["matmul"].nodes, rows["gelu_erf"].nodes) == (1, 1, 5)
    assert np.isclose(np.sum([row.share for row in graph.rows]), 1.0)
    assert rows["matmul"].cycles > 0
    assert rows["matmul"].proved + rows["matmul"].tested == 1
    assert (graph.fused.nodes, graph.simple.nodes) == (5, 1)
    assert (found.nodes, found.failure) == ((), None)
    assert "multiply" in found.unused["found, but others cost less"]


def node_report(found: Explanation) -> NodeReport:
    (report,) = found.nodes
    return report


def test_a_node_is_explained_by_its_call_and_what_lost() -> None:
    weight = Input("w", ("d", "n"))
    report = node_report(explained(gelu(dot(X, weight, "d")), only="matmul gelu_erf"))

    assert report.how == "computed by gelu_erf"
    assert report.covering is not None
    assert report.covering.binding == {"m": ("s", "n")}
    taken, *others = report.options
    assert (taken.instruction, taken.verdict, taken.nodes) == ("gelu_erf", "taken", 5)
    assert taken.operands == (("x", "matmul"),)
    assert {other.instruction for other in others} == {"multiply"}
    assert all(other.cycles > 0 and other.verdict == "costs more" for other in others)


def test_a_node_inside_of_a_match_says_in_which() -> None:
    inside = erf(X * 0.7071067811865475)
    made = model(0.5 * X * (1.0 + inside), {inside: "layer/erf"})
    library = {name: LIBRARY[name] for name in ("gelu_erf", "move")}
    report = node_report(explain(made, MACHINES["edge"], library, node="layer"))

    assert report.name == "layer/erf"
    assert report.how == "computed inside gelu_erf, which yields result"


def test_an_operator_of_several_nodes_is_explained_where_it_ends() -> None:
    inside = tanh(X)
    made = model(cos(inside + Y), {inside: "same", inside + Y: "same"})
    library = {name: LIBRARY[name] for name in ("cos", "tanh", "add", "move")}

    assert node_report(explain(made, MACHINES["edge"], library, node="same")).how.endswith("add")


def test_a_name_must_say_which_node() -> None:
    inside = X + Y
    made = model(cos(inside), {inside: "results", X: "input"})
    library = {name: LIBRARY[name] for name in ("cos", "add", "move")}

    def asked(node: str) -> Explanation:
        return explain(made, MACHINES["edge"], library, node=node)

    assert asked("results").nodes[0].how == "computed by add"
    with pytest.raises(CompileError) as ambiguous:
        asked("res")
    with pytest.raises(CompileError) as unknown:
        asked("inqut")

    assert str(ambiguous.value) == "node 'res': must be one of 'result', 'results'"
    assert "nothing in the model is called so; is 'input' meant?" in str(unknown.value)


def test_what_nothing_computes_is_explained_with_its_nearest_misses() -> None:
    library = {name: LIBRARY[name] for name in ("silu", "multiply", "move")}
    found = explain(model(-X * sigmoid(X)), MACHINES["edge"], library)

    assert found.failure is not None
    assert "computes a node: negate(x[s d])" in str(found.failure)
    assert found.graphs[0].uncovered == ("negate(x[s d])", "sigmoid(x[s d])")
    first, above, *_ = found.nodes
    assert (first.how, first.misses) == ("nothing computes it", ())
    assert above.name == "result"
    assert above.how == "not covered: nothing computes what it needs"
    assert above.misses[0].reason == "same but for a sign"


# ---------------------------------------------------------------- trust


@instruction(unit="vector")
def completed(x: "m"):  # type: ignore[no-untyped-def, name-defined]  # noqa: F821  # axes
    return (x + 8.0) * (x + 8.0) - 64.0


@pytest.mark.parametrize("trust", [Trust(budget=0.0), Trust(require="proved")])
def test_a_match_that_is_not_trusted_says_why(trust: Trust) -> None:
    report = node_report(explained(X * (X + 16.0), completed, trust=trust))
    (refused,) = [option for option in report.options if option.instruction == "completed"]

    if trust.require == "proved" and refused.stamp == "proved":
        assert refused.verdict == "taken"
    elif trust.require == "proved":
        assert refused.verdict == f"it is {refused.stamp}, not proved"
    else:
        assert refused.error > 0
        assert refused.verdict == f"its error of {refused.error:.2g} is over the budget of 0"


def test_builder_models_have_names() -> None:
    b = Builder("built")
    b.axis("s", 4)
    x = b.input("x", "s", (4,))
    b.graph("main").output("y", cos(x))
    found = explain(b.model(), MACHINES["edge"], LIBRARY, node="cos")

    assert node_report(found).how == "computed by cos"
