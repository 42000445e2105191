"""How long axes are at the points: short, each different, but what indices and numbers need."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from math import prod

from infinisa.isa.language import (
    Axis,
    Dot,
    Node,
    Position,
    Reduce,
    Scan,
    Stack,
    View,
    everything,
)

from ..local import Local, Role
from .traits import MOST_POSITIONS, ROUNDING, bounds_in, nodes_of

POWERS = (1, -1, 2, -2)
"""How a number may stand for a length: as it is, inverted, as a root."""

WIDTHS = {1: (61,), 2: (13, 11), 3: (7, 5, 6), 4: (5, 4, 3, 6), 5: (4, 3, 5, 2, 3)}
"""Sizes of axes by how many there are; more axes have 3 or 2 positions."""


def lengths(
    local: Local,
    sizes: Mapping[Axis, int],
    constants: Sequence[float],
    run_time: frozenset[Axis] = frozenset(),
    least: Mapping[Axis, int] | None = None,
) -> dict[Axis, int]:
    """Short lengths for the axes of a computation, each different; but as long as in the model
    where a number may be the length of an axis that is computed over, as long as indices reach, and
    as a sum of ones must be to pass a bound. No number is one of the others by chance. Axes of
    which a step of a recurrence reads one as the other stay as long as each other."""
    nodes = nodes_of(local.root)
    found = dict.fromkeys(local.axes, 1)
    apart = _apart(local, nodes)
    widths = WIDTHS.get(len(apart), (3, 2))
    found.update((axis, widths[n % len(widths)]) for n, axis in enumerate(apart))
    found.update((axis, max(found[axis], n)) for axis, n in (least or {}).items())
    ended = [axis for axis, role in local.roles.items() if role.ended]
    groups = groups_of(local)
    exact: dict[Axis, int] = {}
    for some in numbered(local, sizes, constants, run_time):
        exact.update((axis, sizes[axis]) for axis in some)
    counted = [node.axis for node in nodes if isinstance(node, Position)]
    whole = [int(c) for c in constants if abs(c) < MOST_POSITIONS and c == int(c)]
    for axis in counted:
        reach = max((abs(c) for c in whole), default=0) + 3
        found[axis] = max(found[axis], min(reach, sizes[axis]))
    reach = max((math.ceil(abs(c)) + 2 for c in bounds_in(local.root)), default=0)
    for axis in ended:
        found[axis] = max(found[axis], min(reach, sizes[axis]))
    for node in nodes:
        if isinstance(node, Stack):
            exact[node.axis] = len(node.xs)
    views = [node for node in nodes if isinstance(node, View)]
    for view in views:
        divided = [i for _, i in view.index if i.modulo or i.divide > 1]
        exact.update((axis, sizes[axis]) for i in divided for axis in i.axes)
    found.update(exact)
    for view in reversed(views):
        for axis, i in view.index:
            reach = i.offset + sum(max(0, s) * (found[a] - 1) for a, s in i.terms)
            if i.modulo or i.divide > 1 or any(s < 0 for _, s in i.terms):
                found[axis] = exact[axis] = sizes[axis]
            else:
                found[axis] = max(found[axis], reach + 1)
    _keep_apart(found, exact, groups, constants, _alike(nodes, sizes))
    return found


def _alike(nodes: Iterable[Node], sizes: Mapping[Axis, int]) -> list[set[Axis]]:
    """Axes of one length of which steps of a recurrence read some as others."""
    pairs = {
        (axis, index.plain)
        for scan in nodes
        if isinstance(scan, Scan)
        for node in everything((*scan.body.next, *scan.body.emits))
        if isinstance(node, View)
        for axis, index in node.index
        if index.plain is not None and sizes[axis] == sizes[index.plain]
    }
    found: list[set[Axis]] = []
    for pair in pairs:
        joined = set(pair).union(*(some for some in found if some & {*pair}))
        found = [*(some for some in found if not some & {*pair}), joined]
    return found


def groups_of(local: Local) -> list[tuple[Axis, ...]]:
    """The axes whose positions may be counted, alone and together."""
    ended = [axis for axis, role in local.roles.items() if role.ended]
    several = [some for n in (2, 3) for some in itertools.combinations(ended, n)]
    return [*((axis,) for axis in local.axes), *several]


def numbered(
    local: Local,
    sizes: Mapping[Axis, int],
    constants: Sequence[float],
    run_time: frozenset[Axis],
) -> list[tuple[Axis, ...]]:
    """The groups of axes that are computed over and whose length a number may be."""
    found = []
    for some in groups_of(local):
        length = prod(sizes[axis] for axis in some)
        loop = any(local.roles[axis].kind == Role.LOOP for axis in some)
        if length == 1 or loop or run_time & {*some}:
            continue
        if any(may_be(c, length) for c in constants):
            found.append(some)
    return found


def _lengths_of(constants: Iterable[float]) -> set[int]:
    """The lengths that numbers may be."""
    found = {round(abs(c) ** power) for c in constants if 1e-6 < abs(c) < 1e6 for power in POWERS}
    return found - {0, 1}


def _keep_apart(
    found: dict[Axis, int],
    exact: Mapping[Axis, int],
    groups: Sequence[Sequence[Axis]],
    constants: Iterable[float],
    alike: Iterable[set[Axis]],
) -> None:
    """Lengthen the axes that need not be exactly as long, where a number may be such a length; axes
    that are `alike` stay so."""
    for equal in alike:
        longest = max(found[axis] for axis in equal)
        found.update((axis, exact.get(axis, longest)) for axis in equal)
    taken = _lengths_of(constants)
    free = [some for some in groups if any(axis not in exact for axis in some)]
    while some := next((s for s in free if prod(found[a] for a in s) in taken), ()):
        one = next(axis for axis in some if axis not in exact)
        for axis in next((others for others in alike if one in others), {one}):
            found[axis] += 1


def _apart(local: Local, nodes: Iterable[Node]) -> list[Axis]:
    """The axes without those that always occur together with another: these are one axis."""
    occurrences: dict[Axis, list[int]] = {axis: [] for axis in local.axes}
    for n, node in enumerate(nodes):
        ended = node.over if isinstance(node, Dot | Reduce) else ()
        for axis in (*node.axes, *ended):
            occurrences[axis].append(n)
    first: dict[object, Axis] = {}
    for axis, where in occurrences.items():
        role = local.roles[axis]
        first.setdefault(axis if role.indexed else (role, *where), axis)
    return list(first.values())


def may_be(number: float, length: int) -> bool:
    """Whether a number may stand for a length."""
    size = abs(number)
    if not 0 < size < math.inf:
        return False
    return any(close(size**power, length) for power in POWERS)


def close(a: float, b: float) -> bool:
    return a == b or abs(a - b) <= 4 * ROUNDING * max(abs(a), abs(b))


def shorter(
    groups: Sequence[Sequence[Axis]],
    sizes: Mapping[Axis, int],
    constants: Iterable[float],
    least: int,
) -> dict[Axis, int] | None:
    """Short lengths for the axes of some groups, from `least` on: equally long groups stay equally
    long, others do not become so. None if nothing gets shorter, or not without that."""
    taken = _lengths_of(constants)
    found: dict[Axis, int] = {}
    lengths: dict[int, int] = {}
    for some in sorted(groups, key=lambda some: (prod(sizes[a] for a in some), -len(some))):
        for axis in some:
            if axis not in found:
                known = lengths.get(sizes[axis], 0)
                free = (n for n in itertools.count(least) if n not in {*taken, *lengths.values()})
                found[axis] = min(known or next(free), sizes[axis])
        length = prod(found[axis] for axis in some)
        if lengths.setdefault(prod(sizes[axis] for axis in some), length) != length:
            return None
    apart = len({*lengths.values()}) == len(lengths)
    return found if apart and any(n < sizes[axis] for axis, n in found.items()) else None


def at_length(number: float, length: int, short: int) -> float:
    """What a number that stands for a length is where that is short."""
    power = next(p for p in POWERS if close(abs(number) ** p, length))
    return math.copysign(float(short) ** (1 / power), number)
