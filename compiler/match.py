"""Where an instruction computes what a node of a graph computes, by comparing canonical forms.

An operand stands for any value, an immediate for any number; sums and products match in any order.
What else could say the same, such as comparing values, is another `Finder`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from infinisa.isa.dtypes import is_float, promote
from infinisa.isa.instance import instance
from infinisa.isa.instruction import Instruction
from infinisa.isa.language import (
    Axis,
    Cast,
    Constant,
    Dot,
    Input,
    Map,
    Node,
    substitute,
    union,
    walk,
)

from .bind import bind_axes, solve_numbers
from .canonical import NEUTRAL, combined, label, one_pass, separated
from .partial import Partial
from .pattern import Pattern, head, patterns
from .surroundings import Surroundings
from .unify import Unifier


@dataclass(frozen=True, eq=False)
class Match:
    """An instruction that computes values of a graph.

    roots       for each output the node it yields, or None where the graph has no such node
    leaves      for each operand the value it reads
    binding     the instruction's axes as axes of the graph
    loops       axes of the graph outside the instruction
    immediates  its numbers
    inner       the nodes it computes
    meaning     the instance: over the graph's axes
    """

    instruction: Instruction
    roots: tuple[Node | None, ...]
    leaves: tuple[Node, ...]
    binding: Mapping[Axis, tuple[Axis, ...]]
    loops: tuple[Axis, ...]
    immediates: Mapping[str, float | int]
    inner: frozenset[Node]
    meaning: Instruction = field(repr=False)

    def __str__(self) -> str:
        leaves = ", ".join(
            f"{operand.name}={leaf}"
            for operand, leaf in zip(self.instruction.operands, self.leaves, strict=True)
        )
        return f"{self.instruction.name}({leaves})"

    @property
    def axes(self) -> tuple[Axis, ...]:
        """Every axis of the graph that the call runs over: loops, parallel, reduced."""
        bound = (self.binding.get(axis, ()) for axis in self.instruction.axes)
        return union([self.loops, *bound])


class Finder(Protocol):
    """Finds the instructions that compute a node."""

    def __call__(self, root: Node) -> Iterable[Match]: ...


@dataclass(frozen=True, eq=False)
class Cone:
    """What lies under a node, as far as patterns reach: nodes in a fixed order, and a key that
    two cones share if they differ only in what lies below.

    reach  how many operations deep patterns go, and how many below a contraction (-1: none has one)
    """

    nodes: tuple[Node, ...]
    heads: frozenset[str]
    key: tuple[object, ...]

    @staticmethod
    def of(root: Node, reach: tuple[int, int], around: Surroundings) -> Cone:
        deep, below = reach
        left = {root: deep}
        order = [root]
        for node in order:
            if isinstance(node, Dot):
                left[node] = min(left[node], below + 1)
            function = node.function if isinstance(node, Map) else ""
            for child in node.children if left[node] > 0 else ():
                same = function in NEUTRAL and getattr(child, "function", "") == function
                same = same and child not in around.shared
                kept = left[node] if same or isinstance(child, Cast) else left[node] - 1
                if child not in left:
                    order.append(child)
                left[child] = max(left.get(child, -1), kept)
        number = {node: n for n, node in enumerate(order)}
        key = []
        for node in order:
            inside = left[node] > 0
            users = around.users.get(node, frozenset())
            mine = sorted(number[u] for u in users if u is not None and u in number)
            children = tuple(number[c] for c in node.children) if inside else ()
            what = label(node) if inside and not isinstance(node, Input) else ""
            flags = len(mine) < len(users), node in around.free, isinstance(node, Constant)
            key.append((what, node.axes, node.dtype, children, tuple(mine), *flags))
        return Cone(tuple(order), frozenset(head(node) for node in order), tuple(key))


class Syntactic:
    """The finder that compares canonical forms. It remembers what it found, so that the layers of
    a model after the first cost little."""

    def __init__(self, library: Iterable[Instruction], around: Surroundings) -> None:
        self.around = around
        self.by_head: dict[str, list[Pattern]] = {}
        for pattern in patterns(tuple(library)):
            for name in pattern.heads:
                self.by_head.setdefault(name, []).append(pattern)
        self.reach = {
            name: (max(p.depth for p in found), max(p.depth_below_contractions for p in found))
            for name, found in self.by_head.items()
        }
        self.known: dict[tuple[object, ...], tuple[Cone, list[tuple[Pattern, Match]]]] = {}
        self.under: dict[Node, frozenset[Node]] = {}

    def __call__(self, root: Node) -> Iterator[Match]:
        name = head(root)
        if name not in self.by_head:
            return
        cone = Cone.of(root, self.reach[name], self.around)
        if cone.key not in self.known:
            self.known[cone.key] = cone, list(self.search(root, cone))
        first, found = self.known[cone.key]
        for pattern, match in found:
            again = match if first.nodes == cone.nodes else self.moved(pattern, match, first, cone)
            if again is not None:
                yield again

    def search(self, root: Node, cone: Cone) -> Iterator[tuple[Pattern, Match]]:
        seen = set()
        for pattern in self.by_head[head(root)]:
            if not pattern.wanted <= cone.heads:
                continue
            for partial in Unifier(pattern, self.around)(root):
                found = self.complete(pattern, partial, root)
                if found is not None:
                    key = (found.instruction, found.leaves, *found.immediates.values())
                    if key not in seen:
                        seen.add(key)
                        yield pattern, found

    def moved(self, pattern: Pattern, match: Match, old: Cone, new: Cone) -> Match | None:
        """A match in another cone with the same key."""
        known = dict(zip(old.nodes, new.nodes, strict=True))
        leaves = tuple(transplanted(leaf, known) for leaf in match.leaves)
        roots = self.roots(pattern, match.meaning, leaves, new.nodes[0])
        if roots is None:
            return None
        inner = frozenset(transplanted(node, known) for node in match.inner)
        if len(roots) > 1 and self.needed_outside(inner, leaves, roots):
            return None
        return replace(match, leaves=leaves, roots=roots, inner=inner)

    def complete(self, pattern: Pattern, partial: Partial, root: Node) -> Match | None:
        """A match, if axes and numbers fit and nobody else needs what is inside."""
        instruction = pattern.instruction
        axes = bind_axes(instruction, partial, root)
        if axes is None:
            return None
        binding, loops = axes
        numbers = solve_numbers(instruction, partial, binding, self.around)
        if numbers is None:
            return None
        leaves = tuple(partial.leaves[operand.name] for operand in instruction.operands)
        operands = [
            Input(operand.name, leaf.axes, leaf.dtype)
            for operand, leaf in zip(instruction.operands, leaves, strict=True)
        ]
        meaning = instance(instruction, binding, operands, numbers)
        roots = self.roots(pattern, meaning, leaves, root)
        if roots is None or self.needed_outside(partial.inner, leaves, roots):
            return None
        return Match(instruction, roots, leaves, binding, loops, numbers, partial.inner, meaning)

    def roots(
        self, pattern: Pattern, meaning: Instruction, leaves: Sequence[Node], root: Node
    ) -> tuple[Node | None, ...] | None:
        """The node of each output; None if the result is not of the root's axes and type."""
        found: list[Node | None] = []
        for number, output in enumerate(meaning.outputs):
            if number == pattern.output:
                if set(output.axes) != set(root.axes) or not _same_type(output, root):
                    return None
                found.append(root)
            else:
                found.append(self.other_root(output, meaning, leaves))
        return tuple(found)

    def other_root(self, output: Node, meaning: Instruction, leaves: Sequence[Node]) -> Node | None:
        """The node of the graph that a further output yields, if there is one and no operand
        depends on it."""
        known: dict[Node, Node] = dict(zip(meaning.operands, leaves, strict=True))
        known |= {i: Constant(i.default) for i in meaning.immediates}
        written = substitute([output], known)
        settled = self.around.itself | {leaf: leaf for leaf in leaves}
        (form,) = one_pass(written, self.around.fixed, settled, self.around.shared).roots
        if form not in self.around.users or any(form in self.below(leaf) for leaf in leaves):
            return None
        return form

    def below(self, node: Node) -> frozenset[Node]:
        if node not in self.under:
            self.under[node] = frozenset(walk([node]))
        return self.under[node]

    def needed_outside(
        self, inner: frozenset[Node], leaves: Sequence[Node], roots: Sequence[Node | None]
    ) -> bool:
        """Whether a value inside the cone has users outside it."""
        for node in inner:
            if node in roots or node in self.around.free or node in leaves:
                continue
            users = self.around.users.get(node, frozenset())
            if len(users) == 1 and None not in users:
                continue  # its user may be a chain that is regrouped here
            if any(user is None or not self._inside(user, inner) for user in users):
                return True
        return False

    def _inside(self, user: Node, inner: frozenset[Node]) -> bool:
        if user in inner:
            return True
        chain = isinstance(user, Cast) or (isinstance(user, Map) and user.function in NEUTRAL)
        if not chain:
            return False  # parts of a chain are not listed one by one
        users = self.around.users.get(user, frozenset())
        return bool(users) and all(u is not None and self._inside(u, inner) for u in users)


def transplanted(node: Node, known: Mapping[Node, Node]) -> Node:
    """A node of one cone, or a sum or product of its nodes, in another."""
    if node in known:
        return known[node]
    if isinstance(node, Map) and node.function in NEUTRAL:
        parts_ = [transplanted(part, known) for part in node.arguments]
        whole = Map(node.function, tuple(parts_))
        number, rest = separated(whole, node.function, set(known.values()))
        return combined(node.function, number, rest)
    return node.rebuild([transplanted(child, known) for child in node.children])


def _same_type(output: Node, root: Node) -> bool:
    if is_float(output.dtype) and is_float(root.dtype):
        return True
    return output.dtype == promote([root.dtype])
