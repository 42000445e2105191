"""What is looked for: an instruction with all operands, and with some that do nothing."""

from __future__ import annotations

import pytest

from infinisa.compiler.equality.pattern import (
    EXPONENTIAL,
    LOGARITHM,
    Pattern,
    bit,
    feature,
    features_of,
    kind,
    patterns,
    told_apart,
)
from infinisa.isa.instruction import Instruction
from infinisa.isa.language import (
    Input,
    Node,
    apply,
    argmax,
    cast,
    dot,
    equal,
    exp,
    log,
    max,
    position,
    sqrt,
    sum,
)
from infinisa.plugins.families import tokenization
from tests.compiler.finding import LIBRARY

X = Input("x", ("m", "n"))


def looked_for(*names: str) -> list[Pattern]:
    return patterns(tuple(LIBRARY[name] for name in names))


def ways(name: str) -> list[str]:
    """The operands that are leaves in each pattern of an instruction."""
    return list(dict.fromkeys(str(pattern) for pattern in looked_for(name)))


def test_operands_that_are_only_added_or_multiplied_may_do_nothing() -> None:
    assert ways("layer_norm") == [
        "layer_norm(x, weight, bias)",
        "layer_norm(x, bias)",
        "layer_norm(x, weight)",
        "layer_norm(x)",
    ]
    assert ways("masked_attention") == [
        "masked_attention(q, k, v, mask)",
        "masked_attention(q, k, v)",
    ]
    assert ways("softmax") == ["softmax(x)"]


def test_what_does_nothing_is_a_number() -> None:
    (without,) = (p for p in looked_for("layer_norm")[:8] if p.operands == (0,))

    assert without.neutral == {1: 1.0, 2: 0.0}


def test_of_a_single_operation_nothing_would_be_left() -> None:
    assert [p.neutral for p in looked_for("add")] == [{}, {}]
    assert [p.operands for p in looked_for("matmul")] == [(0, 1)]


def test_one_value_may_be_both_operands() -> None:
    both, same = looked_for("multiply")

    assert (both.operands, dict(both.again)) == ((0, 1), {})
    assert (same.operands, dict(same.again)) == ((0,), {1: 0})
    assert str(same.local.root) == "multiply(x0[a0: f64], x0[a0: f64])"


def test_the_main_result_is_the_first_that_all_operands_go_into() -> None:
    """The sum of a residual norm lacks the weight; so does the cell of an LSTM the exit gate."""
    norm, cell = looked_for("residual_rms_norm")[0], looked_for("lstm_cell")[0]

    assert (norm.output, list(norm.others)) == (1, [0])
    assert str(norm.others[0]) == "add(x0[a0 a1: f64], x1[a0 a1: f64])"
    assert (cell.output, list(cell.others)) == (0, [1])


def test_names_are_split_where_their_roles_differ() -> None:
    """A rotation reads its pairs along p and puts the results along p: one axis or two."""
    first, second = looked_for("rope_by_table")[:2]

    assert (len(first.local.axes), len(second.local.axes)) == (4, 3)


def test_opaque_instructions_and_steps_are_not_looked_for() -> None:
    opaque = tuple(made for made in tokenization.infinisa_instructions() if made.opaque)
    assert opaque

    assert patterns(opaque) == []
    assert looked_for("flash_step", "causal_flash_step") == []


def test_an_instruction_without_an_output_of_all_operands_is_not_looked_for() -> None:
    x, y = Input("x", ("m",)), Input("y", ("m",))
    apart = Instruction(name="apart", unit="vector", operands=(x, y), outputs=(exp(x), exp(y)))

    assert patterns((apart,)) == []


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (X + X, ""),
        (max(X, "n"), ""),
        (X**2.0, ""),
        (X**0.3, "root"),
        (sqrt(X), "root"),
        (exp(X), "exponential"),
        (apply("tanh", X), "exponential"),
        (apply("erf", X), "erf"),
        (sum(X, "n"), "sum"),
        (dot(X, X, "n"), "sum"),
        (argmax(X, "n"), "argmax"),
        (cast(X, "bf16"), ""),
        (cast(X, "i8"), "cast"),
        (apply("logical_not", equal(X, 0.0)), "logic"),
        (apply("logical_not", equal(position("m"), 0)), ""),
        (cast(equal(X, 0.0), "f32"), "cast"),
        (cast(equal(position("m"), 0), "f32"), ""),
    ],
)
def test_kinds_are_what_no_other_algebra_replaces(node: Node, expected: str) -> None:
    assert kind(node) == expected
    assert feature(node) == bit(expected)


def test_a_logarithm_beside_an_exponential_may_be_undone() -> None:
    features = features_of([exp(X), log(X), sqrt(X)])

    assert features == EXPONENTIAL | LOGARITHM | bit("root")
    assert told_apart(features) == EXPONENTIAL | bit("root")
    assert told_apart(LOGARITHM) == LOGARITHM


def test_features_are_those_of_the_whole_formula() -> None:
    assert {p.features for p in looked_for("softmax")} == {bit("exponential") | bit("sum")}
    assert {p.features for p in looked_for("rms_norm")} == {bit("root") | bit("sum")}


def test_both_terms_of_a_sum_that_is_folded_are_not_neutral_together() -> None:
    """Of the sum over n nothing would be left to fold; each alone is left out."""
    residual, weight = Input("residual", ("m", "n")), Input("weight", ("n", "k"))
    total = X + residual
    made = Instruction(
        name="summed",
        unit="matrix",
        operands=(X, residual, weight),
        outputs=(dot(total * total, weight, "n") + sum(total, "n"),),
    )

    found = {pattern.operands for pattern in patterns((made,))}

    assert found == {(0, 1, 2), (0, 2), (1, 2)}
