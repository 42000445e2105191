"""Which operand is which leaf of a cone, and what the axes of an instruction stand for in it.

An axis of the cone stands in a role (see `local.Role`). It is bound to an axis of the instruction
in the same role, or, since an operand may lack an axis, in the role with the fewest more operands;
one that no axis of the instruction can serve is a loop outside it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from infinisa.isa.language import Axis

from .local import Local, Role


@dataclass(frozen=True)
class Binding:
    """A way to read a cone as an instruction.

    leaves  for each operand the number of the leaf that it reads
    axes    for each of the instruction's axes (under its local name) those of the cone
    loops   axes of the cone outside the instruction
    """

    leaves: tuple[int, ...]
    axes: Mapping[Axis, tuple[Axis, ...]]
    loops: tuple[Axis, ...]


def bindings(
    cone: Local, instruction: Local, accepts: Sequence[Sequence[bool]]
) -> Iterator[Binding]:
    """The ways to read a cone as an instruction that axes and types allow.

    accepts  whether operand n takes the type of leaf k
    """
    count = len(cone.leaves)
    for leaves in itertools.permutations(range(count)):
        if not all(accepts[n][k] for n, k in enumerate(leaves)):
            continue
        roles = {axis: _permuted(role, leaves) for axis, role in cone.roles.items()}
        for axes, loops in _axes(cone, roles, instruction):
            yield Binding(leaves, axes, loops)


def _permuted(role: Role, leaves: Sequence[int]) -> Role:
    mask = sum(1 << n for n, leaf in enumerate(leaves) if role.leaves >> leaf & 1)
    return role if mask == role.leaves else replace(role, leaves=mask)


def _axes(
    cone: Local, roles: Mapping[Axis, Role], instruction: Local
) -> Iterator[tuple[dict[Axis, tuple[Axis, ...]], tuple[Axis, ...]]]:
    """The ways to bind axes, and the loops."""
    shares: dict[Role, list[Axis]] = {}
    loops = []
    known = set(instruction.roles.values())
    for axis in _in_order(cone):
        role = roles[axis]
        able = [role] if role in known else [other for other in known if other.serves(role)]
        if able:
            best = min(able, key=lambda other: (other.leaves.bit_count(), other.leaves))
            shares.setdefault(best, []).append(axis)
        elif role.out and not role.ended and not role.indexed and role.leaves:
            loops.append(axis)
        else:
            return
    choices = []
    for role in known:
        ours = [axis for axis, mine in instruction.roles.items() if mine == role]
        choices.append(list(_dealt(role, ours, shares.get(role, []))))
    for parts in itertools.product(*choices):
        yield {axis: found for part in parts for axis, found in part.items()}, tuple(loops)


def _in_order(cone: Local) -> list[Axis]:
    """The axes as the result has them, then the others."""
    return list(dict.fromkeys([*cone.root.axes, *cone.roles]))


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
        found: dict[Axis, tuple[Axis, ...]] = dict.fromkeys(ours[:lacking], ())
        yield found | {a: (b,) for a, b in zip(ours[lacking:], theirs, strict=True)}
