"""Which calls share loops, in which order, in tiles of what size.

Neighbouring groups are joined as long as that saves time, the pair that gains most first. A group
is costed for every order of axes worth trying and a grid of tile sizes. Groups that are alike
(repeated layers) are costed once.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise, permutations
from math import inf, isinf
from typing import NamedTuple

from infinisa.isa.dtypes import DTYPES
from infinisa.isa.errors import CompileError
from infinisa.isa.language import Axis
from infinisa.isa.machine import Machine
from infinisa.isa.program import Parameter

from ..calls import Access, Call, Covered
from ..graph import usual_lengths
from .cost import (
    Cycles,
    Group,
    Sizes,
    Target,
    chip_capacity,
    combined,
    estimate,
    least_bytes,
    make_grid,
    spread_steps,
)
from .home import Frame, Key, Names, Setting, Uses, volume
from .likeness import Likeness
from .nest import Cut, Nest, Run, may_share, nest
from .place import chip_bytes

LONGEST = 16
"""Calls of a group that has been joined: beyond it nothing is gained but search time."""

FILLS = (0.97, 0.9, 0.8, 0.7, 0.6, 0.5)
"""Shares of the chip memory that tiles may take: the rest is lost between places."""


class Effort(NamedTuple):
    """How finely a group is searched: axes tried as outermost, tile sizes tried for every order,
    and then for so many of the best orders."""

    heads: int
    points: int = 100
    finest: int = 0
    best: int = 0


CLEAR = 0.95
"""A prediction of fewer cycles than this share is believed."""

COARSE, FINE = Effort(2), Effort(3, finest=1000, best=2)


def schedule(
    covered: Covered,
    machine: Machine,
    *,
    fuse: bool = True,
    parameters: Iterable[Parameter] = (),
) -> list[Group]:
    """The groups of a graph's calls, in order, each with its loops and tile sizes.

    fuse        False: every call (or scan) on its own
    parameters  their defaults tell how long an axis usually is

    Raises CompileError if the smallest tiles of a call do not fit on the chip.
    """
    search = Search(covered, machine, lengths(covered, parameters))
    runs = atoms(covered)
    if fuse:
        runs = greedy(search, runs)
    return [search.placed(run) for run in runs]


def lengths(covered: Covered, parameters: Iterable[Parameter]) -> Sizes:
    """The bounds of all axes, and the lengths that the defaults of parameters give them."""
    most = {extent.axis: max(extent.most, 1) for extent in covered.extents}
    return Sizes(most, usual_lengths(covered.extents, parameters))


def frame(covered: Covered, machine: Machine) -> Frame:
    return Frame(covered, machine.scratchpad.managed == "software")


def atoms(covered: Covered) -> list[Run]:
    """Runs of calls that cannot be parted: those of one scan, all users of a scan's state, the step
    and the finish of one instruction, and all that write a tensor with gaps, which only together
    have something to store."""
    calls = covered.calls
    ends = list(range(1, len(calls) + 1))  # atom i reaches at least to ends[i]
    for i, (call, after) in enumerate(pairwise(calls)):
        if call.scan and (call.scan, call.reverse) == (after.scan, after.reverse):
            ends[i] = max(ends[i], i + 2)
    first: dict[str, int] = {}
    gapped = _gapped(covered)
    for i, call in enumerate(calls):
        inner = [a for a in call.accesses if covered.tensors[a.tensor].inner]
        for access in (*inner, *(a for a in call.writes if a.tensor in gapped)):
            start = first.setdefault(access.tensor, i)
            ends[start] = max(ends[start], i + 1)
    found: list[Run] = []
    start = 0
    while start < len(calls):
        end, i = ends[start], start
        while i < end:
            end, i = max(end, ends[i]), i + 1
        found.append((start, end))
        start = end
    return found


def _gapped(covered: Covered) -> set[str]:
    """The tensors that calls write with gaps. CompileError for a kept one: what is in the gaps
    would be lost."""
    sizes = {extent.axis: extent.most for extent in covered.extents}
    found = set()
    for call in covered.calls:
        for access in call.writes:
            if access.gaps(sizes):
                found.add(access.tensor)
                if covered.tensors[access.tensor].kind == "state":
                    raise CompileError(
                        f"graph {covered.name!r}: call {call.name!r} must write kept tensor "
                        f"{access.tensor!r} without gaps"
                    )
    return found


def orders(calls: Sequence[Call], heads: int, most: Mapping[Axis, int]) -> list[tuple[Axis, ...]]:
    """Orders worth trying: any one or two shared axes outside, then parallel axes, then those
    that all their calls accumulate over. A scan is outside of all. An axis of one position is no
    loop."""
    axes = dict.fromkeys(axis for call in calls for axis in call.tiled)
    scans = [axis for axis in axes if any(call.scan == axis for call in calls)]
    rest = [axis for axis in axes if axis not in scans and most[axis] > 1]
    users = {axis: sum(axis in call.tiled for call in calls) for axis in rest}
    reduced = {a for a in rest if all(a in c.reduce for c in calls if a in c.tiled)}
    outer = [axis for axis in rest if len(calls) == 1 or users[axis] > 1]
    outer = sorted(outer, key=lambda axis: (-users[axis], axis in reduced))[:heads]
    starts: list[tuple[Axis, ...]] = [(axis,) for axis in outer]
    starts += permutations(outer, 2)
    found: dict[tuple[tuple[Axis, ...], ...], tuple[Axis, ...]] = {}
    for head in starts or [()]:
        tail = [axis for axis in rest if axis not in head]
        tail.sort(key=lambda axis: (axis in reduced, -users[axis]))
        order = (*scans, *head, *tail)
        found.setdefault(tuple(tuple(a for a in order if a in c.tiled) for c in calls), order)
    return list(found.values())


def spreadable(tree: Nest, setting: Setting) -> Axis | None:
    """The outermost axis, if all calls are in its loop, none accumulates or scans over it, and what
    they write outside the chip is cut by it: each core writes a piece of its own."""
    every = (0, len(tree.calls))
    if not all(runs[1:2] == (every,) for runs in tree.runs):
        return None
    axis = tree.paths[0][0]
    if any(axis in call.reduce or call.scan == axis for call in tree.calls):
        return None
    for name, writes in setting.writers.items():
        if name in setting.outside:
            accesses = [access for _, access in (*writes, *setting.readers.get(name, ()))]
            if not set.intersection(*(_cut_by(axis, access) for access in accesses)):
                return None
    return axis


def _cut_by(axis: Axis, access: Access) -> set[tuple[int, int]]:
    """The dimensions (with their offset) in which an access has just this axis."""
    return {
        (number, index.offset)
        for number, index in enumerate(access.index)
        if index.terms == ((axis, 1),)
    }


@dataclass
class Search:
    """Costs groups of one graph on one machine; remembers all that it costed, by likeness."""

    covered: Covered
    machine: Machine
    sizes: Sizes
    places: dict[Run, tuple[Setting, Key, Names]] = field(default_factory=dict)
    best_known: dict[Key, Group | None] = field(default_factory=dict)
    costed: dict[Key, Group | None] = field(default_factory=dict)
    final: dict[Key, Group] = field(default_factory=dict)
    hopes: dict[Key, float] = field(default_factory=dict)
    keys: dict[tuple[int, ...], Key] = field(default_factory=dict)
    shared: dict[tuple[Call, Call, Axis], bool] = field(default_factory=dict)
    least: dict[int, float] = field(default_factory=dict)
    cycles: Cycles = field(default_factory=Cycles)

    def __post_init__(self) -> None:
        self.likeness = Likeness(self.covered.tensors, self.sizes)
        self.around = frame(self.covered, self.machine)

    def legal(self, first: Call, second: Call, axis: Axis) -> bool:
        key = first, second, axis
        if key not in self.shared:
            self.shared[key] = may_share(first, second, axis)
        return self.shared[key]

    def best(
        self,
        run: Run,
        effort: Effort = COARSE,
        fill: float = FILLS[0],
        slots: int = 2,
        order: tuple[Axis, ...] | None = None,
    ) -> Group | None:
        """The fastest schedule of a run as one group, or None if nothing fits.

        order  the only one to try
        """
        group = self._alike(run, effort, fill, slots, order)
        if group is None:
            return None
        _, _, names = self._place(run)
        calls = self.covered.calls[run[0] : run[1]]
        return replace(_renamed(group, names.numbered, names), first=run[0], calls=calls)

    def time(self, run: Run) -> float:
        """The cycles that the fastest schedule of a run takes, as far as a coarse search finds it;
        infinite if nothing fits."""
        group = self._alike(run)
        return group.time if group else inf

    def _alike(
        self,
        run: Run,
        effort: Effort = COARSE,
        fill: float = FILLS[0],
        slots: int = 2,
        order: tuple[Axis, ...] | None = None,
    ) -> Group | None:
        """What is the best for all runs that are alike, in numbers."""
        numbers = tuple(map(self._place(run)[2].axes.index, order)) if order else None
        key = self._key(run), effort, fill, slots, numbers
        if key not in self.best_known:
            setting, _, names = self._place(run)
            target = Target.of(self.machine, fill)
            tried = [order] if order else orders(setting.calls, effort.heads, self.sizes.most)
            groups = self._ranked(setting, tried, effort.points, target, slots)
            if effort.best:
                again = [group.order for group in groups[: effort.best]]
                groups = self._ranked(setting, again, effort.finest, target, slots) or groups
            self.best_known[key] = _renamed(groups[0], names, names.numbered) if groups else None
        return self.best_known[key]

    def _key(self, run: Run) -> Key:
        """What a run has in common with all that are alike."""
        if run[1] - run[0] > LONGEST:
            return self._place(run)[1]
        signature = self.signatures[run[0] : run[1]]
        if signature not in self.keys:
            self.keys[signature] = self._place(run)[1]
        return self.keys[signature]

    @cached_property
    def gapped(self) -> frozenset[str]:
        return frozenset(_gapped(self.covered))

    @cached_property
    def signatures(self) -> tuple[int, ...]:
        return self.likeness.signatures(self.covered.calls, LONGEST)

    def _place(self, run: Run) -> tuple[Setting, Key, Names]:
        """A run in its graph, what it has in common with all that are alike, and its names."""
        if run not in self.places:
            setting = self.around.setting(run)
            self.places[run] = (setting, *self.likeness.of(setting))
        return self.places[run]

    def _ranked(
        self,
        setting: Setting,
        tried: Iterable[tuple[Axis, ...]],
        points: int,
        target: Target,
        slots: int,
    ) -> list[Group]:
        """The best schedule for each order for which anything fits, the fastest first. What is
        written with gaps has all its parts in one buffer, and none is worked on where it lies."""
        parts = self.gapped & setting.writers.keys()
        if any(parts & call.in_place for call in setting.calls):
            return []
        groups = [self._costed(setting, order, points, target, slots) for order in tried]
        return sorted(filter(None, groups), key=lambda group: (group.time, group.bytes))

    def _costed(
        self,
        setting: Setting,
        order: tuple[Axis, ...],
        points: int,
        target: Target,
        slots: int,
    ) -> Group | None:
        """The fastest for this order, dealt out over all cores unless fewer are clearly faster."""
        tree = nest(setting.calls, order, self.legal)
        found: list[Group | None] = []
        for spread, step in self._spreads(tree, setting, target.cores):
            grid = make_grid(tree, setting, order, self.sizes, points, spread, step, target.cores)
            choices = tuple(map(tuple, grid.choices.values()))
            most = CLEAR * found[0].time if found and found[0] else inf
            key = setting.calls, order, choices, spread, step, target, slots, most
            if key not in self.costed:
                least = self._moves(setting) if most < inf else 0
                self.costed[key] = estimate(grid, target, self.cycles, slots, least, most)
            found.append(self.costed[key])
        usual = found[0]
        best = min(filter(None, found), key=lambda group: (group.time, group.bytes), default=None)
        return usual if best and usual and best.time > CLEAR * usual.time else best

    def _spreads(
        self, tree: Nest, setting: Setting, cores: int
    ) -> Iterator[tuple[Axis | None, int]]:
        """How a tree may be dealt out over cores: by which axis, in multiples of what; the usual
        way first."""
        axis = spreadable(tree, setting) if cores > 1 else None
        if axis:
            typical = self.sizes.typical[axis]
            yield from ((axis, step) for step in spread_steps(tree.calls, axis, typical, cores))
        yield None, 1

    def hope(self, run: Run) -> float:
        """No schedule of this run as one group is faster than this."""
        key = self._key(run)
        if key not in self.hopes:
            self.hopes[key] = self._hope(self._place(run)[0])
        return self.hopes[key]

    def _hope(self, setting: Setting) -> float:
        target = Target.of(self.machine, 1.0)
        busy: dict[str, float] = {}
        for call in setting.calls:
            least = self._least(call) / target.cores
            busy[call.unit.name] = busy.get(call.unit.name, 0.0) + least
        size = self._moves(setting)
        return float(combined([*busy.values(), size / target.bandwidth])) + target.fixed

    def _moves(self, setting: Setting) -> int:
        """The least bytes that pass between the chip and the tensors outside."""
        size = sum(self._moved(setting.loaded[name]) for name in setting.loaded)
        for name, uses in setting.writers.items():
            if name in setting.outside:
                size += self._moved(uses)
        return size

    def _moved(self, uses: Uses) -> int:
        """The least bytes that these accesses to one tensor move: a cache holds it once."""
        tensor = self.covered.tensors[uses[0][1].tensor]
        size = int(min(volume(access, self.sizes.typical) for _, access in uses))
        return min(DTYPES[tensor.dtype].size * size, tensor.bytes)

    def _least(self, call: Call) -> float:
        """The least that a call occupies its unit."""
        number, _, _ = self.likeness.number(call)
        if number not in self.least:
            count, one = 1.0, {}
            for axis, limit in call.limits.items():
                count *= max(1.0, self.sizes.typical[axis] / limit)
                one[axis] = min(limit, self.sizes.typical[axis])
            self.least[number] = count * float(call.cycles(one)[0]) / call.unit.count
        return self.least[number]

    def placed(self, run: Run) -> Group:
        """The final schedule of a run: searched finely, and known to have room for its places.

        If places take more than their contents, the same order is tried again for less memory.
        """
        _, key, names = self._place(run)
        if key not in self.final:
            self.final[key] = _renamed(self._placed(run), names, names.numbered)
        group = _renamed(self.final[key], names.numbered, names)
        calls = self.covered.calls[run[0] : run[1]]
        return replace(group, first=run[0], calls=calls, like=key, names=names)

    def _placed(self, run: Run) -> Group:
        coarse, fine = self.best(run), self.best(run, FINE)
        if coarse and fine and coarse.time < fine.time:
            fine = coarse
        order = fine.order if fine else None
        for slots in (2, 1):
            for fill in FILLS:
                group = fine if (slots, fill) == (2, FILLS[0]) else None
                group = group or self.best(run, FINE, fill, slots, order)
                if group and self.fits(group):
                    return group
            order = None
        raise self.too_large(run)

    def fits(self, group: Group) -> bool:
        """Whether the buffers of a group have room on the chip (a cache has always)."""
        if self.machine.scratchpad.managed != "software":
            return True
        setting, _, _ = self._place((group.first, group.first + len(group.calls)))
        return chip_bytes(group, setting, self.sizes, self.machine.cores) <= chip_capacity(
            self.machine
        )

    def too_large(self, run: Run) -> CompileError:
        setting = self.around.setting(run)
        needed = []
        for order in orders(setting.calls, FINE.heads, self.sizes.most):
            tree = nest(setting.calls, order, self.legal)
            needed.append(least_bytes(make_grid(tree, setting, order, self.sizes, 1, None, 1, 1)))
        names = ", ".join(call.name for call in setting.calls)
        scratchpad = self.machine.scratchpad
        return CompileError(
            f"graph {self.covered.name!r}: the smallest tiles of {names} need {min(needed)} bytes, "
            f"memory {scratchpad.name!r} of machine {self.machine.name!r} has "
            f"{chip_capacity(self.machine)}"
        )


def _renamed(group: Group, old: Names, new: Names) -> Group:
    """A group in other names, without its calls."""
    axes = dict(zip(old.axes, new.axes, strict=True))
    tensors = dict(zip(old.tensors, new.tensors, strict=True))
    return replace(
        group,
        calls=(),
        order=tuple(axes[axis] for axis in group.order),
        tile={Cut(axes[cut.axis], cut.alone): size for cut, size in group.tile.items()},
        level={tensors[name]: depth for name, depth in group.level.items()},
        spread=group.spread and axes[group.spread],
    )


def greedy(search: Search, runs: list[Run]) -> list[Run]:
    """Join the two neighbours that gain most, until none gains.

    A pair is costed only when its optimistic gain is the best left: hopes and costed gains wait in
    one queue.
    """
    after = {run[0]: run for run in runs}
    before = {run[1]: run for run in runs}
    times = {run: search.time(run) for run in runs}
    queue: list[tuple[float, int, int, bool, Run]] = []

    def offer(left: Run | None, right: Run | None) -> None:
        if left is None or right is None or right[1] - left[0] > LONGEST:
            return
        gain = times[left] + times[right] - search.hope((left[0], right[1]))
        heapq.heappush(queue, (-gain, left[0], right[1], False, left))

    for left, right in pairwise(runs):
        offer(left, right)
    while queue and queue[0][0] < 0:
        _, first, last, costed, left = heapq.heappop(queue)
        right, joined = (left[1], last), (first, last)
        if after.get(first) != left or after.get(left[1]) != right:
            continue
        time = search.time(joined)
        if isinf(time):
            continue
        if not costed:
            gain = times[left] + times[right] - time
            heapq.heappush(queue, (-gain, first, last, True, left))
            continue
        del after[right[0]], before[left[1]]
        after[first] = before[last] = joined
        times[joined] = time
        offer(before.get(first), joined)
        offer(joined, after.get(last))
    return sorted(after.values())
