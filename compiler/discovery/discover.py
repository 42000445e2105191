"""New instructions that a model would gain from: neighbouring calls done as one.

Sets of calls that recur (`clusters.py`) become instructions (`propose.py`). Each is priced beside
the calls that it replaces, issue by issue. That is a guess: calls overlap, and most wait for DRAM.
So those that promise most are compiled with and measured, and stay only if the compiler finds them
again and the program gets faster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import prod

from infinisa.isa.dtypes import DTYPES
from infinisa.isa.errors import CompileError
from infinisa.isa.instance import issue_cycles
from infinisa.isa.instruction import Instruction
from infinisa.isa.language import Axis, Node, inputs
from infinisa.isa.machine import Machine
from infinisa.isa.program import Opcode

from ..equality.surroundings import Surroundings
from ..graph import Graph, Model
from ..pipeline import Compilation, Progress, compile_model
from ..schedule.cost import ISSUE
from ..schedule.tile import lengths
from ..selection.choice import ANY, Trust, tile_limit, unit_for
from ..selection.cover import canonical_graph, canonical_names
from ..selection.match import Match
from .clusters import Calls, composed
from .propose import Form, Occurrence, formed

Measure = Callable[[Compilation], float]

CALL = 64
"""Cycles that every call costs besides its issues: about what it takes to fill and drain a unit."""

LEAST = 1e-3
"""The share of the program's cycles that a proposal must save at least."""

TRIALS = 3
"""How many candidates are compiled with for each proposal that is wanted."""


@dataclass(frozen=True)
class Proposal:
    """An instruction that the model would gain from.

    calls       the instructions that do it now
    where       what the source calls the values it would compute, graph first
    found       how often the compiler uses it
    estimated   cycles that its calls alone would save in one run of the model
    saved       cycles that the program got faster by, on top of the proposals before
    share       of the program's cycles before any proposal
    operations  scalar operations of all its calls; `extra`: more than those of the calls replaced
    """

    instruction: Instruction
    calls: tuple[str, ...]
    where: tuple[str, ...]
    found: int
    estimated: float
    saved: float
    share: float
    operations: int
    extra: int

    def plain(self) -> dict[str, object]:
        """As numbers and text, for JSON."""
        return {
            "name": self.instruction.name,
            "unit": self.instruction.unit,
            "calls": list(self.calls),
            "where": list(self.where),
            "operands": len(self.instruction.operands),
            "immediates": len(self.instruction.immediates),
            "found": self.found,
            "estimated": self.estimated,
            "saved": self.saved,
            "share": self.share,
            "operations": self.operations,
            "extra": self.extra,
        }


@dataclass(frozen=True)
class Refused:
    """What was tried and is no proposal, and why."""

    name: str
    calls: tuple[str, ...]
    why: str


@dataclass(frozen=True)
class Discovery:
    """Proposals for a model on a machine, each on top of those before it.

    before   measured cycles of one run; `after`: with all proposals
    """

    model: str
    machine: str
    before: float
    after: float
    proposals: tuple[Proposal, ...]
    refused: tuple[Refused, ...]

    def plain(self) -> dict[str, object]:
        return {
            "model": self.model,
            "machine": self.machine,
            "before": self.before,
            "after": self.after,
            "proposals": [proposal.plain() for proposal in self.proposals],
            "refused": [
                {"name": each.name, "calls": list(each.calls), "why": each.why}
                for each in self.refused
            ],
        }


def silent(*_: object) -> None:
    """Progress that nobody wants to see."""


def discover(
    model: Model,
    machine: Machine,
    library: Mapping[str, Instruction],
    measure: Measure,
    top: int = 5,
    trust: Trust = ANY,
    progress: Progress | None = None,
) -> Discovery:
    """The instructions, `top` at most, that would save the model most cycles on a machine.

    measure   the cycles of a compiled model
    trust     what a match of an instruction must be to be taken
    progress  told (what, number, how many) before each compilation

    Raises CompileError if the model cannot be covered as it is: only what runs has a price.
    """
    return _Discovering(model, machine, library, measure, trust, progress or silent).best(top)


# ---------------------------------------------------------------- compiled with


@dataclass(frozen=True)
class Trial:
    """The model compiled with some library, and the cycles that its program takes."""

    work: Compilation
    cycles: float

    def uses(self, name: str) -> int:
        """How many values of the model an instruction computes."""
        every = self.work.coverage.values()
        return sum(m.instruction.name == name for each in every for m in each.matches)

    def operations(self, name: str = "") -> int:
        """Scalar operations of one run of each graph: of all calls, or of an instruction's."""
        return sum(
            share.operations
            for each in self.work.coverage.values()
            for own, share in each.instructions.items()
            if name in ("", own)
        )


def verdict(uses: int, saved: float, least: float) -> str:
    """Why what was tried is no proposal; nothing if it is one."""
    if not uses:
        return "the compiler does not use it"
    if saved <= 0:
        return f"the program takes {-saved:,.0f} cycles more"
    return f"the program takes only {saved:,.0f} cycles less" if saved < least else ""


def turns(graph: Graph, model: Model) -> int:
    """How often a graph runs, if parameters have their defaults."""
    values = {parameter.name: parameter.default for parameter in model.parameters}
    return 1 if graph.repeat is None else max(graph.repeat.count.value(values), 0)


# ---------------------------------------------------------------- priced


@dataclass(frozen=True)
class Prices:
    """What a call costs in one graph, issue by issue: beside another, not in a schedule.

    sizes  the usual lengths of the axes
    """

    machine: Machine
    sizes: Mapping[Axis, int]

    def call(
        self,
        instruction: Instruction,
        binding: Mapping[Axis, tuple[Axis, ...]],
        loops: Iterable[Axis],
        values: Iterable[Node],
    ) -> float:
        """Cycles of all issues, none of which takes more than a tile, and of the values that it
        reads and writes."""
        unit = unit_for(instruction, self.machine)
        assert unit is not None  # it was chosen for this machine, or is like one that was
        issues, one = self.volume(loops), dict[Axis, int]()
        for axis in instruction.axes:
            size = self.volume(binding.get(axis, ()))
            limit = tile_limit(instruction, unit, axis)
            one[axis] = size if limit is None else min(size, limit)
            issues *= -(-size // one[axis])
        numbers = tuple((each.name, each.default) for each in instruction.immediates)
        own = tuple((axis, (axis,)) for axis in instruction.axes)
        opcode = Opcode("", instruction.name, "", unit.name, own, numbers)
        busy, _ = issue_cycles(instruction, opcode, unit, one)
        return CALL + issues * (int(busy) + ISSUE) / unit.count + self.traffic(values)

    def match(self, match: Match) -> float:
        if match.instruction.opaque:
            return 0.0
        values = [*match.leaves, *(root for root in match.roots if root is not None)]
        return self.call(match.instruction, match.binding, match.loops, values)

    def saved(self, occurrence: Occurrence, instruction: Instruction) -> float:
        """Cycles that the calls of an occurrence cost more than the instruction would."""
        cluster = occurrence.cluster
        after = self.call(
            instruction, occurrence.binding, occurrence.loops, [*cluster.leaves, cluster.result]
        )
        return sum(map(self.match, cluster.matches)) - after

    def fits(self, occurrence: Occurrence, instruction: Instruction) -> bool:
        """Whether one issue takes all of the axes that it must see complete."""
        unit = unit_for(instruction, self.machine)
        if unit is None:
            return False
        for axis in instruction.whole:
            limit = tile_limit(instruction, unit, axis)
            if limit is not None and self.volume(occurrence.binding.get(axis, ())) > limit:
                return False
        return True

    def volume(self, axes: Iterable[Axis]) -> int:
        return prod(self.sizes[axis] for axis in axes)

    def traffic(self, values: Iterable[Node]) -> float:
        """Cycles in which values pass between the chip and the outermost store."""
        size = sum(self.volume(v.axes) * DTYPES[v.dtype].size for v in values)
        return float(size / self.machine.dram_rate)


# ---------------------------------------------------------------- chosen


@dataclass(frozen=True)
class Weighed:
    """An instruction that might be proposed, places for it that share no calls, and the cycles
    that it would save there."""

    form: Form
    places: tuple[Occurrence, ...]
    instruction: Instruction
    saved: float


@dataclass
class _Discovering:
    model: Model
    machine: Machine
    library: Mapping[str, Instruction]
    measure: Measure
    trust: Trust
    progress: Progress
    prices: Mapping[str, Prices] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.graphs = {graph.name: graph for graph in self.model.graphs}
        self.names = {
            graph.name: canonical_names(graph, canonical_graph(graph))
            for graph in self.model.graphs
        }

    def best(self, top: int) -> Discovery:
        """The candidates that are estimated to save most, each tried on top of those kept."""
        first = now = self.trial(self.library)
        proposals: list[Proposal] = []
        refused: dict[Form, Refused] = {}
        least = LEAST * first.cycles
        while len(proposals) < top and len(refused) < TRIALS * top:
            found = [each for each in self.weighed(now) if each.form not in refused]
            if not found or (best := max(found, key=lambda each: each.saved)).saved < least:
                break
            name = best.instruction.name
            self.progress(f"trying {name}", len(proposals) + len(refused), (TRIALS + 1) * top)
            library = {**self.library, name: best.instruction}
            try:
                after = self.trial(library)
            except CompileError as error:
                refused[best.form] = Refused(name, best.form.calls, str(error))
                continue
            if why := verdict(after.uses(name), now.cycles - after.cycles, least):
                refused[best.form] = Refused(name, best.form.calls, why)
            else:
                proposals.append(self.proposal(best, first, now, after))
                self.library, now = library, after
        return Discovery(
            self.model.name, self.machine.name, first.cycles, now.cycles,
            tuple(proposals), tuple(refused.values()),
        )  # fmt: skip

    def trial(self, library: Mapping[str, Instruction]) -> Trial:
        work = compile_model(self.model, self.machine, library, trust=self.trust, fold=False)
        return Trial(work, self.measure(work))

    def weighed(self, trial: Trial) -> Iterator[Weighed]:
        """What could be proposed on top of what is used, with what it is estimated to save."""
        self.prices = {
            each.name: Prices(self.machine, lengths(each, self.model.parameters).typical)
            for each in trial.work.covered
        }
        for form, occurrences in self.occurrences(trial).items():
            instruction = form.instruction([each.values for each in occurrences], self.library)
            places = apart(
                each for each in occurrences if self.prices[each.graph].fits(each, instruction)
            )
            saved = sum(
                turns(self.graphs[each.graph], self.model)
                * self.prices[each.graph].saved(each, instruction)
                for each in places
            )
            if places:
                yield Weighed(form, places, instruction, saved)

    def occurrences(self, trial: Trial) -> dict[Form, list[Occurrence]]:
        """Sets of calls of all graphs, those that compute alike together."""
        found: dict[Form, list[Occurrence]] = {}
        for graph, form in zip(self.model.graphs, trial.work.forms, strict=True):
            report = trial.work.coverage[graph.name]
            around = Surroundings.of(form.roots, graph.extents)
            mine = [m for m in report.matches if any(n in around.users for n in m.inner)]
            calls = Calls(mine, form.roots, around)
            for cluster in calls.clusters():
                computed = composed(cluster, calls)
                if computed is not None:
                    made = formed(graph.name, cluster, computed, self.machine, graph.sizes())
                    if made is not None:
                        found.setdefault(made[0], []).append(made[1])
        return found

    def proposal(self, made: Weighed, first: Trial, now: Trial, after: Trial) -> Proposal:
        """What was tried, was used and made the program faster."""
        name, uses = made.instruction.name, after.uses(made.instruction.name)
        *calls, last = made.form.calls
        where = self.place(made.places[0])
        text = f"{', '.join(calls)} and {last} in one: {where} of {self.model.name}"
        text += f", one of {uses} uses." if uses > 1 else "."
        return Proposal(
            replace(made.instruction, documentation=text),
            made.form.calls,
            tuple(map(self.place, made.places)),
            uses,
            made.saved,
            now.cycles - after.cycles,
            (now.cycles - after.cycles) / first.cycles,
            after.operations(name),
            after.operations() - now.operations(),
        )

    def place(self, occurrence: Occurrence) -> str:
        """What the source calls the value that is computed, a value inside, or an operand."""
        cluster, names = occurrence.cluster, self.names[occurrence.graph]
        inside = [cluster.result, *(n for m in reversed(cluster.matches) for n in m.inner)]
        known = [names[node] for node in inside if node in names]
        known += [leaf.name for leaf in inputs(cluster.leaves)]
        return f"{occurrence.graph}/{known[0]}" if known else occurrence.graph


def apart(places: Iterable[Occurrence]) -> tuple[Occurrence, ...]:
    """Places that share no calls, the first first."""
    kept: list[Occurrence] = []
    taken: set[Match] = set()
    for each in places:
        if taken.isdisjoint(each.cluster.matches):
            kept.append(each)
            taken.update(each.cluster.matches)
    return tuple(kept)
