"""A small API to write models by hand; the readers use it too.

b = Builder("mlp")
b.axis("s", b.parameter("rows", most=128, default=16))
x = b.input("x", "s d", shape=(128, 64))
hidden = relu(dot(x, b.weight("up", "f d", up), over="d"))
b.graph("main").output("y", dot(hidden, b.weight("down", "d f", down), over="f"))
model = b.model()
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infinisa.isa.dtypes import name_of
from infinisa.isa.errors import ModelError
from infinisa.isa.instruction import parse_axes
from infinisa.isa.language import (
    Axis,
    Input,
    Node,
    Position,
    Scan,
    Size,
    Stack,
    Update,
    walk,
)
from infinisa.isa.program import Count, Extent, Parameter, Repeat

from .graph import Graph, Kept, Model, Weight

Array = NDArray[Any]
Length = int | Count


def count(value: Length) -> Count:
    return value if isinstance(value, Count) else Count(value)


class Builder:
    """Collects the parts of a model; `model` checks and returns it."""

    def __init__(self, name: str) -> None:
        self.title = name
        self.tensors: dict[str, Input] = {}
        self.inputs: dict[str, tuple[Input, tuple[int, ...]]] = {}
        self.weights: dict[str, Weight] = {}
        self.caches: dict[str, Kept] = {}
        self.parameters: dict[str, Parameter] = {}
        self.extents: dict[Axis, Extent] = {}
        self.graphs: dict[str, GraphBuilder] = {}
        self.names: dict[Node, str] = {}
        self.scope: list[str] = []

    def parameter(self, name: str, most: int, default: int, given: bool = True) -> Count:
        """A number that is known when the program runs, as a length or start of axes.

        given: the caller sets it; otherwise an instruction or a repeated graph does.
        """
        self.parameters[name] = Parameter(name, most, default, given)
        return Count(0, ((name, 1),))

    def axis(
        self,
        name: Axis,
        length: Length,
        most: int | None = None,
        start: Length = 0,
        end: int | None = None,
    ) -> Axis:
        """An axis of all graphs; axes of weights need not be declared."""
        self.extents[name] = self.extent(name, length, most, start, end)
        return name

    def extent(
        self, name: Axis, length: Length, most: int | None, start: Length, end: int | None
    ) -> Extent:
        """A run of positions: `most` bounds the length, `end` where it ends."""
        most = self.bound(length) if most is None else most
        if end is None and count(start) != Count():
            end = self.bound(count(start) + count(length))
        return Extent(name, count(length), most, count(start), -1 if end is None else end)

    def bound(self, length: Length) -> int:
        return count(length).value({p.name: p.most for p in self.parameters.values()})

    def input(self, name: str, axes: str, shape: Sequence[int]) -> Input:
        """A tensor bound at run time, such as input("x", "b s: i32", shape=(8, 128))."""
        node = self._tensor(name, axes, shape)
        self.inputs[name] = node, tuple(shape)
        return node

    def weight(
        self,
        name: str,
        axes: str,
        values: Array | Callable[[], Array],
        *,
        shape: Sequence[int] | None = None,
        dtype: str | None = None,
        content: str | None = None,
    ) -> Input:
        """A constant. Values that are loaded later need their shape, type and a content hash."""
        if callable(values):
            if shape is None or dtype is None or content is None:
                raise ModelError(f"weight {name!r}: a lazy one needs shape, dtype and content")
            load = values
        else:
            array = np.ascontiguousarray(values)
            shape = tuple(shape or array.shape)
            dtype, content = name_of(array.dtype), content or content_of(array)
            load = array.reshape(shape).view
        node = self._tensor(name, f"{axes}: {dtype}", shape)
        self.weights[name] = Weight(node, tuple(shape), content, load)
        return node

    def kept(self, name: str, axes: str, shape: Sequence[int], initial: float = 0.0) -> Input:
        """A tensor that lives from graph to graph and turn to turn."""
        node = self._tensor(name, axes, shape)
        self.caches[name] = Kept(node, tuple(shape), initial)
        return node

    def _tensor(self, name: str, axes: str, shape: Sequence[int]) -> Input:
        where = f"tensor {name!r}"
        node = Input(name, *parse_axes(axes, where))
        if name in self.tensors:
            raise ModelError(f"{where}: there is one of this name already")
        if len(node.axes) != len(shape):
            raise ModelError(
                f"{where}: axes ({' '.join(node.axes)}) need as many lengths, not {tuple(shape)}"
            )
        self.tensors[name] = node
        return node

    def graph(self, name: str, repeat: Repeat | None = None) -> GraphBuilder:
        """The next part of the model."""
        if name in self.graphs:
            raise ModelError(f"graph {name!r}: there is one of this name already")
        self.graphs[name] = GraphBuilder(self, name, repeat)
        return self.graphs[name]

    @contextmanager
    def named(self, name: str) -> Iterator[None]:
        """Names given inside start with `name.`"""
        self.scope.append(name)
        try:
            yield
        finally:
            self.scope.pop()

    def name(self, name: str, node: Node) -> Node:
        """The node, which messages and reports will call so."""
        self.names.setdefault(node, ".".join([*self.scope, name]))
        return node

    def model(self) -> Model:
        nodes = {name: dict.fromkeys(walk(graph.roots)) for name, graph in self.graphs.items()}
        graphs = tuple(graph.build(nodes[name]) for name, graph in self.graphs.items())
        used = set[Node]().union(*nodes.values())
        weights = {name: weight for name, weight in self.weights.items() if weight.input in used}
        return Model(
            self.title,
            graphs,
            self.inputs,
            weights,
            self.caches,
            tuple(self.parameters.values()),
        )

    def lengths(self) -> dict[Axis, int]:
        """The lengths of axes that follow from the shapes of weights and inputs."""
        found: dict[Axis, int] = {}
        shapes = {name: (weight.input, weight.shape) for name, weight in self.weights.items()}
        for name, (leaf, shape) in (shapes | self.inputs).items():
            for axis, length in zip(leaf.axes, shape, strict=True):
                if axis in self.extents:
                    continue
                if found.setdefault(axis, length) != length:
                    raise ModelError(
                        f"tensor {name!r}: axis {axis!r} must have {found[axis]} positions "
                        f"as in others, not {length}"
                    )
        return found


@dataclass
class GraphBuilder:
    """One graph being written."""

    builder: Builder
    name: str
    repeat: Repeat | None = None
    tokens: Count = Count()
    own: dict[Axis, Extent] = field(default_factory=dict)
    outputs: dict[str, Node] = field(default_factory=dict)
    updates: dict[str, Node] = field(default_factory=dict)

    def axis(
        self,
        name: Axis,
        length: Length,
        most: int | None = None,
        start: Length = 0,
        end: int | None = None,
    ) -> Axis:
        """An axis as it is in this graph."""
        self.own[name] = self.builder.extent(name, length, most, start, end)
        return name

    def output(self, name: str, node: Node) -> Node:
        self.outputs[name] = node
        return node

    def update(self, node: Node) -> Node:
        """The next value of a kept tensor: an `update` of it."""
        if not isinstance(node, Update) or not isinstance(node.x, Input):
            raise ModelError(f"graph {self.name!r}: must update a kept tensor itself, not {node}")
        self.updates[node.x.name] = node
        return node

    def works_on(self, tokens: Length) -> None:
        """Say how many tokens a turn works on."""
        self.tokens = count(tokens)

    @property
    def roots(self) -> tuple[Node, ...]:
        return (*self.outputs.values(), *self.updates.values())

    def build(self, nodes: Mapping[Node, object]) -> Graph:
        """The graph of all these nodes."""
        names = {node: name for node, name in self.builder.names.items() if node in nodes}
        extents = tuple(self._extents(nodes))
        return Graph(
            self.name, extents, self.outputs, self.updates, names, self.repeat, self.tokens
        )

    def _extents(self, nodes: Iterable[Node]) -> Iterator[Extent]:
        known = {axis: constant(axis, n) for axis, n in self.builder.lengths().items()}
        known |= stacked(nodes) | self.builder.extents | self.own
        for axis in axes_of(nodes):
            if axis not in known:
                raise ModelError(f"graph {self.name!r}: axis {axis!r} has no length")
            yield known[axis]


def constant(axis: Axis, length: int) -> Extent:
    return Extent(axis, Count(length), length)


def stacked(nodes: Iterable[Node]) -> dict[Axis, Extent]:
    """Axes that values are stacked along."""
    stacks = (node for node in nodes if isinstance(node, Stack))
    return {stack.axis: constant(stack.axis, len(stack.xs)) for stack in stacks}


def axes_of(nodes: Iterable[Node]) -> tuple[Axis, ...]:
    """Every axis that these nodes walk over, in order of first use."""
    found: dict[Axis, None] = {}
    for node in nodes:
        found.update(dict.fromkeys(node.axes))
        match node:
            case Size(axis) | Position(axis):
                found[axis] = None
            case Scan(body):
                inner = axes_of(walk((*body.next, *body.emits)))
                found.update(dict.fromkeys((body.axis, *inner)))
    return tuple(found)


def content_of(array: Array) -> str:
    """A hash of an array: type, shape and bytes."""
    digest = hashlib.sha256(f"{array.dtype} {array.shape}".encode())
    digest.update(array.view(np.uint8).data if array.ndim else array.tobytes())
    return digest.hexdigest()[:16]
