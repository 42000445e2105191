"""Whether a law holds, by values: both sides are evaluated at the oracle's points.

Points are those at which an instruction is told from another (`oracle.Question`: several scales,
masks with -inf in single places and in whole rows), and some where all of a sum has one sign; axes
that positions are computed from begin elsewhere too; the axis of the law goes in tiles of one
position and in tiles at random. In f32 the side in pieces must be about as exact as the other, or
nobody would want it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infinisa.isa.dtypes import is_float
from infinisa.isa.errors import CompileError, LanguageError
from infinisa.isa.evaluate import Range, evaluate
from infinisa.isa.instruction import Instruction
from infinisa.isa.language import Axis, Input, Node, Position, everything, substitute
from infinisa.isa.laws import Associative, Law, LinearIn, StepOf

from .local import leaves_first, localised
from .oracle import Probe, Question, distance

Array = NDArray[Any]
Arrays = Mapping[str, Array]

LENGTH = 7
"""Positions of a law's axis: enough for tiles of several lengths."""

SEED = 11

SLACK, EXACT, LOST = 64.0, 1e-5, 0.1
"""In f32 a side in pieces may be so many times as far off as the other, or this far; where the
other is itself lost nothing binds."""


@dataclass(frozen=True)
class Verified:
    """A law that holds at so many values."""

    points: int


@dataclass(frozen=True)
class Refuted:
    """A law that does not hold: why, and where that shows first."""

    reason: str
    where: str = ""

    def __str__(self) -> str:
        return f"{self.reason} ({self.where})" if self.where else self.reason


class _Differs(Exception):
    """A difference between the two sides; carries the `Refuted`."""

    def __init__(self, reason: str, where: str = "") -> None:
        self.refuted = Refuted(reason, where)


def verify_law(
    instruction: Instruction, law: Law, library: Mapping[str, Instruction]
) -> Verified | Refuted:
    """Compare both sides of a law that `instruction` declares.

    library  where the instructions that the law names are
    """
    try:
        match law:
            case StepOf():
                return _step(instruction, law, library)
            case Associative():
                return _associative(instruction, law, library)
            case LinearIn():
                return _linear(instruction, law)
    except _Differs as found:
        return found.refuted
    except LanguageError as error:
        return Refuted(f"has no value over tiles: {error}")


_KNOWN: dict[tuple[object, ...], Verified | Refuted] = {}


def must_hold(instruction: Instruction, law: Law, library: Mapping[str, Instruction]) -> None:
    """CompileError if a law does not hold. What is known of a meaning is not asked again."""
    own = [each for each in instruction.laws if isinstance(each, StepOf)]
    names = dict.fromkeys(name for each in (law, *own) for name in each.names)
    meanings = [library[name].meaning for name in names if name in library]
    key = (instruction.meaning, law, *own, *meanings)
    if key not in _KNOWN:
        _KNOWN[key] = verify_law(instruction, law, library)
    found = _KNOWN[key]
    if isinstance(found, Refuted):
        raise CompileError(f"instruction {instruction.name!r}: law {str(law)!r} {found}")


# ---------------------------------------------------------------- the laws


def _step(step: Instruction, law: StepOf, library: Mapping[str, Instruction]) -> Verified | Refuted:
    whole, finish = _named(law.whole, library), _named(law.finish, library)
    _fit(step, law, whole, finish)

    def folded(run: _Run) -> Array:
        cut = run.point.cut
        return run.result(finish, _states(run, step, law.axis, cut, whole.axes))

    return _compare(whole, law.axis, folded)


def _associative(
    step: Instruction, law: Associative, library: Mapping[str, Instruction]
) -> Verified | Refuted:
    of = next(each for each in step.laws if isinstance(each, StepOf))
    whole, finish = _named(of.whole, library), _named(of.finish, library)
    combine = _named(law.combine, library)
    _fit(step, of, whole, finish)
    for state, operand in itertools.zip_longest(step.states, combine.operands):
        axes = () if state is None else (law.axis, *state.input.axes)
        if operand is None or state is None or set(operand.axes) != set(axes):
            raise _Differs(
                f"needs an operand of {combine.name!r} over ({' '.join(axes)}) for each state"
            )
    if len(combine.outputs) != len(step.states):
        raise _Differs(f"needs a result of {combine.name!r} for each state")

    def combined(run: _Run) -> Array:
        """Runs over some tiles each, one of them over none, in groups."""
        starts = itertools.accumulate(run.point.cut, initial=0)
        runs = [
            _states(run, step, of.axis, (length,), whole.axes, start)
            for start, length in zip(starts, run.point.cut, strict=False)
        ]
        runs.append(_states(run, step, of.axis, (), whole.axes))
        half = len(runs) // 2
        first = _joined(run, combine, law.axis, step, runs[:half])
        last = _joined(run, combine, law.axis, step, runs[half:])
        return run.result(finish, _joined(run, combine, law.axis, step, [first, last]))

    return _compare(whole, of.axis, combined)


def _linear(instruction: Instruction, law: LinearIn) -> Verified | Refuted:
    operand = next((o for o in instruction.operands if o.name == law.operand), None)
    if operand is None or law.axis not in operand.axes:
        raise _Differs(f"needs an operand {law.operand!r} with axis {law.axis!r}")
    (output,) = instruction.outputs
    if law.axis in output.axes:
        raise _Differs(f"needs a result without axis {law.axis!r}")

    def added(run: _Run) -> Array:
        """The operand as the sum of a half and the rest, and each in pieces."""
        x = run.arrays[law.operand]
        parts = [x * 0.25, x - x * 0.25]
        total = np.zeros(())
        for part in parts:
            start = 0
            for length in run.point.cut:
                tile = run.tile(law.axis, start, length)
                given = {**run.arrays, law.operand: part}
                total = total + run.result(instruction, given, tile)
                start += length
        return total

    return _compare(instruction, law.axis, added)


def _named(name: str, library: Mapping[str, Instruction]) -> Instruction:
    if name not in library:
        raise _Differs(f"names {name!r}, which is not in the library")
    return library[name]


def _fit(step: Instruction, law: StepOf, whole: Instruction, finish: Instruction) -> None:
    """What must be so for both sides to have a value."""
    given = {operand.name: set(operand.axes) for operand in whole.operands}
    states = {state.input.name: set(state.input.axes) for state in step.states}
    for piece, known in ((step, given), (finish, {**given, **states})):
        for operand in piece.operands:
            if known.get(operand.name) != set(operand.axes):
                raise _Differs(
                    f"operand {operand.name!r} of {piece.name!r} must be one of "
                    f"{', '.join(known)}, with the same axes"
                )
    if not step.states or len(step.outputs) != len(step.states):
        raise _Differs(f"needs states, all of which {step.name!r} replaces")
    if len(whole.outputs) != 1 or len(finish.outputs) != 1:
        raise _Differs(f"needs {whole.name!r} and {finish.name!r} to have one result")
    if set(finish.outputs[0].axes) != set(whole.outputs[0].axes):
        raise _Differs(f"needs a result of {finish.name!r} with the axes of {whole.name!r}'s")
    if law.axis not in whole.axes or law.axis in whole.outputs[0].axes:
        raise _Differs(f"needs an axis {law.axis!r} that {whole.name!r} ends")
    missing = {i.name for i in (*step.immediates, *finish.immediates)} - {
        i.name for i in whole.immediates
    }
    if missing:
        raise _Differs(f"needs immediate {min(missing)!r} in {whole.name!r} too")


# ---------------------------------------------------------------- one point


@dataclass(frozen=True)
class _Point:
    """Where both sides are evaluated: how inputs are drawn, where axes begin, the immediates'
    values, the lengths of the tiles, and whether all of one operand is negative and all of the
    others positive."""

    probe: Probe
    starts: Mapping[Axis, int]
    immediates: Mapping[str, float]
    cut: tuple[int, ...]
    negative: str = ""

    def __str__(self) -> str:
        masked = f", {self.probe.mask} in places" if self.probe.masked >= 0 else ""
        begins = "".join(f", {axis} from {start}" for axis, start in self.starts.items())
        sign = f", {self.negative} below 0, the rest above" if self.negative else ""
        return f"scale {self.probe.scale}{masked}{sign}{begins}, tiles of {self.cut}"

    def signed(self, name: str, array: Array) -> Array:
        if not self.negative or array.dtype.kind != "f":
            return array
        return -np.abs(array) if name == self.negative else np.abs(array)


@dataclass(frozen=True)
class _Run:
    """A point with its inputs by name, in f64 or in f32."""

    point: _Point
    arrays: Arrays
    lengths: Mapping[Axis, int]
    dtype: str

    def tile(self, axis: Axis, start: int, length: int) -> dict[Axis, Range]:
        return {axis: Range(self.point.starts.get(axis, 0) + start, length)}

    def results(
        self, instruction: Instruction, arrays: Arrays, ranges: Mapping[Axis, Range] | None = None
    ) -> list[Array]:
        """What an instruction computes of (tiles of) these arrays."""
        every = {
            axis: Range(self.point.starts.get(axis, 0), length)
            for axis, length in self.lengths.items()
        }
        every.update(ranges or {})
        roots, leaves = _typed(instruction, self.dtype)
        given = {}
        for leaf in leaves:
            array = arrays[leaf.name]
            for axis, piece in (ranges or {}).items():
                if axis in leaf.axes and array.shape[leaf.axes.index(axis)] != piece.length:
                    first = piece.start - self.point.starts.get(axis, 0)
                    taken = range(first, first + piece.length)
                    array = array.take(taken, axis=leaf.axes.index(axis))
            given[leaf.name] = array
        return evaluate(
            roots, given, ranges=every, sizes=self.lengths, immediates=self.point.immediates
        )

    def result(
        self, instruction: Instruction, arrays: Arrays, ranges: Mapping[Axis, Range] | None = None
    ) -> Array:
        return self.results(instruction, arrays, ranges)[0]


@lru_cache(maxsize=256)
def _typed(instruction: Instruction, dtype: str) -> tuple[tuple[Node, ...], tuple[Input, ...]]:
    """The results and leaves of an instruction with its floats in one type."""
    old = (*instruction.operands, *(state.input for state in instruction.states))
    new = [Input(o.name, o.axes, dtype if is_float(o.dtype) else o.dtype) for o in old]
    roots = substitute(instruction.outputs, dict(zip(old, new, strict=True)))
    return roots, tuple(new)


def _states(
    run: _Run,
    step: Instruction,
    axis: Axis,
    cut: Sequence[int],
    axes: Sequence[Axis],
    start: int = 0,
) -> dict[str, Array]:
    """Inputs and states after a run of steps over tiles of these lengths."""
    kinds = {"f64": np.float64, "f32": np.float32}
    states: dict[str, Array] = {
        state.input.name: np.full(
            [run.lengths[a] for a in state.input.axes], state.initial, kinds[run.dtype]
        )
        for state in step.states
    }
    for length in cut:
        given = {**run.arrays, **states}
        after = run.results(step, given, run.tile(axis, start, length))
        for state, output, value in zip(step.states, step.outputs, after, strict=True):
            states[state.input.name] = _over(value, output.axes, state.input.axes)
        start += length
    return {**run.arrays, **states}


def _joined(
    run: _Run,
    combine: Instruction,
    axis: Axis,
    step: Instruction,
    runs: Sequence[Mapping[str, Array]],
) -> dict[str, Array]:
    """The states of several runs as those of one."""
    given = {}
    for state, operand in zip(step.states, combine.operands, strict=True):
        apart = np.stack([each[state.input.name] for each in runs])
        given[operand.name] = _over(apart, (axis, *state.input.axes), operand.axes)
    after = run.results(combine, given, {axis: Range(0, len(runs))})
    states = {
        state.input.name: _over(value, output.axes, state.input.axes)
        for state, output, value in zip(step.states, combine.outputs, after, strict=True)
    }
    return {**run.arrays, **states}


def _over(array: Array, axes: Sequence[Axis], target: Sequence[Axis]) -> Array:
    return array.transpose([axes.index(axis) for axis in target])


# ---------------------------------------------------------------- all points


def _compare(
    whole: Instruction, axis: Axis, in_pieces: Callable[[_Run], Array]
) -> Verified | Refuted:
    """Whether what is made of tiles of `axis` is what an instruction computes at once."""
    if any(axis in index.axes or key[1] == axis for key, index in whole.windows.items()):
        raise _Differs(f"needs an axis that no window goes along, not {axis!r}")
    question, names = _question(whole, axis)
    points = 0
    for point in _points(whole, question, axis):
        drawn, _ = question.value(point.probe)
        arrays = {
            o.name: point.signed(o.name, drawn[f"x{n}"]) for n, o in enumerate(whole.operands)
        }
        wide = _Run(point, arrays, names, "f64")
        expected, found = wide.result(whole, arrays), _aligned(wide, whole, in_pieces)
        if distance(expected, found):
            raise _Differs("does not hold", _first(expected, found, whole, point))
        points += expected.size
        _exact(wide, whole, in_pieces)
    return Verified(points)


def _aligned(run: _Run, whole: Instruction, in_pieces: Callable[[_Run], Array]) -> Array:
    found = in_pieces(run)
    (output,) = whole.outputs
    return np.broadcast_to(found, [run.lengths[a] for a in output.axes])


def _question(whole: Instruction, axis: Axis) -> tuple[Question, dict[Axis, int]]:
    """The instruction under the oracle's names, and the lengths of its axes under its own."""
    (output,) = whole.outputs
    inner = list(leaves_first(output, whole.operands))
    local = localised(output, whole.operands, inner, split=False)
    if local is None:
        raise _Differs(f"cannot be compared: a value in {whole.name!r} has an axis twice")
    sizes = dict.fromkeys(local.axes, LENGTH)
    question = Question(local, sizes)
    for name, outer in local.axes.items():
        question.lengths[name] = LENGTH if outer == axis else min(question.lengths[name], LENGTH)
    names = {outer: question.lengths[name] for name, outer in local.axes.items()}
    return question, names


def _points(whole: Instruction, question: Question, axis: Axis) -> Iterator[_Point]:
    """Each way to draw inputs, with tiles of one position and with others; every other time with
    other immediates, and with axes that begin elsewhere."""
    random = np.random.default_rng(SEED)
    computed = {node.axis for node in everything(whole.outputs) if isinstance(node, Position)} - {
        axis
    }
    defaults: dict[str, float] = {i.name: i.default for i in whole.immediates}
    others = {
        i.name: i.default + 1 if isinstance(i.default, int) else 0.7 * i.default + 0.1
        for i in whole.immediates
    }
    for number, probe in enumerate(question.probes(True)):
        starts = dict.fromkeys(computed, LENGTH // 2) if number % 2 else {}
        numbers = others if number % 2 else defaults
        yield _Point(probe, starts, numbers, (1,) * LENGTH)
        yield _Point(probe, {}, defaults, _cut(random))
    for operand in whole.operands:
        yield _Point(Probe(30.0, SEED), {}, defaults, _cut(random), operand.name)


def _cut(random: np.random.Generator) -> tuple[int, ...]:
    """Lengths of tiles, at least two."""
    inside = random.choice(np.arange(1, LENGTH), size=random.integers(1, 4), replace=False)
    return tuple(int(n) for n in np.diff([0, *sorted(inside), LENGTH]))


def _first(expected: Array, found: Array, whole: Instruction, point: _Point) -> str:
    """The first place at which two results differ, in words."""
    with np.errstate(all="ignore"):
        apart = ~np.isclose(found, expected, rtol=1e-7, atol=0) & ~np.isnan(expected)
    place = tuple(int(i) for i in np.argwhere(apart)[0])
    axes = whole.outputs[0].axes
    at = ", ".join(f"{axis}={i}" for axis, i in zip(axes, place, strict=True))
    return (
        f"at {at or 'its one value'} {whole.name!r} is {expected[place]:.6g}, the pieces give "
        f"{found[place]:.6g}; {point}"
    )


def _exact(wide: _Run, whole: Instruction, in_pieces: Callable[[_Run], Array]) -> None:
    """In f32 the pieces must not be much less exact than the instruction."""
    rounded = {
        name: array.astype(np.float32) if array.dtype.kind == "f" else array
        for name, array in wide.arrays.items()
    }
    narrow = _Run(wide.point, rounded, wide.lengths, "f32")
    exact = _Run(wide.point, {n: a.astype(np.float64) if a.dtype.kind == "f" else a
                              for n, a in rounded.items()}, wide.lengths, "f64")  # fmt: skip
    truth = exact.result(whole, exact.arrays)
    if truth.dtype.kind != "f":
        return
    own = _off(truth, narrow.result(whole, narrow.arrays))
    pieces = _off(truth, _aligned(narrow, whole, in_pieces))
    if own < LOST and pieces > max(SLACK * own, EXACT):
        raise _Differs(
            f"does not hold in f32: pieces are off by {pieces:.1g}, {whole.name!r} by {own:.1g}",
            str(wide.point),
        )


def _off(truth: Array, found: Array) -> float:
    """The largest error, of the largest value."""
    known = np.isfinite(truth)
    if not known.any():
        return 0.0
    with np.errstate(all="ignore"):
        apart = np.abs(found.astype(np.float64)[known] - truth[known])
    largest = float(np.max(np.abs(truth[known])))
    worst = float(np.max(np.nan_to_num(apart, nan=np.inf)))
    return worst / largest if largest else worst
