"""The engines agree to the cycle: simpy, the kernel in CPython, the kernel compiled; whether what
loops repeat is left out or not."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from infinisa.isa.errors import SimulationError
from infinisa.isa.language import relu
from infinisa.isa.machine import Machine
from infinisa.isa.program import Loop, Program, extents
from infinisa.runtime.simulator import POLICIES, Event, Report, simulate
from infinisa.runtime.simulator.compiled_engine import CompiledEngine
from infinisa.runtime.simulator.policy import Policy
from infinisa.runtime.simulator.shapes import Costs, View
from infinisa.runtime.simulator.simpy_engine import Unit
from infinisa.runtime.simulator.specialised import MODULES
from tests.runtime.builder import LIBRARY, Builder, X, machine, made
from tests.runtime.programs import RANDOM_LIBRARY, nest, random_machine, random_program

seeds = some.integers(0, 2**32)
policies = some.sampled_from([*POLICIES, "oldest", "oldest"])
MACHINES = [
    random_machine(Random(seed), cores) for seed, cores in ((0, 1), (9, 1), (6, 2), (3, 3), (8, 1))
]
"""Few, since the kernel is compiled for each: with banks, links and rows, and without."""


def times(events: Sequence[Event]) -> list[tuple[object, ...]]:
    """All of events but what they were of, which engines do not decide."""
    return [
        (e.core, e.number, e.start, e.free, e.done, e.fetched, e.ready, e.holder, e.unit,
         e.instance, e.read, e.written)
        for e in events
    ]  # fmt: skip


def both(program: Program, target: Machine, engine: str, policy: str = "oldest") -> Report:
    """The report of an engine, after checking that simpy gives the same, with a trace and
    without."""
    theirs = simulate(
        program, RANDOM_LIBRARY, target, engine="simpy", policy=policy, trace=True, path=True
    )
    mine = simulate(
        program, RANDOM_LIBRARY, target, engine=engine, policy=policy, trace=True, path=True
    )
    plain = simulate(program, RANDOM_LIBRARY, target, engine=engine, policy=policy)

    assert times(mine.events) == times(theirs.events)
    assert [e.ranges for e in mine.events] == [e.ranges for e in theirs.events]
    assert replace(mine, engine="simpy", events=()) == replace(theirs, events=())
    assert (plain.cycles, plain.stalls, plain.opcodes) == (mine.cycles, mine.stalls, mine.opcodes)
    assert (plain.read, plain.written, plain.channel) == (mine.read, mine.written, mine.channel)
    return mine


@given(seeds, some.integers(1, 4), policies)
@settings(max_examples=60, deadline=None)
def test_the_kernel_in_cpython_is_exact(seed: int, depth: int, policy: str) -> None:
    random = Random(seed)
    target = random_machine(random)
    both(random_program(random, cores=target.cores, depth=depth), target, "kernel", policy)


@given(seeds, some.integers(1, 4), some.sampled_from(MACHINES))
@settings(max_examples=60, deadline=None)
def test_the_compiled_kernel_is_exact(seed: int, depth: int, target: Machine) -> None:
    random = Random(seed)
    both(random_program(random, cores=target.cores, depth=depth), target, "compiled")


@pytest.mark.parametrize("policy", POLICIES)
def test_the_compiled_kernel_has_all_policies(policy: str) -> None:
    for seed in range(8):
        both(random_program(Random(seed)), MACHINES[0], "compiled", policy)


def test_a_cache_is_asked_in_the_order_of_fetches() -> None:
    """Two cores read and write regions of three tensors, some of which the cache holds."""
    build = Builder(library=RANDOM_LIBRARY)
    build.axis("s", 64)
    for name in "abc":
        build.tensor(name, 64, kind="state")
    body = [
        build.issue(f"vector{kind}", [f"{x} s2"], [f"{y} s2"], "m=s2")
        for kind, x, y in (
            (0, "a", "b"),
            (1, "a", "c"),
            (2, "b", "a"),
            (3, "a", "a"),
            (4, "c", "b"),
        )
    ]
    inner = Loop("s2", "s1", 5, tuple(body))
    program = build.program([Loop("s1", "s", 16, (inner, *body[:1], inner), spread=True)])
    for cache in (20, 60, 1000):
        both(program, machine(cache=cache, cores=2), "kernel")


def leaps(program: Program, target: Machine, jump: bool) -> tuple[int, object]:
    """How often the kernel left something out, and the report and events of the stage."""
    (section,) = program.sections
    view = View(program, target, Costs(program, RANDOM_LIBRARY, target), section, section.stages[0])
    engine = CompiledEngine(target, trace=True, jump=jump)
    report, events = engine.run(view, extents(section, {}), 7, 0)
    return len(getattr(events, "leaps", ())), (report, times(events))


@given(seeds, some.integers(1, 4), some.sampled_from(MACHINES[:3]))
@settings(max_examples=25, deadline=None)
def test_leaving_out_what_repeats_changes_nothing(seed: int, depth: int, target: Machine) -> None:
    program = nest(Random(seed), depth)

    assert leaps(program, target, True)[1] == leaps(program, target, False)[1]


def test_what_repeats_is_left_out() -> None:
    """Something is, of nests of each depth."""
    for depth in (1, 2, 3, 4):
        counts = [leaps(nest(Random(seed), depth), machine(window=8), True)[0] for seed in (2, 3)]
        assert min(counts) > 0, depth


def test_a_billion_turns_take_no_longer_than_a_few() -> None:
    """Each turn waits for the result of the one before: 8 cycles."""
    build = Builder()
    build.axis("s", 10**9)
    build.axis("r", 4)
    build.tile("x", 4)
    body = (build.issue("positive", ["x r"], ["x r"], "m=r"),)
    program = build.program([Loop("s1", "s", 1, body)])
    report = simulate(program, LIBRARY, machine(), engine="compiled")

    assert report.cycles == 8 * 10**9
    assert report.instructions == 10**9
    (vector,) = (row for row in report.stalls if row.unit == "vector")
    assert (vector.busy, vector.data) == (6 * 10**9, {"vector": 2 * (10**9 - 1)})


def test_parts_of_the_kernel_share_names_only_where_they_mean_one_thing() -> None:
    """They are copied into one module."""
    found: dict[str, object] = {}
    for part in MODULES:
        for name, value in vars(part).items():
            if name.isupper():
                assert found.setdefault(name, value) == value, (part.__name__, name)


def test_the_fastest_engine_is_simpy_for_few_issues() -> None:
    small, large = random_program(Random(1), most=100), random_program(Random(5), most=20000)
    target = machine()

    assert simulate(small, RANDOM_LIBRARY, target, engine="auto").engine == "simpy"
    assert simulate(large, RANDOM_LIBRARY, target, engine="auto").engine in ("simpy", "compiled")


def stubborn(unit: Unit) -> object:
    """A process of a plugin's unit."""
    raise AssertionError("it is not run")


def test_what_only_simpy_runs_is_refused_by_name() -> None:
    program, target = random_program(Random(1)), machine()
    units = tuple(replace(unit, process="stubborn") for unit in target.units)
    free = Policy("mine", free=lambda ready: 0)

    with pytest.raises(SimulationError) as error:
        simulate(program, RANDOM_LIBRARY, target, engine="compiled", policy=free)
    assert str(error.value) == (
        "engine 'compiled': policy 'mine' is a free function, which only simpy runs"
    )
    with pytest.raises(SimulationError) as error:
        simulate(
            program,
            RANDOM_LIBRARY,
            replace(target, units=units),
            engine="compiled",
            processes={"stubborn": stubborn},  # type: ignore[dict-item]  # never called
        )
    assert str(error.value) == (
        "engine 'compiled': units.matrix has the process 'stubborn', which only simpy runs"
    )
    more = tuple(replace(target.units[1], name=f"vector{number}") for number in range(60))
    many = replace(target, units=target.units + more)
    with pytest.raises(SimulationError) as error:
        simulate(program, RANDOM_LIBRARY, many, engine="compiled")
    assert str(error.value) == (
        "engine 'compiled': machine 'plain' has more than 62 classes of units, which only simpy "
        "runs"
    )


@pytest.mark.parametrize("engine", ["kernel", "compiled"])
def test_what_takes_too_long_for_a_trace_runs_without(engine: str) -> None:
    library = {"last": made("last", "vector", (3 << 29, 3 << 29), X, output=relu(X))}
    build = Builder(library=library)
    build.axis("m", 4)
    build.tile("x", 4)
    program = build.program([build.issue("last", ["x m"], ["x m"], "m=m")] * 3)

    assert simulate(program, library, machine(), engine=engine).cycles == 9 << 29
    traced = simulate(program, library, machine(), engine="auto", trace=True)
    assert [event.done for event in traced.events] == [3 << 29, 6 << 29, 9 << 29]
    with pytest.raises(SimulationError) as error:
        simulate(program, library, machine(), engine=engine, trace=True)
    assert str(error.value) == (
        "stage 'stage0': an issue takes 2147483648 cycles and more, which only the simpy engine "
        "traces"
    )


def test_a_loop_inside_itself_runs_in_simpy() -> None:
    build = Builder()
    build.axis("s", 8000)
    build.axis("r", 4)
    build.tile("x", 4)
    body = (build.issue("positive", ["x r"], ["x r"], "m=r"),)
    program = build.program([Loop("s1", "s", 2, (Loop("s1", "s", 4000, body),))])

    assert simulate(program, LIBRARY, machine(), engine="auto").engine == "simpy"
    with pytest.raises(SimulationError) as error:
        simulate(program, LIBRARY, machine(), engine="compiled")
    assert str(error.value) == (
        "stage 'stage0': a loop makes pieces 's1' inside of 's1', which only the simpy engine runs"
    )


def divided(work: int, number: int) -> int:
    """A key that has no number for the third issue."""
    return work // (2 - number)


def listed(number: int) -> int:
    return len([number])


@pytest.mark.parametrize("engine", ["kernel", "compiled"])
def test_a_key_without_a_number_is_an_error_of_its_policy(engine: str) -> None:
    policy = Policy("halves", divided, plugin="mine")
    with pytest.raises(SimulationError) as error:
        simulate(random_program(Random(1)), RANDOM_LIBRARY, machine(), policy=policy, engine=engine)

    assert "policy 'halves' of plugin 'mine'" in str(error.value)


def test_a_key_that_is_not_restricted_python_runs_in_simpy() -> None:
    policy, program = Policy("listed", listed), random_program(Random(5), most=20000)

    assert simulate(program, RANDOM_LIBRARY, machine(), policy=policy, engine="auto").cycles
    with pytest.raises(SimulationError) as error:
        simulate(program, RANDOM_LIBRARY, machine(), policy=policy, engine="compiled")
    assert "policy 'listed' is no restricted Python: listed, line" in str(error.value)


def test_the_next_process_finds_the_kernel(tmp_path: Path) -> None:
    """What the code depends on is said in words that are the same in every process."""
    run = (
        "from infinisa.runtime.simulator import POLICIES\n"
        "from infinisa.runtime.simulator.specialised import Constants, compiled\n"
        "from tests.runtime.builder import machine\n"
        "policy = POLICIES['oldest']\n"
        "compiled(Constants.of(machine(), (3, 1, 1), policy, trace=False, jump=False))\n"
    )
    found = []
    for seed in ("1", "2"):
        path = os.pathsep.join(sys.path)
        own = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", run], env=own | {"PYTHONPATH": path}, check=True)
        found.append([file.name for file in tmp_path.rglob("*.o")])

    assert len(found[0]) == 1
    assert found[0] == found[1]
