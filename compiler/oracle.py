"""Whether two computations are one function, by values: both are evaluated at the same points.

Points are random at several scales, and where functions have corners also around the numbers of
both sides; logarithms and roots get positive values; what goes through comparisons or a maximum is
also tried with -inf, with -1e30 and with the least f32, in single places and in whole rows; what is
compared with an infinity or a large number, or asked whether it is NaN, with that.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infinisa.isa.dtypes import DTYPES, is_float
from infinisa.isa.errors import LanguageError
from infinisa.isa.evaluate import Range, evaluate
from infinisa.isa.functions import FUNCTIONS
from infinisa.isa.language import (
    Axis,
    Cast,
    Constant,
    Dot,
    Gather,
    Immediate,
    Input,
    Map,
    Node,
    Position,
    Reduce,
    Scan,
    Size,
    Stack,
    View,
    everything,
    with_numbers,
)

from .local import Local, Role
from .pattern import Degree, kind
from .precision import limits_of

Array = NDArray[Any]

RELATIVE, ABSOLUTE = 1e-8, 1e-9
"""How far apart two equal values may be in f64: of the value, and of the tensor's largest."""

ROUNDING = 2.0**-23
"""Numbers this close are one number: a model's file may hold either rounded to f32."""

POWERS = (1, -1, 2, -2)
"""How a number may stand for a length: as it is, inverted, as a root."""

MOST_POSITIONS = 512
"""How far positions are counted because a number may be one."""

LARGEST = 1e9
"""Numbers as large stand for infinity."""

HIDDEN = 1e6
"""What is added to hide a value is below minus this, or the least that a narrow type holds."""

NARROW = {name: limits_of(name)[0] for name in ("f16", "bf16")}
"""The least number of each narrow type in which a model may compute."""

SMALL, WIDE = 9, 10_000
"""How large whole numbers are that are no indices, at ordinary and at larger scales: a sum of bytes
that is scaled down and rounded is 0 unless it is large."""

POOL = 65_521
"""So many values are drawn at most; a larger input repeats them, and the number being prime none
of its rows in step with others."""

EQUAL_SHARE = 0.25
"""How many values of an input are numbers of the computation where they are tried."""

MOST_TRIED = 1024
"""How many combinations of numbers are tried for the immediates of an instruction."""

MANY = 1 << 12
"""If the numbers tried times the points are more, they are tried at fewer points first."""

NEAR = 0.05
"""Computations this close are near misses."""

CORNERS = frozenset(
    [
        "maximum",
        "minimum",
        "where",
        "absolute",
        "sign",
        "less",
        "less_equal",
        "greater",
        "greater_equal",
        "floor",
        "ceil",
        "round",
        "equal",
        "not_equal",
        "is_nan",
        "floor_divide",
        "modulo",
    ]
)
COMPARISONS = frozenset(
    ["less", "less_equal", "greater", "greater_equal", "equal", "not_equal"]
)  # fmt: skip
ORDINARY = 3
"""The last seed of points at ordinary magnitude."""

SINGLE_DRAWS, SEEDS = 8, 1000
"""How often points of inputs without axes are drawn, and how far apart the seeds are."""

MASKS = (-math.inf, -1e30, -3.4028234663852886e38)
NEAR_MASK = -12345.5
"""Hides from an exponential too, and leaves f64 the digits of what is added to it."""

WIDTHS = {1: (61,), 2: (13, 11), 3: (7, 5, 6), 4: (5, 4, 3, 6), 5: (4, 3, 5, 2, 3)}
"""Sizes of axes by how many there are; more axes have 3 or 2 positions."""


@dataclass(frozen=True)
class Probe:
    """How the inputs are drawn. `mask` goes to the input of number `masked`, to single positions
    or to whole rows; `whole` numbers, and halves, are equal now and then; inputs over the same axes
    may be `alike`: equal."""

    scale: float
    seed: int
    positive: bool = False
    masked: int = -1
    mask: float = 0.0
    rows: bool = False
    whole: bool = False
    numbers: tuple[float, ...] = ()
    alike: bool = False


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
                most = np.iinfo(DTYPES[leaf.type].numpy).max
                reach = SMALL if probe.scale < 2 else min(WIDE, most)
                low, high = (-limit * signed, limit) if limit else (-reach, reach + 1)
                low = max(low, 0) if leaf.type.startswith("u") else low
                whole = random.integers(low, high, shape)
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
        """How often each point is drawn: a single number is on one side of a corner at a time."""
        single = any(not leaf.axes for leaf in self.local.leaves)
        return SINGLE_DRAWS if single and cornered(self.local.root) else 1

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
        for small in sorted({abs(c) for c in self.constants if 0 < abs(c) < 1e-2})[:2]:
            yield Probe(small, 10, positive)
            yield Probe(math.sqrt(small), 11, positive)
        for n in self.masks:
            for mask in MASKS:
                yield Probe(1.0, 6, positive, n, mask)
            yield Probe(1.0, 6, positive, n, -math.inf, True)
            yield Probe(1.0, 6, positive, n, -1e30, True)
        yield from self.special

    @property
    def special(self) -> Iterator[Probe]:
        """The points where an input is what somebody asks for."""
        numbers = special_in(self.local.root)
        for n, leaf in enumerate(self.local.leaves):
            for number in numbers if is_float(leaf.type) else ():
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


def shortened(question: Question) -> Short | None:
    """A question whose axes are short where they are long because a number may be their length.
    Those that are as long as each other stay so; None where that is not possible, where positions
    are computed with, or where a number may be several lengths."""
    local, sizes = question.local, question.sizes
    groups = numbered(local, sizes, question.constants, question.run_time)
    if any(local.roles[axis].indexed for some in groups for axis in some):
        return None
    short = shorter(groups, sizes, question.constants)
    if short is None:
        return None
    long = {prod(sizes[a] for a in some): prod(short[a] for a in some) for some in groups}
    numbers: dict[Node, Node] = {}
    for node in nodes_of(local.root):
        if isinstance(node, Constant) and not isinstance(node.value, bool):
            meant = [_as(node.value, n, long[n]) for n in long if _may_be(node.value, n)]
            if not all(_close(number, meant[0]) for number in meant):
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


def shorter(
    groups: Sequence[Sequence[Axis]], sizes: Mapping[Axis, int], constants: Iterable[float]
) -> dict[Axis, int] | None:
    """Short lengths for the axes of some groups: equally long groups stay equally long, others do
    not become so. None if nothing gets shorter, or not without that."""
    taken = _lengths_of(constants)
    found: dict[Axis, int] = {}
    lengths: dict[int, int] = {}
    for some in sorted(groups, key=lambda some: (prod(sizes[a] for a in some), -len(some))):
        for axis in some:
            if axis not in found:
                known = lengths.get(sizes[axis], 0)
                free = (n for n in itertools.count(3) if n not in {*taken, *lengths.values()})
                found[axis] = min(known or next(free), sizes[axis])
        length = prod(found[axis] for axis in some)
        if lengths.setdefault(prod(sizes[axis] for axis in some), length) != length:
            return None
    apart = len({*lengths.values()}) == len(lengths)
    return found if apart and any(n < sizes[axis] for axis, n in found.items()) else None


def _as(number: float, length: int, short: int) -> float:
    """What a number that stands for a length is where that is short."""
    power = next(p for p in POWERS if _close(abs(number) ** p, length))
    return math.copysign(float(short) ** (1 / power), number)


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


def _floats(random: np.random.Generator, shape: Sequence[int], probe: Probe, n: int) -> Array:
    values = random.normal(size=min(prod(shape), POOL)) * probe.scale
    values = np.resize(values, shape)
    if probe.positive:
        values = np.exp(values / (1 + probe.scale)) * max(probe.scale, 1.0)
    if probe.whole:
        least = 0.0 if probe.positive else -math.inf
        values = _equal_to_some(random, np.rint(2.0 * values) / 2.0 + 0.0, probe, least)
    if n == probe.masked:
        hidden = random.random(shape) < 0.4
        if probe.rows:
            hidden = np.asarray(hidden)
            hidden[0 if shape else ...] = True
        values = np.where(hidden, probe.mask, values)
    return values


def _equal_to_some(random: np.random.Generator, values: Array, probe: Probe, least: float) -> Array:
    """Some of the values replaced by numbers of the probe that are no less than `least`."""
    numbers = [c for c in probe.numbers if c >= least and (values.dtype.kind == "f" or c == int(c))]
    if not numbers:
        return np.asarray(values)
    some = random.choice(np.asarray(numbers), np.shape(values)).astype(values.dtype)
    found: Array = np.where(random.random(np.shape(values)) < EQUAL_SHARE, some, values)
    return found


TRY = "try"
"""The axis of the numbers that are tried for immediates."""


@lru_cache(maxsize=1 << 13)
def nodes_of(root: Node) -> tuple[Node, ...]:
    """The nodes of a computation, operands first, those inside of recurrences included."""
    return tuple(dict.fromkeys(everything([root])))


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


@lru_cache(maxsize=4096)
def functions_in(root: Node) -> frozenset[str]:
    """The scalar functions and folds of a computation."""
    return frozenset(n.function for n in nodes_of(root) if isinstance(n, Map | Reduce))


@lru_cache(maxsize=4096)
def cornered(root: Node) -> bool:
    """Whether a computation has corners or steps."""
    return any(
        isinstance(n, Cast) or (isinstance(n, Map) and n.function in CORNERS)
        for n in nodes_of(root)
    )


@lru_cache(maxsize=4096)
def bounds_in(root: Node) -> tuple[float, ...]:
    """The numbers that values are compared with, if a sum of ones may reach them."""
    functions = (n for n in nodes_of(root) if isinstance(n, Map) and n.function in CORNERS)
    numbers = (c.value for n in functions for c in n.arguments if isinstance(c, Constant))
    return tuple(float(c) for c in numbers if 1 < abs(c) < MOST_POSITIONS)


@lru_cache(maxsize=4096)
def special_in(root: Node) -> tuple[float, ...]:
    """What inputs are at no other point, but may be where somebody asks for it: infinities and
    large numbers that values are compared with, of either sign, and NaN beside an infinity or where
    it is asked for. What is folded before is NaN where it is hidden altogether (`MASKS`)."""
    found = []
    for node in nodes_of(root):
        if not isinstance(node, Map):
            continue
        if node.function == "is_nan" and not any(
            isinstance(below, Reduce | Dot) for below in nodes_of(node)
        ):
            found.append(math.nan)
        elif node.function in COMPARISONS:
            for number in (c for x in node.arguments for c in numbers_in(x) if is_literal(x)):
                if abs(number) >= HIDDEN:  # and what is past it
                    found += [sign * number for sign in (1, -1, 2, -2)]
                if math.isinf(number):
                    found.append(math.nan)
    return tuple(dict.fromkeys(found))


def is_literal(node: Node) -> bool:
    """Whether a node is a number, in whatever type."""
    return isinstance(node, Constant) or (isinstance(node, Cast) and is_literal(node.x))


@lru_cache(maxsize=4096)
def sizes_in(root: Node) -> tuple[Axis, ...]:
    """The axes whose lengths are numbers of a computation."""
    return tuple(node.axis for node in nodes_of(root) if isinstance(node, Size))


@lru_cache(maxsize=4096)
def immediates_in(root: Node) -> frozenset[Immediate]:
    return frozenset(node for node in nodes_of(root) if isinstance(node, Immediate))


@lru_cache(maxsize=4096)
def numbers_in(root: Node) -> tuple[float, ...]:
    """The numbers of a computation that are not just truth values, each once."""
    found = dict.fromkeys(
        float(n.value)
        for n in nodes_of(root)
        if isinstance(n, Constant) and not isinstance(n.value, bool)
    )
    return tuple(found)


def lengths(
    local: Local,
    sizes: Mapping[Axis, int],
    constants: Sequence[float],
    run_time: frozenset[Axis] = frozenset(),
    least: Mapping[Axis, int] | None = None,
) -> dict[Axis, int]:
    """Short lengths for the axes of a computation, each different; but as long as in the model
    where a number may be the length of an axis that is computed over, as long as indices reach, and
    as a sum of ones must be to pass a bound. No number is one of the others by chance. Axes of
    which a step of a recurrence reads one as the other stay as long as each other."""
    nodes = nodes_of(local.root)
    found = dict.fromkeys(local.axes, 1)
    apart = _apart(local, nodes)
    widths = WIDTHS.get(len(apart), (3, 2))
    found.update((axis, widths[n % len(widths)]) for n, axis in enumerate(apart))
    found.update((axis, max(found[axis], n)) for axis, n in (least or {}).items())
    ended = [axis for axis, role in local.roles.items() if role.ended]
    groups = groups_of(local)
    exact: dict[Axis, int] = {}
    for some in numbered(local, sizes, constants, run_time):
        exact.update((axis, sizes[axis]) for axis in some)
    counted = [node.axis for node in nodes if isinstance(node, Position)]
    whole = [int(c) for c in constants if abs(c) < MOST_POSITIONS and c == int(c)]
    for axis in counted:
        reach = max((abs(c) for c in whole), default=0) + 3
        found[axis] = max(found[axis], min(reach, sizes[axis]))
    reach = max((math.ceil(abs(c)) + 2 for c in bounds_in(local.root)), default=0)
    for axis in ended:
        found[axis] = max(found[axis], min(reach, sizes[axis]))
    for node in nodes:
        if isinstance(node, Stack):
            exact[node.axis] = len(node.xs)
    views = [node for node in nodes if isinstance(node, View)]
    for view in views:
        divided = [i for _, i in view.index if i.modulo or i.divide > 1]
        exact.update((axis, sizes[axis]) for i in divided for axis in i.axes)
    found.update(exact)
    for view in reversed(views):
        for axis, i in view.index:
            reach = i.offset + sum(max(0, s) * (found[a] - 1) for a, s in i.terms)
            if i.modulo or i.divide > 1 or any(s < 0 for _, s in i.terms):
                found[axis] = exact[axis] = sizes[axis]
            else:
                found[axis] = max(found[axis], reach + 1)
    _keep_apart(found, exact, groups, constants, _alike(nodes, sizes))
    return found


def _alike(nodes: Iterable[Node], sizes: Mapping[Axis, int]) -> list[set[Axis]]:
    """Axes of one length of which steps of a recurrence read some as others."""
    pairs = {
        (axis, index.plain)
        for scan in nodes
        if isinstance(scan, Scan)
        for node in everything((*scan.body.next, *scan.body.emits))
        if isinstance(node, View)
        for axis, index in node.index
        if index.plain is not None and sizes[axis] == sizes[index.plain]
    }
    found: list[set[Axis]] = []
    for pair in pairs:
        joined = set(pair).union(*(some for some in found if some & {*pair}))
        found = [*(some for some in found if not some & {*pair}), joined]
    return found


def groups_of(local: Local) -> list[tuple[Axis, ...]]:
    """The axes whose positions may be counted, alone and together."""
    ended = [axis for axis, role in local.roles.items() if role.ended]
    several = [some for n in (2, 3) for some in itertools.combinations(ended, n)]
    return [*((axis,) for axis in local.axes), *several]


def numbered(
    local: Local,
    sizes: Mapping[Axis, int],
    constants: Sequence[float],
    run_time: frozenset[Axis],
) -> list[tuple[Axis, ...]]:
    """The groups of axes that are computed over and whose length a number may be."""
    found = []
    for some in groups_of(local):
        length = prod(sizes[axis] for axis in some)
        loop = any(local.roles[axis].kind == Role.LOOP for axis in some)
        if length == 1 or loop or run_time & {*some}:
            continue
        if any(_may_be(c, length) for c in constants):
            found.append(some)
    return found


def _lengths_of(constants: Iterable[float]) -> set[int]:
    """The lengths that numbers may be."""
    found = {round(abs(c) ** power) for c in constants if 1e-6 < abs(c) < 1e6 for power in POWERS}
    return found - {0, 1}


def _keep_apart(
    found: dict[Axis, int],
    exact: Mapping[Axis, int],
    groups: Sequence[Sequence[Axis]],
    constants: Iterable[float],
    alike: Iterable[set[Axis]],
) -> None:
    """Lengthen the axes that need not be exactly as long, where a number may be such a length; axes
    that are `alike` stay so."""
    for equal in alike:
        longest = max(found[axis] for axis in equal)
        found.update((axis, exact.get(axis, longest)) for axis in equal)
    taken = _lengths_of(constants)
    free = [some for some in groups if any(axis not in exact for axis in some)]
    while some := next((s for s in free if prod(found[a] for a in s) in taken), ()):
        one = next(axis for axis in some if axis not in exact)
        for axis in next((others for others in alike if one in others), {one}):
            found[axis] += 1


def _apart(local: Local, nodes: Iterable[Node]) -> list[Axis]:
    """The axes without those that always occur together with another: these are one axis."""
    occurrences: dict[Axis, list[int]] = {axis: [] for axis in local.axes}
    for n, node in enumerate(nodes):
        ended = node.over if isinstance(node, Dot | Reduce) else ()
        for axis in (*node.axes, *ended):
            occurrences[axis].append(n)
    first: dict[object, Axis] = {}
    for axis, where in occurrences.items():
        role = local.roles[axis]
        first.setdefault(axis if role.indexed else (role, *where), axis)
    return list(first.values())


def _may_be(number: float, length: int) -> bool:
    """Whether a number may stand for a length."""
    size = abs(number)
    if not 0 < size < math.inf:
        return False
    return any(_close(size**power, length) for power in POWERS)


def _close(a: float, b: float) -> bool:
    return a == b or abs(a - b) <= 4 * ROUNDING * max(abs(a), abs(b))


# ---------------------------------------------------------------- comparing


def distance(expected: Array, found: Array, finite: bool = False) -> float:
    """How far apart two results are, relative to the tensor; 0 if they are equal as far as f64
    tells, inf where one has a value and the other none. Where nothing is expected (NaN; of finite
    inputs also an infinity, which is an overflow), anything may be found."""
    return distances(expected, [found], finite)[0]


def distances(expected: Array, found: Sequence[Array], finite: bool = False) -> list[float]:
    """The distance of each of some results of one shape."""
    if expected.shape != found[0].shape:
        return [math.inf] * len(found)
    values = np.reshape(np.stack(found), (len(found), -1))
    expected = expected.reshape(-1)
    if expected.dtype.kind != "f" and values.dtype.kind != "f":
        unequal = (values != expected).sum(axis=1) / max(expected.size, 1)
        return [float(share) for share in unequal]
    wrong = np.zeros(len(found), bool)
    inside = np.isfinite(expected)
    if not inside.all():
        infinite = np.isinf(expected) & (not finite)
        wrong = (values[:, infinite] != expected[infinite]).any(axis=1)
        expected, values = expected[inside], values[:, inside]
    if not expected.size:
        return [math.inf if bad else 0.0 for bad in wrong]
    size = np.abs(expected)
    largest = float(size.max())
    with np.errstate(all="ignore"):
        apart = np.abs(values - expected)
        near = (apart <= RELATIVE * size + ABSOLUTE * largest).all(axis=1)
        gaps = np.where(near, 0.0, apart.max(axis=1) / largest if largest else math.inf)
    return [float(gap) for gap in np.where(wrong | np.isnan(gaps), math.inf, gaps)]


def snapped(root: Node, literals: Iterable[float], narrow: Iterable[str] = ()) -> Node:
    """A computation whose numbers are the other side's where they differ by no more than one
    rounding, or are what that would be in a `narrow` type: its literals, their inverses and
    squares."""
    if not numbers_in(root):
        return root
    targets = forms_of(literals)
    known: dict[Node, Node] = {}
    for node in nodes_of(root):
        if isinstance(node, Constant) and isinstance(node.value, float) and node.value:
            for target in targets:
                if node.value != target and is_rounded(node.value, target, narrow):
                    known[node] = Constant(target)
                    break
    return with_numbers([root], known)[0] if known else root


def forms_of(literals: Iterable[float]) -> list[float]:
    """What an instruction's numbers may be written as."""
    return [
        t
        for q in literals
        if q and math.isfinite(q)
        for t in (q, 1 / q, q * q, 1 / (q * q), -q, math.sqrt(abs(q)), 1 / math.sqrt(abs(q)))
    ]


def is_rounded(number: float, exact: float, narrow: Iterable[str]) -> bool:
    """Whether a number is another but for the rounding to f32, or to one of some types; nobody
    rounds to whole numbers and halves."""
    if abs(number / exact - 1) <= ROUNDING:
        return True
    return 2 * number % 1 != 0 and any(
        abs(exact) <= -NARROW[to] and number == DTYPES[to].numpy.type(exact) for to in narrow
    )


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


@lru_cache(maxsize=1 << 13)
def ordered(root: Node) -> Node:
    """A computation with the operands of commutative operations in one order: where it is another's
    both do the same operations, to the last bit."""
    made: dict[Node, Node] = {}
    for node in nodes_of(root):
        children = tuple(made[child] for child in node.children)
        match node:
            case Map(function, _) if FUNCTIONS[function].commutative:
                children = tuple(sorted(children, key=id))
            case Dot(_, _, over):
                left, right = sorted(children, key=id)
                made[node] = Dot(left, right, tuple(sorted(over)))
                continue
        made[node] = node if children == node.children else node.rebuild(children)
    return made[root]


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
        for probe in question.probes(corners):
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
