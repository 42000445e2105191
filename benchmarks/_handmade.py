"""Covered graphs written call by call: for tests, measurements, and whoever selects by hand.

g = Handmade("main", machine, library, {"s": 128, "d": 768, "f": 3072})
g.tensor("x", "s d", "input")
g.tensor("w", "d f", "weight")
g.tensor("y", "s f", "output")
g.call("matmul.step", "m=s k=d n=f", ["x[s d]", "w[d f]"], ["y[s f]"])
covered = g.covered()
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from infinisa.compiler.calls import Access, Call, Covered, Index, Tensor
from infinisa.isa.instance import find
from infinisa.isa.instruction import Instruction
from infinisa.isa.language import Axis, affine
from infinisa.isa.machine import Machine, Unit
from infinisa.isa.program import Count, Extent, Opcode

Binding = dict[Axis, tuple[Axis, ...]]


@dataclass(frozen=True)
class Reference:
    """An access as written, such as `x[c h=2*p+r-1 0 8*m+n =l]`: with the axis of each dimension.

    `h=` names the axis that the instruction walks (here a window's, `=l`: none, l goes one by one);
    else it is the one with stride 1.
    """

    access: Access
    axes: tuple[Axis, ...]

    @staticmethod
    def parse(text: str, fill: float | None = None) -> Reference:
        name, _, rest = text.partition("[")
        indices, axes = [], []
        for word in rest.rstrip("]").split():
            axis, given, index = word.partition("=")
            found = affine(index if given else word if not word.isdigit() else int(word))
            indices.append(Index(found.terms, found.offset))
            walked = [a for a, stride in found.terms if stride == 1]
            axes.append(axis if given else walked[0] if walked else "")
        return Reference(Access(name, tuple(indices), fill), tuple(axes))


class Handmade:
    """Collects tensors and calls of one graph; `covered` returns it."""

    def __init__(
        self,
        name: str,
        machine: Machine,
        library: Mapping[str, Instruction],
        extents: Mapping[Axis, int | Extent],
    ) -> None:
        self.name, self.machine, self.library = name, machine, library
        self.extents = {
            axis: Extent(axis, Count(length), length) if isinstance(length, int) else length
            for axis, length in extents.items()
        }
        self.sizes = {axis: extent.most for axis, extent in self.extents.items()}
        self.tensors: dict[str, Tensor] = {}
        self.calls: list[Call] = []
        self.opcodes: dict[Opcode, str] = {}

    def covered(self) -> Covered:
        extents = tuple(self.extents.values())
        return Covered(self.name, extents, dict(self.tensors), tuple(self.calls))

    def tensor(
        self, name: str, dims: str, kind: str = "temporary", dtype: str = "f32", initial: float = 0
    ) -> str:
        """A tensor over axes (or numbers); one bound from outside counts from position 0."""
        extents = self.extents
        absolute = kind in ("input", "weight", "state")
        shape = [
            int(word) if word.isdigit() else extents[word].bound if absolute else self.sizes[word]
            for word in dims.split()
        ]
        self.tensors[name] = Tensor(name, tuple(shape), dtype, kind, absolute, initial)
        return name

    # long: an opcode and a call say much the same in two ways
    def call(
        self,
        instruction: str,
        binding: str,
        reads: Sequence[str],
        writes: Sequence[str],
        *,
        scan: Axis | None = None,
        reverse: bool = False,
        limits: Mapping[Axis, int] | None = None,
        direct: Sequence[str] = (),
        fill: float | None = None,
        sets: Sequence[str] = (),
        **immediates: float,
    ) -> None:
        """Append a call.

        binding  the instruction's axes as axes of the graph, such as `m=s n=h,e`
        limits   of axes of the graph, where they are not what the instruction says
        fill     what the first operand reads as outside its tensor
        """
        definition = find(instruction, self.library)
        unit = self.machine.unit(definition.unit)
        bound: Binding = {
            pair.partition("=")[0]: tuple(filter(None, pair.partition("=")[2].split(",")))
            for pair in binding.split()
        }
        sources = [Reference.parse(text, None if n else fill) for n, text in enumerate(reads)]
        targets = [Reference.parse(text) for text in writes]
        accesses = [reference.access for reference in (*sources, *targets)]
        base = self.library.get(instruction.removesuffix(".step"), definition)
        found = self._limits(definition, base.whole, unit, bound, accesses)
        if scan:
            found[scan] = 1
        found.update(limits or {})

        def named(references: Sequence[Reference]) -> tuple[tuple[Axis, ...], ...]:
            return tuple(tuple("" if a == scan else a for a in r.axes) for r in references)

        opcode = self._opcode(
            Opcode(
                "",
                instruction,
                definition.meaning,
                unit.name,
                tuple(bound.items()),
                tuple(immediates.items()),
                named(sources),
                named(targets),
                tuple(range(len(writes))),
                tuple(found.items()),
            )
        )
        over = {axis: bound.get(axis, (axis,)) for axis in definition.axes}
        whole = frozenset(a for axis in base.whole for a in over.get(axis, ()))
        self.calls.append(
            Call(
                name=f"{instruction} {targets[0].access.tensor}",
                source="",
                opcode=opcode,
                definition=definition,
                types=tuple(self.tensors[each.access.tensor].dtype for each in sources),
                unit=unit,
                reads=tuple(reference.access for reference in sources),
                writes=tuple(reference.access for reference in targets),
                limits=found,
                reduce=frozenset(a for axis in base.reduced for a in over.get(axis, ())),
                whole=whole,
                scan=scan,
                reverse=reverse,
                sets=tuple(sets),
                direct=frozenset(direct),
            )
        )

    def _limits(
        self,
        definition: Instruction,
        whole: frozenset[Axis],
        unit: Unit,
        bound: Binding,
        accesses: Sequence[Access],
    ) -> dict[Axis, int]:
        """The instruction's limits, filled from the innermost of the axes bound to one. Axes that
        it does not have go one by one."""
        over = {axis: bound.get(axis, (axis,)) for axis in definition.axes}
        sizes = {axis: prod(self.sizes[a] for a in axes) for axis, axes in over.items()}
        limits = definition.limits(unit, sizes)
        found: dict[Axis, int] = {}
        for axis, axes in over.items():
            room = sizes[axis] if axis in whole else limits[axis]
            for inner in reversed(axes):
                found[inner] = max(1, min(room, self.sizes[inner]))
                room //= found[inner]
        every = [axis for access in accesses for index in access.index for axis, _ in index.terms]
        return {axis: found.get(axis, 1) for axis in dict.fromkeys(every)}

    def _opcode(self, opcode: Opcode) -> Opcode:
        """The opcode under a name; equal ones share it."""
        same = sum(known.instruction == opcode.instruction for known in self.opcodes)
        name = self.opcodes.setdefault(opcode, f"{opcode.instruction}.{self.name}.{same}")
        return Opcode(name, *list(vars(opcode).values())[1:])
