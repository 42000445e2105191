"""Which calls are joined, in tiles of what size, and what is found only once."""

import itertools
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from benchmarks import _layers as layers
from benchmarks._handmade import Handmade
from infinisa.compiler.calls import Covered
from infinisa.compiler.schedule import tile
from infinisa.compiler.schedule.cost import (
    Cycles,
    Grid,
    Group,
    Target,
    estimate,
    levels,
    tile_sizes,
)
from infinisa.compiler.schedule.home import Setting
from infinisa.compiler.schedule.nest import Cut, nest
from infinisa.compiler.schedule.tile import atoms, frame, orders, schedule
from infinisa.isa.errors import CompileError
from infinisa.isa.instruction import Instruction
from infinisa.isa.machine import Machine, builtin_machine_files, load_machine
from infinisa.isa.program import Parameter
from infinisa.plugins.families import attention, elementwise, linear, normalization

FAMILIES = (attention, elementwise, linear, normalization)
LIBRARY: dict[str, Instruction] = {
    made.name: made for family in FAMILIES for made in family.infinisa_instructions()
}
MACHINES = {file.stem: load_machine(file) for file in builtin_machine_files()}
TINY, EDGE, DATACENTER = (MACHINES[name] for name in ("tiny", "edge", "datacenter"))


def product(machine: Machine, m: int, n: int, k: int) -> Handmade:
    g = Handmade("main", machine, LIBRARY, {"m": m, "n": n, "k": k})
    g.tensor("x", "m k", "input", "bf16")
    g.tensor("w", "k n", "weight", "bf16")
    g.tensor("y", "m n", "output")
    g.call("matmul.step", "m=m n=n k=k", ["x[m k]", "w[k n]"], ["y[m n]"])
    return g


def test_tile_sizes_are_whole_arrays_and_leave_no_sliver() -> None:
    calls = product(EDGE, 200, 32, 768).covered().calls

    assert tile_sizes(calls, "m", 200) == [32, 64, 128, 200]
    assert tile_sizes(calls, "n", 32) == [32]
    assert tile_sizes(calls, "k", 768) == [512, 768]


def test_an_order_is_tried_for_every_axis_outside() -> None:
    calls = product(EDGE, 200, 64, 768).covered().calls

    sizes = {"m": 200, "n": 64, "k": 768}

    assert orders(calls, 2, sizes) == [("m", "n", "k"), ("n", "m", "k")]
    assert ("k", "m", "n") in orders(calls, 3, sizes)


def test_an_axis_of_one_position_is_no_loop() -> None:
    calls = product(EDGE, 1, 64, 768).covered().calls

    assert orders(calls, 2, {"m": 1, "n": 64, "k": 768}) == [("n", "k"), ("k", "n")]


def test_a_tensor_is_loaded_outside_of_loops_that_do_not_cut_it() -> None:
    """Outside of a loop that cuts it, a load moves the same bytes and holds more."""
    covered = product(EDGE, 200, 64, 768).covered()
    tree = nest(covered.calls, ("m", "n", "k"))
    loaded = frame(covered, EDGE).setting((0, 1)).loaded

    assert list(levels(tree, loaded["x"])) == [3, 1]  # m k: read again for each tile of n
    assert list(levels(tree, loaded["w"])) == [3, 0]  # k n: read again for each tile of m


def test_readers_that_share_no_loop_come_together_outside_of_all() -> None:
    """The product needs all rows of y, so each reader of x has its own loops over m and n."""
    g = Handmade("main", EDGE, LIBRARY, {"m": 256, "n": 256, "o": 256})
    for name, kind in (("x", "input"), ("y", "temporary"), ("z", "output")):
        g.tensor(name, "m n", kind, "bf16")
    g.call("gelu_tanh", "m=m,n", ["x[m n]"], ["y[m n]"])
    g.call("matmul.step", "m=m k=n n=o", ["x[m n]", "y[n o]"], ["z[m o]"])
    covered = g.covered()
    tree = nest(covered.calls, ("m", "n", "o"))

    assert tree.common([0, 1]) == 0
    loaded = frame(covered, EDGE).setting((0, 2)).loaded
    assert list(levels(tree, loaded["x"])) == [3, 2, 0]


def test_a_layer_is_a_few_groups() -> None:
    covered = layers.gpt2(EDGE, LIBRARY, 128, 768, 12, 3072)

    groups = schedule(covered, EDGE)

    assert len(groups) <= 4
    assert [call for group in groups for call in group.calls] == list(covered.calls)


def test_without_fusion_every_call_is_a_group() -> None:
    covered = layers.gpt2(EDGE, LIBRARY, 128, 768, 12, 3072)

    assert len(schedule(covered, EDGE, fuse=False)) == len(covered.calls)


def test_a_scan_is_never_parted() -> None:
    covered = layers.bigru(EDGE, LIBRARY, 16, 1, 64)

    assert atoms(covered)[:4] == [(0, 1), (1, 3), (3, 4), (4, 6)]


def test_all_users_of_a_scan_state_stay_with_it() -> None:
    """A call before the scan that sets the state, and one after it that reads the state."""
    covered = layers.lstm(EDGE, LIBRARY, 16, 1, 64)
    g = Handmade("lstm", EDGE, LIBRARY, covered.sizes or {"b": 1, "n": 64})
    g.tensors.update(covered.tensors)
    g.tensor("start", "b n", "input", "bf16")
    g.tensor("end", "b n", "output", "bf16")
    g.call("move", "m=b,n", ["start[b n]"], ["h[b n]"])
    g.call("move", "m=b,n", ["h[b n]"], ["end[b n]"])
    before, after = g.calls
    project, *scan = covered.calls

    whole = replace(covered, calls=(before, project, *scan, after), tensors=g.tensors)

    assert atoms(whole) == [(0, 5)]


def test_the_step_and_the_finish_of_an_instruction_are_never_parted() -> None:
    covered = layers.gpt2(EDGE, LIBRARY, 128, 768, 12, 3072)
    names = [call.definition.name for call in covered.calls]
    step, finish = names.index("causal_flash_step"), names.index("flash_finish")
    partial = {
        name: replace(tensor, kind="partial") if name in ("total", "weighted") else tensor
        for name, tensor in covered.tensors.items()
    }

    assert (step, step + 1) in atoms(covered)
    assert (step, finish + 1) in atoms(replace(covered, tensors=partial))


def test_weights_of_a_recurrence_stay_on_the_chip_if_they_fit() -> None:
    steps = (Parameter("steps", 64, 64),)

    def level(n: int) -> int:
        covered = layers.lstm(EDGE, LIBRARY, 64, 1, n)
        return schedule(covered, EDGE, parameters=steps)[-1].level["w.h"]

    assert level(128) == 0  # 128 KiB
    assert level(512) > 0  # 2 MiB


def test_the_outermost_axis_is_dealt_out_over_the_cores() -> None:
    covered = product(DATACENTER, 1024, 1024, 1024).covered()

    (group,) = schedule(covered, DATACENTER)

    assert group.spread in ("m", "n")
    assert group.step == 128
    assert group.tile[Cut(group.spread)] <= 256


def test_an_axis_is_as_long_as_its_parameter_usually_is() -> None:
    """A context of 32 of at most 2048 positions: the cost is that of 32."""
    covered = layers.llama(EDGE, LIBRARY, 1, 512, 8, 1024, context=2048)

    def moved(length: int) -> float:
        groups = schedule(covered, EDGE, parameters=(Parameter("context", 2048, length),))
        return sum(group.bytes for group in groups)

    cache = 2 * 512 * 2  # bytes of keys and values a position
    assert moved(2048) - moved(32) == pytest.approx((2048 - 32) * cache, rel=0.01)


def test_repeated_layers_are_searched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    searched = []
    costed = tile.Search._costed

    def counted(self: tile.Search, setting: Setting, *rest: Any) -> Group | None:
        searched.append(setting)
        return costed(self, setting, *rest)

    monkeypatch.setattr(tile.Search, "_costed", counted)

    def searches(times: int) -> int:
        searched.clear()
        layer = layers.gpt2(EDGE, LIBRARY, 128, 768, 12, 3072)
        schedule(layers.stacked(layer, times), EDGE)
        return len(searched)

    assert searches(3) == searches(12)


def test_what_surely_takes_longer_is_left_out_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    covered = layers.gpt2(DATACENTER, LIBRARY, 128, 768, 12, 3072)
    left_out = []

    def whole(
        grid: Grid, target: Target, cycles: Cycles, slots: int, *bounds: float
    ) -> Group | None:
        found = estimate(grid, target, cycles, slots)
        if estimate(grid, target, cycles, slots, *bounds) is None and found is not None:
            left_out.append((found.time, bounds[1]))
        return found

    groups = schedule(covered, DATACENTER)
    monkeypatch.setattr(tile, "estimate", whole)

    assert schedule(covered, DATACENTER) == groups
    assert len(left_out) > 10
    assert all(time > most for time, most in left_out)


def mixed(seed: int) -> Covered:
    """Calls that read what the last ones wrote and sometimes write there, and states that are
    touched now and then."""
    random = Random(seed)
    g = Handmade("main", EDGE, LIBRARY, {"m": 32, "n": 32})
    g.tensor("t0", "m n", "input")
    states = [f"s{number}" for number in range(12)]
    for name in states:
        g.tensor(name, "m n", random.choice(["state", "temporary"]))
    made = 1
    for _ in range(150):
        reads = [f"t{max(0, made - random.choice([1, 1, 2, 3]))}" for _ in range(2)]
        made += made < 3 or random.random() < 0.6
        write = f"t{made - 1}"
        if write not in g.tensors:
            g.tensor(write, "m n", "temporary")
        reads[0] = random.choice(states) if random.random() < 0.2 else reads[0]
        write = random.choice(states) if random.random() < 0.2 else write
        g.call("add", "m=m,n", [f"{name}[m n]" for name in reads], [f"{write}[m n]"])
    return g.covered()


@pytest.mark.parametrize("seed", range(8))
def test_runs_of_equal_signatures_are_alike(seed: int) -> None:
    """The signature is the quicker question: where it says yes, the key says so too."""
    layer = layers.gpt2(EDGE, LIBRARY, 128, 768, 12, 3072)
    covered = mixed(seed) if seed else layers.stacked(layer, 4)
    search = tile.Search(covered, EDGE, tile.lengths(covered, ()))
    last = len(covered.calls)
    keys: dict[object, set[object]] = {}
    for first, end in itertools.combinations(range(last + 1), 2):
        if end - first <= tile.LONGEST:
            signature = search.signatures[first:end]
            keys.setdefault(signature, set()).add(
                search.likeness.of(search.around.setting((first, end)))[0]
            )

    assert {len(each) for each in keys.values()} == {1}
    assert seed or len(keys) < last * tile.LONGEST / 2


def test_the_smallest_tile_must_fit() -> None:
    g = Handmade("main", TINY, LIBRARY, {"m": 4, "n": 30_000})
    g.tensor("x", "m n", "input")
    g.tensor("y", "m n", "output")
    g.call("softmax", "m=m n=n", ["x[m n]"], ["y[m n]"])

    with pytest.raises(CompileError) as caught:
        schedule(g.covered(), TINY)

    assert str(caught.value) == (
        "graph 'main': the smallest tiles of softmax y need 240000 bytes, "
        "memory 'scratchpad' of machine 'tiny' has 65536"
    )
