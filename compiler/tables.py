"""Values that follow from positions alone, as weights: for machines that cannot count."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from infinisa.isa.evaluate import Range, evaluate
from infinisa.isa.language import Input, Node, Position, Scan, substitute, walk

from .graph import Graph, Model, Weight
from .positional import content_of

Array = NDArray[Any]


def tabulated(model: Model) -> Model:
    """The model with its masks and counts by position as weights.

    Graphs whose axes depend on parameters or do not start at 0 stay as they are.
    """
    weights = dict(model.weights)
    graphs = tuple(_tabulated(graph, weights) for graph in model.graphs)
    return replace(model, graphs=graphs, weights=weights)


def _tabulated(graph: Graph, weights: dict[str, Weight]) -> Graph:
    if any(e.length.terms or e.start.terms or e.start.constant for e in graph.extents):
        return graph
    sizes = graph.sizes()
    tables: dict[Node, Node] = {}
    for node in _largest(graph.roots):
        ranges = {axis: Range(0, size) for axis, size in sizes.items()}
        (values,) = evaluate([node], {}, ranges=ranges)
        leaf = Input(f"{graph.name}.table{len(tables)}", node.axes, node.dtype)
        weights[leaf.name] = Weight(leaf, values.shape, content_of(values), _loader(values))
        tables[node] = leaf
    roots = substitute(graph.roots, tables)
    outputs = dict(zip(graph.outputs, roots, strict=False))
    updates = dict(zip(graph.updates, roots[len(outputs) :], strict=True))
    old = list(graph.names)
    names = dict(zip(substitute(old, tables), graph.names.values(), strict=True))
    return replace(graph, outputs=outputs, updates=updates, names=names)


def _loader(values: Array) -> Callable[[], Array]:
    return lambda: values


def _largest(roots: Iterable[Node]) -> list[Node]:
    """The expressions of positions and numbers that are part of no larger one."""
    roots = tuple(roots)
    counted: dict[Node, bool] = {}  # whether from positions alone; False: from numbers alone
    users: dict[Node, list[Node]] = {}
    order = list(walk(roots))
    for node in order:
        if isinstance(node, Input | Scan) or any(child not in counted for child in node.children):
            continue
        below = [counted[child] for child in node.children]
        counted[node] = isinstance(node, Position) or any(below)
    for node in order:
        for child in node.children:
            users.setdefault(child, []).append(node)
    return [
        node
        for node in order
        if counted.get(node)
        and (node in roots or any(user not in counted for user in users.get(node, [])))
    ]
