"""Recurrences of positional tensors, as scans of the language."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from infinisa.isa import language
from infinisa.isa.errors import ModelError
from infinisa.isa.language import Input, Node, Recurrence

from .axes import Atom, Dim, Flat, Names, carry, leaves, unify
from .tensor import Build, Tensor, made, meet, moved, operands, spread

Step = Callable[[Sequence[Tensor], Sequence[Tensor]], tuple[Sequence[Tensor], Sequence[Tensor]]]


@dataclass(frozen=True, eq=False)
class _Body:
    """What is scanned: the new axis, the leaves of the body, and what the body yields.

    mark   what numbers the scan, for the names of its leaves
    """

    mark: object
    axis: Atom
    states: Sequence[Tensor]
    slices: Sequence[Tensor]
    after: Sequence[Tensor]
    emits: Sequence[Tensor]
    reverse: bool


def scan(
    step: Step, initial: Sequence[Tensor], xs: Sequence[Tensor], reverse: bool = False
) -> tuple[list[Tensor], list[Tensor]]:
    """`step(states, slices) -> (next states, emitted values)` along the first dimension of `xs`.

    Returns the last states, and the emitted values with the scanned dimension first.
    """
    lengths = {x.shape[0] for x in xs}
    if len(lengths) != 1:
        raise ModelError(f"scanned tensors must be equally long, not {sorted(lengths)}")
    axis = Atom(lengths.pop())
    axis.whole = True
    firsts, rows = operands(*initial), operands(*xs)
    scanned = [_along(x, axis) for x in rows]
    mark = object()
    states = [_leaf(mark, f"state{k}", s.dims, s.dtype) for k, s in enumerate(firsts)]
    slices = [_leaf(mark, f"slice{k}", x.dims[1:], x.dtype) for k, x in enumerate(rows)]
    after, emits = step(states, slices)
    after = [_as_state(state, new) for state, new in zip(states, after, strict=True)]
    body = _Body(mark, axis, states, slices, after, operands(*emits), reverse)
    _keep_apart(body)
    for x in rows:
        _use_outside(axis, x.dims[0])
    arguments = [*firsts, *scanned, *states, *slices, *after, *body.emits]
    dims = [*(s.dims for s in states), *(((axis,), *e.dims) for e in body.emits)]
    kinds = [tensor.dtype for tensor in (*states, *body.emits)]
    results = [
        made(arguments, dim, kind, _builder(body, output))
        for output, (dim, kind) in enumerate(zip(dims, kinds, strict=True))
    ]
    return results[: len(states)], results[len(states) :]


def _along(x: Tensor, axis: Atom) -> Tensor:
    new: Dim = (axis,) if axis.size != 1 else ()
    return moved(x, ((axis,), *x.dims[1:]), [(x.dims[0], Flat(((new, 1),)))])


def _leaf(mark: object, name: str, dims: Sequence[Dim], dtype: str) -> Tensor:
    """A state or a slice inside the body."""

    def build(names: Names, _: Sequence[Node]) -> Node:
        axes = names(atom for dim in dims for atom in dim)
        return Input(f"scan{names.number(mark)}.{name}", axes, dtype)

    return made((), dims, dtype, build)


def _as_state(state: Tensor, new: Tensor) -> Tensor:
    """A next state over the axes of the state."""
    if state.shape != new.shape:
        raise ModelError(f"a state of shape {state.shape} must keep it, not become {new.shape}")
    labels = range(state.rank)
    return meet([state, new], [labels, labels])[0][1]


def _keep_apart(body: _Body) -> None:
    """The scanned axis is none of the axes inside."""
    seen: set[Tensor] = set()
    rest = [*body.states, *body.slices, *body.after, *body.emits]
    while rest:
        tensor = rest.pop()
        if tensor in seen:
            continue
        seen.add(tensor)
        rest.extend(tensor.arguments)
        for atom in leaves(atom for dim in tensor.dims for atom in dim):
            if atom.carriers.isdisjoint(body.axis.carriers):
                carry((atom, body.axis))


def _use_outside(axis: Atom, dim: Dim) -> None:
    """Use the scanned axis outside too, if that is possible."""
    atoms = leaves(dim)
    if len(atoms) == 1:
        unify(atoms[0], leaves((axis,))[0])


def _builder(body: _Body, output: int) -> Build:
    parts = (body.states, body.slices, body.states, body.slices, body.after, body.emits)

    def build(names: Names, nodes: Sequence[Node]) -> Node:
        rest = iter(nodes)
        first, xs, states, slices, after, emits = (list(islice(rest, len(p))) for p in parts)
        (axis,) = names((body.axis,))
        xs = [spread(x, (axis, *leaf.axes)) for x, leaf in zip(xs, slices, strict=True)]
        outside = _from_outside((*after, *emits), {*states, *slices, language.Position(axis)})
        mark = names.number(body.mark)
        kept = {
            node: Input(f"scan{mark}.kept{k}", node.axes, node.dtype)
            for k, node in enumerate(outside)
        }
        results = language.substitute((*after, *emits), kept)
        recurrence = Recurrence(
            axis,
            _inputs((*states, *kept.values())),
            _inputs(slices),
            (*results[: len(after)], *kept.values()),
            results[len(after) :],
            body.reverse,
        )
        number = output if output < len(states) else output + len(kept)
        return language.Scan(recurrence, (*first, *kept), tuple(xs), number)

    return build


def _inputs(nodes: Iterable[Node]) -> tuple[Input, ...]:
    return tuple(node for node in nodes if isinstance(node, Input))


def _from_outside(roots: Sequence[Node], own: set[Node]) -> list[Node]:
    """What a body uses that no step changes and that is more than a tensor: it becomes a state."""
    inside: set[Node] = set()
    fed: set[Node] = set()  # depends on a tensor at all
    for node in language.walk(roots):
        if node in own or any(child in inside for child in node.children):
            inside.add(node)
        if isinstance(node, Input) or any(child in fed for child in node.children):
            fed.add(node)
    users = [child for node in inside for child in node.children]
    found = {*users, *roots} - inside
    order = [node for node in language.walk(roots) if node in found and node in fed]
    return [node for node in order if not isinstance(node, Input)]
