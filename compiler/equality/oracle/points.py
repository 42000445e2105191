"""Points at which computations are evaluated: inputs at several scales, masks, whole numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infinisa.isa.dtypes import DTYPES, is_float
from infinisa.isa.errors import LanguageError
from infinisa.isa.evaluate import Range, evaluate
from infinisa.isa.language import (
    Axis,
    Constant,
    Immediate,
    Input,
    Node,
    Size,
    with_numbers,
)

from .traits import nodes_of

Array = NDArray[Any]

SMALL, WIDE = 9, 10_000
"""How large whole numbers are that are no indices, at ordinary and at larger scales: a sum of bytes
that is scaled down and rounded is 0 unless it is large. At the smallest they are 1, which some take
for true."""

SIDES = range(4, 8)
"""Sides of which the first three inputs have every pair of signs, and any input both."""

POOL = 65_521
"""So many values are drawn at most; a larger input repeats them, and the number being prime none
of its rows in step with others."""

EQUAL_SHARE, HIDDEN_SHARE = 0.25, 0.4
"""How many values of an input are numbers of the computation where they are tried, and how many a
mask hides."""


@dataclass(frozen=True)
class Probe:
    """How the inputs are drawn. `mask` goes to the input of number `masked`, to single positions
    or to whole rows; `whole` numbers, and halves, are equal now and then; inputs over the same axes
    may be `alike`: equal. At a `side` inputs are of one sign each, which sides have in turn."""

    scale: float
    seed: int
    positive: bool = False
    masked: int = -1
    mask: float = 0.0
    rows: bool = False
    whole: bool = False
    numbers: tuple[float, ...] = ()
    alike: bool = False
    side: int = 0

    def sign(self, n: int) -> int:
        """That of input number n, 0 for both: of any two of the first three every pair is had."""
        return (-1) ** (self.side & (1 + n % 3)).bit_count() if self.side else 0


@dataclass(frozen=True)
class Drawing:
    """Inputs of short lengths: what is drawn at a probe is the same for all computations of them.

    lengths  of every axis of the computation
    limits   for each input the number of positions that it may look up; 0 if it is no index
    signed   for each input whether an index is computed of it, which then may count from the end
    """

    leaves: tuple[Input, ...]
    lengths: tuple[tuple[Axis, int], ...]
    limits: tuple[int, ...]
    signed: tuple[bool, ...]

    def arrays(self, probe: Probe) -> dict[str, Array]:
        random = np.random.default_rng(probe.seed)
        lengths = dict(self.lengths)
        found: dict[str, Array] = {}
        given = zip(self.leaves, self.limits, self.signed, strict=True)
        for n, (leaf, limit, signed) in enumerate(given):
            if probe.alike:
                random = np.random.default_rng([probe.seed, *" ".join(leaf.axes).encode()])
            shape = [lengths[axis] for axis in leaf.axes]
            if is_float(leaf.type):
                found[leaf.name] = _floats(random, shape, probe, n)
            elif leaf.type == "bool":
                found[leaf.name] = random.random(shape) < 0.5
            else:
                least, most = _ends(leaf.type)
                reach = min(_reach(probe.scale), most)
                low, high = (-limit * signed, limit) if limit else (-reach, reach + 1)
                low = max(low, 0) if leaf.type.startswith("u") else low
                whole = random.integers(low, high, shape)
                if not limit and low < 0 and (sign := probe.sign(n)):
                    whole = np.where(whole, sign * abs(whole), sign)
                if n == probe.masked and not limit and least <= probe.mask <= most:
                    whole = np.where(random.random(shape) < HIDDEN_SHARE, int(probe.mask), whole)
                found[leaf.name] = whole if limit else _equal_to_some(random, whole, probe, low)
        return found


@lru_cache(maxsize=1024)
def drawn(drawing: Drawing, probe: Probe) -> dict[str, Array]:
    return drawing.arrays(probe)


@lru_cache(maxsize=2048)
def known_value(root: Node, axes: tuple[Axis, ...], drawing: Drawing, probe: Probe) -> Array:
    """What a computation without immediates yields at a probe: instructions are held against many
    cones of the same inputs."""
    return values_of(root, axes, dict(drawing.lengths), drawn(drawing, probe), ({},))[0]


def values_of(
    root: Node,
    axes: Sequence[Axis],
    lengths: Mapping[Axis, int],
    arrays: Mapping[str, Array],
    immediates: Sequence[Mapping[str, float]],
) -> list[Array]:
    """The value of a computation over some axes, for each of some numbers for its immediates."""
    written, numbers = widened(root, len(immediates) > 1)
    ranges = {axis: Range(0, length) for axis, length in lengths.items()}
    ranges[TRY] = Range(0, len(immediates))
    values = dict(arrays)
    for number, leaf in numbers:
        found = _number(number, immediates, lengths)
        given = found if leaf.axes else found[0]
        values[leaf.name] = np.asarray(given, DTYPES[leaf.type].numpy)
    (value,) = evaluate([written], values, ranges=ranges)
    places = [written.axes.index(axis) for axis in axes]
    if TRY not in written.axes:
        return [value.transpose(places)] * len(immediates)
    return list(value.transpose([written.axes.index(TRY), *places]))


def _number(
    node: Node, immediates: Sequence[Mapping[str, float]], lengths: Mapping[Axis, int]
) -> list[float]:
    match node:
        case Constant(value):
            return [value]
        case Immediate(name, default):
            return [each.get(name, default) for each in immediates]
        case Size(axis):
            if axis not in lengths:
                raise LanguageError(f"axis {axis!r} has no extent")
            return [lengths[axis]]
    raise AssertionError(node)


def _reach(scale: float) -> int:
    """How large whole numbers are that are no indices."""
    return 1 if scale < 0.5 else SMALL if scale < 2 else max(WIDE, int(scale))


def _ends(dtype: str) -> tuple[int, int]:
    limits = np.iinfo(DTYPES[dtype].numpy)
    return int(limits.min), int(limits.max)


def _floats(random: np.random.Generator, shape: Sequence[int], probe: Probe, n: int) -> Array:
    values = random.normal(size=min(prod(shape), POOL)) * probe.scale
    values = np.resize(values, shape)
    if probe.positive:
        values = np.exp(values / (1 + probe.scale)) * max(probe.scale, 1.0)
    elif sign := probe.sign(n):
        values = sign * (np.abs(values) + 0.25 * probe.scale)
    if probe.whole:
        least = 0.0 if probe.positive else -math.inf
        values = _equal_to_some(random, np.rint(2.0 * values) / 2.0 + 0.0, probe, least)
    if n == probe.masked:
        hidden = random.random(shape) < HIDDEN_SHARE
        if probe.rows:
            hidden = np.asarray(hidden)
            hidden[0 if shape else ...] = True
        values = np.where(hidden, probe.mask, values)
    return values


def _equal_to_some(random: np.random.Generator, values: Array, probe: Probe, least: float) -> Array:
    """Some of the values replaced by numbers of the probe that are no less than `least`."""
    numbers = [c for c in probe.numbers if c >= least]
    if values.dtype.kind != "f":
        numbers = [c + n for c in numbers for n in (-1, 0, 1) if c == int(c) and c + n >= least]
    if not numbers:
        return np.asarray(values)
    some = random.choice(np.asarray(numbers), np.shape(values)).astype(values.dtype)
    found: Array = np.where(random.random(np.shape(values)) < EQUAL_SHARE, some, values)
    return found


TRY = "try"
"""The axis of the numbers that are tried for immediates."""


@lru_cache(maxsize=4096)
def widened(root: Node, several: bool) -> tuple[Node, tuple[tuple[Node, Input], ...]]:
    """A computation with its numbers and lengths as inputs, so that they are f64 too; and those.
    If several numbers are tried for its immediates, these have an axis of their own."""
    numbers = [
        node
        for node in nodes_of(root)
        if isinstance(node, Size | Immediate)
        or (isinstance(node, Constant) and is_float(node.dtype))
    ]
    if not numbers:
        return root, ()
    known: dict[Node, Node] = {
        node: Input(
            f"number {n}",
            (TRY,) if several and isinstance(node, Immediate) else (),
            node.dtype if isinstance(node, Immediate) and not is_float(node.dtype) else "f64",
        )
        for n, node in enumerate(numbers)
    }
    (written,) = with_numbers([root], known)
    return written, tuple((node, leaf) for node, leaf in known.items() if isinstance(leaf, Input))
