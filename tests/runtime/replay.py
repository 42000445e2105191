"""Values in simulated time order: operands are read when an issue starts, and results and sums
land when it is done. A hazard that the engine missed, or two live buffers that share bytes, show
as values other than the interpreter's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from infinisa.isa.instruction import Instruction
from infinisa.isa.machine import Machine
from infinisa.isa.program import Operand, Piece, Program, defaults, extents
from infinisa.runtime.interpreter import Executor, interpret
from infinisa.runtime.simulator import Event, simulate
from infinisa.runtime.values import Array, Memory, Result, bind


@dataclass
class Held(Memory):
    """A memory whose first reads give what was read before."""

    given: list[Array] = field(default_factory=list)

    def read(self, operand: Operand, ranges: Mapping[str, Piece], core: int) -> Array:
        return self.given.pop(0) if self.given else super().read(operand, ranges, core)


def moments(events: Sequence[Event]) -> list[tuple[int, bool, int, int]]:
    """(cycle, whether it starts, program order, which event): what ends comes first."""
    found = []
    for i, event in enumerate(events):
        found += [(event.done, False, event.number, i), (event.start, True, event.number, i)]
    return sorted(found)


def replay(
    program: Program,
    library: Mapping[str, Instruction],
    machine: Machine,
    arrays: Mapping[str, Array],
    parameters: Mapping[str, int] | None = None,
) -> Result:
    """What a program computes when its issues run as simulated."""
    events = simulate(program, library, machine, parameters, trace=True).events
    memory = Held(program, bind(program, arrays))
    values = defaults(program, parameters)
    executor = Executor(program, library, memory, dict(values))
    sections = {section.name: section for section in program.sections}
    held: dict[int, list[Array]] = {}
    begun: tuple[str, int, str] | None = None
    for _, starts, _, i in moments(events):
        event = events[i]
        issue, ranges, core = event.issue, event.ranges, event.core
        section = sections[event.section]
        if begun != (event.section, event.turn, event.stage):
            begun = event.section, event.turn, event.stage
            (stage,) = (stage for stage in section.stages if stage.name == event.stage)
            for each in range(machine.cores):
                memory.start(stage, each)
        if starts:
            held[i] = [memory.read(operand, ranges, core).copy() for operand in issue.reads]
            continue
        turn = {} if section.repeat is None else {section.repeat.counter: event.turn}
        memory.given = held.pop(i)
        computed = executor.compute(issue, ranges, extents(section, values | turn), core)
        executor.write(issue, ranges, core, computed)
    assert not held
    return memory.result(executor.values, {})


def assert_replays(
    program: Program,
    library: Mapping[str, Instruction],
    machine: Machine,
    arrays: Mapping[str, Array],
    parameters: Mapping[str, int] | None = None,
) -> None:
    """Outputs and kept tensors are, to the bit, those of the interpreter."""
    want = interpret(program, library, arrays, parameters, cores=machine.cores)
    got = replay(program, library, machine, arrays, parameters)
    for expected, found in ((want.outputs, got.outputs), (want.kept, got.kept)):
        assert expected.keys() == found.keys()
        for name, array in expected.items():
            np.testing.assert_array_equal(array, found[name], err_msg=name)
