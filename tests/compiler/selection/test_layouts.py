"""The order of axes in memory."""

from __future__ import annotations

import pytest

from infinisa.compiler.selection.layouts import layout, layouts
from infinisa.isa import language as L
from infinisa.isa.language import Node, walk

SIZES = {"m": 20, "k": 30, "n": 40, "o": 4, "i": 20}
X, W = L.Input("x", ("m", "k"), "f32"), L.Input("w", ("k", "n"), "f32")
BIAS, COLUMN = L.Input("b", ("n",), "f32"), L.Input("c", ("m",), "f32")
FEW = L.Input("f", ("k", "o"), "f32")
GROUPS, SOME = L.Input("g", ("m", "n", "k"), "f32"), L.Input("h", ("n", "o", "k"), "f32")
PRODUCT = L.dot(X, W, "k")


@pytest.mark.parametrize(
    ("node", "order"),
    [
        (PRODUCT, "m n"),
        (BIAS + PRODUCT, "m n"),
        (L.maximum(BIAS * L.exp(BIAS + PRODUCT), 0.0), "m n"),
        (L.where(BIAS > 0.0, PRODUCT, COLUMN), "m n"),
        (L.view(BIAS + PRODUCT, {"m": "i"}), "i n"),
        (L.view(BIAS + PRODUCT, {"m": "i + o"}), "i o n"),
        (L.cast(BIAS + PRODUCT, "f16"), "m n"),
        (L.sum(BIAS + PRODUCT, "n"), "m"),
        (BIAS + COLUMN, "n m"),
        (L.dot(X, FEW, "k"), "o m"),
        (L.dot(X, X * 2.0, "k"), "m"),
        (L.dot(GROUPS, SOME, "k"), "m n o"),
    ],
)
def test_axes_lie_as_in_the_largest_operand(node: Node, order: str) -> None:
    """But a product's few columns lie outside of its rows."""
    assert layouts(walk([node]), SIZES)[node] == tuple(order.split())


def test_a_sum_that_is_grouped_anew_lies_as_its_terms() -> None:
    known = layouts(walk([BIAS + PRODUCT]), SIZES)

    assert layout(COLUMN + (BIAS * 2.0 + PRODUCT), known, SIZES) == ("m", "n")
