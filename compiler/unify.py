"""All ways in which an expression of an instruction is a cone of a graph.

An operand stands for any value; sums and products match in any order."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from infinisa.isa.dtypes import is_float
from infinisa.isa.functions import FUNCTIONS
from infinisa.isa.language import (
    Affine,
    Axis,
    Cast,
    Constant,
    Dot,
    Gather,
    Immediate,
    Input,
    Map,
    Node,
    Position,
    Reduce,
    Stack,
    View,
    walk,
)

from .bind import close
from .canonical import NEUTRAL, combined, is_number, separated
from .partial import Partial
from .pattern import Pattern
from .surroundings import Surroundings


class Unifier:
    """All ways in which a pattern is a cone of the graph."""

    def __init__(self, pattern: Pattern, around: Surroundings) -> None:
        self.pattern, self.around = pattern, around

    def __call__(self, root: Node) -> Iterator[Partial]:
        for partial in self.unify(self.pattern.expression, root, Partial()):
            if root not in partial.leaves.values():
                yield partial

    def unify(self, p: Node, g: Node, known: Partial) -> Iterator[Partial]:
        if isinstance(p, Input):
            yield from self._operand(p, g, known)
        elif is_number(p):
            if is_number(g):
                yield known.with_numbers(p, g)
        elif isinstance(p, Map) and p.function in NEUTRAL:
            yield from self._chain(p.function, p, seen_through(g), known)
        else:
            g = seen_through(g) if not isinstance(p, Cast) else g
            yield from self._same_kind(p, g, known.with_inner(g))

    def _operand(self, p: Input, g: Node, known: Partial) -> Iterator[Partial]:
        bound = known.leaves.get(p.name)
        if bound is not None:
            if bound is g or seen_through(bound) is seen_through(g):
                yield known
        elif _accepts(p.type, g.dtype):
            yield known.with_leaf(p.name, g)

    def _same_kind(self, p: Node, g: Node, known: Partial) -> Iterator[Partial]:
        after: Partial | None
        match p, g:
            case Map(f, ours), Map(h, theirs) if f == h:
                yield from self._each(ours, theirs, known)
                if len(theirs) == 2 and _commutes(f):
                    yield from self._each(ours, theirs[::-1], known)
            case Dot(a, b, ours), Dot(c, d, theirs):
                if (after := known.with_many(ours, theirs)) is not None:
                    yield from self._each((a, b), (c, d), after)
                    yield from self._each((a, b), (d, c), after)
            case Reduce("sum", x, ours), Dot(c, d, theirs):
                if (after := known.with_many(ours, theirs)) is not None:
                    yield from self.unify(x, combined("multiply", Constant(1), [c, d]), after)
            case Reduce(f, x, ours), Reduce(h, y, theirs) if f == h:
                if (after := known.with_many(ours, theirs)) is not None:
                    yield from self.unify(x, y, after)
            case Cast(x, ours), Cast(y, theirs) if ours == theirs:
                yield from self.unify(x, y, known)
            case Position(ours), Position(theirs):
                if (after := known.with_one([(ours, theirs)])) is not None:
                    yield after
            case Gather(t, i, ours), Gather(u, j, theirs):
                if (after := known.with_one([(ours, theirs)])) is not None:
                    yield from self._each((t, i), (u, j), after)
            case Stack(xs, ours), Stack(ys, theirs) if len(xs) == len(ys):
                if (after := known.with_one([(ours, theirs)])) is not None:
                    yield from self._each(xs, ys, after)
            case View(x, ours, fill), View(y, theirs, other) if fill == other:
                for pairs in _same_index(ours, theirs):
                    if (after := known.with_one(pairs)) is not None:
                        yield from self.unify(x, y, after)

    def _each(self, ps: Sequence[Node], gs: Sequence[Node], known: Partial) -> Iterator[Partial]:
        if not ps:
            yield known
            return
        for after in self.unify(ps[0], gs[0], known):
            yield from self._each(ps[1:], gs[1:], after)

    # -- sums and products, in any order

    def _chain(self, function: str, p: Node, g: Node, known: Partial) -> Iterator[Partial]:
        ours, p_parts = separated(p, function, self.pattern.shared)
        theirs, g_parts = separated(g, function, self.around.shared - {g})
        rigid = [part for part in p_parts if not isinstance(part, Input)]
        loose = [part for part in p_parts if isinstance(part, Input)]
        if len(rigid) > len(g_parts):
            return
        for after, left in self._rigid(rigid, g_parts, known.with_inner(g)):
            yield from self._loose(function, loose, left, (ours, theirs), after)

    def _rigid(
        self, rigid: Sequence[Node], left: Sequence[Node], known: Partial
    ) -> Iterator[tuple[Partial, list[Node]]]:
        """Match operations with parts of a chain: what is known then, and the parts left over."""
        if not rigid:
            yield known, list(left)
            return
        for number, part in enumerate(left):
            for after in self.unify(rigid[0], part, known):
                yield from self._rigid(rigid[1:], [*left[:number], *left[number + 1 :]], after)

    def _loose(
        self,
        function: str,
        loose: Sequence[Node],
        left: Sequence[Node],
        numbers: tuple[Node, Node],
        known: Partial,
    ) -> Iterator[Partial]:
        """Share the parts left over among the operands of a chain."""
        ours, theirs = numbers
        if _has_immediate(ours) or not loose or _equal_numbers(ours, theirs):
            known, spare = known.with_numbers(ours, theirs), None
        else:
            spare = _remainder(function, ours, theirs)
            if spare is None:
                return
        for groups in _shares(list(left), len(loose), spare, self.pattern.alike(loose)):
            given = [_group(function, group) for group in groups]
            yield from self._each(loose, given, known)


def seen_through(node: Node) -> Node:
    """What is under casts between floats: over the reals they do nothing."""
    while isinstance(node, Cast) and is_float(node.type) and is_float(node.x.dtype):
        node = node.x
    return node


def _accepts(operand: str, value: str) -> bool:
    """Whether an operand of this type takes such values: f32 stands for any, i32 for integers."""
    whole = operand == "i32" and not is_float(value) and value != "bool"
    return operand in ("f32", value) or whole


def _commutes(function: str) -> bool:
    return FUNCTIONS[function].commutative


def _has_immediate(node: Node) -> bool:
    return any(isinstance(n, Immediate) for n in walk([node]))


def _equal_numbers(a: Node, b: Node) -> bool:
    if isinstance(a, Constant) and isinstance(b, Constant):
        return close(a.value, b.value)
    symbolic = isinstance(b, Constant) or not isinstance(a, Constant)
    return symbolic  # sizes are compared when the axes are known


def _remainder(function: str, ours: Node, theirs: Node) -> Node | None:
    """The number that an operand must take in: the graph's without the instruction's."""
    assert isinstance(ours, Constant)
    if not isinstance(theirs, Constant):
        return theirs if ours.value == NEUTRAL[function] else None
    if theirs.value == NEUTRAL[function]:
        return None  # the graph has no number there: it would be invented
    if function == "add":
        return Constant(theirs.value - ours.value)
    if ours.value == 0 or (ours.value != 1 and theirs.value / ours.value < 0):
        return None
    return theirs if ours.value == 1 else Constant(theirs.value / ours.value)


def _shares(
    left: list[Node], count: int, spare: Node | None, alike: bool
) -> Iterator[list[list[Node]]]:
    """Ways to part what is left into `count` groups, none empty; `spare` joins one or is one.
    If the groups are alike, their order does not count."""
    if count == 0:
        if not left and spare is None:
            yield []
        return
    if spare is not None and len(left) + 1 <= count:
        left, spare = [*left, spare], None
    if len(left) < count:
        return
    for labels in _labels(len(left), count, alike):
        groups: list[list[Node]] = [[] for _ in range(count)]
        for part, group in zip(left, labels, strict=True):
            groups[group].append(part)
        if spare is None:
            yield groups
        else:
            for number in range(count):
                yield [[*group, spare] if n == number else group for n, group in enumerate(groups)]


def _labels(parts: int, count: int, alike: bool) -> Iterator[tuple[int, ...]]:
    if parts == count and alike:
        yield tuple(range(count))
    elif parts == count:
        yield from itertools.permutations(range(count))
    elif count == 1:
        yield (0,) * parts
    elif count**parts <= 64:
        for labels in itertools.product(range(count), repeat=parts):
            first = list(dict.fromkeys(labels))
            if len(first) == count and not (alike and first != sorted(first)):
                yield labels


def _group(function: str, group: Sequence[Node]) -> Node:
    if len(group) == 1:
        return group[0]
    numbers = [part for part in group if is_number(part)]
    rest = [part for part in group if not is_number(part)]
    return combined(function, numbers[0] if numbers else Constant(NEUTRAL[function]), rest)


def _same_index(
    ours: Sequence[tuple[Axis, Affine]], theirs: Sequence[tuple[Axis, Affine]]
) -> Iterator[list[tuple[Axis, Axis]]]:
    """Ways in which two views read alike: which axes stand for each other."""
    if len(ours) != len(theirs):
        return
    for order in itertools.permutations(theirs):
        pairs: list[tuple[Axis, Axis]] = []
        for (axis, i), (other, j) in zip(ours, order, strict=True):
            shape = (sorted(s for _, s in i.terms), i.offset, i.divide, i.modulo)
            if shape != (sorted(s for _, s in j.terms), j.offset, j.divide, j.modulo):
                break
            mine, yours = (sorted(x.terms, key=lambda term: term[1]) for x in (i, j))
            pairs.append((axis, other))
            pairs += [(a, b) for (a, _), (b, _) in zip(mine, yours, strict=True)]
        else:
            yield pairs
