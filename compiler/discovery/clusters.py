"""Calls of a covered graph that one instruction could do: a call with calls that only it reads.

What the calls compute together is composed from their instructions, not from the graph, so that it
keeps their words: a mean divides by the size of an axis, not by 256.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from infinisa.isa.language import (
    Axis,
    Cast,
    Immediate,
    Input,
    Node,
    Opaque,
    Scan,
    View,
    substitute,
    walk,
)

from ..equality.canonical import is_number
from ..equality.local import Local, carried, leaves_first, localised
from ..equality.surroundings import Surroundings
from ..selection.choice import stored
from ..selection.cones import seen_through
from ..selection.joins import whole_axes
from ..selection.match import Match
from ..selection.recurrences import is_recurrence

MOST_CALLS = 6
MOST_OPERANDS = 5
MOST_CLUSTERS = 200
"""How many sets of calls are looked at under one call."""


@dataclass(frozen=True)
class Cluster:
    """Calls that one instruction could do.

    matches  the calls, operands first; the last yields the result
    leaves   what they read from outside
    result   what is needed of them
    """

    matches: tuple[Match, ...]
    leaves: tuple[Node, ...]
    result: Node


@dataclass
class Calls:
    """The calls of one graph and who reads what they yield.

    matches  what the cover chose for the values under `roots`
    around   the graph
    """

    matches: Sequence[Match]
    roots: Sequence[Node]
    around: Surroundings
    maker: dict[Node, Match] = field(init=False)

    def __post_init__(self) -> None:
        self.maker = {r: m for m in self.matches for r in m.roots if r is not None}

    @cached_property
    def whole(self) -> Mapping[Axis, int]:
        """The sizes of axes that have all of their positions at any time."""
        return whole_axes(self.around.extents.values())

    @cached_property
    def readers(self) -> dict[Node, set[Match | None]]:
        """Who reads each value that a call yields; None: something that is no call."""
        found: dict[Node, set[Match | None]] = {node: set() for node in self.maker}
        for match in self.matches:
            for leaf in match.leaves:
                direct = self.source(leaf)
                for node in self.stores(leaf):
                    found[node].add(match if node is direct else None)
        others = list(self.roots)
        for node in walk(self.roots):
            if isinstance(node, Opaque | Scan):
                others += node.children if isinstance(node, Opaque) else self.parts(node)
        for root in others:
            for node in self.stores(root):
                found[node].add(None)
        return found

    def source(self, leaf: Node) -> Node | None:
        """The value of a call that is read here as it is, if under other names of its axes."""
        node = leaf
        while node not in self.maker:
            inside = seen_through(node)
            if isinstance(inside, View) and renames(inside):
                inside = inside.x
            if inside is node:
                return None
            node = inside
        return node

    def stores(self, leaf: Node) -> Iterator[Node]:
        """The values of calls that a value consists of, which is read where they are stored."""
        waiting = [leaf]
        while waiting:
            node = waiting.pop()
            if node in self.maker:
                yield node
            elif not isinstance(node, Opaque | Scan):
                waiting += self.parts(node)

    def parts(self, node: Node) -> tuple[Node, ...]:
        """What must be there for a value that no call yields."""
        return stored(node, self.whole) or ()

    def carry(self, node: Node) -> Mapping[Axis, Axis | None]:
        """What becomes of an operand's axes; those that only an instruction knows are alike."""
        extents = self.around.extents
        return carried(
            node, lambda a, b: a not in extents or b not in extents or self.around.alike(a, b)
        )

    def clusters(self) -> Iterator[Cluster]:
        """Every set of two to `MOST_CALLS` calls of which one value is needed outside."""
        for match in self.matches:
            if not whole(match) and len(self.needed(match)) == 1:
                yield from self.under(match)

    def needed(self, match: Match) -> list[Node]:
        return [root for root in match.roots if root is not None and self.readers[root]]

    def under(self, root: Match) -> Iterator[Cluster]:
        """The clusters of which a call yields the result, smallest first."""
        (result,) = self.needed(root)
        queue: list[tuple[Match, ...]] = [(root,)]
        seen = {frozenset(queue[0])}
        for members in queue:
            inside = set(members)
            for match in members:
                for leaf in match.leaves:
                    node = self.source(leaf)
                    more = None if node is None else self.maker[node]
                    if more is None or more in inside or len(members) == MOST_CALLS:
                        continue
                    if whole(more):
                        continue
                    if any(self.readers[each] - inside for each in self.needed(more)):
                        continue
                    grown = (more, *members)
                    if frozenset(grown) not in seen and len(seen) < MOST_CLUSTERS:
                        seen.add(frozenset(grown))
                        queue.append(grown)
            if len(members) > 1:
                leaves = self.leaves(members)
                if 0 < len(leaves) <= MOST_OPERANDS:
                    yield Cluster(self.ordered(members), leaves, result)

    def ordered(self, members: Iterable[Match]) -> tuple[Match, ...]:
        inside = set(members)
        return tuple(match for match in self.matches if match in inside)

    def leaves(self, members: Sequence[Match]) -> tuple[Node, ...]:
        """What some calls read from outside, in the order of their operands."""
        inside = set(members)
        found: dict[Node, None] = {}
        for match in self.ordered(members):
            for leaf in match.leaves:
                node = self.source(leaf)
                if (node is None or self.maker[node] not in inside) and not is_number(leaf):
                    found[leaf] = None
        return tuple(found)


def whole(match: Match) -> bool:
    """Whether a call is no part of a larger one: its steps go on inside of it."""
    return match.instruction.opaque or is_recurrence(match.instruction)


def renames(view: View) -> bool:
    """Whether a view only gives axes other names."""
    names = [index.plain for _, index in view.index]
    return view.fill is None and None not in names and len(view.axes) == len(view.x.axes)


# ---------------------------------------------------------------- what a cluster computes


@dataclass(frozen=True)
class Composed:
    """What a cluster computes, under names of its own.

    local    over inputs x0, x1, ... in the types that the operands have
    names    what the operands are called in the instructions that read them
    values   the numbers of the instructions: immediates number0, number1, ... of `local`
    """

    local: Local
    root: Node
    inputs: tuple[Input, ...]
    names: tuple[str, ...]
    values: tuple[float | int, ...]


def composed(cluster: Cluster, calls: Calls) -> Composed | None:
    """What the calls of a cluster compute together; None if an axis would be there twice."""
    leaves = {
        leaf: Input(f"leaf {n}", leaf.axes, leaf.dtype) for n, leaf in enumerate(cluster.leaves)
    }
    names: dict[Node, str] = {}
    types: dict[Node, str] = {}
    made: dict[Node, Node] = {}
    numbers: list[Immediate] = []
    values: list[float | int] = []
    for match in cluster.matches:
        known: dict[Node, Node] = {}
        given = zip(match.instruction.operands, match.meaning.operands, match.leaves, strict=True)
        for operand, inner, leaf in given:
            known[inner] = _read(leaf, leaves, made)
            if leaf in leaves:
                names.setdefault(leaf, operand.name)
                types.setdefault(leaf, operand.dtype)
        for each in match.meaning.immediates:
            numbers.append(Immediate(f"number{len(numbers)}", each.default))
            values.append(each.default)
            known[each] = numbers[-1]
        outputs = substitute(match.meaning.outputs, known)
        made.update((r, o) for r, o in zip(match.roots, outputs, strict=True) if r is not None)
    root = made[cluster.result]
    between = list(leaves_first(root, [*leaves.values()]))
    local = localised(root, [*leaves.values()], between, carry=calls.carry)
    if local is None or set(root.axes) != {local.axes[a] for a in local.root.axes}:
        return None
    inputs = tuple(
        Input(old.name, old.axes, types[leaf])
        for old, leaf in zip(local.leaves, cluster.leaves, strict=True)
    )
    (typed,) = substitute([local.root], dict(zip(local.leaves, inputs, strict=True)))
    order = tuple(names[leaf] for leaf in cluster.leaves)
    return Composed(local, typed, inputs, order, tuple(values))


def _read(leaf: Node, leaves: Mapping[Node, Input], made: Mapping[Node, Node]) -> Node:
    """What a call reads, in terms of the cluster."""
    if leaf in leaves:
        return leaves[leaf]
    return leaf if is_number(leaf) else _renamed(leaf, made)


def _renamed(node: Node, made: Mapping[Node, Node]) -> Node:
    """A value of the cluster under the names that its reader has for its axes."""
    match node:
        case _ if node in made:
            return made[node]
        case View(x, index, _):
            return View(_renamed(x, made), index)
        case Cast(x, _):
            return _renamed(x, made)
    raise AssertionError(f"not a value of the cluster: {node}")
