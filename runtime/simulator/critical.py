"""The critical path of a stage: what each of its cycles was needed for. See docs/contract.md."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

from infinisa.isa.program import Issue

from .contract import Event, StageReport
from .shapes import View

LAYER = re.compile(r"(\w+\.\d+)[./]")
"""The part of a name that says which of several like layers something belongs to: `layers.3`."""


def with_path(view: View, report: StageReport, events: Sequence[Event], begin: int) -> StageReport:
    """The report of a run of a stage that began at `begin`, with its critical path."""
    texts = {id(issue): number for number, issue in enumerate(view.issues)}
    steps, waits = [0] * len(view.issues), Counter[str]()
    left = report.cycles
    if events:
        for what, cycles in Walk(view, events, begin):
            left -= cycles
            if isinstance(what, str):
                waits[what] += cycles
            else:
                steps[texts[id(what)]] += cycles
    waits["(barrier)"] += left
    return named(view, replace(report, steps=tuple(steps), waits=dict(+waits)))


def named(view: View, report: StageReport) -> StageReport:
    """A report whose path has the names of this stage."""
    if not report.steps:
        return report
    path, layers = Counter(report.waits), Counter(report.waits)
    for issue, layer, cycles in zip(view.issues, layers_of(view), report.steps, strict=True):
        path[issue.opcode] += cycles
        layers[layer] += cycles
    return replace(report, path=dict(+path), layers=dict(+layers))


def layers_of(view: View) -> tuple[str, ...]:
    """The layer of each issue of the text: by its weights, then by what it writes and reads."""
    return tuple(_layer(view, issue) for issue in view.issues)


def _layer(view: View, issue: Issue) -> str:
    reads = [view.program.buffer[operand.buffer] for operand in issue.reads]
    writes = [view.program.buffer[operand.buffer] for operand in issue.writes]
    weights = [buffer for buffer in reads if buffer.kind == "weight"]
    for buffer in (*weights, *writes, *reads):
        if found := LAYER.search(buffer.name):
            return found[1]
    return view.stage.name


class Walk:
    """From the end of a stage to its begin: issues and waits, each with its cycles."""

    def __init__(self, view: View, events: Sequence[Event], begin: int) -> None:
        self.dispatch, self.begin = view.machine.dispatch, begin
        self.events = {(event.core, event.number): event for event in events}
        self.last = max(events, key=lambda e: (max(e.free, e.done), e.core, e.number))

    @cached_property
    def before(self) -> Mapping[tuple[int, int], Event]:
        """The event before each on its unit."""
        found, units = {}, dict[tuple[int, str, int], Event]()
        for event in sorted(self.events.values(), key=lambda event: event.start):
            unit = event.core, event.unit, event.instance
            if unit in units:
                found[event.core, event.number] = units[unit]
            units[unit] = event
        return found

    @cached_property
    def latest(self) -> Mapping[tuple[int, int], Event]:
        """Of each event and those before it in program order, the one that was done last."""
        found: dict[tuple[int, int], Event] = {}
        for core, number in sorted(self.events):
            event, other = self.events[core, number], found.get((core, number - 1))
            found[core, number] = other if other and other.done >= event.done else event
        return found

    def __iter__(self) -> Iterator[tuple[Issue | str, int]]:
        event: Event | None = self.last
        cycle = max(self.last.free, self.last.done)
        while event:
            yield event.issue, cycle - event.start
            cause, cycle = self.cause(event)
            yield "(issue)", event.start - cycle
            if cause is None:
                cause, waited = self.opener(event)
                yield "(fetch)", waited
                cycle -= waited
            event = cause

    def cause(self, event: Event) -> tuple[Event | None, int]:
        """What let an issue start last, and when; None is its fetch."""
        found: tuple[Event | None, int] = None, event.fetched
        before = self.before.get((event.core, event.number))
        if before and before.free >= found[1]:
            found = before, before.free
        if event.holder >= 0 and event.ready >= found[1]:
            found = self.events[event.core, event.holder], event.ready
        return found

    def opener(self, event: Event) -> tuple[Event | None, int]:
        """The issue whose end let another be fetched, or let those before it, `fetch` a cycle; and
        how many cycles these took. None if it was fetched when the stage began."""
        core, number, fetched = event.core, event.number, event.fetched
        while fetched > self.begin:
            room = self.latest.get((core, number - self.dispatch.window))
            if room and room.done == fetched:
                return room, event.fetched - fetched
            number -= self.dispatch.fetch
            fetched = self.events[core, number].fetched
        return None, event.fetched - self.begin
