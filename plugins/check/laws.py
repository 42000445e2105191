"""Work in pieces: what the tiler relies on, tried on random cuts of an axis."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infinisa.compiler.equality.laws import Refuted, verify_law
from infinisa.isa.errors import InfinisaError
from infinisa.isa.evaluate import Range, align, evaluate
from infinisa.isa.instruction import Instruction, step_of
from infinisa.isa.language import Axis
from infinisa.runtime.interpreter import window

from .comparison import difference
from .finding import Fault, Note, Subject
from .sample import Sample, lengths_of

Array = NDArray[Any]
Arrays = Mapping[str, Array]

CUTS = 3
"""How many random ways an axis is cut in."""
KINDS = ("random", "negative", "large")
"""Values on which pieces are compared with the whole."""


def laws(subject: Subject) -> Iterator[Fault | Note]:
    """Every law that is declared holds, and every accumulation that follows from the trace."""
    made = subject.instruction
    for law in made.laws:
        found = verify_law(made, law, subject.library)
        if isinstance(found, Refuted):
            yield Fault(f"law {str(law)!r} {found}")
    if made.accumulation is not None and not made.laws:
        step, finished = step_of(made)
        for axis in sorted(made.reduced):
            yield from _folds(f"accumulation over {axis!r}", made, step, finished, axis)


def tiles(subject: Subject) -> Iterator[Fault | Note]:
    """Axes that the trace calls neither whole nor reduced may be cut: pieces of them are pieces of
    the results."""
    made = subject.instruction
    for axis in () if made.opaque else made.axes:
        if axis in made.whole or axis in made.reduced:
            continue
        sample = Sample(made, lengths_of(made))
        if not any(axis in axes for axes in sample.results):
            continue
        arrays = sample.arrays("random")
        wanted = sample.evaluate(arrays)
        arrays |= sample.initial(made)
        for ranges in _cuts(sample, axis, 0):
            found = _part(made, sample, arrays, ranges)
            expected = [
                _slice(x, axes, ranges) for x, axes in zip(wanted, sample.results, strict=True)
            ]
            if fault := difference(found, expected):
                yield Fault(f"{_at(axis, ranges)} of {sample}: {fault}, as of the whole")
                return


def _folds(
    title: str, whole: Instruction, step: Instruction, finish: Instruction | None, axis: Axis
) -> Iterator[Fault]:
    """Folding a step over cuts of an axis, then finishing, is the whole."""
    sample = Sample(whole, lengths_of(whole))
    for kind in KINDS:
        arrays = sample.arrays(kind)
        try:
            wanted, exact = sample.evaluate(arrays), sample.exact(arrays)
            for seed in range(CUTS):
                pieces = list(_cuts(sample, axis, seed))
                found = _folded(sample, step, finish, arrays, pieces)
                if fault := difference(found, wanted, exact):
                    lengths = ", ".join(str(ranges[axis].length) for ranges in pieces)
                    yield Fault(
                        f"{title}, in pieces of {lengths} at {sample}, {kind} values: {fault}, "
                        "as the whole gives"
                    )
                    return
        except InfinisaError as error:
            yield Fault(f"{title}: {error}")
            return


def _cuts(sample: Sample, axis: Axis, seed: int) -> Iterator[dict[Axis, Range]]:
    """The ranges of all axes for each piece of one of them."""
    length = sample.lengths[axis]
    random = np.random.default_rng(seed)
    inner = random.choice(np.arange(1, length), min(length - 1, 1 + seed), replace=False)
    for start, end in pairwise([0, *sorted(map(int, inner)), length]):
        yield {**sample.ranges, axis: Range(start, end - start)}


def _folded(
    sample: Sample,
    step: Instruction,
    finish: Instruction | None,
    arrays: Arrays,
    pieces: list[dict[Axis, Range]],
) -> list[Array]:
    states = sample.initial(step)
    for ranges in pieces:
        found = _part(step, sample, {**arrays, **states}, ranges)
        states = dict(zip(states, found, strict=False))
    if finish is None:
        return list(states.values())
    return _part(finish, sample, {**arrays, **states}, sample.ranges)


def _part(
    made: Instruction, sample: Sample, arrays: Arrays, ranges: Mapping[Axis, Range]
) -> list[Array]:
    """The results of an instruction over these ranges, given arrays of the whole."""
    leaves = (*made.operands, *(state.input for state in made.states))
    known = dict(ranges)
    given = {}
    for leaf in leaves:
        if leaf.name not in arrays:
            raise InfinisaError(f"{made.name!r} has operand {leaf.name!r}, which nothing gives it")
        picks = []
        for axis in leaf.axes:
            index = made.windows.get((leaf.name, axis))
            if index is None:
                picks.append(slice(ranges[axis].start, sum(ranges[axis])))
            else:
                first, piece = window(index, sample.ranges), window(index, ranges)
                known[axis] = piece
                picks.append(slice(piece.start - first.start, sum(piece) - first.start))
        given[leaf.name] = arrays[leaf.name][tuple(picks)]
    found = evaluate(made.outputs, given, ranges=known, sizes=sample.lengths)
    axes = Sample(made, sample.lengths).results
    return [
        np.broadcast_to(align(x, output.axes, names), [ranges[axis].length for axis in names])
        for x, output, names in zip(found, made.outputs, axes, strict=True)
    ]


def _slice(array: Array, axes: tuple[Axis, ...], ranges: Mapping[Axis, Range]) -> Array:
    return array[tuple(slice(ranges[axis].start, sum(ranges[axis])) for axis in axes)]


def _at(axis: Axis, ranges: Mapping[Axis, Range]) -> str:
    start, length = ranges[axis]
    return f"positions {start} to {start + length - 1} of {axis!r}"
