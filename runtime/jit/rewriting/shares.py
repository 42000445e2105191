"""Which axis of an issue the threads of a session divide among them, if any."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from infinisa.isa.dtypes import DTYPES
from infinisa.isa.instruction import Instruction
from infinisa.isa.language import Dot, walk
from infinisa.isa.program import Buffer, Dimension, Issue, Opcode, Operand

from ..contraction.transforms import RESULTS

WORTH = 400_000
"""Operations that dividing an issue must save: some 10 us, against 1 us to hand pieces out."""

TRAFFIC = 8
"""Operations in the time in which an element is read or written."""

ROUNDS = 2
"""Pieces that each thread takes if all are there: of one that comes late, or is stopped, others
take what it has left."""

LINE = 64
"""Bytes that two threads should not both write into."""


@dataclass(frozen=True)
class Share:
    """A range of an issue in pieces.

    range   that is divided
    pieces  how many there are, at most
    grain   they are multiples of it, but for the last
    least   positions below which they are one piece
    """

    range: str
    pieces: int
    grain: int = 1
    least: int = 1

    def piece(self, length: int) -> int:
        """Positions of the first piece."""
        grains = -(-length // (self.pieces * self.grain))
        return min(grains * self.grain, length)


class Shares:
    """Decides for the issues of a program, where `threads` run them on vectors of `lanes`.

    buffers  of the program, by name
    worth    operations that a division must save
    """

    def __init__(
        self, buffers: Mapping[str, Buffer], threads: int, lanes: int, worth: int = WORTH
    ) -> None:
        self.buffers, self.threads, self.lanes = buffers, threads, lanes
        self.worth = max(worth, 1)
        self.work_of: dict[tuple[object, ...], int] = {}

    def share(
        self, issue: Issue, opcode: Opcode, meaning: Instruction | None, bounds: Mapping[str, int]
    ) -> Share | None:
        """The division of an issue that leaves each thread the least; None if it saves too little.

        Of equal ones a contraction takes the last axis, of which a thread packs its own part only;
        others the first, whose pieces are the longest runs of memory.

        meaning  what the opcode means; None for a copy
        bounds   how long each range can be
        """
        if self.threads == 1 or not self.apart(issue):
            return None
        whole = self.work(issue, meaning, bounds)
        if whole < self.worth:
            return None
        nodes = walk(meaning.outputs) if meaning else ()
        last = any(isinstance(node, Dot) for node in nodes)
        best: tuple[int, Share] | None = None
        for name in self.ranges(issue, opcode, meaning):
            length = bounds[name]
            grain = self.grain(issue, name, bounds)
            if meaning and last and grain % RESULTS and moves_windows(issue, name, meaning):
                grain *= RESULTS
            share = Share(name, self.threads, grain)
            piece = share.piece(length)
            saved = whole - self.work(issue, meaning, {**bounds, name: piece})
            better = best is None or saved > best[0] or (last and saved == best[0])
            if saved >= self.worth and better:
                least = -(-length * self.worth // saved)
                best = saved, replace(share, pieces=ROUNDS * self.threads, least=least)
        return best[1] if best else None

    # -- what may be divided

    def ranges(self, issue: Issue, opcode: Opcode, meaning: Instruction | None) -> Iterable[str]:
        """Ranges whose pieces can be computed without each other, each into memory of its own.

        An instruction says itself which axes it needs whole (`Instruction.whole`) and over which
        its results accumulate; any other may go in pieces, as it does in loops. Pieces lie apart
        if every result has the range as one of its dimensions.
        """
        found = dict.fromkeys(_moving(issue.writes[0]))
        for operand in issue.writes:
            mine = _moving(operand)
            found = {name: None for name in found if mine.count(name) == 1}
        if meaning is None:
            return found
        tied = meaning.whole | meaning.reduced
        axes: dict[str, list[str]] = {}
        for axis, name in issue.axes:
            axes.setdefault(name, []).append(axis)
        return [
            name
            for name in found
            if len(axes.get(name, ())) == 1
            and axes[name][0] not in tied
            and all(axes[name][0] in results for results in opcode.results)
        ]

    def apart(self, issue: Issue) -> bool:
        """Whether what shares memory with a result is the same region as that, or one that has no
        position in common with it: then a piece reads only what it replaces itself."""
        buffer = self.buffers
        pairs = itertools.chain(
            itertools.product(issue.reads, issue.writes),
            itertools.combinations(issue.writes, 2),
        )
        return all(
            not _overlap(buffer[one.buffer], buffer[write.buffer])
            or one == write
            or (one.buffer == write.buffer and fixed(one, [write]) != fixed(write, [one]))
            for one, write in pairs
        )

    # -- what it costs

    def work(self, issue: Issue, meaning: Instruction | None, bounds: Mapping[str, int]) -> int:
        """Operations of an issue, reading and writing included, over ranges as long as they can
        be."""
        sizes = tuple(_size(o, bounds) for o in (*issue.reads, *issue.writes))
        moved = TRAFFIC * sum(sizes)
        if meaning is None:
            return moved
        lengths = tuple((axis, bounds[name]) for axis, name in issue.axes)
        key = id(meaning), lengths
        if key not in self.work_of:
            self.work_of[key] = int(meaning.operations(dict(lengths)))
        return self.work_of[key] + moved

    def grain(self, issue: Issue, name: str, bounds: Mapping[str, int]) -> int:
        """Along memory whole panels of a contraction if there are enough, at least whole lines."""
        grain = 1
        for operand in issue.writes:
            if name not in _names(operand.dimensions[-1]):
                continue
            size = DTYPES[self.buffers[operand.buffer].dtype].size
            panel = 4 * self.lanes
            wide = bounds[name] >= self.threads * panel
            grain = max(grain, panel if wide else 1, LINE // size)
        return grain


def fixed(operand: Operand, others: Iterable[Operand]) -> tuple[int, ...]:
    """Where an operand is in the dimensions of which it and other regions of its buffer have one
    position, at any time. Regions that differ there have nothing in common."""
    alike = zip(operand.dimensions, *(other.dimensions for other in others), strict=True)
    return tuple(own.offset for own, *more in alike if not any(d.terms for d in (own, *more)))


def narrowed(issue: Issue, name: str, piece: str) -> Issue:
    """The issue over a piece of a range. Regions still count from where the range begins."""

    def part(operand: Operand) -> Operand:
        if not any(name in _names(dimension) for dimension in operand.dimensions):
            return operand
        return replace(operand, dimensions=tuple(map(moved, operand.dimensions)))

    def moved(dimension: Dimension) -> Dimension:
        if name not in _names(dimension):
            return dimension
        terms = tuple(replace(t, range=piece) if t.range == name else t for t in dimension.terms)
        return replace(dimension, terms=terms)

    return replace(
        issue,
        reads=tuple(map(part, issue.reads)),
        writes=tuple(map(part, issue.writes)),
        axes=tuple((axis, piece if given == name else given) for axis, given in issue.axes),
    )


def moves_windows(issue: Issue, name: str, meaning: Instruction) -> bool:
    """Whether windows move along a range: their patches are the same ones in pieces and at once."""
    axes = {axis for axis, given in issue.axes if given == name}
    return any(axes & {*index.axes} for index in meaning.windows.values())


def _names(dimension: Dimension) -> list[str]:
    return [term.range for term in dimension.terms]


def _moving(operand: Operand) -> list[str]:
    """Ranges that are a dimension by themselves; a name in another sum as well is there twice."""
    alone = [d.terms[0].range for d in operand.dimensions if len(d.terms) == 1
             and d.terms[0].stride == 1]  # fmt: skip
    mixed = [name for d in operand.dimensions if len(d.terms) != 1 or d.terms[0].stride != 1
             for name in _names(d)]  # fmt: skip
    return alone + 2 * mixed


def _size(operand: Operand, bounds: Mapping[str, int]) -> int:
    total = 1
    for dimension in operand.dimensions:
        total *= 1 + sum(abs(term.stride) * (bounds[term.range] - 1) for term in dimension.terms)
    return max(total, 0)


def _overlap(a: Buffer, b: Buffer) -> bool:
    """Whether two buffers have a byte in common."""
    if a.outer or b.outer:
        return a.name == b.name
    ends = (x.address + max(x.slots * x.pitch, x.bytes) for x in (a, b))
    a_end, b_end = ends
    return a.memory == b.memory and a.address < b_end and b.address < a_end
