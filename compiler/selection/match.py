"""Where an instruction computes what a value of a graph is: found by what both compute.

Each cone of a root (`cones.py`) gets names of its own (`local.py`). Of the instructions with as
many operands and the same kinds of functions those are tried whose axes fit (`bind.py`), and the
oracle (`oracle/`) decides by values. Equal cones are asked about once.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Protocol, TypeAlias

from infinisa.isa.dtypes import is_float, promote
from infinisa.isa.errors import LanguageError
from infinisa.isa.instance import instance
from infinisa.isa.instruction import Instruction
from infinisa.isa.language import (
    Affine,
    Axis,
    Cast,
    Constant,
    Dot,
    Input,
    Map,
    Node,
    Scan,
    View,
    refine,
    substitute,
    union,
)

from ..equality.bind import Binding, Bound, Kinds, bindings, kinds, may_bind
from ..equality.canonical import Facts, view_of_view, view_without_effect
from ..equality.local import Local, Outline, Role
from ..equality.oracle import (
    NARROW,
    NEAR,
    Answer,
    Question,
    apart_if_alike,
    distance,
    immediates_in,
    same,
    with_literals,
)
from ..equality.pattern import (
    EXPONENTIAL,
    LOGARITHM,
    Degree,
    Pattern,
    feature,
    operations,
    patterns,
    told_apart,
)
from ..equality.surroundings import Surroundings
from ..equality.verdict import Verdict, Verdicts
from .cones import BOUNDARIES, Cone, Cones, casts_over, seen_through
from .recurrences import Family, Recurrences, same_steps
from .recurrences import Hit as RecurrenceHit
from .repeats import Repeats, Twins


@dataclass(frozen=True, eq=False)
class Match:
    """An instruction that computes values of a graph.

    roots       for each output the node it yields, or None where the graph has no such node
    leaves      for each operand the value it reads
    binding     the instruction's axes as axes of the graph
    loops       axes of the graph outside the instruction
    immediates  its numbers
    inner       the nodes it computes
    verdict     how sure it is, and how stable
    like        the match of an earlier layer that this one repeats
    """

    instruction: Instruction
    roots: tuple[Node | None, ...]
    leaves: tuple[Node, ...]
    binding: Mapping[Axis, tuple[Axis, ...]]
    loops: tuple[Axis, ...]
    immediates: Mapping[str, float | int]
    inner: frozenset[Node]
    verdict: Verdict | Verdicts
    like: Match | None = field(default=None, repr=False)

    @property
    def stable(self) -> bool:
        """Whether the device computes it as well as what it replaces."""
        return self.verdict.stable

    @property
    def stamp(self) -> str:
        """ "proved", or "tested(n)": equal at n points."""
        return self.verdict.stamp

    @property
    def error(self) -> float:
        """The largest relative error that it adds, in the operands' types."""
        return self.verdict.error

    @cached_property
    def meaning(self) -> Instruction:
        """The instance: over the graph's axes."""
        operands = zip(self.instruction.operands, self.leaves, strict=True)
        given = [Input(operand.name, leaf.axes, leaf.dtype) for operand, leaf in operands]
        return instance(self.instruction, self.binding, given, self.immediates)

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
    """Finds the instructions that compute a node over the reals; some may not be stable."""

    def __call__(self, root: Node) -> Iterable[Match]: ...


@dataclass(frozen=True)
class Hit:
    """A pattern that computes a cone, in local names; `others` are its further results."""

    pattern: Pattern
    binding: Binding
    immediates: Mapping[str, float]
    others: Mapping[int, Node]
    verdict: Verdict


Reading: TypeAlias = tuple[Pattern, Binding, tuple[Node, ...]]
"""A pattern, what is bound to it, and what it then computes, its main result first."""


def _composite(pattern: Pattern) -> bool:
    return pattern.nodes > 1


class Knowledge:
    """What a library of instructions looks for, and what is known of computations under local
    names: it holds for every graph."""

    def __init__(self, library: tuple[Instruction, ...]) -> None:
        self.by_shape: dict[tuple[int, int], list[Pattern]] = {}
        found = patterns(library)
        for pattern in found:
            for shape in pattern.shapes:
                self.by_shape.setdefault(shape, []).append(pattern)
        self.widest = max((len(pattern.operands) for pattern in found), default=0)
        self.results = max((1, *(len(pattern.others) for pattern in found)))
        self.views = any(isinstance(pattern.local.root, View) for pattern in found)
        self.conditional = {
            pattern.features
            for pattern in found
            if any(leaf.type == "bool" for leaf in pattern.local.leaves)
        }
        self.hits: dict[object, list[Hit]] = {}
        self.recurrences: dict[object, list[RecurrenceHit]] = {}
        self.near: dict[tuple[Node, str], float] = {}
        self.rooms: dict[int, int] = {}
        self.fitting: dict[tuple[tuple[int, int], Kinds], list[Pattern]] = {}

    def room(self, features: int) -> int:
        """How many leaves a cone with such features may have on the way to some instruction that
        has all of them; 0 if there is none."""
        if features not in self.rooms:
            rest = features & ~LOGARITHM
            undone = EXPONENTIAL | LOGARITHM if features != rest else -1
            self.rooms[features] = max(
                (
                    pattern.width
                    for (_, each), some in self.by_shape.items()
                    if rest & ~each == 0 and (undone < 0 or each & undone)
                    for pattern in some
                ),
                default=0,
            )
        return self.rooms[features]

    def truths(self, features: int) -> bool:
        """Whether some instruction that has all of these features reads truth values."""
        return any(features & ~each == 0 for each in self.conditional)

    def likely(self, shape: tuple[int, int], axes: Kinds) -> list[Pattern]:
        """The patterns of a shape that such axes may fit."""
        key = shape, axes
        if key not in self.fitting:
            known = self.by_shape.get(shape, ())
            self.fitting[key] = [p for p in known if may_bind(axes, p.kinds)]
        return self.fitting[key]

    def wanted(self, leaves: int, features: int) -> bool:
        """Whether some instruction has so many operands and these features."""
        return (leaves, told_apart(features)) in self.by_shape


@lru_cache(maxsize=8)
def knowledge(library: tuple[Instruction, ...]) -> Knowledge:
    return Knowledge(library)


class Meaning:
    """The finder that compares what instructions and cones compute."""

    def __init__(self, library: Iterable[Instruction], around: Surroundings) -> None:
        self.around, self.knowledge = around, knowledge(tuple(library))
        known = self.knowledge
        self.cones = Cones(
            around, known.widest, known.results, self.feature, known.room, known.truths
        )
        self.repeats = Repeats(around, self.cones.sums)
        self.recurrences = Recurrences(library, around, known.recurrences)
        self.found: dict[Node, list[Match]] = {}
        self.places: dict[Node, Node] = {}  # where each computation under local names was met

    def __call__(self, root: Node) -> list[Match]:
        if root not in self.found and isinstance(root, Scan):
            matches = [*self.whole(root)]
            twins = (node for node in self.around.users if same_steps(node, root))
            self.found.update(dict.fromkeys(twins, matches))
        if root not in self.found:
            again = self.again(root)
            self.found[root] = list(self.search(root)) if again is None else again
        return self.found[root]

    def feature(self, node: Node) -> int:
        """The features of a node of the graph: a renaming has none."""
        return 0 if self.around.renames(node) else feature(node)

    def again(self, root: Node) -> list[Match] | None:
        """What was found for a value that is computed alike."""
        earlier = self.repeats.earlier(root)
        if earlier is None:
            return None
        first, twins = earlier
        sums = self.cones.sums
        leaves = {leaf for match in self.found[first] for leaf in match.leaves}
        if not all(map(twins.covers, leaves)):
            return None
        for leaf in leaves & {*sums}:
            part, whole = twins.node(leaf), sums[leaf]
            if part not in sums:
                if whole not in twins.nodes:
                    return None  # it is a part of another value's sum too, and that is known
                sums[part] = twins.nodes[whole]
        return [moved(match, twins) for match in self.found[first]]

    def search(self, root: Node) -> Iterator[Match]:
        if isinstance(root, BOUNDARIES) or seen_through(root) is not root:
            return
        if isinstance(root, View) and not self.knowledge.views:
            return
        seen = set()
        cones = (
            (cone, dict[Node, Node]()) for cone in self.cones.under(root, self.knowledge.wanted)
        )
        for cone, known in itertools.chain(cones, self.by_itself(root)):
            for match in self.matches(cone):
                leaves = tuple(known.get(leaf, leaf) for leaf in match.leaves)
                key = (match.instruction, leaves, *match.immediates.values())
                if key not in seen:
                    seen.add(key)
                    yield replace(match, leaves=leaves) if known else match
        self.repeats.keep(root, self.cones.seen[root])

    def by_itself(self, root: Node) -> Iterator[tuple[Cone, dict[Node, Node]]]:
        """A single operation that reads a number as an operand, or one value as two, with what
        each leaf of the cone is."""
        children = root.children
        numbers = [child for child in children if isinstance(child, Constant)]
        if len(numbers) == len(children) or not isinstance(root, Map | Dot):
            return
        if numbers or len(set(children)) < len(children):
            given: dict[Node, Node] = {
                Input(f"argument {n}", child.axes, child.dtype): child
                for n, child in enumerate(children)
            }
            written = root.rebuild(tuple(given))
            yield Cone(root, tuple(given), (root,), {root: written}, (), feature(root)), given

    def whole(self, scan: Scan) -> Iterator[Match]:
        """What computes all results of a recurrence that the graph needs, in one call."""
        if self.recurrences.patterns:
            family, hits = self.recurrences(scan)
            for hit in hits:
                match = recurrence(hit, family)
                if match is not None:
                    yield match

    def matches(self, cone: Cone) -> Iterator[Match]:
        outline = Outline(cone.root, cone.leaves, cone.inner, cone.groups, self.around.occurrences)
        if not outline.sound:
            return
        shape = len(cone.leaves), told_apart(cone.features)
        likely = self.knowledge.likely(shape, kinds(outline.roles))
        if not likely:
            return
        local = outline.local()
        self.places.setdefault(local.root, cone.root)
        exposed = tuple(local.nodes[node] for node in cone.exposed)
        types = tuple(leaf.dtype for leaf in cone.leaves)
        lengths = tuple(
            (self.around.sizes[outer], self.around.fixed(outer))
            for axis, outer in local.axes.items()
            if local.roles[axis].kind != Role.LOOP
        )
        narrow = (self.rounded(cone) | {*types}).intersection(NARROW)
        key = local.root, local.leaves, lengths, types, narrow, exposed
        if key not in self.knowledge.hits:
            question = self.question(local, narrow)
            self.knowledge.hits[key] = list(self.hits(question, types, likely, exposed))
        for hit in self.knowledge.hits[key]:
            match = self.match(hit, cone, local)
            if match is not None:
                yield match

    def question(self, local: Local, narrow: frozenset[str]) -> Question:
        sizes = {axis: self.around.sizes[outer] for axis, outer in local.axes.items()}
        run_time = [axis for axis, outer in local.axes.items() if not self.around.fixed(outer)]
        return Question(local, sizes, frozenset(run_time), narrow)

    # -- one cone, in local names

    def hits(
        self,
        question: Question,
        types: tuple[str, ...],
        likely: Iterable[Pattern],
        exposed: tuple[Node, ...],
    ) -> Iterator[Hit]:
        single, found = operations([question.local.root]) == 1, False
        counts = Counter((leaf.axes, leaf.type) for leaf in question.local.leaves).values()
        alike = math.prod(map(math.factorial, counts)) > 2
        ordered = sorted(likely, key=_composite)
        for composite, group in itertools.groupby(ordered, key=_composite):
            if found and single and composite:
                return  # one operation, and an instruction that is just it
            done: set[object] = set()
            apart: dict[object, bool] = {}
            for pattern, binding, written in self.readings(question, types, group):
                axes, given = binding.over(question.local.leaves)
                order = pattern, axes, tuple((leaf.axes, leaf.type) for leaf in given)
                if alike and pattern.instruction.immediates and order not in apart:
                    apart[order] = self.apart(question, pattern, written[0])
                if (pattern, axes) in done or apart.get(order):
                    continue
                hit = self.hit(question, types, pattern, binding, written, exposed)
                if hit is not None:
                    done.add((pattern, axes))
                    found = True
                    yield hit

    def readings(
        self, question: Question, types: tuple[str, ...], patterns: Iterable[Pattern]
    ) -> list[Reading]:
        """The ways to read a cone as some patterns that one point does not rule out: by the value,
        or, where numbers are to be solved, by how it depends on each input."""
        local = question.local
        bound: list[tuple[Pattern, Binding]] = []
        for pattern in patterns:
            if not differ(local.root, pattern.local.root):
                takes = [[pattern.accepts(n, kind) for kind in types] for n in pattern.operands]
                ways = bindings(local.roles, local.root.axes, pattern.local.roles, takes)
                bound += [(pattern, binding) for binding in ways]
        quick = question.quick
        if not bound or not quick.defined:
            return []
        found: list[Reading] = []
        for pattern, binding in bound:
            axes, given = binding.over(local.leaves)
            if pattern.instruction.immediates and any(
                degree < Degree.OTHER and quick.degree(leaf.name) > degree
                for leaf, degree in zip(given, pattern.degrees, strict=True)
            ):
                continue
            with contextlib.suppress(LanguageError):  # it cannot be said of these axes
                found.append((pattern, binding, over_axes(pattern, axes, given)))
        roots = (root for _, _, (root, *_) in found if not immediates_in(root))
        plain = [root for root in roots if quick is question or question.first(root, 2) is quick]
        far = quick.far(plain) if len(plain) > 1 else set[Node]()
        return [reading for reading in found if reading[2][0] not in far]

    def apart(self, question: Question, pattern: Pattern, root: Node) -> bool:
        """Whether a pattern is not the cone, in whatever order inputs over the same axes are
        read."""
        distance = apart_if_alike(question, root, pattern.instruction.immediates)
        self.nearly(question, pattern, distance)
        return distance > 0

    def nearly(self, question: Question, pattern: Pattern, distance: float) -> None:
        """Remember a near miss."""
        if 0 < distance < NEAR:
            key = question.local.root, pattern.instruction.name
            self.knowledge.near[key] = min(distance, self.knowledge.near.get(key, NEAR))

    def hit(
        self,
        question: Question,
        types: Sequence[str],
        pattern: Pattern,
        binding: Binding,
        written: tuple[Node, ...],
        exposed: tuple[Node, ...],
    ) -> Hit | None:
        """Whether a pattern computes the cone, read and written this way."""
        root = written[0]
        answer, apart = same(question, root, pattern.instruction.immediates)
        if answer is None:
            self.nearly(question, pattern, apart)
            return None
        if pattern.instruction.held(answer.immediates) is None:
            self.knowledge.near[question.local.root, pattern.instruction.name] = 0.0
            return None  # its encoding does not hold such a number
        idle = binding.lacking or 0 in answer.immediates.values()
        if idle and not question.matters:
            return None  # it may do without an operand
        others = dict(zip(pattern.others, written[1:], strict=True))
        yielded = self.yielded(question, others, exposed, answer.immediates)
        again = set(exposed) - set(yielded.values())
        if len(again) > 1 or any(isinstance(node, Dot | Scan) for node in again):
            return None
        verdict = self.verdict(question, types, root, answer)
        return Hit(pattern, binding, answer.immediates, yielded, verdict)

    def verdict(
        self, question: Question, types: Sequence[str], root: Node, answer: Answer
    ) -> Verdict:
        """What is to be judged: numbers rounded to a narrow type are taken for what they were."""
        asked = with_literals(question, root) if question.narrow else question
        local, sample, lengths = asked.local, asked.local.root, question.few
        numbers: dict[Node, Node] = {
            n: Constant(answer.immediates[n.name])
            for n in immediates_in(root)
            if n.name in answer.immediates
        }
        (other,) = substitute([root], numbers) if numbers else (root,)
        given = {leaf.name: kind for leaf, kind in zip(local.leaves, types, strict=True)}
        sizes = {a: n for a, n in question.sizes.items() if a not in question.run_time}
        if asked.sample is not None and asked.sample.tells(other):
            short = asked.sample.question
            sample, lengths = short.local.root, short.few
        return Verdict(local.root, other, sample, lengths, sizes, given, answer.points)

    def yielded(
        self,
        question: Question,
        others: Mapping[int, Node],
        exposed: tuple[Node, ...],
        immediates: Mapping[str, float],
    ) -> dict[int, Node]:
        """Which further result is which exposed value. Another exposed value is computed again
        where it is needed; a contraction is not."""
        found: dict[int, Node] = {}
        for node in exposed:
            part = Question(
                Local(node, question.local.leaves, question.local.axes, question.local.roles, {}),
                question.sizes,
            )
            for number, other in others.items():
                if number not in found and set(other.axes) == set(node.axes):
                    probes = list(question.probes(False))[:3]
                    part.lengths.update(question.lengths)
                    points = [question.value(probe)[0] for probe in probes]
                    if all(
                        distance(part.evaluated(p), part.asked(other, p, [immediates])[0]) == 0
                        for p in points
                    ):
                        found[number] = node
                        break
        return found

    # -- in the graph

    def match(self, hit: Hit, cone: Cone, local: Local) -> Match | None:
        """A hit in terms of the graph; None if its axes or types do not fit there."""
        pattern, instruction = hit.pattern, hit.pattern.instruction
        if pattern.rounded and not pattern.rounded <= self.rounded(cone):
            return None
        axes: dict[Axis, tuple[Axis, ...]] = {}
        for ours, theirs in hit.binding.axes.items():
            found = tuple(local.axes[axis] for axis in theirs)
            name = pattern.local.axes[ours]
            if axes.setdefault(name, found) != found or len(set(found)) < len(found):
                return None
        for axis in instruction.axes:
            axes.setdefault(axis, ())
        loops = tuple(local.axes[axis] for axis in hit.binding.loops)
        if set(loops) & set(union(axes.values())):
            return None
        if any(len(axes[axis]) != 1 for axis in instruction.indexed if axis in axes):
            return None
        leaves: list[Node] = [Constant(0.0)] * len(instruction.operands)
        for number, n in zip(pattern.operands, hit.binding.leaves, strict=True):
            names = tuple(local.axes[axis] for axis in local.leaves[n].axes)
            if len(set(names)) < len(names):
                return None
            leaves[number] = renamed(cone.leaves[n], names)
        for number, value in pattern.neutral.items():
            leaves[number] = Constant(value)
        for number, first in pattern.again.items():
            leaves[number] = leaves[first]
        defaults = {i.name: i.default for i in instruction.immediates}
        numbers = instruction.held(defaults | dict(hit.immediates))
        assert numbers is not None
        here = {made: node for node, made in local.nodes.items() if node in cone.exposed}
        roots = [
            cone.root if n == pattern.output else here.get(hit.others.get(n, Constant(0)))
            for n in range(len(instruction.outputs))
        ]
        match = Match(
            instruction, tuple(roots), tuple(leaves), axes, loops, numbers,
            frozenset(cone.inner), hit.verdict,
        )  # fmt: skip
        try:
            output = match.meaning.outputs[pattern.output]
        except LanguageError:
            return None  # it cannot be said of these axes
        match = over_its_axes(match)
        fits = set(output.axes) == set(cone.root.axes) and same_type(output, cone.root)
        return match if fits else None

    def rounded(self, cone: Cone) -> frozenset[str]:
        """The float types that values of a cone are cast to, or all users of its root cast to."""
        users = self.around.users.get(cone.root, ())
        behind = {user.type if isinstance(user, Cast) else "" for user in users}
        inside = {
            each.type
            for node in cone.inner
            for child in node.children
            for each in casts_over(child)
        }
        return frozenset(inside | (behind if len(behind) == 1 else set()))


def recurrence(hit: RecurrenceHit, family: Family) -> Match | None:
    """A hit in terms of the graph; None if its axes, types or numbers do not fit there."""
    instruction, reading = hit.instruction, hit.reading
    numbers = instruction.held({i.name: i.default for i in instruction.immediates} | hit.immediates)
    if numbers is None:
        return None  # its encoding does not hold such a number
    leaves = tuple(
        given if n < 0 else renamed(family.leaves[n], given.axes)
        for n, given in zip(reading.leaves, reading.given, strict=True)
    )
    yields = dict(zip(reading.outputs, family.twins, strict=True))
    roots = tuple(yields.get(n) for n in range(len(instruction.outputs)))
    match = Match(
        instruction, roots, leaves, reading.binding, reading.loops, numbers,
        family.inner, hit.verdict,
    )  # fmt: skip
    try:
        pairs = [(r, o) for r, o in zip(roots, match.meaning.outputs, strict=True) if r is not None]
    except LanguageError:
        return None  # it cannot be said of these axes
    fits = all({*r.axes} == {*o.axes} and same_type(o, r) for r, o in pairs)
    return match if fits else None


def over_its_axes(match: Match) -> Match:
    """Without results that the graph has under other names for their axes: they are computed
    again."""
    pairs = list(zip(match.roots, match.meaning.outputs, strict=True))
    kept = tuple(r if r is not None and {*r.axes} == {*o.axes} else None for r, o in pairs)
    return match if kept == match.roots else replace(match, roots=kept)


def moved(match: Match, twins: Twins) -> Match:
    """A match for the value that repeats the one it was found for."""

    def axes(some: Iterable[Axis]) -> tuple[Axis, ...]:
        return tuple(twins.axes[axis] for axis in some)

    return Match(
        match.instruction,
        tuple(None if root is None else twins.node(root) for root in match.roots),
        tuple(twins.node(leaf) for leaf in match.leaves),
        {ours: axes(theirs) for ours, theirs in match.binding.items()},
        axes(match.loops),
        match.immediates,
        frozenset(twins.node(node) for node in match.inner),
        match.verdict,
        match.like or match,
    )


def renamed(node: Node, names: tuple[Axis, ...]) -> Node:
    """A value with other names for its axes, in their order."""
    pairs = [(old, new) for old, new in zip(node.axes, names, strict=True) if old != new]
    if not pairs:
        return node
    view: Node = View(node, tuple((old, Affine(((new, 1),))) for old, new in pairs))
    for rule in (view_of_view, view_without_effect):
        made = rule(view, Facts())
        view = view if made is None else made
    return view


@lru_cache(maxsize=1 << 12)
def over_axes(pattern: Pattern, axes: Bound, given: tuple[Input, ...]) -> tuple[Node, ...]:
    """What a pattern computes, its main result first, of given inputs, over the axes that its own
    stand for."""
    results = (pattern.local.root, *pattern.others.values())
    return refine(results, dict(axes), dict(zip(pattern.local.leaves, given, strict=True)))


MIRRORED = {"greater": "less", "greater_equal": "less_equal"}
"""The same but for the order of their operands."""


def differ(one: Node, other: Node) -> bool:
    """Whether two computations are each a single scalar function of their inputs, not the same."""
    if not (isinstance(one, Map) and isinstance(other, Map)):
        return False
    for node in (one, other):
        given = set(node.arguments)
        if len(given) < len(node.arguments) or not all(isinstance(x, Input) for x in given):
            return False
    names = (MIRRORED.get(node.function, node.function) for node in (one, other))
    return next(names) != next(names)


def same_type(output: Node, root: Node) -> bool:
    if is_float(output.dtype) and is_float(root.dtype):
        return True
    return output.dtype in (root.dtype, promote([root.dtype]))
