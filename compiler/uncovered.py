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

from .canonical import is_number
from .choice import Choosing, unit_for
from .graph import Graph


def uncovered(graph: Graph, node: Node, name: str, choosing: Choosing) -> CompileError:
    """The error that names a value which nothing computes, and says what could be done."""
    called = f"node {name!r}" if name else "a node"
    text = show(shallow(node))
    return CompileError(
        f"graph {graph.name!r}: no instruction of machine {choosing.machine.name!r} computes "
        f"{called}: {text}; {advice(node, choosing)}"
    )


def shallow(node: Node) -> Node:
    """A node with whatever is two operations below it as inputs, to be printed."""
    known: dict[Node, Node] = {}
    for child in node.children:
        for grandchild in child.children:
            if grandchild.children and not is_number(grandchild):
                known[grandchild] = Input("...", grandchild.axes, grandchild.dtype)
    (made,) = substitute([node], known)
    return made


def advice(node: Node, choosing: Choosing) -> str:
    """The nearest thing to do about an uncovered node."""
    if isinstance(node, Opaque):
        names = [i.name for i in choosing.library.values() if i.opaque]
        close = get_close_matches(node.operator, names, 1)
        hint = f" (is {close[0]!r} meant?)" if close else ""
        return f"it needs an opaque instruction called {node.operator!r}{hint}"
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
