"""The value of an expression at one position, or at a vector of positions along one axis."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeAlias

from infinisa.isa.dtypes import DTYPES, is_float
from infinisa.isa.errors import CompileError
from infinisa.isa.functions import FUNCTIONS as ROWS
from infinisa.isa.language import (
    Affine,
    Axis,
    Cast,
    Constant,
    Gather,
    Immediate,
    Input,
    Map,
    Node,
    Position,
    Size,
    Stack,
    View,
    arithmetic_type,
)

from ..code.functions import (
    FUNCTIONS,
    STORED,
    convert,
    exp_up_to_70,
    inverse,
    narrow,
    permutes,
    register,
    saturate,
    scaled,
    sigmoid_of_product,
    widen,
)
from ..code.ir import Function, Number, Value, constant, number
from ..code.processor import Target
from .identities import LEAST
from .quotients import at_most_one


class Index(NamedTuple):
    """A position from the start of its range: base + step * lane, or `lanes`, one a lane."""

    base: Number
    step: int = 0
    lanes: Value | None = None

    @property
    def uniform(self) -> bool:
        return not self.step and self.lanes is None


Env: TypeAlias = Mapping[Axis, Index]


class Border(NamedTuple):
    """Positions of an axis from `low`, below `high`, are inside a buffer."""

    axis: Axis
    low: Number
    high: Number


class WeightAxis(NamedTuple):
    """A dimension of a weight: its whole extent, elements from one position to the next, where a
    region of it starts, and what divides that (0: it starts at 0)."""

    name: Axis
    extent: int
    stride: int
    start: Number
    divisor: int


@dataclass(frozen=True, eq=False)
class Weight:
    """A region of a weight, which a session may keep in another order: the operand's number, where
    the whole weight lies in that order, its dimensions.

    windows  elements from tap to tap of windows that are kept transformed; such axes are none of
             its dimensions, `number` is one of the products of a patch instead
    """

    operand: int
    packed: Value
    axes: tuple[WeightAxis, ...]
    windows: tuple[int, ...] = ()
    number: Number = 0


@dataclass(frozen=True, eq=False)
class Place:
    """A tensor in memory: where it starts and how many elements one step of an axis is.

    With borders, positions outside of them read as `fill`. `weight`: it never changes. `past`: what
    is written there does not stay in a cache, and its vectors are whole lines of memory. `room`: an
    axis behind whose last position there is room, up to a whole panel.
    """

    pointer: Value
    dtype: str
    strides: Mapping[Axis, Number]
    borders: tuple[Border, ...] = ()
    fill: float = 0.0
    weight: Weight | None = None
    past: bool = False
    room: Axis | None = None


@dataclass
class Frame:
    """What the axes of an instruction are while it runs, and the most they can be.

    starts   of ranges
    limits   lengths of ranges: an index ends there
    lengths  of loops, which may take a part of a range, or several axes as one
    sizes    of whole axes
    bounds   on lengths
    firsts   where loops begin, if they take only a part
    """

    starts: dict[Axis, Number] = field(default_factory=dict)
    limits: dict[Axis, Number] = field(default_factory=dict)
    lengths: dict[Axis, Number] = field(default_factory=dict)
    sizes: dict[Axis, Number] = field(default_factory=dict)
    bounds: dict[Axis, int] = field(default_factory=dict)
    firsts: dict[Axis, Number] = field(default_factory=dict)

    def length(self, axis: Axis) -> Number:
        return _known(self.lengths, axis)

    def limit(self, axis: Axis) -> Number:
        return _known(self.limits, axis)


def _known(numbers: Mapping[Axis, Number], axis: Axis) -> Number:
    if axis not in numbers:
        raise CompileError(f"axis {axis!r} has no extent")
    return numbers[axis]


class Emitter:
    """Adds code to a function that computes expressions.

    places  where inputs and values computed before are
    known   nodes whose values are in registers while this part of the code runs
    mask    the lanes that exist, at the end of a row; None: all
    cut     axes whose lengths are known when code runs, but to be whole vectors
    true    conditions that hold wherever this part of the code runs
    plain   maxima that need not be NaN where a number is: see `plain_maxima`
    """

    def __init__(self, f: Function, target: Target, frame: Frame) -> None:
        self.f, self.target, self.frame = f, target, frame
        self.places: dict[Node, Place] = {}
        self.aliases: dict[Node, tuple[Node, dict[Axis, Index]]] = {}
        self.initials: dict[Node, tuple[Value, float]] = {}
        self.known: set[Node] = set()
        self.memo: dict[tuple[object, ...], Value] = {}
        self.mask: Value | None = None
        self.cut: frozenset[Axis] = frozenset()
        self.true: frozenset[Node] = frozenset()
        self.plain: frozenset[Node] = frozenset()
        self.width = 1

    # -- scopes

    @contextmanager
    def scope(self, keep: bool = False) -> Iterator[None]:
        """What is computed inside is forgotten, as it may not have run, unless told to keep it."""
        memo = dict(self.memo)
        yield
        if not keep:
            self.memo = memo

    @contextmanager
    def vector(self, width: int, mask: Value | None) -> Iterator[None]:
        before = self.width, self.mask
        self.width, self.mask = width, mask
        yield
        self.width, self.mask = before

    @contextmanager
    def guarded(self, mask: Value) -> Iterator[None]:
        """Only lanes of `mask` are read inside."""
        before = self.mask
        if mask.width > 1:
            self.mask = mask if before is None else self.f.binary("and", before, mask)
        yield
        self.mask = before

    # -- indices

    def lanes(self, index: Index) -> Value:
        """An index as one i64 a lane."""
        if index.lanes is not None:
            return index.lanes
        base = self.f.splat(number(index.base), self.width)
        if not index.step:
            return base
        return self.f.binary("add", base, self.f.lane_numbers("i64", self.width, index.step))

    def numbers(self, index: Index) -> Value:
        """An index as an i32: one a lane where they differ."""
        f = self.f
        if index.lanes is not None:
            return f.convert("trunc", index.lanes, "i32")
        first = f.convert("trunc", number(index.base), "i32")
        if index.uniform:
            return first
        return f.binary("add", first, f.lane_numbers("i32", self.width, index.step))

    def index(self, affine: Affine, env: Env) -> Index:
        """An absolute index at a position."""
        f = self.f
        base: Number = affine.offset
        step, lanes = 0, None
        for axis, stride in affine.terms:
            at = env[axis]
            start = self.frame.starts.get(axis, 0)
            base = f.add(base, f.multiply(f.add(start, at.base), stride))
            step += stride * at.step
            if at.lanes is not None:
                term = f.binary("mul", at.lanes, constant("i64", stride))
                lanes = term if lanes is None else f.binary("add", lanes, term)
        found = self.sum(Index(base, step), lanes)
        if affine.divide == 1 and not affine.modulo:
            return found
        return self.divided(found, affine)

    def sum(self, index: Index, lanes: Value | None) -> Index:
        if lanes is None:
            return index
        return Index(0, 0, self.f.binary("add", self.lanes(index), lanes))

    def divided(self, index: Index, affine: Affine) -> Index:
        if index.uniform and isinstance(index.base, int):
            low = index.base // affine.divide
            return Index(low % affine.modulo if affine.modulo else low)
        value = number(index.base) if index.uniform else self.lanes(index)
        if affine.divide != 1:
            value, _ = self.floor(value, affine.divide)
        if affine.modulo:
            _, value = self.floor(value, affine.modulo)
        return Index(value) if index.uniform else Index(0, 0, value)

    def floor(self, value: Value, by: int) -> tuple[Value, Value]:
        """(value // by, value % by), rounded down as in Python."""
        f, divisor = self.f, constant("i64", by)
        if by & (by - 1) == 0:
            shift = constant("i64", by.bit_length() - 1)
            return f.binary("ashr", value, shift), f.binary("and", value, constant("i64", by - 1))
        quotient, rest = f.binary("sdiv", value, divisor), f.binary("srem", value, divisor)
        below = f.compare("slt", rest, constant("i64", 0))
        rest = f.select(below, f.binary("add", rest, divisor), rest)
        return f.binary("add", quotient, f.convert("sext", below, "i64")), rest

    def shifted(self, index: Index, by: Number) -> Index:
        """An index minus a number."""
        if by == 0:
            return index
        if index.lanes is not None:
            return Index(0, 0, self.f.binary("sub", index.lanes, number(by)))
        return index._replace(base=self.f.subtract(index.base, by))

    def inside(self, index: Index, low: Number, high: Number) -> Value:
        """Whether low <= index < high, for all lanes or for each."""
        f = self.f
        at = number(index.base) if index.uniform else self.lanes(index)
        above = f.compare("sge", at, number(low))
        return f.binary("and", above, f.compare("slt", at, number(high)))

    def clipped(self, index: Index, low: Number, high: Number) -> Index:
        """The nearest position from `low` to below `high`, for what is read in any case."""
        f = self.f
        last = f.subtract(high, 1)
        if index.uniform:
            return Index(f.maximum(f.minimum(index.base, last), low))
        at = f.intrinsic("smin", [self.lanes(index), number(last)])
        return Index(0, 0, f.intrinsic("smax", [at, number(low)]))

    # -- memory

    def load(self, place: Place, env: Env) -> Value:
        """A tensor at a position, widened."""
        if not place.borders:
            return self._load(place, env)
        f, env = self.f, dict(env)
        within: list[Value] = []
        for axis, low, high in place.borders:
            index = env.get(axis, Index(0))
            within.append(self.inside(index, low, high))
            if index.uniform or index.lanes is not None:
                index = self.clipped(index, low, high)
            env[axis] = index
        inside = self.every(within)
        with self.guarded(inside):
            raw = self._load(place, env)
        fill = constant(raw.kind, fitting(place.fill, place.dtype))
        return f.select(inside, raw, fill)

    def every(self, conditions: Sequence[Value]) -> Value:
        found = conditions[0]
        for more in conditions[1:]:
            found = self.f.binary("and", found, more)
        return found

    def _load(self, place: Place, env: Env) -> Value:
        f, kind = self.f, STORED[place.dtype]
        base, step, lanes = self.offset(place, env)
        pointer = f.at(place.pointer, base, kind)
        if step == 0 and lanes is None:
            raw = f.load(pointer, kind)
        elif step == 1 and lanes is None:
            raw = f.load(pointer, kind, self.width, self.mask)
        elif step == 2 and lanes is None:
            raw = every_other(f, pointer, kind, self.width, self.mask)
        else:
            many = lanes or f.lane_numbers("i64", self.width, step)
            raw = f.gather(f.addresses(pointer, many, kind), kind, self.mask)
        return widen(f, raw, place.dtype)

    def offset(self, place: Place, env: Env) -> tuple[Number, int, Value | None]:
        """(first element, elements from lane to lane, or all elements by lane)."""
        f = self.f
        base: Number = 0
        step, lanes = 0, None
        for axis, stride in place.strides.items():
            index = env[axis]
            base = f.add(base, f.multiply(index.base, stride))
            if index.step and isinstance(stride, int):
                step += stride * index.step
            elif index.step or index.lanes is not None:
                by = self.lanes(index._replace(base=0))
                term = f.binary("mul", by, number(stride))
                lanes = term if lanes is None else f.binary("add", lanes, term)
        if lanes is not None and step:
            lanes = f.binary("add", lanes, f.lane_numbers("i64", self.width, step))
            step = 0
        return base, step, lanes

    def store(self, value: Value, place: Place, env: Env) -> None:
        """A register that holds a value of the place's type."""
        f, kind = self.f, STORED[place.dtype]
        raw = narrow(f, value, place.dtype)
        base, step, lanes = self.offset(place, env)
        pointer = f.at(place.pointer, base, kind)
        if step == 0 and lanes is None:
            f.store(f.extract(raw, 0), pointer)
        elif step == 1 and lanes is None:
            past = place.past and self.mask is None and self.width == self.target.lanes
            f.store(f.splat(raw, self.width), pointer, self.mask, past)
        else:
            many = lanes or f.lane_numbers("i64", self.width, step)
            f.scatter(f.splat(raw, self.width), f.addresses(pointer, many, kind), self.mask)

    # -- values

    def value(self, node: Node, env: Env) -> Value:
        """The value of a node at a position: one number if it is the same in all lanes."""
        key = self.key(node, env)
        if key not in self.memo:
            self.memo[key] = self._value(node, env)
        return self.memo[key]

    def key(self, node: Node, env: Env) -> tuple[object, ...]:
        """What tells a value from others that are known."""
        at = tuple(env.get(axis) for axis in node.axes)
        varies = self.mask is not None and any(i is not None and not i.uniform for i in at)
        return node, at, self.mask.text if self.mask and varies else ""

    def _value(self, node: Node, env: Env) -> Value:
        if node in self.true:
            return constant("i1", True)
        if node in self.places:
            found = self.load(self.places[node], env)
            if node in self.initials:
                anew, first = self.initials[node]
                return self.f.select(anew, constant(found.kind, first), found)
            return found
        if node in self.aliases:
            other, more = self.aliases[node]
            return convert(self.f, self.value(other, {**env, **more}), register(node.dtype))
        match node:
            case Constant(value):
                return constant(register(node.dtype), value)
            case Immediate(_, default):
                return constant(register(node.dtype), default)
            case Size(axis):
                size = self.frame.sizes.get(axis)
                if size is None:
                    raise CompileError(f"axis {axis!r} has no extent")
                return self.f.convert("trunc", number(size), "i32")
            case Position(axis):
                return self._position(axis, env)
            case Map():
                return self._map(node, env)
            case Cast(x, target):
                made = saturate(self.f, self.value(x, env), x.dtype, target)
                return self.f.intrinsic("arithmetic.fence", [made]) if rounds(node) else made
            case View():
                return self._view(node, env)
            case Gather(table, index, axis):
                return self._gather(table, index, axis, env)
            case Stack(xs, axis):
                return self._stack(node, xs, axis, env)
            case Input(name):
                raise CompileError(f"operand {name!r} has no place in memory")
        raise CompileError(f"{type(node).__name__} cannot be computed at a single position")

    def _position(self, axis: Axis, env: Env) -> Value:
        f, index, start = self.f, env[axis], self.frame.starts.get(axis, 0)
        if index.lanes is None:
            return self.numbers(Index(f.add(start, index.base), index.step))
        return self.numbers(self.shifted(index, f.subtract(0, start)) if start != 0 else index)

    def _map(self, node: Map, env: Env) -> Value:
        row = ROWS[node.function]
        kind = register(arithmetic_type(node.arguments) if row.result == "bool" else node.dtype)
        if node.function == "sigmoid" and (product := self.product(node.arguments[0])):
            x = self.value(product[1], env)
            if permutes(self.f, x):
                return sigmoid_of_product(self.f, x, product[0])
        values = [self.value(argument, env) for argument in node.arguments]
        if node.function == "divide" and kind == "float" and self.divides_all(node, env):
            given = (convert(self.f, values[0], kind), *self.reciprocal(node.arguments[1], env))
            return scaled(self.f, *given)
        first = 1 if row.result == "branches" else 0
        values[first:] = [convert(self.f, value, kind) for value in values[first:]]
        if at_most_one(node):
            return exp_up_to_70(self.f, *values)
        return FUNCTIONS[node.function](self.f, *values)

    def product(self, node: Node) -> tuple[float, Node] | None:
        """(a number, what it is multiplied by) of a product in f32 that is computed where it is
        used."""
        if node.dtype != "f32" or node in self.places or node in self.aliases:
            return None
        match node:
            case Map("multiply", (Constant(c), x) | (x, Constant(c))) if x.dtype == "f32":
                return (float(c), x) if LEAST < abs(c) < 1 / LEAST else None
        return None

    # -- division by one number

    def divides_all(self, node: Map, env: Env) -> bool:
        """Whether many lanes, or turns of a loop, are divided by the same number."""
        top, bottom = node.arguments
        many = any(not env[axis].uniform for axis in top.axes)
        return many and self.width > 1 and all(env[axis].uniform for axis in bottom.axes)

    def reciprocal(self, node: Node, env: Env) -> tuple[Value, Value]:
        """Two factors for a division by a value, in all lanes: see `inverse`."""
        at = tuple(env.get(axis) for axis in node.axes)
        keys = [("power", node, at), ("inverse", node, at)]
        if keys[0] not in self.memo:
            value = self.f.extract(convert(self.f, self.value(node, env), "float"), 0)
            for key, factor in zip(keys, inverse(self.f, value), strict=True):
                self.memo[key] = self.f.splat(factor, self.target.lanes)
        return self.memo[keys[0]], self.memo[keys[1]]

    def _view(self, node: View, env: Env) -> Value:
        f, given = self.f, dict(node.index)
        inner: dict[Axis, Index] = {}
        within: list[Value] = []
        for axis in node.x.axes:
            if axis not in given:
                inner[axis] = env[axis]
                continue
            index = self.shifted(self.index(given[axis], env), self.frame.starts.get(axis, 0))
            if node.fill is not None:
                limit = self.frame.limit(axis)
                within.append(self.inside(index, 0, limit))
                if index.uniform or index.lanes is not None:
                    index = self.clipped(index, 0, limit)
            inner[axis] = index
        if not within:
            return self.value(node.x, inner)
        inside = self.every(within)
        with self.guarded(inside):
            found = self.value(node.x, inner)
        fill = constant(found.kind, fitting(node.fill or 0, node.dtype))
        return f.select(inside, found, fill)

    def _gather(self, table: Node, index: Node, axis: Axis, env: Env) -> Value:
        at = self.value(index, env)
        if at.kind != "i64":
            at = self.f.convert("zext" if at.kind == "i1" else "sext", at, "i64")
        found = Index(at) if at.width == 1 else Index(0, 0, at)
        clipped = self.clipped(found, 0, self.frame.limit(axis))
        return self.value(table, {**env, axis: clipped})

    def _stack(self, node: Node, xs: tuple[Node, ...], axis: Axis, env: Env) -> Value:
        f, kind = self.f, register(node.dtype)
        index = env[axis]
        if index.uniform and isinstance(index.base, int):
            return convert(f, self.value(xs[index.base], env), kind)
        at = number(index.base) if index.uniform else self.lanes(index)
        values = [convert(f, self.value(x, env), kind) for x in xs]
        found = values[-1]
        for place, value in reversed(list(enumerate(values[:-1]))):
            found = f.select(f.compare("eq", at, constant("i64", place)), value, found)
        return found

    # -- what can be computed before a loop

    def prepare(self, node: Node, env: Env, seen: set[object] | None = None) -> None:
        """Compute what the known axes determine, so that inner loops find it."""
        seen = set() if seen is None else seen
        key = (node, tuple(env.get(axis) for axis in node.axes))
        if key in seen or node in self.known or isinstance(node, Constant | Immediate):
            return
        seen.add(key)
        if node not in self.places and node not in self.aliases and not self._computed(node):
            return
        if all(axis in env for axis in node.axes):
            self.value(node, env)
            return
        if node in self.places:
            return
        if node in self.aliases:
            other, more = self.aliases[node]
            self.prepare(other, {**env, **more}, seen)
            return
        match node:
            case View(x, pairs, None):
                given = dict(pairs)
                inner = {axis: env[axis] for axis in x.axes if axis in env and axis not in given}
                for axis, affine in pairs:
                    if all(a in env for a in affine.axes):
                        at = self.index(affine, env)
                        inner[axis] = self.shifted(at, self.frame.starts.get(axis, 0))
                self.prepare(x, inner, seen)
            case Gather(_, index, _):
                self.prepare(index, env, seen)
            case Map() | Cast():
                for child in node.children:
                    self.prepare(child, env, seen)
                if self.inverted(node, env):
                    self.reciprocal(node.children[1], env)

    def inverted(self, node: Node, env: Env) -> bool:
        """Whether loops to come divide by a number that is known before them."""
        if not isinstance(node, Map) or node.function != "divide" or self.target.lanes == 1:
            return False
        known = all(axis in env and env[axis].uniform for axis in node.arguments[1].axes)
        return known and register(arithmetic_type(node.arguments)) == "float"

    def _computed(self, node: Node) -> bool:
        return isinstance(node, Map | Cast | View | Gather | Stack | Position | Size)


def rounds(node: Cast) -> bool:
    """Whether a cast is to the float type that its operand has: what is computed so far is rounded
    by itself."""
    return node.type == node.x.dtype and is_float(node.type)


def every_other(f: Function, pointer: Value, kind: str, width: int, mask: Value | None) -> Value:
    """Elements two apart: of two vectors, of which the second ends with the last of them. Nothing
    is read behind the last lane of a mask."""
    masks: list[Value | None] = [None, None]
    if mask is not None:
        first = [(lane + 1) // 2 for lane in range(width)]
        second = [(lane + width) // 2 for lane in range(width)]
        masks = [f.shuffle(mask, mask, lanes) for lanes in (first, second)]
    near = f.load(pointer, kind, width, masks[0])
    far = f.load(f.at(pointer, width - 1, kind), kind, width, masks[1])
    return f.shuffle(near, far, [*range(0, width, 2), *range(width + 1, 2 * width, 2)])


def fitting(fill: float | int | bool, dtype: str) -> float | int | bool:
    """A fill as a number of this type."""
    if is_float(dtype):
        return float(DTYPES[dtype].numpy.type(fill))
    return bool(fill) if dtype == "bool" else int(fill)


def rooted(place: Place, f: Function, offset: Number) -> Place:
    """The same tensor from another element on."""
    if offset == 0:
        return place
    pointer = f.at(place.pointer, offset, STORED[place.dtype])
    return replace(place, pointer=pointer, weight=None)
