"""An instruction that is a whole recurrence is found where a model computes it, and only there."""

from __future__ import annotations

from builtins import sum as sum_of
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeAlias

import pytest

from infinisa.compiler.builder import Builder
from infinisa.compiler.explanation.explain import explain
from infinisa.compiler.graph import Model
from infinisa.compiler.pipeline import Compilation, compile_model
from infinisa.compiler.selection.match import Match
from infinisa.isa.instruction import Instruction, instruction
from infinisa.isa.language import (
    Constant,
    Input,
    Map,
    Node,
    Scan,
    Value,
    dot,
    exp,
    rename,
    scan,
    sigmoid,
    substitute,
    sum,
    tanh,
    walk,
)
from tests.compiler.everywhere import (
    LIBRARY,
    MACHINES,
    agree_everywhere,
    cycles,
    instructions,
    random,
)
from tests.compiler.finding import holds, of

Results: TypeAlias = tuple[list[Node], list[Node]]
Step: TypeAlias = Callable[..., tuple[Sequence[Value], Sequence[Value]]]


@instruction(unit="vector")
def delta_rule(q: "t d", k: "t d", v: "t e", beta: t):  # type: ignore[no-untyped-def, name-defined, valid-type]  # noqa: F722, F821  # axes
    """A linear memory that is corrected towards each value."""

    def step(memory: Node, q: Node, k: Node, v: Node, beta: Node):  # type: ignore[no-untyped-def]  # of a definition
        memory = memory + k * (v - dot(memory, k, over="d")) * beta
        return (memory,), (dot(memory, q, over="d"),)

    slices = {"q": q, "k": k, "v": v, "beta": beta}
    _, (read,) = scan(step, {"memory": 0.0}, slices, "t", axes={"memory": "d e"})
    return read


@instruction(unit="vector")
def kalman(x: "t n", level: n, process=0.01, noise=1.0):  # type: ignore[no-untyped-def, name-defined, valid-type]  # noqa: F722, F821  # axes
    """A level that is observed with noise: each estimate, the last, and how sure that one is."""

    def step(level: Node, spread: Node, x: Node):  # type: ignore[no-untyped-def]  # of a definition
        gain = (spread + process) / (spread + process + noise)
        level = level + gain * (x - level)
        return (level, (1.0 - gain) * (spread + process)), (level,)

    start = {"level": level, "spread": 1.0}
    (last, spread), (levels,) = scan(step, start, {"x": x}, "t", axes={"spread": "n"})
    return levels, last, spread


@instruction(unit="vector")
def elman(x: "t m", w: "m k", h: m):  # type: ignore[no-untyped-def, name-defined, valid-type]  # noqa: F722, F821  # axes
    """A simple recurrent network behind its input weights."""

    def step(h: Node, x: Node):  # type: ignore[no-untyped-def]  # of a definition
        h = tanh(x + dot(w, rename(h, {"m": "k"}), over="k"))
        return (h,), (h,)

    return scan(step, {"h": h}, {"x": x}, "t")[1][0]


@instruction(unit="vector")
def selective(x: "t d", delta: "t d", a: "d n", b: "t n", c: "t n"):  # type: ignore[no-untyped-def, valid-type]  # noqa: F722  # axes
    """The scan of a selective state space model."""

    def step(h: Node, x: Node, delta: Node, b: Node, c: Node):  # type: ignore[no-untyped-def]  # of a definition
        h = exp(delta * a) * h + delta * x * b
        return (h,), (dot(h, c, over="n"),)

    slices = {"x": x, "delta": delta, "b": b, "c": c}
    return scan(step, {"h": 0.0}, slices, "t", axes={"h": "d n"})[1][0]


def with_one(made: Instruction, model: Model, machine: str = "datacenter") -> Compilation:
    """The model compiled with one instruction more, once all backends agree."""
    return agree_everywhere(model, MACHINES[machine], {**LIBRARY, made.name: made})


def taken(made: Instruction, model: Model) -> Match | None:
    """The match of an instruction in a model, if it is taken; all backends agree."""
    done = with_one(made, model)
    matches = (match for each in done.coverage.values() for match in each.matches)
    return next((match for match in matches if match.instruction is made), None)


# ---------------------------------------------------------------- models


def corrected(h: Node, a: Node, value: Node, query: Node, key: Node) -> Results:
    """The delta rule in other words and another order."""
    h = h + (value - sum(h * key, "n")) * (key * a)
    return [h], [sum(h * query, "n")]


def memory(step: Step, heads: int = 0, start: float = 0.0, reverse: bool = False) -> Model:
    """A recurrence of a memory (p, n) over 12 steps."""
    b = Builder("memory")
    head, count = ("g ", (heads,)) if heads else ("", ())
    query = b.input("query", head + "s n", (*count, 12, 8))
    key = b.input("key", head + "s n", (*count, 12, 8)) * 0.3
    value = b.input("value", head + "s p", (*count, 12, 4))
    rate = b.input("rate", head + "s", (*count, 12))
    for axis, length in (("s", 12), ("n", 8), ("p", 4), *(("g", n) for n in count)):
        b.axis(axis, length)
    slices = {"a": rate, "value": value, "query": query, "key": key}
    _, (read,) = scan(step, {"h": start}, slices, "s", reverse, axes={"h": head + "p n"})
    b.graph("main").output("read", read)
    return b.model()


def filtered(
    process: float = 0.02,
    noise: float = 0.5,
    spread: float = 1.0,
    results: str = "every last",
    step: Step | None = None,
    reverse: bool = False,
) -> Model:
    """A Kalman filter: the spread first, the gain as another quotient."""
    b = Builder("filter")
    x = b.input("observed", "g s u", (2, 12, 8))
    level = b.input("level", "g u", (2, 8))
    for axis, length in (("g", 2), ("s", 12), ("u", 8)):
        b.axis(axis, length)

    def usual(p: Node, m: Node, z: Node) -> Results:
        before = p + process
        gain = 1.0 / (1.0 + noise / before)
        after = m * (1.0 - gain) + gain * z
        return [before * (1.0 - gain), after], [after]

    (p, last), (every,) = scan(
        step or usual, {"p": spread, "m": level}, {"z": x}, "s", reverse, axes={"p": "u"}
    )
    graph = b.graph("main")
    for name, value in {"every": every, "last": last, "spread": p}.items():
        if name in results.split():
            graph.output(name, value)
    return b.model()


# ---------------------------------------------------------------- what is found


@pytest.mark.parametrize("heads", [0, 3])
def test_a_delta_rule_is_found_in_other_words(heads: int) -> None:
    """Heads are a loop outside: each has a memory of its own."""
    match = taken(delta_rule, memory(corrected, heads))

    assert match is not None
    assert match.binding == {"t": ("s",), "d": ("n",), "e": ("p",)}
    assert match.loops == (("g",) if heads else ())
    assert match.stamp == "proved"


def test_numbers_are_solved_and_states_may_be_in_another_order() -> None:
    match = taken(kalman, filtered())

    assert match is not None
    assert match.immediates == {"process": 0.02, "noise": 0.5}
    assert match.binding["n"] == ("g", "u")
    assert [root is not None for root in match.roots] == [True, True, False]


@pytest.mark.parametrize("results", ["every", "last", "spread", "spread every", "last spread"])
def test_a_model_may_use_any_of_the_results(results: str) -> None:
    """That of the spread alone does not depend on what is observed: it is another recurrence."""
    match = taken(kalman, filtered(results=results))

    assert (match is None) == (results == "spread")


def test_a_filter_whose_numbers_all_have_another_scale_is_the_same_filter() -> None:
    """The gain is a quotient: half the spread, half the noise, half the process are one filter."""
    match = taken(kalman, filtered(0.02, 0.5, 0.5))

    assert match is not None
    assert match.immediates == {"process": 0.04, "noise": 1.0}


def test_a_recurrent_network_whose_state_has_another_axis_than_its_result() -> None:
    """The model renames what a step yields, the instruction what it reads; the start is read under
    the name of the results."""
    b = Builder("network")
    x, start = b.input("x", "s g u", (9, 2, 8)), b.input("start", "g v", (2, 8))
    w = b.weight("w", "v u", random(8, 8))
    for axis, length in (("s", 9), ("g", 2), ("u", 8), ("v", 8)):
        b.axis(axis, length)

    def step(h: Node, x: Node) -> Results:
        after = tanh(dot(h, w, "v") + x)
        return [rename(after, {"u": "v"})], [after]

    _, (every,) = scan(step, {"h": start}, {"x": x}, "s")
    b.graph("main").output("every", every)

    match = taken(elman, b.model())

    assert match is not None
    assert match.binding == {"t": ("s",), "m": ("u",), "k": ("v",)}


def state_space(sign: float = 1.0) -> Model:
    """A selective scan whose rates are computed from a weight."""
    b = Builder("space")
    x, delta = b.input("x", "g s u", (2, 10, 6)), b.input("delta", "g s u", (2, 10, 6))
    into, out = b.input("into", "g s w", (2, 10, 4)), b.input("out", "g s w", (2, 10, 4))
    rates = -exp(b.weight("rates", "u w", random(6, 4)))
    for axis, length in (("g", 2), ("s", 10), ("u", 6), ("w", 4)):
        b.axis(axis, length)

    def step(h: Node, x: Node, dt: Node, i: Node, o: Node) -> Results:
        h = h * exp(rates * dt) + sign * (x * i * dt)
        return [h], [sum(h * o, "w")]

    slices = {"x": x, "dt": sigmoid(delta), "i": into, "o": out}
    _, (y,) = scan(step, {"h": 0.0}, slices, "s", axes={"h": "g u w"})
    b.graph("main").output("y", y)
    return b.model()


def test_a_selective_scan_is_found_although_it_could_go_in_chunks() -> None:
    match = taken(selective, state_space())

    assert match is not None
    assert match.stamp == "proved"


def test_one_value_may_be_two_operands() -> None:
    def step(h: Node, a: Node, value: Node, key: Node) -> Results:
        return corrected(h, a, value, key, key)

    b = Builder("shared")
    key, value = b.input("key", "s n", (12, 8)) * 0.3, b.input("value", "s p", (12, 4))
    rate = b.input("rate", "s", (12,))
    for axis, length in (("s", 12), ("n", 8), ("p", 4)):
        b.axis(axis, length)
    slices = {"a": rate, "value": value, "key": key}
    _, (read,) = scan(step, {"h": 0.0}, slices, "s", axes={"h": "p n"})
    b.graph("main").output("read", read)

    match = taken(delta_rule, b.model())

    assert match is not None
    assert match.leaves[0] is match.leaves[1]


def test_a_start_that_is_a_number_is_an_operand_that_is_a_number() -> None:
    b = Builder("from zero")
    x = b.input("x", "s u", (12, 8))
    for axis, length in (("s", 12), ("u", 8)):
        b.axis(axis, length)

    def step(p: Node, m: Node, z: Node) -> Results:
        gain = (p + 0.01) / (p + 0.01 + 1.0)
        return [(1.0 - gain) * (p + 0.01), m + gain * (z - m)], [m + gain * (z - m)]

    start = {"p": 1.0, "m": 0.0}
    _, (every,) = scan(step, start, {"z": x}, "s", axes={"p": "u", "m": "u"})
    b.graph("main").output("every", every)

    match = taken(kalman, b.model())

    assert match is not None
    assert match.leaves[1] == Constant(0.0)


# ---------------------------------------------------------------- what is not


def added(h: Node, a: Node, value: Node, query: Node, key: Node) -> Results:
    h = h + (value + sum(h * key, "n")) * (key * a)
    return [h], [sum(h * query, "n")]


def decayed(h: Node, a: Node, value: Node, query: Node, key: Node) -> Results:
    h = 0.99 * h + (value - sum(h * key, "n")) * (key * a)
    return [h], [sum(h * query, "n")]


def late(h: Node, a: Node, value: Node, query: Node, key: Node) -> Results:
    after = h + (value - sum(h * key, "n")) * (key * a)
    return [after], [sum(h * query, "n")]


@pytest.mark.parametrize("step", [added, decayed, late])
def test_a_step_that_differs_a_little_is_another_recurrence(step: Step) -> None:
    assert taken(delta_rule, memory(step)) is None


def test_another_start_or_direction_is_another_recurrence() -> None:
    assert taken(delta_rule, memory(corrected, start=0.1)) is None
    assert taken(delta_rule, memory(corrected, reverse=True)) is None
    assert taken(kalman, filtered(reverse=True)) is None
    assert taken(kalman, filtered(0.02, 0.5, 0.5, "every spread")) is None
    assert taken(selective, state_space(-1.0)) is None


def changed(twin: Scan) -> Iterator[Scan]:
    """A recurrence with one thing in it changed: an operation, a number, a state, the direction, a
    start."""
    body, cut = twin.body, len(twin.body.next)
    roots = (*body.next, *body.emits)
    for node in walk(roots):
        others: list[Node] = [node * 0.9] if node in body.states else []
        match node:
            case Map("add" | "subtract" | "multiply" | "divide", arguments):
                others = [Map("subtract", arguments), Map("divide", arguments[::-1])]
            case Map("exp" | "tanh" | "sigmoid" as function, arguments):
                others = [Map("tanh" if function != "tanh" else "sigmoid", arguments)]
            case Constant(value):
                others = [Constant(value * 1.5), Constant(value + 1.0)]
        for other in others:
            made = substitute(roots, {node: other})
            yield replace(twin, body=replace(body, next=made[:cut], emits=made[cut:]))
    yield replace(twin, body=replace(body, reverse=True))
    yield replace(twin, initial=tuple(x * 0.9 + 0.2 for x in twin.initial))


def taught(p: Node, m: Node, z: Node) -> Results:
    before = p + 0.02
    after = m * (1.0 - before / (before + 0.5)) + before / (before + 0.5) * z
    return [before * (1.0 - before / (before + 0.5)), after], [after]


def alike(h: Node, x: Node) -> Results:
    h = tanh(x + dot(W, rename(h, {"d": "e"}), "e"))
    return [h], [h]


M, H, Z, X = Input("m", ("n",)), Input("h", ("d",)), Input("z", ("s", "n")), Input("x", ("s", "d"))
W = Input("w", ("d", "e"))


@pytest.mark.parametrize(
    ("made", "whole"),
    [
        (kalman, scan(taught, {"p": 1.0, "m": M}, {"z": Z}, "s", axes={"p": "n"})[1][0]),
        (elman, scan(alike, {"h": H}, {"x": X}, "s")[1][0]),
    ],
    ids=["kalman", "elman"],
)
def test_what_is_found_of_a_recurrence_with_a_change_is_true(
    made: Instruction, whole: Scan
) -> None:
    """Other numbers are solved; most changes are of something else. The states are called as the
    values that they start as."""
    assert of(made, whole)
    found = [of(made, each) for each in changed(whole)]

    assert all(holds(match) for some in found for match in some)
    assert sum_of(not some for some in found) > len(found) / 2


# ---------------------------------------------------------------- what is taken, and why


def test_one_call_takes_the_place_of_one_for_each_operation_and_step() -> None:
    model = memory(corrected)
    whole, steps = with_one(delta_rule, model), compile_model(model, MACHINES["edge"], LIBRARY)

    assert instructions(whole) == ["scale", "delta_rule"]
    assert {call.scan for each in whole.covered for call in each.calls} == {None}
    assert {call.scan for each in steps.covered for call in each.calls} == {None, "s"}


def test_the_price_decides() -> None:
    """One that takes as long for each element as a step takes on the machine is not taken."""

    @delta_rule.timing
    def slow(t, d, e):  # type: ignore[no-untyped-def]  # it is read as text
        return t * d * e * 100

    model = memory(corrected)
    quick = with_one(delta_rule, model)

    assert taken(slow, model) is None
    assert cycles(quick) < cycles(with_one(slow, model))


@pytest.mark.parametrize(("steps", "fits"), [(100_000, True), (200_000, False)])
def test_what_does_not_fit_on_the_chip_goes_step_by_step(steps: int, fits: bool) -> None:
    """A call sees all steps, of one filter at a time if need be: the chip holds 1 MB, and what is
    observed and the estimates are 4 bytes a step each."""
    b = Builder("long")
    x, level = b.input("x", "s u", (steps, 8)), b.input("level", "u", (8,))
    for axis, length in (("s", steps), ("u", 8)):
        b.axis(axis, length)

    def step(p: Node, m: Node, z: Node) -> Results:
        gain = (p + 0.01) / (p + 0.01 + 1.0)
        return [(1.0 - gain) * (p + 0.01), m + gain * (z - m)], [m + gain * (z - m)]

    start: dict[str, Value] = {"p": 1.0, "m": level}
    _, (every,) = scan(step, start, {"z": x}, "s", axes={"p": "u"})
    b.graph("main").output("every", every)

    done = compile_model(b.model(), MACHINES["edge"], {**LIBRARY, "kalman": kalman})

    assert ("kalman" in instructions(done)) == fits


def test_an_instruction_that_is_less_precise_is_refused() -> None:
    """It adds what it then takes off again."""

    @instruction(unit="vector", name="kalman")
    def rough(x: "t n", level: n, process=0.01, noise=1.0):  # type: ignore[no-untyped-def, name-defined, valid-type]  # noqa: F722, F821  # axes
        def step(level: Node, spread: Node, x: Node):  # type: ignore[no-untyped-def]  # of a definition
            gain = (spread + process) / (spread + process + noise)
            level = (level + gain * (x - level) + 1e5) - 1e5
            return (level, (1.0 - gain) * (spread + process)), (level,)

        start = {"level": level, "spread": 1.0}
        _, (levels,) = scan(step, start, {"x": x}, "t", axes={"spread": "n"})
        return levels

    assert taken(rough, filtered(results="every")) is None


def test_explain_shows_it_like_any_other_match() -> None:
    library = {**LIBRARY, "delta_rule": delta_rule}

    found = explain(memory(corrected), MACHINES["datacenter"], library, node="delta_rule")

    (report,) = found.nodes
    assert report.how == "computed by delta_rule"
    (option,) = report.options
    assert (option.instruction, option.verdict, option.stamp) == ("delta_rule", "taken", "proved")
    assert dict(option.operands)["q"] == "query"
