"""Which instruction computes what: the cheapest choice for every value that a graph needs.

A value is computed by a match whose operands are needed in turn, or it is no computation at all:
a view is read at other indices, a cast is how its operand is stored, a stack is where its parts
are written, an update is written into what it updates.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import inf

from infinisa.isa.dtypes import DTYPES
from infinisa.isa.errors import CompileError
from infinisa.isa.instance import issue_cycles
from infinisa.isa.instruction import Instruction, combining
from infinisa.isa.language import (
    Axis,
    Cast,
    Input,
    Map,
    Node,
    Opaque,
    Recurrence,
    Reduce,
    Scan,
    Stack,
    Update,
    View,
    walk,
)
from infinisa.isa.laws import Associative, StepOf
from infinisa.isa.machine import Machine, Unit
from infinisa.isa.program import Opcode

from .canonical import is_number
from .laws import must_hold
from .match import Finder, Match

CALL = 64
"""Cycles that every call costs besides its work, so that few large instructions win."""

ISSUE = 8
"""Cycles that every issue costs besides its work: one for each turn of the loops outside."""


# ---------------------------------------------------------------- machines


def unit_for(instruction: Instruction, machine: Machine) -> Unit | None:
    """The unit that runs an instruction: the one of that name, else the first of that kind."""
    named = [unit for unit in machine.units if unit.name == instruction.unit]
    of_kind = [unit for unit in machine.units if unit.kind == instruction.unit]
    return next(iter(named + of_kind), None)


def tile_limit(instruction: Instruction, unit: Unit, axis: Axis) -> int | None:
    """How much of an axis one issue takes, if the instruction says so."""
    limit = dict(instruction.tile).get(axis)
    if isinstance(limit, str):
        room = unit.room(limit)
        if room is None:
            raise CompileError(
                f"instruction {instruction.name!r}: tile limit {limit!r} of axis {axis!r} must be "
                f"an attribute of unit {unit.name!r}"
            )
        return room
    return limit


@dataclass(frozen=True)
class Trust:
    """What a match must be to be taken.

    require  "proved": one canonical form on both sides; "tested": equal at all points tried
    budget   the largest relative error that it may add to those of the model
    """

    require: str = "tested"
    budget: float = inf

    def __post_init__(self) -> None:
        if self.require not in ("tested", "proved"):
            raise CompileError(f"require must be 'tested' or 'proved', not {self.require!r}")
        if not self.budget >= 0:
            raise CompileError(f"error budget must not be negative, not {self.budget!r}")

    def __call__(self, match: Match) -> bool:
        near = self.budget == inf or match.error <= self.budget
        return near and (self.require == "tested" or match.stamp == self.require)


ANY = Trust()
"""Whatever the oracle found."""


@dataclass(frozen=True)
class Choosing:
    """What a choice depends on: machine, instructions, the graph's sizes, what is trusted."""

    machine: Machine
    library: Mapping[str, Instruction]
    sizes: Mapping[Axis, int]
    run_time: frozenset[Axis] = frozenset()
    trust: Trust = ANY

    def usable(self) -> list[Instruction]:
        """The instructions that a unit of the machine runs."""
        return [i for i in self.library.values() if unit_for(i, self.machine) is not None]

    def step(self, match: Match) -> tuple[Instruction, Axis] | None:
        """The law by which a match goes in pieces of an axis, if it must: (step, axis).
        CompileError if that law does not hold."""
        for instruction, unit, law in self.steps.get(match.instruction.name, ()):
            axes = match.binding.get(law.axis, ())
            limit = tile_limit(instruction, unit, law.axis)
            long = limit is not None and self.volume(axes) > limit
            if long or self.run_time & set(axes):
                must_hold(instruction, law, self.library)
                return instruction, law.axis
        return None

    @cached_property
    def steps(self) -> Mapping[str, Sequence[tuple[Instruction, Unit, StepOf]]]:
        """The steps of instructions by their names, with the unit that runs each, and the law."""
        found: dict[str, list[tuple[Instruction, Unit, StepOf]]] = {}
        for instruction in self.library.values():
            unit = unit_for(instruction, self.machine)
            for law in instruction.laws:
                if isinstance(law, StepOf) and unit is not None:
                    found.setdefault(law.whole, []).append((instruction, unit, law))
        return found

    def fits(self, match: Match) -> bool:
        """Whether a match is trusted and what one issue must see complete is within its tile
        limits."""
        if not self.trust(match):
            return False
        instruction = match.instruction
        unit = unit_for(instruction, self.machine)
        if unit is None:
            return False
        step = self.step(match)
        for axis in instruction.whole:
            limit = tile_limit(instruction, unit, axis)
            within = limit is None or self.volume(match.binding.get(axis, ())) <= limit
            if not within and (step is None or step[1] != axis):
                return False
        return True

    def volume(self, axes: Iterable[Axis]) -> int:
        result = 1
        for axis in axes:
            result *= self.sizes[axis]
        return result

    def cycles(self, match: Match) -> float:
        """About how long a match keeps the machine busy: its work and its traffic."""
        unit = unit_for(match.instruction, self.machine)
        assert unit is not None
        opcode = Opcode(
            "", match.instruction.name, "", unit.name,
            tuple(match.binding.items()), tuple(match.immediates.items()),
        )  # fmt: skip
        one = {axis: 1 if axis in match.loops else self.sizes[axis] for axis in match.axes}
        busy, _ = issue_cycles(match.meaning, opcode, unit, one)
        busy = (int(busy) + ISSUE) * self.volume(match.loops)
        values = [*match.leaves, *(root for root in match.roots if root is not None)]
        return CALL + busy / unit.count + self.traffic(values)

    def traffic(self, values: Iterable[Node]) -> float:
        """Cycles in which values pass between the chip and the outermost store."""
        size = sum(self.volume(v.axes) * DTYPES[v.dtype].size for v in values)
        return size * self.machine.clock / self.machine.dram.bandwidth


def combiner(definition: Instruction, choosing: Choosing) -> tuple[Instruction, Axis] | None:
    """What makes one partial result of those of several runs, and the axis along which they are;
    None if the machine has nothing for it."""
    for law in definition.laws:
        if isinstance(law, Associative):
            found = choosing.library.get(law.combine)
            return None if found is None else (found, law.axis)
    fold = definition.accumulation
    how = combining(fold) if fold is not None else None
    name = how.name if how is not None else "sum"
    for each in choosing.usable():
        match each.outputs:
            case (Reduce(function, Input(_, (_, _)), (axis,)),) if function == name:
                return each, axis
    return None


def choose(options: Sequence[Choice], machine: Machine) -> Choice:
    """The option to take: the one with the least cost, leaves included."""
    return min(options, key=lambda option: option.cost)


# ---------------------------------------------------------------- choices


@dataclass(frozen=True, eq=False)
class Choice:
    """How a value comes about: by a match, or (None) by how others are read and written.

    demands  the values that must be there for it
    own      what it costs; `cost`: with all that it needs
    """

    match: Match | None = None
    demands: tuple[Node, ...] = ()
    own: float = 0.0
    cost: float = 0.0


@dataclass
class Selection:
    """The choices for all that some values of a graph need."""

    finder: Finder
    choosing: Choosing
    users: Container[Node]
    best: dict[Node, Choice] = field(default_factory=dict)
    options_of: dict[Node, list[Choice]] = field(default_factory=dict)
    known: dict[Match, float] = field(default_factory=dict)

    def settle(self, roots: Sequence[Node]) -> None:
        """Find the best choice for these and for whatever they may need."""
        waiting = list(roots)
        while waiting:
            node = waiting[-1]
            if node in self.best:
                waiting.pop()
                continue
            if node not in self.options_of:
                self.options_of[node] = self.options(node)
            needed = [
                n for o in self.options_of[node] for n in self.needs(o, node) if n not in self.best
            ]
            if needed:
                waiting += needed
                continue
            waiting.pop()
            weighed = [self.weighed(o, node) for o in self.options_of[node]]
            none = Choice(cost=inf)
            self.best[node] = choose(weighed, self.choosing.machine) if weighed else none

    def needs(self, option: Choice, node: Node) -> list[Node]:
        extra = [r for r in option.match.roots if r is not None] if option.match else []
        return [*option.demands, *(root for root in extra if root is not node)]

    def weighed(self, option: Choice, node: Node) -> Choice:
        """The option with its cost; results that it yields besides save what they would cost."""
        below = sum(self.best[n].cost for n in dict.fromkeys(option.demands))
        extra = self.needs(option, node)[len(option.demands) :]
        saved = sum(self.best[n].own for n in extra)
        return replace(option, cost=below + max(option.own - saved, 0.0))

    def options(self, node: Node) -> list[Choice]:
        found = [] if (plain := stored(node)) is None else [Choice(None, plain)]
        if isinstance(node, Opaque):
            instruction = self.choosing.library.get(node.operator)
            known = instruction is not None and instruction.opaque
            return [Choice(None, node.arguments)] if known else []
        if isinstance(node, Input | Scan | Update) or is_number(node):
            return found
        matches = [match for match in self.finder(node) if self.choosing.fits(match)]
        made = [Choice(match, match.leaves, self.cycles(match)) for match in matches]
        return [*found, *self.worthwhile(made)]

    def cycles(self, match: Match) -> float:
        """What a match costs; one that repeats another costs the same."""
        first = match.like or match
        if first not in self.known:
            self.known[first] = self.choosing.cycles(first)
        return self.known[first]

    def worthwhile(self, options: Sequence[Choice]) -> list[Choice]:
        """The options without those that another is surely better than: it needs no more and costs
        no more, or it does all that this one does and what this one needs besides."""
        kept: list[Choice] = []
        for option in sorted(options, key=lambda option: (-len(_inner(option)), option.own)):
            parts_ = {part for leaf in option.demands for part in self._parts(leaf)}
            for other in kept:
                inside = [leaf for leaf in option.demands if leaf in _inner(other)]
                more = sum(CALL + 2 * self.choosing.traffic([leaf]) for leaf in inside)
                if _inner(other) > _inner(option) and other.own <= option.own + max(more, CALL):
                    break
                if parts_ >= {*other.demands} and other.own <= option.own:
                    break
            else:
                if option.match is None or option.match.stable:
                    kept.append(option)
        return kept

    def _parts(self, leaf: Node) -> list[Node]:
        """A value of the graph, or the terms of a sum that was grouped anew."""
        if isinstance(leaf, Map) and leaf.function == "add" and leaf not in self.users:
            return [part for child in leaf.children for part in self._parts(child)]
        return [] if is_number(leaf) else [leaf]

    def chosen(self, roots: Sequence[Node]) -> list[tuple[Node, Match | None]]:
        """Every value that is needed, operands first, each with what computes it."""
        first = [match for _, match in self._order(roots, {}) if match is not None]
        first.sort(key=lambda match: sum(root is not None for root in match.roots))
        known = {root: match for match in first for root in match.roots if root is not None}
        return self._order(roots, known)

    def _order(
        self, roots: Sequence[Node], known: Mapping[Node, Match]
    ) -> list[tuple[Node, Match | None]]:
        found: dict[Node, Match | None] = {}
        waiting = [(root, False) for root in reversed(roots)]
        while waiting:
            node, ready = waiting.pop()
            if node in found:
                continue
            match = known.get(node) or self.best[node].match
            demands = match.leaves if match else self.best[node].demands
            if ready:
                found[node] = match
            else:
                waiting.append((node, True))
                waiting += [(n, False) for n in reversed(demands) if n not in found]
        return list(found.items())

    def blame(self, roots: Sequence[Node]) -> Node | None:
        """A value that nothing computes although its operands are there."""
        for root in roots:
            node = root
            while self.best[node].cost == inf:
                needed = [n for o in self.options_of[node] for n in o.demands]
                missing = [n for n in needed if self.best[n].cost == inf]
                if not missing:
                    return node
                node = missing[0]
        return None


def _inner(option: Choice) -> frozenset[Node]:
    return option.match.inner if option.match else frozenset()


def stored(node: Node) -> tuple[Node, ...] | None:
    """What must be there for a value that is no computation; None for one that is."""
    match node:
        case Input():
            return ()
        case View(x, _, _) | Cast(x, _):
            return (x,)
        case Stack(xs, _):
            return tuple(x for x in xs)
        case Update(x, value, _):
            return (x, value)
        case Scan(body, initial, xs, _):
            outer = [x for x in invariants(body) if not is_number(x)]
            starts = [x for x in initial if not is_number(x)]
            return (*starts, *xs, *outer)
    return () if is_number(node) else None


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
