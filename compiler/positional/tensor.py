"""Tensors whose dimensions are numbered, as ONNX and PyTorch have them, over axes named later.

Every operation notes how its node of the language is built; `naming.py` builds them all once the
model has been read and the axes are known. Transpose, squeeze and expand are nothing at all, a
reshape regroups atoms (`axes.py`), slices, pads and windows are views.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce as fold
from math import prod
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from infinisa.isa import language
from infinisa.isa.dtypes import is_float, name_of
from infinisa.isa.errors import ModelError
from infinisa.isa.functions import FUNCTIONS
from infinisa.isa.language import Affine, Axis, Node

from .axes import (
    Dim,
    Flat,
    Group,
    Names,
    align,
    carry,
    dimension,
    extent,
    fits,
    indices,
    leaves,
    split_at,
    tied,
    twin,
    unify,
)

Array = NDArray[Any]
Build: TypeAlias = Callable[[Names, Sequence[Node]], Node]
Number: TypeAlias = "int | float | bool"
Shape: TypeAlias = Sequence[int]


@dataclass(frozen=True, eq=False)
class Data:
    """The values of a constant, read when something needs them.

    content    a hash of the values
    parameter  whether the model has it as a tensor: then it stays one, be its values all equal
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    content: str
    load: Callable[[], Array]
    parameter: bool = False

    def moved(self, what: str, shape: Shape, move: Callable[[Array], Array]) -> Data:
        """The same values in another order."""
        load = self.load
        content = digest(f"{self.content} {what}".encode())
        return Data(
            self.name, tuple(shape), self.dtype, content, lambda: move(load()), self.parameter
        )


def digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def content_of(array: Array) -> str:
    return digest(repr((array.dtype.name, array.shape)).encode() + array.tobytes())


@dataclass(frozen=True, eq=False)
class Tensor:
    """A value with numbered dimensions.

    dtype      its element type in memory; the language computes on narrow types in wider ones
    arguments  what its node is built from
    data       the values of a constant; every use of it is a copy with axes of its own
    ties       pairs of dimensions that are one under two names, and so are cut alike
    """

    dims: tuple[Dim, ...]
    dtype: str
    arguments: tuple[Tensor, ...]
    build: Build
    data: Data | None = None
    ties: tuple[tuple[Dim, Dim], ...] = ()

    def __post_init__(self) -> None:
        carry(atom for dim in self.dims for atom in dim)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(extent(dim) for dim in self.dims)

    @property
    def rank(self) -> int:
        return len(self.dims)

    def values(self, what: str) -> Array:
        """The values of a constant; ModelError if it is not one."""
        if self.data is None:
            raise ModelError(f"{what} must be a constant")
        return self.data.load()

    def integers(self, what: str) -> list[int]:
        return [int(value) for value in self.values(what).reshape(-1)]

    def dim(self, index: int) -> int:
        """The number of a dimension that may be counted from the end."""
        if not -self.rank <= index < self.rank:
            raise ModelError(f"dimension must be {-self.rank} to {self.rank - 1}, not {index}")
        return index % self.rank

    # ------------------------------------------------------------ arithmetic

    def map(self, function: str, *others: Tensor | Number) -> Tensor:
        """A scalar function of the language, with NumPy's broadcasting."""
        kind = FUNCTIONS[function].result
        given = [self, *(lift(other, self.dtype) for other in others)]
        dtype = {"bool": "bool", "branches": given[-1].dtype}.get(kind, self.dtype)
        if kind == "float" and not is_float(dtype):
            dtype = "f32"
        return each(lambda *nodes: language.apply(function, *nodes), given, dtype)

    def __add__(self, other: Tensor | Number) -> Tensor:
        return self.map("add", other)

    def __sub__(self, other: Tensor | Number) -> Tensor:
        return self.map("subtract", other)

    def __mul__(self, other: Tensor | Number) -> Tensor:
        return self.map("multiply", other)

    def __truediv__(self, other: Tensor | Number) -> Tensor:
        return self.map("divide", other)

    def where(self, yes: Tensor | Number, no: Tensor | Number) -> Tensor:
        """`yes` where this is true, else `no`; one of them is a tensor."""
        kinds = [side.dtype for side in (yes, no) if isinstance(side, Tensor)]
        return self.map("where", lift(yes, kinds[0]), lift(no, kinds[0]))

    def cast(self, dtype: str) -> Tensor:
        """Rounded to nearest, or saturated."""
        if dtype == self.dtype:
            return self
        (x,) = operands(self)
        return made((x,), x.dims, dtype, lambda _, nodes: language.cast(nodes[0], dtype))

    def stored(self) -> Tensor:
        """In its own type, where the arithmetic that made it was in a wider one.

        Integers that are narrower than they should be (positions) stay so.
        """
        dtype = self.dtype

        def build(_: Names, nodes: Sequence[Node]) -> Node:
            (node,) = nodes
            same = isinstance(node, language.Constant) or {node.dtype, dtype} == {"i32", "i64"}
            return node if same else language.cast(node, dtype)

        return self if self.data else made((self,), self.dims, dtype, build)

    def exact(self) -> Tensor:
        """In its own type, whatever it is in the language."""
        dtype = self.dtype
        (x,) = operands(self)
        return made((x,), x.dims, dtype, lambda _, nodes: language.cast(nodes[0], dtype))

    # ------------------------------------------------------------ reductions and rows

    def reduce(self, function: str, over: Iterable[int], keep: bool = False) -> Tensor:
        """sum, max, min, product or mean over dimensions."""
        gone = {self.dim(d) for d in over}
        (x,) = operands(self)
        atoms = [atom for d in sorted(gone) for atom in x.dims[d]]
        return made(
            (x,),
            _without(x.dims, gone, keep),
            self.dtype,
            lambda names, nodes: _reduced(function, nodes[0], names(atoms), names.sizes),
        )

    def argmax(self, over: int, keep: bool = False) -> Tensor:
        """Where a dimension has its largest value: the first of equals."""
        over = self.dim(over)
        (x,) = operands(self)
        dim = x.dims[over]

        def build(names: Names, nodes: Sequence[Node]) -> Node:
            node, axis = _one_axis(names, nodes[0], dim)
            return language.argmax(node, axis) if axis in node.axes else language.lift(0)

        return made((x,), _without(x.dims, {over}, keep), "i64", build)

    def rows(
        self, formula: Callable[..., Node], over: Iterable[int], *others: Tensor | None
    ) -> Tensor:
        """formula(x, *others, over=axes): what keeps the shape but looks along dimensions."""
        along = sorted(self.dim(d) for d in over)
        given = [other for other in others if other is not None]
        (x, *rest), dims = broadcast([self, *given])
        atoms = [atom for d in along for atom in dims[d + len(dims) - self.rank]]

        def build(names: Names, nodes: Sequence[Node]) -> Node:
            axes = names(atoms)
            found = iter(nodes[1:])
            full = [None if other is None else next(found) for other in others]
            return formula(spread(nodes[0], axes), *full, over=axes)

        return made((x, *rest), dims, self.dtype, build)

    # ------------------------------------------------------------ products

    def matmul(self, other: Tensor) -> Tensor:
        """As numpy.matmul."""
        if not self.rank or not other.rank:
            raise ModelError("a matrix product needs tensors with dimensions, not numbers")
        lead = max(self.rank, other.rank) - 2
        rows = [] if self.rank == 1 else ["row"]
        columns = [] if other.rank == 1 else ["column"]
        batch = list(range(lead))
        left = [*batch[lead - (self.rank - 2) :], *rows, "sum"] if rows else ["sum"]
        right = [*batch[lead - (other.rank - 2) :], "sum", *columns] if columns else ["sum"]
        return contract(self, left, other, right, [*batch, *rows, *columns])

    # ------------------------------------------------------------ movement

    def reshape(self, shape: Shape) -> Tensor:
        """The same values in row-major order; the shape is complete."""
        shape = tuple(shape)
        if prod(shape) != prod(self.shape):
            raise ModelError(f"cannot reshape {self.shape} to {shape}")
        if shape == self.shape:
            return self
        if self.data:
            return constant(self.data.moved(f"reshape {shape}", shape, lambda v: v.reshape(shape)))
        if not prod(shape):
            return full(shape, 0, self.dtype)
        return _regrouped(self, shape)

    def transpose(self, order: Sequence[int]) -> Tensor:
        if sorted(order) != list(range(self.rank)):
            raise ModelError(
                f"an order must name each of {self.rank} dimensions, not {list(order)}"
            )
        order = tuple(order)
        if self.data:
            shape = [self.shape[d] for d in order]
            return constant(
                self.data.moved(f"transpose {order}", shape, lambda v: v.transpose(order))
            )
        return _same(self, [self.dims[d] for d in order])

    def expand(self, shape: Shape) -> Tensor:
        """Broadcast with a shape, as in NumPy: dimensions of both that are 1 yield."""
        whole = broadcast_shape(self.shape, shape)
        if self.data:
            data = self.data.moved(f"expand {whole}", whole, lambda v: np.broadcast_to(v, whole))
            return constant(replace(data, parameter=data.parameter and prod(self.shape) > 1))
        old = ((),) * (len(whole) - self.rank) + self.dims
        return _same(
            self,
            [d if extent(d) == n else dimension(n) for d, n in zip(old, whole, strict=True)],
        )

    def squeeze(self, dims: Iterable[int]) -> Tensor:
        gone = {self.dim(d) for d in dims}
        if wrong := [d for d in gone if self.shape[d] != 1]:
            raise ModelError(f"dimension {wrong[0]} of {self.shape} must be 1 to be squeezed")
        return self.reshape([n for d, n in enumerate(self.shape) if d not in gone])

    def unsqueeze(self, dims: Iterable[int]) -> Tensor:
        """With dimensions of 1 at these places of the result."""
        places = list(dims)
        rank = self.rank + len(places)
        new = {d % rank for d in places if -rank <= d < rank}
        if len(new) != len(places):
            raise ModelError(f"new dimensions {places} must differ and be {-rank} to {rank - 1}")
        sizes = iter(self.shape)
        return self.reshape([1 if d in new else next(sizes) for d in range(rank)])

    def slice(
        self, dim: int, start: int | None, stop: int | None, step: int | None = None
    ) -> Tensor:
        """Python's slice of one dimension."""
        dim = self.dim(dim)
        size = self.shape[dim]
        try:
            taken = range(size)[start:stop:step]
        except ValueError:
            raise ModelError("the step of a slice must not be 0") from None
        shape = (*self.shape[:dim], len(taken), *self.shape[dim + 1 :])
        if taken == range(size):
            return self
        if self.data:
            cut = (slice(None),) * dim + (slice(start, stop, step),)
            return constant(self.data.moved(f"slice {dim} {taken}", shape, lambda v: v[cut]))
        if not prod(shape):
            return full(shape, 0, self.dtype)
        new, group = _taken(self.dims[dim], taken)
        return moved(self, (*self.dims[:dim], new, *self.dims[dim + 1 :]), [group])

    def pad(self, dim: int, before: int, after: int, fill: Number) -> Tensor:
        """A dimension lengthened with a number; negative: shortened."""
        dim = self.dim(dim)
        size = self.shape[dim] + before + after
        if size < 0:
            raise ModelError(
                f"dimension {dim} of {self.shape} is too short for pads {before, after}"
            )
        if not before and not after:
            return self
        if self.data and min(before, after) >= 0:
            shape = (*self.shape[:dim], size, *self.shape[dim + 1 :])
            pads = [(before, after) if d == dim else (0, 0) for d in range(self.rank)]
            what = f"pad {dim} {before} {after} {fill}"
            return constant(
                self.data.moved(what, shape, lambda v: np.pad(v, pads, constant_values=fill))
            )
        new = dimension(size)
        (x,) = operands(self)
        group = (x.dims[dim], Flat(((new, 1),), -before))
        return moved(x, (*x.dims[:dim], new, *x.dims[dim + 1 :]), [group], fill)

    def windows(self, dims: Sequence[Window], fill: Number | None) -> Tensor:
        """Some dimensions read through windows: each becomes its outputs, its taps go last."""
        (x,) = operands(self)
        outs = {window.dim: dimension(window.count) for window in dims}
        taps = [dimension(window.size) for window in dims]
        groups = [
            (
                x.dims[w.dim],
                Flat(((outs[w.dim], w.stride), (tap, w.dilation)), -w.before),
            )
            for w, tap in zip(dims, taps, strict=True)
        ]
        kept = [outs.get(d, dim) for d, dim in enumerate(x.dims)]
        outside = any(
            w.before > 0 or (w.count - 1) * w.stride + w.reach > x.shape[w.dim] + w.before
            for w in dims
        )
        return moved(x, (*kept, *taps), groups, fill if outside else None)

    def gather(self, index: Tensor, dim: int, counted: bool = False) -> Tensor:
        """Positions of one dimension that another tensor names; its dimensions take the place.

        counted  whether indices are known to count from the start
        """
        dim = self.dim(dim)
        if index.data and prod(index.shape) == 1:
            at = index.integers("the index")[0]
            at += self.shape[dim] if at < 0 else 0
            _inside(at, self.shape[dim])
            one = self.slice(dim, at, at + 1)
            return one.reshape((*self.shape[:dim], *index.shape, *self.shape[dim + 1 :]))
        index = index if counted else from_start(index, self, dim)
        here = [("table", d) if d != dim else "gathered" for d in range(self.rank)]
        there = [("index", d) for d in range(index.rank)]
        (table, picks), dims = meet([self, index], [here, there])
        order = [*here[:dim], *there, *here[dim + 1 :]]
        return _gathered(table, picks, dims["gathered"], [dims[label] for label in order])

    def gather_elements(self, index: Tensor, dim: int, counted: bool = False) -> Tensor:
        """As torch.gather: the other dimensions are walked together; `counted` as of `gather`."""
        dim = self.dim(dim)
        table = self
        for d, size in enumerate(index.shape):
            table = table if d == dim else table.slice(d, 0, size)
        index = index if counted else from_start(index, self, dim)
        here = [d if d != dim else "gathered" for d in range(self.rank)]
        (table, picks), dims = meet([table, index], [here, range(self.rank)])
        return _gathered(table, picks, dims["gathered"], [dims[d] for d in range(self.rank)])


@dataclass(frozen=True)
class Window:
    """How a dimension is read: position stride * output + dilation * tap - before."""

    dim: int
    size: int
    stride: int
    dilation: int
    before: int
    count: int

    @property
    def reach(self) -> int:
        return (self.size - 1) * self.dilation + 1


# ---------------------------------------------------------------- making tensors


def made(
    arguments: Sequence[Tensor],
    dims: Sequence[Dim],
    dtype: str,
    build: Build,
    ties: Iterable[tuple[Dim, Dim]] = (),
) -> Tensor:
    return Tensor(tuple(dims), dtype, tuple(arguments), build, None, tuple(ties))


def outer(name: str, dtype: str, shape: Shape, hints: Sequence[str] = ()) -> Tensor:
    """A tensor from outside the model."""
    words = [*hints, *[""] * len(shape)]
    dims = [dimension(size, word) for size, word in zip(shape, words, strict=False)]

    def build(names: Names, _: Sequence[Node]) -> Node:
        return language.Input(name, names(atom for dim in dims for atom in dim), dtype)

    return made((), dims, dtype, build)


def constant(data: Data) -> Tensor:
    dims = tuple(dimension(size) for size in data.shape)
    return Tensor(dims, data.dtype, (), _constant_is_built_by_naming, data)


def _constant_is_built_by_naming(names: Names, nodes: Sequence[Node]) -> Node:
    raise AssertionError("naming builds constants from their data")


def from_array(array: Array | Number, name: str = "constant") -> Tensor:
    """A constant from values that something computed."""
    values = np.asarray(array)
    return constant(
        Data(name, values.shape, name_of(values.dtype), content_of(values), lambda: values)
    )


def full(shape: Shape, value: Number, dtype: str) -> Tensor:
    """One number everywhere."""
    return lift(value, dtype).expand(shape)


def lift(value: Tensor | Number, dtype: str) -> Tensor:
    """A tensor as it is; a number as a constant in the type of what it meets."""
    if isinstance(value, Tensor):
        return value
    number = float(value) if is_float(dtype) else value
    whole = isinstance(number, int) and not isinstance(number, bool)
    keeps = is_float(dtype) or (whole and dtype != "bool")
    kind = dtype if keeps else name_of(np.asarray(number).dtype)
    content = digest(repr((number, kind)).encode())
    return constant(Data("constant", (), kind, content, lambda: np.asarray(number)))


def position(size: int) -> Tensor:
    """0, 1, 2, ..."""
    dim = dimension(size)
    flat = Flat(((dim, 1),))
    return made((), [dim], "i64", lambda names, _: positions(names.flat(flat)))


def operands(*tensors: Tensor) -> list[Tensor]:
    """The tensors for one use: a constant as a copy, so that no two uses tie their axes."""
    return [constant(tensor.data) if tensor.data else tensor for tensor in tensors]


def _same(x: Tensor, dims: Sequence[Dim]) -> Tensor:
    """What is nothing in the language."""
    return made((x,), dims, x.dtype, lambda _, nodes: nodes[0])


# ---------------------------------------------------------------- tensors that meet


def broadcast_shape(*shapes: Shape) -> tuple[int, ...]:
    try:
        return np.broadcast_shapes(*(tuple(shape) for shape in shapes))
    except ValueError:
        listed = " and ".join(str(tuple(shape)) for shape in shapes)
        raise ModelError(f"shapes {listed} do not broadcast") from None


def each(formula: Callable[..., Node], tensors: Sequence[Tensor], dtype: str = "") -> Tensor:
    """formula(*nodes), element by element, with NumPy's broadcasting."""
    given, dims = broadcast(tensors)
    return made(given, dims, dtype or tensors[0].dtype, lambda _, nodes: formula(*nodes))


def broadcast(tensors: Sequence[Tensor]) -> tuple[list[Tensor], list[Dim]]:
    """The tensors over common dimensions, as NumPy broadcasts them."""
    whole = broadcast_shape(*(tensor.shape for tensor in tensors))
    rank = len(whole)
    given, dims = meet(tensors, [range(rank - tensor.rank, rank) for tensor in tensors])
    return given, [dims[d] for d in range(rank)]


def meet(
    tensors: Sequence[Tensor], labels: Sequence[Sequence[Hashable]]
) -> tuple[list[Tensor], dict[Hashable, Dim]]:
    """The tensors with the same atoms wherever their dimensions have the same label.

    Dimensions with different labels get different atoms. Those of size 1 fit every other.
    """
    given = operands(*tensors)
    dims: dict[Hashable, Dim] = {}
    for tensor, row in zip(given, labels, strict=True):
        for dim, label in zip(tensor.dims, row, strict=True):
            if extent(dim) == 1:
                continue
            if label not in dims:
                taken = {atom for other in dims.values() for atom in leaves(other)}
                dims[label] = twin(dim) if taken.intersection(leaves(dim)) else dim
                carry(atom for other in dims.values() for atom in other)
            elif extent(dim) != extent(dims[label]):
                raise ModelError(
                    f"shapes {' and '.join(str(t.shape) for t in tensors)} do not fit: "
                    f"{extent(dim)} meets {extent(dims[label])}"
                )
            elif fits(dim, dims[label]):
                for a, b in align(dim, dims[label]):
                    unify(a, b)
    for row in labels:
        for label in row:
            dims.setdefault(label, ())
    return [_conformed(t, row, dims) for t, row in zip(given, labels, strict=True)], dims


def _conformed(tensor: Tensor, row: Sequence[Hashable], dims: dict[Hashable, Dim]) -> Tensor:
    """The tensor under the names of the dimensions that its labels stand for."""
    wanted = [() if extent(d) == 1 else dims[k] for d, k in zip(tensor.dims, row, strict=True)]
    groups: list[Group] = [
        (old, Flat(((new, 1),)))
        for old, new in zip(tensor.dims, wanted, strict=True)
        if leaves(old) != leaves(new)
    ]
    return moved(tensor, wanted, groups) if groups else tensor


def contract(
    a: Tensor,
    left: Sequence[Hashable],
    b: Tensor,
    right: Sequence[Hashable],
    result: Sequence[Hashable],
) -> Tensor:
    """The sum of a * b over the labels that the result lacks; labels as in an einsum."""
    given, dims = meet([a, b], [left, right])
    lost = [label for label in dict.fromkeys([*left, *right]) if label not in result]
    atoms = [atom for label in lost for atom in dims[label]]

    def build(names: Names, nodes: Sequence[Node]) -> Node:
        return _contracted(nodes[0], nodes[1], names(atoms), names.sizes)

    return made(given, [dims[label] for label in result], a.dtype, build)


def _contracted(a: Node, b: Node, over: Sequence[Axis], sizes: Mapping[Axis, int]) -> Node:
    """A dot over the axes that both have; one that a value does not depend on is summed alone."""
    both = [axis for axis in over if axis in a.axes and axis in b.axes]
    neither = [axis for axis in over if axis not in (*a.axes, *b.axes)]
    a = _reduced("sum", a, [axis for axis in over if axis in a.axes and axis not in both], sizes)
    b = _reduced("sum", b, [axis for axis in over if axis in b.axes and axis not in both], sizes)
    product = language.dot(a, b, both) if both else a * b
    return _reduced("sum", product, neither, sizes)


def concat(tensors: Sequence[Tensor], dim: int) -> Tensor:
    """One after the other along a dimension: equal parts stacked, others chosen by position."""
    dim = tensors[0].dim(dim)
    kind, rank = tensors[0].dtype, tensors[0].rank
    if wrong := [t for t in tensors if t.rank != rank]:
        raise ModelError(f"cannot join {tensors[0].shape} and {wrong[0].shape}")
    parts = [t for t in tensors if t.shape[dim]] or list(tensors[:1])
    if len(parts) == 1:
        return parts[0]
    sizes = [part.shape[dim] for part in parts]
    if len(set(sizes)) == 1:
        given, dims = meet(parts, [range(rank)] * len(parts))
        new = dimension(len(parts))
        found = [dims[d] for d in range(rank)]
        found[dim] = (*new, *found[dim])
        return made(given, found, kind, lambda names, nodes: _stacked(names, nodes, names(new)))
    labels: list[list[Hashable]] = [
        [d if d != dim else ("part", k) for d in range(rank)] for k in range(len(parts))
    ]
    given, dims = meet(parts, labels)
    new = dimension(sum(sizes))
    found = [dims.get(d, ()) if d != dim else new for d in range(rank)]
    starts = [sum(sizes[:k]) for k in range(len(sizes))]
    placed = [_placed(x, dim, new, start, kind) for x, start in zip(given, starts, strict=True)]
    return made(placed, found, kind, lambda names, nodes: _selected(names, nodes, new, starts))


def _stacked(names: Names, nodes: Sequence[Node], axes: Sequence[Axis]) -> Node:
    """Nodes along axes of which the last one varies fastest: others may have cut the dimension."""
    outer, *inner = axes
    if inner:
        size = len(nodes) // names.sizes[outer]
        runs = [nodes[start : start + size] for start in range(0, len(nodes), size)]
        nodes = [_stacked(names, run, inner) for run in runs]
    return language.stack(nodes, outer)


def _placed(part: Tensor, dim: int, new: Dim, start: int, kind: str) -> Tensor:
    """A part of a longer dimension; what it is beyond its ends does not matter."""
    dims = [new if d == dim else old for d, old in enumerate(part.dims)]
    groups = [(part.dims[dim], Flat(((new, 1),), -start))] if part.dims[dim] else []
    return moved(part, dims, groups, _zero(kind))


def _selected(names: Names, nodes: Sequence[Node], dim: Dim, starts: Sequence[int]) -> Node:
    at = positions(names.flat(Flat(((dim, 1),))))
    result = nodes[-1]
    for node, start in zip(reversed(nodes[:-1]), reversed(starts[1:]), strict=True):
        result = language.where(at < start, node, result)
    return result


def _zero(dtype: str) -> Number:
    return False if dtype == "bool" else 0.0 if is_float(dtype) else 0


# ---------------------------------------------------------------- views


def moved(
    x: Tensor, dims: Sequence[Dim], groups: Sequence[Group], fill: Number | None = None
) -> Tensor:
    """x read at other positions: each group of old atoms at a position in new dimensions."""
    ties = [pair for pair in map(tied, groups) if pair]
    return made(
        (x,), dims, x.dtype, lambda names, nodes: _view(names, nodes[0], groups, fill), ties
    )


def _view(names: Names, node: Node, groups: Sequence[Group], fill: Number | None) -> Node:
    index: dict[Axis, Affine] = {}
    single = []
    for old, new in groups:
        flat = names.flat(new)
        axes = names(old)
        if fill is not None:
            node = spread(node, axes)
        if axes:
            pairs = [(axis, names.sizes[axis]) for axis in axes]
            index.update((a, i) for a, i in indices(flat, pairs, names.sizes) if a in node.axes)
        elif fill is not None:
            single.append(flat)
    users = [(axis, a) for a, i in index.items() for axis in i.axes]
    changed = {
        a: i
        for a, i in index.items()
        if i.plain != a or any(axis == a and user != a for axis, user in users)
    }
    if changed:
        node = language.view(node, changed, fill)
    for flat in single:
        node = language.where(language.equal(positions(flat), 0), node, language.lift(fill or 0))
    return node


def positions(flat: Affine) -> Node:
    """The value of an index."""
    terms = [
        language.position(axis) if stride == 1 else language.position(axis) * stride
        for axis, stride in flat.terms
    ]
    if flat.offset or not terms:
        terms.append(language.lift(flat.offset))
    return fold(lambda a, b: a + b, terms)


def spread(node: Node, axes: Iterable[Axis]) -> Node:
    """The same value, with all of these axes."""
    for axis in axes:
        if axis not in node.axes:
            node = language.where(language.position(axis) >= 0, node, node)
    return node


def _taken(dim: Dim, taken: range) -> tuple[Dim, Group]:
    """What a slice leaves of a dimension, and how to read it; whole atoms where it is even."""
    size, count, start, step = extent(dim), len(taken), taken.start, taken.step
    if count == 1:
        return (), (dim, Flat((), start))
    if step == 1 and size % count == 0 and start % count == 0:
        if sides := split_at(dim, size // count):
            return sides[1], (sides[0], Flat((), start // count))
    elif step > 1 and size == step * count and (sides := split_at(dim, count)):
        return sides[0], (sides[1], Flat((), start))
    new = dimension(count)
    return new, (dim, Flat(((new, step),), start))


def _regrouped(x: Tensor, shape: Shape) -> Tensor:
    """Runs of dimensions with equal products: atoms are regrouped, or read by division."""
    dims: list[Dim] = []
    groups: list[Group] = []
    for old, sizes in _runs(x.shape, shape):
        atoms = tuple(atom for d in old for atom in x.dims[d])
        new = [dimension(size) for size in sizes]
        merged = tuple(atom for dim in new for atom in dim)
        if fits(atoms, merged):
            for a, b in align(atoms, merged):
                b.parts = (a,)
        else:
            groups.append((atoms, Flat(_strides(new))))
        dims.extend(new)
    return moved(x, dims, groups) if groups else _same(x, dims)


def _strides(dims: Sequence[Dim]) -> tuple[tuple[Dim, int], ...]:
    return tuple((dim, prod(extent(d) for d in dims[k + 1 :])) for k, dim in enumerate(dims))


def _runs(old: Shape, new: Shape) -> list[tuple[list[int], list[int]]]:
    """The shortest runs of old dimensions and new sizes that hold as many elements."""
    runs: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        dims: list[int] = []
        sizes: list[int] = []
        left = right = 1
        while left != right or not (dims or sizes):
            if i < len(old) and (left < right or (left == right and not dims)):
                left *= old[i]
                dims.append(i)
                i += 1
            else:
                right *= new[j]
                sizes.append(new[j])
                j += 1
        runs.append((dims, sizes))
    return runs


# ---------------------------------------------------------------- nodes


def _without(dims: Sequence[Dim], gone: set[int], keep: bool) -> list[Dim]:
    if keep:
        return [() if d in gone else dim for d, dim in enumerate(dims)]
    return [dim for d, dim in enumerate(dims) if d not in gone]


def _reduced(function: str, node: Node, over: Sequence[Axis], sizes: Mapping[Axis, int]) -> Node:
    """A reduction; over an axis that the value lacks, a product, a power, or nothing."""
    have = [axis for axis in over if axis in node.axes]
    if function == "mean":
        return language.mean(node, have) if have else node
    result = language.Reduce(function, node, tuple(have)) if have else node
    for axis in over:
        if axis not in have and function == "sum":
            result = result * sizes[axis]
        if axis not in have and function == "product":
            result = result ** sizes[axis]
    return result


def _one_axis(names: Names, node: Node, dim: Dim) -> tuple[Node, Axis]:
    """The node with a dimension as one axis."""
    axes = names(dim)
    if len(axes) == 1:
        return node, axes[0]
    if not any(axis in node.axes for axis in axes):
        return node, ""
    axis = names.fresh(extent(dim))
    pairs = [(a, names.sizes[a]) for a in axes]
    index = dict(indices(Affine(((axis, 1),)), pairs, names.sizes))
    return language.view(node, {a: i for a, i in index.items() if a in node.axes}), axis


def _gathered(table: Tensor, index: Tensor, dim: Dim, dims: Sequence[Dim]) -> Tensor:
    def build(names: Names, nodes: Sequence[Node]) -> Node:
        node, axis = _one_axis(names, nodes[0], dim)
        at = nodes[1] if nodes[1].dtype != "i64" else language.cast(nodes[1], "i32")
        if axis not in node.axes:
            return node
        if isinstance(at, language.Constant):
            return language.view(node, {axis: int(at.value)})
        return language.gather(node, at, axis)

    return made((table, index), dims, table.dtype, build)


def from_start(index: Tensor, table: Tensor, dim: int) -> Tensor:
    """Indices that count from the start. One into a weight is a token, which is never negative."""
    if is_float(index.dtype) or index.dtype == "bool":
        raise ModelError(f"an index must be integers, not {index.dtype}")
    size = table.shape[dim]
    if index.data:
        values = index.data.load()
        for value in (values.min(initial=0), values.max(initial=0)):
            _inside(int(value), size, -size)
        return from_array(np.where(values < 0, values + size, values), index.data.name)
    if table.data:
        return index
    return index.map("less", 0).where(index + size, index)


def _inside(at: int, size: int, least: int = 0) -> None:
    if not least <= at < size:
        raise ModelError(f"index must be {-size} to {size - 1}, not {at}")
