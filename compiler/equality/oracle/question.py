"""A computation that others are held against: which points tell most, what is asked first."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod

import numpy as np

from infinisa.isa.dtypes import is_float
from infinisa.isa.errors import LanguageError
from infinisa.isa.language import (
    Axis,
    Constant,
    Dot,
    Gather,
    Input,
    Map,
    Node,
    with_numbers,
)

from ..local import Local, Role
from ..pattern import Degree, kind
from .comparing import distance, distances
from .lengths import at_length, close, lengths, may_be, numbered, shorter
from .points import SIDES, Array, Drawing, Probe, drawn, known_value, values_of
from .traits import (
    CORNERS,
    HIDDEN,
    NARROW,
    forms_of,
    functions_in,
    immediates_in,
    is_rounded,
    nodes_of,
    numbers_in,
    special_in,
)

MANY = 1 << 12
"""If the numbers tried times the points are more, they are tried at fewer points first."""

LONG = 4 * MANY
"""Rows of more numbers are taken shorter to find out how far off a computation is."""

LEAST = 3
"""Positions of an axis that is taken shorter."""

NEAR = 0.05
"""Computations this close are near misses."""

ORDINARY = 3
"""The last seed of points at ordinary magnitude."""

SINGLE_DRAWS, SEEDS = 8, 1000
"""How often points of inputs without axes are drawn, and how far apart the seeds are."""

MASKS = (-math.inf, -1e30, -3.4028234663852886e38)


@dataclass(eq=False)
class Question:
    """A computation with its values at points, which are found once and asked often.

    sizes     how long its axes are in the model, at most
    run_time  axes whose length is known at run time only
    narrow    the types of `NARROW` that the model has values in: its numbers may be rounded to them
    least     axes that must have so many positions
    """

    local: Local
    sizes: Mapping[Axis, int]
    run_time: frozenset[Axis] = frozenset()
    narrow: frozenset[str] = frozenset()
    least: Mapping[Axis, int] = field(default_factory=dict)
    points: dict[Probe, tuple[dict[str, Array], Array]] = field(default_factory=dict)
    variants: dict[Node, Question] = field(default_factory=dict)
    degrees: dict[str, Degree] = field(default_factory=dict)

    @cached_property
    def constants(self) -> tuple[float, ...]:
        """The numbers in it, each once."""
        return numbers_in(self.local.root)

    @cached_property
    def functions(self) -> frozenset[str]:
        return functions_in(self.local.root)

    @cached_property
    def lengths(self) -> dict[Axis, int]:
        """How long axes are at the points: short, but what indices and numbers need."""
        return lengths(self.local, self.sizes, self.constants, self.run_time, self.least)

    def first(self, other: Node, candidates: int = 1) -> Question | None:
        """What rules another computation out in less time, if there is such a thing: this one at
        fewer points or of shorter axes. So many numbers are tried for its immediates."""
        if candidates * prod(self.lengths.values()) <= MANY:
            return None
        if self.short is not None and self.short.tells(other):
            return self.short.question.brief
        return self.brief if candidates > 1 else None

    @property
    def quick(self) -> Question:
        """It, or if it has long axes what says nearly as much in less time."""
        if prod(self.lengths.values()) <= MANY:
            return self
        return self.brief if self.short is None else self.short.question.brief

    @cached_property
    def short(self) -> Short | None:
        """The same in a model whose long axes are short, where numbers are lengths; None if it
        cannot be."""
        return shortened(self)

    @cached_property
    def sample(self) -> Short | None:
        """The same in a model whose rows are as long as errors need to show; None if they are not
        much longer, or cannot be."""
        return shortened(self, MANY) if prod(self.few.values()) > LONG else None

    @cached_property
    def brief(self) -> Question:
        """The same at one position of each axis along which nothing is summed or counted."""
        made = replace(self, points={}, variants={}, degrees={})
        made.lengths.update(self.capped(1))
        return made

    def capped(self, most: int) -> dict[Axis, int]:
        """The lengths, but at most so many positions of axes along which nothing is summed or
        counted."""
        loops = (axis for axis, role in self.local.roles.items() if role.kind == Role.LOOP)
        return self.lengths | {axis: min(self.lengths[axis], most) for axis in loops}

    @property
    def few(self) -> dict[Axis, int]:
        """Lengths at which errors show: some rows, or one if it is long."""
        some = self.capped(3)
        return some if prod(some.values()) <= MANY else self.capped(1)

    @cached_property
    def positive(self) -> bool:
        """Whether it has no value at ordinary points, only at positive ones."""
        value = self.value(Probe(0.8, 1))[1]
        return value.dtype.kind == "f" and not np.isfinite(value).all()

    @cached_property
    def defined(self) -> bool:
        """Whether it means anything over its axes and types."""
        try:
            self.value(Probe(0.8, 1))
        except (LanguageError, TypeError):
            return False
        return True

    @cached_property
    def ordinary(self) -> tuple[float, ...]:
        """Its numbers that an input may be near: not those that hide a value from a softmax."""
        least = {NARROW[name] for name in self.narrow} if "exp" in self.functions else set()
        return tuple(c for c in self.constants if abs(c) < HIDDEN and c not in least)

    def degree(self, name: str) -> Degree:
        """How it depends on an input, as far as one point tells."""
        if name not in self.degrees:
            arrays, value = self.value(Probe(0.8, 1, self.positive))
            twice = self.evaluated({**arrays, name: 2 * arrays[name]})
            if distance(2 * value, twice, finite=True) < NEAR:
                self.degrees[name] = Degree.LINEAR
            else:
                none = self.evaluated({**arrays, name: 0 * arrays[name]})
                with np.errstate(invalid="ignore"):
                    affine = distance(2 * value - none, twice, finite=True) < NEAR
                self.degrees[name] = Degree.AFFINE if affine else Degree.OTHER
        return self.degrees[name]

    def far(self, others: Sequence[Node]) -> set[Node]:
        """Of computations without immediates those that one point tells apart from this one, not
        as near misses."""
        probe = Probe(0.8, 1, self.positive)
        axes = set(self.local.root.axes)
        values: dict[Node, Array] = {}
        for other in others:
            if set(other.axes) == axes:
                with contextlib.suppress(LanguageError, TypeError):  # over these it means nothing
                    (values[other],) = self.tried(other, probe, [{}])
        if not values:
            return {*others}
        gaps = distances(self.value(probe)[1], [*values.values()], finite=True)
        return {*others} - {other for other, gap in zip(values, gaps, strict=True) if gap <= NEAR}

    @cached_property
    def loses(self) -> bool:
        """Whether it adds a logarithm to what may be a mask, as the logarithm of a sum of
        exponentials does to the largest: of -1e30 f64 then keeps no digit of it. What it would
        yield is what it yields of a mask nearer to zero, as long as it compares with nothing."""
        return {"exp", "log"} <= self.functions and not self.functions & CORNERS

    @cached_property
    def matters(self) -> bool:
        """Whether every input has an influence somewhere."""
        return all(self._matters(leaf.name) for leaf in self.local.leaves)

    def _matters(self, name: str) -> bool:
        first = itertools.islice(self.probes(True), 6 * self.draws)  # the last are whole numbers
        for probe in (*first, *self.special):
            arrays, value = self.value(probe)
            other = self.arrays(replace(probe, seed=probe.seed + 100, masked=-1))
            changed = self.evaluated({**arrays, name: other[name]})
            if distance(value, changed) > 1e-7:
                return True
        return False

    @cached_property
    def draws(self) -> int:
        """How often each point is drawn: a single number has one sign, and is on one side of any
        corner, at a time."""
        return SINGLE_DRAWS if any(not leaf.axes for leaf in self.local.leaves) else 1

    def probes(self, corners: bool) -> Iterator[Probe]:
        """The points, the most telling first."""
        for probe in self._probes(corners):
            for n in range(self.draws):
                yield replace(probe, seed=probe.seed + n * SEEDS)

    def _probes(self, corners: bool) -> Iterator[Probe]:
        positive = self.positive
        yield Probe(0.8, 1, positive)
        yield Probe(6.0, 2, positive)
        yield Probe(0.05, ORDINARY, positive)
        if corners:
            largest = max([1.0, *(abs(c) for c in self.ordinary if abs(c) > 1e-3)])
            yield Probe(3.0 * largest, 4, positive)
            yield Probe(0.5 * largest, 5, positive)
            yield Probe(2.0, 8, positive, whole=True, numbers=self.ordinary)
            if "exp" not in self.functions:
                yield Probe(1e6, 9, positive)
            for side in () if positive else SIDES:  # the largest of many is hardly ever below 0
                yield Probe(3.0 * largest, 12, side=side)
        for small in sorted({abs(c) for c in self.constants if 0 < abs(c) < 1e-2})[:2]:
            yield Probe(small, 10, positive)
            yield Probe(math.sqrt(small), 11, positive)
        for n in self.masks:
            for mask in MASKS:
                yield Probe(1.0, 6, positive, n, mask)
            yield Probe(1.0, 6, positive, n, -math.inf, True)
            yield Probe(1.0, 6, positive, n, -1e30, True)
        yield from self.special

    def beside(self, other: Node) -> Iterator[Probe]:
        """The points, where there are corners, at numbers of another computation's own."""
        own = {abs(c) for c in self.constants}
        numbers = tuple(c for c in numbers_in(other) if abs(c) not in own and abs(c) < HIDDEN)
        if numbers:
            yield Probe(3.0 * max(map(abs, numbers)), 16, self.positive)
            yield Probe(2.0, 17, self.positive, whole=True, numbers=numbers)

    @property
    def special(self) -> Iterator[Probe]:
        """The points where an input is what somebody asks for."""
        numbers = special_in(self.local.root)
        for n, leaf in enumerate(self.local.leaves):
            for number in numbers if leaf.type != "bool" else ():
                yield Probe(1.0, 6, self.positive, n, number, not leaf.axes)

    @cached_property
    def masks(self) -> list[int]:
        """The inputs that may hold minus infinity: they go into a softmax, a maximum or a
        condition, and not into a contraction before, or are raised to a part of one: x**-0.5 is
        0 there, rsqrt(x) is nothing."""
        rooted = any(
            node.function == "power"
            and kind(node) == "root"
            and isinstance(node.children[0], Input)
            for node in nodes_of(self.local.root)
            if isinstance(node, Map)
        )
        if not (rooted or self.functions & {"max", "where", "is_nan", "maximum", "exp"}):
            return []
        users: dict[Node, list[Node]] = {}
        for node in nodes_of(self.local.root):
            for child in node.children:
                users.setdefault(child, []).append(node)
        found = []
        for n, leaf in enumerate(self.local.leaves):
            if is_float(leaf.type) and leaf.axes:
                above: list[Node] = [leaf]
                for node in above:
                    if not (isinstance(node, Map) and node.function == "exp"):
                        above += [user for user in users.get(node, []) if user not in above]
                if not any(isinstance(node, Dot) for node in above):
                    found.append(n)
        return found

    @cached_property
    def drawing(self) -> Drawing:
        tables = [node for node in nodes_of(self.local.root) if isinstance(node, Gather)]
        reach = [
            [self.lengths[t.axis] for t in tables if leaf in nodes_of(t.index)]
            for leaf in self.local.leaves
        ]
        limits = tuple(min(rows, default=0) for rows in reach)
        plain = {table.index for table in tables}
        signed = tuple(leaf not in plain for leaf in self.local.leaves)
        return Drawing(self.local.leaves, tuple(self.lengths.items()), limits, signed)

    def arrays(self, probe: Probe) -> dict[str, Array]:
        """The inputs at a point."""
        return drawn(self.drawing, probe)

    def value(self, probe: Probe) -> tuple[dict[str, Array], Array]:
        """(inputs, result) at a point."""
        if probe not in self.points:
            arrays = self.arrays(probe)
            self.points[probe] = arrays, self.evaluated(arrays)
        return self.points[probe]

    def evaluated(self, arrays: Mapping[str, Array]) -> Array:
        return self.asked(self.local.root, arrays)[0]

    def tried(
        self, root: Node, probe: Probe, immediates: Sequence[Mapping[str, float]]
    ) -> list[Array]:
        """What another computation of the same inputs yields at a point, with each of some numbers
        for its immediates."""
        if any(immediates):
            return self.asked(root, self.arrays(probe), immediates)
        return [known_value(root, self.local.root.axes, self.drawing, probe)]

    def asked(
        self,
        root: Node,
        arrays: Mapping[str, Array],
        immediates: Sequence[Mapping[str, float]] = ({},),
    ) -> list[Array]:
        """A computation over the same inputs, with each of some numbers for its immediates; the
        results have the axes of this one's."""
        return values_of(root, self.local.root.axes, self.lengths, arrays, immediates)


@dataclass(frozen=True)
class Short:
    """A question about the same computation in a smaller model. What is not equal there is not
    equal in the model either, for what is holds for all lengths; but whatever is equal there is
    asked about at the model's own, where a number that is a length by chance is just a number.

    numbers  of the computation that are taken for lengths, as they are in the model
    """

    question: Question
    numbers: tuple[float, ...]

    def tells(self, other: Node) -> bool:
        """Whether it can tell another computation apart: none of the other's own numbers may be
        what is taken for a length here. Values for immediates that come of such numbers are
        lengths in the same way, but need not be whole where the lengths are short."""
        if any(isinstance(node.default, int) for node in immediates_in(other)):
            return False
        taken = forms_of(numbers_in(other))
        return not any(is_rounded(c, t, ()) for c in self.numbers for t in taken)


def shortened(question: Question, positions: int = 1) -> Short | None:
    """A question whose axes are short where they are long because a number may be their length:
    they have about so many positions together, but never less than three each.
    Those that are as long as each other stay so; None where that is not possible, where positions
    are computed with, or where a number may be several lengths."""
    local, sizes = question.local, question.sizes
    groups = numbered(local, sizes, question.constants, question.run_time)
    if any(local.roles[axis].indexed for some in groups for axis in some):
        return None
    axes = {axis for some in groups for axis in some}
    least = max(LEAST, round(positions ** (1 / max(1, len(axes)))))
    short = shorter(groups, sizes, question.constants, least)
    if short is None:
        return None
    long = {prod(sizes[a] for a in some): prod(short[a] for a in some) for some in groups}
    numbers: dict[Node, Node] = {}
    for node in nodes_of(local.root):
        if isinstance(node, Constant) and not isinstance(node.value, bool):
            meant = [at_length(node.value, n, long[n]) for n in long if may_be(node.value, n)]
            if not all(close(number, meant[0]) for number in meant):
                return None
            for number in meant[:1]:
                if isinstance(node.value, int) and number != int(number):
                    return None
                numbers[node] = Constant(type(node.value)(number))
    (root,) = with_numbers([local.root], numbers)
    if len(numbers_in(root)) < len(question.constants):
        return None  # two numbers are one but for a rounding
    made = replace(
        question, local=replace(local, root=root), sizes={**sizes, **short},
        points={}, variants={}, degrees={},
    )  # fmt: skip
    return Short(made, tuple(n.value for n in numbers if isinstance(n, Constant)))
