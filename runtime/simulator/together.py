"""Several programs at a time on one machine: each has cores of its own, and all share what is
outside of cores. Each is run twice, with the others silent and with them at work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property

import simpy

from infinisa.isa.errors import SimulationError
from infinisa.isa.instruction import Instruction
from infinisa.isa.machine import INTERCONNECT, Machine
from infinisa.isa.program import Program, defaults

from .contract import Entry, Interrupted, Origins, Progress, Report, StageInterrupted
from .memory import CHANNELS, ChannelModel, Sharing
from .policy import Chosen, Policy
from .shapes import Costs
from .simpy_engine import Chip, Process, Run, SimpyEngine
from .simulate import Job, Runner, chosen_policy, known_processes, sharing
from .trace import events


def part(machine: Machine, cores: int) -> Machine:
    """So many cores of a machine: what is theirs, and in proportion what of the scratchpad and of
    leakage is not a core's own. SimulationError if there is no such part."""
    if not 1 <= cores <= machine.cores:
        raise SimulationError(
            f"machine {machine.name!r}: a part must have 1 to {machine.cores} cores, not {cores}"
        )
    if cores == machine.cores:
        return machine
    scratchpad, *others = machine.memories
    if scratchpad.shared and scratchpad.managed == "software":
        if scratchpad.banks:
            raise SimulationError(
                f"machine {machine.name!r}: memories.{scratchpad.name}.banks must be left out, "
                "since cores of several programs share it"
            )
        scratchpad = replace(scratchpad, size=scratchpad.size // machine.cores * cores)
    leakage = machine.energy.leakage * cores / machine.cores
    return replace(
        machine,
        cores=cores,
        memories=(scratchpad, *others),
        energy=replace(machine.energy, leakage=leakage),
    )


def divided(machine: Machine, programs: int) -> tuple[int, ...]:
    """The cores of each of so many programs: as many for all, one more for the first if cores are
    left. SimulationError if there are not enough."""
    if programs > machine.cores:
        raise SimulationError(
            f"machine {machine.name!r}: {programs} programs at a time need a core each, and it has "
            f"{machine.cores}"
        )
    share, left = divmod(machine.cores, programs)
    return tuple(share + (number < left) for number in range(programs))


@dataclass(frozen=True)
class Task:
    """A program that was compiled for `part(machine, cores)`, and values of its parameters."""

    program: Program
    library: Mapping[str, Instruction]
    cores: int
    parameters: Mapping[str, int] | None = None


@dataclass(frozen=True)
class Share:
    """One of several programs on a machine.

    alone     with the others silent, and `together` with them at work; both begin in cycle 0
    channel   bytes that kept the DRAM channel busy for it: whole bursts, and gaps
    """

    cores: int
    alone: Report
    together: Report
    channel: int

    @property
    def slowdown(self) -> float:
        """How much longer it takes because of the others."""
        return self.together.cycles / self.alone.cycles if self.alone.cycles else 1.0

    @property
    def crossed(self) -> int:
        """Bytes that passed the interconnect."""
        return self.together.read.get(INTERCONNECT, 0) + self.together.written.get(INTERCONNECT, 0)


@dataclass(frozen=True)
class Together:
    """Several programs on one machine. It has taken `cycles` when the last of them has ended."""

    target: Machine
    policy: str
    programs: tuple[Share, ...]

    @cached_property
    def cycles(self) -> int:
        return max(each.together.cycles for each in self.programs)

    @cached_property
    def shares(self) -> Mapping[str, tuple[Fraction, ...]]:
        """Of each unit class, of DRAM and of the interconnect, what each program used of all that
        could have been done in `cycles`, and last what nobody used: they sum to 1.

        Of a unit class these are busy cycles, of DRAM and the interconnect bytes.
        """
        machine = self.target
        found = {
            unit.name: self._parts(
                (each.together.busy[unit.name] for each in self.programs),
                Fraction(unit.count * machine.cores),
            )
            for unit in machine.units
        }
        found[machine.dram.name] = self._parts(
            (each.channel for each in self.programs), machine.dram_rate
        )
        if way := machine.interconnect:
            links = 1 if way.shared else machine.cores
            rate = Fraction(way.bandwidth * links, machine.clock)
            found[INTERCONNECT] = self._parts((each.crossed for each in self.programs), rate)
        return found

    def _parts(self, used: Iterable[int], rate: Fraction) -> tuple[Fraction, ...]:
        """Shares of what could have been done at so much a cycle."""
        possible = rate * self.cycles
        parts = [Fraction(each) / possible if possible else Fraction() for each in used]
        return (*parts, 1 - sum(parts, Fraction()))

    def plain(self) -> dict[str, object]:
        """Numbers and text only, for JSON."""
        return {
            "machine": self.target.name,
            "policy": self.policy,
            "cycles": self.cycles,
            "shares": {name: list(map(float, parts)) for name, parts in self.shares.items()},
            "programs": [
                {
                    "cores": each.cores,
                    "slowdown": each.slowdown,
                    "alone": each.alone.plain(),
                    "together": each.together.plain(),
                }
                for each in self.programs
            ],
        }


class Metered:
    """The channel as one program sees it: counts the cycles in which a transfer of the program is
    under way, and the bytes that these keep the channel busy with."""

    def __init__(self, clock: simpy.Environment, channel: ChannelModel) -> None:
        self.clock, self.channel = clock, channel
        self.busy = self.bytes = self.active = self.since = 0

    def transfer(self, entry: Entry) -> simpy.Event:
        end = self.channel.transfer(entry)
        if not self.active:
            self.since = int(self.clock.now)
        self.active += 1
        self.bytes += entry.bus
        assert end.callbacks is not None  # it has not happened yet
        end.callbacks.append(self.ended)
        return end

    def ended(self, _: simpy.Event) -> None:
        self.active -= 1
        if not self.active:
            self.busy += int(self.clock.now) - self.since


class Tenant:
    """A program on cores of a chip from number `first` on: goes from stage to stage by itself."""

    def __init__(
        self, chip: Chip, runner: Runner, task: Task, first: int, engine: SimpyEngine,
        progress: Progress | None,
    ) -> None:  # fmt: skip
        self.chip, self.runner, self.first, self.engine = chip, runner, first, engine
        self.jobs = runner.jobs(defaults(task.program, task.parameters), progress)
        self.begin = self.bytes = 0
        self.job: Job | None = next(self.jobs, None)
        self.run: Run | None = None
        self.meter = Metered(chip.clock, chip.channel)
        chip.wake(0)

    def step(self) -> None:
        """Run the stage of now, and when it has ended begin the next."""
        while self.job and self.chip.clock.time >= self.begin:
            if self.run is None:
                self.run = self.start(self.job)
            self.run.step()
            if not self.run.finished:
                return
            self.go_on(self.run, self.job)

    def start(self, job: Job) -> Run:
        self.meter = Metered(self.chip.clock, self.chip.channel)
        engine = self.engine
        return Run(
            self.chip,
            job.view,
            job.outermost,
            first=self.first,
            channel=self.meter,
            policy=engine.policy,
            processes=engine.processes,
            origins=engine.origins,
        )

    def go_on(self, run: Run, job: Job) -> None:
        report = run.report()
        self.bytes += self.meter.bytes
        self.begin += report.cycles
        self.run = None
        try:
            self.job = self.jobs.send((report, events(job.view, job.turn, run.log)))
        except StopIteration:
            self.job = None
        if self.begin > self.chip.clock.time:
            self.chip.wake(self.begin - self.chip.clock.time)

    def stop(self) -> None:
        """Keep what ran until now."""
        if self.run is None:
            self.jobs.close()
            return
        try:
            self.jobs.throw(StageInterrupted(self.run.stop()))
        except StageInterrupted:
            self.bytes += self.meter.bytes


class TogetherInterrupted(KeyboardInterrupt):
    """The user stopped programs that ran at a time; `report` has what ran of them."""

    def __init__(self, report: Together) -> None:
        super().__init__()
        self.report = report


def simulate_together(
    tasks: Sequence[Task],
    machine: Machine,
    *,
    engine: str = "simpy",
    policy: str | Policy | Callable[..., Chosen] = "oldest",
    progress: Progress | None = None,
    processes: Mapping[str, Process] | None = None,
    channels: Mapping[str, Sharing] = CHANNELS,
    origins: Origins | None = None,
) -> Together:
    """How long programs take that run on one machine at a time, the first on its first cores, and
    how much of it each uses.

    tasks    each with a program for its part of the machine
    others   as of `simulate`

    SimulationError if they need more cores than there are. `TogetherInterrupted` and, as long as
    they run one by one, `Interrupted` have a partial report if the user stops it.
    """
    if engine not in ("auto", "simpy"):
        raise SimulationError(
            f"engine {engine!r}: must be auto or simpy for several programs at a time"
        )
    if sum(task.cores for task in tasks) > machine.cores:
        needed = " + ".join(str(task.cores) for task in tasks)
        raise SimulationError(
            f"machine {machine.name!r}: has {machine.cores} cores, not {needed} for programs that "
            "run at a time"
        )
    site = Site(
        tasks,
        machine,
        chosen_policy(policy),
        sharing(machine, channels),
        known_processes(machine, processes or {}),
        origins or {},
        progress,
    )
    return site.simulate()


@dataclass(frozen=True)
class Site:
    """Tasks, the machine they share, and what simulates it."""

    tasks: Sequence[Task]
    machine: Machine
    policy: Policy
    channel: Sharing
    processes: Mapping[str, Process]
    origins: Origins
    progress: Progress | None

    def simulate(self) -> Together:
        alone = []
        for number in range(len(self.tasks)):
            (tenant,) = tenants = self.tenants([number])
            if not self.finish(tenants):
                raise Interrupted(self.report(tenant, partial=True))
            alone.append(self.report(tenant))
        tenants = self.tenants(range(len(self.tasks)))
        ended = self.finish(tenants)
        shares = [
            Share(task.cores, before, self.report(tenant, not ended), tenant.bytes)
            for task, before, tenant in zip(self.tasks, alone, tenants, strict=True)
        ]
        report = Together(self.machine, self.policy.name, tuple(shares))
        if not ended:
            raise TogetherInterrupted(report)
        return report

    def report(self, tenant: Tenant, partial: bool = False) -> Report:
        return tenant.runner.report(SimpyEngine.name, self.policy.name, partial)

    def tenants(self, numbers: Iterable[int]) -> list[Tenant]:
        """Some of the tasks, each in its place, on a chip that nobody else uses."""
        engine = SimpyEngine(self.machine, self.policy, self.channel, self.processes, self.origins)
        chip = Chip(self.machine, 0, self.channel, engine.caches)
        found = []
        for number in numbers:
            task, before = self.tasks[number], self.tasks[:number]
            target = part(self.machine, task.cores)
            runner = Runner(
                task.program,
                target,
                Costs(task.program, task.library, target, self.origins),
                alone=False,
                owner=number,
                address=sum(self.bytes(each.program) for each in before),
            )
            first = sum(each.cores for each in before)
            found.append(Tenant(chip, runner, task, first, engine, self.progress))
        chip.running += found
        return found

    def bytes(self, program: Program) -> int:
        """What a program takes of DRAM, each tensor from a new row on."""
        row = max(self.machine.dram.channel.row, 1)
        return sum(-(-each.bytes // row) * row for each in program.buffers if each.outer)

    def finish(self, tenants: Sequence[Tenant]) -> bool:
        """Run to the end; whether the user let it. SimulationError if an issue never ends."""
        clock = tenants[0].chip.clock
        try:
            clock.finish()
        except KeyboardInterrupt:
            for tenant in tenants:
                tenant.stop()
            return False
        except Exception as error:
            for run in self.runs(tenants):
                if blamed := run.blamed(error):
                    raise blamed from error
            raise
        for run in self.runs(tenants):
            run.check()
        return True

    def runs(self, tenants: Iterable[Tenant]) -> Iterator[Run]:
        """The stages under way."""
        return (tenant.run for tenant in tenants if tenant.run)
