"""Indices of accesses: put into each other, taken apart into digits, turned round."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from infinisa.isa.language import (
    Affine,
    Axis,
)

from ..calls import Access, Index


def at_position(access: Access, axis: Axis, position: int) -> Access:
    return substituted(access, {axis: Affine((), position)})


def substituted(access: Access, index: Mapping[Axis, Affine]) -> Access:
    """An access with axes replaced by sums of axes."""
    found = []
    for dimension in access.index:
        strides: dict[Axis, int] = {}
        offset = dimension.offset
        for axis, stride in dimension.terms:
            inner = index.get(axis, Affine(((axis, 1),)))
            assert inner.divide == 1
            assert not inner.modulo
            offset += stride * inner.offset
            for name, step in inner.terms:
                strides[name] = strides.get(name, 0) + stride * step
        terms = tuple((axis, stride) for axis, stride in strides.items() if stride)
        found.append(Index(terms, offset))
    return Access(access.tensor, tuple(found), access.fill)


@dataclass(frozen=True)
class Digits:
    """Axes that are the digits of one number, the index `at`.

    index   the number in terms of the axes
    extent  how many values it has
    copies  digits that no axis stands for, such as of a tensor that is tiled: (step, how many)
    """

    axes: tuple[Axis, ...]
    at: Affine
    index: Index
    extent: int
    copies: tuple[tuple[int, int], ...] = ()


def digits(pairs: Sequence[tuple[Axis, Affine]], sizes: Mapping[Axis, int]) -> list[Digits] | None:
    """The axes of a view that together are digits of a number, such as h = n // 64, e = n % 64.

    None if some are not. The highest says where the number starts; with a modulus, the number goes
    through all digits again and again.
    """
    plain = _grouped(pairs, sizes)
    if plain is not None and not any(group.copies for group in plain):
        return plain
    short = _grouped([(axis, shortened(index, sizes)) for axis, index in pairs], sizes)
    both = [found for found in (plain, short) if found is not None]
    return min(both, key=_copies, default=None)


def _copies(groups: Sequence[Digits]) -> int:
    return math.prod(count for group in groups for _, count in group.copies)


def _grouped(
    pairs: Sequence[tuple[Axis, Affine]], sizes: Mapping[Axis, int]
) -> list[Digits] | None:
    """The digits of indices as they are written."""
    groups: dict[tuple[tuple[Axis, int], ...], list[tuple[Axis, Affine]]] = {}
    for axis, i in pairs:
        if i.divide != 1 or i.modulo:
            groups.setdefault(i.terms, []).append((axis, i))
    for axis, i in pairs:
        if i.divide == 1 and not i.modulo and i.terms in groups:
            groups[i.terms].append((axis, i))
    for terms in [terms for terms, members in groups.items() if all(i.modulo for _, i in members)]:
        period = max(i.divide * i.modulo for _, i in groups[terms])
        for other, members in groups.items():
            higher = any(not i.modulo or i.divide * i.modulo > period for _, i in members)
            if other != terms and higher and _congruent(terms, other, period):
                groups[other] += groups.pop(terms)
                break
    found = [_digits(terms, members, sizes) for terms, members in groups.items()]
    return None if None in found else [group for group in found if group is not None]


def shortened(index: Affine, sizes: Mapping[Axis, int]) -> Affine:
    """The same index without terms that are always below what it is divided by:
    (2 * i + j) // 6  →  i // 3, for j < 2."""
    if index.divide == 1:
        return index
    for step in sorted({math.gcd(index.divide, stride) for _, stride in index.terms}, reverse=True):
        terms = tuple((axis, stride // step) for axis, stride in index.terms if not stride % step)
        small = tuple((axis, stride) for axis, stride in index.terms if stride % step)
        low, high = reach(Affine(small, index.offset % step), sizes)
        if step > 1 and low >= 0 and high < step:
            return Affine(terms, index.offset // step, index.divide // step, index.modulo)
    return index


def reach(index: Affine, sizes: Mapping[Axis, int]) -> tuple[int, int]:
    """The least and the greatest position of a sum of axes."""
    ends = [stride * (sizes[axis] - 1) for axis, stride in index.terms]
    return index.offset + sum(min(0, x) for x in ends), index.offset + sum(max(0, x) for x in ends)


def _digits(
    terms: tuple[tuple[Axis, int], ...],
    members: Sequence[tuple[Axis, Affine]],
    sizes: Mapping[Axis, int],
) -> Digits | None:
    members = sorted(members, key=lambda pair: (pair[1].divide, not pair[1].modulo))
    highest = members[-1][1]
    offset, stride, index, copies = highest.offset, 1, [], []
    for axis, i in members:
        if i.divide % stride or (i.modulo not in (sizes[axis], 0 if i is highest else -1)):
            return None
        if i is not highest and (i.offset - offset) % (i.divide * i.modulo):
            return None
        if i.divide != stride:
            copies.append((stride, i.divide // stride))
        index.append((axis, i.divide))
        stride = i.divide * sizes[axis]
    if highest.modulo:
        low, high = (end // stride for end in reach(Affine(terms, offset), sizes))
        offset -= low * stride
        if high > low:
            copies.append((stride, high - low + 1))
        stride *= high - low + 1
    axes = tuple(axis for axis, _ in members)
    return Digits(axes, Affine(terms, offset), Index(tuple(index)), stride, tuple(copies))


def _congruent(
    some: Sequence[tuple[Axis, int]], others: Sequence[tuple[Axis, int]], modulus: int
) -> bool:
    """Whether two sums differ by a multiple of a number wherever their axes are."""
    a, b = dict(some), dict(others)
    return all((a.get(axis, 0) - b.get(axis, 0)) % modulus == 0 for axis in {*a, *b})


def itself(axis: Axis) -> Affine:
    return Affine(((axis, 1),))


def inverted(
    index: Sequence[tuple[Axis, Affine]], sizes: Mapping[Axis, int]
) -> dict[Axis, Affine] | None:
    """The new axes of a view in terms of the old, if every old position is one new one:
    a rename, or a merge such as h = n // 64, e = n % 64."""
    groups = digits(index, sizes)
    if groups is None:
        return None
    found: dict[Axis, Affine] = {}
    for group in groups:
        new = group.at.plain
        if new is None or group.copies or group.extent != sizes[new] or new in found:
            return None
        found[new] = Affine(group.index.terms)
    inside = {axis for group in groups for axis in group.axes}
    for old, i in index:
        if old not in inside:
            if i.plain is None or sizes[old] != sizes[i.plain] or i.plain in found:
                return None
            found[i.plain] = itself(old)
    return found
