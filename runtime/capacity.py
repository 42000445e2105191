"""What is where on the chip in each stage of a program, against the size of its memories."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from infinisa.isa.machine import Machine, Memory
from infinisa.isa.program import Program, Section, Stage


@dataclass(frozen=True)
class Held:
    """A buffer in a memory: `bytes` of all its slots, from `address` on, alive at the calls from
    `first` to before `last`."""

    buffer: str
    place: int
    address: int
    slots: int
    bytes: int
    first: int
    last: int


@dataclass(frozen=True)
class Use:
    """A memory of `size` bytes in one stage.

    used     bytes of the places, in which buffers that are never alive together share
    peak     the most bytes of buffers that are alive at the same call
    buffers  by address
    """

    section: str
    stage: str
    memory: str
    size: int
    used: int
    peak: int
    buffers: tuple[Held, ...]

    def plain(self) -> dict[str, object]:
        return asdict(self)


def capacity(program: Program, machine: Machine) -> tuple[Use, ...]:
    """One row for each stage and each memory that software manages and the stage uses.

    `isa.verify` has proved that nothing lies outside a memory, and that places are apart.
    """
    return tuple(
        use
        for section in program.sections
        for stage in section.stages
        for memory in machine.memories
        if memory.managed == "software"
        for use in _use(program, section, stage, memory)
    )


def _use(program: Program, section: Section, stage: Stage, memory: Memory) -> Iterator[Use]:
    held = []
    for name, first, last in stage.lifetimes:
        buffer = program.buffer[name]
        if buffer.memory == memory.name:
            size = buffer.slots * buffer.pitch
            held.append(Held(name, buffer.place, buffer.address, buffer.slots, size, first, last))
    if not held:
        return
    held.sort(key=lambda each: (each.address, each.first))
    places = {each.place: each.bytes for each in held}
    peak = max(
        sum(other.bytes for other in held if other.first <= each.first < other.last)
        for each in held
    )
    yield Use(
        section.name, stage.name, memory.name, memory.size, sum(places.values()), peak, tuple(held)
    )
