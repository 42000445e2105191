"""The error for what nothing computes: which node it is, and what could be done."""

from __future__ import annotations

from difflib import get_close_matches

from infinisa.isa.errors import CompileError
from infinisa.isa.language import (
    Input,
    Map,
    Node,
    Opaque,
    Reduce,
    show,
    substitute,
)

from ..equality.canonical import is_number
from ..graph import Graph
from ..schedule.cost import chip_capacity
from .choice import Choosing, Selection, unit_for
from .match import Match


class Uncovered(CompileError):
    """Nothing computes `node` of graph `graph`; `selection` is what there was to choose from."""

    def __init__(self, message: str, graph: str, node: Node, selection: Selection) -> None:
        super().__init__(message)
        self.graph, self.node, self.selection = graph, node, selection


def uncovered(graph: Graph, node: Node, name: str, selection: Selection) -> Uncovered:
    """The error that names a value which nothing computes, and says what could be done."""
    called = f"node {name!r}" if name else "a node"
    text = show(shallow(node))
    message = (
        f"graph {graph.name!r}: no instruction of machine {selection.choosing.machine.name!r} "
        f"computes {called}: {text}; {advice(node, selection)}"
    )
    return Uncovered(message, graph.name, node, selection)


def refusal(match: Match, choosing: Choosing) -> str:
    """Why a match may not be taken; "" if it may."""
    trust = choosing.trust
    if not match.stable:
        return f"it is less precise: {match.verdict.trouble}"
    if match.error > trust.budget:
        return f"its error of {match.error:.2g} is over the budget of {trust.budget:g}"
    if not trust(match):
        return f"it is {match.stamp}, not {trust.require}"
    if choosing.fits(match):
        return ""
    held, capacity = choosing.held(match), chip_capacity(choosing.machine)
    if held > capacity:
        memory = choosing.machine.scratchpad.name
        return f"one issue must see {held} bytes whole, memory {memory!r} has {capacity}"
    return "an axis that it must see whole is over its tile limit"


def shallow(node: Node) -> Node:
    """A node with whatever is two operations below it as inputs, to be printed."""
    known: dict[Node, Node] = {}
    for child in node.children:
        for grandchild in child.children:
            if grandchild.children and not is_number(grandchild):
                known[grandchild] = Input("...", grandchild.axes, grandchild.dtype)
    (made,) = substitute([node], known)
    return made


def advice(node: Node, selection: Selection) -> str:
    """The nearest thing to do about an uncovered node."""
    choosing = selection.choosing
    if isinstance(node, Opaque):
        names = [i.name for i in choosing.library.values() if i.opaque]
        close = get_close_matches(node.operator, names, 1)
        hint = f" (is {close[0]!r} meant?)" if close else ""
        return f"it needs an opaque instruction called {node.operator!r}{hint}"
    for match in selection.finder(node):
        if why := refusal(match, choosing):
            return f"instruction {match.instruction.name!r} does, but {why}"
    name = operation(node)
    machine = choosing.machine
    for instruction in choosing.library.values():
        if (
            any(operation(out) == name for out in instruction.outputs)
            and unit_for(instruction, machine) is None
        ):
            return (
                f"instruction {instruction.name!r} may, but runs on unit {instruction.unit!r}, "
                "which the machine lacks"
            )
    return f"a plugin must define an instruction with {name!r} over these operands"


def operation(node: Node) -> str:
    """What a node does, in one word."""
    return node.function if isinstance(node, Map | Reduce) else type(node).__name__.lower()
