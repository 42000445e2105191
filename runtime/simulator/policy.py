"""Policies: which of the ready issues of one unit class starts next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from infinisa.isa.errors import SimulationError

from .contract import Entry, Policy


def oldest(ready: Sequence[Entry]) -> int:
    """The first in program order."""
    return 0


def longest(ready: Sequence[Entry]) -> int:
    """The one with most work; of equals the oldest."""
    return max(range(len(ready)), key=lambda i: (ready[i].shape.work, -i))


def shortest(ready: Sequence[Entry]) -> int:
    """The one with least work; of equals the oldest."""
    return min(range(len(ready)), key=lambda i: (ready[i].shape.work, i))


POLICIES: Mapping[str, Policy] = {policy.__name__: policy for policy in (oldest, longest, shortest)}


def policy(name: str) -> Policy:
    """The policy of this name; SimulationError if there is none."""
    if name not in POLICIES:
        raise SimulationError(f"policy must be one of {', '.join(POLICIES)}, not {name!r}")
    return POLICIES[name]
