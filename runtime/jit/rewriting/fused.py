"""An issue and what follows it number by number as one instruction.

What lies between them, such as a product to which a residual is added, is then no tensor in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from infinisa.isa.dtypes import is_float
from infinisa.isa.instruction import Instruction
from infinisa.isa.language import (
    Axis,
    Cast,
    Constant,
    Immediate,
    Input,
    Map,
    Node,
    refine,
    walk,
)
from infinisa.isa.program import Issue, Opcode

from ..expressions.expression import rounds


def elementwise(meaning: Instruction) -> bool:
    """Whether each number of its one result follows from the numbers at the same position."""
    if meaning.opaque or meaning.native or meaning.states or len(meaning.outputs) != 1:
        return False
    return all(
        isinstance(n, Map | Input | Constant | Immediate) or (isinstance(n, Cast) and rounds(n))
        for n in walk(meaning.outputs)
    )


def rounded(node: Node) -> Node:
    """A result as it would be in memory: a product is not one operation with a sum behind it, or
    0.7 * 10 - 7 would be less than 0."""
    product = isinstance(node, Map) and node.function in ("multiply", "negate")
    return Cast(node, node.dtype) if product and is_float(node.dtype) else node


def fused(
    issues: tuple[Issue, Issue],
    opcodes: tuple[Opcode, Opcode],
    meanings: tuple[Instruction, Instruction],
) -> tuple[Issue, Opcode, Instruction] | None:
    """One issue for two, its opcode and what that means; the second, an element-wise one, reads
    what the first writes. None: not at the same positions."""
    (first, second), (before, after), (left, right) = issues, opcodes, meanings
    place = second.reads.index(first.writes[0])
    names = _names(before.results[0], after.operands[place])
    ranges = dict(first.axes)
    if names is None or any(not set(axes) <= {*names, ""} for axes in after.results):
        return None
    loops = {axis for axis, _ in second.axes} - {a for axes in after.operands for a in axes}
    pairs = [(names.get(axis, ""), name) for axis, name in second.axes if axis not in loops]
    if any(ranges.get(axis) != name for axis, name in pairs):
        return None
    operands = [_renamed(axes, names) for axes in after.operands]
    leaves = [
        Input(f"{leaf.name} {len(left.operands)}", _renamed(leaf.axes, names), leaf.dtype)
        for leaf in right.operands
    ]
    read = list(zip(first.reads, before.operands, left.operands, strict=True))
    for n, (operand, axes) in enumerate(zip(second.reads, operands, strict=True)):
        same = [leaf for *known, leaf in read if known == [operand, axes]]
        if same:
            leaves[n] = same[0]
        elif n != place:
            read.append((operand, axes, leaves[n]))
    known: dict[Node, Node] = dict(zip(right.operands, leaves, strict=True))
    known[right.operands[place]] = rounded(left.outputs[0])
    opcode = replace(
        before,
        name=f"{before.name}, {after.name} of {place}",
        operands=tuple(axes for _, axes, _ in read),
        results=tuple(_renamed(axes, names) for axes in after.results),
        outputs=after.outputs,
    )
    meaning = replace(
        left,
        name=opcode.name,
        operands=tuple(leaf for *_, leaf in read),
        outputs=refine(right.outputs, {old: (new,) for old, new in names.items()}, known),
    )
    reads = tuple(operand for operand, *_ in read)
    issue = replace(first, opcode=opcode.name, reads=reads, writes=second.writes)
    return issue, opcode, meaning


def _names(new: Sequence[Axis], old: Sequence[Axis]) -> dict[Axis, Axis] | None:
    """The first's axes by the second's, of the dimensions of what is between them."""
    pairs = [(one, other) for one, other in zip(old, new, strict=True) if one or other]
    names = dict(pairs)
    matched = all(one and other for one, other in pairs)
    return names if matched and len(names) == len(set(names.values())) == len(pairs) else None


def _renamed(axes: Sequence[Axis], names: dict[Axis, Axis]) -> tuple[Axis, ...]:
    return tuple(names[axis] if axis else axis for axis in axes)
