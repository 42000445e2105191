"""Which instruction computes what: one choice for every value that a graph needs.

A value is computed by a match whose operands are needed in turn, or it is no computation at all:
a view is read at other indices, a cast is how its operand is stored, a stack is where its parts
are written, an update is written into what it updates.

The cheapest choices are taken first as if nothing worked beside anything else. What that cover
shows to be busy (`prices.py`) is dear in the next, and so on for a few rounds; another cover than
the first is taken if it is predicted to be faster.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import fsum, inf, prod

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

from ..equality.canonical import is_number
from ..equality.laws import must_hold
from ..graph import Layers
from ..schedule.cost import SPILL, chip_capacity
from .joins import joined
from .match import Finder, Match
from .prices import BELIEVED, CALL, CALLS, DRAM, Forecast, Load, Work, even, excess
from .recurrences import invariants, is_recurrence

ISSUE = 8
"""Cycles that every issue costs besides its work: one for each turn of the loops outside."""

ROUNDS = 3
"""Covers tried at other prices than the first. Most often the second is the first again."""


# ---------------------------------------------------------------- machines


def unit_for(instruction: Instruction, machine: Machine) -> Unit | None:
    """The unit that runs an instruction: the one of that name, else the first of that kind."""
    of_kind = None
    for unit in machine.units:
        if unit.name == instruction.unit:
            return unit
        if of_kind is None and unit.kind == instruction.unit:
            of_kind = unit
    return of_kind


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
    """What a choice depends on: machine, instructions, the graph's sizes, what is trusted.

    sizes     the most positions of each axis; `usual`: how many are expected
    run_time  axes whose length a parameter changes
    fixed     the sizes of axes that have all of their positions at any time
    layers    what was left out of the graph
    """

    machine: Machine
    library: Mapping[str, Instruction]
    sizes: Mapping[Axis, int]
    usual: Mapping[Axis, int]
    run_time: frozenset[Axis] = frozenset()
    fixed: Mapping[Axis, int] = field(default_factory=dict)
    trust: Trust = ANY
    layers: Layers = field(default_factory=Layers)

    def usable(self) -> list[Instruction]:
        """The instructions that a unit of the machine runs."""
        return [i for i in self.library.values() if unit_for(i, self.machine) is not None]

    @cached_property
    def folds(self) -> Mapping[str, tuple[Instruction, Axis]]:
        """By the name of each reduction the first instruction that folds one of two axes by it,
        and that axis."""
        found: dict[str, tuple[Instruction, Axis]] = {}
        for each in self.usable():
            match each.outputs:
                case (Reduce(function, Input(_, (_, _)), (axis,)),):
                    found.setdefault(function, (each, axis))
        return found

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
        limits, and on the chip where nothing moves without being told to."""
        if not self.trust(match):
            return False
        instruction = match.instruction
        unit = unit_for(instruction, self.machine)
        if unit is None:
            return False
        for axis in instruction.whole:
            limit = tile_limit(instruction, unit, axis)
            if limit is not None and self.volume(match.binding.get(axis, ())) > limit:
                step = self.step(match)
                if step is None or step[1] != axis:
                    return False
        told = self.machine.scratchpad.managed == "software" and not instruction.opaque
        if not (instruction.whole and (told or is_recurrence(instruction))):
            return True
        return self.held(match) <= chip_capacity(self.machine)

    def held(self, match: Match) -> int:
        """Bytes of what one issue of a match must see complete, all else at one position; tables
        stay outside the chip."""
        definition = match.instruction
        whole = {a for axis in definition.whole for a in match.binding.get(axis, ())}
        values = [leaf for n, leaf in enumerate(match.leaves) if n not in definition.tables]
        values += [root for root in match.roots if root is not None]
        return sum(
            self.volume(whole.intersection(value.axes)) * DTYPES[value.dtype].size
            for value in values
        )

    def volume(self, axes: Iterable[Axis]) -> int:
        return prod(self.sizes[axis] for axis in axes)

    def cycles(self, match: Match) -> float:
        """About how long a match takes if nothing works beside it."""
        return sum(self.load(match).values())

    def load(self, match: Match) -> Load:
        """What a match asks for at most: its work, its traffic if nothing stays on the chip."""
        work = self.work(match, self.sizes)
        values = [*match.leaves, *(root for root in match.roots if root is not None)]
        traffic = sum(self.traffic(value, self.sizes) for value in values)
        return {work.unit: work.cycles, DRAM: traffic, CALLS: CALL}

    def work(self, match: Match, lengths: Mapping[Axis, int]) -> Work:
        """What the call of a match does at these lengths of the axes."""
        return self.waited(match, lengths)[0]

    def waited(self, match: Match, lengths: Mapping[Axis, int]) -> tuple[Work, float]:
        """What the call of a match does, and the cycles from the end of an issue until its results
        are there: what needs them at once waits so long."""
        unit = unit_for(match.instruction, self.machine)
        assert unit is not None
        opcode = Opcode(
            "", match.instruction.name, "", unit.name,
            tuple(match.binding.items()), tuple(match.immediates.items()),
        )  # fmt: skip
        one = {axis: 1 if axis in match.loops else lengths[axis] for axis in match.axes}
        busy, ready = issue_cycles(match.meaning, opcode, unit, one)
        issues = prod(lengths[axis] for axis in match.loops)
        cycles = (int(busy) + ISSUE) * issues / unit.count
        return Work(unit.name, cycles, bool(match.instruction.tile)), float(ready - busy)

    def traffic(self, value: Node, lengths: Mapping[Axis, int]) -> float:
        """Cycles in which a value passes between the chip and the outermost store."""
        size = prod(lengths[axis] for axis in value.axes) * DTYPES[value.dtype].size
        if size not in self._transfers:
            self._transfers[size] = float(size / self.machine.dram_rate)
        return self._transfers[size]

    @cached_property
    def _transfers(self) -> dict[int, float]:
        return {}


def combiner(definition: Instruction, choosing: Choosing) -> tuple[Instruction, Axis] | None:
    """What makes one partial result of those of several runs, and the axis along which they are;
    None if the machine has nothing for it."""
    for law in definition.laws:
        if isinstance(law, Associative):
            found = choosing.library.get(law.combine)
            return None if found is None else (found, law.axis)
    fold = definition.accumulation
    how = combining(fold) if fold is not None else None
    return choosing.folds.get(how.name if how is not None else "sum")


# ---------------------------------------------------------------- choices


NOTHING: Load = {}
"""What reading and writing elsewhere asks of the machine."""


@dataclass(frozen=True, eq=False)
class Choice:
    """How a value comes about: by a match, or (None) by how others are read and written.

    demands  the values that must be there for it; `besides`: what it yields besides
    load     what it asks of the machine
    even     whether it may be the cheapest while all prices are equal
    """

    match: Match | None = None
    demands: tuple[Node, ...] = ()
    besides: tuple[Node, ...] = ()
    load: Load = field(default_factory=lambda: NOTHING)
    even: bool = True

    @property
    def needs(self) -> tuple[Node, ...]:
        """The values whose cost its own depends on."""
        return (*self.demands, *self.besides)

    @property
    def inner(self) -> frozenset[Node]:
        return self.match.inner if self.match else frozenset()


@dataclass(frozen=True, eq=False)
class Steps:
    """What a recurrence asks of the machine if calls run once a step; `work`: of each call."""

    load: Load
    work: tuple[Work, ...]


GRAINS = 1 << 20
"""Costs are whole numbers of such parts of a cycle. Where each reader pays all that a value needs,
costs double with every residual: of floats, what a layer can choose between is lost in rounding."""


class Decision:
    """The cheapest option for each value at some prices.

    options_of  the options of each value, operands first
    readers     how many share the cost of a value; where it says nothing each pays all of it
    best        the options taken; `costs`: what each value costs with all that it needs, in
                grains, infinite where nothing computes it
    """

    def __init__(
        self,
        options_of: Mapping[Node, Sequence[Choice]],
        prices: Load,
        readers: Mapping[Node, int],
    ) -> None:
        self.prices, self.readers = prices, readers
        self.best: dict[Node, Choice] = {}
        self.costs: dict[Node, int | float] = {}
        self._own: dict[int, int] = {}
        for node, options in options_of.items():
            costs = [self.cost(option) for option in options]
            least = self.costs[node] = min(costs, default=inf)
            self.best[node] = options[costs.index(least)] if options else Choice()

    def cost(self, option: Choice) -> int | float:
        """What an option costs with its share of all that it needs. Results that it yields besides
        save what they would cost."""
        cost = self.own(option)
        if option.besides:
            cost = max(cost - sum(self.own(self.best[node]) for node in option.besides), 0)
        for node in option.demands:
            needed = self.costs[node]
            if isinstance(needed, float):
                return inf
            cost += needed // self.readers.get(node, 1)
        return cost

    def cycles(self, option: Choice) -> int | float:
        """What an option costs with all that it needs, in cycles."""
        cost = self.cost(option)
        return cost if isinstance(cost, float) else cost // GRAINS

    def own(self, option: Choice) -> int:
        """What an option costs without what it needs; equal loads are one."""
        key = id(option.load)
        if key not in self._own:
            cycles = sum(self.prices[name] * n for name, n in option.load.items())
            self._own[key] = round(GRAINS * cycles)
        return self._own[key]

    def chosen(self, roots: Sequence[Node]) -> list[tuple[Node, Match | None]]:
        """Every value that is needed, operands first, each with what computes it."""
        order = self._order(roots, {})
        several = [match for _, match in order if match is not None and len(match.roots) > 1]
        if not several:
            return order
        several.sort(key=lambda match: sum(root is not None for root in match.roots))
        known = {root: match for match in several for root in match.roots if root is not None}
        return self._order(roots, known)

    def _order(
        self, roots: Sequence[Node], known: Mapping[Node, Match]
    ) -> list[tuple[Node, Match | None]]:
        found: dict[Node, Match | None] = {}
        opened: dict[Node, Match | None] = {}
        waiting = [*reversed(roots)]
        while waiting:
            node = waiting[-1]
            if node in opened:
                found.setdefault(node, opened[node])
                waiting.pop()
            else:
                match = opened[node] = known.get(node) or self.best[node].match
                demands = match.leaves if match else self.best[node].demands
                waiting += [n for n in reversed(demands) if n not in opened]
        return list(found.items())


@dataclass(frozen=True)
class Cover:
    """What a decision comes to: the matches in order, how many read each value, the prediction."""

    decision: Decision
    matches: tuple[Match, ...]
    readers: Mapping[Node, int]
    forecast: Forecast


@dataclass
class Selection:
    """The choices for all that some values of a graph need.

    within      selects for one step of a recurrence over an axis
    rounds      covers tried besides that with the least sum of cycles
    options_of  how each value that may be needed can come about, operands first
    decision    the one that is taken
    """

    finder: Finder
    choosing: Choosing
    users: Container[Node]
    within: Callable[[Sequence[Node], Axis], Selection]
    rounds: int = ROUNDS
    options_of: dict[Node, list[Choice]] = field(default_factory=dict)
    decision: Decision = field(init=False)
    _loads: dict[Match, Load | None] = field(default_factory=dict)
    _work: dict[Match, Work] = field(default_factory=dict)
    _kept: dict[tuple[Match, ...], list[tuple[int, bool]]] = field(default_factory=dict)
    _places: dict[Node, int] = field(default_factory=dict)
    _steps: dict[object, Steps | None] = field(default_factory=dict)

    def settle(self, roots: Sequence[Node]) -> None:
        """Find what there is to choose from for all that these may need, and decide."""
        self.explore(roots)
        options = {node: [o for o in each if o.even] for node, each in self.options_of.items()}
        first = last = self.cover(roots, Decision(options, even(self.choosing.machine), {}))
        covers = [first]
        for _ in range(self.rounds):
            last = self.cover(roots, Decision(self.options_of, last.forecast.prices, last.readers))
            if any(last.matches == cover.matches for cover in covers):
                break
            covers.append(last)
        best = min(covers, key=lambda cover: cover.forecast.time)
        faster = best.forecast.time < BELIEVED * first.forecast.time
        self.decision = (best if faster else first).decision

    def explore(self, roots: Sequence[Node]) -> None:
        """Find the options of these and of whatever they may need. What is needed only by an option
        that is not the cheapest while prices are equal has no such options itself."""
        found: dict[Node, list[Choice]] = {}
        waiting = [*roots]
        while waiting:
            if (node := waiting.pop()) not in found:
                found[node] = self.options(node)
                waiting += (n for o in found[node] if o.even for n in o.needs if n not in found)
        opened: set[Node] = set()
        waiting = [*roots]
        while waiting:
            if (node := waiting[-1]) not in opened:
                opened.add(node)
                if node not in found:
                    found[node] = [option for option in self.options(node) if option.even]
                waiting += (n for o in found[node] for n in o.needs if n not in opened)
            else:
                self.options_of.setdefault(node, found[node])
                waiting.pop()

    def options(self, node: Node) -> list[Choice]:
        plain = stored(node, self.choosing.fixed)
        found = [] if plain is None else [Choice(None, plain)]
        if isinstance(node, Opaque):
            instruction = self.choosing.library.get(node.operator)
            known = instruction is not None and instruction.opaque
            return [Choice(None, node.arguments)] if known else []
        if isinstance(node, Input | Update) or is_number(node):
            return found
        made = []
        matches = [*self.finder(node)]
        if isinstance(node, Scan) and matches:
            steps = self.steps(node)
            found = [] if steps is None else [replace(each, load=steps.load) for each in found]
        for match in matches:
            if (load := self.load(match)) is not None:
                besides = tuple(r for r in match.roots if r is not None and r is not node)
                if isinstance(node, Scan):
                    besides = ()  # they cost the same, and come from the same
                made.append(Choice(match, tuple(dict.fromkeys(match.leaves)), besides, load))
        return [*found, *self.kept(made)]

    def steps(self, scan: Scan) -> Steps | None:
        """What a recurrence asks for step by step; None if nothing computes a step of it."""
        key = scan.body, scan.initial, scan.xs
        if key not in self._steps:
            self._steps[key] = self._stepwise(scan)
        return self._steps[key]

    def _stepwise(self, scan: Scan) -> Steps | None:
        body, count = scan.body, len(scan.body.next)
        emits = [
            e for n, e in enumerate(body.emits) if replace(scan, output=count + n) in self.users
        ]
        roots = (*body.next, *emits)
        inside = self.within(roots, body.axis)
        if inside.blame(roots) is not None:
            return None
        chosen = inside.decision.chosen(roots)
        matches = dict.fromkeys(match for _, match in chosen if match is not None)
        ends: dict[Node, float] = {}  # when each value is there, if nothing else is waited for
        work, steps = [], self.choosing.sizes[body.axis]
        for match in matches:
            once, late = inside.choosing.waited(match, inside.choosing.sizes)
            work.append(replace(once, cycles=steps * once.cycles))
            start = max((ends.get(node, 0.0) for node in walk(match.leaves)), default=0.0)
            ends.update((r, start + once.cycles + late) for r in match.roots if r is not None)
        waits = steps * max(ends.values(), default=0.0) - fsum(each.cycles for each in work)
        if waits > 0:
            work[-1] = replace(work[-1], cycles=work[-1].cycles + waits)
        load: dict[str, float] = {}
        for each in work:
            load[each.unit] = load.get(each.unit, 0.0) + each.cycles
        values = [*_outer(scan), scan]
        load[DRAM] = sum(self.choosing.traffic(v, self.choosing.sizes) for v in values)
        load[CALLS] = CALL * len(work)
        return Steps(load, tuple(work))

    def kept(self, made: Sequence[Choice]) -> list[Choice]:
        """The options that may be taken at some prices, marked if not at even ones. Those of a
        value that repeats another are as that one's."""
        key = tuple([(o.match.like or o.match) for o in made if o.match])
        if key not in self._kept:
            numbers = {id(option): n for n, option in enumerate(made)}
            some = self.worthwhile(made, SPILL / self.choosing.machine.cores)
            first = {id(o) for o in (self.worthwhile(some, 1.0) if len(some) > 1 else some)}
            self._kept[key] = [(numbers[id(o)], id(o) in first) for o in some]
        return [made[n] if even else replace(made[n], even=False) for n, even in self._kept[key]]

    def load(self, match: Match) -> Load | None:
        """What a match asks of the machine, None if it does not fit; one that repeats another is
        as that is."""
        first = match.like or match
        if first not in self._loads:
            fits = self.choosing.fits(first)
            self._loads[first] = self.choosing.load(first) if fits else None
        return self._loads[first]

    def worthwhile(self, options: Sequence[Choice], least: float) -> list[Choice]:
        """The options without those that another is surely better than, at prices from `least` to
        1: it needs no more and costs no more, or it does all that this one does and what this one
        needs besides."""
        kept: list[Choice] = []
        for option in sorted(options, key=lambda o: (-len(o.inner), sum(o.load.values()))):
            parts_ = {part for leaf in option.demands for part in self._parts(leaf)}
            for other in kept:
                more = excess(other.load, option.load, least)
                if parts_ >= {*other.demands} and more <= 0:
                    break
                if other.inner > option.inner and more <= self.inside(option, other, least):
                    break
            else:
                if option.match is None or option.match.stable:
                    kept.append(option)
        return kept

    def inside(self, option: Choice, other: Choice, least: float) -> float:
        """About what it costs at least that values inside of one option are demanded by another."""
        sizes = self.choosing.sizes
        passed = [leaf for leaf in option.demands if leaf in other.inner]
        traffic = 2 * sum(self.choosing.traffic(leaf, sizes) for leaf in passed)
        return CALL * max(1, len(passed)) + least * traffic

    def _parts(self, leaf: Node) -> list[Node]:
        """A value of the graph, or the terms of a sum that was grouped anew."""
        if isinstance(leaf, Map) and leaf.function == "add" and leaf not in self.users:
            return [part for child in leaf.children for part in self._parts(child)]
        return [] if is_number(leaf) else [leaf]

    def cover(self, roots: Sequence[Node], decision: Decision) -> Cover:
        """What a decision comes to. A value that one call reads stays on the chip; what several
        read is stored, and loaded for each."""
        order = decision.chosen(roots)
        matches = tuple(dict.fromkeys(match for _, match in order if match is not None))
        turns = [self.turns(match.roots) for match in matches]
        readers: Counter[Node] = Counter()
        for match, count in zip(matches, turns, strict=True):
            readers.update({value: self.each(value, count) for value in _read(match)})
        stepwise = self.stepwise(order)
        for scan in stepwise.values():
            readers.update(dict.fromkeys(map(_source, _outer(scan)), 1))
        results = {_source(root) for root in roots}
        traffic = []
        for value in {**readers, **dict.fromkeys(results)}:
            shared = isinstance(value, Input) or readers[value] > 1
            times = max(readers[value] if shared else 0, value in results)
            cycles = times * self.choosing.traffic(value, self.choosing.usual)
            traffic += [cycles] * self.turns([value])
        work = [
            self.work(match)
            for match, count in zip(matches, turns, strict=True)
            for _ in range(count)
        ]
        work += [each for steps in stepwise for each in steps.work]
        forecast = Forecast.of(work, fsum(traffic), self.choosing.machine)
        return Cover(decision, matches, readers, forecast)

    def stepwise(self, order: Iterable[tuple[Node, Match | None]]) -> dict[Steps, Scan]:
        """The recurrences that go step by step although a call could do all steps, a result of
        each."""
        scans = [node for node, match in order if match is None and isinstance(node, Scan)]
        pairs = ((self._steps.get((n.body, n.initial, n.xs)), n) for n in scans)
        return {steps: scan for steps, scan in pairs if steps is not None}

    def turns(self, values: Iterable[Node | None]) -> int:
        """For how many layers values stand, which are of one layer."""
        turns = self.choosing.layers.turns
        layer = self.places(next(v for v in values if v is not None)) if turns else -1
        return turns[layer] if layer >= 0 else 1

    def each(self, value: Node, readers: int) -> int:
        """How many read a value of those for which some stand: each layer has its own."""
        return readers if readers == 1 or self.places(value) < 0 else 1

    def places(self, value: Node) -> int:
        """The last layer that goes into a value; -1 if none does."""
        for node in () if value in self._places else walk([value], self._places):
            below = (self._places[child] for child in node.children)
            own = self.choosing.layers.of.get(node.name, -1) if isinstance(node, Input) else -1
            self._places[node] = max(below, default=own)
        return self._places[value]

    def work(self, match: Match) -> Work:
        """What the call of a match is expected to do."""
        first = match.like or match
        if first not in self._work:
            self._work[first] = self.choosing.work(first, self.choosing.usual)
        return self._work[first]

    def blame(self, roots: Sequence[Node]) -> Node | None:
        """A value that nothing computes although its operands are there."""
        costs = self.decision.costs
        for root in roots:
            node = root
            while costs[node] == inf:
                needed = [n for o in self.options_of[node] for n in o.demands]
                missing = [n for n in needed if costs[n] == inf]
                if not missing:
                    return node
                node = missing[0]
        return None


def _source(value: Node) -> Node:
    """What is stored of a value: views and casts are made as it is read."""
    while isinstance(value, View | Cast):
        value = value.x
    return value


def _read(match: Match) -> dict[Node, None]:
    """The tensors that a match reads."""
    return dict.fromkeys(_source(leaf) for leaf in match.leaves if not is_number(leaf))


def _outer(scan: Scan) -> tuple[Node, ...]:
    """What a recurrence is computed from."""
    every = (*scan.initial, *scan.xs, *invariants(scan.body))
    return tuple(x for x in every if not is_number(x))


def stored(node: Node, sizes: Mapping[Axis, int]) -> tuple[Node, ...] | None:
    """What must be there for a value that is no computation; None for one that is. `sizes`: of axes
    that have all of their positions at any time."""
    match node:
        case Input():
            return ()
        case View(x, _, _) | Cast(x, _):
            return (x,)
        case Stack(xs, _):
            return tuple(xs)
        case Update(x, value, _):
            return (x, value)
        case Scan():
            return _outer(node)
    if parts := joined(node, sizes):
        return tuple(part.value for part in parts)
    return () if is_number(node) else None
