"""Why an instruction is not what a model computes, in words: small changes are tried until the two
are one function, or a part of their domain is found in which they are."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from infinisa.isa.errors import LanguageError
from infinisa.isa.evaluate import align
from infinisa.isa.language import Constant, Immediate, Map, Node, Position, substitute, walk

from ..equality.oracle import Array, Probe, Question, distance, numbers_in, same

SAME = 1e-6
"""Single elements this close are equal."""

MOST_PROBES = 40

LEAST_SHARE, MANY = 0.02, 10
"""At so many points two computations must differ, and for so many values be equal, for a part of
their domain to be the reason."""

BETTER = 0.05
"""A number that leaves at most this part of the distance is worth to be named."""


@dataclass(frozen=True)
class Pair:
    """What a model computes and what an instruction does, over the same inputs and axes.

    question    the model's computation
    other       the instruction's
    immediates  of the instruction, and `numbers`, their best values so far
    names       what inputs are called in the model
    """

    question: Question
    other: Node
    immediates: Sequence[Immediate]
    numbers: Mapping[str, float]
    names: Mapping[str, str]

    @cached_property
    def probes(self) -> list[Probe]:
        return list(itertools.islice(self.question.probes(True), MOST_PROBES))

    @property
    def ordinary(self) -> list[Probe]:
        return self.probes[:3]

    def values(self, probe: Probe) -> tuple[Array, Array]:
        """(the model's, the instruction's) at a point."""
        arrays, value = self.question.value(probe)
        return value, self.asked(self.other, arrays)

    def asked(self, root: Node, arrays: Mapping[str, Array]) -> Array:
        """The value of a variant of the instruction, or of the model."""
        return self.question.asked(root, arrays, [self.numbers])[0]

    @cached_property
    def distances(self) -> dict[Probe, float]:
        return {
            probe: distance(*self.values(probe), math.isfinite(probe.mask)) for probe in self.probes
        }

    @property
    def distance(self) -> float:
        """How far apart they are at the first point at which they are apart."""
        return next((found for found in self.distances.values() if found), 0.0)

    def with_model(self, root: Node) -> bool:
        """Whether the instruction is another computation than the model's."""
        local = replace(self.question.local, root=root)
        answer, _ = same(Question(local, self.question.sizes), self.other, self.immediates)
        return answer is not None


def reason(pair: Pair) -> str:
    """The likely reason why the two differ; "" if no small change explains it."""
    for rule in RULES:
        try:
            found = rule(pair)
        except (LanguageError, TypeError):
            continue  # a change that these axes or types do not allow
        if found:
            return found
    return ""


# ---------------------------------------------------------------- the same but for a number


def factor(pair: Pair) -> str:
    """a * f(x)  ≠  f(x)"""
    factors = []
    for probe in pair.ordinary:
        value, found = pair.values(probe)
        if not (_finite(value) and _finite(found)) or not np.any(found):
            return ""
        factors.append(float(np.sum(value * found) / np.sum(found * found)))
        if distance(value, factors[-1] * found):
            return ""
    if not factors[0] or _apart(factors[0], 1.0) < SAME or _spread(factors) > SAME:
        return ""
    if _apart(factors[0], -1.0) < SAME:
        return "same but for a sign"
    return f"same up to a constant factor {factors[0]:.4g}"


def shift(pair: Pair) -> str:
    """f(x) + a  ≠  f(x)"""
    shifts = []
    for probe in pair.ordinary:
        value, found = pair.values(probe)
        if not (_finite(value) and _finite(found)) or not value.size:
            return ""
        shifts.append(float(np.mean(value - found)))
        if distance(value, found + shifts[-1]):
            return ""
    if abs(shifts[0]) < SAME or _spread(shifts) > SAME:
        return ""
    return f"same but for {shifts[0]:.4g}, which the model adds"


def across_the_root(pair: Pair) -> str:
    """sqrt(x) + eps  ≠  sqrt(x + eps)"""
    for node in walk([pair.question.local.root]):
        for changed, number, words in _moved(node):
            (root,) = substitute([pair.question.local.root], {node: changed})
            if pair.with_model(root):
                return f"{number:.4g} {words}"
    return ""


def _moved(node: Node) -> Iterator[tuple[Node, float, str]]:
    """A sum or maximum with a root, with its number on the other side of the root."""
    inside = "inside the root: the instruction has it outside"
    match node:
        case Map("add" | "maximum", (a, b)):
            for x, number in ((a, b), (b, a)):
                if isinstance(number, Constant) and (under := _rooted(x)) is not None:
                    for power, what in ((1, ""), (2, ", squared")):
                        moved = Map("sqrt", (under + Constant(float(number.value) ** power),))
                        words = f"outside the root: the instruction has it inside{what}"
                        yield moved, float(number.value), words
        case Map("rsqrt", (Map("add", (a, b)),)):
            for x, number in ((a, b), (b, a)):
                if isinstance(number, Constant):
                    yield 1.0 / (Map("sqrt", (x,)) + number), float(number.value), inside
    match _rooted(node):
        case Map("add", (a, b)):
            for x, number in ((a, b), (b, a)):
                if isinstance(number, Constant):
                    yield Map("sqrt", (x,)) + number, float(number.value), inside


def _rooted(node: Node) -> Node | None:
    """What a square root is of."""
    match node:
        case Map("sqrt", (x,)) | Map("power", (x, Constant(0.5))):
            return x
    return None


def number(pair: Pair) -> str:
    """f(x; 1e-5)  ≠  f(x; 1e-6)"""
    root, theirs = pair.question.local.root, (*numbers_in(pair.other), *pair.numbers.values())
    for constant in _numbers(root):

        def apart(value: float, probe: Probe, old: Node = constant) -> float:
            arrays, _ = pair.question.value(probe)
            (new,) = substitute([root], {old: Constant(value)})
            made = pair.asked(new, arrays)
            if np.isnan(made).any():
                return math.inf  # of what has no value anything is as good
            return distance(made, pair.asked(pair.other, arrays))

        if (found := _fitted(float(constant.value), theirs, apart, pair.ordinary)) is not None:
            best, exact = found
            fits = "fits" if exact else "fits best"
            return f"differs in the number {constant.value:.4g}: {best:.4g} {fits}"
    for constant in _numbers(pair.other):

        def apart_there(value: float, probe: Probe, old: Node = constant) -> float:
            arrays, expected = pair.question.value(probe)
            (new,) = substitute([pair.other], {old: Constant(value)})
            return distance(expected, pair.asked(new, arrays))

        given = pair.question.constants
        found = _fitted(float(constant.value), given, apart_there, pair.ordinary)
        if found is not None:
            return f"its number {constant.value:.4g} would have to be {found[0]:.4g}"
    return ""


def _numbers(root: Node) -> list[Constant]:
    return [
        node
        for node in walk([root])
        if isinstance(node, Constant)
        and isinstance(node.value, float)
        and math.isfinite(node.value)
    ]


def _fitted(
    old: float,
    others: Iterable[float],
    apart: Callable[[float, Probe], float],
    probes: Sequence[Probe],
) -> tuple[float, bool] | None:
    """The value of a number for which two computations are the same (True), or much nearer."""
    targets = [t for x in others if math.isfinite(x) for t in (x, -x, x * x, 1 / x if x else x)]
    targets += [0.0, 1.0, *(10.0**n for n in range(-12, 0))]
    for target in dict.fromkeys(targets):
        if _apart(target, old) > SAME and not any(apart(target, probe) for probe in probes):
            return target, True
    first = probes[0]

    def cost(value: float) -> float:
        return float(apart(value, first))

    best, before = _least(cost, old), cost(old)
    if math.isfinite(before) and cost(best) <= BETTER * before:
        return float(f"{best:.4g}"), not any(apart(best, probe) for probe in probes)
    return None


def _least(cost: Callable[[float], float], start: float) -> float:
    """About where a function of one number is least: on a grid around it, then between."""
    if not start:
        return start
    grid: list[float] = [start * 2.0 ** (n / 4) for n in range(-12, 13)]
    middle = min(range(1, len(grid) - 1), key=lambda n: cost(grid[n]))
    low, high = sorted((grid[middle - 1], grid[middle + 1]))
    for _ in range(40):
        third = (high - low) / 3
        if cost(low + third) < cost(high - third):
            high -= third
        else:
            low += third
    return (low + high) / 2


# ---------------------------------------------------------------- the same somewhere


def masked(pair: Pair) -> str:
    """The same but where an operand is minus infinity, or as good as that"""
    apart = [probe for probe, found in pair.distances.items() if found]
    if not apart or any(probe.masked < 0 for probe in apart):
        return ""
    operands = {pair.names[pair.question.local.leaves[probe.masked].name] for probe in apart}
    if all(probe.rows for probe in apart):
        return f"differs only in rows of {_listed(operands)} that are fully masked"
    marks = sorted({probe.mask for probe in apart})
    shown = ", ".join(f"{mask:.4g}" for mask in marks)
    return f"differs only where {_listed(operands)} is masked: {shown}"


def region(pair: Pair) -> str:
    """The same but where an operand or the result is beyond a number"""
    points: dict[str, list[tuple[Array, Array]]] = {}
    ends: list[tuple[Array, Array, Array]] = []
    root = pair.question.local.root
    for probe in pair.probes:
        if probe.masked >= 0:
            break
        value, found = pair.values(probe)
        if value.dtype.kind != "f" or not (_finite(value) and _finite(found)):
            return ""
        apart = np.abs(value - found) > SAME * np.maximum(np.abs(value), np.abs(found)) + 1e-12
        arrays, _ = pair.question.value(probe)
        for leaf in pair.question.local.leaves:
            if {*leaf.axes} <= {*root.axes} and arrays[leaf.name].dtype.kind == "f":
                given = np.broadcast_to(align(arrays[leaf.name], leaf.axes, root.axes), value.shape)
                points.setdefault(pair.names[leaf.name], []).append((given, apart))
        points.setdefault("its result", []).append((found, apart))
        ends.append((apart, value, found))
    numbers = [*pair.question.constants, *numbers_in(pair.other), *pair.numbers.values(), 0.0]
    for name, pieces in points.items():
        x, apart = (np.concatenate([piece[n].ravel() for piece in pieces]) for n in (0, 1))
        if where := _beyond(name, x, apart, numbers):
            clipped = _level(ends, 1) or _level(ends, 2)
            return f"differs only where {where}" + (": clipped there" if clipped else "")
    return ""


def _beyond(name: str, x: Array, apart: Array, numbers: Sequence[float]) -> str:
    """A half-line, or two, that all positions with a difference are in and no others."""
    if not LEAST_SHARE < np.mean(apart) < 1 - LEAST_SHARE or np.unique(x[~apart]).size < MANY:
        return ""
    size = np.abs(x)
    ways = ((name, ">", x), (name, "<", -x), (f"|{name}|", ">", size), (f"|{name}|", "<", -size))
    for shown, sense, measured in ways:
        low, high = float(np.max(measured[~apart])), float(np.min(measured[apart]))
        if low <= high:
            sign = 1 if sense == ">" else -1
            between = [c for c in numbers if low - SAME <= sign * c <= high + SAME]
            edge = between[0] if between else float(f"{sign * (low + high) / 2:.2g}")
            return f"{shown} {sense} {edge:.4g}"
    return ""


def _level(pieces: Sequence[tuple[Array, Array, Array]], which: int) -> bool:
    """Whether one side has at most two values wherever the sides differ."""
    values = np.concatenate([piece[which][piece[0]] for piece in pieces])
    return np.unique(np.round(values, 9)).size <= 2


# ---------------------------------------------------------------- the same with other positions


STRICTNESS: Mapping[str, str] = {
    "less": "less_equal",
    "less_equal": "less",
    "greater": "greater_equal",
    "greater_equal": "greater",
}


def transposed(pair: Pair) -> str:
    """where(s >= t, x, 0)  ≠  where(t >= s, x, 0)"""
    local = pair.question.local
    counted = [node for node in walk([local.root]) if isinstance(node, Position)]
    for a, b in itertools.combinations(counted, 2):
        (root,) = substitute([local.root], {a: b, b: a})
        if pair.with_model(root):
            return (
                f"same but transposed: {local.axes[a.axis]} and {local.axes[b.axis]} trade places"
            )
    return ""


def strictness(pair: Pair) -> str:
    """where(s > t, x, 0)  ≠  where(s >= t, x, 0)"""
    for node in walk([pair.question.local.root]):
        if isinstance(node, Map) and node.function in STRICTNESS:
            other = STRICTNESS[node.function]
            (root,) = substitute([pair.question.local.root], {node: Map(other, node.arguments)})
            if pair.with_model(root):
                return f"the model compares by {node.function}, the instruction by {other}"
    return ""


RULES: tuple[Callable[[Pair], str], ...] = (
    factor,
    shift,
    masked,
    across_the_root,
    transposed,
    strictness,
    region,
    number,
)
"""What may be the reason, the most telling first."""


# ---------------------------------------------------------------- numbers and words


def _finite(array: Array) -> bool:
    return array.dtype.kind == "f" and bool(np.isfinite(array).all())


def _apart(a: float, b: float) -> float:
    return abs(a - b) / max(abs(a), abs(b), 1e-300)


def _spread(values: Sequence[float]) -> float:
    return _apart(max(values), min(values))


def _listed(names: Iterable[str]) -> str:
    return " or ".join(sorted(names))
