"""What to say when a simulation cannot go on: who waits for what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .contract import Entry, Origins, brought
from .memory import CHANNELS
from .shapes import View

SHOWN = 8
"""How many of the issues that wait are named."""


def stuck(view: View, cycle: int, windows: Sequence[Sequence[Entry]], origins: Origins) -> str:
    """Each unfinished issue of each core and whom it waits for, the oldest first; then what plugins
    have to do with it."""
    lines = [line for core, window in enumerate(windows) for line in _core(view, core, window)]
    left = len(lines) - SHOWN
    if left > 0:
        lines[SHOWN:] = [f"{left} more"]
    lines = lines or ["no issue is in a window, but some were not fetched"]
    sharing = view.machine.dram.channel.sharing
    lines += [
        f"{unit.name} is process {unit.process!r}{brought(origins, 'units', unit.process)}"
        for unit in view.machine.units
        if unit.process
    ]
    if sharing not in CHANNELS:
        lines.append(f"the channel is {sharing!r}{brought(origins, 'memories', sharing)}")
    return (
        f"stage {view.stage.name!r} of section {view.section.name!r} is stuck at cycle {cycle}: "
        + "; ".join(lines)
    )


def _core(view: View, core: int, window: Sequence[Entry]) -> Iterator[str]:
    units = view.machine.units
    running = [entry for entry in window if entry.start >= 0]
    for entry in window:
        unit = units[entry.shape.unit].name
        what = f"core {core}: {_name(entry)} on {unit}"
        if entry.finished:
            continue
        if entry.start >= 0:
            left = "its results" if entry.free >= 0 else "its end"
            yield f"{what}, started at {entry.start}, waits for {left}"
        elif entry.waits:
            holders = [other for other in window if entry in (*other.then, *other.after)]
            reasons = [
                f"{_hazards(view, entry, other)} held by {_name(other)}" for other in holders
            ]
            yield f"{what} waits for {' and '.join(reasons)}"
        else:
            holding = [
                other for other in running
                if other.shape.unit == entry.shape.unit and other.free < 0
            ]  # fmt: skip
            by = f" held by {_name(holding[0])}" if holding else ", which is free"
            yield f"{what} waits for its unit{by}"


def _name(entry: Entry) -> str:
    return f"#{entry.number} {entry.shape.opcode}"


def _hazards(view: View, entry: Entry, other: Entry) -> str:
    """What both touch."""
    mine, theirs = entry.shape, other.shape
    wrote = {*theirs.writes, *theirs.stores}
    shared = [n for n in mine.reads if n in wrote]
    shared += [n for n in (*mine.writes, *mine.stores) if n in wrote or n in theirs.reads]
    return " and ".join(view.name(number) for number in dict.fromkeys(shared))
