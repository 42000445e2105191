"""Where an instruction that is a whole recurrence computes one of a model.

All results of a recurrence that a graph needs are one demand (`Family`). Its leaves are what it
starts with, what it takes slices of, and what is the same in every step. An instruction of a
recurrence is tried with its operands read from these in every way that axes and types allow; the
oracle decides, as for cones, by the values of all results.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias, TypeGuard

from infinisa.isa.errors import LanguageError
from infinisa.isa.instruction import Instruction
from infinisa.isa.language import (
    Axis,
    Constant,
    Dot,
    Gather,
    Immediate,
    Input,
    Node,
    Position,
    Recurrence,
    Reduce,
    Scan,
    Stack,
    View,
    everything,
    refine,
    rename,
    show,
    substitute,
    union,
    walk,
    with_numbers,
)
from infinisa.isa.program import Count

from ..equality.canonical import is_number
from ..equality.local import Local, Role
from ..equality.oracle import MOST_POSITIONS, NARROW, Question, same
from ..equality.pattern import features_of, takes, told_apart
from ..equality.precision import in_double
from ..equality.surroundings import Surroundings
from ..equality.verdict import Verdict, Verdicts

MOST_TRIED = 512
"""How many ways to read a recurrence as one instruction are compared by values."""

LEAST_STEPS = 4
"""Steps from which on each state has met itself and the others."""

Binding: TypeAlias = Mapping[Axis, tuple[Axis, ...]]


def is_recurrence(instruction: Instruction) -> bool:
    """Whether an instruction goes step by step, all of its results together."""
    if instruction.opaque or instruction.states or not instruction.outputs:
        return False
    return any(isinstance(node, Scan) for node in walk(instruction.outputs))


def invariants(body: Recurrence) -> list[Node]:
    """The largest values in a scan's body that are the same in every step."""
    changing: set[Node] = {*body.states, *body.slices}
    roots = (*body.next, *body.emits)
    for node in walk(roots):
        if any(child in changing for child in node.children) or body.axis in node.axes:
            changing.add(node)
    found: dict[Node, None] = {}
    for node in walk(roots):
        children = node.children if node in changing else ()
        found.update(dict.fromkeys(c for c in children if c not in changing))
    found.update(dict.fromkeys(root for root in roots if root not in changing))
    return list(found)


def same_steps(node: Node, scan: Scan) -> TypeGuard[Scan]:
    """Whether a node is a result of the same recurrence."""
    return isinstance(node, Scan) and (node.body, node.initial, node.xs) == (
        scan.body,
        scan.initial,
        scan.xs,
    )


def alone(scan: Scan) -> Scan:
    """One result of a recurrence with the states and slices that it depends on, under names of
    their own, the slices in the order of what they are of."""
    body, count = scan.body, len(scan.body.states)
    wanted = {scan.output} if scan.output < count else set[int]()
    emits = () if wanted else (body.emits[scan.output - count],)
    while True:
        used = {*walk((*emits, *(body.next[n] for n in wanted)))}
        more = wanted | {n for n, leaf in enumerate(body.states) if leaf in used}
        if more == wanted:
            break
        wanted = more
    states = sorted(wanted)
    slices = [n for n, leaf in enumerate(body.slices) if leaf in used]
    slices.sort(key=lambda n: show(scan.xs[n]))
    named = {body.states[n]: f"state{k}" for k, n in enumerate(states)}
    named |= {body.slices[n]: f"slice{k}" for k, n in enumerate(slices)}
    own = {leaf: Input(f"%{name}", leaf.axes, leaf.dtype) for leaf, name in named.items()}
    known: dict[Node, Node] = dict(own.items())
    results = substitute((*(body.next[n] for n in states), *emits), known)
    made = Recurrence(
        body.axis,
        tuple(own[body.states[n]] for n in states),
        tuple(own[body.slices[n]] for n in slices),
        results[: len(states)],
        results[len(states) :],
        body.reverse,
    )
    output = len(states) if emits else states.index(scan.output)
    initial = tuple(scan.initial[n] for n in states)
    return Scan(made, initial, tuple(scan.xs[n] for n in slices), output)


def each_alone(roots: Iterable[Node]) -> tuple[Node, ...]:
    """Values in which every recurrence has only what its result depends on."""
    made: dict[Node, Node] = {}
    roots = tuple(roots)
    for node in walk(roots):
        found = node.rebuild([made[child] for child in node.children]) if node.children else node
        made[node] = alone(found) if isinstance(found, Scan) else found
    return tuple(made[root] for root in roots)


@dataclass(frozen=True)
class Family:
    """A recurrence of a graph, by what it needs.

    twins    its results that somebody wants
    leaves   what it is computed from, without numbers
    numbers  those that states start as
    roots    each result of inputs `given` in place of the leaves
    """

    twins: tuple[Scan, ...]
    leaves: tuple[Node, ...]
    numbers: tuple[Node, ...]
    given: tuple[Input, ...]
    roots: tuple[Node, ...]

    @staticmethod
    def of(twins: Sequence[Scan]) -> Family:
        scan = twins[0]
        outer = [x for x in invariants(scan.body) if not is_number(x)]
        starts = [x for x in scan.initial if not is_number(x)]
        leaves = tuple(dict.fromkeys([*starts, *scan.xs, *outer]))
        numbers = tuple(dict.fromkeys(x for x in scan.initial if isinstance(x, Constant)))
        given = tuple(Input(f"x{n}", leaf.axes, leaf.dtype) for n, leaf in enumerate(leaves))
        known: dict[Node, Node] = dict(zip(leaves, given, strict=True))
        own = {*scan.body.states, *scan.body.slices}  # which may be called as a leaf is
        inside = {leaf: new for leaf, new in known.items() if leaf not in own}
        results = substitute((*scan.body.next, *scan.body.emits), inside)
        cut = len(scan.body.next)
        body = Recurrence(
            scan.body.axis, scan.body.states, scan.body.slices, results[:cut], results[cut:],
            scan.body.reverse,
        )  # fmt: skip
        initial = tuple(known.get(x, x) for x in scan.initial)
        xs = tuple(known[x] for x in scan.xs)
        roots = each_alone(Scan(body, initial, xs, twin.output) for twin in twins)
        return Family(tuple(twins), leaves, numbers, given, roots)

    @property
    def axis(self) -> Axis:
        return self.twins[0].body.axis

    @cached_property
    def inner(self) -> frozenset[Node]:
        """The nodes that it computes, those of a step included."""
        body = self.twins[0].body
        known = {*self.leaves, *body.states, *body.slices}
        inside = walk((*body.next, *body.emits), known)
        return frozenset([*self.twins, *(node for node in inside if not is_number(node))])

    @cached_property
    def axes(self) -> tuple[Axis, ...]:
        """Every axis that occurs in it."""
        return union(node.axes for node in everything((*self.given, *self.roots)))

    @cached_property
    def out(self) -> tuple[Axis, ...]:
        """The axes of its results but for the steps'."""
        return tuple(a for a in union(root.axes for root in self.roots) if a != self.axis)


@dataclass(frozen=True)
class Reading:
    """A way to read a family as an instruction.

    outputs  for each twin the number of the output that it is
    binding  the instruction's axes as those of the family
    loops    axes of the family outside of it
    given    for each operand an input of the family, its axes named as the binding has them, or a
             number
    leaves   for each operand the number of the leaf, or -1 for a number
    """

    outputs: tuple[int, ...]
    binding: Binding
    loops: tuple[Axis, ...]
    given: tuple[Node, ...]
    leaves: tuple[int, ...]


@dataclass(frozen=True)
class Hit:
    """An instruction that computes a family, read in some way, with these numbers."""

    instruction: Instruction
    reading: Reading
    immediates: dict[str, float]
    verdict: Verdicts


class Recurrences:
    """The instructions that compute recurrences of a graph."""

    def __init__(
        self, library: Iterable[Instruction], around: Surroundings, known: dict[object, list[Hit]]
    ) -> None:
        """`known`: what was found for equal families, whatever graph they are of."""
        self.patterns = [each for each in library if is_recurrence(each)]
        self.around, self.known = around, known

    def __call__(self, scan: Scan) -> tuple[Family, list[Hit]]:
        """All results of a recurrence that the graph needs, and what computes them."""
        family = Family.of([twin for twin in self.around.users if same_steps(twin, scan)])
        extents = tuple(self.around.positions(axis) for axis in family.axes)
        key = family.roots, family.given, family.numbers, family.axes, extents
        if key not in self.known:
            asked = Asked(family, self.around, [each.outputs for each in self.patterns])
            found = (asked.hit(instruction) for instruction in self.patterns)
            self.known[key] = [hit for hit in found if hit is not None]
        return family, self.known[key]


@dataclass
class Asked:
    """What a family computes, held against instructions.

    others  what these yield: so many steps are compared that all of it may show
    """

    family: Family
    around: Surroundings
    others: Sequence[Sequence[Node]]
    questions: list[Question] = field(init=False)

    def __post_init__(self) -> None:
        family = self.family
        doubles = in_double((*family.given, *family.roots))
        self.inputs = doubles[: len(family.given)]
        leaves = tuple(leaf for leaf in self.inputs if isinstance(leaf, Input))
        sizes = {axis: self.around.sizes[axis] for axis in family.axes}
        run_time = frozenset(axis for axis in family.axes if not self.around.fixed(axis))
        narrow = frozenset(leaf.dtype for leaf in family.given) & {*NARROW}
        steps = max(steps_of(outputs) for outputs in (family.roots, *self.others))
        least = {family.axis: min(steps, max(sizes[family.axis], LEAST_STEPS))}
        self.questions = []
        for root in doubles[len(family.given) :]:
            roles = roles_of(root, leaves, family.axes)
            local = Local(root, leaves, {a: a for a in family.axes}, roles, {})
            self.questions.append(Question(local, sizes, run_time, narrow, least))

    def hit(self, instruction: Instruction) -> Hit | None:
        """The first way in which an instruction computes the family."""
        for reading in itertools.islice(self.readings(instruction), MOST_TRIED):
            with contextlib.suppress(LanguageError):  # it cannot be said of these axes
                if (hit := self.compared(instruction, reading)) is not None:
                    return hit
        return None

    def compared(self, instruction: Instruction, reading: Reading) -> Hit | None:
        """Whether an instruction computes every result, read this way, with the same numbers."""
        written = over(instruction, reading)
        known: dict[Node, Node] = {}
        numbers: dict[str, float] = {}
        points = 0
        doubles = in_double(written)
        for question, other in zip(self.questions, doubles, strict=True):
            (other,) = with_numbers([other], known)
            answer, _ = same(question, other, instruction.immediates)
            if answer is None:
                return None
            numbers |= answer.immediates
            known |= {
                leaf: Constant(answer.immediates[leaf.name])
                for leaf in instruction.immediates
                if leaf.name in answer.immediates
            }
            points += answer.points
        verdicts = tuple(
            Verdict(root, other, root, question.few, self.sizes, self.types, points)
            for root, other, question in zip(
                self.family.roots, with_numbers(written, known), self.questions, strict=True
            )
        )
        return Hit(instruction, reading, numbers, Verdicts(verdicts))

    @cached_property
    def moving(self) -> bool:
        """Whether the steps do not start at position 0: a count of them is no position."""
        return self.around.extents[self.family.axis].start != Count()

    @cached_property
    def counted(self) -> bool:
        """Whether a step depends on its position."""
        return Position(self.family.axis) in everything(self.family.roots)

    @property
    def sizes(self) -> dict[Axis, int]:
        """The lengths that are known numbers."""
        return {a: self.around.sizes[a] for a in self.family.axes if self.around.fixed(a)}

    @property
    def types(self) -> dict[str, str]:
        return {leaf.name: leaf.dtype for leaf in self.family.given}

    # -- ways to read it

    def readings(self, instruction: Instruction) -> Iterator[Reading]:
        family, count = self.family, len(instruction.outputs)
        mine = told_apart(features_of(everything(family.roots)))
        for outputs in itertools.permutations(range(count), len(family.twins)):
            chosen = each_alone(instruction.outputs[n] for n in outputs)
            nodes = [*everything(chosen)]
            (axis, *more) = dict.fromkeys(n.body.axis for n in nodes if isinstance(n, Scan)) or (
                "",
            )
            same_axes = [axis in c.axes for c in chosen] == [
                family.axis in root.axes for root in family.roots
            ]
            if more or not axis or not same_axes or told_apart(features_of(nodes)) != mine:
                continue
            every = union(node.axes for node in (*instruction.operands, *nodes))
            for binding, loops in self.bindings(instruction, every, chosen, axis):
                for given, leaves in self.operands(instruction, binding, loops):
                    yield Reading(outputs, binding, loops, given, leaves)

    def bindings(
        self, instruction: Instruction, every: Sequence[Axis], chosen: Sequence[Node], axis: Axis
    ) -> Iterator[tuple[Binding, tuple[Axis, ...]]]:
        """The ways to bind the instruction's axes: those of results to those of results, or they
        are loops outside; the others each to one that is in no result."""
        family = self.family
        ours = [a for a in union(root.axes for root in chosen) if a != axis]
        inner = [a for a in every if a != axis and a not in ours]
        theirs = [a for a in family.axes if a != family.axis and a not in family.out]
        single = instruction.indexed
        for places in itertools.product((*ours, ""), repeat=len(family.out)):
            bound: dict[Axis, tuple[Axis, ...]] = {axis: (family.axis,)}
            for ours_, name in zip(places, family.out, strict=True):
                bound[ours_] = (*bound.get(ours_, ()), name)
            loops = bound.pop("", ())
            if any(len(bound.get(a, ())) != 1 for a in ours if a in single):
                continue
            bound.update((a, ()) for a in ours if a not in bound)
            for chosen_ in itertools.permutations(theirs, len(inner)):
                yield bound | {a: (b,) for a, b in zip(inner, chosen_, strict=True)}, loops

    def operands(
        self, instruction: Instruction, binding: Binding, loops: tuple[Axis, ...]
    ) -> Iterator[tuple[tuple[Node, ...], tuple[int, ...]]]:
        """The ways to read each operand from a leaf, or from a number that a state starts as. Every
        leaf is read."""
        family = self.family
        ways: list[list[tuple[int, Node]]] = []
        for operand in instruction.operands:
            wanted = union(binding[axis] for axis in operand.axes)
            mine: list[tuple[int, Node]] = []
            for n, leaf in enumerate(family.given):
                steps = (family.axis in wanted) == (family.axis in leaf.axes)
                if steps and takes(operand.type, leaf.dtype):
                    mine += [
                        (n, rename(leaf, dict(zip(leaf.axes, names, strict=True))))
                        for names in self.names(leaf, (*wanted, *loops))
                    ]
            if family.axis not in wanted:
                mine += [(-1, number) for number in family.numbers]
            ways.append(sorted(mine, key=lambda way: len(set(wanted) - set(way[1].axes))))
        needed = set(range(len(family.given)))
        for chosen in assigned(ways, needed):
            yield tuple(given for _, given in chosen), tuple(n for n, _ in chosen)

    def names(self, leaf: Input, wanted: Sequence[Axis]) -> Iterator[tuple[Axis, ...]]:
        """The ways to name a leaf's axes as an operand's: as they are first."""
        choices = [
            sorted(
                (a for a in wanted if a == axis or self.around.alike(a, axis)),
                key=lambda a, axis=axis: a != axis,  # type: ignore[misc]  # mypy: the default
            )
            for axis in leaf.axes
        ]
        for names in itertools.product(*choices):
            if len({*names}) == len(names):
                yield names


def assigned(
    ways: Sequence[Sequence[tuple[int, Node]]], needed: set[int]
) -> Iterator[list[tuple[int, Node]]]:
    """A way for each operand so that every leaf is read."""
    if len(needed) > len(ways):
        return
    if not ways:
        yield []
        return
    for way in ways[0]:
        for rest in assigned(ways[1:], needed - {way[0]}):
            yield [way, *rest]


def over(instruction: Instruction, reading: Reading) -> tuple[Node, ...]:
    """The outputs that a family's results are, of the inputs that the operands read."""
    chosen = each_alone(instruction.outputs[n] for n in reading.outputs)
    known: dict[Node, Node] = dict(zip(instruction.operands, reading.given, strict=True))
    return each_alone(refine(chosen, reading.binding, known))


def steps_of(roots: Iterable[Node]) -> int:
    """How many steps show what a recurrence does: what comes in may go through all states before it
    comes out, and steps may be counted up to a number."""
    nodes = [*everything(roots)]
    states = max((len(n.body.states) for n in nodes if isinstance(n, Scan)), default=0)
    numbers = [n.value for n in nodes if isinstance(n, Constant)]
    numbers += [n.default for n in nodes if isinstance(n, Immediate)]
    counts = [abs(int(n)) for n in numbers if abs(n) < MOST_POSITIONS and n == int(n)]
    return LEAST_STEPS + max(states, *counts, 0)


def roles_of(root: Node, leaves: Sequence[Input], axes: Sequence[Axis]) -> dict[Axis, Role]:
    """What each axis does in a recurrence, inside of its steps too."""
    ended: set[Axis] = set()
    indexed: set[Axis] = set()
    for node in everything([root]):
        match node:
            case Dot(_, _, names) | Reduce(_, _, names):
                ended.update(names)
            case View(_, index, _):
                ended.update(axis for axis, _ in index)
                indexed.update(a for axis, i in index for a in (axis, *i.axes))
            case Gather(_, _, axis) | Stack(_, axis) | Position(axis):
                indexed.add(axis)
            case Scan(body, _, _, _):
                ended.add(body.axis)
                indexed.add(body.axis)
    masks = {a: sum(1 << n for n, leaf in enumerate(leaves) if a in leaf.axes) for a in axes}
    return {a: Role(masks[a], a in root.axes, a in ended, a in indexed) for a in axes}
