"""Traces: what ran when."""

from __future__ import annotations

from collections.abc import Iterable

from .contract import Entry, Event
from .shapes import View


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
