"""What the axes and immediates of an instruction stand for in a cone that has its shape."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from infinisa.isa.functions import FUNCTIONS
from infinisa.isa.instruction import Instruction
from infinisa.isa.language import (
    Axis,
    Cast,
    Constant,
    Immediate,
    Map,
    Node,
    Size,
    refine,
    substitute,
    union,
    walk,
)

from .canonical import canonical
from .partial import Partial
from .pattern import MASKED
from .surroundings import Surroundings

ROUNDING = 2.0**-23
"""Numbers this close are one number: a model's file may hold either rounded to f32."""


def bind_axes(
    instruction: Instruction, known: Partial, root: Node
) -> tuple[dict[Axis, tuple[Axis, ...]], tuple[Axis, ...]] | None:
    """What each axis of an instruction stands for, and the axes outside it; None if nothing fits.

    Reduced axes stand for the reduced ones. Every other goes by the operands it occurs in: to the
    axis of the instruction with those operands, or the fewest more (an operand may lack an axis).
    """
    bound: dict[Axis, tuple[Axis, ...]] = {ours: (theirs,) for ours, theirs in known.one.items()}
    if len(set(known.one.values())) != len(known.one):
        return None
    for ours, theirs in known.many:
        if not _bind_reduced(instruction, known, bound, ours, theirs):
            return None
    taken = set(union(bound.values()))
    again = _second_roles(instruction, known, root)
    every = union([root.axes, *(leaf.axes for leaf in known.leaves.values())])
    left = [axis for axis in every if axis not in taken or axis in again]
    loops: list[Axis] = []
    shares: dict[tuple[Axis, ...], list[Axis]] = {}
    open_ = {a: where for a, where in _occurrences(instruction).items() if a not in bound}
    for axis in left:
        where = {name for name, leaf in known.leaves.items() if axis in leaf.axes}
        where -= again.get(axis, frozenset())
        if axis not in root.axes or not where:
            return None
        fitting = [a for a, operands in open_.items() if where <= operands]
        fewest = min((len(open_[a]) for a in fitting), default=0)
        if fitting:
            best = tuple(a for a in fitting if len(open_[a]) == fewest)
            shares.setdefault(best, []).append(axis)
        elif axis not in again:
            loops.append(axis)
    for ours, found in shares.items():
        _deal(instruction, bound, loops, ours, found)
    for axis in instruction.axes:
        if axis not in bound:
            if axis in instruction.indexed or axis in instruction.reduced:
                return None
            bound[axis] = ()
    return bound, tuple(loops)


def _second_roles(
    instruction: Instruction, known: Partial, root: Node
) -> dict[Axis, frozenset[str]]:
    """Axes that are reduced inside and yet in the result, where they came from other operands:
    attention's head width. With each the operands in which it is the reduced one."""
    found: dict[Axis, frozenset[str]] = {}
    results = set(union(output.axes for output in instruction.outputs))
    for ours, theirs in known.many:
        if not results & set(ours):
            names = {o.name for o in instruction.operands if set(ours) & set(o.axes)}
            elsewhere = union(leaf.axes for n, leaf in known.leaves.items() if n not in names)
            found.update((a, frozenset(names)) for a in theirs if a in root.axes and a in elsewhere)
    return found


def _occurrences(instruction: Instruction) -> dict[Axis, frozenset[str]]:
    """The operands in which each axis of the outputs occurs, through windows too."""
    found: dict[Axis, set[str]] = {a: set() for out in instruction.outputs for a in out.axes}
    for operand in instruction.operands:
        for axis in operand.axes:
            window = instruction.windows.get((operand.name, axis))
            for a in window.axes if window else (axis,):
                if a in found:
                    found[a].add(operand.name)
    return {axis: frozenset(names) for axis, names in found.items()}


def _bind_reduced(
    instruction: Instruction,
    known: Partial,
    bound: dict[Axis, tuple[Axis, ...]],
    ours: tuple[Axis, ...],
    theirs: tuple[Axis, ...],
) -> bool:
    """Bind axes that are reduced together; False if they are bound otherwise already."""
    gone = set(union(bound.get(axis, ()) for axis in ours))
    if not gone <= set(theirs):
        return False
    free = [axis for axis in ours if axis not in bound]
    left = [axis for axis in theirs if axis not in gone]
    if not free:
        return not left
    if len(free) == 1:
        bound[free[0]] = tuple(left)
        return bool(left) and (free[0] not in instruction.indexed or len(left) == 1)
    operands = {o.name: o for o in instruction.operands}
    for axis in free:
        where = {name for name, operand in operands.items() if axis in operand.axes}
        mine = [a for a in left if where == {n for n, x in known.leaves.items() if a in x.axes}]
        if not mine:
            return False
        bound[axis] = (mine[0],) if len(free) > 1 else tuple(mine)
        left = [a for a in left if a not in bound[axis]]
        free = free[1:]
    return not left


def _deal(
    instruction: Instruction,
    bound: dict[Axis, tuple[Axis, ...]],
    loops: list[Axis],
    ours: tuple[Axis, ...],
    found: list[Axis],
) -> None:
    """Share axes of the graph among axes of the instruction that occur alike, last to last."""
    left = list(found)
    for number, axis in enumerate(reversed(ours)):
        last = number == len(ours) - 1
        take = left if last and axis not in instruction.indexed else left[-1:]
        bound[axis] = tuple(take)
        left = left[: len(left) - len(take)]
    loops += left


# ---------------------------------------------------------------- numbers


def close(a: float | int, b: float | int) -> bool:
    """Whether two numbers differ by no more than one rounding."""
    return a == b or abs(a - b) <= ROUNDING * max(abs(a), abs(b))


def solve_numbers(
    instruction: Instruction,
    known: Partial,
    binding: Mapping[Axis, tuple[Axis, ...]],
    around: Surroundings,
) -> dict[str, float | int] | None:
    """The immediates with which all numbers are equal; those that occur nowhere keep their default.

    None if there are none.
    """
    sizes = {axis: around.fixed.get(axis, 0) for axis in union(binding.values())}
    left = [(refine([ours], binding)[0], theirs) for ours, theirs in known.numbers]
    values: dict[str, float | int] = {}
    while left:
        later = []
        for ours, theirs in left:
            unknown = {n.name for n in walk([ours]) if isinstance(n, Immediate)} - set(values)
            if len(unknown) > 1:
                later.append((ours, theirs))
            elif not _settle(ours, theirs, values, sizes):
                return None
        if len(later) == len(left):
            return None
        left = later
    for leaf in instruction.immediates:
        value = values.setdefault(leaf.name, leaf.default)
        if isinstance(leaf.default, int):
            if value != round(value):
                return None
            values[leaf.name] = round(value)
    return values


def _settle(
    ours: Node, theirs: Node, values: dict[str, float | int], sizes: Mapping[Axis, int]
) -> bool:
    """Make two numbers equal by the one immediate that is still unknown, if any."""
    target = number_of(theirs, {}, sizes)
    if target is None:  # it holds a length known at run time: only the same expression is equal
        (form,) = canonical(substitute([ours], _constants(ours, values))).roots
        return form is canonical([theirs]).roots[0]
    while True:
        value = number_of(ours, values, sizes)
        if value is not None:
            return close(value, target) or (value <= MASKED and target <= MASKED)
        step = _inverted(ours, target, values, sizes)
        if step is None:
            return False
        ours, target = step
        if isinstance(ours, Immediate):
            values[ours.name] = target
            return True


def _constants(node: Node, values: Mapping[str, float | int]) -> dict[Node, Node]:
    return {
        n: Constant(values[n.name])
        for n in walk([node])
        if isinstance(n, Immediate) and n.name in values
    }


def number_of(
    node: Node, values: Mapping[str, float | int], sizes: Mapping[Axis, int]
) -> float | None:
    """A number, if everything in it is known."""
    match node:
        case Constant(value):
            return value
        case Immediate(name, _):
            return values.get(name)
        case Size(axis):
            return sizes.get(axis) or None
        case Cast(x, _):
            return number_of(x, values, sizes)
        case Map(function, arguments):
            given = [number_of(argument, values, sizes) for argument in arguments]
            known = [np.float64(value) for value in given if value is not None]
            if len(known) < len(given):
                return None
            with np.errstate(all="ignore"):
                return float(FUNCTIONS[function].numpy(*known))
    raise AssertionError(node)


def _inverted(
    node: Node, target: float, values: Mapping[str, float | int], sizes: Mapping[Axis, int]
) -> tuple[Node, float] | None:
    """f(x) = target  →  x = the inverse of f at target"""
    match node:
        case Immediate():
            return node, target
        case Map("add" | "multiply" as function, (a, b)):
            for x, other in ((a, b), (b, a)):
                value = number_of(other, values, sizes)
                if value is not None and (function == "add" or value != 0):
                    return x, target - value if function == "add" else target / value
        case Map("reciprocal", (x,)) if target != 0:
            return x, 1 / target
        case Map("sqrt", (x,)) if target >= 0:
            return x, target * target
        case Map("rsqrt", (x,)) if target > 0:
            return x, 1 / (target * target)
        case Cast(x, _):
            return x, target
    return None
