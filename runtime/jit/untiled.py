"""Loops around contractions undone: native code blocks a contraction for its caches itself.

A program made for a machine with a cache takes its products in tiles. As each tile is a region of
tensors in outer memory, tiles that are computed without each other are one issue over the whole,
and so are the pieces of a sum and what finishes it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from infinisa.isa.instance import resolve
from infinisa.isa.instruction import Instruction
from infinisa.isa.language import Dot, Reduce, Scan, Update, walk
from infinisa.isa.program import (
    COPIES,
    Issue,
    Loop,
    Opcode,
    Operand,
    Program,
    Stage,
    Statement,
    statements,
)

from .shares import Shares, narrowed


def untiled(program: Program, library: Mapping[str, Instruction]) -> Program:
    """The program with fewer, larger issues of its contractions; values are the same."""
    return _Untiling(program, library).program()


@dataclass
class _Untiling:
    given: Program
    library: Mapping[str, Instruction]
    opcodes: dict[str, Opcode] = field(init=False)
    uses: Counter[str] = field(init=False)
    shares: Shares = field(init=False)

    def __post_init__(self) -> None:
        self.opcodes = dict(self.given.opcode)
        self.uses = Counter(
            operand.buffer
            for section in self.given.sections
            for stage in section.stages
            for item in statements(stage.body)
            if isinstance(item, Issue)
            for operand in (*item.reads, *item.writes)
        )
        self.shares = Shares(self.given, threads=1, lanes=1)

    def program(self) -> Program:
        sections = tuple(
            replace(section, stages=tuple(map(self.stage, section.stages)))
            for section in self.given.sections
        )
        return replace(self.given, sections=sections, opcodes=tuple(self.opcodes.values()))

    def stage(self, stage: Stage) -> Stage:
        return replace(stage, body=tuple(self.each(stage.body)))

    def each(self, items: Sequence[Statement]) -> list[Statement]:
        found: list[Statement] = []
        for item in items:
            found.append(self.loop(item) if isinstance(item, Loop) else item)
            while len(found) > 1 and (one := self.joined(found[-2], found[-1])):
                found[-2:] = [one]
        return found

    def loop(self, loop: Loop) -> Statement:
        body = tuple(self.each(loop.body))
        loop = replace(loop, body=body)
        if len(body) > 1 or loop.ahead or loop.spread or not isinstance(body[0], Issue):
            return loop
        return self.over_all(loop, body[0]) or loop

    # -- one loop around one issue

    def over_all(self, loop: Loop, issue: Issue) -> Issue | None:
        """The issue over the loop's whole range, if that is the same."""
        meaning = self.contraction(issue)
        axes = [axis for axis, name in issue.axes if name == loop.range]
        if meaning is None or len(axes) != 1:
            return None
        opcode, operands = self.opcodes[issue.opcode], (*issue.reads, *issue.writes)
        terms = [term for o in operands for d in o.dimensions for term in d.terms]
        if any(term.base == loop.range for term in terms):
            return None
        (dot,) = (node for node in walk(meaning.outputs) if isinstance(node, Dot))
        if axes[0] in dot.over:
            written = {t.range for o in issue.writes for d in o.dimensions for t in d.terms}
            alike = loop.range in (issue.fresh or ()) and loop.range not in written
        else:
            alike = loop.range not in (issue.fresh or ())
            alike = alike and all(self.given.buffer[o.buffer].outer for o in operands)
            alike = alike and self.shares.apart(issue)
            alike = alike and loop.range in self.shares.ranges(issue, opcode, meaning)
        return _renamed(issue, loop.range, loop.parent) if alike else None

    def contraction(self, issue: Issue) -> Instruction | None:
        """What an issue means, if that is one sum of products and nothing else that needs loops of
        its own: others are computed in rows, so their tiles are what they keep in caches."""
        opcode = self.opcodes[issue.opcode]
        if opcode.instruction in COPIES:
            return None
        types = [self.given.buffer[operand.buffer].dtype for operand in issue.reads]
        meaning = resolve(opcode, types, self.library)
        if meaning.opaque or meaning.native:
            return None
        nodes = list(walk(meaning.outputs))
        folds = [node for node in nodes if isinstance(node, Dot | Reduce | Scan | Update)]
        return meaning if len(folds) == 1 and isinstance(folds[0], Dot) else None

    # -- the step of a sum and what finishes it

    def joined(self, first: Statement, second: Statement) -> Issue | None:
        """The instruction that both issues are the pieces of."""
        if not isinstance(first, Issue) or not isinstance(second, Issue) or first.fresh:
            return None
        step, finish = (self.opcodes[issue.opcode] for issue in (first, second))
        base, _, part = step.instruction.rpartition(".")
        whole = self.library.get(base)
        if whole is None or (part, finish.instruction) != ("step", f"{base}.finish"):
            return None
        (total,), reads = first.writes, second.reads
        only = self.uses[total.buffer] == 2 and not self.given.buffer[total.buffer].outer
        if total != reads[0] or not only or whole.native or self.contraction(first) is None:
            return None
        found = self.operands(whole, (first, step), (second, finish))
        if found is None:
            return None
        opcode, operands = found
        axes = dict((*first.axes, *second.axes))
        issue = replace(second, opcode=opcode.name, reads=operands, axes=tuple(axes.items()))
        if not self.shares.apart(issue) or self.known(opcode) != opcode:
            return None
        return issue

    def operands(
        self, whole: Instruction, *parts: tuple[Issue, Opcode]
    ) -> tuple[Opcode, tuple[Operand, ...]] | None:
        """The opcode of the whole and what it reads, by the names of operands of its pieces."""
        given: dict[str, tuple[Operand, tuple[str, ...]]] = {}
        for issue, opcode in parts:
            types = [self.given.buffer[operand.buffer].dtype for operand in issue.reads]
            leaves = resolve(opcode, types, self.library).operands
            for leaf, operand, axes in zip(leaves, issue.reads, opcode.operands, strict=True):
                if given.setdefault(leaf.name, (operand, axes)) != (operand, axes):
                    return None
        step, finish = (opcode for _, opcode in parts)
        pairs = [given[leaf.name] for leaf in whole.operands]
        opcode = replace(
            finish,
            name=f"{step.name.removesuffix('.step')} whole",
            instruction=whole.name,
            meaning=whole.meaning,
            binding=tuple(dict((*step.binding, *finish.binding)).items()),
            immediates=tuple(dict((*step.immediates, *finish.immediates)).items()),
            operands=tuple(axes for _, axes in pairs),
            limits=(),
        )
        return opcode, tuple(operand for operand, _ in pairs)

    def known(self, opcode: Opcode) -> Opcode:
        return self.opcodes.setdefault(opcode.name, opcode)


def _renamed(issue: Issue, old: str, new: str) -> Issue:
    """The issue over another range; it starts anew whatever the old one is at."""
    fresh = None if issue.fresh is None else tuple(name for name in issue.fresh if name != old)
    return replace(narrowed(issue, old, new), fresh=fresh)
