"""How sure it is that an instruction computes a cone, and what that does to the numbers.

Most matches are never taken, so this is found out when somebody asks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

from infinisa.isa.language import Axis, Constant, Node, Size, with_numbers

from .normal import proved, with_numbers_of
from .oracle import ordered
from .precision import Precision, replacement_error

PROVED = "proved"


@dataclass(frozen=True, eq=False)
class Verdict:
    """On a cone and what an instruction computes of the same inputs, with the numbers found.

    sample   the cone where its axes have `lengths`, at which both are evaluated
    sizes    of the model, where they are known
    types    of the inputs in the model
    points   at how many both are equal
    """

    cone: Node
    other: Node
    sample: Node
    lengths: Mapping[Axis, int]
    sizes: Mapping[Axis, int]
    types: Mapping[str, str]
    points: int

    @cached_property
    def same(self) -> bool:
        """Whether both are the same operations, lengths that are known being numbers."""
        known: dict[Node, Node] = {Size(axis): Constant(n) for axis, n in self.sizes.items()}
        cone, other = with_numbers((self.cone, self.other), known)
        return ordered(cone) is ordered(other)

    @property
    def precision(self) -> Precision:
        lengths, types = (*self.lengths.items(),), (*self.types.items(),)
        return known_error(self.sample, self.other, lengths, types)

    @property
    def stable(self) -> bool:
        """Whether the instruction is nowhere materially worse than the cone."""
        return not self.trouble

    @property
    def trouble(self) -> str:
        """Where the instruction is worse than the cone, and how; "" if nowhere."""
        return "" if self.same else self.precision.trouble

    @property
    def error(self) -> float:
        """The largest relative error that the instruction adds, in the operands' types."""
        return 0.0 if self.same else self.precision.introduced

    @cached_property
    def stamp(self) -> str:
        """ "proved", or "tested(n)": equal at n points."""
        exact = with_numbers_of(self.cone, self.other)
        sure = self.same or proved(exact, self.other, self.sizes)
        return PROVED if sure else f"tested({self.points})"


@dataclass(frozen=True, eq=False)
class Verdicts:
    """On several results of one instruction: as good as the worst of them."""

    each: tuple[Verdict, ...]

    @cached_property
    def trouble(self) -> str:
        return next((verdict.trouble for verdict in self.each if verdict.trouble), "")

    @property
    def stable(self) -> bool:
        return not self.trouble

    @cached_property
    def error(self) -> float:
        return max(verdict.error for verdict in self.each)

    @cached_property
    def stamp(self) -> str:
        """ "proved" if all are, or at how many points they are equal."""
        stamps = {verdict.stamp for verdict in self.each} - {PROVED}
        return min(stamps, default=PROVED)


@lru_cache(maxsize=1 << 12)
def known_error(
    cone: Node,
    other: Node,
    lengths: tuple[tuple[Axis, int], ...],
    types: tuple[tuple[str, str], ...],
) -> Precision:
    """`replacement_error`, found once: prefill and decode ask about the same cones."""
    return replacement_error(cone, other, dict(lengths), dict(types))
