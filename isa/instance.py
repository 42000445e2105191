"""An instruction over a program's axes: what one opcode means and how long it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

from .errors import ProgramError
from .instruction import (
    ACCUMULATOR,
    Instruction,
    State,
    default_cycles,
    step_of,
    volume,
)
from .language import Axis, Immediate, Input, Map, Node, refine, substitute, union
from .machine import Unit
from .program import Opcode
from .timing import Number

Binding = Mapping[Axis, tuple[Axis, ...]]


def instance(
    instruction: Instruction,
    binding: Binding,
    operands: Sequence[Input],
    immediates: Mapping[str, float | int] | None = None,
) -> Instruction:
    """The instruction over a model's axes: its axes replaced by those bound to them, its operands
    by `operands` (which may lack axes, or have more: those are loops outside the instruction)."""
    outputs = refine(instruction.outputs, binding)
    old = refine(instruction.operands, binding)
    known: dict[Node, Node] = dict(zip(old, operands, strict=True))
    values = immediates or {}
    numbers = tuple(
        Immediate(i.name, values.get(i.name, i.default)) for i in instruction.immediates
    )
    known.update(zip(instruction.immediates, numbers, strict=True))
    states = []
    extra = [a for a in union(o.axes for o in operands) if a not in union(o.axes for o in old)]
    for state, output in zip(instruction.states, outputs, strict=False):
        (leaf,) = refine([state.input], binding)
        batch = [axis for axis in extra if axis not in leaf.axes]
        dtype = _accumulated(state, output, known)
        grown = Input(state.input.name, (*batch, *leaf.axes), dtype)
        known[leaf] = grown
        states.append(State(grown, state.initial))
    return replace(
        instruction,
        operands=tuple(operands),
        states=tuple(states),
        outputs=substitute(outputs, known),
        immediates=numbers,
        adjoint=None,
    )


@lru_cache(maxsize=256)
def state_types(instruction: Instruction, types: tuple[str, ...]) -> tuple[str, ...]:
    """The types of an instruction's states over operands of these types."""
    operands = [
        Input(old.name, old.axes, kind)
        for old, kind in zip(instruction.operands, types, strict=True)
    ]
    return tuple(state.input.dtype for state in instance(instruction, {}, operands).states)


def _accumulated(state: State, output: Node, known: Mapping[Node, Node]) -> str:
    """The type of a state. What `step_of` made is of the type that its operands add up to: i32
    over i8, though the instruction was traced over f32."""
    if state.input.name == ACCUMULATOR and isinstance(output, Map) and len(output.arguments) == 2:
        (fold,) = substitute([output.arguments[1]], known)
        return fold.dtype
    return state.input.dtype


def find(name: str, library: Mapping[str, Instruction]) -> Instruction:
    """The instruction of this name; `x.step` and `x.finish` are the pieces of x."""
    if name in library:
        return library[name]
    base, _, part = name.rpartition(".")
    if base in library and part in ("step", "finish"):
        step, finish = step_of(library[base])
        found = step if part == "step" else finish
        if found is not None and found.name == name:
            return found
    raise ProgramError(f"instruction {name!r}: no loaded plugin defines it")


def resolve(
    opcode: Opcode, types: Sequence[str], library: Mapping[str, Instruction]
) -> Instruction:
    """What an opcode means: the instruction over the program's axes, its operands in the types of
    the buffers they are read from. ProgramError if it is unknown or defined otherwise here."""
    definition = find(opcode.instruction, library)
    if definition.meaning != opcode.meaning:
        raise ProgramError(
            f"opcode {opcode.name!r}: instruction {opcode.instruction!r} must have meaning "
            f"{opcode.meaning}, the loaded plugin's is {definition.meaning}"
        )
    for number in (len(opcode.operands), len(types)):
        if number != len(definition.operands):
            raise ProgramError(
                f"opcode {opcode.name!r}: {opcode.instruction!r} takes "
                f"{len(definition.operands)} operands, not {number}"
            )
    return meant(definition, opcode, types)


def meant(definition: Instruction, opcode: Opcode, types: Sequence[str]) -> Instruction:
    """What an opcode of this instruction means over operands of these types."""
    operands = [
        Input(old.name, tuple(axis for axis in axes if axis), kind)
        for old, axes, kind in zip(definition.operands, opcode.operands, types, strict=True)
    ]
    if definition.opaque:
        return replace(definition, operands=tuple(operands))
    return instance(definition, dict(opcode.binding), operands, dict(opcode.immediates))


def issue_cycles(
    meaning: Instruction, opcode: Opcode, unit: Unit, lengths: Mapping[Axis, Number]
) -> tuple[Number, Number]:
    """(occupancy, latency) in cycles of one issue of an opcode; `meaning` is what `resolve` gave.

    A plugin's timing names the instruction's own axes: the lengths of the axes bound to one are
    multiplied, and axes outside the instruction repeat the whole.
    """
    late = unit.attributes.get("latency", 0)
    if meaning.occupancy is None:
        work, drain = default_cycles(meaning, unit, lengths)
        occupancy = work + unit.attributes.get("overhead", 0)
        return occupancy, occupancy + drain + late
    binding = dict(opcode.binding)
    bound = set(union(binding.values()))
    values: dict[str, Number] = {**unit.attributes, **dict(opcode.immediates)}
    values.update((axis, volume(axes, lengths)) for axis, axes in binding.items())
    repeat = volume([axis for axis in lengths if axis not in bound], lengths)
    occupancy = meaning.occupancy(values) * repeat
    if meaning.latency is not None:
        return occupancy, meaning.latency(values) * repeat
    return occupancy, occupancy + unit.attributes.get("skew", 0) + late
