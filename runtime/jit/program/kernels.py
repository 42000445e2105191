"""The kernels of a program: each is written at its first use, for all issues that are alike."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from infinisa.isa.instance import find
from infinisa.isa.instruction import Instruction, State
from infinisa.isa.language import (
    Axis,
    Cast,
    Dot,
    Input,
    Map,
    Node,
    Reduce,
    Scan,
    Update,
    everything,
    rebuilt,
    refine,
    walk,
)
from infinisa.isa.program import COPIES, Issue, Opcode, Operand, Program, statements

from ..code.ir import Function
from ..code.processor import Target
from ..contraction.quantised import Format
from ..contraction.weights import Layout, pack_weight
from ..expressions.identities import simplified
from ..expressions.quotients import divided_later
from ..kernels.kernel import Access, Kernel, Shape, axes_of, build, parameters
from ..kernels.written import Written, written_for
from ..rewriting.orders import orders
from ..rewriting.shares import Shares
from ..rewriting.untiled import Meanings
from .plan import Emission


def folding(roots: Sequence[Node]) -> tuple[Node, ...]:
    """Values without folds over no axis: a contraction of which an issue takes one position at a
    time is a product."""
    made: dict[Node, Node] = {}
    for node in walk(roots):
        match rebuilt(node, made):
            case Dot(a, b, ()):
                made[node] = Map("multiply", (a, b))
            case Reduce(function, x, ()) as fold if function != "argmax":
                made[node] = x if x.dtype == fold.dtype else Cast(x, fold.dtype)
            case new:
                made[node] = new
    return tuple(made[root] for root in roots)


FILL = [("x", "ptr noalias"), ("panels", "ptr noalias")]
"""A weight as it came in, and where it goes in another layout."""


@dataclass(frozen=True)
class Meaning:
    """An instruction over a program's axes, and the same over axes a0, a1, ... (`names`): what is
    alike but for names shares a kernel."""

    given: Instruction
    plain: Instruction
    names: Mapping[Axis, Axis]
    written: Written | None = None

    @classmethod
    def of(cls, given: Instruction, definition: Instruction, opcode: Opcode) -> Meaning:
        """`given` is what the opcode makes of the definition."""
        if given.opaque:
            return cls(given, given, {})
        names = {axis: f"a{i}" for i, axis in enumerate(axes_of(given))}
        many = {axis: (name,) for axis, name in names.items()}
        operands = [leaf for leaf in refine(given.operands, many) if isinstance(leaf, Input)]
        states = [
            State(leaf, state.initial)
            for state in given.states
            for leaf in refine([state.input], many)
            if isinstance(leaf, Input)
        ]
        plain = replace(
            given,
            operands=tuple(operands),
            states=tuple(states),
            outputs=simplified(divided_later(folding(refine(given.outputs, many)))),
        )
        return cls(given, plain, names, written_for(definition, opcode, names))

    @cached_property
    def beside(self) -> frozenset[int]:
        """The operands that it does not only take as sides of contractions."""
        given = self.given
        if given.opaque or given.native:
            return frozenset(range(len(given.operands)))
        found = set(given.outputs)
        for node in everything(given.outputs):
            if not isinstance(node, Dot):
                found.update(node.children)
        return frozenset(i for i, leaf in enumerate(given.operands) if leaf in found)

    @property
    def key(self) -> tuple[object, ...]:
        states = tuple((state.input, state.initial) for state in self.plain.states)
        return self.plain.operands, self.plain.outputs, states


@dataclass(frozen=True)
class Made:
    """A kernel: its name, what it was written for, the operands that it takes in another layout,
    those that it reads as they are."""

    name: str
    shape: Shape
    packings: Mapping[int, Layout]
    plain: frozenset[int]


def rowwise(meaning: Instruction) -> bool:
    """Whether an instruction computes neither contractions nor step by step."""
    return not any(isinstance(n, Dot | Scan | Update) for n in everything(meaning.outputs))


def one_row(shape: Shape, single: Collection[Axis]) -> Shape:
    """A kernel as it is for one position of some axes."""

    def row(access: Access) -> Access:
        pairs = zip(access.axes, access.strides, strict=True)
        return replace(access, strides=tuple(0 if a in single else s for a, s in pairs))

    return replace(
        shape,
        reads=tuple(map(row, shape.reads)),
        writes=tuple(map(row, shape.writes)),
        axes=tuple((a, s, 1 if a in single else n) for a, s, n in shape.axes),
        bounds=tuple((a, 1 if a in single else n) for a, n in shape.bounds),
    )


class Kernels:
    """The kernels of a program: one for each instruction on operands of one shape."""

    def __init__(
        self,
        program: Program,
        meanings: Meanings,
        target: Target,
        emission: Emission,
        form: Format | None = None,
    ) -> None:
        self.form = form
        self.program, self.given, self.target = program, meanings, target
        self.emission, self.module = emission, emission.module
        self.shares = Shares(program.buffer, emission.plan.threads, target.lanes, emission.worth)
        self.pieces: Iterator[int] = itertools.count()
        self.made: dict[Shape, Made] = {}
        self.written: dict[tuple[object, ...], str] = {}
        self.meanings: dict[tuple[str, tuple[str, ...]], Meaning] = {}
        self.weights = packable(self.program, self.meaning, every=bool(form))
        emission.plan.orders = orders(program, lambda *issue: self.meaning(*issue).given)
        self.read = {
            operand.buffer
            for section in self.program.sections
            for stage in section.stages
            for item in statements(stage.body)
            if isinstance(item, Issue)
            for operand in item.reads
        }

    def meaning(self, opcode: Opcode, reads: Sequence[Operand]) -> Meaning:
        """What an opcode means on buffers of these types."""
        types = tuple(self.program.buffer[operand.buffer].dtype for operand in reads)
        key = opcode.name, types
        if key not in self.meanings:
            given = self.given.of(opcode, types)
            definition = find(opcode.instruction, self.given.library)
            self.meanings[key] = Meaning.of(given, definition, opcode)
        return self.meanings[key]

    def kernel(self, shape: Shape, meaning: Instruction) -> Made:
        """The function; it is written at the first use, if none that is there serves."""
        if shape not in self.made and (other := self.serving(shape, meaning)):
            self.made[shape] = other
        if shape not in self.made:
            given = parameters(shape)
            f = Function(self.module, f"kernel{len(self.made)}", given)
            kernel = Kernel(f, self.target, Kernel.new_frame())
            kernel.weights = self.form
            build(kernel, meaning, shape, self.emission.bodies)
            self.emission.plan.scratch = max(self.emission.plan.scratch, kernel.largest)
            code = "\n".join(f.lines)
            mentioned = {i for i in range(len(shape.reads)) if re.search(rf"%r{i}\b", code)}
            name = self.written.setdefault((code, *given), f.name)
            if name != f.name:  # of another shape, but the same text
                self.module.functions.pop()
            self.made[shape] = Made(name, shape, kernel.packings, frozenset(mentioned))
        return self.made[shape]

    def serving(self, shape: Shape, meaning: Instruction) -> Made | None:
        """A kernel of rows whose number is known late, for one row: such as one token's in the
        place of a prompt's. Contractions of one row are others."""
        single = frozenset(axis for axis, _, length in shape.axes if length == 1)
        if not single or shape.written or not rowwise(meaning):
            return None
        wanted = one_row(shape, single)
        for known, made in self.made.items():
            late = all(n is None or n == 1 for axis, _, n in known.axes if axis in single)
            if late and known.meaning == shape.meaning and one_row(known, single) == wanted:
                return made
        return None

    def packed(self, buffer: str, layout: Layout) -> int:
        """The place of a weight in another layout in the table of buffers."""
        emission = self.emission
        if layout not in emission.plan.fills and not layout.form:
            name = emission.plan.fills[layout] = f"pack{len(emission.plan.fills)}"
            f = Function(self.module, name, FILL, public=True)
            kernel = Kernel(f, self.target, Kernel.new_frame())
            pack_weight(kernel, layout)
            f.done()
        known = emission.plan.packed
        return known.setdefault((buffer, layout), len(self.program.buffers) + len(known))


def packable(
    program: Program, meaning: Callable[[Opcode, Sequence[Operand]], Meaning], every: bool
) -> frozenset[str]:
    """Weights that a session may keep in panels: those that contractions alone read, each as it is;
    or `every` one, also beside what it came in."""
    found = {buffer.name for buffer in program.of_kind("weight")}
    if every:
        return frozenset(found)
    for section in program.sections:
        for stage in section.stages:
            for issue in statements(stage.body):
                if isinstance(issue, Issue):
                    found -= _read_otherwise(issue, program.opcode[issue.opcode], meaning)
    return frozenset(found)


def _read_otherwise(
    issue: Issue, opcode: Opcode, meaning: Callable[[Opcode, Sequence[Operand]], Meaning]
) -> set[str]:
    """The buffers that an issue does not only take as sides of contractions."""
    if opcode.instruction in COPIES:
        return {operand.buffer for operand in issue.reads}
    beside = meaning(opcode, issue.reads).beside
    pairs = enumerate(issue.reads)
    return {read.buffer for place, read in pairs if place in beside or read.fill is not None}
