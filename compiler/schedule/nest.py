"""Which loops calls share: the loop tree of an order of axes, and the one rule of legality.

A schedule of some calls is an order of axes and tile sizes. Each call takes the axes it
has, in that order; the outermost loops that neighbours have in common are merged as far as that is
legal. Fusion is thus no transformation: it falls out of the order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeAlias

from infinisa.isa.language import Axis

from ..calls import Call

Run: TypeAlias = tuple[int, int]
"""The calls from the first number up to, not including, the second."""

Legal: TypeAlias = Callable[[Call, Call, Axis], bool]


class Cut(NamedTuple):
    """What has one tile size: the loops over an axis, those apart that are of one call only, which
    accumulates over them. An axis is often the depth of one product and the width of the next."""

    axis: Axis
    alone: bool = False


def may_share(first: Call, second: Call, axis: Axis) -> bool:
    """Whether `second` may run inside the same loop over `axis`, after `first`.

    It may if every tensor that one of them writes and the other touches is cut by `axis` in the
    same dimension on both sides: then a piece is finished before it is used. The steps of one scan
    run in order anyway, so there a tensor may also lack the axis: it is this step's value.
    """
    scans = axis == first.scan == second.scan
    if scans and first.reverse != second.reverse:
        return False
    for a in first.accesses:
        for b in second.accesses:
            if a.tensor != b.tensor or not (a in first.writes or b in second.writes):
                continue
            lacking = axis not in a.axes and axis not in b.axes
            if not (scans and lacking) and a.plain.get(axis, -1) != b.plain.get(axis, -2):
                return False
    return True


@dataclass(frozen=True)
class Nest:
    """Calls under one order: `paths[i]` are the loops of call i, outermost first; `runs[i][d]` are
    the calls that share its first d loops."""

    calls: tuple[Call, ...]
    paths: tuple[tuple[Axis, ...], ...]
    runs: tuple[tuple[Run, ...], ...]

    @cached_property
    def cuts(self) -> tuple[tuple[Cut, ...], ...]:
        """The cut that each loop of each call makes."""
        return tuple(
            tuple(
                Cut(axis, axis in call.reduce and runs[depth + 1] == (i, i + 1))
                for depth, axis in enumerate(path)
            )
            for i, (call, path, runs) in enumerate(
                zip(self.calls, self.paths, self.runs, strict=True)
            )
        )

    def around(self, run: Run, depth: int) -> tuple[Cut, ...]:
        """The cuts of the loops around a run of calls that share `depth` loops."""
        return self.cuts[run[0]][:depth]

    def common(self, members: Sequence[int]) -> int:
        """How many loops these calls share."""
        depth = 0
        while _agree(self.runs[i][depth + 1 : depth + 2] for i in members):
            depth += 1
        return depth

    def pinned(self, i: int) -> int:
        """The depth at which the results of call i live: outside its first accumulating loop."""
        reduce = self.calls[i].reduce
        path = self.paths[i]
        return next((depth for depth, axis in enumerate(path) if axis in reduce), len(path))


def _agree(runs: Iterable[tuple[Run, ...]]) -> bool:
    first, *others = runs
    return bool(first) and all(run == first for run in others)


def nest(calls: tuple[Call, ...], order: Sequence[Axis], legal: Legal = may_share) -> Nest:
    """The loop tree of `calls` under an order of axes."""
    paths = tuple(tuple(axis for axis in order if axis in call.tiled) for call in calls)
    runs: list[list[Run]] = [[(0, len(calls))] for _ in calls]

    def part(first: int, last: int, depth: int) -> None:
        while first < last:
            end = first + 1
            if depth < len(paths[first]):
                axis = paths[first][depth]
                while (
                    end < last
                    and paths[end][depth : depth + 1] == (axis,)
                    and all(legal(calls[i], calls[end], axis) for i in range(first, end))
                ):
                    end += 1
                for i in range(first, end):
                    runs[i].append((first, end))
                part(first, end, depth + 1)
            first = end

    part(0, len(calls), 0)
    return Nest(calls, paths, tuple(map(tuple, runs)))
