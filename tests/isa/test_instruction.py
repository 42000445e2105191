"""Instructions: what is traced, and what follows from the trace."""

from dataclasses import replace
from typing import Any

import pytest

from infinisa.isa.errors import LanguageError
from infinisa.isa.instruction import (
    ACCUMULATOR,
    Instruction,
    State,
    default_cycles,
    instruction,
    opaque,
    operations_of,
    parse_axes,
    step_of,
    trace,
    volume,
)
from infinisa.isa.language import (
    Affine,
    Immediate,
    Input,
    Node,
    argmax,
    dot,
    equal,
    exp,
    gather,
    maximum,
    mean,
    position,
    relu,
    scan,
    show,
    stack,
    sum,
    update,
    view,
    where,
)
from infinisa.isa.laws import Associative, LinearIn, StepOf
from infinisa.isa.machine import Unit

A, B, X = Input("a", ("m", "k")), Input("b", ("k", "n")), Input("x", ("m", "n"))


def made(*outputs: Node, operands: tuple[Input, ...] = (A, B), **more: Any) -> Instruction:
    return Instruction(name="it", unit="vector", operands=operands, outputs=outputs, **more)


def defined(function: Any, **axes: str) -> Any:
    """The function with its operands annotated, as in a plugin's file."""
    function.__annotations__ = axes
    return function


def refusal(make: Any) -> str:
    with pytest.raises(LanguageError) as caught:
        make()
    return str(caught.value)


# ---------------------------------------------------------------- tracing


def test_a_function_becomes_an_instruction() -> None:
    def squash(x: Any, cap: Any = 50.0) -> Any:
        """Soft-capped."""
        return cap * exp(x / cap)

    traced = instruction(unit="vector", tile={"m": 16}, cycles="m + 12", latency="m")(
        defined(squash, x="m n: bf16")
    )

    assert str(traced) == (
        "squash(x[m n: bf16]) = multiply(#cap=50.0, exp(divide(x[m n: bf16], #cap=50.0))) on vector"
    )
    assert traced.immediates == (Immediate("cap", 50.0),)
    assert traced.documentation == "Soft-capped."
    assert traced.source.lstrip().startswith("def squash(")
    assert traced.occupancy is not None
    assert traced.latency is not None
    assert traced.occupancy({"m": 4}) == 16
    assert traced.latency({"m": 4}) == 4


def test_an_operand_may_be_a_state() -> None:
    def step(x: Any, total: Any) -> Any:
        return total + sum(x, "n")

    law = StepOf("whole", "n", "finish")
    traced = instruction(unit="vector", state={"total": 0.0}, step_of=law, name="fold")(
        defined(step, x="m n", total="m")
    )

    assert traced.name == "fold"
    assert traced.operands == (X,)
    assert traced.states == (State(Input("total", ("m",)), 0.0),)
    assert traced.laws == (law,)
    assert traced.reduced == {"n"}


def test_by_linearity_a_step_adds_up_whole_results() -> None:
    """Two sums over k, of which the trace makes no accumulation."""
    law = LinearIn("b", "k")
    body = defined(lambda a, b: dot(a, b, "k") - sum(b, "k"), a="m k", b="k n")
    made_ = instruction(unit="matrix", linear_in=law, name="it")(body)

    step, finish = step_of(made_)

    assert made_.accumulation is None
    assert made_.accumulates
    assert made_.reduced == {"k"}
    assert "k" not in made_.whole
    assert finish is None
    assert step.states == (State(Input(ACCUMULATOR, ("m", "n")), 0.0),)
    assert show(step.outputs[0]).startswith("add(accumulator[m n], subtract(dot(")
    assert instruction(unit="matrix", name="it")(body).whole == {"k"}


def test_laws_that_say_nothing_are_refused() -> None:
    body = defined(lambda x, total: total + sum(x, "n"), x="m n", total="m")
    combine, linear = Associative("combine", "r"), LinearIn("x", "n")
    alone = instruction(unit="vector", state={"total": 0.0}, associative=combine, name="it")
    stepwise = instruction(unit="vector", state={"total": 0.0}, linear_in=linear, name="it")

    assert refusal(lambda: alone(body)) == (
        "instruction 'it': associative needs step_of, which says what the states are of"
    )
    assert refusal(lambda: stepwise(body)) == (
        "instruction 'it': linear_in must be of an instruction with one result and without states"
    )


@pytest.mark.parametrize(
    ("law", "text"),
    [
        (StepOf("whole", "n", "end"), "folded over tiles of n, then end, it is whole"),
        (Associative("join", "r"), "states of separate runs along r combine by join"),
        (LinearIn("b", "k"), "linear in b: results over pieces of k add up"),
    ],
)
def test_a_law_reads_as_a_sentence(law: StepOf | Associative | LinearIn, text: str) -> None:
    assert str(law) == text


def test_a_definition_is_refused_with_what_is_wrong() -> None:
    def bare(x: Any) -> Any:
        return x

    bare.__annotations__ = {}
    wrong = instruction(unit="vector")
    assert refusal(lambda: wrong(bare)) == (
        "instruction 'bare': operand 'x': must be annotated with its axes, such as 'm n'"
    )
    assert refusal(lambda: wrong(defined(lambda x: 2.0, x="m"))) == (
        "instruction '<lambda>': must return tensors, not float"
    )
    stated = instruction(unit="vector", state={"y": 0.0}, name="s")
    assert refusal(lambda: stated(defined(lambda x: x, x="m"))) == (
        "instruction 's': state 'y' is not an operand"
    )
    assert refusal(lambda: parse_axes("m 2", "here")) == "here: axis must be a name, not '2'"


def test_annotations_are_axes_and_a_type() -> None:
    assert parse_axes("m n", "") == (("m", "n"), "f32")
    assert parse_axes("s: i32", "") == (("s",), "i32")
    assert parse_axes(": u8", "") == ((), "u8")


def test_an_operand_without_axes_is_annotated_with_none() -> None:
    function = defined(lambda x, rows: x * rows, x="", rows="m")
    (x, rows), _, _ = trace(function, "scaled")

    assert (x.axes, rows.axes) == ((), ("m",))


def test_annotations_may_be_postponed() -> None:
    """`from __future__ import annotations` puts the text in quotes once more."""
    (operand,), immediates, (output,) = trace(defined(lambda x, y=1: x + y, x="'m n'"), "f")

    assert operand == X
    assert immediates == (Immediate("y", 1),)
    assert show(output) == "add(x[m n], #y=1)"


def test_a_body_becomes_an_opaque_instruction() -> None:
    def pick(x: Any, found: Any) -> Any:
        return 1

    made_ = opaque(unit="text", results={"found": "s: i32"}, sets=("count",), cycles="s * 3")(
        defined(pick, x="n: u8")
    )

    assert made_.opaque
    assert made_.operands == (Input("x", ("n",), "u8"),)
    assert made_.results == (Input("found", ("s",), "i32"),)
    assert made_.sets == ("count",)
    assert made_.whole == {"n", "s"}
    assert made_.indexed == {"n", "s"}
    assert str(made_) == "pick(x[n: u8]) = opaque on text"


def test_a_meaning_is_what_is_computed_not_what_it_is_called() -> None:
    one, same = made(dot(A, B, "k")), replace(made(dot(A, B, "k")), name="other", unit="matrix")
    others = [
        made(relu(dot(A, B, "k"))),
        made(dot(A, B, "k"), states=(State(X, 0.0),)),
        made(dot(A, Input("b", ("k", "n"), "bf16"), "k"), operands=(A,)),
    ]

    assert one.meaning == same.meaning
    assert len({one.meaning, *(other.meaning for other in others)}) == 4
    assert len(one.meaning) == 16


# ---------------------------------------------------------------- axes


def test_a_window_hides_the_axis_it_reads() -> None:
    """h is read only as 2*p + r - 1: loops run over p and r instead."""
    x, weight = Input("x", ("c", "h")), Input("w", ("c", "r"))
    convolution = made(
        dot(view(x, {"h": "2*p + r - 1"}, fill=0.0), weight, over="c r"), operands=(x, weight)
    )

    assert convolution.windows == {("x", "h"): Affine((("p", 2), ("r", 1)), -1)}
    assert convolution.axes == ("c", "r", "p")
    assert convolution.reduced == {"c", "r"}
    assert convolution.whole == frozenset()
    assert convolution.indexed == {"h", "p", "r"}


@pytest.mark.parametrize(
    "index", [{"h": 3}, {"h": "p // 2"}, {"h": "p % 2"}], ids=["number", "quotient", "remainder"]
)
def test_only_a_sum_of_strides_is_a_window(index: dict[str, str]) -> None:
    x = Input("x", ("h",))

    assert made(view(x, index), operands=(x,)).windows == {}


def test_an_operand_read_in_two_ways_has_no_window() -> None:
    x = Input("x", ("h",))
    twice = made(view(x, {"h": "p"}) + view(x, {"h": "p + 1"}), operands=(x,))

    assert twice.windows == {}
    assert twice.whole == {"h", "p"}


READ, BESIDE = Input("x", ("h",)), Input("y", ("h",))
WINDOW = view(READ, {"h": "p"})


@pytest.mark.parametrize(
    "more",
    [
        BESIDE,
        view(BESIDE, {"h": "p + 1"}),
        sum(BESIDE, "h"),
        sum(position("h"), "h"),
        scan(lambda s, x: ([s + x], [s]), {"s": sum(BESIDE, "h")}, {"x": BESIDE}, "h")[0][0],
    ],
    ids=["beside it", "in another window", "in a fold", "in a position", "in a recurrence"],
)
def test_an_axis_that_something_else_has_is_no_window(more: Node) -> None:
    """A piece of p says which positions of x there are, but not which others."""
    one = made(WINDOW * more, operands=(READ, BESIDE))
    two = made(WINDOW, more, operands=(READ, BESIDE))

    assert one.windows == two.windows == {}
    assert {"h", "p"} <= one.whole


def test_operands_may_share_a_window() -> None:
    both = made(WINDOW * view(BESIDE, {"h": "p"}), operands=(READ, BESIDE))

    assert both.windows == {("x", "h"): Affine((("p", 1),)), ("y", "h"): Affine((("p", 1),))}
    assert both.whole == frozenset()


def test_an_operand_that_is_a_result_as_well_has_no_window() -> None:
    assert made(WINDOW, READ, operands=(READ,)).windows == {}


def test_sums_under_element_wise_functions_go_in_pieces() -> None:
    bias = Input("bias", ("n",))

    assert made(relu(dot(A, B, "k") + bias)).reduced == {"k"}
    assert made(relu(dot(A, B, "k") + bias)).whole == frozenset()
    assert made(sum(X, "n"), operands=(X,)).reduced == {"n"}


@pytest.mark.parametrize(
    "output",
    [
        argmax(X, "n"),
        X / sum(X, "n"),
        sum(exp(X - sum(X, "n")), "n"),
        stack([sum(X, "n"), sum(X, "n")], "g"),
        sum(X, "n") + position("n"),
    ],
    ids=["argmax", "the axis again", "two sums", "stacked", "its position"],
)
def test_other_folds_need_their_axes_whole(output: Node) -> None:
    fold = made(output, operands=(X,))

    assert fold.reduced == frozenset()
    assert "n" in fold.whole
    assert refusal(lambda: step_of(fold)) == "instruction 'it' has no axis that goes in pieces"


def test_an_axis_that_an_index_is_computed_with_is_whole() -> None:
    """A piece of a reversed axis is not the reverse of a piece."""
    index, value = Input("i", ("s",), "i32"), Input("v", ("s", "n"))
    turned = sum(view(X, {"n": "7 - n"}) * 1.0 + view(X, {"n": 0}), "n")

    assert made(turned, operands=(X,)).reduced == frozenset()
    assert made(turned, operands=(X,)).whole == {"n"}
    assert made(gather(X, index, "m"), operands=(X, index)).whole == {"m"}
    assert made(update(X, value, {"m": "s + 1"}), operands=(X, value)).whole == {"m", "s"}
    assert made(stack([X, X], "g"), operands=(X,)).whole == {"g"}


def test_what_a_recurrence_folds_inside_is_whole() -> None:
    """h = h W over k, step by step along t: t and k are whole, rows b are not."""
    h, w, x = Input("h", ("b", "n")), Input("w", ("k", "n")), Input("x", ("t", "b", "n"))

    def step(h: Node, x: Node) -> tuple[list[Node], list[Node]]:
        return [dot(view(h, {"n": "k"}), w, over="k") + x], []

    (end,), _ = scan(step, {"h": h}, {"x": x}, "t")
    cell = made(end, operands=(h, w, x))

    assert cell.whole == {"t", "k", "n"}
    assert cell.reduced == frozenset()
    assert "b" in cell.axes


def test_a_state_that_lacks_an_axis_of_another_needs_it_whole() -> None:
    """One more turn over n would add to the total of m once more."""
    total, parts = Input("total", ("m",)), Input("parts", ("m", "n"))
    states = (State(total, 0.0), State(parts, 0.0))
    step = made(total + 1.0, parts + X, operands=(X,), states=states)

    assert step.whole == {"n"}


# ---------------------------------------------------------------- pieces


def test_a_contraction_in_pieces_is_a_step_and_nothing_more() -> None:
    step, finish = step_of(made(dot(A, B, "k")))

    assert finish is None
    assert step.name == "it.step"
    assert show(step.outputs[0]) == (f"add({ACCUMULATOR}[m n], dot(a[m k], b[k n], over=k))")
    assert step.states == (State(Input(ACCUMULATOR, ("m", "n")), 0.0),)


def test_what_comes_after_a_sum_is_its_finish() -> None:
    bias = Input("bias", ("n",))
    whole = made(
        relu(dot(A, B, "k") + bias), operands=(A, B, bias), tile=(("m", 16), ("k", "depth"))
    )

    step, finish = step_of(whole)

    assert finish is not None
    assert (step.name, finish.name) == ("it.step", "it.finish")
    assert [leaf.name for leaf in step.operands] == ["a", "b"]
    assert [leaf.name for leaf in finish.operands] == [ACCUMULATOR, "bias"]
    assert show(finish.outputs[0]) == f"maximum(add({ACCUMULATOR}[m n], bias[n]), 0.0)"
    assert finish.tile == (("m", 16),)


def test_a_maximum_starts_at_minus_infinity() -> None:
    from infinisa.isa.language import max as largest

    step, _ = step_of(made(largest(X, "n"), operands=(X,)))

    assert step.states[0].initial == float("-inf")
    assert show(step.outputs[0]).startswith("maximum(accumulator[m], ")


# ---------------------------------------------------------------- cost

MATRIX = {"rows": 4, "columns": 8, "depth": 64}
LENGTHS = {"m": 10, "k": 9, "n": 20}


@pytest.mark.parametrize(
    ("dataflow", "cycles"),
    [("output", 3 * 3 * 9), ("weight", 3 * 3 * 10), ("input", 3 * 2 * 20)],
)
def test_a_product_takes_an_array_tile_after_tile(dataflow: str, cycles: int) -> None:
    """Ten rows on four are three tiles; the axis that streams counts whole. What the last tile
    needs to come in (4 rows of weights) and to leave (4 + 8 - 2) is latency."""
    unit = Unit(name="matrix", kind="matrix", attributes=MATRIX, dataflow=dataflow)
    late = 10 if dataflow == "output" else 14

    assert default_cycles(made(dot(A, B, "k")), unit, LENGTHS) == (cycles, late)


def test_what_is_not_a_product_takes_lanes() -> None:
    unit = Unit(name="vector", kind="vector", attributes={"lanes": 16})

    added = made(X + X, operands=(X,))
    moved = made(view(X, {"m": "p"}), operands=(X,))
    multiplied = made(dot(A, B, "k"))

    assert default_cycles(added, unit, LENGTHS) == (13, 0)  # 200 elements on 16 lanes
    assert default_cycles(moved, unit, {"p": 10, "n": 20}) == (13, 0)
    assert default_cycles(multiplied, unit, LENGTHS) == (2 * 1800 // 16, 0)


def test_operations_are_counted_by_axes() -> None:
    """1800 multiply-adds, and the addition and the maximum of 200 results."""
    fused = made(relu(dot(A, B, "k") + 1.0))

    assert fused.operations(LENGTHS) == 2 * 1800 + 2 * 200
    assert operations_of(fused.outputs).count(LENGTHS) == ([(1, 10, 9, 20)], 400)
    assert volume(("m", "other"), LENGTHS) == 10


def test_shared_axes_are_batches() -> None:
    q, k = Input("q", ("h", "s", "d")), Input("k", ("h", "t", "d"))

    products, _ = operations_of([dot(q, k, "d")]).count({"h": 2, "s": 3, "t": 5, "d": 7})

    assert products == [(2, 3, 7, 5)]


def test_a_recurrence_counts_each_step() -> None:
    (end,), _ = scan(
        lambda h, x: ([h + x], []), {"h": Input("h", ("n",))}, {"x": Input("x", ("t", "n"))}, "t"
    )

    assert operations_of([end]).count({"t": 5, "n": 3}) == ([], 15)


def test_a_step_of_a_recurrence_waits_for_the_one_before() -> None:
    """Two operations on 3 elements are a cycle of 16 lanes, and 4 until they are visible; all
    results of a recurrence are one."""
    x, h = Input("x", ("t", "n")), Input("h", ("n",))
    states, emits = scan(lambda h, x: ([h * 0.5 + x], [h]), {"h": h}, {"x": x}, "t")
    unit = Unit(name="vector", kind="vector", attributes={"lanes": 16, "latency": 4})

    assert default_cycles(made(*states, *emits), unit, {"t": 5, "n": 3}) == (5 * (1 + 4), 0)


def test_functions_have_their_own_cost() -> None:
    assert operations_of([exp(X)]).count(LENGTHS) == ([], 8 * 200)
    assert operations_of([mean(X, "n")]).count(LENGTHS) == ([], 200 + 4 * 10)
    assert operations_of([maximum(1.0, Immediate("y", 2.0))]).count(LENGTHS) == ([], 0)


def test_limits_are_numbers_or_attributes() -> None:
    unit = Unit(name="matrix", kind="matrix", attributes=MATRIX, dataflow="output")
    tiled = made(dot(A, B, "k"), tile=(("m", "rows"), ("k", 6)))

    assert tiled.limits(unit, {"m": 3, "k": 9, "n": 20}) == {"m": 3, "k": 6, "n": 20}
    wrong = made(dot(A, B, "k"), tile=(("m", "lanes"),))
    assert refusal(lambda: wrong.limits(unit, LENGTHS)) == (
        "instruction 'it': tile limit 'lanes' of axis 'm' must be a number or an attribute of unit "
        "'matrix'"
    )


# ---------------------------------------------------------------- what an author may override

LEAKY = made(maximum(X, 0.1 * X), operands=(X,), immediates=(Immediate("slope", 0.1),))


def test_a_timing_may_be_a_function() -> None:
    """It gives another instruction: the first keeps the derived timing."""
    timed = LEAKY.timing(lambda_of_two)

    assert (LEAKY.occupancy, LEAKY.latency) == (None, None)
    assert timed.occupancy is not None
    assert timed.latency is not None
    assert timed.occupancy({"m": 10, "n": 4, "lanes": 16}) == 3
    assert timed.latency({"m": 10, "n": 4, "lanes": 16}) == 9
    assert timed.meaning == LEAKY.meaning


def lambda_of_two(m: int, n: int, lanes: int) -> tuple[float, float]:
    rows = m * n / lanes
    return rows, rows + 6


def test_a_gradient_may_be_a_function() -> None:
    """Names that the definition does not have are the gradients of the outputs."""
    own = LEAKY.gradient(lambda g, x, slope: maximum(g, slope * g)).adjoint

    assert own is not None
    assert own.cotangents == (Input("g", ("m", "n")),)
    assert [show(node) for node in own.gradients] == [
        "maximum(g[m n], multiply(#slope=0.1, g[m n]))"
    ]
    assert LEAKY.adjoint is None
    assert made(dot(A, B, "k")).gradient(lambda g, a, b: (dot(g, b, "n"), dot(a, g, "m"))).adjoint


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            lambda x: x,
            "must take a gradient for each of 1 outputs besides x, slope, not (x)",
        ),
        (lambda x, g: [g, g], "must return one for each of 1 operands, not 2"),
        (lambda x, g: 3, "of 'x' must be a tensor over (m n), not 3"),
        (lambda x, g: g * A, "of 'x' must be a tensor over (m n), not (m n k)"),
    ],
)
def test_a_gradient_fits_the_definition(function: Any, message: str) -> None:
    assert refusal(lambda: LEAKY.gradient(function)) == f"instruction 'it': gradient: {message}"


def test_what_is_opaque_has_no_gradient() -> None:
    blind = opaque(unit="text", results={"out": "m"})(defined(lambda x, out: None, x="m"))

    assert refusal(lambda: blind.gradient(lambda x, g: g)) == (
        f"instruction {blind.name!r}: gradient: must be of a tensor function, not opaque"
    )


def test_a_kernel_says_by_name_what_it_takes() -> None:
    counted = made(where(equal(X, position("e")), 1.0, 0.0), operands=(X,))
    own = counted.kernel(lambda m, e_start, x, out, e: None).native

    assert own is not None
    assert own.parameters == (
        ("length", "m"), ("start", "e"), ("operand", "x"), ("result", "out"), ("length", "e"),
    )  # fmt: skip
    assert counted.native is None
    assert counted.kernel(lambda x, out: None).meaning == counted.meaning


def test_a_kernel_takes_an_array_for_each_output() -> None:
    assert refusal(lambda: LEAKY.kernel(lambda x, slope: None)) == (
        "instruction 'it': kernel: must take an array for each of 1 outputs besides m, n, slope, "
        "x, not (x, slope)"
    )
    blind = opaque(unit="text", results={"out": "m"})(defined(lambda x, out: None, x="m"))
    assert refusal(lambda: blind.kernel(lambda x, out: None)) == (
        f"instruction {blind.name!r}: kernel: must be of a tensor function, not opaque"
    )


def test_a_kernel_computes_steps_of_what_is_a_fold_and_nothing_else() -> None:
    """A step of relu(dot(a, b)) is no relu."""
    product = made(dot(A, B, "k")).kernel(lambda a, b, c: None)
    step, finish = step_of(product)
    assert (step.native and step.native.combine, finish) == ("add", None)

    step, finish = step_of(made(relu(dot(A, B, "k"))).kernel(lambda a, b, c: None))
    assert finish is not None
    assert (step.native, finish.native) == (None, None)


def test_an_encoding_gives_immediates_types() -> None:
    fine = made(maximum(X, X * Immediate("slope", 0.5)), operands=(X,),
                immediates=(Immediate("slope", 0.5),))  # fmt: skip
    typed = fine.encoding(defined(lambda slope: None, slope="bf16"))

    assert (fine.formats, typed.formats) == ((), (("slope", "bf16"),))
    assert typed.meaning == fine.meaning
    assert typed.held({"slope": 0.25, "other": 0.1}) == {"slope": 0.25, "other": 0.1}
    assert typed.held({"slope": 0.1}) is None


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (defined(lambda x: None, x="bf16"), "'x' must be an immediate (slope)"),
        (
            lambda slope: None,
            "immediate 'slope': must be annotated with its element type, such as 'bf16'",
        ),
        (
            defined(lambda slope: None, slope="bf16"),
            "immediate 'slope' must be of a type that holds its default 0.1, not bf16",
        ),
    ],
)
def test_an_encoding_fits_the_definition(function: Any, message: str) -> None:
    assert refusal(lambda: LEAKY.encoding(function)) == f"instruction 'it': encoding: {message}"
