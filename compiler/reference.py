"""A model's values, untiled: every graph evaluated as it is written, in NumPy.

What the compiler makes of a model must compute the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infinisa.isa.dtypes import DTYPES
from infinisa.isa.errors import ModelError
from infinisa.isa.evaluate import Range, align, evaluate
from infinisa.isa.instruction import Instruction
from infinisa.isa.language import Axis, Input, Node, Opaque, inputs, substitute, walk
from infinisa.isa.program import Section, turns

from .graph import Graph, Model

Array = NDArray[Any]


@dataclass(frozen=True)
class Values:
    """What a model leaves behind.

    outputs     by `graph/name`, dimensions in the order of the node's axes; of a repeated graph
                those of its last turn
    kept        the kept tensors, whole
    parameters  all parameters, those set by instructions included
    """

    outputs: dict[str, Array] = field(default_factory=dict)
    kept: dict[str, Array] = field(default_factory=dict)
    parameters: dict[str, int] = field(default_factory=dict)


def evaluate_model(
    model: Model,
    arrays: Mapping[str, Array],
    parameters: Mapping[str, int] | None = None,
    library: Mapping[str, Instruction] | None = None,
) -> Values:
    """Run the graphs in order.

    arrays      the inputs by name; kept tensors too, to start from
    parameters  those that the caller sets; the others have their defaults until something sets them
    library     the opaque instructions that the model names
    """
    values = Values(parameters={p.name: p.default for p in model.parameters})
    values.parameters.update(parameters or {})
    for name, kept in model.kept.items():
        blank = np.full(kept.shape, kept.initial, DTYPES[kept.input.dtype].numpy)
        values.kept[name] = np.array(arrays[name]) if name in arrays else blank
    weights: dict[str, Array] = {}
    for graph in model.graphs:
        section = Section(graph.name, graph.extents, (), graph.repeat)
        for leaf in inputs(graph.roots):
            if leaf.name in model.weights and leaf.name not in weights:
                weights[leaf.name] = model.weights[leaf.name].load()
        for _ in turns(section, values.parameters):
            run(model, graph, {**arrays, **weights}, values, library or {})
    return values


def run(
    model: Model,
    graph: Graph,
    arrays: Mapping[str, Array],
    values: Values,
    library: Mapping[str, Instruction],
) -> None:
    """One turn of one graph; changes `values`."""
    ranges = ranges_of(graph, values.parameters)
    given = {}
    for leaf in inputs(graph.roots):
        array = values.kept.get(leaf.name, arrays.get(leaf.name))
        if array is None:
            raise ModelError(f"graph {graph.name!r}: input {leaf.name!r} has no array")
        given[leaf.name] = array[region(leaf, array, ranges)]
    roots = opaque_results(graph.roots, given, ranges, values.parameters, library)
    results = iter(evaluate(roots, given, ranges=ranges))
    for name in graph.outputs:
        values.outputs[f"{graph.name}/{name}"] = next(results)
    for name in graph.updates:
        kept = values.kept[name]
        kept[region(model.kept[name].input, kept, ranges)] = next(results)


def ranges_of(graph: Graph, parameters: Mapping[str, int]) -> dict[Axis, Range]:
    """Where the axes are now; ModelError for one that leaves its bounds."""
    found = {}
    for extent in graph.extents:
        start, length = extent.start.value(parameters), extent.length.value(parameters)
        if not 0 <= length <= extent.most or start < 0 or start + length > extent.bound:
            raise ModelError(
                f"graph {graph.name!r}: axis {extent.axis!r} must have at most {extent.most} "
                f"positions before {extent.bound}, not {length} from {start}"
            )
        found[extent.axis] = Range(start, length)
    return found


def region(leaf: Input, array: Array, ranges: Mapping[Axis, Range]) -> tuple[slice, ...]:
    """The part of a tensor that the ranges cover: tensors from outside count from 0."""
    picks = []
    for axis, extent in zip(leaf.axes, array.shape, strict=True):
        start, length = ranges.get(axis, Range(0, extent))
        if start + length > extent:
            raise ModelError(
                f"input {leaf.name!r}: axis {axis!r} needs {start + length} positions, "
                f"the array has {extent}"
            )
        picks.append(slice(start, start + length))
    return tuple(picks)


def opaque_results(
    roots: Sequence[Node],
    given: dict[str, Array],
    ranges: Mapping[Axis, Range],
    parameters: dict[str, int],
    library: Mapping[str, Instruction],
) -> tuple[Node, ...]:
    """The roots with results of opaque operators as inputs, whose arrays are added to `given`."""
    roots = tuple(roots)
    while (found := next((n for n in walk(roots) if isinstance(n, Opaque)), None)) is not None:
        results = [
            node
            for node in walk(roots)
            if isinstance(node, Opaque) and node.operator == found.operator
            if (node.arguments, node.orders) == (found.arguments, found.orders)
        ]
        arrays = call(found, results, given, ranges, parameters, library)
        known: dict[Node, Node] = {}
        for node in results:
            leaf = Input(f"{node.operator}.{len(given)}", node.over, node.type)
            given[leaf.name], known[node] = arrays[node.output], leaf
        roots = substitute(roots, known)
    return roots


def call(
    node: Opaque,
    results: Sequence[Opaque],
    given: Mapping[str, Array],
    ranges: Mapping[Axis, Range],
    parameters: dict[str, int],
    library: Mapping[str, Instruction],
) -> list[Array]:
    """Run an opaque operator on the values of its arguments: all its results, in order."""
    definition = library.get(node.operator)
    if definition is None or definition.body is None:
        raise ModelError(f"operator {node.operator!r}: no opaque instruction of this name is given")
    known = {result.output: result for result in results}
    if missing := [n for n in range(len(definition.results)) if n not in known]:
        raise ModelError(f"operator {node.operator!r}: result {missing[0]} must be used")
    outputs = [
        np.zeros([ranges[axis].length for axis in known[n].over], DTYPES[known[n].type].numpy)
        for n in range(len(definition.results))
    ]
    arguments = evaluate(node.arguments, given, ranges=ranges)
    flat = [
        np.ascontiguousarray(align(array, x.axes, order).astype(DTYPES[x.dtype].numpy, copy=False))
        for array, x, order in zip(arguments, node.arguments, node.orders, strict=True)
    ]
    returned = definition.body(*(a.reshape(-1).data for a in (*flat, *outputs)))
    numbers = returned if isinstance(returned, tuple) else (returned,)
    parameters.update(zip(node.sets, map(int, numbers[: len(node.sets)]), strict=True))
    return outputs
