"""A model as the compiler sees it: expressions of the tensor language over named axes.

A model is a list of graphs that run one after the other on the same weights and states: for a
language model, encoding the text, the prefill, one decoding step (repeated), decoding the text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infinisa.isa.language import Axis, Input, Node
from infinisa.isa.program import Count, Extent, Parameter, Repeat

Array = NDArray[Any]


@dataclass(frozen=True)
class Layout:
    """How a source numbers what the language names: the axes (and sizes) of each dimension.

    The last axis of a dimension varies fastest; a dimension of size 1 has none.
    """

    dimensions: tuple[tuple[tuple[Axis, int], ...], ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(prod(size for _, size in dimension) for dimension in self.dimensions)

    def named(self, array: Array, axes: Sequence[Axis]) -> Array:
        """The source's array with one dimension for each of these axes, which are all it has."""
        order = [axis for dimension in self.dimensions for axis, _ in dimension]
        sizes = [size for dimension in self.dimensions for _, size in dimension]
        return np.asarray(array).reshape(sizes).transpose([order.index(axis) for axis in axes])

    def positional(self, array: Array, axes: Sequence[Axis]) -> Array:
        """A named array (it may lack axes on which it does not depend) as the source has it."""
        pairs = [pair for dimension in self.dimensions for pair in dimension]
        array = array.transpose([axes.index(axis) for axis, _ in pairs if axis in axes])
        array = array.reshape([size if axis in axes else 1 for axis, size in pairs])
        return np.broadcast_to(array, [size for _, size in pairs]).reshape(self.shape)


@dataclass(frozen=True)
class Weight:
    """A constant tensor. Its values are read when something needs them, never for timing.

    shape    one number for each axis of its input
    content  a hash of the values (or of where they come from), the name in the weight store
    load     yields the array, of this shape and type
    """

    input: Input
    shape: tuple[int, ...]
    content: str
    load: Callable[[], Array] = field(compare=False, repr=False)


@dataclass(frozen=True)
class Kept:
    """A tensor that lives from graph to graph and turn to turn, such as a key/value cache.

    Its dimensions count from 0, whatever the range of an axis in a graph: a token at position 70
    is row 70. Positions never written read as `initial`.
    """

    input: Input
    shape: tuple[int, ...]
    initial: float = 0.0


@dataclass(frozen=True)
class Layers:
    """The layers of a graph from which most of those that are alike were left out.

    of     the layer of each tensor that only one layer has
    turns  for how many layers each one stands
    """

    of: Mapping[str, int] = field(default_factory=dict)
    turns: tuple[int, ...] = ()


@dataclass(frozen=True)
class Graph:
    """One part of a model.

    extents  every axis: its length, and its start where that is not 0
    outputs  results by name
    updates  new values of kept tensors: an `Update` of the kept tensor's input
    names    what the source called a node, for messages and reports
    repeat   how often it runs, if not once
    tokens   how many tokens a turn works on, for throughput; 0 where that means nothing
    layers   what was left out of it
    """

    name: str
    extents: tuple[Extent, ...]
    outputs: Mapping[str, Node]
    updates: Mapping[str, Node] = field(default_factory=dict)
    names: Mapping[Node, str] = field(default_factory=dict)
    repeat: Repeat | None = None
    tokens: Count = Count()
    layers: Layers = Layers()

    @property
    def roots(self) -> tuple[Node, ...]:
        return (*self.outputs.values(), *self.updates.values())

    def sizes(self) -> dict[Axis, int]:
        """The most positions of each axis."""
        return {extent.axis: extent.most for extent in self.extents}


@dataclass(frozen=True)
class Model:
    """Everything that is compiled together.

    inputs   tensors bound at run time: (input, shape), shapes being bounds; they count from 0
    layouts  how the source numbers the dimensions of inputs and outputs, if it does
    example  the text that it works on when none is given
    """

    name: str
    graphs: tuple[Graph, ...]
    inputs: Mapping[str, tuple[Input, tuple[int, ...]]] = field(default_factory=dict)
    weights: Mapping[str, Weight] = field(default_factory=dict)
    kept: Mapping[str, Kept] = field(default_factory=dict)
    parameters: tuple[Parameter, ...] = ()
    layouts: Mapping[str, Layout] = field(default_factory=dict)
    example: str = ""


def usual_lengths(extents: Iterable[Extent], parameters: Iterable[Parameter]) -> dict[Axis, int]:
    """The lengths that the defaults of parameters give axes; at least 1."""
    values = {p.name: p.default for p in parameters}
    found = {}
    for extent in extents:
        found[extent.axis] = max(extent.most, 1)
        if all(name in values for name, _ in extent.length.terms):
            found[extent.axis] = min(max(extent.length.value(values), 1), found[extent.axis])
    return found
