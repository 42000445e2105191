"""From what a cluster of calls computes to an instruction: its axes, numbers, names and unit.

Clusters that compute alike but for numbers and the lengths of axes become one instruction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

from infinisa.isa.instruction import Instruction
from infinisa.isa.language import (
    Axis,
    Constant,
    Dot,
    Immediate,
    Input,
    Map,
    Node,
    Reduce,
    Size,
    refine,
    substitute,
    union,
    walk,
)
from infinisa.isa.machine import Machine, Unit

from ..equality.local import Role
from ..selection.choice import unit_for
from ..selection.match import Match
from .clusters import Cluster, Composed

LETTERS = "mnkpqrstuvw"


@dataclass(frozen=True)
class Occurrence:
    """A cluster, read as an instruction.

    graph     the name of its graph
    binding   the instruction's axes as axes of the graph
    loops     axes of the graph outside the instruction
    values    the numbers in it
    """

    graph: str
    cluster: Cluster
    binding: Mapping[Axis, tuple[Axis, ...]]
    loops: tuple[Axis, ...]
    values: tuple[float | int, ...]


@dataclass(frozen=True)
class Form:
    """What clusters have in common; `immediates` stand for the numbers, whatever they are.

    calls  the instructions that do it now
    names  what the operands are called; `numbers`: the immediates
    tile   how much of an axis one issue takes
    """

    root: Node
    inputs: tuple[Input, ...]
    immediates: tuple[Immediate, ...]
    calls: tuple[str, ...]
    names: tuple[str, ...]
    numbers: tuple[str, ...]
    unit: str
    tile: tuple[tuple[Axis, int | str], ...]

    @cached_property
    def title(self) -> str:
        return "_".join(self.calls)

    def instruction(
        self, values: Iterable[Sequence[float | int]], taken: Container[str]
    ) -> Instruction:
        """The instruction for these numbers, one row for each occurrence: what differs is an
        immediate, the most frequent its default."""
        known: dict[Node, Node] = {}
        kept: list[Immediate] = []
        used = {leaf.name for leaf in self.operands}
        for number, column in enumerate(zip(*values, strict=True)):
            ((usual, _), *others) = Counter(column).most_common()
            old = self.immediates[number]
            if others:
                kept.append(Immediate(unique(self.numbers[number], used), usual))
                used.add(kept[-1].name)
            known[old] = kept[-1] if others else Constant(usual)
        known.update(zip(self.inputs, self.operands, strict=True))
        (root,) = substitute([self.root], known)
        return Instruction(
            name=unique(self.title, taken),
            unit=self.unit,
            operands=self.operands,
            immediates=tuple(kept),
            outputs=(root,),
            tile=self.tile,
        )

    @cached_property
    def operands(self) -> tuple[Input, ...]:
        found: list[Input] = []
        for leaf, name in zip(self.inputs, self.names, strict=True):
            taken = {other.name for other in found}
            found.append(Input(unique(name, taken), leaf.over, leaf.type))
        return tuple(found)


def unique(name: str, taken: Container[str]) -> str:
    """The name, with a number behind it if it is taken."""
    found, count = name, 1
    while found in taken:
        count += 1
        found = f"{name}_{count}"
    return found


def formed(
    graph: str,
    cluster: Cluster,
    computed: Composed,
    machine: Machine,
    sizes: Mapping[Axis, int],
) -> tuple[Form, Occurrence] | None:
    """A cluster as an instruction and how it is one; None if no limit of its axes
    would keep an issue within what the unit takes.

    sizes  lengths of the graph's axes
    """
    roots = [computed.root, *computed.inputs]
    dropped = loops(cluster.matches, computed)
    groups = together(computed, dropped)
    names = named(groups, computed)
    written = [_merged(root, groups, dropped) for root in roots]
    written = [*refine(written, {old: (new,) for old, new in names.items()})]
    unit = runs_on(cluster.matches, machine)
    if unit is None:
        return None
    bound = {names[g[0]]: tuple(computed.local.axes[a] for a in g) for g in groups}
    roles = {names[group[0]]: computed.local.roles[group[0]] for group in groups}
    tile = tiled(cluster.matches, bound, roles, machine, unit, sizes)
    if tile is None:
        return None
    root, *inputs = written
    placeholders = tuple(Immediate(f"number{n}", value) for n, value in enumerate(computed.values))
    abstract = tuple(Immediate(f"number{n}", type(v)(0)) for n, v in enumerate(computed.values))
    (root,) = substitute([root], dict(zip(placeholders, abstract, strict=True)))
    form = Form(
        root,
        tuple(leaf for leaf in inputs if isinstance(leaf, Input)),
        abstract,
        tuple(match.instruction.name for match in cluster.matches),
        computed.names,
        tuple(each.name for m in cluster.matches for each in m.instruction.immediates),
        unit.kind,
        tile,
    )
    outside = tuple(computed.local.axes[axis] for axis in dropped)
    return form, Occurrence(graph, cluster, bound, outside, computed.values)


# ---------------------------------------------------------------- axes


def loops(matches: Sequence[Match], computed: Composed) -> tuple[Axis, ...]:
    """Axes that are a loop outside of one of the instructions and do nothing in any."""
    outside = {axis for match in matches for axis in match.loops}
    lengths = {node.axis for node in walk([computed.root]) if isinstance(node, Size)}
    local = computed.local
    found = [
        axis
        for axis, role in local.roles.items()
        if role.kind == Role.LOOP and local.axes[axis] in outside and axis not in lengths
    ]
    return tuple(found) if set(found) < set(computed.root.axes) else tuple(found[1:])


def together(computed: Composed, dropped: Container[Axis]) -> list[tuple[Axis, ...]]:
    """The other axes in groups that occur only together: they are one axis of the instruction."""
    marks: dict[Axis, list[object]] = {a: [] for a in computed.local.roles if a not in dropped}
    nodes = list(walk([computed.root, *computed.inputs]))
    inside = {child for node in nodes if lengths_in(node) for child in node.children}
    for node in nodes:
        folded = node.over if isinstance(node, Dot | Reduce) else ()
        lengths = () if node in inside else lengths_in(node)
        for number, part in enumerate((node.axes, folded, lengths)):
            for axis in part:
                if axis in marks:
                    marks[axis].append((node, number))
    groups: dict[object, list[Axis]] = {}
    for axis, where in marks.items():
        alone = axis if computed.local.roles[axis].indexed else ""
        groups.setdefault((tuple(where), alone), []).append(axis)
    return [tuple(group) for group in groups.values()]


def lengths_in(node: Node) -> tuple[Axis, ...]:
    """The axes of a product of lengths."""
    match node:
        case Size(axis):
            return (axis,)
        case Map("multiply", (a, b)):
            left, right = lengths_in(a), lengths_in(b)
            return (*left, *right) if left and right else ()
    return ()


def _merged(root: Node, groups: Sequence[Sequence[Axis]], dropped: Iterable[Axis]) -> Node:
    """A value with one axis for each group and without those that are loops outside."""
    gone: dict[Axis, tuple[Axis, ...]] = dict.fromkeys(dropped, ())
    for _, *others in groups:
        gone.update(dict.fromkeys(others, ()))
    known: dict[Node, Node] = {}
    for node in walk([root]):
        if lengths := lengths_in(node):
            first = [axis for axis in lengths if axis not in gone]
            if len(first) == 1:
                known[node] = Size(first[0])
    (found,) = refine(substitute([root], known), gone)
    return found


def named(groups: Sequence[Sequence[Axis]], computed: Composed) -> dict[Axis, Axis]:
    """Letters for the axes: m, k and n as in a product of matrices, or m and n as in rows."""
    first = [group[0] for group in groups]
    wanted: dict[Axis, str] = {}
    products = [node for node in walk([computed.root]) if isinstance(node, Dot)]
    for product in products[:1]:
        a, b = product.children
        sides = ((a.axes, b.axes, "m"), (b.axes, a.axes, "n"))
        for mine, other, letter in sides:
            own = [axis for axis in product.axes if axis in mine and axis not in other]
            wanted.update((axis, letter) for axis in own if axis in first)
        wanted.update((axis, "k") for axis in product.over if axis in first)
    found: dict[Axis, Axis] = {}
    for axis in first:
        letter = wanted.get(axis, "")
        if not letter or letter in found.values():
            letter = ""
        found[axis] = letter
    free = [letter for letter in LETTERS if letter not in found.values()]
    return {axis: letter or free.pop(0) for axis, letter in found.items()}


# ---------------------------------------------------------------- where it runs


def runs_on(matches: Sequence[Match], machine: Machine) -> Unit | None:
    """The unit of the calls with a contraction, if any; else that of the last."""
    products = [m for m in matches if any(isinstance(n, Dot) for n in walk(m.meaning.outputs))]
    return unit_for((products or matches)[-1].instruction, machine)


def tiled(
    matches: Sequence[Match],
    bound: Mapping[Axis, tuple[Axis, ...]],
    roles: Mapping[Axis, Role],
    machine: Machine,
    unit: Unit,
    sizes: Mapping[Axis, int],
) -> tuple[tuple[Axis, int | str], ...] | None:
    """The limits of the instructions on this unit, on the axes that have become theirs: of two on
    one axis the tighter. None if several axes that are folded would share one.

    bound  the axes as axes of the graph; `roles`: what they do
    """
    found: dict[Axis, int | str] = {}
    of = {outer: axis for axis, outers in bound.items() for outer in outers}
    for match in matches:
        if unit_for(match.instruction, machine) != unit:
            continue
        for axis, limit in match.instruction.tile:
            mine = union([[of[a] for a in match.binding.get(axis, ()) if a in of]])
            given: Mapping[Axis, int | str] = dict.fromkeys(mine, limit)
            if len(mine) > 1:
                lengths = {ours: prod(sizes[outer] for outer in bound[ours]) for ours in mine}
                given = shared(room_of(unit, limit), lengths, roles)
            if len(given) < len(mine):
                return None
            for ours, new in given.items():
                old = found.get(ours, new)
                found[ours] = old if room_of(unit, old) <= room_of(unit, new) else new
    return tuple(found.items())


def shared(room: int, lengths: Mapping[Axis, int], roles: Mapping[Axis, Role]) -> dict[Axis, int]:
    """A limit on several axes together: those that an index is computed with go whole, the last of
    the others takes what room is left. Nothing if one is folded, or if there is no room."""
    if any(roles[axis].ended and not roles[axis].indexed for axis in lengths):
        return {}
    found = {axis: lengths[axis] if roles[axis].indexed else 1 for axis in lengths}
    left = room // prod(found.values())
    free = [axis for axis in lengths if not roles[axis].indexed]
    if free and left:
        found[free[-1]] = left
    return found if left else {}


def room_of(unit: Unit, limit: int | str) -> int:
    room = unit.room(limit) if isinstance(limit, str) else limit
    return 1 << 62 if room is None else room
