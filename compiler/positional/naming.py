"""Positional tensors → expressions of the language over named axes, with their weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infinisa.isa import language
from infinisa.isa.dtypes import DTYPES
from infinisa.isa.evaluate import Range, evaluate
from infinisa.isa.language import Axis, Constant, Input, Node
from infinisa.isa.program import Count, Extent

from ..graph import Layout, Weight
from .axes import Dim, Names, align, fits, leaves, unify
from .tensor import Data, Tensor, digest

Array = NDArray[Any]

EXAMINED = 1 << 22
"""Constants with more elements are not searched for axes on which they do not depend."""


@dataclass(frozen=True)
class Named:
    """What tensors became."""

    nodes: Mapping[Tensor, Node]
    weights: Mapping[str, Weight]
    names: Names

    def layout(self, tensor: Tensor) -> Layout:
        sizes = self.names.sizes
        return Layout(tuple(tuple((a, sizes[a]) for a in self.names(dim)) for dim in tensor.dims))

    def extents(self, roots: Iterable[Node]) -> tuple[Extent, ...]:
        """The axes that these values need."""
        used = dict.fromkeys(axis for node in _all_nodes(roots) for axis in node.axes)
        sizes = self.names.sizes
        return tuple(Extent(axis, Count(sizes[axis]), sizes[axis]) for axis in used)


def name_axes(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Named:
    """The expressions of the outputs and of everything they depend on."""
    order = list(_arguments_first(outputs))
    _settle([pair for tensor in order for pair in tensor.ties])
    _share(order)
    names = Names()
    for tensor in inputs:
        names(atom for dim in tensor.dims for atom in dim)
    nodes: dict[Tensor, Node] = {}
    weights = _Weights(names)
    for tensor in inputs:
        nodes[tensor] = tensor.build(names, ())
        weights.take(nodes[tensor])
    for tensor in order:
        if tensor.data:
            nodes[tensor] = weights.constant(tensor.data, tensor.dims)
        elif tensor not in nodes:
            built = tensor.build(names, [nodes[argument] for argument in tensor.arguments])
            nodes[tensor] = weights.folded(built)
    used = set(language.inputs(nodes[tensor] for tensor in outputs))
    kept = {name: weight for name, weight in weights.made.items() if weight.input in used}
    return Named(nodes, kept, names)


def _arguments_first(outputs: Iterable[Tensor]) -> Iterator[Tensor]:
    seen: set[Tensor] = set()
    rest = [(tensor, False) for tensor in reversed(list(outputs))]
    while rest:
        tensor, ready = rest.pop()
        if ready:
            yield tensor
        elif tensor not in seen:
            seen.add(tensor)
            rest.append((tensor, True))
            rest.extend((argument, False) for argument in reversed(tensor.arguments))


def _settle(ties: Sequence[tuple[Dim, Dim]]) -> None:
    """Cut both sides of every renaming alike."""
    changed = True
    while changed:
        before = sum(len(leaves(dim)) for pair in ties for dim in pair)
        for old, new in ties:
            if fits(old, new):
                align(old, new)
        changed = before != sum(len(leaves(dim)) for pair in ties for dim in pair)


def _share(order: Iterable[Tensor]) -> None:
    """Give the copies of a constant the same axes, where nothing has both."""
    first: dict[str, Tensor] = {}
    for tensor in order:
        if not tensor.data or prod(tensor.shape) == 1:
            continue
        other = first.setdefault(tensor.data.content, tensor)
        for dim, same in zip(tensor.dims, other.dims, strict=True):
            ours, theirs = leaves(dim), leaves(same)
            if [a.size for a in ours] == [b.size for b in theirs]:
                for a, b in zip(ours, theirs, strict=True):
                    unify(a, b)


def _all_nodes(roots: Iterable[Node]) -> Iterator[Node]:
    """Every node, those in the bodies of scans too."""
    for node in language.walk(roots):
        yield node
        if isinstance(node, language.Scan):
            body = node.body
            yield language.Position(body.axis)
            yield from _all_nodes((*body.states, *body.slices, *body.next, *body.emits))


# ---------------------------------------------------------------- constants


@dataclass
class _Weights:
    """The weights that have been made, by name."""

    names: Names
    made: dict[str, Weight] = field(default_factory=dict)
    taken: dict[str, Node] = field(default_factory=dict)
    fixed: dict[Node, int] = field(default_factory=dict)

    def take(self, node: Node) -> None:
        """Keep the name of an input of the model."""
        if isinstance(node, Input):
            self.taken[node.name] = node

    def constant(self, data: Data, dims: Iterable[Dim]) -> Node:
        """A number, or a weight over the axes on which the values depend."""
        axes = self.names(atom for dim in dims for atom in dim)
        shape = [self.names.sizes[axis] for axis in axes]
        whole = data.load()
        if not axes or not (any(whole.strides) or data.parameter):  # one number, read everywhere
            number = _number(whole.reshape(-1)[:1]) if whole.size else None
            if number is not None:
                return number

        def load() -> Array:
            return data.load().reshape(shape)

        if 0 < prod(shape) <= EXAMINED:
            values = load()
            depends = [k for k in range(len(axes)) if not _same_along(values, k)]
            if not depends and not data.parameter:
                number = _number(values.reshape(-1)[:1])
                if number is not None:
                    return number
            pick = tuple(slice(None) if k in depends else 0 for k in range(len(shape)))
            if len(depends) == 2:
                mask = _causal(values[pick], *(axes[k] for k in depends))
                if mask is not None:
                    return mask
            if depends and len(depends) < len(axes):
                axes = tuple(axes[k] for k in depends)
                return self._weight(data.name, axes, data.dtype, data.content, lambda: load()[pick])
        return self._weight(data.name, axes, data.dtype, data.content, load)

    def folded(self, node: Node) -> Node:
        """An expression of weights as one weight, unless that needs more memory."""
        for each in _unknown(node, self.fixed):
            self.fixed[each] = self._bytes_below(each)
        below = self.fixed[node]
        if below < 0 or isinstance(node, Input | Constant):
            return node
        if not below:
            number = None if node.axes else _number(evaluate([node], {})[0])
            return number if number is not None and number.dtype == node.dtype else node
        size = prod(self.names.sizes[axis] for axis in node.axes) * DTYPES[node.dtype].size
        if size > below:
            return node
        leaves_ = language.inputs([node])
        weights = {leaf.name: self.made[leaf.name] for leaf in leaves_}
        content = digest(repr((str(node), [w.content for w in weights.values()])).encode())
        sizes = dict(self.names.sizes)

        def load() -> Array:
            ranges = {axis: Range(0, size) for axis, size in sizes.items()}
            arrays = {name: weight.load() for name, weight in weights.items()}
            return evaluate([node], arrays, ranges=ranges)[0]

        made = self._weight(leaves_[0].name, node.axes, node.dtype, content, load)
        self.fixed[made] = size
        return made

    def _bytes_below(self, node: Node) -> int:
        """The bytes of the weights that a value is computed from; -1 if not only from weights."""
        if isinstance(node, Input):
            return -1
        if isinstance(node, language.Position | language.Size | language.Scan | language.Opaque):
            return -1
        below = [self.fixed[child] for child in dict.fromkeys(node.children)]
        return -1 if any(size < 0 for size in below) else sum(below)

    def _weight(
        self, name: str, axes: tuple[Axis, ...], dtype: str, content: str, load: Callable[[], Array]
    ) -> Input:
        for number in range(1, len(self.taken) + 2):
            leaf = Input(name if number == 1 else f"{name}.{number}", axes, dtype)
            known = self.made.get(leaf.name)
            if known and known.input is leaf and known.content == content:
                return leaf
            if leaf.name not in self.taken:
                break
        shape = tuple(self.names.sizes[axis] for axis in axes)
        self.made[leaf.name] = Weight(leaf, shape, content, load)
        self.taken[leaf.name] = leaf
        self.fixed[leaf] = prod(shape) * DTYPES[dtype].size
        return leaf


def _unknown(root: Node, known: Mapping[Node, int]) -> Iterator[Node]:
    """Nodes not yet known, arguments before their users."""
    rest = [(root, False)]
    seen: set[Node] = set()
    while rest:
        node, ready = rest.pop()
        if ready:
            yield node
        elif node not in known and node not in seen:
            seen.add(node)
            rest.append((node, True))
            rest.extend((child, False) for child in node.children)


def _number(values: Array) -> Constant | None:
    """A constant of the language, if it can hold the one value."""
    value = values.reshape(())
    if value.dtype == np.bool_:
        return Constant(bool(value))
    if value.dtype.kind in "iu":
        number = int(value)
        return Constant(number) if -(1 << 31) <= number < 1 << 31 else None
    return Constant(float(value))


def _causal(values: Array, queries: Axis, keys: Axis) -> Node | None:
    """A mask that lets a position see those up to its own, as a comparison of positions."""
    if len({*values.shape}) > 1:
        return None
    seen = np.tri(len(values), dtype=np.bool_)
    if not (values == np.where(seen, values[0, 0], values[0, 1])).all():
        return None
    yes, no = _number(values[0, 0]), _number(values[0, 1])
    if yes is None or no is None:
        return None
    mask = language.position(queries) >= language.position(keys)
    if values.dtype == np.bool_ and yes.value:
        return mask
    return language.where(mask, yes, no)


def _same_along(values: Array, dim: int) -> bool:
    """Whether a constant does not depend on a dimension."""
    first = values.take([0], dim)
    if values.shape[dim] > 1 and not bool((values.take([1], dim) == first).all()):
        return False
    return bool((values == first).all())
