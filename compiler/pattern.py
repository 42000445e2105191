"""What to look for: the canonical forms of what an instruction computes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from infinisa.isa.dtypes import is_float
from infinisa.isa.instruction import Instruction
from infinisa.isa.language import (
    Cast,
    Constant,
    Dot,
    Immediate,
    Input,
    Map,
    Node,
    Position,
    Reduce,
    substitute,
    walk,
)

from .canonical import NEUTRAL, canonical, combined, separated

MASKED = -1e9
"""What a model writes for minus infinity; below it a softmax yields zero all the same."""


@dataclass(frozen=True, eq=False)
class Pattern:
    """An instruction to look for: `expression` is the canonical form of its output `output`."""

    instruction: Instruction
    output: int
    expression: Node
    shared: frozenset[Node]

    def alike(self, operands: Sequence[Node]) -> bool:
        """Whether operands of one chain can trade places: they occur nowhere else."""
        return all(self.uses[o] == 1 and o.axes == operands[0].axes for o in operands)

    @cached_property
    def uses(self) -> Counter[Node]:
        """How often each node of the expression is an argument."""
        return Counter(child for node in walk([self.expression]) for child in node.children)

    @cached_property
    def wanted(self) -> frozenset[str]:
        """Operations that a cone must have to match; regrouped ones and numbers apart."""
        return frozenset(
            head(node)
            for node in walk([self.expression])
            if node.axes and node.children and not isinstance(node, Cast)
            if not (isinstance(node, Map) and node.function in NEUTRAL)
        )

    @cached_property
    def depth(self) -> int:
        """How many operations lie above the deepest operand, a chain counting once."""
        return depth(self.expression)

    @cached_property
    def depth_below_contractions(self) -> int:
        """How many operations lie between a contraction and the deepest operand below it."""
        found = [node for node in walk([self.expression]) if isinstance(node, Dot)]
        return max((depth(node) - 1 for node in found), default=-1)

    @cached_property
    def heads(self) -> frozenset[str]:
        """What the outermost operation of a matching node may be."""
        match self.expression:
            case Map("add" | "multiply" as function, _):
                number, rest = separated(self.expression, function, self.shared)
                found: set[str] = {function}
                if len(rest) == 1 and any(isinstance(n, Immediate) for n in walk([number])):
                    found.update(head(part) for part in rest)  # the immediate may be neutral
                return frozenset(found)
        return frozenset([head(self.expression)])


def depth(node: Node, above: str = "") -> int:
    function = node.function if isinstance(node, Map) else ""
    own = 0 if function in NEUTRAL and function == above else 1
    return max((depth(child, function) + own for child in node.children), default=0)


def head(node: Node) -> str:
    """The outermost operation of a node, casts between floats apart."""
    match node:
        case Cast(x, to) if is_float(to) and is_float(x.dtype):
            return head(x)
        case Map(function, _):
            return function
        case Reduce(function, _, _):
            return f"reduce {function}"
        case Dot():
            return "reduce sum"
    return type(node).__name__


@lru_cache(maxsize=8)
def patterns(library: tuple[Instruction, ...]) -> list[Pattern]:
    """What to look for: an instruction by the output that has all its operands."""
    found: list[Pattern] = []
    for instruction in library:
        if instruction.opaque or instruction.states:
            continue
        operands = set(instruction.operands)
        for number, output in enumerate(instruction.outputs):
            if operands <= set(walk([output])) and not isinstance(output, Input):
                for form in _forms(output):
                    found.append(Pattern(instruction, number, *form))
                break
    return found


def _forms(output: Node) -> list[tuple[Node, frozenset[Node]]]:
    """The canonical form of an output and of the other ways to write it."""
    forms: dict[Node, frozenset[Node]] = {}
    written = [output]
    for rule in FORMS:
        written += [other for form in written for other in rule(form)]
    for form in written:
        made = canonical([form])
        users: dict[Node, int] = {}
        for node in walk(made.roots):
            for child in node.children:
                users[child] = users.get(child, 0) + 1
        shared = frozenset(node for node, count in users.items() if count > 1 and node.children)
        forms[made.roots[0]] = shared
    return list(forms.items())


def _inside_contraction(output: Node) -> list[Node]:
    """dot(e, v, t) * r  →  dot(e * r, v, t), where r lacks t: softmax before or after the dot"""
    (node,) = canonical([output]).roots
    if not (isinstance(node, Map) and node.function == "multiply"):
        return []
    number, rest = separated(node, "multiply")
    for part in rest:
        others = [other for other in rest if other is not part]
        if not isinstance(part, Dot) or not others:
            continue
        if any(set(part.over) & set(other.axes) for other in others):
            continue
        for a, b in ((part.a, part.b), (part.b, part.a)):
            if all(set(other.axes) <= set(a.axes) for other in others):
                inside = combined("multiply", Constant(1), [a, *others])
                return [number * Dot(inside, b, part.over)]
    return []


def _additive_mask(output: Node) -> list[Node]:
    """where(c, x, -inf)  →  x + where(c, 0, -inf)"""
    known: dict[Node, Node] = {}
    for node in walk([output]):
        match node:
            case Map("where", (condition, x, Constant(low))) if low <= MASKED and x.axes:
                known[node] = x + Map("where", (condition, Constant(0.0), Constant(MASKED)))
    return list(substitute([output], known)) if known else []


def _unguarded(output: Node) -> list[Node]:
    """where(-inf < x, x, 0)  →  x;  where(0 < x, x, 1)  →  x: a softmax that minds rows of nothing
    but -inf serves where there are none"""
    known: dict[Node, Node] = {}
    for node in walk(canonical([output]).roots):
        match node:
            case Map("where", (Map("less", (Constant(low), x)), y, Constant(other))) if x is y:
                if (low, other) in ((-math.inf, 0), (0, 1)):
                    known[node] = x
    if not known:
        return []
    (made,) = canonical([output]).roots
    while any(node in known for node in walk([made])):
        (made,) = substitute([made], known)
    return [made]


def _guarded_after(output: Node) -> list[Node]:
    """dot(safe softmax, v)  →  dot(where(is_nan(p), 0, p), v), p being the plain softmax"""
    found: list[Node] = []
    for plain in _unguarded(output):
        if isinstance(plain, Dot):
            p, v, over = plain.a, plain.b, plain.over
            guarded = Map("where", (Map("is_nan", (p,)), Constant(0.0), p))
            found.append(Dot(guarded, v, over))
    return found


def _guarded(output: Node) -> list[Node]:
    """softmax of where(position(t) <= position(s), x, -inf)  →  the safe softmax of it: a query
    always sees the first key"""
    (node,) = canonical([output]).roots
    causal = any(
        isinstance(n, Map) and n.function == "less_equal"
        and all(isinstance(a, Position) for a in n.arguments)
        for n in walk([node])
    )  # fmt: skip
    tops = [n for n in walk([node]) if isinstance(n, Reduce) and n.function == "max"]
    sums = [n for n in walk([node]) if isinstance(n, Reduce) and n.function == "sum"]
    if not causal or len(tops) != 1 or len(sums) != 1:
        return []
    (top,), (total,) = tops, sums
    low = Map("where", (Map("less", (Constant(-math.inf), top)), top, Constant(0.0)))
    (finite,) = substitute([total], {top: low})
    some = Map("where", (Map("less", (Constant(0.0), finite)), finite, Constant(1.0)))
    return list(substitute(substitute([node], {top: low}), {finite: some}))


FORMS = (_unguarded, _guarded_after, _guarded, _additive_mask, _inside_contraction)
"""Other ways to write what an instruction computes, each applied to what those before it made."""
