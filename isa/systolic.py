"""How long a systolic array takes for the product of m x k by k x n.

One operand stays in the cells, the other streams past it. What stays is as large as the array, so a
product goes in *folds*, of which those at the edges fill the array in part and take as long. A fold
is `shift` cycles in which what stays moves in, then a cycle for each position of the axis that
streams, then `skew` cycles until the last sum has left: rows + columns - 2 where operands pass from
cell to cell.

With one set of registers a cell holds one fold, and the next begins when the one before has left.
With two, the next is shifted in behind the present one and follows it at once, so that shift and
skew of a run of folds are seen at its ends only.

The closed forms are those of A. Samajdar et al., "SCALE-Sim: Systolic CNN Accelerator Simulator",
2018: one set of registers, no overhead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .machine import Unit
from .timing import Number, Timing


@dataclass(frozen=True)
class Flow:
    """What a dataflow makes of a product.

    folds   how often the array is filled
    stream  how long a fold streams
    """

    folds: Timing
    stream: Timing


FLOWS: Mapping[str, Flow] = {
    "output": Flow(Timing("(m / rows) * (n / columns)"), Timing("k")),
    "weight": Flow(Timing("(k / rows) * (n / columns)"), Timing("m")),
    "input": Flow(Timing("(k / rows) * (m / columns)"), Timing("n")),
}

ALONE = Timing("shift + stream + skew")
"""A fold from its first to its last cycle."""

APART = Timing("max(stream, shift, (2 - registers) * (shift + stream + skew))")
"""From the begin of a fold to that of the next."""


LOST = Timing("cycles * 100 / efficiency")
"""Of cycles without a stall only so many per cent are left."""


def product_cycles(unit: Unit, m: Number, k: Number, n: Number) -> tuple[Number, Number]:
    """(cycles until the array takes the next product, cycles from then to the last sum)"""
    flow = FLOWS[unit.dataflow]
    values: dict[str, Number] = {**unit.attributes, "m": m, "k": k, "n": n}
    values["stream"] = flow.stream(values)
    apart = APART(values)
    values["cycles"] = flow.folds(values) * apart
    return LOST(values), ALONE(values) - apart
