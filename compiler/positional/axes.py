"""Axes whose names come late, for models that number their dimensions.

A dimension of a positional tensor is a sequence of *atoms*, the last varying fastest; one of size 1
has none. A reshape cuts atoms and regroups them. Two atoms that meet become one, unless some
tensor has both. What an atom is called, and whether it is one axis or several, is therefore known
only when the whole model has been read: then `Names` tells.
"""

from __future__ import annotations

import itertools
import keyword
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

from infinisa.isa.language import Affine, Axis


class Atom:
    """An axis without a name yet: whole, cut into `parts`, or the same as another (one part).

    hint      what the source calls it
    carriers  the tensors that have it: two atoms with a common carrier are never the same
    whole     whether it must not be cut
    """

    __slots__ = ("carriers", "hint", "parts", "size", "whole")

    def __init__(self, size: int, hint: str = "") -> None:
        self.size = size
        self.hint = hint
        self.parts: tuple[Atom, ...] = ()
        self.carriers: set[int] = set()
        self.whole = False


Dim: TypeAlias = tuple[Atom, ...]

_carriers = itertools.count()


def dimension(size: int, hint: str = "") -> Dim:
    """A new dimension."""
    return (Atom(size, hint),) if size != 1 else ()


def leaves(dims: Iterable[Atom]) -> Dim:
    """The atoms that these have become."""
    found: list[Atom] = []
    rest = list(dims)[::-1]
    while rest:
        atom = rest.pop()
        if atom.parts:
            rest.extend(reversed(atom.parts))
        else:
            found.append(atom)
    return tuple(found)


def extent(dim: Iterable[Atom]) -> int:
    return prod(atom.size for atom in dim)


def twin(dim: Dim) -> Dim:
    """New atoms of the same sizes."""
    return tuple(Atom(atom.size, atom.hint) for atom in leaves(dim))


def carry(atoms: Iterable[Atom]) -> None:
    """These atoms are different from now on."""
    carrier = next(_carriers)
    for atom in leaves(atoms):
        atom.carriers.add(carrier)


def cut(atom: Atom, outer: int) -> tuple[Atom, Atom]:
    """The atom in two, the first of size `outer`."""
    parts = Atom(outer), Atom(atom.size // outer)
    for part in parts:
        part.carriers |= atom.carriers
    atom.parts = parts
    return parts


def fits(left: Dim, right: Dim) -> bool:
    """Whether both dimensions can be cut into the same sizes."""
    lefts, rights = ([(a.size, a.whole) for a in leaves(dim)][::-1] for dim in (left, right))
    while lefts and rights:
        (m, whole_m), (n, whole_n) = lefts.pop(), rights.pop()
        if m == n:
            continue
        big, small, whole, rest = (
            (m, n, whole_m, lefts) if m > n else (n, m, whole_n, rights)
        )  # the bigger is cut
        if whole or small == 0 or big % small:
            return False
        rest.append((big // small, False))
    return not lefts and not rights


def align(left: Dim, right: Dim) -> list[tuple[Atom, Atom]]:
    """Cut both, which fit, into the same sizes; the pairs of their atoms."""
    lefts, rights = list(left)[::-1], list(right)[::-1]
    while lefts and rights:
        a, b = _first(lefts), _first(rights)
        if a.size > b.size:
            cut(a, b.size)
        elif a.size < b.size:
            cut(b, a.size)
        else:
            lefts.pop()
            rights.pop()
    return list(zip(leaves(left), leaves(right), strict=True))


def _first(stack: list[Atom]) -> Atom:
    while stack[-1].parts:
        stack.extend(reversed(stack.pop().parts))
    return stack[-1]


def unify(a: Atom, b: Atom) -> bool:
    """Make two leaves of one size the same, if no tensor has both."""
    if a is b:
        return True
    if not a.carriers.isdisjoint(b.carriers):
        return False
    a.parts = (b,)
    b.carriers |= a.carriers
    b.hint = b.hint or a.hint
    b.whole |= a.whole
    return True


def split_at(dim: Dim, outer: int) -> tuple[Dim, Dim] | None:
    """The dimension in two, the first of size `outer`; None if its atoms cannot be cut there."""
    inner = extent(dim) // outer
    sides = (*dimension(outer), *dimension(inner))
    if not fits(dim, sides):
        return None
    align(dim, sides)
    atoms, size, count = leaves(dim), 1, 0
    while size != outer:
        size *= atoms[count].size
        count += 1
    return atoms[:count], atoms[count:]


# ---------------------------------------------------------------- positions


@dataclass(frozen=True)
class Flat:
    """A position in a dimension: the sum of stride * position in another dimension, + offset."""

    terms: tuple[tuple[Dim, int], ...] = ()
    offset: int = 0


Group: TypeAlias = tuple[Dim, Flat]
"""Where a dimension of an old tensor is read, in terms of dimensions of a new one."""


def tied(group: Group) -> tuple[Dim, Dim] | None:
    """The old and the new dimension, if they are the same under two names."""
    match group:
        case (old, Flat(((new, 1),), 0)) if extent(old) == extent(new):
            return old, new
    return None


def indices(
    flat: Affine, old: Sequence[tuple[Axis, int]], sizes: Mapping[Axis, int]
) -> Iterator[tuple[Axis, Affine]]:
    """The index along each old axis (of a size) at a flat position of all of them together.

    A position before the start or after the end leaves the first axis only.
    """
    inner = prod(size for _, size in old)
    for number, (axis, size) in enumerate(old):
        inner = inner // size if size else 1
        index = _quotient(flat, inner, sizes)
        yield axis, _remainder(index, size, sizes) if number else index


def _bounds(index: Affine, sizes: Mapping[Axis, int]) -> tuple[int, int]:
    ends = [sorted((0, stride * (sizes[axis] - 1))) for axis, stride in index.terms]
    low = index.offset + sum(first for first, _ in ends)
    high = index.offset + sum(last for _, last in ends)
    return low // index.divide, high // index.divide


def _quotient(flat: Affine, by: int, sizes: Mapping[Axis, int]) -> Affine:
    if by == 1:
        return flat
    low = Affine(tuple(t for t in flat.terms if t[1] % by), flat.offset % by)
    first, last = _bounds(low, sizes)
    if first < 0 or last >= by:
        return Affine(flat.terms, flat.offset, by)
    return Affine(
        tuple((axis, stride // by) for axis, stride in flat.terms if stride % by == 0),
        flat.offset // by,
    )


def _remainder(index: Affine, size: int, sizes: Mapping[Axis, int]) -> Affine:
    if index.divide == 1 and size:
        terms = tuple(t for t in index.terms if t[1] % size)
        index = Affine(terms, index.offset % size)
    first, last = _bounds(index, sizes)
    if first >= 0 and last < size:
        return index
    return Affine(index.terms, index.offset, index.divide, size)


# ---------------------------------------------------------------- names


class Names:
    """What atoms are called once nothing is cut or unified any more.

    A name is what the source says, where it says something, else the next free letter.
    """

    def __init__(self) -> None:
        self.sizes: dict[Axis, int] = {}
        self._names: dict[Atom, Axis] = {}
        self._serials: dict[object, int] = {}
        self._letters = _letters()

    def __call__(self, dim: Iterable[Atom]) -> tuple[Axis, ...]:
        """The axes of a dimension."""
        return tuple(self._name(atom) for atom in leaves(dim))

    def fresh(self, size: int) -> Axis:
        """An axis that no tensor of the model has."""
        return self._name(Atom(size))

    def number(self, thing: object) -> int:
        """Things in the order in which they are first asked about, from 1."""
        return self._serials.setdefault(thing, len(self._serials) + 1)

    def flat(self, flat: Flat) -> Affine:
        """A position as an index over named axes."""
        strides: dict[Axis, int] = {}
        for dim, stride in flat.terms:
            inner = stride
            for atom in reversed(leaves(dim)):
                axis = self._name(atom)
                strides[axis] = strides.get(axis, 0) + inner
                inner *= atom.size
        return Affine(tuple((a, s) for a, s in reversed(strides.items()) if s), flat.offset)

    def _name(self, atom: Atom) -> Axis:
        if atom not in self._names:
            name = self._free(atom.hint)
            self._names[atom] = name
            self.sizes[name] = atom.size
        return self._names[atom]

    def _free(self, hint: str) -> Axis:
        base = re.sub(r"\W+", "_", hint, flags=re.ASCII).strip("_")
        if not base or base[0].isdigit() or keyword.iskeyword(base):
            return next(letter for letter in self._letters if letter not in self.sizes)
        candidates = (f"{base}{n}" if n > 1 else base for n in itertools.count(1))
        return next(name for name in candidates if name not in self.sizes)


def _letters() -> Iterator[str]:
    """a, b, ... z, aa, ab, ... but no word of Python, since an index is written with them."""
    alphabet = "abcdefghijklmnopqrstuvwxyz"
    for length in itertools.count(1):
        for word in itertools.product(alphabet, repeat=length):
            if not keyword.iskeyword("".join(word)):
                yield "".join(word)
