"""Reverse mode over the language: how results change with what they are computed from.

The gradient of a value has its axes. Integers and truth values have none. Where reading is not one
to one (windows, digits, look-ups), a gradient finds its way back by comparing positions: right for
every index, at the cost of a contraction.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from infinisa.isa.dtypes import is_float, promote
from infinisa.isa.errors import LanguageError
from infinisa.isa.functions import FUNCTIONS, PULLBACKS
from infinisa.isa.instruction import Instruction
from infinisa.isa.language import (
    Affine,
    Axis,
    Cast,
    Constant,
    Dot,
    Gather,
    Input,
    Map,
    Node,
    Position,
    Recurrence,
    Reduce,
    Scan,
    Size,
    Stack,
    Update,
    View,
    apply,
    equal,
    free,
    maximum,
    minimum,
    substitute,
    sum,
    walk,
    where,
)

ZERO = Constant(0.0)
Shares = Iterable[tuple[Node, Node]]
"""Values, each with what it gets of a gradient."""


def gradient(
    outputs: Sequence[Node], cotangents: Sequence[Node], operands: Sequence[Node]
) -> tuple[Node, ...]:
    """How the sum of cotangent * output changes with each operand.

    cotangents  one for each output, over its axes or fewer
    operands    any values that the outputs are computed from
    Returns an expression for each operand, over its axes; 0 where nothing depends on it.
    LanguageError names a node that has no gradient, such as an opaque operator.
    """
    varying = _varying(outputs, operands)
    parts: dict[Node, list[Node]] = {operand: [] for operand in operands}
    for output, cotangent in zip(outputs, cotangents, strict=True):
        parts.setdefault(output, []).append(_over(cotangent, output.axes))
    for node in reversed(list(walk(outputs))):
        if node in varying and parts.get(node):
            parts[node] = [functools.reduce(lambda a, b: a + b, parts[node])]
            for value, share in _shares(node, parts[node][0], varying):
                if value in varying:
                    parts.setdefault(value, []).append(_summed(share, value.axes))
    return tuple(
        parts[operand][0] if operand in varying and parts[operand] else ZERO for operand in operands
    )


def gradient_of(instruction: Instruction, cotangents: Sequence[Node]) -> tuple[Node, ...]:
    """The gradient of each operand of an instruction: its author's, or the derived one."""
    if instruction.adjoint is not None:
        known: dict[Node, Node] = dict(zip(instruction.adjoint.cotangents, cotangents, strict=True))
        return substitute(instruction.adjoint.gradients, known)
    return gradient(instruction.outputs, cotangents, instruction.operands)


def _varying(outputs: Sequence[Node], operands: Sequence[Node]) -> set[Node]:
    """Values of a float type that are computed from operands of a float type."""
    found = {operand for operand in operands if is_float(operand.dtype)}
    for node in walk(outputs):
        if is_float(node.dtype) and any(child in found for child in node.children):
            found.add(node)
    return found


def _over(x: Node, axes: Sequence[Axis]) -> Node:
    """x repeated along the axes that it lacks: a sum over one then counts its positions."""
    for axis in axes:
        if axis not in x.axes:
            x = x + 0 * Position(axis)
    return x


def _summed(x: Node, axes: Sequence[Axis]) -> Node:
    """x summed over the axes along which a value of these axes was repeated."""
    extra = [axis for axis in x.axes if axis not in axes]
    return sum(x, extra) if extra else x


def _shares(node: Node, g: Node, varying: set[Node]) -> Shares:
    """What the arguments of a node get of its gradient `g`, not yet summed over repeated axes."""
    match node:
        case Map():
            return _map(node, g, varying)
        case Reduce(_, x, _):
            return [(x, _reduce(node, _over(g, x.axes)))]
        case Dot(a, b, _):
            return [(a, _product(g, b, a)), (b, _product(g, a, b))]
        case View():
            return [(node.x, _view(node, g))]
        case Gather(table, index, axis):
            row = minimum(maximum(index, 0), Size(axis) - 1)
            return [(table, _returned(g, table, {axis: row}, node))]
        case Update(x, value, at):
            nothing = _over(ZERO, value.axes)
            return [(x, Update(g, nothing, at)), (value, View(g, at))]
        case Stack(xs, axis):
            return [(x, View(g, ((axis, Affine(offset=k)),))) for k, x in enumerate(xs)]
        case Cast(x, _):
            return [(x, g)]
        case Scan():
            return _scan(node, g)
    return [] if not node.children else _refuse(node, "has none")


def _refuse(node: Node, why: str) -> Shares:
    raise LanguageError(f"gradient: {type(node).__name__} {why}: {node}")


def _map(node: Map, g: Node, varying: set[Node]) -> Shares:
    """By the table of derivatives; functions that are not in it are constant almost everywhere."""
    names: dict[str, object] = {name: functools.partial(apply, name) for name in FUNCTIONS}
    names |= {"__builtins__": {}, "g": g, "y": node}
    names |= dict(zip("abc", node.arguments, strict=False))
    for argument, text in zip(node.arguments, PULLBACKS.get(node.function, ()), strict=False):
        if text and argument in varying:
            yield argument, eval(text, names)


def _reduce(node: Reduce, g: Node) -> Node:
    """Of a maximum, the largest share alike; of a product, each the product of the others."""
    x, over = node.x, node.over
    if node.function == "sum":
        return g
    if node.function in ("max", "min"):
        chosen = equal(x, node)
        return where(chosen, g / sum(where(chosen, 1.0, 0.0), over), 0.0)
    zero = equal(x, 0.0)
    zeros = sum(where(zero, 1.0, 0.0), over)
    rest = Reduce("product", where(zero, 1.0, x), over)
    without_zeros = where(equal(zeros, 0.0), node / x, 0.0)
    return g * where(zero, where(equal(zeros, 1.0), rest, 0.0), without_zeros)


def _product(g: Node, other: Node, x: Node) -> Node:
    """The gradient of one side of a contraction: the result's times the other side."""
    over = tuple(axis for axis in other.axes if axis not in x.axes)
    return Dot(g, other, over) if over else g * other


# ---------------------------------------------------------------- reading elsewhere


def _view(node: View, g: Node) -> Node:
    """An index that is one axis, moved or turned round, is undone by a view; others are found."""
    uses = [axis for _, index in node.index for axis in index.axes]
    undone, compared = {}, {}
    for axis, index in node.index:
        inverse = _inverse(axis, index)
        if inverse is not None and uses.count(index.axes[0]) == 1:
            undone[index.axes[0]] = inverse
        else:
            compared[axis] = _index(index)
    if clash := {axis for axis, _ in node.index} & ({*node.axes} - {*undone}):
        _refuse(node, f"has none where axis {min(clash)!r} is read by an axis of that name")
    back = View(g, tuple(undone.items()), 0.0) if undone else g
    return _returned(back, node.x, compared, node)


def _inverse(axis: Axis, index: Affine) -> Affine | None:
    """What axis i of the result is, if the index is i or -i plus a number: 3 - i → 3 - axis."""
    if index.divide != 1 or index.modulo or len(index.terms) != 1:
        return None
    ((_, stride),) = index.terms
    return Affine(((axis, stride),), -stride * index.offset) if stride in (1, -1) else None


def _index(index: Affine) -> Node:
    """The value of an index at each position of its axes."""
    total: Node = Constant(index.offset)
    for axis, stride in index.terms:
        total = total + Position(axis) * stride
    total = total // index.divide if index.divide != 1 else total
    return total % index.modulo if index.modulo else total


def _returned(g: Node, x: Node, index: Mapping[Axis, Node], node: Node) -> Node:
    """Each position of x gets the sum of `g` over all places that read it."""
    for axis, place in index.items():
        g = where(equal(place, Position(axis)), g, 0.0)
    return _summed(g, x.axes)


# ---------------------------------------------------------------- recurrences


def _scan(node: Scan, g: Node) -> Shares:
    """The recurrence backwards: its states are the gradients of the states and the totals of what
    stays the same from step to step; it reads the states that each step began with."""
    body, count = node.body, len(node.initial)
    recorded = replace(body, emits=body.states)
    history = [Scan(recorded, node.initial, node.xs, count + i) for i in range(count)]
    own = [_named(state, "gradient") for state in body.states]
    fixed = [leaf for leaf in free(body) if isinstance(leaf, Input) and is_float(leaf.dtype)]
    totals = [_named(leaf, "total") for leaf in fixed]
    outputs = [*body.next]
    arriving = [_summed(x, after.axes) for x, after in zip(own, body.next, strict=True)]
    slices, xs = [*body.states, *body.slices], [*history, *node.xs]
    if node.output >= count:
        emitted = body.emits[node.output - count]
        leaf = Input("emitted.gradient", emitted.axes, promote([emitted.dtype]))
        outputs.append(emitted)
        arriving.append(leaf)
        slices.append(leaf)
        xs.append(g)
    found = gradient(outputs, arriving, (*body.states, *body.slices, *fixed))
    cut = count + len(body.slices)
    after = [*found[:count], *(a + b for a, b in zip(totals, found[cut:], strict=True))]
    backwards = Recurrence(
        body.axis, (*own, *totals), tuple(slices), tuple(after), found[count:cut], not body.reverse
    )
    start = [g if i == node.output else ZERO for i in range(count)] + [ZERO] * len(totals)
    values = [*node.initial, *fixed, *node.xs]
    steady = [*found[:count], *fixed, *found[count:cut]]
    for number, (value, changes) in enumerate(zip(values, steady, strict=True)):
        if changes is not ZERO or number < count:
            yield value, Scan(backwards, tuple(start), tuple(xs), number)


def _named(leaf: Input, what: str) -> Input:
    return Input(f"{leaf.name}.{what}", leaf.axes, promote([leaf.dtype]))
