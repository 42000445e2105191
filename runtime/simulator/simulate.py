"""Simulating a program: sections, turns, stages; none whose cycles are known is run again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeAlias

from infinisa.isa.errors import SimulationError
from infinisa.isa.instruction import Instruction
from infinisa.isa.machine import Machine
from infinisa.isa.program import Like, Program, Ranges, Section, defaults, extents, turns

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
    chosen = chosen_policy(policy)
    values = defaults(program, parameters)
    made = ENGINES[engine](
        machine,
        policy=chosen,
        channel=sharing(machine, channels),
        processes=known_processes(machine, processes or {}),
        origins=origins or {},
        trace=trace or path,
    )
    costs = Costs(program, library, machine, origins or {})
    runner = Runner(program, machine, costs, trace, path)
    try:
        _finish(runner, made, values, progress)
    except KeyboardInterrupt:
        raise Interrupted(runner.report(made.name, chosen.name, partial=True)) from None
    return runner.report(made.name, chosen.name)


def _finish(
    runner: Runner, engine: Engine, values: dict[str, int], progress: Progress | None
) -> None:
    """Run one stage after the other."""
    jobs = runner.jobs(values, progress)
    try:
        job = next(jobs)
        while True:
            try:
                outcome = engine.run(job.view, job.outermost, runner.now, job.turn)
            except KeyboardInterrupt as stop:
                jobs.throw(stop)
            job = jobs.send(outcome)
    except StopIteration:
        pass


def sharing(machine: Machine, channels: Mapping[str, Sharing]) -> Sharing:
    """How transfers share the channel of a machine; SimulationError if nobody brought it."""
    name = machine.dram.channel.sharing
    if name not in channels:
        raise SimulationError(
            f"machine {machine.name!r}: memories.{machine.dram.name}.channel.sharing must be one "
            f"of {', '.join(channels)}, not {name!r}"
        )
    return channels[name]


def known_processes(machine: Machine, known: Mapping[str, Process]) -> Mapping[str, Process]:
    """SimulationError if a unit of the machine has a process that nobody brought."""
    for unit in machine.units:
        if unit.process and unit.process not in known:
            names = f"one of {', '.join(known)}" if known else "what a plugin brings, and none does"
            raise SimulationError(
                f"machine {machine.name!r}: units.{unit.name}.process must be {names}, "
                f"not {unit.process!r}"
            )
    return known


def chosen_policy(policy: str | Policy | Callable[..., Chosen]) -> Policy:
    """A policy by name, as it is, or made of a function."""
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


class Job(NamedTuple):
    """A stage that is to be run, with its outermost ranges, in a turn of its section."""

    view: View
    outermost: Ranges
    turn: int


Outcome: TypeAlias = tuple[StageReport, Sequence[Event]]
Jobs: TypeAlias = Generator[Job, Outcome, None]


@dataclass
class Runner:
    """Goes through a program and remembers what stages took.

    now      cycles so far
    known    what a stage took, by `View.key` and by its names; not used where it
             depends on more (`View.repeats`), nor for a trace, nor if it is not `alone`
    owner    the number of the program among those that run at a time
    address  where its first tensor lies in DRAM
    """

    program: Program
    machine: Machine
    costs: Costs
    trace: bool = False
    path: bool = False
    alone: bool = True
    owner: int = 0
    address: int = 0
    now: int = 0
    known: dict[object, dict[Names, StageReport]] = field(default_factory=dict)
    events: list[Sequence[Event]] = field(default_factory=list)
    sections: list[SectionReport] = field(default_factory=list)

    def report(self, engine: str, policy: str, partial: bool = False) -> Report:
        """What ran so far."""
        return Report(
            **totals(self.machine, ((section, 1) for section in self.sections)),
            program=self.program.name,
            engine=engine,
            policy=policy,
            sections=tuple(self.sections),
            events=Joined(self.events),
            partial=partial,
        )

    def jobs(self, values: dict[str, int], progress: Progress | None = None) -> Jobs:
        """The stages of the program in order; whoever runs them sends what each took."""
        for section, likes in zip(self.program.sections, self.program.likes, strict=True):
            yield from self.section(section, likes, values, progress)

    def section(
        self,
        section: Section,
        likes: Sequence[Like],
        values: dict[str, int],
        progress: Progress | None,
    ) -> Jobs:
        """All turns of a section; if the user stops it, `sections` has what ran of it."""
        views = [
            View(self.program, self.machine, self.costs, section, stage, self.owner, self.address)
            for stage in section.stages
        ]
        count = 1 if section.repeat is None else max(0, section.repeat.count.value(values))
        done = Turns()
        try:
            for turn in turns(section, values):
                if progress:
                    progress(section.name, turn, count)
                done.begin()
                outermost = extents(section, values)
                took: dict[int, StageReport] = {}
                for view, like in zip(views, likes, strict=True):
                    report = took.get(like.first)
                    if report is None:
                        report = yield from self.stage(view, outermost, turn)
                        if self.remembers(view) and not self.path:
                            took[like.first] = report
                    self.now += report.cycles
                    done.add(report)
                done.tokens[-1] = section.tokens.value(values)
        except StageInterrupted as stop:
            done.add(stop.report)
            raise
        finally:
            self.sections.append(done.report(self.machine, section.name))

    def stage(
        self, view: View, outermost: Ranges, turn: int
    ) -> Generator[Job, Outcome, StageReport]:
        """What a stage takes: it is run if that is not known."""
        remember = self.remembers(view)
        key = view.key(outermost) if remember else None
        if key in self.known:
            return self.recall(view, self.known[key])
        report, events = yield Job(view, outermost, turn)
        if self.path:
            report = with_path(view, report, events, self.now)
        if self.trace:
            self.events.append(events)
        if remember:
            self.known[key] = {self.names(view): report}
        return report

    def remembers(self, view: View) -> bool:
        """Whether what a stage takes holds for all that are like it."""
        return view.repeats and not self.trace and self.alone

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
