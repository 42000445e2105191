"""The layers that were left out of a graph, written from the one that they are like.

Two layers that follow each other must have come out alike, calls and groups, names apart; those
that were left out are then the second of them again, under their own names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from .calls import Access, Call, Covered, Tensor
from .graph import Model
from .layers import FRONT, Fold
from .schedule.cost import Group
from .schedule.home import Names
from .selection.coverage import Coverage, Made
from .selection.match import Match


class Unlike(Exception):
    """Layers that do the same did not come out alike."""


class Unfolded:
    """All calls of a graph, those of the layers that were left out too.

    layer   the last layer that goes into each tensor, -1 if none does
    begins  the number of the first call of each layer
    after   what a tensor of one layer is in the next, of the two that are the same
    called  what a tensor of the layer that is written again is called, by layer
    """

    def __init__(self, model: Model, fold: Fold, covered: Covered) -> None:
        """Raises Unlike."""
        self.model, self.fold, self.few = model, fold, covered
        self.layer: dict[str, int] = {}
        self.begins = self._begins()
        self.after: dict[str, str] = {}
        first, second, third = self.begins[FRONT - 2 : FRONT + 1]
        self.period = second - first
        pairs = zip(covered.calls[first:second], covered.calls[second:third], strict=False)
        if third - second != self.period or not all(self._same(*pair) for pair in pairs):
            raise Unlike
        self._must_hand_on()
        again, behind = covered.calls[second:third], covered.calls[third:]
        self.taken = {*covered.tensors, *(call.name for call in covered.calls)}
        self.taken.difference_update(self._numbered(behind))
        self.numbers: dict[str, int] = {}
        self.tensors: dict[int, list[Tensor]] = {}
        self.called = {FRONT - 1: {name: name for name in self._own(again)}}
        self.copies = {number: self._written(again, number) for number in fold.left_out}
        self.behind = self._behind(behind)

    def _begins(self) -> list[int]:
        """Where layers begin. A call is of the last layer that goes into what it touches, or of
        the layer before it."""
        of = self.fold.graph.layers.of
        found: list[int] = []
        for n, call in enumerate(self.few.calls):
            names = [access.tensor for access in call.accesses]
            self.layer |= {name: of[name] for name in names if name in of}
            own = max(self.layer.get(name, -1) for name in names)
            if 0 <= own < len(found) - 1:
                raise Unlike
            found += [n] * (own + 1 - len(found))
            self.layer |= {a.tensor: own for a in call.writes if a.tensor not in of}
        if len(found) != FRONT + 1:
            raise Unlike
        return found

    # -- two layers

    def _same(self, one: Call, other: Call) -> bool:
        """Whether two calls are the same, names apart."""
        return (
            _plain(one) == _plain(other)
            and all(map(self._pair, one.accesses, other.accesses))
            and {self.after.get(name, name) for name in one.direct} == other.direct
        )

    def _pair(self, one: Access, other: Access) -> bool:
        """Whether two accesses are the same to tensors that are those of each other."""
        a, b = one.tensor, other.tensor
        if (one.index, one.fill) != (other.index, other.fill):
            return False
        if self.layer.get(a, -1) < 0:
            return a == b
        plain = [replace(self.few.tensors[name], name="", content="") for name in (a, b)]
        alike = self.layer[b] == self.layer[a] + 1 and plain[0] == plain[1]
        return alike and self.after.setdefault(a, b) == b and self.fold.back.get(b, a) == a

    def _must_hand_on(self) -> None:
        """See that the last layer reads of the one before what that reads of its own."""
        first, second, third = self.begins[FRONT - 1], self.begins[FRONT], len(self.few.calls)
        handed = [
            {
                access.tensor
                for call in self.few.calls[begin:end]
                for access in call.reads
                if self.layer.get(access.tensor, -1) == layer
            }
            for begin, end, layer in ((first, second, FRONT - 2), (second, third, FRONT - 1))
        ]
        before = {name for name, layer in self.layer.items() if 0 <= layer < FRONT - 2}
        read = {a.tensor for call in self.few.calls[first:third] for a in call.reads}
        if {self.after.get(name) for name in handed[0]} != handed[1] or read & before:
            raise Unlike

    # -- one more layer

    def _own(self, calls: Iterable[Call]) -> list[str]:
        """The tensors of the third layer that calls touch."""
        names = dict.fromkeys(access.tensor for call in calls for access in call.accesses)
        return [name for name in names if self.layer.get(name, -1) == FRONT - 1]

    def _numbered(self, calls: Iterable[Call]) -> list[str]:
        """The names of calls and of what they make, in the order in which they were given."""
        own = {name for call in calls for name in (call.name, *(a.tensor for a in call.writes))}
        return [name for name in self.few.bases if name in own]

    def _written(self, calls: Sequence[Call], number: int) -> list[Call]:
        """The calls of the third layer, as another one has them."""
        known = self.fold.tensors[number]
        own = {name: self._fresh(name, number) for name in self._numbered(calls)}
        self.called[number] = {name: known.get(name) or own[name] for name in self._own(calls)}
        made = self.tensors[number] = []
        for name, new in self.called[number].items():
            weight, t = self.model.weights.get(new), self.few.tensors[name]
            content = weight.content if weight else ""
            made.append(Tensor(new, t.shape, t.dtype, t.kind, t.absolute, t.initial, content))
        before = self.called[number - 1]
        names = {name: before[new] for name, new in self.after.items() if new in before}
        names |= own | self.called[number]
        return [self._copy(call, number, names) for call in calls]

    def _behind(self, calls: Sequence[Call]) -> list[Call]:
        """The calls behind: they read the last layer that was written, and number on."""
        number = self.fold.left_out[-1]
        own = {name: self._fresh(name, number) for name in self._numbered(calls)}
        self.called[number + 1] = own
        return [self._copy(call, number, self.called[number] | own) for call in calls]

    def _copy(self, call: Call, number: int, names: Mapping[str, str]) -> Call:
        """A call under other names."""

        def moved(accesses: Iterable[Access]) -> tuple[Access, ...]:
            called = [names.get(a.tensor, a.tensor) for a in accesses]
            return tuple(map(_renamed, accesses, called))

        return call.over(
            names[call.name],
            ", ".join([self._label(one, number) for one in call.source.split(", ")]),
            moved(call.reads),
            moved(call.writes),
            frozenset([names.get(name, name) for name in call.direct]),
        )

    def _fresh(self, name: str, number: int) -> str:
        """A name for a tensor or a call of a layer that is like one of this name."""
        own = f"{self.few.name}/"
        base = self.few.bases.get(name, name)
        label = self._label(base.removeprefix(own), number)
        made = wanted = own + label if base.startswith(own) else label
        while made in self.taken:
            self.numbers[wanted] = self.numbers.get(wanted, 1) + 1
            made = f"{wanted}.{self.numbers[wanted]}"
        self.taken.add(made)
        return made

    def _label(self, label: str, number: int) -> str:
        """What the source calls the node of another layer; parts of it have a word more."""
        known = self.fold.labels[number]
        whole, dot, part = label.rpartition(".")
        return known.get(label) or (known[whole] + dot + part if whole in known else label)

    # -- the whole

    def covered(self) -> Covered:
        end = self.begins[FRONT]
        copies = [call for number in self.fold.left_out for call in self.copies[number]]
        calls = (*self.few.calls[:end], *copies, *self.behind)
        return replace(self.few, tensors=self._tensors(), calls=calls)

    def _tensors(self) -> dict[str, Tensor]:
        """All tensors; those that others give or take in the order of the layers."""
        found: dict[str, Tensor] = {}
        run: list[str] = []
        for name, tensor in [*self.few.tensors.items(), ("", None)]:
            if tensor and tensor.bound and self.layer.get(name, -1) == FRONT - 1:
                run.append(name)
            elif run:
                for number, tensors in self.tensors.items():
                    own = {self.called[number][each] for each in run}
                    found.update((each.name, each) for each in tensors if each.name in own)
                run = []
            if tensor and self.layer.get(name, -1) == FRONT:
                name = self.called[self.fold.left_out[-1] + 1].get(name, name)
                tensor = replace(tensor, name=name)
            if tensor:
                found[name] = tensor
        for tensors in self.tensors.values():
            found.update((each.name, each) for each in tensors)
        return found

    def coverage(self, few: Coverage) -> Coverage:
        """What covers what, in all layers."""
        made = {each.call: each for each in few.made}
        begin, end = self.begins[FRONT - 1 : FRONT + 1]
        moved = dict(zip(self.few.calls[end:], self.behind, strict=True))
        found = [
            Made(moved[each.call], each.match, each.nodes, each.bytes)
            if each.call in moved
            else each
            for each in few.made
        ]
        for copies in self.copies.values():
            matches: dict[Match, Match] = {}
            for call, copy in zip(self.few.calls[begin:end], copies, strict=True):
                match = made[call].match
                if match is not None and match not in matches:
                    matches[match] = replace(match, like=match.like or match)
                own = matches[match] if match is not None else None
                found.append(Made(copy, own, made[call].nodes, made[call].bytes))
        return Coverage(found, few.selections)

    def groups(self, few: Sequence[Group], calls: Sequence[Call]) -> list[Group]:
        """The groups of all calls. Raises Unlike."""
        at = {group.first: n for n, group in enumerate(few)}
        first = min((begin for begin in at if begin >= self.begins[FRONT - 2]), default=-1)
        try:
            begin, middle, end = (at[first + n * self.period] for n in range(3))
        except KeyError:
            raise Unlike from None
        if end - middle != middle - begin:
            raise Unlike
        if not all(map(_alike, few[begin:middle], few[middle:end])):
            raise Unlike
        found = [*few[:middle]]
        more = len(self.copies)
        for turn in range(more + 1):
            found += [_moved(group, calls, turn * self.period) for group in few[middle:end]]
        return found + [_moved(group, calls, more * self.period) for group in few[end:]]


def _renamed(access: Access, tensor: str) -> Access:
    return access if access.tensor == tensor else Access(tensor, access.index, access.fill)


def _plain(call: Call) -> tuple[object, ...]:
    """A call but for names."""
    return (
        call.opcode, call.types, call.unit, call.limits, call.reduce, call.whole, call.scan,
        call.reverse, call.operations, call.sets, len(call.reads), len(call.writes),
    )  # fmt: skip


def _alike(one: Group, other: Group) -> bool:
    """Whether two groups are the same, names of tensors apart."""
    if one.names is None or other.names is None or one.like is None or one.like != other.like:
        return False
    names = dict(zip(one.names.tensors, other.names.tensors, strict=True))
    level = {names[name]: depth for name, depth in one.level.items()}
    return (one.names.axes, one.order, one.tile, level, one.spread, one.step, one.slots) == (
        other.names.axes, other.order, other.tile, other.level, other.spread, other.step,
        other.slots,
    )  # fmt: skip


def _moved(group: Group, calls: Sequence[Call], by: int) -> Group:
    """A group of the calls so many further on."""
    first = group.first + by
    there = tuple(calls[first : first + len(group.calls)])
    names = {
        a.tensor: b.tensor
        for one, other in zip(group.calls, there, strict=True)
        for a, b in zip(one.accesses, other.accesses, strict=True)
    }
    assert group.names is not None
    return replace(
        group,
        first=first,
        calls=there,
        level={names[name]: depth for name, depth in group.level.items()},
        names=Names(group.names.axes, tuple(names[name] for name in group.names.tensors)),
    )
