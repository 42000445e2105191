"""A loop around several issues as a loop around each, one after the other.

Tiles on chip that only this loop knows become whole tensors outside of the chip.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from infinisa.isa.program import Buffer, Dimension, Issue, Loop, Operand


@dataclass(frozen=True)
class Tiles:
    """The tiles that lie between the issues of a loop.

    loop     around nothing but issues
    issues   its body
    buffers  of the program, by name
    alone    names of buffers that nothing else touches
    """

    loop: Loop
    issues: Sequence[Issue]
    buffers: Mapping[str, Buffer]
    alone: Collection[str]

    @property
    def operands(self) -> list[Operand]:
        return [o for issue in self.issues for o in (*issue.reads, *issue.writes)]

    def between(self) -> dict[str, int] | None:
        """The buffers that one issue writes and another touches, and the dimension that each turn
        has a part of its own of; None if turns are not computed without each other."""
        written = {o.buffer for issue in self.issues for o in issue.writes}
        found: dict[str, int] = {}
        for name in written:
            mine = [i for i in self.issues if any(o.buffer == name for o in (*i.reads, *i.writes))]
            if len(mine) == 1:
                continue
            cuts = [self.cut(o) for o in self.operands if o.buffer == name]
            if cuts[0] is None or cuts.count(cuts[0]) < len(cuts):
                return None
            found[name] = cuts[0][0]
        return found

    def cut(self, operand: Operand) -> tuple[int, Dimension] | None:
        """The dimension of which a turn takes its own positions, each once."""
        places = [
            (place, dimension)
            for place, dimension in enumerate(operand.dimensions)
            if any(self.loop.range in (term.range, term.base) for term in dimension.terms)
        ]
        if len(places) != 1 or (operand.fill is not None and places[0][1].offset):
            return None  # the border of a turn would be inside of the whole
        (term, *others) = places[0][1].terms
        plain = not others and term.range == self.loop.range and abs(term.stride) == 1
        return places[0] if plain else None

    def whole(self, extent: int) -> tuple[list[Issue], dict[str, Buffer]] | None:
        """The issues, to be run one after the other over all turns, and what tiles became.

        extent  most positions of the range that the loop divides
        """
        between = self.between()
        if between is None:
            return None
        made: dict[str, Buffer] = {}
        for name, place in between.items():
            buffer = self.buffers[name]
            if all(not self.based(o) for o in self.operands if o.buffer == name):
                if buffer.rotor == self.loop.range:
                    return None
                continue
            turns = buffer.rotor in ("", self.loop.range)
            if buffer.kind != "temporary" or name not in self.alone or not turns:
                return None
            shape = list(buffer.shape)
            shape[place] = extent
            made[name] = Buffer(name, OUTSIDE, tuple(shape), buffer.dtype)
        if any(self.based(o) and o.buffer not in made for o in self.operands):
            return None
        old, new = self.loop.range, self.loop.parent
        return [rebased(issue, old, new) for issue in self.issues], made

    def based(self, operand: Operand) -> bool:
        """Whether it counts positions from the start of a turn."""
        return any(t.base == self.loop.range for d in operand.dimensions for t in d.terms)


def rebased(issue: Issue, old: str, new: str) -> Issue:
    """The issue with positions counted from the start of another range."""

    def part(operand: Operand) -> Operand:
        if not any(t.base == old for d in operand.dimensions for t in d.terms):
            return operand
        return replace(operand, dimensions=tuple(map(counted, operand.dimensions)))

    def counted(dimension: Dimension) -> Dimension:
        terms = tuple(replace(t, base=new) if t.base == old else t for t in dimension.terms)
        return replace(dimension, terms=terms)

    reads, writes = tuple(map(part, issue.reads)), tuple(map(part, issue.writes))
    return replace(issue, reads=reads, writes=writes)


OUTSIDE = "outside"
"""The memory of whole tensors: any name, as no place on chip is one."""
