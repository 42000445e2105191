"""Cones of a graph: a value with what it is computed from, down to some leaves.

A cone goes through a value only if nobody outside needs it or if no tensor goes into it (a mask may
be computed again); through one or two others it may go if it yields them besides its root, or if
they are computed again for the others. Casts between floats are seen
through, and a sum of three or more may be grouped in any way.
"""

from __future__ import annotations

import heapq
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

from infinisa.isa.dtypes import is_float
from infinisa.isa.language import Cast, Input, Map, Node, Opaque, Scan, Update, walk

from ..equality.canonical import is_number
from ..equality.surroundings import Surroundings

BOUNDARIES = (Input, Opaque, Scan, Update)
"""What no cone goes into."""

MOST_INNER = 48
MOST_CUTS = 400
MOST_TERMS = 4
"""Sums of more terms than this are grouped as one term and the rest, as it is, only."""


@dataclass(frozen=True, eq=False)
class Cone:
    """A root, the leaves it is computed from, and the nodes between, operands first.

    groups    for the sums of `inner` that are grouped anew: what stands for them
    exposed   nodes of `inner` that are needed outside too
    features  of all its nodes
    """

    root: Node
    leaves: tuple[Node, ...]
    inner: tuple[Node, ...]
    groups: Mapping[Node, Node]
    exposed: tuple[Node, ...]
    features: int


def seen_through(node: Node) -> Node:
    """What is under casts between floats: over the reals they do nothing."""
    while isinstance(node, Cast) and is_float(node.type) and is_float(node.x.dtype):
        node = node.x
    return node


def casts_over(node: Node) -> Iterator[Cast]:
    """The casts that a value is seen through."""
    while isinstance(node, Cast):
        yield node
        node = node.x


class Cones:
    """Enumerates the cones of one graph.

    around   the graph
    widest   how many operands an instruction has at most
    again    how many values of a cone may be needed outside too, at most
    feature  a mask that tells kinds of nodes apart; a cone has that of all its nodes
    room     how many leaves a cone with such features may have on the way; 0: none is wanted
    truths   whether any instruction that has these features reads truth values
    """

    def __init__(
        self,
        around: Surroundings,
        widest: int,
        again: int,
        feature: Callable[[Node], int],
        room: Callable[[int], int],
        truths: Callable[[int], bool],
    ) -> None:
        self.around, self.widest, self.again, self.truths = around, widest, again, truths
        self.feature, self.room = feature, room
        self.below: dict[Node, tuple[Node, ...]] = {}
        self.arguments_of: dict[Node, list[tuple[tuple[Node, ...], Node]]] = {}
        self.sums: dict[Node, Node] = {}
        self.capped: set[Node] = set()
        self.seen: dict[Node, tuple[list[Node], list[Node]]] = {}

    def under(self, root: Node, wanted: Callable[[int, int], bool]) -> Iterator[Cone]:
        """The cones of a root as they grow: of those at hand the one with the fewest leaves is the
        next, and of those with as many the largest.

        wanted  asked (leaves, features) of a cone: whether anything may match it
        """
        region = _Region(self, self.sums.get(root))
        queue = list(region.start(root))
        heapq.heapify(queue)
        for _ in range(MOST_CUTS):
            if not queue:
                break
            state = heapq.heappop(queue)
            if state.ends <= self.widest and wanted(state.ends, state.features):
                cone = region.cone(root, state)
                if not (state.exposed and self._circular(cone)):
                    yield cone
            if state.size > -MOST_INNER:
                for grown in region.grown(state):
                    heapq.heappush(queue, grown)
        else:
            self.capped.add(root)
        self.seen[root] = region.seen()

    def arguments(self, node: Node) -> list[tuple[tuple[Node, ...], Node]]:
        """The ways to take a node apart: (what it is computed from, what stands for it)."""
        if node not in self.arguments_of:
            ways = [(self._below(node), node)]
            for group in self._groupings(node):
                ways.append((self._below(group), group))
                for part in group.children:
                    self._part_of(self.sums.get(node, node), part)
            self.arguments_of[node] = ways
        return self.arguments_of[node]

    def _part_of(self, whole: Node, part: Node) -> None:
        """What is no value of the graph is a part of a sum, and so are the sums that it is of."""
        if part not in self.around.users:
            self.sums[part] = whole
            for inner in part.children:
                self._part_of(whole, inner)

    def _below(self, node: Node) -> tuple[Node, ...]:
        if node not in self.below:
            children = (self.through(child) for child in node.children if not is_number(child))
            self.below[node] = tuple(dict.fromkeys(children))
        return self.below[node]

    def through(self, node: Node) -> Node:
        """What is under a cast between floats that only one value reads."""
        while self.single(node) and isinstance(node, Cast) and seen_through(node) is not node:
            node = node.x
        return node

    def condition(self, node: Node) -> bool:
        """Whether a value is a condition on positions only."""
        return node.dtype == "bool" and node in self.around.free

    def single(self, node: Node) -> bool:
        return len(self.around.users.get(node, ())) <= 1

    def _groupings(self, node: Node) -> Iterator[Node]:
        """The other ways to write a sum of three or more terms as a sum of two."""
        if not (isinstance(node, Map) and node.function == "add"):
            return
        terms = list(self._terms(node, top=True))
        if len(terms) < 3 or (len(terms) > MOST_TERMS and node in self.sums):
            return
        sizes = range(1, len(terms) // 2 + 1 if len(terms) <= MOST_TERMS else 2)
        known = {frozenset(node.arguments)}
        for size in sizes:
            for chosen in itertools.combinations(range(len(terms)), size):
                mine = [terms[n] for n in chosen]
                rest = [term for n, term in enumerate(terms) if n not in chosen]
                left, right = reduce(_plus, mine), reduce(_plus, rest)
                if frozenset((left, right)) not in known:
                    known.add(frozenset((left, right)))
                    yield Map("add", (left, right))

    def _terms(self, node: Node, top: bool = False) -> Iterator[Node]:
        inside = self.through(node)
        if isinstance(inside, Map) and inside.function == "add" and (top or self.single(inside)):
            for argument in inside.arguments:
                yield from self._terms(argument)
        else:
            yield node

    def _circular(self, cone: Cone) -> bool:
        """Whether a leaf depends on what the cone yields besides its root."""
        below = self.around.below
        return any(
            below(leaf) >> self.around.order[e] & 1 for e in cone.exposed for leaf in cone.leaves
        )


def bits(mask: int) -> Iterator[int]:
    """The numbers of the bits that are set, the least first."""
    while mask:
        bit = mask & -mask
        mask ^= bit
        yield bit.bit_length() - 1


def _plus(a: Node, b: Node) -> Node:
    return Map("add", (a, b))


class _State(NamedTuple):
    """A cone on the way, its nodes as bits; ordered by what is to be looked at first."""

    ends: int  # how many leaves
    size: int  # minus the nodes inside
    order: int  # in which they were made
    leaves: int
    inner: int
    features: int
    exposed: int
    groups: tuple[tuple[int, int], ...]


class _Region:
    """The nodes under one root, numbered as they are met; a root that is part of a sum grouped anew
    stands in for the whole `sum`."""

    def __init__(self, cones: Cones, sum: Node | None) -> None:
        self.cones, self.around, self.sum = cones, cones.around, sum
        self.nodes: list[Node] = []
        self.numbers: dict[Node, int] = {}
        self.features: list[int] = []
        self.readers: dict[int, list[list[int]] | None] = {}
        self.renamed: dict[int, int] = {}  # what each renaming reads
        self.renamings: defaultdict[int, int] = defaultdict(int)  # and the renamings of each value
        self.ways: dict[int, list[int]] = {}
        self.drawn: dict[int, tuple[int, int, int]] = {}
        self.made: set[tuple[int, int]] = set()
        self.looked, self.movable = 0, 0

    def number(self, node: Node) -> int:
        found = self.numbers.get(node)
        if found is None:
            found = self.numbers[node] = len(self.nodes)
            self.nodes.append(node)
            self.features.append(self.cones.feature(node))
        return found

    def seen(self) -> tuple[list[Node], list[Node]]:
        """The nodes that were taken apart, and those that were not."""
        inner = {self.nodes[n]: None for n in self.ways}
        met = [n for ways in self.ways.values() for below in ways for n in bits(below)]
        for inside, leaf, _ in self.drawn.values():
            inner.update((self.nodes[n], None) for n in bits(inside))
            met += bits(leaf)
        return list(inner), [
            node for n in dict.fromkeys(met) if (node := self.nodes[n]) not in inner
        ]

    def start(self, root: Node) -> Iterator[_State]:
        return self.expanded(_State(1, 0, 0, 1 << self.number(root), 0, 0, 0, ()), 0)

    def grown(self, state: _State) -> Iterator[_State]:
        """The cones with one more node inside."""
        for leaf in bits(state.leaves):
            if not isinstance(self.nodes[leaf], BOUNDARIES):
                yield from self.expanded(state, leaf)

    def expanded(self, state: _State, leaf: int) -> Iterator[_State]:
        """The cone with a leaf taken apart, in each way, if it was not made before."""
        features = state.features | self.features[leaf]
        room = self.cones.room(features)
        if not room:
            return
        bit = 1 << leaf
        inside, outer = state.inner | bit, state.leaves & ~bit
        if leaf not in self.ways:
            ways = self.cones.arguments(self.nodes[leaf])
            self.ways[leaf] = [sum(1 << self.number(n) for n in below) for below, _ in ways]
        for way, below in enumerate(self.ways[leaf]):
            new, inner, more = below & ~inside, inside, features
            leaves = outer | new
            if new & self.drawing(new):
                inner, leaves, more = self.settled(inner, leaves, new, features)
            if (leaves, inner) in self.made:
                continue
            self.made.add((leaves, inner))
            count = leaves.bit_count()
            if count > room:
                continue
            some = state.exposed | (inner & ~state.inner | self.renamings[leaf] & inner) & ~1
            exposed = self._exposed(some, inner, leaves) if some else 0
            if exposed.bit_count() <= self.cones.again:
                groups = (*state.groups, (leaf, way)) if way else state.groups
                yield _State(
                    count, -inner.bit_count(), len(self.made), leaves, inner, more, exposed, groups,
                )  # fmt: skip

    def drawing(self, new: int) -> int:
        """Those of all leaves met so far that are not always leaves."""
        for leaf in bits(new & ~self.looked):
            inside, _, _ = self._drawn(leaf)
            self.looked |= 1 << leaf
            self.movable |= 1 << leaf if inside else 0
        return self.movable

    def settled(self, inner: int, leaves: int, new: int, features: int) -> tuple[int, int, int]:
        """(inner, leaves, features) with some new leaves. A renaming is no leaf but what it reads,
        unless that is in the cone already: it may be another operand there. A condition on
        positions is none if no instruction reads one."""
        for leaf in bits(new):
            inside, operand, kinds = self._drawn(leaf)
            drawn = not operand & (inner | leaves) if operand else not self.cones.truths(features)
            if inside and drawn:
                inner, leaves = inner | inside, leaves & ~(1 << leaf) | operand
                features |= kinds
        return inner, leaves, features

    def _drawn(self, leaf: int) -> tuple[int, int, int]:
        """What goes into every cone that reaches a node, what that reads, and its features: the
        node and the renamings under it, or a whole mask."""
        if leaf not in self.drawn:
            inside: list[Node] = []
            node, operand = self.nodes[leaf], 0
            if self.cones.condition(node):
                inside = list(walk([node]))
            else:
                while self.around.renames(node):
                    inside.append(node)
                    node = self.cones.through(node.children[0])
                operand = 1 << self.number(node) if inside else 0
            mask, kinds = 0, 0
            for each in inside:
                if not is_number(each):
                    n = self.number(each)
                    mask, kinds = mask | 1 << n, kinds | self.features[n]
                    self.renamed[n] = operand
            self.renamings[self.number(node)] |= mask
            self.drawn[leaf] = mask, operand, kinds
        return self.drawn[leaf]

    def _exposed(self, some: int, inner: int, leaves: int) -> int:
        """Those of some inner nodes that are needed outside."""
        found = 0
        while some:
            bit = some & -some
            some ^= bit
            if not self._inside(bit.bit_length() - 1, inner, leaves):
                found |= bit
        return found

    def _inside(self, number: int, inner: int, leaves: int) -> bool:
        """Whether nobody outside needs a node, or it may be computed again."""
        if number not in self.readers:
            self.readers[number] = self._readers(self.nodes[number])
        if self.renamed.get(number, 0) & leaves:
            return True  # what it renames is there
        readers = self.readers[number]
        if readers is None:
            return False
        for chain in readers:
            for reader in chain:
                bit = 1 << reader if reader >= 0 else inner
                if bit & (inner | leaves):
                    if not bit & inner:
                        return False
                    break
            else:
                return False
        return True

    def _readers(self, node: Node) -> list[list[int]] | None:
        """Each user of a node, and if it is a cast that is seen through or part of a sum that is
        grouped anew also its user and so on; -1 for the sum that this root is a part of. None if
        it is needed outside of the graph."""
        if node in self.around.free:
            return []  # it may be computed again
        chains = []
        for user in self.around.users.get(node, ()):
            chain: list[int] = []
            while user is not None and user is not self.sum:
                chain.append(self.number(user))
                if not (
                    isinstance(user, Cast) or (isinstance(user, Map) and user.function == "add")
                ):
                    break
                users = self.around.users.get(user, frozenset())
                user = next(iter(users)) if len(users) == 1 else None
            if user is not None and user is self.sum:
                chain.append(-1)
            if not chain:
                return None
            chains.append(chain)
        return chains

    def cone(self, root: Node, state: _State) -> Cone:
        inner = [self.nodes[n] for n in bits(state.inner)]
        groups = {
            self.nodes[n]: self.cones.arguments(self.nodes[n])[way][1] for n, way in state.groups
        }
        leaves = [self.nodes[n] for n in bits(state.leaves)]
        exposed = [self.nodes[n] for n in bits(state.exposed)]
        ordered = self._ordered(root, inner, groups)
        return Cone(root, tuple(leaves), ordered, groups, tuple(exposed), state.features)

    def _ordered(
        self, root: Node, inner: Sequence[Node], groups: Mapping[Node, Node]
    ) -> tuple[Node, ...]:
        """The nodes of a cone, operands first."""
        inside, done, waiting = set(inner), dict[Node, None](), [(root, False)]
        while waiting:
            node, ready = waiting.pop()
            if ready:
                done[node] = None
            elif node not in done and node in inside:
                waiting.append((node, True))
                below = self.cones._below(groups.get(node, node))
                waiting += [(each, False) for each in reversed(below)]
        return tuple(done)
