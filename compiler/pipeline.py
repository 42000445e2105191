"""The compiler on one page: what each stage makes of a model, in order."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

from infinisa.isa.assembly import to_text
from infinisa.isa.errors import CompileError, InfinisaError
from infinisa.isa.garbage import uncollected
from infinisa.isa.instruction import Instruction
from infinisa.isa.language import Input, show, walk
from infinisa.isa.machine import Machine
from infinisa.isa.program import Opcode, Program
from infinisa.isa.verify import verify

from .calls import Access, Covered
from .chunk import Chunking
from .equality.canonical import Canonical
from .graph import Model
from .layers import Fold, folded
from .schedule.cost import Group
from .schedule.emit import emit
from .schedule.tile import schedule
from .selection.choice import ANY, Trust
from .selection.cover import canonical_graph, cover_and_report
from .selection.coverage import Coverage
from .unfold import Unfolded, Unlike

Progress = Callable[..., None]


@dataclass
class Compilation:
    """A model on its way to a program: each stage adds its part.

    folds     graphs of which only few of the layers that are alike are compiled, by name
    forms     the canonical form of each graph
    covered   each graph as calls, and `coverage` by graph
    groups    the calls of each graph in scheduled groups
    program   the result
    """

    model: Model
    machine: Machine
    library: Mapping[str, Instruction]
    trust: Trust = ANY
    folds: dict[str, Fold] = field(default_factory=dict)
    forms: list[Canonical] = field(default_factory=list)
    covered: list[Covered] = field(default_factory=list)
    coverage: dict[str, Coverage] = field(default_factory=dict)
    groups: list[list[Group]] = field(default_factory=list)
    made: Program | None = None

    @property
    def program(self) -> Program:
        if self.made is None:
            raise CompileError(f"model {self.model.name!r} has not been compiled to its end")
        return self.made

    # -- the stages

    def fold(self) -> None:
        """Of layers that are alike only a few."""
        found = {graph.name: folded(self.model, graph) for graph in self.model.graphs}
        self.folds = {name: fold for name, fold in found.items() if fold is not None}
        graphs = [
            self.folds[g.name].graph if g.name in self.folds else g for g in self.model.graphs
        ]
        self.model = replace(self.model, graphs=tuple(graphs))

    def canonicalise(self) -> None:
        """One form for expressions that are equal over the reals."""
        self.forms = [canonical_graph(graph) for graph in self.model.graphs]

    def chunk(self) -> None:
        """Recurrences in chunks, where that is faster."""
        chunking = Chunking(self.model, self.machine, self.library)
        pairs = zip(self.model.graphs, self.forms, strict=True)
        done = [chunking(graph, form) for graph, form in pairs]
        self.model = replace(self.model, graphs=tuple(graph for graph, _ in done))
        self.forms = [form for _, form in done]

    def cover(self) -> None:
        """Which instruction computes what."""
        opcodes: dict[object, Opcode] = {}
        for graph, form in zip(self.model.graphs, self.forms, strict=True):
            covered, self.coverage[graph.name] = cover_and_report(
                self.model, graph, self.machine, self.library, form=form, opcodes=opcodes,
                trust=self.trust,
            )  # fmt: skip
            self.covered.append(covered)

    def schedule(self) -> None:
        """Which calls share loops, in tiles of what size."""
        given = self.model.parameters
        self.groups = [schedule(each, self.machine, parameters=given) for each in self.covered]

    def unfold(self) -> None:
        """The layers that were left out, from those that they are like."""
        graphs = [
            self.folds[g.name].whole if g.name in self.folds else g for g in self.model.graphs
        ]
        self.model = replace(self.model, graphs=tuple(graphs))
        try:
            for n, graph in enumerate(graphs):
                if graph.name in self.folds:
                    few, groups = self.covered[n], self.groups[n]
                    unfolded = Unfolded(self.model, self.folds[graph.name], few)
                    self.covered[n] = unfolded.covered()
                    self.groups[n] = unfolded.groups(groups, self.covered[n].calls)
                    self.coverage[graph.name] = unfolded.coverage(self.coverage[graph.name])
        except Unlike:  # compile all of them
            self.forms, self.covered, self.groups = [], [], []
            for stage in (self.canonicalise, self.chunk, self.cover, self.schedule):
                stage()

    def emit(self) -> None:
        """Loops, buffers and their addresses."""
        parts = list(zip(self.covered, self.groups, strict=True))
        self.made = emit(self.model.name, self.machine, parts, self.model.parameters)

    def verify(self) -> None:
        """Every access in bounds, every rule of programs kept."""
        verify(self.program, self.machine, self.library)

    # -- what they left, as text

    def shown(self, stage: str) -> str:
        match stage:
            case "canonicalise" | "chunk":
                return "\n".join(
                    f"{graph.name}.{name} = {show(root)}"
                    for graph, form in zip(self.model.graphs, self.forms, strict=True)
                    for name, root in zip([*graph.outputs, *graph.updates], form.roots, strict=True)
                )
            case "cover":
                return "\n".join(f"{each.name}:\n{calls_text(each)}" for each in self.covered)
            case "schedule":
                return "\n".join(
                    f"{each.name}: {', '.join(call.name for call in group.calls)} "
                    f"in order {' '.join(group.order)}, tiles {dict(group.tile)}"
                    for each, groups in zip(self.covered, self.groups, strict=True)
                    for group in groups
                )
        return to_text(self.program)


STAGES: Mapping[str, Callable[[Compilation], None]] = {
    "fold": Compilation.fold,
    "canonicalise": Compilation.canonicalise,
    "chunk": Compilation.chunk,
    "cover": Compilation.cover,
    "schedule": Compilation.schedule,
    "unfold": Compilation.unfold,
    "emit": Compilation.emit,
    "verify": Compilation.verify,
}


@uncollected()
def compile_model(
    model: Model,
    machine: Machine,
    library: Mapping[str, Instruction],
    print_after: Collection[str] = (),
    progress: Progress | None = None,
    trust: Trust = ANY,
    fold: bool = True,
) -> Compilation:
    """The model as a program for a machine.

    fold         compile few of the layers that are alike, and write the others from them
    print_after  names of stages after which the state is printed to standard error
    progress     told (stage, number, how many) before each stage
    trust        what a match of an instruction must be to be taken

    A stage that fails names itself in the error.
    """
    if unknown := [name for name in print_after if name not in STAGES]:
        raise CompileError(f"stage must be one of {', '.join(STAGES)}, not {unknown[0]!r}")
    refuse_empty(model)
    work = Compilation(model, machine, library, trust)
    stages = {name: stage for name, stage in STAGES.items() if fold or "fold" not in name}
    for number, (name, stage) in enumerate(stages.items()):
        if progress:
            progress(name, number, len(stages))
        try:
            stage(work)
        except InfinisaError as error:
            error.add_note(f"in stage {name!r} of compiling model {model.name!r}")
            raise
        if name in print_after:
            print(f"--- after {name}", work.shown(name), sep="\n", file=sys.stderr)
    return work


def refuse_empty(model: Model) -> None:
    """No program computes values without elements: CompileError that names the first of them."""
    for graph in model.graphs:
        empty = {extent.axis for extent in graph.extents if not extent.most}
        nodes = {node: f"output {name!r}" for name, node in graph.outputs.items()}
        nodes |= {node: f"node {name!r}" for node, name in graph.names.items() if node not in nodes}
        for node in walk(graph.outputs.values() if empty else ()):
            if node in nodes or isinstance(node, Input):
                what = nodes.get(node, f"input {node.name!r}" if isinstance(node, Input) else "")
                if axes := [axis for axis in node.axes if axis in empty]:
                    raise CompileError(
                        f"model {model.name!r}: {what} must have elements, its axis {axes[0]!r} "
                        "has no positions"
                    )


def calls_text(covered: Covered) -> str:
    """A graph's calls, a line each."""
    lines = []
    for call in covered.calls:
        writes = ", ".join(map(access_text, call.writes))
        reads = ", ".join(map(access_text, call.reads))
        source = f"  # {call.source}" if call.source else ""
        lines.append(f"  {writes} = {call.opcode.name}({reads}){source}")
    return "\n".join(lines)


def access_text(access: Access) -> str:
    dimensions = []
    for index in access.index:
        terms = [axis if stride == 1 else f"{stride}*{axis}" for axis, stride in index.terms]
        if index.offset or not terms:
            terms.append(str(index.offset))
        dimensions.append(" + ".join(terms).replace("+ -", "- "))
    return f"{access.tensor}[{', '.join(dimensions)}]"
