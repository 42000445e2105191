"""Addresses: buffers that are never alive together share a place, one block of chip memory.

A hazard between buffers of one place is a hazard on the same (place, slot), and buffers of
different places have no byte in common: whoever tracks hazards compares no addresses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

from infinisa.isa.dtypes import DTYPES
from infinisa.isa.language import Axis

from .cost import ALIGNMENT, Group, Sizes, in_core
from .home import Home, Setting, loads, results
from .nest import Cut, Nest, Run, nest


@dataclass(frozen=True)
class Chunk:
    """What a place must hold: so many slots of so many bytes, during these calls."""

    bytes: int
    slots: int
    run: Run


@dataclass(frozen=True)
class Spot:
    """Where a chunk is: its place, the address of slot 0, bytes from slot to slot."""

    place: int
    address: int
    pitch: int


@dataclass
class _Place:
    slots: int
    pitch: int
    runs: list[Run] = field(default_factory=list)

    def takes(self, chunk: Chunk) -> bool:
        first, last = chunk.run
        apart = all(last <= start or end <= first for start, end in self.runs)
        return apart and self.slots == chunk.slots


def assign(chunks: Sequence[Chunk]) -> tuple[list[Spot], int]:
    """(a spot for each chunk, bytes taken): first fit, largest first."""
    places: list[_Place] = []
    found: dict[int, int] = {}
    for i in sorted(range(len(chunks)), key=lambda i: -chunks[i].bytes * chunks[i].slots):
        chunk = chunks[i]
        number = next((n for n, place in enumerate(places) if place.takes(chunk)), len(places))
        if number == len(places):
            pitch = -(-max(chunk.bytes, 1) // ALIGNMENT) * ALIGNMENT
            places.append(_Place(chunk.slots, pitch))
        places[number].runs.append(chunk.run)
        found[i] = number
    starts, address = [], 0
    for place in places:
        starts.append(address)
        address += place.slots * place.pitch
    spots = [Spot(found[i], starts[found[i]], places[found[i]].pitch) for i in range(len(chunks))]
    return spots, address


@dataclass(frozen=True)
class Layout:
    """A group as it will be emitted: its loop tree, its homes and their shapes."""

    tree: Nest
    homes: tuple[Home, ...]
    shapes: tuple[tuple[int, ...], ...]
    spots: tuple[Spot, ...]
    bytes: int


def core_sizes(group: Group, sizes: Sizes, cores: int) -> dict[Axis, int]:
    """The bounds of the axes on one core."""
    most = dict(sizes.most)
    if group.spread:
        most[group.spread] = in_core(most[group.spread], group.step, cores)
    return most


def layout(group: Group, setting: Setting, most: Mapping[Axis, int]) -> Layout:
    """Homes and addresses of a group's buffers, given the bounds of the axes on one core."""
    tree = nest(group.calls, group.order)
    homes = results(tree, setting, group.spread)
    for name in setting.loaded:
        homes += loads(tree, setting, name, group.level[name], group.spread)
    shapes = [home.shape(_inside(home, tree, group.tile, most)) for home in homes]
    chunks = [
        Chunk(prod(shape) * DTYPES[home.tensor.dtype].size, slots_of(home, group), home.run)
        for home, shape in zip(homes, shapes, strict=True)
    ]
    spots, taken = assign(chunks)
    return Layout(tree, tuple(homes), tuple(shapes), tuple(spots), taken)


def slots_of(home: Home, group: Group) -> int:
    return group.slots if home.depth else 1


def _inside(
    home: Home, tree: Nest, tile: Mapping[Cut, int], most: Mapping[Axis, int]
) -> dict[Axis, int]:
    """The axes' lengths inside a home's loops."""
    return {**most, **{cut.axis: tile[cut] for cut in tree.around(home.run, home.depth)}}


def chip_bytes(group: Group, setting: Setting, sizes: Sizes, cores: int) -> int:
    """Bytes of chip memory that a group's places take."""
    return layout(group, setting, core_sizes(group, sizes, cores)).bytes
