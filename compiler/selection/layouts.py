"""The order in which the axes of a value lie in memory.

The axes of a node come in the order in which its expression names them, and a bias may be named
first. What is added to every row of a product should not turn the product around.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod

from infinisa.isa.language import Axis, Cast, Dot, Map, Node, Reduce, View, walk

Order = tuple[Axis, ...]

FEW = 8
"""Positions of an axis that a contraction needs to be more than a product with a vector."""


def layouts(nodes: Iterable[Node], sizes: Mapping[Axis, int]) -> dict[Node, Order]:
    """The axes of each value from the outermost on; operands must come first."""
    found: dict[Node, Order] = {}
    for node in nodes:
        found[node] = _order(node, found, sizes)
    return found


def layout(node: Node, known: dict[Node, Order], sizes: Mapping[Axis, int]) -> Order:
    """The axes of a value that selection made, such as a part of a sum, from those of others."""
    if node not in known:
        for each in [*walk([node], known)]:
            known[each] = _order(each, known, sizes)
    return known[node]


def _order(node: Node, known: Mapping[Node, Order], sizes: Mapping[Axis, int]) -> Order:
    order = dict.fromkeys(_named(node, known, sizes))
    return tuple(order) if order.keys() == {*node.axes} else node.axes


def _named(node: Node, known: Mapping[Node, Order], sizes: Mapping[Axis, int]) -> Iterable[Axis]:
    """As the operands have them, and for number by number the first that has all of them; the few
    columns of a product lie outermost."""
    below = [known.get(child, child.axes) for child in node.children]
    match node:
        case Map():
            return next((axes for axes in below if len(axes) == len(node.axes)), node.axes)
        case Cast():
            return below[0]
        case Dot(_, _, over):
            rows, columns = ([axis for axis in axes if axis not in over] for axes in below)
            own = [axis for axis in columns if axis not in rows]
            few = prod(sizes[axis] for axis in columns) < FEW
            return [*own, *rows] if few else [*rows, *own]
        case Reduce(_, _, over):
            return [axis for axis in below[0] if axis not in over]
        case View(_, index, _):
            given = dict(index)
            return [a for axis in below[0] for a in (given[axis].axes if axis in given else [axis])]
    return node.axes
