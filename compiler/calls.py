"""What cover hands to the tiler: instructions over whole tensors, in order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from infinisa.isa.dtypes import DTYPES
from infinisa.isa.instance import issue_cycles, meant
from infinisa.isa.instruction import Instruction
from infinisa.isa.language import Axis
from infinisa.isa.machine import Unit
from infinisa.isa.program import Count, Extent, Kind, Opcode, Repeat
from infinisa.isa.timing import Number


@dataclass(frozen=True)
class Tensor:
    """A whole array.

    shape     bounds: a run-time length may be smaller
    kind      as of a buffer; or it never leaves the chip: "carry", a state of a scan, and
              "partial", what the steps of one instruction add up until its finish takes it
    absolute  its dimensions count from 0 (inputs, weights, kept tensors); else from the start of
              the axis's range in this graph (temporaries)
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "f32"
    kind: Kind | str = "temporary"
    absolute: bool = False
    initial: float = 0.0
    content: str = ""

    @property
    def bytes(self) -> int:
        size = DTYPES[self.dtype].size
        for extent in self.shape:
            size *= extent
        return size

    @property
    def bound(self) -> bool:
        """Whether someone outside of the program gives or takes it."""
        return self.kind in ("input", "output", "state")

    @property
    def inner(self) -> bool:
        """Whether all calls that touch it are together, and it never leaves the chip."""
        return self.kind in ("carry", "partial")


@dataclass(frozen=True)
class Index:
    """One dimension of an access: the sum of `stride * axis`, plus `offset`; a window has two."""

    terms: tuple[tuple[Axis, int], ...] = ()
    offset: int = 0


@dataclass(frozen=True)
class Access:
    """Which part of a tensor a call touches; positions outside read as `fill`."""

    tensor: str
    index: tuple[Index, ...]
    fill: float | None = None

    @cached_property
    def axes(self) -> frozenset[Axis]:
        return frozenset(axis for dimension in self.index for axis, _ in dimension.terms)

    @cached_property
    def several(self) -> frozenset[Axis]:
        """The axes that are in several dimensions, or several times in one."""
        times = Counter(axis for dimension in self.index for axis, _ in dimension.terms)
        return frozenset(axis for axis, count in times.items() if count > 1)

    @property
    def digits(self) -> frozenset[Axis]:
        """The axes that index a dimension together with one of a larger stride."""
        found: set[Axis] = set()
        for index in self.index:
            terms = sorted(index.terms, key=lambda term: abs(term[1]))
            found.update(axis for axis, _ in terms[:-1])
        return frozenset(found)

    @cached_property
    def plain(self) -> Mapping[Axis, int]:
        """The axes that alone, with stride 1, index one dimension: {axis: dimension}."""
        return {
            dimension.terms[0][0]: number
            for number, dimension in enumerate(self.index)
            if len(dimension.terms) == 1 and dimension.terms[0][1] == 1 and not dimension.offset
        }

    def gaps(self, sizes: Mapping[Axis, int]) -> bool:
        """Whether it touches every other position of a dimension only, or fewer."""
        for index in self.index:
            covered = 1
            for axis, stride in sorted(index.terms, key=lambda term: abs(term[1])):
                if sizes[axis] > 1 and abs(stride) > covered:
                    return True
                covered += abs(stride) * (sizes[axis] - 1)
        return False


@dataclass(frozen=True, eq=False)
class Call:
    """One selected instruction over whole tensors.

    name         unique in its graph; `source` is what the model called the covered nodes
    opcode       how a program will name it
    definition   the instruction that the opcode names; `types`: of its operands
    reads        one for each operand
    writes       one for each entry of `opcode.outputs`
    limits       how much of each axis one issue takes; its keys are all axes of the call
    reduce       axes that may be taken in pieces because the writes accumulate
    whole        axes that one issue must see complete
    scan         the axis whose steps run in order (a recurrence); `reverse`: from its end
    operations   scalar operations of the whole call, for reports
    sets         parameters that the instruction returns
    direct       tensors that it works on in place, outside the chip: a table of which few rows
                 are read
    """

    name: str
    source: str
    opcode: Opcode
    definition: Instruction
    types: tuple[str, ...]
    unit: Unit
    reads: tuple[Access, ...]
    writes: tuple[Access, ...]
    limits: Mapping[Axis, int]
    reduce: frozenset[Axis] = frozenset()
    whole: frozenset[Axis] = frozenset()
    scan: Axis | None = None
    reverse: bool = False
    operations: int = 0
    sets: tuple[str, ...] = ()
    direct: frozenset[str] = frozenset()

    @cached_property
    def instruction(self) -> Instruction:
        """The instance: over the model's axes."""
        return meant(self.definition, self.opcode, self.types)

    @cached_property
    def accesses(self) -> tuple[Access, ...]:
        return (*self.reads, *self.writes)

    @cached_property
    def in_place(self) -> frozenset[str]:
        """Tensors that are not copied to the chip for it. An opaque body wants them whole, and on
        a text or scalar unit they may be larger than any scratchpad."""
        if self.definition.opaque and self.unit.kind in ("text", "scalar"):
            return frozenset(access.tensor for access in self.accesses)
        return self.direct

    @cached_property
    def loops(self) -> tuple[Axis, ...]:
        """The axes that loops may cut."""
        return tuple(axis for axis in self.limits if axis not in self.whole)

    @cached_property
    def tiled(self) -> tuple[Axis, ...]:
        """The axes of which a tile may hold a part. Where a write has several axes in one
        dimension, as in `64*h + e`, only the one with the largest stride: what a tile writes must
        have no gaps, for it is stored in one piece."""
        inner = {axis for access in self.writes for axis in access.digits}
        return tuple(axis for axis in self.loops if axis not in inner)

    def over(
        self,
        name: str,
        source: str,
        reads: tuple[Access, ...],
        writes: tuple[Access, ...],
        direct: frozenset[str],
    ) -> Call:
        """The same over other tensors: `dataclasses.replace` takes five times as long."""
        return Call(
            name, source, self.opcode, self.definition, self.types, self.unit, reads, writes,
            self.limits, self.reduce, self.whole, self.scan, self.reverse, self.operations,
            self.sets, direct,
        )  # fmt: skip

    def cycles(self, lengths: Mapping[Axis, Number]) -> tuple[Number, Number]:
        """(occupancy, latency) of one issue over these lengths of the call's axes."""
        return issue_cycles(self.instruction, self.opcode, self.unit, lengths)


@dataclass(frozen=True)
class Covered:
    """One graph as calls.

    bases  what its tensors and calls were called before numbers told equal names apart
    """

    name: str
    extents: tuple[Extent, ...]
    tensors: Mapping[str, Tensor]
    calls: tuple[Call, ...]
    repeat: Repeat | None = None
    tokens: Count = Count()
    sizes: Mapping[Axis, int] = field(default_factory=dict)
    bases: Mapping[str, str] = field(default_factory=dict)
