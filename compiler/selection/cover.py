"""Selection: a graph as calls of the instructions that compute it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from infinisa.isa.garbage import uncollected
from infinisa.isa.instruction import Instruction
from infinisa.isa.language import (
    Axis,
    Input,
    Node,
    View,
)
from infinisa.isa.machine import Machine
from infinisa.isa.program import Opcode, Parameter

from ..calls import Covered
from ..equality.canonical import Canonical, canonical
from ..equality.surroundings import Surroundings
from ..graph import Graph, Model, usual_lengths
from .choice import ANY, ROUNDS, Choosing, Selection, Trust
from .coverage import Coverage
from .draft import Drafting, Runs
from .joins import whole_axes
from .layouts import layouts
from .lower import lower
from .match import Finder, Match, Meaning
from .split import faster, possible
from .uncovered import uncovered

MakeFinder = Callable[[Iterable[Instruction], Surroundings], Finder]


def canonical_graph(graph: Graph) -> Canonical:
    """The canonical form of what a graph computes; outputs first, then updates."""
    return canonical(graph.roots, fixed_sizes(graph))


def canonical_names(graph: Graph, form: Canonical) -> dict[Node, str]:
    """What the source called the canonical nodes; a view that went inwards leaves its name."""
    names: dict[Node, str] = {}
    for old, name in graph.names.items():
        if old in form.made:
            names.setdefault(form.made[old], name)
    for old, new in form.made.items():
        if isinstance(old, View) and not isinstance(new, View | Input) and old.x in graph.names:
            names.setdefault(new, graph.names[old.x])
    return names


def fixed_sizes(graph: Graph) -> dict[Axis, int]:
    """The extents that no parameter changes."""
    return {e.axis: e.length.constant for e in graph.extents if not e.length.terms}


def cover(
    model: Model, graph: Graph, machine: Machine, library: Mapping[str, Instruction]
) -> Covered:
    """One graph as calls; CompileError if something of it cannot be computed on the machine."""
    return cover_and_report(model, graph, machine, library)[0]


def cover_and_report(
    model: Model,
    graph: Graph,
    machine: Machine,
    library: Mapping[str, Instruction],
    *,
    form: Canonical | None = None,
    opcodes: dict[object, Opcode] | None = None,
    finder: MakeFinder = Meaning,
    trust: Trust = ANY,
    rounds: int = ROUNDS,
) -> tuple[Covered, Coverage]:
    """As `cover`, and what covers what.

    form     the canonical form of the graph, if it is known
    opcodes  those of the program so far, which graphs share
    finder   finds the instructions for a node
    trust    what a match must be to be taken
    rounds   how many other covers are tried than that with the least sum of cycles
    """
    form = form or canonical_graph(graph)
    choosing = choosing_in(model, graph, machine, library, trust)
    names = canonical_names(graph, form)
    orders = layouts(form.made, graph.sizes())
    in_memory = {new: orders[old] for old, new in reversed([*form.made.items()])}

    selected: dict[tuple[Node, ...], list[tuple[Node, Match | None]]] = {}
    selections: list[Selection] = []

    def select(roots: Sequence[Node]) -> list[tuple[Node, Match | None]]:
        if (key := tuple(roots)) not in selected:
            selection = settled(graph, roots, choosing, finder, rounds)
            selections.append(selection)
            if (node := selection.blame(roots)) is not None:
                raise uncovered(graph, node, names.get(node, ""), selection)
            selected[key] = selection.decision.chosen(roots)
        return selected[key]

    def drafting(runs: Mapping[Match, Runs]) -> Drafting:
        return Drafting(model, graph, choosing, select, names, in_memory, dict(known), runs)

    known: dict[object, Opcode] = {} if opcodes is None else opcodes
    with uncollected():
        drafted, found = _lowered(drafting, form.roots, model.parameters)
    known.update(drafted.opcodes)
    found[1].selections += selections
    return found


def settled(
    graph: Graph,
    roots: Sequence[Node],
    choosing: Choosing,
    finder: MakeFinder = Meaning,
    rounds: int = ROUNDS,
) -> Selection:
    """What there is for some values of a graph in canonical form, and what is chosen."""
    around = Surroundings.of(roots, graph.extents)

    def within(roots: Sequence[Node], axis: Axis) -> Selection:
        sizes, usual = ({**some, axis: 1} for some in (choosing.sizes, choosing.usual))
        fixed = {each: size for each, size in choosing.fixed.items() if each != axis}
        once = replace(choosing, sizes=sizes, usual=usual, fixed=fixed)
        return settled(graph, roots, once, finder, rounds)

    found = finder(choosing.usable(), around)
    selection = Selection(found, choosing, around.users, within, rounds)
    with uncollected():
        selection.settle(roots)
    return selection


def choosing_in(
    model: Model, graph: Graph, machine: Machine, library: Mapping[str, Instruction], trust: Trust
) -> Choosing:
    """What choices in a graph depend on."""
    run_time = frozenset(e.axis for e in graph.extents if e.length.terms)
    usual = usual_lengths(graph.extents, model.parameters)
    return Choosing(
        machine,
        library,
        graph.sizes(),
        usual,
        run_time,
        whole_axes(graph.extents),
        trust,
        graph.layers,
    )


def _lowered(
    drafting: Callable[[Mapping[Match, Runs]], Drafting],
    roots: Sequence[Node],
    parameters: Sequence[Parameter],
) -> tuple[Drafting, tuple[Covered, Coverage]]:
    """The calls of a graph, its reductions divided over cores where that is faster."""
    drafted = drafting({})
    found = lower(drafted, roots)
    if runs := possible(drafted):
        apart = drafting(runs)
        lower(apart, roots)
        if runs := faster(drafted, apart, runs, parameters):
            drafted = drafting(runs)
            found = lower(drafted, roots)
    return drafted, found
