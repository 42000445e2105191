"""Recurrences in chunks: a state that goes h = a * h + b need not wait for itself at every step.

Two such steps are one: a2 * (a1 * h + b1) + b2 = (a2 * a1) * h + (a2 * b1 + b2), and that combining
is associative. So the steps go in chunks of equal length, t = length * chunk + place:

1. along `place`, for all chunks at once: the state from 0, and the product of all a so far;
2. along `chunk`: the state at each chunk's start;
3. with no recurrence at all: each step's state, product * (state at the start) + (state from 0),
   and whatever the steps yield.

`length + chunks` steps wait for each other instead of `length * chunks`, for about three times the
arithmetic; so both ways are scheduled and the faster one is taken. Only where |a| <= 1 surely: the
product of larger ones could overflow where the recurrence itself does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf, isqrt, log, prod
from typing import TypeAlias

import numpy as np

from infinisa.isa.dtypes import is_float, promote
from infinisa.isa.errors import CompileError
from infinisa.isa.instruction import Instruction
from infinisa.isa.language import (
    Affine,
    Axis,
    Constant,
    Immediate,
    Input,
    Map,
    Node,
    Recurrence,
    Scan,
    Size,
    View,
    free,
    inputs,
    substitute,
    union,
    walk,
)
from infinisa.isa.machine import Machine
from infinisa.isa.program import Count, Extent

from .builder import axes_of
from .calls import Covered
from .equality.bounds import Bounds, bounds
from .equality.canonical import Canonical, canonical
from .graph import Graph, Model
from .schedule.tile import schedule
from .selection.cover import cover, fixed_sizes

Family: TypeAlias = tuple[Scan, ...]
"""All results of one recurrence that somebody wants."""

ZERO, ONE, MINUS = Constant(0.0), Constant(1.0), Constant(-1.0)

LARGEST_WEIGHT = 1 << 20
"""Elements of a weight whose values are looked at to bound it."""


# ---------------------------------------------------------------- what is affine


def affine(node: Node, state: Node) -> tuple[Node, Node] | None:
    """(a, b) with node = a * state + b element by element, or None if it is not of that form."""
    found: dict[Node, tuple[Node, Node] | None] = {}
    for each in walk([node]):
        parts = [found[child] for child in each.children]
        if each is state:
            found[each] = (ONE, ZERO)
        elif all(part is not None and part[0] is ZERO for part in parts):
            found[each] = (ZERO, each)
        elif None in parts or not isinstance(each, Map):
            found[each] = None
        else:
            found[each] = _affine(each.function, [part for part in parts if part is not None])
    return found[node]


def _affine(function: str, parts: Sequence[tuple[Node, Node]]) -> tuple[Node, Node] | None:
    """Of a function of affine forms; those of 0 * state are free of it."""
    (a, b), *others = parts
    if function == "negate":
        return _product(a, MINUS), _product(b, MINUS)
    if function == "where" and a is ZERO:
        (c, d), (e, f) = others
        return Map("where", (b, c, e)), Map("where", (b, d, f))
    if len(others) != 1:
        return None
    ((c, d),) = others
    if function == "add":
        return _sum(a, c), _sum(b, d)
    if function == "subtract":
        return _sum(a, _product(c, MINUS)), _sum(b, _product(d, MINUS))
    if function == "multiply" and ZERO in (a, c):
        return _sum(_product(a, d), _product(c, b)), _product(b, d)
    if function == "divide" and c is ZERO:
        return a / d, (ZERO if b is ZERO else b / d)
    return None


def _sum(a: Node, b: Node) -> Node:
    return b if a is ZERO else a if b is ZERO else a + b


def _product(a: Node, b: Node) -> Node:
    if ZERO in (a, b):
        return ZERO
    return b if a is ONE else a if b is ONE else a * b


# ---------------------------------------------------------------- one recurrence


@dataclass(frozen=True)
class Chunks:
    """Axes that take the place of a scanned one: (chunk, its length in steps)."""

    axis: Axis
    chunk: Axis
    place: Axis
    length: int

    @property
    def index(self) -> Affine:
        return Affine(((self.chunk, self.length), (self.place, 1)))

    def apart(self, x: Node) -> Node:
        """A value over the scanned axis as one over chunks and places."""
        return View(x, ((self.axis, self.index),))

    def together(self, x: Node) -> Node:
        """A value over chunks and places as one over the scanned axis."""
        whole = {
            self.chunk: Affine(((self.axis, 1),), divide=self.length),
            self.place: Affine(((self.axis, 1),), modulo=self.length),
        }
        return View(x, tuple((axis, i) for axis, i in whole.items() if axis in x.axes))


@dataclass(frozen=True)
class Linear:
    """A recurrence of which every state is affine in itself and free of the other states.

    fixed   the states that no step changes, with their values
    states  the others, each with its a and b
    """

    fixed: Mapping[Node, Node]
    states: Mapping[Input, tuple[Node, Node]]


def linear(scan: Scan) -> Linear | None:
    """What a recurrence is if it may go in chunks: None if a state is not of that form, or if the
    scanned axis is computed with."""
    body = scan.body
    roots = (*body.next, *body.emits)
    own = {*body.states, *body.slices}
    for node in walk(roots):
        over = (node.axis,) if isinstance(node, Size) else node.axes
        if isinstance(node, Scan) or body.axis in over:
            return None
    if any(not own & set(inputs([emit])) for emit in body.emits):
        return None
    pairs = list(zip(body.states, scan.initial, body.next, strict=True))
    fixed: dict[Node, Node] = {leaf: first for leaf, first, after in pairs if after is leaf}
    left = {leaf: after for leaf, _, after in pairs if leaf not in fixed}
    states: dict[Input, tuple[Node, Node]] = {}
    for leaf, after in left.items():
        found = affine(after, leaf)
        if found is None or set(left) & set(inputs(found)):
            return None
        if leaf.dtype != promote([leaf.dtype]) or not (is_float(leaf.dtype) or found[0] is ONE):
            return None
        states[leaf] = found
    return Linear(fixed, states) if states else None


def stable(scan: Scan, form: Linear, known: Callable[[Node], Bounds | None]) -> bool:
    """Whether no a is larger than 1, for all that is `known` of the values from outside."""
    outside = dict(zip(scan.body.slices, scan.xs, strict=True))

    def inside(node: Node) -> Bounds | None:
        if isinstance(node, Input) and node in outside:
            return bounds(outside[node], known)
        return bounds(form.fixed[node], known) if node in form.fixed else known(node)

    every = [bounds(a, inside) for a, _ in form.states.values()]
    return all(low >= -1.0 and high <= 1.0 for low, high in every)


def in_chunks(family: Family, form: Linear, chunks: Chunks) -> dict[Node, Node]:
    """The results of a recurrence, computed in chunks."""
    scan, body = family[0], family[0].body
    parallel: dict[Node, Node] = {
        leaf: chunks.apart(x) for leaf, x in zip(body.slices, scan.xs, strict=True)
    }
    parallel.update(form.fixed)
    before, last = dict(parallel), dict(form.fixed)
    for leaf, first, _ in zip(body.states, scan.initial, body.next, strict=True):
        if leaf in form.states:
            a, b = substitute(form.states[leaf], parallel)
            before[leaf], last[leaf] = _state(leaf, first, (a, b), chunks, body.reverse)
    count = len(body.states)
    results = substitute([_result(body, twin.output) for twin in family], before)
    return {
        twin: last[body.states[twin.output]] if twin.output < count else chunks.together(result)
        for twin, result in zip(family, results, strict=True)
    }


def _result(body: Recurrence, output: int) -> Node:
    count = len(body.states)
    return body.states[output] if output < count else body.emits[output - count]


def _state(
    leaf: Input, first: Node, pair: tuple[Node, Node], chunks: Chunks, reverse: bool
) -> tuple[Node, Node]:
    """(a state before each step over chunks and places, the state after the last step)."""
    chunk, place = chunks.chunk, chunks.place
    slices: dict[Node, Input] = {}
    for name, value in zip("ab", pair, strict=True):
        if place in value.axes:
            axes = tuple(axis for axis in value.axes if axis != place)
            slices[value] = Input(f"{leaf.name}.{name}", axes, value.dtype)
    a, b = (slices.get(value, value) for value in pair)
    local = Input(f"{leaf.name}.local", (chunk, *leaf.axes), leaf.dtype)
    factor = Input(f"{leaf.name}.factor", union([(chunk,), a.axes]), leaf.dtype)
    states, starts = [local], [ZERO if is_float(leaf.dtype) else Constant(0)]
    after = [_sum(_product(a, local), b)]
    if a is not ONE:
        states, starts, after = [*states, factor], [*starts, ONE], [*after, _product(a, factor)]
    results = _scans(place, states, after, slices, starts, reverse)
    count = len(states)
    ends = {
        result: Input(f"{leaf.name}.end{n}", result.axes[1:], leaf.dtype)
        for n, result in enumerate(results[:count])
    }
    whole, *product = ends.values()
    at_end = _sum(product[0] * leaf if product else leaf, whole)
    last, starts_of_chunks = _scans(chunk, [leaf], [at_end], ends, [first], reverse)
    so_far, *factors = results[count:]
    carried = factors[0] * starts_of_chunks if factors else starts_of_chunks
    return carried + so_far, last


def _scans(
    axis: Axis,
    states: Sequence[Input],
    after: Sequence[Node],
    slices: Mapping[Node, Input],
    initial: Sequence[Node],
    reverse: bool,
) -> list[Node]:
    """The last states of a recurrence, then the states before each step; `slices` names what is
    scanned."""
    body = Recurrence(
        axis, tuple(states), tuple(slices.values()), tuple(after), tuple(states), reverse
    )
    return [Scan(body, tuple(initial), tuple(slices), n) for n in range(2 * len(states))]


# ---------------------------------------------------------------- a graph


@dataclass
class Chunking:
    """Recurrences of a model's graphs, on a machine; alike ones are scheduled once."""

    model: Model
    machine: Machine
    library: Mapping[str, Instruction]
    known: dict[object, int] = field(default_factory=dict)

    def __call__(self, graph: Graph, form: Canonical) -> tuple[Graph, Canonical]:
        """The graph (with the axes of its chunks) and its form, recurrences in chunks where that
        is predicted to be faster."""
        made = {node: node for node in walk(form.roots)}
        extents = {extent.axis: extent for extent in graph.extents}
        for family in families(form.roots):
            current = tuple(made[twin] for twin in family)
            scans = tuple(twin for twin in current if isinstance(twin, Scan))
            length = self.best(scans, extents)
            if length:
                found = linear(scans[0])
                assert found is not None
                chunks, more = divided(scans[0].body.axis, length, extents)
                extents.update(more)
                results = in_chunks(scans, found, chunks)
                made = dict(zip(made, substitute(made.values(), results), strict=True))
        if len(extents) == len(graph.extents):
            return graph, form
        graph = replace(graph, extents=tuple(extents.values()))
        again = canonical([made[root] for root in form.roots], fixed_sizes(graph))
        both = {old: again.made.get(made[new], made[new]) for old, new in form.made.items()
                if new in made}  # fmt: skip
        return graph, Canonical(again.roots, both)

    def bounded(self, node: Node) -> Bounds | None:
        """The bounds of a weight's values."""
        if isinstance(node, Input) and node.name in self.model.weights:
            weight = self.model.weights[node.name]
            if prod(weight.shape) <= LARGEST_WEIGHT:
                values = np.asarray(weight.load(), np.float64)
                return float(values.min()), float(values.max())
        return None

    def best(self, family: Family, extents: Mapping[Axis, Extent]) -> int:
        """The length of chunks with which a recurrence is fastest; 0: not in chunks."""
        scan, extent = family[0], extents[family[0].body.axis]
        found = linear(scan)
        if found is None or extent.length.terms or extent.start != Count():
            return 0
        if not stable(scan, found, self.bounded):
            return 0
        alone, leaves = cut_out(family)
        own = linear(alone[0])
        assert own is not None
        key = alone, tuple(extents[axis] for axis in axes_of(walk(alone)))
        if key not in self.known:
            times = {0: self.time(alone, leaves, extents)}
            for length in lengths(extent.most):
                chunks, more = divided(extent.axis, length, extents)
                results = in_chunks(alone, own, chunks)
                times[length] = self.time(tuple(results.values()), leaves, {**extents, **more})
            self.known[key] = min(times, key=lambda length: times[length])
        return self.known[key]

    def time(
        self, roots: Sequence[Node], leaves: Sequence[Input], extents: Mapping[Axis, Extent]
    ) -> float:
        """The predicted cycles of computing just these values."""
        used = tuple(extents[axis] for axis in axes_of(walk((*roots, *leaves))))
        graph = Graph("chunk", used, {f"y{n}": root for n, root in enumerate(roots)})
        shapes = {
            leaf.name: (leaf, tuple(extents[axis].bound for axis in leaf.axes)) for leaf in leaves
        }
        model = Model("chunk", (graph,), shapes, parameters=self.model.parameters)
        try:
            covered = cover(model, graph, self.machine, self.library)
            groups = schedule(covered, self.machine, parameters=model.parameters)
        except CompileError:
            return inf  # what it says is said of the whole graph, if undivided fails too
        return sum(group.time for group in groups) + waits(covered)


def waits(covered: Covered) -> float:
    """Cycles in which the steps of recurrences wait for the results of those before: between the
    end of an issue and when its results are there. The schedule counts only how long units are
    busy, which may be less of a recurrence's time than this."""
    total = 0.0
    for call in covered.calls:
        if call.scan:
            one = {a: min(limit, covered.sizes[a]) for a, limit in call.limits.items()}
            occupancy, latency = call.cycles(one)
            total += covered.sizes[call.scan] * float(latency - occupancy)
    return total


def families(roots: Sequence[Node]) -> list[Family]:
    """The recurrences under some values, each before those that use it."""
    found: dict[object, list[Scan]] = {}
    for node in walk(roots):
        if isinstance(node, Scan):
            found.setdefault((node.body, node.initial, node.xs), []).append(node)
    return [tuple(twins) for twins in found.values()]


def divided(
    axis: Axis, length: int, extents: Mapping[Axis, Extent]
) -> tuple[Chunks, dict[Axis, Extent]]:
    """The axes that an axis is divided into, and their extents: always the same for a length."""
    chunks = Chunks(axis, f"{axis}_chunk{length}", f"{axis}_place{length}", length)
    count = extents[axis].most // length
    return chunks, {
        chunks.chunk: Extent(chunks.chunk, Count(count), count),
        chunks.place: Extent(chunks.place, Count(length), length),
    }


def lengths(steps: int) -> list[int]:
    """Lengths of chunks worth trying: around the root of the number of steps, where the steps that
    wait for each other are fewest, and to both sides."""
    able = [n for n in range(2, steps // 2 + 1) if steps % n == 0]
    root = isqrt(steps)
    wanted = (max(root // 2, 1), root, 2 * root)
    return sorted({min(able, key=lambda n: abs(log(n / want))) for want in wanted if able})


def cut_out(family: Family) -> tuple[Family, tuple[Input, ...]]:
    """A recurrence by itself, under names of its own: equal ones are equal. And its inputs."""
    scan, body = family[0], family[0].body
    known: dict[Node, Node] = {}
    for node in (*scan.initial, *scan.xs, *free(body)):
        if not isinstance(node, Constant | Immediate):
            known.setdefault(node, Input(f"given{len(known)}", node.axes, node.dtype))
    inside: dict[Node, Node] = {leaf: known.get(leaf, leaf) for leaf in free(body)}
    for name, leaves in (("state", body.states), ("slice", body.slices)):
        for n, leaf in enumerate(leaves):
            inside[leaf] = Input(f"{name}{n}", leaf.axes, leaf.dtype)
    results = substitute((*body.next, *body.emits), inside)
    cut = len(body.next)
    own = Recurrence(
        body.axis, _leaves(body.states, inside), _leaves(body.slices, inside),
        results[:cut], results[cut:], body.reverse,
    )  # fmt: skip
    initial = tuple(known.get(node, node) for node in scan.initial)
    xs = tuple(known[node] for node in scan.xs)
    alone = tuple(Scan(own, initial, xs, twin.output) for twin in family)
    return alone, tuple(leaf for leaf in known.values() if isinstance(leaf, Input))


def _leaves(old: Sequence[Input], known: Mapping[Node, Node]) -> tuple[Input, ...]:
    return tuple(leaf for each in old if isinstance(leaf := known[each], Input))
