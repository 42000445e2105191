"""How long a cover takes, and what a cycle of each resource is worth beside the others.

Memory works beside the units, and units beside each other, as far as the window of issues reaches.
An instruction with tile limits goes in many small issues; while those of one call wait they fill
the window, and nothing behind them starts. So whatever lies between such calls, a function between
two products, takes its time alone; a function behind all of them, or one between others that take
a tile an issue, is done beside them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import fsum

from infinisa.isa.machine import Machine

from ..schedule.cost import SPILL

Load = Mapping[str, float]
"""Cycles of each resource: the machine's units by name, and these."""

DRAM, CALLS = "(DRAM)", "(calls)"
"""Moving bytes to and from the outermost store, and what each call takes besides its work."""

CALL = 64
"""Cycles that every call costs besides its work, so that few large instructions win."""

BELIEVED = 0.99
"""A cover that is predicted to take less than this share of the first one's time is taken."""


@dataclass(frozen=True)
class Work:
    """What a call does: the cycles that it takes one core, and whether in many small issues."""

    unit: str
    cycles: float
    small: bool


@dataclass(frozen=True)
class Forecast:
    """Predicted cycles, and how many of them a cycle less of each resource spares."""

    time: float
    prices: Load

    @staticmethod
    def of(calls: Sequence[Work], traffic: float, machine: Machine) -> Forecast:
        """Of calls in order, as if all cores shared them, and of cycles in which memory is busy."""
        small = [n for n, work in enumerate(calls) if work.small]
        every, alone = _by_unit(calls), _by_unit(calls[small[0] : small[-1] + 1] if small else ())
        waits = sum(alone.values())
        busiest = max([waits, *every.values()]) / machine.cores
        slowest = max(busiest, traffic) or 1.0
        prices = {DRAM: max(SPILL, traffic / slowest), CALLS: 1.0}
        for unit in machine.units:
            cycles = every.get(unit.name, 0.0)
            share = alone.get(unit.name, 0.0) / cycles if cycles else 0.0
            spared = max(cycles, share * waits) / machine.cores / slowest
            prices[unit.name] = max(SPILL, spared) / machine.cores
        return Forecast(slowest + CALL * len(calls), prices)


def even(machine: Machine) -> Load:
    """Prices as if nothing worked beside anything else."""
    return dict.fromkeys((*(unit.name for unit in machine.units), DRAM, CALLS), 1.0)


def excess(load: Load, other: Load, least: float) -> float:
    """How much more one load costs than another at most, if no price is below `least` or above 1.
    Calls always cost the same."""
    found = 0.0
    for name in {*load, *other}:
        more = load.get(name, 0.0) - other.get(name, 0.0)
        found += more if more > 0 or name == CALLS else least * more
    return found


def _by_unit(calls: Iterable[Work]) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for work in calls:
        found.setdefault(work.unit, []).append(work.cycles)
    return {unit: fsum(cycles) for unit, cycles in found.items()}
