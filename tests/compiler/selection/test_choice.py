"""Which of several instructions are taken, and the time that is predicted for them."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest

from infinisa.compiler.builder import Builder
from infinisa.compiler.equality.surroundings import Surroundings
from infinisa.compiler.equality.verdict import Verdict
from infinisa.compiler.graph import Model
from infinisa.compiler.schedule.emit import emit
from infinisa.compiler.schedule.tile import schedule
from infinisa.compiler.selection.choice import Choosing, Selection
from infinisa.compiler.selection.cover import cover_and_report
from infinisa.compiler.selection.match import Match
from infinisa.compiler.selection.prices import CALL, CALLS, DRAM, Forecast, Work, excess
from infinisa.isa import formulas, language
from infinisa.isa.instruction import Instruction, instruction
from infinisa.isa.language import Input, Node, dot, exp, sqrt, tanh
from infinisa.isa.machine import builtin_machine_files, load_machine
from infinisa.isa.program import Count, Extent, Opcode
from infinisa.plugins.manager import load
from infinisa.runtime.simulator import simulate
from tests.compiler.everywhere import agree_everywhere, instructions

MACHINES = {file.stem: load_machine(file) for file in builtin_machine_files()}
EDGE, DATACENTER = MACHINES["edge"], MACHINES["datacenter"]
LIBRARY = load().library
ROWS, WIDTH = 512, 64
EXTENTS = (Extent("s", Count(ROWS), ROWS), Extent("d", Count(WIDTH), WIDTH))


@instruction(unit="vector", cycles="m * n")
def first(x: "m n"):  # type: ignore[no-untyped-def, valid-type]  # noqa: F722  # axes
    return tanh(x)


@instruction(unit="vector", cycles="m * n")
def second(x: "m n"):  # type: ignore[no-untyped-def, valid-type]  # noqa: F722  # axes
    return exp(x)


@instruction(unit="vector", cycles="m * n")
def here(x: "m n"):  # type: ignore[no-untyped-def, valid-type]  # noqa: F722  # axes
    return exp(tanh(x))


@instruction(unit="matrix", cycles="m * n + m * n / 2")
def there(x: "m n"):  # type: ignore[no-untyped-def, valid-type]  # noqa: F722  # axes
    """The same on another unit, where it takes half as long again."""
    return exp(tanh(x))


@instruction(unit="vector", cycles="m * n * 5")
def slowly(x: "m n"):  # type: ignore[no-untyped-def, valid-type]  # noqa: F722  # axes
    return exp(tanh(x))


@instruction(unit="vector", cycles="m * n")
def root(x: "m n"):  # type: ignore[no-untyped-def, valid-type]  # noqa: F722  # axes
    return sqrt(x)


@instruction(unit="vector", cycles="m * n")
def add(x: "m n", y: "m n"):  # type: ignore[no-untyped-def, valid-type]  # noqa: F722  # axes
    return x + y


@instruction(unit="vector", cycles="m * n")
def both(x: "m n"):  # type: ignore[no-untyped-def, valid-type]  # noqa: F722  # axes
    return tanh(x), exp(tanh(x))


def library(*made: Instruction) -> dict[str, Instruction]:
    return {each.name: each for each in made}


def model(result: Callable[[Node], Node]) -> Model:
    b = Builder("model")
    b.graph("main").output("y", result(b.input("x", "s d", (ROWS, WIDTH))))
    return b.model()


def covered(
    function: Model, known: Mapping[str, Instruction], rounds: int
) -> tuple[list[str], int]:
    """The instructions that compute a model, in order, and the simulated cycles."""
    opcodes: dict[object, Opcode] = {}
    (graph,) = function.graphs
    calls, coverage = cover_and_report(function, graph, EDGE, known, opcodes=opcodes, rounds=rounds)
    program = emit("model", EDGE, [(calls, schedule(calls, EDGE))])
    names = [match.instruction.name for match in coverage.matches]
    return names, simulate(program, known, EDGE).sections[0].cycles


def taken(result: Callable[[Node], Node], *made: Instruction, rounds: int = 3) -> list[str]:
    """The instructions that compute a function of a matrix, in order."""
    return covered(model(result), library(*made), rounds)[0]


def simulated(result: Callable[[Node], Node], *made: Instruction) -> int:
    """Cycles of a function of a matrix in these instructions."""
    return covered(model(result), library(*made), 3)[1]


def with_roots(count: int) -> Callable[[Node], Node]:
    """Two functions, and behind them square roots, which only the vector unit can do."""

    def result(x: Node) -> Node:
        x = exp(tanh(x))
        for _ in range(count):
            x = sqrt(x)
        return x

    return result


# ---------------------------------------------------------------- which are taken


def test_work_moves_from_a_busy_unit_to_an_idle_one() -> None:
    """It takes longer there, but nobody waits for it; the sum of cycles cannot see that."""
    assert taken(with_roots(4), here, there, root) == ["there", *4 * ["root"]]
    assert taken(with_roots(4), here, there, root, rounds=0) == ["here", *4 * ["root"]]
    assert simulated(with_roots(4), there, root) < simulated(with_roots(4), here, root)


def test_work_moves_although_its_unit_is_asked_again_behind_it() -> None:
    """Tile by tile: the vector unit takes the next root while the array is busy."""

    def between(x: Node) -> Node:
        return sqrt(exp(tanh(sqrt(x))))

    assert taken(between, here, there, root) == ["root", "there", "root"]
    assert simulated(between, there, root) < simulated(between, here, root)


def test_what_is_done_between_products_is_not_free() -> None:
    """Products are many small issues, so they and the function between them take turns, and what
    the array does of the function spares the vector unit's time although that idles."""
    b = Builder("gated layer")
    x = b.input("x", "s d", (256, 256))
    gate, up = (dot(x, b.input(name, "d f", (256, 1024)), "d") for name in ("gate", "up"))
    down = b.input("down", "f e", (1024, 256))
    b.graph("main").output("y", dot(formulas.silu(gate) * up, down, "f"))

    names, cycles = covered(b.model(), LIBRARY, rounds=3)
    before, more = covered(b.model(), LIBRARY, rounds=0)

    assert sorted(names) == ["matmul", "matmul", "matmul_silu", "multiply"]
    assert sorted(before) == ["matmul", "matmul", "matmul", "swiglu"]
    assert cycles < 0.9 * more


def test_work_stays_where_it_is_fastest_if_that_unit_is_idle_too() -> None:
    assert taken(with_roots(0), here, there) == ["here"]


def test_the_largest_instruction_is_not_taken_if_small_ones_are_faster() -> None:
    assert taken(with_roots(0), first, second, slowly) == ["first", "second"]
    assert taken(with_roots(0), first, second, here) == ["here"]


def test_a_value_is_paid_for_once_however_many_layers_read_it() -> None:
    """Each layer reads the one before twice: as a tree its cost would double 200 times, and the
    difference between two units be lost in rounding."""

    def layers(x: Node) -> Node:
        for _ in range(200):
            x = x + exp(tanh(x))
        return x

    found = taken(layers, first, second, slowly, add)

    assert found == 200 * ["first", "second", "add"]


# ---------------------------------------------------------------- loads and predictions


def matched(made: Instruction, roots: Sequence[Node | None], leaves: Sequence[Node]) -> Match:
    """An instruction over s and d, said to compute these values."""
    binding = {"m": ("s",), "n": ("d",)}
    inner = frozenset(node for node in roots if node is not None)
    x = Input("x", ("m",))
    verdict = Verdict(x, x, x, {}, {}, {}, 0)
    return Match(made, tuple(roots), tuple(leaves), binding, (), {}, inner, verdict)


def selection(roots: Sequence[Node], found: Mapping[Node, Sequence[Match]]) -> Selection:
    """The settled selection of what computes these values, offered these matches."""
    sizes = {"s": ROWS, "d": WIDTH}
    choosing = Choosing(EDGE, library(first, second, both, add, root), sizes, sizes)
    around = Surroundings.of(roots, EXTENTS)

    def within(roots: Sequence[Node], axis: str) -> Selection:
        raise AssertionError("there is no recurrence here")

    made = Selection(lambda node: found.get(node, ()), choosing, around.users, within)
    made.settle(roots)
    return made


def test_a_match_that_yields_two_values_is_one_call_for_both() -> None:
    x = Input("x", ("s", "d"))
    inner, outer = tanh(x), exp(tanh(x))
    pair = matched(both, [inner, outer], [x])
    small = matched(first, [inner], [x])

    made = selection([inner, outer], {inner: [small], outer: [pair]})

    assert made.decision.chosen([inner, outer]) == [(x, None), (inner, pair), (outer, pair)]


def test_a_forecast_counts_each_call_once_and_what_goes_in_and_out() -> None:
    """tanh is read twice, so it is stored and loaded once more; all bytes at 32 a cycle."""
    x = Input("x", ("s", "d"))
    inner = tanh(x)
    square, result = sqrt(inner), exp(inner) + sqrt(inner)
    found = {
        inner: [matched(first, [inner], [x])],
        square: [matched(root, [square], [inner])],
        exp(inner): [matched(second, [exp(inner)], [inner])],
        result: [matched(add, [result], [exp(inner), square])],
    }
    made = selection([result], found)

    cover = made.cover([result], made.decision)

    traffic, work = (1 + 2 + 1) * ROWS * WIDTH * 4 / 32, 4 * (ROWS * WIDTH + 8)
    assert cover.readers == {x: 1, inner: 2, exp(inner): 1, square: 1}
    assert cover.forecast.time == work + 4 * CALL
    assert cover.forecast.prices[DRAM] == max(0.3, traffic / work)


def test_what_lies_between_calls_of_small_issues_takes_its_time_alone() -> None:
    """800 cycles pass from the first product to the last; the last function runs beside them."""
    product, function = Work("matrix", 300.0, small=True), Work("vector", 200.0, small=False)

    found = Forecast.of([product, function, product, function], 400.0, EDGE)

    assert found.time == 800 + 4 * CALL
    assert found.prices["matrix"] == 1.0
    assert found.prices["vector"] == 0.5
    assert found.prices[DRAM] == 0.5
    assert found.prices["scalar"] == 0.3


def test_calls_of_large_issues_work_beside_each_other() -> None:
    large = [Work(unit, 300.0, small=False) for unit in ("vector", "matrix", "vector")]

    assert Forecast.of(large, 0.0, EDGE).time == 600 + 3 * CALL


def test_cycles_of_units_are_shared_by_cores_and_memory_is_not() -> None:
    found = Forecast.of([Work("vector", 400.0, small=False)], 1000.0, DATACENTER)

    assert found.time == 1000 + CALL
    assert found.prices["vector"] == 0.3 / 4
    assert found.prices[DRAM] == 1.0


def test_an_option_is_surely_worse_only_if_no_prices_make_it_better() -> None:
    """A cycle more on one unit is worth between 0.3 and 1 of one on another."""
    assert excess({"matrix": 10.0}, {"vector": 10.0}, 0.3) == pytest.approx(10 - 0.3 * 10)
    assert excess({"matrix": 10.0}, {"vector": 34.0}, 0.3) < 0
    assert excess({"matrix": 10.0}, {"vector": 10.0}, 1.0) == 0
    assert excess({CALLS: 100.0}, {CALLS: 200.0}, 0.3) == -100.0


# ---------------------------------------------------------------- rows that the chip does not hold


@pytest.mark.parametrize("on", ["tiny", "edge"])
@pytest.mark.parametrize(
    ("made", "whole", "names"),
    [
        (
            lambda x: formulas.softmax(x, "n"),
            "softmax",
            {"reduce_max.step", "subtract", "exp", "reduce_sum.step", "divide"},
        ),
        (lambda x: language.max(x, "n"), "reduce_max", {"reduce_max.step"}),
    ],
    ids=["softmax", "max"],
)
def test_a_row_that_does_not_fit_goes_in_pieces(
    made: Callable[[Node], Node], whole: str, names: set[str], on: str
) -> None:
    """In any type and length: of a maximum one row is worked on while the next one is loaded."""
    machine, found = MACHINES[on], {}
    row = machine.scratchpad.size // 4
    for length in (row // 8, row * 2 // 3, 2 * row + 3):
        b = Builder(f"{whole} of {length}")
        b.axis("n", length)
        x = b.input("x", "n", shape=(length,))
        b.graph("main").output("y", made(x))
        found[length] = {*instructions(agree_everywhere(b.model(), machine))}
    assert [*found.values()] == [{whole}, names, names]


def test_a_table_that_does_not_fit_is_read_where_it_is() -> None:
    b = Builder("lookup")
    length = MACHINES["tiny"].scratchpad.size
    table = b.weight("table", "v d", np.arange(2 * length, dtype=np.float32).reshape(length, 2))
    ids = b.input("ids", "n: i32", shape=(3,))
    b.axis("n", 3)
    b.graph("main").output("y", language.gather(table, ids, "v"))
    inputs = {"ids": np.array([0, length - 1, 7], np.int32)}

    assert "embedding" in instructions(agree_everywhere(b.model(), MACHINES["tiny"], inputs=inputs))
