"""Splitting a reduction over cores: each takes a run of the reduced axis, and what they have is
combined.

A product with few rows and columns but a long contraction, or one head of attention over a long
context, has too few pieces that are independent for all cores. Sums, and whatever has the law
`Associative` or `LinearIn`, may be divided along the reduced axis instead: k becomes runs of equal
length, k = length * run + position, and the runs are an axis like any other. That costs one more
call, so both ways are scheduled and the faster one is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from math import inf

from infinisa.isa.instruction import Instruction
from infinisa.isa.language import Axis, Position, Size, everything
from infinisa.isa.machine import Machine
from infinisa.isa.program import Parameter

from ..calls import Call, Covered
from ..schedule.cost import Target, spread_step
from ..schedule.nest import Run
from ..schedule.tile import CLEAR, FINE, Search, greedy, lengths
from .choice import combiner
from .draft import Drafting, Runs
from .match import Match


def possible(drafting: Drafting) -> dict[Match, Runs]:
    """The reductions that are alone on too few cores and may be divided among more."""
    machine = drafting.choosing.machine
    if machine.cores == 1:
        return {}
    found = {}
    for match, numbers in drafting.made.items():
        runs = _runs(match, drafting.drafts[numbers[0]].call, drafting)
        if runs is not None:
            found[match] = runs
    return found


def _runs(match: Match, call: Call, drafting: Drafting) -> Runs | None:
    choosing, definition = drafting.choosing, match.instruction
    law = choosing.step(match)
    step = definition if law is None else law[0]
    if call.scan or definition.windows or not (law or definition.accumulates):
        return None
    if combiner(step, choosing) is None:
        return None
    sizes, cores = choosing.sizes, choosing.machine.cores
    parallel = [axis for axis in call.tiled if axis not in call.reduce]
    if any(-(-sizes[axis] // spread_step([call], axis)) >= cores for axis in parallel):
        return None
    if choosing.cycles(match) <= Target.of(choosing.machine, 1.0).fixed:
        return None  # all of it takes no longer than another stage
    reduced = {law[1]} if law else definition.reduced
    axes = [a for ours in sorted(reduced - _computed(step)) for a in match.binding[ours]]
    best = max(axes, key=lambda axis: sizes[axis], default=None)
    if best is None or best not in drafting.choosing.fixed:
        return None
    count = next((n for n in range(cores, 1, -1) if sizes[best] % n == 0), 1)
    return Runs(best, count) if count > 1 else None


def _computed(definition: Instruction) -> set[Axis]:
    """Axes whose positions or lengths are computed with: those of a run are others."""
    nodes = everything(definition.outputs)
    return {node.axis for node in nodes if isinstance(node, Position | Size)}


def faster(
    together: Drafting,
    apart: Drafting,
    runs: Mapping[Match, Runs],
    parameters: Iterable[Parameter],
) -> dict[Match, Runs]:
    """Those of the divided reductions that take clearly fewer cycles than undivided ones, each by
    itself: a stage's fixed cost less, and then some percent, for predictions are no better.

    together, apart  the graph drafted without and with the runs
    """
    fixed = Target.of(together.choosing.machine, 1.0).fixed
    given = tuple(parameters)
    before = _times(together, runs, given)
    after = _times(apart, runs, given)
    return {
        match: each for match, each in runs.items() if after[match] < CLEAR * before[match] - fixed
    }


def _times(
    drafting: Drafting, matches: Iterable[Match], parameters: tuple[Parameter, ...]
) -> dict[Match, float]:
    """The predicted cycles of the calls of each match."""
    calls: list[Call] = []
    ends = [0]
    matches = tuple(matches)
    for match in matches:
        calls += [drafting.drafts[number].call for number in drafting.made[match]]
        ends.append(len(calls))
    covered = Covered(
        drafting.graph.name, tuple(drafting.extents.values()), drafting.tensors, tuple(calls)
    )
    machine: Machine = drafting.choosing.machine
    search = Search(covered, machine, lengths(covered, parameters))
    found = {}
    for match, (first, last) in zip(matches, pairwise(ends), strict=True):
        groups = greedy(search, [(n, n + 1) for n in range(first, last)])
        found[match] = sum(_time(search, run) for run in groups)
    return found


def _time(search: Search, run: Run) -> float:
    """The predicted cycles of a run of calls as one group, searched as finely as it will be."""
    groups = search.best(run), search.best(run, FINE)
    return min((group.time for group in groups if group), default=inf)
