"""Random and regular programs, replayed in simulated time order on byte-addressed memories."""

import random
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import _layers as layers
from infinisa.compiler.schedule.emit import emit
from infinisa.compiler.schedule.tile import schedule
from infinisa.isa.dtypes import DTYPES
from infinisa.isa.instruction import Instruction
from infinisa.isa.language import Input, dot
from infinisa.isa.machine import Machine, builtin_machine_files, load_machine
from infinisa.isa.program import Dimension, Issue, Loop, Operand, Parameter, Program, Term
from infinisa.plugins.families import attention, elementwise, linear, normalization
from infinisa.runtime.simulator.simpy_engine import Core
from infinisa.runtime.values import Array
from tests.runtime.builder import A, B, Builder, X, machine, made
from tests.runtime.replay import assert_replays

Y, XX = Input("y", X.over), Input("x", ("m", "n"))

LIBRARY = {
    instruction.name: instruction
    for instruction in (
        made("multiply", "matrix", (10, 14), A, B, output=dot(A, B, "k")),
        made("matrix_add", "matrix", (3, 30), X, Y, output=X + Y),
        made("add", "vector", (6, 8), X, Y, output=X + Y),
        made("slow", "vector", (2, 20), X, output=X * 0.5 + 1.0),
        made("quick", "vector", (2, 4), X, output=X * 1.5 - 1.0),
        made("halve", "vector", (6, 9), XX, output=XX * 0.5),
        made("early", "vector", (9, 3), X, output=X - 0.25),
    )
}


def random_program(seed: int) -> Program:
    """Straight-line issues on few tiles, some of which share a place; every tile is written first.

    Stores of one stage are disjoint, as those of a compiler are.
    """
    rng = random.Random(seed)
    build = Builder(dtype="f32", library=LIBRARY)
    build.axis("m", 4)
    build.tensor("t", 64, kind="state")
    build.tensor("out", 64, kind="output")
    tiles = [f"p{i}" for i in range(rng.randrange(2, 6))]
    for i, name in enumerate(tiles):
        build.tile(name, 4, place=i // rng.choice((1, 1, 2)))

    def outside(tensor: str, row: int) -> Operand:
        return Operand(tensor, (Dimension((Term("m"),), 4 * row),))

    stages = []
    for _ in range(rng.choice((1, 2))):
        body: list[Issue] = []
        rows = {name: rng.sample(range(16), 16) for name in ("t", "out")}
        for tile in tiles:
            load = build.load(f"{tile} m", "t m")
            body.append(replace(load, reads=(outside("t", rng.randrange(16)),)))
        for _ in range(rng.randrange(5, 25)):
            kind = rng.choice(("load", "store", "matrix_add", "add", "slow", "quick", "early"))
            target = rng.choice(tiles)
            if kind == "load":
                load = build.load(f"{target} m", "t m")
                body.append(replace(load, reads=(outside("t", rng.randrange(16)),)))
            elif kind == "store":
                tensor = rng.choice(("t", "out"))
                if rows[tensor]:
                    store = build.store(f"{tensor} m", f"{target} m")
                    body.append(replace(store, writes=(outside(tensor, rows[tensor].pop()),)))
            else:
                count = len(LIBRARY[kind].operands)
                reads = [f"{rng.choice(tiles)} m" for _ in range(count)]
                body.append(build.issue(kind, reads, [f"{target} m"], "m=m"))
        stages.append(body)
    return build.program(*stages)


def values(size: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(0).standard_normal(size).astype(np.float32)


@pytest.mark.parametrize("seed", range(60))
def test_random_programs(seed: int) -> None:
    rng = random.Random(seed)
    target = machine(
        window=rng.choice((1, 2, 8, 32)),
        fetch=rng.choice((1, 4)),
        issue=rng.choice((1, 8)),
        vectors=rng.choice((1, 2)),
    )

    assert_replays(random_program(seed), LIBRARY, target, {"t": values(64)})


def product(m: int, n: int, k: int) -> Program:
    """for m1 over cores: for n1: for k1: load, load, multiply and add; half it; store."""
    build = Builder(dtype="f32", library=LIBRARY)
    for axis, length in (("m", m), ("n", n), ("k", k)):
        build.axis(axis, length)
    build.tensor("a", m, k)
    build.tensor("b", k, n)
    build.tensor("c", m, n, kind="output")
    build.tile("ta", 4, 8, slots=2, rotor="k1")
    build.tile("tb", 8, 4, slots=2, rotor="k1")
    build.tile("tc", 4, 4, slots=2, rotor="n1")
    build.tile("tr", 4, 4, slots=2, rotor="n1")
    multiply = build.issue(
        "multiply.step", ["ta m2 k1", "tb k1 n1"], ["tc m2 n1"], "m=m2 n=n1 k=k1", fresh=("k1",)
    )
    body = (build.load("tb k1 n1", "b k1 n1"), multiply)
    inner = Loop("k1", "k", 8, body, ahead=(build.load("ta m2 k1", "a m2 k1"),))
    half = build.issue("halve", ["tc m2 n1"], ["tr m2 n1"], "m=m2 n=n1")
    columns = Loop("n1", "n", 4, (inner, half, build.store("c m2 n1", "tr m2 n1")))
    return build.program([Loop("m1", "m", 4, (Loop("m2", "m1", 4, (columns,)),), spread=True)])


@pytest.mark.parametrize("cores", [1, 3])
@pytest.mark.parametrize("window", [1, 4, 32])
def test_a_tiled_contraction(cores: int, window: int) -> None:
    """Sizes that no tile divides, over slots that turn."""
    generator = np.random.default_rng(1)
    arrays = {
        name: generator.standard_normal(shape).astype(np.float32)
        for name, shape in (("a", (10, 27)), ("b", (27, 9)))
    }

    assert_replays(product(10, 9, 27), LIBRARY, machine(window=window, cores=cores), arrays)


@pytest.mark.parametrize("rule", ["follow", "replace"])
def test_replay_sees_a_hazard_that_is_ignored(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values differ where nothing waits for results, or for what is overwritten."""
    monkeypatch.setattr(Core, rule, lambda self, entry, other: None)
    wrong = 0
    for seed in range(20):
        try:
            assert_replays(random_program(seed), LIBRARY, machine(), {"t": values(64)})
        except AssertionError:
            wrong += 1

    assert wrong > 5


# ---------------------------------------------------------------- compiled layers

FAMILIES = (attention, elementwise, linear, normalization)
INSTRUCTIONS: dict[str, Instruction] = {
    made.name: made for family in FAMILIES for made in family.infinisa_instructions()
} | layers.OWN
TINY = {file.stem: load_machine(file) for file in builtin_machine_files()}["tiny"]


def small(kilobytes: int, cores: int, window: int, bandwidth: int) -> Machine:
    """The tiny machine with another scratchpad, other bandwidth and more cores."""
    chip, dram = TINY.memories
    memories = replace(chip, size=kilobytes << 10), replace(dram, bandwidth=bandwidth)
    return replace(
        TINY, memories=memories, cores=cores, dispatch=replace(TINY.dispatch, window=window)
    )


LAYERS = {
    "gpt2": lambda on: layers.gpt2(on, INSTRUCTIONS, 21, 24, 3, 40),
    "llama": lambda on: layers.llama(on, INSTRUCTIONS, 19, 24, 2, 36),
    "llama decoding": lambda on: layers.llama(on, INSTRUCTIONS, 1, 24, 2, 36, 17, 29),
    "lstm": lambda on: layers.lstm(on, INSTRUCTIONS, 7, 2, 17),
    "gru": lambda on: layers.bigru(on, INSTRUCTIONS, 5, 2, 11),
    "resnet": lambda on: layers.resnet(on, INSTRUCTIONS, 7, 5),
}


def arrays_of(program: Program) -> dict[str, Array]:
    generator = np.random.default_rng(2)
    return {
        buffer.name: generator.standard_normal(buffer.shape).astype(DTYPES[buffer.dtype].numpy)
        for buffer in program.buffers
        if buffer.outer and buffer.kind in ("input", "weight", "state")
    }


@pytest.mark.parametrize("cores", [1, 3])
@pytest.mark.parametrize("layer", LAYERS)
def test_a_compiled_layer(layer: str, cores: int) -> None:
    for kilobytes, window, bandwidth in ((64, 16, 4 * 10**9), (8, 32, 10**11), (8, 4, 10**9)):
        target = small(kilobytes, cores, window, bandwidth)
        covered = LAYERS[layer](target)
        parameters = tuple(
            Parameter(name, extent.most, extent.most)
            for extent in covered.extents
            for name, factor in extent.length.terms
            if factor == 1
        )
        groups = schedule(covered, target, parameters=parameters)
        program = emit("test", target, [(covered, groups)], parameters)

        assert_replays(program, INSTRUCTIONS, target, arrays_of(program))
