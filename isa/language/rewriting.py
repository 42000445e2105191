"""What values are computed from, and the same values over other axes or numbers."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from ..errors import LanguageError
from .affine import Affine, Axis
from .nodes import (
    Constant,
    Dot,
    Gather,
    Input,
    Node,
    Opaque,
    Position,
    Recurrence,
    Reduce,
    Scan,
    Size,
    Stack,
    Update,
    View,
    body_over,
    free,
    rebuilt,
    walk,
)  # fmt: skip

Names: TypeAlias = Mapping[Axis, tuple[Axis, ...]]


def everything(roots: Iterable[Node]) -> Iterator[Node]:
    """Every node, those inside of recurrences included."""
    for node in walk(roots):
        yield node
        if isinstance(node, Scan):
            yield from everything((*node.body.next, *node.body.emits))


def inputs(roots: Iterable[Node]) -> tuple[Input, ...]:
    """The inputs that these values depend on."""
    return tuple(node for node in walk(roots) if isinstance(node, Input))


def with_numbers(roots: Iterable[Node], known: Mapping[Node, Node]) -> tuple[Node, ...]:
    """The same values with some numbers replaced, inside of recurrences too."""
    roots = tuple(roots)
    made: dict[Node, Node] = dict(known)
    for node in walk(roots):
        if node not in made:
            if isinstance(node, Scan):
                body, cut = node.body, len(node.body.next)
                inside = with_numbers((*body.next, *body.emits), known)
                body = replace(body, next=inside[:cut], emits=inside[cut:])
                initial, xs = (tuple(made[x] for x in some) for some in (node.initial, node.xs))
                made[node] = Scan(body_over(body, initial, xs, {}), initial, xs, node.output)
            else:
                made[node] = rebuilt(node, made)
    return tuple(made[root] for root in roots)


def refine(
    roots: Iterable[Node], names: Names, known: Mapping[Node, Node] | None = None
) -> tuple[Node, ...]:
    """The same values with axes renamed, or parted into several (the last varies fastest).

    known  what some inputs become, over the new axes in any order

    An axis that a position, a view or a gather names can only be renamed.
    """
    roots = tuple(roots)
    made: dict[Node, Node] = dict(known or {})
    for node in walk(roots):
        if node not in made:
            made[node] = _refined(node, [made[child] for child in node.children], names)
    return tuple(made[root] for root in roots)


def _many(axes: Iterable[Axis], names: Names) -> tuple[Axis, ...]:
    return tuple(new for axis in axes for new in names.get(axis, (axis,)))


def _one(axis: Axis, names: Names) -> Axis:
    found = names.get(axis, (axis,))
    if len(found) != 1:
        raise LanguageError(f"axis {axis!r} is indexed and cannot be parted into {found}")
    return found[0]


def _indices(
    pairs: tuple[tuple[Axis, Affine], ...], names: Names
) -> tuple[tuple[Axis, Affine], ...]:
    return tuple(
        (_one(axis, names), replace(i, terms=tuple((_one(a, names), s) for a, s in i.terms)))
        for axis, i in pairs
    )


def _refined(node: Node, children: Sequence[Node], names: Names) -> Node:
    match node:
        case Input(name, over, type):
            return Input(name, _many(over, names), type)
        case Size(axis):
            sizes = map(Size, _many((axis,), names))
            return functools.reduce(operator.mul, sizes) if names.get(axis, axis) else Constant(1)
        case Position(axis):
            return Position(_one(axis, names))
        case Reduce("argmax", _, over):
            return Reduce("argmax", children[0], tuple(_one(axis, names) for axis in over))
        case Reduce(function, _, over):
            return Reduce(function, children[0], _many(over, names))
        case Dot(_, _, over):
            return Dot(children[0], children[1], _many(over, names))
        case View(_, pairs, fill):
            return View(children[0], _indices(pairs, names), fill)
        case Gather(_, _, axis):
            return Gather(children[0], children[1], _one(axis, names))
        case Update(_, _, pairs):
            return Update(children[0], children[1], _indices(pairs, names))
        case Stack(_, axis):
            return Stack(tuple(children), _one(axis, names))
        case Opaque(_, _, over):
            orders = tuple(_many(order, names) for order in node.orders)
            return replace(node, arguments=tuple(children), over=_many(over, names), orders=orders)
        case Scan():
            return _refined_scan(node, children, names)
    return node.rebuild(children)


def _refined_scan(
    node: Scan,
    children: Sequence[Node],
    names: Names,
) -> Node:
    body, first = node.body, len(node.initial)
    count = first + len(node.xs)
    leaves = refine((*body.states, *body.slices), names)
    outside: dict[Node, Node] = dict(zip(free(body), children[count:], strict=True))
    results = refine((*body.next, *body.emits), names, outside)
    renamed = Recurrence(
        _one(body.axis, names),
        tuple(leaf for leaf in leaves[: len(body.states)] if isinstance(leaf, Input)),
        tuple(leaf for leaf in leaves[len(body.states) :] if isinstance(leaf, Input)),
        results[: len(body.next)],
        results[len(body.next) :],
        body.reverse,
    )
    renamed = body_over(renamed, children[:first], children[first:count], {})
    return Scan(renamed, tuple(children[:first]), tuple(children[first:count]), node.output)
