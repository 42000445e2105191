"""What cores share: an interconnect, and a machine among several programs. Cycles by hand."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from infinisa.isa.errors import MachineError, SimulationError
from infinisa.isa.machine import Channel, Energy, Interconnect, Machine, Memory, parse_machine
from infinisa.isa.program import Loop, Program
from infinisa.runtime.simulator import (
    Entry,
    Interrupted,
    Report,
    Steps,
    Task,
    Together,
    TogetherInterrupted,
    Unit,
    divided,
    part,
    simulate,
    simulate_together,
)
from tests.runtime.builder import LIBRARY, Builder, machine

SLOW = Interconnect(bandwidth=500, latency=3)
"""Half a byte a cycle; the DRAM of `machine` moves one."""


def times(report: Report) -> list[tuple[int, int, int]]:
    """(start, free, done) of each issue, core after core, in program order."""
    events = sorted(report.events, key=lambda event: (event.stage, event.core, event.number))
    return [(event.start, event.free, event.done) for event in events]


def run(program: Program, target: Machine) -> Report:
    report = simulate(program, LIBRARY, target, trace=True)
    for row in report.stalls:
        assert row.busy + sum(row.data.values()) + row.queue + row.issue + row.idle == row.cycles
    return report


def loads(count: int, size: int = 8) -> Program:
    """So many loads of tensors of so many bytes."""
    build = Builder()
    for i in range(count):
        build.tensor(f"a{i}", size)
        build.tile(f"x{i}", size)
    return build.program([build.load(f"x{i}", f"a{i}") for i in range(count)])


def spread_loads(cores: int, size: int) -> Program:
    """Each core loads `size` bytes of its own."""
    build = Builder()
    build.axis("s", cores * size)
    build.tensor("a", cores * size)
    build.tile("x", size)
    return build.program([Loop("s1", "s", size, (build.load("x", "a s1"),), spread=True)])


# ---------------------------------------------------------------- the interconnect


def test_a_transfer_passes_the_channel_and_the_interconnect() -> None:
    """8 cycles on the channel and 16 on the link, beside each other; both latencies follow."""
    report = run(loads(1), replace(machine(), interconnect=SLOW))

    assert times(report) == [(0, 16, 24)]
    assert report.read == {"dram": 8, "interconnect": 8}
    assert report.section("main").opcodes[0].cycles == 16


def test_a_fast_interconnect_only_adds_its_latency() -> None:
    fast = Interconnect(bandwidth=1 << 40, latency=3)

    assert times(run(loads(1), replace(machine(), interconnect=fast))) == [(0, 8, 16)]


def test_cores_have_a_link_each_unless_they_share_one() -> None:
    """Two cores load 8 bytes each: the channel has those of core 1 at 16, its link too; one link
    for both has them at 32."""
    target = machine(cores=2)
    apart, shared = (replace(target, interconnect=replace(SLOW, shared=s)) for s in (False, True))

    assert times(run(spread_loads(2, 8), target)) == [(0, 8, 13), (0, 16, 21)]
    assert times(run(spread_loads(2, 8), apart)) == [(0, 16, 24), (0, 16, 24)]
    assert times(run(spread_loads(2, 8), shared)) == [(0, 16, 24), (0, 32, 40)]


def test_waiting_is_named_by_what_was_passed_last() -> None:
    """Core 1 is busy for the 16 cycles that its bytes take alone."""
    target = replace(machine(cores=2), interconnect=replace(SLOW, shared=True))

    rows = {(row.core, row.unit): row for row in run(spread_loads(2, 8), target).stalls}

    assert (rows[1, "load"].busy, rows[1, "load"].data) == (16, {"interconnect": 16})

    quick = replace(machine(cores=2), interconnect=Interconnect(bandwidth=1000))
    rows = {(row.core, row.unit): row for row in run(spread_loads(2, 8), quick).stalls}
    assert (rows[1, "load"].busy, rows[1, "load"].data) == (8, {"dram": 8})


def cached(shared: bool, way: Interconnect | None) -> Machine:
    """A scratchpad of each core, a cache, DRAM."""
    target = machine(cores=2)
    scratchpad, dram = target.memories
    cache = Memory(name="cache", size=64, managed="hardware", shared=shared)
    return replace(target, memories=(scratchpad, cache, dram), interconnect=way)


def both_load() -> Program:
    """Both cores load the same 8 bytes."""
    build = Builder()
    build.axis("s", 2)
    build.axis("t", 8)
    build.tensor("a", 8)
    build.tile("x", 8)
    return build.program([Loop("s1", "s", 1, (build.load("x", "a t"),), spread=True)])


@pytest.mark.parametrize(
    ("shared", "way", "found"),
    [
        (True, None, [(0, 8, 13), (0, 1, 1)]),
        (True, SLOW, [(0, 16, 24), (0, 16, 19)]),
        (False, SLOW, [(0, 16, 24), (0, 16, 24)]),
    ],
    ids=["no way", "shared", "own"],
)
def test_what_a_shared_cache_holds_passes_the_interconnect_only(
    shared: bool, way: Interconnect | None, found: Sequence[tuple[int, int, int]]
) -> None:
    """Core 1 finds in the shared cache what core 0 asked for: no DRAM, so no latency of it."""
    assert times(run(both_load(), cached(shared, way))) == found


def test_what_the_cache_of_a_core_holds_passes_nothing() -> None:
    """The second load of the same bytes, of two on one core."""
    build = Builder()
    build.tensor("a", 8)
    build.tile("x", 8)
    build.tile("y", 8)
    program = build.program([build.load("x", "a"), build.load("y", "a")])

    report = run(program, cached(False, SLOW))

    assert times(report) == [(0, 16, 24), (16, 17, 24)]
    assert report.read["interconnect"] == report.read["dram"] == 8
    assert run(program, cached(True, SLOW)).read["interconnect"] == 16


def test_bytes_that_cross_have_an_energy() -> None:
    energy = Energy(byte={"interconnect": 2.0})
    target = replace(machine(), interconnect=SLOW, energy=energy)

    assert run(loads(1), target).energy.memories == {"interconnect": pytest.approx(16e-12)}


def test_a_machine_file_has_an_interconnect() -> None:
    target = replace(machine(), interconnect=replace(SLOW, shared=True))
    text = target.text()

    assert parse_machine(text, "a.toml") == target
    assert "interconnect" not in machine().text()
    for old, new, fault in (
        ('bandwidth = "500 B/s"', 'bandwidth = "0 B/s"', "interconnect.bandwidth must be positive"),
        ("latency = 3", "delay = 3", "interconnect.delay is unknown (known here: bandwidth, lat"),
    ):
        assert old in text
        with pytest.raises(MachineError) as caught:
            parse_machine(text.replace(old, new), "a.toml")
        assert fault in str(caught.value)
    with pytest.raises(MachineError, match=r"energy\.byte\.interconnect is none of the memories"):
        replace(machine(), energy=Energy(byte={"interconnect": 1.0}))


@pytest.mark.parametrize("engine", ["simpy", "kernel", "compiled", "auto"])
def test_every_engine_runs_an_interconnect(engine: str) -> None:
    """It is 16 cycles on the link, 3 on the way and 5 in DRAM."""
    target = replace(machine(), interconnect=SLOW)

    assert simulate(loads(1), LIBRARY, target, engine=engine).cycles == 24


# ---------------------------------------------------------------- programs at a time


def together(target: Machine, *programs: Program, **more: object) -> Together:
    """Each on cores of its own; every account must add up."""
    counts = divided(target, len(programs))
    tasks = [Task(program, LIBRARY, n) for program, n in zip(programs, counts, strict=True)]
    found = simulate_together(tasks, target, **more)  # type: ignore[arg-type]  # passed on
    for parts in found.shares.values():
        assert sum(parts) == 1
        assert all(0 <= each <= 1 for each in parts)
    for each in found.programs:
        assert (each.together.read, each.together.written) == (each.alone.read, each.alone.written)
        for report in (each.alone, each.together):
            for row in report.stalls:
                waited = sum(row.data.values()) + row.queue + row.issue
                assert row.busy + waited + row.idle == row.cycles == report.cycles
    return found


def test_two_programs_share_the_channel() -> None:
    """One loads 8 bytes and then 8, the other 4: these pass between. Alone they take 8 + 8 + 5
    and 4 + 5 cycles. At 20 all has passed, so DRAM has done 20 of 25 cycles."""
    found = together(machine(cores=2), loads(2), loads(1, 4))

    first, second = found.programs
    assert (first.alone.cycles, second.alone.cycles) == (21, 9)
    assert (first.together.cycles, second.together.cycles) == (25, 17)
    assert (first.slowdown, second.slowdown) == (25 / 21, 17 / 9)
    assert found.cycles == 25
    assert found.shares["dram"] == (Fraction(16, 25), Fraction(4, 25), Fraction(5, 25))
    assert found.shares["load"] == (Fraction(16, 50), Fraction(4, 50), Fraction(30, 50))


def test_fair_sharing_is_fair_between_programs() -> None:
    """Half a byte a cycle each until 8: the one is done then, and has 5 cycles of latency; the
    other has 4 left, at a whole byte, and then loads 8 more."""
    found = together(machine(cores=2, channel=Channel(sharing="fair")), loads(2), loads(1, 4))

    assert [each.together.cycles for each in found.programs] == [25, 13]


def staged(*bodies: int) -> Program:
    """A stage of so many loads of 4 bytes each."""
    build = Builder()
    for i in range(max(bodies)):
        build.tensor(f"a{i}", 4)
        build.tile(f"x{i}", 4)
    return build.program(*([build.load(f"x{i}", f"a{i}") for i in range(n)] for n in bodies))


def test_a_program_has_barriers_of_its_own() -> None:
    """The first has two cores, and so a barrier of 7 after each of its stages of 4 + 5 cycles; the
    second has one. It asks at 0, behind the other, then at 8 and 12; the other asks again at 16,
    when the channel is free."""
    target = machine(cores=3, barrier=7)
    found = together(target, staged(1, 1), staged(3))

    assert [each.cores for each in found.programs] == [2, 1]
    assert [each.alone.cycles for each in found.programs] == [32, 17]
    assert [each.together.cycles for each in found.programs] == [32, 21]


@pytest.mark.parametrize("sharing", ["fifo", "fair"])
@pytest.mark.parametrize("cores", [1, 3])
def test_a_program_with_all_cores_takes_what_it_takes(sharing: str, cores: int) -> None:
    target = machine(cores=cores, barrier=7, window=2, channel=Channel(sharing=sharing))
    program = staged(3, 0, 1, 2)

    (found,) = together(target, program).programs

    report = simulate(program, LIBRARY, target)
    assert found.alone == found.together == replace(report, policy=found.alone.policy)


def test_tensors_of_two_programs_are_never_one() -> None:
    """Of the same name, in a shared cache: neither finds what the other asked for."""
    target = cached(True, None)

    found = together(target, loads(1), loads(1))

    assert [each.together.read["dram"] for each in found.programs] == [8, 8]


def test_rows_of_two_programs_are_apart() -> None:
    """In one bank of rows of 8 bytes each opens its own: 2 to open and 8 to pass, one program
    after the other."""
    channel = Channel(sharing="banked", banks=1, row=8, row_miss=2)

    found = together(machine(cores=2, channel=channel), loads(1), loads(1))

    assert [each.together.cycles for each in found.programs] == [15, 25]


@settings(deadline=None, max_examples=60)
@given(
    counts=some.lists(
        some.lists(some.integers(0, 4), min_size=1, max_size=3), min_size=2, max_size=3
    ),
    sharing=some.sampled_from(["fifo", "fair"]),
    window=some.integers(1, 4),
    way=some.sampled_from([None, SLOW, replace(SLOW, shared=True)]),
)
def test_nothing_is_faster_together(
    counts: list[list[int]], sharing: str, window: int, way: Interconnect | None
) -> None:
    """Loads of one unit in order have no choice that could come out better by chance."""
    target = replace(
        machine(cores=4, window=window, barrier=3, channel=Channel(sharing=sharing)),
        interconnect=way,
    )
    programs = [staged(*[max(n, 1) for n in each]) for each in counts]

    found = together(target, *programs)

    assert all(each.together.cycles >= each.alone.cycles for each in found.programs)
    assert found.cycles <= sum(each.alone.cycles for each in found.programs)


def stopping(choices: int) -> Callable[[Sequence[Entry]], int]:
    """A free policy that the user stops at so many choices."""
    made = []

    def stop(ready: Sequence[Entry]) -> int:
        made.append(ready)
        if len(made) == choices:
            raise KeyboardInterrupt
        return 0

    return stop


def test_what_ran_before_an_interruption_is_told() -> None:
    """At the second load of the second program alone; then at the second load of the first program
    together, in cycle 4."""
    target, programs = machine(cores=2), (staged(2, 1), staged(2))

    with pytest.raises(Interrupted) as alone:
        together(target, *programs, policy=stopping(5))
    with pytest.raises(TogetherInterrupted) as both:
        together(target, *programs, policy=stopping(8))

    assert alone.value.report.partial
    assert alone.value.report.instructions == 2
    found = [each.together for each in both.value.report.programs]
    assert all(report.partial for report in found)
    assert [report.section("main").cycles for report in found] == [4, 4]


def test_a_fault_names_the_core_of_the_program() -> None:
    """Two of three cores are the first program's."""

    def broken(unit: Unit) -> Steps:
        yield unit.wait(1)
        raise ValueError("no more")

    target = machine(cores=3, process="broken")

    with pytest.raises(SimulationError, match="unit vector 0 of core 0, process 'broken'"):
        together(target, loads(1), loads(1), processes={"broken": broken})


def test_a_program_that_never_ends_is_told() -> None:
    """The unit of the second program takes its issue and is never free."""

    def waiting(unit: Unit) -> Steps:
        yield from unit.take()
        yield unit.core.run.clock.event()

    build = Builder()
    build.tile("x", 4)
    build.tile("y", 4)
    work = build.program([build.issue("positive", ["x"], ["y"])])
    target = machine(cores=2, process="waiting")

    with pytest.raises(SimulationError, match=r"stage 'stage0' of section 'main' is stuck at"):
        together(target, loads(1), work, processes={"waiting": waiting})


def test_a_part_has_its_share_of_what_is_shared() -> None:
    target = machine(cores=4)
    scratchpad, dram = target.memories
    whole = replace(
        target,
        memories=(replace(scratchpad, shared=True), dram),
        energy=replace(target.energy, leakage=2.0),
    )

    half = part(whole, 2)

    assert (half.cores, half.scratchpad.size, half.energy.leakage) == (2, 1 << 15, 1.0)
    assert half.dram == whole.dram
    assert part(whole, 4) == whole


def test_programs_that_do_not_fit_are_refused() -> None:
    target = machine(cores=2)
    task = Task(loads(1), LIBRARY, 2)

    with pytest.raises(
        SimulationError, match="3 programs at a time need a core each, and it has 2"
    ):
        divided(target, 3)
    with pytest.raises(SimulationError, match=r"has 2 cores, not 2 \+ 2 for programs"):
        simulate_together([task, task], target)
    with pytest.raises(SimulationError, match="must have 1 to 2 cores, not 3"):
        part(target, 3)
    with pytest.raises(SimulationError, match="engine 'compiled': must be auto or simpy"):
        simulate_together([task], target, engine="compiled")
    shared = replace(target.memories[0], shared=True, banks=16)
    with pytest.raises(SimulationError, match=r"scratchpad\.banks must be left out"):
        part(replace(target, memories=(shared, target.dram)), 1)
