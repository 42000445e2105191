"""Whether an instruction computes on the device as well as the cone it would replace.

Over the reals both are equal; numbers of a device are not reals. Both are evaluated in the types of
their operands, and held against the cone in f64: at ordinary magnitude, at large magnitude, with
rows that are far from zero, constant, zero or masked. All these regimes are positions along one
more axis of every operand, so that one evaluation serves them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import ml_dtypes
import numpy as np

from infinisa.isa.dtypes import DTYPES, is_float
from infinisa.isa.evaluate import Array, Range, align, evaluate, saturate
from infinisa.isa.functions import FUNCTIONS
from infinisa.isa.language import (
    Axis,
    Cast,
    Constant,
    Gather,
    Immediate,
    Input,
    Map,
    Node,
    Recurrence,
    Reduce,
    Scan,
    Stack,
    View,
    inputs,
    walk,
)

REGIME: Axis = "%regime"

ORDINARY = (1.0, 0.05, 6.0)
"""How far float operands are from zero in a model."""

LARGE = (30.0, 300.0, 1e4, 3e4)
FAR = (100.0, 3e3)
"""Rows whose values differ by about 1 but lie this far from zero."""

MEANINGFUL = 0.1
"""A cone that is further off computes nothing in this regime, and binds no instruction."""

MATERIAL = 16.0
"""How many times the error of the cone an instruction's may be."""

SMALLEST = 1e-30
"""Differences below this are underflow, however small the values of the tensor are."""

SINGLE = float(np.finfo(np.float32).eps)
UNNOTICED = 64 * SINGLE
"""Errors from which on two orders of a sum may differ."""


@dataclass(frozen=True)
class Precision:
    """Errors against the cone in f64, relative to the largest value of the tensor.

    cone, instruction                  the worst at ordinary magnitude
    extreme_cone, extreme_instruction  the worst in the other regimes in which the cone is sound
    trouble                            "" or the regime in which the instruction is worse, and how
    """

    cone: float
    instruction: float
    extreme_cone: float
    extreme_instruction: float
    trouble: str

    @property
    def stable(self) -> bool:
        """Whether the instruction is nowhere materially worse than the cone."""
        return not self.trouble

    @property
    def introduced(self) -> float:
        """What the replacement adds to the error at ordinary magnitude."""
        return max(0.0, self.instruction - self.cone)


def replacement_error(
    model: Node,
    instruction: Node,
    sizes: Mapping[Axis, int],
    dtypes: Mapping[str, str] | None = None,
    seeds: Sequence[int] = (0, 1),
) -> Precision:
    """How well an instruction computes what a cone of a model does.

    model, instruction  over the same inputs and axes, equal over the reals
    sizes               the lengths of all axes; small proxies do
    dtypes              types of operands that are not as the inputs say
    seeds               of the operands' values

    Operands that only sums lie between and an exponential, a comparison or a maximum are masked
    too. Where the cone is not a number nothing is asked of the instruction; where the cone is
    infinite, and not because it overflows, the instruction must be too.
    """
    leaves = typed(inputs([model, instruction]), dtypes or {})
    limits = index_limits([model, instruction], sizes)
    regimes = Regimes(leaves, mask_operands(model), limits, sizes, seeds)
    device = batched([model, instruction], leaves)
    exact, other_exact = in_double(device)
    arrays = regimes.arrays
    ranges = {axis: Range(0, length) for axis, length in sizes.items()}
    ranges[REGIME] = Range(0, len(regimes.names))
    cone, other = (
        saturate(array, model.dtype).astype(np.float64)
        for array in evaluated(device, model.axes, arrays, ranges)
    )
    exacts = evaluated([exact, other_exact], model.axes, arrays, ranges)
    truth, doubt = (array.astype(np.float64) for array in exacts)
    (moved,) = evaluated([exact], model.axes, nudged(arrays, seeds[0]), ranges)
    truth = np.where(known(regimes, truth, doubt), truth, np.nan)
    return judged(regimes, truth, moved, cone, other, unnoticed(model.dtype))


def known(regimes: Regimes, truth: Array, doubt: Array) -> Array:
    """Where f64 says what the value is: in regimes out of the ordinary not where both sides have a
    number and they differ much, since one of them has lost it on the way."""
    axes = tuple(range(1, truth.ndim))
    both = np.isfinite(truth) & np.isfinite(doubt)
    with np.errstate(invalid="ignore", over="ignore"):
        apart = both & (np.abs(truth - doubt) > MEANINGFUL * np.abs(truth))
    lost = apart.any(axis=axes, keepdims=True)
    lost[: regimes.ordinary] = False
    return np.broadcast_to(~lost, truth.shape)


def unnoticed(dtype: str) -> float:
    """The error below which results of this type are as good as each other."""
    if not is_float(dtype):
        return UNNOTICED
    return UNNOTICED + 2 * limits_of(dtype)[1]


def judged(
    regimes: Regimes, truth: Array, moved: Array, cone: Array, other: Array, floor: float
) -> Precision:
    """All arrays have the regimes first. `moved` is the truth for operands that are rounded once
    more: an error of that size is in the nature of the value."""
    count = len(regimes.names)
    flat = (np.reshape(x.astype(np.float64), (count, -1)) for x in (truth, moved, cone, other))
    truth, moved, cone, other = flat
    with np.errstate(invalid="ignore", over="ignore"):
        finite = np.isfinite(truth)
        size = np.max(np.abs(truth), axis=1, where=finite, initial=0.0)[:, None]
        size = np.where(size == 0.0, 1.0, np.maximum(size, SMALLEST))
        size = np.maximum(size, size[0])  # of what the function yields at ordinary magnitude
        usable = finite & np.isfinite(cone)
        infinite = np.isinf(truth) & (cone == truth) & regimes.without_overflow[:, None]
        cone_error = worst(cone, truth, size, usable)
        inherent = worst(moved, truth, size, usable & np.isfinite(moved))
        error = worst(other, truth, size, usable)
        kept = ~(infinite & (other != truth)).any(axis=1)
    sound = usable.any(axis=1) & (cone_error <= MEANINGFUL)
    ordinary = np.arange(count) < regimes.ordinary
    allowed = np.maximum(MATERIAL * np.maximum(cone_error, inherent), floor)
    bad = (sound | ordinary & usable.any(axis=1)) & (~kept | (error > allowed))
    trouble = "" if sound.any() else "the cone is finite nowhere"
    if bad.any():
        first = int(np.argmax(bad))
        what = f"off by {error[first]:.1g}" if np.isfinite(error[first]) else "not finite"
        what = what if kept[first] else "not infinite where the cone is"
        trouble = f"{regimes.names[first]}: {what}, the cone by {cone_error[first]:.1g}"
    apart = (ordinary & usable.any(axis=1), ~ordinary & sound)
    most = [
        float(np.max(e, where=rows, initial=0.0)) for rows in apart for e in (cone_error, error)
    ]
    return Precision(most[0], most[1], most[2], most[3], trouble)


def worst(value: Array, truth: Array, size: Array, where: Array) -> Array:
    """The largest relative error of each regime; infinite if a value is no finite number."""
    gap = np.where(np.isfinite(value), np.abs(value - truth) / size, np.inf)
    return np.asarray(np.max(gap, axis=1, where=where, initial=0.0))


def evaluated(
    roots: Sequence[Node],
    axes: Sequence[Axis],
    arrays: Mapping[str, Array],
    ranges: Mapping[Axis, Range],
) -> list[Array]:
    """Values with the regimes first and the other axes as listed."""
    target = (REGIME, *axes)
    shape = [ranges[axis].length for axis in target]
    values = evaluate(roots, arrays, ranges=ranges)
    return [
        np.broadcast_to(align(value, root.axes, target), shape)
        for value, root in zip(values, roots, strict=True)
    ]


def nudged(arrays: Mapping[str, Array], seed: int) -> dict[str, Array]:
    """The float operands moved by half the distance to the next f32."""
    random = np.random.default_rng((seed, 1))
    made = {}
    for name, array in arrays.items():
        if array.dtype.kind in "iub":
            made[name] = array
        else:
            signs = random.integers(0, 2, array.shape) - 0.5
            with np.errstate(over="ignore"):
                made[name] = array.astype(np.float64) * (1.0 + SINGLE * signs)
    return made


# ---------------------------------------------------------------- expressions over regimes


def typed(leaves: Iterable[Input], dtypes: Mapping[str, str]) -> dict[Node, Input]:
    """Each input as it is on the device, with the axis of the regimes first."""
    return {
        leaf: Input(leaf.name, (REGIME, *leaf.over), dtypes.get(leaf.name, leaf.type))
        for leaf in leaves
    }


def batched(roots: Sequence[Node], leaves: Mapping[Node, Input]) -> tuple[Node, ...]:
    """The same values for all regimes at once."""
    made: dict[Node, Node] = dict(leaves)
    for node in walk(roots):
        if node not in made:
            children = [made[child] for child in node.children]
            made[node] = node.rebuild(children) if children else node
    return tuple(made[root] for root in roots)


def in_double(roots: Sequence[Node]) -> tuple[Node, ...]:
    """The same values in f64, rounding to floats left out."""
    made: dict[Node, Node] = {}
    for node in walk(roots):
        children = [made[child] for child in node.children]
        match node:
            case Input(name, over, type) if is_float(type):
                made[node] = Input(name, over, "f64")
            case Cast(_, type) if is_float(type):
                made[node] = cast_up(children[0])
            case Map() if is_float(node.dtype) and not any(c.dtype == "f64" for c in children):
                made[node] = node.rebuild([cast_up(c) for c in children])
            case Scan():
                made[node] = scan_in_double(node, children)
            case _:
                made[node] = node.rebuild(children) if children else node
    return tuple(made[root] for root in roots)


def cast_up(node: Node) -> Node:
    number = isinstance(node, Constant | Immediate)
    return node if number or node.dtype in ("f64", "bool") else Cast(node, "f64")


def scan_in_double(node: Scan, children: Sequence[Node]) -> Scan:
    body, first, count = node.body, len(node.initial), len(node.initial) + len(node.xs)
    states = double_leaves(body.states)
    slices = double_leaves(body.slices)
    results = in_double((*body.next, *body.emits))
    cut = len(body.next)
    made = Recurrence(body.axis, states, slices, results[:cut], results[cut:], body.reverse)
    return Scan(made, tuple(children[:first]), tuple(children[first:count]), node.output)


def double_leaves(leaves: Iterable[Input]) -> tuple[Input, ...]:
    return tuple(
        Input(leaf.name, leaf.over, "f64" if is_float(leaf.type) else leaf.type) for leaf in leaves
    )


LIMITING = (
    "exp",
    "maximum",
    "minimum",
    *(f.name for f in FUNCTIONS.values() if f.result == "bool"),
)
"""Functions that make something of a value that stands for minus infinity."""

LINEAR = ("add", "subtract", "negate", "where")
SCALING = ("multiply", "divide")


def mask_operands(root: Node) -> set[str]:
    """The inputs that reach such a function through sums, branches and factors that are numbers."""
    waiting = [
        child
        for node in walk([root])
        if (isinstance(node, Map) and node.function in LIMITING)
        or (isinstance(node, Reduce) and node.function in ("max", "min"))
        for child in node.children
    ]
    seen: set[Node] = set()
    while waiting:
        node = waiting.pop()
        linear = isinstance(node, View | Stack | Cast)
        if isinstance(node, Map):
            numbers = [not inputs([child]) for child in node.arguments]
            linear = node.function in LINEAR or (node.function in SCALING and any(numbers))
        if linear and node not in seen:
            seen.add(node)
            waiting += node.children
        elif isinstance(node, Input):
            seen.add(node)
    return {node.name for node in seen if isinstance(node, Input)}


def index_limits(roots: Sequence[Node], sizes: Mapping[Axis, int]) -> dict[str, int]:
    """For inputs that an index is made of, the length of the axis that they look up."""
    limits: dict[str, int] = {}
    for node in walk(roots):
        if isinstance(node, Gather):
            for leaf in inputs([node.index]):
                limits[leaf.name] = min(sizes[node.axis], limits.get(leaf.name, sizes[node.axis]))
    return limits


# ---------------------------------------------------------------- operands


class Regimes:
    """The operands' values in every regime, and what the regimes are called. The first `ordinary`
    of them are of ordinary magnitude."""

    def __init__(
        self,
        leaves: Mapping[Node, Input],
        masks: set[str],
        limits: Mapping[str, int],
        sizes: Mapping[Axis, int],
        seeds: Sequence[int],
    ) -> None:
        kinds = (*(f"about {size:g}" for size in ORDINARY), "positive", "whole")
        self.names = [f"all operands {kind}" for _ in seeds for kind in kinds]
        self.ordinary = len(self.names)
        operands = {leaf.name: leaf for leaf in leaves.values()}
        floats = [leaf.name for leaf in operands.values() if is_float(leaf.type)]
        self.special = [
            (name, kind, make)
            for name in floats
            for kind, make in (*SPECIAL, *(MASKED if name in masks else ()))
        ]
        self.names += [f"{name} {kind}" for name, kind, _ in self.special]
        overflow = [False] * self.ordinary + ["-inf" not in kind for _, kind, _ in self.special]
        self.without_overflow = ~np.array(overflow)
        self.arrays = {
            leaf.name: self.values(leaf, limits.get(leaf.name), sizes, seeds)
            for leaf in operands.values()
        }

    def values(
        self,
        leaf: Input,
        limit: int | None,
        sizes: Mapping[Axis, int],
        seeds: Sequence[int],
    ) -> Array:
        """One operand in all regimes."""
        shape = [sizes[axis] for axis in leaf.over[1:]]
        salt = list(leaf.name.encode())
        if not is_float(leaf.type):
            random = np.random.default_rng([*salt, seeds[0]])
            return whole_numbers(leaf.type, limit, (len(self.names), *shape), random)
        rows = []
        for seed in seeds:
            draw = np.random.default_rng([*salt, seed]).standard_normal(shape)
            rows += [draw * size for size in ORDINARY]
            rows += [np.abs(draw) + 0.1, (np.rint(2.0 * draw) + 0.0)]  # of the last, many are equal
        least, _ = limits_of(leaf.type)
        usual = rows[0]
        rows += [
            make(usual, least) if name == leaf.name else usual for name, _, make in self.special
        ]
        with np.errstate(over="ignore"):
            values = np.stack(rows)
            inside = np.where(np.isinf(values), values, np.clip(values, least, -least))
            return inside.astype(DTYPES[leaf.type].numpy)


def whole_numbers(
    dtype: str, limit: int | None, shape: tuple[int, ...], random: np.random.Generator
) -> Array:
    """Truth values (first rows without and with all), indices in range, or numbers of the type:
    those of a byte, and in every second regime of the whole type up to a million."""
    if dtype == "bool":
        truths = random.random(shape) < 0.5
        if truths.ndim > 1 and shape[1] > 1:
            truths[:, 0], truths[:, 1] = False, True
        return truths
    kind = DTYPES[dtype].numpy
    if limit is not None:
        return random.integers(0, limit, shape).astype(kind)
    small, wide = (
        random.integers(max(np.iinfo(kind).min, -most), min(np.iinfo(kind).max, most) + 1, shape)
        for most in (127, 10**6)
    )
    small[1::2] = wide[1::2]
    return small.astype(kind)


@lru_cache
def limits_of(dtype: str) -> tuple[float, float]:
    """(the least value of a float type, the distance of 1 from the next)"""
    one = np.ones((), DTYPES[dtype].numpy)
    found = ml_dtypes.finfo(one.dtype)  # type: ignore[no-untyped-call]  # it has no types
    return float(found.min), float(found.eps)


def partly(draw: Array, value: float) -> Array:
    """About half of the values masked, and all of the first row."""
    made = np.where(np.sin(draw * 1e4) > 0.0, draw, value)
    if made.ndim:
        made[0] = value
    return made


def level(draw: Array) -> Array:
    """Rows of one value each."""
    return np.broadcast_to(draw[..., :1] * 7.0, draw.shape) if draw.ndim else draw


Special = Callable[[Array, float], Array]

SPECIAL: tuple[tuple[str, Special], ...] = (
    *((f"about {size:g}", lambda x, _, size=size: x * size) for size in LARGE),
    *((f"near {far:g}", lambda x, _, far=far: x + far) for far in FAR),
    ("of one value a row", lambda x, _: level(x)),
    ("zero", lambda x, _: x * 0.0),
)
"""What else is done to one operand at a time: its name, and a function of ordinary values and of
the least value of the operand's type."""

MASKED: tuple[tuple[str, Special], ...] = (
    ("partly -inf", lambda x, _: partly(x, -np.inf)),
    ("partly -1e30", lambda x, least: partly(x, max(-1e30, least))),
    ("partly the least of its type", partly),
    ("all -inf", lambda x, _: np.full_like(x, -np.inf)),
    ("all -1e30", lambda x, least: np.full_like(x, max(-1e30, least))),
    ("all the least of its type", np.full_like),
)
"""What else is done to operands that may be masks."""
