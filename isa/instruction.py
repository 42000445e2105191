"""Instructions: a tensor function written once, and what follows from its trace."""

from __future__ import annotations

import ast
import hashlib
import inspect
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, Literal, TypeAlias

from .dtypes import dtype, held
from .errors import LanguageError
from .functions import FOLDS, FUNCTIONS, Fold
from .language import (
    Affine,
    Axis,
    Dot,
    Gather,
    Immediate,
    Input,
    Map,
    Node,
    Position,
    Reduce,
    Scan,
    Stack,
    Update,
    View,
    everything,
    show,
    substitute,
    union,
    walk,
)
from .laws import Associative, Law, LinearIn, StepOf
from .machine import Unit
from .systolic import product_cycles
from .timing import Number, Timing, ceil_divide, larger, timings

Axes: TypeAlias = tuple[Axis, ...]


@dataclass(frozen=True)
class State:
    """An operand that an instruction reads and replaces; `initial` is its value at the start."""

    input: Input
    initial: float


@dataclass(frozen=True)
class Adjoint:
    """A gradient that the author wrote: that of each operand, in their order, from `cotangents`,
    those of the outputs."""

    cotangents: tuple[Input, ...]
    gradients: tuple[Node, ...]


Role: TypeAlias = Literal["operand", "immediate", "length", "start", "result"]


@dataclass(frozen=True)
class Native:
    """A kernel that the author wrote, in restricted Python over flat arrays.

    body        writes the results; the interpreter never runs it
    parameters  what each of its parameters is, and of which operand, immediate, axis or output
    combine     how its result joins a state, if it is one piece of what accumulates; else ""
    """

    body: Callable[..., Any]
    parameters: tuple[tuple[Role, str], ...]
    combine: str = ""


@dataclass(frozen=True, eq=False, kw_only=True)
class Instruction:
    """What an instruction computes and where it runs.

    operands    inputs, in the order of the encoding
    states      inputs it also replaces: output i is the next value of state i
    outputs     what it computes; empty for an opaque instruction
    unit        the unit class that runs it
    tile        how much of an axis one issue takes at most: a number or an attribute of the unit
    occupancy   cycles until the unit takes the next issue (None: derived from the operations)
    latency     cycles until the results are visible (None: derived)
    laws        what its user says of it and the trace does not show
    adjoint     the gradient, where the author wrote it (None: derived)
    formats     the element types that immediates are written in, where the author says so
    native      the kernel, where the author wrote it (None: derived)
    body        of an opaque instruction: restricted Python over flat arrays
    results     of an opaque instruction: its results as inputs (names, axes, types)
    sets        of an opaque instruction: the parameters that it returns
    """

    name: str
    unit: str
    operands: tuple[Input, ...]
    immediates: tuple[Immediate, ...] = ()
    states: tuple[State, ...] = ()
    outputs: tuple[Node, ...] = ()
    tile: tuple[tuple[Axis, int | str], ...] = ()
    occupancy: Timing | None = None
    latency: Timing | None = None
    laws: tuple[Law, ...] = ()
    adjoint: Adjoint | None = None
    formats: tuple[tuple[str, str], ...] = ()
    native: Native | None = None
    body: Callable[..., Any] | None = None
    results: tuple[Input, ...] = ()
    sets: tuple[str, ...] = ()
    documentation: str = ""
    source: str = ""

    def __str__(self) -> str:
        operands = ", ".join(show(operand) for operand in self.operands)
        meaning = ", ".join(show(output) for output in self.outputs) or "opaque"
        return f"{self.name}({operands}) = {meaning} on {self.unit}"

    @property
    def opaque(self) -> bool:
        return self.body is not None

    # -- what an author may write instead of what is derived
    #
    # Like a property's setter, each gives the instruction again, to be bound to the same name.

    def timing(self, function: Callable[..., Any]) -> Instruction:
        """The instruction with a timing of its own: a function of axes, attributes of the unit and
        immediates that returns the occupancy, or the occupancy and the latency, in cycles.

        @softmax.timing
        def softmax(m, n, lanes):
            rows = m / lanes
            return rows * n + 12
        """
        occupancy, *latency = timings(function, f"instruction {self.name!r}: timing")
        return replace(self, occupancy=occupancy, latency=latency[0] if latency else None)

    def gradient(self, function: Callable[..., Any]) -> Instruction:
        """The instruction with a gradient of its own: a tensor function that returns the gradient
        of the operand, or of each. Parameters that are not operands or immediates are the
        gradients of the outputs, in their order.

        @softmax.gradient
        def softmax(x, g): ...
        """
        return replace(self, adjoint=_adjoint(self, function))

    def kernel(self, function: Callable[..., Any]) -> Instruction:
        """The instruction with a kernel of its own, which native code runs in place of what it
        derives: restricted Python. Its parameters are, by name, operands and states (flat arrays,
        in the order of their axes), immediates, axes (their lengths), an axis and `_start` (its
        first position); every other is an array for an output, in their order.

        @softmax.kernel
        def softmax(x, m, n, y): ...
        """
        return replace(self, native=_native(self, function))

    def encoding(self, function: Callable[..., Any]) -> Instruction:
        """The instruction with an encoding of its own: each parameter is an immediate, annotated
        with the element type in which programs hold it; the others are 64 bits. Where a model
        needs a number that this type does not hold, the instruction is not used.

        @softcap.encoding
        def softcap(cap: "bf16"): ...
        """
        return replace(self, formats=_formats(self, function))

    def held(self, numbers: Mapping[str, float | int]) -> dict[str, float | int] | None:
        """Values of immediates as its encoding holds them; None if it cannot."""
        formats, found = dict(self.formats), dict(numbers)
        for name, number in numbers.items():
            if name in formats:
                kept = held(number, formats[name])
                if kept is None:
                    return None
                found[name] = kept
        return found

    @cached_property
    def meaning(self) -> str:
        """A hash of what it computes: two definitions with one meaning have one hash."""
        parts = [show(node) for node in (*self.operands, *self.outputs, *self.results)]
        parts += [f"{state.input} {state.initial!r}" for state in self.states]
        parts += [self.source] if self.opaque else []
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    # -- axes

    @cached_property
    def windows(self) -> Mapping[tuple[str, Axis], Affine]:
        """Operand axes that are only there to be read by one affine index: h = 2*p + r - 1."""
        return _windows(self)

    @cached_property
    def axes(self) -> tuple[Axis, ...]:
        """The axes that loops may run over: those of operands, windows and results."""
        hidden = {axis for _, axis in self.windows}
        views = (index.axes for index in self.windows.values())
        every = [*(operand.axes for operand in self.operands), *views]
        every += [output.axes for output in (*self.outputs, *self.results)]
        return tuple(axis for axis in union(every) if axis not in hidden)

    @cached_property
    def accumulation(self) -> Dot | Reduce | None:
        """The one sum, maximum, minimum, product or contraction whose axes may go in pieces."""
        return _accumulation(self)

    @property
    def linear(self) -> LinearIn | None:
        """The law by which the results over pieces of an axis add up, if there is one."""
        return next((law for law in self.laws if isinstance(law, LinearIn)), None)

    @property
    def accumulates(self) -> bool:
        """Whether `step_of` takes it apart."""
        return self.accumulation is not None or self.linear is not None

    @cached_property
    def reduced(self) -> frozenset[Axis]:
        """Axes that may be taken in pieces because the results accumulate."""
        if found := {law.axis for law in self.laws if isinstance(law, StepOf)}:
            return frozenset(found)
        fold, linear = self.accumulation, self.linear
        if fold is None and linear is not None:
            return frozenset([linear.axis])
        return frozenset(() if fold is None else fold.over) - self._computed_with

    @cached_property
    def _computed_with(self) -> frozenset[Axis]:
        """Axes of an index other than a window's, or along which values are looked up or stacked:
        a piece of one would need more than a piece of the operands."""
        found: set[Axis] = set()
        for node in everything(self.outputs):
            match node:
                case View(x, index, _):
                    for axis, i in index:
                        if not (isinstance(x, Input) and (x.name, axis) in self.windows):
                            found.update((axis, *i.axes))
                case Gather(_, _, axis) | Stack(_, axis):
                    found.add(axis)
                case Update(_, _, at):
                    found.update(a for axis, i in at for a in (axis, *i.axes))
        return frozenset(found)

    @cached_property
    def whole(self) -> frozenset[Axis]:
        """Axes that one issue must see complete."""
        if self.opaque:
            return frozenset(self.axes)
        found = set(self._computed_with)
        windowed = {axis for index in self.windows.values() for axis in index.axes}
        for node in everything(self.outputs):
            match node:
                case Dot(_, _, over) | Reduce(_, _, over):
                    found.update(over)
                case Scan(body, _, _, _):
                    found.add(body.axis)
        if self.states:  # another turn over these would step the states without them again
            every = union(output.axes for output in self.outputs)
            found.update(a for a in every if any(a not in o.axes for o in self.outputs))
        hidden = {axis for _, axis in self.windows}
        return frozenset(found - self.reduced - (windowed - found) - hidden)

    @cached_property
    def repeating(self) -> frozenset[Axis]:
        """Axes of results that a fold inside lacks: each piece of one folds the same again."""
        folds = [n for n in everything(self.outputs) if isinstance(n, Dot | Reduce)]
        every = union(output.axes for output in self.outputs)
        return frozenset(a for a in every if any(a not in f.axes for f in folds)) - self.whole

    @cached_property
    def indexed(self) -> frozenset[Axis]:
        """Axes that stand for exactly one axis of a model, because their index is computed with."""
        found = set(self.whole if self.opaque else ())
        for node in everything(self.outputs):
            match node:
                case Position(axis) | Gather(_, _, axis) | Stack(_, axis):
                    found.add(axis)
                case View(_, index, _) | Update(_, _, index):
                    found.update(a for axis, i in index for a in (axis, *i.axes))
                case Scan(body, _, _, _):
                    found.add(body.axis)
                case Reduce("argmax", _, over):
                    found.update(over)
        return frozenset(found)

    @cached_property
    def tables(self) -> tuple[int, ...]:
        """The operands of which only looked-up rows are read."""
        tables = {node.table for node in walk(self.outputs) if isinstance(node, Gather)}
        return tuple(n for n, operand in enumerate(self.operands) if operand in tables)

    # -- cost

    def limits(self, unit: Unit, sizes: Mapping[Axis, int]) -> dict[Axis, int]:
        """How much of each axis one issue takes on this unit; axes taken whole get their size."""
        found = {}
        for axis, limit in self.tile:
            number = unit.room(limit) if isinstance(limit, str) else limit
            if number is None:
                raise LanguageError(
                    f"instruction {self.name!r}: tile limit {limit!r} of axis {axis!r} must be a "
                    f"number or an attribute of unit {unit.name!r}"
                )
            found[axis] = number
        return {axis: min(found.get(axis, size), size) for axis, size in sizes.items()}

    @cached_property
    def work(self) -> Operations:
        """What one issue computes, whatever the lengths. A product that goes on with a sum adds
        no more often than it multiplies."""
        outputs = list(self.outputs)
        if self.states and self.states[0].input.name == ACCUMULATOR:
            match outputs[0]:
                case Map("add", (_, Dot() as product)):
                    outputs[0] = product
        return operations_of(outputs)

    @cached_property
    def touched(self) -> tuple[tuple[Axes, int], ...]:
        """(axes, bytes an element) of operands and results. Of a table that is looked up as much
        as comes out."""
        nodes = walk(self.outputs)
        tables = {node.table: node for node in nodes if isinstance(node, Gather)}
        found = [(tables.get(leaf, leaf).axes, leaf.dtype) for leaf in self.operands]
        found += [(result.axes, result.dtype) for result in (*self.outputs, *self.results)]
        return tuple((axes, dtype(kind).size) for axes, kind in found)

    def operations(self, lengths: Mapping[Axis, Number]) -> Number:
        """Scalar operations of one issue: two for each multiply and add of a contraction."""
        products, maps = self.work.count(lengths)
        return 2 * sum(batch * m * k * n for batch, m, k, n in products) + maps


def volume(axes: Iterable[Axis], lengths: Mapping[Axis, Number]) -> Number:
    total: Number = 1
    for axis in axes:
        total = total * lengths.get(axis, 1)
    return total


USUAL: Mapping[str, int] = {}
"""Functions count for what `FUNCTIONS` says."""


@dataclass(frozen=True)
class Operations:
    """What one issue computes, as axes whose lengths multiply.

    products  contractions, each as (batch, m, k, n)
    maps      everything else, each as (function, axes); a fold is a function that counts for one
    steps     of each recurrence its axis, and what is computed at every position of it
    """

    products: tuple[tuple[Axes, Axes, Axes, Axes], ...]
    maps: tuple[tuple[str, Axes], ...]
    steps: tuple[tuple[Axis, Operations], ...] = ()

    def count(
        self, lengths: Mapping[Axis, Number], costs: Mapping[str, int] = USUAL
    ) -> tuple[list[tuple[Number, Number, Number, Number]], Number]:
        """Contractions as lengths (batch, m, k, n), and the operations of everything else.

        costs  what an application of a function counts for, where that is another number than in
               `FUNCTIONS`
        """
        products, maps = self.once(lengths, costs)
        for axis, inside in self.steps:
            more, others = inside.count(lengths, costs)
            length = volume((axis,), lengths)
            products += [(batch * length, m, k, n) for batch, m, k, n in more]
            maps = maps + others * length
        return products, maps

    def once(
        self, lengths: Mapping[Axis, Number], costs: Mapping[str, int]
    ) -> tuple[list[tuple[Number, Number, Number, Number]], Number]:
        """The same without recurrences."""
        products = [
            (volume(batch, lengths), volume(m, lengths), volume(k, lengths), volume(n, lengths))
            for batch, m, k, n in self.products
        ]
        return products, sum(
            costs.get(name, FUNCTIONS[name].cost if name in FUNCTIONS else 1)
            * volume(axes, lengths)
            for name, axes in self.maps
        )


def operations_of(outputs: Iterable[Node]) -> Operations:
    """What computing these values once takes."""
    products: list[tuple[Axes, Axes, Axes, Axes]] = []
    maps: list[tuple[str, Axes]] = []
    steps: dict[object, tuple[Axis, Operations]] = {}  # all results of one recurrence are one
    for node in walk(outputs):
        match node:
            case Dot(a, b, over):
                both = tuple(x for x in node.axes if x in a.axes and x in b.axes)
                rows = tuple(x for x in node.axes if x not in b.axes)
                columns = tuple(x for x in node.axes if x not in a.axes)
                products.append((both, rows, over, columns))
            case Map(function, _) if node.axes:
                maps.append((function, node.axes))
            case Reduce(function, x, _):
                maps.append((function, x.axes))
            case Scan(body, initial, xs, _):
                inside = operations_of((*body.next, *body.emits))
                steps[body, initial, xs] = body.axis, inside
    return Operations(tuple(products), tuple(maps), tuple(steps.values()))


def default_cycles(
    instruction: Instruction, unit: Unit, lengths: Mapping[Axis, Number]
) -> tuple[Number, Number]:
    """(cycles until the unit takes the next issue, cycles from then until the last result is out)

    Contractions are done on the array, one after the other, then the rest on its cells. On units
    without an array everything is lanes. A step of a recurrence waits for the one before. Where
    operands and results pass at a limited rate, nothing is done meanwhile.
    """
    moved = union(x.axes for x in (*instruction.outputs, *instruction.results))
    work, drain = _work_cycles(instruction.work, unit, lengths, volume(moved, lengths))
    if rate := unit.attributes.get("operand_bytes"):
        moved = sum(size * volume(axes, lengths) for axes, size in instruction.touched)
        work = work + ceil_divide(moved, rate)
    return work, drain


def _work_cycles(
    work: Operations, unit: Unit, lengths: Mapping[Axis, Number], moved: Number
) -> tuple[Number, Number]:
    """As `default_cycles`; `moved`: how many elements pass where nothing is computed."""
    products, maps = work.once(lengths, unit.functions)
    if not (products or work.steps) and isinstance(maps, int) and not maps:
        maps = moved
    drain: Number = 0
    if unit.kind != "matrix":
        every = maps + sum(2 * batch * m * k * n for batch, m, k, n in products)
        total = ceil_divide(every, unit.attributes.get("lanes", 1))
    else:
        total = ceil_divide(maps, unit.attributes["rows"] * unit.attributes["columns"])
        drain = unit.attributes["skew"]
        for number, (batch, m, k, n) in enumerate(products):
            cycles, left = product_cycles(unit, m, k, n)
            total, drain = total + batch * cycles, larger(drain, left) if number else left
    late = unit.attributes.get("latency", 0)
    for axis, inside in work.steps:
        cycles, left = _work_cycles(inside, unit, lengths, 0)
        total = total + volume((axis,), lengths) * (cycles + left + late)
    return total, drain


# ---------------------------------------------------------------- what the trace says


def _windows(instruction: Instruction) -> dict[tuple[str, Axis], Affine]:
    """An operand axis is a window's if every use of the operand reads it by one affine index, and
    nothing else has the axis: then the ranges of the index alone say which positions there are,
    and a piece of them needs just what it reads. Anything else would depend on the pieces."""
    operands = set(instruction.operands)
    seen: dict[tuple[str, Axis], set[Affine | None]] = {}
    for node in walk(instruction.outputs):
        index = dict(node.index) if isinstance(node, View) else {}
        for child in node.children:
            if isinstance(child, Input) and child in operands:
                for axis in child.axes:
                    seen.setdefault((child.name, axis), set()).add(index.get(axis))
    found = {
        key: index
        for key, (index, *others) in seen.items()
        if index is not None and not others and index.terms
        if index.divide == 1 and not index.modulo
    }
    elsewhere = {a for leaf in operands for a in leaf.axes if (leaf.name, a) not in found}
    elsewhere |= {a for output in instruction.outputs for a in output.axes}
    for node in everything(instruction.outputs):
        elsewhere.update(() if node in operands else node.axes)
    ways = {axis: {i for (_, a), i in found.items() if a == axis} for _, axis in found}
    return {
        (name, axis): index
        for (name, axis), index in found.items()
        if axis not in elsewhere and len(ways[axis]) == 1
    }


def combining(fold: Dot | Reduce) -> Fold | None:
    """How partial results of a contraction or reduction combine; None if they do not."""
    found = FOLDS["sum" if isinstance(fold, Dot) else fold.function]
    return found if found.combine else None


def _accumulation(instruction: Instruction) -> Dot | Reduce | None:
    """The reduction of a single output under element-wise functions only, or None."""
    if len(instruction.outputs) != 1 or instruction.states:
        return None
    (output,) = instruction.outputs
    folds = [node for node in walk([output]) if isinstance(node, Dot | Reduce | Scan)]
    if len(folds) != 1 or isinstance(folds[0], Scan) or combining(folds[0]) is None:
        return None
    fold = folds[0]
    above = [n for n in walk([output]) if fold in set(walk([n])) and n is not fold]
    if any(not isinstance(node, Map) for node in above):
        return None
    outside = [n for n in walk([output]) if n not in set(walk([fold]))]
    if any(set(node.axes) & set(fold.over) for node in outside):
        return None
    return fold if set(output.axes) == set(fold.axes) else None


def _adjoint(instruction: Instruction, function: Callable[..., Any]) -> Adjoint:
    """Trace a gradient; LanguageError if its parameters or results do not fit the definition."""
    where = f"instruction {instruction.name!r}: gradient"
    if instruction.opaque:
        raise LanguageError(f"{where}: must be of a tensor function, not opaque")
    states = (state.input for state in instruction.states)
    own: dict[str, Node] = {leaf.name: leaf for leaf in (*instruction.operands, *states)}
    own.update((leaf.name, leaf) for leaf in instruction.immediates)
    names = list(inspect.signature(function).parameters)
    arriving = [name for name in names if name not in own]
    if len(arriving) != len(instruction.outputs):
        raise LanguageError(
            f"{where}: must take a gradient for each of {len(instruction.outputs)} outputs besides "
            f"{', '.join(own)}, not ({', '.join(names)})"
        )
    cotangents = tuple(
        Input(name, output.axes, output.dtype)
        for name, output in zip(arriving, instruction.outputs, strict=True)
    )
    own.update((leaf.name, leaf) for leaf in cotangents)
    result = function(**{name: own[name] for name in names})
    gradients = tuple(result) if isinstance(result, tuple | list) else (result,)
    if len(gradients) != len(instruction.operands):
        raise LanguageError(
            f"{where}: must return one for each of {len(instruction.operands)} operands, "
            f"not {len(gradients)}"
        )
    for operand, found in zip(instruction.operands, gradients, strict=True):
        if not isinstance(found, Node) or not set(found.axes) <= set(operand.axes):
            axes = f"({' '.join(found.axes)})" if isinstance(found, Node) else repr(found)
            raise LanguageError(
                f"{where}: of {operand.name!r} must be a tensor over ({' '.join(operand.axes)}), "
                f"not {axes}"
            )
    return Adjoint(cotangents, gradients)


START = "_start"


def _native(instruction: Instruction, function: Callable[..., Any]) -> Native:
    """What each parameter of a kernel is; LanguageError if they do not fit the definition."""
    where = f"instruction {instruction.name!r}: kernel"
    if instruction.opaque:
        raise LanguageError(f"{where}: must be of a tensor function, not opaque")
    leaves = (*instruction.operands, *(state.input for state in instruction.states))
    axes = union([*(leaf.axes for leaf in leaves), instruction.axes])
    own: dict[str, Role] = {f"{axis}{START}": "start" for axis in instruction.indexed}
    own |= dict.fromkeys(axes, "length")
    own |= {leaf.name: "immediate" for leaf in instruction.immediates}
    own |= {leaf.name: "operand" for leaf in leaves}
    names = list(inspect.signature(function).parameters)
    count = len(instruction.outputs)
    if sum(name not in own for name in names) != count:
        raise LanguageError(
            f"{where}: must take an array for each of {count} outputs besides {', '.join(own)}, "
            f"not ({', '.join(names)})"
        )
    roles = [own.get(name, "result") for name in names]
    return Native(
        function,
        tuple(
            (role, name.removesuffix(START) if role == "start" else name)
            for role, name in zip(roles, names, strict=True)
        ),
    )


def _formats(instruction: Instruction, function: Callable[..., Any]) -> tuple[tuple[str, str], ...]:
    """The types that an encoding gives immediates; LanguageError if they do not fit."""
    where = f"instruction {instruction.name!r}: encoding"
    known = {leaf.name: leaf.default for leaf in instruction.immediates}
    found: dict[str, str] = {}
    for parameter in inspect.signature(function).parameters.values():
        name = parameter.name
        if name not in known:
            raise LanguageError(
                f"{where}: {name!r} must be an immediate ({', '.join(known) or 'there are none'})"
            )
        kind = _annotation(parameter, f"{where}: immediate {name!r}", "its element type", "bf16")
        if held(known[name], dtype(kind).name) is None:
            raise LanguageError(
                f"{where}: immediate {name!r} must be of a type that holds its default "
                f"{known[name]!r}, not {kind}"
            )
        found[name] = kind
    return tuple((name, found[name]) for name in known if name in found)


ACCUMULATOR = "accumulator"


@lru_cache(maxsize=256)
def step_of(instruction: Instruction) -> tuple[Instruction, Instruction | None]:
    """The instruction in pieces: (a step that accumulates, what finishes it or None).

    The step's state is the partial result in the accumulator's type. For a plain contraction the
    partial result is the result, and nothing finishes it; so it is by the law `LinearIn`.
    """
    fold = instruction.accumulation
    if fold is None and instruction.linear is not None:
        (output,) = instruction.outputs
        total = Input(ACCUMULATOR, output.axes, output.dtype)
        return replace(
            instruction,
            name=f"{instruction.name}.step",
            states=(State(total, 0.0),),
            outputs=(Map("add", (total, output)),),
            laws=(),
            adjoint=None,
            native=_on_a_piece(instruction, output, "add"),
        ), None
    how = None if fold is None else combining(fold)
    if fold is None or how is None or how.combine is None:
        raise LanguageError(f"instruction {instruction.name!r} has no axis that goes in pieces")
    state = Input(ACCUMULATOR, fold.axes, fold.dtype)
    used = [leaf for leaf in instruction.operands if leaf in set(walk([fold]))]
    step = replace(
        instruction,
        name=f"{instruction.name}.step",
        operands=tuple(used),
        states=(State(state, how.neutral),),
        outputs=(Map(how.combine, (state, fold)),),
        adjoint=None,
        native=_on_a_piece(instruction, fold, how.combine),
    )
    if fold is instruction.outputs[0]:
        return step, None
    (outer,) = substitute(instruction.outputs, {fold: state})
    left = [leaf for leaf in instruction.operands if leaf in set(walk([outer]))]
    finish = replace(
        instruction,
        name=f"{instruction.name}.finish",
        operands=(state, *left),
        outputs=(outer,),
        tile=tuple((axis, limit) for axis, limit in instruction.tile if axis in outer.axes),
        occupancy=None,
        latency=None,
        adjoint=None,
        native=None,
    )
    return step, finish


def _on_a_piece(instruction: Instruction, fold: Node, combine: str) -> Native | None:
    """Its kernel on a piece of what accumulates, if that is all that it computes."""
    native, leaves = instruction.native, set(walk([fold]))
    if (
        native is None
        or instruction.outputs != (fold,)
        or not leaves.issuperset(instruction.operands)
    ):
        return None
    return replace(native, combine=combine)


# ---------------------------------------------------------------- tracing


def parse_axes(text: str, where: str) -> tuple[tuple[Axis, ...], str]:
    """Read `m n` or `s: i32`: axes and an element type (f32 if none is given)."""
    names, _, kind = text.partition(":")
    axes = tuple(names.split())
    if bad := [axis for axis in axes if not axis.isidentifier()]:
        raise LanguageError(f"{where}: axis must be a name, not {bad[0]!r}")
    return axes, kind.strip() or "f32"


def _annotation(
    parameter: inspect.Parameter, where: str, what: str = "its axes", example: str = "m n"
) -> str:
    text = parameter.annotation
    if not isinstance(text, str):
        raise LanguageError(f"{where}: must be annotated with {what}, such as {example!r}")
    if text.startswith(("'", '"')):  # the file postponed its annotations
        text = ast.literal_eval(text)
    return str(text)


def trace(
    function: Callable[..., Any], name: str
) -> tuple[tuple[Input, ...], tuple[Immediate, ...], tuple[Node, ...]]:
    """Run a definition on its own operands: (operands, immediates, outputs)."""
    operands: list[Input] = []
    immediates: list[Immediate] = []
    arguments: list[Node] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.default is not inspect.Parameter.empty:
            leaf = Immediate(parameter.name, parameter.default)
            immediates.append(leaf)
            arguments.append(leaf)
        else:
            where = f"instruction {name!r}: operand {parameter.name!r}"
            operand = Input(parameter.name, *parse_axes(_annotation(parameter, where), where))
            operands.append(operand)
            arguments.append(operand)
    result = function(*arguments)
    outputs = result if isinstance(result, tuple | list) else (result,)
    for output in outputs:
        if not isinstance(output, Node):
            raise LanguageError(
                f"instruction {name!r}: must return tensors, not {type(output).__name__}"
            )
    return tuple(operands), tuple(immediates), tuple(outputs)


def instruction(
    *,
    unit: str,
    tile: Mapping[Axis, int | str] | None = None,
    cycles: str | None = None,
    latency: str | None = None,
    state: Mapping[str, float] | None = None,
    step_of: StepOf | None = None,
    associative: Associative | None = None,
    linear_in: LinearIn | None = None,
    name: str | None = None,
) -> Callable[[Callable[..., Any]], Instruction]:
    """Make an instruction of a tensor function: operands are annotated with their axes, parameters
    with defaults are immediates.

    unit     the unit class that runs it, such as "vector" or "matrix"
    tile     per axis, how much one issue takes: a number or the name of an attribute of the unit
    cycles   occupancy, such as "m * n / lanes + 12" (default: from the operations)
    latency  cycles until the result is visible (default: occupancy and the unit's own latency)
    state    operands that are also results, with their value at the start of an accumulation
    step_of      the law that makes this a step of another instruction
    associative  the law by which the states of such steps combine
    linear_in    the law by which results over pieces of an axis add up
    """

    def make(function: Callable[..., Any]) -> Instruction:
        title = name or function.__name__
        operands, immediates, outputs = trace(function, title)
        initial = dict(state or {})
        if missing := [key for key in initial if key not in {o.name for o in operands}]:
            raise LanguageError(f"instruction {title!r}: state {missing[0]!r} is not an operand")
        laws = tuple(law for law in (step_of, associative, linear_in) if law)
        _laws_go_together(title, laws, bool(initial) or len(outputs) != 1)
        made = Instruction(
            name=title,
            unit=unit,
            operands=tuple(o for o in operands if o.name not in initial),
            immediates=immediates,
            states=tuple(State(o, initial[o.name]) for o in operands if o.name in initial),
            outputs=outputs,
            tile=tuple((tile or {}).items()),
            occupancy=Timing(cycles) if cycles else None,
            latency=Timing(latency) if latency else None,
            laws=laws,
            documentation=inspect.getdoc(function) or "",
            source=source_of(function),
        )
        return made

    return make


def _laws_go_together(title: str, laws: tuple[Law, ...], stepwise: bool) -> None:
    """Refuse laws that say nothing; `stepwise`: the instruction has states or several results."""
    kinds = {type(law) for law in laws}
    if Associative in kinds and StepOf not in kinds:
        raise LanguageError(
            f"instruction {title!r}: associative needs step_of, which says what the states are of"
        )
    if LinearIn in kinds and (stepwise or StepOf in kinds):
        raise LanguageError(
            f"instruction {title!r}: linear_in must be of an instruction with one result and "
            "without states"
        )


def opaque(
    *,
    unit: str,
    results: Mapping[str, str],
    sets: Sequence[str] = (),
    cycles: str | None = None,
    name: str | None = None,
) -> Callable[[Callable[..., Any]], Instruction]:
    """Make an instruction of a body in restricted Python, for what the language cannot say.

    The body receives a flat array for each annotated operand and then for each result, and returns
    the parameters it sets (nothing, one integer, or a tuple). It is chosen by its name.

    results  the axes and types of what it writes, such as {"ids": "s: i32"}
    sets     names of the parameters it returns, such as the number of tokens written
    """

    def make(function: Callable[..., Any]) -> Instruction:
        title = name or function.__name__
        operands = []
        for parameter in list(inspect.signature(function).parameters.values()):
            if parameter.name in results:
                continue
            where = f"instruction {title!r}: operand {parameter.name!r}"
            operands.append(
                Input(parameter.name, *parse_axes(_annotation(parameter, where), where))
            )
        made = [
            Input(key, *parse_axes(text, f"instruction {title!r}: result {key!r}"))
            for key, text in results.items()
        ]
        return Instruction(
            name=title,
            unit=unit,
            operands=tuple(operands),
            body=function,
            results=tuple(made),
            sets=tuple(sets),
            occupancy=Timing(cycles) if cycles else None,
            documentation=inspect.getdoc(function) or "",
            source=source_of(function),
        )

    return make


def source_of(function: Callable[..., Any]) -> str:
    """The text of a function; "" where there is none."""
    try:
        return textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError):  # typed at a prompt
        return ""
