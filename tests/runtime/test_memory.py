"""How transfers share DRAM, to the cycle: one byte a cycle, there 5 cycles later."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import pytest
import simpy
from hypothesis import given
from hypothesis import strategies as st

from infinisa.isa.errors import SimulationError
from infinisa.isa.machine import Channel, Machine
from infinisa.isa.program import Loop, Program
from infinisa.runtime.simulator import Report, Shape, simulate
from infinisa.runtime.simulator.contract import Entry
from infinisa.runtime.simulator.memory import (
    FairChannel,
    FifoChannel,
    Rates,
    rows_of,
    run_of,
    size_of,
)
from tests.runtime.builder import LIBRARY, Builder, gathering, machine

FAIR = Channel(sharing="fair")


def frees(program: Program, target: Machine) -> list[tuple[int, int]]:
    """When each transfer began and ended, core after core, in program order."""
    report = simulate(program, LIBRARY, target, trace=True)
    events = sorted(report.events, key=lambda event: (event.core, event.number))
    return [(event.start, event.free) for event in events]


def copies(*sizes: int) -> Program:
    """A load of so many bytes and a store of so many, in turns; none waits for another."""
    build = Builder()
    issues = []
    for i, size in enumerate(sizes):
        build.tensor(f"t{i}", size, kind="output" if i % 2 else "input")
        build.tile(f"p{i}", size)
        made = build.store(f"t{i}", f"p{i}") if i % 2 else build.load(f"p{i}", f"t{i}")
        issues.append(made)
    return build.program(issues)


def loaded(target: Machine, shape: tuple[int, ...], *lengths: int) -> Report:
    """A load of the first positions of a tensor."""
    build = Builder()
    for i, length in enumerate(lengths):
        build.axis(f"n{i}", length)
    ranges = " ".join(f"n{i}" for i in range(len(lengths)))
    build.tensor("a", *shape)
    build.tile("p", *lengths)
    return simulate(build.program([build.load(f"p {ranges}", f"a {ranges}")]), LIBRARY, target)


# ---------------------------------------------------------------- fair sharing


def test_two_transfers_have_half_of_the_channel_each() -> None:
    """The store of 8 bytes ends at 16; the load has moved 8 of 16 then, and 8 alone."""
    assert frees(copies(16, 8), machine(channel=FAIR)) == [(0, 24), (0, 16)]
    assert frees(copies(16, 8), machine()) == [(0, 16), (0, 24)]


def test_what_joins_later_takes_its_half_from_then_on() -> None:
    """One byte of 8 is moved alone; 7 with half of the channel end at 15; one of the store's 8 is
    left then."""
    assert frees(copies(8, 8), machine(fetch=1, channel=FAIR)) == [(0, 15), (1, 16)]


def test_three_cores_have_a_third_each_and_lose_nothing() -> None:
    build = Builder()
    build.axis("s", 24)
    build.tensor("a", 24)
    build.tile("p", 8)
    load = Loop("s1", "s", 8, (build.load("p s1", "a s1"),), spread=True)
    target = machine(cores=3, channel=FAIR)

    assert frees(build.program([load]), target) == [(0, 24)] * 3


def test_shares_weigh_the_transfers_of_units() -> None:
    """3 to 1: 16 bytes take 21.3 cycles. The store has moved 5.5 of its 8 when they end at 22, and
    needs 2.5 alone."""
    assert frees(copies(16, 8), machine(channel=FAIR, load={"share": 3})) == [(0, 22), (0, 25)]


def test_a_unit_has_no_more_than_its_own_bandwidth() -> None:
    """A quarter of a byte a cycle, alone too; the store has the other three."""
    slow = {"bandwidth": 250}

    assert frees(copies(4, 6), machine(channel=FAIR, load=slow)) == [(0, 16), (0, 8)]
    assert frees(copies(4), machine(channel=FAIR, load=slow)) == [(0, 16)]
    assert frees(copies(4), machine(load=slow)) == [(0, 16)]


def test_a_cap_that_is_above_the_share_does_not_matter() -> None:
    capped = machine(channel=FAIR, load={"bandwidth": 600})

    assert frees(copies(8, 8), capped) == [(0, 16), (0, 16)]


def test_waiting_in_a_shared_channel_is_waiting_for_dram() -> None:
    """Two loads of 16: each works 16 of 32 cycles and waits for the channel in the others."""
    report = simulate(copies(16, 16), LIBRARY, machine(channel=FAIR))
    rows = {row.unit: row for row in report.stalls}

    for name in ("load", "store"):
        assert (rows[name].busy, rows[name].data, rows[name].idle) == (16, {"dram": 16}, 5)
    assert report.share_of_peak_bandwidth == pytest.approx(32 / 37)


def test_the_rates_are_whole_numbers() -> None:
    """3 bytes in 2 cycles, of which the loads have 1 in 4 at most: parts are 2520 of a quarter."""
    target = machine(bandwidth=1500, load={"bandwidth": 250, "share": 2})
    rates = Rates.of(target)

    assert (rates.byte, rates.cycle) == (4 * 2520, 6 * 2520)
    assert rates.caps == (6 * 2520, 6 * 2520, 6 * 2520, 2520, 6 * 2520)
    assert rates.shares == (1, 1, 1, 2, 1)
    assert rates.divide([3]) == [(2520, 1)]
    assert rates.divide([3, 4, 0]) == [(2520, 1), (5 * 2520, 2), (5 * 2520, 2)]


@dataclass(frozen=True)
class Ask:
    """A transfer of so many bytes that a unit asks for in a cycle."""

    cycle: int
    unit: int
    size: int


ASKS = st.lists(
    st.builds(Ask, st.integers(0, 60), st.integers(0, 4), st.integers(1, 40)),
    min_size=1,
    max_size=10,
)


def ends(
    target: Machine, asks: Sequence[Ask], make: Callable[..., FairChannel | FifoChannel]
) -> tuple[list[int], int]:
    """When each transfer ends, and the cycles in which the channel was busy."""
    environment = simpy.Environment()
    channel = make(environment, target)
    found: dict[int, int] = {}

    def one(number: int, ask: Ask):  # type: ignore[no-untyped-def]  # a simpy process
        yield environment.timeout(ask.cycle)
        shape = Shape("copy", ask.unit, 1, 0, ask.size, ask.size, (), (), (), 0, {}, {})
        cycles = target.transfer_cycles(ask.size, target.units[ask.unit])
        yield channel.transfer(Entry(number, shape, cycles, 0, bus=ask.size))
        found[number] = int(environment.now)

    for number, ask in enumerate(asks):
        environment.process(one(number, ask))
    environment.run()
    return [found[number] for number in range(len(asks))], channel.busy


def plainly(asks: Sequence[Ask], shares: Sequence[int], caps: Sequence[Fraction]) -> list[int]:
    """Fair sharing cycle after cycle, in fractions of a byte; the channel moves one a cycle."""
    left = {number: Fraction(ask.size) for number, ask in enumerate(asks)}
    found = dict.fromkeys(left, -1)
    cycle = 0
    while left:
        active = [number for number in left if asks[number].cycle <= cycle]
        free, parts = Fraction(1), sum(shares[asks[n].unit] for n in active)
        rate: dict[int, Fraction] = {}
        while rest := [n for n in active if n not in rate]:
            level = free / parts
            over = [n for n in rest if caps[asks[n].unit] < level * shares[asks[n].unit]]
            for n in over or rest:
                rate[n] = caps[asks[n].unit] if over else level * shares[asks[n].unit]
            free -= sum(rate[n] for n in over)
            parts -= sum(shares[asks[n].unit] for n in over)
        cycle += 1
        for n, each in rate.items():
            left[n] -= each
            if left[n] <= 0:
                found[n] = cycle
                del left[n]
    return [found[number] for number in range(len(asks))]


@given(ASKS)
def test_equal_shares_are_exact(asks: list[Ask]) -> None:
    """As cycle after cycle in exact fractions: up to 10 shares lose nothing to rounding."""
    target = machine(channel=FAIR)

    assert ends(target, asks, FairChannel)[0] == plainly(asks, [1] * 5, [Fraction(1)] * 5)


@given(
    ASKS,
    st.lists(st.integers(1, 4), min_size=5, max_size=5),
    st.lists(st.sampled_from([0, 100, 250, 400]), min_size=5, max_size=5),
)
def test_shares_and_caps_are_exact_to_a_part_of_a_byte(
    asks: list[Ask], shares: list[int], caps: list[int]
) -> None:
    """What each change of rates rounds off is below a 2520th of a byte: it may cost a cycle where
    a transfer would have ended with the cycle, and no more than one for each transfer."""
    plain = machine(channel=FAIR)
    units = tuple(
        replace(unit, share=share, bandwidth=cap)
        for unit, share, cap in zip(plain.units, shares, caps, strict=True)
    )
    limits = [Fraction(cap or 1000, 1000) for cap in caps]
    found, _ = ends(replace(plain, units=units), asks, FairChannel)
    wanted = plainly(asks, shares, limits)

    for cycle, exact in zip(found, wanted, strict=True):
        assert abs(cycle - exact) <= len(asks)


@given(ASKS)
def test_fair_sharing_moves_every_byte_once_and_never_rests(asks: list[Ask]) -> None:
    """The channel is busy for at least its bytes, and loses less than a cycle at each end; nobody
    ends earlier than alone."""
    target = machine(channel=FAIR)
    found, busy = ends(target, asks, FairChannel)
    size = sum(ask.size for ask in asks)

    assert size <= busy < size + len(asks)
    assert all(end >= ask.cycle + ask.size for end, ask in zip(found, asks, strict=True))


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 99)), min_size=1, max_size=8))
def test_one_at_a_time_fair_is_fifo(copies: list[tuple[int, int]]) -> None:
    target = machine(bandwidth=370)
    asks = [Ask(1000 * i, unit, size) for i, (unit, size) in enumerate(copies)]

    assert ends(target, asks, FairChannel) == ends(target, asks, FifoChannel)


# ---------------------------------------------------------------- access patterns


def test_a_run_ends_with_the_last_dimension_that_is_cut() -> None:
    build = Builder(dtype="f32")
    build.tensor("a", 4, 8, 2)
    tensor = build.buffers["a"]

    assert run_of(((0, 4), (0, 8), (0, 2)), tensor) == size_of(((0, 4), (0, 8), (0, 2)), tensor)
    assert run_of(((0, 4), (0, 3), (0, 2)), tensor) == 4 * 3 * 2
    assert run_of(((0, 2), (0, 8), (0, 2)), tensor) == 4 * 2 * 8 * 2
    assert run_of(((0, 4), (0, 8), (1, 1)), tensor) == 4


def test_runs_take_whole_bursts_and_gaps() -> None:
    """4 bytes of each of 2 rows of 16: two bursts of 8; or with 3 bytes lost after each. Reported
    are the 8 bytes that were wanted."""
    bursts, gaps = Channel(burst=8), Channel(burst=8, gap=3)

    assert loaded(machine(channel=bursts), (2, 16), 2, 4).cycles == 16 + 5
    assert loaded(machine(channel=gaps), (2, 16), 2, 4).cycles == 22 + 5
    assert loaded(machine(channel=bursts), (2, 4), 2, 4).cycles == 8 + 5
    assert loaded(machine(channel=gaps), (2, 16), 2, 4).read["dram"] == 8


def test_efficiency_is_a_part_of_the_bandwidth() -> None:
    """8 bytes at 4 in 5 cycles are 10 cycles; 9 bytes 11.25."""
    target = machine(channel=Channel(efficiency=80))

    assert loaded(target, (8,), 8).cycles == 10 + 5
    assert loaded(target, (9,), 9).cycles == 12 + 5


def test_the_rows_of_a_gather_are_runs_of_their_own() -> None:
    """3 rows of 4 bytes in bursts of 16."""
    program, library = gathering()
    bursts = machine(channel=Channel(burst=16))
    banked = machine(channel=Channel(sharing="banked", banks=2, row=64, row_miss=7))

    assert simulate(program, library, bursts).cycles == 3 * 16 + 5
    assert simulate(program, library, banked).cycles == 12 + 7 + 5


# ---------------------------------------------------------------- open rows

BANKED = Channel(sharing="banked", banks=2, row=8, row_miss=3)


def test_a_region_touches_rows_run_by_run() -> None:
    """Rows of 8 bytes; 3 x 6 of a tensor of 4 x 12 from (1, 4) on, which begins in row 2: bytes 32
    to 37, 44 to 49 and 56 to 61."""
    build = Builder()
    build.tensor("a", 4, 12)

    assert list(rows_of(((1, 3), (4, 6)), build.buffers["a"], 16, 8)) == [
        (4, 6),
        (5, 4),
        (6, 2),
        (7, 6),
    ]
    assert list(rows_of(((0, 4), (0, 12)), build.buffers["a"], 16, 8)) == [
        (row, 8) for row in range(2, 8)
    ]
    assert list(rows_of(((0, 1), (2, 0)), build.buffers["a"], 0, 8)) == []
    build.tensor("scalar")
    assert list(rows_of((), build.buffers["scalar"], 24, 8)) == [(3, 1)]


def test_a_row_is_opened_unless_it_is_open() -> None:
    """a has rows 0 and 1, b has 2. Both of a are opened at 3, and pass until 19; row 0 is open
    still, 8 cycles; b takes its bank, 3 + 8, so that it is opened again."""
    build = Builder()
    build.axis("h", 8)
    build.tensor("a", 16)
    build.tensor("b", 8)
    for name, size in (("p", 16), ("q", 8), ("r", 8), ("s", 8)):
        build.tile(name, size)
    program = build.program(
        [
            build.load("p", "a"),
            build.load("q h", "a h"),
            build.load("r h", "b h"),
            build.load("s h", "a h"),
        ]
    )

    assert frees(program, machine(channel=BANKED)) == [(0, 19), (19, 27), (27, 38), (38, 49)]


def test_a_row_is_opened_while_others_pass_but_not_in_a_bank_that_is_in_use() -> None:
    """Both are asked for in cycle 0. a is in row 0, and passes from 3 to 11. With two banks, b in
    row 1 was opened meanwhile; c in row 2 has the bank of a, opened from 11 on."""
    build = Builder()
    for name, kind in (("a", "input"), ("b", "output"), ("c", "output")):
        build.tensor(name, 8, kind=kind)  # type: ignore[arg-type]  # a kind
        build.tile(name + "t", 8)
    beside = build.program([build.load("at", "a"), build.store("b", "bt")])
    behind = build.program([build.load("at", "a"), build.store("c", "ct")])

    assert frees(beside, machine(channel=BANKED)) == [(0, 11), (0, 19)]
    assert frees(behind, machine(channel=BANKED)) == [(0, 11), (0, 22)]


def test_pieces_of_rows_are_not_rounded_to_cycles() -> None:
    """Three bytes a cycle: 8 bytes of row 0 and 8 of row 1 take 5.3 cycles, from 3 on."""
    build = Builder()
    build.tensor("a", 16)
    build.tile("p", 16)
    program = build.program([build.load("p", "a")])

    assert frees(program, machine(channel=BANKED, bandwidth=3000)) == [(0, 9)]


def test_a_stage_begins_with_all_rows_closed() -> None:
    build = Builder()
    build.tensor("a", 8)
    build.tile("p", 8)
    load = build.load("p", "a")

    assert simulate(build.program([load], [load]), LIBRARY, machine(channel=BANKED)).cycles == 32


def test_rows_of_what_a_cache_missed() -> None:
    """16 bytes in two rows, opened at once; then the cache has them: 6 cycles of work."""
    build = Builder()
    build.tensor("a", 16)
    build.tile("y", 16)
    program = build.program([build.issue("positive", ["a"], ["y"]) for _ in range(2)])

    assert frees(program, machine(cache=64, channel=BANKED)) == [(0, 19), (19, 25)]


TILES = st.lists(
    st.tuples(st.sampled_from(["load", "store", "work"]), st.integers(1, 20), st.integers(0, 2)),
    min_size=1,
    max_size=12,
)
SHARINGS = st.sampled_from(
    [Channel(), FAIR, BANKED, Channel(sharing="fair", burst=4, gap=1, efficiency=70)]
)


@given(TILES, SHARINGS, st.integers(1, 8), st.integers(1, 2))
def test_every_byte_passes_once_and_every_cycle_is_accounted_for(
    tiles: list[tuple[str, int, int]], channel: Channel, window: int, cores: int
) -> None:
    """Copies and work on three tiles, in any order; no transfer is faster than alone."""
    build = Builder()
    for i in range(3):
        build.tensor(f"t{i}", 20, kind="state")
        build.tile(f"p{i}", 20)
    issues = []
    for number, (what, size, i) in enumerate(tiles):
        build.axis(f"n{number}", size)
        tile, tensor = f"p{i} n{number}", f"t{i} n{number}"
        use = build.issue("positive", [tile], [f"p{(i + 1) % 3} n{number}"])
        copy = build.load(tile, tensor) if what == "load" else build.store(tensor, tile)
        issues.append(use if what == "work" else copy)
    target = machine(channel=channel, window=window, cores=cores, issue=2)
    report = simulate(build.program(issues), LIBRARY, target, trace=True)

    asked = {kind: sum(n for what, n, _ in tiles if what == kind) for kind in ("load", "store")}
    assert report.read.get("dram", 0) == asked["load"]
    assert report.written.get("dram", 0) == asked["store"]
    for event in report.events:
        size = event.read + event.written
        alone = target.transfer_cycles(channel.bus_bytes(size, size))
        assert event.free - event.start >= max(1, alone)
    for row in report.stalls:
        assert row.busy + sum(row.data.values()) + row.queue + row.issue + row.idle == report.cycles
    assert report.channel <= report.cycles


# ---------------------------------------------------------------- banks of the scratchpad


def pair(first: str, second: str) -> Program:
    """An issue on each of matrix and vector, which read and write tiles w to z: of 8 banks the
    first two have one, and the others."""
    build = Builder()
    for name in "wxyz":
        build.tile(name, 4)
    issues = [
        build.issue("matrix_positive", [first[0]], [first[1]]),
        build.issue("positive", [second[0]], [second[1]]),
    ]
    return build.program(issues)


def spans(program: Program, target: Machine) -> list[tuple[int, int, int]]:
    report = simulate(program, LIBRARY, target, trace=True)
    events = sorted(report.events, key=lambda event: event.number)
    return [(event.start, event.free, event.done) for event in events]


def test_operands_of_one_bank_come_one_after_the_other() -> None:
    """Work of 10 and of 6 takes twice as long with one port, and its results come as much later."""
    program = pair("wx", "yz")

    assert spans(program, machine()) == [(0, 10, 14), (0, 6, 8)]
    assert spans(program, machine(banks=16)) == [(0, 10, 14), (0, 6, 8)]
    assert spans(program, machine(banks=8)) == [(0, 20, 24), (0, 12, 14)]
    assert spans(program, machine(banks=8, ports=2)) == [(0, 10, 14), (0, 6, 8)]


def test_an_issue_waits_for_the_ports_that_another_has() -> None:
    """Both touch both banks once. With two ports they do so together."""
    program = pair("wy", "xz")
    report = simulate(program, LIBRARY, machine(banks=8))
    vector = {row.unit: row for row in report.stalls}["vector"]

    assert spans(program, machine(banks=8)) == [(0, 10, 14), (10, 16, 18)]
    assert spans(program, machine(banks=8, ports=2)) == [(0, 10, 14), (0, 6, 8)]
    assert (vector.busy, vector.data, vector.idle) == (6, {"scratchpad": 10}, 2)


def test_a_ready_issue_with_ports_goes_before_an_older_one_without() -> None:
    """x and z touch the banks of matrix; v has one for itself."""
    build = Builder()
    for name in "wxyzvu":
        build.tile(name, 4)
    program = build.program(
        [
            build.issue("matrix_positive", ["w"], ["y"]),
            build.issue("positive", ["x"], ["z"]),
            build.issue("quick", ["v"], ["v"]),
        ]
    )
    target = machine(banks=8, ports=1)

    assert spans(program, target) == [(0, 10, 14), (10, 16, 18), (0, 4, 6)]
    in_order = simulate(program, LIBRARY, target, policy="in_order", trace=True)
    assert [event.start for event in sorted(in_order.events, key=lambda e: e.number)] == [0, 10, 16]


def test_cores_wait_for_the_ports_of_a_shared_scratchpad() -> None:
    build = Builder()
    build.axis("s", 8)
    build.tile("x", 8)
    build.tile("y", 8)
    use = Loop("s1", "s", 4, (build.issue("positive", ["x s1"], ["y s1"]),), spread=True)
    program = build.program([use])
    own = machine(cores=2, banks=16)
    inner, dram = own.memories
    shared = replace(own, memories=(replace(inner, shared=True), dram))

    assert spans(program, own) == [(0, 6, 8), (0, 6, 8)]
    assert spans(program, shared) == [(0, 6, 8), (6, 12, 14)]


def test_a_name_that_nobody_brings_is_refused() -> None:
    with pytest.raises(SimulationError) as error:
        simulate(copies(4), LIBRARY, machine(channel=Channel(sharing="magic")))

    assert str(error.value) == (
        "machine 'plain': memories.dram.channel.sharing must be one of fifo, fair, banked, "
        "not 'magic'"
    )
