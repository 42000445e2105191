"""Traces: what ran when. What the kernel left out is a repeat, written out when it is looked at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from infinisa.isa.machine import LARGEST_WINDOW
from infinisa.isa.program import Ranges, stream

from .contract import Entry, Event
from .layout import INSTANCE_AT
from .shapes import View

Numbers: TypeAlias = NDArray[Any]

LOWER = (1 << 32) - 1


class Leap(NamedTuple):
    """When `core` has fetched so many issues one by one (`position`), in cycle `when` of those that
    were not left out, its last `issues` issues come again so many `times`, each time `lapse` cycles
    later."""

    core: int
    position: int
    issues: int
    times: int
    lapse: int
    when: int


class Expanded(Sequence[Event]):
    """Events that are made when they are asked for."""

    @cached_property
    def all(self) -> tuple[Event, ...]:
        return tuple(self.made())

    def made(self) -> Iterable[Event]:
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.all)

    @overload
    def __getitem__(self, index: int) -> Event: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Event]: ...
    def __getitem__(self, index: int | slice) -> Event | Sequence[Event]:
        return self.all[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self.all == tuple(other)

    __hash__ = None  # type: ignore[assignment]  # as lists have none


@dataclass(eq=False)
class Joined(Expanded):
    """The events of one stage after the other."""

    parts: Sequence[Sequence[Event]]

    def made(self) -> Iterator[Event]:
        return (event for part in self.parts for event in part)

    def __len__(self) -> int:
        return sum(map(len, self.parts))


@dataclass(eq=False)
class Recorded(Expanded):
    """The issues of one run of a stage in the kernel, in the order in which they started.

    packed  of each core, for each issue that it fetched one by one: see `layout.EVENT`
    moved   of each core, for each of these: what it (read, wrote) past a cache
    leaps   what came again
    """

    view: View
    outermost: Ranges
    turn: int
    begin: int
    packed: Sequence[Numbers]
    moved: Sequence[Sequence[tuple[int, int]]]
    leaps: Sequence[Leap]

    def __len__(self) -> int:
        more = sum(leap.issues * leap.times for leap in self.leaps)
        return more + sum(map(len, self.packed))

    @cached_property
    def times(self) -> Sequence[Numbers]:
        """Of each issue: start, free, done, fetched, ready, holder, instance."""
        return [unpacked(part) for part in self.packed]

    def order(self, core: int, column: int) -> tuple[Numbers, Numbers]:
        """For each issue of a core in program order, where a time of it is recorded, and how much
        later it was."""
        leaps = [leap for leap in self.leaps if leap.core == core]
        size = len(self.packed[core]) + sum(leap.issues * leap.times for leap in leaps)
        places, shifts = np.empty(size, np.int64), np.empty(size, np.int64)
        number = position = later = 0
        for leap in leaps:
            more = leap.position - position
            places[number : number + more] = np.arange(position, leap.position)
            shifts[number : number + more] = later
            number, position = number + more, leap.position
            if leap.issues:
                self._repeat(places, shifts, number, column, leap)
            number += leap.issues * leap.times
            later += leap.times * leap.lapse
        places[number:] = np.arange(position, len(self.packed[core]))
        shifts[number:] = later
        return places, shifts

    def _repeat(
        self, places: Numbers, shifts: Numbers, number: int, column: int, leap: Leap
    ) -> None:
        """The issues behind the first `number` are those a period before them, later.

        What had not happened yet when turns were left out has been recorded as it was behind them;
        how it was before them is known from a period in which it happened.
        """
        times = self.times[leap.core][:, column]
        first = max(0, number - LARGEST_WINDOW)
        undone = first + np.flatnonzero(times[places[first:number]] > leap.when)
        behind = places[undone], shifts[undone] + leap.times * leap.lapse
        for n in undone.tolist():  # in program order: what is a period before is right already
            places[n], shifts[n] = places[n - leap.issues], shifts[n - leap.issues] + leap.lapse
        for places_or_shifts, waits in ((places, 0), (shifts, leap.lapse)):
            period = places_or_shifts[number - leap.issues : number]
            again = np.repeat(np.arange(1, leap.times + 1) * waits, leap.issues)
            end = number + leap.issues * leap.times
            places_or_shifts[number:end] = np.tile(period, leap.times) + again
        moved = undone + leap.issues * leap.times
        places[moved], shifts[moved] = behind

    def rows(self, core: int) -> tuple[Numbers, Numbers]:
        """What is recorded of each issue of a core, in program order, and where its start is."""
        times = self.times[core]
        places, shifts = self.order(core, 0)
        rows = times[places]
        rows[:, [0, 3, 4]] += (shifts + self.begin)[:, None]
        for column in (1, 2):
            found, shifts = self.order(core, column)
            rows[:, column] = times[found, column] + shifts + self.begin
        return rows, places

    def made(self) -> Iterable[Event]:
        view, dram = self.view, self.view.machine.dram.name
        cores = view.machine.cores
        found = []
        for core in range(cores):
            issues = stream(view.stage, self.outermost, core, cores)
            rows, places = self.rows(core)
            for number, ((issue, ranges), row, place) in enumerate(
                zip(issues, rows.tolist(), places.tolist(), strict=True)
            ):
                shape = view.shape(view.texts[id(issue)], ranges)
                logged = self.moved[core]
                read, written = logged[place] if place < len(logged) else (0, 0)
                found.append(
                    Event(
                        start=row[0],
                        free=row[1],
                        done=row[2],
                        fetched=row[3],
                        ready=row[4],
                        holder=number - row[5] if row[5] else -1,
                        core=core,
                        unit=view.machine.units[shape.unit].name,
                        instance=row[6],
                        number=number,
                        section=view.section.name,
                        turn=self.turn,
                        stage=view.stage.name,
                        read=shape.read.get(dram, 0) + read,
                        written=shape.written.get(dram, 0) + written,
                        issue=issue,
                        ranges=dict(ranges),
                    )
                )
        return sorted(found, key=lambda event: (event.start, event.core, event.number))


def unpacked(part: Numbers) -> Numbers:
    """The numbers of `layout.EVENT` as such, holders by how far before they are."""
    start, later, earlier, last = part.T
    rows = np.empty((len(part), 7), np.int64)
    rows[:, 0] = start
    rows[:, 1], rows[:, 2] = start + (later & LOWER), start + (later >> 32)
    rows[:, 3], rows[:, 4] = start - (earlier & LOWER), start - (earlier >> 32)
    held = last & ((1 << INSTANCE_AT) - 1)
    rows[:, 5] = np.where(held != 0, np.arange(1, len(part) + 1) - held, 0)
    rows[:, 6] = last >> INSTANCE_AT
    return rows


def events(view: View, turn: int, log: Iterable[tuple[int, Entry]]) -> tuple[Event, ...]:
    """The issues of one run of a stage, in the order in which they started."""
    machine, dram = view.machine, view.machine.dram.name
    found = []
    for core, entry in log:
        assert entry.record is not None
        issue, ranges, missed = entry.record
        shape = entry.shape
        found.append(
            Event(
                start=entry.start,
                free=entry.free,
                done=entry.done,
                fetched=entry.fetched,
                ready=entry.ready,
                holder=entry.waited_for,
                core=core,
                unit=machine.units[shape.unit].name,
                instance=entry.instance,
                number=entry.number,
                section=view.section.name,
                turn=turn,
                stage=view.stage.name,
                read=shape.read.get(dram, 0) + missed[0],
                written=shape.written.get(dram, 0) + missed[1],
                issue=issue,
                ranges=ranges,
            )
        )
    return tuple(sorted(found, key=lambda event: (event.start, event.core, event.number)))
