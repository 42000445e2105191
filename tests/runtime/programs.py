"""Random programs and machines, for engines that must agree to the cycle."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from random import Random

from infinisa.isa.instruction import Instruction
from infinisa.isa.language import relu
from infinisa.isa.machine import Channel, Interconnect, Machine
from infinisa.isa.program import Issue, Loop, Operand, Program, Statement, extents, stream
from tests.runtime.builder import LIBRARY, Builder, X, machine, made

UNITS = ("vector", "matrix", "text")
KINDS = 8


def _library() -> dict[str, Instruction]:
    """Instructions of each unit, with results before and after their unit is free."""
    found = dict(LIBRARY)
    for kind in range(KINDS):
        random = Random(kind)
        cycles = random.randrange(1, 40), random.randrange(1, 60)
        for unit in UNITS:
            name = f"{unit}{kind}"
            found[name] = made(name, unit, cycles, X, output=relu(X))
    return found


RANDOM_LIBRARY: Mapping[str, Instruction] = _library()


def random_machine(random: Random, cores: int = 0) -> Machine:
    burst, gap = random.choice([(1, 0), (1, 0), (8, 3)])
    channel = Channel(
        sharing=random.choice(["fifo", "fair", "fair"]),
        burst=burst,
        gap=gap,
        efficiency=random.choice([100, 73]),
    )
    if random.random() < 0.2:
        rows = random.choice([1, 2, 4]), random.choice([8, 32]), random.choice([0, 3, 20])
        channel = replace(channel, sharing="banked", banks=rows[0], row=rows[1], row_miss=rows[2])
    found = machine(
        channel=channel,
        bandwidth=random.choice([1000, 700, 3100]),
        load={
            "count": random.choice([1, 2]),
            "share": random.choice([1, 3]),
            "bandwidth": random.choice([0, 500]),
        },
        window=random.choice([1, 2, 3, 5, 8, 16, 32, 64, 65, 128]),
        fetch=random.choice([1, 2, 4]),
        issue=random.choice([1, 2, 4, 8]),
        latency=random.choice([0, 1, 5, 50]),
        cores=cores or random.choice([1, 1, 1, 2, 3]),
        barrier=random.choice([0, 7]),
        vectors=random.choice([1, 2, 3]),
        banks=random.choice([0, 0, 0, 4, 16]),
        ports=random.choice([1, 2]),
    )
    memories = found.memories
    if found.cores > 1 and random.random() < 0.4:
        memories = replace(memories[0], shared=True), *memories[1:]
    way = Interconnect(
        bandwidth=random.choice([500, 900, 4000]),
        latency=random.choice([0, 4]),
        shared=random.random() < 0.5,
    )
    return replace(found, memories=memories, interconnect=way if random.random() < 0.4 else None)


def random_program(random: Random, *, cores: int = 1, depth: int = 3, most: int = 2000) -> Program:
    """Loops in loops, with tails, rotating tiles that share places, pieces ahead and in reverse,
    tensors in place and padded; at most so many issues on the first core."""
    while True:
        program = _Drawn(random).program(depth, cores > 1)
        (stage,) = program.sections[0].stages
        issues = stream(stage, extents(program.sections[0], {}), 0, cores)
        if sum(1 for _ in islice(issues, most + 1)) <= most:
            return program


class _Drawn:
    """A program in the making."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.build = Builder(library=RANDOM_LIBRARY)
        self.roots = [f"r{i}" for i in range(random.randrange(1, 4))]
        for name in self.roots:
            self.build.axis(name, random.randrange(1, 40))
        for i in range(3):
            self.build.tensor(f"t{i}", 64, kind=random.choice(["input", "state", "output"]))
        self.places = random.randrange(2, 6)
        self.loops = 0

    def program(self, depth: int, spread: bool) -> Program:
        random = self.random
        items: list[Statement] = [
            self.loop(depth - 1, [], self.roots, spread and random.random() < 0.8)
        ]
        for place in (0, 1):
            if random.random() < 0.4:
                items.insert(place * len(items), self.issue([], self.roots))
        return self.build.program(items)

    def loop(self, depth: int, rotors: list[str], ranges: list[str], spread: bool) -> Loop:
        random = self.random
        self.loops += 1
        name = f"l{self.loops}"
        parent = random.choice(ranges)
        step = random.randrange(1, 12) if random.random() < 0.7 else 1
        inner = rotors if spread else [*rotors, name]
        named = [*ranges, name]
        body: list[Statement] = [self.issue(inner, named) for _ in range(random.randrange(1, 4))]
        for _ in range(random.choice([1, 1, 2]) if depth else 0):
            place = random.randrange(len(body) + 1)
            body.insert(place, self.loop(depth - 1, inner, named, False))
        ahead: list[Issue] = []
        if not spread and random.random() < 0.4:
            ahead = [self.issue(inner, named) for _ in range(random.randrange(1, 3))]
        reverse = not spread and random.random() < 0.25
        return Loop(name, parent, step, tuple(body), tuple(ahead), spread, reverse)

    def tile(self, rotors: list[str]) -> str:
        random = self.random
        place, rotor = random.randrange(self.places), random.choice(["", *rotors])
        slots = random.choice([1, 2, 3]) if rotor else 1
        name = f"b{place}_{rotor}_{slots}"
        if name not in self.build.buffers:
            self.build.tile(name, 64, slots=slots, rotor=rotor, place=place)
        return name

    def issue(self, rotors: list[str], ranges: list[str]) -> Issue:
        random, build = self.random, self.build
        over, kind = random.choice(ranges), random.random()
        mine, other = f"{self.tile(rotors)} {over}", f"{self.tile(rotors)} {over}"
        tensor = f"t{random.randrange(3)} {over}"
        if kind < 0.25:
            load = build.load(mine, tensor)
            return self.padded(load) if random.random() < 0.3 else load
        if kind < 0.4:
            return build.store(tensor, mine)
        name = f"{random.choice(UNITS)}{random.randrange(KINDS)}"
        read = tensor if random.random() < 0.15 else mine
        return build.issue(name, [read], [other], f"m={over}")

    def padded(self, load: Issue) -> Issue:
        """A load whose tensor begins later than its range."""
        (read,) = load.reads
        (dimension,) = read.dimensions
        moved = replace(dimension, offset=-self.random.randrange(1, 20))
        return replace(load, reads=(Operand(read.buffer, (moved,), 0.0),))


def remainder(random: Random) -> int:
    """A number that is seldom a multiple of much."""
    return random.randrange(30, 120)


def nest(random: Random, depth: int) -> Program:
    """A nest of loops with tails, long enough for a steady state."""
    build = Builder(library=RANDOM_LIBRARY)
    build.tensor("t", 1 << 20)
    build.tensor("u", 1 << 20, kind="output")
    names = [f"l{level}" for level in range(depth)]
    for level, name in enumerate(names):
        most = remainder(random) if level in (0, depth - 1) else random.randrange(2, 5)
        build.axis(f"r{level}", most)
        for place, slots in ((2 * level, 2), (2 * level + 1, random.choice([1, 2, 3]))):
            build.tile(f"{name}_{place % 2}", 64, slots=slots, rotor=name, place=place)
    body: tuple[Loop, ...] = ()
    for level in reversed(range(depth)):
        name = names[level]
        kind = random.randrange(8)
        items: tuple[Statement, ...] = (
            *([] if level % 2 else [build.load(f"{name}_0 {name}", f"t {name}")]),
            build.issue(f"vector{kind}", [f"{name}_0 {name}"], [f"{name}_1 {name}"], f"m={name}"),
            *body,
            build.store(f"u {name}", f"{name}_1 {name}"),
        )
        ahead = (build.load(f"{name}_0 {name}", f"t {name}"),) if level % 2 else ()
        step = random.choice([1, 2, 3])
        body = (Loop(name, f"r{level}", step, items, ahead, reverse=random.random() < 0.3),)
    return build.program(body)
