"""A simulated program as a trace for ui.perfetto.dev and chrome://tracing.

A process is a core, a thread one of its units; one more process shows sections and stages. One
microsecond of the trace is one cycle, so that all times are whole numbers and nothing is rounded.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from infinisa.isa.machine import Machine

from ..simulator.contract import Event, Report

Entry = dict[str, object]

PROGRAM = 0
"""The process that shows sections and stages; core i is process i + 1."""


def to_json(report: Report) -> str:
    """The trace as text; of a report with events."""
    entries = [*_names(report.target), *_spans(report.events), *_issues(report)]
    about = {"machine": report.machine, "clock": report.clock, "unit": "1 us is 1 cycle"}
    return json.dumps(
        {"traceEvents": entries, "displayTimeUnit": "ns", "otherData": about},
        separators=(",", ":"),
    )


def _threads(machine: Machine) -> dict[tuple[str, int], int]:
    units = [(unit.name, i) for unit in machine.units for i in range(unit.count)]
    return {unit: number for number, unit in enumerate(units)}


def _names(machine: Machine) -> Iterator[Entry]:
    yield from _name(PROGRAM, "program", {0: "sections", 1: "stages"})
    counts = {unit.name: unit.count for unit in machine.units}
    threads = {
        number: f"{unit} {i}" if counts[unit] > 1 else unit
        for (unit, i), number in _threads(machine).items()
    }
    for core in range(machine.cores):
        yield from _name(core + 1, f"core {core}", threads)


def _name(process: int, name: str, threads: dict[int, str]) -> Iterator[Entry]:
    yield {"ph": "M", "name": "process_name", "pid": process, "args": {"name": name}}
    yield {"ph": "M", "name": "process_sort_index", "pid": process, "args": {"sort_index": process}}
    for number, thread in threads.items():
        where = {"pid": process, "tid": number}
        yield {"ph": "M", "name": "thread_name", **where, "args": {"name": thread}}
        yield {"ph": "M", "name": "thread_sort_index", **where, "args": {"sort_index": number}}


def _spans(events: Iterable[Event]) -> Iterator[Entry]:
    """Turns of sections, and stages, from the first start to the last end."""
    spans: dict[tuple[int, str, int, str], tuple[int, int]] = {}
    for event in events:
        for key in (
            (0, event.section, event.turn, ""),
            (1, event.section, event.turn, event.stage),
        ):
            start, end = spans.get(key, (event.start, event.done))
            spans[key] = min(start, event.start), max(end, event.done, event.free)
    for (thread, section, turn, stage), (start, end) in spans.items():
        name = stage or f"{section} {turn}"
        args = {"section": section, "turn": turn}
        yield _complete(PROGRAM, thread, name, "stage" if stage else "section", start, end, args)


def _issues(report: Report) -> Iterator[Entry]:
    threads = _threads(report.target)
    for event in report.events:
        args = {
            "opcode": event.issue.opcode,
            "section": event.section,
            "turn": event.turn,
            "stage": event.stage,
            "number": event.number,
            "bytes": event.read + event.written,
            "done": event.done,
        }
        yield _complete(
            event.core + 1,
            threads[event.unit, event.instance],
            event.issue.opcode,
            event.section,
            event.start,
            event.free,
            args,
        )


def _complete(
    process: int, thread: int, name: str, category: str, start: int, end: int, args: Entry
) -> Entry:
    where = {"pid": process, "tid": thread}
    return {
        "ph": "X",
        "name": name,
        "cat": category,
        "ts": start,
        "dur": end - start,
        **where,
        "args": args,
    }
