"""What becomes of the sums of a contraction, number by number: each tile does it behind its sums.

They are in the first cache then, so a bias, a residual or a function costs no pass over the result.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from infinisa.isa.language import Axis, Dot, Input, Node, show, substitute

from ..code.ir import Module, Number
from ..code.processor import Target
from ..expressions.expression import Frame, Place, rooted
from ..expressions.rows import Rows, Work
from .microkernels import kernel

ROW, COLUMN = "row", "column"
"""The axes of a tile."""


@dataclass(frozen=True)
class Finish:
    """A function of a sum and of operands, at each position of a tile.

    root     of `total` and `operands`, which are over ROW and COLUMN, or one of them
    width    the most columns of a tile; `columns`: how many it has, if that is known
    """

    root: Node
    total: Input
    operands: tuple[Input, ...]
    width: int
    columns: int | None

    @property
    def name(self) -> str:
        text = " ".join(map(show, (self.root, *self.operands)))
        digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
        return f"finish_{digest}_{self.width}_{self.columns}"

    @property
    def signature(self) -> list[tuple[str, str]]:
        """The sums and the elements from row to row; rows, columns; the same of operands."""
        found = [("c", "ptr noalias"), ("cm", "i64"), ("rows", "i64"), ("columns", "i64")]
        for i, _ in enumerate(self.operands):
            found += [(f"o{i}", "ptr noalias"), (f"om{i}", "i64")]
        return found

    def kernel(self, module: Module, target: Target) -> str:
        """The function."""
        f = kernel(module, self.name, self.signature)
        if f is None:
            return self.name
        p = f.parameters
        frame = Frame(bounds={ROW: target.registers, COLUMN: self.width})
        frame.lengths = {ROW: p["rows"], COLUMN: self.columns or p["columns"]}
        rows, soon = Rows(f, target, frame), []
        result = Place(p["c"], self.total.dtype, {ROW: p["cm"], COLUMN: 1})
        rows.places[self.total] = result
        for i, leaf in enumerate(self.operands):
            strides: dict[Axis, Number] = {ROW: p[f"om{i}"], COLUMN: 1}
            place = Place(p[f"o{i}"], leaf.dtype, {axis: strides[axis] for axis in leaf.axes})
            rows.places[leaf] = place
            if len(leaf.axes) == 2:  # of the tile of the next rows
                soon.append(rooted(place, f, f.multiply(p["rows"], p[f"om{i}"])))
        vector = COLUMN if target.lanes > 1 else None
        rows.sweep([Work(self.root, result)], [ROW, COLUMN], vector, {}, soon)
        f.done()
        return self.name


@dataclass(frozen=True, eq=False)
class Following:
    """The same for a whole contraction: `root`, of it and of nodes in memory."""

    root: Node
    dot: Dot
    places: Mapping[Node, Place]

    def finish(self, row: Axis | None, vector: Axis, width: int, columns: Number) -> Finish:
        """Of tiles along these axes."""
        total = Input("total", (ROW, COLUMN), self.dot.dtype)
        known: dict[Node, Node] = {self.dot: total}
        operands = []
        for i, (node, place) in enumerate(self.places.items()):
            axes = [ROW] if row in place.strides else []
            axes += [COLUMN] if vector in place.strides else []
            operands.append(Input(f"operand {i}", tuple(axes), place.dtype))
            known[node] = operands[-1]
        (root,) = substitute([self.root], known)
        known_columns = columns if isinstance(columns, int) else None
        return Finish(root, total, tuple(operands), width, known_columns)
