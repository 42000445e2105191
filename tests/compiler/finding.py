"""What the finder finds in a graph that a test writes down, and whether it is true."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infinisa.compiler.equality.canonical import canonical
from infinisa.compiler.equality.surroundings import Surroundings
from infinisa.compiler.selection.match import Match, Meaning
from infinisa.isa.dtypes import DTYPES, is_float
from infinisa.isa.evaluate import Range, align, evaluate
from infinisa.isa.instruction import Instruction
from infinisa.isa.language import Axis, Constant, Node, inputs, substitute
from infinisa.isa.program import Count, Extent
from infinisa.plugins.families import attention, elementwise, linear, normalization, recurrent

FAMILIES = (attention, elementwise, linear, normalization, recurrent)
LIBRARY: dict[str, Instruction] = {
    made.name: made for family in FAMILIES for made in family.infinisa_instructions()
}
SIZES: dict[Axis, int] = {
    "m": 4, "n": 6, "k": 5, "s": 7, "t": 7, "d": 6, "e": 6, "h": 2, "g": 2, "r": 3, "p": 2,
    "i": 3, "v": 9, "c": 16,
}  # fmt: skip


def meaning(
    *roots: Node, library: Iterable[Instruction] = LIBRARY.values(), extents: Iterable[Extent] = ()
) -> tuple[Meaning, tuple[Node, ...]]:
    """A finder for a graph, and the roots of the graph as it knows them. Axes are as long as
    `SIZES` says, those of `extents` as these say."""
    given = {axis: Extent(axis, Count(size), size) for axis, size in SIZES.items()}
    given.update((extent.axis, extent) for extent in extents)
    fixed = {e.axis: e.length.constant for e in given.values() if not e.length.terms}
    form = canonical(roots, fixed)
    return Meaning(library, Surroundings.of(form.roots, given.values())), form.roots


def found(*roots: Node, names: str = "", extents: Iterable[Extent] = ()) -> list[Match]:
    """The matches at the first of some roots of a graph: of these instructions, or of any."""
    library = [LIBRARY[name] for name in names.split()] if names else LIBRARY.values()
    finder, (root, *_) = meaning(*roots, library=library, extents=extents)
    return [match for match in finder(root) if match.stable]


def of(instruction: Instruction, *roots: Node, extents: Iterable[Extent] = ()) -> list[Match]:
    """The matches of one instruction at the first of some roots."""
    finder, (root, *_) = meaning(*roots, library=[instruction], extents=extents)
    return [match for match in finder(root) if match.stable]


def leaves(match: Match) -> list[str]:
    return [str(leaf) for leaf in match.leaves]


def holds(match: Match, sizes: Mapping[Axis, int] = SIZES) -> bool:
    """Whether a match yields the values of its roots, as the evaluator has them in f32."""
    known: dict[Node, Node] = dict(zip(match.meaning.operands, match.leaves, strict=True))
    known |= {i: Constant(i.default) for i in match.meaning.immediates}
    results = substitute(match.meaning.outputs, known)
    pairs = [(a, b) for a, b in zip(match.roots, results, strict=True) if a is not None]
    random = np.random.default_rng(5)
    arrays: dict[str, NDArray[Any]] = {}
    for leaf in inputs([node for pair in pairs for node in pair]):
        shape, kind = [sizes[axis] for axis in leaf.axes], DTYPES[leaf.dtype].numpy
        normal = random.normal(size=shape)
        arrays[leaf.name] = (normal if is_float(leaf.dtype) else 4 + 2 * normal).astype(kind)
    ranges = {axis: Range(0, size) for axis, size in sizes.items()}
    for root, result in pairs:
        wanted, got = evaluate([root, result], arrays, ranges=ranges)
        got = align(got, result.axes, root.axes)
        if not np.allclose(got.astype(float), wanted.astype(float), rtol=1e-3, atol=1e-4):
            return False
    return True
