"""Instructions that compute the same: duplicates, and those that another one does as well."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations, product

import numpy as np

from infinisa.isa.dtypes import is_float
from infinisa.isa.errors import LanguageError
from infinisa.isa.evaluate import Range, align, evaluate
from infinisa.isa.instruction import Instruction
from infinisa.isa.language import (
    Axis,
    Constant,
    Input,
    Node,
    everything,
    refine,
    show,
    substitute,
    union,
)

from .comparison import difference
from .finding import Fault, Note, Subject
from .sample import lengths_of, values

LENGTHS = (23, 13, 5, 3)
CLOSE = 1e-6
"""How far apart results may be, in f64: constants of the language are f32."""
NEUTRAL = (Constant(0.0), Constant(1.0))
"""What an operand that only the other instruction has may be, everywhere."""
USUAL = (0.0, 1.0, -1.0, 2.0, 0.5)
"""Numbers for its immediates, if they are few, besides those that stand in the definition."""
MOST_EXTRA = 2
"""How many operands or immediates more the other instruction may have."""
MOST_AXES = 5
KINDS = ("random", "small whole", "large")


def duplicates(subject: Subject) -> Iterator[Fault | Note]:
    """No other instruction of the unit computes the same; one that can do as much is named."""
    made = subject.instruction
    for other in subject.library.values():
        if other.name == made.name:
            continue
        if made.opaque or other.opaque:
            if other.meaning == made.meaning:
                yield Fault(f"must be new: {other.name!r} computes the same")
            continue
        reading = next((r for r in readings(made, other) if same(made, r.outputs, "f64")), None)
        if reading is None:
            continue
        if reading.given:
            yield Note(f"over floats, {other.name!r} computes the same with {reading.given}")
        elif not same(made, reading.outputs, "i8"):
            yield Note(f"over floats, {other.name!r} computes the same")
        elif other.unit != made.unit:
            yield Note(f"{other.name!r} computes the same on unit {other.unit!r}")
        else:
            yield Fault(f"must be new: {other.name!r} computes the same on unit {made.unit!r}")


@dataclass(frozen=True)
class Reading:
    """What another instruction computes of this one's operands: it may be the same.

    given    what its operands and immediates are, in words; "" if they are this one's, in order
    outputs  expressions over this one's operands, states and immediates
    """

    given: str
    outputs: tuple[Node, ...]


def readings(made: Instruction, other: Instruction) -> Iterator[Reading]:
    """All ways to give the operands, axes and immediates of one to the other."""
    mine, theirs, axes = leaves(made), leaves(other), axes_of(made)
    extra = len(theirs) - len(mine)
    alike = len(made.outputs) == len(other.outputs) and len(axes) == len(axes_of(other))
    if not alike or not 0 <= extra <= MOST_EXTRA or len(axes) > MOST_AXES:
        return
    if len(other.immediates) - len(made.immediates) > MOST_EXTRA:
        return
    if Counter(map(_form, mine)) - Counter(map(_form, theirs)):
        return
    for order in permutations(axes):
        names = {old: (new,) for old, new in zip(axes_of(other), order, strict=True)}
        moved = [{names[axis][0] for axis in leaf.axes} for leaf in theirs]
        for chosen in permutations([*mine, *NEUTRAL[:1] * extra], len(theirs)):
            if not fitting(chosen, theirs, moved):
                continue
            try:
                outputs = refine(other.outputs, names)
                leaf_of = dict(zip(theirs, refine(theirs, names), strict=True))
            except LanguageError:
                continue
            yield from _numbered(made, other, outputs, leaf_of, chosen)


def _form(leaf: Input) -> tuple[int, str]:
    return len(leaf.axes), leaf.dtype


def fitting(chosen: Sequence[Node], theirs: Sequence[Input], moved: Sequence[set[Axis]]) -> bool:
    """Whether each operand has the axes of the one it is given to, and its kind of type."""
    return all(
        given in NEUTRAL or (set(given.axes) == axes and given.dtype == leaf.dtype)
        for given, leaf, axes in zip(chosen, theirs, moved, strict=True)
    )


def _numbered(
    made: Instruction,
    other: Instruction,
    outputs: Sequence[Node],
    leaf_of: dict[Input, Node],
    chosen: Sequence[Node],
) -> Iterator[Reading]:
    """All numbers for operands that are left over and for immediates."""
    options: list[tuple[Node, ...]] = [NEUTRAL if x in NEUTRAL else (x,) for x in chosen]
    numbers = {float(node.value) for node in everything(made.outputs) if isinstance(node, Constant)}
    few = len(other.immediates) <= MOST_EXTRA
    for leaf in other.immediates:
        known = dict.fromkeys([leaf.default, *USUAL, *sorted(numbers)] if few else [leaf.default])
        options.append((*made.immediates, *(Constant(number) for number in known)))
    moved = tuple(x for x in chosen if x not in NEUTRAL) != leaves(made)
    names = [*(leaf.name for leaf in leaf_of), *(leaf.name for leaf in other.immediates)]
    old = [*leaf_of.values(), *other.immediates]
    for given in product(*options):
        try:
            found = substitute(outputs, dict(zip(old, given, strict=True)))
        except LanguageError:  # such as a sum over an axis that a number has not
            continue
        said = [
            f"{name} = {value.name if isinstance(value, Input) else show(value)}"
            for name, value in zip(names, given, strict=True)
            if isinstance(value, Constant) or (moved and isinstance(value, Input))
        ]
        yield Reading(", ".join(said), found)


def leaves(made: Instruction) -> tuple[Input, ...]:
    """Operands, and states: at any value."""
    return (*made.operands, *(state.input for state in made.states))


@lru_cache(maxsize=4096)
def axes_of(made: Instruction) -> tuple[Axis, ...]:
    return union(node.axes for node in (*leaves(made), *everything(made.outputs)))


def same(made: Instruction, outputs: Sequence[Node], dtype: str) -> bool:
    """Whether expressions over an instruction's operands are its results, floats of this type."""
    if [node.dtype for node in outputs] != [node.dtype for node in made.outputs]:
        return False
    floats = [leaf for leaf in leaves(made) if is_float(leaf.dtype)]
    typed: dict[Node, Node] = {leaf: Input(leaf.name, leaf.axes, dtype) for leaf in floats}
    wanted, found = substitute(made.outputs, typed), substitute(outputs, typed)
    pairs = list(zip(wanted, found, strict=True))
    if any(a.dtype != b.dtype or not {*b.axes} <= {*a.axes} for a, b in pairs):
        return False
    return wanted == found or all(_agree(made, wanted, found, dtype, kind) for kind in KINDS)


def _agree(
    made: Instruction, wanted: Sequence[Node], found: Sequence[Node], dtype: str, kind: str
) -> bool:
    lengths, random = lengths_of(made, LENGTHS), np.random.default_rng(11)
    windows = {axis for _, axis in made.windows}
    ranges = {axis: Range(0, lengths.get(axis, 24)) for axis in (*axes_of(made), *windows)}
    arrays = {
        leaf.name: values(
            kind,
            [ranges[axis].length for axis in leaf.axes],
            dtype if is_float(leaf.dtype) else leaf.dtype,
            random,
        )
        for leaf in leaves(made)
    }
    cut = len(wanted)
    numbers = {
        leaf.name: 0.37 + 0.29 * k if is_float(leaf.dtype) else 3 + 2 * k
        for k, leaf in enumerate(made.immediates)
    }
    try:
        both = evaluate((*wanted, *found), arrays, ranges=ranges, immediates=numbers)
    except LanguageError:
        return False
    aligned = []
    for array, node, like, theirs in zip(both[cut:], found, wanted, both[:cut], strict=True):
        moved = align(array, node.axes, like.axes)
        if any(n not in (1, m) for n, m in zip(moved.shape, theirs.shape, strict=True)):
            return False  # stacked along an axis that has another length
        aligned.append(np.broadcast_to(moved, theirs.shape))
    return difference(aligned, both[:cut], close=CLOSE) is None
