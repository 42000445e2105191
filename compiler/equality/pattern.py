"""What to look for: the outputs of an instruction under local names, with all of its operands or
with some of them neutral (a bias of 0, a weight of 1)."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property, lru_cache

from infinisa.isa.dtypes import DTYPES, is_float
from infinisa.isa.errors import LanguageError
from infinisa.isa.instruction import Instruction
from infinisa.isa.language import (
    Cast,
    Constant,
    Dot,
    Gather,
    Input,
    Map,
    Node,
    Opaque,
    Position,
    Reduce,
    Scan,
    Stack,
    View,
    substitute,
    walk,
)

from .bind import Kinds, kinds
from .local import Local, leaves_first, localised

NEUTRAL: Mapping[str, float] = {"add": 0.0, "multiply": 1.0}
"""The functions with a neutral number."""

KINDS: Mapping[str, str] = {
    **dict.fromkeys(("exp", "sigmoid", "tanh"), "exponential"),
    **dict.fromkeys(("sqrt", "rsqrt"), "root"),
    **dict.fromkeys(("sin", "cos"), "angle"),
    **dict.fromkeys(("log", "erf", "floor", "ceil", "round", "floor_divide", "modulo"), "itself"),
    **dict.fromkeys(("logical_and", "logical_or", "logical_not"), "logic"),
}
"""Functions that other algebra does not replace, by what they have in common."""


def kind(node: Node) -> str:
    """What a node brings into a cone that no other algebra does; "" if nothing."""
    match node:
        case Map("power", (_, exponent)):
            whole = isinstance(exponent, Constant) and exponent.value == int(exponent.value)
            return "" if whole or not isinstance(exponent, Constant) else "root"
        case Map(function, _):
            found = KINDS.get(function, "")
            if found == "logic" and _without_tensors(node):
                return ""  # a mask: the condition may be the opposite one
            return function if found == "itself" else found
        case Dot():
            return "sum"
        case Reduce("max" | "min"):
            return ""  # a softmax may go without
        case Reduce(function, _, _):
            return function
        case Cast(x, to):
            if is_float(to) and (is_float(x.dtype) or _without_tensors(x)):
                return ""  # a mask of numbers is a condition
            return "cast"
        case Gather() | Scan() | Opaque():
            return type(node).__name__
    return ""


def _without_tensors(node: Node) -> bool:
    """Whether a value is the same in every run, such as a mask by positions."""
    return not any(isinstance(each, Input | Scan | Opaque) for each in walk([node]))


_BITS: dict[str, int] = {"": 0}


@lru_cache(maxsize=1 << 16)
def feature(node: Node) -> int:
    """The kind of a node as a bit."""
    return bit(kind(node)) | (MOVED if isinstance(node, View | Stack) else 0)


def bit(name: str) -> int:
    if name not in _BITS:
        _BITS[name] = 1 << (len(_BITS) - 1)
    return _BITS[name]


def features_of(nodes: Iterable[Node]) -> int:
    """The kinds of some nodes, a bit each."""
    found = 0
    for node in nodes:
        found |= feature(node)
    return found


LOOSE = 2
"""How many leaves more than an instruction has operands a cone may have on the way."""

EXPONENTIAL, LOGARITHM, ROOT = bit("exponential"), bit("log"), bit("root")
LOGIC, MOVED = bit("logic"), bit("moved")
"""Values are read at other places, beyond a renaming."""


def told_apart(features: int) -> int:
    """Features without those that others may undo: a logarithm beside an exponential."""
    return features & ~LOGARITHM if features & EXPONENTIAL else features


@dataclass(frozen=True, eq=False)
class Pattern:
    """An instruction to look for.

    output    the result that all operands go into
    operands  the numbers of the operands that are leaves
    neutral   the numbers that others are
    again     the operands that others are: one value read twice
    local     what it computes of the leaves
    others    its further results, under the same names
    features  the kinds of its nodes
    nodes     how many operations it is
    """

    instruction: Instruction
    output: int
    operands: tuple[int, ...]
    neutral: Mapping[int, float]
    again: Mapping[int, int]
    local: Local
    others: Mapping[int, Node]
    features: int
    nodes: int

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Of cones that it may be: how many leaves, which features. A power of any exponent may
        be a root or not, a single operation of logic may join masks."""
        power = any(
            isinstance(n, Map)
            and n.function == "power"
            and not isinstance(n.arguments[1], Constant)
            for n in walk([self.local.root])
        )
        every = {self.features, self.features | ROOT} if power else {self.features}
        if self.nodes == 1:
            every |= {features & ~LOGIC for features in every}
        return [(len(self.operands), features) for features in sorted(every)]

    @cached_property
    def width(self) -> int:
        """How many leaves a cone may have on the way to it: a value that is read in several places,
        as in a rotation of pairs, is reached from each."""
        read = sum(
            child in self.local.leaves for n in walk([self.local.root]) for child in n.children
        )
        return max(len(self.operands) + LOOSE, read)

    @cached_property
    def kinds(self) -> Kinds:
        return kinds(self.local.roles)

    @cached_property
    def rounded(self) -> frozenset[str]:
        """The float types narrower than f32 that it rounds to inside."""
        casts = (node.type for node in walk(self.instruction.outputs) if isinstance(node, Cast))
        return frozenset(
            to for to in casts if is_float(to) and DTYPES[to].size < DTYPES["f32"].size
        )

    @cached_property
    def degrees(self) -> tuple[Degree, ...]:
        """How it surely depends on each of the leaves."""
        return tuple(degree(self.local.root, leaf) for leaf in self.local.leaves)

    def accepts(self, number: int, kind: str) -> bool:
        """Whether an operand takes values of a type: f32 stands for any number, i32 for integers.
        In a single operation, such as a look-up or `logical_and`, f32 stands for truth values too.
        """
        operand = self.instruction.operands[number].type
        return takes(operand, kind) or (operand == "f32" and self.nodes <= 1)

    def __str__(self) -> str:
        names = [self.instruction.operands[n].name for n in self.operands]
        return f"{self.instruction.name}({', '.join(names)})"


def takes(operand: str, kind: str) -> bool:
    """Whether an operand of a type takes values of another: f32 any number, i32 integers."""
    if "bool" in (operand, kind):
        return operand == kind
    return operand in ("f32", kind) or (operand == "i32" and not is_float(kind))


@lru_cache(maxsize=8)
def patterns(library: tuple[Instruction, ...]) -> list[Pattern]:
    """What to look for, by the output that has all operands. Opaque instructions and those with a
    state are chosen otherwise: by name, and by a law; so are whole recurrences (`recurrences.py`).
    """
    found: list[Pattern] = []
    for instruction in library:
        scans = any(isinstance(node, Scan) for node in walk(instruction.outputs))
        if not (instruction.opaque or instruction.states or scans):
            found += _of(instruction)
    return found


def _of(instruction: Instruction) -> list[Pattern]:
    """The ways to look for an instruction: with some operands neutral, with one value for both of
    two, and with the axes as they are written or with a name for each role."""
    every = set(instruction.operands)
    for number, output in enumerate(instruction.outputs):
        if every <= set(walk([output])):
            neutral = _neutral(instruction, output)
            found: dict[Node, Pattern] = {}
            ways: list[tuple[dict[int, float], dict[int, int]]] = [
                ({n: neutral[n] for n in some}, {})
                for count in range(len(neutral) + 1)
                for some in itertools.combinations(neutral, count)
            ]
            if len({operand.over for operand in instruction.operands}) == 1 and len(every) == 2:
                ways.append(({}, {1: 0}))
            for way, split in itertools.product(ways, (True, False)):
                pattern = pattern_with(instruction, number, *way, split)
                if pattern is not None:
                    found.setdefault(pattern.local.root, pattern)
            return list(found.values())
    return []


def _neutral(instruction: Instruction, output: Node) -> dict[int, float]:
    """Operands that are only added or only multiplied somewhere: with which number they do
    nothing. Of an instruction of one operation nothing would be left."""
    users: dict[Node, set[str]] = {}
    nodes = [node for node in walk([output]) if node.children]
    for node in nodes:
        for child in node.children:
            users.setdefault(child, set()).add(node.function if isinstance(node, Map) else "")
    found = {}
    for number, operand in enumerate(instruction.operands):
        uses = users.get(operand, set())
        if len(uses) == 1 and len(nodes) > 1 and uses <= set(NEUTRAL):
            found[number] = NEUTRAL[min(uses)]
    return found if len(found) < len(instruction.operands) else {}


def pattern_with(
    instruction: Instruction,
    number: int,
    neutral: Mapping[int, float],
    again: Mapping[int, int],
    split: bool,
) -> Pattern | None:
    """An instruction with numbers for some operands and others (`again`) read twice."""
    given = instruction.operands
    fixed: dict[Node, Node] = {given[n]: Constant(value) for n, value in neutral.items()}
    fixed.update((given[n], given[first]) for n, first in again.items())
    try:
        outputs = substitute(instruction.outputs, fixed)
    except LanguageError:
        return None  # a number is left of what is folded: both terms of a sum are neutral
    operands = tuple(n for n in range(len(given)) if n not in neutral and n not in again)
    leaves = [given[n] for n in operands]
    inner = dict.fromkeys(n for output in outputs for n in leaves_first(output, leaves))
    local = localised(outputs[number], leaves, list(inner), split=split)
    if local is None or set(outputs[number].axes) != {local.axes[a] for a in local.root.axes}:
        return None
    others = {
        n: local.nodes[output]
        for n, output in enumerate(outputs)
        if n != number and output in local.nodes
    }
    mine = [node for node in walk([local.root]) if node.children or isinstance(node, Position)]
    features = told_apart(features_of(mine))
    return Pattern(
        instruction, number, operands, neutral, again, local, others, features, len(mine)
    )


class Degree(IntEnum):
    """How a value depends on an input, others being as they are."""

    FREE = 0
    LINEAR = 1
    AFFINE = 2
    OTHER = 3


def degree(root: Node, leaf: Node) -> Degree:
    """How a computation depends on an input, as its form says."""
    found: dict[Node, Degree] = {}
    for node in walk([root]):
        below = [found[child] for child in node.children]
        found[node] = Degree.LINEAR if node is leaf else _degree(node, below)
    return found[root]


def _degree(node: Node, below: Sequence[Degree]) -> Degree:
    """The degree of a value, given those of what it is computed from."""
    most = max(below, default=Degree.FREE)
    if most in (Degree.FREE, Degree.OTHER):
        return most
    match node:
        case Map("add" | "subtract", _) | Stack():
            return most if min(below) is most else Degree.AFFINE
        case Map("multiply", _) | Dot() if min(below) is Degree.FREE:
            return most
        case Map("divide", (_, _)) if below[1] is Degree.FREE:
            return most
        case Map("negate", _) | Reduce("sum", _, _):
            return most
        case View(_, _, fill):
            return Degree.AFFINE if fill else most
        case Cast(_, to) if is_float(to):
            return most
    return Degree.OTHER


def operations(leaf: Iterable[Node]) -> int:
    """How many operations lie under some values."""
    return sum(1 for node in walk(leaf) if node.children and not isinstance(node, Input))
