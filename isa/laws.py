"""Laws: what a user says of an instruction and the trace does not show.

A law is a promise about values. `compiler/equality/laws.py` compares both sides of it at
points before anything is scheduled by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from .language import Axis


@dataclass(frozen=True)
class StepOf:
    """Folding the instruction over tiles of `axis`, then `finish`, equals `whole`.

    The tiler uses it where `whole` does not fit one issue: online softmax over the context.
    """

    whole: str
    axis: Axis
    finish: str

    @property
    def names(self) -> tuple[str, ...]:
        """The instructions that it is about."""
        return (self.whole, self.finish)

    def __str__(self) -> str:
        return f"folded over tiles of {self.axis}, then {self.finish}, it is {self.whole}"


@dataclass(frozen=True)
class Associative:
    """Runs of the step over several runs of tiles, each from the initial states, combine.

    `combine` has an operand and a result for each state, in their order; the operands have
    `axis` besides, one position for each run. It may combine in any grouping. The tiler uses it to
    give a step that is alone on its core a part of the reduced axis on each core.
    """

    combine: str
    axis: Axis

    @property
    def names(self) -> tuple[str, ...]:
        return (self.combine,)

    def __str__(self) -> str:
        return f"states of separate runs along {self.axis} combine by {self.combine}"


@dataclass(frozen=True)
class LinearIn:
    """The result is linear in `operand`, so over pieces of its `axis` the results add up.

    The tiler uses it where the trace shows no sum: (a . b) - zero * sum(b) in pieces of the
    contraction, on one core and on several.
    """

    operand: str
    axis: Axis

    @property
    def names(self) -> tuple[str, ...]:
        return ()

    def __str__(self) -> str:
        return f"linear in {self.operand}: results over pieces of {self.axis} add up"


Law: TypeAlias = StepOf | Associative | LinearIn
