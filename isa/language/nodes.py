"""All kinds of values, how to walk through them, and how they print."""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeAlias

import numpy as np

from ..dtypes import dtype as element_type
from ..dtypes import is_float, promote
from ..errors import LanguageError
from ..functions import FOLDS, FUNCTIONS
from .affine import Affine, Axis, union

Value: TypeAlias = "Node | float | int | bool"


class _Interned(type):
    """Equal nodes are one object, so a shared subexpression is computed and compared once."""

    nodes: ClassVar[dict[tuple[object, ...], Any]] = {}
    numbers: bool  # whether a field may be a number that equals another of another type
    __match_args__: tuple[str, ...]  # the names of a dataclass's fields

    def __call__(cls, *arguments: object, **keywords: object) -> Any:
        key = (cls, *(map(_key, arguments) if cls.numbers else arguments))
        try:
            known = None if keywords else _Interned.nodes.get(key)
        except TypeError:  # an argument that it keeps in another form, such as a list
            known = None
        return cls._made(arguments, keywords) if known is None else known

    def _made(cls, arguments: tuple[object, ...], keywords: Mapping[str, object]) -> Any:
        made = super().__call__(*arguments, **keywords)
        fields = [getattr(made, name) for name in cls.__match_args__]
        key = (cls, *(map(_key, fields) if cls.numbers else fields))
        return _Interned.nodes.setdefault(key, made)


_NUMBERS = (float, int)


def _key(value: object) -> object:
    if isinstance(value, _NUMBERS):
        return type(value), repr(value)  # 0.0, -0.0, 0 and False differ; nan equals itself
    return value


@dataclass(frozen=True, eq=False, repr=False)
class Node(metaclass=_Interned):
    """A value over named axes. `axes` is their order in memory, `dtype` the element type."""

    axes: ClassVar[tuple[Axis, ...]]
    dtype: ClassVar[str]
    numbers: ClassVar[bool] = False
    __array_ufunc__ = None  # NumPy leaves operators to this class, and its functions refuse it

    def _set(self, axes: Iterable[Axis], dtype: str) -> None:
        object.__setattr__(self, "axes", tuple(axes))
        object.__setattr__(self, "dtype", dtype)

    @property
    def children(self) -> tuple[Node, ...]:
        return ()

    def rebuild(self, children: Sequence[Node]) -> Node:
        """The same kind of node over other children."""
        return self

    def __repr__(self) -> str:
        return show(self)  # a shared node once: what a dataclass prints doubles with each level

    def __bool__(self) -> bool:
        raise LanguageError("a tensor has no truth value: use where(condition, a, b)")

    def __add__(self, other: Value) -> Node:
        return apply("add", self, other)

    def __radd__(self, other: Value) -> Node:
        return apply("add", other, self)

    def __sub__(self, other: Value) -> Node:
        return apply("subtract", self, other)

    def __rsub__(self, other: Value) -> Node:
        return apply("subtract", other, self)

    def __mul__(self, other: Value) -> Node:
        return apply("multiply", self, other)

    def __rmul__(self, other: Value) -> Node:
        return apply("multiply", other, self)

    def __truediv__(self, other: Value) -> Node:
        return apply("divide", self, other)

    def __rtruediv__(self, other: Value) -> Node:
        return apply("divide", other, self)

    def __floordiv__(self, other: Value) -> Node:
        return apply("floor_divide", self, other)

    def __mod__(self, other: Value) -> Node:
        return apply("modulo", self, other)

    def __rfloordiv__(self, other: Value) -> Node:
        return apply("floor_divide", other, self)

    def __rmod__(self, other: Value) -> Node:
        return apply("modulo", other, self)

    def __pow__(self, other: Value) -> Node:
        return apply("power", self, other)

    def __rpow__(self, other: Value) -> Node:
        return apply("power", other, self)

    def __neg__(self) -> Node:
        return apply("negate", self)

    def __abs__(self) -> Node:
        return apply("absolute", self)

    def __lt__(self, other: Value) -> Node:
        return apply("less", self, other)

    def __le__(self, other: Value) -> Node:
        return apply("less_equal", self, other)

    def __gt__(self, other: Value) -> Node:
        return apply("greater", self, other)

    def __ge__(self, other: Value) -> Node:
        return apply("greater_equal", self, other)

    def __matmul__(self, other: object) -> Node:
        raise LanguageError("axes have names here: a @ b is dot(a, b, over)")

    def __and__(self, other: Value) -> Node:
        return _logical("logical_and", self, other)

    def __or__(self, other: Value) -> Node:
        return _logical("logical_or", self, other)

    def __invert__(self) -> Node:
        return _logical("logical_not", self)


@dataclass(frozen=True, eq=False, repr=False)
class Input(Node):
    """A tensor from outside: a model's input or weight, an instruction's operand."""

    name: str
    over: tuple[Axis, ...]
    type: str = "f32"

    def __post_init__(self) -> None:
        element_type(self.type)
        if len(set(self.over)) != len(self.over):
            raise LanguageError(f"input {self.name!r}: axes must differ, not {' '.join(self.over)}")
        self._set(self.over, self.type)


@dataclass(frozen=True, eq=False, repr=False)
class Constant(Node):
    """A number. It has no axes and takes the type of what it meets, if it can hold it."""

    value: float | int | bool
    numbers: ClassVar[bool] = True

    def __post_init__(self) -> None:
        kinds = {bool: "bool", int: "i32", float: "f32"}
        self._set((), kinds[type(self.value)])


@dataclass(frozen=True, eq=False, repr=False)
class Immediate(Node):
    """A number that an instruction carries in its encoding."""

    name: str
    default: float | int
    numbers: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self._set((), "i32" if isinstance(self.default, int) else "f32")


@dataclass(frozen=True, eq=False, repr=False)
class Size(Node):
    """The whole extent of an axis, i32."""

    axis: Axis

    def __post_init__(self) -> None:
        self._set((), "i32")


@dataclass(frozen=True, eq=False, repr=False)
class Position(Node):
    """The index along an axis, i32; it counts from where the axis starts."""

    axis: Axis

    def __post_init__(self) -> None:
        self._set((self.axis,), "i32")


@dataclass(frozen=True, eq=False, repr=False)
class Map(Node):
    """A scalar function over the union of the axes of its arguments."""

    function: str
    arguments: tuple[Node, ...]

    def __post_init__(self) -> None:
        function = FUNCTIONS.get(self.function)
        if function is None:
            known = ", ".join(FUNCTIONS)
            raise LanguageError(f"scalar function must be one of {known}, not {self.function!r}")
        if len(self.arguments) != function.arity:
            raise LanguageError(
                f"{self.function}: takes {function.arity} arguments, not {len(self.arguments)}"
            )
        typed = self.arguments[1:] if function.result == "branches" else self.arguments
        result = "bool" if function.result == "bool" else arithmetic_type(typed)
        if function.numbers and result == "bool":
            raise LanguageError(f"{self.function}: takes numbers, not truth values: cast them")
        if function.result == "float" and not is_float(result):
            result = "f32"
        self._set(union(argument.axes for argument in self.arguments), result)

    @property
    def children(self) -> tuple[Node, ...]:
        return self.arguments

    def rebuild(self, children: Sequence[Node]) -> Node:
        return Map(self.function, tuple(children))


@dataclass(frozen=True, eq=False, repr=False)
class Reduce(Node):
    """A fold over axes: sum, max, min, product, or argmax (one axis; i32; the first of equals)."""

    function: str
    x: Node
    over: tuple[Axis, ...]

    def __post_init__(self) -> None:
        if self.function not in FOLDS:
            known = ", ".join(FOLDS)
            raise LanguageError(f"reduction must be one of {known}, not {self.function!r}")
        if missing := [axis for axis in self.over if axis not in self.x.axes]:
            raise LanguageError(f"{self.function}: no axis {missing[0]!r} in ({_names(self.x)})")
        if self.function == "argmax" and len(self.over) != 1:
            raise LanguageError(f"argmax: takes one axis, not ({' '.join(self.over)})")
        kept = [axis for axis in self.x.axes if axis not in self.over]
        self._set(kept, "i32" if self.function == "argmax" else promote([self.x.dtype]))

    @property
    def children(self) -> tuple[Node, ...]:
        return (self.x,)

    def rebuild(self, children: Sequence[Node]) -> Node:
        return Reduce(self.function, children[0], self.over)


@dataclass(frozen=True, eq=False, repr=False)
class Dot(Node):
    """A contraction: the sum of a * b over axes that both have."""

    a: Node
    b: Node
    over: tuple[Axis, ...]

    def __post_init__(self) -> None:
        for side in (self.a, self.b):
            if missing := [axis for axis in self.over if axis not in side.axes]:
                raise LanguageError(f"dot: no axis {missing[0]!r} in ({_names(side)})")
        kept = [axis for axis in union([self.a.axes, self.b.axes]) if axis not in self.over]
        self._set(kept, promote([self.a.dtype, self.b.dtype]))

    @property
    def children(self) -> tuple[Node, ...]:
        return (self.a, self.b)

    def rebuild(self, children: Sequence[Node]) -> Node:
        return Dot(children[0], children[1], self.over)


@dataclass(frozen=True, eq=False, repr=False)
class View(Node):
    """x read at other indices: rename, split, merge, slice, stride, pad, reverse, window.

    `index` gives, for some axes of x, their index as a function of the new axes. Outside x the
    value is `fill`; without a fill an index outside is the caller's error.
    """

    x: Node
    index: tuple[tuple[Axis, Affine], ...]
    fill: float | int | bool | None = None
    numbers: ClassVar[bool] = True

    def __post_init__(self) -> None:
        given = dict(self.index)
        if missing := [axis for axis in given if axis not in self.x.axes]:
            raise LanguageError(f"view: no axis {missing[0]!r} in ({_names(self.x)})")
        kept = {axis for axis in self.x.axes if axis not in given}
        if clash := [axis for index in given.values() for axis in index.axes if axis in kept]:
            raise LanguageError(f"view: axis {clash[0]!r} is in ({_names(self.x)}) already")
        self._set(
            union(given[axis].axes if axis in given else (axis,) for axis in self.x.axes),
            self.x.dtype,
        )

    @property
    def children(self) -> tuple[Node, ...]:
        return (self.x,)

    def rebuild(self, children: Sequence[Node]) -> Node:
        return View(children[0], self.index, self.fill)


@dataclass(frozen=True, eq=False, repr=False)
class Gather(Node):
    """table read along `axis` at an integer `index`; an index outside is clipped to the ends.

    Axes that both have are walked together.
    """

    table: Node
    index: Node
    axis: Axis

    def __post_init__(self) -> None:
        if self.axis not in self.table.axes:
            raise LanguageError(f"gather: no axis {self.axis!r} in ({_names(self.table)})")
        if is_float(self.index.dtype) or self.axis in self.index.axes:
            raise LanguageError(f"gather: the index must be integers without axis {self.axis!r}")
        kept = [axis for axis in self.table.axes if axis != self.axis]
        self._set(union([self.index.axes, kept]), self.table.dtype)

    @property
    def children(self) -> tuple[Node, ...]:
        return (self.table, self.index)

    def rebuild(self, children: Sequence[Node]) -> Node:
        return Gather(children[0], children[1], self.axis)


@dataclass(frozen=True, eq=False, repr=False)
class Update(Node):
    """x with `value` written where the axes of x have the index that `at` gives them."""

    x: Node
    value: Node
    at: tuple[tuple[Axis, Affine], ...]

    def __post_init__(self) -> None:
        given = dict(self.at)
        wanted = set(union(given[a].axes if a in given else (a,) for a in self.x.axes))
        if wanted != set(self.value.axes) or not set(given) <= set(self.x.axes):
            raise LanguageError(
                f"update: the value must have axes ({' '.join(sorted(wanted))}), "
                f"not ({_names(self.value)})"
            )
        self._set(self.x.axes, self.x.dtype)

    @property
    def children(self) -> tuple[Node, ...]:
        return (self.x, self.value)

    def rebuild(self, children: Sequence[Node]) -> Node:
        return Update(children[0], children[1], self.at)


@dataclass(frozen=True, eq=False, repr=False)
class Stack(Node):
    """Values side by side along a new axis, which comes first."""

    xs: tuple[Node, ...]
    axis: Axis

    def __post_init__(self) -> None:
        axes = union(x.axes for x in self.xs)
        if not self.xs or self.axis in axes:
            raise LanguageError(f"stack: axis {self.axis!r} must be new, not one of {axes}")
        self._set((self.axis, *axes), arithmetic_type(self.xs, widen=False))

    @property
    def children(self) -> tuple[Node, ...]:
        return self.xs

    def rebuild(self, children: Sequence[Node]) -> Node:
        return Stack(tuple(children), self.axis)


@dataclass(frozen=True, eq=False, repr=False)
class Cast(Node):
    """x rounded (to nearest even) or saturated (integers) to another type."""

    x: Node
    type: str

    def __post_init__(self) -> None:
        element_type(self.type)
        self._set(self.x.axes, self.type)

    @property
    def children(self) -> tuple[Node, ...]:
        return (self.x,)

    def rebuild(self, children: Sequence[Node]) -> Node:
        return Cast(children[0], self.type)


@dataclass(frozen=True)
class Recurrence:
    """The body of a scan: from states and this step's slices to next states and emitted values.

    The body's leaves are `states` and `slices` (inputs without the scanned axis) and values that
    do not change from step to step.
    """

    axis: Axis
    states: tuple[Input, ...]
    slices: tuple[Input, ...]
    next: tuple[Node, ...]
    emits: tuple[Node, ...]
    reverse: bool = False


@dataclass(frozen=True, eq=False, repr=False)
class Scan(Node):
    """One result of a recurrence: final state `output`, or, after the states, an emitted value
    collected along the scanned axis, which comes first."""

    body: Recurrence
    initial: tuple[Node, ...]
    xs: tuple[Node, ...]
    output: int

    def __post_init__(self) -> None:
        body = self.body
        for given, placeholder in zip(self.xs, body.slices, strict=True):
            if set(given.axes) != {*placeholder.axes, body.axis}:
                raise LanguageError(
                    f"scan: {placeholder.name!r} must have axes "
                    f"({' '.join((body.axis, *placeholder.axes))}), not ({_names(given)})"
                )
        for state, after in zip(body.states, body.next, strict=True):
            if not set(after.axes) <= set(state.axes):
                raise LanguageError(
                    f"scan: state {state.name!r} must keep axes ({_names(state)}), "
                    f"not become ({_names(after)})"
                )
            if is_float(after.dtype) and not is_float(state.dtype):
                raise LanguageError(
                    f"scan: state {state.name!r} starts as {state.dtype}, so it cannot become "
                    f"{after.dtype}"
                )
        for state, start in zip(body.states, self.initial, strict=True):
            if not set(start.axes) <= set(state.axes):
                raise LanguageError(
                    f"scan: state {state.name!r} has axes ({_names(state)}), but starts with "
                    f"({_names(start)})"
                )
        count = len(body.states)
        if self.output < count:
            state = body.states[self.output]
            self._set(state.axes, state.dtype)
        else:
            emitted = body.emits[self.output - count]
            self._set((body.axis, *emitted.axes), emitted.dtype)

    @property
    def children(self) -> tuple[Node, ...]:
        return (*self.initial, *self.xs, *free(self.body))

    def rebuild(self, children: Sequence[Node]) -> Node:
        first, count = len(self.initial), len(self.initial) + len(self.xs)
        known: dict[Node, Node] = dict(zip(free(self.body), children[count:], strict=True))
        body = body_over(self.body, children[:first], children[first:count], known)
        return Scan(body, tuple(children[:first]), tuple(children[first:count]), self.output)


@dataclass(frozen=True, eq=False, repr=False)
class Opaque(Node):
    """What the language cannot say: result `output` of an operator known only by its name.

    `sets` names the program parameters that the operator returns, such as a token count; `orders`
    are the axes of the arguments as the operator sees them, whatever becomes of the arguments.
    """

    operator: str
    arguments: tuple[Node, ...]
    over: tuple[Axis, ...]
    type: str
    output: int = 0
    sets: tuple[str, ...] = ()
    orders: tuple[tuple[Axis, ...], ...] = ()

    def __post_init__(self) -> None:
        if not self.orders:
            object.__setattr__(self, "orders", tuple(x.axes for x in self.arguments))
        self._set(self.over, self.type)

    @property
    def children(self) -> tuple[Node, ...]:
        return self.arguments

    def rebuild(self, children: Sequence[Node]) -> Node:
        return replace(self, arguments=tuple(children))


def body_over(
    body: Recurrence, initial: Sequence[Node], xs: Sequence[Node], known: Mapping[Node, Node]
) -> Recurrence:
    """A body whose slices have the axes that is scanned, and its states those that their values
    get: what is over more axes is walked together, as everywhere.

    known  what its leaves from outside become
    """
    slices = tuple(
        leaf
        if {*x.axes} == {*leaf.axes, body.axis}
        else Input(leaf.name, tuple(a for a in x.axes if a != body.axis), leaf.type)
        for leaf, x in zip(body.slices, xs, strict=True)
    )
    cut, states = len(body.states), _with_axes(body.states, initial)
    while True:
        own: dict[Node, Node] = dict(
            zip((*body.states, *body.slices), (*states, *slices), strict=True)
        )
        results = substitute((*body.next, *body.emits), {**known, **own})
        if states == (grown := _with_axes(states, results[:cut])):
            break
        states = grown
    return Recurrence(body.axis, states, slices, results[:cut], results[cut:], body.reverse)


def _with_axes(leaves: Iterable[Input], values: Iterable[Node]) -> tuple[Input, ...]:
    """Each leaf, also over the axes that its value has besides."""
    return tuple(
        leaf
        if {*value.axes} <= {*leaf.axes}
        else Input(leaf.name, union([value.axes, leaf.axes]), leaf.type)
        for leaf, value in zip(leaves, values, strict=True)
    )


def arithmetic_type(nodes: Iterable[Node], widen: bool = True) -> str:
    """The type that arithmetic on these yields; a number bends to the tensors it meets."""
    nodes = list(nodes)
    tensors = [node.dtype for node in nodes if not isinstance(node, Constant | Immediate)]
    numbers = [node.dtype for node in nodes if isinstance(node, Constant | Immediate)]
    if not widen and len(set(tensors)) == 1 and not numbers:
        return tensors[0]
    if tensors and is_float(kind := promote(tensors)):
        return kind
    return promote([*tensors, *numbers])


def lift(value: Value) -> Node:
    """A node as it is; a number, of Python or NumPy, as a constant."""
    if isinstance(value, Node):
        return value
    number = value.item() if isinstance(value, np.generic) else value
    if type(number) not in (bool, int, float):
        raise LanguageError(
            f"must be a tensor or a number, not {builtins.type(value).__name__}: what is no "
            "single number is an operand"
        )
    return Constant(number)


def apply(function: str, *arguments: Value) -> Node:
    """A scalar function by its name."""
    return Map(function, tuple(lift(argument) for argument in arguments))


def _logical(function: str, *arguments: Value) -> Node:
    """What `&`, `|` and `~` are; Python's `and`, `or` and `not` ask for one truth value."""
    nodes = [lift(argument) for argument in arguments]
    if other := [node.dtype for node in nodes if node.dtype != "bool"]:
        raise LanguageError(f"{function}: takes truth values, not {other[0]}: compare them first")
    return apply(function, *nodes)


def _names(node: Node) -> str:
    return " ".join(node.axes)


def walk(roots: Iterable[Node], known: Iterable[Node] = ()) -> Iterator[Node]:
    """Every node once, arguments before their users; none of those that are known, nor what only
    they are computed from."""
    opened: set[Node] = set()
    done: set[Node] = set(known)
    waiting = [*roots]
    waiting.reverse()
    while waiting:
        node = waiting.pop()
        if node in done:
            continue
        if node not in opened and (children := node.children):
            opened.add(node)
            waiting.append(node)
            waiting += children[::-1]
        else:
            done.add(node)
            yield node


def free(body: Recurrence) -> tuple[Input | Immediate, ...]:
    """Leaves of a scan's body that come from outside it."""
    own = {*body.states, *body.slices}
    leaves = (n for n in walk((*body.next, *body.emits)) if isinstance(n, Input | Immediate))
    return tuple(leaf for leaf in leaves if leaf not in own)


def substitute(roots: Iterable[Node], known: Mapping[Node, Node]) -> tuple[Node, ...]:
    """The same values with some nodes replaced."""
    roots = tuple(roots)
    made: dict[Node, Node] = dict(known)
    for node in walk(roots):
        if node not in made:
            made[node] = rebuilt(node, made)
    return tuple(made[root] for root in roots)


def rebuilt(node: Node, made: Mapping[Node, Node]) -> Node:
    """A node over what its children became."""
    children = tuple([made[child] for child in node.children])
    return node if children == node.children else node.rebuild(children)


def show(root: Node) -> str:
    """An expression on one line; what is used twice is named first."""
    uses: dict[Node, int] = {}
    for node in walk([root]):
        for child in node.children:
            uses[child] = uses.get(child, 0) + 1
    names: dict[Node, str] = {}
    lines: list[str] = []
    for node in walk([root]):
        shared = uses.get(node, 0) > 1 and node.children
        text = _show(node, names)
        names[node] = f"v{len(lines)}" if shared else text
        if shared:
            lines.append(f"v{len(lines)} = {text}")
    return "; ".join([*lines, names[root]])


def _show(node: Node, names: Mapping[Node, str]) -> str:
    given = ", ".join(names[child] for child in node.children)
    match node:
        case Input(name, over, type):
            return f"{name}[{' '.join(over)}{'' if type == 'f32' else ': ' + type}]"
        case Constant(value):
            return repr(value)
        case Immediate(name, default):
            return f"#{name}={default!r}"
        case Size(axis):
            return f"size({axis})"
        case Position(axis):
            return f"position({axis})"
        case Map(function, _):
            return f"{function}({given})"
        case Reduce(function, _, over):
            return f"{function}({given}, over={' '.join(over)})"
        case Dot(_, _, over):
            return f"dot({given}, over={' '.join(over)})"
        case View(_, index, fill):
            pairs = ", ".join(f"{axis}={i}" for axis, i in index)
            return f"view({given}, {pairs}{'' if fill is None else f', fill={fill!r}'})"
        case Gather(_, _, axis):
            return f"gather({given}, {axis})"
        case Update(_, _, at):
            return f"update({given}, {', '.join(f'{axis}={i}' for axis, i in at)})"
        case Stack(_, axis):
            return f"stack({given}, {axis})"
        case Cast(_, type):
            return f"cast({given}, {type})"
        case Scan(body, _, _, output):
            results = ", ".join(show(result) for result in (*body.next, *body.emits))
            order = "reverse " if body.reverse else ""
            return f"scan({order}{body.axis}, ({given}), ({results}), {output})"
        case Opaque(operator, _, over, type, output):
            return f"{operator}.{output}({given})[{' '.join(over)}: {type}]"
    raise AssertionError(builtins.type(node))
