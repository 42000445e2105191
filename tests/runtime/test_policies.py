"""Which issue starts next and on which unit, to the cycle; and choices that are none."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infinisa.isa.errors import SimulationError
from infinisa.isa.program import Program
from infinisa.runtime.simulator import POLICIES, Entry, Policy, Report, simulate
from tests.runtime.builder import LIBRARY, Builder, machine

Step = tuple[str, str, str]
"""An instruction, the tile that it reads, the one that it writes."""


def chain(*steps: Step) -> Program:
    build = Builder()
    for name in dict.fromkeys(tile for _, *tiles in steps for tile in tiles):
        build.tile(name, 4)
    return build.program([build.issue(name, [x], [y]) for name, x, y in steps])


def starts(report: Report) -> list[int]:
    """The cycle in which each issue started, in program order."""
    return [event.start for event in sorted(report.events, key=lambda event: event.number)]


def refusal(program: Program, policy: Policy | Callable[..., Any], vectors: int = 1) -> str:
    with pytest.raises(SimulationError) as error:
        simulate(program, LIBRARY, machine(vectors=vectors), policy=policy)
    return str(error.value)


# The second reads what matrix gives at 14; the third could start at once.
OVERTAKING = chain(("matrix_positive", "a", "b"), ("positive", "b", "c"), ("quick", "d", "e"))
APART = chain(("quick", "a", "b"), ("slow", "c", "d"), ("positive", "e", "f"), ("quick", "g", "h"))


def test_in_order_lets_no_issue_of_a_class_overtake() -> None:
    """Other classes go on: matrix starts at 0. `quick` starts when `positive` frees the unit."""
    oldest = simulate(OVERTAKING, LIBRARY, machine(), policy="oldest", trace=True)
    in_order = simulate(OVERTAKING, LIBRARY, machine(), policy="in_order", trace=True)

    assert starts(oldest) == [0, 14, 0]
    assert starts(in_order) == [0, 14, 20]


def test_in_order_starts_several_a_cycle_on_like_units() -> None:
    report = simulate(OVERTAKING, LIBRARY, machine(vectors=2), policy="in_order", trace=True)

    assert starts(report) == [0, 14, 14]


def test_shortest_and_longest_go_by_work() -> None:
    """quick, slow and quick work 2 cycles, positive 6; results of one unit land in order."""
    shortest = simulate(APART, LIBRARY, machine(), policy="shortest", trace=True)
    longest = simulate(APART, LIBRARY, machine(), policy="longest", trace=True)

    assert starts(shortest) == [0, 2, 6, 4]
    assert starts(longest) == [6, 8, 0, 10]


def test_the_critical_path_goes_first() -> None:
    """The third gives what matrix takes 14 cycles with; it has height 4 + 14 against 8 and 4."""
    program = chain(
        ("positive", "a", "b"),
        ("quick", "c", "d"),
        ("quick", "e", "f"),
        ("matrix_positive", "f", "g"),
    )
    report = simulate(program, LIBRARY, machine(), policy="critical_path", trace=True)

    assert starts(report) == [2, 8, 0, 4]
    assert report.cycles == 18
    assert simulate(program, LIBRARY, machine()).cycles == 26


def test_the_height_of_a_chain_is_the_sum_of_its_latencies() -> None:
    """Of three in a row 4 + 20 + 8, seen by a key that is told."""
    seen: list[dict[str, int]] = []

    def watching(number: int, height: int, latency: int, work: int, waited: int) -> int:
        seen.append({"number": number, "height": height, "latency": latency, "waited": waited})
        return number

    program = chain(("quick", "a", "b"), ("slow", "b", "c"), ("positive", "c", "d"))
    simulate(program, LIBRARY, machine(), policy=watching)

    assert seen == [
        {"number": 0, "height": 32, "latency": 4, "waited": 0},
        {"number": 1, "height": 28, "latency": 20, "waited": 0},
        {"number": 2, "height": 8, "latency": 8, "waited": 0},
    ]


def test_load_balancing_gives_work_to_the_least_busy_of_the_free() -> None:
    """Both are free when the third comes, after `matrix`: the first has worked 6, the second 2."""
    steps = (
        ("positive", "a", "b"),
        ("quick", "c", "d"),
        ("matrix_positive", "e", "f"),
        ("quick", "f", "g"),
    )
    target = machine(vectors=2)
    balanced = simulate(chain(*steps), LIBRARY, target, policy="load_balancing", trace=True)
    oldest = simulate(chain(*steps), LIBRARY, target, trace=True)

    assert [event.instance for event in oldest.events if event.unit == "vector"] == [0, 1, 0]
    assert [event.instance for event in balanced.events if event.unit == "vector"] == [0, 1, 1]


def test_a_key_is_asked_with_the_integers_that_it_names() -> None:
    def patient(waited: int, number: int) -> int:
        return -(100 * waited + number)

    report = simulate(APART, LIBRARY, machine(), policy=patient, trace=True)

    assert starts(report) == [10, 8, 2, 0]
    assert report.policy == "patient"


def test_a_free_policy_is_any_function_of_the_ready_issues() -> None:
    def last(ready: Sequence[Entry]) -> int:
        return len(ready) - 1

    assert starts(simulate(APART, LIBRARY, machine(), policy=last, trace=True)) == [10, 8, 2, 0]


def test_a_free_policy_may_choose_the_unit_too() -> None:
    def second(ready: Sequence[Entry], free: Sequence[int]) -> tuple[int, int]:
        return 0, free[-1]

    report = simulate(APART, LIBRARY, machine(vectors=2), policy=second, trace=True)

    assert [(event.start, event.instance) for event in report.events][:2] == [(0, 1), (0, 0)]


@pytest.mark.parametrize(
    ("choice", "fault"),
    [
        (
            (0, 0),
            "gives #1 slow to vector 0, which is not free; free are 1",
        ),
        (
            7,
            "must choose one of 3 ready issues (#1 slow, #2 positive, #3 quick) by its position "
            "from 0, not 7",
        ),
        (
            "first",
            "must choose one of 3 ready issues (#1 slow, #2 positive, #3 quick) by its position "
            "from 0, not 'first'",
        ),
    ],
)
def test_a_choice_that_is_none_names_policy_issue_and_cycle(choice: object, fault: str) -> None:
    def wrong(ready: Sequence[Entry], free: Sequence[int]) -> object:
        return 0 if len(free) == 2 else choice

    policy = Policy("wrong", free=wrong, plugin="mine")  # type: ignore[arg-type]  # the fault at hand

    assert refusal(APART, policy, vectors=2) == (
        f"policy 'wrong' of plugin 'mine' in cycle 0: {fault}"
    )


def test_a_key_that_is_no_integer_or_raises_is_refused() -> None:
    def half(work: int) -> float:
        return work / 2

    def broken(work: int) -> int:
        return 1 // (work - 2)

    assert refusal(APART, half) == (
        "policy 'half' in cycle 0: half of #0 quick must be an integer, not 1.0"
    )
    assert refusal(APART, broken) == (
        "policy 'broken' in cycle 0: broken of #0 quick raised ZeroDivisionError: "
        "integer division or modulo by zero"
    )


def test_a_key_of_something_unknown_is_refused() -> None:
    def odd(size: int) -> int:
        return size

    assert refusal(APART, odd) == (
        "policy 'odd': parameter 'size' of odd must be one of "
        "number, occupancy, transfer, work, latency, height, waited"
    )


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["quick", "slow", "positive", "matrix_positive"]),
        st.sampled_from("abcdef"),
        st.sampled_from("abcdef"),
    ),
    min_size=1,
    max_size=12,
)


@given(
    STEPS,
    st.sampled_from(list(POLICIES)),
    st.integers(1, 3),
    st.integers(1, 6),
    st.sampled_from([0, 2, 8, 16]),
)
def test_a_policy_changes_the_order_and_never_what_runs(
    steps: list[Step], policy: str, vectors: int, window: int, banks: int
) -> None:
    """Every issue runs once, no two at once on a unit, and the accounts still add up."""
    target = machine(vectors=vectors, window=window, banks=banks)
    report = simulate(chain(*steps), LIBRARY, target, policy=policy, trace=True)

    assert sorted(event.number for event in report.events) == list(range(len(steps)))
    held: dict[tuple[str, int], int] = {}
    for event in report.events:
        assert event.start >= held.get((event.unit, event.instance), 0)
        held[event.unit, event.instance] = event.free
    for row in report.stalls:
        assert row.busy + sum(row.data.values()) + row.queue + row.issue + row.idle == report.cycles
