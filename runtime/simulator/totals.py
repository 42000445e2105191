"""Adding up: shapes and accounts to stages, stages to sections, sections to a report.

Whatever is added comes with how many times it counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from infinisa.isa.machine import INTERCONNECT, Machine

from .contract import Measured, OpcodeReport, Shape, StageReport, Stalls
from .shapes import View
from .stalls import Account

Parts: TypeAlias = Iterable[tuple[StageReport | Measured, int]]
Row: TypeAlias = tuple[str, str, Sequence[int], int]
"""Of an opcode: its unit, the `numbers` of its report, how many times they count."""


class Misses(NamedTuple):
    """Bytes of one opcode that a cache did not hold, and busy cycles that they cost."""

    read: int = 0
    written: int = 0
    cycles: int = 0


def stage_report(
    view: View,
    begin: int,
    end: int,
    accounts: Iterable[Account],
    used: Iterable[Shape],
    misses: Mapping[str, Misses],
    channel: int,
) -> StageReport:
    """One run of a stage from `begin` to `end`; uses of the shapes count from 0 again."""
    machine, dram = view.machine, view.machine.dram.name
    end += machine.barrier if machine.cores > 1 else 0
    rows: list[Row] = []
    read: list[tuple[Mapping[str, int], int]] = []
    written: list[tuple[Mapping[str, int], int]] = []
    unit = {}
    for shape in used:
        uses, shape.uses = shape.uses, 0
        unit[shape.opcode] = name = machine.units[shape.unit].name
        moved = shape.read.get(dram, 0), shape.written.get(dram, 0)
        rows.append((shape.opcode, name, (1, shape.work, shape.operations, *moved), uses))
        read.append((shape.read, uses))
        written.append((shape.written, uses))
    for opcode, missed in misses.items():
        rows.append((opcode, unit[opcode], (0, missed.cycles, 0, missed.read, missed.written), 1))
        passed = (dram, INTERCONNECT) if machine.interconnect and view.cache_of_core else (dram,)
        read.append((dict.fromkeys(passed, missed.read), 1))
        written.append((dict.fromkeys(passed, missed.written), 1))
    return StageReport(
        cycles=end - begin,
        stalls=tuple(account.close(begin, end) for account in accounts),
        opcodes=add_rows(rows),
        read=add_maps(read),
        written=add_maps(written),
        channel=channel,
    )


def totals(machine: Machine, parts: Parts) -> dict[str, Any]:
    """The fields of `Measured`."""
    parts = list(parts)
    return {
        "target": machine,
        "cycles": sum(part.cycles * times for part, times in parts),
        "opcodes": add_rows(
            (row.opcode, row.unit, row.numbers, times)
            for part, times in parts
            for row in part.opcodes
        ),
        "read": add_maps((part.read, times) for part, times in parts),
        "written": add_maps((part.written, times) for part, times in parts),
        "channel": sum(part.channel * times for part, times in parts),
        "stalls": add_stalls((row, times) for part, times in parts for row in part.stalls),
        "path": add_maps((part.path, times) for part, times in parts),
        "layers": add_maps((part.layers, times) for part, times in parts),
    }


def add_maps(maps: Iterable[tuple[Mapping[str, int], int]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for numbers, times in maps:
        for name, number in numbers.items():
            found[name] = found.get(name, 0) + number * times
    return found


def add_rows(rows: Iterable[Row]) -> tuple[OpcodeReport, ...]:
    """One row for each opcode."""
    found: dict[str, tuple[str, list[int]]] = {}
    for opcode, unit, numbers, times in rows:
        sums = found.setdefault(opcode, (unit, [0] * len(numbers)))[1]
        for i, number in enumerate(numbers):
            sums[i] += number * times
    return tuple(OpcodeReport(opcode, unit, *sums) for opcode, (unit, sums) in found.items())


def add_stalls(rows: Iterable[tuple[Stalls, int]]) -> tuple[Stalls, ...]:
    """One row for each core and each unit of it."""
    found: dict[tuple[int, str, int], list[int]] = {}
    data: dict[tuple[int, str, int], list[tuple[Mapping[str, int], int]]] = {}
    for row, times in rows:
        key = row.core, row.unit, row.instance
        sums = found.setdefault(key, [0] * 5)
        for i, number in enumerate((row.cycles, row.busy, row.queue, row.issue, row.idle)):
            sums[i] += number * times
        data.setdefault(key, []).append((row.data, times))
    return tuple(
        Stalls(
            *key,
            cycles=cycles,
            busy=busy,
            data=add_maps(data[key]),
            queue=queue,
            issue=issue,
            idle=idle,
        )
        for key, (cycles, busy, queue, issue, idle) in found.items()
    )
