"""Simulating a program: sections, turns, stages; none whose cycles are known is run again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from infinisa.isa.errors import SimulationError
from infinisa.isa.instruction import Instruction
from infinisa.isa.machine import Machine
from infinisa.isa.program import Program, Section, defaults, extents, turns

from .auto import AutoEngine
from .compiled_engine import CompiledEngine, KernelEngine
from .contract import (
    Event,
    Interrupted,
    Origins,
    Progress,
    Report,
    SectionReport,
    StageInterrupted,
    StageReport,
)
from .critical import layers_of, named, with_path
from .memory import CHANNELS, Sharing
from .policy import Chosen, Policy, as_policy
from .policy import policy as named_policy
from .shapes import Costs, View
from .simpy_engine import Process, SimpyEngine
from .totals import totals
from .trace import Joined

Names: TypeAlias = tuple[tuple[str, ...], tuple[str, ...]]

Engine: TypeAlias = AutoEngine | SimpyEngine | CompiledEngine

ENGINES: Mapping[str, Callable[..., Engine]] = {
    "auto": AutoEngine,
    "simpy": SimpyEngine,
    "compiled": CompiledEngine,
    "kernel": KernelEngine,
}


def simulate(
    program: Program,
    library: Mapping[str, Instruction],
    machine: Machine,
    parameters: Mapping[str, int] | None = None,
    *,
    engine: str = "simpy",
    policy: str | Policy | Callable[..., Chosen] = "oldest",
    trace: bool = False,
    path: bool = False,
    progress: Progress | None = None,
    processes: Mapping[str, Process] | None = None,
    channels: Mapping[str, Sharing] = CHANNELS,
    origins: Origins | None = None,
) -> Report:
    """How long a program takes on a machine, and where the cycles go.

    parameters  those the caller sets; the others, those that instructions set too, keep their
                defaults
    engine      "simpy"; "compiled", which is faster and does not run what plugins simulate;
                "kernel", the same in CPython; "auto" takes the fastest that can
    policy      one of `POLICIES` by name, a policy, or a function: see `policy.as_policy`
    trace       keep every issue with its times; every turn is then simulated
    path        find the critical path
    processes   how units may be simulated, and `channels`: how transfers may share the channel, by
                the name that a machine gives
    origins     the plugins that brought these and the instructions, for messages

    `Interrupted` has a partial report if the user stops it.
    """
    if engine not in ENGINES:
        raise SimulationError(f"engine must be one of {', '.join(ENGINES)}, not {engine!r}")
    chosen = _policy(policy)
    values = defaults(program, parameters)
    made = ENGINES[engine](
        machine,
        policy=chosen,
        channel=_sharing(machine, channels),
        processes=_processes(machine, processes or {}),
        origins=origins or {},
        trace=trace or path,
    )
    costs = Costs(program, library, machine, origins or {})
    runner = Runner(program, machine, costs, made, trace, path)
    try:
        for section in program.sections:
            runner.section(section, values, progress)
    except KeyboardInterrupt:
        raise Interrupted(runner.report(chosen.name, partial=True)) from None
    return runner.report(chosen.name)


def _sharing(machine: Machine, channels: Mapping[str, Sharing]) -> Sharing:
    name = machine.dram.channel.sharing
    if name not in channels:
        raise SimulationError(
            f"machine {machine.name!r}: memories.{machine.dram.name}.channel.sharing must be one "
            f"of {', '.join(channels)}, not {name!r}"
        )
    return channels[name]


def _processes(machine: Machine, known: Mapping[str, Process]) -> Mapping[str, Process]:
    for unit in machine.units:
        if unit.process and unit.process not in known:
            names = f"one of {', '.join(known)}" if known else "what a plugin brings, and none does"
            raise SimulationError(
                f"machine {machine.name!r}: units.{unit.name}.process must be {names}, "
                f"not {unit.process!r}"
            )
    return known


def _policy(policy: str | Policy | Callable[..., Chosen]) -> Policy:
    match policy:
        case str():
            return named_policy(policy)
        case Policy():
            return policy
        case _:
            return as_policy(policy.__name__, policy)


@dataclass
class Turns:
    """The reports of the stages of a section: each, and how often it counts."""

    counts: Counter[int] = field(default_factory=Counter)
    reports: dict[int, StageReport] = field(default_factory=dict)
    cycles: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    def begin(self) -> None:
        """A turn begins, which has done no work on tokens yet."""
        self.cycles.append(0)
        self.tokens.append(0)

    def add(self, report: StageReport) -> None:
        self.reports[id(report)] = report
        self.counts[id(report)] += 1
        self.cycles[-1] += report.cycles

    def report(self, machine: Machine, name: str) -> SectionReport:
        return SectionReport(
            **totals(machine, [(self.reports[key], n) for key, n in self.counts.items()]),
            name=name,
            turn_cycles=tuple(self.cycles),
            turn_tokens=tuple(self.tokens),
        )


@dataclass
class Runner:
    """Runs sections one after the other and remembers what stages took.

    now     cycles so far
    known   what a stage took, by `View.key` and by its names; not used where it
            depends on more (`View.repeats`), nor for a trace
    """

    program: Program
    machine: Machine
    costs: Costs
    engine: Engine
    trace: bool = False
    path: bool = False
    now: int = 0
    known: dict[object, dict[Names, StageReport]] = field(default_factory=dict)
    events: list[Sequence[Event]] = field(default_factory=list)
    sections: list[SectionReport] = field(default_factory=list)

    def report(self, policy: str, partial: bool = False) -> Report:
        """What ran so far."""
        return Report(
            **totals(self.machine, ((section, 1) for section in self.sections)),
            program=self.program.name,
            engine=self.engine.name,
            policy=policy,
            sections=tuple(self.sections),
            events=Joined(self.events),
            partial=partial,
        )

    def section(self, section: Section, values: dict[str, int], progress: Progress | None) -> None:
        """Simulate all turns of a section; if the user stops it, `sections` has what ran of it."""
        views = [
            View(self.program, self.machine, self.costs, section, stage) for stage in section.stages
        ]
        count = 1 if section.repeat is None else max(0, section.repeat.count.value(values))
        done = Turns()
        try:
            for turn in turns(section, values):
                if progress:
                    progress(section.name, turn, count)
                done.begin()
                for report in self.stages(section, views, values, turn):
                    done.add(report)
                done.tokens[-1] = section.tokens.value(values)
        except StageInterrupted as stop:
            done.add(stop.report)
            raise
        finally:
            self.sections.append(done.report(self.machine, section.name))

    def stages(
        self, section: Section, views: list[View], values: dict[str, int], turn: int
    ) -> Iterator[StageReport]:
        """The stages of one turn, each from where the one before has ended."""
        outermost = extents(section, values)
        for view in views:
            remember = view.repeats and not self.trace
            key = view.key(outermost) if remember else None
            if key not in self.known:
                report, events = self.engine.run(view, outermost, self.now, turn)
                if self.path:
                    report = with_path(view, report, events, self.now)
                if self.trace:
                    self.events.append(events)
                if remember:
                    self.known[key] = {self.names(view): report}
            else:
                report = self.recall(view, self.known[key])
            self.now += report.cycles
            yield report

    def names(self, view: View) -> Names:
        """The names in the report of a stage: of opcodes and, with a path, of layers."""
        return view.form.opcodes, layers_of(view) if self.path else ()

    def recall(self, view: View, found: dict[Names, StageReport]) -> StageReport:
        """The report of a stage that was simulated, with this stage's names."""
        mine = self.names(view)
        if mine not in found:
            theirs, report = next(iter(found.items()))
            names = dict(zip(theirs[0], mine[0], strict=True))
            rows = tuple(replace(row, opcode=names[row.opcode]) for row in report.opcodes)
            found[mine] = named(view, replace(report, opcodes=rows))
        return found[mine]
