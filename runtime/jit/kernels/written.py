"""Kernels that authors wrote: operands as flat arrays, the body in restricted Python, results out.

A body knows only the axes of its definition. Axes that the program has besides are loops around it;
several that one axis stands for are one run of elements. Operands that do not lie in one run are
copied into scratch memory first, and results are always stored from there, so a body may have any
strides and element types around it, and its arrays never overlap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from infinisa.isa.errors import CompileError
from infinisa.isa.instruction import Instruction, Native
from infinisa.isa.language import Axis, Input, Map, Node, union
from infinisa.isa.program import Opcode

from ..code.functions import STORED
from ..code.ir import Number, Value, constant, number
from ..expressions.expression import Env, Place
from ..restricted import Library, RestrictedError

if TYPE_CHECKING:
    from .kernel import Kernel
    from .passes import Store

Argument = tuple[str, Number]


@dataclass(frozen=True)
class Written:
    """A kernel over the axes of a program.

    instruction  whose it is
    binding      the axes that each axis of the definition stands for
    operands     the names and axes in the program of operands, then states, in their order
    outputs      the same axes of each output
    numbers      the immediates
    """

    instruction: str
    native: Native
    binding: tuple[tuple[Axis, tuple[Axis, ...]], ...]
    operands: tuple[tuple[str, tuple[Axis, ...]], ...]
    outputs: tuple[tuple[Axis, ...], ...]
    numbers: tuple[tuple[str, float | int], ...]

    @property
    def wants_starts(self) -> bool:
        return any(role == "start" for role, _ in self.native.parameters)

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The axes that its body sees; all others are loops around it."""
        lists = (*(axes for _, axes in self.operands), *self.outputs)
        return union([*lists, *(axes for _, axes in self.binding)])


def written_for(
    definition: Instruction, opcode: Opcode, names: Mapping[Axis, Axis]
) -> Written | None:
    """What the author of a definition wrote to run for an opcode of it, if anything; `names` are
    those by which code calls the axes of the program."""
    if definition.native is None:
        return None
    bound = dict(opcode.binding)

    def plain(axes: Sequence[Axis]) -> tuple[Axis, ...]:
        return tuple(names.get(b, b) for axis in axes for b in bound.get(axis, (axis,)))

    states = tuple(state.input for state in definition.states)
    leaves = (*definition.operands, *states)
    made = (*states, *definition.outputs[len(states) :])
    values = dict(opcode.immediates)
    return Written(
        definition.name,
        definition.native,
        tuple((axis, plain([axis])) for axis in union([*(x.axes for x in leaves), bound])),
        tuple((leaf.name, plain(leaf.axes)) for leaf in leaves),
        tuple(plain(value.axes) for value in made),
        tuple((i.name, values.get(i.name, i.default)) for i in definition.immediates),
    )


def run_written(
    kernel: Kernel,
    meaning: Instruction,
    written: Written,
    outputs: Sequence[int],
    stores: Sequence[Store],
    bodies: Library,
) -> None:
    """Run a body for every position of the loops around it, and store its results: those of
    `outputs` go where `stores` says."""
    states = [state.input for state in meaning.states]
    leaves = [*meaning.operands, *states]
    lists = [*(x.axes for x in leaves), *(x.axes for x in meaning.outputs)]
    loops = [axis for axis in union(lists) if axis not in written.axes]

    def turn(env: Env) -> None:
        with kernel.scope(), kernel.scratch():
            call = Call(kernel, written, env)
            results = call.run(leaves, [x.dtype for x in meaning.outputs], bodies)
            for output, store in zip(outputs, stores, strict=True):
                value: Node = results[output]
                if written.native.combine:
                    value = Map(written.native.combine, (states[output], value))
                kernel.fill(value, store.place, store.axes, env)

    kernel.nest(loops, None, [], {}, turn)


@dataclass
class Call:
    """One call of a body."""

    kernel: Kernel
    written: Written
    env: Env

    def run(self, leaves: Sequence[Input], types: Sequence[str], bodies: Library) -> list[Input]:
        """Call it; its results, of these types, as inputs that have a place."""
        written, given = self.written, dict(self.written.binding)
        known = dict(zip((name for name, _ in written.operands), leaves, strict=True))
        axes, numbers = dict(written.operands), dict(written.numbers)
        kinds: list[str] = []
        arguments: list[Argument] = []
        results: list[Input] = []
        for role, name in written.native.parameters:
            match role:
                case "operand":
                    leaf = known[name]
                    kinds.append(f"[{leaf.dtype}]")
                    arguments += self.array(self.flat(leaf, axes[name]), axes[name])
                case "immediate":
                    whole = isinstance(numbers[name], int)
                    kinds.append("i64" if whole else "double")
                    arguments.append((kinds[-1], constant(kinds[-1], numbers[name])))
                case "length":
                    kinds.append("i64")
                    arguments.append(("i64", self.length(given.get(name, (name,)))))
                case "start":
                    kinds.append("i64")
                    arguments.append(("i64", self.start(name, given[name])))
                case "result":
                    dtype, over = types[len(results)], written.outputs[len(results)]
                    kinds.append(f"[{dtype}]")
                    place = self.kernel.packed_place(over, dtype)
                    arguments += self.array(place.pointer, over)
                    results.append(Input(name, over, dtype))
                    self.kernel.places[results[-1]] = place
        self.enter(kinds, arguments, bodies)
        return results

    def enter(self, kinds: Sequence[str], arguments: list[Argument], bodies: Library) -> None:
        f, native = self.kernel.f, self.written.native
        try:
            name = bodies.entry(native.body, kinds, 0)
        except (RestrictedError, OSError) as error:  # OSError: its source is in no file
            raise CompileError(
                f"instruction {self.written.instruction!r}: kernel: {error}"
            ) from error
        nothing = self.kernel.work  # where it would return numbers
        f.call_outside(name, [*arguments, ("ptr", nothing), ("ptr", f.parameters["fault"])])

    def start(self, name: Axis, axes: Sequence[Axis]) -> Number:
        if len(axes) != 1:
            raise CompileError(
                f"instruction {self.written.instruction!r}: kernel: axis {name!r} must stand for "
                f"one axis to have a start, not for {len(axes)}"
            )
        return self.kernel.frame.starts.get(axes[0], 0)

    def length(self, axes: Sequence[Axis]) -> Number:
        total: Number = 1
        for axis in axes:
            total = self.kernel.f.multiply(total, self.kernel.frame.length(axis))
        return total

    def array(self, pointer: Value, axes: Sequence[Axis]) -> list[Argument]:
        return [("ptr", pointer), ("i64", self.length(axes))]

    def flat(self, leaf: Input, axes: tuple[Axis, ...]) -> Value:
        """Where a tensor lies in one run in the order of these axes: where it is, or a copy."""
        kernel, place = self.kernel, self.kernel.places[leaf]
        if leaf in kernel.initials or place.dtype != leaf.dtype or not self.in_one_run(place, axes):
            return kernel.pack(leaf, axes, leaf.dtype, self.env).pointer
        first: Number = 0
        for axis, stride in place.strides.items():
            if axis in self.env:
                first = kernel.f.add(first, kernel.f.multiply(self.env[axis].base, stride))
        return kernel.f.at(place.pointer, number(first), STORED[place.dtype])

    def in_one_run(self, place: Place, axes: Sequence[Axis]) -> bool:
        size: Number = 1
        for axis in reversed(axes):
            length = self.kernel.frame.length(axis)
            if length != 1 and place.strides.get(axis) != size:
                return False
            size = length * size if isinstance(length, int) and isinstance(size, int) else -1
        return not place.borders
