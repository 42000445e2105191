"""Which groups of calls are alike: equal up to the names of tensors and axes.

Repeated layers differ in names only, so what is found for one holds for all. A call gets a number
that says all but these names; a group's key is the numbers of its calls and, for every tensor and
axis they touch, which of the group's tensors and axes it is, in order of first appearance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from infinisa.isa.language import Axis

from ..calls import Access, Call, Tensor
from .cost import Sizes
from .home import Key, Names, Setting


@dataclass
class Likeness:
    """Numbers calls and makes keys of groups, for one graph."""

    tensors: Mapping[str, Tensor]
    sizes: Sizes
    numbers: dict[Key, int] = field(default_factory=dict)
    known: dict[Call, tuple[int, tuple[Axis, ...], tuple[str, ...]]] = field(default_factory=dict)

    def number(self, call: Call) -> tuple[int, tuple[Axis, ...], tuple[str, ...]]:
        """(what the call is but for names, its axes, its tensors)"""
        if call not in self.known:
            axes = {axis: n for n, axis in enumerate(call.limits)}
            names = tuple(access.tensor for access in call.accesses)
            key = (
                _instruction(call, axes),
                tuple((n, call.limits[a], *self._axis(call, a)) for a, n in axes.items()),
                len(call.reads),
                tuple(self._access(access, axes) for access in call.accesses),
                tuple(names.index(name) for name in names),
            )
            number = self.numbers.setdefault(key, len(self.numbers))
            self.known[call] = number, tuple(axes), names
        return self.known[call]

    def _axis(self, call: Call, axis: Axis) -> Key:
        roles = axis in call.reduce, axis in call.whole, axis == call.scan
        return self.sizes.most[axis], self.sizes.typical[axis], roles

    def _access(self, access: Access, axes: Mapping[Axis, int]) -> Key:
        tensor = self.tensors[access.tensor]
        index = tuple(
            (tuple((axes[axis], stride) for axis, stride in dimension.terms), dimension.offset)
            for dimension in access.index
        )
        numbers = tensor.initial, access.fill
        return tensor.dtype, tensor.shape, tensor.kind, tensor.absolute, numbers, index

    def signatures(self, calls: Sequence[Call], reach: int) -> tuple[int, ...]:
        """What each call of the graph is and what it shares with those before it: runs of at most
        `reach` calls with the same numbers have one key, as nearly all have that repeat others."""
        last = {access.tensor: i for i, call in enumerate(calls) for access in call.accesses}
        axes: dict[Axis, tuple[int, int]] = {}
        tensors: dict[str, tuple[int, int]] = {}
        written: set[str] = set()
        found = []
        for i, call in enumerate(calls):
            number, own, names = self.number(call)
            near = [_near(axes.get(axis), i, reach) for axis in own]
            touched = [
                (
                    _near(tensors.get(name), i, reach),
                    name in tensors,
                    name in written,
                    last[name] > i,
                )
                for name in names
            ]
            axes.update((axis, (i, n)) for n, axis in enumerate(own))
            tensors.update((name, (i, n)) for n, name in enumerate(names))
            written.update(access.tensor for access in call.writes)
            key = (number, *near, *touched)
            found.append(self.numbers.setdefault(key, len(self.numbers)))
        return tuple(found)

    def of(self, setting: Setting) -> tuple[Key, Names]:
        """The key of a group and its names."""
        axes: dict[Axis, int] = {}
        tensors: dict[str, int] = {}
        key: list[object] = []
        for call in setting.calls:
            number, own, names = self.number(call)
            key.append(number)
            key += [axes.setdefault(axis, len(axes)) for axis in own]
            key += [tensors.setdefault(name, len(tensors)) for name in names]
        for some in (setting.outside, setting.begun):
            key.append(tuple(number for name, number in tensors.items() if name in some))
        return tuple(key), Names(tuple(axes), tuple(tensors))


def _near(place: tuple[int, int] | None, at: int, reach: int) -> tuple[int, int] | None:
    """How many calls before that of number `at` something was met, and as which; None beyond
    reach."""
    return (at - place[0], place[1]) if place and at - place[0] < reach else None


def _instruction(call: Call, axes: Mapping[Axis, int]) -> Key:
    opcode = call.opcode
    binding = tuple((name, tuple(axes.get(a, -1) for a in over)) for name, over in opcode.binding)
    operands = tuple(tuple(axes.get(a, -1) for a in dims) for dims in opcode.operands)
    in_place = tuple(access.tensor in call.in_place for access in call.accesses)
    return (
        (opcode.instruction, opcode.meaning, opcode.immediates, call.unit.name),
        (binding, operands, in_place, call.reverse),
    )
