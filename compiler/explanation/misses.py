"""The instructions that nearly compute a value: how near, and what keeps them from it.

Selection asks only where the kinds of functions, the axes and the types fit. Here all cones of one
value are held against all instructions with as many operands, the likeliest first, then against
those with an operand more or less.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from operator import or_
from typing import TypeAlias

import numpy as np

from infinisa.isa.dtypes import held
from infinisa.isa.errors import LanguageError
from infinisa.isa.instruction import Instruction
from infinisa.isa.language import (
    Constant,
    Input,
    Map,
    Node,
    substitute,
    walk,
)

from ..equality.bind import Binding, bindings
from ..equality.local import Local, Outline, Role, leaves_first
from ..equality.oracle import Array, Probe, Question, candidates_for, distance, functions_in, same
from ..equality.pattern import LOOSE, Pattern, pattern_with, patterns, told_apart
from ..equality.precision import replacement_error
from ..selection.choice import Choosing, unit_for
from ..selection.cones import BOUNDARIES, Cone, Cones, seen_through
from ..selection.match import Meaning, over_axes
from ..selection.uncovered import operation
from .reasons import Pair, reason

MOST_CONES = 400
MOST_PAIRS = 600
MOST_READ, MOST_BINDINGS = 48, 4
MOST_CANDIDATES = 24
MOST_TRIED = 20
LIKE, MOST_LIKE = 0.3, 1.5
"""Computations less like each other than this are no misses; the second is for those that are of
the same functions."""

FAR = 0.1
"""A distance from which on a miss is named only if there is a reason for it."""

IDLE: Mapping[str, float] = {
    **dict.fromkeys(("add", "subtract"), 0.0),
    **dict.fromkeys(("multiply", "divide", "power"), 1.0),
    "maximum": -math.inf,
    "minimum": math.inf,
}
"""The number with which an operand of a function does nothing, or next to nothing."""

Known: TypeAlias = Mapping[str, int]
"""The instructions to ask about, each with how many nodes of the value it computes already."""


@dataclass(frozen=True)
class Miss:
    """An instruction that does not compute a value, but nearly does.

    operands  (name of the operand, value it would read) pairs, where that could be said
    distance  relative to the largest value; 0: it computes the value but cannot serve here;
              None: nothing was compared
    reason    the likely reason, in words; "" if no small change makes the two equal
    nodes     how many nodes of the model it would compute
    """

    instruction: str
    operands: tuple[tuple[str, str], ...]
    distance: float | None
    reason: str
    nodes: int

    @property
    def rank(self) -> tuple[bool, bool, int, float]:
        """Less is nearer: those with a reason first, then those that were compared; of these what
        would compute the most."""
        return not self.reason, self.distance is None, -self.nodes, self.distance or 0.0


@dataclass(frozen=True, eq=False)
class Prospect:
    """A cone under local names, as selection would ask about it."""

    cone: Cone
    local: Local
    question: Question
    features: int

    @property
    def types(self) -> tuple[str, ...]:
        return tuple(leaf.dtype for leaf in self.cone.leaves)


class Misses:
    """Looks for near misses in one graph.

    finder    what selection found there
    choosing  of the graph
    called    what a value is called in messages
    """

    def __init__(self, finder: Meaning, choosing: Choosing, called: Callable[[Node], str]) -> None:
        self.finder, self.choosing, self.called = finder, choosing, called
        self.patterns = patterns(tuple(choosing.library.values()))
        widest = max((len(p.operands) for p in self.patterns), default=0)
        known = finder.knowledge
        self.cones = Cones(
            finder.around,
            widest,
            known.results + 2,
            finder.feature,
            lambda _: widest + LOOSE,
            known.truths,
        )

    def of(self, root: Node, most: int = 5, only: frozenset[str] = frozenset()) -> list[Miss]:
        """The nearest misses of a value, the best of each instruction, the nearest first.

        only  the instructions to ask about; all if there are none
        """
        if isinstance(root, BOUNDARIES) or seen_through(root) is not root:
            return []
        names = only or {p.instruction.name for p in self.patterns}
        known = dict.fromkeys(names, 0)
        for match in self.finder(root):
            name = match.instruction.name
            if name in names and match.stable:
                known[name] = max(known[name], len(match.inner))
        prospects = self.prospects(root)
        found: dict[str, Miss] = {}
        for search in (self.by_value, self.by_operands, self.by_axes):
            left = {name: nodes for name, nodes in known.items() if name not in found}
            for miss in search(prospects, left):
                best = found.setdefault(miss.instruction, miss)
                if miss.rank < best.rank:
                    found[miss.instruction] = miss
        return sorted(found.values(), key=lambda miss: miss.rank)[:most]

    def prospects(self, root: Node) -> list[Prospect]:
        """The cones of a value, each computation once."""
        found: dict[object, Prospect] = {}
        for cone in itertools.islice(self.cones.under(root, lambda *_: True), MOST_CONES):
            made = self.prospect(cone)
            if made is not None:
                found.setdefault((made.local.root, made.local.leaves), made)
        return list(found.values())

    def prospect(self, cone: Cone) -> Prospect | None:
        around = self.finder.around
        outline = Outline(cone.root, cone.leaves, cone.inner, cone.groups, around.occurrences)
        if not outline.sound:
            return None
        local = outline.local()
        sizes = {axis: around.sizes[outer] for axis, outer in local.axes.items()}
        return Prospect(cone, local, Question(local, sizes), told_apart(cone.features))

    # -- with as many operands

    def by_value(self, prospects: Sequence[Prospect], known: Known) -> Iterator[Miss]:
        likely = [
            pair for prospect in prospects for pattern in self.patterns
            if asked(prospect, pattern, known) and len(pattern.operands) == len(prospect.types)
            for pair in [(prospect, pattern)] if comparable(prospect, pattern)
        ]  # fmt: skip
        likely.sort(key=lambda pair: _unlike(*pair))
        screened = []
        for prospect, pattern in likely[:MOST_PAIRS]:
            for binding in readings(prospect, pattern):
                made = self.pair(prospect, pattern, binding)
                if made is not None and made[0] < (MOST_LIKE if alike(prospect, pattern) else LIKE):
                    screened.append((*made, prospect, pattern, binding))
        screened.sort(key=lambda each: each[0])
        for _, pair, prospect, pattern, binding in screened[:MOST_TRIED]:
            miss = self.miss(pair, prospect, pattern, binding)
            if miss is not None:
                yield miss

    def pair(
        self, prospect: Prospect, pattern: Pattern, binding: Binding
    ) -> tuple[float, Pair] | None:
        """A pattern read this way with its best numbers, and how unlike the cone it is."""
        question = prospect.question
        immediates = pattern.instruction.immediates
        try:
            other = over_axes(pattern, *binding.over(prospect.local.leaves))[0]
            if {*other.axes} != {*prospect.local.root.axes}:
                return None
            arrays, value = question.value(Probe(0.8, 1, question.positive))
            used = [node for node in immediates if node in set(walk([other]))]
            every = candidates_for(used, question.constants)
            some = list(itertools.islice(every, MOST_CANDIDATES))
            results = question.asked(other, arrays, some)
        except (LanguageError, TypeError):
            return None  # over these axes or types it means nothing
        scores = [unlikeness(value, result) for result in results]
        best = min(range(len(some)), key=scores.__getitem__)
        names = {
            leaf.name: self.called(node)
            for leaf, node in zip(prospect.local.leaves, prospect.cone.leaves, strict=True)
        }
        return scores[best], Pair(question, other, immediates, some[best], names)

    def miss(
        self, pair: Pair, prospect: Prospect, pattern: Pattern, binding: Binding
    ) -> Miss | None:
        try:
            apart = pair.distance
            if not pair.question.matters:
                return None
        except (LanguageError, TypeError):
            return None
        why = reason(pair) if apart else self.refusal(pair, prospect, pattern, binding)
        if not why and apart > FAR:
            return None
        read = dict(zip(pattern.operands, binding.leaves, strict=True))
        read |= {n: read[first] for n, first in pattern.again.items()}
        values = {n: self.called(prospect.cone.leaves[leaf]) for n, leaf in read.items()}
        values |= {n: f"{number:g}" for n, number in pattern.neutral.items()}
        operands = tuple((pattern.instruction.operands[n].name, values[n]) for n in sorted(values))
        return Miss(pattern.instruction.name, operands, apart, why, len(prospect.cone.inner))

    def refusal(self, pair: Pair, prospect: Prospect, pattern: Pattern, binding: Binding) -> str:
        """Why an instruction that computes the value does not serve here."""
        instruction, types = pattern.instruction, prospect.types
        if unit_for(instruction, self.choosing.machine) is None:
            machine = self.choosing.machine.name
            return f"it runs on unit {instruction.unit!r}, which machine {machine!r} lacks"
        for n, leaf in zip(pattern.operands, binding.leaves, strict=True):
            if not pattern.accepts(n, types[leaf]):
                called = self.called(prospect.cone.leaves[leaf])
                wanted = instruction.operands[n].type
                return f"{called} would have to be {wanted}, not {types[leaf]}"
        numbers = {i.name: pair.numbers.get(i.name, i.default) for i in instruction.immediates}
        for name, kind in instruction.formats:
            if held(numbers[name], kind) is None:
                return f"its encoding has {name} as {kind}, which does not hold {numbers[name]:g}"
        (written,) = substitute(
            [pair.other], {i: Constant(numbers[i.name]) for i in instruction.immediates}
        )
        given = {leaf.name: kind for leaf, kind in zip(prospect.local.leaves, types, strict=True)}
        lengths = prospect.question.lengths
        found = replacement_error(prospect.local.root, written, lengths, given)
        if not found.stable:
            name, _, trouble = found.trouble.partition(" ")
            return f"unstable: {pair.names.get(name, name)} {trouble}"
        if prospect.cone.exposed:
            needed = ", ".join(map(self.called, prospect.cone.exposed))
            return f"{needed}, which it computes inside, is needed elsewhere too"
        return "its axes do not fit here: an axis that it computes with must be one of the model's"

    # -- with an operand more or less

    def by_operands(self, prospects: Sequence[Prospect], known: Known) -> Iterator[Miss]:
        for prospect in prospects:
            for fixed, words in self.fixed(prospect):
                for pattern in self.patterns:
                    fits = asked(prospect, pattern, known) and pattern.nodes > 2
                    if fits and self.is_one(fixed, pattern):
                        yield Miss(
                            pattern.instruction.name, (), None, words, len(prospect.cone.inner)
                        )
            for pattern, words in needing_more(tuple(self.choosing.library.values())):
                if asked(prospect, pattern, known) and self.is_one(prospect, pattern):
                    yield Miss(pattern.instruction.name, (), None, words, len(prospect.cone.inner))

    def fixed(self, prospect: Prospect) -> Iterator[tuple[Prospect, str]]:
        """A cone with a number for one of its leaves, or with one value for two of them."""
        leaves = prospect.cone.leaves
        if prospect.cone.groups or len(leaves) < 2:
            return
        for leaf in leaves:
            number = idle(leaf, prospect.cone.root)
            if number is not None and (made := self.without(prospect.cone, leaf, Constant(number))):
                yield made, f"{self.called(leaf)} would have to be {number:g}"
        for one, other in itertools.combinations(leaves, 2):
            alike = {*one.axes} == {*other.axes} and one.dtype == other.dtype
            if alike and (made := self.without(prospect.cone, other, one)):
                names = f"{self.called(one)} and {self.called(other)}"
                yield made, f"{names} would have to be one value"

    def without(self, cone: Cone, leaf: Node, instead: Node) -> Prospect | None:
        """A cone with something else for a leaf: a number, or another leaf."""
        given: dict[Node, Node] = {
            node: Input(f"leaf {n}", node.axes, node.dtype) for n, node in enumerate(cone.leaves)
        }
        left = tuple(made for node, made in given.items() if node is not leaf)
        given[leaf] = given.get(instead, instead)
        try:
            (root,) = substitute([cone.root], given)
        except LanguageError:
            return None  # a reduction over an axis that only the leaf has
        if {*root.axes} != {*cone.root.axes} or not {*left} <= {*walk([root])}:
            return None
        inner = tuple(node for node in leaves_first(root, left) if node not in left)
        features = reduce(or_, map(self.finder.feature, inner), 0)
        return self.prospect(Cone(root, left, inner, {}, (), features))

    def is_one(self, prospect: Prospect, pattern: Pattern) -> bool:
        """Whether a pattern computes a cone."""
        if len(pattern.operands) != len(prospect.types) or pattern.features != prospect.features:
            return False
        for binding in readings(prospect, pattern):
            try:
                other = over_axes(pattern, *binding.over(prospect.local.leaves))[0]
            except LanguageError:
                continue  # it cannot be said of these axes
            answer, _ = same(prospect.question, other, pattern.instruction.immediates)
            if answer is not None and prospect.question.matters:
                return True
        return False

    # -- with axes that do not fit

    def by_axes(self, prospects: Sequence[Prospect], known: Known) -> Iterator[Miss]:
        for prospect in prospects:
            for pattern in self.patterns:
                alike = (
                    asked(prospect, pattern, known)
                    and len(pattern.operands) == len(prospect.types)
                    and pattern.features == prospect.features
                    and pattern.nodes > 1
                    and abs(pattern.nodes - len(prospect.cone.inner)) <= 2
                    and telling(pattern.local.root) == telling(prospect.local.root)
                )
                if alike and (words := self.axes_apart(prospect, pattern)):
                    yield Miss(pattern.instruction.name, (), None, words, len(prospect.cone.inner))

    def axes_apart(self, prospect: Prospect, pattern: Pattern) -> str:
        """Which axis has no counterpart; "" if the axes can be bound."""
        if readings(prospect, pattern):
            return ""
        ours, theirs = prospect.local.roles, pattern.local.roles
        for axis, role in ours.items():
            if role.kind != Role.LOOP and not any(
                _stands_for(other, role) for other in theirs.values()
            ):
                what = self.role(role, [self.called(leaf) for leaf in prospect.cone.leaves])
                return (
                    f"axes do not fit: {prospect.local.axes[axis]!r} is {what}; none of its axes is"
                )
        for axis, role in theirs.items():
            if not any(_stands_for(role, other) for other in ours.values()):
                what = self.role(
                    role, [pattern.instruction.operands[n].name for n in pattern.operands]
                )
                return f"axes do not fit: its {pattern.local.axes[axis]!r} is {what}; none is here"
        counted, count = (sum(role.indexed for role in roles.values()) for roles in (theirs, ours))
        if counted != count:
            return f"axes do not fit: it computes with positions of {counted}, the model of {count}"
        return "axes do not fit: they are in other operands"

    def role(self, role: Role, leaves: Sequence[str]) -> str:
        """What an axis does, in words."""
        mine = [name for n, name in enumerate(leaves) if role.leaves >> n & 1]
        parts = [f"in {' and '.join(mine)}" if mine else "in no operand"]
        parts += ["reduced"] if role.ended else []
        parts += ["in the result"] if role.out else ["not in the result"]
        parts += ["computed with"] if role.indexed else []
        return ", ".join(parts)


def _stands_for(instruction: Role, cone: Role) -> bool:
    """Whether an instruction's axis may stand for one of a cone, in some order of the operands."""
    return (
        instruction.kind == cone.kind and instruction.leaves.bit_count() >= cone.leaves.bit_count()
    )


def asked(prospect: Prospect, pattern: Pattern, known: Known) -> bool:
    """Whether a pattern would compute more of the value than its instruction does already."""
    return len(prospect.cone.inner) > known.get(pattern.instruction.name, len(prospect.cone.inner))


def comparable(prospect: Prospect, pattern: Pattern) -> bool:
    """Whether a miss of a pattern would say anything: any two operations differ somehow."""
    nodes = len(prospect.cone.inner)
    single = max(nodes, pattern.nodes) == 1
    if single and operation(pattern.local.root) != operation(prospect.local.root):
        return False
    return 0 < pattern.nodes <= 3 * nodes + 3


def telling(root: Node) -> frozenset[str]:
    """The functions of a computation but for the algebra that may be written otherwise."""
    return functions_in(root) - {"sum", "add", "subtract", "multiply", "divide", "negate"}


def alike(prospect: Prospect, pattern: Pattern) -> bool:
    """Whether a cone and a pattern are of the same functions."""
    return (
        pattern.features == prospect.features
        and abs(pattern.nodes - len(prospect.cone.inner)) <= 2
        and operation(pattern.local.root) == operation(prospect.local.root)
        and telling(pattern.local.root) == telling(prospect.local.root)
    )


def readings(prospect: Prospect, pattern: Pattern) -> list[Binding]:
    """The ways to read a cone as a pattern, whatever the types; those that leave the fewest axes
    out first."""
    anything = [[True] * len(prospect.types)] * len(prospect.types)
    ours, theirs = prospect.local.roles, pattern.local.roles
    every = bindings(ours, prospect.local.root.axes, theirs, anything)
    found = sorted(
        itertools.islice(every, MOST_READ),
        key=lambda b: (sum(not a for a in b.axes.values()), len(b.loops)),
    )
    return found[:MOST_BINDINGS]


def _unlike(prospect: Prospect, pattern: Pattern) -> tuple[int, int]:
    """How unlike a cone and a pattern are at sight."""
    kinds = (prospect.features ^ pattern.features).bit_count()
    return kinds, abs(pattern.nodes - len(prospect.cone.inner))


def unlikeness(expected: Array, found: Array) -> float:
    """How far two results are from being one up to a factor, a constant that is added or a region:
    0 to 1 and more."""
    score = distance(expected, found)
    if expected.shape != found.shape:
        return score
    if expected.dtype.kind != "f" or found.dtype.kind != "f" or not expected.size:
        return score
    with np.errstate(all="ignore"):
        largest = float(np.max(np.abs(expected)))
        equal = (np.abs(expected - found) <= 1e-6 * largest) | (expected == found)
        score = min(score, 1.0 - float(np.mean(equal)))
        if not (np.isfinite(expected).all() and np.isfinite(found).all()) or not largest:
            return score
        power = float(np.sum(found * found))
        factor = float(np.sum(expected * found)) / power if power else 0.0
        shift = float(np.mean(expected - found))
    for fitted in (factor * found, found + shift):
        score = min(score, 0.02 + float(np.max(np.abs(expected - fitted))) / largest)
    return score


@lru_cache(maxsize=4)
def needing_more(library: tuple[Instruction, ...]) -> list[tuple[Pattern, str]]:
    """The instructions with numbers for one or two operands that are not neutral by themselves."""
    found: dict[tuple[str, Node], tuple[Pattern, str]] = {}
    usual = patterns(library)
    known = {(p.instruction.name, p.local.root) for p in usual}
    outputs = {p.instruction: p.output for p in usual}
    for instruction, output in outputs.items():
        root = instruction.outputs[output]
        numbers = {n: idle(operand, root) for n, operand in enumerate(instruction.operands)}
        able = {n: number for n, number in numbers.items() if number is not None}
        for count in range(1, min(2, len(instruction.operands) - 1) + 1):
            for some in itertools.combinations(able, count):
                try:
                    made = pattern_with(instruction, output, {n: able[n] for n in some}, {}, True)
                except LanguageError:
                    continue  # only this operand has an axis that is reduced
                if made is None or (instruction.name, made.local.root) in known or made.nodes < 3:
                    continue
                names = [f"{instruction.operands[n].name} ({able[n]:g} would do)" for n in some]
                more = "1 more operand" if count == 1 else f"{count} more operands"
                words = f"needs {more}: {' and '.join(names)}"
                found.setdefault((instruction.name, made.local.root), (made, words))
    return list(found.values())


def idle(leaf: Node, root: Node) -> float | None:
    """The number with which a leaf does next to nothing in all that reads it; None if there is no
    such number."""
    if leaf.dtype == "bool":
        return None
    users = [node for node in walk([root]) if leaf in node.children]
    numbers = {IDLE.get(node.function) if isinstance(node, Map) else None for node in users}
    return numbers.pop() if len(numbers) == 1 else None
