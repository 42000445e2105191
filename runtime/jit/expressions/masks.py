"""Positions that a mask hides: those of a folded axis that change nothing.

Where a comparison of positions chooses -inf, as in a causal attention, exponentials are 0 and
neither a maximum nor a sum sees the position. What else would be read there is not read: a NaN or
an infinity at a hidden position does not spread.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from infinisa.isa.language import (
    Axis,
    Cast,
    Constant,
    Dot,
    Gather,
    Map,
    Node,
    Position,
    Reduce,
    Scan,
    Stack,
    Update,
    View,
)

Hidden: TypeAlias = Literal["least", "nothing"]
"""What a value is where it is hidden: -inf, or 0."""

NEUTRAL: Mapping[str, Hidden] = {"max": "least", "sum": "nothing"}


@dataclass(frozen=True)
class Horizon:
    """For a row at position s, positions of `axis` beyond s + `ahead` are hidden."""

    axis: Axis
    ahead: int


def horizon(nodes: Iterable[Node], row: Axis, shown: Iterable[Axis]) -> Horizon | None:
    """How far rows see, if all folds among `nodes` over some axis leave out what is hidden.

    shown  axes that results have
    """
    nodes = list(nodes)
    limits = {limit for node in nodes for limit in [_limit(node, row)] if limit is not None}
    for axis in {limit.axis for limit in limits} - set(shown):
        ahead = max(limit.ahead for limit in limits if limit.axis == axis)
        found = Horizon(axis, ahead)
        hiding = _Hiding(row, found)
        if all(hiding.left_out(node) for node in nodes):
            return found
    return None


class _Hiding:
    """What values are where a horizon hides them."""

    def __init__(self, row: Axis, hidden: Horizon) -> None:
        self.row, self.hidden = row, hidden
        self.found: dict[Node, Hidden | None] = {}

    def left_out(self, node: Node) -> bool:
        """Whether a node may be computed without the hidden positions."""
        axis = self.hidden.axis
        match node:
            case Reduce(function, x, over) if axis in over:
                return NEUTRAL.get(function) == self.value(x) is not None
            case Dot(a, b, over) if axis in over:
                return over == (axis,) and "nothing" in (self.value(a), self.value(b))
            case View(_, index, _):
                return all(axis not in (old, *given.axes) for old, given in index)
            case Gather(_, _, other) | Stack(_, other):
                return axis != other
            case Scan() | Update():
                return axis not in node.axes
        return True

    def value(self, node: Node) -> Hidden | None:
        """What a node is at hidden positions; None: anything."""
        if node not in self.found:
            self.found[node] = self._value(node)
        return self.found[node]

    def _value(self, node: Node) -> Hidden | None:
        axis = self.hidden.axis
        match node:
            case Constant(value):
                return "least" if value == -math.inf else "nothing" if value == 0 else None
            case Cast(x, _):
                return self.value(x)
            case Map("where", (condition, yes, no)):
                limit = _limit_of(condition, self.row)
                if limit and limit.axis == axis and limit.ahead <= self.hidden.ahead:
                    return self.value(no)
                return self.value(yes) if self.value(yes) == self.value(no) else None
            case Map("exp", (x,)):
                return "nothing" if self.value(x) == "least" else None
            case Map("subtract", (x, y)) if axis not in y.axes:
                return "least" if self.value(x) == "least" else None
            case Map("divide", (x, y)) if axis not in y.axes:
                return "nothing" if self.value(x) == "nothing" else None
            case Map("add", (x, y)):
                both = {self.value(x), self.value(y)}
                return "least" if "least" in both else "nothing" if both == {"nothing"} else None
            case Map("multiply", (x, y)):
                both = {self.value(x), self.value(y)}
                if both & {"least", "nothing"} == {"nothing"}:
                    return "nothing"
                scales = [a.value for a in (x, y) if isinstance(a, Constant)]
                return "least" if "least" in both and scales and scales[0] > 0 else None
        return None


# ---------------------------------------------------------------- comparisons of positions


def _limit(node: Node, row: Axis) -> Horizon | None:
    match node:
        case Map("where", (condition, _, _)):
            return _limit_of(condition, row)
    return None


def _limit_of(condition: Node, row: Axis) -> Horizon | None:
    """Beyond which positions a condition is false in each row."""
    match condition:
        case Map("logical_and", (a, b)):
            return _limit_of(a, row) or _limit_of(b, row)
    return border(condition, row)


def border(condition: Node, row: Axis) -> Horizon | None:
    """Up to which positions a comparison of positions is true in each row: there and no further."""
    match condition:
        case Map(("greater_equal" | "greater" | "less_equal" | "less") as how, (a, b)):
            left, right = _linear(a), _linear(b)
            if left is None or right is None:
                return None
            if how in ("less_equal", "less"):
                left, right = right, left
            terms = {axis: left.get(axis, 0) - right.get(axis, 0) for axis in {*left, *right}}
            ahead = terms.pop("", 0) - (how in ("greater", "less"))
            terms = {axis: step for axis, step in terms.items() if step}
            others = [axis for axis in terms if axis != row]
            if terms.get(row) == 1 and len(others) == 1 and terms[others[0]] == -1:
                return Horizon(others[0], ahead)
    return None


def _linear(node: Node) -> dict[Axis, int] | None:
    """A whole number as a sum of positions: the factor of each, and under "" a number."""
    match node:
        case Position(axis):
            return {axis: 1}
        case Constant(value) if value == int(value if math.isfinite(value) else 0.5):
            return {"": int(value)}
        case Cast(x, ("i32" | "i64")):
            return _linear(x)
        case Map(("add" | "subtract") as how, (a, b)):
            left, right = _linear(a), _linear(b)
            if left is None or right is None:
                return None
            sign = 1 if how == "add" else -1
            return {x: left.get(x, 0) + sign * right.get(x, 0) for x in {*left, *right}}
    return None
