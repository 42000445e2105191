"""Where every tensor of a group of calls lives, worked out once for the cost and for the code.

It follows from the loop tree. What a call writes and others read lives at the deepest loop that
they all share, but outside the writer's first accumulating loop. What comes from outside is loaded
inside as many loops as the search decides. Inside d loops means: once for each turn of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeAlias

from infinisa.isa.language import Axis
from infinisa.isa.timing import Number

from ..calls import Access, Call, Covered, Index, Tensor
from .nest import Nest, Run

Uses = tuple[tuple[int, Access], ...]
"""Accesses, each with the number of its call in the group."""


Key: TypeAlias = tuple[object, ...]


@dataclass(frozen=True)
class Names:
    """What a group calls its axes and tensors, in order of first appearance."""

    axes: tuple[Axis, ...]
    tensors: tuple[str, ...]

    @cached_property
    def numbered(self) -> Names:
        """The names that all groups alike have in common: their numbers."""
        axes, tensors = range(len(self.axes)), range(len(self.tensors))
        return Names(tuple(map(str, axes)), tuple(map(str, tensors)))


@dataclass(frozen=True)
class Setting:
    """A group of calls in its graph, on a kind of machine.

    outside  tensors that outlive the group: others use them, or they are results
    copies   whether copies move tiles to the chip (a scratchpad) or units work on the tensors
             themselves (a cache)
    begun    tensors of which earlier calls wrote a part
    """

    calls: tuple[Call, ...]
    tensors: Mapping[str, Tensor]
    outside: frozenset[str]
    copies: bool
    begun: frozenset[str] = frozenset()

    @cached_property
    def writers(self) -> Mapping[str, Uses]:
        found: dict[str, Uses] = {}
        for i, call in enumerate(self.calls):
            for access in call.writes:
                found[access.tensor] = (*found.get(access.tensor, ()), (i, access))
        return found

    @cached_property
    def readers(self) -> Mapping[str, Uses]:
        found: dict[str, Uses] = {}
        for i, call in enumerate(self.calls):
            for access in call.reads:
                found[access.tensor] = (*found.get(access.tensor, ()), (i, access))
        return found

    @cached_property
    def resident(self) -> frozenset[str]:
        """Tensors that all their users in the group find in one chip buffer."""
        found: set[str] = set()
        for call in self.calls:
            found.update(access.tensor for access in call.accesses if self._resides(access.tensor))
        return frozenset(found)

    def _resides(self, name: str) -> bool:
        tensor = self.tensors[name]
        if tensor.kind == "carry":
            return True
        written = name in self.writers and (self.copies or name not in self.outside)
        elsewhere = tensor.kind == "state" or name in self.begun or self._worked_in_place(name)
        return written and not elsewhere

    def _worked_in_place(self, name: str) -> bool:
        return any(name in call.in_place for call in self.calls)

    def copied(self, i: int, name: str) -> bool:
        """Whether call i works on a copy of (a part of) this tensor that nobody shares."""
        return self.copies and name not in self.resident and name not in self.calls[i].in_place

    @cached_property
    def loaded(self) -> Mapping[str, Uses]:
        """Tensors that calls read through loads."""
        every = {
            name: tuple((i, access) for i, access in uses if self.copied(i, name))
            for name, uses in self.readers.items()
        }
        return {name: uses for name, uses in every.items() if uses}

    @cached_property
    def in_place(self) -> tuple[tuple[int, Access, bool], ...]:
        """Accesses to tensors outside the chip, without a copy; the flag says: a write."""
        return tuple(
            (i, access, write)
            for i, call in enumerate(self.calls)
            for write, accesses in ((False, call.reads), (True, call.writes))
            for access in accesses
            if access.tensor not in self.resident and not self.copied(i, access.tensor)
        )


@dataclass(frozen=True)
class Frame:
    """A graph on a kind of machine: what is inside and outside of any run of its calls."""

    covered: Covered
    copies: bool

    @cached_property
    def spans(self) -> Mapping[str, Run]:
        """The first and the last call that touch each tensor."""
        found: dict[str, Run] = {}
        for i, call in enumerate(self.covered.calls):
            for access in call.accesses:
                found[access.tensor] = (found.get(access.tensor, (i, i))[0], i)
        return found

    @cached_property
    def begins(self) -> Mapping[str, int]:
        """The first call that writes each tensor."""
        found: dict[str, int] = {}
        for i, call in enumerate(self.covered.calls):
            for access in call.writes:
                found.setdefault(access.tensor, i)
        return found

    def setting(self, run: Run) -> Setting:
        """The calls of a run, and which of their tensors outlive them."""
        calls, tensors = self.covered.calls[run[0] : run[1]], self.covered.tensors
        outside = set()
        for name in {access.tensor for call in calls for access in call.accesses}:
            first, last = self.spans[name]
            kept = tensors[name].kind != "temporary" and not tensors[name].inner
            if kept or first < run[0] or last >= run[1]:
                outside.add(name)
        begun = frozenset(name for name in outside if self.begins.get(name, run[0]) < run[0])
        return Setting(calls, tensors, frozenset(outside), self.copies, begun)


class Home(NamedTuple):
    """A chip buffer for a tensor, or for the part of it that an access touches.

    depth   inside how many loops it is opened; `loops` are their axes, and the one over cores
    run     the calls inside these loops: it lives while they run
    reads   the calls that read it; `writes`: those that write it
    whole   it holds every position that no loop cuts, counted as in the tensor; else it holds
            just the region of `access`, counted from the region's start
    load    it is filled from outside: at the head of its loop, or just before call `before`
    stores  after which calls what of it is copied outside
    """

    tensor: Tensor
    access: Access
    depth: int
    run: Run
    loops: frozenset[Axis]
    reads: tuple[int, ...] = ()
    writes: tuple[int, ...] = ()
    whole: bool = False
    load: bool = False
    before: int | None = None
    stores: Uses = ()

    def shape(self, lengths: Mapping[Axis, Number]) -> tuple[Number, ...]:
        """Its dimensions, given the axes' lengths inside its loops."""
        if not self.whole:
            return tuple(span(index, lengths) for index in self.access.index)
        cut = {at: axis for axis, at in self.access.plain.items() if axis in self.loops}
        return tuple(
            lengths[cut[number]] if number in cut else extent
            for number, extent in enumerate(self.tensor.shape)
        )


def span(index: Index, lengths: Mapping[Axis, Number]) -> Number:
    """How many positions an index covers."""
    if len(index.terms) == 1 and index.terms[0][1] == 1:
        return lengths[index.terms[0][0]]
    extent: Number = 1
    for axis, stride in index.terms:
        extent = extent + abs(stride) * (lengths[axis] - 1)
    return extent


def volume(access: Access, lengths: Mapping[Axis, Number]) -> Number:
    """How many elements an access covers."""
    size: Number = 1
    for index in access.index:
        size = size * span(index, lengths)
    return size


def results(tree: Nest, setting: Setting, spread: Axis | None = None) -> list[Home]:
    """The homes of all that the calls write, and of the states of scans."""
    found = []
    shared = {name for name in setting.resident if _shared(setting, name)}
    for name in sorted(shared, key=lambda name: (min(i for i, _ in _uses(setting, name)), name)):
        found.append(_shared_home(tree, setting, name, spread))
    for i, call in enumerate(setting.calls):
        for access in call.writes:
            name = access.tensor
            alone = name in setting.resident and name not in shared
            if alone or setting.copied(i, name):
                found.append(_staged_home(tree, setting, i, access, spread))
    return found


def _uses(setting: Setting, name: str) -> Uses:
    return (*setting.writers.get(name, ()), *setting.readers.get(name, ()))


def _shared(setting: Setting, name: str) -> bool:
    """Whether several accesses meet in one buffer."""
    return setting.tensors[name].kind == "carry" or len(_uses(setting, name)) > 1


def _shared_home(tree: Nest, setting: Setting, name: str, spread: Axis | None) -> Home:
    writers, readers = setting.writers.get(name, ()), setting.readers.get(name, ())
    users = [i for i, _ in (*writers, *readers)]
    tensor, first = setting.tensors[name], users[0]
    stored = name in setting.outside and tensor.kind != "carry"
    last = max((i for i, _ in writers), default=0)  # before it, there may be gaps
    depth = 0
    if tensor.kind != "carry":
        depth = min(tree.common(users), *(tree.pinned(i) for i, _ in writers))
    return Home(
        tensor,
        (*writers, *readers)[0][1],
        depth,
        tree.runs[first][depth],
        _around(tree, first, depth, spread),
        reads=tuple(dict.fromkeys(i for i, _ in readers)),
        writes=tuple(dict.fromkeys(i for i, _ in writers)),
        whole=True,
        stores=tuple(dict.fromkeys((last, access) for _, access in writers if stored)),
    )


def _staged_home(tree: Nest, setting: Setting, i: int, access: Access, spread: Axis | None) -> Home:
    depth, outside = tree.pinned(i), access.tensor in setting.outside
    stored = outside or access.tensor not in setting.resident
    return Home(
        setting.tensors[access.tensor],
        access,
        depth,
        tree.runs[i][depth],
        _around(tree, i, depth, spread),
        writes=(i,),
        stores=((i, access),) if stored else (),
    )


def _around(tree: Nest, i: int, depth: int, spread: Axis | None) -> frozenset[Axis]:
    return frozenset(tree.paths[i][:depth]) | ({spread} if spread else frozenset())


def loads(
    tree: Nest, setting: Setting, name: str, level: int, spread: Axis | None = None
) -> list[Home]:
    """The homes of a tensor loaded inside `level` loops (or as many as its readers have).

    Calls of one run that touch it alike share one load. What a call of the group stored outside
    is loaded after that: inside all loops that the two share.
    """
    found: dict[tuple[Run, int, tuple[Index, ...], tuple[int, ...]], Home] = {}
    for i, access in setting.loaded[name]:
        earlier = tuple(w for w, _ in setting.writers.get(name, ()) if w <= i)
        depth = max([min(level, len(tree.paths[i])), *(tree.common([w, i]) for w in earlier)])
        key = (tree.runs[i][depth], depth, access.index, earlier)
        reads = (*found[key].reads, i) if key in found else (i,)
        found[key] = Home(
            setting.tensors[name],
            access,
            depth,
            key[0],
            _around(tree, i, depth, spread),
            reads=reads,
            load=True,
            before=reads[0] if earlier else None,
        )
    return list(found.values())
