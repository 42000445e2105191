"""Simulations that cannot go on, or should not: who is at fault, where and when."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
import simpy

from infinisa.isa.errors import SimulationError
from infinisa.isa.instruction import Instruction
from infinisa.isa.language import Input, relu
from infinisa.isa.machine import Channel, Machine
from infinisa.isa.program import Count, Parameter, Program, Repeat
from infinisa.isa.timing import Timing
from infinisa.runtime.simulator import Entry, Interrupted, Steps, Unit, simulate
from tests.runtime.builder import LIBRARY, Builder, machine
from tests.runtime.test_policies import chain

WORK = chain(("positive", "a", "b"), ("positive", "b", "c"))


def refusal(program: Program, target: Machine, **more: object) -> str:
    with pytest.raises(SimulationError) as error:
        simulate(program, LIBRARY, target, **more)  # type: ignore[arg-type]  # passed on
    return str(error.value)


# ---------------------------------------------------------------- a plugin's processes


def doubled(unit: Unit) -> Steps:
    """Takes twice the time, and has the results at once."""
    while True:
        entry = yield from unit.take()
        if entry.transfer:
            yield unit.transfer(entry)
        yield unit.wait(2 * entry.shape.occupancy)
        unit.land(entry, 0)
        unit.release(entry)


def lazy(unit: Unit) -> Steps:
    """Takes an issue and never ends it."""
    yield unit.inbox


def halving(unit: Unit) -> Steps:
    yield from unit.take()
    yield unit.wait(5)
    yield simpy.Timeout(unit.core.run.clock, 2.5)


def backwards(unit: Unit) -> Steps:
    yield from unit.take()
    yield unit.wait(-3)


PROCESSES = {process.__name__: process for process in (doubled, lazy, halving, backwards)}
ORIGINS = {("units", name): "mine" for name in PROCESSES}


def test_a_process_of_a_plugin_stands_in_for_a_unit() -> None:
    """12 cycles each; the second waits for the first. What is beyond its work waits for DRAM."""
    report = simulate(WORK, LIBRARY, machine(process="doubled"), trace=True, processes=PROCESSES)

    assert [(event.start, event.free, event.done) for event in report.events] == [
        (0, 12, 12),
        (12, 24, 24),
    ]
    for row in report.stalls:
        assert sum(row.shares().values()) == pytest.approx(1)


def test_a_process_that_nobody_brings_is_refused() -> None:
    assert refusal(WORK, machine(process="magic"), processes=PROCESSES) == (
        "machine 'plain': units.vector.process must be one of doubled, lazy, halving, backwards, "
        "not 'magic'"
    )
    assert refusal(WORK, machine(process="magic")) == (
        "machine 'plain': units.vector.process must be what a plugin brings, and none does, "
        "not 'magic'"
    )


def test_a_stuck_simulation_says_who_waits_for_what() -> None:
    program = chain(
        ("positive", "x", "y"), ("matrix_positive", "y", "z"), ("positive", "w", "y"),
        ("quick", "x", "w"),
    )  # fmt: skip

    assert refusal(program, machine(process="lazy"), processes=PROCESSES, origins=ORIGINS) == (
        "stage 'stage0' of section 'main' is stuck at cycle 0: "
        "core 0: #0 positive on vector, started at 0, waits for its end; "
        "core 0: #1 matrix_positive on matrix waits for slot 0 of place 1 ('y') held by #0 "
        "positive; "
        "core 0: #2 positive on vector waits for slot 0 of place 1 ('y') held by #1 "
        "matrix_positive; "
        "core 0: #3 quick on vector waits for slot 0 of place 3 ('w') held by #2 positive; "
        "vector is process 'lazy' of plugin 'mine'"
    )


@pytest.mark.parametrize(
    ("process", "cycle", "fault"),
    [
        ("halving", 5, "waits until cycle 7.5, which is no whole number"),
        ("backwards", 0, "raised ValueError: Negative delay -3"),
    ],
)
def test_a_time_that_is_no_cycle_names_process_issue_and_cycle(
    process: str, cycle: int, fault: str
) -> None:
    assert refusal(WORK, machine(process=process), processes=PROCESSES, origins=ORIGINS) == (
        f"unit vector 0 of core 0, process {process!r} of plugin 'mine', at #0 positive "
        f"in cycle {cycle}: {fault}"
    )


# ---------------------------------------------------------------- a plugin's channels


class Toll:
    """As many cycles as alone and 10 more, all transfers at once."""

    def __init__(self, environment: simpy.Environment, machine: Machine) -> None:
        self.environment, self.busy = environment, 0

    def transfer(self, entry: Entry) -> simpy.Event:
        self.busy += entry.transfer
        return self.environment.timeout(entry.transfer + 10)


class Ragged(Toll):
    def transfer(self, entry: Entry) -> simpy.Event:
        return self.environment.timeout(entry.transfer / 3)


def loading() -> Program:
    build = Builder()
    build.tensor("a", 4)
    build.tile("p", 4)
    return build.program([build.load("p", "a")])


def test_a_channel_of_a_plugin_times_the_transfers() -> None:
    target = machine(channel=Channel(sharing="toll"))

    assert simulate(loading(), LIBRARY, target, channels={"toll": Toll}).cycles == 4 + 10 + 5


def test_a_channel_that_ends_between_cycles_is_named() -> None:
    target = machine(channel=Channel(sharing="ragged"))
    origins = {("memories", "ragged"): "mine"}

    assert refusal(loading(), target, channels={"ragged": Ragged}, origins=origins) == (
        "unit load 0 of core 0, channel 'ragged' of plugin 'mine', at #0 load in cycle 0: "
        f"waits until cycle {4 / 3}, which is no whole number"
    )


# ---------------------------------------------------------------- costs of instructions


@pytest.mark.parametrize(
    ("occupancy", "latency", "what", "cycles"),
    [("0", "4", "its unit", 0), ("m - 9", "4", "its unit", -5), ("4", "0 * m", "its results", 0)],
)
def test_an_instruction_that_takes_no_time_is_refused(
    occupancy: str, latency: str, what: str, cycles: int
) -> None:
    """The second issue, fetched in cycle 8, when the first has left the window of one."""
    x = Input("x", ("m",))
    free = Instruction(
        name="free",
        unit="vector",
        operands=(x,),
        outputs=(relu(x),),
        occupancy=Timing(occupancy),
        latency=Timing(latency),
    )
    library = {**LIBRARY, "free": free}
    build = Builder(library=library)
    build.axis("m", 4)
    for name in "abc":
        build.tile(name, 4)
    program = build.program(
        [build.issue("positive", ["a"], ["b"]), build.issue("free", ["b m"], ["c m"], "m=m")]
    )
    origins = {("instructions", "free"): "mine"}
    with pytest.raises(SimulationError) as error:
        simulate(program, library, machine(window=1), origins=origins)

    assert str(error.value) == (
        f"instruction 'free' of plugin 'mine': {what} must take a whole number of cycles, at least "
        f"1, not {cycles}, over m=4, in cycle 8"
    )


# ---------------------------------------------------------------- Ctrl-C


def stopping(at: int) -> object:
    """A policy during which the user presses Ctrl-C, the `at`-th time that it is asked."""
    asked: list[int] = []

    def policy(ready: Sequence[Entry]) -> int:
        asked.append(len(ready))
        if len(asked) == at:
            raise KeyboardInterrupt
        return 0

    return policy


def turning() -> Program:
    """Three turns of a stage that takes 8 cycles and works on 5 tokens."""
    build = Builder()
    build.tile("x", 4)
    build.tile("y", 4)
    build.parameters += [Parameter("i", 100, 0, given=False)]
    use = build.issue("positive", ["x"], ["y"])
    program = build.program([use, use], repeat=Repeat("i", Count(3)))
    (section,) = program.sections
    return replace(program, sections=(replace(section, tokens=Count(5)),))


def test_an_interrupted_simulation_has_what_ran() -> None:
    """Traced, so that each turn of two issues is simulated: 6 and 8 cycles. The fourth choice is
    the second of the second turn: its first issue has run 6 cycles."""
    with pytest.raises(Interrupted) as stop:
        simulate(turning(), LIBRARY, machine(), policy=stopping(4), trace=True)  # type: ignore[arg-type]  # any function
    report = stop.value.report

    assert report.partial
    assert report.cycles == 14 + 6
    section = report.section("main")
    assert (section.turn_cycles, section.turn_tokens) == ((14, 6), (5, 0))
    assert [row.issues for row in report.opcodes] == [4]
    for row in report.stalls:
        assert sum(row.shares().values()) == pytest.approx(1)
    assert "interrupted" in str(report)


def test_a_simulation_that_ends_is_whole() -> None:
    report = simulate(turning(), LIBRARY, machine())

    assert not report.partial
    assert "interrupted" not in str(report)


def test_nothing_is_said_of_sections_that_did_not_begin() -> None:
    def progress(section: str, turn: int, count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(Interrupted) as stop:
        simulate(turning(), LIBRARY, machine(), progress=progress)

    assert (stop.value.report.cycles, stop.value.report.partial) == (0, True)
    assert isinstance(stop.value.report.plain(), Mapping)
