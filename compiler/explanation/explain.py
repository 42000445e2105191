"""What covers what in a model and why, as plain data: for reports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from math import inf
from operator import attrgetter

from infinisa.isa.errors import CompileError
from infinisa.isa.instruction import Instruction
from infinisa.isa.language import Axis, Cast, Input, Node, Opaque, View, show
from infinisa.isa.machine import Machine
from infinisa.isa.program import Opcode

from ..equality.canonical import is_number
from ..equality.verdict import PROVED
from ..graph import Graph, Model
from ..selection.choice import ANY, Selection, Trust, stored, unit_for
from ..selection.cover import canonical_graph, canonical_names, cover_and_report
from ..selection.coverage import Coverage, Made, Share, total_of
from ..selection.joins import whole_axes
from ..selection.match import Match, Meaning
from ..selection.uncovered import Uncovered, refusal, shallow
from .misses import Miss, Misses

LONGEST = 60
"""Characters of an expression that stands for a name."""

MOST_UNCOVERED = 4
MOST_ABOVE = 6
MOST_NEAR = 12
MOST_NAMES = 10

# ---------------------------------------------------------------- what is explained


@dataclass(frozen=True)
class Row:
    """What one instruction of the program does in one turn of a graph.

    operations  scalar operations; `share`: of all of the graph, 0 to 1
    cycles      how long it keeps its unit busy
    proved      and tested: for how many matches it was chosen
    error       the largest relative error that one of these adds
    """

    instruction: str
    calls: int
    nodes: int
    operations: int
    share: float
    bytes: int
    cycles: float
    proved: int
    tested: int
    error: float


@dataclass(frozen=True)
class Option:
    """A way to compute a value.

    operands  (operand, value it reads) pairs
    nodes     how many nodes of the model it computes
    cycles    what it costs itself; `total`: with all that it needs, if it came so far
    verdict   "taken", or why not
    """

    instruction: str
    operands: tuple[tuple[str, str], ...]
    nodes: int
    cycles: float
    total: int | float | None
    stamp: str
    error: float
    verdict: str


@dataclass(frozen=True)
class Covering:
    """The call that computes a node.

    calls    what it is called in the program; `unit` runs it
    yields   the values that come out of it
    binding  the instruction's axes as the model's; `loops`: axes around it
    """

    unit: str
    calls: tuple[str, ...]
    yields: tuple[str, ...]
    binding: Mapping[Axis, tuple[Axis, ...]]
    loops: tuple[Axis, ...]
    immediates: Mapping[str, float | int]


@dataclass(frozen=True)
class NodeReport:
    """One node of a model.

    what      its expression, two operations deep
    how       what becomes of it, in a sentence
    covering  the call, if one computes it; `options`: the ways to compute it, the one taken first
    misses    the instructions that nearly compute it
    """

    graph: str
    name: str
    what: str
    how: str
    covering: Covering | None
    options: tuple[Option, ...]
    misses: tuple[Miss, ...]


@dataclass(frozen=True)
class GraphReport:
    """One graph: a row for each instruction, what those of more than one node cover (`fused`) and
    the others (`simple`), the nodes that nothing computes, and the values whose cones are so many
    that the search among them was cut off."""

    graph: str
    rows: tuple[Row, ...]
    fused: Share
    simple: Share
    uncovered: tuple[str, ...]
    capped: tuple[str, ...]
    proved: int
    tested: int
    error: float


@dataclass(frozen=True)
class Near:
    """The nearest that an instruction which is not used came to some node."""

    instruction: str
    graph: str
    node: str
    distance: float
    reason: str


@dataclass(frozen=True)
class Explanation:
    """What covers what in a model on a machine.

    unused    the instructions that are never used, by the reason
    near      the nearest misses of these
    nodes     the nodes that were asked about, or that nothing computes
    failure   the error of compiling the model, if it cannot be covered
    """

    model: str
    machine: str
    graphs: tuple[GraphReport, ...]
    unused: Mapping[str, tuple[str, ...]]
    near: tuple[Near, ...]
    nodes: tuple[NodeReport, ...]
    failure: CompileError | None = None


# ---------------------------------------------------------------- one graph


@dataclass
class Scene:
    """A graph with all that is known of its selection."""

    graph: Graph
    names: Mapping[Node, str]
    coverage: Coverage
    failure: Uncovered | None = None
    _misses: dict[int, Misses] = field(default_factory=dict)

    @property
    def selections(self) -> list[Selection]:
        return self.coverage.selections

    @cached_property
    def calls(self) -> dict[Node, list[Made]]:
        """The calls that yield each value."""
        found: dict[Node, list[Made]] = {}
        for made in self.coverage.made:
            for root in made.match.roots if made.match else ():
                if root is not None:
                    found.setdefault(root, []).append(made)
        return found

    @cached_property
    def parts(self) -> set[Node]:
        """The nodes inside of an operator of the source that is several nodes."""
        return {
            child
            for node, name in self.names.items()
            for child in node.children
            if self.names.get(child) == name
        }

    def called(self, node: Node) -> str:
        """What messages call a value: as the model does, else as the program's call that computes
        it, else by its expression."""
        if node in self.names:
            return f"a part of {self.names[node]}" if node in self.parts else self.names[node]
        match node:
            case Input(name):
                return name
            case Cast(x, to):
                return f"{self.called(x)} as {to}"
            case View(x) if x.children and x not in self.names:
                return f"a view of {self.called(x)}"
        if node in self.calls:
            return self.calls[node][0].call.name
        text = show(shallow(node))
        return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."

    def selection_of(self, node: Node) -> Selection | None:
        """The selection in which a value is: that of the graph, or of a recurrence."""
        for selection in self.selections:
            if node in selection.users:
                return selection
        return None

    def misses(self, selection: Selection) -> Misses:
        """What looks for near misses; its searches are kept."""
        key = id(selection)
        if key not in self._misses:
            assert isinstance(selection.finder, Meaning)
            self._misses[key] = Misses(selection.finder, selection.choosing, self.called)
        return self._misses[key]

    # -- the whole graph

    def report(self) -> GraphReport:
        coverage = self.coverage
        every = sum(made.call.operations for made in coverage.made)
        rows = [self.row(name, some, every) for name, some in coverage.by_instruction.items()]
        rows.sort(key=lambda row: (-row.operations, -row.cycles))
        finders = [s.finder for s in self.selections if isinstance(s.finder, Meaning)]
        capped = {self.called(node) for f in finders for node in f.cones.capped}
        matches = coverage.matches
        return GraphReport(
            self.graph.name,
            tuple(rows),
            total_of(made for made in coverage.made if made.fused),
            total_of(made for made in coverage.made if not made.fused),
            tuple(self.called(node) for node in self.uncovered()),
            tuple(sorted(capped)),
            coverage.proved,
            len(matches) - coverage.proved,
            coverage.error,
        )

    def row(self, name: str, some: Sequence[Made], every: int) -> Row:
        total = total_of(some)
        matches = list(dict.fromkeys(made.match for made in some if made.match is not None))
        proved = sum(match.stamp == PROVED for match in matches)
        sizes = self.graph.sizes()
        return Row(
            name,
            total.calls,
            total.nodes,
            total.operations,
            total.operations / every if every else 0.0,
            total.bytes,
            sum(made.cycles(sizes) for made in some),
            proved,
            len(matches) - proved,
            max((match.error for match in matches), default=0.0),
        )

    def uncovered(self) -> list[Node]:
        """The values that nothing computes, although what they are computed from may be there."""
        if self.failure is None:
            return []
        options = self.failure.selection.options_of
        return [self.failure.node] + [
            node for node, some in options.items() if not some and node is not self.failure.node
        ]

    def failures(self) -> list[NodeReport]:
        """The nodes that nothing computes, each followed by what is computed from it that some
        instruction nearly computes: that would have helped too."""
        found: dict[Node, NodeReport] = {}
        for node in self.uncovered()[:MOST_UNCOVERED]:
            found.setdefault(node, self.node(node))
            for above in self.above(node):
                if above not in found and (report := self.node(above)).misses:
                    found[above] = report
        return list(found.values())

    def above(self, node: Node) -> list[Node]:
        """What is computed from a node, the nearest first."""
        selection = self.selection_of(node)
        if selection is None or not isinstance(selection.finder, Meaning):
            return []
        users = selection.finder.around.users
        found = [node]
        for each in found:  # it grows on the way
            found += [u for u in users[each] if u is not None and u not in found]
            if len(found) > MOST_ABOVE:
                break
        return found[1:]

    # -- one node

    def node(self, node: Node) -> NodeReport:
        chosen = self.computing(node)
        selection = self.selection_of(node)
        root, covering = node, None
        if chosen is not None:
            covering = self.covering(chosen)
            root = node if node in chosen.roots else next(r for r in chosen.roots if r is not None)
        options = self.options(root, chosen, selection) if selection else []
        wanted = selection is not None and isinstance(selection.finder, Meaning)
        misses = self.misses(selection).of(node) if selection is not None and wanted else []
        return NodeReport(
            self.graph.name,
            self.called(node),
            show(shallow(node)),
            self.how(node, chosen),
            covering,
            tuple(options),
            tuple(misses),
        )

    def computing(self, node: Node) -> Match | None:
        """The match that yields a value, or else one that computes it inside."""
        inside = [match for match in self.coverage.matches if node in match.inner]
        yields = [made.match for made in self.calls.get(node, ())]
        return next(iter([*yields, *inside]), None)

    def how(self, node: Node, chosen: Match | None) -> str:
        if chosen is not None:
            name = chosen.instruction.name
            if node in chosen.roots:
                return f"computed by {name}"
            (root, *_) = (r for r in chosen.roots if r is not None)
            return f"computed inside {name}, which yields {self.called(root)}"
        if node in self.uncovered():
            return "nothing computes it"
        if isinstance(node, Opaque):
            return f"computed by {node.operator}, which its operator names"
        if self.failure is not None:
            return "not covered: nothing computes what it needs"
        if stored(node, whole_axes(self.graph.extents)) is not None or is_number(node):
            return "no computation: its readers see through it"
        return "not needed: what others compute makes it superfluous"

    def covering(self, chosen: Match) -> Covering:
        made = [each for each in self.coverage.made if each.match is chosen]
        return Covering(
            made[0].call.unit.name,
            tuple(each.call.name for each in made),
            tuple(self.called(root) for root in chosen.roots if root is not None),
            dict(chosen.binding),
            chosen.loops,
            dict(chosen.immediates),
        )

    def options(self, root: Node, chosen: Match | None, selection: Selection) -> list[Option]:
        """The ways to compute a value, the cheapest first after the one that is taken."""
        weighed = {
            option.match: selection.decision.cycles(option)
            for option in selection.options_of.get(root, ())
        }
        found = []
        for match in filter(attrgetter("stable"), selection.finder(root)):
            why = refusal(match, selection.choosing)
            taken = chosen is not None and _same_call(match, chosen)
            found.append(
                Option(
                    match.instruction.name,
                    self.operands(match),
                    len(match.inner),
                    selection.choosing.cycles(match),
                    weighed.get(match),
                    match.stamp,
                    match.error,
                    "taken" if taken else why or _lost(weighed.get(match)),
                )
            )
        return sorted(
            found, key=lambda o: (o.verdict != "taken", o.verdict != "costs more", o.cycles)
        )

    def operands(self, match: Match) -> tuple[tuple[str, str], ...]:
        given = zip(match.instruction.operands, match.leaves, strict=True)
        return tuple((operand.name, self.called(leaf)) for operand, leaf in given)


def _lost(total: int | float | None) -> str:
    """Why an option was not taken that might have been."""
    return "nothing computes what it reads" if total == inf else "costs more"


def _same_call(match: Match, other: Match) -> bool:
    return match is other or (
        match.instruction is other.instruction and match.leaves == other.leaves
    )


# ---------------------------------------------------------------- a model


def explain(
    model: Model,
    machine: Machine,
    library: Mapping[str, Instruction],
    *,
    node: str | None = None,
    trust: Trust = ANY,
) -> Explanation:
    """What covers what in a model on a machine, and why.

    node   asks about one node too: by the model's name for it or that of the call which computes
           it; so much of it as no other name has will do
    trust  what a match must be to be taken

    A model that cannot be covered is explained as far as it goes; the nodes that nothing computes
    are reported with their nearest misses. CompileError if no node, or more than one, is called so.
    """
    scenes = [*_scenes(model, machine, library, trust)]
    failure = next((scene.failure for scene in scenes if scene.failure), None)
    reports = [report for scene in scenes for report in scene.failures()]
    if node is not None:
        known = {(report.graph, report.what) for report in reports}
        asked = [scene.node(each) for scene, each in named(scenes, node)]
        reports = [*(a for a in asked if (a.graph, a.what) not in known), *reports]
    return Explanation(
        model.name,
        machine.name,
        tuple(scene.report() for scene in scenes),
        unused(scenes, machine, library),
        near(scenes, library),
        tuple(reports),
        failure,
    )


def _scenes(
    model: Model, machine: Machine, library: Mapping[str, Instruction], trust: Trust
) -> Iterator[Scene]:
    opcodes: dict[object, Opcode] = {}
    for graph in model.graphs:
        form = canonical_graph(graph)
        names = canonical_names(graph, form)
        try:
            _, coverage = cover_and_report(
                model, graph, machine, library, form=form, opcodes=opcodes, trust=trust
            )
            yield Scene(graph, names, coverage)
        except Uncovered as failure:
            yield Scene(graph, names, Coverage([], [failure.selection]), failure)


def named(scenes: Sequence[Scene], name: str) -> list[tuple[Scene, Node]]:
    """The nodes of a name, or of the only name that begins with it or has it inside: where an
    operator is several nodes, the one that ends it."""
    every: dict[str, list[tuple[Scene, Node]]] = {}
    for scene in scenes:
        for node, title in scene.names.items():
            every.setdefault(title, []).append((scene, node))
        for node, made in scene.calls.items():
            if node not in scene.names:
                every.setdefault(made[0].call.name, []).append((scene, node))
    for fits in (str.__eq__, str.startswith, str.__contains__):
        found = [title for title in every if fits(title, name)]
        if len(found) == 1:
            nodes = every[found[0]]
            whole = [(scene, node) for scene, node in nodes if node not in scene.parts]
            return whole or nodes
        if found:
            more = f" and {len(found) - MOST_NAMES} more" if len(found) > MOST_NAMES else ""
            names = ", ".join(map(repr, found[:MOST_NAMES]))
            raise CompileError(f"node {name!r}: must be one of {names}{more}")
    close = ", ".join(map(repr, get_close_matches(name, every, 3)))
    hint = f"; is {close} meant?" if close else ""
    raise CompileError(f"node {name!r}: nothing in the model is called so{hint}")


def unused(
    scenes: Sequence[Scene], machine: Machine, library: Mapping[str, Instruction]
) -> dict[str, tuple[str, ...]]:
    """The instructions that nothing was made of, by the reason."""
    used = {made.call.opcode.instruction for scene in scenes for made in scene.coverage.made}
    used |= {match.instruction.name for scene in scenes for match in scene.coverage.matches}
    found: dict[str, list[str]] = {}
    for name, instruction in library.items():
        if name not in used:
            found.setdefault(_why_unused(instruction, scenes, machine), []).append(name)
    return {why: tuple(sorted(names)) for why, names in sorted(found.items())}


def _why_unused(instruction: Instruction, scenes: Sequence[Scene], machine: Machine) -> str:
    if unit_for(instruction, machine) is None:
        return f"needs unit {instruction.unit!r}, which the machine lacks"
    if instruction.opaque:
        return "no operator of the model names it"
    if instruction.states:
        return "a step of another instruction, which was not needed in pieces"
    matches = [
        (match, selection)
        for scene in scenes
        for selection in scene.selections
        if isinstance(selection.finder, Meaning)
        for some in selection.finder.found.values()
        for match in some
        if match.instruction is instruction
    ]
    if not matches:
        return "computes nothing that the model does"
    reasons = [refusal(match, selection.choosing) for match, selection in matches]
    return "found, but others cost less" if "" in reasons else f"found, but {reasons[0]}"


def single(instruction: Instruction) -> bool:
    """Whether an instruction is one operation: it is near to much, which says little."""
    return not any(child.children for output in instruction.outputs for child in output.children)


def near(scenes: Sequence[Scene], library: Mapping[str, Instruction]) -> tuple[Near, ...]:
    """The nearest misses that selection met of instructions that it found nowhere."""
    best: dict[str, tuple[float, Scene, Selection, Node]] = {}
    found: set[str] = set()
    for scene in scenes:
        for selection in scene.selections:
            finder = selection.finder
            if not isinstance(finder, Meaning):
                continue
            found |= {match.instruction.name for some in finder.found.values() for match in some}
            for (local, name), apart in finder.knowledge.near.items():
                if local in finder.places and apart < best.get(name, (1.0,))[0]:
                    best[name] = apart, scene, selection, finder.places[local]
    telling = (row for row in best.items() if row[0] not in found and not single(library[row[0]]))
    rows = sorted(telling, key=lambda row: row[1][0])
    made = []
    for name, (apart, scene, selection, node) in rows[:MOST_NEAR]:
        misses = scene.misses(selection).of(node, only=frozenset([name]))
        why = misses[0].reason if misses else ""
        made.append(Near(name, scene.graph.name, scene.called(node), apart, why))
    return tuple(made)
