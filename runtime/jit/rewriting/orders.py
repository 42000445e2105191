"""The order in which dimensions of kept tensors lie in memory.

A product that takes one head of a cache after the other would read short runs of memory, far
apart. So axes that are in both sides of every product with such a tensor, and in its result, lie
outermost: what one product reads is one run. Sessions show the tensor as it is declared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from infinisa.isa.instruction import Instruction
from infinisa.isa.language import Dot, Node, everything, walk
from infinisa.isa.program import COPIES, Issue, Opcode, Operand, Program, statements

Meant: TypeAlias = Callable[[Opcode, Sequence[Operand]], Instruction]

NONE: frozenset[int] = frozenset()


def orders(program: Program, meaning: Meant) -> dict[str, tuple[int, ...]]:
    """The dimensions of kept tensors from the outermost on, of those that are in another order
    than declared. `meaning`: what an opcode means on operands."""
    kept = {buffer.name for buffer in program.of_kind("state") if buffer.outer}
    batches: dict[str, frozenset[int]] = {}
    for issue in _issues(program):
        opcode = program.opcode[issue.opcode]
        touched = kept & {operand.buffer for operand in (*issue.reads, *issue.writes)}
        if touched and opcode.instruction not in COPIES:
            for name, dimensions in _batches(issue, opcode, meaning(opcode, issue.reads)):
                if name in touched:
                    batches[name] = batches.get(name, dimensions) & dimensions
    _agree(program, batches)
    found = {}
    for name, first in batches.items():
        rank = range(len(program.buffer[name].shape))
        order = (*sorted(first), *(dimension for dimension in rank if dimension not in first))
        if order != (*rank,):
            found[name] = order
    return found


def _issues(program: Program) -> Iterator[Issue]:
    for section in program.sections:
        for stage in section.stages:
            yield from (item for item in statements(stage.body) if isinstance(item, Issue))


def _batches(
    issue: Issue, opcode: Opcode, given: Instruction
) -> Iterator[tuple[str, frozenset[int]]]:
    """Buffers that products of an issue read, and the dimensions that both sides have. None of one
    that an opaque instruction touches, whose body wants it as declared."""
    if given.opaque:
        yield from ((operand.buffer, NONE) for operand in (*issue.reads, *issue.writes))
        return
    for dot in everything(given.outputs):
        if not isinstance(dot, Dot):
            continue
        batch = {*dot.a.axes} & {*dot.b.axes} & {*dot.axes}
        below: set[Node] = {*walk([dot.a, dot.b])}
        for leaf, operand, axes in zip(given.operands, issue.reads, opcode.operands, strict=True):
            if leaf in below:
                yield operand.buffer, frozenset(d for d, axis in enumerate(axes) if axis in batch)


def _agree(program: Program, batches: dict[str, frozenset[int]]) -> None:
    """Of stages that are alike one function is made: tensors that stand for each other there have
    one order."""
    places: dict[tuple[int, int, int], set[str]] = {}
    for section, likes in enumerate(program.likes):
        for like in likes:
            for place, name in enumerate(like.buffers):
                places.setdefault((section, like.first, place), set()).add(name)
    groups = [names for names in places.values() if any(batches.get(name) for name in names)]
    changed = True
    while changed:
        changed = False
        for names in groups:
            common = frozenset.intersection(*(batches.get(name, NONE) for name in names))
            changed = changed or any(batches.get(name, NONE) != common for name in names)
            batches |= dict.fromkeys(names, common)
