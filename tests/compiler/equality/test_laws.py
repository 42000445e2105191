"""Laws: those of the built-in instructions hold, wrong ones are refuted with the place."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from infinisa.compiler.builder import Builder
from infinisa.compiler.equality.laws import Refuted, Verified, must_hold, verify_law
from infinisa.compiler.selection.cover import cover
from infinisa.isa import formulas
from infinisa.isa.errors import CompileError
from infinisa.isa.instruction import Instruction, State, instruction
from infinisa.isa.language import dot, exp, max, maximum, sum
from infinisa.isa.laws import Associative, Law, LinearIn, StepOf
from infinisa.isa.machine import builtin_machine_files, load_machine
from infinisa.plugins.families import attention
from infinisa.plugins.manager import load
from tests.compiler.selection.test_cover import LIBRARY, agree, attention_model, used

MACHINES = {file.stem: load_machine(file) for file in builtin_machine_files()}
BUILT_IN = load(installed=False).library
DECLARED = [(each, law) for each in BUILT_IN.values() for law in each.laws]
SUM = StepOf("reduce_sum", "n", "move")


def defined(body: Any, axes: Mapping[str, str], **more: Any) -> Instruction:
    body.__annotations__ = dict(axes)
    return instruction(unit="vector", **more)(body)


def refuted(step: Instruction, law: Law, **library: Instruction) -> Refuted:
    found = verify_law(step, law, {**BUILT_IN, **library})
    assert isinstance(found, Refuted)
    return found


# ---------------------------------------------------------------- laws that hold


@pytest.mark.parametrize(
    ("made", "law"), DECLARED, ids=[f"{made.name}-{type(law).__name__}" for made, law in DECLARED]
)
def test_the_laws_of_built_in_instructions_hold(made: Instruction, law: Law) -> None:
    found = verify_law(made, law, BUILT_IN)

    assert isinstance(found, Verified)
    assert found.points > 400


def test_there_are_laws_of_every_attention() -> None:
    wholes = {law.whole for _, law in DECLARED if isinstance(law, StepOf)}

    assert wholes == {"attention", "causal_attention", "masked_attention"}


ZERO_POINT = defined(
    lambda a, b, zero: dot(a, b, "k") - zero * sum(b, "k"),
    {"a": "m k", "b": "k n", "zero": "m"},
    linear_in=LinearIn("b", "k"),
    name="zero_point",
    tile={"k": 16},
)
"""Two sums over k: the trace alone does not show that pieces of k add up."""


def test_linearity_takes_an_instruction_apart_that_the_trace_does_not() -> None:
    assert ZERO_POINT.accumulation is None
    assert ZERO_POINT.reduced == {"k"}
    b = Builder("zero")
    b.axis("s", 9)
    x, w = b.input("x", "s d", (9, 80)), b.input("w", "d n", (80, 20))
    z = b.input("z", "s", (9,))
    b.graph("main").output("y", dot(x, w, "d") - z * sum(w, "d"))

    (covered,) = agree(b.model(), library={"zero_point": ZERO_POINT})

    assert used([covered]) == ["zero_point.step"]
    assert covered.calls[0].limits["d"] == 16


# ---------------------------------------------------------------- laws that do not


def flash(formula: Any, **more: Any) -> Instruction:
    """A step of attention with another formula."""

    def step(q: Any, k: Any, v: Any, top: Any, total: Any, weighted: Any, scale: Any = 1.0) -> Any:
        return formula(dot(q, k, "d") * scale, v, top, total, weighted)

    axes = {"q": "s d", "k": "t d", "v": "t e", "top": "s", "total": "s", "weighted": "s e"}
    law = StepOf(more.pop("whole", "attention"), "t", "flash_finish")
    return defined(step, axes, state=more.pop("state", attention.START), step_of=law, **more)


def without_decay(scores: Any, v: Any, top: Any, total: Any, weighted: Any) -> Any:
    highest = maximum(top, max(scores, "t"))
    weights = exp(scores - highest)
    return highest, total + sum(weights, "t"), weighted + dot(weights, v, "t")


def without_maximum(scores: Any, v: Any, top: Any, total: Any, weighted: Any) -> Any:
    weights = exp(scores)
    return top, total + sum(weights, "t"), weighted + dot(weights, v, "t")


def right(scores: Any, v: Any, top: Any, total: Any, weighted: Any) -> Any:
    return formulas.flash_step(scores, v, "t", top, total, weighted)


def test_a_step_that_forgets_to_rescale_is_refuted_with_the_place() -> None:
    found = refuted(flash(without_decay), StepOf("attention", "t", "flash_finish"))

    assert found.reason == "does not hold"
    assert found.where.startswith("at s=0, e=0 'attention' is ")
    assert "tiles of (1, 1, 1, 1, 1, 1, 1)" in found.where


def test_a_step_that_overflows_is_refuted_at_large_scores_only() -> None:
    found = refuted(flash(without_maximum), StepOf("attention", "t", "flash_finish"))

    assert "nan" in found.where or "inf" in found.where or "f32" in found.reason
    assert "scale 0.8" not in found.where


def test_a_step_that_starts_wrongly_is_refuted() -> None:
    """The maximum from 0: right only while some score is not far below 0."""
    wrong = flash(right, state={"top": 0.0, "total": 0.0, "weighted": 0.0})

    assert refuted(wrong, StepOf("attention", "t", "flash_finish")).reason.startswith("does not")


def test_a_step_without_the_mask_is_refuted() -> None:
    step = BUILT_IN["flash_step"]

    found = refuted(step, StepOf("causal_attention", "t", "flash_finish"))

    assert found.reason == "does not hold"


def test_a_step_that_is_lost_in_a_masked_row_is_refuted() -> None:
    """-inf - -inf is NaN: right for all rows that see a key in every tile."""

    def careless(scores: Any, v: Any, top: Any, total: Any, weighted: Any) -> Any:
        highest = maximum(top, max(scores, "t"))
        weights, decay = exp(scores - highest), exp(top - highest)
        after = total * decay + sum(weights, "t")
        return highest, after, weighted * decay + dot(weights, v, "t")

    def step(
        q: Any, k: Any, v: Any, mask: Any, top: Any, total: Any, weighted: Any, scale: Any = 1.0
    ) -> Any:
        return careless(dot(q, k, "d") * scale + mask, v, top, total, weighted)

    law = StepOf("masked_attention", "t", "flash_finish")
    axes = {"q": "s d", "k": "t d", "v": "t e", "mask": "s t", "top": "s", "total": "s",
            "weighted": "s e"}  # fmt: skip
    made = defined(step, axes, state=attention.START, step_of=law)

    assert "-inf in places" in refuted(made, law).where


def test_states_that_are_combined_without_rescaling_are_refuted() -> None:
    wrong = defined(
        lambda top, total, weighted: (max(top, "r"), sum(total, "r"), sum(weighted, "r")),
        {"top": "r s", "total": "r s", "weighted": "r s e"},
        name="wrong_combine",
    )

    found = refuted(BUILT_IN["flash_step"], Associative("wrong_combine", "r"), wrong_combine=wrong)

    assert found.reason == "does not hold"


@pytest.mark.parametrize(
    ("law", "reason"),
    [
        (LinearIn("a", "k"), "does not hold"),  # a - zero is not linear in a
        (LinearIn("zero", "k"), "needs an operand 'zero' with axis 'k'"),
        (LinearIn("b", "n"), "needs a result without axis 'n'"),
    ],
)
def test_what_is_not_linear_is_refuted(law: LinearIn, reason: str) -> None:
    assert refuted(ZERO_POINT, law).reason == reason


@pytest.mark.parametrize(
    ("law", "reason"),
    [
        (StepOf("attention", "s", "flash_finish"), "needs an axis 's' that 'attention' ends"),
        (StepOf("attention", "t", "nothing"), "names 'nothing', which is not in the library"),
        (
            StepOf("reduce_sum", "n", "flash_finish"),
            "operand 'q' of 'flash_step' must be one of x, with the same axes",
        ),
    ],
)
def test_a_law_that_says_nothing_is_refuted(law: StepOf, reason: str) -> None:
    assert refuted(BUILT_IN["flash_step"], law).reason == reason


# ---------------------------------------------------------------- before they are used


def test_a_model_is_not_compiled_by_a_law_that_does_not_hold() -> None:
    library = dict(LIBRARY)
    wrong = flash(without_decay, whole="causal_attention", name="causal_flash_step")
    tile = tuple(attention.TILE.items())
    library["causal_flash_step"] = replace(wrong, unit="matrix", tile=tile)
    model = attention_model(50)

    with pytest.raises(CompileError) as caught:
        cover(model, model.graphs[0], MACHINES["tiny"], library)

    assert str(caught.value).startswith(
        "instruction 'causal_flash_step': law 'folded over tiles of t, then flash_finish, it is "
        "causal_attention' does not hold (at s=0, e=0 'causal_attention' is "
    )


def test_what_is_known_of_a_law_follows_the_meanings() -> None:
    """The same law of a step with another meaning is asked anew."""
    law = StepOf("attention", "t", "flash_finish")
    step = BUILT_IN["flash_step"]
    must_hold(step, law, BUILT_IN)
    states = tuple(State(state.input, 0.0) for state in step.states)

    with pytest.raises(CompileError):
        must_hold(replace(step, states=states), law, BUILT_IN)
