"""The order in which dimensions of kept tensors lie in memory.

A product that takes one head of a cache after the other would read short runs of memory, far apart.
So axes that are in both sides of every product with such a tensor, and in its result, lie outermost:
what one product reads is one run. Everything else sees the tensor as it is declared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from infinisa.isa.instruction import Instruction
from infinisa.isa.language import Dot, Node, everything, walk
from infinisa.isa.program import COPIES, Issue, Opcode, Operand, Program, statements

Meant: TypeAlias = Callable[[Opcode, Sequence[Operand]], Instruction]


def orders(program: Program, meaning: Meant) -> dict[str, tuple[int, ...]]:
    """The dimensions of kept tensors from the outermost on, of those that are in another order
    than declared. `meaning`: what an opcode means on operands."""
    apart = {b.name: None for b in program.of_kind("state") if b.outer and len(b.shape) > 2}
    found: dict[str, frozenset[int]] = {}
    for issue in _issues(program):
        if issue.opcode and program.opcode[issue.opcode].instruction not in COPIES:
            for operand, dimensions in _batches(issue, program.opcode[issue.opcode], meaning):
                if operand in apart:
                    found[operand] = found.get(operand, dimensions) & dimensions
    _agree(program, found)
    ranks = {name: range(len(program.buffer[name].shape)) for name in found}
    made = {
        name: (*sorted(first), *(d for d in ranks[name] if d not in first))
        for name, first in found.items()
    }
    return {name: order for name, order in made.items() if order != tuple(ranks[name])}


def _issues(program: Program) -> Iterator[Issue]:
    for section in program.sections:
        for stage in section.stages:
            yield from (item for item in statements(stage.body) if isinstance(item, Issue))


def _batches(
    issue: Issue, opcode: Opcode, meaning: Meant
) -> Iterator[tuple[str, frozenset[int]]]:
    """Buffers that products of an issue read, and the dimensions that both sides have. None of one
    that an opaque instruction touches, whose body wants it as declared."""
    given = meaning(opcode, issue.reads)
    if given.opaque:
        yield from ((o.buffer, frozenset()) for o in (*issue.reads, *issue.writes))
        return
    for dot in everything(given.outputs):
        if not isinstance(dot, Dot):
            continue
        batch = {*dot.a.axes} & {*dot.b.axes} & {*dot.axes}
        below: set[Node] = {*walk([dot.a, dot.b])}
        for leaf, operand, axes in zip(given.operands, issue.reads, opcode.operands, strict=True):
            if leaf in below:
                dimensions = (d for d, axis in enumerate(axes) if axis in batch)
                yield operand.buffer, frozenset(dimensions)


def _agree(program: Program, found: dict[str, frozenset[int]]) -> None:
    """Of stages that are alike one function is made: tensors that stand for each other there have
    one order."""
    none = frozenset[int]()
    groups: dict[tuple[int, int, int], set[str]] = {}
    for section, likes in enumerate(program.likes):
        for like in likes:
            for place, name in enumerate(like.buffers):
                groups.setdefault((section, like.first, place), set()).add(name)
    shared = [names for names in groups.values() if len(names) > 1 and names & set(found)]
    changed = True
    while changed:
        changed = False
        for names in shared:
            common = frozenset.intersection(*(found.get(name, none) for name in names))
            changed = changed or any(found.get(name, none) != common for name in names)
            found |= dict.fromkeys(names, common)
