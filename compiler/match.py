"""Where an instruction computes what a node of a graph computes, by comparing canonical forms.

An operand stands for any value, an immediate for any number; sums and products match in any order.
What else could say the same, such as comparing values, is another `Finder`.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Protocol

import numpy as np

from infinisa.isa.dtypes import is_float, promote
from infinisa.isa.functions import FUNCTIONS
from infinisa.isa.instance import instance
from infinisa.isa.instruction import Instruction
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
    Scan,
    Size,
    Stack,
    View,
    refine,
    substitute,
    union,
    walk,
)

from .canonical import NEUTRAL, canonical, combined, is_number, label, one_pass, separated

ROUNDING = 2.0**-23
"""Numbers this close are one number: a model's file may hold either rounded to f32."""

MASKED = -1e9
"""What a model writes for minus infinity; below it a softmax yields zero all the same."""


@dataclass(frozen=True, eq=False)
class Match:
    """An instruction that computes values of a graph.

    roots       for each output the node it yields, or None where the graph has no such node
    leaves      for each operand the value it reads
    binding     the instruction's axes as axes of the graph
    loops       axes of the graph outside the instruction
    immediates  its numbers
    inner       the nodes it computes
    meaning     the instance: over the graph's axes
    """

    instruction: Instruction
    roots: tuple[Node | None, ...]
    leaves: tuple[Node, ...]
    binding: Mapping[Axis, tuple[Axis, ...]]
    loops: tuple[Axis, ...]
    immediates: Mapping[str, float | int]
    inner: frozenset[Node]
    meaning: Instruction = field(repr=False)

    def __str__(self) -> str:
        leaves = ", ".join(
            f"{operand.name}={leaf}"
            for operand, leaf in zip(self.instruction.operands, self.leaves, strict=True)
        )
        return f"{self.instruction.name}({leaves})"

    @property
    def axes(self) -> tuple[Axis, ...]:
        """Every axis of the graph that the call runs over: loops, parallel, reduced."""
        bound = (self.binding.get(axis, ()) for axis in self.instruction.axes)
        return union([self.loops, *bound])


class Finder(Protocol):
    """Finds the instructions that compute a node."""

    def __call__(self, root: Node) -> Iterable[Match]: ...


@dataclass(frozen=True, eq=False)
class Surroundings:
    """The graph around a cone, in canonical form.

    users   who reads each node; None stands for the outside
    sizes   the most positions of each axis
    fixed   the sizes that are not bounds of run-time lengths
    """

    users: Mapping[Node, frozenset[Node | None]]
    sizes: Mapping[Axis, int]
    fixed: Mapping[Axis, int]

    @cached_property
    def shared(self) -> frozenset[Node]:
        """Values with several users: a chain of sums does not run through them."""
        return frozenset(node for node, users in self.users.items() if len(users) > 1)

    @cached_property
    def itself(self) -> dict[Node, Node]:
        """Every node of the graph, with itself."""
        return {node: node for node in self.users}

    @cached_property
    def free(self) -> frozenset[Node]:
        """Values that no tensor goes into, such as masks: they may be computed again."""
        found: set[Node] = set()
        for node in walk(self.users):
            leaf = isinstance(node, Input | Scan) or not (node.children or _elementary(node))
            if not leaf and all(child in found for child in node.children):
                found.add(node)
        return frozenset(found)

    @staticmethod
    def of(
        roots: Sequence[Node], sizes: Mapping[Axis, int], fixed: Mapping[Axis, int]
    ) -> Surroundings:
        users: dict[Node, set[Node | None]] = {node: set() for node in walk(roots)}
        for node in users:
            for child in node.children:
                users[child].add(node)
        for root in roots:
            users[root].add(None)
        return Surroundings({n: frozenset(who) for n, who in users.items()}, sizes, fixed)


def _elementary(node: Node) -> bool:
    return isinstance(node, Constant | Immediate | Size | Position)


# ---------------------------------------------------------------- patterns


@dataclass(frozen=True, eq=False)
class Pattern:
    """An instruction to look for: `expression` is the canonical form of its output `output`."""

    instruction: Instruction
    output: int
    expression: Node
    shared: frozenset[Node]

    def alike(self, operands: Sequence[Node]) -> bool:
        """Whether operands of one chain can trade places: they occur nowhere else."""
        return all(self.uses[o] == 1 and o.axes == operands[0].axes for o in operands)

    @cached_property
    def uses(self) -> Counter[Node]:
        """How often each node of the expression is an argument."""
        return Counter(child for node in walk([self.expression]) for child in node.children)

    @cached_property
    def wanted(self) -> frozenset[str]:
        """Operations that a cone must have to match; regrouped ones and numbers apart."""
        return frozenset(
            head(node)
            for node in walk([self.expression])
            if node.axes and node.children and not isinstance(node, Cast)
            if not (isinstance(node, Map) and node.function in NEUTRAL)
        )

    @cached_property
    def depth(self) -> int:
        """How many operations lie above the deepest operand, a chain counting once."""
        return depth(self.expression)

    @cached_property
    def heads(self) -> frozenset[str]:
        """What the outermost operation of a matching node may be."""
        match self.expression:
            case Map("add" | "multiply" as function, _):
                number, rest = separated(self.expression, function, self.shared)
                found: set[str] = {function}
                if len(rest) == 1 and any(isinstance(n, Immediate) for n in walk([number])):
                    found.update(head(part) for part in rest)  # the immediate may be neutral
                return frozenset(found)
        return frozenset([head(self.expression)])


def depth(node: Node, above: str = "") -> int:
    function = node.function if isinstance(node, Map) else ""
    own = 0 if function in NEUTRAL and function == above else 1
    return max((depth(child, function) + own for child in node.children), default=0)


def head(node: Node) -> str:
    """The outermost operation of a node, casts between floats apart."""
    match node:
        case Cast(x, to) if is_float(to) and is_float(x.dtype):
            return head(x)
        case Map(function, _):
            return function
        case Reduce(function, _, _):
            return f"reduce {function}"
        case Dot():
            return "reduce sum"
    return type(node).__name__


@lru_cache(maxsize=8)
def patterns(library: tuple[Instruction, ...]) -> list[Pattern]:
    """What to look for: an instruction by the output that has all its operands."""
    found: list[Pattern] = []
    for instruction in library:
        if instruction.opaque or instruction.states:
            continue
        operands = set(instruction.operands)
        for number, output in enumerate(instruction.outputs):
            if operands <= set(walk([output])) and not isinstance(output, Input):
                for form in _forms(output):
                    found.append(Pattern(instruction, number, *form))
                break
    return found


def _forms(output: Node) -> list[tuple[Node, frozenset[Node]]]:
    """The canonical form of an output and of the other ways to write it."""
    forms: dict[Node, frozenset[Node]] = {}
    written = [output]
    for rule in FORMS:
        written += [other for form in written for other in rule(form)]
    for form in written:
        made = canonical([form])
        users: dict[Node, int] = {}
        for node in walk(made.roots):
            for child in node.children:
                users[child] = users.get(child, 0) + 1
        shared = frozenset(node for node, count in users.items() if count > 1 and node.children)
        forms[made.roots[0]] = shared
    return list(forms.items())


def _inside_contraction(output: Node) -> list[Node]:
    """dot(e, v, t) * r  →  dot(e * r, v, t), where r lacks t: softmax before or after the dot"""
    (node,) = canonical([output]).roots
    if not (isinstance(node, Map) and node.function == "multiply"):
        return []
    number, rest = separated(node, "multiply")
    for part in rest:
        others = [other for other in rest if other is not part]
        if not isinstance(part, Dot) or not others:
            continue
        if any(set(part.over) & set(other.axes) for other in others):
            continue
        for a, b in ((part.a, part.b), (part.b, part.a)):
            if all(set(other.axes) <= set(a.axes) for other in others):
                inside = combined("multiply", Constant(1), [a, *others])
                return [number * Dot(inside, b, part.over)]
    return []


def _additive_mask(output: Node) -> list[Node]:
    """where(c, x, -inf)  →  x + where(c, 0, -inf)"""
    known: dict[Node, Node] = {}
    for node in walk([output]):
        match node:
            case Map("where", (condition, x, Constant(low))) if low <= MASKED and x.axes:
                known[node] = x + Map("where", (condition, Constant(0.0), Constant(MASKED)))
    return list(substitute([output], known)) if known else []


def _unguarded(output: Node) -> list[Node]:
    """where(-inf < x, x, 0)  →  x;  where(0 < x, x, 1)  →  x: a softmax that minds rows of nothing
    but -inf serves where there are none"""
    known: dict[Node, Node] = {}
    for node in walk(canonical([output]).roots):
        match node:
            case Map("where", (Map("less", (Constant(low), x)), y, Constant(other))) if x is y:
                if (low, other) in ((-math.inf, 0), (0, 1)):
                    known[node] = x
    if not known:
        return []
    (made,) = canonical([output]).roots
    while any(node in known for node in walk([made])):
        (made,) = substitute([made], known)
    return [made]


def _guarded_after(output: Node) -> list[Node]:
    """dot(safe softmax, v)  →  dot(where(is_nan(p), 0, p), v), p being the plain softmax"""
    found: list[Node] = []
    for plain in _unguarded(output):
        if isinstance(plain, Dot):
            p, v, over = plain.a, plain.b, plain.over
            guarded = Map("where", (Map("is_nan", (p,)), Constant(0.0), p))
            found.append(Dot(guarded, v, over))
    return found


def _guarded(output: Node) -> list[Node]:
    """softmax of where(position(t) <= position(s), x, -inf)  →  the safe softmax of it: a query
    always sees the first key"""
    (node,) = canonical([output]).roots
    causal = any(
        isinstance(n, Map) and n.function == "less_equal"
        and all(isinstance(a, Position) for a in n.arguments)
        for n in walk([node])
    )  # fmt: skip
    tops = [n for n in walk([node]) if isinstance(n, Reduce) and n.function == "max"]
    sums = [n for n in walk([node]) if isinstance(n, Reduce) and n.function == "sum"]
    if not causal or len(tops) != 1 or len(sums) != 1:
        return []
    (top,), (total,) = tops, sums
    low = Map("where", (Map("less", (Constant(-math.inf), top)), top, Constant(0.0)))
    (finite,) = substitute([total], {top: low})
    some = Map("where", (Map("less", (Constant(0.0), finite)), finite, Constant(1.0)))
    return list(substitute(substitute([node], {top: low}), {finite: some}))


FORMS = (_unguarded, _guarded_after, _guarded, _additive_mask, _inside_contraction)
"""Other ways to write what an instruction computes, each applied to what those before it made."""


# ---------------------------------------------------------------- unification


@dataclass(frozen=True)
class Partial:
    """What is known so far of a match.

    leaves   values of operands
    one      axes that stand for each other, one to one
    many     (instruction's axes, graph's axes) reduced together
    numbers  (instruction's, graph's) numbers that must be equal
    inner    nodes of the graph that are computed
    """

    leaves: Mapping[str, Node] = field(default_factory=dict)
    one: Mapping[Axis, Axis] = field(default_factory=dict)
    many: tuple[tuple[tuple[Axis, ...], tuple[Axis, ...]], ...] = ()
    numbers: tuple[tuple[Node, Node], ...] = ()
    inner: frozenset[Node] = frozenset()

    def with_leaf(self, name: str, leaf: Node) -> Partial:
        return replace(self, leaves={**self.leaves, name: leaf})

    def with_one(self, pairs: Iterable[tuple[Axis, Axis]]) -> Partial | None:
        known = dict(self.one)
        for ours, theirs in pairs:
            if known.setdefault(ours, theirs) != theirs:
                return None
        return replace(self, one=known)

    def with_many(self, ours: tuple[Axis, ...], theirs: tuple[Axis, ...]) -> Partial | None:
        if len(ours) > len(theirs):
            return None
        return replace(self, many=(*self.many, (ours, theirs)))

    def with_numbers(self, ours: Node, theirs: Node) -> Partial:
        return replace(self, numbers=(*self.numbers, (ours, theirs)))

    def with_inner(self, *nodes: Node) -> Partial:
        return replace(self, inner=self.inner.union(nodes))


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


# ---------------------------------------------------------------- axes


def bind_axes(
    instruction: Instruction, known: Partial, root: Node
) -> tuple[dict[Axis, tuple[Axis, ...]], tuple[Axis, ...]] | None:
    """What each axis of an instruction stands for, and the axes outside it; None if nothing fits.

    Reduced axes stand for the reduced ones. Every other goes by the operands it occurs in: to the
    axis of the instruction with those operands, or the fewest more (an operand may lack an axis).
    """
    bound: dict[Axis, tuple[Axis, ...]] = {ours: (theirs,) for ours, theirs in known.one.items()}
    if len(set(known.one.values())) != len(known.one):
        return None
    for ours, theirs in known.many:
        if not _bind_reduced(instruction, known, bound, ours, theirs):
            return None
    taken = set(union(bound.values()))
    again = _second_roles(instruction, known, root)
    every = union([root.axes, *(leaf.axes for leaf in known.leaves.values())])
    left = [axis for axis in every if axis not in taken or axis in again]
    loops: list[Axis] = []
    shares: dict[tuple[Axis, ...], list[Axis]] = {}
    open_ = {a: where for a, where in _occurrences(instruction).items() if a not in bound}
    for axis in left:
        where = {name for name, leaf in known.leaves.items() if axis in leaf.axes}
        where -= again.get(axis, frozenset())
        if axis not in root.axes or not where:
            return None
        fitting = [a for a, operands in open_.items() if where <= operands]
        fewest = min((len(open_[a]) for a in fitting), default=0)
        if fitting:
            best = tuple(a for a in fitting if len(open_[a]) == fewest)
            shares.setdefault(best, []).append(axis)
        elif axis not in again:
            loops.append(axis)
    for ours, found in shares.items():
        _deal(instruction, bound, loops, ours, found)
    for axis in instruction.axes:
        if axis not in bound:
            if axis in instruction.indexed or axis in instruction.reduced:
                return None
            bound[axis] = ()
    return bound, tuple(loops)


def _second_roles(
    instruction: Instruction, known: Partial, root: Node
) -> dict[Axis, frozenset[str]]:
    """Axes that are reduced inside and yet in the result, where they came from other operands:
    attention's head width. With each the operands in which it is the reduced one."""
    found: dict[Axis, frozenset[str]] = {}
    results = set(union(output.axes for output in instruction.outputs))
    for ours, theirs in known.many:
        if not results & set(ours):
            names = {o.name for o in instruction.operands if set(ours) & set(o.axes)}
            elsewhere = union(leaf.axes for n, leaf in known.leaves.items() if n not in names)
            found.update((a, frozenset(names)) for a in theirs if a in root.axes and a in elsewhere)
    return found


def _occurrences(instruction: Instruction) -> dict[Axis, frozenset[str]]:
    """The operands in which each axis of the outputs occurs, through windows too."""
    found: dict[Axis, set[str]] = {a: set() for out in instruction.outputs for a in out.axes}
    for operand in instruction.operands:
        for axis in operand.axes:
            window = instruction.windows.get((operand.name, axis))
            for a in window.axes if window else (axis,):
                if a in found:
                    found[a].add(operand.name)
    return {axis: frozenset(names) for axis, names in found.items()}


def _bind_reduced(
    instruction: Instruction,
    known: Partial,
    bound: dict[Axis, tuple[Axis, ...]],
    ours: tuple[Axis, ...],
    theirs: tuple[Axis, ...],
) -> bool:
    """Bind axes that are reduced together; False if they are bound otherwise already."""
    gone = set(union(bound.get(axis, ()) for axis in ours))
    if not gone <= set(theirs):
        return False
    free = [axis for axis in ours if axis not in bound]
    left = [axis for axis in theirs if axis not in gone]
    if not free:
        return not left
    if len(free) == 1:
        bound[free[0]] = tuple(left)
        return bool(left) and (free[0] not in instruction.indexed or len(left) == 1)
    operands = {o.name: o for o in instruction.operands}
    for axis in free:
        where = {name for name, operand in operands.items() if axis in operand.axes}
        mine = [a for a in left if where == {n for n, x in known.leaves.items() if a in x.axes}]
        if not mine:
            return False
        bound[axis] = (mine[0],) if len(free) > 1 else tuple(mine)
        left = [a for a in left if a not in bound[axis]]
        free = free[1:]
    return not left


def _deal(
    instruction: Instruction,
    bound: dict[Axis, tuple[Axis, ...]],
    loops: list[Axis],
    ours: tuple[Axis, ...],
    found: list[Axis],
) -> None:
    """Share axes of the graph among axes of the instruction that occur alike, last to last."""
    left = list(found)
    for number, axis in enumerate(reversed(ours)):
        last = number == len(ours) - 1
        take = left if last and axis not in instruction.indexed else left[-1:]
        bound[axis] = tuple(take)
        left = left[: len(left) - len(take)]
    loops += left


# ---------------------------------------------------------------- numbers


def close(a: float | int, b: float | int) -> bool:
    """Whether two numbers differ by no more than one rounding."""
    return a == b or abs(a - b) <= ROUNDING * max(abs(a), abs(b))


def solve_numbers(
    instruction: Instruction,
    known: Partial,
    binding: Mapping[Axis, tuple[Axis, ...]],
    around: Surroundings,
) -> dict[str, float | int] | None:
    """The immediates with which all numbers are equal; those that occur nowhere keep their default.

    None if there are none.
    """
    sizes = {axis: around.fixed.get(axis, 0) for axis in union(binding.values())}
    left = [(refine([ours], binding)[0], theirs) for ours, theirs in known.numbers]
    values: dict[str, float | int] = {}
    while left:
        later = []
        for ours, theirs in left:
            unknown = {n.name for n in walk([ours]) if isinstance(n, Immediate)} - set(values)
            if len(unknown) > 1:
                later.append((ours, theirs))
            elif not _settle(ours, theirs, values, sizes):
                return None
        if len(later) == len(left):
            return None
        left = later
    for leaf in instruction.immediates:
        value = values.setdefault(leaf.name, leaf.default)
        if isinstance(leaf.default, int):
            if value != round(value):
                return None
            values[leaf.name] = round(value)
    return values


def _settle(
    ours: Node, theirs: Node, values: dict[str, float | int], sizes: Mapping[Axis, int]
) -> bool:
    """Make two numbers equal by the one immediate that is still unknown, if any."""
    target = number_of(theirs, {}, sizes)
    if target is None:  # it holds a length known at run time: only the same expression is equal
        (form,) = canonical(substitute([ours], _constants(ours, values))).roots
        return form is canonical([theirs]).roots[0]
    while True:
        value = number_of(ours, values, sizes)
        if value is not None:
            return close(value, target) or (value <= MASKED and target <= MASKED)
        step = _inverted(ours, target, values, sizes)
        if step is None:
            return False
        ours, target = step
        if isinstance(ours, Immediate):
            values[ours.name] = target
            return True


def _constants(node: Node, values: Mapping[str, float | int]) -> dict[Node, Node]:
    return {
        n: Constant(values[n.name])
        for n in walk([node])
        if isinstance(n, Immediate) and n.name in values
    }


def number_of(
    node: Node, values: Mapping[str, float | int], sizes: Mapping[Axis, int]
) -> float | None:
    """A number, if everything in it is known."""
    match node:
        case Constant(value):
            return value
        case Immediate(name, _):
            return values.get(name)
        case Size(axis):
            return sizes.get(axis) or None
        case Cast(x, _):
            return number_of(x, values, sizes)
        case Map(function, arguments):
            given = [number_of(argument, values, sizes) for argument in arguments]
            known = [np.float64(value) for value in given if value is not None]
            if len(known) < len(given):
                return None
            with np.errstate(all="ignore"):
                return float(FUNCTIONS[function].numpy(*known))
    raise AssertionError(node)


def _inverted(
    node: Node, target: float, values: Mapping[str, float | int], sizes: Mapping[Axis, int]
) -> tuple[Node, float] | None:
    """f(x) = target  →  x = the inverse of f at target"""
    match node:
        case Immediate():
            return node, target
        case Map("add" | "multiply" as function, (a, b)):
            for x, other in ((a, b), (b, a)):
                value = number_of(other, values, sizes)
                if value is not None and (function == "add" or value != 0):
                    return x, target - value if function == "add" else target / value
        case Map("reciprocal", (x,)) if target != 0:
            return x, 1 / target
        case Map("sqrt", (x,)) if target >= 0:
            return x, target * target
        case Map("rsqrt", (x,)) if target > 0:
            return x, 1 / (target * target)
        case Cast(x, _):
            return x, target
    return None


# ---------------------------------------------------------------- matches


@dataclass(frozen=True, eq=False)
class Cone:
    """What lies under a node, as far as patterns reach: nodes in a fixed order, and a key that
    two cones share if they differ only in what lies below."""

    nodes: tuple[Node, ...]
    heads: frozenset[str]
    key: tuple[object, ...]

    @staticmethod
    def of(root: Node, reach: int, around: Surroundings) -> Cone:
        left = {root: reach}
        order = [root]
        for node in order:
            function = node.function if isinstance(node, Map) else ""
            for child in node.children if left[node] > 0 else ():
                same = function in NEUTRAL and getattr(child, "function", "") == function
                same = same and child not in around.shared
                kept = left[node] if same or isinstance(child, Cast) else left[node] - 1
                if child not in left:
                    order.append(child)
                left[child] = max(left.get(child, -1), kept)
        number = {node: n for n, node in enumerate(order)}
        key = []
        for node in order:
            inside = left[node] > 0
            users = around.users.get(node, frozenset())
            mine = sorted(number[u] for u in users if u is not None and u in number)
            children = tuple(number[c] for c in node.children) if inside else ()
            what = label(node) if inside and not isinstance(node, Input) else ""
            flags = len(mine) < len(users), node in around.free, isinstance(node, Constant)
            key.append((what, node.axes, node.dtype, children, tuple(mine), *flags))
        return Cone(tuple(order), frozenset(head(node) for node in order), tuple(key))


class Syntactic:
    """The finder that compares canonical forms. It remembers what it found, so that the layers of
    a model after the first cost little."""

    def __init__(self, library: Iterable[Instruction], around: Surroundings) -> None:
        self.around = around
        self.by_head: dict[str, list[Pattern]] = {}
        for pattern in patterns(tuple(library)):
            for name in pattern.heads:
                self.by_head.setdefault(name, []).append(pattern)
        self.reach = {n: max(p.depth for p in found) for n, found in self.by_head.items()}
        self.known: dict[tuple[object, ...], tuple[Cone, list[tuple[Pattern, Match]]]] = {}
        self.under: dict[Node, frozenset[Node]] = {}

    def __call__(self, root: Node) -> Iterator[Match]:
        name = head(root)
        if name not in self.by_head:
            return
        cone = Cone.of(root, self.reach[name], self.around)
        if cone.key not in self.known:
            self.known[cone.key] = cone, list(self.search(root, cone))
        first, found = self.known[cone.key]
        for pattern, match in found:
            again = match if first.nodes == cone.nodes else self.moved(pattern, match, first, cone)
            if again is not None:
                yield again

    def search(self, root: Node, cone: Cone) -> Iterator[tuple[Pattern, Match]]:
        seen = set()
        for pattern in self.by_head[head(root)]:
            if not pattern.wanted <= cone.heads:
                continue
            for partial in Unifier(pattern, self.around)(root):
                found = self.complete(pattern, partial, root)
                if found is not None:
                    key = (found.instruction, found.leaves, *found.immediates.values())
                    if key not in seen:
                        seen.add(key)
                        yield pattern, found

    def moved(self, pattern: Pattern, match: Match, old: Cone, new: Cone) -> Match | None:
        """A match in another cone with the same key."""
        known = dict(zip(old.nodes, new.nodes, strict=True))
        leaves = tuple(transplanted(leaf, known) for leaf in match.leaves)
        roots = self.roots(pattern, match.meaning, leaves, new.nodes[0])
        if roots is None:
            return None
        inner = frozenset(transplanted(node, known) for node in match.inner)
        if len(roots) > 1 and self.needed_outside(inner, leaves, roots):
            return None
        return replace(match, leaves=leaves, roots=roots, inner=inner)

    def complete(self, pattern: Pattern, partial: Partial, root: Node) -> Match | None:
        """A match, if axes and numbers fit and nobody else needs what is inside."""
        instruction = pattern.instruction
        axes = bind_axes(instruction, partial, root)
        if axes is None:
            return None
        binding, loops = axes
        numbers = solve_numbers(instruction, partial, binding, self.around)
        if numbers is None:
            return None
        leaves = tuple(partial.leaves[operand.name] for operand in instruction.operands)
        operands = [
            Input(operand.name, leaf.axes, leaf.dtype)
            for operand, leaf in zip(instruction.operands, leaves, strict=True)
        ]
        meaning = instance(instruction, binding, operands, numbers)
        roots = self.roots(pattern, meaning, leaves, root)
        if roots is None or self.needed_outside(partial.inner, leaves, roots):
            return None
        return Match(instruction, roots, leaves, binding, loops, numbers, partial.inner, meaning)

    def roots(
        self, pattern: Pattern, meaning: Instruction, leaves: Sequence[Node], root: Node
    ) -> tuple[Node | None, ...] | None:
        """The node of each output; None if the result is not of the root's axes and type."""
        found: list[Node | None] = []
        for number, output in enumerate(meaning.outputs):
            if number == pattern.output:
                if set(output.axes) != set(root.axes) or not _same_type(output, root):
                    return None
                found.append(root)
            else:
                found.append(self.other_root(output, meaning, leaves))
        return tuple(found)

    def other_root(self, output: Node, meaning: Instruction, leaves: Sequence[Node]) -> Node | None:
        """The node of the graph that a further output yields, if there is one and no operand
        depends on it."""
        known: dict[Node, Node] = dict(zip(meaning.operands, leaves, strict=True))
        known |= {i: Constant(i.default) for i in meaning.immediates}
        written = substitute([output], known)
        settled = self.around.itself | {leaf: leaf for leaf in leaves}
        (form,) = one_pass(written, self.around.fixed, settled, self.around.shared).roots
        if form not in self.around.users or any(form in self.below(leaf) for leaf in leaves):
            return None
        return form

    def below(self, node: Node) -> frozenset[Node]:
        if node not in self.under:
            self.under[node] = frozenset(walk([node]))
        return self.under[node]

    def needed_outside(
        self, inner: frozenset[Node], leaves: Sequence[Node], roots: Sequence[Node | None]
    ) -> bool:
        """Whether a value inside the cone has users outside it."""
        for node in inner:
            if node in roots or node in self.around.free or node in leaves:
                continue
            users = self.around.users.get(node, frozenset())
            if len(users) == 1 and None not in users:
                continue  # its user may be a chain that is regrouped here
            if any(user is None or not self._inside(user, inner) for user in users):
                return True
        return False

    def _inside(self, user: Node, inner: frozenset[Node]) -> bool:
        if user in inner:
            return True
        chain = isinstance(user, Cast) or (isinstance(user, Map) and user.function in NEUTRAL)
        if not chain:
            return False  # parts of a chain are not listed one by one
        users = self.around.users.get(user, frozenset())
        return bool(users) and all(u is not None and self._inside(u, inner) for u in users)


def transplanted(node: Node, known: Mapping[Node, Node]) -> Node:
    """A node of one cone, or a sum or product of its nodes, in another."""
    if node in known:
        return known[node]
    if isinstance(node, Map) and node.function in NEUTRAL:
        parts_ = [transplanted(part, known) for part in node.arguments]
        whole = Map(node.function, tuple(parts_))
        number, rest = separated(whole, node.function, set(known.values()))
        return combined(node.function, number, rest)
    return node.rebuild([transplanted(child, known) for child in node.children])


def _same_type(output: Node, root: Node) -> bool:
    if is_float(output.dtype) and is_float(root.dtype):
        return True
    return output.dtype == promote([root.dtype])
