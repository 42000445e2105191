"""Which operand is which leaf of a cone, and what the axes of an instruction stand for in it.

An axis of the cone stands in a role (see `local.Role`). It is bound to an axis of the instruction
in the same role, or, since an operand may lack an axis, in the role with the fewest more operands;
one that no axis of the instruction can serve is a loop outside it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from infinisa.isa.language import Axis, Input

from .local import Role

Roles = Mapping[Axis, Role]
Bound = tuple[tuple[Axis, tuple[Axis, ...]], ...]


@dataclass(frozen=True)
class Binding:
    """A way to read a cone as an instruction.

    leaves   for each operand the number of the leaf that it reads
    axes     for each of the instruction's axes (under its local name) those of the cone
    loops    axes of the cone outside the instruction
    lacking  whether some operand lacks an axis that it could have
    """

    leaves: tuple[int, ...]
    axes: Mapping[Axis, tuple[Axis, ...]]
    loops: tuple[Axis, ...]
    lacking: bool

    def over(self, leaves: Sequence[Input]) -> tuple[Bound, tuple[Input, ...]]:
        """(the axes, the input that each operand reads) for the leaves of a cone"""
        return tuple(self.axes.items()), tuple(leaves[leaf] for leaf in self.leaves)


Kinds = frozenset[tuple[int, int]]
"""Of the roles of some axes: what kind, and in how many leaves."""


def kinds(roles: Roles) -> Kinds:
    return frozenset((role.kind, role.leaves.bit_count()) for role in roles.values())


def may_bind(cone: Kinds, instruction: Kinds) -> bool:
    """Whether the axes could fit in some order of the operands: a cheap answer, no for most."""
    for kind, count in cone:
        if kind != Role.LOOP and not any(k == kind and c >= count for k, c in instruction):
            return False
    return all(
        kind == Role.LOOP or any(k == kind and c <= count for k, c in cone)
        for kind, count in instruction
        if count
    )


def bindings(
    cone: Roles, order: Sequence[Axis], instruction: Roles, accepts: Sequence[Sequence[bool]]
) -> Iterator[Binding]:
    """The ways to read a cone as an instruction that axes and types allow.

    order    the axes of the cone's result
    accepts  whether operand n takes the type of leaf k
    """
    known: dict[int, dict[int, list[Axis]]] = {}
    for axis, role in instruction.items():
        known.setdefault(role.kind, {}).setdefault(role.leaves, []).append(axis)
    axes = list(dict.fromkeys([*order, *cone]))
    for leaves, masks in _orders(len(accepts)):
        if all(accepts[n][k] for n, k in enumerate(leaves)):
            shares = _shares([(a, cone[a].kind, masks[cone[a].leaves]) for a in axes], known)
            if shares is not None:
                yield from _shared(leaves, shares, instruction)


@lru_cache
def _orders(count: int) -> list[tuple[tuple[int, ...], list[int]]]:
    """The orders of some leaves, each with what becomes of a mask of leaves."""
    found = []
    for leaves in itertools.permutations(range(count)):
        masks = [
            sum(1 << n for n, leaf in enumerate(leaves) if mask >> leaf & 1)
            for mask in range(1 << count)
        ]
        found.append((leaves, masks))
    return found


Shares = tuple[dict[tuple[int, int], list[Axis]], list[Axis], bool]


def _shares(
    axes: Sequence[tuple[Axis, int, int]], known: Mapping[int, Mapping[int, list[Axis]]]
) -> Shares | None:
    """The cone's axes by the role that serves them, the loops, and whether an operand lacks an
    axis; None if one fits nowhere."""
    shares: dict[tuple[int, int], list[Axis]] = {}
    loops, lacking = [], False
    for axis, kind, mask in axes:
        able = known.get(kind, {})
        if mask in able:
            shares.setdefault((kind, mask), []).append(axis)
            continue
        wider = [other for other in able if mask & ~other == 0]
        if wider:
            best = min(wider, key=lambda other: (other.bit_count(), other))
            shares.setdefault((kind, best), []).append(axis)
            lacking = True
        elif kind == Role.LOOP and mask:
            loops.append(axis)
        else:
            return None
    return shares, loops, lacking


def _shared(leaves: tuple[int, ...], shares: Shares, instruction: Roles) -> Iterator[Binding]:
    """The ways to bind axes of one role to each other."""
    roles: dict[tuple[int, int], list[Axis]] = {}
    for axis, role in instruction.items():
        roles.setdefault((role.kind, role.leaves), []).append(axis)
    found, loops, lacking = shares
    choices = []
    for place, ours in roles.items():
        ways = list(_dealt(instruction[ours[0]], ours, found.get(place, [])))
        if not ways:
            return
        choices.append(ways)
    for parts in itertools.product(*choices):
        axes = {axis: theirs for part in parts for axis, theirs in part.items()}
        none = any(not bound and instruction[axis].leaves for axis, bound in axes.items())
        yield Binding(leaves, axes, tuple(loops), lacking or none)


def _dealt(
    role: Role, ours: Sequence[Axis], theirs: Sequence[Axis]
) -> Iterator[dict[Axis, tuple[Axis, ...]]]:
    """Ways to share the cone's axes in a role among the instruction's: one each if there are as
    many, else the last to the last and what is left to the first."""
    if role.indexed and len(ours) != len(theirs):
        return
    if len(ours) == len(theirs):
        orders = itertools.permutations(theirs) if role.indexed or role.ended else [theirs]
        for order in itertools.islice(orders, 6):
            yield {a: (b,) for a, b in zip(ours, order, strict=True)}
    elif len(ours) < len(theirs):
        extra = len(theirs) - len(ours)
        first = {ours[0]: tuple(theirs[: extra + 1])}
        yield first | {a: (b,) for a, b in zip(ours[1:], theirs[extra + 1 :], strict=True)}
    elif not (role.ended and not theirs) or not role.leaves:
        lacking = len(ours) - len(theirs)
        none: dict[Axis, tuple[Axis, ...]] = dict.fromkeys(ours[:lacking], ())
        yield none | {a: (b,) for a, b in zip(ours[lacking:], theirs, strict=True)}
