"""The reference engine: units are simpy processes, and one dispatcher feeds those of all cores.

Within a cycle simpy runs events in three groups: first whatever ends (issues, transfers), then the
dispatcher (events of priority `LATE`): it retires and fetches, then starts issues.
"""

from __future__ import annotations

from bisect import insort
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from heapq import heappop
from operator import add, attrgetter
from typing import ClassVar, Protocol, TypeAlias

import simpy
from simpy.events import EventPriority

from infinisa.isa.errors import InfinisaError, SimulationError
from infinisa.isa.machine import INTERCONNECT, Machine
from infinisa.isa.program import Issue, Ranges, stream

from .contract import Entry, Event, Origins, Shape, StageInterrupted, StageReport, brought
from .memory import (
    CHANNELS,
    Cache,
    ChannelModel,
    FifoChannel,
    Interconnect,
    Ports,
    Sharing,
    Steps,
    caches_of,
)
from .policy import POLICIES, Candidate, Policy, choose, described
from .shapes import Missed, View
from .stalls import Account
from .stuck import stuck
from .totals import Misses, stage_report
from .trace import events

Process: TypeAlias = "Callable[[Unit], Steps]"
"""How a plugin simulates a unit: a simpy process, see `Unit`."""

LATE = EventPriority(2)

BY_NUMBER = attrgetter("number")

LONG_LIST = 64
"""How many earlier accesses a hazard keeps before it forgets those that have ended."""


class NoWholeCycle(Exception):
    """Something is to happen between two cycles."""

    def __init__(self, event: simpy.Event, cycle: float) -> None:
        super().__init__(f"waits until cycle {cycle}, which is no whole number")
        self.event = event


class Clock(simpy.Environment):
    """Time in whole cycles; `time` is `now` without the cost of a property."""

    time: int

    def __init__(self, begin: int) -> None:
        super().__init__(begin)
        self.time = begin

    def finish(self) -> None:
        """Run until nothing is left to happen, as `run` does with more around each event."""
        queue = self._queue
        while queue:
            now, _, _, event = heappop(queue)
            if type(now) is not int:
                raise NoWholeCycle(event, now)
            self._now = self.time = now
            callbacks, event.callbacks = event.callbacks, None  # type: ignore[assignment]  # simpy's mark of a processed event
            for callback in callbacks:
                callback(event)
            if not event._ok and not hasattr(event, "_defused"):
                raise event._value


class Wake(simpy.Event):
    """Calls the dispatcher late in the cycle that is `delay` from now."""

    def __init__(self, clock: Clock, delay: int, step: Callable[[simpy.Event], None]) -> None:
        self.env = clock
        self.callbacks = [step]
        self._ok = True
        self._value = None
        clock.schedule(self, LATE, delay)


class Inbox(simpy.Event):
    """What a unit waits for: an issue, which it takes at once, in the order of the dispatcher."""

    def give(self, entry: Entry) -> None:
        self._ok = True
        self._value = entry
        callbacks, self.callbacks = self.callbacks, None  # type: ignore[assignment]  # simpy's mark of a processed event
        for callback in callbacks:
            callback(self)


class Unit:
    """One execution unit of one core: a process that works on one issue at a time.

    A plugin's process is a function of the unit. For each issue that it takes (`take`) it waits for
    some of `wait` and `transfer`, and says when results are there (`land`) and the unit is free
    (`release`).
    """

    def __init__(
        self, core: Core, number: int, name: str, instance: int, work: Process | None = None
    ) -> None:
        self.core = core
        self.number, self.name, self.instance = number, name, instance
        self.account = Account(core.number, name, instance, core.run.clock.time)
        self.copies = core.run.view.machine.units[number].kind == "copy"
        self.landed = self.given = self.taken = 0
        self.entry: Entry | None = None
        self.inbox = Inbox(core.run.clock)
        self.process = core.run.clock.process(work(self) if work else self.work())

    def take(self) -> Generator[simpy.Event, object, Entry]:
        """The next issue from the dispatcher; `shape` has its cycles."""
        entry = yield self.inbox
        assert isinstance(entry, Entry)
        self.inbox = Inbox(self.core.run.clock)
        return entry

    def wait(self, cycles: int) -> simpy.Event:
        """Wait so many cycles."""
        return self.core.run.clock.timeout(cycles)

    def transfer(self, entry: Entry) -> simpy.Event:
        """Wait until the bytes of an issue that has a `transfer` or `crossing` have passed the
        channel and the interconnect."""
        run, now = self.core.run, self.core.run.clock.time
        if not entry.crossing:
            return run.channel.transfer(entry)
        entry.crossed = run.chip.interconnect.cross(self.core.number, entry, now)
        crossed = self.wait(entry.crossed - now)
        return run.clock.all_of(
            [crossed, run.channel.transfer(entry)] if entry.transfer else [crossed]
        )

    def work(self) -> Steps:
        """Take issues from the dispatcher, one after the other, for ever."""
        run, clock = self.core.run, self.core.run.clock
        while True:
            entry = yield from self.take()
            shape = entry.shape
            if entry.transfer or entry.crossing:
                yield self.transfer(entry)
                rest = entry.start + shape.occupancy - clock.time
                if rest > 0:
                    yield clock.timeout(rest)
                self.land(entry, max(shape.drain, 0) + run.arrival(entry))
            elif shape.drain >= 0:
                yield clock.timeout(shape.occupancy)
                self.land(entry, shape.drain)
            else:
                self.land(entry, shape.occupancy + shape.drain)
                yield clock.timeout(shape.occupancy)
            self.release(entry)

    def land(self, entry: Entry, delay: int) -> None:
        """The results of `entry` are visible after `delay`, but not before earlier ones."""
        clock = self.core.run.clock
        now = clock.time
        self.landed = done = max(now + delay, self.landed)
        if done == now:
            self.core.complete(entry)
        else:
            clock.timeout(done - now, entry).callbacks.append(self.core.ended)

    def release(self, entry: Entry) -> None:
        """Be free for the next issue."""
        run, shape = self.core.run, entry.shape
        entry.free = run.end = now = run.clock.time
        memory = INTERCONNECT if entry.crossed == now else run.dram
        self.account.end(now, entry.work, memory, self.core.full(now))
        self.entry = None
        if not self.copies:
            self.core.released(now)
        if self.core.ready[self.number] or self.core.drained:
            self.core.kick()
        if shape.ports:
            self.core.ports.give(shape)
            run.chip.ports_given(self.core.ports)


@dataclass(slots=True)
class Slot:
    """Who touches a slot of a place, or a tensor: the last writer, and readers and stores since.

    Earlier writers need not be kept: none of them can be done after the last.
    """

    writer: Entry | None = None
    readers: list[Entry] = field(default_factory=list)
    stores: list[Entry] = field(default_factory=list)


class Core:
    """The window, the hazards and the units of one core."""

    def __init__(self, run: Run, number: int, issues: Iterator[tuple[Issue, Ranges]]) -> None:
        machine = run.view.machine
        self.run, self.number, self.issues = run, number, issues
        self.ports = run.chip.ports[number % len(run.chip.ports)]
        self.window: deque[Entry] = deque()
        self.slots: defaultdict[int, Slot] = defaultdict(Slot)
        self.ready: list[list[Entry]] = [[] for _ in machine.units]
        self.account = Account(number, "", 0, run.clock.time)
        self.units = [
            [
                Unit(self, k, unit.name, i, run.processes.get(unit.process))
                for i in range(unit.count)
            ]
            for k, unit in enumerate(machine.units)
        ]
        self.unstarted: list[deque[Entry]] = [deque() for _ in machine.units]
        self.alone = [unit.count == 1 for unit in machine.units]
        self.fetched = self.working = 0
        self.filled, self.full_since = 0, -1
        self.over = False
        self.due = True

    def kick(self, delay: int = 0) -> None:
        """Have the dispatcher look at this core, in this cycle or a later one."""
        self.due = True
        self.run.wake(delay)

    def step(self) -> None:
        """Retire, fetch and start what can be; come back next cycle if a width was the limit."""
        window = self.window
        now, dispatch = self.run.clock.time, self.run.view.machine.dispatch
        self.filled, self.full_since = self.full(now), -1
        while window and window[0].finished:
            window.popleft()
        room = min(dispatch.window - len(window), dispatch.fetch)
        for _ in range(room):
            if not self.fetch():
                break
        if len(window) == dispatch.window:
            self.full_since = now
        more = room == dispatch.fetch and not self.over and len(window) < dispatch.window
        if self.start(dispatch.issue) or more:
            self.kick(1)

    def full(self, now: int) -> int:
        """The cycles before this one that the window was full in, after the fetch."""
        return self.filled + (now - self.full_since if self.full_since >= 0 else 0)

    @property
    def drained(self) -> bool:
        """Whether no issue is in flight and none will be fetched."""
        return self.over and not self.window

    # -- fetch

    def fetch(self) -> bool:
        """Take the next issue into the window, if there is one."""
        got = next(self.issues, None)
        if got is None:
            self.over = True
            return False
        run = self.run
        issue, ranges = got
        entry, moved = run.look(issue, ranges, self)
        entry.full = self.filled
        shape = entry.shape
        self.fetched += 1
        if run.trace:
            entry.record = issue, dict(ranges), moved
            run.log.append((self.number, entry))
        self.window.append(entry)
        self.order(entry, shape)
        if run.policy.uses_height:
            raise_heights(entry)
        if run.policy.in_order:
            self.unstarted[shape.unit].append(entry)
        if not entry.waits:
            entry.ready = entry.fetched
            self.ready[shape.unit].append(entry)
        return True

    def order(self, entry: Entry, shape: Shape) -> None:
        """Make `entry` wait for the earlier issues that it must not overtake."""
        for number in shape.reads:
            slot = self.slots[number]
            if slot.writer is not None:
                self.follow(entry, slot.writer)
            for other in slot.stores:
                self.follow(entry, other)
            slot.readers.append(entry)
            if len(slot.readers) > LONG_LIST:
                slot.readers = [other for other in slot.readers if not other.finished]
        for number in shape.writes:
            slot = self.slots[number]
            if slot.writer is not None:
                self.replace(entry, slot.writer)
            for other in (*slot.readers, *slot.stores):
                self.replace(entry, other)
            slot.writer = entry
            slot.readers.clear()
            slot.stores.clear()
        for number in shape.stores:
            slot = self.slots[number]
            if slot.writer is not None:
                self.replace(entry, slot.writer)
            for other in slot.readers:
                self.replace(entry, other)
            slot.stores = [other for other in slot.stores if not other.finished]
            slot.stores.append(entry)

    def follow(self, entry: Entry, other: Entry) -> None:
        """Wait until `other` is done."""
        if not other.finished and other is not entry:
            other.then.append(entry)
            self.wait(entry, other)

    def replace(self, entry: Entry, other: Entry) -> None:
        """Overwrite what `other` reads or writes: wait until it is done, or has started if it runs
        on the same unit, whose results land in order."""
        if other.shape.unit != entry.shape.unit or not self.alone[entry.shape.unit]:
            self.follow(entry, other)
        elif other.start < 0 and other is not entry:
            other.after.append(entry)
            self.wait(entry, other)

    def wait(self, entry: Entry, other: Entry) -> None:
        entry.waits += 1
        if self.run.policy.uses_height:
            entry.before.append(other)

    # -- start

    def start(self, width: int) -> bool:
        """Give ready issues to free units; whether `width` left some waiting."""
        for k, waiting in enumerate(self.ready):
            while waiting:
                free = [unit for unit in self.units[k] if unit.entry is None]
                ready = self.in_turn(k)
                if not free or not ready:
                    break
                if not width:
                    return True
                startable = self.with_ports(ready)
                if not startable:
                    break
                width -= 1
                self.begin(*self.choose(startable, free))
        return False

    def in_turn(self, k: int) -> Sequence[Entry]:
        """The ready issues of a class that the order lets start."""
        ready = self.ready[k]
        if ready and self.run.policy.in_order:
            return ready[:1] if ready[0] is self.unstarted[k][0] else ()
        return ready

    def with_ports(self, ready: Sequence[Entry]) -> Sequence[Entry]:
        """Those that find the ports they need; the others are held from now on."""
        if not self.ports.free:
            return ready
        found = [entry for entry in ready if self.ports.fit(entry.shape)]
        for entry in ready:
            if entry.held < 0 and not self.ports.fit(entry.shape):
                entry.held = self.run.clock.time
        return found

    def choose(self, startable: Sequence[Entry], free: Sequence[Unit]) -> tuple[Unit, Entry]:
        """What the policy says: a free unit and the issue that it takes."""
        run = self.run
        if run.policy.is_oldest:
            return free[0], startable[0]
        loads = [Candidate(unit.instance, unit.given, unit.taken) for unit in free]
        position, unit = choose(run.policy, startable, loads, run.clock.time, free[0].name)
        return free[unit], startable[position]

    def begin(self, unit: Unit, entry: Entry) -> None:
        now = self.run.clock.time
        names = self.run.names
        holder = ""
        if entry.holder is not None:
            holder, entry.waited_for = names[entry.holder.shape.unit], entry.holder.number
            entry.holder = None
        entry.start, entry.instance = now, unit.instance
        self.ready[unit.number].remove(entry)
        if self.run.policy.in_order:
            self.unstarted[unit.number].popleft()
        unit.entry = entry
        unit.taken += 1
        unit.given += entry.work
        self.ports.take(entry.shape)
        unit.account.start(entry, now, holder, self.run.scratchpad)
        if not unit.copies:
            self.working += 1
            if self.working == 1:
                self.account.start(entry, now, holder, self.run.scratchpad)
        unit.inbox.give(entry)
        if entry.after:
            self.freed(entry, entry.after)
            entry.after = []

    # -- end

    def stop(self, now: int) -> None:
        """Units that work have worked until now."""
        working = [unit for units in self.units for unit in units if unit.entry]
        for account in (*(unit.account for unit in working), *[self.account] * bool(self.working)):
            account.end(now, now - account.since, "", self.full(now))

    def released(self, now: int) -> None:
        self.working -= 1
        if not self.working:
            self.account.end(now, now - self.account.since, "", self.full(now))

    def ended(self, event: simpy.Event) -> None:
        entry = event.value
        assert isinstance(entry, Entry)
        self.complete(entry)

    def complete(self, entry: Entry) -> None:
        """The results of `entry` are there."""
        entry.finished = True
        entry.done = self.run.end = self.run.clock.time
        news = entry is self.window[0]
        if entry.then:
            news |= self.freed(entry, entry.then)
            entry.then = []
        if news:
            self.kick()

    def freed(self, holder: Entry, waiting: Sequence[Entry]) -> bool:
        """One issue less to wait for; of several that end in a cycle, the youngest was the last.
        Whether something is ready now."""
        found = False
        now = self.run.clock.time
        for entry in waiting:
            entry.waits -= 1
            last = entry.holder
            if last is None or entry.ready != now or last.number < holder.number:
                entry.holder = holder
            entry.ready = now
            if not entry.waits:
                insort(self.ready[entry.shape.unit], entry, key=BY_NUMBER)
                found = True
        return found


def raise_heights(entry: Entry) -> None:
    """What a new issue adds to the heights of those it waits for, and of those they wait for."""
    entry.height = entry.latency
    higher = [entry]
    while higher:
        entry = higher.pop()
        for other in entry.before:
            height = other.latency + entry.height
            if height > other.height and not other.finished:
                other.height = height
                higher.append(other)


def told(error: Exception) -> str:
    """What went wrong in a process."""
    if isinstance(error, NoWholeCycle | InfinisaError):
        return str(error)
    return f"raised {type(error).__name__}: {error}"


class Chip:
    """What all that runs at a time shares: the clock, the dispatcher, and what is outside of cores.

    machine  all of it
    running  what the dispatcher looks at, in order
    """

    def __init__(
        self,
        machine: Machine,
        begin: int,
        channel: Sharing = FifoChannel,
        caches: Sequence[Cache] = (),
    ) -> None:
        self.clock = Clock(begin)
        self.channel = channel(self.clock, machine)
        self.interconnect, self.caches = Interconnect(machine), caches
        scratchpad = machine.scratchpad
        sides = 1 if scratchpad.shared else machine.cores
        self.ports = [Ports(scratchpad.banks, scratchpad.ports) for _ in range(sides)]
        self.running: list[Running] = []
        self.cores: dict[int, Core] = {}
        self.awake: set[int] = set()
        self.stepped = -1

    def wake(self, delay: int) -> None:
        """Have the dispatcher run late in a cycle; it runs once in a cycle."""
        cycle = self.clock.time + delay
        if cycle == self.stepped:
            cycle, delay = cycle + 1, delay + 1
        if cycle not in self.awake:
            self.awake.add(cycle)
            Wake(self.clock, delay, self.step)

    def step(self, _: simpy.Event) -> None:
        """The dispatcher: all that has something to do, in order."""
        self.stepped = self.clock.time
        self.awake.discard(self.stepped)
        for each in self.running:
            each.step()

    def ports_given(self, ports: Ports) -> None:
        """Have the dispatcher look at the cores that share these ports."""
        for core in self.cores.values():
            if core.ports is ports:
                core.kick()


class Running(Protocol):
    """What the dispatcher looks at."""

    def step(self) -> None:
        """Do what is to be done in this cycle."""
        ...


class Run:
    """One run of one stage, on cores of a chip from number `first` on.

    channel  of the chip, or what counts what passes there
    """

    def __init__(
        self,
        chip: Chip,
        view: View,
        outermost: Ranges,
        *,
        first: int = 0,
        channel: ChannelModel | None = None,
        policy: Policy = POLICIES["oldest"],
        processes: Mapping[str, Process] | None = None,
        origins: Origins | None = None,
        trace: bool = False,
    ) -> None:
        self.chip, self.view, self.policy, self.trace = chip, view, policy, trace
        self.processes, self.origins = processes or {}, origins or {}
        self.clock, self.channel, self.caches = chip.clock, channel or chip.channel, chip.caches
        self.begin = self.end = chip.clock.time
        self.dram, self.scratchpad = view.machine.dram.name, view.machine.scratchpad.name
        self.has_rows = view.machine.dram.channel.row > 0
        self.names = [unit.name for unit in view.machine.units]
        self.used: list[Shape] = []
        self.misses: dict[str, Misses] = {}
        self.log: list[tuple[int, Entry]] = []
        count = view.machine.cores
        self.cores = [
            Core(self, first + core, stream(view.stage, outermost, core, count))
            for core in range(count)
        ]
        chip.cores.update((core.number, core) for core in self.cores)
        self.wake(0)

    def wake(self, delay: int) -> None:
        """Have the dispatcher run late in a cycle."""
        self.chip.wake(delay)

    def step(self) -> None:
        """All cores that have something to do, in order."""
        for core in self.cores:
            if core.due:
                core.due = False
                core.step()

    @property
    def finished(self) -> bool:
        """Whether all issues are done and all units free."""
        return all(
            core.drained and all(unit.entry is None for units in core.units for unit in units)
            for core in self.cores
        )

    def look(self, issue: Issue, ranges: Ranges, core: Core) -> tuple[Entry, tuple[int, int]]:
        """A new entry for an issue, and the bytes (read, written) that its cache did not hold."""
        view, machine = self.view, self.view.machine
        text = view.texts[id(issue)]
        try:
            shape = view.shape(text, ranges)
        except SimulationError as error:
            raise SimulationError(f"{error}, in cycle {self.clock.time}") from None
        if not shape.uses:
            self.used.append(shape)
        shape.uses += 1
        entry = Entry(
            core.fetched,
            shape,
            shape.transfer,
            self.clock.time,
            bus=shape.bus,
            crossing=shape.crossing,
        )
        missed: Sequence[Missed] = ()
        read = written = 0
        if text.cached:
            missed = view.missed(text, ranges, self.caches[core.number % len(self.caches)])
        if missed:
            read = sum(each.size for each in missed if each.reading)
            written = sum(each.size for each in missed if not each.reading)
            bus_bytes = machine.dram.channel.bus_bytes
            entry.bus += sum(bus_bytes(each.size, each.run) for each in missed)
            entry.transfer = machine.transfer_cycles(entry.bus, machine.units[shape.unit])
            if view.cache_of_core:
                static = shape.read.get(INTERCONNECT, 0) + shape.written.get(INTERCONNECT, 0)
                entry.crossing = machine.crossing_cycles(static + read + written)
            more = read, written, entry.work - shape.work
            before = self.misses.get(shape.opcode, Misses())
            self.misses[shape.opcode] = Misses(*map(add, before, more))
        if self.has_rows:
            entry.rows = view.rows(text, ranges, missed)
        entry.latency = self.latency(entry)
        return entry, (read, written)

    def latency(self, entry: Entry) -> int:
        """Cycles from the start of an issue until it is done, if nothing holds up its transfer."""
        shape = entry.shape
        if not (entry.transfer or entry.crossing):
            return shape.occupancy + shape.drain
        return entry.work + max(shape.drain, 0) + self.arrival(entry)

    def arrival(self, entry: Entry) -> int:
        """Cycles from the end of a transfer until its bytes have arrived."""
        dram, way = self.view.machine.dram, self.view.machine.interconnect
        cycles = dram.latency if entry.transfer else 0
        return cycles + way.latency if way and entry.crossing else cycles

    def stop(self) -> StageReport:
        """What ran until now; it does not go on."""
        self.end = self.clock.time
        for core in self.cores:
            core.stop(self.end)
        return self.report()

    def check(self) -> None:
        """SimulationError if issues are left: nothing can happen any more."""
        if not all(core.drained for core in self.cores):
            windows = [core.window for core in self.cores]
            raise SimulationError(stuck(self.view, self.end, windows, self.origins))

    def blamed(self, error: Exception) -> SimulationError | None:
        """What to raise for an error that came up at the work of a unit of this run."""
        if unit := self.culprit(error):
            return SimulationError(f"{self.described(unit)}: {told(error)}")
        return None

    def culprit(self, error: Exception) -> Unit | None:
        """The unit whose process raised an error, or waits for what cannot happen."""
        for unit in (unit for core in self.cores for units in core.units for unit in units):
            process = unit.process
            if isinstance(error, NoWholeCycle):
                target = process.target
                if error.event is target or (
                    isinstance(target, simpy.events.Condition) and error.event in target._events
                ):
                    return unit
            elif process.triggered and not process.ok:
                return unit
        return None

    def described(self, unit: Unit) -> str:
        """A unit at what it does, with the plugins that have a part in it."""
        machine = self.view.machine
        what = f"unit {unit.name} {unit.instance} of core {unit.core.number}"
        if process := machine.units[unit.number].process:
            what += f", process {process!r}{brought(self.origins, 'units', process)}"
        sharing = machine.dram.channel.sharing
        if sharing not in CHANNELS:
            what += f", channel {sharing!r}{brought(self.origins, 'memories', sharing)}"
        if unit.entry:
            what += f", at {described(unit.entry)}"
        return f"{what} in cycle {self.clock.time}"

    def report(self) -> StageReport:
        accounts = [core.account for core in self.cores]
        accounts += [u.account for core in self.cores for units in core.units for u in units]
        return stage_report(
            self.view,
            self.begin,
            self.end,
            accounts,
            self.used,
            self.misses,
            self.channel.busy,
        )


@dataclass
class SimpyEngine:
    """Runs stages one by one; the caches of a machine that has some live from stage to stage."""

    name: ClassVar[str] = "simpy"
    machine: Machine
    policy: Policy = POLICIES["oldest"]
    channel: Sharing = FifoChannel
    processes: Mapping[str, Process] = field(default_factory=dict)
    origins: Origins = field(default_factory=dict)
    trace: bool = False

    @cached_property
    def caches(self) -> Sequence[Cache]:
        return caches_of(self.machine)

    def run(
        self, view: View, outermost: Ranges, begin: int, turn: int
    ) -> tuple[StageReport, tuple[Event, ...]]:
        """One stage from cycle `begin`; with its events if they are traced."""
        chip = Chip(self.machine, begin, self.channel, self.caches)
        run = Run(
            chip,
            view,
            outermost,
            policy=self.policy,
            processes=self.processes,
            origins=self.origins,
            trace=self.trace,
        )
        chip.running.append(run)
        try:
            chip.clock.finish()
        except KeyboardInterrupt:
            raise StageInterrupted(run.stop()) from None
        except Exception as error:
            if blamed := run.blamed(error):
                raise blamed from error
            raise
        run.check()
        return run.report(), events(view, turn, run.log)
