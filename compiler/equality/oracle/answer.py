"""Whether another computation is the one asked for, and with which numbers for its immediates."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from infinisa.isa.errors import LanguageError
from infinisa.isa.language import (
    Immediate,
    Node,
)

from .comparing import distances
from .points import Probe
from .question import ORDINARY, Question
from .traits import cornered, immediates_in, numbers_in, ordered, sizes_in, snapped

LARGEST = 1e9
"""Numbers as large stand for infinity."""

MOST_TRIED = 1024
"""How many combinations of numbers are tried for the immediates of an instruction."""

NEAR_MASK = -12345.5
"""Hides from an exponential too, and leaves f64 the digits of what is added to it."""


@dataclass(frozen=True)
class Answer:
    """The numbers with which a computation is the one asked for, and at how many points it was."""

    immediates: Mapping[str, float]
    points: int


def apart_if_alike(question: Question, other: Node, immediates: Sequence[Immediate]) -> float:
    """How far another computation is from the one asked for where inputs over the same axes are
    equal, so that these may be in any order; 0 if that tells nothing."""
    question = with_literals(question, other)
    used = [node for node in immediates if node in immediates_in(other)]
    candidates = list(candidates_for(used, question.constants))
    if (first := question.first(other, len(candidates))) is not None:
        candidates = [each for _, each in tries(used, question, first)]
    try:
        return nearest(first or question, other, candidates, alike=True)[1]
    except (LanguageError, TypeError):
        return 0.0


def same(
    question: Question, other: Node, immediates: Sequence[Immediate]
) -> tuple[Answer | None, float]:
    """Whether another computation over the same inputs and axes is the one asked for, with which
    numbers for its immediates; and how near it came (0: it is the same)."""
    if set(other.axes) != set(question.local.root.axes):
        return None, math.inf
    question = with_literals(question, other)
    used = [node for node in immediates if node in immediates_in(other)]
    corners = cornered(question.local.root) or cornered(other)
    candidates = list(candidates_for(used, question.constants))
    points = 0
    try:
        if (first := question.first(other, len(candidates))) is not None:
            pairs = tries(used, question, first)
            best, apart = nearest(first, other, [written for _, written in pairs])
            if apart:
                return None, apart
            candidates = [numbers for numbers, written in pairs if written in best]
        for probe in (*question.probes(corners), *(question.beside(other) if corners else ())):
            _, value = question.value(probe)
            if probe.seed <= ORDINARY and np.isnan(value).mean() > 0.75:
                return None, math.inf  # it hardly ever has a value: nothing can be said
            finite = math.isfinite(probe.mask)
            results = question.tried(other, probe, candidates)
            gaps = distances(value, results, finite)
            if probe.mask and finite and question.loses and any(gaps):
                _, near = question.value(replace(probe, mask=NEAR_MASK))
                gaps = [*map(min, gaps, distances(near, results, True))]
            left = [n for n, gap in zip(candidates, gaps, strict=True) if not gap]
            if not left:
                apart = min(gaps)
                return None, apart if not points else max(apart, 1e-12)
            candidates = left
            if not points and ordered(question.local.root) is ordered(other):
                return Answer(candidates[0], 0), 0.0
            points += value.size
    except (LanguageError, TypeError):
        return None, math.inf  # over these axes or types it means nothing
    return Answer(candidates[0], points), 0.0


def tries(
    immediates: Sequence[Immediate], question: Question, first: Question
) -> list[tuple[dict[str, float], dict[str, float]]]:
    """Values for the immediates, each also as it is in a question that is asked first."""
    return [*paired(immediates, question.constants, first.constants)]


def nearest(
    question: Question, other: Node, candidates: Sequence[dict[str, float]], alike: bool = False
) -> tuple[list[dict[str, float]], float]:
    """The numbers for its immediates with which a computation is the nearest to the one asked for
    at one point, and how near; inputs over the same axes may be `alike` there."""
    probe = Probe(0.8, 1, question.positive, alike=alike)
    expected = question.value(probe)[1]
    gaps = distances(expected, question.tried(other, probe, candidates))
    least = min(gaps)
    return [numbers for numbers, gap in zip(candidates, gaps, strict=True) if gap == least], least


def with_literals(question: Question, other: Node) -> Question:
    """The question with the numbers of another computation where they differ by a rounding."""
    sizes = [question.lengths[axis] for axis in sizes_in(other)]
    literals = (*numbers_in(other), *map(float, sizes), *([prod(sizes)] if sizes else []))
    root = snapped(question.local.root, literals, question.narrow)
    if root is question.local.root:
        return question
    if root not in question.variants:
        question.variants[root] = replace(
            question, local=replace(question.local, root=root), points={}, variants={}
        )
    return question.variants[root]


def candidates_for(
    immediates: Sequence[Immediate], constants: Sequence[float]
) -> Iterator[dict[str, float]]:
    """Values for the immediates: their defaults, and what the cone's numbers may have come from."""
    return (numbers for numbers, _ in paired(immediates, constants, constants))


def paired(
    immediates: Sequence[Immediate], constants: Sequence[float], short: Sequence[float]
) -> Iterator[tuple[dict[str, float], dict[str, float]]]:
    """Values for the immediates, and what these are where the constants are others."""
    pairs = [(x, y) for x, y in zip(constants, short, strict=True) if abs(x) < LARGEST]
    real = [(x, y) for x, y in pairs if x and math.isfinite(x)]
    made = dict.fromkeys(pair for x, y in pairs for pair in zip(_from(x), _from(y), strict=True))
    for one, other in itertools.combinations(real, 2):
        products = (_of_two(a, b) for a, b in zip(one, other, strict=True))
        made.update(dict.fromkeys(zip(*products, strict=True)))
    choices = []
    for node in immediates:
        each = dict.fromkeys([(v, v) for v in (node.default,)] + [*made] + [(1.0, 1.0), (0.0, 0.0)])
        if isinstance(node.default, int):
            each = dict.fromkeys((round(v), round(w)) for v, w in each if v == round(v))
        choices.append([*each])
    for values in itertools.islice(itertools.product(*choices), MOST_TRIED):
        named = [(node.name, *pair) for node, pair in zip(immediates, values, strict=True)]
        yield {name: v for name, v, _ in named}, {name: w for name, _, w in named}


def _from(x: float) -> tuple[float, ...]:
    """What one number may have come from."""
    return (x, 1 / x, x * x, 1 / (x * x), -x) if x and math.isfinite(x) else (x,)


def _of_two(x: float, y: float) -> tuple[float, ...]:
    return x * y, x / y, y / x
