"""One layer over several cores: by which axis, over how many, and with the same values."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks import _layers as layers
from benchmarks._handmade import Handmade
from infinisa.compiler.calls import Covered
from infinisa.compiler.schedule.cost import Group
from infinisa.compiler.schedule.emit import emit
from infinisa.compiler.schedule.tile import schedule
from infinisa.isa.machine import Interconnect, Machine, Memory
from infinisa.isa.program import Program, core_share
from infinisa.isa.verify import verify
from infinisa.runtime.interpreter import interpret
from infinisa.runtime.simulator import Report, simulate
from tests.compiler.schedule.test_emit import LIBRARY, machine, tensors
from tests.compiler.schedule.test_tile import DATACENTER, EDGE, MACHINES
from tests.compiler.selection.test_split import fast


def compiled(covered: Covered, on: Machine) -> tuple[list[Group], Program]:
    groups = schedule(covered, on)
    program = emit("test", on, [(covered, groups)])
    verify(program, on, LIBRARY)
    return groups, program


def layer(on: Machine, positions: int) -> Report:
    """GPT-2 small's."""
    _, program = compiled(layers.gpt2(on, LIBRARY, positions, 768, 12, 3072), on)
    return simulate(program, LIBRARY, on)


def with_cache(on: Machine, size: int = 1 << 26) -> Machine:
    """With a cache that all cores share before DRAM."""
    first, dram = on.memories
    cache = Memory(name="l2", size=size, managed="hardware", shared=True)
    return replace(on, memories=(first, cache, dram))


@pytest.mark.parametrize("cached", [False, True], ids=["apart", "shared cache"])
def test_a_layer_is_faster_on_more_cores(cached: bool) -> None:
    machines = [replace(DATACENTER, cores=cores) for cores in (1, 2, 4, 8)]

    cycles = [layer(with_cache(on) if cached else on, 1024).cycles for on in machines]

    assert cycles == sorted(set(cycles), reverse=True)
    assert cycles[0] > 1.9 * cycles[1] > 2.8 * cycles[2]


@pytest.mark.parametrize("name", ["datacenter", "edge"])
def test_cores_that_are_of_no_use_do_no_harm(name: str) -> None:
    """128 positions are bound by DRAM on two cores. More cores would only load the same again."""
    two, *more = (layer(replace(MACHINES[name], cores=n), 128).cycles for n in (2, 4, 8))

    assert max(more) < 1.05 * two


def working(group: Group, sizes: dict[str, int], cores: int) -> int:
    """How many cores get a piece."""
    if group.spread is None:
        return 1
    length = sizes[group.spread]
    return -(-length // core_share(length, group.step, cores))


def test_a_group_may_use_some_of_the_cores() -> None:
    on = replace(EDGE, cores=8)
    covered = layers.gpt2(on, LIBRARY, 128, 768, 12, 3072)
    sizes = {extent.axis: extent.most for extent in covered.extents}

    used = [working(group, sizes, 8) for group in compiled(covered, on)[0]]

    assert any(1 < each < 8 for each in used)


@pytest.mark.parametrize("axis", ["b", "m", "n"])
def test_batch_rows_and_columns_are_dealt_out(axis: str) -> None:
    """Whichever there is the most of."""
    sizes = {"b": 1, "m": 128, "n": 128, "k": 1024} | {axis: {"b": 16}.get(axis, 2048)}
    g = Handmade("main", fast(), LIBRARY, sizes)
    g.tensor("x", "b m k", "input", "bf16")
    g.tensor("w", "k n", "weight", "bf16")
    g.tensor("y", "b m n", "output")
    g.call("matmul.step", "m=m n=n k=k", ["x[b m k]", "w[k n]"], ["y[b m n]"])

    (group,) = schedule(g.covered(), fast())

    assert group.spread == axis
    assert working(group, sizes, 4) == 4


@pytest.mark.parametrize("cores", [2, 4, 8])
def test_values_do_not_depend_on_the_number_of_cores(cores: int) -> None:
    def values(on: Machine) -> dict[str, np.ndarray]:
        covered = layers.gpt2(on, LIBRARY, 37, 48, 6, 90, "f32")
        groups, program = compiled(covered, on)
        assert on.cores == 1 or any(group.spread for group in groups)
        return interpret(program, LIBRARY, tensors(covered), {}, cores=on.cores).outputs

    one, several = values(machine(cores=1)), values(machine(cores=cores))

    for name in one:
        np.testing.assert_allclose(several[name], one[name], rtol=2e-4, atol=2e-4)


def test_what_all_cores_load_comes_once_through_a_shared_cache() -> None:
    """The predicted bytes are those that the simulator moves, and less than without a cache."""
    on = with_cache(replace(DATACENTER, cores=4))
    covered = layers.gpt2(on, LIBRARY, 1024, 768, 12, 3072)

    groups, program = compiled(covered, on)
    report = simulate(program, LIBRARY, on)

    moved = report.read["dram"] + report.written["dram"]
    assert moved == pytest.approx(sum(group.bytes for group in groups), rel=0.1)
    without = layer(replace(DATACENTER, cores=4), 1024)
    assert moved < 0.8 * (without.read["dram"] + without.written["dram"])


def test_links_that_are_slow_are_avoided() -> None:
    """Two links are needed for all of DRAM: a schedule that knows uses more cores."""
    on = replace(DATACENTER, cores=8)
    slow = replace(on, interconnect=Interconnect(bandwidth=on.dram.bandwidth // 2, latency=20))
    covered = layers.gpt2(slow, LIBRARY, 128, 768, 12, 3072)

    def cycles(chosen_for: Machine) -> int:
        program = emit("test", slow, [(covered, schedule(covered, chosen_for))])
        return simulate(program, LIBRARY, slow).cycles

    assert cycles(slow) < 0.97 * cycles(on)
