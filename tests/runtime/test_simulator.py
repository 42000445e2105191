"""Cycles to the unit, with the reason for each."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from infinisa.isa.errors import SimulationError
from infinisa.isa.instruction import Instruction
from infinisa.isa.language import Input
from infinisa.isa.machine import Machine
from infinisa.isa.program import (
    Dimension,
    Loop,
    Operand,
    Parameter,
    Program,
    Repeat,
    Statement,
    Term,
    parameter,
)
from infinisa.isa.timing import Timing
from infinisa.runtime.simulator import Report, simulate
from infinisa.runtime.simulator.simpy_engine import SimpyEngine
from tests.runtime.builder import LIBRARY, Builder, gathering, machine


def tiles(*names: str) -> Builder:
    build = Builder()
    for name in names:
        build.tile(name, 4)
    return build


def run(program: Program, target: Machine, **more: object) -> Report:
    """Simulate with a trace; every account must add up."""
    report = simulate(program, LIBRARY, target, trace=True, **more)  # type: ignore[arg-type]  # passed on
    for row in report.stalls:
        assert row.busy + sum(row.data.values()) + row.queue + row.issue + row.idle == row.cycles
        assert sum(row.shares().values()) == pytest.approx(1)
        assert row.cycles == report.cycles
    return report


def times(report: Report) -> list[tuple[int, int, int]]:
    """(start, free, done) of each issue, core after core, in program order."""
    events = sorted(report.events, key=lambda event: (event.stage, event.core, event.number))
    return [(event.start, event.free, event.done) for event in events]


def pair(build: Builder, first: Sequence[str], second: Sequence[str]) -> Program:
    """Two issues, each given as an instruction, what it reads and what it writes."""
    return build.program([build.issue(name, [x], [y]) for name, x, y in (first, second)])


def test_one_issue_takes_its_latency() -> None:
    """It is fetched and started in cycle 0, frees its unit at 6, and its result is there at 8."""
    build = tiles("x", "y")
    report = run(build.program([build.issue("positive", ["x"], ["y"])]), machine())

    assert report.cycles == 8
    assert times(report) == [(0, 6, 8)]


def test_two_units_work_at_once() -> None:
    program = pair(tiles(*"xyuv"), ("positive", "x", "y"), ("matrix_positive", "u", "v"))

    assert times(run(program, machine())) == [(0, 6, 8), (0, 10, 14)]


def test_a_unit_takes_the_next_issue_before_the_result_of_the_first() -> None:
    program = pair(tiles(*"xyuv"), ("positive", "x", "y"), ("positive", "u", "v"))

    assert times(run(program, machine())) == [(0, 6, 8), (6, 12, 14)]


def test_a_read_waits_for_the_result() -> None:
    program = pair(tiles(*"xyz"), ("positive", "x", "y"), ("positive", "y", "z"))

    assert times(run(program, machine())) == [(0, 6, 8), (8, 14, 16)]


@pytest.mark.parametrize("second", [("z", "x"), ("z", "y")], ids=["read", "written"])
def test_a_write_waits_until_another_unit_is_done_with_the_slot(second: tuple[str, str]) -> None:
    program = pair(tiles(*"xyz"), ("matrix_positive", "x", "y"), ("positive", *second))

    assert times(run(program, machine())) == [(0, 10, 14), (14, 20, 22)]


@pytest.mark.parametrize("second", [("z", "x"), ("z", "y")], ids=["read", "written"])
def test_a_write_waits_only_for_the_start_of_its_own_unit(second: tuple[str, str]) -> None:
    program = pair(tiles(*"xyz"), ("positive", "x", "y"), ("positive", *second))

    assert times(run(program, machine())) == [(0, 6, 8), (6, 12, 14)]


def test_a_later_write_of_the_same_unit_cannot_overtake() -> None:
    """The second is ready at 0 but writes what the first, which waits for y, is to write."""
    build = tiles(*"xyzw")
    program = build.program(
        [
            build.issue("matrix_positive", ["x"], ["y"]),
            build.issue("positive", ["y"], ["z"]),
            build.issue("positive", ["w"], ["z"]),
        ]
    )

    assert times(run(program, machine())) == [(0, 10, 14), (14, 20, 22), (20, 26, 28)]


def test_results_of_one_unit_land_in_order() -> None:
    """The quick one would be done at 6, but not before the slow one."""
    program = pair(tiles(*"xyuv"), ("slow", "x", "y"), ("quick", "u", "v"))

    assert times(run(program, machine())) == [(0, 2, 20), (2, 4, 20)]


def test_buffers_of_one_place_share_their_hazards() -> None:
    build = tiles(*"xy")
    build.tile("z", 4, place=build.buffers["x"].place)

    program = pair(build, ("matrix_positive", "x", "y"), ("positive", "y", "z"))
    assert times(run(program, machine()))[1] == (14, 20, 22)
    program = pair(build, ("matrix_positive", "y", "x"), ("positive", "z", "y"))
    assert times(run(program, machine()))[1] == (14, 20, 22)


def test_a_full_window_holds_the_next_issue_back() -> None:
    program = pair(tiles(*"xyuv"), ("positive", "x", "y"), ("matrix_positive", "u", "v"))

    assert times(run(program, machine(window=2))) == [(0, 6, 8), (0, 10, 14)]
    assert times(run(program, machine(window=1))) == [(0, 6, 8), (8, 18, 22)]


def test_the_window_reaches_from_the_oldest_unfinished_issue() -> None:
    """The third of four could start at once, but the window of two waits for the first."""
    build = tiles(*"xyuvw")
    program = build.program(
        [
            build.issue("matrix_positive", ["x"], ["y"]),
            build.issue("quick", ["u"], ["v"]),
            build.issue("quick", ["u"], ["w"]),
        ]
    )

    assert times(run(program, machine(window=2))) == [(0, 10, 14), (0, 2, 4), (14, 16, 18)]


def test_fetch_and_issue_widths() -> None:
    """One fetched a cycle; or one started a cycle, units in the order of the machine."""
    program = pair(tiles(*"xyuv"), ("positive", "x", "y"), ("matrix_positive", "u", "v"))

    assert times(run(program, machine(fetch=1))) == [(0, 6, 8), (1, 11, 15)]
    assert times(run(program, machine(issue=1))) == [(1, 7, 9), (0, 10, 14)]


def test_instances_of_a_unit_class_are_units_of_their_own() -> None:
    """They work at once, and a write waits until the other is done."""
    program = pair(tiles(*"xyuv"), ("positive", "x", "y"), ("positive", "u", "v"))
    assert times(run(program, machine(vectors=2))) == [(0, 6, 8), (0, 6, 8)]

    program = pair(tiles(*"xyu"), ("positive", "x", "y"), ("positive", "u", "x"))
    assert times(run(program, machine(vectors=2))) == [(0, 6, 8), (8, 14, 16)]


def test_the_policy_chooses_among_ready_issues() -> None:
    program = pair(tiles(*"xyuv"), ("quick", "x", "y"), ("positive", "u", "v"))

    assert [start for start, _, _ in times(run(program, machine()))] == [0, 2]
    assert [start for start, _, _ in times(run(program, machine(), policy="longest"))] == [6, 0]


def test_a_copy_takes_its_bytes_then_the_latency_of_dram() -> None:
    """16 bytes at one a cycle, then 5 cycles; the vector unit needs 8; and back."""
    build = tiles("x", "y")
    build.tensor("a", 4, 4)
    build.tensor("b", 4, 4, kind="output")
    build.tile("p", 4, 4)
    build.tile("q", 4, 4)
    program = build.program(
        [build.load("p", "a"), build.issue("positive", ["p"], ["q"]), build.store("b", "q")]
    )
    report = run(program, machine())

    assert times(report) == [(0, 16, 21), (21, 27, 29), (29, 45, 50)]
    assert (report.read["dram"], report.written["dram"]) == (16, 16)
    assert report.section("main").busy == {
        "matrix": 0, "vector": 6, "text": 0, "load": 16, "store": 16
    }  # fmt: skip
    assert report.bound_by == "dram"
    assert report.share_of_peak_bandwidth == pytest.approx(32 / 50)


def test_stalls_say_what_a_unit_waited_for() -> None:
    """Load and store work 16 each; vector waits 21 cycles for load; store waits 21 + 8 for vector,
    which was ready last; all are idle after their last issue."""
    build = tiles()
    build.tensor("a", 16)
    build.tensor("b", 16, kind="output")
    build.tile("p", 16)
    build.tile("q", 16)
    report = run(
        build.program(
            [build.load("p", "a"), build.issue("positive", ["p"], ["q"]), build.store("b", "q")]
        ),
        machine(),
    )
    rows = {row.unit: row for row in report.stalls}

    assert (rows["load"].busy, rows["load"].idle) == (16, 34)
    assert (rows["vector"].busy, rows["vector"].data, rows["vector"].idle) == (6, {"load": 21}, 23)
    assert (rows["store"].data, rows["store"].idle) == ({"vector": 29}, 5)
    assert (rows[""].busy, rows[""].data, rows[""].idle) == (6, {"load": 21}, 23)
    assert rows["matrix"].idle == 50


def test_a_full_window_is_queue_and_the_widths_are_issue() -> None:
    program = pair(tiles(*"xyuv"), ("positive", "x", "y"), ("matrix_positive", "u", "v"))
    matrix = {row.unit: row for row in run(program, machine(window=1)).stalls}["matrix"]
    vector = {row.unit: row for row in run(program, machine(issue=1)).stalls}["vector"]

    assert (matrix.busy, matrix.queue, matrix.issue, matrix.idle) == (10, 8, 0, 4)
    assert (vector.busy, vector.queue, vector.issue, vector.idle) == (6, 0, 1, 7)


def test_the_queue_is_full_only_until_the_oldest_is_done() -> None:
    """One is fetched a cycle into a window of two. It is full in cycles 1 to 13, when the third
    waits for the first; matrix is free again at 10 and takes the third at 14."""
    build = tiles(*"abcdef")
    program = build.program(
        [
            build.issue("matrix_positive", ["a"], ["b"]),
            build.issue("positive", ["c"], ["d"]),
            build.issue("matrix_positive", ["e"], ["f"]),
        ]
    )
    rows = {row.unit: row for row in run(program, machine(window=2, fetch=1)).stalls}

    assert (rows["matrix"].busy, rows["matrix"].queue, rows["matrix"].idle) == (20, 4, 4)
    assert (rows["vector"].issue, rows["vector"].busy, rows["vector"].idle) == (1, 6, 21)


def streaming(slots: int) -> Program:
    """for s1 in s step 8: load, relu, with so many copies of the loaded tile."""
    build = Builder()
    build.axis("s", 24)
    build.tensor("a", 24)
    build.tile("p", 8, slots=slots, rotor="s1")
    build.tile("q", 8)
    body = (build.load("p s1", "a s1"), build.issue("positive", ["p s1"], ["q s1"]))
    return build.program([Loop("s1", "s", 8, body)])


def test_one_copy_of_a_tile_is_loaded_when_its_last_reader_is_done() -> None:
    report = run(streaming(1), machine())

    assert times(report)[::2] == [(0, 8, 13), (21, 29, 34), (42, 50, 55)]
    assert times(report)[1::2] == [(13, 19, 21), (34, 40, 42), (55, 61, 63)]


def test_two_copies_let_the_next_load_run_meanwhile() -> None:
    report = run(streaming(2), machine())

    assert times(report)[::2] == [(0, 8, 13), (8, 16, 21), (21, 29, 34)]
    assert times(report)[1::2] == [(13, 19, 21), (21, 27, 29), (34, 40, 42)]


def test_the_last_piece_is_shorter() -> None:
    """20 bytes in pieces of 8: the third load takes 4 cycles."""
    build = Builder()
    build.axis("s", 20)
    build.tensor("a", 20)
    build.tile("p", 8)
    program = build.program([Loop("s1", "s", 8, (build.load("p s1", "a s1"),))])

    assert times(run(program, machine())) == [(0, 8, 13), (8, 16, 21), (16, 20, 25)]


def test_positions_outside_a_tensor_are_not_moved() -> None:
    """A halo of one on each side of 8: 10 positions, 8 of them there."""
    build = Builder()
    build.axis("s", 8)
    build.axis("halo", 10)
    build.tensor("a", 8)
    build.tile("p", 10)
    load = build.load("p halo", "a halo")
    padded = Operand("a", (Dimension((Term("halo"),), offset=-1),), fill=0.0)
    report = run(build.program([replace(load, reads=(padded,))]), machine())

    assert times(report) == [(0, 8, 13)]
    assert (report.read["dram"], report.written["scratchpad"]) == (8, 10)


def spread() -> Program:
    build = Builder()
    build.axis("s", 16)
    build.tensor("a", 16)
    build.tile("p", 8)
    load = Loop("s1", "s", 8, (build.load("p s1", "a s1"),), spread=True)
    return build.program([load], [load])


def test_cores_share_the_bandwidth_and_meet_at_a_barrier() -> None:
    """Core 0 asks first and has the channel for 8 cycles; core 1 waits these, then has it. The
    second stage begins when the results of both are there and all cores have joined."""
    report = run(spread(), machine(cores=2, barrier=3))

    assert times(report) == [(0, 8, 13), (0, 16, 21), (24, 32, 37), (24, 40, 45)]
    assert report.cycles == 48
    load = {(row.core, row.unit): row for row in report.stalls}[1, "load"]
    assert (load.busy, load.data, load.idle) == (16, {"dram": 16}, 16)


def test_a_core_without_a_piece_does_nothing() -> None:
    report = run(spread(), machine(cores=3, barrier=3))

    assert [event.core for event in report.events] == [0, 1, 0, 1]
    assert report.cycles == 48


def test_a_load_waits_for_the_stores_of_its_tensor() -> None:
    build = tiles("x", "y")
    build.tensor("t", 4, kind="state")
    program = build.program([build.store("t", "x"), build.load("y", "t")])

    assert times(run(program, machine())) == [(0, 4, 9), (9, 13, 18)]


def test_stores_of_one_tensor_do_not_wait_for_each_other() -> None:
    """The second has its data first and goes first."""
    build = tiles(*"xyz")
    build.tensor("t", 4, kind="output")
    program = build.program(
        [build.issue("positive", ["x"], ["y"]), build.store("t", "y"), build.store("t", "z")]
    )

    assert times(run(program, machine())) == [(0, 6, 8), (8, 12, 17), (0, 4, 9)]


def test_a_store_waits_for_the_loads_of_its_tensor() -> None:
    build = tiles("x", "y")
    build.tensor("t", 4, kind="state")
    program = build.program([build.load("y", "t"), build.store("t", "x")])

    assert times(run(program, machine())) == [(0, 4, 9), (9, 13, 18)]


# ---------------------------------------------------------------- operands outside the chip


def test_a_direct_operand_occupies_the_channel_as_well() -> None:
    """20 bytes for 6 cycles of work: the unit waits 14 for DRAM; the result is 5 + 2 later."""
    build = tiles("y")
    build.tensor("a", 5, 4)
    report = run(build.program([build.issue("positive", ["a"], ["y"])]), machine())

    assert times(report) == [(0, 20, 27)]
    assert report.read["dram"] == 20


def test_a_gather_reads_the_rows_it_takes() -> None:
    """3 rows of 4 bytes, of a table of 100."""
    program, library = gathering()
    report = simulate(program, library, machine())

    assert report.read["dram"] == 12
    assert report.cycles == 12 + 5


def test_an_opaque_instruction_takes_a_cycle_an_element_or_its_timing() -> None:
    """12 elements, 3 cycles of the text unit's latency; or what it says of its own axis."""
    plain = Instruction(
        name="words",
        unit="text",
        operands=(Input("text", ("c",), "u8"),),
        results=(Input("ids", ("s",), "i32"),),
        body=lambda text, ids: None,
    )
    build = Builder(library={"words": plain})
    build.tile("text", 12)
    build.tile("ids", 4)
    issue = replace(build.issue("words", ["text"], []), writes=(build.operand("ids"),))
    program = build.program([issue])
    timed = replace(plain, occupancy=Timing("2 * c + s"))

    assert simulate(program, {"words": plain}, machine()).cycles == 12 + 3
    assert simulate(program, {"words": timed}, machine()).cycles == 2 * 12 + 4 + 3


def test_a_cache_holds_the_regions_touched_last() -> None:
    """16 bytes are read twice: the second time from the cache of 32, but not from one of 24, where
    the 16 bytes between them took their place."""
    build = Builder()
    build.tensor("a", 16)
    build.tensor("b", 16)
    build.tile("y", 16)
    program = build.program([build.issue("positive", [name], ["y"]) for name in "aba"])

    assert run(program, machine(cache=32)).read["dram"] == 32
    assert run(program, machine(cache=24)).read["dram"] == 48
    assert times(run(program, machine(cache=32))) == [(0, 16, 23), (16, 32, 39), (32, 38, 40)]


# ---------------------------------------------------------------- turns


def decoding(turns: int) -> tuple[Program, int]:
    """Each turn: a stage that loads 4 bytes, one that loads as many as there were turns."""
    build = Builder()
    build.axis("s", 4)
    build.axis("t", parameter("i") + 1, turns)
    build.parameters += [Parameter("turns", 100, turns), Parameter("i", 100, 0, given=False)]
    build.tensor("a", 4)
    build.tensor("b", turns)
    build.tile("p", 4)
    build.tile("q", turns)
    program = build.program(
        [build.load("p s", "a s")],
        [build.load("q t", "b t")],
        repeat=Repeat("i", parameter("turns")),
    )
    return program, sum(4 + 5 + turn + 1 + 5 for turn in range(turns))


def test_turns_are_simulated_with_their_own_lengths() -> None:
    program, cycles = decoding(5)
    told: list[tuple[str, int, int]] = []
    report = simulate(program, LIBRARY, machine(), progress=lambda *what: told.append(what))

    assert report.cycles == cycles == run(program, machine()).cycles
    assert report.section("main").turn_cycles == (15, 16, 17, 18, 19)
    assert report.section("main").turns == 5
    assert told == [("main", turn, 5) for turn in range(5)]
    assert simulate(program, LIBRARY, machine(), {"turns": 2}).cycles == 15 + 16


def test_a_stage_of_known_cycles_is_not_simulated_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 10 runs of stages: the first once, the second for each of 5 lengths."""
    ran: list[str] = []
    original = SimpyEngine.run

    def counted(self: SimpyEngine, view, outermost, begin, turn):  # type: ignore[no-untyped-def]  # as the original
        ran.append(view.stage.name)
        return original(self, view, outermost, begin, turn)

    monkeypatch.setattr(SimpyEngine, "run", counted)
    simulate(decoding(5)[0], LIBRARY, machine())

    assert (ran.count("stage0"), ran.count("stage1")) == (1, 5)


def test_like_layers_with_other_weights_are_simulated_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Axes, buffers and opcodes are called otherwise; the report still has each by its name."""
    build = tiles("x", "y")
    stages: list[list[Statement]] = []
    for layer in range(3):
        build.axis(f"a{layer}", 4)
        build.tensor(f"w{layer}", 4, kind="weight")
        build.tile(f"p{layer}", 4)
        load = build.load(f"p{layer} s{layer}", f"w{layer} s{layer}")
        use = build.issue("positive", [f"p{layer} s{layer}"], ["y"])
        name = f"positive.{layer}"
        build.opcodes[name] = replace(build.opcodes["positive"], name=name)
        body = (load, replace(use, opcode=name))
        stages.append([Loop(f"s{layer}", f"a{layer}", 2, body)])
    program = build.program(*stages)
    apart = run(program, machine())
    ran: list[int] = []
    original = SimpyEngine.run

    def counted(self: SimpyEngine, view, outermost, begin, turn):  # type: ignore[no-untyped-def]  # as the original
        ran.append(begin)
        return original(self, view, outermost, begin, turn)

    monkeypatch.setattr(SimpyEngine, "run", counted)
    report = simulate(program, LIBRARY, machine())

    assert ran == [0]
    assert [row.issues for row in report.opcodes] == [6, 2, 2, 2]
    assert replace(report, events=()) == replace(apart, events=())


# ---------------------------------------------------------------- reports and errors


def test_by_opcode_and_the_shares_of_peak() -> None:
    """Two contractions of 4 x 4 x 4 in 24 cycles, on a unit of 16 multiply-adds a cycle."""
    build = Builder()
    for axis in "mkn":
        build.axis(axis, 4)
    for name in "abcd":
        build.tile(name, 4, 4)
    program = build.program(
        [
            build.issue("multiply", ["a m k", "b k n"], ["c m n"], "m=m k=k n=n"),
            build.issue("multiply", ["a m k", "b k n"], ["d m n"], "m=m k=k n=n"),
        ]
    )
    report = simulate(program, LIBRARY, machine())
    row = report.by_opcode["multiply"]

    assert (report.cycles, report.instructions, report.operations) == (24, 2, 256)
    assert (row.unit, row.issues, row.cycles, row.operations) == ("matrix", 2, 20, 256)
    assert report.share_of_peak_compute == 256 / (24 * 32)
    assert report.seconds == 24 / 1000
    assert report.bound_by == "matrix"
    assert report.plain()["bound_by"] == "matrix"


def test_nothing_busy_for_half_of_the_time_is_latency() -> None:
    program = pair(tiles(*"xyz"), ("slow", "x", "y"), ("slow", "y", "z"))

    assert run(program, machine()).bound_by == "latency"


def test_an_unknown_policy_or_engine_is_refused() -> None:
    program = pair(tiles(*"xyz"), ("slow", "x", "y"), ("slow", "y", "z"))

    with pytest.raises(SimulationError) as error:
        simulate(program, LIBRARY, machine(), policy="best")
    assert str(error.value) == (
        "policy must be one of oldest, in_order, critical_path, load_balancing, shortest, longest, "
        "not 'best'"
    )
    with pytest.raises(SimulationError) as error:
        simulate(program, LIBRARY, machine(), engine="fast")
    assert str(error.value) == "engine must be one of auto, simpy, compiled, kernel, not 'fast'"


def test_two_simulations_are_equal() -> None:
    first, second = (run(streaming(2), machine(cores=2)) for _ in range(2))

    assert first == second
