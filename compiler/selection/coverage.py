"""What covers what, for reports."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import prod

from infinisa.isa.language import Axis

from ..calls import Call
from ..equality.verdict import PROVED
from .choice import Selection
from .match import Match


@dataclass(frozen=True)
class Share:
    """What some calls do in a graph."""

    calls: int
    nodes: int
    operations: int
    bytes: int


@dataclass(frozen=True)
class Made:
    """A call, what it was made for (None: it copies, or its operator names it), the nodes of the
    model that it stands for, and the bytes that it touches."""

    call: Call
    match: Match | None
    nodes: int
    bytes: int

    @property
    def fused(self) -> bool:
        """Whether it is of an instruction that computes more than one node of the model."""
        return self.match is not None and len(self.match.inner) > 1

    def cycles(self, sizes: Mapping[Axis, int]) -> float:
        """How long its issues keep its unit busy in one turn of the graph."""
        cuts = [
            [(limit, sizes[axis] // limit), (sizes[axis] % limit, 1)]
            for axis, limit in self.call.limits.items()
        ]
        busy = 0
        for pieces in itertools.product(*cuts):
            times = prod(count for _, count in pieces)
            if times and all(length for length, _ in pieces):
                lengths = dict(zip(self.call.limits, (length for length, _ in pieces), strict=True))
                busy += times * int(self.call.cycles(lengths)[0])
        return busy / self.call.unit.count


def total_of(some: Iterable[Made]) -> Share:
    """What calls do together."""
    some = list(some)
    return Share(
        len(some),
        sum(made.nodes for made in some),
        sum(made.call.operations for made in some),
        sum(made.bytes for made in some),
    )


@dataclass
class Coverage:
    """What covers what in a graph.

    made        each call with what it is for
    selections  what could have been chosen: of the graph first, then of its recurrences
    """

    made: list[Made] = field(default_factory=list)
    selections: list[Selection] = field(default_factory=list)

    def assign(self, match: Match, since: int) -> None:
        """Note that the calls from a number on were made for a match."""
        self.made[since:] = [replace(made, match=match) for made in self.made[since:]]

    @property
    def instructions(self) -> dict[str, Share]:
        """Totals for each instruction of the program."""
        return {name: total_of(some) for name, some in self.by_instruction.items()}

    @property
    def by_instruction(self) -> dict[str, list[Made]]:
        """The calls of each instruction of the program."""
        found: dict[str, list[Made]] = {}
        for made in self.made:
            found.setdefault(made.call.opcode.instruction, []).append(made)
        return found

    @property
    def matches(self) -> list[Match]:
        """The matches that were chosen."""
        return list(dict.fromkeys(made.match for made in self.made if made.match is not None))

    @property
    def proved(self) -> int:
        """How many matches are proved; the others are tested."""
        return sum(match.stamp == PROVED for match in self.matches)

    @property
    def error(self) -> float:
        """The largest relative error that an instruction adds to those of the model."""
        return max((match.error for match in self.matches), default=0.0)

    def __str__(self) -> str:
        rows = sorted(self.instructions.items(), key=lambda row: -row[1].operations)
        return "\n".join(
            f"{name}: {share.calls} calls, {share.nodes} nodes, {share.operations} operations, "
            f"{share.bytes} bytes"
            for name, share in rows
        )
