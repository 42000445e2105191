"""The gradient of an instruction against differences of its values."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infinisa.compiler.gradient import gradient_of
from infinisa.isa.dtypes import is_float
from infinisa.isa.errors import LanguageError
from infinisa.isa.evaluate import align, evaluate
from infinisa.isa.instruction import Adjoint, Instruction
from infinisa.isa.language import Cast, Input, Node, Recurrence, Scan, lift, sum, walk

from .finding import Fault, Note, Subject
from .sample import Sample, lengths_of

Array = NDArray[Any]

LENGTHS = (3, 2, 5)
STEP = 1e-6
"""How far an operand is moved: values are f64."""
CLOSE = 1e-4
"""How far a slope may be from the gradient, as a share of what contributes to it."""
LEAST = 1e-7
"""How far it may be besides: a difference of values so close has no more digits."""
DIRECTIONS = 3


def gradients(subject: Subject) -> Iterator[Fault | Note]:
    """Along random directions of each operand the results change as the gradient says."""
    made = subject.instruction
    results = [output for output in made.outputs if is_float(output.dtype)]
    operands = [operand for operand in made.operands if is_float(operand.dtype)]
    if not results or not operands:
        yield Note("nothing of a float type depends on anything of a float type")
        return
    exact = in_f64(made)
    try:
        gradient_of(exact, [lift(0.0)] * len(exact.outputs))
    except LanguageError as error:
        yield Note(f"none can be derived: {error}")
        return
    sample = Sample(exact, lengths_of(exact, LENGTHS))
    for kind in ("random", "positive"):
        arrays = sample.arrays(kind)
        if all(np.isfinite(x).all() for x in _values(sample, exact.outputs, arrays)):
            yield from _compared(sample, arrays)
            return
    yield Note("no finite values were found at which it could be tried")


def in_f64(made: Instruction) -> Instruction:
    """The instruction over f64, without roundings between float types."""
    adjoint = made.adjoint
    arriving = adjoint.cotangents if adjoint else ()
    leaves = (*made.operands, *(state.input for state in made.states), *arriving)
    wide: dict[Node, Input] = {leaf: _wide(leaf) for leaf in leaves}
    if adjoint:
        cotangents = tuple(wide[leaf] for leaf in adjoint.cotangents)
        adjoint = Adjoint(cotangents, widened(adjoint.gradients, wide))
    return replace(
        made,
        operands=tuple(wide[leaf] for leaf in made.operands),
        states=tuple(replace(state, input=wide[state.input]) for state in made.states),
        outputs=widened(made.outputs, wide),
        adjoint=adjoint,
    )


def _wide(leaf: Input) -> Input:
    return Input(leaf.name, leaf.axes, "f64") if is_float(leaf.dtype) else leaf


def widened(roots: Sequence[Node], leaves: Mapping[Node, Input]) -> tuple[Node, ...]:
    """The same values over other leaves, where no float is cast to another float type."""
    made: dict[Node, Node] = {**leaves}
    for node in walk(roots):
        children = [made[child] for child in node.children]
        match node:
            case Input():
                made.setdefault(node, node)
            case Cast(x, kind) if is_float(kind) and is_float(x.dtype):
                made[node] = children[0]
            case Scan(body, initial, xs, output):
                first, count = len(initial), len(initial) + len(xs)
                inner = _recurrence(body, leaves)
                made[node] = Scan(
                    inner, tuple(children[:first]), tuple(children[first:count]), output
                )
            case _:
                made[node] = node.rebuild(children)
    return tuple(made[root] for root in roots)


def _recurrence(body: Recurrence, leaves: Mapping[Node, Input]) -> Recurrence:
    own: dict[Node, Input] = {leaf: _wide(leaf) for leaf in (*body.states, *body.slices)}
    results = widened((*body.next, *body.emits), {**leaves, **own})
    states, slices = (tuple(own[leaf] for leaf in group) for group in (body.states, body.slices))
    cut = len(body.next)
    return Recurrence(body.axis, states, slices, results[:cut], results[cut:], body.reverse)


def _compared(sample: Sample, arrays: dict[str, Array]) -> Iterator[Fault]:
    """Each operand by itself is moved: the sum of weighted results is the number that changes."""
    made, random = sample.instruction, np.random.default_rng(5)
    cotangents = [Input(f"cotangent {k}", x.axes, "f64") for k, x in enumerate(made.outputs)]
    weights = {
        leaf.name: random.standard_normal([sample.lengths[axis] for axis in leaf.axes])
        for leaf in cotangents
    }
    floats = [is_float(output.dtype) for output in made.outputs]
    given = [x if flows else lift(0.0) for x, flows in zip(cotangents, floats, strict=True)]
    terms = [x * g for x, g, flows in zip(made.outputs, given, floats, strict=True) if flows]
    total = functools.reduce(operator.add, (sum(term, term.axes) for term in terms))

    def at(moved: Array, name: str) -> float:
        return float(_values(sample, [total], {**arrays, **weights, name: moved})[0])

    found = gradient_of(made, given)
    slopes = _values(sample, found, arrays | weights)
    for leaf, node, slope in zip(made.operands, found, slopes, strict=True):
        x = arrays[leaf.name]
        whole = align(slope, node.axes, leaf.axes)
        for _ in range(DIRECTIONS if is_float(leaf.dtype) else 0):
            way = random.standard_normal(x.shape)
            wanted = (at(x + STEP * way, leaf.name) - at(x - STEP * way, leaf.name)) / (2 * STEP)
            claimed = float((whole * way).sum())
            size = abs(wanted) + float(np.abs(whole * way).sum())
            if not abs(claimed - wanted) <= CLOSE * size + LEAST:
                yield Fault(
                    f"of operand {leaf.name!r}: along a random direction results change by "
                    f"{wanted:.6g}, but the gradient says {claimed:.6g}"
                )
                break


def _values(sample: Sample, nodes: Sequence[Node], arrays: dict[str, Array]) -> list[Array]:
    """The values of expressions over the operands and the states of an instruction."""
    given = {**arrays, **sample.initial(sample.instruction)}
    return evaluate(nodes, given, ranges=sample.windowed_ranges, sizes=sample.lengths)
