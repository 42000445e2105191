"""What a loop tree costs: predicted time and bytes for all tile sizes at once.

Every array has one entry for each point of the grid of tile sizes. Time is the busiest resource,
plus a share of the others, since overlap is imperfect and equals must be told apart, plus the first
tiles' load.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import ceil, inf, prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from infinisa.isa.dtypes import DTYPES
from infinisa.isa.language import Axis
from infinisa.isa.machine import Machine
from infinisa.isa.program import core_share
from infinisa.isa.timing import Number

from ..calls import Call
from .home import Home, Key, Names, Setting, Uses, loads, results, volume
from .nest import Cut, Nest

Array = NDArray[Any]

SPILL = 0.3
"""The share of the other resources' time that does not overlap with the slowest. Without it, ties
make ten times too many tiny issues; 0.3 to 1 are alike."""

ISSUE = 8
"""Cycles that an issue should at least be worth: smaller ones leave no slack to the window."""

ALIGNMENT = 64


def chip_capacity(machine: Machine) -> int:
    """Bytes of the chip memory that one core has."""
    memory = machine.scratchpad
    return memory.size // (machine.cores if memory.shared else 1)


@dataclass(frozen=True)
class Sizes:
    """Lengths of the axes: at most, and as they are expected to be."""

    most: Mapping[Axis, int]
    typical: Mapping[Axis, int]


@dataclass(frozen=True)
class Target:
    """A machine as the cost sees it.

    capacity   bytes of chip memory that tiles may fill; `strict`: not one more
    bandwidth  bytes a cycle between DRAM and all cores
    latency    from DRAM to a core, the interconnect's included
    link       bytes a cycle on a link of the interconnect, 0 without one; `links`: how many
    cache      bytes of a cache that the cores share; 0: there is none
    """

    capacity: int
    strict: bool
    bandwidth: float
    latency: int
    barrier: int
    cores: int
    fetch: int
    link: float = 0.0
    links: int = 1
    cache: int = 0

    @property
    def fixed(self) -> int:
        """Cycles of every stage: the first load, the last store, the fence."""
        return 2 * self.latency + self.barrier

    @staticmethod
    def of(machine: Machine, fill: float) -> Target:
        way, cache = machine.interconnect, machine.cache
        return Target(
            capacity=int(chip_capacity(machine) * fill),
            strict=machine.scratchpad.managed == "software",
            bandwidth=float(machine.dram_rate),
            latency=machine.dram.latency + (way.latency if way else 0),
            barrier=machine.barrier,
            cores=machine.cores,
            fetch=machine.dispatch.fetch,
            link=way.bandwidth / machine.clock if way else 0.0,
            links=1 if way is None or way.shared else machine.cores,
            cache=cache.size if cache and cache.shared else 0,
        )


@dataclass(frozen=True)
class Group:
    """Calls of a graph with their schedule: one stage of the program.

    first   the number of the first call in its graph
    order   the axes of the loops, outermost first; `tile`: their steps
    level   inside how many loops a tensor from outside is loaded
    spread  the axis dealt out over cores, in multiples of `step`
    slots   copies of a buffer opened inside a loop
    time    predicted cycles; `bytes`: to and from DRAM; `busy`: cycles of each unit
    like    what it has in common with all that are alike and scheduled in the same way, if that is
            known; `names`: what it calls what they call otherwise
    """

    first: int
    calls: tuple[Call, ...]
    order: tuple[Axis, ...]
    tile: Mapping[Cut, int]
    level: Mapping[str, int]
    spread: Axis | None
    step: int
    slots: int
    time: float
    bytes: float
    busy: Mapping[str, float] = field(default_factory=dict)
    like: Key | None = field(default=None, compare=False, repr=False)
    names: Names | None = field(default=None, compare=False, repr=False)


def spread_step(calls: Sequence[Call], axis: Axis) -> int:
    """The multiples in which an axis is dealt out over cores: whole tiles of the matrix unit."""
    return min((c.limits[axis] for c in calls if c.unit.kind == "matrix"), default=1)


def spread_steps(calls: Sequence[Call], axis: Axis, typical: int, cores: int) -> list[int]:
    """Multiples worth trying in which an axis is dealt out: whole tiles of the matrix unit, larger
    ones, so that fewer cores work and load what all of them need, and parts of a tile where there
    are fewer tiles than cores."""
    tile = spread_step(calls, axis)
    found = {tile: None, -(-typical // cores): None}
    used = cores // 2
    while used > 1:
        found[-(-typical // (used * tile)) * tile] = None
        used //= 2
    return list(found)


def in_core(most: int, step: int, cores: int) -> int:
    """The most positions of a spread axis that one core gets."""
    return min(most, core_share(most, step, cores))


def tile_sizes(users: Sequence[Call], axis: Axis, extent: int) -> list[int]:
    """Tile sizes worth trying: what a matrix unit takes at once, times 2 or 4, so balanced that the
    last tile is no sliver. A scan goes step by step."""
    if any(call.scan == axis for call in users):
        return [1]
    base = min([call.limits[axis] for call in users if call.unit.kind == "matrix"], default=1)
    found, tile = {extent}, base
    while tile < extent:
        parts = ceil(extent / tile)
        found.add(min(extent, ceil(ceil(extent / parts) / base) * base))
        tile *= 2 if extent <= 8 * base else 4
    return sorted(found)


def thinned(choices: Mapping[Cut, list[int]], points: int) -> dict[Cut, list[int]]:
    """At most so many combinations: the longest lists lose their second smallest sizes."""
    kept = {cut: list(sizes) for cut, sizes in choices.items()}
    while prod(map(len, kept.values())) > points:
        longest = max(kept.values(), key=len)
        del longest[1:2]
    return kept


class Inside(NamedTuple):
    """Inside some loops: the bounds of the axes there, the lengths that are expected, and how often
    one gets there."""

    most: Mapping[Axis, Number]
    usual: Mapping[Axis, Number]
    turns: Number


@dataclass
class Grid:
    """The tile sizes tried for one loop tree, and what follows from them cut by cut.

    sizes  of one core: the spread axis is cut to a core's share, a multiple of `step`
    cores  how many cores work
    """

    tree: Nest
    setting: Setting
    order: tuple[Axis, ...]
    sizes: Sizes
    choices: dict[Cut, list[int]]
    spread: Axis | None = None
    step: int = 1
    cores: int = 1
    _issues: dict[tuple[Cut, int], tuple[Number, Number]] = field(default_factory=dict)
    _inside: dict[tuple[int, int], Inside] = field(default_factory=dict)

    @cached_property
    def points(self) -> int:
        return prod(map(len, self.choices.values()))

    @cached_property
    def tile(self) -> dict[Cut, Number]:
        """The tile size of each cut at every point; a number where there is one."""
        found: dict[Cut, Number] = {}
        after = self.points
        numbers = np.arange(self.points)
        for cut, sizes in self.choices.items():
            after //= len(sizes)
            some = len(sizes) > 1
            found[cut] = np.array(sizes)[numbers // after % len(sizes)] if some else sizes[0]
        return found

    @cached_property
    def usual(self) -> dict[Cut, Number]:
        """The tile sizes cut to the lengths that are expected."""
        found: dict[Cut, Number] = {}
        for cut, tile in self.tile.items():
            typical = self.sizes.typical[cut.axis]
            found[cut] = tile if max(self.choices[cut]) <= typical else _minimum(tile, typical)
        return found

    @cached_property
    def trips(self) -> dict[Cut, Number]:
        typical = self.sizes.typical
        return {cut: -(-typical[cut.axis] // tile) for cut, tile in self.tile.items()}

    def issues(self, cut: Cut, limit: int) -> tuple[Number, Number]:
        """(length of an issue, issues) along a cut axis of which an issue takes so much at most."""
        if (cut, limit) not in self._issues:
            usual = self.usual[cut]
            full = min(self.choices[cut][0], self.sizes.typical[cut.axis]) >= limit
            length = limit if full else _minimum(usual, limit)
            self._issues[cut, limit] = length, self.trips[cut] * -(-usual // limit)
        return self._issues[cut, limit]

    def inside(self, home: Home) -> Inside:
        """What holds inside the loops around a home."""
        key = home.run[0], home.depth
        if key not in self._inside:
            around = self.tree.around(home.run, home.depth)
            turns: Number = 1
            for cut in around:
                turns = turns * self.trips[cut]
            self._inside[key] = Inside(
                {**self.sizes.most, **{cut.axis: self.tile[cut] for cut in around}},
                {**self.sizes.typical, **{cut.axis: self.usual[cut] for cut in around}},
                turns,
            )
        return self._inside[key]

    def held(self, home: Home, slots: int) -> Number:
        """Bytes of chip memory that a home takes."""
        size: Number = DTYPES[home.tensor.dtype].size * (slots if home.depth else 1)
        for extent in home.shape(self.inside(home).most):
            size = size * extent
        return size

    def moved(self, home: Home) -> tuple[Number, Number]:
        """(bytes, copies) that loading or storing a home once a turn of its loops takes."""
        inside = self.inside(home)
        accesses = [access for _, access in home.stores] + [home.access] * home.load
        size = sum(volume(access, inside.usual) for access in accesses)
        return DTYPES[home.tensor.dtype].size * size * inside.turns, inside.turns * len(accesses)


def make_grid(
    tree: Nest,
    setting: Setting,
    order: tuple[Axis, ...],
    sizes: Sizes,
    points: int,
    spread: Axis | None,
    step: int,
    cores: int,
) -> Grid:
    """The tile sizes worth trying for a tree, at most `points` combinations."""
    used = 1
    if spread:
        share = in_core(sizes.typical[spread], step, cores)
        used = ceil(sizes.typical[spread] / share)
        sizes = Sizes(
            {**sizes.most, spread: in_core(sizes.most[spread], step, cores)},
            {**sizes.typical, spread: share},
        )
    users: dict[Cut, list[Call]] = {}
    for call, cuts in zip(tree.calls, tree.cuts, strict=True):
        for cut in cuts:
            users.setdefault(cut, []).append(call)
    choices = {
        cut: tile_sizes(users[cut], cut.axis, sizes.most[cut.axis])
        for cut in sorted(users, key=lambda cut: (order.index(cut.axis), cut.alone))
    }
    return Grid(tree, setting, order, sizes, thinned(choices, points), spread, step, used)


def _minimum(a: Number, b: Number) -> Number:
    return min(a, b) if isinstance(a, int) and isinstance(b, int) else np.minimum(a, b)


class Cycles:
    """Occupancies of single issues; those over plain numbers are remembered."""

    def __init__(self) -> None:
        self.known: dict[tuple[Call, tuple[int, ...]], Number] = {}

    def __call__(self, call: Call, lengths: Mapping[Axis, Number]) -> Number:
        if any(isinstance(length, np.ndarray) for length in lengths.values()):
            return call.cycles(lengths)[0]
        key = call, tuple(lengths.values())
        if key not in self.known:
            self.known[key] = call.cycles(lengths)[0]
        return self.known[key]


def work(grid: Grid, cycles: Cycles) -> tuple[dict[str, Number], Number]:
    """(busy cycles of each unit, issues) of one core."""
    busy: dict[str, Number] = {}
    issues: Number = 0
    for call, cuts in zip(grid.setting.calls, grid.tree.cuts, strict=True):
        count: Number = 1
        lengths: dict[Axis, Number] = {}
        cut_of = {cut.axis: cut for cut in cuts}
        for axis, limit in call.limits.items():
            if cut := cut_of.get(axis):
                lengths[axis], issues_along = grid.issues(cut, limit)
            else:
                lengths[axis] = min(grid.sizes.typical[axis], limit)
                issues_along = -(-grid.sizes.typical[axis] // limit)
            count = count * issues_along
        name = call.unit.name
        busy[name] = busy.get(name, 0) + count * cycles(call, lengths) / call.unit.count
        issues = issues + count
    return busy, issues


@dataclass
class Residence:
    """Chip bytes during each call, bytes from and to outside and copies, as homes are decided.

    traffic  of one core, and `outer` what of all cores' reaches DRAM
    """

    used: Array
    traffic: Number = 0
    outer: Number = 0
    copies: Number = 0
    first: Number = 0


def settle(grid: Grid, target: Target, slots: int) -> tuple[Residence, dict[str, Number]]:
    """Where outer tensors are loaded: (what that takes, the level of each at each grid point)."""
    calls, setting = grid.setting.calls, grid.setting
    found = Residence(np.zeros((len(calls), grid.points)))
    for home in results(grid.tree, setting, grid.spread):
        found.used[home.run[0] : home.run[1]] += grid.held(home, slots)
        if home.stores:
            size, count = grid.moved(home)
            found.traffic, found.copies = found.traffic + size, found.copies + count
    for _, access, write in setting.in_place:
        found.traffic = found.traffic + _touched(grid, access.tensor, write)
    found.outer = found.traffic * grid.cores
    plans = {name: _plans(grid, name, slots) for name in setting.loaded}
    for plan in plans.values():
        found.used += plan[0].held
    level = {}
    for name in sorted(plans, key=lambda name: setting.tensors[name].bytes):
        level[name], moved = _choose(plans[name], found, target.capacity)
        found.outer = found.outer + _fetched(plans[name][0], moved, target.cache)
    return found, level


def _touched(grid: Grid, name: str, write: bool) -> Number:
    """Bytes of a tensor that is worked on in place: of a table, no more than what is made of it."""
    size = grid.setting.tensors[name].bytes
    if write:
        return size
    users = [call for call in grid.setting.calls if name in call.in_place]
    made = [grid.setting.tensors[a.tensor].bytes for call in users for a in call.writes]
    return min([size, *([max(made)] if made else [])])


@dataclass
class Plan:
    """A tensor loaded inside a certain number of loops, `level`."""

    grid: Grid
    level: int
    homes: list[Home]
    slots: int

    @cached_property
    def held(self) -> Array:
        """Chip bytes during each call."""
        found = np.zeros((len(self.grid.setting.calls), self.grid.points))
        for home in self.homes:
            found[home.run[0] : home.run[1]] += self.grid.held(home, self.slots)
        return found

    @cached_property
    def moved(self) -> tuple[Number, Number]:
        """(bytes, copies)"""
        pairs = [self.grid.moved(home) for home in self.homes]
        return sum(size for size, _ in pairs), sum(count for _, count in pairs)


def _plans(grid: Grid, name: str, slots: int) -> list[Plan]:
    """For each level of loading the tensor that may be of use, the innermost first."""
    tree, setting = grid.tree, grid.setting
    return [
        Plan(grid, level, loads(tree, setting, name, level, grid.spread), slots)
        for level in levels(tree, setting.loaded[name])
    ]


def levels(tree: Nest, uses: Uses) -> Iterator[int]:
    """Inside how many loops a tensor may be loaded, the innermost level first.

    A level outside of a loop is of use only if that moves fewer bytes: the loop does not cut the
    tensor, or cuts it in windows, or readers come together that had loads of their own.
    """
    deepest = max(len(tree.paths[i]) for i, _ in uses)
    yield deepest
    for level in reversed(range(deepest)):
        left = [(i, access) for i, access in uses if len(tree.paths[i]) > level]
        again = any(tree.paths[i][level] not in access.plain for i, access in left)
        apart, together = ({tree.runs[i][depth] for i, _ in left} for depth in (level + 1, level))
        if again or len(together) < len(apart):
            yield level


def _choose(plans: list[Plan], found: Residence, capacity: int) -> tuple[Number, Number]:
    """(level, bytes that are moved), from the innermost loop outwards, while it saves traffic and
    fits. At equal traffic the inner place is better: there the load is double-buffered and small.
    """
    inner, *others = plans
    held, (moved, copies) = inner.held, inner.moved
    level: Number = inner.level
    for plan in others:
        fewer, count = plan.moved
        less = np.asarray(fewer < moved)
        if not less.any():
            continue
        after = found.used - held + plan.held
        better = less & (after.max(0) <= capacity)
        if better.all():
            found.used, held, level = after, plan.held, plan.level
            moved, copies = fewer, count
        elif better.any():
            found.used = np.where(better, after, found.used)
            held = np.where(better, plan.held, held)
            level = np.where(better, plan.level, level)
            moved, copies = np.where(better, fewer, moved), np.where(better, count, copies)
    found.traffic, found.copies = found.traffic + moved, found.copies + copies
    found.first = found.first + moved / np.maximum(copies, 1)
    return level, moved


def _fetched(plan: Plan, moved: Number, cache: int) -> Number:
    """What of a tensor comes from DRAM if each core loads so many bytes of it: through a cache that
    the cores share, what all of them load comes for all, and all of it comes once if the group has
    no more than fits."""
    grid, setting = plan.grid, plan.grid.setting
    if not cache:
        return moved * grid.cores
    touched = {access.tensor for call in setting.calls for access in call.accesses}
    if sum(setting.tensors[name].bytes for name in touched & setting.outside) <= cache:
        return _minimum(moved * grid.cores, plan.homes[0].tensor.bytes)
    cut = any(grid.spread in home.access.axes for home in plan.homes)
    return moved * grid.cores if cut else moved


def estimate(
    grid: Grid,
    target: Target,
    cycles: Cycles,
    slots: int = 2,
    least: float = 0.0,
    most: float = inf,
) -> Group | None:
    """The best tile sizes of this tree, or None if none fits.

    least  bytes that pass to and from DRAM at least
    most   cycles: where it surely takes more, it need not be found out how many, and it is None too
    """
    busy, issues = work(grid, cycles)
    if most < inf:
        surely = [*busy.values(), least / target.bandwidth, ISSUE * issues / target.fetch]
        if np.min(combined(surely)) + target.fixed > most:
            return None
    found, level = settle(grid, target, slots)
    total = found.outer
    resources = [*busy.values(), total / target.bandwidth]
    if target.link:
        resources.append(found.traffic * -(-grid.cores // target.links) / target.link)
    resources.append(ISSUE * (issues + found.copies) / target.fetch)
    time = combined(resources) + target.fixed
    time = time + found.first * grid.cores / target.bandwidth
    over = np.maximum(found.used.max(0) - target.capacity, 0)
    time = np.where(over > 0, np.inf, time) if target.strict else time + over / target.bandwidth
    at = int(np.argmin(time + 1e-6 * total))
    if not np.isfinite(time[at]):
        return None
    return Group(
        0,
        grid.setting.calls,
        grid.order,
        {cut: int(_pick(tile, at)) for cut, tile in grid.tile.items()},
        {name: int(_pick(depth, at)) for name, depth in level.items()},
        grid.spread,
        grid.step,
        slots,
        float(time[at]),
        float(_pick(total, at)),
        {unit: float(_pick(cycles, at)) for unit, cycles in busy.items()},
    )


def combined(resources: Sequence[Number]) -> Number:
    """Cycles that resources with these loads take together."""
    slowest = resources[0]
    for other in resources[1:]:
        slowest = np.maximum(slowest, other)
    return slowest + SPILL * (sum(resources) - slowest)


def _pick(value: Number, at: int) -> Number:
    """The value at a point of the grid, where it may be the same at all."""
    return value[at] if isinstance(value, np.ndarray) and value.ndim else value


def least_bytes(grid: Grid) -> int:
    """What the smallest tiles of a tree take of the chip, each in one copy."""
    used = np.zeros((len(grid.setting.calls), grid.points))
    for home in results(grid.tree, grid.setting, grid.spread):
        used[home.run[0] : home.run[1]] += grid.held(home, 1)
    for name in grid.setting.loaded:
        used += _plans(grid, name, 1)[0].held
    return int(used.max(0).min())
