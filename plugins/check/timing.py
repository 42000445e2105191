"""Times of an instruction on every machine that can run it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from infinisa.isa.errors import InfinisaError
from infinisa.isa.instance import issue_cycles
from infinisa.isa.language import Axis
from infinisa.isa.machine import Machine

from .finding import Fault, Note, Subject
from .sample import Sample, lengths_of

GROWING = (1, 2, 3, 7, 8, 9, 16, 31, 32, 100, 128, 257, 1024, 4096)
OTHERS = (1, 24)
"""Lengths of the axes that do not grow."""


def timing(subject: Subject) -> Iterator[Fault | Note]:
    """Occupancy and latency are positive integers that no axis makes smaller by being longer."""
    made = subject.instruction
    machines = [entry.item for entry in subject.registry.machines.values()]
    able = [machine for machine in machines if made.unit in {unit.name for unit in machine.units}]
    if not able:
        names = ", ".join(machine.name for machine in machines)
        yield Fault(f"unit {made.unit!r} must be one of a loaded machine: {names} have none")
    for machine in able:
        try:
            yield from _on(subject, machine)
        except InfinisaError as error:
            yield Fault(f"on {machine.name}: {error}")


def _on(subject: Subject, machine: Machine) -> Iterator[Fault]:
    made, unit = subject.instruction, machine.unit(subject.instruction.unit)
    for others in OTHERS:
        base = lengths_of(made, (others,))
        made.limits(unit, base)
        for axis in base:
            before: tuple[int, int] | None = None
            for length in GROWING:
                lengths = {**base, axis: length}
                sample = Sample(made, lengths)
                now = issue_cycles(made, sample.opcode, unit, lengths)
                where = f"on {machine.name} at {_text(lengths)}"
                if fault := _fault(now, before):
                    yield Fault(f"{where}: {fault}")
                    return
                before = now


def _text(lengths: Mapping[Axis, int]) -> str:
    return " ".join(f"{axis}={length}" for axis, length in lengths.items())


def _fault(now: tuple[int, int], before: tuple[int, int] | None) -> str:
    for number, name in enumerate(("occupancy", "latency")):
        cycles = now[number]
        if not isinstance(cycles, int) or isinstance(cycles, bool) or cycles < 1:
            return f"{name} must be a positive whole number of cycles, not {cycles!r}"
        if before is not None and cycles < before[number]:
            return f"{name} must not fall as the axis grows: it is {cycles}, after {before[number]}"
    return ""
