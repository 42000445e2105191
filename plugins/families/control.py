"""Graphs inside nodes: branches, loops and scans of ONNX."""

from collections.abc import Sequence

import numpy as np

from infinisa.compiler.positional.operator import Body, Operator, operator
from infinisa.compiler.positional.recurrence import scan
from infinisa.compiler.positional.tensor import Tensor, concat, from_array
from infinisa.isa.errors import ModelError

from ..hookspec import hookimpl

UNROLLED = 256
"""The most turns of a loop that are written out."""


@operator("If")
def if_node(condition: Tensor, *, then_branch: Body, else_branch: Body) -> list[Tensor]:
    """A constant condition takes one branch; else both are computed and one is selected."""
    if condition.data:
        return (then_branch if condition.data.load().reshape(()) else else_branch)()
    yes, no = then_branch(), else_branch()
    pairs = list(zip(yes, no, strict=True))
    if wrong := [(a, b) for a, b in pairs if a.shape != b.shape]:
        a, b = wrong[0]
        raise ModelError(f"both branches must give one shape, not {a.shape} and {b.shape}")
    return [condition.reshape(()).where(a, b) for a, b in pairs]


@operator("Loop")
def loop_node(
    count: Tensor | None, condition: Tensor | None = None, *states: Tensor, body: Body
) -> list[Tensor]:
    """A loop of a constant number of turns, written out."""
    if count is None:
        raise ModelError("a loop without a number of turns is not supported")
    turns = count.integers("the number of turns")[0]
    if turns > UNROLLED:
        raise ModelError(f"a loop must have at most {UNROLLED} turns, not {turns}")
    true = from_array(np.asarray(True))
    kept, rows = list(states), list[list[Tensor]]()
    go = true if condition is None else condition
    for turn in range(turns):
        if go.data is None:
            raise ModelError("a loop that ends when a computed condition says so is not supported")
        if not go.data.load().reshape(()):
            break
        go, *found = body(from_array(np.asarray(turn)), go, *kept)
        kept = found[: len(kept)]
        rows.append([x.unsqueeze([0]) for x in found[len(kept) :]])
    return [*kept, *(concat(parts, 0) for parts in zip(*rows, strict=True))]


@operator("Scan", since=9)
def scan_node(
    *tensors: Tensor,
    body: Body,
    num_scan_inputs: int,
    scan_input_axes: Sequence[int] | None = None,
    scan_input_directions: Sequence[int] | None = None,
    scan_output_axes: Sequence[int] | None = None,
    scan_output_directions: Sequence[int] | None = None,
) -> list[Tensor]:
    count = len(tensors) - num_scan_inputs
    states, xs = tensors[:count], list(tensors[count:])
    backwards = list(scan_input_directions or [0] * len(xs))
    for k, axis in enumerate(scan_input_axes or [0] * len(xs)):
        xs[k] = _first(xs[k], xs[k].dim(axis))
        if backwards[k] != backwards[0]:
            xs[k] = xs[k].slice(0, None, None, -1)

    def step(now: Sequence[Tensor], row: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        found = body(*now, *row)
        return found[:count], found[count:]

    last, emits = scan(step, states, xs, bool(backwards[0]))
    places = scan_output_axes or [0] * len(emits)
    turned = scan_output_directions or [0] * len(emits)
    for k, (axis, direction) in enumerate(zip(places, turned, strict=True)):
        if direction != backwards[0]:
            emits[k] = emits[k].slice(0, None, None, -1)
        order = [*range(1, emits[k].rank)]
        order.insert(axis % emits[k].rank, 0)
        emits[k] = emits[k].transpose(order)
    return [*last, *emits]


def _first(x: Tensor, dim: int) -> Tensor:
    return x.transpose([dim, *(d for d in range(x.rank) if d != dim)])


@hookimpl
def infinisa_operators() -> Sequence[Operator]:
    return [if_node, loop_node, scan_node]
