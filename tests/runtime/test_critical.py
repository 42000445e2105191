"""What each cycle of a run was needed for, and what it cost."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infinisa.isa.machine import Energy
from infinisa.isa.program import Count, Loop, Parameter, Program, Repeat, Statement, parameter
from infinisa.runtime.report import text
from infinisa.runtime.simulator import POLICIES, Report, simulate
from tests.runtime.builder import LIBRARY, Builder, machine
from tests.runtime.test_policies import STEPS, Step, chain


def path(program: Program, **more: object) -> dict[str, int]:
    report = simulate(program, LIBRARY, machine(**more), path=True)  # type: ignore[arg-type]  # passed on
    return dict(report.path)


def test_a_chain_is_its_own_critical_path() -> None:
    """A load of 16 bytes, 21 cycles; 8 of the vector unit; 21 of the store, which waits 3 for the
    channel. The load that it waits for there is not on the path: nobody needs it."""
    build = Builder()
    for name in "ac":
        build.tensor(name, 16)
    build.tensor("b", 16, kind="output")
    for name in "pqr":
        build.tile(name, 16)
    program = build.program(
        [
            build.load("p", "a"),
            build.issue("positive", ["p"], ["q"]),
            build.store("b", "q"),
            build.load("r", "c"),
        ]
    )

    assert path(program) == {"load": 21, "positive": 8, "store": 24}


def test_the_unit_before_is_on_the_path_until_it_is_free() -> None:
    """Six cycles of the first, until its unit is free, and eight of the second."""
    program = chain(("positive", "a", "b"), ("positive", "c", "d"))

    assert path(program) == {"positive": 6 + 8}


def test_a_full_window_leads_to_the_issue_that_was_done() -> None:
    """quick is fetched at 14, when matrix is done, and takes 4."""
    program = chain(("matrix_positive", "a", "b"), ("quick", "c", "d"))

    assert path(program, window=1) == {"matrix_positive": 14, "quick": 4}


def test_the_widths_are_waits() -> None:
    """Fetched one a cycle, the second of another unit starts at 1; started one a cycle, vector
    starts after matrix."""
    program = chain(("quick", "a", "b"), ("matrix_positive", "c", "d"))

    assert path(program, fetch=1) == {"(fetch)": 1, "matrix_positive": 14}
    backwards = chain(("slow", "a", "b"), ("matrix_positive", "c", "d"))
    assert path(backwards, issue=1) == {"(issue)": 1, "slow": 20}


@given(
    STEPS,
    st.sampled_from(list(POLICIES)),
    st.integers(1, 3),
    st.integers(1, 6),
    st.integers(1, 3),
    st.sampled_from([0, 8]),
)
def test_the_path_has_every_cycle(
    steps: list[Step], policy: str, vectors: int, window: int, fetch: int, banks: int
) -> None:
    target = machine(
        vectors=vectors, window=window, fetch=fetch, banks=banks, cores=2, barrier=3, issue=2
    )
    report = simulate(chain(*steps), LIBRARY, target, policy=policy, path=True)

    assert sum(report.path.values()) == report.cycles == sum(report.layers.values())
    assert report.path["(barrier)"] == 3


def layered() -> Program:
    """Two like layers: each loads its weight and uses it. The second is not simulated again."""
    build = Builder()
    build.tile("x", 4)
    build.tile("y", 4)
    stages: list[list[Statement]] = []
    for layer in range(2):
        build.axis(f"a{layer}", 4)
        build.tensor(f"layers.{layer}.w", 4, kind="weight")
        build.tile(f"stage/layers.{layer}.w", 4)
        load = build.load(f"stage/layers.{layer}.w s{layer}", f"layers.{layer}.w s{layer}")
        use = build.issue("positive", [f"stage/layers.{layer}.w s{layer}"], ["y"])
        stages.append([Loop(f"s{layer}", f"a{layer}", 2, (load, use))])
    stages.append([build.issue("quick", ["x"], ["y"])])
    return build.program(*stages)


def test_layers_are_told_by_the_names_of_what_is_read_and_written() -> None:
    """Two loads of 2 + 5 cycles, each followed by the vector's 8; without a layer, the stage."""
    report = simulate(layered(), LIBRARY, machine(), path=True)

    assert report.layers == {"layers.0": 30, "layers.1": 30, "stage2": 4}
    assert report.path == {"load": 28, "positive": 32, "quick": 4}
    assert simulate(layered(), LIBRARY, machine()).path == {}


def test_a_remembered_stage_has_the_path_of_a_simulated_one() -> None:
    traced = simulate(layered(), LIBRARY, machine(), path=True, trace=True)

    assert replace(traced, events=()) == simulate(layered(), LIBRARY, machine(), path=True)


# ---------------------------------------------------------------- energy and throughput


def test_energy_is_that_of_operations_cycles_bytes_and_time() -> None:
    """relu of 4: 4 operations of 2 pJ and 6 cycles of 1 pJ. 4 bytes of DRAM at 10 pJ; the
    scratchpad is written 4 + 4 and read 4 times, 0.5 pJ each. 17 cycles of 1 ms at 3 W."""
    build = Builder()
    build.tensor("a", 4)
    build.tile("p", 4)
    build.tile("q", 4)
    build.axis("m", 4)
    program = build.program(
        [build.load("p m", "a m"), build.issue("positive", ["p m"], ["q m"], "m=m")]
    )
    stated = Energy(
        operation={"vector": 2.0},
        cycle={"vector": 1.0},
        byte={"dram": 10.0, "scratchpad": 0.5},
        leakage=3.0,
    )
    energy = simulate(program, LIBRARY, replace(machine(), energy=stated)).energy

    assert energy.opcodes == pytest.approx({"load": 0.0, "positive": 14e-12})
    assert energy.memories == pytest.approx({"dram": 40e-12, "scratchpad": 6e-12})
    assert energy.leakage == pytest.approx(3.0 * 17 / 1000)
    assert energy.total == pytest.approx(0.051 + 60e-12)


def decoding() -> Report:
    """Three turns, which load 1, 2 and 3 bytes; each works on two tokens."""
    build = Builder()
    build.axis("t", parameter("i") + 1, 3)
    build.parameters += [Parameter("i", 100, 0, given=False)]
    build.tensor("b", 3)
    build.tile("q", 3)
    program = build.program([build.load("q t", "b t")], repeat=Repeat("i", Count(3)))
    (section,) = program.sections
    return simulate(
        replace(program, sections=(replace(section, tokens=Count(2)),)), LIBRARY, machine()
    )


def test_throughput_is_tokens_over_time_in_all_and_in_each_turn() -> None:
    """6, 7 and 8 cycles of a millisecond."""
    section = decoding().section("main")

    assert (section.tokens, section.turn_cycles) == (6, (6, 7, 8))
    assert section.token_rate == pytest.approx(6 / 0.021)
    assert section.turn_rate(2) == pytest.approx(2 / 0.008)


def test_a_program_that_counts_no_tokens_is_counted_in_runs() -> None:
    """4 cycles of a millisecond: 250 runs a second. Tokens as above: 286 a second in all."""
    runs = text.plain(text.simulation(simulate(chain(("quick", "a", "b")), LIBRARY, machine())))

    assert "runs/s" in runs
    assert " 250 " in runs
    assert "286 (333 to 250)" in text.plain(text.simulation(decoding()))
