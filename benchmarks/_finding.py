"""All that a finder finds in a model, and what of it the compiler takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields

from infinisa.compiler.builder import Builder
from infinisa.compiler.equality.canonical import canonical
from infinisa.compiler.equality.surroundings import Surroundings
from infinisa.compiler.graph import Model
from infinisa.compiler.selection.cover import MakeFinder, cover_and_report
from infinisa.compiler.selection.coverage import Coverage
from infinisa.compiler.selection.match import Finder, Match
from infinisa.isa.errors import CompileError
from infinisa.isa.functions import FUNCTIONS
from infinisa.isa.instruction import Instruction
from infinisa.isa.language import (
    Axis,
    Constant,
    Dot,
    Map,
    Node,
    inputs,
    substitute,
    walk,
)
from infinisa.isa.machine import Machine

Library = Mapping[str, Instruction]


@dataclass
class Found:
    """Every match that a finder offered, and what was taken."""

    matches: list[Match] = field(default_factory=list)
    coverage: Coverage = field(default_factory=Coverage)

    def offered(self, name: str) -> int:
        """At how many values an instruction was found."""
        named = (match for match in self.matches if match.instruction.name == name)
        return len({match.roots for match in named})

    def taken(self, name: str) -> int:
        share = self.coverage.instructions.get(name)
        return share.calls if share else 0


@dataclass
class _Listening:
    """A finder that keeps what another finds."""

    finder: Finder
    matches: list[Match]

    def __call__(self, root: Node) -> list[Match]:
        found = list(self.finder(root))
        self.matches += (match for match in found if match.stable)
        return found


def found_in(
    model: Model,
    machine: Machine,
    library: Library,
    finder: MakeFinder | None = None,
    whole: bool = True,
) -> Found:
    """What a finder (None: the compiler's own) finds in the graphs of a model; CompileError if
    something is not covered although the `whole` must be."""
    found = Found()
    make = finder or own_finder()

    def listening(known: Iterable[Instruction], around: Surroundings) -> Finder:
        return _Listening(make(known, around), found.matches)

    for graph in model.graphs:
        try:
            _, coverage = cover_and_report(model, graph, machine, library, finder=listening)
        except CompileError:
            if whole:
                raise
        else:
            found.coverage.made += coverage.made
    return found


def own_finder() -> MakeFinder:
    """The finder that the compiler uses if it is given none."""
    made: MakeFinder = (cover_and_report.__kwdefaults__ or {})["finder"]
    return made


# ---------------------------------------------------------------- structure


@dataclass
class Structural:
    """Of what the compiler's finder finds, what is written as the instruction is: the same
    functions in the same places, the terms of a sum or a product in any order and grouping."""

    library: Iterable[Instruction]
    around: Surroundings

    def __post_init__(self) -> None:
        self.finder = own_finder()(self.library, self.around)

    def __call__(self, root: Node) -> list[Match]:
        return [match for match in self.finder(root) if self.alike(match)]

    def alike(self, match: Match) -> bool:
        if len(match.inner) == 1:
            return True  # one operation is what it is, such as a >= b for b <= a
        numbers: dict[Node, Node] = {i: Constant(i.default) for i in match.meaning.immediates}
        leaves: dict[Node, Node] = dict(zip(match.meaning.operands, match.leaves, strict=True))
        outputs = substitute(match.meaning.outputs, numbers)
        forms = substitute(canonical(outputs, self.around.sizes).roots, leaves)
        return all(
            root is None or written(root) == written(form)
            for root, form in zip(match.roots, forms, strict=True)
        )


def written(root: Node) -> int:
    """A hash of an expression in which sums and products have no order."""
    made: dict[Node, int] = {}
    for node in walk([root]):
        parts = [made[child] for child in terms(node)]
        if isinstance(node, Dot) or getattr(node, "function", "") in COMMUTATIVE:
            parts.sort()
        made[node] = hash((label(node), *parts))
    return made[root]


COMMUTATIVE = {name for name, function in FUNCTIONS.items() if function.commutative}


def terms(node: Node) -> list[Node]:
    """What a sum or a product is made of, through others; else the arguments."""
    if not isinstance(node, Map) or node.function not in ("add", "multiply"):
        return list(node.children)
    found: list[Node] = []
    for child in node.arguments:
        same = isinstance(child, Map) and child.function == node.function
        found += terms(child) if same else [child]
    return found


def label(node: Node) -> str:
    """A node without its arguments; numbers to six places."""
    if isinstance(node, Constant):
        return f"{float(node.value):.6g}"
    own = [getattr(node, field.name) for field in fields(node)]
    return f"{type(node).__name__} {[v for v in own if not _has_nodes(v)]}"


def _has_nodes(value: object) -> bool:
    return isinstance(value, Node) or (
        isinstance(value, tuple) and any(isinstance(part, Node) for part in value)
    )


def model_of(root: Node, sizes: Mapping[Axis, int]) -> Model:
    """A model that computes one value of its inputs."""
    b = Builder("cone")
    for axis, size in sizes.items():
        b.axis(axis, size)
    for leaf in inputs([root]):
        axes = " ".join(leaf.axes)
        b.input(leaf.name, f"{axes}: {leaf.dtype}", [sizes[axis] for axis in leaf.axes])
    b.graph("main").output("y", root)
    return b.model()
